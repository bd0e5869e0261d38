"""Reads ended attempts from the spools and writes the runs, on one thread behind the sending."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tbench.capture.exchange import Outcome
from tbench.capture.histogram import Histogram
from tbench.capture.providers import GENERATIVE, Usage
from tbench.capture.redact import Secrets
from tbench.replay.answers import to_sample
from tbench.replay.background import give_way
from tbench.replay.columns import COUNTED
from tbench.replay.cost import Bill, cost, price_of
from tbench.replay.job import Job
from tbench.replay.limits import headroom
from tbench.replay.plan import Plan
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Fate, Sample
from tbench.replay.sender import Attempt
from tbench.replay.workers.counters import SharedCounters
from tbench.replay.workers.pool import WorkerPool
from tbench.replay.workers.spool import SpoolReader

# The running count of a replay: what has ended so far, for whoever watches it.


@dataclass(kw_only=True)
class Side:
    """One side of the completed requests, their input or their output; time counts from sent.

    `latency` is the time to the first token, or from there to the end (s); `speed` a request's own
    tokens/s in that time; `tokens` the sum of those that the server counted.
    """

    latency: Histogram = field(default_factory=Histogram)
    speed: Histogram = field(default_factory=Histogram)
    tokens: int = 0

    def add(self, latency: float, steps: int | None, tokens: int | None) -> None:
        """Count a request; the speed is that of `steps`."""
        self.latency.add(latency)
        self.tokens += tokens or 0
        if steps is not None and steps >= 1 and latency > 0:
            self.speed.add(steps / latency)


@dataclass(kw_only=True)
class Tally:
    """Counts of ended attempts.

    `reconnected` of them were sent twice. `errors` is by kind: an outcome, or `http_STATUS`; `limits` by
    why this machine opened no connection.
    `tokens` counts token events, `coalesced` those with the stamp of a later one. `input` and `output`
    have the definitions of a benchmark's results (tbench.benchmark.genai_bench); what gives no text has no
    output.
    """

    ended: int = 0
    reconnected: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    last_error: str | None = None
    last_end: float = 0.0
    bill: Bill = field(default_factory=Bill)
    tokens: int = 0
    coalesced: int = 0
    input: Side = field(default_factory=Side)
    output: Side = field(default_factory=Side)
    _ttft: Histogram = field(default_factory=Histogram)

    def add(self, sample: Sample) -> None:
        """Count one ended attempt."""
        self.ended += 1
        self.reconnected += sample.reconnected
        fate, times = sample.fate, sample.token_times
        self.fates[fate] += 1
        self.last_end = max(self.last_end, sample.end or 0.0)
        self.tokens += len(times)
        self.coalesced += COUNTED["coalesced"](times)
        if fate is Fate.FAILED:
            self.errors[kind_of(sample)] += 1
            if sample.outcome is Outcome.CLIENT_LIMIT:
                self.limits[sample.error or "no reason"] += 1
            self.last_error = sample.error
        if fate is not Fate.COMPLETED:
            return
        self.bill.add(sample.model, usage_of(sample))
        first = sample.first_token if sample.stream else sample.end
        start = sample.sent if sample.due is None else sample.due
        if sample.stream and first is not None and start is not None:
            self._ttft.add(first - start)
        if first is not None and sample.sent is not None:
            self._add_sides(sample, first - sample.sent)

    def _add_sides(self, sample: Sample, ttft: float) -> None:
        self.input.add(ttft, sample.prompt_tokens, sample.prompt_tokens)
        if sample.endpoint in GENERATIVE and sample.end is not None and sample.sent is not None:
            out = sample.output_tokens
            self.output.add(sample.end - sample.sent - ttft, None if out is None else out - 1, out)

    def ttft(self, p: float) -> float | None:
        """About that quantile of the streams' time to the first token, seconds; None without a stream."""
        return self._ttft.quantile(p)

    @property
    def coalesced_share(self) -> float | None:
        """The share of token events that were read together with a later one, and have its stamp."""
        return self.coalesced / self.tokens if self.tokens else None


