"""Odd: behaviours of real servers that clients were caught out by, one for each model name.

Each was reported of some server or gateway. A row says what truly happens: the outcome, and the token counts
that a client may believe. Ten words come 10 ms apart, the first after 100 ms, unless the row says otherwise.
Answers are bytes on a socket: half of the oddities are below what a web framework lets through.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import brotli  # type: ignore[import-untyped, unused-ignore]
import zstandard

from tbench.capture.exchange import Outcome

WORDS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
FIRST_S: Final = 0.1
GAP_S: Final = 0.01
PROMPT: Final = 7
EVENTS: Final = "Content-Type: text/event-stream"
JSON_TYPE: Final = "Content-Type: application/json"

Piece = bytes | float
"""Bytes of a body, or seconds to wait before what follows."""


@dataclass(frozen=True, kw_only=True)
class Odd:
    """What a model name does. `about` says it; `body` is cut as it is written.

    `frame` is how the body's end is told: "chunked", "length", "close" (also for HTTP/1.0). `then` is what
    follows the answer: "keep" or "close" (unannounced). Every `every`th request gets the answer of `instead`.
    `outcome`, `output` and `events` are the truth: how the exchange ends, the output tokens of the server's
    usage (None: none was told), how many events carry generated text (None: not a stream of words).
    """

    about: str
    body: Sequence[Piece] = ()
    head: str = "HTTP/1.1 200 OK"
    fields: Sequence[str] = (EVENTS,)
    frame: str = "chunked"
    then: str = "keep"
    before: bytes = b""
    trailer: bytes = b""
    every: int = 0
    instead: str = ""
    outcome: Outcome = Outcome.OK
    output: int | None = 10
    events: int | None = 10


def _data(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def _chunk(delta: Mapping[str, Any] | None, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({"id": "x", "object": "chat.completion.chunk", "choices": [choice], **more})


def _usage(output: object = 10, prompt: object = PROMPT, **more: object) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, **more}


def _tail(usage: object = None, **more: object) -> bytes:
    return _data({"id": "x", "choices": [], "usage": _usage() if usage is None else usage, **more})


DONE: Final = b"data: [DONE]\n\n"
STOP: Final = _chunk({}, "stop")
ROLE: Final = _chunk({"role": "assistant", "content": ""})


def _paced(events: Iterable[bytes], first: float = FIRST_S) -> list[Piece]:
    """Each event at its time."""
    pieces: list[Piece] = []
    for at, event in enumerate(events):
        pieces += [GAP_S if at else first, event]
    return pieces


def _words(
    make: Callable[[str], Mapping[str, Any]] = lambda word: {"content": word},
) -> list[bytes]:
    return [_chunk(make(f"{word} ")) for word in WORDS]


def _stream(
    *, words: Sequence[bytes] | None = None, end: Sequence[Piece] = (STOP, _tail(), DONE)
) -> list[Piece]:
    """The ordinary stream, with other words or another end."""
    return [ROLE, *_paced(_words() if words is None else words), *end]


def _each(change: Callable[[bytes], bytes], pieces: Sequence[Piece]) -> list[Piece]:
    return [change(piece) if isinstance(piece, bytes) else piece for piece in pieces]


def _bytes(pieces: Sequence[Piece], size: int) -> list[Piece]:
    """The same, cut into pieces of so many bytes, each written by itself."""
    cut: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, float):
            cut.append(piece)
        else:
            cut += [piece[at : at + size] for at in range(0, len(piece), size)]
    return cut


def joined(pieces: Sequence[Piece]) -> bytes:
    """The bytes of a body without its pauses."""
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


def _flushed(make: Callable[[], Any], flush: tuple[Any, ...]) -> list[Piece]:
    """The ordinary stream through a compressor that is flushed after every event."""
    compressor = make()
    write = getattr(compressor, "compress", None) or compressor.process
    pieces: list[Piece] = [
        piece if isinstance(piece, float) else write(piece) + compressor.flush(*flush)
        for piece in _stream()
    ]
    return [*pieces, compressor.finish() if hasattr(compressor, "finish") else compressor.flush()]


def _tools() -> list[bytes]:
    call = {
        "index": 0,
        "id": "call",
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }
    first = _chunk({"tool_calls": [call]})
    more = [
        _chunk({"tool_calls": [{"index": 0, "function": {"arguments": word}}]})
        for word in WORDS[1:]
    ]
    return [first, *more]


PLAIN: Final = Odd(about="nothing odd", body=_stream())
FAILED: Final = Odd(about="", outcome=Outcome.STREAM_ERROR, output=None, events=None)
WHOLE: Final = Odd(about="", fields=(JSON_TYPE,), frame="length", events=None)
REFUSED: Final = replace(WHOLE, outcome=Outcome.HTTP_ERROR, output=None)
UNREADABLE: Final = replace(WHOLE, outcome=Outcome.PROTOCOL_ERROR, output=None)
_ANSWER = {
    "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": _usage(),
}
_ERROR = {"error": {"message": "the engine gave up", "type": "server_error"}}
_STARTED: list[Piece] = [ROLE, *_paced(_words()[:4])]
_HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\u202eyrruc"

_REWRITTEN: Final[Mapping[str, tuple[str, Callable[[bytes], bytes]]]] = {
    "crlf": ("lines end with CR LF", lambda event: event.replace(b"\n", b"\r\n")),
    "cr-only": ("lines end with CR", lambda event: event.replace(b"\n", b"\r")),
    "no-space": ("`data:` without a space", lambda event: event.replace(b"data: ", b"data:")),
    "data-lines": (
        "one JSON text over several data lines",
        lambda event: event.replace(b', "', b',\ndata: "'),
    ),
    "fields": (
        "`id:`, `retry:` and `event: message` lines",
        lambda event: b"event: message\nid: 1\nretry: 5\n" + event,
    ),
    "comments": ("keep-alive comments between events", lambda event: b": ping\n\n" + event),
    "empty-data": ("empty data between events", lambda event: b"data:\n\n" + event),
    "pings": (
        "events of type ping",
        lambda event: b'event: ping\ndata: {"type":"ping"}\n\n' + event,
    ),
}
_WORDED: Final[Mapping[str, Callable[[str], Mapping[str, Any]]]] = {
    "reasoning": lambda word: {"reasoning": word},
    "reasoning-content": lambda word: {"reasoning_content": word},
    "function-call": lambda word: {"function_call": {"arguments": word}},
    "refusal": lambda word: {"refusal": word},
    "audio": lambda word: {"audio": {"data": word}},
    "word-error": lambda word: {"content": f'"error": {word}'},
}
"""All that is generated stands here."""
_THOUGHT: Final[Mapping[str, Callable[[str], Mapping[str, Any]]]] = {
    "reasoning-details": lambda word: {
        "content": "",
        "reasoning_details": [{"type": "reasoning.text", "text": word}],
    },
    "thinking": lambda word: {"thinking": word},
    "thinking-blocks": lambda word: {"thinking_blocks": [{"type": "thinking", "thinking": word}]},
}
"""The first five words are thinking and stand here, the others are the answer."""
_FIRST: Final[Mapping[str, tuple[str, bytes]]] = {
    "bom": ("a byte order mark in front", b"\xef\xbb\xbf"),
    "azure": (
        "first a chunk without choices",
        _data({"choices": [], "prompt_filter_results": []}),
    ),
    "choices-null": ("a chunk whose choices are null", _data({"choices": None})),
    "choices-missing": ("a chunk without the member", _data({"id": "x"})),
}
_ENDS: Final[Mapping[str, tuple[str, Sequence[Piece], int | None]]] = {
    "delta-null": ("a null delta with the finish", (_chunk(None, "stop"), _tail(), DONE), 10),
    "no-done": ("no [DONE] behind the finish", (STOP, _tail()), 10),
    "no-finish": ("no finish reason, but [DONE]", (_tail(), DONE), 10),
    "slow-tail": ("a second between the last token and the end", (STOP, _tail(), 1.0, DONE), 10),
    "usage-finish": ("usage in the finish chunk", (_chunk({}, "stop", usage=_usage()), DONE), 10),
    "usage-groq": (
        "usage under x_groq",
        (_chunk({}, "stop", x_groq={"usage": _usage()}), DONE),
        10,
    ),
    "usage-then-zero": (
        "an all-zero usage behind the true one",
        (STOP, _tail(), _tail(_usage(0, 0)), DONE),
        10,
    ),
    "usage-late": ("usage 300 ms after the last token", (STOP, 0.3, _tail(), DONE), 10),
    "usage-absent": ("no usage at all", (STOP, DONE), None),
    "usage-strings": ("counts as strings", (STOP, _tail(_usage("10", "7")), DONE), None),
    "usage-negative": ("negative counts", (STOP, _tail(_usage(-1, -1)), DONE), None),
    "usage-huge": ("counts of 1e20", (STOP, _tail(_usage(1e20, 1e20)), DONE), None),
    "usage-floats": ("counts as floats", (STOP, _tail(_usage(10.0, 7.0)), DONE), 10),
    "usage-zero": ("usage of zero for an answer", (STOP, _tail(_usage(0)), DONE), 0),
}
"""What follows the words, and the output tokens that it tells."""
_CODINGS: Final[Mapping[str, Sequence[Piece]]] = {
    "gzip": _flushed(lambda: zlib.compressobj(wbits=31), (zlib.Z_SYNC_FLUSH,)),
    "deflate": _flushed(zlib.compressobj, (zlib.Z_SYNC_FLUSH,)),
    "br": _flushed(brotli.Compressor, ()),
    "zstd": _flushed(zstandard.ZstdCompressor().compressobj, (zstandard.COMPRESSOBJ_FLUSH_BLOCK,)),
}

ODD: Final[Mapping[str, Odd]] = {
    "plain": PLAIN,
    "utf8-split": Odd(
        about="characters of several bytes are cut in two by the writes",
        body=_bytes(_stream(words=[_chunk({"content": "é漢🙂"})] * 10), 40),
    ),
    "surrogate-split": Odd(
        about="an emoji as two escaped halves in two events",
        body=_stream(
            words=[
                b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
                % half
                for half in (b"\\ud83d", b"\\ude42") * 5
            ]
        ),
    ),
    "byte-by-byte": replace(
        PLAIN, about="every byte is a chunk of its own", body=_bytes(_stream(), 1)
    ),
    "crlf-split": replace(
        PLAIN,
        about="CR LF, cut between the two",
        body=[
            part
            for piece in _stream()
            for part in (
                [piece] if isinstance(piece, float) else [piece.replace(b"\n", b"\r\n")[:-1], b"\n"]
            )
        ],
    ),
    "comment-as-data": replace(
        FAILED,
        about="a comment wrapped as data, which is no JSON",
        body=[ROLE, b"data: : keep-alive\n\n", *_paced(_words()), STOP, _tail(), DONE],
        outcome=Outcome.PROTOCOL_ERROR,
        output=10,
        events=10,
    ),
    "burst": replace(
        PLAIN, about="the whole stream in one write", body=[FIRST_S, joined(_stream())]
    ),
    "many-tokens": Odd(about="five tokens an event", body=_stream(words=_words()[:2]), events=2),
    "one-event": Odd(
        about="a hundred tokens in one event",
        body=_stream(
            words=[_chunk({"content": "word " * 100})], end=(STOP, _tail(_usage(100)), DONE)
        ),
        output=100,
        events=1,
    ),
    "big-event": Odd(
        about="an event of 3 MB",
        body=_stream(words=[*_words()[:9], _chunk({"content": "x" * 3000000})]),
    ),
    "tools": Odd(
        about="a tool call and no text",
        body=_stream(words=_tools(), end=(_chunk({}, "tool_calls"), _tail(), DONE)),
    ),
    "error-null": replace(
        PLAIN,
        about="`error: null` in every chunk",
        body=[
            ROLE,
            *_paced(_chunk({"content": word}, error=None) for word in WORDS),
            STOP,
            _tail(),
            DONE,
        ],
    ),
    "usage-null": replace(
        PLAIN,
        about="usage is null until the last",
        body=[
            ROLE,
            *_paced(_chunk({"content": word}, usage=None) for word in WORDS),
            STOP,
            _tail(),
            DONE,
        ],
    ),
    "usage-every": replace(
        PLAIN,
        about="usage in every chunk, growing",
        body=[
            ROLE,
            *_paced(
                (_chunk({"content": word}, usage=_usage(at)) for at, word in enumerate(WORDS, 1))
            ),
            STOP,
            DONE,
        ],
    ),
    "usage-first": replace(
        PLAIN,
        about="usage in the first chunk only",
        body=[_chunk({"role": "assistant"}, usage=_usage()), *_paced(_words()), STOP, DONE],
    ),
    "usage-constant": replace(PLAIN, about="the same prompt tokens whatever the prompt"),
    "one-token": Odd(
        about="an answer of one token",
        body=_stream(words=_words()[:1], end=(STOP, _tail(_usage(1)), DONE)),
        output=1,
        events=1,
    ),
    "no-tokens": Odd(
        about="an answer of none",
        body=[ROLE, FIRST_S, STOP, _tail(_usage(0)), DONE],
        output=0,
        events=0,
    ),
    "empty-strings": Odd(
        about="events of empty text only",
        body=_stream(words=[_chunk({"content": ""})] * 10, end=(STOP, _tail(_usage(0)), DONE)),
        output=0,
        events=0,
    ),
    "done-only": replace(
        FAILED, about="a stream of [DONE] alone", body=[FIRST_S, DONE], outcome=Outcome.CUT
    ),
    "empty-stream": replace(
        FAILED, about="200, an event stream without an event", body=[], outcome=Outcome.CUT
    ),
    "empty-200": replace(
        FAILED,
        about="200 with an empty body",
        body=[],
        outcome=Outcome.PROTOCOL_ERROR,
        fields=(JSON_TYPE,),
        frame="length",
    ),
    "status-204": replace(
        FAILED,
        about="204 and no body",
        body=[],
        outcome=Outcome.PROTOCOL_ERROR,
        head="HTTP/1.1 204 No Content",
        fields=(),
        frame="none",
    ),
    "html-200": replace(
        UNREADABLE,
        about="a page with 200",
        body=(FIRST_S, b"<html>log in</html>"),
        fields=("Content-Type: text/html",),
    ),
    "ndjson-200": replace(
        UNREADABLE,
        about="lines of JSON with 200",
        body=(FIRST_S, b'{"response":"hi"}\n{"done":true}\n'),
        fields=("Content-Type: application/x-ndjson",),
    ),
    "bad-utf8-200": replace(
        UNREADABLE,
        about="JSON with bytes that are no UTF-8",
        body=(FIRST_S, b'{"choices":[{"message":{"content":"\xff\xfe"}}]}'),
    ),
    "not-json-200": replace(
        UNREADABLE,
        about="JSON by its type, text by its bytes",
        body=(FIRST_S, b"upstream timed out"),
    ),
    "stream-ignored": replace(
        WHOLE,
        about="an answer in one piece although a stream was wanted",
        body=(FIRST_S, json.dumps(_ANSWER).encode()),
    ),
    **{
        f"finish-{reason}": replace(
            FAILED,
            about=f"finish reason {reason} after four tokens",
            body=[*_STARTED, _chunk({}, reason), _tail(_usage(4)), DONE],
            output=4,
            events=4,
        )
        for reason in ("abort", "error")
    },
    "error-first": replace(
        FAILED, about="an error as the first event", body=[FIRST_S, _data(_ERROR), DONE]
    ),
    "error-middle": replace(
        FAILED, about="an error after four tokens", body=[*_STARTED, _data(_ERROR), DONE], events=4
    ),
    "error-event": replace(
        FAILED,
        about="an event of type error",
        body=[*_STARTED, b"event: error\n" + _data({"message": "gave up"})],
        events=4,
    ),
    "error-string": replace(
        FAILED,
        about="an error that is a string",
        body=[*_STARTED, _data({"error": "gave up"}), DONE],
        events=4,
    ),
    "error-object": replace(
        FAILED,
        about="vLLM's old form of an error",
        body=[*_STARTED, _data({"object": "error", "message": "gave up", "code": 500}), DONE],
        events=4,
    ),
    "error-hostile": replace(
        REFUSED,
        about="401, its text steers a terminal",
        body=(FIRST_S, json.dumps({"error": {"message": _HOSTILE}}).encode()),
        head="HTTP/1.1 401 Unauthorized",
    ),
    "json-error-200": replace(
        WHOLE,
        about="an error as JSON with 200",
        body=(FIRST_S, json.dumps(_ERROR).encode()),
        outcome=Outcome.STREAM_ERROR,
        output=None,
    ),
    "cut": replace(
        FAILED,
        about="the connection ends after four tokens",
        body=_STARTED,
        outcome=Outcome.CUT,
        frame="close",
        events=4,
    ),
    "status-429": replace(
        REFUSED,
        about="429 with Retry-After",
        body=(FIRST_S, json.dumps(_ERROR).encode()),
        head="HTTP/1.1 429 Too Many Requests",
        fields=(JSON_TYPE, "Retry-After: 1"),
    ),
    "status-503": replace(
        REFUSED,
        about="503 with a page",
        body=(FIRST_S, b"<html>busy</html>"),
        head="HTTP/1.1 503 Service Unavailable",
        fields=("Content-Type: text/html",),
    ),
    "status-307": replace(
        REFUSED,
        about="a redirect",
        body=(FIRST_S, b""),
        head="HTTP/1.1 307 Temporary Redirect",
        fields=("Location: http://127.0.0.1:9/v1/chat/completions",),
    ),
    "hangs": replace(
        FAILED, about="nothing behind the role", body=[ROLE, 3600.0], outcome=Outcome.TIMEOUT
    ),
    "half-refused": replace(
        PLAIN, about="every second request is refused with 429", every=2, instead="status-429"
    ),
    "third-fails": replace(
        PLAIN, about="every third request is a 503", every=3, instead="status-503"
    ),
    "closes": replace(
        PLAIN, about="the connection closes right behind each answer, unannounced", then="close"
    ),
    "close-delimited": replace(
        PLAIN,
        about="the end of the connection is the end of the answer",
        frame="close",
        then="close",
    ),
    "http-1.0": replace(
        PLAIN, about="HTTP/1.0", head="HTTP/1.0 200 OK", frame="close", then="close"
    ),
    "no-reason": replace(PLAIN, about="a status line without a reason", head="HTTP/1.1 200"),
    "many-headers": replace(
        PLAIN,
        about="150 header fields",
        fields=(EVENTS, *(f"X-Field-{at}: value" for at in range(150))),
    ),
    "long-header": replace(
        PLAIN, about="a header of 30 kB", fields=(EVENTS, f"X-Long: {'x' * 30000}")
    ),
    "early-hints": replace(
        PLAIN,
        about="103 before the answer",
        before=b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
    ),
    "continue": replace(
        PLAIN, about="an unasked 100 before the answer", before=b"HTTP/1.1 100 Continue\r\n\r\n"
    ),
    "trailers": replace(
        PLAIN, about="trailers behind the last chunk", trailer=b"X-Trailer: value\r\n"
    ),
    "gzip-whole": replace(
        PLAIN,
        about="a stream as one piece of gzip",
        fields=(EVENTS, "Content-Encoding: gzip"),
        body=[FIRST_S, gzip.compress(joined(_stream()))],
    ),
    "wrong-encoding": replace(
        FAILED,
        about="says gzip and is not",
        body=_stream(),
        outcome=Outcome.PROTOCOL_ERROR,
        fields=(EVENTS, "Content-Encoding: gzip"),
    ),
    **{
        name: replace(PLAIN, about=about, body=_each(change, _stream()))
        for name, (about, change) in _REWRITTEN.items()
    },
    **{
        name: replace(PLAIN, about=about, body=[first, *_stream()])
        for name, (about, first) in _FIRST.items()
    },
    **{
        name: replace(PLAIN, about=about, body=_stream(end=end), output=output)
        for name, (about, end, output) in _ENDS.items()
    },
    **{
        name: replace(PLAIN, about=f"words as {make('word')}", body=_stream(words=_words(make)))
        for name, make in _WORDED.items()
    },
    **{
        name: replace(
            PLAIN,
            about=f"thinking as {make('word')}, then an answer",
            body=_stream(words=[*_words(make)[:5], *_words()[5:]]),
        )
        for name, make in _THOUGHT.items()
    },
    **{
        name: replace(
            PLAIN,
            about=f"{name}, flushed after every event",
            fields=(EVENTS, f"Content-Encoding: {name}"),
            body=body,
        )
        for name, body in _CODINGS.items()
    },
}
"""By model name."""
