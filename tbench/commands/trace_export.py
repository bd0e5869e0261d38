"""tbench trace export: a trace in the format of another tool, or the samples of a run as a table."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tbench.capture.option import Option
from tbench.capture.synthesis.options import BlockTokens
from tbench.capture.terminal import plural
from tbench.commands.trace_tools import followed, say_losses
from tbench.flags import verb
from tbench.replay.options import Only

if TYPE_CHECKING:
    from tbench.replay.columns import Column
    from tbench.replay.runfile import Run

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
