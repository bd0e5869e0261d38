"""Charts: every picture that tbench draws, as Vega-Lite by way of Altair.

How they look is `analysis.drawing`'s. What was thinned is said in the picture's note.
"""

import math
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np

from analysis import thinning
from analysis.comparison import Shift
from analysis.drawing import (
    COLOURS,
    Picture,
    Rows,
    Scale,
    axis,
    chart,
    colour,
    dash,
    log_domain,
    on,
    scale_of,
    shape,
    short,
    tip,
)
from analysis.quantiles import ordered, quantile
from analysis.report import words
from analysis.summary import Floats

MARKS = (0.5, 0.9, 0.95, 0.99)
SCATTERED = 1500
TIMEOUTS = 300
BINS = 120

Arms = Mapping[str, Floats]
Series = Mapping[str, tuple[Floats, Floats]]


def ecdf(title: str, unit: str, arms: Arms) -> Picture | None:
    """Distribution curves, one per arm, with their p50, p90, p95 and p99 marked.

    `arms` maps names to values (NaN absent, +inf timed out). None when no arm has a finite value.
    """
    arms = {name: ordered(values) for name, values in arms.items()}
    finite = {name: values[np.isfinite(values)] for name, values in arms.items()}
    if not any(map(len, finite.values())):
        return None
    scale = scale_of(unit, finite.values())
    curves, marks = _curves(arms, scale), _marks(arms, unit, scale)
    across = axis(
        f"{title}, {scale.unit}",
        log_domain((one * scale.factor for one in finite.values()), outside=0.005),
    )
    share = alt.Y(
        "y:Q", title="share of requests", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])
    )
    line = on(curves).mark_line(interpolate="step-after", strokeWidth=2, clip=True)
    line = line.encode(x=alt.X("x:Q", **across), y=share, color=colour(arms), strokeDash=dash(arms))
    point = on(marks).mark_point(filled=True, size=60, opacity=1)
    point = point.encode(
        x="x:Q",
        y="y:Q",
        color=colour(arms),
        shape=shape(arms),
        tooltip=tip("arm", "at", "value"),
    )
    return Picture(
        title=f"Distribution of {title}",
        text=_said(marks),
        note=_counts(arms) + " Marks: p50, p90, p95, p99.",
        chart=chart([line, point], f"Distribution of {title}. {_said(marks)}"),
    )


