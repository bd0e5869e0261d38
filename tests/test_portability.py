"""Portability: what only its issuer can read is dropped and counted, what would lose its meaning stays."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.synthesis.generate import exchanges
from tbench.capture.synthesis.scenario import parse
from tbench.capture.synthesis.workload import Workload
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.job import refused_by
from tbench.replay.makers import Level, changes_hands, family, maker, refused
from tbench.replay.plan import Plan
from tbench.replay.portability import BONDS, Bond, carried, left_out
from tbench.replay.runfile import read_run
from tbench.replay.target import Target
from tbench.simulator.order import Refusal
from tbench.simulator.strict import check_strict
from tests.conftest import Done, Server
from tests.recorded import chat_request

DOC = (Path(__file__).parent.parent / "docs" / "portability.md").read_text()
MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
PATHS = {"chat": "chat/completions", "messages": "messages", "responses": "responses"}
ALL: frozenset[Level] = frozenset({"state", "issuer", "gateway"})
PLAIN_MODEL: frozenset[Level] = frozenset({"openai", "plain"})
THINKER: frozenset[Level] = frozenset({"openai", "reasoning", "sampling"})
RESTLESS: frozenset[Level] = THINKER | {"restless"}
FUNCTION = {"type": "function", "name": "f"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
SAID = {"type": "text", "text": "Hi"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def exchange(endpoint: str, body: dict[str, Any], host: str = "api.openai.com") -> Exchange:
    packed = json.dumps(body).encode()
    request = chat_request(0, 0, packed, scheme="https", host=host, path=f"/v1/{PATHS[endpoint]}")
    return Exchange(request=request, response=None)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("endpoint", "before", "after", "reason"),
    [
        (
            "responses",
            {"include": ["reasoning.encrypted_content"], "input": [
                {"type": "reasoning", "summary": [], "encrypted_content": "x"},
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text"}]},
                {"type": "reasoning", "id": "rs_1", "summary": []},
            ]},
            {"input": [
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text"}]},
            ]},
            "encrypted_reasoning",
        ),
        (
            "responses",
            {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
            {"include": ["message.output_text.logprobs"]},
            "encrypted_reasoning",
        ),
        (
            "chat",
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [
                {**CALL, "extra_content": {"google": {"thought_signature": "x"}}}, CALL,
            ]}]},
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}]},
            "thought_signature",
        ),
        (
            "messages",
            {"messages": [
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": "x"}, SAID,
                    {"type": "redacted_thinking", "data": "x"},
                ]},
                {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
            ]},
            {"messages": [{"role": "assistant", "content": [SAID]}]},
            "thinking_signature",
        ),
        ("responses", {"store": True, "input": "Hi"}, {"input": "Hi"}, "store"),
        (
            "responses",
            {"tools": [{"type": "web_search"}, FUNCTION], "tool_choice": {"type": "web_search"}},
            {"tools": [FUNCTION]},
            "server_tools",
        ),
        (
            "messages",
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}],
             "tool_choice": {"type": "auto"}, "max_tokens": 1},
            {"max_tokens": 1},
            "server_tools",
        ),
        (
            "chat",
            {"tools": [{"type": "x"}, {"type": "custom", "custom": {"name": "c"}}],
             "tool_choice": {"type": "custom", "custom": {"name": "c"}}},
            {"tools": [{"type": "custom", "custom": {"name": "c"}}],
             "tool_choice": {"type": "custom", "custom": {"name": "c"}}},
            "server_tools",
        ),
        (
            "messages",
            {"system": [{**SAID, "cache_control": {"type": "ephemeral"}}],
             "messages": user([{**SAID, "cache_control": {"type": "ephemeral"}}])},
            {"system": [SAID], "messages": user([SAID])},
            "cache_control",
        ),
        ("chat", {"prompt_cache_key": "k", "n": 1}, {"n": 1}, "cache_key"),
        ("chat", {"metadata": {"a": "b"}, "user": "u", "n": 1}, {"n": 1}, "account"),
        ("chat", {"ignore_eos": False, "priority": 0, "n": 1}, {"n": 1}, "engine"),
        (
            "chat",
            {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
            {"stream_options": {"include_usage": True}},
            "stream_extras",
        ),
        (
            "chat",
            {"messages": [{"role": "assistant", "content": "Hi", "reasoning_content": "Hm"}]},
            {"messages": [{"role": "assistant", "content": "Hi"}]},
            "reasoning_text",
        ),
    ],
)  # fmt: skip
def test_what_is_dropped(
    endpoint: str, before: dict[str, Any], after: dict[str, Any], reason: str
) -> None:
    """What is left is a body that another server takes; a second pass finds nothing."""
    assert carried(before, endpoint, ALL) == (after, [reason])
    assert carried(after, endpoint, ALL) == (after, [])
    assert left_out(before, endpoint, ALL) is None


@pytest.mark.parametrize(
    ("endpoint", "body", "reason"),
    [
        ("responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("responses", {"conversation": {"id": "conv_1"}}, "conversation"),
        ("responses", {"background": True}, "background"),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_reference"),
        ("responses", {"tools": [{"type": "mcp", "server_url": "https://x"}]}, "mcp"),
        ("messages", {"mcp_servers": [{"type": "url", "url": "https://x"}]}, "mcp"),
        ("messages", {"container": "c_1"}, "container"),
        ("responses", {"input": [{"type": "compaction", "encrypted_content": "x"}]}, "compaction"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "prompt_template"),
        ("responses", {"tools": [{"type": "file_search"}]}, "vector_store"),
        ("responses", {"input": user([{"type": "input_file", "file_id": "file_1"}])}, "file_id"),
        ("chat", {"messages": user([{"type": "file", "file": {"file_id": "file_1"}}])}, "file_id"),
        (
            "messages",
            {"messages": user([{"type": "image", "source": {"type": "file", "file_id": "f"}}])},
            "file_id",
        ),
        ("responses", {"input": [{"type": "web_search_call", "id": "ws_1"}]}, "server_tool_calls"),
        (
            "messages",
            {"messages": [{"role": "assistant", "content": [{"type": "web_search_tool_result"}]}]},
            "server_tool_calls",
        ),
    ],
)  # fmt: skip
def test_what_is_left_out(endpoint: str, body: dict[str, Any], reason: str) -> None:
    """Null, and what is empty, says nothing."""
    assert left_out(body, endpoint, ALL) == reason
    assert left_out(dict.fromkeys(body), endpoint, ALL) is None


ITEMS = [
    {"role": "user", "content": "Hi"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "1"},
    {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"},
]
PLAIN = {
    "chat": {"messages": [{"role": "assistant", "tool_calls": [CALL]}], "store": False, "n": 1},
    "messages": {"tools": [{"name": "f"}, {"type": "custom", "name": "g"}], "messages": user(
        [{"type": "tool_result", "tool_use_id": "t", "content": [SAID]}])},
    "responses": {"input": ITEMS, "tools": [FUNCTION], "store": False, "background": False},
}  # fmt: skip


@pytest.mark.parametrize("endpoint", PLAIN)
def test_what_every_server_takes_stays(endpoint: str) -> None:
    """The very object, so that it goes byte by byte as recorded."""
    body, reasons = carried(PLAIN[endpoint], endpoint, ALL)

    assert (body is PLAIN[endpoint], reasons) == (True, [])
    assert left_out(PLAIN[endpoint], endpoint, ALL) is None


@pytest.mark.parametrize(
    ("kind", "models"),
    [
        ("claude", ["claude-opus-4-5", "anthropic/claude-sonnet-4-5", "us.anthropic.claude-3-5-v2:0"]),
        ("gpt", ["gpt-5", "openai/o3-mini", "chatgpt-4o-latest", "codex-mini"]),
        ("gpt-oss", ["openai/gpt-oss-120b"]),
        ("gemini", ["google/gemini-3-pro-preview", "models/gemini-2.5-flash"]),
        ("llama", ["meta-llama/Llama-3.3-70B-Instruct-Turbo", "Meta-Llama-3.1-8B"]),
        ("mistral", ["mistral-large-2", "Mixtral-8x7B", "codestral-latest"]),
        ("acme", ["acme/acme-2", "acme_small"]),
    ],
)  # fmt: skip
def test_the_family_of_a_model(kind: str, models: list[str]) -> None:
    """Whatever organisation, region or size its name has."""
    assert {family(model) for model in models} == {kind}


@pytest.mark.parametrize(
    ("host", "model", "to_host", "to_model", "foreign"),
    [
        ("api.anthropic.com", "claude-a", "127.0.0.1", "claude-b", False),
        ("api.anthropic.com", "claude-a", "127.0.0.1", "meta-llama/Llama-3", True),
        ("gateway.corp", "gpt-5", "127.0.0.1", "gpt-5", False),
        ("api.openai.com", "gpt-5", "x.openai.azure.com:443", "gpt-5", True),
        ("api.together.xyz", "gpt-oss", "api.together.ai", "gpt-oss", False),
        ("api.together.xyz", None, "api.openai.com", None, True),
        ("gateway.corp", None, "127.0.0.1", "claude-a", False),
    ],
)  # fmt: skip
def test_when_a_request_changes_hands(
    host: str, model: str | None, to_host: str, to_model: str | None, foreign: bool
) -> None:
    """By the family of the model; by the hosts where both are known makers'."""
    assert changes_hands(host, model, to_host, to_model) is foreign
    assert maker("127.0.0.1:8000") is None


