"""One replay from beginning to end: planned, paced, sent by workers, and written down.

The parent reads ahead and builds the calls on one thread, and writes the run on another, behind the
sending; its trio loop only waits, for signals and for the workers.
"""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile, tee
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import trio

from tbench.capture.errors import InputError
from tbench.capture.terminal import stop_signals
from tbench.replay.background import AHEAD, BEHIND, PLAIN, on_thread
from tbench.replay.cost import cost, price_of
from tbench.replay.estimate import Survey, expected_usage, first_look
from tbench.replay.job import Job
from tbench.replay.limits import headroom
from tbench.replay.pacing import Fixed, Schedule
from tbench.replay.plan import Planned
from tbench.replay.provenance import header
from tbench.replay.request import Label
from tbench.replay.run_recorder import Account, ArmOutput, RunRecorder, Tally, Till, steal_s
from tbench.replay.runfile import Run, RunWriter, read_run
from tbench.replay.sender import Call
from tbench.replay.tls import tls
from tbench.replay.workers.call_queue import Feeder
from tbench.replay.workers.counters import MOST_ARMS
from tbench.replay.workers.pool import WorkerPool
from tbench.replay.workers.tasks import worker_tasks

# The duet: the same plan for several targets at once, request by request, in an order drawn each time.


def interleaved(arms: Sequence[Iterator[Call]], seed: int) -> Iterator[Call]:
    """The first call of each arm, in random order, then the second of each, and so on.

    Says in each of which arm it is. Raises ValueError when one has more than another: they are of the same
    plan.
    """
    if len(arms) == 1:
        yield from arms[0]
        return
    source = random.Random(seed)
    for turn in zip(*arms, strict=True):
        for arm in source.sample(range(len(turn)), len(turn)):
            turn[arm].arm = arm
            yield turn[arm]


# The calls of a plan: each request built for its target, given its due time and what it may cost.


def calls(job: "Job", plan: Iterable[Planned], schedule: Schedule | None) -> Iterator[Call]:
    """The calls of a plan, built one by one as they are asked for; due by `schedule` if there is one."""
    if schedule is None:
        return (_call(job, planned, None) for planned in plan)
    planned, ahead = tee(plan)
    dues = schedule(request.offset for request in ahead)
    timed: Iterator[tuple[float, Planned]] = zip(dues, planned, strict=True)
    if job.options.duration is not None:
        timed = takewhile(lambda pair: pair[0] < (job.options.duration or 0), timed)
    return (_call(job, request, due) for due, request in timed)


def _call(job: "Job", planned: Planned, due: float | None) -> Call:
    call = job.target.call(planned, due)
    if job.options.max_cost is not None:
        call.cost = most_cost(planned, Label.unpack(call.label))
    return call


def most_cost(planned: Planned, label: Label) -> float:
    """What a call costs, US dollars, if it uses all the output it may; 0 without a price.

    Prompt tokens are the recorded ones, else a third of the body's bytes.
    """
    price = price_of(label.model)
    if price is None:
        return 0.0
    usage = expected_usage(planned)
    allowed = (planned.info.max_tokens or 0) * planned.info.n
    prompt = label.request_bytes // 3 if usage.prompt is None else usage.prompt
    return cost(price, prompt=prompt, output=max(allowed, usage.output or 0))


# Shards: which worker sends which request. A session stays with one worker, from its first turn on.


class Shards:
    """The plan, and beside it the worker of each request that was drawn from it: `next`, in that order."""

    def __init__(self, plan: Iterable[Planned], workers: int) -> None:
        self._plan = plan
        self._workers = workers
        self._drawn: deque[int] = deque()

    def __iter__(self) -> Iterator[Planned]:
        for planned in self._plan:
            if self._workers > 1:
                self._drawn.append(crc32(b"%d" % planned.session) % self._workers)
            yield planned

    def next(self) -> int:
        """The worker of the next request."""
        return self._drawn.popleft() if self._workers > 1 else 0


LEAD_S: Final = 0.05
"""From the word to start to the start."""
PREPARE_S: Final = 2.0
"""Calls are built for so long at most before the first is sent."""
HORIZON_S: Final = 3.0
"""Enough is built when it lasts for so long."""
POLL_S: Final = 0.005


@dataclass(kw_only=True)
class Live:
    """What may be watched while a replay runs. `expected()` is how many requests, None if unknown.

    `tallies` (one for each target) count what has been read of the answers, which may be behind the
    sending.
    """

    crew: WorkerPool
    tallies: Sequence[Tally]
    expected: Callable[[], int | None]
    duration_s: float | None

    @property
    def tally(self) -> Tally:
        """Of the first target, which is mostly the only one."""
        return self.tallies[0]

    @property
    def issued(self) -> int:
        """How many requests were sent, to all targets."""
        return sum(self.crew.issued(arm) for arm in range(len(self.tallies)))

    @property
    def in_flight(self) -> int:
        return self.crew.in_flight

    @property
    def now(self) -> float:
        """Seconds since the start, 0 before it."""
        return max(0.0, self.crew.now)


