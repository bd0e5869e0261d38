"""What is plotted: the fields that results hold, points as lines on sheets, and the rows of each panel."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby
from statistics import fmean
from typing import Any, Final

from tbench.analysis.charts.drawing import Rows
from tbench.benchmark.fields import AXES, KNOWN, OF_TEXT, POINT, TIME, label, metric_of, unit_of
from tbench.benchmark.folder import SCENARIO, BenchmarkFolder, Result
from tbench.benchmark.genai_bench import safe
from tbench.benchmark.plots.layout import Grid, Panel
from tbench.benchmark.sweep import BATCHED
from tbench.capture.errors import InputError


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
    results = list(points)
    for field in (*KNOWN, *sorted(_others(results))):
        values = [value for point in results if (value := point.number(field)) is not None]
        yield Held(
            field=field,
            unit=unit_of(field, unit),
            points=len(values),
            low=min(values, default=None),
            high=max(values, default=None),
        )


def field_lines(experiments: Sequence[BenchmarkFolder]) -> Iterator[str]:
    """A table of them as text, its header first."""
    points = [point for folder in experiments for point in folder.points]
    yield f"{'field':<46}{'unit':<12}{'points':>7}  values"
    for field in held(points, experiments[0].unit):
        span = "-"
        if field.low is not None and field.high is not None:
            span = f"{field.low:.6g}" + (f" to {field.high:.6g}" if field.high > field.low else "")
        yield f"{field.field:<46}{field.unit:<12}{field.points:>7}  {span}"


def check(grid: Grid, points: Iterable[Result], place: str) -> None:
    """Raise InputError for a field that no result has and no definition knows."""
    known = {*KNOWN, *_others(points)}
    for number, panel in enumerate(grid.panels):
        for field in panel.fields:
            if field not in known:
                raise InputError(
                    f"{place}: plots[{number}]: no field {field}; --list-fields shows which there are"
                )


def _others(points: Iterable[Result]) -> set[str]:
    """Numbers that results hold and no definition here knows."""
    return {
        name
        for point in points
        for name, value in point.aggregate.items()
        if name not in POINT and isinstance(value, (int, float)) and not isinstance(value, bool)
    } - {"repeat", "seed"}


# Groups: which points belong to one line, and which lines to one sheet, by genai-bench's --group-key.

NONE: Final = "none"
FOLDER: Final = "experiment_folder_name"


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points that are joined, in the order of what was swept; lines of one `group` look alike.

    It `speaks` where its task is answered in text.
    """

    group: str
    experiment: str
    points: tuple[Result, ...]
    speaks: bool = True


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One picture of many panels. `name` is what its files begin with, `about` what was measured."""

    name: str
    title: str
    about: str
    lines: tuple[Line, ...]

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(line.group for line in self.lines))

    @property
    def points(self) -> Iterator[Result]:
        for line in self.lines:
            yield from line.points

    @property
    def textless(self) -> tuple[Line, ...]:
        """Those without text beside others with it, of which so no figure of output is drawn."""
        silent = tuple(line for line in self.lines if not line.speaks)
        return silent if len(silent) < len(self.lines) else ()


def sheets(experiments: Sequence[BenchmarkFolder], key: str) -> list[Sheet]:
    """The sheets for this key: traffic_scenario, none, experiment_folder_name, or a field of the metadata.

    Raises InputError for another key.
    """
    several = len(experiments) > 1
    if key == SCENARIO:
        lines = [
            line
            for folder in experiments
            for scenario in folder.scenarios
            for line in _lines(folder, scenario, f"{scenario}, {folder.name}" if several else scenario)
        ]  # fmt: skip
        return [_sheet(SCENARIO, "By traffic scenario", experiments, lines)]
    if key == NONE:
        return [
            _sheet(
                f"{f'{folder.name}_' if several else ''}single_analysis_{scenario}",
                scenario,
                [folder],
                _lines(folder, scenario, ""),
            )
            for folder in experiments
            for scenario in folder.scenarios
        ]
    known = sorted(
        {SCENARIO, NONE, FOLDER, *(name for each in experiments for name in each.metadata)}
    )
    if key not in known:
        raise InputError(f"--group-key {key}: no such field; there are {', '.join(known)}")
    values = [folder.name if key == FOLDER else folder.metadata.get(key) for folder in experiments]
    words = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return [
        _sheet(
            f"{scenario}_group_by_{key}",
            scenario,
            experiments,
            [
                line
                for folder, word in zip(experiments, words, strict=True)
                for line in _lines(folder, scenario, f"{key}: {word}")
            ],
        )
        for scenario in dict.fromkeys(name for folder in experiments for name in folder.scenarios)
    ]


def _sheet(
    name: str, title: str, experiments: Sequence[BenchmarkFolder], lines: Iterable[Line]
) -> Sheet:
    """A sheet about the experiments' tasks, models and backends, each named once."""
    values = (
        dict.fromkeys(str(folder.metadata.get(field) or "") for folder in experiments)
        for field in ("task", "model", "api_backend")
    )
    about = "; ".join(", ".join(filter(None, names)) for names in values if any(names))
    return Sheet(name=safe(name), title=title, about=about, lines=tuple(lines))


