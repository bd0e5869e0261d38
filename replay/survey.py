"""A first look at a trace: how much would be sent, how fast, how many at once, at what price."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tbench.capture.exchange import Exchange
from tbench.capture.providers import Usage, parse_recorded
from tbench.replay.cost import Bill, expected
from tbench.replay.pacing import Occupancy, Stretches
from tbench.replay.plan import Plan, Planned
from tbench.replay.target import Target


@dataclass(kw_only=True)
class Survey:
    """What one round of a plan holds.

    `span_s` is from its first to its last arrival, `busy_s` the sum of the recorded latencies.
    `in_flight` is the recorded mean concurrency of each second; `unended` requests have no recorded end
    and are not in it. `hosts` counts where requests were recorded. `models`, `unchanged` and `masked` (as
    those of the target) and `bill` are filled only where tokens were asked for.
    """

    requests: int = 0
    span_s: float = 0.0
    busy_s: float = 0.0
    unended: int = 0
    in_flight: Stretches = field(default_factory=Stretches)
    skipped: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    bill: Bill = field(default_factory=Bill)


def survey(plan: Plan, target: Target | None = None) -> Survey:
    """Read one round of the plan; with a target, count the tokens and their price as well."""
    totals = Survey()
    occupancy = Occupancy()
    once = replace(plan, rounds=1)
    for planned in once:
        totals.requests += 1
        totals.span_s = planned.offset
        _occupy(planned, occupancy, totals)
        if target is not None:
            model = target.asked(planned).model
            totals.models[model or "(no model)"] += 1
            totals.bill.add(model, expected_usage(planned))
            if reason := target.unchanged_because(planned):
                totals.unchanged[reason] += 1
            totals.masked.update(target.masked_in(planned))
    totals.in_flight = occupancy.means()
    totals.skipped, totals.hosts = Counter(once.skipped), Counter(once.hosts)
    return totals


def _occupy(planned: Planned, occupancy: Occupancy, totals: Survey) -> None:
    exchange = planned.exchange
    if exchange.response is None:
        totals.unended += 1
        return
    took = max(0, exchange.response.end_ns - exchange.request.arrive_ns) / 1e9
    totals.busy_s += took
    occupancy.add(planned.offset, planned.offset + took)


def expected_usage(planned: Planned) -> Usage:
    """The tokens to expect of a request: the recorded ones, else what can be told from the request."""
    return expected(recorded_usage(planned.exchange), planned.info.max_tokens)


def recorded_usage(exchange: Exchange) -> Usage:
    """What the server counted when the exchange was captured; of a synthesised one, what was counted then."""
    response = exchange.response
    if response is None:
        made = exchange.request.extra.get("prompt_tokens")
        return Usage(prompt=made if isinstance(made, int) else None)
    if not response.body or response.status is None:
        return Usage()
    return parse_recorded(response).usage


@dataclass(frozen=True, kw_only=True)
class Rates:
    """An open schedule in numbers: seconds from the first to the last due time, requests per second."""

    requests: int
    duration_s: float
    mean: float | None
    peak: int


def rates(dues: Iterable[float]) -> Rates:
    """Count a schedule, which never decreases; the peak is over whole seconds."""
    total = peak = before = second = 0
    last = 0.0
    for last in dues:
        if int(last) != second:
            before, second = total, int(last)
        total += 1
        peak = max(peak, total - before)
    mean = (total - 1) / last if total > 1 and last > 0 else None
    return Rates(requests=total, duration_s=last, mean=mean, peak=peak)


def as_map(survey: Survey) -> dict[str, Any]:
    """The survey as it is written into a run's header."""
    return {
        "requests": survey.requests,
        "span_s": survey.span_s,
        "busy_s": survey.busy_s,
        "skipped": dict(survey.skipped),
    }
