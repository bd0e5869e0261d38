"""Endpoints: what a run's figure is, from a run whose every number is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tbench.analysis.arms import Replicates
from tbench.analysis.pairing import RunView, shared
from tbench.analysis.run_metrics import Figure, endpoint, parse_slo

SLO = parse_slo("ttft<300ms")


@pytest.fixture
def observed(repeats: Any) -> Any:
    """A run of 100 requests in 20 s, the first ten warm-up; seven of the rest failed, nine were slow."""
    found = repeats.columns(100, 1)
    found["due"] = found["sent"] = np.arange(100) * 0.2
    found["first_token"] = found["sent"] + 0.1
    found["end"] = found["last_token"] = found["sent"] + 0.2
    found["warmup"][:10] = True
    found["outcome"][10:17] = "http_error"
    found["first_token"][20:29] += 0.5
    found["output_tokens"] = np.full(100, 20)

    def make(**changes: Any) -> RunView:
        for name, value in changes.items():
            found[name] = value
        arm = Replicates(name="A", runs=(repeats.run(found, 0),))
        return shared([arm]).groups[0].runs[0]

    return make


def test_shares_are_of_the_requests_that_count(observed: Any) -> None:
    """90 are not warm-up; somebody else ended two of them, which are neither good nor bad."""
    run = observed()
    failed = endpoint("errors", None).figure(run, ())
    assert replace(failed, clumps=None) == Figure(value=7 / 90, n=90, events=7)
    good = endpoint("goodput", None).figure(run, SLO)
    assert replace(good, clumps=None) == Figure(value=74 / 90, n=90, events=74)

    run.arm.columns["outcome"][30:32] = "cancelled"
    stopped = observed()
    assert endpoint("errors", None).figure(stopped, ()).n == 88
    assert endpoint("goodput", None).figure(stopped, SLO).value == pytest.approx(72 / 88)


def test_rates_are_over_the_wall_time_of_what_counts(observed: Any) -> None:
    """From the first that counts, sent at 2 s, to the last end at 20 s: 83 successes, 74 of them good."""
    run = observed()

    assert endpoint("requests_per_s", None).figure(run, ()).value == pytest.approx(83 / 18)
    assert endpoint("goodput_per_s", None).figure(run, SLO).value == pytest.approx(74 / 18)
    assert endpoint("output_tokens_per_s", None).figure(run, ()).value == pytest.approx(
        83 * 20 / 18
    )


def test_tokens_that_nobody_counted_are_not_none(observed: Any) -> None:
    """A rate without them would be too low; an embedding has none to count."""
    tokens = np.full(100, 20)
    tokens[50] = -1
    refused = endpoint("output_tokens_per_s", None).figure(observed(output_tokens=tokens), ())
    words = np.full(100, "chat", dtype=object)
    words[50] = "embeddings"
    fine = endpoint("output_tokens_per_s", None).figure(observed(endpoint=words), ())

    assert refused.refusal == "1 of a run's 83 successes have no token count by the server"
    assert fine.value == pytest.approx(82 * 20 / 18)


def test_an_objective_that_no_request_has_is_refused(observed: Any) -> None:
    """All would meet it."""
    nothing = observed(stream=np.zeros(100, bool), first_token=np.full(100, np.nan))

    assert endpoint("goodput", None).figure(nothing, SLO).refusal == "a run has no ttft at all"


def test_a_quantile_is_refused_below_its_least_n(observed: Any) -> None:
    assert endpoint("ttft", 0.5).figure(observed(), ()).value == pytest.approx(0.1)
    assert "needs" in (endpoint("ttft", 0.9).figure(observed(), ()).refusal or "")
