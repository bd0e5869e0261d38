"""Workbook: a report as an Excel file, for who computes on. The verdict first, then everything as numbers.

The tables are those of text and page (analysis.report.tables). Latencies are milliseconds, as exact as they
are and shown with the digits that anybody reads; an interval has a column for each end. An empty cell is
"there is none". A text is never taken for a formula.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, BinaryIO, Final

import numpy as np
import xlsxwriter
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Comparison, Comparisons
from tbench.analysis.gate_results import GateResults
from tbench.analysis.report import facts, gate_sentences, sentences, tables
from tbench.analysis.report.facts import Place, Sides, places
from tbench.analysis.report.machine import summaries
from tbench.analysis.run_metrics import Slo
from tbench.analysis.summary import Caution
from tbench.analysis.words import Cell, Table
from tbench.capture.terminal import plural
from tbench.replay import metrics

ROWS: Final = 1_048_576
"""Rows of an Excel sheet."""
LONGEST: Final = 32_000
"""Characters of a cell; Excel takes 32,767."""
LINE_PT: Final = 16
"""The height of a line of text."""
LINES: Final = 12
"""So many lines of a cell are shown at most."""
SCREEN: Final = 130
"""Characters that a screen is wide."""
SECOND_ROW: Final = 2
"""Where a table's first row of data is, counted from 0: below its note and its header."""
USUAL: Final = ("ttft", "e2e", "tpot", "itl", "output_tokens_per_s", "output_tokens", "lag")
"""Metrics whose quantiles a workbook of several runs has."""
VERDICT: Final = (28, 100)
"""The widths of the first sheet's columns, characters."""
QUIET: Final = "#9aa3ad"
"""Of a bar of which nothing is said."""

FORMATS: Final = {
    "s": '#,##0.0" ms"',
    "share": "0.00%",
    # A ratio as pages show it, nearer to 1 with a digit more.
    "ratio": '[<0.9]0.00"x";[<1.1]0.000"x";#,##0.00"x"',
    "n": "#,##0",
    "tok": "#,##0",
    **dict.fromkeys(("/s", "tok/s"), "#,##0.0"),
}
"""Unit -> Excel's number format."""
BARE: Final = {"(ms)": "#,##0.0", "(s)": "#,##0.000", "(tokens)": "#,##0"}
"""How the heading of a column of bare numbers ends -> their format."""
TONES: Final = {
    **dict.fromkeys(("PASS", "faster"), "#14713f"),
    **dict.fromkeys(("FAIL", "INVALID", "slower"), "#b3261e"),
    "INCONCLUSIVE": "#7d5800",
    "ADVISORY": "#1f5fa8",
}
"""Words of a verdict or a finding in the colours that they have on a page."""
WIDE: Final = {
    **dict.fromkeys(("method", "warnings", "reason", "error"), 32),
    **dict.fromkeys(("request id", "server's request id"), 36),
    **dict.fromkeys(("metric", "result"), 20),
}
"""How wide columns of sentences and of names are, characters."""

Value = str | float | int | bool | None


@dataclass(frozen=True, kw_only=True)
class Book:
    """An open workbook with the formats that its sheets share."""

    file: xlsxwriter.Workbook
    bold: Format
    quiet: Format
    _styles: dict[tuple[tuple[str, str | float], ...], Format] = field(default_factory=dict)

    def style(self, **properties: str | float) -> Format:
        """A cell at the top of its row with these properties; each is made once."""
        key = tuple(properties.items())
        if key not in self._styles:
            self._styles[key] = self.file.add_format({"valign": "top", **properties})
        return self._styles[key]

    def close(self) -> None:
        """Write it. Raises OSError where that cannot be."""
        try:
            self.file.close()
        except FileCreateError as error:
            raise error.args[0] from None


