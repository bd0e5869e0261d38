"""A sheet of panels as Vega-Lite: its plots in their grid, one legend for all, and in words what they lack.

Repeats of a point are dots of their own, and the line goes through their means.
"""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import altair as alt

from tbench.analysis.charts.drawing import COLOURS, DASHES, SHAPES, THEME, Rows, ticks
from tbench.benchmark.fields import AXES, label, metric_of
from tbench.benchmark.folder import Result
from tbench.benchmark.plots.data import Sheet, beside, codes, dots, in_unit, means, names
from tbench.benchmark.plots.layout import DASHES as STYLES
from tbench.benchmark.plots.layout import Grid, Panel

STEPS: Final = frozenset({"num_concurrency", "batch_size"})
"""Fields whose values stand side by side at equal distances."""
ROOM: Final = 0.05
"""Beside the outermost points, as a share of what lies between them."""
HEADROOM: Final = 1.15
"""Space for marks above the highest bar."""
LETTER: Final = 6.6
"""Pixels of a letter of a title."""
INK: Final = "#1a1d21"
CODES: Final = (
    *("#c23b3b", "#e08a1e", "#7d5ba6", "#4a7ba6", "#8c8c3a", "#a0522d", "#c06c9c", "#5f6b73"),
)
"""For statuses of failed requests."""
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
_AXIS: Final = alt.Axis(format=",.6~g", labelOverlap="greedy", labelSeparation=6, tickCount=6)
_SHARES: Final = alt.Axis(format=".3~%", tickCount=5)
_APART: Final[Any] = dict.fromkeys(
    ("color", "strokeDash", "shape", "x", "y", "opacity", "fill", "stroke", "xOffset"),
    "independent",
)


def combined(sheet: Sheet, grid: Grid, unit: str) -> dict[str, Any]:
    """The Vega-Lite specification of all panels, data included; `unit` is that of latencies."""
    width: float = WIDTH
    height: float = HEIGHT
    if grid.size:
        width = max(LEAST, grid.size[0] * PER_INCH / grid.columns - AROUND[0])
        height = max(LEAST, grid.size[1] * PER_INCH / grid.rows - AROUND[1])
    frame = Frame(sheet=sheet, width=width, height=height, unit=unit)
    places = {panel.position: panel for panel in grid.panels}
    cells: list[dict[str, Any]] = []
    for place in ((row, column) for row in range(grid.rows) for column in range(grid.columns)):
        if panel := places.get(place):
            cells.append(_part(Plot(panel=panel, frame=frame).chart()))
        else:  # its place stays empty
            empty = frame.on("empty", [{}]).mark_point(opacity=0)
            cells.append(_part(empty.properties(width=width, height=height)))
    return frame.spec([{"concat": cells, "columns": grid.columns, "resolve": {"scale": _APART}}])


def single(sheet: Sheet, panel: Panel, unit: str) -> dict[str, Any]:
    """The specification of one panel by itself."""
    frame = Frame(sheet=sheet, width=ALONE[0], height=ALONE[1], unit=unit)
    return frame.spec([_part(Plot(panel=panel, frame=frame).chart())])


