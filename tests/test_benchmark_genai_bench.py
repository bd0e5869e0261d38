"""A whole benchmark, by genai-bench's commands: every file, its keys, sheets and pictures, no warning."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from PIL import Image

from tbench.benchmark.folder import load_experiments
from tbench.benchmark.plots import checked, preset_for
from tbench.benchmark.plots import panels as drawing
from tests.conftest import Done, Server

AGGREGATE = {
    "scenario", "num_concurrency", "batch_size", "iteration_type", "run_duration",
    "mean_output_throughput_tokens_per_s", "mean_input_throughput_tokens_per_s",
    "mean_total_tokens_throughput_tokens_per_s", "requests_per_second", "error_codes_frequency",
    "error_rate", "num_error_requests", "num_completed_requests", "num_requests", "stats",
}  # fmt: skip
REQUEST = {
    "ttft", "tpot", "e2e_latency", "output_latency", "output_inference_speed", "num_input_tokens",
    "num_output_tokens", "num_reasoning_tokens", "total_tokens", "input_throughput",
    "output_throughput", "audio_throughput", "error_code", "error_message",
}  # fmt: skip
STATS = {"min", "max", "mean", "stddev", "sum", "p25", "p50", "p75", "p90", "p95", "p99"}
METADATA = {
    "cmd", "benchmark_version", "api_backend", "auth_config", "api_model_name",
    "server_model_tokenizer", "model", "task", "num_concurrency", "batch_size", "iteration_type",
    "traffic_scenario", "additional_request_params", "server_engine", "server_version",
    "server_gpu_type", "server_gpu_count", "max_time_per_run_s", "max_requests_per_run",
    "experiment_folder_name", "metrics_time_unit", "dataset_path",
}  # fmt: skip
"""As genai-bench 0.0.5 has them."""
PEER = Path(__file__).parent.parent / ".venv-peers" / "genai-bench" / "bin" / "python"
LOAD = """
import sys
from genai_bench.analysis.experiment_loader import load_one_experiment
metadata, found = load_one_experiment(sys.argv[1])
points = [(name, value, one) for name, all_ in found.items() for value, one in all_.items()]
print(metadata.task, sorted((s, v, p["aggregated_metrics"].num_requests) for s, v, p in points))
"""


@pytest.fixture
def folder(tbench: Callable[..., Done], simulator: Server, tmp_path: Path) -> Path:
    """A benchmark of two points."""
    done = tbench(
        "benchmark", "--api-backend", "together", "--api-base", simulator.url, "--api-model-name",
        "openai/gpt-oss-20b", "--task", "text-to-text", "--max-requests-per-run", 5, "--no-summary",
        "--num-concurrency", "1,2", "--traffic-scenario", "D(20,4)", "--experiment-folder-name", "x",
    )  # fmt: skip
    assert done.ended, done.err
    return tmp_path / "x"


def test_every_key_is_there_and_where_genai_bench_is_it_reads_them(folder: Path) -> None:
    metadata = json.loads((folder / "experiment_metadata.json").read_text())
    results = [json.loads(path.read_text()) for path in folder.glob("*_time_*s.json")]

    assert metadata.keys() >= METADATA
    assert len(results) == 2
    for one in results:
        assert one.keys() == {"aggregated_metrics", "individual_request_metrics", "_time_unit"}
        assert one["aggregated_metrics"].keys() >= AGGREGATE
        assert one["aggregated_metrics"]["stats"].keys() == REQUEST - {
            "error_code",
            "error_message",
        }
        assert all(stat.keys() == STATS for stat in one["aggregated_metrics"]["stats"].values())
        assert all(request.keys() == REQUEST for request in one["individual_request_metrics"])
    if PEER.exists():  # make bench-peers installs it
        said = subprocess.run(
            [PEER, "-c", LOAD, folder], capture_output=True, text=True, check=True
        ).stdout
        assert said.strip() == "text-to-text [('D(20,4)', 1, 5), ('D(20,4)', 2, 5)]"


COMMANDS = [
    text.replace("\\\n", " ")
    for text in re.findall(
        r"^genai-bench (benchmark .*?)\n```",
        (Path(__file__).parent.parent / "fixtures" / "together_backend_commands.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
]
POINTS = (4, 1, 5, 4, 3)
"""How many points each of them has."""
OTHERS = ["--num-concurrency", "1", "--traffic-scenario", "D(20,4)"]
"""What stands for "other options" where the document leaves them out."""


@pytest.fixture
def datasets(tmp_path: Path) -> dict[str, Path]:
    """Local datasets by the names that the document's commands give to theirs."""
    (tmp_path / "dataset.json").write_text(json.dumps([f"Tell me about {i}." for i in range(9)]))
    (tmp_path / "rows.csv").write_text("prompt,n\n" + "".join(f"Ask {i},{i}\n" for i in range(9)))
    simple = {
        "source": {"type": "file", "path": "rows.csv", "file_format": "csv"},
        "prompt_column": "prompt",
    }
    (tmp_path / "simple.json").write_text(json.dumps(simple))
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "wild.png")
    (tmp_path / "wild.csv").write_text("question,image\nWhat is it?,wild.png\n")
    wild = {
        "source": {"type": "file", "path": "wild.csv", "file_format": "csv"},
        "prompt_column": "question",
        "image_column": "image",
    }
    (tmp_path / "wild.json").write_text(json.dumps(wild))
    return {
        "/path/to/your/dataset.json": tmp_path / "dataset.json",
        "examples/dataset_configs/huggingface_simple.json": tmp_path / "simple.json",
        "examples/dataset_configs/config_llava-bench-in-the-wild.json": tmp_path / "wild.json",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("command", "points"), list(zip(COMMANDS, POINTS, strict=True)))
