"""The aggregate of a point: statistics over its requests, rates over its time, errors with their rate."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tbench.benchmark.figures import LATENCIES, WHOLE, cancelled, error_codes, figures
from tbench.replay.columns import Column
from tbench.replay.measures import Columns, Values
from tbench.replay.throughput import throughput

PERCENTILES: Final = (25, 50, 75, 90, 95, 99)
AUDIO: Final = "audio_throughput"
"""A member of genai-bench's schema, which its loader wants; always null, since no task here gives sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """Shares of the requests that are left out, the first and the last ones to end: 0 to 1 together."""

    warmup: float = 0.0
    cooldown: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What of a run the aggregate is over.

    `rows` are the places of the requests that count, `duration_s` the time in which they ended: the whole
    run's without a trim (from the first request sent to the last end, as replay.throughput has it), else
    from the end of the last request before them to that of their last one, so that requests and time are
    cut alike.
    """

    rows: Column
    duration_s: float


def counted(columns: Columns, trim: Trim) -> Counted:
    """Cut the first and the last of the requests, by when they ended."""
    answered = np.flatnonzero(~cancelled(columns) & ~np.isnan(columns["end"]))
    order = answered[np.argsort(columns["end"][answered], kind="stable")]
    n = len(order)
    first, last = int(n * trim.warmup), n - int(n * trim.cooldown)
    if not n:
        return Counted(rows=order, duration_s=0.0)
    end = columns["end"][order]
    began = float(end[first - 1]) if first else float(np.nanmin(columns["sent"]))
    ended = float(np.nanmax(columns["end"])) if last == n else float(end[last - 1])
    return Counted(rows=order[first:last], duration_s=ended - began)


def aggregate(columns: Columns, trim: Trim) -> dict[str, Any]:
    """The `aggregated_metrics` of genai-bench but for what names the point. Seconds.

    Ours are `num_cancelled_requests`: requests in flight at the stop; and `without_token_counts`:
    successes that name no tokens of a side, whose throughput is then a lower bound, or None if none has any.
    """
    chosen = counted(columns, trim)
    total = throughput(columns, chosen.rows)  # without any time no rate either
    rates = replace(total, began=0.0, ended=chosen.duration_s or np.inf).figures
    values = {name: of[chosen.rows] for name, of in figures(columns).items()}
    codes = error_codes(columns)[chosen.rows]
    errors = Counter(int(code) for code in codes[codes > 0])
    n, failed = len(chosen.rows), errors.total()
    return {
        "run_duration": chosen.duration_s,
        **{field: rates[name] for field, name in RATES.items()},
        "without_token_counts": rates["without_token_counts"],
        "error_codes_frequency": {str(code): count for code, count in sorted(errors.items())},
        "error_rate": failed / n if n else 0.0,
        "num_error_requests": failed,
        "num_completed_requests": n - failed,
        "num_requests": n,
        "num_cancelled_requests": int(cancelled(columns).sum()),
        "stats": {**{name: stats(of) for name, of in values.items()}, AUDIO: stats(np.empty(0))},
    }


RATES: Final = {
    "mean_output_throughput_tokens_per_s": "output_tokens_per_s",
    "mean_input_throughput_tokens_per_s": "input_tokens_per_s",
    "mean_total_tokens_throughput_tokens_per_s": "total_tokens_per_s",
    "requests_per_second": "requests_per_s",
}
"""genai-bench's name of each rate -> its name in `replay --json`."""


def stats(values: Values) -> dict[str, float | None]:
    """min, max, mean, stddev (of the population), sum and percentiles (linear); all None without a value."""
    known = values[~np.isnan(values)]
    names = ("min", "max", "mean", "stddev", "sum", *(f"p{level}" for level in PERCENTILES))
    if not len(known):
        return dict.fromkeys(names)
    levels = np.percentile(known, PERCENTILES)
    summary = (known.min(), known.max(), known.mean(), known.std(), known.sum(), *levels)
    return {name: float(figure) for name, figure in zip(names, summary, strict=True)}


def individual(columns: Columns) -> list[dict[str, Any]]:
    """One map for each request that ended, in the order in which they did: all figures, and its error."""
    values, codes = figures(columns), error_codes(columns)
    order = counted(columns, Trim()).rows
    return [
        {
            **{name: _plain(name, of[place]) for name, of in values.items()},
            AUDIO: None,
            "error_code": int(codes[place]) or None,
            "error_message": columns["error"][place] or None if codes[place] else None,
        }
        for place in order.tolist()
    ]


def in_unit(fields: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """The same with latencies in `unit`, `s` or `ms`: a request's, or an aggregate's statistics."""
    return scaled(fields, 1.0 if unit == "s" else 1e3)


def scaled(fields: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The same with every latency times `factor`: a request's, or an aggregate's statistics."""
    if factor == 1.0:
        return dict(fields)
    changed: dict[str, Any] = {
        name: _times(factor, fields[name]) for name in LATENCIES if name in fields
    }
    if "stats" in fields:
        changed["stats"] = {
            name: {key: _times(factor, value) for key, value in of.items()}
            if name in LATENCIES
            else of
            for name, of in fields["stats"].items()
        }
    return {**fields, **changed}


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else value * factor


def _plain(name: str, value: float) -> float | int | None:
    if np.isnan(value):
        return None
    return int(value) if name in WHOLE else float(value)
