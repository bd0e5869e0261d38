"""Benchmark charts: Excel's own, over the rows of the appendix; a line for each scenario."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from xlsxwriter.worksheet import Worksheet

from tbench.analysis.report.sheets import Book
from tbench.benchmark.pick import SPEED, THROUGHPUT, Rule

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
