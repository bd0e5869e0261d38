"""Chat completions, read into a Conversation and written from one."""

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
    Part,
    Result,
    Text,
    Tool,
    Turn,
    beyond,
    choice_of,
    effort_of,
    filled,
    function_of,
    joined,
    object_of,
    objects,
    stop_of,
    text_of,
    tool_of,
    word,
)

_PLAIN: Final = ("model", "stream", "temperature", "top_p", "top_k")
_KNOWN: Final = (
    *_PLAIN,
    *("messages", "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice"),
    *("parallel_tool_calls", "response_format", "reasoning_effort", "stream_options"),
)


def read(body: Json, lost: set[str]) -> Conversation:
    """The conversation of a chat. Raises Mute."""
    beyond(body, _KNOWN, lost)
    options = object_of(body.get("stream_options"), "stream_options")
    beyond(options, ("include_usage",), lost, "stream_options.")
    newer = body.get("max_completion_tokens")
    return Conversation(
        turns=joined(_turn(message, lost) for message in objects(body.get("messages"), "messages")),
        **{name: body.get(name) for name in _PLAIN},
        limit=body.get("max_tokens") if newer is None else newer,
        stop=stop_of(body.get("stop")),
        tools=tuple(_tools(body, lost)),
        choice=choice_of(body.get("tool_choice"), lost),
        serial=body.get("parallel_tool_calls") is False,
        shape=_shape(body.get("response_format"), lost),
        effort=body.get("reasoning_effort"),
    )


def _turn(message: Json, lost: set[str]) -> Turn:
    beyond(message, ("role", "content", "tool_calls", "tool_call_id"), lost, "messages.")
    role, parts = message.get("role"), _parts(message.get("content"), lost)
    if role == "tool":
        ident = text_of(message.get("tool_call_id"), "tool_call_id")
        return Turn("tool", (Result(ident, tuple(parts)),))
    if str(role) not in OPENAI_ROLES:
        raise Mute(f"role {role}")
    calls: list[Part] = []
    for call in objects(message.get("tool_calls"), "tool_calls"):
        beyond(call, ("id", "type", "index", "function"), lost, "tool_calls.")
        match call:
            case {"id": str(ident), "function": {"name": str(name), "arguments": str(arguments)}}:
                # Some servers write no arguments as an empty text, which is no JSON elsewhere.
                calls.append(Call(ident, name, arguments or "{}"))
            case _:
                raise Mute(f"tool_calls.{call.get('type')}")
    return Turn(OPENAI_ROLES[str(role)], (*parts, *calls))


def _parts(content: object, lost: set[str]) -> list[Text | Image]:
    """The texts and images of a message."""
    if content is None or isinstance(content, str):
        # Empty texts are dropped by each reader: Messages refuses them.
        return [Text(content)] if content else []
    parts: list[Text | Image] = []
    for part in objects(content, "content"):
        beyond(part, ("type", "text", "image_url"), lost, "content.")
        match part:
            case {"type": "text", "text": str(text)}:
                parts += [Text(text)] if text else []
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                image = part["image_url"]
                beyond(image, ("url", "detail"), lost, "image_url.")
                detail = image.get("detail")
                parts.append(Image(url, None if detail == "auto" else detail))
            case {"type": "image_url", "image_url": str(url)}:
                parts.append(Image(url))
            case _:
                raise Mute(f"content.{part.get('type')}")
    return parts


def _tools(body: Json, lost: set[str]) -> Iterator[Tool]:
    for tool in objects(body.get("tools"), "tools"):
        function = tool.get("function")
        if tool.get("type") == "function" and isinstance(function, dict):
            beyond(tool, ("type", "function"), lost, "tools.")
            yield tool_of(function, lost)
        else:
            lost.add(f"tools.{word(tool.get('type'))}")


def _shape(form: object, lost: set[str]) -> Json | None:
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"type": "json_schema", "json_schema": dict(schema)}:
            return schema
    lost.add("response_format")
    return None


def write(conversation: Conversation, lost: set[str]) -> dict[str, Any]:
    """The body of a chat."""
    choices: dict[str | None, object] = {None: None, NO_TOOL: "none", ANY_TOOL: "required"}
    forced = {"type": "function", "function": {"name": conversation.choice}}
    strict = {True: {"strict": True}, False: {}}
    shaped = {"type": "json_schema", "json_schema": conversation.shape}
    return filled(
        {
            "model": conversation.model,
            "messages": [
                message for turn in conversation.turns for message in _messages(turn, lost)
            ],
            "stream": conversation.stream,
            "stream_options": {"include_usage": True} if conversation.stream else None,
            "max_tokens": conversation.limit,
            "temperature": conversation.temperature,
            "top_p": conversation.top_p,
            "top_k": conversation.top_k,
            "stop": list(conversation.stop) or None,
            "tools": [
                {"type": "function", "function": {**function_of(tool), **strict[tool.strict]}}
                for tool in conversation.tools
            ]
            or None,
            "tool_choice": choices.get(conversation.choice, forced),
            "parallel_tool_calls": False if conversation.serial else None,
            "response_format": None
            if conversation.shape is None
            else (shaped if conversation.shape else {"type": "json_object"}),
            "reasoning_effort": effort_of(conversation.effort, EFFORTS, lost),
        }
    )


def _messages(turn: Turn, lost: set[str]) -> Iterator[dict[str, Any]]:
    calls = [part for part in turn.parts if isinstance(part, Call)]
    shown = [part for part in turn.parts if isinstance(part, Text | Image)]
    for part in turn.parts:
        if isinstance(part, Result):
            texts = [inner for inner in part.parts if isinstance(inner, Text)]
            if len(texts) < len(part.parts):
                lost.add("tool_result.image")
            if part.failed:
                lost.add("is_error")
            yield {"role": "tool", "tool_call_id": part.id, "content": _content(texts)}
            return
    # A chat's message has its calls beside its text, without an order: text after a call moves before it.
    if calls and turn.parts[-len(calls) :] != tuple(calls):
        lost.add("order")
    message: dict[str, Any] = {"role": turn.role, "content": _content(shown)}
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    yield message


def _content(parts: list[Text] | list[Text | Image]) -> str | list[dict[str, Any]]:
    """A message's content: one text as it is, nothing as an empty one."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else {"type": "image_url", "image_url": filled({"url": part.url, "detail": part.detail})}
        for part in parts
    ]
