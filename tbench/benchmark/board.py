"""What a person sees of a benchmark while it runs: plain lines, or a dashboard on a terminal; and its log."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import TextIOWrapper
from itertools import pairwise
from math import floor, log10
from pathlib import Path
from typing import Any, Final, Self, TextIO

from rich import box
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tbench.benchmark.conduct import PointResult
from tbench.benchmark.fields import PER_SECOND
from tbench.benchmark.plan import BenchmarkPlan
from tbench.benchmark.sweep import BATCHED, Point
from tbench.benchmark.upload import on_stderr
from tbench.board import Board
from tbench.capture.console import Console
from tbench.capture.histogram import Histogram
from tbench.capture.terminal import escaped
from tbench.replay.progress import clock, watching
from tbench.replay.run_recorder import Side, Tally
from tbench.replay.runner import Progress, Watch
from tbench.replay.sample import Fate
from tbench.replay.throughput import three

LOG: Final = "benchmark.log"


@dataclass
class Log:
    """Lines for a person, on stderr or wherever else they are `show`n, and with their time in a file."""

    file: TextIO
    show: Callable[[str], None] = on_stderr
    full: bool = False

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Self]:
        """A log in this folder, which is made where it is not there; lines are added to an older one."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # For its owner alone from the first byte on: errors
        # of a server, which may quote prompts, are in it.
        private = partial(os.open, mode=0o600)
        # Unbuffered: what a full disk did not take is not tried again when it is closed.
        raw = open(folder / LOG, "ab", buffering=0, opener=private)  # noqa: SIM115
        with TextIOWrapper(raw, "utf-8", write_through=True) as file:
            yield cls(file)

    def say(self, line: str) -> None:
        self.show(line)
        if self.full:
            return
        try:
            self.file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {escaped(line)}\n")
        except OSError as error:  # no reason to end what is measured
            self.full = True
            self.show(
                f"{self.file.name}: takes no more lines ({error.strerror}); they are shown here alone"
            )


def name(point: Point) -> str:
    """A point in words."""
    again = f", run {point.repeat}" if point.repeat > 1 else ""
    return f"{point.scenario} {point.axis} {point.value:g}{again}"


def outcome(result: PointResult) -> str:
    """What came out of a point, in one line."""
    metrics, side = (
        result.result["aggregated_metrics"],
        "input" if result.task in BATCHED else "output",
    )
    return (
        f"{metrics['num_completed_requests']:,} of {metrics['num_requests']:,} completed in "
        f"{metrics['run_duration']:.1f} s, {metrics['requests_per_second']:.2f}/s, "
        f"{_rate(metrics, side)} {side} tokens/s, ended by {result.ended_by}"
        + ("" if result.fresh else " (was there already)")
    )


def _rate(metrics: Mapping[str, Any], side: str) -> str:
    """Tokens/s of a side; `-` where nobody counted them, a lower bound where some requests were not."""
    value = metrics[f"mean_{side}_throughput_tokens_per_s"]
    bound = "≥ " if metrics["without_token_counts"][side] else ""
    return "-" if value is None else f"{bound}{value:,.0f}"


LOG_LINES: Final = 200
"""Lines of the log that may be on the screen."""


