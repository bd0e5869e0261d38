"""An experiment: a benchmark's folder as it was written, by us or by genai-bench, with its points in order.

Latencies are in the unit asked for, or as the results have them; everything else is as in the files.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from tbench.benchmark.fields import AXES, LATENCIES, PER_SECOND
from tbench.benchmark.genai_bench import METADATA, scaled
from tbench.capture.errors import InputError
from tbench.capture.jsontext import loads, read_json
from tbench.capture.terminal import plural

# A result: the file of one point of a benchmark, ours or genai-bench's, checked and in one unit.

Unit = Literal["s", "ms"]
Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One point: what its file says, latencies times `factor` and so in `unit`; `ended` requests are in it.

    `aggregate` is genai-bench's `aggregated_metrics`, with `stats` by metric and level; only its
    `error_rate` is counted again, since genai-bench writes 0 whatever happened (None of no request).
    """

    path: Path
    aggregate: Json
    unit: Unit
    factor: float
    ended: int

    @property
    def scenario(self) -> str:
        return str(self.aggregate["scenario"])

    @property
    def axis(self) -> str:
        """What was swept: a key of AXES."""
        return str(self.aggregate["iteration_type"])

    @property
    def value(self) -> float:
        """Where on the axis it is: in flight, texts in a request, or requests per second."""
        return float(self.aggregate[AXES[self.axis].field])

    @property
    def repeat(self) -> int:
        """Which run of the point it is, from 1."""
        return int(self.aggregate.get("repeat") or 1)

    @property
    def name(self) -> str:
        """Its place in the sweep, in words."""
        again = f", run {self.repeat}" if self.repeat > 1 else ""
        return f"{self.scenario} at {self.axis} {self.value:g}{again}"

    @property
    def warnings(self) -> list[str]:
        """What its maker found to know of its figures."""
        warnings = self.aggregate.get("warnings")
        return [str(warning) for warning in warnings] if isinstance(warnings, list) else []

    def stat(self, metric: str, level: str) -> float | None:
        """A statistic over the requests (`ttft`, `p90`); None where no request has the metric."""
        return self.number(f"stats.{metric}.{level}")

    def number(self, field: str) -> float | None:
        """A figure by its place (`requests_per_second`, `stats.ttft.mean`); None where there is none."""
        value: Any = self.aggregate
        for name in field.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        usable = isinstance(value, (int, float)) and math.isfinite(value)
        return float(value) if usable else None

    def in_unit(self, unit: Unit) -> Self:
        """The same with latencies in this unit."""
        factor = PER_SECOND[unit] / PER_SECOND[self.unit]
        aggregate = scaled(self.aggregate, factor)
        return replace(self, aggregate=aggregate, unit=unit, factor=self.factor * factor)

    def requests(self) -> Iterator[Json]:
        """Each request that ended, latencies in `unit`. Read from the file, which may be large."""
        for request in read_object(self.path).get("individual_request_metrics") or ():
            yield scaled(request, self.factor)


def read_result(path: Path, written: Unit, unit: Unit) -> Result:
    """A point's file, latencies turned into `unit`; `written` is their unit if the file names none.

    Raises InputError, one line, where it is no result.
    """
    content = read_object(path)
    aggregate = _aggregate(content, path)
    requests = content.get("individual_request_metrics") or []
    if not isinstance(requests, list) or not all(isinstance(request, dict) for request in requests):
        raise _bad(path, "individual_request_metrics is not a list of maps")
    if not all(
        isinstance(record.get(name), int | float | None)
        for record in (aggregate, *requests)
        for name in LATENCIES
    ):
        raise _bad(path, "a latency is not a number")
    failed, n = (aggregate.get(name, 0) for name in ("num_error_requests", "num_requests"))
    if not isinstance(failed, int) or not isinstance(n, int):
        raise _bad(path, "num_requests and num_error_requests are not counts")
    source = read_unit(content.get("_time_unit") or written, path)
    factor = PER_SECOND[unit] / PER_SECOND[source]
    counted = {**scaled(aggregate, factor), "error_rate": failed / n if n else None}
    return Result(path=path, aggregate=counted, unit=unit, factor=factor, ended=len(requests))


