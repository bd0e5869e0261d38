"""Figures of a point that are not what they seem: said in the text, the log, the JSON and the workbook."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.answering import EVENTS, Given, Received, answering, stream
from tests.conftest import Done

TOKENS, GAP_S = 8, 0.005


def flowing(_: Received) -> Given:
    """The end comes with the last token."""
    *events, last, usage, end = stream(tokens=TOKENS)
    return Given([*events, last + usage + end], headers=EVENTS, pause=GAP_S)


def ending_late(_: Received) -> Given:
    """The usage comes 100 ms after the last token."""
    *events, usage, end = stream(tokens=TOKENS)
    return Given(
        [b"".join(events[:4]), b"".join(events[4:]), usage + end], headers=EVENTS, pause=0.1
    )


def buffered(_: Received) -> Given:
    """All tokens in one piece, and the end 50 ms later."""
    *events, end = stream(tokens=TOKENS)
    return Given([b"".join(events), end], headers=EVENTS, pause=0.05)


@pytest.fixture
def benchmark(tbench: Callable[..., Done]) -> Callable[..., Done]:
    def benchmark(url: str, concurrency: int, requests: int) -> Done:
        done = tbench(
            "benchmark", "--api-backend", "vllm", "--api-base", url, "--api-model-name", "m", "--task",
            "text-to-text", "--num-concurrency", concurrency, "--traffic-scenario", "D(20,8)", "--json",
            "--max-requests-per-run", requests, "--experiment-folder-name", "x", "--no-summary",
        )  # fmt: skip
        assert done.ended, done.err
        return done

    return benchmark


def point(done: Done) -> Any:
    (only,) = json.loads(done.out)["points"]
    return only


def test_more_concurrency_than_requests_is_said(
    benchmark: Callable[..., Done], tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """Five requests never load a server as sixty-four do, whatever the point is called."""
    with answering(flowing) as server:
        done = benchmark(server.url, 64, 5)
    wanted = "at most 5 of 64 were in flight: the point has only 5 requests"
    tbench("excel", "--experiment-folder", "x", "--excel-name", "book")
    (book,) = tmp_path.rglob("*.xlsx")
    cells = [str(cell.value) for row in openpyxl.load_workbook(book)["Summary"] for cell in row]

    assert wanted in point(done)["warnings"][0]
    assert wanted in done.err
    assert wanted in (tmp_path / "x" / "benchmark.log").read_text()
    assert any(wanted in cell for cell in cells)


def test_two_figures_of_one_name_are_told_apart(benchmark: Callable[..., Done]) -> None:
    """genai-bench's TPOT runs to the end of an answer, that of a report to its last token."""
    with answering(ending_late) as server:
        done = benchmark(server.url, 1, 4)
    (warning,) = point(done)["warnings"]

    assert warning.startswith("TPOT p50 is ")
    assert "the server ends answers late" in warning


def test_the_pace_of_buffered_streams_is_refused(benchmark: Callable[..., Done]) -> None:
    """What lies between the first token and the end is not the tokens' time."""
    with answering(buffered) as server:
        done = benchmark(server.url, 1, 4)
    stats = point(done)["stats"]

    assert "came together with an earlier one" in point(done)["warnings"][0]
    assert stats["tpot"]["p50"] is stats["output_inference_speed"]["mean"] is None
    assert stats["ttft"]["p50"] is not None


def test_answers_without_token_counts_are_said_wherever_a_point_is(
    tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """Two of six answers name no usage, so that the tokens per second that are known are no rate."""
    begun = itertools.count()

    def forgetful(_: Received) -> Given:
        *events, usage, end = stream(tokens=TOKENS)
        told = b"" if next(begun) in {3, 5} else usage
        return Given([*events, told + end], headers=EVENTS, pause=GAP_S)

    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n")
    wanted = "output tok/s (2 successes without token counts)"
    with answering(forgetful) as server:
        done = tbench(
            "benchmark", "--api-backend", "vllm", "--api-base", server.url, "--api-model-name", "m",
            "--task", "text-to-text", "--num-concurrency", 1, "--traffic-scenario", "dataset",
            "--dataset-path", "p.txt", "--max-requests-per-run", 6, "--experiment-folder-name", "x",
        )  # fmt: skip
    (result,) = (tmp_path / "x").glob("*_time_*s.json")
    metrics = json.loads(result.read_text())["aggregated_metrics"]
    (book,) = tmp_path.rglob("*.xlsx")
    cells = [str(cell.value) for row in openpyxl.load_workbook(book)["Summary"] for cell in row]

    assert done.ended, done.err
    assert "≥ " in done.out
    assert "! throughput at least " in done.err
    assert wanted in done.err
    assert wanted in (tmp_path / "x" / "benchmark.log").read_text()
    assert wanted in metrics["warnings"][0]
    assert metrics["without_token_counts"]["output"] == 2
    assert any(wanted in cell for cell in cells)


def test_who_counted_tokens_is_asked_of_answers_only(benchmark: Callable[..., Done]) -> None:
    """A refusal names no tokens, and takes none of the server's word for the others."""
    begun = itertools.count()

    def refusing(received: Received) -> Given:
        return Given([b"{}"], status=429) if next(begun) % 3 == 2 else flowing(received)

    with answering(refusing) as server:
        done = benchmark(server.url, 1, 6)

    assert point(done)["num_error_requests"] > 0
    assert point(done)["prompt_tokens_by"] == "server"


def test_a_plain_point_has_no_warning(benchmark: Callable[..., Done]) -> None:
    with answering(flowing) as server:
        done = benchmark(server.url, 2, 6)

    assert point(done)["warnings"] == []
    assert "  ! " not in done.err
