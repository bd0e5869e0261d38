"""What the target answered stands in later turns: its words, its calls of tools, and their ids."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from tbench.capture.errors import InputError
from tbench.replay.live_history import LiveHistory
from tbench.replay.options import ReplayOptions
from tbench.replay.request import Label
from tbench.replay.sender import Call, Origin, Reply

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


def threaded(
    history: LiveHistory, index: int, body: dict[str, Any], *before: tuple[int, int]
) -> Any:
    """What a call sends, after it was threaded; its head and label say how long that is."""
    raw = orjson.dumps(body)
    call = Call(
        index=index, due=None, origin=Origin("http", "h", 80), body=raw, label=Label(id="a").pack(),
        head=b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(raw), after=(0,), history=before,
    )  # fmt: skip
    history.thread(call)
    if call.body != raw:
        assert b"\r\nContent-Length: %d\r\n\r\n" % len(call.body) in call.head
        assert Label.unpack(call.label).request_bytes == len(call.body)
    return json.loads(call.body)


def answered(history: LiveHistory, index: int, answer: dict[str, Any] | bytes) -> None:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    call = Call(index=index, due=None, origin=Origin("http", "h", 80), head=b"", body=b"")
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


@pytest.mark.parametrize(
    ("answer", "before", "reason"),
    [
        ({"choices": [{"message": chat_turn(None, other="x")}]}, [(0, 0)], "other_tools"),
        ({"choices": [{"message": chat_turn("I know it.")}]}, [(0, 0)], "other_tools"),
        (b"no JSON", [(0, 0)], "no_answer"),
        (CUT, [(0, 0)], "no_answer"),
        (CUT.replace(b"}]}", b'}],"error":{"message":"overloaded"}}'), [(0, 0)], "no_answer"),
        ({"choices": [{"message": HALF, "finish_reason": "length"}]}, [(0, 0)], "no_answer"),
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
    assert history.counts() == {reason: 1}


@pytest.mark.parametrize(
    "other",
    [{"causal": "strict"}, {"causal": "off"}, {"to": "messages"}, {"max_cost": 1.0}],
    ids=str,
)
def test_what_does_not_go_with_it_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^--live-history and --[a-z]+.*: .*; drop one of them$"):
        ReplayOptions(Path("t"), live_history=True, **other)
