"""The fields that can be plotted: what they are called on an axis, and which of them results hold."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tbench.benchmark.aggregate import PERCENTILES
from tbench.benchmark.figures import FIGURES, LATENCIES
from tbench.benchmark.plots.layout import Grid
from tbench.benchmark.result import Result
from tbench.capture.errors import InputError

RUN: Final[Mapping[str, tuple[str, str]]] = {
    "num_concurrency": ("concurrency", ""),
    "batch_size": ("batch size", ""),
    "request_rate": ("request rate", "requests/s"),
    "run_duration": ("run duration", "s"),
    "mean_output_throughput_tokens_per_s": ("server output throughput", "tokens/s"),
    "mean_input_throughput_tokens_per_s": ("server input throughput", "tokens/s"),
    "mean_total_tokens_throughput_tokens_per_s": ("server input + output throughput", "tokens/s"),
    "requests_per_second": ("completed requests", "1/s"),
    "error_rate": ("error rate", ""),
    "num_error_requests": ("failed requests", ""),
    "num_completed_requests": ("completed requests", ""),
    "num_requests": ("requests", ""),
    "num_cancelled_requests": ("cancelled requests", ""),
    "goodput": ("share of requests within the SLO", ""),
    "goodput_per_s": ("requests within the SLO", "1/s"),
}
"""A point's own figures: what they are called, and their unit (latencies have that of the results)."""
METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "ttft": ("TTFT", ""),
    "tpot": ("TPOT", ""),
    "e2e_latency": ("end-to-end latency", ""),
    "output_latency": ("output latency", ""),
    "output_inference_speed": ("output speed per request", "tokens/s"),
    "num_input_tokens": ("input tokens", ""),
    "num_output_tokens": ("output tokens", ""),
    "num_reasoning_tokens": ("reasoning tokens", ""),
    "total_tokens": ("input + output tokens", ""),
    "input_throughput": ("input throughput per request", "tokens/s"),
    "output_throughput": ("output throughput per request", "tokens/s"),
}
"""Those of its requests, of which there are statistics."""
LEVELS: Final = ("min", "max", "mean", "stddev", "sum", *(f"p{level}" for level in PERCENTILES))
KNOWN: Final = (*RUN, *(f"stats.{metric}.{level}" for metric in METRICS for level in LEVELS))

assert set(METRICS) == set(FIGURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A field as results hold it: in how many of them it has a value, and from where to where."""

    field: str
    unit: str
    points: int
    low: float | None
    high: float | None


def held(points: Iterable[Result], unit: str) -> Iterator[Held]:
    """Every field that can be plotted; those that results hold besides the known ones as well."""
    whole = list(points)
    for field in (*KNOWN, *sorted(_others(whole))):
        values = [value for one in whole if (value := one.number(field)) is not None]
        yield Held(
            field=field,
            unit=unit_of(field, unit),
            points=len(values),
            low=min(values, default=None),
            high=max(values, default=None),
        )


def check(grid: Grid, points: Iterable[Result], place: str) -> None:
    """Raise InputError for a field that no result has and no definition knows."""
    known = {*KNOWN, *_others(points)}
    for number, panel in enumerate(grid.panels):
        for field in panel.fields:
            if field not in known:
                raise InputError(
                    f"{place}: plots[{number}]: no field {field}; --list-fields shows which there are"
                )


def label(field: str, unit: str) -> str:
    """A field on an axis, latencies in `unit`."""
    text, of = _name(field), unit_of(field, unit)
    return f"{text} ({of})" if of else text


def unit_of(field: str, unit: str) -> str:
    """The unit of a field, empty where it has none; `unit` is that of latencies."""
    metric = metric_of(field)
    if metric in LATENCIES:
        return unit
    return (METRICS.get(metric or "") or RUN.get(field) or ("", ""))[1]


def metric_of(field: str) -> str | None:
    """The metric that a field is a statistic of."""
    parts = field.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "stats" else None


def _name(field: str) -> str:
    metric = metric_of(field)
    if metric is not None and metric in METRICS:
        return f"{field.rsplit('.', 1)[1]} {METRICS[metric][0]}"
    return RUN.get(field, (field, ""))[0]


def _others(points: Iterable[Result]) -> set[str]:
    """Numbers that results hold and no definition here knows."""
    return {
        name
        for one in points
        for name, value in one.aggregate.items()
        if name not in RUN and isinstance(value, (int, float)) and not isinstance(value, bool)
    } - {"repeat", "seed"}
