"""Connections, plain or under TLS, each with the call that is in flight on it; and what reads them all.

A connection waits for nothing. The one reader calls its `receive`, `deliver` and `push`; a call's `over` is
called when nothing more is to come.
"""

import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import trio

from tbench.capture.exchange import Outcome
from tbench.replay.engine.clock import SLACK_S, Clock, Passes
from tbench.replay.engine.http1 import Response
from tbench.replay.sender import CERTAIN_S, Call, Deadlines, Ended, Reply, error_text

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
"""Told that a call is over, and on which connection; it says what becomes of both."""

_timespec = struct.Struct("ll").unpack_from


@dataclass(slots=True, eq=False)
class InFlight:
    """A call that was launched: what is asked, what has come of it, and its deadlines.

    `ends` is when its time is up, `kept` whether its connection was an idle one. Set `response`, `sent` and
    `heard` (when bytes of the response last came) when it goes out on a connection, whose they are. `over`
    is called once for each of these, when nothing more is to come. Times are those of the reader's clock.
    """

    call: Call
    reply: Reply
    ended: Ended
    deadlines: Deadlines
    ends: float
    over: Over
    kept: bool = False
    response: Response = field(init=False)
    sent: float = 0.0
    heard: float = 0.0

    @property
    def expires(self) -> float:
        """When the deadline of the present phase passes."""
        return min(self._phase_ends, self.ends)

    @property
    def verdict(self) -> str:
        """Which deadline that is, in words."""
        limits = self.deadlines
        answered = self.response.answered
        phase, limit = (
            ("next byte", limits.between) if answered else ("first byte", limits.first_byte)
        )
        return limits.verdict(phase, limit, total=self.ends <= self._phase_ends)

    @property
    def _phase_ends(self) -> float:
        if self.response.answered:
            return self.heard + self.deadlines.between
        return self.sent + self.deadlines.first_byte


Read = tuple["Connection", InFlight | None, float, bytes, str, bool, float | None]
"""A read: from where, on whose behalf, when its last byte arrived, the bytes, what the trouble was, whether
the kernel timed it, and since when its first byte may have been there, where that is over a millisecond."""


