"""Conduct: make a benchmark's points, one after the other; a trace, a run and a result for each.

A point whose requests all fail is a result like any other. Where nothing will succeed (nobody listens, a
wrong key, an unknown model) the benchmark ends, or, once something has succeeded, makes the point again when
it is gone on with.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tbench.analysis.arms import arm_of_run
from tbench.analysis.pairing import RunView
from tbench.analysis.run_metrics import GOODPUT, endpoint, parse_slo
from tbench.benchmark.folder import read_result
from tbench.benchmark.genai_bench import (
    OWN,
    RUNS,
    TRACES,
    Trim,
    counted,
    figures,
    result,
    result_name,
    stem,
    write_json,
)
from tbench.benchmark.plan import NEWER, BenchmarkPlan
from tbench.benchmark.sweep import Point
from tbench.capture.errors import InputError, InvalidRunError, after_sending
from tbench.capture.exchange import Outcome
from tbench.capture.synthesis.generate import write
from tbench.capture.synthesis.scenario import parse
from tbench.capture.synthesis.workload import Workload
from tbench.capture.trace_reader import read_trace
from tbench.replay import metrics
from tbench.replay.closing import Flags, changed, check_reached
from tbench.replay.columns import Column
from tbench.replay.job import resolve
from tbench.replay.metrics import Columns
from tbench.replay.player import PASSING
from tbench.replay.runfile import Run, read_run
from tbench.replay.runner import Watch, run_replay
from tbench.replay.throughput import SIDES, tokens_rate
from tbench.replay.totals import duration_s, numbers
from tbench.run_store import DONE, Kind, RunStore

REFUSED: Final = frozenset({"http_400", "http_413", "http_422"})
DYING: Final = frozenset({Outcome.CUT.value, Outcome.RESET.value})
"""How requests end that are in flight when their server dies; nobody listens to those behind them."""


def hopeless(numbers: Mapping[str, Any]) -> bool:
    """Whether a run (its `numbers`) has failures, no success, and none that could become one.

    A kind of failure lasts that stays what it is however often one asks: nobody listens, a wrong key.
    """

    def lasts(kind: str) -> bool:
        status = kind.removeprefix("http_")
        if status == kind:
            return kind == Outcome.CONNECT_ERROR.value
        # A 5xx may be over in a minute, as may 408 or 429; a 401 is not.
        return status.startswith("4") and int(status) not in PASSING

    failed, completed, kinds = numbers["failed"], numbers["completed"], {*numbers["errors"]}
    if Outcome.CONNECT_ERROR.value in kinds:
        kinds -= DYING  # the server died in this point
    return bool(failed) and not completed and all(map(lasts, kinds))


def cost_of(run: Run) -> float | None:
    """What a run may have cost, US dollars, as a budget counts it."""
    cost = run.totals.get("cost") or {}
    return cost.get("most_usd") or cost.get("usd")


def too_much(numbers: Mapping[str, Any]) -> bool:
    """Whether it may be the request that is refused (too long, say): another point's need not be."""
    return any(kind in REFUSED for kind in numbers["errors"])


def out_of_reach(numbers: Mapping[str, Any]) -> bool:
    """Whether a point says nothing of its load: nothing would have succeeded, whatever was asked."""
    return hopeless(numbers) and not too_much(numbers)


def check_hope(run: Run, numbers: Mapping[str, Any], flags: Flags) -> None:
    """Raise UnreachableError where it is hopeless, saying what to do by the options `flags`."""
    if hopeless(numbers):
        check_reached(run, numbers, flags)


