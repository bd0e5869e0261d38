"""The simulator's Messages and Responses: its refusals, its keys, and that each dialect means the same."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import PATIENCE_S

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
ASKED = "Tell me of the sea"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": ASKED}], "max_tokens": 12}
RESPONSE = {"model": MODEL, "input": ASKED, "max_output_tokens": 12}


@pytest.fixture
def http(simulator: Any) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=f"{simulator.url}/v1", timeout=PATIENCE_S) as client:
        yield client


KEY = {"authorization": "Bearer k"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (KEY, 200),
        ({"x-api-key": "k"}, 200),
        ({"api-key": "k"}, 200),
        ({"x-api-key": "bad"}, 401),
        ({"authorization": "Bearer bad", "x-api-key": "k"}, 401),
        ({}, 401),
    ],
)
def test_a_key_may_come_in_three_headers(
    http: httpx.Client, headers: dict[str, str], status: int
) -> None:
    """`Authorization` wins, as at Together."""
    assert http.post("messages", json=CHAT, headers=headers).status_code == status


def test_the_dialects_say_the_same_of_the_same(http: httpx.Client) -> None:
    """One prompt: as many tokens, the same text, cut at the same limit."""
    chat = http.post("chat/completions", json=CHAT, headers=KEY).json()
    message = http.post("messages", json=CHAT, headers=KEY).json()
    response = http.post("responses", json=RESPONSE, headers=KEY).json()

    text = chat["choices"][0]["message"]["content"]
    assert message["content"] == [{"type": "text", "text": text}]
    assert response["output"][0]["content"][0]["text"] == text
    counts = message["usage"]
    read = sum(count for name, count in counts.items() if "input" in name)
    assert read == chat["usage"]["prompt_tokens"] == response["usage"]["input_tokens"]
    assert counts["output_tokens"] == response["usage"]["output_tokens"] == 12
    ends = message["stop_reason"], response["status"], response["incomplete_details"]["reason"]
    assert ends == ("max_tokens", "incomplete", "max_output_tokens")


def test_a_message_names_the_sequence_that_stopped_it(http: httpx.Client) -> None:
    """At once and at the end of a stream; not where its limit cut it before."""
    stops = CHAT | {"stop_sequences": ["never", " "], "max_tokens": 400}
    whole = http.post("messages", json=stops, headers=KEY).json()
    streamed = http.post("messages", json=stops | {"stream": True}, headers=KEY).text
    cut = http.post("messages", json=stops | {"max_tokens": 1}, headers=KEY).json()

    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", " ")
    assert '"delta":{"stop_reason":"stop_sequence","stop_sequence":" "}' in streamed
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("max_tokens", None)


IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}
TOOL = {"name": "f", "input_schema": {"type": "object", "properties": {}}}


def test_a_picture_costs_the_same_in_each_dialect(http: httpx.Client) -> None:
    """A tile, wherever its data stand."""
    source = {"type": "base64", "media_type": "image/png", "data": IMAGE}
    url = f"data:image/png;base64,{IMAGE}"
    message = CHAT | {
        "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]
    }
    response = RESPONSE | {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    }
    first = http.post("messages", json=message, headers=KEY).json()["usage"]
    second = http.post("responses", json=response, headers=KEY).json()["usage"]

    read = sum(count for name, count in first.items() if "input" in name)
    assert 1601 < read == second["input_tokens"] < 1650


def test_a_tool_is_called_until_it_has_answered(http: httpx.Client) -> None:
    """In Messages its result is the user's, in Responses an item."""
    asked = CHAT | {"tools": [TOOL], "max_tokens": 99}
    after = asked | {"messages": [*CHAT["messages"], {"role": "user", "content": [RESULT]}]}
    item = {"type": "function_call_output", "call_id": "c", "output": "1"}
    tool = {"type": "function", "name": "f", "parameters": {}}
    answered = RESPONSE | {"tools": [tool], "input": [{"role": "user", "content": ASKED}, item]}

    called = http.post("messages", json=asked, headers=KEY).json()
    assert (called["stop_reason"], called["content"][0]["name"]) == ("tool_use", "f")
    assert http.post("messages", json=after, headers=KEY).json()["content"][0]["type"] == "text"
    output = http.post("responses", json=answered, headers=KEY).json()["output"]
    assert [entry["type"] for entry in output] == ["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("messages", {"model": MODEL, "messages": CHAT["messages"]}, "max_tokens: Field required"),
        ("messages", CHAT | {"messages": [{"role": "system", "content": "x"}]}, "role 'user'"),
        ("messages", CHAT | {"model": "no/such"}, "Unable to access model"),
        ("messages", CHAT | {"messages": [{"role": [], "content": "x"}]}, "role 'user'"),
        ("responses", RESPONSE | {"previous_response_id": "resp_1"}, "nothing is stored"),
        ("responses", RESPONSE | {"input": 1}, "'input' must be"),
        ("messages", CHAT | {"tools": 5}, "'tools' must be an array"),
        ("responses", RESPONSE | {"tools": 5}, "'tools' must be an array"),
    ],
)
def test_what_is_wrong_is_said(
    http: httpx.Client, path: str, body: dict[str, Any], message: str
) -> None:
    """In the API's own words for errors."""
    answer = http.post(path, json=body, headers=KEY)
    said = answer.json()

    assert 400 <= answer.status_code < 500
    assert message in said["error"]["message"]
    assert said.get("type") == ("error" if path == "messages" else None)
