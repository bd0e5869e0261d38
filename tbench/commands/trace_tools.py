"""tbench trace slice, filter, sample, merge, split: parts of traces, and traces of parts, byte for byte."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tbench.capture.option import Option
from tbench.capture.terminal import plural
from tbench.flags import verb
from tbench.replay.options import Only

if TYPE_CHECKING:
    from tbench.capture.container_reader import Losses
    from tbench.capture.copying import Copied
    from tbench.capture.trace_reader import Trace

Source = Annotated[
    str,
    Option(
        help="A trace: its first file, a folder or a glob; .part too.", unit="TRACE", argument=True
    ),
]
Out = Annotated[
    Path,
    Option(help="Trace to write; it must not exist.", unit="FILE", flag="--output", short="-o"),
]


@verb
def slice_trace(
    trace: Source,
    *,
    begin: Annotated[
        str | None,
        Option(
            help="First arrival: 90s, 10m, 2h after the trace's first one, or a date.",
            unit="TIME",
            flag="--from",
        ),
    ] = None,
    end: Annotated[
        str | None, Option(help="Arrivals before this time.", unit="TIME", flag="--to")
    ] = None,
    last: Annotated[
        str | None, Option(help="So long before the last arrival, and on.", unit="TIME")
    ] = None,
    only: Only = (),
    out: Out,
) -> None:
    """Copy the requests that arrived in a stretch of time, with their answers, whenever those came."""
    from tbench.capture.errors import InputError

    window = {"from": begin, "to": end, "last": last}
    words = [f"{name}={value}" for name, value in window.items() if value is not None]
    if not words:
        raise InputError("give --from, --to or --last")
    _copy_one(trace, [*words, *only], "trace slice", out)


@verb
def filter_trace(trace: Source, *, only: Only = (), out: Out) -> None:
    """Copy the exchanges that --only means; `replay --only` takes the same words."""
    from tbench.capture.errors import InputError

    if not only:
        raise InputError("give --only, such as --only model=NAME or --only 'status>=400'")
    _copy_one(trace, only, "trace filter", out)


@verb
def sample_trace(
    trace: Source,
    share: Annotated[
        str,
        Option(help="10% of the sessions, or 100 of them.", unit="SHARE|COUNT", argument=True),
    ],
    *,
    only: Only = (),
    out: Out,
) -> None:
    """Copy a sample of whole sessions, the same ones every time: by a hash of each one's first request."""
    _copy_one(trace, [*only, f"sample={share}"], "trace sample", out)


@verb
def merge_traces(
    traces: Annotated[
        list[str], Option(help="Traces, each as above.", unit="TRACE...", argument=True)
    ],
    *,
    only: Only = (),
    out: Out,
) -> None:
    """Make one trace of several, by the dates of their clocks.

    Times are moved onto the clock of the earliest; nothing else of a record changes. An exchange that is in
    two of them (overlapping slices) is taken once.
    """
    from tbench.capture.trace_reader import joined, read_trace

    _copy(joined([read_trace(trace) for trace in traces]), only, "trace merge", out)


SPLIT: Final = "What makes a part (give one)"


@verb
def split(
    trace: Source,
    *,
    by: Annotated[
        Literal["model", "endpoint", "host"] | None,
        Option(help="A file for each of these.", group=SPLIT),
    ] = None,
    shares: Annotated[
        str | None,
        Option(
            help="Whole sessions, drawn by hash: 80,20 is two files.", unit="A,B,...", group=SPLIT
        ),
    ] = None,
    every: Annotated[
        str | None,
        Option(help="A file for each stretch of this length: 10m.", unit="TIME", group=SPLIT),
    ] = None,
    size: Annotated[
        float | None,
        Option(
            help="A new file after so many megabytes of bodies.", unit="MB", group=SPLIT, above=0
        ),
    ] = None,
    only: Only = (),
    folder: Annotated[
        Path,
        Option(
            help="Folder of the parts, which hold every exchange once; it is made where it is missing.",
            unit="FOLDER",
            flag="--output",
            short="-o",
        ),
    ],
) -> None:
    """Copy every exchange into one of several files. The folder of them is a trace again."""
    from tbench.capture.copying import Parts, by_field, by_shares, by_size, by_time, copy
    from tbench.capture.errors import InputError
    from tbench.capture.filters import bind
    from tbench.capture.trace_reader import read_trace

    if sum(way is not None for way in (by, shares, every, size)) != 1:
        raise InputError("give one of --by, --shares, --every, --size")
    source = read_trace(trace)
    wanted = bind(only, source)
    parts = Parts(folder, wanted)
    if by is not None:
        route = by_field(parts, by)
    elif shares is not None:
        route = by_shares(parts, shares)
    elif every is not None:
        route = by_time(parts, every, source)
    else:
        route = by_size(parts, size or 0.0)
    folder.mkdir(exist_ok=True)
    _report(
        copy(
            source,
            wanted,
            "trace split",
            route,
            sessions=shares is not None,
            answers=size is not None,
        )
    )


def _copy_one(trace: str, words: Sequence[str], verb_name: str, out: Path) -> None:
    from tbench.capture.trace_reader import read_trace

    _copy(read_trace(trace), words, verb_name, out)


def _copy(trace: "Trace", words: Sequence[str], verb_name: str, out: Path) -> None:
    """Copy what the words leave of a trace into one file, and say what became of the rest."""
    from tbench.capture.copying import Part, copy
    from tbench.capture.filters import bind

    wanted = bind(words, trace)
    part = Part(path=out, from_ns=wanted.from_ns, to_ns=wanted.to_ns)
    _report(copy(trace, wanted, verb_name, lambda _exchange, _walk: part))


def _report(copied: "Copied") -> None:
    """What was written to stdout; what the traces had lost to stderr."""
    for part in copied.parts:
        typer.echo(f"{part.path}: {plural(part.requests, 'request')}")
    if copied.left:
        typer.echo(f"{copied.left:,} left out")
    if copied.repeated:
        typer.echo(f"{plural(copied.repeated, 'request')} in two of the traces: taken once")
    if lost := losses_text(copied.lost):
        typer.echo(f"lost in what was read: {lost}", err=True)


def losses_text(losses: "Losses") -> str:
    """What was lost, in words; empty for nothing."""
    from dataclasses import asdict

    counts = {name.replace("_", " "): count for name, count in asdict(losses).items() if count}
    return ", ".join(
        words if count is True else plural(count, words.removesuffix("s"))
        for words, count in counts.items()
    )


TOOLS: Final[Mapping[str, Callable[..., int | None]]] = {
    "slice": slice_trace,
    "filter": filter_trace,
    "sample": sample_trace,
    "merge": merge_traces,
    "split": split,
}
"""The verbs of this file."""
