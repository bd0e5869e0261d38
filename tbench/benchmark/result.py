"""A result: the file of one point of a benchmark, ours or genai-bench's, checked and in one unit."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from tbench.benchmark.aggregate import scaled
from tbench.benchmark.figures import LATENCIES
from tbench.capture.errors import InputError
from tbench.capture.jsontext import read_json

Unit = Literal["s", "ms"]
Json = Mapping[str, Any]

PER_SECOND: Final[Mapping[str, float]] = {"s": 1.0, "ms": 1e3}
AXES: Final[Mapping[str, str]] = {
    "num_concurrency": "num_concurrency",
    "batch_size": "batch_size",
    "rate": "request_rate",
    "poisson": "request_rate",
}
"""What can be swept -> the field that holds its value."""


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
        return float(self.aggregate[AXES[self.axis]])

    @property
    def repeat(self) -> int:
        """Which run of the point it is, from 1."""
        return int(self.aggregate.get("repeat") or 1)

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
    if not all(map(_timed, (aggregate, *requests))):
        raise _bad(path, "a latency is not a number")
    source = read_unit(content.get("_time_unit") or written, path)
    factor = PER_SECOND[unit] / PER_SECOND[source]
    counted = {**scaled(aggregate, factor), "error_rate": _error_rate(aggregate, path)}
    return Result(path=path, aggregate=counted, unit=unit, factor=factor, ended=len(requests))


def _aggregate(content: Json, path: Path) -> dict[str, Any]:
    """The point's own map, with what genai-bench takes for granted, and what names the point checked."""
    aggregate = content.get("aggregated_metrics")
    if not isinstance(aggregate, dict):
        raise _bad(path, "aggregated_metrics is missing")
    axis = aggregate.setdefault("iteration_type", "num_concurrency")
    if not isinstance(axis, str) or axis not in AXES:
        raise _bad(path, f"iteration_type {axis} is not one of {', '.join(AXES)}")
    value = aggregate.setdefault(AXES[axis], None if axis in {"rate", "poisson"} else 1)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _bad(path, f"{AXES[axis]} {value} is not a number")
    repeat = aggregate.get("repeat") or 1
    if not isinstance(repeat, int) or repeat < 1:
        raise _bad(path, f"repeat {repeat} is not a number from 1")
    if not isinstance(aggregate.get("scenario"), str):
        raise _bad(path, "it names no scenario")
    if not _tabular(aggregate.setdefault("stats", {})):
        raise _bad(path, "stats are not numbers by metric and level")
    return aggregate


def _tabular(stats: object) -> bool:
    """Whether these are maps of numbers, or of nulls."""
    if not isinstance(stats, dict) or not all(isinstance(of, dict) for of in stats.values()):
        return False
    values = (value for of in stats.values() for value in of.values())
    return all(value is None or isinstance(value, (int, float)) for value in values)


def _timed(record: Json) -> bool:
    """Whether every latency in it is a number, or null."""
    return all(isinstance(record.get(name), int | float | None) for name in LATENCIES)


def _error_rate(aggregate: Json, path: Path) -> float | None:
    """Failures over all requests, by the counts."""
    failed, n = (aggregate.get(name, 0) for name in ("num_error_requests", "num_requests"))
    if not isinstance(failed, int) or not isinstance(n, int):
        raise _bad(path, "num_requests and num_error_requests are not counts")
    return failed / n if n else None


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
