"""Files that were made to hurt: bombs, centuries, impossible records, bottomless JSON."""

import json
import math
import os
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tbench.__main__ import run as tbench
from tbench.capture import (
    Chunk,
    Exchange,
    Outcome,
    Request,
    Response,
    TraceHeader,
    TraceWriter,
    read_trace,
)
from tbench.capture.container_reader import MOST_BAD, open_container
from tbench.capture.container_writer import ContainerWriter
from tbench.capture.errors import InputError
from tbench.capture.frames import FARTHEST, MAX_RECORDS
from tbench.capture.jsontext import loads, read_json
from tbench.capture.records import header_map, record_of, response_record
from tbench.replay.pacing import Occupancy, Profile, diffused
from tbench.replay.workers.messages import part
from tests.benchmark_folder import BenchmarkFolder
from tests.recorded import chat_request

Said = pytest.CaptureFixture[str]
HEADER = TraceHeader(wall_ns=10**18, mono_ns=0, upstream="https://h")
BODY = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
ANSWER = (
    b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"y"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":3}}'
)
YEAR_NS = 365 * 86_400 * 10**9


def request(number: int, at_ns: int) -> Request:
    return chat_request(number, at_ns, BODY, id=f"r{number}")


def response(at_ns: int) -> Response:
    return Response(
        head_ns=at_ns, end_ns=at_ns + 2000, status=200, headers=(("content-type", "application/json"),),
        body=ANSWER, body_bytes=len(ANSWER), outcome=Outcome.OK,
        chunks=(Chunk(at_ns=at_ns, size=10), Chunk(at_ns=at_ns + 1000, size=len(ANSWER) - 10)),
    )  # fmt: skip


def trace_file(path: Path, *arrivals_ns: int) -> Path:
    with TraceWriter(path, HEADER) as writer:
        for number, at_ns in enumerate(arrivals_ns):
            one = Exchange(request=request(number, at_ns), response=response(at_ns + 10**9))
            writer.exchange(one)
    return path


def test_years_without_traffic_take_no_memory() -> None:
    """A mean for each second of ten years, against the two requests that there are."""
    tracemalloc.start()
    occupancy = Occupancy()
    occupancy.add(0.25, 1.5)
    occupancy.add(3.2e8, 3.2e8 + 1)
    limits = diffused(occupancy.means(), 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert occupancy.means()[:3] == [0.75, 0.5, 0.0]
    assert len(limits) == 3.2e8 + 1
    assert [limits[k] for k in (0, 1, 2, 10**8, len(limits) - 1)] == [2, 1, 0, 0, 2]
    assert limits.total == 5
    assert [limits.changes_after(k) for k in (0, 1, 2, 3)] == [1, 2, 3.2e8, 3.2e8]
    assert part(Profile(limits=limits), 0, 2).changes_after(3.0) == 3.2e8
    assert peak < 100_000


@pytest.mark.parametrize("apart_ns", [10 * YEAR_NS, 70 * YEAR_NS])
def test_two_requests_may_be_decades_apart(apart_ns: int, tmp_path: Path, capsys: Said) -> None:
    """Every verb that reads a trace says how long it is."""
    path = str(trace_file(tmp_path / "t.msgpack", 0, apart_ns))
    verbs = (
        (["replay", path, "--dry-run"], f"{apart_ns / 1e9:.1f} s"),
        (["replay", path, "--dry-run", "--concurrency-scale", "1"], "requests"),
        (["trace", "info", path], "2 (0 retries"),
        (["trace", "check", path], "sound"),
        (["report", path], "completed 2"),
    )
    for words, shown in verbs:
        assert tbench(words) == 0, words
        assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    "verb", [["trace", "info"], ["trace", "check"], ["report"], ["replay", "--dry-run"]]
)
def test_a_pipe_is_refused_instead_of_waited_for(
    verb: list[str], tmp_path: Path, capsys: Said
) -> None:
    """Nobody writes to it."""
    os.mkfifo(tmp_path / "t.msgpack")

    assert tbench([*verb, str(tmp_path / "t.msgpack")]) == 2
    assert "t.msgpack: this is a pipe; write it to a file first" in capsys.readouterr().err


def test_times_beyond_what_64_bits_can_subtract_are_no_records(
    tmp_path: Path, capsys: Said
) -> None:
    """Both ends of the range: counted as bad, no verb breaks."""
    path = tmp_path / "t.msgpack"
    sealed(path, [record(n, at) for n, at in enumerate((-(2**63) + 2, 2**63 - 2, FARTHEST + 1, 5))])

    assert tbench(["trace", "check", str(path)]) == 4
    assert "3 records are not what the format promises" in capsys.readouterr().out
    for words in (["report", "--json"], ["replay", "--dry-run"], ["trace", "info"]):
        assert tbench([*words, str(path)]) in (0, 5)
        capsys.readouterr()


def record(number: int, at_ns: int) -> dict[str, Any]:
    return record_of(request(number, 0)) | {"arrive_ns": at_ns, "end_ns": at_ns}


def sealed(path: Path, records: list[dict[str, Any]]) -> Path:
    """A trace with a right checksum on every block, whatever is in it."""
    writer = ContainerWriter(path, header_map(HEADER))
    for one in records:
        writer.append(one)
    return writer.close()


