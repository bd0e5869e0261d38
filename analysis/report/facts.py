"""Facts: the arms of a report, their runs in order, how each was made, what became of its requests."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np

from tbench.analysis import words
from tbench.analysis.arms import Arm, started_ns
from tbench.analysis.report.markup import Html, html, join, table, tag
from tbench.capture.exchange import Outcome
from tbench.capture.terminal import named, plural
from tbench.replay import metrics
from tbench.replay.cost import FIGURES, Price
from tbench.replay.table import Truths, at
from tbench.replay.table import words as words_of
from tbench.replay.totals import duration_s

Sides = Mapping[str, tuple[Arm, ...]]
"""Shown name -> runs; the baseline first. A report of one pair has one run on each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A run among all: its side, which of the side's runs (1 first), and which of all, by its beginning."""

    side: str
    number: int
    order: int
    several: bool
    arm: Arm

    @property
    def name(self) -> str:
        """As it is shown: the side, and where that has several runs which one."""
        return f"{self.side} {self.number}" if self.several else self.side


def places(sides: Sides) -> list[Place]:
    """All runs in the order in which they began; those that do not say when stay as they were given.

    One run on each side: the baseline first, whichever began first.
    """
    runs = [
        (side, number, arm) for side, arms in sides.items() for number, arm in enumerate(arms, 1)
    ]
    runs.sort(key=lambda run: started_ns(run[2]))
    ordered = [
        Place(side=side, number=number, order=order, several=len(sides[side]) > 1, arm=arm)
        for order, (side, number, arm) in enumerate(runs, 1)
    ]
    if any(place.several for place in ordered):
        return ordered
    return sorted(ordered, key=lambda place: list(sides).index(place.side))


def days(arms: Sequence[Arm]) -> list[str]:
    """The day on which the first of them began, and the last where that is another; UTC."""
    known = sorted(
        {
            f"{datetime.fromtimestamp(ns / 1e9, tz=UTC):%Y-%m-%d}"
            for ns in map(started_ns, arms)
            if ns
        }
    )
    return [" to ".join(dict.fromkeys([known[0], known[-1]]))] if known else []


def about(sides: Sides) -> list[str]:
    """What a picture of these runs is of, a line for each side: model, requests, and the day they began."""
    lines = []
    for side, arms in sides.items():
        models = ", ".join(dict.fromkeys(named(arm.model) for arm in arms if arm.model))
        n = sum(int(arm.measured.sum()) for arm in arms)
        runs = f" in {len(arms)} runs" if len(arms) > 1 else ""
        what = [models or "no model named", f"{plural(n, 'request')}{runs}", *days(arms)]
        lines.append(f"{side}: {', '.join(what)}")
    return lines


# How the runs were made.

