"""The end of a replay in words: what a person reads on stdout, and why nothing succeeded."""

import math
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from tbench.capture.errors import UnreachableError
from tbench.capture.exchange import NOTHING, Outcome
from tbench.capture.terminal import named, plural
from tbench.replay import metrics
from tbench.replay.dialects import CHANGES
from tbench.replay.estimate import Estimate
from tbench.replay.hit_rates import BLOCK_TOKENS, CLOSE
from tbench.replay.metrics import Metric, Values
from tbench.replay.portability import BONDS
from tbench.replay.runfile import Run
from tbench.replay.table import where
from tbench.replay.target import KEYS
from tbench.replay.throughput import drained, spoken, three, usd
from tbench.replay.totals import identity, loss, price_sources, shortfalls
from tbench.replay.waiting import REMEMBERED

LATENCIES: Final = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
MORE_LATENCIES: Final = {"itl": "ITL", "lag": "schedule lag"}
"""Rows that only --verbose adds: ITL repeats TPOT where each event carries one token."""
SHOWN: Final = ("mean", "p50", "p90", "p95", "p99", "max")


def summary(run: Run, numbers: Mapping[str, Any], *, verbose: bool = False) -> Iterator[str]:
    """The lines that `tbench replay` prints: ten, and one more for each thing that went otherwise."""
    pacing, target = run.header.get("pacing") or {}, run.header.get("target") or {}
    yield (
        f"{run.path}  {plural(numbers['planned'], 'request')} in {three(numbers['duration_s'])} s, "
        f"{pacing.get('meaning', 'pacing unknown')} -> {target.get('base_url', '-')}"
    )
    yield from _requests(run, numbers)
    if buffered := metrics.buffered(*metrics.gaps(metrics.counted(run.columns))):
        yield row("buffered", buffered)
    flight = numbers["in_flight"]
    mean = "-" if flight["mean"] is None else three(flight["mean"])
    rates = f"{spoken(numbers)}, mean concurrency {mean} (max {flight['max'] or 0:,})"
    yield row("throughput", rates)
    if drain := drained(numbers["drain"]):
        yield row("drain", drain)
    table = list(_table(run, numbers, LATENCIES | (MORE_LATENCIES if verbose else {})))
    yield from table
    yield from _client(run, numbers)
    yield row("fidelity", run.fidelity.sentence)
    cost, sources = run.totals.get("cost") or {}, price_sources(run)
    if cost and (cost["usd"] or (sources and (cost["uncounted"] or numbers["completed"]))):
        text = priced(cost["usd"], cost["uncounted"], cost["unpriced"], sources)
        parts = {"warm-up": run.columns["warmup"].any(), "probe": probed(run)}
        more = " and ".join(f"the {part}" for part, counts in parts.items() if counts)
        yield row("cost", f"{text}, with {more}" if more and cost["usd"] else text)
    if waited := cost.get("waited"):
        yield row(
            "budget",
            f"{plural(waited, 'request')} waited until others had cost less than they might: with a higher "
            "--max-cost more would have been in flight",
        )
    if verbose:
        since = "was sent: a closed loop schedules none"
        if pacing.get("open_loop"):
            since = "was scheduled (coordinated-omission corrected)"
        yield row("latency", f"counts from when a request {since}")
        if not run.totals.get("lost_workers"):  # then it stands above
            yield row("identity", str(identity(run)))
        if (coalesced := run.totals.get("coalesced_share")) is not None:
            yield row(
                "chunks", f"{coalesced:.1%} of tokens coalesced: read together with a later one"
            )
    if any("*" in line for line in table):
        yield FEW
    yield row(
        "next", f"tbench report {shlex.quote(str(run.path))}, or tbench compare it with another run"
    )


