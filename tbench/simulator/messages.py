"""Anthropic's Messages as the simulator speaks it: shapes of the API's public reference.

A body is turned into a chat's, so that both dialects mean the same by the same words, and an answer's tokens
into content blocks: thinking, text, tool use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from tbench.simulator.answer import Branch, Dialect, Head, Kind
from tbench.simulator.order import Order, Refusal, chat_order, invalid
from tbench.simulator.prompt import BLOCK_TOKENS

STOPS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
"""A chat's finish reason -> the stop reason."""
ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
"""What `tool_choice` says -> a chat's word for it."""


def order(fields: Mapping[str, Any], context_tokens: int) -> Order:
    """The body of a message. Raises Refusal."""
    if not isinstance(fields.get("max_tokens"), int):
        raise invalid("max_tokens: Field required")
    turns = fields.get("messages")
    turns = turns if isinstance(turns, list) else []
    if not all(
        isinstance(turn, dict) and turn.get("role") in {"user", "assistant"} for turn in turns
    ):
        raise invalid("messages: each must be an object with the role 'user' or 'assistant'")
    chat: dict[str, Any] = {
        "model": fields["model"],
        "max_tokens": fields["max_tokens"],
        "stream": fields.get("stream"),
        "stop": fields.get("stop_sequences"),
        "temperature": fields.get("temperature"),
        "messages": [_turn(turn["role"], turn.get("content")) for turn in turns],
    }
    if system := fields.get("system"):
        chat["messages"].insert(0, _turn("system", system))
    tools = fields.get("tools") or []
    chat["tools"] = [
        {"type": "function", "function": {**tool, "parameters": tool.get("input_schema")}}
        for tool in tools
        if isinstance(tool, dict)
    ]
    choice = fields.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "tool":
        chat["tool_choice"] = {"function": {"name": choice.get("name")}}
    elif isinstance(choice, dict):
        chat["tool_choice"] = CHOICES.get(str(choice.get("type")))
    thinking = fields.get("thinking")
    if isinstance(thinking, dict):
        chat["reasoning"] = {"enabled": thinking.get("type") != "disabled"}
    marked = b'"cache_control":{' in orjson.dumps(fields)
    return replace(chat_order(chat, context_tokens), keeps_prefix=marked)


