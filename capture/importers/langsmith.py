"""LangSmith: runs of its bulk export (Parquet) and of its API (JSONL, JSON), those of models alone.

`inputs` are what the tracer saw: LangChain's messages, as objects or plain, or the arguments of an SDK that
LangSmith wraps. Times are RFC 3339, or dates in UTC without a zone. The runs above a call repeat its usage.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tbench.capture.importers.importer import (
    CHAT,
    COMPLETIONS,
    CUT_SHORT,
    NO_ARRIVAL,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    dumped,
    is_cut,
    moment,
    prompt_of,
    text,
    told,
    unpacked,
)
from tbench.capture.providers import Usage

OTHER: Final = LeftOut("not a run of a model")
SEVERAL: Final = LeftOut("of several conversations")
NO_MESSAGES: Final = LeftOut("whose inputs are no messages")
ROLES: Final = {"human": "user", "ai": "assistant", "aimessagechunk": "assistant", "system": "system",
                "tool": "tool", "function": "function"}  # fmt: skip
"""Roles by LangChain's types of messages."""
PARAMETERS: Final = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "stream",
                     "tools", "tool_choice", "response_format", "reasoning_effort")  # fmt: skip
"""Of `invocation_params`: those that a chat takes by the same name."""
THREAD: Final = ("session_id", "thread_id", "conversation_id")
"""Metadata by which LangSmith itself joins runs to threads."""


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """The call of one run."""
    if row.get("run_type") != "llm":
        yield OTHER
        return
    arrive = moment(row.get("start_time"))
    if arrive is None:
        yield NO_ARRIVAL
        return
    outputs, extra = _map(row.get("outputs")), _map(row.get("extra"))
    metadata, params = _map(extra.get("metadata")), _map(extra.get("invocation_params"))
    usage = _usage(row, outputs, metadata)
    content = _content(row.get("inputs"), params, usage)
    if isinstance(content, LeftOut):
        yield content
        return
    path, body = content
    named = (params.get("model"), params.get("model_name"), metadata.get("ls_model_name"))
    error = text(row.get("error"))
    status, outcome = told(error)
    yield Call(
        arrive_ns=arrive,
        end_ns=moment(row.get("end_time")),
        first_token_ns=moment(row.get("first_token_time")) or _first_token(row.get("events")),
        path=path,
        model=next(filter(None, map(text, named)), None),
        body=None if isinstance(body, Lengths) else body,
        lengths=body if isinstance(body, Lengths) else None,
        answer=None if error else _answer(outputs),
        usage=usage,
        status=status,
        failure=error.strip().splitlines()[0] if error else None,
        outcome=outcome,
        session=next((text(metadata.get(name)) for name in THREAD if metadata.get(name)), None),
        id=text(row.get("id")),
    )


def _map(value: object) -> Mapping[str, Any]:
    value = unpacked(value)
    return value if isinstance(value, dict) else {}


def _usage(row: Row, outputs: Row, metadata: Row) -> Usage:
    """Tokens as the run's own columns have them, else as its tracer has left them."""
    message = _message(_generated(outputs).get("message"))
    traced = _map(outputs.get("usage_metadata")) or _map(metadata.get("usage_metadata"))
    traced = traced or _map(message.get("usage_metadata"))
    prompt, output = count(row.get("prompt_tokens")), count(row.get("completion_tokens"))
    details = _map(row.get("prompt_token_details")) or _map(traced.get("input_token_details"))
    answered = _map(row.get("completion_token_details")) or _map(traced.get("output_token_details"))
    return Usage(
        prompt=prompt or count(traced.get("input_tokens")),
        output=output or count(traced.get("output_tokens")),
        cached=count(details.get("cache_read")),
        reasoning=count(answered.get("reasoning")),
    )


def _first_token(events: object) -> int | None:
    """When the first token's event stands."""
    events = unpacked(events)
    times = (
        moment(event.get("time"))
        for event in (events if isinstance(events, list) else ())
        if isinstance(event, dict) and event.get("name") == "new_token"
    )
    return next((at for at in times if at is not None), None)


