"""Source: the bytes of an open file by offset, in pieces; what a container is read from."""

import os

WINDOW = 2**20


class Source:
    """A file by offset, up to the size it had when it was opened."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end."""
        count = min(count, self._size - offset)
        if offset < 0 or count <= 0:
            return b""
        data = os.pread(self._fd, count, offset)
        while len(data) < count and (
            more := os.pread(self._fd, count - len(data), offset + len(data))
        ):
            data += more
        return data

    def find(self, wanted: bytes, start: int) -> int | None:
        """The offset of the first occurrence at or after `start`."""
        while start < self._size:
            window = self.read(start, WINDOW + len(wanted) - 1)
            if (at := window.find(wanted)) >= 0:
                return start + at
            start += WINDOW
        return None
