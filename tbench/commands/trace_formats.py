"""tbench trace import and export: traces of the logs of others, and traces and runs in their formats.

Both say what was lost on the way.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tbench.board import Board
from tbench.capture.option import Option
from tbench.capture.synthesis.options import LENGTHS, BlockTokens, CharsPerToken, Tokenizer
from tbench.capture.terminal import named, plural
from tbench.commands.trace_tools import followed, say_losses
from tbench.flags import verb
from tbench.replay.options import Only

if TYPE_CHECKING:
    from tbench.capture.importers.conversion import Job, Survey
    from tbench.replay.columns import Column
    from tbench.replay.runfile import Run

TIMES = "Times"


@verb
def import_trace(
    files: Annotated[
        list[Path],
        Option(
            help="Logs of one format: JSONL, JSON, CSV or Parquet, plain or gzip.",
            unit="FILE",
            argument=True,
        ),
    ],
    *,
    out: Annotated[
        Path,
        Option(
            help="Trace to write; it must not exist.", unit="TRACE", flag="--output", short="-o"
        ),
    ],
    format_name: Annotated[
        str | None,
        Option(
            help="Format of the files; docs/import.md has them.",
            unit="NAME",
            flag="--format",
            default="told by their content",
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        Option(
            help="Where a field of any log stands, and a time's unit (s, ms, us, ns, iso): arrival=ts:ms, "
            "duration=took:s, messages=request.messages; also end, ttft, first_token, body, prompt, answer, "
            "path, model, prompt_tokens, output_tokens, session, status, id. Repeatable.",
            unit="FIELD=PATH",
            flag="--map",
        ),
    ] = None,
    model: Annotated[
        str, Option(help="Model of requests whose log names none.", unit="NAME")
    ] = "unknown-model",
    rate: Annotated[
        float,
        Option(
            help="Spacing of requests whose log has no times, requests/s.",
            unit="RATE",
            group=TIMES,
            above=0,
        ),
    ] = 1.0,
    spread: Annotated[
        bool,
        Option(help="Draw arrivals of a coarse clock within its tick, seeded.", group=TIMES),
    ] = False,
    seed: Annotated[int, Option(help="Seed of written prompts and of --spread.", unit="N")] = 0,
    tokenizer: Tokenizer = None,
    chars_per_token: CharsPerToken = None,
    block_tokens: BlockTokens = None,
    prompt_tokens: Annotated[
        int | None,
        Option(
            help="Tokens of prompts to write where the log has neither content nor a size.",
            unit="TOKENS",
            group=LENGTHS,
            default="such requests are left out",
            least=1,
            most=2**22,
        ),
    ] = None,
) -> None:
    """Make a trace of a log or of a public trace; every row is imported or left out with its reason.

    A time that the log does not have is absent, never guessed. Where there are only lengths, prompts of those
    lengths are written. Times come from the log: `trace info` says which, and which were derived.
    """
    from tbench.capture.importers.conversion import resolve, survey, write
    from tbench.capture.synthesis.tokens import counter

    job = resolve(
        files,
        tokens=counter(tokenizer, chars_per_token),
        model=model,
        format_name=format_name,
        fields=fields or (),
        block_tokens=block_tokens,
        prompt_tokens=prompt_tokens,
        rate=rate,
        spread=spread,
        seed=seed,
    )
    for notice in job.notices:
        typer.echo(notice, err=True)
    with Board() as board:

        def show(step: str, done: int, total: int) -> None:
            if board.due():
                board.show(f"{step}: {done / max(total, 1):.0%} of {total / 1e6:,.1f} MB")

        counts = survey(job, partial(show, "reading"))
        write(job, counts, out, partial(show, "writing"))
    _report(job, counts, out)


def _report(job: "Job", counts: "Survey", out: Path) -> None:
    """What was imported to stdout; what was lost or is not as it seems to stderr."""
    from tbench.capture.importers.conversion import reasons

    left = counts.rows - counts.exchanges
    typer.echo(
        f"{out}: {plural(counts.exchanges, 'exchange')} of {plural(counts.rows, 'row')} ({job.format}); "
        f"{left:,} left out" + (f": {reasons(counts)}" if left else "")
    )
    if not job.timed:
        typer.echo(f"no arrivals in {job.format}: requests are spaced at {job.rate:g}/s", err=True)
    if tick := counts.ticks.tick_ns:
        done = "arrivals are drawn within it" if job.spread else "--spread draws them within it"
        typer.echo(
            f"arrivals stand on a clock of {tick / 1e9:g} s ({counts.ticks.together:,} at the instant of "
            f"another): bursts may be the clock's; {done}",
            err=True,
        )
    if 2 * counts.ticks.backward > counts.ticks.arrivals:
        typer.echo(
            f"rows stand newest first ({counts.ticks.backward:,} of {counts.ticks.arrivals:,} before the one "
            "above): no retry is known as one, a replay sends each again; sort the log by time",
            err=True,
        )
    for reason, number in counts.refused.most_common():
        typer.echo(f"{plural(number, 'first-token time')} {reason}: taken as absent", err=True)
    if counts.undated_answers:
        typer.echo(
            f"{plural(counts.undated_answers, 'answer')} without an end: not in the trace", err=True
        )
    if counts.unnamed:
        typer.echo(
            f"{plural(counts.unnamed, 'request')} of no known model, asked of {job.model}: replay --model "
            "names another",
            err=True,
        )
    if written := counts.bodies["written"]:
        typer.echo(
            f"{plural(written, 'prompt')} written to length, counted by {job.tokens.source}",
            err=True,
        )
    if job.importer.cannot:
        typer.echo(f"not in {job.format}: {job.importer.cannot}", err=True)


def import_lines(imported: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What `trace info` says of an imported trace: its source, what was left out, the trust of its times."""
    left_out, trust = imported.get("left_out") or {}, imported.get("trust") or {}
    files = ", ".join(map(str, imported.get("files") or ()))
    yield "imported", named(f"{imported.get('format')} from {files}: {imported.get('rows')} rows")
    if left_out:
        yield (
            "left out",
            "; ".join(f"{number:,} {named(reason)}" for reason, number in left_out.items()),
        )
    words = [f"{name.replace('_', ' ')} {trust[name]}" for name in TRUSTED if name in trust]
    absent = [name.replace("_", " ") for name in TRUSTED if name not in trust]
    yield "times", named(", ".join([*words, *(f"{name} absent" for name in absent)]))
    if tick := imported.get("tick_ns"):
        spread = "arrivals spread within it" if imported.get("spread") else "arrivals as logged"
        yield "clock", f"ticks of {tick / 1e9:g} s, {spread}"
    bodies = imported.get("bodies") or {}
    yield (
        "prompts",
        named(", ".join(f"{number:,} {kind}" for kind, number in bodies.items() if number)),
    )


