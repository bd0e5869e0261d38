"""Summary: one sample's quantiles, their intervals, and what cannot be said.

The intervals of this file treat requests as independent of each other. That makes them descriptive:
they are shown beside one run, and never decide between two (docs/statistics.md).
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from tbench.capture.exchange import NOTHING
from tbench.replay import metrics
from tbench.replay.counted import Counted, Ranked, Spread
from tbench.replay.metrics import minimum_n

Floats = npt.NDArray[np.float64]

# One arithmetic of ranks, and of what timeouts hide, for runs and comparisons.
quantile, rank = metrics.quantile, metrics.rank
identified, wilson = metrics.identified, metrics.wilson
_ROUNDING = 1e-9
_WINDOW_SD, _WINDOW_RANKS = 14, 50
"""Harrell-Davis weights beyond so many standard deviations and so many ranks more are below 1e-20: near an
end they fall by a factor of e a rank, and not as a normal density does."""


def ordered(values: Floats) -> Floats:
    """The values in ascending order: NaN (no such value) dropped, +inf (timed out) last.

    Values that are so already come back as they are, uncopied.
    """
    present = values[~np.isnan(values)] if np.isnan(values).any() else values
    return present if bool((present[1:] >= present[:-1]).all()) else np.sort(present)


def several(values: Floats, points: Sequence[float]) -> list[float]:
    """The quantiles of values in any order, NaN dropped, without sorting them all; none of no values."""
    present = values[~np.isnan(values)]
    return metrics.quantiles(present, points) if len(present) else []


def interval_ranks(n: int, p: float, confidence: float = 0.95) -> tuple[int, int]:
    """The ranks whose order statistics enclose the p-quantile, exactly, for independent values.

    Rank 0 and rank n + 1 do not exist: that side is unbounded (n is too small for this p).
    """
    tail = (1 - confidence) / 2
    # By the binomial chance of at most k, and of more than k, of n values below the quantile.
    low = bisect_left(range(n), tail, key=lambda k: float(special.betainc(n - k, k + 1, 1 - p)))
    high = bisect_left(range(n), -tail, key=lambda k: -float(special.betainc(k + 1, n - k, p)))
    return low, high + 1


def quantile_interval(ordered: Ranked, p: float) -> tuple[float | None, float | None]:
    """The order statistics at `interval_ranks`; None is unbounded, or among the timeouts."""
    low, high = interval_ranks(len(ordered), p)
    return _at(ordered, low), _at(ordered, high)


def harrell_davis(ordered: Ranked, p: float) -> float:
    """A smoother estimate of the p-quantile: the mean of all values under Beta weights.

    One timeout (+inf) would make it infinite: for finite values only.
    """
    n = len(ordered)
    # Only the weights that a float can tell from zero: a million values would cost a million Betas.
    centre, spread = p * n, _WINDOW_SD * math.sqrt(n * p * (1 - p)) + _WINDOW_RANKS
    first, last = max(0, math.floor(centre - spread)), min(n, math.ceil(centre + spread))
    edges = np.arange(first, last + 1) / n
    weights = np.diff(special.betainc((n + 1) * p, (n + 1) * (1 - p), edges))
    return float(weights @ ordered[first:last])


def least_n(p: float) -> int:
    """Below this many values not even independent requests bound the p-quantile on both sides."""
    # The chance that all n values lie on one side of the quantile must be below that of one tail.
    return math.ceil(math.log(0.05 / 2) / math.log(max(p, 1 - p)) - _ROUNDING)


def refusal(n: int, p: float) -> str | None:
    """Why n values cannot give the p-quantile, or None when they can."""
    # Above `least_n`: requests that depend on each other hold less than independent ones.
    needed = minimum_n(p)
    return None if n >= needed else f"n too small (needs ≥ {needed:,})"


def clopper_pearson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share, for independent requests."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count, n - count + 1, tail)) if count else 0.0
    # The inverse of the complement: 1 - tail would lose the digits of a small tail.
    high = float(special.betainccinv(count + 1, n - count, tail)) if count < n else 1.0
    return low, high


def newcombe(
    baseline: tuple[int, int], candidate: tuple[int, int], confidence: float = 0.95
) -> tuple[float, float]:
    """Newcombe's interval of a difference of two shares, each (count, n), for independent requests."""
    (x, n), (y, m) = baseline, candidate
    (low_x, high_x), (low_y, high_y) = wilson(x, n, confidence), wilson(y, m, confidence)
    first, second = x / n, y / m
    # Each arm's own distance to its Wilson bound, added as independent errors are.
    below = math.hypot(first - low_x, high_y - second)
    above = math.hypot(high_x - first, second - low_y)
    return first - second - below, first - second + above


