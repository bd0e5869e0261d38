"""Two clocks read together: the kernel stamps data by the wall clock, everything else is on trio's clock.

And how long what is found when the loop wakes may have waited.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

STALE_S: Final = 0.1
"""Readings older than this are taken again: the wall clock may be set."""
SLACK_S: Final = 0.0001
"""Stamps that contradict each other by more are not to be believed: the wall clock was set."""
TICK_S: Final = 0.010
ASLEEP_S: Final = 0.0001
"""What looks like a shorter sleep may be interrupts, which no thread's clock counts."""
LATE_S: Final = 0.002
"""A sleep that lasts longer than was asked for by more is that of a stopped thread: trio asks in whole ms."""
TRIES: Final = 3
"""Of so many readings the one is kept that was interrupted least."""


class Clock:
    """Maps CLOCK_REALTIME to the monotonic clock that `now` reads (seconds), and back.

    Both advance alike on Linux, so one pair of readings holds until the wall clock is set, which `steps`
    counts.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.read_at = 0.0
        self.second = 0
        self.origin = 0.0
        self.steps = 0
        self._passed = 0.0
        self.read()

    def read(self) -> bool:
        """Take the pair of readings anew; False, and the old pair stays, when they were interrupted."""
        pair = min((self._pair() for _ in range(TRIES)), key=_width)
        # An interrupt between the readings would move all
        # stamps by as much; the old pair errs by drift alone.
        if self.second and _width(pair) > SLACK_S / 2:
            return False
        before, wall_ns, after = pair
        self.read_at = after
        self.second, rest = divmod(wall_ns, 10**9)
        # Seconds apart from nanoseconds: as one float, 1.7e9 s,
        # the wall clock would be known to 0.2 us only.
        self.origin = (before + after) / 2 - rest / 1e9
        return True

    def refresh(self, now: float) -> None:
        """Take it anew if it is stale."""
        if now - self.read_at > STALE_S:
            before = self.wall_ns(now)
            if self.read():
                self.steps += abs(self.wall_ns(now) - before) > SLACK_S * 1e9

    def past(self, at: float) -> bool:
        """Whether a time has passed; the clock is only read for one later than when it was read last."""
        if at > self._passed:
            self._passed = self.now()
        return at <= self._passed

    def of(self, second: int, ns: int) -> float:
        """The monotonic time of a kernel's stamp, a timespec."""
        return self.origin + (second - self.second) + ns * 1e-9

    def wall_ns(self, at: float) -> int:
        """The wall clock at a monotonic time, ns."""
        return self.second * 10**9 + round((at - self.origin) * 1e9)

    def _pair(self) -> tuple[float, int, float]:
        before = self.now()
        wall_ns = time.time_ns()
        return before, wall_ns, self.now()


def _width(pair: tuple[float, int, float]) -> float:
    return pair[2] - pair[0]


class Passes(trio.abc.Instrument):
    """The passes of trio's loop: what a task reads in this one was not there before `empty` (trio's clock).

    The wait of a pass asks the kernel what is ready, and sleeps only if nothing is. So after a sleep nothing
    was there until its end: as long ago as the thread has been awake since, running or waiting for a core
    (Linux's schedstat, proc(5); elsewhere that part counts as sleep). After a wait without a sleep, nothing
    was there when the wait before it asked.

    A thread may sleep for another reason. One that is stopped sleeps for longer than its loop asked, and an
    interrupted wait may end without having asked (PEP 475): it counts for nothing. One that waits for the
    interpreter, which another thread holds, may have had events long before: its sleep counts for nothing.

    `number` counts the passes.
    """

    def __init__(self) -> None:
        self.number = 0
        self._stat = -1
        with suppress(OSError):
            self._stat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._threads = trio.to_thread.current_default_thread_limiter()
        self.before_io_wait(0.0)
        self.empty = self._asked = self._begun
        trio.lowlevel.add_instrument(self)

    async def tick(self) -> None:
        """Let a pass happen every so often. Start it in a nursery, unless another task wakes as often."""
        at = trio.current_time()
        while True:
            at = max(at + TICK_S, trio.current_time())
            await trio.sleep_until(at)

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 (trio's signature)
        # Read in this order, and behind the wait in the other: where another process gets the core in
        # between, the sleep looks shorter than it was, never longer.
        self._threaded = self._threads.borrowed_tokens
        self._awake = self._awake_s()
        self._begun = trio.current_time()

    def after_io_wait(self, timeout: float) -> None:
        slept = trio.current_time() - self._begun
        if slept > ASLEEP_S:
            slept -= self._awake_s() - self._awake
        self.empty = self._asked
        if slept <= timeout + LATE_S:
            self._asked = self._begun
            if slept > ASLEEP_S and not (self._threaded or self._threads.borrowed_tokens):
                self.empty = self._asked = self._begun + slept
        self.number += 1

    def close(self) -> None:
        """Watch no more."""
        trio.lowlevel.remove_instrument(self)
        if self._stat >= 0:
            os.close(self._stat)

    def _awake_s(self) -> float:
        waited = int(os.pread(self._stat, 96, 0).split()[1]) if self._stat >= 0 else 0
        return time.thread_time() + waited / 1e9
