"""Scenes: a traffic, and how an arm's latencies come about under it. What they share and what they do not.

A scene draws the traffic once and each arm from it; `hide` then takes away what a client would not see:
timeouts become +inf, failures NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from numpy.random import Generator

from calibration import disturbances, servers
from calibration.traffic import (
    CACHED,
    Draw,
    Traffic,
    cached_now,
    interleaved,
    poisson,
    sessions,
)
from tbench.analysis.summary import Floats, quantile

Play = Callable[[Traffic, Generator], Floats]
Hide = Callable[[Floats, Generator], Floats]

POPULATION = 1_000_000
MINUTE = 60.0


def _all_seen(latency: Floats, _: Generator) -> Floats:
    return latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """`candidate` plays the second arm where it differs from the first; `hide` is drawn for each arm."""

    traffic: Draw
    play: Play
    candidate: Play | None = None
    hide: Hide = _all_seen

    def against(self, candidate: Play) -> "Scene":
        """The same with another second arm."""
        return replace(self, candidate=candidate)

    def arms(self, random: Generator) -> tuple[Floats, Floats]:
        """The latencies of both arms, in arrival order, before anything is hidden."""
        return self.replayed(self.traffic(random), random)

    def replayed(self, traffic: Traffic, random: Generator) -> tuple[Floats, Floats]:
        """The same for a traffic that was drawn already."""
        return self.play(traffic, random), (self.candidate or self.play)(traffic, random)


def base(traffic: Traffic, random: Generator) -> Floats:
    """An idle server's time to first token: 80 ms + .4 ms a token, of a cached prompt 15 % of them."""
    work = np.where(cached_now(traffic, random), CACHED, 1.0)
    return np.asarray(0.08 + 4e-4 * traffic.prompt * work)


def full(traffic: Traffic, random: Generator) -> Floats:
    """TTFT = base x exp(shared + N(0, .25) + AR(1) + session) x spike.

    AR(1) has memory .95 and sd .25 (39 requests long), session is N(0, .1) for each session and arm, 2 %
    are spikes of 1 + Pareto(2). p50, p95, p99 are about .24, 1.8 and 4.4 s.
    """
    n = len(traffic)
    logs = traffic.shared + random.normal(0, 0.25, n)
    logs += disturbances.autoregressive(n, 0.95, 0.25, random)
    logs += random.normal(0, 0.1, int(traffic.session.max()) + 1)[traffic.session]
    return np.asarray(base(traffic, random) * np.exp(logs + _spikes(n, random)))


def queue(traffic: Traffic, random: Generator, *, load: float, slow: float = 1.0) -> Floats:
    """TTFT = base x exp(shared + N(0, .25)) x spike + the wait in a FIFO queue at that load."""
    n = len(traffic)
    logs = traffic.shared + random.normal(0, 0.25, n) + _spikes(n, random)
    waits = servers.fifo_waits(traffic.due, load, random, slow=slow)
    return np.asarray(base(traffic, random) * np.exp(logs) + waits)


def pool(
    traffic: Traffic, random: Generator, *, load: float, servers_n: int = 8, slow: float = 1.0
) -> Floats:
    """TTFT = 100 ms exp(N(0, .25)) + the wait for one of `servers_n` at that load; a mean gap of one second.

    The work is lognormal, sigma .78: exp(3 shared + N(0, .5)), so that arms have most of it in common.
    """
    n = len(traffic)
    logs = 3 * traffic.shared + random.normal(0, 0.5, n) - (0.36 + 0.25) / 2
    waits = servers.pool_waits(traffic.due, servers_n * load * slow * np.exp(logs), servers_n)
    return np.asarray(0.1 * slow * np.exp(random.normal(0, 0.25, n)) + waits)


def _spikes(n: int, random: Generator) -> Floats:
    return disturbances.pareto(n, 0.02, 2.0, random)


def plain(
    traffic: Traffic, random: Generator, *, disturb: disturbances.Disturb | None = None
) -> Floats:
    """(80 ms + prompt / 8,000 per s) exp(shared + N(0, .3) + disturbance of the arm)."""
    work = np.where(cached_now(traffic, random), CACHED, 1.0)
    logs = traffic.shared + random.normal(0, 0.3, len(traffic))
    if disturb is not None:
        logs = logs + disturb(traffic.due, random)
    return np.asarray((0.08 + traffic.prompt * work / 8000) * np.exp(logs))


