"""The block inversion against golden values, a brute force, its symmetries, and its error rates."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from tbench.analysis.inversion import DRIFTING, Interval, Pair, Side, blocks_for, invert, lag_one
from tbench.analysis.summary import Floats

HALF_AND_TAIL = np.array([0.5, 0.95])
SEEDS = st.integers(0, 2**32 - 1)


def golden_arms() -> tuple[Floats, Floats]:
    """1,600 pairs with one failure and one timeout, made without a random number."""
    u = (np.arange(1600) * 0.6180339887498949) % 1
    a, b = 1 + u * 9, 1.1 * (1 + ((u + 0.3) % 1) * 9)
    a[7], b[11] = math.nan, math.inf
    return a, b


def arms(seed: int, n: int = 640) -> tuple[Floats, Floats]:
    """Two related lognormal arms with a few failures and timeouts."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=n)
    a, b = (np.exp(shared + random.normal(size=n) * 0.5) for _ in "ab")
    a[random.random(n) < 0.01], b[random.random(n) < 0.01] = math.nan, math.inf
    return a, b


def t_at_one(a: Floats, b: Floats) -> Floats:
    return Pair(a, b).t(np.zeros(2), HALF_AND_TAIL, np.array([16, 16]))


def brute_t(a: Floats, b: Floats, r: float, p: float) -> float:
    """The definition, written out with masks over the raw values: nothing sorted by block."""
    x, y = a[~np.isnan(a)], b[~np.isnan(b)] / r
    values = np.r_[x, y]
    weights = np.r_[np.full(len(x), 0.5 / len(x)), np.full(len(y), 0.5 / len(y))]
    order = np.argsort(values)
    c = values[order][np.searchsorted(np.cumsum(weights[order]), p - 1e-12)]
    below_a, below_b = a <= c, b / r <= c * (1 + 1e-12)
    share_a, share_b = below_a[~np.isnan(a)].mean(), below_b[~np.isnan(b)].mean()
    block = np.arange(len(a)) * 16 // len(a)
    terms = [
        (below_b - share_b)[(block == k) & ~np.isnan(b)].sum() / len(y)
        - (below_a - share_a)[(block == k) & ~np.isnan(a)].sum() / len(x)
        for k in range(16)
    ]
    return float((share_b - share_a) / math.sqrt(16 / 15 * np.square(terms).sum()))


@pytest.mark.parametrize(
    ("p", "ratio", "low", "high", "t"),
    [(0.5, 1.100948, 1.09324, 1.11137, -36.911051), (0.95, 1.100076, 1.09534, 1.10577, -54.772256)],
)
def test_the_golden_case(p: float, ratio: float, low: float, high: float, t: float) -> None:
    """Golden case G13 at K = 16."""
    a, b = golden_arms()

    (found,) = invert(Pair(a, b), np.array([p]), blocks=16)

    assert found.ratio == pytest.approx(ratio, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((low, high), abs=3e-5)
    at_one = Pair(a, b).t(np.zeros(1), np.array([p]), np.array([16]))
    assert at_one == pytest.approx([t], abs=1e-6)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("r", [0.83, 0.97, 1.0, 1.02, 1.19])
def test_the_statistic_equals_its_definition(p: float, r: float) -> None:
    """Sorting by block and counting by bisection changes nothing."""
    a, b = arms(7)

    ours = Pair(a, b).t(np.log([r]), np.array([p]), np.array([16]))

    assert ours == pytest.approx([brute_t(a, b, r, p)], abs=1e-9)


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_the_ends_are_where_the_test_begins_to_reject(p: float) -> None:
    """The definition accepts just inside both ends and rejects just outside."""
    a, b = arms(3)
    (found,) = invert(Pair(a, b), np.array([p]), blocks=16)
    critical = stats.t.ppf(0.975, 15)

    assert brute_t(a, b, found.high * (1 + 1e-9), p) > critical
    assert brute_t(a, b, found.high * (1 - 1e-9), p) <= critical
    assert brute_t(a, b, found.low * (1 - 1e-9), p) < -critical
    assert brute_t(a, b, found.low * (1 + 1e-9), p) >= -critical


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_swapping_the_arms_inverts_the_answer(seed: int) -> None:
    """Ratio and interval become their reciprocals, blocks and flags stay."""
    a, b = arms(seed)

    forth, back = invert(Pair(a, b), HALF_AND_TAIL), invert(Pair(b, a), HALF_AND_TAIL)

    for one, other in zip(forth, back, strict=True):
        assert one.ratio * other.ratio == pytest.approx(1, abs=1e-9)
        assert inverse(one) == pytest.approx((other.low, other.high), rel=1e-9)
        assert (one.blocks, one.drift) == (other.blocks, other.drift)


def inverse(found: Interval) -> tuple[float, float]:
    return 1 / found.high, 1 / found.low if found.low else math.inf


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.01, 100))
def test_scaling_an_arm_scales_the_answer(seed: int, scale: float) -> None:
    """A candidate that is s times slower has s times the ratio and interval."""
    a, b = arms(seed)

    plain, scaled = invert(Pair(a, b), HALF_AND_TAIL), invert(Pair(a, b * scale), HALF_AND_TAIL)

    for one, other in zip(plain, scaled, strict=True):
        expected = [x * scale for x in (one.ratio, one.low, one.high)]
        assert [other.ratio, other.low, other.high] == pytest.approx(expected, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([np.sqrt, np.square, np.log1p]))
