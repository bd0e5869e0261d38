"""Case: one gate for one candidate: the figure of every run, and what the runs say of the change.

The run is the unit: y is the logarithm of a run's quantile or rate, or its share itself.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from analysis.comparison import NO_DIFFERENCE, Comparison, Verdict
from analysis.contrast import FINDINGS
from analysis.endpoints import Figure
from analysis.estimate import Estimate
from analysis.gate import Gate
from analysis.judgement import Method
from analysis.shared import Group
from analysis.trend import trend
from analysis.welch import difference, level

LEAST_RUNS: Final = 3
"""With fewer there are one or two degrees of freedom, and no interval worth showing."""
HIDDEN: Final = "it lies among the timeouts"
NONE_LEFT: Final = "it is zero"


@dataclass(frozen=True, kw_only=True)
class Case:
    """The figures of each arm's runs, and the estimate on y's scale; None where it cannot be made.

    `stops` are codes of cautions that forbid a verdict on this gate alone.
    """

    arm: str
    gate: Gate
    baseline: tuple[Figure, ...]
    candidate: tuple[Figure, ...]
    estimate: Estimate | None
    method: str
    stops: tuple[str, ...] = ()

    @property
    def refusal(self) -> str | None:
        """Why a run has no figure at all."""
        sides = self.candidate if self.gate.limit is not None else (*self.baseline, *self.candidate)
        return next((figure.refusal for figure in sides if figure.refusal), None)

    @property
    def worsening(self) -> Estimate | None:
        """The change, or the level, turned so that more is worse."""
        if self.estimate is None or not self.gate.higher:
            return self.estimate
        return self.estimate.negated

    @property
    def lost(self) -> str | None:
        """Why the candidate is as bad as can be in every run, where the baseline is not."""
        if len(self.candidate) < LEAST_RUNS or self.refusal or self.gate.scale == "points":
            return None
        worst = 0.0 if self.gate.higher else math.inf
        if any(one.value != worst for one in self.candidate):
            return None
        if self.gate.limit is None and any(one.value == worst for one in self.baseline):
            return None
        return f"{HIDDEN if worst else NONE_LEFT} in every run of the candidate"


def make_case(gate: Gate, baseline: Group, candidate: Group, contrast: Method) -> Case:
    """The figures of all runs, and Welch's or the trend's difference; the candidate's level for a limit."""
    sides = [
        tuple(gate.endpoint.figure(run, gate.slo) for run in group.runs)
        for group in (baseline, candidate)
    ]
    estimate = level_of(gate, sides[1]) if gate.limit is not None else None
    if gate.limit is None:
        estimate = difference_of(gate, sides, (baseline.at, candidate.at), contrast)
    return Case(
        arm=candidate.name,
        gate=gate,
        baseline=sides[0],
        candidate=sides[1],
        estimate=estimate,
        method=make_method(gate, tuple(map(len, sides)), estimate, contrast),
    )


def known(gate: Gate, figures: Sequence[Figure]) -> bool:
    """Whether y can be made of every figure."""
    least = -math.inf if gate.endpoint.scale == "points" else 0.0
    return all(math.isfinite(one.value) and one.value > least for one in figures)


def _y(gate: Gate, figures: Iterable[Figure]) -> list[float]:
    return [gate.y(one.value) for one in figures]


def difference_of(
    gate: Gate,
    sides: Sequence[tuple[Figure, ...]],
    at: tuple[Sequence[int], Sequence[int]],
    contrast: Method,
) -> Estimate | None:
    """Second side less the first on the scale of y, by the contrast; None where y is not known."""
    if min(map(len, sides)) < LEAST_RUNS or not all(known(gate, side) for side in sides):
        return None
    first, second = (_y(gate, side) for side in sides)
    floors = (least_variance(gate, sides[0]), least_variance(gate, sides[1]))
    if contrast == "trend":
        return trend(first, second, at, floors)
    return difference(first, second, floors)


def level_of(gate: Gate, side: tuple[Figure, ...]) -> Estimate | None:
    """The mean of an arm's y by Student's t; None where there are too few runs, or y is not known."""
    if len(side) < LEAST_RUNS or not known(gate, side):
        return None
    return level(_y(gate, side), least_variance(gate, side))


def least_variance(gate: Gate, side: Sequence[Figure]) -> float:
    """The least variance that a mean share has, that of as many independent requests.

    Runs whose few events are equal by chance would else seem to agree perfectly. With one event and one
    other more, as Agresti and Caffo (2000) do.
    """
    if gate.endpoint.scale != "points":
        return 0.0
    n = sum(one.n for one in side)
    share = (sum(one.events for one in side) + 1) / (n + 2)
    return share * (1 - share) / (n + 2)


def make_method(gate: Gate, runs: tuple[int, ...], found: Estimate | None, contrast: Method) -> str:
    """How the estimate was made, for those who read the report; `runs` of baseline and candidate."""
    if found is None:
        return "refused"
    what = "shares" if gate.endpoint.scale == "points" else "log-quantiles"
    if gate.quantile is None and gate.endpoint.scale == "ratio":
        what = "log-rates"
    if gate.limit is not None:
        return f"Student t on per-run {what}, R={runs[1]}, df {found.df:.0f}"
    both = f"R={runs[0]}+{runs[1]}"
    if contrast == "trend":
        return f"least squares of per-run {what} on arm + run index, {both}, df {found.df:.0f}"
    return f"Welch t on per-run {what}, {both}, df {found.df:.1f}"


def comparison(case: Case) -> Comparison:
    """The case as a comparison, yet without a verdict."""
    gate, found = case.gate, case.estimate
    ends = (None, None) if found is None else (found.low, found.high)
    low, high = (None if end is None else gate.shown(end) for end in ends)
    return Comparison(
        metric=gate.metric,
        unit=gate.endpoint.unit,
        quantile=gate.quantile if gate.quantile is not None else 0.0,
        baseline=_centre(gate, case.baseline),
        candidate=_centre(gate, case.candidate),
        ratio=None if found is None or gate.limit is not None else gate.shown(found.value),
        low=low,
        high=high,
        confidence="none" if found is None else "95%",
        method=case.method,
        n_baseline=sum(one.n for one in case.baseline),
        n_candidate=sum(one.n for one in case.candidate),
        runs=(len(case.baseline), len(case.candidate)),
        verdict=Verdict.INCONCLUSIVE,
        finding=_finding(gate, found),
        refusal=case.refusal,
    )


def _centre(gate: Gate, figures: Sequence[Figure]) -> float | None:
    """The mean over the runs: geometric but for shares."""
    if not figures or not known(gate, figures):
        return None
    return gate.shown(float(np.mean(_y(gate, figures))))


def _finding(gate: Gate, found: Estimate | None) -> str | None:
    if found is None or gate.limit is not None:
        return None
    of = gate.endpoint
    below, above = FINDINGS["neutral" if of.scale == "points" else of.better]
    if found.high < 0:
        return below
    return above if found.low > 0 else NO_DIFFERENCE
