"""Timeline: what happened when. Values by arrival, requests in flight, and what was due against what left."""

import math
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np

from tbench.analysis.charts import drawing
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
from tbench.replay.throughput import three

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
NOTHING: Series = {}


def over_time(
    title: str, unit: str, arms: Series, *, left_out: str = "", late_left_out: str = ""
) -> Picture | None:
    """Each request's value at its arrival, and the running median; all runs of an arm together.

    The pairs are (seconds from the start, values); `left_out` says how many of the finite values are of
    requests that no figure counts, `late_left_out` how many of the infinite ones. None when no arm has a
    finite value.
    """
    finite: dict[str, Pair] = {}
    timeouts: dict[str, Floats] = {}
    for name, runs in arms.items():
        x, y = (np.concatenate([pair[k] for pair in runs] or [np.empty(0)]) for k in (0, 1))
        known = np.isfinite(x) & np.isfinite(y)
        finite[name], timeouts[name] = (x[known], y[known]), x[np.isposinf(y)]
    values = [y for _, y in finite.values()]
    n = sum(map(len, values))
    if not n:
        return None
    scale = scale_of(unit, values)
    domain = log_domain(of_arm * scale.factor for of_arm in values)
    dots = _scattered(finite, scale, log=domain is not None)
    medians = {name: drawing.medians(*pair) for name, pair in finite.items()}
    lines = [
        {"arm": name, "x": short(at), "y": short(value * scale.factor)}
        for name, steps in medians.items()
        for at, value in zip(steps.x.tolist(), steps.y.tolist(), strict=True)
    ]
    # Ticks, since +inf has no place on the axis; thinned, and counted in full below.
    late = [
        {"arm": name, "x": short(at)}
        for name, times in timeouts.items()
        for at in times[:: max(1, math.ceil(len(times) / TIMEOUTS))].tolist()
    ]
    arrival = alt.X("x:Q", title="arrival, s from the start")
    named = {"x": "arrival, s", "y": f"{title}, {scale.unit}"}
    value = alt.Y("y:Q", **axis(f"{title}, {scale.unit}", domain))
    paper, names = Paper(), list(arms)
    dot = paper.on(dots).mark_point(filled=True, size=14, opacity=0.45).encode(
        x=arrival, y=value, color=colour(names), shape=shape(names), tooltip=tip("arm", "x", "y", **named)
    )  # fmt: skip
    line = paper.on(lines).mark_line(strokeWidth=2.5)
    line = line.encode(x=arrival, y=value, color=colour(names), strokeDash=dash(names))
    tick = paper.on(late).mark_tick(orient="vertical", size=8, thickness=2)
    tick = tick.encode(
        x=arrival, y=alt.value(0), color=colour(names), tooltip=tip("arm", "x", **named)
    )
    together = ", all runs of an arm together" if _several(arms) else ""
    note = f"Points: all {plural(n, 'request')}."
    if len(dots) < n:
        drawn = f"{len(dots):,} of {plural(n, 'request')}"
        note = f"Points: {drawn}, thinned evenly over the plane; every extreme is kept."
    if left_out:
        note += f" {left_out}: no figure counts them."
    if late:
        counts = ", ".join(f"{len(times):,} of {name}" for name, times in timeouts.items())
        note += f" Ticks at the top: {counts} timed out."
        if late_left_out:
            note += f" {late_left_out}: no figure counts them."
    trends = []
    for name in names:
        middles, ends = medians[name].y * scale.factor, "too few"
        if len(middles):
            ends = f"from {three(middles[0])} to {three(middles[-1])} {scale.unit}"
        trends.append(f"{name} {ends}")
    caption = Words(
        title=f"{title} over time",
        text=f"Running median: {'; '.join(trends)}.",
        note=f"Lines: running median{together}. {note}",
    )
    return paper.picture([dot, line, *([tick] if late else [])], caption)


def _several(arms: Series) -> bool:
    """Whether an arm has more than one run."""
    return any(len(runs) > 1 for runs in arms.values())


