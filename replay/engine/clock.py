"""Two clocks read together: the kernel stamps data by the wall clock, everything else is on trio's clock."""

import time
from collections.abc import Callable
from typing import Final

STALE_S: Final = 0.1
"""Readings older than this are taken again: the wall clock may be set."""
SLACK_S: Final = 0.0001
"""Stamps that contradict each other by more are not to be believed: the wall clock was set."""
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
