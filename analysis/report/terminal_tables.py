"""Sheet: text of one width, line by line, with tables that fold. Without colour no escape sequence."""

from collections.abc import Iterable, Iterator
from io import StringIO
from textwrap import fill

from rich.console import JustifyMethod
from rich.table import Table

from tbench.analysis.comparison import Comparisons, EqualLengths
from tbench.analysis.mean_ratio import Overall
from tbench.analysis.metrics import METRICS
from tbench.analysis.proportions import OPEN_LOOP, footnote, ratio
from tbench.analysis.report import words
from tbench.analysis.summary import Caution
from tbench.capture.console import Console
from tbench.capture.terminal import escaped, plural

NARROW = frozenset(
    {
        "n",
        "baseline",
        "candidate",
        "ratio",
        "95% CI",
        "confidence",
        "overall",
        "n_eff",
        "geometric mean ratio",
    }
)
"""Columns that a narrow terminal must not fold."""


class Sheet:
    """What is printed, as it grows; `text` is all of it."""

    def __init__(self, width: int, colour: bool) -> None:
        self._out = StringIO()
        self._width = max(width, 60)
        self._console = Console(
            file=self._out,
            width=self._width,
            force_terminal=colour,
            no_color=not colour,
            color_system="standard" if colour else None,
            legacy_windows=False,
        )

    @property
    def text(self) -> str:
        lines = self._out.getvalue().rstrip("\n").split("\n")
        return "\n".join(line.rstrip() for line in lines)

    def line(self, *lines: str, style: str = "") -> None:
        for line in lines:
            self._console.print(line, style=style)

    def paragraph(self, text: str, style: str = "", indent: str = "") -> None:
        if text:
            self.line(
                fill(escaped(text), self._width, subsequent_indent=indent, break_on_hyphens=False),
                style=style,
            )

    def table(self, table: Table) -> None:
        """With an empty line before and after it."""
        if not self._out.getvalue().endswith("\n\n"):
            self.line("")
        self._console.print(table)
        self.line("")

    def cautions(self, found: Iterable[Caution]) -> None:
        for caution in (one for one in found if not one.is_fact):
            self.paragraph(f"! {caution.text}", style="yellow", indent="  ")

    def definitions(self, names: Iterable[str]) -> None:
        self.line("")
        for name in names:
            self.paragraph(f"{name}: {METRICS[name].definition}", style="dim", indent="  ")


def grid(*headings: str, left: frozenset[int]) -> Table:
    """A table without lines; the columns in `left` are words, the others numbers."""
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        justify: JustifyMethod = "left" if place in left else "right"
        table.add_column(heading, justify=justify, no_wrap=heading in NARROW)
    return table


# Whole: what is said beside the quantiles, of each metric and of failures, for the terminal.

HEADINGS = ("overall", "n", "n_eff", "geometric mean ratio", "95% CI", "confidence")
LEGEND = (
    "overall: the geometric mean of candidate / baseline over the requests with a value in both runs; "
    "n_eff is their effective sample size."
)


def rates_table(found: Comparisons) -> Table:
    """What each arm did per second."""
    table = grid("throughput", "baseline", "candidate", "ratio", left=frozenset({0}))
    for pair in found.rates:
        first, second = pair
        table.add_row(first.title, first.text, second.text, words.ratio(ratio(pair)))
    return table


def rates_notes(found: Comparisons) -> Iterator[str]:
    """What to know beside them."""
    if found.baseline.open_loop or found.candidate.open_loop:
        yield OPEN_LOOP
    if missing := footnote(found.rates):
        yield missing


def overall_table(found: Comparisons) -> Table:
    """A row for each metric."""
    table = grid(*HEADINGS, left=frozenset({0, 4, 5}))
    for name, one in found.overall.items():
        table.add_row(name, *_mean_ratio(one))
    return table


def _mean_ratio(one: Overall) -> Iterator[str]:
    """n, effective sample size, geometric mean ratio, interval and confidence."""
    yield f"{one.effective.n:,}"
    yield f"{one.effective.worth:,.0f}"
    mean = one.geometric
    if mean is None:
        yield from ("-", "", one.confidence)
        return
    yield words.ratio(mean.ratio)
    yield "" if mean.refusal else words.ratio_interval(mean.low, mean.high)
    yield "drift" if mean.drift else one.confidence


def thirds_text(found: Comparisons) -> str:
    """Where conditions drifted, the ratio in each third of the trace; nothing where they did not."""
    drifting = {
        f"{row.metric} {words.percentile(row.quantile)}": row.thirds
        for row in found.rows
        if row.thirds
    }
    drifting |= {f"{name} mean": one.thirds for name, one in found.overall.items() if one.thirds}
    said = [f"{name} {', '.join(map(words.ratio, thirds))}" for name, thirds in drifting.items()]
    return f"drift: the ratio in each third of the trace: {'; '.join(said)}" if said else ""


def lengths_text(found: EqualLengths) -> str:
    """What the table at equal lengths is of, or why there is none."""
    if found.refusal:
        return f"E2E at equal output lengths: {found.refusal}; tpot and e2e_per_token compare per token"
    return (
        f"E2E at equal output lengths (what length explains is taken out; {plural(found.n, 'request')}, "
        f"{found.overlap:.0%} as long in both arms)"
    )
