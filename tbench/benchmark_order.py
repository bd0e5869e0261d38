"""The order of a benchmark: the options of `tbench benchmark`, checked, and what they stand for."""

import os
import re
import shlex
import sys
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from analysis.slo import parse_slo
from capture.errors import InputError
from capture.synthesis import parse
from capture.synthesis.order import Order as Source
from capture.synthesis.order import read_params, read_task
from capture.synthesis.scenario import DEFAULTS
from replay.benchmark.layout import folder_name
from replay.benchmark.sweep import Sweep, parse_numbers, parse_rates
from replay.order import Order
from replay.provenance import scrubbed
from replay.warmup import Warmup
from tbench.uploading.address import Address, read_address

KEY: Final = "TBENCH_BENCHMARK_KEY"
"""The variable of this process that a key given by --api-key is kept in."""
KEYS: Final = {"together": None, "openai": "OPENAI_API_KEY", "vllm": "", "sglang": ""}
"""Where each backend's key is; None: TOGETHER_API_KEY, empty: it needs none."""
FREE: Final = frozenset(
    {"resume", "api_key", "log_dir", "num_workers", "timeout", "experiment_folder_name"}
    | {"upload_results", "upload_traces"}
    | {
        "experiment_base_dir",
        "num_concurrency",
        "batch_size",
        "traffic_scenario",
        "rate",
        "poisson",
    }
    | {"repeats", "slo", "slo_share", "saturate", "metrics_time_unit", "summary"}
)
"""Options that may differ when a folder is gone on with: they change no point that is there."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkOrder:
    """The options of `tbench benchmark`, as its help has them."""

    api_backend: str
    api_base: str
    api_model_name: str
    task: str
    api_key: str | None
    traffic_scenario: list[str] | None
    additional_request_params: str | None
    prefix_len: int | None
    prefix_ratio: float | None
    model_tokenizer: str | None
    num_concurrency: list[str] | None
    batch_size: list[str] | None
    iteration_type: Any
    rate: list[str] | None
    poisson: list[str] | None
    max_time_per_run: float
    max_requests_per_run: int
    warmup_ratio: float
    cooldown_ratio: float
    repeats: int
    spawn_rate: float | None
    seed: int
    slo: str | None
    saturate: bool
    slo_share: str
    dataset_path: str | None
    dataset_config: Path | None
    dataset_prompt_column: str | None
    dataset_image_column: str | None
    model: str | None
    server_engine: str | None
    server_version: str | None
    server_gpu_type: str | None
    server_gpu_count: str | None
    experiment_folder_name: str | None
    experiment_base_dir: Path | None
    resume: bool
    log_dir: Path | None
    metrics_time_unit: str
    summary: bool
    upload_results: str | None
    upload_traces: bool
    num_workers: int
    timeout: float

    def __post_init__(self) -> None:
        """Raise InputError for what makes no sense."""
        for name, least in (("max_time_per_run", 0), ("max_requests_per_run", 0), ("repeats", 0)):
            if not getattr(self, name) > least:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name):g}: must be more than 0"
                )
        if (
            min(self.warmup_ratio, self.cooldown_ratio) < 0
            or self.warmup_ratio + self.cooldown_ratio >= 1
        ):
            raise InputError(
                "--warmup-ratio and --cooldown-ratio: shares from 0 that add up to less than 1"
            )
        if self.saturate and not self.slo:
            raise InputError(
                "--saturate searches the most that keeps to --slo; give one, such as ttft<500ms"
            )
        if self.slo:
            parse_slo(self.slo)
        if self.saturate and self.repeats > 1:
            raise InputError("--saturate makes each point once; drop --repeats")
        _ = self.share
        _ = self.address

    @property
    def share(self) -> float:
        """What part of the requests must keep to the objectives."""
        found = re.fullmatch(r"(\d+(?:\.\d*)?)%", self.slo_share.strip())
        if not found or not 0 < float(found[1]) <= 100:
            raise InputError(f"--slo-share {self.slo_share}: write it as 99%")
        return float(found[1]) / 100

    @property
    def address(self) -> Address | None:
        """Where the results are uploaded to."""
        if self.upload_results is not None:
            return read_address("--upload-results", self.upload_results)
        if self.upload_traces:
            raise InputError("--upload-traces sends more to --upload-results; give its URL, too")
        return None

    @property
    def label(self) -> str:
        """What the model is called in results."""
        return (
            self.model
            or (self.model_tokenizer or self.api_model_name).rstrip("/").rsplit("/", 1)[-1]
        )

    @property
    def scenarios(self) -> list[str]:
        if self.traffic_scenario:
            return self.traffic_scenario
        return (
            ["dataset"]
            if self.dataset_path or self.dataset_config
            else list(DEFAULTS[read_task(self.task)])
        )

    def sweep(self) -> Sweep:
        """The points that were asked for."""
        return Sweep(
            task=self.task,
            scenarios=[str(parse(text)) for text in self.scenarios],
            concurrencies=_none(parse_numbers("--num-concurrency", self.num_concurrency or [])),
            batch_sizes=_none(parse_numbers("--batch-size", self.batch_size or [])),
            iteration=self.iteration_type,
            rates=parse_rates("--rate", self.rate or []),
            poisson=parse_rates("--poisson", self.poisson or []),
            repeats=self.repeats,
            seed=self.seed,
        )

    def order(self) -> Order:
        """How requests are sent; every point adds its trace and its pacing."""
        if self.api_key is not None:
            os.environ[KEY] = self.api_key
        return Order(
            trace=Path("-"),
            base_url=self.api_base,
            api_key_env=KEYS[self.api_backend] if self.api_key is None else KEY,
            timeout=self.timeout,
            warmup=Warmup("seconds", 0.0),
            workers=self.num_workers or "auto",
            spawn_rate=self.spawn_rate,
        )

    def source(self) -> Source:
        """What requests are made of, for the first scenario; a point's own replace what differs."""
        return Source(
            task=self.task,
            model=self.api_model_name,
            scenario=self.scenarios[0],
            requests=self.max_requests_per_run,
            dataset_path=self.dataset_path,
            dataset_config=self.dataset_config,
            dataset_prompt_column=self.dataset_prompt_column,
            dataset_image_column=self.dataset_image_column,
            prefix_len=self.prefix_len,
            prefix_ratio=self.prefix_ratio,
            additional_request_params=self.additional_request_params,
            seed=self.seed,
            tokenizer=self.model_tokenizer,
        )

    def folder(self, now: float) -> Path:
        """Where everything goes."""
        parts = (self.api_backend, self.server_engine, self.server_version, self.task, self.label)
        name = self.experiment_folder_name or folder_name(parts, now)
        return (self.experiment_base_dir or Path()) / name

    def words(self) -> dict[str, Any]:
        """What decides the points, for whoever goes on with the folder; no key is among it."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: str(v) if isinstance(v, Path) else v for k, v in found.items() if k not in FREE}

    def metadata(self, sweep: Sweep, folder: Path) -> dict[str, Any]:
        """genai-bench's `experiment_metadata.json`; `saturate` is ours: then no values are promised."""
        batched = sweep.axis == "batch_size"
        values = (
            [] if self.saturate or sweep.rates or sweep.poisson else list(map(int, sweep.values))
        )
        return {
            "cmd": shlex.join(["tbench", *scrubbed(sys.argv[1:])]),
            "benchmark_version": f"tbench {version('tbench')}",
            "api_backend": self.api_backend,
            "auth_config": {},
            "api_model_name": self.api_model_name,
            "server_model_tokenizer": self.model_tokenizer,
            "model": self.label,
            "task": self.task,
            "num_concurrency": [sweep.concurrency or 1] if batched else values,
            "batch_size": values if batched else [sweep.batch_size],
            "iteration_type": "batch_size" if batched else "num_concurrency",
            "traffic_scenario": list(sweep.scenarios),
            "additional_request_params": read_params(self.additional_request_params),
            **{name: getattr(self, name) for name in LABELS},
            "max_time_per_run_s": round(self.max_time_per_run * MINUTE_S),
            "max_requests_per_run": self.max_requests_per_run,
            "experiment_folder_name": str(folder),
            "metrics_time_unit": self.metrics_time_unit,
            "dataset_path": self.dataset_path,
            "saturate": self.saturate,
        }


LABELS: Final = ("server_engine", "server_version", "server_gpu_type", "server_gpu_count")
MINUTE_S: Final = 60


def _none(numbers: tuple[int, ...]) -> tuple[int, ...] | None:
    return numbers or None
