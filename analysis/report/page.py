"""Reports as HTML pages that need nothing else: the verdict first, then tables and pictures, then how.

A report is a list of sections (analysis.report.sections); which ones, and what is special to one run, a
pair of runs, or repeated runs, is said here.
"""

from collections.abc import Iterator
from typing import Final

from tbench.analysis.arms import Arm
from tbench.analysis.charts import NO_INTERVAL, Bar, Picture, forest, shift
from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Comparisons
from tbench.analysis.contrast import FINDINGS, shifts
from tbench.analysis.gate_results import GateResults
from tbench.analysis.metrics import METRICS
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import gates, sections, tables, verdicts, words
from tbench.analysis.report.figures import Report, part
from tbench.analysis.report.gate_sentences import (
    TREND,
    Names,
    declared,
    objectives,
    shown_names,
)
from tbench.analysis.report.machine import summaries
from tbench.analysis.report.sentences import shown_rows
from tbench.analysis.report.sides import Sides, about
from tbench.analysis.slo import Slo

WORTH = {
    "lower": ("better", "worse"),
    "higher": ("worse", "better"),
    "neutral": ("differs", "differs"),
}
"""What a ratio below and above 1 is worth, by which way of the metric is better."""
SHIFTED = ("ttft", "e2e", "tpot", "itl")


def judgement_page(
    judgement: GateResults, *, command: str | None = None, title: str | None = None
) -> str:
    """The page of repeated runs held against gates; `command` makes it again, without secrets."""
    return judgement_report(judgement, command=command, title=title).page()


def comparison_page(comparison: Comparisons, *, command: str | None = None) -> str:
    """The page of one pair of runs. `command` is the line that makes it again, without secrets."""
    return comparison_report(comparison, command=command).page()


def run_page(arm: Arm, *, command: str | None = None) -> str:
    """The page of a single run, or of a trace."""
    return run_report(arm, command=command).page()


def judgement_report(
    judgement: GateResults, *, command: str | None = None, title: str | None = None
) -> Report:
    """Repeated runs of two or more arms: verdict, gates, each run, then what they have in common."""
    names = shown_names([arm.name for arm in judgement.arms])
    sides = {names[arm.name]: arm.runs for arm in judgement.arms}
    title = title or verdicts.judgement_title(judgement, names)
    metrics = _metrics(judgement)
    ratios, shares = gates.forests(judgement, names)
    spread, more = sections.distributions(sides, metrics, _run_shifts(judgement, names))
    return Report(
        title=title,
        about=about(sides),
        head=verdicts.judgement_head(judgement, names, title, sides),
        lead=tuple(filter(None, [ratios])),
        caveats=verdicts.judgement_caveats(judgement),
        parts=[
            part("Gates", gates.gate_table(judgement, names), pictures=[shares], unfolded=True),
            spread,
            sections.over_time(sides),
            more,
            part(
                "Each run",
                gates.figures_table(judgement, names, sides),
                pictures=gates.run_dots(judgement, names, sides),
            ),
            sections.throughput(sides),
            sections.failures(sides),
            sections.kept(sides),
            sections.slow(sides),
            sections.differing(sides),
            sections.environment(sides),
            sections.method(metrics, *REPEATED, *_asked(judgement), *_looked(judgement)),
            sections.made_by(command),
        ],
    )


def _asked(judgement: GateResults) -> Iterator[str]:
    """What was asked beyond the usual: the contrast, and what a good request is."""
    if who := declared(judgement):
        yield f"Instead of Welch's t: {TREND}, declared {who}."
    if slo := objectives(judgement):
        yield f"Goodput counts the requests that succeeded with {', '.join(slo)}."


def _looked(judgement: GateResults) -> tuple[str, ...]:
    """How an experiment that could stop early was decided."""
    return () if gates.has_intervals(judgement) else WITHOUT_INTERVALS


def _metrics(judgement: GateResults) -> list[str]:
    """What is drawn: the usual metrics, and whatever else is gated."""
    gated = [row.gate.metric for row in judgement.rows if row.gate.quantile is not None]
    return list(dict.fromkeys([*sections.DRAWN, *gated]))


def _run_shifts(judgement: GateResults, names: Names) -> dict[str, list[Picture | None]]:
    return {
        metric: [_run_shift(judgement, names, arm, metric) for arm in judgement.candidates]
        for metric in SHIFTED
    }


def _run_shift(
    judgement: GateResults, names: Names, arm: Replicates, metric: str
) -> Picture | None:
    who = f", {names[arm.name]}" if len(judgement.candidates) > 1 else ""
    return shift(
        f"{words.title(metric)}{who}",
        shifts(judgement.baseline.runs, arm.runs, metric, intervals=gates.has_intervals(judgement)),
        against=f"{names[arm.name]} / {names[judgement.baseline.name]}",
    )


