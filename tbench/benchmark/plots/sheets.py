"""Sheets: panels in their grid with one legend for all, and what they cannot show in words below it."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import altair as alt

from tbench.analysis.charts.drawing import THEME
from tbench.benchmark.plots.groups import Sheet
from tbench.benchmark.plots.layout import Grid, Panel
from tbench.benchmark.plots.look import scheme
from tbench.benchmark.plots.panel import INK, Frame, Tables, panel
from tbench.benchmark.result import Result

WIDTH, HEIGHT = 360, 250
"""Of a panel where the layout has no size; pixels, of which the PNG has twice as many."""
PER_INCH: Final = 50
AROUND: Final = (90, 110)
"""Pixels around a panel for its axes, title and legend."""
LEAST: Final = 140
ALONE: Final = (640, 380)
"""A panel in a file of its own."""
MOST_NOTES: Final = 4

CONFIG: Final[dict[str, Any]] = {
    **THEME,
    "background": "#ffffff",
    "font": "sans-serif",
    "concat": {"spacing": 28},
    "legend": {**THEME["legend"], "labelColor": INK, "labelFontSize": 11},
    "axis": {
        key: INK if value == "currentColor" else value for key, value in THEME["axis"].items()
    },
}


def whole(sheet: Sheet, grid: Grid, unit: str) -> dict[str, Any]:
    """The Vega-Lite specification of all panels, data included."""
    tables = Tables()
    width, height = _size(grid)
    frame = Frame(sheet=sheet, width=width, height=height, unit=unit, tables=tables)
    places = {one.position: one for one in grid.panels}
    cells = [
        _cell(places.get((row, column)), frame)
        for row in range(grid.rows)
        for column in range(grid.columns)
    ]
    return _spec(sheet, [alt.concat(*cells, columns=grid.columns).resolve_scale(**_APART)], tables)


def single(sheet: Sheet, one: Panel, unit: str) -> dict[str, Any]:
    """The specification of one panel by itself."""
    tables = Tables()
    frame = Frame(sheet=sheet, width=ALONE[0], height=ALONE[1], unit=unit, tables=tables)
    return _spec(sheet, [panel(one, frame)], tables)


_APART: Final[Any] = {"color": "independent", "strokeDash": "independent", "shape": "independent",
                      "x": "independent", "y": "independent", "opacity": "independent",
                      "fill": "independent", "stroke": "independent", "xOffset": "independent"}  # fmt: skip


def _size(grid: Grid) -> tuple[float, float]:
    if grid.size is None:
        return WIDTH, HEIGHT
    wide, high = grid.size
    return (
        max(LEAST, wide * PER_INCH / grid.columns - AROUND[0]),
        max(LEAST, high * PER_INCH / grid.rows - AROUND[1]),
    )


def _cell(one: Panel | None, frame: Frame) -> Any:  # noqa: ANN401
    """A panel, or its place left empty."""
    if one:
        return panel(one, frame)
    empty = frame.tables.on("empty", [{}]).mark_point(opacity=0)
    return empty.properties(width=frame.width, height=frame.height)


def _spec(sheet: Sheet, parts: list[Any], tables: Tables) -> dict[str, Any]:
    if len(sheet.groups) > 1:
        parts = [*parts, _legend(sheet, tables)]
    title = alt.TitleParams(
        text=sheet.title, subtitle=list(_subtitle(sheet)), anchor="start", fontSize=17, color=INK,
        subtitleColor=INK, subtitleFontSize=12, subtitlePadding=6, offset=18,
    )  # fmt: skip
    drawn = alt.vconcat(*parts, title=title).resolve_scale(**_APART)
    return {**drawn.to_dict(), "datasets": tables.rows, "config": CONFIG, "padding": 16}


def _legend(sheet: Sheet, tables: Tables) -> alt.LayerChart:
    """The groups, one a line: names of experiments are long."""
    groups, colours, shapes = scheme(sheet)
    rows = [{"group": group, "place": place} for place, group in enumerate(groups)]
    base = tables.on("groups", rows).encode(
        y=alt.Y("place:O", axis=None),
        color=alt.Color("group:N", scale=alt.Scale(domain=groups, range=colours), legend=None),
    )
    mark = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=alt.value(8),
        shape=alt.Shape("group:N", scale=alt.Scale(domain=groups, range=shapes), legend=None),
    )
    text = base.mark_text(align="left", fontSize=12).encode(
        x=alt.value(22), text="group:N", color=alt.value(INK)
    )
    return alt.LayerChart(layer=[mark, text], width=600, height=18 * len(groups))


def _subtitle(sheet: Sheet) -> Iterator[str]:
    """How to read the points, and which of them must not be trusted or cannot be shown."""
    axes = list(dict.fromkeys(point.axis for point in sheet.points))
    swept = " or ".join(AXIS_WORDS[axis] for axis in axes)
    yield sheet.about
    yield f"Numbers beside points: the {swept}; where that is x, the value of y."
    if any(point.repeat > 1 for point in sheet.points):
        yield "Repeated runs are points of their own; lines go through their means."
    yield from _named(sheet, "INVALID, the client was the limit", _invalid)
    yield from _named(sheet, "No request succeeded, so in no plot of latencies", _silent)


def _invalid(point: Result) -> bool:
    return point.aggregate.get("valid") is False


def _silent(point: Result) -> bool:
    return point.stat("e2e_latency", "mean") is None


def _named(sheet: Sheet, what: str, of: Callable[[Result], bool]) -> Iterator[str]:
    """A line that names the points of which something holds, the first few of them."""
    found = [
        f"{line.group or point.scenario} at {AXIS_WORDS[point.axis]} {point.value:g}"
        for line in sheet.lines
        for point in line.points
        if of(point)
    ]
    if found:
        more = len(found) - MOST_NOTES
        yield f"{what}: {'; '.join(found[:MOST_NOTES])}{f'; and {more} more' if more > 0 else ''}."


AXIS_WORDS: Final = {
    "num_concurrency": "concurrency",
    "batch_size": "batch size",
    "rate": "rate (requests/s)",
    "poisson": "rate (requests/s, Poisson)",
}
