"""How an exchange ended, from what others say of it: mitmproxy's texts, httpx's exceptions, names in logs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tbench.capture.exchange import Outcome

# mitmproxy: its error texts are the only source.

_CLIENT = re.compile(r"^Client disconnected|^stream reset by client \(CANCEL\)")
_RESET_BY_STREAM = re.compile(r"^stream reset by client")
_PROTOCOL = re.compile(
    r"Cannot parse HTTP response|unexpected server response|refusing to prevent"
    r"|HTTP/2 protocol error|HTTP/1 protocol error: (?!peer closed)|Received HTTP/2 data frame"
)
_CONNECT = re.compile(
    r"Connect call failed|Name or service not known|Temporary failure in name|Multiple exceptions"
    r"|[Cc]ertificate|TLS|handshake|No route to host|Network is unreachable|timed out|getaddrinfo"
    r"|Request destination unknown|connection cancelled|Connection killed"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What was known when mitmproxy reported an error. `timed_out`: it had closed an idle connection."""

    text: str
    timed_out: bool
    client_connected: bool
    upstream_connected: bool
    upstream_http2: bool
    head_seen: bool

    @property
    def outcome(self) -> Outcome:
        """By the first rule that fits."""
        if self.timed_out:
            return Outcome.TIMEOUT
        # Resets of either side are worded alike; only an HTTP/2 upstream can reset a stream.
        client_reset = _RESET_BY_STREAM.search(self.text) and not self.upstream_http2
        if not self.client_connected or _CLIENT.search(self.text) or client_reset:
            return Outcome.CLIENT_ABORT
        if _PROTOCOL.search(self.text):
            return Outcome.PROTOCOL_ERROR
        if self.head_seen:
            return Outcome.CUT
        if not self.upstream_connected or _CONNECT.search(self.text):
            return Outcome.CONNECT_ERROR
        return Outcome.RESET


# httpx.

_HTTPX_ENDINGS: Final = {
    "ConnectError": (Outcome.CONNECT_ERROR, Outcome.CONNECT_ERROR),
    "UnsupportedProtocol": (Outcome.CONNECT_ERROR, Outcome.CONNECT_ERROR),
    "TimeoutException": (Outcome.TIMEOUT, Outcome.TIMEOUT),
    "NetworkError": (Outcome.RESET, Outcome.CUT),
    "RemoteProtocolError": (Outcome.PROTOCOL_ERROR, Outcome.CUT),
    "LocalProtocolError": (Outcome.PROTOCOL_ERROR, Outcome.PROTOCOL_ERROR),
    "HTTPError": (Outcome.PROTOCOL_ERROR, Outcome.PROTOCOL_ERROR),
    "SSLError": (Outcome.CONNECT_ERROR, Outcome.CUT),
}
"""An exception's name -> its outcome before the answer's head, and after it. The first that fits counts."""

_CLOSED: Final = ("Server disconnected", "ConnectionTerminated")
_CUT_SHORT: Final = ("incomplete", "without sending complete", *_CLOSED)


def httpx_outcome(error: BaseException, *, answered: bool) -> Outcome | None:
    """The outcome of an exception of httpx, or of httpx2, its successor of the same names; None of another.

    `answered`: the head of an answer had come.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    before, after = next((_HTTPX_ENDINGS[n] for n in _HTTPX_ENDINGS if n in names), (None, None))
    outcome = after if answered else before
    # h11 and httpcore word a closed connection and a broken protocol as the same exception.
    if outcome is Outcome.PROTOCOL_ERROR and any(words in str(error) for words in _CLOSED):
        return Outcome.RESET
    broken = outcome is Outcome.CUT and "RemoteProtocolError" in names
    if broken and not any(words in str(error) for words in _CUT_SHORT):
        return Outcome.PROTOCOL_ERROR
    return outcome


# Names: what logs call a failure. Only those that mean one thing; what is unknown says nothing.

_NAMES: Final[Mapping[Outcome, str]] = {
    Outcome.CLIENT_ABORT: (
        "cancelled canceled CancelledError AbortError APIUserAbortError GeneratorExit KeyboardInterrupt "
        "ClientDisconnect ClientDisconnected client_disconnect client_disconnected client_closed "
        "client_closed_request context_canceled CancellationException net::ERR_ABORTED "
        "Request_was_aborted This_operation_was_aborted The_user_aborted_a_request"
    ),
    Outcome.TIMEOUT: (
        "TimeoutError TimeoutException ReadTimeout ConnectTimeout WriteTimeout PoolTimeout ReadTimeoutError "
        "ConnectTimeoutError APITimeoutError APIConnectionTimeoutError SocketTimeoutException ETIMEDOUT "
        "ReadTimeoutException HttpTimeoutException HeadersTimeoutError BodyTimeoutError deadline_exceeded "
        "DeadlineExceededError context_deadline_exceeded Request_timed_out net::ERR_TIMED_OUT "
        "net::ERR_CONNECTION_TIMED_OUT"
    ),
    Outcome.CONNECT_ERROR: (
        "ConnectError ConnectionRefusedError ECONNREFUSED ENOTFOUND gaierror UnknownHostException "
        "ConnectException NameResolutionError NewConnectionError SSLError SSLCertVerificationError "
        "SSLHandshakeException server_certificate_invalid ClientConnectorError ClientConnectorDNSError "
        "APIConnectionError net::ERR_CONNECTION_REFUSED net::ERR_NAME_NOT_RESOLVED "
        "net::ERR_ADDRESS_UNREACHABLE net::ERR_INTERNET_DISCONNECTED net::ERR_SSL_PROTOCOL_ERROR "
        "net::ERR_CERT_AUTHORITY_INVALID net::ERR_CERT_DATE_INVALID net::ERR_CERT_COMMON_NAME_INVALID"
    ),
    Outcome.RESET: (
        "ConnectionResetError ECONNRESET EPIPE BrokenPipeError ReadError ServerDisconnectedError "
        "RemoteDisconnected ClientPayloadError IncompleteRead ChunkedEncodingError TransferEncodingError "
        "socket_hang_up net::ERR_CONNECTION_RESET net::ERR_CONNECTION_CLOSED net::ERR_EMPTY_RESPONSE "
        "net::ERR_INCOMPLETE_CHUNKED_ENCODING net::ERR_CONTENT_LENGTH_MISMATCH"
    ),
    Outcome.PROTOCOL_ERROR: (
        "RemoteProtocolError LocalProtocolError net::ERR_HTTP2_PROTOCOL_ERROR net::ERR_INVALID_HTTP_RESPONSE"
    ),
}
"""Exceptions of Python, Node, Java, Go and of SDKs, what these say, and Chromium's errors: an outcome each.

A reset names no side of the answer's head: whoever knows of an answer reads it as a cut.
"""
_JUDGED: Final = frozenset({Outcome.OK, Outcome.CANCELLED, Outcome.INCOMPLETE})
"""Words of a trace that no log is believed: an answer's content tells, or there is none."""


def _plain(name: str) -> str:
    """A name without its module, signs and case."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^(?:\w+[./])+(?=\w)", "", name).lower())


_BY_NAME: Final[Mapping[str, Outcome]] = {
    _plain(name): outcome for outcome, names in _NAMES.items() for name in names.split()
} | {_plain(outcome): outcome for outcome in Outcome if outcome not in _JUDGED}


def named_outcome(name: object) -> Outcome | None:
    """What broke, by the word of a trace or by another's name of a failure; None where that says nothing."""
    return _BY_NAME.get(_plain(name)) if isinstance(name, str) and len(name) < 200 else None
