"""Sentences: what a comparison or a judgement says, in words; the same in text, page, Markdown, workbook."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Comparisons, Verdict
from tbench.analysis.decide import ALPHA
from tbench.analysis.gate import Gate
from tbench.analysis.gate_results import GateResults, GateRow, conclude
from tbench.analysis.proportions import ErrorDifference
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import words
from tbench.analysis.variance import pooled_sd
from tbench.capture.terminal import named, plural
from tbench.replay.throughput import three
from tbench.replay.totals import duration_s

Names = Mapping[str, str]
"""An arm's own name -> the one that is shown."""


NAMED = 3
"""So many gates are named in a sentence; the table has all."""


FAILS = 0.05
"""A candidate that fails this share more of its requests is never called faster."""


NONE_SEEN = "No difference of latency seen between the candidate and the baseline"


PAIR = "This holds for these two runs; to decide, let runs of both take turns (tbench ab)."


TREND: Final = "trend (least squares of each run's figure on its arm and its place among the runs)"


MEANINGS: Final = {
    Verdict.PASS: "each gated change is below its margin at one-sided level 5%",
    Verdict.FAIL: "a gated change exceeds its margin at level 5% (Holm, over all gates)",
    Verdict.INCONCLUSIVE: "these runs cannot tell",
    Verdict.INVALID: "a run does not count",
    Verdict.SKIPPED: "not testable by these runs",
}


def meaning(judgement: GateResults) -> str:
    """The verdict over all in a sentence without its full stop; of limits where some are gated."""
    tested = [row for row in judgement.rows if row.comparison.verdict is not Verdict.SKIPPED]
    text = MEANINGS[judgement.verdict]
    if all(row.gate.limit is None for row in tested):
        return text
    both = any(row.gate.limit is None for row in tested)
    if judgement.verdict is Verdict.PASS:
        kept = "each limit is kept at one-sided level 5%"
        return f"{text}, {kept}" if both else kept
    if judgement.verdict is Verdict.FAIL:
        what = "change exceeds its margin, or a limit" if both else "limit"
        return f"a gated {what} is missed, at level 5% (Holm, over all gates)"
    return text


def standing(judgement: GateResults, arm: Replicates) -> Verdict:
    """The verdict on one candidate alone."""
    if any(run.invalid_because for run in (*judgement.baseline.runs, *arm.runs)):
        return Verdict.INVALID
    return conclude([row for row in judgement.rows if row.arm == arm.name], ())


def why(judgement: GateResults, arm: Replicates, names: Names) -> str:
    """One sentence: what decided it."""
    of_arm = [row for row in judgement.rows if row.arm == arm.name]
    rows = [row for row in of_arm if row.comparison.verdict is not Verdict.SKIPPED] or of_arm
    who, base = names[arm.name], names[judgement.baseline.name]
    verdict = standing(judgement, arm)
    if verdict is Verdict.INVALID:
        return f"A run of {who} or {base} does not count: its own client was the limit, or data was lost."
    if verdict is Verdict.FAIL:
        failed = [row for row in rows if row.comparison.verdict is Verdict.FAIL]
        if all(row.gate.limit is not None for row in failed):
            return f"{who} misses its limit: {_named(failed)}."
        return f"{who} is worse than {base} by more than the margin: {_named(failed)}."
    if verdict is Verdict.PASS:
        held = all(row.gate.limit is not None for row in rows)
        said = "keeps its limit" if held else f"is not worse than {base} by the margin or more"
        near = _gate_text(max(rows, key=_worse))
        return f"{who} {said} at {_count(rows)} (one-sided level 5%); nearest to it: {near}."
    return (
        f"These runs cannot tell whether {who} is worse than {base}: {_undecided(judgement, rows)}."
    )


def _count(rows: Sequence[GateRow]) -> str:
    return "the one gate" if len(rows) == 1 else f"any of {len(rows)} gates"


def _named(rows: Sequence[GateRow]) -> str:
    """The gates that changed most for the worse, in words."""
    worst = sorted(rows, key=_worse, reverse=True)
    more = len(worst) - NAMED
    listed = "; ".join(_gate_text(row) for row in worst[:NAMED])
    return listed + (f"; and {more} more" if more > 0 else "")


