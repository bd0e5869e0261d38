"""Controls: the usual tests, for which requests are independent. They must fail, or the traffic has no teeth.

Each says whether it calls two arms different at 5 %. None of them is part of tbench.
"""

import numpy as np
from numpy.random import Generator
from scipy import stats

from tbench.analysis.arms import Truths
from tbench.analysis.summary import Floats

_RESAMPLES = 399


def mann_whitney(a: Floats, b: Floats, _: Generator) -> bool:
    """By the normal approximation; timeouts are the largest."""
    return bool(stats.mannwhitneyu(_seen(a), _seen(b), method="asymptotic").pvalue < 0.05)


def kolmogorov_smirnov(a: Floats, b: Floats, _: Generator) -> bool:
    """By the asymptotic law."""
    return bool(stats.ks_2samp(_seen(a), _seen(b), method="asymp").pvalue < 0.05)


def bootstrap_median(a: Floats, b: Floats, random: Generator) -> bool:
    """Percentile interval of log(median b / median a), requests resampled one by one.

    The median of a resample is the order statistic at rank 1 + floor(n U), U ~ Beta of the middle rank:
    the exact law, without resampling.
    """
    logs = []
    for side in (a, b):
        ordered = np.sort(_seen(side))
        n = len(ordered)
        middle = (n + 1) // 2
        rank = np.floor(n * random.beta(middle, n - middle + 1, _RESAMPLES)).astype(int)
        logs.append(np.log(ordered[rank]))
    low, high = np.quantile(logs[1] - logs[0], [0.025, 0.975])
    return not low <= 0 <= high


def mcnemar(a: Truths, b: Truths) -> bool:
    """The exact test on the requests that failed in one arm only."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    both = only_a + only_b
    return both > 0 and bool(stats.binomtest(only_a, both).pvalue < 0.05)


def _seen(values: Floats) -> Floats:
    return values[~np.isnan(values)]
