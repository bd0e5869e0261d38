"""Tables of a report, each made once: terminal, page, Markdown and workbook draw what they show of it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tbench.analysis import words
from tbench.analysis.comparison import Comparison, Comparisons, Verdict
from tbench.analysis.gate import ERRORS
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.metrics import METRICS
from tbench.analysis.report import facts, gate_sentences, sentences
from tbench.analysis.report.facts import Sides, places
from tbench.analysis.report.gate_sentences import Names
from tbench.analysis.report.markup import Html, html, join, number, table, tag
from tbench.analysis.run_metrics import Rate, Slo, endpoint, rates, ratio
from tbench.analysis.spending import TITLES, CostRatio, Spending, spending
from tbench.analysis.summary import Caution, Floats, Quantile, Summary, ordered, quantile
from tbench.analysis.summary import facts as plain_facts
from tbench.analysis.words import Cell, Table, count
from tbench.capture.terminal import plural
from tbench.replay import metrics
from tbench.replay.fidelity import Fidelity
from tbench.replay.throughput import drained, shares_places, three, usd


def cautions(warnings: Sequence[Caution]) -> Html:
    """Warnings as a list: the code for programs, the sentence for people; before it plain facts."""
    items = [
        tag("li", tag("span", caution.code, class_="code"), " ", caution.text)
        for caution in warnings
        if not caution.is_fact
    ]
    known = [tag("p", f"{fact}.") for fact in plain_facts(warnings)]
    return join([*known, tag("ul", join(items), class_="cautions") if items else html(None)])


def definitions(metrics: Iterable[str]) -> Html:
    """What each metric means."""
    rows = []
    for name in metrics:
        if metric := METRICS.get(name):
            better = f"{metric.better} is better"
            rows.append([metric.name, metric.unit, better, metric.definition])
    return table("Metrics", ["metric", "unit", "direction", "definition"], rows)


# A pair of runs.

SHORT: Final = ("metric", "quantile", "baseline", "candidate", "ratio", "95% CI", "result")
FULL: Final = (*SHORT[:2], "n", *SHORT[2:])
MORE: Final = ("confidence", "method", "warnings")
RATES: Final = ("requests_per_s", "output_tokens_per_s", "goodput")
"""Rates of the short table."""


def comparison_table(comparison: Comparisons, *, short: bool = False) -> Table:
    """Quantiles (all, or those of the short text), rates and failures, candidate against baseline."""
    rows = sentences.shown_rows(comparison) if short else comparison.rows
    cells: list[Sequence[Cell | str]] = [_compared(row) for row in rows]
    arms = (comparison.baseline, comparison.candidate)
    paced = "load set by the trace" if all(arm.open_loop for arm in arms) else ""
    if paced and any(arm.paced_by_answers for arm in arms):
        paced = "partly its own: turns waited"
    if any(shares_places(arm.run) for arm in arms):
        paced = "set by both arms"
    for pair in comparison.rates:
        if not short or pair[0].row.name in RATES:
            note = paced if pair[0].row.unit != "share" else ""
            title = pair[0].row.title.replace("tokens/s", "tok/s")
            quotient = _ratio(ratio(pair))
            cells.append([title, "", "", *map(_rate, pair), quotient, "", note, "", "", ""])
    for first, second, change in comparison.costs:
        if first.value is not None or second.value is not None:
            cells.append(_cost_row(first, second, change))
    errors = comparison.errors
    interval = words.change_interval(errors.low, errors.high, share=True)
    finding = "no difference seen"
    if not errors.low <= 0 <= errors.high:
        finding = "more" if errors.difference > 0 else "fewer"
    cells.append(
        [
            *("errors", "", count(errors.n_baseline, errors.n_candidate)),
            *(
                Cell(text=f"{share:.2%}", value=share, unit="share")
                for share in (errors.baseline, errors.candidate)
            ),
            Cell(text=words.points(errors.difference), value=errors.difference, unit="share"),
            Cell(text=interval, ends=(errors.low, errors.high), unit="share"),
            Cell(text=finding, tone="" if finding not in TONED else finding),
            *("", errors.method, ""),
        ]
    )
    caption = (
        "Candidate / baseline, by quantile; rates from the first sent to the last end (of a closed loop to "
        "when a place stayed empty); failures"
    )
    return words.table(caption, (*FULL, *MORE), cells)


def _cost_row(first: CostRatio, second: CostRatio, change: CostRatio) -> list[Cell | str]:
    """The cells of a cost: of the baseline, of the candidate, and what became of it."""
    low, high, refusal = change.interval
    interval, result = Cell(text=""), ""
    if refusal is None:
        interval = Cell(text=words.ratio_interval(low, high), ends=(low, high), unit="ratio")
        lower, higher = high is not None and high < 1, low is not None and low > 1
        result = "lower" if lower else "higher" if higher else "no difference seen"
    return [
        *(TITLES[first.name], "", "", _usd(first), _usd(second), _ratio(change.value), interval),
        Cell(text=result, tone=result if result in TONED else ""),
        *("" if refusal else "95%", refusal or "clusters of sessions", ""),
    ]


def _usd(cost: CostRatio) -> Cell:
    return Cell(text=words.amount(cost.value, "USD"), value=cost.value, unit="USD")


def _spent(spent: Spending) -> Cell:
    """A sum, which some requests may lack; unknown where it lacks all."""
    lacking = bool(spent.refusal or spent.uncounted)
    if lacking and not spent.usd:
        return Cell(text="unknown")
    marks = ("≥ " if lacking else "", "")
    return Cell(text=usd(spent.usd), value=spent.usd, marks=marks)


def cost_table(sides: Sides) -> Table | None:
    """What each run cost, warm-up left out; None where no price is known."""
    rows: list[list[Cell | str]] = []
    for place in places(sides):
        spent = spending(place.arm)
        row: list[Cell | str] = [place.name, _spent(spent)]
        for name in TITLES:
            cost = spent.ratios.get(name)
            low, high, refusal = cost.interval if cost else (None, None, "no sessions known")
            shown = refusal or words.dollars_interval(low, high)
            row += [_usd(cost) if cost else "-", Cell(text=shown, ends=(low, high), unit="USD")]
        if spent.known:
            rows.append(row)
    heads = ("run", "cost", *(head for title in TITLES.values() for head in (title, "95% CI")))
    caption = (
        "Cost of each run by its prices, without the warm-up; ≥ where some requests are not in it"
    )
    return words.table(caption, heads, rows) if rows else None


TONED: Final = frozenset({"faster", "slower", "higher", "lower", "more", "fewer"})
"""Results that have a colour."""


def equal_lengths_table(comparison: Comparisons) -> Table | None:
    """End to end with the output length taken out, no rows where it is refused; None where all are alike."""
    equal = comparison.equal_lengths
    if equal is None:
        return None
    # A ratio at equal lengths has no values of its own.
    heads = (*(head for head in FULL if head not in {"baseline", "candidate"}), *MORE)
    rows = map(_compared, equal.rows)
    return words.table(sentences.equal_lengths(equal), (*FULL, *MORE), rows).only(*heads)


HIT_RATES: Final = {
    "planned": "planned",
    "planned, least": "planned_least",
    "served": "served",
    "recorded": "recorded",
}
"""The rates of a run by the heads of their columns."""


def hit_rates_table(sides: Sides) -> Table:
    """The share of prompt tokens that a cache gave, by the number of the turn; of all runs of a side."""
    cells: list[list[Cell | str]] = []
    for side, arms in sides.items():
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for run in filter(None, (arm.run.totals.get("hit_rates") for arm in arms)):
            rows.setdefault("all", []).append(run)
            for row in run.get("turns") or ():
                rows.setdefault(str(row.get("turn")), []).append(row)
        for turn, runs in rows.items():
            weights = [row["prompt_tokens"] for row in runs]
            sums = (sum(row["requests"] for row in runs), sum(weights))
            cells.append([side, turn, *map(count, sums)])
            for name in HIT_RATES.values():
                shares = [share for row in runs if (share := row.get(name)) is not None]
                if len(shares) < len(runs) or not any(weights):
                    cells[-1].append("not known")
                    continue
                rate = float(np.average(shares, weights=weights))
                cells[-1].append(Cell(text=f"{rate:.1%}", value=rate, unit="share"))
    caption = (
        "Hit rate by turn of a conversation: of a perfect cache, the target's, and as recorded"
    )
    return words.table(caption, ("", "turn", "requests", "prompt tokens", *HIT_RATES), cells)


def _compared(row: Comparison) -> list[Cell | str]:
    """The cells of a quantile; without an interval its method is why there is none."""
    first, second = words.pair(row)
    interval = Cell(text="")
    if not row.refusal:
        shown = words.ratio_interval(row.low, row.high)
        interval = Cell(
            text=shown, ends=(row.low, row.high), unit="ratio", marks=("", sentences.rough(row))
        )
    result = sentences.result_of(row)
    return [
        *(words.title(row.metric), words.percentile(row.quantile)),
        count(row.n_baseline, row.n_candidate),
        Cell(text=first, value=row.baseline, unit=row.unit),
        Cell(text=second, value=row.candidate, unit=row.unit),
        *(_ratio(row.ratio), interval),
        Cell(text=result, tone=result if result in TONED else ""),
        "" if row.refusal else "drift" if row.drift else row.confidence,
        row.refusal or row.method,
        " ".join(caution.code for caution in row.warnings),
    ]


def _ratio(value: float | None) -> Cell:
    return Cell(text=words.ratio(value), value=value, unit="ratio")


def _rate(rate: Rate) -> Cell:
    least = "≥ " if rate.text.startswith("≥ ") else ""
    text = rate.text.removeprefix(least)
    return Cell(text=text, value=rate.value, unit=rate.row.unit, marks=(least, ""))


def overall_table(comparison: Comparisons) -> Table:
    """The typical request's ratio of each metric, and what its requests are worth in independent ones."""
    rows: list[list[Cell | str]] = []
    for name, overall in comparison.overall.items():
        mean, interval, confidence = overall.geometric, Cell(text=""), str(overall.confidence)
        if mean is not None and not mean.refusal:
            shown = words.ratio_interval(mean.low, mean.high)
            interval = Cell(text=shown, ends=(mean.low, mean.high), unit="ratio")
        if mean is not None and mean.drift:
            confidence = "drift"
        n_eff = overall.effective.n_eff
        sizes = (count(overall.effective.n), Cell(text=f"{n_eff:,.0f}", value=n_eff, unit="n"))
        ratio_of = _ratio(mean.ratio if mean else None)
        rows.append([words.title(name), *sizes, ratio_of, interval, confidence])
    heads = ("overall", "n", "n_eff", "geometric mean ratio", "95% CI", "confidence")
    return words.table(
        "The ratio of the typical request, and its effective sample size", heads, rows
    )


