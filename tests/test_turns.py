"""Turns: in the player, in virtual time, beside the rule as a recursion; and as a server sees them."""

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tbench.analysis.arms import load_arm
from tbench.analysis.report.text import run_text
from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.api import replay
from tbench.replay.closing import summary
from tbench.replay.pacing import Causal, Fixed, Profile
from tbench.replay.player import Player
from tbench.replay.sender import Call, Ended, Reply
from tbench.replay.totals import numbers
from tbench.replay.waiting import Turns
from tests.answering import Given, Received, answering, chat
from tests.recorded import chat_request
from tests.test_player import Attempt, Calls, Played, Waiter, call, play

SECONDS = st.integers(0, 40).map(lambda quarters: quarters / 4)


@st.composite
def conversations(draw: st.DrawFn, *, timed: bool) -> tuple[list[Call], list[float]]:
    """Calls of which some continue earlier ones, and how long each takes."""
    dues = sorted(draw(st.lists(SECONDS, min_size=1, max_size=24)))
    calls = []
    for index, due in enumerate(dues):
        after = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        think = draw(SECONDS) if after else 0.0
        calls.append(call(index, due if timed else None, *after, think=think))
    return calls, [draw(SECONDS) + 0.25 for _ in calls]


def expected(calls: Sequence[Call], took: Sequence[float], causal: Causal) -> list[float]:
    """When each leaves where nothing else holds it: the rule itself."""
    sent: list[float] = []
    for one, scheduled in zip(calls, [one.due for one in calls], strict=True):
        assert scheduled is not None
        due = scheduled
        if one.after and causal in {"max", "think"}:
            after = max(sent[index] + took[index] for index in one.after) + one.think
            due = after if causal == "think" else max(scheduled, after)
        sent.append(due)
    return sent


@given(conversations(timed=True), st.sampled_from(["max", "think", "strict"]))
def test_a_turn_leaves_when_its_policy_says(
    conversation: tuple[list[Call], list[float]], causal: Causal
) -> None:
    calls, took = conversation
    wanted = expected(calls, took, causal)
    scheduled = [one.due for one in calls]
    turns = Turns(causal)
    played = play(calls, Waiter(lambda index: took[index]), turns=turns)

    assert played.sent() == pytest.approx(wanted, abs=1e-6)
    kept = sorted(played.kept, key=lambda attempt: attempt.index)
    assert [attempt.due for attempt in kept] == pytest.approx(wanted, abs=1e-6)
    moved = sum(
        due > was + 1e-9 for due, was in zip(wanted, scheduled, strict=True) if was is not None
    )
    ends = [sent + lasts for sent, lasts in zip(wanted, took, strict=True)]
    last = [max((ends[index] for index in one.after), default=-1.0) for one in calls]
    early = sum(sent < end - 1e-9 for sent, end in zip(wanted, last, strict=True))
    counts = turns.counts()
    continued = sum(bool(one.after) for one in calls)
    assert (counts["continued"], counts["waited"], counts["skipped"]) == (continued, moved, 0)
    assert abs(counts["early"] - early) <= sum(  # at the very instant either may be first
        sent == end for sent, end in zip(wanted, last, strict=True)
    )


@given(conversations(timed=False), st.integers(1, 4))
def test_a_closed_loop_sends_the_first_turn_that_may_go(
    conversation: tuple[list[Call], list[float]], limit: int
) -> None:
    """None before its answer and think time, never too many; no place is free beside one that may go."""
    calls, took = conversation
    kept: list[Attempt] = []
    waiter = Waiter(lambda index: took[index])

    async def main() -> Player:
        supply, turns = Calls(calls), Turns("max")
        player = Player(
            sender=waiter,
            supply=supply,
            keep=lambda *ended: kept.append(Attempt(*ended)),
            turns=turns,
            began=trio.current_time(),
        )
        await player.play_closed(Fixed(limit=limit))
        return player

    player = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    sent = Played(player, kept, waiter).sent()

    assert len(sent) == len(calls)
    assert max(level for _, level in waiter.level) <= limit
    ends = [begun + lasts for begun, lasts in zip(sent, took, strict=True)]
    free = [max((ends[index] for index in one.after), default=0.0) + one.think for one in calls]
    for one, begun, may in zip(calls, sent, free, strict=True):
        assert begun >= may - 1e-6
        if begun > may + 1e-4:  # it waited for a place
            busy = [
                other
                for other, (since, until) in enumerate(zip(sent, ends, strict=True))
                if since < begun - 1e-6 and until >= begun - 1e-3 and other != one.index
            ]
            assert len(busy) >= limit or any(
                sent[other] >= may - 1e-6 and other < one.index for other in range(one.index)
            )


