"""Facts: which runs there are and how each was made: target, pacing, warm-up, host, versions."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter

import numpy as np

from tbench.analysis.arms import Arm
from tbench.analysis.charts import Picture, failures
from tbench.analysis.proportions import ErrorDifference
from tbench.analysis.report import words
from tbench.analysis.report.markup import Html, html, join, number, table, tag
from tbench.analysis.report.sides import Place, Sides, began_ns, each, places
from tbench.capture.exchange import Outcome
from tbench.capture.terminal import plural
from tbench.replay.table import at
from tbench.replay.totals import duration_s

LONGEST = 300
FRAMING = frozenset({"format", "kind", "type", "version", "crc32", "marker"})
"""Fields of a file that say what kind of file it is, not how it was made."""
OWN = frozenset({"run_id", "wall_ns", "argv"})
"""Facts of one run, which are not compared between sides."""
GROUPS: Mapping[str, str] = {
    "target": "Target and sender",
    "pacing": "Pacing",
    "deadlines": "Deadlines, s",
    "limits": "Limits",
    "warmup": "Warm-up",
    "trace": "Trace",
    "survey": "What was planned",
    "host": "Host",
    "versions": "Versions",
}
"""Titles of what the headers hold, in the order of the report; the rest comes under OTHER."""
OTHER = "Run"
MADE = frozenset({*GROUPS.values(), OTHER})
"""Titles of how a run was made, where a difference between arms may explain what they show."""
OUTCOMES: Mapping[str, str] = {
    "client": "The client while it sent",
    "loop_stall_s": "Lateness of the event loop, s",
    "cost": "Cost",
    "client_limit": "Requests for which this client could open no connection",
    "skipped": "Skipped requests",
    "hosts": "Requests by the host that they were recorded at",
    "unchanged": "Requests that kept their model or fields",
    "masked": "Requests with asterisks for credentials",
}
"""The same of the totals. They differ from run to run, so that a difference is nothing to point at."""
ENDED = "How it ended"


def runs_table(sides: Sides) -> Html:
    """Every run: when it began, what became of it, and whether it counts."""
    head = ["run", "of all", "name", "kind", "began (UTC)", "duration", "requests"]
    head += ["succeeded", "failed", "timed out", "warm-up", "valid"]
    caption = "Runs; `of all` is the place in the order in which they began"
    return table(caption, head, (list(_run(one)) for one in places(sides)))


def _run(place: Place) -> Iterator[object]:
    arm = place.arm
    yield from (place.name, place.order, arm.name, arm.kind)
    yield tag("span", _moment(began_ns(arm)), class_="whole") if began_ns(arm) else "-"
    yield words.amount(duration_s(arm.columns), "s")
    yield f"{len(arm):,}"
    for which in (arm.ok, arm.failed, arm.timed_out, ~arm.measured):
        yield f"{int(which.sum()):,}"
    yield f"INVALID: {arm.invalid_because}" if arm.invalid_because else "valid"


def sides_table(sides: Sides) -> Html:
    """What each side is: where it was sent, and when."""
    return table("Arms", ["what", *sides], _sides(sides))


def _sides(sides: Sides) -> list[list[str]]:
    return [
        ["runs", *(f"{len(arms):,}" for arms in sides.values())],
        ["model", *(_common([arm.model or "-" for arm in arms]) for arms in sides.values())],
        ["target", *(_common([arm.target or "-" for arm in arms]) for arms in sides.values())],
        ["pacing", *(_common([arm.pacing for arm in arms]) for arms in sides.values())],
    ]


def differences(sides: Sides) -> Html:
    """What was not the same on all sides: of a comparison the first thing to look at."""
    if len(sides) < 2:
        return html(None)
    made = [[f"{title}: {key}", *cells] for title, key, cells in facts(sides) if title in MADE]
    rows = [row for row in (*_sides(sides), *made) if len(set(row[1:])) > 1]
    if not rows:
        return tag("p", "The files name nothing that differs between the arms.")
    return table("What differs between the arms", ["what", *sides], rows)


def facts_tables(sides: Sides) -> Html:
    """What the files say of how they were made, side by side; what differs is marked."""
    found = [
        table(title, ["fact", *sides], [_marked(title, key, cells) for _, key, cells in rows])
        for title, rows in groupby(facts(sides), key=itemgetter(0))
    ]
    return tag("div", join(found), class_="facts")


def _marked(title: str, key: str, cells: Sequence[str]) -> list[object]:
    """What the sides say of a fact; how they were made is marked where it differs."""
    differs = "differs" if title in MADE and len(set(cells)) > 1 else None
    return [key, *(tag("span", cell, class_=differs) for cell in cells)]


def facts(sides: Sides) -> Iterator[tuple[str, str, list[str]]]:
    """Each fact under its title, with what each side says of it."""
    found = {side: [_grouped(arm) for arm in arms] for side, arms in sides.items()}
    for title in (*GROUPS.values(), OTHER, *OUTCOMES.values(), ENDED):
        by_side = {side: [run.get(title, {}) for run in runs] for side, runs in found.items()}
        for key in dict.fromkeys(key for runs in by_side.values() for run in runs for key in run):
            yield (
                title,
                key,
                [_common([run.get(key, "-") for run in runs]) for runs in by_side.values()],
            )


def _common(texts: Sequence[str]) -> str:
    """What all runs of a side say, or each of what they say."""
    several = list(dict.fromkeys(texts))
    if len(several) == 1:
        return several[0]
    text = "; ".join(several)
    return text if len(text) <= LONGEST else f"{len(several)} values, {several[0]} to {several[-1]}"


def _grouped(arm: Arm) -> dict[str, dict[str, str]]:
    """A run's facts by the title under which they are shown."""
    found: dict[str, dict[str, str]] = {}
    for parts, titles, rest in (
        (arm.run.header, GROUPS, OTHER),
        (arm.run.totals, OUTCOMES, ENDED),
    ):
        for key, text in _flat(parts):
            group, _, inner = key.partition(".")
            if group not in OWN:
                titled = group in titles and inner
                found.setdefault(titles.get(group, rest), {})[inner if titled else key] = text
    return found


