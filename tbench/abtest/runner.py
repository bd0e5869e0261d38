"""The runs of an experiment: those that are missing are made, in turns, then all of them are judged.

A run counts when it came to its planned end on a client that kept up. One whose client was the limit is
done again in its place, a stated number of times; any other end ends the experiment, which can be taken up
again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

from tbench.abtest.plan import AbPlan, ArmSpec, Slot, experiment, run_name
from tbench.abtest.verdict import MAX_COST, Stopped, early, verdict
from tbench.analysis.gate_results import GateResults
from tbench.capture.container_reader import open_container
from tbench.capture.errors import InputError, InvalidRunError, TbenchError, after_sending
from tbench.capture.exchange import Outcome
from tbench.capture.terminal import plural
from tbench.capture.trace_reader import read_trace
from tbench.replay.closing import check_reached, dollars
from tbench.replay.estimate import Estimate, OverBudgetError, estimate
from tbench.replay.job import Job, resolve
from tbench.replay.probe import REQUESTS, expected_bill
from tbench.replay.runfile import Run
from tbench.replay.runner import Watch, run_duet
from tbench.replay.target import Target
from tbench.replay.totals import numbers
from tbench.run_store import DONE, Kind, RunStore, make_folder

PLAN: Final = "plan.json"
STORE: Final = Kind(file=PLAN, key="plan", free=frozenset({"max_cost"}))
INVALID: Final = "invalid"
EARLY: Final = frozenset({"interrupt", "errors", "max_cost", "disk"})
"""Ends before the planned one: the next run would end alike, or nobody wants it."""

BROKEN: Final = frozenset({Outcome.CUT.value, Outcome.STREAM_ERROR.value})
"""Failures of a target that took the request and began to answer."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run that was made: how its slot ended, and `numbers` as `replay --json` has them.

    `ended` is "done", "invalid", or what ended it before its time: interrupt, errors, max_cost, disk. `why`
    it does not count, where it or another arm of its duet says so.
    """

    slot: Slot
    arm: ArmSpec
    run: Run
    numbers: Mapping[str, Any]
    ended: str
    why: str | None = None

    @property
    def usd(self) -> float:
        """What it cost, US dollars, as far as they are known."""
        return float((self.run.totals.get("cost") or {}).get("usd") or 0.0)

    @property
    def most_usd(self) -> float:
        """The same with the most for those whose tokens are not known, by which a budget goes."""
        return float((self.run.totals.get("cost") or {}).get("most_usd") or self.usd)


def opened(folder: Path, plan: AbPlan) -> RunStore:
    """The store of an experiment's folder, begun if there is none yet.

    Raises InputError where the folder holds another plan, or files that are not an experiment's.
    """
    if (folder / PLAN).exists():
        return RunStore.opened(folder, STORE, plan.written)
    store = RunStore(folder=folder, kind=STORE, plan=plan.written)
    make_folder(folder, "-o")
    if files := sorted(path.name for path in folder.iterdir()):
        raise InputError(f"{folder}: holds files already ({files[0]}); choose another with -o")
    return store


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
    store = prepared(plan, Path(out))
    if stopped := perform(plan, store, lambda _: None, ended):
        if stopped.ended == "interrupt":
            raise KeyboardInterrupt
        why = stopped.why or stopped.ended
        raise InvalidRunError(f"{out}: {stopped.missing} replays are missing: {why}")
    return verdict(plan, store)


def prepared(plan: AbPlan, folder: Path) -> RunStore:
    """The store of the experiment, with everything checked that can be before the first request."""
    for arm in plan.treatments:
        resolve(arm.order(plan.order))  # finds its key, or says which variable is missing
    store = opened(folder, plan)
    made = [entry for entry in store.entries if entry["ended"] == DONE]
    paths = [path for entry in made if (path := store.folder / entry["run"]).exists()]
    traces = {open_container(path).header["trace"]["capture_id"] for path in paths}
    if traces - {read_trace(plan.order.trace).header.capture_id}:
        raise InputError(
            f"{plan.order.trace}: not the trace that the runs in {store.folder} were made of; "
            "put that one back, or choose another folder with -o"
        )
    if plan.max_cost is not None:  # half an experiment decides nothing
        short = shortage(plan, outlook(plan, missing(plan, store)), store.spent)
        if short is not None:
            raise InputError(short)
    # Only now: a folder is begun by a plan that was found sound.
    store.write()
    return store


def perform(
    plan: AbPlan,
    store: RunStore,
    watch: Callable[[Slot], Watch | None],
    ended: Callable[[RunResult], None],
    argv: tuple[str, ...] = (),
) -> Stopped | None:
    """Make the missing runs; None when all are there that it takes: a monitored plan may end early."""
    last: RunResult | None = None
    if early(plan, store):
        return None
    try:
        for last in conduct(plan, store, watch, argv=argv):
            ended(last)
            # Of a duet all runs are told of before a look that may be the last.
            complete = last.arm == plan.treatments[last.slot.arms[-1]]
            if last.ended == DONE and complete and early(plan, store):
                return None
    except InvalidRunError as error:
        if not isinstance(error.__cause__, OverBudgetError):
            raise
        return Stopped(ended=MAX_COST, missing=len(missing(plan, store)), why=None)
    left = len(missing(plan, store))
    if not left:
        return None
    if last is None or last.ended == DONE:
        raise TbenchError(f"{store.folder}: {left} runs are missing and none was made: a defect")
    return Stopped(ended=last.ended, missing=left, why=last.why)


def conduct(
    plan: AbPlan,
    store: RunStore,
    watch: Callable[[Slot], Watch | None],
    *,
    argv: tuple[str, ...] = (),
) -> Iterator[RunResult]:
    """Make every run that is missing, in the plan's order; yields each as it ends.

    The iterator ends after a slot that does not count. Raises InputError before anything is sent,
    InvalidRunError where a later run or its note cannot be made, UnreachableError when no request of a run
    succeeded.
    """
    pauses = chain([0.0], repeat(plan.pause_s))
    for slot in missing(plan, store):
        for _ in range(plan.redo_invalid + 1):
            time.sleep(next(pauses))
            # Once something was sent, the same error is no bad usage any more: the exit code is 4, not 2.
            with after_sending(bool(store.entries)):
                made = _perform(plan, store, slot, watch(slot), argv)
            # Runs of a slot count together: of a duet none counts without the others.
            ends = {result.ended for result in made} - {DONE}
            # What ended a run early outranks that its client
            # was slow: only the latter is worth doing again.
            ended = min(ends - {INVALID}, default=INVALID) if ends else DONE
            for result in made:
                name = run_name(result.arm.name, slot.round)
                store.note(name, ended, result.most_usd, arm=result.arm.name, round=slot.round)
            whys = (result.numbers["invalid_because"] for result in made)
            why = next(filter(None, whys), None)
            yield from (replace(result, ended=ended, why=why) for result in made)
            for result in made:
                if not answered(result.numbers):
                    check_reached(result.run, result.numbers)
            if ended != INVALID:
                break
        if ended != DONE:
            return


def missing(plan: AbPlan, store: RunStore) -> list[Slot]:
    """The slots of which a run is not there yet."""
    return [
        slot
        for slot in plan.slots
        if not all(store.done(run_name(plan.treatments[arm].name, slot.round)) for arm in slot.arms)
    ]


def _perform(
    plan: AbPlan, store: RunStore, slot: Slot, watch: Watch | None, argv: tuple[str, ...]
) -> list[RunResult]:
    """Make the runs of a slot: one job for each of its arms, all at once."""
    arms = [plan.treatments[arm] for arm in slot.arms]
    left = store.left(plan.max_cost)
    jobs: list[Job] = []
    beside = targets(plan)
    # All draw on one budget; the one that is noted last keeps what was spent.
    ledger = store.ledger(store.path(run_name(arms[-1].name, slot.round)))
    for arm in arms:
        name = run_name(arm.name, slot.round)
        path = store.path(name)
        store.clear(path)
        part = {
            "arm": arm.name,
            "round": slot.round,
            "rounds": plan.repeats,
            "arms": [spec.name for spec in plan.treatments],
            "schedule": plan.schedule,
        }
        order = replace(arm.order(plan.order), out=path, max_cost=left)
        if slot.round > 1:  # each target is asked once
            order = replace(order, probe="off")
        jobs.append(resolve(order, argv, part_of=part, beside=beside, ledger=ledger))
    results = []
    for arm, run in zip(
        arms, run_duet(jobs, seed=plan.seed + slot.round, watch=watch), strict=True
    ):
        figures = numbers(run)
        ended = str(run.totals["ended_by"])
        if ended not in EARLY:
            # Without an answer there is nothing to judge by, and asking again may be of use later.
            ended = (DONE if figures["valid"] else INVALID) if answered(figures) else "errors"
        slim = replace(run, arrivals=None)  # megabytes that nobody asks for again
        results.append(RunResult(slot=slot, arm=arm, run=slim, numbers=figures, ended=ended))
    return results


def answered(numbers: Mapping[str, Any]) -> bool:
    """Whether a run (its `numbers`) has an answer to judge by, be it one that its server gave up.

    An arm that breaks off every answer fails; one that is not there, wants another key or knows no such model
    has not been asked, nor has one that died before its first answer was whole.
    """
    if numbers["completed"]:
        return True
    errors = numbers["errors"]
    return Outcome.CONNECT_ERROR.value not in errors and not BROKEN.isdisjoint(errors)


def targets(plan: AbPlan) -> list[Target]:
    """Every arm's target, without its key: what one of them cannot be asked, none is."""
    orders = [arm.order(plan.order) for arm in plan.treatments]
    return [resolve(order, send=False).target for order in orders]


