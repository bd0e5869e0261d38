"""Arrival order in bounded memory: late, lost and never written responses hold nothing back."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture import Exchange, Request, Response, TraceHeader, TraceWriter, frames, read_trace
from tbench.capture.arrival_order import Block, Budgets, ReadOptions, Segment, in_order
from tbench.capture.container_reader import Losses, open_container
from tbench.capture.exchange import LED_BACK
from tbench.capture.trace_reader import batches
from tests.conftest import PATIENCE_S
from tests.recorded import chat_request

ROOT = Path(__file__).parent.parent
HEADER = TraceHeader(wall_ns=10**18, mono_ns=0, capture_id="c")


def exchanges(segments: list[Segment], losses: Losses, how: ReadOptions) -> Iterator[Exchange]:
    return in_order(segments, losses, how)


def packed(ordinals: list[int]) -> bytes:
    return struct.pack(f"<{len(ordinals)}I", *ordinals)


class Time:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def request(number: int, arrive_ns: int | None = None, body: bytes = b"") -> Request:
    arrive_ns = number * 1000 if arrive_ns is None else arrive_ns
    return chat_request(number, arrive_ns, body, id=f"r{number}", end_ns=arrive_ns + 10, path="/")


def response(number: int) -> Response:
    end_ns = 10_000 + number * 1000
    extra = {LED_BACK: True} if number % 3 == 2 else {}
    return Response(head_ns=None, end_ns=end_ns, status=200, error=f"to r{number}", extra=extra)


def ending(exchange: Exchange) -> tuple[int, bool] | None:
    answer = exchange.response
    return None if answer is None else (answer.end_ns, answer.led_back)


@st.composite
def captures(draw: st.DrawFn) -> tuple[list[tuple[str, int]], dict[int, int]]:
    """Writes in any order, cut into blocks, and when each request arrived."""
    count = draw(st.integers(0, 12))
    arrivals = {n: draw(st.integers(0, 8)) * 1000 for n in range(count)}
    writes = [("request", n) for n in range(count)]
    writes += [("response", n) for n in range(count) if draw(st.booleans())]
    writes += [("seal", 0)] * draw(st.integers(0, 6))
    return draw(st.permutations(writes)), arrivals


def write(path: Path, writes: list[tuple[str, int]], arrivals: dict[int, int], **how: int) -> None:
    clock = Time()
    with TraceWriter(path, HEADER, clock=clock, **how) as writer:
        for what, n in writes:
            if what == "request":
                writer.request(request(n, arrivals[n], bytes(50)))
            elif what == "response":
                writer.response(f"r{n}", response(n))
            else:
                clock.now += 1
                writer.pump()


def expected(writes: list[tuple[str, int]], arrivals: dict[int, int]) -> list[Exchange]:
    answered = {n for what, n in writes if what == "response"}
    order = sorted(arrivals, key=lambda n: (arrivals[n], n))
    return [
        Exchange(
            request=request(n, arrivals[n], bytes(50)),
            response=response(n) if n in answered else None,
        )
        for n in order
    ]


@settings(max_examples=150, deadline=None)
@given(capture=captures(), tight=st.booleans(), cut=st.booleans(), rotate=st.booleans())
def test_any_order_of_writing_reads_in_order_of_arrival(
    capture: tuple[list[tuple[str, int]], dict[int, int]],
    tight: bool,
    cut: bool,
    rotate: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With or without an index, in one segment or many, with memory for one block or for all."""
    path = tmp_path_factory.mktemp("t") / "t.msgpack"
    write(path, *capture, **({"rotate_bytes": 600} if rotate else {}))
    if cut:
        for file in path.parent.iterdir():
            file.write_bytes(file.read_bytes()[:-20])
    budgets = Budgets(cache=1, parked=1) if tight else Budgets()
    trace = read_trace(path)
    losses = Losses()

    read = list(exchanges(trace.segments, losses, ReadOptions(budgets=budgets)))
    assert read == expected(*capture)
    assert not losses
    assert [ending(exchange) for exchange in trace.ends] == [ending(exchange) for exchange in read]