def _gate_text(row: GateRow) -> str:
    if row.comparison.ratio is None and not interval(row):
        return f"{gate_label(row.gate)}, {reason(row) or 'no interval'}"
    figures = " ".join(filter(None, [gate_label(row.gate), change(row), interval(row)]))
    return f"{figures}, {'margin' if row.gate.limit is None else 'limit'} {margin(row.gate)}"


def _worse(row: GateRow) -> float:
    """How much worse it got, in margins; how near it is to its limit. 1 is as much as may be."""
    gate, found = row.gate, row.worsening
    if found is None:
        return float("inf")
    if gate.scale == "ratio":
        return math.expm1(found.value) / gate.margin
    if gate.endpoint.scale == "ratio":
        return math.exp(found.value - gate.threshold)
    bad = found.value + (1.0 if gate.higher and gate.limit is not None else 0.0)
    return bad / gate.allowance


def _undecided(judgement: GateResults, rows: Sequence[GateRow]) -> str:
    """Each reason once, after the gates that it holds for and their figures."""
    texts = {caution.code: caution.text for caution in judgement.warnings}
    reasons: dict[str, list[GateRow]] = {}
    for row in rows:
        if row.comparison.verdict is Verdict.INCONCLUSIVE:
            reason = texts.get(row.reason or "", row.reason or "not decided")
            reasons.setdefault(reason, []).append(row)
    if [len(rows)] == [len(undecided) for undecided in reasons.values()] and {*reasons} <= {
        *texts.values()
    }:
        return next(iter(reasons))
    return "; ".join(f"{_gates(undecided)}: {reason}" for reason, undecided in reasons.items())


def _gates(rows: Sequence[GateRow]) -> str:
    """Gates by name, with their figures where there are any."""
    if all(interval(row) for row in rows):
        return _named(rows)
    return ", ".join(gate_label(row.gate) for row in rows)


def to_decide(judgement: GateResults, names: Names) -> Iterator[str]:
    """How many runs would decide what is INCONCLUSIVE for its spread alone, by the gate that needs most.

    If the change is as measured, and the spread from run to run at its upper limit (`power.upper_sd`).
    """
    for arm in judgement.candidates if judgement.history is None else ():
        rows = [row for row in judgement.rows if row.arm == arm.name and _undecided_by_spread(row)]
        needs = {gate_label(row.gate): _runs_to_decide(row) for row in rows}
        far = [label for label, runs in needs.items() if runs is None]
        who = f" of {names[arm.name]}" if len(judgement.candidates) > 1 else ""
        if far:
            yield f"{', '.join(far)}{who}: too near the margin for any number of runs; widen it"
        if counts := [runs for runs in needs.values() if runs]:
            seconds = max(map(_seconds, (*judgement.baseline.runs, *arm.runs)))
            runs = max(counts)
            yield (
                f"{runs} runs each ({_long(2 * runs * seconds)}) would decide "
                f"{', '.join(label for label in needs if label not in far)}{who} in "
                "8 of 10 cases, if the change is as measured"
            )


def _undecided_by_spread(row: GateRow) -> bool:
    """Whether more runs would settle it: not a share, which wants requests, and no caution in the way."""
    return (
        row.comparison.verdict is Verdict.INCONCLUSIVE
        and row.gate.scale == "ratio"
        and row.comparison.low is not None
        and not (row.reason or "").isupper()
    )


def _runs_to_decide(row: GateRow) -> int | None:
    """The fewest runs of each arm, at least one more than there are; None where no number is enough."""
    from tbench.analysis import power  # noqa: PLC0415 (loads scipy.optimize, which few reports need)

    sd, df = pooled_sd([row.baseline_runs, row.candidate_runs])
    distance = row.evidence.distance
    if sd is None or distance is None or distance <= 0:
        return None
    runs = power.runs_to_decide(power.upper_sd(sd, df), distance)
    return runs and max(runs, min(len(row.baseline_runs), len(row.candidate_runs)) + 1)


