"""Recording: the trace's header says what was recorded, and how."""

from pathlib import Path

import pytest

from tbench.capture.errors import InputError
from tbench.capture.recorder import Recording, begin
from tbench.capture.selection import Selection
from tbench.capture.tracefile import read_trace


def test_the_header_holds_upstream_filters_and_sampling(tmp_path: Path) -> None:
    """Whoever reads the trace knows what is missing from it."""
    path = tmp_path / "t.msgpack"
    selection = Selection(hosts=("a",), paths=("/v1/*",), sample=0.25)
    recording = Recording(output=path, selection=selection, upstream="https://u", mode="reverse")

    begin(recording, lambda _why: None).recorder.close()

    header = read_trace(path).header
    assert header.upstream == "https://u"
    assert header.filters == {"hosts": ["a"], "paths": ["/v1/*"]}
    assert header.sampling == 0.25
    assert header.extra["mode"] == "reverse"


def test_the_clock_starts_with_the_recording(tmp_path: Path) -> None:
    """Times are nanoseconds since its origin."""
    recording = Recording(output=tmp_path / "t.msgpack", selection=Selection())
    parts = begin(recording, lambda _why: None)
    first, second = parts.now(), parts.now()
    parts.recorder.close()

    assert 0 <= first <= second < 60_000_000_000


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    """Before anything listens."""
    (tmp_path / "file").touch()
    recording = Recording(output=tmp_path / "file" / "t.msgpack", selection=Selection())

    with pytest.raises(InputError, match=r"file.t\.msgpack"):
        begin(recording, lambda _why: None)
