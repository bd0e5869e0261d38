"""How an exchange ended, as each log tells it: who left, what timed out, what was refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.endings import named_outcome
from tbench.capture.exchange import Exchange, Outcome
from tbench.capture.importers import IMPORTERS
from tbench.capture.importers.conversion import resolve, survey, write
from tbench.capture.importers.importer import Call
from tbench.capture.synthesis.tokens import calibrated
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import read_trace

MESSAGES = [{"role": "user", "content": "hi"}]
BODY = json.dumps({"model": "m", "messages": MESSAGES})
ANSWER = json.dumps({
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yo"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
})  # fmt: skip
BEGUN = 'data: {"choices":[{"index":0,"delta":{"content":"It"}}]}\n\n'
SDK_429 = "Error code: 429 - {'error': {'message': 'slow down'}}"

Importing = Callable[..., list[Exchange]]


@pytest.fixture
def imported(tmp_path: Path) -> Importing:
    """The exchanges of rows as JSONL, in order."""

    def call(*rows: Any, fields: tuple[str, ...] = ()) -> list[Exchange]:
        source, out = tmp_path / "log.jsonl", tmp_path / "t.msgpack"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out.unlink(missing_ok=True)
        job = resolve([source], tokens=calibrated(4), model="m", fields=fields)
        write(job, survey(job, lambda *_: None), out, lambda *_: None)
        return list(read_trace(out))

    return call


def ending(exchange: Exchange) -> tuple[str, int | None]:
    """Its outcome and status as everything else judges them."""
    return Facts(exchange).outcome, exchange.response and exchange.response.status


# Layouts, after what each vendor documents or its program writes.


def har(
    status: int, text: str = "", kind: str = "application/json", **members: Any
) -> dict[str, Any]:
    response = {name: members.pop(name) for name in ("_error",) if name in members}
    return {
        "startedDateTime": "2026-11-28T10:00:00.000Z", "time": 1500.0,
        "request": {"method": "POST", "url": "https://api.example/v1/chat/completions",
                    "headers": [], "postData": {"mimeType": "application/json", "text": BODY}},
        "response": {"status": status, "headers": [], "content": {"mimeType": kind, "text": text},
                     **response},
        **members,
    }  # fmt: skip


def span(
    attributes: dict[str, Any], status: dict[str, Any] | None = None, **members: Any
) -> dict[str, Any]:
    asked = [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
    plain = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.input.messages": json.dumps(asked),
    }
    number = len(str(attributes) + str(members))
    values = {
        key: {"boolValue": value}
        if isinstance(value, bool)
        else {"intValue": str(value)}
        if isinstance(value, int)
        else {"arrayValue": {"values": [{"stringValue": each} for each in value]}}
        if isinstance(value, list)
        else {"stringValue": value}
        for key, value in {**plain, **attributes}.items()
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": "5b8efff798038103d269b633813fc60c", "spanId": f"{number:016x}",
        "startTimeUnixNano": "1764350000000000000", "endTimeUnixNano": "1764350002000000000",
        "attributes": [{"key": key, "value": value} for key, value in values.items()],
        "status": status or {}, **members}]}]}]}  # fmt: skip


def litellm(**members: Any) -> dict[str, Any]:
    """A line of StandardLoggingPayload, with the members that version 1.110 writes and that matter here."""
    return {
        "id": "chatcmpl-1", "trace_id": "t", "session_id": "", "call_type": "acompletion", "stream": None,
        "status": "failure", "custom_llm_provider": "openai", "startTime": 1795962333.856441,
        "endTime": 1795962335.011252, "completionStartTime": 1795962335.011252, "prompt_tokens": 0,
        "completion_tokens": 0, "model": "m", "api_base": "http://127.0.0.1:8000/v1", "cache_hit": False,
        "messages": MESSAGES, "response": {}, "model_parameters": {}, "error_str": None, **members,
    }  # fmt: skip


def langfuse(message: str) -> dict[str, Any]:
    """A row of the blob export `observations_v2`."""
    return {
        "id": message, "trace_id": "t", "project_id": "p", "type": "GENERATION", "parent_observation_id": "",
        "start_time": "2026-05-29 13:46:19.963000", "end_time": "2026-05-29 13:46:21.963000",
        "level": "ERROR", "status_message": message, "input": json.dumps(MESSAGES), "output": "",
        "usage_details": {},
        "provided_model_name": "m", "model_parameters": "{}", "completion_start_time": None,
    }  # fmt: skip


def langsmith(error: str) -> dict[str, Any]:
    return {"id": error, "run_type": "llm", "start_time": "2026-05-29T13:46:19.963000", "error": error,
            "end_time": "2026-05-29T13:46:21.963000", "inputs": {"messages": MESSAGES}, "outputs": None,
            "extra": {"invocation_params": {"model": "m"}}}  # fmt: skip


def helicone(status: int, **members: Any) -> dict[str, Any]:
    return {
        "request_id": str(status), "request_created_at": "2026-05-12T10:00:00.000Z", "delay_ms": 1100,
        "response_status": status, "request_body": json.loads(BODY), "response_body": {},
        "target_url": "https://api.example/v1/chat/completions", "prompt_tokens": 7, "completion_tokens": 3,
        "cache_reference_id": "00000000-0000-0000-0000-000000000000", "prompt_cache_read_tokens": 2,
        "request_model": "m", **members,
    }  # fmt: skip


ABORT, TIMEOUT, RESET, CUT = Outcome.CLIENT_ABORT, Outcome.TIMEOUT, Outcome.RESET, Outcome.CUT
REFUSED, OK = Outcome.HTTP_ERROR, Outcome.OK
STREAM = "text/event-stream"
DISCONNECTED = {"error_code": "499", "error_class": "ClientDisconnected", "error_message": "gone"}
PARTIAL = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "It"}]}])
ERROR = {"code": 2, "message": "boom"}
CHUNK = {"name": "gen_ai.content.completion.chunk", "timeUnixNano": "1764350001000000000"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # HAR: what Chromium writes for a request that was cancelled, refused or cut; tbench's own word.
        (har(0, _error="net::ERR_ABORTED"), (ABORT, None)),
        (har(200, BEGUN, STREAM, _error="net::ERR_ABORTED"), (ABORT, 200)),
        (har(200, BEGUN, STREAM, _error="net::ERR_INCOMPLETE_CHUNKED_ENCODING"), (CUT, 200)),
        (har(0, _error="net::ERR_CONNECTION_REFUSED"), (Outcome.CONNECT_ERROR, None)),
        (har(0, _error="net::ERR_TIMED_OUT"), (TIMEOUT, None)),
        (har(0), (RESET, None)),
        (har(200, ANSWER, _error="net::ERR_WHATEVER"), (OK, 200)),
        (har(499, ANSWER), (REFUSED, 499)),
        (har(200, ANSWER, _outcome="client_abort"), (ABORT, 200)),
        # The conventions: a status, an exception's name, a word; what is unknown says nothing.
        (span({"error.type": "timeout"}, ERROR), (TIMEOUT, None)),
        (span({"error.type": "java.net.SocketTimeoutException"}, ERROR), (TIMEOUT, None)),
        (span({"error.type": "openai.APITimeoutError"}, ERROR), (TIMEOUT, None)),
        (span({"error.type": "CancelledError"}, ERROR), (ABORT, None)),
        (span({"error.type": "cancelled"}), (ABORT, None)),
        (span({"error.type": "server_certificate_invalid"}, ERROR), (Outcome.CONNECT_ERROR, None)),
        (span({"error.type": "503"}, ERROR), (REFUSED, 503)),
        (span({"error.type": "RateLimitError"}, {"code": 2, "message": SDK_429}), (REFUSED, 429)),
        (span({"error.type": "_OTHER"}, ERROR), (REFUSED, None)),
        (span({"error.type": "timeout", "http.response.status_code": 504}, ERROR), (REFUSED, 504)),
        (span({}, ERROR, events=[{"name": "exception", "attributes": [
            {"key": "exception.type", "value": {"stringValue": "httpx.ReadTimeout"}}]}]), (TIMEOUT, None)),
        (span({"gen_ai.output.messages": PARTIAL}, ERROR), (CUT, 200)),
        (span({"gen_ai.output.messages": PARTIAL}, {"code": 1},
              events=[CHUNK]),
         (CUT, 200)),
        (span({"gen_ai.response.id": "c"}, {"code": 1}, events=[CHUNK]), (CUT, 200)),
        (span({"error.type": "_OTHER"}, ERROR, events=[CHUNK]), (CUT, 200)),
        (span({"error.type": "503"}, ERROR, events=[CHUNK]), (REFUSED, 503)),
        (span({"tbench.outcome": "client_abort", "http.response.status_code": 200}), (ABORT, 200)),
        (span({"tbench.outcome": "nonsense"}), (OK, 200)),
        # LiteLLM: a client that left a stream is a success with an error; its 408 and 499 are its own.
        (litellm(status="success", completion_tokens=5, response=json.loads(ANSWER), stream=True,
                 error_information=DISCONNECTED), (ABORT, 200)),
        (litellm(error_information=DISCONNECTED), (ABORT, None)),
        (litellm(status="success", completion_tokens=5, response=json.loads(ANSWER),
                 metadata=json.dumps({"error_information": DISCONNECTED})), (ABORT, 200)),
        (litellm(error_information={"error_code": "408", "error_class": "Timeout"}), (TIMEOUT, None)),
        (litellm(error_information={"error_code": "429", "error_class": "RateLimitError"}), (REFUSED, 429)),
        (litellm(metadata={"error_information": {"error_code": "503", "error_class": "InternalServerError"}}),
         (REFUSED, 503)),
        (litellm(error_information={"error_code": "", "error_class": "APIConnectionError"}, prompt_tokens=21,
                 completion_tokens=3, completionStartTime=1795962334.5), (CUT, 200)),
        # Langfuse and LangSmith keep an exception's words.
        (langfuse(SDK_429), (REFUSED, 429)),
        (langfuse("Request timed out."), (TIMEOUT, None)),
        (langfuse("Request was aborted."), (ABORT, None)),
        (langfuse("no more of it"), (REFUSED, None)),
        (langsmith("CancelledError()\n\nTraceback (most recent call last):\n ..."), (ABORT, None)),
        (langsmith(f'RateLimitError("{SDK_429}")Traceback'), (REFUSED, 429)),
        (langsmith("AbortError: This operation was aborted\n    at x"), (ABORT, None)),
        (langsmith("APITimeoutError('Request timed out.')"), (TIMEOUT, None)),
        # Helicone's own statuses.
        (helicone(-1), (TIMEOUT, None)),
        (helicone(-3), (ABORT, None)),
        (helicone(-2), (Outcome.INCOMPLETE, None)),
        (helicone(200, response_body=json.loads(ANSWER)), (OK, 200)),
        (helicone(500), (REFUSED, 500)),
    ],
)  # fmt: skip
def test_each_log_says_how_it_ended(
    imported: Importing, row: dict[str, Any], expected: tuple[Outcome, int | None]
) -> None:
    (exchange,) = imported(row)
    assert ending(exchange) == expected


def test_a_map_reads_how_it_ended(imported: Importing) -> None:
    """The trace's words, a log's own, an exception's; 499 is of a client that left."""
    rows: list[dict[str, Any]] = [
        {"why": "client_abort"}, {"why": "canceled", "status": 200}, {"why": "whatever", "status": 200},
        {"why": None, "status": 499}, {"why": None, "error": "ReadTimeout", "status": None},
        {"why": "connect_error", "status": 200, "text": "yo"}, {"why": "ok", "status": 500},
        {"why": "http_error", "status": None}, {"why": None, "error": "timeout", "status": 504},
        {"why": None, "status": 0}, {"why": None, "status": "0"}, {"why": "timeout", "status": 0},
        {"why": None, "status": "503 Service Unavailable"}, {"why": None, "status": "200 OK"},
    ]  # fmt: skip
    fields = ("arrival=at:s", "duration=took:s", "messages=asked", "status=status", "outcome=why",
              "error=error", "answer=text")  # fmt: skip
    exchanges = imported(
        *(
            {"at": 1764350000 + n, "took": 1, "asked": MESSAGES, **row}
            for n, row in enumerate(rows)
        ),
        fields=fields,
    )
    assert list(map(ending, exchanges)) == [
        (ABORT, None), (ABORT, 200), (OK, 200), (ABORT, None), (TIMEOUT, None), (OK, 200), (REFUSED, 500),
        (REFUSED, None), (REFUSED, 504), (RESET, None), (RESET, None), (TIMEOUT, None),
        (REFUSED, 503), (OK, 200),
    ]  # fmt: skip


