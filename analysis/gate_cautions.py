"""Gate cautions: what to beware of in repeated runs, in the requests they share, in a candidate's change.

What holds of the requests is checked as for one pair of runs (analysis.cautions), on all runs pooled.
`analysis.gate_results` says which of these forbid a verdict.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tbench.analysis.arms import Arm, Replicates, begun, drawn, interleaved, invalid_runs
from tbench.analysis.cautions import ComparedArms, cautions, course, has_backlog, load_dominated
from tbench.analysis.compared_sums import ComparedSums
from tbench.analysis.gate import MORE_FAILURES, Gate
from tbench.analysis.gate_estimate import (
    LEAST_RUNS,
    GateEstimate,
    Method,
    estimate_gate,
    share_of,
)
from tbench.analysis.means import ErrorDifference
from tbench.analysis.metrics import METRICS, cached_tokens
from tbench.analysis.pairing import ArmRuns, CommonRequests, Match, RunView
from tbench.analysis.run_metrics import ERRORS, Figure, endpoint
from tbench.analysis.summary import Caution, Floats
from tbench.analysis.sums import CachedTokens, Judged, Sums
from tbench.analysis.t_tests import difference
from tbench.analysis.words import figure
from tbench.capture.terminal import plural
from tbench.replay import metrics
from tbench.replay.runfile import Run
from tbench.replay.table import tally
from tbench.replay.totals import loss

TREND_RUNS: Final = 5
"""Runs of each arm with which a trend that is no straight line is wrong as seldom as it says
(docs/statistics.md, "Calibration": 3+3 and 5+5 pairs by trend, sine 10 %)."""

# Pooling: what the runs of an arm add up to, so that what is checked of one pair of runs is checked of all.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one run adds. `values` are those of shared requests that medians are of, `failed` is a share."""

    sums: Sums
    failed: float
    values: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled(ComparedSums):
    """What a check may ask, of all runs of two arms."""

    parts: tuple[Sequence[_Part], ...]

    def pair(self, metric: str) -> tuple[Floats, Floats]:
        """Those of the runs, one run after the other."""
        first, second = (
            np.concatenate([part.values[metric] for part in side]) for side in self.parts
        )
        return first, second

    counts, quantiles, means = ComparedArms.counts, ComparedArms.quantiles, ComparedArms.means

    def courses(self, metric: str) -> list[Floats]:
        """Those of the run in the middle, stretch by stretch: all runs hold the same requests."""
        return [_middle([course(part.values[metric]) for part in side]) for side in self.parts]

    def lags(self, points: Sequence[float]) -> list[list[float]]:
        return self.quantiles("lag", points)


def _middle(courses: Sequence[Floats]) -> Floats:
    """The median over runs; of stretches that all of them have."""
    least = min(map(len, courses))
    return np.median([medians[:least] for medians in courses], axis=0)


def pooled(baseline: ArmRuns, candidate: ArmRuns) -> Pooled:
    """The shared requests of all runs of two arms, paired by run where there are as many.

    The failure rates' interval is Welch's over the runs; without two runs of each it excludes nothing.
    """
    groups = (baseline, candidate)
    parts = tuple([part_of(run) for run in group.runs] for group in groups)
    first, second = (_together(group, side) for group, side in zip(groups, parts, strict=True))
    nowhere = np.empty(0, dtype=np.int64)
    return Pooled(
        baseline=first,
        candidate=second,
        match=Match(
            baseline=nowhere,
            candidate=nowhere,
            paired=len(baseline.runs) == len(candidate.runs),
            dropped=(0, 0),
            alone=(0, 0),
        ),
        errors=_errors(parts),
        parts=parts,
    )


def part_of(run: RunView) -> _Part:
    """What a run adds to its arm: counted once, while its samples are at hand."""
    return run.once("part", _part)


