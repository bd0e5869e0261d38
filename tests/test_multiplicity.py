"""The false discovery rate of many comparisons, against scipy and a golden case."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tbench.analysis.inversion import Pair, invert
from tbench.analysis.t_tests import benjamini_hochberg


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
