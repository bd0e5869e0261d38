"""When each request is due (open loops) or how many may be in flight (closed loops): arithmetic alone.

No clock, no await, no I/O. An open loop turns recorded offsets into due times; a closed loop says how many
requests may be outstanding at a time. All are seconds from the run's start; recorded offsets are seconds
from the first replayed request. The pacings are rows of replay.options.ReplayOptions: a new one is one more
row there, with a `PacingOption`.
"""

import math
import random
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate, count
from typing import TYPE_CHECKING, ClassVar, Final, Literal, overload

from tbench.capture.errors import InputError
from tbench.capture.option import Option

if TYPE_CHECKING:
    from tbench.replay.estimate import Survey

Schedule = Callable[[Iterable[float]], Iterator[float]]
"""Recorded offsets in, due times out: one for one, in the same order, never decreasing."""

Causal = Literal["max", "think", "strict", "off"]
"""When a turn is due that continues an earlier answer (replay.waiting).

max: at its scheduled time, or when that answer has ended and the think time has passed, whichever is later.
think: then, whatever the schedule says; only first turns follow it. strict: at its scheduled time, though the
answer may not have ended. off: as strict, and nobody looks which turns continue which.
"""
WINDOW_S = 1.0
"""The span over which a recorded concurrency is averaged, seconds of the trace."""


def scaled(speed: float) -> Schedule:
    """Every recorded arrival at offset/speed: 2 is twice as fast."""
    return lambda offsets: (offset / speed for offset in offsets)


def constant(rate: float) -> Schedule:
    """The i-th request at i/rate, whatever the recording says."""
    # Divided each time: a sum of gaps of 1/rate would drift by its rounding.
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


def ramped(dues: Iterable[float], seconds: float) -> Iterator[float]:
    """Due times at a rate that grows evenly from none to what it would be, for so many seconds.

    Until then half of it has come: the rest is later by half the ramp.
    """
    half = seconds / 2
    # At time t of a ramp of R seconds t^2 / 2R of the schedule has come: t = sqrt(2 R due).
    return (math.sqrt(4 * half * due) if due < half else due + half for due in dues)


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


# Clones: how many copies of the recording there are, and by how much each is shifted.

HASHES: Final = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Clones:
    """So many copies of each session, of which the first stays where it was.

    A fraction of a copy has that share of the sessions, drawn by their hashes. The others are shifted
    `within` so many seconds, or (None) round the whole recording: traffic that is added to itself at
    independent times keeps its index of dispersion, in step it has it times their number.
    """

    number: float = 1.0
    within: float | None = None
    seed: int = 0

    def __len__(self) -> int:
        return math.ceil(self.number)

    def shifts(self, period: float) -> list[float]:
        """Seconds by which each copy is later than the recording, which comes round after `period`.

        Round the recording they are about as far apart as they can be; each is drawn from the middle half of
        its part, so that none falls on another, nor all on one hour of the day.
        """
        source = random.Random(self.seed)
        if self.within is not None:
            return [0.0, *(source.uniform(0, self.within) for _ in range(1, len(self)))]
        part = period / len(self)
        return [0.0, *((copy + source.uniform(-0.25, 0.25)) * part for copy in range(1, len(self)))]

    def has(self, clone: int, session: int) -> bool:
        """Whether a session is in a copy: in a fraction of one only if its hash is low enough."""
        if clone + 1 <= self.number:
            return True
        digest = blake2b(b"%d %d" % (self.seed, session), digest_size=8).digest()
        return int.from_bytes(digest) < (self.number - clone) * HASHES

    @property
    def meaning(self) -> str:
        """A clause for people; nothing where there is one copy."""
        if self.number == 1:
            return ""
        how = f"shifted by up to {self.within or 0:g} s (seed {self.seed})"
        if self.within is None:
            how = f"shifted round the recording (seed {self.seed})"
        elif self.within == 0:
            how = "in step, which multiplies every burst"
        return f"; {self.number:g} copies of each session, {how}, each with its own salt"


ALONE: Final = Clones()


