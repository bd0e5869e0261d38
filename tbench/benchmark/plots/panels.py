"""The look of a panel: how groups and curves are told apart, and its axes."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import altair as alt

from tbench.analysis.charts.drawing import COLOURS, DASHES, SHAPES, THEME, Rows, ticks
from tbench.benchmark.folder import AXES, Result
from tbench.benchmark.genai_bench import LATENCIES
from tbench.benchmark.plots.data import Sheet, codes, dots, label, means, metric_of, names
from tbench.benchmark.plots.layout import DASHES as STYLES
from tbench.benchmark.plots.layout import Grid, Panel

STEPS: Final = frozenset({"num_concurrency", "batch_size"})
"""Fields whose values stand side by side at equal distances."""


ROOM: Final = 0.05
"""Beside the outermost points, as a share of what lies between them."""


class Look:
    """How curves and groups are told apart: groups by colour and shape; curves by colour, or by dash."""

    def __init__(self, panel: Panel, sheet: Sheet) -> None:
        self._names = names(panel)
        self._panel = panel
        self._sheet = sheet
        self._curves = len(panel.curves) > 1
        self._groups = len(sheet.groups) > 1

    @property
    def _legend(self) -> alt.Legend:
        """Of the curves: strokes that are long enough for a dash to be seen."""
        if self._panel.kind != "line":
            return alt.Legend(orient="top", title=None, columns=3)
        return alt.Legend(
            orient="top", title=None, columns=3, symbolType="stroke", symbolSize=500,
            symbolStrokeWidth=2,
        )  # fmt: skip

    @property
    def colour(self) -> alt.Color:
        if self._groups or not self._curves:
            domain, colours, _ = scheme(self._sheet)
            colour = self._panel.curves[0].colour
            if colour and not self._groups:
                colours = [colour]
            return alt.Color("group:N", scale=alt.Scale(domain=domain, range=colours), legend=None)
        colours = [
            curve.colour or COLOURS[k % len(COLOURS)] for k, curve in enumerate(self._panel.curves)
        ]
        return alt.Color(
            "curve:N", scale=alt.Scale(domain=self._names, range=colours), legend=self._legend
        )

    @property
    def dash(self) -> alt.StrokeDash:
        dashes = [
            STYLES[curve.dash] if curve.dash else DASHES[k % len(DASHES)]
            for k, curve in enumerate(self._panel.curves)
        ]
        shown = self._legend if self._curves else None
        return alt.StrokeDash(
            "curve:N", scale=alt.Scale(domain=self._names, range=dashes), legend=shown
        )

    @property
    def shape(self) -> alt.Shape:
        domain, _, shapes = scheme(self._sheet)
        return alt.Shape("group:N", scale=alt.Scale(domain=domain, range=shapes), legend=None)

    @property
    def opacity(self) -> alt.Opacity:
        """Of bars, where several curves have a group's colour."""
        steps = [1 - 0.6 * k / max(1, len(self._names) - 1) for k in range(len(self._names))]
        if not (self._groups and self._curves):
            steps = [1.0] * len(self._names)
        shown = self._legend if self._groups and self._curves else None
        return alt.Opacity(
            "curve:N", scale=alt.Scale(domain=self._names, range=steps), legend=shown
        )


