"""The spool: ended calls and replies on their way from a worker to the parent, through a file without a name.

A file, since the parent reads answers more slowly than a worker can send requests, and memory is bounded;
what the parent has read is given back to the disk. A frame is one msgpack array. A worker that is killed
leaves a torn last frame at most, which is not read.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Final

import msgpack
import trio

from tbench.capture.exchange import Outcome
from tbench.replay.sender import NOWHERE, Call, Refusal, Reply

FLUSH_S: Final = 0.1
PIECE: Final = 2**20
TOGETHER: Final = 64
"""Frames that are written at once: one long join would keep the loop from the interpreter."""
GIVE_BACK: Final = 16 * 2**20
"""What was read is given back to the disk in portions of so many bytes."""
MOST_FRAME: Final = 2**30
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
            max_buffer_size=MOST_FRAME,
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
            piece = os.pread(self._fd, PIECE, self._offset)
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
