"""Geometric: the ratio of the typical request, exp(mean log b/a), which is not a ratio of quantiles.

Taken request by request, so that what both arms share cancels. A pair in which an arm has no finite
value is left out; where failures depend on the size of a request, that biases it: shown, never gated.
"""

import math
from dataclasses import dataclass

import numpy as np

from tbench.analysis.block_mean import mean_of_series
from tbench.analysis.clusters import Clusters
from tbench.analysis.quantiles import refusal
from tbench.analysis.summary import Floats


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
    found, reason = mean_of_series(logs, confidence, sessions=sessions), refusal(n, 0.5)
    return GeometricMean(
        ratio=math.exp(found.mean),
        low=None if reason else math.exp(found.low),
        high=None if reason else math.exp(found.high),
        n=n,
        left_out=len(logs) - n,
        blocks=found.blocks,
        rho=found.rho,
        drift=found.drift,
        refusal=reason,
    )


def log_ratios(a: Floats, b: Floats) -> Floats:
    """log(b / a) of each pair; not finite where an arm has no finite value above zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(b) - np.log(a))
