"""The running count: when to stop, what may still be spent, and the line that is shown."""

from typing import Any

import pytest

from capture.errors import InputError
from capture.exchange import Outcome
from replay.job import Live
from replay.player import Player
from replay.progress import clock, line, time_left
from replay.sample import Sample
from replay.tally import HOPELESS, Budget, Tally, actual_cost
from replay.warmup import Warmup, parse_warmup

PRICED = "openai/gpt-oss-20b"


def sample(index: int = 0, **fields: Any) -> Sample:
    known: dict[str, Any] = {
        "id": "x",
        "index": index,
        "endpoint": "chat",
        "model": PRICED,
        "stream": True,
        "due": 1.0,
        "sent": 1.0,
        "first_token": 1.1,
        "end": 2.0,
        "prompt_tokens": 1_000_000,
        "output_tokens": 1_000_000,
    }
    return Sample(**{**known, **fields})


def tally_of(samples: list[Sample]) -> Tally:
    tally = Tally()
    for one in samples:
        tally.add(one)
    return tally


@pytest.mark.parametrize(
    ("fields", "hopeless"),
    [
        ({"outcome": Outcome.CONNECT_ERROR}, True),
        ({"outcome": Outcome.HTTP_ERROR, "status": 401}, True),
        ({"outcome": Outcome.HTTP_ERROR, "status": 404}, True),
        ({"outcome": Outcome.HTTP_ERROR, "status": 429}, False),
        ({"outcome": Outcome.HTTP_ERROR, "status": 503}, False),
        ({"outcome": Outcome.TIMEOUT}, False),
        ({}, False),
    ],
)
def test_what_will_not_get_better(fields: dict[str, Any], hopeless: bool) -> None:
    """Nobody there, a wrong key and an unknown model stay; overload and rate limits pass."""
    assert tally_of([sample(**fields)] * HOPELESS).hopeless is hopeless
    assert not tally_of([sample(**fields)] * (HOPELESS - 1)).hopeless
    assert not tally_of([sample(**fields)] * HOPELESS + [sample()]).hopeless


def test_latencies_so_far_are_within_two_per_cent() -> None:
    """The shown quantiles come from buckets."""
    tally = tally_of([sample(first_token=1.0 + n / 1000) for n in range(1, 1001)])

    assert tally.ttft(0.5) == pytest.approx(0.5, rel=0.02)
    assert tally.ttft(0.99) == pytest.approx(0.99, rel=0.02)
    assert Tally().ttft(0.5) is None


def test_the_budget_holds_back_what_is_in_flight() -> None:
    """A reservation is replaced by the actual cost when its attempt has ended."""
    budget = Budget(limit=1.0)

    assert budget.allows(0, 0.4)
    assert budget.allows(1, 0.4)
    assert not budget.allows(2, 0.4)
    budget.settle(sample(0))
    assert (budget.spent, budget.reserved) == pytest.approx((0.25, 0.4))
    assert not budget.allows(2, 0.4)
    assert budget.allows(2, 0.3)


def test_what_an_attempt_cost() -> None:
    """By the server's counts; as expected where it did not count; an HTTP error is free."""
    assert actual_cost(sample(), 9.0) == pytest.approx(0.05 + 0.20)
    assert actual_cost(sample(prompt_tokens=None, outcome=Outcome.CUT), 9.0) == 9.0
    assert actual_cost(sample(outcome=Outcome.HTTP_ERROR, status=503), 9.0) == 0.0


def live(issued: int, expected: int | None, duration: float | None = None) -> Live:
    class Nobody:
        async def send(self, call: object, reply: object) -> None: ...

    player = Player(sender=Nobody(), keep=lambda _: None)
    player.issued = issued
    tally = tally_of([sample(), sample(outcome=Outcome.TIMEOUT)])
    return Live(player=player, tally=tally, expected=lambda: expected, duration_s=duration)


def test_the_line_says_how_far_it_is() -> None:
    """Time, sent, rate, in flight, done, latency, failures with their kind, and what is left."""
    shown = line(live(20, 80), 10.0)

    assert shown == (
        "0:10  20 of 80 sent  2.0/s  0 in flight  1 done  TTFT p50 101 ms p99 101 ms  "
        "1 failed (timeout)  0:30 left"
    )


def test_the_time_left_is_only_shown_where_it_is_known() -> None:
    """By the duration, by the share that was sent, or not at all."""
    assert time_left(live(20, None), 10.0) is None
    assert time_left(live(20, 80), 10.0) == pytest.approx(30.0)
    assert time_left(live(20, 80, duration=25.0), 10.0) == 15.0
    assert clock(3725) == "62:05"


@pytest.mark.parametrize(
    ("text", "warmup", "of_1000_s", "of_160_s"),
    [
        ("auto", Warmup(), 60.0, 10.0),
        ("none", Warmup("seconds", 0.0), 0.0, 0.0),
        ("30", Warmup("seconds", 30.0), 30.0, 30.0),
        ("2.5s", Warmup("seconds", 2.5), 2.5, 2.5),
        ("5%", Warmup("share", 0.05), 50.0, 8.0),
    ],
)
def test_the_warm_up_in_seconds(
    text: str, warmup: Warmup, of_1000_s: float, of_160_s: float
) -> None:
    """Auto is 60 s and at most a sixteenth of the run."""
    assert parse_warmup(text) == warmup
    assert warmup.seconds(1000) == pytest.approx(of_1000_s)
    assert warmup.seconds(160) == pytest.approx(of_160_s)


@pytest.mark.parametrize("text", ["", "-5", "1e3", "100%", "%", "5 %", "soon"])
def test_bad_warm_ups_are_one_line(text: str) -> None:
    """What it should look like is in the message."""
    with pytest.raises(InputError, match="--warmup"):
        parse_warmup(text)
