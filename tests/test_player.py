"""The player, in virtual time with senders that only wait: when calls leave, and what is kept of them."""

import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import httpx
import pytest
import trio
import trio.testing

from capture.exchange import Outcome
from replay.pacing import Closed, Fixed, Profile
from replay.player import Attempt, Player
from replay.sender import Call, Reply


def call(index: int, due: float | None = None) -> Call:
    return Call(
        due=due,
        id=f"{index}",
        index=index,
        cycle=0,
        offset=0.0,
        endpoint="chat",
        model="m",
        stream=True,
        request=httpx.Request("POST", "http://h/"),
    )


class Calls:
    """An async iterator over a list."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._calls = iter(calls)

    def __aiter__(self) -> AsyncIterator[Call]:
        return self

    async def __anext__(self) -> Call:
        await trio.lowlevel.checkpoint()
        for one in self._calls:
            return one
        raise StopAsyncIteration


@dataclass
class Waiter:
    """Takes `took(index)` seconds for each call; keeps how many were in flight over time."""

    took: Callable[[int], float]
    level: list[tuple[float, int]] = field(default_factory=list)
    now: int = 0

    async def send(self, call: Call, reply: Reply) -> None:
        reply.sent = trio.current_time()
        self._step(1)
        try:
            await trio.sleep(self.took(call.index))
            reply.status = 200
            reply.end = trio.current_time()
        finally:
            self._step(-1)

    def _step(self, by: int) -> None:
        self.now += by
        self.level.append((trio.current_time(), self.now))


@dataclass
class Played:
    player: Player
    kept: list[Attempt]
    waiter: Waiter

    def sent(self) -> list[float]:
        """When each call left, in the order of the plan, seconds from the start."""
        began = self.player.began
        by_index = sorted(self.kept, key=lambda attempt: attempt.call.index)
        stamps = [attempt.reply.sent for attempt in by_index]
        return [math.nan if at is None else at - began for at in stamps]


def play_open(dues: Sequence[float], took: Callable[[int], float], **options: object) -> Played:
    waiter = Waiter(took)
    kept: list[Attempt] = []
    player = Player(sender=waiter, keep=kept.append, **options)  # type: ignore[arg-type]
    calls = Calls(call(index, due) for index, due in enumerate(dues))
    trio.run(player.play_open, calls, clock=trio.testing.MockClock(autojump_threshold=0))
    return Played(player, kept, waiter)


def play_closed(
    number: int, pacing: Closed, took: Callable[[int], float], ends: float = math.inf
) -> Played:
    waiter = Waiter(took)
    kept: list[Attempt] = []
    player = Player(sender=waiter, keep=kept.append)
    calls = Calls(call(index) for index in range(number))
    trio.run(
        player.play_closed, calls, pacing, ends, clock=trio.testing.MockClock(autojump_threshold=0)
    )
    return Played(player, kept, waiter)


def test_open_calls_leave_when_they_are_due_however_slow_the_answers() -> None:
    """An hour's schedule is kept to the microsecond while every answer takes ten minutes."""
    dues = [0.0, 0.5, 0.5, 7.25, 3600.0]
    played = play_open(dues, lambda _: 600.0)

    assert played.sent() == pytest.approx(dues, abs=1e-6)
    assert len(played.kept) == 5


def test_lateness_of_the_plan_is_not_passed_on() -> None:
    """A call that comes too late for its due time leaves at once, and the next one in time again."""
    waiter = Waiter(lambda _: 1.0)
    kept: list[Attempt] = []
    player = Player(sender=waiter, keep=kept.append)

    class Slow(Calls):
        async def __anext__(self) -> Call:
            found = await super().__anext__()
            await trio.sleep(5.0 if found.index == 1 else 0.0)
            return found

    calls = Slow([call(0, 0.0), call(1, 1.0), call(2, 9.0)])
    trio.run(player.play_open, calls, clock=trio.testing.MockClock(autojump_threshold=0))

    assert Played(player, kept, waiter).sent() == pytest.approx([0.0, 5.0, 9.0], abs=1e-6)


def test_the_valve_holds_calls_and_says_how_long() -> None:
    """With two in flight at most, the third waits for the first to end; due times stay."""
    played = play_open([0.0, 0.0, 0.0, 10.0], lambda _: 2.0, max_in_flight=2)
    by_index = sorted(played.kept, key=lambda attempt: attempt.call.index)

    assert played.sent() == pytest.approx([0.0, 0.0, 2.0, 10.0])
    assert [attempt.held for attempt in by_index] == pytest.approx([0.0, 0.0, 2.0, 0.0])
    assert [attempt.call.due for attempt in by_index] == [0.0, 0.0, 0.0, 10.0]
    assert played.player.most_in_flight == 2


