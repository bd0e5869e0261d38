"""Saturation: the most of the axis that still keeps to an objective, by doubling and then halving the gap.

A point's outcome is noisy, so what is found is the largest value that was seen to keep to it below the
smallest that was seen not to; every point on the way is a result of the benchmark.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from replay.benchmark.sweep import Point, Sweep

MOST: Final = 4096
"""A concurrency or rate beyond which nothing is searched."""
CLOSE: Final = 1.1
"""The search ends when the two values are within this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The largest value that kept to the objective, and the smallest that did not; None: there is none."""

    scenario: str
    best: float | None
    worst: float | None


def search(sweep: Sweep, scenario: str, holds: Callable[[], bool]) -> Generator[Point, None, Found]:
    """Yields the points to make, one by one; `holds` is asked about each after it was made."""
    whole = sweep.axis in {"num_concurrency", "batch_size"}
    best: float | None = None
    worst: float | None = None
    value = float(sweep.values[0])
    while True:
        yield sweep.point(scenario, value)
        if holds():
            best = value
        else:
            worst = value
        following = _next(best, worst, whole=whole)
        if following is None:
            return Found(scenario=scenario, best=best, worst=worst)
        value = following


def _next(best: float | None, worst: float | None, *, whole: bool) -> float | None:
    """What to try next; None where the search is over."""
    if worst is None:
        assert best is not None
        return best * 2 if best * 2 <= MOST else None
    if best is None:
        down = worst / 2
        return None if down < (1 if whole else 0.01) else _rounded(down, whole=whole)
    middle = _rounded((best + worst) / 2, whole=whole)
    if worst / best <= CLOSE or not best < middle < worst:
        return None
    return middle


def _rounded(value: float, *, whole: bool) -> float:
    return float(int(value)) if whole else float(f"{value:.3g}")
