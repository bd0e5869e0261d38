"""Gate results: repeated runs of two or more arms held against gates, each verdict with its reason.

The run is the unit: y = log of a run's quantile, Welch's t between the arms (docs/statistics.md). Which
requests count says `analysis.pairing`, what the runs say of a gate `gate_estimate`, what to beware of
`gate_cautions`, and PASS or FAIL `decide`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from tbench.analysis import words
from tbench.analysis.arms import Arm, Replicates, check_distinct
from tbench.analysis.comparison import Comparison, Verdict
from tbench.analysis.decide import ALPHA, BURST, GateEvidence, decide, hidden, overall
from tbench.analysis.gate import Gate
from tbench.analysis.gate_cautions import (
    candidate_cautions,
    measure,
    request_cautions,
    run_cautions,
)
from tbench.analysis.gate_estimate import (
    HIDDEN,
    NONE_LEFT,
    GateEstimate,
    Method,
    comparison,
    estimate_gate,
)
from tbench.analysis.history import History
from tbench.analysis.pairing import ArmRuns, CommonRequests, shared
from tbench.analysis.run_metrics import ERRORS
from tbench.analysis.summary import Caution
from tbench.analysis.t_tests import Estimate
from tbench.capture.errors import InputError
from tbench.capture.terminal import plural
from tbench.replay.metrics import minimum_n
from tbench.replay.pacing import Warmup
from tbench.replay.throughput import three

STOPS: Final = ("TOO_FEW_RUNS", "NOT_INTERLEAVED", "UNBALANCED_ORDER", "SYSTEMATIC_ORDER")
"""Cautions that forbid a verdict on a change. What the candidate holds by itself is not touched."""
DOUBTS: Final = ("PARTIAL_RUN",)
"""Cautions that forbid a PASS."""
PACED: Final = (
    "the pacing sets this rate (open loop): only a fall shows; compare with --concurrency"
)
FAILING: Final = "FAILURES_ROSE"
"""Forbids a PASS of what failed requests have no part in: how a quantile or a rate changed."""


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One gate for one candidate, and what became of it.

    `arm` is the candidate's name, `comparison` has the figures. By `gate.scale` its `ratio`, `low` and
    `high` are of candidate / baseline ("ratio"), of their difference as a share ("points"), or of the
    candidate's own figure ("level": then `ratio` is None); `low` and `high` are one-sided 95 % bounds each,
    together a 90 % interval. `baseline_runs` and `candidate_runs` are the
    figure of each run, in the order in which they began. `evidence` is what the verdict was made of.
    """

    arm: str
    gate: Gate
    comparison: Comparison
    baseline_runs: tuple[float, ...]
    candidate_runs: tuple[float, ...]
    evidence: GateEvidence
    reason: str | None = None

    @property
    def worsening(self) -> Estimate | None:
        return self.evidence.worsening

    @property
    def bound(self) -> float | None:
        """The one-sided 95 % bound that decides a PASS: the worse end of the interval."""
        return self.comparison.low if self.gate.higher else self.comparison.high


