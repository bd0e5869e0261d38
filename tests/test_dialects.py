"""Anthropic's Messages and OpenAI's Responses, as their public references show them, read and judged."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.exchange import Outcome
from tbench.capture.intake import Selection
from tbench.capture.providers import (
    GENERATIVE,
    PROMISED,
    ParsedResponse,
    Usage,
    is_stream,
    outcome_of,
    parse_request,
    parse_response,
    provider_of,
)
from tbench.capture.sessions import Sessions
from tests.recorded import chat_request

Json = dict[str, Any]


def event(payload: Json) -> bytes:
    """As both APIs write it, with the type as the event's name."""
    return b"event: %s\ndata: %s\n\n" % (payload["type"].encode(), json.dumps(payload).encode())


def read(*payloads: Json) -> ParsedResponse:
    """The k-th event, from 0, comes at k seconds."""
    chunks = [(float(at), event(payload)) for at, payload in enumerate(payloads)]
    return parse_response(chunks, content_type="text/event-stream; charset=utf-8")


def outcome(answer: ParsedResponse, endpoint: str = "messages") -> Outcome:
    return outcome_of(200, answer, endpoint=endpoint)


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbfevent: x\ndata: {}\n\n", b"\n" * 9 + b"data: {}\n\n"]
)
def test_a_stream_is_told_however_it_is_cut(body: bytes) -> None:
    """By its first words, of which a read may hold a byte."""
    assert is_stream([(0.0, body)], "")
    assert is_stream([(0.0, body[at : at + 1]) for at in range(len(body))], "")


# Messages


def start(**usage: int) -> Json:
    counts = {"input_tokens": 25, "output_tokens": 1, **usage}
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-x",
        "stop_reason": None, "stop_sequence": None, "usage": counts,
    }  # fmt: skip
    return {"type": "message_start", "message": message}


def block(index: int, **block: Any) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **delta: Any) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def text(words: str, index: int = 0) -> Json:
    return delta(index, type="text_delta", text=words)


def end(index: int = 0) -> Json:
    return {"type": "content_block_stop", "index": index}