def test_a_stream_without_a_finish_is_cut(imported: Importing) -> None:
    """Its prompt was recorded, so a finish would have been; chunks had come, so the answer had begun."""
    (exchange,) = imported(span({}, events=[CHUNK]))
    assert ending(exchange) == (CUT, 200)


@pytest.mark.parametrize("status", [{}, {"code": 1}])
def test_a_stream_whose_content_was_not_recorded_is_no_failure(
    imported: Importing, status: dict[str, Any]
) -> None:
    """OpenLLMetry with content off or in events has neither finish nor counts of a good stream."""
    without = {"gen_ai.input.messages": "", "gen_ai.usage.input_tokens": 7}
    (exchange,) = imported(span(without, status, events=[CHUNK]))
    assert ending(exchange) == (OK, 200)
    assert exchange.response and exchange.response.error is None


@pytest.mark.parametrize("word", ["None", "null", "NULL", "NaN", "nan", "-", "", " none "])
def test_a_map_takes_a_word_for_nothing_for_no_error(imported: Importing, word: str) -> None:
    fields = ("arrival=at:s", "duration=took:s", "messages=asked", "status=status", "error=error")
    row = {"at": 1764350000, "took": 1, "asked": MESSAGES, "status": 200, "error": word}
    (exchange,) = imported(row, fields=fields)
    assert ending(exchange) == (OK, 200)
    assert exchange.response and exchange.response.error is None


