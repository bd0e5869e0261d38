"""The idle lines, by origin: the one used last is used first, and none that idled for too long."""

from collections import deque
from typing import Final

from replay.engine.line import Line
from replay.sender import IDLE_S, Origin

FRESH_S: Final = 0.001
"""A line that was read until it was empty so shortly before is not asked again whether it is still good."""


class Pool:
    """Lines that wait to be used again. `now` is always the present, on the reader's clock."""

    def __init__(self) -> None:
        self._idle: dict[Origin, deque[Line]] = {}

    def take(self, origin: Origin, now: float) -> Line | None:
        """A line that is still open, or nothing."""
        lines = self._idle.get(origin)
        if not lines:
            return None
        line = lines.pop()
        if line.open and now - line.used < FRESH_S:
            return line
        lines.append(line)
        return self._checked(lines, now)

    def put(self, origin: Origin, line: Line, now: float) -> None:
        """Keep a line for later."""
        line.used = now
        lines = self._idle.get(origin)
        if lines is None:
            lines = self._idle[origin] = deque()
        lines.append(line)
        _expire(lines, now)

    def _checked(self, lines: deque[Line], now: float) -> Line | None:
        _expire(lines, now)
        while lines:
            line = lines.pop()
            if line.fresh():
                return line
        return None


def _expire(lines: deque[Line], now: float) -> None:
    """Close those that idled too long; closed ones go with them."""
    while lines and (not lines[0].open or lines[0].used < now - IDLE_S):
        lines.popleft().close()