# Single runs, or traces.

QUANTILES: Final = (
    "Quantiles of each run, with their intervals (nominal 95%, requests taken as independent). "
    "* few values: a hint, without an interval"
)


def summary_table(runs: Mapping[str, Sequence[Summary]]) -> Table:
    """The metrics of runs with their quantiles, each row in the unit that suits its mean."""
    every = [point for of_run in runs.values() for row in of_run for point in row.quantiles]
    points = sorted({point.p for point in every if point.p <= words.USUAL or not point.refusal})
    rows: list[list[Cell | str]] = []
    for run, summaries in runs.items():
        for row in summaries:
            unit, factor = words.scale(row.mean or 0.0, row.unit)
            written = "ms" if row.unit == "s" else row.unit  # as a workbook has it
            late = f"\n{row.timeouts:,} timed out" if row.timeouts else ""
            name = Cell(text=row.metric, below=Cell(text=f"{unit}, n {row.n:,}{late}"))
            by_p = {point.p: point for point in row.quantiles}
            mean, most = (
                Cell(
                    text="-" if value is None else three(value * factor), value=value, unit=row.unit
                )
                for value in (row.mean, row.maximum)
            )
            # A metric may lack a rare quantile that another has enough values for: a dash.
            quantiles = (_quantile(by_p.get(p), row.unit, factor) for p in points)
            counts = (count(row.n), count(row.timeouts))
            rows.append([run, name, written, *counts, mean, *quantiles, most])
    heads = (
        "run",
        "metric",
        "unit",
        "n",
        "timed out",
        "mean",
        *map(words.percentile, points),
        "max",
    )
    return words.table(QUANTILES, heads, rows)


