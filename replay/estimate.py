"""What a replay would send, how long it would take and what it would cost, before anything is sent.

A Survey is what one round of a plan holds; pacings and budgets ask for it. An Estimate is what a job makes of
it, the dry run of `replay`; `ab` adds up one for each run.
"""

import math
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import islice, takewhile, tee
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import trio

from tbench.capture.errors import InputError
from tbench.capture.exchange import NOTHING
from tbench.capture.mixes import Burstiness
from tbench.capture.providers import Usage
from tbench.capture.terminal import plural
from tbench.replay.bounds import REASONS, most_cost
from tbench.replay.cost import Bill, expected
from tbench.replay.fidelity import Row, burst_rows
from tbench.replay.pacing import Causal, Closed, Occupancy, Profile, Stretches
from tbench.replay.plan import Plan, Planned, nothing_to_send, recorded_usage
from tbench.replay.price_table import priced_by
from tbench.replay.probe import REQUESTS, expected_bill
from tbench.replay.sender import NOWHERE, Call, Ended, Reply
from tbench.replay.target import Target
from tbench.replay.waiting import Turns

if TYPE_CHECKING:
    from tbench.replay.job import Job

WALKED: Final = 20_000
"""So many requests of a schedule are walked through, or its first round; the rounds after that are alike."""


@dataclass(kw_only=True)
class Survey:
    """What one round of a plan holds.

    `span_s` is from its first to its last arrival, `busy_s` the sum of the recorded latencies of those that
    were `answered`. `turns` of its requests continue an earlier answer. `in_flight` is the recorded mean
    concurrency of each second, of requests with a recorded end. `hosts` counts where requests were recorded,
    `idle` is the plan's. `models`, `portability`, `unchanged` and `masked` (as those of the target) and
    `bill` are filled only where tokens were asked for. So are `unbounded`, which counts the requests that
    nothing bounds by the reason (replay.bounds), `least_usd` and `most_usd` what the cheapest and the
    dearest of the others may cost.
    """

    requests: int = 0
    turns: int = 0
    span_s: float = 0.0
    answered: int = 0
    busy_s: float = 0.0
    in_flight: Stretches = field(default_factory=Stretches)
    skipped: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    idle: Mapping[str, float] = field(default_factory=dict)
    models: Counter[str] = field(default_factory=Counter)
    portability: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    bill: Bill = field(default_factory=Bill)
    unbounded: Counter[str] = field(default_factory=Counter)
    least_usd: float = math.inf
    most_usd: float = 0.0


def survey(plan: Plan, target: Target | None = None) -> Survey:
    """Read one round of the plan; with a target, count the tokens and their price as well."""
    totals = Survey(bill=Bill(prices=target.prices if target else NOTHING))
    occupancy = Occupancy()
    once = replace(plan, rounds=1)
    for planned in once:
        totals.requests += 1
        totals.turns += bool(planned.after)
        totals.span_s = planned.offset
        if (took := took_s(planned)) is not None:
            totals.answered += 1
            totals.busy_s += took
            occupancy.add(planned.offset, planned.offset + took)
        if target is not None:
            outgoing = target.outgoing(planned)
            model = outgoing.info.model
            totals.portability.update(outgoing.dropped)
            totals.models[model or "(no model)"] += 1
            totals.bill.add(model, expected_usage(planned))
            if reason := target.unchanged_because(planned) or outgoing.unmatched:
                totals.unchanged[reason] += 1
            totals.masked.update(target.masked_in(planned))
            most = most_cost(planned, outgoing, target.prices)
            if isinstance(most, str):
                totals.unbounded[most] += 1
            else:
                totals.least_usd = min(totals.least_usd, most)
                totals.most_usd = max(totals.most_usd, most)
    totals.in_flight = occupancy.means()
    totals.skipped, totals.hosts, totals.idle = (
        Counter(once.skipped),
        Counter(once.hosts),
        once.idle,
    )
    return totals


def took_s(planned: Planned) -> float | None:
    """Seconds from the recorded arrival of a request to its end; None where it has none."""
    request, response = planned.exchange.request, planned.exchange.response
    return None if response is None else max(0, response.end_ns - request.arrive_ns) / 1e9


