"""A text of its own planted in every place of requests and answers where an application may have one."""
# ruff: noqa: E501 (data)

import gzip
import json
import re
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tbench.capture.exchange import Chunk, Exchange, Request, Response
from tbench.capture.records import TraceHeader

MS = 10**6
BEGIN_NS = 100_000 * MS
"""Behind the agents' traffic."""
GZIP = b"\x1f\x8b\x08"
HEADERS = [
    "user-agent",
    "x-session-id",
    "x-user-id",
    "idempotency-key",
    "openai-organization",
    "openai-project",
    "x-tbench-tag",
    "x-sim-note",
    "x-stainless-os",
    "x-stainless-lang",
    "anthropic-beta",
    "openai-beta",
    "retry-after",
    "referer",
    "x-team-name",
    "x-litellm-session-id",
]
ANSWER_HEADERS = [
    "x-request-id",
    "request-id",
    "openai-organization",
    "server",
    "cf-ray",
    "via",
    "server-timing",
    "x-ratelimit-limit-requests",
    "x-ratelimit-reset-tokens",
    "retry-after",
    "openai-processing-ms",
    "location",
    "x-hostname",
    "x-engine-pod",
    "set-cookie",
]


@dataclass
class Planted:
    """Texts that nobody else has; `marks` are those that were given, by where they stand."""

    marks: dict[str, str] = field(default_factory=dict)

    def __call__(self, place: str) -> str:
        number = len(self.marks)
        # So short a part of the place, that 12 bytes are of no protocol.
        text = f"Quokka{number:03d}{re.sub(r'\W|_', '', place)[:5]}Zanzibar"
        self.marks[place + f" {number}"] = text
        return text

    def __iter__(self) -> Iterator[str]:
        return iter(self.marks.values())

    def base64(self, place: str) -> str:
        return b64encode(self(place).encode() * 3).decode()

    @property
    def pieces(self) -> set[bytes]:
        """Every 12 bytes of them, as they are and in base64 at each of its three offsets."""
        spelled = [text.encode() for text in self]
        spelled += [
            b64encode(b"x" * offset + text * 3)[4:-8] for text in spelled for offset in range(3)
        ]
        return {data[at : at + 12] for data in spelled for at in range(len(data) - 11)}


