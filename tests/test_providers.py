"""Requests and answers in the wire shapes of a dozen servers, as recorded or documented in public."""

import gzip
import json
import zlib
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.exchange import Outcome
from tbench.capture.providers import (
    PROMISED,
    ParsedResponse,
    RequestInfo,
    Usage,
    masked,
    one_line,
    outcome_of,
    parse_request,
    parse_response,
)
from tbench.capture.providers.anthropic import ANTHROPIC
from tbench.capture.providers.openai import OPENAI

SSE = "text/event-stream;charset=utf-8"
JSON = "application/json"


def event(payload: Any) -> bytes:
    return (
        b"data: "
        + (payload if isinstance(payload, bytes) else json.dumps(payload).encode())
        + b"\n\n"
    )


def chat(
    delta: dict[str, Any], *, index: int = 0, finish: str | None = None, **top: Any
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "choices": [choice], **top}


def stream(
    *payloads: Any, done: bool = True, content_type: str = SSE, **options: Any
) -> ParsedResponse:
    """Read one event per chunk, the k-th (from 0) at k seconds."""
    events = [event(payload) for payload in payloads] + ([event(b"[DONE]")] if done else [])
    return parse_response(
        [(float(at), body) for at, body in enumerate(events)], content_type=content_type, **options
    )


def body(payload: Any, content_type: str = JSON, **options: Any) -> ParsedResponse:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return parse_response([(1.0, raw)], content_type=content_type, **options)


USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
STOP = chat({}, finish="stop", usage=USAGE)


# Requests


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "replayable"),
    [
        ("POST", "/v1/chat/completions", "chat", True),
        ("POST", "/v1/v1/chat/completions", "chat", True),
        ("POST", "/chat/completions/", "chat", True),
        ("POST", "/openai/deployments/d/chat/completions?api-version=1", "chat", True),
        ("post", "/v1/completions", "completions", True),
        ("POST", "/v1/embeddings", "embeddings", True),
        ("POST", "/v1/rerank", "rerank", True),
        ("POST", "/v1/images/generations", "images", False),
        ("POST", "/v1/audio/speech", "audio", False),
        ("POST", "/v1/audio/transcriptions", "audio", False),
        ("GET", "/v1/models", "models", False),
        ("POST", "/v1/models", "other", False),
        ("GET", "/v1/chat/completions", "other", False),
        ("POST", "/v1/fine-tunes", "other", False),
        ("POST", "/v1/batches/b1/cancel", "other", False),
        ("DELETE", "/v1/files/f1", "other", False),
        ("POST", "/tci/execute", "other", False),
        ("GET", "/", "other", False),
        ("GET", "", "other", False),
    ],
)
def test_only_stateless_inference_is_replayable(
    method: str, path: str, endpoint: str, replayable: bool
) -> None:
    """Class A of Together's endpoints, under any prefix; all else is not sent twice."""
    assert parse_request(method, path, None).info.endpoint == endpoint
    assert (endpoint in PROMISED) is replayable


def test_a_chat_request_is_read_whole() -> None:
    """Model, stream, limits, messages and pictures."""
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    request = {
        "model": "m",
        "stream": True,
        "max_tokens": 7,
        "n": 2,
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": parts}],
    }
    assert parse_request(
        "POST", "/v1/chat/completions", json.dumps(request).encode()
    ).info == RequestInfo(
        endpoint="chat",
        model="m",
        stream=True,
        max_tokens=7,
        n=2,
        inputs=2,
        images=1,
    )


@pytest.mark.parametrize(
    ("path", "fields", "inputs"),
    [
        ("embeddings", {"input": "a"}, 1),
        ("embeddings", {"input": ["a", "b", "c"]}, 3),
        ("embeddings", {"input": [1, 2, 3]}, 1),
        ("embeddings", {"input": []}, 0),
        ("completions", {"prompt": "a"}, 1),
        ("completions", {"prompt": [[1, 2], [3]]}, 2),
        ("rerank", {"documents": ["a", {"text": "b"}]}, 2),
        ("rerank", {}, 0),
    ],
)
def test_inputs_are_counted(path: str, fields: dict[str, Any], inputs: int) -> None:
    """One text or one list of tokens is one input."""
    assert parse_request("POST", f"/v1/{path}", json.dumps(fields).encode()).info.inputs == inputs


