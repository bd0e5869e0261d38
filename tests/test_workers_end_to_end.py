"""Replays by several workers, by workers that die, and to several targets at once, with the simulator."""

import json
import os
import random
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.closing import summary
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.plan import Plan
from tbench.replay.runfile import read_run
from tbench.replay.runner import run_duet, worker_of
from tbench.replay.totals import identity, numbers
from tbench.replay.waiting import FATES
from tbench.replay.workers.messages import share
from tests.conftest import PATIENCE_S, interruptible, until
from tests.recorded import chat_request

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"


def write_trace(
    path: Path, number: int, turns: int = 1, gap_s: float = 0.01, tokens: int = 4
) -> Path:
    """`number` streamed chats in conversations of `turns`, each turn holding the ones before it."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(number):
            talk, turn = seq % (number // turns), seq // (number // turns)
            writer.exchange(_exchange(seq, talk, turn, gap_s, tokens))
    return path


def _exchange(seq: int, talk: int, turn: int, gap_s: float, tokens: int) -> Exchange:
    messages = [{"role": "user", "content": f"conversation {talk}"}]
    for earlier in range(turn):
        messages.append({"role": "assistant", "content": f"answer {talk}.{earlier}"})
        messages.append({"role": "user", "content": f"and then {talk}.{earlier}?"})
    payload = {"model": MODEL, "messages": messages, "stream": True, "max_tokens": tokens}
    body = json.dumps(payload).encode()
    arrive = round(seq * gap_s * 1e9)
    request = chat_request(seq, arrive, body)
    return Exchange(
        request=request, response=Response(head_ns=arrive, end_ns=arrive + 50_000_000, status=200)
    )


def seen(url: str) -> list[str]:
    """The ids of the requests that a simulator saw, in the order of their arrival."""
    with urllib.request.urlopen(f"{url}/_truth", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    rows = [json.loads(line) for line in text.splitlines()] if text[:1] != "[" else json.loads(text)
    return [row["request_id"] for row in rows]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "test-key-0123456789")


@pytest.fixture
def server(simulator: Any) -> str:
    """The session's simulator, with its memory of earlier tests cleared."""
    with urllib.request.urlopen(f"{simulator.url}/_reset", timeout=PATIENCE_S):
        return str(simulator.url)


@pytest.mark.parametrize(
    "pacing", [("--concurrency", 7), ("--speed", 1), ("--concurrency-scale", 1)]
)
def test_three_workers_send_every_request_once(
    pacing: tuple[str, float], server: str, tmp_path: Path, tbench: Callable[..., Any]
) -> None:
    """Into one run, in the order of the plan, with no more in flight than asked for."""
    trace = write_trace(tmp_path / "t.msgpack", 120, turns=3)
    loop = ["--until", "trace"] if pacing[0] == "--concurrency-scale" else []
    command = ["--base-url", server, "--workers", 3, "-o", "o.run", "--json", "--warmup", "none"]
    command += ["--causal", "strict"]  # a turn that waits is due later than scheduled
    done = tbench("replay", trace, *command, *pacing, *loop)
    assert done.ended, done.err
    run = read_run(tmp_path / "o.run")

    assert sorted(seen(server)) == [f"{seq:032x}" for seq in range(120)]
    assert list(run.columns["index"]) == list(range(120))
    assert identity(run).completed == 120
    assert run.totals["workers"] == 3
    assert run.totals["lost_workers"] == []
    if pacing[0] == "--concurrency":
        assert numbers(run)["in_flight"]["max"] <= 7
    if pacing[0] == "--speed":
        assert np.allclose(run.columns["due"], np.arange(120) * 0.01)
        assert (run.columns["sent"] >= run.columns["due"]).all()


def test_a_conversation_stays_with_one_worker(tmp_path: Path) -> None:
    """From its first turn to its last, and the workers share the conversations."""
    trace = read_trace(write_trace(tmp_path / "t.msgpack", 300, turns=3))
    worker = {
        int(planned.exchange.request.id, 16): worker_of(planned.session, 4)
        for planned in Plan(trace=trace)
    }

    for talk in range(100):
        assert worker[talk] == worker[100 + talk] == worker[200 + talk]
    assert set(worker.values()) == {0, 1, 2, 3}


def test_a_worker_has_as_many_conversations_as_places(tmp_path: Path) -> None:
    """Of three places in flight it holds two of, two thirds: else one works alone at the end."""
    trace = read_trace(write_trace(tmp_path / "t.msgpack", 600))
    drawn = [worker_of(planned.session, 2, places=3) for planned in Plan(trace=trace)]

    assert 0.60 < drawn.count(0) / 600 < 0.73
    assert [share(3, worker, 2) for worker in (0, 1)] == [2, 1]


