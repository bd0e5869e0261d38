"""Endings: mitmproxy's error texts, as its source words them, and the outcome each means."""

from dataclasses import replace

import pytest

from tbench.capture.endings import Failure
from tbench.capture.exchange import Outcome

MIDWAY = Failure(
    text="",
    client_connected=True,
    upstream_connected=True,
    upstream_http2=False,
    head_seen=True,
    timed_out=False,
)
CUT_H1 = (
    "HTTP/1 protocol error: peer closed connection without sending complete message body "
    "(incomplete chunked read)"
)


@pytest.mark.parametrize(
    ("text", "known", "outcome"),
    [
        ("Client disconnected.", {}, Outcome.CLIENT_ABORT),
        ("peer closed connection", {"client_connected": False}, Outcome.CLIENT_ABORT),
        ("stream reset by client (CANCEL)", {"upstream_http2": True}, Outcome.CLIENT_ABORT),
        ("stream reset by client (INTERNAL_ERROR)", {}, Outcome.CLIENT_ABORT),
        ("stream reset by client (INTERNAL_ERROR)", {"upstream_http2": True}, Outcome.CUT),
        (CUT_H1, {}, Outcome.CUT),
        ("peer closed connection", {"upstream_http2": True}, Outcome.CUT),
        ("server closed connection", {"head_seen": False}, Outcome.RESET),
        (
            "stream reset by client (REFUSED_STREAM)",
            {"upstream_http2": True, "head_seen": False},
            Outcome.RESET,
        ),
        (
            "[Errno 111] Connect call failed ('127.0.0.1', 9)",
            {"head_seen": False, "upstream_connected": False},
            Outcome.CONNECT_ERROR,
        ),
        ("[Errno -2] Name or service not known", {"head_seen": False}, Outcome.CONNECT_ERROR),
        (
            "Certificate verify failed: unable to get local issuer certificate",
            {"head_seen": False},
            Outcome.CONNECT_ERROR,
        ),
        (
            "Cannot parse HTTP response: Invalid HTTP status code",
            {"head_seen": False},
            Outcome.PROTOCOL_ERROR,
        ),
        ("unexpected server response: b'hello'", {"head_seen": False}, Outcome.PROTOCOL_ERROR),
        ("HTTP/1 protocol error: illegal chunk header", {}, Outcome.PROTOCOL_ERROR),
        ("Client disconnected.", {"timed_out": True}, Outcome.TIMEOUT),
    ],
)
def test_each_error_text_has_its_outcome(
    text: str, known: dict[str, bool], outcome: Outcome
) -> None:
    """The side that broke off, and how far the answer had come, decide."""
    assert replace(MIDWAY, text=text, **known).outcome is outcome  # type: ignore[arg-type]
