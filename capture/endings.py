"""How an exchange ended, from what mitmproxy says about it: its error texts are the only source."""

import re
from dataclasses import dataclass

from tbench.capture.exchange import Outcome

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
        """The first rule that fits."""
        if self.timed_out:
            return Outcome.TIMEOUT
        if self._by_client():
            return Outcome.CLIENT_ABORT
        if _PROTOCOL.search(self.text):
            return Outcome.PROTOCOL_ERROR
        if self.head_seen:
            return Outcome.CUT
        if not self.upstream_connected or _CONNECT.search(self.text):
            return Outcome.CONNECT_ERROR
        return Outcome.RESET

    def _by_client(self) -> bool:
        """Resets of either side are worded alike; only an HTTP/2 upstream can reset a stream."""
        if not self.client_connected or _CLIENT.search(self.text):
            return True
        return bool(_RESET_BY_STREAM.search(self.text)) and not self.upstream_http2
