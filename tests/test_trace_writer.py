"""Traces: what goes in comes out; segments, clocks, folders, leftovers and foreign files."""

from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture import (
    Chunk,
    Clock,
    Exchange,
    Gap,
    Outcome,
    Request,
    Response,
    TraceHeader,
    TraceWriter,
    read_trace,
)
from tbench.capture import frames as wire
from tbench.capture.container_reader import Losses
from tbench.capture.container_writer import ContainerWriter
from tbench.capture.errors import InputError
from tbench.capture.records import pack_chunks, read_chunks
from tbench.capture.runtime import version
from tests.recorded import chat_request

HEADER = TraceHeader(
    capture_id="c",
    wall_ns=1_700_000_000_000_000_000,
    mono_ns=0,
    upstream="https://api.together.xyz",
    filters={"hosts": ["api.together.xyz"]},
    sampling=0.5,
    privacy="redacted",
    tokens_source="server_usage",
    extra={"host": "b2c4"},
)

times = st.integers(0, 2**60)
later = st.integers(2**60, 2**61)
text = st.text(max_size=12)
headers = st.lists(st.tuples(text, text), max_size=3).map(tuple)
bodies = st.none() | st.binary(max_size=60)
extras = st.dictionaries(
    text.map(lambda key: f"newer_{key}"),
    st.integers().filter(lambda n: abs(n) < 2**63) | text | st.none(),
    max_size=2,
)
requests = st.builds(
    Request,
    id=text,
    seq=st.integers(0, 2**40),
    arrive_ns=times,
    end_ns=later,
    method=text,
    scheme=text,
    host=text,
    path=text,
    http_version=text,
    headers=headers,
    headers_withheld=st.integers(0, 9),
    body=bodies,
    body_bytes=st.integers(0, 2**40),
    client=st.none() | text,
    conn=st.none() | st.integers(0, 9),
    retry_of=st.none() | text,
    extra=extras,
)
chunk_lists = st.lists(
    st.builds(Chunk, at_ns=times, size=st.integers(1, 2**32 - 1)), max_size=4
).map(lambda chunks: tuple(sorted(chunks, key=lambda chunk: chunk.at_ns)))
responses = st.builds(
    Response,
    head_ns=st.none() | times,
    end_ns=later,
    status=st.none() | st.integers(100, 599),
    http_version=text,
    headers=headers,
    headers_withheld=st.integers(0, 9),
    body=bodies,
    body_bytes=st.integers(0, 2**40),
    chunks=st.just(()),
    outcome=st.sampled_from(Outcome),
    error=st.none() | text,
    extra=extras,
)


def request(number: int, **changes: object) -> Request:
    return replace(
        chat_request(number, number * 1000, id=f"r{number}", end_ns=number * 1000 + 10),
        **changes,
    )


def response(number: int, **changes: object) -> Response:
    return replace(Response(head_ns=None, end_ns=number * 1000 + 500, status=200), **changes)


def exchange(number: int) -> Exchange:
    return Exchange(request=request(number), response=response(number))


def write(path: Path, exchanges: list[Exchange], header: TraceHeader = HEADER, **how: int) -> Path:
    with TraceWriter(path, header, **how) as writer:
        for one in exchanges:
            writer.exchange(one)
    return path


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(Exchange, request=requests, response=st.none() | responses), max_size=5))
def test_exchanges_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, exchanges: list[Exchange]
) -> None:
    """Every field of every exchange, with those that only a newer writer knows."""
    unique = [
        replace(one, request=replace(one.request, id=f"{one.request.id}{n}", seq=n))
        for n, one in enumerate(exchanges)
    ]
    path = write(tmp_path_factory.mktemp("t") / "t.msgpack", unique)

    in_order = sorted(unique, key=lambda one: (one.request.arrive_ns, one.request.seq))
    assert list(read_trace(path)) == in_order


