"""The calls of a plan: each request built for its target, given its due time and what it may cost."""

from collections.abc import Iterable, Iterator
from itertools import takewhile, tee
from typing import TYPE_CHECKING

from tbench.replay.cost import cost, price_of
from tbench.replay.label import Label
from tbench.replay.pacing import Schedule
from tbench.replay.plan import Planned
from tbench.replay.sender import Call
from tbench.replay.survey import expected_usage

if TYPE_CHECKING:
    from tbench.replay.job import Job


def calls(job: "Job", plan: Iterable[Planned], schedule: Schedule | None) -> Iterator[Call]:
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
    if job.max_cost is not None:
        call.cost = most_cost(planned, Label.unpack(call.label))
    return call


def most_cost(planned: Planned, label: Label) -> float:
    """What a call costs, US dollars, if it uses all the output it may; 0 without a price.

    Prompt tokens are the recorded ones, else a third of the body's bytes.
    """
    price = price_of(label.model)
    if price is None:
        return 0.0
    usage = expected_usage(planned)
    allowed = (planned.ask.max_tokens or 0) * planned.ask.n
    prompt = label.request_bytes // 3 if usage.prompt is None else usage.prompt
    return cost(price, prompt=prompt, output=max(allowed, usage.output or 0))
