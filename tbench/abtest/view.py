"""What a person sees while an experiment runs: a table of its arms, and the replay that is under way."""

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Protocol

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tbench.abtest.plan import AbPlan, Slot
from tbench.abtest.runner import RunResult
from tbench.capture.console import Console, Live
from tbench.replay.progress import PLAIN_S, REFRESH_S, clock
from tbench.run_store import DONE

COLUMNS: Final = (
    ("TTFT p50", "ttft_s", "p50"),
    ("p95", "ttft_s", "p95"),
    ("e2e p50", "e2e_s", "p50"),
)
"""Heading, and where the figure is in what `replay --json` prints."""


class Board(Protocol):
    """Shows an experiment; a replay's progress line is `show`n every `every_s` seconds, on a thread."""

    every_s: float

    def begin(self, slot: Slot) -> None: ...
    def show(self, line: str) -> None: ...
    def ended(self, result: RunResult) -> None: ...
    def close(self) -> None: ...


class Progress:
    """One board's share for one replay: a replay.progress.Screen that leaves the board open."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.every_s = board.every_s

    def show(self, line: str) -> None:
        self._board.show(line)

    def close(self) -> None:
        self._board.show("")


class TerminalBoard:
    """A table that is drawn over: one row for each arm, the replay under way below it."""

    every_s = REFRESH_S

    def __init__(self, console: Console, plan: AbPlan, made: Sequence[RunResult] = ()) -> None:
        self._plan = plan
        self._runs: dict[str, list[RunResult]] = defaultdict(list)
        self._now, self._line = "", ""
        for result in made:
            self._runs[result.arm.name].append(result)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def begin(self, slot: Slot) -> None:
        self._now = _heading(self._plan, slot)
        self._draw()

    def show(self, line: str) -> None:
        self._line = line
        self._draw()

    def ended(self, result: RunResult) -> None:
        self._runs[result.arm.name].append(result)
        self._live.console.print(Text(run_line(result)), highlight=False)
        self._draw()

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("arm")
        for name in ("runs", *(column[0] for column in COLUMNS), "failed", "USD"):
            table.add_column(name, justify="right")
        for arm in self._plan.treatments:
            table.add_row(arm.name, *self._cells(self._runs[arm.name]))
        line = Text(f"{self._now}  {self._line}", overflow="ellipsis", no_wrap=True)
        self._live.update(Group(table, line), refresh=True)

    def _cells(self, made: list[RunResult]) -> list[str]:
        runs = [result for result in made if result.ended == DONE]
        figures = [
            mean_ms([result.numbers[metric][level] for result in runs])
            for _, metric, level in COLUMNS
        ]
        failed = sum(result.numbers["failed"] for result in runs)
        spent = sum(result.usd for result in made)
        return [f"{len(runs)}/{self._plan.repeats}", *figures, f"{failed:,}", f"{spent:.4f}"]


class PlainBoard:
    """Lines for logs and pipes, on stderr."""

    every_s = PLAIN_S

    def __init__(self, plan: AbPlan) -> None:
        self._plan = plan

    def begin(self, slot: Slot) -> None:
        self._say(_heading(self._plan, slot))

    def show(self, line: str) -> None:
        if line:
            self._say(f"  {line}")

    def ended(self, result: RunResult) -> None:
        self._say(run_line(result))

    def close(self) -> None:
        pass

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def board(plan: AbPlan) -> Board:
    """The one that suits stderr."""
    console = Console(stderr=True)
    return TerminalBoard(console, plan) if console.is_terminal else PlainBoard(plan)


def _heading(plan: AbPlan, slot: Slot) -> str:
    names = " and ".join(plan.treatments[arm].name for arm in slot.arms)
    return f"round {slot.round} of {plan.repeats}: {names}"


def run_line(result: RunResult) -> str:
    """What became of a run, in one line."""
    numbers = result.numbers
    lost = f"ended early: {result.ended}"
    if result.ended == "invalid":
        lost = numbers["invalid_because"] or "another arm of its duet is invalid"
    figures = "  ".join(
        f"{name} {mean_ms([numbers[metric][level]])}" for name, metric, level in COLUMNS
    )
    return (
        f"{result.run.path.name:<16} {numbers['completed']:,} of {numbers['planned']:,} done in "
        f"{clock(numbers['duration_s'])}  {figures}"
        + (f"  {numbers['failed']:,} failed" if numbers["failed"] else "")
        + ("" if result.ended == DONE else f"  DOES NOT COUNT: {lost}")
    )


def mean_ms(seconds: Sequence[float | None]) -> str:
    """The geometric mean of several runs' figures, in ms."""
    known = [second for second in seconds if second]
    if not known or len(known) < len(seconds):
        return "-"
    return f"{math.exp(sum(map(math.log, known)) / len(known)) * 1e3:.1f} ms"
