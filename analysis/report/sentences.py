"""Sentences: what a pair of runs says, in words; the same in text, page, Markdown and workbook."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tbench.analysis import words
from tbench.analysis.arms import Arm
from tbench.analysis.comparison import (
    NO_DIFFERENCE,
    Comparison,
    Comparisons,
    EqualLengths,
    Verdict,
)
from tbench.analysis.run_metrics import OPEN_LOOP, SHARED_LOOP, TURNS_WAIT, footnote
from tbench.analysis.spending import Spending
from tbench.analysis.summary import Caution, refusal
from tbench.analysis.t_tests import RATE
from tbench.capture.terminal import named, plural
from tbench.replay.metrics import minimum_n
from tbench.replay.throughput import drained, shares_places, usd
from tbench.replay.totals import shortfalls

FAILS: Final = 0.05
"""A candidate that fails this share more of its requests is never called faster."""
NONE_SEEN: Final = "No difference of latency seen between the candidate and the baseline"
PAIR: Final = "This holds for these two runs; to decide, let runs of both take turns (tbench ab)."


def requests(comparison: Comparisons) -> str:
    """How many were compared: `500 requests, paired`, `500 and 480 requests`."""
    first, second = comparison.requests
    if comparison.paired:
        return f"{plural(first, 'request')}, paired"
    return f"{first:,} and {plural(second, 'request')}"


def cost(*sides: tuple[Arm, Spending]) -> str:
    """What the requests of one arm or of two cost in all, and what is not in it: once where both lack it."""
    lacks = [_not_in_it(spent) for _, spent in sides]
    texts = [
        "unknown" if lack and not spent.usd else usd(spent.usd)
        for (_, spent), lack in zip(sides, lacks, strict=True)
    ]
    warm = [
        (", without the warm-up" if arm.compared is None else ", of the compared requests")
        * bool(arm.warm)
        for arm, _ in sides
    ]
    last = warm[0]
    if len(set(warm)) > 1:
        lacks, last = [*map("".join, zip(lacks, warm, strict=True))], ""
    if len(set(lacks)) == 1:
        return " and ".join(texts) + lacks[0] + last
    return " and ".join(map("".join, zip(texts, lacks, strict=True))) + last


def _not_in_it(spent: Spending) -> str:
    """Behind a sum: what it lacks."""
    counts = (
        f"{plural(spent.uncounted, 'request')} without token counts" if spent.uncounted else None
    )
    why = "; ".join(dict.fromkeys(filter(None, [spent.refusal, counts])))
    least = " at least" * bool(spent.usd)
    return f"{least} ({why})" if why else ""


def fate(arm: Arm) -> str:
    """How many requests of a run succeeded, of those that count."""
    n, good = int(arm.measured.sum()), int((arm.ok & arm.measured).sum())
    text = f"{good:,} of {plural(n, 'request')} succeeded" if n else "no request was measured"
    return f"{text} (without {arm.warm:,} in the warm-up)" if arm.warm else text


def seen(comparison: Comparisons) -> str:
    """All findings of a pair in one sentence or two: failures first, then what is sure, then the rest.

    A candidate that fails by more than FAILS more of its requests is not called faster: its latencies are
    those of the requests that it did not fail.
    """
    errors = comparison.errors
    more = errors.difference if errors.low > 0 else 0.0
    rows = [row for row in comparison.rows if row.finding != "faster" or more <= FAILS]
    differences = _differences(rows, among=more > 0)
    # Of what was seen and is not told nobody says that it was not seen.
    if len(rows) < len(comparison.rows) and not any(row.differs for row in rows):
        differences = ""
    if errors.low <= 0 <= errors.high:
        return differences
    shares = f"{errors.candidate:.2%} of its requests, the baseline {errors.baseline:.2%}"
    failing = f"The candidate fails {'more' if errors.difference > 0 else 'fewer'}: {shares}"
    if errors.difference > FAILS:
        so = "the latencies of what is left are no evidence that it is faster"
    else:
        so = "latencies are of the successes only"
    return f"{failing}; {so}. {differences}".rstrip()


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


def discoveries(comparison: Comparisons) -> str:
    """Which differences stay when so many were looked at; empty where one or none was."""
    tried = [row for row in comparison.rows if row.q_value is not None]
    if len(tried) < 2:
        return ""
    different: dict[str, list[str]] = {}
    for row in tried:
        if (row.q_value or 0.0) <= RATE:
            different.setdefault(row.metric, []).append(words.percentile(row.quantile))
    which = "; ".join(f"{metric} {' '.join(at)}" for metric, at in different.items()) or "none"
    low = different and all(row.confidence == "low" for row in tried)
    left = sum(row.p_value is not None for row in comparison.rows) - len(tried)
    return (
        f"Of {len(tried)} quantiles compared{f' ({left} unreliable ones left out)' if left else ''}, "
        f"different at a false discovery rate of {RATE:.0%}: {which}{' (low confidence)' if low else ''}."
    )


def rates_notes(comparison: Comparisons) -> Iterator[str]:
    """What to know beside the rates of both arms."""
    arms = (comparison.baseline, comparison.candidate)
    if any(arm.open_loop for arm in arms):
        yield TURNS_WAIT if any(arm.paced_by_answers for arm in arms) else OPEN_LOOP
    if any(shares_places(arm.run) for arm in arms):
        yield SHARED_LOOP
    for arm in arms:
        if words := drained(arm.drain):
            yield f"{arm.name}: {words}"
    if missing := footnote(comparison.rates):
        yield missing


def thirds(comparison: Comparisons) -> str:
    """Where conditions drifted, the ratio in each third of the trace; empty where they did not."""
    drifting = {
        f"{row.metric} {words.percentile(row.quantile)}": row.thirds
        for row in comparison.rows
        if row.thirds
    }
    means = comparison.overall.items()
    drifting |= {f"{name} mean": overall.thirds for name, overall in means if overall.thirds}
    texts = [f"{name} {', '.join(map(words.ratio, ratios))}" for name, ratios in drifting.items()]
    return f"drift: the ratio in each third of the trace: {'; '.join(texts)}" if texts else ""


def equal_lengths(equal: EqualLengths) -> str:
    """What the table at equal lengths is of, or why there is none."""
    if equal.refusal:
        return f"E2E at equal output lengths: {equal.refusal}; tpot and e2e_per_token compare per token"
    return (
        f"E2E at equal output lengths (what length explains is taken out; {plural(equal.n, 'request')}, "
        f"{equal.overlap:.0%} as long in both arms)"
    )


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
    if _same(comparison) or not any(row.finding for row in rows):
        return "undecided"
    if not findings:
        return NO_DIFFERENCE
    return findings.pop() or "" if len(findings) == 1 else "mixed"


def _same(comparison: Comparisons) -> bool:
    return any(caution.code == "SAME_RUN" for caution in comparison.warnings)


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
    if _same(comparison):
        return f"both files are one {comparison.baseline.kind}: nothing can differ: {text}"
    low = all(row.confidence != "95%" for row in rows)
    if result == "undecided":
        left_out = any(caution.code == "SESSIONS_LEFT_OUT" for caution in comparison.warnings)
        if left_out:
            lacking = "large sessions leave no interval"
        elif all(row.refusal == refusal(0, row.quantile) for row in rows):
            lacking = "too few requests for an interval"
        else:
            lacking = f"no interval: {', '.join(dict.fromkeys(map(result_of, rows)))}"
        return f"{text} ({lacking})"
    return f"{text} (advisory{', low confidence' if low else ''})"


def models(arm: Arm, beside: Arm | None = None) -> str:
    """The models of an arm, without their vendors where that tells them from those of the arm beside it."""
    names = (arm.model or "no model named").split(", ")
    bare = [name.rsplit("/", 1)[-1] for name in names]
    others = (beside.model or "").split(", ") if beside else names
    alike = others != names and [name.rsplit("/", 1)[-1] for name in others] == bare
    return " + ".join(map(named, names if alike else bare))


def rough(row: Comparison) -> str:
    """The mark behind an interval that is approximate."""
    return "" if row.refusal or row.confidence == "95%" else " ~"


def result_of(row: Comparison) -> str:
    """The last column of a pair's row: the finding, or in a few words why there is no interval."""
    if row.refusal is None:
        return row.finding or "among the timeouts"
    if row.refusal == refusal(0, row.quantile):
        return f"n {min(row.n_baseline, row.n_candidate):,} < {minimum_n(row.quantile):,}"
    return "tail clustered in time" if "burst" in row.refusal else row.refusal


