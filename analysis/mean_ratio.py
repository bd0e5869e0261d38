"""Geometric: the ratio of the typical request, exp(mean log b/a), which is not a ratio of quantiles.

Taken request by request, so that what both arms share cancels. A pair in which an arm has no finite
value is left out; where failures depend on the size of a request, that biases it: shown, never gated.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tbench.analysis.block_mean import mean_of_series
from tbench.analysis.clusters import Clusters
from tbench.analysis.quantiles import identified, least_n, ordered, quantile, refusal
from tbench.analysis.summary import Confidence, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMean:
    """candidate / baseline of the typical request, over `n` pairs with a finite value in both arms.

    `left_out` pairs have none (failed, timed out, or not applicable). `low` and `high` are None with a
    `refusal`. `blocks`, `rho` and `drift` as for a quantile, from its own series.
    """

    ratio: float
    low: float | None
    high: float | None
    n: int
    left_out: int
    blocks: int
    rho: float
    drift: bool
    refusal: str | None


def geometric_mean(
    a: Floats, b: Floats, confidence: float = 0.95, *, sessions: Clusters | None = None
) -> GeometricMean | None:
    """The ratio b / a of paired values in arrival order, with its block-t interval; None without a pair."""
    logs = log_ratios(a, b)
    n = int(np.isfinite(logs).sum())
    if not n:
        return None
    mean, reason = mean_of_series(logs, confidence, sessions=sessions), refusal(n, 0.5)
    return GeometricMean(
        ratio=math.exp(mean.mean),
        low=None if reason else math.exp(mean.low),
        high=None if reason else math.exp(mean.high),
        n=n,
        left_out=len(logs) - n,
        blocks=mean.blocks,
        rho=mean.rho,
        drift=mean.drift,
        refusal=reason,
    )


def log_ratios(a: Floats, b: Floats) -> Floats:
    """log(b / a) of each pair; not finite where an arm has no finite value above zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(b) - np.log(a))


# Effective: what n dependent requests are worth in independent ones, n / tau. Information, never a gate.


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSize:
    """`n` values with a variance inflation `tau`: L var(block means) / var(values), L values a block.

    `tau` is about 1 for independent values and then scatters around it; None without any variance.
    """

    n: int
    tau: float | None

    @property
    def worth(self) -> float:
        """N / tau, and at most n."""
        return self.n / max(self.tau or 1.0, 1.0)


def effective_size(series: Floats) -> EffectiveSize:
    """Of the finite values of a series in arrival order, such as log ratios."""
    finite = series[np.isfinite(series)]
    if not len(finite):
        return EffectiveSize(n=0, tau=None)
    variance = float(finite.var())
    flat = variance <= np.finfo(np.float64).eps * float(np.abs(finite).max()) ** 2
    tau = None if flat else len(finite) * mean_of_series(series).se ** 2 / variance
    return EffectiveSize(n=len(finite), tau=tau)


# Drift: a ratio within each third of the trace, to show which way conditions changed. Estimates only.

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


# Overall: what two arms say about a metric as a whole, beside its quantiles. Shown, never gated.


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """One metric in both arms.

    `geometric` is the typical request's ratio, None for unpaired arms and without a finite pair; where it
    drifts, `thirds` are those within each third of the trace.
    `effective` is what the pairs (unpaired: the requests of the arm that has less) are worth in independent
    ones. `confidence` is the label that the interval has earned, "none" where there is none; `doubts` say
    why it is "low".
    """

    geometric: GeometricMean | None
    thirds: Thirds | None
    effective: EffectiveSize
    confidence: Confidence
    doubts: tuple[str, ...]