def test_the_command_runs(
    tbench: Callable[..., Done],
    serve: Callable[..., Server],
    datasets: dict[str, Path],
    tmp_path: Path,
    command: str,
    points: int,
) -> None:
    url = serve("serve", "--port", 0, "--any-model").url
    key = "tgp_v1_not_a_real_key_at_all"
    changed = (
        command.replace("https://api.together.xyz", url)
        .replace("YOUR_TOGETHER_API_KEY", key)
        .replace("$TOGETHER_API_KEY", key)
    )
    for name, path in datasets.items():
        changed = changed.replace(name, str(path))
    words = shlex.split(changed, comments=True) + (OTHERS if "other options" in command else [])
    done = tbench(
        *words,
        "--max-requests-per-run",
        3,
        "--experiment-folder-name",
        "x",
        "--no-summary",
        TOGETHER_API_KEY=key,
    )
    results = [json.loads(path.read_text()) for path in (tmp_path / "x").glob("*_time_*s.json")]

    assert done.ended, done.err
    assert len(results) == points
    assert all(one["aggregated_metrics"]["error_rate"] == 0 for one in results)
    assert all(one["aggregated_metrics"]["num_completed_requests"] == 3 for one in results)


EMBEDDINGS = (
    "text-to-embeddings", "intfloat/multilingual-e5-large-instruct", "--batch-size", "E(32)", [],
)  # fmt: skip
VISION = (
    "image-text-to-text", "Qwen/Qwen2.5-VL-72B-Instruct", "--num-concurrency", "I(64,48)",
    ["--additional-request-params", '{"max_tokens": 8}'],
)  # fmt: skip
POINTS, REQUESTS = 3, 8
SILENT = {
    "error_code",
    "error_message",
    "invalid_because",
    "GPU Type",
} | {"request_rate (requests/s)"}
"""Columns that have nothing to say of a closed loop without a failure."""
FIRST = (
    *("no --model-tokenizer", "no counts of prompt tokens", "lengths: ", "x: ", "point "),
    *("  ! input tokens, and what is made of them", "E(32) at batch_size"),
)


def empty(sheet: Any) -> list[str]:
    """Cells without anything, below titles that promise something."""
    head, *body = sheet.iter_rows()
    return [
        f"{title.value} {cell.coordinate}"
        for row in body
        for title, cell in zip(head, row, strict=True)
        if cell.value is None and title.value not in SILENT
    ]


def dots(folder: Path) -> dict[str, int]:
    """How many points each panel of the default picture has."""
    found = load_experiments(folder)
    of = preset_for("2x4_default", found)
    (sheet,) = checked(found, of, "traffic_scenario")
    tables = dict(drawing.combined(sheet, of, found[0].unit)["datasets"])
    return {
        panel.title: len(tables[f"dots {panel.position[0]},{panel.position[1]}"])
        for panel in of.panels
        if panel.curves[0].field != "error_rate"
    }


@pytest.mark.parametrize("case", [EMBEDDINGS, VISION], ids=["embeddings", "vision"])
def test_every_file_is_made_without_a_warning(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path, case: Any
) -> None:
    """The bar of the benchmark: three points each; a warning of any library would be an error."""
    task, model, swept, scenario, more = case
    done = tbench(
        "benchmark", "--api-backend", "together", "--api-base", simulator.url, "--api-model-name", model,
        "--task", task, swept, "1,2,4", "--traffic-scenario", scenario, "--max-requests-per-run", REQUESTS,
        "--experiment-folder-name", "x", *more, PYTHONWARNINGS="error",
    )  # fmt: skip
    folder = tmp_path / "x"
    results = [json.loads(path.read_text()) for path in folder.glob("*_time_*s.json")]
    pictures = sorted(folder.glob("*.png"))
    book = openpyxl.load_workbook(folder / "x_summary.xlsx")
    summary, appendix, _, aggregated, individual = book.worksheets

    assert done.code == 0, done.err
    assert not [
        line for line in done.err.splitlines() if not line.startswith((*FIRST, "  8 of 8", "x_s"))
    ]
    assert [len(one["individual_request_metrics"]) for one in results] == [REQUESTS] * POINTS
    assert len(list((folder / "runs").glob("*.run"))) == POINTS
    assert [empty(sheet) for sheet in (appendix, aggregated, individual)] == [[], [], []]
    assert (appendix.max_row, individual.max_row) == (1 + POINTS, 1 + POINTS * REQUESTS)
    assert summary["C2"].value in {1, 2, 4}, "a point is picked"
    assert len(summary._charts) == (4 if task == "text-to-embeddings" else 6)
    assert set(dots(folder).values()) == {POINTS}, dots(folder)
    assert len(pictures) == 9
    for path in pictures:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20, f"{path.name}: blank"
