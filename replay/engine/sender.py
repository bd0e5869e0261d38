"""The engine's sender: takes a call to a line, waits for the end of its exchange, and judges the stamps."""

import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Self

import trio

from capture.exchange import Outcome
from replay.engine.dial import Dialer, stamped
from replay.engine.line import Exchange, Line
from replay.engine.pool import Origin, Pool, origin_of
from replay.engine.reader import Reader
from replay.engine.wire import Response, to_bytes
from replay.rehearsal import rehearse
from replay.sender import Call, Deadlines, Reply, said


class EngineSender:
    """Sends calls over lines of its own. Use as `async with EngineSender(...) as sender`.

    HTTP/1.1 on Linux; no proxy, no redirects, no retries. A kept connection that turns out to be closed
    before a byte of the request has left is replaced by another one.
    """

    def __init__(self, deadlines: Deadlines, context: ssl.SSLContext) -> None:
        self.deadlines = deadlines
        self._context = context
        self._stack = AsyncExitStack()
        self._pool = Pool()

    async def __aenter__(self) -> Self:
        self._reader = Reader()
        self._dialer = Dialer(self._reader, self._context)
        _allow_descriptors()
        self._stack.enter_context(_anchor())
        self._stack.callback(self._reader.close)
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(self._reader.run)
        self._stack.callback(nursery.cancel_scope.cancel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def clock(self) -> str:
        """What timed the answers: `kernel` when every stamp so far was the kernel's, else `user`."""
        reader = self._reader
        return "user" if reader.user_stamps or reader.clock.steps else "kernel"

    async def rehearse(self) -> None:
        """Send one request to a socket of our own, so that the first real one finds everything loaded."""
        await rehearse(self)
        self._reader.user_stamps = self._reader.kernel_stamps = 0

    async def send(self, call: Call, reply: Reply) -> None:
        """Send one call; its reply says what happened, whatever it was."""
        ends = self._reader.clock.now() + self.deadlines.total
        try:
            origin = origin_of(call.request.url)
            request = to_bytes(call.request)
        except ValueError as error:
            reply.failure = (Outcome.PROTOCOL_ERROR, said(error))
            return
        bodyless = call.request.method == "HEAD"
        while True:
            line = self._pool.take(origin, self._reader.clock.now())
            kept = line is not None
            line = line or await self._new_line(origin, reply, ends)
            if line is None:
                return
            exchange = self._begun(line, request, reply, bodyless, ends)
            await self._attend(line, exchange, origin)
            if not (kept and line.flushed == 0 and reply.failure):
                return
            reply.failure = reply.sent = reply.sent_wall_ns = None

    async def _new_line(self, origin: Origin, reply: Reply, ends: float) -> Line | None:
        """A new connection; None when there is none, and the reply says why."""
        limits = self.deadlines
        reply.connecting = begun = self._reader.clock.now()
        try:
            with trio.move_on_at(min(begun + limits.connect, ends)):
                return await self._dialer.dial(origin)
        except (OSError, ValueError) as error:
            reply.failure = (Outcome.CONNECT_ERROR, said(error))
            return None
        words = limits.verdict("connect", limits.connect, total=ends <= begun + limits.connect)
        reply.failure = (Outcome.TIMEOUT, words)
        return None

    def _begun(
        self, line: Line, request: bytes, reply: Reply, bodyless: bool, ends: float
    ) -> Exchange:
        """Put the request on the line; its stamp is taken just before the first byte goes."""
        clock = self._reader.clock
        response = Response(reply, bodyless=bodyless)
        exchange = Exchange(response, self.deadlines, ends=ends)
        reply.sent = exchange.sent = clock.now()
        line.begin(exchange, request)
        reply.sent_wall_ns = clock.wall_ns(reply.sent)
        return exchange

    async def _attend(self, line: Line, exchange: Exchange, origin: Origin) -> None:
        """Until the exchange is over; then the line is kept or closed."""
        response, clock = exchange.response, self._reader.clock
        try:
            while not response.over:
                await exchange.wait()
                if not response.over and clock.now() >= exchange.expires:
                    _expire(line, exchange, clock.now())
        finally:
            if response.keep and line.open and line.idle:
                self._pool.put(origin, line, clock.now())
            else:
                line.close()


def _expire(line: Line, exchange: Exchange, now: float) -> None:
    """End an exchange whose deadline has passed, unless what came in time is still to be read."""
    while not exchange.response.over and line.readable():
        pass
    if now >= exchange.expires:
        exchange.response.fail(Outcome.TIMEOUT, exchange.verdict)


def _allow_descriptors() -> None:
    """As many connections as the system allows: the usual limit is made for programs with few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _anchor() -> Iterator[None]:
    """A socket that always asks for stamps: the kernel takes a moment to begin when the first one asks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        stamped(sock)
        yield
