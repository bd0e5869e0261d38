"""Looks: planned looks at an experiment that grows, and the level of each: looking early then costs nothing.

Group-sequential bounds on the z scale (O'Brien and Fleming, Biometrics 35, 1979; S. J. Pocock, Biometrika
64, 1977), by the recursion of P. Armitage, C. K. McPherson and B. C. Rowe (JRSS A 132, 1969).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from scipy import optimize, special

from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import Gate
from tbench.analysis.judge import ALPHA, LEAST_RUNS
from tbench.analysis.judgement import Evidence, Judgement, Row
from tbench.analysis.summary import Caution, Floats
from tbench.analysis.t_tests import difference
from tbench.capture.errors import InputError

Shape = Literal["obrien-fleming", "pocock"]
SHAPES: Final[Mapping[Shape, Callable[[Floats], Floats]]] = {
    "obrien-fleming": lambda fractions: 1 / np.sqrt(fractions),
    "pocock": np.ones_like,
}
"""How high the bound on z is at each look, by the share of the runs that are there, up to a constant."""
NAMES: Final[Mapping[Shape, str]] = {"obrien-fleming": "O'Brien-Fleming", "pocock": "Pocock"}
_NODES: Final = 200
_FURTHEST: Final = 9.0
"""Standard deviations beyond which nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """After how many runs of each arm one looks, the last being all; fixed before the first run.

    Raises InputError where they do not rise, or begin before there are LEAST_RUNS.
    """

    runs: tuple[int, ...]
    shape: Shape = "obrien-fleming"

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.runs, self.runs[1:], strict=False))
        if not self.runs or not rising or self.runs[0] < LEAST_RUNS:
            raise InputError(
                f"looks after {', '.join(map(str, self.runs)) or 'no'} runs: they must rise, from "
                f"{LEAST_RUNS} on"
            )

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of all runs that each look sees."""
        return tuple(runs / self.runs[-1] for runs in self.runs)

    def level(self, look: int, share: int = 1) -> float:
        """The nominal one-sided level of a look (the first is 1); over all looks ALPHA / `share` is spent."""
        z = bounds(self.fractions, ALPHA / share, self.shape)[look - 1]
        return float(special.ndtr(-z))


def evenly(runs: int, looks: int, shape: Shape = "obrien-fleming") -> Looks:
    """At most so many looks, evenly spread over `runs` per arm; none before there are LEAST_RUNS."""
    at = {max(LEAST_RUNS, math.ceil(runs * k / looks)) for k in range(1, looks + 1)}
    return Looks(runs=tuple(sorted(at)), shape=shape)


def crossing(z: Sequence[float], fractions: Sequence[float], *, sides: Literal[1, 2] = 1) -> float:
    """How often z ever lies beyond its bounds (above, or on either side) if nothing is there to be found.

    At the shares `fractions` of the information, the last being 1.
    """
    nodes, heights = _legendre()
    places, inside, before = np.zeros(1), np.ones(1), 0.0  # of a Brownian motion that still goes on
    for bound, at in zip(z, fractions, strict=True):
        high = min(bound, _FURTHEST) * math.sqrt(at)
        low = -high if sides == 2 else -_FURTHEST * math.sqrt(at)
        next_places = (high + low) / 2 + (high - low) / 2 * nodes
        step = math.sqrt(at - before)
        away = (next_places[:, None] - places[None, :]) / step
        density = np.exp(-away * away / 2) @ inside / (step * math.sqrt(2 * math.pi))
        places, inside, before = next_places, density * heights * (high - low) / 2, at
    return 1 - float(inside.sum())


@lru_cache(maxsize=1)
def _legendre() -> tuple[Floats, Floats]:
    """Nodes and weights of the quadrature on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


@lru_cache(maxsize=256)
def bounds(
    fractions: tuple[float, ...], alpha: float, shape: Shape, sides: Literal[1, 2] = 1
) -> tuple[float, ...]:
    """The bounds on z, looks in order, that are ever crossed with probability `alpha`."""
    heights = SHAPES[shape](np.asarray(fractions))
    constant = optimize.brentq(
        lambda c: crossing((c * heights).tolist(), fractions, sides=sides) - alpha, 0.1, _FURTHEST
    )
    return tuple((float(constant) * heights).tolist())


