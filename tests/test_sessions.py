"""Conversations found again from what their requests repeat."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture.exchange import Exchange, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.sessions import Place, Recent, Sessions
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tests.recorded import chat_request


def say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def request(name: str, messages: Any, **fields: Any) -> Request:
    """A chat request; `fields` override those of Request."""
    body = json.dumps({"model": "m", "messages": messages}).encode()
    return chat_request(0, 0, **{"id": name, "body": body, **fields})


def answer(text: str, calls: Any = (), end_ns: int = 0) -> Response:
    """A chat's answer."""
    message = {"content": text or None, **({"tool_calls": calls} if calls else {})}
    body = json.dumps({"choices": [{"message": say("assistant", None) | message}]}).encode()
    return Response(head_ns=0, end_ns=end_ns, status=200, body=body)


SYSTEM, HI = say("system", "be brief"), say("user", "hi")
SECOND = [SYSTEM, HI, say("assistant", "hello"), say("user", "more")]
THIRD = [*SECOND, say("assistant", "well"), say("user", "and?")]


def test_turns_of_a_conversation_follow_each_other() -> None:
    """Each turn repeats the one before it and its answer."""
    sessions = Sessions()
    assert sessions.assign(request("a", [SYSTEM, HI])) == Place("s1", 0, None)
    assert sessions.assign(request("b", SECOND)) == Place("s1", 1, "a")
    assert sessions.assign(request("c", THIRD)) == Place("s1", 2, "b")


@pytest.mark.parametrize("kind", [["text"], {"text": 1}, 5, None])
def test_a_part_may_be_of_a_type_that_is_no_word(kind: object) -> None:
    """As a client's mistake is, of which its server's 400 is recorded: its session is another one's, too."""
    sessions = Sessions()
    odd = say("assistant", [{"type": kind, "text": "hello"}])
    places = [
        sessions.assign(request(f"r{n}", messages))
        for n, messages in enumerate([[HI], [HI, odd, say("user", "more")]])
    ]

    assert [place.turn for place in places] == [0, 1]


def test_a_shared_system_prompt_is_no_conversation() -> None:
    """Two users with the same system prompt are two sessions."""
    sessions = Sessions()
    first = sessions.assign(request("a", [SYSTEM, HI]))
    other = sessions.assign(request("b", [SYSTEM, say("user", "ho")]))
    assert (first.session, other) == ("s1", Place("s2", 0, None))


def test_a_longer_prompt_without_an_answer_is_no_continuation() -> None:
    """What waits for an answer contains one: few-shot lists that grow are separate."""
    sessions = Sessions()
    sessions.assign(request("a", [SYSTEM, HI]))
    assert sessions.assign(request("b", [SYSTEM, HI, say("user", "more")])).parent is None


def test_a_missed_turn_does_not_end_a_session() -> None:
    """The longest prefix that was seen is the parent, two turns back if need be."""
    sessions = Sessions()
    sessions.assign(request("a", [SYSTEM, HI]))
    assert sessions.assign(request("c", THIRD)) == Place("s1", 1, "a")


def test_branches_share_a_session() -> None:
    """An agent that asks two things after one answer forks within its session."""
    sessions = Sessions()
    sessions.assign(request("a", [SYSTEM, HI]))
    sessions.assign(request("b", SECOND))
    fork = [SYSTEM, HI, say("assistant", "hello"), say("user", "less")]
    assert sessions.assign(request("c", fork)) == Place("s1", 1, "a")


def test_same_first_words_are_told_apart_by_the_answer() -> None:
    """Two people say hi; what each was answered tells whose second turn it is."""
    sessions = Sessions()
    sessions.assign(request("a", [HI]), response=answer("hello"))
    sessions.assign(request("b", [HI]), response=answer("good day"))
    assert sessions.assign(request("d", [HI, say("assistant", "good day "), HI])).parent == "b"
    assert sessions.assign(request("c", [HI, say("assistant", "hello"), HI])).parent == "a"


def test_same_first_words_without_answers_go_by_caller_then_by_turn() -> None:
    """The same client's request wins, and one that nobody has continued yet."""
    sessions = Sessions()
    for name, client in (("a", "x"), ("b", "y"), ("c", "x")):
        sessions.assign(request(name, [HI], client=client))
    second = [HI, say("assistant", "?"), HI]
    assert sessions.assign(request("d", second, client="y")).parent == "b"
    assert sessions.assign(request("e", second, client="x")).parent == "c"
    assert sessions.assign(request("f", second, client="x")).parent == "a"


