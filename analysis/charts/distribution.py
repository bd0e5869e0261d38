"""Distribution: how the values of each arm are spread, as curves of the share at or below."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import altair as alt
import numpy as np

from tbench.analysis import words
from tbench.analysis.charts import drawing
from tbench.analysis.charts.drawing import (
    COLOURS,
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
from tbench.analysis.summary import Floats, ordered, quantile

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
    names, several = list(arms), {name: runs for name, runs in arms.items() if len(runs) > 1}
    # Shared out between the runs; fewer than 24 places would no longer look like the curve.
    points = max(24, FAINT_POINTS // max(1, sum(map(len, several.values()))))
    faint = [
        {"arm": name, "run": f"{name} {k}", **point}
        for name, runs in several.items()
        for k, values in enumerate(runs, 1)
        for point in _curve(values, points, scale)
    ]
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
        behind = paper.on(faint).mark_line(
            interpolate="step-after", strokeWidth=1, opacity=FAINT, clip=True
        )
        layers.insert(0, behind.encode(x=x, y=y, color=colour(names), detail="run:N"))
    by_arm: dict[str, list[str]] = {}
    for mark in marks:
        by_arm.setdefault(mark["arm"], []).append(f"{mark['at']} {mark['value']}")
    quantiles = "; ".join(f"{arm} {', '.join(figures)}" for arm, figures in by_arm.items())
    counts = []
    for name, values in every.items():
        late = int(np.isposinf(values).sum())
        counts.append(f"{name} n = {len(values):,}" + (f", {late:,} timed out" if late else ""))
    caption = Words(
        title=f"Distribution of {title}",
        text=f"{quantiles}. {'; '.join(counts)}.",
        note="Distribution: marks at p50, p90, p95, p99."
        + (" Faint: each run; strong: all runs of an arm together." if faint else ""),
    )
    return paper.picture(layers, caption)


def _curve(values: Floats, points: int, scale: Scale) -> Rows:
    """The share at or below, thinned to so many places."""
    steps = drawing.ecdf(values, points)
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


# Repeats: what each run says by itself, in the order in which they began.

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
    names, figures = list(centres), [dot.value * scale.factor for dot in finite]
    means = [
        {"arm": arm, "y": short(value * scale.factor)}
        for arm, value in centres.items()
        if math.isfinite(value)
    ]
    low, high, last = min(figures), max(figures), max(dot.order for dot in runs)
    # A logarithmic axis where runs lie more than a decade apart.
    log = [low / 1.15, high * 1.15] if 0 < low * 10 < high else None
    places = alt.Axis(
        values=list(range(1, last + 1)), format="d", labelOverlap="greedy", grid=False
    )
    x = alt.X(
        "x:Q",
        title="run, in the order in which they began",
        scale=alt.Scale(domain=[0.5, last + 0.5], nice=False),
        axis=places,
    )
    y = alt.Y("y:Q", **axis(f"{title}, {scale.unit}", log))
    rows = [
        {
            "arm": dot.arm,
            "x": dot.order,
            "run": dot.run,
            "y": short(figure),
            "value": words.figure(dot.value, unit),
        }
        for dot, figure in zip(finite, figures, strict=True)
    ]
    paper = Paper()
    point = paper.on(rows).mark_point(filled=True, size=80, opacity=1)
    point = point.encode(
        x=x, y=y, color=colour(names), shape=shape(names), tooltip=tip("run", "value")
    )
    rule = paper.on(means).mark_rule(strokeWidth=1.5, opacity=0.7)
    rule = rule.encode(y=y, color=colour(names), strokeDash=dash(names))
    by_arm: dict[str, list[str]] = {}
    for dot in runs:
        shown = "none" if math.isnan(dot.value) else words.figure(dot.value, unit)
        by_arm.setdefault(dot.arm, []).append(shown)
    caption = Words(
        title=f"{title} of each run",
        text="; ".join(f"{arm} {', '.join(shown)}" for arm, shown in by_arm.items()) + ".",
        note="Each run: a point far from the line of its arm, the mean of its runs, is an odd run; a slope "
        "that all arms share is drift.",
    )
    return paper.picture([rule, point], caption, height=HEIGHT)


def failures(kinds: Mapping[str, Mapping[str, float]]) -> Picture | None:
    """The share of failed requests of each run, by kind: `kinds` maps run -> kind -> share.

    That is of the requests that succeeded or failed. None when none failed.
    """
    names = list(dict.fromkeys(kind for run in kinds.values() for kind in run))
    if not names:
        return None
    rows = [
        {"run": run, "kind": kind, "share": short(share), "shown": f"{share:.2%}"}
        for run, shares in kinds.items()
        for kind, share in shares.items()
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
        x=alt.X("share:Q", title="share failed", axis=across),
        color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=colours)),
        tooltip=[alt.Tooltip(f"{name}:N") for name in ("run", "kind", "shown")],
    )
    text = "; ".join(
        f"{run} " + (", ".join(f"{kind} {share:.2%}" for kind, share in shares.items()) or "none")
        for run, shares in kinds.items()
    )
    caption = Words(
        title="Failures of each run",
        text=f"{text}.",
        note="Bars: failures by kind, as shares of the requests that succeeded or failed; those that were "
        "cancelled are in neither.",
    )
    return paper.picture([bars], caption, height=STEP * len(kinds))
