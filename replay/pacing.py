"""When each request is due (open modes) or how many may be in flight (closed modes): arithmetic alone.

No clock, no await, no I/O. An open pacing turns recorded offsets into due times; a closed pacing says how
many requests may be outstanding at a time. All are seconds from the run's start; recorded offsets are
seconds from the first replayed request.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from capture.errors import InputError

Schedule = Callable[[Iterable[float]], Iterator[float]]
"""Recorded offsets in, due times out: one for one, in the same order, never decreasing."""

WINDOW_S = 1.0
"""The span over which a recorded concurrency is averaged, seconds of the trace."""


def scaled(speed: float) -> Schedule:
    """Every recorded arrival at offset/speed: 2 is twice as fast."""
    return lambda offsets: (offset / speed for offset in offsets)


def constant(rate: float) -> Schedule:
    """The i-th request at i/rate, whatever the recording says."""
    return lambda offsets: (index / rate for index, _ in zip(count(), offsets, strict=False))


def poisson(rate: float, seed: int = 0) -> Schedule:
    """A Poisson process of `rate` per second: the first at 0, independent exponential gaps after it."""

    def schedule(offsets: Iterable[float]) -> Iterator[float]:
        source = random.Random(seed)
        due = 0.0
        for _ in offsets:
            yield due
            due += source.expovariate(rate)

    return schedule


def speed_for(rate: float, requests: int, span_s: float) -> float:
    """The speed at which `requests` arrivals over `span_s` come at a mean of `rate` per second.

    The mean counts gaps: n requests have n - 1. Raises InputError where the recording has no span.
    """
    if requests < 2 or span_s <= 0:
        raise InputError(
            f"--rate needs at least two requests at different times, the trace has {requests} over "
            f"{span_s:g} s; use --constant {rate:g} or --poisson {rate:g}"
        )
    return rate * span_s / (requests - 1)


def gap_between_rounds(requests: int, span_s: float) -> float:
    """The mean recorded gap, seconds: what lies between the end of a round and the next one's start.

    A recording without a span (one request, or all at once) gives one second.
    """
    return span_s / (requests - 1) if requests > 1 and span_s > 0 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """N in flight, in trace order, until the trace ends.

    With a `spawn_rate` (per second) they are one at first, and one more at each step until there are N.
    """

    limit: int
    spawn_rate: float = math.inf

    def allowed(self, tau: float) -> int:
        if self.spawn_rate == math.inf:
            return self.limit
        return min(self.limit, 1 + math.floor(max(tau, 0.0) * self.spawn_rate + 1e-9))

    def changes_after(self, tau: float) -> float:
        """When the limit next changes; infinity once it is reached."""
        now = self.allowed(tau)
        return now / self.spawn_rate if now < self.limit else math.inf

    @property
    def ends(self) -> float:
        return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Follows a recorded in-flight profile: `limits[j]` requests in window j of `window_s` seconds.

    With `repeats` the profile starts again at its end (so that a slow target still gets the whole trace).
    """

    limits: Sequence[int]
    window_s: float = WINDOW_S
    repeats: bool = False
    ends: float = field(init=False)

    def __post_init__(self) -> None:
        whole = len(self.limits) * self.window_s
        object.__setattr__(self, "ends", math.inf if self.repeats else whole)

    def allowed(self, tau: float) -> int:
        window = int(tau / self.window_s)
        if self.repeats:
            return self.limits[window % len(self.limits)]
        return self.limits[window] if window < len(self.limits) else 0

    def changes_after(self, tau: float) -> float:
        """The start of the next window, or infinity after the last."""
        if tau >= self.ends:
            return math.inf
        return (int(tau / self.window_s) + 1) * self.window_s


Closed = Fixed | Profile


def diffused(means: Iterable[float], factor: float) -> list[int]:
    """Whole limits for `factor` times the mean concurrency of each window.

    The rounding error is carried into the next window, so that every prefix of the limits sums to within
    one half of what it should.
    """
    limits = []
    carried = 0.0
    for mean in means:
        wanted = factor * mean + carried
        limit = max(0, math.floor(wanted + 0.5))
        carried = wanted - limit
        limits.append(limit)
    return limits


class Occupancy:
    """The recorded concurrency, averaged over windows: add the span of every request, in any order."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self._partial: list[float] = []
        self._steps: list[int] = []

    def add(self, start: float, end: float) -> None:
        """Count a request that was in flight from `start` to `end`, seconds."""
        first, last = int(start / self.window_s), int(end / self.window_s)
        self._reach(last + 1)
        if first == last:
            self._partial[first] += end - start
            return
        self._partial[first] += (first + 1) * self.window_s - start
        self._partial[last] += end - last * self.window_s
        self._steps[first + 1] += 1
        self._steps[last] -= 1

    def means(self) -> list[float]:
        """The time-weighted mean in flight, window by window, up to the last with anything in it."""
        means = []
        whole = 0
        for partial, step in zip(self._partial, self._steps, strict=True):
            whole += step
            means.append(whole + partial / self.window_s)
        while means and means[-1] <= 0:
            means.pop()
        return means

    def _reach(self, windows: int) -> None:
        missing = windows + 1 - len(self._partial)
        if missing > 0:
            self._partial.extend([0.0] * missing)
            self._steps.extend([0] * missing)
