"""Gate sentences: what repeated runs held against gates say, in words; the same in every report."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Final

from tbench.analysis import words
from tbench.analysis.arms import Replicates, begun
from tbench.analysis.comparison import Verdict
from tbench.analysis.decide import ALPHA
from tbench.analysis.gate import Gate
from tbench.analysis.gate_results import PACED, GateResults, GateRow
from tbench.analysis.variance import pooled_sd
from tbench.capture.terminal import plural
from tbench.replay.totals import duration_s

Names = Mapping[str, str]
"""An arm's own name -> the one that is shown."""


NAMED: Final = 3
"""So many gates are named in a sentence; the table has all."""
TREND: Final = "trend (least squares of each run's figure on its arm and its place among the runs)"
MEANINGS: Final = {
    Verdict.PASS: "each gated change is below its margin at one-sided level 5%",
    Verdict.FAIL: "a gated change exceeds its margin at level 5% (Holm, over all gates)",
    Verdict.INCONCLUSIVE: "these runs cannot tell",
    Verdict.INVALID: "a run does not count",
    Verdict.SKIPPED: "not testable by these runs",
}


def shown_names(names: Sequence[str]) -> dict[str, str]:
    """Short names for arms that are named by their folder or glob, as long as they stay apart.

    `runs/A-*.run` is A. A name that is no path stays as it is.
    """
    lasts = (PurePath(name).name.removesuffix(".run") for name in names)
    short = [re.sub(r"\[[^\]]*\]|[*?]", "", last).strip("-_. ") for last in lasts]
    apart = len(set(short)) == len(short) and all(short)
    return dict(zip(names, short if apart else names, strict=True))


def meaning(results: GateResults) -> str:
    """The verdict over all in a sentence without its full stop; of limits where some are gated."""
    tested = [row for row in results.rows if row.comparison.verdict is not Verdict.SKIPPED]
    text = MEANINGS[results.verdict]
    if all(row.gate.limit is None for row in tested):
        return text
    both = any(row.gate.limit is None for row in tested)
    if results.verdict is Verdict.PASS:
        limits = "each limit is kept at one-sided level 5%"
        return f"{text}, {limits}" if both else limits
    if results.verdict is Verdict.FAIL:
        what = "change exceeds its margin, or a limit" if both else "limit"
        return f"a gated {what} is missed, at level 5% (Holm, over all gates)"
    return text


def why(results: GateResults, arm: Replicates, names: Names) -> str:
    """One sentence: what decided it."""
    of_arm = [row for row in results.rows if row.arm == arm.name]
    rows = [row for row in of_arm if row.comparison.verdict is not Verdict.SKIPPED] or of_arm
    who, base = names[arm.name], names[results.baseline.name]
    verdict = results.verdict_of(arm.name)
    if verdict is Verdict.INVALID:
        return f"A run of {who} or {base} does not count: its own client was the limit, or data was lost."
    if verdict is Verdict.FAIL:
        failed = [row for row in rows if row.comparison.verdict is Verdict.FAIL]
        worse = f"is worse than {base} by more than the margin"
        return f"{who} {_whichever(failed, 'misses its limit', worse)}: {_named(failed)}."
    if verdict is Verdict.PASS:
        holds = _whichever(
            rows, "keeps its limit", f"is not worse than {base} by the margin or more"
        )
        gates = "the one gate" if len(rows) == 1 else f"any of {len(rows)} gates"
        near = _gate_text(max(rows, key=_worse))
        return f"{who} {holds} at {gates} (one-sided level 5%); nearest to it: {near}."
    left = [row for row in rows if row.comparison.verdict is not Verdict.PASS]
    limits = left and all(row.gate.limit is not None for row in left)
    question = f"{who} {'keeps its limit' if limits else f'is worse than {base}'}"
    return f"These runs cannot tell whether {question}: {_undecided(results, rows)}."


def _whichever(rows: Sequence[GateRow], of_limits: str, of_margins: str) -> str:
    """What is said of gates with limits and of those with margins, as far as there are any."""
    limits = [row.gate.limit is not None for row in rows]
    return " and ".join([of_limits] * any(limits) + [of_margins] * (not all(limits)))


def _named(rows: Sequence[GateRow]) -> str:
    """The gates that changed most for the worse, in words."""
    worst = sorted(rows, key=_worse, reverse=True)
    more = len(worst) - NAMED
    listed = "; ".join(_gate_text(row) for row in worst[:NAMED])
    return listed + (f"; and {more} more" if more > 0 else "")


