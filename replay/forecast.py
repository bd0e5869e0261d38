"""The dry run: what a replay would send, how long it would take, what it would cost. Sends nothing."""

import math
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, Final

from tbench.replay.job import Job
from tbench.replay.pacing import WINDOW_S
from tbench.replay.runner import first_look
from tbench.replay.survey import Rates, Survey, rates

WALKED: Final = 20_000
"""So many requests of a schedule are walked through, or its first round; the rounds after that are alike."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a job would do.

    `duration_s` and the rates (requests per second) are those of the schedule in an open loop. In a
    closed loop they assume the recorded latencies, of a very long schedule that it goes on as it began, and
    `estimated` says so. `skipped`, `hosts`,
    `unchanged` and `masked` count requests as the survey does. `cost_usd` leaves out the
    requests of the models `unpriced`, which have no known price, and the `uncounted` ones, of which the trace
    does not say how many tokens they used; None where that leaves nothing.
    """

    base_url: str
    requests: int
    duration_s: float
    mean_rate: float | None
    peak_rate: float | None
    estimated: bool
    skipped: dict[str, int]
    hosts: dict[str, int]
    unchanged: dict[str, int]
    masked: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    cost_usd: float | None
    uncounted: int
    unpriced: list[str]


def forecast(job: Job) -> Forecast:
    """Read the trace and say what would happen."""
    found = first_look(job, tokens=True)
    assert found is not None
    timing = _open(job, found) if job.pace.is_open else _closed(job, found)
    share = timing["requests"] / found.requests if found.requests else 0.0
    bill = found.bill
    return Forecast(
        **timing,
        base_url=job.target.base_url,
        skipped=dict(found.skipped),
        hosts=dict(found.hosts),
        unchanged=dict(found.unchanged),
        masked=dict(found.masked),
        prompt_tokens=round(bill.prompt_tokens * share),
        output_tokens=round(bill.output_tokens * share),
        cost_usd=bill.usd * share if bill.usd or bill.complete else None,
        uncounted=round(bill.uncounted * share),
        unpriced=sorted(bill.unpriced),
    )


def _open(job: Job, found: Survey) -> dict[str, Any]:
    planned = min(found.requests * job.rounds, job.options.requests or math.inf)
    walked = max(WALKED, found.requests)
    offsets = (planned.offset for planned in islice(job.plan(answers=False), walked))
    dues = job.pace.schedule(found)(offsets)
    if job.options.duration is not None:
        dues = takewhile(lambda due: due < (job.options.duration or 0), dues)
    counted = rates(dues)
    requests, lasts = counted.requests, counted.duration_s
    if more := counted.requests == walked < planned:
        requests, lasts = _continued(counted, int(planned), job.options.duration)
    return {
        "requests": requests,
        "duration_s": lasts,
        "mean_rate": counted.mean,
        "peak_rate": float(counted.peak),
        "estimated": more,
    }


def _continued(counted: Rates, planned: int, duration_s: float | None) -> tuple[int, float]:
    """How many requests, and seconds, a schedule has that goes on at the mean rate of its beginning."""
    each = counted.duration_s / (counted.requests - 1)
    if duration_s is not None and each:
        planned = min(planned, math.ceil(duration_s / each))
    return planned, (planned - 1) * each


def _closed(job: Job, found: Survey) -> dict[str, Any]:
    if job.pace.mode == "concurrency":
        whole = found.requests * job.rounds
        requests = min(whole, job.options.requests or whole)
        each = found.busy_s / found.requests if found.requests else 0.0
        lasts = requests * each / job.pace.value
    else:
        lasts = len(found.in_flight) * WINDOW_S
        requests = round(found.requests * job.pace.value)
    cut = min(lasts, job.options.duration or lasts)
    requests = round(requests * cut / lasts) if lasts else requests
    mean = requests / cut if cut else None
    return {
        "requests": requests,
        "duration_s": cut,
        "mean_rate": mean,
        "peak_rate": None,
        "estimated": True,
    }
