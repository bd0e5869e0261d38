"""Benchmark book: an experiment as an Excel file, with genai-bench's five sheets and charts of Excel's own.

Headers are genai-bench's, in the first row, with the unit where theirs have none; what is ours stands to the
right of them. An empty cell is "there is none".
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from xlsxwriter.worksheet import Worksheet

from tbench.analysis.report.sheets import LINE_PT, ROWS, Book, Cell, on_paper, opened, write
from tbench.benchmark import workbook_columns as columns
from tbench.benchmark.folder import BenchmarkFolder, Result, Unit
from tbench.benchmark.workbook_columns import (
    SPEED,
    THROUGHPUT,
    Heading,
    Pick,
    Rule,
    lay,
    pick,
    rule_of,
    steps,
)
from tbench.capture.providers import masked
from tbench.capture.redact import looks_secret
from tbench.capture.writing import whole_file

# Benchmark charts: Excel's own, over the rows of the appendix; a line for each scenario.

WIDTH, HEIGHT, ACROSS = 620, 340, 2
AXIS: Final = "axis value"
"""The key of the column that has the points' values."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The points of one scenario: rows of the sheet, counted from 0."""

    name: str
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """Where the figures are: the sheet's name, its columns and their titles by key, and the lines."""

    sheet: str
    places: Mapping[str, int]
    titles: Mapping[str, str]
    lines: Sequence[Line]


PICTURES: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    SPEED.name: [
        *(("e2e", "output"), (AXIS, "ttft"), (AXIS, "e2e"), (AXIS, "speed")),
        *((AXIS, "output"), (AXIS, "errors")),
    ],
    THROUGHPUT.name: [("e2e", "total"), (AXIS, "e2e"), (AXIS, "rps"), (AXIS, "errors")],
}
"""What is drawn of a task: the columns across and up."""


def draw(book: Book, sheet: Worksheet, row: int, table: Table, rule: Rule) -> None:
    """Put the task's charts below `row` of a sheet, two beside each other."""
    for place, (across, up) in enumerate(PICTURES[rule.name]):
        chart = book.file.add_chart({"type": "scatter", "subtype": "straight_with_markers"})
        for line in table.lines:
            chart.add_series(_series(table, line, across, up))
        chart.set_title(
            {"name": f"{_short(table, up)} by {_short(table, across)}", "name_font": {"size": 12}}
        )
        scale = {"log_base": 2} if across == AXIS else {"min": 0}
        chart.set_x_axis({"name": table.titles[across], **_grid(), **scale})
        share = {"num_format": "0%"} if up == "errors" else {}
        chart.set_y_axis({"name": table.titles[up], "min": 0, **_grid(), **share})
        chart.set_legend({"position": "bottom"})
        chart.show_blanks_as("gap")
        chart.set_size({"width": WIDTH, "height": HEIGHT})
        beside, below = place % ACROSS, place // ACROSS
        offset = {"x_offset": beside * (WIDTH + 10), "y_offset": below * (HEIGHT + 10)}
        sheet.insert_chart(row, 0, chart, offset)


def _series(table: Table, line: Line, across: str, up: str) -> dict[str, Any]:
    return {
        "name": line.name,
        "categories": [table.sheet, line.first, table.places[across], line.last, table.places[across]],
        "values": [table.sheet, line.first, table.places[up], line.last, table.places[up]],
        "marker": {"type": "circle", "size": 6},
        "line": {"width": 1.5},
    }  # fmt: skip


def _grid() -> dict[str, Any]:
    return {"major_gridlines": {"visible": True, "line": {"color": "#dddddd", "width": 0.5}}}


def _short(table: Table, key: str) -> str:
    """A title without its unit."""
    return table.titles[key].partition(" (")[0]


# Benchmark metadata: what a folder says of itself, as cells. Keys that others wrote down are masked.
#
# genai-bench rebuilds its command from all of its parameters, so that keys can be in it.

