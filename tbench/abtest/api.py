"""An A/B test from plan to verdict: the runs that are missing are made, then all of them are judged."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from tbench.abtest.plan import AbPlan, Slot, experiment
from tbench.abtest.runner import (
    RunResult,
    check_budget,
    conduct,
    missing,
    opened,
    outlook,
    run_name,
)
from tbench.analysis.arms import load_arm
from tbench.analysis.gate_results import GateResults, evaluate_gates
from tbench.analysis.interim import Decision, Looks, as_monitored, monitor
from tbench.analysis.metrics import METRICS
from tbench.analysis.replicates import Replicates
from tbench.analysis.report.judgement import judgement_json
from tbench.analysis.report.planning import spread_json
from tbench.analysis.variance import Spread, spread
from tbench.capture.container_reader import open_container
from tbench.capture.errors import InputError, InvalidRunError, TbenchError
from tbench.capture.trace_reader import read_trace
from tbench.replay.job import resolve
from tbench.replay.runner import Watch
from tbench.replay.totals import numbers
from tbench.run_store import DONE, RunStore


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """An experiment that came to no verdict: how its last run ended, and what is still missing."""

    ended: str
    missing: int
    why: str | None


def ab(
    trace: str | Path,
    *,
    arms: Sequence[Mapping[str, Any]],
    out: str | Path,
    ended: Callable[[RunResult], None] = lambda _: None,
    **words: object,
) -> GateResults:
    """Replay one trace to several arms, several times each and in turns, and judge them.

    Args:
        trace: a trace file, folder or glob.
        arms: a table for each arm, the baseline first, with the words of docs/ab.md (`name`, `model`, ...).
        out: the folder for the runs. One that holds this experiment already is gone on with.
        ended: called with each run that was made.
        words: what a plan file may say besides (docs/ab.md): `repeats`, `margin`, `schedule`, `speed` ...

    Raises InputError before anything is sent, UnreachableError where an arm answered nothing,
    InvalidRunError where it ended early for another reason, KeyboardInterrupt after an interrupt.
    """
    plan = experiment({**words, "trace": str(trace), "arm": [dict(arm) for arm in arms]})
    ledger = prepared(plan, Path(out))
    if stopped := perform(plan, ledger, lambda _: None, ended):
        if stopped.ended == "interrupt":
            raise KeyboardInterrupt
        why = stopped.why or stopped.ended
        raise InvalidRunError(f"{out}: {stopped.missing} replays are missing: {why}")
    return verdict(plan, ledger)


def prepared(plan: AbPlan, folder: Path) -> RunStore:
    """The ledger of the experiment, with everything checked that can be before the first request."""
    for arm in plan.treatments:
        resolve(arm.order(plan.order))  # finds its key, or says which variable is missing
    ledger = opened(folder, plan)
    _check_trace(plan, ledger)
    if plan.max_cost is not None:
        check_budget(plan, outlook(plan, missing(plan, ledger)), ledger.spent)
    ledger.write()
    return ledger


def _check_trace(plan: AbPlan, ledger: RunStore) -> None:
    """Raise InputError where the file of the trace holds another one than the runs that there are."""
    made = [entry for entry in ledger.entries if entry["ended"] == DONE]
    paths = [path for entry in made if (path := ledger.folder / entry["run"]).exists()]
    known = {open_container(path).header["trace"]["capture_id"] for path in paths}
    if known - {read_trace(Path(plan.order.trace)).header.capture_id}:
        raise InputError(
            f"{plan.order.trace}: not the trace that the runs in {ledger.folder} were made of; "
            "put that one back, or choose another folder with -o"
        )


def perform(
    plan: AbPlan,
    ledger: RunStore,
    watch: Callable[[Slot], Watch | None],
    ended: Callable[[RunResult], None],
    argv: tuple[str, ...] = (),
) -> Stopped | None:
    """Make the missing runs; None when all are there that it takes: a monitored plan may end early."""
    last: RunResult | None = None
    why: str | None = None
    if early(plan, ledger):
        return None
    for last in conduct(plan, ledger, watch, argv=argv):
        ended(last)
        why = last.numbers["invalid_because"] or why
        if last.ended == DONE and early(plan, ledger):
            return None
    left = len(missing(plan, ledger))
    if not left:
        return None
    if last is None or last.ended == DONE:
        raise TbenchError(f"{ledger.folder}: {left} runs are missing and none was made: a defect")
    return Stopped(ended=last.ended, missing=left, why=why)


def verdict(plan: AbPlan, ledger: RunStore) -> GateResults:
    """Judge the runs of a finished experiment by the gates that it declared."""
    if (looks := plan.looks) is None:
        return _judged(plan, ledger, plan.repeats)
    return early(plan, ledger) or _at_look(plan, ledger, looks, len(looks.runs))[1]


def early(plan: AbPlan, ledger: RunStore) -> GateResults | None:
    """What a monitored plan was stopped with before its last look; None where it goes on."""
    looks = plan.looks
    complete = _whole_rounds(plan, ledger)
    if looks is None:
        return None
    for number, runs in enumerate(looks.runs[:-1], start=1):
        if runs <= complete:
            decision, judgement = _at_look(plan, ledger, looks, number)
            if decision.stop:
                return judgement
    return None


def _at_look(
    plan: AbPlan, ledger: RunStore, looks: Looks, number: int
) -> tuple[Decision, GateResults]:
    judgement = _judged(plan, ledger, looks.runs[number - 1])
    decision = monitor(judgement, looks, number)
    return decision, as_monitored(judgement, decision)


def _whole_rounds(plan: AbPlan, ledger: RunStore) -> int:
    """How many rounds, from the first, have a run of every arm."""
    names = [arm.name for arm in plan.treatments]
    rounds = range(1, plan.repeats + 1)
    complete = takewhile(
        lambda number: all(ledger.done(run_name(name, number)) for name in names), rounds
    )
    return len(list(complete))


def _judged(plan: AbPlan, ledger: RunStore, rounds: int) -> GateResults:
    """The runs of the first so many rounds, held against the plan's gates."""
    names = [arm.name for arm in plan.treatments]
    return evaluate_gates(
        [_replicates(ledger, name, rounds) for name in names],
        plan.gates,
        contrast=plan.contrast,
        planned=True,
    )


