"""Benchmark columns: what stands in the columns of a benchmark's sheets, by task, and in what unit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tbench.benchmark.figures import FIGURES, LATENCIES
from tbench.benchmark.folder import BenchmarkFolder
from tbench.benchmark.pick import SPEED, THROUGHPUT, TOKENS, Rule
from tbench.benchmark.result import AXES, Result
from tbench.benchmark.workbook.grid import Heading

AXIS_TITLES: Final[Mapping[str, str]] = {
    "num_concurrency": "Concurrency",
    "batch_size": "Batch Size",
    "rate": "Rate (requests/s)",
    "poisson": "Poisson Rate (requests/s)",
}
USES: Final[Mapping[str, str]] = {
    "N(480,240)/(300,150)": "fusion",
    "D(100,100)": "chat",
    "D(100,1000)": "long answers",
    "D(2000,200)": "retrieval",
    "D(7800,200)": "long retrieval",
}
"""What genai-bench's own scenarios stand for."""
FIRST: Final = (Heading(title="GPU Type", width=12), Heading(title="Use Case", width=30))
"""What Summary and Appendix begin with."""
FEW, MANY, COUNT, SHARE = "#,##0.0000", "#,##0.00", "#,##0", "0.00%"
BASE: Final = (
    *("run_duration", "mean_output_throughput_tokens_per_s", "mean_input_throughput_tokens_per_s"),
    *(TOKENS, "requests_per_second", "error_codes_frequency", "error_rate", "num_error_requests"),
    *("num_completed_requests", "num_requests"),
)
"""The fields of an aggregate that genai-bench's sheet has, in its order."""
ALWAYS: Final = frozenset({"error_rate", "num_error_requests", "repeat", "valid"})
"""Fields of which 0 says something."""
UNITS: Final[Mapping[str, str]] = {
    "run_duration": "s",
    "output_inference_speed": "tokens/s",
    "input_throughput": "tokens/s",
    "output_throughput": "tokens/s",
    "request_rate": "requests/s",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the appendix: `key` names it for charts."""

    key: str
    heading: Heading
    cell: Callable[[Result], Any]


def axis_title(experiment: BenchmarkFolder) -> str:
    """What the column of the points' values is called."""
    axes = {point.axis for point in experiment.points}
    return AXIS_TITLES[axes.pop()] if len(axes) == 1 else "Value"


def gpus(metadata: Mapping[str, Any]) -> str | None:
    """`4xH100`; as much of it as was said."""
    parts = [metadata.get("server_gpu_count"), metadata.get("server_gpu_type")]
    return "x".join(str(part) for part in parts if part) or None


def series_name(experiment: BenchmarkFolder, scenario: str, axis: str) -> str:
    """The scenario, and its axis where the folder has several."""
    several = len({point.axis for point in experiment.points}) > 1
    return f"{scenario} by {axis}" if several else scenario


def use_case(scenario: str) -> str:
    """The scenario, and what it stands for where that is known."""
    return f"{scenario} ({USES[scenario]})" if scenario in USES else scenario


def appendix(experiment: BenchmarkFolder, rule: Rule, level: str) -> list[Column]:
    """The figures of a point that its task is judged by, then what is ours."""
    known = {column.key: column for column in _figures(experiment.unit, level)}
    points = experiment.points
    own = [_column("errors", "Error Rate", SHARE, _reader("error_rate"))]
    if any(point.repeat > 1 for point in points):
        own.append(_column("repeat", "Run", COUNT, lambda point: point.repeat))
    if len({point.axis for point in points}) > 1:
        own.append(_column("axis", "Axis", "General", lambda point: point.axis))
    if any(map(invalid, points)):
        own.append(_column("invalid", "Invalid Because", "General", invalid))
    return [*(known[key] for key in SHOWN[rule.name]), *own]


def invalid(point: Result) -> str | None:
    """Why its figures are not to be used, by the run itself."""
    return point.aggregate.get("invalid_because") or None


SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    SPEED.name: ("ttft", "speed", "output", "e2e", "rps", "total"),
    THROUGHPUT.name: ("ttft", "e2e", "rps", "total"),
}


