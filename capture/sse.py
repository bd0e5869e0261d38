"""The event-stream format (WHATWG HTML 9.2.6), without I/O: bytes in, events out.

Any cut of the bytes gives the same events. One departure from the standard: `end()` yields a last
event that lacks its blank line, since LLM servers do close without it; browsers would drop it.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

from tbench.capture.errors import InputError

BOM = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 64 * 2**20
PLAIN_BYTES = 8 * 2**20
"""A longer stream is not taken apart at once: that needs a multiple of its size."""


class Event(NamedTuple):
    """One event: its data lines joined by LF, its type, and the stream's last event id so far.

    `data` stays bytes, as it came; the standard's decoding of bad UTF-8 is left to the reader.
    """

    data: bytes
    event: str = "message"
    id: str | None = None


def plain_events(chunks: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]] | None:
    """The (time, data) of each event of a stream that is all there, by the read that completed it.

    Only for a stream that is nothing but `data` events of one line each, as nearly every LLM stream is:
    None for any other, which is for an EventStream. A space before the data is left there.
    """
    body = b"".join([piece for _, piece in chunks])
    if body[:5] != b"data:" or body[-2:] != b"\n\n" or len(body) > PLAIN_BYTES:
        return None
    if body.find(b"\r") >= 0:
        return None
    datas = body[5:-2].split(b"\n\ndata:")
    # A line more, in any event, is a field or a second data line: not plain.
    if body.count(b"\n") != 2 * len(datas):
        return None
    if len(chunks) == 1:
        return zip(repeat(chunks[0][0]), datas)
    times = [at for at, _ in chunks]
    if [len(piece) for _, piece in chunks] == [len(data) + FRAME for data in datas]:
        return zip(times, datas, strict=True)  # each event was read by itself
    return _by_bytes(chunks, datas)


FRAME = 7
"""Bytes of an event around its data: "data:" before it, a blank line after it."""


def _by_bytes(
    chunks: Sequence[tuple[float, bytes]], datas: list[bytes]
) -> Iterator[tuple[float, bytes]]:
    """The time of the read that holds an event's last byte."""
    reads = iter(chunks)
    at, arrived, end = 0.0, 0, 0
    for data in datas:
        end += len(data) + FRAME
        while arrived < end:
            at, piece = next(reads)
            arrived += len(piece)
        yield at, data


class EventStream:
    """A parser of one stream. Feed it pieces in order, then call `end` once.

    Args:
        max_event_bytes: how much of an unterminated event is held; more raises InputError.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._open_line = True  # the held bytes do not end with LF
        self._begun = False
        self._swallow_lf = False
        self._last_id: str | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises:
            InputError: an event grew beyond the limit before its blank line came.
        """
        if not self._begun:
            data = self._without_bom(data)
        if self._swallow_lf or b"\r" in data:
            data = self._with_lf(data)
        if not data:
            return []
        if b"\n\n" not in data and (self._open_line or data[:1] != b"\n"):
            self._hold(data)
            return []
        if self._held:
            data = b"".join((*self._held, data))
            self._held, self._held_bytes = [], 0
        *blocks, rest = data.split(b"\n\n")
        self._open_line = True
        if rest:
            self._hold(rest)
        return [event for block in blocks if (event := self._event(block))]

    def end(self) -> list[Event]:
        """What an unterminated last event holds: one event or none."""
        block = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        event = self._event(block.removesuffix(b"\n"))
        return [event] if event else []

    def _hold(self, data: bytes) -> None:
        self._held_bytes += len(data)
        if self._held_bytes > self._limit:
            raise InputError(
                f"event stream: an event of more than {self._limit} bytes without a blank line; "
                "this is not an event stream, or max_event_bytes is too small"
            )
        self._held.append(data)
        self._open_line = data[-1:] != b"\n"

    def _without_bom(self, data: bytes) -> bytes:
        head = b"".join((*self._held, data))
        self._held, self._held_bytes = [], 0
        if len(head) < len(BOM) and BOM.startswith(head):
            self._hold(head)
            return b""
        self._begun = True
        return head.removeprefix(BOM)

    def _with_lf(self, data: bytes) -> bytes:
        """CR and CRLF become LF at once; the LF of a pair cut in two is dropped when it comes."""
        if not data:
            return data
        if self._swallow_lf:
            data = data.removeprefix(b"\n")
            self._swallow_lf = False
        if data:
            # A CR at the end may be half of a CRLF. It ends its
            # line now: a server may wait before the next byte.
            self._swallow_lf = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _event(self, block: bytes) -> Event | None:
        if block[:5] == b"data:" and b"\n" not in block:  # nearly every event of an LLM stream
            return Event(block[6:] if block[5:6] == b" " else block[5:], "message", self._last_id)
        return self._any_event(block)

    def _any_event(self, block: bytes) -> Event | None:
        data: list[bytes] = []
        kind = ""
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value.decode(errors="replace")
            # The standard ignores an id with a NUL in it. It
            # also says to keep the last one for later events.
            elif name == b"id" and b"\0" not in value:
                self._last_id = value.decode(errors="replace")
        return Event(b"\n".join(data), kind or "message", self._last_id) if data else None
