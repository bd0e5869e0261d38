"""OpenAI's Responses as the simulator speaks it: shapes of the API's public description.

A body is turned into a chat's, so that both dialects mean the same by the same words, and an answer's tokens
into output items: reasoning, a message, a function call. Nothing is stored, as at Together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tbench.simulator.answer import Branch, Dialect, Head, ItemEvents, Kind, named_event
from tbench.simulator.order import Order, Refusal, chat_order, error, invalid, tools_of

HELD: Final = ("previous_response_id", "conversation", "background")
"""Fields that build on what a server keeps, or make it keep something."""


def order(fields: Mapping[str, Any], context_tokens: int) -> Order:
    """The body of a response. Raises Refusal."""
    for name in HELD:
        if fields.get(name):
            raise Refusal(400, f"'{name}' is not supported: nothing is stored here")
    given = fields.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise invalid("'input' must be a string or an array of objects")
    reasoning, text = fields.get("reasoning"), fields.get("text")
    chat: dict[str, Any] = {
        "model": fields["model"],
        "max_tokens": fields.get("max_output_tokens"),
        "stream": fields.get("stream"),
        "temperature": fields.get("temperature"),
        "ignore_eos": fields.get("ignore_eos"),
        "messages": _messages(items),
    }
    if instructions := fields.get("instructions"):
        chat["messages"].insert(0, {"role": "system", "content": instructions})
    chat["tools"] = [
        {
            "type": "function",
            "function": {
                name: value
                for name, value in tool.items()
                if name != "type" and (name, value) != ("strict", False)
            },
        }
        for tool in tools_of(fields)
        if isinstance(tool, dict) and tool.get("type") == "function"
    ]
    choice = fields.get("tool_choice")
    if isinstance(choice, dict):
        choice = {"function": {"name": choice.get("name")}}
    chat["tool_choice"] = choice
    if isinstance(reasoning, dict):
        chat["reasoning"] = {"enabled": reasoning.get("effort") != "none"}
    shape = text.get("format") if isinstance(text, dict) else None
    if isinstance(shape, dict):
        chat["response_format"] = {"type": shape.get("type"), "json_schema": shape}
    return chat_order(chat, context_tokens)


def _messages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chat's messages: calls stand beside the text before them, reasoning is in the prompt as it is."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case {"type": "function_call"}:
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": ""})
                function = {name: item.get(name) for name in ("name", "arguments")}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                messages[-1].setdefault("tool_calls", []).append(call)
            case {"type": "function_call_output"}:
                content = _content(item.get("output"))
                answered = {"role": "tool", "content": content, "tool_call_id": item.get("call_id")}
                messages.append(answered)
            case {"role": str(role)}:
                messages.append({"role": role, "content": _content(item.get("content"))})
            case _:
                by_tool = str(item.get("type")).endswith("_output")
                messages.append({"role": "tool" if by_tool else "assistant", "content": [item]})
    return messages


def _content(content: object) -> object:
    """A chat's content: a text, or parts."""
    if not isinstance(content, list):
        return content
    return [_part(part) for part in content if isinstance(part, dict)]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "input_text" | "output_text":
            return {"type": "text", "text": part.get("text")}
        case "input_image":
            return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    return part


def usage(wanted: Order, branch: Branch, cached_tokens: int) -> dict[str, Any]:
    """The counts of a whole response."""
    output = len(branch.pieces)
    return {
        "input_tokens": wanted.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": branch.reasoning_tokens},
        "total_tokens": wanted.prompt_tokens + output,
    }


def response(
    wanted: Order, head: Head, status: str, output: list[dict[str, Any]], **more: object
) -> dict[str, Any]:
    """A response in one of its states; `more` are members that are null until its end."""
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": wanted.max_tokens,
        "metadata": {},
        "model": head.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        **more,
    }


def ended(wanted: Order, head: Head, branch: Branch, cached_tokens: int) -> dict[str, Any]:
    """A response at its end: completed, or incomplete where its limit cut it."""
    shown = {piece.kind for piece in branch.pieces}
    if Kind.CALL_NAME in shown:  # though its arguments may have been cut off
        shown.add(Kind.CALL_ARGUMENTS)
    items = [item(branch, head, kind, branch.text(kind)) for kind in NAMES if kind in shown]
    counts = usage(wanted, branch, cached_tokens)
    if branch.finish == "length":
        why = {"reason": "max_output_tokens"}
        return response(wanted, head, "incomplete", items, usage=counts, incomplete_details=why)
    return response(wanted, head, "completed", items, usage=counts)


