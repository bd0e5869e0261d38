"""Spreads: values in log buckets, against the values themselves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.replay.spread import STEP, Spread


def spread_of(values: list[float]) -> Spread:
    spread = Spread()
    for value in values:
        spread.add(value)
    return spread


VALUES = st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=200)


@given(VALUES)
def test_sum_and_extremes_are_exact(values: list[float]) -> None:
    found = spread_of(values)

    assert (found.n, found.least, found.most) == (len(values), min(values), max(values))
    assert found.mean == pytest.approx(sum(values) / len(values))


@given(VALUES, st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_quantiles_are_within_two_per_mille(values: list[float], p: float) -> None:
    truth = float(np.quantile(values, p, method="inverted_cdf"))

    assert spread_of(values).quantile(p) == pytest.approx(truth, rel=math.expm1(STEP))


@given(VALUES)
def test_every_value_is_in_its_bin(values: list[float]) -> None:
    """The counts are those that numpy finds between the same edges."""
    bins = spread_of(values).histogram(10)
    edges = [one.low for one in bins] + [bins[-1].high]
    slack = 1e-9  # of a value on an edge
    truth = np.histogram(np.array(values) * (1 + slack), edges)[0]

    assert len(bins) <= 10
    assert sum(one.n for one in bins) == len(values)
    assert np.abs(truth - [one.n for one in bins]).sum() <= 2 * sum(
        any(abs(value / edge - 1) < 1e-6 for edge in edges) for value in values
    )


def test_a_copy_does_not_change() -> None:
    spread = spread_of([1.0])
    before = spread.copy()
    spread.add(2.0)

    assert (before.n, before.quantile(1.0)) == (1, 1.0)
    assert spread.quantile(1.0) == 2.0


def test_nothing_has_no_quantile() -> None:
    assert Spread().quantile(0.5) is None
    assert Spread().mean is None
    assert Spread().histogram(10) == []
