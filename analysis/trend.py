"""The trend contrast: two arms' difference beside a straight drift over the runs, for `--trend`.

Least squares of y on a constant, the arm and the run's place; t on n - 3 degrees of freedom. It recovers
what drift takes from Welch's t, and is only as good as its straight line: chosen before the runs.
"""

import math
from collections.abc import Sequence

import numpy as np

from tbench.analysis.estimate import Estimate, student


def trend(
    first: Sequence[float],
    second: Sequence[float],
    at: tuple[Sequence[int], Sequence[int]],
    floors: tuple[float, float] = (0.0, 0.0),
) -> Estimate:
    """Second less first with the drift taken out, of at least two finite numbers each.

    `at` are the places of the runs in the order in which they began. `floors` as in
    `analysis.welch.difference`.
    """
    y = np.array([*first, *second], dtype=float)
    arm = np.repeat([0.0, 1.0], [len(first), len(second)])
    place = np.array([*at[0], *at[1]], dtype=float)
    design = np.column_stack([np.ones_like(y), arm, place - place.mean()])
    inverse = np.linalg.inv(design.T @ design)
    found = inverse @ design.T @ y
    df = len(y) - design.shape[1]
    variance = float(((y - design @ found) ** 2).sum()) / df * float(inverse[1, 1])
    return student(float(found[1]), math.sqrt(max(variance, sum(floors))), df)
