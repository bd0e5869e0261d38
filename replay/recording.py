"""What was recorded around a request: the idle time before it, and the answers that it had waited for."""

from typing import NamedTuple

from tbench.capture.exchange import Exchange
from tbench.capture.providers import ParsedRequest
from tbench.capture.recent import Recent
from tbench.capture.sessions import Place
from tbench.replay.live_history import assistant_runs


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
    """The indexes of those whose answers a request holds, and the seconds since; what is missing there."""

    indexes: tuple[int, ...]
    think: float
    severed: bool
    forgotten: bool


class Answers:
    """The index and session of the last planned requests, by id, and when their answers ended, as recorded.

    With `apart` a request waits for none of another session, which may be sent elsewhere.
    """

    def __init__(self, remembered: int, *, apart: bool) -> None:
        self._apart = apart
        self._ended: Recent[str, tuple[int, int, int | None]] = Recent(remembered)

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

    def held(self, place: Place, arrive_ns: int) -> Before:
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
        return Before(tuple(sorted(indexes)), think, severed, forgotten)


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
