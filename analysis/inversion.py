"""Inversion: the interval of a ratio of quantiles between two arms, from a few large time blocks.

For a ratio r, let c be the pooled p-quantile of {a, b/r}. If r is the true ratio, both arms exceed c
equally often; the blocks say how far that difference strays by itself. The interval holds every r
whose block-t test is not rejected: no resampling, no density, no seed. K, the number of blocks,
follows from how long a disturbance lasts. Method, measured error rates and limits: docs/statistics.md.

Everything happens on logarithms, so that dividing by r is a shift, and swapping the arms inverts
the result exactly. NaN is no value; +inf is a timeout and sorts last; what is below zero counts as zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from tbench.analysis.blocks import (
    Clusters,
    Exceedance,
    Ints,
    Side,
    few,
    fine_blocks,
    freedom,
    inflated,
    logarithms,
)
from tbench.analysis.summary import Floats
from tbench.analysis.sums import FINE

__all__ = [
    "FINE",
    "Interval",
    "Ints",
    "Pair",
    "Side",
    "blocks_for",
    "fine_blocks",
    "invert",
    "lag_one",
]

Truths = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
CALM, DRIFTING = 0.20, 0.35
"""Up to the first autocorrelation 16 blocks are right; beyond the second no number of blocks is."""
_BIAS = 1 / FINE
"""Terms that are independent but sum to zero have a lag-1 autocorrelation of about -1/32."""
_PAIRS_PER_BLOCK = 8
_TIE = 1e-12
"""What rounding leaves of a difference of shares, or between both sides of an end on logarithms."""
_FURTHEST = float(np.log(64))
"""An end that is not met by then is none: the interval is unbounded on that side."""
_BELOW, _ABOVE = float(np.nextafter(1, 0)), float(np.nextafter(1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The ratio of the p-quantiles, b / a: all r between `low` and `high` agree with the data.

    `ratio` is NaN where a quantile is zero or among the timeouts; 0 and inf mean unbounded. The band
    holds at all the points asked for at once. `rho` is the autocorrelation that chose `blocks`, NaN when
    K was given; `drift` says that it is beyond repair. `p_value` is that of no difference (r = 1),
    two-sided, and `t` its statistic, positive where b is the lower one: below 1 - CONFIDENCE the interval
    excludes 1, be it by the last digit, else it holds 1. `inflation` is by what sessions multiply the
    variance of the blocks, `sessions` how many of equal size they are worth (NaN unknown), `freedom` the
    degrees of Student's t; `few_sessions` says that a few of them decide. `doubt` is how much wider
    either end is, on logarithms, by what ticks of a clock hide.
    """

    p: float
    ratio: float
    low: float
    high: float
    band_low: float
    band_high: float
    blocks: int
    rho: float
    drift: bool
    p_value: float
    t: float = 0.0
    doubt: float = 0.0
    inflation: float = 1.0
    sessions: float = float("nan")
    freedom: float = float("nan")
    few_sessions: bool = False


