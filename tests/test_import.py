"""`tbench trace import`: what each format holds, by an independent count; and the rules for all of them."""

import bz2
import copy
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import random
import shlex
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
import zstandard
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

from tbench.capture.errors import InputError
from tbench.capture.importers import IMPORTERS, recordings
from tbench.capture.importers import rows as row_module
from tbench.capture.importers.conversion import _row_calls, described, resolve, survey, write
from tbench.capture.importers.importer import Call, Importer, LeftOut, Lengths, count, scaled
from tbench.capture.importers.rows import rows as read_rows
from tbench.capture.importers.rows import shape
from tbench.capture.privacy.redaction import redact
from tbench.capture.privacy.traffic import blanks
from tbench.capture.repair import check
from tbench.capture.synthesis.tokens import calibrated
from tbench.capture.trace_info import trace_info
from tbench.capture.trace_reader import read_trace
from tbench.replay.measure import recorded_samples
from tbench.replay.sample import Sample
from tests.logs import BESIDE, LOGS

ROOT = Path(__file__).parent.parent
NS = 10**9
Run = Callable[..., Any]


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


def imported(source: Path, *fields: str, **options: Any) -> dict[str, Any]:
    """The figures of `trace info --json` of what was imported to t.msgpack beside the source."""
    fourth = calibrated(4)
    job = resolve([source], **{"tokens": fourth, "model": "m/x", "fields": fields, **options})
    counts = survey(job, quiet)
    out = source.parent / "t.msgpack"
    out.unlink(missing_ok=True)
    write(job, counts, out, quiet)
    assert not check(out).problems
    made = described(job, counts)
    assert made["rows"] == made["exchanges"] + sum(made["left_out"].values())
    return trace_info(read_trace(out))


def samples(folder: Path) -> list[Sample]:
    """What `report` measures of it."""
    return list(recorded_samples(read_trace(folder / "t.msgpack")))


def took(sample: Sample) -> float:
    assert sample.sent is not None
    end = sample.last_token or sample.end
    assert end is not None
    return end - sample.sent


def first(sample: Sample) -> float | None:
    assert sample.sent is not None
    return None if sample.first_token is None else sample.first_token - sample.sent


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arrivals(path: Path) -> list[int]:
    trace = read_trace(path)
    return [trace.header.wall(exchange.request.arrive_ns) for exchange in trace]


def seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def alike(first: str, second: str) -> int:
    """With how many characters both begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next(
        (place for place, (one, other) in pairs if one != other), min(len(first), len(second))
    )


MOONCAKE = [
    {"timestamp": 0, "input_length": 1100, "output_length": 52, "hash_ids": [0, 1, 2]},
    {"timestamp": 3052, "input_length": 1536, "output_length": 26, "hash_ids": [0, 1, 3]},
    {"timestamp": 6001, "input_length": 30, "output_length": 7, "hash_ids": [4]},
]


def test_mooncake(tbench: Run, tmp_path: Path) -> None:
    """Lengths are exact, and requests share text as far as they share ids, and no further."""
    source = lines(tmp_path / "m.jsonl", MOONCAKE)
    figures = imported(source)

    rows = [json.loads(line) for line in source.read_text().splitlines()]
    assert figures["requests"] == len(rows)
    assert figures["duration_s"] == (rows[-1]["timestamp"] - rows[0]["timestamp"]) / 1000
    bodies = [
        json.loads(exchange.request.body or b"") for exchange in read_trace(tmp_path / "t.msgpack")
    ]
    texts = [body["messages"][0]["content"] for body in bodies]
    assert [-(-len(text) // 4) for text in texts] == [row["input_length"] for row in rows]
    assert [body["max_tokens"] for body in bodies] == [row["output_length"] for row in rows]
    assert (
        1022 <= alike(*texts[:2]) / 4 < 1100
    )  # two blocks, each to its last character or three less
    assert alike(texts[0], texts[2]) < 40
    assert figures["import"]["trust"] == {"arrival": "reported"}
    assert figures["first_arrival"] is None
    assert tbench("trace", "import", source, "--chars-per-token", 4, "-o", "u.msgpack").code == 0
    dry = tbench("replay", "u.msgpack", "--base-url", "http://127.0.0.1:9", "--dry-run", "--json")
    tokens = json.loads(dry.out)
    assert tokens["prompt_tokens"] == sum(row["input_length"] for row in rows)
    assert tokens["output_tokens"] == sum(row["output_length"] for row in rows)


def test_an_answer_whose_request_came_nobody_knows_when_is_counted(tmp_path: Path) -> None:
    """Its tokens stand at the request; the end, of a request whose arrival is made up, is no time."""
    source = tmp_path / "log.jsonl"
    source.write_text('{"end": 1767225600, "p": "hi", "a": "yes", "n": 3}\n')
    fields = ("end=end:s", "prompt=p", "answer=a", "output_tokens=n")
    job = resolve([source], tokens=calibrated(4), model="m", fields=fields)

    assert survey(job, quiet).undated_answers == 1
    assert imported(source, *fields)["import"]["trust"] == {"arrival": "derived"}
    (item,) = read_trace(tmp_path / "t.msgpack")
    assert (item.request.extra["output_tokens"], item.response) == (3, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('ts,p\n1767225600,a\n1767225601,"b\n1767225602,c\n1767225603,d\n', "begins at line 3"),
        ('ts,p\n1767225600,"a\n1767225601,b\n', "begins at line 2"),
        ("ts,p\n", "no row: only a header"),
        ("[]", "no row"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """A quote that is never closed swallows no rows; without any there is nothing to say of fields."""
    source = tmp_path / "log.csv"
    source.write_text(text)

    for fields in ((), ("arrival=ts:s", "prompt=p")):
        with pytest.raises(InputError, match=complaint):
            imported(source, *fields)


def test_hosts_and_paths_hold_no_key_and_no_line(tmp_path: Path) -> None:
    """Of whatever a log has where a host or a path belongs, what a request line takes is kept."""
    secret = "sk-abcdefghijklmnop"
    spans = [
        {"name": "chat", "spanId": str(number), "startTimeUnixNano": 1767225600 * NS,
         "attributes": {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 3,
                        "server.address": address}}
        for number, address in enumerate([
            "api.example:8080", f"https://u:{secret}@api.example/v1?key={secret}", "[::1]:80",
            f"u:{secret}", "/run/llm.sock", "a b\r\nx", "",
        ])
    ]  # fmt: skip
    source = tmp_path / "spans.jsonl"
    source.write_text("".join(json.dumps(span) + "\n" for span in spans))
    imported(source)
    hosts = [item.request.host for item in read_trace(tmp_path / "t.msgpack")]
    assert hosts == ["api.example:8080", "api.example", "[::1]:80", *["imported.invalid"] * 4]

    paths = ["v1/x", f"https://u:{secret}@h/v1/x", "/v1/x y\r\nhost: z", "/v1/%20?limit=2"]
    source.write_text("".join(json.dumps({"p": "hi", "path": path}) + "\n" for path in paths))
    imported(source, "prompt=p", "path=path")
    assert [item.request.path for item in read_trace(tmp_path / "t.msgpack")] == [
        "/v1/x", "/v1/x", "/v1/x%20y%0D%0Ahost:%20z", "/v1/%20?limit=2",
    ]  # fmt: skip


def test_images_of_spans_are_images_of_requests(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "content": "what?"},
        {"type": "uri", "modality": "image", "uri": "https://x/y.png"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "aGk="},
    ]
    messages = json.dumps([{"role": "user", "parts": parts}])
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": messages}
    span = {"name": "chat", "startTimeUnixNano": 1767225600 * NS, "attributes": attributes}
    source = tmp_path / "span.jsonl"
    source.write_text(json.dumps(span) + "\n")
    imported(source)
    (item,) = read_trace(tmp_path / "t.msgpack")

    assert json.loads(item.request.body or b"")["messages"][0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ]


def test_a_log_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """What is counted is what is written; and no file is read twice for two."""
    source, out = tmp_path / "log.jsonl", tmp_path / "t.msgpack"
    source.write_text('{"ts": 1767225600, "p": "hi"}\n')
    options: Any = {"tokens": calibrated(4), "model": "m", "fields": ("arrival=ts:s", "prompt=p")}
    job = resolve([source], **options)
    counts = survey(job, quiet)
    source.write_text(source.read_text() * 2)

    with pytest.raises(InputError, match="changed while it was read"):
        write(job, counts, out, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    with pytest.raises(InputError, match="given twice"):
        resolve([source, source], **options)


def test_a_block_size_that_cannot_be_is_not_assumed(tmp_path: Path) -> None:
    """Ids of blocks of 16, as Bailian's traces have them."""
    source = lines(tmp_path / "m.jsonl", [{**MOONCAKE[2], "hash_ids": [1, 2]}])

    with pytest.raises(InputError, match="--block-tokens"):
        imported(source)
    assert imported(source, block_tokens=16)["requests"] == 1


