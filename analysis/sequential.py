"""Sequential: a monitored gate. Each look at repeated runs stops with PASS or FAIL, or goes on.

The rules of `analysis.judge` at the look's own level (`analysis.looks`), applied to Welch's t. PASS needs
every gate at that level; FAIL is Holm's rule with bounds of its own for each step (W. Maurer and F. Bretz,
Statistics in Biopharmaceutical Research 5, 2013).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy import stats

from analysis.comparison import Verdict
from analysis.estimate import Estimate
from analysis.gate import Gate
from analysis.judge import Judgement, Row
from analysis.looks import NAMES, Looks
from analysis.summary import Caution
from analysis.welch import difference
from capture.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A gate and each run's figure so far: its quantile, rate or share. `n`: candidate's requests.

    `worsening` is the judge's estimate (`analysis.judgement.Row`); without it Welch's t on the figures.
    """

    gate: Gate
    baseline: tuple[float, ...]
    candidate: tuple[float, ...]
    n: int
    worsening: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a look decides. `verdicts` has one for each gate, INCONCLUSIVE while it is open.

    `level` is the look's nominal one-sided level. Before the last look only PASS, FAIL and INVALID stop.
    """

    looks: Looks
    look: int
    stop: bool
    verdict: Verdict
    level: float
    verdicts: tuple[Verdict, ...]

    @property
    def text(self) -> str:
        """As one sentence without its full stop."""
        runs, count = self.looks.runs[self.look - 1], len(self.looks.runs)
        what = f"stopped with {self.verdict}" if self.stop else "went on"
        return (
            f"look {self.look} of {count} ({runs} runs of each arm) {what} at the one-sided level "
            f"{self.level:.2g} ({NAMES[self.looks.shape]})"
        )


def decide(standings: Sequence[Standing], looks: Looks, look: int) -> Decision:
    """Hold the gates against a look's levels. Raises InputError where it has other runs than planned."""
    _check(standings, looks, look)
    level, last = looks.level(look), look == len(looks.runs)
    turned = [_worsening(one) for one in standings]
    failed = _failed(turned, looks, look)
    verdicts = tuple(
        Verdict.FAIL
        if place in failed or (last and _lost(one))
        else Verdict.PASS
        if _passes(one, turned[place], level)
        else Verdict.INCONCLUSIVE
        for place, one in enumerate(standings)
    )
    return _decision(looks, look, verdicts)


def monitor(found: Judgement, looks: Looks, look: int) -> Decision:
    """The decision on a judgement of the runs so far, of all its candidates together.

    A look's levels are stricter than the judge's own, so what is not PASS or FAIL there (runs that did not
    take turns, say) is not so here. INVALID stops at any look.
    """
    decision = decide([standing(row) for row in found.rows], looks, look)
    both = zip(decision.verdicts, found.rows, strict=True)
    verdicts = tuple(
        verdict if verdict is row.comparison.verdict else Verdict.INCONCLUSIVE
        for verdict, row in both
    )
    decision = _decision(looks, look, verdicts)
    if found.verdict is Verdict.INVALID:
        return replace(decision, stop=True, verdict=Verdict.INVALID)
    return decision


def standing(row: Row) -> Standing:
    """A row of a judgement as `decide` takes it."""
    return Standing(
        gate=row.gate,
        baseline=row.baseline_runs,
        candidate=row.candidate_runs,
        n=row.comparison.n_candidate,
        worsening=row.worsening,
    )


def as_monitored(found: Judgement, decision: Decision) -> Judgement:
    """The judgement with the decision's verdicts, without the intervals of an experiment of fixed length."""
    still_open = f"open at this look's one-sided level, {decision.level:.2g}"
    rows = tuple(
        replace(
            row,
            comparison=replace(
                row.comparison,
                low=None,
                high=None,
                confidence="none",
                finding=None,
                method=f"{row.comparison.method}; {decision.text}",
                verdict=verdict,
            ),
            reason=row.reason if verdict is row.comparison.verdict else still_open,
        )
        for row, verdict in zip(found.rows, decision.verdicts, strict=True)
    )
    caution = Caution(
        code="MONITORED",
        text=f"{decision.text}; an experiment that may stop early has no 95 % interval, and the change is "
        "shown as it stood",
    )
    return replace(found, rows=rows, verdict=decision.verdict, warnings=(*found.warnings, caution))


def _check(standings: Sequence[Standing], looks: Looks, look: int) -> None:
    planned = looks.runs[look - 1]
    for one in standings:
        there = (len(one.baseline), len(one.candidate))
        if there != (planned, planned):
            raise InputError(
                f"look {look} is planned after {planned} runs of each arm; there are {there[0]} "
                f"and {there[1]}"
            )


def _worsening(one: Standing) -> tuple[Estimate, float] | None:
    """The change turned so that more is worse, and its margin; None where a figure is not finite."""
    gate, both = one.gate, (*one.baseline, *one.candidate)
    if one.worsening is not None:
        return one.worsening, gate.threshold
    if not all(map(math.isfinite, both)) or (gate.scale != "points" and min(both) <= 0):
        return None
    first, second = ([gate.y(figure) for figure in side] for side in (one.baseline, one.candidate))
    found = difference(first, second)
    return found.negated if gate.higher else found, gate.threshold


def _failed(turned: Sequence[tuple[Estimate, float] | None], looks: Looks, look: int) -> set[int]:
    """The gates that fail: Holm's steps, each against the level of its own share."""
    p_values = [1.0 if one is None else one[0].worse(one[1]) for one in turned]
    failed: set[int] = set()
    for place in sorted(range(len(turned)), key=p_values.__getitem__):
        if p_values[place] >= looks.level(look, len(turned) - len(failed)):
            break
        failed.add(place)
    return failed


def _passes(one: Standing, turned: tuple[Estimate, float] | None, level: float) -> bool:
    if turned is None:
        return False
    found, margin = turned
    if one.gate.endpoint.scale == "points" and _spotless(one):
        hidden: float = 1 - level ** (1 / one.n)
        return hidden < one.gate.allowance
    return found.value + float(stats.t.isf(level, found.df)) * found.se < margin


def _spotless(one: Standing) -> bool:
    """Whether there is nothing bad in any share that is looked at."""
    best = 1.0 if one.gate.higher else 0.0
    sides = one.candidate if one.gate.limit is not None else (*one.baseline, *one.candidate)
    return all(share == best for share in sides)


def _lost(one: Standing) -> bool:
    """Among the timeouts in every run of the candidate and in none of the baseline; without a level."""
    return all(map(math.isinf, one.candidate)) and all(map(math.isfinite, one.baseline))


def _decision(looks: Looks, look: int, verdicts: tuple[Verdict, ...]) -> Decision:
    verdict = _overall(verdicts)
    return Decision(
        looks=looks,
        look=look,
        stop=look == len(looks.runs) or verdict is not Verdict.INCONCLUSIVE,
        verdict=verdict,
        level=looks.level(look),
        verdicts=verdicts,
    )


def _overall(verdicts: Sequence[Verdict]) -> Verdict:
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    passed = bool(verdicts) and all(verdict is Verdict.PASS for verdict in verdicts)
    return Verdict.PASS if passed else Verdict.INCONCLUSIVE
