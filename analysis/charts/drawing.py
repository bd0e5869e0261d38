"""Drawing: how all charts look. Axes, colours, scales of seconds, and the text beside a number.

Colours of text and lines are the page's own (`currentColor`), so that one drawing serves light and dark.
Arms differ by colour and by dash or shape, so that neither colour nor paper is needed to tell them apart.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from tbench.analysis import words
from tbench.analysis.summary import Floats

HEIGHT = 260
COLOURS = (
    *("#2f7fc1", "#d9622b", "#1f9271", "#a35ac4"),
    *("#8a7d1c", "#cf4a83", "#6f7f8f", "#8c6a4f"),
)
"""Each has a contrast of 3:1 with the paper of both themes."""
DASHES: tuple[list[int], ...] = (
    *([1, 0], [7, 3], [2, 2], [9, 3, 2, 3]),
    *([4, 2], [12, 3], [6, 2, 2, 2], [1, 3]),
)
SHAPES = (
    *("circle", "triangle-up", "square", "diamond"),
    *("cross", "triangle-down", "triangle-right", "triangle-left"),
)
SPREAD = 5.0
"""From here on a logarithmic axis has ticks at 1 2 5 10."""
APART: dict[str, Any] = {"labelOverlap": "greedy", "labelSeparation": 8}
"""Labels of an axis never touch."""
FAINT = 0.3
"""How strong the line of one run is behind that of its arm."""

THEME: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": "transparent"},
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": "currentColor",
        "labelFontSize": 12,
        "labelLimit": 400,
        "symbolOpacity": 1,
        "symbolSize": 80,
        "symbolStrokeWidth": 2,
    },
    "axis": {
        "domainColor": "currentColor",
        "gridColor": "currentColor",
        "gridOpacity": 0.12,
        "labelColor": "currentColor",
        "labelFontSize": 12,
        **APART,
        "tickColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
}
"""Vega-Lite's configuration for a page; colours of text and lines are the page's."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart with what stands around it: a title, a text in its place, and a note on what it leaves out.

    `tables` holds its data by name. A `broad` one takes the whole width of a page.
    """

    title: str
    text: str
    note: str
    chart: alt.LayerChart
    tables: Mapping[str, Rows]
    broad: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, data included."""
        return {**self.chart.to_dict(), "datasets": dict(self.tables), "config": THEME}


class Words(NamedTuple):
    """What is said of a picture: around it, and (`spoken`, else `text`) by a screen reader in its place."""

    title: str
    text: str
    note: str
    spoken: str = ""


class Paper:
    """What a picture is drawn on: holds each table of data once, however many layers show it."""

    def __init__(self) -> None:
        self._tables: dict[str, Rows] = {}

    def on(self, rows: Rows) -> alt.Chart:
        """A layer that shows this data."""
        # By identity: comparing tables of thousands of rows would cost more than drawing them.
        known = (name for name, table in self._tables.items() if table is rows)
        name = next(known, f"data-{len(self._tables)}")
        self._tables[name] = rows
        return alt.Chart(alt.NamedData(name=name))

    def picture(
        self,
        layers: Iterable[alt.Chart],
        words: Words,
        *,
        height: float = HEIGHT,
        broad: bool = False,
    ) -> Picture:
        """The layers in one frame."""
        chart = alt.LayerChart(
            layer=list(layers),
            width="container",
            height=height,
            description=f"{words.title}. {words.spoken or words.text}",
        )
        return Picture(
            title=words.title,
            text=words.text,
            note=words.note,
            chart=chart,
            tables=self._tables,
            broad=broad,
        )


class Scale(NamedTuple):
    """A metric's unit as a picture shows it: a value times `factor` is in `unit`."""

    unit: str
    factor: float


def scale_of(unit: str, values: Iterable[Floats]) -> Scale:
    """The unit that suits the typical value; every arm has the same."""
    middles = [abs(float(np.median(of_arm))) for of_arm in values if len(of_arm)]
    return Scale(*words.scale(max(middles, default=0.0), unit))


def log_domain(values: Iterable[Floats], *, outside: float = 0.0) -> list[float] | None:
    """The ends of a logarithmic axis where one shows these values better, None where it does not.

    It does where all are positive and the bulk of them spans more than a decade. The lowest share
    `outside` of each arm lies outside: one odd value may take half of such an axis.
    """
    points = (outside, 0.005, 0.995, 0, 1)
    ends = [np.quantile(of_arm, points) for of_arm in values if len(of_arm)]
    starts, lows, highs, least, most = zip(*ends, strict=True)
    # A logarithmic axis makes small differences look smaller: only where a linear one hides the bulk.
    if min(least) <= 0 or max(highs) <= 10 * min(lows):
        return None
    return [float(min(starts)), float(max(most))]


def short(value: float | None) -> float | None:
    """Five significant digits: what a picture can show, in few bytes."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _by(arms: Iterable[str], values: Sequence[Any]) -> alt.Scale:
    names = list(arms)
    return alt.Scale(domain=names, range=[values[k % len(values)] for k in range(len(names))])


def colour(arms: Iterable[str]) -> alt.Color:
    """An arm by its colour."""
    return alt.Color("arm:N", scale=_by(arms, COLOURS))


def dash(arms: Iterable[str]) -> alt.StrokeDash:
    """An arm by its line."""
    return alt.StrokeDash("arm:N", scale=_by(arms, DASHES))


def shape(arms: Iterable[str]) -> alt.Shape:
    """An arm by its points."""
    return alt.Shape("arm:N", scale=_by(arms, SHAPES))


def axis(title: str, domain: list[float] | None) -> dict[str, Any]:
    """A quantitative axis: logarithmic over a domain, without one linear and not forced to zero."""
    scale = alt.Scale(type="log", domain=domain, nice=False) if domain else alt.Scale(zero=False)
    places: dict[str, Any] = {"values": ticks(*domain)} if domain else {}
    shown = alt.Axis(labelExpr="format(datum.value, ',~r')", **APART, **places)
    return {"title": title, "scale": scale, "axis": shown}


def ticks(low: float, high: float) -> list[float]:
    """Round places on an axis: 1 2 5 10 20 50 where it spans much, else about eight in equal steps."""
    sizes = [m * 10.0**k for k in range(-6, 9) for m in (1, 2, 5)]
    if low > 0 and high / low > SPREAD:
        return [size for size in sizes if low <= size <= high]
    step = next(size for size in sizes if (high - low) / size <= 8)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tip(*names: str, **titles: str) -> list[alt.Tooltip]:
    """What the pointer shows: fields of the data as they are, under their names or these titles."""
    return [alt.Tooltip(f"{name}:N", title=titles.get(name, name)) for name in names]
