"""Servers: where requests wait for each other. FIFO by Lindley's recursion, and continuous batching.

Pure functions of the traffic and a numpy Generator; times in seconds. `slow` multiplies the work.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator

from calibration.traffic import CACHED, Traffic, cached_now, output_tokens, prompt_tokens
from tbench.analysis.summary import Floats

SLOTS = 32
STEP_S, STEP_PER_STREAM_S = 0.015, 0.0005
"""One decoding step of the batch takes this, plus this for each stream in it."""
PREFILL_S, PREFILL_PER_S = 0.020, 8000.0
THINK_S = 1.0


def fifo_waits(due: Floats, load: float, random: Generator, *, slow: float = 1.0) -> Floats:
    """How long each request waits for a single server: W_i = max(0, W_(i-1) + S_(i-1) - (A_i - A_(i-1))).

    Service S is lognormal, sigma .8, with mean load x slow x the mean gap of one second.
    """
    service = load * slow * np.exp(random.normal(0, 0.8, len(due)) - 0.32)
    steps = np.concatenate([[0.0], service[:-1]]) - np.diff(due, prepend=due[0])
    walk = np.cumsum(steps)
    return walk - np.minimum.accumulate(np.minimum(walk, 0.0))


def pool_waits(due: Floats, work: Floats, servers: int) -> Floats:
    """How long each request waits for the first of several servers to be free, in order of arrival.

    The recursion of J. Kiefer and J. Wolfowitz: Lindley's where there is one.
    """
    free = [-np.inf] * servers
    waits = []
    for at, seconds in zip(due.tolist(), work.tolist(), strict=True):
        begins = max(at, free[0])
        heapq.heapreplace(free, begins + seconds)
        waits.append(begins - at)
    return np.array(waits)


@cache
def demand_s() -> float:
    """The server's time that a request takes when the batch is full: prefill, and a share of decoding."""
    random = np.random.default_rng(12345)
    n, hit = 400_000, 0.31
    tokens = float(prompt_tokens(n, random).mean()) * (hit * CACHED + 1 - hit)
    steps = float(output_tokens(n, random).mean()) * np.exp(0.25**2 / 2)
    step = (STEP_S + STEP_PER_STREAM_S * SLOTS) / SLOTS
    return PREFILL_S + tokens / PREFILL_PER_S + float(steps) * step


def batching(
    traffic: Traffic, random: Generator, *, users: int | None = None, slow: float = 1.0
) -> Floats:
    """Time to first token of a continuous batching server: 32 slots, prefill first, in arrival order.

    Prefill takes (20 ms + tokens / 8,000 per s) exp(N(0, .08)) and stops decoding; 1 % stall for an
    exponential .5 s. A decoding step takes (15 + .5 streams) ms exp(N(0, .05)). With `users` it is a
    closed loop: each sends its next request 50 ms + an exponential second after its answer has ended, and
    the traffic's times are not used. The network adds 30 ms exp(N(0, .3)).
    """
    n = len(traffic)
    work = _work(traffic, random, slow)
    if users is None:
        first = _serve(work, traffic.due.tolist())
    else:
        arrivals = sorted(random.uniform(0, 5.0, users).tolist())
        first = _serve(work, arrivals, iter((0.05 + random.exponential(THINK_S, n)).tolist()))
    return np.array(first) + 0.03 * np.exp(0.3 * random.normal(size=n))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Seconds of prefill and tokens of output for each request; `pace` is each decoding step's factor."""

    prefill: list[float]
    output: list[float]
    pace: list[float]


def _work(traffic: Traffic, random: Generator, slow: float) -> _Work:
    n = len(traffic)
    tokens = traffic.prompt * np.where(cached_now(traffic, random), CACHED, 1.0)
    prefill = (PREFILL_S + tokens / PREFILL_PER_S) * np.exp(0.08 * random.normal(size=n))
    prefill += np.where(random.random(n) < 0.01, random.exponential(0.5, n), 0.0)
    output = np.ceil(traffic.output * np.exp(0.25 * random.normal(size=n)))
    pace = np.exp(0.05 * random.normal(size=4 * n)) * slow
    return _Work(prefill=(prefill * slow).tolist(), output=output.tolist(), pace=pace.tolist())


def _serve(
    work: _Work, arrivals: list[float], thinking: Iterator[float] | None = None
) -> list[float]:
    """From each arrival to its first token. `arrivals` is a heap, which a closed loop refills."""
    prefill, output, pace, n = work.prefill, work.output, work.pace, len(work.prefill)
    now, steps, turn = 0.0, 0.0, 0
    waiting: list[float] = []
    ends: list[float] = []  # by which step of the batch each stream will have ended
    first: list[float] = []
    while len(first) < n:
        while arrivals and arrivals[0] <= now and len(waiting) < n:
            waiting.append(heapq.heappop(arrivals))
        served = len(first)
        if served < len(waiting) and len(ends) < SLOTS:
            now += prefill[served]
            first.append(now - waiting[served])
            heapq.heappush(ends, steps + output[served])
        elif ends:
            step = (STEP_S + STEP_PER_STREAM_S * len(ends)) * pace[turn % len(pace)]
            turn += 1
            ahead = ends[0] - steps
            if arrivals and len(ends) < SLOTS:
                ahead = min(ahead, max(1.0, -(-(arrivals[0] - now) // step)))
            now, steps = now + ahead * step, steps + ahead
            while ends and ends[0] <= steps:
                heapq.heappop(ends)
                if thinking is not None and (pause := next(thinking, None)) is not None:
                    heapq.heappush(arrivals, now + pause)
        else:
            now = arrivals[0]
    return first