def _part(run: RunView) -> _Part:
    arm, places, columns = run.arm, run.places, run.arm.columns
    prompt, tokens, ttft = (
        run.values(METRICS[name]) for name in ("prompt_tokens", "output_tokens", "ttft")
    )
    lag = np.where(arm.ok, metrics.client_lag(columns), np.nan)[places]
    due, e2e = columns["due"][places], metrics.e2e(columns)
    return _Part(
        sums=Sums(
            n=len(arm),
            measured=len(places),
            kinds=Counter(arm.kinds(places)),
            words={
                name: Counter(tally(columns, name, places))
                for name in ("endpoint", "finish_reason")
            },
            refused=int((columns["refusals"][places] > 0).sum()),
            cached=cached_tokens(arm, places),
            due=(float(np.nansum(due)), int((~np.isnan(due)).sum())),
            e2e=(float(np.nansum(e2e)), int((~np.isnan(e2e)).sum())),
            open_loop=arm.open_loop,
            judged=Judged(between=metrics.gaps(metrics.counted(columns))),
        ),
        failed=share_of(failure_figures([run])),
        values={
            "ttft": ttft,
            "output_tokens": tokens.astype(np.float32),
            "prompt_tokens": prompt.astype(np.float32),
            "lag": lag,
        },
    )


def _together(group: ArmRuns, parts: Sequence[_Part]) -> Arm:
    """The runs of an arm as one, of which there are sums alone."""
    runs, sums = [run.arm for run in group.runs], [part.sums for part in parts]

    first = runs[0]
    totals = {"turns": {"waited": sum(run.waited for run in runs)}}
    return Arm(
        kind=first.kind,
        name=group.name,
        run=Run(first.path, first.run.header, {}, totals, complete=True),
        source=first.source,
        model=_joined(run.model for run in runs),
        target=_joined(run.target for run in runs),
        pacing=_pacings([run.pacing for run in runs]),
        as_recorded=all(run.as_recorded for run in runs),
        token_gaps=first.token_gaps,
        sums=Sums(
            n=sum(part.n for part in sums),
            measured=sum(part.measured for part in sums),
            kinds=sum((part.kinds for part in sums), Counter()),
            words={
                name: sum((part.words[name] for part in sums), Counter())
                for name in ("endpoint", "finish_reason")
            },
            refused=sum(part.refused for part in sums),
            cached=sum((part.cached for part in sums), CachedTokens()),
            due=_added(part.due for part in sums),
            e2e=_added(part.e2e for part in sums),
            open_loop=any(part.open_loop for part in sums),
            judged=Judged(between=_added(part.judged.between for part in sums)),
        ),
    )


def _added[A: (int, float), B: (int, float)](pairs: Iterable[tuple[A, B]]) -> tuple[A, B]:
    first, second = zip(*pairs, strict=True)
    return sum(first), sum(second)


def _errors(parts: Sequence[Sequence[_Part]]) -> ErrorDifference:
    shares = [[part.failed for part in side] for side in parts]
    first, second = (float(np.mean(side)) for side in shares)
    change = difference(shares[0], shares[1]) if min(map(len, shares)) > 1 else None
    kinds = [sum((part.sums.kinds for part in side), Counter[str]()) for side in parts]
    n = [sum(part.sums.measured for part in side) for side in parts]
    return ErrorDifference(
        baseline=first,
        candidate=second,
        difference=second - first,
        low=change.low if change else -1.0,
        high=change.high if change else 1.0,
        method="Welch t on the runs' shares",
        n_baseline=n[0],
        n_candidate=n[1],
        kinds_baseline=kinds[0],
        kinds_candidate=kinds[1],
    )


def _joined(words: Iterator[str | None]) -> str | None:
    return ", ".join(dict.fromkeys(word for word in words if word)) or None


def _pacings(words: Sequence[str]) -> str:
    """The pacing of all, whose clauses semicolons part; of several, each as a whole."""
    several = list(dict.fromkeys(words))
    return several[0] if len(several) == 1 else " or ".join(s.replace("; ", ", ") for s in several)


