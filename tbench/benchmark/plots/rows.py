"""Rows: what the panels of a sheet show, as the results say it, unrounded."""

from collections.abc import Iterator
from http import HTTPStatus
from itertools import groupby
from statistics import fmean
from typing import Any

from tbench.analysis.charts.drawing import Rows
from tbench.benchmark.plots.fields import label
from tbench.benchmark.plots.groups import Line, Sheet
from tbench.benchmark.plots.layout import Panel
from tbench.benchmark.result import Result


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
