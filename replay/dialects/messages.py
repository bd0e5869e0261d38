"""Anthropic's Messages, read into a Conversation and written from one."""

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from tbench.replay.dialects.conversation import (
    ANY_TOOL,
    EFFORTS,
    NO_TOOL,
    Call,
    Conversation,
    Image,
    Json,
    Mute,
    Part,
    Result,
    Text,
    Turn,
    beyond,
    call_id,
    effort_of,
    filled,
    function_of,
    joined,
    json_of,
    object_of,
    objects,
    stop_of,
    tool_of,
    word,
)

LIMIT: Final = 4096
"""Messages must have a limit: this one where the request has none, counted as `max_tokens`."""
HOTTEST: Final = 1.0
"""The highest temperature that Messages takes."""
_PLAIN: Final = ("model", "stream", "temperature", "top_p", "top_k")
_KNOWN: Final = (
    *_PLAIN,
    *("messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice"),
    *("output_config", "output_format"),
)
_EFFORTS = EFFORTS[EFFORTS.index("low") :]
SHAPE_NAME: Final = "answer"
"""Shapes have no name in Messages, and must have one elsewhere."""
_CALL_ID = re.compile(r"[\w-]+", re.ASCII)
_DATA = re.compile(r"data:([\w.+/-]+);base64,(.*)", re.DOTALL)


def read(body: Json, lost: set[str]) -> Conversation:
    """The conversation of Messages. Raises Mute."""
    beyond(body, _KNOWN, lost)
    system = tuple(_parts(body.get("system"), lost))
    opening = [Turn("system", system)] if system else []
    tools = []
    for tool in objects(body.get("tools"), "tools"):
        if tool.get("type") in (None, "custom"):
            tools.append(tool_of(tool, lost, parameters="input_schema"))
        else:
            lost.add(f"tools.{word(tool['type'])}")
    config = object_of(body.get("output_config"), "output_config")
    beyond(config, ("effort", "format"), lost, "output_config.")
    choice = object_of(body.get("tool_choice"), "tool_choice")
    beyond(choice, ("type", "name", "disable_parallel_tool_use"), lost, "tool_choice.")
    forced = choice.get("name")
    choices = {
        "any": ANY_TOOL,
        "none": NO_TOOL,
        "tool": forced if isinstance(forced, str) else None,
    }
    turns = (
        turn
        for message in objects(body.get("messages"), "messages")
        for turn in _turns(message, lost)
    )
    return Conversation(
        turns=joined([*opening, *turns]),
        **{name: body.get(name) for name in _PLAIN},
        limit=body.get("max_tokens"),
        stop=stop_of(body.get("stop_sequences")),
        tools=tuple(tools),
        choice=choices.get(str(choice.get("type"))),
        serial=choice.get("disable_parallel_tool_use") is True,
        shape=_shape(config.get("format") or body.get("output_format"), lost),
        effort=config.get("effort"),
    )


def _shape(form: object, lost: set[str]) -> Json | None:
    """The JSON that an answer must be: Messages holds every answer to it."""
    match form:
        case None:
            return None
        case {"type": "json_schema", "schema": dict(schema)}:
            return {"name": SHAPE_NAME, "schema": schema, "strict": True}
    lost.add("output_config.format")
    return None


def _output(conversation: Conversation, lost: set[str]) -> Json | None:
    """What Messages is told about its output: the answer's shape, and how hard to reason."""
    config: dict[str, Any] = {}
    shape = conversation.shape
    if shape is not None:
        schema = shape.get("schema")
        if isinstance(schema, dict):
            config["format"] = {"type": "json_schema", "schema": schema}
            plain = {"name": SHAPE_NAME, "strict": True}
            changed = {name for name in plain if shape.get(name) != plain[name]}
            changed |= {word(name) for name in shape.keys() - {"schema", *plain}}
            lost |= {f"json_schema.{name}" for name in changed}
        else:
            lost.add("response_format")
    config["effort"] = effort_of(conversation.effort, _EFFORTS, lost)
    return filled(config) or None


def _turns(message: Json, lost: set[str]) -> Iterator[Turn]:
    """The turns in a message: each result of a tool is one, and comes before what the user says."""
    role = message.get("role")
    if role not in ("user", "assistant"):
        raise Mute(f"role {role}")
    beyond(message, ("role", "content"), lost, "messages.")
    parts = _parts(message.get("content"), lost)
    spoken = tuple(part for part in parts if not isinstance(part, Result))
    for part in parts:
        if isinstance(part, Result):
            yield Turn("tool", (part,))
    # A message of results alone is no turn of the user's; one
    # of nothing at all is, and is counted where it is dropped.
    if spoken or len(spoken) == len(parts):
        yield Turn(role, spoken)


