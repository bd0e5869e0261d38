"""Tables of a page: each number with its n, interval, method and warnings, and its exact value inside."""

from collections.abc import Iterable, Mapping, Sequence

from tbench.analysis.comparison import Comparison, Comparisons, EqualLengths
from tbench.analysis.metrics import METRICS
from tbench.analysis.proportions import ratio
from tbench.analysis.report import sentences, words
from tbench.analysis.report.markup import Html, html, join, number, span, table, tag
from tbench.analysis.summary import Caution, Quantile, Summary, facts


def cautions(found: Iterable[Caution]) -> Html:
    """Warnings as a list: the code for programs, the sentence for people; before it plain facts."""
    found = list(found)
    known = [tag("p", f"{fact}.") for fact in facts(found)]
    items = [
        tag("li", tag("span", one.code, class_="code"), " ", one.text)
        for one in found
        if not one.is_fact
    ]
    return join([*known, tag("ul", join(items), class_="cautions") if items else html(None)])


PHONE = frozenset({"metric", "ratio", "finding"})
"""What of a comparison a narrow screen shows."""
RATIO = ("ratio", "95% interval", "finding", "confidence", "n", "method", "warnings")


def comparison_table(found: Comparisons) -> Html:
    """Every quantile of every metric, or why there is none; and end to end at equal lengths."""
    equal = found.equal_lengths
    every = (*found.rows, *(equal.rows if equal else ()))
    notes = dict.fromkeys(caution.text for row in every for caution in row.warnings)
    numbers = {text: k for k, text in enumerate(notes, 1)}
    body = [[name(row), *_values(row), *_compared(row, numbers)] for row in found.rows]
    head = ["metric", "baseline", "candidate", *RATIO]
    return join(
        [
            table("Candidate / baseline, by quantile", head, body, phone=PHONE),
            _at_equal_lengths(equal, numbers) if equal else None,
            _notes(numbers),
        ]
    )


def _at_equal_lengths(equal: EqualLengths, numbers: Mapping[str, int]) -> Html:
    """A ratio at equal lengths has no values of its own."""
    if not equal.rows:
        return tag("p", sentences.equal_lengths(equal), class_="quiet")
    rows = [[name(row), *_compared(row, numbers)] for row in equal.rows]
    return table(sentences.equal_lengths(equal), ["metric", *RATIO], rows, phone=PHONE)


def name(row: Comparison) -> str:
    """A metric at a quantile, such as `ttft p50`."""
    return f"{row.metric} {words.percentile(row.quantile)}"


def _values(row: Comparison) -> list[object]:
    return list(map(number, (row.baseline, row.candidate), words.pair(row)))


def _compared(row: Comparison, numbers: Mapping[str, int]) -> list[object]:
    n = f"{row.n_baseline:,}"
    if row.n_candidate != row.n_baseline:
        n = f"{n} / {row.n_candidate:,}"
    some = row.finding is not None
    return [
        number(row.ratio, words.ratio(row.ratio)),
        span(row.low, row.high, words.ratio_interval(row.low, row.high)) if some else "none",
        tag("span", row.finding or "refused", class_=(row.finding or "refused").split(" ")[0]),
        row.confidence,
        n,
        row.refusal or row.method,
        _marked(row, numbers),
    ]


def _marked(row: Comparison, numbers: Mapping[str, int]) -> Html:
    marks = [
        tag(
            "a",
            f"{one.code} ({numbers[one.text]})",
            href=f"#note-{numbers[one.text]}",
            class_="code",
        )
        for one in row.warnings
    ]
    return join(marks, tag("br")) if marks else html("none")


def _notes(numbers: Mapping[str, int]) -> Html:
    items = [tag("li", text, id=f"note-{k}", value=k) for text, k in numbers.items()]
    return tag("ol", join(items), class_="quiet", aria_label="warnings") if items else html(None)


def rates_table(found: Comparisons) -> Html:
    """What each arm did per second, over the compared requests."""
    rows = [
        [
            pair[0].title,
            *(number(one.value, one.text) for one in pair),
            number(ratio(pair), words.ratio(ratio(pair))),
        ]
        for pair in found.rates
    ]
    caption = "Throughput: successes per second, from the first sent to the last end"
    notes = [tag("p", line, class_="quiet") for line in sentences.rates_notes(found)]
    return join([table(caption, ["rate", "baseline", "candidate", "ratio"], rows), *notes])


def summary_table(summaries: Sequence[Summary]) -> Html:
    """One run's metrics with their quantiles, each with its interval or why it has none."""
    every = [one for summary in summaries for one in summary.quantiles]
    points = sorted({one.p for one in every if one.p <= words.USUAL or not one.refusal})
    head = ["metric", "n", "timed out", "mean", *map(words.percentile, points), "max"]
    rows = [_summary(one, points) for one in summaries]
    return table(
        "Quantiles of this run, each with its interval (nominal 95%, requests taken as independent). "
        "* few values: a hint, without an interval",
        head,
        rows,
    )


def _summary(one: Summary, points: Sequence[float]) -> list[object]:
    """A row in the unit that suits its mean, as the terminal has it."""
    by_p = {quantile.p: quantile for quantile in one.quantiles}
    mean, maximum = (
        number(value, words.amount(value, one.unit, beside=[one.mean]))
        for value in (one.mean, one.maximum)
    )
    cells = [_quantile(by_p.get(p), one.unit, one.mean) for p in points]
    return [one.metric, f"{one.n:,}", f"{one.timeouts:,}", mean, *cells, maximum]


def _quantile(one: Quantile | None, unit: str, mean: float | None) -> Html:
    if one is None:
        return html("-")
    value = number(one.value, words.beyond(one.value, one.at_least, unit, [mean]))
    if one.refusal:
        marked = join([value, "*"])
        return join([marked, tag("span", one.refusal, class_="quiet")], tag("br"))
    ends = span(one.low, one.high, words.amount_interval(one.low, one.high, unit, [mean]))
    return join([value, ends], tag("br"))


def definitions(metrics: Iterable[str]) -> Html:
    """What each metric means."""
    rows = [[one.name, one.unit, f"{one.better} is better", one.definition]
            for key in metrics if (one := METRICS.get(key))]  # fmt: skip
    return table("Metrics", ["metric", "unit", "direction", "definition"], rows)
