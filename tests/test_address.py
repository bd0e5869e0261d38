"""replay.request: plain URLs are what httpx says they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.replay.request import address, by_httpx, plain

PIECES = st.sampled_from(
    [
        *("http://", "https://", "HTTP://", "ftp://", "//", "/", "/v1", "/v1beta/openai", "/./", "/../"),
        *("127.0.0.1", "127.1", "256.0.0.1", "01.2.3.4", "localhost", "a-b.example", "xn--nxasmq6b", "A.b"),
        *("[::1]", "user:x@", "user@", ":80", ":443", ":8080", ":0", ":00080", ":99999", ":", "a_b", "a..b"),
        *("?", "?a=b&c=d", "?a=%20", "#f", "%41", " ", "\u00e9", "~", ".", "-", "_", "\n", "\\", "{", "+"),
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=7).map("".join) | st.text(max_size=20))
def test_a_plain_url_is_what_httpx_says_it_is(url: str) -> None:
    """In every part, or left to httpx."""
    found = plain(url)

    assert found is None or found == by_httpx(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "https://api.together.xyz",
        "https://api.together.xyz/v1/chat/completions",
        "http://localhost:8000/v1beta/openai/",
        "https://example.com:443/v1/models?limit=2",
    ],
)
def test_the_usual_urls_are_plain(url: str) -> None:
    """They must not need httpx."""
    assert plain(url) is not None


def test_a_url_that_is_none_says_so() -> None:
    """As a ValueError, whoever finds out."""
    with pytest.raises(ValueError, match="IPv4"):
        address("http://256.0.0.1/")
