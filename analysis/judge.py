"""Judge: repeated runs of two or more arms held against gates. PASS, FAIL or INCONCLUSIVE, with the reasons.

The run is the unit: y = log of a run's quantile, Welch's t between the arms (docs/statistics.md). A gate
passes when the one-sided 95 % bound of the change stays below its margin, fails when it lies beyond it by
Holm's rule over all gates; PASS needs every gate to pass, which needs no correction.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from analysis.arms import Arm
from analysis.comparison import NO_DIFFERENCE, Comparison, Verdict
from analysis.contrast import FINDINGS
from analysis.gate import ERRORS, Gate
from analysis.metrics import METRICS, Metric, composite, values
from analysis.quantiles import ordered, quantile, refusal
from analysis.replicates import Replicates, interleaved
from analysis.summary import Caution, Floats
from analysis.welch import Difference, difference, holm
from capture.errors import InputError

LEAST_RUNS: Final = 3
"""With fewer there are one or two degrees of freedom, and no interval worth showing."""
ALPHA: Final = 0.05
NOISE: Final = 0.01
"""Changes below one per cent have no sign worth comparing."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One gate for one candidate, and what became of it. `errors` rows are differences.

    `arm` is the candidate's name, `comparison` has the figures. `baseline_runs` and `candidate_runs` are
    the figure of each run, in the order in which they began.
    """

    arm: str
    gate: Gate
    comparison: Comparison
    baseline_runs: tuple[float, ...]
    candidate_runs: tuple[float, ...]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict over all gates and candidates, each row, and what to beware of.

    The first of `arms` is the baseline; every other one was held against it by every gate.
    """

    arms: tuple[Replicates, ...]
    rows: tuple[Row, ...]
    warnings: tuple[Caution, ...]
    verdict: Verdict

    @property
    def baseline(self) -> Replicates:
        return self.arms[0]

    @property
    def candidates(self) -> tuple[Replicates, ...]:
        return self.arms[1:]


def judge(arms: Sequence[Replicates], gates: Sequence[Gate]) -> Judgement:
    """Hold the runs of every arm but the first against those of the first.

    PASS needs every gate of every candidate; FAIL is one of them by Holm's rule over all. Raises
    InputError where the arms are not of one trace, or share a run.
    """
    _check(arms, gates)
    baseline, *candidates = arms
    raw = [_row(gate, baseline, candidate) for candidate in candidates for gate in gates]
    raw = [row for row in raw if not (row.gate.usual and row.comparison.refusal)]
    if not raw:
        raise InputError(
            "the runs have too few requests for any of the gates; give --gate with a lower one"
        )
    beware = {one.name: tuple(_warnings(baseline, one, raw)) for one in candidates}
    rows = tuple(_settled(raw, {name: {c.code for c in found} for name, found in beware.items()}))
    warnings = tuple(dict.fromkeys(caution for found in beware.values() for caution in found))
    return Judgement(
        arms=tuple(arms),
        rows=rows,
        warnings=warnings,
        verdict=_verdict(rows, warnings),
    )


def _check(arms: Sequence[Replicates], gates: Sequence[Gate]) -> None:
    if not gates:
        raise InputError("several runs need a gate: give --margin 5% or --gate ttft:p95:5%")
    if len(arms) < 2:
        raise InputError("a judgement needs a baseline and at least one candidate")
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise InputError(f"{', '.join(names)}: two arms of the same name")
    runs = [run for arm in arms for run in arm.runs]
    paths = Counter(run.path.resolve() for run in runs)
    if twice := [path for path, count in paths.items() if count > 1]:
        raise InputError(f"{min(twice)}: is in both arms; a run belongs to one")
    sources = {run.source for run in runs}
    if len(sources) > 1:
        raise InputError(
            f"{' and '.join(names)}: runs of {len(sources)} different traces; replay one trace for all arms"
        )
    for run in runs:
        if not run.ok.any() and not any(gate.metric == ERRORS for gate in gates):
            raise InputError(f"{run.path}: no request succeeded")