LONGEST: Final = 300
"""Characters of a fact that are shown."""
FRAMING: Final = frozenset({"format", "kind", "type", "version", "crc32", "marker"})
"""Fields of a file that say what kind of file it is, not how it was made."""
OWN: Final = frozenset({"run_id", "wall_ns", "argv"})
"""Facts of one run, which are not compared between sides."""
GROUPS: Final[Mapping[str, str]] = {
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
OTHER: Final = "Run"
MADE: Final = frozenset({*GROUPS.values(), OTHER})
"""Titles of how a run was made, where a difference between arms may explain what they show."""
OUTCOMES: Final[Mapping[str, str]] = {
    "client": "The client while it sent",
    "loop_stall_s": "Lateness of the event loop, s",
    "cost": "Cost",
    "client_limit": "Requests for which this client could open no connection",
    "skipped": "Skipped requests",
    "turns": "Turns that continue an earlier answer",
    "hosts": "Requests by the host that they were recorded at",
    "portability": "Requests by what they were sent without, or with another of (docs/portability.md)",
    "unchanged": "Requests that kept their model or fields",
    "masked": "Requests with asterisks for credentials",
}
"""The same of the totals. They differ from run to run, so that a difference is nothing to point at."""
ENDED: Final = "How it ended"


def runs_table(sides: Sides) -> Html:
    """Every run: when it began, what became of it, and whether it counts."""
    head = ["run", "of all", "name", "kind", "began (UTC)", "duration", "requests"]
    head += ["succeeded", "failed", "timed out", "warm-up", "valid"]
    caption = "Runs; `of all` is the place in the order in which they began"
    rows = []
    for place in places(sides):
        arm, began = place.arm, started_ns(place.arm)
        moment = f"{datetime.fromtimestamp(began / 1e9, tz=UTC):%Y-%m-%d %H:%M:%S}"
        fates = (arm.ok, arm.failed, arm.timed_out, arm.columns["warmup"])
        rows.append(
            [
                *(place.name, place.order, arm.name, arm.kind),
                tag("span", moment, class_="whole") if began else "-",
                *(words.amount(duration_s(arm.columns), "s"), f"{len(arm):,}"),
                *(f"{int(which.sum()):,}" for which in fates),
                f"INVALID: {arm.invalid_because}" if arm.invalid_because else "valid",
            ]
        )
    return table(caption, head, rows)


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
    tables = []
    for title, group in groupby(facts(sides), key=itemgetter(0)):
        rows = []
        for _, key, cells in group:
            differs = "differs" if title in MADE and len(set(cells)) > 1 else None
            rows.append([key, *(tag("span", cell, class_=differs) for cell in cells)])
        tables.append(table(title, ["fact", *sides], rows))
    return tag("div", join(tables), class_="facts")


def facts(sides: Sides) -> Iterator[tuple[str, str, list[str]]]:
    """Each fact under its title, with what each side says of it."""
    grouped = {side: [_grouped(arm) for arm in arms] for side, arms in sides.items()}
    for title in (*GROUPS.values(), OTHER, *OUTCOMES.values(), ENDED):
        by_side = {side: [run.get(title, {}) for run in runs] for side, runs in grouped.items()}
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
    grouped: dict[str, dict[str, str]] = {}
    for parts, titles, rest in (
        (_header(arm), GROUPS, OTHER),
        (arm.run.totals, OUTCOMES, ENDED),
    ):
        for key, text in _flat(parts):
            group, _, inner = key.partition(".")
            if group not in OWN:
                titled = group in titles and inner
                grouped.setdefault(titles.get(group, rest), {})[inner if titled else key] = text
    return grouped


def _header(arm: Arm) -> Mapping[str, object]:
    """A run's header, with the prices of the models that it asked alone: a price list has hundreds."""
    target = arm.run.header.get("target") or {}
    asked = words_of(arm.columns, "model")
    prices = {
        model: _price(Price(*figures))
        for model, figures in (target.get("prices") or {}).items()
        if model in asked
    }
    return {**arm.run.header, "target": {**target, "prices": prices}}


def _price(price: Price) -> str:
    named_figures = zip(FIGURES, price, strict=False)
    figures = (f"{name} {figure:g}" for name, figure in named_figures if figure is not None)
    source = f"; {price.source}" if price.source else ""
    return f"{', '.join(figures)} US dollars per million tokens{source}"


def _flat(header: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each value under its path, such as `target.base_url`; bytes are no fact that a person reads."""
    for key, value in header.items():
        match value:
            case _ if key in FRAMING and not prefix:
                continue
            case Mapping():
                yield from _flat(value, f"{prefix}{key}.")
            case None | bytes():
                continue
            case _:
                text = _text(value)
                yield f"{prefix}{key}", text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _text(value: object) -> str:
    match value:
        case Mapping():
            return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
        case list():
            rows = any(isinstance(item, Mapping) for item in value)
            return ("; " if rows else ", ").join(map(_text, value)) or "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case None:
            return "-"
    return str(value)


def commands_table(sides: Sides) -> Html:
    """The command line that made each run."""
    rows = [
        [place.name, tag("code", shlex.join(["tbench", *map(str, argv)]))]
        for place in places(sides)
        if (argv := place.arm.run.header.get("argv"))
    ]
    return table("How each run was made", ["run", "command"], rows) if rows else html(None)


# Outcomes: how often requests failed, by kind and by run, and in which words.

MESSAGES: Final = 10
"""So many error texts of a side are listed."""


def kinds(arm: Arm, which: Truths | None = None) -> dict[str, int]:
    """Measured requests that did not succeed, commonest kind first: an outcome, or `http_STATUS`.

    `which` are those that count; None: all.
    """
    rows = np.flatnonzero(arm.measured & (~arm.ok if which is None else which))
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


def failed_shares(arm: Arm) -> dict[str, float]:
    """`failed_share` by kind, commonest first; they add up to it."""
    n = int((arm.measured & (arm.ok | arm.failed)).sum())
    return {kind: count / n for kind, count in kinds(arm, arm.failed).items()}


def messages(sides: Sides) -> Html:
    """The commonest error texts of each side, of the requests that `kinds` counts."""
    tables = []
    for side, arms in sides.items():
        errors = (arm.columns["error"][arm.measured & ~arm.ok] for arm in arms)
        texts = Counter(str(text) for column in errors for text in column if text)
        if not texts:
            continue
        rows = [[f"{count:,}", text[:LONGEST]] for text, count in texts.most_common(MESSAGES)]
        cut = len(texts) > len(rows)
        more = f", the commonest {MESSAGES} of {len(texts)}" if cut else ""
        tables.append(table(f"Error texts of {side}{more}", ["count", "text"], rows))
    return join(tables)


# The slowest requests, with all that leads to them in a server's logs.


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """One request that took long, whatever became of it. None where absent.

    `took_s` is to its end, from when it was due (closed pacing: sent); `at_s` is that instant, from the
    run's start, `sent_wall_ns` CLOCK_REALTIME when it was sent. `request_id` is the server's own id of
    its answer, `headers` what else the server said of how it made it.
    """

    id: str
    cycle: int
    at_s: float
    sent_wall_ns: int | None
    took_s: float
    ttft_s: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    status: int | None
    outcome: str
    request_id: str | None
    headers: tuple[tuple[str, str], ...]


_SHOWN: Final = (
    *("id", "cycle", "index", "sent_wall_ns", "first_token", "prompt_tokens", "output_tokens"),
    *("status", "outcome", "request_id"),
)


def slowest(arm: Arm, most: int) -> list[Slow]:
    """The requests outside the warm-up that took longest, the slowest first; at most so many."""
    # To the last token of what succeeded, to the end of anything else.
    until_end = np.asarray(arm.columns["end"] - arm.offset_s)
    took = np.where(arm.ok, metrics.e2e(arm.columns), until_end)
    known = np.flatnonzero(arm.measured & np.isfinite(took))
    if (
        len(known) > most
    ):  # a million need no sorting: first those that are as slow as the last shown
        least = np.partition(took[known], -most)[-most]
        known = known[took[known] >= least]
    # Stable, so that equally slow requests stay in the order of the plan.
    places = known[np.argsort(-took[known], kind="stable")[:most]]
    columns = at(arm.columns, places, *_SHOWN)
    headers = arm.run.answer_headers(columns["index"].tolist()) if arm.kind == "run" else {}
    slow = []
    for row, place in enumerate(places.tolist()):
        values = {name: column[row] for name, column in columns.items()}
        at_s = float(arm.offset_s[place])
        ttft_s = float(values["first_token"]) - at_s
        slow.append(
            Slow(
                id=str(values["id"]),
                cycle=int(values["cycle"]),
                at_s=at_s,
                sent_wall_ns=_count(values["sent_wall_ns"]),
                took_s=float(took[place]),
                ttft_s=None if np.isnan(ttft_s) else ttft_s,
                prompt_tokens=_count(values["prompt_tokens"]),
                output_tokens=_count(values["output_tokens"]),
                status=_count(values["status"]),
                outcome=str(values["outcome"]),
                request_id=str(values["request_id"]) or None,
                headers=headers.get(int(values["index"]), ()),
            )
        )
    return slow


def _count(value: int) -> int | None:
    return None if value < 0 else int(value)
