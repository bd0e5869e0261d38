"""Welch's t: the difference of two means whose spreads differ, from a few numbers each; one mean alone.

B. L. Welch, Biometrika 34 (1947), with Satterthwaite's degrees of freedom.
"""

import math
from collections.abc import Sequence

import numpy as np

from tbench.analysis.estimate import CONFIDENCE, Estimate, student

__all__ = ["CONFIDENCE", "Difference", "difference", "holm", "level"]

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
    se = math.sqrt(sum(map(max, seen, floors)))
    return student(float(b.mean() - a.mean()), se, _degrees(seen, (len(a), len(b))))


def level(sample: Sequence[float], floor: float = 0.0) -> Estimate:
    """The mean of one sample of at least two finite numbers; `floor` as in `difference`."""
    seen = np.asarray(sample, dtype=float)
    variance = max(float(seen.var(ddof=1)) / len(seen), floor)
    return student(float(seen.mean()), math.sqrt(variance), len(seen) - 1)


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
