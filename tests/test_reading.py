"""Answers are read by a short way and a long one: both say what the first, plain reader said.

The plain reader below is that of the first version, kept as it was: every event by itself, every field looked
for. It is the truth for whatever is made faster.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tbench.capture.providers import ParsedResponse, Usage, one_line, parse_response
from tbench.capture.providers.provider import error_text
from tbench.capture.sse import PLAIN_BYTES, EventStream, plain_events

Timed = tuple[float, bytes]
SSE = "text/event-stream"


# The plain reader


def plainly(chunks: Iterable[Timed]) -> ParsedResponse:
    """The answer of an event stream."""
    chunks, stream, reading = list(chunks), EventStream(), Plain()
    for at, piece in chunks:
        for event in stream.feed(piece):
            reading.take(at, event.data, event.event)
    whole = reading.strange
    for event in stream.end():
        reading.take(chunks[-1][0], event.data, event.event)
    reading.strange = whole
    answer = reading.answer()
    if whole is None:
        return answer
    text = one_line(whole.decode(errors="replace"))
    error = f"an event that is not JSON: {text}"
    return replace(answer, readable=False, foreign=False, ended=True, error=error)


class Plain:
    """What was read so far."""

    def __init__(self) -> None:
        self.strange: bytes | None = None
        self.ended = False
        self.events = 0
        self.usage: dict[str, int | None] = dict.fromkeys(PLACES)
        self.finish: dict[int, str | None] = {}
        self.times: list[float] = []
        self.first_answer: float | None = None
        self.tools: set[tuple[int, int]] = set()
        self.text = ""
        self.error: str | None = None

    def take(self, at: float, data: bytes, kind: str) -> None:
        data = data.strip()
        if data.startswith(b"[DONE]"):
            self.ended = True
        elif data:
            self.payload(at, data, kind)

    def payload(self, at: float, data: bytes, kind: str) -> None:
        payload = decoded(data)
        if kind == "error" and not isinstance(payload, dict):
            payload = {"error": data.decode(errors="replace")}
        if not isinstance(payload, dict):
            self.strange = self.strange or data
            return
        self.events += 1
        broken = payload.get("error") or payload.get("object") == "error" or kind == "error"
        if broken and self.error is None:
            self.error = error_text(payload) or "an error without a message"
        self.count(payload)
        choices = payload.get("choices")
        said = [
            self.choice(one)
            for one in (choices if isinstance(choices, list) else [])
            if isinstance(one, dict)
        ]
        if any(spoke for spoke, _ in said):
            self.times.append(at)
        if any(answered for _, answered in said) and self.first_answer is None:
            self.first_answer = at

    def count(self, payload: dict[str, Any]) -> None:
        usage = payload.get("usage")
        if not isinstance(usage, dict):
            usage = reached(payload, ("x_groq", "usage"))
        if not isinstance(usage, dict):
            return
        for name, paths in PLACES.items():
            counts = [n for path in paths if (n := counted(reached(usage, path))) is not None]
            if counts:
                self.usage[name] = max(counts[0], self.usage[name] or 0)

    def choice(self, choice: dict[str, Any]) -> tuple[bool, bool]:
        """Whether it spoke at all, and whether it answered."""
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish[index] = reason
        else:
            self.finish.setdefault(index, None)
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        details = delta.get("reasoning_details")
        thinks = any(
            delta.get(key) for key in ("reasoning", "reasoning_content", "thinking")
        ) or any(
            isinstance(one, dict) and bool(one.get("text"))
            for one in (details if isinstance(details, list) else [])
        )
        text = delta.get("content")
        if isinstance(text, list):  # TWISTS has one of a string, which no API has, and DELTA none
            text = ""
        if text is None and not thinks:
            text = choice.get("text")
        if index == 0 and isinstance(text, str):
            self.text += text
        calls = delta.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            number = call.get("index") if isinstance(call, dict) else None
            self.tools.add((index, number if isinstance(number, int) else place))
        others = (delta.get(key) for key in ("refusal", "function_call", "audio"))
        answered = bool(text or calls) or any(others)
        return answered or thinks, answered

    def answer(self) -> ParsedResponse:
        finishes = tuple(reason for _, reason in sorted(self.finish.items()) if reason is not None)
        counted_any = any(count is not None for count in self.usage.values())
        came = bool(self.times or finishes or counted_any)
        error = self.error
        if error is None and "abort" in finishes:
            error = f"the server gave up: finish_reason {', '.join(finishes)}"
        return ParsedResponse(
            usage=Usage(**self.usage),
            finish_reasons=finishes,
            first_token=self.times[0] if self.times else None,
            first_answer=self.first_answer,
            last_token=self.times[-1] if self.times else None,
            token_times=tuple(self.times),
            events=self.events,
            tool_calls=len(self.tools),
            done=(self.ended and came) or (bool(finishes) and len(finishes) == len(self.finish)),
            ended=self.ended or error is not None,
            streamed=True,
            foreign=self.events > 0 and not self.finish,
            error=error,
            text=self.text,
        )


PLACES = {
    "prompt": (("prompt_tokens",), ("input_tokens",)),
    "output": (("completion_tokens",), ("output_tokens",)),
    "cached": (
        ("cached_tokens",),
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
        ("prompt_cache_hit_tokens",),
    ),
    "reasoning": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
        ("reasoning_tokens",),
    ),
}


def decoded(data: bytes) -> object:
    for loads in (orjson.loads, json.loads):
        try:
            return loads(data)
        except (ValueError, RecursionError):
            continue
    return None


def reached(tree: object, path: tuple[str, ...]) -> object:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def counted(value: object) -> int | None:
    if type(value) is int:
        return value if 0 <= value < 2**31 else None
    if not isinstance(value, float):
        return None
    return int(value) if 0 <= value < 2**31 and value == int(value) else None


# Streams of every kind


ODD = st.sampled_from([None, "", "x", 0, 1, False, True, 1.0, [], {}, ["x"], {"content": "y"}])
TEXT = st.sampled_from(["", "a", "é☃", '"', "\\", "\n\n", "data: {}", "[DONE]"])


def some(names: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these members, each mostly as it should be."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(kind, kind, ODD) for name, kind in names.items()}
    )


DELTA = some(
    {
        "content": TEXT,
        "role": st.just("assistant"),
        "reasoning": TEXT,
        "reasoning_content": TEXT,
        "thinking": TEXT,
        "reasoning_details": st.lists(some({"text": TEXT}), max_size=2),
        "tool_calls": st.lists(some({"index": st.integers(0, 2)}), max_size=2),
        "refusal": TEXT,
        "function_call": st.just({"name": "f"}),
    }
)
CHOICE = some(
    {
        "index": st.integers(0, 2),
        "delta": DELTA,
        "finish_reason": st.sampled_from([None, None, "stop", "length", "abort"]),
        "text": TEXT,
    }
)
COUNT = st.sampled_from([0, 1, 7, 2.0, 2.5, -1, 2**31, True])
DETAILS = some({"cached_tokens": COUNT, "reasoning_tokens": COUNT})
USAGE = some(
    {
        "prompt_tokens": COUNT,
        "input_tokens": COUNT,
        "completion_tokens": COUNT,
        "cached_tokens": COUNT,
        "prompt_cache_hit_tokens": COUNT,
        "reasoning_tokens": COUNT,
        "prompt_tokens_details": DETAILS,
        "completion_tokens_details": DETAILS,
        "output_tokens_details": DETAILS,
    }
)
PAYLOAD = some(
    {
        "id": TEXT,
        "object": st.sampled_from(["chat.completion.chunk", "error"]),
        "choices": st.lists(st.one_of(CHOICE, CHOICE, ODD), max_size=3),
        "usage": st.none() | USAGE,
        "x_groq": st.fixed_dictionaries({}, optional={"usage": USAGE}),
        "error": st.sampled_from(["bad", {"message": "bad"}]),
    }
)
"""None has a `message` of its own: an event named `error` that has one is that of Responses."""


@st.composite
def nearly_plain(draw: st.DrawFn) -> dict[str, Any]:
    """A piece of text for the first choice, and mostly one thing more: what the short way must see."""
    delta: dict[str, Any] = {"content": draw(TEXT)}
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
    payload: dict[str, Any] = {"choices": [choice], "usage": None}
    place, name, value = draw(st.sampled_from(TWISTS))
    {"top": payload, "choice": choice, "delta": delta}[place][name] = value
    return payload


TWISTS: list[tuple[str, str, Any]] = [
    ("top", "id", "x"),
    ("top", "usage", {"completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}),
    ("top", "usage", {}),
    ("top", "x_groq", {"usage": {"prompt_tokens": 4}}),
    ("top", "error", "bad"),
    ("top", "object", "error"),
    ("top", "choices", []),
    ("top", "choices", [{"delta": {"content": "x"}}]),
    ("top", "choices", [{"index": n, "delta": {"content": "x"}} for n in (0, 1)]),
    ("top", "choices", [7]),
    ("choice", "index", 1),
    ("choice", "index", None),
    ("choice", "index", False),
    ("choice", "index", 1.0),
    ("choice", "finish_reason", "stop"),
    ("choice", "finish_reason", ""),
    ("choice", "text", "t"),
    ("choice", "delta", None),
    ("choice", "delta", {"content": None, "reasoning": "r"}),
    ("delta", "content", ["x"]),
    ("delta", "content", 7),
    ("delta", "tool_calls", [{"index": 1}]),
    ("delta", "reasoning", "r"),
    ("delta", "refusal", "no"),
]
JSONS = st.one_of(nearly_plain(), nearly_plain(), PAYLOAD).map(
    lambda payload: json.dumps(payload).encode()
)
STRANGE = st.sampled_from(
    [
        b"[DONE]",
        b" [DONE] ",
        b"",
        b"  ",
        b"{",
        b"1",
        b"[]",
        b'{"a": NaN}',
        b"\xff",
        b"null",
        b"{}{}",
    ]
)
DATAS = st.one_of(JSONS, JSONS, JSONS, STRANGE)
EVENTS = st.one_of(
    DATAS.map(lambda data: b"data: " + data + b"\n\n"),
    DATAS.map(lambda data: b"data:" + data + b"\n\n"),
    st.tuples(
        st.sampled_from(
            [
                b"data: ",
                b"event: error\ndata: ",
                b"event: x\ndata: ",
                b": hm\n\ndata: ",
                b"id: 3\ndata: ",
            ]
        ),
        DATAS,
        st.sampled_from([b"\n\n", b"\n\n\n", b"\r\n\r\n", b"\n", b"\r\r", b"\ndata: 1\n\n", b""]),
    ).map(b"".join),
)


@st.composite
def streams(draw: st.DrawFn, events: st.SearchStrategy[bytes]) -> list[Timed]:
    """Whole events cut anywhere, each piece later than the last; some pieces are empty."""
    whole = b"".join(draw(st.lists(events, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [(float(at), piece) for at, piece in enumerate(pieces)]


CONTENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


@settings(max_examples=200)
@given(streams(EVENTS))
@example([])
@example([(0.0, CONTENT + b'data: {"object":"error","message":"bad"}\n\n')])
@example([(0.0, b"event: error\n" + CONTENT)])
@example([(0.0, b"\xef\xbb\xbf"), (1.0, CONTENT)])
@example([(0.0, CONTENT[:-1]), (1.0, b"\n" + CONTENT)])
@example([(0.0, b"data:"), (1.0, b""), (2.0, CONTENT[5:])])
def test_a_stream_reads_as_it_always_did(chunks: list[Timed]) -> None:
    """Whatever a server sends, and wherever the network cuts it."""
    assert parse_response(chunks, content_type=SSE) == as_stream(chunks)


@settings(max_examples=200)
@given(streams(DATAS.map(lambda data: b"data: " + data.replace(b"\n", b" ") + b"\n\n")))
def test_a_stream_of_the_usual_shape_reads_as_it_always_did(chunks: list[Timed]) -> None:
    """Nothing but data events of one line: the short way, with every payload."""
    assert parse_response(chunks, content_type=SSE) == as_stream(chunks)


def as_stream(chunks: list[Timed]) -> ParsedResponse:
    """By the plain reader; a body that begins as no stream does is read as one body instead."""
    head = b"".join(piece for _, piece in chunks).removeprefix(b"\xef\xbb\xbf").lstrip()
    return (
        plainly(chunks)
        if head[:1] not in (b"{", b"[", b"<")
        else parse_response(chunks, content_type=SSE)
    )


@pytest.mark.parametrize(
    ("pieces", "plain"),
    [
        ([CONTENT, CONTENT], True),
        ([CONTENT[:3], CONTENT[3:] + CONTENT], True),
        ([b"data:\n\n"], True),
        ([b""], False),
        ([b"data: a\n"], False),
        ([b"data: a\n\n: b\n\n"], False),
        ([b"data: a\n\n\ndata: b\n\n"], False),
        ([b"data: a\ndata: b\n\n"], False),
        ([b"data: a\r\n\r\n"], False),
        ([b"data: a\rdata: b\n\n"], False),
        ([b"\xef\xbb\xbfdata: a\n\n"], False),
        ([b"id: 1\ndata: a\n\n"], False),
        ([b"data: a\n\ndata\n\n"], False),
        ([b"data: " + b"x" * PLAIN_BYTES + b"\n\n"], False),
    ],
)
def test_the_short_way_is_for_plain_streams_only(pieces: list[bytes], *, plain: bool) -> None:
    """And there it finds the events of the parser of the standard, when their last byte came."""
    chunks = [(float(at), piece) for at, piece in enumerate(pieces)]
    events, stream = plain_events(chunks), EventStream()

    assert (events is not None) == plain
    if events is not None:
        known = [(at, event.data) for at, piece in chunks for event in stream.feed(piece)]
        assert [(at, data.removeprefix(b" ")) for at, data in events] == known
        assert not stream.end()