def _requests(run: Run, numbers: Mapping[str, Any]) -> Iterator[str]:
    """What became of every request, and what of the recorded traffic was not replayed as it was asked."""
    totals = run.totals
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in numbers["errors"].items())
    rare = [fate for fate in ("cancelled", "lost_in_flight", "never_sent") if numbers[fate]]
    parts = [
        f"{numbers['completed']:,} ok",
        f"{numbers['failed']:,} failed" + (f" ({kinds})" if kinds else ""),
        *(f"{numbers[fate]:,} {fate.replace('_', ' ')}" for fate in rare),
    ]
    if warm := int(run.columns["warmup"].sum()):
        parts.append(f"warm-up (in no rate or latency): the first {warm:,} of those sent")
    yield row("requests", ", ".join(parts))
    if lost := loss(run):
        yield row("lost", lost)
        yield row("identity", str(identity(run)))
    yield from _skipped(totals.get("skipped") or {})
    yield from departures(totals, run.header.get("target", {}).get("base_url", "-"))
    yield from _unread(totals.get("shards") or ())
    if told := probed(run):
        yield row("probe", told)
    for lack in shortfalls(run):
        yield row("note", lack)
    polite, pacing = run.header.get("target", {}).get("polite"), run.header.get("pacing") or {}
    yield from _rate_limit(run, numbers)
    held = run.columns["held"]
    if waited := int((held > 0).sum()):
        reason = "for --max-in-flight" if pacing.get("max_in_flight") else "for --max-cost"
        reason = "as the target had refused others" if polite else reason
        counts = "part" if pacing.get("open_loop") else "no part"
        yield row(
            "queued",
            f"{plural(waited, 'request')} waited {reason}, {held.max():.3f} s at most: that is "
            f"{counts} of their latency",
        )


