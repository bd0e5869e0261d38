"""Tested: the test that an interval inverts, asked directly; and whether the interval agrees with it.

An end of an interval takes some fifty tests, a simulation needs two or three: what an interval covers is
what its test does not reject. Where both are computed they must agree.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from tbench.analysis.arms import Truths
from tbench.analysis.inversion import DRIFTING, Interval, Pair, blocks_for, invert
from tbench.analysis.summary import Floats


class Tested:
    """A pair at some quantiles, with the K that its data choose.

    `drift` is its flag: SLOW_DRIFT or FEW_SESSIONS.
    """

    def __init__(self, pair: Pair, points: Sequence[float]) -> None:
        self.pair, self.points = pair, np.array(points)
        centre = np.array([pair.centre(p) for p in points])
        rho = pair.autocorrelation(centre, self.points)
        self.blocks = blocks_for(rho)
        scarce = pair.few_sessions(pair.inflation(centre, self.points, self.blocks), self.blocks)
        self.drift = (rho > DRIFTING) | scarce

    def holds(self, ratios: Floats, blocks: int | None = None) -> Truths:
        """Whether each quantile's ratio may be this; K of the data, or the given one."""
        k = self.blocks if blocks is None else np.full(len(self.points), blocks)
        t = self.pair.tested(np.log(ratios), self.points, k)
        return np.asarray(np.abs(t) <= stats.t.isf(0.025, self.pair.freedom(k)))

    def over_time(self, ratios: Floats) -> Truths:
        """The same as if no session were known."""
        t = self.pair.t(np.log(ratios), self.points, self.blocks)
        return np.asarray(np.abs(t) <= stats.t.isf(0.025, self.blocks - 1))

    def intervals(self) -> tuple[Interval, ...]:
        """What the product shows."""
        return invert(self.pair, self.points)

    def agrees(self, ratios: Floats, found: Sequence[Interval]) -> Truths:
        """Whether the intervals cover exactly what the test holds, with the same K and flag."""
        held, drift = self.holds(ratios), self.drift
        return np.array(
            [
                (one.low <= ratio <= one.high) == holds and one.drift == drifts and one.blocks == k
                for one, ratio, holds, drifts, k in zip(
                    found, ratios, held, drift, self.blocks, strict=True
                )
            ]
        )