NAMED_ABOVE: Final = frozenset({"DIFFERENT_MODEL"})
"""Facts that the heading shows."""
CAVEATS: Final[Mapping[str, str]] = {
    "SAME_RUN": "one run",
    "INVALID_RUN": "invalid",
    "SURVIVOR_BIAS": "failures",
    "CUT_SHORT": "failures",
    "FAILURES_ROSE": "failures",
    "ERROR_MIX_DIFFERS": "errors",
    "REQUESTS_LOST": "lost",
    "DIFFERENT_PACING": "pacing",
    "LOAD_DIFFERS": "turns",
    "SENT_AGAIN": "rate limit",
    "CACHED_TOKENS_DIFFER": "cache",
    "OUTPUT_LENGTH_DIFFERS": "length",
    "FINISH_REASONS_DIFFER": "endings",
    "LOAD_DOMINATED": "load",
    "PARTIAL_OVERLAP": "overlap",
    "RECORDED_ARM": "recorded",
    "CLIENT_LAG_DIFFERS": "lag",
    "SLOW_DRIFT": "drift",
    "FEW_SESSIONS": "sessions",
    "LOW_CONFIDENCE": "sample",
    "EQUAL_LENGTHS_APPROXIMATE": "length",
    "BUFFERED_STREAM": "buffered",
    "TTFT_UNCERTAIN": "stamps",
    "STEPS": "steps",
    "SESSIONS_LEFT_OUT": "sessions",
    "BEYOND_MEMORY": "size",
}
"""A warning in a word, in the order of how far what it warns of could move a verdict."""
UNCUT: Final = frozenset(
    {
        *("INVALID_RUN", "ERROR_MIX_DIFFERS", "DIFFERENT_PACING"),
        *("FINISH_REASONS_DIFFER", "PARTIAL_OVERLAP", "BUFFERED_STREAM", "REQUESTS_LOST"),
    }
)
"""Those whose sentence needs all of its clauses, as it has one of each arm; of the others the first says what
matters."""


