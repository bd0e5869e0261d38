"""Sections: what the reports of a run, of a pair and of a judgement have in common, each once."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Final

import numpy as np

from tbench.analysis import charts, words
from tbench.analysis.arms import Arm
from tbench.analysis.charts import Picture
from tbench.analysis.gate import ERRORS
from tbench.analysis.gate_results import GateResults
from tbench.analysis.metrics import METRICS, values
from tbench.analysis.report import facts, gate_sentences, tables
from tbench.analysis.report.facts import Sides, Slow, places, slowest
from tbench.analysis.report.figures import Part, part
from tbench.analysis.report.gate_sentences import Names
from tbench.analysis.report.markup import Html, details, drawn, join, number, table, tag
from tbench.analysis.run_metrics import Slo, endpoint
from tbench.analysis.summary import Floats
from tbench.capture.terminal import plural
from tbench.replay.closing import probed
from tbench.replay.fidelity import ARRIVALS

DRAWN: Final = ("ttft", "e2e", "tpot", "itl")
Shifts = Mapping[str, Sequence[Picture | None]]
PHONE: Final = frozenset({"figure", "recorded", "replayed"})
"""What a narrow screen shows of the table of fidelity."""
SLOWEST: Final = 10
"""So many of each side are listed."""


def distributions(
    sides: Sides, metrics: Sequence[str], shifts: Shifts | None = None
) -> Iterator[Part]:
    """How the first two metrics are spread; folded, the others, and how quantiles shifted, by metric."""
    first = [_spread(sides, name) for name in metrics[:2]]
    yield part("Distributions", pictures=first, unfolded=True)
    shifted = (picture for name in metrics for picture in (shifts or {}).get(name, ()))
    others = [_spread(sides, name) for name in metrics[2:]]
    title = "Ratio by quantile, and more distributions" if shifts else "More distributions"
    yield part(title, pictures=[*shifted, *others])


def _spread(sides: Sides, metric: str) -> Picture | None:
    return charts.ecdf(words.title(metric), METRICS[metric].unit, _measured(sides, metric))


def _measured(sides: Sides, metric: str) -> dict[str, list[Floats]]:
    """The values of each run that count."""
    row = METRICS[metric]
    return {
        side: [np.asarray(values(arm, row)[arm.measured]) for arm in arms]
        for side, arms in sides.items()
    }


def throughput(sides: Sides, slo: Slo = ()) -> Part:
    """What each run did per second, and what that cost, warm-up left out."""
    cost = tables.cost_table(sides)
    made = [drawn(tables.throughput_table(sides, slo)), *([drawn(cost)] if cost else [])]
    return part("Throughput", *made)


def over_time(sides: Sides) -> Part:
    """What happened when, warm-up included."""
    first = {
        side: [(arm.offset_s, values(arm, METRICS["ttft"])) for arm in arms]
        for side, arms in sides.items()
    }
    # As the figures beside it leave them out, n here would seem to contradict n there.
    alone = len([*chain.from_iterable(sides.values())]) == 1
    where = "in the warm-up" if alone else "in the warm-up, or not in every run"
    left_out, late_left_out = (
        f"{cold:,} of them {where}" if cold else ""
        for cold in (
            sum(
                int((which(ttft) & ~arm.measured).sum())
                for side, arms in sides.items()
                for arm, (_, ttft) in zip(arms, first[side], strict=True)
            )
            for which in (np.isfinite, np.isposinf)
        )
    )
    stamps = {
        side: [(arm.columns["sent"], arm.columns["end"]) for arm in arms]
        for side, arms in sides.items()
    }
    stamps |= {
        name: runs for name, runs in recorded(sides).items() if np.isfinite(runs[0][1]).any()
    }
    return part(
        "Over time",
        pictures=[
            charts.over_time("TTFT", "s", first, left_out=left_out, late_left_out=late_left_out),
            charts.in_flight(stamps),
        ],
        unfolded=True,
    )


def failures(sides: Sides) -> Part:
    """How often requests failed, how, and in which words."""
    order = places(sides)
    shares = {place.name: facts.failed_shares(place.arm) for place in order}
    made = drawn(tables.outcome_table(sides))
    if not any(facts.kinds(place.arm) for place in order):
        n = sum(int(place.arm.measured.sum()) for place in order)
        made = tag("p", f"None of {plural(n, 'request')} failed.")
    return part("Failures", made, facts.messages(sides), pictures=[charts.failures(shares)])


def caches(sides: Sides) -> Part:
    """What caches of prefixes gave, beside what they could give and gave when the traffic was recorded."""
    made = tables.hit_rates_table(sides)
    told = [
        tag("p", join([tag("b", place.name), ": ", words]))
        for place in places(sides)
        if (words := probed(place.arm.run))
    ]
    return part("Prefix caches", join([drawn(made) if made.rows else "", *told]))


def fidelity(sides: Sides) -> Part:
    """What each run preserved of its trace, whether requests left when due, and who took the times."""
    runs = [place for place in places(sides) if place.arm.kind == "run"]
    sentences = [
        join([tag("b", place.name), ": ", place.arm.run.fidelity.sentence]) for place in runs
    ]
    figures = []
    for side, arms in sides.items():
        if arms and arms[0].kind == "run":
            made = drawn(tables.fidelity_table(arms[0].run.fidelity), phone=PHONE)
            which = f"{side}: recorded and replayed" + (", the first run" if len(arms) > 1 else "")
            figures.append(made if len(sides) == 1 else details(which, made))
    due = {
        side: [(arm.columns["due"], arm.columns["sent"]) for arm in arms if arm.open_loop]
        for side, arms in sides.items()
    }
    late = {side: runs if due[side] else [] for side, runs in _measured(sides, "lag").items()}
    return part(
        "Fidelity: what the replay preserved",
        tag("ul", join(tag("li", sentence) for sentence in sentences)) if runs else None,
        *figures,
        drawn(tables.accuracy_table(sides)),
        pictures=[charts.ecdf("schedule lag", "s", late), charts.arrivals(due, recorded(sides))],
    )


def recorded(sides: Sides) -> dict[str, list[tuple[Floats, Floats]]]:
    """Recorded arrivals and ends, seconds of the replay; nothing where the runs are not of one speed."""
    made = [arm.run.fidelity for arms in sides.values() for arm in arms if arm.kind == "run"]
    speeds = {each.speed for each in made}
    if len(speeds) != 1 or None in speeds:
        return {}
    stamps = max((each.recorded_s for each in made), key=lambda pair: len(pair[0]))
    n = len(stamps[0])
    first = f" (the first {n:,})" if n == ARRIVALS else ""
    return {f"recorded{first}": [stamps]} if n else {}


def slow(sides: Sides) -> Part:
    """The requests that took longest, and what leads to them in the server's logs."""
    return part("Slowest requests", *(_slow_tables(side, arms) for side, arms in sides.items()))


