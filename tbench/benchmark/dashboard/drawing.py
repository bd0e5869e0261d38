"""Drawing: a frame as something that rich can print, for any size of terminal; pure.

From 24 lines on everything has its place; the pictures of finished points come with 36. Below 24 lines or
80 columns only the progress, the figures in a line each, and the log remain.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tbench.benchmark.dashboard.frame import (
    COLOURS,
    Dot,
    Finished,
    Frame,
    Half,
    Load,
    Progress,
    bar,
    edges,
    latency,
    number,
    scatter,
)
from tbench.capture.histogram import Histogram
from tbench.replay.progress import clock

BINS: Final = 10
NARROW: Final = (80, 24)
HEAD, HALVES, SCATTER = 4, 12, 13
TALL: Final = HEAD + HALVES + SCATTER + 7
"""From so many lines on there is room for the pictures."""
WIDE: Final = 90
"""A table in so many columns need not use all of them."""
LEVELS: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


def drawn(frame: Frame, width: int, height: int) -> RenderableType:
    """The whole screen."""
    if width < NARROW[0] or height < NARROW[1]:
        return _small(frame, width, height)
    whole = Layout()
    parts = [
        Layout(_head(frame, width), size=HEAD),
        _halves(frame, width),
    ]
    rest = height - HEAD - HALVES
    if height >= TALL:
        parts.append(_pictures(frame, width))
        rest -= SCATTER
    parts.append(_bottom(frame, width, rest))
    whole.split_column(*parts)
    return whole


def _small(frame: Frame, width: int, height: int) -> RenderableType:
    lines = [line(half, frame.unit) for half in (frame.input, frame.output) if half]
    left = max(0, height - HEAD - len(lines))
    log = [Text(one, no_wrap=True, overflow="ellipsis") for one in frame.log[-left:] if left]
    return Group(_head(frame, width), *lines, *log)


def line(half: Half, unit: str) -> Text:
    """A half in one line."""
    figures = "  ".join(f"{name} {latency(half.latency.quantile(p), unit)}" for name, p in LEVELS)
    text = f"{half.title} {half.what} {figures} {unit}  {number(half.per_s)} tokens/s"
    return Text(text, no_wrap=True, overflow="ellipsis")


def _head(frame: Frame, width: int) -> RenderableType:
    """What is measured, how far the sweep and the point are, and the requests: four lines."""
    progress = frame.progress
    title = Text(no_wrap=True, overflow="ellipsis").append("tbench benchmark ", "bold")
    title.append(frame.heading)
    top = Table.grid(expand=True)
    top.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    top.add_column(justify="right")
    top.add_row(title, Text(f" {clock(progress.elapsed_s)}", "dim"))
    return Group(top, _bars(progress, width), requests(frame.load))


def _bars(progress: Progress, width: int) -> Table:
    bars = Table.grid(padding=(0, 1, 0, 0), expand=True)
    for style in ("bold", ""):
        bars.add_column(style=style)
    bars.add_column(justify="right")
    bars.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    length = max(10, width // 4)
    left = "" if progress.left_s is None else f", about {clock(progress.left_s)} left"
    point = f"point {progress.made + 1}"
    if progress.of:
        _bar(bars, "sweep", progress.whole, length, "magenta", f"{point} of {progress.of}")
    else:  # a search, which ends when it has found
        bars.add_row("sweep", "", "", Text(point))
    _bar(bars, "point", progress.fraction, length, "cyan", f"{progress.name}{left}")
    return bars


def _bar(bars: Table, name: str, share: float, length: int, colour: str, text: str) -> None:  # noqa: PLR0913, PLR0917
    shown = ProgressBar(total=1.0, completed=share, width=length, complete_style=colour)
    bars.add_row(name, shown, f"{share:4.0%}", Text(text))


def requests(load: Load) -> Text:
    """The requests of the point in a line; errors by kind."""
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{load.sent:,} of {load.most:,} sent  {number(load.per_s)}/s  ")
    text.append(f"{load.in_flight:,} in flight  ").append(f"{load.completed:,} done", "green")
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in load.errors.items())
    said = f"  {load.failed:,} failed" + (f": {kinds}" if kinds else "")
    return text.append(said, "bold red" if load.failed else "dim")


def _halves(frame: Frame, width: int) -> Layout:
    halves = [half for half in (frame.input, frame.output) if half]
    each = width // len(halves)
    row = Layout(size=HALVES)
    colours = ("cyan", "green")
    row.split_row(
        *(
            Layout(panel(half, frame.unit, each, colour))
            for half, colour in zip(halves, colours, strict=False)
        )
    )
    return row


def panel(half: Half, unit: str, width: int, colour: str) -> Panel:
    """The figures of a half beside the histogram of its latencies."""
    inner = width - 4
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(width=23)
    grid.add_column(ratio=1)
    grid.add_row(stats(half, unit), Group(*histogram(half.latency, unit, inner - 25)))
    title = f"[bold]{half.title}[/] {number(half.per_s)} tokens/s"
    return Panel(grid, title=title, title_align="left", border_style=colour, box=box.ROUNDED)


def stats(half: Half, unit: str) -> Table:
    """avg, min, max and three quantiles of a half's latency and of each request's tokens/s."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right", min_width=9, no_wrap=True)
    table.add_column(justify="right", min_width=8, no_wrap=True)
    table.add_row("", Text(f"{half.what} {unit}", "bold"), Text("tok/s", "bold"))
    seconds, speed = _figures(half.latency), _figures(half.speed)
    for (name, value), (_, pace) in zip(seconds, speed, strict=True):
        table.add_row(name, latency(value, unit), number(pace))
    table.add_row(Text("n", "dim"), f"{half.latency.n:,}", f"{half.speed.n:,}")
    return table