def _unread(shards: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Which machines did not read the trace themselves, and why."""
    workers: dict[tuple[str, str], list[int]] = {}
    for shard in shards:
        if reason := shard.get("unread"):
            workers.setdefault((shard["node"], reason), []).append(shard["worker"])
    for (node, reason), numbers in workers.items():
        yield row(
            "trace",
            f"was read by this command for {plural(len(numbers), 'worker')} on {node}, where it is not to be "
            f"read ({reason}): each request crossed the network twice; a URL of a store, or a disk that the "
            "machines share, spares that",
        )


SCARCE: Final = 0.1
"""Where less of a target's limit remained at some time, it is shown."""


def _rate_limit(run: Run, numbers: Mapping[str, Any]) -> Iterator[str]:
    """What the target's limits are, where they were felt or nearly so, and what was asked of it."""
    again, outright = numbers["refused"].get("requests", 0), numbers["errors"].get("http_429", 0)
    limits = numbers["rate_limits"]
    stated = [
        f"{named(kind)} {figures['limit']:,.9g} allowed, {figures['remaining']:,.9g} left at the least"
        for kind, figures in limits.items()
        if {"limit", "remaining"} <= figures.keys()
        and (again or outright or figures["remaining"] < SCARCE * figures["limit"])
    ]
    if not (stated or again or outright):
        return
    sent = run.columns["sent"]
    sent = np.sort(sent[~np.isnan(sent)])
    second, minute = (
        # Windows that begin with a request: any other can be moved to the next one without losing any.
        int((sent.searchsorted(sent + span) - np.arange(len(sent))).max(initial=0))
        for span in (1, 60)
    )
    yield row(
        "rate limit",
        f"{'; '.join(stated) or 'not stated by the target'}; this run sent up to {second:,} requests in a "
        f"second, {minute:,} in a minute"
        + (
            ""
            if again
            else ": limits that grow with steady traffic want a slower start; --polite waits as asked"
        ),
    )


def _skipped(reasons: Mapping[str, int]) -> Iterator[str]:
    if reasons:
        yield row("skipped", ", ".join(f"{n:,} {named(why)}" for why, n in reasons.items()))


def probed(run: Run) -> str | None:
    """What the two equal requests before the run told of the target's cache (replay.probe), in words."""
    told = (run.header.get("cache") or {}).get("probe")
    if not told:
        return None
    cached, prompt = told.get("cached"), told.get("prompt") or 0
    if (told.get("completed") or 0) < 2:
        return (
            "its two requests were not both answered, or --max-cost did not cover them: whether the target "
            "names cached tokens is not known"
        )
    if cached is None:
        return "two equal requests named no cached tokens: what a cache serves is not known here"
    return (
        f"of two equal requests the second had {cached:,} of {prompt:,} prompt tokens from a cache"
    )


WAITS: Final[dict[str, str]] = {
    "max": "each leaves when that has ended here and the think time has passed, or at its time if later",
    "think": "each leaves when that has ended here and the think time has passed",
    "strict": "each leaves at its time, whether that has ended here or not",
}
"""What a turn waits for, by --causal (replay.waiting);"""
WAITS_IN_PLACE: Final[dict[str, str]] = {
    **dict.fromkeys(("max", "think"), WAITS["think"] + ", and a place is free"),
    "strict": "each leaves when a place is free, whether that has ended here or not",
}
"""and in a closed loop, where none has a time of its own."""


THREADED: Final = {
    "threaded": "turns hold the target's own answer",
    "other_tools": "hold the recorded one, as the target called other tools",
    "forgotten": "hold the recorded one, as the target's is not remembered any more",
    "no_answer": "hold the recorded one, as the target's could not be read or was cut",  # of older runs
    "rewritten": "hold the recorded one, as their client had not sent all of the history as it was",
    "not_json": "hold the recorded one, as their body is no plain JSON",
    "unreadable": "not sent, as the target's answer could not be read",
    "cut": "not sent, as the target's answer was cut, or ended within a tool's call",
    "empty": "not sent, as the target had answered with neither words nor calls",
}
"""What became of the answer that a turn continues (replay.live_history)."""


def _turns(turns: Mapping[str, Any]) -> Iterator[str]:
    """What became of the turns that continue an earlier answer."""
    live = turns.get("live")
    parts = {
        "waited": "left later than scheduled, when it had ended",
        "early": "left before it had ended",
        "skipped": "not sent, as it failed or was of no use" if live else "not sent, as it failed",
    }
    if severed := turns.get("severed"):
        held = f"{severed:,} hold another conversation's answer, which is sent apart,"
        yield row("turns", f"{held} and did not wait for it")
    if forgotten := turns.get("forgotten"):
        least = f"over {REMEMBERED:,} requests before"
        held = f"{forgotten:,} hold an answer of {least}, which is not remembered,"
        yield row("turns", f"{held} and did not wait for it")
    if live:
        yield row("history", "; ".join(f"{n:,} {THREADED[why]}" for why, n in live.items()))
    if turns.get("continued", 0) is None:
        yield row(
            "turns", "what became of them is not known: a worker that was lost had counted it"
        )
    if count := turns.get("continued"):
        fates = "; ".join(
            f"{turns[fate]:,} {words}" for fate, words in parts.items() if turns[fate]
        )
        yield row(
            "turns", f"{count:,} continue an earlier answer" + (f": {fates}" if fates else "")
        )


VAGUE: Final = 0.2
"""A planned hit rate that a block of tokens a request moves by more than this tells nothing."""


def _hits(rates: Mapping[str, Any]) -> Iterator[str]:
    """Hit rates of a cache, and whether the target knew more than this run sent."""
    if not rates:
        return
    planned, served, recorded = (rates.get(name) for name in ("planned", "served", "recorded"))
    least = rates.get("planned_least")
    block = BLOCK_TOKENS * rates["requests"] / rates["prompt_tokens"]
    parts = [
        f"{name} {'not known' if rate is None else f'{rate:.1%}'}"
        for name, rate in (("planned", planned), ("served", served), ("recorded", recorded))
    ]
    if least is not None and planned - least > CLOSE:
        parts[0] += f" ({least:.1%} without what was still being read)"
    if block > VAGUE:
        parts[0] = "planned not told: prompts are too short"
    elif block > CLOSE:
        parts[0] += f" (± {100 * block:.1f}, a block of {BLOCK_TOKENS} tokens a request)"
    # A plan knows bytes: where a system prompt's language takes fewer of them for a token than the users',
    # its rate is too low, which the recorded rate is not.
    certain = max(planned + block, recorded or 0.0) + CLOSE
    knew = served is not None and served > certain
    hint = (
        "; it seems to know prompts of an earlier run (--cache structure keeps them apart)"
        if knew
        else ""
    )
    count = plural(rates["requests"], "request")
    yield row("cache", f"hit rate of {count}: {', '.join(parts)} of prompt tokens{hint}")


KEPT: Final = {
    "no_length": "how long the recorded answer was is not known: not limited by --match-length",
    "thinking": "its budget for thinking is more than the recorded length: not limited by --match-length",
    "not_json": "not a JSON object, sent as recorded",
    "no_model": "no model named, sent without one",
    "no_limit": "the limit that --set names is another API's: chat and Messages have max_tokens, Responses "
    "max_output_tokens, OpenAI's models that reason max_completion_tokens; each takes its own of several",
}


def row(label: str, text: str) -> str:
    """A line of a summary: what it is about, and the text, in a column of its own."""
    return f"{label:<12}{text}"


def changed(portability: Mapping[str, int]) -> Iterator[str]:
    """What requests went without, or with another of, and why; their counts by reason."""
    for reason, count in portability.items():
        requests = plural(count, "request")
        if bond := BONDS.get(reason):
            another, why = bond.becomes is not None, bond.why
        else:
            another = reason in CHANGES
            why = CHANGES.get(reason, "it has no place in the dialect of --to")
        yield f"{requests} sent with{' another' if another else 'out'} {named(reason)}: {why}"


def departures(counts: Mapping[str, Any], base_url: str) -> Iterator[str]:
    """What of a run or a dry run is not what one would think.

    That is `idle`, `tick_s`, `hosts`, `portability`, `unchanged` and `masked`; of a run also what became of
    its `turns`, and what its target made of it: `reconnected`, `refused`.
    """
    if again := counts.get("reconnected"):
        sent = sum(counts[fate] for fate in ("completed", "failed", "cancelled"))
        yield row(
            "target",
            f"closes connections unannounced: {again:,} of {sent:,} calls were sent twice, "
            "which is part of their latency",
        )
    if (refused := counts.get("refused")) and refused["requests"]:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in refused["attempts"].items())
        lost = refused["given_up"]
        yield row(
            "polite",
            f"{refused['requests']:,} of {counts['planned']:,} requests were refused at first ({kinds}) and "
            f"sent again, after {three(refused['waited_s'])} s of waiting in all, which is part of their "
            "latency" + (f"; {lost:,} given up, refused to the last" if lost else ""),
        )
    yield from _hits(counts.get("hit_rates") or {})
    if isinstance(turns := counts.get("turns"), Mapping):  # a dry run only has their number
        yield from _turns(turns)
    if idle := counts.get("idle"):
        stretches = plural(round(idle.get("stretches") or 0), "stretch", "stretches")
        within = ""
        if thought := idle.get("think_times"):  # no arrival counts here
            stretches, within = "stretches", f" within {plural(round(thought), 'think time')}"
        yield row(
            "idle",
            f"{stretches} without a request in flight{within} cut to --max-idle, by "
            f"{three(idle['seconds'])} s in all",
        )
    if tick := counts.get("tick_s"):
        yield row(
            "clock",
            f"arrivals were logged in ticks of {tick:g} s, and those of a tick leave together: "
            "'tbench trace import --spread' draws them within it",
        )
    hosts, unchanged = counts.get("hosts") or {}, counts.get("unchanged") or {}
    if len(hosts) > 1:
        each = ", ".join(f"{named(host)} {count:,}" for host, count in list(hosts.items())[:8])
        yield row("hosts", f"recorded at {len(hosts):,} ({each}), all sent to {base_url}")
    for text in changed(counts.get("portability") or {}):
        yield row("portable", text)
    for reason, count in unchanged.items():
        words = KEPT.get(
            reason, f"{named(reason)}, which --model is not for: use --map-model OLD=NEW"
        )
        yield row("unchanged", f"{plural(count, 'request')}: {words}")
    for member, count in (counts.get("masked") or {}).items():
        yield row(
            "masked",
            f"{plural(count, 'request')}: asterisks for a credential in {named(member)}, which the "
            f"capture did not keep; to put it back: --set '{named(member)}=JSON', the whole member",
        )


