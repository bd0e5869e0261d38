"""tbench trace redact: a trace without its content, to be given away."""

from typing import Annotated, Literal

import typer

from tbench.capture.option import Option
from tbench.capture.synthesis.options import Tokenizer
from tbench.commands.trace_tools import Out, Source, say_losses
from tbench.flags import verb


@verb
def redact_trace(
    trace: Source,
    *,
    content: Annotated[
        Literal["shape", "hash", "drop", "keep"],
        Option(
            help="shape: made up, with the same lengths; it replays. hash: ids of the prompts' blocks, as "
            "Mooncake has them. drop: counts and times alone. keep: all but secrets.",
        ),
    ] = "shape",
    mask: Annotated[
        bool,
        Option(
            help="With keep: asterisks for e-mail addresses, phone and card numbers and keys in texts."
        ),
    ] = False,
    rename_model: Annotated[
        list[str] | None,
        Option(help="Rename a model in the copy; not with keep. Repeatable.", unit="OLD=NEW"),
    ] = None,
    tokenizer: Tokenizer = None,
    out: Out,
) -> None:
    """Copy a trace without its content, or with made-up content of the same shape. It cannot be reversed.

    Secrets are always removed. With shape, texts keep their bytes and tokens and the beginnings that they
    share, so that a server's cache shares as much; images, tools and arguments keep their sizes. Lengths,
    times and models stay, and reveal something: docs/privacy.md.
    """
    from tbench.capture.errors import InputError
    from tbench.capture.privacy.masks import Masks
    from tbench.capture.privacy.redaction import redact
    from tbench.capture.privacy.traffic import blanks, shape
    from tbench.capture.synthesis.tokens import load_tokens
    from tbench.capture.terminal import plural
    from tbench.capture.trace_reader import read_trace
    from tbench.replay.target import parse_models

    if content == "keep" and rename_model:
        raise InputError("--rename-model: --content keep changes no body; drop it")
    if content != "shape" and tokenizer is not None:
        raise InputError("--model-tokenizer: only --content shape counts tokens; drop it")
    if mask and content != "keep":
        raise InputError("--mask: only --content keep leaves texts to mask; drop it")
    source = read_trace(trace)
    tokens = None if tokenizer is None else load_tokens(tokenizer)
    models = parse_models(rename_model or [], "--rename-model")
    traffic = shape(tokens=tokens, models=models) if content == "shape" else blanks(models)
    copied = redact(
        source,
        out,
        content,
        None if content == "keep" else traffic,
        Masks() if mask else None,
    )
    lengths = f"; tokens by {traffic.bodies.stand_ins.source}" if content == "shape" else ""
    typer.echo(f"{out}: {plural(copied.requests, 'request')}{lengths}")
    removed = ", ".join(f"{count:,} {kind}" for kind, count in copied.removed.items())
    typer.echo(f"removed: {removed or 'nothing'}")
    say_losses(copied.lost, trace)
