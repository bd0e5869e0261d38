"""The plan: which requests of a trace are sent again, in which order, and what is left out and why."""

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from operator import attrgetter
from typing import Any, Final, NamedTuple

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange
from tbench.capture.filters import EVERYTHING, Filter, Pass, none_left
from tbench.capture.providers import (
    PROMISED,
    ParsedRequest,
    RequestInfo,
    Usage,
    parse_recorded,
    parse_request,
)
from tbench.capture.recent import Recent
from tbench.capture.sessions import Place, Sessions
from tbench.replay.live_history import assistant_runs
from tbench.replay.pacing import ALONE, Clones, gap_between_rounds
from tbench.replay.portability import Level, left_out


@dataclass(slots=True, kw_only=True)
class Planned:
    """One request to send: its place, its copy, and its arrival.

    `cycle` counts the copies of the recording, round after round, and `clone` only those within its round.
    `offset` is seconds after the first planned request, rounds included. `payload` is the JSON object of its
    body where that can be written again (an orjson reading), else None. `session` numbers the conversation
    that it belongs to; it is the same in every copy. `after` are the indexes of the requests whose answers it
    holds and that had ended before it arrived, and `think` the recorded seconds from the last of those ends
    to this arrival. It is `severed` where another is missing there that is sent apart, and has `forgotten`
    where one was planned too long before it. `opening` is the index of its session's first request in a plan
    by session, else None. `history`, where the plan asks for it, are the indexes of those whose answers its
    conversation holds as it was, oldest first, each with its place among the assistant's turns.
    """

    index: int
    cycle: int
    session: int
    offset: float
    exchange: Exchange
    info: RequestInfo
    payload: Mapping[str, Any] | None = None
    after: tuple[int, ...] = ()
    history: tuple[tuple[int, int], ...] = ()
    think: float = 0.0
    severed: bool = False
    forgotten: bool = False
    clone: int = 0
    opening: int | None = None


def recorded_usage(exchange: Exchange) -> Usage:
    """What the server counted when the exchange was captured; of a synthesised one, what was counted then."""
    response = exchange.response
    if response is None:
        made = exchange.request.extra.get("prompt_tokens")
        return Usage(prompt=made if isinstance(made, int) else None)
    if not response.body or response.status is None:
        return Usage()
    return parse_recorded(response).usage


Rule = Callable[[Exchange, RequestInfo], bool]
Refusal = Callable[[Exchange, ParsedRequest], str | None]
"""Why a request cannot be put to a target; None where it can."""


REMEMBERED: Final = 30_000
"""A conversation whose last turn is older than so many requests starts anew: what bounds the memory."""
LONGEST_PATH: Final = 16_384
"""Bytes of a path and its query that are sent; servers take 4,096 to 16,384."""


def leads_elsewhere(path: str) -> bool:
    """Behind a base URL, "@host/v1" and ":81/v1" would take the key to another server."""
    if 4 * len(path) > LONGEST_PATH and len(path.encode("utf-8", "replace")) > LONGEST_PATH:
        return True
    return path[:1] != "/"


SKIPS: Final[tuple[tuple[str, Rule], ...]] = (
    (
        "websocket",
        lambda exchange, _: (exchange.request.header("upgrade") or "").lower() == "websocket",
    ),
    (
        "retry",
        lambda exchange, _: (
            exchange.request.retry_of is not None
            or (exchange.request.header("x-stainless-retry-count") or "0") != "0"
        ),
    ),
    ("redirect", lambda exchange, _: exchange.response is not None and exchange.response.led_back),
    ("path", lambda exchange, _: leads_elsewhere(exchange.request.path)),
    ("endpoint", lambda _, info: info.endpoint not in PROMISED),
    ("no_body", lambda exchange, _: not exchange.request.body and exchange.request.body_bytes > 0),
    ("truncated_body", lambda exchange, _: bool(exchange.request.extra.get("truncated"))),
)
"""Reason -> rule; the first that holds is why a request is not sent again.

websocket: not HTTP. retry: an SDK's second attempt; the replay must not add to the load what a failure
caused. redirect: its client asked again where it was led, through the capture: that request is in the trace,
too. path: not one of this server's, or over 16 KiB. endpoint: not stateless inference, so sending it again
could change or spend something. no_body, truncated_body: the trace does not hold what was sent. A plan has
three more: only (not one of those asked for), host (went elsewhere than the first ones, without a base URL),
encoding (a body to be changed that cannot be decoded); and those of replay.portability.
"""
NOTHING: Final[Mapping[str, Any]] = {}
STATE: Final = frozenset[Level]({"state"})


