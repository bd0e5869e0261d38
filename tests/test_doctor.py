"""The doctor: its server keeps time and truth, its probes do the arithmetic, its words follow from them."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tbench.capture.errors import InvalidRunError
from tbench.doctor.command import text
from tbench.doctor.examination import (
    RAMP,
    Examination,
    Load,
    ProbeResult,
    examine,
    held,
    limit,
    machine_facts,
    notes,
    probe,
    serving,
)
from tbench.replay.workers.process import module_command, module_environ
from tests.conftest import PATIENCE_S

GOOD = ProbeResult(
    completed=300,
    requests_per_s=990.0,
    of_ideal=0.99,
    ttft_error_s={"p50": 5e-6, "p99": 2e-5},
    lag_s={"p50": 5e-5, "p99": 3e-4},
    cpu_share=0.5,
    waited_share=0.01,
    coalesced_share=0.0,
    server_late_s=0.0002,
    server_share=0.3,
    clock="kernel",
    lost=0,
    failed=0,
    errors={},
    invalid_because=None,
)


def test_the_server_streams_on_time_and_keeps_the_truth() -> None:
    """Whole answers with usage; no event before it is due; first writes by request id."""
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
    assert len(known["late"]) == 5
    assert words[-1] - known["first"]["a"] >= 4 * 20_000_000 - known["late"][0] * 1e9
    assert min(known["late"]) >= 0
    assert 0 <= known["share"] <= 1


def test_waiting_awake_is_no_work_of_the_server() -> None:
    """It does not sleep through the last millisecond before an event; its share is without that."""
    headers = {"x-sim-tokens": "200", "x-sim-itl-ms": "1"}
    with serving() as (url, truth), httpx.Client(base_url=url) as client:
        client.post("/x", headers=headers)
        share = truth()["share"]

    assert share < 0.8


def test_the_server_ends_with_whoever_started_it() -> None:
    """When its standard input closes nobody is there any more."""
    process = subprocess.Popen(
        module_command("tbench.doctor.server"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=module_environ(),
    )
    assert process.stdin and process.stdout
    assert int(process.stdout.readline()) > 0
    process.stdin.close()
    try:
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.stdout.close()


def test_a_probe_is_a_whole_replay_held_against_the_truth(tmp_path: Path) -> None:
    """All requests come back, no faster than the server writes; no stamp is earlier than what it is of."""
    found = probe(Load(requests=60, tokens=5, ttft_ms=20, itl_ms=5, concurrency=10), tmp_path)

    assert (found.lost, found.failed, found.invalid_because) == (0, 0, None)
    assert 0 < found.requests_per_s <= 10 / 0.040
    assert found.of_ideal == pytest.approx(found.requests_per_s * 0.040 / 10)
    assert found.ttft_error_s["p50"] >= 0


def test_a_probe_ends_in_time(tmp_path: Path) -> None:
    """On a machine that does nearly nothing, the others shall have their turn."""
    load = Load(requests=500, tokens=2, ttft_ms=50, itl_ms=50, concurrency=2, most_s=0.5)
    found = probe(load, tmp_path)

    assert 0 < found.completed < 500
    assert (found.lost, found.failed) == (0, 0)


SLOW = replace(GOOD, of_ideal=0.9)


@pytest.mark.parametrize(
    "found",
    [
        SLOW,
        replace(GOOD, ttft_error_s={"p50": 0.1, "p99": 0.2}),
        replace(GOOD, lag_s={"p50": 0.1, "p99": 0.2}),
        replace(GOOD, lost=1),
        replace(GOOD, failed=1),
        replace(GOOD, invalid_because="this client sent late"),
    ],
)
def test_what_was_not_held(found: ProbeResult) -> None:
    """The rate, the stamps, the due times, everything back, and a valid run: all of it."""
    assert held(GOOD)
    assert not held(found)


@pytest.mark.parametrize(
    ("found", "who", "why", "cure"),
    [
        (replace(SLOW, cpu_share=0.95), "client", "95% of a core", "--workers"),
        (replace(SLOW, server_share=0.97), "server", "97% of a core", "the client may hold more"),
        (
            replace(SLOW, server_share=0.97, cpu_share=0.97),
            "server",
            "97% of a core",
            "benchmarks/",
        ),
        (
            replace(SLOW, waited_share=0.3),
            "machine",
            "waited 30% of the time",
            "stop what else",
        ),
        (replace(SLOW, server_late_s=0.02), "machine", "20 ms late", "more cores"),
        (replace(SLOW, lost=1, failed=2), "machine", "3 requests came to nothing", "limits above"),
        (replace(GOOD, failed=2, errors={"reset": 2}), "machine", "(2 reset)", "limits above"),
        (replace(GOOD, invalid_because="it sent late"), "client", "it sent late", "--workers"),
        (SLOW, "client", "nothing else was busy", "ask for less"),
        (replace(SLOW, server_share=None, cpu_share=None, waited_share=None), "client", "", "less"),
    ],
)
def test_who_was_the_limit(found: ProbeResult, who: str, why: str, cure: str) -> None:
    """The server before the client, as it is ours; each with its sign and its cure."""
    said = limit(found)

    assert said.who == who
    assert why in said.why
    assert cure in said.cure
    assert str(said).startswith("limited by the ")


def test_the_text_names_a_limit_in_each_line_that_has_one() -> None:
    """The largest step that was held; notes on what makes figures low."""
    facts = {**machine_facts(), "usable_cores": 1.0}
    steps = [(100, GOOD), (200, GOOD), (500, replace(SLOW, cpu_share=0.96))]
    paced = replace(GOOD, lag_s={"p50": 1.0, "p99": 1.0}, waited_share=0.5, clock="user")
    found = Examination(
        facts=facts, flat_out=GOOD, paced=paced, steps=steps, took_s=9.0, untried="too few ports"
    )
    lines = dict(line.split(maxsplit=1) for line in text(found))  # the last line of each kind

    assert found.holds == found.as_json()["holds_streams"] == 200
    assert lines["holds"] == "200 streams"
    assert "holds     not known" in "\n".join(text(replace(found, steps=[])))
    assert "limited by the client: nothing else" in lines["flat"]
    assert "limited by the machine: its cores were busy" in lines["pacing"]
    assert "limited by the machine: its kernel stamps nothing" in lines["stamps"]
    assert "limited by the machine: too few ports" in lines["streams"]
    assert "one core" in lines["note"]
    assert [one["limited_by"] is None for one in found.as_json()["streams"]] == [True, True, False]
    assert found.as_json()["streams"][2]["limited_by"]["who"] == "client"
    assert list(notes({"usable_cores": 4, "load_average": 3.0}))
    assert not list(notes({"usable_cores": 4, "load_average": 1.0}))


def test_the_ramp_goes_on_to_2000_streams_while_they_are_held() -> None:
    """Every step once; the first that is not held is the last."""
    said: list[str] = []
    found = examine(1, said.append, lambda _load, _folder, _workers: GOOD)

    def up_to_500(load: Load, _folder: Path, _workers: int) -> ProbeResult:
        return SLOW if (load.concurrency or 0) >= 500 else GOOD

    assert [number for number, _ in found.steps] == list(RAMP) == [100, 200, 500, 1000, 2000]
    assert found.holds == 2000
    assert said[-1] == "streams: 2,000 at 50 tokens/s"
    assert [number for number, _ in examine(1, said.append, up_to_500).steps] == [100, 200, 500]


def test_when_nothing_comes_back_there_are_no_figures() -> None:
    """Exit code 4, and a line that says what became of the requests."""
    nothing = replace(GOOD, completed=0, failed=8000, errors={"connect_error": 8000})

    with pytest.raises(
        InvalidRunError, match=r"8,000 requests .* \(8,000 connect_error\)"
    ) as error:
        examine(1, lambda _: None, lambda _load, _folder, _workers: nothing)
    assert error.value.exit_code == 4