def _slow_tables(side: str, arms: Sequence[Arm]) -> Html:
    """The slowest of all runs of a side; the number of the run is told where there are several."""
    ranked = [(k, slow) for k, arm in enumerate(arms, 1) for slow in slowest(arm, SLOWEST)]
    ranked.sort(key=lambda pair: -pair[1].took_s)
    ranked = ranked[:SLOWEST]
    if not ranked:
        return join([])
    several, same = len(arms) > 1, all(slow.request_id == slow.id for _, slow in ranked)
    head = ["request", *(["run"] if several else []), "sent (UTC)", "at", "TTFT", "E2E"]
    head += ["tokens in", "tokens out", "outcome", *([] if same else ["the server's id"])]
    rows: list[list[object]] = []
    for k, slow in ranked:
        moment, wall_ns = "-", slow.sent_wall_ns
        if wall_ns is not None:  # to the millisecond, as logs have it
            second = datetime.fromtimestamp(wall_ns // 10**9, tz=UTC)
            moment = f"{second:%Y-%m-%d %H:%M:%S}.{wall_ns // 10**6 % 1000:03d}"
        failed = slow.status and slow.outcome != "ok"
        rows.append(
            [
                *(tag("code", slow.id), *([k] if several else [])),
                tag("span", moment, class_="whole"),
                tag("span", f"{slow.at_s:,.3f} s", class_="whole"),
                *(number(s, words.amount(s, "s")) for s in (slow.ttft_s, slow.took_s)),
                *("-" if n is None else f"{n:,}" for n in (slow.prompt_tokens, slow.output_tokens)),
                slow.outcome + (f" {slow.status}" if failed else ""),
            ]
        )
        if not same:
            of_server = tag("code", slow.request_id) if slow.request_id else "-"
            rows[-1].append("the same" if slow.request_id == slow.id else of_server)
    n = sum(int(arm.measured.sum()) for arm in arms)
    caption = f"The slowest {len(rows)} of {plural(n, 'request')} of {side}"
    caption += ". The server's ids are the same" if same else ""
    return join([table(caption, head, rows), _server_headers(side, [slow for _, slow in ranked])])


def _server_headers(side: str, slow: Sequence[Slow]) -> Html | None:
    """What else the heads of these answers say, where they say anything; once what all of them say."""
    heads = [(request.id, request.headers) for request in slow if request.headers]
    if not heads:
        return None
    every = [pair for pair in heads[0][1] if all(pair in headers for _, headers in heads)]
    alike = every if len(heads) > 1 else []
    rows = [
        [tag("code", name), _headers(pair for pair in headers if pair not in alike)]
        for name, headers in heads
    ]
    caption = f"What the server's headers said of these requests of {side}"
    return details(
        caption,
        tag("p", f"In all of them: {_headers(alike)}") if alike else None,
        table(caption, ["request", "headers"], rows) if any(text for _, text in rows) else None,
    )


def _headers(pairs: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in pairs)


# Repeated runs held against gates.


def forests(results: GateResults, names: Names) -> list[Picture | None]:
    """The ratios in one picture, the differences of shares in another; a limit has no change to draw.

    Gates of one name differ in their margin, which is then in their label.
    """
    several = len(results.candidates) > 1
    labels = [
        " ".join([*([names[row.arm]] if several else []), gate_sentences.gate_label(row.gate)])
        for row in results.rows
    ]
    bars: dict[str, list[charts.Bar]] = {"ratio": [], "points": [], "level": []}
    for row, label in zip(results.rows, labels, strict=True):
        alone = labels.count(label) == 1
        text = label if alone else f"{label}, {gate_sentences.margin(row.gate)}"
        judged, gate, bare = row.comparison, row.gate, not gate_sentences.interval(row)
        edge = gate.shown(-gate.threshold if gate.higher else gate.threshold)
        bar = charts.Bar(
            label=text,
            value=judged.ratio,
            low=judged.low,
            high=judged.high,
            said=tables.verdict_word(judged.verdict),
            passes=(edge, None) if gate.higher else (None, edge),
            decides=None if bare else row.bound,
            share=gate.scale == "points",
            bare=bare,
        )
        bars[gate.scale].append(bar)
    shares = {row.gate.metric for row in results.rows if row.gate.scale == "points"}
    title = "Change of the error rate" if shares == {ERRORS} else "Change of shares"
    return [
        charts.forest("Change of each gated quantity", bars["ratio"]) if bars["ratio"] else None,
        charts.forest(title, bars["points"]) if bars["points"] else None,
    ]


def run_dots(results: GateResults, names: Names, sides: Sides) -> Iterator[Picture | None]:
    """A picture for each gated quantity: every run's figure, in the order in which they began."""
    means: dict[tuple[str, float | None, str], float] = {}
    for row in results.rows:
        for arm, mean in (
            (results.baseline.name, row.comparison.baseline),
            (row.arm, row.comparison.candidate),
        ):
            known = math.nan if mean is None else mean
            means[row.gate.metric, row.gate.quantile, names[arm]] = known
    order = places(sides)
    for (metric, p), by_side in tables.run_figures(results, names).items():
        runs = [
            charts.Dot(place.side, place.order, place.name, by_side[place.side][place.number - 1])
            for place in order
            if place.side in by_side
        ]
        centres = {side: means[metric, p, side] for side in by_side}
        yield charts.dots(tables.quantity(metric, p), endpoint(metric, p).unit, runs, centres)


def method(metrics: Iterable[str], *paragraphs: str) -> Part:
    """How the numbers were made, in words, and what each metric means."""
    return part("Method", *(tag("p", text) for text in paragraphs), tables.definitions(metrics))


def differing(sides: Sides) -> Part:
    """What was not the same on all sides."""
    return part("What differs between the runs", facts.differences(sides))


def environment(sides: Sides) -> Part:
    """What each arm is, which runs there are, and how they were made."""
    return part(
        "Runs and environment",
        facts.runs_table(sides),
        facts.sides_table(sides),
        facts.facts_tables(sides),
        facts.commands_table(sides),
    )


def made_by(command: str | None) -> Part:
    """The command line that makes this report again."""
    return part("Command", tag("pre", tag("code", command), tabindex="0") if command else None)


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
