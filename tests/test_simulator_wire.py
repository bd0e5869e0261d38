"""The simulator's JSON against shapes that were recorded from the real service."""

import json
import struct
from base64 import b64decode
from typing import Any

import pytest

from tbench.simulator.answer import Branch, Head, Kind, Piece
from tbench.simulator.chat import Stream, completion, embeddings, rerank
from tbench.simulator.order import Order
from tbench.simulator.prompt import Prompt

HEAD = Head(id="ogzjdpL-6Ng1vN-9f391a08f8af75e1", created=1777411129, model="m")
PROMPT = Prompt(tokens=42, blocks=(), digest=b"")


def order(**changes: Any) -> Order:
    return Order(**{"chat": True, "model": "m", "stream": True, "prompts": (PROMPT,), **changes})


def text(*words: str, finish: str = "stop") -> Branch:
    end = (Piece(Kind.END),) if finish == "stop" else ()
    pieces = tuple(Piece(Kind.TEXT, word) for word in words)
    return Branch(pieces=(*pieces, *end), finish=finish, seed=15924764223251450000)


def said(stream: Stream, *indices: int) -> list[dict[str, Any]]:
    """The events of these tokens; each is framed by `data: ` and an empty line."""
    events = []
    for index in indices:
        if data := stream.token(index):
            assert data.startswith(b"data: {")
            assert data.endswith(b"}\n\n")
            events.append(json.loads(data[6:]))
    return events


def test_a_text_chunk_is_the_recorded_one_to_the_byte() -> None:
    """Key order, the doubled text, the role in every delta, usage null."""
    stream = Stream(order(), HEAD, [text("Hello", "!")])
    chunk = stream.token(0)

    recorded = (
        b'data: {"id":"ogzjdpL-6Ng1vN-9f391a08f8af75e1","object":"chat.completion.chunk",'
        b'"created":1777411129,"choices":[{"index":0,"text":"Hello","logprobs":null,'
        b'"finish_reason":null,"seed":null,"delta":{"token_id":9906,"role":"assistant",'
        b'"content":"Hello"}}],"model":"m","usage":null}\n\n'
    )
    number = json.loads((chunk or b"")[6:])["choices"][0]["delta"]["token_id"]
    assert chunk == recorded.replace(b"9906", b"%d" % number)


def test_the_end_of_the_turn_has_finish_usage_and_a_seed_beyond_int64() -> None:
    """The last chunk carries no text, the EOS token, and the usage with the cached tokens flat."""
    stream = Stream(order(), HEAD, [text("Hello", "!")], cached_tokens=16)
    last = said(stream, 0, 0, 0)[-1]

    assert last["choices"] == [
        {
            "index": 0,
            "text": "",
            "logprobs": None,
            "finish_reason": "stop",
            "seed": 15924764223251450000,
            "delta": {"token_id": 128009, "role": "assistant", "content": ""},
        }
    ]
    assert last["usage"] == {
        "prompt_tokens": 42,
        "completion_tokens": 3,
        "total_tokens": 45,
        "cached_tokens": 16,
    }
    assert stream.complete


def test_a_cut_off_answer_ends_with_text_finish_and_usage_in_one_chunk() -> None:
    """On `length` there is no EOS: the last chunk has text as well."""
    last = said(Stream(order(), HEAD, [text("One", " two", finish="length")]), 0, 0)[-1]

    assert last["choices"][0]["text"] == " two"
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 2


def test_chunks_are_as_many_as_completion_tokens() -> None:
    """In a text stream every token is one event, the end included."""
    branch = text(*["four"] * 19)
    events = said(Stream(order(), HEAD, [branch]), *[0] * 20)

    assert len(events) == events[-1]["usage"]["completion_tokens"] == 20
    assert [event["usage"] for event in events[:-1]] == [None] * 19


def call() -> Branch:
    silent = [Piece(Kind.SILENT)] * 3
    pieces = (
        Piece(Kind.CALL_OPEN),
        *silent,
        Piece(Kind.CALL_NAME, "get_weather"),
        *silent,
        Piece(Kind.CALL_ARGUMENTS, '{"city":"Paris"}'),
        Piece(Kind.END),
    )
    return Branch(pieces=pieces, finish="tool_calls", seed=1, call_id="call_" + "a" * 24)


