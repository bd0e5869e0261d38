"""Sections: what the reports of a run, of a pair and of a judgement have in common, each once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from tbench.analysis import charts
from tbench.analysis.arms import Arm
from tbench.analysis.charts import Picture
from tbench.analysis.diagnostics import Fidelity, Slow, fidelity, slowest
from tbench.analysis.metrics import METRICS, values
from tbench.analysis.proportions import ErrorDifference, rates
from tbench.analysis.report import facts, tables, words
from tbench.analysis.report.figures import Part, part
from tbench.analysis.report.markup import Html, details, join, number, table, tag
from tbench.analysis.report.sides import Sides, places
from tbench.analysis.slo import Slo
from tbench.analysis.summary import Floats
from tbench.capture.terminal import plural
from tbench.replay.throughput import three

DRAWN = ("ttft", "e2e", "tpot", "itl")
Shifts = Mapping[str, Sequence[Picture | None]]
SLOWEST = 10
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


def throughput(sides: Sides, slo: Slo = ()) -> Part:
    """What each run did per second, warm-up left out."""
    runs = [(place.name, rates(place.arm, slo=slo)) for place in places(sides)]
    head = ["run", *(one.title for one in runs[0][1])]
    rows = [[name, *(number(one.value, one.text) for one in found)] for name, found in runs]
    caption = (
        "Successes per second of each run, from the first sent to the last end, without the warm-up"
    )
    if any(one.uncounted for _, found in runs for one in found):
        caption += "; ≥ where successes name no tokens"
    return part("Throughput", table(caption, head, rows))


def over_time(sides: Sides) -> Part:
    """What happened when, warm-up included."""
    first = {
        side: [(arm.offset_s, values(arm, METRICS["ttft"])) for arm in arms]
        for side, arms in sides.items()
    }
    stamps = {
        side: [(arm.columns["sent"], arm.columns["end"]) for arm in arms]
        for side, arms in sides.items()
    }
    return part(
        "Over time",
        pictures=[charts.over_time("TTFT", "s", first), charts.in_flight(stamps)],
        unfolded=True,
    )


def failures(sides: Sides, errors: ErrorDifference | None = None) -> Part:
    """How often requests failed, how, and in which words."""
    return part(
        "Failures",
        facts.difference(errors) if errors else None,
        facts.outcome_table(sides),
        facts.messages(sides),
        pictures=[facts.outcome_picture(sides)],
    )


def kept(sides: Sides) -> Part:
    """Whether requests left when they were due, and who took the times."""
    due = {
        side: [(arm.columns["due"], arm.columns["sent"]) for arm in arms if arm.open_loop]
        for side, arms in sides.items()
    }
    late = {side: runs if due[side] else [] for side, runs in _measured(sides, "lag").items()}
    return part(
        "Load accuracy: schedule against what was sent",
        _fidelity_table(sides),
        pictures=[
            charts.ecdf("schedule lag", "s", late),
            charts.arrivals(due),
        ],
    )


def _fidelity_table(sides: Sides) -> Html:
    head = [
        "run",
        "planned",
        "sent",
        "never sent",
        "scheduled/s",
        "sent/s",
        "within 10 ms",
        "lag p50",
        "lag p99",
    ]
    head += [
        "lag max",
        "stamps by",
        "coalesced",
        "TTFT uncertain",
        "loop late p99",
        "CPU of a core",
        "counts",
    ]
    rows = [[place.name, *_fidelity(fidelity(place.arm))] for place in places(sides)]
    return table(
        "What each run sent and when; schedule lag is sent - scheduled, none in a closed loop",
        head,
        rows,
    )


def _fidelity(one: Fidelity) -> Iterator[object]:
    yield from (f"{one.planned:,}", f"{one.sent:,}", f"{one.never_sent:,}")
    for rate in (one.due_per_s, one.sent_per_s):
        yield number(rate, "-" if rate is None else three(rate))
    yield number(one.on_time, "-" if one.on_time is None else f"{one.on_time:.1%}")
    lags = one.lag_p50, one.lag_p99, one.lag_max
    for lag in lags:
        yield number(lag, words.amount(lag, "s", beside=lags))
    yield one.clock
    yield number(one.coalesced, "-" if one.coalesced is None else f"{one.coalesced:.1%}")
    yield number(one.uncertain, f"{one.uncertain:,}")
    yield number(one.stall_p99, words.amount(one.stall_p99, "s"))
    yield number(one.cpu, "-" if one.cpu is None else f"{one.cpu:.0%}")
    yield f"INVALID: {one.invalid_because}" if one.invalid_because else "valid"


def slow(sides: Sides) -> Part:
    """The requests that took longest, and what leads to them in the server's logs."""
    return part("Slowest requests", *(_slow_tables(side, arms) for side, arms in sides.items()))


def _slow_tables(side: str, arms: Sequence[Arm]) -> Html:
    found = [(k, one) for k, arm in enumerate(arms, 1) for one in slowest(arm, SLOWEST)]
    found.sort(key=lambda pair: -pair[1].took_s)
    found = found[:SLOWEST]
    return join([_slow_table(side, arms, found), _words_of_server(side, found)])


def _slow_table(side: str, arms: Sequence[Arm], found: Sequence[tuple[int, Slow]]) -> Html | None:
    several = len(arms) > 1
    if not found:
        return None
    same = all(one.request_id == one.id for _, one in found)
    head = ["request", *(["run"] if several else []), "sent (UTC)", "at", "TTFT", "E2E"]
    head += ["tokens in", "tokens out", "outcome", *([] if same else ["the server's id"])]
    n = sum(int(arm.measured.sum()) for arm in arms)
    rows = [
        [tag("code", one.id), *([k] if several else []), *_slow(one), *([] if same else [_id(one)])]
        for k, one in found
    ]
    caption = f"The slowest {len(rows)} of {plural(n, 'request')} of {side}"
    return table(caption + (". The server's ids are the same" if same else ""), head, rows)


def _slow(one: Slow) -> Iterator[object]:
    moment = "-" if one.sent_wall_ns is None else _moment(one.sent_wall_ns)
    yield tag("span", moment, class_="whole")
    yield tag("span", f"{one.at_s:,.3f} s", class_="whole")
    yield number(one.ttft_s, words.amount(one.ttft_s, "s"))
    yield number(one.took_s, words.amount(one.took_s, "s"))
    for count in (one.prompt_tokens, one.output_tokens):
        yield "-" if count is None else f"{count:,}"
    yield one.outcome + (f" {one.status}" if one.status and one.outcome != "ok" else "")


def _id(one: Slow) -> Html | str:
    """The server's own id of an answer."""
    if one.request_id == one.id:
        return "the same"
    return tag("code", one.request_id) if one.request_id else "-"


def _words_of_server(side: str, found: Sequence[tuple[int, Slow]]) -> Html | None:
    """What else the heads of these answers say, where they say anything; once what all of them say."""
    heads = [(one.id, one.headers) for _, one in found if one.headers]
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


def _moment(wall_ns: int) -> str:
    """To the millisecond, as logs have it."""
    moment = datetime.fromtimestamp(wall_ns // 10**9, tz=UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{wall_ns // 10**6 % 1000:03d}"


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


def _measured(sides: Sides, metric: str) -> dict[str, list[Floats]]:
    """The values of each run that count."""
    return {side: [_values(arm, metric) for arm in arms] for side, arms in sides.items()}


def _values(arm: Arm, metric: str) -> Floats:
    return np.asarray(values(arm, METRICS[metric])[arm.measured])
