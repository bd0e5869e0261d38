"""The call queue: calls on their way from the parent to a worker, over a socket, ahead of their time.

The worker keeps a bounded number at hand, so that sending waits for nobody. A frame is one msgpack array.
"""

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Final, Protocol

import msgpack
import trio

from tbench.replay.sender import Call, Origin
from tbench.replay.workers.counters import WorkerCounters

PIECE: Final = 65536
CALL_BYTES: Final = 600
"""About what a call weighs in memory beside its head and body."""
MOST_FRAME: Final = 2**31 - 1


class CallQueue:
    """A player's Supply: the calls that come over `sock`. Start `run` in a nursery.

    About `most_bytes` are kept at hand, and `counters` say `full` when they are.
    """

    def __init__(
        self, sock: trio.socket.SocketType, counters: WorkerCounters, *, most_bytes: int
    ) -> None:
        self._sock = sock
        self._counters = counters
        self._most = most_bytes
        self._calls: deque[Call] = deque()
        self._weight = 0
        self._ended = False
        self._hungry = False
        self._room: trio.Event | None = None
        self._woken: Callable[[], None] = lambda: None
        self._origins: dict[tuple[str, str, int], Origin] = {}

    def take(self) -> Call | None:
        """The next call; None when none is at hand."""
        if not self._calls:
            if not self._hungry and not self._ended:
                self._hungry = True
                self._counters["starved"] += 1
            return None
        call = self._calls.popleft()
        self._weight -= _weight(call)
        if self._room is not None and self._weight * 2 < self._most:
            self._room.set()
        return call

    @property
    def over(self) -> bool:
        """Whether there is nothing more, now and ever."""
        return self._ended and not self._calls

    def tell(self, woken: Callable[[], None]) -> None:
        """Call `woken` when calls come after there were none, and when there will be none any more."""
        self._woken = woken

    async def run(self) -> None:
        """Receive until the parent closes its side."""
        frames = msgpack.Unpacker(
            use_list=False, unicode_errors="surrogatepass", max_buffer_size=MOST_FRAME
        )
        while data := await self._received():
            frames.feed(data)
            for parts in frames:
                call = Call(*parts)  # by place, as replay.sender.frame has them
                origin = self._origins.get(call.origin)  # which calls to it share
                if origin is None:
                    origin = self._origins[call.origin] = Origin(*call.origin)
                call.origin = origin
                self._weight += _weight(call)
                self._calls.append(call)
            if self._hungry and self._calls:
                self._hungry = False
                self._woken()
            if self._weight >= self._most:  # the parent waits in turn: the socket is full soon
                self._counters["full"] = 1
                self._room = trio.Event()
                await self._room.wait()
                self._room = None
        self._ended = True
        self._counters["full"] = 1
        self._woken()

    async def _received(self) -> bytes:
        try:
            return await self._sock.recv(PIECE)
        except OSError:  # the parent is gone
            return b""


def _weight(call: Call) -> int:
    return len(call.head) + len(call.body) + CALL_BYTES


# The feeder: draws from the plan on a thread, and hands what it drew to the worker that is to send it.

BATCH: Final = 32768
BATCH_S: Final = 0.005
"""Frames are handed on when they are so many bytes together, or so old."""


class Due(Protocol):
    """What is fed, as far as a feeder has to know it."""

    @property
    def due(self) -> float | None: ...


class Feeder[Item: Due]:
    """Feeds workers over `socks`; `shard` says which of several gets an item, `packs` make bytes of it.

    For one thread: `run`. `drawn` counts the items taken from the plan, `shares` those of each worker,
    `horizon` is when the last of them is due. A worker that is gone loses its items, which then were never
    sent. `stop` may be called from another thread.
    """

    def __init__(
        self,
        items: Iterator[Item],
        socks: Sequence[socket.socket],
        shard: Callable[[Item], int],
        packs: Sequence[Callable[[Item], bytes]],
    ) -> None:
        self._items = items
        self._socks = socks
        self._shard = shard
        self._packs = packs
        self._waiting: list[list[bytes]] = [[] for _ in socks]
        self._bytes = [0] * len(socks)
        self._flushed = [0.0] * len(socks)
        self._stopped = False
        self.drawn = 0
        self.shares = [0] * len(socks)
        self.horizon: float | None = None
        self.done = False

    def run(self) -> None:
        """Feed until the plan ends or `stop` is called; then no worker gets any more."""
        several = len(self._socks) > 1
        try:
            for item in self._items:
                self.drawn += 1
                self.horizon = item.due
                worker = self._shard(item) if several else 0
                data = self._packs[worker](item)
                self.shares[worker] += 1
                self._waiting[worker].append(data)
                self._bytes[worker] += len(data)
                old = time.monotonic() - self._flushed[worker] > BATCH_S
                if old or self._bytes[worker] >= BATCH:
                    self._flush(worker)
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
        drawn = 0
        for drawn, item in enumerate(takewhile(lambda _: not give_up(), self._items), 1):  # noqa: B007
            self.shares[self._shard(item)] += 1
        return drawn

    def _flush(self, worker: int) -> None:
        frames, self._waiting[worker] = self._waiting[worker], []
        self._bytes[worker] = 0
        self._flushed[worker] = time.monotonic()
        with suppress(OSError):  # it is gone: whoever watches it says so
            self._socks[worker].sendall(b"".join(frames))