class Pair:
    """Two arms, each cut into 32 blocks of equal request count in arrival order, and sorted.

    Arms of equal length are taken request by request; arms of different length share only the order
    in time (`paired=False`), and then the paired series is left out of the choice of K. `sessions` are those
    of both arms together when paired, of each otherwise; none where none is known.
    """

    def __init__(
        self,
        a: Floats | Side,
        b: Floats | Side,
        *,
        paired: bool = True,
        sessions: tuple[Clusters, ...] = (),
    ) -> None:
        self._measured = tuple(
            Side(values) if isinstance(values, np.ndarray) else values for values in (a, b)
        )
        self._a, self._b = (side.untied for side in self._measured)
        self._paired_sums = _paired_sums(self._a.given, self._b.given) if paired else None
        self._clusters = sessions

    @property
    def few_pairs(self) -> bool:
        """Too few requests have a finite value in both arms for the paired series."""
        return self._paired_sums is None

    def log_ratios(self, points: Floats) -> Floats:
        """log(Q_b / Q_a) at each point; NaN or infinite where it is not identified."""
        a, b = (np.array([side.quantile(p) for p in points]) for side in self._measured)
        with np.errstate(invalid="ignore"):
            # Two timeouts, or two zeros, are inf - inf: NaN says that no ratio is identified.
            return np.asarray(b - a)

    def doubt(self, p: float) -> float:
        """How far both quantiles together may be from what was measured, on logarithms."""
        return sum(side.doubt(p) for side in self._measured)

    def centres(self, points: Floats) -> Floats:
        """Where to look for the ends: the log ratio, with the largest value seen for one timed out."""
        a, b = (
            np.array([min(side.quantile(p), side.largest) for p in points])
            for side in (self._a, self._b)
        )
        finite = np.isfinite(a) & np.isfinite(b)
        return np.where(finite, b - np.where(finite, a, 0.0), 0.0)

    def tail_blocks(self, p: float) -> int:
        """In how many of 16 blocks the requests at and beyond the p-quantile lie, in the arm with fewer."""
        return min(side.tail_blocks(p) for side in self._measured)

    def scores(self, shift: Floats, p: Floats) -> tuple[Floats, Floats]:
        """F_b - F_a at the pooled p-quantile of {a, b - shift}, and its 32 centred block terms.

        One lane per element of `shift` and `p`: shapes (m,) and (m, 32). A lane whose pooled quantile
        lies among zeros or timeouts scores 0.
        """
        at_a, at_b = self._a.pooled(self._b, shift, p)
        share_a, terms_a = self._a.exceedance(at_a)
        share_b, terms_b = self._b.exceedance(at_b)
        usable = np.isfinite(at_a) & np.isfinite(at_b)
        difference = np.where(usable, share_b - share_a, 0.0)
        return difference, np.where(usable[:, None], terms_b - terms_a, 0.0)

    def variance(self, terms: Floats, blocks: Ints) -> Floats:
        """Of each lane's difference, from its 32 terms merged to so many blocks."""
        return variance(terms, blocks)

    def t(self, shift: Floats, p: Floats, blocks: Ints) -> Floats:
        """The block-t statistic of each lane; positive when b is below its place at this shift.

        Without any variance a difference is certain (the arms do not overlap), no difference is none.
        """
        difference, terms = self.scores(shift, p)
        error = np.sqrt(self.variance(terms, blocks))
        # Blocks of equal arms that differ by a request have an error of some 1 / (32 n), over 1e-9
        # for what is held in memory: less is rounding.
        flat = error <= _TIE
        certain = np.select([difference > _TIE, difference < -_TIE], [np.inf, -np.inf], 0.0)
        return np.where(flat, certain, difference / np.where(flat, 1.0, error))

    @property
    def sessions(self) -> float:
        """How many sessions of equal size there are, as good as; NaN where none is known."""
        return min((clusters.count for clusters in self._clusters), default=float("nan"))

    def freedom(self, blocks: Ints) -> Floats:
        """The degrees of freedom of Student's t: of the blocks, or of the sessions if those are fewer."""
        return freedom(self._clusters, blocks)

    def few_sessions(self, inflation: Floats, blocks: Ints) -> Truths:
        """Where a few sessions decide, by the inflation of each lane."""
        return few(self._clusters, inflation, blocks)

    def inflation(self, shift: Floats, p: Floats, blocks: Ints) -> Floats:
        """By what sessions multiply the variance of the blocks, per lane."""
        factors = np.ones(len(shift))
        if all(clusters.plain for clusters in self._clusters):
            return factors
        time = self.variance(self.scores(shift, p)[1], blocks)
        at_a, at_b = self._a.pooled(self._b, shift, p)
        for lane in np.flatnonzero(np.isfinite(at_a) & np.isfinite(at_b)):
            a, b = self._cells(float(at_a[lane]), float(at_b[lane]), float(p[lane]))
            # Paired arms share their sessions, so that what a session does to both cancels.
            parts = [b - a] if len(self._clusters) == 1 else [a, b]
            excess = [
                clusters.excess(part) for clusters, part in zip(self._clusters, parts, strict=True)
            ]
            factors[lane] = inflated(excess, float(time[lane]))
        return factors

    def _cells(self, at_a: float, at_b: float, _p: float) -> tuple[Floats, Floats]:
        """What each cell of the clusters adds to either arm's score at these pooled quantiles."""
        a, b = self._exceedances
        shares = self._a.share(np.array(at_a)), self._b.share(np.array(at_b))
        return a.cells(at_a, float(shares[0])), b.cells(at_b, float(shares[1]))

    @cached_property
    def _exceedances(self) -> tuple[Exceedance, Exceedance]:
        first, second = self._clusters[0], self._clusters[-1]
        return (
            Exceedance(first, logarithms(self._a.given)),
            Exceedance(second, logarithms(self._b.given)),
        )

    def tested(self, shift: Floats, p: Floats, blocks: Ints) -> Floats:
        """The statistic of each lane over time and sessions: Student's t on `freedom` degrees."""
        return np.asarray(self.t(shift, p, blocks) / np.sqrt(self.inflation(shift, p, blocks)))

    def autocorrelation(self, shift: Floats, p: Floats) -> Floats:
        """The larger of the paired series' and the exceedance's own, per lane."""
        _, terms = self.scores(shift, p)
        rho = lag_one(terms)
        return rho if self._paired_sums is None else np.maximum(rho, lag_one(self._paired_sums))


