"""Messages: the task that a worker gets before it starts, and the stats that it sends at the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from tbench.capture.histogram import Histogram
from tbench.replay.pacing import Causal, Closed, Fixed, share
from tbench.replay.sender import Deadlines, Kind, Origin

if TYPE_CHECKING:
    from tbench.replay.job import Job

Word = Literal["ready", "warm", "go", "stop"]
"""A worker says `ready` when it could send, and `warm` when its connections are open; the parent says
`warm` to have them opened, `go` with the instant of the start (CLOCK_MONOTONIC, s), and `stop`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """One worker's share. `closed` is None in open modes, where each call has its due time.

    `connections` to each of `origins` are opened ahead. `keyless` says of each arm of a duet whether it
    sends no key. `ends` ends a closed loop, seconds from the start.
    `budget` is in US dollars. `ahead_bytes` is how much is kept at hand. `copies` of the trace are sent at
    once: clones, for each arm.
    """

    number: int
    workers: int
    sender: Kind
    http2: bool
    proxy: str | None = field(repr=False)
    deadlines: Deadlines
    origins: tuple[Origin, ...]
    keyless: tuple[bool, ...]
    connections: int
    closed: Closed | None
    ends: float
    max_in_flight: int | None
    budget: float | None
    ca: Path | None
    ahead_bytes: int
    causal: Causal
    copies: int
    live: bool
    polite: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What a worker saw of itself. `stamps` counts the reads stamped by the kernel and by the process.

    `stall` is how late its loop woke (s), `cpu_s` and `wall_s` what the sending took, `runnable_s` how long
    its thread ran or waited for a core, `starved_s` how long it wanted a call and had none. `turns` counts,
    for each arm, those that continue an earlier answer, by what became of them (replay.waiting), `histories`
    by what became of that answer (replay.live_history). `late_s` is how long after the start it was told of
    it. `postponed` calls waited for the budget. `failure` says why it could not go on.
    """

    clock: str
    stamps: tuple[int, int]
    stall: Histogram
    most_in_flight: int
    refused: bool
    postponed: int
    hopeless: bool
    cpu_s: float
    runnable_s: float
    wall_s: float
    starved_s: float
    peak_rss: int
    turns: Sequence[Mapping[str, int]]
    histories: Sequence[Mapping[str, int]]
    late_s: float = 0.0
    failure: str | None = None


def part(closed: Closed, worker: int, workers: int) -> Closed:
    """A worker's part of a closed pacing."""
    if isinstance(closed, Fixed):
        limit = share(closed.limit, worker, workers)
        return replace(closed, limit=limit, spawn_rate=closed.spawn_rate / workers)
    return replace(closed, worker=worker, workers=workers)


AHEAD_BYTES: Final = 64 * 2**20
"""Calls that all workers together keep at hand, about."""
MOST_CONNECTIONS: Final = 1024
"""No more are opened ahead: they would be idle for too long."""


def worker_tasks(jobs: "Sequence[Job]", closed: Closed | None) -> list[WorkerTask]:
    """One for each worker. Of several jobs (a duet) the first says how, each says where to."""
    job, workers = jobs[0], jobs[0].workers
    # Only what the first instant needs is opened ahead: an idle connection could hold a thread of the server.
    at_once = 0 if closed is None else closed.allowed(0.0)
    return [
        WorkerTask(
            number=number,
            workers=workers,
            sender=job.sender,
            http2=job.options.http2,
            proxy=job.options.proxy,
            deadlines=job.deadlines,
            origins=tuple(each.target.origin for each in jobs),
            keyless=tuple(each.target.keyless for each in jobs),
            connections=min(share(at_once, number, workers), MOST_CONNECTIONS),
            closed=closed and part(closed, number, workers),
            ends=math.inf if job.options.duration is None else job.options.duration,
            max_in_flight=job.pace.max_in_flight
            and max(1, share(job.pace.max_in_flight, number, workers)),
            # Where there is no memory to share, each has its part.
            budget=job.budget / workers if job.budget and job.options.on else job.budget,
            ca=job.ca,
            ahead_bytes=AHEAD_BYTES // workers,
            causal=job.pace.causal,
            copies=len(job.pace.clones) * len(jobs),
            live=job.pace.live,
            polite=job.options.polite,
        )
        for number in range(workers)
    ]
