"""The player, in virtual time with senders that only wait: when calls leave, and what is kept of them."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from tbench.capture.exchange import Outcome
from tbench.replay.pacing import Closed, Fixed, Profile
from tbench.replay.player import ASK_AGAIN_S, Player
from tbench.replay.sender import Call, Ended, Origin, Reply

HERE = Origin("http", "h", 80)


def call(index: int, due: float | None = None, *after: int, think: float = 0.0) -> Call:
    return Call(index=index, due=due, origin=HERE, head=b"", body=b"", after=after, think=think)


class Calls:
    """A supply that has everything at hand."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.calls = deque(calls)
        self.ended = True
        self.woken: Callable[[], None] = lambda: None

    def take(self) -> Call | None:
        return self.calls.popleft() if self.calls else None

    @property
    def over(self) -> bool:
        return self.ended and not self.calls

    def tell(self, woken: Callable[[], None]) -> None:
        self.woken = woken


class Trickle(Calls):
    """A supply to which calls come one by one: `(when, call)`, seconds from the start."""

    def __init__(self, coming: Sequence[tuple[float, Call]]) -> None:
        super().__init__([])
        self.ended = False
        self.coming = coming

    async def run(self) -> None:
        began = trio.current_time()
        for at, one in self.coming:
            await trio.sleep_until(began + at)
            self.calls.append(one)
            self.woken()
        self.ended = True
        self.woken()


@dataclass
class Waiter:
    """Takes `took(index)` seconds for each call; keeps how many were in flight over time."""

    took: Callable[[int], float]
    status: Callable[[int], int] = lambda _index: 200
    level: list[tuple[float, int]] = field(default_factory=list)
    now: int = 0
    scopes: set[trio.CancelScope] = field(default_factory=set)

    def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
        reply.sent = trio.current_time()
        self._step(1)
        trio.lowlevel.spawn_system_task(self._wait, call.index, reply, ended)

    def abandon(self) -> None:
        for scope in self.scopes:
            scope.cancel()

    async def _wait(self, index: int, reply: Reply, ended: Ended) -> None:
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            await trio.sleep(self.took(index))
            reply.status = self.status(index)
            reply.chunks.append((trio.current_time(), b"{}"))
        self.scopes.discard(scope)
        if scope.cancelled_caught:
            reply.failure = (Outcome.CANCELLED, "the replay was stopped")
        reply.end = trio.current_time()
        self._step(-1)
        ended()

    def _step(self, by: int) -> None:
        self.now += by
        self.level.append((trio.current_time(), self.now))


@dataclass(frozen=True)
class Attempt:
    """A call that has ended, and its reply."""

    call: Call
    reply: Reply

    @property
    def index(self) -> int:
        return self.call.index

    @property
    def due(self) -> float | None:
        return self.call.due

    @property
    def held(self) -> float:
        return self.reply.held


@dataclass
class Played:
    player: Player
    kept: list[Attempt]
    waiter: Waiter

    def sent(self) -> list[float]:
        """When each call left, in the order of the plan, seconds from the start."""
        began = self.player.began
        by_index = sorted(self.kept, key=lambda attempt: attempt.index)
        stamps = [attempt.reply.sent for attempt in by_index]
        return [math.nan if at is None else at - began for at in stamps]


def virtually(play: Callable[[], object]) -> None:
    """Run it in time that jumps."""
    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))


def play_open(dues: Sequence[float], took: Callable[[int], float], **options: object) -> Played:
    return play([call(index, due) for index, due in enumerate(dues)], Waiter(took), **options)


def play(
    calls: Sequence[Call], waiter: Waiter, ends: float = math.inf, **options: object
) -> Played:
    """In an open loop."""
    kept: list[Attempt] = []
    supply = Calls(calls)

    async def main() -> Player:
        player = Player(
            sender=waiter,
            supply=supply,
            keep=lambda *ended: kept.append(Attempt(*ended)),
            began=trio.current_time(),
            **options,  # type: ignore[arg-type]
        )
        await player.play_open(ends)
        return player

    player = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return Played(player, kept, waiter)


