"""`tbench trace import` of logs of gateways, tracers, platforms and benchmarks, by counts of the logs."""

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange
from tbench.capture.importers.conversion import described, resolve, survey, write
from tbench.capture.repair import check
from tbench.capture.synthesis.tokens import calibrated
from tbench.capture.trace_info import trace_info
from tbench.capture.trace_reader import read_trace
from tbench.replay.measure import recorded_samples
from tbench.replay.sample import Sample
from tests import logs
from tests.logs import ASK, CHAT

NS = 10**9


def imported(source: Path, **options: Any) -> tuple[dict[str, Any], list[Exchange]]:
    """The figures of what was imported, and its exchanges in order."""
    job = resolve([source], tokens=calibrated(4), model="m/x", **options)
    counts = survey(job, lambda *_: None)
    out = source.with_name("t.msgpack")
    out.unlink(missing_ok=True)
    write(job, counts, out, lambda *_: None)
    assert not check(out).problems
    made = described(job, counts)
    assert made["rows"] == made["exchanges"] + sum(made["left_out"].values())
    return trace_info(read_trace(out)), list(read_trace(out))


def lines(folder: Path, rows: list[Any]) -> Path:
    """Rows as JSONL."""
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bodies(exchanges: list[Exchange]) -> list[Any]:
    return [json.loads(exchange.request.body or b"") for exchange in exchanges]


def arrivals(source: Path) -> list[float]:
    """Seconds since 1970, or since the first where the log has no dates."""
    trace = read_trace(source.with_name("t.msgpack"))
    return [(trace.header.wall_ns + exchange.request.arrive_ns) / NS for exchange in trace]


def samples(source: Path) -> list[Sample]:
    return list(recorded_samples(read_trace(source.with_name("t.msgpack"))))


def took(source: Path) -> list[float | None]:
    """Seconds from arrival to end, as `report` measures them."""
    return [
        None if each.sent is None or each.end is None else each.end - each.sent
        for each in samples(source)
    ]


def sums(exchanges: list[Exchange]) -> tuple[int, int]:
    """Prompt and output tokens, of answers or beside requests without one."""
    stated = [
        json.loads(exchange.response.body).get("usage", {})
        if exchange.response is not None and exchange.response.body
        else {
            "prompt_tokens": exchange.request.extra.get("prompt_tokens"),
            "completion_tokens": exchange.request.extra.get("output_tokens"),
        }
        for exchange in exchanges
    ]
    return (
        sum(usage.get("prompt_tokens") or 0 for usage in stated),
        sum(usage.get("completion_tokens") or 0 for usage in stated),
    )


def test_nginx_combined_says_when_and_no_more(tmp_path: Path) -> None:
    """A prompt's length is stated, or nothing is imported; an arrival is when the answer was out."""
    source = tmp_path / "access.log"
    source.write_text(logs.NGINX)
    with pytest.raises(InputError, match="--prompt-tokens"):
        imported(source)
    figures, exchanges = imported(source, prompt_tokens=20)

    asked = re.findall(r'\[\S+:10:00:(\d\d) \S+\] "POST /v1|\[\S+:11:00:(03) ', logs.NGINX)
    assert arrivals(source) == [1795860000 + int(first or second) for first, second in asked]
    assert figures["import"]["left_out"] == {"not a request to a model": 2}
    assert figures["import"]["trust"] == {"arrival": "derived"}
    assert [exchange.request.path for exchange in exchanges] == [
        CHAT, "/v1/messages?beta=true", "/v1/embeddings",
    ]  # fmt: skip
    assert exchanges[1].request.header("anthropic-version") == "2023-06-01"
    texts = [json.dumps(body.get("messages") or body["input"]) for body in bodies(exchanges)]
    assert all(60 < len(words) < 140 for words in texts)


def test_nginx_json_has_sizes_and_durations(tmp_path: Path) -> None:
    """The end is logged, the arrival is so much earlier; a body is of the size that was sent, to the byte."""
    source = lines(tmp_path, logs.NGINX_JSON)
    figures, exchanges = imported(source)

    rows = logs.NGINX_JSON[:2]
    ends = [float(rows[0]["msec"]), 1795860007.0]
    assert arrivals(source) == [
        pytest.approx(end - float(row["request_time"])) for end, row in zip(ends, rows, strict=True)
    ]
    assert took(source) == [pytest.approx(1.25), pytest.approx(2.0)]
    assert [exchange.request.body_bytes for exchange in exchanges] == [700, len(json.dumps(ASK))]
    assert bodies(exchanges)[1] == ASK
    assert exchanges[0].request.host == "llm.example"
    assert figures["outcomes"] == {"ok": 1, "client_abort": 1}


