"""Fields: what can be swept, and the figures of a point and of its requests, one row each.

Names are those of genai-bench's JSON (docs/genai-bench.md); a row says what a person calls it, and its unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Something that can be swept: the `field` that holds its value, its name in a text and in a heading."""

    field: str
    words: str
    title: str


AXES: Final[Mapping[str, Axis]] = {
    "num_concurrency": Axis(field="num_concurrency", words="concurrency", title="Concurrency"),
    "batch_size": Axis(field="batch_size", words="batch size", title="Batch Size"),
    "rate": Axis(field="request_rate", words="rate (requests/s)", title="Rate (requests/s)"),
    "poisson": Axis(
        field="request_rate",
        words="Poisson rate (requests/s)",
        title="Poisson Rate (requests/s)",
    ),
}
"""By the `iteration_type` of a result."""

TIME: Final = "time"
"""The unit of latencies: that of the results, a key of PER_SECOND."""
PER_SECOND: Final[Mapping[str, float]] = {"s": 1.0, "ms": 1e3}
METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "ttft": ("TTFT", TIME),
    "tpot": ("TPOT", TIME),
    "e2e_latency": ("end-to-end latency", TIME),
    "output_latency": ("output latency", TIME),
    "output_inference_speed": ("output speed per request", "tokens/s"),
    "num_input_tokens": ("input tokens", ""),
    "num_output_tokens": ("output tokens", ""),
    "num_reasoning_tokens": ("reasoning tokens", ""),
    "total_tokens": ("input + output tokens", ""),
    "input_throughput": ("input throughput per request", "tokens/s"),
    "output_throughput": ("output throughput per request", "tokens/s"),
}
"""The figures of a request, in genai-bench's order: what they are called, and their unit."""
LATENCIES: Final = tuple(name for name, (_, unit) in METRICS.items() if unit == TIME)
COUNTS: Final = tuple(name for name, (_, unit) in METRICS.items() if not unit)
"""Those that are whole numbers."""
PERCENTILES: Final = (25, 50, 75, 90, 95, 99)
LEVELS: Final = ("min", "max", "mean", "stddev", "sum", *(f"p{level}" for level in PERCENTILES))
"""The statistics of each of them."""
POINT: Final[Mapping[str, tuple[str, str]]] = {
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
"""The figures of a point."""
KNOWN: Final = (*POINT, *(f"stats.{metric}.{level}" for metric in METRICS for level in LEVELS))
"""All that can be plotted."""

OF_TEXT: Final = frozenset((
    "mean_output_throughput_tokens_per_s", "ttft", "tpot", "output_latency", "output_inference_speed",
    "output_throughput", "num_output_tokens", "num_reasoning_tokens",
))  # fmt: skip
"""Figures of an answer in text; of another task genai-bench's JSON has 0, and as TTFT the whole latency."""


def metric_of(field: str) -> str | None:
    """The metric that a field is a statistic of: `ttft` of `stats.ttft.p90`."""
    parts = field.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "stats" else None


def unit_of(field: str, unit: str) -> str:
    """The unit of a field, empty where it has none; `unit` is that of latencies."""
    of = (METRICS.get(metric_of(field) or field) or POINT.get(field) or ("", ""))[1]
    return unit if of == TIME else of


def label(field: str, unit: str) -> str:
    """A field on an axis, latencies in `unit`."""
    metric = METRICS.get(metric_of(field) or "")
    text = f"{field.rsplit('.', 1)[1]} {metric[0]}" if metric else POINT.get(field, (field, ""))[0]
    of = unit_of(field, unit)
    return f"{text} ({of})" if of else text