@given(chunk_lists)
def test_chunk_times_stay_within_half_a_microsecond(chunks: tuple[Chunk, ...]) -> None:
    """The first is exact; rounding never adds up, over gaps of centuries as of nanoseconds."""
    if chunks and chunks[-1].at_ns - chunks[0].at_ns > 10**17:
        chunks = chunks[:1]  # thirty years would be a million filler entries
    back = read_chunks(pack_chunks(chunks))

    assert [chunk.size for chunk in back] == [chunk.size for chunk in chunks]
    assert all(abs(a.at_ns - b.at_ns) <= 500 for a, b in zip(back, chunks, strict=True))
    assert back[:1] == chunks[:1]


def test_rounding_of_chunk_times_does_not_add_up() -> None:
    """Ten thousand gaps of 1.4 us end where they must."""
    chunks = tuple(Chunk(at_ns=n * 1400, size=1) for n in range(10_000))

    assert abs(read_chunks(pack_chunks(chunks))[-1].at_ns - chunks[-1].at_ns) <= 500


def test_a_gap_over_71_minutes_takes_filler_entries() -> None:
    """An entry of size 0 carries time only: 2**32 - 1 us at most each."""
    chunks = (Chunk(at_ns=7, size=3), Chunk(at_ns=7 + 10_000 * 10**9, size=4))
    packed = pack_chunks(chunks)

    assert packed["chunk_sizes"] == bytes([3, 0, 0, 0] + [0] * 8 + [4, 0, 0, 0])
    assert read_chunks(packed) == chunks


def test_the_header_comes_back(tmp_path: Path) -> None:
    """Every entry, and the unknown ones in `extra`."""
    assert read_trace(write(tmp_path / "t.msgpack", [])).header == HEADER


def test_iterating_twice_gives_the_same(tmp_path: Path) -> None:
    """Each iteration begins at the start, also while another one is under way."""
    trace = read_trace(write(tmp_path / "t.msgpack", [exchange(n) for n in range(5)]))
    first = iter(trace)
    next(first)

    assert list(trace) == list(trace) == [exchange(n) for n in range(5)]
    assert len(list(first)) == 4


def test_totals_count_what_was_written(tmp_path: Path) -> None:
    """Requests, responses, unanswered ones, gaps with what they dropped, clocks."""
    with TraceWriter(tmp_path / "t.msgpack", HEADER) as writer:
        writer.request(request(0, body_bytes=5))
        writer.exchange(Exchange(request=request(1), response=response(1, body_bytes=7)))
        writer.gap(Gap(from_ns=0, to_ns=9, requests=2, responses=3, bytes=400, reason="disk"))
        writer.clock(Clock(mono_ns=1, wall_ns=2, extra={"loop_lag_p99_ns": 5}))
    expected = {
        "requests": 2,
        "responses": 1,
        "unanswered": 1,
        "gaps": 1,
        "clocks": 1,
        "others": 0,
        "body_bytes": 12,
        "dropped_requests": 2,
        "dropped_responses": 3,
        "dropped_bytes": 400,
    }
    closed = read_trace(tmp_path / "t.msgpack").totals
    cut = tmp_path / "cut.msgpack"
    cut.write_bytes((tmp_path / "t.msgpack").read_bytes()[:-20])

    assert closed == expected
    assert read_trace(cut).totals == expected


class Time:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rotation_makes_segments_that_are_one_trace(tmp_path: Path) -> None:
    """By size; the first file, the folder and a glob all name the whole."""
    write(tmp_path / "t.msgpack", [exchange(n) for n in range(500)], rotate_bytes=2000)
    names = sorted(file.name for file in tmp_path.iterdir())

    assert names[:2] == ["t.0001.msgpack", "t.0002.msgpack"]
    assert names[-1] == "t.msgpack"
    for name in (tmp_path / "t.msgpack", tmp_path, tmp_path / "t*.msgpack"):
        trace = read_trace(name)
        assert list(trace) == [exchange(n) for n in range(500)]
        assert len(trace.files) == len(names) > 2
        assert not trace.losses