def requests(m: Planted) -> Iterator[tuple[str, Any, Any, int]]:
    """The paths, bodies, answers and statuses of every API; an answer that is a list is a stream."""
    tool = {
        "name": m("tool"), "description": m("about"),
        "parameters": {
            "type": "object", "title": m("title"), "$comment": m("comment"), m("keyword"): m("value"),
            "properties": {m("property"): {
                "type": m("type"), "enum": [m("enum"), 4915112345678], "default": m("default"),
                "examples": [{m("example"): m("value")}], "const": m("const"), "pattern": m("pattern"),
                "format": m("format"), "description": m("about"),
            }},
            "required": [m("required")], "$defs": {m("def"): {"$ref": "#/$defs/" + m("ref")}},
            "patternProperties": {m("pattern"): {}}, "dependentRequired": {m("one"): [m("other")]},
        },
    }  # fmt: skip
    call = {"name": m("tool"), "arguments": json.dumps({m("name"): [m("value"), 4915112345678]})}
    file = {"filename": m("file"), "file_id": m("id"), "file_data": "data:application/pdf;base64," + m.base64("pdf")}  # fmt: skip
    jpeg = "data:image/jpeg;base64," + b64encode(b"\xff\xd8\xff\xe0" + m("exif").encode() * 9).decode()  # fmt: skip
    yield "/v1/chat/completions", {
        "model": f"ft:gpt-4o-mini-2024-07-18:{m('org')}:{m('suffix')}:{m('id')}",
        "messages": [
            {"role": m("role"), "name": m("name"), "content": [
                {"type": "text", "text": m("text")},
                {"type": "image_url", "image_url": {"url": jpeg, "detail": m("detail")}},
                {"type": "image_url", "image_url": f"https://cdn.example/{m('picture')}.png?sig={m('sig')}"},
                {"type": "input_audio", "input_audio": {"data": m.base64("audio"), "format": m("format")}},
                {"type": "file", "file": file},
                {"type": m("type"), m("member"): {m("inner"): m("value")}},
            ]},
            {"role": "assistant", "content": m("said"), "refusal": m("refusal"), "reasoning_content": m("thought"),
             "tool_calls": [{"id": m("id"), "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": m("id"), "content": m("result")},
        ],
        "tools": [
            {"type": "function", "function": tool},
            {"type": "custom", "custom": {"name": m("tool"), "description": m("about"), "format": {
                "type": "grammar", "grammar": {"definition": m("grammar"), "syntax": m("syntax")}}}},
        ],
        "tool_choice": {"type": "function", "function": {"name": m("tool")}},
        "response_format": {"type": "json_schema", "json_schema": {
            "name": m("schema"), "description": m("about"), "schema": {"properties": {m("property"): {}}}}},
        "metadata": {m("key"): m("value")}, "logit_bias": {m("token"): 5}, "stop": m("stop"), "seed": m("seed"),
        **{name: m(name) for name in ("user", "safety_identifier", "prompt_cache_key", "service_tier", "store",
                                      "reasoning_effort", "guided_regex", "chat_template", "temperature")},
        "prediction": {"type": "content", "content": m("prediction")}, "guided_choice": [m("choice")],
        "chat_template_kwargs": {m("key"): m("value")}, "extra_body": {m("key"): m("value")},
        "guided_json": {"properties": {m("property"): {}}}, m("member"): m("value"), "modalities": [m("modality")],
        "web_search_options": {"user_location": {"approximate": {"city": m("city")}}}, "audio": {"voice": m("voice")},
    }, [
        {"id": m("id"), "model": f"accounts/{m('account')}/models/{m('model')}", "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": m("said")}, "logprobs": {"content": [
                {"token": m("token"), "bytes": list(m("bytes").encode()), "top_logprobs": [{"token": m("token")}]}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": m("id"), "function": call}]},
                      "finish_reason": m("reason")}]},
        {"choices": [{"index": 0, "delta": {"annotations": [
            {"type": "url_citation", "url_citation": {"url": f"https://x/{m('url')}", "title": m("title")}}]}}]},
        {"error": {name: m(name) for name in ("message", "type", "code", "param")}},
        f": {m('comment')}\nevent: {m('event')}\nid: {m('id')}\ndata: {m('no json')}\n\n{m('field')}: x\n\n",
    ], 200  # fmt: skip
    yield f"/openai/deployments/{m('deployment')}/chat/completions?api-version=2024-02-01&tag={m('query')}", {
        "model": f"/mnt/{m('folder')}/{m('model')}", "messages": [{"role": "user", "content": m("text")}],
    }, {"error": {"message": m("message"), "type": m("type"), "code": m("code"), "param": m("param"),
                  "innererror": {m("key"): m("value")}}}, 400  # fmt: skip
    yield f"/v1/messages?beta=true&tag={m('query')}", {
        "model": "claude-sonnet-4-5", "container": m("container"), "stop_sequences": [m("stop")],
        "system": [{"type": "text", "text": m("system"), "cache_control": {"type": "ephemeral", "ttl": m("ttl")}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "document", "title": m("title"), "context": m("context"), "source": {
                    "type": "text", "media_type": "text/plain", "data": m("document")}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": m.base64("png")}},
                {"type": "image", "source": {"type": "url", "url": f"https://h/{m('url')}"}},
                {"type": "search_result", "source": f"https://{m('source')}", "title": m("title"),
                 "content": [{"type": "text", "text": m("text")}]},
                {"type": "tool_result", "tool_use_id": m("id"), "is_error": m("error"),
                 "content": [{"type": "text", "text": m("result")}]},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": m("thought"), "signature": m.base64("signature")},
                {"type": "tool_use", "id": m("id"), "name": m("tool"), "input": {m("key"): {m("key"): [m("value")]}}},
                {"type": "server_tool_use", "name": "web_search", "input": {"query": m("query")}},
            ]},
        ],
        "metadata": {"user_id": m("user")}, "mcp_servers": [{"url": f"https://{m('host')}", "name": m("name")}],
        "tools": [
            {"name": m("tool"), "description": m("about"), "input_schema": {"properties": {m("property"): {}}}},
            {"type": "web_search_20250305", "name": m("tool"), "allowed_domains": [m("domain")],
             "user_location": {"type": "approximate", "city": m("city")}},
        ],
    }, {
        "id": m("id"), "stop_reason": m("reason"), "stop_sequence": m("stop"), "usage": {"service_tier": m("tier")},
        "content": [
            {"type": "text", "text": m("said"), "citations": [{"cited_text": m("cited"), "document_title": m("title")}]},
            {"type": "web_search_tool_result", "content": [{"url": f"https://{m('url')}", "title": m("title"),
             "encrypted_content": m.base64("encrypted"), "page_age": m("age")}]},
        ],
    }, 200  # fmt: skip
    yield "/v1/responses", {
        "model": "m", "instructions": m("system"), "previous_response_id": m("id"), "conversation": m("conversation"),
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": m("text")}, {
                "type": "input_file", "filename": m("file"), "file_url": f"https://{m('url')}"}]},
            {"type": "function_call_output", "call_id": m("id"), "output": json.dumps({m("key"): m("result")})},
            {"type": "reasoning", "id": m("id"), "encrypted_content": m("encrypted"),
             "summary": [{"type": "summary_text", "text": m("summary")}]},
            {"type": "computer_call", "action": {"type": "type", "text": m("typed"), "keys": [m("key")]}},
            {"type": "mcp_call", "server_label": m("label"), "arguments": json.dumps({m("key"): 1}),
             "output": m("output"), "error": m("error")},
            {"type": "local_shell_call", "action": {"command": [m("command")], "env": {m("key"): m("value")}}},
        ],
        "prompt": {"id": m("id"), "variables": {m("key"): m("value")}, "version": m("version")},
        "text": {"format": {"type": "json_schema", "name": m("schema"), "schema": {"title": m("title")}}},
        "include": [m("include")], "truncation": m("truncation"),
        "tools": [
            {"type": "file_search", "vector_store_ids": [m("id")], "filters": {"key": m("key"), "value": m("value")}},
            {"type": "mcp", "server_label": m("label"), "server_url": f"https://{m('host')}",
             "allowed_tools": [m("tool")], "headers": {m("header"): m("value")}},
        ],
    }, {
        "id": m("id"), "incomplete_details": {"reason": m("reason")}, "metadata": {m("key"): m("value")},
        "error": {"code": m("code"), "message": m("message")},
        "output": [
            {"type": "file_search_call", "queries": [m("query")], "results": [{"file_id": m("id"), "text": m("text"),
             "filename": m("file"), "attributes": {m("key"): m("value")}}]},
            {"type": "code_interpreter_call", "code": m("code"), "outputs": [{"type": "logs", "logs": m("logs")}]},
            {"type": "image_generation_call", "result": m.base64("picture"), "revised_prompt": m("prompt")},
        ],
    }, 200  # fmt: skip
    yield "/v1/completions", {
        "model": "m", "prompt": [m("prompt"), m("prompt")], "suffix": m("suffix"), "stop": [m("stop")],
    }, {
        "system_fingerprint": m("fingerprint"),
        "choices": [{"text": m("said"), "finish_reason": m("reason"), "logprobs": {
            "tokens": [m("token")], "token_logprobs": [-0.1], "top_logprobs": [{m("token"): -1.5}]}}],
    }, 200  # fmt: skip
    yield f"/v1/embeddings?user={m('query')}", {
        "model": "m", "input": [m("text"), m("text")], "input_type": m("type"), "task": m("task"),
    }, {"data": [{"embedding": m.base64("vector"), "index": 0}], m("member"): [m("value")]}, 200  # fmt: skip
    yield "/v1/rerank", {
        "model": "m", "query": m("query"), "rank_fields": [m("field")],
        "documents": [m("document"), {"text": m("document"), m("field"): m("value")}],
    }, {"id": m("id"), "results": [{"index": 0, "document": {"text": m("text"), m("field"): m("value")}}]}, 200  # fmt: skip
    yield "/v1/images/generations", {"model": "m", "prompt": m("prompt")}, {
        "data": [{"b64_json": m.base64("picture"), "revised_prompt": m("prompt"), "url": f"https://{m('url')}"}],
    }, 200  # fmt: skip
    yield "/v1/messages", {
        "model": "m", "stream": True, "tool_choice": {"type": "tool", "name": m("tool")},
        "messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "file", "file_id": m("id")}},
            {"type": "tool_result", "tool_use_id": m("id"), "content": [
                {"type": "image", "source": {"type": "base64", "media_type": m("media"), "data": m.base64("gif")}}]},
        ]}],
    }, [
        {"type": "message_start", "message": {"id": m("id"), "model": f"/srv/{m('model')}", "content": []}},
        *({"type": "content_block_start", "index": at, "content_block": block} for at, block in enumerate((
            {"type": "thinking", "thinking": m("thought"), "signature": m.base64("signature")},
            {"type": "redacted_thinking", "data": m.base64("redacted")},
            {"type": "tool_use", "id": m("id"), "name": m("tool"), "input": {m("key"): m("value")}},
            {"type": "web_search_tool_result", "tool_use_id": m("id"), "content": [{"title": m("title")}]}))),
        *({"type": "content_block_delta", "index": at, "delta": delta} for at, delta in enumerate((
            {"type": "thinking_delta", "thinking": m("thought")}, {"type": "signature_delta", "signature": m("sig")},
            {"type": "input_json_delta", "partial_json": json.dumps({m("key"): m("value")})},
            {"type": "citations_delta", "citation": {"cited_text": m("cited"), "url": f"https://{m('url')}"}},
            {"type": m("type"), m("key"): m("value")}))),
        {"type": "message_delta", "delta": {"stop_reason": m("reason"), "stop_sequence": m("stop")}},
        {"type": "error", "error": {"type": m("type"), "message": m("message")}},
    ], 200  # fmt: skip
    yield "/v1/responses", {"model": "m", "stream": True, "input": m("text"), "user": m("user")}, [
        {"type": "response.created", "response": {"id": m("id"), "instructions": m("system"), "tools": [
            {"type": "function", "name": m("tool"), "parameters": {m("key"): m("value")}}]}},
        *({"type": f"response.{name}.delta", "item_id": m("id"), "delta": m("said")} for name in (
            "output_text", "refusal", "reasoning_text", "reasoning_summary_text", "function_call_arguments",
            "mcp_call_arguments", "code_interpreter_call_code", "custom_tool_call_input", "audio.transcript")),
        {"type": "response.image_generation_call.partial_image", "partial_image_b64": m.base64("picture")},
        {"type": "response.output_item.done", "item": {"type": "function_call", "call_id": m("id"),
         "name": m("tool"), "arguments": json.dumps({m("key"): m("value")})}},
        {"type": "response.failed", "response": {"error": {"code": m("code"), "message": m("message")}}},
        'data: {"type": "response.output_text.delta", "delta": "' + m("cut off"),
    ], 200  # fmt: skip
    yield "/v1/chat/completions", gzip.compress(_bytes({
        "model": "m", "messages": [{"role": "function", "name": m("tool"), "content": m("result")}],
        "functions": [{"name": m("tool"), "description": m("about"), "parameters": {m("key"): m("value")}}],
        "function_call": {"name": m("tool")}, "prompt_token_ids": list(m("ids").encode()),
    })), gzip.compress(_bytes({"choices": [{"message": {
        "content": m("said"), "function_call": {"name": m("tool"), "arguments": m("no json")},
        "audio": {"id": m("id"), "data": m.base64("audio"), "transcript": m("said")}}}]})), 200  # fmt: skip
    part = '--x\r\nContent-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n{}\r\n'
    yield "/v1/audio/transcriptions", part.format(m("field"), m("file"), m("sound")), {
        "text": m("said"), "words": [{"word": m("word")}], "segments": [{"text": m("said")}]}, 200  # fmt: skip
    yield "/v1/audio/speech", {"model": "m", "input": m("text"), "instructions": m("text"), "voice": m("voice")}, (
        b"ID3\x04" + m("sound").encode()), 200  # fmt: skip
    yield "/v1/moderations", {"model": "m", "input": [{"type": "text", "text": m("text")}]}, {
        "results": [{"categories": {m("category"): True}, m("member"): m("value")}]}, 200  # fmt: skip
    yield f"/v1/files/{m('path')}", m("no json"), f"<html>{m('page')}", 502


