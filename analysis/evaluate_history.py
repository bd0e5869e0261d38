"""Evaluate against a history: the runs of one arm held against where one more session would lie.

Runs of other days do not take turns with those of today, so no run is a unit here: the session is. Each
has one y, the mean over its runs; today's is one new draw, and its prediction interval by Student's t,
around the mean of all sessions and around the latest, is what a change must leave (docs/statistics.md).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import numpy as np
from scipy import special

from tbench.analysis.arms import Replicates
from tbench.analysis.gate import Gate
from tbench.analysis.gate_cautions import (
    failure_figures,
    failures_rose,
    measure,
    request_cautions,
    run_cautions,
)
from tbench.analysis.gate_estimate import (
    GateEstimate,
    at_the_margin,
    estimate_gate,
    figures_of,
    known,
    least_variance,
    worst_figures,
)
from tbench.analysis.gate_results import GateResults, conclude, gate_rows
from tbench.analysis.history import History, Session
from tbench.analysis.pairing import ArmRuns, CommonRequests, shared
from tbench.analysis.run_metrics import ERRORS, Figure
from tbench.analysis.summary import Caution
from tbench.analysis.t_tests import Estimate, student
from tbench.capture.errors import InputError
from tbench.capture.terminal import plural
from tbench.replay.pacing import Warmup

# Session: the runs of one arm, recorded together, as what a baseline file keeps of them.


def name_of(gate: Gate) -> str:
    """What a gate looks at, as a history names it: goodput with its objectives."""
    slo = ",".join(objective.text for objective in gate.slo)
    return f"{gate.what} {slo}" if slo else gate.what


def host_of(url: str | None) -> str | None:
    """Host and port of a target: a user or a token in its address stays out."""
    try:
        parts = urlsplit(url or "")
        return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except ValueError:
        return None


def recorded_at(arm: Replicates) -> str:
    """When the first run of an arm began, ISO 8601 in UTC."""
    first = min(arm.started_ns)
    return datetime.fromtimestamp(first / 1e9, UTC).isoformat(timespec="milliseconds")


def session_of(arm: Replicates, gates: Sequence[Gate], warmup: Warmup | None = None) -> Session:
    """The runs of one arm as a session. Raises InputError unless they are whole, valid and of one trace."""
    sources = {run.source for run in arm.runs}
    if len(sources) > 1 or None in sources:
        raise InputError(f"{arm.name}: a session holds runs of one trace that has an id")
    for caution in run_cautions(arm):
        if caution.code in ("INVALID_RUN", "PARTIAL_RUN", "MIXED_ARM"):
            raise InputError(f"{caution.code}: {caution.text}; no baseline can be made of it")
    common = shared([arm], warmup)
    measure(common.groups, gates)
    figures = dict(_figures(common.groups[0], gates))
    first = arm.runs[0]
    return Session(
        recorded=recorded_at(arm),
        trace=str(first.source),
        name=arm.name,
        model=first.model,
        target=host_of(first.target),
        pacing=first.pacing,
        versions=dict(first.run.header.get("versions") or {}),
        requests=common.n,
        figures=figures,
        runs=marks(arm),
    )


def marks(arm: Replicates) -> tuple[str, ...]:
    """What tells the runs of an arm from all others, whatever their files are called."""
    return tuple(marker.hex() for run in arm.runs for marker in sorted(run.markers))


def _figures(group: ArmRuns, gates: Sequence[Gate]) -> Iterator[tuple[str, tuple[Figure, ...]]]:
    for gate in gates:
        figures = figures_of(gate, group)
        why = next((figure.refusal for figure in figures if figure.refusal), None)
        # Nobody named it: runs too short for p99 still make a baseline of their other quantiles.
        if why and gate.usual:
            continue
        if why or not all(0 <= figure.value < math.inf for figure in figures):
            raise InputError(f"{gate.what}: no baseline ({why or 'it lies among the timeouts'})")
        yield name_of(gate), figures
    if not any(gate.metric == ERRORS for gate in gates):
        yield ERRORS, failure_figures(group.runs)  # without which nobody can say that they rose


# Prediction: where one more draw lies after some, by Student's t; and whether the draws are of one law.

UNLIKELY: Final = 0.05
"""A slope, or a difference between two kinds of draws, this improbable by chance is called one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strictest(Estimate):
    """The first of several estimates, with ends and p-values that hold by every one of them."""

    parts: tuple[Estimate, ...]

    def worse(self, by: float) -> float:
        return max(part.worse(by) for part in self.parts)

    def above(self, level: float) -> float:
        return max(part.above(level) for part in self.parts)

    def widened(self, variance: float) -> Estimate:
        return strictest(*(part.widened(variance) for part in self.parts))

    @property
    def negated(self) -> Estimate:
        return strictest(*(part.negated for part in self.parts))