def _seconds(run: Arm) -> float:
    return duration_s(run.columns)


def _long(seconds: float) -> str:
    """A duration to plan with: 40 s, 19 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def left_open(judgement: GateResults) -> str | None:
    """What a PASS cannot know: the runs that did not happen to be bad. None without a PASS."""
    if judgement.verdict is not Verdict.PASS:
        return None
    runs = min(len(arm.runs) for arm in judgement.candidates)
    seen = plural(runs, "run without a bad one leaves", "runs without a bad one leave")
    return f"PASS is about the mean run: {seen} open that up to {unseen_runs(runs):.0%} of runs are bad"


def unseen_runs(runs: int) -> float:
    """The share of bad runs of which so many runs show none with probability .05."""
    return float(1 - ALPHA ** (1 / runs))


def declared(judgement: GateResults) -> str | None:
    """Who said before the runs that they would be compared this way; None for the usual way."""
    if judgement.contrast == "welch":
        return None
    return "in the plan, before the runs" if judgement.planned else "by the one who ran this"


def objectives(judgement: GateResults) -> list[str]:
    """What goodput counts, as the user wrote it."""
    slo = next((row.gate.slo for row in judgement.rows if row.gate.slo), ())
    return [one.text for one in slo]


def amount(judgement: GateResults, arm: Replicates) -> str:
    """How many runs an arm has, or how many sessions the history."""
    if judgement.history is not None and arm is judgement.baseline:
        return judgement.history.text
    return plural(len(arm.runs), "run")


# A gate's row: what was gated, its figures, its change.


def gate_label(gate: Gate) -> str:
    """What is gated, as people say it: `TTFT p95`, `errors`."""
    label = words.title(gate.metric)
    return label if gate.quantile is None else f"{label} {words.percentile(gate.quantile)}"


def reason(row: GateRow) -> str:
    """Why a gate has no PASS or FAIL; a warning by its name, since its sentence stands below the gates."""
    text = row.reason or ""
    return text.lower().replace("_", " ") if text.isupper() else text


def margin(gate: Gate) -> str:
    """How much worse it may get; or what the candidate must hold."""
    if gate.limit is not None:
        return gate.asked.replace("<=", "≤ ").replace(">=", "≥ ")
    return f"{gate.margin * 100:.4g}{' pp' if gate.scale == 'points' else '%'}"


def sides(row: GateRow) -> tuple[str, str]:
    """The figures of baseline and candidate as people read them, in one unit."""
    both = row.comparison.baseline, row.comparison.candidate
    first, second = (words.figure(value, row.gate.endpoint.unit, beside=both) for value in both)
    return first, second


def change(row: GateRow) -> str:
    """The change with its sign: per cent of the baseline, or points; for a limit the candidate's figure."""
    if row.gate.scale == "level":
        return words.figure(row.comparison.candidate, row.comparison.unit)
    return words.change(row.comparison.ratio, share=row.gate.scale == "points")


def interval(row: GateRow) -> str:
    """The two-sided interval of the change, or of the figure; nothing where there is none."""
    shown = ends(row)
    return "" if shown is None else f"[{', '.join(shown)}]"


def change_cell(row: GateRow) -> str:
    """The change; a dash where it is not known, or where a level is asked: the candidate's own figure."""
    asked = row.gate.scale != "level" and row.comparison.ratio is not None
    return change(row) if asked else "-"


def interval_cell(row: GateRow) -> str:
    """The interval as a cell of a table."""
    return " to ".join(ends(row) or ["-"])


def ends(row: GateRow) -> tuple[str, str] | None:
    """The ends of the interval as people read them; None where there is none.

    With as many digits as it takes to tell them from the margin, or the limit: an interval that passes
    must not seem to hold it.
    """
    one, gate = row.comparison, row.gate
    if one.low is None or one.high is None:
        return None
    edge = gate.shown(-gate.threshold if gate.higher else gate.threshold)
    return _end(gate, one.low, edge), _end(gate, one.high, edge)