def sent(target: Target, traced: Exchange, **plan: Any) -> tuple[Any, dict[str, int]]:
    """The body that goes out (None: left out), and what the plan skipped."""
    planned = Plan(trace=[traced], refuses=target.refuses, **plan)
    calls = [target.call(each) for each in planned]
    return (calls[0].body if calls else None), dict(planned.skipped)


SIGNED = {"model": "claude-a", "messages": [
    {"role": "assistant", "content": [{"type": "thinking", "signature": "x"}, SAID]}]}  # fmt: skip


def test_a_model_of_the_same_family_changes_nothing() -> None:
    """Byte by byte, unless strict is asked for; off touches nothing at all."""
    traced = exchange("messages", SIGNED, "api.anthropic.com")
    same = Target(base_url="http://127.0.0.1:1", models={"x": "y"})
    other = Target(base_url="http://127.0.0.1:1", model="llama", portable="off")
    strict = Target(base_url="http://127.0.0.1:1", portable="strict")

    assert sent(same, traced)[0] == traced.request.body
    assert json.loads(sent(other, traced)[0]) == {**SIGNED, "model": "llama"}
    assert json.loads(sent(strict, traced)[0])["messages"][0]["content"] == [SAID]
    assert (same.portability, other.portability) == ({}, {})
    assert strict.portability == {"thinking_signature": 1}


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        (Target(base_url="http://h"), True),
        (Target(base_url="http://h", model="claude-b"), True),
        (Target(base_url="http://h", model="llama", portable="off"), True),
        (Target(base_url="http://h", model="llama"), False),
        (Target(base_url="http://h", portable="strict"), False),
        (Target(base_url="http://h", to="chat"), False),
    ],
)
def test_a_makers_beta_is_asked_of_that_maker(target: Target, stays: bool) -> None:
    """As recorded where it does not change hands; counted where it goes without."""
    traced = exchange("messages", {"model": "claude-a", "max_tokens": 1, "messages": []})
    traced.request.headers = (("anthropic-beta", "b"), ("accept", "a/b"))
    (planned,) = Plan(trace=[traced])
    head = target.call(planned).head

    assert (b"anthropic-beta" in head) is stays
    assert target.portability == ({} if stays else {"beta": 1})
    assert b"accept: a/b" in head