def strictest(*parts: Estimate) -> Strictest:
    """One estimate that decides only what all of them decide (an intersection-union test)."""
    first = parts[0]
    return Strictest(
        value=first.value,
        se=first.se,
        df=first.df,
        low=min(part.low for part in parts),
        high=max(part.high for part in parts),
        least=min(part.least for part in parts),
        most=max(part.most for part in parts),
        parts=parts,
    )


def predicted(draws: Sequence[float], new: float, floor: float = 0.0) -> Estimate:
    """How far `new` lies above at least two ordered draws of one normal law, if it is one more of them.

    Above their mean its error is sd * sqrt(1 + 1/N), above the latest sd * sqrt(2), on N - 1 degrees of
    freedom: the ends are those of a prediction interval, turned round. What is decided must hold against
    both: where draws wander, rise or fall unnoticed, their mean lies behind, and the latest hardly does.
    `floor` is the least variance that this difference has.
    """
    seen = np.asarray(draws, dtype=float)
    n, variance = len(seen), float(np.var(seen, ddof=1))
    levels = ((float(seen.mean()), 1 + 1 / n), (float(seen[-1]), 2.0))
    return strictest(
        *(
            student(new - level, math.sqrt(max(variance * factor, floor)), n - 1)
            for level, factor in levels
        )
    )


def has_trend(draws: Sequence[float]) -> bool:
    """Whether at least three draws in their order rise or fall: the t-test of a straight line's slope."""
    return _correlated(np.arange(len(draws)), draws)


def differs_by_kind(draws: Sequence[float], kinds: Sequence[bool]) -> bool:
    """Whether draws of two kinds, at least two of each, have different means: Student's pooled t-test."""
    return min(sum(kinds), len(kinds) - sum(kinds)) >= 2 and _correlated(kinds, draws)


def _correlated(x: Sequence[float] | np.ndarray, y: Sequence[float]) -> bool:
    """By the t-test of Pearson's r, which for two kinds is Student's pooled t-test."""
    # A constant has no correlation: numpy says NaN, with a warning.
    if np.ptp(y) == 0:
        return False
    r, df = float(np.corrcoef(x, y)[0, 1]), len(y) - 2
    if abs(r) >= 1:
        return True
    return 2 * float(special.stdtr(df, -abs(r) * math.sqrt(df / (1 - r * r)))) < UNLIKELY


LEAST_SESSIONS: Final = 5
SHORT: Final = "NOT_ENOUGH_HISTORY"
TRENDING: Final = "HISTORY_TREND"
WEEKLY: Final = "HISTORY_WEEKLY"
_SATURDAY: Final = 5


def evaluate_history(
    history: History, candidate: Replicates, gates: Sequence[Gate], warmup: Warmup | None = None
) -> GateResults:
    """Hold the candidate's runs against a baseline file.

    Raises InputError for runs of another trace, runs that are in the file, and gates that it does not know.
    """
    if not gates:
        raise InputError("a baseline file needs a gate: give --margin 5% or --gate ttft:p95:5%")
    if not history.sessions:
        raise InputError(f"{history.path}: holds no session; add one with --save-baseline")
    trace = history.sessions[0].trace
    for run in candidate.runs:
        if run.source != trace:
            raise InputError(
                f"{run.path}: a run of trace {run.source}, the baseline is of {trace}; replay that one"
            )
    # Held against themselves runs would agree too well, and pass.
    mine = marks(candidate), recorded_at(candidate)
    if any(past.shares(*mine) for past in history.sessions):
        raise InputError(
            f"{candidate.name}: these runs are a session of {history.path}, or part of one"
        )
    common = shared([candidate], warmup)
    measure(common.groups, gates)
    (group,) = common.groups
    estimates = [_estimate(history, group, gate) for gate in gates]
    # A gate that the file does not know and that is quietly left out would look like one that passes.
    names = sorted({name for session in history.sessions for name in session.figures})
    for estimate in estimates:
        if estimate.gate.limit is None and not estimate.baseline and not estimate.refusal:
            raise InputError(
                f"{history.path}: no session has {name_of(estimate.gate)}; it has {', '.join(names)}"
            )
    warnings = (
        *run_cautions(candidate),
        *request_cautions(common),
        *_cautions(history, candidate, common, estimates),
    )
    rows = tuple(gate_rows(estimates, {candidate.name: warnings}))
    return GateResults(
        arms=(Replicates(name=str(history.path), runs=()), candidate),
        rows=rows,
        warnings=warnings,
        verdict=conclude(rows, warnings),
        n=common.n,
        cautions={candidate.name: warnings},
        history=history,
        groups=common.groups,
    )


