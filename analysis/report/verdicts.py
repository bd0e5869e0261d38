"""What is read in the first five seconds of a page: title, verdict with its figures, tiles, what to know."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Comparisons, Verdict
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.proportions import Pair, rates, ratio
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import gate_sentences, sentences, tables, words
from tbench.analysis.report.gate_sentences import Names
from tbench.analysis.report.markup import Html, details, html, join, number, span, tag
from tbench.analysis.report.sides import Sides, began_ns
from tbench.analysis.summary import Caution, Summary, facts
from tbench.capture.terminal import plural

TILES = 4
OUTPUT = "output_tokens_per_s"
CAVEATS = 4
"""So many are shown on the first screen; the rest is folded."""
TONES = {
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


def head(title: str, about: Iterable[str], strip: Html, *rest: object) -> Html:
    """The first screen but for its chart: title, what it is about, the verdict, and what follows."""
    return join([tag("h1", title), tag("p", " · ".join(about), class_="quiet about"), strip, *rest])


def strip(tone: str, word: str, text: str, badge: str | None) -> Html:
    """The verdict in one line: a word, a sentence with its figures, and how far it goes."""
    parts = [tag("strong", word), " ", tag("span", text)]
    parts += [" ", tag("span", badge, class_="badge")] if badge else []
    return tag("p", *parts, class_=f"strip {tone}", id="results")


def tile(
    what: str, figures: object, change: object, interval: object = None, tone: str = ""
) -> Html:
    """A figure of the first screen."""
    parts = [
        tag("span", what, class_="what"),
        tag("span", figures, class_="figures-of"),
        tag("span", tag("b", change, class_=tone or None), " ", interval or "", class_="change"),
    ]
    return tag("li", *parts)


def tiles(each: Iterable[Html]) -> Html:
    """The figures of the first screen, side by side."""
    return tag("ul", join(each), class_="tiles")


# One pair of runs.


def comparison_title(comparison: Comparisons) -> str:
    """Models, or names where both have the same model; and the outcome."""
    first, second = comparison.baseline, comparison.candidate
    names = (second.name, first.name)
    if first.model != second.model:
        names = (sentences.models(second), sentences.models(first))
    return f"{' vs '.join(names)}: {sentences.outcome(comparison)}"


def comparison_head(comparison: Comparisons, title: str) -> Html:
    """Who was compared, the outcome with its ratios, the medians, failures and cost."""
    first, second = comparison.baseline, comparison.candidate
    counts = comparison.requests
    requests = (
        plural(counts[0], "paired request")
        if comparison.paired
        else f"{counts[0]:,} and {plural(counts[1], 'request')}"
    )
    models = [] if first.model != second.model else [sentences.models(first)]
    about = [f"{second.name} vs {first.name}", *models, *_days([first, second]), requests]
    about += [first.pacing] if first.pacing == second.pacing else []
    outcome = sentences.outcome(comparison)
    return head(
        title,
        [*about, *facts(comparison.warnings)],
        strip(
            TONES.get(outcome, ""),
            _capital(outcome),
            sentences.headline(comparison),
            "one pair of runs",
        ),
        tiles(_pair_tiles(comparison)),
        tag("p", _small(comparison), class_="quiet about"),
    )


def _pair_tiles(comparison: Comparisons) -> Iterator[Html]:
    for row in sentences.headline_rows(comparison):
        low, high = row.low, row.high
        ends = words.ratio_interval(low, high) if row.finding else sentences.result_of(row)
        yield tile(
            sentences.row_name(row),
            join(_arrow(row.baseline, row.candidate, words.pair(row))),
            number(row.ratio, words.ratio(row.ratio)),
            span(low, high, ends) if row.finding else ends,
            TONES.get(row.finding or "", ""),
        )
    for pair in comparison.rates:
        if pair[0].name == OUTPUT:
            yield _rate_tile(pair)


def _rate_tile(pair: Pair) -> Html:
    first, second = pair
    arrow = _arrow(first.value, second.value, (first.text, second.text))
    return tile("output tok/s", join(arrow), number(ratio(pair), words.ratio(ratio(pair))))


def _arrow(first: float | None, second: float | None, shown: tuple[str, str]) -> Iterator[Html]:
    yield number(first, shown[0])
    yield html(" → ")
    yield number(second, shown[1])


def _small(comparison: Comparisons) -> str:
    errors = comparison.errors
    parts = [f"Errors {errors.baseline:.2%} and {errors.candidate:.2%}"]
    arms = comparison.baseline, comparison.candidate
    costs = [(arm.run.totals.get("cost") or {}).get("usd") for arm in arms]
    if all(costs):
        parts.append(f"cost ${costs[0]:,.4f} and ${costs[1]:,.4f} at list prices")
    ratios = "Ratios are candidate / baseline, with their 95% intervals."
    return f"{', '.join(parts)} (baseline and candidate). {ratios}"


def comparison_caveats(comparison: Comparisons) -> Html:
    """What to know before trusting it: a line each, the sentences in full folded."""
    brief = [join([tag("b", label), " ", text]) for label, text in sentences.caveats(comparison)]
    return _caveats(brief, comparison.warnings)


def _caveats(brief: Sequence[Html], warnings: Sequence[Caution]) -> Html:
    if not brief:
        return html(None)
    shown = tag("ul", join(tag("li", line) for line in brief[:CAVEATS]))
    more = len(brief) - CAVEATS
    summary = f"{more} more, and all of them in full" if more > 0 else "All of them in full"
    return tag(
        "aside",
        tag("h2", "Before you trust it"),
        shown,
        details(summary, tables.cautions(caution for caution in warnings if not caution.is_fact)),
        class_="caveats",
    )


# Repeated runs held against gates.


def judgement_title(judgement: GateResults, names: Names) -> str:
    """The arms and the verdict."""
    others = ", ".join(names[arm.name] for arm in judgement.candidates)
    return f"{others} vs {names[judgement.baseline.name]}: {judgement.verdict.value}"


def judgement_head(judgement: GateResults, names: Names, title: str, sides: Sides) -> Html:
    """The verdict over all, a sentence for each candidate, its first gates, and what stays open."""
    arms = judgement.candidates
    runs = [f"{names[arm.name]} {gate_sentences.amount(judgement, arm)}" for arm in judgement.arms]
    days = _days([run for side in sides.values() for run in side])
    about = [*runs, plural(judgement.n, "shared request"), *days, *facts(judgement.warnings)]
    if len(arms) == 1:
        text = gate_sentences.why(judgement, arms[0], names)
        cards = html(None)
    else:
        verdicts = [gate_sentences.standing(judgement, arm) for arm in arms]
        parts = [f"{verdicts.count(one)} {one.value}" for one in Verdict if one in verdicts]
        text = (
            f"{len(arms)} candidates against {names[judgement.baseline.name]}: {', '.join(parts)}."
        )
        cards = tag("ul", join(_card(judgement, arm, names) for arm in arms), class_="cards")
    lines = [
        *gate_sentences.to_decide(judgement, names),
        *filter(None, [gate_sentences.left_open(judgement)]),
    ]
    return head(
        title,
        about,
        strip(TONES.get(judgement.verdict, ""), judgement.verdict.value, text, None),
        cards,
        tiles(
            _gate_tile(row)
            for row in [row for row in judgement.rows if row.arm == arms[0].name][:TILES]
        ),
        *(tag("p", f"{_capital(line)}.") for line in lines),
    )


def _card(judgement: GateResults, arm: Replicates, names: Names) -> Html:
    verdict = gate_sentences.standing(judgement, arm)
    word = tag("strong", f"{names[arm.name]}: {verdict.value}. ", class_=f"mark {verdict.value}")
    return tag("li", word, gate_sentences.why(judgement, arm, names))


def _gate_tile(row: GateRow) -> Html:
    comparison, verdict = row.comparison, row.comparison.verdict
    tested = verdict is not Verdict.SKIPPED
    arrow = _arrow(comparison.baseline, comparison.candidate, gate_sentences.sides(row))
    return tile(
        f"{gate_sentences.gate_label(row.gate)}, {gate_sentences.margin(row.gate)}",
        join(arrow) if tested else "not testable",
        gate_sentences.change_cell(row) if tested else "",
        span(comparison.low, comparison.high, gate_sentences.interval(row))
        if gate_sentences.interval(row)
        else "",
        TONES.get(verdict, ""),
    )


def judgement_caveats(judgement: GateResults) -> Html:
    """What to know before trusting it, as it was said of the runs."""
    warnings = [caution for caution in judgement.warnings if not caution.is_fact]
    brief = [
        join([tag("b", sentences.label(caution.code)), " ", caution.text.split("; ")[0]])
        for caution in warnings
    ]
    return _caveats(brief, warnings)


# One run, or a trace.


def run_title(arm: Arm) -> str:
    """The models and the file."""
    return f"{sentences.models(arm)}: {arm.kind} {arm.name}"


def run_head(arm: Arm, metrics: Sequence[Summary], title: str) -> Html:
    """What became of a run's requests, and its medians."""
    measured = arm.measured
    n, good = int(measured.sum()), int((arm.ok & measured).sum())
    fate = f"{good:,} of {plural(n, 'request')} succeeded" if n else "no request was measured"
    speed = ", ".join(f"{rate.text} {rate.title}" for rate in rates(arm)[:3])
    tone, word = ("bad", "INVALID") if arm.invalid_because else ("", "Measured")
    text = f"{arm.invalid_because}; {fate}" if arm.invalid_because else f"{fate}; {speed}"
    output = [rate for rate in rates(arm) if rate.name == OUTPUT and rate.value]
    notes = [tag("p", f"{arm.buffered}.")] if arm.buffered else []
    return head(
        title,
        [*([arm.target] if arm.target else []), *_days([arm]), arm.pacing, plural(n, "request")],
        strip(tone, word, text, None),
        tiles(
            [
                *(_metric_tile(one) for one in metrics if one.metric in sentences.HEADLINES),
                *(tile("output tok/s", number(rate.value, rate.text), "") for rate in output),
            ]
        ),
        *notes,
    )


def _metric_tile(metric: Summary) -> Html:
    by_p = {quantile.p: quantile for quantile in metric.quantiles}
    half, tail = by_p.get(0.5), by_p.get(0.95)
    if half is None or half.value is None:
        return tile(words.title(metric.metric), "no median", f"n {metric.n:,}")
    beside = [half.value, tail.value if tail else None]
    p95 = "" if tail is None else words.beyond(tail.value, tail.at_least, metric.unit, beside)
    mark = "*" if tail is not None and tail.refusal else ""
    return tile(
        f"{words.title(metric.metric)} p50",
        number(half.value, words.amount(half.value, metric.unit, beside=beside)),
        f"p95 {p95}{mark}" if p95 else "",
        f"n {metric.n:,}",
    )


def _days(arms: Sequence[Arm]) -> list[str]:
    """The day on which the first of them began, and the last where that is another."""
    days = sorted(
        {f"{datetime.fromtimestamp(ns / 1e9, tz=UTC):%Y-%m-%d}" for ns in map(began_ns, arms) if ns}
    )
    return [" to ".join(dict.fromkeys([days[0], days[-1]]))] if days else []


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