BUSY: Final = 0.9
"""A sending process that was busier than this share of a core may have been the limit of the rate."""


def _client(run: Run, numbers: Mapping[str, Any]) -> Iterator[str]:
    """Whether this client was the limit, and how near it came."""
    client, lag = run.totals.get("client") or {}, numbers["lag_s"]["p95"]
    share = client.get("cpu_share")
    parts = [] if lag is None else [f"schedule lag p95 {three(lag * 1e3)} ms"]
    if share is not None:
        parts.append(f"{plural(run.totals['workers'], 'worker')}, CPU {share:.0%}")
    if uncertain := numbers["uncertain_first_tokens"]:
        parts.append(f"{plural(uncertain, 'first token')} uncertain by over 1 ms")
    if client.get("steal_s"):
        parts.append(f"CPU steal {client['steal_s']:.1f} s")
    if share is not None and share > BUSY:
        parts.append("its own limit may be in the rate: raise --workers")
    if parts:
        yield row("client", f"{'OK' if numbers['valid'] else 'INVALID'}: {', '.join(parts)}")


def _table(run: Run, numbers: Mapping[str, Any], rows: Mapping[str, str]) -> Iterator[str]:
    """Latencies outside the warm-up; a row for each metric that a success has a value of.

    Mean and max are of the successes. A timeout is slower than any of them, as in `report` and `compare`: of
    a quantile that lies among the timeouts it is told what it is no less than.
    """
    yield f"{'latency, ms':<14}{''.join(f'{name:>8} ' for name in SHOWN)}{'n':>8}"
    every = where(run.columns, "outcome", Outcome.TIMEOUT)
    timeouts = every & ~run.columns["warmup"]
    waited = (run.columns["end"] - metrics.origin(run.columns))[every]
    waited = waited[np.isfinite(waited)]
    for name, heading in rows.items():
        metric = metrics.METRICS[name]
        figures, n, hidden = with_hidden(run, name, numbers[f"{name}_s"])
        if not n:
            continue
        wait = float(waited.min()) if metric.waits and len(waited) else None
        value = partial(metrics.quantile, np.append(_ranked(run, metric), np.full(hidden, np.inf)))
        cells = []
        for column in SHOWN:
            seconds, text = figures[column], ""
            if seconds is not None:
                text = three(seconds * 1e3)
            elif figures["max"] is not None:  # it is not refused, but hidden
                level = metrics.NAMED[column]
                least = metrics.exceeded(value, n + hidden, hidden, level, wait)
                text = "-" if least is None else f">{three(least * 1e3)}"
            cells.append(text + (mark(column, n + hidden) or " ") if text else "- ")
        yield f"{'  ' + heading:<14}{''.join(f'{cell:>9}' for cell in cells)}{n + hidden:>8,}"
    if timeouts.any():
        count = plural(int(timeouts.sum()), "timeout")
        yield f"  with {count} as slower than any other; mean and max are of the rest"


