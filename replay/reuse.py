"""Reuse: which of its connections to an origin a sender keeps, by what became of those before. Pure.

A server may close a kept connection without a word, and a server with a thread for each connection serves
nobody else while we keep one. Both are told apart from servers without such habits by what they answer.
"""

import math
from typing import Final

from tbench.replay.sender import Reply

TIDY_S: Final = 0.005
"""Idle connections are looked through so often; younger ones are not closed for the sake of others."""
BREAKS: Final = 2
BREAKS_SHARE: Final = 0.1
"""So many re-used connections, and that share of all, ended unannounced: then none is kept."""
MEMORY_S: Final = 60.0
"""What a server did counts for so long. It may be restarted, or be another one behind the same address."""


class Reuse:
    """The connections to one origin. `busy` of them have a request on them; `reached`: one was opened.

    A sender tells when a request goes out and when it is over. `keeps` says whether its connection may
    serve another one.
    """

    def __init__(self) -> None:
        self.busy = 0
        self.reached = False
        self._fresh: dict[int, Reply] = {}
        self._since = math.inf
        self._learnt()

    def pass_time(self, now: float) -> None:
        """Call it now and then: what was learnt is forgotten every MEMORY_S seconds, and learnt anew."""
        self._since = min(self._since, now)
        if now - self._since > MEMORY_S:
            self._since = now
            self._learnt()

    def _learnt(self) -> None:
        """Nothing yet."""
        self._most = self._reused = self._broken = 0

    def began(self, reply: Reply, *, fresh: bool) -> None:
        """A request goes out, on a connection that is `fresh` when nothing was ever answered on it."""
        self.busy += 1
        self.reached = True
        if fresh:
            self._fresh[id(reply)] = reply
        else:
            self._reused += 1

    def ended(self, reply: Reply) -> None:
        """That request is over, or is to be sent again."""
        self.busy -= 1
        if self._fresh:
            self._fresh.pop(id(reply), None)

    def broke(self) -> None:
        """A re-used connection ended before any byte of the response."""
        self._broken += 1

    @property
    def keeps(self) -> bool:
        """Whether connections are kept: not where this server ends them unannounced as a habit."""
        return self._broken < BREAKS or self._broken < BREAKS_SHARE * self._reused

    @property
    def waiting(self) -> int:
        """How many requests are on connections on which the server has not answered yet."""
        for key in [key for key, reply in self._fresh.items() if reply.status is not None]:
            del self._fresh[key]
        return len(self._fresh)

    def surplus(self, idle: int) -> int:
        """How many of so many idle connections, which were answered on, others may be waiting for.

        A server that holds as many as it lately did at most, and does not answer on a new one, may have no
        thread left for it. One that has answered on more at once has: nobody waits for what is idle.
        """
        waiting = self.waiting
        held = idle + self.busy - waiting
        self._most = max(self._most, held)
        return min(idle, waiting) if held == self._most else 0
