"""The engine's sender: takes a call to a line, and says when its exchange is over. Nothing waits per call."""

import math
import socket
import ssl
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Final, NamedTuple, Self

import trio

from tbench.capture.exchange import Outcome
from tbench.replay.engine.connection import Connection, InFlight
from tbench.replay.engine.dial import Dialer, stamped
from tbench.replay.engine.http1 import Response
from tbench.replay.engine.reader import Reader
from tbench.replay.limits import allow_descriptors
from tbench.replay.reuse import TIDY_S, Reuse
from tbench.replay.self_test import rehearse
from tbench.replay.sender import IDLE_S, STOPPED, Call, Deadlines, Ended, Origin, Reply, unconnected

# The idle lines to one origin: the one used last is used first, and none that idles for too long.


class Pool:
    """Lines that wait to be used again. Times are those of the reader's clock."""

    __slots__ = ("_begun", "_idle", "reuse")

    def __init__(self) -> None:
        self.reuse = Reuse()
        self._idle: deque[Connection] = deque()
        self._begun = 0.0

    def take(self, now: float) -> Connection | None:
        """A line that the server has neither closed nor written to unasked; nothing when there is none."""
        while self._idle:
            line = self._idle.pop()
            if line.fresh():
                if not line.served:
                    self._begun = now
                return line
        return None

    def put(self, line: Connection, used: float) -> None:
        """Keep a line for later, which was last used then."""
        line.used = used
        self._idle.append(line)

    def tidy(self, now: float) -> None:
        """Close what idles for too long, and what holds up a request on another connection.

        Lines that were opened ahead are left alone while calls still begin on others of them: a thousand
        take longer than `TIDY_S`.
        """
        self.reuse.pass_time(now)
        idle = self._idle
        while idle and (not idle[0].open or idle[0].used < now - IDLE_S):
            idle.popleft().close()
        if not idle or not self.reuse.waiting:
            return
        rested = [line for line in idle if line.open and line.used < now - TIDY_S]
        begins = now - self._begun < TIDY_S
        unused = [line for line in rested if not line.served and not begins]
        served = [line for line in rested if line.served]
        answered = sum(line.open and line.served > 0 for line in idle)
        for line in (*unused, *served[: self.reuse.surplus(answered)]):
            line.close()


DIALS: Final = 64
"""So many connections at a time are opened ahead."""


class _Attempt(NamedTuple):
    """A call that was launched. `ends` is when its time is up, `kept` whether its line was an idle one."""

    call: Call
    reply: Reply
    ended: Ended
    ends: float
    kept: bool


