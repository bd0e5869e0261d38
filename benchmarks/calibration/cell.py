"""Cell: one simulation, and the bars that its rates are held to."""

from dataclasses import dataclass
from typing import Protocol

from numpy.random import Generator

from calibration.bars import Bar
from calibration.tally import Outcomes


class Experiment(Protocol):
    """One replay of a simulation, from its own random numbers."""

    def replay(self, random: Generator) -> Outcomes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A measure without a bar is shown, and nothing is asked of it."""

    experiment: Experiment
    bars: tuple[Bar, ...] = ()


NONE = (None,)
"""The points of a measure that is of no quantile."""
