"""Check finds what is wrong with a trace; repair saves what is left and says what is not."""

from pathlib import Path

import pytest

from tbench.capture import (
    Clock,
    Exchange,
    Gap,
    Response,
    TraceHeader,
    TraceWriter,
    read_trace,
)
from tbench.capture import frames as wire
from tbench.capture.container_reader import open_container
from tbench.capture.container_writer import ContainerWriter, Place
from tbench.capture.errors import InputError
from tbench.capture.repair import check, repair
from tests.recorded import chat_request

HEADER = TraceHeader(capture_id="c", wall_ns=10**18, mono_ns=0, extra={"newer": [1]})


class Time:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def exchange(number: int) -> Exchange:
    request = chat_request(
        number,
        number * 1000,
        id=f"r{number}",
        end_ns=number * 1000 + 10,
        path="/",
        extra={"mood": number},
    )
    return Exchange(
        request=request, response=Response(head_ns=None, end_ns=number * 1000 + 99, status=200)
    )


EXCHANGES = [exchange(number) for number in range(4)]


def write(path: Path, *, gap: bool = False, **how: float) -> Path:
    """Four exchanges in a block each, after a clock record."""
    clock = Time()
    with TraceWriter(path, HEADER, clock=clock, **how) as writer:
        writer.clock(Clock(mono_ns=0, wall_ns=10**18))
        if gap:
            writer.gap(Gap(from_ns=0, to_ns=1, requests=1, responses=0, bytes=5, reason="disk"))
        for one in EXCHANGES:
            clock.now += 1
            writer.pump()
            writer.exchange(one)
    return path


def damage(path: Path, at: int, count: int = 1) -> None:
    data = bytearray(path.read_bytes())
    for place in range(at, at + count):
        data[place] ^= 0xFF
    path.write_bytes(data)


def test_a_sound_trace_has_no_problems(tmp_path: Path) -> None:
    """Nor has one whose last request got no response: that is traffic, not damage."""
    assert check(write(tmp_path / "t.msgpack")).problems == []
    with TraceWriter(tmp_path / "u.msgpack", HEADER) as writer:
        writer.request(EXCHANGES[0].request)

    found = check(tmp_path / "u.msgpack")
    assert found.problems == []
    assert found.notes == ["1 request has no response in its file"]


def test_repair_of_a_sound_trace_loses_nothing(tmp_path: Path) -> None:
    """Header, exchanges and totals are the same."""
    path = write(tmp_path / "t.msgpack")
    assert not repair(path, tmp_path / "r.msgpack")
    old, new = read_trace(path), read_trace(tmp_path / "r.msgpack")

    assert list(new) == list(old) == EXCHANGES
    assert (new.header, new.totals) == (old.header, old.totals)
    assert check(tmp_path / "r.msgpack").problems == []


def test_a_killed_captures_part_becomes_a_sound_trace(tmp_path: Path) -> None:
    """Cut anywhere behind the second exchange: both are there and check is content."""
    path = write(tmp_path / "t.msgpack")
    rows = read_trace(path).segments[0].rows
    part = tmp_path / "k.msgpack.part"
    part.write_bytes(path.read_bytes()[: rows[2].offset + rows[2].length + 9])
    assert any("not closed" in line for line in check(part).problems)
    lost = repair(part, tmp_path / "r.msgpack")

    assert (lost.truncated_tail, lost.skipped_bytes) == (True, 9)
    assert list(read_trace(tmp_path / "r.msgpack")) == EXCHANGES[:2]
    assert check(tmp_path / "r.msgpack").problems == []


def test_a_damaged_block_is_left_out_and_counted(tmp_path: Path) -> None:
    """The copy is sound; the index remembers what was lost."""
    path = write(tmp_path / "t.msgpack")
    damage(path, read_trace(path).segments[0].rows[2].offset + 50)
    assert any("1 damaged block," in line for line in check(path).problems)
    lost = repair(path, tmp_path / "r.msgpack")

    assert lost.damaged_blocks == 1
    assert list(read_trace(tmp_path / "r.msgpack")) == [EXCHANGES[0], *EXCHANGES[2:]]
    assert check(tmp_path / "r.msgpack").problems == []
    index = open_container(tmp_path / "r.msgpack").index
    assert index is not None
    assert index["repaired"]["damaged_blocks"] == 1


