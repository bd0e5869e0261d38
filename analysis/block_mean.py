"""Block mean: the interval of a mean whose terms depend on their neighbours, from a few large blocks.

Batch means with Student's t (docs/statistics.md). K, the number of blocks, follows from the lag-1
autocorrelation of the 32 fine blocks, as for the quantiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from tbench.analysis.clusters import Clusters, freedom, inflated
from tbench.analysis.inversion import DRIFTING, blocks_for, fine_blocks, lag_one, variance
from tbench.analysis.summary import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMean:
    """A mean, its standard error `se` and two-sided interval, all in the unit of what was averaged.

    `blocks` is K, `rho` the autocorrelation that chose it; `drift` says that no K is right.
    """

    mean: float
    se: float
    low: float
    high: float
    blocks: int
    rho: float
    drift: bool


def mean_of_series(
    series: Floats, confidence: float = 0.95, *, sessions: Clusters | None = None
) -> BlockMean:
    """The mean of the finite values of a series in arrival order; there must be one."""
    finite = np.isfinite(series)
    n, mean = int(finite.sum()), float(series[finite].mean())
    deviations = np.where(finite, series - mean, 0.0) / n
    terms = np.array([block.sum() for block in fine_blocks(deviations)])
    return mean_of_terms(mean, terms, confidence, beside=_beside(deviations, sessions))


def _beside(deviations: Floats, sessions: Clusters | None) -> Sequence[tuple[Clusters, float]]:
    if sessions is None:
        return ()
    return [(sessions, sessions.excess(sessions.sums(deviations[sessions.order])))]


def mean_of_terms(
    mean: float,
    terms: Floats,
    confidence: float = 0.95,
    *,
    beside: Sequence[tuple[Clusters, float]] = (),
) -> BlockMean:
    """The same for a mean to which the 32 fine blocks add `terms`, each less its share of the mean.

    `beside` are sessions, with what they add to its variance.
    """
    rho = lag_one(terms[None])
    blocks = blocks_for(rho)
    time = float(variance(terms[None], blocks)[0])
    se = math.sqrt(time * inflated([excess for _, excess in beside], time))
    degrees = float(freedom([sessions for sessions, _ in beside], blocks)[0])
    half = -float(special.stdtrit(degrees, (1 - confidence) / 2)) * se
    return BlockMean(
        mean=mean,
        se=se,
        low=mean - half,
        high=mean + half,
        blocks=int(blocks[0]),
        rho=float(rho[0]),
        drift=bool(rho[0] > DRIFTING),
    )
