"""`tbench trace export`: what comes back when it is imported again, and what other tools read of it."""

import csv
import gzip
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tbench import __main__ as entry
from tbench.capture.exchange import Chunk, Exchange, Outcome, Request, Response
from tbench.capture.exporters import EXPORTERS
from tbench.capture.exporters.exporter import Exporter, Record, Row, lines
from tbench.capture.importers.importer import LeftOut
from tbench.capture.records import TraceHeader
from tbench.capture.sessions import Place
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tests.recorded import chat_request

WALL = 1_767_225_600_123_456_789
S = 10**9
SECRET = "sk-THIS-is-a-very-secret-key-1234"
Run = Callable[..., tuple[int, str, str]]

SHARED = "You are helpful. " * 40
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": SHARED},
    {"role": "user", "content": "weather in Zürich? 🌧"},
]
TOOLS = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}]
CALLS = [
    *CHAT,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
]
STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"It "}}]}\n\n',
    (
        b'data: {"choices":[{"index":0,"delta":{"content":"rains"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":200,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":64},'
        b'"input_tokens_details":{"cache_write_tokens":32}}}'
        b"\n\ndata: [DONE]\n\n"
    ),
)
JSON = (("content-type", "application/json"),)


def ask(number: int, body: bytes, path: str = "chat/completions", **changes: Any) -> Request:
    at = number * S + number
    plain: dict[str, Any] = {
        "id": f"r{number}",
        "scheme": "https",
        "host": "api.example",
        "path": f"/v1/{path}",
        "headers": (
            *JSON,
            ("authorization", f"Bearer {SECRET}"),
            ("x-session-id", f"c{number % 2}"),
        ),
    }
    return chat_request(number, at, body, **{**plain, **changes})


def told(request: Request, body: bytes, **changes: Any) -> Response:
    end = request.arrive_ns + S // 2 + 7
    plain = {"head_ns": end, "end_ns": end, "status": 200, "headers": JSON}
    sizes = {"body": body, "body_bytes": len(body), "chunks": (Chunk(end, len(body)),)}
    return Response(**{**plain, **sizes, **changes})


