"""The idle lines, by origin: the one used last is used first, and none that idled for too long."""

from collections import deque
from typing import NamedTuple

import httpx

from replay.engine.line import Line
from replay.sender import IDLE_S

PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int


def origin_of(url: httpx.URL) -> Origin:
    """The origin of a URL. Raises ValueError for one that is neither http nor https."""
    if url.scheme not in PORTS:
        raise ValueError(f"no way to send to {url.scheme}://")
    host = url.raw_host.decode("ascii")
    return Origin(url.scheme, host.strip("[]"), url.port or PORTS[url.scheme])


class Pool:
    """Lines that wait to be used again. `now` is always the present, on the reader's clock."""

    def __init__(self) -> None:
        self._idle: dict[Origin, deque[Line]] = {}

    def take(self, origin: Origin, now: float) -> Line | None:
        """A line that is still open, or nothing."""
        lines = self._idle.get(origin)
        if not lines:
            return None
        _expire(lines, now)
        while lines:
            line = lines.pop()
            if line.fresh():
                return line
        return None

    def put(self, origin: Origin, line: Line, now: float) -> None:
        """Keep a line for later."""
        line.exchange = None
        line.used = now
        lines = self._idle.setdefault(origin, deque())
        lines.append(line)
        _expire(lines, now)


def _expire(lines: deque[Line], now: float) -> None:
    """Close those that idled too long; closed ones go with them."""
    while lines and (not lines[0].open or lines[0].used < now - IDLE_S):
        lines.popleft().close()
