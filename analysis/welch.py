"""Welch's t: the difference of two means whose spreads differ, from a few numbers each.

B. L. Welch, Biometrika 34 (1947), with Satterthwaite's degrees of freedom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Second mean less the first. `low` and `high` are the ends of the two-sided 95 % interval.

    `least` and `most` are one-sided 95 % bounds, each by itself. `worse(by)` is the p-value of the
    hypothesis that the difference is at most `by`. All have the unit of what was given.
    """

    value: float
    se: float
    df: float
    low: float
    high: float
    least: float
    most: float

    def worse(self, by: float) -> float:
        """How probable so large a difference is if the true one is `by`."""
        if self.se == 0:
            return 0.0 if self.value > by else 1.0
        return float(special.stdtr(self.df, (by - self.value) / self.se))


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Of two samples of at least two finite numbers each."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    parts = [float(side.var(ddof=1)) / len(side) for side in (a, b)]
    se = math.sqrt(sum(parts))
    df = _degrees(parts, (len(a), len(b)))
    value = float(b.mean() - a.mean())
    both, one = (float(special.stdtrit(df, p)) * se for p in ((1 + CONFIDENCE) / 2, CONFIDENCE))
    return Difference(
        value=value,
        se=se,
        df=df,
        low=value - both,
        high=value + both,
        least=value - one,
        most=value + one,
    )


def _degrees(parts: Sequence[float], sizes: tuple[int, int]) -> float:
    """Satterthwaite's; the sum of both where neither varies at all."""
    below = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    return sum(parts) ** 2 / below if below > 0 else float(sum(sizes) - 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted by Holm's step-down (1979): each may be held against the level by itself."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, floor = [0.0] * len(p_values), 0.0
    for place, which in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[which]))
        adjusted[which] = floor
    return adjusted
