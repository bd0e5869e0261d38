"""import(export(x)): of whatever traffic, each format gives back all that it can hold."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture.exchange import Chunk, Exchange, Outcome, Request, Response
from tbench.capture.exporters import EXPORTERS
from tbench.capture.exporters.exporter import Job, Record, export
from tbench.capture.filters import Filter
from tbench.capture.importers.conversion import resolve, survey, write
from tbench.capture.records import TraceHeader
from tbench.capture.synthesis.tokens import calibrated
from tbench.capture.trace_reader import Trace, read_trace
from tbench.capture.trace_writer import TraceWriter

WALL = 1_767_225_600_000_000_000
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30)
NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,11}", fullmatch=True)
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": WORDS})
TURNS = st.lists(TURN, min_size=1, max_size=3)
CALL = st.builds(
    lambda name, value: {"id": f"call_{name}", "type": "function", "function": {
        "name": name, "arguments": json.dumps({"a": value})}},
    NAMES, st.integers(-9, 9) | WORDS,
)  # fmt: skip


UNANSWERED = [
    Outcome.RESET,
    Outcome.CONNECT_ERROR,
    Outcome.TIMEOUT,
    Outcome.CLIENT_ABORT,
    Outcome.HTTP_ERROR,
]
BROKEN = [
    Outcome.CUT,
    Outcome.TIMEOUT,
    Outcome.CLIENT_ABORT,
    Outcome.PROXY_SHUTDOWN,
    Outcome.STREAM_ERROR,
    Outcome.PROTOCOL_ERROR,
]


def broken_off(draw: st.DrawFn, arrive: int) -> Response:
    """No answer, or the beginning of a stream: whoever ended it."""
    first = arrive + draw(st.integers(1, 10**9))
    end = first + draw(st.integers(1, 10**9))
    if draw(st.booleans()):
        return Response(
            head_ns=None,
            end_ns=end,
            status=None,
            outcome=draw(st.sampled_from(UNANSWERED)),
            error="no luck",
        )
    usage = {
        "prompt_tokens": draw(st.integers(1, 900)),
        "completion_tokens": draw(st.integers(1, 99)),
    }
    events = [
        {"choices": [{"index": 0, "delta": {"content": draw(WORDS)}}], "usage": usage}
        for _ in range(2)
    ]
    pieces = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    outcome = draw(st.sampled_from(BROKEN))
    if outcome is Outcome.STREAM_ERROR:
        pieces[1] = b'data: {"error": {"message": "overloaded"}}\n\n'
    return Response(
        head_ns=first, end_ns=end, status=200, headers=(("content-type", "text/event-stream"),),
        body=b"".join(pieces), body_bytes=sum(map(len, pieces)), outcome=outcome,
        chunks=(Chunk(first, len(pieces[0])), Chunk(end, len(pieces[1]))),
    )  # fmt: skip


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """A chat, plain or with tools, answered whole, refused, or broken off by somebody; times in ns."""
    number = draw(st.integers(0, 10**6))
    arrive = draw(st.integers(0, 3600 * 10**9))
    payload: dict[str, Any] = {"model": draw(NAMES), "messages": draw(TURNS)}
    if draw(st.booleans()):
        payload |= {"max_tokens": draw(st.integers(1, 999)), "temperature": 0.5}
    broken = draw(st.integers(0, 2)) == 0
    if broken:
        payload["stream"] = True
    body = json.dumps(payload, ensure_ascii=draw(st.booleans())).encode()
    request = Request(
        id=f"r{number}", seq=number, arrive_ns=arrive, end_ns=arrive, method="POST", scheme="https",
        host="api.example", path="/v1/chat/completions",
        headers=(("content-type", "application/json"), ("x-session-id", draw(NAMES))),
        body=body, body_bytes=len(body),
    )  # fmt: skip
    if broken:
        return Exchange(request=request, response=broken_off(draw, arrive))
    refused = draw(st.booleans())
    message: dict[str, Any] = {"role": "assistant", "content": draw(WORDS)}
    if calls := draw(st.lists(CALL, max_size=2)):
        message["tool_calls"] = calls
    told = {"error": {"message": "slow down"}} if refused else {
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": draw(st.integers(1, 900)), "completion_tokens": draw(st.integers(1, 99))},
    }  # fmt: skip
    answer = json.dumps(told).encode()
    end = arrive + draw(st.integers(2, 10**10))
    response = Response(
        head_ns=end, end_ns=end, status=draw(st.sampled_from([429, 500, 503])) if refused else 200,
        headers=(("content-type", "application/json"),), body=answer, body_bytes=len(answer),
        chunks=(Chunk(end, len(answer)),), outcome=Outcome.HTTP_ERROR if refused else Outcome.OK,
    )  # fmt: skip
    return Exchange(request=request, response=response)


TRAFFIC = st.lists(
    exchanges(), min_size=1, max_size=4, unique_by=lambda each: each.request.arrive_ns
)


def records(trace: Trace) -> list[Record]:
    return list(Job(trace=trace, wanted=Filter(), block_tokens=512).records())


def again(traffic: list[Exchange], name: str, *fields: str) -> tuple[list[Record], list[Record]]:
    """What went into a file of this format, by arrival, and what comes out of it."""
    with tempfile.TemporaryDirectory() as folder:
        first, file, back = (Path(folder) / each for each in ("a.msgpack", "x", "b.msgpack"))
        with TraceWriter(first, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
            for each in sorted(traffic, key=lambda each: each.request.arrive_ns):
                writer.exchange(each)
        trace = read_trace(first)
        export(EXPORTERS[name], Job(trace=trace, wanted=Filter(), block_tokens=16), file)
        job = resolve([file], tokens=calibrated(4), model="m", fields=fields, block_tokens=16)
        write(job, survey(job, lambda *_: None), back, lambda *_: None)
        return records(trace), records(read_trace(back))


def held(what: Callable[[Record], Any], *sides: list[Record]) -> None:
    """That both sides are the same in this."""
    before, after = ([what(record) for record in side] for side in sides)
    assert after == before


def bodies(record: Record) -> Any:
    return record.payload


def spent(record: Record) -> Any:
    return record.facts.usage[:2]


def lasted(record: Record) -> int | None:
    return record.response and record.response.end_ns - record.request.arrive_ns


def outcome(record: Record) -> str:
    return record.facts.outcome


def said(record: Record) -> str | None:
    answer = record.facts.answer
    return answer.text or None if answer else None


def status(record: Record) -> int | None:
    return record.response and record.response.status


TIMES = 12


@settings(max_examples=TIMES, deadline=None)
@given(traffic=TRAFFIC)
def test_openai_batch(traffic: list[Exchange]) -> None:
    sides = again(traffic, "openai-batch")
    held(bodies, *sides)
    held(lambda record: (record.request.method, record.request.path), *sides)


@settings(max_examples=TIMES, deadline=None)
@given(traffic=TRAFFIC)
def test_evalscope(traffic: list[Exchange]) -> None:
    """Bodies, and arrivals as far as a float of seconds goes; the output tokens of whole answers."""
    sides = again(
        traffic, "evalscope", "body=body", "arrival=timestamp:s", "output_tokens=completion_tokens"
    )
    held(bodies, *sides)
    off = [a.arrival_ns - b.arrival_ns for a, b in zip(*sides, strict=True)]
    assert max(map(abs, off)) < 1000
    held(lambda record: spent(record)[1], *sides)


@settings(max_examples=TIMES, deadline=None)
@given(traffic=TRAFFIC)
def test_mooncake(traffic: list[Exchange]) -> None:
    """Lengths, and milliseconds from the first arrival, of what a server counted."""
    if not any(each.response and each.response.outcome is Outcome.OK for each in traffic):
        return
    before, after = again(traffic, "mooncake")
    counted = [record for record in before if spent(record)[0]]
    held(spent, counted, after)
    first = before[0].arrival_ns
    assert [record.request.arrive_ns for record in after] == [
        (record.arrival_ns - first) // 10**6 * 10**6
        - ((counted[0].arrival_ns - first) // 10**6 * 10**6)
        for record in counted
    ]


@settings(max_examples=TIMES, deadline=None)
@given(traffic=TRAFFIC)
def test_otlp(traffic: list[Exchange]) -> None:
    """Times to the ns, messages, settings, tokens, what was answered and called, how it ended, sessions."""
    sides = again(traffic, "otlp")
    held(lambda record: record.arrival_ns, *sides)
    held(lasted, *sides)
    held(status, *sides)
    held(outcome, *sides)
    held(said, *sides)
    held(lambda record: round((record.facts.ttft or 0) * 1e9) if said(record) else None, *sides)
    held(lambda record: record.facts.parsed.messages, *sides)
    held(lambda record: (record.payload or {}).get("max_tokens"), *sides)
    held(lambda record: record.facts.parsed.info.model, *sides)
    ok = [[record for record in side if said(record)] for side in sides]
    reasons = [
        [record.facts.answer.finish_reasons for record in side if record.facts.answer]
        for side in ok
    ]
    assert reasons[0] == reasons[1]
    held(spent, *ok)
    held(lambda record: record.facts.answer and record.facts.answer.text, *ok)
    held(lambda record: record.facts.answer and record.facts.answer.tool_calls, *ok)
    names = [[record.request.header("x-session-id") for record in side] for side in sides]
    alike = [[first == second for first in side for second in side] for side in names]
    assert alike[0] == alike[1]


@settings(max_examples=TIMES, deadline=None)
@given(traffic=TRAFFIC)
def test_har(traffic: list[Exchange]) -> None:
    """Every byte of both bodies, times to the ns, statuses, who ended it and in which words."""
    sides = again(traffic, "har")
    held(lambda record: record.arrival_ns, *sides)
    held(lambda record: record.request.body, *sides)
    held(lambda record: record.response and record.response.body, *sides)
    held(status, *sides)
    held(outcome, *sides)
    held(lambda record: record.response and record.response.error, *sides)
    off = [abs((lasted(a) or 0) - (lasted(b) or 0)) for a, b in zip(*sides, strict=True)]
    assert max(off) <= 1  # `time` is a float of ms


@settings(max_examples=TIMES, deadline=None)
@given(traffic=TRAFFIC)
def test_vcr(traffic: list[Exchange]) -> None:
    """Every byte of requests, where they went, what answers counted; without times no answer is read."""
    traffic = [each for each in traffic if each.response and each.response.status]
    if not traffic:
        return
    sides = again(traffic, "vcr")
    held(lambda record: record.request.body, *sides)
    held(lambda record: (record.request.method, record.request.host, record.request.path), *sides)
    held(spent, *sides)


@pytest.mark.parametrize("name", ["csv", "parquet"])
@settings(max_examples=TIMES, deadline=None)
@given(traffic=TRAFFIC)
def test_tables(name: str, traffic: list[Exchange]) -> None:
    """By a map: arrivals to the ns, models, tokens, ends, statuses, who ended it."""
    if name == "parquet":
        pytest.importorskip("pyarrow")
    if not any(each.response and each.response.outcome is Outcome.OK for each in traffic):
        return
    before, after = again(
        traffic, name, "arrival=arrival_unix_ns:ns", "model=model", "prompt_tokens=prompt_tokens",
        "output_tokens=output_tokens", "duration=end_s:s", "status=status", "session=session",
        "outcome=outcome", "error=error",
    )  # fmt: skip
    counted = [record for record in before if spent(record)[0]]
    held(lambda record: record.arrival_ns, counted, after)
    held(spent, counted, after)
    held(lambda record: record.facts.parsed.info.model, counted, after)
    held(status, counted, after)
    held(outcome, counted, after)
    held(lambda record: record.error, counted, after)
    off = [abs((lasted(a) or 0) - (lasted(b) or 0)) for a, b in zip(counted, after, strict=True)]
    assert max(off) <= 2  # seconds as a float


def test_every_exporter_has_its_round_trip() -> None:
    """A format that is added needs one."""
    tested = {"openai-batch", "evalscope", "mooncake", "otlp", "har", "vcr", "csv", "parquet"}
    assert tested == EXPORTERS.keys()
