"""Content encodings undone as a stream: each piece gives what it completes, none waits for the end."""

import zlib
from collections.abc import Callable, Iterator
from functools import reduce

from tbench.capture.errors import InputError

Step = Callable[[bytes], bytes]
Inflate = Callable[[bytes], Iterator[bytes]]
"""Gives what a piece decodes to in parts of at most some MiB, so that a bomb is seen as it goes off."""

MOST_BYTES = 128 << 20
"""The longest body that is decoded, in bytes after decoding: 2 MB of brotli may hold terabytes."""
ZLIB_SLICE, ZSTD_SLICE = 16 << 10, 256
"""Bytes that inflate to 16 MiB (1 : 1,032) and 8 MiB (1 : 32,768) at most."""
BROTLI_PART = 8 << 20


def decoder(content_encoding: str) -> Step:
    """A function to call with each piece of a body, in order; it returns the decoded bytes so far due.

    Args:
        content_encoding: the header's value, such as `gzip` or `br, gzip`; empty means none.

    Raises:
        InputError: an encoding that tbench does not know; from the function itself, bytes that are not
            in that encoding, or a body over MOST_BYTES when decoded.
    """
    names = [name for part in content_encoding.split(",") if (name := part.strip().lower())]
    # Listed in the order in which they were applied (RFC 9110, 8.4): the last is undone first.
    steps = [_step(name) for name in reversed(names) if name != "identity"]
    if len(steps) == 1:
        return steps[0]
    return lambda piece: reduce(lambda data, step: step(data), steps, piece)


def decode(body: bytes, content_encoding: str) -> bytes:
    """A whole body, decoded. A body that was cut short gives what arrived.

    Raises:
        InputError: as for `decoder`.
    """
    return decoder(content_encoding)(body)


def _step(name: str) -> Step:
    make = _ENCODINGS.get(name)
    if make is None:
        known = ", ".join(sorted(_ENCODINGS))
        raise InputError(f"content-encoding {name!r} is not known; tbench decodes {known}")
    inner, errors = make()
    size = 0

    def step(piece: bytes) -> bytes:
        nonlocal size
        parts = []
        try:
            for part in inner(piece):
                size += len(part)
                if size > MOST_BYTES:
                    raise InputError(f"the {name} body is over {MOST_BYTES >> 20} MiB when decoded")
                parts.append(part)
        except errors as error:
            raise InputError(f"the body is not valid {name}: {error}") from error
        return b"".join(parts)

    return step


def _slices(piece: bytes, size: int) -> Iterator[bytes]:
    """Small pieces, so that what one of them inflates to is small enough to count."""
    return (piece[start : start + size] for start in range(0, len(piece), size))


def _gzip() -> tuple[Inflate, type[Exception]]:
    inflate = zlib.decompressobj(wbits=31)

    def parts(piece: bytes) -> Iterator[bytes]:
        for rest in _slices(piece, ZLIB_SLICE):
            yield from members(rest)

    def members(rest: bytes) -> Iterator[bytes]:
        """Decode members, which follow one another, with padding between them."""
        nonlocal inflate
        while rest := rest.lstrip(b"\0") if inflate.eof else rest:
            inflate = zlib.decompressobj(wbits=31) if inflate.eof else inflate
            yield inflate.decompress(rest)
            rest = inflate.unused_data

    return parts, zlib.error


def _deflate() -> tuple[Inflate, type[Exception]]:
    """The name means zlib (RFC 9110), but some servers send bare deflate: the first byte tells."""
    inflate = None

    def parts(piece: bytes) -> Iterator[bytes]:
        nonlocal inflate
        for rest in _slices(piece, ZLIB_SLICE):
            if inflate is None:
                # RFC 1950: a zlib header names method 8 and a window of at most 2^15.
                wrapped = rest[0] & 0x0F == 8 and rest[0] >> 4 <= 7
                inflate = zlib.decompressobj(wbits=15 if wrapped else -15)
            if not inflate.eof:  # it would hoard what follows
                yield inflate.decompress(rest)

    return parts, zlib.error


def _brotli() -> tuple[Inflate, type[Exception]]:
    # Imported here because it is rare; it comes with mitmproxy, without types.
    import brotli  # type: ignore[import-untyped]  # noqa: PLC0415

    inflate = brotli.Decompressor()

    def parts(piece: bytes) -> Iterator[bytes]:
        if piece:
            yield inflate.process(piece, output_buffer_limit=BROTLI_PART)
        while not inflate.can_accept_more_data():
            yield inflate.process(b"", output_buffer_limit=BROTLI_PART)

    return parts, brotli.error


def _zstd() -> tuple[Inflate, type[Exception]]:
    import zstandard  # noqa: PLC0415 (rare as well)

    # RFC 8878: frames may follow one another; by itself python-zstandard stops behind the first.
    inflate = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)

    def parts(piece: bytes) -> Iterator[bytes]:
        return map(inflate.decompress, _slices(piece, ZSTD_SLICE))

    return parts, zstandard.ZstdError


_ENCODINGS: dict[str, Callable[[], tuple[Inflate, type[Exception]]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
