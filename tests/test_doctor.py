"""The doctor: its server keeps time and truth, its probes do the arithmetic, its words follow from them."""

import itertools
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from replay.doctor.examination import Examination, limit, text
from replay.doctor.facts import machine_facts, notes
from replay.doctor.probes import Found, Load, probe, serving
from replay.kin import kin_command, kin_environ

GOOD = Found(
    requests_per_s=990.0,
    of_ideal=0.99,
    ttft_error_s={"p50": 5e-6, "p99": 2e-5},
    lag_s={"p50": 5e-5, "p99": 3e-4},
    cpu_share=0.5,
    coalesced_share=0.0,
    server_late_s=0.0002,
    clock="kernel",
    lost=0,
    failed=0,
    invalid_because=None,
)


def test_the_server_streams_on_time_and_keeps_the_truth() -> None:
    """Whole answers with usage; events as far apart as asked for; first writes by request id."""
    with serving() as (url, truth), httpx.Client(base_url=url) as client:
        headers = {"x-sim-tokens": "5", "x-sim-ttft-ms": "50", "x-sim-itl-ms": "20"}
        before = time.time_ns()
        with client.stream("POST", "/x", headers={**headers, "x-request-id": "a"}) as answer:
            events = [(time.time_ns(), line) for line in answer.iter_lines() if line]
        known = truth()
    payloads = [json.loads(line[6:]) for _, line in events[:-1]]
    words = [at for (at, _), one in zip(events, payloads, strict=False) if "content" in str(one)]

    assert events[-1][1] == "data: [DONE]"
    assert len(words) == 5
    assert payloads[-1]["usage"]["completion_tokens"] == 5
    assert before + 50_000_000 <= known["first"]["a"] <= words[0]
    assert all(b - a > 5_000_000 for a, b in itertools.pairwise(words))
    assert len(known["late"]) == 5
    assert min(known["late"]) >= 0


def test_the_server_ends_with_whoever_started_it() -> None:
    """When its standard input closes nobody is there any more."""
    process = subprocess.Popen(
        kin_command("replay.doctor.server"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=kin_environ(),
    )
    assert process.stdin and process.stdout
    assert int(process.stdout.readline()) > 0
    process.stdin.close()
    try:
        assert process.wait(10) == 0
    finally:
        process.stdout.close()


def test_a_probe_is_a_whole_replay_held_against_the_truth(tmp_path: Path) -> None:
    """All requests come back; the stamps are later than the server's writes, and by less than 50 ms."""
    found = probe(Load(requests=60, tokens=5, ttft_ms=20, itl_ms=5, concurrency=10), tmp_path)

    assert (found.lost, found.failed, found.invalid_because) == (0, 0, None)
    assert 0 < found.requests_per_s <= 10 / 0.040
    assert found.of_ideal == pytest.approx(found.requests_per_s * 0.040 / 10)
    assert 0 <= found.ttft_error_s["p50"] < 0.05


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (GOOD, None),
        (replace(GOOD, of_ideal=0.9), "the client"),
        (replace(GOOD, ttft_error_s={"p50": 0.1, "p99": 0.2}), "the exactness"),
        (replace(GOOD, of_ideal=0.9, server_late_s=0.02), "own server"),
        (replace(GOOD, lost=1, failed=2), "3 requests came to nothing"),
        (replace(GOOD, invalid_because="this client sent late"), "sent late"),
    ],
)
def test_what_limited_a_step(found: Found, words: str | None) -> None:
    """The client, its stamps, or the server, which is not the client's fault."""
    said = limit(found)

    assert (said is None) == (words is None)
    assert words is None or words in (said or "")


def test_the_text_and_what_holds() -> None:
    """The largest step that was held; notes on what makes figures low."""
    facts = {**machine_facts(), "usable_cores": 1.0}
    steps = [(100, GOOD), (200, GOOD), (500, replace(GOOD, of_ideal=0.5))]
    found = Examination(facts=facts, flat_out=GOOD, paced=GOOD, steps=steps, took_s=9.0)
    said = "\n".join(text(found))

    assert found.holds == found.as_json()["holds_streams"] == 200
    assert "holds     200 streams" in said
    assert "limited by the client" in said
    assert "one core" in said
    assert list(notes({"usable_cores": 4, "load_average": 3.0}))
    assert not list(notes({"usable_cores": 4, "load_average": 1.0}))