@pytest.fixture
def playing(serve: Callable[..., Any], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A replay with two workers against a slow simulator, in the middle of its sending."""
    url = serve("serve", "--port", "0", "--profile", "slow").url
    trace = write_trace(tmp_path / "t.msgpack", 400, tokens=64)
    command = [
        sys.executable,
        "-m",
        "tbench",
        "replay",
        str(trace),
        "--base-url",
        url,
        "--workers",
        "2",
    ]
    command += ["--concurrency", "20", "-o", "o.run", "--warmup", "none"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=interruptible(), stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(seen(url)) >= 20)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=PATIENCE_S)


def _workers(parent: int) -> list[int]:
    """The worker processes of a replay."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            if int(status.rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return sorted(found)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_is_counted_named_and_hangs_nobody(
    playing: subprocess.Popen[str], tmp_path: Path
) -> None:
    """What it had in flight is lost, what it had not sent never sent; the other goes on; INVALID."""
    killed = _workers(playing.pid)[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in _workers(playing.pid))  # its parent has seen how it ended
    playing.send_signal(signal.SIGINT)
    _, said = playing.communicate(timeout=PATIENCE_S)
    run = read_run(tmp_path / "o.run")

    assert run.totals["lost_workers"] == ["worker 1 was killed by SIGKILL"]
    assert 1 <= run.totals["lost_in_flight"] <= 20  # with what ended in its last tenth of a second
    assert identity(run).planned == 400
    uncounted = run.totals["lost_in_flight"] + run.totals["cancelled"]  # each may be charged
    assert run.totals["cost"]["uncounted"] == uncounted
    assert "worker 1 was killed by SIGKILL" in (numbers(run)["invalid_because"] or "")
    assert playing.returncode == 130, said


def test_what_a_lost_worker_had_counted_is_unknown(
    playing: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Turns, stamps, most in flight went with it: null, where 0 or the others' would be false."""
    for worker in _workers(playing.pid):
        os.kill(worker, signal.SIGKILL)
    playing.communicate(timeout=60)
    run = read_run(tmp_path / "o.run")
    turns, client = run.totals["turns"], run.totals["client"]
    counted = [turns[name] for name in (*FATES, "live")]
    counted += [run.totals["most_in_flight"], client["kernel_stamps"], run.totals["cost"]["waited"]]

    assert counted == [None] * len(counted)
    assert any("what became of them is not known" in line for line in summary(run, numbers(run)))
    assert "unknown: order of turns" in run.fidelity.sentence


def test_a_replay_without_workers_ends_by_itself(
    playing: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Both are killed: exit 4, and every planned request is accounted for."""
    for worker in _workers(playing.pid):
        os.kill(worker, signal.SIGKILL)
    _, said = playing.communicate(timeout=PATIENCE_S)
    run = read_run(tmp_path / "o.run")

    assert playing.returncode == 4, said
    assert len(run.totals["lost_workers"]) == 2
    assert identity(run).planned == 400


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ("parent", signal.SIGINT),
        ("parent, workers", signal.SIGINT),
        ("workers, parent", signal.SIGTERM),
        ("workers, parent", signal.SIGHUP),
    ],
)
def test_what_asks_for_an_end_reaches_every_worker(
    playing: subprocess.Popen[str], tmp_path: Path, told: str, number: signal.Signals
) -> None:
    """Of a terminal to one, of a service manager to all: what is in flight is cancelled, nothing is lost."""
    pids = {"parent": [playing.pid], "workers": _workers(playing.pid)}
    for who in told.split(", "):
        for pid in pids[who]:
            os.kill(pid, number)
    playing.communicate(timeout=PATIENCE_S)
    run = read_run(tmp_path / "o.run")

    assert playing.returncode == 130
    assert run.totals["lost_in_flight"] == 0
    assert 1 <= run.totals["cancelled"] <= 20
    assert identity(run).planned == 400


def test_no_worker_outlives_a_replay_that_is_killed(
    playing: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A kill -9 of the parent ends them amid their sending; what was measured until then can be read."""
    workers, (url,) = _workers(playing.pid), (word for word in playing.args if "://" in word)
    assert len(workers) == 2
    playing.kill()
    playing.communicate(timeout=PATIENCE_S)
    until(lambda: not any(map(_alive, workers)))

    assert len(seen(url)) < 400
    assert not read_run(tmp_path / "o.run.part").complete


def test_a_duet_asks_both_targets_everything_side_by_side(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    """Each run is whole, pairs are sent together, and who is first is drawn anew each time."""
    urls = [serve("serve", "--port", "0", "--profile", "fast").url for _ in range(2)]
    trace = write_trace(tmp_path / "t.msgpack", 200, gap_s=0.02)
    jobs = [
        resolve(ReplayOptions(trace=trace, base_url=url, out=tmp_path / f"{arm}.run"))
        for arm, url in enumerate(urls)
    ]
    first, second = run_duet(jobs, seed=7)
    source = random.Random(7)
    leads = [source.sample(range(2), 2)[0] for _ in range(200)]

    for run, url in zip((first, second), urls, strict=True):
        assert identity(run).completed == 200
        assert sorted(seen(url)) == [f"{seq:032x}" for seq in range(200)]
        assert list(run.columns["index"]) == list(range(200))
    assert np.array_equal(first.columns["due"], second.columns["due"])
    earlier = np.where(first.columns["sent"] < second.columns["sent"], 0, 1)
    at_once = (first.columns["connect"] == 0) & (second.columns["connect"] == 0)
    assert at_once.sum() > 4  # the others waited for a connection
    assert list(earlier[at_once]) == list(np.array(leads)[at_once])
    assert (first.header["duet"], second.header["duet"]) == (
        {"arm": 0, "arms": 2, "seed": 7},
        {"arm": 1, "arms": 2, "seed": 7},
    )
