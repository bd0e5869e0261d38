"""Prediction: where one more draw lies after some, by Student's t; and whether the draws are of one law."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from tbench.analysis.estimate import Estimate, student

UNLIKELY: Final = 0.05
"""A slope, or a difference between two kinds of draws, this improbable by chance is called one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strictest(Estimate):
    """The first of several estimates, with ends and p-values that hold by every one of them."""

    parts: tuple[Estimate, ...]

    def worse(self, by: float) -> float:
        return max(part.worse(by) for part in self.parts)

    def above(self, level: float) -> float:
        return max(part.above(level) for part in self.parts)

    def widened(self, variance: float) -> Estimate:
        return strictest(*(part.widened(variance) for part in self.parts))

    @property
    def negated(self) -> Estimate:
        return strictest(*(part.negated for part in self.parts))


def strictest(*parts: Estimate) -> Strictest:
    """One estimate that decides only what all of them decide (an intersection-union test)."""
    first = parts[0]
    return Strictest(
        value=first.value,
        se=first.se,
        df=first.df,
        low=min(part.low for part in parts),
        high=max(part.high for part in parts),
        least=min(part.least for part in parts),
        most=max(part.most for part in parts),
        parts=parts,
    )


def predicted(draws: Sequence[float], new: float, floor: float = 0.0) -> Estimate:
    """How far `new` lies above at least two ordered draws of one normal law, if it is one more of them.

    Above their mean its error is sd * sqrt(1 + 1/N), above the latest sd * sqrt(2), on N - 1 degrees of
    freedom: the ends are those of a prediction interval, turned round. What is decided must hold against
    both: where draws wander, rise or fall unnoticed, their mean lies behind, and the latest hardly does.
    `floor` is the least variance that this difference has.
    """
    seen = np.asarray(draws, dtype=float)
    n, variance = len(seen), float(np.var(seen, ddof=1))
    levels = ((float(seen.mean()), 1 + 1 / n), (float(seen[-1]), 2.0))
    return strictest(
        *(
            student(new - level, math.sqrt(max(variance * factor, floor)), n - 1)
            for level, factor in levels
        )
    )


def has_trend(draws: Sequence[float]) -> bool:
    """Whether at least three draws in their order rise or fall: the t-test of a straight line's slope."""
    return _correlated(np.arange(len(draws)), draws)


def differs_by_kind(draws: Sequence[float], kinds: Sequence[bool]) -> bool:
    """Whether draws of two kinds, at least two of each, have different means: Student's pooled t-test."""
    return min(sum(kinds), len(kinds) - sum(kinds)) >= 2 and _correlated(kinds, draws)


def _correlated(x: Sequence[float] | np.ndarray, y: Sequence[float]) -> bool:
    """By the t-test of Pearson's r, which for two kinds is Student's pooled t-test."""
    if np.ptp(y) == 0:
        return False
    r, df = float(np.corrcoef(x, y)[0, 1]), len(y) - 2
    if abs(r) >= 1:
        return True
    return 2 * float(special.stdtr(df, -abs(r) * math.sqrt(df / (1 - r * r)))) < UNLIKELY
