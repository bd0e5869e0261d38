"""The options of `tbench benchmark`, one row each: genai-bench's flags, and ours.

Nothing is read here, so that `--help` starts at once; tbench.benchmark.plan resolves the options.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tbench.capture.option import REQUIRED, Option, Shared, check
from tbench.capture.synthesis.options import SynthOptions
from tbench.commands.output import Slo
from tbench.replay.options import MaxCost, On, Polite, Prices, Timeout

SERVER, LOAD, SWEEP = "The server", "What is sent", "The sweep"
LABELS, OUTPUT = "Labels (only written down)", "Output"
SHARE = "99%"


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What a benchmark is asked to be. A value of None is one that was not given.

    `source` is what requests are made of; `sources` says where options are from that the command line does
    not have. Raises InputError for a value that makes no sense.
    """

    api_backend: Annotated[
        Literal["together", "openai", "anthropic", "vllm", "sglang"],
        Option(help="Kind of server, which decides where its key is.", group=SERVER, common=True),
    ]
    api_base: Annotated[
        str,
        Option(
            help="Server to measure, with or without /v1.",
            unit="URL",
            group=SERVER,
            rival="target",
            common=True,
        ),
    ]
    key_variable: Annotated[
        str | None,
        Option(
            help="Variable with the key; '' sends none.",
            unit="VARIABLE",
            flag="--api-key-env",
            group=SERVER,
            rival="key",
            default="the backend's",
            common=True,
        ),
    ] = None
    api_key: Annotated[
        str | None,
        Option(
            help="The key. Others on this machine can read it here: prefer TOGETHER_API_KEY (with "
            "openai: OPENAI_API_KEY, anthropic: ANTHROPIC_API_KEY). Never written anywhere.",
            unit="KEY",
            group=SERVER,
            rival="key",
        ),
    ] = None
    timeout: Timeout = 600.0
    prices: Prices = None
    max_cost: MaxCost = None
    polite: Polite = False
    source: Annotated[
        SynthOptions,
        Shared(
            without=frozenset({"scenario", "batch_size", "chars_per_token"}),
            defaults={"task": REQUIRED, "requests": 500},
            rows={
                "model": {"flag": "--api-model-name", "group": SERVER},
                "requests": {
                    "flag": "--max-requests-per-run",
                    "help": "Maximum number of requests of a point.",
                    "group": SWEEP,
                },
                "tokenizer": {"default": "the server's own counts"},
            },
        ),
    ]
    traffic_scenario: Annotated[
        Sequence[str],
        Option(
            help="D(in,out), N(mean,sd)/(mean,sd), U(min,max)/(min,max), E(tokens), R(document,query), "
            "I(width,height[,images]) or dataset. Repeatable.",
            unit="SCENARIO",
            group=LOAD,
            default="genai-bench's for the task, or dataset where there is one",
            common=True,
        ),
    ] = ()
    num_concurrency: Annotated[
        Sequence[str],
        Option(
            help="Requests in flight at once: 1,2,4. Repeatable.",
            unit="N,...",
            group=SWEEP,
            default="1,2,4 ... 256",
            common=True,
        ),
    ] = ()
    batch_size: Annotated[
        Sequence[str],
        Option(
            help="Texts in a request of embeddings or rerank: 1,2,4. Repeatable.",
            unit="N,...",
            group=SWEEP,
            default="1,2,4,8,24,48,96",
            common=True,
        ),
    ] = ()
    iteration_type: Annotated[
        Literal["num_concurrency", "batch_size"] | None,
        Option(
            help="What is swept.",
            group=SWEEP,
            default="the batch size of embeddings and rerank, else the concurrency",
        ),
    ] = None
    rate: Annotated[
        Sequence[str],
        Option(
            help="Instead, evenly spaced arrivals, requests/s (open loop): 1,2,4.",
            unit="RATE,...",
            group=SWEEP,
            common=True,
        ),
    ] = ()
    poisson: Annotated[
        Sequence[str],
        Option(
            help="Instead, Poisson arrivals, requests/s (open loop): 1,2,4.",
            unit="RATE,...",
            group=SWEEP,
        ),
    ] = ()
    max_time_per_run: Annotated[
        float,
        Option(help="Maximum time of a point.", unit="MINUTES", group=SWEEP, above=0, common=True),
    ] = 5.0
    warmup_ratio: Annotated[
        float,
        Option(help="Share of a point's first requests to leave out.", unit="SHARE", group=SWEEP),
    ] = 0.0
    cooldown_ratio: Annotated[
        float,
        Option(help="Share of a point's last requests to leave out.", unit="SHARE", group=SWEEP),
    ] = 0.0
    repeats: Annotated[
        int,
        Option(help="Runs of each point.", unit="N", group=SWEEP, least=1, most=10_000),
    ] = 1
    spawn_rate: Annotated[
        float | None,
        Option(
            help="Let the concurrency grow by this many a second.",
            unit="RATE",
            group=SWEEP,
            default="at once",
            above=0,
        ),
    ] = None
    slo: Slo = None
    saturate: Annotated[
        bool,
        Option(
            help="Search the highest concurrency (or --rate, --poisson) at which requests keep to --slo: "
            "doubling from the first value, then halving the gap.",
            group=SWEEP,
            common=True,
        ),
    ] = False
    slo_share: Annotated[
        str, Option(help="Share of the requests for --saturate.", unit="SHARE", group=SWEEP)
    ] = SHARE
    model_label: Annotated[
        str | None,
        Option(
            help="Name of the model in results.",
            unit="NAME",
            flag="--model",
            group=LABELS,
            default="the tokenizer's, or as asked for",
        ),
    ] = None
    server_engine: Annotated[
        str | None, Option(help="Engine, such as vLLM.", unit="NAME", group=LABELS)
    ] = None
    server_version: Annotated[
        str | None, Option(help="Version of the engine.", unit="VERSION", group=LABELS)
    ] = None
    server_gpu_type: Annotated[
        str | None, Option(help="GPU, such as H100.", unit="NAME", group=LABELS)
    ] = None
    server_gpu_count: Annotated[
        str | None, Option(help="Number of GPUs.", unit="N", group=LABELS)
    ] = None
    experiment_folder_name: Annotated[
        str | None,
        Option(
            help="Folder of the benchmark.",
            unit="NAME",
            group=OUTPUT,
            default="backend, task, model and time",
            common=True,
        ),
    ] = None
    experiment_base_dir: Annotated[
        Path | None,
        Option(help="Where to make the folder.", unit="DIR", group=OUTPUT, default="here"),
    ] = None
    resume: Annotated[
        bool,
        Option(
            help="Continue the folder of that name: finished points are kept.",
            group=OUTPUT,
            common=True,
        ),
    ] = False
    log_dir: Annotated[
        Path | None,
        Option(
            help="Where to write benchmark.log.", unit="DIR", group=OUTPUT, default="the folder"
        ),
    ] = None
    metrics_time_unit: Annotated[
        Literal["s", "ms"], Option(help="Unit of latencies in results.", group=OUTPUT)
    ] = "s"
    summary: Annotated[
        bool,
        Option(
            help="Write the workbook and the pictures at the end (excel and plot make them later, too).",
            flag="--summary/--no-summary",
            group=OUTPUT,
            default="--summary",
        ),
    ] = True
    upload_results: Annotated[
        str | None,
        Option(
            help="Also put the folder below this URL at the end: s3://bucket/prefix, gs://, az://, "
            "file:///folder (whatever fsspec knows). Checked before anything is sent; credentials come "
            "from the environment.",
            unit="URL",
            group=OUTPUT,
        ),
    ] = None
    upload_traces: Annotated[
        bool,
        Option(
            help="Upload traces/ too, which hold the prompts; otherwise they stay here.",
            group=OUTPUT,
        ),
    ] = False
    num_workers: Annotated[
        int,
        Option(help="Processes that send; 0: as many as needed.", unit="N", group=OUTPUT, least=0),
    ] = 0

    on: On = None

    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Check every value by its row."""
        check(self)
