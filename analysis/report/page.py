"""A report as one HTML page that needs nothing else: words first, then tables, then pictures."""

from collections.abc import Mapping, Sequence

from analysis import charts
from analysis.arms import Arm
from analysis.comparison import Comparison, Comparisons, Verdict
from analysis.drawing import Picture
from analysis.metrics import METRICS, values
from analysis.report import tables, words
from analysis.report.figures import document, figures
from analysis.report.machine import summaries
from analysis.report.markup import Html, join, section, tag
from analysis.summary import Floats, Summary

DRAWN = ("ttft", "e2e", "tpot")
HEADLINES = (("ttft", 0.5), ("ttft", 0.95), ("e2e", 0.5), ("e2e", 0.95), ("tpot", 0.5))
MEANING = {
    Verdict.PASS: "The candidate is within the margin at every gated quantile.",
    Verdict.FAIL: "The candidate is beyond the margin at a gated quantile.",
    Verdict.INCONCLUSIVE: "These runs do not settle it.",
    Verdict.INVALID: "A run's own client was its limit, or data was lost.",
    Verdict.ADVISORY: "This holds for these two runs; to decide, repeat them interleaved.",
}


def comparison_page(comparisons: Comparisons, *, command: str | None = None) -> str:
    """The page of a comparison. `command` is the line that makes it again, without secrets."""
    arms = {"baseline": comparisons.baseline, "candidate": comparisons.candidate}
    title = f"{comparisons.candidate.name} against {comparisons.baseline.name}"
    drawings, pictures = figures(_compared(comparisons), "compared")
    timelines, later = figures(_load(arms), "load")
    body = join(
        [
            tag("h1", title),
            tag("p", "tbench: candidate against baseline, request by request", class_="quiet"),
            _verdict(comparisons),
            section("Comparison", tables.comparison_table(comparisons.rows)),
            section("Distributions and shift", tag("div", drawings, class_="figures")),
            section("Failures", tables.failure_table(comparisons.errors), _messages(arms)),
            section("Load", tag("div", timelines, class_="figures")),
            *_origin(arms, list(comparisons.values), command),
        ]
    )
    return document(title, _frame(body), pictures | later)


def run_page(arm: Arm, *, command: str | None = None) -> str:
    """The page of a single run, or of a trace."""
    arms: dict[str, Arm] = {arm.kind: arm}
    metrics = summaries(arm)
    drawings, pictures = figures(_alone(arm), "alone")
    timelines, later = figures(_load(arms), "load")
    body = join(
        [
            tag("h1", arm.name),
            tag("p", "tbench: one run, measured", class_="quiet"),
            _overview(arm, metrics),
            section(
                "Metrics", tables.summary_table(metrics), tag("p", _DESCRIPTIVE, class_="quiet")
            ),
            section("Distributions", tag("div", drawings, class_="figures")),
            section("Failures", tables.kinds_table(arm), _messages(arms)),
            section("Load", tag("div", timelines, class_="figures")),
            *_origin(arms, [one.metric for one in metrics], command),
        ]
    )
    return document(arm.name, _frame(body), pictures | later)


_DESCRIPTIVE = (
    "The intervals treat requests as independent. They describe this run and decide nothing about another: "
    "for that, compare runs."
)


def sentence(row: Comparison) -> str:
    """One row in plain words, with its interval and how far to trust it."""
    what = f"{_label(row.metric)} {words.percentile(row.quantile)}"
    if row.ratio is None or row.finding is None:
        return f"{what}: nothing can be said ({row.refusal or 'it lies among the timeouts'})."
    ratio, ends = words.ratio(row.ratio), words.ratio_interval(row.low, row.high)
    trust = f"{row.confidence} confidence"
    if row.warnings:
        others = [one.code for one in row.warnings if one.code != "LOW_CONFIDENCE"]
        trust += f" ({'; '.join([*others, 'see below'])})"
    if row.finding == "no difference seen":
        return f"{what}: no difference seen; the ratio is {ratio} {ends}, {trust}."
    return f"Candidate is {row.finding} at {what}: {ratio} times the baseline {ends}, {trust}."


