"""What the target answered stands in later turns: its words, its calls of tools, and their ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Request, Response
from tbench.capture.providers import parse_request
from tbench.capture.records import TraceHeader
from tbench.capture.spoken import calls_in, results_in, spoken
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.api import replay
from tbench.replay.closing import summary
from tbench.replay.live_history import LiveHistory
from tbench.replay.options import ReplayOptions
from tbench.replay.sender import Call, Label, Origin, Reply
from tbench.replay.totals import numbers
from tests.answering import EVENTS, Given, answering
from tests.conftest import Server

ASK = {"role": "user", "content": "When?"}
MORE = {"role": "user", "content": "And then?"}


def chat_turn(text: str | None, **calls: str) -> dict[str, Any]:
    """An assistant's message that calls tools: name -> id."""
    tools = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for name, id_ in calls.items()
    ]
    return {"role": "assistant", "content": text, **({"tool_calls": tools} if tools else {})}


HALF = chat_turn(None, clock="live")
HALF["tool_calls"][0]["function"]["arguments"] = '{"zone": "U'
CUT = (
    b'data: {"choices":[{"index":0,"delta":%s}]}\n\n'
    % json.dumps(chat_turn("Let me look.", clock="live")).encode()
)
"""A stream without its end: the transport was whole."""


def chat_result(id_: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": "noon"}


def blocks_turn(text: str | None, **calls: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    content += [
        {"type": "tool_use", "id": id_, "name": name, "input": {}} for name, id_ in calls.items()
    ]
    return {"role": "assistant", "content": content}


def blocks_result(id_: str) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": id_, "content": "noon"}],
    }


def item_turn(name: str, id_: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": id_, "name": name, "arguments": "{}"}


def calling(index: int, raw: bytes, *before: tuple[int, int]) -> Call:
    return Call(
        index=index, due=None, origin=Origin("http", "h", 80), body=raw, label=Label(id="a").pack(),
        head=b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(raw), after=(0,), history=before,
    )  # fmt: skip


def threaded(
    history: LiveHistory, index: int, body: dict[str, Any], *before: tuple[int, int]
) -> Any:
    """What a call sends, after it was threaded; its head and label say how long that is."""
    raw = orjson.dumps(body)
    call = calling(index, raw, *before)
    history.sent = history.thread(call)  # type: ignore[attr-defined]
    if not history.sent:  # type: ignore[attr-defined]
        history.forgo(call)
    if call.body != raw:
        assert b"\r\nContent-Length: %d\r\n\r\n" % len(call.body) in call.head
        assert Label.unpack(call.label).request_bytes == len(call.body)
    return json.loads(call.body)


def answered(
    history: LiveHistory, index: int, answer: dict[str, Any] | bytes, uses: int = 9
) -> None:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    call = Call(
        index=index, due=None, origin=Origin("http", "h", 80), head=b"", body=b"", uses=uses
    )
    history.keep(call, Reply(chunks=[(0.0, body[:9]), (0.1, body[9:])]))


def test_a_chat_holds_what_its_target_said_and_called() -> None:
    """Two turns back, too; the results name the target's calls."""
    history = LiveHistory()
    answered(history, 0, {"choices": [{"message": chat_turn(None, clock="live_1")}]})
    answered(history, 1, {"choices": [{"message": chat_turn("At twelve.")}]})
    asked = [ASK, chat_turn(None, clock="old_1"), chat_result("old_1"), chat_turn("At noon."), MORE]

    first = threaded(history, 1, {"model": "m", "messages": asked[:3]}, (0, 0))
    second = threaded(history, 2, {"model": "m", "messages": asked}, (0, 0), (1, 1))

    live = [ASK, chat_turn(None, clock="live_1"), chat_result("live_1")]
    assert first == {"model": "m", "messages": live}
    assert second["messages"] == [*live, chat_turn("At twelve."), MORE]
    assert history.counts() == {"threaded": 2}


def test_messages_hold_the_targets_blocks() -> None:
    history = LiveHistory()
    answered(
        history,
        0,
        {"type": "message", "role": "assistant", **blocks_turn("Look.", clock="toolu_live")},
    )
    asked = [ASK, blocks_turn("See.", clock="toolu_old"), blocks_result("toolu_old")]

    sent = threaded(history, 1, {"messages": asked}, (0, 0))

    assert sent["messages"] == [
        ASK,
        blocks_turn("Look.", clock="toolu_live"),
        blocks_result("toolu_live"),
    ]


def test_responses_hold_the_targets_items_without_its_own_ids() -> None:
    """Reasoning that only its server can look up is left out."""
    history = LiveHistory()
    output = [
        {"type": "reasoning", "id": "rs_1"},
        {**item_turn("clock", "live"), "id": "fc_1", "status": "completed"},
    ]
    answered(history, 0, {"id": "resp_1", "object": "response", "output": output})
    result = {"type": "function_call_output", "output": "noon"}

    sent = threaded(
        history,
        1,
        {"input": [ASK, item_turn("clock", "old"), {**result, "call_id": "old"}]},
        (0, 0),
    )

    assert sent["input"] == [ASK, item_turn("clock", "live"), {**result, "call_id": "live"}]


def test_results_of_parallel_calls_name_the_targets_in_whatever_order() -> None:
    """Two of one name go by their order among these; a server may call in another."""
    history = LiveHistory()
    old, live = chat_turn(None, clock="c"), chat_turn("Wait.", map="m2", clock="c2")
    old["tool_calls"] += (
        chat_turn(None, map="m1")["tool_calls"] + chat_turn(None, map="m0")["tool_calls"]
    )
    live["tool_calls"] += chat_turn(None, map="m3")["tool_calls"]
    answered(history, 0, {"choices": [{"message": live}]})
    asked = [ASK, old, *map(chat_result, ("m0", "c", "m1")), MORE]

    sent = threaded(history, 1, {"messages": asked}, (0, 0))

    assert sent["messages"] == [ASK, live, *map(chat_result, ("m3", "c2", "m2")), MORE]


@pytest.mark.parametrize(
    ("answer", "before", "reason"),
    [
        ({"choices": [{"message": chat_turn(None, other="x")}]}, [(0, 0)], "other_tools"),
        ({"choices": [{"message": chat_turn("I know it.")}]}, [(0, 0)], "other_tools"),
        ({"choices": [{"message": chat_turn(None, clock="a")}]}, [(7, 0)], "forgotten"),
        ({"choices": [{"message": chat_turn("hi")}]}, [], "rewritten"),
        ({"choices": [{"message": chat_turn("hi")}]}, [(0, 1)], "rewritten"),
    ],
)
def test_where_it_cannot_be_the_recorded_answer_stays(
    answer: Any, before: list[tuple[int, int]], reason: str
) -> None:
    history = LiveHistory()
    answered(history, 0, answer)
    asked = {"messages": [ASK, chat_turn(None, clock="old"), chat_result("old")]}

    assert threaded(history, 1, asked, *before) == asked
    assert history.sent  # type: ignore[attr-defined]
    assert history.counts() == {reason: 1}


def cut_call(*parts: str) -> bytes:
    """A stream of Messages that calls a tool, and ends as whole ones do, its limit reached."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m", "role": "assistant", "content": [],
                                              "usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0,
         "content_block": {"type": "tool_use", "id": "t", "name": "clock", "input": {}}},
        *({"type": "content_block_delta", "index": 0,
           "delta": {"type": "input_json_delta", "partial_json": part}} for part in parts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]  # fmt: skip
    lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return "".join(lines).encode()


def message(*content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": list(content)}


NO_WORDS = {"type": "text", "text": " "}
HALF_ITEM = {**item_turn("clock", "x"), "arguments": '{"zone": "U'}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"no JSON", "unreadable"),
        (CUT, "cut"),
        (CUT.replace(b"}]}", b'}],"error":{"message":"overloaded"}}'), "cut"),
        ({"choices": [{"message": HALF, "finish_reason": "length"}]}, "cut"),
        (cut_call('{"zone"', ': "U'), "cut"),
        ({"id": "r", "object": "response", "output": [HALF_ITEM]}, "cut"),
        (message(NO_WORDS), "empty"),
        (message(), "empty"),
        ({"choices": [{"message": chat_turn("")}]}, "empty"),
        ({"id": "r", "object": "response", "output": [{"type": "reasoning", "id": "rs"}]}, "empty"),
    ],
)
def test_a_turn_without_an_answer_to_go_on_with_is_not_sent(answer: Any, reason: str) -> None:
    """Nothing is made up for it."""
    history = LiveHistory()
    answered(history, 0, answer)
    asked = {"messages": [ASK, chat_turn(None, clock="old"), chat_result("old")]}

    assert threaded(history, 1, asked, (0, 0)) == asked
    assert not history.sent  # type: ignore[attr-defined]
    assert history.counts() == {reason: 1}


def test_a_call_of_a_tool_without_arguments_is_whole() -> None:
    """As some servers write it, in a stream of Messages too; a text without words beside it is left out."""
    history = LiveHistory()
    answered(history, 0, cut_call())
    answered(history, 1, message(NO_WORDS, *blocks_turn(None, clock="u")["content"]))
    asked = [ASK, blocks_turn(None, clock="a"), blocks_result("a")]
    asked += [blocks_turn(None, clock="b"), blocks_result("b")]

    sent = threaded(history, 2, {"messages": asked}, (0, 0), (1, 1))

    calls = [blocks_turn(None, clock="t"), blocks_result("t")]
    assert sent["messages"] == [ASK, *calls, blocks_turn(None, clock="u"), blocks_result("u")]


CHAT = {"choices": [{"message": chat_turn("It is noon.")}]}
SAID = {"messages": [ASK, chat_turn("At noon."), MORE]}


@pytest.mark.parametrize("sent", [True, False])
def test_an_answer_stays_until_the_last_call_that_holds_it(*, sent: bool) -> None:
    """However many come and go meanwhile, whether what continues them is sent or skipped."""
    history = LiveHistory(most=2500)
    answered(history, 0, CHAT, uses=2)
    for index in range(1, 100):
        answered(history, index, CHAT, uses=1)
        if sent:
            threaded(history, 1000 + index, SAID, (index, 0))
        else:
            history.let_go(calling(1000 + index, b"", (index, 0)))

    threaded(history, 2000, SAID, (0, 0))
    threaded(history, 2001, SAID, (0, 0))
    assert history.counts() == {"threaded": 101 if sent else 2}
    threaded(history, 2002, SAID, (0, 0))
    assert history.counts()["forgotten"] == 1


def test_an_answer_that_nobody_holds_takes_no_room() -> None:
    history = LiveHistory(most=2500)
    answered(history, 0, CHAT, uses=1)
    for index in range(1, 100):
        answered(history, index, CHAT, uses=0)

    threaded(history, 100, SAID, (0, 0))
    assert history.counts() == {"threaded": 1}


def test_beyond_its_bytes_the_oldest_answers_are_forgotten_and_counted() -> None:
    """A turn that has the last answer, but not an earlier one, is no whole history either."""
    history = LiveHistory(most=2500)
    for index in range(100):
        answered(history, index, CHAT)

    threaded(history, 100, SAID, (0, 0))
    threaded(history, 101, SAID, (99, 0))
    both = {"messages": [*SAID["messages"], chat_turn("At one."), MORE]}
    sent = threaded(history, 102, both, (0, 0), (99, 1))

    assert sent["messages"] == [*SAID["messages"], CHAT["choices"][0]["message"], MORE]
    assert history.counts() == {"forgotten": 2, "threaded": 1}


@pytest.mark.parametrize(
    "other",
    [{"causal": "strict"}, {"causal": "off"}, {"to": "messages"}, {"max_cost": 1.0}],
    ids=str,
)
def test_what_does_not_go_with_it_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^--live-history and --[a-z]+.*: .*; drop one of them$"):
        ReplayOptions(Path("t"), live_history=True, **other)


# Against servers.

ANSWERS = {
    "chat/completions": {"choices": [{"message": chat_turn(None, clock="old")}]},
    "messages": message(*blocks_turn(None, clock="old")["content"]),
    "responses": {"id": "r", "object": "response", "output": [item_turn("clock", "old")]},
}
SECONDS = {
    "chat/completions": [ASK, chat_turn(None, clock="old"), chat_result("old")],
    "messages": [ASK, blocks_turn(None, clock="old"), blocks_result("old")],
    "responses": [
        ASK,
        item_turn("clock", "old"),
        {"type": "function_call_output", "call_id": "old", "output": "noon"},
    ],
}
SHAPE = {"type": "object", "properties": {"zone": {"type": "string"}}}
TOOLS: dict[str, dict[str, Any]] = {
    "chat/completions": {
        "tools": [{"type": "function", "function": {"name": "clock", "parameters": SHAPE}}],
        "tool_choice": "required",
    },
    "messages": {
        "tools": [{"name": "clock", "input_schema": SHAPE}],
        "tool_choice": {"type": "any"},
        "max_tokens": 256,
    },
    "responses": {
        "tools": [{"type": "function", "name": "clock", "parameters": SHAPE}],
        "tool_choice": "required",
    },
}


def conversation(path: Path, api: str, turns: int = 2, *, stream: bool = False) -> Path:
    """A trace of a conversation whose first answer calls a tool."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for turn in range(turns):
            member = "input" if api == "responses" else "messages"
            said: list[Any] = SECONDS[api] if turn else [ASK]
            if turn > 1:
                said = [*said, chat_turn("It is noon."), MORE]
            raw = orjson.dumps({"model": "m", "stream": stream, **TOOLS[api], member: said})
            at = turn * 10**8
            request = Request(
                id=f"{turn:032x}", seq=turn, arrive_ns=at, end_ns=at, method="POST", scheme="http", host="h",
                path=f"/v1/{api}", headers=(("content-type", "application/json"),), body=raw,
                body_bytes=len(raw),
            )  # fmt: skip
            body = orjson.dumps(ANSWERS[api])
            response = Response(head_ns=at, end_ns=at + 10**7, status=200, body=body)
            writer.exchange(Exchange(request=request, response=response))
    return path


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("api", ANSWERS)
def test_results_name_the_calls_of_a_simulator(
    api: str,
    serve: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    stream: bool,
) -> None:
    """In each dialect, by what passed on the wire."""
    monkeypatch.setenv("TOGETHER_API_KEY", "test-key-0123456789")
    upstream = serve("serve", "--port", 0, "--any-model")
    wire = serve(
        "capture", "--upstream", upstream.url, "--port", 0, "-o", tmp_path / "wire.msgpack"
    )
    trace = conversation(tmp_path / "t.msgpack", api, stream=stream)
    run = replay(trace, base_url=wire.url, out=tmp_path / "r.run", live_history=True)
    assert wire.stop() == 0
    first, second = read_trace(tmp_path / "wire.msgpack").ends

    assert run.totals["turns"]["live"] == {"threaded": 1}
    assert first.response is not None
    answer = spoken(first.response.body or b"", first.response.header("content-encoding") or "")
    assert answer is not None
    (call,) = answer.calls
    sent = parse_request("POST", f"/v1/{api}", second.request.body, None).messages
    assert [id_ for turn in sent for id_ in results_in(turn)] == [call.id]
    assert [given for turn in sent for given in calls_in(turn)] == [call]


EMPTY = json.dumps({"choices": [{"message": chat_turn("")}]}).encode()


@pytest.mark.parametrize(
    ("pacing", "answer", "live"),
    [
        ({"speed": 1.0}, Given([EMPTY]), {"empty": 1}),
        ({"concurrency": 1}, Given([EMPTY]), {"empty": 1}),
        ({"sessions": 1}, Given([EMPTY]), {"empty": 1}),
        ({"causal": "think"}, Given([EMPTY]), {"empty": 1}),
        ({"concurrency": 1}, Given([CUT], headers=EVENTS), {"cut": 1}),
        ({"speed": 1.0}, Given([b"no JSON"]), {"unreadable": 1}),
        ({"concurrency": 1}, Given([b"{}"], status=500), {}),
    ],
)
def test_what_follows_an_answer_of_no_use_is_skipped_and_the_replay_ends(
    pacing: dict[str, Any], answer: Given, live: dict[str, int], tmp_path: Path
) -> None:
    """By the server: the first turn alone has come. Each is counted with its reason."""
    trace = conversation(tmp_path / "t.msgpack", "chat/completions", turns=3)
    with answering(lambda _: answer) as server:
        run = replay(
            trace, base_url=server.url, out=tmp_path / "r.run", live_history=True, **pacing
        )

    turns = run.totals["turns"]
    assert (len(server.received), run.totals["never_sent"]) == (1, 2)
    assert (turns["continued"], turns["skipped"], turns["live"]) == (2, 2, live)
    lines = "\n".join(summary(run, numbers(run)))
    assert not live or "1 not sent, as the target" in lines
