"""Reads ended calls from the spools and writes the runs, on one thread behind the sending."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any, Final

import numpy as np

from tbench.capture.exchange import NOTHING, Outcome
from tbench.capture.histogram import Histogram
from tbench.capture.providers import GENERATIVE, Usage
from tbench.capture.redact import Secrets
from tbench.replay.columns import COUNTED
from tbench.replay.cost import FREE, Bill, Price, cost
from tbench.replay.counted import Spread
from tbench.replay.hit_rates import OBSERVED, Reading
from tbench.replay.job import Job
from tbench.replay.measure import to_sample
from tbench.replay.plan import Plan
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Fate, Sample
from tbench.replay.sender import Reply
from tbench.replay.system import give_way
from tbench.replay.waiting import FATES, RateLimit, rate_limits
from tbench.replay.workers.calls import SpoolReader
from tbench.replay.workers.counters import Budget
from tbench.replay.workers.pool import WorkerPool

# The running count of a replay: what has ended so far, for whoever watches it.


@dataclass(kw_only=True)
class Side:
    """One side of the completed requests, their input or their output; time counts from sent.

    `latency` is the time to the first token, or from there to the end (s); `speed` a request's own
    tokens/s in that time; `tokens` the sum of those that the server counted.
    """

    latency: Spread = field(default_factory=Spread)
    speed: Spread = field(default_factory=Spread)
    tokens: int = 0

    def add(self, latencies: Sequence[float], counts: Sequence[int | None], free: int = 0) -> None:
        """Count requests: the latency of each, and its tokens, of which `free` were there before it."""
        took = np.fromiter(latencies, float, len(latencies))
        tokens = np.fromiter(counts, float, len(counts))  # None is NaN
        self.tokens += int(np.nansum(tokens))
        self.latency.add(took)
        timed = (tokens > free) & (took > 0)
        self.speed.add((tokens[timed] - free) / took[timed])


@dataclass(kw_only=True)
class Refusals:
    """What a target refused for the time being, and what came of waiting as it asked.

    `requests` were sent again, `kinds` counts their refused attempts by `http_STATUS`, `given_up` of them
    were refused to the last, `waited_s` is the sum of their waits. `limits` has, by what each limit of the
    target counts, the limit (the highest that it stated) and what remained of it at the least.
    """

    requests: int = 0
    given_up: int = 0
    waited_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    limits: dict[str, dict[str, float]] = field(default_factory=dict)

    def see(self, reply: Reply) -> None:
        """Note the refused attempts of a reply, and what its heads say of limits."""
        if limits := rate_limits(reply.headers):
            self._note(limits)
        for refusal in reply.refusals:
            self.kinds[f"http_{refusal.status}"] += 1
            self._note(rate_limits(refusal.headers))

    def _note(self, limits: Iterable[RateLimit]) -> None:
        for row in limits:
            stated = self.limits.setdefault(row.kind, {})
            if row.limit is not None:
                stated["limit"] = max(row.limit, stated.get("limit", 0.0))
            if row.remaining is not None:
                stated["remaining"] = min(row.remaining, stated.get("remaining", math.inf))

    @property
    def as_map(self) -> dict[str, Any]:
        """As a run's totals have it, `kinds` as `attempts`."""
        counts = {"requests": self.requests, "attempts": dict(self.kinds)}
        return {**counts, "given_up": self.given_up, "waited_s": self.waited_s}

    def add(self, sample: Sample) -> None:
        """Count a request that was sent again."""
        self.requests += 1
        self.waited_s += sample.waited
        self.given_up += sample.status in {429, 503}


