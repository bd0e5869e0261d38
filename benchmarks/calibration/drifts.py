"""Drifts: what changes from run to run with the time of day, in the logarithm of a run's quantile.

Each gives 2R numbers, one per run in the order in which they began. Pure functions of a numpy Generator.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from calibration.disturbances import autoregressive, regimes
from tbench.abtest.options import Kind
from tbench.abtest.plan import slots
from tbench.analysis.inversion import Truths
from tbench.analysis.summary import Floats

Drift = Callable[[int, Generator], Floats]
Order = Callable[[int, Generator], Truths]

RUN_S, STEP_S = 1800.0, 180.0


def none(runs: int, _: Generator) -> Floats:
    """Nothing changes."""
    return np.zeros(runs)


def linear(reach: float) -> Drift:
    """From -reach to +reach over all runs, or the other way."""
    return lambda runs, random: random.choice([-1, 1]) * np.linspace(-reach, reach, runs)


def sine(rms: float) -> Drift:
    """One period over all runs, the phase uniform."""

    def drift(runs: int, random: Generator) -> Floats:
        at = np.linspace(-1, 1, runs)
        phase = random.uniform(0, 2 * math.pi)
        return np.asarray(rms * math.sqrt(2) * np.sin(math.pi * at + phase))

    return drift


def wandering(spread: float, memory: float = 0.8) -> Drift:
    """AR(1) from run to run."""
    return lambda runs, random: autoregressive(runs, memory, spread, random)


def two_states(dwell_min: float, factor: float = 1.5) -> Drift:
    """Regimes that do not ask when a run begins: 30-minute runs back to back, each the mean of its time."""

    def drift(runs: int, random: Generator) -> Floats:
        steps = round(RUN_S / STEP_S)
        at = np.arange(runs * steps, dtype=np.float64) * STEP_S
        return regimes(at, dwell_min * 60, factor, random).reshape(runs, steps).mean(axis=1)

    return drift


def every_second(rise: float) -> Drift:
    """Each second run is slower: an hourly job beside runs of half an hour, two hosts behind one name."""

    def drift(runs: int, random: Generator) -> Floats:
        return np.asarray(rise * ((np.arange(runs) + random.integers(2)) % 2))

    return drift


def first_of_pair(rise: float) -> Drift:
    """The first run of each pair is slower: what a pause before it lets go cold."""
    return lambda runs, _: rise * (np.arange(runs) % 2 == 0)


def _planned(kind: Kind) -> Order:
    """As `tbench ab` orders two arms: True is the candidate."""

    def order(repeats: int, random: Generator) -> Truths:
        seed = int(random.integers(2**32))
        return np.array([slot.arms == (1,) for slot in slots(2, repeats, kind, seed)])

    return order


random_pairs, abba = _planned("random"), _planned("abba")


def drawn_pairs(repeats: int, random: Generator) -> Truths:
    """Neighbours in pairs, who begins drawn for each by itself: what hides a place in the pair from Welch."""
    first = random.random(repeats) < 0.5
    return np.column_stack([first, ~first]).ravel()


def one_after_the_other(repeats: int, _: Generator) -> Truths:
    """AAA BBB: what the judge must refuse."""
    return np.repeat([False, True], repeats)
