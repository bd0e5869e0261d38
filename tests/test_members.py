"""Credentials inside request bodies: masked wherever an API takes one, and nothing else is touched."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture.exchange import Response
from tbench.capture.records import TraceHeader
from tbench.capture.redact import Redactor, Secrets, without_credentials
from tbench.capture.sanitize import Sanitizer
from tbench.capture.tee import Budget, Tee
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tests.recorded import chat_request
from tests.test_capture_end_to_end import frames

Place = Callable[[str], dict[str, Any]]


def tool(**members: object) -> dict[str, Any]:
    return {"tools": [{"type": "mcp", "server_label": "s", **members}]}


def source(**members: object) -> dict[str, Any]:
    return {"data_sources": [{"type": "azure_search", "parameters": members}]}


PLACES: dict[str, Place] = {
    "responses mcp authorization": lambda key: tool(authorization=key),
    "responses mcp headers": lambda key: tool(headers={"Authorization": f"Bearer {key}"}),
    "responses mcp own header": lambda key: tool(headers={"X-Api-Key": key}),
    "responses mcp header list": lambda key: tool(headers=[{"name": "X-Key", "value": key}]),
    "responses mcp url query": lambda key: tool(server_url=f"https://x/sse?token={key}"),
    "responses mcp url bare query": lambda key: tool(server_url=f"https://x/sse?{key}"),
    "responses mcp url user": lambda key: tool(server_url=f"https://u:{key}@x/sse"),
    "messages mcp": lambda key: {"mcp_servers": [{"type": "url", "authorization_token": key}]},
    "messages mcp url": lambda key: {"mcp_servers": [{"type": "url", "url": f"http://x/?k={key}"}]},
    "azure key": lambda key: source(authentication={"type": "api_key", "key": key}),
    "azure connection": lambda key: source(authentication={"connection_string": f"Key={key}"}),
    "azure token": lambda key: source(authentication={"type": "access_token", "access_token": key}),
    "azure embedding": lambda key: source(
        embedding_dependency={"authentication": {"type": "api_key", "key": key}}
    ),
    "litellm": lambda key: {"extra_body": {"api_key": key}},
    "litellm aws": lambda key: {"aws_secret_access_key": key, "aws_session_token": key},
    "litellm vertex": lambda key: {"vertex_credentials": json.dumps({"private_key": key})},
    "litellm headers": lambda key: {"extra_headers": {"x-custom": key}},
    "fallback": lambda key: {"fallbacks": [{"model": "m", "api-key": key}]},
    "hyphen, capitals": lambda key: {"options": {"ApiKey": key, "Client-Secret": key}},
    "list": lambda key: {"api_keys": [key, key]},
    "oauth": lambda key: {"oauth": {"client_secret": key, "refresh_token": key, "token": key}},
    "password": lambda key: {"proxy": {"username": "joe", "password": key}},
}


def body_of(place: str, key: str) -> bytes:
    return json.dumps({"model": "m", "input": "hi", **PLACES[place](key)}).encode()


@pytest.mark.parametrize("place", PLACES)
def test_a_credential_of_another_is_masked_in_place(place: str) -> None:
    """As many asterisks as bytes: no offset moves, the JSON stays JSON, and it is counted."""
    key, body = "mcp-SECRET-1x", body_of(place, "mcp-SECRET-1x")

    out = without_credentials(body)

    assert key.encode() not in out.body
    assert len(out.body) == len(body)
    assert json.loads(out.body)["model"] == "m"
    assert out.masked == body.count(key.encode())


@pytest.mark.parametrize(
    "payload",
    [
        {"messages": [{"role": "user", "content": 'my "password": "hunter2hunter2", api_key=x'}]},
        {
            "messages": [
                {"content": [{"type": "tool_use", "input": {"password": "hunter2hunter2"}}]}
            ]
        },
        {"input": [{"type": "function_call", "arguments": '{"api_key": "abcdefgh"}'}]},
        {"prompt": "authorization: Bearer abcdefgh", "max_tokens": 5, "stop": ["token"]},
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "login",
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "api_key": {"type": "string", "default": "EMPTY"},
                                "headers": {"type": "object", "description": "HTTP headers"},
                                "auth": {"enum": ["basic", "bearer"]},
                            },
                            "required": ["api_key", "headers"],
                        },
                    },
                }
            ]
        },
        {"tools": [{"type": "mcp", "server_url": "https://x.example.com:8443/mcp/v1?limit=2"}]},
        {"messages": [{"content": [{"image_url": {"url": "https://x/y.png?sig=abcdefgh"}}]}]},
        {"logit_bias": {"token": 5}, "total_tokens": 5, "eos_token": "</s>", "key": "value"},
        {"tools": [{"type": "mcp", "authorization": None, "headers": {}}]},
    ],
)
def test_prompts_and_schemas_that_speak_of_credentials_stay(payload: dict[str, Any]) -> None:
    """Byte for byte."""
    body = json.dumps(payload, indent=1).encode()

    assert without_credentials(body) == (body, 0, Secrets())


@pytest.mark.parametrize(
    "raw", [b"", b"no json \xff", b'{"api_key":', b"[" * 5000, b'{"api_key":"x']
)
def test_no_body_is_too_strange(raw: bytes) -> None:
    """A hostile or broken body must not end the recording."""
    assert len(without_credentials(raw).body) == len(raw)


@settings(deadline=None, max_examples=60)
@given(
    st.text("abcdefghijkmnopqrstuvwxyzABCDEFGH0123456789-_.", min_size=9, max_size=40).map(
        "k9.".__add__
    ),
    st.sampled_from(sorted(PLACES)),
    st.sampled_from(["", "gzip", "zstd"]),
)
def test_no_credential_of_a_body_is_in_any_byte_of_the_trace(
    key: str, place: str, coding: str
) -> None:
    """Nor where the server repeats it, nor where the prompt does, nor in a compressed body."""
    encode = {"": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[coding]
    headers = (("content-encoding", coding),) if coding else ()
    body = json.dumps({"note": f"mine is {key}", **PLACES[place](key)}).encode()
    tee = Tee(Budget(1 << 20), lambda: 0)
    tee.pass_on(json.dumps({"error": {"message": f"bad token {key}"}}).encode())
    sanitizer, none = Sanitizer(Redactor()), Secrets()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.msgpack"
        with TraceWriter(path, TraceHeader(wall_ns=0, mono_ns=0)) as writer:
            request = chat_request(
                0, 0, encode(body), id="a", path="/v1/responses", headers=headers
            )
            writer.request(sanitizer.request(request, none))
            reply = Response(head_ns=1, end_ns=2, status=400)
            writer.response("a", sanitizer.response("a", reply, tee, none))
        (exchange,) = read_trace(path)

        assert all(key.encode() not in data for data in frames(path))
        kept = exchange.request.body
        assert (kept is None) == bool(coding)
        assert kept is None or b"mine is **" in kept
        assert coding == "" or exchange.request.extra["body_withheld"] == "credential"
