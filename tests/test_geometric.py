"""The geometric-mean ratio against scipy, its symmetries, and how often it errs on equal arms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from tbench.analysis.mean_ratio import GeometricMean, geometric_mean
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
