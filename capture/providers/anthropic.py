"""Anthropic's Messages API, which Together, llama.cpp, vLLM and many gateways speak as well.

Shapes: the API's public reference and the types of the `anthropic` SDK. A stream is over with `message_stop`
or an `error` event; there is no `[DONE]`. Counts are cumulative: a later one replaces an earlier one.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from tbench.capture.providers.provider import (
    Endpoint,
    Json,
    ParserBase,
    Provider,
    Usage,
    bare_text,
    counted,
    items_of,
    objects_of,
    prefixed_messages,
    prefixed_tools,
    word_of,
)

_EVENTS: Final = frozenset(
    {
        *("message_start", "message_delta", "message_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
    }
)
_DELTAS: Final[Mapping[str, tuple[str, bool]]] = {
    "text_delta": ("text", True),
    "input_json_delta": ("partial_json", True),
    "thinking_delta": ("thinking", False),
}
"""A delta's type -> where its text is, and whether that is answer. Signatures and citations are no tokens."""
_CALLS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""Blocks in which the model calls a tool: their start brings its name."""
_INPUT: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
"""What a prompt's tokens are split into: `input_tokens` leaves out what a cache gave or took."""


class Parser(ParserBase):
    """The ResponseParser of Messages."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, int] = {}

    def event(self, at: float, payload: Json, name: str) -> None:
        """One event of a stream; one of a type that is not known says nothing."""
        kind = word_of(payload, "type") or name
        match kind:
            case "content_block_delta":
                self._delta(at, payload.get("delta"))
            case "content_block_start":
                self._block(at, payload.get("content_block"))
            case "message_start":
                message = payload.get("message")
                # How much output there is at the start is no count of what will have come in the end.
                self._count(message, skip="output_tokens")
            case "message_delta":
                self._count(payload)
                self._stopped(payload.get("delta"))
            case "message_stop":
                self._over = True
            case _ if "error" in (kind, name) or payload.get("error"):
                self._failed(payload)
                self._over = True

    def _delta(self, at: float, delta: object) -> None:
        if not isinstance(delta, dict):
            return
        member, answers = _DELTAS.get(word_of(delta, "type"), ("", False))
        if text := delta.get(member):
            self._spoke(at, answers=answers)
            if member == "text" and isinstance(text, str):
                self._text.append(text)

    def _block(self, at: float, block: object) -> None:
        """A block begins: a call brings its tool's name, redacted thinking is all there at once."""
        if not isinstance(block, dict):
            return
        kind = word_of(block, "type")
        if kind in _CALLS:
            self._calls += 1
            self._spoke(at, answers=True)
        elif kind == "text" and (text := word_of(block, "text")):
            self._text.append(text)
            self._spoke(at, answers=True)
        elif block.get("thinking") or (kind == "redacted_thinking" and block.get("data")):
            self._spoke(at, answers=False)

    def body(self, payload: Json) -> None:
        """The one JSON body of an answer that was not streamed."""
        if payload.get("type") == "error" or payload.get("error"):
            self._failed(payload)
        self._count(payload)
        self._stopped(payload)
        blocks = items_of(payload.get("content"))
        self._calls = sum(word_of(block, "type") in _CALLS for block in blocks)
        self._text = [word_of(block, "text") for block in blocks if block.get("type") == "text"]

    def _stopped(self, delta: object) -> None:
        if isinstance(delta, dict) and (reason := word_of(delta, "stop_reason")):
            self._finish[0] = reason

    def _count(self, holder: object, skip: str = "") -> None:
        """Take over the counts of a message or an event.

        Those of the prompt belong together, and some gateways end with zeros that count nothing.
        """
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if not isinstance(usage, dict):
            return
        details = usage.get("output_tokens_details")
        thinking = details.get("thinking_tokens") if isinstance(details, dict) else None
        stated = {name: counted(usage.get(name)) for name in (*_INPUT, "output_tokens")}
        stated["thinking_tokens"] = counted(thinking)
        blank = not any(stated[name] for name in _INPUT) and "input_tokens" in self._counts
        for name, count in stated.items():
            if count is not None and name != skip and not (blank and name in _INPUT):
                self._counts[name] = count
        counts = self._counts
        parts = [counts[name] for name in _INPUT if name in counts]
        self._usage = Usage(
            prompt=sum(parts) if "input_tokens" in counts else None,
            output=counts.get("output_tokens"),
            cached=counts.get("cache_read_input_tokens"),
            reasoning=counts.get("thinking_tokens"),
            created=counts.get("cache_creation_input_tokens"),
        )


