"""Workbook: a report as an Excel file, for who computes on. The verdict first, then everything as numbers."""

from collections.abc import Sequence
from typing import BinaryIO, Final

from xlsxwriter.worksheet import Worksheet

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Comparison, Comparisons
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.report import gate_sentences, sentences
from tbench.analysis.report.facts import Sides
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
from tbench.analysis.summary import Caution
from tbench.capture.terminal import plural

USUAL: Final = ("ttft", "e2e", "tpot", "itl", "output_tokens_per_s", "output_tokens", "lag")
"""Metrics whose quantiles a workbook has."""
VERDICT: Final = (28, 100)
"""The widths of the first sheet's columns, characters."""
QUIET: Final = "#9aa3ad"
"""Of a bar of which nothing is said."""
ROW: Final = ("what", "metric", "quantile")
VALUES: Final = ("unit", "baseline (in unit)", "candidate (in unit)")
RATIO: Final = (
    *("ratio (candidate / baseline)", "ratio, low", "ratio, high", "confidence", "finding"),
    *("n baseline (requests)", "n candidate (requests)", "method", "refusal", "warnings"),
)
GATED: Final = (
    *("gate", "arm", "verdict", "metric", "quantile", "unit", "baseline (in unit)"),
    *("candidate (in unit)", "ratio (candidate / baseline)", "difference (share)"),
    *("change, low", "change, high", "margin (share)", "limit (in unit)"),
    *("runs baseline", "runs candidate"),
    *("n baseline (requests)", "n candidate (requests)", "why not decided", "method"),
)


def judgement_book(
    results: GateResults, file: BinaryIO, *, command: str | None, most: int = ROWS
) -> None:
    """Repeated runs: verdict, gates, and all their runs. Writes to an open binary file."""
    names = gate_sentences.shown_names([arm.name for arm in results.arms])
    sides = {names[arm.name]: arm.runs for arm in results.arms}
    book, lines = opened(file), []
    for arm in results.candidates:
        verdict, reason = (
            gate_sentences.standing(results, arm),
            gate_sentences.why(results, arm, names),
        )
        lines.append(f"{names[arm.name]}: {verdict.value}. {reason}")
    _verdict(book, results.verdict.value, lines, results.warnings, command)
    note = (
        "A change is a ratio, for shares their difference; low and high are the ends of its 90% interval, "
        "each the one-sided 95% bound (with a limit, of the candidate's own figure), empty where there is "
        "none. Quantiles are geometric means over runs."
    )
    rows, bars = [], []
    for row in results.rows:
        rows.append(_gate(row, names[row.arm]))
        # The chart has an axis of ratios: points of a share, and levels, have no place on it.
        word = row.comparison.verdict.value if row.gate.scale == "ratio" else None
        bars.append((row.comparison, word))
    sheet, _ = table(book, "Gates", note, GATED, rows)
    _ratio_chart(book, sheet, GATED.index("ratio (candidate / baseline)"), bars, level=90)
    gated = [row.gate.metric for row in results.rows if row.gate.quantile is not None]
    _rest(book, sides, list(dict.fromkeys([*USUAL, *gated])), most)


def _gate(row: GateRow, arm: str) -> list[Shown]:
    """The cells of GATED."""
    judged, gate = row.comparison, row.gate
    unit = judged.unit
    change = {"ratio": "ratio", "points": "share", "level": unit}[gate.scale]
    return [
        *(gate_sentences.gate_label(gate), arm, judged.verdict.value, judged.metric, gate.quantile),
        *(UNITS.get(unit, unit), Figure(judged.baseline, unit), Figure(judged.candidate, unit)),
        *(judged.ratio if gate.scale == scale else None for scale in ("ratio", "points")),
        *(Figure(judged.low, change), Figure(judged.high, change)),
        *(None if gate.scale == "level" else gate.margin, Figure(gate.limit, unit)),
        *(*judged.runs, judged.n_baseline, judged.n_candidate),
        *(gate_sentences.reason(row) or None, judged.method),
    ]


def comparison_book(
    comparison: Comparisons, file: BinaryIO, *, command: str | None, most: int = ROWS
) -> None:
    """One pair of runs: what was seen, every quantile, and both runs."""
    sides: Sides = {"baseline": (comparison.baseline,), "candidate": (comparison.candidate,)}
    book = opened(file)
    lines = [sentences.seen(comparison), sentences.PAIR]
    _verdict(book, comparison.verdict.value, lines, comparison.warnings, command)
    rows: list[list[Shown]] = []
    for row in comparison.rows:
        values = Figure(row.baseline, row.unit), Figure(row.candidate, row.unit)
        rows.append([*_what(row), UNITS.get(row.unit, row.unit), *values, *_ratio(row)])
    note = "Candidate / baseline, by quantile; low and high are the ends of the interval, empty is unbounded."
    sheet, _ = table(book, "Comparison", note, (*ROW, *VALUES, *RATIO), rows)
    bars = [(row, row.finding) for row in comparison.rows]
    _ratio_chart(book, sheet, len(ROW) + len(VALUES), bars, level=95)
    if equal := comparison.equal_lengths:
        rows = [[*_what(row), *_ratio(row)] for row in equal.rows]
        table(book, "Equal lengths", sentences.equal_lengths(equal), (*ROW, *RATIO), rows)
    _rest(book, sides, list(dict.fromkeys([*USUAL, *comparison.values])), most)


def _what(row: Comparison) -> list[Shown]:
    """The cells of ROW."""
    return [sentences.row_name(row), row.metric, row.quantile]


def _ratio(row: Comparison) -> list[Shown]:
    """The cells of RATIO."""
    return [
        *(row.ratio, row.low, row.high, row.confidence, row.finding),
        *(row.n_baseline, row.n_candidate, row.method, row.refusal),
        " ".join(caution.code for caution in row.warnings) or None,
    ]


METRIC: Final = (
    *("metric", "unit", "quantile", "value (in unit)", "low", "high"),
    *("n (values)", "timed out", "beyond (in unit)", "few values"),
)


def run_book(arm: Arm, file: BinaryIO, *, command: str | None, most: int = ROWS) -> None:
    """A single run, or a trace: each metric with its quantiles and their intervals."""
    sides: Sides = {arm.kind: (arm,)}
    metrics, book = summaries(arm), opened(file)
    verdict = f"INVALID: {arm.invalid_because}" if arm.invalid_because else f"one {arm.kind}"
    good, n = int((arm.ok & arm.measured).sum()), int(arm.measured.sum())
    lines = [f"{good:,} of {plural(n, 'request')} succeeded."]
    lines += [arm.buffered] if arm.buffered else []
    _verdict(book, verdict, lines, (), command)
    rows: list[list[Shown]] = []
    for metric in metrics:
        unit, counts = metric.unit, (metric.n, metric.timeouts)
        for point in metric.quantiles:
            figures = (Figure(value, unit) for value in (point.value, point.low, point.high))
            beyond = Figure(point.at_least, unit)
            name = (metric.metric, UNITS.get(unit, unit), point.p)
            rows.append([*name, *figures, *counts, beyond, point.refusal])
    note = "The intervals (nominal 95%) treat requests as independent; they describe this run."
    table(book, "Metrics", note, METRIC, rows)
    _rest(book, sides, [metric.metric for metric in metrics], most)


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
    rows += [(caution.code, caution.text) for caution in warnings]
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
    above = [row.high - row.ratio if row and row.ratio and row.high else 0.0 for row in known]
    below = [row.ratio - row.low if row and row.ratio and row.low else 0.0 for row in known]
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
