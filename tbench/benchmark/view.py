"""What a person sees of a benchmark: its points as they are made, a log, and a table at the end.

On a terminal the points have a dashboard (tbench.benchmark.dashboard).
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self, TextIO

from tbench.benchmark.conduct import PointResult
from tbench.benchmark.sweep import BATCHED, Point
from tbench.capture.terminal import escaped
from tbench.replay.progress import screen, watching
from tbench.replay.runner import Watch

LOG: Final = "benchmark.log"


def on_stderr(line: str) -> None:
    """Print it there, at once."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class Log:
    """Lines for a person, on stderr or wherever else they are `show`n, and with their time in a file."""

    file: TextIO
    show: Callable[[str], None] = on_stderr

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Self]:
        """A log in this folder, which is made where it is not there; lines are added to an older one."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(os.open(folder / LOG, flags, 0o600), "a") as file:
            yield cls(file)

    def say(self, line: str) -> None:
        self.show(line)
        self.file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {escaped(line)}\n")
        self.file.flush()


class Board(Protocol):
    """Shows a benchmark: `watch` begins a point, `made` ends it."""

    def watch(self, point: Point) -> Watch: ...
    def made(self, one: PointResult) -> None: ...
    def close(self) -> None: ...


class PlainBoard:
    """Lines for logs and pipes: one when a point begins, one every ten seconds, one when it is made."""

    def __init__(self, points: int | None, log: Log) -> None:
        self._number = 0
        self._of = points
        self._log = log

    def watch(self, point: Point) -> Watch:
        of = f" of {self._of}" if self._of else ""
        self._log.say(f"point {self._number + 1}{of}: {name(point)}")
        return watching(screen())

    def made(self, one: PointResult) -> None:
        self._number += 1
        self._log.say(f"  {line(one)}" + ("" if one.fresh else " (was there already)"))

    def close(self) -> None:
        pass


def name(point: Point) -> str:
    """A point in words."""
    again = f", run {point.repeat}" if point.repeat > 1 else ""
    return f"{point.scenario} {point.axis} {point.value:g}{again}"


def line(one: PointResult) -> str:
    """What came out of a point, in one line."""
    found, side = one.result["aggregated_metrics"], _side(one)
    return (
        f"{found['num_completed_requests']:,} of {found['num_requests']:,} completed in "
        f"{found['run_duration']:.1f} s, {found['requests_per_second']:.2f}/s, "
        f"{_rate(found, side)} {side} tokens/s, ended by {one.ended_by}"
    )


def _side(one: PointResult) -> Literal["input", "output"]:
    """Which tokens its server is measured by: those that it wrote, or, of embeddings, those it read."""
    return "input" if one.task in BATCHED else "output"


WHOLE: Final = (("e2e p50", "e2e_latency", "p50"), ("p99", "e2e_latency", "p99"))
COLUMNS: Final[Mapping[str, Sequence[tuple[str, str, str]]]] = {
    "input": WHOLE,
    "output": (
        ("TTFT p50", "ttft", "p50"),
        ("p99", "ttft", "p99"),
        ("TPOT p50", "tpot", "p50"),
        *WHOLE,
    ),
}
"""Heading, metric and level; an answer that is no text has one latency only."""


def table(made: Sequence[PointResult]) -> Iterator[str]:
    """The points side by side, latencies in the unit of the results."""
    if not made:
        return
    side, unit, axis = _side(made[0]), made[0].result["_time_unit"], made[0].point.axis
    across = max(len("scenario"), *(len(one.point.scenario) for one in made))
    throughput = {"input": "in tok/s", "output": "out tok/s"}[side]
    yield (
        f"{'scenario':<{across}}{axis:>{len(axis) + 1}}{'req/s':>9}{throughput:>10}"
        + "".join(f"{heading:>9}" for heading, _, _ in COLUMNS[side])
        + f"{'errors':>8}"
    )
    for one in made:
        found, stats = one.result["aggregated_metrics"], one.result["aggregated_metrics"]["stats"]
        cells = "".join(f"{_figure(stats[metric][level]):>9}" for _, metric, level in COLUMNS[side])
        yield (
            f"{one.point.scenario:<{across}}{one.point.value:>{len(axis) + 1}g}"
            f"{found['requests_per_second']:>9.2f}"
            f"{_rate(found, side):>10}{cells}{found['error_rate']:>8.1%}"
            + "".join(f"   {word}" for word in _remarks(one))
        )
    yield f"latencies in {unit}"


def _remarks(one: PointResult) -> Iterator[str]:
    if one.point.repeat > 1:
        yield f"run {one.point.repeat}"
    if one.ended_by != "plan":
        yield f"ended by {one.ended_by}"
    if not one.numbers["valid"]:
        yield "INVALID"


def _rate(found: Mapping[str, Any], side: str) -> str:
    """Tokens/s of a side; `-` where nobody counted them, a lower bound where some requests were not."""
    value = found[f"mean_{side}_throughput_tokens_per_s"]
    bound = "≥ " if found["without_token_counts"][side] else ""
    return "-" if value is None else f"{bound}{value:,.0f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
