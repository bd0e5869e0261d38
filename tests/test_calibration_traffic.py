"""The simulated traffic is what its docstrings say: a calibration on wrong traffic would prove nothing."""

import math

import numpy as np
import pytest
from calibration import disturbances, drifts, servers
from calibration.disturbances import POINTS, shift, tail
from calibration.runs import arm
from calibration.scenes import full, on_sessions, routed
from calibration.traffic import poisson, self_exciting, sessions, surging

from tbench.analysis.arms import interleaved
from tbench.analysis.metrics import METRICS, values
from tbench.analysis.summary import Floats, quantile

MANY = 400_000


def random(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_load_remembers_as_long_as_it_should() -> None:
    """AR(1): standard deviation .25, autocorrelation .95 at lag 1 and .95^20 at lag 20."""
    found = disturbances.autoregressive(MANY, 0.95, 0.25, random())

    assert found.std() == pytest.approx(0.25, rel=0.03)
    for lag in (1, 20):
        seen = np.corrcoef(found[lag:], found[:-lag])[0, 1]
        assert seen == pytest.approx(0.95**lag, abs=0.02)


def test_regimes_last_their_dwell_time() -> None:
    """Two states, half of the time each, exponential with mean 60 s."""
    due = np.arange(MANY) * 1.0
    found = disturbances.regimes(due, 60.0, 1.5, random())
    switches = np.flatnonzero(np.diff(found))
    dwell = np.diff(switches)

    assert set(found.tolist()) == {0.0, math.log(1.5)}
    assert dwell.mean() == pytest.approx(60, rel=0.05)
    assert dwell.std() == pytest.approx(60, rel=0.05)
    assert (found > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_a_drift_goes_from_end_to_end() -> None:
    """Linearly in time, not in the number of the request."""
    found = disturbances.linear(np.array([10.0, 20.0, 60.0, 110.0]), 0.3)

    assert found == pytest.approx([-0.3, -0.24, 0.0, 0.3])


def test_a_sine_has_its_height_and_period() -> None:
    """Half its square on average, and itself again after a period."""
    due = np.arange(0, 1200.0)
    found = disturbances.sine(due, 600.0, 0.1, random())

    assert np.square(found).mean() == pytest.approx(0.1**2 / 2)
    assert found[:600] == pytest.approx(found[600:])


def test_tails_are_pareto() -> None:
    """One in twenty is a spike, and of those 2^-1.5 exceed 2."""
    found = np.exp(disturbances.pareto(MANY, 0.05, 1.5, random()))

    assert (found > 1).mean() == pytest.approx(0.05, rel=0.03)
    assert (found > 2).mean() == pytest.approx(0.05 * 2**-1.5, rel=0.05)
    assert (found > 20).mean() == pytest.approx(0.05 * 20**-1.5, rel=0.4)


def test_bursts_have_their_length_and_share() -> None:
    """2 % of requests, in bursts of 20 on average."""
    found = disturbances.bursts(10 * MANY, 0.02, 20.0, random())
    begins = int((found[1:] & ~found[:-1]).sum())

    assert found.mean() == pytest.approx(0.02, rel=0.06)
    assert found.sum() / begins == pytest.approx(20, rel=0.06)


def test_the_queue_is_lindleys() -> None:
    """Against the recursion request by request, with the same service times."""
    due = np.cumsum(random().exponential(1.0, 500))
    found = servers.fifo_waits(due, 0.8, random(5))
    service = 0.8 * np.exp(random(5).normal(0, 0.8, 500) - 0.32)
    wait, waits = 0.0, [0.0]
    for gap, work in zip(np.diff(due), service, strict=False):
        wait = max(0.0, wait + work - gap)
        waits.append(wait)

    assert found == pytest.approx(waits)


def test_one_server_of_a_pool_is_lindleys() -> None:
    """And of several, the first that is free takes the next request."""
    due = np.cumsum(random().exponential(1.0, 500))
    work = 0.8 * np.exp(random(5).normal(0, 0.8, 500) - 0.32)
    ends = np.zeros(3)
    waits = []
    for at, seconds in zip(due, 3 * work, strict=True):
        begins = max(at, ends.min())
        ends[ends.argmin()] = begins + seconds
        waits.append(begins - at)

    assert servers.pool_waits(due, work, 1) == pytest.approx(
        servers.fifo_waits(due, 0.8, random(5))
    )
    assert servers.pool_waits(due, 3 * work, 3) == pytest.approx(waits)


def test_the_mean_wait_is_pollaczek_and_khinchines() -> None:
    """Under Poisson arrivals: rate x E[S^2] / (2 (1 - load))."""
    due = np.cumsum(random().exponential(1.0, 4 * MANY))
    found = servers.fifo_waits(due, 0.6, random(5))

    assert found.mean() == pytest.approx(0.36 * math.exp(0.64) / (2 * 0.4), rel=0.05)


def test_an_overloaded_server_takes_its_demand() -> None:
    """At one and a half times what it can do, requests are served at the rate that `load` is a share of."""
    n = 6000
    traffic = poisson(n, n * servers.demand_s() / 1.5, random())
    first = servers.batching(traffic, random(5))

    assert traffic.due[-1] + first[-1] == pytest.approx(n * servers.demand_s(), rel=0.05)


def test_one_user_waits_for_nobody() -> None:
    """Its time to first token is its prefill, the stalls and the network."""
    traffic = poisson(20_000, 3600.0, random())
    first = servers.batching(traffic, random(5), users=1)
    tokens = traffic.prompt * np.where(traffic.cached, 0.15 + 0.1 * 0.85, 1 - 0.1 * 0.85)
    prefill = (0.02 + tokens.mean() / 8000) * math.exp(0.08**2 / 2)

    assert first.mean() == pytest.approx(
        prefill + 0.01 * 0.5 + 0.03 * math.exp(0.3**2 / 2), rel=0.02
    )


def test_a_closed_loop_is_slower_with_more_users() -> None:
    """64 users of 32 slots queue, 8 do not."""
    traffic = poisson(2000, 1800.0, random())
    few, many = (np.median(servers.batching(traffic, random(5), users=n)) for n in (8, 64))

    assert many > 20 * few


@pytest.mark.parametrize("n", [500, 2000])
def test_sessions_come_one_request_a_second(n: int) -> None:
    """In order, n of them in n seconds, only later turns cached."""
    found = sessions(n, random())

    assert len(found) == n
    assert found.span_s == pytest.approx(n)
    assert (np.diff(found.due) >= 0).all()
    assert np.bincount(found.session).mean() == pytest.approx(6, rel=0.35)


def test_the_tail_effect_moves_the_p99_by_ten_per_cent_and_no_median() -> None:
    """And a shift moves all quantiles alike; both keep the order of the latencies."""
    population = np.sort(np.exp(random().normal(size=MANY)))
    for effect in (tail(population), shift(1.05)):
        changed = effect.change(population)
        found = {p: quantile(changed, p) / quantile(population, p) for p in POINTS}

        assert found == pytest.approx(dict(effect.truth))
        assert (np.diff(changed) >= 0).all()
    assert tail(population).truth[0.5] == 1
    assert tail(population).truth[0.99] == pytest.approx(1.1)


def test_a_surge_holds_its_share_of_the_arrivals() -> None:
    """1.7 times the mean rate in the middle fifth of the time, less and evenly outside."""
    due = surging(MANY, 3600.0, random(), peak=1.7, share=0.2).due
    counts, _ = np.histogram(due, bins=10, range=(0, 3600))
    middle, outside = counts[4:6].sum(), np.delete(counts, [4, 5])

    assert middle / MANY == pytest.approx(1.7 * 0.2, rel=0.02)
    assert outside / MANY == pytest.approx(np.full(8, (1 - 1.7 * 0.2) / 8), rel=0.03)


def test_self_exciting_arrivals_vary_as_hawkes_did() -> None:
    """In long windows the counts have Poisson's variance times 1 / (1 - branching)^2."""
    due = self_exciting(MANY, float(MANY), random(), branching=0.7, delay_s=10.0).due
    counts, _ = np.histogram(due, bins=200)

    assert (len(due), due[-1]) == (MANY, MANY)
    assert counts.var() / counts.mean() == pytest.approx(1 / 0.3**2, rel=0.3)


def test_a_sticky_route_keeps_each_user_on_a_replica() -> None:
    """Replicas have a standard deviation of 10 % between them, and each arm another route."""
    scene = routed(40)
    drawn = random()
    traffic = scene.traffic(drawn)
    requests = np.bincount(traffic.session)
    logs = [np.log(scene.play(traffic, drawn)) for _ in range(40)]
    gaps = [
        np.bincount(traffic.session, other - one) / requests
        for one, other in zip(logs[::2], logs[1::2], strict=True)
    ]

    cached = np.log(scene.play(traffic, drawn)) - logs[0]
    noise = np.var(cached) - 2 * 0.1**2  # of a request, which its replica is no part of
    assert np.var(gaps) == pytest.approx(2 * 0.1**2 + noise * np.mean(1 / requests), rel=0.12)


def test_arms_share_their_requests() -> None:
    """Latencies of the same request are alike in both arms, those of neighbours hardly."""
    a, b = (np.log(side) for side in on_sessions(20_000, full).arms(random()))

    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.7, abs=0.05)
    assert np.corrcoef(a[1:], b[:-1])[0, 1] < 0.2


def test_orders_are_what_their_names_say() -> None:
    """Pairs and ABBA take turns, AAA BBB does not."""
    assert drifts.abba(3, random()).tolist() == [False, True, True, False, False, True]
    for order, turns in ((drifts.random_pairs, True), (drifts.one_after_the_other, False)):
        places = order(5, random())
        first, second = np.flatnonzero(~places).tolist(), np.flatnonzero(places).tolist()
        assert interleaved(first, second) is turns


@pytest.mark.parametrize("dwell", [20.0, 60.0])
def test_runs_see_the_mean_of_their_regimes(dwell: float) -> None:
    """Half of the factor on average, and never more than all of it."""
    found = np.array([drifts.two_states(dwell)(10, random(seed)) for seed in range(300)])

    assert (found >= 0).all()
    assert (found <= math.log(1.5) + 1e-12).all()
    assert found.mean() == pytest.approx(math.log(1.5) / 2, rel=0.1)


def test_a_simulated_run_has_the_latencies_it_was_given() -> None:
    """What the judge reads from it is what the simulation drew."""
    latency: Floats = np.exp(random().normal(size=100))

    assert values(arm(latency, 0), METRICS["ttft"]) == pytest.approx(latency)
