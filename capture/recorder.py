"""Recorder: the queue between live traffic and the disk, its one writer thread, and the counts.

The event loop hands records over by reference and never waits. What memory or the disk cannot take is
dropped, counted, and written into the trace as gaps.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from tbench.capture.errors import InputError
from tbench.capture.exchange import Request, Response
from tbench.capture.records import Clock, Gap
from tbench.capture.redact import Secrets
from tbench.capture.sanitize import Sanitizer
from tbench.capture.tee import Budget, Tee

TICK_S = 0.05
"""The writer wakes so often to seal and sync what is due, also when nothing comes."""
GAP_EVERY_NS = 1_000_000_000
FLUSH_S = 30.0
REQUEST_OVERHEAD = 2_048
"""Bytes a queued record needs beside its body."""


class Writer(Protocol):
    """What a recorder needs of a TraceWriter."""

    @property
    def lost(self) -> list[Any]: ...
    def request(self, request: Request) -> None: ...
    def response(self, request_id: str, response: Response) -> None: ...
    def gap(self, gap: Gap) -> None: ...
    def clock(self, clock: Clock) -> None: ...
    def pump(self) -> None: ...
    def close(self) -> Path: ...


@dataclass(slots=True)
class Counts:
    """What a capture has recorded and lost so far. Bytes are those of bodies."""

    requests: int = 0
    responses: int = 0
    bytes: int = 0
    lost_requests: int = 0
    lost_responses: int = 0
    lost_bytes: int = 0
    lost_by: Counter[str] = field(default_factory=Counter)
    """How often each reason of a gap struck."""
    masked: int = 0
    """Credentials in request bodies, not the caller's own."""
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> bool:
        return bool(self.lost_requests or self.lost_responses or self.lost_bytes)

    def copy(self) -> "Counts":
        """A copy that does not change any more, while another thread counts."""
        # `dict` copies in one step of the interpreter. A loop over the live counters, to show them, ends in a
        # RuntimeError where the first outcome of a kind comes meanwhile.
        return replace(
            self,
            lost_by=Counter(dict(self.lost_by)),
            outcomes=Counter(dict(self.outcomes)),
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    request: Request
    secrets: Secrets
    cost: int


@dataclass(frozen=True, slots=True)
class _Answered:
    request_id: str
    response: Response
    tee: Tee
    secrets: Secrets


class _Stop:
    """The end of the queue."""


Item = _Asked | _Answered | Clock | _Stop


class Recorder:
    """Takes records from the event loop, writes them in a thread of its own.

    `now` gives ns since the capture's origin. `on_failure` is called once, in the writer thread, with
    one line when the disk fails; from then on everything passes through unrecorded, and is counted.
    `flush_s`: see `close`.
    """

    def __init__(
        self,
        writer: Writer,
        sanitizer: Sanitizer,
        budget: Budget,
        *,
        now: Callable[[], int] = time.monotonic_ns,
        on_failure: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.budget = budget
        self.counts = Counts()
        self.flush_s = FLUSH_S
        self.failure: str | None = None
        self.stuck = False
        self._writer = writer
        self._sanitizer = sanitizer
        self._now = now
        self._on_failure = on_failure
        # Without a bound, since `put` is called on the event loop and must never wait: memory is bounded by
        # the budget, which is taken before anything is queued and given back when it is written.
        self._queue: SimpleQueue[Item] = SimpleQueue()
        # One thread, so that records are written in the order of the queue. Daemon: where an error ends the
        # process without `close`, it does not wait for this thread; what was sealed is in the .part file.
        self._thread = threading.Thread(target=self._run, name="trace-writer", daemon=True)
        self._writing: Item | None = None
        self._losses = _Losses(self.counts, since_ns=now())
        self._hurry = threading.Event()
        self._defects: set[str] = set()

    def start(self) -> None:
        """Start the writer thread; from here on the writer belongs to it."""
        self._thread.start()

    @property
    def refuses(self) -> str | None:
        """Why a new exchange cannot be recorded just now: `disk` or `memory`; None when it can."""
        if self.failure:
            return "disk"
        return "memory" if self.budget.tight else None

    def request(self, request: Request, secrets: Secrets, *, dropped: bool = False) -> None:
        """Queue a request. Its body is dropped, and counted, where it breaks the memory limit.

        `dropped`: it broke the limit on its way already, and of its body only the size came here.
        """
        cost = len(request.body or b"") + REQUEST_OVERHEAD
        # The exchange stays, at the price of its body: when it
        # came is worth more than a prompt, and costs little.
        if not self.budget.take(cost):
            dropped = dropped or bool(request.body)
            request, cost = replace(request, body=None), 0
        if dropped:
            self._losses.add("memory", nbytes=request.body_bytes)
        self._queue.put(_Asked(request, secrets, cost))

    def response(self, request_id: str, response: Response, tee: Tee, secrets: Secrets) -> None:
        """Queue a response; its body and chunks are in the tee, whose memory the writer gives back."""
        if tee.pieces is None:
            self._losses.add("memory", nbytes=tee.size)
        self._queue.put(_Answered(request_id, response, tee, secrets))

    def lose(self, reason: str) -> None:
        """Count an exchange that passes through unrecorded."""
        self._losses.add(reason, requests=1, responses=1)

    def clock(self, extra: Mapping[str, int | None]) -> None:
        """Queue a reading of both clocks."""
        self._queue.put(Clock(mono_ns=self._now(), wall_ns=time.time_ns(), extra=dict(extra)))

    def close(self) -> None:
        """Write what is queued, for at most `flush_s` seconds, count the rest as lost, close the file.

        A write that has not returned after as long again is left to itself: a disk that hangs has no error.
        Whoever is in a hurry may set `flush_s` meanwhile.
        """
        # Behind all that is queued, so that the thread stops when that is written.
        self._queue.put(_Stop())
        self._wait()
        # From here on what is queued is counted instead of written, which takes no time: the user who asked
        # for the end does not wait for a slow disk.
        self._hurry.set()
        self._wait()
        if self._thread.is_alive():
            self._abandon(f"a write has not returned for {self.flush_s:g} s")

    def _wait(self) -> None:
        began = time.monotonic()
        while self._thread.is_alive() and time.monotonic() - began < self.flush_s:
            self._thread.join(timeout=min(TICK_S, self.flush_s))

    def _abandon(self, why: str) -> None:
        """Count what the writer holds, and what is queued behind it, as lost."""
        self.stuck = True
        writing = self._writing
        self._fail(why, but=writing)
        with suppress(Empty):
            while True:
                # Once for what the writer holds, then for each that is queued behind it.
                if writing is not None:
                    self._losses.lost(writing, "disk")
                writing = self._queue.get_nowait()

    def _run(self) -> None:
        while True:
            with suppress(Empty):
                item = self._queue.get(timeout=TICK_S)
                if isinstance(item, _Stop):
                    break
                self._writing = item
                self._take(item)
                self._writing = None
            # The write has returned after all: what it held was
            # counted as lost, and the file is left to repair.
            if self.stuck:
                return
            self._guard(self._tick)
        self._losses.due_ns = 0  # the last gaps, too, are written
        self._guard(self._tick)
        self._guard(self._writer.close)

    def _take(self, item: Item) -> None:
        """Write one item, or count it as lost; either way its memory is given back."""
        try:
            if self._hurry.is_set():
                self._losses.lost(item, "shutdown")
            elif self.failure:
                self._losses.lost(item, "disk")
            elif not self._guard(lambda: self._write(item)):
                self._losses.lost(item, "disk" if self.failure else "defect")
        finally:
            if isinstance(item, _Asked):
                self.budget.free(item.cost)
            elif isinstance(item, _Answered):
                item.tee.forget()

    def _write(self, item: Item) -> None:
        match item:
            case _Asked():
                request = self._sanitizer.request(item.request, item.secrets)
                self._writer.request(request)
                if self.stuck:  # it has returned after all, and is counted as lost
                    return
                self.counts.requests += 1
                self.counts.bytes += len(request.body or b"")
                self.counts.masked += request.extra.get("body_masked", 0)
            case _Answered():
                response = self._sanitizer.response(
                    item.request_id, item.response, item.tee, item.secrets
                )
                self._writer.response(item.request_id, response)
                if self.stuck:
                    return
                self.counts.responses += 1
                self.counts.bytes += len(response.body or b"")
                self.counts.outcomes[response.outcome] += 1
            case Clock():
                self._writer.clock(item)

    def _tick(self) -> None:
        if self.failure:
            return
        for gap in self._losses.take(self._now()):
            self._writer.gap(gap)
        self._writer.pump()

    def _guard(self, step: Callable[[], object]) -> bool:
        """Run a step of the writer. A disk error ends the recording, a bad record only itself.

        InputError: a segment cannot be begun, as its name is taken.
        """
        try:
            step()
        except (OSError, InputError) as error:
            if self.failure is None:
                self._fail(getattr(error, "strerror", None) or str(error))
            return False
        except Exception as error:
            # Each kind of defect is named once, without its message, which may quote what was being written.
            kind = type(error).__name__
            if kind not in self._defects:
                self._defects.add(kind)
                print(f"tbench capture: a record was not written ({kind})", file=sys.stderr)
            return False
        return True

    def _fail(self, why: str, *, but: Item | None = None) -> None:
        """Record no more. What the block held that the disk did not take is lost; `but` was not counted."""
        self.failure = why
        counted_apart: tuple[str, str] | None = None
        match but:
            case _Asked():
                counted_apart = "request", but.request.id
            case _Answered():
                counted_apart = "response", but.request_id
        for record in self._writer.lost:
            if (record["type"], record.get("id")) == counted_apart:
                continue
            size = len(record.get("body") or b"")
            self.counts.bytes -= size
            if record["type"] == "request":
                self.counts.requests -= 1
                self._losses.add("disk", requests=1, nbytes=size)
            elif record["type"] == "response":
                self.counts.responses -= 1
                self.counts.outcomes -= Counter([record["outcome"]])
                self._losses.add("disk", responses=1, nbytes=size)
        self._on_failure(why)


class _Losses:
    """What was lost since the last gap record, by reason; any thread may add."""

    def __init__(self, counts: Counts, *, since_ns: int) -> None:
        self._counts = counts
        self._lock = threading.Lock()
        self._since_ns = since_ns
        self.due_ns = since_ns + GAP_EVERY_NS
        self._pending: dict[str, list[int]] = {}

    def add(self, reason: str, *, requests: int = 0, responses: int = 0, nbytes: int = 0) -> None:
        with self._lock:
            lost = self._pending.setdefault(reason, [0, 0, 0])
            for place, count in enumerate((requests, responses, nbytes)):
                lost[place] += count
            self._counts.lost_by[reason] += 1
            self._counts.lost_requests += requests
            self._counts.lost_responses += responses
            self._counts.lost_bytes += nbytes

    def lost(self, item: Item, reason: str) -> None:
        match item:
            case _Asked():
                self.add(reason, requests=1, nbytes=len(item.request.body or b""))
            case _Answered():  # a body that memory did not hold is counted already
                size = item.tee.size if item.tee.pieces is not None else 0
                self.add(reason, responses=1, nbytes=size)

    def take(self, now_ns: int) -> list[Gap]:
        """The gaps since the last call, at most once a second.

        One record for each lost exchange would make the overload worse that it tells of.
        """
        if now_ns < self.due_ns:
            return []
        with self._lock:
            pending, self._pending = self._pending, {}
        since, self._since_ns = self._since_ns, now_ns
        self.due_ns = now_ns + GAP_EVERY_NS
        return [
            Gap(from_ns=since, to_ns=now_ns, requests=n[0], responses=n[1], bytes=n[2], reason=why)
            for why, n in pending.items()
        ]