STORE: Final = Kind(
    file=OWN,
    key="options",
    runs=RUNS,
    flag=lambda name: "--" + name.replace("_", "-"),
    defaults=dict(NEWER),
)
ENDED: Final = frozenset({"interrupt", "disk", "max_cost"})
"""Ends of a run after which there is no next one."""
ESTIMATED: Final = (
    "input tokens, and what is made of them, are estimated from English text where the server counts none; "
    "--model-tokenizer counts them"
)
HELD: Final = {"concurrency": "--num-concurrency", "batch_size": "--batch-size"}
"""What a point may have besides the value of its axis, and the option that says it."""
NEARLY: Final = 0.95
"""Answers that have less of the output tokens asked for are another load than their scenario."""
APART: Final = 1.5
"""Two definitions of one name that differ by more than this factor are told apart in a warning."""


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


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark under way. Of `base` the requests of every point are made, by its scenario and seed.

    A point ends after the plan's requests or time, whichever comes first; what is in flight then still
    finishes. Everything is written below the folder of the `store`.
    """

    plan: BenchmarkPlan
    store: RunStore
    base: Workload

    def conduct(
        self,
        points: Iterable[Point],
        watch: Callable[[Point], Watch | None],
        argv: tuple[str, ...] = (),
    ) -> Iterator[PointResult]:
        """Make each point that is not there yet; yields each, and ends after one that was interrupted.

        `points` may depend on what was yielded before. Raises UnreachableError where nothing will succeed.
        """
        for folder in (RUNS, TRACES):
            (self.store.folder / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.judge_again()
        sent = succeeded = False
        for point in points:
            name = stem(point, self.plan.source.task)
            with after_sending(sent):
                made = self.there(point, name) or self.make(point, name, watch(point), argv)
            sent = True
            succeeded = succeeded or bool(made.numbers["completed"])
            yield made
            if made.fresh and made.ended_by in ENDED:  # it will be made again, and was paid for
                self.store.charge(made.run.path, made.ended_by, cost_of(made.run))
            if made.ended_by in ENDED:
                return
            # Only before the first success: after one the address and the key are known to be right.
            if not succeeded and out_of_reach(made.numbers):
                # It becomes a point that is not there: who mends the address or the key can go on.
                if made.fresh:
                    self.store.charge(made.run.path, "errors", cost_of(made.run))
                self.store.clear(made.run.path)
                self.remove_result(name)
                check_hope(made.run, made.numbers, self.plan.flags)
            if not self.store.done(name):  # one whose end nobody noted, too
                self.store.note(name, DONE, cost_of(made.run))

    def there(self, point: Point, name: str) -> PointResult | None:
        """A point that an earlier benchmark in this folder made to its end.

        Raises InputError for one with another concurrency or batch size: its name has but what is swept.
        """
        path = self.store.path(name)
        if not path.exists():
            return None
        run = read_run(path)
        if not run.complete or run.totals["ended_by"] in ENDED or out_of_reach(numbers(run)):
            self.store.clear(path)
            self.remove_result(name)
            return None
        made = run.header.get("experiment") or {}
        for held in HELD:
            if held in made and made[held] != (now := getattr(point, held)):
                raise InputError(
                    f"{path}: was made with {HELD[held]} {made[held]}, not {now}; choose another folder, or "
                    "leave out what differs to go on with it"
                )
        if not (trace := self.trace_of(name)).exists():
            raise InputError(
                f"{trace}: is gone, and says what lengths {path} asked for; put it back, or move that run "
                "away to make the point again"
            )
        return self.result_of(point, name, run, fresh=False)

    def judge_again(self) -> None:
        """Write earlier results anew that had another --slo: of one folder goodput has one meaning."""
        slo = self.plan.options.slo
        for path in [*self.store.folder.glob("*_time_*s.json")] if slo else ():
            name = path.name.rpartition("_time_")[0]
            if not self.store.path(name).exists():
                continue
            told = read_result(path, "s", "s").aggregate
            if told.get("slo") == slo:
                continue
            rate, axis = told["request_rate"], told["iteration_type"]
            point = Point(
                scenario=told["scenario"],
                axis=axis,
                value=rate or told[axis],
                concurrency=None if rate else told["num_concurrency"],
                rate=rate,
                batch_size=told["batch_size"],
                repeat=told["repeat"],
                seed=told["seed"],
            )
            self.there(point, name)

    def make(
        self, point: Point, name: str, watch: Watch | None, argv: tuple[str, ...]
    ) -> PointResult:
        """Synthesise its trace and send it: N in flight, or at a rate."""
        trace = self.trace_of(name)
        path = self.store.path(name)
        self.store.clear(path)
        # What an earlier try left may be of other options, a model's name that was mended since.
        for left in (trace, trace.with_name(trace.name + ".part")):
            left.unlink(missing_ok=True)
        workload = replace(
            self.base,
            scenario=parse(point.scenario),
            batch_size=point.batch_size,
            seed=point.seed,
        )
        write(workload, trace)
        options, source = self.plan.options, self.plan.source
        order = replace(
            self.plan.order,
            trace=trace,
            out=path,
            requests=source.requests,
            duration=self.plan.duration_s,
            seed=point.seed % 2**31,
            max_cost=self.store.left(options.max_cost),
        )
        if point.concurrency is not None:
            order = replace(order, concurrency=point.concurrency, spawn_rate=options.spawn_rate)
        elif point.axis == "poisson":
            order = replace(order, poisson=point.rate)
        else:
            order = replace(order, constant=point.rate)
        part = {
            "benchmark": self.store.folder.name,
            "task": source.task,
            "scenario": point.scenario,
            "axis": point.axis,
            "value": point.value,
            "repeat": point.repeat,
            **{held: getattr(point, held) for held in HELD},
        }
        job = resolve(order, argv, part_of=part, ledger=self.store.ledger(path))
        run = run_replay(job, watch)
        return self.result_of(point, name, run, fresh=True)

    def result_of(self, point: Point, name: str, run: Run, *, fresh: bool) -> PointResult:
        """Its result, written again from the run in the unit asked for."""
        options, task = self.plan.options, self.plan.source.task
        summary = numbers(run)
        requests = (exchange.request for exchange in read_trace(self.trace_of(name)).requests)
        asked = {request.id: request.extra for request in requests}
        columns, by = with_lengths(run.columns, asked)
        trim = Trim(warmup=options.warmup_ratio, cooldown=options.cooldown_ratio)
        content = result(point, columns, trim, options.metrics_time_unit)
        aggregated = content["aggregated_metrics"]
        notes = [*warnings(point, run.columns, summary, aggregated), *shorter(run.columns, asked)]
        good, unknown = goodput(options.slo, run, trim) if options.slo else ({}, None)
        if unknown:
            notes.append(f"goodput is not known: {unknown}")
        if by not in {None, "server"} and self.plan.source.tokenizer is None:
            notes.append(ESTIMATED)
        aggregated |= {
            **good,
            "prompt_tokens_by": by,
            "warnings": notes,
            "valid": summary["valid"],
            "invalid_because": summary["invalid_because"],
        }
        # The name holds the duration: an earlier result of this point would stay beside the new one.
        self.remove_result(name)
        if run.totals["ended_by"] not in ENDED:
            path = self.store.folder / result_name(point, task, duration_s(run.columns))
            write_json(path, content, failure=InvalidRunError)
        return PointResult(
            task=task, point=point, run=run, result=content, numbers=summary, fresh=fresh
        )

    def remove_result(self, name: str) -> None:
        escaped = name.replace("[", "[[]")  # the only character of a stem that a pattern has, too
        for before in self.store.folder.glob(f"{escaped}_time_*s.json"):
            before.unlink()

    def trace_of(self, name: str) -> Path:
        return self.store.folder / TRACES / f"{name}.msgpack"


def goodput(slo: str, run: Run, trim: Trim) -> tuple[dict[str, Any], str | None]:
    """How many of the requests that count kept to the objectives, as a share and a second; or why None.

    Of the same requests, and over the same time, as the point's `requests_per_second`.
    """
    chosen = counted(run.columns, trim)
    view = RunView(arm=arm_of_run(run), places=np.sort(chosen.rows), at=0)
    share = endpoint(GOODPUT, None).figure(view, parse_slo(slo))
    rate = share.events / chosen.duration_s if chosen.duration_s else 0.0
    known = not share.refusal
    return {
        "slo": slo,
        "goodput": share.value if known else None,
        "goodput_per_s": rate if known else None,
    }, share.refusal


def warnings(
    point: Point, columns: Columns, summary: Mapping[str, Any], aggregated: Mapping[str, Any]
) -> Iterator[str]:
    """What a reader of the point's figures would else take for something that it is not."""
    for side, unit in SIDES.items():
        if missing := aggregated["without_token_counts"][side]:
            rate = aggregated[f"mean_{side}_throughput_tokens_per_s"]
            yield f"throughput {tokens_rate(rate, unit, missing)}"
    yield from changed(summary["portability"])
    most = summary["in_flight"]["max"] or 0
    if point.concurrency is not None and 0 < most < point.concurrency:
        yield (
            f"at most {most:,} of {point.concurrency:,} were in flight: the point has only "
            f"{summary['planned']:,} requests; raise --max-requests-per-run"
        )
    measured = metrics.counted(columns)
    if buffered := metrics.buffered(*metrics.gaps(measured)):
        yield buffered
        return
    ours, theirs = (
        metrics.spread(values[~np.isnan(values) & (values > 0)])["p50"]
        for values in (metrics.tpot(measured), figures(columns)["tpot"])
    )
    if ours and theirs and max(ours, theirs) > APART * min(ours, theirs):
        yield (
            f"TPOT p50 is {theirs * 1e3:.1f} ms here, to the end of an answer as genai-bench has it, and "
            f"{ours * 1e3:.1f} ms to its last token, as in tbench report: the server ends answers late"
        )


