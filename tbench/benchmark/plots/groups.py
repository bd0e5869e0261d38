"""Groups: which points belong to one line, and which lines to one sheet, by genai-bench's --group-key."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby
from statistics import fmean
from typing import Any, Final

from tbench.analysis.charts.drawing import Rows
from tbench.benchmark.folder import SCENARIO, BenchmarkFolder
from tbench.benchmark.plots.fields import label
from tbench.benchmark.plots.layout import Panel
from tbench.benchmark.result import Result
from tbench.capture.errors import InputError

NONE: Final = "none"
FOLDER: Final = "experiment_folder_name"
_UNSAFE: Final = str.maketrans({"/": "_", ",": "_", "(": None, ")": None})


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points that are joined, in the order of what was swept; lines of one `group` look alike."""

    group: str
    experiment: str
    points: tuple[Result, ...]


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


def sheets(experiments: Sequence[BenchmarkFolder], key: str) -> list[Sheet]:
    """The sheets for this key: traffic_scenario, none, experiment_folder_name, or a field of the metadata.

    Raises InputError for another key.
    """
    if key == SCENARIO:
        return [_by_scenario(experiments)]
    if key == NONE:
        return [sheet for one in experiments for sheet in _alone(one, experiments)]
    known = sorted(
        {SCENARIO, NONE, FOLDER, *(name for one in experiments for name in one.metadata)}
    )
    if key not in known:
        raise InputError(f"--group-key {key}: no such field; there are {', '.join(known)}")
    return [_by_key(experiments, scenario, key) for scenario in _scenarios(experiments)]


def _by_scenario(experiments: Sequence[BenchmarkFolder]) -> Sheet:
    several = len(experiments) > 1
    lines = [
        line
        for one in experiments
        for scenario in one.scenarios
        for line in _lines(one, scenario, f"{scenario}, {one.name}" if several else scenario)
    ]
    return Sheet(
        name=SCENARIO, title="By traffic scenario", about=_about(experiments), lines=tuple(lines)
    )


def _alone(one: BenchmarkFolder, experiments: Sequence[BenchmarkFolder]) -> Iterator[Sheet]:
    several = f"{one.name}_" if len(experiments) > 1 else ""
    for scenario in one.scenarios:
        yield Sheet(
            name=safe(f"{several}single_analysis_{scenario}"),
            title=scenario,
            about=_about([one]),
            lines=tuple(_lines(one, scenario, "")),
        )


def _by_key(experiments: Sequence[BenchmarkFolder], scenario: str, key: str) -> Sheet:
    lines = [
        line for one in experiments for line in _lines(one, scenario, f"{key}: {_value(one, key)}")
    ]
    return Sheet(
        name=safe(f"{scenario}_group_by_{key}"),
        title=scenario,
        about=_about(experiments),
        lines=tuple(lines),
    )


def _lines(one: BenchmarkFolder, scenario: str, group: str) -> Iterator[Line]:
    """The line of a scenario; one for each axis where more than one was swept."""
    found = [(axis, points) for of, axis, points in one.series() if of == scenario]
    for axis, points in found:
        name = ", ".join(part for part in (group, axis) if part) if len(found) > 1 else group
        yield Line(group=name, experiment=one.name, points=points)


def _about(experiments: Sequence[BenchmarkFolder]) -> str:
    """Tasks, models and backends, each once."""
    found = {
        name: dict.fromkeys(str(one.metadata.get(name) or "") for one in experiments)
        for name in ("task", "model", "api_backend")
    }
    return "; ".join(", ".join(filter(None, words)) for words in found.values() if any(words))


def _value(one: BenchmarkFolder, key: str) -> str:
    if key == FOLDER:
        return one.name
    found = one.metadata.get(key)
    return found if isinstance(found, str) else json.dumps(found)


def _scenarios(experiments: Sequence[BenchmarkFolder]) -> list[str]:
    return list(dict.fromkeys(name for one in experiments for name in one.scenarios))


def safe(text: str) -> str:
    """As genai-bench writes it into names of files."""
    return text.translate(_UNSAFE)


# Rows: what the panels of a sheet show, as the results say it, unrounded.


def dots(one: Panel, sheet: Sheet) -> Iterator[dict[str, Any]]:
    """A row for each point and curve that has both values."""
    for name, curve in zip(names(one), one.curves, strict=True):
        for line in sheet.lines:
            for point in line.points:
                x, y = point.number(one.x), point.number(curve.field)
                if x is not None and y is not None:
                    yield {
                        **_who(line, point), "curve": name, "x": x, "y": y,
                    }  # fmt: skip


def _who(line: Line, point: Result) -> dict[str, Any]:
    return {
        "group": line.group,
        "experiment": line.experiment,
        "scenario": point.scenario,
        "at": point.value,
        "repeat": point.repeat,
    }


def names(one: Panel) -> list[str]:
    """The curves in a legend; a number keeps apart those that would be called alike."""
    found: list[str] = []
    for curve in one.curves:
        name = curve.label or label(curve.field, "")
        found.append(f"{name} ({len(found) + 1})" if name in found else name)
    return found


def codes(one: Panel, sheet: Sheet) -> Iterator[dict[str, Any]]:
    """A row for each point and status: the share of its requests that failed so, over the bars before it."""
    for line in sheet.lines:
        for point in line.points:
            x, n = point.number(one.x), point.number("num_requests")
            if x is None or not n:
                continue
            below = 0.0
            for code, count in sorted(_counts(point).items()):
                share = count / n
                yield {
                    **_who(line, point), "code": _phrase(code), "x": x, "y": share,
                    "from": below, "to": below + share, "count": count, "of": n,
                }  # fmt: skip
                below += share


def _counts(point: Result) -> dict[str, int]:
    """Failures by status, as far as the result says."""
    found = point.aggregate.get("error_codes_frequency")
    counts = found if isinstance(found, dict) else {}
    return {str(code): n for code, n in counts.items() if isinstance(n, int)}


def _phrase(code: str) -> str:
    """A status with its name."""
    try:
        return f"{code} {HTTPStatus(int(code)).phrase}"
    except ValueError:
        return code


def means(rows: Rows) -> Rows:
    """Repeats of a point as one: the means of x and y."""
    keys = ("group", "experiment", "scenario", "curve", "at")
    found = []
    for key, of in groupby(rows, lambda row: tuple(row[name] for name in keys)):
        several = list(of)
        found.append(
            {
                **dict(zip(keys, key, strict=True)),
                "x": fmean(row["x"] for row in several),
                "y": fmean(row["y"] for row in several),
                "runs": len(several),
            }
        )
    return found