def test_what_helicone_refused_went_to_no_model(imported: Importing) -> None:
    (exchange,) = imported(helicone(-4), helicone(200))
    assert exchange.response


def test_helicones_notice_is_no_body(imported: Importing) -> None:
    """Without bodies its export has words about them: a prompt of the counted tokens is written instead."""
    notice = {
        "helicone_message": "fetching body from signed_url... contact us for more information"
    }
    (exchange,) = imported(helicone(200, request_body=notice, response_body=notice))
    assert b"helicone_message" not in (exchange.request.body or b"")
    assert (exchange.request.host, exchange.request.path) == ("api.example", "/v1/chat/completions")
    assert Facts(exchange).usage[:3] == (7, 3, 2)


@given(
    word=st.text(), status=st.sampled_from([0, 200, 500]), text=st.sampled_from(["", ANSWER, BEGUN])
)
def test_a_word_that_nobody_knows_changes_nothing(word: str, status: int, text: str) -> None:
    """Of a foreign `_outcome` only known words count."""
    read = IMPORTERS["har"].calls
    (plain,), (marked,) = (
        list(read(har(status, text))),
        list(read(har(status, text, _outcome=word))),
    )
    assert isinstance(marked, Call)
    if named_outcome(word) is None:
        assert marked == plain


@pytest.mark.parametrize("word", [*Outcome])
@pytest.mark.parametrize(("status", "text"), [(0, ""), (200, ANSWER), (500, ANSWER)])
def test_a_word_is_believed_as_far_as_it_can_be(
    imported: Importing, word: Outcome, status: int, text: str
) -> None:
    """Nothing is cut that never began, an answer had a connection, and a refusal is one whatever is said."""
    (exchange,) = imported(har(status, text, _outcome=word))
    outcome, read = ending(exchange)
    assert read == (status or None)
    if not status:
        assert outcome not in {OK, CUT, Outcome.STREAM_ERROR}
        assert (outcome == REFUSED) == (word is REFUSED)
    elif status == 500:
        assert outcome != OK
    else:
        assert outcome not in {
            REFUSED,
            RESET,
            Outcome.CONNECT_ERROR,
            Outcome.CLIENT_LIMIT,
            Outcome.INCOMPLETE,
        }


