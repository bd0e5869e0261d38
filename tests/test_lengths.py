"""Which answers are about equally long, from either side."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from analysis.lengths import agree

COUNTS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=50)


def test_ten_per_cent_of_the_shorter_one() -> None:
    """Both ends count; no answer, or a count that is absent, agrees with nothing."""
    first = np.array([100.0, 100, 100, 110, 111, 0, math.nan, 10])
    second = np.array([100.0, 110, 111, 100, 100, 0, 5, 11])

    found, share = agree(first, second)

    assert found.tolist() == [True, True, False, True, False, False, False, True]
    assert share == 4 / 6


@given(COUNTS)
def test_swapping_the_arms_changes_nothing(pairs: list[tuple[int, int]]) -> None:
    """The longer answer is measured against the shorter, whichever it is."""
    first, second = np.array(pairs, dtype=float).T

    assert agree(first, second)[0].tolist() == agree(second, first)[0].tolist()


def test_no_answer_at_all() -> None:
    """A share of nothing is none."""
    assert agree(np.zeros(3), np.zeros(3))[1] == 0
