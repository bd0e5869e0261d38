"""Text: a run, a pair and repeated runs for a terminal: what is read in five seconds, then the detail.

Pure: returns text. Without `colour` it holds no escape sequence.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from io import StringIO
from textwrap import fill, shorten
from typing import Final

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from tbench.analysis import words
from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Comparison, Comparisons, Verdict
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.metrics import METRICS
from tbench.analysis.proportions import GOOD, rates, ratio
from tbench.analysis.report import gate_sentences, sentences
from tbench.analysis.report.machine import summaries
from tbench.analysis.run_metrics import Slo
from tbench.analysis.summary import Summary, facts
from tbench.capture.console import Console
from tbench.capture.terminal import escaped, named, plural
from tbench.replay.closing import FEW, departures
from tbench.replay.throughput import spoken, three
from tbench.replay.totals import identity, numbers

NARROW: Final = frozenset(
    {
        *("n", "baseline", "candidate", "ratio", "95% CI", "confidence"),
        *("overall", "n_eff", "geometric mean ratio"),
    }
)
"""Columns that a narrow terminal must not fold."""


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

    def table(self, table: Table) -> None:
        """With an empty line before and after it."""
        if not self._out.getvalue().endswith("\n\n"):
            self.line("")
        self._console.print(table)
        self.line("")

    def definitions(self, names: Iterable[str]) -> None:
        self.line("")
        for name in names:
            self.paragraph(f"{name}: {METRICS[name].definition}", style="dim", indent="  ")


def folded(text: str, width: int, indent: str) -> list[str]:
    """Its lines, folded at words; all but the first are indented."""
    return fill(text, width, subsequent_indent=indent, break_on_hyphens=False).split("\n")


def grid(*headings: str, left: frozenset[int]) -> Table:
    """A table without lines; the columns in `left` are words, the others numbers."""
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        justify: JustifyMethod = "left" if place in left else "right"
        table.add_column(heading, justify=justify, no_wrap=heading in NARROW)
    return table


# A pair of runs in twenty-five lines.

STYLES: Final = {"faster": "green", "slower": "red", "higher": "yellow", "lower": "yellow"}
ONE_SIDED: Final = frozenset({*STYLES, "fails more"})
"""Outcomes that are about the candidate."""
MOST_CAVEATS: Final = 6
MORE: Final = " ... (-v)"
RATES: Final = ("requests_per_s", "output_tokens_per_s", "goodput")
NEXT: Final = "tbench ab decides, by runs in turns; compare -v: every table; --html FILE: the page"


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
    for label, line in _who(comparison):
        sheet.paragraph(f"{label:<11}{line}".rstrip(), indent=" " * 11)
    sheet.table(_pair_table(comparison))
    caveats = sentences.caveats(comparison)
    if caveats:
        sheet.line("Before you trust it", style="bold")
    for label, line in caveats[:MOST_CAVEATS]:
        sheet.line(f"  {label:<10}{shorten(line, max(width, 60) - 12, placeholder=MORE)}")
    more = len(caveats) - MOST_CAVEATS
    sheet.line(f"Next: {'' if more <= 0 else f'{more} more with -v; '}{NEXT}")
    return sheet.text


def _who(comparison: Comparisons) -> Iterator[tuple[str, str]]:
    """Who was compared and over what; each line with its label."""
    first, second = comparison.baseline, comparison.candidate
    alike = first.model == second.model
    for side, arm in (("baseline", first), ("candidate", second)):
        model = [] if alike else [sentences.models(arm)]
        yield side, "  ".join([arm.path.name, *model, arm.target or ""])
    if alike:
        yield "model", sentences.models(first)
    requests = sentences.requests(comparison) + ("" if comparison.paired else ", unpaired")
    pacing = [first.pacing] if first.pacing == second.pacing else []
    yield "compared", "; ".join([requests, *pacing, *facts(comparison.warnings)])


def _pair_table(comparison: Comparisons) -> Table:
    """The ratios of the short text, then rates and failures; each with its result in a few words."""
    headings = ("", "", "baseline", "candidate", "ratio", "95% CI", "result")
    table = grid(*headings, left=frozenset({0, 1, 5, 6}))
    before = None
    for row in sentences.shown_rows(comparison):
        label = words.title(row.metric) if row.metric != before else ""
        before = row.metric
        rough = "" if row.confidence == "95%" else " ~"
        interval = "" if row.refusal else words.ratio_interval(row.low, row.high) + rough
        figures = (*words.pair(row), words.ratio(row.ratio), interval)
        result = sentences.result_of(row)
        shown = Text(result, STYLES.get(result, "dim"))
        table.add_row(label, words.percentile(row.quantile), *figures, shown)
    open_loop = comparison.baseline.open_loop and comparison.candidate.open_loop
    for first, second in comparison.rates:
        if first.name in RATES:
            note = "load set by the trace" if open_loop and first.unit != "share" else ""
            title = first.title.replace("tokens/s", "tok/s")
            figures = (first.text, second.text, words.ratio(ratio((first, second))), "")
            table.add_row(title, "", *figures, Text(note, style="dim"))
    errors = comparison.errors
    if errors.low <= 0 <= errors.high:
        shown = Text("no difference seen", style="dim")
    else:
        shown = Text("more", style="red") if errors.difference > 0 else Text("fewer", style="green")
    shares = f"{errors.baseline:.2%}", f"{errors.candidate:.2%}", words.points(errors.difference)
    interval = words.change_interval(errors.low, errors.high, share=True)
    table.add_row("errors", "", *shares, interval, shown)
    return table


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
    sheet.table(_comparison_table(comparison.rows))
    throughput = grid("throughput", "baseline", "candidate", "ratio", left=frozenset({0}))
    for pair in comparison.rates:
        throughput.add_row(pair[0].title, pair[0].text, pair[1].text, words.ratio(ratio(pair)))
    sheet.table(throughput)
    for line in sentences.rates_notes(comparison):
        sheet.paragraph(line, indent="  ")
    sheet.table(_overall_table(comparison))
    if thirds := sentences.thirds(comparison):
        sheet.paragraph(thirds, indent="  ")
        sheet.line("")
    if equal := comparison.equal_lengths:
        sheet.paragraph(sentences.equal_lengths(equal) + (":" if equal.rows else ""))
        if equal.rows:
            sheet.table(_comparison_table(equal.rows))
        else:
            sheet.line("")
    errors = comparison.errors
    interval = words.change_interval(errors.low, errors.high, share=True)
    sheet.paragraph(
        f"errors: {errors.baseline:.2%} and {errors.candidate:.2%}, difference "
        f"{words.points(errors.difference)} {interval} ({errors.method})"
    )
    sheet.line("")
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


def _comparison_table(rows: Iterable[Comparison]) -> Table:
    """Every quantile with its interval, or why it has none."""
    headings = ("metric", "", "n", "baseline", "candidate", "ratio", "95% CI", "confidence")
    table = grid(*headings, "difference", left=frozenset({0, 1, 6, 7, 8}))
    before = None
    for row in rows:
        cells: list[str | Text] = [
            row.metric if row.metric != before else "",
            words.percentile(row.quantile),
            f"{min(row.n_baseline, row.n_candidate):,}",
            *words.pair(row),
            words.ratio(row.ratio),
        ]
        before = row.metric
        if row.refusal:
            table.add_row(*cells, "", "", Text(row.refusal, style="dim"))
            continue
        finding = str(row.finding)
        shown = Text(finding if finding in STYLES else "none seen", STYLES.get(finding, "dim"))
        confidence = "drift" if row.drift else row.confidence
        table.add_row(*cells, words.ratio_interval(row.low, row.high), confidence, shown)
    return table


def _overall_table(comparison: Comparisons) -> Table:
    """Of each metric n, effective sample size, geometric mean ratio, interval and confidence."""
    headings = ("overall", "n", "n_eff", "geometric mean ratio", "95% CI", "confidence")
    table = grid(*headings, left=frozenset({0, 4, 5}))
    for name, overall in comparison.overall.items():
        mean, confidence = overall.geometric, overall.confidence
        figures: tuple[str, ...] = ("-", "", confidence)
        if mean is not None:
            interval = "" if mean.refusal else words.ratio_interval(mean.low, mean.high)
            figures = (words.ratio(mean.ratio), interval, "drift" if mean.drift else confidence)
        sizes = f"{overall.effective.n:,}", f"{overall.effective.n_eff:,.0f}"
        table.add_row(name, *sizes, *figures)
    return table


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
    if good := [f"{rate.title} {rate.text}" for rate in rates(arm, slo=slo) if rate.name in GOOD]:
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
        sheet.table(_metric_table(metrics))
        sheet.paragraph(DESCRIPTIVE)
        quantiles = [quantile for metric in metrics for quantile in metric.quantiles]
        if any(quantile.refusal for quantile in quantiles if quantile.p <= words.USUAL):
            sheet.paragraph(FEW)
    errors = ", ".join(f"{kind} {count:,}" for kind, count in numbers(arm.run)["errors"].items())
    sheet.paragraph(f"errors: {errors}" if errors else "no errors")
    sheet.definitions(metric.metric for metric in metrics)
    return sheet.text


def _run_facts(arm: Arm) -> Iterator[str]:
    """Where it was sent and how, what became of the requests, throughput, time, and whether it counts."""
    figures = numbers(arm.run)
    yield f"{_how(arm)}{_where(arm)}"
    skipped = figures["skipped"]
    yield str(identity(arm.run)) + (f"; skipped {skipped:,}" if skipped else "")
    yield from departures(arm.run.totals, arm.target or "-")
    yield f"throughput: {spoken(figures)}"
    flying, warm = figures["in_flight"], len(arm) - int(arm.measured.sum())
    mean = "not known" if flying["mean"] is None else three(flying["mean"])
    yield (
        f"{words.amount(figures['duration_s'], 's')}, in flight {mean} on average "
        f"(by time), {flying['max'] or 0:,} at most"
        + (f"; {plural(warm, 'request')} left out as warm-up" if warm else "")
    )
    if arm.buffered:
        yield f"! {arm.buffered}"
    yield "valid" if figures["valid"] else f"INVALID: {figures['invalid_because']}"


def _metric_table(metrics: Sequence[Summary]) -> Table:
    """A row for each metric in the unit that suits its mean; under each quantile its interval."""
    every = [quantile for metric in metrics for quantile in metric.quantiles]
    rare = any(quantile.p > words.USUAL and not quantile.refusal for quantile in every)
    points = [point.p for point in metrics[0].quantiles if rare or point.p <= words.USUAL]
    table = grid("metric", "mean", *map(words.percentile, points), "max", left=frozenset({0}))
    for metric in metrics:
        unit, factor = words.scale(metric.mean or 0.0, metric.unit)
        late = f"\n  {metric.timeouts:,} timed out" if metric.timeouts else ""
        name = Text.assemble(metric.metric, "\n", (f"  {unit}, n {metric.n:,}{late}", "dim"))
        cells = []
        for quantile in metric.quantiles:
            if quantile.p not in points:
                continue
            value = _times(quantile.value, factor)
            if quantile.value is None and quantile.at_least is not None:
                value = f"> {_times(quantile.at_least, factor)}"
            ends = (None if end is None else end * factor for end in (quantile.low, quantile.high))
            under = f"{value}\n", (words.interval(*ends), "dim")
            if quantile.refusal:  # a mark, and how many values it needs in the interval's place
                under = f"{value}*\n", (quantile.refusal.partition(" (")[2].rstrip(")"), "dim")
            cells.append(Text.assemble(*under))
        table.add_row(name, _times(metric.mean, factor), *cells, _times(metric.maximum, factor))
    return table


def _times(value: float | None, factor: float) -> str:
    return "-" if value is None else three(value * factor)


# Repeated runs held against gates.

WIDTH: Final = 100
NOT_TESTABLE: Final = "not testable"


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
            verdict = gate_sentences.standing(results, arm).value
            reason = gate_sentences.why(results, arm, names)
            yield from fold(f"{names[arm.name]}: {verdict}. {reason}", indent=" " * 4)
        rows = [row for row in results.rows if row.arm == arm.name]
        heads = ("", names[results.baseline.name], names[arm.name])
        yield from _gate_table(rows, (*heads, "change", "90% CI", "margin", "result"), width)
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


def _gate_table(rows: Sequence[GateRow], heads: tuple[str, ...], width: int) -> Iterator[str]:
    """Columns as wide as they need to be, two spaces apart; a reason that does not fit under its row."""
    cells = [heads]
    for row in rows:
        verdict = row.comparison.verdict
        result = NOT_TESTABLE if verdict is Verdict.SKIPPED else verdict.value
        change = (gate_sentences.change_cell(row), gate_sentences.interval_cell(row))
        label = gate_sentences.gate_label(row.gate)
        cells.append(
            (label, *gate_sentences.sides(row), *change, gate_sentences.margin(row.gate), result)
        )
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = ("<", ">", ">", ">", "<", ">")
    for judged, line in zip([None, *rows], cells, strict=True):
        columns = zip(line, sides, sizes, strict=False)
        shown = "  ".join([*(f"{cell:{side}{size}}" for cell, side, size in columns), line[-1]])
        reason = "" if judged is None else gate_sentences.reason(judged)
        reason = reason.removeprefix(f"{NOT_TESTABLE}: ")
        if reason and len(shown) + 2 + len(reason) <= width:
            yield f"{shown}: {reason}"
            continue
        yield shown
        if reason:
            yield from folded(f"    {reason}", width, " " * 4)
