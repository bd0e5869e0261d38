"""The plan: which requests of a trace are sent again, in which order, and what is left out and why."""

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice, repeat, takewhile
from typing import Any, Final, NamedTuple, cast
from zlib import crc32

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Places
from tbench.capture.filters import EVERYTHING, Filter, Pass, none_left
from tbench.capture.providers import (
    PROMISED,
    ParsedRequest,
    RequestInfo,
    Usage,
    parse_recorded,
    parse_request,
)
from tbench.capture.sessions import Place, Recent, Sessions
from tbench.capture.terminal import named
from tbench.capture.trace_reader import batches
from tbench.replay.live_history import assistant_runs
from tbench.replay.makers import Level
from tbench.replay.pacing import ALONE, Clones, gap_between_rounds
from tbench.replay.portability import left_out
from tbench.replay.sample import Arrival
from tbench.replay.waiting import REMEMBERED


@dataclass(slots=True, kw_only=True)
class Turn:
    """What a plan decides of one request to send: its place, its copy, and its arrival.

    `cycle` counts the copies of the recording, round after round, and `clone` only those within its round.
    `offset` is seconds after the first planned request, rounds included. `session` numbers the conversation
    that it belongs to; it is the same in every copy. `after` are the indexes of the requests whose answers it
    holds and that had ended before it arrived, and `think` the recorded seconds from the last of those ends
    to this arrival. It is `severed` where another is missing there that is sent apart, and has `forgotten`
    where one was planned too long before it. `opening` is the index of its session's first request in a plan
    by session, else None. `history`, where the plan asks for it, are the indexes of those whose answers its
    conversation holds as it was, oldest first, each with its place among the assistant's turns; `uses` counts
    the histories that it is in itself. `places` are the exchange's, `check` is of its id (`check_of`).
    """

    index: int
    cycle: int
    session: int
    offset: float
    places: Places = ()
    check: int = 0
    after: tuple[int, ...] = ()
    history: tuple[tuple[int, int], ...] = ()
    uses: int = 0
    think: float = 0.0
    severed: bool = False
    forgotten: bool = False
    clone: int = 0
    opening: int | None = None

    @property
    def weight(self) -> int:
        """Bytes that it holds of what was recorded."""
        return 0


@dataclass(slots=True, kw_only=True)
class Planned(Turn):
    """One request to send, with what was recorded.

    `payload` is the JSON object of its body where that can be written again (an orjson reading), else None.
    """

    exchange: Exchange
    info: RequestInfo
    payload: Mapping[str, Any] | None = None

    @property
    def weight(self) -> int:
        return self.exchange.request.body_bytes


def check_of(id_: str) -> int:
    """32 bits by which a record is known again; the same in every process."""
    # Not `hash`, which each process salts anew.
    return crc32(id_.encode("utf-8", "surrogatepass"))


def recorded_usage(exchange: Exchange) -> Usage:
    """What the server counted when the exchange was captured; of a synthesised one, what was counted then."""
    response = exchange.response
    if response is None:
        made = exchange.request.extra.get("prompt_tokens")
        return Usage(prompt=made if isinstance(made, int) else None)
    if not response.body or response.status is None:
        return Usage()
    return parse_recorded(response).usage


def parsed_of(exchange: Exchange) -> ParsedRequest:
    """What the body of an exchange's request says."""
    request = exchange.request
    encoding = request.header("content-encoding")
    return parse_request(request.method, request.path, request.body, encoding)


Refusal = Callable[[Exchange, ParsedRequest], str | None]
"""Why a request cannot be put to a target; None where it can."""


LONGEST_PATH: Final = 16_384
"""Bytes of a path and its query that are sent; servers take 4,096 to 16,384."""