def test_the_order_of_keys_does_not_matter() -> None:
    """An SDK may write a message's fields in another order the next time."""
    sessions = Sessions()
    sessions.assign(request("a", [{"role": "user", "content": "hi"}]))
    turned = [{"content": "hi", "role": "user"}, say("assistant", "x"), HI]
    assert sessions.assign(request("b", turned)).parent == "a"


def test_a_header_names_a_session_of_any_endpoint() -> None:
    """Requests with the same session header follow each other, whatever they say."""
    sessions = Sessions()
    named = {"headers": (("x-session-id", "secret"),), "path": "/v1/embeddings"}
    assert sessions.assign(request("a", [], **named)) == Place("s1", 0, None)
    assert sessions.assign(request("b", [], **named)) == Place("s1", 1, "a")
    other = named | {"headers": (("x-session-id", "other"),)}
    assert sessions.assign(request("c", [], **other)) == Place("s2", 0, None)


def test_within_a_named_session_the_prefix_tells_the_parent() -> None:
    """The header says which session, the messages which answer is waited for."""
    sessions = Sessions()
    named = {"headers": (("x-conversation-id", "1"),)}
    sessions.assign(request("a", [HI], **named))
    sessions.assign(request("b", [say("user", "title this")], **named))
    assert sessions.assign(request("c", [HI, say("assistant", "x"), HI], **named)).parent == "a"


def test_an_api_names_a_session_in_its_body_too() -> None:
    """Responses: a conversation's id, and the id of the response that is continued."""
    sessions = Sessions()
    asked = {"method": "POST", "path": "/v1/responses"}

    def given(name: str, **fields: Any) -> Place:
        body = json.dumps({"model": "m", "input": name, **fields}).encode()
        answer = json.dumps(
            {"id": f"resp_{name}", "object": "response", "output": [{"type": "message"}]}
        )
        response = Response(head_ns=0, end_ns=0, status=200, body=answer.encode())
        return sessions.assign(request(name, [], body=body, **asked), response=response)

    assert given("a").session == "s1"
    assert given("b", previous_response_id="resp_a") == Place("s1", 1, "a")
    assert given("c", previous_response_id="resp_b") == Place("s1", 2, "b")
    assert given("d", conversation={"id": "conv_1"}) == Place("s2", 0, None)
    assert given("e", conversation="conv_1") == Place("s2", 1, "d")
    assert given("f", previous_response_id="resp_unknown").session == "s3"


def test_a_question_that_many_ask_is_no_sub_agent() -> None:
    """It is the argument of a search, and another user's first words: the caller's prompt held it already."""
    question = "What is the tallest mountain of Europe?"
    for argument, session in ((question, "s3"), ("the highest peak in Europe", "s1")):
        function = {"name": "search", "arguments": json.dumps({"query": argument})}
        response = answer("", [{"id": "c1", "function": function}], 5)
        body = json.dumps({"messages": [say("user", question)], "tools": [{}]}).encode()
        sessions = Sessions()
        sessions.assign(request("a", [], body=body), response=response)
        early = sessions.assign(request("early", [say("user", argument)], arrive_ns=4))
        late = sessions.assign(request("late", [say("user", argument)], arrive_ns=6))
        assert (early.session, late.session) == ("s2", session)


def test_equal_texts_under_two_names_stay_apart() -> None:
    """A header outranks what the messages suggest."""
    sessions = Sessions()
    one, two = ({"headers": (("x-session-id", name),)} for name in "12")
    sessions.assign(request("a", [HI], **one))
    assert sessions.assign(request("b", [HI, say("assistant", "x"), HI], **two)) == Place(
        "s2", 0, None
    )


