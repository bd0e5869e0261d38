"""The engine's sender: takes a call to a connection, a kept or a new one, and says when it is over.

Nothing waits per call.
"""

import math
import os
import socket
import ssl
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, Self

import trio

from tbench.capture.exchange import Outcome
from tbench.capture.runtime import allow_descriptors
from tbench.replay.engine.connection import Connection, InFlight, Reader, Tls, TlsConnection
from tbench.replay.sender import (
    IDLE_S,
    STOPPED,
    TIDY_S,
    Call,
    Deadlines,
    Ended,
    Origin,
    Reply,
    Reuse,
    rehearse,
    unconnected,
)

# Opening connections: the first to an origin finds an address that answers, the next go straight to it.

KNOWN_S: Final = 5.0
"""How long an address that answered is used without asking again, as names may move."""
SO_TIMESTAMPNS: Final = 35
"""Linux: stamp received data. Python has no name for it."""


class Dialer:
    """Opens connections for a reader; `context` is for https, which there is not without it."""

    def __init__(self, reader: Reader, context: ssl.SSLContext | None) -> None:
        self._reader = reader
        self._context = context
        if context is not None:
            context.set_alpn_protocols(["http/1.1"])
        self._known: dict[Origin, tuple[float, socket.AddressFamily, Any]] = {}

    async def dial(self, origin: Origin) -> Connection:
        """A new connection. Raises OSError (also for TLS that fails) when there is none to be had."""
        context = None if origin.scheme == "http" else self._context
        if origin.scheme != "http" and context is None:
            raise ValueError("https, which was not foreseen: no certificates were loaded")
        sock = await self._connected(origin)
        try:
            if context is None:
                return Connection(sock, self._reader)
            tls = Tls(context, origin.host)
            await _shake_hands(sock, tls)
            return TlsConnection(sock, self._reader, tls)
        except BaseException:
            sock.close()
            raise

    async def _connected(self, origin: Origin) -> socket.socket:
        now = trio.current_time()
        since, family, address = self._known.get(origin, (0.0, socket.AF_UNSPEC, None))
        if address is not None and now - since < KNOWN_S:
            return await _connect(family, address)
        # trio tries the addresses of a name side by side (RFC 8305), and
        # has set TCP_NODELAY. Of its stream only the socket is wanted.
        stream = await trio.open_tcp_stream(origin.host, origin.port)
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        stamped(sock)
        self._known[origin] = (now, sock.family, sock.getpeername())
        return sock


