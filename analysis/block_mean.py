"""Block mean: the interval of a mean whose terms depend on their neighbours, from a few large blocks.

Batch means with Student's t (docs/statistics.md). K, the number of blocks, follows from the lag-1
autocorrelation of the 32 fine blocks, as for the quantiles.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.inversion import DRIFTING, blocks_for, fine_blocks, lag_one, studentised
from analysis.summary import Floats


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


def mean_of_series(series: Floats, confidence: float = 0.95) -> BlockMean:
    """The mean of the finite values of a series in arrival order; there must be one."""
    there = np.isfinite(series)
    n, mean = int(there.sum()), float(series[there].mean())
    deviations = np.where(there, series - mean, 0.0)
    terms = np.array([block.sum() for block in fine_blocks(deviations)]) / n
    return mean_of_terms(mean, terms, confidence)


def mean_of_terms(mean: float, terms: Floats, confidence: float = 0.95) -> BlockMean:
    """The same for a mean to which the 32 fine blocks add `terms`, each less its share of the mean."""
    rho = lag_one(terms[None])
    blocks = blocks_for(rho)
    k = int(blocks[0])
    se = 1 / float(studentised(np.ones(1), terms[None], blocks)[0])
    half = -float(special.stdtrit(k - 1, (1 - confidence) / 2)) * se
    return BlockMean(
        mean=mean,
        se=se,
        low=mean - half,
        high=mean + half,
        blocks=k,
        rho=float(rho[0]),
        drift=bool(rho[0] > DRIFTING),
    )
