"""Workbook: a report as an Excel file, for who computes on. The verdict first, then everything as numbers."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from xlsxwriter.worksheet import Worksheet

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Comparison, Comparisons
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.report import gate_sentences, sentences, words
from tbench.analysis.report.gate_sentences import gate_label
from tbench.analysis.report.machine import summaries
from tbench.analysis.report.sheets import (
    ROWS,
    SECOND_ROW,
    TONES,
    UNITS,
    Book,
    Figure,
    Shown,
    environment_sheet,
    error_sheet,
    on_paper,
    opened,
    quantile_sheet,
    sample_sheet,
    table,
    tall,
    throughput_sheet,
    write,
)
from tbench.analysis.report.sides import Sides
from tbench.analysis.summary import Caution, Summary
from tbench.capture.terminal import plural

USUAL = ("ttft", "e2e", "tpot", "itl", "output_tokens_per_s", "output_tokens", "lag")
"""Metrics whose quantiles a workbook has."""
VERDICT = (28, 100)
"""The widths of the first sheet's columns, characters."""
QUIET = "#9aa3ad"
"""Of a bar of which nothing is said."""
ROW = ("what", "metric", "quantile")
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
    found: GateResults, file: BinaryIO, *, command: str | None, most: int = ROWS
) -> None:
    """Repeated runs: verdict, gates, and all their runs. Writes to an open binary file."""
    names = gate_sentences.shown_names([arm.name for arm in found.arms])
    sides = {names[arm.name]: arm.runs for arm in found.arms}
    book = opened(file)
    lines = [
        f"{names[arm.name]}: {gate_sentences.standing(found, arm).value}. "
        f"{gate_sentences.why(found, arm, names)}"
        for arm in found.candidates
    ]
    _verdict(book, found.verdict.value, lines, found.warnings, command)
    note = (
        "A change is a ratio, for shares their difference; low and high are the ends of its 90% interval, "
        "each the one-sided 95% bound (with a limit, of the candidate's own figure), empty where there is "
        "none. Quantiles are geometric means over runs."
    )
    sheet, _ = table(book, "Gates", note, GATED, [_gate(row, names[row.arm]) for row in found.rows])
    _ratio_chart(
        book,
        sheet,
        GATED.index("ratio (candidate / baseline)"),
        [
            (row.comparison, row.comparison.verdict.value if row.gate.scale == "ratio" else None)
            for row in found.rows
        ],
        level=90,
    )
    metrics = [*USUAL, *(r.gate.metric for r in found.rows if r.gate.quantile is not None)]
    _rest(book, sides, list(dict.fromkeys(metrics)), most)


def _gate(row: GateRow, arm: str) -> list[Shown]:
    one, gate = row.comparison, row.gate
    change = {"ratio": "ratio", "points": "share", "level": one.unit}[gate.scale]
    return [
        *(gate_label(gate), arm, one.verdict.value, one.metric, gate.quantile),
        *(UNITS.get(one.unit, one.unit), Figure(one.baseline, one.unit)),
        Figure(one.candidate, one.unit),
        *(one.ratio if gate.scale == scale else None for scale in ("ratio", "points")),
        *(Figure(one.low, change), Figure(one.high, change)),
        *(None if gate.scale == "level" else gate.margin, Figure(gate.limit, one.unit)),
        *(*one.runs, one.n_baseline, one.n_candidate),
        *(gate_sentences.reason(row) or None, one.method),
    ]


def comparison_book(
    found: Comparisons, file: BinaryIO, *, command: str | None, most: int = ROWS
) -> None:
    """One pair of runs: what was seen, every quantile, and both runs."""
    sides: Sides = {"baseline": (found.baseline,), "candidate": (found.candidate,)}
    book = opened(file)
    lines = [sentences.seen(found), sentences.PAIR]
    _verdict(book, found.verdict.value, lines, found.warnings, command)
    rows: list[list[Shown]] = [
        [_label(row), row.metric, row.quantile, *_values(row), *_ratio(row)] for row in found.rows
    ]
    note = "Candidate / baseline, by quantile; low and high are the ends of the interval, empty is unbounded."
    sheet, _ = table(book, "Comparison", note, (*ROW, *VALUES, *RATIO), rows)
    bars = [(row, row.finding) for row in found.rows]
    _ratio_chart(book, sheet, len(ROW) + len(VALUES), bars, level=95)
    if equal := found.equal_lengths:
        rows = [[_label(row), row.metric, row.quantile, *_ratio(row)] for row in equal.rows]
        table(book, "Equal lengths", sentences.equal_lengths(equal), (*ROW, *RATIO), rows)
    _rest(book, sides, list(dict.fromkeys([*USUAL, *found.values])), most)


