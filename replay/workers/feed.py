"""The feed: calls on their way from the parent to a worker, over a socket, ahead of their time.

The worker keeps a bounded number at hand, so that sending waits for nobody. A frame is one msgpack array.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgpack
import trio

from tbench.replay.sender import Call, Origin
from tbench.replay.workers.pulse import Row

PIECE: Final = 65536
CALL_BYTES: Final = 600
"""About what a call weighs in memory beside its head and body."""
MOST_FRAME: Final = 2**31 - 1

_pack: Callable[[object], bytes] = msgpack.Packer(unicode_errors="surrogatepass").pack


def frame(call: Call) -> bytes:
    """A call as bytes."""
    return _pack((call.index, call.due, call.origin, call.head, call.body, call.cost, call.label))


class Feed:
    """A player's Supply: the calls that come over `sock`. Start `run` in a nursery.

    About `most_bytes` are kept at hand, and `row` says `full` when they are.
    """

    def __init__(self, sock: trio.socket.SocketType, row: Row, *, most_bytes: int) -> None:
        self._sock = sock
        self._row = row
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
                self._row["starved"] += 1
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
            self._add(frames)
            await self._space()
        self._ended = True
        self._row["full"] = 1
        self._woken()

    def _add(self, frames: msgpack.Unpacker) -> None:
        for one in frames:
            call = self._call(one)
            self._weight += _weight(call)
            self._calls.append(call)
        if self._hungry and self._calls:
            self._hungry = False
            self._woken()

    async def _received(self) -> bytes:
        try:
            return await self._sock.recv(PIECE)
        except OSError:  # the parent is gone
            return b""

    async def _space(self) -> None:
        """Wait while enough is at hand."""
        if self._weight >= self._most:
            self._row["full"] = 1
            self._room = trio.Event()
            await self._room.wait()
            self._room = None

    def _call(self, parts: tuple[Any, ...]) -> Call:
        index, due, origin, head, body, cost, label = parts
        known = self._origins.setdefault(origin, Origin(*origin))
        return Call(
            index=index, due=due, origin=known, head=head, body=body, cost=cost, label=label
        )


def _weight(call: Call) -> int:
    return len(call.head) + len(call.body) + CALL_BYTES