@pytest.mark.parametrize(
    "stamps",
    [
        [
            "2023-11-16 18:17:03.9799600",
            "2023-11-16 18:17:04.0319598",
            "2023-11-16 18:17:59.0000001",
        ],
        [
            "2024-05-10 00:00:00.009930+00:00",
            "2024-05-10 00:00:01+00:00",
            "2024-05-10 00:10:00.5+00:00",
        ],
    ],
    ids=["2023", "2024"],
)
def test_azure(tmp_path: Path, stamps: list[str]) -> None:
    """Seven digits without a zone, CRLF and no last line end; or a zone, and seconds without a fraction."""
    source = tmp_path / "a.csv"
    rows = [f"{stamp},{number + 40},{number + 7}" for number, stamp in enumerate(stamps)]
    source.write_text("\r\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    figures = imported(source)

    with source.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert figures["requests"] == len(table)
    begin, last = (table[place]["TIMESTAMP"] for place in (0, -1))
    for stamp, name in ((begin, "first_arrival"), (last, "last_arrival")):
        clock, _, fraction = stamp.partition("+")[0].partition(".")
        exact = datetime.fromisoformat(f"{clock}+00:00").timestamp() + float(f"0.{fraction or 0}")
        assert seconds(figures[name]) == pytest.approx(exact, abs=1.1e-6)
    digits = begin.partition(".")[2].partition("+")[0].ljust(9, "0")
    assert arrivals(tmp_path / "t.msgpack")[0] % NS == int(digits)
    tokens = [exchange.request.extra for exchange in read_trace(tmp_path / "t.msgpack")]
    assert sum(each["prompt_tokens"] for each in tokens) == sum(
        int(row["ContextTokens"]) for row in table
    )
    assert sum(each["output_tokens"] for each in tokens) == sum(
        int(row["GeneratedTokens"]) for row in table
    )


def test_burstgpt(tmp_path: Path) -> None:
    """What failed is left out and counted; the time to the whole answer is the end, and no first token."""
    source = tmp_path / "b.csv"
    source.write_text(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,7,3.5,ChatGPT,472,18,490,Conversation log\n"
        "45,,1.25,GPT-4,1087,230,1317,API log\n"
        "118,7,0,ChatGPT,417,0,417,Conversation log\n"
        "120,7,2,ChatGPT,20,3,23,Conversation log\n"
    )
    figures = imported(source)

    rows = [row for row in csv.DictReader(source.open()) if row["Response tokens"] != "0"]
    assert figures["requests"] == len(rows)
    assert figures["prompt_tokens"] == sum(int(row["Request tokens"]) for row in rows)
    assert figures["output_tokens"] == sum(int(row["Response tokens"]) for row in rows)
    assert figures["duration_s"] == 122 - 5
    assert figures["models"] == {"ChatGPT": 2, "GPT-4": 1}
    assert figures["sessions"] == 2
    assert figures["import"]["left_out"] == {"that failed at their source (0 response tokens)": 1}
    measured = samples(tmp_path)
    assert [took(each) for each in measured] == pytest.approx(
        [float(row["Elapsed time"]) for row in rows]
    )
    assert [first(each) for each in measured] == [None] * 3


def test_openai_batch(tmp_path: Path) -> None:
    """Bodies as they are, at the endpoint they name; Together's lines name none. Arrivals are spaced."""
    chat = {"model": "m", "messages": [{"role": "user", "content": "1"}]}
    rows = [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat},
        {"custom_id": "b", "body": chat},
        {
            "custom_id": "c",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "e", "input": "x"},
        },
        {"custom_id": "d", "id": "batch_req_1", "response": {"status_code": 200, "body": {}}},
    ]
    source = lines(tmp_path / "in.jsonl", rows)
    figures = imported(source, rate=4.0)

    asked = [row for row in rows if "body" in row]
    assert figures["requests"] == len(asked)
    assert figures["endpoints"] == {"chat": 2, "embeddings": 1}
    assert figures["duration_s"] == (len(asked) - 1) / 4
    assert figures["import"]["trust"] == {"arrival": "derived"}
    bodies = [
        json.loads(exchange.request.body or b"") for exchange in read_trace(tmp_path / "t.msgpack")
    ]
    assert bodies == [row["body"] for row in asked]