def test_rotation_by_age_happens_without_traffic_too(tmp_path: Path) -> None:
    """`pump` ends a segment that is old enough, but never an empty one."""
    clock = Time()
    with TraceWriter(tmp_path / "t.msgpack", HEADER, rotate_s=60, clock=clock) as writer:
        clock.now = 100.0
        writer.pump()
        writer.exchange(exchange(1))
        clock.now = 200.0
        writer.pump()
        assert (tmp_path / "t.msgpack").exists()
        writer.exchange(exchange(2))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.0001.msgpack", "t.msgpack"]


def test_a_request_is_answered_across_segments(tmp_path: Path) -> None:
    """Its response may be written after a rotation; each segment stays readable alone."""
    clock = Time()
    with TraceWriter(tmp_path / "t.msgpack", HEADER, rotate_s=1, clock=clock) as writer:
        writer.request(request(1))
        clock.now += 2
        writer.pump()
        writer.clock(Clock(mono_ns=77, wall_ns=HEADER.wall_ns + 78))
        clock.now += 2
        writer.response("r1", response(1))
    trace = read_trace(tmp_path / "t.msgpack")
    alone = read_trace(tmp_path / "t.0002.msgpack")

    assert list(trace) == [exchange(1)]
    assert not trace.losses
    assert list(alone) == []
    assert (alone.losses.orphan_responses, alone.losses.missing_segments) == (1, 0)
    assert (alone.header.segment, alone.header.mono_ns) == (2, 77)


def test_a_rotation_that_fails_is_an_oserror_and_spares_the_segment(tmp_path: Path) -> None:
    """The next name is taken meanwhile: what was written is closed as the last segment it is."""
    clock = Time()
    writer = TraceWriter(tmp_path / "t.msgpack", HEADER, rotate_s=1, clock=clock)
    writer.exchange(exchange(1))
    (tmp_path / "t.0001.msgpack").write_text("another's")
    clock.now += 2
    with pytest.raises(FileExistsError, match="exists already"):
        writer.exchange(exchange(2))
    writer.close()
    trace = read_trace(tmp_path / "t.msgpack")

    assert list(trace) == [exchange(1)]
    assert not trace.losses


@pytest.mark.parametrize(("gone", "missing"), [("t.msgpack", 1), ("t.0001.msgpack", 1)])
def test_a_missing_segment_is_a_loss(tmp_path: Path, gone: str, missing: int) -> None:
    """At the beginning or in the middle."""
    write(tmp_path / "t.msgpack", [exchange(n) for n in range(500)], rotate_bytes=2000)
    (tmp_path / gone).unlink()

    assert read_trace(tmp_path).losses.missing_segments == missing


def test_a_missing_last_segment_is_a_loss(tmp_path: Path) -> None:
    """A segment that was rotated away from says that another follows."""
    write(tmp_path / "t.msgpack", [exchange(n) for n in range(500)], rotate_bytes=2000)
    for file in tmp_path.glob("t.*.msgpack"):
        file.unlink()

    assert read_trace(tmp_path / "t.msgpack").losses.missing_segments == 1


def test_captures_in_one_folder_are_merged_by_wall_clock(tmp_path: Path) -> None:
    """Two origins, one clock: times are those of the capture that began first."""
    early = [Exchange(request=request(n), response=response(n)) for n in (0, 2, 4)]
    moved = [
        Exchange(
            request=replace(request(n), arrive_ns=n * 1000 + 5_000, end_ns=n * 1000 + 5_010),
            response=response(
                n,
                head_ns=n * 1000 + 5_100,
                end_ns=n * 1000 + 5_500,
                chunks=(Chunk(at_ns=n * 1000 + 5_200, size=1),),
            ),
        )
        for n in (1, 3)
    ]
    write(tmp_path / "z.msgpack", early)
    other = replace(HEADER, capture_id="d", mono_ns=5_000)
    write(tmp_path / "a.msgpack", moved, other)
    got = list(read_trace(tmp_path))

    assert [one.request.arrive_ns for one in got] == [0, 1000, 2000, 3000, 4000]
    second = got[1].response
    assert second is not None
    assert (second.head_ns, second.end_ns) == (1100, 1500)
    assert second.chunks == (Chunk(at_ns=1200, size=1),)