def _at(ordered: Ranked, rank: int) -> float | None:
    if not 1 <= rank <= len(ordered) or not math.isfinite(ordered[rank - 1]):
        return None
    return float(ordered[rank - 1])


# Summary: one metric of one arm, with its quantiles, their intervals and what cannot be said.

Confidence = Literal["95%", "90%", "low", "none"]
"""The label that an interval has earned (docs/statistics.md); "none" without an interval."""

POINTS = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """Something a reader must know beside a number: a stable code, and one sentence.

    `figures` are those of the sentence, by name, that a shorter one is made of. `brief` is the shorter one,
    where the first clause of the sentence would be none.
    """

    code: str
    text: str
    figures: Mapping[str, float] = field(default=NOTHING, compare=False)
    brief: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"

    @property
    def is_fact(self) -> bool:
        """Whether people read it as a plain fact in a heading, not among what to beware of."""
        return self.code in FACTS


FACTS: Final = frozenset({"WARMUP"})


def facts(cautions: Iterable[Caution]) -> list[str]:
    """The sentences of those that are facts."""
    return [caution.text for caution in cautions if caution.is_fact]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """The `p`-quantile of one arm, in the metric's unit, with its order-statistic interval.

    `value` is None when it lies among the timeouts; then `at_least` says what it exceeds. `low` and
    `high` treat the requests as independent (descriptive); None is unbounded. `smooth` is the
    Harrell-Davis estimate, None with timeouts. `refusal` says why it has no
    interval to rely on; the value is shown nevertheless, and marked.
    """

    p: float
    value: float | None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    smooth: float | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One metric of one arm: `n` values, of which `timeouts` are beyond the deadline.

    `absent` requests have no such value (failed, or the metric does not apply). `mean`, `minimum` and
    `maximum` are over the finite values, None when there are none.
    """

    metric: str
    unit: str
    n: int
    timeouts: int
    absent: int
    mean: float | None
    minimum: float | None
    maximum: float | None
    quantiles: tuple[Quantile, ...]


def summarise(
    metric: str,
    unit: str,
    values: Floats | Spread,
    *,
    timeout_s: float | None,
    points: Iterable[float] = POINTS,
) -> Summary:
    """Summarise one value per request: NaN is absent, +inf timed out (beyond `timeout_s` where known).

    A deadline is no bound of what is not counted from when a request was due (Metric.waits): None.
    """
    if isinstance(values, Spread):
        ranked: Ranked = Counted(values)
        seen, absent, mean = values.finite, values.absent, values.mean
    else:
        ranked = ordered(values)
        seen = int(ranked.searchsorted(np.inf))
        absent = len(values) - len(ranked)
        mean = float(ranked[:seen].mean()) if seen else None
    n, at = len(ranked), []
    for p in points if n else ():
        # Among the timeouts a quantile has no value and no upper end: only what it exceeds is known.
        known = identified(n - seen, n, p)
        low, high = quantile_interval(ranked, p)
        at.append(
            Quantile(
                p=p,
                value=quantile(ranked, p) if known else None,
                low=low,
                high=high if known else None,
                at_least=None
                if known
                else metrics.exceeded(partial(quantile, ranked), n, n - seen, p, timeout_s),
                smooth=harrell_davis(ranked, p) if seen == n else None,
                refusal=refusal(n, p),
            )
        )
    return Summary(
        metric=metric,
        unit=unit,
        n=n,
        timeouts=n - seen,
        absent=absent,
        mean=mean,
        minimum=float(ranked[0]) if seen else None,
        maximum=float(ranked[seen - 1]) if seen else None,
        quantiles=tuple(at),
    )
