"""Benchmark grid: a sheet whose first row is its header, for programs; empty columns fold away."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any, Final

from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from tbench.analysis.report.sheets import LINE_PT, Book, Cell, on_paper, write
from tbench.benchmark.folder import AXES, BenchmarkFolder, Result
from tbench.benchmark.genai_bench import FIGURES, LATENCIES

EXACT: Final = 2**53
"""Whole numbers from here on (seeds) lose digits as Excel's numbers, and are written as text."""

ON_A_PAGE: Final = 16
"""So many columns can be read where they are printed on one page."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column: its title, Excel's number format, and whether it folds away when all of it is empty or 0.

    `width` in characters is the least that it has.
    """

    title: str
    format: str = "General"
    folds: bool = False
    width: float = 9


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sheet that was laid: how many rows of data it has, below its header."""

    sheet: Worksheet
    rows: int


def lay(
    book: Book, title: str, headings: Sequence[Heading], rows: Iterable[Sequence[Any]], frozen: int
) -> Grid:
    """A sheet with its header in view, the first `frozen` columns too. Maps become JSON, lists text."""
    sheet = book.file.add_worksheet(title)
    formats = {
        name: book.file.add_format({"num_format": name, "valign": "top"})
        for name in {heading.format for heading in headings}
    }
    sheet.set_row(0, 2 * LINE_PT)  # a spreadsheet program need not fit it to its text
    for place, heading in enumerate(headings):
        write(sheet, 0, place, heading.title, book.bold)
    filled = [False] * len(headings)
    n = 0
    for n, row in enumerate(rows, 1):
        _line(sheet, n, row, [formats[heading.format] for heading in headings])
        filled = [was or _says(cell) for was, cell in zip(filled, row, strict=True)]
    for place, heading in enumerate(headings):
        hidden = {"level": 1, "hidden": True} if heading.folds and not filled[place] else {}
        sheet.set_column(place, place, _width(heading), None, hidden)
    sheet.freeze_panes(1, frozen)
    sheet.repeat_rows(0)
    if len(headings) <= ON_A_PAGE:
        on_paper(sheet)
    if n:
        sheet.autofilter(0, 0, n, len(headings) - 1)
    return Grid(sheet=sheet, rows=n)


def _width(heading: Heading) -> float:
    """Wide enough for the title in two lines, or in one where it has no place to break."""
    length = len(heading.title) * 1.1 + 4
    return max(heading.width, min(30, length) if " " in heading.title else length)


def _line(sheet: Worksheet, row: int, cells: Sequence[Any], formats: Sequence[Format]) -> None:
    for place, (cell, style) in enumerate(zip(cells, formats, strict=True)):
        write(sheet, row, place, plain(cell), style)


def plain(cell: object) -> Cell:
    """What a cell can hold of a value from a JSON file."""
    if isinstance(cell, Mapping):
        return json.dumps(cell)
    if isinstance(cell, list | tuple):
        return ", ".join(map(str, cell))
    if isinstance(cell, int) and abs(cell) >= EXACT:
        return str(cell)
    return cell if isinstance(cell, str | int | float) else None


def _says(cell: object) -> bool:
    """Whether there is anything but nothing and 0."""
    return any(cell.values()) if isinstance(cell, Mapping) else bool(cell)


# The pick: which point of a scenario a benchmark's summary names. genai-bench's rules.
#
# Walk up the axis and keep the last point that has more than the rule asks for; stop where neither
# throughput nor requests per second change by 5 % from the one that is kept.

PLATEAU: Final = 0.05
"""A change of throughput and of requests per second, up or down, that is not worth a higher value."""
TOKENS: Final = "mean_total_tokens_throughput_tokens_per_s"
Figure = Callable[[Result, str], float | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a point must have more than `over` of, in tokens/s."""

    figure: Figure
    name: str
    over: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One value of the axis: the means over its runs, `valid` if all are. `figure` is that of the rule."""

    value: float
    figure: float | None
    tokens_per_s: float
    requests_per_s: float
    error_rate: float | None
    valid: bool


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The step, None where no point qualifies; and why it is this one."""

    step: Step | None
    why: str


