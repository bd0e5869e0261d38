"""The general sender: plain httpx transports, one connection each, used last in, first out.

httpcore's pool looks at every idle connection for every request, so a pool per connection (a lane) is
what keeps it fast. HTTP/1.1, no proxy from the environment, no redirects, no retries; TLS is verified.
"""

import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

import httpx
import trio

from capture.errors import InputError
from capture.exchange import Outcome
from replay.rehearsal import rehearse
from replay.sender import (
    IDLE_S,
    MOST_BYTES,
    Call,
    Deadlines,
    Reply,
    said,
    too_long,
)

FAILURES: Final[tuple[tuple[type[Exception], Outcome, Outcome], ...]] = (
    (httpx.ConnectError, Outcome.CONNECT_ERROR, Outcome.CONNECT_ERROR),
    (httpx.UnsupportedProtocol, Outcome.CONNECT_ERROR, Outcome.CONNECT_ERROR),
    (httpx.TimeoutException, Outcome.TIMEOUT, Outcome.TIMEOUT),
    (httpx.NetworkError, Outcome.RESET, Outcome.CUT),
    (httpx.RemoteProtocolError, Outcome.PROTOCOL_ERROR, Outcome.CUT),
    (httpx.LocalProtocolError, Outcome.PROTOCOL_ERROR, Outcome.PROTOCOL_ERROR),
    (httpx.HTTPError, Outcome.PROTOCOL_ERROR, Outcome.PROTOCOL_ERROR),
    (ssl.SSLError, Outcome.CONNECT_ERROR, Outcome.CUT),
)
"""An exception -> its outcome before the answer's head, and after it. The first row that fits counts."""

_CLOSED: Final = "without sending a response"
_CUT_SHORT: Final = ("incomplete", "without sending complete")


def failure(error: Exception, *, answered: bool) -> tuple[Outcome, str] | None:
    """The outcome of a transport's exception; None when it is not one of a transport."""
    for kind, before, after in FAILURES:
        if isinstance(error, kind):
            return _refined(after if answered else before, error), said(error)
    return None


def _refined(outcome: Outcome, error: Exception) -> Outcome:
    """h11 words a closed connection and a broken protocol as the same exception."""
    said = str(error)
    if outcome is Outcome.PROTOCOL_ERROR and _CLOSED in said:
        return Outcome.RESET
    broken = outcome is Outcome.CUT and isinstance(error, httpx.RemoteProtocolError)
    if broken and not any(words in said for words in _CUT_SHORT):
        return Outcome.PROTOCOL_ERROR
    return outcome


def tls(ca: Path | None = None) -> ssl.SSLContext:
    """Verifying TLS: certifi's roots, or those of SSL_CERT_FILE; `ca` adds a file of more."""
    context = httpx.create_ssl_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"--ca {ca}: no readable PEM certificates ({error})") from None
    return context


@dataclass(slots=True)
class Lane:
    """One connection at most, with the time it was last used."""

    transport: httpx.AsyncHTTPTransport
    used: float = 0.0


class HttpxSender:
    """Sends calls over its lanes. Use as `async with HttpxSender(...) as sender`; closing ends the lanes."""

    def __init__(self, deadlines: Deadlines, context: ssl.SSLContext | None = None) -> None:
        self.deadlines = deadlines
        self._context = context if context is not None else tls()
        self._idle: list[Lane] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            await self._close(self._idle.pop())

    @property
    def clock(self) -> str:
        """What stamps the answers: this process, when it gets to read."""
        return "user"

    async def rehearse(self) -> None:
        """Send one request to a socket of our own, so that the first real one finds everything loaded."""
        await rehearse(self)
        while self._idle:
            await self._close(self._idle.pop())

    async def send(self, call: Call, reply: Reply) -> None:
        """Send one call; its reply says what happened, whatever it was."""
        watch = _Watch(reply, self.deadlines)
        lane = await self._lane()
        whole = False
        try:
            with watch.scope:
                whole = await self._exchange(lane, call, reply, watch)
        finally:
            await self._put_back(lane, whole=whole)
        if watch.scope.cancelled_caught and reply.failure is None:
            reply.failure = (Outcome.TIMEOUT, watch.verdict())

    async def _exchange(self, lane: Lane, call: Call, reply: Reply, watch: "_Watch") -> bool:
        """Whether the answer was read to its end."""
        call.request.extensions["trace"] = watch.trace
        try:
            response = await lane.transport.handle_async_request(call.request)
            reply.status = response.status_code
            reply.headers = tuple((n.lower(), v) for n, v in response.headers.multi_items())
            await _read(response, reply, watch)
            return reply.failure is None
        except (httpx.HTTPError, ssl.SSLError) as error:
            reply.failure = failure(error, answered=reply.status is not None)
            return False

    async def _lane(self) -> Lane:
        """The lane used last, or a new one. Lanes that idled too long are closed."""
        stale = trio.current_time() - IDLE_S
        while self._idle and self._idle[0].used < stale:
            await self._close(self._idle.pop(0))
        if self._idle:
            return self._idle.pop()
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S)
        return Lane(httpx.AsyncHTTPTransport(verify=self._context, trust_env=False, limits=one))

    async def _put_back(self, lane: Lane, *, whole: bool) -> None:
        if whole:
            lane.used = trio.current_time()
            self._idle.append(lane)
        else:
            await self._close(lane)

    async def _close(self, lane: Lane) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await lane.transport.aclose()


async def _read(response: httpx.Response, reply: Reply, watch: "_Watch") -> None:
    pieces = cast("AsyncGenerator[bytes]", response.aiter_raw())
    async with aclosing(pieces):
        async for piece in pieces:
            watch.took(piece)
    reply.end = trio.current_time()


class _Watch:
    """The stamps and deadlines of one attempt."""

    def __init__(self, reply: Reply, deadlines: Deadlines) -> None:
        self._reply = reply
        self._deadlines = deadlines
        self._ends = trio.current_time() + deadlines.total
        self.scope = trio.CancelScope()
        self._wait_for("connect", deadlines.connect)

    async def trace(self, event: str, _details: dict[str, Any]) -> None:
        """The events of httpcore, each at the instant it happens."""
        if event == "http11.send_request_headers.started":
            self._reply.sent_wall_ns = time.time_ns()
            self._reply.sent = trio.current_time()
            self._wait_for("first byte", self._deadlines.first_byte)
        elif event == "connection.connect_tcp.started":
            self._reply.connecting = trio.current_time()
        elif event == "http11.receive_response_headers.complete":
            self._wait_for("next byte", self._deadlines.between)

    def took(self, piece: bytes) -> None:
        """Note a piece of the body. An answer that has grown too long is cancelled.

        Only a cancellation unwinds the generators inside httpx; leaving the loop would leave them open.
        """
        reply = self._reply
        now = trio.current_time()
        reply.chunks.append((now, piece))
        reply.received += len(piece)
        self.scope.deadline = min(now + self._deadlines.between, self._ends)
        if reply.received > MOST_BYTES:
            reply.failure = too_long(MOST_BYTES)
            self.scope.cancel()

    def verdict(self) -> str:
        """Which deadline passed, in words."""
        total = self.scope.deadline == self._ends
        return self._deadlines.verdict(self._phase, self._limit, total=total)

    def _wait_for(self, phase: str, limit: float) -> None:
        self._phase, self._limit = phase, limit
        self.scope.deadline = min(trio.current_time() + limit, self._ends)
