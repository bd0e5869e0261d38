"""Mutate every kind of file that tbench reads, and run the verbs on it: no defect, no steering, no waiting.

    python benchmarks/fuzz.py --n 20000 [--seed 0] [--kind run] [--seconds 3600]

Each mutant is made from its number and the kinds alone: `--seed NUMBER --n 1 --show`, with --kind as it was,
makes it again.
Ends with 1 where a verb ended with a code that README.md does not list (70: a defect), printed what steers
a terminal, or took more than SLOW_S of CPU or MOST_BYTES of memory. A mutant is a file with bytes changed at
random, or a sound one (right checksums, JSON) with values that cannot be.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from tbench.__main__ import run as tbench
from tbench.capture import Exchange, Outcome, Request, Response, TraceHeader, TraceWriter, frames
from tbench.capture.container_reader import open_container
from tbench.capture.exchange import Chunk
from tbench.capture.frames import BLOCK
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample

CODES: Final = {0, 1, 2, 3, 4, 5}
SLOW_S: Final = 20.0
MOST_BYTES: Final = 4 << 30
STEERING: Final = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
HOSTILE: Final = "\x1b]0;t\x07\x1b[2J\x9b31m\x00\x7f\u202e\u2066\u2028\u061c\x85\r\t[/x]"
ODD: Final[Sequence[Any]] = (
    None, True, False, -1, 0, 1, 7, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.5, -0.0, 1e300,
    -1e300, float("nan"), float("inf"), "", "x", "1", "ok", HOSTILE, "\ud800", "m" * 3000, "é", [], {}, [[]],
    [None], [HOSTILE], {"": 0}, {"x": {}}, {HOSTILE: HOSTILE}, [1, "x"], {"type": "request"}, "../../x",
    "=1+1",
)  # fmt: skip
ONLY_MSGPACK: Final[Sequence[Any]] = (
    b"",
    b"\xff",
    b"\x00" * 9,
    {7: 8},
    [b"x"],
    msgpack.ExtType(5, b""),
)
BODY = json.dumps(
    {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
).encode()
STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}\n\ndata: [DONE]\n\n'
)


@dataclass(frozen=True)
class Kind:
    """Files of one kind: how a sound one is made, how it is mutated, and which verbs read it."""

    make: Callable[[Path], Path]
    mutate: Callable[[bytes, random.Random], bytes]
    verbs: Callable[[Path, Path], Sequence[Sequence[Any]]]


def anyhow(data: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, lost, doubled, moved or cut off, wherever."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at, size = dice.randrange(len(changed) + 1), dice.choice((1, 1, 4, 50, 500))
        match dice.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << dice.randrange(8)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case 3:
                changed[at : at + size] = bytes(min(size, len(changed) - at))
            case 4:
                del changed[at:]
            case 5:
                changed[at:at] = dice.randbytes(size)
            case _:
                changed[at : at + size] = changed[at : at + size][::-1]
    return bytes(changed)


def odd(value: Any, dice: random.Random, more: Sequence[Any] = ()) -> Any:  # noqa: ANN401
    """A value with one of its parts, however deep, replaced, left out, doubled or renamed."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        changed, name = dict(value), dice.choice(list(value))
        match dice.randrange(12):
            case 0:
                del changed[name]
            case 1:
                changed[dice.choice((HOSTILE, "", "x" * 300))] = changed.pop(name)
            case 2:
                changed[name] = dice.choice(list(value.values()))
            case _:
                changed[name] = odd(value[name], dice, more)
        return changed
    if isinstance(value, list) and value and dice.random() < 0.85:
        changed_list, at = list(value), dice.randrange(len(value))
        match dice.randrange(8):
            case 0:
                del changed_list[at]
            case 1:
                changed_list *= 2
            case _:
                changed_list[at] = odd(value[at], dice, more)
        return changed_list
    if isinstance(value, bytes) and value and dice.random() < 0.7:
        return anyhow(value, dice)
    if type(value) in (int, float) and dice.random() < 0.4:
        return dice.choice(
            (-value, value + 1, value * 10**6, value * 1e9, value / 7, value - 10**10)
        )
    return dice.choice((*ODD, *more))


