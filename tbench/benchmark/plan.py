"""The plan of a benchmark: its options resolved once, into what the rest only reads."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tbench.analysis.run_metrics import parse_slo
from tbench.benchmark.genai_bench import folder_name
from tbench.benchmark.options import SHARE, BenchmarkOptions
from tbench.benchmark.sweep import Sweep, parse_numbers, parse_rates
from tbench.capture.errors import InputError
from tbench.capture.option import values
from tbench.capture.redact import hides
from tbench.capture.store import Address, read_address
from tbench.capture.synthesis.options import SynthOptions
from tbench.capture.synthesis.scenario import DEFAULTS, parse
from tbench.capture.synthesis.workload import read_params
from tbench.replay.closing import Flags
from tbench.replay.job import check_key, check_workers
from tbench.replay.options import ReplayOptions
from tbench.replay.price_table import prices_at
from tbench.replay.provenance import scrubbed, without_credentials
from tbench.replay.system import headroom
from tbench.replay.target import checked_base_url

KEY: Final = "TBENCH_BENCHMARK_KEY"
"""The variable of this process that a key given by --api-key is kept in."""
KEYS: Final = {
    "together": None,
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "vllm": "",
    "sglang": "",
}
"""Where each backend's key is; None: TOGETHER_API_KEY, empty: it needs none."""
FREE: Final = frozenset(
    {
        "resume",
        "max_cost",
        "api_key",
        "log_dir",
        "num_workers",
        "on",
        "timeout",
        "upload_results",
        "upload_traces",
    }
    | {"experiment_folder_name", "experiment_base_dir", "num_concurrency", "batch_size", "rate"}
    | {"poisson", "traffic_scenario", "repeats", "slo", "slo_share", "saturate", "summary"}
    | {"metrics_time_unit", "api_key_env"}
)
"""Options that may differ when a folder is gone on with: they change no point that is there."""
NEWER: Final = (("api", "chat"), ("polite", False))
"""Options at their defaults that older folders do not name; they can be gone on with."""
LABELS: Final = ("server_engine", "server_version", "server_gpu_type", "server_gpu_count")
MINUTE_S: Final = 60


@dataclass(frozen=True, kw_only=True)
class BenchmarkPlan:
    """A benchmark, resolved. `source` makes requests of the first scenario, `order` says how they are sent.

    `params` goes into every body: a credential when it is sent (`order`), the rest into the traces
    (`source`). `flags` are the options that name the server, for a hint. `share` is what part of the
    requests has to keep to the objectives, `address` where the results are uploaded to, `label` what the
    model is called in results.
    """

    options: BenchmarkOptions
    sweep: Sweep
    source: SynthOptions
    order: ReplayOptions
    params: dict[str, Any]
    flags: Flags
    share: float
    address: Address | None
    label: str

    @property
    def duration_s(self) -> float:
        """The longest time of a point."""
        return self.options.max_time_per_run * MINUTE_S

    def idle(self) -> Iterator[str]:
        """A line for each option that was given and does nothing here."""
        options, sweep = self.options, self.sweep
        yield from sweep.idle()
        if options.spawn_rate is not None and (sweep.rates or sweep.poisson):
            yield "--spawn-rate: requests come by themselves; it is not used"
        if self.source.task == "image-text-to-text" and self.source.tokenizer is not None:
            yield "--model-tokenizer: no length is asked of questions to images; it only names the model"
        if options.saturate and len(sweep.values) > 1 and getattr(options, sweep.axis):
            yield f"--saturate begins at the first value given, {sweep.values[0]:g}; it finds the others"
        if not options.saturate and options.slo_share != SHARE:
            yield "--slo-share: is for --saturate; it is not used"

    def folder(self, now: float) -> Path:
        """Where everything goes."""
        options = self.options
        parts = (
            options.api_backend,
            options.server_engine,
            options.server_version,
            self.source.task,
            self.label,
        )
        name = options.experiment_folder_name or folder_name(parts, now)
        return (options.experiment_base_dir or Path()) / name

    def words(self) -> dict[str, Any]:
        """What decides the points, for whoever goes on with the folder; no key is among it."""
        given = values(self.options)
        if (shown := without_credentials(self.params)) != self.params:
            given["additional_request_params"] = json.dumps(shown)
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in given.items()
            if key not in FREE and (key, value) not in NEWER
        }

    def metadata(self, folder: Path) -> dict[str, Any]:
        """genai-bench's `experiment_metadata.json`; `saturate` is ours: then no values are promised."""
        options, source, sweep = self.options, self.source, self.sweep
        batched = sweep.axis == "batch_size"
        open_loop = bool(sweep.rates or sweep.poisson)
        numbers = [] if options.saturate or open_loop else list(map(int, sweep.values))
        return {
            "cmd": shlex.join(["tbench", *scrubbed(sys.argv[1:])]),
            "benchmark_version": f"tbench {version('tbench')}",
            "api_backend": options.api_backend,
            "auth_config": {},
            "api_model_name": source.model,
            "server_model_tokenizer": source.tokenizer,
            "model": self.label,
            "task": source.task,
            "api": source.api,
            "num_concurrency": [sweep.concurrency or 1] if batched else numbers,
            "batch_size": numbers if batched else [sweep.batch_size],
            "iteration_type": "batch_size" if batched else "num_concurrency",
            "traffic_scenario": list(sweep.scenarios),
            "additional_request_params": without_credentials(self.params),
            **{name: getattr(options, name) for name in LABELS},
            "max_time_per_run_s": round(self.duration_s),
            "max_requests_per_run": source.requests,
            "experiment_folder_name": str(folder),
            "metrics_time_unit": options.metrics_time_unit,
            "dataset_path": source.dataset_path,
            "saturate": options.saturate,
        }


