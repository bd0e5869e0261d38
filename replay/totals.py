"""The closing figures of a run: the identity, the numbers of `replay --json`, and whether they count."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from tbench.capture.errors import InvalidRunError
from tbench.capture.terminal import plural
from tbench.replay import metrics
from tbench.replay.cost import Price
from tbench.replay.counted import Ranked
from tbench.replay.metrics import Columns, Metric, Values
from tbench.replay.price_table import priced_by
from tbench.replay.runfile import Run
from tbench.replay.table import words
from tbench.replay.throughput import Throughput, drain, rate_of, shares_places, three

BUDGET_S: Final = 0.010
BUDGET_SHARE: Final = 0.10
"""A client may move a headline quantile by so much, whichever is more: seconds, share of it."""
STALLS: Final = {"p50": 0.001, "p99": 0.050}
"""The event loop's own lateness that is let pass, seconds, or BUDGET_SHARE of the median latency: with
user stamps an answer is read as late as the loop is, and often several rounds of it later."""
BUSY_SHARE: Final = 0.85
"""Of the time: a sender that ran, or waited for a core, for as much of it was the one to wait for. Not more,
since while the last answers come in it rests."""
HELD_SHARE: Final = 0.95
"""Of the concurrency that was asked for: a loop that holds less has another rate than the target's."""
UNCERTAIN_SHARE: Final = 0.05
"""What was read late may move a quantile by so much of it."""
BEYOND: Final = 10
"""A quantile is judged where at least so many samples lie beyond it; the median always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What became of every planned request. Raises InvalidRunError when the terms do not add up."""

    planned: int
    completed: int
    failed: int
    cancelled: int
    lost_in_flight: int
    never_sent: int

    def __post_init__(self) -> None:
        terms = (
            self.completed + self.failed + self.cancelled + self.lost_in_flight + self.never_sent
        )
        if self.planned != terms:
            raise InvalidRunError(f"the run does not add up: {self}")

    def __str__(self) -> str:
        return (
            f"planned {self.planned:,} = completed {self.completed:,} + failed {self.failed:,} "
            f"+ cancelled {self.cancelled:,} + lost in flight {self.lost_in_flight:,} "
            f"+ never sent {self.never_sent:,}"
        )


LOST: Final = {
    "damaged_blocks": "damaged block",
    "bad_records": "unreadable record",
    "missing_segments": "missing segment",
}
"""What of a trace cannot be sent any more, by the name it has in capture.container_reader.Losses."""


EARLY: Final = {
    "interrupt": "interrupted before its plan had ended",
    "errors": "ended early: the target could not be reached, or refused the key",
    "max_cost": "ended by --max-cost",
}
"""How a run ended before its plan, where that alone makes it no INVALID one, by `ended_by`."""


def shortfalls(run: Run) -> Iterator[str]:
    """What a run, or the trace behind it, lacks without being INVALID for it."""
    losses = run.totals.get("trace_losses") or {}
    if losses.get("truncated_tail"):
        yield "trace cut short (its capture was killed, or still runs): what it held last is missing"
    if dropped := losses.get("dropped_requests"):
        count = plural(dropped, "request")
        yield f"{count} passed its capture unrecorded (memory or disk ran short)"
    if dropped := losses.get("dropped_bytes"):
        yield f"{plural(dropped, 'byte')} of bodies passed its capture unrecorded"
    if early := EARLY.get(run.totals.get("ended_by") or ""):
        yield early


