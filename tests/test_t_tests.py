"""Student's and Welch's t on a few numbers, how often they are wrong, and the false discovery rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tbench.analysis.inversion import Pair, invert
from tbench.analysis.t_tests import benjamini_hochberg, difference, level


def test_welch_is_welchs() -> None:
    """Golden case G11: ratio, interval, degrees of freedom."""
    found = difference(
        [math.log(x) for x in (1.0, 1.02, 0.98)], [math.log(x) for x in (1.03, 1.05, 1.04)]
    )

    assert math.exp(found.value) == pytest.approx(1.0401066, abs=1e-6)
    assert found.value / found.se == pytest.approx(3.0688154142, abs=1e-6)
    assert found.df == pytest.approx(2.8774847, abs=1e-6)
    assert math.exp(found.low) == pytest.approx(0.9975469, abs=1e-6)
    assert math.exp(found.high) == pytest.approx(1.0844822, abs=1e-6)
    assert 2 * found.worse(0.0) == pytest.approx(0.0576809, abs=1e-6)


@pytest.mark.parametrize("repeats", [3, 5])
def test_wrong_verdicts_are_rare(repeats: int) -> None:
    """A truth at the margin passes or fails at most as often as said; run offsets of 3 %, four gates."""
    random = np.random.default_rng(1)
    margin, trials = math.log(1.05), 4000
    passes = fails = 0
    for _ in range(trials):
        first, second = random.normal(0, 0.03, repeats), random.normal(margin, 0.03, repeats)
        found = difference(first.tolist(), second.tolist())
        passes += found.most < margin
        fails += found.worse(margin) < 0.05

    assert passes / trials <= 0.06
    assert fails / trials <= 0.06


@given(
    st.lists(st.floats(0.1, 10), min_size=3, max_size=8),
    st.lists(st.floats(0.1, 10), min_size=3, max_size=8),
)
def test_swapping_the_arms_inverts_the_ratio(first: list[float], second: list[float]) -> None:
    """And its interval."""
    there = difference(np.log(first).tolist(), np.log(second).tolist())
    back = difference(np.log(second).tolist(), np.log(first).tolist())

    assert back.value == pytest.approx(-there.value, abs=1e-12)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-9)


def test_a_level_is_students(seed: int = 4) -> None:
    """Mean, interval and one-sided p-value as scipy has them."""
    sample = np.random.default_rng(seed).normal(3, 1, 6)
    found = level(sample.tolist())
    theirs = stats.ttest_1samp(sample, 2.5, alternative="greater")
    ends = stats.ttest_1samp(sample, 0).confidence_interval(0.95)

    assert found.worse(2.5) == pytest.approx(float(theirs.pvalue), rel=1e-9)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)


def test_a_floor_is_the_least_that_a_mean_varies() -> None:
    """Runs that agree by chance do not agree perfectly; a floor below what is seen changes nothing."""
    agreed = difference([0.01] * 3, [0.02] * 3, (9e-6, 16e-6))
    seen = [0.01, 0.03, 0.02], [0.02, 0.05, 0.03]

    assert (agreed.se, agreed.df) == pytest.approx((0.005, 4))
    assert difference(*seen, (1e-9, 1e-9)) == difference(*seen)
    assert level([0.01] * 4, 25e-6).se == pytest.approx(0.005)


def test_turning_the_sign_turns_the_bounds() -> None:
    found = difference([1.0, 2.0, 4.0], [2.0, 3.0, 3.0])

    assert (found.negated.least, found.negated.most) == pytest.approx((-found.most, -found.least))
    assert (found.negated.low, found.negated.high) == pytest.approx((-found.high, -found.low))


def test_golden_case_g9() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_it_is_scipys(p_values: list[float]) -> None:
    wanted = stats.false_discovery_control(p_values, method="bh")

    assert benjamini_hochberg(p_values) == pytest.approx(wanted.tolist())


@pytest.mark.parametrize("factor", [1.0, 1.02, 1.06, 1.2])
def test_the_p_value_agrees_with_the_interval(factor: float) -> None:
    """Below 5 % just where the 95 % interval leaves 1 out."""
    random = np.random.default_rng(8)
    common = random.normal(size=2000) * 0.3
    a, b = (np.exp(common + random.normal(size=2000) * 0.3) for _ in range(2))
    for found in invert(Pair(a, b * factor), [0.1, 0.5, 0.9, 0.95]):
        assert (found.p_value < 0.05) == (not found.low <= 1 <= found.high)
