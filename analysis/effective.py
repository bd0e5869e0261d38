"""Effective: what n dependent requests are worth in independent ones, n / tau. Information, never a gate."""

from dataclasses import dataclass

import numpy as np

from tbench.analysis.block_mean import mean_of_series
from tbench.analysis.summary import Floats


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