def odd_json(data: bytes, dice: random.Random) -> bytes:
    """A JSON file with an odd value, or with bytes changed; at times a bottomless one."""
    if dice.random() < 0.25:
        return anyhow(data, dice)
    text = json.dumps(odd(json.loads(data), dice))
    if dice.random() < 0.03:
        text = text.replace(
            ":", ":" + dice.choice(("[" * 5000, '{"a":' * 100_000, "9" * 400, "1e999 ")), 1
        )
    return text.encode()


def odd_lines(data: bytes, dice: random.Random) -> bytes:
    """A text of lines with bytes changed, or with hostile words in it."""
    if dice.random() < 0.5:
        return anyhow(data, dice)
    words = data.split(b" ")
    at = dice.randrange(len(words))
    words[at] = dice.choice(
        (HOSTILE, '"', "1e400", "-1", "[[", "''", "\ufeff", "x" * 5000)
    ).encode()
    return b" ".join(words)


def odd_container(data: bytes, dice: random.Random) -> bytes:
    """A trace or a run with an odd value in its header, a record or its index, and all checksums right."""
    if dice.random() < 0.25:
        return anyhow(data, dice)
    with tempfile.NamedTemporaryFile(suffix=".msgpack") as file:
        file.write(data)
        file.flush()
        container = open_container(Path(file.name))
        blocks = [list(frames.unpack_all(one.raw)) for one in container.walk() if one.code == BLOCK]
    header, marker = dict(container.header), container.marker
    index = dict(container.index or {})
    match dice.randrange(6):
        case 0:
            header = odd(header, dice, ONLY_MSGPACK)
        case 1 if index:
            index = odd(index, dice, ONLY_MSGPACK)
        case 2:
            block = dice.choice(blocks)
            at = dice.randrange(len(block))
            match dice.randrange(4):
                case 0:
                    block *= 2
                case 1:
                    block[at] = dice.choice((*ODD, *ONLY_MSGPACK))
                case 2:
                    block += [{}] * 5000
                case _:
                    del block[at]
        case _:
            block = dice.choice(blocks)
            at = dice.randrange(len(block))
            block[at] = odd(block[at], dice, ONLY_MSGPACK)
    return _sealed(header, marker, blocks, index if dice.random() < 0.7 else {})


def _sealed(header: Any, marker: bytes, blocks: list[list[Any]], index: dict[str, Any]) -> bytes:  # noqa: ANN401
    """A container whose index fits its blocks as far as it can."""
    try:
        header = {
            key: value
            for key, value in header.items()
            if key not in ("format", "version", "marker")
        }
        parts = [frames.header_frame(header, marker)]
        rows, at = frames.Rows(), len(parts[0])
        known = (
            frames.Rows(index["blocks"])
            if isinstance(index.get("blocks"), bytes)
            else frames.Rows()
        )
        for number, block in enumerate(blocks):
            raw = b"".join(map(_packed, block))
            parts.append(frames.block_frame(marker, raw))
            old = known[number] if number < len(known) else frames.Row(0, 0, 0, 0, None, None, None)
            rows.append(
                old._replace(offset=at, length=len(parts[-1]), raw=len(raw), records=len(block))
            )
            at += len(parts[-1])
        if index:
            fits = isinstance(index.get("blocks"), bytes)
            parts.append(frames.index_frame({**index, "blocks": bytes(rows)} if fits else index))
    except (
        ValueError,
        TypeError,
        OverflowError,
        AttributeError,
    ):  # what msgpack has no way to write
        return b"\xc9"
    return b"".join(parts)


def _packed(record: object) -> bytes:
    packed: bytes = msgpack.packb(record, unicode_errors="surrogatepass", strict_types=False)
    return packed