def _figures(unit: str, level: str) -> Iterator[Column]:
    latency = latency_format(unit)
    for key, title, style, metric in (
        ("ttft", f"TTFT ({unit})", latency, "ttft"),
        ("e2e", f"End-to-End Latency per Request ({unit})", latency, "e2e_latency"),
        ("speed", "Output Inference Speed per Request (tokens/s)", MANY, "output_inference_speed"),
    ):
        yield _column(key, title, style, _reader(f"stats.{metric}.{level}"))
    for key, title, field in (
        ("output", "Output Throughput of Server (tokens/s)", BASE[1]),
        ("rps", "Request Throughput (RPS)", "requests_per_second"),
        ("total", "Total Throughput (Input + Output) of Server (tokens/s)", TOKENS),
    ):
        yield _column(key, title, MANY, _reader(field))


def _reader(field: str) -> Callable[[Result], float | None]:
    return lambda point: point.number(field)


def _column(key: str, title: str, style: str, cell: Callable[[Result], Any]) -> Column:
    return Column(key=key, heading=Heading(title=title, format=style), cell=cell)


def aggregated(experiment: BenchmarkFolder) -> tuple[list[Heading], list[list[Any]]]:
    """Every field of every point: genai-bench's, a map of statistics for each metric, then ours."""
    named = ("scenario", axis_field(experiment))
    points = experiment.points
    every = dict.fromkeys(name for point in points for name in point.aggregate)
    own = [name for name in every if name not in {*named, *BASE, "stats"}]
    headings = [
        *(heading(name, experiment.unit, folds=False, width=22) for name in named),
        *(heading(name, experiment.unit) for name in BASE),
        *(Heading(title=title(name, experiment.unit), folds=True) for name in FIGURES),
        *(heading(name, experiment.unit) for name in own),
    ]  # fmt: skip
    return headings, [_aggregate(point, own) for point in points]


def _aggregate(point: Result, own: Sequence[str]) -> list[Any]:
    found = point.aggregate
    return [
        *(point.scenario, point.value),
        *(found.get(name) for name in BASE),
        *(found["stats"].get(name) for name in FIGURES),
        *(found.get(name) for name in own),
    ]


REQUEST: Final = (*FIGURES, "error_code", "error_message")
"""The fields of a request, in genai-bench's order."""


def requests(experiment: BenchmarkFolder) -> list[Heading]:
    """The columns of the sheet of requests: its point, then its fields."""
    unit = experiment.unit
    named = [
        heading(name, unit, folds=False, width=22) for name in ("scenario", axis_field(experiment))
    ]
    figures = [
        Heading(title=title(name, unit), format=style(name, unit), folds=True) for name in REQUEST
    ]
    return [*named, *figures]


def axis_field(experiment: BenchmarkFolder) -> str:
    """The field that the points' values are of."""
    axes = {AXES[point.axis] for point in experiment.points}
    return axes.pop() if len(axes) == 1 else "value"


def heading(name: str, unit: str, *, folds: bool = True, width: float = 9) -> Heading:
    """A field as a column; it folds away when empty, unless its 0 says something."""
    return Heading(
        title=title(name, unit),
        format=style(name, unit),
        folds=folds and name not in ALWAYS,
        width=width,
    )


def title(name: str, unit: str) -> str:
    """The field's name with its unit, where the name does not say it."""
    of = unit if name in LATENCIES else UNITS.get(name)
    return f"{name} ({of})" if of else name


def style(name: str, unit: str) -> str:
    """Excel's number format for a field."""
    if name in LATENCIES:
        return latency_format(unit)
    if name == "error_rate":
        return SHARE
    if name in UNITS or name.endswith("per_s") or name == "requests_per_second":
        return MANY
    return COUNT if name.startswith("num_") or name == "total_tokens" else "General"


def latency_format(unit: str) -> str:
    """Four digits after the point of seconds, two of milliseconds."""
    return FEW if unit == "s" else MANY