@pytest.mark.parametrize("way", [{"model": "llama"}, {"models": {"claude-a": "llama"}},
                                 {"fields": {"model": "llama"}}])  # fmt: skip
def test_another_family_is_asked_without_signatures(way: dict[str, Any]) -> None:
    """However the model is replaced; each request is counted once."""
    target = Target(base_url="http://127.0.0.1:1", **way)
    body, _ = sent(target, exchange("messages", SIGNED, "api.anthropic.com"))

    turn = {"role": "assistant", "content": [SAID]}
    assert json.loads(body) == {"model": "llama", "messages": [turn]}
    assert target.portability == {"thinking_signature": 1}


@pytest.mark.parametrize("model", [5, ["gpt-5"]])
def test_a_model_that_is_no_name_goes_as_it_is_set(model: Any) -> None:
    """To whomever: a server may be asked what it makes of it."""
    traced = exchange("chat", {"model": "gpt-4o", "messages": user("Hi")}, "api.together.xyz")
    target = Target(base_url="https://api.openai.com/v1", fields={"model": model})

    assert json.loads(sent(target, traced)[0])["model"] == model


@pytest.mark.parametrize(
    ("model", "unsafe", "portable", "skipped"),
    [
        (None, False, "off", "previous_response_id"),
        (None, True, "auto", None),
        ("llama", True, "auto", "previous_response_id"),
        ("llama", True, "off", None),
    ],
)
def test_a_history_that_the_server_holds(
    model: str | None, unsafe: bool, portable: Any, skipped: str | None
) -> None:
    """--allow-unsafe asks its issuer again; nobody else can be asked, unless --portable is off."""
    target = Target(base_url="http://127.0.0.1:1", model=model, portable=portable)
    held = exchange("responses", {"model": "gpt-5", "previous_response_id": "resp_1"})
    _, reasons = sent(target, held, allow_unsafe=unsafe)

    assert reasons == ({skipped: 1} if skipped else {})


def test_what_one_arm_cannot_be_asked_none_is() -> None:
    """Arms get the same requests, or their loads could not be compared."""
    held = exchange("responses", {"model": "gpt-5", "input": "Hi", "prompt": {"id": "pmpt_1"}})
    arms = [Target(base_url="http://127.0.0.1:1", model=model) for model in ("gpt-5.1", "llama")]

    assert list(Plan(trace=[held], refuses=refused_by(arms[:1])))
    assert not list(Plan(trace=[held], refuses=refused_by(arms)))


@pytest.fixture
def bond() -> Iterator[str]:
    """A row added from outside."""
    BONDS["blob"] = Bond(
        level="issuer", drops=True, why="read by Acme alone", places={"chat": ("messages[].blob",)}
    )
    yield "blob"
    del BONDS["blob"]


def test_a_row_is_all_that_it_takes(bond: str) -> None:
    """What binds a request is a row: dropped, counted, and told by its words."""
    target = Target(base_url="http://127.0.0.1:1", model="llama")
    turn = {"role": "user", "content": "Hi", "blob": "x"}
    body, _ = sent(target, exchange("chat", {"model": "acme-1", "messages": [turn]}))

    assert json.loads(body)["messages"] == user("Hi")
    assert target.portability == {bond: 1}


