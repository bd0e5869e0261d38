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
            for _ in range(ROUNDS):
                if self.drain() < EVENTS:
                    break

    def drain(self) -> int:
        """Serve what is ready, without waiting; returns how many lines were."""
        events = self._epoll.poll(0, EVENTS)
        for fd, what in events:
            line = self._lines.get(fd)
            if line is not None:
                _serve(line, what)
        return len(events)

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


def _serve(line: Line, what: int) -> None:
    try:
        if what & WRITES:
            line.push()
        if what & ~WRITES:
            line.readable()
    except Exception as error:  # a defect fails the one attempt, never the reader
        line.fail(f"engine: {type(error).__name__}: {said(error)}")