def nobody(_exchange: Exchange, _parsed: ParsedRequest) -> None:
    """The rule of a plan without targets: none of them leaves a request out."""


def nothing_to_send(
    trace: object, skipped: Mapping[str, int], words: Sequence[str] = ()
) -> InputError:
    """The error of a plan that leaves nothing of a trace; `words` are those of its filter."""
    if words and skipped.keys() == {"only"}:
        return none_left(trace, words)
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    why = f" (left out: {reasons})" if reasons else ""
    return InputError(f"{trace}: holds no request to send{why}")


@dataclass(kw_only=True)
class Plan:
    """The requests of `trace` that are sent, `rounds` times over (None: without end).

    Iterating reads the trace as it goes, once per round, and may be done again from the start. A round
    follows the last one after the recorded mean gap, and holds all `clones` of the recording, in the order of
    their arrivals; or, `by_session`, one session after another. `requests` ends the plan early. `only` says
    which are meant, `host` is the one that every request must have gone to (None: any). `rewrites` says that
    bodies are to be changed, `refuses` why a request cannot be put to a target. With `apart` each session is
    sent by itself: a request waits for no other session's answer. `live` asks for the history of each.
    `severed` and `forgotten` count what was yielded of either.

    Of the first round, as far as it was read: `skipped` counts the left-out requests by reason, `hosts`
    the others by where they were recorded, `idle` the `stretches` with nothing in flight of which all but
    `most_idle` seconds were cut, and the `seconds` that were.
    """

    trace: Iterable[Exchange]
    rounds: int | None = 1
    requests: int | None = None
    clones: Clones = ALONE
    most_idle: float | None = None
    by_session: bool = False
    allow_unsafe: bool = False
    only: Filter = EVERYTHING
    host: str | None = None
    rewrites: bool = False
    refuses: Refusal = nobody
    apart: bool = False
    live: bool = False
    skipped: Counter[str] = field(default_factory=Counter, init=False)
    hosts: Counter[str] = field(default_factory=Counter, init=False)
    idle: dict[str, float] = field(default_factory=dict, init=False)
    severed: int = field(default=0, init=False)
    forgotten: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Planned]:
        self.skipped.clear()
        self.hosts.clear()
        self.idle = {}
        self.severed = self.forgotten = 0
        return islice(self._all(), self.requests)

    def _all(self) -> Iterator[Planned]:
        index, begin = 0, 0.0
        for cycle in count() if self.rounds is None else range(self.rounds):
            last: Planned | None = None
            ordered = self._by_session if self.by_session else self._copies
            for last in ordered(cycle, index, begin):
                self.severed += last.severed
                self.forgotten += last.forgotten
                yield last
            if last is None:
                return
            sent, span = last.index + 1 - index, last.offset - begin
            index += sent
            begin = last.offset + gap_between_rounds(sent, span)

    def _by_session(self, cycle: int, index: int, begin: float) -> Iterator[Planned]:
        """A round, session by session in the order of their last requests, so numbered.

        It is read twice: to know which request is a session's last, and to hold no more sessions at a time
        than were open when they were recorded.
        """
        lasts: dict[int, int] = {}
        clones = len(self.clones)
        for planned in self._copies(cycle, index, begin, counted=False):
            lasts[planned.session * clones + planned.clone] = planned.index
        held: dict[int, list[Planned]] = {}
        for planned in self._copies(cycle, index, begin):
            session = planned.session * clones + planned.clone
            held.setdefault(session, []).append(planned)
            if planned.index != lasts[session]:
                continue
            places, opening = dict[int, int](), index
            for request in held.pop(session):
                places[request.index] = index
                request.severed |= not places.keys() >= set(request.after)
                request.after = tuple(
                    places[before] for before in request.after if before in places
                )
                request.history = tuple(
                    (places[before], turn) for before, turn in request.history if before in places
                )
                request.index, request.opening = index, opening
                yield request
                index += 1

    def _copies(
        self, cycle: int, index: int, begin: float, *, counted: bool = True
    ) -> Iterator[Planned]:
        """A round: the recording, or its clones merged by their arrivals, so numbered."""
        if (clones := len(self.clones)) == 1:
            yield from self._round(counted and cycle == 0, cycle, index, begin)
            return
        period = 0.0
        if self.clones.within is None:
            for last in deque(self._round(False, 0, 0, 0.0), maxlen=1):
                period = last.offset + gap_between_rounds(last.index + 1, last.offset)
        streams = (
            self._clone(clone, shift, period, counted=counted and cycle == clone == 0)
            for clone, shift in enumerate(self.clones.shifts(period))
        )
        places: list[Recent[int, int]] = [Recent(REMEMBERED) for _ in range(clones)]
        for planned in heapq.merge(*streams, key=attrgetter("offset")):
            place = places[planned.clone]
            place.keep(planned.index, index)
            planned.forgotten |= not place.keys() >= set(planned.after)
            planned.after = tuple(place[before] for before in planned.after if before in place)
            planned.history = tuple(
                (place[before], turn) for before, turn in planned.history if before in place
            )
            planned.index, planned.cycle = index, cycle * clones + planned.clone
            planned.offset += begin
            yield planned
            index += 1

    def _clone(
        self, clone: int, shift: float, period: float, *, counted: bool
    ) -> Iterator[Planned]:
        """One copy, each of its sessions later by `shift`, or as much earlier as that is beyond `period`.

        A session that begins in the last `shift` seconds of the period comes first, as a whole: the recording
        is read once for those, and once for all others.
        """
        turned = period - shift if self.clones.within is None else math.inf
        for early in (True, False) if turned < period else (False,):
            begins: Recent[int, float] = Recent(REMEMBERED)
            for planned in self._round(counted, 0, 0, 0.0):
                session = planned.session
                begins.keep(session, begin := begins.get(session, planned.offset))
                if (begin >= turned) == early and self.clones.has(clone, session):
                    planned.clone = clone
                    planned.offset += shift - period * early
                    yield planned

    def _round(self, counted: bool, cycle: int, index: int, begin: float) -> Iterator[Planned]:
        """The recording; what is left out of it is `counted` once."""
        first_ns: int | None = None
        idle = _Idle(self.most_idle)
        sessions, answers = Sessions(remembered=REMEMBERED), _Answers(apart=self.apart)
        histories = _Histories()
        walk = self.only.start()
        for exchange in self.trace:
            request = exchange.request
            encoding = request.header("content-encoding")
            parsed = parse_request(request.method, request.path, request.body, encoding)
            reason = self._reason(exchange, parsed, walk)
            if counted:
                counts, word = (self.skipped, reason) if reason else (self.hosts, request.host)
                counts[word] += 1
            if reason is not None:
                if reason == "retry" and answers.retried(exchange, idle.before(exchange)):
                    sessions.assign(request, parsed=parsed, response=exchange.response)
                continue
            cut_ns = idle.before(exchange)
            if counted and idle.stretches:
                self.idle = {"stretches": idle.stretches, "seconds": cut_ns / 1e9}
            arrive_ns = request.arrive_ns - cut_ns
            first_ns = arrive_ns if first_ns is None else first_ns
            place = sessions.assign(request, parsed=parsed, response=exchange.response)
            before = answers.held(place, arrive_ns)
            answers.add(exchange, index, place.number, cut_ns)
            history = (
                histories.of(exchange, parsed, place, index, exact=sessions.exact)
                if self.live
                else ()
            )
            yield Planned(
                index=index,
                cycle=cycle,
                session=place.number,
                offset=begin + (arrive_ns - first_ns) / 1e9,
                exchange=exchange,
                info=parsed.info,
                payload=parsed.payload if parsed.exact else None,
                after=before.indexes,
                severed=before.severed,
                forgotten=before.forgotten,
                history=history,
                think=before.think,
            )
            index += 1

    def _reason(self, exchange: Exchange, parsed: ParsedRequest, walk: Pass) -> str | None:
        """Why an exchange is left out of this plan; None when it is not."""
        info, host = parsed.info, exchange.request.host
        if not walk.keeps(exchange, parsed):
            return "only"
        if self.host is not None and host != self.host:
            return "host"
        if self.rewrites and parsed.opaque:
            return "encoding"
        for reason, rule in SKIPS:
            if rule(exchange, info) and not (self.allow_unsafe and reason == "endpoint"):
                return reason
        held = None
        if not self.allow_unsafe:
            held = left_out(parsed.payload or NOTHING, info.endpoint, STATE)
        return held or self.refuses(exchange, parsed)


