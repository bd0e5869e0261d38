"""tbench trace synth: a scenario or a dataset becomes a trace."""

from pathlib import Path
from typing import Annotated

import typer

WHAT, DATASET, LENGTHS, WHEN = "What is asked", "Dataset", "Lengths", "When"


def synth(
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="The trace, which must not exist.")
    ],
    model: Annotated[str, typer.Option(help="The model to ask for.", rich_help_panel=WHAT)],
    requests: Annotated[int, typer.Option(min=1, help="How many.", rich_help_panel=WHAT)],
    scenario: Annotated[
        str | None,
        typer.Option(
            help="D(in,out), N(mean,sd)/(mean,sd), U(min,max)/(min,max) in tokens; E(tokens) for "
            "embeddings; R(document,query) for rerank; I(width,height[,images]) in pixels; dataset: its own "
            "rows (the default with one).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="text-to-text, image-text-to-text, text-to-embeddings or text-to-rerank.",
            rich_help_panel=WHAT,
        ),
    ] = "text-to-text",
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Documents in a request of embeddings or rerank.", rich_help_panel=WHAT
        ),
    ] = 1,
    dataset_path: Annotated[
        str | None,
        typer.Option(
            help="Prompts or images: a text, CSV, JSON, JSONL or Parquet file, a folder of images, a Hugging "
            "Face dataset, or a dataset-config.",
            rich_help_panel=DATASET,
        ),
    ] = None,
    dataset_config: Annotated[
        str | None,
        typer.Option(help="A dataset-config JSON, instead.", rich_help_panel=DATASET),
    ] = None,
    dataset_prompt_column: Annotated[
        str | None, typer.Option(help="The column with the prompts.", rich_help_panel=DATASET)
    ] = None,
    dataset_image_column: Annotated[
        str | None, typer.Option(help="The column with the images.", rich_help_panel=DATASET)
    ] = None,
    additional_request_params: Annotated[
        str | None,
        typer.Option(help="JSON object merged into every body, last.", rich_help_panel=WHAT),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same file.", rich_help_panel=WHAT)
    ] = 0,
    model_tokenizer: Annotated[
        str | None,
        typer.Option(
            help="What counts tokens: a tokenizer.json, its folder, or a name in the local Hugging Face "
            "cache. Without one lengths are estimated.",
            rich_help_panel=LENGTHS,
        ),
    ] = None,
    chars_per_token: Annotated[
        float | None,
        typer.Option(help="Measured characters per token, instead.", rich_help_panel=LENGTHS),
    ] = None,
    prefix_len: Annotated[
        int | None,
        typer.Option(
            help="Tokens that all prompts begin with (D scenarios).", rich_help_panel=LENGTHS
        ),
    ] = None,
    prefix_ratio: Annotated[
        float | None,
        typer.Option(help="The same as a share of the prompt, 0 to 1.", rich_help_panel=LENGTHS),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Arrivals per second, evenly spaced (default: 1).", rich_help_panel=WHEN),
    ] = None,
    poisson: Annotated[
        float | None,
        typer.Option(help="Poisson arrivals at this rate instead.", rich_help_panel=WHEN),
    ] = None,
) -> None:
    """Make a trace from a scenario or a dataset, to be replayed with any pacing.

    Prompt tokens are those of the text alone: a server's chat template adds its own.
    """
    from tbench.capture.errors import InputError
    from tbench.capture.synthesis import Arrivals, write
    from tbench.capture.synthesis.order import Order
    from tbench.capture.terminal import plural

    if rate is not None and poisson is not None:
        raise InputError("--rate and --poisson both say when requests come; give one")
    order = Order(
        task=task,
        model=model,
        scenario=scenario,
        requests=requests,
        batch_size=batch_size,
        dataset_path=dataset_path,
        dataset_config=dataset_config,
        dataset_prompt_column=dataset_prompt_column,
        dataset_image_column=dataset_image_column,
        prefix_len=prefix_len,
        prefix_ratio=prefix_ratio,
        additional_request_params=additional_request_params,
        seed=seed,
        tokenizer=model_tokenizer,
        chars_per_token=chars_per_token,
    )
    workload = order.workload()
    if workload.dataset and (complaint := workload.dataset.complaint()):
        typer.echo(complaint, err=True)
    given = rate if poisson is None else poisson
    arrivals = Arrivals(1.0 if given is None else given, poisson=poisson is not None)
    write(workload, out, arrivals=arrivals)
    typer.echo(f"{out}: {plural(requests, 'request')}; lengths by {workload.tokens.source}")
