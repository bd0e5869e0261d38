"""Conduct: make the runs of an experiment, one slot after the other, and say how each ended.

A run counts when it came to its planned end on a client that kept up. One whose client was the limit is
done again in its place, a stated number of times; any other end ends the experiment, which can be taken up
again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tbench.abtest.plan import AbPlan, ArmSpec, Slot
from tbench.capture.errors import InputError, after_sending
from tbench.replay.closing import check_reached
from tbench.replay.estimate import Estimate, estimate
from tbench.replay.job import Job, resolve
from tbench.replay.runfile import Run
from tbench.replay.runner import Watch, run_duet
from tbench.replay.totals import numbers
from tbench.run_store import DONE, Kind, RunStore

PLAN: Final = "plan.json"
STORE: Final = Kind(file=PLAN, key="plan", free=frozenset({"max_cost"}))
INVALID: Final = "invalid"
EARLY: Final = frozenset({"interrupt", "errors", "max_cost", "disk"})
"""Ends before the planned one: the next run would end alike, or nobody wants it."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run that was made: how its slot ended, and `numbers` as `replay --json` has them.

    `ended` is "done", "invalid", or what ended it before its time: interrupt, errors, max_cost, disk.
    """

    slot: Slot
    arm: ArmSpec
    run: Run
    numbers: Mapping[str, Any]
    ended: str

    @property
    def usd(self) -> float:
        """What it cost by list prices, US dollars, as far as they are known."""
        return float((self.run.totals.get("cost") or {}).get("usd") or 0.0)


def run_name(arm: str, number: int) -> str:
    """What the run of an arm in a round is called."""
    return f"{arm}.{number}"


def opened(folder: Path, plan: AbPlan) -> RunStore:
    """The store of an experiment's folder, begun if there is none yet.

    Raises InputError where the folder holds another plan, or files that are not an experiment's.
    """
    if (folder / PLAN).exists():
        return RunStore.opened(folder, STORE, plan.written)
    store = RunStore(folder=folder, kind=STORE, plan=plan.written)
    store.make_folder("-o")
    if files := sorted(path.name for path in folder.iterdir()):
        raise InputError(f"{folder}: holds files already ({files[0]}); choose another with -o")
    return store


def conduct(
    plan: AbPlan,
    ledger: RunStore,
    watch: Callable[[Slot], Watch | None],
    *,
    argv: tuple[str, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[RunResult]:
    """Make every run that is missing, in the plan's order; yields each as it ends.

    The iterator ends after a slot that does not count. Raises InputError before anything is sent,
    InvalidRunError where a later run or its note cannot be made, UnreachableError when no request of a run
    succeeded.
    """
    for place, slot in enumerate(missing(plan, ledger)):
        if place:
            sleep(plan.pause_s)
        for _ in range(plan.redo_invalid + 1):
            with after_sending(bool(ledger.entries)):
                made = _perform(plan, ledger, slot, watch(slot), argv)
            ended = _note(ledger, made)
            yield from (replace(result, ended=ended) for result in made)
            for result in made:
                check_reached(result.run, result.numbers)
            if ended != INVALID:
                break
        if ended != DONE:
            return


def missing(plan: AbPlan, ledger: RunStore) -> list[Slot]:
    """The slots of which a run is not there yet."""
    return [
        slot
        for slot in plan.slots
        if not all(
            ledger.done(run_name(plan.treatments[arm].name, slot.round)) for arm in slot.arms
        )
    ]


def _perform(
    plan: AbPlan, ledger: RunStore, slot: Slot, watch: Watch | None, argv: tuple[str, ...]
) -> list[RunResult]:
    arms = [plan.treatments[arm] for arm in slot.arms]
    for arm in arms:
        ledger.clear(run_name(arm.name, slot.round))
    jobs = [_job(plan, ledger, slot, arm, argv) for arm in arms]
    runs = run_duet(jobs, seed=plan.seed + slot.round, watch=watch)
    return [
        RunResult(
            slot=slot,
            arm=arm,
            run=run,
            numbers=(figures := numbers(run)),
            ended=_ended(run, figures),
        )
        for arm, run in zip(arms, runs, strict=True)
    ]


def _job(plan: AbPlan, ledger: RunStore, slot: Slot, arm: ArmSpec, argv: tuple[str, ...]) -> Job:
    left = None if plan.max_cost is None else max(plan.max_cost - ledger.spent, 1e-9)
    order = replace(
        arm.order(plan.order), out=ledger.path(run_name(arm.name, slot.round)), max_cost=left
    )
    part = {
        "arm": arm.name,
        "round": slot.round,
        "rounds": plan.repeats,
        "arms": [spec.name for spec in plan.treatments],
        "schedule": plan.schedule,
    }
    return resolve(order, argv, part_of=part)


def _ended(run: Run, figures: Mapping[str, Any]) -> str:
    by = run.totals["ended_by"]
    if by in EARLY:
        return str(by)
    if not figures["completed"]:  # nothing to judge by, and asking again may be of use later
        return "errors"
    return DONE if figures["valid"] else INVALID


def _note(ledger: RunStore, made: list[RunResult]) -> str:
    """Write down how a slot ended. Its runs count together: of a duet none counts without the others."""
    ends = {result.ended for result in made} - {DONE}
    together = min(ends - {INVALID}, default=INVALID) if ends else DONE
    for result in made:
        arm, number = result.arm.name, result.slot.round
        ledger.note(run_name(arm, number), together, result.usd, arm=arm, round=number)
    return together


# The outlook: what a whole experiment would send, how long it would take, and what it would cost.


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """One estimate for a run of each arm, and the sums over the runs that are still to be made.

    `requests`, `prompt_tokens`, `output_tokens`, `cost_usd` and `uncounted` are of all arms' runs, `unpriced`
    the models without a price, as in an estimate; `duration_s` is that of the runs one after the other, with
    the pauses.
    """

    arms: tuple[tuple[ArmSpec, Estimate], ...]
    runs: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    duration_s: float
    estimated: bool
    cost_usd: float | None
    uncounted: int
    unpriced: tuple[str, ...]


def outlook(plan: AbPlan, slots: Sequence[Slot]) -> Outlook:
    """Read the trace once for each arm, and add up. `slots` are those that are still to be performed."""
    seen = [_estimate(plan, arm) for arm in plan.treatments]
    due = [arm for slot in slots for arm in slot.arms]
    costs = [estimate.cost_usd for estimate in seen]
    lasts = sum(max(seen[arm].duration_s for arm in slot.arms) for slot in slots)
    return Outlook(
        arms=tuple(zip(plan.treatments, seen, strict=True)),
        runs=len(due),
        requests=sum(seen[arm].requests for arm in due),
        prompt_tokens=sum(seen[arm].prompt_tokens for arm in due),
        output_tokens=sum(seen[arm].output_tokens for arm in due),
        duration_s=lasts + plan.pause_s * max(0, len(slots) - 1),
        estimated=any(estimate.estimated for estimate in seen),
        cost_usd=None if set(costs) == {None} else sum(costs[arm] or 0.0 for arm in due),
        uncounted=sum(seen[arm].uncounted for arm in due),
        unpriced=tuple(sorted({model for estimate in seen for model in estimate.unpriced})),
    )


def check_budget(plan: AbPlan, seen: Outlook, spent: float) -> None:
    """Raise InputError where `--max-cost` could not last to the end: half an experiment decides nothing."""
    if plan.max_cost is None or seen.cost_usd is None:
        return
    if spent + seen.cost_usd > plan.max_cost:
        raise InputError(
            f"--max-cost {plan.max_cost:g}: the {seen.runs} runs still to be made cost about "
            f"{seen.cost_usd:.2f} USD at list prices, with {spent:.2f} spent; raise it, or take fewer "
            "--repeats or --requests"
        )


def _estimate(plan: AbPlan, arm: ArmSpec) -> Estimate:
    order = replace(arm.order(plan.order), max_cost=plan.max_cost)
    return estimate(resolve(order, send=False))
