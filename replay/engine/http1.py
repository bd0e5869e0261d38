"""HTTP/1.1 on the wire, without I/O: a response read to its end."""

import re
from typing import Final

import httptools

from tbench.capture.exchange import Outcome
from tbench.replay.sender import MOST_BYTES, Reply, too_long

MOST_HEAD: Final = 100 * 1024
"""The longest head of a response that is read, with any interim ones, bytes."""
BODYLESS: Final = frozenset({204, 304})
EVENT_END: Final = re.compile(rb"\n\n|\r\n\r\n|\r\r")
VERSIONS: Final = frozenset({"1.0", "1.1"})

SILENT: Final = "Server disconnected without sending a response."
MISPLACED: Final = "a body where none belongs"
SHORT: Final = "peer closed connection without sending complete message body"


class Response:
    """The response that a connection waits for, fed as it comes, and then the next one.

    Fills in the reply: status, headers, chunks, received, end, failure. `over` says that nothing more is to
    be read: it is whole, or broken. `keep` says that the connection can serve another request: whole, kept
    alive by both sides, and not a byte too many. Then, and at first, the next one may `begin`.
    """

    __slots__ = (
        "_at",
        "_bodyless",
        "_encoded",
        "_fed",
        "_fields",
        "_parser",
        "_pieces",
        "_reply",
        "answered",
        "keep",
        "on_body",
        "on_data",
        "over",
    )

    def __init__(self) -> None:
        self._at = 0.0
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser: httptools.HttpResponseParser | None = None

    def begin(self, reply: Reply, *, bodyless: bool = False) -> None:
        """Expect a response, which is told to `reply`."""
        self._reply = reply
        self.on_data = reply.on_data
        self._bodyless = bodyless
        self._encoded: bool | None = None
        self._fed = 0
        self._fields: list[tuple[bytes, bytes]] = []
        self.answered = self.over = self.keep = False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
            # Lines that end with a bare LF, which a client may
            # take (RFC 9112, 2.2) and httptools refuses by itself.
            self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)

    @property
    def silent(self) -> bool:
        """Whether not a byte of it has come."""
        return not self._fed

    def feed(
        self, at: float, data: bytes, since: float | None = None, by_kernel: bool = True
    ) -> None:
        """Read on. `at` is when the last of these bytes arrived; the first may have since `since`.

        This is the hot path: what it calls for each read, and how, was measured.
        """
        parser = self._parser
        if self.over or parser is None:
            self.keep = False
            return
        self._at = at
        self._fed += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broken(str(error))
        if pieces := self._pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            if self.answered and not self._bodyless:
                reply = self._reply
                if since is not None and not (by_kernel and self._alone(piece)):
                    reply.unsure[len(reply.chunks)] = since
                reply.chunks.append((at, piece))
                reply.received += len(piece)
                if reply.received > MOST_BYTES:
                    reply.failure = too_long(MOST_BYTES)
                    self.over, self.keep = True, False
            else:
                self._broken(MISPLACED)
        if not self.answered and self._fed > MOST_HEAD:
            self._broken(f"a response head over {MOST_HEAD >> 10} KiB")
        if self.over:
            self._date_end(None if by_kernel else since)
            # After a HEAD as well: the parser knows nothing of the
            # request and waits for the body that was announced.
            if not self.keep or self._bodyless:  # else it stands before the next response
                self.close()
        if self.on_data is not None:
            self.on_data()

    def _date_end(self, since: float | None) -> None:
        """Note since when the answer may have ended, where that is uncertain."""
        if since is not None:
            self._reply.unsure[len(self._reply.chunks)] = since

    def _alone(self, piece: bytes) -> bool:
        """Whether nothing follows the first event that ends in it: the last byte's time is its own."""
        if self._encoded is None:
            self._encoded = bool(self._reply.header("content-encoding"))
        if self._encoded:
            return False
        if piece.find(b"\n\n") == len(piece) - 2:  # as nearly always
            return True
        end = EVENT_END.search(piece)
        return end is None or end.end() == len(piece)

    def eof(self, at: float, since: float | None = None) -> None:
        """The server will send nothing more. That is known `at`, and true since `since` at the earliest."""
        if self.over:
            self.keep = False
        elif not self.answered:
            self.fail(Outcome.RESET, SILENT)
        elif self._framed():
            self.fail(Outcome.CUT, f"{SHORT} ({self._missing()})")
        else:
            self._reply.end = at
            self._date_end(since)
            self._finish()

    def lost(self, words: str) -> None:
        """The connection broke."""
        self.fail(Outcome.CUT if self.answered else Outcome.RESET, words)

    def fail(self, outcome: Outcome, words: str) -> None:
        """End it with a failure, unless it has ended."""
        if not self.over:
            self._reply.failure = (outcome, words)
            self._finish()
        self.keep = False

    def close(self) -> None:
        """Let go of the parser: it holds our methods, a cycle for the collector."""
        self._parser = None

    def _finish(self) -> None:
        self.over = True
        self.close()

    def _broken(self, words: str) -> None:
        """Bytes that make no sense; after the end they only spoil the connection."""
        self.fail(Outcome.PROTOCOL_ERROR, words)

    def _framed(self) -> bool:
        """Whether the head said where the body ends."""
        reply = self._reply
        # It outranks a length (RFC 9112, 6.3). With neither the end of the connection is that of the body.
        chunked = "chunked" in reply.header("transfer-encoding").lower()
        return chunked or bool(reply.header("content-length"))

    def _missing(self) -> str:
        length = self._reply.header("content-length")
        if not length:
            return "incomplete chunked read"
        return f"received {self._reply.received} bytes, expected {length}"

    # What the parser calls, and `on_body` with each piece of the body:

    def on_message_begin(self) -> None:
        if self.over:
            self.keep = False
            self._pieces = (
                self._pieces.copy()
            )  # what follows goes to the old list, which nobody reads

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.answered:  # later ones are trailers
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None or self.over:
            return
        status = parser.get_status_code()
        # No request of ours asks for an upgrade, so that a 101 is no answer to it.
        if parser.get_http_version() not in VERSIONS or status == 101:
            self._broken(f"not a response of HTTP/1.1: {parser.get_http_version()} {status}")
        elif status < 200:
            # An interim answer (RFC 9110, 15.2): its fields are not those of the answer that follows.
            self._fields.clear()
        else:
            self._head(status)

    def on_message_complete(self) -> None:
        if self.over:
            return
        if not self.answered:  # an interim one
            if self._pieces:
                self._broken(MISPLACED)
            return
        self._reply.end = self._at
        self.over = True
        self.keep = self._parser is not None and self._parser.should_keep_alive()

    def _head(self, status: int) -> None:
        reply = self._reply
        reply.status = status
        reply.headers = self._fields
        self.answered = True
        self._bodyless |= status in BODYLESS
        if self._bodyless:
            reply.end = self._at
            self.over = True
            self.keep = self._parser is not None and self._parser.should_keep_alive()
