"""A worker: the process that sends. It knows no trace, no file names and no key but those on the wire.

    python -m tbench.replay.workers CALLS CONTROL SPOOL COUNTERS

The four are file descriptors from the parent (see replay.workers.pool). It ends when its calls have ended,
or when the parent is gone.
"""

import gc
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import trio

from tbench.capture.histogram import Histogram
from tbench.replay.player import Breaker, Player, punctual
from tbench.replay.sender import Call, OpenSender, Reply, make_sender
from tbench.replay.waiting import Politeness, Turns
from tbench.replay.workers.calls import CallQueue, SpoolWriter
from tbench.replay.workers.counters import Budget, SharedCounters, WorkerCounters
from tbench.replay.workers.messages import WorkerStats, WorkerTask

STALL_STEP_S: Final = 0.01


def main() -> None:
    """Work over the descriptors that were given as arguments."""
    work(*map(int, sys.argv[1:]))


def work(calls: int, control: int, spool: int, counters: int) -> None:
    """Do the task that comes over `control`."""
    messages = Connection(control)
    task: WorkerTask = messages.recv()
    shared = SharedCounters(counters, task.workers)
    with quiet(clean=task.sender == "engine"):
        trio.run(Worker(task, calls, spool, shared, messages).run)


@contextmanager
def quiet(*, clean: bool) -> Iterator[None]:
    """Keep the collector off what is there already; `clean` is for what makes no cycles: it never runs.

    A collection stops the loop for as long as it takes to look at every object.
    """
    gc.freeze()
    if clean:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()


def runnable_s() -> float:
    """Seconds that this thread has run or waited for a core (Linux; else 0, as if it had never waited).

    CPU time alone would call a sender idle that shares its core with another program, or with our own
    feeding and recording.
    """
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:
        return 0.0
    return (int(ran) + int(waited)) / 1e9


