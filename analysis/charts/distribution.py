"""Distribution: how the values of each arm are spread, as curves of the share at or below."""

import math
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np

from tbench.analysis import thinning
from tbench.analysis.charts.drawing import (
    FAINT,
    Paper,
    Picture,
    Rows,
    Scale,
    Words,
    axis,
    colour,
    dash,
    log_domain,
    scale_of,
    shape,
    short,
    tip,
)
from tbench.analysis.quantiles import ordered, quantile
from tbench.analysis.report import words
from tbench.analysis.summary import Floats

MARKS = (0.5, 0.9, 0.95, 0.99)
POINTS = 500
"""Places of an arm's curve."""
FAINT_POINTS = 1800
"""Places of all runs' curves together."""

Arms = Mapping[str, Sequence[Floats]]
"""The values of each run of each arm: NaN absent, +inf timed out."""


def ecdf(title: str, unit: str, arms: Arms) -> Picture | None:
    """Distribution curves, one per arm over all its runs, with their p50, p90, p95 and p99 marked.

    Where an arm has several runs each has a faint curve of its own. None when there is no finite value.
    """
    every = {name: ordered(np.concatenate(runs)) for name, runs in arms.items() if len(runs)}
    finite = [values[np.isfinite(values)] for values in every.values()]
    if not any(map(len, finite)):
        return None
    scale = scale_of(unit, finite)
    marks = _marks(every, unit, scale)
    domain = log_domain((values * scale.factor for values in finite), outside=0.005)
    names, faint = list(arms), _of_runs(arms, scale)
    x = alt.X("x:Q", **axis(f"{title}, {scale.unit}", domain))
    share, ends = alt.Axis(format="%"), alt.Scale(domain=[0, 1])
    y = alt.Y("y:Q", title="share of requests", axis=share, scale=ends)
    paper = Paper()
    curves = [
        {"arm": name, **point}
        for name, values in every.items()
        for point in _curve(values, POINTS, scale)
    ]
    line = paper.on(curves).mark_line(interpolate="step-after", strokeWidth=2, clip=True)
    line = line.encode(x=x, y=y, color=colour(names), strokeDash=dash(names))
    point = paper.on(marks).mark_point(filled=True, size=60, opacity=1, clip=True)
    point = point.encode(
        x=x, y=y, color=colour(names), shape=shape(names), tooltip=tip("arm", "at", "value")
    )
    layers = [line, point]
    if faint:
        runs = paper.on(faint).mark_line(
            interpolate="step-after", strokeWidth=1, opacity=FAINT, clip=True
        )
        layers.insert(0, runs.encode(x=x, y=y, color=colour(names), detail="run:N"))
    caption = Words(
        title=f"Distribution of {title}",
        text=_in_words(every, marks),
        note="Distribution: marks at p50, p90, p95, p99."
        + (" Faint: each run; strong: all runs of an arm together." if faint else ""),
    )
    return paper.picture(layers, caption)


def _of_runs(arms: Arms, scale: Scale) -> Rows:
    """The curves of the runs, where an arm has more than one."""
    several = {name: runs for name, runs in arms.items() if len(runs) > 1}
    # Shared out between the runs; fewer than 24 places would no longer look like the curve.
    points = max(24, FAINT_POINTS // max(1, sum(map(len, several.values()))))
    return [
        {"arm": name, "run": f"{name} {k}", **point}
        for name, runs in several.items()
        for k, values in enumerate(runs, 1)
        for point in _curve(values, points, scale)
    ]


def _curve(values: Floats, points: int, scale: Scale) -> Rows:
    """The share at or below, thinned to so many places."""
    steps = thinning.ecdf(values, points)
    return [
        {"x": short(x * scale.factor), "y": short(y)}
        for x, y in zip(steps.x.tolist(), steps.y.tolist(), strict=True)
    ]


def _marks(arms: Mapping[str, Floats], unit: str, scale: Scale) -> Rows:
    """The quantiles that lie below the timeouts."""
    return [
        {
            "arm": name,
            "at": words.percentile(p),
            "value": words.amount(value, unit),
            "x": short(value * scale.factor),
            "y": p,
        }
        for name, values in arms.items()
        for p in MARKS
        if len(values) and math.isfinite(value := quantile(values, p))
    ]


def _in_words(arms: Mapping[str, Floats], marks: Rows) -> str:
    """The marks arm by arm; then how many values each has, and how many of them timed out."""
    by_arm: dict[str, list[str]] = {}
    for mark in marks:
        by_arm.setdefault(mark["arm"], []).append(f"{mark['at']} {mark['value']}")
    quantiles = "; ".join(f"{arm} {', '.join(figures)}" for arm, figures in by_arm.items())
    counts = []
    for name, values in arms.items():
        late = int(np.isposinf(values).sum())
        counts.append(f"{name} n = {len(values):,}" + (f", {late:,} timed out" if late else ""))
    return f"{quantiles}. {'; '.join(counts)}."
