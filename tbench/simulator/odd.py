"""Odd server: one odd answer for each model name; the rows that are no stream of a chat, and the sockets.

Answers are bytes on a socket: half of the oddities are below what a web framework lets through. Of other
dialects than chat the rows are what is theirs alone: how they refuse, fail, stop short and keep alive.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from tbench.capture.exchange import Outcome
from tbench.capture.runtime import stop_signals
from tbench.capture.terminal import plural
from tbench.simulator.answer import named_event
from tbench.simulator.command import ServeOptions
from tbench.simulator.odd_chat import (
    HTML_TYPE,
    JSON_TYPE,
    ODD_CHATS,
    WORDS,
    Odd,
    Piece,
    failed,
    joined,
    stream,
    whole,
)
from tbench.simulator.server import listen, say

_BROKEN: Final = {"outcome": Outcome.STREAM_ERROR, "output": None, "events": 4}
_CUT: Final = {"outcome": Outcome.CUT, "output": None}

# Messages: a block of text between the message's start, which counts no output yet, and its end.

_OVERLOADED: Final = {"type": "overloaded_error", "message": "Overloaded"}
_PING: Final = named_event("ping")
_BLOCK: Final = [
    named_event("content_block_delta", index=0, delta={"type": "text_delta", "text": f"{word} "})
    for word in WORDS
]


def _stopped(reason: str, output: int = 10) -> list[bytes]:
    """How a message ends."""
    return [
        named_event("content_block_stop", index=0),
        named_event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": None},
            usage={"output_tokens": output},
        ),
        named_event("message_stop"),
    ]


# Responses: a message between the response's creation and its end, which repeats all of it.


_ITEM: Final = {"id": "msg_x", "type": "message", "role": "assistant", "content": []}


def _response(kind: str, part: Mapping[str, str] | None = None, **members: object) -> bytes:
    """An event that holds the whole response; the error of one that has none is null."""
    output = [{**_ITEM, "content": [part]}] if part else []
    members = {"error": None, "incomplete_details": None, "output": output, **members}
    state = {"id": "resp_x", "object": "response", "status": kind, **members}
    return named_event(f"response.{kind}", sequence_number=0, response=state)


def _part(kind: str) -> list[bytes]:
    """A part of the message, word by word; it is added with the first."""
    place = {"item_id": "msg_x", "output_index": 0, "content_index": 0}
    text = {"type": kind, "refusal" if kind == "refusal" else "text": ""}
    added = named_event("response.content_part.added", **place, part=text)
    deltas = [
        named_event(f"response.{kind}.delta", **place, delta=f"{word} ", logprobs=[])
        for word in WORDS
    ]
    return [added + deltas[0], *deltas[1:]]


_TEXT: Final = {"type": "output_text", "text": " ".join(WORDS)}
_REFUSAL: Final = {"type": "refusal", "refusal": " ".join(WORDS)}
_COUNTS: Final = {"input_tokens": 7, "output_tokens": 10, "total_tokens": 17}
_ERROR: Final = {"code": "server_error", "message": "the engine gave up"}

_OPENINGS: Final[Mapping[str, Sequence[Piece]]] = {
    "messages": (
        named_event(
            "message_start",
            message={
                "id": "msg_x",
                "type": "message",
                "role": "assistant",
                "content": [],
                "usage": {"input_tokens": 7, "output_tokens": 1},
            },
        ),
        named_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        _PING,
    ),
    "responses": (
        _response("created"),
        _response("in_progress"),
        named_event("response.output_item.added", output_index=0, item=_ITEM),
    ),
}
"""How a stream of an API begins."""
_Row = tuple[str, Sequence[bytes], Sequence[Piece], Mapping[str, Any]]
_ROWS: Final[Mapping[str, Mapping[str, _Row]]] = {
    "messages": {
        "messages": ("a message", _BLOCK, _stopped("end_turn"), {}),
        "messages-pings": (
            "a ping before every word and the end",
            [_PING + word for word in _BLOCK],
            [_PING, *_stopped("end_turn")],
            {},
        ),
        "messages-refusal": (
            "the model refuses after four words",
            _BLOCK[:4],
            _stopped("refusal", 4),
            {"output": 4, "events": 4},
        ),
        "messages-overloaded": (
            "overloaded after four words",
            _BLOCK[:4],
            [named_event("error", error=_OVERLOADED)],
            _BROKEN,
        ),
        "messages-cut": ("no message_stop behind the words", _BLOCK, [], _CUT),
    },
    "responses": {
        "responses": (
            "a response",
            _part("output_text"),
            [_response("completed", _TEXT, usage=_COUNTS)],
            {},
        ),
        "responses-incomplete": (
            "it stops at its limit",
            _part("output_text"),
            [
                _response(
                    "incomplete",
                    _TEXT,
                    usage=_COUNTS,
                    incomplete_details={"reason": "max_output_tokens"},
                )
            ],
            {},
        ),
        "responses-refusal": (
            "the model refuses",
            _part("refusal"),
            [_response("completed", _REFUSAL, usage=_COUNTS)],
            {},
        ),
        "responses-failed": (
            "the response fails after four words",
            _part("output_text")[:4],
            [_response("failed", error=_ERROR)],
            _BROKEN,
        ),
        "responses-error": (
            "an error event after four words",
            _part("output_text")[:4],
            [named_event("error", **_ERROR)],
            _BROKEN,
        ),
        "responses-cut": ("no last event behind the words", _part("output_text"), [], _CUT),
    },
}
"""An API's streams by model name: what is odd, words, end, and what is true of it."""

