"""Reading a container: by its index, or frame by frame with a resync after damage.

Nothing is trusted: every length is bounded, every block checked. Memory: one frame at a time.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from tbench.capture import frames
from tbench.capture.errors import InputError
from tbench.capture.frames import BLOCK, FRAME, HEADER, INDEX, MARKER_BYTES, Row, Rows
from tbench.capture.remote import RemotePath

# Source: the bytes of an open file by offset, in pieces; what a container is read from.

WINDOW = 2**20


class FileWindow:
    """A file by offset, up to the size it had when it was opened. `pread` gives bytes as os.pread does."""

    def __init__(self, pread: Callable[[int, int], bytes], size: int) -> None:
        self._pread = pread
        self._size = size

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end."""
        count = min(count, self._size - offset)
        if offset < 0 or count <= 0:
            return b""
        # pread may give less than was asked for, on network file systems and above 2 GiB.
        data = self._pread(count, offset)
        while len(data) < count and (more := self._pread(count - len(data), offset + len(data))):
            data += more
        return data

    def find(self, wanted: bytes, start: int) -> int | None:
        """The offset of the first occurrence at or after `start`."""
        while start < self._size:
            # Windows overlap by all but one byte of it, or it could lie across an edge and be missed.
            window = self.read(start, WINDOW + len(wanted) - 1)
            if (at := window.find(wanted)) >= 0:
                return start + at
            start += WINDOW
        return None


MOST_BAD = 100
"""So many records of a block may be none before the rest of it is not looked at."""


@dataclass(kw_only=True)
class Losses:
    """What could not be read. All zero or False for a sound file.

    `truncated_tail`: the file does not end with an index: killed, cut, or still being written.
    `skipped_bytes` lie in damaged blocks or behind the last sound frame. `orphan_responses` have no
    request in the trace, `bad_records` are sound msgpack that is not what the format promises.
    """

    damaged_blocks: int = 0
    skipped_bytes: int = 0
    truncated_tail: bool = False
    damaged_header: bool = False
    damaged_index: bool = False
    bad_records: int = 0
    orphan_responses: int = 0
    missing_segments: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def add(self, other: "Losses") -> None:
        """Count the losses of another file or pass in."""
        for field in fields(self):
            mine, more = getattr(self, field.name), getattr(other, field.name)
            setattr(self, field.name, mine or more if isinstance(mine, bool) else mine + more)

    def cover(self, other: "Losses") -> None:
        """Count at least what another pass over the same files met, which may have gone further."""
        for field in fields(self):
            most = max(getattr(self, field.name), getattr(other, field.name))
            setattr(self, field.name, most)


class Frame(NamedTuple):
    """A sound frame of the file. `raw` are a block's decompressed records, else the payload."""

    code: int
    offset: int
    length: int
    raw: bytes

    @property
    def end(self) -> int:
        return self.offset + self.length