def row(reason: str, bond: Bond) -> str:
    """A row of the table in docs/portability.md."""
    places = [
        f"{endpoint}: {' '.join(f'`{path}`' for path in paths)}".replace("|", "\\|")
        for endpoint, paths in bond.places.items()
    ]
    if bond.headers:
        places.append(f"headers: {' '.join(f'`{name}`' for name in bond.headers)}")
    fate = "goes without it" if bond.drops else "is left out"
    fate = f"has `{bond.becomes}` instead" if bond.becomes else fate
    levels = ", ".join((bond.level, *bond.also))
    return f"| `{reason}` | {levels} | {fate} | {bond.why} | {'; '.join(places)} |"


def test_the_document_is_the_table() -> None:
    """Every row, in its order, and no other."""
    table = DOC.partition("| reason | row |")[2].splitlines()[2:]

    assert table == [row(reason, bond) for reason, bond in BONDS.items()]


@pytest.mark.parametrize(
    ("model", "effort", "levels"),
    [
        ("gpt-4o", None, PLAIN_MODEL),
        ("gpt-4.1-mini", None, PLAIN_MODEL),
        ("chatgpt-4o-latest", None, PLAIN_MODEL),
        ("gpt-5-chat-latest", None, PLAIN_MODEL),
        ("ft:gpt-4o-2024-08-06:acme::1", None, PLAIN_MODEL),
        ("o1", None, RESTLESS),
        ("o3-mini-2025-01-31", "none", RESTLESS),
        ("openai/o4-mini", None, RESTLESS),
        ("ft:o4-mini:acme::1", None, RESTLESS),
        ("gpt-5", "none", RESTLESS),
        ("gpt-5-nano-2025-08-07", None, RESTLESS),
        ("gpt-5.1-chat-latest", None, RESTLESS),
        ("gpt-5.1-codex", "none", RESTLESS),
        ("gpt-5.1", None, {"openai", "reasoning"}),
        ("gpt-5.2-pro", None, RESTLESS),
        ("gpt-5.3", None, THINKER),
        ("gpt-5.4-mini", None, THINKER | {"calling"}),
        ("gpt-5.4-mini", "none", {"openai", "reasoning", "calling"}),
        ("gpt-5.4-pro", None, RESTLESS),
        ("gpt-6-luna", "none", THINKER | {"calling"}),
        ("gpt-6-astra", "none", RESTLESS),
    ],
)
def test_what_a_model_of_openai_refuses(model: str, effort: str | None, levels: set[str]) -> None:
    """By its name, and by whether it is asked to reason; of another host only `strict` takes it for one."""
    asked = {"host": "api.together.xyz", "model": "llama", "effort": effort}

    assert refused("auto", to_host="api.openai.com", to_model=model, **asked) == levels
    assert refused("off", to_host="api.openai.com", to_model=model, **asked) == set()
    assert refused("strict", to_host="gateway.corp", to_model=model, **asked) == levels
    for host in ("127.0.0.1:8000", "x.openai.azure.com", "openrouter.ai", "api.openai.com.evil"):
        assert refused("auto", to_host=host, to_model=model, **asked) == set()
    assert refused("strict", to_host="h", to_model="openai/gpt-oss-20b", **asked) == set()


LLAMA = {
    "model": "llama",
    "messages": user("Hi"),
    "max_tokens": 64,
    "temperature": 0.7,
    "stop": ["\n"],
    "top_k": 5,
    "ignore_eos": True,
    "safety_model": "guard",
    "seed": 1,
}
PORTED = {
    "gpt-4o": (
        {"max_tokens": 64, "temperature": 0.7, "stop": ["\n"]},
        ["engine", "foreign_sampling", "foreign_members"],
    ),
    "gpt-5.1": (
        {"max_completion_tokens": 64, "temperature": 0.7},
        ["engine", "foreign_sampling", "foreign_members", "limit_name", "stop_and_penalties"],
    ),
    "o3": (
        {"max_completion_tokens": 64},
        [
            *("engine", "foreign_sampling", "foreign_members"),
            *("limit_name", "stop_and_penalties", "fixed_sampling"),
        ],
    ),
}


@pytest.mark.parametrize("model", PORTED)
def test_openai_is_asked_for_what_it_knows(model: str) -> None:
    """Each change counted once; byte by byte without portability, and at any other host."""
    members, reasons = PORTED[model]
    traced = exchange("chat", LLAMA, "api.together.xyz")
    openai = Target(base_url="https://api.openai.com/v1", model=model)
    off = Target(base_url="https://api.openai.com/v1", model=model, portable="off")
    gateway = Target(base_url="https://gateway.corp/v1", model=model)
    common = {"model": model, "messages": user("Hi"), "seed": 1}

    assert json.loads(sent(openai, traced)[0]) == common | members
    assert openai.portability == dict.fromkeys(reasons, 1)
    for target in (off, gateway):
        assert json.loads(sent(target, traced)[0]) == {**LLAMA, "model": model}
        assert target.portability == {}


