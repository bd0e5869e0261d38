"""Contrast: one metric in both arms, and the ratio of its quantiles wherever they can be compared."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import special

from tbench.analysis.blocks import Clusters, CountedSide, Ints
from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Shift, Verdict
from tbench.analysis.drawn import CountedPair, DrawnSessions
from tbench.analysis.inversion import Interval, Pair, Side, invert
from tbench.analysis.lengths import AtEqualLengths
from tbench.analysis.means import (
    EffectiveSize,
    Overall,
    counted_size,
    effective_size,
    geometric_mean,
    log_ratios,
    quantile_by_thirds,
    ratio_of,
    typical_by_thirds,
)
from tbench.analysis.metrics import METRICS, Metric
from tbench.analysis.pairing import RunView
from tbench.analysis.summary import Caution, Floats, identified, ordered, quantile, refusal
from tbench.analysis.t_tests import CONFIDENCE, difference
from tbench.analysis.words import lasting
from tbench.capture.terminal import plural
from tbench.replay.metrics import exceeded, minimum_n

USUAL, RARE = (0.5, 0.9, 0.95, 0.99), 0.999
"""The quantiles shown when none is asked for; the rare one only where there are enough requests."""
SHIFT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
TAIL = (0.95, 0.99)
"""The quantiles that tell whether waiting in a queue dominates."""
SURE_REQUESTS, SURE_S = 1000, 1800.0
"""Fewer requests or a shorter run earn no "95%": see the limits in docs/statistics.md."""
LEAST_RUNS = 3
"""With fewer runs of an arm their shift has no interval."""
TAIL_BLOCKS = 10
"""The requests beyond a quantile must lie in this many of 16 blocks, or one burst decides."""
HARMLESS = frozenset({"STEPS"})
"""Codes of a row that cost it no confidence: its interval has paid for them."""
COARSE = 0.05
"""Steps are said where they widen an interval by this share of its width."""
NARROWEST = 0.00205
"""Steps smaller than this share of a value are not worth a word."""
ALPHA = 0.05
"""A difference is seen where the test of none has a smaller p-value; the interval agrees with it."""
FINDINGS = {
    "lower": ("faster", "slower"),
    "higher": ("lower", "higher"),
    "neutral": ("lower", "higher"),
}
"""What a ratio below and above 1 is called, by which way of the metric is better."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One metric's values in both arms, in arrival order (aligned when `paired`).

    `asked` are the quantiles wanted, empty for the usual ones. `span_s` is how long the shorter arm
    lasted, `timeouts_s` each arm's deadline where known. `sessions` are as of a Pair. With `bins`
    (analysis.lengths) the output length is taken out, and a row has no values of its own. What is more than
    memory holds is `counted`, with empty `values`, and its sessions `drawn`.
    """

    metric: Metric
    values: tuple[Floats, Floats]
    paired: bool
    asked: tuple[float, ...]
    span_s: float
    timeouts_s: tuple[float | None, float | None]
    sessions: tuple[Clusters, ...] = ()
    bins: tuple[Ints, Ints] | None = None
    counted: tuple[CountedSide, CountedSide] | None = None
    drawn: DrawnSessions | None = None

    @property
    def in_both(self) -> bool:
        """Whether each arm has a finite value at all."""
        return all(side.n > side.timeouts for side in self._sides)

    @property
    def n(self) -> int:
        """The values of the arm that has fewer, timeouts included."""
        return min(side.n for side in self._sides)

    def rows(self) -> Iterator[Comparison]:
        """The comparison at each quantile; a refused one says why."""
        return (self._row(p) for p in self._points)

    def tail(self) -> Iterator[Comparison]:
        """The comparison at p95 and p99, whatever was asked for; nothing where an arm has no value."""
        return (self._row(p) for p in TAIL if self.in_both)

    def shift(self) -> tuple[Shift, ...]:
        """Deciles and tail, as far as there are enough requests; the band holds at all of them."""
        return tuple(
            Shift(
                p=interval.p,
                ratio=_finite(interval.ratio),
                low=_bound(interval.low),
                high=_bound(interval.high),
                band_low=_bound(interval.band_low),
                band_high=_bound(interval.band_high),
                drift=interval.drift,
            )
            for interval in self._intervals.values()
        )

    def overall(self) -> Overall:
        """What is said of the metric beside its quantiles."""
        together = next(iter(self.sessions), None)
        geometric = geometric_mean(*self.values, sessions=together) if self.paired else None
        # Its own log-ratios choose its K, so that it drifts, or not, apart from the quantiles.
        drift = ["SLOW_DRIFT"] if geometric and geometric.drift else []
        doubts = (*self._doubts(geometric.n if geometric else self.n), *drift)
        refused = geometric is None or geometric.refusal is not None
        return Overall(
            geometric=geometric,
            thirds=typical_by_thirds(*self.values) if geometric and geometric.drift else None,
            effective=min(self._effective(), key=lambda size: size.n_eff),
            confidence="none" if refused else "low" if doubts else "95%",
            doubts=doubts,
        )

    def _effective(self) -> list[EffectiveSize]:
        """What the pairs are worth in independent ones, or each arm's requests."""
        if self.counted is not None:
            return [counted_size(side) for side in self.counted]
        with np.errstate(divide="ignore", invalid="ignore"):
            series = [log_ratios(*self.values)] if self.paired else map(np.log, self.values)
            return [effective_size(each) for each in series]

    @property
    def _points(self) -> tuple[float, ...]:
        if self.asked:
            return tuple(sorted(set(self.asked)))
        return (*USUAL, RARE) if self.n >= minimum_n(RARE) else USUAL

    @cached_property
    def _sides(self) -> tuple[Side, Side]:
        return self.counted or (Side(self.values[0]), Side(self.values[1]))

    @cached_property
    def _pair(self) -> Pair:
        baseline, candidate = self._sides
        if self.counted is not None and self.drawn is not None:
            return CountedPair(self.counted, self.metric.name, self.drawn)
        if self.bins is None:
            return Pair(baseline, candidate, paired=self.paired, sessions=self.sessions)
        return AtEqualLengths(
            baseline, candidate, self.bins, paired=self.paired, sessions=self.sessions
        )

    @cached_property
    def _intervals(self) -> dict[float, Interval]:
        """By p, wherever nothing forbids one."""
        asked = {*self._points, *SHIFT} if self.bins is None else set(self._points)
        points = [p for p in sorted(asked) if self._refusal(p) is None]
        intervals = invert(self._pair, points) if points else ()
        return {interval.p: interval for interval in intervals}

    def _refusal(self, p: float) -> str | None:
        """Why there can be no interval at p."""
        if reason := refusal(self.n, p):
            return reason
        if self.drawn is not None and self.drawn.too_few:
            return "large sessions decide, of which too few can be drawn"
        lie_in = self._pair.tail_blocks(p)
        # Refused, not flagged: one bad minute that holds all slow requests is no tail of the server.
        if lie_in < TAIL_BLOCKS:
            return f"its extreme requests lie in {lie_in} of 16 time blocks (needs {TAIL_BLOCKS}): a burst"
        if not any(_known(side, p) for side in self._sides):
            return "it lies among the timeouts in both arms"
        return None

    def _row(self, p: float) -> Comparison:
        baseline, candidate = self._sides
        values: list[float | None] = [None, None]
        least: list[float | None] = [None, None]
        if self.bins is None:
            for which, side in enumerate(self._sides):
                if _known(side, p):
                    values[which] = side.value(p)
                else:
                    waited = self.timeouts_s[which] if self.metric.waits else None
                    least[which] = exceeded(side.value, side.n, side.timeouts, p, waited)
        row = Comparison(
            metric=self.metric.name,
            unit=self.metric.unit,
            quantile=p,
            baseline=values[0],
            candidate=values[1],
            ratio=ratio_of(*values),
            low=None,
            high=None,
            confidence="none",
            method="refused",
            n_baseline=baseline.n,
            n_candidate=candidate.n,
            verdict=Verdict.INCONCLUSIVE,
            refusal=self._refusal(p),
            baseline_at_least=least[0],
            candidate_at_least=least[1],
        )
        interval = self._intervals.get(p)
        return row if interval is None else self._answered(row, interval)

    def _answered(self, row: Comparison, interval: Interval) -> Comparison:
        """The row with its interval, and how far that can be relied on."""
        baseline, candidate = self._sides
        warnings = tuple(self._warnings(interval))
        doubted = any(caution.code not in HARMLESS for caution in warnings)
        by_session = math.isfinite(interval.sessions)
        pairs = "paired" if self.paired else "unpaired"
        pairs += ", output length taken out" if self.bins is not None else ""
        pairs += ", by time and session" if by_session else ""
        # By the test of no difference, which is exact where steps of a clock make an interval coarse.
        below, above = FINDINGS[self.metric.better]
        differs = below if interval.t > 0 else above
        ratio = row.ratio
        if self.bins is not None and all(_known(side, row.quantile) for side in self._sides):
            ratio = _finite(interval.ratio)
        return replace(
            row,
            ratio=ratio,
            # An end that the timeouts hide is open, even if the count of today would close it.
            low=_bound(interval.low) if _known(baseline, row.quantile) else None,
            high=_bound(interval.high) if _known(candidate, row.quantile) else None,
            confidence="low" if doubted else "95%",
            method=f"block inversion, K={interval.blocks}, t{interval.freedom:.3g}, {pairs}",
            verdict=Verdict.INCONCLUSIVE if doubted else Verdict.ADVISORY,
            finding=NO_DIFFERENCE if interval.p_value >= ALPHA else differs,
            warnings=warnings,
            blocks=interval.blocks,
            block_requests=self.n // interval.blocks,
            block_seconds=self.span_s / interval.blocks,
            rho=interval.rho,
            drift=interval.drift,
            p_value=interval.p_value,
            sessions=interval.sessions if by_session else None,
            thirds=quantile_by_thirds(*self.values, row.quantile)
            if interval.drift and self.counted is None
            else None,
        )

    def _warnings(self, interval: Interval) -> Iterator[Caution]:
        if interval.drift:
            yield Caution(
                code="SLOW_DRIFT",
                text="an arm's conditions may have changed slowly during the run (by chance alone, one "
                "report of three metrics in five says so somewhere): the interval may be too narrow; repeat "
                "with >= 3 interleaved runs",
            )
        # An interval with an open end is wider than any step.
        width = math.log(interval.high / interval.low) if interval.low > 0 else math.inf
        if interval.doubt > NARROWEST and 2 * interval.doubt > COARSE * width:
            yield Caution(
                code="STEPS",
                text=f"values go in steps of about {interval.doubt:.1%} here (a clock that ticks, or whole "
                "numbers): each end of the interval is a step further out, and a difference of less than a "
                "step has a direction and no certain size",
            )
        if interval.few_sessions:
            yield Caution(
                code="FEW_SESSIONS",
                text="a few sessions hold most of the requests, or most of what differs (all are as good as "
                f"{interval.sessions:.0f} of equal size): how far sessions are apart is known from few only",
            )
        if doubts := list(self._doubts(self.n)):
            brief = ", ".join(doubts[:2])
            yield Caution(code="LOW_CONFIDENCE", text="; ".join(doubts), brief=brief)

    def _doubts(self, n: int) -> Iterator[str]:
        if n < SURE_REQUESTS:
            yield f"{plural(n, 'request')} (needs {SURE_REQUESTS:,})"
        if self.span_s < SURE_S:
            yield f"{lasting(self.span_s)} of traffic (needs {lasting(SURE_S)})"
        # Without the paired series a drift escapes the flag more often (docs/statistics.md).
        if self.paired and self._pair.few_pairs:
            yield "few requests have a value in both arms"


