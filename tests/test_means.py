"""The geometric mean ratio: against scipy, how often it errs, what it is worth, its thirds of the trace."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from tbench.analysis.contrast import Contrast
from tbench.analysis.means import (
    GeometricMean,
    Overall,
    effective_size,
    geometric_mean,
    quantile_by_thirds,
    typical_by_thirds,
)
from tbench.analysis.metrics import METRICS
from tbench.analysis.summary import Floats

SEEDS = st.integers(0, 2**32 - 1)


def arms(seed: int, n: int = 640) -> tuple[Floats, Floats]:
    """Two related lognormal arms with a few failures and timeouts."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=n)
    a, b = (np.exp(shared + random.normal(size=n) * 0.5) for _ in "ab")
    a[random.random(n) < 0.01], b[random.random(n) < 0.01] = math.nan, math.inf
    return a, b


def found(a: Floats, b: Floats) -> GeometricMean:
    answer = geometric_mean(a, b)
    assert answer is not None
    return answer


def ends(answer: GeometricMean) -> tuple[float, float]:
    assert answer.low is not None
    assert answer.high is not None
    return answer.low, answer.high


def test_it_is_student_t_on_the_means_of_sixteen_blocks() -> None:
    """With equal blocks the interval is scipy's one-sample t interval of the block means."""
    a, b = (np.random.default_rng(seed).lognormal(size=1600) for seed in (5, 6))
    logs = np.log(b / a)
    blocks = logs.reshape(16, 100).mean(axis=1)
    interval = stats.ttest_1samp(blocks, 0).confidence_interval(0.95)

    answer = found(a, b)

    assert answer.blocks == 16
    assert answer.ratio == pytest.approx(stats.gmean(b / a), rel=1e-12)
    assert ends(answer) == pytest.approx(np.exp([interval.low, interval.high]), rel=1e-9)


def test_a_pair_without_two_finite_values_is_left_out_and_counted() -> None:
    """Failed, timed out, and zero: three pairs of forty-three."""
    a, b = np.full(43, 2.0), np.full(43, 3.0)
    a[5], b[9], a[11] = math.nan, math.inf, 0.0

    answer = found(a, b)

    assert (answer.n, answer.left_out) == (40, 3)
    assert answer.ratio == pytest.approx(1.5)


def test_without_variance_the_interval_is_the_ratio() -> None:
    """Each request exactly half as slow again."""
    a = np.random.default_rng(3).lognormal(size=640)

    assert ends(found(a, a * 1.5)) == pytest.approx((1.5, 1.5), rel=1e-12)


def test_few_pairs_have_an_estimate_and_no_interval() -> None:
    """39 pairs: the ratio, and what it would take."""
    answer = found(np.ones(39), np.full(39, 2.0))

    assert answer.ratio == pytest.approx(2)
    assert (answer.low, answer.high) == (None, None)
    assert answer.refusal == "n too small (needs ≥ 40)"


def test_no_pair_no_answer() -> None:
    """Every request failed in one arm or the other."""
    assert geometric_mean(np.array([1.0, math.nan]), np.array([math.nan, 1.0])) is None


def test_a_step_in_one_arm_is_flagged() -> None:
    """Half-way the candidate becomes 30 % slower: 4 blocks, and the flag."""
    a, b = arms(17, 2000)
    b[1000:] *= 1.3

    assert (found(a, b).blocks, found(a, b).drift) == (4, True)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_swapping_the_arms_inverts_it(seed: int) -> None:
    """On the logarithm it negates to the last bit."""
    a, b = arms(seed)
    forth, back = found(a, b), found(b, a)

    assert math.log(forth.ratio) == pytest.approx(-math.log(back.ratio), abs=1e-15)
    assert ends(forth) == pytest.approx([1 / end for end in reversed(ends(back))], rel=1e-14)
    assert (forth.n, forth.blocks, forth.rho) == (back.n, back.blocks, back.rho)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.01, 100))
