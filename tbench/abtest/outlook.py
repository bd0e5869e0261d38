"""The outlook: what a whole experiment would send, how long it would take, and what it would cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tbench.abtest.experiment import Experiment
from tbench.abtest.schedule import Slot
from tbench.abtest.treatment import Treatment
from tbench.capture.errors import InputError
from tbench.replay.forecast import Forecast, forecast


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """One forecast for a run of each arm, and the sums over the runs that are still to be made.

    `requests`, `prompt_tokens`, `output_tokens`, `cost_usd` and `uncounted` are of all arms' runs, `unpriced`
    the models without a price, as in a forecast; `duration_s` is that of the runs one after the other, with
    the pauses.
    """

    arms: tuple[tuple[Treatment, Forecast], ...]
    runs: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    duration_s: float
    estimated: bool
    cost_usd: float | None
    uncounted: int
    unpriced: tuple[str, ...]


def outlook(plan: Experiment, slots: Sequence[Slot]) -> Outlook:
    """Read the trace once for each arm, and add up. `slots` are those that are still to be performed."""
    seen = [_forecast(plan, arm) for arm in plan.treatments]
    due = [arm for slot in slots for arm in slot.arms]
    costs = [one.cost_usd for one in seen]
    lasts = sum(max(seen[arm].duration_s for arm in slot.arms) for slot in slots)
    return Outlook(
        arms=tuple(zip(plan.treatments, seen, strict=True)),
        runs=len(due),
        requests=sum(seen[arm].requests for arm in due),
        prompt_tokens=sum(seen[arm].prompt_tokens for arm in due),
        output_tokens=sum(seen[arm].output_tokens for arm in due),
        duration_s=lasts + plan.pause_s * max(0, len(slots) - 1),
        estimated=any(one.estimated for one in seen),
        cost_usd=None if set(costs) == {None} else sum(costs[arm] or 0.0 for arm in due),
        uncounted=sum(seen[arm].uncounted for arm in due),
        unpriced=tuple(sorted({model for one in seen for model in one.unpriced})),
    )


def check_budget(plan: Experiment, seen: Outlook, spent: float) -> None:
    """Raise InputError where `--max-cost` could not last to the end: half an experiment decides nothing."""
    if plan.max_cost is None or seen.cost_usd is None:
        return
    if spent + seen.cost_usd > plan.max_cost:
        raise InputError(
            f"--max-cost {plan.max_cost:g}: the {seen.runs} runs still to be made cost about "
            f"{seen.cost_usd:.2f} USD at list prices, with {spent:.2f} spent; raise it, or take fewer "
            "--repeats or --requests"
        )


def _forecast(plan: Experiment, arm: Treatment) -> Forecast:
    order = replace(arm.order(plan.order), max_cost=plan.max_cost)
    return forecast(order.job(send=False))
