"""Tracers: observations of Langfuse, and runs of LangSmith.

Langfuse: its blob export (JSONL, JSON, CSV, Parquet) and the export from its pages. Times are UTC without a
zone, `latency` and `time_to_first_token` are seconds. Rows may stand twice. Only generations went to a model:
spans above them repeat their usage.

LangSmith: its bulk export (Parquet) and its API (JSONL, JSON). `inputs` are what the tracer saw: LangChain's
messages, as objects or plain, or the arguments of an SDK that LangSmith wraps. Times are RFC 3339, or dates
in UTC without a zone. The runs above a call repeat its usage.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from tbench.capture.importers.importer import (
    CHAT,
    COMPLETIONS,
    CUT_SHORT,
    NO_ARRIVAL,
    RESPONSES,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    dumped,
    first,
    identity,
    is_cut,
    members,
    moment,
    prompt_of,
    scaled,
    text,
    told,
    unpacked,
)
from tbench.capture.providers import Usage

NO_GENERATION: Final = LeftOut("not a generation")
_ENDLESS = re.compile(r'"?\bInfinity\b"?')
"""The `max_tokens` of requests that named none, as Langfuse's wrapper of OpenAI's SDK logs them."""


def langfuse(row: Row) -> Call | LeftOut:
    """One observation."""
    if str(row.get("type")).upper() != "GENERATION":
        return NO_GENERATION
    arrive = first(moment, row, "start_time", "startTime")
    if arrive is None:
        return NO_ARRIVAL
    details = members(first(_stated, row, "usage_details", "usageDetails"))
    prompt, output = count(row.get("promptTokens")), count(row.get("completionTokens"))
    if details:
        # Kinds such as `input_cached_tokens`, or Anthropic's, are parts beside `input`: they add up.
        sides = (
            [count(value) for name, value in details.items() if str(name).startswith(names)]
            for names in (("input", "cache_"), ("output",))
        )
        parts = [[number for number in side if number is not None] for side in sides]
        prompt, output = (sum(side) if side else None for side in parts)
    usage = Usage(
        prompt=prompt,
        output=output,
        cached=first(count, details, "input_cached_tokens", "cache_read_input_tokens"),
        reasoning=count(details.get("output_reasoning_tokens")),
    )
    token = first(moment, row, "completion_start_time", "completionStartTime")
    waited = scaled(first(_stated, row, "time_to_first_token", "timeToFirstToken"), "s")
    if token is None and waited is not None:
        token = arrive + waited
    end, took = first(moment, row, "end_time", "endTime"), scaled(row.get("latency"), "s")
    if end is None and took is not None:
        end = arrive + took
    # Some loggers write the end as the first token of what was not streamed.
    body = _langfuse_body(
        row, usage, streamed=token is not None and end is not None and token < end
    )
    if isinstance(body, LeftOut):
        return body
    failed = row.get("level") == "ERROR"
    answer = unpacked(row.get("output"))
    why = first(text, row, "status_message", "statusMessage")
    status, outcome = told(why) if failed else (None, None)
    return Call(
        arrive_ns=arrive,
        end_ns=end,
        first_token_ns=token,
        model=first(text, row, "provided_model_name", "model", "providedModelName"),
        body=body,
        answer=answer if answer and isinstance(answer, dict | str) and not failed else None,
        usage=usage,
        status=status,
        failure=(why or "failed, as Langfuse says") if failed else None,
        outcome=outcome,
        session=first(identity, row, "session_id", "sessionId"),
        id=text(row.get("id")),
    )


def _stated(value: object) -> object:
    """What says something."""
    return None if value == "" else value


def _langfuse_body(row: Row, usage: Usage, *, streamed: bool) -> dict[str, Any] | Lengths | LeftOut:
    """What the SDK was given, with the parameters; the length alone where that was not exported."""
    if is_cut(row.get("input")):
        return CUT_SHORT
    asked = unpacked(row.get("input"))
    parameters = first(_stated, row, "model_parameters", "modelParameters")
    if isinstance(parameters, str):
        parameters = _ENDLESS.sub("null", parameters)
    settings = {
        name: unpacked(value)
        for name, value in members(parameters).items()
        if value not in (None, "Infinity")
    }
    if streamed:
        settings.setdefault("stream", True)
    if isinstance(asked, dict) and isinstance(asked.get("messages"), list):
        return {**settings, **asked}
    if isinstance(asked, dict) and "role" in asked:
        asked = [asked]
    if (
        isinstance(asked, list)
        and asked
        and all(isinstance(each, dict) and "role" in each for each in asked)
    ):
        return {**settings, "messages": asked}
    if prompt := text(asked):
        return {**settings, "messages": [{"role": "user", "content": prompt}]}
    if asked not in (None, "", [], {}):
        return LeftOut("whose input is no messages")
    return prompt_of(usage)


NO_RUN: Final = LeftOut("not a run of a model")
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


def langsmith(row: Row) -> Call | LeftOut:
    """The call of one run."""
    if row.get("run_type") != "llm":
        return NO_RUN
    arrive = moment(row.get("start_time"))
    if arrive is None:
        return NO_ARRIVAL
    outputs, extra = members(row.get("outputs")), members(row.get("extra"))
    metadata, params = members(extra.get("metadata")), members(extra.get("invocation_params"))
    usage = _usage(row, outputs, metadata)
    content = _langsmith_body(row.get("inputs"), params, usage)
    if isinstance(content, LeftOut):
        return content
    path, body = content
    model = first(text, params, "model", "model_name") or text(metadata.get("ls_model_name"))
    events = unpacked(row.get("events"))
    tokens = (
        moment(event.get("time"))
        for event in map(members, events if isinstance(events, list) else ())
        if event.get("name") == "new_token"
    )
    error = text(row.get("error"))
    status, outcome = told(error)
    return Call(
        arrive_ns=arrive,
        end_ns=moment(row.get("end_time")),
        first_token_ns=moment(row.get("first_token_time")) or next(filter(None, tokens), None),
        path=path,
        model=model,
        body=body,
        answer=None if error else _answer(outputs),
        usage=usage,
        status=status,
        failure=error.strip().splitlines()[0] if error else None,
        outcome=outcome,
        session=first(identity, metadata, *THREAD),
        id=text(row.get("id")),
    )


def _usage(row: Row, outputs: Row, metadata: Row) -> Usage:
    """Tokens as the run's own columns have them, else as its tracer has left them."""
    message = _message(_generated(outputs).get("message"))
    traced = members(outputs.get("usage_metadata")) or members(metadata.get("usage_metadata"))
    traced = traced or members(message.get("usage_metadata"))
    prompt, output = count(row.get("prompt_tokens")), count(row.get("completion_tokens"))
    details = members(row.get("prompt_token_details")) or members(traced.get("input_token_details"))
    answered = members(row.get("completion_token_details")) or members(
        traced.get("output_token_details")
    )
    return Usage(
        prompt=prompt or count(traced.get("input_tokens")),
        output=output or count(traced.get("output_tokens")),
        cached=count(details.get("cache_read")),
        reasoning=count(answered.get("reasoning")),
    )


