"""The search for the most that still keeps to an objective finds it, in few points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.benchmark.saturation import CLOSE, Found, search
from replay.benchmark.sweep import Sweep


def found(limit: float, first: float = 1, *, rate: bool = False) -> tuple[Found, list[float]]:
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

    assert result == Found(scenario="D(1,2)", best=None, worst=1.0)
    assert tried == [8, 4, 2, 1]


def test_a_server_without_a_limit_ends_the_search() -> None:
    result, tried = found(1e9)

    assert (result.best, result.worst) == (4096, None)
    assert tried == [2.0**k for k in range(13)]
