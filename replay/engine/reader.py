"""The reader: one task that drains every connection through an epoll of its own, nested in trio's."""

import select
from collections import deque
from itertools import chain
from typing import Final

import trio

from tbench.replay.engine.clock import Clock, Passes
from tbench.replay.engine.connection import Connection, Read
from tbench.replay.sender import error_text

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
        for connection in list(self._connections.values()):
            connection.close()
        self._epoll.close()
        self.passes.close()


def _blame(connection: Connection, error: Exception) -> None:
    connection.fail(f"engine: {type(error).__name__}: {error_text(error)}")