def test_a_fixed_concurrency_is_kept_full_in_trace_order() -> None:
    """Eight in flight from the first to the last call, each leaving when another ends."""
    played = play_closed(40, Fixed(limit=8), lambda index: 1 + index % 3)
    began = played.player.began
    last_sent = max(played.sent())

    assert max(level for _, level in played.waiter.level) == 8
    settled = {at: level for at, level in played.waiter.level if at - began < last_sent}
    assert set(settled.values()) == {8}
    assert played.sent() == sorted(played.sent())


def test_a_profile_is_followed_and_never_exceeded() -> None:
    """Each window lets as many fly as it says; above a smaller limit nothing new leaves."""
    limits = [1, 4, 2, 0, 3]
    played = play_closed(1000, Profile(limits=limits), lambda _: 0.25)
    began = played.player.began
    counts = [0] * 5
    for sent in played.sent():
        counts[int(sent + 1e-6)] += 1

    assert counts == [4 * limit for limit in limits]
    assert max(at for at, _ in played.waiter.level) - began <= 5.25


def test_a_profile_that_repeats_sends_the_whole_trace() -> None:
    """Until the trace ends, the windows come round again."""
    played = play_closed(30, Profile(limits=[2, 0], repeats=True), lambda _: 0.5)

    assert len(played.kept) == 30
    assert all(int(sent + 1e-6) % 2 == 0 for sent in played.sent())


def test_the_duration_ends_the_sending_not_the_answers() -> None:
    """Nothing leaves after it; what is in flight finishes."""
    played = play_closed(1000, Fixed(limit=2), lambda _: 3.0, ends=10.0)

    assert max(played.sent()) == pytest.approx(9.0)
    assert len(played.kept) == 8
    assert all(attempt.reply.status == 200 for attempt in played.kept)


def test_cancelling_keeps_every_attempt_that_was_started() -> None:
    """What is in flight is kept as cancelled with what it had; what is not due is never sent."""
    waiter = Waiter(lambda index: 1.0 if index == 0 else 100.0)
    kept: list[Attempt] = []
    player = Player(sender=waiter, keep=kept.append)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(player.play_open, Calls(call(i, float(i)) for i in range(10)))
            await trio.sleep(4.5)
            player.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    outcomes = [attempt.reply.failure and attempt.reply.failure[0] for attempt in kept]

    assert player.issued == len(kept) == 5
    assert outcomes == [None, *[Outcome.CANCELLED] * 4]
    assert all(attempt.reply.sent is not None for attempt in kept)
    assert player.in_flight == 0


def test_an_attempt_that_is_cancelled_in_a_nursery_of_its_own_is_cancelled() -> None:
    """As while connecting, where trio tries several addresses: the cancellation comes as a group."""

    class Connecting(Waiter):
        async def send(self, call: Call, reply: Reply) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(super().send, call, reply)
                nursery.start_soon(super().send, call, reply)

    kept: list[Attempt] = []
    player = Player(sender=Connecting(lambda _: 100.0), keep=kept.append)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(player.play_open, Calls([call(0, 0.0)]))
            await trio.sleep(1)
            player.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert [attempt.reply.failure for attempt in kept] == [
        (Outcome.CANCELLED, "the replay was stopped")
    ]


def test_a_senders_defect_is_a_failed_attempt() -> None:
    """An exception in the sender costs one sample, not the run."""

    class Broken(Waiter):
        async def send(self, call: Call, reply: Reply) -> None:
            if call.index == 1:
                raise ZeroDivisionError("oops")
            await super().send(call, reply)

    kept: list[Attempt] = []
    player = Player(sender=Broken(lambda _: 1.0), keep=kept.append)
    calls = Calls(call(index, 0.0) for index in range(3))
    trio.run(player.play_open, calls, clock=trio.testing.MockClock(autojump_threshold=0))
    failures = {attempt.call.index: attempt.reply.failure for attempt in kept}

    assert failures[0] is failures[2] is None
    assert failures[1] == (Outcome.PROTOCOL_ERROR, "sender: ZeroDivisionError: oops")


def test_a_refusal_ends_the_sending() -> None:
    """When the budget says no, the rest is never sent and the answers still come."""
    played = play_open([0.0, 1.0, 2.0, 3.0], lambda _: 50.0, may_send=lambda one: one.index < 2)

    assert played.player.refused
    assert played.player.issued == len(played.kept) == 2
