"""Reports as HTML pages that need nothing else: the verdict first, then tables and pictures, then how.

A report is a first screen and a list of sections (analysis.report.sections); which ones, and what is special
to one run, a pair of runs, or repeated runs, is said here.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from tbench.analysis import words
from tbench.analysis.arms import Arm
from tbench.analysis.charts import NO_INTERVAL, Bar, forest, shift
from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Comparisons, Verdict
from tbench.analysis.contrast import FINDINGS, shifts
from tbench.analysis.gate_results import GateResults
from tbench.analysis.metrics import METRICS
from tbench.analysis.report import gate_sentences, sections, sentences, tables
from tbench.analysis.report.facts import Sides, about, days
from tbench.analysis.report.figures import Report, part
from tbench.analysis.report.gate_sentences import Names
from tbench.analysis.report.machine import summaries
from tbench.analysis.report.markup import Html, details, drawn, html, join, number, span, tag
from tbench.analysis.run_metrics import Slo, rates, ratio
from tbench.analysis.spending import spending
from tbench.analysis.summary import Caution, Summary, facts
from tbench.capture.terminal import plural
from tbench.replay.totals import price_sources

TONES: Final = {
    "faster": "good",
    "slower": "bad",
    "fails more": "bad",
    "invalid": "bad",
    "mixed": "unsure",
    Verdict.PASS: "good",
    Verdict.FAIL: "bad",
    Verdict.INVALID: "bad",
    Verdict.INCONCLUSIVE: "unsure",
}
"""The colour of an outcome; others have the quiet one."""
TILES: Final = 4
"""So many gates are on the first screen."""
OUTPUT: Final = "output_tokens_per_s"
PHONE: Final = frozenset({"metric", "quantile", "ratio", "result"})
GATE_PHONE: Final = frozenset({"gate", "arm", "change", "result"})
"""What of a table a narrow screen shows."""
CAVEATS: Final = 4
"""So many are shown on the first screen; the rest is folded."""


def _head(title: str, about: Iterable[str], strip: Html, *rest: object) -> Html:
    """The first screen but for its chart: title, what it is about, the verdict, and what follows."""
    return join([tag("h1", title), tag("p", " · ".join(about), class_="quiet about"), strip, *rest])


def _strip(tone: str, word: str, text: str, badge: str | None = None) -> Html:
    """The verdict in one line: a word, a sentence with its figures, and how far it goes."""
    parts = [tag("strong", word), " ", tag("span", text)]
    parts += [" ", tag("span", badge, class_="badge")] if badge else []
    return tag("p", *parts, class_=f"strip {tone}", id="results")


def _tile(
    what: str, figures: object, change: object, interval: object = None, tone: str = ""
) -> Html:
    """A figure of the first screen."""
    parts = [
        tag("span", what, class_="what"),
        tag("span", figures, class_="figures-of"),
        tag("span", tag("b", change, class_=tone or None), " ", interval or "", class_="change"),
    ]
    return tag("li", *parts)


def _tiles(tiles: Iterable[Html]) -> Html:
    """The figures of the first screen, side by side."""
    return tag("ul", join(tiles), class_="tiles")


def _arrow(values: Iterable[float | None], shown: tuple[str, str]) -> Html:
    """What it was, and what it is."""
    return join(map(number, values, shown), " → ")


def _caveats(lines: Sequence[Html], warnings: Iterable[Caution]) -> Html:
    """What to know before trusting it: a line each, the sentences in full folded."""
    if not lines:
        return html(None)
    shown = tag("ul", join(tag("li", line) for line in lines[:CAVEATS]))
    more = len(lines) - CAVEATS
    summary = f"{more} more, and all of them in full" if more > 0 else "All of them in full"
    full = tables.cautions([caution for caution in warnings if not caution.is_fact])
    return tag(
        "aside",
        tag("h2", "Before you trust it"),
        shown,
        details(summary, full),
        class_="caveats",
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# A pair of runs.

WORTH: Final = {
    "lower": ("better", "worse"),
    "higher": ("worse", "better"),
    "neutral": ("differs", "differs"),
}
"""What a ratio below and above 1 is worth, by which way of the metric is better."""


def comparison_report(comparison: Comparisons, *, command: str | None = None) -> Report:
    """One pair of runs: what it says and how far to trust it, then what reports have in common."""
    first, second = comparison.baseline, comparison.candidate
    sides: Sides = {"baseline": (first,), "candidate": (second,)}
    names = second.name, first.name
    if first.model != second.model:
        names = sentences.models(second, first), sentences.models(first, second)
    title = f"{' vs '.join(names)}: {sentences.outcome(comparison)}"
    usual = [metric for metric in sections.DRAWN if metric in comparison.values]
    metrics = usual or list(comparison.values)[: len(sections.DRAWN)]
    shifted = {
        name: [shift(words.title(name), comparison.shift.get(name, ()))]
        for name in metrics
        if not (name == "itl" and "tpot" in metrics)
    }
    lead = forest("Candidate / baseline", [_bar(row) for row in sentences.shown_rows(comparison)])
    spread, more = sections.distributions(sides, metrics, shifted)
    every = [_bar(row) for row in comparison.rows if row.finding]
    caveats = [join([tag("b", label), " ", text]) for label, text in sentences.caveats(comparison)]
    # A narrow column less: low confidence and drift are among the warnings.
    made, equal = tables.comparison_table(comparison), tables.equal_lengths_table(comparison)
    return Report(
        title=title,
        about=about(sides),
        head=comparison_head(comparison, title),
        lead=tuple(filter(None, [lead])),
        caveats=_caveats(caveats, comparison.warnings),
        parts=[
            spread,
            sections.over_time(sides),
            more,
            part(
                "All quantiles and rates",
                drawn(made.only(*tables.FULL, "method", "warnings"), phone=PHONE),
                *(tag("p", line, class_="quiet") for line in sentences.rates_notes(comparison)),
                drawn(equal, phone=PHONE) if equal else None,
                drawn(tables.overall_table(comparison)),
                pictures=[forest("Ratio of each quantile", every) if every else None],
            ),
            sections.failures(sides),
            sections.caches(sides),
            sections.fidelity(sides),
            sections.slow(sides),
            sections.differing(sides),
            sections.environment(sides),
            sections.method(comparison.values, *sections.INVERTED),
            sections.made_by(command),
        ],
    )


def comparison_head(comparison: Comparisons, title: str) -> Html:
    """Who was compared, the outcome with its ratios, the medians, failures and cost."""
    first, second = comparison.baseline, comparison.candidate
    models = [] if first.model != second.model else [sentences.models(first)]
    pacing = [first.pacing] if first.pacing == second.pacing else []
    about = [f"{second.name} vs {first.name}", *models, *days([first, second])]
    about += [sentences.requests(comparison), *pacing, *facts(comparison.warnings)]
    outcome, errors = sentences.outcome(comparison), comparison.errors
    small = f"Errors {errors.baseline:.2%} and {errors.candidate:.2%}"
    spent = [spending(arm) for arm in (first, second)]
    if all(each.known for each in spent):
        by = ", ".join(price_sources(first.run, second.run)) or "list prices"
        costs = sentences.cost(*zip((first, second), spent, strict=True))
        small += f", cost {costs} at {by}"
    small += (
        " (baseline and candidate). Ratios are candidate / baseline, with their 95% intervals (~: "
        "approximate) and the requests that they are of."
    )
    tone, headline = TONES.get(outcome, ""), sentences.headline(comparison)
    # The medians that make the headline, and the output rate.
    tiles = []
    for row in sentences.headline_rows(comparison):
        low, high = row.low, row.high
        interval: object = sentences.result_of(row)
        if row.finding:
            shown = span(low, high, words.ratio_interval(low, high) + sentences.rough(row))
            interval = join([shown, f"n {min(row.n_baseline, row.n_candidate):,}"], ", ")
        tiles.append(
            _tile(
                words.quantity(row.metric, row.quantile),
                _arrow((row.baseline, row.candidate), words.pair(row)),
                number(row.ratio, words.ratio(row.ratio)),
                interval,
                TONES.get(row.finding or "", ""),
            )
        )
    for pair in comparison.rates:
        if pair[0].row.name == OUTPUT:
            arrow = _arrow((pair[0].value, pair[1].value), (pair[0].text, pair[1].text))
            quotient = ratio(pair)
            tiles.append(_tile("output tok/s", arrow, number(quotient, words.ratio(quotient))))
    return _head(
        title,
        about,
        _strip(tone, _capital(outcome), headline, "one pair of runs"),
        _tiles(tiles),
        tag("p", small, class_="quiet about"),
    )


def _bar(row: Comparison) -> Bar:
    """A row that has a finding, and whether that is good or bad."""
    better = METRICS[row.metric].better
    worth = dict(zip(FINDINGS[better], WORTH[better], strict=True))
    return Bar(
        label=words.quantity(row.metric, row.quantile),
        value=row.ratio,
        low=row.low,
        high=row.high,
        said=worth.get(row.finding, NO_DIFFERENCE) if row.finding else NO_INTERVAL,
        bare=row.finding is None,
        rough=bool(sentences.rough(row)),
    )


# Repeated runs held against gates.

SHIFTED: Final = ("ttft", "e2e", "tpot", "itl")


def judgement_report(results: GateResults, *, command: str | None = None) -> Report:
    """Repeated runs of two or more arms: verdict, gates, each run, then what they have in common."""
    names = gate_sentences.shown_names([arm.name for arm in results.arms])
    sides = dict(zip((names[arm.name] for arm in results.arms), results.compared, strict=True))
    others = ", ".join(names[arm.name] for arm in results.candidates)
    title = f"{others} vs {names[results.baseline.name]}: {results.verdict.value}"
    gated = [row.gate.metric for row in results.rows if row.gate.quantile is not None]
    metrics = list(dict.fromkeys([*sections.DRAWN, *gated]))
    ratios, shares = sections.forests(results, names)
    baseline, several = results.baseline, len(results.candidates) > 1
    # An experiment that may stop early has none.
    intervals = any(map(gate_sentences.interval, results.rows))
    heads = [*tables.GATED, *(["arm"] if several else []), "n", "reason and method"]
    shown = {"baseline": names[baseline.name], "n": "requests"}
    shown |= {} if several else {"candidate": others}
    gates = tables.gate_table(results, names).only(*heads, titles=shown)
    shifted = {
        metric: [
            shift(
                f"{words.title(metric)}{f', {names[group.name]}' if several else ''}",
                shifts(results.groups[0].runs, group.runs, metric, intervals=intervals),
                against=f"{names[group.name]} / {names[baseline.name]}",
            )
            for group in results.groups[1:]
        ]
        for metric in SHIFTED
    }
    spread, more = sections.distributions(sides, metrics, shifted)
    method = list(sections.REPEATED)
    if who := gate_sentences.declared(results):
        method.append(f"Instead of Welch's t: {gate_sentences.TREND}, declared {who}.")
    if slo := gate_sentences.objectives(results):
        method.append(f"Goodput counts the requests that succeeded with {', '.join(slo)}.")
    if not intervals:
        method += sections.WITHOUT_INTERVALS
    warnings = [caution for caution in results.warnings if not caution.is_fact]
    caveats = [
        join([tag("b", sentences.label(caution.code)), " ", sentences.first_clause(caution)])
        for caution in warnings
    ]
    return Report(
        title=title,
        about=about(sides),
        head=_judgement_head(results, names, title, sides),
        lead=tuple(filter(None, [ratios])),
        caveats=_caveats(caveats, warnings),
        parts=[
            part("Gates", drawn(gates, phone=GATE_PHONE), pictures=[shares], unfolded=True),
            spread,
            sections.over_time(sides),
            more,
            part(
                "Each run",
                tables.figures_table(results, names, sides),
                pictures=sections.run_dots(results, names, sides),
            ),
            sections.throughput(sides),
            sections.failures(sides),
            sections.caches(sides),
            sections.fidelity(sides),
            sections.slow(sides),
            sections.differing(sides),
            sections.environment(sides),
            sections.method(metrics, *method),
            sections.made_by(command),
        ],
    )


def _judgement_head(results: GateResults, names: Names, title: str, sides: Sides) -> Html:
    """The verdict over all, a sentence for each candidate, its first gates, and what stays open."""
    arms = results.candidates
    runs = [f"{names[arm.name]} {gate_sentences.amount(results, arm)}" for arm in results.arms]
    began = days([run for side in sides.values() for run in side])
    about = [*runs, plural(results.n, "shared request"), *began, *facts(results.warnings)]
    reasons = [gate_sentences.why(results, arm, names) for arm in arms]
    text, cards = reasons[0], html(None)
    if len(arms) > 1:
        verdicts = [results.verdict_of(arm.name) for arm in arms]
        counts = [
            f"{verdicts.count(verdict)} {verdict.value}"
            for verdict in Verdict
            if verdict in verdicts
        ]
        baseline = names[results.baseline.name]
        text = f"{len(arms)} candidates against {baseline}: {', '.join(counts)}."
        items = []
        for arm, verdict, reason in zip(arms, verdicts, reasons, strict=True):
            word = f"{names[arm.name]}: {verdict.value}. "
            items.append(tag("li", tag("strong", word, class_=f"mark {verdict.value}"), reason))
        cards = tag("ul", join(items), class_="cards")
    tiles = []
    for row in [row for row in results.rows if row.arm == arms[0].name][:TILES]:
        judged, interval = row.comparison, gate_sentences.interval(row)
        what = f"{gate_sentences.gate_label(row.gate)}, {gate_sentences.margin(row.gate)}"
        figures: object = tables.NOT_TESTABLE
        change = ""
        if judged.verdict is not Verdict.SKIPPED:
            figures = _arrow((judged.baseline, judged.candidate), gate_sentences.sides(row))
            change = gate_sentences.change_cell(row)
        ends = span(judged.low, judged.high, interval) if interval else ""
        tiles.append(_tile(what, figures, change, ends, TONES.get(judged.verdict, "")))
    rest = filter(None, [gate_sentences.left_open(results)])
    lines = [*gate_sentences.to_decide(results, names), *rest]
    return _head(
        title,
        about,
        _strip(TONES.get(results.verdict, ""), results.verdict.value, text),
        cards,
        _tiles(tiles),
        *(tag("p", f"{_capital(line)}.") for line in lines),
    )


# One run, or a trace.


def run_report(arm: Arm, *, command: str | None = None, slo: Slo = ()) -> Report:
    """A single run, or a trace: what became of its requests, and each metric with its quantiles."""
    sides: Sides = {arm.kind: (arm,)}
    metrics = summaries(arm)
    table = tables.summary_table({arm.name: metrics})
    title = f"{sentences.models(arm)}: {arm.kind} {arm.name}"
    spread, more = sections.distributions(sides, sections.DRAWN)
    return Report(
        title=title,
        about=about(sides),
        head=_run_head(arm, metrics, title),
        parts=[
            spread,
            sections.over_time(sides),
            more,
            part("Metrics", drawn(table.only(*tables.shown_quantiles(table)))),
            sections.throughput(sides, slo),
            sections.failures(sides),
            sections.caches(sides),
            sections.fidelity(sides),
            sections.slow(sides),
            sections.environment(sides),
            sections.method([metric.metric for metric in metrics], *sections.DESCRIPTIVE),
            sections.made_by(command),
        ],
    )


def _run_head(arm: Arm, metrics: Sequence[Summary], title: str) -> Html:
    """What became of a run's requests, and its medians."""
    fate, every = sentences.fate(arm), rates(arm)
    speed = ", ".join(f"{rate.text} {rate.row.title}" for rate in every[:3])
    strip = _strip("", "Measured", f"{fate}; {speed}")
    if arm.invalid_because:
        strip = _strip("bad", "INVALID", f"{arm.invalid_because}; {fate}")
    tiles = [_metric_tile(metric) for metric in metrics if metric.metric in sentences.HEADLINES]
    tiles += [
        _tile("output tok/s", number(rate.value, rate.text), "")
        for rate in every
        if rate.row.name == OUTPUT and rate.value
    ]
    notes = [tag("p", f"{flaw}.") for flaw in sentences.flaws(arm)]
    target = [arm.target] if arm.target else []
    about = [*target, *days([arm]), arm.pacing, plural(len(arm), "request")]
    return _head(title, about, strip, _tiles(tiles), *notes)


def _metric_tile(metric: Summary) -> Html:
    by_p = {quantile.p: quantile for quantile in metric.quantiles}
    half, tail = by_p.get(0.5), by_p.get(0.95)
    n = f"n {metric.n:,}"
    if half is None or half.value is None:
        return _tile(words.title(metric.metric), "no median", n)
    beside = [half.value, tail.value if tail else None]
    p95 = ""
    if tail is not None:
        mark = "*" if tail.refusal else ""
        p95 = f"p95 {words.beyond(tail.value, tail.at_least, metric.unit, beside)}{mark}"
    median = number(half.value, words.amount(half.value, metric.unit, beside=beside))
    return _tile(f"{words.title(metric.metric)} p50", median, p95, n)