POOLED: Final = (
    "BUFFERED_STREAM",
    "SENT_AGAIN",
    "CLIENT_LAG_DIFFERS",
    "OUTPUT_LENGTH_DIFFERS",
    "CACHED_TOKENS_DIFFER",
    "FINISH_REASONS_DIFFER",
    "ERROR_MIX_DIFFERS",
    "DIFFERENT_PACING",
    "LOAD_DIFFERS",
    "DIFFERENT_MODEL",
)
"""Checks of analysis.cautions that say the same of repeated runs."""
NOISE: Final = 0.01
"""Changes below one per cent have no sign worth comparing."""
NAMED: Final = 3
"""So many runs are named, the rest counted."""


def run_cautions(arm: Replicates) -> Iterator[Caution]:
    """What is wrong with single runs of an arm, or between them."""
    yield from invalid_runs(arm.runs)
    for run in arm.runs:
        if lost := loss(run.run):
            yield Caution(code="REQUESTS_LOST", text=f"{run.path}: {lost}")
    if stopped := [run for run in arm.runs if _stopped(run)]:
        yield Caution(
            code="PARTIAL_RUN",
            text=f"{_listed([f'{run.path} ({_stopped(run)})' for run in stopped])}: not the whole trace was "
            "replayed, so the requests that all runs hold are fewer and no gate can pass; replay again",
        )
    if arm.unfinished:
        yield Caution(
            code="UNFINISHED_RUN",
            text=f"{_listed(list(map(str, arm.unfinished)))}: a replay that was killed or still runs lies "
            "beside the runs and is not counted",
        )
    for what in ("model", "target", "pacing"):
        if len(values := sorted({str(getattr(run, what)) for run in arm.runs})) > 1:
            yield Caution(
                code="MIXED_ARM",
                text=f"the runs of {arm.name} differ in their {what}: {_listed(values)}",
            )


def _stopped(run: Arm) -> str | None:
    """How a run ended before its trace did."""
    if not run.run.complete:
        return f"killed after {plural(len(run), 'request')}"
    totals = run.run.totals
    if never := totals.get("never_sent"):
        return (
            f"{totals.get('ended_by') or 'stopped'}, {never:,} of {totals['planned']:,} never sent"
        )
    ended = totals.get("ended_by") or "plan"
    return None if ended == "plan" else f"ended by {ended} after {plural(len(run), 'request')}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def request_cautions(common: CommonRequests) -> Iterator[Caution]:
    """Which requests are compared, and which are not."""
    if common.dropped:
        yield Caution(
            code="WARMUP",
            text=f"{plural(common.dropped, 'request')} of every run left out as warm-up",
        )
    if common.lacking:
        runs = [f"{run.path} lacks {count:,}" for run, count in common.lacking]
        yield Caution(
            code="PARTIAL_OVERLAP",
            text=f"{plural(common.n, 'request is', 'requests are')} in every run and compared, of "
            f"{common.everything:,} in any: "
            f"{_listed(runs)}",
        )


def measure(groups: Sequence[ArmRuns], gates: Sequence[Gate]) -> None:
    """Ask of one run after another all that gates and cautions will, and let go of its samples."""
    for group in groups:
        for run in group.runs:
            alone = ArmRuns(name=group.name, runs=(run,))
            for gate in gates:
                estimate_gate(gate, alone, alone, "welch")
            failure_figures([run])
            part_of(run)
            run.forget()


def candidate_cautions(
    arms: tuple[Replicates, Replicates],
    groups: tuple[ArmRuns, ArmRuns],
    estimates: Sequence[GateEstimate],
    contrast: Method,
) -> Iterator[Caution]:
    """What stands between a candidate and the baseline."""
    yield from _order(*arms, contrast)
    together = pooled(*groups)
    yield from cautions(together, POOLED)
    if together.baseline.open_loop and has_backlog(together):
        yield load_dominated()
    if lying := [estimate for estimate in estimates if _survivors_lie(estimate)]:
        changes = (f"{estimate.gate.text}: {_both_changes(estimate)}" for estimate in lying)
        yield Caution(
            code="SURVIVOR_BIAS",
            text="of the answers alone, and with every failure as the slowest request: "
            f"{'; '.join(changes)}",
        )
    first, second = (failure_figures(group.runs) for group in groups)
    yield from failures_rose(first, second, estimates)


