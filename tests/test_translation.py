"""Dialects: the same conversation in each; what is lost on the way is exactly what was counted."""

import json
import re
from contextlib import suppress
from itertools import permutations, product
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import numpy as np
import orjson
import pytest
from anthropic.types import OutputConfigParam
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.shared import reasoning_effort as openai_effort

from tbench import replay
from tbench.capture.exchange import Exchange
from tbench.capture.providers import parse_response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.dialects import CHANGES, DIALECTS, Dialect, Mute, translated
from tbench.replay.dialects.conversation import (
    ANY_TOOL,
    NO_TOOL,
    Call,
    Conversation,
    Image,
    Result,
    Text,
    Tool,
    Turn,
)
from tbench.replay.plan import Plan
from tbench.replay.portability import BONDS, carried, left_out
from tbench.replay.target import Outgoing, Target
from tests.recorded import chat_request

FIELD = {
    "max_tokens": "limit",
    "max_output_tokens": "limit",
    "temperature": "temperature",
    "top_k": "top_k",
    "stop": "stop",
    "response_format": "shape",
    "reasoning_effort": "effort",
    **dict.fromkeys(("json_schema.name", "json_schema.strict"), "shape"),
    **dict.fromkeys(
        ("image_url.detail", "is_error", "tool_result.image", "call_id", "blank_text"), "turns"
    ),
    "empty_message": "turns",
}
"""What a translation may name -> the field of a conversation that it is about."""
NAMES = st.from_regex(r"[a-z]\w{0,8}", fullmatch=True)
IDS = st.sampled_from(["functions.weather:0", "call_" + "x" * 70, "call|1", "call/1"])
WORDS = st.text(min_size=1, max_size=12)
TEXT = WORDS.map(Text)
IMAGE = st.builds(
    Image,
    st.sampled_from(["https://x.example/a.png", "data:image/png;base64,iVBORw0KGgo="]),
    st.sampled_from([None, "low", "high"]),
)
SHOWN = st.lists(TEXT | IMAGE, min_size=1, max_size=3).map(tuple)
SCHEMA = st.dictionaries(NAMES, st.integers(-9, 9) | WORDS | st.booleans(), min_size=1, max_size=2)
SHAPE: dict[str, Any] = {"name": "answer", "schema": {"type": "object"}, "strict": True}
TOOL = st.builds(Tool, NAMES, st.none() | WORDS, SCHEMA, st.booleans())


