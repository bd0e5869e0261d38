"""What a run does as a whole, from one whose every number is known; objectives, and who meets them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tbench.analysis.arms import Replicates
from tbench.analysis.pairing import RunView, shared
from tbench.analysis.run_metrics import Figure, endpoint, met, parse_slo
from tbench.capture.errors import InputError


def test_an_slo_is_read_and_written() -> None:
    """Limits in s, ms or us; more is better for tokens per second."""
    slo = parse_slo("ttft<500ms, tpot<50000us,e2e<3s,output_tokens_per_s>20")

    assert [(one.metric, one.limit) for one in slo] == [
        ("ttft", pytest.approx(0.5)),
        ("tpot", pytest.approx(0.05)),
        ("e2e", 3.0),
        ("output_tokens_per_s", 20.0),
    ]
    assert ",".join(one.text for one in slo) == "ttft<500ms,tpot<50ms,e2e<3s,output_tokens_per_s>20"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "write it as"),
        ("ttft", "write it as"),
        ("ttft<500", "500s or 500ms or 500us"),
        ("ttft<0ms", "above 0"),
        ("ttft>500ms", "write <"),
        ("output_tokens_per_s<20", "write >"),
        ("output_tokens<20", "no objective"),
        ("speed<20s", "no objective for speed"),
        ("ttft<1s,ttft<2s", "named twice"),
    ],
)
def test_a_bad_slo_is_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_slo(text)


def test_a_request_meets_all_objectives_or_is_not_good(repeats: Any) -> None:
    """Each of six requests misses one thing but the first; a failure and a timeout are never good."""
    found = repeats.columns(6, 1)
    found["first_token"] = found["sent"] + 0.2
    found["last_token"] = found["end"] = found["first_token"] + 19 * 0.01
    found["first_token"][1] = found["sent"][1] + 0.31
    found["last_token"][2] = found["end"][2] = found["first_token"][2] + 19 * 0.06
    found["end"][3] = found["last_token"][3] = found["sent"][3] + 1.1
    found["outcome"][4], found["outcome"][5] = "timeout", "http_error"

    good = met(repeats.run(found, 0), parse_slo("ttft<300ms,tpot<50ms,e2e<1s"))

    assert good.tolist() == [True, False, False, False, False, False]


def test_nobody_is_held_to_what_he_cannot_have(repeats: Any) -> None:
    """No stream has no first token, one token no time between tokens; a stream without either is not good."""
    found = repeats.columns(4, 1)
    found["stream"][0] = False
    found["first_token"][0] = found["last_token"][0] = float("nan")
    found["output_tokens"][1] = 1
    found["output_tokens"][2] = -1
    found["first_token"][3] = found["last_token"][3] = float("nan")

    good = met(repeats.run(found, 0), parse_slo("ttft<60s,tpot<60s"))

    assert good.tolist() == [True, True, False, False]


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


def test_where_nothing_succeeds_nothing_is_good(observed: Any) -> None:
    """No objective is needed to see it: a share of 0, which a gate can hold against another arm's."""
    broken = observed(outcome=np.full(100, "cut", dtype=object))
    good = endpoint("goodput", None).figure(broken, SLO)

    assert (good.refusal, good.value, good.events) == (None, 0, 0)
    assert endpoint("goodput_per_s", None).figure(broken, SLO).value == 0


def test_a_quantile_is_refused_below_its_least_n(observed: Any) -> None:
    assert endpoint("ttft", 0.5).figure(observed(), ()).value == pytest.approx(0.1)
    assert "needs" in (endpoint("ttft", 0.9).figure(observed(), ()).refusal or "")