def failure_figures(runs: Sequence[RunView]) -> tuple[Figure, ...]:
    """How many requests of each run failed."""
    errors = endpoint(ERRORS, None)
    return tuple(
        run.once(("figure", ERRORS, None, ()), lambda run: errors.figure(run, ())) for run in runs
    )


def failures_rose(
    baseline: Sequence[Figure], candidate: Sequence[Figure], estimates: Sequence[GateEstimate]
) -> Iterator[Caution]:
    """Whether more requests fail than may, by a gate on errors or by the usual margin.

    A baseline that does not say how many failed (a file of an older version) counts as one without failures.
    """
    first, second = share_of(baseline), share_of(candidate)
    gates = [estimate.gate for estimate in estimates]
    named = (gate.margin for gate in gates if gate.metric == ERRORS and gate.limit is None)
    if second - first > max(named, default=MORE_FAILURES):
        before = f"{first:.2%}" if baseline else "an unknown share"
        yield Caution(
            code="FAILURES_ROSE",
            text=f"{second:.2%} of the candidate's requests fail, {before} of the baseline's: what is "
            "left cannot show that nothing got worse",
        )


def _order(baseline: Replicates, candidate: Replicates, contrast: Method) -> Iterator[Caution]:
    runs = len(baseline.runs), len(candidate.runs)
    if min(runs) < LEAST_RUNS:
        yield Caution(
            code="TOO_FEW_RUNS",
            text=f"{runs[0]:,} and {plural(runs[1], 'run')}; a gate needs {LEAST_RUNS} of each arm: "
            "what differs from run to run cannot be seen in fewer",
        )
    elif not interleaved(baseline.started_ns, candidate.started_ns):
        yield Caution(
            code="NOT_INTERLEAVED",
            text="the arms' runs did not take turns (one of each in every consecutive pair), so what changed "
            "with time looks like a difference; run them in turns, as A B, B A, A B",
        )
    # By one it must be, where the pairs are odd in number.
    elif (first := begun(baseline, candidate)) and abs(first[0] - first[1]) > 1:
        yield Caution(
            code="UNBALANCED_ORDER",
            text=f"{baseline.name} went first in {first[0]} of {plural(runs[0], 'pair')} of runs, "
            f"{candidate.name} in {first[1]}: what slows every second run looks like a difference; let each "
            "go first as often (A B, B A ..., as tbench ab does)",
        )
    elif contrast == "trend" and not drawn(baseline, candidate):
        yield Caution(
            code="SYSTEMATIC_ORDER",
            text="the arms took turns by a rule, and the trend contrast needs an order drawn at random in "
            "each pair: leave out --trend, or let tbench ab draw it",
        )
    elif contrast == "trend" and min(runs) < TREND_RUNS:
        yield Caution(
            code="TREND_FEW_RUNS",
            text=f"with fewer than {TREND_RUNS} runs of each arm --trend takes a drift that bends for a "
            "straight one: where the hours swing by 10 %, some 9 in 100 equal arms differ (not 5); make "
            f"{TREND_RUNS} runs of each",
        )


def _survivors_lie(estimate: GateEstimate) -> bool:
    """Whether a PASS, or a gain, comes from failing what was slow."""
    gate, evidence = estimate.gate, estimate.evidence
    worsening, strict = evidence.worsening, evidence.strict
    if gate.quantile is None or worsening is None or worsening == strict:
        return False
    if worsening.most < gate.threshold and (strict is None or strict.most >= gate.threshold):
        return True
    gained = gate.limit is None and worsening.value < -NOISE
    return gained and (strict is None or strict.value > NOISE)


def _both_changes(estimate: GateEstimate) -> str:
    """Of the answers alone, and with the failures."""
    gate, evidence = estimate.gate, estimate.evidence
    changes = []
    for worsening in (evidence.worsening, evidence.strict):
        if worsening is None:
            changes.append("among the failures")
            continue
        value = gate.shown(worsening.value)
        changes.append(f"{value - 1:+.1%}" if gate.limit is None else figure(value, "s"))
    return " and ".join(changes)
