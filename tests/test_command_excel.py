"""tbench excel from the command line, on what tbench benchmark made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.benchmark_folder import BenchmarkFolder
from tests.conftest import Done, Server

EMBEDDER = "intfloat/multilingual-e5-large-instruct"


def rows(book: Any, sheet: str) -> list[dict[str, Any]]:
    head, *body = list(book[sheet].iter_rows(values_only=True))
    return [dict(zip(head, row, strict=True)) for row in body]


@pytest.mark.parametrize(
    ("task", "model", "axis", "scenario", "title"),
    [
        ("text-to-text", "openai/gpt-oss-20b", "num-concurrency", "D(20,8)", "Concurrency"),
        ("text-to-embeddings", EMBEDDER, "batch-size", "E(32)", "Batch Size"),
    ],
)  # fmt: skip
def test_a_benchmark_becomes_a_workbook(
    tbench: Callable[..., Done],
    simulator: Server,
    tmp_path: Path,
    task: str,
    model: str,
    axis: str,
    scenario: str,
    title: str,
) -> None:
    """Each point and each request of the JSON files, in the unit asked for."""
    tbench(
        "benchmark", "--api-backend", "together", "--api-base", simulator.url, "--api-model-name", model,
        "--task", task, "--max-requests-per-run", 6, "--experiment-folder-name", "x", f"--{axis}", "1,2",
        "--traffic-scenario", scenario, "--no-summary",
    )  # fmt: skip
    done = tbench(
        "excel", "--experiment-folder", "x", "--excel-name", "out", "--metric-percentile", "p90",
        "--metrics-time-unit", "ms",
    )  # fmt: skip
    book = openpyxl.load_workbook(tmp_path / "x" / "out.xlsx")
    files = [json.loads(path.read_text()) for path in (tmp_path / "x").glob("*_time_*s.json")]
    points = {
        one["aggregated_metrics"][axis.replace("-", "_")]: one["aggregated_metrics"]
        for one in files
    }

    assert done.code == 0, done.err
    assert done.out.strip() == "x/out.xlsx"
    assert [row[title] for row in rows(book, "Appendix")] == [1, 2]
    for row in rows(book, "Appendix"):
        point = points[row[title]]
        assert row["TTFT (ms)"] == pytest.approx(point["stats"]["ttft"]["p90"] * 1000)
        assert row["Request Throughput (RPS)"] == pytest.approx(point["requests_per_second"])
    assert len(rows(book, "Individual Request Metrics")) == 12
    assert len(rows(book, "Aggregated Metrics for Each Run")) == 2


def test_a_folder_of_genai_bench_is_taken(tbench: Callable[..., Done], tmp_path: Path) -> None:
    """Missing points are said on stderr; a name that ends in .xlsx stays as it is."""
    folder = BenchmarkFolder(tmp_path / "x").metadata()
    folder.point("D(100,100)", 1)
    done = tbench("excel", "--experiment-folder", "x", "--excel-name", "b.xlsx")

    assert done.code == 0, done.err
    assert done.err.strip() == "D(100,100): no result at num_concurrency 2"
    assert (tmp_path / "x" / "b.xlsx").exists()


def test_what_is_no_experiment_is_one_line(tbench: Callable[..., Done], tmp_path: Path) -> None:
    BenchmarkFolder(tmp_path / "empty").metadata()
    nowhere = tbench("excel", "--experiment-folder", "nowhere", "--excel-name", "b")
    empty = tbench("excel", "--experiment-folder", "empty", "--excel-name", "b")

    unnamed = tbench("excel", "--experiment-folder", "empty", "--excel-name", "")

    assert (nowhere.code, empty.code, unnamed.code) == (2, 2, 2)
    assert "give the workbook a name" in unnamed.err
    assert "nowhere: no such folder" in nowhere.err
    assert "empty: there is no result" in empty.err
    assert len(nowhere.err.strip().splitlines()) == 1
