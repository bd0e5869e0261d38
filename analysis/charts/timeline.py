"""Timeline: what happened when. Values by arrival, requests in flight, and what was due against what left."""

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
from tbench.analysis.summary import Floats
from tbench.capture.terminal import plural

SCATTERED = 1500
"""Points of an arm at most,"""
SCATTERED_ALL = 3000
"""and of all arms together; what thinning leaves of them is said."""
TIMEOUTS = 300
BINS = 120
FAINT_BINS = 1500
"""Parts of time of all runs' lines together."""

Pair = tuple[Floats, Floats]
Series = Mapping[str, Sequence[Pair]]
"""Two arrays for each run of each arm."""


def over_time(title: str, unit: str, arms: Series) -> Picture | None:
    """Each request's value at its arrival, and the running median; all runs of an arm together.

    The pairs are (seconds from the start, values). None when no arm has a finite value.
    """
    whole = {name: _joined(runs) for name, runs in arms.items()}
    finite = {name: _finite(*pair) for name, pair in whole.items()}
    if not any(len(y) for _, y in finite.values()):
        return None
    values = [y for _, y in finite.values()]
    scale = scale_of(unit, values)
    domain = log_domain(one * scale.factor for one in values)
    dots, lines = _scattered(finite, scale, log=domain is not None), _medians(finite, scale)
    late = [
        {"arm": name, "x": short(float(at))}
        for name, (x, y) in whole.items()
        for at in x[np.isposinf(y)][:: max(1, math.ceil(np.isposinf(y).sum() / TIMEOUTS))]
    ]
    x = alt.X("x:Q", title="arrival, s from the start")
    named = {"x": "arrival, s", "y": f"{title}, {scale.unit}"}
    y = alt.Y("y:Q", **axis(f"{title}, {scale.unit}", domain))
    paper, names = Paper(), list(arms)
    dot = paper.on(dots).mark_point(filled=True, size=14, opacity=0.45).encode(
        x=x, y=y, color=colour(names), shape=shape(names), tooltip=tip("arm", "x", "y", **named)
    )  # fmt: skip
    line = paper.on(lines).mark_line(strokeWidth=2.5)
    line = line.encode(x=x, y=y, color=colour(names), strokeDash=dash(names))
    tick = paper.on(late).mark_tick(orient="vertical", size=8, thickness=2)
    tick = tick.encode(x=x, y=alt.value(0), color=colour(names), tooltip=tip("arm", "x", **named))
    note = _thinned(len(dots), sum(len(y) for y in values))
    note += f" Ticks at the top: {_timeouts(whole)} timed out." if late else ""
    text = "; ".join(_trend(name, lines, scale) for name in names)
    said = Words(
        title=f"{title} over time",
        text=f"Running median: {text}.",
        note=f"Lines: running median{_together(arms)}. {note}",
    )
    return paper.picture([dot, line, *([tick] if late else [])], said)


def in_flight(arms: Series) -> Picture | None:
    """How many requests were outstanding; the pairs are (sent, end), seconds from the start."""
    faint, strong, peaks = _outstanding(arms)
    if not strong:
        return None
    paper, x = Paper(), alt.X("x:Q", title="s from the start")
    line = paper.on(strong).mark_line(interpolate="step-after", strokeWidth=2).encode(
        x=x,
        y=alt.Y("y:Q", title="requests in flight"),
        color=colour(arms),
        strokeDash=dash(arms),
    )  # fmt: skip
    behind = paper.on(faint).mark_line(interpolate="step-after", strokeWidth=1, opacity=FAINT + 0.1)
    behind = behind.encode(x=x, y="y:Q", color=colour(arms), detail="run:N")
    text = "; ".join(peaks)
    several = any(len(runs) > 1 for runs in arms.values())
    what = "each run" if several else f"the most at one instant of each 1/{BINS}"
    said = Words(
        title="Requests in flight",
        text=f"{text}.",
        note=f"Strong lines: the mean over each 1/{BINS} of the run"
        + (", and over an arm's runs" if several else "")
        + f". Faint lines: {what}.",
    )
    return paper.picture([behind, line], said)


def arrivals(arms: Series) -> Picture | None:
    """When requests were due and when they left, as rates; the pairs are (due, sent), seconds.

    None where nothing was due.
    """
    rows = [
        {"arm": name, "x": short(x), "due": short(a), "sent": short(b)}
        for name, runs in arms.items()
        for x, a, b in _rates([pair for pair in runs if np.isfinite(pair[0]).any()])
    ]
    if not rows:
        return None
    paper, x = Paper(), alt.X("x:Q", title="s from the start")
    due = paper.on(rows).mark_area(interpolate="step-after", opacity=0.16)
    due = due.encode(
        x=x, y=alt.Y("due:Q", title="requests/s", stack=None), color=colour(arms, legend=False)
    )
    sent = paper.on(rows).mark_line(interpolate="step-after", strokeWidth=1.75).encode(
        x=x,
        y=alt.Y("sent:Q", title="requests/s"),
        color=colour(arms),
        strokeDash=dash(arms),
    )  # fmt: skip
    text = "; ".join(_kept(name, runs) for name, runs in arms.items())
    said = Words(
        title="Arrivals: due and sent",
        text=f"{text}.",
        note="Shade: requests that were due. Lines: requests that left. Where the line leaves the shade's "
        "edge, the client was late. The mean over an arm's runs.",
    )
    return paper.picture([due, sent], said)


