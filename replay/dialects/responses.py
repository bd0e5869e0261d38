"""OpenAI's Responses, read into a Conversation and written from one. Nothing is asked to be stored."""

import re
from collections.abc import Iterator
from typing import Any, Final

from tbench.replay.dialects.conversation import (
    ANY_TOOL,
    EFFORTS,
    NO_TOOL,
    OPENAI_ROLES,
    Call,
    Conversation,
    Image,
    Json,
    Mute,
    Result,
    Role,
    Text,
    Turn,
    beyond,
    call_id,
    choice_of,
    effort_of,
    filled,
    function_of,
    joined,
    object_of,
    objects,
    tool_of,
    word,
)

_KNOWN: Final = (
    *("model", "stream", "temperature", "top_p"),
    *("input", "instructions", "max_output_tokens", "tools", "tool_choice", "parallel_tool_calls"),
    *("text", "reasoning"),
)

LEAST: Final = 16
"""The least limit that Responses takes."""
_CALL_ID = re.compile(r".{1,64}", re.DOTALL)


def read(body: Json, lost: set[str]) -> Conversation:
    """The conversation of Responses. Raises Mute."""
    # `store: false` is what is written anyway; only a wish to store is lost.
    beyond(body, _KNOWN if body.get("store") else (*_KNOWN, "store"), lost)
    given, instructions = body.get("input"), body.get("instructions")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if instructions:
        items = [{"role": "system", "content": instructions}, *objects(items, "input")]
    tools = []
    for tool in objects(body.get("tools"), "tools"):
        if tool.get("type") == "function":
            tools.append(tool_of(tool, lost))
        else:
            lost.add(f"tools.{word(tool.get('type'))}")
    reasoning, text = (object_of(body.get(name), name) for name in ("reasoning", "text"))
    beyond(reasoning, ("effort",), lost, "reasoning.")
    beyond(text, ("format",), lost, "text.")
    return Conversation(
        turns=joined(turn for item in objects(items, "input") for turn in _turns(item, lost)),
        model=body.get("model"),
        stream=body.get("stream"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        limit=body.get("max_output_tokens"),
        tools=tuple(tools),
        choice=choice_of(body.get("tool_choice"), lost),
        serial=body.get("parallel_tool_calls") is False,
        shape=_shape(text.get("format"), lost),
        effort=reasoning.get("effort"),
    )


def _turns(item: Json, lost: set[str]) -> Iterator[Turn]:
    match item:
        case {
            "type": "function_call",
            "call_id": str(ident),
            "name": str(name),
            "arguments": str(given),
        }:
            beyond(item, ("type", "id", "status", "call_id", "name", "arguments"), lost, "input.")
            yield Turn("assistant", (Call(ident, name, given or "{}"),))
        case {"type": "function_call_output", "call_id": str(ident)}:
            beyond(item, ("type", "id", "status", "call_id", "output"), lost, "input.")
            yield Turn("tool", (Result(ident, tuple(_parts(item.get("output"), lost))),))
        case {"type": "reasoning"}:
            lost.add("reasoning")
        case {"role": str(role)} if (
            role in OPENAI_ROLES and item.get("type", "message") == "message"
        ):
            beyond(item, ("type", "id", "status", "role", "content", "phase"), lost, "input.")
            yield Turn(OPENAI_ROLES[role], tuple(_parts(item.get("content"), lost)))
        case _:
            raise Mute(f"input.{item.get('type') or item.get('role')}")


def _parts(content: object, lost: set[str]) -> Iterator[Text | Image]:
    if content is None or isinstance(content, str):
        content = [{"type": "input_text", "text": content}] if content else []
    for part in objects(content, "content"):
        match part:
            case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
                beyond(part, ("type", "text", "annotations", "logprobs"), lost, "content.")
                if text:
                    yield Text(text)
            case {"type": "input_image", "image_url": str(url)}:
                beyond(part, ("type", "image_url", "detail"), lost, "content.")
                detail = part.get("detail")
                yield Image(url, None if detail == "auto" else detail)
            case _:
                raise Mute(f"content.{part.get('type')}")


def _shape(form: Any, lost: set[str]) -> Json | None:  # noqa: ANN401 (JSON)
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"type": "json_schema"}:
            return {name: value for name, value in form.items() if name != "type"}
    lost.add("text.format")
    return None


def write(conversation: Conversation, lost: set[str]) -> dict[str, Any]:
    """The body of Responses."""
    turns, instructions = conversation.turns, None
    match turns:
        # Only one text: instructions are a string, and a system message of several parts stays an item.
        case (Turn("system", (Text(text),)), *rest):
            instructions, turns = text, tuple(rest)
    lost |= {
        name
        for name, value in (("stop", conversation.stop), ("top_k", conversation.top_k))
        if value
    }
    choices: dict[str | None, object] = {None: None, NO_TOOL: "none", ANY_TOOL: "required"}
    shaped = {"type": "json_schema", **(conversation.shape or {})}
    effort = effort_of(conversation.effort, EFFORTS, lost)
    limit = conversation.limit
    if isinstance(limit, int) and 0 < limit < LEAST:
        limit = LEAST
        lost.add("max_output_tokens")
    form = shaped if conversation.shape else {"type": "json_object"}
    return filled(
        {
            "model": conversation.model,
            "instructions": instructions,
            "input": [item for turn in turns for item in _items(turn, lost)],
            "stream": conversation.stream,
            "store": False,
            "max_output_tokens": limit,
            "temperature": conversation.temperature,
            "top_p": conversation.top_p,
            # Where it is left out, Responses takes a function as strict, and chat does not.
            "tools": [
                {"type": "function", **function_of(tool), "strict": tool.strict}
                for tool in conversation.tools
            ]
            or None,
            "tool_choice": choices.get(
                conversation.choice, {"type": "function", "name": conversation.choice}
            ),
            "parallel_tool_calls": False if conversation.serial else None,
            "text": None if conversation.shape is None else {"format": form},
            "reasoning": None if effort is None else {"effort": effort},
        }
    )


def _items(turn: Turn, lost: set[str]) -> Iterator[dict[str, Any]]:
    """The items of a turn: a message for texts and images in a row, each call, each result."""
    shown: list[Text | Image] = []
    for part in turn.parts:
        match part:
            case Call(ident, name, arguments):
                if shown:
                    yield {"role": turn.role, "content": _content(shown, turn.role)}
                    shown = []
                call = {"type": "function_call", "call_id": call_id(ident, _CALL_ID, lost)}
                yield {**call, "name": name, "arguments": arguments}
            case Result(ident, inner, failed):
                if failed:
                    lost.add("is_error")
                output = _content(list(inner), turn.role)
                known = call_id(ident, _CALL_ID, lost)
                yield {"type": "function_call_output", "call_id": known, "output": output}
            case _:
                shown.append(part)
    if shown or not turn.parts:
        yield {"role": turn.role, "content": _content(shown, turn.role)}


def _content(parts: list[Text | Image], role: Role) -> str | list[dict[str, Any]]:
    """One text as it is, nothing as an empty one."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    kind = "output_text" if role == "assistant" else "input_text"
    return [
        {"type": kind, "text": part.text}
        if isinstance(part, Text)
        else filled({"type": "input_image", "image_url": part.url, "detail": part.detail})
        for part in parts
    ]
