"""The look of a panel: how groups and curves are told apart, and its axes."""

from collections.abc import Sequence
from typing import Final

import altair as alt

from tbench.analysis.charts.drawing import COLOURS, DASHES, SHAPES, Rows
from tbench.benchmark.figures import LATENCIES
from tbench.benchmark.plots.fields import label, metric_of
from tbench.benchmark.plots.groups import Sheet, names
from tbench.benchmark.plots.layout import DASHES as STYLES
from tbench.benchmark.plots.layout import Panel

STEPS: Final = frozenset({"num_concurrency", "batch_size"})
"""Fields whose values stand side by side at equal distances."""


ROOM: Final = 0.05
"""Beside the outermost points, as a share of what lies between them."""


class Look:
    """How curves and groups are told apart: groups by colour and shape; curves by colour, or by dash."""

    def __init__(self, one: Panel, sheet: Sheet) -> None:
        self._names = names(one)
        self._panel = one
        self._sheet = sheet
        self._curves = len(one.curves) > 1
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
            own = self._panel.curves[0].colour
            if own and not self._groups:
                colours = [own]
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


def x_axis(one: Panel, rows: Rows, unit: str) -> alt.X:
    """Places side by side for what is swept in steps, else a scale; latencies are in `unit`."""
    if one.x in STEPS:
        return steps(one, rows, unit)
    title = in_unit(one.x_label, one, unit) or label(one.x, unit)
    scale = alt.Scale(domain=_span([row["x"] for row in rows]), nice=False, zero=False)
    return alt.X("x:Q", title=title, scale=scale, axis=_AXIS)


def _span(values: Sequence[float]) -> list[float]:
    """The values with some room on both sides, but not below 0, where there is none of a rate."""
    low, high = min(values), max(values)
    room = (high - low) * ROOM or abs(high) * 0.5 or 1.0
    return [max(0.0, low - room) if low >= 0 else low - room, high + room]


def steps(one: Panel, rows: Rows, unit: str) -> alt.X:
    """X as places side by side, by size."""
    title = in_unit(one.x_label, one, unit) or label(one.x, unit)
    values = sorted({row["x"] for row in rows})
    return alt.X(
        "x:O",
        title=title,
        scale=alt.Scale(domain=values),
        axis=alt.Axis(labelAngle=0, format=".6~g"),
    )


def y_axis(one: Panel, unit: str, *, log: bool) -> alt.Y:
    """A scale from 0, or a logarithmic one, which its title says."""
    fields: Sequence[str] = [curve.field for curve in one.curves]
    title = in_unit(one.y_label, one, unit) or _title(fields, unit)
    scale = alt.Scale(type="log", nice=False, padding=14) if log else alt.Scale(zero=True)
    rate = set(fields) == {"error_rate"}
    axis = alt.Axis(format=".3~%", tickCount=5) if rate else _AXIS
    return alt.Y("y:Q", title=title + (", log" if log else ""), scale=scale, axis=axis)


def _title(fields: Sequence[str], unit: str) -> str:
    """Of several fields what they have in common: the metric, or the unit."""
    if len(fields) == 1:
        return label(fields[0], unit)
    whole = [label(field, unit) for field in fields]
    metrics = {metric_of(field) for field in fields}
    if len(metrics) == 1 and None not in metrics:
        return whole[0].split(" ", 1)[1]
    units = {text[text.rfind("(") :] if "(" in text else "" for text in whole}
    return units.pop().strip("()") or "value" if len(units) == 1 else "value"


_AXIS: Final = alt.Axis(format=",.6~g", labelOverlap="greedy", labelSeparation=6, tickCount=6)


def in_unit(text: str | None, one: Panel, unit: str) -> str:
    """A text of the layout's, with the unit of latencies that is asked for."""
    latencies = any(metric_of(field) in LATENCIES for field in one.fields)
    if not text or not latencies:
        return text or ""
    other = "s" if unit == "ms" else "ms"
    return text.replace(f"({other})", f"({unit})")
