"""Disturbances: what makes the requests of one run depend on each other, in the logarithm of latency.

Each is drawn anew for each arm. Pure functions of a numpy Generator; `due` are arrival times in seconds.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import signal

from tbench.analysis.arms import Truths
from tbench.analysis.summary import Floats, quantile

Disturb = Callable[[Floats, Generator], Floats]
"""From the arrival times."""


def autoregressive(n: int, memory: float, spread: float, random: Generator) -> Floats:
    """x_i = memory x_(i-1) + e_i, stationary with standard deviation `spread`."""
    steps = random.normal(size=n) * spread * math.sqrt(1 - memory**2)
    series, _ = signal.lfilter([1], [1, -memory], steps, zi=[memory * random.normal() * spread])
    return np.asarray(series)


def regimes(due: Floats, dwell_s: float, factor: float, random: Generator) -> Floats:
    """Two states of exponential length with mean `dwell_s`; in the second latency is `factor` times longer.

    It begins in either state with probability one half.
    """
    span = due[-1] - due[0]
    number = int(span / dwell_s + 10 * math.sqrt(span / dwell_s + 1)) + 10
    switches = due[0] + np.cumsum(random.exponential(dwell_s, number))
    state = (np.searchsorted(switches, due) + random.integers(2)) % 2
    return np.asarray(state * math.log(factor))


def linear(due: Floats, reach: float) -> Floats:
    """From -reach to +reach over the trace."""
    return np.asarray(reach * (2 * (due - due[0]) / (due[-1] - due[0]) - 1))


def sine(due: Floats, period_s: float, height: float, random: Generator) -> Floats:
    """Gives height sin(2 pi t / period + phase), the phase uniform."""
    return np.asarray(
        height * np.sin(2 * math.pi * due / period_s + random.uniform(0, 2 * math.pi))
    )


def pareto(n: int, share: float, alpha: float, random: Generator) -> Floats:
    """The logarithm of 1, or in `share` of requests of X from 1 on with P(X > x) = x^-alpha."""
    spikes = random.random(n) < share
    return np.where(spikes, np.log1p(random.pareto(alpha, n)), 0.0)


def bursts(n: int, share: float, mean: float, random: Generator) -> Truths:
    """Which requests lie in a burst: a two-state chain, bursts geometric with that mean, `share` in all.

    mean = 1 / (1 - share) would be independence; `scattered` is.
    """
    leave, enter = 1 / mean, share / (1 - share) / mean
    pairs = int(2 * n * enter + 10 * math.sqrt(n * enter + 1)) + 10
    runs = np.column_stack([random.geometric(enter, pairs), random.geometric(leave, pairs)])
    inside = np.repeat(np.tile([False, True], pairs), runs.ravel())
    before = random.geometric(leave) if random.random() < share else 0
    return np.concatenate([np.ones(before, bool), inside])[:n]


def scattered(n: int, share: float, random: Generator) -> Truths:
    """Which of n requests are hit, each by itself."""
    return random.random(n) < share


# Effects: monotone maps g of latency, so that the candidate's quantiles are g of the baseline's, exactly.


POINTS = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A map of latency and the ratios of the quantiles that follow from it."""

    name: str
    change: Callable[[Floats], Floats]
    truth: Mapping[float, float]


def shift(factor: float) -> Effect:
    """Everything takes `factor` times as long; no change at 1."""
    return Effect(
        name="none" if factor == 1 else f"shift{round(100 * (factor - 1))}",
        change=lambda latency: latency * factor,
        truth=dict.fromkeys(POINTS, factor),
    )


def tail(population: Floats, factor: float = 1.1) -> Effect:
    """Above t = Q(.9), x becomes t + (x - t) c, with c so that Q(.99) is multiplied by `factor`.

    `population` are latencies of the undisturbed arm in ascending order: many, they are the truth.
    """
    start, far = quantile(population, 0.9), quantile(population, 0.99)
    stretch = (factor * far - start) / (far - start)

    def change(latency: Floats) -> Floats:
        return np.where(latency > start, start + (latency - start) * stretch, latency)

    truth = {p: float(change(np.array(q)) / q) for p in POINTS for q in [quantile(population, p)]}
    return Effect(name=f"tail{round(100 * (factor - 1))}", change=change, truth=truth)
