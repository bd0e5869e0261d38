"""Sketches against the values themselves: within the stated error, and parts add up to the whole."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tbench.analysis.blocks import FINE, Ints, Side
from tbench.analysis.inversion import Interval, Pair, invert
from tbench.analysis.quantiles import ordered, quantile
from tbench.analysis.sketch import BEYOND, LEAST, RELATIVE_ERROR, Sketch
from tbench.analysis.summary import Floats

POINTS = (0.01, 0.1, 0.5, 0.9, 0.95, 0.99)
WITHIN = 1 + RELATIVE_ERROR
VALUES = hnp.arrays(
    np.float64,
    st.integers(1, 200),
    elements=st.floats(1e-8, 1e9)
    | st.sampled_from([0.0, -3.0, 1e-12, 0.25, 1.0, math.inf, math.nan]),
)


CALM = settings(deadline=None, max_examples=50)
"""No deadline: a sketch of values from a nanosecond to a century takes 16 MB and some milliseconds."""


def blocks_of(values: Floats) -> Ints:
    return np.arange(len(values)) * FINE // max(len(values), 1)


def sketched(values: Floats) -> Sketch:
    sketch = Sketch()
    sketch.add(values, blocks_of(values))
    return sketch


@CALM
@given(VALUES, st.floats(0.001, 0.999))
def test_every_quantile_is_within_the_stated_error(values: Floats, p: float) -> None:
    """Of any values; what is below a nanosecond counts as zero, timeouts come last, NaN is none."""
    exact = ordered(np.where(values < LEAST, np.minimum(values, 0), values))
    sketch = sketched(values)

    assert (sketch.n, sketch.timeouts) == (len(exact), int(np.isinf(exact).sum()))
    if not len(exact):
        return
    wanted, found = max(quantile(exact, p), 0.0), sketch.value(p)
    assert found == wanted or wanted / WITHIN <= found <= wanted * WITHIN


@pytest.mark.parametrize("draw", ["lognormal", "exponential", "pareto", "uniform"])
def test_quantiles_of_known_laws(draw: str) -> None:
    """100,000 values each: the error is far below what is stated."""
    random = np.random.default_rng(7)
    law: Any = {"pareto": lambda size: random.pareto(1.5, size) + 1e-3}.get(draw)
    values = (law or getattr(random, draw))(size=100_000)
    sketch, exact = sketched(values), np.sort(values)

    for p in (*POINTS, 0.999):
        assert sketch.value(p) == pytest.approx(quantile(exact, p), rel=RELATIVE_ERROR)


@CALM
@given(VALUES)
def test_the_ends_are_exact(values: Floats) -> None:
    """The least and the greatest finite value are kept as they are."""
    finite = values[np.isfinite(values)]
    sketch = sketched(values)

    assert sketch.least == finite.min(initial=math.inf)
    assert sketch.most == finite.max(initial=-math.inf)


@CALM
@given(VALUES, st.lists(st.integers(0, 200), max_size=4))
def test_parts_add_up_to_the_whole(values: Floats, cuts: list[int]) -> None:
    """Wherever the values are cut, merging their sketches gives the sketch of one pass."""
    where = blocks_of(values)
    whole = Sketch()
    for some, blocks in zip(
        np.split(values, sorted(cuts)), np.split(where, sorted(cuts)), strict=True
    ):
        part = Sketch()
        part.add(some, blocks)
        whole = whole.merge(part)

    assert whole == sketched(values)


@CALM
@given(VALUES, VALUES, VALUES)
def test_the_order_of_merging_does_not_matter(a: Floats, b: Floats, c: Floats) -> None:
    """Associative and commutative, with nothing as its neutral element."""
    x, y, z = map(sketched, (a, b, c))

    assert x.merge(y).merge(z) == x.merge(y.merge(z))
    assert x.merge(y) == y.merge(x)
    assert x.merge(Sketch()) == x


def test_merging_changes_neither_part() -> None:
    """A part can be merged again, and counts on."""
    x, y = sketched(np.array([1.0, 2.0])), sketched(np.array([64.0]))
    both = x.merge(y)
    both.add(np.array([3.0]), np.array([0]))

    assert (x.n, y.n, both.n) == (2, 1, 4)
    assert x == sketched(np.array([1.0, 2.0]))


def test_sketches_of_other_blocks_do_not_merge() -> None:
    """Nor would their blocks mean the same."""
    with pytest.raises(ValueError, match="32 and 16 blocks"):
        Sketch().merge(Sketch(16))


def test_what_no_metric_can_be_is_refused() -> None:
    """Rather than counted wrong."""
    with pytest.raises(ValueError, match="no metric has one"):
        sketched(np.array([BEYOND]))


def test_memory_is_bounded_by_the_range_not_by_the_number() -> None:
    """A million values from a nanosecond to a century take what their 62 octaves take, and never more."""
    values = np.geomspace(LEAST, BEYOND * 0.999, 1_000_000)
    sketch, once = sketched(values), sketched(values[::1000])

    assert sketch.nbytes == once.nbytes
    assert sketch.nbytes < 62 * 1024 * 32 * 8 + 1024


@CALM
@given(VALUES, st.sampled_from([0.05, 0.5, 0.95]))
def test_tail_blocks_are_those_of_the_values(values: Floats, p: float) -> None:
    """Where no two values share a bucket; which blocks the tail reaches decides whether it is a burst."""
    apart = np.exp2(np.arange(len(values)) % 50 - 20.0)[np.argsort(values, kind="stable")][:50]
    sketch, side = sketched(apart), Side(apart)

    assert sketch.tail_blocks(p) == side.tail_blocks(p)


def arms(n: int, seed: int, ratio: float, wave: float) -> tuple[Floats, Floats]:
    """Two arms with a slow wave of their own, some timeouts, and values that are absent."""
    random = np.random.default_rng(seed)
    found = []
    for factor in (1.0, ratio):
        slow = np.exp(wave * np.cumsum(random.normal(size=n)) / math.sqrt(n))
        values = factor * slow * random.lognormal(-1.5, 0.5, n)
        values[random.random(n) < 0.002] = math.inf
        values[random.random(n) < 0.01] = math.nan
        found.append(values)
    return found[0], found[1]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.9, 1.0, 1.2]), st.sampled_from([0.0, 0.5]))
def test_the_inversion_of_sketches_is_that_of_their_values(
    seed: int, ratio: float, wave: float
) -> None:
    """Estimates lie within the two sketches' errors, ends besides within two hundredths of the width.

    Drifting arms have an end where the test hardly changes, and little moves it far: they are not to be
    relied on either way.
    """
    a, b = arms(20_000, seed, ratio, wave)
    points = (0.1, 0.5, 0.9, 0.95)
    exact = invert(Pair(a, b, paired=False), points)
    found = invert(Pair(sketched(a), sketched(b)), points)

    for one, other in zip(exact, found, strict=True):
        if one.drift or near_a_threshold(one):
            continue
        assert one.blocks == other.blocks
        assert other.ratio == pytest.approx(one.ratio, rel=2.1 * RELATIVE_ERROR, nan_ok=True)
        for wanted, got in ((one.low, other.low), (one.high, other.high)):
            room = 2.1 * RELATIVE_ERROR * wanted + 0.02 * (one.high - one.low)
            assert got == wanted or abs(got - wanted) <= room


def near_a_threshold(found: Interval) -> bool:
    """Whether a little of rho decides the number of blocks."""
    return min(abs(found.rho - 0.20), abs(found.rho - 0.35)) < 0.02
