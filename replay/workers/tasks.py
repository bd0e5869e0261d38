"""Tasks: a job cut into as many shares as it has workers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tbench.replay.address import address
from tbench.replay.pacing import Closed, Pacing
from tbench.replay.request import origin_at
from tbench.replay.workers.messages import WorkerTask, part, share

if TYPE_CHECKING:
    from tbench.replay.job import Job

AHEAD_BYTES: Final = 64 * 2**20
"""Calls that all workers together keep at hand, about."""
MOST_CONNECTIONS: Final = 1024
"""No more are opened ahead: they would be idle for too long."""
WORKER_STREAMS: Final = 500
WORKER_RATE: Final = 2000
"""What one worker does with ease: requests in flight, and requests/s of an open loop."""


def worker_tasks(jobs: "Sequence[Job]", closed: Closed | None) -> list[WorkerTask]:
    """One for each worker. Of several jobs (a duet) the first says how, each says where to."""
    job, workers = jobs[0], jobs[0].workers
    return [
        WorkerTask(
            number=number,
            workers=workers,
            sender=job.sender,
            http2=job.options.http2,
            proxy=job.options.proxy,
            deadlines=job.deadlines,
            origins=tuple(origin_at(address(each.target.base_url)) for each in jobs),
            keyless=tuple(each.target.keyless for each in jobs),
            connections=min(share(_at_once(closed), number, workers), MOST_CONNECTIONS),
            closed=closed and part(closed, number, workers),
            ends=math.inf if job.options.duration is None else job.options.duration,
            max_in_flight=job.pace.max_in_flight
            and max(1, share(job.pace.max_in_flight, number, workers)),
            budget=job.options.max_cost,
            ca=job.ca,
            ahead_bytes=AHEAD_BYTES // workers,
        )
        for number in range(workers)
    ]


def _at_once(closed: Closed | None) -> int:
    """How many connections the first instant needs. An idle one could hold a thread that another needs."""
    return 0 if closed is None else closed.allowed(0.0)


def needed(pacing: Pacing) -> int:
    """How many workers a pacing needs, by what its value says: recorded times and profiles count as one."""
    ease = {"streams": WORKER_STREAMS, "rate": WORKER_RATE, None: math.inf}[pacing.option.load]
    return max(1, math.ceil(pacing.value / ease))
