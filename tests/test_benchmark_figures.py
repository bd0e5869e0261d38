"""The figures of a benchmark's requests and points, against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from tbench.benchmark.conduct import goodput
from tbench.benchmark.genai_bench import (
    Trim,
    aggregate,
    counted,
    error_codes,
    figures,
    individual,
    scaled,
    stats,
)
from tbench.replay.columns import NUMBERS, Column
from tests.recorded import arm_of, run_columns


def columns(*rows: dict[str, Any]) -> dict[str, Column]:
    """Samples with these fields; a streamed chat of 100 and 11 tokens in 1.2 s where nothing else is said."""
    usual = {
        "sent": 0.0, "first_token": 0.2, "last_token": 1.19, "end": 1.2, "stream": True, "status": 200,
        "prompt_tokens": 100, "output_tokens": 11, "reasoning_tokens": 3,
    }  # fmt: skip
    absent = {"f": np.nan, "i": -1, "b": False}
    found: dict[str, Column] = {}
    for name, kind in NUMBERS.items():
        blank = absent[np.dtype(kind).kind]
        found[name] = np.array([{**usual, **row}.get(name, blank) for row in rows], dtype=kind)
    for name, blank in (("outcome", "ok"), ("endpoint", "chat"), ("error", None)):
        found[name] = np.array([row.get(name, blank) for row in rows], dtype=object)
    return found


def one(**row: Any) -> dict[str, float]:
    return {name: float(values[0]) for name, values in figures(columns(row)).items()}


def test_a_streamed_answer() -> None:
    found = one()

    assert found["ttft"] == pytest.approx(0.2)
    assert found["e2e_latency"] == pytest.approx(1.2)
    assert found["output_latency"] == pytest.approx(1.0)
    assert found["tpot"] == pytest.approx(0.1), "over ten steps"
    assert found["output_inference_speed"] == pytest.approx(10)
    assert found["output_throughput"] == pytest.approx(10)
    assert found["input_throughput"] == pytest.approx(500)
    assert found["total_tokens"] == 111
    assert found["num_reasoning_tokens"] == 3


def test_one_token_has_no_pace_and_is_kept() -> None:
    found = one(output_tokens=1, last_token=0.2, end=0.2)

    assert math.isnan(found["tpot"])
    assert math.isnan(found["output_throughput"])
    assert found["num_output_tokens"] == 1
    assert aggregate(columns({"output_tokens": 1}), Trim())["num_completed_requests"] == 1


def test_an_answer_that_came_all_at_once_has_no_plausible_pace() -> None:
    found = one(end=0.2005, last_token=0.2005)

    assert math.isnan(found["tpot"])
    assert math.isnan(found["output_inference_speed"])
    assert found["output_throughput"] == pytest.approx(20_000)


def test_embeddings_have_input_figures_only() -> None:
    found = one(endpoint="embeddings", stream=False, output_tokens=-1, first_token=math.nan)

    assert found["ttft"] == found["e2e_latency"] == pytest.approx(1.2)
    assert found["input_throughput"] == pytest.approx(100 / 1.2)
    assert [found[name] for name in ("tpot", "output_latency", "num_output_tokens")] == [0, 0, 0]
    assert found["total_tokens"] == 100


def test_failures_have_a_code_and_no_figures() -> None:
    rows = [
        {"outcome": "http_error", "status": 429},
        {"outcome": "timeout", "status": -1},
        {"outcome": "connect_error", "status": -1},
        {"outcome": "cut"},
        {"outcome": "cancelled"},
        {},
    ]
    found = columns(*rows)

    assert error_codes(found).tolist() == [429, 408, 503, 500, 0, 0]
    assert np.isnan(figures(found)["ttft"]).tolist() == [True] * 5 + [False]


def test_a_point_adds_up() -> None:
    """Two answers, one failure, one request that was stopped, in two seconds."""
    found = aggregate(
        columns(
            {}, {"sent": 0.5, "first_token": 0.9, "end": 2.0}, {"outcome": "http_error", "status": 500},
            {"outcome": "cancelled"},
        ),
        Trim(),
    )  # fmt: skip

    assert found["run_duration"] == 2.0
    assert (found["num_requests"], found["num_completed_requests"]) == (3, 2)
    assert (found["num_error_requests"], found["num_cancelled_requests"]) == (1, 1)
    assert found["error_rate"] == pytest.approx(1 / 3)
    assert found["error_codes_frequency"] == {"500": 1}
    assert found["requests_per_second"] == 1.0
    assert found["mean_output_throughput_tokens_per_s"] == 11.0
    assert found["mean_total_tokens_throughput_tokens_per_s"] == 111.0
    assert found["stats"]["ttft"]["mean"] == pytest.approx(0.3)


def test_a_point_without_an_answer_is_a_result() -> None:
    found = aggregate(columns(*[{"outcome": "http_error", "status": 500}] * 3), Trim())

    assert found["error_rate"] == 1.0
    assert set(found["stats"]["ttft"].values()) == {None}


def test_what_nobody_counted_is_no_zero() -> None:
    """Prompts of a dataset, a server without usage, no tokenizer: unknown, which is not 0 tokens/s."""
    found = aggregate(columns({"prompt_tokens": -1}), Trim())

    assert found["mean_input_throughput_tokens_per_s"] is None
    assert found["mean_total_tokens_throughput_tokens_per_s"] is None
    assert found["mean_output_throughput_tokens_per_s"] > 0
    assert found["stats"]["num_input_tokens"]["mean"] is None


def test_what_only_some_answers_count_is_a_lower_bound_and_says_so() -> None:
    """Of three answers of 11 tokens in two seconds one names none: 22 tokens are known, not 33."""
    late = {"sent": 0.5, "first_token": 0.9, "end": 2.0}
    found = aggregate(columns({}, late, {"output_tokens": -1}), Trim())

    assert found["mean_output_throughput_tokens_per_s"] == 11.0
    assert found["mean_total_tokens_throughput_tokens_per_s"] == 161.0
    assert found["without_token_counts"] == {"input": 0, "output": 1}
    assert found["stats"]["total_tokens"]["min"] == 111, "not the 100 of the prompt alone"


def test_goodput_is_of_the_requests_and_the_time_that_the_rates_are_of() -> None:
    """Ten requests from 5 s on; the first two, which are slow, are cut as warm-up."""
    slow = np.where(np.arange(10) < 2, 0.9, 0.2)
    run = arm_of(run_columns(10, gap_s=1.0, wait_s=slow, stream_s=0.5), "r").run
    for name in ("due", "sent", "first_token", "first_answer", "last_token", "end"):
        run.columns[name] = run.columns[name] + 5.0

    for trim, share in ((Trim(), 0.8), (Trim(warmup=0.2), 1.0)):
        good, unknown = goodput("ttft<500ms", run, trim)
        rate = aggregate(run.columns, trim)["requests_per_second"]
        assert good["goodput"] == share
        assert good["goodput_per_s"] == pytest.approx(share * rate)
        assert unknown is None


def test_goodput_by_what_no_answer_has_is_not_known() -> None:
    """A server that counts no tokens: no TPOT, of which 0 % would be a verdict."""
    run = arm_of(run_columns(10, gap_s=1.0, wait_s=0.2, stream_s=0.5), "r").run
    run.columns["output_tokens"] = np.full(10, -1)

    good, unknown = goodput("tpot<50ms", run, Trim())

    assert (good["goodput"], good["goodput_per_s"]) == (None, None)
    assert unknown == "a run has no tpot at all"


def test_trimming_cuts_requests_and_time_alike() -> None:
    """Ten requests a second apart have one a second, however many are cut off."""
    found = columns(*[{"sent": i, "first_token": i + 0.5, "end": i + 1.0} for i in range(10)])
    trimmed = counted(found, Trim(warmup=0.2, cooldown=0.3))

    assert trimmed.rows.tolist() == [2, 3, 4, 5, 6]
    assert trimmed.duration_s == 5.0
    assert aggregate(found, Trim(warmup=0.2, cooldown=0.3))["requests_per_second"] == 1.0
    assert aggregate(found, Trim())["requests_per_second"] == 1.0


def test_statistics_are_numpys() -> None:
    found = stats(np.array([4.0, 1.0, np.nan, 2.0, 3.0]))

    assert (found["min"], found["max"], found["sum"]) == (1.0, 4.0, 10.0)
    assert found["p50"] == 2.5
    assert found["p90"] == pytest.approx(3.7)
    assert found["stddev"] == pytest.approx(math.sqrt(1.25))


def test_milliseconds_are_for_latencies_alone() -> None:
    found = scaled(aggregate(columns({}), Trim()), 1e3)
    (request,) = (scaled(row, 1e3) for row in individual(columns({})))

    assert request["ttft"] == pytest.approx(200)
    assert request["num_output_tokens"] == 11
    assert isinstance(request["num_output_tokens"], int)
    assert found["stats"]["tpot"]["mean"] == pytest.approx(100)
    assert found["stats"]["output_throughput"]["mean"] == pytest.approx(10)
    assert found["run_duration"] == pytest.approx(1.2), "as genai-bench has it"


def test_requests_are_listed_in_the_order_in_which_they_ended() -> None:
    found = individual(columns({"end": 3.0}, {"end": 2.0, "output_tokens": 5}, {"end": math.nan}))

    assert [row["num_output_tokens"] for row in found] == [5, 11]
    assert found[0]["error_code"] is None
