"""A worker: the process that sends. It knows no trace, no file names and no key but those on the wire.

    python -m tbench.replay.workers FEED CONTROL SPOOL PULSE

The four are file descriptors from the parent (see replay.workers.pool). It ends when its calls have ended,
or when the parent is gone.
"""

import gc
import math
import resource
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import trio

from tbench.capture.histogram import Histogram
from tbench.replay.breaker import Brake
from tbench.replay.player import Player, punctual
from tbench.replay.sender import Attempt, Call
from tbench.replay.senders import OpenSender, make_sender
from tbench.replay.workers.call_queue import Feed
from tbench.replay.workers.counters import SharedCounters, WorkerCounters
from tbench.replay.workers.messages import WorkerStats, WorkerTask
from tbench.replay.workers.spool import SpoolWriter

# The purse: the worker's side of the budget (replay.run_recorder has the other).


class Purse:
    """US dollars that may be spent. `allows` reserves one more call's, or says that it would not fit."""

    def __init__(self, limit: float, pulse: SharedCounters) -> None:
        self._limit = limit
        self._pulse = pulse
        self._reserved = 0.0

    def allows(self, most: float) -> bool:
        spent, freed = self._pulse.settled
        if math.fsum((spent, self._reserved, -freed, most)) > self._limit:
            return False
        self._reserved += most
        return True


STALL_STEP_S: Final = 0.01


def main() -> None:
    """Work over the descriptors that were given as arguments."""
    work(*map(int, sys.argv[1:]))


def work(feed: int, control: int, spool: int, pulse: int) -> None:
    """Do the task that comes over `control`."""
    messages = Connection(control)
    duty: WorkerTask = messages.recv()
    with quiet(clean=duty.sender == "engine"):
        trio.run(Worker(duty, feed, spool, SharedCounters(pulse, duty.workers), messages).run)


@contextmanager
def quiet(*, clean: bool) -> Iterator[None]:
    """Keep the collector off what is there already; `clean` is for what makes no cycles: it never runs."""
    gc.freeze()
    if clean:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _trust(duty: WorkerTask) -> ssl.SSLContext | None:
    """What verifies https; None where nothing is sent by it: certificates take long to load."""
    if duty.sender == "engine" and all(origin.scheme == "http" for origin in duty.origins):
        return None
    from tbench.replay.tls import tls  # noqa: PLC0415

    return tls(duty.ca)


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
        self, duty: WorkerTask, feed: int, spool: int, pulse: SharedCounters, control: Connection
    ) -> None:
        self.duty = duty
        self.row: WorkerCounters = pulse.row(duty.number)
        self.control = control
        self.purse = None if duty.budget is None else Purse(duty.budget, pulse)
        self.spool = SpoolWriter(spool)
        self.feed_fd = feed
        self.brakes = [Brake(keyless=keyless) for keyless in duty.keyless]
        self.stall = Histogram()

    async def run(self) -> None:
        """Get ready, send everything when told, and report."""
        duty = self.duty
        sock = trio.socket.from_stdlib_socket(socket.socket(fileno=self.feed_fd))
        feed = Feed(sock, self.row, most_bytes=duty.ahead_bytes)
        sending = make_sender(
            duty.sender, duty.deadlines, _trust(duty), http2=duty.http2, proxy=duty.proxy
        )
        async with sending as sender, trio.open_nursery() as helpers:
            helpers.start_soon(feed.run)
            await sender.rehearse()
            self.player = self._player(sender, feed)
            if await self._begun(sender):
                helpers.start_soon(self._heed)
                helpers.start_soon(self._measure_stalls)
                await self._play(sender)
            helpers.cancel_scope.cancel()

    async def _begun(self, sender: OpenSender) -> bool:
        """Get ready as the parent says; False when it is not to be."""
        self.control.send("ready")
        if await self._word() != "warm":
            return False
        for origin in self.duty.origins:
            await sender.preopen(origin, self.duty.connections)
        self.control.send("warm")
        word = await self._word()
        if not isinstance(word, tuple):
            return False
        self.player.began = trio.current_time() + (word[1] - time.monotonic())
        return True

    async def _play(self, sender: OpenSender) -> None:
        """Send everything, and report when all of it is in the spool."""
        self.spool.begin(self.player.began)
        cpu, runnable, wall = time.process_time(), runnable_s(), time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._spool)
            if self.duty.closed is None:
                with punctual() as self.player.sleep_until:
                    await self.player.play_open()
            else:
                await self.player.play_closed(self.duty.closed, self.duty.ends)
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
            runnable = max(cpu, runnable_s() - runnable)
            self.spool.finish()
        self.control.send(self._report(sender, cpu, runnable, wall))

    def _player(self, sender: OpenSender, feed: Feed) -> Player:
        return Player(
            sender=sender,
            supply=feed,
            keep=self._keep,
            may_send=self._may_send,
            max_in_flight=self.duty.max_in_flight,
        )

    def _may_send(self, call: Call) -> bool:
        if self.purse is not None and not self.purse.allows(call.cost):
            return False
        self.row.issue(call.arm)
        return True

    def _keep(self, attempt: Attempt) -> None:
        self.spool.add(attempt)
        self.row["ended"] = self.player.issued - self.player.in_flight
        brake = self.brakes[attempt.arm]
        brake.see(attempt.reply)
        if brake.on and not self.player.cancelled:
            self.player.cancel()

    async def _spool(self) -> None:
        await self.spool.run()
        if self.spool.error is not None:
            self.player.cancel()

    async def _heed(self) -> None:
        """The next word is that it is over, if only because the parent is gone."""
        await self._word()
        self.player.cancel()

    async def _word(self) -> Any:  # noqa: ANN401 (a Word, or the instant of the start)
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

    def _report(
        self, sender: OpenSender, cpu_s: float, runnable_s: float, wall_s: float
    ) -> WorkerStats:
        error = self.spool.error
        return WorkerStats(
            clock=sender.clock,
            stamps=sender.stamps,
            stall=self.stall,
            most_in_flight=self.player.most_in_flight,
            refused=self.player.refused,
            hopeless=any(brake.on for brake in self.brakes),
            cpu_s=cpu_s,
            runnable_s=runnable_s,
            wall_s=wall_s,
            peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            failure=None if error is None else f"cannot keep its answers: {error.strerror}",
        )
