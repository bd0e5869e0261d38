"""Benchmark book: an experiment as an Excel file, with genai-bench's five sheets and charts of Excel's own.

Headers are genai-bench's, in the first row, with the unit where theirs have none; what is ours stands to the
right of them. An empty cell is "there is none".
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from xlsxwriter.worksheet import Worksheet

from tbench.analysis.report.workbook import LINE_PT, ROWS, Book, on_paper, opened, tall, write
from tbench.analysis.report.workbook import Value as Cell
from tbench.benchmark import workbook_columns as columns
from tbench.benchmark.folder import BenchmarkFolder, Result
from tbench.benchmark.workbook_columns import (
    SENTENCE,
    SPEED,
    THROUGHPUT,
    Heading,
    Rule,
    lay,
    pick,
    rule_of,
    steps,
)
from tbench.capture.providers import masked
from tbench.capture.redact import hides
from tbench.capture.writing import whole_file
from tbench.replay.provenance import WITHHELD, without_credentials

APPENDIX: Final = "Appendix"
INDIVIDUAL: Final = "Individual Request Metrics"
VALUE: Final = 100
"""Characters across that the value of a field has."""
TALLEST_PT: Final = 409
"""The tallest row that Excel has."""
ON_ONE_PAGE: Final = 30
"""With so many lines the summary and its charts are one page, and can be read."""
CHARTS_BELOW: Final = 2
"""Rows between the last line of the summary and its charts."""
WIDTH, HEIGHT, ACROSS = 620, 340, 2
"""Pixels of a chart, and how many stand beside each other."""
AXIS: Final = "axis value"
"""The key of the column that has the points' values."""
PICTURES: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    SPEED.name: [
        *(("e2e", "output"), (AXIS, "ttft"), (AXIS, "e2e"), (AXIS, "speed")),
        *((AXIS, "output"), (AXIS, "errors")),
    ],
    THROUGHPUT.name: [("e2e", "total"), (AXIS, "e2e"), (AXIS, "rps"), (AXIS, "errors")],
}
"""What is drawn of a task: the columns across and up."""


def write_workbook(
    experiment: BenchmarkFolder, path: Path, percentile: str = "mean"
) -> tuple[str, ...]:
    """Write the workbook, for its owner only, as a whole or not at all; returns what its reader must know.

    `percentile` (`mean`, `p25` ... `p99`) is that of latencies and speed in Summary and Appendix. Raises
    InputError where it cannot be written.
    """
    with whole_file(path) as file:
        return benchmark_book(experiment, file, percentile)


def benchmark_book(
    experiment: BenchmarkFolder, file: BinaryIO, percentile: str, most: int = ROWS
) -> tuple[str, ...]:
    """Write it to an open binary file; a sheet has `most` rows. Returns the notes, which are in it too.

    Raises OSError where the file cannot be written.
    """
    book, rule = opened(file), rule_of(experiment.task)
    room, sizes = most - 1, [point.ended for point in experiment.points]
    # Each point gets the same part of the sheet: filled in order, the last points would have no row at all.
    share = max(sizes, default=0) if sum(sizes) <= room else room // len(sizes)
    notes = [*experiment.notes, *_flawed(experiment.points)]
    if missing := sum(max(0, size - share) for size in sizes):
        notes.append(
            f"{INDIVIDUAL}: {missing:,} of {sum(sizes):,} requests are LEFT OUT, since a sheet has no more "
            f"rows: the first {share:,} of each point are there; all are in the JSON files"
        )
    _summary(book, experiment, rule, percentile, notes)
    _appendix(book, experiment, rule, percentile)
    _metadata(book, experiment, percentile)
    lay(book, "Aggregated Metrics for Each Run", *columns.aggregated(experiment), 2)
    # A generator: the requests of one point are in memory at a time.
    requests = (
        [point.scenario, point.value, *(request.get(name) for name in columns.REQUEST)]
        for point in experiment.points
        for request in islice(point.requests(), share)
    )
    lay(book, INDIVIDUAL, columns.requests(experiment), requests, 2)
    book.close()
    return tuple(notes)


def _summary(
    book: Book, experiment: BenchmarkFolder, rule: Rule, percentile: str, notes: Sequence[str]
) -> None:
    """A line for each scenario with the point that is picked, notes, and the charts."""
    target = "throughput" if rule is THROUGHPUT else "speed"
    at = columns.axis_title(experiment)
    head = [
        *columns.FIRST,
        Heading(title=f"{at} at target {target} (>{rule.over:g} tokens/s)"),
        Heading(title="Total Throughput (tokens/min)", format=columns.MANY),
        Heading(title="Error Rate at It", format=columns.SHARE),
        Heading(title="Why", width=SENTENCE),
    ]
    rows: list[list[Any]] = []
    for scenario, axis, points in experiment.series():
        choice = pick(steps(points, rule, percentile), rule)
        cells: list[Any] = ["N/A", "N/A", None, choice.why]
        if step := choice.step:
            why = choice.why if step.valid else f"INVALID (see below); {choice.why}"
            per_minute = None if step.tokens_per_s is None else step.tokens_per_s * 60
            cells = [step.value, per_minute, step.error_rate, why]
        name = columns.use_case(columns.series_name(experiment, scenario, axis))
        rows.append([columns.gpus(experiment.metadata), name, *cells])
    grid = lay(book, "Summary", head, rows, 2)
    level = "the mean" if percentile == "mean" else f"the {percentile} over a point's requests"
    lines = (
        f"Of latencies and speed per request: {level}. Latencies in {experiment.unit}.",
        *notes,
    )
    for place, line in enumerate(lines, grid.rows + 2):
        tall(grid.sheet, place, [line], [sum(grid.widths)])
        grid.sheet.merge_range(place, 0, place, len(head) - 1, "", book.quiet)
        write(grid.sheet, place, 0, line, book.quiet)
    grid.sheet.fit_to_pages(1, 1 if grid.rows + len(lines) <= ON_ONE_PAGE else 0)
    if experiment.points:
        below = grid.rows + 2 + len(lines) + CHARTS_BELOW
        _draw(book, grid.sheet, below, experiment, rule, percentile)


