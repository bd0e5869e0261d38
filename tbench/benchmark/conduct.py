"""Conduct: make a benchmark's points, one after the other; a trace, a run and a result for each.

A point whose requests all fail is a result like any other. Only where nothing has succeeded yet, and
nothing will (nobody listens, a wrong key, an unknown model), the benchmark ends.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tbench.benchmark.genai_bench import OWN, Trim, figures, result, result_name, stem, write_json
from tbench.benchmark.sweep import Point
from tbench.capture.errors import InvalidRunError, after_sending
from tbench.capture.exchange import Outcome
from tbench.capture.synthesis import Workload, write
from tbench.capture.trace_reader import Trace, read_trace
from tbench.replay import measures
from tbench.replay.closing import REPLAY, Flags, check_reached
from tbench.replay.columns import Column
from tbench.replay.job import resolve
from tbench.replay.measures import Columns
from tbench.replay.options import ReplayOptions
from tbench.replay.player import PASSING
from tbench.replay.runfile import Run, read_run
from tbench.replay.runner import Watch, run_replay
from tbench.replay.throughput import SIDES, tokens_rate
from tbench.replay.totals import duration_s, numbers
from tbench.run_store import DONE, Kind, RunStore

# Hope: whether failures stay what they are however often one asks (nobody listens, a wrong key).

REFUSED: Final = frozenset({"http_400", "http_413", "http_422"})


def hopeless(numbers: Mapping[str, Any]) -> bool:
    """Whether a run (its `numbers`) has failures, no success, and none that could become one."""
    failed, completed = numbers["failed"], numbers["completed"]
    return bool(failed) and not completed and all(map(lasts, numbers["errors"]))


def too_much(numbers: Mapping[str, Any]) -> bool:
    """Whether it may be the request that is refused (too long, say): another point's need not be."""
    return any(kind in REFUSED for kind in numbers["errors"])


def check_hope(run: Run, numbers: Mapping[str, Any], flags: Flags) -> None:
    """Raise UnreachableError where it is hopeless, saying what to do by the options `flags`."""
    if hopeless(numbers):
        check_reached(run, numbers, flags)


def lasts(kind: str) -> bool:
    """Whether a kind of failure (`connect_error`, `http_404`) stays what it is."""
    status = kind.removeprefix("http_")
    if status == kind:
        return kind == Outcome.CONNECT_ERROR.value
    return status.startswith("4") and int(status) not in PASSING


RUNS: Final = "runs"
TRACES: Final = "traces"
STORE: Final = Kind(
    file=OWN, key="options", runs=RUNS, flag=lambda name: "--" + name.replace("_", "-")
)
ENDED: Final = frozenset({"interrupt", "disk", "max_cost"})
"""Ends of a run after which there is no next one."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What every point has in common. `workload` makes a point's requests; `order` says how to send them.

    `requests` and `duration_s` end a point, whichever comes first; what is in flight then still finishes.
    `unit` is that of latencies in the results, `s` or `ms`. `judged` says more of a run, for its result.
    `spawn_rate` is how fast the requests in flight become as many as asked for, per second; None: at once.
    `flags` are the options that name the server. Everything is written below the folder of the `store`.
    """

    task: str
    store: RunStore
    order: ReplayOptions
    workload: Callable[[Point], Workload]
    requests: int
    duration_s: float
    trim: Trim
    unit: str
    judged: Callable[[Run], Mapping[str, Any]] = lambda _: {}
    spawn_rate: float | None = None
    flags: Flags = REPLAY

    @property
    def folder(self) -> Path:
        return self.store.folder


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """A point that was made, or was there already: its run, its result, and `numbers` of `replay --json`."""

    task: str
    point: Point
    run: Run
    result: Mapping[str, Any]
    numbers: Mapping[str, Any]
    fresh: bool

    @property
    def warnings(self) -> list[str]:
        """What to know of its figures."""
        return list(self.result["aggregated_metrics"]["warnings"])

    @property
    def ended_by(self) -> str:
        return str(self.run.totals["ended_by"])