def _gate_text(row: GateRow) -> str:
    if row.comparison.ratio is None and not interval(row):
        return f"{gate_label(row.gate)}, {reason(row) or 'no interval'}"
    figures = " ".join(filter(None, [gate_label(row.gate), change(row), interval(row)]))
    return f"{figures}, {'margin' if row.gate.limit is None else 'limit'} {margin(row.gate)}"


def _worse(row: GateRow) -> float:
    """How much worse it got, in margins; how near it is to its limit. 1 is as much as may be."""
    gate, worsening = row.gate, row.worsening
    if worsening is None:
        return float("inf")
    if gate.scale == "ratio":
        return math.expm1(worsening.value) / gate.margin
    if gate.endpoint.scale == "ratio":
        return math.exp(worsening.value - gate.threshold)
    bad = worsening.value + (1.0 if gate.higher and gate.limit is not None else 0.0)
    return bad / gate.allowance


def _undecided(results: GateResults, rows: Sequence[GateRow]) -> str:
    """Each reason once, after the gates that it holds for and their figures."""
    texts = {caution.code: caution.text for caution in results.warnings}
    reasons: dict[str, list[GateRow]] = {}
    untested = all(row.comparison.verdict is Verdict.SKIPPED for row in rows)
    for row in rows:
        if untested or row.comparison.verdict is Verdict.INCONCLUSIVE:
            reason = texts.get(row.reason or "", row.reason or "not decided")
            reasons.setdefault(reason, []).append(row)
    if (
        len(reasons) == 1
        and len(*reasons.values()) == len(rows)
        and {*reasons} <= {*texts.values()}
    ):
        return next(iter(reasons))
    parts = []
    for reason, gates in reasons.items():
        shown = ", ".join(gate_label(row.gate) for row in gates)
        parts.append(f"{_named(gates) if all(map(interval, gates)) else shown}: {reason}")
    return "; ".join(parts)


def to_decide(results: GateResults, names: Names) -> Iterator[str]:
    """How many runs would decide what is INCONCLUSIVE for its spread alone, by the gate that needs most.

    If the change is as measured, and the spread from run to run at its upper limit (`power.upper_sd`).
    """
    for arm in results.candidates if results.history is None else ():
        # More runs settle neither a share, which wants requests, nor what a caution stands in the way of.
        rows = [
            row
            for row in results.rows
            if row.arm == arm.name and row.comparison.verdict is Verdict.INCONCLUSIVE
            if row.gate.scale == "ratio" and row.comparison.low is not None
            if not (row.reason or "").isupper() and not _never_passes(row)
        ]
        needs = {gate_label(row.gate): _runs_to_decide(row) for row in rows}
        far = [label for label, runs in needs.items() if runs is None]
        who = f" of {names[arm.name]}" if len(results.candidates) > 1 else ""
        if far:
            yield f"{', '.join(far)}{who}: too near the margin for any number of runs; widen it"
        if counts := [runs for runs in needs.values() if runs]:
            every = [run for group in results.arms for run in group.runs]
            seconds = max(duration_s(run.columns) for run in every)
            runs, duet = max(counts), begun(results.baseline, arm) is None
            turns = runs if duet else runs * len(results.arms)  # arms of a duet run at once
            yield (
                f"{runs} runs each ({words.lasting(turns * seconds)}) would decide "
                f"{', '.join(label for label in needs if label not in far)}{who} in "
                "8 of 10 cases, if the change is as measured"
            )


def _never_passes(row: GateRow) -> bool:
    """Whether the arrivals set a rate that has not fallen beyond its margin: no number of runs shows more."""
    change = row.worsening
    return row.reason == PACED and change is not None and change.value <= row.gate.threshold


def _runs_to_decide(row: GateRow) -> int | None:
    """The fewest runs of each arm, at least one more than there are; None where no number is enough."""
    from tbench.analysis import power  # noqa: PLC0415 (loads scipy.optimize, which few reports need)

    sd, df = pooled_sd([row.baseline_runs, row.candidate_runs])
    distance = row.evidence.distance
    if sd is None or distance is None or distance <= 0:
        return None
    runs = power.runs_to_decide(power.upper_sd(sd, df), distance)
    return runs and max(runs, min(len(row.baseline_runs), len(row.candidate_runs)) + 1)


