"""`tbench serve` as its users meet it: a process, both SDKs, plain HTTP, faults, the truth."""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import together
import trustme

from tbench.__main__ import run
from tbench.simulator.server import listen
from tests.conftest import PATIENCE_S, until

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me of the sea"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


@pytest.fixture
def http(simulator: Any) -> Iterator[httpx.Client]:
    """A client with a key, at the root of the simulator."""
    headers = {"authorization": "Bearer k"}
    with httpx.Client(base_url=simulator.url, headers=headers, timeout=PATIENCE_S) as client:
        yield client


def ask(
    http: httpx.Client, headers: dict[str, str] | None = None, **changes: Any
) -> httpx.Response:
    fields = {"model": MODEL, "messages": MESSAGES, "max_tokens": 6, **changes}
    return http.post("/v1/chat/completions", json=fields, headers=headers)


def events(response: httpx.Response) -> list[Any]:
    """The payloads of an event stream that ends as it should."""
    assert response.headers["content-type"] == "text/event-stream;charset=utf-8"
    parts = response.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


SDKS: dict[str, Callable[[str], Any]] = {
    "openai": lambda url: openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0),
    "together": lambda url: together.Together(base_url=url, api_key="k", max_retries=0),
    "together, base with /v1": lambda url: together.Together(base_url=f"{url}/v1", api_key="k"),
}


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest, simulator: Any) -> Iterator[Any]:
    """Both SDKs, unmodified."""
    client = SDKS[request.param](simulator.url)
    yield client
    client.close()


def test_the_sdks_stream_what_they_also_get_whole(sdk: Any) -> None:
    """The deltas join to the message of the same request unstreamed, with the same usage."""
    asked = {"model": MODEL, "messages": MESSAGES, "extra_headers": {"x-sim-tokens": "30"}}
    whole = sdk.chat.completions.create(**asked)
    chunks = list(sdk.chat.completions.create(**asked, stream=True))

    joined = "".join(chunk.choices[0].delta.content for chunk in chunks)
    assert joined == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage.completion_tokens == whole.usage.completion_tokens == len(chunks) == 30
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_the_sdks_understand_a_tool_call(sdk: Any) -> None:
    """A call's parts join to the whole call."""
    asked = {"model": MODEL, "messages": MESSAGES, "tools": TOOLS}
    (call,) = sdk.chat.completions.create(**asked).choices[0].message.tool_calls
    chunks = list(sdk.chat.completions.create(**asked, stream=True))
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]

    assert len(chunks) == 4
    assert parts[0].function.name == call.function.name == "weather"
    assert "".join(part.function.arguments or "" for part in parts) == call.function.arguments
    assert set(json.loads(call.function.arguments)) == {"city"}


def test_the_sdks_get_completions_and_embeddings(sdk: Any) -> None:
    """The other text endpoints, whatever encoding the SDK asks for."""
    text = sdk.completions.create(model=MODEL, prompt="Once", max_tokens=5)
    vectors = sdk.embeddings.create(
        model="intfloat/multilingual-e5-large-instruct", input=["sea", "sky"]
    )

    assert text.usage.completion_tokens == 5
    assert [len(row.embedding) for row in vectors.data] == [1024, 1024]
    assert sum(x * x for x in vectors.data[0].embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["openai", "together"])
def test_the_asynchronous_sdks_stream(simulator: Any, name: str) -> None:
    """Several streams of one asynchronous client at once, each whole."""
    clients: dict[str, Any] = {
        "openai": lambda: openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="k"),
        "together": lambda: together.AsyncTogether(base_url=simulator.url, api_key="k"),
    }

    async def lengths() -> list[tuple[int, int]]:
        async with clients[name]() as client:

            async def one(number: int) -> tuple[int, int]:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=MESSAGES, stream=True, max_tokens=number
                )
                chunks = [chunk async for chunk in stream]
                return len(chunks), chunks[-1].usage.completion_tokens

            return await asyncio.gather(*(one(n) for n in range(2, 12)))

    assert asyncio.run(lengths()) == [(n, n) for n in range(2, 12)]


