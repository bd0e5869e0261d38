"""Prediction: where one more draw lies after some, by Student's t; and whether the draws have a trend."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats

from analysis.estimate import Estimate, student

TREND: Final = 0.01
"""A slope this improbable without a trend is called one."""


def predicted(draws: Sequence[float], new: float, floor: float = 0.0) -> Estimate:
    """How far `new` lies above the mean of at least two draws of one normal law, if it is one more of them.

    Its error is sd * sqrt(1 + 1/N) on N - 1 degrees of freedom: the ends are those of a prediction
    interval, turned round. `floor` is the least variance that this difference has.
    """
    seen = np.asarray(draws, dtype=float)
    n = len(seen)
    variance = max(float(seen.var(ddof=1)) * (1 + 1 / n), floor)
    return student(new - float(seen.mean()), math.sqrt(variance), n - 1)


def has_trend(draws: Sequence[float]) -> bool:
    """Whether at least three draws in their order rise or fall: the t-test of a straight line's slope."""
    seen = np.asarray(draws, dtype=float)
    if np.ptp(seen) == 0:
        return False
    r = float(np.corrcoef(np.arange(len(seen)), seen)[0, 1])
    df = len(seen) - 2
    if abs(r) >= 1:
        return True
    return 2 * float(stats.t.sf(abs(r) * math.sqrt(df / (1 - r * r)), df)) < TREND