def parse_clone_shift(text: str) -> float | None:
    """`circular` (None), or seconds."""
    if text == "circular":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise InputError(f"--clone-shift {text}: give circular, or seconds from 0")
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """N in flight, in trace order, until the trace ends; or N sessions under way, `by_session`.

    With a `spawn_rate` (per second) they are one at first, and one more at each step until there are N.
    """

    limit: int
    spawn_rate: float = math.inf
    by_session: bool = False

    def allowed(self, tau: float) -> int:
        if self.spawn_rate == math.inf:
            return self.limit
        # 1e-9: at the very step, n / rate * rate may come out a digit below n.
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

    With `repeats` the profile starts again at its end (so that a slow target still gets the whole trace). Of
    several workers each has its part of every limit.
    """

    limits: Sequence[int]
    window_s: float = WINDOW_S
    repeats: bool = False
    worker: int = 0
    workers: int = 1
    ends: float = field(init=False)
    by_session: ClassVar = False

    def __post_init__(self) -> None:
        lasts = len(self.limits) * self.window_s
        object.__setattr__(self, "ends", math.inf if self.repeats else lasts)

    def allowed(self, tau: float) -> int:
        window = int(tau / self.window_s)
        if self.repeats:
            window %= len(self.limits)
        limit = self.limits[window] if window < len(self.limits) else 0
        return share(limit, self.worker, self.workers)

    def changes_after(self, tau: float) -> float:
        """The start of the next window that may allow another number, or infinity after the last."""
        if tau >= self.ends:
            return math.inf
        rounds, window = divmod(int(tau / self.window_s), len(self.limits))
        follows = (
            self.limits.changes_after(window) if isinstance(self.limits, Limits) else window + 1
        )
        return (rounds * len(self.limits) + follows) * self.window_s


Closed = Fixed | Profile


def share(total: int, worker: int, workers: int) -> int:
    """A worker's part of a whole number; the parts add up."""
    return total // workers + (worker < total % workers)