def changed(**changes: Any) -> list[dict[str, Any]]:
    return [record_of(request(0, 10**9)), response_record("r0", response(2 * 10**9)) | changes]


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_sizes": struct.pack("<2I", 10, 11)},
        {"chunk_sizes": struct.pack("<I", len(ANSWER))},
        {"chunk_sizes": b"\x0a\x00\x00", "chunk_dt_us": b"\x00\x00\x00"},
        {"end_ns": 1},
        {"status": 70_000},
        {"status": 4_294_967_295},
        {"status": -1},
        {"status": 0},
        {"body_bytes": -1},
    ],
    ids=str,
)
def test_an_impossible_response_is_not_sound(
    changes: dict[str, Any], tmp_path: Path, capsys: Said
) -> None:
    """Sealed, and yet it cannot be: check says 4, info counts it, the exchange has no answer."""
    path = str(sealed(tmp_path / "t.msgpack", changed(**changes)))

    assert tbench(["trace", "check", path]) == 4
    assert "1 record is not what the format promises" in capsys.readouterr().out
    assert tbench(["trace", "info", path]) == 0
    assert "1 bad record\n" in capsys.readouterr().out
    (exchange,) = read_trace(path)
    assert exchange.outcome is Outcome.INCOMPLETE
    assert tbench(["report", path, "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["completed"] == 0


def test_the_same_unchanged_is_sound(tmp_path: Path) -> None:
    """Nothing else is wrong with those records."""
    (exchange,) = read_trace(sealed(tmp_path / "t.msgpack", changed()))

    assert exchange == Exchange(request=request(0, 10**9), response=response(2 * 10**9))


def bomb(path: Path, raw: bytes) -> Path:
    writer = ContainerWriter(path, header_map(HEADER))
    writer.append_block(raw, (1, None, None, None))
    return writer.close()


@pytest.mark.parametrize("raw", [b"\x80", b"\x00", b"\xc0", b"\x81\xa1t\xa1x"], ids=bytes.hex)
def test_a_block_of_empty_records_is_given_up(raw: bytes, tmp_path: Path, capsys: Said) -> None:
    """A kilobyte of file, twenty million records: few of them are looked at, and it is not sound."""
    path = bomb(tmp_path / "t.msgpack", raw * (20 * 2**20 // len(raw)))
    assert path.stat().st_size < 4096

    container = open_container(path)
    seen = sum(1 for _ in container.records())
    assert seen <= (MAX_RECORDS if raw.startswith(b"\x81") else MOST_BAD)
    assert container.losses.bad_records
    assert tbench(["trace", "check", str(path)]) == 4


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 3000 + "1" + "}" * 3000, "9" * 400, "1e999", '"\\ud800"', "{", ""]
)
def test_json_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    """ValueError from text, a line that names the file from a file."""
    with pytest.raises(ValueError, match=r"."):
        loads(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json: no JSON"):
        read_json(tmp_path / "a.json")


def test_what_pythons_users_write_is_read() -> None:
    """NaN and Infinity are null."""
    found = loads('{"a": [NaN, Infinity, -Infinity], "c": 12345678901234567890}')

    assert found == {"a": [None] * 3, "c": 12345678901234567890}


Spoil = Callable[[Path], list[Any]]


def folder(at: Path, **changes: Any) -> Path:
    """A benchmark's folder whose one result has these members of its aggregate."""
    point = BenchmarkFolder(at / "x").metadata().point("D(1,1)", 1)
    content = json.loads(point.read_text())
    content["aggregated_metrics"] |= changes
    point.write_text(json.dumps(content))
    return at / "x"


def layout(at: Path, **changes: Any) -> Path:
    panel = {"title": "t", "x_field": "num_concurrency", "y_field": "requests_per_second",
             "position": changes.pop("position", [0, 0])}  # fmt: skip
    whole = {"layout": {"rows": 1, "cols": 1, **changes}, "plots": [panel]}
    (at / "l.json").write_text(json.dumps(whole))
    return at / "l.json"


JSONS: dict[str, Spoil] = {
    "infinite concurrency": lambda at: ["plot", "--experiments-folder", folder(at, num_concurrency=math.inf)],
    "repeat": lambda at: ["excel", "--excel-name", "b", "--experiment-folder", folder(at, repeat=[1])],
    "figsize": lambda at: [
        "plot", "--experiments-folder", folder(at), "--plot-config", layout(at, figsize=[math.inf, 5])
    ],
    "position": lambda at: [
        "plot", "--experiments-folder", folder(at), "--plot-config", layout(at, position=[math.nan, 0])
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", JSONS)
def test_numbers_that_are_none_are_one_line(case: str, tmp_path: Path, capsys: Said) -> None:
    """Where a number is wanted, null, Infinity and lists are bad input."""
    assert tbench(list(map(str, JSONS[case](tmp_path)))) == 2
    assert capsys.readouterr().err.count("tbench: ") == 1


@pytest.mark.parametrize(
    "extra",
    [
        {"import": {"format": ["x"], "trust": [1], "left_out": 5, "files": 3, "tick_ns": "x"}},
        {"synthesis": {"task": 1}},
        {"steps": [5, {"verb": ["x"]}], "hashes": "x", "process": "x", "processes": 1 << 62},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_header_that_says_nonsense_of_its_origin_hides_no_request(
    extra: dict[str, Any], tmp_path: Path, capsys: Said
) -> None:
    """It is read, and copied without what it says."""
    path, out = tmp_path / "t.msgpack", tmp_path / "out.msgpack"
    with TraceWriter(path, replace(HEADER, extra=extra)) as writer:
        writer.exchange(Exchange(request=request(0, 10**9), response=response(2 * 10**9)))

    for words in (["info", str(path)], ["redact", str(path), "-o", str(out)]):
        assert tbench(["trace", *words]) == 0
    assert "lost          nothing" in capsys.readouterr().out
    assert len(list(read_trace(out))) == 1