def _part(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """The specification of a chart inside another: Altair copies it at each level, which takes far longer."""
    inside: dict[str, Any] = chart.to_dict(context={"top_level": False})
    return inside


def scheme(sheet: Sheet) -> tuple[list[str], list[str], list[str]]:
    """The groups with their colours and shapes: where colours begin again they have other shapes."""
    groups = sheet.groups
    colours = [COLOURS[k % len(COLOURS)] for k in range(len(groups))]
    turns = (k + k // len(COLOURS) for k in range(len(groups)))
    return groups, colours, [SHAPES[turn % len(SHAPES)] for turn in turns]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What all panels of a sheet have in common; the size of one is in pixels, `unit` that of latencies.

    `tables` is the data of the picture by name, each held once.
    """

    sheet: Sheet
    width: float
    height: float
    unit: str
    tables: dict[str, Rows] = field(default_factory=dict)

    def on(self, name: str, rows: Rows) -> alt.Chart:
        """A layer that shows these rows."""
        self.tables[name] = rows
        return alt.Chart(alt.NamedData(name=name))

    def spec(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """The parts below each other, under the sheet's title and above its legend."""
        if len(self.sheet.groups) > 1:
            parts = [*parts, _part(self.legend())]
        title = alt.TitleParams(
            text=self.sheet.title, subtitle=list(self.notes()), anchor="start", fontSize=17, color=INK,
            subtitleColor=INK, subtitleFontSize=12, subtitlePadding=6, offset=18,
        )  # fmt: skip
        return {
            "$schema": alt.SCHEMA_URL,
            "vconcat": parts,
            "title": title.to_dict(),
            "resolve": {"scale": _APART},
            "datasets": self.tables,
            "config": CONFIG,
            "padding": 16,
        }

    def legend(self) -> alt.LayerChart:
        """The groups, each on a line of its own: names of experiments are long."""
        groups, colours, shapes = scheme(self.sheet)
        rows = [{"group": group, "place": place} for place, group in enumerate(groups)]
        base = self.on("groups", rows).encode(
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

    def notes(self) -> Iterator[str]:
        """How to read the points, and which of them must not be trusted or cannot be shown."""
        points = list(self.sheet.points)
        swept = " or ".join(AXES[axis].words for axis in dict.fromkeys(p.axis for p in points))
        yield self.sheet.about
        yield f"Numbers beside points: the {swept}; where that is x, the value of y."
        if any(point.repeat > 1 for point in points):
            yield "Repeated runs are points of their own; lines go through their means."
        if textless := self.sheet.textless:
            names = dict.fromkeys(line.group or line.experiment for line in textless)
            yield f"Without text, so in no plot of output, TTFT or TPOT: {', '.join(names)}."
        flaws: dict[str, Callable[[Result], bool]] = {
            "INVALID, not to be used": lambda p: p.aggregate.get("valid") is False,
            "No request succeeded, so in no plot of latencies": (
                lambda p: p.stat("e2e_latency", "mean") is None
            ),
        }
        for flaw, holds in flaws.items():
            places = [
                f"{line.group or point.scenario} at {AXES[point.axis].words} {point.value:g}"
                for line in self.sheet.lines
                for point in line.points
                if holds(point)
            ]
            more = len(places) - MOST_NOTES
            if places:
                named = "; ".join(places[:MOST_NOTES])
                yield f"{flaw}: {named}{f'; and {more} more' if more > 0 else ''}."


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A panel in its frame. Groups differ by colour and shape; curves by colour, or by dash beside groups."""

    panel: Panel
    frame: Frame

    def chart(self) -> alt.LayerChart:
        """The plot; where no point has both values, that is what it says."""
        width, unit = self.frame.width, self.frame.unit
        text = in_unit(self.panel.title, self.panel.fields, unit)
        title = alt.TitleParams(
            text=textwrap.wrap(text, int(width / LETTER)), anchor="start", fontSize=13, color=INK,
            offset=8,
        )  # fmt: skip
        return alt.LayerChart(
            layer=self.layers(), width=width, height=self.frame.height, title=title
        )

    def layers(self) -> list[alt.Chart]:
        panel, sheet = self.panel, self.frame.sheet
        stacked = panel.kind == "bar" and panel.fields[1:] == ("error_rate",)
        rows = list(codes(panel, sheet) if stacked else dots(panel, sheet, self.frame.unit))
        if rows:
            draw = self.curves if panel.kind != "bar" else self.stacks if stacked else self.bars
            return draw(rows)
        failed = any(point.number("num_error_requests") for point in sheet.points)
        reason = "no request failed" if stacked and not failed else "no point has both values"
        layer = self.on("nothing", [{"reason": reason}])
        return [layer.mark_text(fontSize=13, color=INK, opacity=0.6).encode(text="reason:N")]

    def on(self, what: str, rows: Rows) -> alt.Chart:
        row, column = self.panel.position
        return self.frame.on(f"{what} {row},{column}", rows)

    def curves(self, rows: Rows) -> list[alt.Chart]:
        """Lines or dots, beside each dot the value that was swept (or its y, where that is x)."""
        middles, values = means(rows), [row["y"] for row in rows]
        x, y = self.x(rows), self.y(values if self.panel.log and min(values) > 0 else ())
        middle = self.on("means", middles).encode(x=x, y=y, color=self.colour)
        line = middle.mark_line(strokeWidth=2).encode(
            order="at:Q", detail=["experiment:N", "scenario:N", "curve:N"], strokeDash=self.dash
        )
        dot = self.on("dots", rows).mark_point(filled=True, size=46, opacity=0.9).encode(
            x=x, y=y, color=self.colour, shape=self.shape,
            tooltip=_tip("group", "experiment", "curve", "at", "repeat", "x", "y"),
        )  # fmt: skip
        texts = self.marks(middles, x, y)
        return [line, dot, *texts] if self.panel.kind == "line" else [dot, *texts]

    def marks(self, middles: Rows, x: alt.X, y: alt.Y) -> list[alt.Chart]:
        """Numbers on a white seam: of several curves the last has them, whose points lie at the same x.

        Where x is what was swept they are values of y, and several curves of several groups have none.
        """
        swept = [row["axis"] == self.panel.x for row in middles]
        if self.several_curves and any(swept) and self.several_groups:
            return []
        rows = [
            {**row, "mark": _short(row["y"]) if is_x else f"{row['at']:g}"}
            for row, is_x in zip(middles, swept, strict=True)
            if is_x or row["curve"] == middles[-1]["curve"]
        ]
        base = self.on("marks", rows).encode(x=x, y=y, text="mark:N")
        place: dict[str, Any] = {"dx": 6, "dy": -7, "align": "left", "fontSize": 10}
        return [
            base.mark_text(**place, stroke="white", strokeWidth=3, opacity=0.85),
            base.mark_text(**place).encode(color=self.colour),
        ]

    def bars(self, rows: Rows) -> list[alt.Chart]:
        """Bars side by side: a place for each x, in it one for each group and curve, or more of one x."""
        middles = means(rows)
        beside(middles, ("group", "experiment", "scenario", "curve"), "at")
        for row in middles:
            row["mark"] = _short(row["y"])
        bars = self.on("means", middles).encode(x=self.steps(middles), y=self.y())
        tip = _tip("group", "experiment", "curve", "at", "y", "runs")
        bar = bars.mark_bar().encode(color=self.colour, opacity=self.opacity, tooltip=tip)
        if len({row["bar"] for row in middles}) > 1:  # numbers above them would lie on each other
            return [bar.encode(xOffset=alt.XOffset("bar:N", sort=None))]
        return [bar, bars.mark_text(dy=-6, fontSize=10, color=INK).encode(text="mark:N")]

    def stacks(self, rows: Rows) -> list[alt.Chart]:
        """Failed requests as shares, stacked by status; of several groups each has its mark on top.

        Every value that was swept has its place, also where nothing failed.
        """
        beside(rows, ("group", "experiment", "scenario", "repeat"), "file")
        sheet = self.frame.sheet
        swept = (point.number(self.panel.x) for point in sheet.points)
        x = self.steps([{"x": value} for value in swept if value is not None])
        most = max(row["to"] for row in rows)
        known = sorted({row["code"] for row in rows})
        colours = [CODES[k % len(CODES)] for k in range(len(known))]
        bars = self.on("codes", rows).encode(x=x, xOffset=alt.XOffset("bar:N", sort=None))
        bars = bars.mark_bar().encode(
            y=alt.Y(
                "from:Q",
                title=self.panel.y_label or label("error_rate", ""),
                axis=_SHARES,
                scale=alt.Scale(domain=[0, most * HEADROOM], nice=False),
            ),
            y2="to:Q",
            color=alt.Color(
                "code:N",
                scale=alt.Scale(domain=known, range=colours),
                legend=alt.Legend(orient="top", title=None, columns=2),
            ),
            tooltip=_tip("group", "experiment", "at", "code", "count", "of"),
        )
        if len(sheet.groups) == 1:
            return [bars]
        tops = [list(stack)[-1] for _, stack in groupby(rows, lambda row: (row["bar"], row["x"]))]
        groups, colours, shapes = scheme(sheet)
        scale = alt.Scale(domain=groups, range=colours)
        base = self.on("tops", tops).encode(x=x, xOffset="bar:N")
        marks = base.mark_point(filled=True, size=60, opacity=1, yOffset=-7).encode(
            y="to:Q",
            shape=alt.Shape("group:N", scale=alt.Scale(domain=groups, range=shapes), legend=None),
            stroke=alt.Stroke("group:N", scale=scale, legend=None),
            fill=alt.Fill("group:N", scale=scale, legend=None),
        )
        return [bars, marks]

    @property
    def x_title(self) -> str:
        x, unit = self.panel.x, self.frame.unit
        return in_unit(self.panel.x_label, (x,), unit) or label(x, unit)

    def x(self, rows: Rows) -> alt.X:
        """Places side by side for what is swept in steps, else a scale."""
        if self.panel.x in STEPS:
            return self.steps(rows)
        scale = alt.Scale(domain=span([row["x"] for row in rows]), nice=False, zero=False)
        return alt.X("x:Q", title=self.x_title, scale=scale, axis=_AXIS)

    def steps(self, rows: Rows) -> alt.X:
        """X as places side by side, by size."""
        values = sorted({row["x"] for row in rows})
        axis = alt.Axis(labelAngle=0, format=".6~g")
        return alt.X("x:O", title=self.x_title, scale=alt.Scale(domain=values), axis=axis)

    def y(self, values: Sequence[float] = ()) -> alt.Y:
        """A scale from 0; over `values`, all above 0, a logarithmic one, which its title says."""
        fields, unit = self.panel.fields[1:], self.frame.unit
        title = in_unit(self.panel.y_label, fields, unit) or _title(fields, unit)
        if values:
            room = (max(values) / min(values)) ** ROOM * 1.05
            domain = [min(values) / room, max(values) * room]
            scale = alt.Scale(type="log", domain=domain, nice=False)
            places = alt.Axis(format=",.6~g", values=ticks(*domain))
            return alt.Y("y:Q", title=f"{title}, log", scale=scale, axis=places)
        axis = _SHARES if set(fields) == {"error_rate"} else _AXIS
        return alt.Y("y:Q", title=title, scale=alt.Scale(zero=True), axis=axis)

    @property
    def several_curves(self) -> bool:
        return len(self.panel.curves) > 1

    @property
    def several_groups(self) -> bool:
        return len(self.frame.sheet.groups) > 1

    @property
    def colour(self) -> alt.Color:
        curves = self.panel.curves
        if self.several_curves and not self.several_groups:
            colours = [curve.colour or COLOURS[k % len(COLOURS)] for k, curve in enumerate(curves)]
            return self.by_curve(alt.Color, colours, shown=True)
        domain, colours, _ = scheme(self.frame.sheet)
        if curves[0].colour and not self.several_groups:
            colours = [curves[0].colour]
        return alt.Color("group:N", scale=alt.Scale(domain=domain, range=colours), legend=None)

    @property
    def dash(self) -> alt.StrokeDash:
        dashes = [
            STYLES[curve.dash] if curve.dash else DASHES[k % len(DASHES)]
            for k, curve in enumerate(self.panel.curves)
        ]
        return self.by_curve(alt.StrokeDash, dashes, shown=self.several_curves)

    @property
    def shape(self) -> alt.Shape:
        domain, _, shapes = scheme(self.frame.sheet)
        return alt.Shape("group:N", scale=alt.Scale(domain=domain, range=shapes), legend=None)

    @property
    def opacity(self) -> alt.Opacity:
        """Of bars, where several curves have a group's colour."""
        n, told = len(self.panel.curves), self.several_groups and self.several_curves
        steps = [1 - 0.6 * k / (n - 1) if told else 1.0 for k in range(n)]
        return self.by_curve(alt.Opacity, steps, shown=told)

    def by_curve[C](self, channel: Callable[..., C], values: Sequence[Any], *, shown: bool) -> C:
        """A channel that tells curves apart; `shown` in a legend whose strokes are long enough for a dash."""
        strokes: dict[str, Any] = {
            "symbolType": "stroke",
            "symbolSize": 500,
            "symbolStrokeWidth": 2,
        }
        legend = alt.Legend(
            orient="top", title=None, columns=3, **(strokes if self.panel.kind == "line" else {})
        )
        scale = alt.Scale(domain=names(self.panel, self.frame.unit), range=values)
        return channel("curve:N", scale=scale, legend=legend if shown else None)


def span(values: Sequence[float]) -> list[float]:
    """The values with some room on both sides, but not below 0, where there is none of a rate."""
    low, high = min(values), max(values)
    room = (high - low) * ROOM or abs(high) * 0.5 or 1.0
    return [max(0.0, low - room) if low >= 0 else low - room, high + room]


def _title(fields: Sequence[str], unit: str) -> str:
    """Of several fields what they have in common: the metric, or the unit."""
    labels = [label(name, unit) for name in fields]
    if len(labels) == 1:
        return labels[0]
    metrics = {metric_of(name) for name in fields}
    if len(metrics) == 1 and None not in metrics:
        return labels[0].split(" ", 1)[1]
    units = {text[text.rfind("(") :] if "(" in text else "" for text in labels}
    return units.pop().strip("()") or "value" if len(units) == 1 else "value"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _tip(*fields: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:N") for name in fields]
