"""Throughput: what a run did per second. The one definition: replay, report, compare and the gates ask here.

Successes, over the time from the first request sent to the last end (of all the requests that are asked
for, failures too); of a closed loop as much of each as lies in the time in which all places were taken.
Tokens are those of the server's `usage`; a success that should have some and names none is counted as such,
so that a sum is known to be a lower bound.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from tbench.capture.exchange import Outcome
from tbench.capture.providers import TEXTLESS, WORDLESS
from tbench.capture.terminal import plural
from tbench.replay.columns import Column
from tbench.replay.metrics import Columns
from tbench.replay.runfile import Run
from tbench.replay.table import at, where


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of one side: those that the server counted, and the `uncounted` of `n` successes."""

    total: float = 0
    n: int = 0
    uncounted: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            total=self.total + other.total,
            n=self.n + other.n,
            uncounted=self.uncounted + other.uncounted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What some requests of a run add up to: `n` of them, from `began` to `ended` (s), and their successes.

    Those of parts of a run add up to that of the whole.
    """

    n: int = 0
    began: float = np.inf
    ended: float = -np.inf
    successes: float = 0
    input: Tokens = Tokens()
    output: Tokens = Tokens()

    def __add__(self, other: "Throughput") -> "Throughput":
        return Throughput(
            n=self.n + other.n,
            began=min(self.began, other.began),
            ended=max(self.ended, other.ended),
            successes=self.successes + other.successes,
            input=self.input + other.input,
            output=self.output + other.output,
        )

    @property
    def seconds(self) -> float:
        """The time that rates are over; 0 where nothing was sent and ended."""
        return max(0.0, self.ended - self.began)

    def per_s(self, amount: float) -> float | None:
        """So much per second; None where there is no time."""
        return amount / self.seconds if self.seconds else None

    def tokens_per_s(self, *sides: Tokens) -> float | None:
        """Tokens per second, at least; None where no success has a count, though some should."""
        if any(side.n and side.uncounted == side.n for side in sides):
            return None
        return self.per_s(sum(side.total for side in sides))

    @property
    def figures(self) -> dict[str, Any]:
        """The keys of `replay --json`."""
        return {
            "throughput_over_s": self.seconds,
            "requests_per_s": self.per_s(self.successes) or 0.0,
            "output_tokens_per_s": self.tokens_per_s(self.output),
            "input_tokens_per_s": self.tokens_per_s(self.input),
            "total_tokens_per_s": self.tokens_per_s(self.input, self.output),
            "without_token_counts": {
                "input": self.input.uncounted,
                "output": self.output.uncounted,
            },
        }


def throughput(columns: Columns, rows: Column | slice, shares: Column | None = None) -> Throughput:
    """That of the requests at these places, or where a mask is true; of each its share, if there are some."""
    sent, end = columns["sent"][rows], columns["end"][rows]
    timed = ~np.isnan(sent) & ~np.isnan(end)
    weight = None if shares is None else shares[rows]
    ok = where(columns, "outcome", Outcome.OK)[rows]
    textless = where(columns, "endpoint", *TEXTLESS)[rows]
    wordless = where(columns, "endpoint", *WORDLESS)[rows]
    return Throughput(
        n=len(sent),
        began=float(sent[timed].min(initial=np.inf)),
        ended=float(end[timed].max(initial=-np.inf)),
        successes=float(np.count_nonzero(ok) if weight is None else weight[ok].sum()),
        input=_tokens(columns["prompt_tokens"][rows], ok & ~textless, weight),
        output=_tokens(columns["output_tokens"][rows], ok & ~wordless, weight),
    )


def _tokens(counts: Column, asked: Column, weight: Column | None) -> Tokens:
    """Of the successes that should have some; -1 is "not counted"."""
    has = asked & (counts > 0)
    total = counts.sum(where=has, dtype=np.int64) if weight is None else counts[has] @ weight[has]
    return Tokens(
        total=float(total),
        n=int(asked.sum()),
        uncounted=int((asked & (counts < 0)).sum()),
    )


# A closed loop's places are all taken until there is nothing left to send; its rates are of that time.


class Window(NamedTuple):
    """How much of each request a rate counts (0 to 1), over which time (s), and if a loop was full then."""

    shares: Column
    began: float
    ended: float
    full: bool = False


def window(run: Run, rows: Column) -> Window:
    """What a rate of these measured requests is of: of an open loop themselves, from first sent to last end.

    Of a closed loop it is the time in which every place was taken: from the first of them sent to the first
    end after which a place stayed empty. Each request counts by the share of its own time that lies in it,
    what the warm-up sent as well, be it that of another run: a count of ends would leave out a whole round
    of a loop in lockstep, a count of sends would add one. Where not so much as one request ended for each
    place there was no such time, and it is as in an open loop.
    """
    columns = run.columns
    sent, end = columns["sent"], columns["end"]
    timed = ~np.isnan(sent) & ~np.isnan(end)
    chosen = np.zeros(len(sent), dtype=bool)
    chosen[rows] = True
    began = float(sent[chosen & timed].min(initial=np.inf))
    every = Window(chosen.astype(float), began, float(end[chosen & timed].max(initial=-np.inf)))
    places, until = _places_taken(run, timed)
    counted = timed & (end > began)
    if until is None or (counted & (end <= until)).sum() < places:
        return every
    shares = np.zeros(len(sent))
    shares[counted] = _shares(sent[counted], end[counted], began, until)
    return Window(shares, began, until, full=True)


def _shares(sent: Column, end: Column, began: float, until: float) -> Column:
    """The share of the time of each request that lies between these instants."""
    inside = np.minimum(end, until) - np.maximum(sent, began)
    # 0 / 0 would be NaN, and with it every rate.
    lasted = np.maximum(end - sent, np.finfo(float).tiny)
    return np.asarray(np.clip(inside / lasted, 0.0, 1.0))


def shares_places(run: Run) -> bool:
    """Whether it was an arm of a duet in a closed loop: the places are those of all its arms together."""
    part, pacing = run.header.get("experiment") or {}, run.header.get("pacing") or {}
    return part.get("schedule") == "duet" and pacing.get("open_loop") is False


def _places_taken(run: Run, timed: Column) -> tuple[float, float | None]:
    """The places of a closed loop, and when the first stayed empty: a request's, or a conversation's.

    A place that is free is taken by the next that is sent: of n the first n - places that end are followed.
    """
    columns, pacing = run.columns, run.header.get("pacing") or {}
    places = pacing.get("value") or 0
    if pacing.get("mode") not in PLACED or shares_places(run):
        return places, None
    end = columns["end"][timed]
    if pacing["mode"] == "sessions":
        pairs = np.stack([columns["session"][timed], columns["cycle"][timed]])
        _, session = np.unique(pairs, axis=1, return_inverse=True)
        lasts = np.full(session.max(initial=-1) + 1, -np.inf)
        np.maximum.at(lasts, session, end)
        end = lasts
    followed = len(end) - int(places)
    return places, float(np.partition(end, followed)[followed]) if followed > 0 else None


def rate_of(run: Run, rows: Column) -> Throughput:
    """The throughput of these measured requests of a run."""
    shares, began, ended, _ = window(run, rows)
    return replace(throughput(run.columns, shares > 0, shares), began=began, ended=ended)


PLACED: Final = {"concurrency", "sessions"}
"""The pacings that keep so many places taken from their first to their last request."""
DRAIN_SHARE: Final = 0.01
"""A tail that is shorter than this share of the time before it is not worth a line."""


def drain(run: Run) -> dict[str, float] | None:
    """What of a closed loop its rates leave out: `requests` that ended behind the window, over how long.

    None in an open loop, and where all of the run counts.
    """
    columns = run.columns
    within = window(run, ~columns["warmup"])
    return _drain(columns["end"], within) if within.full else None


def _drain(end: Column, within: Window) -> dict[str, float] | None:
    late = end[end > within.ended]
    if not len(late):
        return None
    return {
        "requests": len(late),
        "over_s": float(late.max()) - within.ended,
        "window_s": within.ended - within.began,
    }


def drained(figures: Mapping[str, float] | None) -> str | None:
    """The same in words; None where it was short."""
    if figures is None or figures["over_s"] <= DRAIN_SHARE * figures["window_s"]:
        return None
    late = plural(round(figures["requests"]), "request")
    return (
        f"{late} ended when places stayed empty, over the last {three(figures['over_s'])} s: the rates "
        "are of the time before"
    )


class Rates(NamedTuple):
    """What a run does per second: its throughput, the good requests of that, what it leaves out (`drain`)."""

    throughput: Throughput
    good: float
    drain: dict[str, float] | None


HELD: Final = 2_000_000
"""So many requests are held until the window is known: 0.1 GB."""
HOLDING: Final = ("sent", "end", "outcome", "endpoint", "prompt_tokens", "output_tokens")
"""Their columns."""


class RatesOfParts:
    """The rates of a run that comes in parts, by the same window.

    What is sure to lie in it is added up at once. The others are held until its end is known: what ended
    behind the earliest time at which it may end, by what has come so far, and what the warm-up sent. They are
    few, unless most of the sessions outlast it: of more than HELD the rates are of the whole run (`crowded`).
    """

    def __init__(self, run: Run) -> None:
        pacing = run.header.get("pacing") or {}
        placed = pacing.get("mode") in PLACED and not shares_places(run)
        self._places = int(pacing.get("value") or 0) if placed else 0
        self._by_session = pacing.get("mode") == "sessions"
        self._warmup_s = float(run.totals.get("warmup_s") or 0.0)
        # The last ends, of requests or sessions: one more than there are places, or none was ever free.
        self._keys, self._ends = np.empty(0, np.int64), np.empty(0)
        self._inside, self._good = Throughput(), 0
        self._held: dict[str, Column] = {}
        self.crowded = False

    def add(self, columns: Columns, rows: Column | slice, good: Column) -> None:
        """Of a part: which requests are not warm-up, and which are good."""
        if not self._places or self.crowded:
            self._count(columns, rows, good)
            return
        self._follow(columns)
        end, measured = columns["end"], np.logical_not(columns["warmup"])
        sure = measured & (end <= self._until)
        self._count(columns, sure, good)
        late = np.flatnonzero(~sure & (measured | (end > self._warmup_s)))
        part = at(columns, late, *HOLDING) | {"measured": measured[late], "good": good[late]}
        held = {
            name: np.concatenate([self._held.get(name, new[:0]), new]) for name, new in part.items()
        }
        self.crowded = len(late := held["end"]) > HELD
        sure = held["measured"] & (self.crowded | (late <= self._until))
        self._count(held, sure, held["good"])
        rest = ~sure & (not self.crowded)
        self._held = {name: column[rest] for name, column in held.items()}

    @property
    def _until(self) -> float:
        """The earliest end that the window can have by now."""
        known = len(self._ends) >= self._places > 0
        return float(np.partition(self._ends, -self._places)[-self._places]) if known else -np.inf

    def _follow(self, columns: Columns) -> None:
        timed = ~np.isnan(columns["sent"]) & ~np.isnan(columns["end"])
        ends = np.concatenate([self._ends, columns["end"][timed]])
        if self._by_session:
            session, cycle = (
                columns[name][timed].astype(np.int64) for name in ("session", "cycle")
            )
            # Both are 32 bits in a file: one number for the pair, and no two pairs with the same.
            keys = np.concatenate([self._keys, session * 2**32 + cycle])
            self._keys, place = np.unique(keys, return_inverse=True)
            lasts = np.full(len(self._keys), -np.inf)
            np.maximum.at(lasts, place, ends)
            ends = lasts
        most = self._places + 1
        last = np.argpartition(ends, -most)[-most:] if len(ends) > most else slice(None)
        self._ends, self._keys = ends[last], self._keys[last] if self._by_session else self._keys

    def _count(self, columns: Columns, rows: Column | slice, good: Column) -> None:
        self._inside += throughput(columns, rows)
        self._good += int(np.count_nonzero(good[rows]))

    def close(self) -> Rates:
        """The rates, once all parts have come."""
        held = self._held
        rows = held.get("measured", np.empty(0, bool)).astype(bool)
        every = self._inside + throughput(held, rows) if held else self._inside
        plain = Rates(every, self._good + int(held["good"][rows].sum() if held else 0), None)
        until, sent, end = self._until, held.get("sent"), held.get("end")
        if self.crowded or sent is None or end is None or len(self._ends) <= self._places:
            return plain
        timed = ~np.isnan(sent) & (end > every.began)
        if self._inside.n + np.count_nonzero(timed & (end <= until)) < self._places:
            return plain
        shares = np.where(timed, _shares(sent, end, every.began, until), 0.0)
        inside = self._inside + throughput(held, shares > 0, shares)
        within = Window(shares, every.began, until, full=True)
        return Rates(
            replace(inside, began=every.began, ended=until),
            self._good + float(shares[held["good"]].sum()),
            _drain(end, within),
        )


SIDES: Final = {"output": "output tok/s", "input": "input tok/s"}


def spoken(figures: Mapping[str, Any]) -> str:
    """The throughput of `replay --json` in words."""
    rates = (
        tokens_rate(figures[f"{side}_tokens_per_s"], unit, figures["without_token_counts"][side])
        for side, unit in SIDES.items()
    )
    return ", ".join([f"{three(figures['requests_per_s'])} req/s", *rates])


def tokens_rate(rate: float | None, unit: str, missing: int) -> str:
    """A rate of tokens in words; at least that where some successes name none, unknown where none does."""
    if not missing:
        return f"{'-' if rate is None else three(rate)} {unit}"
    shown = f"{unit} unknown" if rate is None else f"at least {three(rate)} {unit}"
    return f"{shown} ({plural(missing, 'success', 'successes')} without token counts)"


def usd(value: float) -> str:
    """US dollars with three significant digits, and cents at least: $0.000123, $12.30."""
    digits = 2 if value >= 1 or not value else 2 - math.floor(math.log10(value))
    return f"${value:,.{digits}f}"


def three(value: float, digits: int = 3) -> str:
    """Three significant digits (or so many): 15 stands as 15.0 beside 14.5; not scientific from 0.001 on."""
    if not value:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) - 0.05 else f"{value:#.{digits}g}"