def test_sharegpt(tmp_path: Path) -> None:
    """A request for each turn of a user, with the history before it: one session for each conversation."""
    source = tmp_path / "s.json"
    talk = [("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    rows = [
        {"id": "x_0", "conversations": [{"from": who, "value": text} for who, text in talk]},
        {"id": "y_0", "conversations": [{"from": "gpt", "value": "only the model"}]},
        {
            "id": "z_0",
            "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
        },
    ]
    source.write_text(json.dumps(rows, indent=1))
    figures = imported(source)

    turns = sum(turn["from"] == "human" for row in rows for turn in row["conversations"])
    assert figures["requests"] == turns
    assert figures["sessions"] == 2
    assert figures["models"] == {"m/x": turns}
    assert figures["import"]["rows"] == turns + 1
    second = list(read_trace(tmp_path / "t.msgpack"))[1]
    assert [each["content"] for each in json.loads(second.request.body or b"")["messages"]] == [
        "a",
        "b",
        "c",
    ]


def har_entry(
    at: str, took: float, body: str, url: str = "https://api.example.com/v1/chat/completions"
) -> Any:
    return {
        "startedDateTime": at,
        "time": took,
        "request": {
            "method": "POST",
            "url": url,
            "headers": [
                {"name": "Authorization", "value": "Bearer sk-THIS-is-a-very-secret-key-1234"},
                {"name": "Content-Type", "value": "application/json"},
            ],
            "postData": {"mimeType": "application/json", "text": body},
        },
        "response": {
            "status": 200,
            "headers": [{"name": "content-encoding", "value": "br"}],
            "content": {
                "size": 1,
                "mimeType": "text/event-stream",
                "text": 'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
                'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
                '"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\ndata: [DONE]\n\n',
            },
        },
        "timings": {"send": 1, "wait": 2, "receive": 3},
    }


def test_har(tmp_path: Path) -> None:
    """Only what went to a model; a stream without the times of its tokens has no TTFT; no key is kept."""
    ask = json.dumps(
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    )
    entries = [
        har_entry("2026-03-01T10:00:00.250Z", 1500.5, ask),
        har_entry("2026-03-01T12:00:01.000+02:00", 20, "", "https://api.example.com/favicon.ico"),
        har_entry("2026-03-01T12:00:09.000+02:00", 700, ask),
    ]
    source = tmp_path / "x.har"
    source.write_text(
        json.dumps({"log": {"version": "1.2", "pages": [{"id": "p"}], "entries": entries}})
    )
    figures = imported(source)

    calls = [entry for entry in entries if entry["request"]["url"].endswith("completions")]
    assert figures["requests"] == len(calls)
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (9 * len(calls), 3 * len(calls))
    assert seconds(figures["first_arrival"]) == seconds(calls[0]["startedDateTime"])
    assert seconds(figures["last_arrival"]) == seconds(calls[-1]["startedDateTime"])
    assert figures["outcomes"] == {"ok": len(calls)}
    measured = samples(tmp_path)
    assert [took(each) for each in measured] == pytest.approx(
        [entry["time"] / 1000 for entry in calls]
    )
    assert [first(each) for each in measured] == [None] * len(calls)
    assert figures["import"]["left_out"] == {"not a request to a model": 1}
    data = read_trace(tmp_path / "t.msgpack")
    assert all("secret" not in repr(exchange) for exchange in data)


CLAUDE = [
    {"type": "user", "uuid": "u1", "parentUuid": None, "sessionId": "s1",
     "timestamp": "2026-06-01T10:00:00.000Z", "message": {"role": "user", "content": "hi"}},
    *({"type": "assistant", "uuid": f"a{number}", "parentUuid": "u1" if number == 1 else f"a{number - 1}",
       "sessionId": "s1", "requestId": "r1", "timestamp": f"2026-06-01T10:00:0{number + 1}.500Z",
       "message": {"id": "m1", "model": "claude-x", "role": "assistant", "content": [], "usage": {
           "input_tokens": 4, "cache_creation_input_tokens": 200, "cache_read_input_tokens": 1000,
           "output_tokens": output}}} for number, output in ((1, 1), (2, 30), (3, 0))),
    {"type": "user", "uuid": "u2", "parentUuid": "a3", "sessionId": "s1",
     "timestamp": "2026-06-01T10:00:09.000Z", "message": {"role": "user", "content": []}},
    {"type": "assistant", "uuid": "a4", "parentUuid": "u2", "sessionId": "s1", "requestId": "r2",
     "timestamp": "2026-06-01T10:00:11.000Z", "message": {"id": "m2", "model": "claude-x", "usage": {
         "input_tokens": 5, "cache_read_input_tokens": 1200, "output_tokens": 7}}},
]  # fmt: skip
COUNTED = [{"input_tokens": 900, "cached_input_tokens": 800, "output_tokens": 12}, {"input_tokens": 950,
           "cached_input_tokens": 900, "output_tokens": 5, "reasoning_output_tokens": 2}]  # fmt: skip
CODEX = [
    {"timestamp": f"2026-06-01T10:00:{at:02}.000Z", "type": kind, "payload": payload}
    for at, kind, payload in (
        (0, "session_meta", {"id": "t1"}), (1, "turn_context", {"model": "gpt-x"}),
        (2, "response_item", {"type": "message", "role": "user", "content": []}),
        *((at, "event_msg", {"type": "token_count", "info": {
            "last_token_usage": COUNTED[0], "total_token_usage": {"total_tokens": 912}}}) for at in (5, 6)),
        (7, "turn_context", "odd"), (8, "session_meta", None),
        (8, "response_item", {"type": "function_call_output", "call_id": "c", "output": "x"}),
        (9, "event_msg", {"type": "token_count", "info": {
            "last_token_usage": COUNTED[1], "total_token_usage": {"total_tokens": 1867}}}),
        (9, "event_msg", {"type": "token_count", "info": None}),
    )
]  # fmt: skip
ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
NAMED: dict[str, Any] = {
    "evalscope": [{"body": ASK, "timestamp": 1764350000.5, "request_id": "a", "completion_tokens": 9},
                  {"body": json.dumps(ASK), "timestamp": "2025-11-28T17:13:25Z"}],
    "bailian": [{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.25, "input_length": 20, "turn": 1,
                 "output_length": 7, "type": "text", "hash_ids": [5, 6]},
                {"chat_id": 2, "parent_chat_id": 1, "timestamp": 61.5, "input_length": 33, "turn": 2,
                 "output_length": 3, "type": "text", "hash_ids": [5, 6, 7]}],
    "azure": "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 00:00:00.5,2,40,7\n"
             "2024-10-15 00:00:09.25,0,30,5\n",
    "tracelab": "session_id,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms\n"
                "a,0,0,100,7,285.5\na,1,107,20,9,0\n",
    "weka": [{"id": name, "models": ["m"], "block_size": 64, "hash_id_scope": "local", "requests": [
        {"t": 0.0, "type": "s", "model": "m", "in": 128, "out": 3, "hash_ids": [1, 2], "api_time": 1.5,
         "ttft": 0.25},
        {"t": 4.0, "type": "n", "model": "m", "in": 130, "out": 4, "hash_ids": [1, 2], "api_time": 2},
        {"t": 5.0, "type": "subagent", "requests": [{"t": 0, "in": 5, "out": 1}] * 2}]}
        for name in ("x", "y")],
    "bedrock": [{"schemaType": "ModelInvocationLog", "timestamp": "2026-06-11T10:00:00Z", "requestId": "1",
                 "operation": "Converse", "modelId": "m", "input": {"inputTokenCount": 11},
                 "output": {"outputTokenCount": 8}},
                {"schemaType": "ModelInvocationLog", "timestamp": "2026-06-11T10:00:07Z", "requestId": "2",
                 "modelId": "m", "errorCode": "ThrottlingException"}],
    "helicone": [{"request_id": "1", "request_created_at": "2026-05-12T10:00:00Z", "delay_ms": 1100,
                  "time_to_first_token": 250, "request_body": ASK, "request_model": "m",
                  "request_path": "https://api.example.com/v1/chat/completions", "response_status": 200,
                  "response_body": {"choices": [{"message": {"role": "assistant", "content": "x"}}]},
                  "prompt_tokens": 12, "completion_tokens": 8},
                 {"request_id": "2", "request_created_at": "2026-05-12T10:00:01Z", "delay_ms": 5,
                  "request_body": ASK, "cache_reference_id": "1"}],
    "envoy gateway": [{"start_time": "2026-05-12T10:00:00.250Z", "duration": 1500, "response_code": 200,
               "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 21, "x-request-id": "q",
               "gen_ai.usage.output_tokens": "9", "session.id": "s"}],
    "claude-code": CLAUDE,
    "codex": CODEX,
}  # fmt: skip


def written_log(path: Path, log: Any) -> Path:
    """A log of SEEDS as a file, with what must stand beside it."""
    if path.name in BESIDE:
        path.with_suffix(".json").write_text(BESIDE[path.name])
    if isinstance(log, str):
        path.write_text(log)
        return path
    return lines(path, [log] if isinstance(log, dict) else log)


@pytest.mark.parametrize(
    ("name", "left_out", "times"),
    [
        ("evalscope", 0, (1764350000.5, 1764350005)),
        ("bailian", 0, (0, 61.25)),
        ("azure", 0, (1728950400.5, 1728950409.25)),
        ("tracelab", 0, None),
        ("weka", 4, (0, 4)),
        ("bedrock", 1, (1781172000, 1781172000)),
        ("helicone", 1, (1778580000, 1778580000)),
        ("envoy gateway", 0, (1778580000.25, 1778580000.25)),
        ("claude-code", 4, (1780308000, 1780308009)),
        ("codex", 8, (1780308002, 1780308008)),
    ],
)
def test_a_log_told_by_its_rows(
    tmp_path: Path, name: str, left_out: int, times: tuple[float, float] | None
) -> None:
    """Detected by content; rows, tokens and arrivals as a count of the log itself has them."""
    figures = imported(written_log(tmp_path / "log", NAMED[name]))

    assert figures["import"]["format"] == name.partition(" ")[0]
    assert sum(figures["import"]["left_out"].values()) == left_out
    prompts, outputs = {
        "evalscope": (0, 9), "bailian": (53, 10), "azure": (70, 12), "tracelab": (227, 16),
        "weka": (2 * 258, 2 * 7), "bedrock": (11, 8), "helicone": (12, 8), "envoy gateway": (21, 9),
        "claude-code": (1204 + 1205, 37), "codex": (1850, 17),
    }[name]  # fmt: skip
    assert tokens(tmp_path) == (prompts, outputs)
    if times is not None:
        assert spread(tmp_path) == pytest.approx(times)


def tokens(folder: Path) -> tuple[int, int]:
    """Prompt and output tokens that t.msgpack states, of answers or beside their requests."""
    total = Counter[str]()
    for exchange in read_trace(folder / "t.msgpack"):
        stated = dict(exchange.request.extra)
        if exchange.response is not None and exchange.response.body:
            usage = json.loads(exchange.response.body).get("usage") or {}
            stated = {
                "prompt_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
            }
        total.update({side: number or 0 for side, number in stated.items()})
    return total["prompt_tokens"], total["output_tokens"]


def spread(folder: Path) -> tuple[float, float]:
    """The first and the last arrival, s since 1970, or since the first where the log has no dates."""
    trace = read_trace(folder / "t.msgpack")
    stamps = [trace.header.wall_ns + exchange.request.arrive_ns for exchange in trace]
    return min(stamps) / NS, max(stamps) / NS


def test_an_answer_without_an_id_is_an_answer(tmp_path: Path) -> None:
    """Of two that name neither message nor request none is a block of the other."""
    rows = [dict(CLAUDE[0])]
    answer = {"type": "assistant", "parentUuid": rows[0]["uuid"], "sessionId": "s1"}
    usage = {"model": "m", "usage": {"input_tokens": 5, "output_tokens": 7}}
    rows += [
        {**answer, "uuid": name, "timestamp": f"2026-06-01T10:00:0{place}Z", "message": usage}
        for place, name in ((5, "x"), (6, "y"))
    ]

    assert imported(lines(tmp_path / "c.jsonl", rows))["requests"] == 2


def test_a_long_string_is_neither_held_nor_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row is left out; the next one is there, however the file is cut into pieces."""
    monkeypatch.setattr(row_module, "LONGEST", 1000)
    data = json.dumps([{"a": 'x"\\' * 3000}, {"b": 'y"\\'}]).encode()
    for size in (1, 7, 100):
        scan, elements, held = row_module._Scan([]), list[bytes | None](), 0
        for start in range(0, len(data), size):
            elements += scan.feed(data[start : start + size])
            held = max(held, len(scan._data))
        assert elements == [None, json.dumps({"b": 'y"\\'}).encode()]
        assert held <= 1000 + size


def test_rows_are_met_wherever_the_file_is_cut() -> None:
    """Also within the name that they stand under, and its escapes, with blanks before it."""
    data = json.dumps(
        {"a": ['x"\\'], "da": 1, "data": [{"b": '"]\\'}, {"c": 2}]}, indent=1
    ).encode()
    for cut in range(len(data)):
        scan = row_module._Scan([b"data"])
        elements = [*scan.feed(data[:cut]), *scan.feed(data[cut:])]
        assert [json.loads(each or b"") for each in elements] == [{"b": '"]\\'}, {"c": 2}]


def test_an_agent_session_has_one_exchange_an_answer(tmp_path: Path) -> None:
    """Arrivals are when the prompt was there, and so derived; the last block ends the answer."""
    figures = imported(lines(tmp_path / "c.jsonl", CLAUDE))

    assert [took(each) for each in samples(tmp_path)] == pytest.approx([4.5, 2.0])
    assert [each.cache_creation_tokens for each in samples(tmp_path)] == [200, 0]
    assert figures["import"]["trust"] == {"arrival": "derived", "end": "derived"}
    assert figures["sessions"] == 1
    assert figures["import"]["left_out"] == {
        "of an answer that another row began": 2, "not an answer of a model": 2
    }  # fmt: skip


def test_a_row_of_a_session_whose_kind_is_no_text_is_left_out(tmp_path: Path) -> None:
    odd = {**CODEX[0], "type": "event_msg", "payload": {"type": [{"role": "user"}]}}
    figures = imported(lines(tmp_path / "c.jsonl", [odd, *CODEX]))

    assert figures["requests"] == imported(lines(tmp_path / "d.jsonl", CODEX))["requests"]


def test_hash_ids_of_one_conversation_are_no_others(tmp_path: Path) -> None:
    """Weka's ids count within a conversation: equal ids of two of them are other texts."""
    imported(lines(tmp_path / "w.jsonl", NAMED["weka"]))

    texts = [
        json.loads(exchange.request.body or b"")["messages"][0]["content"]
        for exchange in read_trace(tmp_path / "t.msgpack")
    ]
    assert len(texts) == 4  # both begin together: the first of each, then the second of each
    assert alike(texts[0], texts[2]) > 250
    assert alike(texts[0], texts[1]) < 40
    assert [first(each) for each in samples(tmp_path)] == [pytest.approx(0.25)] * 2 + [None] * 2


def test_no_format_is_taken_for_another(tmp_path: Path) -> None:
    """Every row of every log is told by its own importer, before any other."""
    documents = [members for importer in IMPORTERS.values() for members in importer.documents]
    for name, log in SEEDS.items():
        path = tmp_path / name
        path.write_bytes(log) if isinstance(log, bytes) else written_log(path, log)
        rows = [row for row in read_rows(path, shape(path, documents)) if isinstance(row, dict)]
        told = [
            next((kind for kind in IMPORTERS if IMPORTERS[kind].matches(row)), None) for row in rows
        ]
        assert name == "map" or set(told) == {name.partition(" ")[0]}


def test_the_page_of_formats_is_the_table(tmp_path: Path) -> None:
    """docs/import.md has a row for each importer, and none for what is no importer."""
    page = (ROOT / "docs" / "import.md").read_text().partition("## Any log")[0]
    first_cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [word.strip(" `") for cell in first_cells for word in cell.split(",")]

    assert sorted(set(named) - {"--format"}) == sorted(IMPORTERS)


@pytest.mark.parametrize("value", [2.5, "2.5", True, None, "x", -1, 2**31, float("nan")])
def test_what_is_no_count_is_none(value: object) -> None:
    """A fraction of a token is another unit, and never rounded."""
    assert count(value) is None
    assert (count(2), count("2"), count(2.0), count("2.0")) == (2, 2, 2, 2)


def dumped_flows() -> bytes:
    """What mitmproxy itself writes: a call of a model, gzip, one that failed, another site, no HTTP."""
    file = io.BytesIO()
    writer = FlowWriter(file)
    for number, (path, failed) in enumerate(
        [("/v1/chat/completions", False), ("/v1/chat/completions", True), ("/favicon.ico", False)]
    ):
        flow = tflow.tflow(resp=not failed, err=failed)
        flow.request.host, flow.request.path, flow.request.method = "api.example.com", path, "POST"
        flow.request.headers["host"] = "api.example.com"
        flow.request.headers["content-encoding"] = "gzip"
        flow.request.raw_content = gzip.compress(json.dumps(ASK).encode())
        flow.request.timestamp_start = 1764350000.25 + number
        if flow.response is not None:
            flow.response.text = json.dumps({"choices": [], "usage": USED})
            flow.response.headers["content-type"] = "application/json"
            flow.response.timestamp_end = 1764350001.75 + number
        if flow.error is not None:
            flow.error.timestamp = 1764350002
        writer.add(flow)
    writer.add(tflow.ttcpflow())
    return file.getvalue()


USED = {"prompt_tokens": 9, "completion_tokens": 3}
MONKEYS = "\n\U0001f435\U0001f648\U0001f649\n"


def gor() -> bytes:
    """GoReplay's records, of before 1.3 (the answer's time counts from its request) and of 1.3."""
    body = json.dumps(ASK)
    ask = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api.example.com\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    said = json.dumps({"choices": [], "usage": USED})
    answer = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"{len(said):x}\r\n{said}\r\n0\r\n\r\n"
    )
    at, ids = 1764350000_250000000, [letter * 24 for letter in "abcd"]
    records = [
        f"1 {ids[0]} {at} -1\n{ask}",
        f"1 {ids[1]} {at + NS} 1000\n{ask}",
        f"2 {ids[1]} {at + 2 * NS} {NS // 2}\n{answer}",
        f"2 {ids[0]} {at} {3 * NS}\n{answer}",
        f"3 {ids[0]} {at} {3 * NS}\n{answer}",
        f"1 {ids[2]} {at + 4 * NS}\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        f"1 {ids[3]} {at + 5 * NS} -1\n{ask[:-4]}",
    ]
    return "".join(record + MONKEYS for record in records).encode()