# Answers in one piece, whatever was asked.

_ANSWER: Final = json.dumps(
    {
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 10},
    }
).encode()
_GAVE_UP: Final = json.dumps(
    {"error": {"message": "the engine gave up", "type": "server_error"}}
).encode()
_HOSTILE: Final = {"error": {"message": "\x1b]0;owned\x07\x1b[2J\x1b[31mred\u202eyrruc"}}

_ANSWERS: Final[Mapping[str, Odd]] = {
    "empty-200": failed(
        "200 with an empty body",
        [],
        outcome=Outcome.PROTOCOL_ERROR,
        fields=(JSON_TYPE,),
        frame="length",
    ),
    "status-204": failed(
        "204 and no body",
        [],
        outcome=Outcome.PROTOCOL_ERROR,
        head="HTTP/1.1 204 No Content",
        fields=(),
        frame="none",
    ),
    "html-200": whole(
        "a page with 200", b"<html>log in</html>", Outcome.PROTOCOL_ERROR, "200 OK", HTML_TYPE
    ),
    "ndjson-200": whole(
        "lines of JSON with 200",
        b'{"response":"hi"}\n{"done":true}\n',
        Outcome.PROTOCOL_ERROR,
        "200 OK",
        "Content-Type: application/x-ndjson",
    ),
    "bad-utf8-200": whole(
        "JSON with bytes that are no UTF-8",
        b'{"choices":[{"message":{"content":"\xff\xfe"}}]}',
        Outcome.PROTOCOL_ERROR,
    ),
    "not-json-200": whole(
        "JSON by its type, text by its bytes", b"upstream timed out", Outcome.PROTOCOL_ERROR
    ),
    "stream-ignored": whole(
        "an answer in one piece although a stream was wanted", _ANSWER, Outcome.OK, output=10
    ),
    "json-error-200": whole("an error as JSON with 200", _GAVE_UP, Outcome.STREAM_ERROR),
    "error-hostile": whole(
        "401, its text steers a terminal",
        json.dumps(_HOSTILE).encode(),
        Outcome.HTTP_ERROR,
        "401 Unauthorized",
    ),
    "status-429": whole(
        "429 with Retry-After",
        _GAVE_UP,
        Outcome.HTTP_ERROR,
        "429 Too Many Requests",
        JSON_TYPE,
        "Retry-After: 1",
    ),
    "status-503": whole(
        "503 with a page",
        b"<html>busy</html>",
        Outcome.HTTP_ERROR,
        "503 Service Unavailable",
        HTML_TYPE,
    ),
    "status-307": whole(
        "a redirect",
        b"",
        Outcome.HTTP_ERROR,
        "307 Temporary Redirect",
        "Location: http://127.0.0.1:9/v1/chat/completions",
    ),
}
"""By model name."""

