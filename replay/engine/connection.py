"""A line: one connection, plain or under TLS, and the exchange that is on it. Nothing here waits.

The reader calls `readable` and `push`; the exchange's `over` is called when nothing more is to come of it.
"""

import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tbench.capture.exchange import Outcome
from tbench.replay.engine.clock import SLACK_S
from tbench.replay.engine.http1 import Response
from tbench.replay.sender import CERTAIN_S, Deadlines, said

if TYPE_CHECKING:
    from tbench.replay.engine.reader import Reader

READ_BYTES: Final = 65536
NOTE_BYTES: Final = 64
RECORD_BYTES: Final = 16384
"""What a TLS record holds at most."""
PIECE_BYTES: Final = 256 * 1024
"""A long request goes out in pieces of this size, and `PIECES` of them before others have their turn."""
PIECES: Final = 4
SMALL_BYTES: Final = 16384
"""A body up to this goes out with its head in one call."""
NOTHING: Final = memoryview(b"")


Over = Callable[["Connection", "InFlight"], None]
"""Told that an exchange is over, and on which line; it says what becomes of both."""

_timespec = struct.Struct("ll").unpack_from


class InFlight:
    """One request and its response on a line, with its deadlines. Set `sent` when it begins.

    `heard` is when bytes of the response last came. `over` is called once, when nothing more is to come.
    Times are those of the reader's clock.
    """

    __slots__ = ("_deadlines", "_ends", "heard", "over", "response", "sent")

    def __init__(self, response: Response, deadlines: Deadlines, ends: float, over: Over) -> None:
        self.response = response
        self.over = over
        self.sent = 0.0
        self._deadlines = deadlines
        self._ends = ends
        self.heard = 0.0

    @property
    def expires(self) -> float:
        """When the deadline of the present phase passes."""
        return min(self._phase_ends, self._ends)

    @property
    def verdict(self) -> str:
        """Which deadline that is, in words."""
        limits = self._deadlines
        answered = self.response.answered
        phase, limit = (
            ("next byte", limits.between) if answered else ("first byte", limits.first_byte)
        )
        return limits.verdict(phase, limit, total=self._ends <= self._phase_ends)

    @property
    def _phase_ends(self) -> float:
        if self.response.answered:
            return self.heard + self._deadlines.between
        return self.sent + self._deadlines.first_byte


Read = tuple[InFlight | None, float, bytes, str, bool, float | None]
"""A read: on whose behalf, when its last byte arrived, the bytes, what the trouble was, whether the kernel
timed it, and since when its first byte may have been there, where that is over a millisecond (else None)."""


