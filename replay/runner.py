"""One replay from beginning to end: planned, paced, sent by workers, and written down.

The parent reads ahead and builds the calls on one thread, and writes the run on another, behind the
sending; its trio loop only waits, for signals and for the workers.
"""

import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, repeat, takewhile, tee
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, Final
from zlib import crc32

import trio

from tbench.capture.errors import InputError, TbenchError
from tbench.capture.remote import RemotePath, as_path
from tbench.capture.runtime import stop_signals
from tbench.capture.trace_reader import batches
from tbench.replay.cost import Bill
from tbench.replay.estimate import Survey, first_look
from tbench.replay.fidelity import ARRIVALS
from tbench.replay.hit_rates import hit_rates
from tbench.replay.job import Job
from tbench.replay.pacing import Fixed
from tbench.replay.plan import Turn, nothing_to_send
from tbench.replay.probe import probe_of, told_by
from tbench.replay.provenance import header
from tbench.replay.run_recorder import ArmOutput, RunRecorder, Tally, run_totals
from tbench.replay.runfile import Run, RunWriter, read_run
from tbench.replay.system import AHEAD, BEHIND, PLAIN, on_thread, steal_s, tls
from tbench.replay.target import Recipe, Step
from tbench.replay.workers.calls import Feeder
from tbench.replay.workers.carrier import Entries
from tbench.replay.workers.counters import MOST_ARMS
from tbench.replay.workers.messages import worker_tasks
from tbench.replay.workers.pool import WorkerPool
from tbench.replay.workers.process import Here, Site

# The duet: the same plan for several targets at once, request by request, in an order drawn each time.


def interleaved(arms: Sequence[Iterator[Step]], seed: int) -> Iterator[Step]:
    """The first step of each arm, in random order, then the second of each, and so on.

    Raises ValueError when one has more than another: they are of the same plan.
    """
    source = random.Random(seed)
    for turn in zip(*arms, strict=True):
        # Drawn for each request: who is always second finds what the first has warmed.
        yield from source.sample(turn, len(turn))


# The steps of a plan: each request with its due time.


def steps(job: "Job", plan: Iterable[Turn], survey: Survey | None, arm: int = 0) -> Iterator[Step]:
    """The steps of a plan, as they are asked for; due by its schedule in an open loop."""
    plan = chain.from_iterable(batches(plan))
    if not job.pace.is_open:
        return map(Step, plan, repeat(None), repeat(arm))
    # Two readers of one plan, a step apart: a schedule
    # asks for the offset of the very request that it dates.
    planned, ahead = tee(plan)
    dues = job.pace.schedule(survey)(request.offset for request in ahead)
    if (ends := job.options.duration) is not None:
        dues = takewhile(lambda due: due < ends, dues)
    pairs = zip(planned, dues, strict=ends is None)
    return (Step(request, due, arm) for request, due in pairs)


def recipe_of(jobs: Sequence[Job], survey: Survey | None) -> Recipe:
    """How the calls of jobs are made that differ in their targets."""
    job = jobs[0]
    return Recipe(
        targets=[each.target for each in jobs],
        speed=job.pace.speed(survey),
        priced=job.budget is not None,
    )


def worker_of(session: int, workers: int, places: int | None = None) -> int:
    """Which worker sends the requests of a session, all of them: it uses that one's connections.

    A worker that holds more of the `places` in flight (None: as many as any other) has as much more to send.
    """
    return crc32(b"%d" % session) % (places or workers) % workers  # as messages.share divides them


PREPARE_S: Final = 2.0
"""Calls are built for so long at most before the first is sent."""
HORIZON_S: Final = 3.0
"""Enough is built when it lasts for so long."""
POLL_S: Final = 0.005
ONE_MOMENT_S: Final = 0.3