def comparison_report(comparison: Comparisons, *, command: str | None = None) -> Report:
    """One pair of runs: what it says and how far to trust it, then what reports have in common."""
    sides: Sides = {"baseline": (comparison.baseline,), "candidate": (comparison.candidate,)}
    title = verdicts.comparison_title(comparison)
    drawn = [metric for metric in sections.DRAWN if metric in comparison.values]
    metrics = drawn or list(comparison.values)[: len(sections.DRAWN)]
    shifted = {
        name: [shift(words.title(name), comparison.shift.get(name, ()))]
        for name in metrics
        if not (name == "itl" and "tpot" in metrics)
    }
    lead = forest("Candidate / baseline", [_bar(row) for row in shown_rows(comparison)])
    spread, more = sections.distributions(sides, metrics, shifted)
    every = [_bar(row) for row in comparison.rows if row.finding]
    return Report(
        title=title,
        about=about(sides),
        head=verdicts.comparison_head(comparison, title),
        lead=tuple(filter(None, [lead])),
        caveats=verdicts.comparison_caveats(comparison),
        parts=[
            spread,
            sections.over_time(sides),
            more,
            part(
                "All quantiles and rates",
                tables.comparison_table(comparison),
                tables.rates_table(comparison),
                pictures=[forest("Ratio of each quantile", every) if every else None],
            ),
            sections.failures(sides, comparison.errors),
            sections.kept(sides),
            sections.slow(sides),
            sections.differing(sides),
            sections.environment(sides),
            sections.method(comparison.values, *INVERTED),
            sections.made_by(command),
        ],
    )


def _bar(row: Comparison) -> Bar:
    """A row that has a finding, and whether that is good or bad."""
    better = METRICS[row.metric].better
    said = dict(zip(FINDINGS[better], WORTH[better], strict=True))
    return Bar(
        label=f"{words.title(row.metric)} {words.percentile(row.quantile)}",
        value=row.ratio,
        low=row.low,
        high=row.high,
        said=said.get(row.finding, NO_DIFFERENCE) if row.finding else NO_INTERVAL,
        bare=row.finding is None,
    )


def run_report(arm: Arm, *, command: str | None = None, slo: Slo = ()) -> Report:
    """A single run, or a trace: what became of its requests, and each metric with its quantiles."""
    sides: Sides = {arm.kind: (arm,)}
    metrics, title = summaries(arm), verdicts.run_title(arm)
    spread, more = sections.distributions(sides, sections.DRAWN)
    return Report(
        title=title,
        about=about(sides),
        head=verdicts.run_head(arm, metrics, title),
        parts=[
            spread,
            sections.over_time(sides),
            more,
            part("Metrics", tables.summary_table(metrics)),
            sections.throughput(sides, slo),
            sections.failures(sides),
            sections.kept(sides),
            sections.slow(sides),
            sections.environment(sides),
            sections.method([metric.metric for metric in metrics], *DESCRIPTIVE),
            sections.made_by(command),
        ],
    )


# Methods: how the numbers of a report were made, in words for who reads it without the manual.

DESCRIPTIVE: Final = (
    (
        "The intervals treat requests as independent. They describe this run and decide nothing about "
        "another: for that, compare runs."
    ),
)
INVERTED: Final = (
    (
        "Each ratio is a quantile of the candidate over the same quantile of the baseline. Its "
        "interval comes from inverting a t test over contiguous blocks of time, since requests of one "
        "run are not independent of each other. It is conditional on these two runs: what differs "
        "from run to run cannot be seen in one pair."
    ),
)
REPEATED: Final = (
    (
        "The run is the unit. Each run gives one figure for each gate: its quantile, its rate, or a share "
        "of its requests. Welch's t compares the two arms' figures (quantiles and rates as logarithms), so "
        "that what differs from run to run is what the interval is made of. Requests of one run are never "
        "taken as independent."
    ),
    (
        "A gate is PASS where the one-sided 95% bound of the change lies below its margin, FAIL "
        "where the change is beyond it at 5% by Holm's rule over all gates and arms, else "
        "INCONCLUSIVE. The verdict is PASS only if every gate passes, FAIL if one fails, INVALID if a "
        "run's own client was its limit. Runs that did not take turns are not judged. A limit is held "
        "against the (geometric) mean of the candidate's runs, by Student's t."
    ),
    (
        "Latency counts from when a request was due, in closed loops from when it was sent. A timeout "
        "is longer than every other value. Failures have a gate of their own; a latency passes only if it "
        "does with every failure as the slowest request as well. "
        "In the shift plots the intervals are Welch's at each quantile, and the band holds at all of "
        "them at once (Bonferroni)."
    ),
)
WITHOUT_INTERVALS: Final = (
    (
        "Here no change has an interval: either an arm has fewer than three runs, or the experiment "
        "was looked at while it ran, and could stop early. Then its verdicts hold at the level of the "
        "look that ended it (the warnings say which), and intervals, which are made for "
        "experiments of a fixed length, would promise too much."
    ),
)