Watch = Callable[[Live], Awaitable[None]]
"""Started with the live figures, and cancelled when the replay is over."""


def run_replay(job: Job, watch: Watch | None = None, *, fork: bool = False) -> Run:
    """Replay; returns the finished run, read back from its file.

    `fork` says that this process runs no event loop: workers that are forked start at once.
    Raises InputError before anything is sent, InvalidRunError when the run cannot be written (what was
    written stays in OUT.part).
    """
    (run,) = run_duet((job,), watch=watch, fork=fork)
    return run


def run_duet(
    jobs: Sequence[Job], seed: int = 0, watch: Watch | None = None, *, fork: bool = False
) -> list[Run]:
    """Replay one trace to several targets at once, request by request in random order; a run for each.

    The jobs differ in `target`, `out` and their options for the target only; what else they say, the first
    one says. At most replay.workers.counters.MOST_ARMS. Raises as `run_replay`.
    """
    if len(jobs) > MOST_ARMS:
        raise InputError(f"{len(jobs)} targets at once: at most {MOST_ARMS} are possible")
    survey = first_look(jobs[0])
    _check_headroom(jobs[0], survey)
    _check_trust(jobs)
    closed = None if jobs[0].pace.is_open else jobs[0].pace.closed(survey)
    folder = jobs[0].out.absolute().parent
    with _unwrapped(), WorkerPool.hired(worker_tasks(jobs, closed), folder, fork=fork) as crew:
        paths = trio.run(_ReplayRun(jobs, survey, seed, crew).run, watch)
    return [read_run(path) for path in paths]


def _check_headroom(job: Job, survey: Survey | None) -> None:
    """Raise InputError where a closed loop needs more connections than can be had."""
    if job.pace.is_open:
        return
    closed = job.pace.closed(survey)
    most = closed.limit if isinstance(closed, Fixed) else max(closed.limits)
    if objection := headroom().objection(most, job.workers):
        raise InputError(objection)


def _check_trust(jobs: Sequence[Job]) -> None:
    """Raise InputError where what is to verify https cannot be read, before a process starts."""
    https = any(job.target.base_url.startswith("https:") for job in jobs)
    if https or jobs[0].ca or jobs[0].sender == "httpx":
        tls(jobs[0].ca)


class _ArmState:
    """One target's share in a replay: its plan and its tally."""

    def __init__(self, job: Job, survey: Survey | None, *, rewrites: bool) -> None:
        self.job = job
        plan = job.plan(answers=job.options.max_cost is not None)  # which prices what was answered
        self.plan = replace(plan, rewrites=rewrites)  # as any of them: all send the same requests
        self.shards = Shards(self.plan, job.workers)
        self.tally = Tally()
        schedule = job.pace.schedule(survey) if job.pace.is_open else None
        self.calls = calls(job, self.shards, schedule)


