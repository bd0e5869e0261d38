"""What a capture shows: the lines to paste, the live line, the summary."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from tbench.capture.health import monitored
from tbench.capture.histogram import Histogram
from tbench.capture.intake import Recording, Selection
from tbench.capture.recorder import Counts
from tbench.capture.status import Listening, Status
from tbench.capture_view import View, base_url_lines, files_of, live_line, proxy_lines, summary
from tests.conftest import PATIENCE_S


def status(
    lag_ns: int = 0,
    failure: str | None = None,
    *,
    draining: bool = False,
    left_out: dict[str, int] | None = None,
    redirected: dict[str, int] | None = None,
    **counts: Any,
) -> Status:
    lag = Histogram()
    for _ in range(200 if lag_ns else 0):
        lag.add(lag_ns / 1e9)
    return Status(
        counts=Counts(**counts, outcomes=Counter({"ok": 3, "cut": 1})),
        left_out=left_out or {},
        redirected=redirected or {},
        in_flight=2,
        queue_bytes=0,
        elapsed_s=2.0,
        draining=draining,
        failure=failure,
        lag=lag,
    )


def test_the_v1_is_where_each_sdk_wants_it() -> None:
    """Together's SDK appends it from version 3 on, Anthropic's always, the others do not."""
    openai, together3, together1, anthropic, node, *_ = base_url_lines("http://h:1", Path("/b"))

    assert "http://h:1/v1" in openai
    assert "/v1" not in together3
    assert "http://h:1/v1" in together1
    assert "/v1" not in anthropic
    assert "baseURL: 'http://h:1/v1'" in node


def test_proxy_mode_prints_every_export() -> None:
    """OpenSSL, requests and Node each have their own."""
    text = "\n".join(proxy_lines("http://h:1", Path("/b.pem")))

    for export in (
        "HTTPS_PROXY=http://h:1",
        "HTTP_PROXY=http://h:1",
        "SSL_CERT_FILE=/b.pem",
        "REQUESTS_CA_BUNDLE=/b.pem",
        "NODE_EXTRA_CA_CERTS=/b.pem",
    ):
        assert export in text


def test_the_live_line_has_rate_flight_size_and_drops() -> None:
    """All that an operator watches."""
    line = live_line(status(requests=4, bytes=2_500_000, lost_requests=1))

    assert line == "4 requests · 2.0/s · 2 in flight · 2.5 MB of bodies · 1 dropped"
    assert "draining" in live_line(status(draining=True))
    assert "NOT RECORDING" in live_line(status(failure="full"))


def test_the_summary_counts_outcomes_and_files(tmp_path: Path) -> None:
    """Responses by outcome, the trace's name and size."""
    path = tmp_path / "t.msgpack"
    path.write_bytes(b"x" * 20_000)

    recording = Recording(output=path, selection=Selection())
    lines = list(summary(status(requests=4, responses=4), files_of(recording, stuck=False)))

    assert lines[0] == "4 requests, 4 responses (ok 3, cut 1)"
    assert lines[1] == "dropped: nothing"
    assert lines[2] == f"{path}: 0.02 MB, 2.0 s"


def test_the_summary_is_loud_about_losses_and_lateness(tmp_path: Path) -> None:
    """A lossy or late trace must not look like a good one."""
    text = "\n".join(summary(status(lag_ns=30_000_000, lost_requests=2, lost_responses=2), []))

    assert "DROPPED: 2 requests, 2 responses" in text
    assert "WARNING: the capture ran late" in text


def test_segments_are_found_in_order(tmp_path: Path) -> None:
    """A last one that could not be closed keeps its .part."""
    for name in ("t.msgpack", "t.0001.msgpack", "t.0002.msgpack.part"):
        (tmp_path / name).touch()
    recording = Recording(output=tmp_path / "t.msgpack", selection=Selection())

    assert [file.name for file in files_of(recording, stuck=False)] == [
        "t.msgpack",
        "t.0001.msgpack",
        "t.0002.msgpack.part",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_a_live_line_and_a_log_does_not(terminal: bool) -> None:
    """Ten seconds pass between plain lines."""
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=100, highlight=False)
    recording = Recording(output=Path("t.msgpack"), selection=Selection(), upstream="http://u")
    with View(recording, console) as view:
        view.listening(Listening(address="http://h:1", ca_bundle=Path("/b")))
        view.tick(status(requests=7))
        view.warn("something")

    assert "listening on http://h:1, forwarding to http://u" in said.getvalue()
    assert "something" in said.getvalue()
    assert ("7 requests" in said.getvalue()) is terminal


