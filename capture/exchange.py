"""What was said on the wire, and when: one request and what became of it.

Times are integer nanoseconds since the capture's monotonic origin. An absent value is None, never 0.
Bodies are the exact bytes of the wire, still content-encoded. Nobody changes these once they are made; to
have Python see to that would cost more than to read them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

Headers = tuple[tuple[str, str], ...]
"""Header fields in wire order, names in lower case."""

Places = tuple[tuple[int, int, int], ...]
"""Where records lie in a trace: the number of the segment, the ordinals of the block and of the record."""

LED_BACK: Final = "redirected_back"
"""What the format calls a redirect to where the capture is."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Outcome(StrEnum):
    """How an exchange ended. Captures and replays use the same words."""

    OK = "ok"
    HTTP_ERROR = "http_error"
    """A whole answer with a status of 400 or above, or a redirect."""
    STREAM_ERROR = "stream_error"
    """Status 200, then an error event inside the stream."""
    CUT = "cut"
    """The answer began but ended before its end: body cut short, or a stream without a finish."""
    RESET = "reset"
    """The connection closed or was reset before the first byte of an answer."""
    CONNECT_ERROR = "connect_error"
    """No connection: refused, no such host, TLS failure."""
    CLIENT_LIMIT = "client_limit"
    """No connection, as this machine could open no more: descriptors, ports, memory (replays only)."""
    TIMEOUT = "timeout"
    """A deadline passed (connect, first byte, between chunks, or total)."""
    PROTOCOL_ERROR = "protocol_error"
    """The answer is not HTTP, or not what its content type promises."""
    CLIENT_ABORT = "client_abort"
    """The application closed its side first (captures only)."""
    PROXY_SHUTDOWN = "proxy_shutdown"
    """The capture was stopped while the exchange was in flight (captures only)."""
    CANCELLED = "cancelled"
    """The replay was stopped while the exchange was in flight (replays only)."""
    INCOMPLETE = "incomplete"
    """The trace holds no response: the capture was killed, or the record was lost."""


ABANDONED: Final = frozenset(
    {Outcome.CANCELLED, Outcome.CLIENT_ABORT, Outcome.PROXY_SHUTDOWN, Outcome.INCOMPLETE}
)
"""Outcomes that somebody else than the server brought about: neither a success nor an error."""


@dataclass(slots=True)
class Request:
    """A request as the application sent it, less its credentials.

    `seq` counts arrivals in the capture; `end_ns` is when its last byte was read. `client` is a keyed
    pseudonym of the caller's credential and address, `conn` numbers the client's connection, and
    `retry_of` is the id of the attempt that this one repeats. `extra` keeps fields of newer writers.
    """

    id: str
    seq: int
    arrive_ns: int
    end_ns: int
    method: str
    scheme: str
    host: str
    path: str
    http_version: str = "HTTP/1.1"
    headers: Headers = ()
    headers_withheld: int = 0
    body: bytes | None = None
    body_bytes: int = 0
    client: str | None = None
    conn: int | None = None
    retry_of: str | None = None
    extra: Mapping[str, Any] = field(default=NOTHING)

    @property
    def fields(self) -> dict[str, str]:
        """The first value of each header field, by its lower-case name."""
        return dict(self.headers[::-1])

    def header(self, name: str) -> str | None:
        """The first value of a header field, by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Chunk(NamedTuple):
    """One network read of a response body: when it came and how many bytes."""

    at_ns: int
    size: int


@dataclass(slots=True)
class Response:
    """What came back. `status` and `head_ns` are None where not even a head arrived.

    `body` is None where it was not kept; `body_bytes` is what passed on the wire. Chunks carry the time
    of every network read and stay whole when the body was not kept.
    """

    head_ns: int | None
    end_ns: int
    status: int | None
    http_version: str = "HTTP/1.1"
    headers: Headers = ()
    headers_withheld: int = 0
    body: bytes | None = None
    body_bytes: int = 0
    chunks: tuple[Chunk, ...] = ()
    outcome: Outcome = Outcome.OK
    error: str | None = None
    extra: Mapping[str, Any] = field(default=NOTHING)

    def header(self, name: str) -> str | None:
        """The first value of a header field, by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def led_back(self) -> bool:
        """Whether it redirected its client back to the capture, which records what follows."""
        return self.extra.get(LED_BACK) is True


@dataclass(slots=True)
class Exchange:
    """A request with its response; no response means that the trace holds none.

    `places` are those of the request and, where there is one, of the response in the trace that was read.
    `answer` reads the response with its body, of which there may be the end alone; None where the trace is
    not at hand.
    """

    request: Request
    response: Response | None
    places: Places = field(default=(), compare=False, repr=False)
    answer: "Callable[[], Response | None] | None" = field(default=None, compare=False, repr=False)

    @property
    def outcome(self) -> Outcome:
        return self.response.outcome if self.response else Outcome.INCOMPLETE

    @property
    def weight(self) -> int:
        """Bytes of its bodies."""
        return self.request.body_bytes + (self.response.body_bytes if self.response else 0)
