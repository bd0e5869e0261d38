"""A benchmark's folder as genai-bench 0.0.5 writes it, made without any code of ours."""

import json
from pathlib import Path
from typing import Any, Self

LEVELS = ("min", "max", "mean", "stddev", "sum", "p25", "p50", "p75", "p90", "p95", "p99")


class BenchmarkFolder:
    """One folder: `.metadata(...)`, then `.point(scenario, value, ...)` as often as wanted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.task = "text-to-text"

    def metadata(self, **changes: Any) -> Self:
        """`experiment_metadata.json`; a chat benchmark at 1 and 2 unless told otherwise."""
        self.path.mkdir(parents=True, exist_ok=True)
        whole = {
            "cmd": "genai-bench benchmark", "benchmark_version": "0.0.5", "api_backend": "together",
            "auth_config": {}, "api_model_name": "m", "server_model_tokenizer": "t", "model": "m",
            "task": "text-to-text", "num_concurrency": [1, 2], "batch_size": [1],
            "iteration_type": "num_concurrency", "traffic_scenario": ["D(100,100)"],
            "additional_request_params": {}, "server_engine": "vLLM", "server_version": "1",
            "server_gpu_type": "H100", "server_gpu_count": "4", "max_time_per_run_s": 60,
            "max_requests_per_run": 10, "experiment_folder_name": "x", "metrics_time_unit": "s",
            "dataset_path": None, **changes,
        }  # fmt: skip
        self.task = whole["task"]
        (self.path / "experiment_metadata.json").write_text(json.dumps(whole, indent=4))
        return self

    def point(
        self,
        scenario: str,
        value: float,
        *,
        axis: str = "num_concurrency",
        speed: float | None = 50.0,
        rps: float = 1.0,
        tokens: float = 200.0,
        n: int = 3,
        errors: int = 0,
        unit: str = "s",
        task: str = "",
        **more: Any,
    ) -> Path:
        """A result; every level of a metric is its own number, so that none is taken for another."""
        times = 1000 if unit == "ms" else 1
        base = {"ttft": 0.1 * times, "tpot": 0.02 * times, "e2e_latency": 2.0 * times,
                "output_latency": 1.9 * times,
                "output_inference_speed": speed, "num_input_tokens": 100, "num_output_tokens": 100,
                "num_reasoning_tokens": 0, "total_tokens": 200, "input_throughput": 1000.0,
                "output_throughput": 52.0, "audio_throughput": None}  # fmt: skip
        whole = {"num_input_tokens", "num_output_tokens", "num_reasoning_tokens", "total_tokens"}
        stats = {
            name: {
                level: None if one is None or n == errors else one * (1 + k / 100)
                for k, level in enumerate(LEVELS, -2)
            }
            for name, one in base.items()
        }
        good = {**base, "error_code": None, "error_message": None}
        bad = {**dict.fromkeys(base), "error_code": 429, "error_message": "=slow down"}
        requests = [
            {k: v if k in whole or not isinstance(v, float) else v + i / 1000 for k, v in good.items()}
            for i in range(n - errors)
        ]  # fmt: skip
        aggregate = {
            "scenario": scenario, "num_concurrency": 1, "batch_size": 1, "iteration_type": axis,
            "run_duration": 10.0,
            "mean_output_throughput_tokens_per_s": tokens / 2,
            "mean_input_throughput_tokens_per_s": tokens / 2,
            "mean_total_tokens_throughput_tokens_per_s": tokens, "requests_per_second": rps,
            "error_codes_frequency": {"429": errors} if errors else {}, "error_rate": 0.0,
            "num_error_requests": errors, "num_completed_requests": n - errors, "num_requests": n,
            "stats": stats,
        }  # fmt: skip
        aggregate |= {axis: value, **more} if axis in aggregate else {"request_rate": value, **more}
        name = scenario.translate(str.maketrans({"/": "_", ",": "_", "(": None, ")": None}))
        again = f"_run_{more['repeat']}" if more.get("repeat", 1) > 1 else ""
        path = self.path / f"{name}_{task or self.task}_{axis}_{value:g}{again}_time_10s.json"
        content = {
            "aggregated_metrics": aggregate,
            "individual_request_metrics": [*requests, *[bad] * errors],
            "_time_unit": unit,
        }
        path.write_text(json.dumps(content, indent=4))
        return path
