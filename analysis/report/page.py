"""Reports as HTML pages that need nothing else: the verdict first, then tables and pictures, then how.

A report is a list of sections (analysis.report.sections); which ones, and what is special to one run, a
pair of runs, or repeated runs, is said here.
"""

from collections.abc import Iterator
from typing import Final

from tbench.analysis.arms import Arm
from tbench.analysis.charts import Bar, Picture, forest, shift
from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Comparisons
from tbench.analysis.contrast import FINDINGS
from tbench.analysis.gate_results import GateResults
from tbench.analysis.metrics import METRICS
from tbench.analysis.repeated import shifts
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import gates, sections, tables, verdicts, words
from tbench.analysis.report.figures import Report, part
from tbench.analysis.report.machine import summaries
from tbench.analysis.report.markup import join, tag
from tbench.analysis.report.sentences import TREND, Names, declared, objectives
from tbench.analysis.report.sides import Sides, about, shown_names
from tbench.analysis.slo import Slo

WORTH = {
    "lower": ("better", "worse"),
    "higher": ("worse", "better"),
    "neutral": ("differs", "differs"),
}
"""What a ratio below and above 1 is worth, by which way of the metric is better."""
SHIFTED = ("ttft", "e2e", "tpot", "itl")


def judgement_page(
    found: GateResults, *, command: str | None = None, title: str | None = None
) -> str:
    """The page of repeated runs held against gates; `command` makes it again, without secrets."""
    return judgement_report(found, command=command, title=title).page()


def comparison_page(found: Comparisons, *, command: str | None = None) -> str:
    """The page of one pair of runs. `command` is the line that makes it again, without secrets."""
    return comparison_report(found, command=command).page()


def run_page(arm: Arm, *, command: str | None = None) -> str:
    """The page of a single run, or of a trace."""
    return run_report(arm, command=command).page()


def judgement_report(
    found: GateResults, *, command: str | None = None, title: str | None = None
) -> Report:
    """Repeated runs of two or more arms: verdict, gates, each run, then what they have in common."""
    names = shown_names([arm.name for arm in found.arms])
    sides = {names[arm.name]: arm.runs for arm in found.arms}
    others = ", ".join(names[arm.name] for arm in found.candidates)
    title = title or f"{others} against {names[found.baseline.name]}"
    counts = " + ".join(str(len(arm.runs)) for arm in found.arms)
    metrics = _metrics(found)
    return Report(
        title=title,
        about=about(sides),
        head=join(
            [
                tag("h1", title),
                tag(
                    "p", f"tbench: repeated runs held against gates, {counts} runs", class_="quiet"
                ),
                verdicts.judgement_verdict(found, names),
            ]
        ),
        parts=[
            part("Gates", gates.gate_table(found, names), pictures=gates.forests(found, names)),
            part(
                "Each run",
                gates.figures_table(found, names, sides),
                pictures=gates.run_dots(found, names, sides),
            ),
            sections.throughput(sides),
            sections.distributions(sides, metrics, _run_shifts(found, names)),
            sections.over_time(sides),
            sections.failures(sides),
            sections.kept(sides),
            sections.slow(sides),
            sections.method(metrics, *REPEATED, *_asked(found), *_looked(found)),
            sections.environment(sides),
            sections.made_by(command),
        ],
    )


def _asked(found: GateResults) -> Iterator[str]:
    """What was asked beyond the usual: the contrast, and what a good request is."""
    if who := declared(found):
        yield f"Instead of Welch's t: {TREND}, declared {who}."
    if slo := objectives(found):
        yield f"Goodput counts the requests that succeeded with {', '.join(slo)}."


def _looked(found: GateResults) -> tuple[str, ...]:
    """How an experiment that could stop early was decided."""
    return () if gates.has_intervals(found) else WITHOUT_INTERVALS


def _metrics(found: GateResults) -> list[str]:
    """What is drawn: the usual metrics, and whatever else is gated."""
    gated = [row.gate.metric for row in found.rows if row.gate.quantile is not None]
    return list(dict.fromkeys([*sections.DRAWN, *gated]))


def _run_shifts(found: GateResults, names: Names) -> dict[str, list[Picture | None]]:
    return {
        metric: [_run_shift(found, names, arm, metric) for arm in found.candidates]
        for metric in SHIFTED
    }


def _run_shift(found: GateResults, names: Names, arm: Replicates, metric: str) -> Picture | None:
    who = f", {names[arm.name]}" if len(found.candidates) > 1 else ""
    return shift(
        f"{words.title(metric)}{who}",
        shifts(found.baseline.runs, arm.runs, metric, intervals=gates.has_intervals(found)),
        against=f"{names[arm.name]} / {names[found.baseline.name]}",
    )


def comparison_report(found: Comparisons, *, command: str | None = None) -> Report:
    """One pair of runs: what it says and how far to trust it, then what reports have in common."""
    sides: Sides = {"baseline": (found.baseline,), "candidate": (found.candidate,)}
    title = f"{found.candidate.name} against {found.baseline.name}"
    there = [metric for metric in sections.DRAWN if metric in found.values]
    metrics = there or list(found.values)[: len(sections.DRAWN)]
    bars = [_bar(row) for row in found.rows if row.finding]
    shifted = {one: [shift(words.title(one), found.shift.get(one, ()))] for one in metrics}
    return Report(
        title=title,
        about=about(sides),
        head=join(
            [
                tag("h1", title),
                tag("p", "tbench: candidate against baseline, request by request", class_="quiet"),
                verdicts.comparison_verdict(found),
            ]
        ),
        parts=[
            part(
                "Comparison",
                tables.comparison_table(found),
                pictures=[forest("Ratio of each quantile", bars) if bars else None],
            ),
            part("Throughput", tables.rates_table(found)),
            sections.distributions(sides, metrics, shifted),
            sections.over_time(sides),
            sections.failures(sides, found.errors),
            sections.kept(sides),
            sections.slow(sides),
            sections.method(found.values, *INVERTED),
            sections.environment(sides),
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
        said=said.get(row.finding or "", NO_DIFFERENCE),
    )


def run_report(arm: Arm, *, command: str | None = None, slo: Slo = ()) -> Report:
    """A single run, or a trace: what became of its requests, and each metric with its quantiles."""
    sides: Sides = {arm.kind: (arm,)}
    metrics = summaries(arm)
    return Report(
        title=arm.name,
        about=about(sides),
        head=join(
            [
                tag("h1", arm.name),
                tag("p", f"tbench: one {arm.kind}, measured", class_="quiet"),
                verdicts.run_verdict(arm, metrics),
            ]
        ),
        parts=[
            sections.throughput(sides, slo),
            part("Metrics", tables.summary_table(metrics)),
            sections.distributions(sides, sections.DRAWN),
            sections.over_time(sides),
            sections.failures(sides),
            sections.kept(sides),
            sections.slow(sides),
            sections.method([one.metric for one in metrics], *DESCRIPTIVE),
            sections.environment(sides),
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