def messages(payload: Json) -> list[Json]:
    """The conversation: the system's words first, each message as it reads.

    A text and one part that holds it are the same, and a mark for the cache, which wanders on with the
    conversation, is no part of what was said.
    """
    turns, system = objects_of(payload.get("messages")), payload.get("system")
    opening = [{"role": "system", "content": system}] if system and turns else []
    conversation: list[Json] = []
    for message in [*opening, *turns]:
        content = message.get("content")
        if isinstance(content, list):
            parts = items_of(content)
            bare = [
                {name: part[name] for name in part if name != "cache_control"} for part in parts
            ]
            content = bare_text(bare)
        conversation.append({**message, "content": content})
    return conversation


def turn(payloads: Sequence[Json]) -> list[dict[str, Any]]:
    """The assistant's message with its blocks, put together from their deltas.

    The input of a tool whose JSON was cut stays the text that it is.
    """
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for payload in payloads:
        if listed := items_of(payload.get("content")):
            blocks, inputs = dict(enumerate(listed)), {}
        place, block, delta = (payload.get(name) for name in ("index", "content_block", "delta"))
        if not isinstance(place, int):
            continue
        if isinstance(block, dict):
            blocks[place] = dict(block)
        elif isinstance(delta, dict) and place in blocks:
            inputs[place] = inputs.get(place, "") + word_of(delta, "partial_json")
            for name in ("text", "thinking", "signature"):
                if grown := word_of(delta, name):
                    blocks[place][name] = word_of(blocks[place], name) + grown
    for place, text in inputs.items():
        if text:
            blocks[place]["input"] = text
            with suppress(orjson.JSONDecodeError):
                blocks[place]["input"] = orjson.loads(text)
    content = [blocks[place] for place in sorted(blocks)]
    return [{"role": "assistant", "content": content}] if content else []


def with_prefix(payload: Json, prefix: str) -> dict[str, Any] | None:
    """The body with a text before its tools and the system's words, or the first message's; None else."""
    system = payload.get("system")
    changed = prefixed_tools(payload, prefix)
    if isinstance(system, str) and system:
        changed["system"] = prefix + system
    elif isinstance(system, list) and system:
        changed["system"] = [{"type": "text", "text": prefix}, *system]
    elif (turns := prefixed_messages(payload.get("messages"), prefix)) is not None:
        changed["messages"] = turns
    else:
        return None
    return {**payload, **changed}


def before_turns(payload: Json, prefix: str) -> dict[str, Any] | None:
    """The body with a text before its first message's, whatever the system said before; None without any."""
    turns = prefixed_messages(payload.get("messages"), prefix)
    return None if turns is None else {**payload, "messages": turns}


def _matches(payload: Json, event: str) -> bool:
    kind = word_of(payload, "type") or event
    if kind == "error":
        return isinstance(payload.get("error"), dict)
    return kind in _EVENTS or (kind == "message" and "content" in payload)


ANTHROPIC: Final = Provider(
    hosts={r"api\.anthropic\.com": "ANTHROPIC_API_KEY"},
    # With its version, as every SDK asks for it: `/threads/ID/messages` of another API changes a thread.
    endpoints={
        ("POST", "/v1/messages"): Endpoint(
            "messages",
            replayable=True,
            takes_text=True,
            gives_text=True,
            inputs="messages",
            limits=("max_tokens",),
        ),
    },
    sent_headers=frozenset({"anthropic-beta", "anthropic-version"}),
    credential_header="x-api-key",
    matches=_matches,
    parser=Parser,
    messages=messages,
    turn=turn,
    spoken_in="messages",
    with_prefix=with_prefix,
    before_turns=before_turns,
)