def last(reason: str = "end_turn", **usage: Any) -> Json:
    change = {"stop_reason": reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": change, "usage": {"output_tokens": 15, **usage}}


PING: Json = {"type": "ping"}
STOP: Json = {"type": "message_stop"}
EMPTY = block(0, type="text", text="")


def test_a_message_streamed() -> None:
    """Content is what has text; the start, pings and the end are not."""
    answer = read(start(), EMPTY, PING, text("Hello"), text("!"), end(), last(), STOP)

    assert answer.text == "Hello!"
    assert (answer.first_token, answer.first_answer, answer.last_token) == (3.0, 3.0, 4.0)
    assert answer.usage == Usage(prompt=25, output=15)
    assert answer.finish_reasons == ("end_turn",)
    assert (answer.done, answer.ended, outcome(answer)) == (True, True, Outcome.OK)


def test_thinking_is_a_token_and_no_answer() -> None:
    """Its signature is neither."""
    answer = read(
        start(),
        block(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="Hm."),
        delta(0, type="signature_delta", signature="EqQBCgIYAhIM"),
        end(),
        block(1, type="text", text=""),
        text("27", 1),
        end(1),
        last(output_tokens_details={"thinking_tokens": 9}),
        STOP,
    )

    assert (answer.first_token, answer.first_answer) == (2.0, 6.0)
    assert answer.token_times == (2.0, 6.0)
    assert (answer.text, answer.usage.reasoning) == ("27", 9)


def test_redacted_thinking_is_there_at_once() -> None:
    """It has no deltas."""
    answer = read(start(), block(0, type="redacted_thinking", data="Ew=="), end(), last(), STOP)

    assert (answer.first_token, answer.first_answer) == (1.0, None)


def test_a_tool_call_is_an_answer() -> None:
    """From where its name came."""
    answer = read(
        start(),
        block(0, type="tool_use", id="toolu_1", name="report_error", input={}),
        delta(0, type="input_json_delta", partial_json=""),
        delta(0, type="input_json_delta", partial_json='{"error":'),
        delta(0, type="input_json_delta", partial_json=' "none"}'),
        end(),
        last("tool_use"),
        STOP,
    )

    assert (answer.tool_calls, answer.token_times) == (1, (1.0, 3.0, 4.0))
    assert (answer.finish_reasons, outcome(answer)) == (("tool_use",), Outcome.OK)


@pytest.mark.parametrize(
    ("first", "final", "usage"),
    [
        ({"cache_read_input_tokens": 100}, {}, Usage(125, 15, cached=100)),
        (
            {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 7},
            {},
            Usage(132, 15, cached=100, created=7),
        ),
        # Cumulative, so that a later count takes the place of an earlier one: servers' tools add input.
        ({}, {"input_tokens": 40, "cache_read_input_tokens": 8}, Usage(48, 15, cached=8)),
        ({"input_tokens": 0}, {"input_tokens": 30}, Usage(30, 15)),
        ({}, {"input_tokens": 0, "cache_read_input_tokens": 0}, Usage(25, 15)),
        ({"cache_read_input_tokens": 5}, {"input_tokens": None}, Usage(30, 15, cached=5)),
    ],
)
def test_a_prompt_is_all_that_was_read(first: Json, final: Json, usage: Usage) -> None:
    """`input_tokens` leaves out what a cache gave or took: the prompt is their sum."""
    assert read(start(**first), text("a"), last(**final), STOP).usage == usage


def test_output_is_counted_at_the_end_only() -> None:
    """`message_start` says 1 whatever comes; a stream that broke off has no count of its output."""
    answer = read(start(), EMPTY, text("Hel"))

    assert answer.usage == Usage(prompt=25)
    assert (answer.done, answer.ended, outcome(answer)) == (False, False, Outcome.CUT)


def test_a_message_without_its_last_event_is_cut() -> None:
    """A clean end of the body is no end of the message."""
    assert outcome(read(start(), text("error"), end(), last())) is Outcome.CUT


def test_an_error_event_is_the_end() -> None:
    """Nothing comes after it, so that who leaves then misses nothing."""
    complaint = {"type": "overloaded_error", "message": "Overloaded"}
    answer = read(start(), text("Hel"), {"type": "error", "error": complaint})

    assert (answer.error, answer.ended) == ("Overloaded", True)
    assert outcome(answer) is Outcome.STREAM_ERROR


@pytest.mark.parametrize("before", [(), (PING,), (start(),)])
@pytest.mark.parametrize("complaint", [{"error": {"message": "no"}}, {"message": "no"}])
def test_an_error_comes_wherever_it_comes(before: tuple[Json, ...], complaint: Json) -> None:
    """As the first event already, and in either form."""
    answer = read(*before, {"type": "error", **complaint})

    assert (answer.error, outcome(answer)) == ("no", Outcome.STREAM_ERROR)


@pytest.mark.parametrize("ping", [b"event: ping\ndata: {}\n\n", event(PING), b": ping\n\n"])
def test_a_ping_is_nothing_even_before_the_message(ping: bytes) -> None:
    """Whoever sends one, it tells neither whose stream it is nor that anything came."""
    pieces = [ping, *map(event, (start(), EMPTY, text("a"), end(), last(), STOP))]
    answer = parse_response(list(enumerate(pieces)), content_type="text/event-stream")

    assert (answer.first_token, outcome(answer)) == (3, Outcome.OK)


def test_a_message_in_one_piece() -> None:
    """Text and calls of an answer that was not streamed."""
    payload = start(cache_read_input_tokens=5)["message"] | {
        "content": [
            {"type": "thinking", "thinking": "error?", "signature": "x"},
            {"type": "text", "text": "Ok"},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
        ],
        "stop_reason": "tool_use",
    }
    raw = json.dumps(payload).encode()
    answer = parse_response([(1.0, raw)], content_type="application/json")

    assert (answer.text, answer.tool_calls, answer.finish_reasons) == ("Ok", 1, ("tool_use",))
    assert answer.usage == Usage(prompt=30, output=1, cached=5)
    assert (answer.first_token, outcome(answer)) == (None, Outcome.OK)


# Responses


def response(status: str, **members: Any) -> Json:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None,
        "incomplete_details": None, "model": "m", "output": [], "usage": None, **members,
    }  # fmt: skip


def said(kind: str, **members: Any) -> Json:
    return {"type": f"response.{kind}", **members}


def turn(status: str, **members: Any) -> Json:
    return said(status, response=response(status, **members))


USAGE = {
    "input_tokens": 37,
    "input_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 4},
    "output_tokens": 11,
    "output_tokens_details": {"reasoning_tokens": 6},
    "total_tokens": 48,
}
COUNTED = Usage(prompt=37, output=11, cached=12, reasoning=6, created=4)
BEGUN = (
    turn("created"),
    turn("in_progress"),
    said("output_item.added", output_index=0, item={"type": "message", "content": []}),
)


