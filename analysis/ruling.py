"""Ruling: PASS, FAIL or INCONCLUSIVE for each case, from one-sided 95 % bounds.

A gate passes when the bound of the worsening stays below its threshold, and fails when the worsening
lies beyond it by Holm's rule over all gates of all candidates. PASS of all needs every gate to pass, an
intersection-union test, which needs no correction.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from analysis.case import HIDDEN, NONE_LEFT, Case, comparison
from analysis.comparison import Verdict
from analysis.judgement import Row
from analysis.welch import holm

ALPHA: Final = 0.05
STOPS: Final = (
    "TOO_FEW_RUNS",
    "NOT_INTERLEAVED",
    "UNBALANCED_ORDER",
    "SYSTEMATIC_ORDER",
    "INVALID_COMPARISON",
)
"""Cautions that forbid a verdict on a change. What the candidate holds by itself is not touched."""
DOUBTS: Final = ("SURVIVOR_BIAS", "PARTIAL_RUN")
"""Cautions that forbid a PASS."""


def settled(cases: Sequence[Case], beware: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """Each case as a row with its verdict; `beware` has the codes of each candidate's cautions."""
    p_values = [
        1.0 if case.worsening is None else case.worsening.worse(case.gate.threshold)
        for case in cases
    ]
    for case, p in zip(cases, holm(p_values), strict=True):
        verdict, reason = _capped(case, *_outcome(case, p), beware[case.arm])
        yield Row(
            arm=case.arm,
            gate=case.gate,
            comparison=replace(comparison(case), verdict=verdict),
            baseline_runs=tuple(one.value for one in case.baseline),
            candidate_runs=tuple(one.value for one in case.candidate),
            reason=reason,
            worsening=case.worsening,
        )


def _capped(
    case: Case, verdict: Verdict, reason: str | None, beware: Sequence[str]
) -> tuple[Verdict, str | None]:
    """What the cautions leave of a verdict."""
    if case.stops:
        return Verdict.INCONCLUSIVE, case.stops[0]
    stops = STOPS if case.gate.limit is None else ()
    caps = (*stops, *DOUBTS) if verdict is Verdict.PASS else stops
    if verdict is not Verdict.INCONCLUSIVE and (found := [code for code in caps if code in beware]):
        return Verdict.INCONCLUSIVE, found[0]
    return verdict, reason


def _outcome(case: Case, p: float) -> tuple[Verdict, str | None]:
    found = case.worsening
    if found is None:
        if case.lost:
            return Verdict.FAIL, case.lost
        return Verdict.INCONCLUSIVE, case.refusal or _unknown(case)
    if (hidden := _hidden(case)) is not None:
        return hidden
    if found.most < case.gate.threshold:
        return Verdict.PASS, None
    if p < ALPHA:
        return Verdict.FAIL, None
    what = "margin" if case.gate.limit is None else "limit"
    return Verdict.INCONCLUSIVE, f"the interval holds the {what}; more runs would narrow it"


def _unknown(case: Case) -> str:
    """Why there is no estimate where every run has a figure."""
    if any(math.isinf(one.value) for one in (*case.baseline, *case.candidate)):
        return f"{HIDDEN} in some run"
    if any(one.value == 0 for one in (*case.baseline, *case.candidate)):
        return f"{NONE_LEFT} in some run"
    return "too few runs"


def _hidden(case: Case) -> tuple[Verdict, str | None] | None:
    """The verdict on shares without a single bad request, which have no spread to judge by; else None.

    By the exact one-sided bound on what n requests can hide, 1 - .05^(1/n).
    """
    gate = case.gate
    if gate.endpoint.scale != "points":
        return None
    sides = case.candidate if gate.limit is not None else (*case.baseline, *case.candidate)
    if any(one.events != (one.n if gate.higher else 0) for one in sides):
        return None
    n = sum(one.n for one in case.candidate)
    could = 1 - ALPHA ** (1 / n)
    if could < gate.allowance:
        return Verdict.PASS, None
    kind = "one that misses it" if gate.higher else "an error"
    return Verdict.INCONCLUSIVE, f"{n:,} requests without {kind} may hide {could:.2%}"
