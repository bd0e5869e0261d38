"""tbench benchmark: a model under synthetic load, at every point of a sweep (genai-bench's job and flags)."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from tbench.capture.errors import InputError
from tbench.capture.option import Option
from tbench.flags import Verb, verb

if TYPE_CHECKING:
    from typer._click.core import Context

SERVER, LOAD, SWEEP, DATA, LABELS, OUTPUT = (
    "The server",
    "What is sent",
    "The sweep",
    "Datasets",
    "Labels (only written down)",
    "Output",
)


@verb
def benchmark(
    api_backend: Annotated[
        Literal["together", "openai", "vllm", "sglang"],
        Option(help="Whose API it is.", group=SERVER),
    ],
    api_base: Annotated[str, Option(help="The server, with or without /v1.", group=SERVER)],
    api_model_name: Annotated[str, Option(help="The model that requests ask for.", group=SERVER)],
    task: Annotated[
        Literal["text-to-text", "image-text-to-text", "text-to-embeddings", "text-to-rerank"],
        Option(help="What is asked.", group=LOAD),
    ],
    api_key: Annotated[
        str | None,
        Option(
            help="The key. Anyone on this machine can read it here: better is TOGETHER_API_KEY (or, "
            "with openai, OPENAI_API_KEY). Never written anywhere.",
            group=SERVER,
        ),
    ] = None,
    traffic_scenario: Annotated[
        list[str] | None,
        Option(
            help="D(in,out), N(mean,sd)/(mean,sd), U(min,max)/(min,max), E(tokens), R(document,query), "
            "I(width,height[,images]) or dataset; may be repeated. Default: genai-bench's for the task, "
            "or dataset where one is given.",
            group=LOAD,
        ),
    ] = None,
    additional_request_params: Annotated[
        str | None,
        Option(help="A JSON object, merged into every body last.", group=LOAD),
    ] = None,
    prefix_len: Annotated[
        int | None,
        Option(help="Tokens that all prompts begin with (D scenarios).", group=LOAD),
    ] = None,
    prefix_ratio: Annotated[
        float | None,
        Option(help="The same as a share of each prompt, 0 to 1.", group=LOAD),
    ] = None,
    model_tokenizer: Annotated[
        str | None,
        Option(
            help="A tokenizer.json, its folder, or a model in the local Hugging Face cache: exact lengths. "
            "Without it the server's own counts calibrate them.",
            group=LOAD,
        ),
    ] = None,
    num_concurrency: Annotated[
        list[str] | None,
        Option(
            help="In flight at once: 1,2,4; may be repeated. Default: 1,2,4 ... 256.", group=SWEEP
        ),
    ] = None,
    batch_size: Annotated[
        list[str] | None,
        Option(
            help="Texts in a request of embeddings or rerank: 1,2,4; may be repeated. Default: 1,2,4,8,24,48,"
            "96.",
            group=SWEEP,
        ),
    ] = None,
    iteration_type: Annotated[
        Literal["num_concurrency", "batch_size"] | None,
        Option(
            help="What is swept. Default: the batch size of embeddings and rerank, else the concurrency.",
            group=SWEEP,
        ),
    ] = None,
    rate: Annotated[
        list[str] | None,
        Option(
            help="Instead: requests come evenly, so many a second (open loop): 1,2,4.", group=SWEEP
        ),
    ] = None,
    poisson: Annotated[
        list[str] | None,
        Option(
            help="Instead: Poisson arrivals at so many a second (open loop): 1,2,4.", group=SWEEP
        ),
    ] = None,
    max_time_per_run: Annotated[
        float, Option(help="Minutes for a point, at most.", group=SWEEP)
    ] = 5.0,
    max_requests_per_run: Annotated[
        int, Option(help="Requests of a point, at most.", group=SWEEP)
    ] = 500,
    warmup_ratio: Annotated[
        float,
        Option(help="Share of a point's first requests that does not count.", group=SWEEP),
    ] = 0.0,
    cooldown_ratio: Annotated[
        float,
        Option(help="Share of a point's last requests that does not count.", group=SWEEP),
    ] = 0.0,
    repeats: Annotated[int, Option(help="Runs of each point.", group=SWEEP)] = 1,
    spawn_rate: Annotated[
        float | None,
        Option(
            help="The concurrency grows by so many a second. Default: all at once.", group=SWEEP
        ),
    ] = None,
    seed: Annotated[int, Option(help="For prompts and arrivals.", group=SWEEP)] = 0,
    slo: Annotated[
        str | None,
        Option(
            help="ttft<500ms,tpot<50ms,e2e<3s: how many requests of each point keep to all of it.",
            group=SWEEP,
        ),
    ] = None,
    saturate: Annotated[
        bool,
        Option(
            help="Search the highest concurrency (or --rate, --poisson) at which --slo-share of the requests "
            "keep to --slo, from the first value given: doubling, then halving the gap.",
            group=SWEEP,
        ),
    ] = False,
    slo_share: Annotated[str, Option(help="For --saturate.", group=SWEEP)] = "99%",
    dataset_path: Annotated[
        str | None,
        Option(
            help="Text, CSV, JSON or Parquet file, image folder, Hugging Face name, or dataset-config JSON.",
            group=DATA,
        ),
    ] = None,
    dataset_config: Annotated[
        Path | None, Option(help="A dataset-config JSON.", group=DATA)
    ] = None,
    dataset_prompt_column: Annotated[
        str | None, Option(help="Where prompts are.", group=DATA)
    ] = None,
    dataset_image_column: Annotated[
        str | None, Option(help="Where images are.", group=DATA)
    ] = None,
    model: Annotated[
        str | None,
        Option(
            help="Its name in results. Default: of the tokenizer, or as asked for.", group=LABELS
        ),
    ] = None,
    server_engine: Annotated[str | None, Option(help="Such as vLLM.", group=LABELS)] = None,
    server_version: Annotated[str | None, Option(help="The engine's.", group=LABELS)] = None,
    server_gpu_type: Annotated[str | None, Option(help="Such as H100.", group=LABELS)] = None,
    server_gpu_count: Annotated[str | None, Option(help="How many.", group=LABELS)] = None,
    experiment_folder_name: Annotated[
        str | None,
        Option(help="Default: backend, task, model and time.", group=OUTPUT),
    ] = None,
    experiment_base_dir: Annotated[
        Path | None,
        Option(help="Where the folder is made. Default: here.", group=OUTPUT),
    ] = None,
    resume: Annotated[
        bool,
        Option(
            help="Go on with the folder of that name: points that are there are not made again.",
            group=OUTPUT,
        ),
    ] = False,
    log_dir: Annotated[
        Path | None,
        Option(help="Where benchmark.log goes. Default: the folder.", group=OUTPUT),
    ] = None,
    metrics_time_unit: Annotated[
        Literal["s", "ms"], Option(help="Of latencies in results.", group=OUTPUT)
    ] = "s",
    summary: Annotated[
        bool,
        Option(
            help="Write the workbook and the pictures at the end (excel and plot make them later, too).",
            flag="--summary/--no-summary",
            group=OUTPUT,
        ),
    ] = True,
    upload_results: Annotated[
        str | None,
        Option(
            help="Also put the folder below this URL at the end: s3://bucket/prefix, gs://, az://, "
            "file:///folder (whatever fsspec knows). Checked before anything is sent; credentials come from "
            "the environment.",
            unit="URL",
            group=OUTPUT,
        ),
    ] = None,
    upload_traces: Annotated[
        bool,
        Option(
            help="With traces/, which hold the prompts: without it they stay here.", group=OUTPUT
        ),
    ] = False,
    num_workers: Annotated[
        int,
        Option(help="Processes that send; 0: as many as it takes.", group=OUTPUT),
    ] = 0,
    timeout: Annotated[float, Option(help="Seconds for one request.", group=SERVER)] = 600.0,
    as_json: Annotated[
        bool, Option(help="Print one JSON object.", flag="--json", group=OUTPUT)
    ] = False,
) -> int:
    """Measure a model at every point of a sweep: scenario by concurrency, batch size or rate.

    The folder has genai-bench's layout and JSON, and beside them the runs, which report and compare read.
    A point whose requests all fail is a result. Ends with 0; 4 where a point's own client was the limit; 5
    where nothing succeeds, or files could not be uploaded; 130 when interrupted (--resume goes on).
    """
    options = {name: value for name, value in locals().items() if name != "as_json"}
    from tbench.benchmark.commands.benchmarking import benchmarked
    from tbench.benchmark.options import BenchmarkOptions

    return benchmarked(BenchmarkOptions(**options), as_json=as_json)


# genai-bench's flags for uploads: refused with one line that says what to write here instead.

SCHEMES: Final = {"aws": "s3", "azure": "az", "gcp": "gs"}
"""Its --storage-provider, and the scheme of a URL."""
ABSENT: Final = {
    "oci": "; OCI's S3-compatible endpoint goes in AWS_ENDPOINT_URL",
    "github": "; GitHub releases are no store for it",
}


class Benchmark(Verb):
    """`tbench benchmark`, which looks at genai-bench's flags for uploads before its options are read."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        refuse(args)
        return super().parse_args(ctx, args)


