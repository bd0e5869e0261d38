"""tbench trace slice, filter, sample, merge, split, compare, diff: parts of traces, and two side by side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tbench.board import Board
from tbench.capture.option import Option
from tbench.capture.terminal import named, plural, shortened
from tbench.commands.output import Json
from tbench.flags import verb
from tbench.replay.options import Only
from tbench.replay.throughput import three

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
Other = Annotated[str, Option(help="Another trace, as above.", unit="TRACE", argument=True)]
Number = Annotated[int, Option(help="How many exchanges to list.", flag="-n", least=1)]
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
    """Copy the exchanges that --only selects; `replay --only` takes the same words."""
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
        list[str], Option(help="Traces, each as above.", unit="TRACE", argument=True)
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
            help="Folder of the parts; it is made if it is missing.",
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
    if other := next(folder.glob("*.msgpack*"), None):
        raise InputError(f"{other}: the folder of a split is one trace; choose one without traces")
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
    sessions, answers = shares is not None, size is not None
    with followed(source):
        copied = copy(source, wanted, "trace split", route, sessions=sessions, answers=answers)
    _report(copied)


@verb
def compare_mixes(
    baseline: Source,
    candidate: Other,
    *,
    only: Only = (),
    json: Json = False,
) -> None:
    """Measure how far two mixes of traffic are apart: lengths, models, burstiness, shared prefixes, tools.

    A distance is from 0 (alike) to 1, next to that between two halves of each trace: one that is no
    larger may be chance. For latency use `tbench compare`.
    """
    from dataclasses import asdict
    from json import dumps

    from tbench.capture.filters import bind, none_left
    from tbench.capture.mixes import Mix, dimensions
    from tbench.capture.trace_reader import read_trace

    mixes = Mix(), Mix()
    for mix, path in zip(mixes, (baseline, candidate), strict=True):
        source = read_trace(path)
        with followed(source):
            mix.read(source, bind(only, source))
        say_losses(source.losses, path)
        if only and not mix.requests:
            raise none_left(path, only)
    rows = list(dimensions(*mixes))
    counts = {name: [getattr(mix, name) for mix in mixes] for name in ("requests", "sessions")}
    if json:
        listed = [{**asdict(row), "beyond": row.beyond} for row in rows]
        typer.echo(dumps({"traces": [baseline, candidate], **counts, "dimensions": listed}))
        return
    for name, side in (("A", 0), ("B", 1)):
        path = (baseline, candidate)[side]
        sides = (
            plural(counts["requests"][side], "request"),
            plural(counts["sessions"][side], "session"),
        )
        typer.echo(f"{name}  {named(path)}: {' in '.join(sides)}")
    table = [["", "A", "B", "distance", "within A", "within B", "n of A", "n of B"]]
    for row in rows:
        figures = (row.distance, *row.within)
        table.append(
            [
                row.name,
                *map(_value, row.values),
                *("-" if figure is None else f"{figure:.3f}" for figure in figures),
                *(f"{n:,}" for n in row.n),
            ]
        )
        table[-1][3] += " *" if row.beyond else ""
    for line in columns(table):
        typer.echo(line)
    apart = sorted((row for row in rows if row.beyond), key=lambda row: -(row.distance or 0.0))
    names = ", ".join(row.name for row in apart) or "nothing"
    typer.echo(f"* further apart than two halves of either trace: {names}")
    typer.echo(
        "n counts requests, gaps or windows; only sessions are independent of each other, and they are "
        "fewer: a distance near those within is no finding"
    )


def _value(value: object) -> str:
    """A dimension of one trace, short."""
    if isinstance(value, dict):
        shown = [
            f"{shortened(named(word), 24)} {share:.0%}"
            if isinstance(share, float) and word not in {"p50", "p95"}
            else f"{word} {'-' if share is None else three(share)}"
            for word, share in value.items()
        ]
        return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if shown[3:] else "") or "-"
    return f"{value:.2f}" if isinstance(value, float) else "-"


@verb
def diff(
    baseline: Source,
    candidate: Other,
    *,
    number: Number = 10,
    json: Json = False,
) -> int:
    """List exchanges that two traces do not share: in one only, or different in both. Exit code 1: some.

    Exchanges are the same by id and date of arrival, as in a trace and its parts.
    """
    from dataclasses import asdict
    from json import dumps

    from tbench.capture.mixes import difference
    from tbench.capture.trace_reader import read_trace

    sources = read_trace(baseline), read_trace(candidate)
    with followed(*sources):
        result = difference(*sources, number)
    for source, path in zip(sources, (baseline, candidate), strict=True):
        say_losses(source.losses, path)
    unequal = result.changed + sum(result.only)
    if json:
        typer.echo(dumps(asdict(result)))
    else:
        typer.echo(
            f"{result.same:,} the same, {result.changed:,} changed, {result.only[0]:,} only in "
            f"{named(baseline)}, {result.only[1]:,} only in {named(candidate)}"
        )
        for id_, what in result.lines:
            typer.echo(f"  {named(id_)}  {what}")
        if unequal > len(result.lines):
            typer.echo(f"  and {unequal - len(result.lines):,} more")
    return int(unequal > 0)


def columns(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, its columns as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        yield "  ".join(map(str.ljust, cells, widths)).rstrip()


def _copy_one(trace: str, words: Sequence[str], verb_name: str, out: Path) -> None:
    from tbench.capture.trace_reader import read_trace

    _copy(read_trace(trace), words, verb_name, out)


def _copy(trace: "Trace", words: Sequence[str], verb_name: str, out: Path) -> None:
    """Copy what the words leave of a trace into one file, and say what became of the rest."""
    from tbench.capture.copying import Part, copy
    from tbench.capture.filters import bind

    wanted = bind(words, trace)
    part = Part(path=out, from_ns=wanted.from_ns, to_ns=wanted.to_ns)
    with followed(trace):
        copied = copy(trace, wanted, verb_name, lambda _exchange, _walk: part)
    _report(copied)


@contextmanager
def followed(*traces: "Trace") -> Iterator[None]:
    """Show on stderr how far the reading and the copying of these traces are."""
    with Board() as board:

        def show(step: str, done: int, total: int) -> None:
            if board.due():
                board.show(f"{step}: {done / max(total, 1):.0%}")

        for trace in traces:
            trace.progress = show
        yield


def _report(copied: "Copied") -> None:
    """What was written to stdout; what the traces had lost to stderr."""
    for part in copied.parts:
        typer.echo(f"{part.path}: {plural(part.requests, 'request')}")
    if copied.left:
        typer.echo(f"{copied.left:,} left out")
    if copied.repeated:
        typer.echo(f"{plural(copied.repeated, 'request')} in two of the traces: taken once")
    say_losses(copied.lost)


def say_losses(losses: "Losses", source: str = "what was read") -> None:
    """Say on stderr what could not be read."""
    if lost := losses_text(losses):
        typer.echo(f"lost in {named(source)}: {lost}", err=True)


def losses_text(losses: "Losses") -> str:
    """What was lost, in words; empty for nothing."""
    from dataclasses import asdict

    counts = {name.replace("_", " "): count for name, count in asdict(losses).items() if count}
    return ", ".join(
        words if count is True else plural(count, words.removesuffix("s"))
        for words, count in counts.items()
    )