class Worker:
    """One worker at work."""

    def __init__(
        self, task: WorkerTask, calls: int, spool: int, shared: SharedCounters, control: Connection
    ) -> None:
        self.task = task
        self.counters: WorkerCounters = shared.row(task.number)
        self.control = control
        self.budget = None if task.budget is None else Budget(task.budget, shared)
        self.spool = SpoolWriter(spool)
        self.calls_fd = calls
        self.breakers = [Breaker(keyless=keyless) for keyless in task.keyless]
        self.history = None
        if task.live:
            from tbench.replay import live_history  # noqa: PLC0415 (it reads answers)

            self.history = live_history.LiveHistory()
        unsent = self.history.forgo if self.history else id
        self.turns = None if task.causal == "off" else Turns(task.causal, task.copies, unsent)
        if task.causal in {"max", "think"}:
            # Loaded with the first answer that has to be read, it would hold up all that is due meanwhile.
            import tbench.capture.providers  # noqa: F401, PLC0415
        self.stall = Histogram()
        self.late_s = 0.0

    async def run(self) -> None:
        """Get ready, send everything when told, and report."""
        task = self.task
        sock = trio.socket.from_stdlib_socket(socket.socket(fileno=self.calls_fd))
        self.queue = CallQueue(sock, self.counters, most_bytes=task.ahead_bytes)
        context = None
        if task.sender != "engine" or any(origin.scheme != "http" for origin in task.origins):
            from tbench.replay.system import tls  # noqa: PLC0415 (certificates take long to load)

            context = tls(task.ca)
        opened = make_sender(
            task.sender, task.deadlines, context, http2=task.http2, proxy=task.proxy
        )
        async with opened as sender, trio.open_nursery() as helpers:
            # First of all, so that calls are at hand when the start is told.
            helpers.start_soon(self.queue.run)
            await sender.rehearse()
            if self.budget is not None:
                sender.may_repeat = lambda call: bool(self._affords(call))
            self.player = Player(
                sender=sender,
                supply=self.queue,
                keep=self._keep,
                may_send=self._may_send,
                max_in_flight=task.max_in_flight,
                turns=self.turns,
                history=self.history,
                politeness=Politeness(task.deadlines.total) if task.polite else None,
            )
            if await self._told_to_go(sender):
                helpers.start_soon(self._stop_when_told)
                helpers.start_soon(self._measure_stalls)
                if task.polite:
                    helpers.start_soon(self.player.send_postponed)
                await self._play(sender)
            helpers.cancel_scope.cancel()

    async def _told_to_go(self, sender: OpenSender) -> bool:
        """Get ready as the parent says; False when it says stop, or is gone."""
        self.control.send("ready")
        if await self._message() != "warm":
            return False
        for origin in self.task.origins:
            await sender.preopen(origin, self.task.connections)
        self.control.send("warm")
        message = await self._message()
        if not isinstance(message, tuple):
            return False
        self.late_s = max(0.0, time.monotonic() - message[1])
        # By its distance from now: trio's clock counts from a moment of its own.
        self.player.began = trio.current_time() + (message[1] - time.monotonic())
        return True

    async def _play(self, sender: OpenSender) -> None:
        """Send everything, and report when all of it is in the spool."""
        player, spool = self.player, self.spool

        async def write() -> None:
            await spool.run()
            if spool.error is not None:
                player.cancel()

        spool.begin(player.began)
        cpu, runnable, wall = time.process_time(), runnable_s(), time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            if self.task.closed is None:
                with punctual() as player.sleep_until:
                    await player.play_open(self.task.ends)
            else:
                await player.play_closed(self.task.closed, self.task.ends)
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
            # Before the spool is finished: writing the last answers is not sending.
            runnable = max(cpu, runnable_s() - runnable)
            spool.finish()
        error = spool.error
        stats = WorkerStats(
            clock=sender.clock,
            stamps=sender.stamps,
            stall=self.stall,
            most_in_flight=player.most_in_flight,
            refused=player.refused,
            postponed=player.postponed,
            hopeless=any(breaker.on for breaker in self.breakers),
            cpu_s=cpu,
            runnable_s=runnable,
            wall_s=wall,
            starved_s=self.queue.starved_s,
            # KiB on Linux.
            peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            turns=tuple(map((self.turns or Turns("off")).counts, range(len(self.task.keyless)))),
            histories=tuple(
                self.history.counts(arm) if self.history else {}
                for arm in range(len(self.task.keyless))
            ),
            late_s=self.late_s,
            failure=None if error is None else f"cannot keep its answers: {error.strerror}",
        )
        self.control.send(stats)

    def _may_send(self, call: Call) -> bool | None:
        may = self._affords(call)
        if may:
            self.counters.issue(call.arm)
        return may

    def _affords(self, call: Call) -> bool | None:
        """Whether the budget has room for a call, which then is reserved; None: not yet."""
        return self.budget is None or self.budget.reserve(call.cost)

    def _keep(self, call: Call, reply: Reply) -> None:
        self.spool.add(call, reply)
        self.counters["ended"] = self.player.issued - self.player.in_flight
        breaker = self.breakers[call.arm]
        breaker.see(reply)
        if breaker.on and not self.player.cancelled:
            self.player.cancel()

    async def _stop_when_told(self) -> None:
        """The next message is that it is over, if only because the parent is gone."""
        await self._message()
        self.player.cancel()

    async def _message(self) -> Any:  # noqa: ANN401 (a Word, or the instant of the start)
        await trio.lowlevel.wait_readable(self.control.fileno())
        try:
            return self.control.recv()
        except (EOFError, OSError):
            return "stop"

    async def _measure_stalls(self) -> None:
        """How late this loop wakes: stamps of our own may be as late."""
        while True:
            wanted = trio.current_time() + STALL_STEP_S
            await trio.sleep_until(wanted)
            self.stall.add(trio.current_time() - wanted)
