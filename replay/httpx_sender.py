"""The general sender: plain httpx transports, one connection each, used last in, first out.

httpcore's pool looks at every idle connection for every request, so a pool per connection (a lane) is
what keeps it fast. HTTP/1.1, no proxy from the environment, no redirects; TLS is verified. What is sent
again is a request whose connection was a kept one and ended before the head of a response: once, on a new
connection. Nothing else is.
"""

import ssl
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast

import httpx
import trio

from tbench.capture.endings import httpx_outcome
from tbench.capture.exchange import Outcome
from tbench.replay.engine.clock import Passes
from tbench.replay.sender import (
    CERTAIN_S,
    IDLE_S,
    MOST_BYTES,
    STOPPED,
    TIDY_S,
    Call,
    Deadlines,
    Ended,
    Origin,
    Reply,
    Reuse,
    error_text,
    rehearse,
    too_long,
    unconnected,
)
from tbench.replay.system import tls

SENDING: Final = frozenset(
    {"http11.send_request_headers.started", "http2.send_request_headers.started"}
)
ASKING: Final = frozenset(
    {"http11.receive_response_headers.started", "http2.receive_response_headers.started"}
)
ANSWERED: Final = frozenset(
    {"http11.receive_response_headers.complete", "http2.receive_response_headers.complete"}
)
"""Events of httpcore, by what they say of an attempt."""

UNASKED: Final = 2
"""A read that ends within so many passes of the loop did not wait: what it got may have been there before."""


def failure(error: Exception, *, answered: bool) -> tuple[Outcome, str] | None:
    """The outcome of a transport's exception, with its words; None when it is not one of a transport."""
    outcome = httpx_outcome(error, answered=answered)
    return None if outcome is None else (outcome, error_text(error))


@dataclass(slots=True)
class Lane:
    """One connection at most, with the time it was last used (0: never)."""

    transport: httpx.AsyncHTTPTransport
    used: float = 0.0


@dataclass(slots=True)
class Lanes:
    """The idle lanes to one origin, and which are kept."""

    idle: list[Lane] = field(default_factory=list)
    reuse: Reuse = field(default_factory=Reuse)

    def dismissed(self, now: float) -> list[Lane]:
        """Those that idled for too long, or hold up a request on another connection. They are taken out."""
        self.reuse.pass_time(now)
        rested = sum(lane.used < now - TIDY_S for lane in self.idle)
        stale = sum(lane.used < now - IDLE_S for lane in self.idle)
        count = max(stale, min(rested, self.reuse.surplus(len(self.idle))))
        gone, self.idle = self.idle[:count], self.idle[count:]
        return gone