def test_the_newer_name_of_the_limit_counts_first() -> None:
    """OpenAI's max_completion_tokens supersedes max_tokens."""
    fields = b'{"max_tokens": 1, "max_completion_tokens": 9}'
    assert parse_request("POST", "/v1/chat/completions", fields).info.max_tokens == 9


@given(st.text(), st.binary() | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["model", "messages", "content", "max_tokens", "n", "input", "stream"]), inner
    ),
).map(lambda tree: json.dumps(tree).encode()))  # fmt: skip
def test_no_request_is_too_strange_to_read(path: str, raw: bytes) -> None:
    """Reading never raises."""
    for tail in (path, "/v1/chat/completions", "/v1/embeddings"):
        assert isinstance(parse_request("POST", tail, raw).info, RequestInfo)


# Streams


def test_togethers_text_stream() -> None:
    """No role chunk; usage and a seed beyond int64 ride in the last chunk with a choice."""
    first = chat({"token_id": 9906, "role": "assistant", "content": "Hello"}, usage=None)
    first["choices"][0] |= {"text": "Hello", "seed": None}
    last = chat(
        {"role": "assistant", "content": ""}, finish="stop", usage={**USAGE, "cached_tokens": 0}
    )
    last["choices"][0] |= {"text": "", "seed": 15924764223251450000}
    answer = stream(first, first, last)
    assert answer == ParsedResponse(
        usage=Usage(prompt=11, output=3, cached=0),
        finish_reasons=("stop",),
        first_token=0.0,
        first_answer=0.0,
        last_token=1.0,
        token_times=(0.0, 1.0),
        events=3,
        done=True,
        ended=True,
        streamed=True,
        text="HelloHello",
    )
    assert outcome_of(200, answer, endpoint="chat") is Outcome.OK


def test_togethers_tool_stream() -> None:
    """An empty role chunk is no token, the name of the tool is, and the finish comes twice."""
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }
    answer = stream(
        chat({"role": "assistant", "content": ""}),
        chat({"role": None, "content": None, "tool_calls": [call]}),
        chat({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, finish="tool_calls"),
        chat({}, finish="tool_calls", usage=USAGE),
    )
    assert (answer.first_token, answer.last_token) == (1.0, 2.0)
    assert (answer.tool_calls, answer.finish_reasons) == (1, ("tool_calls",))
    assert answer.usage == Usage(prompt=11, output=3)


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning": "Hm"},
        {"reasoning_content": "Hm"},
        {"thinking": "Hm"},
        {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]},
        {"content": "", "reasoning_details": [{"type": "reasoning.summary", "summary": "Hm"}]},
        {"content": None, "thinking_blocks": [{"type": "thinking", "thinking": "Hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]},
    ],
)
@pytest.mark.parametrize("content", ["4", [{"type": "text", "text": "4"}]])
def test_reasoning_is_a_token_but_no_answer(delta: dict[str, Any], content: object) -> None:
    """TTFT counts the first thought, whichever server's; the first answer comes later."""
    sealed = {"content": "", "reasoning_details": [{"type": "reasoning.encrypted", "data": "QUJD"}]}
    answer = stream(
        chat({"role": "assistant", "content": ""}),
        chat(delta),
        chat({"content": content}),
        chat(sealed),
        STOP,
    )
    assert answer.last_token == 2.0
    assert (answer.first_token, answer.first_answer, answer.text) == (1.0, 2.0, "4")


def test_an_answer_in_parts_is_a_turn_without_its_thinking() -> None:
    """As Mistral streams it; a live history sends the texts on."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    parts = [[thought], [{"type": "text", "text": "At "}], [{"type": "text", "text": "noon."}]]

    assert OPENAI.turn([chat({"content": part}) for part in parts]) == [
        {"role": "assistant", "content": "At noon."}
    ]


def test_a_message_that_is_listed_whole_replaces_what_its_deltas_began() -> None:
    """As a gateway does that starts over; the input of a block that it no longer has is gone, too."""
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    begun = [
        {"index": 1, "content_block": tool},
        {"index": 1, "delta": {"partial_json": "{}"}},
    ]
    listed = [{"type": "text", "text": "At noon."}]

    assert ANTHROPIC.turn([*begun, {"content": listed}]) == [
        {"role": "assistant", "content": listed}
    ]


def test_reasoning_repeated_as_text_is_still_no_answer() -> None:
    """Together's choices[].text may echo a delta; the delta says what it is."""
    chunk = chat({"reasoning": "Hm", "content": None})
    chunk["choices"][0]["text"] = "Hm"
    assert stream(chunk, STOP).first_answer is None


def test_completions_stream_text() -> None:
    """The text of a completion is content, with or without a delta beside it."""
    chunk = {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "a", "finish_reason": None}],
    }
    empty = {
        "choices": [{"index": 0, "text": "b", "delta": {"content": None}, "finish_reason": "eos"}]
    }
    answer = stream(chunk, empty)
    assert (answer.text, answer.token_times, answer.finish_reasons) == ("ab", (0.0, 1.0), ("eos",))