def _end(gate: Gate, value: float, edge: float) -> str:
    for more in range(4):
        text = _digits(gate, value, more)
        if text != _digits(gate, edge, more):
            break
    return text


def _digits(gate: Gate, value: float, more: int) -> str:
    """A figure, a ratio or a difference, with so many digits more than usual."""
    if gate.scale != "level":
        return words.change(value, share=gate.scale == "points", more=more)
    if gate.endpoint.unit == "share":
        return f"{value:.{2 + more}%}"
    return words.amount(value, gate.endpoint.unit, digits=3 + more)


# One pair of runs.


def sentence(row: Comparison) -> str:
    """One row of a pair in plain words, with its interval and how far to trust it."""
    what = row_name(row)
    if row.ratio is None or row.finding is None:
        return f"{what}: nothing can be said ({row.refusal or 'it lies among the timeouts'})."
    ratio, ends = words.ratio(row.ratio), words.ratio_interval(row.low, row.high)
    trust = f"{row.confidence} confidence"
    if row.warnings:
        others = [one.code for one in row.warnings if one.code != "LOW_CONFIDENCE"]
        trust += f" ({'; '.join([*others, 'see below'])})"
    if not row.differs:
        return f"{what}: no difference seen; the ratio is {ratio} {ends}, {trust}."
    return f"Candidate is {row.finding} at {what}: {ratio} the baseline {ends}, {trust}."


def seen(comparison: Comparisons) -> str:
    """All findings of a pair in one sentence or two: failures first, then what is sure, then the rest.

    A candidate that fails by more than FAILS more of its requests is not called faster: its latencies are
    those of the requests that it did not fail.
    """
    errors = comparison.errors
    more = errors.difference if errors.low > 0 else 0.0
    rows = [row for row in comparison.rows if row.finding != "faster" or more <= FAILS]
    return " ".join(filter(None, [_failing(errors), _differences(rows, among=more > 0)]))


def _failing(errors: ErrorDifference) -> str:
    """That one arm fails more requests, where it does by more than chance."""
    if errors.low <= 0 <= errors.high:
        return ""
    more = "more" if errors.difference > 0 else "fewer"
    shares = f"{errors.candidate:.2%} of its requests, the baseline {errors.baseline:.2%}"
    text = f"The candidate fails {more}: {shares}"
    if errors.difference > FAILS:
        return f"{text}; the latencies of what is left are no evidence that it is faster."
    return f"{text}; latencies are of the successes only."


def _differences(rows: Sequence[Comparison], *, among: bool) -> str:
    """What differs: with full confidence, then with low confidence."""
    levels = {row.confidence for row in rows} - {"none"}
    sure, unsure = (
        "; ".join(_clauses([row for row in rows if row.differs and row.confidence == level]))
        for level in ("95%", "low")
    )
    who = "Of the successes, the candidate's were" if among else "The candidate was"
    if not levels:
        return "No quantile has an interval."
    if levels == {"low"}:
        doubt = " (low confidence)"
        return f"{who} {unsure}{doubt}." if unsure else f"{NONE_SEEN}{doubt}."
    text = f"{who} {sure}" if sure else NONE_SEEN
    return f"{text}; with low confidence: {unsure}." if unsure else f"{text}."


def _clauses(rows: Sequence[Comparison]) -> Iterator[str]:
    """Per finding, each metric with the quantiles at which it holds."""
    by_finding: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        metrics = by_finding.setdefault(str(row.finding), {})
        metrics.setdefault(words.title(row.metric), []).append(words.percentile(row.quantile))
    for finding, metrics in by_finding.items():
        yield f"{finding} at {', '.join(f'{name} {" ".join(at)}' for name, at in metrics.items())}"


# A pair in one line, and what stands between it and trust.

HEADLINES: Final = ("ttft", "e2e", "tpot")
SHORT_QUANTILES: Final = (0.5, 0.95)
"""What the short text and the first screen of the page show; all else is in the tables."""


