"""Retries: which request repeats an earlier one that failed. No I/O; time comes in with each call.

An SDK that counts its attempts is believed. Without a count, the same caller sending the same bytes
within a minute of a failure is the same ask again; each failure explains one repeat at most.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from tbench.capture.exchange import Outcome, Response

WINDOW_NS = 60_000_000_000
CAPACITY = 8_192
"""Distinct asks remembered; the oldest go first."""

RETRIED_STATUS = frozenset({408, 409, 425, 429, *range(500, 600)})
FAILED_OUTCOMES = frozenset(
    {Outcome.RESET, Outcome.CUT, Outcome.CONNECT_ERROR, Outcome.TIMEOUT, Outcome.PROTOCOL_ERROR}
)


@dataclass(slots=True)
class _Attempt:
    id: str
    began_ns: int
    failed_ns: int | None = None


class Retries:
    """The recent attempts of each ask; an ask is a caller and a digest of what it sent."""

    def __init__(self, *, window_ns: int = WINDOW_NS, capacity: int = CAPACITY) -> None:
        self._window_ns = window_ns
        self._capacity = capacity
        self._asks: OrderedDict[bytes, deque[_Attempt]] = OrderedDict()
        self._open: OrderedDict[str, _Attempt] = OrderedDict()

    def begin(self, ask: bytes, id: str, at_ns: int, *, count: int | None = None) -> str | None:  # noqa: A002
        """Note an attempt; returns the id of the one it repeats. `count` is the SDK's own, if any."""
        attempts = self._asks.setdefault(ask, deque(maxlen=16))
        self._asks.move_to_end(ask)
        earlier = None if count == 0 else self._repeated(attempts, at_ns, declared=bool(count))
        if earlier:
            attempts.remove(earlier)
        attempt = _Attempt(id, at_ns)
        attempts.append(attempt)
        self._open[id] = attempt
        self._forget()
        return earlier.id if earlier else None

    def end(self, id: str, response: Response) -> None:  # noqa: A002
        """Note how an attempt ended."""
        attempt = self._open.pop(id, None)
        if attempt and _invites_retry(response):
            attempt.failed_ns = response.end_ns

    def _repeated(
        self, attempts: deque[_Attempt], at_ns: int, *, declared: bool
    ) -> _Attempt | None:
        recent = [a for a in attempts if at_ns - (a.failed_ns or a.began_ns) <= self._window_ns]
        failed = next((a for a in reversed(recent) if a.failed_ns is not None), None)
        # A client that gave up waiting counts a retry while its first attempt may still look alive.
        return failed or (attempts[-1] if declared and attempts else None)

    def _forget(self) -> None:
        for table in (self._asks, self._open):
            while len(table) > self._capacity:
                table.popitem(last=False)


def _invites_retry(response: Response) -> bool:
    return response.outcome in FAILED_OUTCOMES or response.status in RETRIED_STATUS