def opened(file: BinaryIO) -> Book:
    """A workbook that is written to an open binary file when it is closed, a row in memory at a time."""
    workbook = xlsxwriter.Workbook(
        file,
        {
            "constant_memory": True,
            "strings_to_formulas": False,
            "strings_to_numbers": False,
            "strings_to_urls": False,
            "nan_inf_to_errors": False,
        },
    )
    return Book(
        file=workbook,
        bold=workbook.add_format({"bold": True, "text_wrap": True, "valign": "top", "bottom": 1}),
        quiet=workbook.add_format(
            {"italic": True, "font_color": "#565d66", "text_wrap": True, "valign": "top"}
        ),
    )


def table(book: Book, title: str, made: Table) -> Worksheet:
    """A table as a sheet; an interval takes a column for each of its ends."""
    heads, parts = [], []
    for place, (head, *cells) in enumerate(zip(made.heads, *made.rows, strict=True)):
        if not any(isinstance(cell, Cell) and cell.ends for cell in cells):
            heads.append(head)
            parts.append((place, "value"))
        ends = [cell.below or cell for cell in cells if isinstance(cell, Cell)]
        if any(cell.ends for cell in ends):
            heads += [f"{head}, low", f"{head}, high"]
            parts += [(place, "low"), (place, "high")]
    rows = ([_part(row[place], part) for place, part in parts] for row in made.rows)
    return sheet(book, title, made.caption, heads, rows)


def _part(cell: Cell, part: str) -> Cell | Value:
    """What of a cell a column holds: the cell itself, or an end of its interval."""
    if part == "value":
        if cell.value is not None:
            return cell
        return None if cell.text in ("", "-") else cell.text
    interval = cell if cell.ends else cell.below
    if interval is None or interval.ends is None:
        return None
    return Cell(text="", value=interval.ends[part == "high"], unit=interval.unit)


def sheet(
    book: Book,
    title: str,
    note: str,
    head: Sequence[str] | Mapping[str, float],
    rows: Iterable[Sequence[Cell | Value]],
) -> Worksheet:
    """A sheet with a note, a header that stays in view and can be filtered by, and rows.

    `head` names the columns, or maps each to its least width in characters.
    """
    least = head if isinstance(head, Mapping) else WIDE
    sheet = book.file.add_worksheet(title)
    widths = [max(least.get(name, 9), min(14, len(name) * 0.9 + 2)) for name in head]
    for column, width in enumerate(widths):
        sheet.set_column(column, column, width)
    # The note goes over as many columns as fit on a screen, and as many lines as it takes.
    columns = sum(end <= SCREEN for end in accumulate(widths))
    tall(sheet, 0, [note], [sum(widths[:columns])])
    if columns > 1:
        sheet.merge_range(0, 0, 0, columns - 1, "", book.quiet)
    write(sheet, 0, 0, note, book.quiet)
    tall(sheet, 1, list(head), widths)
    for column, name in enumerate(head):
        write(sheet, 1, column, name, book.bold)
    formats = [
        next((known for end, known in BARE.items() if name.endswith(end)), "General")
        for name in head
    ]
    styles = [book.style(text_wrap=True, num_format=number) for number in formats]
    n = 0
    for n, row in enumerate(rows, 1):
        tall(sheet, n + 1, row, widths)
        for column, (cell, style) in enumerate(zip(row, styles, strict=True)):
            if isinstance(cell, Cell):
                before, after = (f'"{mark}"' if mark else "" for mark in cell.marks)
                number = FORMATS.get(cell.unit, "General")
                if cell.unit != "ratio":  # its format has sections, and no marks
                    number = f"{before}{number}{after}"
                value = cell.value
                value = value * 1e3 if value is not None and cell.unit == "s" else value
                write(sheet, n + 1, column, value, book.style(num_format=number))
            elif isinstance(cell, str) and cell in TONES:
                toned = book.style(bold=True, font_color=TONES[cell])
                write(sheet, n + 1, column, cell, toned)
            else:
                write(sheet, n + 1, column, cell, style)
    sheet.freeze_panes(SECOND_ROW, 1)
    sheet.repeat_rows(1)
    on_paper(sheet)
    if n:
        sheet.autofilter(1, 0, n + 1, len(head) - 1)
    return sheet


def on_paper(sheet: Worksheet) -> None:
    """Printed, all columns are on one page."""
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)


