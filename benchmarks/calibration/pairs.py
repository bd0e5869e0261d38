"""Pairs: what tbench says of two replays of one trace, against what is true of them.

A replay gives outcomes: for each measure and quantile whether it happened. Rates of these are what
`calibration.bars` holds to account.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.random import Generator
from scipy import stats

from analysis.failures import Failures, error_difference
from analysis.inversion import Interval, Pair, invert
from analysis.quantiles import quantile
from analysis.summary import Floats
from calibration.controls import mcnemar
from calibration.disturbances import bursts, scattered
from calibration.effects import POINTS, Effect, shift
from calibration.scenes import Scene

Outcomes = dict[tuple[str, float | None], bool]
"""Measure and quantile (None where it is of no quantile) -> whether it happened in this replay."""
Control = Callable[[Floats, Floats, Generator], bool]

FPR, FLAG, WRONG, OPEN = "A/A differs", "flagged", "wrong, unflagged", "unbounded"
FIXED = "A/A differs, K=16"


@dataclass(frozen=True, kw_only=True)
class Replays:
    """Pairs of replays of a scene: with equal arms, and with each of the effects.

    `effects` are made when first needed, since the truth of some takes a million latencies. `fixed` also
    asks what the method says with 16 blocks whatever the data.
    """

    scene: Scene
    effects: Callable[[], Sequence[Effect]] = tuple
    controls: Mapping[str, Control] = field(default_factory=dict)
    fixed: bool = False
    points: tuple[float, ...] = POINTS

    def replay(self, random: Generator) -> Outcomes:
        first, second = self.scene.arms(random)
        a = self.scene.hide(first, random)
        hidden = int(random.integers(2**63))
        found: Outcomes = {}
        for effect in (shift(1.0), *self.effects()):
            b = self.scene.hide(effect.change(second), np.random.default_rng(hidden))
            pair = Pair(a, b)
            intervals = invert(pair, self.points)
            if effect.name == "none":
                found |= _of_equal_arms(intervals)
                found |= self._usual_tests(a, b, random)
                found |= of_fixed_blocks(pair, self.points) if self.fixed else {}
            else:
                found |= _of_effect(intervals, effect)
        return found

    def _usual_tests(self, a: Floats, b: Floats, random: Generator) -> Outcomes:
        return {
            (f"A/A differs, {name}", None): control(a, b, random)
            for name, control in self.controls.items()
        }


def of_fixed_blocks(pair: Pair, points: Sequence[float]) -> Outcomes:
    """Whether the test that the interval inverts rejects equality with 16 blocks, whatever the data."""
    number = len(points)
    t = pair.t(np.zeros(number), np.array(points), np.full(number, 16))
    critical = stats.t.isf(0.025, 15)
    return {(FIXED, p): bool(abs(one) > critical) for p, one in zip(points, t, strict=True)}


def _of_equal_arms(intervals: Sequence[Interval]) -> Outcomes:
    found: Outcomes = {}
    for one in intervals:
        found[FPR, one.p] = _differs(one)
        found[FLAG, one.p] = one.drift
        found[WRONG, one.p] = _differs(one) and not one.drift
        found[OPEN, one.p] = _open(one)
    return found


def _of_effect(intervals: Sequence[Interval], effect: Effect) -> Outcomes:
    found: Outcomes = {}
    for one in intervals:
        found[f"covers {effect.name}", one.p] = one.low <= effect.truth[one.p] <= one.high
        found[f"sees {effect.name}", one.p] = _differs(one)
    return found


def _differs(found: Interval) -> bool:
    return not found.low <= 1 <= found.high


def _open(found: Interval) -> bool:
    return found.low == 0 or found.high == np.inf


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

    @cached_property
    def _truths(self) -> dict[int, dict[float, float]]:
        return {}

    def replay(self, random: Generator) -> Outcomes:
        which = int(random.integers(self.traces))
        if which not in self._truths:
            self._truths[which] = self._truth(which)
        effect = replace(shift(1.0), name=self.name, truth=self._truths[which])
        return _of_effect(invert(Pair(*self._trace(which).arms(random)), POINTS), effect)

    def _trace(self, which: int) -> Scene:
        traffic = self.scene.traffic(np.random.default_rng([7, which]))
        return replace(self.scene, traffic=lambda _: traffic)

    def _truth(self, which: int) -> dict[float, float]:
        scene, random = self._trace(which), np.random.default_rng([8, which])
        arms = [scene.arms(random) for _ in range(self.runs)]
        first, second = (np.sort(np.concatenate(side)) for side in zip(*arms, strict=True))
        return {p: quantile(second, p) / quantile(first, p) for p in POINTS}


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Failures at `share` in both arms, then at twice that in the candidate; in bursts, or each by itself."""

    n: int
    share: float
    burst: float | None

    def replay(self, random: Generator) -> Outcomes:
        a, b, more = (self._failed(share, random) for share in (1, 1, 2))
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
        return Failures(failed=failed, kinds={})
