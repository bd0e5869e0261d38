"""The label-swap test against a brute force and golden case G10, its symmetries, and its error rate."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from tbench.analysis.inversion import Pair
from tbench.analysis.omnibus import Omnibus, joined, omnibus, shares, swaps
from tbench.analysis.summary import Floats

TAILS = (0.9, 0.95, 0.99)
SEEDS = st.integers(0, 2**32 - 1)


def arms(seed: int, n: int = 320, slow: float = 1.0) -> tuple[Floats, Floats]:
    """Two related lognormal arms with a few failures and timeouts."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=n)
    a, b = (np.exp(shared + random.normal(size=n) * 0.5) for _ in "ab")
    a[random.random(n) < 0.01], b[random.random(n) < 0.01] = math.nan, math.inf
    return a, b * slow


def found(a: Floats, b: Floats, tails: tuple[float, ...] = TAILS) -> Omnibus:
    return omnibus(Pair(a, b), tails)


def test_six_blocks_that_all_agree_have_p_one_in_thirty_two() -> None:
    """Golden case G10: the sign flips of six paired blocks, as Wilcoxon's exact test has it."""
    signs = 1 - 2 * swaps(6)
    logs = np.log([1.1, 1.2, 1.3, 1.4, 1.5, 1.6])

    p_values = shares(np.abs(signs @ logs)[:, None])

    assert joined(p_values) == 0.03125
    assert stats.wilcoxon(logs, method="exact").pvalue == 0.03125


@pytest.mark.parametrize("blocks", [4, 8])
def test_arms_that_do_not_overlap_have_the_smallest_p(blocks: int) -> None:
    """Only the real labels and their mirror image separate the arms: 2 of all swaps."""
    a = np.linspace(1, 1.1, 640)

    answer = omnibus(Pair(a, a * 2), (0.9,), blocks=blocks)

    assert answer.p_value == 2 / 2**blocks
    assert answer.gap == -1
    assert answer.tail_ratio == pytest.approx(2)


def test_the_swaps_of_sixteen_blocks_are_a_group() -> None:
    """Any two together are a third one, none less than 4 blocks away: this makes the test exact."""
    found = swaps(16)
    numbers = set((found @ (1 << np.arange(16))).tolist())
    everything = (1 << 16) - 1
    both = numbers | {everything ^ number for number in numbers}

    assert len(found) == len(numbers) == 1024
    assert not found[0].any()
    assert all(one ^ other in both for one in both for other in list(both)[:16])
    assert sorted(set(found[1:].sum(axis=1).tolist())) == [4, 6, 8, 10, 12]


