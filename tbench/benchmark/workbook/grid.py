"""Benchmark grid: a sheet whose first row is its header, for programs; empty columns fold away."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from tbench.analysis.report.sheets import LINE_PT, Book, Cell, on_paper, write

EXACT: Final = 2**53
"""Whole numbers from here on (seeds) lose digits as Excel's numbers, and are written as text."""

ON_A_PAGE: Final = 16
"""So many columns can be read where they are printed on one page."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column: its title, Excel's number format, and whether it folds away when all of it is empty or 0.

    `width` in characters is the least that it has.
    """

    title: str
    format: str = "General"
    folds: bool = False
    width: float = 9


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sheet that was laid: how many rows of data it has, below its header."""

    sheet: Worksheet
    rows: int


def lay(
    book: Book, title: str, headings: Sequence[Heading], rows: Iterable[Sequence[Any]], frozen: int
) -> Grid:
    """A sheet with its header in view, the first `frozen` columns too. Maps become JSON, lists text."""
    sheet = book.file.add_worksheet(title)
    formats = {
        name: book.file.add_format({"num_format": name, "valign": "top"})
        for name in {one.format for one in headings}
    }
    sheet.set_row(0, 2 * LINE_PT)  # a spreadsheet program need not fit it to its text
    for place, one in enumerate(headings):
        write(sheet, 0, place, one.title, book.bold)
    filled = [False] * len(headings)
    n = 0
    for n, row in enumerate(rows, 1):
        _line(sheet, n, row, [formats[one.format] for one in headings])
        filled = [was or _says(cell) for was, cell in zip(filled, row, strict=True)]
    for place, one in enumerate(headings):
        hidden = {"level": 1, "hidden": True} if one.folds and not filled[place] else {}
        sheet.set_column(place, place, _width(one), None, hidden)
    sheet.freeze_panes(1, frozen)
    sheet.repeat_rows(0)
    if len(headings) <= ON_A_PAGE:
        on_paper(sheet)
    if n:
        sheet.autofilter(0, 0, n, len(headings) - 1)
    return Grid(sheet=sheet, rows=n)


def _width(one: Heading) -> float:
    """Wide enough for the title in two lines, or in one where it has no place to break."""
    whole = len(one.title) * 1.1 + 4
    return max(one.width, min(30, whole) if " " in one.title else whole)


def _line(sheet: Worksheet, row: int, cells: Sequence[Any], formats: Sequence[Format]) -> None:
    for place, (cell, style) in enumerate(zip(cells, formats, strict=True)):
        write(sheet, row, place, plain(cell), style)


def plain(cell: object) -> Cell:
    """What a cell can hold of a value from a JSON file."""
    if isinstance(cell, Mapping):
        return json.dumps(cell)
    if isinstance(cell, list | tuple):
        return ", ".join(map(str, cell))
    if isinstance(cell, int) and abs(cell) >= EXACT:
        return str(cell)
    return cell if isinstance(cell, str | int | float) else None


def _says(cell: object) -> bool:
    """Whether there is anything but nothing and 0."""
    return any(cell.values()) if isinstance(cell, Mapping) else bool(cell)
