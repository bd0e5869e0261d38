"""What a person sees of a benchmark: its points as they are made, a log, and a table at the end."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TextIO

from replay.benchmark.conduct import Made
from replay.benchmark.sweep import Point
from replay.performance import Watch
from replay.progress import screen, watching

LOG: Final = "benchmark.log"


@dataclass
class Log:
    """Lines for a person on stderr, and with their time in a file."""

    file: TextIO

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Self]:
        """A log in this folder, which is made where it is not there; lines are added to an older one."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / LOG).open("a") as file:
            yield cls(file)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self.file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        self.file.flush()


class Board:
    """One line for each point that was made, and the progress of the one that is under way."""

    def __init__(self, points: int | None, log: Log) -> None:
        self._all = points
        self._made = 0
        self._log = log

    def watch(self, point: Point) -> Watch:
        of = "" if self._all is None else f" of {self._all}"
        self._log.say(f"point {self._made + 1}{of}: {name(point)}")
        return watching(screen())

    def made(self, one: Made) -> None:
        self._made += 1
        self._log.say(f"  {line(one)}" + ("" if one.fresh else " (was there already)"))

    def close(self) -> None:
        pass


def board(points: int | None, log: Log) -> Board:
    """The one that suits stderr, for so many points; None: nobody knows."""
    return Board(points, log)


def name(point: Point) -> str:
    """A point in words."""
    again = f", run {point.repeat}" if point.repeat > 1 else ""
    return f"{point.scenario} {point.axis} {point.value:g}{again}"


def line(one: Made) -> str:
    """What came out of a point, in one line."""
    found = one.result["aggregated_metrics"]
    return (
        f"{found['num_completed_requests']:,} of {found['num_requests']:,} completed in "
        f"{found['run_duration']:.1f} s, {found['requests_per_second']:.2f}/s, "
        f"{found['mean_output_throughput_tokens_per_s']:,.0f} output tokens/s, ended by {one.ended_by}"
    )


COLUMNS: Final = (
    ("TTFT p50", "ttft", "p50"),
    ("p99", "ttft", "p99"),
    ("TPOT p50", "tpot", "p50"),
    ("e2e p50", "e2e_latency", "p50"),
    ("p99", "e2e_latency", "p99"),
)


def table(made: Sequence[Made]) -> Iterator[str]:
    """The points side by side, latencies in the unit of the results."""
    unit = made[0].result["_time_unit"] if made else "s"
    yield (
        f"{'scenario':<22}{'at':>22}{'req/s':>9}{'out tok/s':>11}"
        + "".join(f"{heading:>10}" for heading, _, _ in COLUMNS)
        + f"{'errors':>9}   latencies in {unit}"
    )
    for one in made:
        found = one.result["aggregated_metrics"]
        stats = found["stats"]
        cells = "".join(f"{_figure(stats[metric][level]):>10}" for _, metric, level in COLUMNS)
        at = f"{one.point.axis} {one.point.value:g}"
        yield (
            f"{one.point.scenario:<22}{at:>22}{found['requests_per_second']:>9.2f}"
            f"{found['mean_output_throughput_tokens_per_s']:>11,.0f}{cells}{found['error_rate']:>9.1%}"
        )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