def _parts(content: object, lost: set[str]) -> list[Part]:
    if content is None or isinstance(content, str):
        return [Text(content)] if content else []
    parts: list[Part] = []
    for block in objects(content, "content"):
        known: tuple[str, ...] = ("type", "text", "source")
        match block:
            case {"type": "text", "text": str(text)}:
                parts += [Text(text)] if text else []
            case {"type": "image", "source": {"type": "url", "url": str(url)}}:
                parts.append(Image(url))
            case {"type": "image", "source": {"media_type": str(kind), "data": str(data)}}:
                parts.append(Image(f"data:{kind};base64,{data}"))
            case {"type": "tool_use", "id": str(ident), "name": str(name), "input": given}:
                parts.append(Call(ident, name, json_of(given)))
                known = ("type", "id", "name", "input")
            case {"type": "tool_result", "tool_use_id": str(ident)}:
                inner = _parts(block.get("content"), lost)
                failed = block.get("is_error") is True
                shown = tuple(part for part in inner if isinstance(part, Text | Image))
                parts.append(Result(ident, shown, failed))
                known = ("type", "tool_use_id", "content", "is_error")
            case {"type": "thinking" | "redacted_thinking"}:
                lost.add("thinking")
                continue
            case _:
                raise Mute(f"content.{block.get('type')}")
        beyond(block, known, lost, "content.")
    return parts


def write(conversation: Conversation, lost: set[str]) -> dict[str, Any]:
    """The body of Messages. Raises Mute."""
    turns = [
        Turn(turn.role, tuple(p for p in turn.parts if not isinstance(p, Text) or p.text.strip()))
        for turn in conversation.turns
    ]
    if any(len(a.parts) < len(b.parts) for a, b in zip(turns, conversation.turns, strict=True)):
        lost.add("blank_text")
    system = turns.pop(0) if turns and turns[0].role == "system" else None
    choices: dict[str | None, Json | None] = {
        # `disable_parallel_tool_use` has no place but in a choice.
        None: {"type": "auto"} if conversation.serial else None,
        NO_TOOL: {"type": "none"},
        ANY_TOOL: {"type": "any"},
    }
    choice = choices.get(conversation.choice, {"type": "tool", "name": conversation.choice})
    serial = {"disable_parallel_tool_use": True} if conversation.serial else {}
    if conversation.limit is None:
        lost.add("max_tokens")
    stops = [text for text in conversation.stop if text.strip()]
    if len(stops) < len(conversation.stop):  # it takes none of blanks alone
        lost.add("stop")
    temperature = conversation.temperature
    if isinstance(temperature, int | float) and temperature > HOTTEST:
        temperature = HOTTEST
        lost.add("temperature")
    return filled(
        {
            "model": conversation.model,
            "system": None if not system or not system.parts else _content(system.parts, lost),
            "messages": _messages(turns, lost),
            "stream": conversation.stream,
            "max_tokens": LIMIT if conversation.limit is None else conversation.limit,
            "temperature": temperature,
            "top_p": conversation.top_p,
            "top_k": conversation.top_k,
            "stop_sequences": stops or None,
            "tools": [
                function_of(tool, parameters="input_schema")
                | ({"strict": True} if tool.strict else {})
                for tool in conversation.tools
            ]
            or None,
            "output_config": _output(conversation, lost),
            "tool_choice": {**choice, **serial} if choice and conversation.tools else None,
        }
    )


def _messages(turns: list[Turn], lost: set[str]) -> list[dict[str, Any]]:
    """The messages: what tools gave in a row is one of the user's, a later word of the system's as well."""
    messages: list[dict[str, Any]] = []
    before = ""
    for turn in turns:
        content = _content(turn.parts, lost)
        if turn.role == "system":
            lost.add("system_turn")
        # All results of one answer's calls must stand in the
        # message that follows it, or Messages refuses it.
        if turn.role == before == "tool":
            messages[-1]["content"] += content
        elif turn.parts:
            role = "assistant" if turn.role == "assistant" else "user"
            messages.append({"role": role, "content": content})
        else:
            lost.add("empty_message")
        before = turn.role
    return messages


def _content(parts: tuple[Part, ...] | tuple[Text | Image, ...], lost: set[str]) -> Any:  # noqa: ANN401
    """A message's content: one text as it is, all else as blocks."""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_block(part, lost) for part in parts]


def _block(part: Part, lost: set[str]) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image(url, detail):
            if detail is not None:
                lost.add("image_url.detail")
            if match := _DATA.fullmatch(url):
                source = {"type": "base64", "media_type": match[1], "data": match[2]}
            elif url.startswith("data:"):
                raise Mute("image_url without base64")
            else:
                source = {"type": "url", "url": url}
            return {"type": "image", "source": source}
        case Call(ident, name, arguments):
            try:
                given = orjson.loads(arguments)
            except orjson.JSONDecodeError:
                given = None
            if not isinstance(given, dict):
                raise Mute("arguments that are no JSON object")
            known = call_id(ident, _CALL_ID, lost)
            return {"type": "tool_use", "id": known, "name": name, "input": given}
        case Result(ident, inner, failed):
            known, content = call_id(ident, _CALL_ID, lost), _content(inner, lost)
            block = {"type": "tool_result", "tool_use_id": known, "content": content}
            return {**block, "is_error": True} if failed else block