@dataclass(kw_only=True)
class Progress:
    """What may be watched while a replay runs. `expected()` is how many requests, None if unknown.

    Until that is `settled` it is about so many: what is left out, and how many conversations a fraction of a
    clone has, shows only when the trace has been read.

    `tallies` (one for each target) count what has been read of the answers, which may be behind the
    sending.
    """

    pool: WorkerPool
    tallies: Sequence[Tally]
    expected: Callable[[], int | None]
    duration_s: float | None
    settled: Callable[[], bool] = lambda: True

    @property
    def tally(self) -> Tally:
        """Of the first target, which is mostly the only one."""
        return self.tallies[0]

    @property
    def issued(self) -> int:
        """How many requests were sent, to all targets."""
        return sum(self.pool.issued(arm) for arm in range(len(self.tallies)))

    @property
    def in_flight(self) -> int:
        return self.pool.in_flight

    @property
    def now(self) -> float:
        """Seconds since the start, 0 before it."""
        return max(0.0, self.pool.now)


Watch = Callable[[Progress], Awaitable[None]]
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
    jobs = _probed(jobs, fork=fork)
    job = jobs[0]
    closed = None if job.pace.is_open else job.pace.closed(survey)
    https = any(each.target.base_url.startswith("https:") for each in jobs)
    if https or job.ca or job.sender == "httpx":
        tls(job.ca)  # certificates that cannot be read are named before a process starts
    folder = Path(gettempdir()) if isinstance(job.out, RemotePath) else job.out.absolute().parent
    try:
        with (
            _site(job, fork=fork) as site,
            WorkerPool.started(
                worker_tasks(jobs, closed), folder, site, job.ledger, job.spent
            ) as pool,
        ):
            if closed:
                most = closed.limit if isinstance(closed, Fixed) else max(closed.limits)
                if objection := site.headroom.objection(most, job.workers):
                    raise InputError(objection)
            replay = _ReplayRun(jobs, survey, seed, pool)
            paths = trio.run(replay.run, watch)
    except BaseExceptionGroup as group:  # of groups of one error, which has a line for the user
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    plans = [arm.plan for arm in replay.arms]
    return [
        replace(read_run(path), arrivals=plan.arrivals if plan.noted else None)
        for path, plan in zip(paths, plans, strict=True)
    ]


@contextmanager
def _site(job: Job, *, fork: bool) -> Iterator[Site]:
    """Where the workers of a job run."""
    if job.options.on is None:
        yield Here(fork=fork)
        return
    from tbench.replay.workers.on_ray import Fleet  # noqa: PLC0415 (an extra)

    path = as_path(job.options.trace).absolute()
    with Fleet.sent_out(job.options.on, job.workers, path, job.trace.identity) as fleet:
        yield fleet


def _probed(jobs: Sequence[Job], *, fork: bool) -> list[Job]:
    """The jobs with what two equal requests tell of each target, where that is asked for.

    All draw on one budget.
    """
    probed, spent = [], 0.0
    for job in jobs:
        told = None
        if job.probes:
            with TemporaryDirectory() as folder:
                trial = probe_of(replace(job, spent=spent), Path(folder))
                if trial is not None:
                    run = run_replay(trial, fork=fork)
                    if run.totals["ended_by"] == "interrupt":
                        raise KeyboardInterrupt
                    told = told_by(run)
                    spent += told["most_usd"]
        probed.append(replace(job, probe=told))
    return [replace(job, spent=spent) for job in probed]


