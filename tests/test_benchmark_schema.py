"""Results have the keys that genai-bench's loader and its users' scripts know; where it is, it reads them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

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