def test_what_went_to_openai_goes_again() -> None:
    """Byte by byte, whatever was refused of it then; another of its models is another matter."""
    traced = exchange("chat", {**LLAMA, "model": "o3"})
    again, other = (
        Target(base_url="https://api.openai.com", models={"o3": model})
        for model in ("o3", "o4-mini")
    )

    assert sent(again, traced)[0] == traced.request.body
    assert json.loads(sent(other, traced)[0])["max_completion_tokens"] == 64


SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            {"max_tokens": 20, "max_completion_tokens": 30},
            {"max_completion_tokens": 30},
            "second_limit",
        ),
        ({"logprobs": 1}, {"logprobs": True, "top_logprobs": 1}, "logprobs_form"),
        ({"logprobs": 0}, {"logprobs": True, "top_logprobs": 0}, "logprobs_form"),
        (
            {"logprobs": 5, "top_logprobs": 2},
            {"logprobs": True, "top_logprobs": 2},
            "logprobs_form",
        ),
        ({"logprobs": 21, "top_logprobs": 2, "n": 1}, {"n": 1}, "logprobs_value"),
        ({"logprobs": "yes", "n": 1}, {"n": 1}, "logprobs_value"),
        *(
            (
                {"response_format": shape},
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": name, "schema": SCHEMA},
                    }
                },
                "schema_form",
            )
            for name, shape in (
                ("answer", {"type": "json_schema", "schema": SCHEMA}),
                ("answer", {"type": "json_object", "schema": SCHEMA}),
                ("answer", {"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
                (
                    "a",
                    {
                        "type": "json_schema",
                        "schema": {},
                        "json_schema": {"name": "a", "schema": SCHEMA},
                    },
                ),
            )
        ),
        (
            {"response_format": {"type": "json_object", "schema": {}}},
            {"response_format": {"type": "json_object"}},
            "schema_form",
        ),
        *(
            ({"response_format": shape, "n": 1}, {"n": 1}, "answer_form")
            for shape in ({"type": "regex", "pattern": "a*"}, {"type": "json_schema"}, "json")
        ),
        ({"reasoning_effort": "none", "n": 1}, {"n": 1}, "effort"),
    ],
)
def test_what_has_another_form_at_openai(
    before: dict[str, Any], after: dict[str, Any], reason: str
) -> None:
    """Put into it where it can be, else dropped; counted once, and a second pass finds nothing."""
    assert carried(before, "chat", PLAIN_MODEL) == (after, [reason])
    assert carried(after, "chat", PLAIN_MODEL) == (after, [])
    assert carried(before, "chat", ALL) == (before, [])


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 20, "max_completion_tokens": None},
        {"logprobs": False},
        {"logprobs": True, "top_logprobs": 3},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "text"}},
        {"response_format": None, "reasoning_effort": None, "logprobs": None},
    ],
)
def test_what_has_openais_form_stays(body: dict[str, Any]) -> None:
    """The very object, which the judge takes as well."""
    assert carried(body, "chat", PLAIN_MODEL)[0] is body
    check_strict("chat/completions", {"model": "gpt-4o", **body})


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        ({"tools": TOOLS}, True),
        ({"tools": TOOLS, "reasoning_effort": "high"}, True),
        ({"tools": TOOLS, "reasoning_effort": "none"}, False),
        ({"tools": [], "reasoning_effort": "high"}, False),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, False),
        ({"tools": 5, "reasoning_effort": "high"}, False),
    ],
)
def test_a_chat_with_functions_goes_without_reasoning_where_it_must(
    before: dict[str, Any], changed: bool
) -> None:
    """From GPT-5.4 on; a chat without them, and Responses, keep their effort."""
    levels = refused(
        "auto", host="h", model=None, to_host="api.openai.com", to_model="gpt-5.4", effort="none"
    )
    after = {**before, "reasoning_effort": "none"} if changed else before

    assert carried(before, "chat", levels) == (after, ["tools_effort"] if changed else [])
    assert carried(before, "responses", levels) == (before, [])
    check_strict("chat/completions", {"model": "gpt-5.4", **after})
    check_strict("responses", {"model": "gpt-5.4", "input": "Hi", "tools": [FUNCTION]})


def test_responses_goes_without_a_chats_members() -> None:
    """Under the names by which --to responses counts them; the same where a strict server may be asked."""
    members = {"stop": ["x"], "seed": 1, "n": 1, "logit_bias": {"1": 1}}
    chat = {"model": "acme-1", "messages": user("Hi"), **members}
    translation = Target(base_url="http://127.0.0.1:1", to="responses")
    sent(translation, exchange("chat", chat, "gateway.corp"))
    body, reasons = carried({"input": "Hi", **members}, "responses", ALL)

    assert (body, set(reasons)) == ({"input": "Hi"}, set(members))
    assert translation.portability.keys() == set(members)


