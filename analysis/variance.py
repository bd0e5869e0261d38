"""Variance: what differs from run to run, and how much of that a run's own requests explain.

y is the logarithm of one run's quantile. Between runs: the sd of y. Within: the standard error that
the requests of one run leave it, by blocks of time. Where the second explains the first, more
requests per run help, else only more runs do (T. Kalibera and R. Jones, ISMM 2013).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Final, Literal

import numpy as np
from scipy import special

from tbench.analysis.arms import Arm, Replicates
from tbench.analysis.inversion import (
    DRIFTING,
    Pair,
    blocks_for,
    fine_blocks,
    invert,
    lag_one,
    variance,
)
from tbench.analysis.metrics import Metric, values
from tbench.analysis.pairing import match, warm_up
from tbench.analysis.summary import Floats, ordered, quantile, rank, refusal
from tbench.analysis.t_tests import CONFIDENCE
from tbench.replay.pacing import Warmup

MORE_REQUESTS: Final = "more requests per run help"
MORE_RUNS: Final = "only more runs help"
_BOTH: Final = (1 - CONFIDENCE) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """What the requests of one run leave open about its log-quantile.

    `se` is the standard error of y; `half_width` half the 95 % interval of the log ratio of two such
    runs; both infinite where the data bound nothing. From `pairs` of neighbouring runs (by
    `analysis.inversion`: what the requests of a trace have in common cancels), or from one run's `blocks`,
    where it does not, so that they are an upper bound for runs of one trace. `n` is the requests of a run,
    `df` the degrees of freedom that both rest on, `drift` the SLOW_DRIFT flag.
    """

    se: float
    half_width: float
    n: int
    df: float
    source: Literal["pairs", "blocks"]
    drift: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One quantile of one metric over repeated runs. Standard deviations are of logarithms: .03 is 3 %.

    `sd` is that of y from run to run on `df` degrees of freedom, `low` and `high` its own 95 % interval
    (chi-square); None with one run an arm, or where a figure is missing, zero or among the timeouts.
    `n` is the fewest requests of a run. `refusal` says why there is nothing at all.
    """

    metric: str
    quantile: float
    n: int
    runs: int
    figures: tuple[tuple[float, ...], ...]
    sd: float | None
    df: int
    low: float | None
    high: float | None
    within: Within | None
    refusal: str | None = None

    @property
    def between(self) -> float | None:
        """The part of `sd` that a run's own requests do not explain."""
        if self.sd is None or self.within is None or not math.isfinite(self.within.se):
            return None
        return math.sqrt(max(0.0, self.sd**2 - self.within.se**2))

    @property
    def advice(self) -> str | None:
        """MORE_REQUESTS or MORE_RUNS; None where the two cannot be told apart."""
        if self.between is None or self.within is None:
            return None
        return MORE_REQUESTS if self.between <= self.within.se else MORE_RUNS


def spread(arms: Sequence[Replicates], metric: Metric, p: float) -> Spread:
    """Pool the p-quantile's spread over the runs of each arm: their means may differ, their sd may not."""
    figures, n = run_quantiles(arms, metric, p)
    why = refusal(n, p)
    sd, df = pooled_sd(figures)
    low, high = sd_interval(sd, df)
    return Spread(
        metric=metric.name,
        quantile=p,
        n=n,
        runs=sum(len(arm.runs) for arm in arms),
        figures=figures,
        sd=sd,
        df=df,
        low=low,
        high=high,
        within=None if why else within(arms, metric, p),
        refusal=why,
    )


def run_quantiles(
    arms: Sequence[Replicates], metric: Metric, p: float, warmup: Warmup | None = None
) -> tuple[tuple[tuple[float, ...], ...], int]:
    """The p-quantile of each run by arm, none where a run has too few values; and the fewest that one has."""
    samples = [[ordered(counted(run, metric, warmup)) for run in arm.runs] for arm in arms]
    n = min(len(sample) for arm in samples for sample in arm)
    if refusal(n, p):
        return (), n
    return tuple(tuple(quantile(sample, p) for sample in arm) for arm in samples), n


def keep(run: Arm, metrics: Iterable[Metric], warmup: Warmup | None = None) -> None:
    """Take from a run what its spread needs, some bytes of each request, and let go of its samples."""
    for metric in metrics:
        counted(run, metric, warmup)
    run.forget()


def counted(run: Arm, metric: Metric, warmup: Warmup | None = None) -> Floats:
    """The metric's value of each request outside the warm-up, in arrival order; NaN where absent."""
    warm = run.once(("warm", warmup), lambda run: warm_up(run, warmup))
    return _values(run, metric)[~warm]


def _values(run: Arm, metric: Metric) -> Floats:
    return run.once(("values", metric.name), lambda run: values(run, metric))


