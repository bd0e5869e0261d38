"""What genai-bench's users know: the figures of a request, a point's aggregate, the files of a folder.

Definitions, names and JSON are genai-bench's (docs/genai-bench.md), so that its users' scripts keep working;
the runs, and the traces that they replayed, are ours.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tbench.benchmark.fields import COUNTS, LATENCIES, LEVELS, PER_SECOND, PERCENTILES
from tbench.benchmark.sweep import Point
from tbench.capture.errors import InputError, TbenchError
from tbench.capture.exchange import Outcome
from tbench.capture.providers import GENERATIVE
from tbench.capture.writing import write_whole
from tbench.replay.columns import Column
from tbench.replay.metrics import Columns, Values, buffered, gaps, in_flight
from tbench.replay.throughput import throughput

# The figures of each request, by the definitions that genai-bench's users know (docs/genai-bench.md).
#
# Time counts from when a request was sent. What it does not have (the pace of a single token) is NaN.

PACE: Final = frozenset({"tpot", "output_inference_speed", "output_throughput"})
IMPLAUSIBLE_S: Final = 0.001
"""An answer that took less from its first token to its end says nothing of the pace of its tokens."""
CODES: Final[Mapping[Outcome, int]] = {
    Outcome.TIMEOUT: 408,
    Outcome.CONNECT_ERROR: 503,
    Outcome.CLIENT_LIMIT: 503,
    Outcome.RESET: 503,
}
"""What a failure without a status of its own is counted as; anything else is 500."""


def figures(columns: Columns) -> dict[str, Values]:
    """One array for each figure, a place for each sample; NaN where it failed or has none.

    Seconds, tokens, tokens/s. An answer that is no stream is there all at once. What gives no text
    (embeddings, rerank) has 0 for all that is about output. What tells the pace of tokens is NaN everywhere
    where something buffers the streams (replay.metrics).
    """

    def count(name: str) -> Values:
        return np.where(columns[name] < 0, np.nan, columns[name])

    def ratio(above: Values, below: Values, where: Column) -> Values:
        absent = np.full(len(above), np.nan)
        return np.asarray(np.divide(above, below, out=absent, where=where))

    ok = columns["outcome"] == Outcome.OK.value
    speaks = np.isin(columns["endpoint"].astype(str), sorted(GENERATIVE))
    first = np.where(columns["stream"], columns["first_token"], columns["end"])
    ttft, e2e = first - columns["sent"], columns["end"] - columns["sent"]
    prompt, output = count("prompt_tokens"), count("output_tokens")
    # One step fewer than tokens: the first one ends the wait, and is nobody's pace.
    latency, steps = np.where(speaks, e2e - ttft, 0.0), output - 1
    tpot = ratio(latency, steps, (steps >= 1) & (latency >= IMPLAUSIBLE_S))
    measured = {
        "ttft": ttft,
        "tpot": np.where(speaks, tpot, 0.0),
        "e2e_latency": e2e,
        "output_latency": latency,
        "output_inference_speed": np.where(speaks, ratio(np.ones(len(ok)), tpot, tpot > 0), 0.0),
        "num_input_tokens": prompt,
        "num_output_tokens": np.where(speaks, output, 0.0),
        "num_reasoning_tokens": np.nan_to_num(count("reasoning_tokens")),
        "total_tokens": prompt + np.where(speaks, output, 0.0),
        "input_throughput": ratio(prompt, ttft, ttft > 0),
        "output_throughput": np.where(
            speaks, ratio(steps, latency, (steps >= 1) & (latency > 0)), 0.0
        ),
    }
    refused = PACE if buffered(*gaps(columns)) else frozenset()
    return {
        name: np.where(ok, np.nan if name in refused else values, np.nan)
        for name, values in measured.items()
    }


def error_codes(columns: Columns) -> Column:
    """The status by which each failure is counted; 0 where there is none, and for what was cancelled."""
    # An answer that began with 200 and broke is an error, too: its status does not say so.
    codes = np.where(columns["status"] >= 300, columns["status"], 500)
    for outcome, code in CODES.items():
        codes = np.where(columns["outcome"] == outcome.value, code, codes)
    fine = [columns["outcome"] == outcome.value for outcome in (Outcome.OK, Outcome.CANCELLED)]
    return np.where(np.logical_or.reduce(fine), 0, codes)


def cancelled(columns: Columns) -> Column:
    """Which requests somebody here stopped: neither completed nor an error."""
    return np.asarray(columns["outcome"] == Outcome.CANCELLED.value)


# The aggregate of a point: statistics over its requests, rates over its time, errors with their rate.

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
    if (
        not n or np.isnan(columns["sent"][order]).all()
    ):  # no connection, so that nothing took any time
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
    if not len(known):
        return dict.fromkeys(LEVELS)
    levels = np.percentile(known, PERCENTILES)
    summary = (known.min(), known.max(), known.mean(), known.std(), known.sum(), *levels)
    return {name: float(figure) for name, figure in zip(LEVELS, summary, strict=True)}


def individual(columns: Columns) -> list[dict[str, Any]]:
    """One map for each request that ended, in the order in which they did: all figures, and its error."""
    values, codes = figures(columns), error_codes(columns)
    cells = {
        name: [
            None if np.isnan(value) else int(value) if name in COUNTS else float(value)
            for value in of
        ]
        for name, of in values.items()
    }
    return [
        {
            **{name: of[place] for name, of in cells.items()},
            AUDIO: None,
            "error_code": int(codes[place]) or None,
            "error_message": columns["error"][place] or None if codes[place] else None,
        }
        for place in counted(columns, Trim()).rows.tolist()
    ]


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


# The layout of a benchmark's folder: genai-bench's names and JSON, so that its users' scripts keep working.
#
# `experiment_metadata.json`, and one `SCENARIO_TASK_AXIS_VALUE_time_Ns.json` for each point; beside them
# what is ours: the runs, and the traces that they replayed.

METADATA: Final = "experiment_metadata.json"
RUNS: Final = "runs"
TRACES: Final = "traces"
OWN: Final = "tbench_benchmark.json"
"""What is ours in a benchmark's folder besides runs and traces: its id, and the options that made it."""
_UNSAFE: Final = str.maketrans({"/": "_", ",": "_", "(": None, ")": None})