WITHHELD: Final = "***"
FLAG: Final = re.compile(
    r"""(--[\w-]*(?:key|token(?!iz)|secret|passw|credential|connection[-_]string)[\w-]*(?:=|\s+))"""
    r"""('[^']*'|"[^"]*"|[^\s'"]\S*)""",
    re.IGNORECASE,
)
"""A flag that may hold a credential, and its value."""


def shown_metadata(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    """Each field with its value as a cell: lists joined by commas, maps as JSON."""
    for name, value in metadata.items():
        yield name, _cell(value)


def _cell(value: object) -> Cell:
    if isinstance(value, Mapping):
        return json.dumps({name: _field(name, entry) for name, entry in value.items()})
    if isinstance(value, list):
        return masked(", ".join(map(str, value)))
    if isinstance(value, str):
        return masked(FLAG.sub(rf"\1{WITHHELD}", value))
    return value if isinstance(value, (bool, int, float)) else None


def _field(name: str, value: object) -> object:
    """A value of a map; a text whose name may be a credential's is not shown."""
    if not isinstance(value, str):
        return value
    return WITHHELD if looks_secret(name, value) else masked(value)


APPENDIX: Final = "Appendix"
INDIVIDUAL: Final = "Individual Request Metrics"
VALUE: Final = 100
"""Characters across that the value of a field has."""
CHARTS_BELOW: Final = 2
"""Rows between the last line of the summary and its charts."""


def write_workbook(
    experiment: BenchmarkFolder, path: Path, percentile: str = "mean", unit: Unit | None = None
) -> tuple[str, ...]:
    """Write the workbook, for its owner only, as a whole or not at all; returns what its reader must know.

    `percentile` (`mean`, `p25` ... `p99`) is that of latencies and speed in Summary and Appendix, `unit` that
    of latencies, None: as the results have it. Raises InputError where it cannot be written.
    """
    with whole_file(path) as file:
        return benchmark_book(experiment.in_unit(unit or experiment.unit), file, percentile)


def benchmark_book(
    experiment: BenchmarkFolder, file: BinaryIO, percentile: str, most: int = ROWS
) -> tuple[str, ...]:
    """Write it to an open binary file; a sheet has `most` rows. Returns the notes, which are in it too.

    Raises OSError where the file cannot be written.
    """
    book, rule = opened(file), rule_of(experiment.task)
    share = _share(experiment, most)
    notes = (*experiment.notes, *_flawed(experiment.points), *_left_out(experiment, share))
    _summary(book, experiment, rule, percentile, notes)
    _appendix(book, experiment, rule, percentile)
    _metadata(book, experiment, percentile)
    lay(book, "Aggregated Metrics for Each Run", *columns.aggregated(experiment), 2)
    lay(book, INDIVIDUAL, columns.requests(experiment), _requests(experiment, share), 2)
    book.close()
    return notes


def _summary(
    book: Book, experiment: BenchmarkFolder, rule: Rule, percentile: str, notes: Sequence[str]
) -> None:
    """A line for each scenario with the point that is picked, notes, and the charts."""
    at = columns.axis_title(experiment)
    rows = [
        [
            columns.gpus(experiment.metadata),
            columns.use_case(columns.series_name(experiment, scenario, axis)),
            *_picked(pick(steps(points, rule, percentile), rule)),
        ]
        for scenario, axis, points in experiment.series()
    ]
    grid = lay(book, "Summary", _summary_head(at, rule), rows, 2)
    level = "the mean" if percentile == "mean" else f"the {percentile} over a point's requests"
    lines = (
        f"Of latencies and speed per request: {level}. Latencies in {experiment.unit}.",
        *notes,
    )
    for place, line in enumerate(lines, grid.rows + 2):
        write(grid.sheet, place, 0, line, book.quiet)
    below = grid.rows + 2 + len(lines) + CHARTS_BELOW
    if experiment.points:
        draw(book, grid.sheet, below, _table(experiment, rule, percentile), rule)


def _summary_head(at: str, rule: Rule) -> list[Heading]:
    target = "throughput" if rule is THROUGHPUT else "speed"
    return [
        *columns.FIRST,
        Heading(title=f"{at} at target {target} (>{rule.over:g} tokens/s)"),
        Heading(title="Total Throughput (tokens/min)", format=columns.MANY),
        Heading(title="Error Rate at It", format=columns.SHARE),
        Heading(title="Why", width=45),
    ]


def _picked(choice: Pick) -> list[Any]:
    step = choice.step
    if step is None:
        return ["N/A", "N/A", None, choice.why]
    why = choice.why if step.valid else f"INVALID (see below); {choice.why}"
    return [step.value, step.tokens_per_s * 60, step.error_rate, why]


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


def _table(experiment: BenchmarkFolder, rule: Rule, percentile: str) -> Table:
    """Where the appendix has what; its rows follow each other scenario by scenario."""
    shown = columns.appendix(experiment, rule, percentile)
    lines, row = [], 1
    for scenario, axis, points in experiment.series():
        name = columns.series_name(experiment, scenario, axis)
        lines.append(Line(name=name, first=row, last=row + len(points) - 1))
        row += len(points)
    titles = {column.key: column.heading.title for column in shown}
    per_request = {"ttft", "e2e", "speed"}
    return Table(
        sheet=APPENDIX,
        places={AXIS: 2, **{column.key: place for place, column in enumerate(shown, 3)}},
        titles={
            AXIS: columns.axis_title(experiment),
            **{k: f"{percentile} {v}" if k in per_request else v for k, v in titles.items()},
        },
        lines=lines,
    )


def _metadata(book: Book, experiment: BenchmarkFolder, percentile: str) -> None:
    """Field and value, as they were written; credentials never."""
    sheet = book.file.add_worksheet("Experiment Metadata")
    sheet.set_column(0, 0, 30)
    sheet.set_column(1, 1, VALUE)
    settings = {"workbook_percentile": percentile, "workbook_time_unit": experiment.unit}
    left = book.file.add_format({"align": "left", "valign": "top", "text_wrap": True})
    for row, (name, value) in enumerate(shown_metadata({**experiment.metadata, **settings})):
        sheet.set_row(row, LINE_PT * max(1, math.ceil(len(str(value)) / VALUE * 1.1)))
        write(sheet, row, 0, name, book.bold)
        write(sheet, row, 1, value, left)
    sheet.freeze_panes(0, 1)
    on_paper(sheet)


def _requests(experiment: BenchmarkFolder, share: int) -> Iterator[list[Any]]:
    """The first `share` requests of each point."""
    for point in experiment.points:
        for _, request in zip(range(share), point.requests(), strict=False):
            yield [
                point.scenario,
                point.value,
                *(request.get(name) for name in columns.REQUEST),
            ]


def _share(experiment: BenchmarkFolder, most: int) -> int:
    """How many requests of each point a sheet has room for: all, or the same number of each."""
    room, sizes = most - 1, [point.ended for point in experiment.points]
    return max(sizes, default=0) if sum(sizes) <= room else room // len(sizes)


def _left_out(experiment: BenchmarkFolder, share: int) -> Iterator[str]:
    left = sum(max(0, point.ended - share) for point in experiment.points)
    if left:
        total = sum(point.ended for point in experiment.points)
        yield (
            f"{INDIVIDUAL}: {left:,} of {total:,} requests are LEFT OUT, since a sheet has no more rows: the "
            f"first {share:,} of each point are there; all are in the JSON files"
        )


def _flawed(points: Sequence[Result]) -> Iterator[str]:
    """Points whose figures are not what they seem."""
    for point in points:
        at = f"{point.scenario} at {point.axis} {point.value:g}"
        if because := columns.invalid(point):
            yield f"{at}: INVALID, {because}"
        yield from (f"{at}: {warning}" for warning in point.warnings)
        rate = point.number("error_rate")
        if rate is None:
            yield f"{at}: no request ended"
        elif rate:
            yield f"{at}: {rate:.2%} of {point.number('num_requests'):,.0f} requests failed"
