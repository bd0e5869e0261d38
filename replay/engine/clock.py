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
MISSED_S: Final = 0.025
"""A loop that has not come round for so long was stopped, or blocked."""
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
        if self.second and _width(pair) > SLACK_S / 2:
            return False
        before, wall_ns, after = pair
        self.read_at = after
        self.second, rest = divmod(wall_ns, 10**9)
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

    A loop that sleeps until something comes is woken by the first that does. So what it finds then came no
    earlier than its thread has been awake since: running, or waiting for a core (Linux's schedstat,
    proc(5); elsewhere that part counts as nothing). A thread that was stopped, or blocked elsewhere, is
    neither: then the loop misses its `tick`, and only the pass before is known; so it is in the pass that
    follows, since an interrupted wait that took too long ends without asking what is there (PEP 475).
    `number` counts the passes.
    """

    def __init__(self) -> None:
        self.number = 0
        self.empty = self._passed = trio.current_time()
        self._stopped = False
        self._stat = -1
        with suppress(OSError):
            self._stat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._awake = self._awake_s()
        trio.lowlevel.add_instrument(self)

    async def tick(self) -> None:
        """Let a pass happen every so often. Start it in a nursery, unless another task wakes as often."""
        at = trio.current_time()
        while True:
            at = max(at + TICK_S, trio.current_time())
            await trio.sleep_until(at)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 (trio's signature)
        now, awake = trio.current_time(), self._awake_s()
        before, self._stopped = self._stopped, now - self._passed > MISSED_S
        if self._stopped:
            self.empty = self._passed
        elif not before:
            self.empty = now - (awake - self._awake)
        self._passed, self._awake = now, awake
        self.number += 1

    def close(self) -> None:
        """Watch no more."""
        trio.lowlevel.remove_instrument(self)
        if self._stat >= 0:
            os.close(self._stat)

    def _awake_s(self) -> float:
        waited = int(os.pread(self._stat, 96, 0).split()[1]) if self._stat >= 0 else 0
        return time.thread_time() + waited / 1e9