@settings(max_examples=50, deadline=None)
@given(capture=captures(), tight=st.booleans(), cut=st.booleans())
def test_requests_alone_come_in_the_same_order(
    capture: tuple[list[tuple[str, int]], dict[int, int]],
    tight: bool,
    cut: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whoever needs no answers gets the same requests, and no loss for what was not looked for."""
    path = tmp_path_factory.mktemp("t") / "t.msgpack"
    write(path, *capture)
    if cut:
        path.write_bytes(path.read_bytes()[:-20])
    how = ReadOptions(answers="none", budgets=Budgets(cache=1, parked=1) if tight else Budgets())
    losses = Losses()

    found = list(exchanges(read_trace(path).segments, losses, how))

    assert found == [replace(one, response=None) for one in expected(*capture)]
    assert not losses


@pytest.mark.parametrize(("weight", "ahead"), [(1, 16), (2**19, 2), (2**24, 1)])
def test_what_is_taken_together_is_bounded_in_number_and_bytes(weight: int, ahead: int) -> None:
    """All items come, in order; a megabyte of bodies is not waited for, however large one is."""
    made: list[int] = []
    items = (
        made.append(number) or SimpleNamespace(number=number, weight=weight) for number in range(40)
    )
    read = batches(items)

    first = next(read)
    assert len(first) == len(made) == ahead
    assert [item.number for batch in (first, *read) for item in batch] == list(range(40))


def test_the_requests_of_a_trace_can_be_read_again_and_again(tmp_path: Path) -> None:
    """A replay of several rounds reads them once per round."""
    with TraceWriter(tmp_path / "t.msgpack", HEADER) as writer:
        writer.request(request(1))
        writer.response("r1", response(1))
    requests = read_trace(tmp_path / "t.msgpack").requests
    alone = Exchange(request=request(1), response=None)

    assert [list(requests), list(requests)] == [[alone], [alone]]


def test_a_response_may_come_before_its_request_is_written(tmp_path: Path) -> None:
    """An early refusal ends before the upload does."""
    with TraceWriter(tmp_path / "t.msgpack", HEADER) as writer:
        writer.response("r1", response(1))
        writer.request(request(1))

    assert [one.response for one in read_trace(tmp_path / "t.msgpack")] == [response(1)]


def test_requests_of_one_id_each_get_the_response_that_follows(tmp_path: Path) -> None:
    """Duplicate ids, which no capture should write, lose nothing and stop nothing."""
    with TraceWriter(tmp_path / "t.msgpack", HEADER) as writer:
        writer.request(request(1))
        writer.response("r1", response(1))
        writer.request(request(1))
        writer.request(request(1))
        writer.response("r1", response(2))
    got = [one.response and one.response.error for one in read_trace(tmp_path / "t.msgpack")]

    assert sorted(map(str, got)) == ["None", "to r1", "to r2"]


def test_a_response_without_its_request_is_counted(tmp_path: Path) -> None:
    """It cannot be an exchange; it must not vanish silently either."""
    with TraceWriter(tmp_path / "t.msgpack", HEADER) as writer:
        writer.response("gone", response(0))
        writer.request(request(1))
    trace = read_trace(tmp_path / "t.msgpack")

    assert [one.request.id for one in trace] == ["r1"]
    assert trace.losses.orphan_responses == 1


def test_a_damaged_block_leaves_its_requests_answers_as_orphans(tmp_path: Path) -> None:
    """The lost block, the lost request's response, and the answers lost with it are told apart."""
    clock = Time()
    path = tmp_path / "t.msgpack"
    with TraceWriter(path, HEADER, clock=clock) as writer:
        for number in range(3):
            writer.request(request(number))
            if number:
                writer.response(f"r{number - 1}", response(number - 1))
            clock.now += 1
            writer.pump()
    row = read_trace(path).segments[0].rows[1]
    data = bytearray(path.read_bytes())
    data[row.offset + 40] ^= 1
    path.write_bytes(data)
    trace = read_trace(path)
    got = {one.request.id: one.response for one in trace}

    assert got == {"r0": None, "r2": None}
    assert (trace.losses.damaged_blocks, trace.losses.orphan_responses) == (1, 1)
    assert trace.losses.skipped_bytes == row.length

    begun = iter(trace.requests)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert trace.losses.damaged_blocks == 1, (
        "a reading that ends early, such as that for hit rates, hides no loss"
    )


def test_a_request_whose_record_is_wrong_is_counted_and_skipped(tmp_path: Path) -> None:
    """Sound msgpack that lacks what the format promises is no exchange."""
    with TraceWriter(tmp_path / "t.msgpack", HEADER) as writer:
        writer.request(replace(request(0), host=5))
        writer.request(request(1))
    trace = read_trace(tmp_path / "t.msgpack")

    assert [one.request.id for one in trace] == ["r1"]
    assert trace.losses.bad_records == 1


def test_a_long_upload_does_not_fill_the_memory(tmp_path: Path) -> None:
    """All that arrived during it waits without bodies once the budget is spent, and comes in order."""
    numbers = [*range(1, 200), 0]
    clock = Time()
    with TraceWriter(tmp_path / "t.msgpack", HEADER, clock=clock) as writer:
        for number in numbers:
            writer.exchange(
                Exchange(request=request(number, body=bytes(2000)), response=response(number))
            )
            clock.now += 0.1
    segments = read_trace(tmp_path / "t.msgpack").segments
    budgets = Budgets(cache=10_000, parked=20_000)
    got = list(exchanges(segments, Losses(), ReadOptions(budgets=budgets)))

    assert [one.request.seq for one in got] == list(range(200))
    assert [one.response for one in got] == [response(number) for number in range(200)]
    assert all(one.request.body == bytes(2000) for one in got)


@pytest.mark.slow
def test_a_trace_far_larger_than_memory_allows_is_read_in_little(tmp_path: Path) -> None:
    """120 MB, one request never answered, one only at the end: 130 MB, with an index or without."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import json; import trace_memory as t;"
        "print(json.dumps(t.run_step(sys.argv[1], sys.argv[2:])))"
    )

    def step(*arguments: object) -> dict[str, float]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=PATIENCE_S
        )
        return json.loads(done.stdout)

    path = tmp_path / "t.msgpack"
    step("write", path, 120)
    whole, cut = step("read", path), step("as_part", path)

    assert whole["exchanges"] == cut["exchanges"] > 7000
    assert whole["answered"] == cut["answered"] == whole["exchanges"] - 65
    assert max(whole["peak_rss_mb"], cut["peak_rss_mb"]) < 130


@settings(max_examples=100, deadline=None)
@given(
    links=st.binary(max_size=64) | st.lists(st.integers(0, 3), max_size=12).map(packed),
    ends=st.binary(min_size=24, max_size=24) | st.none(),
    strays=st.lists(
        st.tuples(st.just("r1"), st.integers(-1, 3), st.integers(-1, 9)).map(list)
        | st.integers(0, 9),
        max_size=3,
    ),
    table=st.binary(max_size=90) | st.none(),
)
def test_an_index_that_lies_yields_true_exchanges_or_none(
    links: bytes,
    ends: bytes | None,
    strays: list,
    table: bytes | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whole by its checksum and wrong in every way: no crash, no response given to another request."""
    path = tmp_path_factory.mktemp("t") / "t.msgpack"
    with TraceWriter(path, HEADER) as writer:
        for number in range(3):
            writer.exchange(Exchange(request=request(number), response=response(number)))
    container = open_container(path)
    assert container.index is not None
    lie = {**container.index, "links": links, "ends": ends, "strays": strays}
    lie |= {} if table is None else {"blocks": table}
    assert container.rows is not None
    end = container.rows[-1].offset + container.rows[-1].length
    path.write_bytes(path.read_bytes()[:end] + frames.index_frame(lie))
    for one in read_trace(path):
        number = one.request.seq
        assert one.request == request(number)
        assert one.response in (None, response(number))
    for one in read_trace(path).ends:
        assert one.request == request(one.request.seq)
        assert one.response is None or one.response.end_ns >= one.request.arrive_ns


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["type", "id", "seq", "arrive_ns", "headers", "chunk_dt_us", "requests"]),
        st.sampled_from(["request", "response", "gap", 2**64 - 1, -1, True, [[1]], b"xyz", None]),
    ).map(frames.pack)
)
def test_blocks_that_hold_anything_never_stop_a_reader(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes that are no msgpack, or records that are none of ours, in a block with a right checksum."""
    path = tmp_path_factory.mktemp("t") / "t.msgpack"
    with TraceWriter(path, HEADER) as writer:
        writer.exchange(Exchange(request=request(1), response=response(1)))
    container = open_container(path)
    assert container.rows is not None
    end = container.rows[-1].offset + container.rows[-1].length
    strange = frames.block_frame(container.marker, content)
    path.write_bytes(path.read_bytes()[:end] + strange)
    trace = read_trace(path)

    assert [one for one in trace if one.request.id == "r1"] == [
        Exchange(request=request(1), response=response(1))
    ]


VALUES = st.one_of(
    st.dictionaries(st.text(max_size=3), st.integers(0, 300) | st.binary(max_size=5), max_size=3),
    st.integers(),
    st.just({"type": "request"}),
).map(
    lambda value: (
        msgpack.packb(value) if abs(value if type(value) is int else 0) < 2**63 else b"\xc1"
    )
)
"""Records, values that are none, and a byte that is no msgpack."""


@given(st.lists(VALUES, max_size=6), st.lists(st.integers(0, 8), max_size=8), st.integers(0, 40))
def test_one_pass_gives_what_one_by_one_does(
    values: list[bytes], ordinals: list[int], cut: int
) -> None:
    """In any order, with any damage, and of any end that is missing."""
    raw = b"".join(values)[: cut if cut < 30 else None]

    assert list(Block(raw).records(ordinals)) == [Block(raw).record(one) for one in ordinals]
