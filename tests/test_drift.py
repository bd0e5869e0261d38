"""A ratio by thirds of the trace: where a step lies, what is too little, and its symmetries."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.analysis.mean_ratio import quantile_by_thirds, typical_by_thirds
from tbench.analysis.summary import Floats

SEEDS = st.integers(0, 2**32 - 1)


def arms(seed: int, n: int = 900) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    return random.lognormal(size=n), random.lognormal(size=n)


def test_a_step_is_seen_where_it_is() -> None:
    """The last third of the candidate is twice as slow, all else is equal."""
    a, _ = arms(1)
    b = np.concatenate([a[:600], a[600:] * 2])

    assert quantile_by_thirds(a, b, 0.5) == pytest.approx((1, 1, 2))
    assert typical_by_thirds(a, b) == pytest.approx((1, 1, 2))


def test_a_third_with_too_little_has_none() -> None:
    """p99 takes 368 requests in a third; timeouts hide the p90 of the middle one; failures leave nothing."""
    a, b = arms(2)
    b[300:400] = math.inf

    assert quantile_by_thirds(a, b, 0.99) == (None, None, None)
    assert [one is None for one in quantile_by_thirds(a, b, 0.9)] == [False, True, False]
    b[600:] = math.nan
    assert typical_by_thirds(a, b)[2] is None
    assert quantile_by_thirds(a, b, 0.5)[2] is None


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.01, 100))
def test_swapping_inverts_and_scaling_scales(seed: int, scale: float) -> None:
    """Each third by itself."""
    a, b = arms(seed)
    forth, back = quantile_by_thirds(a, b, 0.9), quantile_by_thirds(b, a, 0.9)
    plain, scaled = typical_by_thirds(a, b), typical_by_thirds(a, b * scale)

    for one, other in zip(forth, back, strict=True):
        assert (one or 0) * (other or 0) == pytest.approx(1, rel=1e-12)
    for one, other in zip(plain, scaled, strict=True):
        assert other == pytest.approx((one or 0) * scale, rel=1e-9)


def test_order_inside_a_third_is_irrelevant() -> None:
    """Shuffling the requests of each third, arm by arm."""
    a, b = arms(3)
    random = np.random.default_rng(4)
    mixed = [np.concatenate([random.permutation(x) for x in np.split(v, 3)]) for v in (a, b)]

    assert quantile_by_thirds(mixed[0], mixed[1], 0.5) == quantile_by_thirds(a, b, 0.5)