class Container:
    """An open container. `losses` are those known at opening plus those of the latest `walk`.

    `header` is empty when it is lost, `index` None without a sound one, `rows` (its table of blocks) None
    also where it does not fit the file. The file is opened for every pass, so that a Container holds no
    descriptor; what is appended after opening is not seen.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses = Losses()
        self._misfit = False
        self._remote = path.opened() if isinstance(path, RemotePath) else None
        self.size = self._remote.size if self._remote else 0
        with self._open() as source:
            if not self.size:
                raise InputError(f"{path}: the file is empty")
            # The index first: it has the copy of the header.
            self.index = self._find_index(source)
            self.header, self.marker = self._find_header(source)
            self.rows = self._find_rows(source)
        self.losses.truncated_tail = self.index is None
        self.losses.damaged_index = self._misfit

    def records(self) -> Iterator[dict[str, Any]]:
        """Every record of every sound block, in file order."""
        for frame in self.walk():
            if frame.code == BLOCK:
                yield from self.unpack(frame.raw)

    def unpack(self, raw: bytes) -> Iterator[dict[str, Any]]:
        """The records of a block; one that is none is counted and given as an empty map.

        A block of which MOST_BAD are none is given up: a frame of a kilobyte may hold millions.
        """
        bad = 0
        try:
            for record in frames.unpack_all(raw):
                sound = isinstance(record, dict) and bool(record)
                self.losses.bad_records += not sound
                yield record if sound else {}
                if (bad := bad + (not sound)) >= MOST_BAD:
                    break
        except ValueError:
            self.losses.bad_records += 1

    def walk(self) -> Iterator[Frame]:
        """Every sound frame in file order, resuming after damage at the next sound-looking block.

        The marker is random, so that nothing recorded in a body can pass for a block.
        """
        self.losses = Losses(
            truncated_tail=self.index is None,
            damaged_header=self.losses.damaged_header,
            damaged_index=self._misfit,
        )
        with self._open() as source:
            at = 0
            while at < self.size:
                frame = self._frame(source, at)
                if frame is None:
                    at = self._resync(source, at)
                else:
                    yield frame
                    at = frame.end

    def block(self, row: Row) -> bytes | None:
        """The decompressed records of a block of the index; None when it is damaged."""
        return next(self.blocks([row]))

    def blocks(self, rows: Iterable[Row]) -> Iterator[bytes | None]:
        """The same of several."""
        with self._open() as source:
            for row in rows:
                frame = None
                if FRAME.size < row.length <= frames.MAX_PAYLOAD + FRAME.size:
                    frame = self._frame(source, row.offset)
                sound = frame and (frame.code, frame.length) == (BLOCK, row.length)
                yield frame.raw if frame and sound else None

    @contextmanager
    def _open(self) -> Iterator[FileWindow]:
        if self._remote is not None:
            yield FileWindow(self._remote.pread, self.size)
            return
        with self._open_file() as file:
            self.size = self.size or os.fstat(file.fileno()).st_size
            yield FileWindow(partial(os.pread, file.fileno()), self.size)

    def _open_file(self) -> FileIO:
        if self.path.is_fifo():  # opening it would wait for a writer
            raise InputError(
                f"{self.path}: this is a pipe; write it to a file first, it is read in places"
            )
        try:
            return self.path.open("rb", buffering=0)
        except FileNotFoundError:
            # A capture that ended since has given the file its final name.
            final = self.path.with_suffix("")
            if self.path.suffix != ".part" or not final.exists():
                raise InputError(f"{self.path}: no such file") from None
            return final.open("rb", buffering=0)
        except IsADirectoryError:
            raise InputError(f"{self.path}: this is a folder, not a file") from None

    def _frame(self, source: FileWindow, at: int) -> Frame | None:
        head = source.read(at, FRAME.size)
        if len(head) < FRAME.size:
            return None
        first, length, code = FRAME.unpack(head)
        end = at + FRAME.size + length
        if first != frames.EXT32 or length > frames.MAX_PAYLOAD or end > self.size:
            return None
        raw = self._content(code, source.read(at + FRAME.size, length))
        # What ends with the file was written to its end: a damaged index, and no file that was cut.
        if code == INDEX and raw is None and end == self.size:
            self.losses.damaged_index, self.losses.truncated_tail = True, False
        return None if raw is None else Frame(code, at, FRAME.size + length, raw)

    def _content(self, code: int, payload: bytes) -> bytes | None:
        """What a sound frame holds; None for one that is damaged."""
        if code == BLOCK:
            return frames.read_block(payload, self.marker)
        if code == HEADER:
            return payload if frames.read_header(payload) is not None else None
        if code == INDEX:
            return payload if frames.read_index(payload) is not None else None
        # The marker stands in blocks only: here it tells of a damaged code or length.
        return None if self.marker and self.marker in payload else payload

    def _resync(self, source: FileWindow, at: int) -> int:
        """Count the damage at `at`; returns where reading goes on."""
        resumed = self._next_block(source, at + 1)
        self.losses.skipped_bytes += resumed - at
        cut = resumed == self.size and self._reaches_end(source, at)
        in_header = at == 0 and self.losses.damaged_header
        at_index = resumed == self.size and self.losses.damaged_index
        self.losses.damaged_blocks += not (cut or in_header or at_index)
        return resumed

    def _reaches_end(self, source: FileWindow, at: int) -> bool:
        """Whether a frame that begins at `at` was cut by the end of the file."""
        head = source.read(at, FRAME.size)
        if len(head) < FRAME.size:
            return head[:1] == bytes([frames.EXT32])
        first, length, _ = FRAME.unpack(head)
        return bool(first == frames.EXT32 and at + FRAME.size + length > self.size)

    def _next_block(self, source: FileWindow, start: int) -> int:
        """The next place that looks like a block, or the index, or the end of the file."""
        at = start
        while self.marker and (marker_at := source.find(self.marker, at + FRAME.size)) is not None:
            at = marker_at - FRAME.size
            first, length, code = FRAME.unpack(source.read(at, FRAME.size))
            if (first, code) == (frames.EXT32, BLOCK) and length <= frames.MAX_PAYLOAD:
                return at
            at += 1
        return self._index_at if start <= self._index_at else self.size

    def _find_index(self, source: FileWindow) -> dict[str, Any] | None:
        """The index by its tail; None when the file does not end with a sound one."""
        self._index_at = self.size
        tail = source.read(self.size - frames.TAIL.size, frames.TAIL.size)
        if len(tail) < frames.TAIL.size:
            return None
        length, _, magic = frames.TAIL.unpack(tail)
        at = self.size - length
        if magic != frames.TAIL_MAGIC or at < 0:
            return None
        if not FRAME.size <= length <= frames.MAX_PAYLOAD + FRAME.size:
            return None
        data = source.read(at, length)
        if data[: FRAME.size] != FRAME.pack(frames.EXT32, length - FRAME.size, INDEX):
            return None
        index = frames.read_index(data[FRAME.size :])
        if index is not None:
            self._index_at = at
        return index

    def _find_header(self, source: FileWindow) -> tuple[dict[str, Any], bytes]:
        """The header, or its copy in the index, or at least the marker, learnt from the blocks."""
        header = _first_header(source)
        if header is None:
            self.losses.damaged_header = True
            spare, marker = ((self.index or {}).get(name) for name in ("header", "marker"))
            header = {**spare, "marker": marker} if isinstance(spare, dict) else None
        marker = header.get("marker") if header else _learn_marker(source)
        if header is None and marker is None and frames.SIGNATURE not in source.read(0, 64):
            raise InputError(f"{self.path}: not a tbench file")
        match (header or {}).get("version"):
            case [int(major), *_] if major > frames.VERSION[0]:
                raise InputError(
                    f"{self.path}: written in format {major}, this tbench reads up to "
                    f"{frames.VERSION[0]}; install a newer tbench"
                )
        known = isinstance(marker, bytes) and len(marker) == MARKER_BYTES
        return header or {}, marker if isinstance(marker, bytes) and known else b""

    def _find_rows(self, source: FileWindow) -> Rows | None:
        """The index's table of blocks; an index without a whole one counts as none."""
        table = (self.index or {}).get("blocks")
        try:
            rows = Rows(table) if isinstance(table, bytes) else None
        except ValueError:
            rows = None
        if rows is None:
            self.index = None
        elif not self._fits(source, rows):
            self._misfit, rows = True, None
        return rows

    def _fits(self, source: FileWindow, rows: Rows) -> bool:
        """Whether the last block is where the index has it: not after bytes were lost or put in."""
        if not len(rows):
            return True
        row = rows[len(rows) - 1]
        head = FRAME.pack(frames.EXT32, max(row.length - FRAME.size, 0), BLOCK) + self.marker
        # The last block may itself be damaged: then it must end where the index begins.
        in_place = row.offset < self.size and source.read(row.offset, len(head)) == head
        return in_place or row.offset + row.length == self._index_at