def test_a_history_that_is_quoted_as_it_was_outranks_words_and_calls_of_others() -> None:
    """Thoughts were cut from an answer that another got so; ids of calls begin anew in each conversation."""
    sessions, words = Sessions(), "good morning, how can I help you today?"
    call = {"id": "get:0", "type": "function", "function": {"name": "get", "arguments": "{}"}}
    called = {"role": "assistant", "content": "let me look", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "get:0", "content": "5"}
    rome, oslo = ([say("user", f'what of {city}, with "tools"')] for city in ("Rome", "Oslo"))
    tools = {"path": "/v1/chat/completions?/responses"}  # as one whose answers are read
    exchanges = [
        (request("a", [SYSTEM, HI], **tools), answer(f"<think>hm</think>{words}")),
        (request("b", [HI], **tools), answer(words)),
        (request("c", [SYSTEM, HI, say("assistant", words), HI]), None),
        (request("d", rome, **tools), answer("let me look", [call])),
        (request("e", oslo), None),  # its answer was lost
        (request("f", [*oslo, called, result]), None),
    ]
    parents = {
        asked.id: sessions.assign(asked, response=reply).parent for asked, reply in exchanges
    }
    assert (parents["c"], parents["f"]) == ("a", "e")


def test_equal_histories_with_equal_words_are_told_apart_by_their_calls() -> None:
    """Two ask the same at once and are told the same: the ids of the calls differ."""
    sessions = Sessions()
    for name in ("a", "b"):
        call = {"id": name, "type": "function", "function": {"name": "get", "arguments": "{}"}}
        asked = request(name, [HI], path="/v1/chat/completions?/responses")
        sessions.assign(asked, response=answer("let me look", [call]))
    for name in ("a", "b"):
        call = {"id": name, "type": "function", "function": {"name": "get", "arguments": "{}"}}
        called = {"role": "assistant", "content": "let me look", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": name, "content": "5"}
        place = sessions.assign(request(f"{name}2", [HI, called, result]))
        assert (place.parent, sessions.exact) == (name, True)


def test_a_retry_takes_the_place_of_its_first_attempt() -> None:
    """It is no turn of its own, and its later turns find the session."""
    sessions = Sessions()
    sessions.assign(request("a", [SYSTEM, HI]))
    assert sessions.assign(request("b", SECOND)) == Place("s1", 1, "a")
    assert sessions.assign(request("b2", SECOND, retry_of="b")) == Place("s1", 1, "a")
    assert sessions.assign(request("b3", SECOND, retry_of="b2")) == Place("s1", 1, "a")
    assert sessions.assign(request("c", THIRD)).turn == 2


def test_other_requests_are_sessions_of_their_own() -> None:
    """Embeddings, bodies that were not kept, and bodies that are not JSON."""
    sessions = Sessions()
    places = [
        sessions.assign(request("a", [HI], path="/v1/embeddings")),
        sessions.assign(request("b", [HI], path="/v1/embeddings")),
        sessions.assign(request("c", [HI], body=None)),
        sessions.assign(request("d", [HI], body=b"{")),
        sessions.assign(request("e", "hi")),
        sessions.assign(request("f", ["hi", 2**70])),
    ]
    assert [place.session for place in places] == [f"s{n}" for n in range(1, 7)]


def test_memory_is_bounded() -> None:
    """What lies too far back is forgotten, and starts anew."""
    sessions = Sessions(remembered=2)
    sessions.assign(request("a", [SYSTEM, HI]))
    for n in range(2):
        sessions.assign(request(f"x{n}", [say("user", str(n))]))
    assert sessions.assign(request("b", SECOND)) == Place("s4", 0, None)
    for table in (sessions._prefixes, sessions._named, sessions._requests):
        assert len(table) <= 2


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=40))
def test_interleaved_conversations_come_apart(order: list[int]) -> None:
    """However six conversations interleave, each is one session with its turns in order."""
    sessions = Sessions()
    history = {user: [SYSTEM] for user in range(6)}
    last: dict[int, Place] = {}
    for number, user in enumerate(order):
        history[user] = [*history[user], say("user", f"{user} asks {number}")]
        place = sessions.assign(request(str(number), history[user]))
        before = last.get(user)
        assert place.turn == (before.turn + 1 if before else 0)
        assert before is None or place.session == before.session
        history[user] = [*history[user], say("assistant", f"answer {number}")]
        last[user] = place
    assert len({place.session for place in last.values()}) == len(last)


OMITTED = {"type": "text", "text": "[image omitted]"}
TALK = ("yes", "thanks", "go on", "and then?")


