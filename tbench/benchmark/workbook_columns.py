"""The sheets of a benchmark's workbook: how one is laid, what stands in its columns, what is picked.

A sheet's first row is its header, for programs; printed it is one page wide, and columns without anything in
them, or for programs only, are folded away.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any, Final

from xlsxwriter.worksheet import Worksheet

from tbench.analysis.report.workbook import Book, on_paper, tall, write
from tbench.analysis.report.workbook import Value as Cell
from tbench.benchmark.fields import AXES, COUNTS, LATENCIES, METRICS, unit_of
from tbench.benchmark.folder import BenchmarkFolder, Result

EXACT: Final = 2**53
"""Whole numbers from here on (seeds) lose digits as Excel's numbers, and are written as text."""
WIDEST: Final = 22
"""A title has so many characters on a line, and breaks in a word where it must."""
SENTENCE: Final = 45
"""The width of a column of sentences, which wrap."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column: its title, Excel's number format, and the least `width` that it has, in characters.

    `folds` says whether it folds away when all of it is empty or 0, `folded` that it always does. A column
    as wide as a SENTENCE wraps.
    """

    title: str
    format: str = "General"
    folds: bool = False
    folded: bool = False
    width: float = 9


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sheet that was laid: the widths of its columns, and how many rows of data are below its header."""

    sheet: Worksheet
    widths: Sequence[float]
    rows: int


def lay(
    book: Book, title: str, headings: Sequence[Heading], rows: Iterable[Sequence[Any]], frozen: int
) -> Grid:
    """A sheet with its header in view, the first `frozen` columns too. Maps become JSON, lists text."""
    sheet = book.file.add_worksheet(title)
    widths = [max(each.width, min(WIDEST, len(each.title) * 1.1 + 4)) for each in headings]
    styles = [
        book.style(num_format=heading.format, text_wrap=heading.width >= SENTENCE)
        for heading in headings
    ]
    tall(sheet, 0, [f"{heading.title}  " for heading in headings], widths)
    for place, heading in enumerate(headings):
        write(sheet, 0, place, heading.title, book.bold)
    filled = [False] * len(headings)
    n = 0
    for n, row in enumerate(rows, 1):
        cells = [plain(cell) for cell in row]
        wrapped = [c if h.width >= SENTENCE else None for c, h in zip(cells, headings, strict=True)]
        tall(sheet, n, wrapped, widths)
        for place, (cell, style) in enumerate(zip(cells, styles, strict=True)):
            write(sheet, n, place, cell, style)
        # A map of nothing but zeros says as little as a 0.
        filled = [
            was or (any(cell.values()) if isinstance(cell, Mapping) else bool(cell))
            for was, cell in zip(filled, row, strict=True)
        ]
    for place, (heading, width) in enumerate(zip(headings, widths, strict=True)):
        away = heading.folded or (heading.folds and not filled[place])
        sheet.set_column(place, place, width, None, {"level": 1, "hidden": True} if away else {})
    sheet.freeze_panes(1, frozen)
    sheet.repeat_rows(0)
    on_paper(sheet)
    if n:
        sheet.autofilter(0, 0, n, len(headings) - 1)
    return Grid(sheet=sheet, widths=widths, rows=n)


def plain(cell: object) -> Cell:
    """What a cell can hold of a value from a JSON file."""
    if isinstance(cell, Mapping):
        return json.dumps(cell)
    if isinstance(cell, list | tuple):
        return ", ".join(map(str, cell))
    if isinstance(cell, int) and abs(cell) >= EXACT:
        return str(cell)
    return cell if isinstance(cell, str | int | float) else None


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
    tokens_per_s: float | None
    requests_per_s: float | None
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
    ladder = []
    for value, group in groupby(points, lambda point: point.value):
        runs = list(group)
        ladder.append(
            Step(
                value=value,
                figure=_mean(rule.figure(run, level) for run in runs),
                tokens_per_s=_mean(run.number(TOKENS) for run in runs),
                requests_per_s=_mean(run.number("requests_per_second") for run in runs),
                error_rate=_mean(run.number("error_rate") for run in runs),
                valid=all(run.aggregate.get("valid") is not False for run in runs),
            )
        )
    return ladder


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


def _alike(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is after
    return abs(after - before) < PLATEAU * before if before else after == before


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


# Benchmark columns: what stands in the columns of a benchmark's sheets, by task, and in what unit.

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
FOLDED: Final = frozenset({*METRICS, "seed", "iteration_type", "batch_size"})
"""Fields for programs: maps of statistics, and what decides nothing for a reader."""
SENTENCES: Final = frozenset({"warnings", "invalid_because", "error_message"})


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the appendix: `key` names it for charts."""

    key: str
    heading: Heading
    cell: Callable[[Result], Any]