@dataclass(kw_only=True)
class Tally:
    """Counts of ended attempts.

    `reconnected` of them were sent twice. `refusals` are what the target asked to send again. `errors` is by
    kind: an outcome, or `http_STATUS`; `limits` by why this machine opened no connection. `tokens` counts
    token events, `coalesced` those with the stamp of a later one. `input` and `output` have the definitions
    of a benchmark's results (tbench.benchmark.genai_bench); what gives no text has no output.
    `readings` are of the first requests, by their index (replay.hit_rates). `most_usd` is what a budget has
    to reckon with.
    """

    ended: int = 0
    reconnected: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    last_start: float = 0.0
    bill: Bill = field(default_factory=Bill)
    most_usd: float = 0.0
    tokens: int = 0
    coalesced: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    input: Side = field(default_factory=Side)
    output: Side = field(default_factory=Side)
    readings: dict[int, Reading] = field(default_factory=dict)
    _ttft: Spread = field(default_factory=Spread)

    def add(self, samples: Sequence[Sample]) -> None:
        """Count ended attempts: the more at a time, the less each takes."""
        times = [sample.token_times for sample in samples]
        self.ended += len(samples)
        self.tokens += sum(map(len, times))
        self.coalesced += sum(map(COUNTED["coalesced"], times))
        self.reconnected += sum([sample.reconnected for sample in samples])
        completed = [sample for sample in samples if sample.outcome is Outcome.OK]
        self.fates[Fate.COMPLETED] += len(completed)
        self._complete(completed)
        for sample in samples:
            start = sample.sent if sample.due is None else sample.due
            if start is not None and start > self.last_start:
                self.last_start = start
            if sample.refusals:
                self.refusals.add(sample)
            if sample.index < OBSERVED and sample.sent is not None:
                self.readings[sample.index] = reading_of(sample)
            if sample.outcome is not Outcome.OK:
                self.fates[sample.fate] += 1
                if sample.fate is Fate.FAILED:
                    self.errors[kind_of(sample)] += 1
                    if sample.outcome is Outcome.CLIENT_LIMIT:
                        self.limits[sample.error or "no reason"] += 1
                self.bill.add(sample.model, usage_of(sample), sample.outcome)

    def _complete(self, samples: Iterable[Sample]) -> None:
        """Count what was completed: what it cost, and how long it took."""
        ttfts: list[float] = []
        reading: list[float] = []
        writing: list[float] = []
        prompts: list[int | None] = []
        outputs: list[int | None] = []
        for sample in samples:
            sent, end, usage = sample.sent, sample.end, usage_of(sample)
            self.bill.add(sample.model, usage)
            first = sample.first_token if sample.stream else end
            if first is None or sent is None:
                continue
            if sample.stream:
                ttfts.append(first - (sent if sample.due is None else sample.due))
            reading.append(first - sent)
            prompts.append(usage.prompt)
            if end is not None and sample.endpoint in GENERATIVE:
                writing.append(end - first)
                outputs.append(usage.output)
        self._ttft.add(np.array(ttfts))
        self.input.add(reading, prompts)
        self.output.add(writing, outputs, free=1)  # the first came before

    def ttft(self, p: float) -> float | None:
        """About that quantile of the streams' time to the first token, seconds; None without a stream."""
        return self._ttft.histogram.quantile(p)

    @property
    def coalesced_share(self) -> float | None:
        """The share of token events that were read together with a later one, and have its stamp."""
        return self.coalesced / self.tokens if self.tokens else None


def usage_of(sample: Sample) -> Usage:
    """The tokens of a sample, as the server counted them."""
    counts = sample.prompt_tokens, sample.output_tokens, sample.cached_tokens
    return Usage(*counts, created=sample.cache_creation_tokens)


def reading_of(sample: Sample) -> Reading:
    """When the target had the prompt of a sample that was sent, and what it counted of it."""
    ok = sample.outcome is Outcome.OK
    read = sample.first_token
    if read is None:
        read = sample.end if ok else None
    return Reading(
        sent=sample.sent or 0.0,
        read=math.inf if read is None else read,
        usage=usage_of(sample) if ok else None,
    )


def kind_of(sample: Sample) -> str:
    """A failure in a word."""
    if sample.outcome is Outcome.HTTP_ERROR:
        return f"http_{sample.status}"
    return sample.outcome.value


