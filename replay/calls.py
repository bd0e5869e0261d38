"""The calls of a plan: each request built for its target, given its due time and what it may cost."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile, tee
from typing import TYPE_CHECKING

from replay.cost import cost, price_of
from replay.pacing import Schedule
from replay.plan import Plan, Planned
from replay.sender import Call
from replay.survey import expected_usage

if TYPE_CHECKING:
    from replay.job import Job


def calls(job: "Job", plan: Plan, schedule: Schedule | None) -> Iterator[Call]:
    """The calls of a plan, built one by one as they are asked for; due by `schedule` if there is one."""
    if schedule is None:
        return (_call(job, planned, None) for planned in plan)
    planned, ahead = tee(plan)
    dues = schedule(one.offset for one in ahead)
    timed: Iterator[tuple[float, Planned]] = zip(dues, planned, strict=True)
    if job.duration_s is not None:
        timed = takewhile(lambda pair: pair[0] < (job.duration_s or 0), timed)
    return (_call(job, one, due) for due, one in timed)


def _call(job: "Job", planned: Planned, due: float | None) -> Call:
    call = job.target.call(planned, due)
    if job.max_cost is None:
        return call
    return replace(call, cost=most_cost(planned, call))


def most_cost(planned: Planned, call: Call) -> float | None:
    """What a call costs, US dollars, if it uses all the output it may; None without a price.

    Prompt tokens are the recorded ones, else a third of the body's bytes.
    """
    price = price_of(call.model)
    if price is None:
        return None
    usage = expected_usage(planned)
    allowed = (planned.ask.max_tokens or 0) * planned.ask.n
    prompt = call.request_bytes // 3 if usage.prompt is None else usage.prompt
    return cost(price, prompt=prompt, output=max(allowed, usage.output or 0))