def safe(text: str) -> str:
    """As genai-bench writes it into names of files."""
    return text.translate(_UNSAFE)


def folder_name(parts: Iterable[str | None], now: float) -> str:
    """`BACKEND_[ENGINE_][VERSION_]TASK_MODEL_YYYYmmdd_HHMMSS` of the parts that there are."""
    stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(now))
    return "_".join([*(part.replace("/", "_") for part in parts if part), stamp])


def stem(point: Point, task: str) -> str:
    """What the files of a point are called."""
    again = f"_run_{point.repeat}" if point.repeat > 1 else ""
    return f"{safe(point.scenario)}_{task}_{point.axis}_{point.value:.15g}{again}"


def result_name(point: Point, task: str, duration_s: float) -> str:
    """The name of a point's result; those of a rate are ours, which genai-bench's loader passes over."""
    return f"{stem(point, task)}_time_{round(duration_s)}s.json"


def result(point: Point, columns: Columns, trim: Trim, unit: str) -> dict[str, Any]:
    """The content of a point's file. `unit` is that of the latencies, `s` or `ms`.

    Where arrivals are open the most that were in flight at once stands for the concurrency.
    """
    named = {
        "scenario": point.scenario,
        "num_concurrency": point.concurrency or in_flight(columns)["max"] or 1,
        "batch_size": point.batch_size,
        "iteration_type": point.axis,
    }
    factor = PER_SECOND[unit]
    ours = {"request_rate": point.rate, "repeat": point.repeat, "seed": point.seed}
    return {
        "aggregated_metrics": {**named, **ours, **scaled(aggregate(columns, trim), factor)},
        "individual_request_metrics": [scaled(request, factor) for request in individual(columns)],
        "_time_unit": unit,
    }


def write_json(
    path: Path, content: Mapping[str, Any], *, failure: type[TbenchError] = InputError
) -> None:
    """Write it for its owner only, as a whole or not at all. Raises `failure` where that cannot be."""
    write_whole(path, json.dumps(content, indent=4), failure=failure)
