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
    """10 % slower everywhere: the typical request, and a difference somewhere."""
    found = overall(arms(slow=1.1))

    assert found.geometric is not None
    assert found.geometric.low is not None
    assert found.geometric.high is not None
    assert 1 < found.geometric.low < 1.1 < found.geometric.high
    assert found.omnibus.differs
    assert found.omnibus.tail in {0.9, 0.95, 0.99}
    assert (found.confidence, found.doubts) == ("95%", ())


def test_a_short_or_small_comparison_earns_no_label() -> None:
    """The same floors as for a quantile."""
    assert overall(arms(), span_s=1200.0).doubts == ("20 min of traffic (needs 30 min)",)
    assert overall(arms(900)).confidence == "low"


def test_a_drift_forbids_the_swaps() -> None:
    """A step half-way: no p-value, the reason, and the gap all the same."""
    a, b = arms()
    b[1200:] *= 1.4

    found = overall((a, b))

    assert found.omnibus.p_value is None
    assert found.omnibus.refusal == "SLOW_DRIFT"
    assert (found.confidence, found.doubts) == ("low", ("SLOW_DRIFT",))
    assert found.omnibus.gap < 0


def test_a_drift_is_looked_for_whatever_was_asked() -> None:
    """Asking for one high quantile does not hide that the others drift."""
    a, b = arms()
    b[1200:] *= 1.4

    assert overall((a, b), asked=(0.999,)).omnibus.refusal == "SLOW_DRIFT"


def test_unpaired_arms_have_neither() -> None:
    """No pair, no typical ratio; no common traffic, no swap; the worth is that of the lesser arm."""
    a, b = arms()

    found = overall((a, b[:1500]), paired=False)

    assert found.geometric is None
    assert str(found.omnibus.refusal).startswith("the arms are not paired")
    assert (found.confidence, found.omnibus.p_value) == ("none", None)
    assert found.effective.n == 1500


def test_what_is_negative_is_no_value() -> None:
    """A lag below zero has no ratio; the other requests have."""
    a, b = arms()
    a[::10] -= 100

    assert overall((a, b)).effective.n == 2160
    assert overall((a, b), paired=False).effective.n == 2160


def test_a_tail_that_is_not_allowed_is_not_looked_at() -> None:
    """Of 300 requests only p90 may be compared, of 100 no tail at all."""
    assert overall(arms(300)).omnibus.tail == 0.9
    assert overall(arms(100)).omnibus.tail is None


def test_arms_without_a_common_value_say_so() -> None:
    """Each request failed in one arm or the other."""
    a, b = arms()
    a[::2], b[1::2] = np.nan, np.nan

    found = overall((a, b))

    assert found.geometric is None
    assert found.effective.n == 0
    assert found.omnibus.p_value is not None


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

    assert effective_size(alternating).worth == 1600
    assert effective_size(np.full(50, 0.3)).tau is None
    assert effective_size(np.full(50, 0.3)).worth == 50
