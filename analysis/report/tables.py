"""Tables of a page: each number with its n, interval, method and warnings, and its exact value inside."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from tbench.analysis import words
from tbench.analysis.charts import Bar, Dot, Picture, dots, forest
from tbench.analysis.comparison import Comparison, Comparisons, Verdict
from tbench.analysis.gate import ERRORS
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.metrics import METRICS
from tbench.analysis.proportions import ratio
from tbench.analysis.report import gate_sentences, sentences
from tbench.analysis.report.facts import Sides, places
from tbench.analysis.report.gate_sentences import Names
from tbench.analysis.report.markup import Html, html, join, number, span, table, tag
from tbench.analysis.run_metrics import endpoint
from tbench.analysis.summary import Caution, Quantile, Summary, facts


def cautions(warnings: Sequence[Caution]) -> Html:
    """Warnings as a list: the code for programs, the sentence for people; before it plain facts."""
    items = [
        tag("li", tag("span", caution.code, class_="code"), " ", caution.text)
        for caution in warnings
        if not caution.is_fact
    ]
    known = [tag("p", f"{fact}.") for fact in facts(warnings)]
    return join([*known, tag("ul", join(items), class_="cautions") if items else html(None)])


def definitions(metrics: Iterable[str]) -> Html:
    """What each metric means."""
    rows = []
    for name in metrics:
        if metric := METRICS.get(name):
            better = f"{metric.better} is better"
            rows.append([metric.name, metric.unit, better, metric.definition])
    return table("Metrics", ["metric", "unit", "direction", "definition"], rows)


# A pair of runs.

PHONE: Final = frozenset({"metric", "ratio", "finding"})
"""What of a comparison a narrow screen shows."""
RATIO: Final = ("ratio", "95% interval", "finding", "confidence", "n", "method", "warnings")


def comparison_table(comparison: Comparisons) -> Html:
    """Every quantile of every metric, or why there is none; and end to end at equal lengths."""
    equal = comparison.equal_lengths
    every = (*comparison.rows, *(equal.rows if equal else ()))
    texts = dict.fromkeys(caution.text for row in every for caution in row.warnings)
    notes = {text: k for k, text in enumerate(texts, 1)}
    rows = [
        [
            _name(row),
            *map(number, (row.baseline, row.candidate), words.pair(row)),
            *_compared(row, notes),
        ]
        for row in comparison.rows
    ]
    head = ["metric", "baseline", "candidate", *RATIO]
    parts = [table("Candidate / baseline, by quantile", head, rows, phone=PHONE)]
    if equal and equal.rows:  # a ratio at equal lengths has no values of its own
        rows = [[_name(row), *_compared(row, notes)] for row in equal.rows]
        caption = sentences.equal_lengths(equal)
        parts.append(table(caption, ["metric", *RATIO], rows, phone=PHONE))
    elif equal:
        parts.append(tag("p", sentences.equal_lengths(equal), class_="quiet"))
    if notes:
        items = join(tag("li", text, id=f"note-{k}", value=k) for text, k in notes.items())
        parts.append(tag("ol", items, class_="quiet", aria_label="warnings"))
    return join(parts)


def _name(row: Comparison) -> str:
    return f"{row.metric} {words.percentile(row.quantile)}"


def _compared(row: Comparison, notes: Mapping[str, int]) -> list[object]:
    """The cells of RATIO; a warning is its code, with the number of the note that has its sentence."""
    n = f"{row.n_baseline:,}"
    if row.n_candidate != row.n_baseline:
        n = f"{n} / {row.n_candidate:,}"
    finding = row.finding or "refused"
    interval = span(row.low, row.high, words.ratio_interval(row.low, row.high))
    marks = []
    for caution in row.warnings:
        k = notes[caution.text]
        marks.append(tag("a", f"{caution.code} ({k})", href=f"#note-{k}", class_="code"))
    return [
        number(row.ratio, words.ratio(row.ratio)),
        interval if row.finding else "none",
        tag("span", finding, class_=finding.split(" ")[0]),
        *(row.confidence, n, row.refusal or row.method),
        join(marks, tag("br")) if marks else html("none"),
    ]


def rates_table(comparison: Comparisons) -> Html:
    """What each arm did per second, over the compared requests."""
    rows = []
    for pair in comparison.rates:
        first, second = (number(rate.value, rate.text) for rate in pair)
        quotient = ratio(pair)
        rows.append([pair[0].title, first, second, number(quotient, words.ratio(quotient))])
    caption = "Throughput: successes per second, from the first sent to the last end"
    notes = [tag("p", line, class_="quiet") for line in sentences.rates_notes(comparison)]
    return join([table(caption, ["rate", "baseline", "candidate", "ratio"], rows), *notes])


# One run, or a trace.


def summary_table(summaries: Sequence[Summary]) -> Html:
    """One run's metrics with their quantiles, each with its interval or why it has none.

    A row is in the unit that suits its mean, as the terminal has it.
    """
    every = [quantile for summary in summaries for quantile in summary.quantiles]
    points = sorted({point.p for point in every if point.p <= words.USUAL or not point.refusal})
    head = ["metric", "n", "timed out", "mean", *map(words.percentile, points), "max"]
    rows = []
    for summary in summaries:
        by_p = {quantile.p: quantile for quantile in summary.quantiles}
        mean, maximum = (
            number(value, words.amount(value, summary.unit, beside=[summary.mean]))
            for value in (summary.mean, summary.maximum)
        )
        # A metric may lack a rare quantile that another has enough values for: a dash.
        cells = [_quantile(by_p.get(p), summary.unit, summary.mean) for p in points]
        counts = f"{summary.n:,}", f"{summary.timeouts:,}"
        rows.append([summary.metric, *counts, mean, *cells, maximum])
    return table(
        "Quantiles of this run, each with its interval (nominal 95%, requests taken as independent). "
        "* few values: a hint, without an interval",
        head,
        rows,
    )


def _quantile(quantile: Quantile | None, unit: str, mean: float | None) -> Html:
    if quantile is None:
        return html("-")
    shown = words.beyond(quantile.value, quantile.at_least, unit, [mean])
    value = number(quantile.value, shown)
    if quantile.refusal:
        return join([join([value, "*"]), tag("span", quantile.refusal, class_="quiet")], tag("br"))
    low, high = quantile.low, quantile.high
    ends = span(low, high, words.amount_interval(low, high, unit, [mean]))
    return join([value, ends], tag("br"))


# Repeated runs held against gates: what was judged, each run's figures, and the pictures of both.


def gate_table(results: GateResults, names: Names) -> Html:
    """Every gate of every candidate with its figures, its verdict, and why it is not decided."""
    several = len(results.candidates) > 1
    other = "candidate" if several else names[results.candidates[0].name]
    head = ["gate", *(["arm"] if several else []), "verdict", names[results.baseline.name]]
    head += [other, "change", "margin", "requests", "reason and method"]
    rows = [
        [
            gate_sentences.gate_label(row.gate),
            *([names[row.arm]] if several else []),
            *_gate_cells(row),
        ]
        for row in results.rows
    ]
    caption = (
        "What was gated. Quantiles and rates are geometric means over an arm's runs, shares plain means; a "
        "change is candidate / baseline - 1, of shares candidate - baseline, with its 90% interval, each "
        "end the one-sided 95% bound; where the candidate must hold a limit it is its own figure"
    )
    return table(caption, head, rows, phone={"gate", "arm", "verdict", "change"})


def _gate_cells(row: GateRow) -> Iterator[object]:
    judged, level = row.comparison, row.gate.scale == "level"
    word = "not testable" if judged.verdict is Verdict.SKIPPED else judged.verdict.value
    yield tag("span", word, class_=f"mark {judged.verdict.value}")
    yield from map(number, (judged.baseline, judged.candidate), gate_sentences.sides(row))
    change = gate_sentences.change(row) if level else gate_sentences.change_cell(row)
    parts = [number(judged.candidate if level else judged.ratio, change)]
    if interval := gate_sentences.interval(row):
        parts.append(span(judged.low, judged.high, interval))
    yield join(parts, tag("br"))
    yield gate_sentences.margin(row.gate)
    yield tag("span", f"{judged.n_baseline:,} / {judged.n_candidate:,}", class_="whole")
    yield ". ".join(filter(None, [gate_sentences.reason(row), judged.method]))


def has_intervals(results: GateResults) -> bool:
    """Whether its changes have intervals: an experiment that may stop early has none."""
    return any(map(gate_sentences.interval, results.rows))


def forests(results: GateResults, names: Names) -> list[Picture | None]:
    """The ratios in one picture, the differences of shares in another; a limit has no change to draw.

    Gates of one name differ in their margin, which is then in their label.
    """
    several = len(results.candidates) > 1
    labels = [
        " ".join([*([names[row.arm]] if several else []), gate_sentences.gate_label(row.gate)])
        for row in results.rows
    ]
    bars: dict[str, list[Bar]] = {"ratio": [], "points": [], "level": []}
    for row, label in zip(results.rows, labels, strict=True):
        alone = labels.count(label) == 1
        text = label if alone else f"{label}, {gate_sentences.margin(row.gate)}"
        judged, gate, bare = row.comparison, row.gate, not gate_sentences.interval(row)
        edge = gate.shown(-gate.threshold if gate.higher else gate.threshold)
        bar = Bar(
            label=text,
            value=judged.ratio,
            low=judged.low,
            high=judged.high,
            said=judged.verdict.value,
            passes=(edge, None) if gate.higher else (None, edge),
            decides=None if bare else row.bound,
            share=gate.scale == "points",
            bare=bare,
        )
        bars[gate.scale].append(bar)
    shares = {row.gate.metric for row in results.rows if row.gate.scale == "points"}
    title = "Change of the error rate" if shares == {ERRORS} else "Change of shares"
    return [
        forest("Change of each gated quantity", bars["ratio"]) if bars["ratio"] else None,
        forest(title, bars["points"]) if bars["points"] else None,
    ]


def run_dots(results: GateResults, names: Names, sides: Sides) -> Iterator[Picture | None]:
    """A picture for each gated quantity: every run's figure, in the order in which they began."""
    means: dict[tuple[str, float | None, str], float] = {}
    for row in results.rows:
        for arm, mean in (
            (results.baseline.name, row.comparison.baseline),
            (row.arm, row.comparison.candidate),
        ):
            known = math.nan if mean is None else mean
            means[row.gate.metric, row.gate.quantile, names[arm]] = known
    order = places(sides)
    for (metric, p), by_side in _run_figures(results, names).items():
        runs = [
            Dot(place.side, place.order, place.name, by_side[place.side][place.number - 1])
            for place in order
            if place.side in by_side
        ]
        centres = {side: means[metric, p, side] for side in by_side}
        yield dots(_quantity(metric, p), endpoint(metric, p).unit, runs, centres)