@dataclass(frozen=True, kw_only=True)
class GateResults:
    """The verdict over all gates and candidates, each row, and what to beware of.

    The first of `arms` is the baseline; every other one was held against it by every gate. `warnings` are
    all of `cautions`, which has them by candidate. `groups` are the arms on what every run
    holds. `contrast` is how arms were compared, `planned` whether a plan had declared it before them. `n`
    requests are in every run and were compared.
    Held against a `history` of sessions, the baseline has no runs, and `baseline_runs` of a row are sessions.
    """

    arms: tuple[Replicates, ...]
    rows: tuple[GateRow, ...]
    warnings: tuple[Caution, ...]
    verdict: Verdict
    contrast: Method = "welch"
    planned: bool = False
    n: int = 0
    cautions: Mapping[str, tuple[Caution, ...]] = field(default_factory=dict)
    history: History | None = None
    groups: tuple[ArmRuns, ...] = ()

    def __str__(self) -> str:
        """What `tbench ab` prints."""
        from tbench.analysis.report.text import judgement_text  # noqa: PLC0415 (which builds on this file)

        return "\n".join(judgement_text(self))

    def __repr__(self) -> str:
        names = ", ".join(arm.name for arm in self.candidates)
        pair = f"{names} against {self.baseline.name}"
        rows = plural(len(self.rows), "row")
        return f"<GateResults: {pair}, {self.verdict}, {rows}; print it for the table>"

    @property
    def baseline(self) -> Replicates:
        return self.arms[0]

    @property
    def candidates(self) -> tuple[Replicates, ...]:
        return self.arms[1:]

    @property
    def compared(self) -> Iterator[tuple[Arm, ...]]:
        """The runs of each arm, of which only the shared requests count, as far as these are known."""
        views = {group.name: group.runs for group in self.groups}
        for arm in self.arms:
            runs = views.get(arm.name)
            yield tuple(run.arm.only(run.places, run.rated) for run in runs) if runs else arm.runs

    def verdict_of(self, candidate: str) -> Verdict:
        """The verdict over one candidate's gates."""
        rows = [row for row in self.rows if row.arm == candidate]
        return conclude(rows, self.cautions.get(candidate, ()))


def conclude(rows: Sequence[GateRow], cautions: Sequence[Caution]) -> Verdict:
    """INVALID where a run does not count, else the verdict over the rows."""
    if any(caution.code == "INVALID_RUN" for caution in cautions):
        return Verdict.INVALID
    return overall([row.comparison.verdict for row in rows])


def evaluate_gates(
    arms: Sequence[Replicates],
    gates: Sequence[Gate],
    *,
    contrast: Method = "welch",
    planned: bool = False,
    warmup: Warmup | None = None,
    common: CommonRequests | None = None,
) -> GateResults:
    """Hold the runs of every arm but the first against those of the first.

    PASS needs every gate of every candidate; FAIL is one of them by Holm's rule over all. `contrast`
    "trend" takes a straight drift out, where chance drew the order of the runs; `planned` says that a plan
    had declared it before them. `warmup` None keeps the runs' own flags; `common` is what the arms share, if
    that is known already. Raises InputError where the arms are not of one trace, or share a run.
    """
    if not gates:
        raise InputError("several runs need a gate: give --margin 5% or --gate ttft:p95:5%")
    if len(arms) < 2:
        raise InputError("a judgement needs a baseline and at least one candidate")
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise InputError(f"{', '.join(names)}: two arms of the same name")
    runs = [run for arm in arms for run in arm.runs]
    check_distinct(runs)
    # Requests pair by their ids: those of another trace would be other requests.
    sources = {run.source for run in runs}
    if len(sources) > 1:
        raise InputError(
            f"{' and '.join(names)}: runs of {len(sources)} different traces; replay one trace for all arms"
        )
    common = common or shared(arms, warmup)
    measure(common.groups, gates)
    baseline, *candidates = common.groups
    estimates = [
        estimate_gate(gate, baseline, candidate, contrast)
        for candidate in candidates
        for gate in gates
    ]
    cautions = _cautions(arms, common, estimates, contrast)
    rows = tuple(gate_rows(estimates, cautions))
    warnings = tuple(dict.fromkeys(chain.from_iterable(cautions.values())))
    return GateResults(
        arms=tuple(arms),
        rows=rows,
        warnings=warnings,
        verdict=conclude(rows, warnings),
        contrast=contrast,
        planned=planned,
        n=common.n,
        cautions=cautions,
        groups=common.groups,
    )


def _cautions(
    arms: Sequence[Replicates],
    common: CommonRequests,
    estimates: Sequence[GateEstimate],
    contrast: Method,
) -> dict[str, tuple[Caution, ...]]:
    """By candidate: those of all requests, of the baseline's runs, of its own, of the two together."""
    baseline, *candidates = zip(arms, common.groups, strict=True)
    of_all = (*run_cautions(baseline[0]), *request_cautions(common))
    cautions = {}
    for arm, group in candidates:
        gated = [estimate for estimate in estimates if estimate.arm == arm.name]
        pair = candidate_cautions((baseline[0], arm), (baseline[1], group), gated, contrast)
        name = f"{arm.name}: " if len(candidates) > 1 else ""
        named = (replace(caution, text=f"{name}{caution.text}") for caution in pair)
        cautions[arm.name] = (*of_all, *run_cautions(arm), *named)
    return cautions