def tall(sheet: Worksheet, row: int, cells: Sequence[object], widths: Sequence[float]) -> None:
    """A row that shows all of its texts: a program need not fit it to what wraps."""
    texts = zip(cells, widths, strict=True)
    lines = [math.ceil(len(cell) / width) for cell, width in texts if isinstance(cell, str)]
    if max(lines, default=1) > 1:
        sheet.set_row(row, LINE_PT * min(max(lines), LINES))


def write(
    sheet: Worksheet, row: int, column: int, cell: Value, style: Format | None = None
) -> None:
    """One cell: a number as a number, a text as text, nothing for None and NaN."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return
    if isinstance(cell, bool):
        sheet.write_boolean(row, column, cell, style)
    elif isinstance(cell, (int, float)):
        sheet.write_number(row, column, cell, style)
    else:
        text = cell.encode("utf-8", "replace").decode()
        text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
        sheet.write_string(row, column, text, style)


# The documents.


def judgement_book(
    results: GateResults, file: BinaryIO, *, command: str | None, most: int = ROWS
) -> None:
    """Repeated runs: verdict, gates, and all their runs. Writes to an open binary file."""
    names = gate_sentences.shown_names([arm.name for arm in results.arms])
    sides = dict(zip((names[arm.name] for arm in results.arms), results.compared, strict=True))
    book, lines = opened(file), []
    for arm in results.candidates:
        verdict = results.verdict_of(arm.name)
        lines.append(
            f"{names[arm.name]}: {verdict.value}. {gate_sentences.why(results, arm, names)}"
        )
    _verdict(book, results.verdict.value, lines, results.warnings, command)
    gates = tables.gate_table(results, names)
    heads = ("gate", "arm", *tables.GATED[1:], "n", "reason", "method")
    # The chart has an axis of ratios: points of a share, and levels, have no place on it.
    bars = [
        (row.comparison, row.comparison.verdict.value if row.gate.scale == "ratio" else None)
        for row in results.rows
    ]
    shown = table(book, "Gates", replace(gates.only(*heads), caption=tables.GATES.format("")))
    _ratio_chart(book, shown, heads.index("change"), bars, level=90)
    gated = [row.gate.metric for row in results.rows if row.gate.quantile is not None]
    _rest(book, sides, list(dict.fromkeys([*USUAL, *gated])), most)


def comparison_book(
    comparison: Comparisons, file: BinaryIO, *, command: str | None, most: int = ROWS
) -> None:
    """One pair of runs: what was seen, every quantile, and both runs."""
    sides: Sides = {"baseline": (comparison.baseline,), "candidate": (comparison.candidate,)}
    book = opened(file)
    lines = [sentences.seen(comparison), sentences.PAIR]
    _verdict(book, comparison.verdict.value, lines, comparison.warnings, command)
    made = tables.comparison_table(comparison)
    shown = table(book, "Comparison", made)
    bars = [(row, row.finding) for row in comparison.rows]
    _ratio_chart(book, shown, made.heads.index("ratio"), bars, level=95, labels=1)
    if (equal := tables.equal_lengths_table(comparison)) and equal.rows:
        table(book, "Equal lengths", equal)
    _rest(book, sides, list(dict.fromkeys([*USUAL, *comparison.values])), most)


def run_book(
    arm: Arm, file: BinaryIO, *, command: str | None, slo: Slo = (), most: int = ROWS
) -> None:
    """A single run, or a trace: each metric with its quantiles and their intervals."""
    book = opened(file)
    verdict = f"INVALID: {arm.invalid_because}" if arm.invalid_because else f"one {arm.kind}"
    lines = [f"{sentences.fate(arm)}."]
    _verdict(book, verdict, [*lines, *sentences.flaws(arm)], (), command)
    _rest(book, {arm.kind: (arm,)}, None, most, slo)


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
    labels: int = 0,
) -> None:
    """Below a table: bars of its ratios, in the colour of what they say, with their intervals.

    `bars` are the table's first rows, each with its verdict or finding; one without has an empty place.
    The columns up to `labels` name them.
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
            "categories": [sheet.name, first, 0, last, labels],
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
    sheet.insert_chart(sheet.dim_rowmax + 3, 0, chart)