def trace_file(path: Path) -> Path:
    """Thirty streamed exchanges in three sessions; every seventh refused, the last without an answer."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0, upstream="https://h")) as writer:
        for n in range(30):
            at = (n + 1) * 10**8
            body, status = STREAM, 200
            if n % 7 == 6:
                body, status = b'{"error":{"message":"slow down"}}', 429
            kind = "text/event-stream" if status == 200 else "application/json"
            chunks = (
                Chunk(at_ns=at + 10**7, size=60),
                Chunk(at_ns=at + 2 * 10**7, size=len(body) - 60),
            )
            request = Request(
                id=f"r{n}", seq=n, arrive_ns=at, end_ns=at, method="POST", scheme="https", host="h",
                path="/v1/chat/completions", body=BODY, body_bytes=len(BODY), client=f"c{n % 3}",
            )  # fmt: skip
            response = Response(
                head_ns=at + 10**7, end_ns=at + 3 * 10**7, status=status, body=body, body_bytes=len(body),
                headers=(("content-type", kind), ("x-request-id", f"s{n}")),
                chunks=chunks if status == 200 else (),
                outcome=Outcome.OK if status == 200 else Outcome.HTTP_ERROR,
            )  # fmt: skip
            writer.exchange(Exchange(request=request, response=response if n < 29 else None))
    return path


def run_file(path: Path, number: int = 0) -> Path:
    """A run of 120 with every kind of record."""
    header = {
        "run_id": "0" * 32, "wall_ns": (10**9 + number) * 10**9, "clock": "kernel",
        "trace": {"path": "t.msgpack", "capture_id": "c", "files": 1, "requests": 120, "upstream": None},
        "pacing": {"mode": "speed", "value": 1.0, "seed": 0, "open_loop": True, "meaning": "as recorded"},
        "target": {"base_url": "http://h", "model": "m", "map_model": {}, "set": {"a": 1}, "headers": ["x"],
                   "api_key_env": None, "sender": "engine"},
        "deadlines": {"total": 600.0}, "limits": {"rounds": 1}, "warmup": {"kind": "auto", "value": 0.0},
        "experiment": {"arm": "A", "round": number, "rounds": 3, "arms": ["A", "B"], "schedule": "random"},
        "survey": {"requests": 120, "span_s": 12.0, "busy_s": 9.0, "skipped": {}}, "argv": ["replay", "t"],
        "host": {"cpus": 2, "python": "3.13.0"}, "versions": {"tbench": "0"},
    }  # fmt: skip
    clock = iter(range(10**6))
    writer = RunWriter(path, header, clock=lambda: float(next(clock)))
    for k in range(120):
        at, bad = k * 0.1, k % 9 == 8
        stamps = tuple(at + 0.03 + 0.02 * j for j in range(5))
        writer.add(
            Sample(
                id=f"r{k}", index=k, endpoint="chat", model="m", stream=True, due=at, sent=at + 0.001,
                first_byte=at + 0.03, token_times=() if bad else stamps, end=at + 0.2,
                sent_wall_ns=10**18 + k,
                status=429 if bad else 200, outcome=Outcome.HTTP_ERROR if bad else Outcome.OK,
                error="slow down" if bad else None, finish_reason=None if bad else "stop",
                output_tokens=None if bad else 5, prompt_tokens=9, request_id=f"s{k}",
                headers=(("cf-ray", "x"),),
            )
        )  # fmt: skip
        if k % 40 == 39:
            writer.pump({"planned": 120, "issued": k + 1})
    return writer.close(
        {"planned": 120, "completed": 107, "failed": 13, "cancelled": 0, "lost_in_flight": 0, "never_sent": 0,
         "skipped": {"other": 2}, "hosts": {"h": 119, "g": 1},
         "masked": {"tools": 1}, "portability": {"store": 1},
         "unchanged": {"embeddings": 1, "not_json": 1}, "client_limit": {},
         "reconnected": 1, "trace_losses": {}, "ended_by": "plan", "warmup_s": 0.0,
         "most_in_flight": 3, "loop_stall_s": {"p50": 0.0, "p99": 0.001, "max": 0.002}, "clock": "kernel",
         "coalesced_share": 0.0, "workers": 1, "lost_workers": [], "client": {"cpu_share": 0.1},
         "cost": {"usd": 0.1, "unpriced": {}, "uncounted": 0}}
    )  # fmt: skip


def result_file(path: Path) -> Path:
    """A benchmark's point as genai-bench writes it, beside its metadata."""
    latencies = {"ttft": 0.1, "tpot": 0.02, "e2e_latency": 2.0, "output_latency": 1.9,
                 "output_inference_speed": 50.0, "num_input_tokens": 100, "num_output_tokens": 100,
                 "total_tokens": 200, "input_throughput": 1000.0, "output_throughput": 52.0}  # fmt: skip
    levels = ("min", "max", "mean", "stddev", "sum", "p25", "p50", "p75", "p90", "p95", "p99")
    aggregate = {
        "scenario": "D(1,1)", "num_concurrency": 1, "batch_size": 1, "iteration_type": "num_concurrency",
        "run_duration": 10.0, "mean_output_throughput_tokens_per_s": 100.0,
        "mean_input_throughput_tokens_per_s": 100.0, "mean_total_tokens_throughput_tokens_per_s": 200.0,
        "requests_per_second": 1.0, "error_codes_frequency": {"429": 1}, "error_rate": 0.0,
        "num_error_requests": 1, "num_completed_requests": 2, "num_requests": 3, "repeat": 1,
        "stats": {name: dict.fromkeys(levels, value) for name, value in latencies.items()},
    }  # fmt: skip
    each = [{**latencies, "error_code": None, "error_message": None}] * 2
    bad = {**dict.fromkeys(latencies), "error_code": 429, "error_message": "slow down"}
    (path.parent / "experiment_metadata.json").write_text(json.dumps(METADATA))
    content = {
        "aggregated_metrics": aggregate,
        "individual_request_metrics": [*each, bad],
        "_time_unit": "s",
    }
    path.write_text(json.dumps(content))
    return path