@st.composite
def exchanges(draw: st.DrawFn) -> list[Turn]:
    """A user asks, the assistant speaks or calls or both, each call has its result."""
    calls = draw(
        st.lists(
            st.builds(Call, NAMES | IDS, NAMES, SCHEMA.map(lambda v: orjson.dumps(v).decode())),
            max_size=2,
        )
    )
    spoken = draw(st.lists(TEXT, min_size=0 if calls else 1, max_size=2))
    results = [Turn("tool", (Result(call.id, draw(SHOWN), draw(st.booleans())),)) for call in calls]
    return [Turn("user", draw(SHOWN)), Turn("assistant", (*spoken, *calls)), *results]


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Requests in the form that a reader gives them."""
    opening = draw(
        st.lists(
            st.builds(Turn, st.just("system"), st.lists(TEXT, min_size=1, max_size=2).map(tuple)),
            max_size=1,
        )
    )
    turns = [turn for each in draw(st.lists(exchanges(), max_size=2)) for turn in each]
    tools = tuple(draw(st.lists(TOOL, max_size=2)))
    share = st.none() | st.floats(0, 2)
    return Conversation(
        turns=(*opening, *turns, Turn("user", draw(SHOWN))),
        model=draw(WORDS),
        stream=draw(st.sampled_from([None, True, False])),
        limit=draw(st.none() | st.integers(1, 9999)),
        stop=tuple(draw(st.lists(WORDS, max_size=2))),
        temperature=draw(share),
        top_p=draw(share),
        top_k=draw(st.none() | st.integers(1, 99)),
        tools=tools,
        choice=draw(st.sampled_from([None, NO_TOOL, ANY_TOOL, tools[0].name])) if tools else None,
        serial=draw(st.booleans()) if tools else False,
        shape=draw(
            st.sampled_from([None, {}, SHAPE | {"name": "a"}, SHAPE | {"strict": False}, SHAPE])
        ),
        effort=draw(st.sampled_from([None, "none", "minimal", "low", "max"])),
    )


@pytest.mark.parametrize(("source", "to"), [*permutations(DIALECTS, 2)])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_there_and_back_loses_exactly_what_was_counted(
    source: str, to: str, data: st.DataObject
) -> None:
    """Roles, texts, calls, results, images, tools, limits, sampling: every field is the same, or named."""
    body = DIALECTS[source].write(data.draw(conversations()), set())
    body = json.loads(json.dumps(body))
    there, lost = translated(body, source, to)
    back, also = translated(json.loads(json.dumps(there)), to, source)
    before, after = (DIALECTS[source].read(each, set()) for each in (body, back))

    differ = {name for name in vars(before) if getattr(before, name) != getattr(after, name)}
    assert differ == {FIELD[name] for name in {*lost, *also}}


MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALLED = {"name": "weather", "arguments": '{"city":"Paris"}'}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is it in Paris?"},
]
CHATS: list[dict[str, Any]] = [
    {"messages": TURNS, "stream": True, "temperature": 0.5, "top_p": 0.9},
    {"messages": TURNS, "stream": True, "tools": [{"type": "function", "function": WEATHER}]},
    {
        "messages": [
            *TURNS,
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": f"call_{number}", "type": "function", "function": CALLED} for number in (1, 2)]},
            *({"role": "tool", "tool_call_id": f"call_{number}", "content": "Fine"} for number in (1, 2)),
            {"role": "user", "content": "And tomorrow?"},
        ],
        "tools": [{"type": "function", "function": WEATHER}],
        "tool_choice": "none",
    },
    {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]}]},
    {"messages": TURNS, "response_format": {"type": "json_schema", "json_schema": SHAPE}},
]  # fmt: skip
"""Chats of plain words, of tools offered, of tools that were called, of a picture, of an answer in JSON."""


def recorded(path: str, body: bytes, seq: int = 0) -> Exchange:
    """A request as it is captured."""
    request = chat_request(seq, seq, body, scheme="https", host="api.together.xyz", path=path)
    return Exchange(request=request, response=None)


def outgoing(target: Target, traced: Exchange) -> Outgoing:
    """The request as it goes out."""
    (planned,) = Plan(trace=[traced], refuses=target.refuses)
    return target.outgoing(planned)


def test_what_a_translation_changes_has_words() -> None:
    """Messages needs a limit, takes 1 as temperature at most, and the system's words in front."""
    asked = {"temperature": 1.5, "messages": [*TURNS, TURNS[0], {"role": "user", "content": ""}]}
    body, lost = translated(asked, "chat", "messages")

    assert (body["max_tokens"], body["temperature"], body["system"]) == (4096, 1.0, "Be brief.")
    assert body["messages"][1] == {"role": "user", "content": "Be brief."}
    assert set(lost) == {"max_tokens", "temperature", "system_turn", "empty_message"} < set(CHANGES)


@pytest.mark.parametrize("to", ["messages", "responses"])
def test_a_chat_is_answered_alike_in_another_dialect_and_back(simulator: Any, to: str) -> None:
    """The same text, tool calls and counts, streamed or whole: the simulator answers the prompt alone."""
    with httpx.Client(base_url=simulator.url, headers={"authorization": "Bearer k"}) as http:

        def answer(path: str, body: bytes) -> tuple[str, int, int | None, int | None]:
            response = http.post(path, content=body)
            kind = response.headers["content-type"]
            parsed = parse_response([(0.0, response.content)], content_type=kind)
            assert (response.status_code, parsed.error, parsed.done) == (200, None, True)
            return parsed.text, parsed.tool_calls, parsed.usage.prompt, parsed.usage.output

        for chat in CHATS:
            first = recorded(
                "/v1/chat/completions", orjson.dumps({"model": MODEL, "max_tokens": 30, **chat})
            )
            there = outgoing(Target(base_url=simulator.url, to=to), first)
            back = outgoing(
                Target(base_url=simulator.url, to="chat"), recorded(there.path, there.body)
            )
            ways = [(first.request.path, first.request.body), there[:2], back[:2]]
            answers = {answer(*way) for way in ways}

            assert there.info.endpoint == to
            assert (there.dropped, back.dropped) == ([], [])
            assert len(answers) == 1