def test_the_openai_sdk_reads_reasoning_and_rerank_the_together_sdk(simulator: Any) -> None:
    """Reasoning deltas come before the answer; a rerank is ordered by relevance."""
    with openai.OpenAI(base_url=f"{simulator.url}/v1", api_key="k") as client:
        chunks: Any = list(
            client.chat.completions.create(
                model=MODEL,
                messages=MESSAGES,
                stream=True,
                extra_headers={"x-sim-tokens": "20"},
                extra_body={"reasoning": {"enabled": True}},
            )
        )
    kinds = [bool(getattr(chunk.choices[0].delta, "reasoning", None)) for chunk in chunks]
    assert kinds == sorted(kinds, reverse=True)
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == sum(kinds) == 10

    with together.Together(base_url=simulator.url, api_key="k") as sdk:
        ranked = sdk.rerank.create(
            model="Salesforce/Llama-Rank-V1",
            query="salt water",
            documents=["dry land", "salt water", "water"],
            return_documents=True,
            top_n=2,
        )
    assert [row.index for row in ranked.results] == [1, 2]
    assert ranked.results[0].document.text == "salt water"


def test_models_are_a_bare_array_with_prices(http: httpx.Client) -> None:
    """As Together's, and not as OpenAI's."""
    listing = http.get("/v1/models").json()

    assert isinstance(listing, list)
    entry = next(row for row in listing if row["id"] == MODEL)
    assert entry["pricing"]["input"] == entry["pricing"]["output"] == 0.88


@pytest.mark.parametrize(
    ("key", "status"), [(None, 401), ("Basic x", 401), ("Bearer bad-key", 401), ("Bearer x", 200)]
)
def test_keys_are_checked(simulator: Any, key: str | None, status: int) -> None:
    """No key and a bad key are 401, with the error in Together's form."""
    headers = {"authorization": key} if key else {}
    answer = httpx.get(f"{simulator.url}/v1/models", headers=headers)

    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "fields", "status", "said"),
    [
        ("chat/completions", {"model": "no/such-model"}, 404, "no/such-model"),
        ("chat/completions", {"max_tokens": -1}, 400, "max_tokens"),
        ("embeddings", {"input": "a", "user": "me"}, 400, "Unrecognized request arguments"),
        ("embeddings", {"input": "a", "dimensions": 3}, 400, "dimensions"),
        ("embeddings", {"input": [1]}, 400, "input"),
        ("rerank", {"query": "a"}, 400, "documents"),
        ("rerank", {"query": "a", "documents": ["a", "b"], "top_n": -1}, 400, "top_n"),
        ("nothing", {}, 404, "Not found"),
    ],
)
def test_what_is_wrong_is_said(
    http: httpx.Client, path: str, fields: dict[str, Any], status: int, said: str
) -> None:
    """The status of the public table, and a message that names the fault."""
    whole = {"model": MODEL, "messages": MESSAGES, **fields}
    answer = http.post(f"/v1/{path}", json=whole)

    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert answer.json()["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("base", ["/v1", "/v1/v1"])
def test_both_bases_serve(http: httpx.Client, base: str) -> None:
    """The doubled /v1 of a misconfigured SDK works too."""
    assert http.get(f"{base}/models").status_code == 200


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_a_stream_can_be_encoded(http: httpx.Client, name: str) -> None:
    """Every event still comes by itself, and decodes to the same stream."""
    plain = events(ask(http, stream=True))
    encoded = ask(http, {"x-sim-encoding": name}, stream=True)

    assert encoded.headers["content-encoding"] == name
    assert [e["choices"] for e in events(encoded)] == [e["choices"] for e in plain]


def test_an_encoded_event_is_readable_before_the_next(http: httpx.Client) -> None:
    """The first event decodes while the stream is still held up."""
    headers = {"x-sim-encoding": "gzip", "x-sim-fault": "stall;at=1;s=15"}
    fields = {"model": MODEL, "messages": MESSAGES, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=fields, headers=headers) as answer:
        assert next(answer.iter_text()).startswith('data: {"id"')


# Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 402, 404, 408, 429, 500, 502, 503, 504, 529])
def test_any_status_can_be_had(http: httpx.Client, status: int) -> None:
    """With a JSON error; 429 and 503 say when to come again."""
    answer = ask(http, {"x-sim-fault": str(status)})

    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    assert ("x-ratelimit-reset" in answer.headers) == (status == 429)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset", httpx.ReadError),
        ("close", httpx.RemoteProtocolError),
        ("cut", httpx.RemoteProtocolError),
    ],
)
def test_connections_break(
    http: httpx.Client, fault: str, error: type[Exception], stream: bool
) -> None:
    """A reset, an early close, and a body that ends before its end."""
    with pytest.raises(error):
        ask(http, {"x-sim-fault": fault}, stream=stream)


