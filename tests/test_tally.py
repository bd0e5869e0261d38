"""The running count, what attempts cost, and the line that is shown."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tbench.benchmark.genai_bench import Trim, aggregate
from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome
from tbench.replay.columns import from_samples, pack
from tbench.replay.cost import Price
from tbench.replay.metrics import Columns
from tbench.replay.pacing import Warmup, parse_warmup
from tbench.replay.progress import clock, line, time_left
from tbench.replay.run_recorder import Tally, actual_cost
from tbench.replay.runner import Progress
from tbench.replay.sample import Sample
from tbench.replay.table import Table

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
    tally.add(samples)
    return tally


def columns_of(samples: list[Sample]) -> Columns:
    return Table(lambda: [pack(from_samples(samples))])


def test_latencies_so_far_are_within_two_per_cent() -> None:
    """The shown quantiles come from buckets."""
    tally = tally_of([sample(first_token=1.0 + n / 1000) for n in range(1, 1001)])

    assert tally.ttft(0.5) == pytest.approx(0.5, rel=0.02)
    assert tally.ttft(0.99) == pytest.approx(0.99, rel=0.02)
    assert Tally().ttft(0.5) is None


def test_the_shown_time_to_a_first_token_is_that_of_streams() -> None:
    """Whole answers and embeddings have none: they move no quantile, and alone they show none."""
    others = [
        sample(n, stream=False, first_token=None, endpoint=endpoint, end=1.0 + took)
        for n in range(20)
        for endpoint, took in (("embeddings", 0.002), ("chat", 9.0))
    ]
    tally = tally_of([*others, sample(first_token=1.1)])

    assert tally.ttft(0.5) == tally.ttft(0.99) == pytest.approx(0.1, rel=0.01)
    pool: Any = Sending(40)
    alone = Progress(pool=pool, tallies=[tally_of(others)], expected=lambda: None, duration_s=None)
    assert "TTFT" not in line(alone, 10.0)


def test_both_sides_are_as_in_the_results_of_a_benchmark() -> None:
    """Means, extremes and counts are equal to those of the aggregate over the same samples' columns."""
    random = np.random.default_rng(3)
    samples = [
        sample(
            n, id=str(n), due=None, sent=n, first_token=n + 0.1 + a, end=n + 0.1 + a + b,
            prompt_tokens=int(100 * (1 + a)), output_tokens=n % 5,
        )
        for n, (a, b) in enumerate(random.exponential(0.3, (40, 2)).tolist())
    ]  # fmt: skip
    samples += [
        sample(41, due=None, outcome=Outcome.TIMEOUT),
        sample(42, due=None, stream=False, first_token=None, endpoint="embeddings", output_tokens=None),
    ]  # fmt: skip
    tally = tally_of(samples)
    truth = aggregate(columns_of(samples), Trim())["stats"]
    chat = aggregate(columns_of(samples[:-1]), Trim())["stats"]

    for found, wanted in (
        (tally.input.latency, truth["ttft"]),
        (tally.input.speed, truth["input_throughput"]),
        (tally.output.latency, chat["output_latency"]),
        (tally.output.speed, chat["output_throughput"]),
    ):
        assert found.mean == pytest.approx(wanted["mean"])
        assert (found.least, found.most) == pytest.approx((wanted["min"], wanted["max"]))
    assert tally.input.tokens == truth["num_input_tokens"]["sum"]
    assert tally.output.tokens == chat["num_output_tokens"]["sum"]


def test_what_an_attempt_cost() -> None:
    """By the count of a whole answer; the most where it was cut or not counted; an HTTP error is free."""
    prices = {sample().model or "": Price(0.05, 0.20)}
    assert actual_cost(sample(), 9.0, prices) == pytest.approx(0.05 + 0.20)
    for fields in ({"prompt_tokens": None}, {"output_tokens": None}, {"outcome": Outcome.CUT}):
        assert actual_cost(sample(**fields), 9.0, prices) == 9.0
    refused = {"outcome": Outcome.HTTP_ERROR, "status": 503}
    uncounted = dict.fromkeys(("prompt_tokens", "output_tokens"))
    assert actual_cost(sample(**refused, **uncounted), 9.0, prices) == 0.0
    assert actual_cost(sample(**refused), 9.0, prices) == pytest.approx(0.25), "it names tokens"
    assert actual_cost(sample(), 9.0, prices, tries=3) == pytest.approx(2 * 9.0 + 0.25)


class Sending:
    """A pool of which only the counters are asked for."""

    in_flight = 0
    now = 10.0

    def __init__(self, issued: int) -> None:
        self._issued = issued

    def issued(self, _arm: int) -> int:
        return self._issued


def live(issued: int, expected: int | None, duration: float | None = None) -> Progress:
    tally = tally_of([sample(), sample(outcome=Outcome.TIMEOUT)])
    pool: Any = Sending(issued)
    return Progress(pool=pool, tallies=[tally], expected=lambda: expected, duration_s=duration)


def test_the_line_says_how_far_it_is() -> None:
    """Time, sent, rate, in flight, done, latency, failures with their kind, and what is left."""
    shown = line(live(20, 80), 10.0)

    assert shown == (
        "0:10  20 of 80 sent  2.0/s  0 in flight  1 done  TTFT p50 100 ms, p99 100 ms  "
        "1 failed (timeout)  0:30 left"
    )


def test_a_number_that_is_not_settled_is_about_so_many() -> None:
    assert "20 of about 80 sent" in line(replace(live(20, 80), settled=lambda: False), 10.0)


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
