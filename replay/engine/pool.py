"""The idle lines to one origin: the one used last is used first, and none that idles for too long."""

from collections import deque

from tbench.replay.engine.line import Line
from tbench.replay.reuse import TIDY_S, Reuse
from tbench.replay.sender import IDLE_S


class Pool:
    """Lines that wait to be used again. Times are those of the reader's clock."""

    __slots__ = ("_begun", "_idle", "reuse")

    def __init__(self) -> None:
        self.reuse = Reuse()
        self._idle: deque[Line] = deque()
        self._begun = 0.0

    def take(self, now: float) -> Line | None:
        """A line that the server has neither closed nor written to unasked; nothing when there is none."""
        while self._idle:
            line = self._idle.pop()
            if line.fresh():
                if not line.served:
                    self._begun = now
                return line
        return None

    def put(self, line: Line, used: float) -> None:
        """Keep a line for later, which was last used then."""
        line.used = used
        self._idle.append(line)

    def tidy(self, now: float) -> None:
        """Close what idles for too long, and what holds up a request on another connection.

        Lines that were opened ahead are left alone while calls still begin on others of them: a thousand
        take longer than `TIDY_S`.
        """
        self.reuse.pass_time(now)
        idle = self._idle
        while idle and (not idle[0].open or idle[0].used < now - IDLE_S):
            idle.popleft().close()
        if not idle or not self.reuse.waiting:
            return
        rested = [line for line in idle if line.open and line.used < now - TIDY_S]
        begins = now - self._begun < TIDY_S
        unused = [line for line in rested if not line.served and not begins]
        served = [line for line in rested if line.served]
        answered = sum(line.open and line.served > 0 for line in idle)
        for line in (*unused, *served[: self.reuse.surplus(answered)]):
            line.close()