def shown_metrics(comparison: Comparisons) -> list[str]:
    """The metrics of the short text: all that were compared, but ITL where TPOT says the same."""
    metrics = list(dict.fromkeys(row.metric for row in comparison.rows))
    return [name for name in metrics if not (name == "itl" and "tpot" in metrics)]


def shown_rows(comparison: Comparisons) -> list[Comparison]:
    """The rows of the short text: p50 and p95 of each metric, or all that were asked for instead."""
    rows = [row for row in comparison.rows if row.metric in shown_metrics(comparison)]
    return [row for row in rows if row.quantile in SHORT_QUANTILES] or rows


def headline_rows(comparison: Comparisons) -> list[Comparison]:
    """One row for each metric: its median, else the first quantile that was asked for."""
    rows = shown_rows(comparison)
    usual = [name for name in HEADLINES if any(row.metric == name for row in rows)]
    metrics = usual or shown_metrics(comparison)[: len(HEADLINES)]
    by_metric = {name: [row for row in rows if row.metric == name] for name in metrics}
    return [min(of, key=lambda row: abs(row.quantile - 0.5)) for of in by_metric.values() if of]


def outcome(comparison: Comparisons) -> str:
    """What a pair says in a word or two: slower, faster, mixed; never faster for failing more."""
    if comparison.verdict is Verdict.INVALID:
        return "invalid"
    if comparison.errors.low > 0 and comparison.errors.difference > FAILS:
        return "fails more"
    rows = headline_rows(comparison)
    findings = {row.finding for row in rows if row.differs}
    if not any(row.finding for row in rows):
        return "undecided"
    if not findings:
        return NO_DIFFERENCE
    return findings.pop() or "" if len(findings) == 1 else "mixed"


def headline(comparison: Comparisons) -> str:
    """The ratios behind the outcome, and their rank: `TTFT 2.70x, E2E 2.55x at the median (advisory)`."""
    rows, result = headline_rows(comparison), outcome(comparison)
    mixed = result == "mixed"
    ratios = ", ".join(
        f"{words.title(row.metric)} {words.ratio(row.ratio)}"
        + (f" {row.finding}" if mixed and row.differs else "")
        for row in rows
        if row.ratio is not None
    )
    levels = {row.quantile for row in rows}
    at = "" if len(levels) != 1 else f" at {words.percentile(*levels).replace('p50', 'the median')}"
    text = f"{ratios}{at}" if ratios else "no ratio can be told"
    errors = comparison.errors
    if result == "invalid":
        return f"a run's own client was its limit, or data was lost; not to be relied on: {text}"
    if result == "fails more":
        return f"{errors.candidate:.2%} of requests fail against {errors.baseline:.2%}; of the rest {text}"
    low = all(row.confidence != "95%" for row in rows)
    if result == "undecided":
        return f"{text} (too few requests for an interval)"
    return f"{text} (advisory{', low confidence' if low else ''})"


def models(arm: Arm) -> str:
    """The models of an arm without their vendors."""
    names = (name.rsplit("/", 1)[-1] for name in (arm.model or "no model named").split(", "))
    return " + ".join(map(named, names))


def result_of(row: Comparison) -> str:
    """The last column of a pair's row: the finding, or in a few words why there is no interval."""
    if row.refusal is None:
        return row.finding or "among the timeouts"
    if needed := re.search(r"needs ≥ ([\d,]+)", row.refusal):
        return f"n {min(row.n_baseline, row.n_candidate):,} < {needed[1]}"
    return "tail clustered in time" if "burst" in row.refusal else row.refusal


def caveats(comparison: Comparisons) -> list[tuple[str, str]]:
    """What to know before trusting a pair, a label and a line each, by how far it could move the verdict."""
    by_code = {caution.code: caution.text for caution in comparison.warnings if not caution.is_fact}
    ranked = sorted(
        by_code.keys() - NAMED_ABOVE,
        key=lambda code: (CAVEATS.get(code, (len(CAVEATS),))[0], code),
    )
    return [(label(code), _brief(code, by_code[code], comparison)) for code in ranked]


NAMED_ABOVE: Final = frozenset({"DIFFERENT_MODEL"})
"""Facts that the heading shows."""
Brief = Callable[[str, Comparisons], str]