def test_a_monotone_map_leaves_the_test_of_equality(seed: int, change: np.ufunc) -> None:
    """t(1) depends on the order of the values only."""
    a, b = arms(seed)

    assert t_at_one(change(a), change(b)).tolist() == t_at_one(a, b).tolist()


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_order_inside_a_block_is_irrelevant(seed: int) -> None:
    """Shuffling the requests of each fine block, arm by arm, changes no exceedance count."""
    a, b = arms(seed)
    random = np.random.default_rng(seed)
    mixed = [np.concatenate([random.permutation(x) for x in np.split(v, 32)]) for v in (a, b)]

    assert t_at_one(*mixed).tolist() == t_at_one(a, b).tolist()


def test_order_across_blocks_matters() -> None:
    """Moving requests to other blocks changes the statistic."""
    a, b = arms(5)

    assert t_at_one(np.sort(a), b).tolist() != t_at_one(a, b).tolist()


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_equal_arms_have_ratio_one(seed: int) -> None:
    """An arm against itself: 1, inside its interval, never flagged."""
    a, _ = arms(seed)

    for found in invert(Pair(a, a.copy()), HALF_AND_TAIL):
        assert found.ratio == 1
        assert found.low <= 1 <= found.high
        assert not found.drift


def test_arms_that_do_not_overlap_are_certain() -> None:
    """Without any variance the interval closes on the ratio instead of opening to infinity."""
    a = np.linspace(1, 1.001, 1600)

    (found,) = invert(Pair(a, a * 2), np.array([0.5]))

    assert 1.99 < found.low <= found.ratio <= found.high < 2.01


def test_timeouts_beyond_the_quantile_leave_the_end_open() -> None:
    """With 8 % timeouts in b, its p95 has a lower bound only."""
    a, b = (np.abs(x) for x in arms(11))
    b[np.random.default_rng(1).random(len(b)) < 0.08] = math.inf

    (found,) = invert(Pair(a, b), np.array([0.95]))

    assert math.isnan(found.ratio)
    assert found.high == math.inf
    assert found.low > 0


def test_the_band_encloses_the_intervals() -> None:
    """What holds at all points at once is wider than what holds at each."""
    a, b = arms(13)

    for found in invert(Pair(a, b), np.linspace(0.1, 0.9, 9)):
        assert found.band_low <= found.low <= found.ratio <= found.high <= found.band_high


def test_blocks_follow_the_autocorrelation() -> None:
    """The thresholds of the method, ends included."""
    rho = np.array([-0.2, 0.20, 0.21, 0.35, 0.36, 0.9])

    assert blocks_for(rho).tolist() == [16, 16, 8, 8, 4, 4]


def test_the_autocorrelation_is_corrected_for_its_bias() -> None:
    """Alternating blocks by hand: -31/32 + 1/32; no variance is no autocorrelation."""
    alternating = np.tile([1.0, -1.0], 16)

    assert lag_one(alternating) == pytest.approx(-30 / 32)
    assert lag_one(np.zeros(32)) == 0


def test_a_step_in_one_arm_is_flagged() -> None:
    """The candidate becomes 30 % slower half-way: 4 blocks and the flag."""
    a, b = arms(17, 2000)
    b[1000:] *= 1.3

    (found,) = invert(Pair(a, b), np.array([0.5]))

    assert found.blocks == 4
    assert found.drift


def test_few_finite_pairs_leave_the_paired_series_out() -> None:
    """Less than 8 pairs in a block are too few for it."""
    a, b = arms(19, 32 * 8)
    b[:1] = math.nan

    assert Pair(a, b).few_pairs
    assert not Pair(np.ones(256), np.ones(256)).few_pairs
    assert Pair(np.ones(256), np.ones(256), paired=False).few_pairs


def test_arms_of_different_length_can_be_compared() -> None:
    """Without pairing each arm is cut by its own count."""
    a, b = arms(23, 3000)[0], arms(24, 2000)[0] * 2

    (found,) = invert(Pair(a, b, paired=False), np.array([0.5]))

    assert found.low < 2 < found.high


