"""The reader: one task that drains every line through an epoll of its own, nested in trio's."""

import select
from collections import deque
from itertools import chain
from typing import Final

import trio

from tbench.replay.engine.clock import Clock, Passes
from tbench.replay.engine.connection import Connection
from tbench.replay.sender import said

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
    """Start `run` in a nursery. `kernel_stamps` and `user_stamps` count the reads by how they were timed.

    `unread_bytes` is what the lines hold unread.
    """

    def __init__(self) -> None:
        self.clock = Clock(trio.lowlevel.current_clock().current_time)
        self.kernel_stamps = 0
        self.user_stamps = 0
        self._epoll = select.epoll()
        self._lines: dict[int, Connection] = {}
        self._unread: deque[Connection] = deque()  # a line for each of its reads, in their order
        self.unread_bytes = 0
        self._looked = 0.0
        self.passes = Passes()

    async def run(self) -> None:
        """Drain the lines, for ever.

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
            if self.unread_bytes < MOST_UNREAD:
                self._look()
            now = self._understand()
            if not self._unread or now >= ends:
                return

    def _understand(self) -> float:
        """Look at what was read, for `SLICE_S`. The time when it is over."""
        now = self.clock.now()
        ends = now + SLICE_S
        while self._unread and now < ends:
            for _ in range(min(AT_ONCE, len(self._unread))):
                line = self._unread.popleft()
                try:
                    line.deliver()
                except Exception as error:
                    _blame(line, error)
            now = self.clock.now()
        return now

    def _look(self) -> None:
        """Read once from every line that has something, those first that wait for their first tokens."""
        empty, lines = self._looked, self._lines
        while True:
            now = self.clock.now()
            events = self._epoll.poll(0, EVENTS)
            waiting: list[tuple[Connection, int]] = []
            later: list[tuple[Connection, int]] = []
            for fd, what in events:
                if line := lines.get(fd):
                    (later if line.reads > FIRST_READS else waiting).append((line, what))
            for line, what in chain(waiting, later):
                try:
                    if what & WRITES:
                        line.push()
                    if what & ~WRITES and line.receive(empty):
                        self._unread.append(line)
                except Exception as error:
                    _blame(line, error)
            if len(events) < EVENTS:
                self._looked = now
                return

    def add(self, line: Connection) -> None:
        """Watch a new line."""
        self._lines[line.fd] = line
        self._epoll.register(line.fd, READS)

    def watch(self, line: Connection, *, writing: bool) -> None:
        """Also call its `push` when it can send, or no more."""
        self._epoll.modify(line.fd, READS | WRITES if writing else READS)

    def drop(self, line: Connection) -> None:
        """Forget a line, before its socket is closed."""
        del self._lines[line.fd]
        self._epoll.unregister(line.fd)

    def close(self) -> None:
        """Close every line there is."""
        for line in list(self._lines.values()):
            line.close()
        self._epoll.close()
        self.passes.close()


def _blame(line: Connection, error: Exception) -> None:
    line.fail(f"engine: {type(error).__name__}: {said(error)}")
