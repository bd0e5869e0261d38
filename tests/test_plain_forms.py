"""What is read without the library that defines it agrees with that: URLs, heads of requests, trust."""

import ssl
from pathlib import Path

import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.errors import InputError
from tbench.replay.request import FRAMING, Shape, address, by_httpx, head_of, plain, template
from tbench.replay.system import tls

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

    written = template(shape).pattern % ((b"id", size) if shape.bodied else b"id")

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

    assert template(shape).pattern % (b"id", 12) == (
        b"POST /v1 HTTP/1.1\r\nHost: h:1\r\ncontent-type: a/b\r\nx-request-id: id\r\n"
        b"Content-Length: 12\r\n\r\n"
    )


def test_a_line_break_in_a_field_is_refused() -> None:
    """Nobody may smuggle a second request into the first."""
    with pytest.raises(ValueError, match="line break"):
        template(Shape("POST", "http://h/", ((b"a", b"b\r\nc: d"),), True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an authority in it, as a file and by its hash."""
    pem = trustme.CA().cert_pem
    pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


@pytest.mark.parametrize("name", [None, "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_authorities_are_those_of_httpx(
    name: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is everything else of how they are used."""
    for other in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(other, raising=False)
    if name is not None:
        monkeypatch.setenv(name, str(folder / "ca.pem" if name == "SSL_CERT_FILE" else folder))
    ours, theirs = tls(), httpx.create_ssl_context()

    assert ours.get_ca_certs() == theirs.get_ca_certs()
    assert _habits(ours) == _habits(theirs)


def _habits(context: ssl.SSLContext) -> tuple[object, ...]:
    return (
        context.verify_mode,
        context.check_hostname,
        context.options,
        context.minimum_version,
        context.verify_flags,
    )


def test_a_file_of_authorities_is_added(tmp_path: Path) -> None:
    """--ca takes PEM; anything else is one line."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "no.pem").write_text("hello")

    assert any(
        "trustme" in str(cert["subject"]) for cert in tls(tmp_path / "ca.pem").get_ca_certs()
    )
    for name in ("no.pem", "absent.pem"):
        with pytest.raises(InputError, match="--ca"):
            tls(tmp_path / name)
