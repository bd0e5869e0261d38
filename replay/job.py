"""A replay from beginning to end: the trace is planned, paced, sent by workers, and written down.

The parent reads ahead and builds the calls on one thread, and writes the run on another, behind the
sending; its trio loop only waits, for signals and for the workers.
"""

import os
import signal
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
from replay.budget import Till
from replay.calls import calls
from replay.httpx_sender import tls
from replay.pace import NEEDS_SURVEY, Pace
from replay.plan import Plan
from replay.provenance import header
from replay.quiet import AHEAD, BEHIND, on_thread
from replay.runfile import Run, RunWriter, read_run
from replay.sample import Fate
from replay.scribe import Scribe
from replay.sender import Deadlines
from replay.senders import Kind, chosen
from replay.survey import Survey, survey
from replay.tally import Tally
from replay.target import Target
from replay.warmup import Warmup
from replay.workers.crew import Crew
from replay.workers.duties import duties
from replay.workers.feeder import Feeder
from replay.workers.shards import Shards

LEAD_S: Final = 0.05
"""From the word to start to the start."""
PREPARE_S: Final = 2.0
"""Calls are built for so long at most before the first is sent."""
HORIZON_S: Final = 3.0
"""Enough is built when it lasts for so long."""
POLL_S: Final = 0.005


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a replay needs to know. `trace_path` and `argv` are only written down.

    `rounds` repeats the trace, `requests` and `duration_s` end it early (due, or sent in a closed loop,
    before that time; what is in flight then still finishes). `max_cost` is in US dollars. `workers` is
    how many processes send.
    """

    trace: Trace
    trace_path: Path
    out: Path
    target: Target
    pace: Pace = field(default=Pace())
    deadlines: Deadlines = field(default=Deadlines())
    sender: Kind = field(default_factory=lambda: chosen("auto"))
    http2: bool = False
    proxy: str | None = field(default=None, repr=False)
    workers: int = 1
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
    """What may be watched while a replay runs. `expected()` is how many requests, None if unknown.

    `crew` says `issued`, `in_flight`, and `now` in seconds since the start; `tally` counts what has been
    read of the answers, which may be behind the sending.
    """

    crew: Crew
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
    tls(job.ca)  # what is wrong with it is said before a process starts
    with _unwrapped():
        path = trio.run(_Performance(job, found).run, watch)
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

    crew: Crew
    feeder: Feeder
    scribe: Scribe

    def __init__(self, job: Job, found: Survey | None) -> None:
        self.job = job
        self.found = found
        self.plan = job.plan()
        self.closed = None if job.pace.is_open else job.pace.closed(found)
        self.schedule = job.pace.schedule(found) if job.pace.is_open else None
        self.tally = Tally()
        self.interrupts = 0
        self.fed = trio.Event()
        self.steal = _steal_s()

    async def run(self, watch: Watch | None) -> Path:
        plan = duties(self.job, self.closed)
        with Crew.hired(plan, self.job.out.absolute().parent) as self.crew:
            self.feeder = self._feeder()
            try:
                async with trio.open_nursery() as helpers:
                    helpers.start_soon(self._heed_signals)
                    helpers.start_soon(self._feed)
                    writer = await self._prepared()
                    if watch:
                        helpers.start_soon(watch, self._live())
                    await self._play(writer)
                    never_sent = await self._never_sent()
                    helpers.cancel_scope.cancel()
            finally:
                self.feeder.stop()
            return writer.close(self._totals(never_sent))

    async def _prepared(self) -> RunWriter:
        """Everything that can be done before the first request, and the run's file open."""
        await self.crew.ready()
        await self._built()
        if not self.feeder.drawn:
            raise InputError(self._nothing())
        await self.crew.warm()
        return RunWriter(self.job.out, header(self.job, self.found), clock=time.monotonic)

    async def _built(self) -> None:
        """Wait until enough calls are built: all, as many as workers take, or for the next seconds."""
        with trio.move_on_after(PREPARE_S):
            await _until(lambda: self._enough or bool(self.interrupts))
        await _until(lambda: bool(self.feeder.drawn) or self.feeder.done)

    @property
    def _enough(self) -> bool:
        feeder = self.feeder
        return feeder.done or self.crew.full or (feeder.horizon or 0.0) > HORIZON_S

    async def _play(self, writer: RunWriter) -> None:
        """Have everything sent, and return when all of it is written down."""
        self.scribe = self._scribe(writer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_thread, self.scribe.run, BEHIND)
            try:
                self.crew.go(LEAD_S)
                if self.interrupts:
                    self.crew.stop()
                await self.crew.finished()
            finally:
                self.scribe.finish()

    async def _feed(self) -> None:
        try:
            await on_thread(self.feeder.run, AHEAD)
        finally:
            self.fed.set()

    def _feeder(self) -> Feeder:
        shards = Shards(self.plan, self.job.workers)
        return Feeder(
            calls(self.job, shards, self.schedule),
            [member.feed for member in self.crew.members],
            shards.next,
        )

    async def _never_sent(self) -> int:
        """Planned and not issued. A closed loop that its time ends has planned what it issued."""
        timed = self.job.duration_s is not None or self.plan.rounds is None
        if self.closed is not None and timed:
            return 0
        self.feeder.stop()
        await self.fed.wait()
        rest = await trio.to_thread.run_sync(self.feeder.rest, lambda: self.interrupts > 1)
        return self.feeder.drawn + rest - self.crew.issued

    def _scribe(self, writer: RunWriter) -> Scribe:
        return Scribe(
            spools=[member.spool for member in self.crew.members],
            writer=writer,
            tally=self.tally,
            till=None if self.job.max_cost is None else Till(self.crew.pulse),
            progress=lambda: {"planned": self._known(), "issued": self.crew.issued},
            secrets=self.job.target.secrets,
        )

    def _live(self) -> Live:
        return Live(
            crew=self.crew,
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
            return self.feeder.drawn
        return self._expected() or self.feeder.drawn

    def _nothing(self) -> str:
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.plan.skipped.items())
        why = f" (left out: {skipped})" if skipped else ""
        return f"{self.job.trace_path}: holds no request to send{why}"

    async def _heed_signals(self) -> None:
        """The first SIGINT or SIGTERM stops the sending, the second also what follows it."""
        if threading.current_thread() is not threading.main_thread():
            return
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.interrupts += 1
                if self.interrupts > 1:
                    self.crew.kill()
                elif self.crew.began:
                    self.crew.stop()

    def _totals(self, never_sent: int) -> dict[str, Any]:
        fates = self.tally.fates
        issued = self.crew.issued
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
            **self._own(),
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

    def _own(self) -> dict[str, Any]:
        """What the client says of itself: its clock, and how near it was to its own limits."""
        reports = self.crew.reports
        stall = Lag()
        for report in reports:
            stall.merge(report.stall)
        clocks = {report.clock for report in reports} or {"user"}
        share = self.tally.coalesced_share if self.job.sender == "engine" else None
        return {
            "clock": clocks.pop() if len(clocks) == 1 else "user",
            "coalesced_share": share,
            "loop_stall_s": _seconds(stall),
            "most_in_flight": sum(report.most_in_flight for report in reports),
            "workers": self.job.workers,
            "lost_workers": self.crew.lost,
            "client": {
                "cpu_share": max((r.cpu_s / r.wall_s for r in reports if r.wall_s), default=None),
                "steal_s": None if self.steal is None else (_steal_s() or 0.0) - self.steal,
                "starved": sum(member.row["starved"] for member in self.crew.members),
                "kernel_stamps": sum(report.stamps[0] for report in reports),
                "user_stamps": sum(report.stamps[1] for report in reports),
                "peak_rss": max((report.peak_rss for report in reports), default=None),
            },
        }

    def _ended_by(self) -> str:
        if self.interrupts:
            return "interrupt"
        if any(report.failure for report in self.crew.reports):
            return "disk"
        if any(report.hopeless for report in self.crew.reports):
            return "errors"
        if any(report.refused for report in self.crew.reports):
            return "max_cost"
        return "plan"


async def _until(true: Callable[[], bool]) -> None:
    """Wait for what a thread or another process will do."""
    while not true():  # noqa: ASYNC110 (neither can set an event of this loop)
        await trio.sleep(POLL_S)


def _seconds(lag: Lag) -> dict[str, float | None]:
    named = {"p50": lag.quantile(0.5), "p99": lag.quantile(0.99), "max": lag.quantile(1.0)}
    return {name: None if late is None else late / 1e9 for name, late in named.items()}


def _steal_s() -> float | None:
    """CPU time that a hypervisor gave to others since boot, seconds over all cores; None: not known here."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return None
    return int(first[8]) / os.sysconf("SC_CLK_TCK") if len(first) > 8 else None


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