def expected_usage(planned: Planned) -> Usage:
    """The tokens to expect of a request: the recorded ones, else what can be told from the request."""
    return expected(recorded_usage(planned.exchange), planned.info.max_tokens)


def as_map(survey: Survey) -> dict[str, Any]:
    """The survey as it is written into a run's header."""
    return {
        "requests": survey.requests,
        "span_s": survey.span_s,
        "busy_s": survey.busy_s,
        "skipped": dict(survey.skipped),
    }


def first_look(job: "Job", *, tokens: bool = False) -> Survey | None:
    """Survey the trace where the pacing or the budget needs it, or `tokens` are asked for."""
    priced = tokens or job.budget is not None
    if not job.pace.option.needs_survey and not priced:
        return None
    totals = survey(job.plan(answers=True), job.target if priced else None)
    if job.budget is not None:
        _check_budget(job.budget, totals)
    return totals


class OverBudgetError(InputError):
    """What is left of a budget lets no request go."""


def _check_budget(budget: float, totals: Survey) -> None:
    """Raise InputError where no budget can be kept, OverBudgetError where this one lets nothing go."""
    if totals.bill.unpriced:
        unknown = ", ".join(sorted(totals.bill.unpriced))
        raise InputError(
            f"--max-cost cannot be kept: no price is known for {unknown}; give it by --price or --prices"
        )
    for reason, count in totals.unbounded.most_common(1):
        raise InputError(
            f"--max-cost cannot be kept: {count:,} of {plural(totals.requests, 'request')} {REASONS[reason]}"
        )
    if budget < totals.least_usd < math.inf:
        raise OverBudgetError(
            f"--max-cost {budget:g}: every request may cost more, {totals.least_usd:.2g} USD at least: "
            "raise it, or limit the output by --set max_tokens=N"
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job would do; `pacing` says in a sentence what the run would be like.

    `duration_s` and the rates (requests per second) are those of the schedule in an open loop. In a
    closed loop they assume the recorded latencies, of a very long schedule that it goes on as it began, and
    `estimated` says so; `requests_estimated` says that how many go depends on it, too. `burstiness` is that
    of an open loop's requests, as recorded, in seconds of the trace, and as intended, in those of the replay.
    `turns` continue an earlier answer, which they wait for as `causal` says.
    `skipped`, `hosts`, `portability`, `unchanged` and `masked` count requests as the survey does, `idle` says
    what is cut; arrivals come in ticks of `tick_s` seconds (None: of a fine clock). `cost_usd` leaves out
    the requests of models `unpriced`, which have no known price, and the `uncounted` ones, whose tokens the
    trace does not name; None where nothing is left. The `probe_requests` that go before all are in the cost
    alone. `prices` says who knows the prices, and of which models. A `--max-cost` of `budget_usd` is
    expected to last to the end: the cost, and the most that one more request may cost; None where no budget
    can be kept, or the cost is not known.
    """

    pacing: str
    base_url: str
    requests: int
    turns: int
    causal: Causal
    duration_s: float
    mean_rate: float | None
    peak_rate: float | None
    estimated: bool
    requests_estimated: bool
    burstiness: list[Row]
    skipped: dict[str, int]
    hosts: dict[str, int]
    portability: dict[str, int]
    unchanged: dict[str, int]
    masked: dict[str, int]
    idle: dict[str, float]
    tick_s: float | None
    prompt_tokens: int
    output_tokens: int
    cost_usd: float | None
    uncounted: int
    unpriced: list[str]
    prices: dict[str, list[str]]
    probe_requests: int
    budget_usd: float | None


def estimate(job: "Job") -> Estimate:
    """Read the trace and say what would happen. Raises InputError where nothing would be sent."""
    totals = first_look(job, tokens=True)
    assert totals is not None
    if not totals.requests:
        raise nothing_to_send(job.options.trace, totals.skipped, job.only.words)
    timing = _open(job, totals) if job.pace.is_open else _closed(job, totals)
    # Conversations grow, so that the beginning of a round is no share of it.
    rounds, rest = divmod(timing["requests"], totals.requests or 1)
    begun = replace(job.plan(answers=True), requests=rest)
    tail = survey(begun, job.target) if rest else Survey()
    bill, end = totals.bill, tail.bill
    cost_usd = None
    if bill.usd or bill.complete:
        cost_usd = bill.usd * rounds + end.usd + expected_bill(job).usd
    budget_usd = None
    if cost_usd is not None and bill.complete and not totals.unbounded:
        budget_usd = cost_usd + totals.most_usd
    return Estimate(
        **timing,
        pacing=job.options.meaning,
        base_url=job.target.base_url,
        turns=totals.turns * rounds + tail.turns,
        causal=job.pace.causal,
        skipped=dict(totals.skipped),
        hosts=dict(totals.hosts),
        portability=dict(totals.portability),
        unchanged=dict(totals.unchanged),
        masked=dict(totals.masked),
        idle=dict(totals.idle),
        tick_s=job.tick_s,
        prompt_tokens=bill.prompt_tokens * rounds + end.prompt_tokens,
        output_tokens=bill.output_tokens * rounds + end.output_tokens,
        cost_usd=cost_usd,
        uncounted=bill.uncounted * rounds + end.uncounted,
        unpriced=sorted(bill.unpriced),
        prices=priced_by(job.target.prices, totals.models),
        probe_requests=REQUESTS if job.probes else 0,
        budget_usd=budget_usd,
    )


def _open(job: "Job", totals: Survey) -> dict[str, Any]:
    """By the schedule itself; the peak is over whole seconds."""
    planned = int(min(totals.requests * job.rounds, job.options.requests or math.inf))
    walked, ends = max(WALKED, totals.requests), job.options.duration
    recorded, intended = Burstiness(), Burstiness()
    sent, ahead = tee(islice(job.plan(answers=False), walked))
    dues = job.pace.schedule(totals)(request.offset for request in ahead)
    if ends is not None:
        dues = takewhile(lambda due: due < ends, dues)
    requests = peak = before = second = 0
    last, copies = 0.0, len(job.pace.clones)
    arrivals, checks = array("q"), array("q")
    for last, request in zip(dues, sent, strict=False):
        if request.cycle < copies:  # of the first round, of which several copies were recorded once
            arrivals.append(request.exchange.request.arrive_ns)
            checks.append(request.check)
            intended.add(round(last * 1e9))
        if int(last) != second:
            before, second = requests, int(last)
        requests += 1
        peak = max(peak, requests - before)
    for came_ns in np.unique(np.array([arrivals, checks]), axis=1)[0].tolist():
        recorded.add(came_ns)
    mean = (requests - 1) / last if requests > 1 and last > 0 else None
    if goes_on := requests == walked < planned:  # at the mean rate of its beginning
        gap_s = last / (requests - 1)
        requests = planned
        if ends is not None and gap_s:
            requests = min(planned, math.ceil(ends / gap_s))
        last = (requests - 1) * gap_s
    waits = bool(totals.turns) and job.pace.causal in {"max", "think"}  # beyond the end, maybe
    return {
        "requests": requests,
        "duration_s": last,
        "mean_rate": mean,
        "peak_rate": float(peak),
        "estimated": goes_on,
        "requests_estimated": ends is not None and (goes_on or waits),
        "burstiness": list(burst_rows(recorded, intended, Burstiness())),
    }


def _closed(job: "Job", totals: Survey) -> dict[str, Any]:
    """By the recorded latencies: played to a target that takes as long for each request."""
    limits, options = job.pace.closed(totals), job.options
    ends = min(limits.ends, options.duration or math.inf)
    follows = limits.ends < math.inf  # then it says how much is sent
    planned = min(
        math.inf if follows else totals.requests * job.rounds, options.requests or math.inf
    )
    # Twice as many calls as places at least: how fast they are free again is to be seen.
    walked = min(sys.maxsize, max(WALKED, 2 * math.ceil(job.pace.value)))
    seen = _rehearsed(job, totals, limits, ends, walked)
    requests, lasts = seen.issued, seen.lasts
    if seen.taken == walked < planned and seen.last < ends:  # it goes on as it began
        # By what had ended: the first calls found places that nobody had left.
        reckoned = seen.ended and seen.last  # not where all left at once
        ended, by = (seen.ended, seen.last) if reckoned else (seen.issued, seen.lasts)
        more = planned - requests
        lasts += more * by / ended
        if ends < math.inf and by:
            left = max(0.0, ended * (_places(limits, ends) / (_places(limits, by) or 1.0) - 1))
            more, lasts = min((more, lasts), (left, ends))
        requests += round(more)
    lasts = min(lasts, ends)
    return {
        "requests": requests,
        "duration_s": lasts,
        "mean_rate": requests / lasts if lasts else None,
        "peak_rate": None,
        "estimated": True,
        "requests_estimated": options.duration is not None or follows,
        "burstiness": [],
    }


def _places(limits: Closed, tau: float) -> float:
    """How many places there were up to a time, each for how many seconds: so much can be sent."""
    if not isinstance(limits, Profile) or limits.repeats:
        return tau
    at = places = 0.0
    while at < tau:
        changes = min(limits.changes_after(at), tau)
        places += limits.allowed(at) * (changes - at)
        at = changes
    return places


def _rehearsed(
    job: "Job", totals: Survey, limits: Closed, ends: float, walked: int
) -> "_Rehearsal":
    """The first `walked` calls of a closed loop as they would go, by a clock that waits for nobody."""
    from trio.testing import MockClock  # noqa: PLC0415 (no run needs it)

    from tbench.replay.player import Player  # noqa: PLC0415

    turns = None if job.pace.causal == "off" else Turns(job.pace.causal, len(job.pace.clones))
    usual_s = totals.busy_s / totals.answered if totals.answered else 0.0
    rehearsal = _Rehearsal(islice(job.plan(answers=False), walked), usual_s)

    async def play() -> None:
        player = Player(
            sender=rehearsal,
            supply=rehearsal,
            keep=rehearsal.keep,
            turns=turns,
            began=trio.current_time(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rehearsal.answer)
            await player.play_closed(limits, ends)
            nursery.cancel_scope.cancel()

    trio.run(play, clock=MockClock(autojump_threshold=0))
    return rehearsal


class _Rehearsal:
    """The supply of a plan's first calls, and a sender whose answers take as long as they were recorded.

    Those that have no recorded end take `usual_s`. `taken` and `issued` count calls, `last` is when the last
    one left, `ended` how many had ended by then, and `lasts` when the last one ended.
    """

    def __init__(self, plan: Iterator[Planned], usual_s: float) -> None:
        self._plan = plan
        self._usual_s = usual_s
        self._took: dict[int, float] = {}
        self._ends: list[tuple[float, int, Ended]] = []
        self._news = trio.Event()
        self.over = False
        self.taken = self.issued = self.ended = 0
        self.last = self.lasts = 0.0

    def take(self) -> Call | None:
        planned = next(self._plan, None)
        if planned is None:
            self.over = True
            return None
        self.taken += 1
        took = took_s(planned)
        self._took[planned.index] = self._usual_s if took is None else took
        return Call(
            index=planned.index,
            due=None,
            origin=NOWHERE,
            head=b"",
            body=b"",
            after=planned.after,
            think=planned.think,
            opening=planned.opening,
        )

    def tell(self, woken: Callable[[], None]) -> None:
        """Nobody has to be woken: all of the plan is at hand."""

    def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
        reply.status, reply.chunks = 200, [(0.0, b"{}")]  # who waits for it goes on
        self.issued += 1
        self.last = trio.current_time()
        self.lasts = max(self.lasts, self.last + self._took[call.index])
        heappush(self._ends, (self.last + self._took.pop(call.index), call.index, ended))
        self.ended = self.issued - len(self._ends)
        self._news.set()

    def abandon(self) -> None:
        """Nothing is cancelled."""

    def keep(self, _call: Call, _reply: Reply) -> None:
        """Nothing is kept."""

    async def answer(self) -> None:
        """End each call at its time, for ever."""
        while True:
            self._news = trio.Event()
            with trio.move_on_at(self._ends[0][0] if self._ends else math.inf):
                await self._news.wait()
            while self._ends and self._ends[0][0] <= trio.current_time():
                heappop(self._ends)[-1]()