def _row(gate: Gate, baseline: Replicates, candidate: Replicates) -> Row:
    """A gate with its figures; its verdict follows when all are known."""
    sides = [_figures(gate, arm.runs) for arm in (baseline, candidate)]
    first, second = ([one for one, _ in side] for side in sides)
    reasons = [why for side in sides for _, why in side if why]
    n_first, n_second = (sum(_n(gate, run) for run in arm.runs) for arm in (baseline, candidate))
    found = _compared(gate, first, second)
    shown = Comparison(
        metric=gate.metric,
        unit="share" if gate.metric == ERRORS else METRICS[gate.metric].unit,
        quantile=gate.quantile if gate.quantile is not None else 0.0,
        baseline=_centre(gate, first),
        candidate=_centre(gate, second),
        ratio=None if found is None else _out(gate, found.value),
        low=None if found is None else _out(gate, found.low),
        high=None if found is None else _out(gate, found.high),
        confidence="none" if found is None else "95%",
        method=_method(gate, len(first), len(second), found),
        n_baseline=n_first,
        n_candidate=n_second,
        runs=(len(first), len(second)),
        verdict=Verdict.INCONCLUSIVE,
        refusal=reasons[0] if reasons else None,
    )
    return Row(
        arm=candidate.name,
        gate=gate,
        comparison=replace(shown, finding=_finding(gate, found)),
        baseline_runs=tuple(first),
        candidate_runs=tuple(second),
    )


def _figures(gate: Gate, runs: Iterable[Arm]) -> list[tuple[float, str | None]]:
    """Each run's figure: the quantile, or the share of errors; and why there is none."""
    return [_figure(gate, run) for run in runs]


def _figure(gate: Gate, run: Arm) -> tuple[float, str | None]:
    if gate.quantile is None:
        counted = run.measured & (run.ok | run.failed)
        share = float(run.failed[counted].mean()) if counted.any() else math.nan
        return share, None if counted.any() else "a run has no request that counts"
    found = ordered(values(run, METRICS[gate.metric])[run.measured])
    if why := refusal(len(found), gate.quantile):
        return math.nan, why
    return quantile(found, gate.quantile), None


def _n(gate: Gate, run: Arm) -> int:
    if gate.metric == ERRORS:
        return int((run.measured & (run.ok | run.failed)).sum())
    return int((~np.isnan(values(run, METRICS[gate.metric])[run.measured])).sum())