def left_open(results: GateResults) -> str | None:
    """What a PASS cannot know: the runs that did not happen to be bad. None without a PASS."""
    if results.verdict is not Verdict.PASS:
        return None
    runs = min(len(arm.runs) for arm in results.candidates)
    seen = plural(runs, "run without a bad one leaves", "runs without a bad one leave")
    return f"PASS is about the mean run: {seen} open that up to {unseen_runs(runs):.0%} of runs are bad"


def unseen_runs(runs: int) -> float:
    """The share of bad runs of which so many runs show none with probability .05."""
    return float(1 - ALPHA ** (1 / runs))


def declared(results: GateResults) -> str | None:
    """Who said before the runs that they would be compared this way; None for the usual way."""
    if results.contrast == "welch":
        return None
    return "in the plan, before the runs" if results.planned else "by the one who ran this"


def objectives(results: GateResults) -> list[str]:
    """What goodput counts, as the user wrote it."""
    slo = next((row.gate.slo for row in results.rows if row.gate.slo), ())
    return [objective.text for objective in slo]


def amount(results: GateResults, arm: Replicates) -> str:
    """How many runs an arm has, or how many sessions the history."""
    if results.history is not None and arm is results.baseline:
        return results.history.text
    return plural(len(arm.runs), "run")


# A gate's row: what was gated, its figures, its change.


def gate_label(gate: Gate) -> str:
    """What is gated, as people say it: `TTFT p95`, `errors`."""
    return words.quantity(gate.metric, gate.quantile)


def reason(row: GateRow) -> str:
    """Why a gate has no PASS or FAIL; a warning by its name, since its sentence stands below the gates."""
    text = row.reason or ""
    return text.lower().replace("_", " ") if text.isupper() else text


def margin(gate: Gate) -> str:
    """How much worse it may get; or what the candidate must hold."""
    if gate.limit is not None:
        unit = "$" if gate.endpoint.unit == "USD" else ""
        return gate.asked.replace("<=", f"≤ {unit}").replace(">=", f"≥ {unit}")
    return f"{gate.margin * 100:.4g}{' pp' if gate.scale == 'points' else '%'}"


def sides(row: GateRow) -> tuple[str, str]:
    """The figures of baseline and candidate as people read them, in one unit."""
    both = row.comparison.baseline, row.comparison.candidate
    first, second, limit = (
        words.figure(value, row.gate.endpoint.unit, beside=both)
        for value in (*both, row.gate.limit)
    )
    near = row.gate.limit is not None and second == limit
    return first, change(row) if near else second


def change(row: GateRow) -> str:
    """The change with its sign: per cent of the baseline, or points; for a limit the candidate's figure.

    With the digits that tell it from the margin, or the limit: what misses it must not seem to keep it.
    """
    level = row.gate.scale == "level"
    value = row.comparison.candidate if level else row.comparison.ratio
    if value is None:
        return "-" if level else "unknown"
    return _end(row.gate, value, _edge(row.gate))


def interval(row: GateRow) -> str:
    """The two-sided interval of the change, or of the figure; nothing where there is none."""
    shown = ends(row)
    return "" if shown is None else f"[{', '.join(shown)}]"


def change_cell(row: GateRow) -> str:
    """The change; a dash where it is not known, or where a level is asked: the candidate's own figure."""
    asked = row.gate.scale != "level" and row.comparison.ratio is not None
    return change(row) if asked else "-"


def interval_cell(row: GateRow) -> str:
    """The interval as a cell of a table."""
    return " to ".join(ends(row) or ["-"])


def ends(row: GateRow) -> tuple[str, str] | None:
    """The ends of the interval as people read them; None where there is none.

    With as many digits as it takes to tell them from the margin, or the limit: an interval that passes
    must not seem to hold it.
    """
    low, high, gate = row.comparison.low, row.comparison.high, row.gate
    if low is None or high is None:
        return None
    edge = _edge(gate)
    return _end(gate, low, edge), _end(gate, high, edge)


def _edge(gate: Gate) -> float:
    """The change, or the level, from which on it does not pass."""
    return gate.shown(-gate.threshold if gate.higher else gate.threshold)


def _end(gate: Gate, value: float, edge: float) -> str:
    for more in range(4):
        text = _digits(gate, value, more)
        if text != _digits(gate, edge, more):
            break
    return text


def _digits(gate: Gate, value: float, more: int) -> str:
    """A figure, a ratio or a difference, with so many digits more than usual."""
    if gate.scale != "level":
        return words.change(value, share=gate.scale == "points", more=more)
    if gate.endpoint.unit == "share":
        return f"{value:.{2 + more}%}"
    return words.amount(value, gate.endpoint.unit, digits=3 + more)