def _lag(text: str, comparison: Comparisons) -> str:
    """How much of the difference of TTFT the client's lag can be."""
    level, first, second = re.findall(r"lag p([\d.]+) ([\d.]+) ms against ([\d.]+) ms", text)[0]
    apart = abs(float(first) - float(second))
    lag = f"client lag differs by {three(apart)} ms at p{level}"
    medians = [row for row in comparison.rows if (row.metric, row.quantile) == ("ttft", 0.5)]
    moved = medians and (medians[0].candidate or 0.0) - (medians[0].baseline or 0.0)
    if not moved:
        return f"{lag}: so much of TTFT or E2E can be the client's"
    verdict = "cannot explain" if apart < abs(moved) * 1e3 / 2 else "may explain much of"
    return f"{lag}: {verdict} {three(abs(moved) * 1e3)} ms of TTFT p50"


def _cached(text: str, _: Comparisons) -> str:
    first, second = re.findall(r"\d+%", text)
    cached = f"{first} vs {second} of prompt tokens came from the prefix cache"
    return f"{cached}: TTFT compares caches too (--cache cold)"


def _sample(text: str, _: Comparisons) -> str:
    size = ", ".join(text.split("; ")[:2]).removesuffix(" (all intervals)")
    return f"{size}: CIs are approximate (~)"


def _stamps(text: str, _: Comparisons) -> str:
    return f"first tokens read over 1 ms late: {text.partition(': ')[2]}"


def _first_clause(text: str, _: Comparisons) -> str:
    return text.split("; ", maxsplit=1)[0]


def _whole(text: str, _: Comparisons) -> str:
    return text


def _drift(_: str, comparison: Comparisons) -> str:
    rows = ", ".join(row_name(row) for row in shown_rows(comparison) if row.drift)
    return f"conditions may have drifted during a run: CIs too narrow{f' at {rows}' if rows else ''} (~)"


def row_name(row: Comparison) -> str:
    """A metric at a quantile: `TTFT p50`."""
    return f"{words.title(row.metric)} {words.percentile(row.quantile)}"


CAVEATS: Final[Mapping[str, tuple[int, str, Brief]]] = {
    code: (rank, label, brief)
    for rank, (code, label, brief) in enumerate(
        [
            ("INVALID_RUN", "invalid", _whole),
            ("SURVIVOR_BIAS", "failures", _first_clause),
            ("CUT_SHORT", "failures", _first_clause),
            ("FAILURES_ROSE", "failures", _first_clause),
            ("ERROR_MIX_DIFFERS", "errors", _whole),
            ("DIFFERENT_PACING", "pacing", _whole),
            ("CACHED_TOKENS_DIFFER", "cache", _cached),
            ("OUTPUT_LENGTH_DIFFERS", "length", _first_clause),
            ("FINISH_REASONS_DIFFER", "endings", _whole),
            ("LOAD_DOMINATED", "load", _first_clause),
            ("PARTIAL_OVERLAP", "overlap", _whole),
            ("RECORDED_ARM", "recorded", _first_clause),
            ("CLIENT_LAG_DIFFERS", "lag", _lag),
            ("SLOW_DRIFT", "drift", _drift),
            ("FEW_SESSIONS", "sessions", _first_clause),
            ("LOW_CONFIDENCE", "sample", _sample),
            ("EQUAL_LENGTHS_APPROXIMATE", "length", _first_clause),
            ("BUFFERED_STREAM", "buffered", _first_clause),
            ("TTFT_UNCERTAIN", "stamps", _stamps),
            ("STEPS", "steps", _first_clause),
        ]
    )
}
"""Code -> how far it could move a verdict (0 first), its label, and its text in one line."""


def label(code: str) -> str:
    """A warning in a word."""
    return CAVEATS[code][1] if code in CAVEATS else code.lower().replace("_", " ")


def _brief(code: str, text: str, comparison: Comparisons) -> str:
    return CAVEATS[code][2](text, comparison) if code in CAVEATS else text