ALONE = {"choices": [], "usage": USAGE}


@pytest.mark.parametrize(
    "tail",
    [
        [chat({}, finish="stop"), ALONE],
        [STOP],
        [STOP, ALONE],
        [chat({}, finish="stop", x_groq={"usage": USAGE}), ALONE],
        [chat({}, finish="stop", x_groq={"usage": USAGE})],
        [chat({}, usage={"prompt_tokens": 11, "completion_tokens": 1}), STOP],
        [chat({}, finish="stop", usage=None), STOP, {"choices": [], "usage": None}],
    ],
    ids=[
        "alone",
        "with the finish",
        "both",
        "groq, thrice",
        "x_groq only",
        "continuous",
        "nulls after",
    ],
)
def test_usage_is_taken_once_wherever_it_sits(tail: list[Any]) -> None:
    """The last statement of each count holds; nothing is summed."""
    answer = stream(chat({"content": "a b c"}), *tail)
    assert answer.usage == Usage(prompt=11, output=3)
    assert answer.finish_reasons == ("stop",)


@pytest.mark.parametrize("count", [-5, 2**31, 99_999_999_999_999, 1e300, "7", 1.5, True])
def test_what_is_no_count_is_absent(count: object) -> None:
    """No server's usage may be a number that a run file cannot hold."""
    usage = {"prompt_tokens": count, "completion_tokens": 2**31 - 1}

    assert body({"choices": [], "usage": usage}).usage == Usage(prompt=None, output=2**31 - 1)


def test_zeros_after_the_true_counts_are_no_counts() -> None:
    """Some gateways end a stream with a placeholder."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    end = {"choices": [], "usage": zeros}

    answer = stream(chat({"content": "x"}, usage=USAGE), STOP, end)

    assert answer.usage == Usage(prompt=11, output=3)


def test_without_usage_there_are_no_counts() -> None:
    """Chunks are not tokens: no usage, no numbers."""
    assert stream(chat({"content": "a"}), chat({}, finish="stop")).usage == Usage()


@pytest.mark.parametrize(
    ("usage", "cached", "reasoning"),
    [
        ({"cached_tokens": 4}, 4, None),
        ({"prompt_tokens_details": {"cached_tokens": 4}}, 4, None),
        (
            {"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": 2}},
            None,
            2,
        ),
        ({"cached_tokens": "4", "reasoning_tokens": True}, None, None),
        ({"cached_tokens": -1}, None, None),
    ],
)
def test_details_of_usage(usage: dict[str, Any], cached: int | None, reasoning: int | None) -> None:
    """Flat and nested fields; what is no count is absent."""
    read = body({"choices": [], "usage": usage}).usage
    assert (read.cached, read.reasoning) == (cached, reasoning)


def test_several_choices_each_need_their_finish() -> None:
    """Two answers interleaved: the text is the first's, the reasons are in their order."""
    answer = stream(
        chat({"content": "a"}, index=1),
        chat({"content": "b"}),
        chat({}, index=1, finish="length"),
        chat({}, finish="stop"),
        done=False,
    )
    assert (answer.text, answer.finish_reasons, answer.done) == ("b", ("stop", "length"), True)
    assert answer.token_times == (0.0, 1.0)


