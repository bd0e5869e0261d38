"""What is said of a metric as a whole: its label, its refusals, and what the requests are worth."""

from typing import Any

import numpy as np
import pytest

from tbench.analysis.contrast import Contrast
from tbench.analysis.mean_ratio import Overall, effective_size
from tbench.analysis.metrics import METRICS
from tbench.analysis.summary import Floats


def arms(n: int = 2400, slow: float = 1.0) -> tuple[Floats, Floats]:
    random, shared = np.random.default_rng(1), np.random.default_rng(2).normal(size=n)
    a, b = (np.exp(shared * 0.4 + random.normal(size=n) * 0.2) for _ in "ab")
    return a, b * slow


def overall(values: tuple[Floats, Floats], **changes: Any) -> Overall:
    given: dict[str, Any] = {
        "metric": METRICS["ttft"],
        "paired": True,
        "asked": (),
        "span_s": 3600.0,
        "timeouts_s": (None, None),
    }
    return Contrast(values=values, **(given | changes)).overall()


def test_a_slower_candidate_is_seen_as_a_whole() -> None:
    """10 % slower everywhere: so is the typical request."""
    found = overall(arms(slow=1.1))

    assert found.geometric is not None
    assert found.geometric.low is not None
    assert found.geometric.high is not None
    assert 1 < found.geometric.low < 1.1 < found.geometric.high
    assert (found.confidence, found.doubts) == ("95%", ())


def test_a_short_or_small_comparison_earns_no_label() -> None:
    """The same floors as for a quantile."""
    assert overall(arms(), span_s=1200.0).doubts == ("20 min of traffic (needs 30 min)",)
    assert overall(arms(900)).confidence == "low"


def test_a_drift_costs_the_label() -> None:
    """A step half-way: the ratio is shown with low confidence, and by thirds."""
    a, b = arms()
    b[1200:] *= 1.4

    drifting = overall((a, b))

    assert (drifting.confidence, drifting.doubts) == ("low", ("SLOW_DRIFT",))
    assert drifting.thirds is not None
    first, _, last = drifting.thirds
    assert last / first == pytest.approx(1.4, rel=0.05)


def test_unpaired_arms_have_no_typical_ratio() -> None:
    """No pair, no ratio; the worth is that of the lesser arm."""
    a, b = arms()

    found = overall((a, b[:1500]), paired=False)

    assert found.geometric is None
    assert found.confidence == "none"
    assert found.effective.n == 1500


def test_what_is_negative_is_no_value() -> None:
    """A lag below zero has no ratio; the other requests have."""
    a, b = arms()
    a[::10] -= 100

    assert overall((a, b)).effective.n == 2160
    assert overall((a, b), paired=False).effective.n == 2160


def test_arms_without_a_common_value_say_so() -> None:
    """Each request failed in one arm or the other."""
    a, b = arms()
    a[::2], b[1::2] = np.nan, np.nan

    found = overall((a, b))

    assert found.geometric is None
    assert found.effective.n == 0
    assert found.confidence == "none"


def test_independent_requests_are_worth_their_number() -> None:
    """The mean of tau over 200 series is 1 within five standard errors."""
    random = np.random.default_rng(3)
    taus = [effective_size(random.normal(size=1600)).tau or 0.0 for _ in range(200)]

    assert np.mean(taus) == pytest.approx(1, abs=5 * np.std(taus) / 200**0.5)


def test_tau_is_the_variance_of_block_means() -> None:
    """Its definition, where 16 blocks are chosen; and every request k times over is worth 1/k."""
    random = np.random.default_rng(4)
    series = random.normal(size=1600)
    means = series.reshape(16, 100).mean(axis=1)

    assert effective_size(series).tau == pytest.approx(100 * means.var(ddof=1) / series.var())
    repeated = [effective_size(np.repeat(random.normal(size=400), 5)).tau or 0 for _ in range(200)]
    assert np.mean(repeated) == pytest.approx(5, abs=5 * np.std(repeated) / 200**0.5)


def test_worth_is_never_more_than_n() -> None:
    """Luck makes tau less than 1; a constant series has none."""
    alternating = np.tile([1.0, -1.0], 800)

    assert effective_size(alternating).n_eff == 1600
    assert effective_size(np.full(50, 0.3)).tau is None
    assert effective_size(np.full(50, 0.3)).n_eff == 50
