"""The board of a benchmark on a terminal: keeps the frame up to date, on a thread behind the sending.

It takes the whole screen while the benchmark runs. What was said meanwhile stays below when it is gone.
"""

import io
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from tbench.benchmark.conduct import Benchmark, PointResult
from tbench.benchmark.dashboard.drawing import drawn
from tbench.benchmark.dashboard.frame import Finished, Frame, Half, Load, Progress
from tbench.benchmark.sweep import BATCHED, Point
from tbench.benchmark.view import Board, Log, PlainBoard, line, name
from tbench.capture.console import Console
from tbench.capture.console import Live as Region
from tbench.replay.background import BEHIND, on_thread
from tbench.replay.run_recorder import Side, Tally
from tbench.replay.runner import Live, Watch
from tbench.replay.sample import Fate

EVERY_S: Final = 0.5
KEPT: Final = 200
"""Lines of the log that may be on the screen."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What stays the same: `points` in all (None: not known), and what ends each of them."""

    heading: str
    points: int | None
    requests: int
    duration_s: float
    unit: str
    speaks: bool

    @classmethod
    def of(cls, plan: Benchmark, points: int | None) -> "Sweep":
        return cls(
            heading=f"{plan.task}  {plan.order.base_url or ''}",
            points=points,
            requests=plan.requests,
            duration_s=plan.duration_s,
            unit=plan.unit,
            speaks=plan.task not in BATCHED,
        )


@dataclass(kw_only=True)
class Story:
    """What happened so far: the points that were made, the one under way, and what was said."""

    finished: list[Finished] = field(default_factory=list)
    point: str = ""
    lines: list[str] = field(default_factory=list)


def board(plan: Benchmark, points: int | None, log: Log) -> Board:
    """The one that suits stderr. `points` is how many there will be, None where that is not known."""
    console = Console(file=sys.stderr)
    if not console.is_terminal or console.is_dumb_terminal:
        return PlainBoard(points, log)
    return TerminalBoard(console, Sweep.of(plan, points), log)


class TerminalBoard:
    """Draws the frame every half second while a point is made, and when one begins and ends."""

    def __init__(
        self,
        console: Console,
        sweep: Sweep,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._sweep = sweep
        self._log = log
        self._clock = clock
        self._began = clock()
        self._story = Story()
        self._live: Live | None = None
        self._region: Region | None = Region(
            console=console, screen=True, auto_refresh=False, redirect_stderr=False,
            redirect_stdout=False,
        )  # fmt: skip
        self._heard = ExitStack()
        self._heard.enter_context(_heard(log, self._note))
        self._region.start()

    def watch(self, point: Point) -> Watch:
        self._story.point = name(point)
        self._log.say(f"point {len(self._story.finished) + 1}: {self._story.point}")
        self._draw()
        return self._watch

    def made(self, one: PointResult) -> None:
        self._live = None
        found = one.result["aggregated_metrics"]
        self._story.finished.append(Finished.of(found, one.point.value, self._sweep.unit))
        self._log.say(f"{line(one)}" + ("" if one.fresh else " (was there already)"))
        self._draw()

    def close(self) -> None:
        """Give the screen back, with what was said below it."""
        if self._region:
            self._region.stop()
        self._region = None
        self._heard.close()
        for said in self._story.lines:
            print(said, file=sys.stderr)
        self._story.lines.clear()

    async def _watch(self, live: Live) -> None:
        over = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_thread, partial(self._follow, live, over), BEHIND)
            try:
                await trio.sleep_forever()
            finally:
                over.set()

    def _follow(self, live: Live, over: threading.Event) -> None:
        self._live = live
        while not over.wait(EVERY_S):
            self._draw()

    def _note(self, said: str) -> None:
        self._story.lines.append(said)
        self._draw()

    def _draw(self) -> None:
        """What fails here must not end what is measured: then plain lines are what is left."""
        if self._region is None:
            return
        try:
            width, height = self._console.size
            self._region.update(drawn(self._frame(), width, height), refresh=True)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        region, self._region = self._region, None
        if region:
            region.stop()
        self._story.lines.append(f"the dashboard failed ({error!r}); the benchmark goes on")
        self.close()

    def _frame(self) -> Frame:
        return frame(self._sweep, self._story, self._live, self._clock() - self._began)


def frame(sweep: Sweep, story: Story, live: Live | None, elapsed_s: float) -> Frame:
    """What there is to show; `live` is None while no request is sent."""
    tally = live.tally if live else Tally()
    now = live.now if live else 0.0
    share = min(1.0, max(tally.ended / sweep.requests, now / sweep.duration_s))
    return Frame(
        heading=sweep.heading,
        progress=Progress(
            made=len(story.finished),
            of=sweep.points,
            name=story.point,
            fraction=share,
            elapsed_s=elapsed_s,
            left_s=now * (1 / share - 1) if share > 0 else None,
        ),
        load=Load(
            sent=live.issued if live else 0,
            most=sweep.requests,
            per_s=tally.fates[Fate.COMPLETED] / now if now else 0.0,
            in_flight=live.in_flight if live else 0,
            completed=tally.fates[Fate.COMPLETED],
            errors=dict(Counter(tally.errors).most_common()),
        ),
        input=_half("input", "TTFT", tally.input, now),
        output=_half("output", "latency", tally.output, now) if sweep.speaks else None,
        finished=story.finished,
        log=story.lines[-KEPT:],
        unit=sweep.unit,
    )


def _half(title: str, what: str, side: Side, now: float) -> Half:
    return Half(
        title=title,
        what=what,
        latency=side.latency.copy(),
        speed=side.speed.copy(),
        per_s=side.tokens / now if now else 0.0,
    )


class _Lines(io.TextIOBase):
    """A file whose lines go to somebody."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        self._part = ""

    def write(self, text: str) -> int:
        *whole, self._part = (self._part + text).split("\n")
        for one in whole:
            self._hear(one)
        return len(text)


@contextmanager
def _heard(log: Log, hear: Callable[[str], None]) -> Iterator[None]:
    """What the log and others would print on stderr is heard instead."""
    before, log.show = log.show, hear
    try:
        with redirect_stderr(_Lines(hear)):
            yield
    finally:
        log.show = before
