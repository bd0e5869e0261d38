"""Failures: how much more often one arm fails than the other. An endpoint of its own, never a latency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tbench.analysis.arms import Truths
from tbench.analysis.blocks import Clusters
from tbench.analysis.inversion import fine_blocks
from tbench.analysis.mean_ratio import mean_of_terms
from tbench.analysis.summary import Floats, clopper_pearson, newcombe
from tbench.analysis.sums import Ints

_REQUESTS_FOR_BLOCKS = 256
"""Fewer requests leave blocks of a handful: treat them as independent, and say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDifference:
    """The share of failed requests in each arm (0 to 1), and candidate - baseline with its interval.

    `n_*` are those that succeeded or failed: what somebody else ended is neither. `kinds_*` count the
    outcomes other than ok by name, those included that nobody blames on the server.
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
    """How many requests of each fine block of an arm failed, and all outcomes other than ok by name.

    `requests` are those that succeeded or failed. `failed` and `counted` say which, in arrival order; both
    are empty where that is more than memory holds.
    """

    events: Ints
    requests: Ints
    kinds: Mapping[str, int]
    failed: Truths = field(default_factory=lambda: np.empty(0, dtype=bool))
    counted: Truths = field(default_factory=lambda: np.empty(0, dtype=bool))

    @classmethod
    def of(
        cls, failed: Truths, kinds: Mapping[str, int], counted: Truths | None = None
    ) -> "Failures":
        """Of requests in arrival order; without `counted` all succeeded or failed."""
        counted = np.ones_like(failed) if counted is None else counted
        return cls(
            events=np.array([int(block.sum()) for block in fine_blocks(failed)]),
            requests=np.array([int(block.sum()) for block in fine_blocks(counted)]),
            kinds=kinds,
            failed=failed,
            counted=counted,
        )

    @property
    def n(self) -> int:
        return int(self.requests.sum())

    @property
    def count(self) -> int:
        return int(self.events.sum())

    @property
    def rate(self) -> float:
        return self.count / self.n

    @property
    def terms(self) -> Floats:
        """What each of the 32 fine blocks adds to the failure rate, less its share of the mean."""
        return np.asarray((self.events - self.rate * self.requests) / self.n)


def error_difference(
    baseline: Failures,
    candidate: Failures,
    confidence: float = 0.95,
    *,
    sessions: tuple[Clusters, ...] = (),
    beside: Sequence[tuple[Clusters, float]] = (),
) -> ErrorDifference:
    """How much oftener the candidate fails, by the same blocks as the quantiles; failures come in bursts.

    `sessions` are those of both arms together when paired, of each otherwise; or `beside` has them with what
    they add to the variance.
    """
    parts = [
        sign * (arm.failed - arm.rate * arm.counted) / arm.n
        for sign, arm in ((-1, baseline), (1, candidate))
        if len(arm.failed)
    ]
    # Paired arms share their sessions: what one does to both cancels before it is squared.
    parts = [parts[0] + parts[1]] if len(sessions) == 1 else parts
    beside = beside or [
        (clusters, clusters.excess(clusters.sums(part[clusters.order])))
        for clusters, part in zip(sessions, parts, strict=False)
    ]
    terms = candidate.terms - baseline.terms
    if not baseline.count and not candidate.count:
        # Without a failure no block differs from another: what so many requests can hide is exact.
        low = -clopper_pearson(0, baseline.n, confidence)[1]
        high = clopper_pearson(0, candidate.n, confidence)[1]
        method = "Clopper-Pearson, no failure in either arm"
    elif min(baseline.n, candidate.n) < _REQUESTS_FOR_BLOCKS or not terms.any():
        counts = (candidate.count, candidate.n), (baseline.count, baseline.n)
        low, high = newcombe(*counts, confidence)
        method = "Newcombe, as if requests were independent"
    else:
        mean = mean_of_terms(candidate.rate - baseline.rate, terms, confidence, beside=beside)
        # A t interval knows nothing of the ends of a share.
        low, high, method = max(-1.0, mean.low), min(1.0, mean.high), f"block t, K={mean.blocks}"
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
