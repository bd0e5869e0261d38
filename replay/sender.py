"""The seam between a replay and the network: what is to be sent, and what came of it.

A sender fills in a Reply as things happen, so that an attempt which is cancelled keeps what it had.
Times are `trio.current_time()`; whoever makes a Sample of them subtracts the start of the run.
"""

from dataclasses import dataclass, field
from typing import Final, Protocol

import httpx

from capture.exchange import Headers, Outcome
from capture.providers import one_line

IDLE_S: Final = 4.0
"""An idle connection older than this is closed, not used: servers commonly close theirs after 5 s."""
MOST_BYTES: Final = 64 * 2**20
"""The longest answer that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each part of an attempt may take, seconds.

    `connect` is for a new connection with its TLS, `first_byte` from the request to the head of its
    answer, `between` from one read of the body to the next, `total` for all of it.
    """

    connect: float = 10.0
    first_byte: float = 600.0
    between: float = 120.0
    total: float = 600.0

    def verdict(self, phase: str, limit: float, *, total: bool) -> str:
        """Which deadline passed, in words: `limit` seconds of a phase, or the total in it."""
        if total:
            return f"total: not done after {self.total:g} s, waiting for the {phase}"
        return f"{phase}: nothing for {limit:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One planned request, ready for the wire.

    `due` is when it should be sent, seconds from the run's start; None in a closed loop. `id` is the
    exchange's id in the trace, `cycle` the round, `index` the place in the plan, `offset` the recorded
    arrival in seconds after the first one. `cost` is the most that it is expected to cost, US dollars,
    where a budget asks. `request` is complete: nothing is added to it when it is sent.
    """

    due: float | None
    id: str
    index: int
    cycle: int
    offset: float
    endpoint: str
    model: str | None
    stream: bool
    request: httpx.Request
    request_bytes: int = 0
    cost: float | None = None


@dataclass(slots=True)
class Reply:
    """What a sender has seen of one attempt so far.

    `connecting` is when it began to open a connection (None: it had one), `sent` just before the first
    byte of the request left, `end` the last byte of the answer. `chunks` holds every read of the body with
    its time, `received` their bytes. `failure` is set when the transport failed; else the answer decides.
    """

    connecting: float | None = None
    sent: float | None = None
    sent_wall_ns: int | None = None
    status: int | None = None
    headers: Headers = ()
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    received: int = 0
    end: float | None = None
    failure: tuple[Outcome, str] | None = None

    def header(self, name: str) -> str:
        """The first value of a header field by its lower-case name, or nothing."""
        return next((value for key, value in self.headers if key == name), "")


class Sender(Protocol):
    """Sends one call and fills in its reply. Never raises for a request that failed."""

    async def send(self, call: Call, reply: Reply) -> None: ...


def too_long(most: int) -> tuple[Outcome, str]:
    """The failure of an answer that is longer than what is read."""
    return Outcome.PROTOCOL_ERROR, f"an answer over {most >> 20} MiB, not read on"


def said(error: BaseException) -> str:
    """The words of the error that began it: the others only pass it on."""
    words = ""
    below: BaseException | None = error
    while below is not None:
        words = one_line(str(below)) or words
        below = _below(below)
    return words or type(error).__name__


def _below(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    return error.__cause__ or error.__context__