def test_mitmproxy(tmp_path: Path) -> None:
    """Flows that mitmproxy wrote, read without it: bodies decoded, an error a failure, the rest counted."""
    source = tmp_path / "dump"
    source.write_bytes(dumped_flows())
    figures = imported(source)

    assert figures["import"]["format"] == "mitmproxy"
    assert figures["requests"] == 2
    assert figures["import"]["left_out"] == {"not a request to a model": 2}
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (9, 3)
    assert seconds(figures["first_arrival"]) == pytest.approx(1764350000.25)
    assert took(samples(tmp_path)[0]) == pytest.approx(1.5)
    bodies = [exchange.request.body for exchange in read_trace(tmp_path / "t.msgpack")]
    assert bodies == [json.dumps(ASK).encode()] * 2


def test_a_flow_of_an_old_mitmproxy_is_left_out(tmp_path: Path) -> None:
    """With what makes a new one of it; another of the last three years is read."""
    source = tmp_path / "dump"
    source.write_bytes(dumped_flows().replace(b"7:version;2:21#", b"7:version;2:16#"))
    with pytest.raises(InputError, match="before 9"):
        imported(source)
    source.write_bytes(dumped_flows().replace(b"7:version;2:21#", b"7:version;2:18#"))
    assert imported(source)["requests"] == 2


def test_goreplay(tmp_path: Path) -> None:
    """Pairs by id, chunks joined; the end is right by the rule of the version that wrote it."""
    source = tmp_path / "x.gor"
    source.write_bytes(gor())
    figures = imported(source)

    assert figures["import"]["format"] == "goreplay"
    assert figures["requests"] == 2
    assert sum(figures["import"]["left_out"].values()) == 3
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (18, 6)
    assert [took(each) for each in samples(tmp_path)] == pytest.approx([3.0, 1.5])
    assert seconds(figures["first_arrival"]) == pytest.approx(1764350000.25)
    assert seconds(figures["last_arrival"]) == pytest.approx(1764350001.25)