def invert(
    pair: Pair,
    points: Sequence[float] | Floats,
    *,
    blocks: int | None = None,
) -> tuple[Interval, ...]:
    """The ratio at each of the points (0 < p < 1), with its interval and the simultaneous band.

    `blocks` fixes K (it must divide 32); by default each point gets its own.
    """
    points = np.asarray(points, dtype=np.float64)
    estimate, centre = pair.log_ratios(points), pair.centres(points)
    rho = pair.autocorrelation(centre, points)
    # K is chosen at the estimate and then stays: chosen anew at each ratio it would make t jump
    # within the search, and what is held would be no interval.
    k = blocks_for(rho) if blocks is None else np.full(len(points), blocks)
    alpha = 1 - CONFIDENCE
    levels = np.array([alpha, alpha / len(points)])  # each alone, and Bonferroni's
    inflation = pair.inflation(centre, points, k)
    doubt = np.array([pair.doubt(p) for p in points])
    scarce = pair.few_sessions(inflation, k)
    lanes = _Points(centre, points, k)
    ends = _search(pair, lanes, levels, np.stack([inflation, inflation]))
    if (inflation > 1).any():
        # What sessions add depends on the ratio: once more, with what they add at either end.
        ends = _search(pair, lanes, levels, _at_ends(pair, ends, lanes, inflation))
    # What steps hide is added behind the test, not inside it: it is a bound, of which blocks know
    # nothing.
    low, high = ends * np.exp([-doubt, doubt])[:, None]
    # The finding is the test's at a ratio of 1, not the interval's: a clock's step makes the ends coarse.
    t = pair.tested(np.zeros(len(points)), points, k)
    p_values = 2 * special.stdtr(pair.freedom(k), -np.abs(t))
    low, high = _beside_one(low, high, np.where(p_values < alpha, np.sign(t), 0.0))
    return tuple(
        Interval(
            p=float(p),
            ratio=float(np.exp(estimate[i])) if np.isfinite(estimate[i]) else float("nan"),
            low=float(low[0, i]),
            high=float(high[0, i]),
            band_low=float(low[1, i]),
            band_high=float(high[1, i]),
            blocks=int(k[i]),
            rho=float(rho[i]) if blocks is None else float("nan"),
            drift=blocks is None and bool(rho[i] > DRIFTING),
            p_value=float(p_values[i]),
            t=float(t[i]),
            doubt=float(doubt[i]),
            inflation=float(inflation[i]),
            sessions=pair.sessions,
            freedom=float(pair.freedom(k)[i]),
            few_sessions=bool(scarce[i]),
        )
        for i, p in enumerate(points)
    )


class _Points(NamedTuple):
    """What is inverted: where to begin, on logarithms, at which quantile, over how many blocks."""

    centre: Floats
    p: Floats
    blocks: Ints


def _at_ends(pair: Pair, ends: Floats, points: _Points, least: Floats) -> Floats:
    """The inflation at both ends of the first level, and no less than at the estimate: shape (2, points)."""
    inflation = np.stack([least, least])
    for side, end in enumerate(ends[:, 0]):
        with np.errstate(divide="ignore"):
            shift = np.log(end)
        bounded = np.isfinite(shift)
        # An open end has no ratio at which sessions could be asked: there the estimate's must do.
        at_end = pair.inflation(shift[bounded], points.p[bounded], points.blocks[bounded])
        inflation[side, bounded] = np.maximum(least[bounded], at_end)
    return inflation


def _beside_one(low: Floats, high: Floats, lower: Floats) -> tuple[Floats, Floats]:
    """Intervals (the first level of each) that agree with the test of 1, which no step of a clock blurs.

    `lower` is 1 where b is certainly the lower one, -1 where it is the higher one, else 0. The second level,
    of the band, holds what the first does.
    """
    low[0] = np.select(
        [lower < 0, lower == 0], [np.maximum(low[0], _ABOVE), np.minimum(low[0], 1)], low[0]
    )
    high[0] = np.select(
        [lower > 0, lower == 0], [np.minimum(high[0], _BELOW), np.maximum(high[0], 1)], high[0]
    )
    return np.stack([low[0], np.minimum(*low)]), np.stack([high[0], np.maximum(*high)])