def heard(style: str, turns: list[str], answers: list[str], turn: int) -> list[dict[str, Any]]:
    """What a client sends in a turn: all that was said, or what it keeps of it.

    That are the last five messages or three, a summary before these, or earlier questions in other words.
    """
    spoken: list[dict[str, Any]] = []
    for earlier in range(turn + 1):
        spoken.append(say("user", turns[earlier]))
        if earlier < turn:
            spoken.append(say("assistant", answers[earlier]))
    match style:
        case "trimmed":
            return [SYSTEM, *spoken[-5:]]
        case "last":
            return [SYSTEM, *spoken[-3:]]
        case "rewritten":
            return [say("system", f"so far: {len(spoken)} messages"), *spoken[-5:]]
        case "edited":
            earlier = (
                say("user", [{"type": "text", "text": turn["content"]}, OMITTED])
                if turn["role"] == "user"
                else turn
                for turn in spoken[:-1]
            )
            return [SYSTEM, *earlier, spoken[-1]]
    return [SYSTEM, *spoken]


CALLED = say("assistant", [{"type": "tool_use", "id": "t1", "name": "look", "input": {}}])
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (say("user", "tell  me\nmore \n"), say("user", "tell me more")),
        (say("user", "more"), say("user", [{"type": "text", "text": "more"}])),
        (say("tool", '{"b": [1, "\\u00e9"], "a": 2}'), say("tool", '{\n "a": 2,\n "b": [1, "é"]}')),
        (
            say("user", [{"type": "tool_result", "tool_use_id": "t1", "content": "it  is"}]),
            say("user", [{"type": "tool_result", "tool_use_id": "t1", "content": [
                {"type": "text", "text": "it is"}]}]),
        ),
    ],
    ids=["breaks", "parts", "JSON", "result"],
)  # fmt: skip
@pytest.mark.parametrize(
    "reply", [say("assistant", "hello"), say("assistant", [THOUGHT, *CALLED["content"]])]
)
def test_last_words_that_are_written_anew_tell_their_conversation(
    was: dict[str, Any], becomes: dict[str, Any], reply: dict[str, Any]
) -> None:
    """Behind a summary of the rest, and without what was thought; other words are another's."""
    sessions = Sessions()
    sessions.assign(request("a", [HI, reply, was]))
    sessions.assign(request("b", [HI, reply, say("user", "less")]))
    bare = say("assistant", CALLED["content"] if reply["content"] != "hello" else "hello")
    later = [say("user", "Summary: they said hi."), bare, becomes, say("assistant", "so"), HI]

    assert sessions.assign(request("c", later)).parent == "a"
    other = [*later[:2], say("user", "something else"), *later[3:]]
    assert sessions.assign(request("d", other)).parent is None