@pytest.mark.parametrize(("clock", "tick_ns"), [("time_iso8601", NS), ("msec", None)])
def test_nginx_arrivals_are_as_coarse_as_its_clock(
    clock: str, tick_ns: int | None, tmp_path: Path
) -> None:
    """Whole seconds less milliseconds are whole seconds still: what is spread within them is that."""
    rows = [
        {"request": f"POST {CHAT} HTTP/1.1", "status": 200, "content_length": 900,
         "request_time": f"0.{number:03d}", "time_iso8601": f"2026-11-28T10:00:{number // 2:02d}+00:00",
         "msec": f"1795860{number // 2:03d}.{number * 7:03d}"}
        for number in range(1, 100)
    ]  # fmt: skip
    other = {"time_iso8601": "msec", "msec": "time_iso8601"}[clock]
    for row in rows:
        del row[other]
    figures, _ = imported(lines(tmp_path, rows))

    assert figures["import"]["tick_ns"] == tick_ns


def test_envoy_text(tmp_path: Path) -> None:
    """Envoy's default and Istio's lines; what went to no model is left out."""
    source = tmp_path / "access.log"
    source.write_text(logs.ENVOY)
    figures, exchanges = imported(source)

    rows = [line.split('" ')[1].split() for line in logs.ENVOY.splitlines() if "POST" in line]
    assert arrivals(source) == [1795860000.25, 1795860002.5]
    assert took(source) == [pytest.approx(1.5), pytest.approx(0.012)]
    assert [exchange.request.body_bytes for exchange in exchanges] == [int(rows[0][2]), 300]
    assert [exchange.response and exchange.response.status for exchange in exchanges] == [200, 503]
    assert exchanges[0].request.host == "llm.example:8080"
    assert figures["import"]["left_out"] == {"not a request to a model": 1}


def test_envoy_json(tmp_path: Path) -> None:
    """Istio's names and Envoy Gateway's, numbers as texts; a code of 0 is no answer."""
    source = lines(tmp_path, logs.ENVOY_JSON)
    figures, exchanges = imported(source)

    rows = [row for row in logs.ENVOY_JSON if row["method"]]
    assert figures["requests"] == len(rows)
    assert [exchange.request.body_bytes for exchange in exchanges] == [
        int(row["bytes_received"]) for row in rows
    ]
    assert took(source) == [pytest.approx(int(row["duration"]) / 1000) for row in rows]
    assert [exchange.response and exchange.response.status for exchange in exchanges] == [200, None]
    assert figures["outcomes"] == {"ok": 1, "reset": 1}


def test_envoy_says_which_answers_ended_early(tmp_path: Path) -> None:
    """A status is sent before a stream: its flags tell how the stream ended, in text and in JSON."""
    flags = ["-", "DC", "UR,UC", "FI", "SI", "UPE"]
    rows = [{**logs.ENVOY_JSON[0], "response_flags": flag} for flag in flags]
    ends = [
        (exchange.response or pytest.fail()).outcome
        for exchange in imported(lines(tmp_path, rows))[1]
    ]
    assert ends == ["ok", "client_abort", "cut", "ok", "timeout", "protocol_error"]

    source = tmp_path / "access.log"
    source.write_text(logs.ENVOY.replace("200 - 900", "200 DC 900"))
    assert imported(source)[0]["outcomes"] == {"client_abort": 1, "http_error": 1}


def test_nginx_that_does_not_escape_bodies(tmp_path: Path) -> None:
    """With `escape=none` a body stands in the line as JSON, and no text of it."""
    rows = [logs.NGINX_JSON[0], {**logs.NGINX_JSON[1], "request_body": ASK}]
    assert bodies(imported(lines(tmp_path, rows))[1])[1] == ASK


@pytest.mark.parametrize(
    "text", [logs.NGINX, logs.ENVOY, logs.SERVEGEN], ids=["nginx", "envoy", "servegen"]
)
def test_a_byte_order_mark_costs_no_row(text: str, tmp_path: Path) -> None:
    """Nor does it with the line ends of Windows, in plain or in gzip."""
    lengths = json.dumps(logs.SERVEGEN_LENGTHS)
    (tmp_path / "chunk-1-dataset.json").write_text(lengths)
    plain = tmp_path / "chunk-1-trace.csv"
    plain.write_text(text)
    expected = imported(plain, prompt_tokens=9)[0]["import"]
    (tmp_path / "chunk-1-dataset.json").write_text("\ufeff" + lengths)
    marked = ("\ufeff" + text.replace("\n", "\r\n")).encode()
    for data in (marked, gzip.compress(marked)):
        plain.write_bytes(data)
        assert imported(plain, prompt_tokens=9)[0]["import"] == expected


