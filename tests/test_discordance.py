"""McNemar and Newcombe on pairs: golden cases, symmetries, and silence where failures come in bursts."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.analysis.discordance import (
    BURSTY,
    Discordance,
    block_dispersion,
    discordance,
    mcnemar,
    newcombe_paired,
)

CELLS = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda cells: sum(cells) > 0)


@pytest.mark.parametrize(
    ("cells", "difference", "low", "high"),
    [
        ((36, 12, 2, 0), 0.2, 0.0569295840, 0.3404276030),
        ((5, 20, 8, 967), 0.012, 0.0013810921, 0.0236195415),
    ],
)
def test_newcombe_for_pairs(
    cells: tuple[int, int, int, int], difference: float, low: float, high: float
) -> None:
    """Golden case G5b; the interval holds the difference."""
    assert newcombe_paired(*cells) == pytest.approx((low, high), abs=1e-9)
    assert low < difference < high


def test_mcnemar_is_exact() -> None:
    """Golden case G6: 20 against 8, as a fraction; and no discordant pair says nothing."""
    exact = 2 * sum(Fraction(comb(28, k), 2**28) for k in range(9))

    assert mcnemar(20, 8) == pytest.approx(0.03569813817739487, abs=1e-15)
    assert mcnemar(20, 8) == pytest.approx(float(exact), abs=1e-15)
    assert mcnemar(0, 0) == 1


@given(CELLS)
def test_swapping_the_arms_negates_the_interval(cells: tuple[int, int, int, int]) -> None:
    """To the last bit; the p-value stays."""
    both, first, second, neither = cells
    low, high = newcombe_paired(both, first, second, neither)

    assert newcombe_paired(both, second, first, neither) == (-high, -low)
    assert mcnemar(first, second) == mcnemar(second, first)


@given(CELLS)
def test_the_interval_is_one_of_differences(cells: tuple[int, int, int, int]) -> None:
    """Within -1 and 1, around the estimate."""
    both, first, second, neither = cells
    low, high = newcombe_paired(both, first, second, neither)

    assert -1 - 1e-12 <= low <= (first - second) / sum(cells) <= high <= 1 + 1e-12


def found(baseline: list[int], candidate: list[int]) -> Discordance:
    answer = discordance(np.array(baseline, dtype=bool), np.array(candidate, dtype=bool))
    assert answer is not None
    return answer


def test_pairs_are_counted() -> None:
    """Four kinds of pair, by hand."""
    answer = found([1, 1, 0, 0, 0], [1, 0, 1, 1, 0])

    assert (answer.both, answer.baseline_only, answer.candidate_only, answer.neither) == (
        1,
        1,
        2,
        1,
    )
    assert answer.n == 5


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 20.0]))
@settings(max_examples=25, deadline=None)
def test_swapping_the_arms_and_order_inside_a_block(seed: int, burst: float) -> None:
    """The interval negates and all else stays; shuffling the pairs of a block changes nothing."""
    random = np.random.default_rng(seed)
    a, b = failures(random, burst, 640), failures(random, burst, 640)
    places = np.concatenate([random.permutation(x) for x in np.split(np.arange(640), 16)])
    forth, back = discordance(a, b), discordance(b, a)

    assert forth is not None
    assert back is not None
    assert discordance(a[places], b[places]) == forth
    assert (back.dispersion, back.p_value) == pytest.approx((forth.dispersion, forth.p_value))
    if forth.low is not None and forth.high is not None:
        assert (back.low, back.high) == (-forth.high, -forth.low)


def test_no_failure_has_no_dispersion() -> None:
    """Nothing failed: p is 1, the interval is of no failure in n."""
    answer = found([0] * 100, [0] * 100)

    assert (answer.dispersion, answer.p_value, answer.refusal) == (None, 1, None)
    assert answer.low is not None
    assert answer.low < 0
    assert discordance(np.zeros(0, bool), np.zeros(0, bool)) is None


def test_the_dispersion_by_hand() -> None:
    """One failure in each of 16 blocks has none, 16 in one block the most there can be: 16."""
    spread, burst = np.zeros(320), np.zeros(320)
    spread[::20], burst[:16] = 1, 1

    assert block_dispersion(spread) == pytest.approx(0, abs=1e-12)
    assert block_dispersion(burst) == pytest.approx((16**2 - 16) / 15 / (20 * burst.var()))


def failures(random: np.random.Generator, burst: float, n: int = 2000) -> np.ndarray:
    """2 % of requests fail, in bursts of this mean length."""
    failed = np.zeros(n, dtype=bool)
    for start in np.flatnonzero(random.random(n) < 0.02 / burst):
        failed[start : start + random.geometric(1 / burst)] = True
    return failed


def seen(burst: float) -> tuple[int, int, int]:
    """Of 300 pairs of equal arms: how often shown, shown and p < .05, and p < .05 at all."""
    random = np.random.default_rng(8)
    shown = wrong = classic = 0
    for _ in range(300):
        a, b = failures(random, burst), failures(random, burst)
        answer = discordance(a, b)
        assert answer is not None
        shown += answer.refusal is None
        wrong += answer.p_value is not None and answer.p_value < 0.05
        classic += mcnemar(answer.baseline_only, answer.candidate_only) < 0.05
    return shown, wrong, classic


def test_independent_failures_are_tested() -> None:
    """About nine in ten are below the bar, and at most 8 % of all are wrong."""
    shown, wrong, _ = seen(1)

    assert shown > 250
    assert wrong <= 24


def test_bursts_are_not_tested() -> None:
    """Bursts of 20: McNemar alone would be wrong in most, and is nearly never shown."""
    shown, wrong, classic = seen(20)

    assert classic > 150
    assert shown < 30
    assert wrong <= 24
    assert BURSTY == 1.5