class Stretches(Sequence[float]):
    """A mean for each window, kept as (windows, mean) where neighbours have the same: years may be empty."""

    def __init__(self, stretches: Iterable[tuple[int, float]] = ()) -> None:
        self.parts = [part for part in stretches if part[0]]
        self._ends = list(accumulate(windows for windows, _ in self.parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, window: int) -> float: ...
    @overload
    def __getitem__(self, window: slice) -> list[float]: ...
    def __getitem__(self, window: int | slice) -> float | list[float]:
        if isinstance(window, slice):
            return [self[place] for place in range(*window.indices(len(self)))]
        return self.parts[bisect_right(self._ends, range(len(self))[window])][1]


class Limits(Sequence[int]):
    """Whole limits whose sum up to any window is within one half of what the means times `factor` sum to.

    Each is the difference of two rounded sums, so that none has to be kept.
    """

    def __init__(self, means: Stretches, factor: float) -> None:
        self._slopes = [float(factor * mean) for _, mean in means.parts]
        self._starts = [0, *accumulate(windows for windows, _ in means.parts)]
        rises = (n * slope for (n, _), slope in zip(means.parts, self._slopes, strict=True))
        self._sums = [0.0, *accumulate(rises)]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def total(self) -> int:
        """The sum of all."""
        return math.floor(self._sums[-1] + 0.5)

    @overload
    def __getitem__(self, window: int) -> int: ...
    @overload
    def __getitem__(self, window: slice) -> list[int]: ...
    def __getitem__(self, window: int | slice) -> int | list[int]:
        if isinstance(window, slice):
            return [self[place] for place in range(*window.indices(len(self)))]
        at = range(len(self))[window]
        return max(0, self._up_to(at + 1) - self._up_to(at))

    def changes_after(self, window: int) -> int:
        """The next window that may have another limit: years without traffic are one step."""
        part = bisect_right(self._starts, window) - 1
        return self._starts[part + 1] if self._slopes[part].is_integer() else window + 1

    def _up_to(self, windows: int) -> int:
        part = min(bisect_right(self._starts, windows), len(self._slopes)) - 1
        rise = (windows - self._starts[part]) * self._slopes[part]
        return math.floor(self._sums[part] + rise + 0.5)


def diffused(means: Stretches | Iterable[float], factor: float) -> Limits:
    """Whole limits for `factor` times the mean concurrency of each window."""
    known = means if isinstance(means, Stretches) else Stretches((1, mean) for mean in means)
    return Limits(known, factor)


class Occupancy:
    """The recorded concurrency, averaged over windows: add the span of every request, in any order.

    Memory goes by requests, not by time.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self._partial: dict[int, float] = defaultdict(float)
        self._steps: dict[int, int] = defaultdict(int)

    def add(self, start: float, end: float) -> None:
        """Count a request that was in flight from `start` to `end`, seconds."""
        first, last = int(start / self.window_s), int(end / self.window_s)
        if first == last:
            self._partial[first] += end - start
            return
        self._partial[first] += (first + 1) * self.window_s - start
        self._partial[last] += end - last * self.window_s
        self._steps[first + 1] += 1
        self._steps[last] -= 1

    def means(self) -> Stretches:
        """The time-weighted mean in flight, window by window, up to the last with anything in it."""
        parts: list[tuple[int, float]] = []
        level = at = 0
        for window in sorted({*self._partial, *self._steps}):
            parts.append((window - at, level))
            level += self._steps.get(window, 0)
            parts.append((1, max(0.0, level + self._partial.get(window, 0.0) / self.window_s)))
            at = window + 1
        while parts and parts[-1][1] <= 0:
            parts.pop()
        return Stretches(parts)


@dataclass(frozen=True, kw_only=True)
class PacingOption(Option):
    """An option that is a pacing: its value is a factor, a rate in requests/s, or a number in flight.

    `meaning` says it in one sentence, with `value`, `gap` (1/value), `seed`, `until`, and `each` where a
    value is for each of several copies. An open loop has `schedule`, a closed one `limits`; both get the
    pacing as it was asked for, and the survey of the trace if it `needs_survey`. Recorded times go by at
    `speed` (1 where the pacing does not change it); one that is not `timed` uses think times alone. `load` is
    what its value says of how many processes it takes: a rate, a number of streams, or nothing.
    """

    rival: str | None = "pacing"
    meaning: str
    schedule: "Callable[[Pacing, Survey | None], Schedule] | None" = None
    limits: "Callable[[Pacing, Survey | None], Closed] | None" = None
    speed: "Callable[[Pacing, Survey | None], float]" = lambda _pacing, _survey: 1.0
    timed: bool = False
    needs_survey: bool = False
    load: Literal["rate", "streams"] | None = None


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """How a trace is paced: the option that was given and its `value`; `mode` is its name, with hyphens.

    `seed` is for poisson and clones; `until` (profile or trace) for concurrency-scale. `max_in_flight` caps
    an open loop: what waits for it still counts its latency from when it was due. `spawn_rate` (per second)
    lets a concurrency grow to its value, `ramp` (s) any load. `causal` says when turns are due,
    `live` that they hold what the target answered. `clones` are
    the copies that are sent; of a stretch with nothing in flight `max_idle` recorded seconds are left.
    """

    option: PacingOption
    mode: str
    value: float
    seed: int = 0
    until: Literal["profile", "trace"] = "profile"
    max_in_flight: int | None = None
    spawn_rate: float | None = None
    causal: Causal = "max"
    live: bool = False
    clones: Clones = ALONE
    ramp: float | None = None
    max_idle: float | None = None

    @property
    def places(self) -> int | None:
        """How many calls, or conversations, may be in flight at once; None: any number."""
        return int(self.value) if self.option.load == "streams" else self.max_in_flight

    @property
    def is_open(self) -> bool:
        """Whether requests are due at times of their own: then latency counts from those."""
        return self.option.schedule is not None

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        sentence = self.option.meaning.format(
            value=self.value,
            seed=self.seed,
            gap=1 / self.value,
            until=self.until,
            each="" if self.clones.number == 1 else f" for each of {self.clones.number:g} copies",
        )
        cap = f"; at most {self.max_in_flight} in flight" if self.max_in_flight else ""
        ramp = f"; growing by {self.spawn_rate:g} a second" if self.spawn_rate else ""
        if self.ramp is not None:
            ramp = f"; growing to that for {self.ramp:g} s"
        thinking = "" if self.option.timed else " within a think time"
        idle = "" if self.max_idle is None else f"; at most {self.max_idle:g} s idle{thinking}"
        turns = "" if self.causal == "max" else f"; turns by --causal {self.causal}"
        turns += "; the target's own answers in later turns" if self.live else ""
        return sentence + self.clones.meaning + idle + cap + ramp + turns

    def schedule(self, survey: "Survey | None") -> Schedule:
        """The due times of an open loop."""
        if self.option.schedule is None:
            raise ValueError(f"{self.mode} is a closed loop")
        schedule, seconds = self.option.schedule(self, survey), self.ramp
        return schedule if seconds is None else lambda offsets: ramped(schedule(offsets), seconds)

    def speed(self, survey: "Survey | None") -> float:
        """How many recorded seconds go by in one of the replay."""
        return self.option.speed(self, survey)

    def closed(self, survey: "Survey | None") -> Closed:
        """The limits of a closed loop."""
        if self.option.limits is None:
            raise ValueError(f"{self.mode} is an open loop")
        return self.option.limits(self, survey)


def recorded(pacing: Pacing, survey: "Survey | None") -> Schedule:
    """The recorded times, at the pacing's speed."""
    return scaled(pacing.speed(survey))


def to_mean_rate(pacing: Pacing, survey: "Survey | None") -> float:
    """The speed at which the recorded times have a mean of `value` requests per second."""
    assert survey is not None
    return speed_for(pacing.value, survey.requests, survey.span_s)


def fixed(pacing: Pacing, _survey: "Survey | None") -> Closed:
    """`value` in flight, at once or growing by `spawn_rate` a second or for the ramp."""
    rate = pacing.spawn_rate or math.inf
    if pacing.ramp is not None:
        rate = (pacing.value - 1) / pacing.ramp or math.inf
    return Fixed(limit=int(pacing.value), spawn_rate=rate, by_session=pacing.mode == "sessions")


def profile(pacing: Pacing, survey: "Survey | None") -> Closed:
    """The recorded number in flight times `value`. Raises InputError where that is never one."""
    assert survey is not None
    if not len(survey.in_flight):
        raise InputError(
            "--concurrency-scale: this trace has no answers (a synthesised one has none), so nothing "
            "was ever in flight; give a number with --concurrency"
        )
    limits = diffused(survey.in_flight, pacing.value)
    if not limits.total:
        raise InputError(
            f"--concurrency-scale {pacing.value:g}: the recorded number in flight times that never "
            "reaches one request; raise it"
        )
    return Profile(limits=limits, repeats=pacing.until == "trace")


# The warm-up: how much of a run's beginning is kept, marked, and left out of the statistics.

AUTO_S: Final = 60.0
AUTO_SHARE: Final = 1 / 16


@dataclass(frozen=True, slots=True)
class Warmup:
    """`auto` is the first 60 s and at most one sixteenth of the run; else seconds or a share (0 to 1)."""

    kind: Literal["auto", "seconds", "share"] = "auto"
    value: float = 0.0

    def seconds(self, duration_s: float) -> float:
        """Its length in a run of `duration_s` seconds."""
        match self.kind:
            case "auto":
                return min(AUTO_S, AUTO_SHARE * duration_s)
            case "seconds":
                return self.value
            case "share":
                return self.value * duration_s


def parse_warmup(text: str) -> Warmup:
    """`auto`, `none`, seconds (`30`), or a share of the run (`5%`)."""
    if text == "auto":
        return Warmup()
    if text == "none":
        return Warmup("seconds", 0.0)
    if not (match := re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%|s)?", text)):
        raise InputError(f"--warmup {text!r}: write auto, none, seconds (30) or a share (5%)")
    number = float(match[1])
    if match[2] != "%":
        return Warmup("seconds", number)
    if number >= 100:
        raise InputError(f"--warmup {text}: nothing of the run would be left")
    return Warmup("share", number / 100)
