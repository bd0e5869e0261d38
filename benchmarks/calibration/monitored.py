"""Monitored: a gate that may stop at planned looks, beside one that takes each look for the only one."""

import math
from dataclasses import dataclass

from numpy.random import Generator

from calibration.bars import FAILS, PASSES, Outcomes
from calibration.drifts import Drift, none, random_pairs
from calibration.runs import GATES, MARGIN
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate_estimate import GateEstimate, estimate_of
from tbench.analysis.interim import Decision, Looks, at_look
from tbench.analysis.run_metrics import Figure
from tbench.analysis.summary import Floats
from tbench.analysis.t_tests import difference

PEEKING = "either, with .05 at each look"
STOPPED = "stops early at +20 %"
_MARGIN = math.log1p(MARGIN)


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """Runs in random pairs whose log-quantile is the drift + N(0, `spread`), judged at each of the looks."""

    looks: Looks
    spread: float = 0.04
    drift: Drift = none

    def replay(self, random: Generator) -> Outcomes:
        repeats = self.looks.runs[-1]
        logs = self.drift(2 * repeats, random) + random.normal(0, self.spread, 2 * repeats)
        turns = random_pairs(repeats, random)
        a, b = logs[~turns], logs[turns]
        verdict, _ = self._walk(a, b + _MARGIN)
        slower, look = self._walk(a, b + math.log(1.2))
        return {
            (PASSES, None): verdict is Verdict.PASS,
            (FAILS, None): verdict is Verdict.FAIL,
            (PEEKING, None): self._peeks(a, b + _MARGIN),
            (STOPPED, None): slower is Verdict.FAIL and look < len(self.looks.runs),
        }

    def _walk(self, a: Floats, b: Floats) -> tuple[Verdict, int]:
        """Where it stops, and at which look."""
        for look, runs in enumerate(self.looks.runs, 1):
            decision = self._look(a[:runs], b[:runs], look)
            if decision.stop:
                break
        return decision.verdict, look

    def _look(self, a: Floats, b: Floats, look: int) -> Decision:
        first, second = (
            tuple(Figure(value=math.exp(y), n=2000) for y in side.tolist()) for side in (a, b)
        )
        estimate = GateEstimate(
            arm="B",
            gate=GATES[0],
            baseline=first,
            candidate=second,
            estimate=estimate_of(GATES[0], (first, second), ((), ()), "welch"),
            method="",
        )
        return at_look([estimate.evidence], self.looks, look)

    def _peeks(self, a: Floats, b: Floats) -> bool:
        changes = (difference(a[:runs].tolist(), b[:runs].tolist()) for runs in self.looks.runs)
        return any(change.most < _MARGIN or change.worse(_MARGIN) < 0.05 for change in changes)