def word(delta: str) -> Json:
    return said("output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=delta)


def test_a_response_streamed() -> None:
    """`"error": null` is none, and only the last event has counts."""
    answer = read(*BEGUN, word("an "), word("error"), turn("completed", usage=USAGE))

    assert (answer.text, answer.usage) == ("an error", COUNTED)
    assert (answer.first_token, answer.first_answer, answer.last_token) == (3.0, 3.0, 4.0)
    assert (answer.finish_reasons, answer.ended) == (("completed",), True)
    assert outcome(answer, "responses") is Outcome.OK


@pytest.mark.parametrize("kind", ["reasoning_text.delta", "reasoning_summary_text.delta"])
def test_reasoning_is_a_token_and_no_answer(kind: str) -> None:
    """Told whole or as a summary."""
    answer = read(*BEGUN, said(kind, delta="Hm."), word("27"), turn("completed"))

    assert (answer.first_token, answer.first_answer, answer.text) == (3.0, 4.0, "27")


@pytest.mark.parametrize(
    "kind", ["refusal.delta", "custom_tool_call_input.delta", "mcp_call_arguments.delta"]
)
def test_whatever_the_model_writes_is_an_answer(kind: str) -> None:
    """Of whatever kind, though only `output_text` is its text."""
    answer = read(*BEGUN, said(kind, delta="x"), turn("completed"))

    assert (answer.first_answer, answer.text) == (3.0, "")


def test_what_a_tool_prints_is_no_token() -> None:
    """The model did not write it."""
    printed = said("shell_call_output_content.delta", delta={"stdout": "x"})

    assert read(*BEGUN, printed, turn("completed")).token_times == ()


def test_a_function_call_is_an_answer() -> None:
    """From where its name came."""
    call = {"type": "function_call", "name": "f", "arguments": "", "call_id": "c"}
    answer = read(
        *BEGUN[:2],
        said("output_item.added", output_index=0, item=call),
        said("function_call_arguments.delta", output_index=0, delta="{}"),
        turn("completed", usage=USAGE),
    )

    assert (answer.tool_calls, answer.token_times) == (1, (2.0, 3.0))


def test_an_incomplete_response_is_ok() -> None:
    """It says itself why it ends there."""
    reason = {"reason": "max_output_tokens"}
    answer = read(*BEGUN, word("a"), turn("incomplete", incomplete_details=reason, usage=USAGE))

    assert (answer.finish_reasons, answer.usage) == (("max_output_tokens",), COUNTED)
    assert outcome(answer, "responses") is Outcome.OK


def test_a_refusal_of_the_model_is_an_answer() -> None:
    """Its words are tokens and no text of an answer; the finish reason counts it, streamed or not."""
    output = [{"type": "message", "content": [{"type": "refusal", "refusal": "I won't."}]}]
    final = turn("completed", output=output, usage=USAGE)
    streamed = read(*BEGUN, said("refusal.delta", delta="I won't."), final)
    raw = json.dumps(final["response"]).encode()

    for answer in (streamed, parse_response([(1.0, raw)], content_type="application/json")):
        assert (answer.finish_reasons, answer.text, answer.usage) == (("refusal",), "", COUNTED)
        assert outcome(answer, "responses") is Outcome.OK
    assert (streamed.first_token, streamed.first_answer) == (3.0, 3.0)


@pytest.mark.parametrize(
    "final",
    [
        turn("failed", error={"code": "server_error", "message": "It broke"}),
        {"type": "error", "code": "server_error", "message": "It broke", "param": None},
    ],
)
def test_a_failed_response_is_a_stream_error(final: Json) -> None:
    """And its last event is the end."""
    answer = read(*BEGUN, word("a"), final)

    assert (answer.error, answer.ended) == ("It broke", True)
    assert outcome(answer, "responses") is Outcome.STREAM_ERROR


def test_a_response_without_its_last_event_is_cut() -> None:
    """However clean its body ends."""
    answer = read(*BEGUN, word("a"), said("output_text.done", text="a"))

    assert (answer.ended, outcome(answer, "responses")) == (False, Outcome.CUT)


def test_a_response_in_one_piece() -> None:
    """Text and calls of an answer that was not streamed."""
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "Ok", "annotations": []}]},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
    ]
    raw = json.dumps(response("completed", output=output, usage=USAGE)).encode()
    answer = parse_response([(1.0, raw)], content_type="application/json")

    assert (answer.text, answer.tool_calls, answer.usage) == ("Ok", 1, COUNTED)
    assert outcome(answer, "responses") is Outcome.OK


