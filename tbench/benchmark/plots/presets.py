"""The presets: layouts with genai-bench's names and titles, which name the files; labels follow the fields.

Its "Request Success Rate" showed the error rate, and is called so here.

What they show against concurrency is shown against what was swept. Tasks that give no text have a default
of their own, since all output figures of theirs are 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tbench.benchmark.plots.layout import Grid, grid_of
from tbench.benchmark.result import AXES

OUT, IN = "mean_output_throughput_tokens_per_s", "mean_input_throughput_tokens_per_s"
TOTAL, RPS, ERRORS = (
    "mean_total_tokens_throughput_tokens_per_s",
    "requests_per_second",
    "error_rate",
)
SWEPT: Final = "num_concurrency"
SPEED, TTFT, E2E = "stats.output_inference_speed", "stats.ttft", "stats.e2e_latency"
INPUT_SPEED: Final = "stats.input_throughput"
NAMES: Final[Mapping[str, str]] = {
    "num_concurrency": "Concurrency", "batch_size": "Batch Size", "request_rate": "Request Rate",
}  # fmt: skip
"""What was swept, in titles."""

Row = tuple[str, str, str | Sequence[Mapping[str, str]], str]
"""Title, x, y or several of them, kind."""


def _percentiles(mean: str) -> list[Mapping[str, str]]:
    return [
        {"field": f"{E2E}.mean", "label": mean, "linestyle": "-"},
        {"field": f"{E2E}.p90", "label": mean.replace("Mean", "P90"), "linestyle": "--"},
        {"field": f"{E2E}.p99", "label": mean.replace("Mean", "P99"), "linestyle": "-."},
    ]


_TTFTS: Final = [
    {"field": f"{TTFT}.mean", "label": "Mean TTFT"},
    {"field": f"{TTFT}.p95", "label": "P95 TTFT"},
]
_TAILS: Final[tuple[Row, ...]] = (
    ("Mean E2E Latency per Request vs RPS", RPS, f"{E2E}.mean", "line"),
    ("Error Rates by HTTP Status vs Concurrency", SWEPT, ERRORS, "bar"),
    ("P90 E2E Latency per Request vs RPS", RPS, f"{E2E}.p90", "line"),
    ("P99 E2E Latency per Request vs RPS", RPS, f"{E2E}.p99", "line"),
)
_SPEED: Final = "Output Inference Speed per Request vs"
_SERVER: Final = "Total Throughput (Input + Output) of Server"

PRESETS: Final[Mapping[str, tuple[int, int, tuple[Row, ...]]]] = {
    "2x4_default": (2, 4, (
        (f"{_SPEED} Output Throughput of Server", OUT, f"{SPEED}.mean", "line"),
        ("TTFT vs Output Throughput of Server", OUT, f"{TTFT}.mean", "line"),
        *_TAILS[:2],
        (f"{_SPEED} {_SERVER}", TOTAL, f"{SPEED}.mean", "line"),
        (f"TTFT vs {_SERVER}", TOTAL, f"{TTFT}.mean", "line"),
        *_TAILS[2:],
    )),
    "simple_2x2": (2, 2, (
        ("Throughput vs Latency", OUT, f"{E2E}.mean", "line"),
        ("RPS vs Error Rate", RPS, ERRORS, "scatter"),
        ("Concurrency vs TTFT", SWEPT, f"{TTFT}.mean", "line"),
        ("Throughput Distribution", SWEPT, TOTAL, "line"),
    )),
    "multi_line_latency": (2, 2, (
        ("Latency Percentiles Comparison", RPS, _percentiles("Mean Latency"), "line"),
        ("TTFT Performance Analysis", OUT, _TTFTS, "line"),
        ("Throughput Components", SWEPT, [
            {"field": OUT, "label": "Output Throughput"}, {"field": TOTAL, "label": "Total Throughput"},
        ], "line"),
        _TAILS[1],
    )),
    "single_scenario_analysis": (2, 2, (
        ("Latency Percentiles vs RPS", RPS, _percentiles("Mean"), "line"),
        ("TTFT Analysis", OUT, _TTFTS, "line"),
        ("Throughput vs Concurrency", SWEPT, OUT, "line"),
        ("Error Rate vs Concurrency", SWEPT, ERRORS, "bar"),
    )),
}  # fmt: skip
"""Name -> rows, columns, and the panels from left to right and from top to bottom."""

TEXTLESS: Final[tuple[Row, ...]] = (
    (
        "Input Throughput per Request vs Input Throughput of Server",
        IN,
        f"{INPUT_SPEED}.mean",
        "line",
    ),
    ("P50 E2E Latency per Request vs Input Throughput of Server", IN, f"{E2E}.p50", "line"),
    *_TAILS[:2],
    ("Input Throughput of Server vs Concurrency", SWEPT, IN, "line"),
    ("RPS vs Concurrency", SWEPT, RPS, "line"),
    *_TAILS[2:],
)
"""The default of tasks that give no text."""
INSTEAD: Final[Mapping[str, str]] = {OUT: IN, SPEED: INPUT_SPEED}
WORDS: Final[Mapping[str, str]] = {
    "Output Inference Speed": "Input Throughput", "Output Throughput": "Input Throughput",
}  # fmt: skip
"""What other presets show of such tasks instead."""


def preset(name: str, axis: str = SWEPT, *, speaks: bool = True) -> Grid:
    """A preset for benchmarks that swept this axis (a key of AXES) over a task that gives text, or not."""
    rows, columns, panels = PRESETS[name]
    if not speaks and name == "2x4_default":
        panels = TEXTLESS
    plots = [_plot(panel, k, columns, speaks=speaks) for k, panel in enumerate(panels)]
    grid = grid_of({"layout": {"rows": rows, "cols": columns}, "plots": plots}, f"preset {name}")
    return _against(grid, AXES[axis])


def _plot(panel: Row, number: int, columns: int, *, speaks: bool) -> dict[str, Any]:
    title, x, y, kind = panel
    curves = [{"field": y}] if isinstance(y, str) else [dict(one) for one in y]
    if not speaks:
        title, x = _read(title, WORDS), _read(x, INSTEAD)
        for curve in curves:
            curve["field"] = _read(curve["field"], INSTEAD)
            if "label" in curve:
                curve["label"] = _read(curve["label"], WORDS)
    return {
        "title": title,
        "x_field": x,
        "y_fields": curves,
        "plot_type": kind,
        "position": list(divmod(number, columns)),
    }


def _read(text: str, instead: Mapping[str, str]) -> str:
    for before, after in instead.items():
        text = text.replace(before, after)
    return text


def _against(grid: Grid, field: str) -> Grid:
    """Concurrency gives way to what was swept."""
    panels = tuple(
        replace(panel, x=field, title=panel.title.replace(NAMES[SWEPT], NAMES[field]))
        if panel.x == SWEPT
        else panel
        for panel in grid.panels
    )
    return replace(grid, panels=panels)