# Rows: what `decide` says of each gate, what the cautions leave of it, and why.

Outcome = tuple[Verdict, str | None]


def gate_rows(
    estimates: Sequence[GateEstimate], cautions: Mapping[str, Sequence[Caution]]
) -> Iterator[GateRow]:
    """Each estimate with its verdict and reason; `cautions` are those of each candidate."""
    codes = {arm: [caution.code for caution in each] for arm, each in cautions.items()}
    tested = [estimate for estimate in estimates if not _untestable(estimate)]
    verdicts = dict(
        zip(map(id, tested), decide([estimate.evidence for estimate in tested]), strict=True)
    )
    for estimate in estimates:
        beware = codes[estimate.arm]
        verdict, reason = _untestable(estimate) or _capped(
            estimate, _explained(estimate, verdicts[id(estimate)], beware), beware
        )
        yield GateRow(
            arm=estimate.arm,
            gate=estimate.gate,
            comparison=replace(comparison(estimate), verdict=verdict),
            baseline_runs=tuple(figure.value for figure in estimate.baseline),
            candidate_runs=tuple(figure.value for figure in estimate.candidate),
            evidence=estimate.evidence,
            reason=reason,
        )


def _untestable(estimate: GateEstimate) -> Outcome | None:
    """A gate that nobody named and that these runs are too short for."""
    if not estimate.gate.usual or not estimate.refusal:
        return None
    if estimate.gate.quantile is None:
        return Verdict.SKIPPED, f"not testable: {estimate.refusal}"
    fewest = min(figure.n for figure in (*estimate.baseline, *estimate.candidate))
    needed = minimum_n(estimate.gate.quantile)
    return Verdict.SKIPPED, f"not testable: {plural(fewest, 'request')} in a run, needs {needed:,}"


def _capped(estimate: GateEstimate, outcome: Outcome, beware: Sequence[str]) -> Outcome:
    """What the cautions leave of a verdict."""
    verdict, reason = outcome
    # A history that drifts, or is too short, stops even a FAIL: nobody knows where today should lie.
    if estimate.stops:
        return Verdict.INCONCLUSIVE, estimate.stops[0]
    # A limit is the candidate's own: what the arms do not share cannot blur it.
    caps = list(STOPS if estimate.gate.limit is None else ())
    if verdict is Verdict.PASS:
        caps += [*DOUBTS, *([FAILING] if estimate.gate.scale == "ratio" else [])]
    if verdict in (Verdict.PASS, Verdict.FAIL) and (held := [c for c in caps if c in beware]):
        return Verdict.INCONCLUSIVE, held[0]
    return verdict, reason


def _explained(estimate: GateEstimate, verdict: Verdict, beware: Sequence[str]) -> Outcome:
    """The verdict of the numbers with its reason; of a paced rate, only what the server could not take."""
    evidence, gate = estimate.evidence, estimate.gate
    if evidence.worsening is None:
        figures = [figure.value for figure in (*estimate.baseline, *estimate.candidate)]
        unknown = "too few runs"
        if any(map(math.isinf, figures)):
            unknown = f"{HIDDEN} in some run"
        elif 0 in figures:
            unknown = f"{NONE_LEFT} in some run"
        return verdict, estimate.lost or estimate.refusal or unknown
    if gate.endpoint.paced and (paced := _paced(estimate, verdict)):
        return Verdict.INCONCLUSIVE, paced
    if verdict is Verdict.PASS:
        hiding = _may_hide(estimate) if evidence.spotless else _lag_reason(estimate, beware, 1)
        return verdict, hiding
    if verdict is Verdict.FAIL:
        return verdict, _lag_reason(estimate, beware, 0)
    return _few(estimate) or (verdict, _open(estimate))