def shown_quantiles(made: Table) -> list[str]:
    """The columns that people read: unit, n and timeouts stand below the name of a metric."""
    return [head for head in made.heads if head not in {"run", "unit", "n", "timed out"}]


def _quantile(point: Quantile | None, unit: str, factor: float) -> Cell:
    if point is None:
        return Cell(text="-")
    # Beyond a wait that timed out: a number as well, in whichever unit it is shown.
    hidden = point.value is None and point.at_least is not None
    value = point.at_least if hidden else point.value
    text = "-" if value is None else three(value * factor)
    ends = (point.low, point.high)
    shown = words.interval(*(None if end is None else end * factor for end in ends))
    below, mark = Cell(text=shown, ends=ends, unit=unit), ""
    if point.refusal:  # a mark, and how many values it needs in the interval's place
        below, mark = Cell(text=f"needs ≥ {metrics.minimum_n(point.p):,}"), "*"
    return Cell(
        text=text, value=value, unit=unit, marks=("> " if hidden else "", mark), below=below
    )


def throughput_table(sides: Sides, slo: Slo = ()) -> Table:
    """What each run did per second, warm-up left out."""
    runs = [(place.name, rates(place.arm, slo=slo)) for place in places(sides)]
    caption = (
        "Successes per second of each run, from the first sent to the last end, without the warm-up"
    )
    if any(rate.uncounted for _, every in runs for rate in every):
        caption += "; ≥ where successes name no tokens"
    for place in places(sides):
        if outside := drained(place.arm.drain):
            caption += f"; {place.name}: {outside}"
    rows: list[list[Cell | str]] = [[name, *map(_rate, every)] for name, every in runs]
    return words.table(caption, ("run", *(rate.row.title for rate in runs[0][1])), rows)