def unsent_because(exchange: Exchange, endpoint: str, unsafe: bool) -> str | None:
    """Why a request is not sent again, whoever is asked; None where it is, or, for its endpoint, is `unsafe`.

    websocket: not HTTP. retry: an SDK's second attempt; the replay must not add to the load what a failure
    caused. redirect: its client asked again where it was led, through the capture: that request is in the
    trace, too. path: not one of this server's ("@host/v1" and ":81/v1" behind a base URL would take the key
    to another), or over 16 KiB. endpoint: not stateless inference, so sending it again could change or spend
    something. no_body, truncated_body: the trace does not hold what was sent.
    """
    request, path = exchange.request, exchange.request.path
    given = request.fields
    if given.get("upgrade", "").lower() == "websocket":
        return "websocket"
    if request.retry_of is not None or (given.get("x-stainless-retry-count") or "0") != "0":
        return "retry"
    if exchange.response is not None and exchange.response.led_back:
        return "redirect"
    long = 4 * len(path) > LONGEST_PATH and len(path.encode("utf-8", "replace")) > LONGEST_PATH
    if long or path[:1] != "/":
        return "path"
    if endpoint not in PROMISED and not unsafe:
        return "endpoint"
    if not request.body and request.body_bytes > 0:
        return "no_body"
    return "truncated_body" if request.extra.get("truncated") else None


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

    Iterating reads the trace as it goes, once per round, and may be done again from the start; for clones,
    sessions and histories once more, to take notes. `turns` are the same without what was recorded: further
    rounds and clones come of the notes, and the trace is read once. A round follows the last one after the
    recorded mean gap, and holds all `clones` of the recording, in the order of their arrivals; or,
    `by_session`, one session after another. `requests` ends the plan early. `only` says which are meant,
    `host` is the one that every request must have gone to (None: any). `rewrites` says that bodies are to be
    changed, `refuses` why a request cannot be put to a target. With `apart` each session is sent by itself:
    a request waits for no other session's answer. `live` asks for the history of each. A `mixed` trace is of
    several captures, in which no two requests may have one id.
    `severed` and `forgotten` count what was yielded of either.

    Of the first round, as far as it was read: `skipped` counts the left-out requests by reason, `hosts`
    the others by where they were recorded, `idle` the `stretches` with nothing in flight of which all but
    `most_idle` seconds were cut, and the `seconds` that were (of a plan that is not `timed`, as no arrival
    matters, the `think_times` that are shorter, and by how much); `arrivals` are those of the first `noted`
    exchanges, left out or not.
    """

    trace: Iterable[Exchange]
    rounds: int | None = 1
    requests: int | None = None
    clones: Clones = ALONE
    most_idle: float | None = None
    timed: bool = True
    by_session: bool = False
    allow_unsafe: bool = False
    only: Filter = EVERYTHING
    host: str | None = None
    rewrites: bool = False
    refuses: Refusal = nobody
    apart: bool = False
    live: bool = False
    mixed: bool = False
    noted: int = 0
    skipped: Counter[str] = field(default_factory=Counter, init=False)
    hosts: Counter[str] = field(default_factory=Counter, init=False)
    idle: dict[str, float] = field(default_factory=dict, init=False)
    arrivals: list[Arrival] = field(default_factory=list, init=False)
    severed: int = field(default=0, init=False)
    forgotten: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Planned]:
        return cast("Iterator[Planned]", self._started(again=True))

    def turns(self) -> Iterator[Turn]:
        """What is decided of each request."""
        return self._started(again=False)

    def _started(self, *, again: bool) -> Iterator[Turn]:
        """From the start; `again` has what notes were taken of read again."""
        self.skipped.clear()
        self.hosts.clear()
        self.idle = {}
        self.arrivals = []
        self.severed = self.forgotten = 0
        return islice(self._all(again=again), self.requests)

    def _all(self, *, again: bool) -> Iterator[Turn]:
        index, begin = 0, 0.0
        notes = None
        noted = self.by_session or self.live or len(self.clones) > 1
        if noted or not (again or self.rounds == 1):
            notes = _Notes(self._round(True, 0, 0, 0.0))
            if self.live:
                # Shifted copies and sessions one by one need all of the recording.
                orderly = not self.by_session and len(self.clones) == 1
                notes.count_uses(self.requests if orderly else None)
        for cycle in count() if self.rounds is None else range(self.rounds):
            last: Turn | None = None
            ordered: Iterator[Turn]
            if notes is None:
                ordered = self._round(cycle == 0, cycle, index, begin)
            else:
                placed = self._placed(notes, cycle, begin, again=again)
                numbered = self._by_session(notes, placed, index) if self.by_session else None
                ordered = numbered or self._copies(placed, index)
            for last in ordered:
                self.severed += last.severed
                self.forgotten += last.forgotten
                yield last
            if last is None:
                return
            sent, span = last.index + 1 - index, last.offset - begin
            index += sent
            begin = last.offset + gap_between_rounds(sent, span)

    def _by_session(
        self, notes: "_Notes", placed: Iterator[tuple[int, Turn]], index: int
    ) -> Iterator[Turn]:
        """A round, session by session in the order of their last requests, so numbered.

        No more sessions are held at a time than were open when they were recorded.
        """
        lasts: dict[int, int] = {}
        clones = len(self.clones)
        for place, (_, clone, number) in enumerate(self._order(notes)):
            lasts[notes.sessions[number] * clones + clone] = place
        held: dict[int, list[tuple[int, Turn]]] = {}
        for place, (number, planned) in enumerate(placed):
            session = planned.session * clones + planned.clone
            held.setdefault(session, []).append((number, planned))
            if place != lasts[session]:
                continue
            places, opening = dict[int, int](), index
            for numbered, request in held.pop(session):
                places[numbered] = index
                request.severed |= not places.keys() >= set(request.after)
                _number(request, index, places)
                request.opening = opening
                yield request
                index += 1

    def _copies(self, placed: Iterator[tuple[int, Turn]], index: int) -> Iterator[Turn]:
        """A round: the clones merged by their arrivals, so numbered."""
        places = [array("I") for _ in range(len(self.clones))]
        for at, (number, planned) in enumerate(placed):
            place = places[planned.clone]
            place.extend(repeat(_NOWHERE, number + 1 - len(place)))
            place[number] = at
            continued = {*planned.after, *(before for before, _ in planned.history)}
            sent = {
                before: index + place[before] for before in continued if place[before] != _NOWHERE
            }
            planned.forgotten |= len(sent) < len(continued)
            _number(planned, index + at, sent)
            yield planned

    def _placed(
        self, notes: "_Notes", cycle: int, begin: float, *, again: bool
    ) -> Iterator[tuple[int, Turn]]:
        """A round by arrivals: requests that name those before them by their numbers in the recording."""
        clones = len(self.clones)
        take: list[Callable[[int], Turn]] = [notes.turn] * clones
        if again:
            take = [_Reader(self.trace, notes).take for _ in range(clones)]
        for offset, clone, number in self._order(notes):
            planned = take[clone](number)
            planned.cycle, planned.clone = cycle * clones + clone, clone
            planned.offset = begin + offset
            yield number, planned

    def _order(self, notes: "_Notes") -> Iterator[tuple[float, int, int]]:
        """The offset, clone and number in the recording of each request of a round, by offset."""
        period = 0.0
        if len(self.clones) > 1 and self.clones.within is None:
            period = notes.period()
        shifts = enumerate(self.clones.shifts(period))
        return heapq.merge(*(self._shifted(notes, period, *shift) for shift in shifts))

    def _shifted(
        self, notes: "_Notes", period: float, clone: int, shift: float
    ) -> Iterator[tuple[float, int, int]]:
        """One copy, each of its sessions later by `shift`, or as much earlier as that is beyond `period`.

        A session that begins in the last `shift` seconds of the period comes first, as a whole.
        """
        turned = period - shift if self.clones.within is None and shift else math.inf
        for early in (True, False) if turned < period else (False,):
            moved = shift - period * early
            for number in takewhile(notes.holds, count()):
                session = notes.sessions[number]
                if (notes.begins[session] >= turned) == early and self.clones.has(clone, session):
                    yield notes.offsets[number] + moved, clone, number

    def _round(self, counted: bool, cycle: int, index: int, begin: float) -> Iterator[Planned]:
        """The recording; what is left out of it is `counted` once."""
        first_ns: int | None = None
        idle = Idle(self.most_idle)
        sessions, answers = Sessions(remembered=REMEMBERED), Answers(REMEMBERED, apart=self.apart)
        histories = Histories(REMEMBERED)
        ids: set[int] = set()
        for exchange, body, reason in self._judged():
            request = exchange.request
            if counted:
                if len(self.arrivals) < self.noted:
                    response = exchange.response
                    ended = None if response is None else response.end_ns
                    self.arrivals.append((request.id, request.arrive_ns, ended))
                counts, word = (self.skipped, reason) if reason else (self.hosts, request.host)
                counts[word] += 1
            if reason is not None:
                if reason == "retry" and answers.retried(exchange, idle.before(exchange)):
                    sessions.assign(
                        request, parsed=body, response=exchange.response, answer=exchange.answer
                    )
                continue
            if self.mixed:
                # A hash of 64 bits in place of the id, for memory: of ten
                # million, two are alike by chance in 3 of a million traces.
                if (id_ := hash(request.id)) in ids:
                    raise InputError(
                        f"two captures of this trace hold a request with the id {named(request.id)}: turns "
                        "and comparisons go by it, and one may be a copy; give one file, or move one away"
                    )
                ids.add(id_)
            cut_ns = idle.before(exchange)
            if counted and idle.stretches and self.timed:
                self.idle = {"stretches": idle.stretches, "seconds": cut_ns / 1e9}
            arrive_ns = request.arrive_ns - cut_ns
            first_ns = arrive_ns if first_ns is None else first_ns
            place = sessions.assign(
                request, parsed=body, response=exchange.response, answer=exchange.answer
            )
            number, continued = place.number, place.holds
            before = answers.held(continued, number, arrive_ns) if continued else OPENING
            if counted and not self.timed and (cut := cut_ns / 1e9 - before.cut) and before.indexes:
                thought, seconds = self.idle.get("think_times", 0), self.idle.get("seconds", 0.0)
                self.idle = {"think_times": thought + 1, "seconds": seconds + cut}
            answers.add(exchange, index, number, cut_ns)
            history = (
                histories.of(exchange, body, place, index, exact=sessions.exact)
                if self.live
                else ()
            )
            yield Planned(
                index=index,
                cycle=cycle,
                session=number,
                offset=begin + (arrive_ns - first_ns) / 1e9,
                places=exchange.places,
                check=check_of(request.id),
                exchange=exchange,
                info=body.info,
                payload=body.payload if body.exact else None,
                after=before.indexes,
                severed=before.severed,
                forgotten=before.forgotten,
                history=history,
                think=before.think,
            )
            index += 1

    def _judged(self) -> Iterator[tuple[Exchange, ParsedRequest, str | None]]:
        """What the recording's requests say, and why each is left out; None where it is not."""
        walk = None if self.only == EVERYTHING else self.only.start()
        for batch in batches(self.trace):
            bodies = [parsed_of(exchange) for exchange in batch]
            reasons = [
                self._reason(exchange, body, walk)
                for exchange, body in zip(batch, bodies, strict=True)
            ]
            yield from zip(batch, bodies, reasons, strict=True)

    def _reason(self, exchange: Exchange, parsed: ParsedRequest, walk: Pass | None) -> str | None:
        """Why an exchange is left out of this plan; None when it is not.

        only: not one of those asked for. host: it went elsewhere than the first ones, without a base URL.
        encoding: a body to be changed that cannot be decoded. And `unsent_because`, and replay.portability.
        """
        endpoint = parsed.info.endpoint
        if walk is not None and not walk.keeps(exchange, parsed):
            return "only"
        if self.host is not None and exchange.request.host != self.host:
            return "host"
        if self.rewrites and parsed.opaque:
            return "encoding"
        reason = unsent_because(exchange, endpoint, self.allow_unsafe)
        if reason is None and not self.allow_unsafe:
            reason = left_out(parsed.payload or NOTHING, endpoint, STATE)
        return reason or self.refuses(exchange, parsed)


