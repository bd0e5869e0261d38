"""Drawing: how all charts look. Axes, colours, scales of seconds, and the text beside a number.

Colours of text and lines are the page's own (`currentColor`), so that one drawing serves light and dark.
Arms differ by colour and by dash or shape.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from analysis.report import words
from analysis.summary import Floats

HEIGHT = 260
COLOURS = ("#2f7fc1", "#d9622b")
DASHES: tuple[list[int], ...] = ([1, 0], [7, 3])
SHAPES = ("circle", "triangle-up")

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
    """A chart with what stands around it: a title, a text in its place, and a note on what it leaves out."""

    title: str
    text: str
    note: str
    chart: alt.LayerChart

    @property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, data included; that it is one is for tests to say."""
        return {**self.chart.to_dict(validate=False), "config": THEME}


class Scale(NamedTuple):
    """A metric's unit as a picture shows it: a value times `factor` is in `unit`."""

    unit: str
    factor: float


def scale_of(unit: str, values: Iterable[Floats]) -> Scale:
    """The unit that suits the typical value; every arm has the same."""
    middles = [abs(float(np.median(one))) for one in values if len(one)]
    return Scale(*words.scale(max(middles, default=0.0), unit))


def log_domain(values: Iterable[Floats], *, outside: float = 0.0) -> list[float] | None:
    """The ends of a logarithmic axis where one shows these values better, None where it does not.

    It does where all are positive and the bulk of them spans more than a decade. The lowest share
    `outside` of each arm lies outside: one odd value may take half of such an axis.
    """
    some = [np.quantile(one, (outside, 0.005, 0.995, 0, 1)) for one in values if len(one)]
    starts, lows, highs, least, most = (list(ends) for ends in zip(*some, strict=True))
    if min(least) <= 0 or max(highs) <= 10 * min(lows):
        return None
    return [float(min(starts)), float(max(most))]


def short(value: float | None) -> float | None:
    """Five significant digits: what a picture can show, in few bytes."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def chart(layers: Iterable[alt.Chart], text: str) -> alt.LayerChart:
    """Layers in one frame; `text` is what a screen reader says in its place."""
    return alt.LayerChart(layer=list(layers), width="container", height=HEIGHT, description=text)


def on(rows: Rows) -> alt.Chart:
    """A chart that carries its data."""
    return alt.Chart(_Rows(values=rows))


class _Rows(alt.InlineData):
    """Rows that Altair neither checks nor copies each time that a chart changes: most of the work."""

    _class_is_valid_at_instantiation = False

    def __deepcopy__(self, memo: object) -> "_Rows":
        return self


def _by(arms: Iterable[str], values: Sequence[Any]) -> alt.Scale:
    names = list(arms)
    return alt.Scale(domain=names, range=list(values[: len(names)]))


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
    ticks = alt.Axis(format=",~r", labelOverlap="greedy", labelSeparation=8)
    return {"title": title, "scale": scale, "axis": ticks}


def tip(*names: str) -> list[alt.Tooltip]:
    """What the pointer shows: fields of the data as they are, under their names."""
    return [alt.Tooltip(f"{name}:N", title={"x": "s"}.get(name, name)) for name in names]
