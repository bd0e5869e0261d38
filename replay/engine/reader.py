"""The reader: one task that drains every line through an epoll of its own, nested in trio's."""

import select
from typing import Final

import trio

from replay.engine.clock import Clock
from replay.engine.line import Line
from replay.sender import said

EVENTS: Final = 256
"""So many events are taken at a time; while they come so thick, `ROUNDS` times before others may run."""
ROUNDS: Final = 4
READS: Final = select.EPOLLIN | select.EPOLLRDHUP
WRITES: Final = select.EPOLLOUT


class Reader:
    """Start `run` in a nursery. `kernel_stamps` and `user_stamps` count the reads by how they were timed."""

    def __init__(self) -> None:
        self.clock = Clock(trio.lowlevel.current_clock().current_time)
        self.kernel_stamps = 0
        self.user_stamps = 0
        self._epoll = select.epoll()
        self._lines: dict[int, Line] = {}

    async def run(self) -> None:
        """Drain the lines, for ever."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self.clock.refresh(self.clock.now())
            self.drain()

    def drain(self) -> None:
        """Serve what is ready, without waiting.

        Everything is read before anything is looked at: a read that waits for a thousand others to be
        understood would meet the next one in the socket, and share its stamp.
        """
        read: list[Line] = []
        for _ in range(ROUNDS):
            events = self._epoll.poll(0, EVENTS)
            for fd, what in events:
                line = self._lines.get(fd)
                if line is not None and _attend(line, what):
                    read.append(line)
            if len(events) < EVENTS:
                break
        for line in read:
            try:
                line.deliver()
            except Exception as error:
                _blame(line, error)

    def add(self, line: Line) -> None:
        """Watch a new line."""
        self._lines[line.fd] = line
        self._epoll.register(line.fd, READS)

    def watch(self, line: Line, *, writing: bool) -> None:
        """Also call its `push` when it can send, or no more."""
        self._epoll.modify(line.fd, READS | WRITES if writing else READS)

    def drop(self, line: Line) -> None:
        """Forget a line, before its socket is closed."""
        del self._lines[line.fd]
        self._epoll.unregister(line.fd)

    def close(self) -> None:
        """Close every line there is."""
        for line in list(self._lines.values()):
            line.close()
        self._epoll.close()


def _attend(line: Line, what: int) -> bool:
    """Send and read what is possible. Whether something was read."""
    try:
        if what & WRITES:
            line.push()
        return bool(what & ~WRITES) and line.receive()
    except Exception as error:
        _blame(line, error)
        return False


def _blame(line: Line, error: Exception) -> None:
    line.fail(f"engine: {type(error).__name__}: {said(error)}")
