"""Salts go before the first word, once, leave everything else as it was, and keep apart what must be."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.exchange import Exchange
from tbench.capture.providers.openai import with_prefix
from tbench.replay.plan import Plan
from tbench.replay.target import DIGITS, Target, new_salt
from tbench.simulator.prompt import chat_prompt
from tests.recorded import chat_request

TEXTS = st.text(max_size=20)
SALT = "12345678"


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        (
            {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]},
            {"messages": [{"role": "system", "content": "1\nS"}, {"role": "user", "content": "U"}]},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "1\n"},
                            {"type": "image_url", "image_url": {}},
                        ],
                    }
                ]
            },
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": None},
                    {"role": "user", "content": "U"},
                ]
            },
            {
                "messages": [
                    {"role": "assistant", "content": None},
                    {"role": "user", "content": "1\nU"},
                ]
            },
        ),
        ({"prompt": "P", "n": 2}, {"prompt": "1\nP", "n": 2}),
        ({"prompt": ["P", "Q"]}, {"prompt": ["1\nP", "1\nQ"]}),
    ],
)
def test_the_first_text_gets_it(payload: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert with_prefix(payload, "1\n") == wanted


@pytest.mark.parametrize(
    "payload",
    [{}, {"messages": []}, {"messages": "no"}, {"prompt": [1, 2]}, {"prompt": []}, {"input": "x"}],
)
def test_where_there_is_no_text_there_is_no_salt(payload: dict[str, Any]) -> None:
    assert with_prefix(payload, "1\n") is None


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1))
def test_requests_that_shared_a_prefix_still_do(turns: list[tuple[str, str]]) -> None:
    """A turn and the one after it share all of the first, salted or not."""
    messages = [{"role": role, "content": content} for role, content in turns]
    shorter, longer = ({"messages": part} for part in (messages[:-1] or messages, messages))
    first, second = (with_prefix(payload, "7\n") for payload in (shorter, longer))

    assert first and second
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert longer == {"messages": messages}, "the recorded payload was changed"


def test_salts_are_of_one_length_and_differ() -> None:
    salts = {new_salt() for _ in range(50)}

    assert len(salts) > 45
    assert {len(salt) for salt in salts} == {DIGITS}


SYSTEM, QUESTION = "You are a patient assistant. " * 20, "What is a prefix cache? " * 20
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Looks a word up. " * 20},
}
CHAT = {
    "model": "m",
    "tools": [TOOL],
    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}],
}
ANSWER = {"role": "assistant", "content": "It keeps what a prompt began with."}
DIALECTS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": {
        "model": "m",
        "tools": [{"name": "look_up", "description": "Looks a word up.", "input_schema": {}}],
        "system": SYSTEM,
        "messages": [{"role": "user", "content": QUESTION}],
    },
    "/v1/responses": {
        "model": "m",
        "tools": [{"type": "web_search"}, {"type": "function", "name": "f", "parameters": {}}],
        "input": [{"role": "developer", "content": SYSTEM}, {"role": "user", "content": QUESTION}],
    },
}


def exchange(body: object, path: str = "/v1/chat/completions", id_: str = "a") -> Exchange:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = chat_request(0, 0, raw, id=id_, path=path, headers=())
    return Exchange(request=request, response=None)


Sent = Callable[..., dict[str, Any]]


def sender(path: str = "/v1/chat/completions", **target: Any) -> Sent:
    """What goes out for a body, with the place in the plan that is given."""
    to = Target(base_url="http://h", **{"salt": SALT, **target})

    def sent(body: object, **place: int) -> dict[str, Any]:
        (planned,) = Plan(trace=[exchange(body, path)])
        written: dict[str, Any] = json.loads(to.call(replace(planned, **place)).body)
        return written

    return sent


def shared(first: dict[str, Any], second: dict[str, Any]) -> int:
    """Blocks of a prefix that a cache has of the second after the first, as the simulator renders prompts."""
    blocks = [chat_prompt(body["messages"], body["tools"], "m").blocks for body in (first, second)]
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*blocks, strict=False)))


OTHER = {**CHAT, "messages": [*CHAT["messages"][:1], {"role": "user", "content": "And why?"}]}
LATER = {**CHAT, "messages": [*CHAT["messages"], ANSWER, {"role": "user", "content": "Go on."}]}


@pytest.mark.parametrize("cold", [False, True])
def test_nothing_is_shared_with_an_earlier_run(cold: bool) -> None:
    """Not the tools either, which stand before the system's words."""
    sent = [sender(salt=salt, cold=cold)(CHAT) for salt in ("11111111", "22222222")]

    assert shared(*sent) <= 1, "the braces and names before the first tool's description"
    assert shared(CHAT, sent[0]) <= 1


def test_structure_shares_what_was_recorded_as_shared() -> None:
    sent = sender()
    first, other, later = sent(CHAT, session=1), sent(OTHER, session=2), sent(LATER, session=1)

    assert shared(first, other) >= shared(CHAT, OTHER) > 10
    assert shared(first, later) >= shared(CHAT, LATER) > 20


