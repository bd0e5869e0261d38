"""OTLP JSON: the protocol's own schema takes it, and what an answer calls is there, in every dialect."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tbench.capture.exchange import Chunk, Exchange, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.spoken import spoken
from tbench.capture.trace_writer import TraceWriter
from tests.conftest import Done

CASSETTES = Path(__file__).parent.parent / "fixtures" / "cassettes"
WALL = 1_767_225_600_000_000_000
STREAMED_TOOLS = sorted(path.stem for path in CASSETTES.glob("*.yaml") if "tool" in path.stem)


def recorded(path: Path, names: list[str]) -> list[Exchange]:
    """A trace of what SDKs and the simulator said to each other."""
    exchanges: list[Exchange] = []
    for name in names:
        for each in yaml.safe_load((CASSETTES / f"{name}.yaml").read_text())["interactions"]:
            asked, told = each["request"], each["response"]
            body, answer = asked["body"] or "", told["body"]["string"]
            answer = answer if isinstance(answer, bytes) else answer.encode()
            at = len(exchanges) * 10**9
            request = Request(
                id=f"r{len(exchanges)}", seq=len(exchanges), arrive_ns=at, end_ns=at,
                method=asked["method"], scheme="https", host="api.example",
                path="/v1" + asked["uri"].partition("/v1")[2],
                headers=(("content-type", "application/json"),),
                body=body if isinstance(body, bytes) else body.encode(), body_bytes=len(body),
            )  # fmt: skip
            kinds = {name.lower(): values[0] for name, values in told["headers"].items()}
            headers = tuple(
                (header, kinds[header])
                for header in ("content-type", "content-encoding")
                if header in kinds
            )
            response = Response(
                head_ns=at + 5, end_ns=at + 10**8, status=told["status"]["code"], headers=headers,
                body=answer, body_bytes=len(answer), chunks=(Chunk(at + 10**8, len(answer)),),
            )  # fmt: skip
            exchanges.append(Exchange(request=request, response=response))
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        for exchange in exchanges:
            writer.exchange(exchange)
    return exchanges


def spans(path: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        for line in path.read_text().splitlines()
    ]


def attribute(span: dict[str, Any], name: str) -> Any:
    values = {pair["key"]: pair["value"] for pair in span["attributes"]}
    return json.loads(values[name]["stringValue"])


def exported(tbench: Any, tmp_path: Path) -> Path:
    done: Done = tbench("trace", "export", "t.msgpack", "--format", "otlp", "-o", "x.jsonl")
    assert done.code == 0, done.err
    return tmp_path / "x.jsonl"


def test_the_calls_of_an_answer_are_parts_of_it(tbench: Any, tmp_path: Path) -> None:
    """Streamed or whole, chat, Messages and Responses: every call with its id, name and arguments."""
    exchanges = recorded(tmp_path / "t.msgpack", STREAMED_TOOLS)
    written = spans(exported(tbench, tmp_path))

    called = 0
    for exchange, span in zip(exchanges, written, strict=True):
        assert exchange.response is not None
        assert exchange.response.body is not None
        encoding = exchange.response.header("content-encoding") or ""
        answer = spoken(exchange.response.body, encoding)
        assert answer is not None
        if not answer.calls:
            continue
        called += 1
        (message,) = attribute(span, "gen_ai.output.messages")
        calls = [part for part in message["parts"] if part["type"] == "tool_call"]
        assert [(part["id"], part["name"], part["arguments"]) for part in calls] == [
            (call.id, call.name, call.arguments) for call in answer.calls
        ]
        assert all(isinstance(json.loads(part["arguments"]), dict) for part in calls)
    assert called >= 3


def test_the_protocol_itself_reads_it(tbench: Any, tmp_path: Path) -> None:
    """As opentelemetry's own schema has it, with no member that it does not know, ids and times right."""
    pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")
    from google.protobuf.json_format import Parse
    from opentelemetry.proto.trace.v1.trace_pb2 import Status, TracesData

    names = [path.stem for path in sorted(CASSETTES.glob("*.yaml"))]
    recorded(tmp_path / "t.msgpack", names)
    path = exported(tbench, tmp_path)

    for line, span in zip(path.read_text().splitlines(), spans(path), strict=True):
        document = json.loads(line)
        inner = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        # In OTLP's JSON ids are hexadecimal, where protobuf's own mapping has base64.
        for name in ("traceId", "spanId"):
            assert len(bytes.fromhex(inner[name])) == {"traceId": 16, "spanId": 8}[name]
            del inner[name]
        read = Parse(json.dumps(document), TracesData())
        (parsed,) = read.resource_spans[0].scope_spans[0].spans
        assert parsed.name == span["name"]
        assert parsed.kind == 3
        assert parsed.start_time_unix_nano == int(span["startTimeUnixNano"])
        assert parsed.start_time_unix_nano < parsed.end_time_unix_nano
        assert len(parsed.attributes) == len(span["attributes"])
        failed = any(pair.key == "error.type" for pair in parsed.attributes)
        assert (parsed.status.code == Status.STATUS_CODE_ERROR) == failed


INTEGERS = ("startTimeUnixNano", "endTimeUnixNano", "intValue")


def values(document: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every value of a document with the name that it has."""
    if isinstance(document, dict):
        return [pair for key, value in document.items() for pair in values(value, key)]
    if isinstance(document, list):
        return [pair for value in document for pair in values(value, name)]
    return [(name, document)]


def test_the_file_keeps_the_rules_of_otlps_json(tbench: Any, tmp_path: Path) -> None:
    """What readers demand beyond the schema: ids in hexadecimal, 64 bits as texts, nothing null."""
    names = [path.stem for path in sorted(CASSETTES.glob("*.yaml"))]
    recorded(tmp_path / "t.msgpack", names)
    path = exported(tbench, tmp_path)

    documents = [json.loads(line) for line in path.read_text().splitlines()]
    for name, value in (pair for document in documents for pair in values(document)):
        match name:
            case "traceId" | "spanId":
                assert re.fullmatch(r"[0-9a-f]{16}(?:[0-9a-f]{16})?", value)
                assert int(value, 16)
            case "kind" | "code":
                assert type(value) is int
            case _ if name in INTEGERS:
                assert re.fullmatch(r"-?\d+", value)
            case "doubleValue":
                assert type(value) is float
            case "boolValue":
                assert type(value) is bool
            case _:
                assert type(value) is str, name
    written = spans(path)
    assert len({(span["traceId"], span["spanId"]) for span in written}) == len(written)
    for span in written:
        keys = [pair["key"] for pair in span["attributes"]]
        assert len(keys) == len(set(keys))
        assert all(len(pair["value"]) == 1 for pair in span["attributes"])


def test_a_number_of_over_64_bits_spoils_no_file(tbench: Any, tmp_path: Path) -> None:
    """One such attribute, and a reader of the protocol would take none of the spans."""
    pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")
    from google.protobuf.json_format import Parse
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue

    (exchange,) = recorded(tmp_path / "t.msgpack", ["openai-chat-stream"])
    body = {**json.loads(exchange.request.body or b""), "seed": 2**64 - 1}
    exchange.request.body = json.dumps(body).encode()
    (tmp_path / "t.msgpack").unlink()
    with TraceWriter(tmp_path / "t.msgpack", TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        writer.exchange(exchange)
    (span,) = spans(exported(tbench, tmp_path))

    values = {pair["key"]: pair["value"] for pair in span["attributes"]}
    assert values["gen_ai.request.seed"] == {"stringValue": str(2**64 - 1)}
    for value in values.values():
        Parse(json.dumps(value), AnyValue())