def refuse(words: Sequence[str]) -> None:
    """Raise InputError for one of them, or for --upload-results without a value, which is theirs."""
    given = _given(words)
    theirs = [flag for flag in given if flag.startswith(("--storage-", "--github-"))]
    if "--namespace" in given:
        theirs.append("--namespace")
    bare = "--upload-results" in given and given["--upload-results"] is None
    if not theirs and not bare:
        return
    provider = given.get("--storage-provider") or "oci"
    scheme = SCHEMES.get(provider, "s3")
    place = f"{given.get('--storage-bucket') or 'BUCKET'}/{given.get('--storage-prefix') or ''}"
    raise InputError(
        f"{theirs[0] if theirs else '--upload-results'}: here the place is one URL: --upload-results "
        f"{scheme}://{place.rstrip('/')}, and credentials come from the environment (docs/genai-bench.md)"
        f"{ABSENT.get(provider, '') if theirs else ''}"
    )


def _given(words: Sequence[str]) -> dict[str, str | None]:
    """The flags, each with its value where the next word, or what stands behind `=`, is one."""
    found: dict[str, str | None] = {}
    for word, behind in pairwise([*words, "--"]):
        flag, mark, value = word.partition("=")
        if flag.startswith("--"):
            found[flag] = value if mark else None if behind.startswith("--") else behind
    return found