METADATA: Final = {
    "cmd": "genai-bench benchmark", "benchmark_version": "0.0.5", "api_backend": "together",
    "auth_config": {}, "api_model_name": "m", "server_model_tokenizer": "t", "model": "m",
    "task": "text-to-text", "num_concurrency": [1, 2], "batch_size": [1], "iteration_type": "num_concurrency",
    "traffic_scenario": ["D(1,1)"], "additional_request_params": {}, "server_engine": "vLLM",
    "server_version": "1", "server_gpu_type": "H100", "server_gpu_count": "4", "max_time_per_run_s": 60,
    "max_requests_per_run": 10, "experiment_folder_name": "x", "metrics_time_unit": "s", "dataset_path": None,
}  # fmt: skip


def metadata_file(path: Path) -> Path:
    """The metadata of a benchmark, beside a point."""
    result_file(path.parent / "text-to-text_D11_num_concurrency_1_time_10s.json")
    path.write_text(json.dumps(METADATA))
    return path


def layout_file(path: Path) -> Path:
    """Two panels, with most keys that a layout may have."""
    panels = [
        {"title": "a", "x_field": "num_concurrency", "y_field": "requests_per_second", "position": [0, 0]},
        {"title": "b", "x_field": "stats.ttft.mean", "position": [0, 1], "plot_type": "scatter",
         "y_scale": "log",
         "y_fields": [{"field": "stats.ttft.p50", "label": "x", "color": "red", "linestyle": "--"}]},
    ]  # fmt: skip
    path.write_text(
        json.dumps({"layout": {"rows": 1, "cols": 2, "figsize": [9, 5]}, "plots": panels})
    )
    return path


def baseline_file(path: Path) -> Path:
    """A history that compare itself has kept."""
    for number in range(3):
        run_file(path.parent / f"{number}.run", number)
    words = ["compare", "--save-baseline", str(path), str(path.parent / "*.run"), "--margin", "10%"]
    assert tbench(words) == 0
    return path