def test_langsmith(tmp_path: Path) -> None:
    """Runs of models alone, each once; LangChain's messages become OpenAI's, an SDK's arguments stay."""
    source = lines(tmp_path, logs.LANGSMITH)
    figures, exchanges = imported(source)

    assert figures["requests"] == len(
        {row["id"] for row in logs.LANGSMITH if row["run_type"] == "llm"}
    )
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (30 + 12, 4 + 6)
    assert arrivals(source) == [1795860000.25, 1795860005, 1795860009]
    assert took(source) == pytest.approx([2.0, 1.0, 1.0])
    measured = samples(source)
    waits = [(each.first_token or 0) - (each.sent or 0) for each in measured[:2]]
    assert waits == pytest.approx([0.5, 0.5])
    assert measured[2].error == "Timeout('x')"
    assert figures["import"]["left_out"] == {
        "not a run of a model": 1, "that stand in the log twice": 1
    }  # fmt: skip
    chat, plain, said = bodies(exchanges)
    assert plain == {**ASK, "stream": True}
    assert said == {"model": "m/x", "prompt": "say"}
    assert [message["role"] for message in chat["messages"]] == [
        "system", "user", "assistant", "tool", "user",
    ]  # fmt: skip
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get", "arguments": '{"city":"Bern"}'},
    }
    assert chat["messages"][2] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert chat["messages"][3] == {"role": "tool", "content": "rain", "tool_call_id": "c1"}
    assert chat["messages"][4]["content"][1]["image_url"] == {"url": "https://x/y.png"}
    assert (chat["model"], chat["temperature"], chat["tools"]) == ("gpt-x", 0.5, [logs.TOOL])
    response = exchanges[0].response
    assert response is not None
    answer = json.loads(response.body or b"")["choices"][0]["message"]
    assert answer == {"role": "assistant", "content": "it rains"}
    assert figures["sessions"] == 3


def test_langsmith_of_an_api_and_of_parquet(tmp_path: Path) -> None:
    """The same runs inside a document, and as Parquet with texts of JSON, are the same exchanges."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    expected = [bodies(imported(lines(tmp_path, logs.LANGSMITH))[1])]
    document = tmp_path / "runs.json"
    document.write_text(json.dumps({"cursors": {"next": None}, "runs": logs.LANGSMITH}, indent=1))
    expected.append(bodies(imported(document)[1]))
    columns = dict.fromkeys(name for row in logs.LANGSMITH for name in row)
    rows = [
        {
            name: json.dumps(value) if isinstance(value, dict | list) else value
            for name, value in {**columns, **row}.items()
        }
        for row in logs.LANGSMITH
    ]
    table = tmp_path / "runs.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    expected.append(bodies(imported(table)[1]))

    assert expected[0] == expected[1] == expected[2]


@pytest.mark.parametrize("path", [None, 5, {"a": 1}, [], "HumanMessage"])
def test_langsmith_messages_without_a_path(path: object, tmp_path: Path) -> None:
    """An object of LangChain's that does not say its class is its user's words."""
    message = {"id": path, "kwargs": {"content": "hi"}}
    run = {
        "run_type": "llm",
        "start_time": "2026-11-28T10:00:00",
        "inputs": {"messages": [[message]]},
    }
    (body,) = bodies(imported(lines(tmp_path, [run]))[1])
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_sagemaker(tmp_path: Path) -> None:
    """Bodies as JSON or base64, the endpoint by the body; a table of numbers went to no model of text."""
    source = lines(tmp_path, logs.SAGEMAKER)
    figures, exchanges = imported(source)

    assert [exchange.request.path for exchange in exchanges] == [CHAT, "/v1/completions"]
    assert bodies(exchanges) == [
        {"model": "m/x", "messages": ASK["messages"], "max_tokens": 16},
        {"prompt": "say", "model": "p"},
    ]
    assert sums(exchanges) == (11, 5)
    assert arrivals(source) == [1784505600, 1784505607]
    assert figures["import"]["left_out"] == {"not a request to a model": 1}


def test_databricks(tmp_path: Path) -> None:
    """Both kinds of tables: times in their units, the platform's model where the body names none."""
    source = lines(tmp_path, logs.DATABRICKS)
    figures, exchanges = imported(source)

    assert arrivals(source) == [1795860000.25, 1795860003]
    assert took(source) == pytest.approx([1.5, 0.05])
    assert sums(exchanges[:1]) == (11, 5)
    assert [body["model"] for body in bodies(exchanges)] == ["m", "llama"]
    assert figures["outcomes"] == {"ok": 1, "http_error": 1}
    assert figures["import"]["left_out"] == {"not a request to a model": 1}