def usage_of(sample: Sample) -> Usage:
    """The tokens of a sample, as the server counted them."""
    return Usage(
        prompt=sample.prompt_tokens, output=sample.output_tokens, cached=sample.cached_tokens
    )


def kind_of(sample: Sample) -> str:
    """A failure in a word."""
    if sample.outcome is Outcome.HTTP_ERROR:
        return f"http_{sample.status}"
    return sample.outcome.value


# The account of a replay: the closing record of its run file, from what its parts know.


@dataclass(frozen=True, kw_only=True)
class Account:
    """What is known at the end. `planned` is None where time, not the trace, decided how much was sent.

    `steal_s` is CPU time that a hypervisor gave to others meanwhile, seconds, None where not known.
    """

    job: Job
    plan: Plan
    tally: Tally
    crew: WorkerPool
    issued: int
    planned: int | None
    interrupted: bool
    steal_s: float | None

    def totals(self) -> dict[str, Any]:
        """The record `totals` of docs/trace-format.md."""
        fates, bill = self.tally.fates, self.tally.bill
        never_sent = 0 if self.planned is None else self.planned - self.issued
        return {
            "planned": self.issued + never_sent,
            "completed": fates[Fate.COMPLETED],
            "failed": fates[Fate.FAILED],
            "cancelled": fates[Fate.CANCELLED],
            "lost_in_flight": self.issued - self.tally.ended,
            "never_sent": never_sent,
            "reconnected": self.tally.reconnected,
            "client_limit": dict(self.tally.limits),
            "skipped": dict(self.plan.skipped),
            "hosts": dict(self.plan.hosts),
            "unchanged": dict(self.job.target.unchanged),
            "masked": dict(self.job.target.masked),
            "unsalted": dict(self.job.target.unsalted),
            "trace_losses": self._trace_losses(),
            "ended_by": self._ended_by(),
            "warmup_s": self.job.warmup.seconds(self.tally.last_end),
            **self._own(),
            "cost": {
                "usd": bill.usd,
                "unpriced": dict(bill.unpriced),
                "uncounted": bill.uncounted,
            },
        }

    def _trace_losses(self) -> dict[str, Any]:
        """What of the application's traffic the trace does not hold, as far as it was read."""
        dropped = self.job.trace.totals.get("dropped_requests", 0)
        lost = {**asdict(self.job.trace.losses), "dropped_requests": dropped}
        return {name: count for name, count in lost.items() if count}

    def _own(self) -> dict[str, Any]:
        """What the client says of itself: its clock, and how near it was to its own limits."""
        reports = self.crew.reports
        stall = Histogram()
        for report in reports:
            stall.merge(report.stall)
        clocks = {report.clock for report in reports} or {"user"}
        return {
            "clock": clocks.pop() if len(clocks) == 1 else "user",
            "coalesced_share": self.tally.coalesced_share,
            "loop_stall_s": {
                "p50": stall.quantile(0.5),
                "p99": stall.quantile(0.99),
                "max": stall.quantile(1.0),
            },
            "most_in_flight": sum(report.most_in_flight for report in reports),
            "workers": self.job.workers,
            "lost_workers": self.crew.lost,
            "client": self._client(),
        }

    def _client(self) -> Mapping[str, Any]:
        reports = self.crew.reports
        return {
            "cpu_share": max((r.cpu_s / r.wall_s for r in reports if r.wall_s), default=None),
            "runnable_share": max(
                (r.runnable_s / r.wall_s for r in reports if r.wall_s), default=None
            ),
            "steal_s": self.steal_s,
            "starved": sum(member.row["starved"] for member in self.crew.members),
            "kernel_stamps": sum(report.stamps[0] for report in reports),
            "user_stamps": sum(report.stamps[1] for report in reports),
            "peak_rss": max((report.peak_rss for report in reports), default=None),
            **asdict(headroom()),
        }

    def _ended_by(self) -> str:
        reports = self.crew.reports
        reasons = (
            ("interrupt", self.interrupted),
            ("disk", any(report.failure for report in reports)),
            ("errors", any(report.hopeless for report in reports)),
            ("max_cost", any(report.refused for report in reports)),
        )
        return next((reason for reason, true in reasons if true), "plan")