def test_an_error_in_mid_stream_is_an_event(http: httpx.Client) -> None:
    """Three tokens, the error, [DONE]; status 200."""
    *tokens, last = events(ask(http, {"x-sim-fault": "error;at=3"}, stream=True))

    assert len(tokens) == 3
    assert last["error"]["type"] == "server_error"


def test_a_stream_can_end_without_an_end(http: httpx.Client) -> None:
    """No finish reason, no usage, no [DONE], yet HTTP says that it is complete."""
    text = ask(http, {"x-sim-fault": "eof;at=2"}, stream=True).text

    assert text.count("data: ") == 2
    assert "[DONE]" not in text
    assert '"finish_reason":"' not in text


def test_garbage_stands_between_sound_events(http: httpx.Client) -> None:
    """One event is no JSON, those around it are."""
    parts = ask(http, {"x-sim-fault": "garbage;at=2"}, stream=True).text.split("\n\n")[:-2]
    sound = [part for part in parts if part.endswith("}")]

    assert len(parts) == 7
    assert len(sound) == 6
    assert [json.loads(part[6:]) for part in sound]


def test_a_gateway_can_answer_in_the_service_s_stead(http: httpx.Client) -> None:
    """520 with a page in HTML."""
    answer = ask(http, {"x-sim-fault": "html"})

    assert answer.status_code == 520
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("fault", ["stall", "slow"])
def test_a_held_up_answer_is_whole(http: httpx.Client, fault: str) -> None:
    """Late by what was asked, by the server's own record."""
    answer = ask(http, {"x-sim-fault": f"{fault};s=0.2;at=2", "x-request-id": fault}, stream=True)
    record = next(r for r in http.get("/_truth").json() if r["request_id"] == fault)
    until = record["first_wall_ns"] if fault == "slow" else record["last_wall_ns"]

    assert len(events(answer)) == 6
    assert until - record["arrival_wall_ns"] >= 0.2e9
    assert record["fault"] == fault


def test_a_rate_limit_lets_a_burst_through_and_then_says_429(serve: Callable[..., Any]) -> None:
    """Ten at once, then nobody for a long time; a key that was not given counts for nothing."""
    server = serve(
        "serve", "--port", 0, "--rate-limit", 0.001, "--api-key", "one", "--api-key", "k"
    )
    url, fields = f"{server.url}/v1/embeddings", {"model": MODEL, "input": "a"}
    keys = ["one", "k", "three", *["k"] * 10]
    with httpx.Client() as client:
        answers = [
            client.post(url, json=fields, headers={"authorization": f"Bearer {key}"})
            for key in keys
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 401, *[200] * 8, 429, 429]
    assert answers[0].headers["x-ratelimit-remaining"] == "9"
    assert int(answers[-1].headers["retry-after"]) > 1


# The truth ------------------------------------------------------------------------------------


def test_the_truth_is_told_of_each_request(http: httpx.Client) -> None:
    """Under the caller's id: its times in order, its counts, and neither prompt nor key."""
    before = time.time_ns()
    answer = ask(http, {"x-request-id": "mine-1"}, stream=True)
    after = time.time_ns()
    record = next(r for r in http.get("/_truth").json() if r["request_id"] == "mine-1")

    arrival, first, last, end = (
        record[f"{name}_wall_ns"] for name in ("arrival", "first", "last", "end")
    )
    assert before <= arrival <= first <= last <= end
    assert last <= after  # the server may note its end after the client has the last byte
    assert len(record["token_offsets_us"]) == 5
    assert record["tokens_written"] == record["output_tokens"] == len(events(answer)) == 6
    assert record["outcome"] == "ok"
    assert record["status"] == 200
    assert "Tell me" not in json.dumps(record)
    assert answer.headers["x-request-id"] == "mine-1"
    assert f"arrival_wall_ns={record['arrival_wall_ns']}" in answer.headers["x-sim-timing"]


def test_set_times_are_kept(http: httpx.Client) -> None:
    """x-sim-ttft-ms, x-sim-itl-ms and x-sim-tokens: never early, by the server's own record."""
    headers = {
        "x-sim-ttft-ms": "60",
        "x-sim-itl-ms": "20",
        "x-sim-tokens": "4",
        "x-request-id": "set",
    }
    answer = ask(http, headers, stream=True)
    record = next(r for r in http.get("/_truth").json() if r["request_id"] == "set")
    offsets = [0, *record["token_offsets_us"]]

    assert len(events(answer)) == 4
    assert record["first_wall_ns"] - record["arrival_wall_ns"] >= 59e6
    assert record["last_wall_ns"] - record["arrival_wall_ns"] >= 119e6
    assert len(offsets) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-sim-ttft-ms", "often"),
        ("x-sim-tokens", "often"),
        ("x-sim-tokens", "inf"),
        ("x-sim-tokens", "1e12"),
        ("x-sim-encoding", "often"),
    ],
)
def test_a_header_that_means_nothing_is_refused(http: httpx.Client, name: str, value: str) -> None:
    """Rather than ignored."""
    assert ask(http, {name: value}, stream=True).status_code == 400