def within(arms: Sequence[Replicates], metric: Metric, p: float) -> Within:
    """The median over all neighbouring runs of an arm; over the arms' where each has one run.

    Of one run alone, by its own blocks. Raises InputError where runs share no request.
    """
    parts = [part for arm in arms for part in _neighbours(arm.runs, metric, p)]
    parts = parts or list(_neighbours([arm.runs[0] for arm in arms], metric, p))
    independent = sum(len(arm.runs) // 2 for arm in arms)  # pairs that share no run
    if not parts:
        parts = [of_blocks(counted(run, metric), p) for arm in arms for run in arm.runs]
        independent = len(parts)
    return Within(
        se=median(part.se for part in parts),
        half_width=median(part.half_width for part in parts),
        n=min(part.n for part in parts),
        df=median(part.df for part in parts) * max(independent, 1),
        source=parts[0].source,
        drift=sum(part.drift for part in parts) * 2 > len(parts),
    )


def _neighbours(runs: Sequence[Arm], metric: Metric, p: float) -> Iterator[Within]:
    """Each run against the next, request by request."""
    for first, second in pairwise(runs):
        matched = first.once(("match", second.path), partial(match, candidate=second))
        a = _values(first, metric)[matched.baseline]
        b = _values(second, metric)[matched.candidate]
        if min(len(ordered(a)), len(ordered(b))):
            yield of_pair(a, b, p)


def of_pair(a: Floats, b: Floats, p: float) -> Within:
    """Of two runs' values, aligned request by request."""
    (interval,) = invert(Pair(a, b), (p,))
    # An open end bounds nothing: half of an infinite interval must not become a number.
    bounded = interval.low > 0 and interval.high < math.inf
    half = math.log(interval.high / interval.low) / 2 if bounded else math.inf
    return Within(
        se=half / _critical(interval.blocks) / math.sqrt(2),
        half_width=half,
        n=min(len(ordered(a)), len(ordered(b))),
        df=interval.blocks - 1,
        source="pairs",
        drift=interval.drift,
    )


def of_blocks(series: Floats, p: float) -> Within:
    """Of one run's values in arrival order, by the blocks' own scatter around the p-quantile.

    The standard error of the share below it, carried over to the values a standard error further on
    either side (R. S. Woodruff, JASA 47, 1952); 16, 8 or 4 blocks as in `analysis.inversion`.
    """
    ascending = ordered(series)
    blocks = [ordered(block) for block in fine_blocks(series)]
    at = quantile(ascending, p)
    below = np.array([int(block.searchsorted(at, "right")) for block in blocks])
    sizes = np.array([len(block) for block in blocks])
    share = below.sum() / len(ascending)
    terms = ((below - share * sizes) / len(ascending))[None, :]
    rho = lag_one(terms)
    k = blocks_for(rho)
    error = math.sqrt(float(variance(terms, k)[0]))
    below_it, above_it = _log_at(ascending, p - error), _log_at(ascending, p + error)
    # A density would have to be guessed; the values a standard error away need no guess.
    se = (above_it - below_it) / 2 if math.isfinite(below_it) else math.inf
    return Within(
        se=se,
        half_width=_critical(int(k[0])) * math.sqrt(2) * se,
        n=len(ascending),
        df=int(k[0]) - 1,
        source="blocks",
        drift=bool(rho[0] > DRIFTING),
    )


def _log_at(ascending: Floats, p: float) -> float:
    """The logarithm of the p-quantile; infinite beyond the values, at zero and among the timeouts."""
    if p > 1 or p <= 0:
        return math.copysign(math.inf, p - 0.5)
    value = float(ascending[rank(len(ascending), p) - 1])
    return math.log(value) if value > 0 else -math.inf


def _critical(blocks: int) -> float:
    return -float(special.stdtrit(blocks - 1, _BOTH))


def correlation(figures: Sequence[Sequence[Sequence[float]]]) -> Floats:
    """How the gates' log-quantiles go together from run to run. `figures` are by gate, arm and run, positive.

    Inside the arms, and drawn towards independence as if as many runs more as there are gates had shown
    none: a few runs cannot tell, and gates that go together pass together more often.
    """
    logs = np.array(
        [np.concatenate([np.log(arm) - np.mean(np.log(arm)) for arm in gate]) for gate in figures]
    )
    # Each arm has a mean of its own, which takes one degree.
    df = len(logs[0]) - len(figures[0])
    scale = np.sqrt((logs**2).sum(axis=1))
    scaled = logs / np.where(scale > 0, scale, 1.0)[:, None]
    shrunk = scaled @ scaled.T * df / (df + len(logs))
    np.fill_diagonal(shrunk, 1.0)
    return np.asarray(shrunk)


def pooled_sd(figures: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """The sd of y inside the arms, and its degrees of freedom."""
    df = sum(len(arm) - 1 for arm in figures)
    # One figure among the timeouts leaves no sd, and leaving it out would make the runs look steadier.
    if df == 0 or not all(0 < figure < math.inf for arm in figures for figure in arm):
        return None, df
    squares = sum(float(np.var(np.log(arm))) * len(arm) for arm in figures)
    return math.sqrt(squares / df), df


def sd_interval(sd: float | None, df: int) -> tuple[float | None, float | None]:
    """Where the true sd lies if y is normal: df s^2 / sigma^2 is chi-square on df degrees."""
    if sd is None:
        return None, None
    low, high = (
        sd * math.sqrt(df / float(special.chdtri(df, tail))) for tail in (_BOTH, 1 - _BOTH)
    )
    return low, high