def _aggregate(content: Json, path: Path) -> dict[str, Any]:
    """The point's own map, with what genai-bench takes for granted, and what names the point checked."""
    aggregate = content.get("aggregated_metrics")
    if not isinstance(aggregate, dict):
        raise _bad(path, "aggregated_metrics is missing")
    axis = aggregate.setdefault("iteration_type", "num_concurrency")
    if not isinstance(axis, str) or axis not in AXES:
        raise _bad(path, f"iteration_type {axis} is not one of {', '.join(AXES)}")
    field = AXES[axis].field
    value = aggregate.setdefault(field, None if axis in {"rate", "poisson"} else 1)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _bad(path, f"{field} {value} is not a number")
    repeat = aggregate.get("repeat") or 1
    if not isinstance(repeat, int) or repeat < 1:
        raise _bad(path, f"repeat {repeat} is not a number from 1")
    if not isinstance(aggregate.get("scenario"), str):
        raise _bad(path, "it names no scenario")
    stats: Any = aggregate.setdefault("stats", {})
    tabular = isinstance(stats, dict) and all(isinstance(of, dict) for of in stats.values())
    if not tabular or not all(
        isinstance(value, int | float | None) for of in stats.values() for value in of.values()
    ):
        raise _bad(path, "stats are not numbers by metric and level")
    return aggregate


def _bad(path: Path, what: str) -> InputError:
    return InputError(f"{path}: no result of a benchmark: {what}; move it away or make it again")


def read_unit(name: object, path: Path) -> Unit:
    """`s` or `ms`, as the file at `path` has it; raises InputError for another."""
    if not isinstance(name, str) or name not in PER_SECOND:
        raise InputError(f"{path}: the time unit {name} is neither s nor ms")
    return cast("Unit", name)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises InputError that names it."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object; move it away")
    return content


SCENARIO: Final = "traffic_scenario"
LISTS: Final[Mapping[str, type]] = {SCENARIO: str, "num_concurrency": int, "batch_size": int}
"""Fields of the metadata that are lists, and what of."""
RESULT: Final = re.compile(
    r"(?!debug_for_run_).+_(concurrency|batch_size|rate|poisson)_[\d.e+-]+(_run_\d+)?_time_\d+s\.json"
)
"""Names of results: genai-bench's, and those of repeats and of open arrivals, which are ours."""
TASK: Final = re.compile(r"_([a-z-]+-to-[a-z]+)_(?:num_concurrency|batch_size|rate|poisson)_")
"""The task in such a name."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkFolder:
    """A folder: `metadata` as in its file, the points by scenario, axis, value and repeat.

    `notes` are sentences for the reader: points that are missing, files that say the same point.
    """

    folder: Path
    metadata: Json
    points: tuple[Result, ...]
    unit: Unit
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def task(self) -> str:
        return str(self.metadata.get("task") or "")

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Those that have points, in the order of the metadata."""
        return tuple(dict.fromkeys(point.scenario for point in self.points))

    def series(self) -> Iterator[tuple[str, str, tuple[Result, ...]]]:
        """Scenario, axis and the points of each, which follow each other."""
        for (scenario, axis), points in groupby(
            self.points, lambda point: (point.scenario, point.axis)
        ):
            yield scenario, axis, tuple(points)

    def in_unit(self, unit: Unit) -> Self:
        """The same with latencies in this unit."""
        return replace(self, unit=unit, points=tuple(point.in_unit(unit) for point in self.points))


def load_experiment(folder: Path, unit: Unit | None = None) -> BenchmarkFolder:
    """Read a benchmark's folder. `unit` None: as its metadata says.

    A folder without results has no points and a note. Raises InputError, one line, for a folder that is
    none, and for a file that cannot be read as what its name says.
    """
    metadata = _metadata(folder)
    written = read_unit(metadata.get("metrics_time_unit") or "s", folder / METADATA)
    unit = unit or written
    try:
        paths = sorted(path for path in folder.iterdir() if RESULT.fullmatch(path.name))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    task, foreign = metadata.get("task"), dict[Path, str]()
    for path in paths if task else ():
        if (named_task := TASK.search(path.name)) and named_task[1] != task:
            foreign[path] = named_task[1]
    paths = [path for path in paths if path not in foreign]
    scenarios = list(metadata.get("traffic_scenario") or ())

    def place(point: Result) -> tuple[int, str, str, float, int]:
        """Scenarios in the order of the metadata; those that it does not name behind them, by name."""
        known = point.scenario in scenarios
        rank = scenarios.index(point.scenario) if known else len(scenarios)
        return rank, "" if known else point.scenario, point.axis, point.value, point.repeat

    points = sorted((read_result(path, written, unit) for path in paths), key=place)
    return BenchmarkFolder(
        folder=folder,
        metadata=metadata,
        points=tuple(points),
        unit=unit,
        notes=(*_strangers(foreign), *_notes(metadata, points)),
    )