# The outlook: what a whole experiment would send, how long it would take, and what it would cost.


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """One estimate for a run of each arm, and the sums over the runs that are still to be made.

    `requests`, `prompt_tokens`, `output_tokens`, `cost_usd` and `uncounted` are of all arms' runs, `unpriced`
    the models without a price, as in an estimate; `duration_s` is that of the runs one after the other, with
    the pauses. The `probe_requests` before the first run of each arm are in the cost alone. A `--max-cost` of
    `budget_usd` is expected to last for all of them.
    """

    arms: tuple[tuple[ArmSpec, Estimate], ...]
    runs: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    duration_s: float
    estimated: bool
    requests_estimated: bool
    cost_usd: float | None
    uncounted: int
    unpriced: tuple[str, ...]
    probe_requests: int
    budget_usd: float | None


def outlook(plan: AbPlan, slots: Sequence[Slot]) -> Outlook:
    """Read the trace once for each arm, and add up. `slots` are those that are still to be performed."""
    orders = [replace(arm.order(plan.order), max_cost=plan.max_cost) for arm in plan.treatments]
    beside = targets(plan)
    jobs = [resolve(order, send=False, beside=beside) for order in orders]
    seen = [estimate(replace(job, options=replace(job.options, probe="off"))) for job in jobs]
    due = [arm for slot in slots for arm in slot.arms]
    asked = [
        jobs[arm] for slot in slots if slot.round == 1 for arm in slot.arms if jobs[arm].probes
    ]
    costs, mosts = [each.cost_usd for each in seen], [each.budget_usd for each in seen]
    cost_usd = budget_usd = None
    if set(costs) != {None}:
        cost_usd = sum(costs[arm] or 0.0 for arm in due) + sum(
            expected_bill(job).usd for job in asked
        )
        if None not in (*costs, *mosts):
            # The most that the reservations of one run come to, once:
            # what a run has reserved is settled before the next.
            budget_usd = cost_usd + max(
                (mosts[arm] or 0.0) - (costs[arm] or 0.0) for arm in due or [0]
            )
    together = max if plan.order.pacing().is_open else sum  # a duet shares a closed loop's places
    lasts = sum(together(seen[arm].duration_s for arm in slot.arms) for slot in slots)
    return Outlook(
        arms=tuple(zip(plan.treatments, seen, strict=True)),
        runs=len(due),
        requests=sum(seen[arm].requests for arm in due),
        prompt_tokens=sum(seen[arm].prompt_tokens for arm in due),
        output_tokens=sum(seen[arm].output_tokens for arm in due),
        duration_s=lasts + plan.pause_s * max(0, len(slots) - 1),
        estimated=any(estimate.estimated for estimate in seen),
        requests_estimated=any(estimate.requests_estimated for estimate in seen),
        cost_usd=cost_usd,
        uncounted=sum(seen[arm].uncounted for arm in due),
        unpriced=tuple(sorted({model for estimate in seen for model in estimate.unpriced})),
        probe_requests=REQUESTS * len(asked),
        budget_usd=budget_usd,
    )


def shortage(plan: AbPlan, seen: Outlook, spent: float) -> str | None:
    """Why --max-cost does not last for the runs that are still to be made; None where it does."""
    needed = seen.cost_usd if seen.budget_usd is None else seen.budget_usd
    if plan.max_cost is None or needed is None or spent + needed <= plan.max_cost:
        return None
    costs = [estimate.cost_usd or 0.0 for _, estimate in seen.arms]
    rounds = (plan.max_cost - spent) / sum(costs) if sum(costs) else 0.0
    lasts = "not for one run of each arm"
    if rounds >= 1:
        lasts = f"for {plural(int(rounds), 'whole round')}"
    return (
        f"--max-cost {plan.max_cost:g}: {plural(seen.runs, 'run')} still to be made may need "
        f"{dollars(needed)} USD, with {spent:.4g} spent: it lasts {lasts}; raise it to "
        f"{dollars(spent + needed)}, or take fewer --repeats or --requests"
    )
