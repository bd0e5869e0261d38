"""Words: numbers with their units as people read them, and tables of them. The same in every report."""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tbench.analysis.comparison import Comparison
from tbench.replay.throughput import three, usd

UNBOUNDED = "∞"
ROUNDS_TO_1 = 1.0005
"""What lies between 1 and this is written as 1.000."""
NEAR_1 = (0.9, 1.1)
"""Between these a ratio has three decimals: its distance from 1 is what matters."""
USUAL = 0.99
"""Up to this quantile a run's table has a column even where all are refused."""
SHORT = frozenset({"ttft", "e2e", "tpot", "itl"})
"""Words that are written in capitals."""


def amount(
    value: float | None, unit: str, digits: int = 3, beside: Iterable[float | None] = ()
) -> str:
    """A value in the unit that suits its size: 0.0123 s is 12.3 ms. Nothing is a dash.

    With the values `beside` it in a row, itself among them: in the unit that all of these share.
    """
    if value is None:
        return "-"
    if unit == "USD":
        return usd(value)
    name, factor = shared_scale(beside, unit) if beside else scale(abs(value), unit)
    return f"{three(value * factor, digits)} {name}"


def dollars_interval(low: float | None, high: float | None) -> str:
    """An interval of a cost; an open end is 0 or infinity."""
    left = "(0" if low is None else f"[{usd(low)}"
    return f"{left}, {UNBOUNDED})" if high is None else f"{left}, {usd(high)}]"


def figure(value: float | None, unit: str, beside: Iterable[float | None] = ()) -> str:
    """An arm's figure: a share in per cent, all else an amount. NaN is none, infinity timed out."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "timed out"
    return f"{value:.2%}" if unit == "share" else amount(value, unit, beside=beside)


def beyond(
    value: float | None, at_least: float | None, unit: str, beside: Iterable[float | None] = ()
) -> str:
    """A value, or what it is known to exceed where timeouts hide it."""
    if value is None and at_least is not None:
        return f"> {amount(at_least, unit, beside=beside)}"
    return amount(value, unit, beside=beside)


def pair(row: Comparison) -> tuple[str, str]:
    """Baseline and candidate of a row, in one unit."""
    both = [(row.baseline, row.baseline_at_least), (row.candidate, row.candidate_at_least)]
    beside = [end for value in both for end in value]
    first, second = (beyond(*value, row.unit, beside) for value in both)
    return first, second


def ratio(value: float | None) -> str:
    """A ratio to three digits, 3.73x; near 1 to three decimals, 0.992x and 1.004x."""
    return "-" if value is None else f"{_ratio(value)}x"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if NEAR_1[0] < value < NEAR_1[1] else three(value)


def ratio_interval(low: float | None, high: float | None) -> str:
    """An interval of a ratio: an open end is 0 or infinity, or 1 where that is just left out."""
    left, right = "(0", UNBOUNDED + ")"
    if low is not None:
        left = f"{'(' if 1 < low < ROUNDS_TO_1 else '['}{_ratio(low)}"
    if high is not None:
        right = f"{_ratio(high)}{')' if 2 - ROUNDS_TO_1 < high < 1 else ']'}"
    return f"{left}, {right}"


def scale(size: float, unit: str) -> tuple[str, float]:
    """The unit in which a value of this size is read best, and the factor to get there."""
    if unit != "s" or size >= 1 or not size:
        return unit, 1.0
    return ("ms", 1e3) if size >= 1e-3 else ("µs", 1e6)


def shared_scale(values: Iterable[float | None], unit: str) -> tuple[str, float]:
    """The one unit for values that stand side by side, so that they compare at a glance.

    Of seconds ms, unless the least is 1 s or the largest 10 s (s), or the largest below 1 ms (µs).
    """
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if unit != "s" or not sizes or min(sizes) >= 1 or max(sizes) >= 10:
        return unit, 1.0
    return ("ms", 1e3) if max(sizes) >= 1e-3 else ("µs", 1e6)


def interval(low: float | None, high: float | None) -> str:
    """An interval of a value; an open end is 0 or infinity."""
    left = "[" + three(low) if low is not None else "(0"
    return f"{left}, {three(high)}]" if high is not None else f"{left}, {UNBOUNDED})"


def points(share: float, *, more: int = 0) -> str:
    """A difference of two shares, in percentage points; `more` digits than usual."""
    return f"{share * 100:+.{2 + more}f} pp"


def change(value: float | None, *, share: bool = False, more: int = 0) -> str:
    """A ratio as a change in per cent, 1.05 is +5.0%; a difference of shares in points; `more` digits.

    Three digits from a doubling on: +220%; from ten times on it is a ratio.
    """
    if value is None:
        return "unknown"
    if share:
        return points(value, more=more)
    if value >= 10:
        return ratio(value)
    per_cent = (value - 1) * 100
    return f"{per_cent:+.{more + (abs(per_cent) < 99.95)}f}%"


def change_interval(low: float | None, high: float | None, *, share: bool = False) -> str:
    """An interval of a change; an open end is as far as it goes."""
    left = (
        f"[{change(low, share=share)}" if low is not None else f"({'-100 pp' if share else '-100%'}"
    )
    right = (
        f"{change(high, share=share)}]"
        if high is not None
        else f"{'+100 pp' if share else UNBOUNDED})"
    )
    return f"{left}, {right}"


def title(metric: str) -> str:
    """A metric's name where people read it: `ttft_sent` is TTFT sent, `output_tokens_per_s` output tok/s."""
    text = " ".join(word.upper() if word in SHORT else word for word in metric.split("_"))
    return text.replace("tokens per s", "tok/s").replace(" per s", "/s")