def load_experiments(folder: Path, unit: Unit | None = None) -> list[BenchmarkFolder]:
    """The experiment that the folder is, or those in its subfolders by name; all in one unit.

    `unit` None: that of the first. Raises InputError where there is none, and as `load_experiment`.
    """
    if (folder / METADATA).exists():
        return [load_experiment(folder, unit)]
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    folders: list[BenchmarkFolder] = []
    for path in sorted(path.parent for path in folder.glob(f"*/{METADATA}")):
        # One unit for all, or a chart would put seconds beside milliseconds.
        folders.append(load_experiment(path, unit or (folders[0].unit if folders else None)))
    if not folders:
        raise InputError(f"{folder}: neither an experiment nor a folder of some: no {METADATA}")
    return folders


def selected(experiments: Sequence[BenchmarkFolder], text: str) -> list[BenchmarkFolder]:
    """Those whose metadata have the values of a JSON object; `traffic_scenario` picks points as well.

    It may be one scenario or a list. Raises InputError for what is no JSON object, for a field that no
    experiment has, and where nothing is left.
    """
    try:
        criteria = loads(text)
    except ValueError as error:
        raise InputError(f"--filter-criteria: no JSON: {error}") from None
    if not isinstance(criteria, dict):
        raise InputError('--filter-criteria: give a JSON object, as in {"model": "m"}')
    known = {name for folder in experiments for name in folder.metadata}
    for name in criteria:
        if name not in known:
            raise InputError(
                f"filter {name}: no such field of the metadata; there are {', '.join(sorted(known))}"
            )
    wanted = {name: value for name, value in criteria.items() if name != SCENARIO}
    left = [
        folder
        for folder in experiments
        if all(folder.metadata.get(k) == v for k, v in wanted.items())
    ]
    if SCENARIO in criteria:
        scenarios = criteria[SCENARIO]
        scenarios = scenarios if isinstance(scenarios, list) else [scenarios]
        left = [
            replace(folder, points=tuple(p for p in folder.points if p.scenario in scenarios))
            for folder in left
        ]
        left = [folder for folder in left if folder.points]
    if not left:
        raise InputError(f"filter {json.dumps(criteria)}: no experiment is like that")
    return left


def _metadata(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not (folder / METADATA).exists():
        raise InputError(f"{folder}: no experiment: there is no {METADATA} in it")
    metadata = read_object(folder / METADATA)
    for name, kind in LISTS.items():
        values = metadata.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise InputError(f"{folder / METADATA}: {name} is not a list of {kind.__name__}")
    return metadata


def _strangers(foreign: Mapping[Path, str]) -> Iterator[str]:
    """Results of other tasks, which have other figures: someone put them there."""
    for task, count in Counter(foreign.values()).items():
        results = plural(count, "result")
        yield f"{results} of another task ({task}) left out: put them into a folder of their own"


def _notes(metadata: Json, points: Sequence[Result]) -> Iterator[str]:
    """Points that the metadata promise and no file has (what one scenario has, each should have), or several.

    A search for saturation goes its own way in each scenario, and promises nothing.
    """
    if not points:
        yield "there is no result in this folder"
        return
    promised = str(metadata.get("iteration_type") or "num_concurrency")
    scenarios = [*(metadata.get(SCENARIO) or ()), *(point.scenario for point in points)]
    for axis in () if metadata.get("saturate") else dict.fromkeys(point.axis for point in points):
        wanted = {point.value for point in points if point.axis == axis}
        if axis == promised and axis in LISTS:
            wanted |= set(map(float, metadata.get(axis) or ()))
        for scenario in dict.fromkeys(scenarios):
            of = {p.value for p in points if (p.axis, p.scenario) == (axis, scenario)}
            if lacks := sorted(wanted - of):
                yield f"{scenario}: no result at {axis} {', '.join(f'{n:g}' for n in lacks)}"
    counts = Counter((point.scenario, point.axis, point.value, point.repeat) for point in points)
    for (scenario, axis, value, _), count in counts.items():
        if count > 1:
            yield f"{scenario}: {count} results at {axis} {value:g}; all are shown"