@pytest.mark.parametrize(
    ("style", "least"),
    [
        *(("verbatim", 1.0), ("alike", 1.0)),
        *((style, 0.98) for style in ("trimmed", "last", "rewritten", "edited")),
    ],
)
def test_conversations_are_told_apart_however_their_history_is_sent(
    style: str, least: float, tmp_path: Path
) -> None:
    """200 conversations of 2 to 8 turns, ten at a time, of three callers; a third is the same few words.

    Of those that are alike each four ask the same, at once, and differ in the answers. A replay, which reads
    the ends of answers, tells them apart as whoever reads all of them.
    """
    source = random.Random(5)
    waiting: list[tuple[int, int, list[str], list[str]]] = []
    for number in range(200):
        turns = [
            source.choice(TALK)
            if turn and source.random() < 0.33
            else f"question {source.random()}"
            for turn in range(source.randint(2, 8))
        ]
        if style == "alike" and number % 4:
            turns = waiting[-1][2]
        waiting.append((number, 0, turns, [f"the answer {source.random()}" for _ in turns]))
    exchanges: list[Exchange] = []
    while waiting:
        slot = source.randrange(min(10, len(waiting)))
        number, turn, turns, answers = waiting[slot]
        at = 10 * len(exchanges)
        asked = request(
            f"{number}.{turn}",
            heard(style, turns, answers, turn),
            client=f"c{number // 4 % 3}",
            arrive_ns=at,
            end_ns=at,
            seq=len(exchanges),
        )
        exchanges.append(Exchange(request=asked, response=answer(answers[turn], end_ns=at + 5)))
        waiting[slot : slot + 1] = (
            [(number, turn + 1, turns, answers)] if turn + 1 < len(turns) else []
        )
    with TraceWriter(tmp_path / "t.msgpack", TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for exchange in exchanges:
            writer.exchange(exchange)
    trace = read_trace(tmp_path / "t.msgpack")
    read = [placed(exchanges), placed(trace), placed(trace.ends)]
    parents = {id_: place.parent for id_, place in read[0].items()}
    before = {
        id_: f"{number}.{int(turn) - 1}" for id_ in parents for number, turn in [id_.split(".")]
    }
    right = sum(parent == before[id_] for id_, parent in parents.items())

    assert read[1] == read[2] == read[0]
    assert right >= least * sum(parent is not None for parent in parents.values())  # precision
    assert right >= least * (len(parents) - 200)  # recall


def placed(exchanges: Iterable[Exchange]) -> dict[str, Place]:
    """Each request's place, by its id."""
    sessions = Sessions()
    return {
        each.request.id: sessions.assign(each.request, response=each.response, answer=each.answer)
        for each in exchanges
    }


def test_prompts_with_examples_do_not_cost_the_reading_of_every_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each holds an assistant's message that nobody was ever told: after three of them that is known."""
    bodies: list[bytes] = []
    monkeypatch.setattr("tbench.capture.sessions.IN_VAIN", 3)
    monkeypatch.setattr("tbench.capture.sessions.spoken", lambda body, _coding: bodies.append(body))
    sessions = Sessions()
    for number in range(20):
        examples = [
            say("user", f"example {number}"),
            say("assistant", "as one would answer it"),
            HI,
        ]
        sessions.assign(request(str(number), examples), response=answer(f"answer {number}"))

    assert len(bodies) == 2  # the first came before there was an answer


@pytest.mark.parametrize(
    ("kept", "parent", "joined"),
    [
        ([HI, say("assistant", "Two rooms are free on Sunday.")], "b", ()),
        ([say("assistant", "So far: hi; Two rooms are free on Sunday.")], None, ("b",)),
        ([say("assistant", "So far: hi; they have no rooms on Sunday.")], None, ()),
    ],
    ids=["words", "one message", "another's"],
)
def test_an_agent_that_takes_over_without_the_calls_waits_for_the_last_answer(
    kept: list[Any], parent: str | None, joined: tuple[str, ...]
) -> None:
    """A handoff: its history has no tools, so begins as the first request of the conversation did."""
    call = {"id": "c1", "function": {"name": "look", "arguments": "{}"}}
    asked = [say("system", "be brief"), HI]
    called = [*asked, say("assistant", None) | {"tool_calls": [call]}]
    called.append(say("tool", "2") | {"tool_call_id": "c1"})
    sessions = Sessions()
    for name, messages, said in (
        ("a", asked, answer("", [call])),
        ("b", called, answer("Two rooms are free on Sunday.")),
    ):
        body = json.dumps({"messages": messages, "tools": [{}]}).encode()
        sessions.assign(request(name, [], body=body), response=said)
    place = sessions.assign(request("c", [say("system", "be kind"), *kept, say("user", "book")]))

    assert (place.parent, place.joined) == (parent, joined)


def test_a_greeting_far_back_is_nobodys_in_particular() -> None:
    """A conversation that began before the trace is not that of who was greeted alike in it."""
    greeting = say("assistant", "Hello! How can I help you today?")
    earlier = [
        say("user", "hey"),
        greeting,
        say("user", "a refund"),
        say("assistant", "Of course: which order is it?"),
    ]
    sessions = Sessions()
    sessions.assign(request("a", [HI]), response=answer(greeting["content"]))

    assert sessions.assign(request("b", [*earlier, say("user", "12")])).parent is None
    assert sessions.assign(request("c", [say("user", "hi?"), greeting, HI])).parent == "a"


@given(st.integers(1, 450), st.lists(st.integers(0, 600), max_size=900))
def test_what_was_kept_last_is_remembered_and_little_more(size: int, keys: list[int]) -> None:
    """Each key once, at its last place; a hundredth more than asked for at most."""
    recent: Recent[int, int] = Recent(size)
    for place, key in enumerate(keys):
        recent.keep(key, place)
    lasts = list(dict.fromkeys(reversed(keys)))

    assert size // 100 >= len(recent) - size
    assert list(recent)[-size:] == lasts[:size][::-1]
    assert all(keys[place] == key and key not in keys[place + 1 :] for key, place in recent.items())