class EngineSender:
    """Sends calls over lines of its own. Use as `async with EngineSender(...) as sender`.

    HTTP/1.1 on Linux; no proxy, no redirects; https only with a `context`. What is sent again is a request
    whose connection was a kept one and ended before any byte of the response: once, on a new connection
    (RFC 9112, 9.3.1). Nothing else is.
    """

    def __init__(self, deadlines: Deadlines, context: ssl.SSLContext | None) -> None:
        self.deadlines = deadlines
        self._context = context
        self._stack = AsyncExitStack()
        self._pools: defaultdict[Origin, Pool] = defaultdict(Pool)
        self._active: dict[InFlight, tuple[Connection, _Attempt]] = {}
        self._dials: dict[int, trio.CancelScope] = {}
        self._launching = False

    async def __aenter__(self) -> Self:
        self._reader = Reader()
        self._now = self._reader.clock.now
        self._dialer = Dialer(self._reader, self._context)
        self._later = trio.lowlevel.current_trio_token().run_sync_soon
        self._nap = trio.CancelScope()
        self._next_look = math.inf
        allow_descriptors()
        self._stack.enter_context(_anchor())
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
        line = self._pools[call.origin].take(now)
        attempt = _Attempt(call, reply, ended, now + self.deadlines.total, line is not None)
        if line is None:
            self._dial(attempt)
            return
        reply.reused = line.served > 0
        self._launching = True
        try:
            self._begin(line, attempt)
        finally:
            self._launching = False

    def abandon(self) -> None:
        """Cancel all that is in flight: each ends as CANCELLED with what it had."""
        for scope in tuple(self._dials.values()):
            scope.cancel()
        for exchange, (line, _) in tuple(self._active.items()):
            line.expire(exchange, *STOPPED)

    def cancel(self, reply: Reply) -> None:
        """Cancel the one attempt that fills in this reply, if it is in flight."""
        for exchange, (line, attempt) in tuple(self._active.items()):
            if attempt.reply is reply:
                line.expire(exchange, *STOPPED)
                return
        if scope := self._dials.get(id(reply)):
            scope.cancel()

    async def _preopen_one(self, origin: Origin, limit: trio.CapacityLimiter) -> None:
        async with limit:
            with trio.move_on_after(self.deadlines.connect), suppress(OSError, ValueError):
                line = await self._dialer.dial(origin)
                self._pools[origin].put(line, self._now())

    def _dial(self, attempt: _Attempt) -> None:
        """Begin to open a connection for a call. From here on it can be abandoned."""
        scope = self._dials[id(attempt.reply)] = trio.CancelScope()
        self._nursery.start_soon(self._open, attempt, scope)

    async def _open(self, attempt: _Attempt, scope: trio.CancelScope) -> None:
        """Open a connection for a call, and put it there."""
        line = None
        with scope:
            line = await self._new_line(attempt)
        del self._dials[id(attempt.reply)]
        if scope.cancel_called:  # perhaps when the connection was there already
            attempt.reply.failure = STOPPED
            if line is not None:
                line.close()
            attempt.ended()
        elif line is None:
            attempt.ended()
        else:
            self._begin(line, attempt)

    async def _new_line(self, attempt: _Attempt) -> Connection | None:
        """A new connection; None when there is none, and the reply says why."""
        limits, reply, begun = self.deadlines, attempt.reply, self._now()
        if not reply.reconnected:
            reply.connecting = begun
        try:
            with trio.move_on_at(min(begun + limits.connect, attempt.ends)):
                return await self._dialer.dial(attempt.call.origin)
        except (OSError, ValueError) as error:
            reached = self._pools[attempt.call.origin].reuse.reached
            reply.failure = unconnected(error, reached=reached)
            return None
        total = attempt.ends <= begun + limits.connect
        words = limits.verdict("connect", limits.connect, total=total)
        reply.failure = (Outcome.TIMEOUT, words)
        return None

    def _begin(self, line: Connection, attempt: _Attempt) -> None:
        """Put a call on a line; its stamp is taken just before the first byte goes, at its first try."""
        call, reply, clock = attempt.call, attempt.reply, self._reader.clock
        response = Response(reply, bodyless=call.bodyless)
        exchange = InFlight(response, self.deadlines, attempt.ends, self._over)
        self._active[exchange] = (line, attempt)
        self._pools[call.origin].reuse.began(reply, fresh=not line.served)
        exchange.sent = sent = clock.now()
        if not reply.reconnected:
            reply.sent = sent
            reply.sent_wall_ns = clock.wall_ns(sent)
        line.begin(exchange, call.head, call.body)
        expires = min(sent + self.deadlines.first_byte, attempt.ends)
        if expires < self._next_look:
            self._next_look = self._nap.deadline = expires

    def _over(self, line: Connection, exchange: InFlight) -> None:
        """The exchange is over: keep the line or close it, and pass the word on."""
        _, attempt = self._active.pop(exchange)
        pool, reply = self._pools[attempt.call.origin], attempt.reply
        pool.reuse.ended(reply)
        if exchange.response.keep and line.open and line.idle and pool.reuse.keeps:
            line.served += 1
            pool.put(line, exchange.heard)
        else:
            line.close()
        if attempt.kept and exchange.response.silent and _broken(reply):
            pool.reuse.broke()
            reply.failure = None
            reply.reused, reply.reconnected = False, True
            self._dial(attempt._replace(kept=False))
        elif self._launching:
            self._later(attempt.ended)
        else:
            attempt.ended()

    async def _tidy(self) -> None:
        """Close the idle lines that are not to be kept, for ever. This is also the tick of `Passes`."""
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
            for exchange, (line, _) in tuple(self._active.items()):
                if exchange.expires <= now:
                    _expire(line, exchange, now)
                elif exchange.expires < soonest:
                    soonest = exchange.expires
            self._next_look = soonest
            with trio.CancelScope(deadline=soonest) as self._nap:
                await trio.sleep_forever()


def _broken(reply: Reply) -> bool:
    """Whether the connection failed, rather than time or the server."""
    return reply.failure is not None and reply.failure[0] is Outcome.RESET


def _expire(line: Connection, exchange: InFlight, now: float) -> None:
    """End an exchange whose deadline has passed, unless what came in time is still to be read."""
    while line.exchange is exchange and line.readable():
        pass
    if line.exchange is exchange and now >= exchange.expires:
        line.expire(exchange, Outcome.TIMEOUT, exchange.verdict)


@contextmanager
def _anchor() -> Iterator[None]:
    """A socket that always asks for stamps: the kernel takes a moment to begin when the first one asks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        stamped(sock)
        yield