ODD: Final[Mapping[str, Odd]] = {
    **ODD_CHATS,
    **_ANSWERS,
    **{
        name: Odd(about, stream(words, end, first=_OPENINGS[api]), api=api, **truth)
        for api, rows in _ROWS.items()
        for name, (about, words, end, truth) in rows.items()
    },
    "messages-529": replace(
        whole(
            "529, overloaded",
            json.dumps({"type": "error", "error": _OVERLOADED}).encode(),
            Outcome.HTTP_ERROR,
            "529 Overloaded",
        ),
        api="messages",
    ),
}
"""By model name."""


class OddServer:
    """HTTP/1.1 on bare sockets: a request's model names its row of ODD. `served` counts requests."""

    def __init__(self) -> None:
        self.served = 0
        self._counts: dict[str, int] = {}

    async def serve(self, options: ServeOptions) -> None:
        """Listen until a signal to stop, or as long as the options say. Raises InputError where it cannot."""
        sock = listen(options.host, options.port)
        host, port = sock.getsockname()[:2]
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in stop_signals():
            loop.add_signal_handler(number, ended.set)
        server = await asyncio.start_server(self.connection, sock=sock)
        url = f"http://{host}:{port}"
        say(f"listening on {url} ({len(ODD)} odd models); base_url {url}/v1")
        with suppress(TimeoutError):
            async with asyncio.timeout(options.duration):
                while not ended.is_set() and self.served < (options.requests or self.served + 1):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), 0.05)
        server.close()
        say(f"served {plural(self.served, 'request')}")

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other until either side has enough."""
        goes_on = True
        # A client that has read enough of an odd answer just leaves: that is the experiment, and no error.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while goes_on:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(fields.get(b"content-length", 0)))
                odd = _LISTING
                if not head.startswith(b"GET"):
                    self.served += 1
                    odd = self._chosen(body)
                await _write(writer, odd)
                # Without a length and chunks the end of the
                # connection is the end of the body (RFC 9112, 6.3).
                goes_on = odd.then == "keep" and odd.frame != "close"
        writer.close()

    def _chosen(self, body: bytes) -> Odd:
        try:
            name = str(json.loads(body)["model"])
            odd = ODD[name]
        except (KeyError, TypeError, ValueError):
            return _UNKNOWN
        self._counts[name] = self._counts.get(name, 0) + 1
        return ODD[odd.instead] if odd.every and self._counts[name] % odd.every == 0 else odd


def _at_once(payload: object, status: str = "200 OK") -> Odd:
    body = (json.dumps(payload).encode(),)
    return Odd("", body, head=f"HTTP/1.1 {status}", fields=(JSON_TYPE,), frame="length")


_LISTING: Final = _at_once(
    [
        {"id": name, "object": "model", "type": "chat", "about": odd.about}
        for name, odd in ODD.items()
    ]
)
"""GET /v1/models: the behaviours, and what each does."""
_UNKNOWN: Final = _at_once(
    {"error": {"message": "no such odd model; GET /v1/models lists them"}}, "404 Not Found"
)


async def _write(writer: asyncio.StreamWriter, odd: Odd) -> None:
    framing = {
        "chunked": ("Transfer-Encoding: chunked",),
        "length": (f"Content-Length: {len(joined(odd.body))}",),
    }.get(odd.frame, ())
    head = "\r\n".join((odd.head, *odd.fields, *framing, "", ""))
    writer.write(odd.before + head.encode())
    for piece in odd.body:
        if isinstance(piece, float):
            await writer.drain()
            await asyncio.sleep(piece)
        elif piece:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if odd.frame == "chunked" else piece)
            await asyncio.sleep(0)  # a write of its own
    if odd.frame == "chunked":
        writer.write(b"0\r\n" + odd.trailer + b"\r\n")
    await writer.drain()
