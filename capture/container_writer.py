"""Writing a container: records into checksummed blocks, an index at the end. Knows nothing of requests.

Traces and run files are both containers (docs/trace-format.md). Reading is in capture.container_reader.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tbench.capture import frames
from tbench.capture.errors import InputError
from tbench.capture.frames import LATEST, Row, Rows
from tbench.capture.remote import RemotePath
from tbench.capture.writing import check_folder

# A block is sealed when it is large enough to compress well, and soon enough that a kill loses little: what
# is sealed is in the page cache and outlives the process. A power cut needs fdatasync: milliseconds each.
SEAL_BYTES = 256 * 1024
SEAL_RECORDS = 200
SEAL_S = 0.2
SYNC_S = 1.0


Contents = tuple[int, int | None, int | None, int | None]
"""Of a block: records, first seq, earliest and latest arrival; the last fields of a Row."""


class Place(NamedTuple):
    """Where a record lies: the ordinal of its block in the file, its own ordinal in the block; from 0."""

    block: int
    record: int


class ContainerWriter:
    """Appends records to PATH.part; `close` writes the index and gives the file its name.

    For one thread. What is older than 0.2 s survives a kill, what is older than 1 s a power cut, as long
    as `append` or `pump` is called that often. A disk error (ENOSPC, EIO) surfaces as OSError from
    append, pump or close; from then on every call raises it again, and what was sealed before stays
    readable in PATH.part. `header` needs a `kind`. `marker` is random, unless given for a file that must
    come out the same again; then `clock` must stand still, too.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
        marker: bytes | None = None,
    ) -> None:
        self.path = path
        if isinstance(path, RemotePath):
            self.part = path.claim()
        else:
            check_new(path)
            self.part = part_of(path)
        self._header = dict(header)
        self._clock = clock
        self._marker = marker or os.urandom(frames.MARKER_BYTES)
        self._rows = Rows()
        self._failure: OSError | None = None
        self._size = 0
        self._synced_at = self._clock()
        self._dirty = False
        self._records: list[bytes] = []
        self._raw_bytes = 0
        self._first_seq: int | None = None
        self._arrivals: list[int] = []
        self._opened_at = 0.0
        self._finished = False
        # Only its owner may read it, from its first byte on; never one that exists.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._fd: int | None = os.open(self.part, flags, 0o600)
        except FileExistsError:  # since a moment
            raise InputError(f"{self.part}: another process has begun it; choose another") from None
        try:
            self._write(frames.header_frame(self._header, self._marker))
        except Exception:
            self.discard()
            raise

    @property
    def size(self) -> int:
        """Bytes written so far, the unsealed block not counted."""
        return self._size

    @property
    def blocks(self) -> int:
        """Blocks sealed so far: the ordinal of the next one."""
        return len(self._rows)

    @property
    def lost(self) -> list[Any]:
        """The records that were taken and are in no block yet: lost where nothing more can be written."""
        return list(map(frames.unpack_one, self._records.copy()))

    def append(
        self, record: Mapping[str, Any], *, arrive_ns: int | None = None, seq: int | None = None
    ) -> Place:
        """Add one record; `arrive_ns` and `seq` go into the index for ordered reading.

        Raises ValueError for a record that is over the format's limits (nothing is written then).
        """
        return self.append_packed(frames.pack(record), arrive_ns=arrive_ns, seq=seq)

    def append_packed(
        self, packed: bytes, *, arrive_ns: int | None = None, seq: int | None = None
    ) -> Place:
        """The same for the bytes of a record, which stay as they are."""
        self._check()
        # A mebibyte less than a frame holds: zstd adds up to 1/256 to what it cannot compress.
        if len(packed) > frames.MAX_PAYLOAD - 2**20:
            raise ValueError(f"a record of {len(packed)} bytes is over the limit of a block")
        if any(number is not None and abs(number) > LATEST for number in (arrive_ns, seq)):
            raise ValueError(
                f"an arrival at {arrive_ns} ns, seq {seq}, is over the limit of 64 bits"
            )
        if self._raw_bytes + len(packed) > SEAL_BYTES:
            self._seal()
        # Behind the seal above, which changes both ordinals.
        # A record that is larger than a block has one alone.
        place = Place(len(self._rows), len(self._records))
        if not self._records:
            self._opened_at = self._clock()
        self._records.append(packed)
        self._raw_bytes += len(packed)
        if self._first_seq is None:
            self._first_seq = seq
        if arrive_ns is not None:
            self._arrivals.append(arrive_ns)
        try:
            if self._raw_bytes >= SEAL_BYTES or len(self._records) >= SEAL_RECORDS:
                self._seal()
            self.pump()
        except OSError:
            del self._records[place.record :]  # it was not taken
            raise
        return place

    def append_block(self, raw: bytes, contents: Contents) -> None:
        """Take over a whole block of records, verbatim; `contents` are the last fields of its Row."""
        self._check()
        self._seal()
        self._put(raw, contents)

    def append_frame(self, code: int, payload: bytes) -> None:
        """Take over a frame of a kind that this version does not know, verbatim."""
        self._check()
        self._seal()
        self._write(frames.frame(code, payload))

    def pump(self) -> None:
        """Seal a block older than 0.2 s, sync what was written more than 1 s ago."""
        self._check()
        now = self._clock()
        if self._records and now - self._opened_at >= SEAL_S:
            self._seal()
        if self._dirty and now - self._synced_at >= SYNC_S:
            self._sync()

    def close(
        self, totals: Mapping[str, Any] | None = None, *, detail: Mapping[str, Any] | None = None
    ) -> Path:
        """Seal, write the index with `totals` (and `detail` beside it), rename; returns the final path.

        After a disk error nothing more is written: the file stays PATH.part and the error is raised.
        """
        try:
            self._check()
            self._seal()
            # With the header once more: a file whose first bytes are lost still says what it is.
            index = {
                "blocks": bytes(self._rows),
                "header": self._header,
                "totals": dict(totals or {}),
            }
            self._write(frames.index_frame({**(detail or {}), **index, "marker": self._marker}))
            self._sync()
        finally:
            self._release()
        # On disk, index and all, before it has its name: what
        # is called PATH is whole, also after a power cut.
        self._finished = True
        if isinstance(self.path, RemotePath):
            self.path.deliver(self.part)
        else:
            _rename(self.part, self.path)
        return self.path

    def discard(self) -> None:
        """Give the file up and remove it; one that was closed stays, even where it did not get its name."""
        self._release()
        if self._finished:
            return
        self.part.unlink(missing_ok=True)
        if isinstance(self.path, RemotePath):
            self.path.renounce(self.part)

    def _seal(self) -> None:
        if self._records:
            earliest, latest = min(self._arrivals, default=None), max(self._arrivals, default=None)
            contents = len(self._records), self._first_seq, earliest, latest
            self._put(b"".join(self._records), contents)
            self._records, self._arrivals = [], []
            self._raw_bytes, self._first_seq = 0, None

    def _put(self, raw: bytes, contents: Contents) -> None:
        block = frames.block_frame(self._marker, raw)
        row = Row(self._size, len(block), len(raw), *contents)
        self._write(block)
        # Last: an index never lists a block that is not in the file.
        self._rows.append(row)

    def _write(self, data: bytes) -> None:
        """All of `data` or nothing: a frame that does not fit is cut off again."""
        assert self._fd is not None
        rest = memoryview(data)
        try:
            while rest:
                # A disk that fills up takes what fits and says nothing; it is the next write that fails.
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._fail(error)
        self._size += len(data)
        self._dirty = True

    def _sync(self) -> None:
        assert self._fd is not None
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._fail(error)
        self._dirty = False
        self._synced_at = self._clock()

    def _fail(self, error: OSError) -> None:
        # For good: after a failed sync Linux takes the lost pages for written, so that a second one would
        # succeed. What of a frame is in the file is cut off, or a reader would have to search behind it.
        assert self._fd is not None
        self._failure = OSError(error.errno, error.strerror, str(self.part))
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._size)
        raise self._failure

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._fd is None:
            raise ValueError(f"{self.path}: already closed")

    def _release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}
"""What a file system without hard links answers."""


def part_of(path: Path) -> Path:
    """What a file is called until it is whole."""
    return path.with_name(path.name + ".part")


def check_new(path: Path) -> None:
    """Raise InputError where a file cannot be begun: its folder is missing, its name or its .part taken."""
    if isinstance(path, RemotePath):
        path.check_new()
        return
    check_folder(path)
    if os.path.lexists(path):  # a dangling link, too
        raise InputError(f"{path}: exists already; choose another name or remove it")
    if os.path.lexists(part := part_of(path)):
        raise InputError(
            f"{part}: another process writes it, or one was killed; "
            f"save it with 'tbench trace repair {part} -o NEW', or remove it"
        )


def _rename(part: Path, path: Path) -> None:
    """Give the file its name without ever replacing another (os.rename would)."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise FileExistsError(
            errno.EEXIST, f"{path} was made by someone else meanwhile; {part} is whole"
        ) from None
    except OSError as error:
        # Without links nothing names a file without replacing
        # another: a moment stays between look and name.
        if error.errno not in _NO_LINKS or path.exists():
            raise
        part.rename(path)
    else:
        part.unlink()
    # Make the new name survive a loss of power, where the file system allows it.
    with contextlib.suppress(OSError):
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
