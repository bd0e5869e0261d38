"""Sheets: the parts of a workbook that every report has. Numbers are numbers; units stand in the headers.

Latencies are milliseconds, places in time seconds, as exact as they are and shown with the digits that
anybody reads. An empty cell is "there is none". A text is never taken for a formula.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, BinaryIO, Final

import numpy as np
import xlsxwriter
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from tbench.analysis import words
from tbench.analysis.metrics import METRICS, values
from tbench.analysis.proportions import rates
from tbench.analysis.report import facts
from tbench.analysis.report.facts import Place, Sides, places
from tbench.analysis.summary import ordered, quantile, refusal
from tbench.capture.terminal import plural
from tbench.replay import measures

ROWS: Final = 1_048_576
"""Rows of an Excel sheet."""
LONGEST: Final = 32_000
"""Characters of a cell; Excel takes 32,767."""
POINTS: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
LINE_PT: Final = 16
"""The height of a line of text."""
LINES: Final = 12
"""So many lines of a cell are shown at most."""
SCREEN: Final = 130
"""Characters that a screen is wide."""
SECOND_ROW: Final = 2
"""Where a table's first row of data is, counted from 0: below its note and its header."""

RATIO: Final = '[<0.9]0.00"x";[<1.1]0.000"x";#,##0.00"x"'
"""A ratio as pages show it, nearer to 1 with a digit more."""
FORMATS: Final = {
    **dict.fromkeys(("(ms)", "/s)", "(in unit)"), "#,##0.0"),
    **dict.fromkeys(("(requests)", "(values)", "(tokens)", "(successes)"), "#,##0"),
    "(s)": "#,##0.000",
    "(share)": "0.00%",
    "ratio": RATIO,
    "baseline)": RATIO,
    **dict.fromkeys(("ratio, low", "ratio, high"), RATIO),
}
"""How a heading ends -> Excel's number format of its column."""
UNITS: Final = {"s": "ms"}
"""What figures in these units are written in."""
TONES: Final = {
    **dict.fromkeys(("PASS", "faster"), "#14713f"),
    **dict.fromkeys(("FAIL", "INVALID", "slower"), "#b3261e"),
    "INCONCLUSIVE": "#7d5800",
    "ADVISORY": "#1f5fa8",
}
"""Words of a verdict or a finding in the colours that they have on a page."""
WIDE: Final = {
    **dict.fromkeys(("method", "refusal", "warnings", "why not decided", "error"), 32),
    **dict.fromkeys(("request id", "server's request id", "few values"), 36),
    "metric": 20,
}
"""How wide columns of sentences and of names are, characters."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A value in its row's unit: seconds are written as milliseconds, shares shown in per cent."""

    value: float | None
    unit: str

    @property
    def cell(self) -> float | None:
        return self.value * 1e3 if self.value is not None and self.unit == "s" else self.value

    @property
    def format(self) -> str:
        return {"share": "0.00%", "ratio": RATIO}.get(self.unit, "#,##0.0")


Cell = str | float | int | bool | None
Shown = Cell | Figure


@dataclass(frozen=True, kw_only=True)
class Book:
    """An open workbook with the formats that its sheets share."""

    file: xlsxwriter.Workbook
    bold: Format
    quiet: Format
    big: Format
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
        big=workbook.add_format({"bold": True, "font_size": 20}),
    )


def table(
    book: Book,
    title: str,
    note: str,
    head: Sequence[str] | Mapping[str, float],
    rows: Iterable[Sequence[Shown]],
) -> tuple[Worksheet, int]:
    """A sheet with a note, a header that stays in view and can be filtered by, and rows; and their number.

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
    formats = (
        next((known for end, known in FORMATS.items() if name.endswith(end)), "General")
        for name in head
    )
    styles = [book.style(text_wrap=True, num_format=number) for number in formats]
    n = 0
    for n, row in enumerate(rows, 1):
        tall(sheet, n + 1, row, widths)
        for column, (cell, style) in enumerate(zip(row, styles, strict=True)):
            if isinstance(cell, Figure):
                write(sheet, n + 1, column, cell.cell, book.style(num_format=cell.format))
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
    return sheet, n


def on_paper(sheet: Worksheet) -> None:
    """Printed, all columns are on one page."""
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)


def tall(sheet: Worksheet, row: int, cells: Sequence[Shown], widths: Sequence[float]) -> None:
    """A row that shows all of its texts: a program need not fit it to what wraps."""
    texts = zip(cells, widths, strict=True)
    lines = [math.ceil(len(cell) / width) for cell, width in texts if isinstance(cell, str)]
    if max(lines, default=1) > 1:
        sheet.set_row(row, LINE_PT * min(max(lines), LINES))


def write(sheet: Worksheet, row: int, column: int, cell: Cell, style: Format | None = None) -> None:
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


def throughput_sheet(book: Book, sides: Sides) -> None:
    """What each run did per second."""
    runs = [(place, rates(place.arm)) for place in places(sides)]
    head = ["run", "arm", *(f"{rate.name} ({rate.unit})" for rate in runs[0][1])]
    head += [f"without {rate.title} (successes)" for rate in runs[0][1][1:]]
    rows = []
    for place, every in runs:
        uncounted = [rate.uncounted for rate in every[1:]]
        rows.append([place.name, place.side, *(rate.value for rate in every), *uncounted])
    note = (
        "Successes per second, from the first sent to the last end, without the warm-up. Tokens are lower "
        "bounds where successes name none: so many in the last columns."
    )
    table(book, "Throughput", note, head, rows)


def quantile_sheet(book: Book, sides: Sides, metrics: Sequence[str]) -> None:
    """Every run's quantiles of every metric, and a chart of the medians of the first."""
    head = ["run", "arm", "began, of all", "metric", "unit", "n (values)", "timed out", "mean"]
    head += [*map(words.percentile, POINTS), "max", "few values"]
    order = places(sides)
    rows = (_quantiles(place, metric) for metric in metrics for place in order)
    note = (
        "One row for each run and metric, without the warm-up. Quantiles are in the row's unit; those that "
        "there are too few values for to have an interval are named in the last column."
    )
    sheet, n = table(book, "Quantiles per run", note, head, rows)
    if not n:
        return
    last = SECOND_ROW + len(order) - 1
    chart = book.file.add_chart({"type": "line"})
    for column, name in ((8, "p50"), (10, "p95")):
        chart.add_series(
            {
                "name": name,
                "categories": ["Quantiles per run", SECOND_ROW, 0, last, 0],
                "values": ["Quantiles per run", SECOND_ROW, column, last, column],
                "marker": {"type": "circle"},
                "line": {"none": True},
            }
        )
    first = METRICS[metrics[0]]
    chart.set_title({"name": f"{words.title(first.name)} of each run, in order"})
    chart.set_y_axis({"name": UNITS.get(first.unit, first.unit)})
    sheet.insert_chart(SECOND_ROW, len(head) + 1, chart)


