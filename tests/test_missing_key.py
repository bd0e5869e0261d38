"""Without its key a verb ends at the first 401, in a line that names the variable; with it, it works."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.answering import EVENTS, Given, Received, answering, stream
from tests.conftest import Done

SYNTH = ("trace", "synth", "--scenario", "D(5,4)", "--model", "m", "--requests", 8, "--rate", 80)
VARIABLE = "TOGETHER_API_KEY"


def guarded(request: Received) -> Given:
    """Whoever has the key is answered."""
    if request.headers.get("authorization") != "Bearer good":
        return Given([b'{"error":{"message":"no key, no answer"}}'], status=401)
    return Given(stream(), headers=EVENTS)


VERBS = {
    "replay": ("replay", "t.msgpack", "--base-url", "URL", "-o", "out"),
    "ab": (
        *("ab", "t.msgpack", "--repeats", 1, "-o", "out"),
        *("--arm", "name=now,base_url=URL", "--arm", "name=next,base_url=URL"),
    ),
    "benchmark": (
        *("benchmark", "--api-backend", "together", "--api-base", "URL", "--api-model-name", "m"),
        *("--task", "text-to-text", "--max-requests-per-run", 4, "--no-summary"),
        *("--traffic-scenario", "D(5,4)", "--num-concurrency", "1,2"),
        *("--experiment-folder-name", "out"),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_first_401_ends_it_and_leaves_nothing_in_the_way(
    verb: str, tbench: Callable[..., Done]
) -> None:
    assert tbench(*SYNTH, "-o", "t.msgpack").code == 0
    with answering(guarded) as server:
        words = [str(word).replace("URL", server.url) for word in VERBS[verb]]
        keyless = tbench(*words, **{VARIABLE: ""})
        sent = len(server.received)
        again = tbench(*words, **{VARIABLE: "good"})

    assert keyless.code == 5
    assert keyless.out == ""
    assert sent < 8
    *_, last = keyless.err.splitlines()
    assert f"{VARIABLE} is not set" in last
    assert "no key, no answer" in last
    assert keyless.err.count(VARIABLE) == 1
    assert again.code in {0, 3, 4}, again.err  # 3: one run of each arm decides nothing
    assert again.out


def test_a_report_of_such_a_run_is_no_table(tbench: Callable[..., Done], tmp_path: Path) -> None:
    assert tbench(*SYNTH, "-o", "t.msgpack").code == 0
    with answering(guarded) as server:
        words = [str(word).replace("URL", server.url) for word in VERBS["replay"]]
        tbench(*words, **{VARIABLE: ""})
    shown = tbench("report", "out")
    numbers = json.loads(tbench("report", "out", "--json").out)

    assert shown.code == 5
    assert "metric" not in shown.out
    assert "nan" not in shown.out
    assert "no request succeeded" in shown.err
    assert (numbers["completed"], numbers["failed"]) == (0, 1)
