"""The search for the most that still keeps to an objective finds it, in few points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.benchmark.sweep import CLOSE, Point, Saturation, Sweep, kept, search


def found(limit: float, first: float = 1, *, rate: bool = False) -> tuple[Saturation, list[float]]:
    """What is found where all up to `limit` holds, and the values that were tried."""
    tried: list[float] = []
    sweep = (
        Sweep(task="text-to-text", scenarios=("D(1,2)",), poisson=(first,))
        if rate
        else Sweep(task="text-to-text", scenarios=("D(1,2)",), concurrencies=(int(first),))
    )
    steps = search(sweep, "D(1,2)", lambda: tried[-1] <= limit)
    try:
        while True:
            tried.append(next(steps).value)
    except StopIteration as stop:
        return stop.value, tried


@given(st.integers(1, 4000), st.sampled_from([1, 8, 64, 1000]))
def test_the_most_is_found_within_a_tenth(limit: int, first: int) -> None:
    """For every limit, wherever one begins; in at most a few points more than bisection needs."""
    result, tried = found(limit, first)

    assert result.best is not None
    assert result.best <= limit
    assert result.worst is None or limit < result.worst
    assert result.worst is None or result.worst <= max(result.best * CLOSE, result.best + 1)
    assert len(tried) == len(set(tried)) <= 25


def test_rates_are_no_whole_numbers() -> None:
    result, _ = found(3.3, 1.0, rate=True)

    assert result.best == pytest.approx(3.3, rel=0.1)
    assert result.best <= 3.3


def test_where_nothing_holds_there_is_no_best() -> None:
    result, tried = found(0.5, 8)

    assert result == Saturation(scenario="D(1,2)", best=None, worst=1.0)
    assert tried == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("requests", "unit", "concurrency", "rate", "good", "held"),
    [
        (64, "s", 16, None, 1.0, True),
        (63, "s", 16, None, 1.0, None),
        (63, "s", 16, None, 0.98, False),
        (80, "s", None, 40.0, 1.0, True),
        (79, "s", None, 40.0, 1.0, None),
        (79, "ms", None, 40.0, 1.0, None),
        (80, "ms", None, 40.0, 1.0, True),
    ],
)
def test_a_burst_is_no_load(
    requests: int,
    unit: str,
    concurrency: int | None,
    rate: float | None,
    good: float,
    held: bool | None,
) -> None:
    """A point holds a load that it has four times over; half a second at 40/s are 20 in flight."""
    result = {
        "_time_unit": unit,
        "aggregated_metrics": {
            "num_requests": requests, "goodput": good,
            "stats": {"e2e_latency": {"mean": 500.0 if unit == "ms" else 0.5}},
        },
    }  # fmt: skip
    point = Point(
        scenario="D(1,2)", axis="num_concurrency", value=1, concurrency=concurrency, rate=rate,
        batch_size=1, repeat=1, seed=0,
    )  # fmt: skip

    assert kept(result, point, 0.99) is held


def test_what_cannot_be_judged_ends_the_search() -> None:
    """And is said, with what to do."""
    answers = iter([True, True, None])
    sweep = Sweep(task="text-to-text", scenarios=("D(1,2)",), concurrencies=(8,))
    steps = search(sweep, "D(1,2)", lambda: next(answers))
    tried: list[float] = []
    with pytest.raises(StopIteration) as stop:
        while True:
            tried.append(next(steps).value)
    result = stop.value.value

    assert tried == [8, 16, 32]
    assert (result.best, result.worst, result.unjudged) == (16, None, 32)
    assert "num_concurrency 16 keeps x; 32 cannot be judged" in result.words("num_concurrency", "x")
    assert "raise --max-requests-per-run" in result.words("num_concurrency", "x")


def test_a_server_without_a_limit_ends_the_search() -> None:
    result, tried = found(1e9)

    assert (result.best, result.worst) == (4096, None)
    assert tried == [2.0**k for k in range(13)]