def outcome_table(sides: Sides) -> Table:
    """Each run's failures by kind."""
    order = places(sides)
    counts = [facts.kinds(place.arm) for place in order]
    names = sorted({kind for kinds in counts for kind in kinds})
    rows: list[list[Cell | str]] = []
    for place, kinds in zip(order, counts, strict=True):
        arm, share = place.arm, facts.failed_share(place.arm)
        fates = (arm.measured, arm.ok & arm.measured, arm.failed & arm.measured)
        sizes = (count(int(which.sum())) for which in fates)
        rows.append(
            [place.name, *sizes, _share(share, 2), *(count(kinds.get(name, 0)) for name in names)]
        )
    heads = ("run", "requests", "succeeded", "failed", "share failed", *names)
    return words.table("Requests by what became of them; without the warm-up", heads, rows)


def accuracy_table(sides: Sides) -> Table:
    """Whether each run left as planned, warm-up included, and who took the times.

    Schedule lag is over all requests that were due; rates are from the first to the last.
    """
    rows: list[list[Cell | str]] = []
    for place in places(sides):
        arm, columns, totals = place.arm, place.arm.columns, place.arm.run.totals
        late = ordered(metrics.lag(columns))
        lags: list[float | None] = [None] * 3
        if len(late):
            lags = [quantile(late, 0.5), quantile(late, 0.99), float(late[-1])]
        stall = (totals.get("loop_stall_s") or {}).get("p99")
        rows.append(
            [
                place.name,
                count(int(totals.get("planned") or len(arm))),
                count(int((~np.isnan(columns["sent"])).sum())),
                count(int(totals.get("never_sent") or 0)),
                *(_per_s(columns[stamp]) for stamp in ("due", "sent")),
                _share(float((late <= ON_TIME_S).mean()) if len(late) else None, 1),
                *(
                    Cell(text=words.amount(lag, "s", beside=lags), value=lag, unit="s")
                    for lag in lags
                ),
                str(totals.get("clock") or arm.run.header.get("clock") or "unknown"),
                _share(totals.get("coalesced_share"), 1),
                count(arm.uncertain),
                Cell(text=words.amount(stall, "s"), value=stall, unit="s"),
                _share((totals.get("client") or {}).get("cpu_share"), 0),
                f"INVALID: {arm.invalid_because}" if arm.invalid_because else "valid",
            ]
        )
    caption = (
        "What each run sent and when, failures and warm-up included; schedule lag is sent - scheduled, none "
        "in a closed loop"
    )
    return words.table(caption, ACCURACY, rows)


def fidelity_table(made: Fidelity) -> Table:
    """The traffic as recorded, as due and as replayed; bursts over windows in seconds of the trace."""
    rows: list[list[Cell | str]] = []
    for row in made.rows:
        values = (row.recorded, row.intended, row.replayed)
        cells = (
            count(int(value))
            if row.unit == "n" and value is not None
            else Cell(
                text=words.figure(value, row.unit, values).strip(), value=value, unit=row.unit
            )
            for value in values
        )
        rows.append([row.name, count(row.n), *cells])
    windows = ""
    if made.speed not in {None, 1.0}:
        windows = (
            f"; windows and gaps in seconds of the trace, {made.speed:.4g} for each of the replay"
        )
    caption = (
        f"Of the same {plural(made.requests, 'request')}, answers of the first {made.answers:,}{windows}; "
        "recorded latencies were measured by the capture, another client in another place"
    )
    return words.table(caption, ("figure", "n", "recorded", "intended", "replayed"), rows)


ACCURACY: Final = (
    *("run", "planned", "sent", "never sent", "scheduled/s", "sent/s", "within 10 ms"),
    *("lag p50", "lag p99", "lag max", "stamps by", "coalesced", "TTFT uncertain"),
    *("loop late p99", "CPU of a core", "counts"),
)
ON_TIME_S: Final = 0.010


def _share(value: float | None, digits: int) -> Cell:
    return Cell(text="-" if value is None else f"{value:.{digits}%}", value=value, unit="share")


