"""Dispersion agrees with numpy's variance over mean, and with what bursts and clocks must give."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.trace_info import Dispersion


def dispersion(arrivals_ns: Iterable[int], window_ns: int) -> float | None:
    counter = Dispersion(window_ns)
    for at_ns in arrivals_ns:
        counter.add(at_ns)
    return counter.index


@given(st.lists(st.integers(0, 10**6), max_size=200), st.integers(1, 10**5))
def test_it_is_the_variance_over_the_mean_of_counts(times: list[int], window: int) -> None:
    """Numpy's histogram of the whole windows from the first arrival on."""
    arrivals = sorted(times)
    got = dispersion(arrivals, window)
    whole = (arrivals[-1] - arrivals[0]) // window if arrivals else 0
    if whole < 2:
        assert got is None
        return
    edges = arrivals[0] + window * np.arange(whole + 1)
    counts = np.histogram([at for at in arrivals if at < edges[-1]], edges)[0]

    assert got == pytest.approx(counts.var() / counts.mean())


def test_a_metronome_has_none() -> None:
    """Equal gaps, equal counts."""
    assert dispersion(range(0, 10**9, 10**6), 10**7) == 0


def test_poisson_traffic_has_one() -> None:
    """Ten thousand windows of ten arrivals each, within five standard errors."""
    times = np.cumsum(np.random.default_rng(1).exponential(1e8, 100_000)).astype(int)

    assert dispersion(map(int, times), 10**9) == pytest.approx(1, abs=5 * (2 / 10_000) ** 0.5)


def test_simultaneous_clones_multiply_it() -> None:
    """Each arrival four times: variance 16-fold, mean 4-fold."""
    times = np.cumsum(np.random.default_rng(2).exponential(1e8, 2_000)).astype(int)
    alone, cloned = (
        dispersion(map(int, times), 10**9),
        dispersion(np.repeat(times, 4).tolist(), 10**9),
    )

    assert alone is not None
    assert cloned == pytest.approx(4 * alone)