def _draw(
    book: Book, sheet: Worksheet, row: int, experiment: BenchmarkFolder, rule: Rule, percentile: str
) -> None:
    """Excel's own charts below `row`, two beside each other, over the rows of the appendix.

    Those follow each other scenario by scenario: each is a line.
    """
    shown = columns.appendix(experiment, rule, percentile)
    places = {AXIS: 2, **{column.key: place for place, column in enumerate(shown, 3)}}
    titles = {AXIS: columns.axis_title(experiment)}
    for column in shown:
        per_request = column.key in {"ttft", "e2e", "speed"}
        titles[column.key] = f"{percentile} " * per_request + column.heading.title
    grid = {"major_gridlines": {"visible": True, "line": {"color": "#dddddd", "width": 0.5}}}
    for number, (across, up) in enumerate(PICTURES[rule.name]):
        chart = book.file.add_chart({"type": "scatter", "subtype": "straight_with_markers"})
        last = 0
        for scenario, axis, points in experiment.series():
            first, last = last + 1, last + len(points)
            chart.add_series(
                {
                    "name": columns.series_name(experiment, scenario, axis),
                    "categories": [APPENDIX, first, places[across], last, places[across]],
                    "values": [APPENDIX, first, places[up], last, places[up]],
                    "marker": {"type": "circle", "size": 6},
                    "line": {"width": 1.5},
                }
            )
        title = " by ".join(titles[key].partition(" (")[0] for key in (up, across))
        chart.set_title({"name": title, "name_font": {"size": 12}})
        # Values that are swept mostly double from one to the next.
        scale = {"log_base": 2} if across == AXIS else {"min": 0}
        chart.set_x_axis({"name": titles[across], **grid, **scale})
        share = {"num_format": "0%"} if up == "errors" else {}
        chart.set_y_axis({"name": titles[up], "min": 0, **grid, **share})
        chart.set_legend({"position": "bottom"})
        chart.set_size({"width": WIDTH, "height": HEIGHT})
        below, beside = divmod(number, ACROSS)
        offset = {"x_offset": beside * (WIDTH + 10), "y_offset": below * (HEIGHT + 10)}
        sheet.insert_chart(row, 0, chart, offset)


def _appendix(book: Book, experiment: BenchmarkFolder, rule: Rule, percentile: str) -> None:
    """The figures of every point by which its task is judged, at the percentile."""
    shown = columns.appendix(experiment, rule, percentile)
    gpus = columns.gpus(experiment.metadata)
    at = Heading(title=columns.axis_title(experiment))
    head = [*columns.FIRST, at, *(column.heading for column in shown)]
    rows = (
        [
            gpus,
            columns.use_case(point.scenario),
            point.value,
            *(column.cell(point) for column in shown),
        ]
        for point in experiment.points
    )
    lay(book, APPENDIX, head, rows, 3)


def _metadata(book: Book, experiment: BenchmarkFolder, percentile: str) -> None:
    """Field and value, as they were written down; credentials never.

    genai-bench rebuilds its command from all of its parameters, so that keys can be in it.
    """
    sheet = book.file.add_worksheet("Experiment Metadata")
    sheet.set_column(0, 0, 30)
    sheet.set_column(1, 1, VALUE)
    settings = {"workbook_percentile": percentile, "workbook_time_unit": experiment.unit}
    left = book.file.add_format({"align": "left", "valign": "top", "text_wrap": True})
    for row, (name, value) in enumerate({**experiment.metadata, **settings}.items()):
        cell: Cell = value if isinstance(value, bool | int | float) else None
        if isinstance(value, str):
            cell = masked(FLAG.sub(rf"\1{WITHHELD}", value))
        elif isinstance(value, list):
            cell = ", ".join(WITHHELD if hides("", entry) else str(entry) for entry in value)
        elif isinstance(value, Mapping):
            cell = json.dumps(without_credentials(value))
        lines = max(1, math.ceil(len(str(cell)) / VALUE * 1.1))
        sheet.set_row(row, min(LINE_PT * lines, TALLEST_PT))
        write(sheet, row, 0, name, book.bold)
        write(sheet, row, 1, cell, left)
    sheet.freeze_panes(0, 1)
    on_paper(sheet)


FLAG: Final = re.compile(
    r"""(--[\w-]*(?:key|token(?!iz)|secret|passw|credential|connection[-_]string)[\w-]*(?:=|\s+))"""
    r"""('[^']*'|"[^"]*"|[^\s'"]\S*)""",
    re.IGNORECASE,
)
"""A flag that may hold a credential, and its value."""


def _flawed(points: Sequence[Result]) -> Iterator[str]:
    """Points whose figures are not what they seem."""
    for point in points:
        at = point.name
        if because := columns.invalid(point):
            yield f"{at}: INVALID, {because}"
        yield from (f"{at}: {warning}" for warning in point.warnings)
        rate = point.number("error_rate")
        if rate is None:
            yield f"{at}: no request ended"
        elif rate:
            yield f"{at}: {rate:.2%} of {point.number('num_requests'):,.0f} requests failed"
