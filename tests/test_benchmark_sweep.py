"""The points of a sweep, their seeds and their files' names."""

import re
from typing import Any

import pytest

from tbench.benchmark.genai_bench import folder_name, result_name
from tbench.benchmark.sweep import (
    BATCH_SIZES,
    CONCURRENCIES,
    Sweep,
    parse_numbers,
    parse_rates,
)
from tbench.capture.errors import InputError

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