def _turn(role: str, content: object) -> dict[str, Any]:
    """A chat's message. Marks for the cache wander from turn to turn and are no part of a prompt."""
    parts = (
        [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    )
    if not parts:
        return {"role": role, "content": content}
    if any(part.get("type") == "tool_result" for part in parts):
        role = "tool"
    texts = [part for part in parts if part.get("type") == "text"]
    if len(texts) == len(parts) == 1:
        return {"role": role, "content": texts[0].get("text")}
    return {"role": role, "content": [_part(part) for part in parts]}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    source = part.get("source")
    if part.get("type") == "image" and isinstance(source, dict):
        data = f"data:{source.get('media_type')};base64,{source.get('data')}"
        return {"type": "image_url", "image_url": {"url": source.get("url") or data}}
    return {name: value for name, value in part.items() if name != "cache_control"}


def usage(wanted: Order, output_tokens: int, cached_tokens: int, thoughts: int) -> dict[str, Any]:
    """The counts: what was read from the cache or written to it is not among the input tokens."""
    blocks = sum(len(prompt.blocks) for prompt in wanted.prompts) * BLOCK_TOKENS
    created = max(0, blocks - cached_tokens) if wanted.keeps_prefix else 0
    counts: dict[str, Any] = {
        "input_tokens": wanted.prompt_tokens - cached_tokens - created,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": output_tokens,
    }
    if thoughts:
        counts["output_tokens_details"] = {"thinking_tokens": thoughts}
    return counts


def event(name: str, **members: object) -> bytes:
    """One server-sent event: its type is its name, too."""
    payload = orjson.dumps({"type": name, **members})
    return b"event: %s\ndata: %s\n\n" % (name.encode(), payload)


FAILURE: Final = event("error", error={"type": "overloaded_error", "message": "Overloaded"})


def message(
    head: Head, content: list[dict[str, Any]], counts: dict[str, Any], stop: str | None
) -> dict[str, Any]:
    """A message, as it begins a stream and as a whole answer."""
    return {
        "id": f"msg_{head.id}",
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": counts,
    }


@dataclass(slots=True)
class Stream:
    """The events of one message, block by block."""

    order: Order
    head: Head
    branches: Sequence[Branch]
    cached_tokens: int = 0
    _written: int = 0
    _block: str = ""
    _index: int = -1
    _events: list[bytes] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self._written == len(self.branches[0].pieces)

    def token(self, index: int) -> bytes | None:
        branch = self.branches[index]
        piece = branch.pieces[self._written]
        self._written += 1
        match piece.kind:
            case Kind.TEXT:
                self._open("text", text="")
                self._delta("text_delta", text=piece.text)
            case Kind.REASONING:
                self._open("thinking", thinking="", signature="")
                self._delta("thinking_delta", thinking=piece.text)
            case Kind.CALL_NAME:
                self._open("tool_use", id=tool_id(branch), name=piece.text, input={})
                self._delta("input_json_delta", partial_json="")
            case Kind.CALL_ARGUMENTS:
                self._delta("input_json_delta", partial_json=piece.text)
        if self.complete:
            self._begin()
            self._close()
            delta = {"stop_reason": STOPS[branch.finish], "stop_sequence": None}
            counts = usage(
                self.order, len(branch.pieces), self.cached_tokens, branch.reasoning_tokens
            )
            self._events += [event("message_delta", delta=delta, usage=counts)]
            self._events += [event("message_stop")]
        data, self._events = b"".join(self._events), []
        return data or None

    def _begin(self) -> None:
        """What opens a stream, before its first content."""
        if self._index >= 0:
            return
        counts = usage(self.order, 1, self.cached_tokens, 0)
        start = message(self.head, [], counts, None)
        self._events += [event("message_start", message=start)]
        self._index = 0

    def _open(self, kind: str, **block: object) -> None:
        if self._block == kind:
            return
        self._begin()
        self._close()
        self._block = kind
        opened = {"type": kind, **block}
        self._events += [event("content_block_start", index=self._index, content_block=opened)]
        if self._index == 0:
            self._events += [event("ping")]

    def _delta(self, kind: str, **delta: object) -> None:
        changed = {"type": kind, **delta}
        self._events += [event("content_block_delta", index=self._index, delta=changed)]

    def _close(self) -> None:
        if not self._block:
            return
        if self._block == "thinking":
            self._delta("signature_delta", signature=signature(self.head))
        self._events += [event("content_block_stop", index=self._index)]
        self._index += 1
        self._block = ""


def tool_id(branch: Branch) -> str:
    """What a call is answered by."""
    return branch.call_id.replace("call_", "toolu_")


def signature(head: Head) -> str:
    """What only who made it can read."""
    return f"sim{head.id}=="


def body(
    wanted: Order, head: Head, branches: Sequence[Branch], cached_tokens: int
) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    (branch,) = branches
    content: list[dict[str, Any]] = []
    if thoughts := branch.text(Kind.REASONING):
        content.append({"type": "thinking", "thinking": thoughts, "signature": signature(head)})
    if text := branch.text(Kind.TEXT):
        content.append({"type": "text", "text": text})
    if name := branch.text(Kind.CALL_NAME):
        arguments = branch.text(Kind.CALL_ARGUMENTS)
        call = {"type": "tool_use", "id": tool_id(branch), "name": name}
        content.append({**call, "input": orjson.loads(arguments) if arguments else {}})
    counts = usage(wanted, len(branch.pieces), cached_tokens, branch.reasoning_tokens)
    return message(head, content, counts, STOPS[branch.finish])


def complaint(refused: Refusal, request_id: str) -> dict[str, Any]:
    """The body of an error answer."""
    error = {"type": ERRORS.get(refused.status, "api_error"), "message": refused.message}
    return {"type": "error", "error": error, "request_id": f"req_{request_id}"}


MESSAGES: Final = Dialect(order=order, stream=Stream, body=body, failure=FAILURE, refusal=complaint)