@pytest.mark.parametrize(
    ("reason", "words"), [("memory", "--max-pending"), ("defect", "a defect of tbench")]
)
def test_the_first_loss_is_said_at_once(reason: str, words: str) -> None:
    """By its reason, once; the disk is not blamed for another's."""
    said = io.StringIO()
    recording = Recording(output=Path("t.msgpack"), selection=Selection(), upstream="http://u")
    with View(recording, Console(file=said, width=200)) as view:
        for _ in range(3):
            view.tick(status(lost_requests=1, lost_by=Counter({reason: 1})))

    assert said.getvalue().count(words) == 1
    assert "disk" not in said.getvalue()


@pytest.mark.parametrize(
    ("failure", "words"), [(None, "noted as gaps"), ("No space left", "could not note them")]
)
def test_a_trace_that_could_not_be_written_notes_nothing(failure: str | None, words: str) -> None:
    """The summary must not promise gap records that a full disk refused."""
    assert words in "\n".join(summary(status(failure=failure, lost_requests=2), []))


def test_the_summary_warns_of_redirects_past_the_capture() -> None:
    """Otherwise a trace of redirects only looks like a server that fails."""
    text = "\n".join(summary(status(redirected={"h:8443": 7}), []))

    assert (
        "WARNING: 7 answers redirected clients to h:8443: what they send there is not recorded"
        in text
    )


def test_the_summary_says_how_many_credentials_were_masked() -> None:
    """So that nobody wonders where an MCP server's token went."""
    assert "masked: 3 credentials" in "\n".join(summary(status(masked=3), []))


def test_the_summary_says_what_the_filters_kept_out() -> None:
    """A capture of nothing must tell a wrong --host from an application that was silent."""
    text = "\n".join(summary(status(left_out={"host": 7, "path": 2}), []))

    assert "unrecorded, as asked: 7 by --host" in text
    assert "2 by --path" in text
    assert "as asked" not in "\n".join(summary(status(), []))


FAILED = "No space left on device"


def test_a_monitor_is_told_the_last_state(tmp_path: Path, free_port: int) -> None:
    """503 before the first and once the disk has failed; each figure is the one of its name."""
    watch: Any = SimpleNamespace(tick=lambda _: None)
    states: list[tuple[Status | None, int, str]] = [
        (None, 503, "starting"),
        (status(requests=4, responses=3, bytes=2_500_000), 200, "recording"),
        (status(draining=True), 200, "draining"),
        (
            status(failure=FAILED, lost_requests=5, lost_responses=6, lost_bytes=7),
            503,
            f"not recording: {FAILED}",
        ),
    ]
    with (
        monitored(watch, tmp_path, "127.0.0.1", free_port) as monitor,
        httpx.Client(base_url=f"http://127.0.0.1:{free_port}", timeout=PATIENCE_S) as client,
    ):
        figures = []
        for state, code, text in states:
            if state:
                monitor.tick(state)
            answer = client.get("/healthz")
            assert (answer.status_code, answer.text) == (code, f"{text}\n")
            figures.append(
                {
                    "".join((sample.name, *sample.labels.values())): sample.value
                    for family in text_string_to_metric_families(client.get("/metrics").text)
                    for sample in family.samples
                }
            )

    first, recording, draining, failed = (
        {name.removeprefix("tbench_capture_"): value for name, value in each.items()}
        for each in figures
    )
    assert not first
    assert [recording[f"{name}_total"] for name in ("requests", "responses", "body_bytes")] == [
        *(4, 3, 2_500_000)
    ]
    assert (recording["outcomes_totalok"], recording["outcomes_totalcut"]) == (3, 1)
    assert recording["in_flight"] == 2
    lost = ("dropped_requests_total", "dropped_responses_total", "dropped_bytes_total")
    assert [failed[name] for name in lost] == [5, 6, 7]
    assert [each["recording"] for each in (recording, draining, failed)] == [1, 1, 0]
    assert [each["draining"] for each in (recording, draining, failed)] == [0, 1, 0]
    assert [each["disk_free_bytes"] > 0 for each in (recording, draining, failed)] == [1, 1, 1]


@pytest.mark.parametrize("stuck", [False, True])
def test_a_monitor_is_told_all_else_where_the_disk_says_nothing(
    tmp_path: Path, free_port: int, stuck: bool
) -> None:
    """A folder that has gone; a disk that does not answer, which nobody asks."""
    watch: Any = SimpleNamespace(tick=lambda _: None)
    folder = tmp_path if stuck else tmp_path / "gone"
    with monitored(watch, folder, "127.0.0.1", free_port) as monitor:
        monitor.tick(replace(status(requests=4), stuck=stuck))
        told = httpx.get(f"http://127.0.0.1:{free_port}/metrics", timeout=PATIENCE_S)

    assert told.status_code == 200
    assert "tbench_capture_requests_total 4.0" in told.text
    assert "disk_free" not in told.text