def _scattered(arms: Mapping[str, Pair], scale: Scale, *, log: bool) -> Rows:
    """The points, thinned; by their logarithms where the axis has these."""
    rows: Rows = []
    # Fewer of each arm the more there are: a page of ten arms must open as one of two does.
    most = max(100, min(SCATTERED, SCATTERED_ALL // len(arms)))
    for name, (x, y) in arms.items():
        if len(x):
            places = drawing.scatter(x, np.log(y) if log else y, most)
            points = zip(x[places].tolist(), y[places].tolist(), strict=True)
            rows += [
                {"arm": name, "x": short(at), "y": short(value * scale.factor)}
                for at, value in points
            ]
    return rows


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
    several = _several(arms)
    what = "each run" if several else f"the most at one instant of each 1/{BINS}"
    caption = Words(
        title="Requests in flight",
        text=f"{text}.",
        note=f"Strong lines: the mean over each 1/{BINS} of the run"
        + (", and over an arm's runs" if several else "")
        + f". Faint lines: {what}.",
    )
    return paper.picture([behind, line], caption)


def arrivals(arms: Series, recorded: Series = NOTHING) -> Picture | None:
    """When requests were due and when they left, as rates; the pairs are (due, sent), seconds.

    `recorded` has when they had come and ended, in seconds of the replay. None where nothing was due.
    """
    scheduled = {
        name: [pair for pair in runs if np.isfinite(pair[0]).any()] for name, runs in arms.items()
    }
    rows = [
        {"arm": name, "x": short(x), "due": short(a), "sent": short(b)}
        for name, runs in scheduled.items()
        for x, a, b in _rates(runs)
    ]
    if not rows:
        return None
    # In the same parts of time as the first arm, or equal arrivals would differ.
    lasts = max(float(np.nanmax(pair)) for pair in next(filter(None, scheduled.values())))
    before = [
        {"arm": name, "x": short(x), "y": short(rate)}
        for name, runs in recorded.items()
        for x, _, rate in _rates([(came, came) for came, _ in runs], lasts)
    ]
    names = [*arms, *recorded]
    paper, x = Paper(), alt.X("x:Q", title="s from the start")
    due = paper.on(rows).mark_area(interpolate="step-after", opacity=0.16)
    due = due.encode(x=x, y=alt.Y("due:Q", title="requests/s", stack=None), color=colour(names))
    sent, line = (
        paper.on(lines).mark_line(interpolate="step-after", strokeWidth=1.75).encode(
            x=x,
            y=alt.Y(f"{field}:Q", title="requests/s"),
            color=colour(names),
            strokeDash=dash(names),
        )
        for lines, field in ((rows, "sent"), (before, "y"))
    )  # fmt: skip
    punctual = []
    for name, runs in arms.items():
        late = np.concatenate([sent - due for due, sent in runs] or [np.empty(0)])
        late = late[np.isfinite(late)]
        if not len(late):
            punctual.append(f"{name}: nothing left that was due")
            continue
        share = f"{(late <= 0.01).mean():.1%} of its requests within 10 ms"
        punctual.append(f"{name} sent {share} of when they were due")
    caption = Words(
        title="Arrivals: due and sent",
        text=f"{'; '.join(punctual)}.",
        note="Shade: requests that were due. Lines: requests that left. Where the line leaves the shade's "
        "edge, the client was late. The mean over an arm's runs."
        + (" Recorded: when they had come, at the speed of the replay." if before else ""),
    )
    return paper.picture([due, sent, *([line] if before else [])], caption)


def _rates(runs: Sequence[Pair], lasts: float = 0.0) -> list[tuple[float, float, float]]:
    """The parts of time at which they begin, and in each the rate that was due and the one that left."""
    if not runs:
        return []
    ends = [float(np.nanmax(np.concatenate(pair))) for pair in runs]
    edges = np.linspace(0.0, max(*ends, lasts, 1e-9), BINS + 1)
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


def _outstanding(arms: Series) -> tuple[Rows, Rows, list[str]]:
    """Rows of the faint lines and of the strong ones, and each arm's figures in words."""
    faint: Rows = []
    strong: Rows = []
    peaks = []
    total = max(1, sum(map(len, arms.values())))
    for name, runs in arms.items():
        counted = [drawing.in_flight(*pair, BINS) for pair in runs]
        counted = [(mean, most) for mean, most in counted if len(mean.y)]
        if not counted:
            continue
        means = [mean for mean, _ in counted]
        if len(means) == 1:
            strong += _lines(name, name, means[0].x, means[0].y)
        else:
            # Runs last differently: averaged over all their time, each holding its last level to the end.
            ends = min(mean.x[0] for mean in means), max(mean.x[-1] for mean in means)
            x = np.linspace(*ends, BINS)
            held = [
                mean.y[(np.searchsorted(mean.x, x, side="right") - 1).clip(0)] for mean in means
            ]
            strong += _lines(name, name, x, np.mean(held, axis=0))
        if len(runs) == 1:
            faint += _lines(name, name, means[0].x, counted[0][1])
        else:
            # Faint lines of many runs are background: their places are shared out between them.
            every = max(1, math.ceil(BINS * total / FAINT_BINS))
            for k, mean in enumerate(means, 1):
                faint += _lines(name, f"{name} {k}", mean.x[::every], mean.y[::every])
        average = float(np.mean([mean.y.mean() for mean in means]))
        peak = max(most.max() for _, most in counted)
        peaks.append(f"{name} {three(average)} on average, {peak:.0f} at most")
    return faint, strong, peaks


def _lines(arm: str, run: str, x: Floats, y: Floats) -> Rows:
    return [
        {"arm": arm, "run": run, "x": short(a), "y": short(b)}
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]