def _per_s(stamps: Floats) -> Cell:
    """Events per second from the first to the last; none of fewer than two."""
    known = stamps[~np.isnan(stamps)]
    span = float(np.ptp(known)) if len(known) else 0.0
    rate = (len(known) - 1) / span if span > 0 else None
    return Cell(text="-" if rate is None else three(rate), value=rate, unit="/s")


# Repeated runs held against gates: what was judged, each run's figures, and the pictures of both.

NOT_TESTABLE: Final = "not testable"


def verdict_word(verdict: Verdict) -> str:
    """A gate's verdict where people read it."""
    return NOT_TESTABLE if verdict is Verdict.SKIPPED else verdict.value


GATED: Final = ("gate", "baseline", "candidate", "change", "90% CI", "margin", "result")


GATES: Final = (
    "What was gated. Quantiles and rates are geometric means over an arm's runs, shares plain means; a "
    "change is candidate / baseline{}, of shares candidate - baseline, with its 90% interval, each "
    "end the one-sided 95% bound; where the candidate must hold a limit the interval is of its own figure"
)
"""The caption of a table of gates; people read a change less 1, a workbook has the ratio."""


def gate_table(results: GateResults, names: Names, arm: str | None = None) -> Table:
    """Every gate (of one candidate) with its figures, its verdict, and why it is not decided."""
    rows = [row for row in results.rows if arm in {None, row.arm}]
    heads = (*GATED, "arm", "n", "reason", "method", "reason and method")
    caption = GATES.format(" - 1")
    return words.table(caption, heads, (_gate(row, names) for row in rows))


def _gate(row: GateRow, names: Names) -> Iterator[Cell | str]:
    judged, gate = row.comparison, row.gate
    first, second = gate_sentences.sides(row)
    scale = {"ratio": "ratio", "points": "share", "level": judged.unit}[gate.scale]
    change = None if gate.scale == "level" else judged.ratio
    ends = (judged.low, judged.high) if gate_sentences.ends(row) else None
    yield gate_sentences.gate_label(gate)
    yield Cell(text=first, value=judged.baseline, unit=judged.unit)
    yield Cell(text=second, value=judged.candidate, unit=judged.unit)
    yield Cell(text=gate_sentences.change_cell(row), value=change, unit=scale)
    yield Cell(text=gate_sentences.interval_cell(row), ends=ends, unit=scale)
    if gate.limit is None:
        yield Cell(text=gate_sentences.margin(gate), value=gate.margin, unit="share")
    else:
        yield Cell(text=gate_sentences.margin(gate), value=gate.limit, unit=judged.unit)
    yield Cell(text=verdict_word(judged.verdict), tone=judged.verdict.value)
    yield names[row.arm]
    yield count(judged.n_baseline, judged.n_candidate)
    reason = gate_sentences.reason(row)
    method = "" if judged.method == "refused" else judged.method  # the reason says so
    yield from (reason, judged.method, ". ".join(filter(None, [reason, method])))


def figures_table(results: GateResults, names: Names, sides: Sides) -> Html:
    """Each run's figure of each gated quantity, as the interval is made of them."""
    figures = run_figures(results, names)
    head = ["run", "of all", *(quantity(metric, p) for metric, p in figures)]
    rows = []
    for place in places(sides):
        cells = []
        for (metric, p), by_side in figures.items():
            runs = by_side.get(place.side)
            value = math.nan if runs is None else runs[place.number - 1]
            column = [figure for of_side in by_side.values() for figure in of_side]
            shown = words.figure(value, endpoint(metric, p).unit, beside=column)
            cells.append(number(value if math.isfinite(value) else None, shown))
        rows.append([place.name, place.order, *cells])
    return table("Figures of each run, in the order in which they began", head, rows)


def run_figures(
    results: GateResults, names: Names
) -> dict[tuple[str, float | None], dict[str, tuple[float, ...]]]:
    """Of each gated quantity the figure of every run, by arm, in the order in which they began."""
    figures: dict[tuple[str, float | None], dict[str, tuple[float, ...]]] = {}
    baseline = names[results.baseline.name]
    for row in results.rows:
        quantity = row.gate.metric, row.gate.quantile
        figures.setdefault(quantity, {baseline: row.baseline_runs})
        figures[quantity][names[row.arm]] = row.candidate_runs
    return figures


def quantity(metric: str, p: float | None) -> str:
    """What a gate looks at, as a heading."""
    if p is None:
        return "Error rate" if metric == ERRORS else metric.replace("_", " ").capitalize()
    return words.quantity(metric, p)
