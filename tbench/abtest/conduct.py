"""Conduct: make the runs of an experiment, one slot after the other, and say how each ended.

A run counts when it came to its planned end on a client that kept up. One whose client was the limit is
done again in its place, a stated number of times; any other end ends the experiment, which can be taken up
again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tbench.abtest.experiment import Experiment
from tbench.abtest.ledger import Ledger
from tbench.abtest.schedule import Slot
from tbench.abtest.treatment import Treatment
from tbench.capture.errors import after_sending
from tbench.replay.closing import check_reached
from tbench.replay.job import Job
from tbench.replay.performance import Watch, perform_duet
from tbench.replay.runfile import Run
from tbench.replay.totals import numbers

DONE: Final = "done"
INVALID: Final = "invalid"
EARLY: Final = frozenset({"interrupt", "errors", "max_cost", "disk"})
"""Ends before the planned one: the next run would end alike, or nobody wants it."""


@dataclass(frozen=True, kw_only=True)
class Performed:
    """One run that was made: how its slot ended, and `numbers` as `replay --json` has them.

    `ended` is "done", "invalid", or what ended it before its time: interrupt, errors, max_cost, disk.
    """

    slot: Slot
    arm: Treatment
    run: Run
    numbers: Mapping[str, Any]
    ended: str

    @property
    def usd(self) -> float:
        """What it cost by list prices, US dollars, as far as they are known."""
        return float((self.run.totals.get("cost") or {}).get("usd") or 0.0)


def conduct(
    plan: Experiment,
    ledger: Ledger,
    watch: Callable[[Slot], Watch | None],
    *,
    argv: tuple[str, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Performed]:
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
            yield from (replace(one, ended=ended) for one in made)
            for one in made:
                check_reached(one.run, one.numbers)
            if ended != INVALID:
                break
        if ended != DONE:
            return


def missing(plan: Experiment, ledger: Ledger) -> list[Slot]:
    """The slots of which a run is not there yet."""
    return [
        slot
        for slot in plan.slots
        if not all(ledger.done(plan.treatments[arm].name, slot.round) for arm in slot.arms)
    ]


def _perform(
    plan: Experiment, ledger: Ledger, slot: Slot, watch: Watch | None, argv: tuple[str, ...]
) -> list[Performed]:
    arms = [plan.treatments[arm] for arm in slot.arms]
    for arm in arms:
        ledger.clear(arm.name, slot.round)
    jobs = [_job(plan, ledger, slot, arm, argv) for arm in arms]
    runs = perform_duet(jobs, seed=plan.seed + slot.round, watch=watch)
    return [
        Performed(
            slot=slot, arm=arm, run=run, numbers=(found := numbers(run)), ended=_ended(run, found)
        )
        for arm, run in zip(arms, runs, strict=True)
    ]


def _job(
    plan: Experiment, ledger: Ledger, slot: Slot, arm: Treatment, argv: tuple[str, ...]
) -> Job:
    left = None if plan.max_cost is None else max(plan.max_cost - ledger.spent, 1e-9)
    order = replace(arm.order(plan.order), out=ledger.path(arm.name, slot.round), max_cost=left)
    part = {
        "arm": arm.name,
        "round": slot.round,
        "rounds": plan.repeats,
        "arms": [one.name for one in plan.treatments],
        "schedule": plan.schedule,
    }
    return order.job(argv, part_of=part)


def _ended(run: Run, found: Mapping[str, Any]) -> str:
    by = run.totals["ended_by"]
    if by in EARLY:
        return str(by)
    if not found["completed"]:  # nothing to judge by, and asking again may be of use later
        return "errors"
    return DONE if found["valid"] else INVALID


def _note(ledger: Ledger, made: list[Performed]) -> str:
    """Write down how a slot ended. Its runs count together: of a duet none counts without the others."""
    ends = {one.ended for one in made} - {DONE}
    together = min(ends - {INVALID}, default=INVALID) if ends else DONE
    for one in made:
        ledger.note(one.arm.name, one.slot.round, together, one.usd)
    return together