def test_a_replay_in_another_dialect_is_measured_as_that_one(
    simulator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples and counts are those of the dialect that is spoken."""
    monkeypatch.setenv("TOGETHER_API_KEY", "k")
    trace = tmp_path / "t.msgpack"
    with TraceWriter(trace, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq, chat in enumerate(CHATS):
            body = {"model": MODEL, "max_tokens": 9, "seed": 1, **chat}
            writer.exchange(recorded("/v1/chat/completions", orjson.dumps(body), seq))
        writer.exchange(recorded("/v1/completions", b'{"model":"m","prompt":"Hi"}', 9))
    given: dict[str, Any] = {"base_url": simulator.url, "concurrency": 1, "warmup": "none"}
    as_chat = replay(trace, out=tmp_path / "a.run", only="chat", **given)
    run = replay(trace, to="messages", out=tmp_path / "b.run", **given)

    assert set(run.columns["endpoint"]) == {"messages"}
    assert run.columns["outcome"].tolist() == ["ok"] * len(CHATS), run.columns["error"].tolist()
    for name in ("prompt_tokens", "output_tokens"):
        assert run.columns[name].tolist() == as_chat.columns[name].tolist()
    first = np.isnan(run.columns["first_token"])
    assert (~first).tolist() == run.columns["stream"].tolist() == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert run.totals["skipped"] == {"no_dialect": 1}
    assert run.totals["portability"] == {"seed": len(CHATS)}


def test_the_head_is_that_of_the_dialect() -> None:
    """Its path, its key's header, the version that Messages needs; what only the other API has stays."""
    body = orjson.dumps({"model": "m", "messages": TURNS, "max_tokens": 1})
    chat = recorded("/openai/deployments/d/chat/completions?api-version=1", body)
    chat.request.headers = (("openai-beta", "x"), ("x-sim-tokens", "3"))
    chat.request.extra = {"credential_header": "api-key"}
    heads = {
        to: Target(base_url="http://h", key="k", to=to).call(next(iter(Plan(trace=[chat])))).head
        for to in ("messages", "responses")
    }

    assert heads["messages"].startswith(b"POST /v1/messages HTTP/1.1\r\n")
    assert b"\r\nx-api-key: k\r\n" in heads["messages"]
    assert b"\r\nanthropic-version: 2023-06-01\r\n" in heads["messages"]
    assert heads["responses"].startswith(b"POST /v1/responses HTTP/1.1\r\n")
    assert b"\r\nauthorization: Bearer k\r\n" in heads["responses"]
    for head in heads.values():
        assert (b"openai-beta" in head, b"x-sim-tokens: 3" in head) == (False, True)


def test_model_fields_and_salt_come_after_the_translation() -> None:
    """They are of the dialect that is spoken: a field of the other one means nothing any more."""
    body = orjson.dumps({"model": "m", "messages": TURNS, "max_tokens": 1})
    fields = {"max_output_tokens": 7}
    target = Target(base_url="http://h", model="n", fields=fields, salt="12345678", to="responses")
    sent = outgoing(target, recorded("/v1/chat/completions", body))
    written = orjson.loads(sent.body)

    assert (written["model"], written["max_output_tokens"]) == ("n", 7)
    assert written["instructions"] == "12345678\nBe brief."
    assert (sent.info.endpoint, sent.info.max_tokens, sent.info.model) == ("responses", 7, "n")


def test_the_shape_of_an_answer_is_asked_for_in_every_dialect() -> None:
    """As each maker's own SDK types it: a schema, and how hard to reason."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    named = {"name": "answer", "schema": schema, "strict": True}
    asked = {
        "messages": TURNS,
        "max_tokens": 99,
        "response_format": {"type": "json_schema", "json_schema": named},
        "reasoning_effort": "high",
    }
    body, lost = translated(asked, "chat", "messages")
    form = {"type": "json_schema", "schema": schema}

    assert (body["output_config"], lost) == ({"format": form, "effort": "high"}, [])
    responses, lost = translated(body, "messages", "responses")
    assert responses["text"] == {"format": {"type": "json_schema", **named}}
    assert (responses["reasoning"], lost) == ({"effort": "high"}, [])
    chat, lost = translated(responses, "responses", "chat")
    assert chat["response_format"] == asked["response_format"]
    older = {"messages": body["messages"], "max_tokens": 99, "output_format": form}
    assert translated(older, "messages", "chat")[0]["response_format"] == asked["response_format"]


def literals(hint: Any) -> set[str]:
    """The words of a type of an SDK."""
    inner = get_args(hint)
    return {hint} if isinstance(hint, str) else {word for each in inner for word in literals(each)}


def test_efforts_are_those_that_the_makers_know() -> None:
    """By the types of their SDKs; a word that a dialect does not have is named, and not sent."""
    openai = literals(openai_effort.ReasoningEffort)
    claude = literals(get_type_hints(OutputConfigParam)["effort"])
    known = {"chat": openai, "messages": claude, "responses": openai}
    for to, word in product(DIALECTS, [*openai, *claude, "ultra"]):
        lost: set[str] = set()
        conversation = Conversation(turns=(Turn("user", (Text("Hi"),)),), limit=99, effort=word)
        body = DIALECTS[to].write(conversation, lost)
        sent = DIALECTS[to].read(body, set()).effort
        assert (sent, lost) == (
            (word, set()) if word in known[to] else (None, {"reasoning_effort"})
        )


def test_what_an_api_refuses_is_changed_and_named() -> None:
    """Limits, stops, blank texts, ids of calls: as the servers' own errors say; calls keep their results."""
    call = {"id": "functions.weather:0", "type": "function", "function": CALLED}
    asked = {
        "messages": [
            {"role": "system", "content": " "},
            {"role": "user", "content": "\n"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "\n\n", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "Fine"},
        ],
        "max_tokens": 5,
        "stop": ["\n\n", "END", ""],
    }
    body, lost = translated(asked, "chat", "messages")
    first, called, result = body["messages"]
    assert body["stop_sequences"] == ["END"]
    assert ("system" in body, first["content"]) == (False, "Hi")
    (use,), (given,) = called["content"], result["content"]
    assert (use["type"], use["id"]) == ("tool_use", given["tool_use_id"])
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", use["id"])
    assert set(lost) == {"blank_text", "call_id", "empty_message", "stop"}
    other = json.loads(json.dumps(asked).replace("weather:0", "weather.0"))
    assert translated(other, "chat", "messages")[0]["messages"][2] != result

    long = json.loads(json.dumps(asked).replace("functions.weather:0", "x" * 65))
    body, lost = translated(long, "chat", "responses")
    assert body["max_output_tokens"] == 16
    ids = {item["call_id"] for item in body["input"] if "call_id" in item}
    assert [len(ident) <= 64 for ident in ids] == [True]
    assert set(lost) == {"call_id", "max_output_tokens", "stop"}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("required", "required"),
        (None, None),
        ({"type": "function", "function": {"name": "gone"}}, None),
    ],
)
def test_no_tool_is_chosen_that_is_not_there(choice: Any, sent: Any) -> None:
    """Servers refuse the choice of a tool that they were not told of; of none, any choice."""
    custom = {"type": "custom", "custom": {"name": "gone"}}
    asked = {"messages": TURNS, "tools": [custom], "tool_choice": choice}
    body, lost = translated(asked, "chat", "responses")
    assert "tool_choice" not in body
    assert lost == ["tool_choice", "tools.custom"] if choice else ["tools.custom"]
    both = {**asked, "tools": [custom, {"type": "function", "function": WEATHER}]}
    assert translated(both, "chat", "responses")[0].get("tool_choice") == sent