def brute(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The definition: swap the raw values, take scipy's KS and numpy's quantiles."""
    block = np.arange(len(a)) * 16 // len(a)
    gaps, tails = [], []
    for swap in swaps(16).astype(bool):
        x, y = np.where(swap[block], b, a), np.where(swap[block], a, b)
        x, y = x[~np.isnan(x)], y[~np.isnan(y)]
        gaps.append(stats.ks_2samp(x, y, method="asymp").statistic)
        low, high = (np.quantile(v, (0.9, 0.95), method="inverted_cdf") for v in (x, y))
        tails.append(np.abs(np.log(high / low)).max())
    return np.array(gaps), np.array(tails)


@pytest.mark.parametrize("slow", [1.0, 1.2])
def test_it_equals_its_definition(slow: float) -> None:
    """Counting on a grid changes nothing: neither effect sizes nor p-values."""
    a, b = arms(3, slow=slow)
    gaps, tails = brute(a, b)

    answer = found(a, b, (0.9, 0.95))

    assert abs(answer.gap) == pytest.approx(gaps[0], abs=1e-12)
    assert answer.tail_ratio is not None
    assert abs(math.log(answer.tail_ratio)) == pytest.approx(tails[0], abs=1e-12)
    assert answer.gap_p == (gaps >= gaps[0] - 1e-12).mean()
    assert answer.tail_p == (tails >= tails[0] - 1e-12).mean()


def test_the_grid_of_a_large_comparison_is_fine_enough() -> None:
    """At 20,000 requests the gap is within two steps of the grid of scipy's, the tail's ratio exact."""
    a, b = (np.random.default_rng(seed).lognormal(size=20_000) for seed in (1, 2))
    exact = stats.ks_2samp(a, b, method="asymp").statistic
    tails = [np.quantile(v, 0.99, method="inverted_cdf") for v in (a, b)]

    answer = found(a, b, (0.99,))

    assert exact - 2 / 1024 <= abs(answer.gap) <= exact + 1e-12
    assert answer.tail_ratio == pytest.approx(tails[1] / tails[0], rel=1e-3)


def test_the_smaller_p_is_paid_for() -> None:
    """Two statistics, and the joined p is between the smaller one and its double."""
    answer = found(*arms(5, slow=1.1))

    assert answer.gap_p is not None
    assert answer.tail_p is not None
    assert answer.p_value is not None
    least = min(answer.gap_p, answer.tail_p)
    assert least <= answer.p_value <= 2 * least


def test_a_change_of_the_tail_only_is_seen() -> None:
    """The slowest 7 % lie twice as far out: the gap sees nothing, the join does."""
    a, b = (np.random.default_rng(seed).lognormal(sigma=0.5, size=4000) for seed in (1, 2))
    start = np.quantile(b, 0.93)
    b = np.where(b > start, b**2 / start, b)

    answer = found(a, b)

    assert answer.gap_p is not None
    assert answer.gap_p > 0.05
    assert answer.differs


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([1.0, 1.1, 1.5]))
def test_swapping_the_arms_changes_signs_only(seed: int, slow: float) -> None:
    """The gap negates, the tail's ratio inverts, every p-value stays to the last bit."""
    a, b = arms(seed, slow=slow)
    forth, back = asdict(found(a, b)), asdict(found(b, a))

    assert forth.pop("gap") == -back.pop("gap")
    one, other = forth.pop("tail_ratio"), back.pop("tail_ratio")
    assert (one is None and other is None) or one * other == pytest.approx(1, rel=1e-14)
    assert forth == back


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_order_inside_a_block_is_irrelevant(seed: int) -> None:
    """Shuffling the requests of each block, arm by arm, changes nothing."""
    a, b = arms(seed)
    random = np.random.default_rng(seed)
    mixed = [np.concatenate([random.permutation(x) for x in np.split(v, 16)]) for v in (a, b)]

    assert found(mixed[0], mixed[1]) == found(a, b)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.floats(0.01, 100))
def test_another_unit_changes_no_p_value(seed: int, scale: float) -> None:
    """Both arms in milliseconds, say."""
    a, b = arms(seed)
    one, other = found(a, b), found(a * scale, b * scale)

    assert (other.gap, other.p_value) == (one.gap, one.p_value)


def test_equal_arms_do_not_differ() -> None:
    """An arm against itself: no gap anywhere, p is 1."""
    a, _ = arms(1)
    answer = found(a, a.copy())

    assert (answer.gap, answer.gap_at, answer.tail_ratio, answer.p_value) == (0, None, 1, 1)


def test_a_refusal_leaves_the_effect_sizes() -> None:
    """With a reason not to test there is no p-value; the sizes are those of the test."""
    pair = Pair(*arms(7, slow=1.3))
    tested, refused = omnibus(pair, TAILS), omnibus(pair, TAILS, refusal="because")

    assert (refused.p_value, refused.gap_p, refused.tail_p) == (None, None, None)
    assert not refused.differs
    assert (refused.refusal, refused.swaps) == ("because", 1)
    assert (refused.gap, refused.tail_ratio) == (tested.gap, tested.tail_ratio)


def test_a_block_without_values_is_not_swapped() -> None:
    """All requests of one block failed in one arm."""
    a, b = arms(9)
    a[:20] = math.nan

    assert found(a, b).refusal == "a block has 0 values (needs 8)"


def dependent(random: np.random.Generator, n: int) -> Floats:
    """Latencies whose logarithm carries an AR(1) load (.7) of standard deviation .5."""
    steps = random.normal(size=n) * 0.5 * math.sqrt(1 - 0.7**2)
    load, _ = signal.lfilter([1], [1, -0.7], steps, zi=[0.7 * random.normal() * 0.5])
    return np.exp(load + random.normal(size=n) * 0.3)


def test_equal_arms_are_told_apart_in_one_of_twenty() -> None:
    """400 A/A replays with memory: between 2.5 % and 8 %, the 99 % band of 5 %; scipy's KS errs often."""
    random = np.random.default_rng(30)
    swapped = classic = 0
    for _ in range(400):
        a, b = dependent(random, 256), dependent(random, 256)
        swapped += found(a, b, (0.9,)).differs
        classic += stats.ks_2samp(a, b, method="asymp").pvalue < 0.05

    assert 10 <= swapped <= 32
    assert classic > 60
