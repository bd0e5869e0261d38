"""The bytes of a container: msgpack ext frames, their checksums, their limits. Pure, no files.

A container is a stream of ext 32 frames (docs/trace-format.md): one header, blocks, one index. Nothing
here knows what a record means. Every function that takes foreign bytes returns None for unsound ones.
"""

import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgpack
import zstandard

HEADER, BLOCK, INDEX = 1, 2, 3
"""Ext codes. Others are reserved for newer writers and skipped by readers."""
VERSION = (1, 0)
"""Format version, major and minor: a reader refuses a newer major and accepts any minor."""

MARKER_BYTES = 16
MAX_PAYLOAD = 256 * 2**20
"""The most bytes of a frame's payload, and of a block once decompressed."""
MAX_RECORDS = 65_536
"""The most records of a block; what is behind them is not looked at."""
EXT32 = 0xC9
FRAME = struct.Struct(">BIb")
"""What every frame begins with: 0xC9, payload length (big-endian, as msgpack has it), ext code."""
CRC = struct.Struct("<I")
BLOCK_HEAD = MARKER_BYTES + CRC.size
TAIL = struct.Struct("<II8s")
"""The last 16 bytes of an index frame: length of the whole frame, crc of its zstd bytes, TAIL_MAGIC."""
TAIL_MAGIC = b"TBINDEX1"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SIGNATURE = b"\xa6format\xa6tbench"
"""How a header's first entry looks: enough to know a file whose header is cut short."""
_HEADER_CRC = b"\xa5crc32\xce"

_BROKEN = (ValueError, TypeError, RecursionError, msgpack.OutOfData)
"""What msgpack raises for bytes that it cannot make a value of; TypeError: a map or array as key."""


class _Zstd(threading.local):
    """Contexts of zstd, which each thread has for itself."""

    def __init__(self) -> None:
        # python-zstandard (0.25) lets go of the interpreter's lock while a context works and does not lock
        # the context: two threads in one context end in a segmentation fault. Made once, since a context
        # costs as much as a small block.
        self.compressor = zstandard.ZstdCompressor(level=3)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


class Row(NamedTuple):
    """One block in the index. Offsets and lengths in bytes; times in ns, None without an arrival."""

    offset: int
    length: int
    raw: int
    records: int
    first_seq: int | None
    min_arrive: int | None
    max_arrive: int | None


_ROW = struct.Struct("<QIIIqqq")
_NO = -(2**63)
LATEST = 2**63 - 2
"""The greatest time and seq that an index can hold; its negative is the least."""
FARTHEST = 2**61
"""The greatest time of a record, ns (73 years, or 1970 to 2043): sums and differences of four stay within
64 bits."""


def pack(value: object) -> bytes:
    """One value as msgpack. Bytes that are not UTF-8 pass through strings by surrogateescape."""
    try:
        return msgpack.packb(value, unicode_errors="surrogateescape")  # type: ignore[no-any-return]
    except UnicodeEncodeError:
        return msgpack.packb(printable(value))  # type: ignore[no-any-return]
    except OverflowError as error:
        raise ValueError(f"a number has more than 64 bits: {error}") from None


def printable(value: object) -> object:
    """A value whose texts are all UTF-8; what is none becomes a question mark."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {printable(key): printable(item) for key, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, (list, tuple)) else value


def unpacker(data: bytes | memoryview) -> msgpack.Unpacker:
    """A msgpack reader over `data`, as lenient as the format asks."""
    reader = msgpack.Unpacker(
        strict_map_key=False,
        unicode_errors="surrogateescape",
        # msgpack (1.1) refuses to hold over 100 MiB unless told; a block may have 256.
        max_buffer_size=2**31 - 1,
    )
    reader.feed(data)
    return reader


def unpack_all(raw: bytes) -> Iterator[Any]:
    """Every record of a decompressed block; ValueError where it is no msgpack."""
    # A reader would copy it, which takes longer than to read a block of samples, mostly one record.
    if (record := unpack_one(raw)) is not None:
        yield record
        return
    reader = unpacker(raw)
    for _ in range(MAX_RECORDS):
        if (offset := reader.tell()) == len(raw):
            return
        try:
            yield reader.unpack()
        except _BROKEN as error:
            raise ValueError(f"no msgpack at byte {offset} of the block: {error}") from error
    if reader.tell() < len(raw):
        raise ValueError(f"more than {MAX_RECORDS:,} records in a block")


def unpack_one(data: bytes | memoryview) -> object:
    """The one value that is all of `data`; None when it is anything else."""
    try:
        value: object = msgpack.unpackb(
            data, strict_map_key=False, unicode_errors="surrogateescape"
        )
    except _BROKEN:
        return None
    return value


def unpack_ahead(reader: msgpack.Unpacker, skipped: int) -> object:
    """The value after so many others; None where there is none, or no sound one. It cannot go on then."""
    if skipped >= MAX_RECORDS:
        return None
    try:
        for _ in range(skipped):
            reader.skip()
        value: object = reader.unpack()
    except _BROKEN:
        return None
    return value


def edges(raw: bytes) -> list[int]:
    """Where each record of a decompressed block begins, and where the last sound one ends."""
    reader, offsets = unpacker(raw), [0]
    while offsets[-1] < len(raw) and len(offsets) <= MAX_RECORDS:
        try:
            reader.skip()
        except _BROKEN:
            break
        offsets.append(reader.tell())
    return offsets


def frame(code: int, payload: bytes) -> bytes:
    """A top-level object: always the ext 32 form, so that its head is always six bytes."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame of {len(payload)} bytes is over the limit of {MAX_PAYLOAD}")
    return FRAME.pack(EXT32, len(payload), code) + payload


