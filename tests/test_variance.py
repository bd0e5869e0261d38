"""What runs differ by and what their requests explain, against sampling laws that are known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import signal, stats

from tbench.analysis.metrics import METRICS
from tbench.analysis.summary import Floats
from tbench.analysis.variance import (
    MORE_REQUESTS,
    MORE_RUNS,
    of_blocks,
    of_pair,
    pooled_sd,
    sd_interval,
    spread,
)

TTFT = METRICS["ttft"]
Repeated = Callable[..., Any]


def root_mean_square(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


@pytest.mark.parametrize(("p", "se"), [(0.5, 0.012533), (0.95, 0.021132), (0.99, 0.037332)])
def test_blocks_give_the_standard_error_of_independent_requests(p: float, se: float) -> None:
    """Golden case G12: lognormal, sigma 1, n = 10,000; 60 samples."""
    random = np.random.default_rng(1)

    found = [of_blocks(np.exp(random.normal(size=10_000)), p).se for _ in range(60)]

    assert root_mean_square(found) == pytest.approx(se, rel=0.1)


def dependent(random: np.random.Generator, n: int) -> Floats:
    """Latencies whose logarithm carries an AR(1) load of 20 requests' memory."""
    steps = random.normal(size=n) * 0.5 * math.sqrt(1 - 0.95**2)
    load, _ = signal.lfilter([1], [1, -0.95], steps, zi=[0.95 * random.normal() * 0.5])
    return np.asarray(np.exp(load + random.normal(size=n) * 0.3))


def test_blocks_give_the_standard_error_of_dependent_requests() -> None:
    """Against the scatter of the median over 300 runs; requests taken as independent give half of it."""
    random = np.random.default_rng(2)
    runs = [dependent(random, 4000) for _ in range(300)]
    truth = float(np.std([math.log(float(np.median(run))) for run in runs]))
    naive = 1.2533 * math.hypot(0.5, 0.3) / math.sqrt(4000)

    found = root_mean_square([of_blocks(run, 0.5).se for run in runs])

    assert naive < truth / 2
    assert found == pytest.approx(truth, rel=0.12)


def test_pairs_leave_out_what_the_requests_have_in_common() -> None:
    """Requests that differ by 100 %, runs by noise of 10 %: pairs see the noise, blocks the requests too."""
    random, common = np.random.default_rng(3), np.random.default_rng(4).normal(size=4000)
    runs = [np.exp(common + random.normal(size=4000) * 0.1) for _ in range(80)]
    truth = float(np.std([math.log(float(np.median(run))) for run in runs]))

    pairs = [of_pair(a, b, 0.5) for a, b in zip(runs[::2], runs[1::2], strict=True)]
    blocks = [of_blocks(run, 0.5) for run in runs]

    assert root_mean_square([one.se for one in pairs]) == pytest.approx(truth, rel=0.2)
    assert root_mean_square([one.se for one in blocks]) > 3 * truth


def test_the_half_width_of_blocks_is_that_of_two_independent_runs() -> None:
    """Where nothing is shared, both ways lead to the same interval."""
    random = np.random.default_rng(5)
    runs = [np.exp(random.normal(size=2000) * 0.5) for _ in range(80)]

    pairs = [of_pair(a, b, 0.95).half_width for a, b in zip(runs[::2], runs[1::2], strict=True)]
    blocks = [of_blocks(run, 0.95).half_width for run in runs]

    assert np.median(pairs) == pytest.approx(np.median(blocks), rel=0.1)


def test_a_step_is_flagged_and_timeouts_bound_nothing() -> None:
    """Half a run 50 % slower; one in ten timed out at p95 and p90."""
    random = np.random.default_rng(6)
    step = np.exp(random.normal(size=2000) * 0.3) * np.repeat([1.0, 1.5], 1000)
    late = np.exp(random.normal(size=2000) * 0.3)
    late[::10] = math.inf

    assert of_blocks(step, 0.5).drift
    assert not of_blocks(np.exp(random.normal(size=2000)), 0.5).drift
    assert of_blocks(late, 0.95).se == of_blocks(late, 0.9).se == math.inf
    assert of_pair(late, late.copy(), 0.95).half_width == math.inf
    assert of_blocks(np.ones(2000), 0.5).se == 0


