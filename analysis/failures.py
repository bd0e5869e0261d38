"""Failures: how much more often one arm fails than the other. An endpoint of its own, never a latency."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.arms import Truths
from analysis.inversion import Ints, blocks_for, fine_blocks, lag_one, studentised
from analysis.quantiles import clopper_pearson, newcombe
from analysis.summary import Floats

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
    """Requests and failures of an arm in each of 32 blocks of time, and all outcomes but ok by name."""

    requests: Ints
    failed: Ints
    kinds: Mapping[str, int]

    @staticmethod
    def of(failed: Truths, kinds: Mapping[str, int]) -> "Failures":
        """Those of requests in arrival order."""
        blocks = fine_blocks(failed)
        counts = [(len(block), int(block.sum())) for block in blocks]
        requests, failures = np.array(counts, dtype=np.int64).T
        return Failures(requests=requests, failed=failures, kinds=kinds)

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
    baseline: Failures, candidate: Failures, confidence: float = 0.95
) -> ErrorDifference:
    """How much oftener the candidate fails, by the same blocks as the quantiles; failures come in bursts."""
    low, high, method = _interval(baseline, candidate, confidence)
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


def _interval(a: Failures, b: Failures, confidence: float) -> tuple[float, float, str]:
    if not a.count and not b.count:
        upper = (clopper_pearson(0, x.n, confidence)[1] for x in (a, b))
        return -next(upper), next(upper), "Clopper-Pearson, no failure in either arm"
    terms = _terms(b) - _terms(a)
    if min(a.n, b.n) < _REQUESTS_FOR_BLOCKS or not terms.any():
        low, high = newcombe((b.count, b.n), (a.count, a.n), confidence)
        return low, high, "Newcombe, as if requests were independent"
    return _block_t(b.rate - a.rate, terms, confidence)


def _block_t(difference: float, terms: Floats, confidence: float) -> tuple[float, float, str]:
    blocks = blocks_for(lag_one(terms[None]))
    error = 1 / float(studentised(np.ones(1), terms[None], blocks)[0])
    k = int(blocks[0])
    half = -float(special.stdtrit(k - 1, (1 - confidence) / 2)) * error
    return max(-1.0, difference - half), min(1.0, difference + half), f"block t, K={k}"


def _terms(arm: Failures) -> Floats:
    """What each of the 32 fine blocks adds to the failure rate, less its share of the mean."""
    return np.asarray((arm.failed - arm.rate * arm.requests) / arm.n)
