"""What was said in a conversation: an answer as its client keeps it, the tools called, what these gave.

The three APIs put the same things into other shapes; each is told by its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from tbench.capture.decode import decode
from tbench.capture.errors import InputError
from tbench.capture.providers import PROVIDERS
from tbench.capture.providers.provider import Provider, items_of, word_of
from tbench.capture.sse import EventStream, plain_events

Message = Mapping[str, Any]


class ToolCall(NamedTuple):
    """A tool that the assistant called; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Spoken(NamedTuple):
    """An answer: the API that it speaks, its id, and what it adds to the conversation there."""

    provider: Provider
    id: str
    turn: Sequence[dict[str, Any]]

    @property
    def messages(self) -> Sequence[Message]:
        """The turn as messages with a `role` and a `content`."""
        return self.provider.messages({self.provider.spoken_in: self.turn})

    @property
    def calls(self) -> list[ToolCall]:
        return [call for message in self.messages for call in calls_in(message)]

    @property
    def text(self) -> str:
        return "".join(
            text for message in self.messages for text in texts_in(message.get("content"))
        )


def spoken(body: bytes, content_encoding: str = "") -> Spoken | None:
    """What a whole answer says, a stream or one JSON body; None where it says nothing that is known."""
    try:
        body = decode(body, content_encoding) if content_encoding else body
        payloads = [payload for payload in _payloads(body) if isinstance(payload, dict)]
    except InputError:
        return None
    for payload in payloads:
        if payload.get("type") == "ping":
            continue
        event = word_of(payload, "type") or "message"
        provider = next(api for api in PROVIDERS.values() if api.matches(payload, event))
        inner = (payload.get("message"), payload.get("response"), payload)
        id_ = next((word_of(part, "id") for part in inner if isinstance(part, dict)), "")
        turn = provider.turn(payloads)
        return Spoken(provider, id_, turn) if turn else None
    return None


def _payloads(body: bytes) -> Iterator[object]:
    """The JSON values of a body: one, or that of each event."""
    if body.lstrip()[:1] in (b"{", b"["):
        yield _json(body)
        return
    chunks = [(0.0, body)]
    if (events := plain_events(chunks)) is not None:
        yield from (_json(data) for _, data in events)
        return
    stream = EventStream()
    yield from (_json(event.data) for event in (*stream.feed(body), *stream.end()))


def _json(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # [DONE], and what is none
        return None


def calls_in(message: Message) -> Iterator[ToolCall]:
    """The tools that an assistant's message calls."""
    for call in items_of(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict):
            yield ToolCall(
                word_of(call, "id"), word_of(function, "name"), word_of(function, "arguments")
            )
    for part in items_of(message.get("content")):
        if part.get("type") == "tool_use":
            arguments = orjson.dumps(part.get("input"), option=orjson.OPT_NON_STR_KEYS).decode()
            yield ToolCall(word_of(part, "id"), word_of(part, "name"), arguments)
        elif part.get("type") in ("function_call", "custom_tool_call"):
            arguments = word_of(part, "arguments") or word_of(part, "input")
            yield ToolCall(word_of(part, "call_id"), word_of(part, "name"), arguments)


def results_in(message: Message) -> Iterator[str]:
    """The ids of the calls whose results a message brings."""
    if message.get("role") == "tool" and (id_ := word_of(message, "tool_call_id")):
        yield id_
    for part in items_of(message.get("content")):
        kind = word_of(part, "type")
        name = "call_id" if kind.endswith("_call_output") else "tool_use_id"
        if (name == "call_id" or kind == "tool_result") and (id_ := word_of(part, name)):
            yield id_


def texts_in(content: object) -> Iterator[str]:
    """The texts of a message's content, those that tools gave among them."""
    if isinstance(content, str):
        yield content
    for part in items_of(content):
        if text := word_of(part, "text"):
            yield text
        for inner in ("content", "output"):
            yield from texts_in(part.get(inner))