def _label(row: Comparison) -> str:
    return f"{words.title(row.metric)} {words.percentile(row.quantile)}"


def _values(row: Comparison) -> list[Shown]:
    figures = (Figure(value, row.unit) for value in (row.baseline, row.candidate))
    return [UNITS.get(row.unit, row.unit), *figures]


def _ratio(row: Comparison) -> list[Shown]:
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
    said = [
        f"{good:,} of {plural(n, 'request')} succeeded.",
        *([arm.buffered] if arm.buffered else []),
    ]
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
    note = "The intervals (nominal 95%) treat requests as independent; they describe this run."
    table(book, "Metrics", note, head, _summaries(metrics))
    _rest(book, sides, [one.metric for one in metrics], most)


def _summaries(metrics: Sequence[Summary]) -> Iterator[list[Shown]]:
    for one in metrics:
        for point in one.quantiles:
            figures = (Figure(value, one.unit) for value in (point.value, point.low, point.high))
            yield [
                *(one.metric, UNITS.get(one.unit, one.unit), point.p),
                *figures,
                *(one.n, one.timeouts, Figure(point.at_least, one.unit), point.refusal),
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
    for column, width in enumerate(VERDICT):
        sheet.set_column(column, column, width)
    on_paper(sheet)
    tone = TONES.get(word.partition(":")[0], "#000000")
    write(sheet, 0, 0, word, book.style(bold=True, font_size=20, font_color=tone))
    rows = [("", line) for line in lines]
    rows += [(one.code, one.text) for one in warnings]
    rows += [("made by", command)] if command else []
    for at, (key, text) in enumerate(rows, 2):
        tall(sheet, at, (key, text), VERDICT)
        write(sheet, at, 0, key, book.style(bold=True))
        write(sheet, at, 1, text, book.style(text_wrap=True))


def _ratio_chart(
    book: Book,
    sheet: Worksheet,
    column: int,
    bars: Sequence[tuple[Comparison, str | None]],
    *,
    level: int,
) -> None:
    """Below a table: bars of its ratios, in the colour of what they say, with their intervals.

    `bars` are the table's rows, each with its verdict or finding; one without has an empty place.
    """
    if not any(row.ratio is not None and word for row, word in bars):
        return
    first, last = SECOND_ROW, SECOND_ROW + len(bars) - 1
    known = [row if word else None for row, word in bars]
    above = [one.high - one.ratio if one and one.ratio and one.high else 0.0 for one in known]
    below = [one.ratio - one.low if one and one.ratio and one.low else 0.0 for one in known]
    chart = book.file.add_chart({"type": "bar"})
    chart.add_series(
        {
            "name": "ratio (candidate / baseline)",
            "categories": [sheet.name, first, 0, last, 0],
            "values": [sheet.name, first, column, last, column],
            "points": [{"fill": {"color": TONES.get(word or "", QUIET)}} for _, word in bars],
            "x_error_bars": {"type": "custom", "plus_values": above, "minus_values": below},
        }
    )
    chart.set_title({"name": f"Ratio candidate / baseline with its {level}% interval"})
    chart.set_y_axis({"reverse": True})
    chart.set_x_axis({"crossing": 1, "min": 0, "num_format": '0.0"x"'})
    chart.set_legend({"none": True})
    chart.set_size({"width": 900, "height": 120 + 28 * len(bars)})
    sheet.insert_chart(last + 3, 0, chart)


def _rest(book: Book, sides: Sides, metrics: Sequence[str], most: int) -> None:
    """The sheets that every report has; then the file is written."""
    throughput_sheet(book, sides)
    quantile_sheet(book, sides, metrics)
    error_sheet(book, sides)
    environment_sheet(book, sides)
    sample_sheet(book, sides, most=most)
    book.close()
