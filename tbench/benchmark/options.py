"""The order of a benchmark: the options of `tbench benchmark`, checked, and what they stand for."""

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tbench.analysis.slo import parse_slo
from tbench.benchmark.layout import folder_name
from tbench.benchmark.sweep import Sweep, parse_numbers, parse_rates
from tbench.benchmark.upload import Address, read_address
from tbench.capture.errors import InputError
from tbench.capture.redact import hides
from tbench.capture.synthesis import parse
from tbench.capture.synthesis.options import SynthOptions as Source
from tbench.capture.synthesis.options import read_params, read_task
from tbench.capture.synthesis.scenario import DEFAULTS
from tbench.replay.closing import Flags
from tbench.replay.job import check_key
from tbench.replay.options import ReplayOptions
from tbench.replay.provenance import scrubbed, without_credentials
from tbench.replay.target import checked_base_url

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
class BenchmarkOptions:
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
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
        if self.num_workers < 0:
            raise InputError(
                f"--num-workers {self.num_workers}: give a number of processes; 0: as many as it takes"
            )
        if self.resume and self.experiment_folder_name is None:
            raise InputError("--resume: say which folder by --experiment-folder-name")
        checked_base_url(self.api_base, "--api-base", self.flags.key)
        ratios = (self.warmup_ratio, self.cooldown_ratio)
        if not (all(ratio >= 0 for ratio in ratios) and sum(ratios) < 1):
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
            raise InputError(f"--slo-share {self.slo_share}: give a share up to 100%, such as 99%")
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
            scenarios=list(dict.fromkeys(str(parse(text)) for text in self.scenarios)),
            concurrencies=_none(parse_numbers("--num-concurrency", self.num_concurrency or [])),
            batch_sizes=_none(parse_numbers("--batch-size", self.batch_size or [])),
            iteration=self.iteration_type,
            rates=parse_rates("--rate", self.rate or []),
            poisson=parse_rates("--poisson", self.poisson or []),
            repeats=self.repeats,
            seed=self.seed,
        )

    @property
    def flags(self) -> Flags:
        """The options that name the server, for a hint."""
        variable = KEYS[self.api_backend] or "TOGETHER_API_KEY"
        key = "--api-key" if KEYS[self.api_backend] == "" else f"{variable} or --api-key"
        return Flags(
            address="--api-base",
            model="--api-model-name",
            key=key,
            sent=None if self.api_key is None else "the key given by --api-key",
            variable=variable,
            instead="give --api-key",
        )

    def idle(self, sweep: Sweep) -> Iterator[str]:
        """A line for each option that was given and does nothing here."""
        yield from sweep.idle()
        if self.spawn_rate is not None and (sweep.rates or sweep.poisson):
            yield "--spawn-rate: requests come by themselves; it is not used"
        if self.task == "image-text-to-text" and self.model_tokenizer is not None:
            yield "--model-tokenizer: no length is asked of questions to images; it only names the model"
        if self.saturate and len(sweep.values) > 1 and self._asks(sweep.axis):
            yield f"--saturate begins at the first value given, {sweep.values[0]:g}; it finds the others"
        if not self.saturate and self.slo_share != SHARE:
            yield "--slo-share: is for --saturate; it is not used"

    def _asks(self, axis: str) -> bool:
        return bool(getattr(self, axis))

    def order(self) -> ReplayOptions:
        """How requests are sent; every point adds its trace and its pacing. A key must be there."""
        if self.api_key is not None:
            os.environ[KEY] = self.api_key
        order = self._order()
        check_key(
            order, "export it or give --api-key (--api-backend vllm is for servers without keys)"
        )
        return order

    def _order(self) -> ReplayOptions:
        return ReplayOptions(
            trace=Path("-"),
            base_url=self.api_base,
            api_key_env=KEYS[self.api_backend] if self.api_key is None else KEY,
            timeout=self.timeout,
            set={name: value for name, value in self._params.items() if hides(name, value)},
            warmup="none",
            workers=self.num_workers or "auto",
        )

    @property
    def _params(self) -> dict[str, Any]:
        """What goes into every body: a credential at sending time (`_order`), the rest into the traces."""
        return read_params(self.additional_request_params)

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
            additional_request_params=json.dumps(
                {name: value for name, value in self._params.items() if not hides(name, value)}
            ),
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
        if (shown := without_credentials(self._params)) != self._params:
            found["additional_request_params"] = json.dumps(shown)
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
            "additional_request_params": without_credentials(self._params),
            **{name: getattr(self, name) for name in LABELS},
            "max_time_per_run_s": round(self.max_time_per_run * MINUTE_S),
            "max_requests_per_run": self.max_requests_per_run,
            "experiment_folder_name": str(folder),
            "metrics_time_unit": self.metrics_time_unit,
            "dataset_path": self.dataset_path,
            "saturate": self.saturate,
        }


POSITIVE: Final = (
    "max_time_per_run",
    "max_requests_per_run",
    "repeats",
    "spawn_rate",
    "timeout",
)
SHARE: Final = "99%"
"""The default of --slo-share."""
LABELS: Final = ("server_engine", "server_version", "server_gpu_type", "server_gpu_count")
MINUTE_S: Final = 60


def _none(numbers: tuple[int, ...]) -> tuple[int, ...] | None:
    return numbers or None