def test_openllmetrys_spans_are_read_whole(imported: Importing) -> None:
    """As 0.62 writes them: a tool's members beside its type, a URL, that it streamed, texts to embed."""
    tool = {"type": "function", "name": "get", "description": "d", "parameters": {"type": "object"}}
    used = {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 3}
    chat, embedding = imported(
        span({
            "gen_ai.tool.definitions": json.dumps([tool]), "gen_ai.openai.api_base": "http://127.0.0.1:8000/v1/",
            "gen_ai.output.messages": PARTIAL, "gen_ai.usage.cache_read_input_tokens": 4, **used,
            "gen_ai.is_streaming": True, "gen_ai.response.finish_reasons": ["tool_call"],
        }, kind=3),
        span({
            "gen_ai.operation.name": "embeddings", "gen_ai.input.messages": json.dumps(
                [{"role": "user", "parts": [{"type": "text", "content": "words"}]}]),
        }),
    )  # fmt: skip
    body = json.loads(chat.request.body or b"")
    assert body["tools"] == [
        {
            "type": "function",
            "function": {name: value for name, value in tool.items() if name != "type"},
        }
    ]
    assert body["stream"] is True
    assert (Facts(chat).answer or pytest.fail()).finish_reasons == ("tool_calls",)
    assert (chat.request.scheme, chat.request.host) == ("http", "127.0.0.1:8000")
    assert Facts(chat).usage[:3] == (9, 3, 4)
    assert json.loads(embedding.request.body or b"")["input"] == ["words"]


