"""OTLP JSON, spans of the GenAI conventions: a line for each exchange, as a collector's file exporter writes.

Ids are hexadecimal, nanoseconds and integers are texts, as the mapping to JSON has it. Jaeger's page
takes such a file, an object a line, and gives its lines to Jaeger. A trace there is a session here.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

from tbench.capture.exchange import ABANDONED
from tbench.capture.exporters.exporter import NO_ANSWER, Exporter, Record, Row, lines
from tbench.capture.importers.importer import LeftOut
from tbench.capture.jsontext import rewritten
from tbench.capture.providers import GENERATIVE, PROVIDERS, ParsedResponse
from tbench.capture.runtime import version
from tbench.capture.spoken import ToolCall, calls_in, spoken

OTHER: Final = LeftOut("of an endpoint that the conventions have no name for")
OPERATIONS: Final = {"completions": "text_completion", "embeddings": "embeddings"} | dict.fromkeys(
    GENERATIVE - {"completions"}, "chat"
)
"""Endpoint -> the conventions' name of the operation."""
SETTINGS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop_sequences",
    "stop_sequences": "stop_sequences",
    "stream": "stream",
}
"""Members of a body -> attributes under gen_ai.request."""


def span(record: Record) -> Row | LeftOut:
    """An exchange as a client's span."""
    facts, request, response = record.facts, record.request, record.response
    info, answer = facts.parsed.info, facts.answer
    operation = OPERATIONS.get(info.endpoint)
    if operation is None:
        return OTHER
    if response is None or answer is None:
        return NO_ANSWER
    # A client's own leaving is no error by the conventions: the span's status stays unset.
    failed = facts.outcome not in {"ok", *ABANDONED}
    error = record.error or facts.outcome
    status: dict[str, Any] = {"code": 2, "message": error} if failed else {}
    host, _, port = request.host.rpartition(":")
    host, port = (host.strip("[]"), port) if port.isdecimal() else (request.host, "")
    kind = str(response.status) if (response.status or 0) >= 400 else facts.outcome
    api = next(name for name, api in PROVIDERS.items() if api is facts.parsed.provider)
    settings = {}
    for member, name in SETTINGS.items():
        value = (record.payload or {}).get(member)
        if member.startswith("stop") and isinstance(value, str):
            value = [value]
        if isinstance(value, bool | int | float | list):
            settings[f"gen_ai.request.{name}"] = value
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "openai" if api == "responses" else api,
        "gen_ai.request.model": info.model,
        "gen_ai.request.max_tokens": info.max_tokens,
        **settings,
        "gen_ai.conversation.id": record.session,
        "gen_ai.response.finish_reasons": list(answer.finish_reasons) or None,
        "gen_ai.response.time_to_first_chunk": facts.ttft if info.stream else None,
        "gen_ai.usage.input_tokens": answer.usage.prompt,
        "gen_ai.usage.output_tokens": answer.usage.output,
        "gen_ai.usage.cache_read.input_tokens": answer.usage.cached,
        "gen_ai.usage.cache_creation.input_tokens": answer.usage.created,
        "gen_ai.usage.reasoning.output_tokens": answer.usage.reasoning,
        **_content(record, answer),
        "server.address": host,
        "server.port": int(port) if port else None,
        "url.scheme": request.scheme,
        "url.path": request.path,
        "http.response.status_code": response.status,
        "error.type": kind if failed else None,
        "tbench.request.id": request.id,
        "tbench.outcome": facts.outcome,
    }
    written = {
        "traceId": blake2b(record.session.encode("utf-8", "replace"), digest_size=16).hexdigest(),
        "spanId": blake2b(request.id.encode("utf-8", "replace"), digest_size=8).hexdigest(),
        "name": f"{operation} {info.model or ''}".strip(),
        "kind": 3,
        "startTimeUnixNano": str(record.arrival_ns),
        "endTimeUnixNano": str(record.arrival_ns + response.end_ns - request.arrive_ns),
        "attributes": _attributes(attributes),
        "status": status,
    }
    scope = {"name": "tbench", "version": version("tbench")}
    resource = {"attributes": _attributes({"service.name": "tbench"})}
    scopes = [{"scope": scope, "spans": [written]}]
    return {"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]}


def _content(record: Record, answer: ParsedResponse) -> dict[str, str | None]:
    """What was said, as the conventions have it: messages of parts, as JSON in a text."""
    payload = record.payload or {}
    asked = [
        {"role": str(message.get("role")), "parts": list(_parts(message))}
        for message in record.facts.parsed.messages
    ]
    if not asked:
        given = payload.get("prompt", payload.get("input"))
        texts = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        asked = [
            {"role": "user", "parts": [{"type": "text", "content": each}]}
            for each in texts
            if isinstance(each, str)
        ]
    parts: list[dict[str, Any]] = []
    if answer.text:
        parts.append({"type": "text", "content": answer.text})
    response = record.response
    if response and response.body and record.facts.outcome == "ok":
        # The tools that it calls, streamed or not, in any of the dialects.
        utterance = spoken(response.body, response.header("content-encoding") or "")
        parts += map(_called, utterance.calls if utterance else ())
    finish = next(iter(answer.finish_reasons), "")
    told = [{"role": "assistant", "parts": parts, "finish_reason": finish}] if parts else None
    return {
        "gen_ai.input.messages": rewritten(asked).decode() if asked else None,
        "gen_ai.output.messages": rewritten(told).decode() if told else None,
        "gen_ai.tool.definitions": rewritten(tools).decode()
        if (tools := list(_tools(payload.get("tools"))))
        else None,
    }


def _tools(offered: object) -> Iterator[Any]:
    """The tools of a request in any of the dialects, a function's members beside its type."""
    for tool in offered if isinstance(offered, list) else ():
        match tool:
            case {"type": "function", "function": {"name": _, **_rest}}:
                yield {"type": "function", **tool["function"]}
            case {"name": _, "input_schema": schema, **members} if "type" not in tool:
                yield {"type": "function", **members, "name": tool["name"], "parameters": schema}
            case _:
                yield tool


def _parts(message: Mapping[str, Any]) -> Iterator[Any]:
    """The parts of a message in any of the dialects; what the conventions do not know stays as it is."""
    content = message.get("content")
    if message.get("role") == "tool":
        yield {
            "type": "tool_call_response",
            "id": message.get("tool_call_id"),
            "response": content,
        }
        return
    for part in content if isinstance(content, list) else [content]:
        source = part.get("source") if isinstance(part, dict) else None
        match part:
            case str(text) | {"type": "text" | "input_text" | "output_text", "text": str(text)}:
                yield {"type": "text", "content": text}
            case {"type": "tool_use" | "function_call" | "custom_tool_call"}:
                pass  # with the calls, below
            case {"type": "tool_result", "tool_use_id": id_, **rest}:
                yield {"type": "tool_call_response", "id": id_, "response": rest.get("content")}
            case {
                "type": "function_call_output" | "custom_tool_call_output",
                "call_id": id_,
                **rest,
            }:
                yield {"type": "tool_call_response", "id": id_, "response": rest.get("output")}
            case (
                {"type": "image_url", "image_url": {"url": str(url)}}
                | {"type": "input_image", "image_url": str(url)}
                | {"type": "image", "source": {"type": "url", "url": str(url)}}
            ):
                yield {"type": "uri", "modality": "image", "uri": url}
            case {"type": "image"} if isinstance(source, dict) and "data" in source:
                yield {
                    "type": "blob",
                    "modality": "image",
                    "mime_type": source.get("media_type"),
                    "content": source["data"],
                }
            case {"type": str(), **_rest}:
                yield part
    yield from map(_called, calls_in(message))


def _called(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Attributes as typed values; what is None is left out."""
    return [
        {"key": key, "value": _typed(value)} for key, value in values.items() if value is not None
    ]


def _typed(value: Any) -> dict[str, Any]:  # noqa: ANN401 (what JSON holds)
    match value:
        case bool():
            return {"boolValue": value}
        case int() if (
            -(2**63) <= value < 2**63
        ):  # a larger one (a seed) would make the file unreadable
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [_typed(item) for item in value]}}
    return {"stringValue": str(value)}


OTLP = Exporter(
    make=lambda _job: span,
    write=lines,
    cannot="the HTTP bodies and headers, APIs other than chat (messages and responses come back as chat), "
    "times between tokens and of the last (imported again, E2E of a stream is to its last byte), answers "
    "beside the first (n)",
)
