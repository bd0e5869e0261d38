"""Two traces beside each other: exchange by exchange, and as mixes of traffic.

A benchmark's traffic is rarely that of an application. How far the two are apart is said dimension by
dimension, next to how far two halves of one trace are apart: what is no more than that may be chance.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from heapq import merge
from itertools import groupby
from math import sqrt
from operator import itemgetter
from typing import Any, Final

from tbench.capture.exchange import Exchange
from tbench.capture.filters import Filter, Pass
from tbench.capture.histogram import Histogram
from tbench.capture.jsontext import rewritten
from tbench.capture.providers import ParsedRequest
from tbench.capture.sessions import Recent
from tbench.capture.trace_info import WINDOWS_S, Dispersion, Facts
from tbench.capture.trace_reader import Trace

# Exchange by exchange.

_TIMES: Final = {"arrive_ns", "end_ns", "head_ns"}


@dataclass(kw_only=True)
class Difference:
    """What two traces share: `same` exchanges, and those that are in one alone or differ, as they are met.

    `lines` are the first of the latter: the id, and what differs (`request.body`) or which trace it is in.
    """

    same: int = 0
    changed: int = 0
    only: list[int] = field(default_factory=lambda: [0, 0])
    lines: list[tuple[str, str]] = field(default_factory=list)


def difference(first: Trace, second: Trace, most: int) -> Difference:
    """Join two traces by id and date of arrival, in one pass and bounded memory."""

    def dated(trace: Trace, side: int) -> Iterator[tuple[int, int, Exchange]]:
        for exchange in trace:
            yield trace.header.wall(exchange.request.arrive_ns), side, exchange

    result = Difference()
    both = merge(dated(first, 0), dated(second, 1), key=itemgetter(0))
    for _, group in groupby(both, key=itemgetter(0)):
        sides: dict[str, dict[int, Exchange]] = {}
        for _, side, exchange in group:
            sides.setdefault(exchange.request.id, {})[side] = exchange
        for id_, pair in sides.items():
            if len(pair) < 2:
                (side,) = pair
                result.only[side] += 1
                what = f"only in the {('first', 'second')[side]}"
            elif names := list(_unequal(pair[0], pair[1])):
                result.changed += 1
                what = ", ".join(names)
            else:
                result.same += 1
                continue
            if len(result.lines) < most:
                result.lines.append((id_, what))
    return result


def _unequal(first: Exchange, second: Exchange) -> Iterator[str]:
    """The names of what differs; times count from the arrival."""
    starts = first.request.arrive_ns, second.request.arrive_ns
    if (first.response is None) != (second.response is None):
        yield "response"
        return
    pairs: list[tuple[str, Any, Any]] = [("request", first.request, second.request)]
    if first.response is not None:
        pairs.append(("response", first.response, second.response))
    for name, record, other in pairs:
        for member in fields(record):
            values = []
            for side, start in zip((record, other), starts, strict=True):
                value = getattr(side, member.name)
                if member.name in _TIMES and value is not None:
                    value -= start
                elif member.name == "chunks":
                    value = [(chunk.at_ns - start, chunk.size) for chunk in value]
                values.append(value)
            if values[0] != values[1]:
                yield f"{name}.{member.name}"


# As mixes of traffic.

BLOCK_BYTES: Final = 256
"""Of a prompt: prefixes are compared in whole blocks."""
REMEMBERED: Final = 200_000
"""Blocks whose hashes are kept to find shared prefixes; a prefix unused for longer counts as new."""


def prompt_bytes(parsed: ParsedRequest, body: bytes | None) -> bytes:
    """A prompt as bytes whose prefixes are equal where its messages begin equally; else the body."""
    if messages := parsed.messages:
        return b"".join(map(rewritten, messages))
    prompt = (parsed.payload or {}).get("prompt")
    return prompt.encode("utf-8", "replace") if isinstance(prompt, str) else body or b""


def prefix_hashes(prompt: bytes, block: int) -> Iterator[int]:
    """For each block of so many bytes, the last one cut short, a 52-bit hash of it and all before it."""
    last = b""
    for start in range(0, len(prompt), block):
        last = blake2b(last + prompt[start : start + block], digest_size=16).digest()
        yield int.from_bytes(last[:8], "big") >> 12  # what JSON's numbers hold everywhere


class Prefixes:
    """Which share of the prompts' whole blocks begins as an earlier prompt did."""

    def __init__(self) -> None:
        self._seen: Recent[int, None] = Recent(REMEMBERED)
        self.blocks = self.shared = 0

    def add(self, prompt: bytes) -> tuple[int, int]:
        """Count a prompt: its whole blocks, and how many of the first ones were seen before."""
        total = shared = 0
        new = False
        for number in prefix_hashes(
            prompt[: len(prompt) // BLOCK_BYTES * BLOCK_BYTES], BLOCK_BYTES
        ):
            total += 1
            new = new or number not in self._seen
            shared += not new
            self._seen.keep(number, None)
        return total, shared


LEAST_WINDOWS: Final = 20
"""Of an index of dispersion: its own deviation is about sqrt(2 / windows) of it."""


class Burstiness:
    """How unevenly requests arrive: the variation of the gaps, and dispersion in windows."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._gaps = 0
        self._sum = self._squares = 0.0
        self._windows = {name: Dispersion(round(s * 1e9)) for name, s in WINDOWS_S.items()}

    def add(self, at_ns: int) -> None:
        """Count one arrival, in order."""
        if self._last is not None:
            gap = (at_ns - self._last) / 1e9
            self._gaps += 1
            self._sum += gap
            self._squares += gap * gap
        self._last = at_ns
        for window in self._windows.values():
            window.add(at_ns)

    def figures(self) -> dict[str, tuple[float | None, int]]:
        """CV of gaps (1 is Poisson) and the index of dispersion by window, each with how many there are.

        None where they are too few to say: an index of twenty windows is within a third of the truth.
        """
        mean = self._sum / self._gaps if self._gaps else 0.0
        # Of even gaps rounding may leave a variance below 0.
        cv = sqrt(max(0.0, self._squares / self._gaps - mean * mean)) / mean if mean else None
        result: dict[str, tuple[float | None, int]] = {"CV of gaps": (cv, self._gaps)}
        for name, window in self._windows.items():
            n = window.windows
            result[f"IDC in {name} s"] = (window.index if n >= LEAST_WINDOWS else None, n)
        return result


NUMBERS: Final = ("prompt_tokens", "output_tokens", "request_bytes", "messages", "gap_s")
WORDS: Final = ("models", "endpoints", "streaming", "tools", "images", "outcomes")
"""The dimensions that are distributions: of numbers, and of words."""


class Mix:
    """A trace as a mix of traffic, all of it in two halves: sessions by their hash, bursts by the time."""

    def __init__(self) -> None:
        self.requests = self.sessions = 0
        self.numbers = {name: (Histogram(), Histogram()) for name in NUMBERS}
        self.words: dict[str, tuple[Counter[str], Counter[str]]] = {
            name: (Counter(), Counter()) for name in WORDS
        }
        self.bursts = Burstiness()
        self.half_bursts = Burstiness(), Burstiness()
        self.blocks = [[0, 0], [0, 0]]
        """For each half: whole blocks of prompts, and those shared."""

    def read(self, trace: Trace, wanted: Filter) -> None:
        """Count the exchanges that a filter leaves."""
        walk, prefixes, met = Pass(wanted, sessions=True), Prefixes(), bytearray()
        first, last = trace.arrivals
        first, last = max(first, wanted.from_ns), min(last, wanted.to_ns)
        before: int | None = None
        for exchange in trace:
            if not walk.keeps(exchange):
                continue
            facts, request = Facts(exchange, walk.place), exchange.request
            assert facts.place is not None
            half, usage, info = walk.hash & 1, facts.usage, facts.parsed.info
            met.extend(bytes(len(walk.hashes) - len(met)))
            met[facts.place.number - 1] = 1
            gap = None if before is None else (request.arrive_ns - before) / 1e9
            before = request.arrive_ns
            numbers = (usage.prompt, usage.output, request.body_bytes, info.inputs, gap)
            for name, value in zip(NUMBERS, numbers, strict=True):
                if value is not None:
                    self.numbers[name][half].add(value)
            words = (
                info.model or "none",
                info.endpoint,
                "stream" if info.stream else "whole",
                "tools" if facts.tools else "none",
                "images" if info.images else "none",
                facts.outcome if exchange.response else None,  # a synthesised trace has none
            )
            for name, word in zip(WORDS, words, strict=True):
                if word is not None:
                    self.words[name][half][word] += 1
            blocks, shared = prefixes.add(prompt_bytes(facts.parsed, request.body))
            self.blocks[half][0] += blocks
            self.blocks[half][1] += shared
            self.bursts.add(request.arrive_ns)
            # By time, not by session: half of the sessions of a burst are no burst.
            self.half_bursts[2 * request.arrive_ns > first + last].add(request.arrive_ns)
            self.requests += 1
        self.sessions = sum(met)


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """How far two mixes are apart in one respect.

    `distance` is from 0 (alike) to 1: of numbers the greatest difference of their distributions (Kolmogorov
    and Smirnov's), of words the share that would have to change (total variation), of single figures the
    difference over the larger one, of shares the difference. `within` is the same between the halves of each
    trace. `values` are what it is in each, `n` the requests (gaps, windows) that it is known of. None is
    unknown.
    """

    name: str
    distance: float | None
    within: tuple[float | None, float | None]
    values: tuple[Any, Any]
    n: tuple[int, int]

    @property
    def beyond(self) -> bool:
        """Whether the traces are further apart than the halves of either."""
        known = [value for value in self.within if value is not None]
        return self.distance is not None and bool(known) and self.distance > max(known)


def dimensions(first: Mix, second: Mix) -> Iterator[Dimension]:
    """Every dimension of two mixes."""
    mixes = first, second
    for name in NUMBERS:
        halves = [mix.numbers[name] for mix in mixes]
        sums = []
        for half, other in halves:
            total = half.copy()
            total.merge(other)
            sums.append(total)
        yield Dimension(
            name=name,
            distance=_apart(sums[0].shares(), sums[1].shares(), ordered=True),
            within=_each(_apart(a.shares(), b.shares(), ordered=True) for a, b in halves),
            values=_each(
                {"p50": total.quantile(0.5), "p95": total.quantile(0.95)} for total in sums
            ),
            n=(sums[0].n, sums[1].n),
        )
    for name in WORDS:
        counts = [mix.words[name] for mix in mixes]
        totals = [half + other for half, other in counts]
        yield Dimension(
            name=name,
            distance=_apart(_normal(totals[0]), _normal(totals[1])),
            within=_each(_apart(_normal(a), _normal(b)) for a, b in counts),
            values=_each(_normal(Counter(dict(total.most_common()))) for total in totals),
            n=(totals[0].total(), totals[1].total()),
        )
    shares = [
        [
            shared / blocks if blocks else None
            for blocks, shared in (*mix.blocks, map(sum, zip(*mix.blocks, strict=True)))
        ]
        for mix in mixes
    ]
    yield Dimension(
        name="prefix sharing",
        distance=_off(shares[0][2], shares[1][2], relative=False),
        within=_each(_off(a, b, relative=False) for a, b, _ in shares),
        values=(shares[0][2], shares[1][2]),
        n=(first.requests, second.requests),
    )
    bursts = [mix.bursts.figures() for mix in mixes]
    halves_of = [[half.figures() for half in mix.half_bursts] for mix in mixes]
    for name in bursts[0]:
        (value, n), (other_value, other_n) = (figures[name] for figures in bursts)
        yield Dimension(
            name=name,
            distance=_off(value, other_value),
            within=_each(_off(early[name][0], late[name][0]) for early, late in halves_of),
            values=(value, other_value),
            n=(n, other_n),
        )


def _each[Value](pair: Iterable[Value]) -> tuple[Value, Value]:
    first, second = pair
    return first, second


def _normal(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {word: count / total for word, count in counts.items()}


def _apart(
    first: Mapping[Any, float], second: Mapping[Any, float], *, ordered: bool = False
) -> float | None:
    """Total variation of two distributions, or the greatest difference of their sums; None without one."""
    if not (first and second):
        return None
    gaps = [first.get(key, 0.0) - second.get(key, 0.0) for key in sorted({*first, *second})]
    if not ordered:
        return sum(map(abs, gaps)) / 2
    total = most = 0.0
    for gap in gaps:
        total += gap
        most = max(most, abs(total))
    return most


def _off(first: float | None, second: float | None, *, relative: bool = True) -> float | None:
    """How far two figures are apart, relative to the larger one."""
    if first is None or second is None:
        return None
    scale = max(first, second) if relative else 1.0
    return abs(first - second) / scale if scale else 0.0