def test_a_repeated_prompt_is_cached(http: httpx.Client) -> None:
    """The usage of the second request counts whole blocks of the first as cached."""
    long = [{"role": "user", "content": "the cache of this test " * 40}]
    first, second = (ask(http, messages=long).json()["usage"] for _ in range(2))

    assert first["cached_tokens"] == 0
    assert second["cached_tokens"] == second["prompt_tokens"] // 16 * 16


def test_a_stream_counts_what_its_later_prompts_found_in_the_cache(http: httpx.Client) -> None:
    """The first fills a step of the engine, so that its token comes before the second is looked up."""
    known, new = "a prompt of this test " * 30, "a longer one of it " * 1000
    for prompts in ([known], [new[: 4 * 2048], known]):
        fields = {"model": MODEL, "prompt": prompts, "max_tokens": 4, "stream": True}
        answer = http.post("/v1/completions", json=fields)

    assert events(answer)[-1]["usage"]["cached_tokens"] == len(known) // 64 * 16


def test_stats_count_what_is_in_flight(serve: Callable[..., Any]) -> None:
    """One stream is held up while the counts are read; reset forgets the rest."""
    server = serve("serve", "--port", 0)
    with httpx.Client(base_url=server.url, headers={"authorization": "Bearer k"}) as client:
        ask(client)
        fields = {"model": MODEL, "messages": MESSAGES, "stream": True}
        headers = {"x-sim-fault": "stall;s=20"}
        with client.stream("POST", "/v1/chat/completions", json=fields, headers=headers) as held:
            pieces = held.iter_bytes()
            next(pieces)
            during = client.get("/_stats").json()
            client.get("/_reset")
            after = client.get("/_stats").json()

    assert (during["in_flight"], during["max_in_flight"], during["served"]) == (1, 1, 1)
    assert 0 < during["mean_in_flight"] <= 1
    assert (after["in_flight"], after["max_in_flight"], after["served"]) == (1, 1, 0)


def test_a_client_that_leaves_is_noticed(serve: Callable[..., Any], tmp_path: Path) -> None:
    """Its record says so, soon, though its stream had long to go."""
    log = tmp_path / "truth.jsonl"
    server = serve("serve", "--port", 0, "--log", log)
    fields = {"model": MODEL, "messages": MESSAGES, "stream": True}
    headers = {"authorization": "Bearer k", "x-sim-itl-ms": "60000"}
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=fields, headers=headers
    ) as held:
        pieces = held.iter_bytes()
        next(pieces)
    record = json.loads(until(log.read_text))
    assert record["outcome"] == "client_abort"
    assert record["tokens_written"] == 1


def test_an_early_head_does_not_wait_for_the_first_token(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    """With `early_head` in the profile the status is there long before the token."""
    (tmp_path / "mine.toml").write_text("early_head = true")
    server = serve("serve", "--port", 0, "--profile", tmp_path / "mine.toml")
    fields = {"model": MODEL, "messages": MESSAGES, "stream": True}
    headers = {"authorization": "Bearer k", "x-sim-ttft-ms": "60000"}
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=fields, headers=headers, timeout=PATIENCE_S) as held:
        assert held.status_code == 200

    assert "profile mine" in server.said


# The process ----------------------------------------------------------------------------------


def test_small_writes_are_not_held_back() -> None:
    """Asyncio sets TCP_NODELAY on what such a listener accepts, and on no other."""
    with listen("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_on_a_signal_and_cuts_what_outlives_it(
    serve: Callable[..., Any], number: signal.Signals
) -> None:
    """Exit 0 with a summary, though a stream would have gone on for minutes."""
    server = serve("serve", "--port", 0)
    fields = {"model": MODEL, "messages": MESSAGES, "stream": True}
    headers = {"authorization": "Bearer k", "x-sim-itl-ms": "60000"}
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=fields, headers=headers, timeout=PATIENCE_S) as held:
        pieces = held.iter_bytes()
        next(pieces)
        assert server.stop(number) == 0
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)

    assert "served 1 request, at most 1 in flight" in server.said
    assert "Traceback" not in server.said


