"""Estimate: a number from a few runs, with the ends of its intervals by Student's t."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy import special

from tbench.analysis.comparison import Comparison

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`value` with standard error `se` on `df` degrees of freedom.

    `low` and `high` are the ends of the two-sided 95 % interval, `least` and `most` one-sided 95 % bounds,
    each by itself. `worse(by)` is the p-value of the hypothesis that the truth is at most `by`. All have
    the unit of what was given.
    """

    value: float
    se: float
    df: float
    low: float
    high: float
    least: float
    most: float

    def worse(self, by: float) -> float:
        """How probable so large a value is if the true one is `by`."""
        # Runs that agree to the digit: the difference is certain, and so is none.
        if self.se == 0:
            return 0.0 if self.value > by else 1.0
        return float(special.stdtr(self.df, (by - self.value) / self.se))

    def above(self, level: float) -> float:
        """The one-sided upper bound that the truth exceeds with probability `level`."""
        return self.value - float(special.stdtrit(self.df, level)) * self.se

    def widened(self, variance: float) -> "Estimate":
        """With so much variance more."""
        return student(self.value, math.sqrt(self.se**2 + variance), self.df)

    @property
    def negated(self) -> "Estimate":
        """Of the same quantity with its sign turned."""
        return student(-self.value, self.se, self.df)


def student(value: float, se: float, df: float) -> Estimate:
    """The estimate whose error over `se` has Student's t distribution."""
    both, single = (float(special.stdtrit(df, p)) * se for p in ((1 + CONFIDENCE) / 2, CONFIDENCE))
    return Estimate(
        value=value,
        se=se,
        df=df,
        low=value - both,
        high=value + both,
        least=value - single,
        most=value + single,
    )


# Welch's t: the difference of two means whose spreads differ, from a few numbers each; one mean alone.
#
# B. L. Welch, Biometrika 34 (1947), with Satterthwaite's degrees of freedom.

__all__ = ["CONFIDENCE", "Difference", "difference", "level"]

Difference = Estimate
"""What `difference` gives."""


def difference(
    first: Sequence[float], second: Sequence[float], floors: tuple[float, float] = (0.0, 0.0)
) -> Estimate:
    """Second mean less the first, of two samples of at least two finite numbers each.

    `floors` are variances of the two means that are known to be there whatever the numbers show.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    seen = [float(side.var(ddof=1)) / len(side) for side in (a, b)]
    # The floors widen the error and leave the degrees alone: they are known, not estimated.
    se = math.sqrt(sum(map(max, seen, floors)))
    # Satterthwaite's degrees; the sum of both where neither varies at all.
    below = sum(part**2 / (len(side) - 1) for part, side in zip(seen, (a, b), strict=True))
    df = sum(seen) ** 2 / below if below > 0 else float(len(a) + len(b) - 2)
    return student(float(b.mean() - a.mean()), se, df)


def level(sample: Sequence[float], floor: float = 0.0) -> Estimate:
    """The mean of one sample of at least two finite numbers; `floor` as in `difference`."""
    seen = np.asarray(sample, dtype=float)
    # The floor: equal figures of few rare events are no proof that runs agree.
    variance = max(float(seen.var(ddof=1)) / len(seen), floor)
    return student(float(seen.mean()), math.sqrt(variance), len(seen) - 1)


# Multiplicity: many quantiles are compared at once, so some differ by chance. Their false discovery rate.
#
# Y. Benjamini and Y. Hochberg, JRSS B 57 (1995). For exploration: gates have rules of their own.

RATE: Final = 0.05
"""Of the differences that are called so, this share may be none."""


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Each p-value's least false discovery rate at which it would still be called a difference."""
    # From the largest down: a rate is never above that of a larger p-value.
    order = sorted(range(len(p_values)), key=p_values.__getitem__, reverse=True)
    rates, least = [0.0] * len(p_values), 1.0
    for above, which in enumerate(order):
        least = min(least, p_values[which] * len(p_values) / (len(p_values) - above))
        rates[which] = least
    return rates


def adjusted(given: Iterable[Comparison]) -> tuple[Comparison, ...]:
    """The rows, with `q_value` wherever there is a p-value to rely on."""
    rows = tuple(given)
    # A row in doubt has a p-value that cannot be trusted, and would spend the others' rate.
    tried = {
        at: row.p_value for at, row in enumerate(rows) if row.reliable and row.p_value is not None
    }
    q_values = dict(zip(tried, benjamini_hochberg(list(tried.values())), strict=True))
    return tuple(
        replace(row, q_value=q_values[at]) if at in q_values else row for at, row in enumerate(rows)
    )