def run_totals(
    *,
    job: Job,
    plan: Plan,
    tally: Tally,
    pool: WorkerPool,
    arm: int,
    planned: int | None,
    interrupted: bool,
    trace_failure: str | None,
    steal_s: float | None,
    hit_rates: Mapping[str, Any] | None,
    shares: Sequence[int],
) -> dict[str, Any]:
    """The record `totals` of docs/trace-format.md, which closes a run, from what the parts of a replay know.

    What a worker that was lost had counted alone is None. So is `planned` where time, not the trace, decided
    how much was sent. `trace_failure` says why not all of the trace could be read, `steal_s` is CPU time that
    a hypervisor gave to others meanwhile, seconds, None where not known. `shares` is how many each worker was
    to send.
    """
    fates, bill, target, stats = tally.fates, tally.bill, job.target, pool.stats
    portability, unchanged, masked = pool.counts(arm)
    issued = pool.issued(arm)
    # What was sent and has no answer here, wherever it was lost: worker, spool or wire.
    lost = issued - tally.ended
    never_sent = 0 if planned is None else planned - issued
    stall = Histogram()
    for worker in stats:
        stall.merge(worker.stall)

    def total(counts: Iterable[int]) -> int | None:
        """What all workers counted; None where a part of it went with one that was lost."""
        return None if pool.lost else sum(counts)

    planned_fates = {"forgotten": plan.forgotten}
    fates_of_turns = {
        name: total([planned_fates.get(name, 0), *(worker.turns[arm][name] for worker in stats)])
        for name in FATES
    }
    live = sum((Counter(worker.histories[arm]) for worker in stats), Counter[str]())
    clocks = {worker.clock for worker in stats} or {"user"}
    probed = 0.0 if job.probe is None else job.probe["most_usd"]
    unsettled = pool.unsettled_usd  # may all have been this arm's
    most = None if unsettled is None else tally.most_usd + unsettled + probed
    reasons = (
        ("interrupt", interrupted),
        ("disk", any(worker.failure for worker in stats)),
        ("errors", any(worker.hopeless for worker in stats)),
        ("max_cost", any(worker.refused for worker in stats)),
        ("trace", trace_failure is not None),
    )
    return {
        "planned": issued + never_sent,
        "completed": fates[Fate.COMPLETED],
        "failed": fates[Fate.FAILED],
        "cancelled": fates[Fate.CANCELLED],
        "lost_in_flight": lost,
        "never_sent": never_sent,
        "reconnected": tally.reconnected,
        "client_limit": dict(tally.limits),
        "refused": tally.refusals.as_map if job.options.polite else {},
        "rate_limits": tally.refusals.limits,
        "skipped": dict(plan.skipped),
        "hosts": dict(plan.hosts),
        "idle": plan.idle,
        "tick_s": job.tick_s,
        "portability": dict(target.portability + portability),
        "unchanged": dict(target.unchanged + unchanged),
        "masked": dict(target.masked + masked),
        "trace_losses": job.trace.lost,
        "ended_by": next((reason for reason, true in reasons if true), "plan"),
        "trace_failure": trace_failure,
        "warmup_s": job.warmup.seconds(tally.last_start),
        # One worker that had to stamp by itself, and all count so: a run's stamps are as good as its worst.
        "clock": clocks.pop() if len(clocks) == 1 else "user",
        "coalesced_share": tally.coalesced_share,
        "loop_stall_s": {
            "p50": stall.quantile(0.5),
            "p99": stall.quantile(0.99),
            "max": stall.quantile(1.0),
        },
        "hit_rates": hit_rates,
        "turns": {
            "causal": job.pace.causal,
            "severed": plan.severed,
            **fates_of_turns,
            "live": None if pool.lost else dict(live),
        },
        "most_in_flight": total(worker.most_in_flight for worker in stats),
        "workers": job.workers,
        "lost_workers": pool.lost,
        "shards": pool.shards(None if planned is None else shares),
        "client": {
            "cpu_share": max((w.cpu_s / w.wall_s for w in stats if w.wall_s), default=None),
            "runnable_share": max(
                (w.runnable_s / w.wall_s for w in stats if w.wall_s), default=None
            ),
            "steal_s": steal_s,
            "starved": sum(worker.counters["starved"] for worker in pool.workers),
            "starved_share": max((w.starved_s / w.wall_s for w in stats if w.wall_s), default=None),
            "kernel_stamps": total(worker.stamps[0] for worker in stats),
            "user_stamps": total(worker.stamps[1] for worker in stats),
            "peak_rss": max((worker.peak_rss for worker in stats), default=None),
            **asdict(pool.site.headroom),
        },
        "cost": {
            "usd": bill.usd + (0.0 if job.probe is None else job.probe["usd"]),
            "unpriced": dict(bill.unpriced),
            "uncounted": bill.uncounted + lost,
            "most_usd": most,
            "waited": total(worker.postponed for worker in stats),
        },
    }