# Both


@pytest.mark.parametrize(
    "payloads",
    [
        (start(), EMPTY, text("a"), text("b"), end(), last(), STOP),
        (*BEGUN, word("a"), word("b"), turn("completed", usage=USAGE)),
    ],
)
def test_a_compressed_stream_reads_the_same(payloads: tuple[Json, ...]) -> None:
    """Each event by the read that completed it."""
    packer = gzip_pieces(*map(event, payloads))
    answer = parse_response(packer, content_type="text/event-stream", content_encoding="gzip")

    assert answer == read(*payloads)


def gzip_pieces(*pieces: bytes) -> list[tuple[float, bytes]]:
    packer = zlib.compressobj(wbits=31)
    chunks = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    chunks[-1] += packer.flush()
    return [(float(at), chunk) for at, chunk in enumerate(chunks)]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *(
            "type",
            "delta",
            "usage",
            "message",
            "content_block",
            "error",
            "response",
            "item",
            "output",
        ),
        *("content", "input_tokens", "output_tokens", "text", "stop_reason", "status", "role"),
        *("input", "instructions", "system", "messages", "tools", "model", "max_tokens", "object"),
    ]
)
KINDS = st.sampled_from(
    [
        *("message_start", "message_delta", "content_block_delta", "content_block_start", "error"),
        *("response.output_text.delta", "response.output_item.added", "response.completed", "ping"),
        *("message", "text_delta", "tool_use", "function_call", "response.failed", "tool_result"),
    ]
)
STRANGE = st.dictionaries(
    NAMES, KINDS | ANYTHING | st.dictionaries(NAMES, KINDS | ANYTHING, max_size=4), max_size=6
)


@given(st.lists(STRANGE, min_size=1, max_size=4))
def test_nothing_is_too_strange_to_be_read(payloads: list[Json]) -> None:
    """Known names with whatever in them: an answer, as a stream and as a body, and never an exception."""
    events = [b"data: %s\n\n" % json.dumps(payload).encode() for payload in payloads]
    streamed = parse_response([(0.0, b"".join(events))], content_type="text/event-stream")
    parse_response([(0.0, json.dumps(payloads[0]).encode())], content_type="application/json")

    assert outcome(streamed) in set(Outcome)


@given(STRANGE, st.sampled_from(["/v1/messages", "/v1/responses"]))
def test_no_request_is_too_strange_to_be_described(payload: Json, path: str) -> None:
    """Nor to be salted."""
    parsed = parse_request("POST", path, json.dumps(payload).encode())
    salted = provider_of("POST", path).with_prefix(payload, "11112222\n")

    assert parsed.info.endpoint in GENERATIVE
    assert salted is None or "11112222" in json.dumps(salted)
    assert all(isinstance(message, dict) for message in parsed.messages)


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("POST", "/v1/messages", "messages"),
        ("POST", "/anthropic/v1/messages?beta=true", "messages"),
        ("POST", "/v1/messages/count_tokens", "other"),
        ("POST", "/v1/messages/batches", "other"),
        ("POST", "/v1/threads/thread_1/messages", "other"),
        ("POST", "/v1/responses", "responses"),
        ("POST", "/openai/responses?api-version=2026-01-01", "responses"),
        ("POST", "/v1/responses/resp_1/cancel", "other"),
        ("GET", "/v1/responses/resp_1", "other"),
        ("GET", "/v1/responses", "responses_websocket"),
        ("GET", "/v1/realtime?model=m", "realtime"),
    ],
)
def test_the_endpoint_of_a_request(method: str, path: str, endpoint: str) -> None:
    """What is inference is recorded, and what is not is left out."""
    info = parse_request(method, path, b"{}").info

    assert info.endpoint == endpoint
    assert (endpoint in {"messages", "responses"}) is (endpoint in PROMISED)
    left_out = Selection().leaves_out(method, "x", path)
    assert left_out == ("path" if endpoint == "other" else None)


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


