"""Repeated: how quantiles shifted between the runs of two arms, the run being the unit."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import special

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Shift
from tbench.analysis.metrics import METRICS, values
from tbench.analysis.quantiles import ordered, quantile, refusal
from tbench.analysis.summary import Floats
from tbench.analysis.t_tests import CONFIDENCE, Difference, difference

POINTS: Final = (*(k / 10 for k in range(1, 10)), 0.95, 0.99, 0.999)
LEAST_RUNS: Final = 3
"""With fewer of an arm there is no interval."""


def shifts(
    baseline: Sequence[Arm], candidate: Sequence[Arm], metric: str, *, intervals: bool = True
) -> tuple[Shift, ...]:
    """The ratio candidate / baseline at deciles, p95, p99 and p99.9, as far as every run has the requests.

    Ratios of geometric means over the runs, with Welch's interval on the per-run log-quantiles at each
    point, and a band that holds at all points at once (Bonferroni). Without `intervals`, and where an arm
    has fewer than three runs, ratios alone. Points among the timeouts, or at zero, are left out.
    """
    sides = [[_values(arm, metric) for arm in arms] for arms in (baseline, candidate)]
    fewest = min((len(run) for side in sides for run in side), default=0)
    points = [p for p in POINTS if fewest and refusal(fewest, p) is None]
    quantiles = [(p, [[quantile(run, p) for run in side] for side in sides]) for p in points]
    known = [(p, pair) for p, pair in quantiles if _usable([*pair[0], *pair[1]])]
    if not intervals or min(map(len, sides)) < LEAST_RUNS:
        return tuple(_ratio(p, *pair) for p, pair in known)
    return tuple(_shift(p, *pair, points=len(known)) for p, pair in known)


def _values(arm: Arm, metric: str) -> Floats:
    return ordered(values(arm, METRICS[metric])[arm.measured])


def _usable(figures: Sequence[float]) -> bool:
    return all(math.isfinite(figure) and figure > 0 for figure in figures)


def _ratio(p: float, first: Sequence[float], second: Sequence[float]) -> Shift:
    ratio = math.exp(float(np.mean(np.log(second)) - np.mean(np.log(first))))
    return Shift(p=p, ratio=ratio, low=None, high=None, band_low=None, band_high=None)


def _shift(p: float, first: Sequence[float], second: Sequence[float], *, points: int) -> Shift:
    change = difference(np.log(first).tolist(), np.log(second).tolist())
    low, high = _band(change, points)
    return Shift(
        p=p,
        ratio=math.exp(change.value),
        low=math.exp(change.low),
        high=math.exp(change.high),
        band_low=low,
        band_high=high,
    )


def _band(change: Difference, points: int) -> tuple[float, float]:
    """The interval at the error rate of one of so many."""
    half = -float(special.stdtrit(change.df, (1 - CONFIDENCE) / 2 / points)) * change.se
    return math.exp(change.value - half), math.exp(change.value + half)