def actual_cost(
    sample: Sample, most: float, prices: Mapping[str, Price] = NOTHING, tries: int = 1
) -> float:
    """What an attempt cost at most, US dollars: by the count of a whole answer, else `most`.

    An HTTP error is free, unless it names tokens. An answer that was cut may have gone on at the server, and
    what was sent in several tries may have been worked on in each: `most` for all but the last.
    """
    again = most * (tries - 1)
    price = prices.get(sample.model or "")
    if sample.outcome in FREE:
        counted = price is not None and sample.prompt_tokens is not None
        return again + (cost(price, usage_of(sample)) if price and counted else 0.0)
    uncounted = sample.prompt_tokens is None or (
        sample.output_tokens is None and sample.endpoint in GENERATIVE
    )
    if price is None or uncounted or sample.outcome is not Outcome.OK:
        return again + most
    return again + cost(price, usage_of(sample))


PAUSE_S: Final = 0.05
PUMP: Final = 256
"""Samples are counted, and the files seen to, after so many."""


@dataclass(frozen=True, kw_only=True)
class ArmOutput:
    """Where the attempts of one arm go: the run's `writer`, and the `tally` of them.

    `progress` gives planned and issued. `secrets` are masked. `uncounted` are not in the tally yet.
    """

    writer: RunWriter
    tally: Tally
    progress: Callable[[], dict[str, int | None]]
    secrets: Secrets = field(default=Secrets())
    uncounted: list[Sample] = field(default_factory=list)


@dataclass(kw_only=True)
class RunRecorder:
    """Writes what comes through `spools` into `outputs`, one for each arm; for one thread at a time.

    `budgets` are those that each spool's attempts are drawn on; none without a limit.

    `follow` writes behind the sending until `finish` is called, `complete` writes the rest.
    """

    spools: Sequence[SpoolReader]
    outputs: Sequence[ArmOutput]
    budgets: Sequence[Budget] = ()
    _finished: threading.Event = field(default_factory=threading.Event, init=False)

    def finish(self) -> None:
        """Nothing more will come. From any thread."""
        self._finished.set()

    def follow(self) -> None:
        """Write what comes, until finished. The sending goes first: this gives way after each answer."""
        while not self._finished.wait(PAUSE_S):
            for spool, budget in self._pairs():
                self._read(spool, budget, behind=True)
            self._pump()

    def complete(self) -> None:
        """Write what is left."""
        for spool, budget in self._pairs():
            self._read(spool, budget, behind=False)
        self._pump()

    def _pairs(self) -> Iterator[tuple[SpoolReader, Budget | None]]:
        return zip_longest(self.spools, self.budgets)

    def _read(self, spool: SpoolReader, budget: Budget | None, *, behind: bool) -> None:
        for count, (call, reply) in enumerate(spool.ended(), 1):
            output = self.outputs[call.arm]
            sample = to_sample(call, reply, spool.began, output.secrets)
            output.writer.add(sample)
            output.uncounted.append(sample)
            output.tally.refusals.see(reply)
            if budget:
                most = call.cost
                tries = 1 + reply.repeats  # each of which was reserved
                spent = actual_cost(sample, most, output.tally.bill.prices, tries)
                budget.settle(spent, *tries * (most,))
                output.tally.most_usd += spent
            if count % PUMP == 0:
                self._pump()
            if behind:
                give_way()
                # Left in the middle: what is there is read by `complete`, at full speed.
                if self._finished.is_set():
                    return

    def _pump(self) -> None:
        for output in self.outputs:
            output.tally.add(output.uncounted)
            output.uncounted.clear()
            output.writer.pump(output.progress())
