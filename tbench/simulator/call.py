"""One request in the making: reading it, answering it, hanging up on it."""

import math
import re
import time
from array import array
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import IO, Any, Protocol

import orjson

from tbench.simulator.order import invalid

# What goes wrong, and to whom: seeded draws by the order of arrival, or asked for by a header.

FAULTS: dict[str, str] = {
    "reset": "the connection is reset before any answer",
    "close": "the connection is closed before any answer",
    "slow": "the head comes `s` seconds late",
    "stall": "the stream pauses for `s` seconds",
    "cut": "the connection closes in the middle of the body",
    "eof": "the stream ends in the middle as if it were complete: no finish, no [DONE]",
    "error": "an error event in the middle of the stream, then [DONE]",
    "garbage": "an event that is no JSON in the middle of the stream",
    "html": "status 520 with a page in HTML, as from a gateway",
}
"""What a fault does to a request that it befalls; a status code from 400 to 599 is a fault too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls one request: after token number `at` (0: before the first), for `seconds`."""

    kind: str
    at: int | None = None
    seconds: float = 1.0

    @property
    def status(self) -> int | None:
        return int(self.kind) if self.kind.isdigit() else None

    @property
    def before(self) -> bool:
        """Whether it comes instead of an answer."""
        return self.status is not None or self.kind in {"reset", "close", "html"}

    def place(self, tokens: int, rng: Random) -> int:
        """After which token it strikes a stream of so many: as asked, else anywhere before the last."""
        if self.at is not None:
            return min(self.at, tokens - 1)
        return rng.randint(min(1, tokens - 1), tokens - 1)


def known_fault(kind: str) -> bool:
    """Whether there is a fault of this name."""
    return kind in FAULTS or re.fullmatch("[45][0-9]{2}", kind) is not None


def asked_fault(text: str) -> Fault | None:
    """A fault from the header x-sim-fault: `cut`, `stall;at=3;s=0.5`, `503`. None where it means nothing."""
    kind, *rest = (word.strip() for word in text.split(";"))
    options = dict(word.partition("=")[::2] for word in rest)
    if not known_fault(kind):
        return None
    try:
        at = int(options["at"]) if "at" in options else None
        seconds = float(options.get("s", 1.0))
    except ValueError:
        return None
    return Fault(kind, at, seconds) if (at or 0) >= 0 and 0 <= seconds < math.inf else None


def drawn_fault(rates: Mapping[str, float], rng: Random) -> Fault | None:
    """At most one of the faults, each with its own probability."""
    point = rng.random()
    for kind, rate in rates.items():
        if point < rate:
            return Fault(kind)
        # One draw for all: the rates are parts of one line, so that
        # each has its own share and no two befall one request.
        point -= rate
    return None


class RateLimit:
    """A token bucket of requests: `per_s` flow in, `burst` fit. No limit where `per_s` is 0."""

    def __init__(self, per_s: float, burst: float) -> None:
        self.per_s = per_s
        self._burst = max(1.0, burst)
        self._left = self._burst
        self._at = 0.0

    def take(self, now: float) -> float:
        """Take one request's worth: 0 when it was there, else the seconds until it will be."""
        if not self.per_s:
            return 0.0
        self._left = min(self._burst, self._left + (now - self._at) * self.per_s)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self.per_s
        self._left -= 1
        return 0.0

    def headers(self, wait: float = 0.0) -> dict[str, str]:
        """What the service says of its limit, where it has one, and of a wait."""
        # Whole seconds by RFC 9110, 10.2.3; up, or who does as told comes too early and is refused again.
        later = {"retry-after": str(math.ceil(wait))} if wait else {}
        if not self.per_s and not wait:
            return {}
        return {
            **({"x-ratelimit-limit": f"{self.per_s:g}"} if self.per_s else {}),
            "x-ratelimit-remaining": f"{int(self._left) if not wait else 0}",
            "x-ratelimit-reset": f"{wait:.3f}",
            **later,
        }


# What really happened, by the server's own clock: one record per request, kept and written as JSON lines.
#
# `*_wall_ns` are CLOCK_REALTIME. No prompt, no key, no address.

KEPT = 10_000
"""Finished records that stay in memory for /_truth."""


