"""Decide: PASS, FAIL or INCONCLUSIVE, by one rule for fixed runs, planned looks and a baseline file.

A gate passes when the one-sided bounds of its worsening stay below its threshold, and fails when that
lies beyond it by Holm's rule over all gates of all candidates. The callers differ in what an estimate is made
of (Welch's t over runs, a prediction over sessions) and in the level that they have left to spend.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import Gate
from tbench.analysis.t_tests import Estimate

ALPHA: Final = 0.05
BURST: Final = 10
"""So many errors come at once where no run shows how they come."""

Level = Callable[[int], float]
"""The nominal one-sided level of a gate of which so many, itself included, share what may be spent."""


def fixed(share: int) -> float:
    """The level of an experiment of fixed length: Bonferroni's, which Holm's steps hand on."""
    return ALPHA / share


@dataclass(frozen=True, slots=True, kw_only=True)
class GateEvidence:
    """What the runs say of a gate: the worsening (the change, or the level, turned so that more is worse).

    All on the scale of y, to be held against `gate.threshold`. `strict` is what a PASS needs besides: the
    worsening with every failure as the slowest request; of a share, with the spread that it would have at
    the margin. None is unknown: nothing passes. `lag` is how much of the worsening the client's own lag can
    have made, and how much it can have hidden. `spotless` is set where a share shows nothing bad at all: how
    many requests of baseline (0 for a limit) and candidate say so. `lost`: the candidate's figure is as bad
    as can be in every run, and the baseline's in none, so that there is nothing to estimate.
    """

    gate: Gate
    worsening: Estimate | None
    strict: Estimate | None
    lag: tuple[float, float] = (0.0, 0.0)
    spotless: tuple[int, int] | None = None
    lost: bool = False

    @property
    def p_value(self) -> float:
        """How probable so large a worsening is at the margin."""
        if self.worsening is None:
            return 1.0
        # The client's lag may have made so much of it: the benefit of the doubt is the candidate's.
        return self.worsening.worse(self.gate.threshold + self.lag[0])

    def passes(self, level: float = ALPHA) -> bool:
        """Whether the one-sided bounds of that level lie below the margin."""
        if self.worsening is None or self.strict is None:
            return False
        if self.spotless is not None:
            # Runs without a bad request have no spread to make a bound of: what they can hide is exact.
            return hidden(self.spotless[1], level, BURST) < self.gate.allowance
        # What the client's lag may have hidden counts against a PASS, what it made against a FAIL.
        most = max(self.worsening.above(level), self.strict.above(level))
        return most + self.lag[1] < self.gate.threshold

    @property
    def distance(self) -> float | None:
        """How far the change lies from the margin on y's scale, on whichever side, less what bars a verdict.

        Not above 0 where the client's lag, or the failures, leave nothing that more runs could show.
        """
        if self.worsening is None or self.strict is None:
            return None
        beyond = self.worsening.value - self.gate.threshold
        if beyond > 0:
            return beyond - self.lag[0]
        return self.gate.threshold - max(self.worsening.value, self.strict.value) - self.lag[1]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two one-sided 95 % bounds of the worsening: where the lower one begins to pass and to fail."""
        if self.worsening is None:
            return None
        if self.spotless is not None:
            least, most = (hidden(n, ALPHA, BURST) if n else 0.0 for n in self.spotless)
            # Goodput against a limit is its own level, turned round: from none bad (-1) to what n can hide.
            level = self.gate.limit is not None and self.gate.higher
            return (-1.0, most - 1.0) if level else (-least, most)
        # Of shares the bound that passes has the spread at the margin: it is the one to show.
        worse = self.strict if self.gate.endpoint.scale == "points" else None
        return self.worsening.least, (worse or self.worsening).most


def hidden(n: int, level: float, burst: float) -> float:
    """The share that n requests can hide which show none, bad ones coming `burst` at a time: exact."""
    return float(1 - level ** (burst / n))


def decide(
    gates: Sequence[GateEvidence], level: Level = fixed, *, final: bool = True
) -> tuple[Verdict, ...]:
    """The verdict on each of the gates that are decided together; `final`: no more runs follow.

    PASS of all needs every gate to pass, an intersection-union test: no correction, each has the full level.
    FAIL of any is one of many chances to be wrong: Holm's step-down, the smallest p-value first, each against
    the level of its share of what is still undecided; the first that holds out keeps all after it. What is
    lost has no p-value and fails when the runs are over.
    """
    # Holm (Scand. J. Statistics 6, 1979): what has failed leaves its share of the level to the others.
    order = sorted(range(len(gates)), key=lambda place: gates[place].p_value)
    failed: set[int] = set()
    for place in order:
        if gates[place].p_value >= level(len(gates) - len(failed)):
            break
        failed.add(place)
    return tuple(
        # The order decides nothing: a PASS has its upper bound below the threshold, a FAIL its
        # lower one above.
        Verdict.PASS
        if evidence.passes(level(1))
        else Verdict.FAIL
        if place in failed or (final and evidence.lost)
        else Verdict.INCONCLUSIVE
        for place, evidence in enumerate(gates)
    )


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """FAIL where a gate fails, PASS where all pass that can be tested, else INCONCLUSIVE."""
    # Of nothing that was tested nothing passes: an empty set is INCONCLUSIVE.
    tested = set(verdicts) - {Verdict.SKIPPED}
    if Verdict.FAIL in tested:
        return Verdict.FAIL
    return Verdict.PASS if tested == {Verdict.PASS} else Verdict.INCONCLUSIVE
