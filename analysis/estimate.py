"""Estimate: a number from a few runs, with the ends of its intervals by Student's t."""

import math
from dataclasses import dataclass

from scipy import special

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
    both, one = (float(special.stdtrit(df, p)) * se for p in ((1 + CONFIDENCE) / 2, CONFIDENCE))
    return Estimate(
        value=value,
        se=se,
        df=df,
        low=value - both,
        high=value + both,
        least=value - one,
        most=value + one,
    )