def play_closed(
    number: int,
    pacing: Closed,
    took: Callable[[int], float],
    ends: float = math.inf,
    may_send: Callable[[Call], bool | None] = lambda _call: True,
) -> Played:
    waiter = Waiter(took)
    kept: list[Attempt] = []
    calls = Calls(call(index) for index in range(number))

    async def main() -> Player:
        player = Player(
            sender=waiter,
            supply=calls,
            keep=lambda *ended: kept.append(Attempt(*ended)),
            began=trio.current_time(),
            may_send=may_send,
        )
        await player.play_closed(pacing, ends)
        return player

    player = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return Played(player, kept, waiter)


def test_open_calls_leave_when_they_are_due_however_slow_the_answers() -> None:
    """An hour's schedule is kept to the microsecond while every answer takes ten minutes."""
    dues = [0.0, 0.5, 0.5, 7.25, 3600.0]
    played = play_open(dues, lambda _: 600.0)

    assert played.sent() == pytest.approx(dues, abs=1e-6)
    assert len(played.kept) == 5


def play_trickle(coming: Sequence[tuple[float, Call]], pacing: Closed | None = None) -> Played:
    waiter = Waiter(lambda _: 1.0)
    kept: list[Attempt] = []
    supply = Trickle(coming)

    async def main() -> Player:
        player = Player(
            sender=waiter,
            supply=supply,
            keep=lambda *ended: kept.append(Attempt(*ended)),
            began=trio.current_time(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supply.run)
            await (player.play_closed(pacing) if pacing else player.play_open())
        return player

    player = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return Played(player, kept, waiter)


def test_lateness_of_the_plan_is_not_passed_on() -> None:
    """A call that comes too late for its due time leaves at once, and the next one in time again."""
    played = play_trickle([(0.0, call(0, 0.0)), (5.0, call(1, 1.0)), (5.0, call(2, 9.0))])

    assert played.sent() == pytest.approx([0.0, 5.0, 9.0], abs=1e-6)


def test_a_closed_loop_goes_on_when_its_supply_does() -> None:
    """Starved of calls it waits for the next, and ends when there will be none."""
    coming = [(0.0, call(0)), (3.0, call(1)), (3.0, call(2)), (9.0, call(3))]
    played = play_trickle(coming, Fixed(limit=2))

    assert played.sent() == pytest.approx([0.0, 3.0, 3.0, 9.0], abs=1e-6)
    assert played.player.in_flight == 0


def test_what_is_overdue_is_sent_in_bursts_between_which_answers_are_read() -> None:
    """A thousand calls due at once do not keep the loop from its other tasks."""
    played = play_open([0.0] * 1000, lambda _: 1.0)

    assert len(played.kept) == 1000
    assert played.sent() == pytest.approx([0.0] * 1000, abs=1e-6)


def test_the_valve_holds_calls_and_says_how_long() -> None:
    """With two in flight at most, the third waits for the first to end; due times stay."""
    played = play_open([0.0, 0.0, 0.0, 10.0], lambda _: 2.0, max_in_flight=2)
    by_index = sorted(played.kept, key=lambda attempt: attempt.index)

    assert played.sent() == pytest.approx([0.0, 0.0, 2.0, 10.0])
    assert [attempt.held for attempt in by_index] == pytest.approx([0.0, 0.0, 2.0, 0.0])
    assert [attempt.due for attempt in by_index] == [0.0, 0.0, 0.0, 10.0]
    assert played.player.most_in_flight == 2


@pytest.mark.parametrize(
    ("dues", "most", "sent"),
    [
        ([0.0, 0.1, 0.2, 0.3, 10.0], 1, [0.0, 1.0, 2.0, 3.0, 10.0]),
        ([0.0, 0.0, 0.0, 0.0, 0.5, 1.0], 2, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]),
        ([0.0, 0.9, 1.9, 2.95], 1, [0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_calls_behind_one_that_the_valve_holds_are_held_too(
    dues: list[float], most: int, sent: list[float]
) -> None:
    """All of their lateness is the valve's: this client was never late."""
    played = play_open(dues, lambda _: 1.0, max_in_flight=most)
    by_index = sorted(played.kept, key=lambda attempt: attempt.index)

    assert played.sent() == pytest.approx(sent)
    late = [at - due for at, due in zip(sent, dues, strict=True)]
    assert [attempt.held for attempt in by_index] == pytest.approx(late)


def test_what_the_client_is_late_itself_is_not_held() -> None:
    """It wakes half a second late; then the valve is full until the first call ends."""

    async def oversleep(at: float) -> None:
        await trio.sleep_until(at + 0.5)

    played = play_open([1.0, 2.0, 2.2], lambda _: 2.0, max_in_flight=1, sleep_until=oversleep)
    by_index = sorted(played.kept, key=lambda attempt: attempt.index)

    assert played.sent() == pytest.approx([1.5, 3.5, 5.5])
    assert [attempt.held for attempt in by_index] == pytest.approx([0.0, 1.0, 3.0])


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
    players: list[Player] = []

    async def main() -> None:
        player = Player(
            sender=waiter,
            supply=Calls(call(i, float(i)) for i in range(10)),
            keep=lambda *ended: kept.append(Attempt(*ended)),
            began=trio.current_time(),
        )
        players.append(player)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(player.play_open)
            await trio.sleep(4.5)
            player.cancel()

    virtually(main)
    outcomes = [attempt.reply.failure and attempt.reply.failure[0] for attempt in kept]

    assert players[0].issued == len(kept) == 5
    assert outcomes == [None, *[Outcome.CANCELLED] * 4]
    assert all(attempt.reply.sent is not None for attempt in kept)
    assert players[0].in_flight == 0


def test_cancelling_a_closed_loop_sends_nothing_more() -> None:
    """The ends that a cancellation brings about do not start the next calls."""
    waiter = Waiter(lambda _: 100.0)
    kept: list[Attempt] = []

    async def main() -> None:
        player = Player(
            sender=waiter,
            supply=Calls(call(i) for i in range(10)),
            keep=lambda *ended: kept.append(Attempt(*ended)),
            began=trio.current_time(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(player.play_closed, Fixed(limit=3))
            await trio.sleep(4.5)
            player.cancel()

    virtually(main)

    assert sorted(attempt.index for attempt in kept) == [0, 1, 2]


@pytest.mark.parametrize("closed", [True, False])
def test_a_senders_defect_is_a_failed_attempt(*, closed: bool) -> None:
    """An exception in the sender costs one sample, not the run."""

    class Broken(Waiter):
        def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
            if call.index == 1:
                raise ZeroDivisionError("oops")
            super().launch(call, reply, ended)

    kept: list[Attempt] = []

    async def main() -> None:
        player = Player(
            sender=Broken(lambda _: 1.0),
            supply=Calls(call(index, 0.0) for index in range(3)),
            keep=lambda *ended: kept.append(Attempt(*ended)),
            began=trio.current_time(),
        )
        await (player.play_closed(Fixed(limit=1)) if closed else player.play_open())

    trio.run(main)
    failures = {attempt.index: attempt.reply.failure for attempt in kept}

    assert failures[0] is failures[2] is None
    assert failures[1] == (Outcome.PROTOCOL_ERROR, "sender: ZeroDivisionError: oops")


def test_a_refusal_ends_the_sending() -> None:
    """When the budget says no, the rest is never sent and the answers still come."""
    played = play_open([0.0, 1.0, 2.0, 3.0], lambda _: 50.0, may_send=lambda one: one.index < 2)

    assert played.player.refused
    assert played.player.issued == len(played.kept) == 2


def test_a_call_that_is_kept_back_goes_when_it_may_though_nothing_ends() -> None:
    """What keeps it back is known elsewhere: it is asked for again, in closed loops and in open ones."""

    def until(at: float) -> Callable[[Call], bool | None]:
        began: list[float] = []

        def may_send(call: Call) -> bool | None:
            began.append(trio.current_time())
            return None if call.index == 2 and began[-1] - began[0] < at else True

        return may_send

    closed = play_closed(4, Fixed(limit=2), lambda _: 1.0, may_send=until(1.5))
    opened = play_open([0.0, 0.5, 1.0, 1.2, 3.0], lambda _: 0.1, may_send=until(1.5))

    assert closed.sent() == pytest.approx([0.0, 0.0, 1.5, 1.5], abs=ASK_AGAIN_S)
    assert opened.sent() == pytest.approx([0.0, 0.5, 1.5, 1.5, 3.0], abs=ASK_AGAIN_S)
    held = {attempt.index: attempt.held for attempt in opened.kept}
    assert [held[index] for index in range(5)] == pytest.approx(
        [0.0, 0.0, 0.5, 0.3, 0.0], abs=ASK_AGAIN_S
    )
    assert (closed.player.postponed, opened.player.postponed) == (1, 1)
    assert not closed.player.refused
