"""Verdicts: what is read in the first five seconds. One big word, one sentence why, then the rest."""

from collections.abc import Sequence

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Comparisons, Verdict
from tbench.analysis.gate_results import GateResults
from tbench.analysis.proportions import rates
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import tables, words
from tbench.analysis.report.markup import Html, join, tag
from tbench.analysis.report.sentences import (
    PAIR,
    Names,
    left_open,
    seen,
    sentence,
    standing,
    to_decide,
    why,
)
from tbench.analysis.summary import Summary

HEADLINES = (("ttft", 0.5), ("ttft", 0.95), ("e2e", 0.5), ("e2e", 0.95), ("tpot", 0.5))
SHOWN = ("ttft", "e2e", "tpot")


def judgement_verdict(found: GateResults, names: Names) -> Html:
    """The verdict over all, a sentence for each candidate, and what to beware of."""
    cards = [_card(found, arm, names) for arm in found.candidates]
    lines = [*to_decide(found, names), *filter(None, [left_open(found)])]
    rest = join(tag("p", f"{line[0].upper()}{line[1:]}.") for line in lines)
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


def _card(found: GateResults, arm: Replicates, names: Names) -> Html:
    verdict = standing(found, arm)
    word = tag("strong", f"{names[arm.name]}: {verdict.value}. ", class_=f"mark {verdict.value}")
    return tag("li", word, why(found, arm, names))


def _median(one: Summary) -> str:
    half = next((quantile for quantile in one.quantiles if quantile.p == 0.5), None)
    if half is None or half.value is None:
        return f"{words.title(one.metric)}: no median ({one.n:,} values)."
    return f"{words.title(one.metric)}: median {words.amount(half.value, one.unit)}, n = {one.n:,}."
