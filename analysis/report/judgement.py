"""A judgement for a person, and for a program."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from textwrap import fill
from typing import Any, Final

from tbench.analysis.comparison import Verdict
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.history import History
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import sentences
from tbench.analysis.report.sentences import declared, objectives
from tbench.analysis.report.sides import shown_names
from tbench.analysis.summary import facts
from tbench.capture.terminal import plural

WIDTH: Final = 100
LEVEL: Final = 0.9
"""Of the interval of a change: each end by itself is the one-sided 95% bound that decides."""


def judgement_json(judgement: GateResults) -> dict[str, Any]:
    """What `tbench compare --margin --json` prints."""
    return {
        "verdict": judgement.verdict.value,
        "arms": [_arm(judgement, arm) for arm in judgement.arms],
        "requests": judgement.n,
        "contrast": judgement.contrast,
        "declared": declared(judgement),
        "slo": objectives(judgement),
        "history": _history(judgement.history),
        "comparisons": [_row(row) for row in judgement.rows],
        "warnings": [f"{caution.code}: {caution.text}" for caution in judgement.warnings],
    }


def _arm(judgement: GateResults, arm: Replicates) -> dict[str, Any]:
    judged = arm is not judgement.baseline
    return {
        "name": arm.name,
        "runs": [str(run.path) for run in arm.runs],
        "started_ns": list(arm.started_ns),
        "verdict": judgement.verdict_of(arm.name).value if judged else None,
        "unseen_bad_runs": sentences.unseen_runs(len(arm.runs)) if arm.runs else None,
    }


def _history(history: History | None) -> dict[str, Any] | None:
    if history is None:
        return None
    recorded = [session.recorded for session in history.sessions]
    return {
        "file": str(history.path),
        "sessions": len(recorded),
        "first": recorded[0],
        "last": recorded[-1],
    }


def _row(row: GateRow) -> dict[str, Any]:
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


def judgement_text(judgement: GateResults, width: int = WIDTH) -> Iterator[str]:
    """Lines for a terminal of this width, at most 100 columns: the verdict, then a row for each gate."""
    width = min(width, WIDTH)
    fold = partial(paragraph, width=width)
    names = shown_names([arm.name for arm in judgement.arms])
    several = len(judgement.candidates) > 1
    meaning = f"{sentences.meaning(judgement)}."
    if not several:
        meaning = sentences.why(judgement, judgement.candidates[0], names)
    yield from fold(f"{judgement.verdict.value}: {meaning}", indent=4)
    for arm in judgement.candidates:
        yield ""
        if several:
            verdict = sentences.standing(judgement, arm).value
            reason = sentences.why(judgement, arm, names)
            yield from fold(f"{names[arm.name]}: {verdict}. {reason}", indent=4)
        rows = [row for row in judgement.rows if row.arm == arm.name]
        heads = ("", names[judgement.baseline.name], names[arm.name])
        yield from _table(rows, (*heads, "change", "90% CI", "margin", "result"), width)
    yield ""
    for label, line in _notes(judgement, names):
        yield from fold(f"{label:<11}{line}", indent=11)
    for caution in judgement.warnings:
        if not caution.is_fact:
            yield from fold(f"! {caution.text}", indent=2)


def _notes(judgement: GateResults, names: sentences.Names) -> Iterator[tuple[str, str]]:
    """What was compared, what the verdict leaves open, and what would decide it; each with its label."""
    runs = ", ".join(
        f"{names[arm.name]} {sentences.amount(judgement, arm)}" for arm in judgement.arms
    )
    shared = f"{plural(judgement.n, 'request')}, those that every run has"
    yield "compared", "; ".join([runs, shared, *facts(judgement.warnings)])
    if judgement.history is not None:
        yield (
            "judged",
            "each session is one draw and the candidate one more, by a prediction interval",
        )
    if slo := objectives(judgement):
        yield "good", ", ".join(slo)
    if who := declared(judgement):
        yield "contrast", f"{sentences.TREND}, declared {who}"
    for line in sentences.to_decide(judgement, names):
        yield "to decide", line
    if rest := sentences.left_open(judgement):
        yield "left open", rest


def paragraph(text: str, *, indent: int, width: int) -> list[str]:
    """Its lines, folded at words."""
    return fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False).split("\n")


def _table(rows: Sequence[GateRow], heads: tuple[str, ...], width: int) -> Iterator[str]:
    """Columns as wide as they need to be, two spaces apart; a reason that does not fit under its row."""
    cells = [heads, *map(_cells, rows)]
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, line in zip([None, *rows], cells, strict=True):
        pairs = list(zip(line, sizes, strict=True))
        aligned = [
            f"{pairs[0][0]:<{pairs[0][1]}}",
            *(f"{cell:>{size}}" for cell, size in pairs[1:4]),
        ]
        aligned += [f"{line[4]:<{sizes[4]}}", f"{line[5]:>{sizes[5]}}", line[6]]
        shown = "  ".join(aligned)
        reason = "" if row is None else sentences.reason(row).removeprefix(f"{NOT_TESTABLE}: ")
        if reason and len(shown) + 2 + len(reason) <= width:
            yield f"{shown}: {reason}"
            continue
        yield shown
        if reason:
            yield from paragraph(f"    {reason}", indent=4, width=width)


NOT_TESTABLE: Final = "not testable"


def _cells(row: GateRow) -> tuple[str, ...]:
    verdict = row.comparison.verdict
    return (
        sentences.gate_label(row.gate),
        *sentences.sides(row),
        sentences.change_cell(row),
        sentences.interval_cell(row),
        sentences.margin(row.gate),
        NOT_TESTABLE if verdict is Verdict.SKIPPED else verdict.value,
    )