def test_a_tool_call_streams_as_four_chunks() -> None:
    """Role, name, whole arguments with a first finish, then the finish again with the usage."""
    events = said(Stream(order(), HEAD, [call()]), *[0] * 10)
    opened, named, argued, ended = events
    deltas = [event["choices"][0]["delta"] for event in events]
    finishes = [event["choices"][0]["finish_reason"] for event in events]

    assert finishes == [None, None, "tool_calls", "tool_calls"]
    assert "usage" not in opened
    assert "seed" not in opened["choices"][0]
    assert opened["choices"][0]["role"] == deltas[0]["role"] == "assistant"
    assert deltas[1]["tool_calls"] == [
        {
            "index": 0,
            "id": "call_" + "a" * 24,
            "type": "function",
            "function": {"name": "get_weather", "arguments": ""},
        }
    ]
    assert deltas[2]["tool_calls"] == [{"index": 0, "function": {"arguments": '{"city":"Paris"}'}}]
    assert named["usage"] is argued["usage"] is None
    assert ended["usage"]["completion_tokens"] == 10


def test_reasoning_comes_in_its_own_field_and_is_counted() -> None:
    """`delta.reasoning` first, with empty content; its tokens are among the completion's."""
    thinking = (Piece(Kind.REASONING, "Hmm,"), Piece(Kind.TEXT, "Yes."), Piece(Kind.END))
    stream = Stream(order(reasoning=True), HEAD, [Branch(pieces=thinking, finish="stop", seed=1)])
    first, second, last = said(stream, 0, 0, 0)

    assert first["choices"][0]["delta"]["reasoning"] == "Hmm,"
    assert first["choices"][0]["delta"]["content"] == first["choices"][0]["text"] == ""
    assert second["choices"][0]["delta"]["content"] == "Yes."
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}


def test_several_choices_share_one_usage_at_the_very_end() -> None:
    """Chunks name their choice; only the one that ends the last choice has the usage."""
    stream = Stream(order(n=2), HEAD, [text("a"), text("b", "c")])
    events = said(stream, 0, 1, 1, 0, 1)

    assert [event["choices"][0]["index"] for event in events] == [0, 1, 1, 0, 1]
    assert [event["usage"] is None for event in events] == [True, True, True, True, False]
    assert events[-1]["usage"]["completion_tokens"] == 5


def test_a_completion_stream_has_its_own_object() -> None:
    """/completions streams `completion.chunk` with the same choices."""
    (event,) = said(Stream(order(chat=False), HEAD, [text("a", finish="length")]), 0)

    assert event["object"] == "completion.chunk"
    assert event["choices"][0]["text"] == event["choices"][0]["delta"]["content"] == "a"


def test_a_whole_answer_has_an_empty_prompt_and_no_tool_calls() -> None:
    """`prompt` is [] unless echoed, `tool_calls` is [] when none."""
    body = completion(order(), HEAD, [text("Hello", "!")], 0)

    assert body["prompt"] == []
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hello!",
        "tool_calls": [],
    }


def test_a_whole_tool_call_carries_its_index() -> None:
    """Content is null, and the call has an index even where nothing is streamed."""
    (choice,) = completion(order(), HEAD, [call()], 0)["choices"]

    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["index"] == 0
    assert choice["finish_reason"] == "tool_calls"


def test_an_echoed_prompt_stands_in_the_answer() -> None:
    """With `echo` the prompt comes back as text."""
    asked = order(chat=False, echo=True, prompt_texts=("Once",))

    assert completion(asked, HEAD, [text("a")], 0)["prompt"] == [{"text": "Once", "logprobs": None}]


def test_logprobs_are_together_s_and_not_openai_s() -> None:
    """Lists side by side, one entry per token of text."""
    (choice,) = completion(order(logprobs=True), HEAD, [text("a", "b")], 0)["choices"]

    assert choice["logprobs"]["tokens"] == ["a", "b"]
    assert len(choice["logprobs"]["token_logprobs"]) == len(choice["logprobs"]["token_ids"]) == 2


@pytest.mark.parametrize("base64", [False, True])
def test_embeddings_are_floats_or_little_endian_base64(base64: bool) -> None:
    """Both forms hold the same numbers, and there is no usage."""
    body = embeddings("m", [[0.5, -0.25]], base64=base64)
    given = body["data"][0]["embedding"]

    assert "usage" not in body
    assert (struct.unpack("<2f", b64decode(given)) if base64 else tuple(given)) == (0.5, -0.25)


def test_a_rerank_counts_the_prompt_only() -> None:
    """The usage of a rerank has no completion tokens."""
    usage = rerank("id", "m", [], 7)["usage"]

    assert usage == {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}
