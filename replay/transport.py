"""The engine under httpx: `httpx.AsyncClient(transport=EngineTransport())`, for programs that run on trio."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import httpx
import trio

from tbench.capture.exchange import Outcome
from tbench.replay.engine.sender import EngineSender
from tbench.replay.request import head_of, origin_of
from tbench.replay.sender import Call, Deadlines, Reply
from tbench.replay.system import tls

FOREVER: Final = Deadlines(connect=1e9, first_byte=1e9, between=1e9, total=1e9)
"""The timeouts are the client's own, request by request."""
RAISED: Final = {
    Outcome.CONNECT_ERROR: httpx.ConnectError,
    Outcome.CLIENT_LIMIT: httpx.ConnectError,
    Outcome.RESET: httpx.ReadError,
    Outcome.CUT: httpx.RemoteProtocolError,
    Outcome.PROTOCOL_ERROR: httpx.RemoteProtocolError,
    Outcome.CANCELLED: httpx.ReadError,
}


class EngineTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over tbench's engine, on Linux and trio; use the client as `async with`.

    Requests are sent whole, answers are streamed. `response.extensions["tbench"]` is the
    replay.sender.Reply: when the request was sent and when the kernel received each piece, in seconds of
    trio's clock. What a program does not read waits in memory; answers over 64 MiB are not read on.
    No proxy. A request is sent again only where its kept connection ended before any byte of a response:
    once, on a new one.
    """

    def __init__(self, verify: ssl.SSLContext | None = None) -> None:
        self._sender = EngineSender(FOREVER, tls() if verify is None else verify)
        self._stack = AsyncExitStack()
        self._open = False

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._sender)
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._open = False
        await self._stack.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and return when the head of the answer is there. Raises httpx's exceptions."""
        if not self._open:
            raise RuntimeError(
                "EngineTransport: use the client as 'async with httpx.AsyncClient(...)'"
            )
        call = _call(request, await request.aread())
        limits = request.extensions.get("timeout") or {}
        passage = _Passage(self._sender, request, limits.get("read"))
        self._sender.launch(call, passage.reply, passage.ended)
        await passage.head(limits.get("connect"))
        reply = passage.reply
        return httpx.Response(
            reply.status or 0,
            headers=list(reply.headers),
            stream=passage,
            extensions={"http_version": b"HTTP/1.1", "tbench": reply},
        )


class _Passage(httpx.AsyncByteStream):
    """One answer on its way to whoever reads it. `read` seconds may pass without a byte."""

    def __init__(self, sender: EngineSender, request: httpx.Request, read: float | None) -> None:
        self.reply = Reply(on_data=self._wake)
        self._sender = sender
        self._request = request
        self._read = float("inf") if read is None else read
        self._over = False
        self._news = trio.Event()

    def ended(self) -> None:
        """Nothing more will come."""
        self._over = True
        self._wake()

    async def head(self, connect: float | None) -> None:
        """Wait for the status. Raises httpx's exceptions."""
        patience = float("inf") if connect is None else connect
        try:
            with trio.move_on_after(patience) as connecting:
                # The engine wakes for what comes in, not for what goes out:
                # whether the request has left is asked for, at most 10 ms late.
                while not self._answered and self.reply.sent is None:
                    await self._more(min(patience, 0.01))
            if connecting.cancelled_caught and self.reply.sent is None:
                raise httpx.ConnectTimeout(f"nothing for {patience:g} s", request=self._request)
            while not self._answered:
                await self._expect()
            if self.reply.status is None:
                self._complain()
        # A client that is cancelled here as well: the connection
        # would stay taken, with an answer that nobody reads.
        except BaseException:
            await self.aclose()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        place = 0
        while True:
            while place < len(self.reply.chunks):
                yield self.reply.chunks[place][1]
                place += 1
            if self._over:
                break
            await self._expect()
        self._complain()

    async def aclose(self) -> None:
        """Give up what has not come yet; its connection is closed."""
        if not self._over:
            self._sender.cancel(self.reply)

    @property
    def _answered(self) -> bool:
        return self.reply.status is not None or self._over

    def _wake(self) -> None:
        self._news.set()

    async def _more(self, patience: float) -> bool:
        """Wait for something new; False when it did not come in time."""
        with trio.move_on_after(patience):
            await self._news.wait()
            # A new one before anything is looked at: what comes from here on wakes the next wait.
            self._news = trio.Event()
            return True
        return False

    async def _expect(self) -> None:
        if not await self._more(self._read):
            await self.aclose()
            raise httpx.ReadTimeout(f"nothing for {self._read:g} s", request=self._request)

    def _complain(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.reply.failure:
            outcome, words = self.reply.failure
            raise RAISED.get(outcome, httpx.ReadError)(words, request=self._request)


def _call(request: httpx.Request, content: bytes) -> Call:
    """The request as bytes, its body with a length. Raises httpx.LocalProtocolError, UnsupportedProtocol."""
    # httpx chunks what comes from a generator; it was read as a whole here, so that its length is known.
    if "transfer-encoding" in request.headers:
        fields = [(n, v) for n, v in request.headers.raw if n.lower() != b"transfer-encoding"]
        request = httpx.Request(request.method, request.url, headers=fields, content=content)
    try:
        origin = origin_of(request.url)
    except ValueError as error:
        raise httpx.UnsupportedProtocol(str(error), request=request) from None
    try:
        head = head_of(request)
    except ValueError as error:
        raise httpx.LocalProtocolError(str(error), request=request) from None
    return Call(index=0, due=None, origin=origin, head=head, body=content)