SPEED: Final = Rule(
    figure=lambda point, level: point.stat("output_inference_speed", level),
    name="speed",
    over=10,
)
THROUGHPUT: Final = Rule(figure=lambda point, _: point.number(TOKENS), name="throughput", over=100)
RULES: Final[Mapping[str, Rule]] = {
    "text-to-embeddings": THROUGHPUT,
    "image-to-embeddings": THROUGHPUT,
    "text-to-rerank": THROUGHPUT,
}
"""Task -> its rule; every other task speaks, and goes by SPEED."""


def rule_of(task: str) -> Rule:
    """By what points of this task are picked."""
    return RULES.get(task, SPEED)


def steps(points: Sequence[Result], rule: Rule, level: str) -> list[Step]:
    """The values of an axis in order (points are sorted by them), with the means over repeated runs."""
    return [
        _step(value, list(runs), rule, level) for value, runs in groupby(points, lambda p: p.value)
    ]


def _step(value: float, runs: Sequence[Result], rule: Rule, level: str) -> Step:
    return Step(
        value=value,
        figure=_mean(rule.figure(run, level) for run in runs),
        tokens_per_s=_mean(run.number(TOKENS) for run in runs) or 0.0,
        requests_per_s=_mean(run.number("requests_per_second") for run in runs) or 0.0,
        error_rate=_mean(run.number("error_rate") for run in runs),
        valid=all(run.aggregate.get("valid") is not False for run in runs),
    )


def pick(ladder: Sequence[Step], rule: Rule) -> Pick:
    """The step of one scenario that the summary names."""
    best: Step | None = None
    for step in ladder:
        if step.figure is None or step.figure <= rule.over:
            continue
        if (
            best
            and _alike(best.tokens_per_s, step.tokens_per_s)
            and _alike(best.requests_per_s, step.requests_per_s)
        ):
            return Pick(step=best, why=f"{step.value:g} changes throughput and requests/s by < 5 %")
        best = step
    if best is None:
        return Pick(step=None, why=f"no point has a {rule.name} over {rule.over:g} tokens/s")
    return Pick(step=best, why=f"the highest with a {rule.name} over {rule.over:g} tokens/s")


def _alike(before: float, after: float) -> bool:
    return abs(after - before) < PLATEAU * before if before else after == before


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


# Benchmark columns: what stands in the columns of a benchmark's sheets, by task, and in what unit.

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
    ours = [_column("errors", "Error Rate", SHARE, _reader("error_rate"))]
    if any(point.repeat > 1 for point in points):
        ours.append(_column("repeat", "Run", COUNT, lambda point: point.repeat))
    if len({point.axis for point in points}) > 1:
        ours.append(_column("axis", "Axis", "General", lambda point: point.axis))
    if any(map(invalid, points)):
        ours.append(_column("invalid", "Invalid Because", "General", invalid))
    return [*(known[key] for key in SHOWN[rule.name]), *ours]


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
    ours = [name for name in every if name not in {*named, *BASE, "stats"}]
    headings = [
        *(heading(name, experiment.unit, folds=False, width=22) for name in named),
        *(heading(name, experiment.unit) for name in BASE),
        *(Heading(title=title(name, experiment.unit), folds=True) for name in FIGURES),
        *(heading(name, experiment.unit) for name in ours),
    ]  # fmt: skip
    return headings, [_aggregate(point, ours) for point in points]


def _aggregate(point: Result, ours: Sequence[str]) -> list[Any]:
    aggregate = point.aggregate
    return [
        *(point.scenario, point.value),
        *(aggregate.get(name) for name in BASE),
        *(aggregate["stats"].get(name) for name in FIGURES),
        *(aggregate.get(name) for name in ours),
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