def dependent(random: np.random.Generator, n: int, memory: float) -> Floats:
    """Latencies whose logarithm carries an AR(1) load of standard deviation .5."""
    steps = random.normal(size=n) * 0.5 * math.sqrt(1 - memory**2)
    load, _ = signal.lfilter([1], [1, -memory], steps, zi=[memory * random.normal() * 0.5])
    return np.exp(load + random.normal(size=n) * 0.3)


def rejections(memory: float, replays: int = 400) -> tuple[int, int, int]:
    """A/A replays in which 1 is outside the interval; of those, unflagged; rejected by Mann-Whitney."""
    random = np.random.default_rng(20)
    block = unflagged = classic = 0
    for _ in range(replays):
        a, b = dependent(random, 2000, memory), dependent(random, 2000, memory)
        pair, p = Pair(a, b), np.array([0.5])
        rho = pair.autocorrelation(pair.log_ratios(p), p)
        blocks = blocks_for(rho)
        (t,) = pair.t(np.zeros(1), p, blocks)
        rejected = abs(t) > stats.t.ppf(0.975, blocks[0] - 1)
        block += rejected
        unflagged += rejected and rho[0] <= DRIFTING
        classic += stats.mannwhitneyu(a, b).pvalue < 0.05
    return block, unflagged, classic


@pytest.mark.parametrize("memory", [0.0, 0.95])
def test_identical_arms_are_told_apart_in_one_of_twenty(memory: float) -> None:
    """400 A/A replays, independent and with memory: between 2.5 % and 8 %, the 99 % band of 5 %."""
    block, unflagged, classic = rejections(memory)

    assert 10 <= block <= 32
    assert unflagged <= 32
    assert (classic > 120) == (memory > 0), "the dependent generator must fool an i.i.d. test"


@given(st.floats(0.001, 0.999), SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_estimate_lies_in_its_interval(p: float, seed: int) -> None:
    """Whatever p, the ratio of the quantiles agrees with the data that gave it."""
    a, b = arms(seed)
    (found,) = invert(Pair(a, b), np.array([p]))
    assume(math.isfinite(found.ratio))

    assert found.low <= found.ratio <= found.high


def ticking(seed: int, tick: float, slow: float) -> tuple[Floats, Floats]:
    """2,000 pairs around 60 ms, the candidate slower before a clock rounds both to its ticks."""
    random = np.random.default_rng(seed)
    shared = random.normal(0, 0.2, 2000)
    a, b = (
        np.round(0.06 * factor * np.exp(shared + random.normal(0, 0.15, 2000)) / tick) * tick
        for factor in (1.0, slow)
    )
    return np.maximum(a, tick), np.maximum(b, tick)


@pytest.mark.parametrize("tick", [0.01, 0.001])
def test_a_change_smaller_than_a_tick_is_seen_and_held(tick: float) -> None:
    """5 % of 60 ms is 3 ms: seen in 19 of 20 pairs, held by the interval, which is a tick wide."""
    intervals = [invert(Pair(*ticking(seed, tick, 1.05)), [0.5])[0] for seed in range(40)]

    assert sum(one.p_value < 0.05 and one.t < 0 for one in intervals) >= 38
    assert sum(one.low <= 1.05 <= one.high for one in intervals) >= 38
    assert all(one.high - one.low > tick / 0.06 for one in intervals)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.0005, 0.001, 0.01, 0.02]), st.sampled_from([0.95, 1.0, 1.03]))
def test_an_interval_excludes_1_where_its_test_does(seed: int, tick: float, slow: float) -> None:
    """Whatever a clock rounds, interval and p-value agree, and the measured ratio is inside or at 1."""
    for found in invert(Pair(*ticking(seed, tick, slow)), HALF_AND_TAIL):
        assert (found.p_value < 0.05) == (not found.low <= 1 <= found.high)
        assert found.low <= found.ratio <= found.high or found.ratio == 1
        assert found.band_low <= found.low < found.high <= found.band_high


def test_what_has_no_equals_is_left_as_it_is() -> None:
    """Continuous values have no steps, a few equal ones make none; a tick is found to the digit."""
    a, b = arms(29)
    b[:5] = a[:5]
    rounded = Side(np.round(a * 1000) / 1000).steps
    noisy = Side(1e4 + np.round(a, 1) - 1e4).steps

    assert Side(a).steps is None
    assert Side(np.concatenate([a, a[:20]])).steps is None
    assert rounded is None or rounded.tick == pytest.approx(0.001)
    assert noisy is not None
    assert noisy.tick == pytest.approx(0.1)


def test_equal_values_of_a_point_mass_stay_near_it() -> None:
    """Half of the answers take 5 ms to the digit, beside others that do not: no step, no doubt."""
    random = np.random.default_rng(33)
    a, b = (np.where(random.random(2000) < 0.5, 0.005, one + 0.1) for one in arms(31, 2000))

    (found,) = invert(Pair(a, b), [0.4])

    assert found.ratio == 1
    assert found.low <= 1 <= found.high
