"""Rows: what the panels of a sheet show, as the results say it, unrounded."""

from collections.abc import Iterator
from http import HTTPStatus
from itertools import groupby
from statistics import fmean
from typing import Any

from analysis.charts.drawing import Rows
from analysis.plots.groups import Line, Sheet
from analysis.plots.layout import Curve, Panel
from analysis.result import Result


def dots(one: Panel, sheet: Sheet) -> Iterator[dict[str, Any]]:
    """A row for each point and curve that has both values."""
    for number, curve in enumerate(one.curves):
        for line in sheet.lines:
            for point in line.points:
                x, y = point.number(one.x), point.number(curve.field)
                if x is not None and y is not None:
                    yield {
                        **_who(line, point), "curve": named(curve, number), "x": x, "y": y,
                    }  # fmt: skip


def _who(line: Line, point: Result) -> dict[str, Any]:
    return {
        "group": line.group,
        "experiment": line.experiment,
        "scenario": point.scenario,
        "at": point.value,
        "repeat": point.repeat,
    }


def named(curve: Curve, number: int) -> str:
    """A curve in a legend; the number keeps two of one field apart."""
    return curve.label or f"{curve.field}{f' ({number})' if number else ''}"


def codes(one: Panel, sheet: Sheet) -> Iterator[dict[str, Any]]:
    """A row for each point and status: the share of its requests that failed so, over the bars before it."""
    for line in sheet.lines:
        for point in line.points:
            x, n = point.number(one.x), point.number("num_requests")
            if x is None or not n:
                continue
            below = 0.0
            for code, count in sorted(point.aggregate["error_codes_frequency"].items()):
                share = count / n
                yield {
                    **_who(line, point), "code": _phrase(str(code)), "x": x, "y": share,
                    "from": below, "to": below + share, "count": count, "of": n,
                }  # fmt: skip
                below += share


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