class _ReplayRun:
    """One replay on its way."""

    feeder: Feeder
    recorder: RunRecorder

    def __init__(
        self, jobs: Sequence[Job], survey: Survey | None, seed: int, crew: WorkerPool
    ) -> None:
        self.crew = crew
        self.job = jobs[0]
        rewrites = any(job.target.rewrites for job in jobs)
        self.arms = [_ArmState(job, survey, rewrites=rewrites) for job in jobs]
        self.seed = seed
        self.survey = survey
        self.plan = self.arms[0].plan
        self.interrupts = 0
        self.fed = trio.Event()
        self.steal = steal_s()

    async def run(self, watch: Watch | None) -> list[Path]:
        self.feeder = self._feeder()
        async with trio.open_nursery() as helpers:
            helpers.start_soon(self._watch_signals)
            helpers.start_soon(self._feed)
            try:
                writers = await self._prepared()
                if watch:
                    helpers.start_soon(watch, self._live())
                await self._play(writers)
            finally:
                self.feeder.stop()  # its thread cannot be cancelled
            planned = await self._planned()
            helpers.cancel_scope.cancel()
        return [writer.close(self._totals(arm, planned)) for arm, writer in enumerate(writers)]

    async def _prepared(self) -> list[RunWriter]:
        """Everything that can be done before the first request, and the files open."""
        await self.crew.ready()
        await self._built()
        if not self.feeder.drawn:
            raise InputError(self._nothing())
        await self.crew.warm()
        return [self._writer(arm) for arm in range(len(self.arms))]

    def _writer(self, arm: int) -> RunWriter:
        job = self.arms[arm].job
        duet = {"arm": arm, "arms": len(self.arms), "seed": self.seed}
        run_header = {**header(job, self.survey), "duet": duet if len(self.arms) > 1 else None}
        return RunWriter(job.out, run_header, clock=time.monotonic)

    async def _built(self) -> None:
        """Wait until enough calls are built: all, as many as workers take, or for the next seconds."""
        feeder = self.feeder

        def enough() -> bool:
            lasts = (feeder.horizon or 0.0) > HORIZON_S
            return feeder.done or self.crew.full or lasts or bool(self.interrupts)

        with trio.move_on_after(PREPARE_S):
            await _until(enough)
        await _until(lambda: bool(feeder.drawn) or feeder.done)

    async def _play(self, writers: Sequence[RunWriter]) -> None:
        """Have everything sent, and return when all of it is written down."""
        self.recorder = RunRecorder(
            spools=[member.spool for member in self.crew.members],
            outputs=[self._output(arm, writer) for arm, writer in enumerate(writers)],
            till=None if self.job.options.max_cost is None else Till(self.crew.pulse),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_thread, self.recorder.follow, BEHIND)
            try:
                self.crew.go(LEAD_S)
                if self.interrupts:
                    self.crew.stop()
                await self.crew.finished()
            finally:
                self.recorder.finish()
        await on_thread(self.recorder.complete, PLAIN)

    async def _feed(self) -> None:
        try:
            await on_thread(self.feeder.run, AHEAD)
        finally:
            self.fed.set()

    def _feeder(self) -> Feeder:
        drawn = interleaved([arm.calls for arm in self.arms], self.seed)
        return Feeder(
            drawn,
            [member.feed for member in self.crew.members],
            lambda call: self.arms[call.arm].shards.next(),
        )

    async def _planned(self) -> int | None:
        """How many requests there were for each target; None for what was sent, where time ended it."""
        timed = self.job.options.duration is not None or self.plan.rounds is None
        if not self.job.pace.is_open and timed:
            return None
        await self.fed.wait()
        rest = await trio.to_thread.run_sync(self.feeder.rest, lambda: self.interrupts > 1)
        return math.ceil((self.feeder.drawn + rest) / len(self.arms))

    def _output(self, arm: int, writer: RunWriter) -> ArmOutput:
        state = self.arms[arm]
        return ArmOutput(
            writer=writer,
            tally=state.tally,
            progress=lambda: {"planned": self._known(), "issued": self.crew.issued(arm)},
            secrets=state.job.target.secrets,
        )

    def _live(self) -> Live:
        return Live(
            crew=self.crew,
            tallies=[arm.tally for arm in self.arms],
            expected=self._expected,
            duration_s=self.job.options.duration,
        )

    def _expected(self) -> int | None:
        """How many requests there will be: by the survey, or at most as many as the trace holds."""
        each = self._each()
        return None if each is None else each * len(self.arms)

    def _each(self) -> int | None:
        if self.plan.rounds is None or self.job.options.duration is not None:
            return None
        held = self.survey.requests if self.survey else self.job.trace.totals.get("requests")
        if not held:
            return None
        return min(held * self.plan.rounds, self.job.options.requests or held * self.plan.rounds)

    def _known(self) -> int:
        """How many requests for each target are known to be planned so far."""
        drawn = math.ceil(self.feeder.drawn / len(self.arms))
        if self.survey is None or self.plan.rounds is None or self.job.options.duration is not None:
            return drawn
        return self._each() or drawn

    def _nothing(self) -> str:
        skipped = ", ".join(f"{count} {reason}" for reason, count in self.plan.skipped.items())
        why = f" (left out: {skipped})" if skipped else ""
        if "only" in self.plan.skipped:
            why += "; --only takes an endpoint (chat, embeddings), a model or a recorded host"
        return f"{self.job.options.trace}: holds no request to send{why}"

    async def _watch_signals(self) -> None:
        """The first signal to stop ends the sending, the second also what follows it."""
        if threading.current_thread() is not threading.main_thread():
            return
        with trio.open_signal_receiver(*stop_signals()) as signals:
            async for _ in signals:
                self.interrupts += 1
                if self.interrupts > 1:
                    self.crew.kill()
                elif self.crew.began:
                    self.crew.stop()

    def _totals(self, arm: int, planned: int | None) -> dict[str, Any]:
        state = self.arms[arm]
        account = Account(
            job=state.job,
            plan=state.plan,
            tally=state.tally,
            crew=self.crew,
            issued=self.crew.issued(arm),
            planned=planned,
            interrupted=bool(self.interrupts),
            steal_s=None if self.steal is None else (steal_s() or 0.0) - self.steal,
        )
        return account.totals()


async def _until(true: Callable[[], bool]) -> None:
    """Wait for what a thread or another process will do."""
    while not true():  # noqa: ASYNC110 (neither can set an event of this loop)
        await trio.sleep(POLL_S)


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
