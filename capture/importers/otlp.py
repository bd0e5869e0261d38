"""OpenTelemetry spans of the GenAI conventions: OTLP JSON of a collector, and flat spans.

Only spans of inference count: the agents above them repeat their usage. Nanoseconds are texts in OTLP JSON,
or numbers; attributes have moved (`prompt_tokens` became `input_tokens`, numbered prompts became messages).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tbench.capture.endings import named_outcome
from tbench.capture.exchange import Outcome
from tbench.capture.importers.importer import (
    CHAT,
    COMPLETIONS,
    CUT_SHORT,
    EMBEDDINGS,
    NO_ARRIVAL,
    NO_CONTENT,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    dumped,
    error_status,
    first,
    http_status,
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

INFERENCE: Final = {
    "chat": CHAT,
    "generate_content": CHAT,
    "text_completion": COMPLETIONS,
    "embeddings": EMBEDDINGS,
}
"""Operations that are one request to a model, and what they are replayed as."""
NO_INFERENCE: Final = LeftOut("not a span of inference")
NO_SPAN: Final = LeftOut("no span")
PARAMETERS: Final = {
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.stop_sequences": "stop",
    "gen_ai.request.stream": "stream",
}
SESSIONS: Final = (
    "gen_ai.conversation.id",
    "session.id",
    "traceloop.association.properties.session_id",
)
STREAMED: Final = ("gen_ai.is_streaming", "llm.is_streaming")
"""By OpenLLMetry, now and before; some write the word."""
CHUNK: Final = "content.completion.chunk"
"""How the name of an event ends that OpenLLMetry writes for each chunk of a stream."""
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)
_NUMBERED = re.compile(r"gen_ai\.prompt\.(\d+)\.(role|content)")


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """The spans of a batch, or one span."""
    if "resourceSpans" in row or "scopeSpans" in row:
        for resource in _items(row.get("resourceSpans")) if "resourceSpans" in row else (row,):
            for scope in _items(resource.get("scopeSpans")):
                yield from (_call(span) for span in _items(scope.get("spans")))
    elif "spans" in row:
        yield from (_call(span) for span in _items(row.get("spans")))
    else:
        yield _call(row)


def _items(value: object) -> Iterator[Row]:
    for item in value if isinstance(value, list) else ():
        yield item if isinstance(item, dict) else {}


def _call(span: Row) -> Call | LeftOut:
    attributes = _attributes(span.get("attributes"))
    operation = attributes.get("gen_ai.operation.name") or attributes.get("llm.request.type")
    path = INFERENCE.get({"completion": "text_completion"}.get(str(operation), str(operation)))
    if not attributes:
        return NO_INFERENCE if "name" in span else NO_SPAN
    if path is None:
        return NO_INFERENCE
    # OTLP gives nanoseconds, flat spans give dates.
    arrive, end = (
        scaled(span[nanoseconds], "ns") if nanoseconds in span else moment(span.get(date))
        for nanoseconds, date in (
            ("startTimeUnixNano", "start_time"),
            ("endTimeUnixNano", "end_time"),
        )
    )
    if arrive is None:
        return NO_ARRIVAL
    usage = Usage(
        prompt=first(count, attributes, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
        output=first(
            count, attributes, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"
        ),
        cached=first(
            count,
            attributes,
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.cache_read_input_tokens",
        ),
        reasoning=count(attributes.get("gen_ai.usage.reasoning.output_tokens")),
        created=first(
            count,
            attributes,
            "gen_ai.usage.cache_creation.input_tokens",
            "gen_ai.usage.cache_creation_input_tokens",
        ),
    )
    # The convention's attribute says the first token; OpenLLMetry says it by the first chunk's event.
    waited = scaled(attributes.get("gen_ai.response.time_to_first_chunk"), "s")
    chunks = [
        at
        for event in _items(span.get("events"))
        if str(event.get("name")).endswith(CHUNK)
        and (at := scaled(event.get("timeUnixNano"), "ns")) is not None
    ]
    token = min(chunks, default=None) if waited is None else arrive + waited
    streamed = token is not None or any(
        str(attributes.get(name)).lower() == "true" for name in STREAMED
    )
    content = _content(attributes, path, usage, streamed=streamed)
    if isinstance(content, LeftOut):
        return content
    answers = _items(unpacked(attributes.get("gen_ai.output.messages")))
    answer = next((message for item in answers for message in _messages(item)), None)
    if answer is None and (words := text(attributes.get("gen_ai.completion.0.content"))):
        answer = {"role": "assistant", "content": words}
    reasons = attributes.get("gen_ai.response.finish_reasons")
    reason = text(reasons[0]) if isinstance(reasons, list) and reasons else None
    reason = reason or text(attributes.get("gen_ai.completion.0.finish_reason"))
    status, outcome, failure = _ending(span, attributes)
    recorded = not isinstance(content, Lengths)
    if chunks and recorded and not (failure or outcome or reason or usage.output):
        # OpenLLMetry ends the span of a stream that was left, or broke, as a success, its id with it. Where
        # content is off, or goes to events, its older versions write no finish of any stream.
        outcome, failure = Outcome.CUT, "a stream without a finish"
    if chunks and status is None and (failure or outcome) and outcome is not Outcome.HTTP_ERROR:
        status, outcome = 200, outcome or Outcome.CUT  # the answer had begun
    address = _address(attributes)
    return Call(
        arrive_ns=arrive,
        end_ns=end,
        first_token_ns=token,
        scheme="http" if address.startswith("http://") else "https",
        host=address,
        path=path,
        model=text(attributes.get("gen_ai.request.model")),
        body=content,
        answer=None if error_status(status) else answer,
        finish_reason="tool_calls" if reason == "tool_call" else reason,
        usage=usage,
        status=status,
        failure=failure,
        outcome=outcome,
        session=first(identity, attributes, *SESSIONS),
        id=f"{span.get('traceId') or span.get('trace_id')} {span.get('spanId') or span.get('span_id')}",
    )


def _ending(
    span: Row, attributes: Mapping[str, Any]
) -> tuple[int | None, Outcome | None, str | None]:
    """The HTTP status that a span tells of, what broke and in which words.

    `error.type` is a status, an exception's name or a word; an exception's event has its name as well. A span
    of a client that left is no failure by the conventions, and of tbench's alone it is known.
    """
    state = members(span.get("status"))
    kind = attributes.get("error.type")
    outcome = named_outcome(attributes.get("tbench.outcome"))
    status = error_status(kind) or http_status(attributes.get("http.response.status_code"))
    if state.get("code") not in (2, "STATUS_CODE_ERROR", "ERROR") and kind in (None, ""):
        return status if outcome else None, outcome, text(state.get("message")) if outcome else None
    words = text(state.get("message"))
    status = error_status(status) or told(words)[0] or status
    if outcome is None and not error_status(status):
        raised = (
            _attributes(event.get("attributes")).get("exception.type")
            for event in _items(span.get("events"))
            if event.get("name") == "exception"
        )
        outcome = next(filter(None, map(named_outcome, (kind, *raised))), None)
    return status, outcome, words or text(kind) or "failed, as its span says"


def _address(attributes: Mapping[str, Any]) -> str:
    """Where it went, as a URL; empty where a span does not say."""
    host, port = text(attributes.get("server.address")), count(attributes.get("server.port"))
    if host is None or "://" in host:
        return host or text(attributes.get("gen_ai.openai.api_base")) or ""
    scheme = text(attributes.get("url.scheme")) or "https"
    named = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
    port = None if port == {"https": 443, "http": 80}.get(scheme) else port
    return f"{scheme}://{named}" + ("" if port is None else f":{port}")


def _attributes(value: object) -> dict[str, Any]:
    """The attributes of a span: a list of keys and typed values, or an object."""
    if isinstance(value, dict):
        return value
    return {
        str(item.get("key")): _typed(item.get("value"))
        for item in _items(value)
        if item.get("key") is not None
    }


def _typed(value: object) -> Any:  # noqa: ANN401 (whatever it holds)
    """An AnyValue of OTLP: one member, named by its type; whole numbers may be texts."""
    if not isinstance(value, dict) or len(value) != 1:
        return value
    ((kind, inner),) = value.items()
    if kind == "intValue":
        return int(inner) if isinstance(inner, str) and _INTEGER.fullmatch(inner) else inner
    if kind == "arrayValue":
        return [_typed(item) for item in _items(members(inner).get("values"))]
    if kind == "kvlistValue":
        return _attributes(members(inner).get("values"))
    return inner


def _content(
    attributes: Mapping[str, Any], path: str, usage: Usage, *, streamed: bool
) -> dict[str, Any] | Lengths | LeftOut:
    """The request, put together; the length alone where content was not recorded."""
    asked = attributes.get("gen_ai.input.messages")
    if is_cut(asked):
        return CUT_SHORT
    settings = {
        name: value
        for key, name in PARAMETERS.items()
        if (value := attributes.get(key)) is not None
    }
    messages = [message for item in _items(unpacked(asked)) for message in _messages(item)]
    if not messages:  # the older convention: gen_ai.prompt.0.role, gen_ai.prompt.0.content, ...
        turns: dict[int, dict[str, Any]] = {}
        for key, value in attributes.items():
            if (match := _NUMBERED.fullmatch(key)) and len(match[1]) < 9:
                turns.setdefault(int(match[1]), {"role": "user", "content": ""})[match[2]] = value
        messages = [turns[number] for number in sorted(turns)]
    instructions = unpacked(attributes.get("gen_ai.system_instructions"))
    if words := _words(instructions if isinstance(instructions, list) else [instructions]):
        messages.insert(0, {"role": "system", "content": words})
    if streamed:
        settings.setdefault("stream", True)
    if messages and path == CHAT:
        if tools := list(_tools(unpacked(attributes.get("gen_ai.tool.definitions")))):
            settings["tools"] = tools
        return {"messages": messages, **settings}
    if messages and path == EMBEDDINGS:
        return {"input": [_words([message.get("content")]) for message in messages]}
    if messages and path == COMPLETIONS:
        prompts = (_words([message.get("content")]) for message in messages)
        return {"prompt": "\n".join(prompts), **settings}
    return prompt_of(usage) if path != EMBEDDINGS else NO_CONTENT


def _tools(definitions: object) -> Iterator[Row]:
    """Tools in OpenAI's shape; by the conventions the members of a function stand beside its type."""
    for tool in _items(definitions):
        if "function" in tool:
            yield tool
        elif tool.get("type") == "function" and text(tool.get("name")):
            yield {
                "type": "function",
                "function": {name: value for name, value in tool.items() if name != "type"},
            }


