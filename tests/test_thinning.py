"""Thinning keeps what the eye would see: exact places, extremes, areas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tbench.analysis.charts import drawing
from tbench.analysis.summary import Floats

FINITE = st.floats(-1e6, 1e6)
VALUES = hnp.arrays(np.float64, st.integers(0, 400), elements=FINITE)
SPECIAL = hnp.arrays(
    np.float64, st.integers(0, 300), elements=FINITE | st.just(np.nan) | st.just(np.inf)
)


@given(SPECIAL, st.integers(10, 100))
def test_each_kept_place_of_a_curve_is_exact(values: Floats, points: int) -> None:
    """The share at or below x, counted one by one; timeouts count in the whole, absent values do not."""
    steps = drawing.ecdf(values, points)
    there = values[~np.isnan(values)]
    assert len(steps.x) <= points + 1
    for x, y in zip(steps.x, steps.y, strict=True):
        assert y == pytest.approx((there <= x).mean())
    finite = there[np.isfinite(there)]
    if len(finite):
        assert (steps.x[0], steps.x[-1]) == (finite.min(), finite.max())


def test_a_long_tail_keeps_its_detail() -> None:
    """Of a hundred thousand values the hundred slowest still have dozens of places."""
    steps = drawing.ecdf(np.arange(100_000.0))
    assert (steps.x >= 99_900).sum() > 50
    assert np.diff(steps.y).max() < 0.01


@settings(max_examples=60)
@given(VALUES, st.integers(100, 200), st.randoms(use_true_random=False))
def test_a_thinned_scatter_keeps_every_extreme(y: Floats, points: int, random: object) -> None:
    """No more points than asked for, all different, and the ends of both axes among them."""
    x = np.sin(np.arange(len(y)) * 12.9898) * 1000
    kept = drawing.scatter(x, y, points)
    assert len(set(kept.tolist())) == len(kept) <= points
    if len(y):
        assert {y.min(), y.max()} <= set(y[kept])
        assert kept.max() < len(y)


def test_a_thinned_scatter_keeps_the_extremes_of_each_moment() -> None:
    """A single slow request among a million stays visible, whenever it happened."""
    y = np.ones(100_000)
    slow = np.arange(500, 100_000, 9_973)
    y[slow] = 50
    assert set(slow.tolist()) <= set(drawing.scatter(np.arange(100_000.0), y).tolist())


@settings(max_examples=60)
@given(st.integers(101, 400), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_a_thinned_scatter_is_what_its_grid_says(n: int, ties: int, seed: int) -> None:
    """Each cell's first point, and of each column the first of its least and the last of its greatest."""
    random = np.random.default_rng(seed)
    x, y = random.random(n), random.integers(0, ties, n).astype(float)
    columns, rows = 10, 8
    column, row = drawing._cells(x, columns), drawing._cells(y, rows)
    wanted = {
        int(np.flatnonzero((column == c) & (row == r))[0]) for c, r in zip(column, row, strict=True)
    }
    for c in set(column.tolist()):
        own = np.flatnonzero(column == c)
        wanted |= {int(own[y[own] == y[own].min()][0]), int(own[y[own] == y[own].max()][-1])}

    assert drawing.scatter(x, y, 100).tolist() == sorted(wanted)


def test_running_medians_follow_the_values() -> None:
    """The median of each part, at its middle; parts with too few values are left out."""
    x = np.concatenate([np.linspace(0, 1, 500), np.linspace(3, 4, 500)])
    steps = drawing.medians(x, np.where(x < 2, 1.0, 5.0), bins=8)
    assert steps.y.tolist() == [1.0, 1.0, 5.0, 5.0]
    assert steps.x == pytest.approx([0.25, 0.75, 3.25, 3.75])


SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20) | st.none()), min_size=1, max_size=30
)


@given(SPANS, st.integers(1, 20))
def test_requests_in_flight_have_the_area_of_their_spans(
    spans: list[tuple[int, int | None]], bins: int
) -> None:
    """The mean over all parts, and the most of all parts, agree with counting at each instant."""
    sent = np.array([float(start) for start, _ in spans])
    end = np.array([np.nan if length is None else start + float(length) for start, length in spans])
    mean, most = drawing.in_flight(sent, end, bins)
    horizon = np.nanmax(np.append(end, sent))
    closed = np.where(np.isnan(end), horizon, end)
    if horizon == sent.min():
        assert not len(mean.x)
        return
    assert mean.y.mean() * (horizon - sent.min()) == pytest.approx((closed - sent).sum())
    instants = [((sent <= t) & (closed > t)).sum() for t in np.unique(sent)]
    assert most.max() == max(instants)
    assert (most >= mean.y - 1e-9).all()


@pytest.mark.parametrize("sent", [[], [np.nan]])
def test_no_request_is_no_line(sent: list[float]) -> None:
    """Nothing was sent, nothing is drawn."""
    mean, most = drawing.in_flight(np.array(sent), np.array(sent))
    assert (len(mean.x), len(most)) == (0, 0)
