"""Effects: monotone maps g of latency, so that the candidate's quantiles are g of the baseline's, exactly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tbench.analysis.quantiles import quantile
from tbench.analysis.summary import Floats

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