def _messages(item: Row) -> Iterator[dict[str, Any]]:
    """A message of the convention in OpenAI's shape; each answer of a tool is a message of its own."""
    role = text(item.get("role")) or "user"
    role = {"human": "user", "ai": "assistant"}.get(role.lower(), role)
    if "parts" not in item:
        yield {**item, "role": role}
        return
    parts = list(_items(item.get("parts")))
    asked = [part for part in parts if part.get("type") == "tool_call"]
    told = [part for part in parts if part.get("type") == "tool_call_response"]
    for part in told:
        answer = part.get("response", part.get("result"))
        yield {"role": "tool", "tool_call_id": str(part.get("id")), "content": _as_text(answer)}
    content = _content_of(parts)
    if content or asked or not told:
        calls_made = [
            {
                "id": str(part.get("id")),
                "type": "function",
                "function": {
                    "name": str(part.get("name")),
                    "arguments": _as_text(part.get("arguments")),
                },
            }
            for part in asked
        ]
        yield {
            "role": role,
            "content": content,
            **({"tool_calls": calls_made} if calls_made else {}),
        }


def _content_of(parts: list[Row]) -> str | list[Row]:
    """A message's content in OpenAI's shape: a text, or a list where there are images."""
    content: list[Row] = []
    for part in parts:
        match part:
            case {"type": "text", "content": str(words)}:
                content.append({"type": "text", "text": words})
            case {"type": "uri", "modality": "image", "uri": str(url)}:
                content.append({"type": "image_url", "image_url": {"url": url}})
            case {
                "type": "blob",
                "modality": "image",
                "mime_type": str(kind),
                "content": str(data),
            }:
                url = f"data:{kind};base64,{data}"
                content.append({"type": "image_url", "image_url": {"url": url}})
            case {"type": "image_url"}:
                content.append(part)
    if any(part["type"] != "text" for part in content):
        return content
    return "".join(part["text"] for part in content)


def _as_text(value: object) -> str:
    """A text as it is, anything else as JSON: the conventions allow both, OpenAI's API only the text."""
    return value if isinstance(value, str) else dumped(value).decode()


def _words(parts: list[Any]) -> str:
    """The texts among parts."""
    texts = (
        part
        if isinstance(part, str)
        else part.get("content")
        if part.get("type") == "text"
        else None
        for part in parts
        if isinstance(part, str | dict)
    )
    return "".join(word for word in texts if isinstance(word, str))


OTLP = Importer(
    calls=calls,
    matches=lambda row: (
        bool({"resourceSpans", "scopeSpans", "spans"} & row.keys())
        or any(
            str(name).startswith(("gen_ai.", "llm.")) for name in _attributes(row.get("attributes"))
        )
    ),
    trust={"arrival": "reported", "end": "reported", "first_token": "derived"},
    cannot="the HTTP bodies; audio, files and reasoning in messages; what sampling left out; times between "
    "tokens",
    repeats=True,
    documents=(("resourceSpans",), ("spans",)),
)
