"""Drift: a ratio within each third of the trace, to show which way conditions changed. Estimates only."""

import math
from collections.abc import Iterator

import numpy as np

from tbench.analysis.geometric import log_ratios
from tbench.analysis.quantiles import identified, least_n, ordered, quantile
from tbench.analysis.summary import Floats

Thirds = tuple[float | None, float | None, float | None]
"""Of the first, the middle and the last third of an arm's requests; None where there is none."""


def quantile_by_thirds(a: Floats, b: Floats, p: float) -> Thirds:
    """B / a of the p-quantiles; None with too few values for it, among timeouts, or where a is zero."""
    sides = zip(_thirds(a), _thirds(b), strict=True)
    first, middle, last = (_ratio(_quantile(x, p), _quantile(y, p)) for x, y in sides)
    return first, middle, last


def typical_by_thirds(a: Floats, b: Floats) -> Thirds:
    """The paired geometric-mean ratio b / a; None without a finite pair."""
    first, middle, last = (_typical(part) for part in _thirds(log_ratios(a, b)))
    return first, middle, last


def _thirds(values: Floats) -> Iterator[Floats]:
    return iter(np.array_split(values, 3))


def _quantile(values: Floats, p: float) -> float | None:
    known = ordered(values)
    n = len(known)
    if n < least_n(p) or not identified(n - int(known.searchsorted(math.inf)), n, p):
        return None
    return quantile(known, p)


def _ratio(baseline: float | None, candidate: float | None) -> float | None:
    return candidate / baseline if baseline and candidate is not None else None


def _typical(logs: Floats) -> float | None:
    finite = logs[np.isfinite(logs)]
    return math.exp(float(finite.mean())) if len(finite) else None
