"""replay.request: a head is what httpx would send."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.replay.request import FRAMING, Shape, head_of, template

NAMES = st.sampled_from([b"accept", b"Content-Type", b"x-sim-a", b"authorization", b"te"])
VALUES = st.sampled_from([b"", b"a", b"application/json", b"\xe9", b"a  b", b"5%", b"%d"])


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "post", "PURGE", "CONNECT"]),
    st.sampled_from(["http://127.0.0.1:8000/v1/x?a=b", "https://h", "http://[::1]:80/ /", "http://h/%"]),
    st.lists(st.tuples(NAMES, VALUES), max_size=4).map(tuple),
    st.sampled_from([0, 1, 12]),
)  # fmt: skip
def test_a_head_is_what_httpx_writes(
    method: str, url: str, fields: tuple[tuple[bytes, bytes], ...], size: int
) -> None:
    """Byte for byte, of any method, address, fields and length."""
    content = b"x" * size
    shape = Shape(method, url, fields, bodied=size > 0)

    written = template(shape).head(b"id", size)

    assert written == head_of(httpx.Request(method, url, headers=list(fields), content=content))


@pytest.mark.parametrize("name", sorted(FRAMING))
def test_a_field_that_frames_the_request_is_refused(name: bytes) -> None:
    """It would say where the next request begins."""
    with pytest.raises(ValueError, match="made from the request itself"):
        template(Shape("POST", "http://h/", ((name, b"1"),), bodied=True))


def test_the_usual_head_is_plain() -> None:
    """It must not need httpx."""
    shape = Shape(
        "POST", "http://h:1/v1", ((b"content-type", b"a/b"), (b"x-request-id", b"\1")), True
    )

    assert template(shape).head(b"id", 12) == (
        b"POST /v1 HTTP/1.1\r\nHost: h:1\r\ncontent-type: a/b\r\nx-request-id: id\r\n"
        b"Content-Length: 12\r\n\r\n"
    )


def test_a_line_break_in_a_field_is_refused() -> None:
    """Nobody may smuggle a second request into the first."""
    with pytest.raises(ValueError, match="line break"):
        template(Shape("POST", "http://h/", ((b"a", b"b\r\nc: d"),), True))