def blocks_for(rho: Floats) -> Ints:
    """K for an autocorrelation of the 32 fine blocks: 16, 8, or 4 where even that is too many."""
    return np.select([rho <= CALM, rho <= DRIFTING], [16, 8], 4).astype(np.int64)


def lag_one(terms: Floats) -> Floats:
    """Lag-1 autocorrelation along the last axis, + 1/32 for its bias; 0 without any variance."""
    power = (terms * terms).sum(axis=-1)
    lagged = (terms[..., 1:] * terms[..., :-1]).sum(axis=-1)
    flat = power <= _TIE * _TIE
    return np.where(flat, 0.0, lagged / np.where(flat, 1.0, power) + _BIAS)


def variance(terms: Floats, blocks: Ints) -> Floats:
    """Of the sum of each lane's 32 terms, by how its merged blocks scatter."""
    # Each K at once: lanes with as many blocks share one reshape.
    variances = np.empty(len(terms))
    for k in np.unique(blocks):
        lanes = blocks == k
        # The terms sum to zero, so that their squares alone are the scatter around the mean.
        merged = terms[lanes].reshape(-1, k, FINE // k).sum(axis=2)
        variances[lanes] = k / (k - 1) * (merged * merged).sum(axis=1)
    return variances


def _search(pair: Pair, points: _Points, levels: Floats, inflation: Floats) -> Floats:
    """Both ends at every level and point, all searched in step: shape (2, levels, points).

    `inflation` has the shape (2, points).
    """
    shape = (2, len(levels), len(points.p))
    side = np.broadcast_to(np.array([-1.0, 1.0])[:, None, None], shape).ravel()
    middle, p = (np.broadcast_to(lane, shape).ravel() for lane in (points.centre, points.p))
    k = np.broadcast_to(points.blocks, shape).ravel()
    tail = np.broadcast_to(levels[:, None] / 2, shape).ravel()
    wider = np.sqrt(np.broadcast_to(inflation[:, None], shape).ravel())
    # Sessions widen the critical value instead of each t: they are asked for once a lane, not at
    # each step.
    critical = -special.stdtrit(pair.freedom(k), tail) * wider

    def rejected(step: Floats, which: Ints) -> Truths:
        t = pair.t(middle[which] + side[which] * step, p[which], k[which])
        return np.asarray(side[which] * t > critical[which])

    # The centre itself is never asked: both shares are p there, to a request, and no level rejects
    # that.
    # First outwards, until each lane has a last step still accepted and a first one rejected (inf: none).
    lanes = len(side)
    inside, outside, reach = np.zeros(lanes), np.full(lanes, np.inf), 0.02
    while reach < _FURTHEST and len(which := np.flatnonzero(np.isinf(outside))):
        out = rejected(np.full(len(which), reach), which)
        outside[which[out]] = reach
        inside[which[~out]] = reach
        reach *= 1.7  # geometric: most ends are near, and a far one costs a dozen steps
    while len(which := np.flatnonzero(np.isfinite(outside) & (outside - inside > _TIE))):
        step = (inside[which] + outside[which]) / 2
        out = rejected(step, which)
        outside[which] = np.where(out, step, outside[which])
        inside[which] = np.where(out, inside[which], step)
    # The rejected end of the last bracket: what rounding leaves open widens an interval, never
    # narrows it.
    return np.asarray(np.exp(middle + side * outside).reshape(shape))


def _paired_sums(a: Floats, b: Floats) -> Floats | None:
    """Block sums of the winsorised log-ratios; None when a block has too few finite pairs.

    Request by request, what both arms share cancels, and what lasts for minutes stands out.
    """
    with np.errstate(invalid="ignore"):
        ratio = logarithms(b) - logarithms(a)
    finite = np.isfinite(ratio)
    if min(int(block.sum()) for block in fine_blocks(finite)) < _PAIRS_PER_BLOCK:
        return None
    middle = np.median(ratio[finite])
    # Winsorised: one request that took a hundred times as long is no change of conditions.
    reach = 3 * np.median(np.abs(ratio[finite] - middle))
    clipped = np.clip(ratio[finite], middle - reach, middle + reach)
    centred = np.zeros(len(ratio))
    centred[finite] = clipped - clipped.mean()
    return np.array([block.sum() for block in fine_blocks(centred)]) / len(clipped)
