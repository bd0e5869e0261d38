"""Histograms: counts in log buckets, against the values themselves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.histogram import STEP, Histogram


def histogram_of(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


VALUES = st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=200)


@given(VALUES)
def test_sum_and_extremes_are_exact(values: list[float]) -> None:
    histogram = histogram_of(values)

    assert (histogram.n, histogram.least, histogram.most) == (len(values), min(values), max(values))
    assert histogram.mean == pytest.approx(sum(values) / len(values))


@given(VALUES, st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_quantiles_are_within_two_per_mille(values: list[float], p: float) -> None:
    truth = float(np.quantile(values, p, method="inverted_cdf"))

    assert histogram_of(values).quantile(p) == pytest.approx(truth, rel=math.expm1(STEP))


@given(VALUES)
def test_every_value_is_in_its_bin(values: list[float]) -> None:
    """The counts are those that numpy finds between the same edges."""
    bins = histogram_of(values).bins(10)
    edges = [each.low for each in bins] + [bins[-1].high]
    slack = 1e-9  # of a value on an edge
    truth = np.histogram(np.array(values) * (1 + slack), edges)[0]

    assert len(bins) <= 10
    assert sum(each.n for each in bins) == len(values)
    assert np.abs(truth - [each.n for each in bins]).sum() <= 2 * sum(
        any(abs(value / edge - 1) < 1e-6 for edge in edges) for value in values
    )


def test_a_copy_does_not_change() -> None:
    histogram = histogram_of([1.0])
    before = histogram.copy()
    histogram.add(2.0)

    assert (before.n, before.quantile(1.0)) == (1, 1.0)
    assert histogram.quantile(1.0) == 2.0


def test_nothing_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().mean is None
    assert Histogram().bins(10) == []


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_parts_add_up_to_the_whole(parts: list[list[float]]) -> None:
    merged, whole = Histogram(), histogram_of([value for part in parts for value in part])
    for part in parts:
        merged.merge(histogram_of(part))

    assert (merged.n, merged.least, merged.most) == (whole.n, whole.least, whole.most)
    assert merged.total == pytest.approx(whole.total)
    assert merged.bins(10) == whole.bins(10)


def test_zero_and_less_count_as_zero() -> None:
    histogram = histogram_of([0.0, -1.0])

    assert (histogram.n, histogram.quantile(0.5), histogram.quantile(1.0)) == (2, 0.0, 0.0)