def exchanges(m: Planted) -> list[Exchange]:
    """The exchanges as a capture has them, with headers, ids and notes of their makers."""
    made = []
    for number, (path, body, answer, status) in enumerate(requests(m)):
        at, data, (kind, reply) = BEGIN_NS + number * 100 * MS, _bytes(body), answered(answer)
        notes: Mapping[str, Any] = {"note": m("note"), "unsupported": m("note"), m("name"): 5}
        request = Request(
            id=m("id"), seq=number, arrive_ns=at, end_ns=at, method="POST", scheme="https", path=path,
            host=f"{m('customer')}.openai.azure.com", client=m("client"), body=data, body_bytes=len(data),
            headers=(*_kind(data), *((name, m(name)) for name in HEADERS)), extra=notes,
        )  # fmt: skip
        response = Response(
            head_ns=at + MS, end_ns=at + 3 * MS, status=status, body=reply, body_bytes=len(reply),
            headers=(*_coded(reply), ("content-type", kind), *((name, m(name)) for name in ANSWER_HEADERS)),
            extra=notes,
            chunks=(Chunk(at + 2 * MS, len(reply)),), error=m("error"),
        )  # fmt: skip
        made.append(Exchange(request=request, response=response))
    return made


def header(m: Planted) -> TraceHeader:
    """What a file says of itself."""
    made = {
        "format": m("format"), "files": [m("file")], "left_out": {m("reason"): 3},
        "trust": {"arrival": m("trust"), m("key"): "exact"},
    }  # fmt: skip
    extra = {"import": made, "note": m("note"), "steps": [{"verb": m("verb"), "only": [m("only")]}]}
    return TraceHeader(
        wall_ns=1, mono_ns=0, upstream=f"https://{m('host')}/{m('tenant')}/v1", capture_id=m("id"),
        filters={"hosts": [m("host")]}, tokens_source=m("source"), writer=m("writer"), extra=extra,
    )  # fmt: skip


def answered(answer: Any) -> tuple[str, bytes]:
    """The media type and the bytes of an answer."""
    if not isinstance(answer, list):
        kinds = {dict: "application/json", bytes: "audio/mpeg"}
        kind = "application/json" if _coded(answer) else kinds.get(type(answer), "text/html")
        return kind, _bytes(answer)
    events = (each if isinstance(each, str) else f"data: {json.dumps(each)}\n\n" for each in answer)
    return "text/event-stream", "".join(events).encode()


def inflated(data: bytes) -> bytes:
    """The data, and all that lies in it compressed by gzip."""
    streams = (match.start() for match in re.finditer(GZIP, data))
    return data + b"".join(zlib.decompressobj(31).decompress(data[at:]) for at in streams)


def _coded(body: Any) -> list[tuple[str, str]]:
    coded = isinstance(body, bytes) and body.startswith(GZIP)
    return [("content-encoding", "gzip")] if coded else []


def _kind(body: bytes) -> list[tuple[str, str]]:
    form = body.startswith(b"--x")
    kind = "multipart/form-data; boundary=x" if form else "application/json"
    return [*_coded(body), ("content-type", kind)]


def _bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()
