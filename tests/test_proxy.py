"""The embedded proxy in this process: what it tells its watcher, and what it leaves behind."""

import gc
import sys
from pathlib import Path

import msgpack
import zstandard

from tbench.capture.proxy import Listening, Setup, Status, run
from tbench.capture.recorder import Recording
from tbench.capture.selection import Selection


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
    """One address, a state at once, no warnings."""
    notes, status = capture(tmp_path / "t.msgpack")

    assert len(notes.places) == 1
    assert notes.places[0].address.startswith("http://127.0.0.1:")
    assert notes.ticks[0].in_flight == 0
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