def test_scaling_an_arm_scales_it(seed: int, scale: float) -> None:
    """A candidate that is s times slower has s times the ratio and interval."""
    a, b = arms(seed)
    plain, scaled = found(a, b), found(a, b * scale)

    assert scaled.ratio == pytest.approx(plain.ratio * scale, rel=1e-9)
    assert ends(scaled) == pytest.approx([end * scale for end in ends(plain)], rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_order_inside_a_block_is_irrelevant(seed: int) -> None:
    """Shuffling the pairs of each of the 32 fine blocks."""
    a, b = arms(seed)
    random = np.random.default_rng(seed)
    places = np.concatenate([random.permutation(x) for x in np.split(np.arange(640), 32)])
    plain, mixed = found(a, b), found(a[places], b[places])

    assert mixed.ratio == pytest.approx(plain.ratio, rel=1e-12)
    assert ends(mixed) == pytest.approx(ends(plain), rel=1e-9)


def test_order_across_blocks_matters() -> None:
    """Sorting the pairs by their ratio puts the spread between the blocks."""
    a, b = (np.random.default_rng(seed).lognormal(size=640) for seed in (1, 2))
    places = np.argsort(b / a)

    assert ends(found(a[places], b[places])) != pytest.approx(ends(found(a, b)), rel=0.1)


def dependent(random: np.random.Generator, n: int) -> Floats:
    """Latencies whose logarithm carries an AR(1) load (.95) of standard deviation .5."""
    steps = random.normal(size=n) * 0.5 * math.sqrt(1 - 0.95**2)
    load, _ = signal.lfilter([1], [1, -0.95], steps, zi=[0.95 * random.normal() * 0.5])
    return np.exp(load + random.normal(size=n) * 0.3)


def test_equal_arms_are_told_apart_in_one_of_twenty() -> None:
    """400 A/A replays with memory: between 2.5 % and 8 %, the 99 % band of 5 %; the paired t errs often."""
    random = np.random.default_rng(20)
    block = classic = 0
    for _ in range(400):
        a, b = dependent(random, 2000), dependent(random, 2000)
        low, high = ends(found(a, b))
        block += not low <= 1 <= high
        classic += stats.ttest_rel(np.log(a), np.log(b)).pvalue < 0.05

    assert 10 <= block <= 32
    assert classic > 120


def overall_arms(n: int = 2400, slow: float = 1.0) -> tuple[Floats, Floats]:
    random, shared = np.random.default_rng(1), np.random.default_rng(2).normal(size=n)
    a, b = (np.exp(shared * 0.4 + random.normal(size=n) * 0.2) for _ in "ab")
    return a, b * slow


def overall(values: tuple[Floats, Floats], **changes: Any) -> Overall:
    given: dict[str, Any] = {
        "metric": METRICS["ttft"],
        "paired": True,
        "asked": (),
        "span_s": 3600.0,
        "timeouts_s": (None, None),
    }
    return Contrast(values=values, **(given | changes)).overall()


def test_a_slower_candidate_is_seen_as_a_whole() -> None:
    """10 % slower everywhere: so is the typical request."""
    found = overall(overall_arms(slow=1.1))

    assert found.geometric is not None
    assert found.geometric.low is not None
    assert found.geometric.high is not None
    assert 1 < found.geometric.low < 1.1 < found.geometric.high
    assert (found.confidence, found.doubts) == ("95%", ())


def test_a_short_or_small_comparison_earns_no_label() -> None:
    """The same floors as for a quantile."""
    assert overall(overall_arms(), span_s=1200.0).doubts == ("20 min of traffic (needs 30 min)",)
    assert overall(overall_arms(900)).confidence == "low"


def test_a_drift_costs_the_label() -> None:
    """A step half-way: the ratio is shown with low confidence, and by thirds."""
    a, b = overall_arms()
    b[1200:] *= 1.4

    drifting = overall((a, b))

    assert (drifting.confidence, drifting.doubts) == ("low", ("SLOW_DRIFT",))
    assert drifting.thirds is not None
    first, _, last = drifting.thirds
    assert last / first == pytest.approx(1.4, rel=0.05)


def test_unpaired_arms_have_no_typical_ratio() -> None:
    """No pair, no ratio; the worth is that of the lesser arm."""
    a, b = overall_arms()

    found = overall((a, b[:1500]), paired=False)

    assert found.geometric is None
    assert found.confidence == "none"
    assert found.effective.n == 1500


def test_what_is_negative_is_no_value() -> None:
    """A lag below zero has no ratio; the other requests have."""
    a, b = overall_arms()
    a[::10] -= 100

    assert overall((a, b)).effective.n == 2160
    assert overall((a, b), paired=False).effective.n == 2160


def test_arms_without_a_common_value_say_so() -> None:
    """Each request failed in one arm or the other."""
    a, b = overall_arms()
    a[::2], b[1::2] = np.nan, np.nan

    found = overall((a, b))

    assert found.geometric is None
    assert found.effective.n == 0
    assert found.confidence == "none"


def test_independent_requests_are_worth_their_number() -> None:
    """The mean of tau over 200 series is 1 within five standard errors."""
    random = np.random.default_rng(3)
    taus = [effective_size(random.normal(size=1600)).tau or 0.0 for _ in range(200)]

    assert np.mean(taus) == pytest.approx(1, abs=5 * np.std(taus) / 200**0.5)


def test_tau_is_the_variance_of_block_means() -> None:
    """Its definition, where 16 blocks are chosen; and every request k times over is worth 1/k."""
    random = np.random.default_rng(4)
    series = random.normal(size=1600)
    means = series.reshape(16, 100).mean(axis=1)

    assert effective_size(series).tau == pytest.approx(100 * means.var(ddof=1) / series.var())
    repeated = [effective_size(np.repeat(random.normal(size=400), 5)).tau or 0 for _ in range(200)]
    assert np.mean(repeated) == pytest.approx(5, abs=5 * np.std(repeated) / 200**0.5)


def test_worth_is_never_more_than_n() -> None:
    """Luck makes tau less than 1; a constant series has none."""
    alternating = np.tile([1.0, -1.0], 800)

    assert effective_size(alternating).n_eff == 1600
    assert effective_size(np.full(50, 0.3)).tau is None
    assert effective_size(np.full(50, 0.3)).n_eff == 50


DRIFT_SEEDS = st.integers(0, 2**32 - 1)


def lognormal_arms(seed: int, n: int = 900) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    return random.lognormal(size=n), random.lognormal(size=n)


def test_a_step_is_seen_where_it_is() -> None:
    """The last third of the candidate is twice as slow, all else is equal."""
    a, _ = lognormal_arms(1)
    b = np.concatenate([a[:600], a[600:] * 2])

    assert quantile_by_thirds(a, b, 0.5) == pytest.approx((1, 1, 2))
    assert typical_by_thirds(a, b) == pytest.approx((1, 1, 2))


def test_a_third_with_too_little_has_none() -> None:
    """p99 takes 368 requests in a third; timeouts hide the p90 of the middle one; failures leave nothing."""
    a, b = lognormal_arms(2)
    b[300:400] = math.inf

    assert quantile_by_thirds(a, b, 0.99) == (None, None, None)
    assert [one is None for one in quantile_by_thirds(a, b, 0.9)] == [False, True, False]
    b[600:] = math.nan
    assert typical_by_thirds(a, b)[2] is None
    assert quantile_by_thirds(a, b, 0.5)[2] is None


@settings(max_examples=25, deadline=None)
@given(DRIFT_SEEDS, st.floats(0.01, 100))
def test_swapping_inverts_and_scaling_scales(seed: int, scale: float) -> None:
    """Each third by itself."""
    a, b = lognormal_arms(seed)
    forth, back = quantile_by_thirds(a, b, 0.9), quantile_by_thirds(b, a, 0.9)
    plain, scaled = typical_by_thirds(a, b), typical_by_thirds(a, b * scale)

    for one, other in zip(forth, back, strict=True):
        assert (one or 0) * (other or 0) == pytest.approx(1, rel=1e-12)
    for one, other in zip(plain, scaled, strict=True):
        assert other == pytest.approx((one or 0) * scale, rel=1e-9)


def test_order_inside_a_third_is_irrelevant() -> None:
    """Shuffling the requests of each third, arm by arm."""
    a, b = lognormal_arms(3)
    random = np.random.default_rng(4)
    mixed = [np.concatenate([random.permutation(x) for x in np.split(v, 3)]) for v in (a, b)]

    assert quantile_by_thirds(mixed[0], mixed[1], 0.5) == quantile_by_thirds(a, b, 0.5)
