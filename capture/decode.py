"""Content encodings undone as a stream: each piece gives what it completes, none waits for the end."""

import zlib
from collections.abc import Callable, Iterable

from capture.errors import InputError

Step = Callable[[bytes], bytes]


def decoder(content_encoding: str) -> Step:
    """A function to call with each piece of a body, in order; it returns the decoded bytes so far due.

    Args:
        content_encoding: the header's value, such as `gzip` or `br, gzip`; empty means none.

    Raises:
        InputError: an encoding that tbench does not know; from the function itself, bytes that are not
            in that encoding.
    """
    names = [name for part in content_encoding.split(",") if (name := part.strip().lower())]
    steps = [_step(name) for name in reversed(names) if name != "identity"]
    if len(steps) == 1:
        return steps[0]
    return lambda piece: _through(steps, piece)


def decode(body: bytes, content_encoding: str) -> bytes:
    """A whole body, decoded. A body that was cut short gives what arrived.

    Raises:
        InputError: as for `decoder`.
    """
    return decoder(content_encoding)(body)


def _through(steps: Iterable[Step], piece: bytes) -> bytes:
    for step in steps:
        piece = step(piece)
    return piece


def _step(name: str) -> Step:
    make = _ENCODINGS.get(name)
    if make is None:
        known = ", ".join(sorted(_ENCODINGS))
        raise InputError(f"content-encoding {name!r} is not known; tbench decodes {known}")
    inner, errors = make()

    def step(piece: bytes) -> bytes:
        try:
            return inner(piece) if piece else b""
        except errors as error:
            raise InputError(f"the body is not valid {name}: {error}") from error

    return step


def _gzip() -> tuple[Step, type[Exception]]:
    inflate = zlib.decompressobj(wbits=31)

    def step(piece: bytes) -> bytes:
        nonlocal inflate
        out = [inflate.decompress(piece)]
        while inflate.eof and inflate.unused_data.lstrip(b"\0"):  # members follow one another
            rest, inflate = inflate.unused_data, zlib.decompressobj(wbits=31)
            out.append(inflate.decompress(rest))
        return b"".join(out)

    return step, zlib.error


def _deflate() -> tuple[Step, type[Exception]]:
    """The name means zlib (RFC 9110), but some servers send bare deflate: the first byte tells."""
    inflate = None

    def step(piece: bytes) -> bytes:
        nonlocal inflate
        if inflate is None:
            wrapped = piece[0] & 0x0F == 8 and piece[0] >> 4 <= 7
            inflate = zlib.decompressobj(wbits=15 if wrapped else -15)
        return inflate.decompress(piece)

    return step, zlib.error


def _brotli() -> tuple[Step, type[Exception]]:
    # Imported here because it is rare; it comes with mitmproxy, without types.
    import brotli  # type: ignore[import-untyped]  # noqa: PLC0415

    return brotli.Decompressor().process, brotli.error


def _zstd() -> tuple[Step, type[Exception]]:
    import zstandard  # noqa: PLC0415 (rare as well)

    make = zstandard.ZstdDecompressor().decompressobj
    return make(read_across_frames=True).decompress, zstandard.ZstdError


_ENCODINGS: dict[str, Callable[[], tuple[Step, type[Exception]]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
