"""Pairs: what tbench says of two replays of one trace, against what is true of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.random import Generator
from scipy import stats

from calibration.bars import FPR, TYPICAL, Outcomes
from calibration.disturbances import POINTS, Effect, autoregressive, bursts, scattered, shift
from calibration.scenes import Scene, plain
from calibration.traffic import Traffic, poisson
from tbench.analysis.arms import Truths
from tbench.analysis.blocks import Clusters
from tbench.analysis.inversion import DRIFTING, Interval, Pair, Side, blocks_for, invert
from tbench.analysis.lengths import AtEqualLengths, length_bins
from tbench.analysis.means import Failures, error_difference, geometric_mean
from tbench.analysis.summary import Floats, quantile

Control = Callable[[Floats, Floats, Generator], bool]

FLAG, WRONG, OPEN = "flagged", "wrong, unflagged", "unbounded"
FIXED = "A/A differs, K=16"
BY_TIME = "A/A differs, sessions ignored"
AGREES = "interval agrees with its test"
EQUAL = shift(1.0)


# Tested: the test that an interval inverts, asked directly; and whether the interval agrees with it.
#
# An end of an interval takes some fifty tests, a simulation needs two or three: what an interval covers is
# what its test does not reject. Where both are computed they must agree.


class Tested:
    """A pair at some quantiles, with the K that its data choose.

    `drift` is its flag: SLOW_DRIFT or FEW_SESSIONS.
    """

    def __init__(self, pair: Pair, points: Sequence[float]) -> None:
        self.pair, self.points = pair, np.array(points)
        centre = pair.centres(np.asarray(points))
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

    def agrees(self, ratios: Floats, intervals: Sequence[Interval]) -> Truths:
        """Whether the intervals cover exactly what the test holds, with the same K and flag."""
        held, drift = self.holds(ratios), self.drift
        return np.array(
            [
                (row.low <= ratio <= row.high) == holds and row.drift == drifts and row.blocks == k
                for row, ratio, holds, drifts, k in zip(
                    intervals, ratios, held, drift, self.blocks, strict=True
                )
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Replays:
    """Pairs of replays of a scene: with equal arms, and with each of the effects.

    `effects` are made when first needed, since the truth of some takes a million latencies. `fixed` also
    asks what the method says with 16 blocks whatever the data. `sessions` tells the method which requests
    belong together.
    """

    scene: Scene
    sessions: bool = False
    effects: Callable[[], Sequence[Effect]] = tuple
    controls: Mapping[str, Control] = field(default_factory=dict)
    fixed: bool = False
    points: tuple[float, ...] = POINTS

    def replay(self, random: Generator) -> Outcomes:
        traffic = self.scene.traffic(random)
        first, second = self.scene.replayed(traffic, random)
        known = (Clusters(traffic.session),) if self.sessions else ()
        a, hidden = self.scene.hide(first, random), int(random.integers(2**63))
        b = self.scene.hide(second, np.random.default_rng(hidden))
        equal = Tested(Pair(a, b, sessions=known), self.points)
        outcomes = {**of_equal_arms(equal, fixed=self.fixed), **self._usual_tests(a, b, random)}
        for effect in self.effects():
            b = self.scene.hide(effect.change(second), np.random.default_rng(hidden))
            outcomes |= _of_effect(Tested(Pair(a, b, sessions=known), self.points), effect)
        return outcomes

    def _usual_tests(self, a: Floats, b: Floats, random: Generator) -> Outcomes:
        return {
            (f"A/A differs, {name}", None): control(a, b, random)
            for name, control in self.controls.items()
        }


def of_equal_arms(tested: Tested, *, fixed: bool) -> Outcomes:
    """What is said of arms between which there is no difference; and what fixed K would say."""
    ones = np.ones(len(tested.points))
    differs = ~tested.holds(ones)
    outcomes = {
        **_each(FPR, tested, differs),
        **_each(FLAG, tested, tested.drift),
        **_each(WRONG, tested, differs & ~tested.drift),
    }
    if tested.pair.sessions == tested.pair.sessions:  # known
        by_time = ~tested.over_time(ones)
        outcomes |= _each(BY_TIME, tested, by_time)
    return (
        {**outcomes, **_each(FIXED, tested, ~tested.holds(ones, blocks=16))} if fixed else outcomes
    )


def _of_effect(tested: Tested, effect: Effect) -> Outcomes:
    truth = np.array([effect.truth[p] for p in tested.points.tolist()])
    return {
        **_each(f"covers {effect.name}", tested, tested.holds(truth)),
        **_each(f"sees {effect.name}", tested, ~tested.holds(np.ones(len(truth)))),
    }


def _each(measure: str, tested: Tested, happened: Truths) -> Outcomes:
    pairs = zip(tested.points.tolist(), happened.tolist(), strict=True)
    return {(measure, p): did for p, did in pairs}


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Whether an interval covers exactly what its test holds, at these ratios, with the same K and flag."""

    scene: Scene
    ratios: tuple[float, ...] = (1.0, 1.05, 1 / 1.1)

    def replay(self, random: Generator) -> Outcomes:
        tested = Tested(Pair(*self.scene.arms(random)), POINTS)
        intervals = tested.intervals()
        agrees = [tested.agrees(np.full(len(POINTS), ratio), intervals) for ratio in self.ratios]
        open_ = np.array([row.low == 0 or row.high == np.inf for row in intervals])
        return {**_each(AGREES, tested, np.all(agrees, axis=0)), **_each(OPEN, tested, open_)}


