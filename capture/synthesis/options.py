"""The order: a workload as a user words it, checked and made into one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from tbench.capture.errors import InputError
from tbench.capture.redact import hides
from tbench.capture.synthesis.dataset import Columns, Dataset, load_dataset
from tbench.capture.synthesis.dataset_config import is_recipe, load_recipe
from tbench.capture.synthesis.scenario import SCENARIOS, Task, parse
from tbench.capture.synthesis.tokens import Tokens, calibrated, estimated, load_tokens
from tbench.capture.synthesis.workload import Workload


@dataclass(frozen=True, kw_only=True)
class SynthOptions:
    """The options of `tbench trace synth`, None where not given.

    `dataset_path` is a file, a folder, a name on the Hub, or a dataset-config, for which `dataset_config`
    is the unmistakable way; with a dataset and no scenario, its own rows are sent.
    `tokenizer` is a tokenizer.json, its folder or a name in the local Hugging Face cache; `chars_per_token`
    stands in for it; with neither, lengths are estimated. `additional_request_params` is a JSON object.
    """

    task: str
    model: str
    scenario: str | None
    requests: int
    batch_size: int = 1
    dataset_path: str | Path | None = None
    dataset_config: str | Path | None = None
    dataset_prompt_column: str | None = None
    dataset_image_column: str | None = None
    prefix_len: int | None = None
    prefix_ratio: float | None = None
    additional_request_params: str | None = None
    seed: int = 0
    tokenizer: str | Path | None = None
    chars_per_token: float | None = None

    def workload(self) -> Workload:
        """The workload, with its tokenizer and its dataset loaded. Raises InputError."""
        scenario, dataset = self.scenario, self.dataset()
        if scenario is None and dataset is None:
            raise InputError(
                "no workload: give --scenario, such as 'D(100,100)', or --dataset-path"
            )
        params = read_params(self.additional_request_params)
        if secret := [name for name, value in params.items() if hides(name, value)]:
            raise InputError(
                f"--additional-request-params {secret[0]}: this may be a credential, which no trace holds; "
                "give it when the trace is sent, by replay --set"
            )
        return Workload(
            task=read_task(self.task),
            model=self.model,
            scenario=parse(scenario or "dataset"),
            dataset=dataset,
            requests=self.requests,
            batch_size=self.batch_size,
            prefix_len=self.prefix_len,
            prefix_ratio=self.prefix_ratio,
            additional_request_params=params,
            seed=self.seed,
            tokens=self._tokens(),
        )

    def dataset(self) -> Dataset | None:
        """The dataset that is named, if any."""
        pictures = read_task(self.task) == "image-text-to-text"
        named = self.dataset_prompt_column or self.dataset_image_column
        if self.dataset_image_column and not pictures:
            raise InputError(f"--dataset-image-column: {self.task} sends no images")
        columns = Columns(
            prompt=self.dataset_prompt_column, image=self.dataset_image_column, pictures=pictures
        )
        if self.dataset_config is not None and self.dataset_path is not None:
            raise InputError("--dataset-path and --dataset-config both name a dataset; give one")
        if self.dataset_config is not None:
            return load_recipe(Path(self.dataset_config), columns)
        if self.dataset_path is None:
            if named:
                raise InputError(f"a dataset column ({named}) needs --dataset-path")
            return None
        if is_recipe(path := Path(self.dataset_path).expanduser()):
            return load_recipe(path, columns)
        return load_dataset(self.dataset_path, columns)

    def _tokens(self) -> Tokens:
        if self.tokenizer is not None and self.chars_per_token is not None:
            raise InputError("--model-tokenizer and --chars-per-token both say lengths; give one")
        if self.tokenizer is not None:
            return load_tokens(self.tokenizer)
        return estimated() if self.chars_per_token is None else calibrated(self.chars_per_token)


def read_task(text: str) -> Task:
    """A task by its name."""
    if text not in SCENARIOS:
        raise InputError(f"--task {text}: not one of {', '.join(SCENARIOS)}")
    return cast("Task", text)


def read_params(text: str | None) -> dict[str, Any]:
    """The members of a JSON object, such as '{"temperature": 0.7}'."""
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise InputError(f"--additional-request-params: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(
            "--additional-request-params: give a JSON object, such as '{\"top_p\": 0.9}'"
        )
    return found
