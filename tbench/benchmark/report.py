"""Sweep: a benchmark's folder as text and as JSON, a row for each point. Latencies in ms in the text."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from tbench.analysis.report.text import Sheet, grid
from tbench.benchmark.fields import AXES
from tbench.benchmark.folder import BenchmarkFolder, Result
from tbench.benchmark.genai_bench import RUNS
from tbench.benchmark.sweep import BATCHED
from tbench.capture.errors import InputError, InvalidRunError, UnreachableError
from tbench.capture.terminal import named, plural
from tbench.replay.closing import FEW, mark
from tbench.replay.throughput import three

LATENCIES: Final = (("TTFT", "ttft"), ("TPOT", "tpot"), ("E2E", "e2e_latency"))
LEVELS: Final = ("p50", "p95")
BASIS: Final = (
    "Rates are over all the time of these requests, latencies of the completed ones, quantiles between two "
    "of them, as genai-bench has them; tbench report of a run takes the time in which all places were taken, "
    "timeouts as the slowest, and for a quantile a value that was measured."
)
"""Under the tables: why a point's figures differ from those of its run."""


def sweep_text(sweep: BenchmarkFolder, *, width: int = 100, colour: bool = False) -> str:
    """A table for each scenario, what to beware of, and where to look further."""
    page, sweep = Sheet(width, colour), sweep.in_unit("ms")
    model = sweep.metadata.get("model") or sweep.metadata.get("api_model_name") or "no model named"
    page.line(f"benchmark {sweep.folder}", style="bold")
    page.paragraph(
        f"{named(str(model))}; {named(sweep.task)}; {plural(len(sweep.points), 'point')}"
    )
    page.line("")
    for scenario, axis, points in sweep.series():
        page.line(f"{named(scenario)}, by {AXES[axis].words}; latencies in ms, from sent")
        page.table(_table(points, sweep.task))
    if any("*" in cell for point in sweep.points for cell in _latencies(point, sweep.task)):
        page.paragraph(FEW)
    page.paragraph(BASIS)
    doubts: list[str] = []
    for point in sweep.points:
        if _validity(point) == INVALID:
            doubts.append(f"{named(point.name)}: INVALID, {point.aggregate.get('invalid_because')}")
        doubts += [f"{named(point.name)}: {warning}" for warning in point.warnings]
    for note in (*sweep.notes, *doubts):
        page.paragraph(f"! {note}", style="yellow", indent="  ")
    folder = shlex.quote(str(sweep.folder))
    for run in [run for point in sweep.points if (run := run_of(point))][:1]:
        page.paragraph(f"one point  tbench report {shlex.quote(str(run))}", indent="  ")
    book = f"{sweep.name}_summary"
    if not (sweep.folder / f"{book}.xlsx").exists():
        name = shlex.quote(book)
        page.paragraph(
            f"workbook   tbench excel --experiment-folder {folder} --excel-name {name}", indent="  "
        )
        page.paragraph(f"pictures   tbench plot --experiments-folder {folder}", indent="  ")
    return page.text


def sweep_json(sweep: BenchmarkFolder) -> dict[str, Any]:
    """The object of `report FOLDER --json`: points as `benchmark --json` has them, in the unit they have."""
    points = []
    for point in sweep.points:
        run = run_of(point)
        points.append({"run": None if run is None else str(run), **point.aggregate})
    return {
        "folder": str(sweep.folder),
        "metrics_time_unit": sweep.unit,
        "points": points,
        "notes": list(sweep.notes),
    }


def run_of(point: Result) -> Path | None:
    """The run beside a point's result; None where there is none: genai-bench keeps none."""
    stem = re.sub(r"_time_\d+s$", "", point.path.stem)
    path = point.path.parent / RUNS / f"{stem}.run"
    return path if path.is_file() else None


def check(sweep: BenchmarkFolder) -> None:
    """Raise what ends a report of it: InputError without a point, else as for a run of all of them."""
    if not sweep.points:
        raise InputError(f"{sweep.folder}: {sweep.notes[0]}")
    if not any(point.number("num_completed_requests") for point in sweep.points):
        raise UnreachableError(f"{sweep.folder}: no request succeeded in any point")
    invalid = [point for point in sweep.points if _validity(point) == INVALID]
    if invalid:
        raise InvalidRunError(
            f"{sweep.folder}: {len(invalid)} of {plural(len(sweep.points), 'point')} INVALID, first "
            f"{named(invalid[0].name)}: {named(str(invalid[0].aggregate.get('invalid_because')))}"
        )


INVALID: Final = "INVALID"


def _validity(point: Result) -> str:
    """By its run; genai-bench does not say."""
    valid = point.aggregate.get("valid")
    return "valid" if valid is True else INVALID if valid is False else "-"


def _table(points: tuple[Result, ...], task: str) -> Table:
    # A server is measured by the tokens that it wrote or, of embeddings, by those that it read.
    side = "input" if task in BATCHED else "output"
    latencies = [heading for name, _ in _shown(task) for heading in (f"{name}\np50", "\np95")]
    headings = ("\nat", "\nok", "\nfailed", "\nreq/s", f"{side}\ntok/s", *latencies, "")
    table = grid(*headings, left=frozenset({len(headings) - 1}))
    for column in table.columns:
        column.no_wrap = True
    for point in points:
        again = f" run {point.repeat}" if any(other.repeat > 1 for other in points) else ""
        counts = [point.number(name) for name in ("num_completed_requests", "num_error_requests")]
        requests, tokens = (
            "-" if rate is None else three(rate)
            for rate in (
                point.number("requests_per_second"),
                point.number(f"mean_{side}_throughput_tokens_per_s"),
            )
        )
        if point.number(f"without_token_counts.{side}") and tokens != "-":
            tokens = f"≥ {tokens}"  # a lower bound: some answers have no token count
        valid = _validity(point)
        table.add_row(
            f"{point.value:g}{again}",
            *("-" if count is None else f"{count:,.0f}" for count in counts),
            requests,
            tokens,
            *_latencies(point, task),
            Text(valid, style="red" if valid == INVALID else "dim"),
        )
    return table


def _shown(task: str) -> tuple[tuple[str, str], ...]:
    """An answer that is no text has one latency only."""
    return LATENCIES[-1:] if task in BATCHED else LATENCIES


def _latencies(point: Result, task: str) -> Iterator[str]:
    n = int(point.number("num_completed_requests") or 0)
    for _, metric in _shown(task):
        for level in LEVELS:
            value = point.stat(metric, level)
            yield "-" if value is None else f"{three(value)}{mark(level, n):<1}"
