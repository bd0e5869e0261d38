"""Shards: which worker sends which request. A session stays with one worker, from its first turn on."""

from collections import deque
from collections.abc import Iterable, Iterator
from zlib import crc32

from tbench.replay.plan import Planned


class Shards:
    """The plan, and beside it the worker of each request that was drawn from it: `next`, in that order."""

    def __init__(self, plan: Iterable[Planned], workers: int) -> None:
        self._plan = plan
        self._workers = workers
        self._drawn: deque[int] = deque()

    def __iter__(self) -> Iterator[Planned]:
        return iter(self._plan) if self._workers == 1 else self._sharded()

    def _sharded(self) -> Iterator[Planned]:
        for planned in self._plan:
            self._drawn.append(crc32(b"%d" % planned.session) % self._workers)
            yield planned

    def next(self) -> int:
        """The worker of the next request."""
        return self._drawn.popleft() if self._workers > 1 else 0