def identity(run: Run) -> Identity:
    """The identity of a run, checked."""
    return Identity(**{name: run.totals[name] for name in Identity.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What the samples of a run come to: the part of `numbers` that is not in its header or its totals.

    Latencies are of completed requests outside the warm-up, the throughput is that of replay.throughput, and
    `drain` what it leaves out; `duration_s` is from the run's start to its last end, all requests included.
    """

    duration_s: float
    throughput: Throughput
    drain: Mapping[str, float] | None
    spreads: Mapping[str, Mapping[str, float | None]]
    in_flight: Mapping[str, float | int | None]
    uncertain: int
    invalid_because: str | None
    errors: Mapping[str, int]


def figures_of(run: Run) -> RunFigures:
    """Those of a run whose samples are at hand."""
    counted = metrics.counted(run.columns)
    return RunFigures(
        duration_s=duration_s(run.columns),
        throughput=rate_of(run, ~run.columns["warmup"]),
        drain=drain(run),
        spreads=spreads(counted),
        in_flight=metrics.in_flight(run.columns),
        uncertain=metrics.uncertain(counted),
        invalid_because=why_invalid(run, counted),
        errors=metrics.errors(run.columns),
    )


def numbers(run: Run, figures: RunFigures | None = None) -> dict[str, Any]:
    """The object that `replay --json` prints. Seconds; None where there is no value.

    What a run keeps only when it closes is not known of one that was killed.
    """
    figures = figures_of(run) if figures is None else figures
    return {
        "run": str(run.path),
        **asdict(identity(run)),
        "skipped": sum(run.totals.get("skipped", {}).values()) if run.complete else None,
        "reconnected": run.totals.get("reconnected", 0) if run.complete else None,
        "refused": run.totals.get("refused") or {},
        "rate_limits": run.totals.get("rate_limits") or {},
        "turns": run.totals.get("turns") or {},
        "hit_rates": run.totals.get("hit_rates"),
        "hosts": run.totals.get("hosts") or {},
        "portability": run.totals.get("portability") or {},
        "unchanged": run.totals.get("unchanged") or {},
        "masked": run.totals.get("masked") or {},
        "duration_s": figures.duration_s,
        **figures.throughput.figures,
        "drain": figures.drain,
        **figures.spreads,
        "in_flight": figures.in_flight,
        "uncertain_first_tokens": figures.uncertain,
        "clock": run.totals.get("clock") or run.header.get("clock", "user"),
        "valid": figures.invalid_because is None,
        "invalid_because": figures.invalid_because,
        "errors": figures.errors,
    }


def spreads(counted: Columns) -> dict[str, dict[str, float | None]]:
    """The spread of each metric; of the time between tokens none where something buffers the streams."""
    buffered = metrics.buffered(*metrics.gaps(counted))
    rows = [metrics.METRICS[name] for name in metrics.SUMMARISED]
    return {
        f"{row.name}_s": metrics.spread(np.empty(0) if row.spaced and buffered else row.of(counted))
        for row in rows
    }


def duration_s(columns: Columns) -> float:
    """From the run's start to the last end, seconds; 0 without samples."""
    end = columns["end"]
    return float(np.nanmax(end)) if len(end) and not np.isnan(end).all() else 0.0


class Evidence:
    """What its samples say of how well a client kept up; `counted` are the completed ones.

    Values are in any order, of those that there are.
    """

    def __init__(self, columns: Columns, counted: Columns) -> None:
        self._columns = columns
        self._counted = counted

    @property
    def n(self) -> int:
        """How many samples there are."""
        return len(self._columns["index"])

    @property
    def gaps(self) -> tuple[int, int]:
        """Those between tokens, and how many of them are none (replay.metrics)."""
        return metrics.gaps(self._counted)

    def latencies(self) -> Ranked:
        """To the first token of a stream, to the end of anything else."""
        latency = headline(self._counted)
        return latency[~np.isnan(latency)]

    def punctual(self) -> tuple[Ranked, Ranked]:
        """The same where the client's own lateness is known, and what they would be without that."""
        latency, late = headline(self._counted), metrics.client_lag(self._counted)
        timed = ~np.isnan(latency) & ~np.isnan(late)
        return latency[timed], (latency - late)[timed]

    def bounds(self) -> Iterable[tuple[Metric, Ranked, Ranked]]:
        """The least and the most that each value may be (replay.metrics)."""
        return metrics.bounds(self._counted)

    def held(self, concurrency: float) -> float | None:
        """How many a closed loop had in flight (replay.metrics)."""
        return metrics.held(self._columns, concurrency)


def why_invalid(run: Run, counted: Columns | None = None) -> str | None:
    """Why the numbers do not count, with the cure; None when they do.

    `counted` is `metrics.counted(run.columns)`, for whoever has it already.
    """
    counted = metrics.counted(run.columns) if counted is None else counted
    return first_cause(run, Evidence(run.columns, counted))


def first_cause(run: Run, evidence: Evidence) -> str | None:
    """The same by what the samples were found to say, where they are not at hand."""
    causes = (check(run, evidence) for check in CAUSES)
    return next(filter(None, causes), None)


def lost_outcomes(run: Run, _evidence: Evidence) -> str | None:
    """Whether requests were sent, or should have been, of which nobody knows what became of them."""
    lost, never_sent = run.totals["lost_in_flight"], run.totals["never_sent"]
    if not run.complete:
        return (
            f"killed, or still running: {lost + never_sent:,} of {run.totals['planned']:,} planned requests "
            "have no outcome; replay again"
        )
    workers = run.totals.get("lost_workers")
    if workers and lost + never_sent > ((run.header.get("limits") or {}).get("allow_lost") or 0):
        return (
            f"{'; '.join(workers)} ({lost:,} requests lost in flight, {never_sent:,} never "
            "sent); replay again, with fewer streams if memory ran short, or accept it by --allow-lost"
        )
    if failure := run.totals.get("trace_failure"):
        return f"the trace could not be read to its end: {failure}"
    if run.totals.get("ended_by") == "disk":
        return "the disk took no more answers; free some space and replay again"
    if lost and not workers:
        return f"{lost} requests were sent and their outcome was lost: a defect, please report it"
    return None


def loss(run: Run, latencies: Callable[[str], Ranked] | None = None) -> str | None:
    """What a lost worker leaves open, in words; None where none was lost.

    A request whose answer was lost has a latency that nobody knows: the bounds have it as quicker than any
    other, and as slower. `latencies` gives those of a metric in order, where the samples are not at hand.
    """
    if not (workers := run.totals.get("lost_workers")):
        return None
    lost = run.totals["lost_in_flight"]
    latencies = latencies or partial(_ordered, metrics.counted(run.columns))
    shards = run.totals.get("shards") or []
    times = [row["lost_at_s"] for row in shards if row.get("lost_at_s") is not None]
    since = f", noticed at {min(times):.1f} s: less was sent from then on" if times else ""
    parts = [f"{'; '.join(workers)}{since}"]
    if lost:
        bounds = [
            f"{name} {level} {three(low * 1e3)} ms to "
            + ("unknown" if high is None else f"{three(high * 1e3)} ms")
            for name in ("ttft", "e2e")
            for level, (low, high) in metrics.with_lost(latencies(name), lost).items()
        ]
        parts.append(
            f"{plural(lost, 'request')} lost in flight, which as the fastest and as the slowest of all give "
            + ", ".join(bounds)
        )
    if never_sent := run.totals["never_sent"]:
        parts.append(f"{never_sent:,} never sent")
    return "; ".join(parts)


def _ordered(counted: Columns, name: str) -> Values:
    values = metrics.METRICS[name].of(counted)
    return np.sort(values[~np.isnan(values)])


def missing_samples(run: Run, evidence: Evidence) -> str | None:
    """Whether samples that were written are not in the file any more."""
    ended = sum(run.totals[name] for name in ("completed", "failed", "cancelled"))
    if evidence.n == ended:
        return None
    return (
        f"the run file is damaged: it holds {evidence.n:,} of {ended:,} samples; copy it again from "
        "where it was made, or replay again"
    )


def damaged_trace(run: Run, _evidence: Evidence) -> str | None:
    """Whether requests of the trace are missing from the replay because it could not be read."""
    lost = run.totals.get("trace_losses") or {}
    parts = [plural(count, noun) for key, noun in LOST.items() if (count := lost.get(key))]
    if not parts:
        return None
    return (
        f"the trace is damaged ({', '.join(parts)}), so requests of it are missing; "
        "take what 'tbench trace repair TRACE -o NEW' saves"
    )


def no_connections(run: Run, _evidence: Evidence) -> str | None:
    """Whether this machine could not open the connections that the run asked for."""
    limits = run.totals.get("client_limit")
    if not limits:
        return None
    client, workers = run.totals.get("client") or {}, run.totals.get("workers") or 1
    most = run.totals.get("most_in_flight") or 0
    return (
        f"this client could open no connection for {sum(limits.values()):,} requests "
        f"({', '.join(limits)}): with {most:,} in flight over {workers} workers, "
        f"the system allows {client.get('descriptors') or 0:,} file descriptors in each, and "
        f"{client.get('ports') or 0:,} ports to one address; "
        "raise 'ulimit -Hn', raise --workers, lower the rate, or set --max-in-flight"
    )


def unfilled_loop(run: Run, evidence: Evidence) -> str | None:
    """Whether a closed loop had places free because the client had no time, or no request, to fill them.

    Its latencies stand, but its rate is the client's. A busy process alone says nothing: it may keep up.
    """
    pacing, client = run.header.get("pacing") or {}, run.totals.get("client") or {}
    # Where the kernel does not say who waited for a core, only what ran is known.
    share = client.get("runnable_share") or client.get("cpu_share") or 0.0
    starved = client.get("starved_share") or 0.0
    placed = pacing.get("mode") == "concurrency" and not shares_places(run)
    concurrency = pacing.get("value") if placed else None
    if not concurrency or (share < BUSY_SHARE and starved < 1 - HELD_SHARE):
        return None
    held = evidence.held(concurrency)
    if held is None or held >= HELD_SHARE * concurrency:
        return None
    why, cure = (
        f"its busiest process ran or waited for a core {share:.0%} of the time",
        "raise --workers, take fewer streams",
    )
    if share < BUSY_SHARE:
        why = f"none was at hand {starved:.0%} of the time, as answers came faster than they were planned"
        cure = "lower --concurrency"
        if (run.totals.get("workers") or 1) > 1:  # one waits while another's calls fill the memory
            why += ", or one process had fewer to send than another"
            cure += " or --workers"
    return (
        f"this client was the limit of the rate: it held {held:,.0f} of {concurrency:,} requests in flight, "
        f"and {why}; {cure}, or give the replay a core of its own"
    )


def late_sends(_run: Run, evidence: Evidence) -> str | None:
    """Whether the client's own lateness moved a headline quantile."""
    shown, true = evidence.punctual()
    if not len(shown):
        return None
    levels = judged_levels(len(shown))
    quantiles = zip(
        levels, metrics.quantiles(shown, levels), metrics.quantiles(true, levels), strict=True
    )
    for level, measured, unaided in quantiles:
        # Both bounds must be passed: 10 ms are nothing in a
        # second, and a tenth of 5 ms is nobody's concern.
        if measured - unaided > max(BUDGET_S, BUDGET_SHARE * unaided):
            return (
                f"this client sent late: the p{level * 100:.0f} latency is {measured:.3f} s, and "
                f"{unaided:.3f} s without the client's own lateness; lower --speed or the rate, raise "
                "--workers, or give the replay a core of its own"
            )
    return None


def late_loop(run: Run, evidence: Evidence) -> str | None:
    """Whether the event loop was too late to take down when things happened.

    Stamps of the kernel do not wait for it; what it does to the sending is in the lag.
    """
    stall = run.totals.get("loop_stall_s")
    if not stall or stall["p99"] is None or run.totals.get("clock") == "kernel":
        return None
    latency = evidence.latencies()
    allowed = BUDGET_SHARE * metrics.quantiles(latency, (0.5,))[0] if len(latency) else 0.0
    for level, least in STALLS.items():
        if stall[level] > max(least, allowed):
            return (
                f"this client could not keep up: its event loop was {stall[level]:.3f} s late at the "
                f"{level} (at most {stall['max']:.3f} s), so its stamps are; use --sender engine or "
                "fewer streams, raise --workers, or give the replay a core of its own"
            )
    return None


def late_reads(_run: Run, evidence: Evidence) -> str | None:
    """Whether what waited in its socket may have moved a quantile.

    The kernel stamps what meets in a socket with the time of the last: what was read late, with others, came
    some time since the socket was seen empty.
    """
    buffered = metrics.buffered(*evidence.gaps)
    for metric, least, most in evidence.bounds():
        # The same array: no stamp of it was read late.
        if least is most or not len(most) or (metric.spaced and buffered):
            continue
        levels = judged_levels(len(most))
        quantiles = zip(
            levels, metrics.quantiles(least, levels), metrics.quantiles(most, levels), strict=True
        )
        for level, low, high in quantiles:
            if high - low > UNCERTAIN_SHARE * low:
                return (
                    f"this client read answers late: the p{level * 100:.0f} {metric.name} "
                    f"lies between {low:.4g} s and {high:.4g} s, over {UNCERTAIN_SHARE:.0%} apart, as stamps "
                    f"are uncertain by over {metrics.SLICE_S * 1e3:.0f} ms; raise --workers, let the "
                    "streams begin one after another (--spawn-rate), take fewer streams, or give the "
                    "replay a core of its own"
                )
    return None


CAUSES: Final[tuple[Callable[[Run, Evidence], str | None], ...]] = (
    lost_outcomes,
    missing_samples,
    damaged_trace,
    no_connections,
    unfilled_loop,
    late_sends,
    late_loop,
    late_reads,
)
"""What makes a run INVALID; the first that holds is named. Losses come first: they make the rest unknown."""


def judged_levels(n: int) -> list[float]:
    """The quantiles of n samples that can move a run to INVALID."""
    return [level for level in metrics.LEVELS if n * (1 - level) >= BEYOND or level <= 0.5]


def headline(columns: Columns) -> Values:
    """The first token of a stream, the end of anything else."""
    first = metrics.ttft(columns)
    return np.where(np.isnan(first), metrics.e2e(columns), first)


def price_sources(*runs: Run) -> dict[str, list[str]]:
    """Who says what the models of runs cost, and of which of them; an older run does not say."""
    sources: dict[str, list[str]] = {}
    for run in runs:
        given = (run.header.get("target") or {}).get("prices") or {}
        prices = {model: Price(*figures) for model, figures in given.items()}
        for source, models in priced_by(prices, sorted(words(run.columns, "model"))).items():
            sources[source] = sorted({*sources.get(source, ()), *models})
    return sources
