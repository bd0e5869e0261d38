"""Ruling: PASS, FAIL or INCONCLUSIVE for each case, from one-sided 95 % bounds.

A gate passes when the bound of the worsening stays below its threshold, and fails when the worsening
lies beyond it by Holm's rule over all gates of all candidates. PASS of all needs every gate to pass, an
intersection-union test, which needs no correction.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from tbench.analysis.case import HIDDEN, NONE_LEFT, GateEstimate, comparison
from tbench.analysis.comparison import Verdict
from tbench.analysis.judgement import ALPHA, BURST, Row, hidden
from tbench.analysis.run_metrics import ERRORS
from tbench.analysis.t_tests import holm
from tbench.replay.measures import minimum_n

STOPS: Final = ("TOO_FEW_RUNS", "NOT_INTERLEAVED", "UNBALANCED_ORDER", "SYSTEMATIC_ORDER")
"""Cautions that forbid a verdict on a change. What the candidate holds by itself is not touched."""
DOUBTS: Final = ("PARTIAL_RUN",)
"""Cautions that forbid a PASS."""
FAILING: Final = "FAILURES_ROSE"
"""Forbids a PASS of what failed requests have no part in: how a quantile or a rate changed."""

Outcome = tuple[Verdict, str | None]


def settled(cases: Sequence[GateEstimate], beware: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """Each case as a row with its verdict; `beware` has the codes of each candidate's cautions."""
    tested = [case for case in cases if not (case.gate.usual and case.refusal)]
    p_values = holm([case.evidence.p_value for case in tested])
    adjusted = dict(zip(map(id, tested), p_values, strict=True))
    for case in cases:
        verdict, reason = _skipped(case) or _capped(
            case, _outcome(case, adjusted[id(case)], beware[case.arm]), beware[case.arm]
        )
        yield Row(
            arm=case.arm,
            gate=case.gate,
            comparison=replace(comparison(case), verdict=verdict),
            baseline_runs=tuple(one.value for one in case.baseline),
            candidate_runs=tuple(one.value for one in case.candidate),
            evidence=case.evidence,
            reason=reason,
        )


def rise(case: GateEstimate) -> float:
    """By how much more of the candidate's requests fail, as a share."""
    first, second = (
        sum(one.events for one in side) / max(1, sum(one.n for one in side))
        for side in (case.baseline, case.candidate)
    )
    return second - first


def _skipped(case: GateEstimate) -> Outcome | None:
    """A gate that nobody named and that these runs are too short for."""
    if not case.gate.usual or not case.refusal:
        return None
    if case.gate.quantile is None:
        return Verdict.SKIPPED, f"not testable: {case.refusal}"
    fewest = min(one.n for one in (*case.baseline, *case.candidate))
    needed = minimum_n(case.gate.quantile)
    return Verdict.SKIPPED, f"not testable: {fewest:,} requests in a run, needs {needed:,}"


def _capped(case: GateEstimate, outcome: Outcome, beware: Sequence[str]) -> Outcome:
    """What the cautions leave of a verdict."""
    verdict, reason = outcome
    if case.stops:
        return Verdict.INCONCLUSIVE, case.stops[0]
    caps = list(STOPS if case.gate.limit is None else ())
    if verdict is Verdict.PASS:
        caps += [*DOUBTS, *([FAILING] if case.gate.scale == "ratio" else [])]
    if verdict in (Verdict.PASS, Verdict.FAIL) and (held := [c for c in caps if c in beware]):
        return Verdict.INCONCLUSIVE, held[0]
    return verdict, reason


def _outcome(case: GateEstimate, p: float, beware: Sequence[str]) -> Outcome:
    evidence, gate = case.evidence, case.gate
    if evidence.worsening is None:
        if case.lost:
            return Verdict.FAIL, case.lost
        return Verdict.INCONCLUSIVE, case.refusal or _unknown(case)
    if gate.endpoint.paced and (paced := _paced(case, p)) is not None:
        return paced
    if evidence.passes():
        return Verdict.PASS, _pass_reason(case, beware)
    if p < ALPHA:
        return Verdict.FAIL, _lag_reason(case, beware, 0)
    return _few(case) or (Verdict.INCONCLUSIVE, _open(case))