def test_azures_empty_first_chunk_and_comments() -> None:
    """Prompt filter results without choices are no token, comments no event."""
    azure = {"choices": [], "id": "", "model": "", "created": 0, "prompt_filter_results": []}
    answer = parse_response(
        [
            (0.0, b": OPENROUTER PROCESSING\n\n"),
            (1.0, event(azure)),
            (2.0, event(chat({"content": "x"}))),
            (3.0, event(STOP)),
        ],
        content_type="text/event-stream",
    )
    assert (answer.first_token, answer.events) == (2.0, 3)


def test_done_may_be_missing() -> None:
    """A finish reason ends a stream as well as [DONE] does."""
    assert outcome_of(200, stream(STOP, done=False), endpoint="chat") is Outcome.OK
    assert outcome_of(200, stream(chat({"content": "x"})), endpoint="chat") is Outcome.OK


@pytest.mark.parametrize("tail", [b"", b'data: {"id":"x","choi', b"data: [DO"])
def test_a_stream_without_an_end_is_cut(tail: bytes) -> None:
    """No finish reason, no [DONE]: also when the last event is torn."""
    answer = parse_response([(0.0, event(chat({"content": "x"})) + tail)], content_type=SSE)
    assert outcome_of(200, answer, endpoint="chat") is Outcome.CUT


def test_one_choice_of_two_unfinished_is_cut() -> None:
    """Every choice that spoke must have finished."""
    answer = stream(chat({"content": "a"}, index=1), STOP, done=False)
    assert outcome_of(200, answer, endpoint="chat") is Outcome.CUT


def test_an_empty_stream_is_cut() -> None:
    """A head and nothing else."""
    assert outcome_of(200, parse_response([], content_type=SSE), endpoint="chat") is Outcome.CUT


@pytest.mark.parametrize(
    "broken",
    [
        event({"error": {"message": "overloaded", "type": "server_error"}}),
        event({"error": "overloaded"}),
        event({"object": "error", "message": "overloaded", "code": 503}),
        b'event: error\ndata: {"message": "overloaded"}\n\n',
        b"event: error\ndata: overloaded\n\n",
        event(chat({}, finish="error", error={"code": 502, "message": "overloaded"})),
    ],
)
def test_an_error_event_fails_the_stream(broken: bytes) -> None:
    """Whatever its shape, and although [DONE] follows."""
    answer = parse_response(
        [(0.0, event(chat({"content": "x"}))), (1.0, broken), (2.0, event(b"[DONE]"))],
        content_type=SSE,
    )
    assert (answer.error, answer.first_token) == ("overloaded", 0.0)
    assert outcome_of(200, answer, endpoint="chat") is Outcome.STREAM_ERROR


def test_an_event_that_is_not_json_breaks_the_protocol() -> None:
    """The message quotes it, shortened and masked."""
    answer = stream(chat({"content": "x"}), b"Bearer abcdef123456 is what", STOP)
    assert outcome_of(200, answer, endpoint="chat") is Outcome.PROTOCOL_ERROR
    assert answer.error == "an event that is not JSON: Bearer *** is what"


def test_numbers_that_json_does_not_have_are_read() -> None:
    """NaN and Infinity in log-probabilities do not spoil an answer."""
    raw = b'{"choices":[{"delta":{"content":"x"},"logprobs":{"a":-Infinity,"b":NaN}}]}'
    assert stream(raw).text == "x"


# Encodings


def in_pieces(encoding: str, events: list[bytes]) -> list[bytes]:
    """Each event flushed on its own, as a server that compresses a stream does."""
    if encoding == "br":
        br = brotli.Compressor()
        return [br.process(one) + br.flush() for one in events] + [br.finish()]
    if encoding == "zstd":
        zstd = zstandard.ZstdCompressor().compressobj()
        flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        return [zstd.compress(one) + zstd.flush(flush) for one in events] + [zstd.flush()]
    press = zlib.compressobj(wbits={"gzip": 31, "deflate": 15}[encoding])
    return [press.compress(one) + press.flush(zlib.Z_SYNC_FLUSH) for one in events] + [
        press.flush()
    ]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_compressed_events_keep_the_time_of_their_chunk(encoding: str) -> None:
    """Each event is dated by the read that completed it, not by the end of the body."""
    events = [event(chat({"content": "a"})), event(chat({"content": "b"})), event(STOP)]
    chunks = list(enumerate(in_pieces(encoding, events)))
    answer = parse_response(
        [(float(at), raw) for at, raw in chunks], content_type=SSE, content_encoding=encoding
    )
    assert (answer.token_times, answer.text, answer.done) == ((0.0, 1.0), "ab", True)