def test_the_same_dialect_goes_byte_by_byte() -> None:
    """There is nothing to translate, and no head to change."""
    chat = recorded("/v1/chat/completions", b'{ "model": "m", "messages": [], "seed": 1 }')

    assert outgoing(Target(base_url="http://h", to="chat"), chat).body is chat.request.body


def test_what_is_nested_deeper_than_json_is_written_is_left_out() -> None:
    """It is one request, and no end of the replay: 300 objects in the input of a tool."""
    deep = orjson.loads(b'{"a":' * 300 + b"1" + b"}" * 300)
    block = {"type": "tool_use", "id": "t", "name": "f", "input": deep}
    body = {"max_tokens": 1, "messages": [{"role": "assistant", "content": [block]}]}

    for to in ("chat", "responses"):
        with pytest.raises(Mute, match=r"^nesting$"):
            translated(body, "messages", to)


def test_what_is_no_word_of_an_api_is_named_other() -> None:
    """Reasons are written into runs, which hold no text of a prompt."""
    chat = {"messages": [{"role": "user", "content": "Hi", "Some prompt: text": "x"}], "é" * 9: 1}

    assert translated(chat, "chat", "responses")[1] == ["messages.other", "other"]
    with pytest.raises(Mute, match=r"^other$"):
        translated({"messages": [{"role": "a prompt\n"}]}, "chat", "responses")


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "content.input_audio"),
        ("chat/completions", {"messages": [{"role": "function", "content": "1"}]}, "role function"),
        ("chat/completions", {"messages": "Hi"}, "messages"),
        ("embeddings", {"input": "Hi"}, "no_dialect"),
        ("responses", {"input": [{"type": "custom_tool_call"}]}, "input.custom_tool_call"),
        ("responses", {"input": "Hi", "prompt": {"id": "pmpt_1"}}, "prompt_template"),
    ],
)  # fmt: skip
def test_what_has_no_words_in_another_dialect_is_left_out(
    path: str, body: dict[str, Any], reason: str
) -> None:
    """By its name: half of a conversation is another one."""
    target = Target(base_url="http://h", to="messages")
    plan = Plan(trace=[recorded(f"/v1/{path}", orjson.dumps(body))], refuses=target.refuses)

    assert (list(plan), plan.skipped) == ([], {reason: 1})