@dataclass(frozen=True, kw_only=True)
class SlowerServer:
    """The candidate's server does its work more slowly, and the queue makes of that what it makes.

    The truth has no formula: on each of `traces` fixed traces it is the ratio of the quantiles of `runs`
    pooled runs of each arm.
    """

    scene: Scene
    name: str
    traces: int = 8
    runs: int = 200
    points: tuple[float, ...] = POINTS

    @cached_property
    def _effects(self) -> dict[int, Effect]:
        return {}

    def replay(self, random: Generator) -> Outcomes:
        arms, effect = self.drawn(random)
        return _of_effect(Tested(Pair(*arms), self.points), effect)

    def drawn(self, random: Generator) -> tuple[tuple[Floats, Floats], Effect]:
        """A pair on one of the traces, and what is true there."""
        which = int(random.integers(self.traces))
        if which not in self._effects:
            self._effects[which] = replace(EQUAL, name=self.name, truth=self._truth(which))
        return self._trace(which).arms(random), self._effects[which]

    def _trace(self, which: int) -> Scene:
        traffic = self.scene.traffic(np.random.default_rng([7, which]))
        return replace(self.scene, traffic=lambda _: traffic)

    def _truth(self, which: int) -> dict[float, float]:
        scene, random = self._trace(which), np.random.default_rng([8, which])
        arms = [scene.arms(random) for _ in range(self.runs)]
        first, second = (np.sort(np.concatenate(side)) for side in zip(*arms, strict=True))
        return {p: quantile(second, p) / quantile(first, p) for p in self.points}