def axis_title(experiment: BenchmarkFolder) -> str:
    """What the column of the points' values is called."""
    axes = {point.axis for point in experiment.points}
    return AXES[axes.pop()].title if len(axes) == 1 else "Value"


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
    unit, points = experiment.unit, experiment.points
    latency = latency_format(unit)
    titles = {
        "ttft": (f"TTFT ({unit})", latency, f"stats.ttft.{level}"),
        "speed": (
            "Output Inference Speed per Request (tokens/s)",
            MANY,
            f"stats.output_inference_speed.{level}",
        ),
        "output": ("Output Throughput of Server (tokens/s)", MANY, BASE[1]),
        "e2e": (
            f"End-to-End Latency per Request ({unit})",
            latency,
            f"stats.e2e_latency.{level}",
        ),
        "rps": ("Request Throughput (RPS)", MANY, "requests_per_second"),
        "total": ("Total Throughput (Input + Output) of Server (tokens/s)", MANY, TOKENS),
        "errors": ("Error Rate", SHARE, "error_rate"),
    }

    def column(key: str) -> Column:
        title, style, field = titles[key]
        heading = Heading(title=title, format=style)
        return Column(key=key, heading=heading, cell=lambda point: point.number(field))

    shown = [column(key) for key in (*SHOWN[rule.name], "errors")]
    if any(point.repeat > 1 for point in points):
        run = Heading(title="Run", format=COUNT)
        shown.append(Column(key="repeat", heading=run, cell=lambda point: point.repeat))
    if len({point.axis for point in points}) > 1:
        swept = Heading(title="Axis")
        shown.append(Column(key="axis", heading=swept, cell=lambda point: point.axis))
    if any(map(invalid, points)):
        because = Heading(title="Invalid Because", width=SENTENCE)
        shown.append(Column(key="invalid", heading=because, cell=invalid))
    return shown


def invalid(point: Result) -> str | None:
    """Why its figures are not to be used, by the run itself."""
    return point.aggregate.get("invalid_because") or None


SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    SPEED.name: ("ttft", "speed", "output", "e2e", "rps", "total"),
    THROUGHPUT.name: ("ttft", "e2e", "rps", "total"),
}


def aggregated(experiment: BenchmarkFolder) -> tuple[list[Heading], list[list[Any]]]:
    """Every field of every point: genai-bench's, a map of statistics for each metric, then ours."""
    unit, points = experiment.unit, experiment.points
    every = dict.fromkeys(name for point in points for name in point.aggregate)
    named = ("scenario", axis_field(experiment))
    ours = [name for name in every if name not in {*named, *BASE, "stats"}]
    headings = [
        *named_by(experiment),
        *(heading(name, unit) for name in BASE),
        *(Heading(title=title(name, unit), folds=True, folded=True) for name in METRICS),
        *(heading(name, unit) for name in ours),
    ]
    rows = [
        [
            *(point.scenario, point.value),
            *(point.aggregate.get(name) for name in BASE),
            *(point.aggregate["stats"].get(name) for name in METRICS),
            *(point.aggregate.get(name) for name in ours),
        ]
        for point in points
    ]
    return headings, rows


REQUEST: Final = (*METRICS, "error_code", "error_message")
"""The fields of a request, in genai-bench's order."""


def requests(experiment: BenchmarkFolder) -> list[Heading]:
    """The columns of the sheet of requests: its point, then its fields."""
    unit = experiment.unit
    figures = [
        Heading(
            title=title(name, unit),
            format=style(name, unit),
            folds=True,
            width=SENTENCE if name in SENTENCES else 9,
        )
        for name in REQUEST
    ]
    return [*named_by(experiment), *figures]


def named_by(experiment: BenchmarkFolder) -> list[Heading]:
    """The columns of a point's name: its scenario, and its value on the axis."""
    axis = axis_field(experiment)
    return [
        Heading(title="scenario", width=22),
        Heading(title=axis, format=style(axis, experiment.unit), width=12),
    ]


def axis_field(experiment: BenchmarkFolder) -> str:
    """The field that the points' values are of."""
    axes = {AXES[point.axis].field for point in experiment.points}
    return axes.pop() if len(axes) == 1 else "value"


def heading(name: str, unit: str) -> Heading:
    """A field as a column; it folds away when empty, unless its 0 says something."""
    return Heading(
        title=title(name, unit),
        format=style(name, unit),
        folds=name not in ALWAYS,
        folded=name in FOLDED,
        width=SENTENCE if name in SENTENCES else 9,
    )


def title(name: str, unit: str) -> str:
    """The field's name with its unit, where the name does not say it."""
    of = unit_of(name, unit)
    return f"{name} ({of})" if of and "_per_s" not in name else name


def style(name: str, unit: str) -> str:
    """Excel's number format for a field."""
    if name in LATENCIES:
        return latency_format(unit)
    if name in {"error_rate", "goodput"}:
        return SHARE
    if unit_of(name, unit):
        return MANY
    return COUNT if name in COUNTS or name.startswith("num_") else "General"


def latency_format(unit: str) -> str:
    """Four digits after the point of seconds, two of milliseconds."""
    return FEW if unit == "s" else MANY