def _rates(runs: Sequence[Pair]) -> list[tuple[float, float, float]]:
    """The parts of time at which they begin, and in each the rate that was due and the one that left."""
    if not runs:
        return []
    ends = [float(np.nanmax(np.concatenate(pair))) for pair in runs]
    edges = np.linspace(0.0, max(*ends, 1e-9), BINS + 1)
    width, n = edges[1], len(runs)
    due, sent = (
        sum(np.histogram(pair[which][np.isfinite(pair[which])], edges)[0] for pair in runs)
        for which in (0, 1)
    )
    return list(
        zip(
            edges[:-1].tolist(),
            (due / width / n).tolist(),
            (sent / width / n).tolist(),
            strict=True,
        )
    )


def _kept(name: str, runs: Sequence[Pair]) -> str:
    """How an arm kept its schedule, in words."""
    late = np.concatenate([sent - due for due, sent in runs] or [np.empty(0)])
    late = late[np.isfinite(late)]
    if not len(late):
        return f"{name}: nothing was due"
    return f"{name} sent {(late <= 0.01).mean():.1%} of its requests within 10 ms of when they were due"


def _outstanding(arms: Series) -> tuple[Rows, Rows, list[str]]:
    """Rows of the faint lines and of the strong ones, and each arm's figures in words."""
    faint: Rows = []
    strong: Rows = []
    peaks = []
    total = max(1, sum(map(len, arms.values())))
    for name, runs in arms.items():
        found = [thinning.in_flight(*pair, BINS) for pair in runs]
        found = [(mean, most) for mean, most in found if len(mean.y)]
        if not found:
            continue
        strong += _lines(name, name, *_mean([mean for mean, _ in found]))
        if len(runs) == 1:
            faint += _lines(name, name, found[0][0].x, found[0][1])
        else:
            every = max(1, math.ceil(BINS * total / FAINT_BINS))
            for k, (mean, _) in enumerate(found, 1):
                faint += _lines(name, f"{name} {k}", mean.x[::every], mean.y[::every])
        means, peak = [mean.y.mean() for mean, _ in found], max(most.max() for _, most in found)
        peaks.append(f"{name} {float(np.mean(means)):.3g} on average, {peak:.0f} at most")
    return faint, strong, peaks


def _mean(runs: Sequence[thinning.Steps]) -> Pair:
    """Step functions averaged over the time that all of them span."""
    if len(runs) == 1:
        return runs[0].x, runs[0].y
    x = np.linspace(min(one.x[0] for one in runs), max(one.x[-1] for one in runs), BINS)
    held = [one.y[(np.searchsorted(one.x, x, side="right") - 1).clip(0)] for one in runs]
    return x, np.mean(held, axis=0)


def _lines(arm: str, run: str, x: Floats, y: Floats) -> Rows:
    return [
        {"arm": arm, "run": run, "x": short(a), "y": short(b)}
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]


def _joined(runs: Sequence[Pair]) -> Pair:
    if not runs:
        return np.empty(0), np.empty(0)
    return np.concatenate([x for x, _ in runs]), np.concatenate([y for _, y in runs])


def _finite(x: Floats, y: Floats) -> Pair:
    there = np.isfinite(x) & np.isfinite(y)
    return x[there], y[there]


def _scattered(arms: Mapping[str, Pair], scale: Scale, *, log: bool) -> Rows:
    rows: Rows = []
    most = max(100, min(SCATTERED, SCATTERED_ALL // len(arms)))
    for name, (x, y) in arms.items():
        if not len(x):
            continue
        kept = thinning.scatter(x, np.log(y) if log else y, most)
        rows += [
            {"arm": name, "x": short(float(x[i])), "y": short(float(y[i]) * scale.factor)}
            for i in kept
        ]
    return rows


def _medians(arms: Mapping[str, Pair], scale: Scale) -> Rows:
    return [
        {"arm": name, "x": short(at), "y": short(value * scale.factor)}
        for name, pair in arms.items()
        for at, value in _pair(thinning.medians(*pair))
    ]


def _trend(name: str, lines: Rows, scale: Scale) -> str:
    """Where a running median begins and ends."""
    own = [line["y"] for line in lines if line["arm"] == name]
    return f"{name} from {own[0]:.3g} to {own[-1]:.3g} {scale.unit}" if own else f"{name} too few"


def _thinned(drawn: int, n: int) -> str:
    if drawn == n:
        return f"Points: all {plural(n, 'request')}."
    return f"Points: {drawn:,} of {n:,} requests, thinned evenly over the plane; every extreme is kept."


def _together(arms: Series) -> str:
    return ", all runs of an arm together" if any(len(runs) > 1 for runs in arms.values()) else ""


def _timeouts(arms: Mapping[str, Pair]) -> str:
    return ", ".join(f"{int(np.isposinf(y).sum()):,} of {name}" for name, (_, y) in arms.items())


def _pair(steps: thinning.Steps) -> list[tuple[float, float]]:
    return list(zip(steps.x.tolist(), steps.y.tolist(), strict=True))