@dataclass(frozen=True, kw_only=True)
class Ticks:
    """Both arms rounded to a clock's ticks, with equal arms and then with a candidate `slow` times as slow.

    What is asked is the whole interval and its p-value; they agree where both say the same and the interval
    has a width.
    """

    scene: Scene
    tick_s: float
    slow: float = 1.05
    points: tuple[float, ...] = (0.5, 0.95)

    def replay(self, random: Generator) -> Outcomes:
        first, second = self.scene.arms(random)
        equal = self._intervals(first, second)
        slower = self._intervals(first, second * self.slow)
        agree = [
            (row.p_value < 0.05) == (not row.low <= 1 <= row.high)
            and row.high > row.low * (1 + 1e-9)
            for row in (*equal, *slower)
        ]
        return {
            **{(FPR, row.p): row.p_value < 0.05 for row in equal},
            **{(f"sees x{self.slow:g}", row.p): row.p_value < 0.05 and row.t < 0 for row in slower},
            **{
                (f"covers x{self.slow:g}", row.p): row.low <= self.slow <= row.high
                for row in slower
            },
            ("interval, p-value agree", None): all(agree),
        }

    def _intervals(self, *arms: Floats) -> tuple[Interval, ...]:
        a, b = (np.maximum(np.round(arm / self.tick_s), 1) * self.tick_s for arm in arms)
        return invert(Pair(a, b), self.points)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """End to end of answers whose length is drawn in each arm, plain and with the length taken out.

    tokens = the traffic's exp(N(0, spread)), the candidate's `longer` times as many; end to end = TTFT +
    20 ms exp(N(0, .1) + AR(1)) a token, with sd .1 and that `memory`; at equal lengths the candidate takes
    `slow` times as long.
    """

    spread: float
    memory: float
    longer: float = 1.0
    slow: float = 1.05
    n: int = 2000
    points: tuple[float, ...] = (0.5, 0.95)

    def replay(self, random: Generator) -> Outcomes:
        traffic = poisson(self.n, 3600.0, random)
        (a, short), (b, long) = (
            self._arm(traffic, 1.0, random),
            self._arm(traffic, self.longer, random),
        )
        bins = length_bins(short, long)
        slower = Tested(AtEqualLengths(Side(a), Side(b * self.slow), bins), self.points)
        plain_ = Tested(Pair(a, b * self.slow), self.points)
        truth, ones = np.full(len(self.points), self.slow), np.ones(len(self.points))
        held, covers = slower.holds(truth), f"covers x{self.slow:g}"
        outcomes = {
            **_each(FLAG, slower, slower.drift),
            **_each(covers, slower, held),
            **_each(f"sees x{self.slow:g}", slower, ~slower.holds(ones)),
        }
        outcomes |= {
            (f"{covers}, unflagged", p): holds
            for p, holds, drift in zip(self.points, held.tolist(), slower.drift, strict=True)
            if not drift
        }
        if self.longer == 1:  # else the plain ratio is of lengths too
            outcomes |= _each("covers, length not taken out", plain_, plain_.holds(truth))
            outcomes |= _each("sees it, length not taken out", plain_, ~plain_.holds(ones))
        return outcomes

    def _arm(self, traffic: Traffic, longer: float, random: Generator) -> tuple[Floats, Floats]:
        n = len(traffic)
        tokens = np.maximum(
            1, np.rint(traffic.output * longer * np.exp(random.normal(0, self.spread, n)))
        )
        pace = random.normal(0, 0.1, n) + autoregressive(n, self.memory, 0.1, random)
        return plain(traffic, random) + 0.02 * np.exp(pace) * tokens, tokens


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Failures at `share` in both arms, then at twice that in the candidate; in bursts, or each by itself."""

    n: int
    share: float
    burst: float | None

    def replay(self, random: Generator) -> Outcomes:
        a, b, more = (self._failed(times, random) for times in (1, 1, 2))
        equal, worse = error_difference(a, b), error_difference(a, more)
        return {
            (FPR, None): not equal.low <= 0 <= equal.high,
            ("A/A differs, McNemar", None): mcnemar(a.failed, b.failed),
            ("covers twice the share", None): worse.low <= self.share <= worse.high,
        }

    def _failed(self, times: int, random: Generator) -> Failures:
        share = times * self.share
        failed = (
            scattered(self.n, share, random)
            if self.burst is None
            else bursts(self.n, share, self.burst, random)
        )
        return Failures.of(failed, {})


@dataclass(frozen=True, kw_only=True)
class Typical:
    """What is said beside the quantiles: the geometric mean of candidate / baseline, with its interval."""

    scene: Scene
    effects: Callable[[], Sequence[Effect]] = tuple

    def replay(self, random: Generator) -> Outcomes:
        a, b = self.scene.arms(random)
        outcomes: Outcomes = {(TYPICAL, None): not _typical(a, b, 1.0)}
        for effect in self.effects():
            changed = effect.change(b)
            if len(set(effect.truth.values())) == 1:
                truth = next(iter(effect.truth.values()))
                outcomes[f"covers {effect.name}, typical request", None] = _typical(
                    a, changed, truth
                )
                outcomes[f"sees {effect.name}, typical request", None] = not _typical(
                    a, changed, 1.0
                )
        return outcomes


def _typical(a: Floats, b: Floats, ratio: float) -> bool:
    """Whether the interval of the typical request's ratio holds this one."""
    mean = geometric_mean(a, b)
    if mean is None or mean.low is None or mean.high is None:
        raise ValueError("a simulated pair without an interval")
    return mean.low <= ratio <= mean.high


# Controls: the usual tests, for which requests are independent. They must fail, or the traffic has no teeth.
#
# Each says whether it calls two arms different at 5 %. None of them is part of tbench.


_RESAMPLES = 399


def mann_whitney(a: Floats, b: Floats, _: Generator) -> bool:
    """By the normal approximation; timeouts are the largest."""
    return bool(stats.mannwhitneyu(_seen(a), _seen(b), method="asymptotic").pvalue < 0.05)


def kolmogorov_smirnov(a: Floats, b: Floats, _: Generator) -> bool:
    """By the asymptotic law."""
    return bool(stats.ks_2samp(_seen(a), _seen(b), method="asymp").pvalue < 0.05)


def bootstrap_median(a: Floats, b: Floats, random: Generator) -> bool:
    """Percentile interval of log(median b / median a), requests resampled one by one.

    The median of a resample is the order statistic at rank 1 + floor(n U), U ~ Beta of the middle rank:
    the exact law, without resampling.
    """
    logs = []
    for side in (a, b):
        ordered = np.sort(_seen(side))
        n = len(ordered)
        middle = (n + 1) // 2
        rank = np.floor(n * random.beta(middle, n - middle + 1, _RESAMPLES)).astype(int)
        logs.append(np.log(ordered[rank]))
    low, high = np.quantile(logs[1] - logs[0], [0.025, 0.975])
    return not low <= 0 <= high


def mcnemar(a: Truths, b: Truths) -> bool:
    """The exact test on the requests that failed in one arm only."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    both = only_a + only_b
    return both > 0 and bool(stats.binomtest(only_a, both).pvalue < 0.05)


def _seen(values: Floats) -> Floats:
    return values[~np.isnan(values)]