def test_a_leftover_of_another_capture_is_not_taken_for_a_segment(tmp_path: Path) -> None:
    """A segment belongs to its capture by id, not by name."""
    write(tmp_path / "t.msgpack", [exchange(1)])
    write(tmp_path / "x.msgpack", [exchange(2)], replace(HEADER, capture_id="old", segment=0))
    (tmp_path / "x.msgpack").rename(tmp_path / "t.0001.msgpack")

    assert list(read_trace(tmp_path / "t.msgpack")) == [exchange(1)]


def test_old_segments_in_the_way_are_refused_up_front(tmp_path: Path) -> None:
    """A rotating writer would run into them an hour later."""
    write(tmp_path / "t.msgpack", [exchange(n) for n in range(500)], rotate_bytes=2000)
    (tmp_path / "t.msgpack").unlink()
    with pytest.raises(InputError, match=r"t\.0001\.msgpack: a segment of an older trace"):
        TraceWriter(tmp_path / "t.msgpack", HEADER, rotate_bytes=2000)


def test_a_running_capture_is_read_by_its_final_name(tmp_path: Path) -> None:
    """Before the file has that name; what is sealed is there."""
    clock = Time()
    writer = TraceWriter(tmp_path / "t.msgpack", HEADER, clock=clock)
    writer.exchange(exchange(1))
    clock.now += 1
    writer.pump()
    by_name = read_trace(tmp_path / "t.msgpack")
    by_folder = read_trace(tmp_path)
    writer.close()

    assert list(by_name) == list(by_folder) == [exchange(1)]
    assert by_name.losses.truncated_tail


def test_an_outcome_of_a_newer_version_is_kept(tmp_path: Path) -> None:
    """It reads as protocol_error, and the word is there."""
    with ContainerWriterOf(tmp_path) as append:
        append({**_map(request(1)), "type": "request"})
        append({**_map(response(1)), "type": "response", "id": "r1", "outcome": "bored"})
    (got,) = read_trace(tmp_path / "t.msgpack")

    assert got.response is not None
    assert got.response.outcome is Outcome.PROTOCOL_ERROR
    assert got.response.extra == {"outcome": "bored"}


def test_unknown_records_and_frames_are_skipped(tmp_path: Path) -> None:
    """A newer writer's additions do not disturb an older reader."""
    with ContainerWriterOf(tmp_path) as append:
        append({"type": "weather", "sun": True, 5: None})
        append({**_map(request(1)), "type": "request", "mood": "good"})
        append({"no": "type"})
    (got,) = read_trace(tmp_path / "t.msgpack")

    assert got.request == replace(request(1), extra={"mood": "good"})
    assert read_trace(tmp_path / "t.msgpack").totals["others"] == 2


def test_a_body_over_the_limit_is_left_out_not_the_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Null, with its size kept, and counted as lost."""
    monkeypatch.setattr(wire, "MAX_PAYLOAD", 2**20 + 1000)
    path = write(
        tmp_path / "t.msgpack",
        [Exchange(request=request(1, body=bytes(2000), body_bytes=2000), response=None)],
    )
    (got,) = read_trace(path)

    assert (got.request.body, got.request.body_bytes) == (None, 2000)
    assert read_trace(path).totals["dropped_bytes"] == 2000


def test_an_error_in_the_with_block_still_closes_the_trace(tmp_path: Path) -> None:
    """What was recorded until then is worth keeping."""
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t.msgpack", HEADER) as writer:
        writer.exchange(exchange(1))
        raise RuntimeError

    assert list(read_trace(tmp_path / "t.msgpack")) == [exchange(1)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none", None, "no such file"),
        ("empty.msgpack", b"", "empty"),
        ("x.json", b"{}", "not a tbench file"),
        ("*.nothing", None, "no such file, folder or matching glob"),
    ],
)
def test_what_is_no_trace_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    """Missing, empty, foreign."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_trace(tmp_path / name)


