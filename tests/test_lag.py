"""Lag: a bounded histogram against sorted samples."""

from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.lag import STEP_NS, Lag


@given(
    st.lists(st.integers(-1000, 900_000_000), min_size=1, max_size=200),
    st.sampled_from([0.5, 0.9, 0.99, 1.0]),
)
def test_quantiles_are_within_one_step_of_the_sorted_sample(
    samples: list[int], share: float
) -> None:
    """The smallest sample that at least the share lies at or below, rounded up to a step."""
    lag = Lag()
    for sample in samples:
        lag.add(sample)

    ordered = sorted(max(sample, 0) for sample in samples)
    wanted = next(x for n, x in enumerate(ordered, 1) if n >= share * len(ordered))
    found = lag.quantile(share)

    assert found is not None
    assert wanted - STEP_NS <= found <= wanted + STEP_NS
    assert lag.summary()["loop_lag_max_ns"] == ordered[-1]


def test_without_samples_nothing_is_claimed() -> None:
    """Absent is None, never 0."""
    assert Lag().summary() == {
        "loop_lag_p50_ns": None,
        "loop_lag_p99_ns": None,
        "loop_lag_max_ns": None,
        "loop_lag_samples": 0,
    }


def test_trouble_needs_a_hundred_samples() -> None:
    """One hiccup at the start is not a p99."""
    lag = Lag()
    for _ in range(99):
        lag.add(50_000_000)
    assert not lag.troubling
    lag.add(50_000_000)

    assert lag.troubling