def test_a_dialect_is_a_reader_a_writer_and_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is added from outside is asked like the others, by whoever speaks any of them."""

    def write(conversation: Conversation, lost: set[str]) -> dict[str, Any]:
        (said,) = (part.text for turn in conversation.turns for part in turn.parts)
        return {"say": said}

    def read(body: dict[str, Any], lost: set[str]) -> Conversation:
        return Conversation(turns=(Turn("user", (Text(body["say"]),)),))

    monkeypatch.setitem(
        DIALECTS, "acme", Dialect("/v1/speak", (("acme-version", "2"),), read, write)
    )
    asked = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    target = Target(base_url="http://h", to="acme")
    (planned,) = Plan(trace=[recorded("/v1/chat/completions", asked)], refuses=target.refuses)
    call = target.call(planned)

    assert (call.body, b"\r\nacme-version: 2\r\n" in call.head) == (b'{"say":"Hi"}', True)
    assert translated({"say": "Hi"}, "acme", "responses")[0]["input"] == [
        {"role": "user", "content": "Hi"}
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "text", "user", "function"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["type", "role", "content", "name", "function"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
MEMBERS = ("messages", "input", "system", "tools", "tool_choice", "stop", "text", "reasoning", "max_tokens",
           "temperature", "stream_options", "response_format", "stop_sequences", "reasoning_effort",
           "output_config", "parallel_tool_calls")  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(body=st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=4))
def test_any_json_is_translated_or_mute(body: dict[str, Any]) -> None:
    """A foreign trace may hold anything where an API expects something."""
    levels = frozenset(bond.level for bond in BONDS.values())
    for source, to in permutations(DIALECTS, 2):
        left_out(body, source, levels)
        with suppress(Mute):
            orjson.dumps(translated(carried(body, source, levels)[0], source, to)[0])