def shorter(columns: Columns, asked: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Where answers ended before the lengths that the trace asked for; `asked` is by request id."""
    lengths = [asked.get(str(name), {}).get("output_tokens") for name in columns["id"].tolist()]
    wanted, counts = np.array([length or 0 for length in lengths]), columns["output_tokens"]
    known = (columns["outcome"] == Outcome.OK.value) & (wanted > 0) & (counts >= 0)
    if known.any() and counts[known].sum() < NEARLY * wanted[known].sum():
        yield (
            f"answers have {counts[known].mean():,.0f} output tokens on average where the scenario asks for "
            f"{wanted[known].mean():,.0f}: they ended by themselves (ignore_eos keeps a server that knows it "
            "from that)"
        )


def with_lengths(
    columns: Columns, asked: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Column], str | None]:
    """Prompt tokens as `asked` has them where the server counts none (Together's embeddings), and by whom.

    Only answers say how many there were: of a request that failed nobody counts them. None: nobody did
    (rows of a dataset, without a tokenizer; or no request succeeded).
    """
    counts, ok = columns["prompt_tokens"], columns["outcome"] == Outcome.OK.value
    missing = ok & (counts < 0)
    if not missing.any():
        return dict(columns), "server" if ok.any() else None
    names = columns["id"].tolist()
    ours = np.array([asked.get(str(name), {}).get("prompt_tokens") or -1 for name in names])
    # Not one is counted by the server: then no figure of this point mixes two ways of counting.
    alone = missing.sum() == ok.sum()
    if alone and (ours[ok] < 0).all():
        return dict(columns), None
    by = "client" if alone else "server, else client"
    return {**columns, "prompt_tokens": np.where(missing, ours, counts)}, by