# What was recorded around a request: the idle time before it, and the answers that it had waited for.


class Idle:
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


class Before(NamedTuple):
    """The indexes of those whose answers a request holds, and the seconds since; what is missing there.

    `cut` seconds had been cut from the recording when the last of them ended.
    """

    indexes: tuple[int, ...]
    think: float
    cut: float
    severed: bool
    forgotten: bool


OPENING: Final = Before((), 0.0, 0.0, False, False)


class Answers:
    """The index and session of the last planned requests, by id, and when their answers ended, as recorded.

    With `apart` a request waits for none of another session, which may be sent elsewhere.
    """

    def __init__(self, remembered: int, *, apart: bool) -> None:
        self._apart = apart
        self._ended: Recent[str, tuple[int, int, int | None, int]] = Recent(remembered)

    def add(self, exchange: Exchange, index: int, session: int, cut_ns: int) -> None:
        """Take note of a planned request; as much is cut before its end as before its arrival."""
        response = exchange.response
        end_ns = None if response is None else response.end_ns - cut_ns
        self._ended.keep(exchange.request.id, (index, session, end_ns, cut_ns))

    def retried(self, exchange: Exchange, cut_ns: int) -> bool:
        """A client's second attempt is not sent again, but what it got is what the next turn continues.

        Whether that stands for a request that is planned.
        """
        first, response = exchange.request.retry_of, exchange.response
        if first is None or first not in self._ended:
            return False
        index, session, end_ns, _ = self._ended[first]
        end_ns = end_ns if response is None else response.end_ns - cut_ns
        for id_ in (first, exchange.request.id):
            self._ended.keep(id_, (index, session, end_ns, cut_ns))
        return True

    def held(self, continued: Iterable[str], number: int, arrive_ns: int) -> Before:
        """What a request of session `number` that arrived then had waited for, of those it continues.

        One that ended later is left out: the request did not wait for it, whatever its words are.
        """
        severed = forgotten = False
        held: list[tuple[int, int, int]] = []
        for id_ in continued:
            if (ended := self._ended.get(id_)) is None:
                forgotten = True
                continue
            index, session, end_ns, cut_ns = ended
            if end_ns is None or end_ns > arrive_ns:
                continue
            if self._apart and session != number:
                severed = True
                continue
            held.append((end_ns, cut_ns, index))
        if not held:
            return Before((), 0.0, 0.0, severed, forgotten)
        end_ns, cut_ns, index = max(held)
        indexes = (index,) if len(held) == 1 else tuple(sorted({index for _, _, index in held}))
        return Before(indexes, (arrive_ns - end_ns) / 1e9, cut_ns / 1e9, severed, forgotten)