def _flat(header: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in header.items():
        if key in FRAMING and not prefix:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None and not isinstance(value, bytes):
            text = _fact(value)
            yield f"{prefix}{key}", text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _fact(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def commands_table(sides: Sides) -> Html:
    """The command line that made each run."""
    rows = [
        [place.name, tag("code", shlex.join(["tbench", *map(str, argv)]))]
        for place in places(sides)
        if (argv := place.arm.run.header.get("argv"))
    ]
    return table("How each run was made", ["run", "command"], rows) if rows else html(None)


def _moment(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")


# Outcomes: how often requests failed, by kind and by run, and in which words.

MESSAGES = 10


def kinds(arm: Arm) -> dict[str, int]:
    """Measured requests that did not succeed, commonest kind first: an outcome, or `http_STATUS`."""
    rows = np.flatnonzero(arm.measured & ~arm.ok)
    http, few = Outcome.HTTP_ERROR.value, at(arm.columns, rows, "outcome", "status")
    counts = Counter(
        f"http_{status}" if outcome == http else str(outcome)
        for outcome, status in zip(few["outcome"], few["status"], strict=True)
    )
    return dict(counts.most_common())


def failed_share(arm: Arm) -> float | None:
    """Failed requests of those that succeeded or failed, as the gate on errors counts them."""
    counted = arm.measured & (arm.ok | arm.failed)
    return float(arm.failed[counted].mean()) if counted.any() else None


def outcome_table(sides: Sides) -> Html:
    """Each run's failures by kind."""
    every = [kinds(arm) for _, arm in each(sides)]
    names = sorted({kind for found in every for kind in found})
    if not names:
        n = sum(int(arm.measured.sum()) for _, arm in each(sides))
        return tag("p", f"None of {plural(n, 'request')} failed.")
    head = ["run", "requests", "succeeded", "failed", "share failed", *names]
    rows = [list(_outcomes(place, names)) for place in places(sides)]
    return table("Requests that did not succeed, by kind; without the warm-up", head, rows)


def _outcomes(place: Place, names: list[str]) -> Iterator[object]:
    arm, found = place.arm, kinds(place.arm)
    share = failed_share(arm)
    yield place.name
    for which in (arm.measured, arm.ok & arm.measured, arm.failed & arm.measured):
        yield f"{int(which.sum()):,}"
    yield number(share, "-" if share is None else f"{share:.2%}")
    for name in names:
        yield f"{found.get(name, 0):,}"


def outcome_picture(sides: Sides) -> Picture | None:
    """Shares of requests that failed, by run and kind."""
    found = {
        place.name: {
            kind: count / max(1, int(place.arm.measured.sum()))
            for kind, count in kinds(place.arm).items()
        }
        for place in places(sides)
    }
    return failures(found)


def difference(errors: ErrorDifference) -> Html:
    """How much oftener the candidate of a pair fails, with the interval."""
    said = (
        f"Failures, candidate - baseline: {words.points(errors.difference)} "
        f"[{words.points(errors.low)}, {words.points(errors.high)}], "
        f"n = {errors.n_baseline:,} / {errors.n_candidate:,}, {errors.method}."
    )
    return tag("p", said)


def messages(sides: Sides) -> Html:
    """The commonest error texts of each side."""
    return join(_messages(side, arms) for side, arms in sides.items())


def _messages(side: str, arms: tuple[Arm, ...]) -> Html:
    texts = Counter(
        str(text) for arm in arms for text in arm.columns["error"][np.logical_not(arm.ok)] if text
    )
    if not texts:
        return html(None)
    rows = [[f"{count:,}", text[:LONGEST]] for text, count in texts.most_common(MESSAGES)]
    more = len(texts) - len(rows)
    caption = f"Error texts of {side}" + (
        f", the commonest {MESSAGES} of {len(texts)}" if more else ""
    )
    return table(caption, ["count", "text"], rows)