def header_frame(header: Mapping[str, Any], marker: bytes) -> bytes:
    """The first frame. Its map ends with `crc32`, the checksum of every payload byte before the value."""
    entries = {
        "format": "tbench",
        "version": list(VERSION),
        "marker": marker,
        **header,
        "crc32": 2**32 - 1,
    }
    # The largest 32 bits, which msgpack writes in five bytes: the last four make room for the checksum.
    sealed = pack(entries)[:-4]
    return frame(HEADER, sealed + zlib.crc32(sealed).to_bytes(4, "big"))


def read_header(payload: bytes) -> dict[str, Any] | None:
    """The map of a header payload without its checksum; None when it is damaged or no header."""
    sealed = payload[:-4]
    if not sealed.endswith(_HEADER_CRC) or zlib.crc32(sealed) != int.from_bytes(
        payload[-4:], "big"
    ):
        return None
    header = unpack_one(payload)
    if not isinstance(header, dict) or header.get("format") != "tbench":
        return None
    header.pop("crc32", None)
    return header


def block_frame(marker: bytes, raw: bytes) -> bytes:
    """A block of concatenated msgpack records."""
    return stamp(marker, _zstd.compressor.compress(raw))


def stamp(marker: bytes, compressed: bytes) -> bytes:
    """A block around bytes that are compressed already."""
    return frame(BLOCK, marker + CRC.pack(zlib.crc32(compressed)) + compressed)


def read_block(payload: bytes, marker: bytes) -> bytes | None:
    """The decompressed records of a block payload; None when marker, checksum or content is wrong."""
    if payload[:MARKER_BYTES] != marker or len(payload) < BLOCK_HEAD:
        return None
    compressed = memoryview(payload)[BLOCK_HEAD:]
    if zlib.crc32(compressed) != CRC.unpack_from(payload, MARKER_BYTES)[0]:
        return None
    return _decompress(compressed)


def _decompress(data: bytes | memoryview) -> bytes | None:
    """One zstd frame that states its size, and states no more than the limit; None for anything else."""
    try:
        # Before anything is allocated: a frame of a kilobyte
        # may state, and hold, gigabytes. -1 states nothing.
        if not 0 <= zstandard.frame_content_size(data) <= MAX_PAYLOAD:
            return None
        return _zstd.decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError:
        return None


def index_frame(index: Mapping[str, Any]) -> bytes:
    """The last frame: a zstd frame of one msgpack map, and the tail by which it is found from the end."""
    body = _zstd.compressor.compress(pack(index))
    tail = TAIL.pack(FRAME.size + len(body) + TAIL.size, zlib.crc32(body), TAIL_MAGIC)
    return frame(INDEX, body + tail)


def read_index(payload: bytes) -> dict[str, Any] | None:
    """The map of an index payload; None when it is damaged."""
    if len(payload) < TAIL.size:
        return None
    length, crc, magic = TAIL.unpack_from(payload, len(payload) - TAIL.size)
    body = memoryview(payload)[: -TAIL.size]
    if (length, magic) != (FRAME.size + len(payload), TAIL_MAGIC) or zlib.crc32(body) != crc:
        return None
    raw = _decompress(body)
    index = unpack_one(raw) if raw is not None else None
    return index if isinstance(index, dict) else None


def _row(fields: Iterable[Any]) -> Row:
    return Row._make([None if field == _NO else field for field in fields])


class Rows:
    """The index's table of blocks: 44 bytes each, an absent seq or time as the least 64-bit integer."""

    def __init__(self, table: bytes = b"") -> None:
        if len(table) % _ROW.size:
            raise ValueError("the table of blocks is cut short")
        self._table = bytearray(table)

    def append(self, row: Row) -> None:
        self._table += _ROW.pack(*(_NO if field is None else field for field in row))

    def __len__(self) -> int:
        return len(self._table) // _ROW.size

    def __getitem__(self, ordinal: int) -> Row:
        at = range(len(self))[ordinal] * _ROW.size
        return _row(_ROW.unpack_from(self._table, at))

    def __iter__(self) -> Iterator[Row]:
        return map(_row, _ROW.iter_unpack(self._table))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and bytes(self) == bytes(other)

    def __bytes__(self) -> bytes:
        return bytes(self._table)

    __hash__ = None  # type: ignore[assignment]