def test_goreplay_counts_requests_of_one_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a request, and none of them fills the room of those that wait for an answer."""
    record, mark, _ = gor().partition(MONKEYS.encode())
    monkeypatch.setattr(recordings, "WAITING_BYTES", 2 * len(record))
    (tmp_path / "x.gor").write_bytes((record + mark) * 9)

    assert imported(tmp_path / "x.gor")["requests"] == 9


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_vcrpy(tmp_path: Path, kind: str) -> None:
    """A cassette of an SDK: the request as it was; nothing tells when."""
    source = ROOT / "fixtures" / "cassettes" / "openai-chat-stream.yaml"
    document = yaml.safe_load(source.read_text())
    path = tmp_path / "cassette"
    path.write_text(source.read_text() if kind == "yaml" else json.dumps(document, indent=4))
    figures = imported(path, rate=2.0)

    assert figures["import"]["format"] == "vcrpy"
    assert figures["requests"] == len(document["interactions"])
    asked = [json.loads(each["request"]["body"]) for each in document["interactions"]]
    bodies = [
        json.loads(exchange.request.body or b"") for exchange in read_trace(tmp_path / "t.msgpack")
    ]
    assert bodies == asked
    assert figures["import"]["trust"] == {"arrival": "derived"}


def test_a_pickle_is_refused_with_what_converts_it(tmp_path: Path) -> None:
    """SGLang dumps requests so; it is never loaded, and the line that makes JSONL of it works."""
    path = tmp_path / "dump.pkl"
    path.write_bytes(pickle.dumps([(SimpleNamespace(text="hi"), {}, 1764350000.5, 1764350001.5)]))
    with pytest.raises(InputError, match="pickle") as refused:
        imported(path)

    command = str(refused.value).partition("trusted: ")[2].partition(" FILE >")[0]
    words = [sys.executable, *shlex.split(command)[1:], str(path)]
    (tmp_path / "log.jsonl").write_bytes(
        subprocess.run(words, capture_output=True, check=True).stdout
    )
    fields = ("arrival=start:s", "end=end:s", "prompt=req.text")
    assert imported(tmp_path / "log.jsonl", *fields)["requests"] == 1


LOG = [
    {"ts": 1764350000123, "req": {"model": "m", "messages": [{"role": "user", "content": "a"}]},
     "took": 1.5, "first": 0.25, "use": {"in": 9, "out": 11}, "text": "hello there"},
    {"ts": 1764350001123, "req": '{"model": "m", "messages": []}', "took": 2.5, "first": 0.5,
     "use": {"in": 19, "out": 21}, "text": "more"},
    {"ts": 1764350002123, "req": '{"model": "m", "messages": [{"role": "us', "took": 2.5},
    {"ts": 1764350003123, "req": {"model": "m", "messages": []}, "took": 2.5, "first": 2.5,
     "use": {"in": 1, "out": 2}, "text": "x"},
    {"ts": 1764350004123, "req": {"model": "m", "messages": []}, "took": -1},
    {"ts": 17, "req": {"model": "m", "messages": []}, "took": 1},
]  # fmt: skip
MAP = (
    "--map", "body=req", "--map", "duration=took:s", "--map", "ttft=first:s", "--map", "answer=text",
    "--map", "prompt_tokens=use.in", "--map", "output_tokens=use.out",
)  # fmt: skip


def test_any_log_by_a_map(tbench: Run, tmp_path: Path) -> None:
    """Times, tokens and bodies from where the map says; a first token at the end is none; no ITL."""
    source = lines(tmp_path / "log.jsonl", LOG)
    figures = imported(source, "arrival=ts:ms", *MAP[1::2])

    assert figures["requests"] == 3
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (9 + 19 + 1, 11 + 21 + 2)
    assert seconds(figures["first_arrival"]) == pytest.approx(LOG[0]["ts"] / 1000, abs=1e-6)
    assert seconds(figures["last_arrival"]) == pytest.approx(LOG[3]["ts"] / 1000, abs=1e-6)
    made = figures["import"]
    assert made["left_out"] == {
        "whose body is cut short or no JSON": 1,
        "that end before they arrive, or years later": 1,
        "with an arrival far from the others': check the unit": 1,
    }
    assert made["rows"] == figures["requests"] + sum(made["left_out"].values()) == len(LOG)
    assert made["trust"] == {"arrival": "reported", "end": "derived", "first_token": "derived"}
    assert made["first_tokens_refused"] == {"equal to the end": 1}
    measured = samples(tmp_path)
    assert [first(each) for each in measured] == pytest.approx([0.25, 0.5, None])
    assert [took(each) for each in measured] == pytest.approx([1.5, 2.5, 2.5])
    made = tbench("trace", "import", source, "--map", "arrival=ts:ms", *MAP, "-o", "u.msgpack")
    assert (
        "3 exchanges of 6 rows (map); 3 left out: 1 whose body is cut short or no JSON" in made.out
    )
    assert "left out      1 whose body is cut short" in tbench("trace", "info", "u.msgpack").out
    undated = ("--map", "messages=req.messages", "--map", "answer=text", "-o", "v.msgpack")
    told = tbench("trace", "import", source, "--map", "arrival=ts:ms", *undated).err
    assert "1 answer without an end: not in the trace" in told
    assert "1 request of no known model, asked of unknown-model" in told
    report = json.loads(tbench("report", "u.msgpack", "--json").out)
    assert report["tpot_s"]["mean"] == pytest.approx((1.25 / 10 + 2 / 20) / 2)
    assert report["itl_s"]["p50"] is None


def test_a_log_that_stands_newest_first_is_said(tbench: Run, tmp_path: Path) -> None:
    """Which attempt repeats which is known of rows in order of time only."""
    rows = [
        {"at": 10 + n, "done": 10.5 + n, "p": f"ask {n // 2}", "status": (503, 200)[n % 2]}
        for n in range(6)
    ]
    names = ("arrival=at:s", "end=done:s", "prompt=p", "status=status")
    words = [word for name in names for word in ("--map", name)]
    for order, retries, is_said in (rows, 3, False), (rows[::-1], 0, True):
        source = lines(tmp_path / f"{retries}.jsonl", order)
        done = tbench("trace", "import", source, *words, "-o", f"{retries}.msgpack")

        assert ("rows stand newest first (5 of 6" in done.err) is is_said
        assert trace_info(read_trace(tmp_path / f"{retries}.msgpack"))["retries"] == retries


def test_an_empty_cell_leaves_the_unit_certain(tmp_path: Path) -> None:
    """Of a table, where an answer never came."""
    (tmp_path / "l.csv").write_text("ts,done,p\n1767225600,1767225602,a\n1767225601,,b\n")
    figures = imported(tmp_path / "l.csv", "arrival=ts", "end=done", "prompt=p")

    assert (figures["requests"], figures["responses"], figures["duration_s"]) == (2, 1, 2.0)


def test_a_unit_is_certain_or_refused(tmp_path: Path) -> None:
    """A number of this century in one unit alone is certain, and said; one from a log's start is not."""
    source = lines(tmp_path / "log.jsonl", LOG[:2])
    relative = lines(tmp_path / "relative.jsonl", [{**row, "ts": at} for at, row in enumerate(LOG)])

    (notice,) = resolve([source], tokens=calibrated(4), model="m", fields=["arrival=ts"]).notices
    assert notice == "arrival=ts: read as ms, by its range; to state it: --map arrival=ts:ms"
    with pytest.raises(InputError, match="arrival=ts:s, :ms"):
        imported(relative, "arrival=ts", *MAP[1::2])
    with pytest.raises(InputError, match="say its unit"):
        imported(source, "duration=took")
    assert imported(relative, "arrival=ts:s", *MAP[1::2])["import"]["clock"] == "from its start"


LITELLM = [
    {"id": "1", "call_type": "acompletion", "status": "success", "model": "gpt-4o", "cache_hit": False,
     "startTime": 1764350000.5, "endTime": 1764350002.5, "completionStartTime": 1764350001.0,
     "messages": [{"role": "user", "content": "hi"}], "model_parameters": {"stream": True, "max_tokens": 9},
     "response": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "yo"}}]},
     "prompt_tokens": 11, "completion_tokens": 5, "api_base": "https://api.example.com/v1"},
    {"id": "2", "call_type": "acompletion", "status": "success", "model": "gpt-4o", "cache_hit": None,
     "startTime": 1764350003.0, "endTime": 1764350004.0, "completionStartTime": 1764350004.0,
     "messages": [{"role": "user", "content": "ho"}], "model_parameters": {},
     "response": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "yo"}}]},
     "prompt_tokens": 12, "completion_tokens": 6},
    {"id": "3", "call_type": "acompletion", "status": "failure", "model": "gpt-4o", "response": {},
     "startTime": 1764350005.0, "endTime": 1764350005.25, "completionStartTime": 1764350005.25,
     "messages": [{"role": "user", "content": "no"}], "prompt_tokens": 0, "completion_tokens": 0,
     "error_information": {"error_code": "429", "error_class": "RateLimitError", "error_message": "slow"}},
    {"id": "4", "call_type": "acompletion", "status": "success", "cache_hit": True, "model": "gpt-4o",
     "startTime": 1764350006.0, "endTime": 1764350006.1, "messages": [{"role": "user", "content": "hi"}]},
    {"id": "5", "call_type": "acompletion", "status": "success", "model": "gpt-4o",
     "startTime": 1764350007.0, "endTime": 1764350008.0,
     "messages": [{"role": "user", "content": "ab... (litellm_truncated skipped 900 chars) ...z"}]},
    {"id": "6", "call_type": "alist_batches", "status": "success", "startTime": 1764350009.0,
     "endTime": 1764350009.5},
]  # fmt: skip


@pytest.mark.parametrize(
    "place",
    [
        {"metadata": {"session_id": "s"}},
        {"metadata": {"session_id": 7}},
        {"metadata": {"requester_metadata": {"trace_id": "s"}}},
        {"proxy_server_request": {"body": {"litellm_session_id": "s"}}},
    ],
)
def test_litellms_clients_name_their_sessions(tmp_path: Path, place: dict[str, Any]) -> None:
    """Two requests of one, and one that names none, whose trace id LiteLLM drew."""
    rows = [{**row, "trace_id": str(number)} for number, row in enumerate(LITELLM[:3])]
    rows[:2] = [{**row, **place} for row in rows[:2]]

    assert imported(lines(tmp_path / "l.jsonl", rows))["sessions"] == 2


