"""Calls on their way from the parent to a worker, and back when they have ended.

They come over a socket, ahead of their time: the worker keeps a bounded number at hand, so that sending waits
for nobody. They go back through a file without a name, the spool. A frame is one msgpack array.
"""

import ctypes
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Final, Protocol

import msgpack
import trio

from tbench.capture.exchange import Outcome
from tbench.replay.sender import NOWHERE, Call, Origin, Refusal, Reply
from tbench.replay.workers.counters import WorkerCounters

PIECE: Final = 65536
CALL_BYTES: Final = 600
"""About what a call weighs in memory beside its head and body."""
MOST_FRAME: Final = 2**31 - 1


class CallQueue:
    """A player's Supply: the calls that come over `sock`. Start `run` in a nursery.

    About `most_bytes` are kept at hand, and `counters` say `full` once they were. `starved_s` is how long so
    far none was at hand when one was wanted.
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
        self._hungry_since: float | None = None
        self.starved_s = 0.0
        self._room: trio.Event | None = None
        self._woken: Callable[[], None] = lambda: None
        self._origins: dict[tuple[str, str, int], Origin] = {}

    def take(self) -> Call | None:
        """The next call; None when none is at hand."""
        if not self._calls:
            if self._hungry_since is None and not self._ended:
                self._hungry_since = trio.current_time()
                self._counters["starved"] += 1
            return None
        call = self._calls.popleft()
        self._weight -= _weight(call)
        # At a half: woken for each call that leaves, reading would take its turn with each that is sent.
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
            # Tuples: an origin is looked up by what comes, and a list has no hash.
            use_list=False,
            unicode_errors="surrogatepass",
            max_buffer_size=MOST_FRAME,
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
            if self._hungry_since is not None and self._calls:
                self._fed(self._hungry_since)
                self._woken()
            if self._weight >= self._most:  # the parent waits in turn: the socket is full soon
                self._counters["full"] = 1
                self._room = trio.Event()
                await self._room.wait()
                self._room = None
        if self._hungry_since is not None:
            self._fed(self._hungry_since)
        self._ended = True
        self._counters["full"] = 1
        self._woken()

    def _fed(self, since: float) -> None:
        self.starved_s += trio.current_time() - since
        self._hungry_since = None

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
                    # What tells the worker that there is no more; its answers come by another way.
                    sock.shutdown(socket.SHUT_WR)
            self.done = True

    def stop(self) -> None:
        """Draw no more; a worker that takes none holds nobody up."""
        self._stopped = True
        for sock in self._socks:
            with suppress(OSError):
                # This wakes a `sendall` that waits for room, on the other thread; closing would not.
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


# The spool: a file, since the parent reads answers more slowly than a worker can send requests, and memory
# is bounded; what the parent has read is given back to the disk. A worker that is killed leaves a torn last
# frame at most, which is not read.

FLUSH_S: Final = 0.1
SPOOL_PIECE: Final = 2**20
TOGETHER: Final = 64
"""Frames that are written at once: one long join would keep the loop from the interpreter."""
GIVE_BACK: Final = 16 * 2**20
"""What was read is given back to the disk in portions of so many bytes."""
MOST_REPLY: Final = 2**30
PUNCH_HOLE: Final = 0x01 | 0x02
"""fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE."""


class SpoolWriter:
    """Appends ended calls to `fd`, on a thread every `FLUSH_S` seconds. `error` says why it could not."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._frames: list[bytes] = []
        self._pack = msgpack.Packer(unicode_errors="surrogatepass").pack
        self._finished = trio.Event()
        self.error: OSError | None = None

    def begin(self, began: float) -> None:
        """Say first when the run began, on the sender's clock."""
        self._frames.append(self._pack(began))

    def add(self, call: Call, reply: Reply) -> None:
        """Keep a call that has ended; never blocks."""
        self._frames.append(
            self._pack(
                (
                    call.index,
                    call.arm,
                    call.due,
                    call.cost,
                    call.label,
                    reply.connecting,
                    reply.reused,
                    reply.sent,
                    reply.sent_wall_ns,
                    reply.reconnected,
                    reply.status,
                    reply.headers,
                    reply.chunks,
                    reply.unsure,
                    reply.received,
                    reply.end,
                    reply.refusals,
                    reply.repeats,
                    reply.failure,
                    reply.held,
                )
            )
        )

    def finish(self) -> None:
        """Nothing more will come."""
        self._finished.set()

    async def run(self) -> None:
        """Write what comes until finished, or until the disk refuses."""
        while not (self._finished.is_set() and not self._frames) and self.error is None:
            with trio.move_on_after(FLUSH_S):
                await self._finished.wait()
            # The loop adds to the new list while the thread writes the old one.
            frames, self._frames = self._frames, []
            if frames:
                await trio.to_thread.run_sync(self._write, frames)

    def _write(self, frames: list[bytes]) -> None:
        try:
            for at in range(0, len(frames), TOGETHER):
                left = memoryview(b"".join(frames[at : at + TOGETHER]))
                while left:
                    left = left[os.write(self._fd, left) :]
        except OSError as error:
            self.error = error


class SpoolReader:
    """Reads the ended calls in `fd` behind their writer.

    `read` counts them, `began` is when the run began on their sender's clock.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._offset = self._freed = 0
        self._frames = msgpack.Unpacker(
            use_list=False,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            max_buffer_size=MOST_REPLY,
        )
        self.read = 0
        self.began = 0.0

    def ended(self) -> Iterator[tuple[Call, Reply]]:
        """Those that are there in whole by now, with replies. May be left early, and asked for again."""
        while True:
            for frame in self._frames:
                if isinstance(frame, float):
                    self.began = frame
                    continue
                self.read += 1
                # By place, as `SpoolWriter.add` has them.
                index, arm, due, cost, label, *seen = frame
                reply = Reply(*seen)
                if reply.refusals:
                    reply.refusals = tuple(Refusal(*refusal) for refusal in reply.refusals)
                if failure := reply.failure:
                    reply.failure = Outcome(failure[0]), failure[1]
                # What was sent stays with the worker.
                yield Call(index, due, NOWHERE, b"", b"", cost, label, arm), reply
            piece = os.pread(self._fd, SPOOL_PIECE, self._offset)
            if not piece:
                return
            self._offset += len(piece)
            self._frames.feed(piece)
            if self._offset - self._freed >= GIVE_BACK:
                give_back(self._fd, self._freed, self._offset - self._freed)
                self._freed = self._offset


def give_back(fd: int, offset: int, length: int) -> None:
    """Free the blocks of a part of a file, where the system can. It only saves space, so failing is fine."""
    if sys.platform == "linux":
        fallocate = ctypes.CDLL(None).fallocate
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        fallocate(fd, PUNCH_HOLE, offset, length)