@given(st.data(), st.integers(1, 4))
def test_so_many_sessions_are_under_way_and_each_goes_turn_by_turn(
    data: st.DataObject, limit: int
) -> None:
    """Never more; the next begins at the very moment when one has ended, its think times included."""
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=9))
    calls: list[Call] = []
    for length in lengths:
        opening = len(calls)
        for turn in range(length):
            before, think = ((), 0.0) if not turn else ((len(calls) - 1,), data.draw(SECONDS))
            calls.append(call(len(calls), None, *before, think=think))
            calls[-1].opening = opening
    took = [data.draw(SECONDS) + 0.25 for _ in calls]
    waiter, kept = Waiter(lambda index: took[index]), list[Attempt]()

    async def main() -> Player:
        player = Player(
            sender=waiter,
            supply=Calls(calls),
            keep=lambda *ended: kept.append(Attempt(*ended)),
            turns=Turns("max"),
            began=trio.current_time(),
        )
        await player.play_closed(Fixed(limit=limit, by_session=True))
        return player

    player = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    sent = Played(player, kept, waiter).sent()

    free, wanted = [0.0] * limit, list[float]()
    for one in calls:  # the users, each of whom takes the next session when theirs has ended
        if one.index == one.opening:
            lane = free.index(min(free))
            wanted.append(free[lane])
        else:
            wanted.append(free[lane] + one.think)
        free[lane] = wanted[-1] + took[one.index]
    assert sent == pytest.approx(wanted, abs=1e-3)


class Steps(trio.abc.Instrument):
    """Cancels a scope after so many steps: where time stands still nothing else ends."""

    def __init__(self, most: int) -> None:
        self.left, self.scope = most, trio.CancelScope()

    def before_task_step(self, _task: object) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


def test_a_turn_that_finds_fewer_places_than_are_taken_waits_without_work() -> None:
    """Two are in flight where a profile has one place: the player sleeps until it has a third."""
    calls = [call(0), call(1), call(2), call(3, None, 0, think=1.0)]
    waiter, kept, steps = (
        Waiter(lambda index: 9.0 if index in {1, 2} else 0.5),
        list[Attempt](),
        Steps(500),
    )

    async def main() -> Player:
        player = Player(
            sender=waiter,
            supply=Calls(calls),
            keep=lambda *ended: kept.append(Attempt(*ended)),
            turns=Turns("max"),
            began=trio.current_time(),
        )
        with steps.scope:
            await player.play_closed(Profile(limits=[3, 1, 1, 3, 3]))
        return player

    player = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[steps])

    assert not steps.scope.cancelled_caught
    assert Played(player, kept, waiter).sent() == pytest.approx([0.0, 0.0, 0.0, 3.0], abs=1e-5)


def test_what_follows_a_failure_is_not_sent_and_is_counted() -> None:
    """0 fails; 1 and 3 continue it, 2 continues 1, 4 stands alone, 5 joins 3 and 4, and 6 joins 0 and 4."""
    calls = [
        *(call(0, 0.0), call(1, 1.0, 0), call(2, 9.0, 1), call(3, 5.0, 0), call(4, 2.0)),
        *(call(5, 9.0, 3, 4), call(6, 4.0, 0, 4)),
    ]
    unsent: list[Call] = []
    turns = Turns("max", unsent=unsent.append)
    played = play(
        sorted(calls, key=lambda one: one.due or 0.0),
        Waiter(lambda _: 3.0, status=lambda index: 500 if index == 0 else 200),
        turns=turns,
    )

    assert sorted(attempt.index for attempt in played.kept) == [0, 4]
    assert turns.counts() == {
        "continued": 5, "waited": 0, "early": 0, "skipped": 5, "forgotten": 0,
    }  # fmt: skip
    assert sorted(one.index for one in unsent) == [1, 2, 3, 5, 6]
    assert turns.held == 0
    assert played.player.issued == 2


@given(conversations(timed=True), st.sampled_from(["max", "think", "strict"]), SECONDS)
def test_no_turn_leaves_once_time_is_over(
    conversation: tuple[list[Call], list[float]], causal: Causal, ends: float
) -> None:
    """The supply ends there; what waits until then is not sent, all else leaves at its time."""
    calls, took = conversation
    calls = [one for one in calls if one.due is not None and one.due < ends]
    scheduled = [one.due for one in calls]
    wanted = expected(calls, took, causal)
    turns = Turns(causal)
    played = play(calls, Waiter(lambda index: took[index]), ends, turns=turns)

    left = [at for at in wanted if at < ends]
    assert sorted(played.sent()) == pytest.approx(sorted(left), abs=1e-6)
    late = sum(
        was is not None and was + 1e-9 < at < ends
        for at, was in zip(wanted, scheduled, strict=True)
    )
    assert turns.counts()["waited"] == late


