"""Tables of a page: each number with its n, interval, method and warnings, and its exact value inside."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from analysis.arms import Arm
from analysis.comparison import Comparison
from analysis.failures import ErrorDifference
from analysis.metrics import METRICS
from analysis.report import words
from analysis.report.markup import Html, html, join, number, section, span, table, tag
from analysis.summary import Caution, Quantile, Summary

LONGEST = 300
MESSAGES = 10
USUAL = 0.99
"""Up to this quantile a run's table has a column even where all are refused."""
FRAMING = frozenset({"format", "kind", "type"})
"""Fields of a file that say what kind of file it is, not how it was made."""


def cautions(found: Iterable[Caution]) -> Html:
    """Warnings as a list: the code for programs, the sentence for people."""
    items = [tag("li", tag("span", one.code, class_="code"), " ", one.text) for one in found]
    return tag("ul", join(items), class_="cautions") if items else html(None)


def comparison_table(rows: Sequence[Comparison]) -> Html:
    """Every quantile of every metric that was compared, or why it was not."""
    head = [
        *("metric", "baseline", "candidate", "ratio", "interval", "finding", "confidence"),
        *("n", "method", "warnings"),
    ]
    notes = dict.fromkeys(caution.text for row in rows for caution in row.warnings)
    numbers = {text: k for k, text in enumerate(notes, 1)}
    body = [[name(row), *_compared(row), _marked(row, numbers)] for row in rows]
    return join([table("Candidate / baseline, by quantile", head, body), _notes(numbers)])


def name(row: Comparison) -> str:
    """A metric at a quantile, such as `ttft p50`."""
    return f"{row.metric} {words.percentile(row.quantile)}"


def _compared(row: Comparison) -> list[object]:
    n = f"{row.n_baseline:,}"
    if row.n_candidate != row.n_baseline:
        n = f"{n} / {row.n_candidate:,}"
    some = row.finding is not None
    return [
        _value(row.baseline, row.baseline_at_least, row.unit),
        _value(row.candidate, row.candidate_at_least, row.unit),
        number(row.ratio, words.ratio(row.ratio)),
        span(row.low, row.high, words.ratio_interval(row.low, row.high)) if some else "none",
        tag("span", row.finding or "refused", class_=(row.finding or "refused").split(" ")[0]),
        row.confidence,
        n,
        row.refusal or row.method,
    ]


def _value(value: float | None, at_least: float | None, unit: str) -> Html:
    return number(value, words.beyond(value, at_least, unit))


def _amount(value: float | None, unit: str) -> Html:
    return number(value, words.amount(value, unit))


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


def summary_table(summaries: Sequence[Summary]) -> Html:
    """One run's metrics with their quantiles, each with its interval or why it is not to be read."""
    every = [one for summary in summaries for one in summary.quantiles]
    points = sorted({one.p for one in every if one.p <= USUAL or not one.refusal})
    head = ["metric", "n", "timed out", "mean", *map(words.percentile, points), "max"]
    rows = [_summary(one, points) for one in summaries]
    return table(
        "Quantiles of this run, each with its interval (nominal 95%, requests taken as independent)",
        head,
        rows,
    )


def _summary(one: Summary, points: Sequence[float]) -> list[object]:
    by_p = {quantile.p: quantile for quantile in one.quantiles}
    return [
        one.metric,
        f"{one.n:,}",
        f"{one.timeouts:,}",
        _amount(one.mean, one.unit),
        *(_quantile(by_p.get(p), one.unit) for p in points),
        _amount(one.maximum, one.unit),
    ]


def _quantile(one: Quantile | None, unit: str) -> Html:
    if one is None:
        return html("-")
    if one.refusal:
        return tag("span", one.refusal, class_="quiet")
    ends = span(one.low, one.high, words.amount_interval(one.low, one.high, unit))
    return join([_value(one.value, one.at_least, unit), ends], tag("br"))


def arms_table(arms: Mapping[str, Arm]) -> Html:
    """What each arm is, and what became of its requests."""
    head = ["", *arms]
    return table("Arms", head, zip(_ROWS, *map(_arm, arms.values()), strict=True))