@pytest.mark.parametrize(
    "told",
    [
        {"llm.is_streaming": True},
        {"llm.is_streaming": "True"},
        {"gen_ai.response.time_to_first_chunk": 0.1},
    ],
)
def test_a_span_that_tells_of_a_stream_is_asked_for_one(
    imported: Importing, told: dict[str, object]
) -> None:
    """By the older name, or by a first chunk; not where it says that there was none."""
    streamed, plain = imported(span(told), span({"llm.is_streaming": False}))

    assert json.loads(streamed.request.body or b"")["stream"] is True
    assert "stream" not in json.loads(plain.request.body or b"")


@pytest.mark.parametrize("endless", ['"Infinity"', "Infinity"])
def test_langfuses_rows_of_its_sdk_are_read_whole(imported: Importing, endless: str) -> None:
    """As its wrapper of OpenAI's SDK logs: a limit that nobody set, kinds of tokens, a first token."""
    row = {
        **langfuse(""), "level": "DEFAULT", "output": json.dumps({"role": "assistant", "content": "yo"}),
        "model_parameters": f'{{"temperature": 1, "max_tokens": {endless}, "top_p": 1}}',
        "usage_details": {"input": 10, "cache_read_input_tokens": 90, "output": 5, "total": 105},
        "completion_start_time": "2026-05-29 13:46:20.213000",
    }  # fmt: skip
    (exchange,) = imported(row)
    assert json.loads(exchange.request.body or b"") == {
        "model": "m", "messages": MESSAGES, "temperature": 1, "top_p": 1, "stream": True,
    }  # fmt: skip
    assert Facts(exchange).usage[:3] == (100, 5, 90)


def test_litellms_embeddings_are_texts(imported: Importing) -> None:
    """They stand in its log as messages of the user."""
    (exchange,) = imported(litellm(status="success", call_type="aembedding"))
    assert json.loads(exchange.request.body or b"")["input"] == ["hi"]
    assert exchange.request.scheme == "http"