def _open(estimate: GateEstimate) -> str:
    """Why neither bound decides."""
    evidence, gate = estimate.evidence, estimate.gate
    worsening = evidence.worsening
    if worsening is None or evidence.spotless:
        return _may_hide(estimate)
    what = "margin" if gate.limit is None else "limit"
    least, most = evidence.interval or (worsening.least, worsening.most)
    if most < gate.threshold and most + evidence.lag[1] >= gate.threshold:
        return (
            f"client lag can hide {words.figure(estimate.lag_s[1], 's')}, which is too much to tell"
        )
    if most < gate.threshold:
        strict, lacking = evidence.strict, "it lies among the failures"
        if strict is not None:
            value, upper = gate.shown(strict.value), gate.shown(strict.most)
            lacking = (
                f"{value - 1:+.1%}, up to {upper - 1:+.1%}"
                if gate.limit is None
                else f"{words.figure(value, 's')}, up to {words.figure(upper, 's')}"
            )
        return f"with every failure as the slowest request: {lacking}"
    if least > gate.threshold + evidence.lag[0]:
        alone = f"beyond its {what} by itself, but not at 5% among all gates (Holm)"
        return f"{alone}; more {estimate.units} would tell"
    if least > gate.threshold:
        explained = f"{words.figure(estimate.lag_s[0], 's')} of {_apart(estimate)}"
        return f"client lag can explain {explained}, which is too much to tell"
    return f"the interval holds the {what}; more {estimate.units} would narrow it"


def _lag_reason(estimate: GateEstimate, beware: Sequence[str], side: int) -> str | None:
    """What of it the client's lag can explain (0) or hide (1), where that is said at all."""
    if "CLIENT_LAG_DIFFERS" not in beware or not estimate.lag_s[side]:
        return None
    if side:
        return f"client lag can hide at most {words.figure(estimate.lag_s[1], 's')}"
    return f"client lag can explain at most {words.figure(estimate.lag_s[0], 's')} of {_apart(estimate)}"


def _apart(estimate: GateEstimate) -> str:
    """By how much the candidate's figure is more than the baseline's."""
    both = comparison(estimate)
    return words.figure((both.candidate or 0.0) - (both.baseline or 0.0), "s")


def _may_hide(estimate: GateEstimate) -> str:
    """What runs without a bad request leave open, as errors come in bursts or one by one."""
    n = sum(figure.n for figure in estimate.candidate)
    kind = "one that misses it" if estimate.gate.higher else "an error"
    return (
        f"{plural(n, 'request')} without {kind} may hide {hidden(n, ALPHA, BURST):.2%} if they come "
        f"{BURST} at a time, {hidden(n, ALPHA, 1):.2%} if one by one"
    )


def _few(estimate: GateEstimate) -> Outcome | None:
    """Of the failures that nobody named: too few requests to pass even without any."""
    if not estimate.gate.usual or estimate.gate.metric != ERRORS:
        return None
    n = sum(figure.n for figure in estimate.candidate)
    needed = math.ceil(BURST * math.log(ALPHA) / math.log1p(-estimate.gate.margin))
    if n >= needed:
        return None
    if (rise := estimate.rise) > estimate.gate.margin:
        few = plural(n, "request is", "requests are")
        why = f"{rise * 100:.2f} pp more fail, and {few} too few to tell chance"
        return Verdict.INCONCLUSIVE, why
    why = (
        f"not testable: {plural(n, 'request')} in all runs, needs {needed:,} "
        f"(errors may come {BURST} at a time)"
    )
    return Verdict.SKIPPED, why


def _paced(estimate: GateEstimate, verdict: Verdict) -> str | None:
    """Why a rate in an open loop decides nothing: the arrivals set it, up to what the server can take."""
    # In a closed loop nothing is offered: there the rate is the server's own.
    offered = [figure.offered for figure in estimate.candidate if figure.offered is not None]
    if not offered:
        return None
    gate = estimate.gate
    if gate.limit is None and verdict is not Verdict.FAIL:
        return PACED
    if gate.limit is not None and verdict is Verdict.FAIL and max(offered) < gate.limit:
        most = f"{three(max(offered))}{gate.endpoint.unit}"
        return f"the pacing sets this rate: it offers {most}, less than the limit"
    return None