def _estimate(history: History, group: ArmRuns, gate: Gate) -> GateEstimate:
    if gate.limit is not None:  # what the candidate holds by itself needs no history
        return estimate_gate(gate, ArmRuns(name=str(history.path), runs=()), group, "welch")
    figures = figures_of(gate, group)
    sessions = [session for session in history.sessions if name_of(gate) in session.figures]
    # Of each session as many runs as the one with fewest has: means of as many vary alike.
    fewest = min(
        len(figures), min((len(past.figures[name_of(gate)]) for past in sessions), default=0)
    )
    weekend = [datetime.fromisoformat(past.recorded).weekday() >= _SATURDAY for past in sessions]
    draws = tuple(_mean(gate, session.figures[name_of(gate)][:fewest]) for session in sessions)
    y = [gate.y(draw.value) for draw in draws] if known(gate, draws) else []
    stops = [SHORT] if len(draws) < LEAST_SESSIONS else []
    if y and not stops:
        stops += [TRENDING] if has_trend(y) else []
        stops += [WEEKLY] if differs_by_kind(y, weekend) else []
    estimate = GateEstimate(
        arm=group.name,
        gate=gate,
        baseline=draws,
        candidate=figures[:fewest],
        estimate=None,
        method="refused",
        stops=tuple(stops),
        units="sessions",
    )
    if gate.usual and gate.metric == ERRORS and not sessions:  # as in files of older versions
        unknown = Figure(value=math.nan, n=0, refusal=f"no session of the file has {name_of(gate)}")
        return replace(estimate, baseline=(unknown,), candidate=figures, stops=())
    if gate.usual and not sessions and any(figure.refusal for figure in figures):
        # Too few requests: the sessions, whose runs were as short, do not hold it either.
        return replace(estimate, candidate=figures, stops=())
    return _predicted_estimate(estimate, group)


def _mean(gate: Gate, runs: Sequence[Figure]) -> Figure:
    """One figure of a session's runs; geometric but for shares."""
    if not known(gate, runs):
        return replace(runs[0], value=0.0)
    value = gate.shown(float(np.mean([gate.y(run.value) for run in runs])))
    return Figure(value=value, n=sum(run.n for run in runs), events=sum(run.events for run in runs))


def _predicted_estimate(estimate: GateEstimate, group: ArmRuns) -> GateEstimate:
    """With the new draw's distance from the mean of the sessions.

    Sessions keep no figures with failures as the slowest: theirs would be larger, and the change smaller.
    """
    gate, draws, runs = estimate.gate, estimate.baseline, estimate.candidate
    prediction = _predicted(gate, draws, runs)
    if estimate.refusal or prediction is None:
        return estimate
    sessions, each = plural(len(draws), "session"), plural(len(runs), "run")
    method = f"prediction t over {sessions} of {each} each, df {prediction.df:.0f}"
    strict = estimate.strict
    if gate.endpoint.scale == "points":
        strict = at_the_margin(gate, (draws, runs), prediction)
    elif (worst := worst_figures(gate, group)) is not None:
        strict = _predicted(gate, draws, worst[: len(runs)])
    return replace(estimate, estimate=prediction, method=method, strict=strict)