class _Idle:
    """The stretches of a recording with nothing in flight, of which `most` seconds are left (None: all).

    `stretches` were cut. All that comes behind one moves by as much, so that think times, order and bursts
    stay; only who thought all through it thinks less.
    """

    def __init__(self, most: float | None) -> None:
        self._most_ns = None if most is None else round(most * 1e9)
        self._busy_ns: int | None = None
        self._cut_ns = 0
        self.stretches = 0

    def before(self, exchange: Exchange) -> int:
        """Nanoseconds that are cut before the next exchange."""
        if self._most_ns is None:
            return 0
        arrive_ns, response = exchange.request.arrive_ns, exchange.response
        busy_ns = arrive_ns if self._busy_ns is None else self._busy_ns
        if (surplus := arrive_ns - busy_ns - self._most_ns) > 0:
            self._cut_ns += surplus
            self.stretches += 1
        self._busy_ns = max(busy_ns, arrive_ns, response.end_ns if response else 0)
        return self._cut_ns


class _Answers:
    """The index and session of the last planned requests, by id, and when their answers ended, as recorded.

    With `apart` a request waits for none of another session, which may be sent elsewhere.
    """

    def __init__(self, *, apart: bool) -> None:
        self._apart = apart
        self._ended: Recent[str, tuple[int, int, int | None]] = Recent(REMEMBERED)

    def add(self, exchange: Exchange, index: int, session: int, cut_ns: int) -> None:
        """Take note of a planned request; as much is cut before its end as before its arrival."""
        response = exchange.response
        end_ns = None if response is None else response.end_ns - cut_ns
        self._ended.keep(exchange.request.id, (index, session, end_ns))

    def retried(self, exchange: Exchange, cut_ns: int) -> bool:
        """A client's second attempt is not sent again, but what it got is what the next turn continues.

        Whether that stands for a request that is planned.
        """
        first, response = exchange.request.retry_of, exchange.response
        if first is None or first not in self._ended:
            return False
        index, session, end_ns = self._ended[first]
        end_ns = end_ns if response is None else response.end_ns - cut_ns
        for id_ in (first, exchange.request.id):
            self._ended.keep(id_, (index, session, end_ns))
        return True

    def held(self, place: Place, arrive_ns: int) -> "_Before":
        """What a request that arrived then had waited for.

        One that ended later is left out: the request did not wait for it, whatever its words are.
        """
        last_ns, severed, forgotten = 0, False, False
        indexes: set[int] = set()
        for id_ in place.holds:
            if id_ not in self._ended:
                forgotten = True
                continue
            index, session, end_ns = self._ended[id_]
            if end_ns is None or end_ns > arrive_ns:
                continue
            if self._apart and session != place.number:
                severed = True
                continue
            indexes.add(index)
            last_ns = max(last_ns, end_ns)
        think = (arrive_ns - last_ns) / 1e9 if indexes else 0.0
        return _Before(tuple(sorted(indexes)), think, severed, forgotten)


class _Before(NamedTuple):
    """The indexes of those whose answers a request holds, and the seconds since; what is missing there."""

    indexes: tuple[int, ...]
    think: float
    severed: bool
    forgotten: bool


class _Histories:
    """The answers that the last planned requests hold whose conversation is whole, as it was."""

    def __init__(self) -> None:
        self._known: Recent[str, tuple[int, int, tuple[tuple[int, int], ...]]] = Recent(REMEMBERED)

    def of(
        self, exchange: Exchange, parsed: ParsedRequest, place: Place, index: int, *, exact: bool
    ) -> tuple[tuple[int, int], ...]:
        """Those of the next request, which quotes all of its parent, or not (`exact`)."""
        parent = self._known.get(place.parent or "") if exact else None
        history = () if parent is None else (*parent[2], parent[:2])
        turns = (parsed.payload or NOTHING).get(parsed.provider.spoken_in)
        runs = assistant_runs(turns) if isinstance(turns, list) else ()
        self._known.keep(exchange.request.id, (index, len(runs), history))
        return history
