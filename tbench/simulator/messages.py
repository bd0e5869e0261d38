"""Anthropic's Messages as the simulator speaks it: shapes of the API's public reference.

A body is turned into a chat's, so that both dialects mean the same by the same words, and an answer's tokens
into content blocks: thinking, text, tool use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from tbench.simulator.answer import Branch, Dialect, Head, ItemEvents, Kind, named_event
from tbench.simulator.order import Order, Refusal, chat_order, invalid, tools_of
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
BLOCKS: Final[Mapping[Kind, dict[str, Any]]] = {
    Kind.TEXT: {"type": "text", "text": ""},
    Kind.REASONING: {"type": "thinking", "thinking": "", "signature": ""},
    Kind.CALL_ARGUMENTS: {"type": "tool_use", "input": {}},
}
"""What an item holds -> how its block begins."""
DELTAS: Final = {
    Kind.TEXT: ("text_delta", "text"),
    Kind.REASONING: ("thinking_delta", "thinking"),
    Kind.CALL_ARGUMENTS: ("input_json_delta", "partial_json"),
}
"""What an item holds -> the type of its deltas, and where their text is."""
CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
"""What `tool_choice` says -> a chat's word for it."""


def order(fields: Mapping[str, Any], context_tokens: int) -> Order:
    """The body of a message. Raises Refusal."""
    if not isinstance(fields.get("max_tokens"), int):
        raise invalid("max_tokens: Field required")
    turns = fields.get("messages")
    turns = turns if isinstance(turns, list) else []
    if not all(
        isinstance(turn, dict) and turn.get("role") in ("user", "assistant") for turn in turns
    ):
        raise invalid("messages: each must be an object with the role 'user' or 'assistant'")
    chat: dict[str, Any] = {
        "model": fields["model"],
        "max_tokens": fields["max_tokens"],
        "stream": fields.get("stream"),
        "stop": fields.get("stop_sequences"),
        "temperature": fields.get("temperature"),
        "ignore_eos": fields.get("ignore_eos"),
        "messages": [
            message for turn in turns for message in _turns(turn["role"], turn.get("content"))
        ],
    }
    if system := fields.get("system"):
        chat["messages"] = [*_turns("system", system), *chat["messages"]]
    chat["tools"] = [
        {"type": "function", "function": _function(tool)}
        for tool in tools_of(fields)
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
    config = fields.get("output_config")
    shape = config.get("format") if isinstance(config, dict) else None
    if isinstance(shape, dict):
        chat["response_format"] = {"type": shape.get("type"), "json_schema": shape}
    # A quote within a text is escaped in JSON, so that no
    # prompt that only speaks of it is taken for a mark.
    marked = b'"cache_control":{' in orjson.dumps(fields)
    return replace(chat_order(chat, context_tokens), keeps_prefix=marked)


def _turns(role: str, content: object) -> list[dict[str, Any]]:
    """A chat's messages: one for each result of a tool, then what the side itself says or calls."""
    if not isinstance(content, list):
        return [{"role": role, "content": content}]
    messages: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in content:
        match block:
            case {"type": "tool_result"}:
                result = _turns("tool", block.get("content"))[-1]
                messages.append({**result, "tool_call_id": block.get("tool_use_id")})
            case {"type": "tool_use"}:
                arguments = orjson.dumps(block.get("input")).decode()
                function = {"name": block.get("name"), "arguments": arguments}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case {}:
                parts.append(_part(block))
    if parts or calls or not messages:
        messages.append({"role": role, "content": parts, "tool_calls": calls})
    return messages


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as a chat describes it."""
    names = {"input_schema": "parameters"}
    untold = ("cache_control", "type")
    return {names.get(name, name): value for name, value in tool.items() if name not in untold}


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


FAILURE: Final = named_event("error", error={"type": "overloaded_error", "message": "Overloaded"})


def ending(branch: Branch) -> dict[str, str | None]:
    """Why a message ended."""
    reason = STOPS[branch.finish] if branch.stop is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": branch.stop}


NO_ENDING: Final = {"stop_reason": None, "stop_sequence": None}


def message(
    head: Head,
    content: list[dict[str, Any]],
    counts: dict[str, Any],
    ended: Mapping[str, str | None] = NO_ENDING,
) -> dict[str, Any]:
    """A message, as it begins a stream and as a whole answer."""
    return {
        "id": f"msg_{head.id}",
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        **ended,
        "usage": counts,
    }


class Stream(ItemEvents):
    """The events of one message, block by block."""

    __slots__ = ()

    def begin(self) -> None:
        # 1, as the API's: how many there will be stands in message_delta.
        counts = usage(self.order, 1, self.cached_tokens, 0)
        start = message(self.head, [], counts)
        self._events += [named_event("message_start", message=start)]

    def open_item(self, kind: Kind) -> None:
        block = BLOCKS[kind]
        if kind is Kind.CALL_ARGUMENTS:
            name = self.branch.text(Kind.CALL_NAME)
            block = {**block, "id": tool_id(self.branch), "name": name}
        self._events += [named_event("content_block_start", index=self._index, content_block=block)]
        if self._index == 0:
            self._events += [named_event("ping")]
        if kind is Kind.CALL_ARGUMENTS:
            # The API begins an input with an empty delta, which clients must bear.
            self.add(kind, "")

    def add(self, kind: Kind, text: str) -> None:
        self._delta(*DELTAS[kind], text)

    def _delta(self, kind: str, member: str, text: str) -> None:
        delta = {"type": kind, member: text}
        self._events += [named_event("content_block_delta", index=self._index, delta=delta)]

    def close_item(self, kind: Kind) -> None:
        if kind is Kind.REASONING:
            self._delta("signature_delta", "signature", signature(self.head))
        self._events += [named_event("content_block_stop", index=self._index)]

    def end(self) -> None:
        branch = self.branch
        counts = usage(self.order, len(branch.pieces), self.cached_tokens, branch.reasoning_tokens)
        self._events += [named_event("message_delta", delta=ending(branch), usage=counts)]
        self._events += [named_event("message_stop")]


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
    return message(head, content, counts, ending(branch))


def complaint(refused: Refusal, request_id: str) -> dict[str, Any]:
    """The body of an error answer."""
    error = {"type": ERRORS.get(refused.status, "api_error"), "message": refused.message}
    return {"type": "error", "error": error, "request_id": f"req_{request_id}"}


MESSAGES: Final = Dialect(order=order, stream=Stream, body=body, failure=FAILURE, refusal=complaint)
