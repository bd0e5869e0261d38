"""A pair of runs in twenty-five lines: the verdict, who, the table, and what to know before trusting it."""

from collections.abc import Iterator
from textwrap import shorten

from rich.table import Table
from rich.text import Text

from tbench.analysis.comparison import Comparison, Comparisons
from tbench.analysis.proportions import Pair, ratio
from tbench.analysis.report import sentences, words
from tbench.analysis.report.terminal import STYLES
from tbench.analysis.report.terminal_tables import Sheet, grid
from tbench.analysis.summary import facts
from tbench.capture.terminal import plural

MOST_CAVEATS = 6
MORE = " ... (-v)"
RATES = ("requests_per_s", "output_tokens_per_s", "goodput")


def pair_text(comparison: Comparisons, *, width: int = 100, colour: bool = False) -> str:
    """What `tbench compare` prints; `-v` prints `terminal.comparison_text`, every table."""
    page = Sheet(width, colour)
    outcome = sentences.outcome(comparison)
    page.paragraph(
        f"{_word(outcome)}  {sentences.headline(comparison)}", style=_style(outcome), indent="  "
    )
    page.line("")
    for line in _who(comparison):
        page.paragraph(line, indent=" " * 11)
    page.table(_table(comparison))
    caveats = sentences.caveats(comparison)
    if caveats:
        page.line("Before you trust it", style="bold")
    for label, text in caveats[:MOST_CAVEATS]:
        page.line(f"  {label:<10}{shorten(text, max(width, 60) - 12, placeholder=MORE)}")
    more = len(caveats) - MOST_CAVEATS
    page.line(f"Next: {'' if more <= 0 else f'{more} more with -v; '}{NEXT}")
    return page.text


NEXT = "tbench ab decides, by runs in turns; compare -v: every table; --html FILE: the page"


def _word(outcome: str) -> str:
    one_sided = outcome in {"faster", "slower", "higher", "lower", "fails more"}
    return f"CANDIDATE {outcome.upper()}" if one_sided else outcome.upper()


def _style(outcome: str) -> str:
    return (
        f"bold {STYLES.get(outcome, 'red' if outcome in {'invalid', 'fails more'} else '')}".strip()
    )


def _who(comparison: Comparisons) -> Iterator[str]:
    first, second = comparison.baseline, comparison.candidate
    alike = first.model == second.model
    for label, arm in (("baseline", first), ("candidate", second)):
        who = [arm.path.name, *([] if alike else [sentences.models(arm)]), arm.target or ""]
        yield f"{label:<11}{'  '.join(who)}".rstrip()
    if alike:
        yield f"{'model':<11}{sentences.models(first)}"
    counts = comparison.requests
    requests = (
        f"{plural(counts[0], 'request')}, paired"
        if comparison.paired
        else f"{counts[0]:,} and {plural(counts[1], 'request')}, unpaired"
    )
    pacing = [first.pacing] if first.pacing == second.pacing else []
    yield "; ".join([f"{'compared':<11}{requests}", *pacing, *facts(comparison.warnings)])


def _table(comparison: Comparisons) -> Table:
    table = grid(
        "", "", "baseline", "candidate", "ratio", "95% CI", "result", left=frozenset({0, 1, 5, 6})
    )
    before = None
    for row in sentences.shown_rows(comparison):
        label = words.title(row.metric) if row.metric != before else ""
        figures = (*words.pair(row), words.ratio(row.ratio), *_interval(row))
        table.add_row(label, words.percentile(row.quantile), *figures)
        before = row.metric
    open_loop = comparison.baseline.open_loop and comparison.candidate.open_loop
    for pair in comparison.rates:
        if pair[0].name in RATES:
            table.add_row(*_rate(pair, open_loop=open_loop))
    errors = comparison.errors
    shares = f"{errors.baseline:.2%}", f"{errors.candidate:.2%}", words.points(errors.difference)
    interval = f"[{words.points(errors.low)}, {words.points(errors.high)}]"
    table.add_row("errors", "", *shares, interval, _errors(comparison))
    return table


def _interval(row: Comparison) -> tuple[str, Text]:
    result = sentences.result_of(row)
    if row.refusal:
        return "", Text(result, style="dim")
    rough = "" if row.confidence == "95%" else " ~"
    return words.ratio_interval(row.low, row.high) + rough, Text(result, STYLES.get(result, "dim"))


def _rate(pair: Pair, *, open_loop: bool) -> tuple[str | Text, ...]:
    first, second = pair
    note = Text("load set by the trace" if open_loop and first.unit != "share" else "", style="dim")
    title = first.title.replace("tokens/s", "tok/s")
    return title, "", first.text, second.text, words.ratio(ratio(pair)), "", note


def _errors(comparison: Comparisons) -> Text:
    errors = comparison.errors
    if errors.low <= 0 <= errors.high:
        return Text("no difference seen", style="dim")
    return Text("more", style="red") if errors.difference > 0 else Text("fewer", style="green")
