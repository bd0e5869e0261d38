"""Drawing: how all charts look (axes, colours, scales of seconds, the text beside a number), and thinning.

Colours of text and lines are the page's own (`currentColor`), so that one drawing serves light and dark.
Arms differ by colour and by dash or shape, so that neither colour nor paper is needed to tell them apart.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import numpy.typing as npt

from tbench.analysis import words
from tbench.analysis.summary import Floats, ordered

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


# Thinning: what a picture keeps of a million values, so that it shows the same and stays small.

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Steps:
    """A step function: `y[i]` holds from `x[i]` on."""

    x: Floats
    y: Floats


def ecdf(values: Floats, points: int = 500) -> Steps:
    """The share of values at or below x, at no more than `points` places, denser towards the slow end.

    NaN (absent) is left out. +inf (timed out) counts in the whole but has no place: the curve ends
    below 1. Each kept place is exact. The least and the greatest finite value are always among them.
    """
    every = ordered(values)
    n, finite = len(every), int(np.isfinite(every).sum())
    if not finite:
        return Steps(np.empty(0), np.empty(0))
    ranks: Places = np.arange(finite)
    if finite > points:
        # Half evenly spread; half in equal ratios of what lies beyond, since the tail is what one reads.
        even = np.linspace(0, finite - 1, points // 2)
        tail = finite - np.geomspace(finite, 1, points - points // 2)
        ranks = np.unique(np.concatenate([even, tail]).round().astype(np.int64).clip(0, finite - 1))
    x = every[ranks]
    last = np.searchsorted(every, x, side="right")  # ties: all of them are at or below x
    distinct = np.append(np.diff(x) > 0, True)
    return Steps(x[distinct], last[distinct] / n)


def scatter(x: Floats, y: Floats, points: int = 1500) -> Places:
    """Which of many points to draw: one per cell of a grid over the plane, and each column's extremes.

    Both must be finite; `y` in the units in which it is drawn (logarithms, for a log axis). Never
    more than `points`, which is at least 100; all of them when there are no more.
    """
    if len(x) <= points:
        return np.arange(len(x))
    columns = max(1, int(math.sqrt(points)))
    # Two places less in each column: those of its extremes.
    rows = max(1, points // columns - 2)
    column, row = _cells(x, columns), _cells(y, rows)
    extremes = []
    for places in filter(len, _groups(column, columns)):
        inside = y[places]  # of equal ones the first of the least, and the last of the greatest
        extremes += [places[inside.argmin()], places[len(inside) - 1 - inside[::-1].argmax()]]
    cell = column * rows + row
    first = np.full(columns * rows, -1)
    first[cell[::-1]] = np.arange(len(cell))[
        ::-1
    ]  # the last to be written stays: each cell's first
    return np.unique(np.concatenate([first[first >= 0], extremes]))


def _groups(cell: Places, cells: int) -> list[Places]:
    """The places of what lies in each cell, in order. Cells this few sort by counting, in one pass."""
    order = np.argsort(cell.astype(np.uint16), kind="stable")
    return np.split(order, np.cumsum(np.bincount(cell, minlength=cells))[:-1])


def _cells(values: Floats, cells: int) -> Places:
    """Which of `cells` equal parts of their span each value falls into."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(len(values), dtype=np.int64)
    return ((values - low) / (high - low) * cells).astype(np.int64).clip(0, cells - 1)


def medians(x: Floats, y: Floats, bins: int = 60, least: int = 5) -> Steps:
    """The median of y in equal parts of x, at their middles; parts with fewer than `least` are left out."""
    if not len(x):
        return Steps(np.empty(0), np.empty(0))
    low, high = float(x.min()), float(x.max())
    # Fewer parts of fewer points, or most would be left out for want of values.
    bins = max(1, min(bins, len(x) // (2 * least)))
    cell = _cells(x, bins)
    groups = [y[places] for places in _groups(cell, bins)]
    middles = low + (np.arange(bins) + 0.5) * (high - low) / bins
    enough = np.array([len(group) >= least for group in groups])
    middle = [float(np.median(group)) for group in groups if len(group) >= least]
    return Steps(middles[enough], np.array(middle))


def in_flight(sent: Floats, end: Floats, bins: int = 300) -> tuple[Steps, Floats]:
    """How many requests were outstanding: the time-weighted mean in equal parts of time, and the most.

    Requests that were never sent (NaN) are left out; one without an end lasts to the end of the run.
    """
    started = ~np.isnan(sent)
    sent, end = ordered(sent[started]), end[started]
    if not len(sent):
        return Steps(np.empty(0), np.empty(0)), np.empty(0)
    horizon = float(np.nanmax(np.append(end, sent[-1])))
    if horizon <= sent[0]:
        return Steps(np.empty(0), np.empty(0)), np.empty(0)
    end = ordered(np.where(np.isnan(end), horizon, end))
    # The mean by areas, exact however short a request is; sampling would miss what lies between.
    edges = np.linspace(sent[0], horizon, bins + 1)
    area = _elapsed(sent, edges) - _elapsed(end, edges)
    # The highest count within each part; an end and a send at one instant do not overlap.
    after = np.arange(1, len(sent) + 1) - np.searchsorted(end, sent, side="right")
    cuts = np.searchsorted(sent, edges)
    before = cuts[:-1] - np.searchsorted(end, edges[:-1])
    parts = zip(before, pairwise(cuts), strict=True)
    most = np.array([float(after[a:b].max(initial=level)) for level, (a, b) in parts])
    return Steps(edges[:-1], np.diff(area) / np.diff(edges)), most


def _elapsed(starts: Floats, at: Floats) -> Floats:
    """At each instant, the sum over all earlier starts of the time since."""
    before = np.searchsorted(starts, at)
    sums = np.concatenate([[0.0], np.cumsum(starts)])
    return np.asarray(before * at - sums[before])