def test_a_conversation_of_any_length_is_skipped() -> None:
    """Its turns wait one for another, as many as one stack would not hold."""
    length = 2 * sys.getrecursionlimit()
    calls = [call(index, 0.0, *([index - 1] if index else [])) for index in range(length)]
    turns = Turns("max")
    played = play(calls, Waiter(lambda _: 1.0, status=lambda _: 500), turns=turns)

    assert played.player.issued == 1
    assert (turns.counts()["skipped"], turns.held) == (length - 1, 0)


@pytest.mark.parametrize(
    ("copies", "between", "forgotten"),
    [(1, 99, 0), (1, 100, 1), (3, 299, 0), (3, 300, 1)],
)
@pytest.mark.parametrize("ended", [5.0, None])
def test_an_end_is_remembered_as_long_as_a_plan_looks_back(
    copies: int, between: int, forgotten: int, ended: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each copy of the trace; a turn whose predecessor is forgotten goes by its time, and is counted."""
    monkeypatch.setattr("tbench.replay.waiting.REMEMBERED", 100)
    turns = Turns("max", copies)
    for index in range(between + 1):
        turns.take(call(index, 0.0))
        turns.end(turns.leave(), ended if index == 0 else 1.0)
    turns.take(call(between + 1, 2.0, 0, think=1.0))

    assert turns.counts()["forgotten"] == forgotten
    assert turns.counts()["skipped"] == (ended is None and not forgotten)
    due = 2.0 if forgotten else None if ended is None else 6.0
    assert turns.next_due == due


def test_a_turn_that_waits_is_on_time_once_it_may_go() -> None:
    """Its due time is that of its policy: what the server took for the turn before is charged there, once."""
    calls = [call(0, 0.0), call(1, 1.0, 0, think=0.5), call(2, 30.0)]
    played = play(calls, Waiter(lambda _: 10.0), turns=Turns("max"))

    turn = next(attempt for attempt in played.kept if attempt.index == 1)
    assert turn.due == pytest.approx(10.5, abs=1e-6)
    assert turn.reply.sent is not None
    assert turn.reply.sent - played.player.began == pytest.approx(10.5, abs=1e-6)
    assert not math.isnan(played.sent()[0])


# From a trace to a server that keeps its own log.

CONVERSATIONS, ANSWER_S = 12, 0.08


def asked(name: str, turn: int) -> list[dict[str, str]]:
    """The history of a conversation up to a turn; the answers in it are not what this server says."""
    words: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
    for earlier in range(turn + 1):
        words.append({"role": "user", "content": f"{name}, turn {earlier}"})
        words.append({"role": "assistant", "content": f"recorded answer {earlier}"})
    return words[:-1]


def recorded(path: Path) -> int:
    """A trace of conversations with 2 to 5 turns, each answered in 30 ms, 10 ms of thought between them.

    The last turn of every third is asked twice at once, and one request was led back to the capture: its
    client asked again. How many requests continue an answer.
    """
    exchanges = []
    continued = 0
    for number in range(CONVERSATIONS):
        turns = 2 + number % 4
        for turn in range(turns):
            arrive = round((number * 0.013 + turn * 0.04) * 1e9)
            copies = 2 if turn == turns - 1 and number % 3 == 0 else 1
            continued += copies if turn else 0
            exchanges += [(arrive + copy, asked(f"c{number}", turn), {}) for copy in range(copies)]
    exchanges.append((10**9, asked("led back", 0), {"redirected_back": True}))
    exchanges.append((10**9 + 1, asked("led back", 0), {}))
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq, (arrive, messages, extra) in enumerate(sorted(exchanges, key=lambda row: row[0])):
            body = json.dumps({"model": "m", "messages": messages, "max_tokens": 4}).encode()
            request = chat_request(seq, arrive, body)
            end = arrive + 30_000_000
            response = Response(head_ns=end, end_ns=end, status=307 if extra else 200, extra=extra)
            writer.exchange(Exchange(request=request, response=response))
    return continued


@pytest.mark.parametrize(
    "options",
    [
        {"speed": 16.0, "workers": 2},
        {"causal": "think", "speed": 4.0},
        {"concurrency": 9},
        {"clones": 3, "speed": 4.0, "workers": 2},
        {"sessions": 4},
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_no_turn_reaches_the_server_before_its_predecessor_has_ended_there(
    options: dict[str, Any], tmp_path: Path
) -> None:
    spans: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def answer(received: Received) -> Given:
        arrived = time.monotonic()
        time.sleep(ANSWER_S)
        words = [message["content"] for message in received.json["messages"]]
        salt, last = words[1].rpartition("\n")[0], words[-1].rpartition("\n")[2]
        spans.setdefault((salt, last), []).append((arrived, time.monotonic()))
        return chat()

    continued = recorded(tmp_path / "t.msgpack")
    with answering(answer) as server:
        run = replay(tmp_path / "t.msgpack", base_url=server.url, out=tmp_path / "r.run", **options)

    turns, clones = run.totals["turns"], options.get("clones", 1)
    policy = options.get("causal", "max")
    assert policy == "max" or f"--causal {policy}" in run.header["pacing"]["meaning"]
    assert run.totals["completed"] == run.totals["planned"] == len(server.received)
    assert run.totals["skipped"] == {"redirect": 1}
    assert (turns["continued"], turns["early"], turns["skipped"]) == (clones * continued, 0, 0)
    salts = {salt for salt, _ in spans}
    assert len(salts) == clones  # the first goes as recorded, each other behind a salt of its own
    assert "" in salts
    for (salt, words), mine in spans.items():
        name, _, number = words.partition(", turn ")
        if int(number):
            (before,) = spans[salt, f"{name}, turn {int(number) - 1}"]
            assert all(arrived > before[1] for arrived, _ in mine), words


STREAM = (("content-type", "text/event-stream"),)


@pytest.mark.parametrize(
    "failed",
    [
        Given([b"{}"], status=500),
        Given(
            [b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n'], headers=STREAM
        ),
        Given(
            [b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'], headers=STREAM
        ),
        Given([b'{"choices": [{"finish_reason": "abort", "message": {"content": "a"}}]}']),
        Given([b""]),
    ],
    ids=["status", "an error inside a stream", "no end", "the server gave up", "nothing"],
)
def test_a_turn_whose_predecessor_failed_is_not_sent(failed: Given, tmp_path: Path) -> None:
    """Of conversation 0 (two turns, the last asked twice) the first fails."""

    def answer(received: Received) -> Given:
        words = received.json["messages"][-1]["content"]
        return failed if words == "c0, turn 0" else chat()

    recorded(tmp_path / "t.msgpack")
    with answering(answer) as server:
        run = replay(tmp_path / "t.msgpack", base_url=server.url, out=tmp_path / "r.run")

    assert run.totals["turns"]["skipped"] == run.totals["never_sent"] == 2
    assert "c0, turn 1" not in {each.json["messages"][-1]["content"] for each in server.received}
    assert "2 not sent, as it failed" in "\n".join(summary(run, numbers(run)))
    assert "2 not sent, as it failed" in " ".join(run_text(load_arm(tmp_path / "r.run")).split())


def test_turns_that_wait_do_not_draw_the_plan_into_memory() -> None:
    """Each of a thousand turns continues the one before, a second apart; the first answer takes long."""
    supply = Calls(
        call(index, float(index), *([index - 1] if index else [])) for index in range(1000)
    )
    waiter = Waiter(lambda index: 100.0 if index == 0 else 0.25)
    drawn: list[int] = []

    async def main() -> None:
        player = Player(
            sender=waiter,
            supply=supply,
            keep=lambda *_: drawn.append(1000 - len(supply.calls)),
            turns=Turns("max"),
            began=trio.current_time(),
        )
        await player.play_open()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert drawn[0] <= 102  # what is due by then, and the next
    assert len(drawn) == 1000


def test_the_arms_of_a_duet_are_counted_apart() -> None:
    """The first answer of arm 1 fails, that of arm 0 is late."""
    turns = Turns("max")
    first = [call(0, 0.0), call(0, 0.0)]
    for arm, one in enumerate([*first, call(1, 1.0, 0), call(1, 1.0, 0)]):
        one.arm = arm % 2
        turns.take(one)
    for one, at in zip(first, (3.0, None), strict=True):
        assert turns.leave() is one
        turns.end(one, at)
    assert turns.leave().due == 3.0

    fates = [{name: n for name, n in turns.counts(arm).items() if n} for arm in (0, 1)]
    assert fates == [{"continued": 1, "waited": 1}, {"continued": 1, "skipped": 1}]


@pytest.mark.parametrize("causal", ["max", "think", "strict"])
@pytest.mark.parametrize("closed", [False, True])
def test_a_duet_keeps_the_order_that_was_drawn(causal: Causal, *, closed: bool) -> None:
    """Both arms' calls are due together; who is first is drawn, so that neither gains by its place."""
    order = [(index, arm) for index in range(40) for arm in ((0, 1) if index % 3 else (1, 0))]
    calls = [call(index, None if closed else float(index)) for index, _ in order]
    for one, (_, arm) in zip(calls, order, strict=True):
        one.arm = arm
    launched: list[tuple[int, int]] = []

    class Noting(Waiter):
        def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
            launched.append((call.index, call.arm))
            super().launch(call, reply, ended)

    async def main() -> None:
        player = Player(
            sender=Noting(lambda _: 0.25),
            supply=Calls(calls),
            keep=lambda *_: None,
            turns=Turns(causal),
            began=trio.current_time(),
        )
        await (player.play_closed(Fixed(limit=3)) if closed else player.play_open())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert launched == order