def scheme(sheet: Sheet) -> tuple[list[str], list[str], list[str]]:
    """The groups with their colours and shapes: where colours begin again they have other shapes."""
    groups = sheet.groups
    colours = [COLOURS[k % len(COLOURS)] for k in range(len(groups))]
    turns = (k + k // len(COLOURS) for k in range(len(groups)))
    return groups, colours, [SHAPES[turn % len(SHAPES)] for turn in turns]


def x_axis(panel: Panel, rows: Rows, unit: str) -> alt.X:
    """Places side by side for what is swept in steps, else a scale; latencies are in `unit`."""
    if panel.x in STEPS:
        return steps(panel, rows, unit)
    title = in_unit(panel.x_label, panel, unit) or label(panel.x, unit)
    scale = alt.Scale(domain=_span([row["x"] for row in rows]), nice=False, zero=False)
    return alt.X("x:Q", title=title, scale=scale, axis=_AXIS)


def _span(values: Sequence[float]) -> list[float]:
    """The values with some room on both sides, but not below 0, where there is none of a rate."""
    low, high = min(values), max(values)
    room = (high - low) * ROOM or abs(high) * 0.5 or 1.0
    return [max(0.0, low - room) if low >= 0 else low - room, high + room]


def steps(panel: Panel, rows: Rows, unit: str) -> alt.X:
    """X as places side by side, by size."""
    title = in_unit(panel.x_label, panel, unit) or label(panel.x, unit)
    values = sorted({row["x"] for row in rows})
    return alt.X(
        "x:O",
        title=title,
        scale=alt.Scale(domain=values),
        axis=alt.Axis(labelAngle=0, format=".6~g"),
    )


def y_axis(panel: Panel, unit: str, values: Sequence[float] = ()) -> alt.Y:
    """A scale from 0; over `values`, all above 0, a logarithmic one, which its title says."""
    fields: Sequence[str] = [curve.field for curve in panel.curves]
    title = in_unit(panel.y_label, panel, unit) or _title(fields, unit)
    if values:
        room = (max(values) / min(values)) ** ROOM * 1.05
        domain = [min(values) / room, max(values) * room]
        scale = alt.Scale(type="log", domain=domain, nice=False)
        places = alt.Axis(format=",.6~g", values=ticks(*domain))
        return alt.Y("y:Q", title=f"{title}, log", scale=scale, axis=places)
    axis = alt.Axis(format=".3~%", tickCount=5) if set(fields) == {"error_rate"} else _AXIS
    return alt.Y("y:Q", title=title, scale=alt.Scale(zero=True), axis=axis)


def _title(fields: Sequence[str], unit: str) -> str:
    """Of several fields what they have in common: the metric, or the unit."""
    if len(fields) == 1:
        return label(fields[0], unit)
    labels = [label(field, unit) for field in fields]
    metrics = {metric_of(field) for field in fields}
    if len(metrics) == 1 and None not in metrics:
        return labels[0].split(" ", 1)[1]
    units = {text[text.rfind("(") :] if "(" in text else "" for text in labels}
    return units.pop().strip("()") or "value" if len(units) == 1 else "value"


_AXIS: Final = alt.Axis(format=",.6~g", labelOverlap="greedy", labelSeparation=6, tickCount=6)


def in_unit(text: str | None, panel: Panel, unit: str) -> str:
    """A text of the layout's, with the unit of latencies that is asked for."""
    latencies = any(metric_of(field) in LATENCIES for field in panel.fields)
    if not text or not latencies:
        return text or ""
    other = "s" if unit == "ms" else "ms"
    return text.replace(f"({other})", f"({unit})")


# Sheets: panels in their grid with one legend for all, and what they cannot show in words below it.

# A panel: one plot of a sheet as a Vega-Lite layer.
#
# Repeats of a point are dots of their own, and the line goes through their means.

INK: Final = "#1a1d21"
CODES: Final = (
    "#c23b3b",
    "#e08a1e",
    "#7d5ba6",
    "#4a7ba6",
    "#8c8c3a",
    "#a0522d",
    "#c06c9c",
    "#5f6b73",
)
"""For statuses of failed requests."""
HEADROOM: Final = 1.15
"""Space for marks above the highest bar."""
LETTER: Final = 6.6
"""Pixels of a letter of a title."""


class Tables:
    """The data of a picture by name, each held once."""

    def __init__(self) -> None:
        self.rows: dict[str, Rows] = {}

    def on(self, name: str, rows: Rows) -> alt.Chart:
        """A layer that shows these rows."""
        self.rows[name] = rows
        return alt.Chart(alt.NamedData(name=name))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all panels of a sheet have in common; the size of one is in pixels, `unit` that of latencies."""

    sheet: Sheet
    width: float
    height: float
    unit: str
    tables: Tables


@dataclass(frozen=True, kw_only=True)
class _Plot:
    """A panel that is being drawn."""

    panel: Panel
    frame: Frame

    @property
    def stacked(self) -> bool:
        """Whether it is the bars of error rates, which are stacked by status."""
        fields = [curve.field for curve in self.panel.curves]
        return self.panel.kind == "bar" and fields == ["error_rate"]

    def on(self, what: str, rows: Rows) -> alt.Chart:
        row, column = self.panel.position
        return self.frame.tables.on(f"{what} {row},{column}", rows)


def layered(panel: Panel, frame: Frame) -> alt.LayerChart:
    """The plot; where no point has both values, that is what it says."""
    of = _Plot(panel=panel, frame=frame)
    text = in_unit(panel.title, panel, frame.unit)
    title = alt.TitleParams(
        text=textwrap.wrap(text, int(frame.width / LETTER)), anchor="start", fontSize=13, color=INK,
        offset=8,
    )  # fmt: skip
    return alt.LayerChart(layer=_layers(of), width=frame.width, height=frame.height, title=title)


def _layers(of: _Plot) -> list[alt.Chart]:
    if of.stacked:
        rows = list(codes(of.panel, of.frame.sheet))
        return _stacks(of, rows) if rows else _nothing(of)
    rows = list(dots(of.panel, of.frame.sheet))
    if not rows:
        return _nothing(of)
    return _bars(of, rows) if of.panel.kind == "bar" else _curves(of, rows)


def _nothing(of: _Plot) -> list[alt.Chart]:
    failed = any(point.number("num_error_requests") for point in of.frame.sheet.points)
    reason = "no request failed" if of.stacked and not failed else "no point has both values"
    layer = of.on("nothing", [{"said": reason}])
    return [layer.mark_text(fontSize=13, color=INK, opacity=0.6).encode(text="said:N")]


def _curves(of: _Plot, rows: Rows) -> list[alt.Chart]:
    """Lines or dots, beside each dot the value that was swept (or its y, where that is x)."""
    panel, look = of.panel, Look(of.panel, of.frame.sheet)
    middles, values = means(rows), [row["y"] for row in rows]
    x = x_axis(panel, rows, of.frame.unit)
    y = y_axis(panel, of.frame.unit, values if panel.log and min(values) > 0 else ())
    middle = of.on("means", middles).encode(x=x, y=y, color=look.colour)
    line = middle.mark_line(strokeWidth=2).encode(
        order="at:Q", detail=["experiment:N", "scenario:N", "curve:N"], strokeDash=look.dash
    )
    dot = of.on("dots", rows).mark_point(filled=True, size=46, opacity=0.9).encode(
        x=x, y=y, color=look.colour, shape=look.shape,
        tooltip=_tip("group", "experiment", "curve", "at", "repeat", "x", "y"),
    )  # fmt: skip
    texts = _marks(of, middles, x, y)
    return [line, dot, *texts] if panel.kind == "line" else [dot, *texts]


def _marks(of: _Plot, middles: Rows, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Numbers on a white seam: of several curves the last has them, whose points lie at the same x.

    Where x is what was swept they are values of y, and several curves of several groups have none.
    """
    swept, several = of.panel.x in AXES.values(), len(of.panel.curves) > 1
    if several and swept and len(of.frame.sheet.groups) > 1:
        return []
    last = middles[-1]["curve"]
    rows = [
        {**row, "mark": _short(row["y"]) if swept else f"{row['at']:g}"}
        for row in middles
        if swept or row["curve"] == last
    ]
    look = Look(of.panel, of.frame.sheet)
    base = of.on("marks", rows).encode(x=x, y=y, text="mark:N")
    place: dict[str, Any] = {"dx": 6, "dy": -7, "align": "left", "fontSize": 10}
    return [
        base.mark_text(**place, stroke="white", strokeWidth=3, opacity=0.85),
        base.mark_text(**place).encode(color=look.colour),
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _bars(of: _Plot, rows: Rows) -> list[alt.Chart]:
    """Bars side by side: a place for each x, in it one for each group and curve."""
    look, middles = Look(of.panel, of.frame.sheet), means(rows)
    for row in middles:
        row["bar"] = f"{row['group']} {row['experiment']} {row['scenario']} {row['curve']}"
        row["mark"] = _short(row["y"])
    several = len({row["bar"] for row in middles}) > 1
    bars = of.on("means", middles).encode(
        x=steps(of.panel, middles, of.frame.unit), y=y_axis(of.panel, of.frame.unit)
    )
    tip = _tip("group", "experiment", "curve", "at", "y", "runs")
    bar = bars.mark_bar().encode(color=look.colour, opacity=look.opacity, tooltip=tip)
    if several:  # numbers above them would lie on each other
        return [bar.encode(xOffset=alt.XOffset("bar:N", sort=None))]
    return [bar, bars.mark_text(dy=-6, fontSize=10, color=INK).encode(text="mark:N")]


def _stacks(of: _Plot, rows: Rows) -> list[alt.Chart]:
    """Failed requests as shares, stacked by status; with several groups the group's mark is on top."""
    for row in rows:
        row["bar"] = f"{row['group']} {row['experiment']} {row['scenario']} {row['repeat']}"
    base = of.on("codes", rows).encode(
        x=_all_values(of),
        xOffset=alt.XOffset("bar:N", sort=None),
    )
    most = max(row["to"] for row in rows)
    axis = alt.Axis(format=".3~%", tickCount=5)
    room = alt.Scale(domain=[0, most * HEADROOM], nice=False)
    title = of.panel.y_label or label("error_rate", "")
    bars = base.mark_bar().encode(
        y=alt.Y("from:Q", title=title, axis=axis, scale=room),
        y2="to:Q",
        color=_by_code(rows),
        tooltip=_tip("group", "experiment", "at", "code", "count", "of"),
    )
    if len(of.frame.sheet.groups) == 1:
        return [bars]
    tops = [list(each)[-1] for _, each in groupby(rows, lambda row: (row["bar"], row["x"]))]
    return [bars, _tops(of, of.on("tops", tops).encode(x=_all_values(of), xOffset="bar:N"))]


def _all_values(of: _Plot) -> alt.X:
    """Every value that was swept has its place, also where nothing failed."""
    values = (point.number(of.panel.x) for point in of.frame.sheet.points)
    return steps(of.panel, [{"x": value} for value in values if value is not None], of.frame.unit)


def _by_code(rows: Rows) -> alt.Color:
    known = sorted({row["code"] for row in rows})
    colours = [CODES[k % len(CODES)] for k in range(len(known))]
    return alt.Color(
        "code:N",
        scale=alt.Scale(domain=known, range=colours),
        legend=alt.Legend(orient="top", title=None, columns=2),
    )


def _tops(of: _Plot, base: alt.Chart) -> alt.Chart:
    """The mark of its group on top of each bar."""
    groups, colours, shapes = scheme(of.frame.sheet)
    scale = alt.Scale(domain=groups, range=colours)
    mark = base.mark_point(filled=True, size=60, opacity=1, yOffset=-7)
    drawn: alt.Chart = mark.encode(
        y="to:Q",
        shape=alt.Shape("group:N", scale=alt.Scale(domain=groups, range=shapes), legend=None),
        stroke=alt.Stroke("group:N", scale=scale, legend=None),
        fill=alt.Fill("group:N", scale=scale, legend=None),
    )
    return drawn


def _tip(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:N") for name in names]


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
    places = {panel.position: panel for panel in grid.panels}
    cells = [
        _cell(places.get((row, column)), frame)
        for row in range(grid.rows)
        for column in range(grid.columns)
    ]
    return _spec(sheet, [alt.concat(*cells, columns=grid.columns).resolve_scale(**_APART)], tables)


def single(sheet: Sheet, panel: Panel, unit: str) -> dict[str, Any]:
    """The specification of one panel by itself."""
    tables = Tables()
    frame = Frame(sheet=sheet, width=ALONE[0], height=ALONE[1], unit=unit, tables=tables)
    return _spec(sheet, [layered(panel, frame)], tables)


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


def _cell(panel: Panel | None, frame: Frame) -> Any:  # noqa: ANN401
    """A panel, or its place left empty."""
    if panel:
        return layered(panel, frame)
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
    places = [
        f"{line.group or point.scenario} at {AXIS_WORDS[point.axis]} {point.value:g}"
        for line in sheet.lines
        for point in line.points
        if of(point)
    ]
    if places:
        more = len(places) - MOST_NOTES
        yield f"{what}: {'; '.join(places[:MOST_NOTES])}{f'; and {more} more' if more > 0 else ''}."


AXIS_WORDS: Final = {
    "num_concurrency": "concurrency",
    "batch_size": "batch size",
    "rate": "rate (requests/s)",
    "poisson": "rate (requests/s, Poisson)",
}