def item(branch: Branch, head: Head, kind: Kind, text: str | None = None) -> dict[str, Any]:
    """An item of the output, whole with its text, or as it is added, empty."""
    status = "in_progress" if text is None else "completed"
    match kind:
        case Kind.REASONING:
            content = [] if text is None else [part(kind, text)]
            return {"id": f"rs_{head.id}", "type": "reasoning", "summary": [], "content": content}
        case Kind.TEXT:
            content = [] if text is None else [part(kind, text)]
            members: dict[str, Any] = {"role": "assistant", "content": content}
            return {"id": f"msg_{head.id}", "type": "message", "status": status, **members}
    return {
        "id": f"fc_{head.id}",
        "type": "function_call",
        "status": status,
        "call_id": branch.call_id,
        "name": branch.text(Kind.CALL_NAME),
        "arguments": text or "",
    }


def part(kind: Kind, text: str) -> dict[str, Any]:
    """The one part of a message or of reasoning."""
    if kind is Kind.REASONING:
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


NAMES: Final = {
    Kind.REASONING: "response.reasoning_text",
    Kind.TEXT: "response.output_text",
    Kind.CALL_ARGUMENTS: "response.function_call_arguments",
}
"""What an item holds, in their order -> how its events begin."""
LOGPROBS: Final[Mapping[Kind, dict[str, list[object]]]] = {Kind.TEXT: {"logprobs": []}}
"""What the events of a text have beside it."""
FAILURE: Final = named_event(
    "error", code="server_error", message="The server had an error", param=None, sequence_number=0
)


@dataclass(slots=True)
class Stream(ItemEvents):
    """The events of one response, item by item."""

    _number: int = 0

    def _event(self, kind: str, **members: object) -> None:
        self._events += [named_event(kind, sequence_number=self._number, **members)]
        self._number += 1

    def begin(self) -> None:
        for name in ("created", "in_progress"):
            begun = response(self.order, self.head, "in_progress", [])
            self._event(f"response.{name}", response=begun)

    def open_item(self, kind: Kind) -> None:
        added = item(self.branch, self.head, kind)
        self._event("response.output_item.added", output_index=self._index, item=added)
        if kind is not Kind.CALL_ARGUMENTS:
            self._event("response.content_part.added", **self._place(kind), part=part(kind, ""))

    def _place(self, kind: Kind) -> dict[str, Any]:
        """Where in the response the text goes."""
        ident = item(self.branch, self.head, kind)["id"]
        place: dict[str, Any] = {"item_id": ident, "output_index": self._index}
        return place if kind is Kind.CALL_ARGUMENTS else {**place, "content_index": 0}

    def add(self, kind: Kind, text: str) -> None:
        beside = LOGPROBS.get(kind, {})
        self._event(f"{NAMES[kind]}.delta", **self._place(kind), delta=text, **beside)

    def close_item(self, kind: Kind) -> None:
        text, place = self.branch.text(kind), self._place(kind)
        done = f"{NAMES[kind]}.done"
        if kind is Kind.CALL_ARGUMENTS:
            name = self.branch.text(Kind.CALL_NAME)
            self._event(done, **place, name=name, arguments=text)
        else:
            self._event(done, **place, text=text, **LOGPROBS.get(kind, {}))
            self._event("response.content_part.done", **place, part=part(kind, text))
        ended_item = item(self.branch, self.head, kind, text)
        self._event("response.output_item.done", output_index=self._index, item=ended_item)

    def end(self) -> None:
        final = ended(self.order, self.head, self.branch, self.cached_tokens)
        self._event(f"response.{final['status']}", response=final)


def body(
    wanted: Order, head: Head, branches: Sequence[Branch], cached_tokens: int
) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    return ended(wanted, head, branches[0], cached_tokens)


def complaint(refused: Refusal, _request_id: str) -> dict[str, Any]:
    """The body of an error answer."""
    return error(refused.message, refused.type, refused.code)


RESPONSES: Final = Dialect(
    order=order, stream=Stream, body=body, failure=FAILURE, refusal=complaint
)
