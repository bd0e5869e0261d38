"""Saturation: the most of the axis that still keeps to an objective, by doubling and then halving the gap.

A point's outcome is noisy, so what is found is the largest value that was seen to keep to it below the
smallest that was seen not to; every point on the way is a result of the benchmark. A burst that is over
before the server is full says nothing of what it can hold.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tbench.benchmark.sweep import Point, Sweep

MOST: Final = 4096
"""A concurrency or rate beyond which nothing is searched."""
CLOSE: Final = 1.1
"""The search ends when the two values are within this factor."""
ROUNDS: Final = 4
"""A point holds its load only where it has so many times the requests that are in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The largest value that kept to the objective, and the smallest that did not; None: there is none.

    `unjudged` ended the search: its point kept to the objective, but was too short to say so.
    """

    scenario: str
    best: float | None
    worst: float | None
    unjudged: float | None = None

    def words(self, axis: str, objective: str) -> str:
        """What was found, in a line; `objective` such as `ttft<1s for 99% of its requests`."""
        most = f"no {axis}" if self.best is None else f"{axis} {self.best:g}"
        less = "" if self.worst is None else f"; {self.worst:g} does not"
        unsure = "" if self.unjudged is None else f"; {self.unjudged:g} cannot be judged{SHORT}"
        return f"saturation of {self.scenario}: {most} keeps {objective}{less}{unsure}"


SHORT: Final = (
    f": its requests are less than {ROUNDS} times those in flight, so that it ends before the server is "
    "full; raise --max-requests-per-run (or --max-time-per-run)"
)


def kept(result: Mapping[str, Any], point: Point, share: float) -> bool | None:
    """Whether a point's result keeps to the objective; None: it was too short to say so.

    Of open arrivals rate times latency are in flight (Little's law).
    """
    found = result["aggregated_metrics"]
    if found["goodput"] < share:
        return False
    second = 1000 if result["_time_unit"] == "ms" else 1
    latency_s = (found["stats"]["e2e_latency"]["mean"] or 0.0) / second
    busy = point.concurrency or (point.rate or 0.0) * latency_s
    return None if found["num_requests"] < ROUNDS * busy else True


def search(
    sweep: Sweep, scenario: str, holds: Callable[[], bool | None]
) -> Generator[Point, None, Found]:
    """Yields the points to make, one by one; `holds` is asked about each once it was made (None: unsure)."""
    whole = sweep.axis in {"num_concurrency", "batch_size"}
    best: float | None = None
    worst: float | None = None
    value = float(sweep.values[0])
    while True:
        yield sweep.point(scenario, value)
        held = holds()
        if held is None:
            return Found(scenario=scenario, best=best, worst=worst, unjudged=value)
        if held:
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