def _content(
    inputs: object, params: Row, usage: Usage
) -> tuple[str, dict[str, Any] | Lengths] | LeftOut:
    """The endpoint and the body: the arguments of an SDK as they are, else messages and parameters."""
    if is_cut(inputs):
        return CUT_SHORT
    given = _map(inputs)
    settings = {name: params[name] for name in PARAMETERS if params.get(name) is not None}
    messages, prompts = given.get("messages"), given.get("prompts")
    if isinstance(messages, list) and messages and isinstance(messages[0], list):
        if len(messages) > 1:
            return SEVERAL
        messages = messages[0]
    if isinstance(messages, list) and messages:
        if not all(isinstance(message, dict) for message in messages):
            return NO_MESSAGES
        others = {name: value for name, value in given.items() if value is not None}
        return CHAT, {**settings, **others, "messages": [_openai(message) for message in messages]}
    if isinstance(prompts, list) and prompts:
        if len(prompts) > 1:
            return SEVERAL
        return COMPLETIONS, {**settings, "prompt": prompts[0]}
    if given.get("input"):
        path = "/v1/responses" if given.get("model") else CHAT
        if path == CHAT:
            return NO_MESSAGES
        return path, {name: value for name, value in given.items() if value is not None}
    if any(value not in (None, "", [], {}) for value in given.values()):
        return NO_MESSAGES
    return CHAT, prompt_of(usage)


def _message(item: object) -> Mapping[str, Any]:
    """What LangChain's object holds, or the message that stands there plainly."""
    message = item if isinstance(item, dict) else {}
    for wrapped in ("kwargs", "data"):
        if isinstance(message.get(wrapped), dict):
            path = message.get("id")
            name = path[-1] if isinstance(path, list) and path else message.get("type")
            kind = str(name).removesuffix("Message").lower()
            return {"type": kind, **message[wrapped]}
    return message


def _openai(item: object) -> dict[str, Any]:
    """A message in OpenAI's shape; one that has a role is in it already."""
    message = _message(item)
    if "role" in message and "type" not in message:
        return {**message}
    kind = str(message.get("type")).lower()
    role = ROLES.get(kind) or text(message.get("role")) or "user"
    made: dict[str, Any] = {"role": role, "content": _shown(message.get("content"))}
    if asked := _tool_calls(message):
        made["tool_calls"] = asked
    if role == "tool":
        made["tool_call_id"] = str(message.get("tool_call_id"))
    if name := text(message.get("name")):
        made["name"] = name
    return made


def _shown(content: object) -> Any:  # noqa: ANN401 (as it is)
    """A message's content; parts that repeat its tool calls are left out."""
    if not isinstance(content, list):
        return "" if content is None else content
    repeated = ("tool_use", "input_json_delta", "tool_call")
    return [
        part for part in content if not (isinstance(part, dict) and part.get("type") in repeated)
    ]


def _tool_calls(message: Row) -> list[Any]:
    """The calls of tools, as LangChain or as OpenAI writes them."""
    asked = message.get("tool_calls")
    if not isinstance(asked, list) or not asked:
        plain = _map(message.get("additional_kwargs")).get("tool_calls")
        return plain if isinstance(plain, list) else []
    return [
        {
            "id": str(call.get("id")),
            "type": "function",
            "function": {
                "name": str(call.get("name")),
                "arguments": dumped(call.get("args")).decode(),
            },
        }
        if isinstance(call, dict) and "args" in call
        else call
        for call in asked
    ]


def _generated(outputs: Row) -> Mapping[str, Any]:
    """The first of LangChain's generations."""
    value: Any = outputs.get("generations")
    while isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, dict) else {}


def _answer(outputs: Row) -> Mapping[str, Any] | str | None:
    """What came back: an API's whole answer, a message, or a text."""
    if outputs.keys() & {"choices", "output"} and outputs.get("object") != "list":
        return {name: value for name, value in outputs.items() if name != "usage_metadata"}
    generated, messages = _generated(outputs), outputs.get("messages")
    if isinstance(generated.get("message"), dict):
        return _openai(generated["message"])
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return _openai(messages[-1])
    return text(generated.get("text"))


LANGSMITH = Importer(
    calls=calls,
    matches=lambda row: {"run_type", "start_time", "inputs"} <= row.keys(),
    trust={"arrival": "reported", "end": "reported", "first_token": "reported"},
    cannot="the HTTP bodies: `inputs` are what the tracer saw; times between tokens",
    repeats=True,
    documents=(("runs",), ("data",)),
)