def _lines(folder: BenchmarkFolder, scenario: str, group: str) -> Iterator[Line]:
    """The line of a scenario; one for each axis where more than one was swept."""
    series = [(axis, points) for of, axis, points in folder.series() if of == scenario]
    for axis, points in series:
        name = ", ".join(part for part in (group, axis) if part) if len(series) > 1 else group
        speaks = folder.task not in BATCHED
        yield Line(group=name, experiment=folder.name, points=points, speaks=speaks)


# Rows: what the panels of a sheet show, as the results say it, unrounded.


def dots(panel: Panel, sheet: Sheet, unit: str) -> Iterator[dict[str, Any]]:
    """A row for each point and curve that has both values; `unit` is that of latencies."""
    for name, curve in zip(names(panel, unit), panel.curves, strict=True):
        of_text = any((metric_of(field) or field) in OF_TEXT for field in (panel.x, curve.field))
        for line in sheet.lines:
            for point in () if of_text and line in sheet.textless else line.points:
                x, y = point.number(panel.x), point.number(curve.field)
                if x is not None and y is not None:
                    yield {
                        **_who(line, point), "curve": name, "x": x, "y": y,
                    }  # fmt: skip


def _who(line: Line, point: Result) -> dict[str, Any]:
    return {
        "group": line.group,
        "experiment": line.experiment,
        "scenario": point.scenario,
        "axis": AXES[point.axis].field,
        "at": point.value,
        "repeat": point.repeat,
    }


def in_unit(text: str | None, fields: Iterable[str], unit: str) -> str:
    """A text of the layout's about these fields, with the unit of latencies that is asked for.

    Its `(s)` stays where a field is in seconds whatever is asked for, as the duration of a run.
    """
    units = {unit_of(field, TIME) for field in fields}
    if not text or TIME not in units or "s" in units:
        return text or ""
    return text.replace(f"({'s' if unit == 'ms' else 'ms'})", f"({unit})")


def names(panel: Panel, unit: str) -> list[str]:
    """The curves in a legend; a number keeps apart those that would be called alike."""
    taken: list[str] = []
    for curve in panel.curves:
        name = in_unit(curve.label, (curve.field,), unit) or label(curve.field, "")
        taken.append(f"{name} ({len(taken) + 1})" if name in taken else name)
    return taken


def codes(panel: Panel, sheet: Sheet) -> Iterator[dict[str, Any]]:
    """A row for each point and status: the share of its requests that failed so, over the bars before it."""
    for line in sheet.lines:
        for point in line.points:
            x, n = point.number(panel.x), point.number("num_requests")
            if x is None or not n:
                continue
            frequency = point.aggregate.get("error_codes_frequency")
            counts = frequency.items() if isinstance(frequency, dict) else ()
            below = 0.0
            for code, count in sorted((str(code), k) for code, k in counts if isinstance(k, int)):
                share = count / n
                name = f"{code} {PHRASES[code]}" if code in PHRASES else code
                yield {
                    **_who(line, point), "file": point.path.name, "code": name, "x": x, "y": share,
                    "from": below, "to": below + share, "count": count, "of": n,
                }  # fmt: skip
                below += share


PHRASES: Final = {
    **{str(status.value): status.phrase for status in HTTPStatus},
    "408": "Request Timeout, or timed out here",
    "500": "Internal Server Error, or broken off",
    "503": "Service Unavailable, or connection failed",
}
"""What a status means; three of them stand in genai-bench's JSON for failures without one, too."""


def means(rows: Rows) -> Rows:
    """Repeats of a point as one: the means of x and y."""
    keys = ("group", "experiment", "scenario", "curve", "axis", "at")
    averaged = []
    for key, of in groupby(rows, lambda row: tuple(row[name] for name in keys)):
        several = list(of)
        averaged.append(
            {
                **dict(zip(keys, key, strict=True)),
                "x": fmean(row["x"] for row in several),
                "y": fmean(row["y"] for row in several),
                "runs": len(several),
            }
        )
    return averaged


def beside(rows: Rows, fields: Sequence[str], point: str) -> None:
    """Name the `bar` of each row by these fields; `point` tells the points apart.

    Points of one name and one x get a number: in one place they would add up, or hide each other.
    """
    taken: dict[tuple[str, float], list[Any]] = {}
    for row in rows:
        bar = " ".join(str(row[field]) for field in fields)
        points = taken.setdefault((bar, row["x"]), [])
        if row[point] not in points:
            points.append(row[point])
        number = points.index(row[point])
        row["bar"] = f"{bar} {number + 1}" if number else bar
