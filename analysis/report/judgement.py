"""A judgement for a person, and for a program."""

from collections.abc import Iterator
from typing import Any

from analysis.comparison import Verdict
from analysis.judge import Judgement, Row
from analysis.replicates import Replicates

MEANINGS = {
    Verdict.PASS: "no gated quantity got worse by its margin or more",
    Verdict.FAIL: "a gated quantity got worse by more than its margin",
    Verdict.INCONCLUSIVE: "these runs cannot tell",
    Verdict.INVALID: "a run does not count",
}


def judgement_json(found: Judgement) -> dict[str, Any]:
    """What `tbench compare --margin --json` prints."""
    return {
        "verdict": found.verdict.value,
        "arms": [_arm(arm) for arm in found.arms],
        "comparisons": [_row(row) for row in found.rows],
        "warnings": [f"{caution.code}: {caution.text}" for caution in found.warnings],
    }


def _arm(arm: Replicates) -> dict[str, Any]:
    return {
        "name": arm.name,
        "runs": [str(run.path) for run in arm.runs],
        "started_ns": list(arm.started_ns),
    }


def _row(row: Row) -> dict[str, Any]:
    one = row.comparison
    return {
        "arm": row.arm,
        "gate": row.gate.text,
        "metric": one.metric,
        "quantile": row.gate.quantile,
        "margin": row.gate.margin,
        "unit": one.unit,
        "baseline": one.baseline,
        "candidate": one.candidate,
        "ratio": one.ratio if row.gate.quantile is not None else None,
        "difference": one.ratio if row.gate.quantile is None else None,
        "ci": [one.low, one.high],
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
    return figure if figure == figure and abs(figure) != float("inf") else None  # noqa: PLR0124 (NaN)


def judgement_text(found: Judgement) -> Iterator[str]:
    """Lines for a terminal or a log."""
    yield f"{found.verdict.value}: {MEANINGS[found.verdict]}"
    yield f"baseline   {found.baseline.name}, {len(found.baseline.runs)} runs"
    for arm in found.candidates:
        yield f"candidate  {arm.name}, {len(arm.runs)} runs"
    yield ""
    yield f"{'gate':<22}{'baseline':>11}{'candidate':>11}{'change':>9}  {'95 % interval':<20}verdict"
    for row in found.rows:
        yield _line(row)
    for caution in found.warnings:
        yield ""
        yield f"{caution.code}: {caution.text}"


def _line(row: Row) -> str:
    one = row.comparison
    share = row.gate.quantile is None
    figures = "".join(
        f"{_figure(value, share=share):>11}" for value in (one.baseline, one.candidate)
    )
    change, low, high = (_change(value, share=share) for value in (one.ratio, one.low, one.high))
    span = f"{low} to {high}" if one.ratio is not None else "-"
    why = f" ({row.reason})" if row.reason else ""
    return f"{row.gate.text:<22}{figures}{change:>9}  {span:<20}{one.verdict.value}{why}"


def _figure(value: float | None, *, share: bool) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if share else f"{value:.4g}"


def _change(value: float | None, *, share: bool) -> str:
    if value is None:
        return "-"
    return f"{value * 100:+.2f}pp" if share else f"{value - 1:+.1%}"
