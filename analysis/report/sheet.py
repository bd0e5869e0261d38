"""Sheet: text of one width, line by line, with tables that fold. Without colour no escape sequence."""

from collections.abc import Iterable
from io import StringIO
from textwrap import fill

from rich.console import JustifyMethod
from rich.table import Table

from tbench.analysis.metrics import METRICS
from tbench.analysis.summary import Caution
from tbench.capture.console import Console
from tbench.capture.terminal import escaped

NARROW = frozenset(
    {"n", "baseline", "candidate", "ratio", "95% interval", "sure", "overall", "worth", "typical"}
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
            self.paragraph(f"! {caution}", style="yellow", indent="  ")

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