def exchanges() -> Iterator[Exchange]:
    """A stream, gzip, a refusal, a completion, an embedding, bytes, a reset, and one without an answer."""
    chat = {"model": "m", "messages": CHAT, "max_tokens": 64, "temperature": 0.5, "stream": True}
    first = ask(0, json.dumps(chat).encode())
    at = first.arrive_ns + S // 4
    chunks = (Chunk(at, len(STREAM[0])), Chunk(at + S // 8, len(STREAM[1])))
    streamed = (("content-type", "text/event-stream"), ("set-cookie", SECRET))
    body = b"".join(STREAM)
    yield Exchange(
        request=first,
        response=told(first, body, chunks=chunks, headers=streamed, end_ns=at + S // 8),
    )
    packed = gzip.compress(json.dumps({"model": "m", "messages": CALLS, "tools": TOOLS}).encode())
    second = ask(1, packed, headers=(*JSON, ("content-encoding", "gzip"), ("x-session-id", "c1")))
    answer = {
        "model": "m",
        "choices": [
            {"message": {"role": "assistant", "content": "Rain."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 220, "completion_tokens": 3},
    }
    zipped = gzip.compress(json.dumps(answer).encode())
    yield Exchange(
        request=second,
        response=told(second, zipped, headers=(*JSON, ("content-encoding", "gzip"))),
    )
    third = ask(2, json.dumps({"model": "m2", "messages": CHAT[1:]}).encode())
    refused = b'{"error":{"message":"slow down"}}'
    yield Exchange(
        request=third, response=told(third, refused, status=429, outcome=Outcome.HTTP_ERROR)
    )
    fourth = ask(3, b'{"model": "m", "prompt": "Once"}', "completions")
    text = (
        b'{"choices":[{"text":" upon","finish_reason":"length"}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    )
    yield Exchange(request=fourth, response=told(fourth, text))
    fifth = ask(4, b'{"model": "e", "input": "words"}', "embeddings")
    vector = (
        b'{"object":"list","data":[{"embedding":[1]}],"usage":{"prompt_tokens":2,"total_tokens":2}}'
    )
    yield Exchange(request=fifth, response=told(fifth, vector))
    sixth = ask(5, json.dumps({"model": "m", "messages": CHAT}).encode())
    odd = b"\xff\x00\x7f not UTF-8"
    yield Exchange(request=sixth, response=told(sixth, odd, status=502, outcome=Outcome.HTTP_ERROR))
    seventh = ask(6, json.dumps({"model": "m", "messages": CHAT}).encode())
    end = seventh.arrive_ns + 9
    reset = Response(
        head_ns=None, end_ns=end, status=None, outcome=Outcome.RESET, error="connection reset"
    )
    yield Exchange(request=seventh, response=reset)
    yield Exchange(request=ask(7, b"no JSON"), response=None)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        for item in exchanges():
            writer.exchange(item)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`tbench trace ARGUMENTS` in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = entry.run(["trace", *map(str, arguments)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def again(run: Run, trace: Path, tmp_path: Path) -> Callable[..., list[Record]]:
    """The trace exported and imported again, by the format's name or by a map."""

    def call(name: str, *words: str) -> list[Record]:
        out, back = tmp_path / f"x.{name}", tmp_path / "back.msgpack"
        code, _, err = run("export", trace, "--format", name, "-o", out)
        assert code == 0, err
        code, _, err = run("import", out, *words, "-o", back)
        assert code == 0, err
        return records(back)

    return call


def records(path: Path) -> list[Record]:
    source = read_trace(path)
    return [Record(Facts(item), source.header.wall(item.request.arrive_ns)) for item in source]


def kept(*numbers: int) -> list[Record]:
    """What went in: the exchanges of these numbers, with their dates."""
    every = list(exchanges())
    return [Record(Facts(every[n]), WALL + every[n].request.arrive_ns) for n in numbers]


def payloads(records_: list[Record]) -> list[Any]:
    return [record.payload for record in records_]


def usages(records_: list[Record]) -> list[tuple[int | None, int | None]]:
    return [record.facts.usage[:2] for record in records_]


def test_a_batch_comes_back(again: Callable[..., list[Record]]) -> None:
    """Every body that is JSON, its endpoint and method."""
    back, gone_in = again("openai-batch"), kept(0, 1, 2, 3, 4, 5, 6)

    assert payloads(back) == payloads(gone_in)
    assert [record.request.path for record in back] == [record.request.path for record in gone_in]


def test_a_session_is_called_by_the_first_header_that_names_it() -> None:
    """As sessions are told apart: what follows may name a machine that many of them keep to."""
    headers = (("x-session-affinity", "node-1"), ("x-session-id", "c1"))
    request = ask(1, b"{}", headers=headers)
    facts = Facts(Exchange(request=request, response=None), Place("s1", 0, None))

    assert Record(facts, 0).session == "c1"


def test_an_evalscope_trace_comes_back(again: Callable[..., list[Record]], tmp_path: Path) -> None:
    """Bodies, arrivals to what a float of seconds holds, output tokens; no member that its reader forbids."""
    words = ("body=body", "arrival=timestamp:s", "output_tokens=completion_tokens", "id=request_id")
    back = again("evalscope", *(flag for word in words for flag in ("--map", word)))
    gone_in = kept(0, 1, 2, 3, 5, 6)

    assert payloads(back) == payloads(gone_in)
    off = [a.arrival_ns - b.arrival_ns for a, b in zip(back, gone_in, strict=True)]
    assert max(map(abs, off)) < 1000
    assert [out for _, out in usages(back)] == [7, 3, None, 1, None, None]
    allowed = {"body", "timestamp", "headers", "request_id", "completion_tokens"}
    rows = [json.loads(line) for line in (tmp_path / "x.evalscope").read_text().splitlines()]
    assert all(row.keys() <= allowed for row in rows)
    assert rows[0]["headers"] == {"x-session-id": "c0"}


def test_a_mooncake_trace_comes_back(again: Callable[..., list[Record]], tmp_path: Path) -> None:
    """Lengths and milliseconds."""
    back, gone_in = again("mooncake"), kept(0, 1, 3)

    assert usages(back) == usages(gone_in)
    first = gone_in[0].arrival_ns
    assert [record.request.arrive_ns for record in back] == [
        (record.arrival_ns - first) // 10**6 * 10**6 for record in gone_in
    ]


def test_prompts_with_one_beginning_share_the_ids_of_its_blocks(tmp_path: Path, run: Run) -> None:
    """Known truth: 4 bytes a token, blocks of 16 tokens, so 64 bytes; prompts that share 9 and 5 of them."""
    texts = [
        "a" * 320 + "b" * 256 + "x" * 64,
        "a" * 320 + "b" * 256 + "y" * 70,
        "a" * 320 + "z" * 10,
    ]
    path = tmp_path / "p.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        for number, text in enumerate(texts):
            request = ask(
                number, json.dumps({"model": "m", "prompt": text}).encode(), "completions"
            )
            count = -(-len(text) // 4)
            body = json.dumps({"usage": {"prompt_tokens": count, "completion_tokens": 1},
                               "choices": [{"text": "x", "finish_reason": "stop"}]}).encode()  # fmt: skip
            writer.exchange(Exchange(request=request, response=told(request, body)))
    assert (
        run("export", path, "--format", "mooncake", "--block-tokens", 16, "-o", tmp_path / "m")[0]
        == 0
    )
    ids = [json.loads(line)["hash_ids"] for line in (tmp_path / "m").read_text().splitlines()]

    assert [len(row) for row in ids] == [10, 11, 6]
    assert ids[0][:9] == ids[1][:9]
    assert ids[0][:5] == ids[2][:5]
    assert len({number for row in ids for number in row}) == 10 + 2 + 1
    assert all(0 <= number < 2**53 for row in ids for number in row)


def test_spans_come_back(again: Callable[..., list[Record]], tmp_path: Path) -> None:
    """Times to the ns, first token, tokens, messages, tools, settings, answer, failure, sessions."""
    back, gone_in = again("otlp"), kept(0, 1, 2, 3)
    back = [
        *back[:3],
        *(record for record in back if record.facts.parsed.info.endpoint == "completions"),
    ]

    assert [record.arrival_ns for record in back] == [record.arrival_ns for record in gone_in]
    for record, source in zip(back, gone_in, strict=True):
        assert record.facts.e2e == pytest.approx(source.facts.e2e, abs=1e-9)
        assert record.facts.parsed.info.model == source.facts.parsed.info.model
        assert record.facts.outcome == source.facts.outcome
        assert record.facts.usage == source.facts.usage
        assert record.facts.answer and source.facts.answer
        assert record.facts.answer.text == source.facts.answer.text
    assert back[0].facts.ttft == 0.25
    assert [record.facts.parsed.messages for record in back[:3]] == [CHAT, CALLS, CHAT[1:]]
    assert {
        key: (back[0].payload or {})[key] for key in ("temperature", "max_tokens", "stream")
    } == {
        "temperature": 0.5,
        "max_tokens": 64,
        "stream": True,
    }
    assert (back[1].payload or {})["tools"] == TOOLS
    named = [record.request.header("x-session-id") for record in back]
    assert named[0] == named[2] != named[1] == named[3]
    spans = [
        json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        for line in (tmp_path / "x.otlp").read_text().splitlines()
    ]
    for each in spans:
        assert int(each["traceId"], 16) < 2**128 and len(each["traceId"]) == 32
        assert int(each["spanId"], 16) < 2**64 and len(each["spanId"]) == 16
        assert all(type(each[f"{side}TimeUnixNano"]) is str for side in ("start", "end"))
        assert all(len(pair["value"]) == 1 for pair in each["attributes"])
        assert all(type(pair["value"].get("intValue", "")) is str for pair in each["attributes"])


def test_a_har_comes_back(again: Callable[..., list[Record]]) -> None:
    """Every byte of the decoded bodies, times to the ns, statuses, failures; no encoding that is undone."""
    back, gone_in = again("har"), kept(0, 1, 2, 3, 4, 5, 6)

    assert [record.arrival_ns for record in back] == [record.arrival_ns for record in gone_in]
    for record, source in zip(back, gone_in, strict=True):
        assert payloads([record]) == payloads([source])
        assert record.request.header("content-encoding") is None
        answer, before = record.response, source.response
        assert answer and before
        assert answer.status == before.status
        assert answer.end_ns - record.request.arrive_ns == before.end_ns - source.request.arrive_ns
        assert record.facts.usage == source.facts.usage
    assert back[5].response and back[5].response.body == b"\xff\x00\x7f not UTF-8"


@pytest.mark.parametrize("name", sorted(EXPORTERS.keys() - {"parquet"}))
def test_no_body_and_no_name_stops_an_export(tmp_path: Path, run: Run, name: str) -> None:
    """A body that is nested deeper than orjson writes, names that are no UTF-8 and no YAML."""
    deep = b'{"messages":[{"role":"user","content":%s1%s}]}' % (b"[" * 1000, b"]" * 1000)
    odd = ask(1, b'{"messages":[]}', id="r\udcff", headers=(("x-session-id", "c\udcff\x7f"),))
    requests = [ask(0, deep), odd]
    usage = b'"usage":{"prompt_tokens":9,"completion_tokens":1}'
    answer = b'{"choices":[{"message":{"content":"x\xc2\x85"}}],%s}' % usage
    path, out = tmp_path / "deep.msgpack", tmp_path / "out"
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        for request in requests:
            writer.exchange(Exchange(request=request, response=told(request, answer)))
    whole = name not in {"openai-batch", "evalscope"}

    code, shown, err = run("export", path, "--format", name, "-o", out)

    assert code == 0, err
    assert shown.partition("(")[0] == f"{out}: {1 + whole} of 2 exchanges "
    assert whole or "1 left out: 1 nested too deeply" in shown
    if name == "vcr":
        entries = yaml.safe_load(out.read_text())["interactions"]
        assert entries[0]["request"]["body"] == deep.decode()
        assert entries[1]["request"]["headers"]["x-session-id"] == ["c?\x7f"]
        assert entries[1]["response"]["body"]["string"] == answer.decode()


def test_a_body_that_was_not_kept_is_no_empty_body(tmp_path: Path, run: Run) -> None:
    """One request without its body, one answer without its body, and one exchange with both."""
    answer = b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}'
    path = tmp_path / "lossy.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        for number in range(3):
            request = ask(number, b'{"model":"m","messages":[]}')
            response = told(request, answer)
            if number == 0:
                request = replace(request, body=None)
            if number == 1:
                response = replace(response, body=None)
            writer.exchange(Exchange(request=request, response=response))

    exported = {"openai-batch": 2, "evalscope": 2, "har": 2, "vcr": 1}
    for name, rows in exported.items():
        code, shown, err = run("export", path, "--format", name, "-o", tmp_path / name)
        assert code == 0, err
        assert f"{rows} of 3 exchanges" in shown
        assert f"{3 - rows} whose body the capture did not keep" in shown
    contents = [
        entry["response"]["content"]
        for entry in json.loads((tmp_path / "har").read_text())["log"]["entries"]
    ]
    assert [(content["size"], content.get("text")) for content in contents] == [
        (len(answer), None),
        (len(answer), answer.decode()),
    ]


def test_vcrpy_reads_a_cassette(trace: Path, tmp_path: Path, run: Run) -> None:
    """By vcrpy's own reader: bodies to the byte, whatever YAML thinks of them."""
    assert run("export", trace, "-o", tmp_path / "c.yaml")[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vcr.serialize import deserialize
        from vcr.serializers import yamlserializer
    requests, responses = deserialize((tmp_path / "c.yaml").read_text(), yamlserializer)
    every = list(exchanges())[:6]

    assert [json.loads(each.body) for each in requests] == payloads(kept(*range(6)))
    assert [each.uri for each in requests] == [
        f"https://api.example{e.request.path}" for e in every
    ]
    assert [each["status"]["code"] for each in responses] == [200, 200, 429, 200, 200, 502]
    assert responses[0]["body"]["string"] == b"".join(STREAM)
    assert responses[5]["body"]["string"] == b"\xff\x00\x7f not UTF-8"


def test_a_table_holds_the_figures(trace: Path, tmp_path: Path, run: Run) -> None:
    """A row for each exchange, in order of arrival; what is absent is empty."""
    code, out, err = run("export", trace, "-o", tmp_path / "x.csv")
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))

    assert (code, "8 of 8 exchanges (csv); 0 left out" in out) == (0, True)
    assert "not in csv: prompts" in err
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(8)]
    assert [int(row["arrival_unix_ns"]) - WALL for row in rows] == [n * S + n for n in range(8)]
    assert [row["ttft_s"] for row in rows] == ["0.25", *[""] * 7]
    assert [row["stream"] for row in rows] == ["true", *["false"] * 7]
    assert [row["prompt_tokens"] for row in rows] == ["200", "220", "", "1", "2", "", "", ""]
    assert [row["outcome"] for row in rows][2:] == [
        *("http_error", "ok", "ok", "http_error", "reset", "incomplete")
    ]


def test_parquet_holds_the_same(trace: Path, tmp_path: Path, run: Run) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run("export", trace, "-o", tmp_path / "x.csv")
    assert run("export", trace, "-o", tmp_path / "x.parquet")[0] == 0
    table = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))

    shown = [
        {
            name: ""
            if value is None
            else str(value).lower()
            if value in (True, False) and name == "stream"
            else str(value)
            for name, value in row.items()
        }
        for row in table
    ]
    assert shown == rows


@pytest.mark.parametrize("name", [name for name in EXPORTERS if name != "parquet"])
def test_no_credential_gets_out(name: str, trace: Path, tmp_path: Path, run: Run) -> None:
    """Not even of a trace that another program made; its owner alone may read it, and it replaces nothing."""
    code, out, err = run("export", trace, "--format", name, "-o", tmp_path / "x")

    assert code == 0
    assert SECRET not in (tmp_path / "x").read_text() + out + err
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert f"not in {name}: " in err
    assert ("E2E of a stream is to its last byte" in err) is (name in {"har", "otlp"})
    assert "exists already" in run("export", trace, "--format", name, "-o", tmp_path / "x")[2]


def test_what_is_left_out_is_counted_and_nothing_is_an_error(
    trace: Path, tmp_path: Path, run: Run
) -> None:
    """By reason; of a filter's exchanges; a file of none is not written."""
    out = run("export", trace, "--format", "otlp", "-o", tmp_path / "a")[1]
    few = run("export", trace, "--format", "har", "--only", "chat", "-o", tmp_path / "b")[1]
    code, _, err = run(
        "export", trace, "--format", "mooncake", "--only", "status=429", "-o", tmp_path / "c"
    )

    assert "7 of 8 exchanges (otlp); 1 left out: 1 without an answer" in out
    assert "5 of 6 exchanges (har); 1 left out: 1 without an answer" in few
    assert (code, (tmp_path / "c").exists()) == (2, False)
    assert "no exchange can be exported: 1 whose prompt or output tokens nobody counted" in err


def test_a_trace_without_dates_says_so(tmp_path: Path, run: Run) -> None:
    """Times count from its first arrival, and no date is made up in silence."""
    path = tmp_path / "u.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=0, mono_ns=0)) as writer:
        for item in list(exchanges())[1:3]:
            writer.exchange(item)
    err = run("export", path, "-o", tmp_path / "x.csv")[2]
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))

    assert "the trace has no dates: its first arrival stands as 1970-01-01T00:00:00Z" in err
    assert [row["arrival_unix_ns"] for row in rows] == ["0", str(S + 1)]


def test_samples_of_a_run_are_a_table(tmp_path: Path, run: Run) -> None:
    """As `report --samples` has them; other formats are of traces."""
    golden = next(Path("fixtures/golden/decision").absolute().glob("*.run"))
    assert run("export", golden, "-o", tmp_path / "s.csv")[0] == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    from tbench.analysis.arms import load_arm
    from tbench.analysis.report.machine import sample_arrays

    samples = sample_arrays(load_arm(golden))
    assert [row["id"] for row in rows] == samples["id"]
    for ours, theirs in {
        "due": "due_s",
        "ttft_s": "ttft_s",
        "tpot_s": "tpot_s",
        "e2e_s": "e2e_s",
    }.items():
        assert [float(row[ours]) if row[ours] else None for row in rows] == samples[theirs]
    counts = [int(row["output_tokens"]) if row["output_tokens"] else None for row in rows]
    assert counts == samples["output_tokens"]
    assert run("export", golden, "--format", "har", "-o", tmp_path / "h")[0] == 2


def test_an_exporter_is_one_file_and_one_row(
    trace: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A format from outside: nothing else changes."""

    def row(record: Record) -> Row | LeftOut:
        model = record.facts.parsed.info.model
        return {"asked": model} if model else LeftOut("without a model")

    exporter = Exporter(make=lambda _job: row, write=lines, cannot="nearly all")
    monkeypatch.setitem(EXPORTERS, "models", exporter)  # type: ignore[misc]
    code, out, err = run("export", trace, "--format", "models", "-o", tmp_path / "x")

    assert (code, err) == (0, "not in models: nearly all\n")
    assert "7 of 8 exchanges (models); 1 left out: 1 without a model" in out
    asked = [json.loads(line)["asked"] for line in (tmp_path / "x").read_text().splitlines()]
    assert asked == ["m", "m", "m2", "m", "e", "m", "m"]