def _figures(spread: Histogram) -> list[tuple[str, float | None]]:
    ends = (spread.least, spread.most) if spread.n else (None, None)
    return [
        ("avg", spread.mean),
        ("min", ends[0]),
        ("max", ends[1]),
        *((name, spread.quantile(p)) for name, p in LEVELS),
    ]


def histogram(spread: Histogram, unit: str, width: int) -> list[Text]:
    """Ten lines at most: where a bin begins, its bar, and how many are in it where that has room."""
    bins = spread.bins(BINS)
    if not bins:
        return [Text("nothing completed yet", "dim")]
    labels = edges([one.low for one in bins], unit)
    counts = [f"{one.n:,}" for one in bins]
    margin, most = max(map(len, labels)), max(one.n for one in bins)
    room = width - margin - 1
    beside = max(map(len, counts)) + 1 if room > 16 else 0
    return [
        Text(f"{label:>{margin}} ", "dim", no_wrap=True)
        .append(bar(one.n / most, room - beside), "green" if one.n else "")
        .append(f" {count}" if beside and one.n else "", "dim")
        for one, label, count in zip(bins, labels, counts, strict=True)
    ]


def _pictures(frame: Frame, width: int) -> Layout:
    """Latency against throughput, a dot for each point that was made."""
    sides = [("input", "TTFT", "ttft", "input_per_s", "cyan")]
    if frame.output:
        sides.append(("output", "output latency", "output_latency", "output_per_s", "green"))
    each = width // len(sides)
    row = Layout(size=SCATTER)
    row.split_row(
        *(
            Layout(
                Panel(
                    _picture(frame, y, x, each - 4),
                    title=f"[bold]mean {what}[/] by {side} tokens/s",
                    title_align="left",
                    border_style=colour,
                    box=box.ROUNDED,
                )
            )
            for side, what, y, x, colour in sides
        )
    )
    return row


def _picture(frame: Frame, y: str, x: str, width: int) -> RenderableType:
    scenarios = list(dict.fromkeys(one.scenario for one in frame.finished))
    dots = [
        Dot(getattr(one, x), getattr(one, y), one.mark, scenarios.index(one.scenario))
        for one in frame.finished
        if getattr(one, x) is not None and getattr(one, y) is not None
    ]
    if not dots:
        return Text("a dot for each point that was made", "dim")
    return Group(*scatter(dots, width, SCATTER - 2, frame.unit))


def _bottom(frame: Frame, width: int, height: int) -> Layout:
    """The points that were made, and the log: side by side, one below the other where there is room."""
    both = Layout()
    if width >= 2 * NARROW[0] or height < 12:
        parts = ((width // 2, height), (width - width // 2, height))
        split = both.split_row
    else:
        upper = min(max(4, len(frame.finished) + 3), height // 2)
        parts = ((width, upper), (width, height - upper))
        split = both.split_column
    (first, upper), (_, lower) = parts
    made = Panel(
        table(frame.finished, frame.unit, upper - 3, first - 4),
        title="[bold]points[/]",
        title_align="left",
        border_style="magenta",
        box=box.ROUNDED,
    )
    log = Panel(
        Group(*_log(frame.log, lower - 2)),
        title="[bold]log[/]",
        title_align="left",
        border_style="dim",
        box=box.ROUNDED,
    )
    stacked = split == both.split_column
    split(Layout(made, size=upper if stacked else None), Layout(log))
    return both


def table(finished: Sequence[Finished], unit: str, rows: int, width: int) -> RenderableType:
    """The last points that were made, as many as fit, and how many more there were."""
    if not finished:
        return Text("none yet", "dim")
    shown = finished[-rows:] if rows > 0 else []
    found = Table(box=None, padding=(0, 1 if width < WIDE else 3, 0, 0), expand=width < WIDE)
    found.add_column(_more(len(finished) - len(shown)), no_wrap=True, overflow="ellipsis", ratio=1)
    found.add_column("at", justify="right", no_wrap=True)
    for heading in [heading for heading, _ in _cells(finished[0], unit, width)]:
        found.add_column(heading, justify="right", no_wrap=True)
    scenarios = list(dict.fromkeys(one.scenario for one in finished))
    for one in shown:
        style = COLOURS[scenarios.index(one.scenario) % len(COLOURS)]
        name, at = Text(one.scenario, style), Text(one.mark, f"bold {style}")
        found.add_row(name, at, *(cell for _, cell in _cells(one, unit, width)))
    return found


def _more(hidden: int) -> str:
    return f"{hidden} more" if hidden > 0 else ""


def _cells(one: Finished, unit: str, width: int) -> Iterable[tuple[str, str | Text]]:
    """Heading and content of a row; what is least needed goes where there is no room."""
    yield "req/s", number(one.requests_per_s)
    if width > 50:
        for side, heading, rate in (
            ("input", "in tok/s", one.input_per_s),
            ("output", "out tok/s", one.output_per_s),
        ):
            yield heading, f"{'≥ ' if side in one.at_least else ''}{number(rate)}"
    yield f"TTFT {unit}", latency(one.ttft, unit)
    if width > 60:
        yield f"e2e p99 {unit}", latency(one.e2e_p99, unit)
    bad = bool(one.error_rate) or not one.valid
    said = f"{one.error_rate:.1%}" + ("" if one.valid else " INVALID")
    yield "errors", Text(said, "bold red" if bad else "dim")


def _log(lines: Sequence[str], rows: int) -> list[Text]:
    return [
        Text(one, no_wrap=True, overflow="ellipsis") for one in (lines[-rows:] if rows > 0 else ())
    ]
