"""Bars: how often each outcome of a cell happens, what that rate must satisfy, and how far chance moves it.

A cell is one simulation and the bars that its rates are held to.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from numpy.random import Generator
from scipy import stats

FPR, PASSES, FAILS = "A/A differs", "passes at the margin", "fails at the margin"
TYPICAL = "A/A differs, typical request"
_NOMINAL = dict.fromkeys((FPR, PASSES, FAILS, TYPICAL), 0.05)

Key = tuple[str, float | None]
"""A measure, and the quantile it is of (None where it is of none)."""
Outcomes = dict[Key, bool]
"""What a replay says: whether each of these happened in it."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Grows by `add` and `merge`; a measure need not be taken in every replay."""

    hits: Counter[Key] = field(default_factory=Counter)
    trials: Counter[Key] = field(default_factory=Counter)

    def add(self, outcomes: Outcomes) -> None:
        self.hits.update({key: int(happened) for key, happened in outcomes.items()})
        self.trials.update(outcomes.keys())

    def merge(self, other: "Tally") -> None:
        self.hits.update(other.hits)
        self.trials.update(other.trials)

    def __iter__(self) -> Iterator[tuple[Key, int, int]]:
        """Each measure with its hits and trials, in the order in which they first came."""
        return ((key, self.hits[key], n) for key, n in self.trials.items())


ENOUGH = 400
"""From so many replays on a bar holds for the rate itself; with fewer, chance gets its part."""
CHANCE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """low <= rate <= high, at these quantiles (None: the measure is of no quantile)."""

    measure: str
    points: tuple[float | None, ...]
    low: float = 0.0
    high: float = 1.0

    def limits(self, n: int) -> tuple[float, float]:
        """What the rate of n replays is held against."""
        if n >= ENOUGH:
            return self.low, self.high
        return band(self.low, n)[0], band(self.high, n)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often something happened. `band` is where 99 % of simulations lie if `nominal` is true.

    Both are None where theory names no rate, `bar` and `ok` where nothing is asked of it.
    """

    cell: str
    measure: str
    point: float | None
    count: int
    n: int
    nominal: float | None
    band: tuple[float, float] | None
    bar: tuple[float, float] | None
    ok: bool | None

    @property
    def rate(self) -> float:
        return self.count / self.n


def band(rate: float, n: int) -> tuple[float, float]:
    """Between which rates 99 % of simulations of n replays lie when the truth is `rate`."""
    tail = (1 - CHANCE) / 2
    if rate in {0.0, 1.0}:
        return rate, rate
    return float(stats.binom.ppf(tail, n, rate)) / n, float(stats.binom.isf(tail, n, rate)) / n


def rates(cell: str, tally: Tally, bars: Iterable[Bar]) -> Iterator[Rate]:
    """Every measure of a cell with its bar. Raises KeyError for a bar of what was not measured."""
    asked = {(bar.measure, point): bar for bar in bars for point in bar.points}
    if missing := asked.keys() - tally.trials.keys():
        raise KeyError(f"{cell}: bars for what is not measured: {sorted(map(str, missing))}")
    for (measure, point), count, n in tally:
        bar, nominal = asked.get((measure, point)), nominal_rate(measure)
        limits = bar.limits(n) if bar else None
        yield Rate(
            cell=cell,
            measure=measure,
            point=point,
            count=count,
            n=n,
            nominal=nominal,
            band=None if nominal is None else band(nominal, n),
            bar=(bar.low, bar.high) if bar else None,
            ok=limits[0] <= count / n <= limits[1] if limits else None,
        )


def nominal_rate(measure: str) -> float | None:
    """What theory says of it: 5 % of equal arms differ, 95 % of intervals hold the truth."""
    if measure.startswith("covers"):
        return 0.95
    return _NOMINAL.get(measure)


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
