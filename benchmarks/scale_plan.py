"""A replay of a million streams from a hundred machines, on paper: its shard plan made, and a run simulated.

    python benchmarks/scale_plan.py
    python benchmarks/scale_plan.py --nodes 10 --cores 8 --streams 40000

The plan is that of replay.runner.worker_of and replay.workers.messages, not a copy. Simulated is what the
machines do: each worker's clock is off by up to `--clock-ms`, each launch takes `--launch-us` of its core and
waits for those before it, latencies are lognormal. Then a machine is lost. What is printed is checked, and a
check that fails makes it end with 1.
"""

import argparse
import sys
from itertools import pairwise

import numpy as np

from tbench.capture.histogram import Histogram
from tbench.replay.job import WORKER_STREAMS
from tbench.replay.pacing import Fixed
from tbench.replay.runner import worker_of
from tbench.replay.system import OWN, USUAL_PORTS
from tbench.replay.workers.messages import part

PACED_S = 0.005
"""A request that leaves within this of its time is on time."""
FEED_S, AGAIN_S = 69e-6, 42e-6
"""Of a core, what planning, an entry and an answer take (docs/performance.md), and in a further round."""


def assigned(requests: int, turns: int, workers: int, places: int | None) -> np.ndarray:
    """The worker of each request of a plan in which sessions of so many turns follow one another."""
    numbers = (worker_of(number // turns, workers, places) for number in range(requests))
    return np.fromiter(numbers, np.int32, requests)


def launched(due: np.ndarray, launch_s: float) -> np.ndarray:
    """When a core lets requests go that are due then, one after the other, each after so long."""
    waits = np.arange(len(due)) * launch_s
    return np.maximum.accumulate(due - waits) + waits + launch_s


class Checks:
    """Prints each figure with whether it is as it must be."""

    def __init__(self) -> None:
        self.failed = 0

    def add(self, what: str, figure: str, *, holds: bool) -> None:
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'} {what:<44} {figure}")


def check_plan(checks: Checks, asked: argparse.Namespace, worker: np.ndarray) -> None:
    """Sessions stay whole, parts add up, and no worker or machine is asked for more than it can."""
    workers = asked.nodes * asked.cores
    limits = [part(Fixed(limit=asked.streams), number, workers) for number in range(workers)]
    streams = [int(limit.allowed(0.0)) for limit in limits]
    counts = np.bincount(worker, minlength=workers)
    turns = worker[: len(worker) // asked.turns * asked.turns].reshape(-1, asked.turns)
    checks.add(
        "sessions that are split between workers",
        f"{int((turns != turns[:, :1]).any(axis=1).sum()):,}",
        holds=bool((turns == turns[:, :1]).all()),
    )
    checks.add(
        "requests of all workers, as planned",
        f"{counts.sum():,} of {len(worker):,}",
        holds=int(counts.sum()) == len(worker),
    )
    fair = 1 + 6 * (asked.turns / counts.mean()) ** 0.5  # six times what drawing lots gives
    checks.add(
        "requests of the busiest worker, of the mean",
        f"{counts.max() / counts.mean():.2f} ({counts.max():,})",
        holds=bool(counts.max() <= fair * counts.mean()),
    )
    checks.add(
        "streams of all workers, as asked", f"{sum(streams):,}", holds=sum(streams) == asked.streams
    )
    checks.add(
        "streams of a worker",
        f"{max(streams):,} of {WORKER_STREAMS:,} with ease, {max(streams) + OWN:,} descriptors",
        holds=max(streams) <= WORKER_STREAMS,
    )
    ports = max(streams) * asked.cores
    checks.add(
        "ports of a machine",
        f"{ports:,} of {USUAL_PORTS:,} to one address",
        holds=ports <= USUAL_PORTS,
    )


def check_pacing(
    checks: Checks, asked: argparse.Namespace, worker: np.ndarray, due: np.ndarray
) -> np.ndarray:
    """All workers together keep the schedule; returns when each request left, by the true clock."""
    source = np.random.default_rng(asked.seed)
    ahead = source.uniform(-asked.clock_ms, asked.clock_ms, asked.nodes * asked.cores) / 1e3
    sent = np.empty_like(due)
    order = np.argsort(worker, kind="stable")
    bounds = np.searchsorted(worker[order], np.arange(len(ahead) + 1))
    for number, (low, high) in enumerate(pairwise(bounds)):
        rows = order[low:high]
        sent[rows] = launched(due[rows], asked.launch_us / 1e6) + ahead[number]
    late = np.quantile(np.abs(sent - due), (0.5, 0.95, 0.99)) * 1e3
    checks.add(
        "off the schedule p50, p95, p99",
        f"{late[0]:.2f}, {late[1]:.2f}, {late[2]:.2f} ms",
        holds=bool(late[1] <= PACED_S * 1e3),
    )
    edges = np.arange(0.0, due[-1], 1.0)
    wanted, got = (np.histogram(times, edges)[0] for times in (due, sent))
    apart = np.abs(got - wanted).max() / wanted.mean()
    few = 5 / wanted.mean()  # at the two edges of a second
    checks.add(
        "requests of a second, from those due in it",
        f"{apart:.2%} at most",
        holds=apart < 0.01 + few,
    )
    return sent


def check_merge(checks: Checks, asked: argparse.Namespace, worker: np.ndarray) -> None:
    """The workers' histograms, added up, say what all values together say."""
    source = np.random.default_rng(asked.seed + 1)
    latency = source.lognormal(-1.0, 0.6, min(len(worker), asked.merged))
    parts = [Histogram() for _ in range(asked.nodes * asked.cores)]
    for number, value in zip(worker.tolist(), latency.tolist(), strict=False):
        parts[number].add(value)
    merged = Histogram()
    for histogram in parts:
        merged.merge(histogram)
    checks.add("values in the merged histogram", f"{merged.n:,}", holds=merged.n == len(latency))
    worst = max(
        abs((merged.quantile(p) or 0.0) / float(np.quantile(latency, p)) - 1)
        for p in (0.5, 0.9, 0.95, 0.99)
    )
    checks.add(
        "its quantiles, from those of all values", f"{worst:.2%} at most", holds=worst < 0.01
    )


def check_loss(
    checks: Checks, asked: argparse.Namespace, worker: np.ndarray, sent: np.ndarray
) -> None:
    """A machine is lost half way: the identity holds for each worker, and so for all."""
    workers = asked.nodes * asked.cores
    at, stays = sent.max() / 2, asked.duration
    lost_node = worker // asked.cores == asked.nodes // 2
    ended = ~lost_node | (sent + stays <= at)
    in_flight = lost_node & (sent <= at) & ~ended
    never = lost_node & (sent > at)
    sums = [
        np.bincount(worker[which], minlength=workers)
        for which in (np.full(len(worker), True), ended, in_flight, never)
    ]
    checks.add(
        "a machine lost half way",
        f"planned {len(worker):,} = ended {sums[1].sum():,} + lost in flight {sums[2].sum():,} + never sent "
        f"{sums[3].sum():,}",
        holds=bool((sums[0] == sums[1] + sums[2] + sums[3]).all()),
    )
    share = (sums[2].sum() + sums[3].sum()) / len(worker)
    checks.add(
        "of all requests without an outcome",
        f"{share:.2%}; a machine's share of what is left is {0.5 / asked.nodes:.2%}",
        holds=share < 3 / asked.nodes,
    )


def main(words: list[str] | None = None) -> int:
    """Make the plan, simulate, check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--cores", type=int, default=20, help="workers of each machine")
    parser.add_argument("--streams", type=int, default=1_000_000, help="in flight together")
    parser.add_argument("--duration", type=float, default=90.0, help="of a stream, seconds")
    parser.add_argument("--requests", type=int, default=2_000_000)
    parser.add_argument("--turns", type=int, default=4, help="of a session")
    parser.add_argument("--clock-ms", type=float, default=1.0, help="half of a quick ping")
    parser.add_argument("--launch-us", type=float, default=50.0)
    parser.add_argument("--merged", type=int, default=500_000, help="values that are merged")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(words)
    workers, rate = asked.nodes * asked.cores, asked.streams / asked.duration
    print(
        f"{asked.streams:,} streams of {asked.duration:g} s from {asked.nodes} machines of {asked.cores} "
        f"workers: {rate:,.0f} requests/s, {rate / workers:.1f} of each worker"
    )
    checks = Checks()
    worker = assigned(asked.requests, asked.turns, workers, asked.streams)
    check_plan(checks, asked, worker)
    gaps = np.random.default_rng(asked.seed).exponential(1 / rate, asked.requests)
    sent = check_pacing(checks, asked, worker, np.cumsum(gaps))
    check_merge(checks, asked, worker)
    check_loss(checks, asked, worker, sent)
    feeds = {"feed them from one machine": FEED_S, "do so again (rounds, clones)": AGAIN_S}
    for what, each_s in feeds.items():
        checks.add(f"of a core, to {what}", f"{rate * each_s:.0%}", holds=rate * each_s < 1)
    return min(1, checks.failed)


if __name__ == "__main__":
    sys.exit(main())
