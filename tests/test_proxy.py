"""The embedded proxy in this process: what it tells its watcher, and what it leaves behind."""

import asyncio
import gc
import logging
import socket
import sys
from pathlib import Path

import msgpack
import pytest
import zstandard

from tbench.capture.errors import InputError
from tbench.capture.intake import Recording, Selection
from tbench.capture.proxy import Setup, check_port, parse_upstream, run
from tbench.capture.status import Listening, Status, notices


class Notes:
    """A watcher that writes down what it hears."""

    def __init__(self) -> None:
        self.places: list[Listening] = []
        self.bundles: list[str] = []
        self.modes: list[int] = []
        self.ticks: list[Status] = []
        self.warnings: list[str] = []

    def listening(self, place: Listening) -> None:
        self.places.append(place)
        self.bundles.append(place.ca_bundle.read_text())
        self.modes.append(place.ca_bundle.parent.stat().st_mode & 0o777)

    def tick(self, status: Status) -> None:
        self.ticks.append(status)

    def warn(self, line: str) -> None:
        self.warnings.append(line)


def capture(path: Path) -> tuple[Notes, Status]:
    recording = Recording(output=path, selection=Selection(), upstream="http://127.0.0.1:9")
    notes = Notes()
    status = run(Setup(recording=recording, port=0, duration_s=0.5), notes)
    return notes, status


def test_the_watcher_hears_where_and_how_it_goes(tmp_path: Path) -> None:
    """One address, a state at once that stays as it was, no warnings."""
    notes, status = capture(tmp_path / "t.msgpack")

    assert len(notes.places) == 1
    assert notes.places[0].address.startswith("http://127.0.0.1:")
    assert notes.ticks[0].in_flight == 0
    assert notes.ticks[0].counts.outcomes is not status.counts.outcomes
    assert notes.warnings == []
    assert status.draining


def test_the_throw_away_ca_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    """Its folder is for its owner only; the bundle holds the public roots as well."""
    notes, _ = capture(tmp_path / "t.msgpack")

    assert notes.modes == [0o700]
    assert notes.bundles[0].count("BEGIN CERTIFICATE") > 50
    assert "PRIVATE KEY" not in notes.bundles[0]
    assert not notes.places[0].ca_bundle.parent.exists()


def test_the_trace_knows_how_late_the_loop_was(tmp_path: Path) -> None:
    """A clock record with both clocks and the lag, at the latest at the end."""
    path = tmp_path / "t.msgpack"
    capture(path)

    unpacker = msgpack.Unpacker()
    unpacker.feed(path.read_bytes())
    blocks = [frame.data[20:] for frame in unpacker if frame.code == 2]
    records = msgpack.Unpacker()
    for block in blocks:
        records.feed(zstandard.ZstdDecompressor().decompressobj().decompress(block))
    clocks = [record for record in records if record["type"] == "clock"]
    assert clocks
    assert clocks[-1]["loop_lag_samples"] > 0
    assert clocks[-1]["loop_lag_p99_ns"] >= clocks[-1]["loop_lag_p50_ns"]


def test_the_interpreter_is_left_as_it_was(tmp_path: Path) -> None:
    """Switch interval and garbage collector are set for the capture only."""
    before = sys.getswitchinterval()
    capture(tmp_path / "t.msgpack")

    assert sys.getswitchinterval() == before
    assert gc.get_freeze_count() == 0


log = logging.getLogger("mitmproxy.test")


def heard(*records: tuple[int, str, BaseException | None]) -> list[str]:
    said: list[str] = []
    with notices(said.append):
        for level, text, error in records:
            log.log(level, text, exc_info=error)
    return said


def test_warnings_become_one_line_without_traceback() -> None:
    """A crash names its kind; the details are for --debug of mitmproxy itself."""
    assert heard((logging.ERROR, "mitmproxy has\n crashed!", NotImplementedError("x"))) == [
        "mitmproxy has crashed! (NotImplementedError)"
    ]


def test_keys_in_urls_are_masked() -> None:
    """A warning may quote a request."""
    (line,) = heard((logging.WARNING, "cannot GET http://x/v1?api_key=sk-abcdefghijklm", None))

    assert "sk-abc" not in line


def test_a_warning_that_repeats_is_said_once() -> None:
    """A hundred failing handshakes must not scroll everything else away."""
    assert heard(*[(logging.WARNING, "handshake failed", None)] * 5) == ["handshake failed"]


def test_cancelled_tasks_and_mere_information_are_not_news() -> None:
    """They are how connections end."""
    assert (
        heard((logging.ERROR, "task", asyncio.CancelledError()), (logging.INFO, "hello", None))
        == []
    )


def test_the_root_logger_is_as_before_afterwards() -> None:
    """A test or a program that embeds the capture keeps its logging."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    heard()

    assert (root.level, root.handlers) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.together.xyz", "https://api.together.xyz"),
        ("https://api.together.xyz/", "https://api.together.xyz"),
        ("https://api.together.xyz/v1", "https://api.together.xyz"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_upstream_is_scheme_host_and_port(text: str, expected: str) -> None:
    """The /v1 that people paste belongs to the application."""
    assert parse_upstream(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "api.together.xyz",
        "ftp://x",
        "https://",
        "https://x/other/path",
        "http://x:notaport",
        "http://x:99999",
        "https://x?key=sk-abcdefghijkl",
        "https://joe:hunter2hunter2@x",
    ],
)
def test_anything_else_is_refused_without_quoting_a_credential(text: str) -> None:
    """One line, and no secret in it."""
    with pytest.raises(InputError) as caught:
        parse_upstream(text)

    assert "--upstream" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "sk-abc" not in str(caught.value)


def test_a_port_in_use_is_refused() -> None:
    """The line says which and what to do."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}.*choose another --port"):
            check_port("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_refused() -> None:
    """192.0.2.0/24 is for documentation and on no machine."""
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1:0"):
        check_port("192.0.2.1", 0)