def plan_file(path: Path) -> Path:
    """The plan of an experiment with two arms."""
    trace_file(path.parent / "t.msgpack")
    path.write_text(
        'trace = "t.msgpack"\nrepeats = 3\nmargin = "10%"\nschedule = "random"\nseed = 1\nspeed = 2.0\n'
        '[[arm]]\nname = "A"\nbase_url = "http://127.0.0.1:1"\nset = { max_tokens = 5 }\n'
        '[[arm]]\nname = "B"\nmodel = "n"\nbase_url = "http://127.0.0.1:1"\n'
    )
    return path


def kept_plan(path: Path) -> Path:
    """The plan.json of an experiment whose server is not there."""
    plan = plan_file(path.parent.parent / "p.toml")
    assert tbench(["ab", "--plan", str(plan), "-o", str(path.parent)]) == 5
    return path


def text_file(text: str) -> Callable[[Path], Path]:
    """A file that holds this text."""

    def make(path: Path) -> Path:
        path.write_text(text)
        return path

    return make


def _trace_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    return (
        ["trace", "info", path], ["trace", "info", path, "--json"], ["trace", "check", path],
        ["trace", "head", path, "--bodies"], ["trace", "repair", path, "-o", at / "out.msgpack"],
        ["replay", path, "--dry-run"], ["replay", path, "--dry-run", "--concurrency-scale", "1.5"],
        ["report", path], ["report", path, "--json", "--samples"], ["compare", path, path],
    )  # fmt: skip


def _run_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    sound = run_file(at / "sound.run", 1)
    for number in (1, 2):
        run_file(at / f"two{number}.run", number)
    return (
        ["report", path], ["report", path, "--json", "--samples"], ["compare", sound, path],
        ["compare", path, sound],
        ["compare", sound, path, "--json"], ["compare", path, sound, "--json"],
        ["compare", f"{at}/two*.run", f"{at}/*.run", "--margin", "10%"], ["power", path],
        ["report", path, "--html", at / "x.html"], ["report", path, "--xlsx", at / "x.xlsx"],
    )  # fmt: skip


def _synth(at: Path, *more: object) -> Sequence[Any]:
    return ["trace", "synth", "-o", at / "o.msgpack", "--model", "m", "--requests", "3", *more]


def _data_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    return (
        _synth(at, "--dataset-path", path),
        _synth(at, "--dataset-path", path, "--scenario", "D(9,9)"),
        _synth(at, "--dataset-path", path, "--dataset-prompt-column", "prompt"),
    )  # fmt: skip


def _import_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    told = ["trace", "import", path, "-o", at / "o.msgpack"]
    return (
        told, [*told, "--spread"], [*told, "--map", "arrival=timestamp:s", "--map", "body=body"],
    )  # fmt: skip


def _config_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    (path.parent / "d.csv").write_text(CSV)
    return (_synth(at, "--dataset-config", path), _synth(at, "--dataset-path", path))


def _folder_verbs(path: Path, _: Path) -> Sequence[Sequence[Any]]:
    return (
        ["plot", "--experiments-folder", path.parent, "--validate-only"],
        ["plot", "--experiments-folder", path.parent, "--list-fields"],
        ["plot", "--experiments-folder", path.parent, "--validate-only", "--group-key", "server_engine"],
        ["excel", "--experiment-folder", path.parent, "--excel-name", "b", "--metrics-time-unit", "ms"],
    )  # fmt: skip


def _layout_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    (at / "bench").mkdir()
    result_file(at / "bench/text-to-text_D11_num_concurrency_1_time_10s.json")
    return (
        ["plot", "--experiments-folder", at / "bench", "--plot-config", path, "--validate-only"],
    )


def _baseline_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    for number in range(3):
        run_file(at / f"{number}.run", 10 + number)
    runs = f"{at}/*.run"
    return (
        ["compare", "--baseline-file", path, runs, "--margin", "10%"],
        ["compare", "--save-baseline", path, runs, "--margin", "10%"],
    )


