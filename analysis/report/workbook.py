"""Workbook: a report as an Excel file, for who computes on. The verdict first, then everything as numbers."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from xlsxwriter.chart import Chart

from analysis.arms import Arm
from analysis.comparison import Comparison, Comparisons
from analysis.judge import Judgement, Row
from analysis.report import verdicts
from analysis.report.gates import gate_label
from analysis.report.machine import summaries
from analysis.report.sheets import (
    ROWS,
    SECOND_ROW,
    Book,
    Cell,
    environment_sheet,
    error_sheet,
    opened,
    quantile_sheet,
    sample_sheet,
    table,
    throughput_sheet,
    write,
)
from analysis.report.sides import Sides, shown_names
from analysis.report.whole import lengths_text
from analysis.summary import Caution, Summary

USUAL = ("ttft", "e2e", "tpot", "itl", "output_tokens_per_s", "output_tokens", "lag")
"""Metrics whose quantiles a workbook has."""
VALUES = ("unit", "baseline (in unit)", "candidate (in unit)")
RATIO = (
    *("ratio (candidate / baseline)", "ratio, low", "ratio, high", "confidence", "finding"),
    *("n baseline (requests)", "n candidate (requests)", "method", "refusal", "warnings"),
)
GATED = (
    *("gate", "arm", "verdict", "metric", "quantile", "unit", "baseline (in unit)"),
    *("candidate (in unit)", "ratio (candidate / baseline)", "difference (share)"),
    *("change, low", "change, high", "margin (share)", "limit (in unit)"),
    *("runs baseline", "runs candidate"),
    *("n baseline (requests)", "n candidate (requests)", "why not decided", "method"),
)


def judgement_book(
    found: Judgement, file: BinaryIO, *, command: str | None, most: int = ROWS
) -> None:
    """Repeated runs: verdict, gates, and all their runs. Writes to an open binary file."""
    names = shown_names([arm.name for arm in found.arms])
    sides = {names[arm.name]: arm.runs for arm in found.arms}
    book = opened(file)
    lines = [
        f"{names[arm.name]}: {verdicts.standing(found, arm).value}. {verdicts.why(found, arm, names)}"
        for arm in found.candidates
    ]
    _verdict(book, found.verdict.value, lines, found.warnings, command)
    note = (
        "A change is a ratio, for shares their difference; low and high are the ends of its 90 % interval, "
        "each the one-sided 95 % bound (with a limit, of the candidate's own figure), empty where there is "
        "none. Quantiles are geometric means over runs."
    )
    sheet, n = table(book, "Gates", note, GATED, [_gate(row, names[row.arm]) for row in found.rows])
    if n:
        sheet.insert_chart(SECOND_ROW + n + 2, 0, _ratio_chart(book, found.rows))
    metrics = [*USUAL, *(r.gate.metric for r in found.rows if r.gate.quantile is not None)]
    _rest(book, sides, list(dict.fromkeys(metrics)), most)


def _gate(row: Row, arm: str) -> list[Cell]:
    one, gate = row.comparison, row.gate
    return [
        *(gate_label(gate), arm, one.verdict.value, one.metric, gate.quantile, one.unit),
        *(one.baseline, one.candidate),
        *(one.ratio if gate.scale == scale else None for scale in ("ratio", "points")),
        *(one.low, one.high, None if gate.scale == "level" else gate.margin, gate.limit),
        *(*one.runs, one.n_baseline, one.n_candidate),
        *(row.reason, one.method),
    ]


def comparison_book(
    found: Comparisons, file: BinaryIO, *, command: str | None, most: int = ROWS
) -> None:
    """One pair of runs: what was seen, every quantile, and both runs."""
    sides: Sides = {"baseline": (found.baseline,), "candidate": (found.candidate,)}
    book = opened(file)
    lines = [verdicts.seen(found), verdicts.PAIR]
    _verdict(book, found.verdict.value, lines, found.warnings, command)
    rows: list[list[Cell]] = [
        [row.metric, row.quantile, row.unit, row.baseline, row.candidate, *_ratio(row)]
        for row in found.rows
    ]
    note = "Candidate / baseline, by quantile; low and high are the ends of the interval, empty is unbounded."
    table(book, "Comparison", note, ("metric", "quantile", *VALUES, *RATIO), rows)
    if equal := found.equal_lengths:
        rows = [[row.metric, row.quantile, *_ratio(row)] for row in equal.rows]
        table(book, "Equal lengths", lengths_text(equal), ("metric", "quantile", *RATIO), rows)
    _rest(book, sides, list(dict.fromkeys([*USUAL, *found.values])), most)


def _ratio(row: Comparison) -> list[Cell]:
    return [
        *(row.ratio, row.low, row.high, row.confidence, row.finding),
        *(row.n_baseline, row.n_candidate),
        *(row.method, row.refusal, " ".join(one.code for one in row.warnings) or None),
    ]


def run_book(arm: Arm, file: BinaryIO, *, command: str | None, most: int = ROWS) -> None:
    """A single run, or a trace: each metric with its quantiles and their intervals."""
    sides: Sides = {arm.kind: (arm,)}
    metrics = summaries(arm)
    book = opened(file)
    verdict = f"INVALID: {arm.invalid_because}" if arm.invalid_because else f"one {arm.kind}"
    good, n = int((arm.ok & arm.measured).sum()), int(arm.measured.sum())
    said = [f"{good:,} of {n:,} requests succeeded.", *([arm.buffered] if arm.buffered else [])]
    _verdict(book, verdict, said, (), command)
    head = [
        "metric",
        "unit",
        "quantile",
        "value (in unit)",
        "low",
        "high",
        "n (values)",
        "timed out",
    ]
    head += ["beyond (in unit)", "few values"]
    note = "The intervals (nominal 95 %) treat requests as independent; they describe this run."
    table(book, "Metrics", note, head, _summaries(metrics))
    _rest(book, sides, [one.metric for one in metrics], most)


def _summaries(metrics: Sequence[Summary]) -> Iterator[list[Cell]]:
    for one in metrics:
        for point in one.quantiles:
            yield [
                *(one.metric, one.unit, point.p, point.value, point.low, point.high),
                *(one.n, one.timeouts, point.at_least, point.refusal),
            ]


def _verdict(
    book: Book,
    word: str,
    lines: Sequence[str],
    warnings: Sequence[Caution],
    command: str | None,
) -> None:
    """The first sheet: the word, a sentence for each candidate, what to beware of."""
    sheet = book.file.add_worksheet("Verdict")
    sheet.set_column(0, 0, 24)
    sheet.set_column(1, 1, 120)
    write(sheet, 0, 0, word, book.big)
    rows = [("", line) for line in lines]
    rows += [(one.code, one.text) for one in warnings]
    rows += [("made by", command)] if command else []
    for at, (key, text) in enumerate(rows, 2):
        write(sheet, at, 0, key, book.bold)
        write(sheet, at, 1, text)


def _ratio_chart(book: Book, rows: Sequence[Row]) -> Chart:
    """Bars of the ratios with their intervals; a difference of error rates has an empty place."""
    first, last = SECOND_ROW, SECOND_ROW + len(rows) - 1
    label, ratio = GATED.index("gate"), GATED.index("ratio (candidate / baseline)")
    known = [row.comparison if row.gate.scale == "ratio" else None for row in rows]
    above = [one.high - one.ratio if one and one.ratio and one.high else 0.0 for one in known]
    below = [one.ratio - one.low if one and one.ratio and one.low else 0.0 for one in known]
    chart = book.file.add_chart({"type": "bar"})
    chart.add_series(
        {
            "name": "ratio (candidate / baseline)",
            "categories": ["Gates", first, label, last, label + 1],
            "values": ["Gates", first, ratio, last, ratio],
            "x_error_bars": {"type": "custom", "plus_values": above, "minus_values": below},
        }
    )
    chart.set_title({"name": "Ratio candidate / baseline with its 90 % interval"})
    chart.set_y_axis({"reverse": True})
    chart.set_x_axis({"crossing": 1})
    chart.set_legend({"none": True})
    chart.set_size({"width": 900, "height": 120 + 28 * len(rows)})
    return chart


def _rest(book: Book, sides: Sides, metrics: Sequence[str], most: int) -> None:
    """The sheets that every report has; then the file is written."""
    throughput_sheet(book, sides)
    quantile_sheet(book, sides, metrics)
    error_sheet(book, sides)
    environment_sheet(book, sides)
    sample_sheet(book, sides, most=most)
    book.close()