def stamped(sock: socket.socket) -> None:
    """Have the kernel stamp what the socket receives, where it can."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


async def _connect(family: socket.AddressFamily, address: Any) -> socket.socket:  # noqa: ANN401 (by family)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stamped(sock)
        with suppress(BlockingIOError):
            sock.connect(address)
        await trio.lowlevel.wait_writable(sock)
        # Writable means decided, not connected: how it went stands here.
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(sock: socket.socket, tls: Tls) -> None:
    """The TLS handshake. Raises ssl.SSLError when a side does not like the other."""
    while True:
        try:
            tls.session.do_handshake()
        except ssl.SSLWantReadError:
            await _flush(sock, tls)
            await _fill(sock, tls)
        except ssl.SSLError:
            with suppress(OSError):
                sock.send(tls.outgoing.read())  # the alert that says why
            raise
        else:
            await _flush(sock, tls)
            return


async def _flush(sock: socket.socket, tls: Tls) -> None:
    left = tls.outgoing.read()
    while left:
        try:
            left = left[sock.send(left) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


async def _fill(sock: socket.socket, tls: Tls) -> None:
    await trio.lowlevel.wait_readable(sock)
    try:
        data = sock.recv(65536)
    except BlockingIOError:
        return
    if not data:
        raise ConnectionResetError("the server closed the connection during the TLS handshake")
    tls.incoming.write(data)


# The idle connections to one origin: the one used last is used first, and none that idles for too long.


class Pool:
    """Connections that wait to be used again. Times are those of the reader's clock."""

    __slots__ = ("_begun", "_idle", "reuse")

    def __init__(self) -> None:
        self.reuse = Reuse()
        # Used from the right, so that what is on the left has idled the longest and is the first to go.
        self._idle: deque[Connection] = deque()
        self._begun = 0.0

    def take(self, now: float) -> Connection | None:
        """One that the server has neither closed nor written to unasked; nothing when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.fresh():
                if not connection.served:
                    self._begun = now
                return connection
        return None

    def put(self, connection: Connection, used: float) -> None:
        """Keep a connection for later, which was last used then."""
        connection.used = used
        self._idle.append(connection)

    def tidy(self, now: float) -> None:
        """Close what idles for too long, and what holds up a request on another connection.

        Those that were opened ahead are left alone while calls still begin on others of those: a thousand
        take longer than `TIDY_S`.
        """
        self.reuse.pass_time(now)
        idle = self._idle
        while idle and (not idle[0].open or idle[0].used < now - IDLE_S):
            idle.popleft().close()
        if not idle or not self.reuse.waiting:
            return
        rested = [
            connection for connection in idle if connection.open and connection.used < now - TIDY_S
        ]
        begins = now - self._begun < TIDY_S
        unused = [connection for connection in rested if not connection.served and not begins]
        served = [connection for connection in rested if connection.served]
        answered = sum(connection.open and connection.served > 0 for connection in idle)
        for connection in (*unused, *served[: self.reuse.surplus(answered)]):
            connection.close()


DIALS: Final = 64
"""So many connections at a time are opened ahead."""


class EngineSender:
    """Sends calls over connections of its own. Use as `async with EngineSender(...) as sender`.

    HTTP/1.1 on Linux; no proxy, no redirects; https only with a `context`. What is sent again is a request
    whose connection was a kept one and ended before any byte of the response: once, on a new connection
    (RFC 9112, 9.3.1), if `may_repeat` allows it. Nothing else is.
    """

    def __init__(self, deadlines: Deadlines, context: ssl.SSLContext | None) -> None:
        self.deadlines = deadlines
        self._context = context
        self._stack = AsyncExitStack()
        self._pools: defaultdict[Origin, Pool] = defaultdict(Pool)
        self._active: dict[InFlight, Connection] = {}
        self._dials: dict[int, trio.CancelScope] = {}
        self._launching = False
        self.may_repeat: Callable[[Call], bool] = lambda _call: True

    async def __aenter__(self) -> Self:
        self._reader = Reader()
        self._now = self._reader.clock.now
        self._dialer = Dialer(self._reader, self._context)
        self._later = trio.lowlevel.current_trio_token().run_sync_soon
        self._nap = trio.CancelScope()
        self._next_look = math.inf
        allow_descriptors()
        # A socket that always asks for stamps: the kernel takes a moment to begin when the first one asks.
        stamped(self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        self._stack.callback(self._reader.close)
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._nursery.start_soon(self._reader.run)
        self._nursery.start_soon(self._watch)
        self._nursery.start_soon(self._tidy)
        self._stack.callback(self._nursery.cancel_scope.cancel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def clock(self) -> str:
        """What timed the answers: `kernel` when every stamp so far was the kernel's, else `user`."""
        return "user" if self._reader.user_stamps or self._reader.clock.steps else "kernel"

    @property
    def stamps(self) -> tuple[int, int]:
        """How many reads the kernel stamped, and how many we had to."""
        return self._reader.kernel_stamps, self._reader.user_stamps

    async def rehearse(self) -> None:
        """Send one request to a socket of our own, so that the first real one finds everything loaded."""
        await rehearse(self)
        # Its reads are not the run's, and the first of a process may come before the kernel stamps any.
        self._reader.user_stamps = self._reader.kernel_stamps = 0

    async def preopen(self, origin: Origin, count: int) -> None:
        """Open so many connections ahead. Where that fails, the first call will say so."""
        limit = trio.CapacityLimiter(DIALS)
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._preopen_one, origin, limit)

    def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
        """Begin to send; `ended` is called when the reply is complete, never before this returns."""
        if (reason := call.refusal) is not None:
            reply.failure = (Outcome.PROTOCOL_ERROR, reason)
            self._later(ended)
            return
        now = self._now()
        ends = (now if reply.sent is None else reply.sent) + self.deadlines.total
        in_flight = InFlight(call, reply, ended, self.deadlines, ends, self._over)
        connection = self._pools[call.origin].take(now)
        if connection is None:
            self._dial(in_flight)
            return
        in_flight.kept = True
        reply.reused = connection.served > 0
        # A connection may break within `_begin`: then `ended` waits until this has returned.
        self._launching = True
        try:
            self._begin(connection, in_flight)
        finally:
            self._launching = False

    def abandon(self) -> None:
        """Cancel all that is in flight: each ends as CANCELLED with what it had."""
        for scope in tuple(self._dials.values()):
            scope.cancel()
        for in_flight, connection in tuple(self._active.items()):
            connection.expire(in_flight, *STOPPED)

    def cancel(self, reply: Reply) -> None:
        """Cancel the one call that fills in this reply, if it is in flight."""
        for in_flight, connection in tuple(self._active.items()):
            if in_flight.reply is reply:
                connection.expire(in_flight, *STOPPED)
                return
        if scope := self._dials.get(id(reply)):
            scope.cancel()

    async def _preopen_one(self, origin: Origin, limit: trio.CapacityLimiter) -> None:
        async with limit:
            with trio.move_on_after(self.deadlines.connect), suppress(OSError, ValueError):
                connection = await self._dialer.dial(origin)
                self._pools[origin].put(connection, self._now())

    def _dial(self, in_flight: InFlight) -> None:
        """Begin to open a connection for a call. From here on it can be abandoned."""
        scope = self._dials[id(in_flight.reply)] = trio.CancelScope()
        self._nursery.start_soon(self._open, in_flight, scope)

    async def _open(self, in_flight: InFlight, scope: trio.CancelScope) -> None:
        """Open a connection for a call, and put it there."""
        connection = None
        with scope:
            connection = await self._new_connection(in_flight)
        del self._dials[id(in_flight.reply)]
        if scope.cancel_called:  # perhaps when the connection was there already
            in_flight.reply.failure = STOPPED
            if connection is not None:
                connection.close()
            in_flight.ended()
        elif connection is None:
            in_flight.ended()
        else:
            self._begin(connection, in_flight)

    async def _new_connection(self, in_flight: InFlight) -> Connection | None:
        """A new connection; None when there is none, and the reply says why."""
        limits, reply, begun = self.deadlines, in_flight.reply, self._now()
        if reply.sent is None:
            reply.connecting = begun
        origin = in_flight.call.origin
        try:
            with trio.move_on_at(min(begun + limits.connect, in_flight.ends)):
                return await self._dialer.dial(origin)
        except (OSError, ValueError) as error:
            reply.failure = unconnected(error, reached=self._pools[origin].reuse.reached)
            return None
        total = in_flight.ends <= begun + limits.connect
        words = limits.verdict("connect", limits.connect, total=total)
        reply.failure = (Outcome.TIMEOUT, words)
        return None

    def _begin(self, connection: Connection, in_flight: InFlight) -> None:
        """Put a call on a connection. The stamp of its first try is taken just before the first byte goes."""
        reply, clock = in_flight.reply, self._reader.clock
        self._active[in_flight] = connection
        self._pools[in_flight.call.origin].reuse.began(reply, fresh=not connection.served)
        in_flight.response = response = connection.response
        response.begin(reply, bodyless=in_flight.call.bodyless)
        in_flight.heard = 0.0
        in_flight.sent = sent = clock.now()
        if reply.sent is None:
            reply.sent = sent
            reply.sent_wall_ns = clock.wall_ns(sent)
        connection.begin(in_flight)
        expires = min(sent + self.deadlines.first_byte, in_flight.ends)
        if expires < self._next_look:
            self._next_look = self._nap.deadline = expires

    def _over(self, connection: Connection, in_flight: InFlight) -> None:
        """The call is over: keep the connection or close it, and pass the word on."""
        del self._active[in_flight]
        reply, response = in_flight.reply, in_flight.response
        pool = self._pools[in_flight.call.origin]
        pool.reuse.ended(reply)
        # Idle: a server may answer before it has read all of a request, and
        # what is left of that would be taken for the beginning of the next one.
        if response.keep and connection.open and connection.idle and pool.reuse.keeps:
            connection.served += 1
            pool.put(connection, in_flight.heard)
        else:
            connection.close()
        if (
            in_flight.kept
            and response.silent
            and reply.failure is not None
            and reply.failure[0]
            is Outcome.RESET  # the connection's failure, not time's or the server's
            and self.may_repeat(in_flight.call)
        ):
            # Whoever keeps connections loses this race now and then, whatever the server says of how long it
            # keeps its own (RFC 9112, 9.3.1). No byte came back: the request may be sent again.
            pool.reuse.broke()
            reply.failure = None
            reply.reused, reply.reconnected = False, True
            reply.repeats += 1
            in_flight.kept = False
            self._dial(in_flight)
        elif self._launching:
            self._later(in_flight.ended)
        else:
            in_flight.ended()

    async def _tidy(self) -> None:
        """Close the idle connections that are not to be kept, for ever. This is also the tick of `Passes`."""
        while True:
            await trio.sleep(TIDY_S)
            now = self._now()
            for pool in self._pools.values():
                pool.tidy(now)

    async def _watch(self) -> None:
        """End what takes too long, looking only when a deadline can have passed.

        A deadline that begins after a look cannot pass sooner than the shortest of all, unless it began
        while a connection was opened: then `_begin` moves the next look.
        """
        while True:
            now = self._now()
            soonest = now + self.deadlines.shortest
            for in_flight, connection in tuple(self._active.items()):
                if in_flight.expires <= now:
                    _expire(connection, in_flight, now)
                elif in_flight.expires < soonest:
                    soonest = in_flight.expires
            self._next_look = soonest
            with trio.CancelScope(deadline=soonest) as self._nap:
                await trio.sleep_forever()


def _expire(connection: Connection, in_flight: InFlight, now: float) -> None:
    """End a call whose deadline has passed, unless what came in time is still to be read."""
    while connection.in_flight is in_flight and connection.readable():
        pass
    if connection.in_flight is in_flight and now >= in_flight.expires:
        connection.expire(in_flight, Outcome.TIMEOUT, in_flight.verdict)
