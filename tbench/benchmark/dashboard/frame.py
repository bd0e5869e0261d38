"""The frame: everything that the dashboard shows at one moment, as plain figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.text import Text

from tbench.capture.histogram import Histogram


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is. `made` points of `of` (None: not known); `fraction` of the one under way, 0 to 1.

    `left_s` is None where nothing is known yet.
    """

    made: int
    of: int | None
    name: str
    fraction: float
    elapsed_s: float
    left_s: float | None

    @property
    def whole(self) -> float:
        """The share of the sweep that is done."""
        return (self.made + self.fraction) / self.of if self.of else 0.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """The requests of the point so far. `errors` is by kind, the most frequent first."""

    sent: int = 0
    most: int = 0
    per_s: float = 0.0
    in_flight: int = 0
    completed: int = 0
    errors: Mapping[str, int]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True, kw_only=True)
class Half:
    """Input or output so far: latencies (s), each request's tokens/s, and the server's tokens/s."""

    title: str
    what: str
    latency: Histogram
    speed: Histogram
    per_s: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A point that was made. Latencies in seconds and tokens/s, None where there is none.

    `mark` is the value that was swept, which stands for the point in a picture. Not `valid`: the client was
    the limit. `at_least` names the sides whose rate is a lower bound.
    """

    scenario: str
    mark: str
    requests_per_s: float
    input_per_s: float | None
    output_per_s: float | None
    ttft: float | None
    output_latency: float | None
    e2e_p99: float | None
    error_rate: float
    valid: bool = True
    at_least: frozenset[str] = frozenset()

    @classmethod
    def of(cls, point: Mapping[str, Any], value: float, unit: str) -> "Finished":
        """From the `aggregated_metrics` of a result with latencies in `unit`, `s` or `ms`."""
        stats, factor = point["stats"], 1e-3 if unit == "ms" else 1.0

        def seconds(metric: str, level: str) -> float | None:
            found = stats[metric][level]
            return None if found is None else found * factor

        return cls(
            scenario=point["scenario"],
            mark=f"{value:g}",
            requests_per_s=point["requests_per_second"],
            input_per_s=point["mean_input_throughput_tokens_per_s"],
            output_per_s=point["mean_output_throughput_tokens_per_s"],
            ttft=seconds("ttft", "mean"),
            output_latency=seconds("output_latency", "mean"),
            e2e_p99=seconds("e2e_latency", "p99"),
            error_rate=point["error_rate"],
            valid=point.get("valid", True),
            at_least=frozenset(
                side for side, missing in point["without_token_counts"].items() if missing
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One moment. `output` is None for a task that gives no text; `unit` is that of shown latencies."""

    heading: str
    progress: Progress
    load: Load
    input: Half
    output: Half | None
    finished: Sequence[Finished]
    log: Sequence[str]
    unit: str = "s"


# Figures and shapes in characters: short numbers, bars of eighths, a scatter of points.

EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
FACTOR: Final = {"s": 1.0, "ms": 1e3}
COLOURS: Final = ("cyan", "yellow", "magenta", "green", "blue", "red")
"""For scenarios, in their order."""
WIDE: Final = 10.0
"""Beyond this ratio an axis is logarithmic."""


def number(value: float | None, digits: int = 3) -> str:
    """At least so many significant digits below a million: 0.0123, 12.3, 1,234, 1.23M."""
    if value is None or not math.isfinite(value):
        return "-"
    for limit, factor, letter in ((1e10, 1e9, "G"), (1e6, 1e6, "M")):
        if abs(value) >= limit * 0.9999995:
            return f"{value / factor:,.3g}{letter}" if value < 1e12 else f"{value:.2e}"
    if abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-4:
        return f"{value:.1e}"
    places = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(places, 0), digits + 2)}f}"


def latency(seconds: float | None, unit: str, digits: int = 3) -> str:
    """Seconds in that unit, without its name."""
    return number(None if seconds is None else seconds * FACTOR[unit], digits)


def edges(seconds: Sequence[float], unit: str) -> list[str]:
    """The same for many, with as many digits (five at most) as it takes to tell them apart."""
    for digits in (3, 4, 5):
        found = [latency(one, unit, digits) for one in seconds]
        if len(set(found)) == len(found):
            break
    return found


def bar(share: float, width: int) -> str:
    """A bar to an eighth of a character; never empty for a share above 0."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (EIGHTHS[rest] if rest else "")


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a scatter: where it is, what it is called, and which colour of COLOURS it has."""

    x: float
    y: float
    mark: str
    colour: int


def scatter(dots: Sequence[Dot], width: int, height: int, unit: str) -> list[Text]:
    """`height` lines of `width` characters: points with their marks, axes with their ends.

    y is in seconds and shown in `unit`. An axis is logarithmic where its values span more than a decade.
    """
    across, up = _Axis.of([dot.x for dot in dots]), _Axis.of([dot.y for dot in dots])
    rows = height - 2
    labels = up.labels(rows, lambda value: latency(value, unit))
    labels.setdefault(1, unit)
    margin = max(map(len, labels.values())) + 1
    columns = width - margin - 1
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    for dot in dots:
        at = (across.place(dot.x, columns), rows - 1 - up.place(dot.y, rows))
        _put(cells, at, dot, columns)
    lines = []
    for row in range(rows):
        line = Text(f"{labels.get(row, ''):>{margin - 1}} ", style="dim").append("│")
        for column in range(columns):
            line.append(*cells.get((column, row), (" ", "")))
        lines.append(line)
    lines.append(Text(" " * margin + "└" + "─" * columns, style="dim"))
    return [*lines, Text(" " * (margin + 1) + across.ends(columns), style="dim")]


def _put(
    cells: dict[tuple[int, int], tuple[str, str]], at: tuple[int, int], dot: Dot, columns: int
) -> None:
    """A dot, and its mark beside it where that is free."""
    x, y = at
    style = COLOURS[dot.colour % len(COLOURS)]
    cells[at] = ("●", f"bold {style}")
    right = range(x + 1, x + 1 + len(dot.mark))
    left = range(x - len(dot.mark), x)
    for place in (right, left):
        if place.start >= 0 and place.stop <= columns and not any((c, y) in cells for c in place):
            cells.update(
                {(c, y): (letter, style) for c, letter in zip(place, dot.mark, strict=True)}
            )
            return


@dataclass(frozen=True, slots=True)
class _Axis:
    """The ends of an axis, and whether it is logarithmic between them."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> "_Axis":
        low, high = min(values), max(values)
        return cls(low, high, low > 0 and high > WIDE * low)

    def labels(self, rows: int, text: Callable[[float], str]) -> dict[int, str]:
        """What stands beside which row: the ends, or the one value that there is."""
        if self.low == self.high:
            return {rows - 1 - self.place(self.low, rows): text(self.low)}
        return {0: text(self.high), rows - 1: text(self.low)}

    def ends(self, columns: int) -> str:
        """The same below an axis that goes across."""
        low, high = number(self.low), number(self.high)
        if self.low == self.high:
            return f"{low:^{columns}}"
        return f"{low}{high:>{max(1, columns - len(low))}}"

    def place(self, value: float, cells: int) -> int:
        """Which cell a value is in; in the middle where all are the same."""
        if self.low == self.high:
            return cells // 2
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return min(cells - 1, int((at - low) / (high - low) * cells))