def resolve(options: BenchmarkOptions) -> BenchmarkPlan:
    """The plan of a benchmark, its key found. Raises InputError for what makes no sense together."""
    source = options.source
    named = KEYS[options.api_backend] if options.key_variable is None else options.key_variable
    variable, keyless = named or "TOGETHER_API_KEY", named == ""
    flags = Flags(
        address="--api-base",
        model="--api-model-name",
        key="--api-key" if keyless else f"{variable} or --api-key",
        sent=None if options.api_key is None else "the key given by --api-key",
        variable=variable,
        instead="give --api-key",
    )
    if options.resume and options.experiment_folder_name is None:
        raise InputError("--resume: say which folder by --experiment-folder-name")
    checked_base_url(options.api_base, "--api-base", flags.key)
    if min(ratios := (options.warmup_ratio, options.cooldown_ratio)) < 0 or not sum(ratios) < 1:
        raise InputError(
            "--warmup-ratio and --cooldown-ratio: shares from 0 that add up to less than 1"
        )
    address = None
    if options.upload_results is not None:
        address = read_address("--upload-results", options.upload_results)
    elif options.upload_traces:
        raise InputError("--upload-traces sends more to --upload-results; give its URL, too")
    if options.on is None:
        check_workers(options.num_workers, "--num-workers")
    share = _objective(options)
    sweep = _sweep(options)
    params = read_params(source.additional_request_params)
    secrets = {name: value for name, value in params.items() if hides(name, value)}
    # A credential goes out with each request, by `set`, which
    # runs write down masked; traces hold the public ones alone.
    public = {name: value for name, value in params.items() if name not in secrets}
    called = source.tokenizer or source.model
    plan = BenchmarkPlan(
        options=options,
        sweep=sweep,
        source=replace(
            source, scenario=sweep.scenarios[0], additional_request_params=json.dumps(public)
        ),
        order=ReplayOptions(
            trace=Path("-"),
            base_url=options.api_base,
            api_key_env=named if options.api_key is None else KEY,
            timeout=options.timeout,
            prices=options.prices,
            polite=options.polite,
            set=secrets,
            # The benchmark trims by its own ratios, as genai-bench does; a warm-up here would cut twice.
            warmup="none",
            workers=options.num_workers or "auto",
            on=options.on,
            sources=options.sources,
        ),
        params=params,
        flags=flags,
        share=share,
        address=address,
        label=options.model_label or str(called).rstrip("/").rsplit("/", 1)[-1],
    )
    prices_at(
        None, file=options.prices
    )  # one that cannot be read is refused before a folder is made
    if options.api_key is not None:
        # By a variable, as every other key: runs name the variable
        # that their key was in, and this one says how it was given.
        os.environ[KEY] = options.api_key
    check_key(
        plan.order, "export it or give --api-key (--api-backend vllm is for servers without keys)"
    )
    return plan


def _objective(options: BenchmarkOptions) -> float:
    """The share of the requests that has to keep to --slo, for --saturate."""
    if options.saturate and not options.slo:
        raise InputError(
            "--saturate searches the most that keeps to --slo; give one, such as ttft<500ms"
        )
    if options.saturate and options.repeats > 1:
        raise InputError("--saturate makes each point once; drop --repeats")
    if options.slo:
        parse_slo(options.slo)
    share = re.fullmatch(r"(\d+(?:\.\d*)?)%", options.slo_share.strip())
    if not share or not 0 < float(share[1]) <= 100:
        raise InputError(f"--slo-share {options.slo_share}: give a share up to 100%, such as 99%")
    return float(share[1]) / 100


def _sweep(options: BenchmarkOptions) -> Sweep:
    """The points that were asked for; refused where they need more connections than can be had."""
    scenarios = list(options.traffic_scenario)
    if not scenarios:
        dataset = options.source.dataset_path or options.source.dataset_config
        scenarios = ["dataset"] if dataset else list(DEFAULTS[options.source.task])
    sweep = Sweep(
        task=options.source.task,
        scenarios=list(dict.fromkeys(str(parse(text)) for text in scenarios)),
        concurrencies=parse_numbers("--num-concurrency", options.num_concurrency) or None,
        batch_sizes=parse_numbers("--batch-size", options.batch_size) or None,
        iteration=options.iteration_type,
        rates=parse_rates("--rate", options.rate),
        poisson=parse_rates("--poisson", options.poisson),
        repeats=options.repeats,
        seed=options.source.seed,
    )
    if sweep.axis == "num_concurrency" and not options.saturate and options.on is None:
        workers = options.num_workers or max(1, (os.cpu_count() or 1) - 1)
        if objection := headroom().objection(int(max(sweep.values)), workers):
            raise InputError(objection.replace("--workers", "--num-workers"))
    return sweep
