"""Service level objectives: how they are written, and which requests meet them."""

from typing import Any

import pytest

from tbench.analysis.run_metrics import met, parse_slo
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