def _ranked(run: Run, metric: Metric) -> Values:
    """The values of the completed requests outside the warm-up, in ascending order."""
    values = metric.of(metrics.counted(run.columns))
    return np.sort(values[~np.isnan(values)])


def with_hidden(
    run: Run, name: str, figures: Mapping[str, float | None]
) -> tuple[Mapping[str, float | None], int, int]:
    """The `figures` of a metric in `replay --json`, with its timeouts as slower than any other value.

    Then how many values it has, and how many timeouts. A quantile that lies among these is None.
    """
    metric, columns = metrics.METRICS[name], run.columns
    values = _ranked(run, metric)
    timeouts = where(columns, "outcome", Outcome.TIMEOUT) & ~columns["warmup"] & metric.latency
    hidden = int((timeouts & columns["stream"] if metric.streamed else timeouts).sum())
    if hidden and figures["mean"] is not None:
        figures = {**figures, **metrics.with_timeouts(values, hidden)}
    return figures, len(values), hidden


FEW: Final = "* few samples: a hint without an interval (p95 needs 400, p99 2,000)"
"""Under a table with a quantile that has too few values for an interval."""


def mark(column: str, n: int) -> str:
    """The mark of a quantile of so many values that `report` gives no interval for it; else nothing."""
    level = metrics.NAMED.get(column)
    return "*" if level is not None and 0 < n < metrics.minimum_n(level) else ""


