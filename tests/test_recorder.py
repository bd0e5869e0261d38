"""Recorder: everything in order, nothing waits, and whatever is lost is counted."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbench.capture import container_writer
from tbench.capture.errors import InputError
from tbench.capture.exchange import Request, Response
from tbench.capture.intake import Recording, Selection, begin
from tbench.capture.recorder import REQUEST_OVERHEAD, Recorder
from tbench.capture.records import Clock, Gap, TraceHeader
from tbench.capture.redact import Redactor, Secrets
from tbench.capture.sanitize import Sanitizer
from tbench.capture.tee import Budget, Tee
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tests.conftest import PATIENCE_S
from tests.recorded import chat_request


class Shelf:
    """A writer in memory; `hook` runs before each record, and may wait or raise."""

    def __init__(self, hook: Callable[[], object] = lambda: None) -> None:
        self.hook = hook
        self.requests: list[Request] = []
        self.responses: list[tuple[str, Response]] = []
        self.gaps: list[Gap] = []
        self.clocks: list[Clock] = []
        self.closed = False
        self.lost: list[Any] = []

    def request(self, request: Request) -> None:
        self.hook()
        self.requests.append(request)

    def response(self, request_id: str, response: Response) -> None:
        self.hook()
        self.responses.append((request_id, response))

    def gap(self, gap: Gap) -> None:
        self.gaps.append(gap)

    def clock(self, clock: Clock) -> None:
        self.clocks.append(clock)

    def pump(self) -> None:
        pass

    def close(self) -> Path:
        self.closed = True
        return Path("shelf")


class Clockwork:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def recorder(writer: object, limit: int = 1 << 20, **options: object) -> Recorder:
    return Recorder(writer, Sanitizer(Redactor()), Budget(limit), **options)  # type: ignore[arg-type]


def ask(number: int, body: bytes = b"{}") -> Request:
    return chat_request(number, number, body, id=str(number))


def answer() -> Response:
    return Response(head_ns=1, end_ns=1000, status=200)


def record(one: Recorder, number: int, body: bytes = b"{}", reply: bytes = b"ok") -> None:
    one.request(ask(number, body), Secrets())
    tee = Tee(one.budget, lambda: 0)
    tee.pass_on(reply)
    one.response(str(number), answer(), tee, Secrets())


def test_a_trace_holds_every_exchange_in_order(tmp_path: Path) -> None:
    """Through the real file."""
    path = tmp_path / "t.msgpack"
    one = recorder(TraceWriter(path, TraceHeader(wall_ns=0, mono_ns=0)), 1 << 24)
    one.start()
    for number in range(500):
        record(one, number, reply=b"%d" % number)
    one.close()

    exchanges = list(read_trace(path))
    assert [exchange.request.id for exchange in exchanges] == [str(n) for n in range(500)]
    assert [e.response and e.response.body for e in exchanges] == [b"%d" % n for n in range(500)]
    assert one.counts.requests == one.counts.responses == 500
    assert one.budget.held == 0
    assert not one.counts.lost


def test_the_loop_never_waits_for_a_slow_disk() -> None:
    """Handing over returns at once while the writer is stuck; afterwards nothing is missing."""
    gate = threading.Event()
    shelf = Shelf(lambda: gate.wait(PATIENCE_S))
    one = recorder(shelf)
    one.start()
    for number in range(50):
        record(one, number)
    assert shelf.responses == []

    gate.set()
    one.close()

    assert len(shelf.requests) == len(shelf.responses) == 50


def test_a_write_that_never_returns_does_not_keep_the_end() -> None:
    """What it holds, and all behind it, is lost; the failure says why."""
    gate, entered = threading.Event(), threading.Event()

    def hang() -> None:
        if len(shelf.requests) >= 3:
            entered.set()
            gate.wait(PATIENCE_S)

    shelf = Shelf(hang)
    stuck = recorder(shelf)
    stuck.start()
    for number in range(10):
        record(stuck, number)
    assert entered.wait(PATIENCE_S)

    stuck.flush_s = 0.05
    stuck.close()

    counts = stuck.counts
    assert stuck.stuck and stuck.failure == "a write has not returned for 0.05 s"
    assert (counts.requests, counts.lost_requests) == (3, 7)
    assert (counts.responses, counts.lost_responses) == (2, 8)
    assert counts.lost_by.keys() == {"disk"}
    gate.set()
    stuck._thread.join(PATIENCE_S)
    assert (counts.requests, counts.lost_requests) == (3, 7)  # whenever it returns after all
    assert (counts.responses, counts.lost_responses) == (2, 8)


def test_a_stuck_disk_fills_memory_to_its_limit_and_no_further() -> None:
    """Above 80 % new exchanges are refused; bodies that do not fit are dropped and counted."""
    gate = threading.Event()
    shelf = Shelf(lambda: gate.wait(PATIENCE_S))
    limit = 100_000
    one = recorder(shelf, limit)
    one.start()
    for number in range(100):
        if reason := one.refuses:
            one.lose(reason)
        else:
            record(one, number, body=b"x" * (50_000 if number == 6 else 10_000))
        assert one.budget.held <= limit  # of the seventh, the body is dropped

    assert one.refuses == "memory"
    gate.set()
    one.close()

    assert len(shelf.requests) + one.counts.lost_requests == 100
    assert len(shelf.responses) + one.counts.lost_responses == 100
    assert sum(gap.requests for gap in shelf.gaps) == one.counts.lost_requests > 0
    assert {gap.reason for gap in shelf.gaps} == {"memory"}
    assert one.budget.held == 0


def test_a_request_that_does_not_fit_loses_its_body_only() -> None:
    """The record stays, with its size, and the bytes are in a gap."""
    shelf = Shelf()
    one = recorder(shelf, limit=REQUEST_OVERHEAD + 100)
    one.start()
    one.request(ask(1, b"x" * 101), Secrets())
    one.close()

    assert (shelf.requests[0].body, shelf.requests[0].body_bytes) == (None, 101)
    assert [gap.bytes for gap in shelf.gaps] == [101]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EFBIG])
def test_a_failing_disk_turns_recording_off_and_counts_the_rest(code: int) -> None:
    """Said once, loudly; traffic is refused a record from then on, memory is given back."""
    shelf = Shelf()

    def full() -> None:
        if len(shelf.responses) == 2:
            raise OSError(code, "disk trouble")

    shelf.hook = full
    said: list[str] = []
    one = recorder(shelf, on_failure=said.append)
    one.start()
    for number in range(10):
        record(one, number)
    one.close()

    assert len(said) == 1
    assert "disk trouble" in said[0]
    assert one.refuses == "disk"
    assert (len(shelf.requests), len(shelf.responses)) == (2, 2)
    assert (one.counts.lost_requests, one.counts.lost_responses) == (8, 8)
    assert one.budget.held == 0


def test_what_a_full_disk_keeps_from_its_block_is_lost_and_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are gathered for a fifth of a second before they are written: all of a block are counted."""
    path = tmp_path / "t.msgpack"
    writer = TraceWriter(path, TraceHeader(wall_ns=0, mono_ns=0))

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, _fd: int, _data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(container_writer, "os", Full())
    one = recorder(writer)
    one.start()
    for number in range(3):
        record(one, number)
    one.close()

    assert list(read_trace(tmp_path / "t.msgpack.part")) == []
    assert (one.counts.requests, one.counts.responses, one.counts.bytes) == (0, 0, 0)
    assert (one.counts.lost_requests, one.counts.lost_responses) == (3, 3)
    assert not one.counts.outcomes