def _plan_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    return (
        ["ab", "--plan", path, "--dry-run"],
        ["ab", "--plan", path, "--dry-run", "--json", "-o", at / "o"],
    )


def _kept_verbs(path: Path, at: Path) -> Sequence[Sequence[Any]]:
    if not (at / "t.msgpack").exists():
        trace_file(at / "t.msgpack")
    return (["ab", "-o", path.parent, "--dry-run"], ["ab", "--plan", path, "--dry-run"])


CSV = "prompt,answer\n" + "".join(f'"tell me, please {n}",x{n}\n' for n in range(20))
ROWS = [{"prompt": f"tell me {n}", "answer": [n, {"a": None}]} for n in range(20)]
CONFIG = {
    "source": {"type": "file", "path": "d.csv", "file_format": "csv"},
    "prompt_column": "prompt",
}
TOKENS = {"type": "WordLevel", "vocab": {"[UNK]": 0, "the": 1}, "unk_token": "[UNK]"}
LOGS = {
    "evalscope.jsonl": "".join(
        json.dumps({"body": json.loads(BODY), "timestamp": 1764350000 + number}) + "\n" for number in range(9)
    ),
    "bailian.jsonl": "".join(
        json.dumps({"chat_id": number, "parent_chat_id": -1, "timestamp": number, "input_length": 20,
                    "output_length": 7, "hash_ids": [5, number]}) + "\n" for number in range(9)
    ),
    "claude.jsonl": "".join(
        json.dumps({"type": "assistant", "uuid": f"{number}", "parentUuid": f"{number - 1}", "sessionId": "s",
                    "timestamp": f"2026-06-01T10:00:0{number}Z", "message": {
                        "id": f"m{number}", "usage": {"input_tokens": 4, "output_tokens": 3}}}) + "\n"
        for number in range(9)
    ),
    "rounds.csv": "session_id,round_idx,prefix_len,input_len,output_len\na,0,0,9,7\na,1,16,20,9\n",
    "log.gor": "".join(
        f"1 {'a' * 24} {number}000000000 -1\nPOST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n"
        f"{BODY.decode()}\n\N{MONKEY FACE}\N{SEE-NO-EVIL MONKEY}\N{HEAR-NO-EVIL MONKEY}\n"
        for number in range(9)
    ),
    "cassette.yaml": "interactions:\n- request: {method: POST, uri: 'https://x/v1/chat/completions', body: '"
    + BODY.decode() + "'}\n  response: {status: {code: 200}}\nversion: 1\n",
}  # fmt: skip
KINDS: Final[dict[str, Kind]] = {
    "t.msgpack": Kind(trace_file, odd_container, _trace_verbs),
    "a.run": Kind(run_file, odd_container, _run_verbs),
    "d.csv": Kind(text_file(CSV), odd_lines, _data_verbs),
    "d.json": Kind(text_file(json.dumps(ROWS)), odd_json, _data_verbs),
    "d.jsonl": Kind(text_file("\n".join(map(json.dumps, ROWS))), odd_lines, _data_verbs),
    "d.txt": Kind(text_file(CSV), odd_lines, _data_verbs),
    "config.json": Kind(text_file(json.dumps(CONFIG)), odd_json, _config_verbs),
    "tokenizer.json": Kind(
        text_file(json.dumps({"version": "1.0", "model": TOKENS})),
        odd_json,
        lambda path, at: (_synth(at, "--model-tokenizer", path, "--scenario", "D(9,9)"),),
    ),
    "text-to-text_D11_num_concurrency_1_time_10s.json": Kind(result_file, odd_json, _folder_verbs),
    "experiment_metadata.json": Kind(metadata_file, odd_json, _folder_verbs),
    "layout.json": Kind(layout_file, odd_json, _layout_verbs),
    "baseline.json": Kind(baseline_file, odd_json, _baseline_verbs),
    "plan.toml": Kind(plan_file, odd_lines, _plan_verbs),
    "plan.json": Kind(kept_plan, odd_json, _kept_verbs),
    **{
        name: Kind(text_file(log), odd_lines if name.endswith("l") else anyhow, _import_verbs)
        for name, log in LOGS.items()
    },
}  # fmt: skip
"""Name of a file -> what is known of such files."""