def outlook(seen: Estimate) -> Iterator[str]:
    """The lines of a dry run."""
    about = "about " if seen.estimated else ""
    yield row("pacing", seen.pacing)
    yield row("target", seen.base_url)
    closed = seen.estimated and seen.peak_rate is None
    at = " at the recorded latencies" if closed else ""
    count = f"{seen.requests:,}"
    if seen.requests_estimated:
        faster = ": a faster target is sent more" if closed else ""
        count = f"about {count}{at}{faster}"
    yield row("requests", count)
    yield from _skipped(seen.skipped)
    waits = WAITS_IN_PLACE if closed else WAITS
    if seen.turns and seen.causal in waits:
        yield row("turns", f"{seen.turns:,} continue an earlier answer: {waits[seen.causal]}")
    if seen.probe_requests:
        yield row("probe", "two equal requests before all, of few tokens: they are in the cost")
    yield from departures(asdict(seen), seen.base_url)
    yield row("duration", f"{about}{seen.duration_s:.1f} s{at}")
    mean = "-" if seen.mean_rate is None else f"{seen.mean_rate:.2f}"
    peak = "" if seen.peak_rate is None else f", {seen.peak_rate:.0f} in the busiest second"
    yield row("rate", f"{about}{mean} requests/s{peak}")
    bursts = []
    for each in seen.burstiness:
        sides = (each.recorded, each.intended)
        shown = ("-" if figure is None else three(figure) for figure in sides)
        bursts.append(f"{each.name} {' -> '.join(shown)}")
    if bursts:
        yield row("burstiness", f"recorded -> planned: {', '.join(bursts)}")
    tokens = tokens_expected(
        seen.prompt_tokens, seen.output_tokens, uncounted=seen.uncounted, requests=seen.requests
    )
    yield row("tokens", tokens)
    cost = "unknown: the trace does not say how many tokens its requests used"
    if seen.cost_usd is not None or seen.unpriced:
        cost = priced(seen.cost_usd, seen.uncounted, seen.unpriced, seen.prices, about="about ")
    yield row("cost", cost)
    if seen.budget_usd:
        yield row("budget", f"a --max-cost of {dollars(seen.budget_usd)} should last to the end")


def tokens_expected(prompt: int, output: int, *, uncounted: int, requests: int) -> str:
    """What a dry run says of the tokens of so many requests, of which some name none."""
    tokens = f"{prompt:,} prompt, {output:,} output expected"
    if not uncounted:
        return tokens
    if uncounted >= requests:
        return "unknown: the trace names none"
    return f"at least {tokens}, {plural(uncounted, 'request')} without token counts"


