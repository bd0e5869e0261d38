"""Content encodings for a streamed body: every piece comes out at once, as a flushed block."""

import zlib
from collections.abc import Callable

import zstandard

Encode = Callable[[bytes, bool], bytes]
"""One piece of the body, and whether it is the last, to the bytes to write."""


def encoder(name: str) -> Encode:
    """`gzip`, `deflate`, `br` or `zstd`. Raises KeyError for another, ImportError where br lacks brotli."""
    return _MAKERS[name]()


def _zlib(bits: int) -> Encode:
    packer = zlib.compressobj(wbits=bits)
    return lambda data, last: (
        packer.compress(data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
    )


def _zstd() -> Encode:
    packer = zstandard.ZstdCompressor().compressobj()
    block, end = zstandard.COMPRESSOBJ_FLUSH_BLOCK, zstandard.COMPRESSOBJ_FLUSH_FINISH
    return lambda data, last: packer.compress(data) + packer.flush(end if last else block)


def _brotli() -> Encode:
    import brotli  # type: ignore[import-untyped]  # noqa: PLC0415 (a test extra)

    packer = brotli.Compressor()

    def encode(data: bytes, last: bool) -> bytes:
        packed: bytes = packer.process(data) + (packer.finish() if last else packer.flush())
        return packed

    return encode


_MAKERS: dict[str, Callable[[], Encode]] = {
    "gzip": lambda: _zlib(31),
    "deflate": lambda: _zlib(15),
    "br": _brotli,
    "zstd": _zstd,
}