def steal_s() -> float | None:
    """CPU time that a hypervisor gave to others since boot, seconds over all cores; None: not known here."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return None
    return int(first[8]) / os.sysconf("SC_CLK_TCK") if len(first) > 8 else None


# The budget: US dollars that may be spent. What is in flight counts with the most that it may cost.
#
# The worker reserves (replay.workers.worker), the parent settles when it has read the answer (`Till`); the
# two meet in the pulse.


class Till:
    """The parent's side: `settle` replaces a reservation by what the attempt cost."""

    def __init__(self, pulse: SharedCounters) -> None:
        self._pulse = pulse

    def settle(self, sample: Sample, most: float) -> None:
        spent, freed = self._pulse.settled
        self._pulse.settled = spent + actual_cost(sample, most), freed + most


def actual_cost(sample: Sample, most: float) -> float:
    """What an attempt cost, US dollars; `most` where the server did not count. An HTTP error is free.

    What was sent twice may have been worked on twice: `most` for the first try.
    """
    again = most if sample.reconnected else 0.0
    if sample.outcome in {Outcome.HTTP_ERROR, Outcome.CONNECT_ERROR, Outcome.CLIENT_LIMIT}:
        return again
    price = price_of(sample.model)
    if price is None or sample.prompt_tokens is None:
        return again + most
    return again + cost(
        price,
        prompt=sample.prompt_tokens,
        output=sample.output_tokens or 0,
        cached=sample.cached_tokens or 0,
    )


PAUSE_S: Final = 0.05
PUMP: Final = 256
"""The files are seen to after so many samples."""


@dataclass(frozen=True, kw_only=True)
class ArmOutput:
    """Where the attempts of one arm go: the run's `writer`, and the `tally` of them.

    `progress` gives planned and issued. `secrets` are masked.
    """

    writer: RunWriter
    tally: Tally
    progress: Callable[[], dict[str, int | None]]
    secrets: Secrets = field(default=Secrets())

    def pump(self) -> None:
        """See to the file."""
        self.writer.pump(self.progress())


@dataclass(kw_only=True)
class RunRecorder:
    """Writes what comes through `spools` into `outputs`, one for each arm; for one thread at a time.

    `follow` writes behind the sending until `finish` is called, `complete` writes the rest.
    """

    spools: Sequence[SpoolReader]
    outputs: Sequence[ArmOutput]
    till: Till | None = None
    _finished: threading.Event = field(default_factory=threading.Event, init=False)

    def finish(self) -> None:
        """Nothing more will come. From any thread."""
        self._finished.set()

    def follow(self) -> None:
        """Write what comes, until finished."""
        while not self._finished.wait(PAUSE_S):
            for spool in self.spools:
                self._read(spool, self._over)
            self._pump()

    def complete(self) -> None:
        """Write what is left."""
        for spool in self.spools:
            self._read(spool, lambda: False)
        self._pump()

    def _read(self, spool: SpoolReader, enough: Callable[[], bool]) -> None:
        for count, attempt in enumerate(spool.attempts(), 1):
            self._write(attempt, spool.began)
            if count % PUMP == 0:
                self._pump()
            if enough():
                return

    def _over(self) -> bool:
        """Whether the sending is over; while it is not, it goes first."""
        give_way()
        return self._finished.is_set()

    def _pump(self) -> None:
        for output in self.outputs:
            output.pump()

    def _write(self, attempt: Attempt, began: float) -> None:
        output = self.outputs[attempt.arm]
        sample = to_sample(attempt, began, output.secrets)
        output.writer.add(sample)
        output.tally.add(sample)
        if self.till:
            self.till.settle(sample, attempt.cost)