def apart(traffic: Traffic, random: Generator, *, spread: float, sessions: int) -> Floats:
    """The plain arm with N(0, spread) for each of the first `sessions` sessions, drawn for each arm."""
    speeds = random.normal(0, spread, int(traffic.session.max()) + 1)
    speeds[sessions:] = 0
    return np.asarray(plain(traffic, random) * np.exp(speeds[traffic.session]))


def sticky(traffic: Traffic, random: Generator, *, replicas: int, spread: float) -> Floats:
    """The plain arm behind a router that sends each session to one replica, drawn anew for each arm.

    Replicas are evenly apart, with standard deviation `spread`.
    """
    places = np.arange(replicas) - (replicas - 1) / 2
    route = random.integers(replicas, size=int(traffic.session.max()) + 1)
    speed = (spread * places / places.std())[route]
    return np.asarray(plain(traffic, random) * np.exp(speed[traffic.session]))


def narrow(traffic: Traffic, random: Generator, *, middle_s: float) -> Floats:
    """TTFT = middle exp(shared + N(0, .15)): an idle server that a change of 5 % is easily seen of."""
    return np.asarray(middle_s * np.exp(traffic.shared + random.normal(0, 0.15, len(traffic))))


@cache
def population(play: Play) -> Floats:
    """A million latencies under `sessions`, in ascending order: what its quantiles are."""
    random = np.random.default_rng(99)
    return np.sort(play(sessions(POPULATION, random), random))


def deadline(play: Play, share: float) -> Hide:
    """Whoever would take longer than the (1 - share) quantile times out; 1 % fail by themselves."""

    def hide(latency: Floats, random: Generator) -> Floats:
        at = quantile(population(play), 1 - share)
        followed = np.where(latency > at, np.inf, latency)
        return np.where(disturbances.scattered(len(latency), 0.01, random), np.nan, followed)

    return hide


def lost_in_bursts(timeouts: float, failures: float, mean: float) -> Hide:
    """Bursts of timeouts and of failures, of `mean` requests each, at any latency."""

    def hide(latency: Floats, random: Generator) -> Floats:
        n = len(latency)
        if timeouts:
            latency = np.where(disturbances.bursts(n, timeouts, mean, random), np.inf, latency)
        if failures:
            latency = np.where(disturbances.bursts(n, failures, mean, random), np.nan, latency)
        return latency

    return hide


def on_sessions(n: int, play: Play, hide: Hide = _all_seen) -> Scene:
    """Conversations, one request a second."""
    return Scene(traffic=partial(sessions, n), play=play, hide=hide)


def on_poisson(n: int, minutes: float, play: Play = plain, hide: Hide = _all_seen) -> Scene:
    """Independent arrivals over that time."""
    return Scene(traffic=partial(poisson, n, minutes * MINUTE), play=play, hide=hide)


def on_server(n: int, load: float) -> Scene:
    """The batching server at a share of what it can do; Poisson arrivals."""

    def traffic(random: Generator) -> Traffic:
        return poisson(n, n * servers.demand_s() / load, random)

    return Scene(traffic=traffic, play=servers.batching)


def routed(users: int) -> Scene:
    """2,000 requests of an hour behind a router that keeps each user on one of 8 replicas, 10 % apart."""

    def traffic(random: Generator) -> Traffic:
        return interleaved(poisson(2000, 60 * MINUTE, random), random, sessions=users, share=1.0)

    return Scene(traffic=traffic, play=partial(sticky, replicas=8, spread=0.1))


def before_queue(draw: Callable[[int, float, Generator], Traffic], load: float) -> Scene:
    """2,000 requests, one a second on average, before a FIFO queue at that load."""
    return Scene(traffic=partial(draw, 2000, 2000.0), play=partial(queue, load=load))


def before_pool(
    draw: Callable[[int, float, Generator], Traffic], load: float, n: int = 2000
) -> Scene:
    """The same before several servers at that load, which may be more than they can do."""
    return Scene(traffic=partial(draw, n, float(n)), play=partial(pool, load=load))


def disturbed(disturb: disturbances.Disturb) -> Play:
    """The plain arm with that disturbance."""
    return partial(plain, disturb=disturb)
