"""Workload: which requests are to be made, all in one value; the options of a synthesis, resolved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tbench.capture.errors import InputError
from tbench.capture.exchange import NOTHING
from tbench.capture.redact import hides
from tbench.capture.synthesis.dataset import (
    Columns,
    Dataset,
    is_dataset_config,
    load_dataset,
    load_dataset_config,
)
from tbench.capture.synthesis.options import Api, SynthOptions
from tbench.capture.synthesis.scenario import Scenario, Task, check_task, parse
from tbench.capture.synthesis.tokens import Tokens, counter, estimated
from tbench.capture.terminal import escaped

BATCHED = frozenset({"text-to-embeddings", "text-to-rerank"})
"""Tasks whose requests hold several documents."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests to synthesise. Equal workloads make equal requests; a longer one begins with the same ones.

    `api` is for tasks whose answers are text, `batch_size` documents per request of embeddings and rerank.
    `dataset` gives the prompts or images of the scenario `dataset`, else the lines that texts are made of;
    without one both are generated.
    `prefix_len` is tokens that all prompts begin with, `prefix_ratio` their share of each prompt.
    `additional_request_params` are merged into each body last. `tokens` counts lengths.
    """

    task: Task
    model: str
    scenario: Scenario
    requests: int
    api: Api = "chat"
    batch_size: int = 1
    dataset: Dataset | None = None
    prefix_len: int | None = None
    prefix_ratio: float | None = None
    additional_request_params: Mapping[str, Any] = field(default=NOTHING)
    seed: int = 0
    tokens: Tokens = field(default_factory=estimated)

    def __post_init__(self) -> None:
        """Raise InputError for what contradicts itself."""
        check_task(self.scenario, self.task)
        if not self.model.isprintable() or not self.model:
            raise InputError("a workload needs the name of a model, in printable characters")
        if self.requests < 1 or self.batch_size < 1:
            raise InputError("a workload needs at least one request, and one document in a batch")
        if self.batch_size > 1 and self.task not in BATCHED:
            raise InputError(
                f"--batch-size {self.batch_size}: {self.task} sends one prompt a request"
            )
        if self.api != "chat" and self.task in BATCHED:
            raise InputError(f"--api {self.api}: {self.task} has an API of its own; drop --api")
        if self.from_dataset and self.dataset is None:
            raise InputError("scenario dataset: needs a dataset; give --dataset-path")
        data, pictures = self.dataset, self.task == "image-text-to-text"
        if data is not None and pictures and not data.pictures:
            raise InputError(f"{data.name}: no image in any row; give --dataset-image-column")
        if data is not None and not pictures and not data.prompts:
            raise InputError(f"{data.name}: no prompt in any row; {self.task} needs text")
        self._check_prefix()

    @property
    def from_dataset(self) -> bool:
        """Whether requests say what the dataset says, at its lengths."""
        return self.scenario.form == "dataset"

    @property
    def prefix_tokens(self) -> int:
        """Tokens that all prompts share by construction."""
        if self.prefix_ratio is not None:
            return round(self.prefix_ratio * self.scenario.numbers[0])
        return self.prefix_len or 0

    def description(self) -> dict[str, Any]:
        """What a trace of it says about itself: all that decides its bytes.

        Of a chat it names no API, so that its ids are those of the time before there was a choice.
        """
        data = self.dataset
        return {
            **({} if self.api == "chat" else {"api": self.api}),
            "task": self.task,
            "scenario": str(self.scenario),
            "model": self.model,
            "requests": self.requests,
            "batch_size": self.batch_size,
            "dataset": None if data is None else f"{escaped(data.name)} ({data.digest})",
            "left_out": {} if data is None else dict(data.left_out),
            "prefix_tokens": self.prefix_tokens,
            "additional_request_params": dict(self.additional_request_params),
            "seed": self.seed,
            "tokens": self.tokens.source,
        }

    def _check_prefix(self) -> None:
        if self.prefix_len is None and self.prefix_ratio is None:
            return
        if self.prefix_len is not None and self.prefix_ratio is not None:
            raise InputError("--prefix-len and --prefix-ratio say the same thing twice; give one")
        option = "--prefix-len" if self.prefix_ratio is None else "--prefix-ratio"
        if self.scenario.form != "D":
            raise InputError(
                f"{option} goes with D(in,out) scenarios only, not with {self.scenario}"
            )
        if self.prefix_len is not None and self.prefix_len < 0:
            raise InputError(f"{option} {self.prefix_len}: give a number of tokens from 0")
        if self.prefix_ratio is not None and not 0 <= self.prefix_ratio <= 1:
            raise InputError(f"{option} {self.prefix_ratio:g}: give a share from 0 to 1")
        if self.prefix_tokens >= self.scenario.numbers[0]:
            raise InputError(
                f"{option}: a shared prefix of {self.prefix_tokens} tokens leaves nothing of {self.scenario} "
                "to tell its prompts apart; make it shorter"
            )


def resolve(options: SynthOptions) -> Workload:
    """The workload, with its tokenizer and its dataset loaded. Raises InputError."""
    scenario, dataset = options.scenario, _dataset(options)
    if scenario is None and dataset is None:
        raise InputError("no workload: give --scenario, such as 'D(100,100)', or --dataset-path")
    params = read_params(options.additional_request_params)
    if secrets := [name for name, value in params.items() if hides(name, value)]:
        raise InputError(
            f"--additional-request-params {secrets[0]}: this may be a credential, which no trace holds; "
            "give it when the trace is sent, by replay --set"
        )
    return Workload(
        task=options.task,
        api=options.api,
        model=options.model,
        scenario=parse(scenario or "dataset"),
        dataset=dataset,
        requests=options.requests,
        batch_size=options.batch_size,
        prefix_len=options.prefix_len,
        prefix_ratio=options.prefix_ratio,
        additional_request_params=params,
        seed=options.seed,
        tokens=counter(options.tokenizer, options.chars_per_token),
    )


def _dataset(options: SynthOptions) -> Dataset | None:
    """The dataset that is named, if any."""
    pictures = options.task == "image-text-to-text"
    column = options.dataset_prompt_column or options.dataset_image_column
    if options.dataset_image_column and not pictures:
        raise InputError(f"--dataset-image-column: {options.task} sends no images")
    columns = Columns(
        prompt=options.dataset_prompt_column, image=options.dataset_image_column, pictures=pictures
    )
    if options.dataset_config is not None and options.dataset_path is not None:
        raise InputError("--dataset-path and --dataset-config both name a dataset; give one")
    if options.dataset_config is not None:
        return load_dataset_config(Path(options.dataset_config), columns)
    if options.dataset_path is None:
        if column:
            raise InputError(f"a dataset column ({column}) needs --dataset-path")
        return None
    if is_dataset_config(path := Path(options.dataset_path).expanduser()):
        return load_dataset_config(path, columns)
    return load_dataset(options.dataset_path, columns)


def read_params(text: str | None) -> dict[str, Any]:
    """The members of a JSON object, such as '{"temperature": 0.7}'."""
    try:
        params = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise InputError(f"--additional-request-params: not JSON: {error}") from None
    if not isinstance(params, dict):
        raise InputError(
            "--additional-request-params: give a JSON object, such as '{\"top_p\": 0.9}'"
        )
    return params