def test_a_lost_request_leaves_a_note_after_repair(tmp_path: Path) -> None:
    """Its response is kept: it was said; that it is an orphan is no fault of the new file."""
    clock = Time()
    path = tmp_path / "t.msgpack"
    with TraceWriter(path, HEADER, clock=clock) as writer:
        writer.request(EXCHANGES[0].request)
        clock.now += 1
        writer.pump()
        assert EXCHANGES[0].response
        writer.response("r0", EXCHANGES[0].response)
    damage(path, read_trace(path).segments[0].rows[0].offset + 50)
    assert "1 response has lost its request" in check(path).problems
    repair(path, tmp_path / "r.msgpack")
    found = check(tmp_path / "r.msgpack")

    assert (found.problems, found.notes) == ([], ["1 response has lost its request"])


@pytest.mark.parametrize("close", [True, False])
def test_a_lost_header_is_restored_as_far_as_possible(tmp_path: Path, close: bool) -> None:
    """From the index where there is one; else the times come from the first clock record."""
    path = write(tmp_path / "t.msgpack")
    if not close:
        path.write_bytes(path.read_bytes()[:-20])
    damage(path, 0, 100)
    assert any("header" in line for line in check(path).problems)
    assert repair(path, tmp_path / "r.msgpack").damaged_header
    trace = read_trace(tmp_path / "r.msgpack")

    assert list(trace) == EXCHANGES
    assert trace.header.wall(5) == 10**18 + 5
    assert (trace.header == HEADER) is close
    assert check(tmp_path / "r.msgpack").problems == []


def test_segments_become_one_file(tmp_path: Path) -> None:
    """All segments of the capture, under one name, with a missing one reported."""
    write(tmp_path / "t.msgpack", rotate_s=1)
    assert len(list(tmp_path.glob("t*.msgpack"))) > 2
    repair(tmp_path / "t.msgpack", tmp_path / "one.msgpack")
    assert list(read_trace(tmp_path / "one.msgpack")) == EXCHANGES
    (tmp_path / "t.0001.msgpack").unlink()

    assert "1 segment is missing" in check(tmp_path / "t.msgpack").problems
    assert repair(tmp_path / "t.msgpack", tmp_path / "two.msgpack").missing_segments == 1


def test_what_this_version_does_not_know_survives(tmp_path: Path) -> None:
    """Header entries, fields, records and frames of a newer writer are copied as they are."""
    path = tmp_path / "t.msgpack"
    marker = bytes(range(16))
    strange = {"type": "weather", "sun": [True, 1.5], 7: None}
    header = {"kind": "trace", "capture_id": "n", "wall_ns": 5, "mono_ns": 0, "version": [1, 7]}
    path.write_bytes(
        wire.header_frame(header | {"later": {"x": 1}}, marker)
        + wire.block_frame(marker, wire.pack(strange))
        + wire.frame(99, b"a frame of tomorrow")
        + wire.block_frame(marker, wire.pack(strange) * 2)
    )
    repair(path, tmp_path / "r.msgpack")
    container = open_container(tmp_path / "r.msgpack")

    assert list(container.records()) == [strange] * 3
    assert [one.raw for one in container.walk() if one.code == 99] == [b"a frame of tomorrow"]
    assert container.header["later"] == {"x": 1}
    assert container.header["version"] == [1, 7]
    assert any("newer format" in line for line in check(tmp_path / "r.msgpack").notes)


def test_what_the_capture_dropped_stays_a_problem(tmp_path: Path) -> None:
    """No repair brings it back."""
    path = write(tmp_path / "t.msgpack", gap=True)
    repair(path, tmp_path / "r.msgpack")

    for file in (path, tmp_path / "r.msgpack"):
        assert check(file).problems == [
            "1 request was dropped by the capture",
            "5 bytes of bodies were dropped by the capture",
        ]


def test_a_lying_index_is_found(tmp_path: Path) -> None:
    """Whole by its checksum, but not about these blocks."""
    writer = ContainerWriter(tmp_path / "t.msgpack", {"kind": "trace", "capture_id": "c"})
    assert writer.append({"type": "request"}) == Place(0, 0)
    detail = {"links": bytes(16), "ends": bytes(8), "strays": []}
    writer.close({"requests": 7, "others": 1}, detail=detail)
    problems = " ".join(check(tmp_path / "t.msgpack").problems)

    assert "links requests and responses wrongly" in problems
    assert "tells wrongly when responses ended" in problems
    assert "miscounts requests" in problems


def test_two_captures_are_not_mixed(tmp_path: Path) -> None:
    """One file cannot hold two origins of time."""
    write(tmp_path / "a.msgpack")
    with TraceWriter(tmp_path / "b.msgpack", TraceHeader(wall_ns=1, mono_ns=0)):
        pass
    with pytest.raises(InputError, match="several captures"):
        repair(tmp_path, tmp_path / "r.msgpack")
    assert not list(tmp_path.glob("r.*"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Least of all the trace itself."""
    path = write(tmp_path / "t.msgpack")
    with pytest.raises(InputError, match="exists already"):
        repair(path, path)