def test_a_body_that_neither_memory_nor_the_disk_takes_is_lost_once() -> None:
    """300 bytes that did not fit, and a disk that fails before their record: 300 bytes, not 600."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "disk trouble")

    one = recorder(Shelf(full), limit=REQUEST_OVERHEAD + 100)
    one.start()
    record(one, 1, body=b"", reply=b"x" * 300)
    one.close()

    assert (one.counts.lost_requests, one.counts.lost_responses) == (1, 1)
    assert one.counts.lost_bytes == 300


def test_one_bad_record_does_not_end_the_recording(capsys: pytest.CaptureFixture[str]) -> None:
    """A defect loses the record it meets, is counted, and quotes nothing of it."""
    shelf = Shelf()

    def trip() -> None:
        if len(shelf.requests) == 1 and not shelf.responses:
            shelf.hook = lambda: None
            raise ValueError("secret text")

    shelf.hook = trip
    one = recorder(shelf)
    one.start()
    record(one, 1)
    record(one, 2)
    one.close()

    assert len(shelf.requests) == 2
    assert one.counts.lost_responses == 1
    assert "secret text" not in capsys.readouterr().err


def test_gaps_say_when_and_come_at_most_once_a_second() -> None:
    """A flood of drops is a few records, with its times."""
    shelf, clock = Shelf(), Clockwork()
    one = recorder(shelf, now=clock)
    one.start()
    for _ in range(1_000):
        one.lose("memory")
    clock.now = 5_000_000_000
    one.close()

    assert sum(gap.requests for gap in shelf.gaps) == 1_000
    assert (shelf.gaps[0].from_ns, shelf.gaps[-1].to_ns) == (0, 5_000_000_000)
    assert len(shelf.gaps) <= 2


def test_a_clock_record_holds_both_clocks_and_the_lag() -> None:
    """Read at one instant, on the loop."""
    shelf, clock = Shelf(), Clockwork()
    one = recorder(shelf, now=clock)
    one.start()
    clock.now = 7
    one.clock({"loop_lag_p99_ns": 12})
    one.close()

    (pair,) = shelf.clocks
    assert pair.mono_ns == 7
    assert pair.wall_ns > 10**18
    assert pair.extra == {"loop_lag_p99_ns": 12}


def test_the_last_flush_is_bounded_and_the_rest_is_counted() -> None:
    """A disk that hangs at the end must not keep the process for ever."""
    gate = threading.Event()
    entered = threading.Event()

    def hang() -> None:
        entered.set()
        gate.wait(PATIENCE_S)

    shelf = Shelf(hang)
    one = recorder(shelf)
    one.start()
    for number in range(20):
        record(one, number)
    assert entered.wait(PATIENCE_S)
    one.flush_s = 0.01
    closing = threading.Thread(target=one.close)
    closing.start()
    while not one._hurry.wait(PATIENCE_S):
        pass
    gate.set()
    closing.join(timeout=PATIENCE_S)

    assert not closing.is_alive()
    assert shelf.closed
    assert len(shelf.requests) == 1
    assert (one.counts.lost_requests, one.counts.lost_responses) == (19, 20)


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