@pytest.mark.parametrize("effort", [{}, {"reasoning_effort": "high"}])
def test_a_chat_that_goes_without_reasoning_keeps_its_temperature(effort: dict[str, str]) -> None:
    """What is refused where a model reasons, it takes beside the effort none."""
    body = {"model": "a", "messages": user("Hi"), "tools": TOOLS, "temperature": 0.2, **effort}
    target = Target(base_url="https://api.openai.com/v1", model="gpt-5.4")
    after = json.loads(sent(target, exchange("chat", body, "openrouter.ai"))[0])

    assert after == {**body, "model": "gpt-5.4", "reasoning_effort": "none"}
    check_strict("chat/completions", after)


def test_an_effort_that_a_chat_has_not_asks_for_nothing() -> None:
    """A gateway's `reasoning` goes, and the model reasons: its temperature goes as well."""
    body = {
        "model": "a",
        "messages": user("Hi"),
        "temperature": 0.2,
        "reasoning": {"effort": "none"},
    }
    target = Target(base_url="https://api.openai.com/v1", model="gpt-5.4")

    assert json.loads(sent(target, exchange("chat", body, "openrouter.ai"))[0]) == {
        "model": "gpt-5.4",
        "messages": user("Hi"),
    }


def answered(traced: Exchange) -> Exchange:
    """With an answer of three tokens."""
    usage, head = b'{"usage": {"completion_tokens": 3}}', (("content-type", "application/json"),)
    traced.response = Response(
        head_ns=0, end_ns=1, status=200, headers=head, body=usage, body_bytes=len(usage)
    )
    return traced


@pytest.mark.parametrize(
    ("way", "limits"),
    [
        ({}, {"max_completion_tokens": 64}),
        ({"fields": {"max_completion_tokens": 8}}, {"max_completion_tokens": 8}),
        ({"fields": {"max_completion_tokens": 8, "max_tokens": 9}}, {"max_completion_tokens": 8}),
        ({"fields": {"max_tokens": 9}}, {"max_completion_tokens": 64}),
        ({"portable": "off", "fields": {"max_tokens": 9}}, {"max_tokens": 9}),
        ({"lengths": "cap"}, {"max_completion_tokens": 3}),
    ],
)
def test_a_limit_has_the_name_that_a_model_takes(
    way: dict[str, Any], limits: dict[str, int]
) -> None:
    """However it comes about; one of another name alone is counted, as that of another API is."""
    traced = answered(exchange("chat", LLAMA, "api.together.xyz"))
    target = Target(base_url="https://api.openai.com/v1", model="o3", **way)
    body = json.loads(sent(target, traced)[0])

    assert {name: value for name, value in body.items() if name.startswith("max_")} == limits
    literal = way == {"fields": {"max_tokens": 9}}
    assert target.unchanged == ({"no_limit": 1} if literal else {})


def test_a_limit_that_is_put_in_is_not_what_went_before() -> None:
    """Of a request that OpenAI took, without any, the new one has the name that its model takes."""
    traced = answered(exchange("chat", {"model": "o3", "messages": user("Hi")}))
    target = Target(base_url="https://api.openai.com/v1", lengths="cap")

    assert json.loads(sent(target, traced)[0])["max_completion_tokens"] == 3
    assert target.portability == {}


def test_a_translation_for_openai_is_one_for_its_model() -> None:
    """The dialect has a member that the model refuses: it goes, and is counted, after the translation."""
    claude = {"model": "claude-a", "max_tokens": 8, "top_k": 4, "messages": user("Hi")}
    target = Target(base_url="https://api.openai.com/v1", model="o3", to="chat")
    body = json.loads(sent(target, exchange("messages", claude, "api.anthropic.com"))[0])

    assert body == {"model": "o3", "messages": user("Hi"), "max_completion_tokens": 8}
    assert target.portability == {"foreign_sampling": 1, "limit_name": 1}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat/completions", {"model": "gpt-4o", "top_k": 5}),
        ("chat/completions", {"model": "gpt-4o", "thinking": {"type": "disabled"}}),
        ("chat/completions", {"model": "o3", "max_tokens": 5}),
        ("chat/completions", {"model": "openai/gpt-5.1", "stop": ["x"]}),
        ("chat/completions", {"model": "gpt-5", "temperature": 0.2}),
        ("chat/completions", {"model": "gpt-5.1", "temperature": 0.2, "reasoning_effort": "low"}),
        ("chat/completions", {"model": "gpt-5.4", "tools": TOOLS}),
        ("chat/completions", {"model": "gpt-5.5", "tools": TOOLS, "reasoning_effort": "high"}),
        ("chat/completions", {"model": "gpt-6-luna", "tools": TOOLS, "reasoning_effort": None}),
        ("responses", {"model": "gpt-5", "top_p": 0.2}),
        ("responses", {"model": "gpt-5", "stop": ["x"]}),
        ("responses", {"model": "gpt-4o", "reasoning": {"effort": "low"}}),
        ("responses", {"model": "gpt-5.1-codex", "reasoning": {"effort": "none"}}),
    ],
)
def test_a_strict_server_refuses_what_openai_does(endpoint: str, body: dict[str, Any]) -> None:
    """Of a model with a name of OpenAI's; what portability makes of it is taken."""
    with pytest.raises(Refusal) as refusal:
        check_strict(endpoint, body)
    model = str(body["model"])
    asked = {"host": "", "model": None, "to_host": "api.openai.com", "to_model": model}
    effort = body.get("reasoning_effort", body.get("reasoning", {}).get("effort"))
    levels = refused("auto", **asked, effort=effort)
    name = "chat" if endpoint == "chat/completions" else endpoint

    assert refusal.value.status == 400
    check_strict(endpoint, carried(body, name, levels)[0])


