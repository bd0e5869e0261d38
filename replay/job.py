"""A replay from beginning to end: the trace is planned, paced, sent, and written down.

One nursery holds the helpers (reading ahead, writing, signals, the loop's lateness, progress); the
player's own nursery holds the requests.
"""

import math
import signal
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from capture.errors import InputError
from capture.lag import Lag
from capture.tracereader import Trace
from replay.ahead import Ahead
from replay.alarm import punctual
from replay.calls import calls
from replay.httpx_sender import tls
from replay.pace import NEEDS_SURVEY, Pace
from replay.plan import Plan
from replay.player import Attempt, Player
from replay.provenance import header
from replay.quiet import undisturbed
from replay.runfile import Run, RunWriter, read_run
from replay.sample import Fate
from replay.scribe import Scribe
from replay.sender import Call, Deadlines
from replay.senders import Kind, OpenSender, chosen, make_sender
from replay.survey import Survey, survey
from replay.tally import Budget, Tally
from replay.target import Target
from replay.warmup import Warmup

LEAD_S: Final = 0.05
STALL_STEP_S: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a replay needs to know. `trace_path` and `argv` are only written down.

    `rounds` repeats the trace, `requests` and `duration_s` end it early (due, or sent in a closed loop,
    before that time; what is in flight then still finishes). `max_cost` is in US dollars.
    """

    trace: Trace
    trace_path: Path
    out: Path
    target: Target
    pace: Pace = field(default=Pace())
    deadlines: Deadlines = field(default=Deadlines())
    sender: Kind = field(default_factory=lambda: chosen("auto"))
    rounds: int = 1
    requests: int | None = None
    duration_s: float | None = None
    warmup: Warmup = field(default=Warmup())
    allow_unsafe: bool = False
    max_cost: float | None = None
    key_name: str | None = None
    ca: Path | None = None
    argv: tuple[str, ...] = ()

    def plan(self) -> Plan:
        """What is sent: without end where a recorded profile decides how much."""
        follows = self.pace.mode == "concurrency-scale" and self.pace.until == "profile"
        return Plan(
            trace=self.trace,
            rounds=None if follows else self.rounds,
            requests=self.requests,
            allow_unsafe=self.allow_unsafe,
        )


@dataclass(kw_only=True)
class Live:
    """What may be watched while a replay runs. `expected()` is how many requests, None if unknown."""

    player: Player
    tally: Tally
    expected: Callable[[], int | None]
    duration_s: float | None


Watch = Callable[[Live], Awaitable[None]]
"""Started with the live figures, and cancelled when the replay is over."""


def perform(job: Job, watch: Watch | None = None) -> Run:
    """Replay; returns the finished run, read back from its file.

    Raises InputError before anything is sent, InvalidRunError when the run cannot be written (what was
    written stays in OUT.part).
    """
    found = first_look(job)
    performance = _Performance(job, found)
    with undisturbed(), _unwrapped():
        path = trio.run(performance.run, tls(job.ca), watch)
    return read_run(path)


def first_look(job: Job, *, tokens: bool = False) -> Survey | None:
    """Survey the trace where the pacing or the budget needs it, or `tokens` are asked for."""
    priced = tokens or job.max_cost is not None
    if job.pace.mode not in NEEDS_SURVEY and not priced:
        return None
    found = survey(job.plan(), job.target if priced else None)
    if job.max_cost is not None and found.bill.unpriced:
        unknown = ", ".join(sorted(found.bill.unpriced))
        raise InputError(f"--max-cost cannot be kept: no price is known for {unknown}")
    return found


class _Performance:
    """One replay on its way."""

    def __init__(self, job: Job, found: Survey | None) -> None:
        self.job = job
        self.found = found
        self.plan = job.plan()
        self.closed = None if job.pace.is_open else job.pace.closed(found)
        schedule = job.pace.schedule(found) if job.pace.is_open else None
        self.ahead = Ahead(calls(job, self.plan, schedule), lambda call: call.request_bytes)
        self.tally = Tally()
        self.budget = None if job.max_cost is None else Budget(limit=job.max_cost)
        self.stall = Lag()
        self.interrupts = 0
        self.hopeless = False

    async def run(self, context: ssl.SSLContext, watch: Watch | None) -> Path:
        sending = make_sender(self.job.sender, self.job.deadlines, context)
        async with sending as sender, trio.open_nursery() as helpers:
            self.sender = sender
            self.player = self._player(sender)
            helpers.start_soon(self._heed_signals)
            helpers.start_soon(self.ahead.run)
            await sender.rehearse()
            if not await self.ahead.ready():
                raise InputError(self._nothing())
            writer = RunWriter(self.job.out, header(self.job, self.found), clock=time.monotonic)
            self.scribe = self._scribe(writer)
            helpers.start_soon(self._measure_stalls)
            if watch:
                helpers.start_soon(watch, self._live())
            await self._play()
            never_sent = await self._never_sent()
            helpers.cancel_scope.cancel()
        return writer.close(self._totals(never_sent))

    async def _play(self) -> None:
        """Send everything, and return when all of it is written down."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.scribe.run)
            if self.closed is None:
                with punctual() as self.player.sleep_until:
                    await self.player.play_open(self.ahead)
            else:
                ends = math.inf if self.job.duration_s is None else self.job.duration_s
                await self.player.play_closed(self.ahead, self.closed, ends)
            self.scribe.finish()

    async def _never_sent(self) -> int:
        """Planned and not issued. A closed loop that its time ends has planned what it issued."""
        timed = self.job.duration_s is not None or self.plan.rounds is None
        if self.closed is not None and timed:
            return 0
        total = await self.ahead.total(lambda: self.interrupts > 1)
        return total - self.player.issued

    def _player(self, sender: OpenSender) -> Player:
        return Player(
            sender=sender,
            keep=self._keep,
            may_send=self._may_send,
            max_in_flight=self.job.pace.max_in_flight,
            lead_s=LEAD_S,
        )

    def _scribe(self, writer: RunWriter) -> Scribe:
        return Scribe(
            writer=writer,
            tally=self.tally,
            budget=self.budget,
            progress=lambda: {"planned": self._known(), "issued": self.player.issued},
            began=lambda: self.player.began,
            secrets=self.job.target.secrets,
        )

    def _live(self) -> Live:
        return Live(
            player=self.player,
            tally=self.tally,
            expected=self._expected,
            duration_s=self.job.duration_s,
        )

    def _expected(self) -> int | None:
        """How many requests there will be: by the survey, or at most as many as the trace holds."""
        if self.plan.rounds is None or self.job.duration_s is not None:
            return None
        held = self.found.requests if self.found else self.job.trace.totals.get("requests")
        if not held:
            return None
        return min(held * self.plan.rounds, self.job.requests or held * self.plan.rounds)

    def _known(self) -> int:
        """How many requests are known to be planned so far."""
        if self.found is None or self.plan.rounds is None or self.job.duration_s is not None:
            return self.ahead.drawn
        return self._expected() or self.ahead.drawn

    def _nothing(self) -> str:
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.plan.skipped.items())
        why = f" (left out: {skipped})" if skipped else ""
        return f"{self.job.trace_path}: holds no request to send{why}"

    def _keep(self, attempt: Attempt) -> None:
        self.scribe.keep(attempt)
        if self.tally.hopeless and not self.hopeless:
            self.hopeless = True
            self.player.cancel()

    def _may_send(self, call: Call) -> bool:
        return self.budget is None or self.budget.allows(call.index, call.cost or 0.0)

    async def _heed_signals(self) -> None:
        """The first SIGINT or SIGTERM stops the sending, the second also the counting after it."""
        if threading.current_thread() is not threading.main_thread():
            return
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.interrupts += 1
                self.player.cancel()

    async def _measure_stalls(self) -> None:
        """How late this loop wakes: every stamp may be as late."""
        while True:
            wanted = trio.current_time() + STALL_STEP_S
            await trio.sleep_until(wanted)
            self.stall.add(round((trio.current_time() - wanted) * 1e9))

    def _totals(self, never_sent: int) -> dict[str, Any]:
        fates = self.tally.fates
        issued = self.player.issued
        return {
            "planned": issued + never_sent,
            "completed": fates[Fate.COMPLETED],
            "failed": fates[Fate.FAILED],
            "cancelled": fates[Fate.CANCELLED],
            "lost_in_flight": issued - self.tally.ended,
            "never_sent": never_sent,
            "skipped": dict(self.plan.skipped),
            "trace_losses": self._trace_losses(),
            "ended_by": self._ended_by(),
            "warmup_s": self.job.warmup.seconds(self.tally.last_end),
            "most_in_flight": self.player.most_in_flight,
            "loop_stall_s": _seconds(self.stall),
            **self._stamps(),
            "cost": {
                "usd": self.tally.bill.usd,
                "unpriced": dict(self.tally.bill.unpriced),
                "uncounted": self.tally.bill.uncounted,
            },
        }

    def _trace_losses(self) -> dict[str, Any]:
        """What of the application's traffic the trace does not hold, as far as it was read."""
        dropped = self.job.trace.totals.get("dropped_requests", 0)
        lost = {**asdict(self.job.trace.losses), "dropped_requests": dropped}
        return {name: count for name, count in lost.items() if count}

    def _stamps(self) -> dict[str, Any]:
        """What stamped the answers, and how many of the tokens have the stamp of a later one."""
        clock = self.sender.clock
        share = self.tally.coalesced_share if self.job.sender == "engine" else None
        return {"clock": clock, "coalesced_share": share}

    def _ended_by(self) -> str:
        if self.interrupts:
            return "interrupt"
        if self.hopeless:
            return "errors"
        if self.player.refused:
            return "max_cost"
        return "plan"


def _seconds(lag: Lag) -> dict[str, float | None]:
    named = {"p50": lag.quantile(0.5), "p99": lag.quantile(0.99), "max": lag.quantile(1.0)}
    return {name: None if late is None else late / 1e9 for name, late in named.items()}


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise the one error inside nested groups by itself: it has a line for the user."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