# Sequential: a monitored gate. Each look at repeated runs stops with PASS or FAIL, or goes on.
#
# The rules of `analysis.judge` at the look's own level (`analysis.interim`), applied to Welch's t. PASS needs
# every gate at that level; FAIL is Holm's rule with bounds of its own for each step (W. Maurer and F.
# Bretz, Statistics in Biopharmaceutical Research 5, 2013).


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A gate and each run's figure so far: its quantile, rate or share, and what they say of it."""

    baseline: tuple[float, ...]
    candidate: tuple[float, ...]
    evidence: Evidence


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
    failed = _failed([one.evidence.p_value for one in standings], looks, look)
    verdicts = tuple(
        Verdict.FAIL
        if place in failed or (last and _lost(one))
        else Verdict.PASS
        if one.evidence.passes(level)
        else Verdict.INCONCLUSIVE
        for place, one in enumerate(standings)
    )
    return _decision(looks, look, verdicts)


def monitor(found: Judgement, looks: Looks, look: int) -> Decision:
    """The decision on a judgement of the runs so far, of all its candidates together.

    A look's levels are stricter than the judge's own, so what is not PASS or FAIL there (runs that did not
    take turns, say) is not so here, and what cannot be tested stays so. INVALID stops at any look.
    """
    tested = [row for row in found.rows if row.comparison.verdict is not Verdict.SKIPPED]
    decided = iter(decide([standing(row) for row in tested], looks, look).verdicts)
    verdicts = tuple(_agreed(row.comparison.verdict, decided) for row in found.rows)
    decision = _decision(looks, look, verdicts)
    if found.verdict is Verdict.INVALID:
        return replace(decision, stop=True, verdict=Verdict.INVALID)
    return decision


def _agreed(judged: Verdict, decided: Iterator[Verdict]) -> Verdict:
    """A row's verdict where its look has the same."""
    if judged is Verdict.SKIPPED:
        return judged
    return judged if next(decided) is judged else Verdict.INCONCLUSIVE


def standing(row: Row) -> Standing:
    """A row of a judgement as `decide` takes it."""
    return Standing(baseline=row.baseline_runs, candidate=row.candidate_runs, evidence=row.evidence)


def of_figures(
    gate: Gate, baseline: tuple[float, ...], candidate: tuple[float, ...], n: int
) -> Standing:
    """The same of bare figures, by Welch's t alone; each arm has `n` requests in all."""
    least = -math.inf if gate.endpoint.scale == "points" else 0.0
    evidence = Evidence(gate=gate, worsening=None, strict=None)
    if all(least < figure < math.inf for figure in (*baseline, *candidate)):
        first, second = ([gate.y(one) for one in side] for side in (baseline, candidate))
        found = difference(first, second)
        turned = found.negated if gate.higher else found
        perfect = {*baseline, *candidate} == {1.0 if gate.higher else 0.0}
        spotless = (n, n) if perfect and gate.endpoint.scale == "points" else None
        evidence = Evidence(gate=gate, worsening=turned, strict=turned, spotless=spotless)
    return Standing(baseline=baseline, candidate=candidate, evidence=evidence)


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
        text=f"{decision.text}; an experiment that may stop early has no interval of a fixed level, and the "
        "change is shown as it stood",
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


def _failed(p_values: Sequence[float], looks: Looks, look: int) -> set[int]:
    """The gates that fail: Holm's steps, each against the level of its own share."""
    failed: set[int] = set()
    for place in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[place] >= looks.level(look, len(p_values) - len(failed)):
            break
        failed.add(place)
    return failed


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
    tested = {verdict for verdict in verdicts if verdict is not Verdict.SKIPPED}
    if Verdict.FAIL in tested:
        return Verdict.FAIL
    return Verdict.PASS if tested == {Verdict.PASS} else Verdict.INCONCLUSIVE