def test_what_aiperf_has_sent(tmp_path: Path) -> None:
    """Its `inputs.json`: every body as it was, conversations kept together."""
    source = tmp_path / "inputs.json"
    source.write_text(json.dumps(logs.AIPERF_INPUTS, indent=2))
    figures, exchanges = imported(source, rate=2.0)

    sent = [body for session in logs.AIPERF_INPUTS["data"] for body in session["payloads"]]
    assert bodies(exchanges) == sent[:3]
    assert figures["import"]["left_out"] == {"that are no body of a request": 1}
    assert figures["duration_s"] == 1.0
    assert figures["endpoints"] == {"chat": 2, "embeddings": 1}
    names = [exchange.request.header("x-session-id") for exchange in exchanges]
    assert names[0] == names[1] != names[2]


def test_datasets_of_aiperf(tmp_path: Path) -> None:
    """Texts, images and messages as requests, ms from the start; what only a live answer completes is not."""
    source = lines(tmp_path, logs.AIPERF)
    figures, exchanges = imported(source)

    assert arrivals(source) == pytest.approx([0, 1.5005, 1.7, 2.0, 3.0, 3.1])
    assert sum(figures["import"]["left_out"].values()) == 4
    hello, seen, one, tools, ready, raw = bodies(exchanges)
    assert hello == {
        "model": "m/x",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 7,
    }
    assert [part["type"] for part in seen["messages"][0]["content"]] == [
        "text",
        "text",
        "image_url",
    ]
    assert one["messages"][0]["content"] == "one"
    assert (tools["tools"], tools["max_tokens"], tools["seed"]) == ([logs.TOOL], 30, 1)
    assert ready == {"model": "p", "prompt": "hi", "max_tokens": 5}
    assert raw["messages"][0]["content"] == "raw"
    assert exchanges[4].request.path == "/v1/completions"


def test_conversations_without_a_request_are_counted(tmp_path: Path) -> None:
    """Every row is an exchange or left out: one that holds none as well."""
    hello = {"session_id": "a", "turns": [{"text": "hello"}]}
    empty = [{"session_id": "b", "turns": []}, {"session_id": "c", "payloads": []}]
    weka = {"id": "a", "block_size": 64, "requests": [{"t": 1, "in": 9}]}
    for rows in ([hello, *empty], [weka, {**weka, "requests": []}, {**weka, "requests": []}]):
        figures, _ = imported(lines(tmp_path, rows))
        assert figures["import"]["left_out"] == {"a conversation without a request": 2}


def test_aiperf_without_times_is_spaced(tmp_path: Path) -> None:
    rows = [{"input_length": 30, "output_length": 4, "hash_ids": [1]}] * 3
    source = lines(tmp_path, rows)
    figures, exchanges = imported(source, rate=4.0)

    assert figures["import"]["trust"] == {"arrival": "derived"}
    assert (figures["requests"], figures["duration_s"]) == (3, 0.5)
    assert sums(exchanges) == (sum(row["input_length"] for row in rows), 12)


def test_mlperf_agentic(tmp_path: Path) -> None:
    """A request for each message of a client, with all that was said before it, results one by one."""
    source = lines(tmp_path, logs.MLPERF)
    figures, exchanges = imported(source)

    asked = [row for row in logs.MLPERF if row["role"] in ("user", "tool")]
    assert figures["requests"] == len(asked)
    first, second, other = bodies(exchanges)
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert second["messages"][:2] == first["messages"]
    assert [message["role"] for message in second["messages"]] == [
        "system", "user", "assistant", "tool", "tool",
    ]  # fmt: skip
    assert second["messages"][2]["content"] is None
    assert second["tools"] == [logs.TOOL]
    assert other == {
        "model": "m/x",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 9,
    }
    assert figures["sessions"] == 2


def test_mlperf_rows_that_are_no_message_end_their_conversation(tmp_path: Path) -> None:
    """What follows would be asked without what was said before; another conversation is whole."""
    rows = [*logs.MLPERF[1:3], {"turn": 3, "role": "user", "content": "whose?"},
            {"conversation_id": "c1", "turn": 3, "role": "narrator"}, *logs.MLPERF[3:]]  # fmt: skip
    figures, exchanges = imported(lines(tmp_path, rows))

    assert [body["messages"][-1]["content"] for body in bodies(exchanges)] == ["fix", "hi"]
    assert figures["import"]["left_out"] == {
        "that are no message of a conversation, or follow such a one": 4,
        "an answer, which is in the history of the next request": 1,
    }