def _first_header(source: FileWindow) -> dict[str, Any] | None:
    head = source.read(0, FRAME.size)
    if len(head) < FRAME.size:
        return None
    first, length, code = FRAME.unpack(head)
    if (first, code) != (frames.EXT32, HEADER) or length > frames.MAX_PAYLOAD:
        return None
    return frames.read_header(source.read(FRAME.size, length))


def _learn_marker(source: FileWindow) -> bytes | None:
    """The marker of the first sound block, found by the magic number that begins its zstd frame."""
    at, lead = 0, FRAME.size + frames.BLOCK_HEAD
    while (magic_at := source.find(frames.ZSTD_MAGIC, at)) is not None:
        at = magic_at + 1
        head = source.read(magic_at - lead, lead)
        if len(head) < lead:
            continue
        first, length, code = FRAME.unpack_from(head)
        # Four bytes are a weak sign: the checksum decides, of a block under the marker that it would have.
        if (first, code) == (frames.EXT32, BLOCK) and length <= frames.MAX_PAYLOAD:
            marker = head[FRAME.size : FRAME.size + MARKER_BYTES]
            if (
                frames.read_block(source.read(magic_at - frames.BLOCK_HEAD, length), marker)
                is not None
            ):
                return marker
    return None


def open_container(path: Path) -> Container:
    """Open a trace segment or a run file; raises InputError for what is missing, empty or neither."""
    return Container(path)