TRUSTED = ("arrival", "first_token", "end")


SUFFIXES: Final = {".csv": "csv", ".parquet": "parquet", ".har": "har", ".yaml": "vcr"}
"""The formats that a file's name tells."""


@verb
def export_trace(
    trace: Annotated[
        str, Option(help="A trace as above, or a run.", unit="TRACE|RUN", argument=True)
    ],
    *,
    format_name: Annotated[
        str | None,
        Option(
            help="openai-batch, evalscope, mooncake, otlp, har, vcr, csv or parquet (a run's: the last two).",
            unit="NAME",
            flag="--format",
            default="told by the file's name: .csv, .parquet, .har, .yaml",
        ),
    ] = None,
    block_tokens: BlockTokens = None,
    only: Only = (),
    out: Annotated[
        Path,
        Option(help="File to write; it must not exist.", unit="FILE", flag="--output", short="-o"),
    ],
) -> None:
    """Write a trace in the format of another tool; list what it cannot hold, count what is left out.

    Files hold no credentials: a trace has none, and headers with some are left out.
    """
    from tbench.capture.container_reader import open_container
    from tbench.capture.errors import InputError
    from tbench.capture.exporters import EXPORTERS
    from tbench.capture.exporters.exporter import Job, export
    from tbench.capture.filters import bind
    from tbench.capture.remote import as_path
    from tbench.capture.trace_reader import read_trace

    name = format_name or SUFFIXES.get(out.suffix.lower(), "")
    if name not in EXPORTERS:
        raise InputError(
            f"--format {name}: choose one of {', '.join(EXPORTERS)}"
            if name
            else f"{out}: does not tell the format; give --format of {', '.join(EXPORTERS)}"
        )
    path = as_path(trace)
    if path.is_file() and open_container(path).header.get("kind") == "run":
        _export_run(path, name, out, filtered=bool(only))
        return
    source = read_trace(trace)
    job = Job(trace=source, wanted=bind(only, source), block_tokens=block_tokens or 512)
    exporter = EXPORTERS[name]
    with followed(source):
        counts = export(exporter, job, out)
    left = counts.read - counts.rows
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in counts.left_out.most_common())
    typer.echo(
        f"{out}: {counts.rows:,} of {plural(counts.read, 'exchange')} ({name}); {left:,} left out"
        + (f": {reasons}" if left else "")
    )
    say_losses(source.losses)
    if not source.header.wall_ns:
        typer.echo(
            "the trace has no dates: its first arrival stands as 1970-01-01T00:00:00Z", err=True
        )
    if name == "mooncake":
        typer.echo(f"a hash id stands for {job.block_tokens:,} tokens", err=True)
    typer.echo(f"not in {name}: {exporter.cannot}", err=True)


def _export_run(run: Path, name: str, out: Path, *, filtered: bool) -> None:
    """Write every sample of a run as a row: its columns as the run has them, and the latencies from them."""
    from tbench.analysis.arms import load_arm
    from tbench.capture.errors import InputError
    from tbench.capture.exporters.exporter import new_file
    from tbench.capture.exporters.rows import TABLES
    from tbench.replay.runfile import read_parts, samples_of
    from tbench.replay.table import EVERY

    if name not in TABLES:
        raise InputError(f"{run}: a run; its samples can be {' or '.join(TABLES)}, not {name}")
    if filtered:
        raise InputError("--only: of a trace, not of a run, which has its own (replay --only)")
    # A part of a run at a time; one that was killed has no closing figures, and is held as a whole.
    parts = read_parts(run, EVERY) if samples_of(run) else iter(())
    first = next(parts, None) or load_arm(run).run
    kinds = {"f": "number", "i": "count", "b": "truth"}
    types = {column: kinds.get(each.dtype.kind, "text") for column, each in _arrays(first).items()}
    total = 0

    def columns() -> Iterator[Mapping[str, Any]]:
        nonlocal total
        for part in chain([first], parts):
            total += len(part)
            yield _arrays(part)

    with new_file(out) as file:
        TABLES[name](types, columns(), file)
    typer.echo(f"{out}: {plural(total, 'sample')} ({name})")
    typer.echo(
        f"not in {name}: the times of tokens, kept answers, what the run says of itself", err=True
    )


def _arrays(run: "Run") -> "dict[str, Column]":
    """The columns of a run, and the latencies from them."""
    from tbench.replay import metrics

    latencies = {name: metrics.METRICS[name].of(run.columns) for name in ("ttft", "tpot", "e2e")}
    columns = {column: run.columns[column] for column in run.columns}
    return columns | {f"{name}_s": values for name, values in latencies.items()}
