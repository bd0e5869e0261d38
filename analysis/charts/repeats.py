"""Repeats: what each run says by itself, in the order in which they began."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import altair as alt
import numpy as np

from tbench.analysis.charts.drawing import (
    COLOURS,
    Paper,
    Picture,
    Rows,
    Scale,
    Words,
    axis,
    colour,
    dash,
    scale_of,
    shape,
    short,
    tip,
)
from tbench.analysis.report import words

HEIGHT = 190
STEP = 20
"""Height of a run's bar, pixels."""


class Dot(NamedTuple):
    """A run's figure: its arm, which of all runs it was (1 first), its name, its value (NaN: none)."""

    arm: str
    order: int
    run: str
    value: float


def dots(
    title: str, unit: str, runs: Sequence[Dot], centres: Mapping[str, float]
) -> Picture | None:
    """The figure of every run in the order in which they began, and each arm's mean.

    `centres` has every arm, the baseline first, whichever ran first: their order is that of the colours.
    `unit` "share" is shown in per cent. None when there is no finite value.
    """
    finite = [dot for dot in runs if math.isfinite(dot.value)]
    if not finite:
        return None
    share = unit == "share"
    scale = Scale("%", 100) if share else scale_of(unit, [np.array([dot.value for dot in finite])])
    names = list(centres)
    means = [
        {"arm": arm, "y": short(value * scale.factor)}
        for arm, value in centres.items()
        if math.isfinite(value)
    ]
    x = _order(max(dot.order for dot in runs))
    log = _log_domain([dot.value * scale.factor for dot in finite])
    y = alt.Y("y:Q", **axis(f"{title}, {scale.unit}", log))
    paper = Paper()
    point = paper.on(_dots(finite, unit, scale)).mark_point(filled=True, size=80, opacity=1)
    point = point.encode(
        x=x, y=y, color=colour(names), shape=shape(names), tooltip=tip("run", "value")
    )
    rule = paper.on(means).mark_rule(strokeWidth=1.5, opacity=0.7)
    rule = rule.encode(y=y, color=colour(names), strokeDash=dash(names))
    return paper.picture([rule, point], _dot_words(title, unit, runs), height=HEIGHT)


def _order(last: int) -> alt.X:
    """Places of runs, from the first to the last."""
    return alt.X(
        "x:Q",
        title="run, in the order in which they began",
        scale=alt.Scale(domain=[0.5, last + 0.5], nice=False),
        axis=alt.Axis(
            values=list(range(1, last + 1)), format="d", labelOverlap="greedy", grid=False
        ),
    )


def _dots(finite: Sequence[Dot], unit: str, scale: Scale) -> Rows:
    return [
        {
            "arm": dot.arm,
            "x": dot.order,
            "run": dot.run,
            "y": short(dot.value * scale.factor),
            "value": _said(dot.value, unit),
        }
        for dot in finite
    ]


def _dot_words(title: str, unit: str, runs: Sequence[Dot]) -> Words:
    text = "; ".join(
        f"{name} " + ", ".join(_said(dot.value, unit) for dot in runs if dot.arm == name)
        for name in dict.fromkeys(dot.arm for dot in runs)
    )
    return Words(
        title=f"{title} of each run",
        text=f"{text}.",
        note="Each run: a point far from the line of its arm, the mean of its runs, is an odd run; a slope "
        "that all arms share is drift.",
    )


def _log_domain(figures: Sequence[float]) -> list[float] | None:
    """The ends of a logarithmic axis, where runs lie more than a decade apart."""
    low, high = min(figures), max(figures)
    return [low / 1.15, high * 1.15] if 0 < low * 10 < high else None


def failures(kinds: Mapping[str, Mapping[str, float]]) -> Picture | None:
    """The share of requests that failed in each run, by kind: `kinds` maps run -> kind -> share.

    None when nothing failed.
    """
    names = list(dict.fromkeys(kind for run in kinds.values() for kind in run))
    if not names:
        return None
    rows = [
        {"run": run, "kind": kind, "share": short(share), "shown": f"{share:.2%}"}
        for run, found in kinds.items()
        for kind, share in found.items()
    ]
    colours = [COLOURS[k % len(COLOURS)] for k in range(len(names))]
    across = alt.Axis(labelExpr="format(datum.value, '.3~%')", tickCount=5)
    paper = Paper()
    bars = paper.on(rows).mark_bar(height=STEP - 6)
    bars = bars.encode(
        y=alt.Y(
            "run:N",
            title=None,
            sort=None,
            scale=alt.Scale(domain=list(kinds)),
            axis=alt.Axis(ticks=False, domain=False),
        ),
        x=alt.X("share:Q", title="share of requests that failed", axis=across),
        color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=colours)),
        tooltip=[alt.Tooltip(f"{name}:N") for name in ("run", "kind", "shown")],
    )
    text = "; ".join(
        f"{run} " + (", ".join(f"{kind} {share:.2%}" for kind, share in found.items()) or "none")
        for run, found in kinds.items()
    )
    said = Words(
        title="Failures of each run",
        text=f"{text}.",
        note="Bars: all requests that failed, by kind.",
    )
    return paper.picture([bars], said, height=STEP * len(kinds))


def _said(value: float, unit: str) -> str:
    return "none" if math.isnan(value) else words.figure(value, unit)