def test_a_request_of_messages() -> None:
    """Model, stream, limit, turns, and the pictures in them and in what tools gave back."""
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [PICTURE]}
    body = {
        "model": "claude-x", "max_tokens": 64, "stream": True, "system": "Be brief.",
        "messages": [{"role": "user", "content": [PICTURE, result]}],
    }  # fmt: skip
    info = parse_request("POST", "/v1/messages", json.dumps(body).encode()).info

    assert (info.model, info.max_tokens, info.stream) == ("claude-x", 64, True)
    assert (info.inputs, info.images, info.n) == (1, 2, 1)


def test_a_request_of_responses() -> None:
    """Its limit is `max_output_tokens`; its input is a text or items."""
    item = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png,"}]}
    body = {"model": "m", "input": [item, item], "max_output_tokens": 9, "max_tokens": 1}
    info = parse_request("POST", "/v1/responses", json.dumps(body).encode()).info
    short = parse_request("POST", "/v1/responses", b'{"input":"hi"}').info

    assert (info.model, info.max_tokens, info.stream) == ("m", 9, False)
    assert (info.inputs, info.images, short.inputs) == (2, 2, 1)


def places(path: str, *bodies: Json) -> list[tuple[str, int]]:
    """Session and turn of each request."""
    sessions = Sessions()
    requests = [
        chat_request(at, at, json.dumps(body).encode(), id=str(at), path=path)
        for at, body in enumerate(bodies)
    ]  # fmt: skip
    return [sessions.assign(request)[:2] for request in requests]


def test_the_mark_of_a_cache_wanders_and_the_conversation_stays() -> None:
    """As agents do it: the last message is a part with the mark, and a plain text one turn later."""
    mark = {"cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": "Be brief.", **mark}]
    asked = {"role": "user", "content": "Hi"}
    marked = {"role": "user", "content": [{"type": "text", "text": "Hi", **mark}]}
    answered = {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]}
    again = {"role": "user", "content": [{"type": "text", "text": "Why?", **mark}]}

    first = {"system": system, "messages": [marked]}
    second = {"system": "Be brief.", "messages": [asked, answered, again]}
    assert places("/v1/messages", first, second, first) == [("s1", 0), ("s1", 1), ("s2", 0)]


def test_all_that_an_assistant_does_is_one_turn_of_a_conversation() -> None:
    """Reasoning, a call and its words come back as items of their own."""
    rules, asked = {"instructions": "Be brief."}, {"role": "user", "content": "Hi"}
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "1"}
    words = {
        "type": "message", "role": "assistant",
        "content": [{"type": "output_text", "text": "One.", "annotations": []}],
    }  # fmt: skip
    why = {"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}

    turns = [
        rules | {"input": "Hi"},
        rules | {"input": [asked, thought, call, result]},
        rules | {"input": [asked, thought, call, result, words, why]},
        rules | {"input": "Ho"},
    ]
    assert places("/v1/responses", *turns) == [("s1", 0), ("s1", 1), ("s1", 2), ("s2", 0)]


@pytest.mark.parametrize(
    ("path", "body", "salted"),
    [
        ("messages", {"system": "S", "messages": []}, {"system": "#S", "messages": []}),
        (
            "messages",
            {"system": [{"type": "text", "text": "S"}]},
            {"system": [{"type": "text", "text": "#"}, {"type": "text", "text": "S"}]},
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "U"}]},
            {"messages": [{"role": "user", "content": "#U"}]},
        ),
        (
            "messages",
            {"system": "S", "tools": [{"name": "f", "description": "F"}, {"name": "g"}]},
            {"system": "#S", "tools": [{"name": "f", "description": "#F"}, {"name": "g"}]},
        ),
        ("messages", {"messages": []}, None),
        ("responses", {"instructions": "S", "input": "U"}, {"instructions": "#S", "input": "U"}),
        ("responses", {"instructions": None, "input": "U"}, {"instructions": None, "input": "#U"}),
        (
            "responses",
            {"input": [{"type": "reasoning", "content": []}, {"role": "user", "content": "U"}]},
            {"input": [{"type": "reasoning", "content": []}, {"role": "user", "content": "#U"}]},
        ),
        (
            "responses",
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "U"}]}]},
            {
                "input": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_text", "text": "#"},
                            {"type": "input_text", "text": "U"},
                        ],
                    }
                ]
            },
        ),
        ("responses", {"prompt": {"id": "pmpt_1"}}, None),
    ],
)
def test_where_a_salt_goes(path: str, body: Json, salted: Json | None) -> None:
    """Before the first words that the model reads; to tools, too, as they have a cache of their own."""
    assert provider_of("POST", f"/v1/{path}").with_prefix(body, "#") == salted
