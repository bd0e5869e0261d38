"""Work done ahead of its time, in bounded pieces on a thread: reading the trace, building the requests."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Self

import trio

from replay.quiet import give_way

BATCH_ITEMS: Final = 64
BATCH_WEIGHT: Final = 2**20
"""A batch ends at so many items or bytes; at most four are alive at once."""


class Ahead[T]:
    """An async iterator over `items`, which are drawn on a thread, a few batches early.

    Start `run` in a nursery. `weigh` gives an item's bytes. `drawn` counts what was taken from `items`.
    """

    def __init__(self, items: Iterator[T], weigh: Callable[[T], int]) -> None:
        self._items = items
        self._weigh = weigh
        self._send, self._receive = trio.open_memory_channel[list[T]](1)
        self._batch: deque[T] = deque()
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self.drawn = 0

    async def run(self) -> None:
        """Draw batches until there are no more."""
        try:
            with self._scope:
                async with self._send:
                    while batch := await trio.to_thread.run_sync(self._draw):
                        await self._send.send(batch)
        finally:
            self._stopped.set()

    async def ready(self) -> bool:
        """Wait for the first batch; False when there is nothing at all."""
        return bool(self._batch) or await self._next_batch()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if not self._batch and not await self._next_batch():
            raise StopAsyncIteration
        return self._batch.popleft()

    async def total(self, give_up: Callable[[], bool]) -> int:
        """Stop drawing, and count all items there are; counting ends early when `give_up` says so."""
        self._scope.cancel()
        await self._stopped.wait()
        return self.drawn + await trio.to_thread.run_sync(self._count, give_up)

    async def _next_batch(self) -> bool:
        try:
            self._batch.extend(await self._receive.receive())
        except trio.EndOfChannel:
            return False
        return True

    def _draw(self) -> list[T]:
        batch: list[T] = []
        weight = 0
        for item in self._items:
            batch.append(item)
            weight += self._weigh(item)
            give_way()
            if len(batch) >= BATCH_ITEMS or weight >= BATCH_WEIGHT:
                break
        self.drawn += len(batch)
        return batch

    def _count(self, give_up: Callable[[], bool]) -> int:
        number = 0
        while not give_up() and next(self._items, None) is not None:
            number += 1
        return number
