"""tbench trace: look into traces, check, repair and synthesise them, take their content out."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from tbench.capture.option import Option
from tbench.capture.synthesis.options import SynthOptions, Tokenizer
from tbench.capture.terminal import named, one_line, plural
from tbench.commands.output import Json
from tbench.commands.trace_formats import export_trace, import_lines, import_trace
from tbench.commands.trace_tools import (
    Number,
    Out,
    Source,
    columns,
    compare_mixes,
    diff,
    filter_trace,
    losses_text,
    merge_traces,
    sample_trace,
    say_losses,
    slice_trace,
    split,
)
from tbench.flags import Verb, Verbs, verb
from tbench.replay.options import Only

if TYPE_CHECKING:
    from tbench.capture.trace_reader import Trace


ARRIVALS = "Arrivals"


@verb
def synth(
    options: SynthOptions,
    *,
    out: Annotated[
        Path,
        Option(help="Trace to write; it must not exist.", unit="FILE", flag="--output", short="-o"),
    ],
    rate: Annotated[
        float | None,
        Option(
            help="Evenly spaced arrivals, requests/s.",
            unit="RATE",
            group=ARRIVALS,
            default="1",
            above=0,
        ),
    ] = None,
    poisson: Annotated[
        float | None,
        Option(help="Poisson arrivals instead, requests/s.", unit="RATE", group=ARRIVALS, above=0),
    ] = None,
) -> None:
    """Make a trace from a scenario or a dataset, to be replayed with any pacing.

    Prompt tokens are those of the text alone: a server's chat template adds its own.
    """
    from tbench.capture.errors import InputError
    from tbench.capture.synthesis.generate import Arrivals, write
    from tbench.capture.synthesis.workload import resolve

    if rate is not None and poisson is not None:
        raise InputError("--rate and --poisson both say when requests come; give one")
    workload = resolve(options)
    if workload.dataset and (complaint := workload.dataset.complaint()):
        typer.echo(complaint, err=True)
    given = rate if poisson is None else poisson
    arrivals = Arrivals(1.0 if given is None else given, poisson=poisson is not None)
    write(workload, out, arrivals=arrivals)
    typer.echo(f"{out}: {plural(options.requests, 'request')}; lengths by {workload.tokens.source}")


@verb
def info(trace: Source, json: Json = False) -> None:
    """Show what a trace holds: requests, outcomes, models, tokens, burstiness, losses.

    Burstiness (idc) is the variance of the arrivals per window over their mean: 1 is Poisson traffic.
    Dropped: records that the capture could not write. Damage is counted, never an error.
    """
    from tbench.capture.trace_info import trace_info
    from tbench.capture.trace_reader import read_trace

    records = read_trace(trace)
    figures = trace_info(records)
    if json:
        _print_json(figures)
        return
    files = records.files
    typer.echo(f"{files[0]}" + (f" and {len(files) - 1} more" if files[1:] else ""))
    for name, value in _lines(records, figures):
        typer.echo(f"  {name:<14}{value}")


@verb
def head(
    trace: Source,
    number: Number = 10,
    bodies: Annotated[bool, Option(help="Print the bodies, too.")] = False,
    decode: Annotated[
        bool, Option(help="Print what was said, too: messages and answer, put together.")
    ] = False,
    only: Only = (),
    json: Json = False,
) -> None:
    """List the first exchanges by arrival, one line each; prompts only with --bodies or --decode.

    What the capture masked stays masked.
    """
    from itertools import islice

    from tbench.capture.filters import Pass, bind, none_left
    from tbench.capture.trace_info import decoded, exchange_row
    from tbench.capture.trace_reader import read_trace

    source = read_trace(trace)
    walk = Pass(bind(only, source), sessions=True)
    rows = []
    for exchange in islice(filter(walk.keeps, source), number):
        row = exchange_row(exchange, bodies=bodies) | {"session": walk.session}
        rows.append(row | decoded(exchange) if decode else row)
    if only and not rows:
        raise none_left(trace, only)
    if json:
        _print_json({"exchanges": rows})
    else:
        _print_rows(rows)


@verb
def check(trace: Source) -> int:
    """Read every byte of a trace. Exit code 0: sound; 4: damaged, cut or lossy; 2: not a trace."""
    from tbench.capture.repair import check as check_trace

    verdict = check_trace(trace)
    for line in verdict.problems:
        typer.echo(f"{trace}: {line}")
    for line in verdict.notes:
        typer.echo(f"{trace}: note: {line}")
    typer.echo(f"{trace}: {'not sound' if verdict.problems else 'sound'}")
    return 4 if verdict.problems else 0


@verb
def repair(
    trace: Source,
    out: Out,
) -> None:
    """Copy every sound block of a trace, all its segments, into one new file with a new index."""
    from tbench.capture.repair import repair as repair_trace

    lost = repair_trace(trace, out)
    typer.echo(f"{out}: written; {losses_text(lost) or 'nothing was lost'}")


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


VERBS: Final[Mapping[str, Callable[..., int | None]]] = {
    "info": info,
    "head": head,
    "check": check,
    "repair": repair,
    "synth": synth,
    "import": import_trace,
    "export": export_trace,
    "redact": redact_trace,
    "slice": slice_trace,
    "filter": filter_trace,
    "sample": sample_trace,
    "merge": merge_traces,
    "split": split,
    "compare": compare_mixes,
    "diff": diff,
}
app = typer.Typer(cls=Verbs, help="Show, make, check, repair, cut and join traces.")
for name, run in VERBS.items():
    app.command(name, cls=Verb)(run)


def _print_json(figures: Mapping[str, Any]) -> None:
    from json import dumps

    typer.echo(dumps(figures))


def _lines(trace: "Trace", figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures for people, with units."""
    retries, incomplete = figures["retries"], figures["incomplete"]
    if incomplete is None:
        yield "requests", f"{figures['requests']:,}"
        yield (
            "outcomes",
            f"no answers recorded ({'synthesised' if figures['synthesis'] else 'imported'})",
        )
    else:
        parts = [plural(retries, "retry", "retries"), f"{incomplete:,} incomplete"]
        if led := figures["redirected"]:
            parts.insert(1, f"{led:,} redirected back to the capture")
        yield "requests", f"{figures['requests']:,} ({', '.join(parts)})"
        yield "outcomes", _counts(figures["outcomes"])
    if count := figures["masked"]:
        hidden = "hold asterisks for credentials; replay --dry-run says how to put them back"
        yield "masked", f"{plural(count, 'request')} {hidden}"
    yield "duration", f"{figures['duration_s']:,.1f} s"
    if figures["first_arrival"]:
        yield "arrivals", f"{figures['first_arrival']} to {figures['last_arrival']}"
    yield "sessions", f"{figures['sessions']:,}"
    yield "models", _counts(figures["models"])
    yield "endpoints", _counts(figures["endpoints"])
    sides = {name: figures[f"{name}_tokens"] for name in ("prompt", "output")}
    if counted := [f"{tokens:,} {name}" for name, tokens in sides.items() if tokens is not None]:
        yield "tokens", ", ".join(counted)
    yield "bodies", f"{_bytes(figures['bytes'])} on the wire"
    idc = (
        f"{value:.2f} in {name} s" for name, value in figures["idc"].items() if value is not None
    )
    yield "burstiness", ", ".join(idc) or "-"
    try:
        yield from [*_origin_lines(trace, figures)]
    except (AttributeError, KeyError, TypeError, ValueError):  # of no writer that we know
        yield "made by", "unknown: its header cannot be read"
    yield "privacy", named(str(figures["privacy"]))
    for step in figures["steps"]:
        match step:
            case {
                "verb": str(made_by),
                "only": list(words),
                "requests": count,
                "of_requests": total,
            }:
                meant = "".join(f" --only {word}" for word in words)
                yield "made by", named(f"{made_by}{meant}: {count} of {total} requests")
    lost = [losses_text(trace.losses)]
    if size := figures["dropped_bytes"]:
        lost.insert(0, f"{_bytes(size)} of bodies dropped by the capture")
    if count := figures["dropped"]:
        lost.insert(0, f"{plural(count, 'record')} dropped by the capture")
    yield "lost", "; ".join(filter(None, lost)) or "nothing"


