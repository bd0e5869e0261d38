"""Terminal: a comparison or a run as text, first what can be read in five seconds, then the detail.

Pure: returns the text. Without `colour` it holds no escape sequence.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from tbench.analysis.arms import Arm
from tbench.analysis.compare import Comparison, Comparisons
from tbench.analysis.comparison import EqualLengths
from tbench.analysis.proportions import GOOD, rates
from tbench.analysis.report import sentences, terminal_tables, words
from tbench.analysis.report.machine import summaries
from tbench.analysis.report.tables import USUAL
from tbench.analysis.report.terminal_tables import Sheet, grid
from tbench.analysis.slo import Slo
from tbench.analysis.summary import Quantile, Summary, facts
from tbench.analysis.t_tests import RATE
from tbench.capture.terminal import named, plural
from tbench.replay.closing import FEW, departures
from tbench.replay.throughput import spoken, three
from tbench.replay.totals import identity, numbers

STYLES = {"faster": "green", "slower": "red", "higher": "yellow", "lower": "yellow"}
PAIR = (
    "One pair of runs: what changes from run to run cannot be seen, all this is of these two only."
)
DESCRIPTIVE = (
    "Intervals treat requests as independent: they describe this run, they do not compare."
)
IDLE = frozenset({"cached_tokens", "cache_creation_tokens", "reasoning_tokens"})
"""Shown only where there are any."""
TWINS = {"ttft_sent": "ttft", "ttft_answer": "ttft"}
"""Shown only where they differ from their twin."""


def comparison_text(found: Comparisons, *, width: int = 100, colour: bool = False) -> str:
    """The comparison: who, the table, what it means, what to beware of, and how it was done."""
    page = Sheet(width, colour)
    for line in _heading(found):
        page.paragraph(line)
    page.table(_comparison_table(found.rows))
    page.table(terminal_tables.rates_table(found))
    for line in terminal_tables.rates_notes(found):
        page.paragraph(line, indent="  ")
    page.table(terminal_tables.overall_table(found))
    if thirds := terminal_tables.thirds_text(found):
        page.paragraph(thirds, indent="  ")
        page.line("")
    _equal_lengths(page, found.equal_lengths)
    page.paragraph(_errors(found))
    page.line("")
    page.paragraph(f"{found.verdict}: {sentences.seen(found)}", style="bold")
    if said := _discoveries(found):
        page.paragraph(said)
    page.paragraph(PAIR)
    page.cautions(found.warnings)
    page.definitions(found.shift)
    page.paragraph(terminal_tables.LEGEND, style="dim", indent="  ")
    page.paragraph(_method(found))
    return page.text


def run_text(arm: Arm, *, slo: Slo = (), width: int = 100, colour: bool = False) -> str:
    """One run or trace: what happened, whether it counts, and each metric with its quantiles."""
    page, facts = Sheet(width, colour), numbers(arm.run)
    metrics = _worth_showing(summaries(arm))
    page.line(f"{arm.kind} {arm.path}", style="bold")
    for line in _facts(arm, facts):
        page.paragraph(line)
    if good := [f"{one.title} {one.text}" for one in rates(arm, slo=slo) if one.name in GOOD]:
        page.paragraph(f"{', '.join(good)} ({', '.join(one.text for one in slo)})")
    if metrics:
        page.table(_metric_table(metrics))
        page.paragraph(DESCRIPTIVE)
        if any(one.refusal for each in metrics for one in each.quantiles if one.p <= USUAL):
            page.paragraph(FEW)
    page.paragraph(_failures(facts["errors"]))
    page.definitions(summary.metric for summary in metrics)
    return page.text


def _equal_lengths(page: Sheet, found: EqualLengths | None) -> None:
    if found is None:
        return
    page.paragraph(terminal_tables.lengths_text(found) + (":" if found.rows else ""))
    if found.rows:
        page.table(_comparison_table(found.rows))
    else:
        page.line("")


def _heading(found: Comparisons) -> Iterator[str]:
    first, second = found.baseline, found.candidate
    alike = _how(first) == _how(second)
    for side, arm in (("baseline ", first), ("candidate", second)):
        yield f"{side}  {arm.name}{_where(arm)}" + ("" if alike else f": {_how(arm)}")
    counts = found.requests
    how = (
        f"{plural(counts[0], 'request')}, paired"
        if found.paired
        else f"{counts[0]:,} and {plural(counts[1], 'request')}"
    )
    parts = [*([_how(first)] if alike else []), how, *facts(found.warnings)]
    yield "; ".join([*parts, "ratio = candidate / baseline"])


def _where(arm: Arm) -> str:
    return f" at {arm.target}" if arm.target else ""


def _how(arm: Arm) -> str:
    return f"{named(arm.model or 'no model named')}; {arm.pacing}"


def _comparison_table(rows: Iterable[Comparison]) -> Table:
    headings = (
        "metric",
        "",
        "n",
        "baseline",
        "candidate",
        "ratio",
        "95% CI",
        "confidence",
        "difference",
    )
    table = grid(*headings, left=frozenset({0, 1, 6, 7, 8}))
    before = None
    for row in rows:
        table.add_row(row.metric if row.metric != before else "", *_cells(row))
        before = row.metric
    return table


def _cells(row: Comparison) -> list[str | Text]:
    shown: list[str | Text] = [
        words.percentile(row.quantile),
        f"{min(row.n_baseline, row.n_candidate):,}",
        *words.pair(row),
        words.ratio(row.ratio),
    ]
    if row.refusal:
        return [*shown, "", "", Text(row.refusal, style="dim")]
    seen = row.finding in STYLES
    finding = Text(str(row.finding) if seen else "none seen", STYLES.get(str(row.finding), "dim"))
    confidence = "drift" if row.drift else row.confidence
    return [*shown, words.ratio_interval(row.low, row.high), confidence, finding]


def _errors(found: Comparisons) -> str:
    errors = found.errors
    return (
        f"errors: {errors.baseline:.2%} and {errors.candidate:.2%}, difference "
        f"{words.points(errors.difference)} [{words.points(errors.low)}, {words.points(errors.high)}] "
        f"({errors.method})"
    )


def _discoveries(found: Comparisons) -> str | None:
    """Which differences stay when so many were looked at; None where one or none was."""
    tried = [row for row in found.rows if row.q_value is not None]
    kept: dict[str, list[str]] = {}
    for row in tried:
        if (row.q_value or 0.0) <= RATE:
            kept.setdefault(row.metric, []).append(words.percentile(row.quantile))
    if len(tried) < 2:
        return None
    which = "; ".join(f"{metric} {' '.join(at)}" for metric, at in kept.items()) or "none"
    low = kept and all(row.confidence == "low" for row in tried)
    left = sum(row.p_value is not None for row in found.rows) - len(tried)
    return (
        f"Of {len(tried)} quantiles compared{f' ({left} unreliable ones left out)' if left else ''}, "
        f"different at a false discovery rate of {RATE:.0%}: {which}{' (low confidence)' if low else ''}."
    )


def _method(found: Comparisons) -> str:
    """How the intervals were made, with each number of blocks and how many rows have it."""
    made = [row for row in found.rows if row.blocks]
    if not made:
        return "No interval: there are too few requests."
    rows = Counter(_blocks(row) for row in made)
    counted = ", ".join(f"{blocks} in {n} row{'s' * (n > 1)}" for blocks, n in rows.most_common())
    how, _, _, *kind = made[0].method.split(", ")
    if made[0].sessions is None:
        kind.append("sessions not known, so that none has anything of its own")
    return (
        f"Method: {', '.join([how, *kind])}; K equal blocks, chosen for each row: {counted}. "
        "See docs/statistics.md."
    )


def _blocks(row: Comparison) -> str:
    return f"K={row.blocks} (about {row.block_requests:,} requests, {words.amount(row.block_seconds, 's')})"


def _facts(arm: Arm, facts: dict[str, Any]) -> Iterator[str]:
    yield f"{_how(arm)}{_where(arm)}"
    yield str(identity(arm.run)) + (f"; skipped {facts['skipped']:,}" if facts["skipped"] else "")
    yield from departures(arm.run.totals, arm.target or "-")
    warm = len(arm) - int(arm.measured.sum())
    yield f"throughput: {spoken(facts)}"
    flying = facts["in_flight"]
    yield (
        f"{words.amount(facts['duration_s'], 's')}, in flight {three(flying['mean'] or 0)} on average "
        f"(by time), {flying['max'] or 0:,} at most"
        + (f"; {plural(warm, 'request')} left out as warm-up" if warm else "")
    )
    if arm.buffered:
        yield f"! {arm.buffered}"
    yield f"INVALID: {facts['invalid_because']}" if not facts["valid"] else "valid"


def _worth_showing(metrics: list[Summary]) -> list[Summary]:
    by_name = {one.metric: one for one in metrics}
    return [
        one
        for one in metrics
        if one.mean is not None
        if not (one.metric in IDLE and not one.maximum)
        if (twin := by_name.get(TWINS.get(one.metric, ""))) is None or twin.mean != one.mean
    ]


def _metric_table(metrics: list[Summary]) -> Table:
    rare = any(one.p > USUAL and not one.refusal for each in metrics for one in each.quantiles)
    points = [one.p for one in metrics[0].quantiles if one.p <= USUAL or rare] if metrics else []
    names = [words.percentile(p) for p in points]
    table = grid("metric", "mean", *names, "max", left=frozenset({0}))
    for one in metrics:
        unit, factor = words.scale(one.mean or 0.0, one.unit)
        late = f"\n  {one.timeouts:,} timed out" if one.timeouts else ""
        name = Text.assemble(one.metric, "\n", (f"  {unit}, n {one.n:,}{late}", "dim"))
        cells = [_quantile(point, factor) for point in one.quantiles if point.p in points]
        table.add_row(name, _times(one.mean, factor), *cells, _times(one.maximum, factor))
    return table


def _times(value: float | None, factor: float) -> str:
    return "-" if value is None else three(value * factor)


def _quantile(one: Quantile, factor: float) -> Text:
    """The value, and under it its interval; with too few values a mark, and how many it needs."""
    value = _times(one.value, factor)
    if one.value is None and one.at_least is not None:
        value = f"> {_times(one.at_least, factor)}"
    if one.refusal:
        return Text.assemble(f"{value}*\n", (one.refusal.partition(" (")[2].rstrip(")"), "dim"))
    ends = (None if end is None else end * factor for end in (one.low, one.high))
    return Text.assemble(value, "\n", (words.interval(*ends), "dim"))


def _failures(errors: dict[str, int]) -> str:
    if not errors:
        return "no errors"
    return "errors: " + ", ".join(f"{kind} {count:,}" for kind, count in errors.items())