class Fuzzer:
    """Makes mutants by number and keeps what went wrong: a line for each."""

    def __init__(self, folder: Path, kinds: Sequence[str] = tuple(KINDS)) -> None:
        self.folder = folder
        self.faults: list[str] = []
        self.codes: Counter[str] = Counter()
        self._sound: dict[str, bytes] = {}
        self._kinds = kinds

    def mutant(self, number: int, *, show: bool = False) -> None:
        """Make one, run one verb on it."""
        dice = random.Random(number)
        name = dice.choice(self._kinds)
        at = self.folder / "at"
        shutil.rmtree(at, ignore_errors=True)
        (at / "in").mkdir(parents=True)
        path = at / "in" / name
        with _quiet():
            KINDS[name].make(path) if name not in self._sound else self._again(path)
        if name not in self._sound:
            self._keep(path)
        path.write_bytes(KINDS[name].mutate(path.read_bytes(), dice))
        words = list(map(str, dice.choice(KINDS[name].verbs(path, at))))
        code, said, seconds = _run([*words, "--debug"] if show else words)
        self.codes[f"{name}: {code}"] += 1
        steers = STEERING.search(said)
        if code not in CODES or steers or seconds > SLOW_S:
            why = f"steers {steers[0]!r}" if steers else f"{seconds:.1f} s"
            line = said.strip().splitlines()[-1] if said.strip() else ""
            fault = f"{number} {name}: {' '.join(words)}: {code}, {why}: {line[:300]}"
            self.faults.append(fault.encode("ascii", "backslashreplace").decode())
            print(self.faults[-1], file=sys.stderr, flush=True)
        if show:
            sys.stdout.write(said.encode("ascii", "backslashreplace").decode())

    def _keep(self, path: Path) -> None:
        """A sound file and its neighbours are made once."""
        self._sound[path.name] = b""
        shutil.copytree(path.parent, self.folder / "sound" / path.name)

    def _again(self, path: Path) -> None:
        shutil.copytree(self.folder / "sound" / path.name, path.parent, dirs_exist_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said


def _run(words: list[str]) -> tuple[int, str, float]:
    """A command line in this process: its code, what it said, and the CPU time it took, seconds."""
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SLOW_S)
    with _quiet() as said:
        code = tbench(words)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return code, said.getvalue(), time.process_time() - began


def _too_slow(*_: object) -> None:
    """Ends a verb as a defect would."""
    raise RuntimeError(f"took over {SLOW_S:g} s of CPU")


def main() -> int:
    """Make the mutants; print each fault as it comes, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=20_000, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only files of this name")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after that")
    parser.add_argument("--show", action="store_true", help="print what the verbs say")
    asked = parser.parse_args()
    os.environ.setdefault("TOGETHER_API_KEY", "none-at-all-0000")
    signal.signal(signal.SIGPROF, _too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    began, made = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), asked.kind or tuple(KINDS))
        for number in range(asked.seed, asked.seed + asked.n):
            if time.monotonic() - began > asked.seconds:
                break
            fuzzer.mutant(number, show=asked.show)
            made += 1
            if made % 1000 == 0:
                print(f"{made:,} mutants, {len(fuzzer.faults)} faults", file=sys.stderr, flush=True)
    for line, count in sorted(fuzzer.codes.items()):
        print(f"{line:<60}{count:>7,}")
    print(f"{made:,} mutants in {time.monotonic() - began:.0f} s, {len(fuzzer.faults)} faults")
    return 1 if fuzzer.faults else 0


if __name__ == "__main__":
    sys.exit(main())
