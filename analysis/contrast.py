"""Contrast: one metric in both arms, and the ratio of its quantiles wherever they can be compared."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tbench.analysis.blocks import Ints
from tbench.analysis.clusters import Clusters
from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Shift, Verdict
from tbench.analysis.inversion import Interval, Pair, Side, invert
from tbench.analysis.lengths import AtEqualLengths
from tbench.analysis.mean_ratio import (
    EffectiveSize,
    Overall,
    effective_size,
    geometric_mean,
    log_ratios,
    quantile_by_thirds,
    typical_by_thirds,
)
from tbench.analysis.metrics import Metric
from tbench.analysis.quantiles import identified, refusal
from tbench.analysis.summary import Caution, Confidence, Floats
from tbench.replay.measures import minimum_n

USUAL, RARE = (0.5, 0.9, 0.95, 0.99), 0.999
"""The quantiles shown when none is asked for; the rare one only where there are enough requests."""
SHIFT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
TAIL = (0.95, 0.99)
"""The quantiles that tell whether waiting in a queue dominates."""
SURE_REQUESTS, SURE_S = 1000, 1800.0
"""Fewer requests or a shorter run earn no "95%": see the limits in docs/statistics.md."""
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
    (analysis.lengths) the output length is taken out, and a row has no values of its own.
    """

    metric: Metric
    values: tuple[Floats, Floats]
    paired: bool
    asked: tuple[float, ...]
    span_s: float
    timeouts_s: tuple[float | None, float | None]
    sessions: tuple[Clusters, ...] = ()
    bins: tuple[Ints, Ints] | None = None

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
        drift = ["SLOW_DRIFT"] if geometric and geometric.drift else []
        doubts = (*self._doubts(geometric.n if geometric else self.n), *drift)
        refused = geometric is None or geometric.refusal is not None
        return Overall(
            geometric=geometric,
            thirds=typical_by_thirds(*self.values) if geometric and geometric.drift else None,
            effective=self._effective(),
            confidence="none" if refused else "low" if doubts else "95%",
            doubts=doubts,
        )

    def _effective(self) -> EffectiveSize:
        if self.paired:
            return effective_size(log_ratios(*self.values))
        with np.errstate(divide="ignore", invalid="ignore"):
            return min(
                (effective_size(np.log(side)) for side in self.values), key=lambda x: x.worth
            )

    @property
    def _points(self) -> tuple[float, ...]:
        if self.asked:
            return tuple(sorted(set(self.asked)))
        return (*USUAL, RARE) if self.n >= minimum_n(RARE) else USUAL

    @cached_property
    def _sides(self) -> "tuple[_Arm, _Arm]":
        baseline, candidate = (
            _Arm(side=Side(values), timeout_s=timeout_s)
            for values, timeout_s in zip(self.values, self.timeouts_s, strict=True)
        )
        return baseline, candidate

    @cached_property
    def _pair(self) -> Pair:
        baseline, candidate = self._sides
        if self.bins is None:
            return Pair(baseline.side, candidate.side, paired=self.paired, sessions=self.sessions)
        return AtEqualLengths(
            baseline.side, candidate.side, self.bins, paired=self.paired, sessions=self.sessions
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
        lie_in = self._pair.tail_blocks(p)
        if lie_in < TAIL_BLOCKS:
            return f"its extreme requests lie in {lie_in} of 16 time blocks (needs {TAIL_BLOCKS}): a burst"
        if not any(side.identified(p) for side in self._sides):
            return "it lies among the timeouts in both arms"
        return None

    def _row(self, p: float) -> Comparison:
        baseline, candidate = self._sides
        interval, reason = self._intervals.get(p), self._refusal(p)
        plain = self.bins is None
        values = (baseline.value(p), candidate.value(p)) if plain else (None, None)
        low, high = self._bounds(interval)
        warnings = tuple(self._warnings(interval)) if interval else ()
        doubted = any(caution.code not in HARMLESS for caution in warnings)
        confidence: Confidence = "none" if interval is None else "low" if doubted else "95%"
        return Comparison(
            metric=self.metric.name,
            unit=self.metric.unit,
            quantile=p,
            baseline=values[0],
            candidate=values[1],
            ratio=self._ratio(values, interval),
            low=low,
            high=high,
            confidence=confidence,
            method=self._method(interval),
            n_baseline=baseline.n,
            n_candidate=candidate.n,
            verdict=Verdict.ADVISORY if confidence == "95%" else Verdict.INCONCLUSIVE,
            finding=self._finding(interval) if interval else None,
            refusal=reason,
            baseline_at_least=baseline.at_least(p) if plain else None,
            candidate_at_least=candidate.at_least(p) if plain else None,
            warnings=warnings,
            blocks=interval.blocks if interval else None,
            block_requests=self.n // interval.blocks if interval else None,
            block_seconds=self.span_s / interval.blocks if interval else None,
            rho=interval.rho if interval else None,
            drift=interval.drift if interval else False,
            p_value=interval.p_value if interval else None,
            sessions=interval.sessions if interval and math.isfinite(interval.sessions) else None,
            thirds=quantile_by_thirds(*self.values, p) if interval and interval.drift else None,
        )

    def _ratio(
        self, values: tuple[float | None, float | None], interval: Interval | None
    ) -> float | None:
        if self.bins is None:
            return _ratio(*values)
        return _finite(interval.ratio) if interval else None

    def _bounds(self, interval: Interval | None) -> tuple[float | None, float | None]:
        """An end that the timeouts hide is open, even if the count of today would close it."""
        if interval is None:
            return None, None
        baseline, candidate = self._sides
        low = _bound(interval.low) if baseline.identified(interval.p) else None
        return low, _bound(interval.high) if candidate.identified(interval.p) else None

    def _method(self, interval: Interval | None) -> str:
        if interval is None:
            return "refused"
        pairs = "paired" if self.paired else "unpaired"
        if self.bins is not None:
            pairs += ", output length taken out"
        if math.isfinite(interval.sessions):
            pairs += ", by time and session"
        return f"block inversion, K={interval.blocks}, t{interval.freedom:.3g}, {pairs}"

    def _finding(self, interval: Interval) -> str:
        """By the test of no difference, which is exact where steps of a clock make an interval coarse."""
        below, above = FINDINGS[self.metric.better]
        if interval.p_value >= ALPHA:
            return NO_DIFFERENCE
        return below if interval.t > 0 else above

    def _warnings(self, interval: Interval) -> Iterator[Caution]:
        if interval.drift:
            yield Caution(
                code="SLOW_DRIFT",
                text="an arm's conditions may have changed slowly during the run (by chance alone, one "
                "report of three metrics in five says so somewhere): the interval may be too narrow; repeat "
                "with >= 3 interleaved runs",
            )
        if interval.doubt > NARROWEST and 2 * interval.doubt > COARSE * math.log(
            interval.high / interval.low
        ):
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
            yield Caution(code="LOW_CONFIDENCE", text="; ".join(doubts))

    def _doubts(self, n: int) -> Iterator[str]:
        if n < SURE_REQUESTS:
            yield f"{n:,} requests (needs {SURE_REQUESTS:,})"
        if self.span_s < SURE_S:
            yield f"{_duration(self.span_s)} of traffic (needs {_duration(SURE_S)})"
        if self.paired and self._pair.few_pairs:
            yield "few requests have a value in both arms"


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """One arm's values, and how long it waited."""

    side: Side
    timeout_s: float | None

    @property
    def n(self) -> int:
        return self.side.n

    @property
    def timeouts(self) -> int:
        return self.side.timeouts

    def identified(self, p: float) -> bool:
        return identified(self.timeouts, self.n, p)

    def value(self, p: float) -> float | None:
        return self.side.value(p) if self.identified(p) else None

    def at_least(self, p: float) -> float | None:
        """What the quantile exceeds when it is not identified: the deadline, or the largest value."""
        if self.identified(p):
            return None
        return self.timeout_s or self.side.most


def _ratio(baseline: float | None, candidate: float | None) -> float | None:
    return candidate / baseline if baseline and candidate is not None else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bound(end: float) -> float | None:
    """An end of an interval; 0 and infinity are no bounds."""
    return end if 0 < end < math.inf else None


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