def test_mlperf_conversations_whose_rows_are_scattered(tmp_path: Path) -> None:
    """A row far from those before it would be asked without them: it is left out."""
    rows = [*logs.MLPERF, {**logs.MLPERF[1], "turn": 9}]
    figures, exchanges = imported(lines(tmp_path, rows))

    assert len(exchanges) == len(imported(lines(tmp_path, logs.MLPERF))[1])
    assert figures["import"]["left_out"]["of a conversation whose rows do not stand together"] == 1


def test_results_of_genai_bench(tmp_path: Path) -> None:
    """The lengths of a point's requests; its times begin nowhere, and failures have no length."""
    source = tmp_path / "text-to-text_D100_100_num_concurrency_2.json"
    source.write_text(json.dumps(logs.GENAI_BENCH, indent=4))
    figures, exchanges = imported(source)

    rows = [row for row in logs.GENAI_BENCH["individual_request_metrics"] if not row["error_code"]]
    assert sums(exchanges) == (
        sum(row["num_input_tokens"] for row in rows),
        sum(row["num_output_tokens"] for row in rows),
    )
    assert figures["import"]["format"] == "genai-bench"
    assert figures["import"]["left_out"] == {"that failed, of which the log has no request": 1}
    assert all(exchange.response is None for exchange in exchanges)


def test_servegen(tmp_path: Path) -> None:
    """As many requests as the rates say, each in its window, lengths as their shares are; twice the same."""
    source = tmp_path / "chunk-1-trace.csv"
    source.write_text(logs.SERVEGEN)
    with pytest.raises(InputError, match=r"chunk-1-dataset\.json beside it"):
        imported(source)
    (tmp_path / "chunk-1-dataset.json").write_text(json.dumps(logs.SERVEGEN_LENGTHS))
    figures, exchanges = imported(source)
    again = [exchange.request.arrive_ns for exchange in imported(source)[1]]

    rows = [(int(row[0]), float(row[1])) for row in csv.reader(io.StringIO(logs.SERVEGEN))]
    expected = {start: round(rate * 600) for start, rate in rows if rate and start < 1800}
    assert figures["requests"] == sum(expected.values())
    begin = arrivals(source)[0]
    placed = [at - begin for at in arrivals(source)]
    assert sum(at < 600 for at in placed) == expected[0]
    assert figures["import"]["left_out"] == {"of a window without lengths": round(0.02 * 600)}
    prompts = [exchange.request.extra["prompt_tokens"] for exchange in exchanges]
    outputs = [exchange.request.extra["output_tokens"] for exchange in exchanges]
    assert prompts[: expected[0]] == [224] * expected[0]
    pairs = set(zip(prompts[expected[0] :], outputs[expected[0] :], strict=True))
    assert pairs <= {(30, 3), (31, 9)}  # one draw decides both
    assert [exchange.request.arrive_ns for exchange in exchanges] == again


def test_helicone_csv(tmp_path: Path) -> None:
    """As its exporter writes it, quotes doubled twice; the end is when the answer was there."""
    source = tmp_path / "output.csv"
    source.write_text(logs.HELICONE_CSV)
    figures, exchanges = imported(source)

    assert figures["import"]["format"] == "helicone"
    assert bodies(exchanges) == [ASK]
    assert sums(exchanges) == (12, 8)
    assert arrivals(source) == [1778580000]
    assert took(source) == pytest.approx([1.1])


def test_a_written_request_fits_its_endpoint(tmp_path: Path) -> None:
    """Of which only the size is known: each API gets a body that it takes."""
    rows = [
        {"at": 1795860000 + number, "path": path, "n": 30, "out": 5}
        for number, path in enumerate(
            [CHAT, "/v1/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"]
        )
    ]
    fields = ["arrival=at:s", "path=path", "prompt_tokens=n", "output_tokens=out"]
    _, exchanges = imported(lines(tmp_path, rows), fields=fields)

    chat, completion, messages, responses, embeddings = bodies(exchanges)
    assert chat["messages"][0]["role"] == "user"
    assert isinstance(completion["prompt"], str)
    assert "messages" not in completion
    assert (messages["max_tokens"], "stream_options" in messages) == (5, False)
    assert responses["input"][0]["content"]
    assert embeddings["input"]