def _known(side: Side, p: float) -> bool:
    """Whether the quantile lies below the deadline."""
    return identified(side.timeouts, side.n, p)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bound(end: float) -> float | None:
    """An end of an interval; 0 and infinity are no bounds."""
    return end if 0 < end < math.inf else None


# Repeated runs: how the quantiles shifted between the runs of two arms, the run being the unit.


def shifts(
    baseline: Sequence[RunView],
    candidate: Sequence[RunView],
    metric: str,
    *,
    intervals: bool = True,
) -> tuple[Shift, ...]:
    """The ratio candidate / baseline at the points of SHIFT, of the requests that gates are held against.

    Ratios of geometric means over the runs, with Welch's interval on the per-run log-quantiles at each
    point, and a band that holds at all points at once (Bonferroni). Without `intervals`, and where an arm
    has fewer than three runs, ratios alone. Points among the timeouts, or at zero, are left out.
    """
    sides = [
        [ordered(run.values(METRICS[metric])) for run in runs] for runs in (baseline, candidate)
    ]
    # The run is the unit, so a point needs the requests in every run, not in all of them together.
    fewest = min((len(run) for side in sides for run in side), default=0)
    points = [p for p in SHIFT if fewest and refusal(fewest, p) is None]
    quantiles = [
        (p, [np.array([quantile(run, p) for run in side]) for side in sides]) for p in points
    ]
    known = [
        (p, [np.log(side) for side in pair])
        for p, pair in quantiles
        if all(bool((np.isfinite(side) & (side > 0)).all()) for side in pair)
    ]
    alone = not intervals or min(map(len, sides)) < LEAST_RUNS
    shifted = []
    for p, logs in known:
        first, second = (side.tolist() for side in logs)
        if alone:
            ratio = math.exp(float(np.mean(second) - np.mean(first)))
            shifted.append(
                Shift(p=p, ratio=ratio, low=None, high=None, band_low=None, band_high=None)
            )
            continue
        change = difference(first, second)
        # Bonferroni: the band's level is shared by all points.
        half = -float(special.stdtrit(change.df, (1 - CONFIDENCE) / 2 / len(known))) * change.se
        ends = (change.low, change.high, change.value - half, change.value + half)
        low, high, band_low, band_high = map(math.exp, ends)
        shifted.append(
            Shift(
                p=p,
                ratio=math.exp(change.value),
                low=low,
                high=high,
                band_low=band_low,
                band_high=band_high,
            )
        )
    return tuple(shifted)
