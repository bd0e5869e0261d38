"""Odd answers: behaviours of real servers that clients were caught out by, and what is true of each.

Each was reported of a server or gateway. A row says what truly happens: the outcome, and the token counts
that a client may believe. Ten words come 10 ms apart, the first after 100 ms, unless the row says otherwise.
The rows here are streams of a chat; other dialects, answers in one piece, and the server, are in odd.py.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Final

from tbench.capture.exchange import Outcome
from tbench.simulator.answer import encoder

WORDS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
FIRST_S: Final = 0.1
GAP_S: Final = 0.01
EVENTS: Final = "Content-Type: text/event-stream"
JSON_TYPE: Final = "Content-Type: application/json"
HTML_TYPE: Final = "Content-Type: text/html"

Piece = bytes | float
"""Bytes of a body, or seconds to wait before what follows."""


def _data(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def _chunk(delta: Mapping[str, Any] | None, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({"id": "x", "object": "chat.completion.chunk", "choices": [choice], **more})


def _usage(output: object = 10, prompt: object = 7) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output}


def _tail(output: object = 10, prompt: object = 7) -> bytes:
    return _data({"id": "x", "choices": [], "usage": _usage(output, prompt)})


def _text(word: str) -> Mapping[str, Any]:
    return {"content": word}


def _words(make: Callable[[str], Mapping[str, Any]] = _text) -> list[bytes]:
    return [_chunk(make(f"{word} ")) for word in WORDS]


DONE: Final = b"data: [DONE]\n\n"
STOP: Final = _chunk({}, "stop")
ROLE: Final = _chunk({"role": "assistant", "content": ""})
END: Final = (STOP, _tail(), DONE)


def stream(
    words: Iterable[bytes] = tuple(_words()),
    end: Sequence[Piece] = END,
    *,
    first: Sequence[Piece] = (ROLE,),
) -> list[Piece]:
    """The ordinary stream: each word at its time. With other words, another end or beginning."""
    pieces = [*first]
    for at, event in enumerate(words):
        pieces += [GAP_S if at else FIRST_S, event]
    return [*pieces, *end]


def _each(change: Callable[[bytes], Sequence[bytes]], pieces: Sequence[Piece]) -> list[Piece]:
    """Pauses as they are, the pieces of bytes changed, and cut into those that are written by themselves."""
    return [
        part
        for piece in pieces
        for part in ([piece] if isinstance(piece, float) else change(piece))
    ]


def _cut(size: int) -> Callable[[bytes], list[bytes]]:
    return lambda piece: [piece[at : at + size] for at in range(0, len(piece), size)]


def joined(pieces: Sequence[Piece]) -> bytes:
    """The bytes of a body without its pauses."""
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


def _encoded(name: str) -> list[Piece]:
    """The ordinary stream through a compressor that is flushed after every event."""
    encode = encoder(name)
    return [*_each(lambda piece: [encode(piece, False)], stream()), encode(b"", True)]


@dataclass(frozen=True)
class Odd:
    """What a model name does. `about` says it; `body` is cut as it is written.

    `frame` is how the body's end is told: "chunked", "length", "close" (also for HTTP/1.0). `then` is what
    follows the answer: "keep" or "close" (unannounced). Every `every`th request gets the answer of `instead`.
    `outcome`, `output` and `events` are the truth: how the exchange ends, the output tokens of the server's
    usage (None: none was told), how many events carry generated text (None: not a stream of words). `api` is
    the path below /v1 that it answers at.
    """

    about: str
    body: Sequence[Piece] = tuple(stream())
    _: KW_ONLY
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
    api: str = "chat/completions"


def failed(about: str, body: Sequence[Piece], **truth: Any) -> Odd:  # noqa: ANN401 (of Odd)
    """A stream that does not end well."""
    odd = Odd(about, body, outcome=Outcome.STREAM_ERROR, output=None, events=None)
    return replace(odd, **truth)


def broken(about: str, *end: bytes, **truth: Any) -> Odd:  # noqa: ANN401 (of Odd)
    """A stream that goes wrong after four of the words."""
    return failed(about, stream(_words()[:4], end), **{"events": 4, **truth})


def whole(
    about: str,
    body: bytes,
    outcome: Outcome,
    status: str = "200 OK",
    *fields: str,
    output: int | None = None,
) -> Odd:
    """An answer in one piece, JSON unless `fields` say otherwise."""
    return Odd(
        about,
        (FIRST_S, body),
        head=f"HTTP/1.1 {status}",
        fields=fields or (JSON_TYPE,),
        frame="length",
        outcome=outcome,
        output=output,
        events=None,
    )


_ERROR: Final = {"error": {"message": "the engine gave up", "type": "server_error"}}
_HALVES: Final = (
    b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
)


def _arguments(text: str, **more: object) -> bytes:
    call = {"index": 0, **more, "function": {**({"name": "f"} if more else {}), "arguments": text}}
    return _chunk({"tool_calls": [call]})


# Variations of one thing, by model name.

_HTTP: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "plain": ("nothing odd", {}),
    "usage-constant": ("the same prompt tokens whatever the prompt", {}),
    "half-refused": (
        "every second request is refused with 429",
        {"every": 2, "instead": "status-429"},
    ),
    "third-fails": ("every third request is a 503", {"every": 3, "instead": "status-503"}),
    "closes": (
        "the connection closes right behind each answer, unannounced",
        {"then": "close"},
    ),
    "close-delimited": (
        "the end of the connection is the end of the answer",
        {"frame": "close", "then": "close"},
    ),
    "http-1.0": ("HTTP/1.0", {"head": "HTTP/1.0 200 OK", "frame": "close", "then": "close"}),
    "no-reason": ("a status line without a reason", {"head": "HTTP/1.1 200"}),
    "many-headers": (
        "150 header fields",
        {"fields": (EVENTS, *(f"X-Field-{at}: value" for at in range(150)))},
    ),
    "long-header": ("a header of 30 kB", {"fields": (EVENTS, f"X-Long: {'x' * 30000}")}),
    "early-hints": (
        "103 before the answer",
        {"before": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"},
    ),
    "continue": (
        "an unasked 100 before the answer",
        {"before": b"HTTP/1.1 100 Continue\r\n\r\n"},
    ),
    "trailers": ("trailers behind the last chunk", {"trailer": b"X-Trailer: value\r\n"}),
}
"""The ordinary stream, and what of HTTP is odd about it."""
_REWRITTEN: Final[Mapping[str, tuple[str, Callable[[bytes], Sequence[bytes]]]]] = {
    "crlf": ("lines end with CR LF", lambda event: [event.replace(b"\n", b"\r\n")]),
    "crlf-split": (
        "CR LF, cut between the two",
        lambda event: [event.replace(b"\n", b"\r\n")[:-1], b"\n"],
    ),
    "cr-only": ("lines end with CR", lambda event: [event.replace(b"\n", b"\r")]),
    "byte-by-byte": ("every byte is a chunk of its own", _cut(1)),
    "no-space": ("`data:` without a space", lambda event: [event.replace(b"data: ", b"data:")]),
    "data-lines": (
        "one JSON text over several data lines",
        lambda event: [event.replace(b', "', b',\ndata: "')],
    ),
    "fields": (
        "`id:`, `retry:` and `event: message` lines",
        lambda event: [b"event: message\nid: 1\nretry: 5\n" + event],
    ),
    "comments": ("keep-alive comments between events", lambda event: [b": ping\n\n" + event]),
    "empty-data": ("empty data between events", lambda event: [b"data:\n\n" + event]),
    "pings": (
        "events of type ping",
        lambda event: [b'event: ping\ndata: {"type":"ping"}\n\n' + event],
    ),
}
"""Each event of the ordinary stream, written otherwise."""
_WORDED: Final[Mapping[str, Callable[[str], Mapping[str, Any]]]] = {
    "reasoning": lambda word: {"reasoning": word},
    "reasoning-content": lambda word: {"reasoning_content": word},
    "function-call": lambda word: {"function_call": {"arguments": word}},
    "refusal": lambda word: {"refusal": word},
    "audio": lambda word: {"audio": {"data": word}},
    "word-error": lambda word: {"content": f'"error": {word}'},
    "parts": lambda word: {"content": [{"type": "text", "text": word}]},
}
"""All that is generated stands here."""
_THOUGHT: Final[Mapping[str, Callable[[str], Mapping[str, Any]]]] = {
    "reasoning-details": lambda word: {
        "content": "",
        "reasoning_details": [{"type": "reasoning.text", "text": word}],
    },
    "thinking": lambda word: {"thinking": word},
    "thinking-blocks": lambda word: {"thinking_blocks": [{"type": "thinking", "thinking": word}]},
    "thinking-parts": lambda word: {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": word}]}]
    },
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
"""What stands before the ordinary stream."""
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
        (STOP, _tail(), _tail(0, 0), DONE),
        10,
    ),
    "usage-late": ("usage 300 ms after the last token", (STOP, 0.3, _tail(), DONE), 10),
    "usage-absent": ("no usage at all", (STOP, DONE), None),
    "usage-strings": ("counts as strings", (STOP, _tail("10", "7"), DONE), None),
    "usage-negative": ("negative counts", (STOP, _tail(-1, -1), DONE), None),
    "usage-huge": ("counts of 1e20", (STOP, _tail(1e20, 1e20), DONE), None),
    "usage-floats": ("counts as floats", (STOP, _tail(10.0, 7.0), DONE), 10),
    "usage-zero": ("usage of zero for an answer", (STOP, _tail(0), DONE), 0),
}
"""What follows the words, and the output tokens that it tells."""

ODD_CHATS: Final[Mapping[str, Odd]] = {
    **{name: Odd(about, **http) for name, (about, http) in _HTTP.items()},
    **{name: Odd(about, _each(change, stream())) for name, (about, change) in _REWRITTEN.items()},
    **{name: Odd(about, [first, *stream()]) for name, (about, first) in _FIRST.items()},
    **{
        name: Odd(about, stream(end=end), output=output)
        for name, (about, end, output) in _ENDS.items()
    },
    **{
        name: Odd(f"words as {make('word')}", stream(_words(make)))
        for name, make in _WORDED.items()
    },
    **{
        name: Odd(
            f"thinking as {make('word')}, then an answer",
            stream([*_words(make)[:5], *_words()[5:]]),
        )
        for name, make in _THOUGHT.items()
    },
    **{
        name: Odd(
            f"{name}, flushed after every event",
            _encoded(name.removeprefix("x-")),
            fields=(EVENTS, f"Content-Encoding: {name}"),
        )
        for name in ("gzip", "x-gzip", "deflate", "br", "zstd")
    },
    "gzip-whole": Odd(
        "a stream as one piece of gzip",
        [FIRST_S, gzip.compress(joined(stream()))],
        fields=(EVENTS, "Content-Encoding: gzip"),
    ),
    "wrong-encoding": failed(
        "says gzip and is not",
        stream(),
        outcome=Outcome.PROTOCOL_ERROR,
        fields=(EVENTS, "Content-Encoding: gzip"),
    ),
    # How words are spread over events.
    "utf8-split": Odd(
        "characters of several bytes are cut in two by the writes",
        _each(_cut(40), stream([_chunk({"content": "é漢🙂"})] * 10)),
    ),
    "surrogate-split": Odd(
        "an emoji as two escaped halves in two events",
        stream(_HALVES % half for half in (b"\\ud83d", b"\\ude42") * 5),
    ),
    "burst": Odd("the whole stream in one write", [FIRST_S, joined(stream())]),
    "many-tokens": Odd("five tokens an event", stream(_words()[:2]), events=2),
    "one-event": Odd(
        "a hundred tokens in one event",
        stream([_chunk({"content": "word " * 100})], (STOP, _tail(100), DONE)),
        output=100,
        events=1,
    ),
    "big-event": Odd(
        "an event of 3 MB", stream([*_words()[:9], _chunk({"content": "x" * 3000000})])
    ),
    "tools": Odd(
        "a tool call and no text",
        stream(
            [_arguments("", id="call", type="function"), *map(_arguments, WORDS[1:])],
            (_chunk({}, "tool_calls"), _tail(), DONE),
        ),
    ),
    "one-token": Odd(
        "an answer of one token",
        stream(_words()[:1], (STOP, _tail(1), DONE)),
        output=1,
        events=1,
    ),
    "no-tokens": Odd(
        "an answer of none", [ROLE, FIRST_S, STOP, _tail(0), DONE], output=0, events=0
    ),
    "empty-strings": Odd(
        "events of empty text only",
        stream([_chunk({"content": ""})] * 10, (STOP, _tail(0), DONE)),
        output=0,
        events=0,
    ),
    # What else chunks hold.
    "error-null": Odd(
        "`error: null` in every chunk",
        stream(_chunk({"content": word}, error=None) for word in WORDS),
    ),
    "usage-null": Odd(
        "usage is null until the last",
        stream(_chunk({"content": word}, usage=None) for word in WORDS),
    ),
    "usage-every": Odd(
        "usage in every chunk, growing",
        stream(
            (_chunk({"content": word}, usage=_usage(at)) for at, word in enumerate(WORDS, 1)),
            (STOP, DONE),
        ),
    ),
    "usage-first": Odd(
        "usage in the first chunk only",
        stream(end=(STOP, DONE), first=[_chunk({"role": "assistant"}, usage=_usage())]),
    ),
    # Streams that end badly.
    "comment-as-data": failed(
        "a comment wrapped as data, which is no JSON",
        stream(first=(ROLE, b"data: : keep-alive\n\n")),
        outcome=Outcome.PROTOCOL_ERROR,
        output=10,
        events=10,
    ),
    "done-only": failed("a stream of [DONE] alone", [FIRST_S, DONE], outcome=Outcome.CUT),
    "empty-stream": failed("200, an event stream without an event", [], outcome=Outcome.CUT),
    "hangs": failed("nothing behind the role", [ROLE, 3600.0], outcome=Outcome.TIMEOUT),
    "cut": broken("the connection ends after four tokens", outcome=Outcome.CUT, frame="close"),
    **{
        f"finish-{reason}": broken(
            f"finish reason {reason} after four tokens",
            _chunk({}, reason),
            _tail(4),
            DONE,
            output=4,
        )
        for reason in ("abort", "error")
    },
    "error-first": failed("an error as the first event", [FIRST_S, _data(_ERROR), DONE]),
    "error-middle": broken("an error after four tokens", _data(_ERROR), DONE),
    "error-event": broken(
        "an event of type error", b"event: error\n" + _data({"message": "gave up"})
    ),
    "error-string": broken("an error that is a string", _data({"error": "gave up"}), DONE),
    "error-object": broken(
        "vLLM's old form of an error",
        _data({"object": "error", "message": "gave up", "code": 500}),
        DONE,
    ),
}
"""By model name."""
