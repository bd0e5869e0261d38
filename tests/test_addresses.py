"""Addresses: what --upstream takes, and whether the port is free."""

import socket

import pytest

from tbench.capture.errors import InputError
from tbench.capture.proxy import check_port, parse_upstream


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.together.xyz", "https://api.together.xyz"),
        ("https://api.together.xyz/", "https://api.together.xyz"),
        ("https://api.together.xyz/v1", "https://api.together.xyz"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_upstream_is_scheme_host_and_port(text: str, expected: str) -> None:
    """The /v1 that people paste belongs to the application."""
    assert parse_upstream(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "api.together.xyz",
        "ftp://x",
        "https://",
        "https://x/other/path",
        "http://x:notaport",
        "http://x:99999",
        "https://x?key=sk-abcdefghijkl",
        "https://joe:hunter2hunter2@x",
    ],
)
def test_anything_else_is_refused_without_quoting_a_credential(text: str) -> None:
    """One line, and no secret in it."""
    with pytest.raises(InputError) as caught:
        parse_upstream(text)

    assert "--upstream" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "sk-abc" not in str(caught.value)


def test_a_port_in_use_is_refused() -> None:
    """The line says which and what to do."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}.*choose another --port"):
            check_port("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_refused() -> None:
    """192.0.2.0/24 is for documentation and on no machine."""
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1:0"):
        check_port("192.0.2.1", 0)