class Connection:
    """A plain connection.

    `reads` counts the reads since the present request began, `flushed` the bytes sent of it, `served` the
    calls that ended well on the connection; `used` is for the pool.
    """

    sealed = False

    def __init__(self, sock: socket.socket, reader: "Reader") -> None:
        self._sock = sock
        self._recvmsg = sock.recvmsg
        self._reader = reader
        self._clock = reader.clock
        stirs = select.poll()
        # RDHUP too: a server that closed its side is no longer good, whether or not it sent anything.
        stirs.register(sock, select.POLLIN | select.POLLRDHUP)
        self._stirs = stirs.poll
        self._request = self._body = NOTHING
        self._out = NOTHING
        self._writing = False
        self.fd = sock.fileno()
        self.in_flight: InFlight | None = None
        self.open = True
        self.used = 0.0
        self.flushed = 0
        self.served = 0
        self._heard = self._asked = 0.0
        self.reads = self._delivered = 0
        self._deaf = False
        self.response = Response()
        reader.add(self)

    @property
    def idle(self) -> bool:
        """Whether the whole request has left."""
        return not self._request and not self._body and not self._out

    def begin(self, in_flight: InFlight) -> None:
        """Put a call on this connection and send what can be sent at once."""
        self.in_flight = in_flight
        self._heard = self._asked = in_flight.sent
        self.flushed = self.reads = self._delivered = 0
        head, body = in_flight.call.head, in_flight.call.body
        # A long body is sent from where it lies: joined to its head it would be copied for nothing.
        if len(body) > SMALL_BYTES:
            self._request, self._body = memoryview(head), memoryview(body)
        elif self.sealed:
            self._request = memoryview(head + body)
        elif self._sent_whole(head + body):
            return
        self.push()

    def fresh(self) -> bool:
        """Whether an idle connection is still good: the server has neither closed it nor said anything.

        The socket itself is asked, not what the reader has seen: a FIN that came since its last look counts.
        One that comes between this and the `send` that follows, some 20 us later, is no different from one
        that is still on its way: the request is sent again on another connection. (A poll of one socket
        takes a fifth of the time of a read that finds nothing.)
        """
        while self.open and (self.reads > self._delivered or self._stirs(0)) and self.readable():
            pass
        return self.open

    def readable(self) -> bool:
        """Read once, and look at all that was read. False when there was nothing to look at."""
        if read := self.receive(self._heard):
            self._reader.queue(read)
        if self.reads == self._delivered:
            return False
        while self.open and self.reads > self._delivered:
            self.deliver(self._reader.take(self))
        return self.open

    def receive(self, empty: float) -> Read | None:
        """Read once without looking at it, for `deliver`; None when there was nothing to read.

        `empty` is when the socket was last seen to be so. This and `deliver` are the hot path: 50,000 a
        second of them fill a core, so they call as little as they can.
        """
        if self._deaf:
            return None
        try:
            # The room is for one note: a timespec takes 32 bytes
            # with its head, and nothing else was asked for.
            data, notes, _, _ = self._recvmsg(READ_BYTES, NOTE_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            self._deaf = True
            self.reads += 1
            return self, self.in_flight, 0.0, b"", error_text(error), False, None
        self.reads += 1
        clock, asked = self._clock, self._asked
        if notes:
            second, ns = _timespec(notes[0][2])
            at = clock.origin + (second - clock.second) + ns * 1e-9
            # A stamp from before the request, or from the future, is one of a wall clock that was set.
            by_kernel = at > asked - SLACK_S and clock.past(at - SLACK_S)
        else:
            at, by_kernel = 0.0, False
        if not by_kernel:
            at = clock.now()
        elif at < self._heard:  # it waited for a lost segment
            at = self._heard
        self._heard = at
        if not data:
            self._deaf = True
        since = None
        if not -SLACK_S <= at - empty <= CERTAIN_S:
            # What is stamped before the socket was seen empty was on its way then, for who knows how long.
            latest = asked if at < empty else max(empty, asked)
            since = latest if at - latest > CERTAIN_S else None
        return self, self.in_flight, at, data, "", by_kernel, since

    def deliver(self, read: Read) -> None:
        """Look at what was read."""
        _, in_flight, at, data, trouble, by_kernel, since = read
        if not self.open:
            return
        self._delivered += 1
        # Read on behalf of a call that is over: what came behind its end belongs to no other.
        if self.in_flight is not in_flight:
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

    def expire(self, in_flight: InFlight, outcome: Outcome, words: str) -> None:
        """End a call that takes too long, or is not wanted any more."""
        in_flight.response.fail(outcome, words)
        self.close()
        self._settle(in_flight)

    def fail(self, words: str) -> None:
        """The connection is broken: end what is on it."""
        in_flight = self.in_flight
        self.close()
        if in_flight:
            in_flight.response.lost(words)
            self._settle(in_flight)

    def close(self) -> None:
        """Close the connection; what is on it is not told."""
        if self.open:
            self.open = False
            self._deaf = True
            self.response.close()
            # Before the socket: its number may be given to the next one as soon as it is closed.
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

    def _received(self, at: float, data: bytes, since: float | None, by_kernel: bool) -> None:
        in_flight = self.in_flight
        if in_flight is None:
            self.close()  # bytes that nobody asked for
            return
        if by_kernel:
            self._reader.kernel_stamps += 1
        else:
            self._reader.user_stamps += 1
        in_flight.heard = at
        response = in_flight.response
        response.feed(at, data, since, by_kernel)
        if response.over:
            self._settle(in_flight)

    def _settle(self, in_flight: InFlight) -> None:
        """The call is over, and told so once."""
        if self.in_flight is in_flight:
            self.in_flight = None
            in_flight.over(self, in_flight)

    def _eof(self, since: float | None) -> None:
        in_flight = self.in_flight
        self.close()
        if in_flight:
            in_flight.response.eof(self._clock.now(), since)
            self._settle(in_flight)

    def _unsendable(self, error: OSError) -> None:
        """The server reads no more. What it had said before that still counts."""
        in_flight = self.in_flight
        self._reader.watch(self, writing=False)
        while self.in_flight is in_flight and self.readable():
            pass
        if self.in_flight is in_flight:
            self.fail(error_text(error))


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
            trouble = error_text(error)
        # All at once: what follows the end of a response must not look like the next one's.
        if pieces:
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


# The reader: one task that drains every connection through an epoll of its own, nested in trio's.

EVENTS: Final = 512
"""So many are taken at a time. Once fewer come, all other sockets have been seen empty."""
FIRST_READS: Final = 2
"""So many reads of an answer may come before its first token: a head, a role."""
SLICE_S: Final = 0.0003
"""So long is what was read being understood, and what follows from it launched, before the next look."""
AT_ONCE: Final = 4
"""Reads, before the time is asked again; an end that launches the next call takes 60 us."""
TURN_S: Final = 0.002
"""So long before others of this thread have their turn."""
MOST_UNREAD: Final = 32 * 2**20
"""Bytes that were read and are not understood. Beyond, sockets are left alone: memory is bounded."""
READS: Final = select.EPOLLIN | select.EPOLLRDHUP
WRITES: Final = select.EPOLLOUT


class Reader:
    """Start `run` in a nursery. `kernel_stamps` and `user_stamps` count the reads by how they were timed."""

    def __init__(self) -> None:
        self.clock = Clock(trio.lowlevel.current_clock().current_time)
        self.kernel_stamps = 0
        self.user_stamps = 0
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._unread: deque[Read] = deque()
        self._unread_bytes = 0
        self._looked = 0.0
        self.passes = Passes()

    async def run(self) -> None:
        """Drain the connections, for ever.

        Reading goes before understanding: segments that meet in a socket are merged by the kernel under the
        stamp of the last. So what is read is queued with its stamp, and between two looks at the
        sockets no more of it is understood than takes `SLICE_S`.
        """
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self.clock.refresh(self.clock.now())
            self._looked = max(self._looked, self.passes.empty)
            self.drain()
            while self._unread:
                await trio.lowlevel.checkpoint()
                self.drain()

    def drain(self) -> None:
        """Read all that is there, and understand what was read for a while. Waits for nothing."""
        ends = self.clock.now() + TURN_S
        while True:
            if self._unread_bytes < MOST_UNREAD:
                self._look()
            now = self._understand()
            if not self._unread or now >= ends:
                return

    def _look(self) -> None:
        """Read once from every connection that has something, those first that wait for first tokens."""
        empty, connections = self._looked, self._connections
        while True:
            now = self.clock.now()
            events = self._epoll.poll(0, EVENTS)
            waiting: list[tuple[Connection, int]] = []
            later: list[tuple[Connection, int]] = []
            for fd, what in events:
                if connection := connections.get(fd):
                    (later if connection.reads > FIRST_READS else waiting).append(
                        (connection, what)
                    )
            for connection, what in chain(waiting, later):
                try:
                    if what & WRITES:
                        connection.push()
                    if what & ~WRITES and (read := connection.receive(empty)):
                        self.queue(read)
                except Exception as error:
                    _blame(connection, error)
            if len(events) < EVENTS:
                # The time before the poll: what came after it may
                # have been there without being in these events.
                self._looked = now
                return

    def _understand(self) -> float:
        """Look at what was read, for `SLICE_S`. The time when it is over."""
        unread, now = self._unread, self.clock.now()
        ends = now + SLICE_S
        while unread and now < ends:
            for _ in range(AT_ONCE):
                if not unread:  # what is understood may take more of them
                    break
                read = unread.popleft()
                self._unread_bytes -= len(read[3])
                try:
                    read[0].deliver(read)
                except Exception as error:
                    _blame(read[0], error)
            now = self.clock.now()
        return now

    def queue(self, read: Read) -> None:
        """Keep what was read until it is looked at."""
        self._unread.append(read)
        self._unread_bytes += len(read[3])

    def take(self, connection: Connection) -> Read:
        """The first read of a connection that was not looked at yet, out of turn. There must be one."""
        read = next(read for read in self._unread if read[0] is connection)
        self._unread.remove(read)
        self._unread_bytes -= len(read[3])
        return read

    def add(self, connection: Connection) -> None:
        """Watch a new connection."""
        self._connections[connection.fd] = connection
        # Level-triggered: one read is taken at a look, and
        # what is left makes the socket ready for the next.
        self._epoll.register(connection.fd, READS)

    def watch(self, connection: Connection, *, writing: bool) -> None:
        """Also call its `push` when it can send, or no more."""
        self._epoll.modify(connection.fd, READS | WRITES if writing else READS)

    def drop(self, connection: Connection) -> None:
        """Forget a connection, before its socket is closed."""
        del self._connections[connection.fd]
        self._epoll.unregister(connection.fd)

    def close(self) -> None:
        """Close every connection there is."""
        # A copy, as each takes itself out.
        for connection in list(self._connections.values()):
            connection.close()
        self._epoll.close()
        self.passes.close()


def _blame(connection: Connection, error: Exception) -> None:
    connection.fail(f"engine: {type(error).__name__}: {error_text(error)}")
