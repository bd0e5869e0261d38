"""The worker pool: starts the workers, sends them messages, and notices when one is gone."""

import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Final, Self

import trio

from tbench.capture.errors import InputError, InvalidRunError
from tbench.replay.workers.calls import SpoolReader
from tbench.replay.workers.counters import Budget, SharedCounters, WorkerCounters
from tbench.replay.workers.messages import WorkerStats, WorkerTask
from tbench.replay.workers.process import Here, Process, Site

GRACE_S: Final = 10.0
"""How long a worker may take to end what it was told to end, before it is killed."""


@dataclass(kw_only=True)
class WorkerHandle:
    """One worker, as the parent sees it. `lost` says how it ended before it could report, `lost_at` when.

    `budget` is what its calls draw on, if there is a bound.
    """

    number: int
    process: Process
    shared: SharedCounters
    control: Connection
    calls: socket.socket
    spool: SpoolReader
    counters: WorkerCounters
    budget: Budget | None
    stderr: IO[bytes]
    stats: WorkerStats | None = None
    lost: str | None = None
    lost_at: float | None = None
    over: trio.Event = field(default_factory=trio.Event)

    @classmethod
    @contextmanager
    def started(
        cls, task: WorkerTask, common: SharedCounters, folder: Path, site: Site
    ) -> Iterator[Self]:
        """Start a worker on its task; its spool lies in `folder`, without a name."""
        with ExitStack() as stack:
            try:
                spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            except OSError as error:
                raise InputError(
                    f"{folder}: no run can be written here: {error.strerror}"
                ) from None
            stderr = stack.enter_context(tempfile.TemporaryFile())
            shared, row = common, task.number
            if site.apart:
                shared, row = stack.enter_context(SharedCounters.made(1)), 0
            calls, their_calls = socket.socketpair()
            control, their_control = socket.socketpair()
            fds = (their_calls.fileno(), their_control.fileno(), spool.fileno(), shared.fd)
            process = site.start(task.number, fds, stderr)
            # Only the process may hold them: else its end would not be seen as the end of the stream.
            their_calls.close()
            their_control.close()
            worker = cls(
                number=task.number,
                process=process,
                shared=shared,
                control=Connection(control.detach()),
                calls=calls,
                spool=SpoolReader(spool.fileno()),
                counters=shared.row(row),
                budget=None if task.budget is None else Budget(task.budget, shared),
                stderr=stderr,
            )
            stack.callback(worker.close)
            worker.tell(task)
            yield worker

    def tell(self, message: object) -> None:
        """Send a message; a worker that is gone gets none."""
        with suppress(OSError):
            self.control.send(message)

    async def receive(self) -> Any:  # noqa: ANN401 (a Word, or WorkerStats)
        """The next message; None when the worker is gone."""
        await trio.lowlevel.wait_readable(self.control.fileno())
        try:
            return self.control.recv()
        except (EOFError, OSError):
            return None

    async def expect(self, word: str) -> None:
        """Wait for a message of getting ready; `lost` says when the worker is gone instead."""
        if await self.receive() != word:
            await self.record_exit()

    async def attend(self) -> None:
        """Until it has reported, or is gone."""
        while not self.over.is_set():
            message = await self.receive()
            if isinstance(message, WorkerStats):
                self.stats = message
                self.over.set()
            elif message is None:
                await self.record_exit()

    async def record_exit(self) -> None:
        """Wait until the process has ended, and keep how in `lost`, with the last line of its stderr."""
        code = await trio.to_thread.run_sync(self._exit_code)
        how = self.process.ending(code)
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        self.lost = f"worker {self.number + 1} {how}" + (f": {lines[-1]}" if lines else "")
        self.lost_at = time.monotonic()
        self.over.set()

    @property
    def reads(self) -> bool:
        """Whether its calls are made where it is, of the trace."""
        reading = self.process.reading
        return reading is not None and reading.refusal is None

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Close all that is held of it, on which the process ends; wait for that."""
        self.control.close()
        self.calls.close()
        self._exit_code()
        self.counters.release()

    def _exit_code(self) -> int:
        """Wait for the end of the process, which is killed when it takes too long."""
        while (code := self.process.wait(GRACE_S)) is None:
            self.process.kill()
        return code


class WorkerPool:
    """The workers of one replay. Use `started`."""

    def __init__(self, workers: Sequence[WorkerHandle], site: Site, common: SharedCounters) -> None:
        self.workers = workers
        self.site = site
        self.common = common
        self.began = 0.0
        self.stopped = trio.Event()

    @classmethod
    @contextmanager
    def started(
        cls,
        tasks: Sequence[WorkerTask],
        folder: Path,
        site: Site = Here(),  # noqa: B008 (frozen)
        ledger: Path | None = None,
        before: float = 0.0,
    ) -> Iterator[Self]:
        """Start a worker for each task at a site; their spools lie in `folder`, without a name.

        What they may have spent, and what was `before`, stays in a `ledger` (SharedCounters.made).
        """
        with ExitStack() as stack:
            common = stack.enter_context(SharedCounters.made(len(tasks), ledger, before))
            workers = [
                stack.enter_context(WorkerHandle.started(task, common, folder, site))
                for task in tasks
            ]
            yield cls(workers, site, common)

    def issued(self, arm: int = 0) -> int:
        """How many calls were sent for an arm."""
        return sum(worker.counters.issued(arm) for worker in self.workers)

    @property
    def in_flight(self) -> int:
        return sum(worker.counters.in_flight for worker in self.workers)

    @property
    def now(self) -> float:
        """Seconds since the start of the run; below 0 before it."""
        return time.monotonic() - self.began if self.began else 0.0

    @property
    def full(self) -> bool:
        """Whether every worker can begin: it had as many calls at hand as it takes."""
        return all(worker.counters["full"] for worker in self.workers)

    @property
    def lost(self) -> list[str]:
        """How the workers ended that could not report."""
        return [worker.lost for worker in self.workers if worker.lost]

    @property
    def unread(self) -> list[str]:
        """Why some machines could not go on reading the trace."""
        readings = [(worker.number + 1, worker.process) for worker in self.workers]
        return [
            f"by worker {number} on {process.node}: {process.reading.failure}"
            for number, process in readings
            if process.reading and process.reading.failure
        ]

    def counts(self, arm: int) -> list[Counter[str]]:
        """Of the calls that were made beside workers: portability, unchanged, masked (replay.target)."""
        sums = [Counter[str](), Counter[str](), Counter[str]()]
        for worker in self.workers:
            reading = worker.process.reading
            if reading and reading.counts:
                for total, counts in zip(sums, reading.counts[arm], strict=True):
                    total.update(counts)
        return sums

    def shards(self, planned: Sequence[int] | None) -> list[dict[str, Any]]:
        """What each worker had to send, and what came of it, for the run (docs/trace-format.md).

        `planned` is None where time decided how much was sent. The identity holds for each.
        """
        rows = []
        for worker in self.workers:
            ended, issued = worker.spool.read, worker.counters["ended"] + worker.counters.in_flight
            all_of_it = issued if planned is None else planned[worker.number]
            clocks, reading = worker.process.clocks, worker.process.reading
            rows.append(
                {
                    "worker": worker.number + 1,
                    "node": worker.process.node,
                    "planned": all_of_it,
                    "ended": ended,
                    "lost_in_flight": issued - ended,
                    "never_sent": all_of_it - issued,
                    "unread": reading and reading.refusal,
                    "late_s": worker.stats and worker.stats.late_s,
                    "lost_at_s": worker.lost_at and worker.lost_at - self.began,
                    "clock_ahead_s": [clock.ahead for clock in clocks],
                    "clock_uncertainty_s": [clock.uncertainty for clock in clocks],
                }
            )
        return rows

    @property
    def budgets(self) -> list[Budget]:
        """What each worker's calls draw on; none without a bound."""
        return [worker.budget for worker in self.workers if worker.budget]

    @property
    def unsettled_usd(self) -> float | None:
        """US dollars that those calls may cost whose answers will never be read; None without a bound.

        Of a machine that is gone nobody knows what it had reserved: all that it had left counts.
        """
        if not self.budgets:
            return None
        if not self.site.apart:
            return max(budget.reserved for budget in self.budgets)
        read = {
            worker.number for worker in self.workers if worker.stats and not worker.stats.failure
        }
        return sum(w.budget.left for w in self.workers if w.budget and w.number not in read)

    @property
    def stats(self) -> list[WorkerStats]:
        """What the others saw of themselves."""
        return [worker.stats for worker in self.workers if worker.stats]

    async def ready(self) -> None:
        """Wait until each could send. Raises InvalidRunError when one ended instead."""
        await self._each("ready")

    async def warm(self) -> None:
        """Tell each to open its connections. Raises InvalidRunError when one ended instead."""
        self.tell("warm")
        await self._each("warm")

    def go(self) -> None:
        """Set the one instant at which all start, and tell it to each by its own clock."""
        if self.site.apart:  # each has a page of its own: all that they may spend counts from here
            self.common.commit(sum(budget.left for budget in self.budgets))
        self.began = time.monotonic() + self.site.lead_s
        for worker in self.workers:
            ahead = next((clock.ahead for clock in worker.process.clocks), 0.0)
            worker.tell(("go", self.began + ahead))

    def tell(self, message: object) -> None:
        for worker in self.workers:
            worker.tell(message)

    def stop(self) -> None:
        """Tell each to stop sending and to cancel what is in flight."""
        self.stopped.set()
        self.tell("stop")

    def kill(self) -> None:
        """End all at once; what is in flight is lost."""
        for worker in self.workers:
            worker.kill()

    async def finished(self) -> None:
        """Wait until each has reported or is gone. One that does not stop when told is killed."""

        async def enforce() -> None:
            await self.stopped.wait()
            await trio.sleep(GRACE_S)
            self.kill()

        async def attend(worker: WorkerHandle) -> None:
            await worker.attend()
            if worker.lost:
                worker.shared.forsake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enforce)
            async with trio.open_nursery() as attendants:
                for worker in self.workers:
                    attendants.start_soon(attend, worker)
            nursery.cancel_scope.cancel()

    async def _each(self, word: str) -> None:
        async with trio.open_nursery() as nursery:
            for worker in self.workers:
                nursery.start_soon(worker.expect, word)
        if self.lost:
            raise InvalidRunError(f"{self.lost[0]}; nothing was sent")
