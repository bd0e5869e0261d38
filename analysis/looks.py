"""Looks: planned looks at an experiment that grows, and the level of each: looking early then costs nothing.

Group-sequential bounds on the z scale (O'Brien and Fleming, Biometrics 35, 1979; S. J. Pocock, Biometrika
64, 1977), by the recursion of P. Armitage, C. K. McPherson and B. C. Rowe (JRSS A 132, 1969).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from scipy import optimize, special

from tbench.analysis.judge import ALPHA, LEAST_RUNS
from tbench.analysis.summary import Floats
from tbench.capture.errors import InputError

Shape = Literal["obrien-fleming", "pocock"]
SHAPES: Final[Mapping[Shape, Callable[[Floats], Floats]]] = {
    "obrien-fleming": lambda fractions: 1 / np.sqrt(fractions),
    "pocock": np.ones_like,
}
"""How high the bound on z is at each look, by the share of the runs that are there, up to a constant."""
NAMES: Final[Mapping[Shape, str]] = {"obrien-fleming": "O'Brien-Fleming", "pocock": "Pocock"}
_NODES: Final = 200
_FURTHEST: Final = 9.0
"""Standard deviations beyond which nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """After how many runs of each arm one looks, the last being all; fixed before the first run.

    Raises InputError where they do not rise, or begin before there are LEAST_RUNS.
    """

    runs: tuple[int, ...]
    shape: Shape = "obrien-fleming"

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.runs, self.runs[1:], strict=False))
        if not self.runs or not rising or self.runs[0] < LEAST_RUNS:
            raise InputError(
                f"looks after {', '.join(map(str, self.runs)) or 'no'} runs: they must rise, from "
                f"{LEAST_RUNS} on"
            )

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of all runs that each look sees."""
        return tuple(runs / self.runs[-1] for runs in self.runs)

    def level(self, look: int, share: int = 1) -> float:
        """The nominal one-sided level of a look (the first is 1); over all looks ALPHA / `share` is spent."""
        z = bounds(self.fractions, ALPHA / share, self.shape)[look - 1]
        return float(special.ndtr(-z))


def evenly(runs: int, looks: int, shape: Shape = "obrien-fleming") -> Looks:
    """At most so many looks, evenly spread over `runs` per arm; none before there are LEAST_RUNS."""
    at = {max(LEAST_RUNS, math.ceil(runs * k / looks)) for k in range(1, looks + 1)}
    return Looks(runs=tuple(sorted(at)), shape=shape)


def crossing(z: Sequence[float], fractions: Sequence[float], *, sides: Literal[1, 2] = 1) -> float:
    """How often z ever lies beyond its bounds (above, or on either side) if nothing is there to be found.

    At the shares `fractions` of the information, the last being 1.
    """
    nodes, heights = _legendre()
    places, inside, before = np.zeros(1), np.ones(1), 0.0  # of a Brownian motion that still goes on
    for bound, at in zip(z, fractions, strict=True):
        high = min(bound, _FURTHEST) * math.sqrt(at)
        low = -high if sides == 2 else -_FURTHEST * math.sqrt(at)
        next_places = (high + low) / 2 + (high - low) / 2 * nodes
        step = math.sqrt(at - before)
        away = (next_places[:, None] - places[None, :]) / step
        density = np.exp(-away * away / 2) @ inside / (step * math.sqrt(2 * math.pi))
        places, inside, before = next_places, density * heights * (high - low) / 2, at
    return 1 - float(inside.sum())


@lru_cache(maxsize=1)
def _legendre() -> tuple[Floats, Floats]:
    """Nodes and weights of the quadrature on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


@lru_cache(maxsize=256)
def bounds(
    fractions: tuple[float, ...], alpha: float, shape: Shape, sides: Literal[1, 2] = 1
) -> tuple[float, ...]:
    """The bounds on z, looks in order, that are ever crossed with probability `alpha`."""
    heights = SHAPES[shape](np.asarray(fractions))
    constant = optimize.brentq(
        lambda c: crossing((c * heights).tolist(), fractions, sides=sides) - alpha, 0.1, _FURTHEST
    )
    return tuple((float(constant) * heights).tolist())