class _ArmState:
    """One target's share in a replay: its plan and its tally."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.plan = job.plan(answers=job.target.lengths != "no", noted=ARRIVALS)
        self.tally = Tally(bill=Bill(prices=job.target.prices))


class _ReplayRun:
    """One replay on its way. `interrupts` counts the signals to stop."""

    def __init__(
        self, jobs: Sequence[Job], survey: Survey | None, seed: int, pool: WorkerPool
    ) -> None:
        self.pool = pool
        self.job = jobs[0]
        if len(jobs) > 1:  # all send the same requests
            targets = tuple(job.target for job in jobs)
            jobs = [replace(job, beside=targets) for job in jobs]
        self.arms = [_ArmState(job) for job in jobs]
        self.seed = seed
        self.survey = survey
        self.plan = self.arms[0].plan
        bare = all(worker.reads for worker in pool.workers)

        def planned(arm: _ArmState) -> Iterable[Turn]:
            return arm.plan.turns() if bare else arm.plan

        recipe, workers, places = recipe_of(jobs, survey), self.job.workers, self.job.pace.places
        arms = [steps(arm.job, planned(arm), survey, place) for place, arm in enumerate(self.arms)]
        self.feeder = Feeder(
            arms[0] if len(arms) == 1 else interleaved(arms, seed),
            [worker.calls for worker in pool.workers],
            lambda step: worker_of(step.planned.session, workers, places),
            [Entries(recipe) if worker.reads else recipe.frame for worker in pool.workers],
        )
        self.fed = trio.Event()
        self.interrupts = 0
        self.trace_failure: str | None = None
        self.steal = steal_s()

    async def run(self, watch: Watch | None) -> list[Path]:
        async with trio.open_nursery() as helpers:
            helpers.start_soon(self._watch_signals)
            helpers.start_soon(self._feed)
            try:
                await self._get_ready()
                writers = self._writers()
                if watch:
                    tallies = [arm.tally for arm in self.arms]
                    duration = self.job.options.duration
                    progress = Progress(
                        pool=self.pool,
                        tallies=tallies,
                        expected=self._expected,
                        duration_s=duration,
                        settled=lambda: self.feeder.done or self.survey is not None,
                    )
                    helpers.start_soon(watch, progress)
                await self._play(writers)
            finally:
                self.feeder.stop()  # its thread cannot be cancelled
            planned = await self._planned()
            rates = [await trio.to_thread.run_sync(self._hit_rates, arm) for arm in self.arms]
            helpers.cancel_scope.cancel()
        steal = None if self.steal is None else (steal_s() or 0.0) - self.steal
        paths, failures = [], []
        for arm, (state, writer) in enumerate(zip(self.arms, writers, strict=True)):
            totals = run_totals(
                job=state.job,
                plan=state.plan,
                tally=state.tally,
                pool=self.pool,
                arm=arm,
                planned=planned,
                interrupted=bool(self.interrupts),
                trace_failure=self.trace_failure or "; ".join(self.pool.unread) or None,
                steal_s=steal,
                hit_rates=rates[arm],
                shares=self.feeder.shares,
            )
            try:
                paths.append(writer.close(totals))
            except TbenchError as error:  # the others were measured, too
                failures.append(error)
        if failures:
            raise type(failures[0])("; ".join(map(str, failures)))
        return paths

    def _hit_rates(self, arm: _ArmState) -> dict[str, Any] | None:
        """What caches gave; None where that is not asked any more, or the trace is gone."""
        if self.interrupts:
            return None
        with suppress(TbenchError, OSError):
            return hit_rates(arm.job.plan(), arm.job.target, arm.tally.readings)
        return None

    async def _get_ready(self) -> None:
        """Do what can be done before the first request, such as building the calls that will be needed soon.

        Those are all, as many as workers take, or those of the next seconds.
        """
        pool, feeder = self.pool, self.feeder

        def enough() -> bool:
            lasts = (feeder.horizon or 0.0) > HORIZON_S
            return feeder.done or pool.full or lasts or bool(self.interrupts)

        await pool.ready()
        with trio.move_on_after(PREPARE_S):
            await _until(enough)
        await _until(lambda: bool(feeder.drawn) or feeder.done)
        if not feeder.drawn:
            await self.fed.wait()
            # Where the plan could not be made, the feed has the reason, and this ends here.
            await trio.lowlevel.checkpoint()
            job = self.job
            raise nothing_to_send(job.options.trace, self.plan.skipped, job.only.words)
        await pool.warm()

    def _writers(self) -> list[RunWriter]:
        """The files, opened; they say which worker is to send what, before the first request leaves."""
        writers, workers = [], self.pool.workers
        shards = {
            "rule": "crc32 of the session in decimal, modulo places, modulo workers",
            "places": self.job.pace.places or len(workers),
            "workers": len(workers),
            "nodes": [worker.process.node for worker in workers],
        }
        for arm, state in enumerate(self.arms):
            duet = {"arm": arm, "arms": len(self.arms), "seed": self.seed}
            run_header = header(state.job, self.survey)
            run_header["shards"] = shards
            run_header["duet"] = duet if len(self.arms) > 1 else None
            writers.append(RunWriter(state.job.out, run_header, clock=time.monotonic))
        return writers

    async def _play(self, writers: Sequence[RunWriter]) -> None:
        """Have everything sent, and return when all of it is written down."""
        pool = self.pool

        def output(arm: int, writer: RunWriter) -> ArmOutput:
            state = self.arms[arm]
            return ArmOutput(
                writer=writer,
                tally=state.tally,
                progress=lambda: {"planned": self._known(), "issued": pool.issued(arm)},
                secrets=state.job.target.secrets,
            )

        recorder = RunRecorder(
            spools=[worker.spool for worker in pool.workers],
            outputs=[output(arm, writer) for arm, writer in enumerate(writers)],
            budgets=pool.budgets,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_thread, recorder.follow, BEHIND)
            try:
                # Behind the writers: a run whose file cannot be begun has sent nothing.
                pool.go()
                if self.interrupts:
                    pool.stop()
                await pool.finished()
            finally:
                recorder.finish()
        await on_thread(recorder.complete, PLAIN)

    async def _feed(self) -> None:
        try:
            await on_thread(self.feeder.run, AHEAD)
        except TbenchError as error:  # the trace is not there any more: what was fed is sent
            if not self.feeder.drawn:
                raise
            self.trace_failure = str(error)
        finally:
            self.fed.set()

    async def _planned(self) -> int | None:
        """How many requests there were for each target; None for what was sent, where time ended it."""
        timed = self.job.options.duration is not None or self.plan.rounds is None
        if not self.job.pace.is_open and timed:
            return None
        await self.fed.wait()
        rest = await trio.to_thread.run_sync(self.feeder.rest, lambda: self.interrupts > 1)
        return math.ceil((self.feeder.drawn + rest) / len(self.arms))

    def _expected(self) -> int | None:
        """How many requests there are, once all are drawn; else by the survey, or as the trace holds."""
        if self.feeder.done:
            return self.feeder.drawn
        each = self._each()
        return None if each is None else each * len(self.arms)

    def _each(self) -> int | None:
        """The same for each target."""
        if self.plan.rounds is None or self.job.options.duration is not None:
            return None
        recorded = self.job.trace.totals.get("requests", 0)
        held = self.survey.requests if self.survey else round(recorded * self.plan.clones.number)
        if not held:
            return None
        return min(held * self.plan.rounds, self.job.options.requests or held * self.plan.rounds)

    def _known(self) -> int:
        """How many requests for each target are known to be planned so far."""
        drawn = math.ceil(self.feeder.drawn / len(self.arms))
        return drawn if self.survey is None else self._each() or drawn

    async def _watch_signals(self) -> None:
        """The first signal to stop ends the sending, the second also what follows it.

        `timeout`, and a service manager, signal a process and its group: those of one moment are one.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        with trio.open_signal_receiver(*stop_signals()) as signals:
            counted_s = -math.inf
            async for _ in signals:
                if trio.current_time() < counted_s + ONE_MOMENT_S:
                    continue
                counted_s = trio.current_time()
                self.interrupts += 1
                if self.interrupts > 1:
                    self.pool.kill()
                elif self.pool.began:
                    self.pool.stop()


async def _until(true: Callable[[], bool]) -> None:
    """Wait for what a thread or another process will do."""
    while not true():  # noqa: ASYNC110 (neither can set an event of this loop)
        await trio.sleep(POLL_S)
