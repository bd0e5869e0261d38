"""A judgement for a person, and for a program."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain
from textwrap import fill
from typing import Any, Final

from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import Gate
from tbench.analysis.history import History
from tbench.analysis.judgement import ALPHA, Judgement, Row
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import words
from tbench.analysis.summary import facts
from tbench.capture.terminal import plural

MEANINGS: Final = {
    Verdict.PASS: "each gated change is below its margin at one-sided level 5 %",
    Verdict.FAIL: "a gated change exceeds its margin at level 5 % (Holm, over all gates)",
    Verdict.INCONCLUSIVE: "these runs cannot tell",
    Verdict.INVALID: "a run does not count",
    Verdict.SKIPPED: "not testable by these runs",
}
TREND: Final = "trend (least squares of each run's figure on its arm and its place among the runs)"
WIDTH: Final = 100
LEVEL: Final = 0.9
"""Of the interval of a change: each end by itself is the one-sided 95 % bound that decides."""


def meaning(found: Judgement) -> str:
    """The verdict over all in a sentence without its full stop; of limits where some are gated."""
    tested = [row for row in found.rows if row.comparison.verdict is not Verdict.SKIPPED]
    text = MEANINGS[found.verdict]
    if all(row.gate.limit is None for row in tested):
        return text
    both = any(row.gate.limit is None for row in tested)
    if found.verdict is Verdict.PASS:
        kept = "each limit is kept at one-sided level 5 %"
        return f"{text}, {kept}" if both else kept
    if found.verdict is Verdict.FAIL:
        what = "change exceeds its margin, or a limit" if both else "limit"
        return f"a gated {what} is missed, at level 5 % (Holm, over all gates)"
    return text


def left_open(found: Judgement) -> str | None:
    """What a PASS cannot know: the runs that did not happen to be bad. None without a PASS."""
    if found.verdict is not Verdict.PASS:
        return None
    runs = min(len(arm.runs) for arm in found.candidates)
    return (
        f"PASS is about the mean run: {runs} runs without a bad one leave open that up to "
        f"{unseen_runs(runs):.0%} of runs are bad"
    )


def unseen_runs(runs: int) -> float:
    """The share of bad runs of which so many runs show none with probability .05."""
    return float(1 - ALPHA ** (1 / runs))


def judgement_json(found: Judgement) -> dict[str, Any]:
    """What `tbench compare --margin --json` prints."""
    return {
        "verdict": found.verdict.value,
        "arms": [_arm(found, arm) for arm in found.arms],
        "requests": found.n,
        "contrast": found.contrast,
        "declared": declared(found),
        "slo": objectives(found),
        "history": _history(found.history),
        "comparisons": [_row(row) for row in found.rows],
        "warnings": [f"{caution.code}: {caution.text}" for caution in found.warnings],
    }


def declared(found: Judgement) -> str | None:
    """Who said before the runs that they would be compared this way; None for the usual way."""
    if found.contrast == "welch":
        return None
    return "in the plan, before the runs" if found.planned else "by the one who ran this"


def objectives(found: Judgement) -> list[str]:
    """What goodput counts, as the user wrote it."""
    slo = next((row.gate.slo for row in found.rows if row.gate.slo), ())
    return [one.text for one in slo]


def _arm(found: Judgement, arm: Replicates) -> dict[str, Any]:
    judged = arm is not found.baseline
    return {
        "name": arm.name,
        "runs": [str(run.path) for run in arm.runs],
        "started_ns": list(arm.started_ns),
        "verdict": found.verdict_of(arm.name).value if judged else None,
        "unseen_bad_runs": unseen_runs(len(arm.runs)) if arm.runs else None,
    }


def _history(found: History | None) -> dict[str, Any] | None:
    if found is None:
        return None
    recorded = [session.recorded for session in found.sessions]
    return {
        "file": str(found.path),
        "sessions": len(recorded),
        "first": recorded[0],
        "last": recorded[-1],
    }


def _row(row: Row) -> dict[str, Any]:
    one, gate = row.comparison, row.gate
    return {
        "arm": row.arm,
        "gate": gate.text,
        "metric": one.metric,
        "quantile": gate.quantile,
        "margin": gate.margin if gate.limit is None else None,
        "limit": gate.limit,
        "scale": gate.scale,
        "unit": one.unit,
        "baseline": one.baseline,
        "candidate": one.candidate,
        "ratio": one.ratio if gate.scale == "ratio" else None,
        "difference": one.ratio if gate.scale == "points" else None,
        "ci": [one.low, one.high],
        "bound": row.bound,
        "level": None if one.low is None else LEVEL,
        "confidence": one.confidence,
        "method": one.method,
        "n": [one.n_baseline, one.n_candidate],
        "runs": list(one.runs),
        "verdict": one.verdict.value,
        "reason": row.reason,
        "baseline_runs": [_known(figure) for figure in row.baseline_runs],
        "candidate_runs": [_known(figure) for figure in row.candidate_runs],
    }


def _known(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def judgement_text(found: Judgement, width: int = WIDTH) -> Iterator[str]:
    """Lines for a terminal of this width or a log, at most 100 columns: a table for each candidate."""
    folded = partial(paragraph, width=min(width, WIDTH))
    yield from folded(f"{found.verdict.value}: {meaning(found)}", indent=4)
    yield f"baseline   {found.baseline.name}, {amount(found, found.baseline)}"
    many = len(found.candidates) > 1
    if not many:
        yield f"candidate  {found.candidates[0].name}, {amount(found, found.candidates[0])}"
    compared = f"{plural(found.n, 'request')}, those that every run has"
    yield from folded(f"compared   {'; '.join([compared, *facts(found.warnings)])}", indent=11)
    if found.history is not None:
        yield "judged     each session is one draw and the candidate one more, by a prediction interval"
    if slo := objectives(found):
        yield f"good       {', '.join(slo)}"
    if who := declared(found):
        yield from folded(f"contrast   {TREND}, declared {who}", indent=11)
    for arm in found.candidates:
        yield ""
        if many:
            yield f"candidate  {arm.name}, {amount(found, arm)}: {found.verdict_of(arm.name).value}"
        yield from _table([row for row in found.rows if row.arm == arm.name], width)
    beware = [caution for caution in found.warnings if not caution.is_fact]
    if beware or left_open(found):
        yield ""
    if rest := left_open(found):
        yield from folded(rest, indent=2)
    yield from chain.from_iterable(folded(f"! {caution}", indent=2) for caution in beware)


def amount(found: Judgement, arm: Replicates) -> str:
    """How many runs an arm has, or how many sessions the history."""
    if found.history is not None and arm is found.baseline:
        return found.history.text
    return plural(len(arm.runs), "run")


def paragraph(text: str, *, indent: int, width: int) -> list[str]:
    """Its lines, folded at words."""
    return fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False).split("\n")


HEADS: Final = ("gate", "baseline", "candidate", "change", "90 % interval", "verdict")


def _table(rows: list[Row], width: int) -> Iterator[str]:
    """Columns as wide as they need to be, two spaces apart; a reason under its row."""
    cells = [HEADS, *map(_cells, rows)]
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, line in zip([None, *rows], cells, strict=True):
        aligned = [f"{line[0]:<{wide[0]}}"]
        aligned += [f"{cell:>{size}}" for cell, size in zip(line[1:4], wide[1:4], strict=True)]
        yield "  ".join([*aligned, f"{line[4]:<{wide[4]}}", line[5]])
        if row is not None and row.reason:
            yield from paragraph(f"    {row.reason}", indent=4, width=min(width, WIDTH))


def _cells(row: Row) -> tuple[str, ...]:
    one, gate = row.comparison, row.gate
    return gate.text, *sides(row), change(row), interval(row), one.verdict.value


def sides(row: Row) -> tuple[str, str]:
    """The figures of baseline and candidate as people read them, in one unit."""
    both = row.comparison.baseline, row.comparison.candidate
    first, second = (words.figure(value, row.gate.endpoint.unit, beside=both) for value in both)
    return first, second


def change(row: Row) -> str:
    """By how much the candidate's figure is another one; a dash where that is not asked, or not known."""
    if row.gate.scale == "level" or row.comparison.ratio is None:
        return "-"
    return words.change(row.comparison.ratio, share=row.gate.scale == "points")


def interval(row: Row) -> str:
    """The 90 % interval of the change; of the candidate's own figure where a limit is asked."""
    shown = ends(row)
    return "-" if shown is None else " to ".join(shown)


def ends(row: Row) -> tuple[str, str] | None:
    """The ends of the interval as people read them; None where there is none.

    With as many digits as it takes to tell them from the margin, or the limit: an interval that passes
    must not seem to hold it.
    """
    one, gate = row.comparison, row.gate
    if one.low is None or one.high is None:
        return None
    edge = gate.shown(-gate.threshold if gate.higher else gate.threshold)
    return _end(gate, one.low, edge), _end(gate, one.high, edge)


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