_ROWS = (
    "name",
    "kind",
    "model",
    "pacing",
    "requests",
    "succeeded",
    "failed",
    "timed out",
    "warm-up",
)


def _arm(arm: Arm) -> Iterator[str]:
    yield from (arm.name, arm.kind, arm.model or "-", arm.pacing, f"{len(arm):,}")
    counted = (arm.ok, arm.failed, arm.timed_out, ~arm.measured)
    yield from (f"{int(which.sum()):,}" for which in counted)


def failure_table(errors: ErrorDifference) -> Html:
    """How often each arm failed and how; the difference with its interval."""
    kinds = sorted({*errors.kinds_baseline, *errors.kinds_candidate})
    rows: list[list[object]] = [
        [kind, *_share(errors.kinds_baseline.get(kind, 0), errors.n_baseline),
         *_share(errors.kinds_candidate.get(kind, 0), errors.n_candidate)]
        for kind in kinds
    ]  # fmt: skip
    total = [
        "all failures",
        *_share(round(errors.baseline * errors.n_baseline), errors.n_baseline),
        *_share(round(errors.candidate * errors.n_candidate), errors.n_candidate),
    ]
    head = ["outcome", "baseline", "share", "candidate", "share"]
    said = (
        f"Failures, candidate - baseline: {words.points(errors.difference)} "
        f"[{words.points(errors.low)}, {words.points(errors.high)}], "
        f"n = {errors.n_baseline:,} / {errors.n_candidate:,}, {errors.method}."
    )
    return join([table("Requests that did not succeed", head, [*rows, total]), tag("p", said)])


def kinds_table(arm: Arm) -> Html:
    """One run's outcomes other than success."""
    counted = np.flatnonzero(arm.measured)
    kinds, n = arm.kinds(counted), len(counted)
    rows = [[kind, *_share(count, n)] for kind, count in kinds.items()]
    if not rows:
        return tag("p", f"None of {n:,} requests failed.")
    return table("Requests that did not succeed", ["outcome", "count", "share"], rows)


def _share(count: int, n: int) -> tuple[str, str]:
    return f"{count:,}", f"{count / n:.2%}" if n else "-"


def messages(side: str, arm: Arm) -> Html:
    """The commonest error texts of an arm."""
    texts = Counter(str(text) for text in arm.columns["error"][np.logical_not(arm.ok)] if text)
    if not texts:
        return html(None)
    rows = [[f"{count:,}", text[:LONGEST]] for text, count in texts.most_common(MESSAGES)]
    more = len(texts) - len(rows)
    caption = f"Error texts of {side}" + (
        f", the commonest {MESSAGES} of {len(texts)}" if more else ""
    )
    return table(caption, ["count", "text"], rows)


def facts_table(headers: Mapping[str, Mapping[str, object]]) -> Html:
    """What the files say of how they were made, side by side; what differs is marked."""
    sides = [dict(_facts(header)) for header in headers.values()]
    rows = []
    for key in sorted(set().union(*sides)):
        cells = [side.get(key, "-") for side in sides]
        differs = "differs" if len(set(cells)) > 1 else None
        rows.append([key, *(tag("span", cell, class_=differs) for cell in cells)])
    return table("How each file was made", ["", *headers], rows) if rows else html(None)


def _facts(header: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in header.items():
        if key in FRAMING:
            continue
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{key}.")
        elif value is not None and not isinstance(value, bytes):
            text = _fact(str(key), value)
            yield f"{prefix}{key}", text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _fact(key: str, value: object) -> str:
    if key == "wall_ns" and isinstance(value, int):
        return datetime.fromtimestamp(value / 1e9, tz=UTC).isoformat(" ", "seconds")
    if isinstance(value, list):
        return shlex.join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def definitions(metrics: Iterable[str]) -> Html:
    """What each metric means."""
    rows = [[one.name, one.unit, f"{one.better} is better", one.definition]
            for key in metrics if (one := METRICS.get(key))]  # fmt: skip
    return table("Metrics", ["metric", "unit", "direction", "definition"], rows)


def command_section(command: str | None) -> Html:
    """The command line that makes this page again."""
    return section("Made by", tag("pre", tag("code", command))) if command else html(None)
