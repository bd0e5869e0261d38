"""A stream that something buffers has no time between tokens: it is refused and said, never 0."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.exchange import Exchange
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.metrics import buffered
from tbench.replay.runfile import read_run
from tests.answering import EVENTS, Answering, Given, Received, answering, stream
from tests.conftest import Done
from tests.recorded import chat_request

TOKENS = 12


def answer(received: Received) -> Given:
    """All events in one write below /buffered, one every 10 ms elsewhere."""
    events = stream(tokens=TOKENS)
    if received.path.startswith("/buffered"):
        return Given([b"".join(events)], headers=EVENTS)
    return Given(events, headers=EVENTS, pause=0.01)


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering(answer) as server:
        yield server


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Sixteen streams."""
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
    path = tmp_path / "t.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(16):
            request = chat_request(seq, seq, body)
            writer.exchange(Exchange(request=request, response=None))
    return path


@pytest.fixture
def replay(tbench: Callable[..., Done], trace: Path) -> Callable[..., dict[str, Any]]:
    def replay(url: str, out: str, sender: str = "auto") -> dict[str, Any]:
        done = tbench(
            *("replay", trace, "--base-url", url, "--concurrency", 1, "--sender", sender),
            *("-o", out, "--warmup", "none", "--json"),
        )
        found: dict[str, Any] = json.loads(done.out)
        return found

    return replay


@pytest.mark.parametrize("sender", ["engine", "httpx"])
def test_both_senders_see_that_tokens_came_together(
    replay: Callable[..., dict[str, Any]], server: Answering, tmp_path: Path, sender: str
) -> None:
    """Every token but one of each stream shares the stamp of another; none of a stream that flows does."""
    together = replay(f"{server.url}/buffered/v1", "b.run", sender)
    apart = replay(f"{server.url}/v1", "a.run", sender)
    share = read_run(tmp_path / "b.run").totals["coalesced_share"]

    assert together["completed"] == apart["completed"] == 16
    assert share == pytest.approx((TOKENS - 1) / TOKENS, abs=0.05)
    assert together["tpot_s"]["p50"] is together["itl_s"]["mean"] is None
    assert together["ttft_s"]["p50"] is not None
    assert apart["tpot_s"]["p50"] is not None


def test_report_and_comparison_refuse_and_say_why(
    replay: Callable[..., dict[str, Any]], tbench: Callable[..., Done], server: Answering
) -> None:
    """A ratio of 0.000 would read as infinitely fast tokens."""
    replay(f"{server.url}/v1", "a.run")
    replay(f"{server.url}/buffered/v1", "b.run")
    report = tbench("report", "b.run", "--html", "b.html", "--xlsx", "b.xlsx")
    text = tbench("compare", "a.run", "b.run")
    comparison = json.loads(tbench("compare", "a.run", "b.run", "--json").out)

    assert {row["metric"] for row in comparison["comparisons"]} == {"ttft", "e2e"}
    (warning,) = (text for text in comparison["warnings"] if text.startswith("BUFFERED_STREAM"))
    assert "b: 100% of tokens came together with an earlier one" in warning

    assert "tokens came together" in report.out
    assert "tpot" not in report.out
    assert "0.000" not in text.out.split()
    assert "tpot" not in text.out


def test_a_gate_on_what_is_refused_decides_nothing(
    tbench: Callable[..., Done], trace: Path, server: Answering
) -> None:
    """Not even for the arm that looks faster."""
    done = tbench(
        *("ab", trace, "--arm", f"name=a,base_url={server.url}/v1"),
        *("--arm", f"name=b,base_url={server.url}/buffered/v1", "--concurrency", 1, "--repeats", 3),
        *("--gate", "tpot:p50:5%", "--redo-invalid", 9, "-o", "ab"),
    )

    assert done.code == 3, done.out + done.err
    assert "\n! b: " in done.out
    assert "BUFFERED_STREAM: b: " in (trace.parent / "ab" / "junit.xml").read_text()


@pytest.mark.parametrize(
    ("gaps", "none", "refused"),
    [(0, 0, False), (100, 0, False), (99, 75, False), (100, 90, False), (100, 91, True), (11, 11, True)],
)  # fmt: skip
def test_nine_gaps_in_ten(gaps: int, none: int, refused: bool) -> None:
    """Servers that write four tokens at once are no buffers: their mean gap is right."""
    assert (buffered(gaps, none) is not None) == refused


def test_tokens_that_came_at_once_have_no_pace(
    tbench: Callable[..., Done], trace: Path, tmp_path: Path
) -> None:
    """One event with the whole answer, as a server's cache gives it, is no token every 0 s."""
    (event, *_, usage, end) = stream(tokens=TOKENS)
    with answering(lambda _: Given([event, usage, end], headers=EVENTS, pause=0.01)) as server:
        done = tbench(
            *("replay", trace, "--base-url", server.url, "--concurrency", 1, "--warmup", "none"),
            *("-o", "a.run", "--json"),
        )
    run = read_run(tmp_path / "a.run")

    assert run.columns["output_tokens"].tolist() == [TOKENS] * 16
    assert json.loads(done.out)["tpot_s"]["p50"] is None
    assert json.loads(done.out)["ttft_s"]["p50"] is not None
