"""The feeder: draws calls from the plan on a thread, and hands each to the worker that is to send it."""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from tbench.replay.sender import Call
from tbench.replay.workers.feed import frame

BATCH: Final = 32768
BATCH_S: Final = 0.005
"""Frames are handed on when they are so many bytes together, or so old."""


class Feeder:
    """Feeds workers over `socks`; `shard` says which gets a call just drawn. For one thread: `run`.

    `drawn` counts the calls taken from the plan, `horizon` is when the last of them is due. A worker that
    is gone loses its calls, which then were never sent. `stop` may be called from another thread.
    """

    def __init__(
        self, calls: Iterator[Call], socks: Sequence[socket.socket], shard: Callable[[Call], int]
    ) -> None:
        self._calls = calls
        self._socks = socks
        self._shard = shard
        self._waiting: list[list[bytes]] = [[] for _ in socks]
        self._bytes = [0] * len(socks)
        self._flushed = [0.0] * len(socks)
        self._stopped = False
        self.drawn = 0
        self.horizon: float | None = None
        self.done = False

    def run(self) -> None:
        """Feed until the plan ends or `stop` is called; then no worker gets any more."""
        try:
            for call in self._calls:
                self.drawn += 1
                self.horizon = call.due
                self._hand(self._shard(call), call)
                if self._stopped:
                    return
        finally:
            for worker, sock in enumerate(self._socks):
                self._flush(worker)
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
            self.done = True

    def stop(self) -> None:
        """Draw no more; a worker that takes none holds nobody up."""
        self._stopped = True
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def rest(self, give_up: Callable[[], bool]) -> int:
        """Draw the rest of the plan only to count it, unless `give_up` says so. After `run`."""
        return sum(1 for _ in _until(self._calls, give_up))

    def _hand(self, worker: int, call: Call) -> None:
        data = frame(call)
        self._waiting[worker].append(data)
        self._bytes[worker] += len(data)
        old = time.monotonic() - self._flushed[worker] > BATCH_S
        if old or self._bytes[worker] >= BATCH:
            self._flush(worker)

    def _flush(self, worker: int) -> None:
        frames, self._waiting[worker] = self._waiting[worker], []
        self._bytes[worker] = 0
        self._flushed[worker] = time.monotonic()
        with suppress(OSError):  # it is gone: whoever watches it says so
            self._socks[worker].sendall(b"".join(frames))


def _until[T](items: Iterable[T], stop: Callable[[], bool]) -> Iterator[T]:
    for item in items:
        if stop():
            return
        yield item