def _verdict(comparisons: Comparisons) -> Html:
    rows = {(row.metric, row.quantile): row for row in comparisons.rows}
    said = [sentence(rows[key]) for key in HEADLINES if key in rows]
    said = said or [sentence(row) for row in comparisons.rows[:5]]
    errors = comparisons.errors
    said.append(
        f"Failures: {errors.baseline:.2%} in the baseline, {errors.candidate:.2%} in the candidate."
    )
    return tag(
        "div",
        tag("strong", f"{comparisons.verdict}. "),
        MEANING[comparisons.verdict],
        tag("ul", join(tag("li", one) for one in said)),
        tables.cautions(comparisons.warnings),
        class_=f"verdict {comparisons.verdict}",
        id="results",
    )


def _overview(arm: Arm, metrics: Sequence[Summary]) -> Html:
    measured = arm.measured
    n, good = int(measured.sum()), int((arm.ok & measured).sum())
    said = [f"{good:,} of {n:,} requests succeeded." if n else "No request was measured."]
    said += [_median(one) for one in metrics if one.metric in DRAWN]
    if arm.invalid_because:
        said.insert(0, f"INVALID: {arm.invalid_because}.")
    marks = "verdict INVALID" if arm.invalid_because else "verdict"
    return tag("div", tag("ul", join(tag("li", one) for one in said)), class_=marks, id="results")


def _median(one: Summary) -> str:
    half = next((quantile for quantile in one.quantiles if quantile.p == 0.5), None)
    if half is None or half.value is None:
        return f"{one.metric.upper()}: no median ({one.n:,} values)."
    return f"{one.metric.upper()}: median {words.amount(half.value, one.unit)}, n = {one.n:,}."


def _compared(comparisons: Comparisons) -> list[Picture | None]:
    """Of each metric its distributions and, beside them, its shift."""
    there = [metric for metric in DRAWN if metric in comparisons.values]
    found: list[Picture | None] = []
    for metric in there or list(comparisons.values)[: len(DRAWN)]:
        one = METRICS[metric]
        arms = dict(zip(("baseline", "candidate"), comparisons.values[metric], strict=True))
        found.append(charts.ecdf(_label(metric), one.unit, arms))
        found.append(charts.shift(_label(metric), comparisons.shift.get(metric, ())))
    return found


def _alone(arm: Arm) -> list[Picture | None]:
    return [
        charts.ecdf(_label(metric), METRICS[metric].unit, {arm.kind: _measured(arm, metric)})
        for metric in (*DRAWN, "itl")
    ]


def _load(arms: Mapping[str, Arm]) -> list[Picture | None]:
    """What happened over time, warm-up included, and how late requests left."""
    first = {side: (arm.offset_s, values(arm, METRICS["ttft"])) for side, arm in arms.items()}
    stamps = {side: (arm.columns["sent"], arm.columns["end"]) for side, arm in arms.items()}
    late = {side: _measured(arm, "lag") for side, arm in arms.items() if arm.open_loop}
    return [
        charts.over_time(_label("ttft"), "s", first),
        charts.in_flight(stamps),
        charts.ecdf("lag (sent - due)", "s", late),
    ]


def _measured(arm: Arm, metric: str) -> Floats:
    return values(arm, METRICS[metric])[arm.measured]


def _label(metric: str) -> str:
    return metric.upper().replace("_", " ")


def _messages(arms: Mapping[str, Arm]) -> Html:
    return join(tables.messages(f"the {side}", arm) for side, arm in arms.items())


def _origin(arms: Mapping[str, Arm], metrics: Sequence[str], command: str | None) -> list[Html]:
    """What the numbers mean and where they come from."""
    headers = {side: {**arm.run.header, **arm.run.totals} for side, arm in arms.items()}
    return [
        section("Arms and environment", tables.arms_table(arms), tables.facts_table(headers)),
        section("Definitions", tables.definitions(metrics)),
        tables.command_section(command),
    ]


def _frame(body: Html) -> Html:
    return tag("main", body)
