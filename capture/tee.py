"""Tee: a body on its way through, copied as it passes. Nothing here may raise, wait, or change a byte."""

import threading
from collections.abc import Callable

PIECE_OVERHEAD = 160
"""Bytes that Python needs beside each piece: the bytes object, two list slots, two integers."""


class Budget:
    """Bytes of bodies that a capture holds in memory: live tees and the queue. Shared by threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes counted now. Read without the lock: a number that is one call old does no harm."""
        return self._held

    @property
    def tight(self) -> bool:
        """Above 80 %: no new exchange is recorded until the writer has caught up."""
        # The fifth that is left is for bodies that are on their way already: those stay whole the longest.
        return self._held > 0.8 * self.limit

    def take(self, size: int) -> bool:
        """Count `size` bytes as held; False, and nothing counted, where that breaks the limit."""
        with self._lock:
            if self._held + size > self.limit:
                return False
            self._held += size
            return True

    def free(self, size: int) -> None:
        """Give back what `take` counted."""
        with self._lock:
            self._held -= size


class Tee:
    """One body: when each piece came, how large it was, and the pieces while memory lasts.

    Stamps are what `now` gives: ns on the capture's clock.
    """

    def __init__(self, budget: Budget, now: Callable[[], int]) -> None:
        self._budget = budget
        self._now = now
        self._held = 0
        self.stamps: list[int] = []
        self.sizes: list[int] = []
        self.pieces: list[bytes] | None = []

    def pass_on(self, data: bytes) -> bytes:
        """The stream callable of mitmproxy: note the piece, return it unchanged. Empty means the end."""
        try:
            if data:
                self.stamps.append(self._now())
                self.sizes.append(len(data))
                if self.pieces is not None:
                    cost = len(data) + PIECE_OVERHEAD
                    if self._budget.take(cost):
                        self._held += cost
                        self.pieces.append(data)
                    else:
                        self.forget()
        except Exception:  # it would cut the client off; a body with a gap is none
            self.forget()
        return data

    @property
    def size(self) -> int:
        """Bytes that passed, kept or not."""
        return sum(self.sizes)

    def body(self) -> bytes | None:
        """The whole body; None where it was not kept."""
        return None if self.pieces is None else b"".join(self.pieces)

    def forget(self) -> None:
        """Give the memory back; stamps and sizes stay. Called once the record is written, or too big."""
        self.pieces = None
        self._budget.free(self._held)
        self._held = 0
