"""Each row of METRICS on samples whose numbers are known, and what becomes of failures."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.analysis.arms import Arm
from tbench.analysis.metrics import METRICS, composite, values
from tbench.capture.exchange import Outcome
from tbench.replay import columns as blocks
from tbench.replay import metrics
from tbench.replay.runfile import Run, recount
from tbench.replay.sample import Sample
from tbench.replay.table import Table, gather_gaps

DEFAULT: dict[str, Any] = {
    "endpoint": "chat",
    "model": "m",
    "stream": True,
    "due": 10.0,
    "sent": 10.5,
    "first_byte": 10.9,
    "first_token": 11.0,
    "first_answer": 12.0,
    "last_token": 15.0,
    "end": 15.1,
    "prompt_tokens": 100,
    "output_tokens": 41,
    "cached_tokens": 64,
    "reasoning_tokens": 8,
    "cache_creation_tokens": 16,
    "token_times": (11.0, 11.5, 12.0, 15.0),
}


def sample(index: int = 0, **changes: Any) -> Sample:
    return Sample(id=f"r{index}", index=index, **{**DEFAULT, **changes})


def arm_of(*samples: Sample) -> Arm:
    found = dict(Table(lambda: [blocks.pack(blocks.from_samples(samples))]))
    found["warmup"] = np.array([one.warmup for one in samples])
    gaps = gather_gaps([blocks.pack_tokens(samples)], len(samples))
    return Arm(
        kind="run",
        name="a",
        run=Run(Path("a.run"), {}, found, recount(found), complete=True),
        source="t",
        model="m",
        target=None,
        pacing="as recorded",
        as_recorded=True,
        token_gaps=lambda: gaps,
    )


def value(name: str, one: Sample) -> float:
    (found,) = values(arm_of(one), METRICS[name])
    return float(found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ttft", 1.0),
        ("ttft_sent", 0.5),
        ("ttft_answer", 2.0),
        ("e2e", 5.0),
        ("e2e_per_token", 5 / 41),
        ("tpot", 0.1),
        ("itl", 4 / 3),
        ("itl_p95", 3.0),
        ("output_tokens_per_s", 41 / 4.5),
        ("prompt_tokens", 100),
        ("output_tokens", 41),
        ("cached_tokens", 64),
        ("reasoning_tokens", 8),
        ("cache_creation_tokens", 16),
        ("lag", 0.5),
    ],
)
def test_each_metric_of_a_known_sample(name: str, expected: float) -> None:
    """Every row of the table, worked out by hand."""
    assert value(name, sample()) == pytest.approx(expected, abs=1e-6)


def test_the_table_above_is_complete() -> None:
    """A new metric must be added to the hand-made values, and says what it means."""
    tested = {row[0] for row in test_each_metric_of_a_known_sample.pytestmark[0].args[1]}

    assert tested == set(METRICS)
    assert all(metric.definition and metric.name == name for name, metric in METRICS.items())


def test_a_closed_loop_counts_from_sent() -> None:
    """Without a due time, latency begins when the request was sent, and there is no lag."""
    closed = sample(due=None)

    assert value("ttft", closed) == pytest.approx(0.5)
    assert value("e2e", closed) == pytest.approx(4.5)
    assert math.isnan(value("lag", closed))


def test_without_a_stream_only_the_end_counts() -> None:
    """A whole answer has an end-to-end time and no token times."""
    whole = sample(
        stream=False, first_token=None, first_answer=None, last_token=None, token_times=()
    )

    assert value("e2e", whole) == pytest.approx(5.1)
    assert all(math.isnan(value(name, whole)) for name in ("ttft", "tpot", "itl", "itl_p95"))


def test_one_token_has_no_time_per_token() -> None:
    """There is no gap to divide by, and none is made up from chunks when usage is missing."""
    assert math.isnan(value("tpot", sample(output_tokens=1)))
    assert math.isnan(value("tpot", sample(output_tokens=None)))
    assert value("e2e_per_token", sample(output_tokens=1)) == pytest.approx(5.0)
    assert math.isnan(value("e2e_per_token", sample(output_tokens=None)))
    assert math.isnan(value("e2e_per_token", sample(output_tokens=0)))


def test_a_failure_has_no_latency() -> None:
    """It fails fast or slow; neither is how fast the server answers."""
    failed = sample(outcome=Outcome.HTTP_ERROR)

    assert all(math.isnan(value(name, failed)) for name in METRICS)


def test_a_timeout_is_slower_than_everything() -> None:
    """Its latencies are +inf, its counts absent."""
    late = sample(outcome=Outcome.TIMEOUT)

    infinite = {name for name in METRICS if value(name, late) == math.inf}
    assert infinite == {
        "ttft",
        "ttft_sent",
        "ttft_answer",
        "e2e",
        "e2e_per_token",
        "tpot",
        "itl",
        "itl_p95",
    }


def test_a_timeout_without_a_stream_has_no_first_token() -> None:
    """What does not apply stays absent."""
    late = sample(outcome=Outcome.TIMEOUT, stream=False)

    assert math.isnan(value("ttft", late))
    assert value("e2e", late) == math.inf


def test_the_composite_makes_every_failure_infinite() -> None:
    """Failing fast must not look fast; what somebody stopped is left out."""
    arm = arm_of(
        sample(0),
        sample(1, outcome=Outcome.CUT),
        sample(2, outcome=Outcome.CANCELLED),
        sample(3, outcome=Outcome.TIMEOUT),
    )

    ok, cut, cancelled, timeout = composite(arm, METRICS["ttft"])
    assert ok == pytest.approx(1.0)
    assert cut == timeout == math.inf
    assert math.isnan(cancelled)


def test_gaps_belong_to_their_own_request() -> None:
    """The p95 of gaps is taken request by request, also where one has none."""
    times = tuple(11 + 0.1 * k for k in range(21))
    arm = arm_of(
        sample(0, token_times=(11.0, 15.0)), sample(1, token_times=()), sample(2, token_times=times)
    )

    long, none, steady = values(arm, METRICS["itl_p95"])
    assert long == pytest.approx(4)
    assert math.isnan(none)
    assert steady == pytest.approx(0.1)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 20), st.randoms())
def test_the_bounds_of_a_loss_hold_the_true_quantile(
    values: list[float], lost: int, source: random.Random
) -> None:
    """Whatever the latencies of the requests that were lost: some of known ones are taken away."""
    shuffled = source.sample(values, len(values))
    left = shuffled[min(lost, len(values) - 1) :]
    bounds = metrics.with_lost(np.sort(left), len(values) - len(left))

    for name, level in metrics.NAMED.items():
        low, high = bounds[name]
        assert low <= metrics.quantiles(np.array(values), [level])[0]
        assert high is None or high >= metrics.quantiles(np.array(values), [level])[0]