def conduct(
    plan: Benchmark,
    points: Iterable[Point],
    watch: Callable[[Point], Watch | None],
    argv: tuple[str, ...] = (),
) -> Iterator[PointResult]:
    """Make each point that is not there yet; yields each, and ends after one that was interrupted.

    `points` may depend on what was yielded before. Raises UnreachableError where nothing will succeed.
    """
    for name in (RUNS, TRACES):
        (plan.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    sent = succeeded = False
    for point in points:
        with after_sending(sent):
            made = there(plan, point) or _make(plan, point, watch(point), argv)
        sent = True
        succeeded = succeeded or bool(made.numbers["completed"])
        yield made
        if made.ended_by in ENDED:
            return
        if not succeeded and hopeless(made.numbers) and not too_much(made.numbers):
            # It becomes a point that is not there: who mends the address or the key can go on.
            plan.store.clear(stem(point, plan.task))
            _remove_result(plan, point)
            check_hope(made.run, made.numbers, plan.flags)
        if made.fresh:
            usd = (made.run.totals.get("cost") or {}).get("usd")
            plan.store.note(stem(point, plan.task), DONE, usd)


def there(plan: Benchmark, point: Point) -> PointResult | None:
    """A point that an earlier benchmark in this folder made to its end."""
    path = plan.store.path(stem(point, plan.task))
    if not path.exists():
        return None
    run = read_run(path)
    if not run.complete or run.totals["ended_by"] in ENDED:
        plan.store.clear(stem(point, plan.task))
        return None
    return _made(plan, point, run, fresh=False)


def _make(plan: Benchmark, point: Point, watch: Watch | None, argv: tuple[str, ...]) -> PointResult:
    trace = _trace_path(plan, point)
    plan.store.clear(stem(point, plan.task))
    trace.with_name(trace.name + ".part").unlink(missing_ok=True)
    if not trace.exists():
        write(plan.workload(point), trace)
    job = resolve(order_of(plan, point, trace), argv, part_of=_part(plan, point))
    return _made(plan, point, run_replay(job, watch), fresh=True)


def _made(plan: Benchmark, point: Point, run: Run, *, fresh: bool) -> PointResult:
    """The result is written again from the run, in the unit asked for."""
    summary = numbers(run)
    columns, by = with_lengths(run.columns, read_trace(_trace_path(plan, point)))
    content = result(point, columns, plan.trim, plan.unit)
    content["aggregated_metrics"] |= {
        **plan.judged(run),
        "prompt_tokens_by": by,
        "warnings": list(_warnings(point, run.columns, summary, content["aggregated_metrics"])),
        "valid": summary["valid"],
        "invalid_because": summary["invalid_because"],
    }
    _remove_result(plan, point)
    name = result_name(point, plan.task, duration_s(run.columns))
    if run.totals["ended_by"] not in ENDED:
        write_json(plan.folder / name, content, failure=InvalidRunError)
    return PointResult(
        task=plan.task, point=point, run=run, result=content, numbers=summary, fresh=fresh
    )


def _warnings(
    point: Point, columns: Columns, summary: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Iterator[str]:
    """What a reader of the point's figures would else take for something that it is not."""
    for side, unit in SIDES.items():
        if missing := metrics["without_token_counts"][side]:
            rate = metrics[f"mean_{side}_throughput_tokens_per_s"]
            yield f"throughput {tokens_rate(rate, unit, missing)}"
    most = summary["in_flight"]["max"] or 0
    if point.concurrency is not None and most < point.concurrency:
        yield (
            f"at most {most:,} of {point.concurrency:,} were in flight: the point has only "
            f"{summary['planned']:,} requests; raise --max-requests-per-run"
        )
    measured = measures.counted(columns)
    if buffered := measures.buffered(*measures.gaps(measured)):
        yield buffered
        return
    ours, theirs = (
        measures.spread(values[~np.isnan(values) & (values > 0)])["p50"]
        for values in (measures.tpot(measured), figures(columns)["tpot"])
    )
    if ours and theirs and max(ours, theirs) > APART * min(ours, theirs):
        yield (
            f"TPOT p50 is {theirs * 1e3:.1f} ms here, to the end of an answer as genai-bench has it, and "
            f"{ours * 1e3:.1f} ms to its last token, as in tbench report: the server ends answers late"
        )


APART: Final = 1.5
"""Two definitions of one name that differ by more than this factor are said."""


def _remove_result(plan: Benchmark, point: Point) -> None:
    for before in plan.folder.glob(f"{glob_of(point, plan.task)}_time_*s.json"):
        before.unlink()


def with_lengths(columns: Columns, trace: Trace) -> tuple[dict[str, Column], str | None]:
    """Prompt tokens by the trace where the server counts none (Together's embeddings), and by whom.

    None: nobody counted them (rows of a dataset, without a tokenizer).
    """
    counts = columns["prompt_tokens"]
    missing = counts < 0
    if not missing.any():
        return dict(columns), "server"
    known = {
        exchange.request.id: exchange.request.extra.get("prompt_tokens")
        for exchange in trace.requests
    }
    ours = np.array([known.get(str(name)) or -1 for name in columns["id"].tolist()])
    if missing.all() and (ours < 0).all():
        return dict(columns), None
    by = "client" if missing.all() else "server, else client"
    return {**columns, "prompt_tokens": np.where(missing, ours, counts)}, by


def glob_of(point: Point, task: str) -> str:
    """The stem of a point's files as a pattern: none of its characters is one of a pattern's."""
    return stem(point, task).replace("[", "[[]")


def order_of(plan: Benchmark, point: Point, trace: Path) -> ReplayOptions:
    """How a point's trace is sent: N in flight, or at a rate."""
    order = replace(
        plan.order,
        trace=trace,
        out=plan.store.path(stem(point, plan.task)),
        requests=plan.requests,
        duration=plan.duration_s,
        seed=point.seed % 2**31,
    )
    if point.concurrency is not None:
        return replace(order, concurrency=point.concurrency, spawn_rate=plan.spawn_rate)
    if point.axis == "poisson":
        return replace(order, poisson=point.rate)
    return replace(order, constant=point.rate)


def _trace_path(plan: Benchmark, point: Point) -> Path:
    return plan.folder / TRACES / f"{stem(point, plan.task)}.msgpack"


def _part(plan: Benchmark, point: Point) -> dict[str, Any]:
    return {
        "benchmark": plan.folder.name,
        "task": plan.task,
        "scenario": point.scenario,
        "axis": point.axis,
        "value": point.value,
        "repeat": point.repeat,
    }
