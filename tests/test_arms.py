"""Runs and traces as arms: what a file holds comes back as columns, whichever kind it is."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.analysis.arms import load_arm
from tbench.analysis.metrics import METRICS, values
from tbench.capture.errors import InputError
from tbench.capture.exchange import Chunk, Exchange, Outcome, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_info import Overview
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.metrics import errors
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample
from tbench.replay.totals import shortfalls
from tests.recorded import chat_request

MS = 1_000_000
HEADER = {
    "trace": {"capture_id": "c1"},
    "pacing": {"mode": "speed", "value": 2.0, "meaning": "open loop: twice as fast"},
    "target": {"base_url": "http://127.0.0.1:1/v1"},
}
TOTALS = {"planned": 2, "completed": 1, "failed": 1, "cancelled": 0, "lost_in_flight": 0}


def run_file(path: Path, samples: Iterable[Sample], **header: Any) -> Path:
    writer = RunWriter(path, {**HEADER, **header}, clock=time.monotonic)
    for sample in samples:
        writer.add(sample)
    return writer.close({**TOTALS, "never_sent": 0})


def sample(index: int, **changes: Any) -> Sample:
    given = {"endpoint": "chat", "model": "m", "stream": True, "due": 1.0, "sent": 1.1}
    return Sample(id=f"r{index}", index=index, **{**given, **changes})


def event(delta: str | None, usage: dict[str, int] | None = None) -> bytes:
    choice = {
        "index": 0,
        "delta": {"content": delta} if delta else {},
        "finish_reason": None if delta else "stop",
    }
    return f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n".encode()


def request(number: int, path: str = "/v1/chat/completions", stream: bool = True) -> Request:
    body = json.dumps({"model": "m", "stream": stream, "messages": []}).encode()
    at = (5000 + 100 * number) * MS
    return chat_request(number, at, body, id=f"r{number}", end_ns=at + MS, path=path)


def streamed(asked: Request, *pieces: bytes, **changes: Any) -> Exchange:
    """The pieces arrive 20 ms after the request and then every 10 ms."""
    chunks = tuple(
        Chunk(at_ns=asked.arrive_ns + (20 + 10 * k) * MS, size=len(piece))
        for k, piece in enumerate(pieces)
    )
    given: dict[str, Any] = {
        "head_ns": asked.arrive_ns + 15 * MS,
        "end_ns": asked.arrive_ns + 100 * MS,
        "status": 200,
        "headers": (("content-type", "text/event-stream"),),
        "body": b"".join(pieces),
        "chunks": chunks,
    }
    return Exchange(request=asked, response=Response(**(given | changes)))


def trace_file(path: Path, *exchanges: Exchange) -> Path:
    header = TraceHeader(
        capture_id="c1", wall_ns=1_700_000_000 * 10**9, mono_ns=0, upstream="http://u"
    )
    with TraceWriter(path, header) as writer:
        for exchange in exchanges:
            writer.exchange(exchange)
    return path


USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
ANSWER = (event("a"), event("b"), event("c"), event(None, USAGE) + b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"value": 2.0}, False),
        ({"clones": 2.0}, False),
        ({"ramp": 9.0}, False),
        ({"max_idle": 0.0}, False),
    ],
)
def test_recorded_times_are_those_that_nothing_moved(
    tmp_path: Path, changes: dict[str, float], expected: bool
) -> None:
    pacing = {"mode": "speed", "value": 1.0, "clones": 1.0, "ramp": None, "max_idle": None}
    path = run_file(tmp_path / "a.run", [sample(0)], pacing={**pacing, **changes, "meaning": "m"})

    assert load_arm(path).as_recorded is expected


def test_a_run_file_is_an_arm(tmp_path: Path) -> None:
    """Names, source, pacing and columns, in the order of the plan."""
    failed = sample(1, outcome=Outcome.HTTP_ERROR, status=500, end=1.2)
    path = run_file(tmp_path / "fast.run", [failed, sample(0, first_token=1.5, end=2.0)])

    arm = load_arm(path)

    assert (arm.kind, arm.name, arm.source, arm.model) == ("run", "fast", "c1", "m")
    assert (arm.pacing, arm.as_recorded) == ("open loop: twice as fast", False)
    assert arm.target == "http://127.0.0.1:1/v1"
    assert arm.columns["id"].tolist() == ["r0", "r1"]
    assert (arm.ok.tolist(), arm.failed.tolist()) == ([True, False], [False, True])
    assert arm.open_loop
    assert arm.kinds(np.arange(2)) == {"http_error": 1}


def test_a_trace_is_an_arm(tmp_path: Path) -> None:
    """Token times from the chunks, counts from usage, seconds from the first arrival."""
    path = trace_file(
        tmp_path / "t.msgpack", streamed(request(0), *ANSWER), streamed(request(1), *ANSWER)
    )

    arm = load_arm(path)

    assert (arm.kind, arm.name, arm.source, arm.target) == ("trace", "t", "c1", "http://u")
    assert arm.columns["sent"].tolist() == pytest.approx([0, 0.1])
    measured = {name: values(arm, METRICS[name]).tolist() for name in METRICS}
    assert measured["ttft"] == pytest.approx([0.02, 0.02])
    assert measured["e2e"] == pytest.approx([0.04, 0.04])
    assert measured["tpot"] == pytest.approx([0.01, 0.01])
    assert measured["itl_p95"] == pytest.approx([0.01, 0.01])
    assert measured["prompt_tokens"] == [7, 7]
    assert arm.columns["sent_wall_ns"][1] == 1_700_000_005 * 10**9 + 100 * MS
    assert not arm.open_loop


def test_a_trace_keeps_what_went_wrong(tmp_path: Path) -> None:
    """Transport failures as captured, in-stream errors as the body says, requests without answer."""
    cut = streamed(request(0), ANSWER[0], outcome=Outcome.CUT)
    broken = streamed(request(1), b'data: {"error": {"message": "overloaded"}}\n\n')
    alone = Exchange(request=request(2), response=None)

    arm = load_arm(trace_file(tmp_path / "t.msgpack", cut, broken, alone))

    assert arm.columns["outcome"].tolist() == ["cut", "stream_error", "incomplete"]
    assert arm.failed.tolist() == [True, True, False]


def test_a_client_that_left_is_judged_by_what_it_has_whoever_looks(tmp_path: Path) -> None:
    """Whichever version recorded it: `trace info` and a report of the trace say the same of each."""
    settled = [
        (ANSWER[0], b'data: {"error": {"message": "overloaded"}}\n\n'),
        (ANSWER[0], b"data: {'choices': []}\n\n"),
        ANSWER,
        ANSWER[:2],
    ]
    left = {"outcome": Outcome.CLIENT_ABORT, "error": "the client left"}
    exchanges = [streamed(request(n), *pieces, **left) for n, pieces in enumerate(settled)]
    path = trace_file(tmp_path / "t.msgpack", *exchanges)
    overview, trace = Overview(), read_trace(path)
    for exchange in trace:
        overview.add(exchange)

    arm = load_arm(path)

    words = arm.columns["outcome"].tolist()
    assert words == ["stream_error", "protocol_error", "ok", "client_abort"]
    assert overview.figures(trace)["outcomes"] == dict.fromkeys(words, 1)
    assert "overloaded" in arm.columns["error"].tolist()[0]
    counted = {name: arm.run.totals[name] for name in ("completed", "failed", "cancelled")}
    assert counted == {"completed": 1, "failed": 2, "cancelled": 1}
    assert arm.failed.tolist() == [True, True, False, False]
    assert sum(errors(arm.columns).values()) == counted["failed"]


def test_what_a_trace_lost_is_said_of_it(tmp_path: Path) -> None:
    """A damaged block makes its report INVALID, as it makes a replay; a cut end is said."""
    exchanges = [streamed(request(n), *ANSWER) for n in range(400)]
    path = trace_file(tmp_path / "t.msgpack", *exchanges)
    content = path.read_bytes()
    middle = len(content) // 2
    damaged, cut = tmp_path / "damaged.msgpack", tmp_path / "cut.msgpack"
    damaged.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    cut.write_bytes(content[: middle + 100])

    assert load_arm(path).invalid_because is None
    assert "the trace is damaged (1 damaged block)" in (load_arm(damaged).invalid_because or "")
    assert load_arm(cut).invalid_because is None
    assert "cut short" in " ".join(shortfalls(load_arm(cut).run))


def test_a_trace_leaves_out_what_is_no_inference(tmp_path: Path) -> None:
    """Listing models is not a request to compare; a whole answer has no token times."""
    models = streamed(request(0, "/v1/models"), b"[]")
    body = json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]})
    whole = streamed(
        request(1, stream=False), body.encode(), headers=(("content-type", "application/json"),)
    )

    arm = load_arm(trace_file(tmp_path / "t.msgpack", models, whole))

    assert arm.columns["id"].tolist() == ["r1"]
    assert arm.columns["outcome"].tolist() == ["ok"]
    assert np.isnan(arm.columns["first_token"]).all()


def test_a_body_that_was_not_kept_leaves_its_times(tmp_path: Path) -> None:
    """Without a body there is an end and an outcome, and no token is made up from chunks."""
    bare = streamed(request(0), *ANSWER, body=None)

    arm = load_arm(trace_file(tmp_path / "t.msgpack", bare))

    assert arm.ok.all()
    assert np.isnan(values(arm, METRICS["ttft"])).all()
    assert values(arm, METRICS["e2e"]).tolist() == pytest.approx([0.1])


def test_the_deadline_is_what_timeouts_had_waited(tmp_path: Path) -> None:
    """The shortest wait bounds all of them from below."""
    late = [sample(k, outcome=Outcome.TIMEOUT, end=end) for k, end in enumerate((31.0, 61.0))]

    assert load_arm(run_file(tmp_path / "a.run", late)).timeout_s == pytest.approx(30)
    assert load_arm(run_file(tmp_path / "b.run", [sample(0)])).timeout_s is None


@pytest.mark.parametrize("content", [b"", b"GIF89a, not a run", None])
def test_what_is_neither_run_nor_trace_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """Empty, foreign and missing files: one line that names the file."""
    path = tmp_path / "x.run"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InputError, match=r"x\.run"):
        load_arm(path)


def test_an_arm_knows_which_requests_belong_together(tmp_path: Path) -> None:
    """A run by its column, where a sample has one; a trace by its conversations."""
    run = load_arm(run_file(tmp_path / "a.run", [sample(0, session=4), sample(1)]))
    trace = load_arm(trace_file(tmp_path / "t.msgpack", streamed(request(0)), streamed(request(1))))

    assert run.sessions.tolist() == [4, -1]
    assert trace.sessions.tolist() == [1, 2]
