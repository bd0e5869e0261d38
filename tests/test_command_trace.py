"""`tbench trace`: what it prints, and the exit codes."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tbench import __main__ as entry
from tbench.capture import (
    Chunk,
    Exchange,
    Gap,
    Outcome,
    Request,
    Response,
    TraceHeader,
    TraceWriter,
)
from tbench.capture.container_writer import ContainerWriter
from tests.recorded import chat_request

WALL = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
KEYS = {
    "requests": 4,
    "responses": 3,
    "incomplete": 1,
    "dropped": 5,
    "dropped_bytes": 7_000,
    "outcomes": {"ok": 2, "incomplete": 1, "http_error": 1},
    "retries": 1,
    "redirected": 0,
    "masked": 0,
    "duration_s": 4.5,
    "first_arrival": "2026-01-01T00:00:01.000000Z",
    "last_arrival": "2026-01-01T00:00:04.000000Z",
    "sessions": 3,
    "models": {"m1": 3, "m2": 1},
    "endpoints": {"chat": 3, "embeddings": 1},
    "prompt_tokens": 16,
    "output_tokens": 3,
    "synthesis": None,
    "import": None,
    "privacy": "full",
    "steps": [],
    "damaged_blocks": 0,
}
ASKS = [
    {
        "model": "m1",
        "messages": [{"role": "user", "content": "secret\x1b[31m plan"}],
        "stream": True,
    },
    {"model": "m1", "messages": [{"role": "user", "content": "other"}]},
    {"model": "m1", "messages": [{"role": "user", "content": "other"}]},
    {"model": "m2", "input": "text"},
]
STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n',
    (
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}\n\n'
    ),
    b"data: [DONE]\n\n",
)
EMBEDDED = b'{"object":"list","data":[],"usage":{"prompt_tokens":7,"total_tokens":7}}'


def request(number: int) -> Request:
    body = json.dumps(ASKS[number]).encode()
    return chat_request(
        number,
        (number + 1) * 10**9,
        body,
        id=f"r{number}",
        path="/v1/embeddings" if number == 3 else "/v1/chat/completions",
        retry_of="r1" if number == 2 else None,
    )


def response(number: int, body: bytes, **changes: Any) -> Response:
    end_ns = (number + 1) * 10**9 + 1_500_000_000
    plain = Response(
        head_ns=end_ns, end_ns=end_ns, status=200, body=body, body_bytes=len(body), headers=()
    )
    return replace(plain, **changes)


def exchanges() -> list[Exchange]:
    chunks = tuple(
        Chunk(at_ns=1_250_000_000 + n * 10**6, size=len(piece)) for n, piece in enumerate(STREAM)
    )
    streamed = response(
        0, b"".join(STREAM), chunks=chunks, headers=(("content-type", "text/event-stream"),)
    )
    refused = response(1, b'{"error":{"message":"slow down"}}', status=429)
    json_type = (("content-type", "application/json"),)
    return [
        Exchange(request=request(0), response=streamed),
        Exchange(request=request(1), response=replace(refused, outcome=Outcome.HTTP_ERROR)),
        Exchange(request=request(2), response=None),
        Exchange(request=request(3), response=response(3, EMBEDDED, headers=json_type)),
    ]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Four exchanges: streamed, refused, its retry unanswered, an embedding; five records dropped."""
    path = tmp_path / "t.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0, upstream="https://up")) as writer:
        for one in exchanges():
            writer.exchange(one)
        writer.gap(Gap(from_ns=0, to_ns=1, requests=2, responses=3, bytes=7_000, reason="memory"))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `tbench trace ARGUMENTS` in this process; returns exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = entry.run(["trace", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


Run = Callable[..., tuple[int, str, str]]


def test_info_says_what_a_trace_holds(trace: Path, run: Run) -> None:
    """The keys of the contract, each counted by hand."""
    code, out, err = run("info", trace, "--json")
    figures = json.loads(out)
    wire_bytes = sum(
        one.request.body_bytes + (one.response.body_bytes if one.response else 0)
        for one in exchanges()
    )

    assert (code, err) == (0, "")
    assert figures == KEYS | {
        "bytes": wire_bytes,
        "idc": {"0.1": pytest.approx(0.9), "1": 0.0, "10": None, "60": None},
    }
    assert datetime.fromisoformat(figures["first_arrival"]).timestamp() * 1e9 == WALL + 10**9


def test_info_for_people_has_units(trace: Path, run: Run) -> None:
    """The same in words."""
    code, out, _ = run("info", trace)

    assert code == 0
    for words in (
        "4 (1 retry, 1 incomplete)",
        "4.5 s",
        "16 prompt, 3 output",
        "5 records dropped by the capture; 7.0 kB of bodies dropped by the capture",
    ):
        assert words in out


def test_info_reads_an_empty_trace(tmp_path: Path, run: Run) -> None:
    """Nothing is null, not zero, where there is no arrival."""
    with TraceWriter(tmp_path / "t.msgpack", TraceHeader(wall_ns=WALL, mono_ns=0)):
        pass
    figures = json.loads(run("info", tmp_path / "t.msgpack", "--json")[1])

    assert (figures["requests"], figures["duration_s"]) == (0, 0.0)
    assert figures["first_arrival"] is figures["idc"]["1"] is None
    assert run("info", tmp_path / "t.msgpack")[0] == 0


def test_info_counts_damage_and_goes_on(trace: Path, run: Run) -> None:
    """Exit code 0 for a damaged trace, and for one cut at any byte."""
    data = trace.read_bytes()
    broken = bytearray(data)
    broken[len(data) // 2] ^= 1
    trace.write_bytes(broken)
    code, out, _ = run("info", trace, "--json")
    assert (code, json.loads(out)["damaged_blocks"]) == (0, 1)
    part = trace.with_name("u.msgpack.part")
    for length in range(40, len(data), 97):
        part.write_bytes(data[:length])
        assert run("info", part, "--json")[0] == 0


def test_head_shows_one_line_an_exchange_without_prompts(trace: Path, run: Run) -> None:
    """Offset, path, model, status, outcome, times, bytes and tokens; `-` where absent."""
    code, out, _ = run("head", trace, "-n", "3")
    title, first, second, third = out.splitlines()

    assert code == 0
    assert title.split() == [
        *("offset", "session", "method", "path", "model", "status"),
        *("outcome", "ttft", "e2e", "bytes", "tokens"),
    ]
    assert first.split()[:8] == [
        *("1.000", "s", "s1", "POST", "/v1/chat/completions", "m1", "200", "ok")
    ]
    assert "0.250 s  0.250 s" in first, "to the only content; its [DONE] came 1.25 s later"
    assert first.endswith("9 > 3")
    assert "429" in second
    assert "incomplete" in third
    assert "secret" not in out


def test_head_shows_bodies_only_when_asked_and_without_control_characters(
    trace: Path, run: Run
) -> None:
    """What was said cannot play with the terminal."""
    out = run("head", trace, "-n", "1", "--bodies")[1]

    assert "secret" in out
    assert '"content":"Hi"' in out
    assert "\x1b" not in out


def test_head_as_json_is_one_object(trace: Path, run: Run) -> None:
    """With null for what is absent; bodies only when asked."""
    rows = json.loads(run("head", trace, "--json")[1])["exchanges"]
    first, *_ = json.loads(run("head", trace, "--json", "--bodies", "-n", 1)[1])["exchanges"]

    assert [row["status"] for row in rows] == [200, 429, None, 200]
    assert rows[0]["ttft_s"] == pytest.approx(0.25)
    assert (rows[2]["e2e_s"], rows[2]["prompt_tokens"]) == (None, None)
    assert "request_body" not in rows[0]
    assert json.loads(first["request_body"]) == ASKS[0]


def test_check_tells_sound_from_lossy(trace: Path, tmp_path: Path, run: Run) -> None:
    """0 for a sound trace, 4 for one with drops, saying what."""
    code, out, _ = run("check", trace)
    assert code == 4
    assert "2 requests were dropped" in out
    path = tmp_path / "s.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        writer.exchange(exchanges()[0])

    assert run("check", path)[:2] == (0, f"{path}: sound\n")


def test_repair_writes_a_trace_that_checks(tmp_path: Path, run: Run) -> None:
    """From a file cut in its last block; prints what was lost."""
    path = tmp_path / "t.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        writer.exchange(exchanges()[0])
    cut = tmp_path / "cut.msgpack"
    cut.write_bytes(path.read_bytes()[:-1])
    assert run("check", cut)[0] == 4
    code, out, _ = run("repair", cut, "-o", tmp_path / "new.msgpack")

    assert code == 0
    assert "truncated tail" in out
    assert run("check", tmp_path / "new.msgpack")[0] == 0


@pytest.mark.parametrize("verb", ["info", "head", "check", "repair"])
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing", None, "no such file"),
        ("empty", b"", "empty"),
        ("text", b"hello\n", "not a tbench file"),
        ("a.json", b'{"requests": []}', "not a tbench file"),
        ("noise", bytes(range(256)) * 9, "not a tbench file"),
        ("folder", "folder", "no traces"),
        ("run.msgpack", "run", "this is a run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, run: Run, verb: str, name: str, content: bytes | str | None, says: str
) -> None:
    """For each verb and each kind of thing that is no trace."""
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content == "run":
        ContainerWriter(path, {"kind": "run"}).close()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    more = ["-o", tmp_path / "out.msgpack"] if verb == "repair" else []
    code, out, err = run(verb, path, *more)

    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err
    assert not list(tmp_path.glob("out*"))
