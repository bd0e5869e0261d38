"""The points of a sweep, their seeds and files; the search for the most that keeps to an objective."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.benchmark.genai_bench import folder_name, result_name
from tbench.benchmark.sweep import (
    BATCH_SIZES,
    CLOSE,
    CONCURRENCIES,
    Point,
    Saturation,
    Sweep,
    kept,
    parse_numbers,
    parse_rates,
    search,
)
from tbench.capture.errors import InputError, InvalidRunError

LOADED = re.compile(r"^.+_.+_(?:concurrency|batch_size)_\d+_time_\d+s\.json$")
"""The names that genai-bench's loader reads."""


def sweep(task: str = "text-to-text", **fields: Any) -> Sweep:
    return Sweep(task=task, scenarios=fields.pop("scenarios", ("D(100,100)",)), **fields)


def test_chat_sweeps_the_concurrency() -> None:
    points = list(sweep(concurrencies=(1, 4), scenarios=("D(1,2)", "D(3,4)")).points())

    assert [(p.scenario, p.concurrency, p.batch_size) for p in points] == [
        ("D(1,2)", 1, 1), ("D(1,2)", 4, 1), ("D(3,4)", 1, 1), ("D(3,4)", 4, 1),
    ]  # fmt: skip


def test_embeddings_sweep_the_batch_size_at_the_first_concurrency() -> None:
    found = sweep("text-to-embeddings", batch_sizes=(1, 8), concurrencies=(2, 4))

    assert [(p.axis, p.value, p.concurrency, p.batch_size) for p in found.points()] == [
        ("batch_size", 1, 2, 1), ("batch_size", 8, 2, 8),
    ]  # fmt: skip
    assert "--iteration-type num_concurrency sweeps" in " ".join(found.idle())


def test_what_is_left_out_has_genai_benchs_defaults() -> None:
    assert sweep().values == CONCURRENCIES
    assert sweep("text-to-embeddings").values == BATCH_SIZES


def test_rates_are_open() -> None:
    (point,) = sweep(poisson=(2.5,)).points()

    assert (point.axis, point.rate, point.concurrency) == ("poisson", 2.5, None)


def test_an_option_without_meaning_is_said() -> None:
    assert list(sweep(batch_sizes=(1, 2)).idle()) == [
        "--batch-size: text-to-text sends one text a request; it is not used"
    ]
    assert not list(sweep(concurrencies=(1, 2)).idle())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"iteration": "batch_size"}, "--iteration-type batch_size"),
        ({"rates": (1.0,), "poisson": (1.0,)}, "--rate and --poisson"),
        ({"rates": (1.0,), "concurrencies": (1,)}, "drop --num-concurrency"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sweep(**fields)


def test_every_point_has_a_seed_of_its_own_and_keeps_it() -> None:
    first, second = (
        [p.seed for p in sweep(repeats=3, scenarios=("D(1,2)", "E(4)")).points()] for _ in range(2)
    )

    assert first == second
    assert len(set(first)) == len(first) == 2 * 9 * 3
    assert sweep().point("D(1,2)", 4).seed == sweep(concurrencies=(4,)).point("D(1,2)", 4).seed


def test_numbers_come_in_lists_and_again() -> None:
    assert parse_numbers("--num-concurrency", ["1,2", "4", "2"]) == (1, 2, 4)
    assert parse_rates("--rate", ["0.5, 2"]) == (0.5, 2.0)
    with pytest.raises(InputError, match="--num-concurrency 0"):
        parse_numbers("--num-concurrency", ["1,0"])
    with pytest.raises(InputError, match="--rate inf"):
        parse_rates("--rate", ["inf"])


def test_results_have_the_names_that_genai_bench_reads() -> None:
    (point,) = sweep(concurrencies=(8,), scenarios=("N(480,240)/(300,150)",)).points()
    name = result_name(point, "text-to-text", 61.4)

    assert name == "N480_240_300_150_text-to-text_num_concurrency_8_time_61s.json"
    assert LOADED.match(name)
    assert folder_name(["together", None, None, "text-to-text", "m/x"], 0).startswith(
        "together_text-to-text_m_x_19"
    )
    close = sweep(rates=(1.000_000_1, 1.000_000_2)).points()
    assert len({result_name(point, "text-to-text", 1.0) for point in close}) == 2


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


def test_a_search_by_what_is_not_known_ends() -> None:
    point = Sweep(task="text-to-text", scenarios=("D(1,2)",)).point("D(1,2)", 4)

    with pytest.raises(
        InvalidRunError, match=r"D\(1,2\) at num_concurrency 4: goodput is not known"
    ):
        kept({"aggregated_metrics": {"goodput": None}}, point, 0.99)


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