def test_a_compressed_json_body_is_read() -> None:
    """Error bodies are often compressed."""
    raw = gzip.compress(b'{"error":{"message":"no such model"}}')
    assert body(raw, content_encoding="gzip", status=404).error == "no such model"


def test_a_wrong_encoding_breaks_the_protocol() -> None:
    """The header promises gzip, the body is not."""
    answer = body(b"{}", content_encoding="gzip")
    assert outcome_of(200, answer, endpoint="chat") is Outcome.PROTOCOL_ERROR


# Whole bodies


def test_a_json_answer_has_no_token_times() -> None:
    """Usage, finish, tools and text of an answer that was not streamed."""
    message = {
        "role": "assistant",
        "content": "hi",
        "tool_calls": [{"index": 0, "id": "a"}, {"id": "b"}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "seed": 2**64 - 1}
    answer = body({"choices": [choice], "usage": USAGE})
    assert answer == ParsedResponse(
        usage=Usage(prompt=11, output=3),
        finish_reasons=("tool_calls",),
        tool_calls=2,
        done=True,
        text="hi",
    )
    assert outcome_of(200, answer, endpoint="chat") is Outcome.OK


def test_embeddings_without_usage_are_whole() -> None:
    """Together's embeddings state no usage: None, not 0."""
    answer = body({"object": "list", "data": [{"embedding": [0.1], "index": 0}]})
    assert (answer.usage, outcome_of(200, answer, endpoint="chat")) == (Usage(), Outcome.OK)


def test_a_bare_array_is_an_answer() -> None:
    """Together's list of models."""
    assert outcome_of(200, body([{"id": "m"}]), endpoint="chat") is Outcome.OK


@pytest.mark.parametrize(
    ("kind", "raw"), [("audio/wav", b"RIFF\0\0"), ("text/plain", b"a transcript")]
)
def test_bodies_that_promise_no_json_are_taken_as_they_are(kind: str, raw: bytes) -> None:
    """Audio and plain transcripts."""
    assert outcome_of(200, body(raw, kind), endpoint="audio") is Outcome.OK
    assert outcome_of(200, body(raw, kind), endpoint="chat") is Outcome.PROTOCOL_ERROR


def test_content_tells_more_than_its_type() -> None:
    """A JSON body announced as a stream, and a stream announced as JSON or not at all."""
    whole = body({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}, SSE)
    assert (whole.text, outcome_of(200, whole, endpoint="chat")) == ("x", Outcome.OK)
    for kind in (JSON, ""):
        streamed = stream(chat({"content": "x"}), STOP, content_type=kind)
        assert (streamed.first_token, outcome_of(200, streamed, endpoint="chat")) == (
            0.0,
            Outcome.OK,
        )


@pytest.mark.parametrize("kind", [JSON, SSE, "text/html"])
def test_a_page_in_place_of_an_answer_breaks_the_protocol(kind: str) -> None:
    """A log-in page with status 200 is neither JSON nor a stream."""
    page = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>please</body></html>"
    answer = body(page, kind)
    assert outcome_of(200, answer, endpoint="chat") is Outcome.PROTOCOL_ERROR
    assert answer.error is not None
    assert answer.error.endswith(": Log in")


def test_an_empty_body_is_no_answer() -> None:
    """Status 200 and nothing: not what JSON promises."""
    assert outcome_of(200, body(b""), endpoint="chat") is Outcome.PROTOCOL_ERROR


@given(
    st.lists(st.tuples(st.floats(0, 9), st.binary(max_size=60)), max_size=4),
    st.sampled_from([SSE, JSON, "", "text/html", "nonsense"]),
    st.sampled_from(["", "gzip", "br", "zstd", "deflate", "identity", "what"]),
    st.sampled_from([200, 301, 404, 599, 799]),
)
def test_no_answer_is_too_strange_to_read(
    chunks: list[tuple[float, bytes]], kind: str, encoding: str, status: int
) -> None:
    """Reading and judging never raise."""
    answer = parse_response(chunks, content_type=kind, content_encoding=encoding, status=status)
    assert outcome_of(status, answer, endpoint="chat") in Outcome


FIELDS = st.sampled_from(
    ["choices", "delta", "index", "content", "usage", "tool_calls", "error", "x_groq"]
)


@given(st.recursive(
    st.none() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
))  # fmt: skip
def test_no_payload_is_too_strange_to_read(payload: Any) -> None:
    """The known field names with any values in any nesting."""
    nested = {"choices": [payload, {"delta": payload, "index": payload}], "usage": payload}
    for strange in (payload, nested):
        assert isinstance(stream(strange), ParsedResponse)
        assert isinstance(body(strange), ParsedResponse)


# Errors


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"id": "x", "error": {"message": "bad", "type": "t", "param": None, "code": None}}, "bad"),
        ({"error": "bad"}, "bad"),
        ({"message": "bad"}, "bad"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"error": {"type": "dynamic_request_limited"}}, "dynamic_request_limited"),
        ({"error_type": "dynamic_token_limited"}, "dynamic_token_limited"),
        (b"upstream connect error\r\n", "upstream connect error"),
        (b"<html><head><title>524: A timeout</title><style>x{}</style></head>..", "524: A timeout"),
        (b"<h1>Bad <b>Gateway</b></h1>", "Bad Gateway"),
        (b"", "429 Too Many Requests"),
        ({}, "{}"),
    ],
)
@pytest.mark.parametrize("kind", [JSON, "text/plain", ""])
def test_error_bodies_give_their_message(payload: Any, message: str, kind: str) -> None:
    """JSON of any shape, text or a page, whatever the announced type."""
    answer = body(payload, kind, status=429)
    assert (answer.error, outcome_of(429, answer, endpoint="chat")) == (message, Outcome.HTTP_ERROR)