def figures_table(results: GateResults, names: Names, sides: Sides) -> Html:
    """Each run's figure of each gated quantity, as the interval is made of them."""
    figures = _run_figures(results, names)
    head = ["run", "of all", *(_quantity(metric, p) for metric, p in figures)]
    rows = []
    for place in places(sides):
        cells = []
        for (metric, p), by_side in figures.items():
            runs = by_side.get(place.side)
            value = math.nan if runs is None else runs[place.number - 1]
            column = [figure for of_side in by_side.values() for figure in of_side]
            shown = words.figure(value, endpoint(metric, p).unit, beside=column)
            cells.append(number(value if math.isfinite(value) else None, shown))
        rows.append([place.name, place.order, *cells])
    return table("Figures of each run, in the order in which they began", head, rows)


def _run_figures(
    results: GateResults, names: Names
) -> dict[tuple[str, float | None], dict[str, tuple[float, ...]]]:
    """Of each gated quantity the figure of every run, by arm, in the order in which they began."""
    figures: dict[tuple[str, float | None], dict[str, tuple[float, ...]]] = {}
    baseline = names[results.baseline.name]
    for row in results.rows:
        quantity = row.gate.metric, row.gate.quantile
        figures.setdefault(quantity, {baseline: row.baseline_runs})
        figures[quantity][names[row.arm]] = row.candidate_runs
    return figures


def _quantity(metric: str, p: float | None) -> str:
    if p is None:
        return "Error rate" if metric == ERRORS else metric.replace("_", " ").capitalize()
    return f"{words.title(metric)} {words.percentile(p)}"