def _langsmith_body(
    inputs: object, params: Row, usage: Usage
) -> tuple[str, dict[str, Any] | Lengths] | LeftOut:
    """The endpoint and the body: the arguments of an SDK as they are, else messages and parameters."""
    if is_cut(inputs):
        return CUT_SHORT
    given = members(inputs)
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
        if not given.get("model"):
            return NO_MESSAGES
        return RESPONSES, {name: value for name, value in given.items() if value is not None}
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
    content = message.get("content")
    if isinstance(content, list):  # without parts that repeat its tool calls
        repeated = ("tool_use", "input_json_delta", "tool_call")
        content = [part for part in content if members(part).get("type") not in repeated]
    made: dict[str, Any] = {"role": role, "content": "" if content is None else content}
    if asked := _tool_calls(message):
        made["tool_calls"] = asked
    if role == "tool":
        made["tool_call_id"] = str(message.get("tool_call_id"))
    if name := text(message.get("name")):
        made["name"] = name
    return made


def _tool_calls(message: Row) -> list[Any]:
    """The calls of tools, as LangChain or as OpenAI writes them."""
    asked = message.get("tool_calls")
    if not isinstance(asked, list) or not asked:
        plain = members(message.get("additional_kwargs")).get("tool_calls")
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


LANGFUSE = Importer(
    calls=langfuse,
    matches=lambda row: (
        bool({"start_time", "startTime"} & row.keys())
        and bool({"trace_id", "traceId"} & row.keys())
        and "type" in row
    ),
    trust={"arrival": "reported", "end": "reported", "first_token": "reported"},
    cannot="the HTTP bodies: `input` is what the SDK was given; times between tokens",
    repeats=True,
)
LANGSMITH = Importer(
    calls=langsmith,
    matches=lambda row: {"run_type", "start_time", "inputs"} <= row.keys(),
    trust={"arrival": "reported", "end": "reported", "first_token": "reported"},
    cannot="the HTTP bodies: `inputs` are what the tracer saw; times between tokens",
    repeats=True,
    documents=(("runs",), ("data",)),
)