def test_it_ends_after_so_many_requests(serve: Callable[..., Any]) -> None:
    """The one request that it serves befalls the fault of rate 1."""
    server = serve("serve", "--port", 0, "--requests", 1, "--fault", "500=1")
    fields = {"model": MODEL, "input": "a"}
    headers = {"authorization": "Bearer k"}
    answer = httpx.post(f"{server.url}/v1/embeddings", json=fields, headers=headers)

    assert answer.status_code == 500
    assert server.process.wait(timeout=PATIENCE_S) == 0


def test_a_reset_is_of_the_counts_and_not_of_the_end(serve: Callable[..., Any]) -> None:
    """The second request is the last, and the end counts both."""
    server = serve("serve", "--port", 0, "--requests", 2)
    headers = {"authorization": "Bearer k"}
    for path in ("/v1/embeddings", "/_reset", "/v1/embeddings"):
        httpx.post(f"{server.url}{path}", json={"model": MODEL, "input": "a"}, headers=headers)

    assert server.process.wait(timeout=PATIENCE_S) == 0
    assert "served 2 requests; since /_reset 1, at most 1 in flight" in server.said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_takes_no_log_and_stops_nobody(serve: Callable[..., Any]) -> None:
    """Both requests are answered; the end says how many the log lacks."""
    server = serve("serve", "--port", 0, "--requests", 2, "--log", "/dev/full")
    with httpx.Client(base_url=server.url, headers={"authorization": "Bearer k"}) as client:
        assert [ask(client).status_code for _ in range(2)] == [200, 200]

    assert server.process.wait(timeout=PATIENCE_S) == 4
    assert "No space left on device: no more is written to it" in server.said
    assert "No space left on device: lacks the last 2 requests" in server.said
    assert "Traceback" not in server.said


def test_a_log_of_an_earlier_server_is_not_replaced(
    tbench: Callable[..., Any], tmp_path: Path
) -> None:
    log = tmp_path / "truth.jsonl"
    log.write_text("{}\n")
    refused = tbench("serve", "--port", 0, "--log", log)

    assert (refused.code, log.read_text()) == (2, "{}\n")
    assert f"--log {log}: exists already; choose another name or remove it" in refused.err


def test_it_speaks_tls(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """With a certificate the address is https, and a cut stream is cut there too."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    command = [sys.executable, "-m", "tbench", "serve", "--port", "0"]
    command += ["--tls-cert", str(cert), "--tls-key", str(key), "--duration", "20"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    request.addfinalizer(process.kill)
    with process.stderr as said:
        address = said.readline().split()[4]
        speak_tls(address, ca)
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0


def speak_tls(address: str, ca: Path) -> None:
    trusted = ssl.create_default_context(cafile=ca)
    with httpx.Client(
        base_url=address, headers={"authorization": "Bearer k"}, verify=trusted
    ) as http:
        assert address.startswith("https://")
        assert len(events(ask(http, stream=True))) == 6
        with pytest.raises(httpx.RemoteProtocolError):
            ask(http, {"x-sim-fault": "cut"}, stream=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--profile", "warp"), "no such profile"),
        (("--fault", "429"), "KIND=SHARE"),
        (("--fault", "429=.1", "--fault", "429=.2"), "429 has a share already"),
        (("--fault", "mood=1"), "no such fault: mood"),
        (("--fault", "\xb2=1"), "no such fault: \xb2"),
        (("--tls-cert", "no.pem", "--tls-key", "no.pem"), "no such file"),
        (
            ("--tls-cert", __file__, "--tls-key", __file__),
            "not a certificate and its unencrypted key",
        ),
        (("--odd", "--profile", "slow"), "--odd goes with"),
        (("--host", "", "--duration", "0"), "--host '': give an address of this machine"),
        (("--odd", "--host", "", "--duration", "0"), "--host ''"),
        (("--host", "127.0.0.1:99"), "choose another --host"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    """What is wrong and what to do, before anything listens."""
    assert run(["serve", *arguments]) == 2

    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], simulator: Any
) -> None:
    """The line names the address and the way out."""
    assert run(["serve", "--port", simulator.url.rpartition(":")[2]]) == 2

    error = capsys.readouterr().err
    assert "already in use" in error
    assert "--port" in error
    assert error.count("\n") == 1
