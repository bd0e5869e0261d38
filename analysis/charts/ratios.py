"""Ratios: what the candidates are to the baseline, with intervals; by gate, and by quantile."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import altair as alt

from tbench.analysis import words
from tbench.analysis.charts.drawing import (
    COLOURS,
    Paper,
    Picture,
    Rows,
    Words,
    short,
    ticks,
    tip,
)
from tbench.analysis.comparison import Shift

GOOD: Final = "#1f9271"
BAD: Final = "#d1495b"
UNSURE: Final = "#a97f10"
NO_INTERVAL: Final = "no interval"
STYLES: Final = {
    "PASS": (GOOD, "circle"),
    "FAIL": (BAD, "diamond"),
    "INCONCLUSIVE": (UNSURE, "square"),
    "not testable": (UNSURE, "cross"),
    "better": (GOOD, "circle"),
    "worse": (BAD, "diamond"),
    "differs": (COLOURS[0], "triangle-up"),
    "no difference seen": (UNSURE, "square"),
    NO_INTERVAL: ("#6f7f8f", "cross"),
}
"""What a bar of a forest plot says: its colour, and its shape for those who do not see colours."""
STEP: Final = 30
"""Height of one bar, pixels."""
FURTHEST: Final = 1.5
"""An interval is drawn at most so far beyond what the estimates and margins need, as a power of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row of a forest plot: a change with its interval, and how much of a change is let pass.

    `value`, `low`, `high` are ratios, or differences of shares where `share`; None is unbounded, for
    `value` unknown. `bare` ones have no interval at all. `passes` is the zone that passes, of which an end
    may be None (open), `decides` the one-sided bound that has to lie in it. `said` is a key of STYLES. A
    `rough` interval is approximate, and marked.
    """

    label: str
    value: float | None
    low: float | None
    high: float | None
    said: str
    passes: tuple[float | None, float | None] | None = None
    decides: float | None = None
    share: bool = False
    bare: bool = False
    rough: bool = False


def forest(title: str, bars: Sequence[Bar]) -> Picture | None:
    """Each change with its interval, and the zone that passes. All bars are of one kind.

    None when no bar has a value.
    """
    if not any(bar.value is not None for bar in bars):
        return None
    low, high = _domain(bars)
    rows = [_row(bar, low, high) for bar in bars]
    spoken = "; ".join(
        f"{row['label']} {row['change']} {row['interval']}, {row['said']}" for row in rows
    )
    results = [bar.said for bar in bars if bar.value is not None]
    counts = [f"{results.count(result)} {result}" for result in dict.fromkeys(results)]
    if without := len(bars) - len(results):
        counts.append(f"{without} without an interval")
    paper = Paper()
    layers = _forest_layers(paper, rows, (low, high), share=bars[0].share)
    notes, gated = ["Point: the estimate."], any(bar.passes for bar in bars)
    if not all(bar.bare for bar in bars):
        notes.append(f"Bar: its two-sided {'90%' if gated else 'nominal 95%'} interval.")
    if any(bar.rough for bar in bars):
        notes.append("~: the interval is approximate.")
    if gated:
        notes.append("Shade: the changes that pass.")
    if any(bar.decides is not None for bar in bars):
        notes.append(
            "Tick: its worse end, the one-sided 95% bound, which must lie in the shade to pass."
        )
    notes.append("What is open or lies further out is cut at the edge.")
    text = f"{', '.join(counts)}."
    caption = Words(title=title, text=text, note=" ".join(notes), spoken=spoken)
    return paper.picture(layers, caption, height=STEP * len(rows), broad=True)


def _forest_layers(
    paper: Paper, rows: Rows, domain: tuple[float, float], *, share: bool
) -> list[alt.Chart]:
    """Zones that pass, the line of no change, intervals, deciding bounds, estimates: one above the other.

    Ratios stand on a logarithmic axis and read as changes in per cent, differences on a linear one in points.
    """
    change = "datum.value" if share else "datum.value - 1"
    shown_as = (
        "format(datum.value * 100, '+.3~r') + ' pp'" if share else f"format({change}, '+.3~%')"
    )
    places = alt.Axis(
        values=ticks(*domain),
        labelExpr=f"abs({change}) < 1e-9 ? '{'0 pp' if share else '0%'}' : {shown_as}",
        labelOverlap="greedy",
        labelSeparation=8,
    )
    scale = alt.Scale(type="linear" if share else "log", domain=list(domain), nice=False)
    against = f"candidate {'-' if share else '/'} baseline"
    x = alt.X("value:Q", title=against, scale=scale, axis=places)
    names = alt.Axis(labelLimit=240, domain=False, ticks=False, grid=False, labelPadding=8)
    y = alt.Y("label:N", title=None, sort=None, axis=names)
    drawn = [row for row in rows if row["value"] is not None]
    kinds = list(dict.fromkeys(str(row["said"]) for row in drawn))
    by_kind = alt.Color("said:N", scale=_styles(kinds, 0))
    by_shape = alt.Shape("said:N", scale=_styles(kinds, 1))
    shown = tip("label", "change", "interval", "said")
    zones = [row for row in rows if row["from"] is not None]
    bounds = [row for row in drawn if row["decides"] is not None]

    def at(field: str) -> alt.X:
        return alt.X(f"{field}:Q", scale=scale)

    zone = paper.on(zones).mark_bar(height=STEP - 6, color=GOOD, opacity=0.16)
    same = paper.on([{"none": rows[0]["none"]}]).mark_rule(strokeDash=[4, 4], color="currentColor")
    bar = paper.on(drawn).mark_rule(strokeWidth=2.5)
    tick = paper.on(bounds).mark_tick(thickness=2, size=14, opacity=1)
    point = paper.on(drawn).mark_point(filled=True, size=90, opacity=1)
    return [
        zone.encode(y=y, x=at("from"), x2="to:Q"),
        same.encode(x=at("none")),
        bar.encode(y=y, x=at("low"), x2="high:Q", color=by_kind, tooltip=shown),
        tick.encode(y=y, x=at("decides"), color=by_kind, tooltip=shown),
        point.encode(y=y, x=x, color=by_kind, shape=by_shape, tooltip=shown),
    ]


def _styles(kinds: Sequence[str], which: int) -> alt.Scale:
    return alt.Scale(domain=list(kinds), range=[STYLES[kind][which] for kind in kinds])


def _row(bar: Bar, low: float, high: float) -> dict[str, Any]:
    """A bar as data, cut at the edges of the picture."""

    def within(value: float | None, otherwise: float) -> float | None:
        return short(min(high, max(low, otherwise if value is None else value)))

    start, stop = bar.passes or (None, None)
    return {
        "label": f"{bar.label} ~" if bar.rough else bar.label,
        "value": None if bar.value is None else within(bar.value, low),
        "low": within(bar.value if bar.bare else bar.low, low),
        "high": within(bar.value if bar.bare else bar.high, high),
        "decides": None if bar.decides is None else within(bar.decides, high),
        "from": None if bar.passes is None else within(start, low),
        "to": None if bar.passes is None else within(stop, high),
        "none": 0.0 if bar.share else 1.0,
        "said": bar.said,
        "change": words.change(bar.value, share=bar.share),
        "interval": "without an interval"
        if bar.bare
        else words.change_interval(bar.low, bar.high, share=bar.share),
    }


def _domain(bars: Sequence[Bar]) -> tuple[float, float]:
    """Where the axis begins and ends: what estimates and margins need, and intervals within reason."""
    share = bars[0].share

    def inner(value: float) -> float:
        return value if share else math.log(value)

    needed = [0.0] + [
        inner(end)
        for bar in bars
        for end in (bar.value, *(bar.passes or ()))
        if end is not None and (share or end > 0)
    ]
    # Where nothing moved there is still an axis: one point, or five per cent.
    size = max(map(abs, needed)) or (0.01 if share else math.log(1.05))
    # An interval that is open or very wide must not shrink the estimates to a dot.
    ends = [
        max(-FURTHEST * size, min(FURTHEST * size, inner(end)))
        for bar in bars
        for end in (bar.low, bar.high)
        if end is not None and (share or end > 0)
    ]
    low, high = min(*needed, *ends, -size / 4), max(*needed, *ends, size / 4)
    room = (high - low) * 0.06
    return (low - room, high + room) if share else (math.exp(low - room), math.exp(high + room))


def shift(
    title: str, points: Sequence[Shift], *, against: str = "candidate / baseline"
) -> Picture | None:
    """The ratio at each quantile, with its own interval and the simultaneous band.

    `against` names the ratio. None when there is no ratio at all.
    """
    if not any(point.ratio for point in points):
        return None
    # The axis has what the ratios and their intervals need, and some room; 1 is on it.
    ends = [end for point in points for end in (point.ratio, point.low, point.high) if end]
    low, high = min(1.0, *ends), max(1.0, *ends)
    room = max(1.02, (high / low) ** 0.08)
    low, high = low / room, high * room
    # Runs that may stop early, or are too few, have ratios alone: no bar may suggest an interval.
    bare = all(
        (point.low, point.high, point.band_low, point.band_high) == (None, None, None, None)
        for point in points
    )
    # Cut at the edges of the picture.
    rows: Rows = [
        {
            "p": words.percentile(point.p),
            "ratio": short(point.ratio),
            "said": words.ratio(point.ratio),
            "low": short(max(low, point.low or low)),
            "high": short(min(high, point.high or high)),
            "band_low": short(max(low, point.band_low or low)),
            "band_high": short(min(high, point.band_high or high)),
            "interval": words.ratio_interval(point.low, point.high),
            "band": words.ratio_interval(point.band_low, point.band_high),
        }
        for point in points
    ]
    paper = Paper()
    x = alt.X("p:N", title=f"quantile of {title}", sort=None, axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    places = alt.Axis(values=ticks(low, high), labelExpr="format(datum.value, ',~r') + 'x'")
    y = alt.Y("ratio:Q", title=against, scale=scale, axis=places)
    named = {"p": "quantile", "said": "ratio"}
    shown = tip("p", "said", *([] if bare else ["interval", "band"]), **named)
    band = paper.on(rows).mark_area(opacity=0.18, color=COLOURS[1])
    band = band.encode(x=x, y=alt.Y("band_low:Q", scale=scale), y2="band_high:Q")
    bar = paper.on(rows).mark_rule(strokeWidth=2, color=COLOURS[1])
    bar = bar.encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", tooltip=shown)
    point = paper.on(rows).mark_point(filled=True, size=60, opacity=1, color=COLOURS[1])
    same = paper.on([{"one": 1}]).mark_rule(strokeDash=[4, 4], color="currentColor")
    rule = same.encode(y=alt.Y("one:Q", scale=scale))
    dots = point.encode(x=x, y=y, tooltip=shown)
    caption = _shift_words(title, against, points, bare=bare)
    return paper.picture([rule, dots] if bare else [band, rule, bar, dots], caption)


def _shift_words(title: str, against: str, points: Sequence[Shift], *, bare: bool) -> Words:
    text = "; ".join(
        f"{words.percentile(point.p)} {words.ratio(point.ratio)}"
        + ("" if bare else f" {words.ratio_interval(point.low, point.high)}")
        for point in points
    )
    what = (
        "There is no interval: too few runs, or an experiment that could stop early."
        if bare
        else "Bars: the interval of each quantile. Shade: the band that holds at all quantiles at once. "
        "What is open or lies further out is cut at the edge."
    )
    return Words(
        title=f"Shift of {title}",
        text=f"Ratio by quantile{'' if bare else ' with its interval'}: {text}.",
        note=f"Shift: above 1 the candidate's value is higher. {what}",
        spoken=f"Ratio {against} by quantile. {text}",
    )
