"""Politeness in virtual time: what an answer asks, when a refused call goes again, and who waits with it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture.exchange import Outcome
from tbench.replay.pacing import Fixed
from tbench.replay.player import Player
from tbench.replay.sender import Call, Ended, Origin, Reply
from tbench.replay.waiting import MOST_ATTEMPTS, Politeness, RateLimit, rate_limits, wait_asked
from tests.test_player import Attempt, Calls

HERE = Origin("http", "h", 80)
DATE = ("date", "Sun, 06 Nov 1994 08:49:37 GMT")


def reply(status: int = 429, *headers: tuple[str, str]) -> Reply:
    return Reply(
        status=status, headers=[(name.encode(), value.encode()) for name, value in headers]
    )


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (reply(429, ("Retry-After", "2")), 2.0),
        (reply(503, ("retry-after", "0.5")), 0.5),
        (reply(429, ("retry-after-ms", "250"), ("retry-after", "1")), 0.25),
        (reply(503, DATE, ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")), 30.0),
        (reply(503, DATE, ("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT")), 0.0),
        (reply(429, ("retry-after", "soon")), 1.0),
        (reply(429, ("retry-after", "-5"), ("x-ratelimit-reset", "0.4")), 0.4),
        (reply(503, ("retry-after", "soon")), None),
        (reply(429, ("retry-after", "1000000000")), None),
        (reply(429), 1.0),
        (reply(429, ("x-ratelimit-reset", "0.4")), 0.4),
        (reply(429, ("x-ratelimit-reset", "1741305600000")), 1.0),
        (
            reply(
                429,
                ("x-ratelimit-remaining-requests", "3"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "20ms"),
            ),
            0.02,
        ),
        (reply(503), None),
        (reply(500, ("retry-after", "1")), None),
        (reply(200, ("retry-after", "1")), None),
    ],
)
def test_what_an_answer_asks(answer: Reply, wait: float | None) -> None:
    """RFC 9110, 10.2.3, and what Together, OpenAI and Azure add; a date is taken against the answer's own."""
    assert wait_asked(answer) == (None if wait is None else pytest.approx(wait))


def test_limits_are_read_in_each_makers_words() -> None:
    """OpenAI's, Together's and Anthropic's header names."""
    lines = {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "12",
        "X-TokenLimit-Remaining": "5000",
        "x-ratelimit-limit-dynamic": "20",
        "anthropic-ratelimit-input-tokens-limit": "80000",
        "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:00:00Z",
        "x-ratelimit-remaining": "a lot",
        "x-request-id": "7",
    }
    assert rate_limits([(k.encode(), v.encode()) for k, v in lines.items()]) == [
        RateLimit("requests", limit=600, remaining=12),
        RateLimit("tokens", remaining=5000),
        RateLimit("dynamic requests", limit=20),
        RateLimit("input-tokens", limit=80000),
    ]


@dataclass
class Limited:
    """A service with a token bucket for each arm, which answers in `took` seconds."""

    per_s: float
    burst: int
    took: float = 0.05
    asks: Callable[[float], float] = lambda wait: max(1.0, round(wait))
    seen: list[tuple[float, int, int, int]] = field(default_factory=list)
    left: dict[int, tuple[float, float]] = field(default_factory=dict)

    def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
        now = trio.current_time()
        if reply.sent is None:
            reply.sent = now
        tokens, at = self.left.get(call.arm, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - at) * self.per_s)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self.per_s
        self.left[call.arm] = (tokens if wait else tokens - 1, now)
        self.seen.append((now, call.arm, call.index, 429 if wait else 200))
        trio.lowlevel.spawn_system_task(self._answer, reply, wait, ended)

    async def _answer(self, reply: Reply, wait: float, ended: Ended) -> None:
        await trio.sleep(0.001 if wait else self.took)
        reply.status = 429 if wait else 200
        reply.headers = [(b"retry-after", b"%.3f" % self.asks(wait))] if wait else []
        reply.end = trio.current_time()
        ended()

    def abandon(self) -> None:
        """Nothing takes long."""


def play(
    calls: list[Call],
    service: Limited,
    *,
    concurrency: int = 0,
    timeout: float = 600.0,
    stops: float = math.inf,
) -> tuple[Player, list[Attempt]]:
    """In an open loop, or in a closed one of so many; cancelled after `stops` seconds."""
    attempts: list[Attempt] = []

    async def main() -> Player:
        player = Player(
            sender=service,
            supply=Calls(calls),
            keep=lambda *ended: attempts.append(Attempt(*ended)),
            politeness=Politeness(timeout),
            began=trio.current_time(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(player.send_postponed)
            with trio.move_on_after(stops) as scope:
                if concurrency:
                    await player.play_closed(Fixed(limit=concurrency, spawn_rate=math.inf))
                else:
                    await player.play_open()
            if scope.cancelled_caught:
                player.cancel()
            nursery.cancel_scope.cancel()
        return player

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)), attempts