class Histories:
    """The answers that the last planned requests hold whose conversation is whole, as it was."""

    def __init__(self, remembered: int) -> None:
        self._known: Recent[str, tuple[int, int, tuple[tuple[int, int], ...]]] = Recent(remembered)

    def of(
        self, exchange: Exchange, parsed: ParsedRequest, place: Place, index: int, *, exact: bool
    ) -> tuple[tuple[int, int], ...]:
        """Those of the next request, which quotes all of its parent, or not (`exact`)."""
        parent = self._known.get(place.parent or "") if exact else None
        history = () if parent is None else (*parent[2], parent[:2])
        turns = (parsed.payload or {}).get(parsed.provider.spoken_in)
        runs = assistant_runs(turns) if isinstance(turns, list) else ()
        self._known.keep(exchange.request.id, (index, len(runs), history))
        return history


# What a first reading noted, for further rounds and clones.

PLACED: Final = 6
"""Numbers that say where a request and its answer lie."""
_NOWHERE: Final = 2**32 - 1


class _Notes:
    """What a first reading found, about 70 bytes a request, by its number: it is read no further than asked.

    `offsets` and `sessions` are those of the requests, `begins` when each session begins.
    """

    def __init__(self, reading: Iterator[Planned]) -> None:
        self._rest = reading
        self.ids, self.offsets, self.sessions = array("q"), array("d"), array("I")
        self.begins = array("d")
        self._thinks, self._missing = array("d"), bytearray()
        self._after, self._after_ends = array("I"), array("I")
        self._parents, self._turns = array("i"), array("I")
        self._checks, self._places = array("I"), array("I")
        self._uses = array("I")

    def holds(self, number: int) -> bool:
        """Whether the recording has so many requests, and one more."""
        while len(self.ids) <= number:
            planned = next(self._rest, None)
            if planned is None:
                return False
            self._add(planned)
        return True

    def period(self) -> float:
        """After how many seconds the recording comes round: a mean gap after its last request."""
        self._read_on()
        span = self.offsets[-1] if self.offsets else 0.0
        return span + gap_between_rounds(len(self.offsets), span)

    def count_uses(self, most: int | None) -> None:
        """Count in how many histories each request is: of the recording's first `most`, or of all."""
        if most is None:
            self._read_on()
        else:
            self.holds(most - 1)
        self._uses.extend(repeat(0, len(self.ids)))
        # Backwards: a request's own histories are all counted before it is added to its parent's.
        for number in reversed(range(len(self.ids))):
            if (parent := self._parents[number]) >= 0:
                self._uses[parent] += self._uses[number] + 1

    def _read_on(self) -> None:
        while self.holds(len(self.ids)):
            pass

    def _add(self, planned: Planned) -> None:
        self.ids.append(_key(planned.exchange))
        self.offsets.append(planned.offset)
        self.sessions.append(planned.session)
        while len(self.begins) <= planned.session:
            self.begins.append(planned.offset)
        self._thinks.append(planned.think)
        self._missing.append(planned.severed + 2 * planned.forgotten)
        self._after.extend(planned.after)
        self._after_ends.append(len(self._after))
        parent, turn = planned.history[-1] if planned.history else (-1, 0)
        self._parents.append(parent)
        self._turns.append(turn)
        self._checks.append(planned.check)
        places = list(chain.from_iterable(planned.places))
        self._places.extend(places + [_NOWHERE] * (PLACED - len(places)))

    def turn(self, number: int) -> Turn:
        """What was decided of a request of the recording, as it was first read."""
        return Turn(**self._decided(number))

    def planned(self, number: int, exchange: Exchange) -> Planned:
        """The same with the request."""
        body = parsed_of(exchange)
        return Planned(
            **self._decided(number),
            exchange=exchange,
            info=body.info,
            payload=body.payload if body.exact else None,
        )

    def _decided(self, number: int) -> dict[str, Any]:
        starts = self._after_ends[number - 1] if number else 0
        places = self._places[PLACED * number : PLACED * (number + 1)]
        return {
            "index": number,
            "cycle": 0,
            "session": self.sessions[number],
            "offset": self.offsets[number],
            "places": tuple(tuple(places[at : at + 3]) for at in (0, 3) if places[at] != _NOWHERE),
            "check": self._checks[number],
            "after": tuple(self._after[starts : self._after_ends[number]]),
            "severed": bool(self._missing[number] & 1),
            "forgotten": bool(self._missing[number] & 2),
            "history": self._history(number),
            "uses": self._uses[number] if self._uses else 0,
            "think": self._thinks[number],
        }

    def _history(self, number: int) -> tuple[tuple[int, int], ...]:
        """A request's own parent, behind those of its parent."""
        history = []
        while (parent := self._parents[number]) >= 0:
            history.append((parent, self._turns[number]))
            number = parent
        return tuple(reversed(history))


def _number(request: Turn, index: int, places: Mapping[int, int]) -> None:
    """Give a request its index, and name those before it by theirs, as far as these are known."""
    request.index = index
    request.after = tuple(places[before] for before in request.after if before in places)
    request.history = tuple(
        (places[before], turn) for before, turn in request.history if before in places
    )


def _key(exchange: Exchange) -> int:
    """By what a request is known again; where two have one id, their places differ."""
    return hash((exchange.request.id, exchange.places[:1]))


class _Reader:
    """One copy's way through the trace, by the notes of it."""

    def __init__(self, trace: Iterable[Exchange], notes: _Notes) -> None:
        self._trace, self._notes = trace, notes
        self._rest, self._last = iter(trace), -1

    def take(self, number: int) -> Planned:
        """A request by its number; one before the last is looked for from the start."""
        if number <= self._last:
            self._rest = iter(self._trace)
        self._last = number
        id_ = self._notes.ids[number]
        for exchange in self._rest:
            if _key(exchange) == id_:
                return self._notes.planned(number, exchange)
        raise InputError("the trace has changed while it was read; replay it again")