def _compared(gate: Gate, first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Welch's difference: of logarithms, or of shares. None where a figure is missing or infinite."""
    if min(len(first), len(second)) < LEAST_RUNS:
        return None
    if gate.quantile is None:
        return difference(first, second) if _finite([*first, *second]) else None
    if not _finite([*first, *second]) or min(*first, *second) <= 0:
        return None
    return difference(np.log(first).tolist(), np.log(second).tolist())


def _finite(numbers: Iterable[float]) -> bool:
    return all(math.isfinite(number) for number in numbers)


def _out(gate: Gate, value: float) -> float:
    """A difference of logarithms as a ratio; one of shares as it is."""
    return value if gate.quantile is None else math.exp(value)


def _centre(gate: Gate, figures: Sequence[float]) -> float | None:
    """The mean over the runs: geometric for quantiles."""
    if not figures or not _finite(figures):
        return None
    if gate.quantile is None:
        return float(np.mean(figures))
    return float(np.exp(np.mean(np.log(figures)))) if min(figures) > 0 else None


def _method(gate: Gate, first: int, second: int, found: Difference | None) -> str:
    if found is None:
        return "refused"
    what = "error rates" if gate.quantile is None else "log-quantiles"
    return f"Welch t on per-run {what}, R={first}+{second}, df {found.df:.1f}"


def _finding(gate: Gate, found: Difference | None) -> str | None:
    if found is None:
        return None
    better = "neutral" if gate.metric == ERRORS else METRICS[gate.metric].better
    below, above = FINDINGS[better]
    if found.high < 0:
        return below
    return above if found.low > 0 else NO_DIFFERENCE


def _worsening(row: Row) -> tuple[Difference, float] | None:
    """The change turned so that more is worse, and its margin on the same scale."""
    gate = row.gate
    found = _compared(gate, row.baseline_runs, row.candidate_runs)
    if found is None:
        return None
    if gate.quantile is None:
        return found, gate.margin
    if METRICS[gate.metric].better == "higher":
        found = difference(
            (-np.log(row.baseline_runs)).tolist(), (-np.log(row.candidate_runs)).tolist()
        )
    return found, math.log1p(gate.margin)


def _settled(rows: Sequence[Row], beware: Mapping[str, set[str]]) -> Iterator[Row]:
    """Each row with its verdict; `beware` has the codes of each candidate's cautions."""
    turned = [_worsening(row) for row in rows]
    p_values = [1.0 if one is None else one[0].worse(one[1]) for one in turned]
    for row, one, p in zip(rows, turned, holm(p_values), strict=True):
        verdict, reason = _outcome(row, one, p)
        stops = beware[row.arm] & STOPS
        if stops and verdict is not Verdict.INCONCLUSIVE:
            verdict, reason = Verdict.INCONCLUSIVE, min(stops)
        elif verdict is Verdict.PASS and "SURVIVOR_BIAS" in beware[row.arm]:
            verdict, reason = Verdict.INCONCLUSIVE, "SURVIVOR_BIAS"
        yield replace(row, comparison=replace(row.comparison, verdict=verdict), reason=reason)


STOPS: Final = frozenset({"NOT_INTERLEAVED", "TOO_FEW_RUNS"})


def _outcome(
    row: Row, turned: tuple[Difference, float] | None, p: float
) -> tuple[Verdict, str | None]:
    if turned is None:
        lost = all(map(math.isinf, row.candidate_runs)) and _finite(row.baseline_runs)
        if lost and len(row.candidate_runs) >= LEAST_RUNS:
            return Verdict.FAIL, "it lies among the timeouts in every run of the candidate"
        return Verdict.INCONCLUSIVE, row.comparison.refusal or "it lies among the timeouts"
    found, margin = turned
    if row.gate.metric == ERRORS and not any((*row.baseline_runs, *row.candidate_runs)):
        return _without_errors(row.comparison.n_candidate, margin)
    if found.most < margin:
        return Verdict.PASS, None
    if p < ALPHA:
        return Verdict.FAIL, None
    return Verdict.INCONCLUSIVE, "the interval holds the margin; more runs would narrow it"


def _without_errors(n: int, margin: float) -> tuple[Verdict, str | None]:
    """No error anywhere has no spread to judge by: the exact one-sided bound on what n requests can hide."""
    hidden = 1 - ALPHA ** (1 / n)
    if hidden < margin:
        return Verdict.PASS, None
    return Verdict.INCONCLUSIVE, f"{n:,} requests without an error may hide {hidden:.2%}"


def _verdict(rows: Sequence[Row], warnings: Sequence[Caution]) -> Verdict:
    if any(caution.code == "INVALID_RUN" for caution in warnings):
        return Verdict.INVALID
    found = {row.comparison.verdict for row in rows}
    if Verdict.FAIL in found:
        return Verdict.FAIL
    return Verdict.PASS if found == {Verdict.PASS} else Verdict.INCONCLUSIVE


def _warnings(
    baseline: Replicates, candidate: Replicates, rows: Sequence[Row]
) -> Iterator[Caution]:
    for arm in (*baseline.runs, *candidate.runs):
        if arm.invalid_because:
            yield Caution(code="INVALID_RUN", text=f"{arm.path}: {arm.invalid_because}")
    fewest = min(len(baseline.runs), len(candidate.runs))
    if fewest < LEAST_RUNS:
        yield Caution(
            code="TOO_FEW_RUNS",
            text=f"{len(baseline.runs)} and {len(candidate.runs)} runs; a gate needs {LEAST_RUNS} of each "
            "arm: what differs from run to run cannot be seen in fewer",
        )
    elif not interleaved(baseline.started_ns, candidate.started_ns):
        yield Caution(
            code="NOT_INTERLEAVED",
            text="the arms' runs did not take turns (one of each in every consecutive pair), so what changed "
            "with time looks like a difference; run them A B, B A, A B ...",
        )
    for row in (row for row in rows if row.arm == candidate.name):
        if _survivors_lie(row, baseline, candidate):
            yield Caution(
                code="SURVIVOR_BIAS",
                text=f"{row.gate.text}: the change has the other sign when failures count as the slowest",
            )


def _survivors_lie(row: Row, baseline: Replicates, candidate: Replicates) -> bool:
    """Whether a gain comes from failing what was slow."""
    gate = row.gate
    if gate.quantile is None or not METRICS[gate.metric].latency or row.comparison.ratio is None:
        return False
    whole = [_whole(METRICS[gate.metric], gate.quantile, arm.runs) for arm in (baseline, candidate)]
    if not _finite(whole[0]):
        return False
    seen = math.log(row.comparison.ratio)
    with_failures = math.inf if not _finite(whole[1]) else _mean_log(whole[1]) - _mean_log(whole[0])
    return seen < -NOISE and with_failures > NOISE


def _whole(metric: Metric, p: float, runs: Iterable[Arm]) -> list[float]:
    sides: list[Floats] = [ordered(composite(run, metric)[run.measured]) for run in runs]
    return [quantile(side, p) for side in sides if len(side)]


def _mean_log(figures: Sequence[float]) -> float:
    return float(np.mean(np.log(figures)))