def percentile(p: float) -> str:
    """0.999 is p99.9."""
    return f"p{p * 100:.6g}"


def quantity(metric: str, p: float | None) -> str:
    """A metric at a quantile, or one that has none: `TTFT p95`, `errors`."""
    return title(metric) if p is None else f"{title(metric)} {percentile(p)}"


def percent(share: float | None, digits: int | None = None, unknown: str = "unbounded") -> str:
    """A share in per cent, 0.03 is 3 %: with so many digits, else with two below 10 % and three above."""
    if share is None or not math.isfinite(share):
        return unknown
    return f"{share * 100:.{digits or (2 if share < 0.1 else 3)}g} %"


def lasting(seconds: float) -> str:
    """How long something lasts, to plan with: 40 s, 19 min, 2.5 h."""
    if seconds >= 7200:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


# Tables: made once (analysis.report.tables), drawn by a terminal, a page, Markdown and a workbook.


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What stands at a place of a table: a text for people, and for programs its exact value.

    `value` is in `unit` ("n" is a count, "ratio" a ratio); `ends` are those of an interval instead, None
    where open. `marks` stand before and after the text. `below` is a second line. `tone` is the verdict or
    finding whose colour it has.
    """

    text: str
    value: float | None = None
    unit: str = ""
    ends: tuple[float | None, float | None] | None = None
    marks: tuple[str, str] = ("", "")
    below: "Cell | None" = None
    tone: str = ""

    @property
    def shown(self) -> str:
        return f"{self.marks[0]}{self.text}{self.marks[1]}"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under their heads, all of one length."""

    caption: str
    heads: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]

    def only(self, *heads: str, titles: Mapping[str, str] | None = None) -> "Table":
        """Only these columns, in this order; `titles` are what some heads are called."""
        places = [self.heads.index(head) for head in heads]
        rows = [[row[place] for place in places] for row in self.rows]
        shown = tuple((titles or {}).get(head, head) for head in heads)
        return replace(self, heads=shown, rows=rows)


def table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[Cell | str]]) -> Table:
    """A table; a cell that is a mere text may be given as such."""
    cells = [[Cell(text=cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    shown = tuple(heads)
    assert all(len(row) == len(shown) for row in cells), f"{caption}: a row of another length"
    return Table(caption, shown, cells)


def count(n: int, other: int | None = None) -> Cell:
    """How many, or how many of the baseline and of the candidate where these differ."""
    if other is None or other == n:
        return Cell(text=f"{n:,}", value=n, unit="n")
    return Cell(text=f"{n:,} / {other:,}")


def aligned(made: Table, left: Container[int] | None = None) -> Iterator[str]:
    """The head and the rows as lines: columns as wide as they need to be, two spaces apart.

    Columns at the places `left` are words, the others numbers; by default those without a value.
    """
    sides = []
    for place, column in enumerate(zip(*made.rows, strict=True)):
        words = all(cell.value is None for cell in column) if left is None else place in left
        sides.append("<" if words else ">")
    rows = [list(made.heads), *([cell.shown for cell in row] for row in made.rows)]
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, sides, sizes, strict=True)
        yield "  ".join(f"{cell:{side}{size}}" for cell, side, size in cells).rstrip()