def test_an_error_sent_as_a_stream_is_an_http_error() -> None:
    """Some servers answer a streaming request's error as an event."""
    answer = stream({"error": {"message": "bad"}}, status=400)
    assert (answer.error, outcome_of(400, answer, endpoint="chat")) == ("bad", Outcome.HTTP_ERROR)


def test_a_redirect_is_not_ok() -> None:
    """Nobody follows it; the message says so."""
    answer = body(b"", "text/html", status=302)
    assert outcome_of(302, answer, endpoint="chat") is Outcome.HTTP_ERROR
    assert "redirect" in (answer.error or "")


def test_long_messages_are_shortened() -> None:
    """Two hundred characters at most."""
    assert len(one_line("word " * 500)) == 200


KEYS = {
    "sk-proj-Abc123def456ghi789": "Incorrect key: {}.",
    "tgp_v1_9Zq8AbCdEf012345": "Invalid API key {}",
    "not-a-known-shape": "Incorrect API key provided: {}. You can find your API key at our site",
    "hunter2": '{{"api_key": "{}"}}',
    "abc.def-123": "Authorization: Bearer {} was refused",
    "9f86d081884c7d659a2feaa0c55ad015": "unknown principal {}",
    "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA==": "no account for {}",
    "user:pass": "http://{}@upstream failed",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln": "bad jwt {}",
}


@pytest.mark.parametrize("key", KEYS)
def test_no_key_is_echoed(key: str) -> None:
    """A server's complaint about a key does not carry the key any further."""
    text = masked(KEYS[key].format(key))
    assert key not in text
    assert "***" in text


@pytest.mark.parametrize(
    "text",
    [
        "Unable to access non-serverless model deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
        "meta-llama/Meta-Llama-3.1-405B-Instruct-Turbo-Quantized-Lite is not there",
        "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 8000 `inputs` tokens",
        "Your rate limits are 600 RPM (10 QPS) and 180000 TPM",
        "Invalid token: end; max_tokens: 5 is too few",
        "Invalid API key provided. You can find your API key at our site",
    ],
)
def test_what_is_no_key_stays(text: str) -> None:
    """Model names, numbers and field names are what the reader needs."""
    assert masked(text) == text
