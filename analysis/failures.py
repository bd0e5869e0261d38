"""Failures: how much more often one arm fails than the other. An endpoint of its own, never a latency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tbench.analysis.arms import Truths
from tbench.analysis.block_mean import mean_of_terms
from tbench.analysis.clusters import Clusters
from tbench.analysis.inversion import Ints, fine_blocks
from tbench.analysis.quantiles import clopper_pearson, newcombe
from tbench.analysis.summary import Floats

_REQUESTS_FOR_BLOCKS = 256
"""Fewer requests leave blocks of a handful: treat them as independent, and say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDifference:
    """The share of failed requests in each arm (0 to 1), and candidate - baseline with its interval.

    `kinds_*` count the outcomes other than ok by name, those included that nobody blames on the server.
    """

    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    method: str
    n_baseline: int
    n_candidate: int
    kinds_baseline: Mapping[str, int]
    kinds_candidate: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Which requests of an arm failed, in arrival order, and all outcomes other than ok by name."""

    failed: Truths
    kinds: Mapping[str, int]

    @property
    def counted(self) -> "FailureCounts":
        """The same as counts."""
        counts = [(len(block), int(block.sum())) for block in fine_blocks(self.failed)]
        requests, failed = np.array(counts, dtype=np.int64).T
        return FailureCounts(requests=requests, failed=failed, kinds=self.kinds)

    @property
    def n(self) -> int:
        return len(self.failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCounts:
    """How many requests of an arm each of 32 blocks of time holds, and how many of them failed."""

    requests: Ints
    failed: Ints
    kinds: Mapping[str, int]

    @property
    def n(self) -> int:
        return int(self.requests.sum())

    @property
    def count(self) -> int:
        return int(self.failed.sum())

    @property
    def rate(self) -> float:
        return self.count / self.n


def error_difference(
    baseline: Failures,
    candidate: Failures,
    confidence: float = 0.95,
    *,
    sessions: tuple[Clusters, ...] = (),
) -> ErrorDifference:
    """How much oftener the candidate fails, by the same blocks as the quantiles; failures come in bursts.

    `sessions` are those of both arms together when paired, of each otherwise.
    """
    parts = [
        sign * (arm.failed - arm.failed.mean()) / len(arm.failed)
        for sign, arm in ((-1, baseline), (1, candidate))
    ]
    parts = [parts[0] + parts[1]] if len(sessions) == 1 else parts
    beside = [
        (one, one.excess(one.sums(part[one.order])))
        for one, part in zip(sessions, parts, strict=False)
    ]
    return counted_difference(baseline.counted, candidate.counted, confidence, beside=beside)


def counted_difference(
    baseline: FailureCounts,
    candidate: FailureCounts,
    confidence: float = 0.95,
    *,
    beside: Sequence[tuple[Clusters, float]] = (),
) -> ErrorDifference:
    """The same from counts alone, and what sessions add to the variance."""
    low, high, method = _interval(baseline, candidate, confidence, beside)
    return ErrorDifference(
        baseline=baseline.rate,
        candidate=candidate.rate,
        difference=candidate.rate - baseline.rate,
        low=low,
        high=high,
        method=method,
        n_baseline=baseline.n,
        n_candidate=candidate.n,
        kinds_baseline=baseline.kinds,
        kinds_candidate=candidate.kinds,
    )


def _interval(
    a: FailureCounts, b: FailureCounts, confidence: float, beside: Sequence[tuple[Clusters, float]]
) -> tuple[float, float, str]:
    if not a.count and not b.count:
        upper = (clopper_pearson(0, x.n, confidence)[1] for x in (a, b))
        return -next(upper), next(upper), "Clopper-Pearson, no failure in either arm"
    terms = _terms(b) - _terms(a)
    if min(a.n, b.n) < _REQUESTS_FOR_BLOCKS or not terms.any():
        low, high = newcombe((b.count, b.n), (a.count, a.n), confidence)
        return low, high, "Newcombe, as if requests were independent"
    found = mean_of_terms(b.rate - a.rate, terms, confidence, beside=beside)
    return max(-1.0, found.low), min(1.0, found.high), f"block t, K={found.blocks}"


def _terms(arm: FailureCounts) -> Floats:
    """What each of the 32 fine blocks adds to the failure rate, less its share of the mean."""
    return np.asarray((arm.failed - arm.rate * arm.requests) / arm.n)