def _quantiles(place: Place, metric: str) -> list[Shown]:
    row = METRICS[metric]
    every = ordered(values(place.arm, row)[place.arm.measured])
    n, finite = len(every), every[np.isfinite(every)]
    refused = [p for p in POINTS if refusal(n, p)]
    known = [quantile(every, p) if n else None for p in POINTS]
    mean, most = (float(finite.mean()), float(finite[-1])) if len(finite) else (None, None)
    shown: list[Shown] = [
        "timed out" if value is not None and math.isinf(value) else Figure(value, row.unit)
        for value in (mean, *known, most)
    ]
    return [
        *(place.name, place.side, place.order, metric, UNITS.get(row.unit, row.unit)),
        *(n, n - len(finite)),
        *shown,
        " ".join(map(words.percentile, refused)) or None,
    ]


SAMPLES: Final = (
    *("run", "arm", "request id", "round", "in plan", "warm-up", "due (s)", "sent (s)", "lag (ms)"),
    *("TTFT (ms)", "end to end (ms)", "TPOT (ms)", "prompt (tokens)", "output (tokens)"),
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
    rows = (
        row for place, count in zip(order, taken, strict=True) for row in _samples(place, count)
    )
    table(book, "Samples", note, SAMPLES, rows)


def shares(sizes: Sequence[int], room: int) -> list[int]:
    """How many rows each run gets: all it has, or an equal share of the room."""
    left, shares = room, [0] * len(sizes)
    for done, which in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[which] = min(sizes[which], left // (len(sizes) - done))
        left -= shares[which]
    return shares


def _samples(place: Place, count: int) -> Iterator[list[Cell]]:
    """The cells of SAMPLES but the first two, column by column; no count and an empty text are None."""
    columns, first = place.arm.columns, slice(count)
    names = ("id", "cycle", "index", "warmup", "due", "sent")
    parts: list[list[Any]] = [np.asarray(columns[name][first]).tolist() for name in names]
    latencies = (measures.lag, measures.ttft, measures.e2e, measures.tpot)
    parts += [(latency(columns)[first] * 1e3).tolist() for latency in latencies]
    for name in ("prompt_tokens", "output_tokens", "cached_tokens", "status"):
        counts = columns[name][first].tolist()
        parts.append([None if value < 0 else value for value in counts])
    texts = ("outcome", "finish_reason", "request_id", "error")
    parts += [columns[name][first].tolist() for name in texts]
    for row in zip(*parts, strict=True):
        yield [place.name, place.side, *(cell if cell != "" else None for cell in row)]


def error_sheet(book: Book, sides: Sides) -> None:
    """Each run's failures by kind."""
    order = places(sides)
    counts = {place.name: facts.kinds(place.arm) for place in order}
    names = sorted({kind for kinds in counts.values() for kind in kinds})
    head = ["run", "arm", "measured (requests)", "failed (requests)", "failed (share)"]
    head += [f"{name} (requests)" for name in names]
    rows: list[list[Cell]] = []
    for place in order:
        arm = place.arm
        failed = int((arm.failed & arm.measured).sum())
        sizes = int(arm.measured.sum()), failed, facts.failed_share(arm)
        of_kind = (counts[place.name].get(name, 0) for name in names)
        rows.append([place.name, place.side, *sizes, *of_kind])
    note = "Requests that did not succeed, by kind; without the warm-up."
    sheet, n = table(book, "Errors", note, head, rows)
    if not names:
        return
    chart = book.file.add_chart({"type": "bar", "subtype": "stacked"})
    last = SECOND_ROW + n - 1
    for column, name in enumerate(names, len(head) - len(names)):
        chart.add_series(
            {
                "name": name,
                "categories": ["Errors", SECOND_ROW, 0, last, 0],
                "values": ["Errors", SECOND_ROW, column, last, column],
            }
        )
    chart.set_title({"name": "Requests that did not succeed"})
    chart.set_y_axis({"reverse": True})
    sheet.insert_chart(SECOND_ROW, len(head) + 1, chart)


def environment_sheet(book: Book, sides: Sides) -> None:
    """How each arm's runs were made."""
    rows: list[list[Cell]] = []
    for place in places(sides):
        paths = (str(place.arm.path) if side == place.side else None for side in sides)
        rows.append(["files", place.name, *paths])
    rows += [[title, key, *cells] for title, key, cells in facts.facts(sides)]
    note = "What the files say of how they were made; where an arm's runs differ, each value."
    table(book, "Environment", note, {"part": 20, "fact": 24} | dict.fromkeys(sides, 44), rows)
