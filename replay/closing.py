"""The end of a replay in words: what a person reads on stdout, and why nothing succeeded."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from tbench.capture.errors import UnreachableError
from tbench.capture.exchange import Outcome
from tbench.capture.terminal import named, plural
from tbench.replay import measures
from tbench.replay.forecast import Forecast
from tbench.replay.runfile import Run
from tbench.replay.table import where
from tbench.replay.target import KEYS
from tbench.replay.throughput import spoken
from tbench.replay.totals import identity

LATENCIES: Final = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "e2e_s": "end to end",
    "lag_s": "lag",
}
SHOWN: Final = ("mean", "p50", "p90", "p95", "p99", "max")


def summary(run: Run, numbers: Mapping[str, Any]) -> Iterator[str]:
    """The lines that `tbench replay` prints."""
    yield f"run       {run.path}"
    yield f"pacing    {(run.header.get('pacing') or {}).get('meaning', '-')}"
    yield f"identity  {identity(run)}"
    if skipped := run.totals.get("skipped"):
        yield "left out  " + ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
    yield from departures(run.totals, run.header.get("target", {}).get("base_url", "-"))
    if unsalted := (run.totals.get("unsalted") or {}).values():
        count = plural(sum(unsalted), "request")
        yield f"cache     {count} had no text for the salt: a cache may have known them"
    yield from _lost(run.totals.get("trace_losses") or {})
    if errors := numbers["errors"]:
        yield "errors    " + ", ".join(f"{count:,} {kind}" for kind, count in errors.items())
    if warm := int(run.columns["warmup"].sum()):
        yield f"warm-up   {plural(warm, 'request')} left out of throughput and latency"
    yield _load(numbers)
    yield from _held(run)
    yield from _client(run, numbers)
    yield from _cost(run)
    if buffered := measures.buffered(*measures.gaps(measures.counted(run.columns))):
        yield f"buffered  {buffered}"
    yield _table(numbers, run)


KEPT: Final = {
    "not_json": "are no JSON object: sent as recorded",
    "no_model": "name no model: sent without one",
}


def departures(counts: Mapping[str, Any], base_url: str) -> Iterator[str]:
    """Where `hosts`, `unchanged` and `masked` of a run or a dry run are not what one may take for granted.

    Of a run also what the target made the sender do: `reconnected`.
    """
    if again := counts.get("reconnected"):
        sent = sum(counts[fate] for fate in ("completed", "failed", "cancelled"))
        yield (
            f"target    closes connections unannounced: {again:,} of {sent:,} calls were sent twice, "
            "which is part of their latency"
        )
    hosts, unchanged = counts.get("hosts") or {}, counts.get("unchanged") or {}
    if len(hosts) > 1:
        each = ", ".join(f"{named(host)} {count:,}" for host, count in list(hosts.items())[:8])
        yield f"hosts     recorded at {len(hosts):,} ({each}), all sent to {base_url}"
    for reason, count in unchanged.items():
        words = KEPT.get(
            reason, f"are {named(reason)}, which --model is not for: use --map-model OLD=NEW"
        )
        yield f"unchanged {count:,} requests {words}"
    for member, count in (counts.get("masked") or {}).items():
        yield (
            f"masked    {count:,} requests hold asterisks for a credential in {named(member)}, which the "
            f"capture did not keep; to put it back: --set '{named(member)}=JSON', the whole member"
        )


def _lost(losses: Mapping[str, Any]) -> Iterator[str]:
    """What of the recorded traffic could not be replayed, as the trace does not hold it."""
    if losses.get("truncated_tail"):
        yield "trace     cut short (its capture was killed, or still runs): what it held last is missing"
    if dropped := losses.get("dropped_requests"):
        count = plural(dropped, "request")
        yield f"trace     {count} passed its capture unrecorded (memory or disk ran short)"


def _load(numbers: Mapping[str, Any]) -> str:
    flight = numbers["in_flight"]
    mean = "-" if flight["mean"] is None else f"{flight['mean']:.2f}"
    return (
        f"throughput {spoken(numbers)}\n"
        f"load      {numbers['duration_s']:.1f} s, in flight {mean} on average, {flight['max'] or 0} at most"
    )


def _held(run: Run) -> Iterator[str]:
    held = run.columns["held"]
    if waited := int((held > 0).sum()):
        yield (
            f"valve     {plural(waited, 'request')} waited for --max-in-flight, {held.max():.3f} s at most: "
            "that is part of their latency"
        )


BUSY: Final = 0.9
"""A sending process that was busier than this share of a core may have been the limit of the rate."""


def _client(run: Run, numbers: Mapping[str, Any]) -> Iterator[str]:
    """How near this client was to its own limits."""
    client = run.totals.get("client") or {}
    share, together = client.get("cpu_share"), run.totals.get("coalesced_share")
    if share is None:
        return
    parts = [f"{run.totals['workers']} sending, the busiest {share:.0%} of a core"]
    if together is not None:
        parts.append(f"{together:.1%} of tokens share the stamp of a later one")
    if uncertain := numbers["uncertain_first_tokens"]:
        parts.append(f"{uncertain:,} first tokens may have come over 1 ms before their stamp")
    if client.get("steal_s"):
        parts.append(f"{client['steal_s']:.1f} s of CPU went to other machines")
    if share > BUSY:
        parts.append("its own limit may be in the rate: raise --workers")
    yield "client    " + "; ".join(parts)


def _cost(run: Run) -> Iterator[str]:
    """What the successes cost, and what that leaves out."""
    cost = run.totals.get("cost") or {}
    if cost.get("usd") or cost.get("uncounted"):
        yield f"cost      {priced(cost['usd'], cost['uncounted'], cost['unpriced'])}"


def _table(numbers: Mapping[str, Any], run: Run) -> str:
    since = "due" if (run.header.get("pacing") or {}).get("open_loop") else "sent"
    late = where(run.columns, "outcome", Outcome.TIMEOUT) & ~run.columns["warmup"]
    n = int(measures.completed(run.columns).sum())
    head = f"latency   from {since}, ms, n = {n:,}" + (
        f" (without {plural(int(late.sum()), 'timeout')}, slower than any in 'tbench report')"
        if late.any()
        else ""
    )
    counted = measures.counted(run.columns)
    rows = [head, " " * 20 + "".join(name.rjust(10) for name in SHOWN)]
    for key, name in LATENCIES.items():
        of = int((~np.isnan(measures.METRICS[key](counted))).sum())
        cells = [_cell(numbers[key][column], column, of) for column in SHOWN]
        rows.append(" " * 10 + name.ljust(10) + "".join(cell.rjust(10) for cell in cells).rstrip())
    if any("*" in row for row in rows):
        rows.append(f"          {FEW}")
    return "\n".join(rows)


FEW: Final = "* few values: read it as a hint, it has no interval"
"""Under a table with a quantile that has too few values for an interval."""


def mark(column: str, n: int) -> str:
    """The mark of a quantile of so many values that `report` gives no interval for it; else nothing."""
    level = measures.NAMED.get(column)
    return "*" if level is not None and 0 < n < measures.minimum_n(level) else ""


def _cell(seconds: float | None, column: str, n: int) -> str:
    """A time of so many values in ms, with its mark."""
    return "- " if seconds is None else f"{seconds * 1e3:.1f}{mark(column, n) or ' '}"


def outlook(seen: Forecast, meaning: str) -> Iterator[str]:
    """The lines of a dry run."""
    about = "about " if seen.estimated else ""
    yield f"pacing    {meaning}"
    yield f"target    {seen.base_url}"
    yield f"requests  {about}{seen.requests:,}"
    if seen.skipped:
        yield "left out  " + ", ".join(
            f"{count:,} {named(why)}" for why, count in seen.skipped.items()
        )
    yield from departures(asdict(seen), seen.base_url)
    at = " at the recorded latencies" if seen.estimated and seen.peak_rate is None else ""
    yield f"duration  {about}{seen.duration_s:.1f} s{at}"
    mean = "-" if seen.mean_rate is None else f"{seen.mean_rate:.2f}"
    peak = "" if seen.peak_rate is None else f", {seen.peak_rate:.0f} in the busiest second"
    yield f"rate      {about}{mean} requests/s{peak}"
    yield f"tokens    {seen.prompt_tokens:,} prompt, {seen.output_tokens:,} output expected"
    yield f"cost      {_price(seen)}"


def _price(seen: Forecast) -> str:
    if seen.cost_usd is None and not seen.unpriced:
        return "unknown: the trace does not say how many tokens its requests used"
    return priced(seen.cost_usd, seen.uncounted, seen.unpriced, about="about ")


def priced(usd: float | None, uncounted: int, unpriced: Iterable[str], *, about: str = "") -> str:
    """A cost by list prices, and what it leaves out."""
    omitted = [f"{plural(uncounted, 'request')} without token counts"] if uncounted else []
    if models := ", ".join(map(named, unpriced)):
        omitted.append(f"models without a known price: {models}")
    if usd is None or (omitted and not usd):
        return f"unknown ({'; '.join(omitted)})"
    less = f" (left out: {'; '.join(omitted)})" if omitted else ""
    if 0 < usd < LEAST_USD:
        return f"under ${LEAST_USD:.4f} at list prices{less}"
    return f"{about}${usd:,.{2 if usd >= 1 else 4}f} at list prices{less}"


LEAST_USD: Final = 0.0001
"""A cost below this has no digit to show."""


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
    raise UnreachableError(_cause(run, kind, count, flags))


def _cause(run: Run, kind: str, count: int, flags: Flags) -> str:
    target = run.header["target"]
    said = _said(run, kind)
    where = target["base_url"]
    if kind == "connect_error":
        return f"{where}: cannot connect ({said}); is the server running, and is {flags.address} right?"
    if kind in {"http_401", "http_403"}:
        if not target["api_key_env"] and KEYS.isdisjoint(target.get("headers") or ()):
            return f"{where}: wants a key ({said}): {_keyless(flags)}"
        sent = flags.sent or f"the key in {target['api_key_env'] or 'a header'}"
        return f"{where}: refused {sent} ({said}); set {flags.key}"
    if kind in {"http_400", "http_404"}:
        return (
            f"{where}: refused all {count:,} requests for model {_models(run)} with {kind[5:]} ({said}); "
            f"give a model it has with {flags.model}, or another {flags.address}"
        )
    return f"{where}: no request succeeded, {count:,} ended with {kind} ({said})"


def _keyless(flags: Flags) -> str:
    if os.environ.get(flags.variable):
        return f"none was sent, as was asked; {flags.instead}"
    return f"{flags.variable} is not set; export it or {flags.instead}"


def _said(run: Run, kind: str) -> str:
    columns = run.columns
    if kind.startswith("http_"):
        rows = columns["status"] == int(kind.removeprefix("http_"))
    else:
        rows = columns["outcome"] == kind
    return next((str(text) for text in columns["error"][np.flatnonzero(rows)] if text), kind)


def _models(run: Run) -> str:
    return ", ".join(sorted({named(str(model)) for model in run.columns["model"]})[:3])