def shift(title: str, points: Sequence[Shift]) -> Picture | None:
    """The ratio candidate / baseline at each quantile, with its own interval and the simultaneous band.

    None when there is no ratio at all.
    """
    if not any(point.ratio for point in points):
        return None
    low, high = _bounds(points)
    rows = [
        {
            "p": words.percentile(point.p),
            "ratio": short(point.ratio),
            "low": short(max(low, point.low or low)),
            "high": short(min(high, point.high or high)),
            "band_low": short(max(low, point.band_low or low)),
            "band_high": short(min(high, point.band_high or high)),
            "interval": words.ratio_interval(point.low, point.high),
            "band": words.ratio_interval(point.band_low, point.band_high),
        }
        for point in points
    ]
    x = alt.X("p:N", title=f"quantile of {title}", sort=None, axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    y = alt.Y(
        "ratio:Q",
        title="candidate / baseline",
        scale=scale,
        axis=alt.Axis(format=",~r", tickCount=6),
    )
    shown = tip("p", "ratio", "interval", "band")
    band = on(rows).mark_area(opacity=0.18, color=COLOURS[1])
    band = band.encode(x=x, y=alt.Y("band_low:Q", scale=scale), y2="band_high:Q")
    bar = on(rows).mark_rule(strokeWidth=2, color=COLOURS[1])
    bar = bar.encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", tooltip=shown)
    point = on(rows).mark_point(filled=True, size=60, opacity=1, color=COLOURS[1])
    same = on([{"one": 1}]).mark_rule(strokeDash=[4, 4], color="currentColor")
    text = "; ".join(
        f"{row['p']} {words.ratio(point.ratio)} {row['interval']}"
        for row, point in zip(rows, points, strict=True)
    )
    return Picture(
        title=f"Shift of {title}",
        text=f"Ratio by quantile with its interval: {text}.",
        note="Above 1 the candidate's value is higher. Bars: the interval of each quantile. Shade: the "
        "band that holds at all quantiles at once. What is open or lies further out is cut at the edge.",
        chart=chart(
            [
                band,
                same.encode(y=alt.Y("one:Q", scale=scale)),
                bar,
                point.encode(x=x, y=y, tooltip=shown),
            ],
            f"Shift of {title}: ratio candidate / baseline by quantile. {text}",
        ),
    )


def over_time(title: str, unit: str, arms: Series) -> Picture | None:
    """Each request's value at its arrival, and the running median.

    `arms` maps names to (seconds from the start, values). None when no arm has a finite value.
    """
    finite = {name: _finite(*pair) for name, pair in arms.items()}
    if not any(len(y) for _, y in finite.values()):
        return None
    values = [y for _, y in finite.values()]
    scale = scale_of(unit, values)
    domain = log_domain(one * scale.factor for one in values)
    dots, lines = _scattered(finite, scale, log=domain is not None), _medians(finite, scale)
    late = [
        {"arm": name, "x": short(float(at))}
        for name, (x, y) in arms.items()
        for at in x[np.isposinf(y)][:: max(1, math.ceil(np.isposinf(y).sum() / TIMEOUTS))]
    ]
    x = alt.X("x:Q", title="arrival, s from the start")
    y = alt.Y("y:Q", **axis(f"{title}, {scale.unit}", domain))
    names = list(arms)
    dot = on(dots).mark_point(filled=True, size=14, opacity=0.45).encode(
        x=x, y=y, color=colour(names), shape=shape(names), tooltip=tip("arm", "x", "y")
    )  # fmt: skip
    line = on(lines).mark_line(strokeWidth=2.5)
    line = line.encode(x=x, y=y, color=colour(names), strokeDash=dash(names))
    tick = on(late).mark_tick(orient="vertical", size=8, thickness=2)
    tick = tick.encode(x=x, y=alt.value(0), color=colour(names), tooltip=tip("arm", "x"))
    note = _thinned(len(dots), sum(len(y) for y in values))
    note += f" Ticks at the top: {_timeouts(arms)} timed out." if late else ""
    text = "; ".join(_trend(name, lines, scale) for name in names)
    return Picture(
        title=f"{title} over time",
        text=f"Running median: {text}.",
        note=f"Lines: running median. {note}",
        chart=chart([dot, line, *([tick] if late else [])], f"{title} over time. {text}"),
    )


def in_flight(arms: Series) -> Picture | None:
    """How many requests were outstanding; `arms` maps names to (sent, end), seconds from the start."""
    rows: Rows = []
    peaks = []
    for name, (sent, end) in arms.items():
        mean, most = thinning.in_flight(sent, end, BINS)
        rows += [
            {"arm": name, "x": short(x), "y": short(y), "most": int(top)}
            for x, y, top in zip(mean.x.tolist(), mean.y.tolist(), most.tolist(), strict=True)
        ]
        if len(mean.y):
            peaks.append(f"{name} {mean.y.mean():.3g} on average, {most.max():.0f} at most")
    if not rows:
        return None
    x = alt.X("x:Q", title="s from the start")
    line = on(rows).mark_line(interpolate="step-after", strokeWidth=2).encode(
        x=x,
        y=alt.Y("y:Q", title="requests in flight"),
        color=colour(arms),
        strokeDash=dash(arms),
        tooltip=tip("arm", "x", "y", "most"),
    )  # fmt: skip
    peak = on(rows).mark_line(interpolate="step-after", strokeWidth=1, opacity=0.45)
    peak = peak.encode(x=x, y="most:Q", color=colour(arms))
    text = "; ".join(peaks)
    return Picture(
        title="Requests in flight",
        text=f"{text}.",
        note=f"Strong lines: the mean over each 1/{BINS} of the run. Faint lines: the most at one instant.",
        chart=chart([peak, line], f"Requests in flight over time. {text}"),
    )


def _curves(arms: Arms, scale: Scale) -> Rows:
    return [
        {"arm": name, "x": short(x * scale.factor), "y": short(y)}
        for name, values in arms.items()
        for x, y in zip(*_pair(thinning.ecdf(values)), strict=True)
    ]


def _marks(arms: Arms, unit: str, scale: Scale) -> Rows:
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


def _counts(arms: Arms) -> str:
    """How many values each arm has, and how many of them timed out."""
    parts = []
    for name, values in arms.items():
        late = int(np.isposinf(values).sum())
        parts.append(f"{name} n = {len(values):,}" + (f", {late:,} timed out" if late else ""))
    return "; ".join(parts) + "."


def _bounds(points: Sequence[Shift]) -> tuple[float, float]:
    """The axis of a shift: what its ratios and their intervals need, and some room. 1 is on it."""
    ends = [end for point in points for end in (point.ratio, point.low, point.high) if end]
    low, high = min(1.0, *ends), max(1.0, *ends)
    room = max(1.02, (high / low) ** 0.08)
    return low / room, high * room


def _finite(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    there = np.isfinite(x) & np.isfinite(y)
    return x[there], y[there]


def _scattered(arms: Series, scale: Scale, *, log: bool) -> Rows:
    rows: Rows = []
    for name, (x, y) in arms.items():
        if not len(x):
            continue
        kept = thinning.scatter(x, np.log(y) if log else y, SCATTERED)
        rows += [
            {"arm": name, "x": short(float(x[i])), "y": short(float(y[i]) * scale.factor)}
            for i in kept
        ]
    return rows


def _medians(arms: Series, scale: Scale) -> Rows:
    return [
        {"arm": name, "x": short(at), "y": short(value * scale.factor)}
        for name, pair in arms.items()
        for at, value in zip(*_pair(thinning.medians(*pair)), strict=True)
    ]


def _trend(name: str, lines: Rows, scale: Scale) -> str:
    """Where a running median begins and ends."""
    own = [line["y"] for line in lines if line["arm"] == name]
    return f"{name} from {own[0]:.3g} to {own[-1]:.3g} {scale.unit}" if own else f"{name} too few"


def _thinned(drawn: int, n: int) -> str:
    if drawn == n:
        return f"Points: all {n:,} requests."
    return f"Points: {drawn:,} of {n:,} requests, thinned evenly over the plane; every extreme is kept."


def _timeouts(arms: Series) -> str:
    return ", ".join(f"{int(np.isposinf(y).sum()):,} of {name}" for name, (_, y) in arms.items())


def _pair(steps: thinning.Steps) -> tuple[list[float], list[float]]:
    return steps.x.tolist(), steps.y.tolist()