def test_the_spread_is_that_of_the_log_quantiles(repeated: Repeated) -> None:
    """Runs that differ by a factor only: its sd, with the chi-square interval of 4 degrees (.599, 2.874)."""
    offsets = np.array([0.02, -0.01, 0.03, -0.04, 0.0])

    found = spread([repeated(np.exp(offsets), own=0.0)], TTFT, 0.95)

    sd = float(np.std(offsets, ddof=1))
    assert (found.sd, found.df, found.runs, found.n) == (pytest.approx(sd), 4, 5, 2000)
    assert (found.low, found.high) == pytest.approx((0.5991 * sd, 2.8736 * sd), rel=1e-3)


def test_arms_are_pooled_around_their_own_means(repeated: Repeated) -> None:
    """A slower model does not make runs differ."""
    first = repeated([1.0, 1.02, 1.04], own=0.0)
    second = repeated([2.0, 2.04, 2.08], own=0.0, name="B")

    one, both = spread([first], TTFT, 0.5), spread([first, second], TTFT, 0.5)

    assert both.sd == pytest.approx(one.sd)
    assert (both.df, both.runs) == (4, 6)


def test_the_interval_holds_the_true_sd_in_nineteen_of_twenty() -> None:
    """2,000 pilots of two arms, four runs each that differ by 3 %: the 99 % band of .95."""
    random, held = np.random.default_rng(7), 0
    for _ in range(2000):
        figures = np.exp(random.normal(size=(2, 4)) * 0.03 + [[0.0], [0.5]])
        low, high = sd_interval(*pooled_sd(figures.tolist()))
        assert low is not None
        assert high is not None
        held += low <= 0.03 <= high

    assert stats.binom.cdf(held, 2000, 0.95) > 0.005
    assert stats.binom.sf(held - 1, 2000, 0.95) > 0.005


def test_it_is_said_what_helps(repeated: Repeated) -> None:
    """Runs 5 % apart with 4,000 requests each, and runs of 400 that differ by their requests alone."""
    offsets = np.exp(np.random.default_rng(8).normal(size=6) * 0.05)

    apart = spread([repeated(offsets, 4000)], TTFT, 0.5)
    noisy = spread([repeated([1.0] * 6, 400)], TTFT, 0.5)

    assert apart.advice == MORE_RUNS
    assert apart.between == pytest.approx(0.05, rel=0.5)
    assert noisy.advice == MORE_REQUESTS
    assert apart.within is not None
    assert apart.within.source == "pairs"


def test_one_run_has_blocks_but_no_spread(repeated: Repeated) -> None:
    """And what helps cannot be said."""
    found = spread([repeated([1.0])], TTFT, 0.5)

    assert (found.sd, found.low, found.high, found.advice) == (None, None, None, None)
    assert found.within is not None
    assert found.within.source == "blocks"


def test_two_arms_of_one_run_each_are_a_pair(repeated: Repeated) -> None:
    """Their interval is known, how much runs differ is not."""
    first, second = repeated([1.0]), repeated([2.0], seed=2, name="B")
    a, b = (
        one.runs[0].columns["first_token"] - one.runs[0].columns["due"] for one in (first, second)
    )

    found = spread([first, second], TTFT, 0.5)

    assert found.sd is None
    assert found.within == of_pair(a, b, 0.5)


def test_too_few_requests_are_refused(repeated: Repeated) -> None:
    """With the number that it takes."""
    found = spread([repeated([1.0, 1.0], 300)], TTFT, 0.95)

    assert found.refusal == "n too small (needs ≥ 400)"
    assert (found.sd, found.within, found.figures) == (None, None, ())


def _time_out(found: dict[str, Any]) -> None:
    found["outcome"][::10] = "timeout"


def test_a_quantile_among_the_timeouts_has_no_spread(repeated: Repeated) -> None:
    """One in ten requests timed out: p95 is infinite in every run."""
    found = spread([repeated([1.0, 1.1, 1.2], spoil=_time_out)], TTFT, 0.95)

    assert found.sd is None
    assert found.within is not None
    assert found.within.se == math.inf
    assert (found.between, found.advice) == (None, None)