def test_a_refusal_has_no_tokens(tmp_path: Path) -> None:
    """Whatever a log counts of it: Helicone's rows as those of others."""
    refused = {"response_status": 429, "response_body": {"error": {"message": "slow"}}}
    figures = imported(lines(tmp_path / "h.jsonl", [{**NAMED["helicone"][0], **refused}]))

    assert figures["outcomes"] == {"http_error": 1}
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (None, None)


@pytest.mark.parametrize("name", ["request_properties", "properties"])
def test_helicones_sessions_are_a_property(tmp_path: Path, name: str) -> None:
    (row, *_) = NAMED["helicone"]
    rows = [
        {**row, "request_id": str(number), name: {"Helicone-Session-Id": session}}
        for number, session in enumerate("aab")
    ]

    assert imported(lines(tmp_path / "h.jsonl", rows))["sessions"] == 2


def test_litellm(tmp_path: Path) -> None:
    """A first token at the end is none; what no model answered, or was cut, is no call."""
    figures = imported(lines(tmp_path / "l.jsonl", LITELLM))

    rows = LITELLM[:3]
    assert figures["requests"] == len(rows)
    assert figures["prompt_tokens"] == sum(row["prompt_tokens"] for row in rows)
    assert figures["output_tokens"] == sum(row["completion_tokens"] for row in rows)
    assert seconds(figures["first_arrival"]) == rows[0]["startTime"]
    assert seconds(figures["last_arrival"]) == rows[-1]["startTime"]
    assert figures["outcomes"] == {"ok": 2, "http_error": 1}
    assert figures["import"]["first_tokens_refused"] == {"equal to the end": 2}
    assert figures["import"]["left_out"] == {
        "answered from a cache, never sent to a model": 1,
        "whose body is cut short or no JSON": 1,
        "not a request to a model": 1,
    }
    measured = samples(tmp_path)
    assert [first(each) for each in measured] == pytest.approx([0.5, None, None])
    assert [took(each) for each in measured] == pytest.approx([2.0, 1.0, 0.25])
    assert [each.status for each in measured] == [200, 200, 429]
    (asked, *_) = read_trace(tmp_path / "t.msgpack")
    assert json.loads(asked.request.body or b"") == {
        "model": "gpt-4o",
        "stream": True,
        "max_tokens": 9,
        "messages": rows[0]["messages"],
    }


LANGFUSE = [
    {"id": "o1", "trace_id": "t1", "type": "GENERATION", "start_time": "2026-05-29 13:46:19.963000",
     "end_time": "2026-05-29 13:46:21.963000", "completion_start_time": "2026-05-29 13:46:20.213000",
     "provided_model_name": "gpt-4o", "model_parameters": '{"temperature": 0.5}', "level": "DEFAULT",
     "input": '[{"role":"user","content":"hi"}]', "output": '{"role":"assistant","content":"yo"}',
     "usage_details": {"input": 7, "input_cached_tokens": 3, "output": 4, "total": 14}, "session_id": "s"},
    {"id": "o1", "trace_id": "t1", "type": "GENERATION", "start_time": "2026-05-29 13:46:19.963000",
     "input": "hi"},
    {"id": "o2", "trace_id": "t1", "type": "SPAN", "start_time": "2026-05-29 13:46:19.900000"},
    {"id": "o3", "trace_id": "t2", "type": "GENERATION", "start_time": "2026-05-29 13:47:00.000000",
     "end_time": "2026-05-29 13:47:01.500000", "completion_start_time": None, "level": "ERROR",
     "status_message": "boom", "input": '{"messages":[{"role":"user","content":"q"}],"tools":[]}',
     "usage_details": {}},
    {"id": "o4", "trace_id": "t3", "type": "GENERATION", "start_time": "2026-05-29 13:48:00.000000",
     "end_time": "2026-05-29 13:48:01.000000", "input": None, "output": None,
     "usage_details": {"input": 40, "output": 8}},
]  # fmt: skip


def test_langfuse(tmp_path: Path) -> None:
    """Generations alone, each once, in UTC; without content a prompt of the counted tokens."""
    figures = imported(lines(tmp_path / "l.jsonl", LANGFUSE))

    rows = {row["id"]: row for row in reversed(LANGFUSE) if row["type"] == "GENERATION"}
    usage = [row.get("usage_details", {}) for row in rows.values()]
    assert figures["requests"] == len(rows)
    assert figures["prompt_tokens"] == sum(
        n for each in usage for k, n in each.items() if "input" in k
    )
    assert figures["output_tokens"] == sum(
        n for each in usage for k, n in each.items() if "output" in k
    )
    assert figures["first_arrival"] == "2026-05-29T13:46:19.963000Z"
    assert figures["last_arrival"] == "2026-05-29T13:48:00.000000Z"
    assert figures["outcomes"] == {"ok": 2, "http_error": 1}
    assert figures["import"]["left_out"] == {
        "that stand in the log twice": 1,
        "not a generation": 1,
    }
    assert figures["import"]["bodies"] == {"rebuilt": 2, "written": 1}
    measured = samples(tmp_path)
    assert [first(each) for each in measured] == pytest.approx([0.25, None, None])
    assert [took(each) for each in measured] == pytest.approx([2.0, 1.5, 1.0])


def test_a_body_may_name_the_model(tmp_path: Path) -> None:
    """What Langfuse was given has it, where no column has: it is what was asked, and is not unknown."""
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    row = {"type": "GENERATION", "start_time": "2026-05-29 13:46:19", "trace_id": "t"}
    rows = [
        {**row, "id": "1", "input": {"model": "m/y", **asked}},
        {**row, "id": "2", "input": asked},
    ]
    source = lines(tmp_path / "l.jsonl", rows)
    job = resolve([source], tokens=calibrated(4), model="m/x")

    assert survey(job, quiet).unnamed == 1
    assert imported(source)["models"] == {"m/y": 1, "m/x": 1}


def span(
    number: int, attributes: dict[str, Any], *, took: float = 2.0, **members: Any
) -> dict[str, Any]:
    start = 1764350000 * NS + number * NS

    def typed(value: Any) -> dict[str, Any]:
        kinds = {str: "stringValue", bool: "boolValue", float: "doubleValue"}
        return {"intValue": str(value)} if type(value) is int else {kinds[type(value)]: value}

    return {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": f"{number:016x}",
        "name": "chat m",
        "kind": 3,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + round(took * NS)),
        "attributes": [{"key": key, "value": typed(value)} for key, value in attributes.items()],
        **members,
    }


CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "m",
}
PARTS = json.dumps(
    [
        {"role": "user", "parts": [{"type": "text", "content": "weather?"}]},
        {"role": "assistant", "parts": [
            {"type": "tool_call", "id": "c1", "name": "get", "arguments": {"city": "Bern"}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rain"}]},
    ]
)  # fmt: skip


@pytest.mark.parametrize("layout", ["lines", "document"])
def test_otlp(tmp_path: Path, layout: str) -> None:
    """Spans of inference alone, nanoseconds exact; messages and tools in the shape that is sent."""
    chunk = {
        "name": "gen_ai.content.completion.chunk",
        "timeUnixNano": str(1764350001 * NS + NS // 2),
    }
    counts = {"gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 4}
    spans = [
        span(0, {**CHAT, **counts, "gen_ai.input.messages": PARTS, "gen_ai.request.max_tokens": 64,
                 "gen_ai.response.time_to_first_chunk": 0.25}),
        span(1, {**CHAT, **counts, "gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "old"},
             events=[chunk]),
        span(2, {"gen_ai.operation.name": "invoke_agent", **counts}),
        span(3, {**CHAT, "gen_ai.usage.prompt_tokens": 20, "gen_ai.usage.completion_tokens": 2}),
        span(4, {**CHAT, "gen_ai.input.messages": PARTS, "error.type": "429"},
             status={"code": 2, "message": "slow down"}),
        span(5, {"http.method": "GET"}),
    ]  # fmt: skip
    wrapped = [{"resourceSpans": [{"scopeSpans": [{"spans": [each]}]}]} for each in spans]
    source = lines(tmp_path / "spans.jsonl", wrapped)
    if layout == "document":
        scopes = [each["resourceSpans"][0] for each in wrapped]
        source.write_text(json.dumps({"resourceSpans": scopes}, indent=2))
    figures = imported(source)

    inference = [each for each in spans if {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}
                 in each["attributes"]]  # fmt: skip
    assert figures["requests"] == len(inference)
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (30 + 30 + 20, 4 + 4 + 2)
    times = [int(each["startTimeUnixNano"]) for each in inference]
    assert arrivals(tmp_path / "t.msgpack") == times
    assert figures["import"]["left_out"] == {"not a span of inference": 2}
    assert figures["outcomes"] == {"ok": 3, "http_error": 1}
    measured = samples(tmp_path)
    assert [first(each) for each in measured] == pytest.approx([0.25, 0.5, None, None])
    asked = json.loads(next(iter(read_trace(tmp_path / "t.msgpack"))).request.body or b"")
    assert asked["max_tokens"] == 64
    assert [each["role"] for each in asked["messages"]] == ["user", "assistant", "tool"]
    call = asked["messages"][1]["tool_calls"][0]["function"]
    assert call == {"name": "get", "arguments": '{"city":"Bern"}'}
    assert asked["messages"][2] == {"role": "tool", "tool_call_id": "c1", "content": "rain"}


def test_whole_numbers_of_a_span_are_exact(tmp_path: Path) -> None:
    """A seed of 63 bits, and a session that is a number."""
    seed = 2**63 - 25
    attributes = {
        **CHAT,
        "gen_ai.input.messages": PARTS,
        "gen_ai.request.seed": seed,
        "session.id": 7,
    }
    imported(lines(tmp_path / "s.jsonl", [{"spans": [span(1, attributes)]}]))

    (exchange,) = read_trace(tmp_path / "t.msgpack")
    assert json.loads(exchange.request.body or b"")["seed"] == seed
    assert exchange.request.header("x-session-id")


def test_csv_and_gzip(tmp_path: Path) -> None:
    """The same log as a table; a row with too few columns is left out."""
    source = tmp_path / "log.csv.gz"
    rows = "when,prompt,in\n2026-01-01T00:00:00Z,hi,5\n2026-01-01T00:00:02Z\n2026-01-01T01:00:03+01:00,ho,6\n"
    source.write_bytes(gzip.compress(rows.encode()))
    figures = imported(source, "arrival=when:iso", "prompt=prompt")

    assert (figures["requests"], figures["duration_s"]) == (2, 3.0)
    assert figures["import"]["left_out"] == {"with another number of columns": 1}
    assert figures["endpoints"] == {"completions": 2}


def test_parquet(tmp_path: Path) -> None:
    """Timestamps of Parquet's own type, and messages as nested lists."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    when = [datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC) for second in (0, 5)]
    messages = [[{"role": "user", "content": text}] for text in ("a", "b")]
    parquet.write_table(pyarrow.table({"t": when, "messages": messages}), tmp_path / "log.parquet")
    figures = imported(tmp_path / "log.parquet", "arrival=t:iso", "messages=messages")

    assert (figures["requests"], figures["duration_s"]) == (2, 5.0)


def test_parquet_of_pandas_has_nanoseconds(tmp_path: Path) -> None:
    """Times that no date of Python's holds, in a zone and in none, and a span of them beside."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    at = [1_767_225_600 * NS + 1, 1_767_225_601 * NS + 3]
    columns = {
        "t": pa.array(at, pa.timestamp("ns")),
        "z": pa.array(at, pa.timestamp("ns", tz="Europe/Berlin")),
        "ns": pa.array([7001, 7002], pa.duration("ns")),
        "us": pa.array([7, 8], pa.duration("us")),
        "p": ["a", "b"],
    }
    parquet.write_table(pa.table(columns), tmp_path / "log.parquet")
    for name, unit, ends in (("t", "ns", [7001, 7004]), ("z", "us", [7000, 8002])):
        imported(
            tmp_path / "log.parquet", f"arrival={name}:iso", f"duration={unit}:{unit}", "prompt=p"
        )
        trace = read_trace(tmp_path / "t.msgpack")
        assert [trace.header.wall(item.request.arrive_ns) for item in trace] == at
        assert [item.response and item.response.end_ns for item in trace] == [ends[0], NS + ends[1]]


@pytest.mark.parametrize("name", ["bailian", "bedrock", "helicone", "envoy gateway"])
def test_parquet_holds_what_json_lines_hold(tmp_path: Path, name: str) -> None:
    """A log as Parquet, a row group a row, members that are missing as nulls: the same exchanges."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    from_lines = imported(lines(tmp_path / "log.jsonl", NAMED[name]))
    expected = tokens(tmp_path), spread(tmp_path)
    path = tmp_path / "log.parquet"
    columns = dict.fromkeys(column for row in NAMED[name] for column in row)
    table = pyarrow.Table.from_pylist([{**columns, **row} for row in NAMED[name]])
    parquet.write_table(table, path, row_group_size=1)
    from_parquet = imported(path)

    assert (tokens(tmp_path), spread(tmp_path)) == expected
    for key in ("format", "rows", "exchanges", "left_out", "trust"):
        assert from_parquet["import"][key] == from_lines["import"][key]


def test_a_coarse_clock_is_said_and_spread_only_when_asked(tmp_path: Path) -> None:
    """Ten requests at each tick of three seconds; spread, each stays within its tick."""
    rows = [{**MOONCAKE[2], "timestamp": 3000 * (number // 10)} for number in range(100)]
    source = lines(tmp_path / "m.jsonl", rows)
    as_logged = imported(source)
    assert as_logged["import"]["tick_ns"] == 3 * NS
    assert not as_logged["import"]["spread"]
    assert len(set(arrivals(tmp_path / "t.msgpack"))) == 10

    spread = imported(source, spread=True, seed=5)
    assert spread["import"]["trust"]["arrival"] == "derived"
    redact(read_trace(tmp_path / "t.msgpack"), tmp_path / "drop.msgpack", "drop", blanks())
    assert trace_info(read_trace(tmp_path / "drop.msgpack"))["import"]["spread"]
    times = arrivals(tmp_path / "t.msgpack")
    assert len(set(times)) == 100
    assert sorted(at // (3 * NS) for at in times) == [number // 10 for number in range(100)]


def test_no_secret_gets_in(tmp_path: Path) -> None:
    """As of a capture: credentials in bodies are masked, identities are pseudonyms, and the file is 0600."""
    key = "sk-proj-THISisAverySECRETkey1234567890"
    body = {
        "model": "m",
        "messages": [],
        "user": "jane@example.com",
        "tools": [{"type": "mcp", "authorization": key}],
    }
    source = lines(
        tmp_path / "log.jsonl", [{"ts": LOG[0]["ts"], "req": body, "sid": "jane@example.com"}]
    )
    imported(source, "arrival=ts:ms", "body=req", "session=sid")

    (exchange,) = read_trace(tmp_path / "t.msgpack")
    assert key not in repr(exchange)
    assert "jane@example.com" not in repr(exchange)
    assert stat.S_IMODE((tmp_path / "t.msgpack").stat().st_mode) == 0o600


def test_what_is_no_log_is_refused(tbench: Run, tmp_path: Path) -> None:
    """One line each, exit code 2, and no file left: a pickle, an empty file, an unknown format, no row."""
    (tmp_path / "dump.pkl").write_bytes(b"\x80\x04\x95\x00\x00\x00\x00.")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    lines(tmp_path / "other.jsonl", [{"colour": "red"}])
    lines(tmp_path / "none.jsonl", [{"timestamp": "soon", "input_length": 5}])
    (tmp_path / "twice.csv").write_text("timestamp,input_length,input_length\n0,5,7\n")
    for name, word in (
        ("dump.pkl", "pickle"),
        ("empty.jsonl", "empty"),
        ("other.jsonl", "colour"),
        ("none.jsonl", "1 without a readable arrival"),
        ("twice.csv", "2 columns are called 'input_length'; rename all but one"),
        ("missing.jsonl", "No such file"),
    ):
        done = tbench("trace", "import", name, "-o", "t.msgpack")
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
        assert word in done.err
        assert not list(tmp_path.glob("t.msgpack*"))


def test_a_file_that_cannot_be_read_says_why(tbench: Run, tmp_path: Path) -> None:
    """UTF-16 is told from a pickle, a pipe from a file that is broken, and two formats from one."""
    row = {"timestamp": 0, "input_length": 5, "output_length": 1}
    (tmp_path / "wide.jsonl").write_text(json.dumps(row), encoding="utf-16")
    packers = {"zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}
    for name, pack in packers.items():
        (tmp_path / f"log.{name}").write_bytes(pack(json.dumps(row).encode()))
    shutil.copy(ROOT / "fixtures" / "example.msgpack", tmp_path / "ours.msgpack")
    lines(tmp_path / "mooncake.jsonl", [row])
    (tmp_path / "azure.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4,5\n"
    )
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)  # or opening it for reading waits for a writer
    try:
        for names, word in (
            (["wide.jsonl"], "UTF-16: convert it to UTF-8"),
            (
                ["log.zst"],
                "log.zst: packed by zstd, bzip2, xz or zip, which is not read: unpack it",
            ),
            (
                ["log.bz2"],
                "log.bz2: packed by zstd, bzip2, xz or zip, which is not read: unpack it",
            ),
            (["log.xz"], "log.xz: packed by zstd, bzip2, xz or zip, which is not read: unpack it"),
            (["ours.msgpack"], "a trace or a run of tbench, which needs no import"),
            (["pipe"], "pipe: a pipe can be read once"),
            (["mooncake.jsonl", "azure.csv"], "azure.csv is azure: import each format by itself"),
        ):
            done = tbench("trace", "import", *names, "-o", "t.msgpack")
            assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
            assert word in done.err
    finally:
        os.close(pipe)


@pytest.mark.parametrize("last", ["5", '"text"', '""', "null"])
def test_the_last_row_counts_whatever_it_is(tmp_path: Path, last: str) -> None:
    """A number or a text at the end of an array has no comma behind it, and is a row all the same."""
    talk = json.dumps({"conversations": [{"from": "human", "value": "hi"}]})
    (tmp_path / "talks.json").write_text(f"[{talk}, {last} ]")
    made = imported(tmp_path / "talks.json")["import"]
    assert (made["rows"], made["left_out"]) == (2, {"not a JSON object": 1})


def test_a_mapped_field_that_holds_nothing_is_said(tbench: Run, tmp_path: Path) -> None:
    """A path that no row has, and values that are no time or no count, would lose figures in silence."""
    lines(
        tmp_path / "log.jsonl",
        [
            {"at": second, "took": "0.5 s", "in": 5, "out": -second, "state": "error"}
            for second in (1, 2, 3)
        ],
    )
    words = (
        "arrival=at:s",
        "duration=took:s",
        "ttft=first:s",
        "prompt_tokens=in",
        "output_tokens=out",
        "status=state",
    )
    maps = [word for field in words for word in ("--map", field)]
    done = tbench("trace", "import", "log.jsonl", "-o", "t.msgpack", *maps)
    assert done.code == 0
    assert "duration=took: 3 of the first 3 rows cannot be read, as 0.5 s\n" in done.err
    assert "ttft=first: none of the first 3 rows has it\n" in done.err
    assert "output_tokens=out: 3 of the first 3 rows cannot be read, as -1\n" in done.err
    assert "status=state: 3 of the first 3 rows cannot be read, as error\n" in done.err
    assert "arrival" not in done.err
    assert "prompt_tokens" not in done.err


def test_a_row_nested_too_deeply_is_left_out(tmp_path: Path) -> None:
    """Also in the first rows, which tell the kind of clock: JSON is read deeper than it can be written."""
    deep = json.loads("[" * 300 + "]" * 300)
    rows = [{"custom_id": "a", "body": {"x": deep}}, {"custom_id": "b", "body": {"x": 1}}]
    figures = imported(lines(tmp_path / "in.jsonl", rows))

    assert figures["requests"] == 1
    assert figures["import"]["left_out"] == {"nested too deeply": 1}


def test_an_importer_is_one_file_and_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A format from outside: its rows are told by content, its calls go through every rule."""

    def calls(row: Any) -> Iterator[Call | LeftOut]:
        yield Call(arrive_ns=scaled(row["acme"], "s"), body=Lengths(row["words"], 5))

    acme = Importer(
        calls=calls, matches=lambda row: "acme" in row, trust={"arrival": "reported"}, cannot="much"
    )
    monkeypatch.setitem(cast("dict[str, Importer]", IMPORTERS), "acme", acme)
    figures = imported(
        lines(tmp_path / "a.jsonl", [{"acme": 1.5, "words": 9}, {"acme": 4, "words": 8}])
    )

    assert (figures["requests"], figures["duration_s"]) == (2, 2.5)
    assert figures["import"]["format"] == "acme"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or put for a value."""
    for _ in range(rng.randint(1, 6)):
        at, size = rng.randrange(len(data) + 1), rng.choice([1, 1, 1, 4, 40, 400])
        piece = rng.choice(
            [b"", b"\x00", b"\xff", b'"', b"{", b"]", b"null", b"-1", b"1e999", b"9" * 30, b"[[]]", b"true",
             b'"\\ud800"', b",", b"\n", bytes([rng.randrange(256)]), data[at : at + size] * 2]
        )  # fmt: skip
        data = data[:at] + piece + data[at + size :]
    return data


FAILED_CHAT = {
    **CHAT,
    "gen_ai.input.messages": PARTS,
    "error.type": "timeout",
    "server.address": "h",
    "server.port": 8,
    "gen_ai.tool.definitions": '[{"type":"function","name":"f"}]',
}
SEEDS: dict[str, Any] = {
    "mooncake": MOONCAKE, "litellm": LITELLM, "langfuse": LANGFUSE, "map": LOG,
    "otlp": [{"resourceSpans": [{"scopeSpans": [
        {"spans": [span(0, {**CHAT, "gen_ai.input.messages": PARTS})]}]}]}],
    "sharegpt": [{"id": "a", "conversations": [{"from": "human", "value": "a"}]}],
    "openai-batch": [{"custom_id": "a", "body": {"model": "m", "messages": []}}],
    "har": {"log": {"entries": [
        {**har_entry("2026-03-01T10:00:00.250Z", 15.5, '{"model": "m"}'), "_outcome": "client_abort"}]}},
    "otlp failed": [span(0, FAILED_CHAT, status={"code": 2, "message": "x"},
                         events=[{"name": "exception", "attributes": []}])],
    "litellm failed": [{**LITELLM[2], "metadata": {
        "usage_object": {"prompt_tokens_details": {"cached_tokens": 1}},
        "error_information": {"error_class": "ClientDisconnected"}}}],
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,40,7\n",
    "burstgpt": "Timestamp,Elapsed time,Model,Request tokens,Response tokens\n5,3.5,ChatGPT,47,18\n",
    **NAMED, **LOGS,
    "mitmproxy": dumped_flows(), "goreplay": gor(),
    "vcrpy": (ROOT / "fixtures" / "cassettes" / "openai-chat-stream.yaml").read_bytes(),
}  # fmt: skip
MUTANTS = int(os.environ.get("TBENCH_MUTANTS", "20"))


@pytest.mark.parametrize("name", SEEDS)
def test_a_mutant_is_imported_or_refused(tmp_path: Path, name: str) -> None:
    """Whatever a row holds: every row counted, or one line of InputError; a trace that is sound."""
    seed, rng = SEEDS[name], random.Random(name)
    text = seed if isinstance(seed, str | bytes) else json.dumps(seed, indent=1)
    if isinstance(seed, list) and name != "sharegpt":
        text = "".join(json.dumps(row) + "\n" for row in seed)
    source = tmp_path / "mutant"
    source.with_suffix(".json").write_text(BESIDE.get(name, ""))
    fields = ("arrival=ts:ms", *MAP[1::2]) if name == "map" else ()
    for _ in range(MUTANTS):
        source.write_bytes(mutated(text if isinstance(text, bytes) else text.encode(), rng))
        try:
            kind = name.partition(" ")[0]
            imported(source, *fields, format_name=None if fields else rng.choice([None, kind]))
        except InputError as error:
            assert "\n" not in str(error)


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member of a row as deep as it goes: what holds it, and its name or place there."""
    if not isinstance(value, dict | list):
        return
    for name in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, name
        yield from leaves(value[name])


ODD: list[Any] = [
    None, True, -1, 0.5, 1e300, 2**63, "", "x", "{}", "[1]", "[{}]", [], {}, [[]], [None], [1, "x"], {"": 0},
    [{"type": "text"}], json.loads("[" * 260 + "]" * 260),
]  # fmt: skip
"""What may stand where a log has something else."""


@pytest.mark.parametrize(
    "name", [name for name in SEEDS if name not in {"map", "goreplay", "servegen"}]
)
def test_a_value_of_another_type_is_imported_or_left_out(tmp_path: Path, name: str) -> None:
    """At every place of a row, without an exception: a defect would not be the row's fault."""
    importer, source = IMPORTERS[name.partition(" ")[0]], tmp_path / "seed"
    seed, rng = SEEDS[name], random.Random(name)
    text = seed if isinstance(seed, str | bytes) else json.dumps(seed)
    if isinstance(seed, list) and name != "sharegpt":
        text = "".join(json.dumps(row) + "\n" for row in seed)
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    layout = shape(source, importer.documents)
    sound = [row for row in read_rows(source, layout) if not isinstance(row, LeftOut)]
    for number, row in enumerate(sound):
        for place, odd in product(range(len(list(leaves(row)))), ([1, "x"], None)):
            mutant = copy.deepcopy(row)
            holder, member = list(leaves(mutant))[place]
            holder[member] = odd or rng.choice(ODD)
            for each in importer.joined([*sound[:number], mutant, *sound[number + 1 :]]):
                for call in _row_calls(importer, each):
                    assert isinstance(call, Call | LeftOut)