def _rest(
    book: Book, sides: Sides, metrics: Sequence[str] | None, most: int, slo: Slo = ()
) -> None:
    """The sheets that every report has; then the file is written."""
    runs = {place.name: summaries(place.arm, metrics) for place in places(sides)}
    table(book, "Throughput", tables.throughput_table(sides, slo))
    table(book, "Quantiles", tables.summary_table(runs))
    table(book, "Errors", tables.outcome_table(sides))
    environment_sheet(book, sides)
    sample_sheet(book, sides, most=most)
    book.close()


SAMPLES: Final = (
    *("run", "arm", "request id", "round", "in plan", "warm-up", "counts", "due (s)", "sent (s)"),
    *(
        "lag (ms)",
        "TTFT (ms)",
        "end to end (ms)",
        "TPOT (ms)",
        "prompt (tokens)",
        "output (tokens)",
    ),
    *("cached (tokens)", "HTTP status", "outcome", "finish reason", "server's request id", "error"),
)


def sample_sheet(book: Book, sides: Sides, *, most: int = ROWS) -> None:
    """Every sample of every run as far as a sheet of `most` rows goes; what is left out is said."""
    order = places(sides)
    room = most - SECOND_ROW
    taken = shares([len(place.arm) for place in order], room)
    n, written = sum(len(place.arm) for place in order), sum(taken)
    note = f"All {plural(n, 'sample')}, in the order of each run's plan."
    if written < n:
        note = (
            f"The first samples of each run, {written:,} of {n:,}: {n - written:,} are LEFT OUT, since a "
            f"sheet has {most:,} rows. All are in the run files (tbench report RUN --json --samples)."
        )
    note += " Quantiles and failures are of those that count."
    rows = (
        row for place, count in zip(order, taken, strict=True) for row in _samples(place, count)
    )
    sheet(book, "Samples", note, SAMPLES, rows)


def shares(sizes: Sequence[int], room: int) -> list[int]:
    """How many rows each run gets: all it has, or an equal share of the room."""
    left, shares = room, [0] * len(sizes)
    for done, which in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[which] = min(sizes[which], left // (len(sizes) - done))
        left -= shares[which]
    return shares


def _samples(place: Place, count: int) -> Iterator[list[Value]]:
    """The cells of SAMPLES but the first two, column by column; no count and an empty text are None."""
    columns, first = place.arm.columns, slice(count)
    names = ("id", "cycle", "index", "warmup")
    parts: list[list[Any]] = [np.asarray(columns[name][first]).tolist() for name in names]
    # A run's own mark is not all that a comparison leaves out.
    parts.append(place.arm.measured[first].tolist())
    parts += [columns[name][first].tolist() for name in ("due", "sent")]
    latencies = (metrics.lag, metrics.ttft, metrics.e2e, metrics.tpot)
    parts += [(latency(columns)[first] * 1e3).tolist() for latency in latencies]
    for name in ("prompt_tokens", "output_tokens", "cached_tokens", "status"):
        counts = columns[name][first].tolist()
        parts.append([None if value < 0 else value for value in counts])
    texts = ("outcome", "finish_reason", "request_id", "error")
    parts += [columns[name][first].tolist() for name in texts]
    for row in zip(*parts, strict=True):
        yield [place.name, place.side, *(cell if cell != "" else None for cell in row)]


def environment_sheet(book: Book, sides: Sides) -> None:
    """How each arm's runs were made."""
    rows: list[list[Value]] = []
    for place in places(sides):
        paths = (str(place.arm.path) if side == place.side else None for side in sides)
        rows.append(["files", place.name, *paths])
    rows += [[title, key, *cells] for title, key, cells in facts.facts(sides)]
    note = "What the files say of how they were made; where an arm's runs differ, each value."
    sheet(book, "Environment", note, {"part": 20, "fact": 24} | dict.fromkeys(sides, 44), rows)
