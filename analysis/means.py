"""Means of dependent requests: of a series with its interval, the ratio of the typical one, failures.

A mean whose terms depend on their neighbours has its interval from a few large blocks: batch means with
Student's t (docs/statistics.md). K, the number of blocks, follows from the lag-1 autocorrelation of the 32
fine blocks, as for the quantiles.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from tbench.analysis.blocks import Clusters, CountedSide, Ints, Truths, freedom, inflated
from tbench.analysis.inversion import DRIFTING, blocks_for, fine_blocks, lag_one, variance
from tbench.analysis.summary import (
    Confidence,
    Floats,
    clopper_pearson,
    identified,
    least_n,
    newcombe,
    ordered,
    quantile,
    refusal,
)
from tbench.capture.histogram import STEP


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
    beside = (
        []
        if sessions is None
        else [(sessions, sessions.excess(sessions.sums(deviations[sessions.order])))]
    )
    return mean_of_terms(mean, terms, confidence, beside=beside)


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
    # Chosen from its own terms: a mean can drift where no quantile does.
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


# The geometric mean: exp(mean log b/a), the ratio of the typical request, which is not one of quantiles.
#
# Taken request by request, so that what both arms share cancels. A pair in which an arm has no finite value
# is left out; where failures depend on the size of a request, that biases it: shown, never gated.


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
    def n_eff(self) -> float:
        """N / tau, and at most n."""
        return self.n / max(self.tau or 1.0, 1.0)


def effective_size(series: Floats) -> EffectiveSize:
    """Of the finite values of a series in arrival order, such as log ratios."""
    # What failed or timed out holds no information here, and would make every variance infinite.
    finite = series[np.isfinite(series)]
    if not len(finite):
        return EffectiveSize(n=0, tau=None)
    variance = float(finite.var())
    # Equal values leave a variance of rounding, over which tau would be noise.
    flat = variance <= np.finfo(np.float64).eps * float(np.abs(finite).max()) ** 2
    tau = None if flat else len(finite) * mean_of_series(series).se ** 2 / variance
    return EffectiveSize(n=len(finite), tau=tau)


def counted_size(side: CountedSide) -> EffectiveSize:
    """The same of the logarithms of values that were counted in buckets."""
    logs, counts = side.logs
    n, in_all = int(counts.sum()), counts.sum(axis=0)
    if not n:
        return EffectiveSize(n=0, tau=None)
    mean = float(in_all @ logs) / n
    variance = float(in_all @ (logs - mean) ** 2) / n
    if variance <= STEP**2:  # all in a bucket or two
        return EffectiveSize(n=n, tau=None)
    terms = counts @ (logs - mean) / n
    return EffectiveSize(n=n, tau=n * mean_of_terms(mean, terms).se ** 2 / variance)


# Drift: a ratio within each third of the trace, to show which way conditions changed. Estimates only.

Thirds = tuple[float | None, float | None, float | None]
"""Of the first, the middle and the last third of an arm's requests; None where there is none."""


def quantile_by_thirds(a: Floats, b: Floats, p: float) -> Thirds:
    """B / a of the p-quantiles; None with too few values for it, among timeouts, or where a is zero."""

    def figure(values: Floats) -> float | None:
        known = ordered(values)
        n = len(known)
        # A third has too few requests for the usual refusal: these are estimates without an interval.
        if n < least_n(p) or not identified(n - int(known.searchsorted(math.inf)), n, p):
            return None
        return quantile(known, p)

    sides = zip(np.array_split(a, 3), np.array_split(b, 3), strict=True)
    first, middle, last = (ratio_of(figure(x), figure(y)) for x, y in sides)
    return first, middle, last


def typical_by_thirds(a: Floats, b: Floats) -> Thirds:
    """The paired geometric-mean ratio b / a; None without a finite pair."""
    parts = (third[np.isfinite(third)] for third in np.array_split(log_ratios(a, b), 3))
    first, middle, last = (math.exp(float(third.mean())) if len(third) else None for third in parts)
    return first, middle, last


def ratio_of(baseline: float | None, candidate: float | None) -> float | None:
    """Candidate / baseline; None where either is unknown, or the baseline zero."""
    return candidate / baseline if baseline and candidate is not None else None


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


# Failures: how much more often one arm fails than the other. An endpoint of its own, never a latency.

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
        low = -clopper_pearson(0, baseline.n)[1]
        high = clopper_pearson(0, candidate.n)[1]
        method = "Clopper-Pearson, no failure in either arm"
    elif min(baseline.n, candidate.n) < _REQUESTS_FOR_BLOCKS or not terms.any():
        counts = (candidate.count, candidate.n), (baseline.count, baseline.n)
        low, high = newcombe(*counts)
        method = "Newcombe, as if requests were independent"
    else:
        mean = mean_of_terms(candidate.rate - baseline.rate, terms, beside=beside)
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