@dataclass(kw_only=True)
class SweepState:
    """What is being swept and how far it is: `made` are points with their `aggregated_metrics`.

    `points` in all (None: a search, whose end is not known); what ends each is `requests` or `duration_s`.
    `unit` is that of latencies, `speaks` whether answers are text. `point` is the one under way, `live` its
    replay while requests are sent.
    """

    heading: str
    points: int | None
    requests: int
    duration_s: float
    unit: str
    speaks: bool
    point: str = ""
    live: Progress | None = None
    made: list[tuple[Point, Mapping[str, Any]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, plan: BenchmarkPlan, points: int | None) -> Self:
        return cls(
            heading=f"{plan.source.task}  {plan.order.base_url or ''}",
            points=points,
            requests=plan.source.requests,
            duration_s=plan.duration_s,
            unit=plan.options.metrics_time_unit,
            speaks=plan.source.task not in BATCHED,
        )


class SweepBoard:
    """Shows a sweep as a dashboard that takes the screen, or by lines: a point begins, goes on, is made.

    What is logged while there is a dashboard is in it, and stays on stderr when it is gone.
    """

    def __init__(
        self,
        sweep: SweepState,
        log: Log,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sweep = sweep
        self._log = log
        self._now = now
        self._began = now()
        self._board = Board(self._drawn, screen=True, console=console)
        # The board's own list, not a copy: what is printed while
        # the screen is taken shows in the log's panel at once.
        self._sweep.lines = self._board.lines

    def watch(self, point: Point) -> Watch:
        """Begin a point."""
        self._sweep.point = name(point)
        of = f" of {self._sweep.points}" if self._sweep.points else ""
        self._log.say(f"point {len(self._sweep.made) + 1}{of}: {self._sweep.point}")
        follow = watching(self._board)

        async def watch(live: Progress) -> None:
            self._sweep.live = live
            await follow(live)

        return watch

    def made(self, result: PointResult) -> None:
        """Take over the result of a point."""
        self._sweep.live = None
        self._sweep.made.append((result.point, result.result["aggregated_metrics"]))
        self._log.say(f"  {outcome(result)}")

    def close(self) -> None:
        self._board.close()

    def _drawn(self, _line: Text) -> RenderableType:
        return drawn(self._sweep, self._sweep.live, self._now() - self._began, *self._board.size)


# Drawing, pure: the sweep as something that rich can print, for any size of terminal.

BINS: Final = 10
SMALL: Final = (80, 24)
"""Below so many columns or lines only the progress, a line for each side, and the log remain."""
HEAD, SIDES = 4, 12
"""Lines of the progress, and of the two panels below it."""
LEVELS: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
COLOURS: Final = ("cyan", "yellow", "magenta", "green", "blue", "red")
"""Of scenarios, in their order."""


def drawn(
    sweep: SweepState, live: Progress | None, elapsed_s: float, width: int, height: int
) -> RenderableType:
    """The screen; `live` is None while no request is sent."""
    tally, now = (live.tally, live.now) if live else (Tally(), 0.0)
    head = _head(sweep, live, tally, now, elapsed_s, width)
    sides = [("input", "TTFT", tally.input, "cyan"), ("output", "latency", tally.output, "green")]
    sides = sides if sweep.speaks else sides[:1]
    if width < SMALL[0] or height < SMALL[1]:
        lines = [_line(title, metric, side, now, sweep.unit) for title, metric, side, _ in sides]
        return Group(head, *lines, *_log(sweep.lines, height - HEAD - len(lines)))
    panels, each = Layout(size=SIDES), width // len(sides) - 4
    panels.split_row(
        *(
            Layout(
                _panel(
                    _side(side, metric, sweep.unit, each), f"{title} {_per_s(side, now)}", colour
                )
            )
            for title, metric, side, colour in sides
        )
    )
    rest = height - HEAD - SIDES
    below, log = Layout(), Layout()
    if rest < 12 or width >= 2 * SMALL[0]:  # side by side
        rows, columns, logged = rest, width // 2, rest
        below.split_row(made := Layout(size=columns), log)
    else:
        rows, columns = min(max(4, len(sweep.made) + 3), rest // 2), width
        logged = rest - rows
        below.split_column(made := Layout(size=rows), log)
    made.update(_panel(_made(sweep, rows - 3, columns - 4), "points", "magenta"))
    log.update(_panel(Group(*_log(sweep.lines, logged - 2)), "log", "dim"))
    screen = Layout()
    screen.split_column(Layout(head, size=HEAD), panels, below)
    return screen


def _panel(content: RenderableType, title: str, colour: str) -> Panel:
    return Panel(
        content, title=Text(title, "bold"), title_align="left", border_style=colour, box=box.ROUNDED
    )


def _head(
    sweep: SweepState, live: Progress | None, tally: Tally, now: float, elapsed_s: float, width: int
) -> RenderableType:
    """What is measured, how far the sweep and the point are, and the requests: four lines."""
    top = Table.grid(expand=True)
    top.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    top.add_column(justify="right")
    top.add_row(
        Text.assemble(("tbench benchmark ", "bold"), sweep.heading),
        Text(f" {clock(elapsed_s)}", "dim"),
    )
    # Whichever end is nearer: a point is over by its requests or its time.
    share = min(1.0, max(tally.ended / sweep.requests, now / sweep.duration_s))
    left = f", about {clock(now * (1 / share - 1))} left" if share else ""
    bars = Table.grid(padding=(0, 1, 0, 0), expand=True)
    for options in ({"style": "bold"}, {}, {"justify": "right"}):
        bars.add_column(**options)  # type: ignore[arg-type]
    bars.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    number = len(sweep.made) + 1
    if sweep.points:
        done = min(1.0, (len(sweep.made) + share) / sweep.points)
        place = f"point {min(number, sweep.points)} of {sweep.points}"
        bars.add_row("sweep", *_bar(done, width, "magenta"), place)
    else:
        bars.add_row("sweep", "", "", f"point {number}")
    bars.add_row("point", *_bar(share, width, "cyan"), f"{sweep.point}{left}")
    return Group(top, bars, _requests(sweep, live, tally, now))


def _bar(share: float, width: int, colour: str) -> tuple[RenderableType, str]:
    length = max(10, width // 4)
    return ProgressBar(1.0, share, length, complete_style=colour), f"{share:4.0%}"


def _requests(sweep: SweepState, live: Progress | None, tally: Tally, now: float) -> Text:
    """The requests of the point in a line; errors by kind."""
    completed, failed = tally.fates[Fate.COMPLETED], tally.errors.total()
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in tally.errors.most_common())
    return Text.assemble(
        f"{live.issued if live else 0:,} of {sweep.requests:,} sent  "
        f"{three(completed / now if now else 0.0)}/s  {live.in_flight if live else 0:,} in flight  ",
        (f"{completed:,} done", "green"),
        (f"  {failed:,} failed" + (f": {kinds}" if kinds else ""), "bold red" if failed else "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _per_s(side: Side, now: float) -> str:
    return f"{three(side.tokens / now if now else 0.0)} tokens/s"


def _line(title: str, metric: str, side: Side, now: float, unit: str) -> Text:
    """A side in one line."""
    latency = side.latency.histogram
    levels = "  ".join(f"{level} {_latency(latency.quantile(p), unit)}" for level, p in LEVELS)
    text = f"{title} {metric} {levels} {unit}  {_per_s(side, now)}"
    return Text(text, no_wrap=True, overflow="ellipsis")


def _side(side: Side, metric: str, unit: str, width: int) -> Table:
    """avg, min, max and quantiles of a latency and of each request's tokens/s; a histogram of the first."""
    latency, speed = side.latency.histogram, side.speed.histogram
    figures = Table.grid(padding=(0, 1, 0, 0))
    figures.add_column(style="dim")
    figures.add_column(justify="right", min_width=9, no_wrap=True)
    figures.add_column(justify="right", min_width=8, no_wrap=True)
    figures.add_row("", Text(f"{metric} {unit}", "bold"), Text("tok/s", "bold"))
    for (label, seconds), (_, rate) in zip(_figures(latency), _figures(speed), strict=True):
        figures.add_row(label, _latency(seconds, unit), "-" if rate is None else three(rate))
    figures.add_row(Text("n", "dim"), f"{latency.n:,}", f"{speed.n:,}")
    beside = Table.grid(padding=(0, 2, 0, 0), expand=True)
    beside.add_column(width=23)
    beside.add_column(ratio=1)
    beside.add_row(figures, _histogram(latency, unit, width - 25))
    return beside


def _figures(spread: Histogram) -> list[tuple[str, float | None]]:
    least, most = (spread.least, spread.most) if spread.n else (None, None)
    levels = [(label, spread.quantile(p)) for label, p in LEVELS]
    return [("avg", spread.mean), ("min", least), ("max", most), *levels]


def _histogram(spread: Histogram, unit: str, width: int) -> RenderableType:
    """Ten lines at most: where a bin begins, its bar, and how many are in it where that has room."""
    bins = spread.bins(BINS)
    if not bins:
        return Text("nothing completed yet", "dim")
    labels = _edges([each.low * PER_SECOND[unit] for each in bins])
    counts = [f"{each.n:,}" if each.n else "" for each in bins]
    room = width - max(map(len, labels)) - max(map(len, counts)) - 2
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column()
    grid.add_column(style="dim", no_wrap=True)
    most = max(each.n for each in bins)
    for each, label, count in zip(bins, labels, counts, strict=True):
        grid.add_row(label, Bar(most, 0, each.n, width=max(4, room), color="green"), count)
    return grid


def _edges(values: Sequence[float]) -> list[str]:
    """Where bins begin, with the digits that tell neighbours apart."""
    steps = [after - before for before, after in pairwise(values)]
    places = max(0, -floor(log10(min(steps)))) if steps else 3
    return [f"{value:,.{places}f}" for value in values]


def _latency(seconds: float | None, unit: str) -> str:
    return "-" if seconds is None else three(seconds * PER_SECOND[unit])


def _made(sweep: SweepState, rows: int, width: int) -> RenderableType:
    """The last points that were made, as many as fit, and how many more there were."""
    if not sweep.made:
        return Text("none yet", "dim")
    shown = sweep.made[-rows:] if rows > 0 else []
    hidden = len(sweep.made) - len(shown)
    table = Table(box=None, padding=(0, 1 if width < 90 else 3, 0, 0), expand=width < 90)
    table.add_column(f"{hidden} more" if hidden else "", no_wrap=True, overflow="ellipsis", ratio=1)
    rates, tail = width > 50, width > 60  # what is needed least goes where there is no room
    headings = ["at", "req/s", *(("in tok/s", "out tok/s") if rates else ()), f"TTFT {sweep.unit}"]
    for heading in (*headings, *([f"e2e p99 {sweep.unit}"] if tail else ()), "errors"):
        table.add_column(heading, justify="right", no_wrap=True)
    scenarios = list(dict.fromkeys(point.scenario for point, _ in sweep.made))
    for point, metrics in shown:
        style = COLOURS[scenarios.index(point.scenario) % len(COLOURS)]
        stats, valid = metrics["stats"], metrics.get("valid", True)
        latencies = [stats["ttft"]["mean"], *([stats["e2e_latency"]["p99"]] if tail else ())]
        table.add_row(
            Text(point.scenario, style),
            Text(f"{point.value:g}", f"bold {style}"),
            three(metrics["requests_per_second"]),
            *(_rate(metrics, side) for side in ("input", "output") if rates),
            *("-" if value is None else three(value) for value in latencies),
            Text(
                f"{metrics['error_rate']:.1%}" + ("" if valid else " INVALID"),
                "dim" if valid and not metrics["error_rate"] else "bold red",
            ),
        )
    return table


def _log(lines: Sequence[str], rows: int) -> list[Text]:
    last = lines[-LOG_LINES:][-rows:] if rows > 0 else ()
    return [Text(line, no_wrap=True, overflow="ellipsis") for line in last]
