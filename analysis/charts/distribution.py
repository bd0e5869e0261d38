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
    whole = {name: ordered(np.concatenate(runs)) for name, runs in arms.items() if len(runs)}
    finite = {name: values[np.isfinite(values)] for name, values in whole.items()}
    if not any(map(len, finite.values())):
        return None
    scale = scale_of(unit, finite.values())
    marks = _marks(whole, unit, scale)
    across = axis(
        f"{title}, {scale.unit}",
        log_domain((one * scale.factor for one in finite.values()), outside=0.005),
    )
    share = alt.Y(
        "y:Q", title="share of requests", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])
    )
    paper = Paper()
    x, names = alt.X("x:Q", **across), list(arms)
    line = paper.on(_curves(whole, scale)).mark_line(
        interpolate="step-after", strokeWidth=2, clip=True
    )
    line = line.encode(x=x, y=share, color=colour(names), strokeDash=dash(names))
    point = paper.on(marks).mark_point(filled=True, size=60, opacity=1, clip=True)
    point = point.encode(
        x=x,
        y=share,
        color=colour(names),
        shape=shape(names),
        tooltip=tip("arm", "at", "value"),
    )
    faint = _each(arms, scale)
    several = paper.on(faint).mark_line(
        interpolate="step-after", strokeWidth=1, opacity=FAINT, clip=True
    )
    several = several.encode(x=x, y=share, color=colour(names), detail="run:N")
    said = Words(
        title=f"Distribution of {title}",
        text=f"{_said(marks)} {_counts(whole)}",
        note="Distribution: marks at p50, p90, p95, p99."
        + (" Faint: each run; strong: all runs of an arm together." if faint else ""),
    )
    return paper.picture([*([several] if faint else []), line, point], said)


def _curves(arms: Mapping[str, Floats], scale: Scale) -> Rows:
    return [
        {"arm": name, "x": short(x * scale.factor), "y": short(y)}
        for name, values in arms.items()
        for x, y in _points(values, POINTS)
    ]


def _each(arms: Arms, scale: Scale) -> Rows:
    """The curves of the runs, where an arm has more than one."""
    runs = [
        (name, k, one)
        for name, runs in arms.items()
        if len(runs) > 1
        for k, one in enumerate(runs, 1)
    ]
    points = max(24, FAINT_POINTS // max(1, len(runs)))
    return [
        {"arm": name, "run": f"{name} {k}", "x": short(x * scale.factor), "y": short(y)}
        for name, k, values in runs
        for x, y in _points(values, points)
    ]


def _points(values: Floats, points: int) -> list[tuple[float, float]]:
    steps = thinning.ecdf(values, points)
    return list(zip(steps.x.tolist(), steps.y.tolist(), strict=True))


def _marks(arms: Mapping[str, Floats], unit: str, scale: Scale) -> Rows:
    """The quantiles that lie below the timeouts."""
    found = [
        (name, p, quantile(values, p))
        for name, values in arms.items()
        if len(values)
        for p in MARKS
    ]
    return [
        {
            "arm": name,
            "at": words.percentile(p),
            "value": words.amount(value, unit),
            "x": short(value * scale.factor),
            "y": p,
        }
        for name, p, value in found
        if math.isfinite(value)
    ]


def _said(marks: Rows) -> str:
    """The marks in words, arm by arm."""
    arms = dict.fromkeys(mark["arm"] for mark in marks)
    lines = [
        f"{arm} " + ", ".join(f"{m['at']} {m['value']}" for m in marks if m["arm"] == arm)
        for arm in arms
    ]
    return "; ".join(lines) + "."


def _counts(arms: Mapping[str, Floats]) -> str:
    """How many values each arm has, and how many of them timed out."""
    parts = []
    for name, values in arms.items():
        late = int(np.isposinf(values).sum())
        parts.append(f"{name} n = {len(values):,}" + (f", {late:,} timed out" if late else ""))
    return "; ".join(parts) + "."