def _predicted(gate: Gate, draws: tuple[Figure, ...], runs: tuple[Figure, ...]) -> Estimate | None:
    if len(draws) < 3 or not (known(gate, draws) and known(gate, runs)):
        return None
    floor = least_variance(gate, draws) + least_variance(gate, runs)
    y = [gate.y(draw.value) for draw in draws]
    return predicted(y, float(np.mean([gate.y(run.value) for run in runs])), floor)


def _cautions(
    history: History,
    candidate: Replicates,
    common: CommonRequests,
    estimates: Sequence[GateEstimate],
) -> Iterator[Caution]:
    short = [estimate for estimate in estimates if SHORT in estimate.stops]
    if short:
        fewest = min(len(estimate.baseline) for estimate in short)
        yield Caution(
            code=SHORT,
            text=f"{plural(fewest, 'session')} of {_named(short)}; a verdict needs "
            f"{LEAST_SESSIONS}: {LEAST_SESSIONS - fewest} more must be recorded, on other days",
        )
    if trending := [estimate for estimate in estimates if TRENDING in estimate.stops]:
        yield Caution(
            code=TRENDING,
            text=f"{_named(trending)}: the sessions rise or fall one after another, so their mean is not "
            "where today's should lie",
        )
    if weekly := [estimate for estimate in estimates if WEEKLY in estimate.stops]:
        yield Caution(
            code=WEEKLY,
            text=f"{_named(weekly)}: sessions of weekends differ from those of weekdays (UTC); keep a "
            "baseline file for each",
        )
    # Failures are watched even where no gate is on them: latencies are of the successes alone.
    failures = [run for session in history.sessions for run in session.figures.get(ERRORS, ())]
    yield from failures_rose(failures, failure_figures(common.groups[0].runs), estimates)
    yield from _unequal_runs(history, candidate, estimates)
    count = len(history.sessions)
    for estimate in estimates:
        have = sum(draw.refusal is None for draw in estimate.baseline)
        if estimate.gate.limit is None and have < count:
            yield Caution(
                code="PARTIAL_HISTORY",
                text=f"{have} of {plural(count, 'session')} have {name_of(estimate.gate)}",
            )
    yield from _differences(history, candidate)
    counts = sorted({session.requests for session in history.sessions})
    if counts != [common.n]:
        yield Caution(
            code="PARTIAL_OVERLAP",
            text=f"{common.n:,} requests are compared with sessions of "
            f"{', '.join(f'{count:,}' for count in counts)}",
        )


def _unequal_runs(
    history: History, candidate: Replicates, estimates: Sequence[GateEstimate]
) -> Iterator[Caution]:
    """Where a session, or the candidate, has more runs than are compared."""
    changes = [estimate for estimate in estimates if estimate.gate.limit is None]
    for compared in sorted({len(estimate.candidate) for estimate in changes}):
        gated = [estimate for estimate in estimates if len(estimate.candidate) == compared]
        counts = [
            len(session.figures.get(name_of(estimate.gate), ()))
            for estimate in gated
            for session in history.sessions
        ]
        if compared < (most := max(*counts, len(candidate.runs))):
            yield Caution(
                code="UNEQUAL_RUNS",
                text=f"{_named(gated)}: the first {compared} of up to {most} runs of each session are "
                "compared, the fewest that one has, since means of as many runs vary alike",
            )


def _named(estimates: Sequence[GateEstimate]) -> str:
    return ", ".join(dict.fromkeys(estimate.gate.what for estimate in estimates))


def _differences(history: History, candidate: Replicates) -> Iterator[Caution]:
    """What the sessions and the candidate's runs do not have in common."""
    first = candidate.runs[0]
    version = (first.run.header.get("versions") or {}).get("tbench")
    asked: dict[str, tuple[set[str | None], str | None]] = {
        "MODEL": ({past.model for past in history.sessions}, first.model),
        "TARGET": ({past.target for past in history.sessions}, host_of(first.target)),
        "PACING": ({past.pacing for past in history.sessions}, first.pacing),
        "VERSION": ({past.versions.get("tbench") for past in history.sessions}, version),
    }
    for what, (before, now) in asked.items():
        if before != {now}:
            listed = ", ".join(sorted(map(str, before)))
            yield Caution(code=f"DIFFERENT_{what}", text=f"sessions: {listed}; these runs: {now}")
