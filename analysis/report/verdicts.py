"""Verdicts: what is read in the first five seconds. One big word, one sentence why, then the rest."""

import math
from collections.abc import Iterator, Sequence

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Comparison, Comparisons, Verdict
from tbench.analysis.judgement import Judgement, Row, conclude
from tbench.analysis.proportions import ErrorDifference, rates
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import tables, words
from tbench.analysis.report.gates import Names, change, gate_label, interval, margin
from tbench.analysis.report.judgement import left_open
from tbench.analysis.report.markup import Html, join, tag
from tbench.analysis.summary import Summary

HEADLINES = (("ttft", 0.5), ("ttft", 0.95), ("e2e", 0.5), ("e2e", 0.95), ("tpot", 0.5))
SHOWN = ("ttft", "e2e", "tpot")
NAMED = 3
"""So many gates are named in a sentence; the table has all."""
FAILS = 0.05
"""A candidate that fails this share more of its requests is never called faster."""
NONE_SEEN = "No difference of latency seen between the candidate and the baseline"
PAIR = "This holds for these two runs; to decide, let runs of both take turns (tbench ab)."


def judgement_verdict(found: Judgement, names: Names) -> Html:
    """The verdict over all, a sentence for each candidate, and what to beware of."""
    cards = [_card(found, arm, names) for arm in found.candidates]
    rest = tag("p", f"{text}.") if (text := left_open(found)) else ""
    if len(cards) == 1:
        only = why(found, found.candidates[0], names)
        return _block(found.verdict, only, rest, tables.cautions(found.warnings))
    tally = [standing(found, arm) for arm in found.candidates]
    parts = [f"{tally.count(one)} {one.value}" for one in Verdict if one in tally]
    whole = f"{len(cards)} candidates against {names[found.baseline.name]}: {', '.join(parts)}."
    listed = tag("ul", join(cards), class_="cards")
    return _block(found.verdict, whole, listed, rest, tables.cautions(found.warnings))


def comparison_verdict(found: Comparisons) -> Html:
    """What one pair says: which way, by how much, how sure; and that it decides nothing."""
    rows = {(row.metric, row.quantile): row for row in found.rows}
    said = [sentence(rows[key]) for key in HEADLINES if key in rows]
    said = said or [sentence(row) for row in found.rows[:5]]
    errors = found.errors
    said.append(
        f"Failures: {errors.baseline:.2%} in the baseline, {errors.candidate:.2%} in the candidate."
    )
    invalid = found.verdict is Verdict.INVALID
    return _block(
        found.verdict,
        "A run's own client was its limit, or data was lost." if invalid else seen(found),
        tag("p", PAIR),
        tag("ul", join(tag("li", one) for one in said)),
        tables.cautions(found.warnings),
    )


def run_verdict(arm: Arm, metrics: Sequence[Summary]) -> Html:
    """What became of a run's requests, and its medians."""
    measured = arm.measured
    n, good = int(measured.sum()), int((arm.ok & measured).sum())
    fate = f"{good:,} of {n:,} requests succeeded." if n else "No request was measured."
    speed = f"Throughput: {', '.join(f'{one.text} {one.title}' for one in rates(arm)[:3])}."
    medians = [_median(one) for one in metrics if one.metric in SHOWN]
    said = tag("ul", join(tag("li", one) for one in [speed, *medians]))
    if arm.invalid_because:
        return _block(Verdict.INVALID, f"{arm.invalid_because}.", tag("p", fate), said)
    beware = tag("p", f"{arm.buffered}.") if arm.buffered else None
    return tag("div", tag("p", fate, class_="why"), beware, said, class_="verdict", id="results")


def _block(verdict: Verdict, reason: str, *rest: object) -> Html:
    word = tag("p", tag("strong", verdict.value), class_="word")
    return tag(
        "div",
        word,
        tag("p", reason, class_="why"),
        *rest,
        class_=f"verdict {verdict.value}",
        id="results",
    )


def _card(found: Judgement, arm: Replicates, names: Names) -> Html:
    verdict = standing(found, arm)
    word = tag("strong", f"{names[arm.name]}: {verdict.value}. ", class_=f"mark {verdict.value}")
    return tag("li", word, why(found, arm, names))


def standing(found: Judgement, arm: Replicates) -> Verdict:
    """The verdict on one candidate alone."""
    if any(run.invalid_because for run in (*found.baseline.runs, *arm.runs)):
        return Verdict.INVALID
    return conclude([row for row in found.rows if row.arm == arm.name], ())


def why(found: Judgement, arm: Replicates, names: Names) -> str:
    """One sentence: what decided it."""
    of_arm = [row for row in found.rows if row.arm == arm.name]
    rows = [row for row in of_arm if row.comparison.verdict is not Verdict.SKIPPED] or of_arm
    who, base = names[arm.name], names[found.baseline.name]
    verdict = standing(found, arm)
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
        near = _one(max(rows, key=_worse))
        return f"{who} {said} at {_count(rows)} (one-sided level 5 %); nearest to it: {near}."
    return f"These runs cannot tell whether {who} is worse than {base}: {_undecided(found, rows)}."


def _count(rows: Sequence[Row]) -> str:
    return "the one gate" if len(rows) == 1 else f"any of {len(rows)} gates"


def _named(rows: Sequence[Row]) -> str:
    """The gates that changed most for the worse, in words."""
    worst = sorted(rows, key=_worse, reverse=True)
    more = len(worst) - NAMED
    listed = "; ".join(_one(row) for row in worst[:NAMED])
    return listed + (f"; and {more} more" if more > 0 else "")


def _one(row: Row) -> str:
    if row.comparison.ratio is None and not interval(row):
        return f"{gate_label(row.gate)}, {row.reason or 'no interval'}"
    figures = " ".join(filter(None, [gate_label(row.gate), change(row), interval(row)]))
    return f"{figures}, {'margin' if row.gate.limit is None else 'limit'} {margin(row.gate)}"


def _worse(row: Row) -> float:
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


def _undecided(found: Judgement, rows: Sequence[Row]) -> str:
    """Each reason once, with the gates that it holds for."""
    texts = {caution.code: caution.text for caution in found.warnings}
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.comparison.verdict is Verdict.INCONCLUSIVE:
            reason = texts.get(row.reason or "", row.reason or "not decided")
            reasons.setdefault(reason, []).append(gate_label(row.gate))
    open_rows = sum(map(len, reasons.values()))
    return "; ".join(
        reason if len(gates) == len(rows) == open_rows else f"{', '.join(gates)}: {reason}"
        for reason, gates in reasons.items()
    )


def sentence(row: Comparison) -> str:
    """One row of a pair in plain words, with its interval and how far to trust it."""
    what = f"{words.title(row.metric)} {words.percentile(row.quantile)}"
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


def seen(found: Comparisons) -> str:
    """All findings of a pair in one sentence or two: failures first, then what is sure, then the rest.

    A candidate that fails by more than FAILS more of its requests is not called faster: its latencies are
    those of the requests that it did not fail.
    """
    errors = found.errors
    more = errors.difference if errors.low > 0 else 0.0
    rows = [row for row in found.rows if row.finding != "faster" or more <= FAILS]
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


def _median(one: Summary) -> str:
    half = next((quantile for quantile in one.quantiles if quantile.p == 0.5), None)
    if half is None or half.value is None:
        return f"{words.title(one.metric)}: no median ({one.n:,} values)."
    return f"{words.title(one.metric)}: median {words.amount(half.value, one.unit)}, n = {one.n:,}."