def calls(dues: list[float | None], arms: int = 1) -> list[Call]:
    return [
        Call(index=index, due=due, origin=HERE, head=b"", body=b"", arm=arm)
        for index, due in enumerate(dues)
        for arm in range(arms)
    ]


@settings(max_examples=60)
@given(
    gaps=st.lists(st.floats(0, 0.5), min_size=1, max_size=60),
    per_s=st.floats(1, 20),
    burst=st.integers(1, 20),
    concurrency=st.sampled_from([0, 1, 7, 60]),
    arms=st.sampled_from([1, 2]),
)
def test_a_rate_limit_loses_nothing_and_every_refusal_is_kept(
    gaps: list[float], per_s: float, burst: int, concurrency: int, arms: int
) -> None:
    """Each call is answered in the end; the refusals that it tells of are those that the service gave."""
    dues: list[float | None] = [sum(gaps[:at]) for at in range(len(gaps))]
    service = Limited(per_s, burst)
    _, attempts = play(
        calls([None] * len(dues) if concurrency else dues, arms), service, concurrency=concurrency
    )

    assert Counter((a.index, a.call.arm) for a in attempts) == Counter(
        (index, arm) for index in range(len(dues)) for arm in range(arms)
    )
    assert {attempt.reply.status for attempt in attempts} == {200}
    refused = Counter((index, arm) for _, arm, index, status in service.seen if status == 429)
    assert {
        (a.index, a.call.arm): len(a.reply.refusals) for a in attempts if a.reply.refusals
    } == refused
    for attempt in attempts:
        times = [
            at for at, arm, i, _ in service.seen if (i, arm) == (attempt.index, attempt.call.arm)
        ]
        assert attempt.reply.sent == times[0], "latency counts from the first attempt"
        told = [refusal.waited for refusal in attempt.reply.refusals]
        waits = [after - before - 0.001 for before, after in pairwise(times)]
        assert told == pytest.approx(waits)
        assert all(wait >= 1 - 1e-9 for wait in told), "as was asked"


def test_a_refusal_holds_back_what_comes_after_it() -> None:
    """Within the second that the service asked for nothing else is sent to it, and what came is sent then."""
    service = Limited(per_s=1, burst=2)
    _, attempts = play(calls([0.0, 0.0, 0.0, 0.5, 0.6]), service)
    began = service.seen[0][0]

    assert [at - began for at, *_ in service.seen[:3]] == [0, 0, 0]
    assert all(at - began >= 1 for at, *_ in service.seen[3:])
    held = {attempt.index: attempt.held for attempt in attempts}
    assert held[0] == held[1] == held[2] == 0
    assert held[3] >= 0.5
    assert held[4] >= 0.4


def test_a_refusing_target_holds_nothing_back_from_another() -> None:
    """In a duet the arms share a clock, and no limit."""

    class Free(Limited):
        def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
            if call.arm:
                self.left[1] = (1.0, trio.current_time())
            super().launch(call, reply, ended)

    free = Free(per_s=0.2, burst=1)
    _, attempts = play(calls([0.1 * at for at in range(5)], arms=2), free)

    began = free.seen[0][0]
    assert [round(at - began, 6) for at, arm, *_ in free.seen if arm] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert all(attempt.held == 0 for attempt in attempts if attempt.call.arm)


def test_what_is_refused_for_ever_ends_as_it_was_refused() -> None:
    """After so many attempts, or where the wait passes the call's time; the first tells of all before."""
    service = Limited(per_s=1e-9, burst=1, asks=lambda _: 1.0)
    _, attempts = play(calls([0.0, 0.0]), service)
    assert [(a.reply.status, len(a.reply.refusals)) for a in attempts] == [
        (200, 0),
        (429, MOST_ATTEMPTS - 1),
    ]

    slow = Limited(per_s=1e-9, burst=1, asks=lambda _: 100.0)
    _, attempts = play(calls([0.0, 0.0]), slow, timeout=150.0)
    assert attempts[-1].reply.status == 429
    assert [(at - slow.seen[0][0]) for at, *_ in slow.seen] == pytest.approx([0, 0, 100.001])


def test_what_waits_when_all_is_stopped_is_cancelled() -> None:
    """And told so at once: refused calls and those behind them."""
    service = Limited(per_s=1e-3, burst=1, asks=lambda _: 50.0)
    player, attempts = play(calls([0.0, 0.0, 1.0]), service, stops=2.0)

    assert player.in_flight == 0
    assert sorted((a.index, a.reply.failure and a.reply.failure[0]) for a in attempts[1:]) == [
        (1, Outcome.CANCELLED),
        (2, Outcome.CANCELLED),
    ]


def test_a_limit_is_used_well() -> None:
    """500 at once at a limit of 10 a second: few refusals each, and over 60 % of what may pass does."""
    service = Limited(per_s=10, burst=10)
    _, attempts = play(calls([None] * 500), service, concurrency=500)
    took = service.seen[-1][0] - service.seen[0][0]

    assert took < 490 / 10 / 0.6
    assert max(len(attempt.reply.refusals) for attempt in attempts) <= 6