@dataclass(slots=True, kw_only=True, eq=False)
class Record:
    """One request. `first_wall_ns` was taken just before the write of the first token.

    `last_wall_ns` before that of the last. `queue_s` and `prefill_s` are the engine's own times.
    `in_flight` counts this one too.
    """

    id: str
    request_id: str
    endpoint: str
    arrival_wall_ns: int
    in_flight: int
    model: str | None = None
    stream: bool = False
    first_wall_ns: int | None = None
    last_wall_ns: int | None = None
    end_wall_ns: int | None = None
    status: int | None = None
    outcome: str = "ok"
    fault: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    tokens_written: int = 0
    queue_s: float | None = None
    prefill_s: float | None = None
    writes_wall_ns: array[int] = field(default_factory=lambda: array("q"))

    def wrote(self) -> None:
        """A token is about to be written."""
        now = time.time_ns()
        self.first_wall_ns = self.first_wall_ns or now
        self.last_wall_ns = now
        self.tokens_written += 1
        self.writes_wall_ns.append(now)

    def fields(self) -> dict[str, Any]:
        """As written to the log; `token_offsets_us` are the later writes in microseconds from the first."""
        names = (name for name in self.__slots__ if name != "writes_wall_ns")
        row = {name: getattr(self, name) for name in names}
        first = self.first_wall_ns or 0
        row["token_offsets_us"] = [(at - first) // 1000 for at in self.writes_wall_ns[1:]]
        return row


class Ledger:
    """Opens a record at arrival, closes it at the end, and knows how many are in flight.

    `total` counts the closed ones, `unlogged` those that its unbuffered `log` has not, for `log_failure`.
    """

    def __init__(self, log: IO[bytes] | None = None) -> None:
        self._log = log
        self.log_failure: str | None = None
        self.total = self.unlogged = 0
        self.lateness_ms: Counter[float] = Counter()
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forget what is finished; the mean starts anew, with the next arrival if nothing is in flight."""
        self.max_in_flight = self.in_flight
        self.served = 0
        self._records: deque[Record] = deque(maxlen=KEPT)
        self._area_s = 0.0
        self._changed = time.monotonic()
        self._began = self._changed if self.in_flight else None
        self.lateness_ms.clear()

    def open(self, *, id: str, request_id: str, endpoint: str) -> Record:  # noqa: A002 (its name)
        """A request has come. Whoever opens a record closes it."""
        wall = time.time_ns()
        self._change(1)
        return Record(
            id=id,
            request_id=request_id,
            endpoint=endpoint,
            arrival_wall_ns=wall,
            in_flight=self.in_flight,
        )

    def close(self, record: Record) -> None:
        """The request is over, in whatever way."""
        record.end_wall_ns = time.time_ns()
        self._change(-1)
        self.served += 1
        self.total += 1
        self._records.append(record)
        if self._log:
            self._note(orjson.dumps(record.fields()) + b"\n", self._log)

    def _note(self, line: bytes, log: IO[bytes]) -> None:
        """Line by line: whoever reads it while the server runs, or after a kill, has all that ended."""
        left = memoryview(line)
        try:
            # After a failure none more: a log that goes on behind a gap looks complete.
            while left and not self.log_failure:
                left = left[log.write(left) :]
        except OSError as error:
            self.log_failure = error.strerror or str(error)
        self.unlogged += bool(left)

    def late(self, seconds: float) -> None:
        """The engine's tokens came out so long after they were due."""
        # Counted by tenths of a millisecond: memory does not grow with the tokens of a long run.
        self.lateness_ms[round(seconds * 1e3, 1)] += 1

    def truth(self) -> list[dict[str, Any]]:
        """The finished requests, in the order of their end."""
        return [record.fields() for record in self._records]

    def stats(self) -> dict[str, Any]:
        """Counts since the start or the last reset; the mean is weighted by time since the first arrival."""
        self._change(0)
        since = self._changed - self._began if self._began is not None else 0.0
        return {
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "mean_in_flight": self._area_s / since if since else 0.0,
            "served": self.served,
            "since_first_s": since,
            "lateness_p50_ms": self._late_by(0.5),
            "lateness_p99_ms": self._late_by(0.99),
        }

    def _change(self, by: int) -> None:
        now = time.monotonic()
        if self._began is None and by > 0:
            self._began = now
        elif self._began is not None:
            # By what was in flight until now: the change counts from here on.
            self._area_s += self.in_flight * (now - self._changed)
        self._changed = now
        self.in_flight += by
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def _late_by(self, share: float) -> float | None:
        left = share * self.lateness_ms.total()
        for late, times in sorted(self.lateness_ms.items()):
            left -= times
            if left <= 0:
                return late
        return None


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGoneError(Exception):
    """The client hung up, or the server is ending: nobody reads an answer."""


class HungUpError(Exception):
    """The simulator itself closes the connection, as a fault demands."""


class Line(Protocol):
    """The connection under a request, as far as ASGI does not reach."""

    on_lost: Callable[[], None] | None

    async def hang_up(self, *, reset: bool) -> None:
        """Close in the middle, after what was written; with `reset`, abort with an RST."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A request with what the simulator has decided about it. `extra` are headers for any answer."""

    headers: Mapping[str, str]
    receive: Receive
    send: Send
    line: Line
    record: Record
    rng: Random
    fault: Fault | None = None
    extra: dict[str, str] = field(default_factory=dict)

    async def body(self) -> bytes:
        """The whole body. Raises ClientGoneError."""
        parts = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and the headers, the true times so far among them (`tbench serve --help`)."""
        record = self.record
        record.status = status
        arrival_ns, queue_s = record.arrival_wall_ns, record.queue_s
        times = {"queue_s": queue_s, "prefill_s": record.prefill_s}
        known = [f"{name}={value:.6f}" for name, value in times.items() if value is not None]
        fields = {
            **headers,
            "x-request-id": record.request_id,
            "x-sim-timing": "; ".join([f"arrival_wall_ns={arrival_ns}", *known]),
            "x-api-received": _iso(arrival_ns),
            "x-api-call-start": _iso(arrival_ns + int((queue_s or 0) * 1e9)),
            **self.extra,
        }
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})

    async def reply(self, status: int, body: bytes, content_type: str) -> None:
        """Send a whole answer."""
        length = {"content-type": content_type, "content-length": str(len(body))}
        await self.head(status, length)
        await self.write(body, last=True)

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of the body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": not last})

    def number(self, header: str) -> float | None:
        """A number from a header of the request, None without one. Raises Refusal."""
        text = self.headers.get(header)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # `not >=` instead of `<`: NaN is refused, too.
        if not value >= 0:
            raise invalid(f"{header} must be a number not below 0")
        return value


def _iso(wall_ns: int) -> str:
    stamp = datetime.fromtimestamp(wall_ns / 1e9, UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