def test_a_second_file_of_a_segment_is_named(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.msgpack", TraceHeader(wall_ns=0, mono_ns=0)):
        pass
    copy = tmp_path / "u.msgpack"
    copy.write_bytes((tmp_path / "t.msgpack").read_bytes())
    with pytest.raises(
        InputError, match=r"t\.msgpack and .*u\.msgpack: both hold segment 0 of one"
    ):
        read_trace(tmp_path)


def test_a_folder_without_traces_says_so(tmp_path: Path) -> None:
    """Runs and other files in it are not traces."""
    ContainerWriter(tmp_path / "r.msgpack", {"kind": "run"}).close()
    (tmp_path / "other.msgpack").write_bytes(b"\x93\x01\x02\x03")
    with pytest.raises(InputError, match="no traces"):
        read_trace(tmp_path)


def test_a_run_is_sent_to_the_report(tmp_path: Path) -> None:
    """The message names the verb that reads it."""
    path = ContainerWriter(tmp_path / "r.msgpack", {"kind": "run"}).close()
    with pytest.raises(InputError, match="this is a run, not a trace; use 'tbench report"):
        read_trace(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_trace_yields_true_exchanges_or_none(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any bytes overwritten anywhere: requests equal what was written, responses too or are missing."""
    path = tmp_path_factory.mktemp("t") / "t.msgpack"
    clock = Time()
    truth = {n: exchange(n) for n in range(6)}
    with TraceWriter(path, HEADER, clock=clock) as writer:
        for one in truth.values():
            writer.exchange(one)
            clock.now += 1
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 9999)) * len(whole) // 10_000
    put = data.draw(st.binary(min_size=1, max_size=40))
    whole[at : at + len(put)] = put
    path.write_bytes(whole)
    try:
        got = list(read_trace(path))
    except InputError:
        return
    for one in got:
        assert one.request == truth[one.request.seq].request
        assert one.response in (None, truth[one.request.seq].response)


@pytest.mark.parametrize("close", [True, False])
def test_a_flipped_bit_costs_at_most_one_blocks_exchanges(tmp_path: Path, close: bool) -> None:
    """One bit of every byte: every exchange is true, at most one is touched, and it is counted."""
    clock = Time()
    truth = {n: exchange(n) for n in range(3)}
    writer = TraceWriter(tmp_path / "t.msgpack", HEADER, clock=clock)
    for one in truth.values():
        writer.exchange(one)
        clock.now += 1
        writer.pump()
    data = (writer.close() if close else Path(tmp_path / "t.msgpack.part")).read_bytes()
    bad = tmp_path / "bad.msgpack"
    for at in range(len(data)):
        bad.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        trace = read_trace(bad)
        got = list(trace)
        assert all(one == truth[one.request.seq] for one in got), at
        assert len(got) >= 2, at
        assert trace.losses != Losses(truncated_tail=not close), at


def _map(record: Request | Response) -> dict:
    from tbench.capture.records import record_of, response_record

    return record_of(record) if isinstance(record, Request) else response_record("", record)


class ContainerWriterOf:
    """A trace written record by record, as a newer writer might."""

    def __init__(self, folder: Path) -> None:
        self._writer = ContainerWriter(
            folder / "t.msgpack", {"kind": "trace", "capture_id": "c", "wall_ns": 0, "mono_ns": 0}
        )

    def __enter__(self) -> Callable[[dict], object]:
        return self._writer.append

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def test_a_header_names_the_release_that_wrote_it() -> None:
    """As the package's own metadata has it; sources that were never installed have none."""
    assert TraceHeader(wall_ns=0, mono_ns=0).writer == f"tbench {metadata.version('tbench')}"
    assert version("a-package-that-is-not-installed") == "unknown"