class HttpxSender:
    """Sends calls over its lanes. Use as `async with HttpxSender(...) as sender`; closing ends the lanes.

    With `http2` all calls share one lane, whose connections carry many at a time. `proxy` is a URL.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        context: ssl.SSLContext | None = None,
        *,
        http2: bool = False,
        proxy: str | None = None,
    ) -> None:
        self.deadlines = deadlines
        self._context = context if context is not None else tls()
        self._http2 = http2
        self._proxy = proxy
        self._lanes: defaultdict[Origin, Lanes] = defaultdict(Lanes)
        self._shared: Lane | None = None
        self._under_way: set[trio.CancelScope] = set()
        self._reads = 0
        self.may_repeat: Callable[[Call], bool] = lambda _call: True
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._passes = Passes()
        self._stack.callback(self._passes.close)
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._nursery.start_soon(self._passes.tick)
        self._stack.callback(self._nursery.cancel_scope.cancel)
        self._nursery.start_soon(self._tidy)
        self._shared = self._lane() if self._http2 else None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        await self._close_idle()
        if self._shared:
            await self._close(self._shared)

    @property
    def clock(self) -> str:
        """What stamps the answers: this process, when it gets to read."""
        return "user"

    @property
    def stamps(self) -> tuple[int, int]:
        """No read is stamped by the kernel."""
        return 0, self._reads

    async def rehearse(self) -> None:
        """Send one request to a socket of our own, so that the first real one finds everything loaded."""
        if not (self._http2 or self._proxy):
            await rehearse(self)
            await self._close_idle()
        self._reads = 0

    async def preopen(self, origin: Origin, count: int) -> None:
        """Nothing: httpx opens a connection when it sends, and the sample says how long that took."""

    def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
        """Begin to send; `ended` is called when the reply is complete."""
        scope = trio.CancelScope()
        self._under_way.add(scope)
        self._nursery.start_soon(self._attempt, scope, call, reply, ended)

    def abandon(self) -> None:
        """Cancel all that is in flight: each ends as CANCELLED with what it had."""
        for scope in tuple(self._under_way):
            scope.cancel()

    async def _attempt(
        self, scope: trio.CancelScope, call: Call, reply: Reply, ended: Ended
    ) -> None:
        with scope:
            try:
                await self._send(call, reply)
            except Exception as error:
                words = f"sender: {type(error).__name__}: {error_text(error)}"
                reply.failure = (Outcome.PROTOCOL_ERROR, words)
            finally:
                self._under_way.discard(scope)
        if scope.cancelled_caught:
            reply.failure = STOPPED
        self._reads += len(reply.chunks)
        ended()

    async def _send(self, call: Call, reply: Reply) -> None:
        if reason := call.refusal:
            reply.failure = (Outcome.PROTOCOL_ERROR, reason)
            return
        watch = _Watch(reply, self.deadlines, self._passes)
        lanes = self._lanes[call.origin]
        with watch.scope:
            await self._try(lanes, call, reply, watch)
            lost = reply.reused and reply.failure and reply.failure[0] is Outcome.RESET
            if lost and self.may_repeat(call):
                lanes.reuse.broke()
                watch.again()
                await self._try(lanes, call, reply, watch)
        if watch.scope.cancelled_caught and reply.failure is None:
            reply.failure = (Outcome.TIMEOUT, watch.verdict())

    async def _try(self, lanes: Lanes, call: Call, reply: Reply, watch: "_Watch") -> None:
        """Send it on a lane that is idle, or a new one; on a new one when it is sent again."""
        lane = self._shared or (lanes.idle.pop() if lanes.idle and not reply.reconnected else None)
        lane = lane or self._lane()
        complete = False
        lanes.reuse.began(reply, fresh=not lane.used)
        try:
            complete = await self._exchange(lane, call, reply, watch)
        finally:
            lanes.reuse.ended(reply)
            if lane is not self._shared:
                lane.used = trio.current_time()
                if complete and lanes.reuse.keeps:
                    lanes.idle.append(lane)
                else:
                    await self._close(lane)

    async def _exchange(self, lane: Lane, call: Call, reply: Reply, watch: "_Watch") -> bool:
        """Whether the answer was read to its end."""
        request = request_of(call)
        request.extensions["trace"] = watch.trace
        try:
            response = await lane.transport.handle_async_request(request)
            reply.status = response.status_code
            reply.headers = response.headers.raw
            await _read(response, reply, watch)
            return reply.failure is None
        except (httpx.HTTPError, ssl.SSLError) as error:
            reply.failure = failure(error, answered=reply.status is not None)
            if isinstance(error, httpx.ConnectError):
                reached = self._lanes[call.origin].reuse.reached
                reply.failure = unconnected(error, reached=reached)
            return False

    def _lane(self) -> Lane:
        most = None if self._http2 else 1
        limits = httpx.Limits(
            max_connections=most, max_keepalive_connections=most, keepalive_expiry=IDLE_S
        )
        transport = httpx.AsyncHTTPTransport(
            verify=self._context,
            # The environment's proxies are for browsers: what is
            # measured goes straight to its target, unless told.
            trust_env=False,
            limits=limits,
            http1=not self._http2,
            http2=self._http2,
            proxy=self._proxy,
        )
        return Lane(transport)

    async def _tidy(self) -> None:
        """Close the idle lanes that are not to be kept, for ever."""
        while True:
            await trio.sleep(TIDY_S)
            now = trio.current_time()
            for lane in [lane for lanes in self._lanes.values() for lane in lanes.dismissed(now)]:
                await self._close(lane)

    async def _close_idle(self) -> None:
        for lanes in self._lanes.values():
            while lanes.idle:
                await self._close(lanes.idle.pop())

    async def _close(self, lane: Lane) -> None:
        # Shielded, or a cancelled attempt would leave its socket
        # open; bounded, as a TLS farewell may never come.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await lane.transport.aclose()


def request_of(call: Call) -> httpx.Request:
    """A call as httpx has it: its head is read back, and nothing is added."""
    line, *fields = call.head[:-4].split(b"\r\n")
    method, target, _ = line.split(b" ", 2)
    headers = [(name, value) for name, _, value in (field.partition(b": ") for field in fields)]
    scheme, host, port = call.origin
    url = httpx.URL(scheme=scheme, host=host, port=port, raw_path=target)
    return httpx.Request(method.decode("ascii"), url, headers=headers, stream=_Body(call.body))


class _Body(httpx.AsyncByteStream):
    """Bytes that go out as they are."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._body:
            yield self._body


