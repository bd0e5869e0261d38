"""Which point the summary of a benchmark names: cases worked out by hand from genai-bench's rules."""

from pathlib import Path

import pytest

from tbench.benchmark.folder import load_experiment
from tbench.benchmark.workbook_columns import Pick, pick, rule_of, steps
from tests.benchmark_folder import BenchmarkFolder

S = "D(100,100)"


def picked(folder: BenchmarkFolder, level: str = "mean") -> Pick:
    found = load_experiment(folder.path)
    rule = rule_of(found.task)
    return pick(steps(found.points, rule, level), rule)


@pytest.fixture
def folder(tmp_path: Path) -> BenchmarkFolder:
    return BenchmarkFolder(tmp_path / "x").metadata()


def value(found: Pick) -> float | None:
    return found.step and found.step.value


def test_chat_takes_the_most_in_flight_that_keep_their_speed(folder: BenchmarkFolder) -> None:
    """8 has 9 tokens/s, which is too slow; 10 at 4 would be no more than 10."""
    for at, speed, tokens in ((1, 40, 100), (2, 30, 180), (4, 10.01, 300), (8, 9, 500)):
        folder.point(S, at, speed=speed, tokens=tokens, rps=tokens / 200)
    found = picked(folder)

    assert value(found) == 4
    assert found.step
    assert found.step.tokens_per_s == 300
    assert found.why == "the highest with a speed over 10 tokens/s"


def test_exactly_the_threshold_is_not_over_it(folder: BenchmarkFolder) -> None:
    folder.point(S, 1, speed=10)
    found = picked(folder)

    assert found == Pick(step=None, why="no point has a speed over 10 tokens/s")


def test_it_stops_where_nothing_is_gained(folder: BenchmarkFolder) -> None:
    """From 2 to 4 both change by 4 %: 2 it is, though 8 would have twice as much."""
    for at, tokens, rps in ((1, 100, 1.0), (2, 200, 2.0), (4, 208, 2.08), (8, 400, 4.0)):
        folder.point(S, at, speed=50, tokens=tokens, rps=rps)
    found = picked(folder)

    assert value(found) == 2
    assert found.why == "4 changes throughput and requests/s by < 5 %"


@pytest.mark.parametrize(("tokens", "rps"), [(210, 2.0), (200, 2.1), (189, 2.0)])
def test_five_per_cent_of_either_goes_on(
    folder: BenchmarkFolder, tokens: float, rps: float
) -> None:
    """Also downwards: it is the change that counts, as in genai-bench."""
    folder.point(S, 1, tokens=200, rps=2.0)
    folder.point(S, 2, tokens=tokens, rps=rps)

    assert value(picked(folder)) == 2


def test_a_point_that_is_too_slow_is_passed_over(folder: BenchmarkFolder) -> None:
    for at, speed, tokens in ((1, 50, 100), (2, 5, 200), (4, 50, 300)):
        folder.point(S, at, speed=speed, tokens=tokens)

    assert value(picked(folder)) == 4


def test_the_speed_is_that_of_the_percentile(folder: BenchmarkFolder) -> None:
    """A mean of 9.8 is too slow, its p99 (8 % above it in these files) is not."""
    folder.point(S, 1, speed=9.8)

    assert value(picked(folder)) is None
    assert value(picked(folder, "p99")) == 1


@pytest.mark.parametrize("task", ["text-to-embeddings", "text-to-rerank"])
def test_batches_go_by_total_throughput(tmp_path: Path, task: str) -> None:
    """Over 100 tokens/s; the speed of output says nothing of them."""
    folder = BenchmarkFolder(tmp_path / "x").metadata(task=task, iteration_type="batch_size")
    for at, tokens in ((1, 90), (2, 150), (4, 250), (8, 251)):
        folder.point("E(64)", at, axis="batch_size", speed=0.0, tokens=tokens, rps=1.0)
    found = picked(folder)

    assert value(found) == 4
    assert found.step
    assert found.step.tokens_per_s * 60 == 15_000


def test_batches_without_throughput_have_no_pick(tmp_path: Path) -> None:
    folder = BenchmarkFolder(tmp_path / "x").metadata(
        task="text-to-embeddings", iteration_type="batch_size"
    )
    folder.point("E(64)", 1, axis="batch_size", tokens=100, n=2, errors=2)

    assert value(picked(folder)) is None


def test_nothing_but_errors_has_no_pick(folder: BenchmarkFolder) -> None:
    folder.point(S, 1, n=2, errors=2, tokens=0, rps=0)
    folder.point(S, 2, n=2, errors=2, tokens=0, rps=0)

    assert value(picked(folder)) is None


def test_repeats_count_by_their_mean(folder: BenchmarkFolder) -> None:
    """Runs of 8 and 13 tokens/s are 10.5; the error rate is the mean of theirs."""
    folder.point(S, 1, speed=8, tokens=100, n=4, errors=1)
    folder.point(S, 1, speed=13, tokens=300, repeat=2)
    found = picked(folder)

    assert found.step
    assert (found.step.figure, found.step.tokens_per_s) == (pytest.approx(10.5), 200)
    assert found.step.error_rate == 0.125