def priced(
    cost: float | None,
    uncounted: int,
    unpriced: Iterable[str],
    sources: Mapping[str, Collection[str]] = NOTHING,
    *,
    about: str = "",
) -> str:
    """A cost, what it leaves out, and the `sources` of its prices, each with its models."""
    omitted = [f"{plural(uncounted, 'request')} without token counts"] if uncounted else []
    if models := ", ".join(map(named, unpriced)):
        omitted.append(f"models without a known price: {models}")
    if cost is None or (omitted and not cost):
        return f"unknown ({'; '.join(omitted)})"
    alone = len(sources) == 1
    by = [
        source if alone else f"{source} for {', '.join(map(named, models))}"
        for source, models in sources.items()
    ]
    at = f" at {', '.join(by)}" if by else ""
    less = f" (left out: {'; '.join(omitted)})" if omitted else ""
    least = "at least " if omitted else ""
    return f"{least}{about}{usd(cost)}{at}{less}"


def dollars(usd: float) -> str:
    """A sum to be given as a budget: two digits, rounded up."""
    step = 10.0 ** (math.floor(math.log10(usd)) - 1) if usd else 1.0
    # Rounded first: 0.28 / 0.01 is 28.000000000000004, and would become 29. Of 29 steps
    # 0.29 is left by the 12 digits: the product has a tail of its own.
    return f"{math.ceil(round(usd / step, 6)) * step:.12g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The options of a verb that name its target, as a hint calls them.

    `sent` says which key was sent; None: the one in the variable that the run names. Where none was sent,
    `variable` is looked for, and `instead` is what else gives one.
    """

    address: str = "--base-url"
    model: str = "--model"
    key: str = "--api-key-env or --header"
    sent: str | None = None
    variable: str = "TOGETHER_API_KEY"
    instead: str = "name another with --api-key-env"


REPLAY: Final = Flags()


def check_reached(run: Run, numbers: Mapping[str, Any], flags: Flags = REPLAY) -> None:
    """Raise UnreachableError when requests were sent and none succeeded, saying what to do."""
    if numbers["completed"] or not numbers["failed"] or run.totals.get("client_limit"):
        return
    kind, count = next(iter(numbers["errors"].items()))
    raise UnreachableError(_nothing_succeeded(run, kind, count, flags))


def _nothing_succeeded(run: Run, kind: str, count: int, flags: Flags) -> str:
    """Why: of which kind most failures are, with the first message of that kind, and what to do about it."""
    target, columns = run.header["target"], run.columns
    failed = columns["outcome"] == kind
    if kind.startswith("http_"):
        failed = columns["status"] == int(kind.removeprefix("http_"))
    messages = columns["error"][np.flatnonzero(failed)]
    message = next((str(text) for text in messages if text), kind)
    where = target["base_url"]
    if kind == "connect_error":
        return f"{where}: cannot connect ({message}); is the server running, and is {flags.address} right?"
    if kind in {"http_401", "http_403"}:
        if target["api_key_env"] or not KEYS.isdisjoint(target.get("headers") or ()):
            sent = flags.sent or f"the key in {target['api_key_env'] or 'a header'}"
            return f"{where}: refused {sent} ({message}); set {flags.key}"
        cure = f"{flags.variable} is not set; export it or {flags.instead}"
        if os.environ.get(flags.variable):
            cure = f"none was sent, as was asked; {flags.instead}"
        return f"{where}: wants a key ({message}): {cure}"
    if kind in {"http_400", "http_404"}:
        models = ", ".join(sorted({named(str(model)) for model in columns["model"]})[:3])
        return (
            f"{where}: refused all {count:,} requests for model {models} with {kind[5:]} ({message}); "
            f"give a model it has with {flags.model}, or another {flags.address}"
        )
    cure = "; --http2 sends HTTP/2 without asking: leave it out where the server has none"
    cure = cure if target.get("http2") and not kind.startswith("http_") else ""
    return f"{where}: no request succeeded, {count:,} ended with {kind} ({message}){cure}"
