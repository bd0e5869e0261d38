"""The options of a synthesised workload, one row each, for `tbench trace synth` and `tbench benchmark`.

Nothing is read here, so that `--help` starts at once; capture.synthesis.workload resolves the options.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tbench.capture.option import Option, check
from tbench.capture.synthesis.scenario import Task

CONTENT, DATASET, LENGTHS = "What is sent", "Dataset", "Lengths"

Api = Literal["chat", "messages", "responses"]
Tokenizer = Annotated[
    str | Path | None,
    Option(
        help="Count tokens by a tokenizer.json, its folder, or a name in the local Hugging Face cache.",
        unit="PATH",
        flag="--model-tokenizer",
        group=LENGTHS,
        default="lengths are estimated",
        read=str,
    ),
]
CharsPerToken = Annotated[
    float | None,
    Option(
        help="Measured characters per token, instead.",
        unit="NUMBER",
        flag="--chars-per-token",
        group=LENGTHS,
    ),
]
"""What counts tokens, for every verb that writes prompts; `capture.synthesis.tokens.counter` resolves it."""
BlockTokens = Annotated[
    int | None,
    Option(
        help="Tokens of the block that a hash id stands for.",
        unit="TOKENS",
        group=LENGTHS,
        default="the format's own, mostly 512",
        least=1,
        most=2**20,
    ),
]


@dataclass(frozen=True, kw_only=True)
class SynthOptions:
    """What a workload is asked to be. A value of None is one that was not given.

    Raises InputError for a value that makes no sense.
    """

    model: Annotated[str, Option(help="Model to ask for.", unit="NAME", group=CONTENT, common=True)]
    requests: Annotated[
        int,
        Option(help="Number of requests to make.", unit="N", group=CONTENT, least=1, common=True),
    ]
    task: Annotated[
        Task,
        Option(
            help="text-to-text, image-text-to-text, text-to-embeddings or text-to-rerank.",
            unit="TASK",
            group=CONTENT,
            common=True,
        ),
    ] = "text-to-text"
    api: Annotated[
        Api,
        Option(
            help="API that answers with text: chat completions, Anthropic's Messages or OpenAI's Responses.",
            group=CONTENT,
        ),
    ] = "chat"
    scenario: Annotated[
        str | None,
        Option(
            help="D(in,out), N(mean,sd)/(mean,sd), U(min,max)/(min,max) in tokens; E(tokens) for "
            "embeddings; R(document,query) for rerank; I(width,height[,images]) in pixels; dataset: its "
            "own rows.",
            unit="SCENARIO",
            group=CONTENT,
            default="dataset, where there is one",
        ),
    ] = None
    batch_size: Annotated[
        int,
        Option(
            help="Documents in a request of embeddings or rerank.", unit="N", group=CONTENT, least=1
        ),
    ] = 1
    additional_request_params: Annotated[
        str | None,
        Option(help="JSON object to merge into every body, last.", unit="JSON", group=CONTENT),
    ] = None
    seed: Annotated[
        int, Option(help="Seed; the same one makes the same requests.", unit="N", group=CONTENT)
    ] = 0
    dataset_path: Annotated[
        str | Path | None,
        Option(
            help="Prompts or images: a text, CSV, JSON, JSONL or Parquet file, a folder of images, a "
            "Hugging Face dataset, or a dataset-config.",
            unit="PATH",
            group=DATASET,
            read=str,
            common=True,
        ),
    ] = None
    dataset_config: Annotated[
        str | Path | None,
        Option(help="A dataset-config JSON, instead.", unit="FILE", group=DATASET, read=str),
    ] = None
    dataset_prompt_column: Annotated[
        str | None, Option(help="Column with the prompts.", unit="NAME", group=DATASET)
    ] = None
    dataset_image_column: Annotated[
        str | None, Option(help="Column with the images.", unit="NAME", group=DATASET)
    ] = None
    tokenizer: Tokenizer = None
    chars_per_token: CharsPerToken = None
    prefix_len: Annotated[
        int | None,
        Option(
            help="Tokens that all prompts begin with (D scenarios).", unit="TOKENS", group=LENGTHS
        ),
    ] = None
    prefix_ratio: Annotated[
        float | None,
        Option(help="The same as a share of each prompt, 0 to 1.", unit="SHARE", group=LENGTHS),
    ] = None

    def __post_init__(self) -> None:
        """Check every value by its row."""
        check(self)
