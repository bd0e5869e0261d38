"""Offered load: what a server sees, that counts by itself, is the plan: nothing more, less or other.

When requests arrive is measured in benchmarks/parity.py; no time is asserted here.
"""

import gzip
import json
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.runner import Progress, run_replay
from tests.recorded import chat_request
from tests.recording import Ending, recording_server

REQUESTS = 60


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A trace of chats in bursts of three, and bodies by id: small, large, many scripts, compressed."""
    path, bodies = tmp_path_factory.mktemp("parity") / "t.msgpack", {}
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(REQUESTS):
            text = "Zażółć 🦆 " * (1 if seq % 7 else 3_000)
            content = {"model": "m", "messages": [{"role": "user", "content": f"{seq} {text}"}]}
            body = json.dumps(content, ensure_ascii=bool(seq % 2), indent=seq % 3 or None).encode()
            headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
            if seq % 10 == 9:
                body, headers = gzip.compress(body), (*headers, ("content-encoding", "gzip"))
            at = seq // 3 * 30_000_000
            request = chat_request(
                seq, at, body, path="/v1/chat/completions?a=b%20c", headers=headers
            )
            response = Response(head_ns=at, end_ns=at + 40_000_000, status=200)
            writer.exchange(Exchange(request=request, response=response))
            bodies[request.id] = body
    return path, bodies


CASES: dict[str, tuple[Ending, dict[str, Any]]] = {
    "as recorded": ("keeps", {}),
    "four times as fast": ("keeps", {"speed": 4.0}),
    "poisson": ("keeps", {"poisson": 300.0}),
    "closed loop": ("keeps", {"concurrency": 4}),
    "profile": ("keeps", {"concurrency_scale": 2.0, "until": "trace"}),
    "two rounds": ("keeps", {"speed": 4.0, "loop": 2}),
    "two workers": ("keeps", {"speed": 4.0, "workers": 2}),
    "a server that closes": ("closes", {"speed": 4.0}),
    "a server that hangs up": ("hangs up", {"concurrency": 4}),
    "httpx": ("keeps", {"speed": 4.0, "sender": "httpx"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_server_sees_the_plan(
    case: str, bodies: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    trace, expected = bodies
    ending, pacing = CASES[case]
    with recording_server(ending) as server:
        options = ReplayOptions(
            trace=str(trace), base_url=server.url, out=str(tmp_path / "a.run"), **pacing
        )
        job = resolve(options)
        run = run_replay(job)
    rounds = job.rounds
    digests = Counter({sha256(body).hexdigest(): rounds for body in expected.values()})

    assert len(server.arrivals) == len(run) == rounds * REQUESTS
    assert Counter(arrival.digest for arrival in server.arrivals) == digests
    by_connection = defaultdict(list)
    for arrival in server.arrivals:
        id_, _, cycle = arrival.headers["x-request-id"].partition(".")
        body = expected[id_]
        assert arrival.line == "POST /v1/chat/completions?a=b%20c HTTP/1.1"
        assert arrival.digest == sha256(body).hexdigest()
        assert arrival.headers["content-length"] == str(len(body))
        assert arrival.headers["content-type"] == "application/json"
        assert ("content-encoding" in arrival.headers) == (int(id_, 16) % 10 == 9)
        assert not {"authorization", "transfer-encoding", "expect"} & arrival.headers.keys()
        by_connection[arrival.connection].append((int(cycle or 0), int(id_, 16)))
    assert all(ids == sorted(ids) for ids in by_connection.values())
    if ending != "keeps":
        assert len(by_connection) == len(run)


def test_one_at_a_time_the_order_is_that_of_the_trace(
    bodies: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    """By the server's own stamps; its only connection was used for all."""
    trace, expected = bodies
    with recording_server() as server:
        options = ReplayOptions(
            trace=str(trace), base_url=server.url, out=str(tmp_path / "a.run"), concurrency=1
        )
        run_replay(resolve(options))

    assert [arrival.headers["x-request-id"] for arrival in server.arrivals] == list(expected)
    assert {arrival.connection for arrival in server.arrivals} == {1}


def test_a_server_sees_each_request_of_each_copy_once(
    bodies: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    """Two copies of all, a third of about half; as many as the progress says once all are drawn."""
    trace, expected = bodies
    shown: list[Progress] = []

    async def watch(progress: Progress) -> None:
        shown.append(progress)

    with recording_server() as server:
        options = ReplayOptions(
            trace=str(trace),
            base_url=server.url,
            out=str(tmp_path / "a.run"),
            clones=2.5,
            speed=4.0,
            workers=2,
        )
        run = run_replay(resolve(options), watch)
    copies = defaultdict(set)
    for arrival in server.arrivals:
        id_, _, cycle = arrival.headers["x-request-id"].partition(".")
        copies[int(cycle or 0)].add(id_)

    assert copies[0] == copies[1] == expected.keys()
    assert 0 < len(copies[2]) < REQUESTS
    assert len(server.arrivals) == sum(map(len, copies.values())) == run.totals["planned"]
    assert (shown[0].expected(), shown[0].settled()) == (run.totals["planned"], True)
