"""Content encodings against their own compressors, in pieces."""

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from capture.decode import decode, decoder
from capture.errors import InputError

TEXT = b'data: {"choices":[]}\n\n' * 40


def bare_deflate(body: bytes) -> bytes:
    press = zlib.compressobj(wbits=-15)
    return press.compress(body) + press.flush()


ENCODED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip members": ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
    "upper case": ("GZIP", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "bare deflate": ("deflate", bare_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd frames": ("zstd", lambda b: zstandard.compress(b[:9]) + zstandard.compress(b[9:])),
    "two": ("br, gzip", lambda body: gzip.compress(brotli.compress(body))),
    "none": ("identity", bytes),
    "empty": ("", bytes),
}


@pytest.mark.parametrize("name", ENCODED)
@given(cut=st.integers(0, 400))
def test_round_trip_in_pieces(name: str, cut: int) -> None:
    """Any cut of the encoded bytes decodes to the whole body."""
    encoding, encode = ENCODED[name]
    body = encode(TEXT)
    step = decoder(encoding)
    assert step(body[:cut]) + step(b"") + step(body[cut:]) == TEXT


def test_a_flushed_piece_is_decoded_at_once() -> None:
    """A stream's events are not held back until the body ends."""
    press = zlib.compressobj(wbits=31)
    step = decoder("gzip")
    first = press.compress(b"data: 1\n\n") + press.flush(zlib.Z_SYNC_FLUSH)
    assert step(first) == b"data: 1\n\n"


def test_a_cut_body_gives_what_arrived() -> None:
    """A truncated body is no error here; whether it was whole is the reader's to judge."""
    assert decode(gzip.compress(TEXT)[:-8], "gzip") == TEXT


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_other_bytes_are_refused(encoding: str) -> None:
    """A body that is not in its encoding is one clear error."""
    with pytest.raises(InputError, match=f"not valid {encoding}"):
        decode(b"<html>not compressed at all, never was</html>", encoding)


def test_an_unknown_encoding_is_named() -> None:
    """The message says which encodings would do."""
    with pytest.raises(InputError, match="'exi' is not known; tbench decodes br"):
        decoder("gzip, exi")