async def _read(response: httpx.Response, reply: Reply, watch: "_Watch") -> None:
    pieces = cast("AsyncGenerator[bytes]", response.aiter_raw())
    async with aclosing(pieces):
        async for piece in pieces:
            watch.took(piece)
    reply.end = trio.current_time()
    watch.dated(reply.end)


class _Watch:
    """The stamps and deadlines of one attempt."""

    def __init__(self, reply: Reply, deadlines: Deadlines, passes: Passes) -> None:
        self._reply = reply
        self._deadlines = deadlines
        self._passes = passes
        self._pass, self._since = -UNASKED, 0.0
        self._connected = False
        self._sent: float | None = None
        now = trio.current_time()
        self._ends = (now if reply.sent is None else reply.sent) + deadlines.total
        self.scope = trio.CancelScope()
        self._wait_for("connect", deadlines.connect)

    async def trace(self, event: str, _details: dict[str, Any]) -> None:
        """The events of httpcore, each at the instant it happens."""
        if event in SENDING:
            self._wait_for("first byte", self._deadlines.first_byte)
            if self._sent is not None:  # httpcore does so itself after a GOAWAY
                self._reply.reused, self._reply.reconnected = False, True
                return
            self._sent = trio.current_time()
            self._reply.reused = not self._connected
            if self._reply.sent is None:
                self._reply.sent_wall_ns = time.time_ns()
                self._reply.sent = self._sent
        elif event == "connection.connect_tcp.started" and self._sent is None:
            self._connected = True
            if self._reply.sent is None:
                self._reply.connecting = trio.current_time()
        elif event in ASKING:
            self._pass, self._since = self._passes.number, self._sent or 0.0
        elif event in ANSWERED:
            self._read()
            self._wait_for("next byte", self._deadlines.between)

    def took(self, piece: bytes) -> None:
        """Note a piece of the body. An answer that has grown too long is cancelled.

        Only a cancellation unwinds the generators inside httpx; leaving the loop would leave them open.
        Pieces of one read share its stamp, as they do in the engine.
        """
        reply, together = self._reply, self._pass == self._passes.number
        now = reply.chunks[-1][0] if together and reply.chunks else trio.current_time()
        self.dated(now)
        reply.chunks.append((now, piece))
        reply.received += len(piece)
        self.scope.deadline = min(now + self._deadlines.between, self._ends)
        if reply.received > MOST_BYTES:
            reply.failure = too_long(MOST_BYTES)
            self.scope.cancel()

    def dated(self, at: float) -> None:
        """Note since when what is stamped `at`, the next piece or the end, may have been there."""
        since = max(self._read(), self._sent or 0.0)
        if at - since > CERTAIN_S:
            self._reply.unsure[len(self._reply.chunks)] = since

    def again(self) -> None:
        """The same call goes out once more. It is still the same call: its stamps and its end stay."""
        self._reply.failure = None
        self._reply.reused, self._reply.reconnected = False, True
        self._reply.repeats += 1
        self._wait_for("connect", self._deadlines.connect)

    def _read(self) -> float:
        """Something was read in this pass of the loop. Since when it may have been there."""
        if self._passes.number > self._pass + UNASKED:
            self._since = self._passes.empty
        self._pass = self._passes.number
        return self._since

    def verdict(self) -> str:
        """Which deadline passed, in words."""
        total = self.scope.deadline == self._ends
        return self._deadlines.verdict(self._phase, self._limit, total=total)

    def _wait_for(self, phase: str, limit: float) -> None:
        self._phase, self._limit = phase, limit
        self.scope.deadline = min(trio.current_time() + limit, self._ends)