def _open(case: GateEstimate) -> str:
    """Why neither bound decides."""
    evidence, gate = case.evidence, case.gate
    found = evidence.worsening
    if found is None or evidence.spotless:
        return _may_hide(case)
    what = "margin" if gate.limit is None else "limit"
    least, most = evidence.interval or (found.least, found.most)
    if most < gate.threshold and most + evidence.lag[1] >= gate.threshold:
        return f"client lag can hide {_ms(case.lag_s[1])}, which is too much to tell"
    if most < gate.threshold:
        return f"with every failure as the slowest request: {_strict(case)}"
    if least > gate.threshold + evidence.lag[0]:
        return f"beyond its {what} by itself, but not at 5% among all gates (Holm); more runs would tell"
    if least > gate.threshold:
        return f"client lag can explain {_ms(case.lag_s[0])} of {_apart(case)}, which is too much to tell"
    return f"the interval holds the {what}; more runs would narrow it"


def _strict(case: GateEstimate) -> str:
    """The change, or the level, that a PASS lacks."""
    gate, strict = case.gate, case.evidence.strict
    if strict is None:
        return "it lies among the failures"
    value, most = gate.shown(strict.value), gate.shown(strict.most)
    if gate.limit is not None:
        return f"{_ms(value)}, up to {_ms(most)}"
    return f"{value - 1:+.1%}, up to {most - 1:+.1%}"


def _pass_reason(case: GateEstimate, beware: Sequence[str]) -> str | None:
    return _may_hide(case) if case.evidence.spotless else _lag_reason(case, beware, 1)


def _lag_reason(case: GateEstimate, beware: Sequence[str], side: int) -> str | None:
    """What of it the client's lag can explain (0) or hide (1), where that is said at all."""
    if "CLIENT_LAG_DIFFERS" not in beware or not case.lag_s[side]:
        return None
    if side:
        return f"client lag can hide at most {_ms(case.lag_s[1])}"
    return f"client lag can explain at most {_ms(case.lag_s[0])} of {_apart(case)}"


def _apart(case: GateEstimate) -> str:
    """By how much the candidate's figure is more than the baseline's."""
    both = comparison(case)
    return _ms((both.candidate or 0.0) - (both.baseline or 0.0))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _may_hide(case: GateEstimate) -> str:
    """What runs without a bad request leave open, as errors come in bursts or one by one."""
    n = sum(one.n for one in case.candidate)
    kind = "one that misses it" if case.gate.higher else "an error"
    return (
        f"{n:,} requests without {kind} may hide {hidden(n, ALPHA, BURST):.2%} if they come {BURST} at a "
        f"time, {hidden(n, ALPHA, 1):.2%} if one by one"
    )


def _few(case: GateEstimate) -> Outcome | None:
    """Of the failures that nobody named: too few requests to pass even without any."""
    if not case.gate.usual or case.gate.metric != ERRORS:
        return None
    n = sum(one.n for one in case.candidate)
    needed = math.ceil(BURST * math.log(ALPHA) / math.log1p(-case.gate.margin))
    if n >= needed:
        return None
    if rise(case) > case.gate.margin:
        return (
            Verdict.INCONCLUSIVE,
            f"{rise(case) * 100:.2f}pp more fail, and {n:,} requests are too few to tell chance",
        )
    why = f"not testable: {n:,} requests in all runs, needs {needed:,} (errors may come {BURST} at a time)"
    return Verdict.SKIPPED, why


def _paced(case: GateEstimate, p: float) -> Outcome | None:
    """Of a rate in an open loop: the arrivals set it, so it shows only what the server could not take."""
    offered = [one.offered for one in case.candidate if one.offered is not None]
    if not offered:
        return None
    gate = case.gate
    if gate.limit is None and p >= ALPHA:
        why = "the pacing sets this rate (open loop): only a fall shows; compare with --concurrency"
        return Verdict.INCONCLUSIVE, why
    if gate.limit is not None and p < ALPHA and max(offered) < gate.limit:
        most = f"{max(offered):.3g}{gate.endpoint.unit}"
        return (
            Verdict.INCONCLUSIVE,
            f"the pacing sets this rate: it offers {most}, less than the limit",
        )
    return None


def _unknown(case: GateEstimate) -> str:
    """Why there is no estimate where every run has a figure."""
    if any(math.isinf(one.value) for one in (*case.baseline, *case.candidate)):
        return f"{HIDDEN} in some run"
    if any(one.value == 0 for one in (*case.baseline, *case.candidate)):
        return f"{NONE_LEFT} in some run"
    return "too few runs"