def label(code: str) -> str:
    """A warning in a word."""
    return CAVEATS.get(code, code.lower().replace("_", " "))


def caveats(comparison: Comparisons) -> list[tuple[str, str]]:
    """What to know before trusting a pair, a label and a line each, by how far it could move the verdict."""
    by_code = {caution.code: caution for caution in comparison.warnings if not caution.is_fact}
    ranks = {code: rank for rank, code in enumerate(CAVEATS)}
    codes = by_code.keys() - NAMED_ABOVE
    ranked = sorted(codes, key=lambda code: (ranks.get(code, len(ranks)), code))
    return [(label(code), _brief(by_code[code], comparison)) for code in ranked]


def _brief(caution: Caution, comparison: Comparisons) -> str:
    """A warning in one line, with the figures that tell how much it matters."""
    text = caution.text
    match caution.code, caution.figures:
        case "CLIENT_LAG_DIFFERS", {"quantile": level, "apart_s": apart}:
            lag = f"client lag differs by {words.amount(apart, 's')} at {words.percentile(level)}"
            moved = next(
                (
                    row.candidate - row.baseline
                    for row in comparison.rows
                    if (row.metric, row.quantile) == ("ttft", 0.5)
                    and row.candidate is not None
                    and row.baseline is not None
                ),
                None,
            )
            if not moved:
                return f"{lag}: so much of TTFT or E2E can be the client's"
            verdict = "cannot explain" if apart < abs(moved) / 2 else "may explain much of"
            return f"{lag}: {verdict} {words.amount(abs(moved), 's')} of TTFT p50"
        case "CACHED_TOKENS_DIFFER", {"baseline": first, "candidate": second}:
            cached = f"{first:.0%} vs {second:.0%} of prompt tokens came from the prefix cache"
            return f"{cached}: TTFT compares caches too (--cache structure)"
        case "LOW_CONFIDENCE", _:
            return f"{first_clause(caution)}: CIs are approximate (~)"
        case "SLOW_DRIFT", _:
            rows = ", ".join(
                words.quantity(row.metric, row.quantile)
                for row in shown_rows(comparison)
                if row.drift
            )
            where = f" at {rows}" if rows else ""
            return f"conditions may have drifted during a run: CIs too narrow{where} (~)"
    return text if caution.code not in CAVEATS else first_clause(caution)


def first_clause(caution: Caution) -> str:
    """What of a warning matters."""
    if caution.brief or caution.code in UNCUT:
        return caution.brief or caution.text
    return caution.text.split("; ", maxsplit=1)[0]


def flaws(arm: Arm) -> Iterator[str]:
    """What to beware of in the figures of a run that are not INVALID for it."""
    yield from filter(None, (arm.buffered, arm.loss))
    if arm.all_warm:
        yield "all that completed was warm-up, of which no figure is shown"
    yield from shortfalls(arm.run)