def _replicates(ledger: RunStore, arm: str, rounds: int) -> Replicates:
    paths = [ledger.path(run_name(arm, number)) for number in range(1, rounds + 1)]
    runs = [load_arm(path) for path in paths]
    return Replicates(
        name=arm, runs=tuple(sorted(runs, key=lambda run: int(run.run.header["wall_ns"])))
    )


def result_json(plan: AbPlan, judgement: GateResults) -> dict[str, Any]:
    """What `tbench ab --json` prints (docs/json.md): the judgement, the plan, and each run's figures."""
    judged = judgement_json(judgement)
    arms = [
        {**arm, "model": spec.model, "base_url": spec.base_url}
        for arm, spec in zip(judged["arms"], plan.treatments, strict=True)
    ]
    runs = sorted(_runs(judgement), key=lambda run: int(run["started_ns"]))
    variance = [spread_json(spread) for spread in spreads(judgement)]
    return {**judged, "arms": arms, "runs": runs, "variance": variance, "plan": plan.written}


def spreads(judgement: GateResults) -> Iterator[Spread]:
    """What differed from run to run at each gated quantile, and what of it a run's requests explain."""
    gated = {
        (row.gate.metric, row.gate.quantile)
        for row in judgement.rows
        if row.gate.quantile is not None and not row.comparison.refusal
    }
    for metric, quantile in sorted(gated):
        yield spread(judgement.arms, METRICS[metric], quantile)


def _runs(judgement: GateResults) -> Iterator[dict[str, Any]]:
    for arm in judgement.arms:
        for run in arm.runs:
            part = run.run.header["experiment"]
            started = run.run.header["wall_ns"]
            yield {
                "arm": arm.name,
                "round": part["round"],
                "started_ns": started,
                **numbers(run.run),
            }


def default_folder(trace: Path) -> Path:
    """A new name in the current folder: the trace's, and the time."""
    stem = trace.resolve().name.removesuffix(".part").removesuffix(".msgpack") or "trace"
    return Path(f"{stem}.{time.strftime('%Y%m%d-%H%M%S')}.ab")