def _origin_lines(trace: "Trace", figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a trace comes from, by what its header says."""
    if made := figures["synthesis"]:  # nobody has sent it yet
        source = f"{made['task']}, scenario {made['scenario']}, seed {made['seed']}"
        yield "synthesised", named(source)
        yield "lengths by", named(str(made["tokens"]))
    elif figures["import"]:
        yield from import_lines(figures["import"])
    else:
        yield "recorded by", named(f"{trace.header.writer} at {trace.header.upstream or '-'}")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    words, times = (
        ("session", "method", "path", "model", "status", "outcome"),
        ("ttft_s", "e2e_s"),
    )
    table = [["offset", *words, "ttft", "e2e", "bytes", "tokens"]]
    table += [
        [
            f"{row['offset_s']:.3f} s",
            *("-" if row[name] is None else named(str(row[name])) for name in words),
            *("-" if row[name] is None else f"{row[name]:.3f} s" for name in times),
            _pair(row["request_bytes"], row["response_bytes"]),
            _pair(row["prompt_tokens"], row["output_tokens"]),
        ]
        for row in rows
    ]
    for line, row in zip(columns(table), [{}, *rows], strict=True):
        typer.echo(line)
        for name in ("request_body", "response_body"):
            if row.get(name) is not None:
                typer.echo(f"    {name.replace('_', ' ')}: {one_line(row[name])}")
        for message in row.get("messages", ()):
            typer.echo(f"    {named(message['role'])}: {one_line(message['text'])}")
        if answer := row.get("answer"):
            typer.echo(f"    answer: {one_line(answer)}")


def _pair(sent: int | None, received: int | None) -> str:
    """Both directions: sent > received."""
    return " > ".join("-" if count is None else str(count) for count in (sent, received))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{named(name)} {count:,}" for name, count in counts.items()) or "-"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