class Connection:
    """A plain connection. `unread` is what was read and not looked at yet, in order.

    `reads` counts the reads since the present request began, `flushed` the bytes sent of it, `served` the
    exchanges that ended well on the line; `used` is for the pool.
    """

    sealed = False

    def __init__(self, sock: socket.socket, reader: "Reader") -> None:
        self._sock = sock
        self._recvmsg = sock.recvmsg
        self._reader = reader
        stirs = select.poll()
        stirs.register(sock, select.POLLIN | select.POLLRDHUP)
        self._stirs = stirs.poll
        self._request = self._body = NOTHING
        self._out = NOTHING
        self._writing = False
        self.fd = sock.fileno()
        self.exchange: InFlight | None = None
        self.open = True
        self.used = 0.0
        self.flushed = 0
        self.served = 0
        self._heard = self._asked = 0.0
        self._by_kernel = False
        self.reads = 0
        self._deaf = False
        self.unread: deque[Read] = deque()
        reader.add(self)

    @property
    def idle(self) -> bool:
        """Whether the whole request has left."""
        return not self._request and not self._body and not self._out

    def begin(self, exchange: InFlight, head: bytes, body: bytes) -> None:
        """Put an exchange on this line and send what can be sent at once."""
        self.exchange = exchange
        self._heard = self._asked = exchange.sent
        self.flushed = self.reads = 0
        if len(body) > SMALL_BYTES:
            self._request, self._body = memoryview(head), memoryview(body)
        elif self.sealed:
            self._request = memoryview(head + body)
        elif self._sent_whole(head + body):
            return
        self.push()

    def fresh(self) -> bool:
        """Whether an idle line is still good: the server has neither closed it nor said anything.

        The socket itself is asked, not what the reader has seen: a FIN that came since its last look counts.
        One that comes between this and the `send` that follows, some 20 us later, is no different from one
        that is still on its way: the request is sent again on another connection. (A poll of one socket
        takes a fifth of the time of a read that finds nothing.)
        """
        while self.open and (self.unread or self._stirs(0)) and self.readable():
            pass
        return self.open

    def readable(self) -> bool:
        """Read once, and look at all that was read. False when there was nothing to look at."""
        if not self.receive(self._heard) and not self.unread:
            return False
        while self.unread:
            self.deliver()
        return self.open

    def receive(self, empty: float) -> bool:
        """Read once without looking at it, for `deliver`. False when there was nothing to read.

        `empty` is when the socket was last seen to be so.
        """
        if not self.open or self._deaf:
            return False
        data, trouble, at = b"", "", 0.0
        try:
            data, notes, _, _ = self._recvmsg(READ_BYTES, NOTE_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            trouble = said(error)
        else:
            at = self._stamp(notes)
        self._deaf = not data
        self.reads += 1
        unsure = None
        if not -SLACK_S <= at - empty <= CERTAIN_S:
            # What is stamped before the socket was seen empty was on its way then, for who knows how long.
            since = self._asked if at < empty else max(empty, self._asked)
            unsure = since if at - since > CERTAIN_S else None
        self.unread.append((self.exchange, at, data, trouble, self._by_kernel, unsure))
        self._reader.unread_bytes += len(data)
        return True

    def deliver(self) -> None:
        """Look at what was read first."""
        if not self.unread:
            return
        exchange, at, data, trouble, by_kernel, since = self.unread.popleft()
        self._reader.unread_bytes -= len(data)
        if self.exchange is not exchange:
            self.fail("the server sent bytes that nobody had asked for")
        elif data:
            self._received(at, data, since, by_kernel)
        elif trouble:
            self.fail(trouble)
        else:
            self._eof(since)

    def push(self) -> None:
        """Send what the socket takes, up to a bound, and have the reader call again for the rest."""
        try:
            for _ in range(PIECES):
                if not self._out and not self._load():
                    break
                sent = self._sock.send(self._out)
                self.flushed += sent
                self._out = self._out[sent:]
        except BlockingIOError:
            pass
        except OSError as error:
            self._unsendable(error)
            return
        if self._writing == self.idle and self.open:
            self._writing = not self._writing
            self._reader.watch(self, writing=self._writing)

    def expire(self, exchange: InFlight, outcome: Outcome, words: str) -> None:
        """End an exchange that takes too long, or is not wanted any more."""
        exchange.response.fail(outcome, words)
        self.close()
        self._settle(exchange)

    def fail(self, words: str) -> None:
        """The connection is broken: end what is on it."""
        exchange = self.exchange
        self.close()
        if exchange:
            exchange.response.lost(words)
            self._settle(exchange)

    def close(self) -> None:
        """Close the connection; what is on it is not told."""
        if self.open:
            self.open = False
            self._reader.unread_bytes -= sum(len(data) for _, _, data, *_ in self.unread)
            self.unread.clear()
            self._reader.drop(self)
            self._sock.close()

    def _sent_whole(self, request: bytes) -> bool:
        """Whether the socket took the whole request at once, as it nearly always does."""
        try:
            self.flushed = self._sock.send(request)
        except OSError:  # `push` meets it again, and knows what to do
            self.flushed = 0
        if self.flushed == len(request):
            return True
        self._request = memoryview(request)[self.flushed :]
        return False

    def _load(self) -> bool:
        """Take the next piece of the request for sending; False when there is none."""
        self._out = self._piece()
        return bool(self._out)

    def _piece(self) -> memoryview:
        """The next piece of head and body."""
        if not self._request:
            self._request, self._body = self._body, NOTHING
        piece, self._request = self._request[:PIECE_BYTES], self._request[PIECE_BYTES:]
        return piece

    def _stamp(self, notes: list[tuple[int, int, bytes]]) -> float:
        """When what was just read arrived: by the kernel's stamp, else by our clock."""
        clock = self._reader.clock
        if notes:
            second, ns = _timespec(notes[0][2])
            at = clock.of(second, ns)
            if self._asked - SLACK_S <= at and clock.past(at - SLACK_S):
                self._by_kernel = True
                self._heard = max(at, self._heard)  # one that waited for a lost segment is older
                return self._heard
        self._by_kernel = False
        self._heard = clock.now()
        return self._heard

    def _received(self, at: float, data: bytes, since: float | None, by_kernel: bool) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()  # bytes that nobody asked for
            return
        if by_kernel:
            self._reader.kernel_stamps += 1
        else:
            self._reader.user_stamps += 1
        exchange.heard = at
        response = exchange.response
        response.feed(at, data, since, by_kernel)
        if response.over:
            self._settle(exchange)

    def _settle(self, exchange: InFlight) -> None:
        """The exchange is over, and told so once."""
        if self.exchange is exchange:
            self.exchange = None
            exchange.over(self, exchange)

    def _eof(self, since: float | None) -> None:
        exchange = self.exchange
        self.close()
        if exchange:
            exchange.response.eof(self._reader.clock.now(), since)
            self._settle(exchange)

    def _unsendable(self, error: OSError) -> None:
        """The server reads no more. What it had said before that still counts."""
        exchange = self.exchange
        self._reader.watch(self, writing=False)
        while self.exchange is exchange and self.readable():
            pass
        if self.exchange is exchange:
            self.fail(said(error))


class TlsConnection(Connection):
    """A connection under TLS: `tls` works on the two buffers. The stamp of a read goes to what it yields."""

    sealed = True

    def __init__(self, sock: socket.socket, reader: "Reader", tls: "Tls") -> None:
        super().__init__(sock, reader)
        self._tls = tls

    def _load(self) -> bool:
        if plain := self._piece():
            self._tls.session.write(plain)
        self._out = memoryview(self._tls.outgoing.read())
        return bool(self._out)

    def _received(self, at: float, data: bytes, since: float | None, by_kernel: bool) -> None:
        tls = self._tls
        tls.incoming.write(data)
        pieces: list[bytes] = []
        over, trouble = False, ""  # not the error itself: with its traceback it would be a cycle
        try:
            while piece := tls.session.read(RECORD_BYTES):
                pieces.append(piece)
            over = True  # the server's close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            trouble = said(error)
        if (
            pieces
        ):  # all at once: what follows the end of a response must not look like the next one's
            super()._received(at, b"".join(pieces), since, by_kernel)
        if not self.open:
            return
        if over:
            self._eof(since)
        elif trouble:
            self.fail(trouble)
        elif tls.outgoing.pending:
            self.push()


class Tls:
    """A TLS session between two memory buffers."""

    __slots__ = ("incoming", "outgoing", "session")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host)