def test_a_model_that_reasons_is_asked_as_it_wants(
    tbench: Callable[..., Done], serve: Callable[..., Server], tmp_path: Path
) -> None:
    """A server that refuses what OpenAI's refuses answers all that was made portable, and nothing else.

    It stands for OpenAI's as its proxy; under another name `strict` does the same.
    """
    server = serve("serve", "--port", 0, "--strict", "--any-model").url
    with TraceWriter(tmp_path / "t.msgpack", TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        writer.exchange(exchange("chat", LLAMA, "api.together.xyz"))
    openai = ("--base-url", "http://api.openai.com/v1", "--proxy", server, "--model", "gpt-5")
    gateway = ("--base-url", server, "--model", "gpt-5", "--portable", "strict")
    key = {"OPENAI_API_KEY": "sk-test"}
    dry = tbench("replay", "t.msgpack", *openai, "--dry-run", **key)
    done = tbench("replay", "t.msgpack", *openai, "-o", "a.run", **key)
    strict = tbench("replay", "t.msgpack", *gateway, "-o", "b.run")
    off = tbench("replay", "t.msgpack", *openai, "--portable", "off", "-o", "c.run", **key)

    for text in (dry.out, done.out, strict.out):
        assert (
            "1 request sent with another limit_name: OpenAI's models that reason take max_" in text
        )
        assert "1 request sent without foreign_sampling: " in text
    for name in ("a.run", "b.run"):
        assert read_run(tmp_path / name).columns["status"].tolist() == [200]
    assert off.code == 5
    assert "with 400 (Unrecognized request argument supplied: top_k)" in off.err


def test_a_model_that_is_asked_not_to_reason_gives_logprobs() -> None:
    """Portability and its judge are of one mind."""
    body = {"model": "gpt-5.1", "reasoning_effort": "none", "logprobs": True, "top_logprobs": 2}

    assert carried(body, "chat", frozenset({"openai", "reasoning"})) == (body, [])
    check_strict("chat/completions", body)
    with pytest.raises(Refusal, match="'logprobs' is not supported with this model"):
        check_strict("chat/completions", {**body, "reasoning_effort": "low"})


TWICE = {"max_tokens": 20, "max_completion_tokens": 30}
REFUSED_CHATS: dict[str, dict[str, Any]] = {
    "second_limit": TWICE,
    "logprobs_form": {"logprobs": 1},
    "logprobs_value": {"logprobs": 99},
    "json_schema": {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    "json_object": {"response_format": {"type": "json_object", "schema": SCHEMA}},
    "regex": {"response_format": {"type": "regex", "pattern": "a*"}},
    "effort": {"reasoning_effort": "none", "temperature": 0.2, "logprobs": 2},
    "stop": {"stop": ["x"], "presence_penalty": 1, "top_k": 3},
}
REFUSED_RESPONSES: dict[str, dict[str, Any]] = {
    "stop": {"stop": ["x"]},
    "seed": {"seed": 1},
    "effort": {"reasoning": {"effort": "none"}, "temperature": 0.2},
}
"""What is refused of a model, by what is wrong; GPT-5.1 alone can be asked not to reason."""


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5", "gpt-5.1", "o3"])
def test_each_body_that_openai_refuses_is_taken_when_portable(
    tbench: Callable[..., Done], serve: Callable[..., Server], tmp_path: Path, model: str
) -> None:
    """A server that refuses each as it was recorded, by the judge's words, answers all under `strict`."""
    chats = [("chat", {"messages": user("Hi"), **more}) for more in REFUSED_CHATS.values()]
    bodies = [
        *chats,
        *(("responses", {"input": "Hi", **more}) for more in REFUSED_RESPONSES.values()),
    ]
    names = [("chat", name) for name in REFUSED_CHATS]
    names += [("responses", name) for name in REFUSED_RESPONSES]
    server = serve("serve", "--port", 0, "--strict", "--any-model").url
    with TraceWriter(tmp_path / "t.msgpack", TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq, (endpoint, body) in enumerate(bodies):
            traced = exchange(endpoint, {"model": MODEL, **body}, "api.together.xyz")
            traced.request.id, traced.request.seq = f"{seq:032x}", seq
            writer.exchange(traced)
    together = ("--concurrency", len(bodies))
    flags = ("t.msgpack", *together, "--base-url", server, "--model", model)
    strict = tbench("replay", *flags, "--portable", "strict", "-o", "a.run")
    tbench("replay", *flags, "--portable", "off", "-o", "b.run")
    taken, bare = (read_run(tmp_path / name).columns for name in ("a.run", "b.run"))

    assert strict.ended, strict
    assert taken["status"].tolist() == [200] * len(bodies), taken["error"].tolist()
    statuses = dict(zip(names, bare["status"].tolist(), strict=True))
    calm = {("responses", "effort")} if model == "gpt-5.1" else set()
    assert {name for name, status in statuses.items() if status != 400} == calm


def test_a_benchmark_asks_openai_by_its_names() -> None:
    """Its limit is there, and nothing that would be refused."""
    workload = Workload(
        task="text-to-text", model="gpt-5", scenario=parse("D(20,5)"), requests=1, seed=0
    )
    (made,) = exchanges(workload)
    body = json.loads(sent(Target(base_url="https://api.openai.com/v1"), made)[0])

    assert body["max_completion_tokens"] == 5
    check_strict("chat/completions", body)


CLAUDE = {"model": "claude-opus-4-5", "max_tokens": 8, "stream": True}
GEMINI = {"model": "gemini-3-pro", "max_tokens": 8, "stream": True}
GPT = {"model": "gpt-5.1", "max_output_tokens": 8, "stream": True}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "1"}
USED = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
GOOGLED = {**CALL, "extra_content": {"google": {"thought_signature": "CAES"}}}
ENCRYPTED = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAAB"}
AGENT: list[tuple[str, str, dict[str, Any]]] = [
    ("chat", "generativelanguage.googleapis.com", {**GEMINI, "messages": user("Hi")}),
    ("chat", "generativelanguage.googleapis.com", {**GEMINI, "messages": [
        *user("Hi"), {"role": "assistant", "content": "", "tool_calls": [GOOGLED]},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"}]}),
    ("messages", "api.anthropic.com", {**CLAUDE, "messages": [
        *user("Hi"), {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "EqQB"}, USED]}, *user([RESULT])]}),
    ("messages", "api.anthropic.com", {**CLAUDE, "messages": [
        *user("Hi"), {"role": "assistant", "content": [
            {"type": "redacted_thinking", "data": "EmwK"}, USED]}, *user([RESULT])]}),
    ("responses", "api.openai.com", {**GPT, "include": ["reasoning.encrypted_content"],
        "store": False, "input": [*user("Hi"), ENCRYPTED, *ITEMS[2:4]]}),
    ("responses", "api.openai.com", {**GPT, "previous_response_id": "resp_1", "input": "Go on"}),
    ("responses", "api.openai.com", {**GPT, "input": user([{"type": "input_file", "file_id": "f"}])}),
    ("responses", "api.openai.com", {**GPT, "store": True, "input": "Hi", "tools": [
        {"type": "web_search"}]}),
]  # fmt: skip
"""Two turns with Gemini, two with Claude, three with GPT, one of them with what a file says."""
SENT_WITHOUT = {"thought_signature": 1, "thinking_signature": 2, "encrypted_reasoning": 1, "store": 1,
                "server_tools": 1}  # fmt: skip
LEFT_OUT = {"previous_response_id": 1, "file_id": 1}


def test_an_agents_trace_on_another_model(
    tbench: Callable[..., Done], serve: Callable[..., Server], tmp_path: Path
) -> None:
    """A strict server answers all that goes, each change is counted, what stays is told; `off` is 400s."""
    strict, trace = serve("serve", "--port", 0, "--strict").url, tmp_path / "t.msgpack"
    with TraceWriter(trace, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq, (endpoint, host, body) in enumerate(AGENT):
            traced = exchange(endpoint, body, host)
            traced.request.id, traced.request.seq = f"{seq:032x}", seq
            writer.exchange(traced)
    flags = (trace, "--concurrency", 1, "--base-url", strict, "--model", MODEL)
    seen = tbench("replay", *flags, "--dry-run")
    done = tbench("replay", *flags, "-o", "a.run")
    off = tbench("replay", *flags, "--portable", "off", "--allow-unsafe", "-o", "b.run")
    run, bare = (read_run(tmp_path / name) for name in ("a.run", "b.run"))

    assert run.columns["outcome"].tolist() == ["ok"] * 6, run.columns["error"].tolist()
    assert (run.totals["portability"], run.totals["skipped"]) == (SENT_WITHOUT, LEFT_OUT)
    assert run.header["target"]["portable"] == "auto"
    for line in (
        "1 request sent without thought_signature: ",
        "2 requests sent without thinking_sig",
    ):
        assert line in seen.out and line in done.out
    assert "skipped     1 previous_response_id, 1 file_id" in seen.out
    assert off.ended, off.err
    assert bare.columns["status"].tolist() == [200] + [400] * 7
    assert (bare.totals["portability"], bare.totals["skipped"]) == ({}, {})
    assert "Invalid `signature` in `thinking` block" in bare.columns["error"][2]
