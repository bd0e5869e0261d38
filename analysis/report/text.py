"""Text: a run, a pair and repeated runs for a terminal: what is read in five seconds, then the detail.

Pure: returns text. Without `colour` it holds no escape sequence.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from io import StringIO
from textwrap import fill, shorten
from typing import Final

from rich.console import JustifyMethod
from rich.table import Table as Grid
from rich.text import Text

from tbench.analysis import words
from tbench.analysis.arms import Arm
from tbench.analysis.beyond import left_out
from tbench.analysis.comparison import Comparisons
from tbench.analysis.gate_results import GateResults
from tbench.analysis.metrics import METRICS
from tbench.analysis.report import gate_sentences, sentences, tables
from tbench.analysis.report.machine import summaries
from tbench.analysis.run_metrics import Slo, rates
from tbench.analysis.spending import TITLES, CostRatio, spending
from tbench.analysis.summary import facts
from tbench.analysis.words import Table
from tbench.capture.console import Console
from tbench.capture.terminal import escaped, named, plural
from tbench.replay.closing import FEW, departures, probed, row
from tbench.replay.throughput import drained, spoken, three
from tbench.replay.totals import identity

LABELS: Final = frozenset({"metric", "quantile"})
"""Columns that need no head: their words say what they are."""
FOLDED: Final = frozenset({"result", "method"})
"""Columns of sentences, the only ones that a narrow terminal folds."""
STYLES: Final = {
    **dict.fromkeys(("faster", "fewer"), "green"),
    **dict.fromkeys(("slower", "more"), "red"),
    **dict.fromkeys(("higher", "lower"), "yellow"),
}


class Sheet:
    """What is printed, as it grows, folded at one width; `text` is all of it."""

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
            self.line("\n".join(folded(escaped(text), self._width, indent)), style=style)

    def table(self, table: Grid | Table) -> None:
        """With an empty line before and after it; of one without rows its caption."""
        if isinstance(table, Table):
            if not table.rows:
                self.paragraph(table.caption)
                self.line("")
                return
            table = drawn(table)
        if not self._out.getvalue().endswith("\n\n"):
            self.line("")
        unbound = self._console.options.update(width=10 * self._width)
        if self._console.measure(table, options=unbound).maximum > self._width:
            table.padding = (0, 1, 0, 0)  # rather than to break words
        self._console.print(table)
        self.line("")

    def definitions(self, names: Iterable[str]) -> None:
        self.line("")
        for name in names:
            self.paragraph(f"{name}: {METRICS[name].definition}", style="dim", indent="  ")


def folded(text: str, width: int, indent: str) -> list[str]:
    """Its lines, folded at words; all but the first are indented."""
    return fill(text, width, subsequent_indent=indent, break_on_hyphens=False).split("\n")


def grid(*headings: str, left: frozenset[int]) -> Grid:
    """A table without lines; the columns in `left` are words, the others numbers."""
    table = Grid(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        justify: JustifyMethod = "left" if place in left else "right"
        shown = "" if heading in LABELS else heading
        table.add_column(shown, justify=justify, no_wrap=heading not in FOLDED)
    return table


def drawn(made: Table) -> Grid:
    """A table of cells: numbers to the right, what a row shares with the one above it said once."""
    columns = list(zip(*made.rows, strict=True))
    left = [
        place
        for place, cells in enumerate(columns)
        if not place or all(cell.value is None for cell in cells)
    ]
    table, before = grid(*made.heads, left=frozenset(left)), ""
    for first, *rest in made.rows:
        name = "" if first.text == before else first.shown
        before = first.text
        cells = []
        for head, cell in zip(made.heads, [first, *rest], strict=True):
            style = STYLES.get(cell.tone, "dim" if head == "result" else "")
            indent = "  " if cell is first else ""
            below = f"\n{indent}{cell.below.shown}" if cell.below else ""
            cells.append(
                Text.assemble((name if cell is first else cell.shown, style), (below, "dim"))
            )
        table.add_row(*cells)
    return table


# A pair of runs in twenty-five lines.

ONE_SIDED: Final = frozenset({"faster", "slower", "higher", "lower", "fails more"})
"""Outcomes that are about the candidate."""
MOST_CAVEATS: Final = 6
MORE: Final = " ... (-v)"
NEXT: Final = "tbench ab decides, by runs in turns; compare -v: every table; "
PAGE: Final = "--html FILE: the page"
QUERIES: Final = "any other question: trace export and docs/export.md"
"""Where more is, of runs that memory holds and of larger ones."""


def pair_text(comparison: Comparisons, *, width: int = 100, colour: bool = False) -> str:
    """What `tbench compare` prints: the verdict, who, the table, what to know before trusting it.

    `-v` prints `comparison_text`, every table.
    """
    sheet = Sheet(width, colour)
    outcome = sentences.outcome(comparison)
    word = f"CANDIDATE {outcome.upper()}" if outcome in ONE_SIDED else outcome.upper()
    style = STYLES.get(outcome, "red" if outcome in {"invalid", "fails more"} else "")
    text = f"{word}  {sentences.headline(comparison)}"
    sheet.paragraph(text, style=f"bold {style}".strip(), indent="  ")
    sheet.line("")
    first, second = comparison.baseline, comparison.candidate
    alike = first.model == second.model
    who = []
    for side, arm, other in (("baseline", first, second), ("candidate", second, first)):
        model = [] if alike else [sentences.models(arm, other)]
        who.append((side, "  ".join([arm.path.name, *model, arm.target or ""])))
    if alike:
        who.append(("model", sentences.models(first)))
    requests = sentences.requests(comparison) + ("" if comparison.paired else ", unpaired")
    pacing = [first.pacing] if first.pacing == second.pacing else []
    who.append(("compared", "; ".join([requests, *pacing, *facts(comparison.warnings)])))
    for label, line in who:
        sheet.paragraph(f"{label:<11}{line}".rstrip(), indent=" " * 11)
    sheet.table(tables.comparison_table(comparison, short=True).only(*tables.SHORT))
    caveats = sentences.caveats(comparison)
    if caveats:
        sheet.line("Before you trust it", style="bold")
    for label, line in caveats[:MOST_CAVEATS]:
        name = f"  {label:<9} "
        sheet.line(name + shorten(line, max(width, 60) - len(name), placeholder=MORE))
    more = len(caveats) - MOST_CAVEATS
    sheet.line(
        f"Next: {'' if more <= 0 else f'{more} more with -v; '}{NEXT}{QUERIES if first.sums else PAGE}"
    )
    return sheet.text


# A pair of runs with every table.

PAIR: Final = (
    "One pair of runs: what changes from run to run cannot be seen, all this is of these two only."
)
LEGEND: Final = (
    "overall: the geometric mean of candidate / baseline over the requests with a value in both runs; "
    "n_eff is their effective sample size."
)


def comparison_text(comparison: Comparisons, *, width: int = 100, colour: bool = False) -> str:
    """The comparison: who, the tables, what they mean, what to beware of, and how it was done."""
    sheet = Sheet(width, colour)
    first, second = comparison.baseline, comparison.candidate
    alike = _how(first) == _how(second)
    for side, arm in (("baseline ", first), ("candidate", second)):
        sheet.paragraph(f"{side}  {arm.name}{_where(arm)}" + ("" if alike else f": {_how(arm)}"))
    how = [*([_how(first)] if alike else []), sentences.requests(comparison)]
    sheet.paragraph("; ".join([*how, *facts(comparison.warnings), "ratio = candidate / baseline"]))
    sheet.table(tables.comparison_table(comparison).only(*tables.FULL))
    for line in sentences.rates_notes(comparison):
        sheet.paragraph(line, indent="  ")
    sheet.table(tables.overall_table(comparison))
    if thirds := sentences.thirds(comparison):
        sheet.paragraph(thirds, indent="  ")
        sheet.line("")
    if equal := tables.equal_lengths_table(comparison):
        sheet.paragraph(f"{equal.caption}:" if equal.rows else "")
        sheet.table(equal.only(*(head for head in equal.heads if head not in tables.MORE)))
    sheet.paragraph(f"{comparison.verdict}: {sentences.seen(comparison)}", style="bold")
    sheet.paragraph(sentences.discoveries(comparison))
    sheet.paragraph(PAIR)
    for caution in comparison.warnings:
        if not caution.is_fact:
            sheet.paragraph(f"! {caution.text}", style="yellow", indent="  ")
    sheet.definitions(comparison.shift)
    sheet.paragraph(LEGEND, style="dim", indent="  ")
    sheet.paragraph(_method(comparison))
    return sheet.text


def _where(arm: Arm) -> str:
    return f" at {arm.target}" if arm.target else ""


def _how(arm: Arm) -> str:
    return f"{named(arm.model or 'no model named')}; {arm.pacing}"


def _method(comparison: Comparisons) -> str:
    """How the intervals were made, with each number of blocks and how many rows have it."""
    made = [row for row in comparison.rows if row.blocks]
    if not made:
        return "No interval: there are too few requests."
    rows = Counter(
        f"K={row.blocks} (about {row.block_requests:,} requests, {words.amount(row.block_seconds, 's')})"
        for row in made
    )
    counted = ", ".join(f"{blocks} in {plural(n, 'row')}" for blocks, n in rows.most_common())
    how, _, _, *kind = made[0].method.split(", ")
    if made[0].sessions is None:
        kind.append("sessions not known, so that none has anything of its own")
    return (
        f"Method: {', '.join([how, *kind])}; K equal blocks, chosen for each row: {counted}. "
        "See docs/statistics.md."
    )


# One run, or a trace.

DESCRIPTIVE: Final = (
    "Intervals treat requests as independent: they describe this run, they do not compare."
)
IDLE: Final = frozenset({"cached_tokens", "cache_creation_tokens", "reasoning_tokens"})
"""Shown only where there are any."""
TWINS: Final = {"ttft_sent": "ttft", "ttft_answer": "ttft"}
"""Shown only where they differ from their twin."""


def run_text(arm: Arm, *, slo: Slo = (), width: int = 100, colour: bool = False) -> str:
    """One run or trace: what happened, whether it counts, and each metric with its quantiles."""
    sheet = Sheet(width, colour)
    sheet.line(f"{arm.kind} {arm.path}", style="bold")
    for line in _run_facts(arm):
        sheet.paragraph(line)
    if good := [
        f"{rate.row.title} {rate.text}" for rate in rates(arm, slo=slo) if rate.row.needs_slo
    ]:
        sheet.paragraph(f"{', '.join(good)} ({', '.join(objective.text for objective in slo)})")
    by_name = {metric.metric: metric for metric in summaries(arm)}
    metrics = [
        metric
        for name, metric in by_name.items()
        if metric.mean is not None
        if metric.maximum or name not in IDLE
        if (twin := by_name.get(TWINS.get(name, ""))) is None or twin.mean != metric.mean
    ]
    if metrics:
        table = tables.summary_table({arm.name: metrics})
        sheet.table(table.only(*tables.shown_quantiles(table)))
        sheet.paragraph(DESCRIPTIVE)
        quantiles = [quantile for metric in metrics for quantile in metric.quantiles]
        if any(quantile.refusal for quantile in quantiles if quantile.p <= words.USUAL):
            sheet.paragraph(FEW)
    errors = ", ".join(f"{kind} {count:,}" for kind, count in arm.errors.items())
    warm = ", with the warm-up" if arm.warm else ""
    sheet.paragraph(f"errors{warm}: {errors}" if errors else "no errors")
    sheet.definitions(metric.metric for metric in metrics)
    return sheet.text


def _run_facts(arm: Arm) -> Iterator[str]:
    """Where it was sent and how, what became of the requests, throughput, time, and whether it counts."""
    figures = arm.numbers
    yield f"{_how(arm)}{_where(arm)}"
    skipped = figures["skipped"]
    yield str(identity(arm.run)) + (f"; skipped {skipped:,}" if skipped else "")
    if told := probed(arm.run):
        yield row("probe", told)
    yield from departures(arm.run.totals, arm.target or "-")
    yield f"throughput: {spoken(figures)}"
    if drain := drained(figures["drain"]):
        yield f"drain: {drain}"
    if (spent := spending(arm)).known:
        yield f"cost: {sentences.cost((arm, spent))}" + "".join(
            f", {TITLES[name].removeprefix('cost/')} {words.amount(cost.value, 'USD')} {_sure(cost)}"
            for name, cost in spent.ratios.items()
            if cost.value is not None
        )
    flying, warm = figures["in_flight"], arm.warm
    mean = "not known" if flying["mean"] is None else three(flying["mean"])
    yield (
        f"{words.amount(figures['duration_s'], 's')}, mean concurrency {mean} "
        f"(max {'-' if flying['max'] is None else format(flying['max'], ',')})"
        + (f"; {plural(warm, 'request')} left out as warm-up" if warm else "")
    )
    if arm.sums is not None:
        yield f"! {left_out(arm)}"
    for flaw in sentences.flaws(arm):
        yield f"! {flaw}"
    yield "valid" if figures["valid"] else f"INVALID: {figures['invalid_because']}"


def _sure(cost: CostRatio) -> str:
    """The interval of a cost, or why there is none."""
    low, high, refusal = cost.interval
    return f"({refusal})" if refusal else words.dollars_interval(low, high)


# Repeated runs held against gates.

WIDTH: Final = 100


def judgement_text(results: GateResults, width: int = WIDTH) -> Iterator[str]:
    """Lines for a terminal of this width, at most 100 columns: the verdict, then a row for each gate."""
    width = min(width, WIDTH)
    fold = partial(folded, width=width)
    names = gate_sentences.shown_names([arm.name for arm in results.arms])
    several = len(results.candidates) > 1
    meaning = f"{gate_sentences.meaning(results)}."
    if not several:
        meaning = gate_sentences.why(results, results.candidates[0], names)
    yield from fold(f"{results.verdict.value}: {meaning}", indent=" " * 4)
    for arm in results.candidates:
        yield ""
        if several:
            verdict = results.verdict_of(arm.name).value
            reason = gate_sentences.why(results, arm, names)
            yield from fold(f"{names[arm.name]}: {verdict}. {reason}", indent=" " * 4)
        yield from _gate_lines(results, names, arm.name, width)
    yield ""
    for label, line in _gate_notes(results, names):
        yield from fold(f"{label:<11}{line}", indent=" " * 11)
    for caution in results.warnings:
        if not caution.is_fact:
            yield from fold(f"! {caution.text}", indent="  ")


def _gate_notes(results: GateResults, names: gate_sentences.Names) -> Iterator[tuple[str, str]]:
    """What was compared, what the verdict leaves open, and what would decide it; each with its label."""
    runs = ", ".join(
        f"{names[arm.name]} {gate_sentences.amount(results, arm)}" for arm in results.arms
    )
    shared = f"{plural(results.n, 'request')}, those that every run has"
    yield "compared", "; ".join([runs, shared, *facts(results.warnings)])
    if results.history is not None:
        yield (
            "judged",
            "each session is one draw and the candidate one more, by a prediction interval",
        )
    if slo := gate_sentences.objectives(results):
        yield "good", ", ".join(slo)
    if who := gate_sentences.declared(results):
        yield "contrast", f"{gate_sentences.TREND}, declared {who}"
    for line in gate_sentences.to_decide(results, names):
        yield "to decide", line
    if rest := gate_sentences.left_open(results):
        yield "left open", rest


def _gate_lines(
    results: GateResults, names: gate_sentences.Names, arm: str, width: int
) -> Iterator[str]:
    """A candidate's gates; a reason that does not fit beside its row stands under it."""
    gates = tables.gate_table(results, names, arm)
    titles = {"gate": "", "baseline": names[results.baseline.name], "candidate": names[arm]}
    head, *lines = words.aligned(gates.only(*tables.GATED, titles=titles))
    yield head
    for line, (cell,) in zip(lines, gates.only("reason").rows, strict=True):
        reason = cell.text.removeprefix(f"{tables.NOT_TESTABLE}: ")
        if reason and len(line) + 2 + len(reason) <= width:
            yield f"{line}: {reason}"
            continue
        yield line
        if reason:
            yield from folded(f"    {reason}", width, " " * 4)