def test_cold_shares_what_is_of_one_conversation_alone() -> None:
    sent = sender(cold=True)
    first, other, later = sent(CHAT, session=1), sent(OTHER, session=2), sent(LATER, session=1)

    assert shared(first, other) <= 1
    assert shared(first, later) >= shared(CHAT, LATER)


@pytest.mark.parametrize("place", [{"cycle": 1}, {"clone": 1}, {"cycle": 2, "clone": 3}])
def test_rounds_and_clones_share_the_system_prompt_alone(place: dict[str, int]) -> None:
    """They are more of the same traffic: other conversations, with the same application."""
    first, again = (sender()(CHAT, session=1, **there) for there in ({}, place))
    cold = [sender(cold=True)(CHAT, session=1, **there) for there in ({}, place)]

    assert shared(CHAT, OTHER) <= shared(first, again) < shared(CHAT, LATER) - 1
    assert shared(sender()(CHAT, **place), sender()(LATER, **place)) >= shared(CHAT, LATER)
    assert shared(*cold) <= 1


def test_as_recorded_only_clones_have_a_salt() -> None:
    """Behind what all conversations share; their own turns stay those of one conversation."""
    sent = sender(as_is=True)
    clones = [sent(CHAT, cycle=clone, clone=clone) for clone in range(3)]

    assert sent(CHAT) == sent(CHAT, cycle=3) == CHAT
    for first, second in combinations(clones, 2):
        assert shared(CHAT, OTHER) <= shared(first, second) < shared(CHAT, LATER) - 1
    later = sent(LATER, cycle=2, clone=2)
    assert shared(clones[2], later) >= shared(CHAT, LATER)
    field = sender(as_is=True, salt_field="cache_salt")
    assert "cache_salt" not in field(CHAT)
    assert len({field(CHAT, cycle=n, clone=n)["cache_salt"] for n in (1, 2, 3)}) == 3


@pytest.mark.parametrize("path", DIALECTS)
def test_each_dialect_has_a_place_for_both(path: str) -> None:
    """Before tools and system prompt the run's, before the first turn that of a round."""
    body = DIALECTS[path]
    first, again = (sender(path)(body, cycle=cycle) for cycle in (0, 1))
    tool = next(item for item in first["tools"] if item.get("type") != "web_search")
    opening = first.get("system") or first.get("messages", first.get("input"))[0]["content"]
    turns = [sent.get("messages", sent.get("input"))[-1]["content"] for sent in (first, again)]

    assert tool.get("function", tool)["description"].startswith(f"{SALT}\n")
    assert opening == f"{SALT}\n{SYSTEM}"
    assert turns[0] == QUESTION
    assert turns[1].endswith(f"\n{QUESTION}")
    assert len(turns[1]) == len(QUESTION) + DIGITS + 1
    assert {**first, "tools": 0} == {**body, "tools": 0, **_opened(body)}


def _opened(body: dict[str, Any]) -> dict[str, Any]:
    """The member with the system prompt, salted."""
    if "system" in body:
        return {"system": f"{SALT}\n{SYSTEM}"}
    name = "messages" if "messages" in body else "input"
    return {name: [{**body[name][0], "content": f"{SALT}\n{SYSTEM}"}, *body[name][1:]]}


def test_without_a_system_prompt_both_stand_before_the_first_turn() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    (turn,) = sender()(body, cycle=1)["messages"]
    alone = {"model": "m", "messages": [{"role": "system", "content": "Hi"}]}
    (system,) = sender()(alone, cycle=1)["messages"]

    for message in (turn, system):
        first, second, text = message["content"].split("\n")
        assert (first, text) == (SALT, "Hi")
        assert second != SALT


def test_in_a_field_one_salt_tells_rounds_and_conversations_apart() -> None:
    """Prompts stay as they are, so there is no place for a second."""
    by_field = {"salt_field": "cache_salt"}
    plain = sender(**by_field)
    cold = sender(**by_field, cold=True)
    salts = [sent(CHAT, session=session, cycle=cycle)["cache_salt"]
             for sent in (plain, cold) for session, cycle in ((1, 0), (2, 0), (1, 1))]  # fmt: skip

    assert plain(CHAT) == {**CHAT, "cache_salt": SALT}
    assert salts[0] == salts[1] == SALT
    assert len({SALT, *salts[2:]}) == 5


def test_what_has_no_place_for_a_salt_is_left_out_and_counted() -> None:
    """Sent without one it could find what an earlier run left. What gives no text reads no such cache."""
    target = Target(base_url="http://h", salt=SALT)
    plan = Plan(
        trace=[
            exchange(CHAT, id_="chat"),
            exchange({"model": "m", "prompt": [1, 2]}, "/v1/completions", "ids"),
            exchange(b"no JSON", "/v1/messages", "opaque"),
            exchange({"model": "m", "input": "Hi"}, "/v1/embeddings", "embedding"),
        ],
        refuses=target.refuses,
    )

    assert [planned.exchange.request.id for planned in plan] == ["chat", "embedding"]
    assert plan.skipped == {"unsalted": 2}
