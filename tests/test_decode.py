"""Content encodings against their own compressors, in pieces."""

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture import decode as decoding
from tbench.capture.decode import MOST_BYTES, decode, decoder
from tbench.capture.errors import InputError

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


ZEROS = bytes(1 << 20)


def gzip_bomb() -> bytes:
    press = zlib.compressobj(wbits=31)
    return b"".join(press.compress(ZEROS) for _ in range((MOST_BYTES >> 20) + 1)) + press.flush()


def zlib_bomb() -> bytes:
    press = zlib.compressobj()
    return b"".join(press.compress(ZEROS) for _ in range((MOST_BYTES >> 20) + 1)) + press.flush()


def zstd_bomb() -> bytes:
    return zstandard.compress(ZEROS) * ((MOST_BYTES >> 20) + 1)


def brotli_bomb() -> bytes:
    press = brotli.Compressor(quality=1)
    pieces = [press.process(ZEROS) for _ in range((MOST_BYTES >> 20) + 1)]
    return b"".join(pieces) + bytes(press.finish())


@pytest.fixture(
    scope="module",
    params=[("gzip", gzip_bomb), ("deflate", zlib_bomb), ("zstd", zstd_bomb), ("br", brotli_bomb)],
    ids=lambda param: param[0],
)
def bomb(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """More than a decoder gives out, packed small: an encoding and a body."""
    encoding, make = request.param
    return encoding, make()


def test_a_bomb_is_refused_before_it_fills_the_memory(bomb: tuple[str, bytes]) -> None:
    """A hostile server's small body that would decode to gigabytes is one clear error."""
    encoding, body = bomb
    assert len(body) < 1 << 18
    with pytest.raises(InputError, match="over 128 MiB when decoded"):
        decode(body, encoding)


def test_a_part_of_a_bomb_stays_small(bomb: tuple[str, bytes]) -> None:
    """The bound is checked as a body inflates, not after it has."""
    encoding, body = bomb
    inflate, _ = decoding._ENCODINGS[encoding]()
    assert max(map(len, inflate(body))) <= 17 << 20


def test_padding_after_a_gzip_member_costs_no_quadratic_time() -> None:
    """Bytes behind the end are passed over, not collected and copied again and again."""
    step = decoder("gzip")
    assert step(gzip.compress(TEXT)) == TEXT
    assert [step(bytes(9)) for _ in range(3)] == [b"", b"", b""]
    assert step(gzip.compress(b"more")) == b"more"
