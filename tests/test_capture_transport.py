"""`tbench.CaptureTransport`: what SDKs say through it, beside what the proxy records of the same bytes."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import tbench
from tbench.capture.exchange import Exchange, Outcome
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import read_trace
from tests.conftest import PATIENCE_S, Done, Server
from tests.test_capture_end_to_end import (
    AUTH,
    CHAT,
    KEY,
    STREAM,
    Faults,
    Stage,
    Upstream,
    ask,
    frames,
    token,
)

anthropic = pytest.importorskip("anthropic", reason="the SDK is an extra of the tests")
httpx2 = pytest.importorskip("httpx2", reason="openai and anthropic bring it along")
openai = pytest.importorskip("openai")
together = pytest.importorskip("together")
ROOT = Path(__file__).parent.parent
RECORDER = runpy.run_path(str(ROOT / "fixtures" / "record_cassettes.py"))
CASES: dict[str, Any] = RECORDER["CASES"]
PAIRS: list[tuple[str, str]] = RECORDER["PAIRS"]
SECRET = "sk-in-process-0123456789"
SLOW = {"x-sim-tokens": "40", "x-sim-itl-ms": "5"}


@dataclass
class Recorded:
    """One trace by the transport and one by the proxy behind it, of the same calls; what SDKs measured."""

    calls: list[str]
    inside: list[Exchange]
    proxy: list[Exchange]
    first_s: dict[str, float] = field(default_factory=dict)
    path: Path = Path()

    def of(self, call: str) -> tuple[Exchange, Exchange]:
        place = self.calls.index(call)
        return self.inside[place], self.proxy[place]


def streamed(name: str, url: str, new: Callable[[], Any], *, leave: bool) -> float:
    """Stream by one SDK; returns the seconds to its first words, after which it may leave."""
    began = time.monotonic()
    first = 0.0
    for text in texts(name, url, new):
        if text:
            first = first or time.monotonic() - began
            if leave:
                break
    return first


def texts(name: str, url: str, new: Callable[[], Any]) -> Iterator[str]:
    with client_of(name, url, new()) as client, api_of(client)(**ARGUMENTS) as stream:
        for event in stream:
            yield text_of(event)


async def texts_later(name: str, url: str, new: Callable[[], Any]) -> AsyncIterator[str]:
    async with client_of(name, url, new()) as client, await api_of(client)(**ARGUMENTS) as stream:
        async for event in stream:
            yield text_of(event)


async def streamed_later(name: str, url: str, new: Callable[[], Any], *, leave: bool) -> float:
    began, first = time.monotonic(), 0.0
    async with contextlib.aclosing(texts_later(name, url, new)) as pieces:  # type: ignore[type-var]
        async for text in pieces:
            if text:
                first = first or time.monotonic() - began
                if leave:
                    break
    return first


ARGUMENTS = RECORDER["TALL"] | {"stream": True, "extra_headers": SLOW}
SDKS: dict[str, Any] = {
    "openai": openai.OpenAI,
    "together": together.Together,
    "anthropic": anthropic.Anthropic,
    "async-openai": openai.AsyncOpenAI,
    "async-together": together.AsyncTogether,
    "async-anthropic": anthropic.AsyncAnthropic,
}


def client_of(name: str, url: str, http_client: Any) -> Any:
    base = f"{url}/v1" if "openai" in name else url
    return SDKS[name](base_url=base, api_key=SECRET, max_retries=0, http_client=http_client)


def api_of(client: Any) -> Any:
    return client.messages.create if hasattr(client, "messages") else client.chat.completions.create


def text_of(event: Any) -> str:
    if choices := getattr(event, "choices", None):
        return choices[0].delta.content or ""
    return getattr(getattr(event, "delta", None), "text", None) or ""


@pytest.fixture(scope="module")
def recorded(simulator: Server, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Every case of the cassettes, and streams of each SDK, read to the end and left early."""
    folder = tmp_path_factory.mktemp("inside")
    path, behind = folder / "inside.msgpack", folder / "proxy.msgpack"
    proxy = Server("capture", "--upstream", simulator.url, "--port", 0, "-o", behind)
    kinds = {
        "openai": lambda: httpx.Client(transport=tbench.CaptureTransport(path)),
        "together": lambda: httpx.Client(transport=tbench.CaptureTransport(path)),
        "anthropic": lambda: httpx2.Client(transport=tbench.CaptureTransport(path)),
        "async-openai": lambda: httpx2.AsyncClient(transport=tbench.CaptureTransport(path)),
        "async-together": lambda: httpx.AsyncClient(transport=tbench.CaptureTransport(path)),
        "async-anthropic": lambda: httpx2.AsyncClient(transport=tbench.CaptureTransport(path)),
    }
    for sdk in ("openai", "together", "anthropic"):
        RECORDER["CLIENTS"][sdk] = lambda url, key, sdk=sdk: SDKS[sdk](
            base_url=f"{url}/v1" if sdk == "openai" else url,
            api_key=key,
            max_retries=0,
            http_client=kinds[sdk](),
        )
    calls, first_s = [f"{sdk}-{name}" for sdk, name in PAIRS], {}
    with httpx.Client(transport=tbench.CaptureTransport(path)):  # it keeps the trace open
        for sdk, name in PAIRS:
            RECORDER["drive"](sdk, CASES[name], proxy.url)
        for name, new in kinds.items():
            for leave in (False, True):
                calls.append(f"{name}-{'left' if leave else 'read'}")
                if name.startswith("async"):
                    seconds = asyncio.run(streamed_later(name, proxy.url, new, leave=leave))
                else:
                    seconds = streamed(name, proxy.url, new, leave=leave)
                first_s[calls[-1]] = seconds
        assert not path.exists()
    assert proxy.stop() == 0
    inside, outside = (
        sorted(read_trace(trace), key=lambda exchange: exchange.request.seq)
        for trace in (path, behind)
    )
    assert len(inside) == len(outside) == len(calls)
    return Recorded(calls, inside, outside, first_s, path)


def test_the_trace_is_the_proxys(recorded: Recorded) -> None:
    """The same requests, answers, outcomes, usage and header fields, for every call of every SDK."""
    for call in recorded.calls:
        inside, proxy = recorded.of(call)
        assert (inside.outcome, Facts(inside).parsed.info) == (
            proxy.outcome,
            Facts(proxy).parsed.info,
        ), call
        assert inside.request.body == proxy.request.body, call
        assert inside.request.path == proxy.request.path, call
        assert inside.request.headers[1:] == proxy.request.headers[1:], (
            call
        )  # the first is the host
        assert inside.request.headers_withheld == proxy.request.headers_withheld, call
        carrier = "credential_header"
        assert inside.request.extra[carrier] == proxy.request.extra[carrier], call
        assert inside.response
        assert proxy.response
        assert inside.response.status == proxy.response.status, call
        assert inside.response.headers == proxy.response.headers, call
        if not call.endswith("left"):
            assert inside.response.body == proxy.response.body, call
            ours, theirs = Facts(inside).answer, Facts(proxy).answer
            assert ours
            assert theirs
            assert (ours.usage, ours.text, ours.tool_calls) == (
                theirs.usage,
                theirs.text,
                theirs.tool_calls,
            ), call


def test_each_case_has_its_outcome(recorded: Recorded) -> None:
    """As the fixtures say; who reads to the end is whole, who leaves has left."""
    outcomes = {call: str(recorded.of(call)[0].outcome) for call in recorded.calls}
    wanted = {f"{sdk}-{name}": CASES[name].outcome for sdk, name in PAIRS}
    wanted |= {f"{sdk}-read": "ok" for sdk in SDKS}
    wanted |= {f"{sdk}-left": "client_abort" for sdk in SDKS}

    assert outcomes == wanted


@pytest.mark.parametrize("sdk", SDKS)
def test_the_first_token_is_not_later_than_the_sdk_saw_it(recorded: Recorded, sdk: str) -> None:
    """It is stamped on its way to the SDK, and its request on its way from it."""
    exchange, _ = recorded.of(f"{sdk}-read")
    answer = Facts(exchange).answer
    assert answer
    assert answer.first_token is not None
    first_s = answer.first_token - exchange.request.arrive_ns / 1e9

    assert 0 < first_s <= recorded.first_s[f"{sdk}-read"]
    assert exchange.response
    assert len(exchange.response.chunks) > 20


def test_no_key_is_in_the_trace(recorded: Recorded) -> None:
    """The keys of all SDKs."""
    keys = {SECRET, *(case.key for case in CASES.values())}
    for data in frames(recorded.path):
        assert not any(key.encode() in data for key in keys)


def test_a_replay_sends_all_of_it(
    recorded: Recorded, simulator: Server, tbench: Callable[..., Done]
) -> None:
    """To where the trace says that it went, when nothing else is said."""
    target = ("--base-url", simulator.url)
    done = tbench("replay", recorded.path, *target, "--speed", 100, "-o", "again.run", "--json")
    summary = json.loads(done.out)

    assert done.ended, done.err
    assert summary["planned"] == len(recorded.calls)
    assert summary["skipped"] == 0
    assert summary["never_sent"] == 0


# faults of the wire, as the proxy's test has them


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream(Faults(Stage()))
    yield server
    server.close()


def by_model(path: Path) -> dict[str, Exchange]:
    return {str(Facts(exchange).parsed.info.model): exchange for exchange in read_trace(path)}


def test_each_way_to_fail_has_the_proxys_outcome(upstream: Upstream, tmp_path: Path) -> None:
    """And the client gets the exception, or the bytes, that it would have got without the transport."""
    path = tmp_path / "trace.msgpack"
    outcomes = {
        "plain": Outcome.OK,
        "zipped": Outcome.OK,
        "json": Outcome.OK,
        "cut": Outcome.CUT,
        "no-finish": Outcome.CUT,
        "reset": Outcome.RESET,
        "garbage": Outcome.PROTOCOL_ERROR,
        "in-stream": Outcome.STREAM_ERROR,
        "echo-key": Outcome.HTTP_ERROR,
        "silent": Outcome.TIMEOUT,
    }
    seen: list[list[object]] = []
    for transport in (httpx.HTTPTransport(), tbench.CaptureTransport(path)):
        seen.append([])
        with httpx.Client(transport=transport, headers=AUTH) as client:
            for model in outcomes:
                most_s = 0.5 if model == "silent" else 60
                try:
                    answer = client.post(upstream.url + CHAT, json=ask(model), timeout=most_s)
                    seen[-1].append((answer.status_code, answer.content))
                except httpx.HTTPError as error:
                    seen[-1].append((type(error), str(error)))

    assert seen[0] == seen[1]
    assert {model: exchange.outcome for model, exchange in by_model(path).items()} == outcomes
    zipped = by_model(path)["zipped"].response
    assert zipped
    assert gzip.decompress(zipped.body or b"") == b"".join(STREAM)


def test_what_ends_before_an_answer(tmp_path: Path, upstream: Upstream) -> None:
    """A refused connection, a cancelled request, an exception of the application's own."""
    path = tmp_path / "trace.msgpack"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"

    def broken() -> Iterator[bytes]:
        yield b'{"model":"broken"'
        raise ZeroDivisionError

    with httpx.Client(transport=tbench.CaptureTransport(path)) as client:
        with pytest.raises(httpx.ConnectError):
            client.post(closed + CHAT, json=ask("refused"))
        with pytest.raises(ZeroDivisionError):
            client.post(upstream.url + CHAT, content=broken())

    async def main() -> None:
        transport = tbench.CaptureTransport(tmp_path / "later.msgpack")
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(TimeoutError):
                async with (
                    asyncio.timeout(None) as deadline,
                    client.stream("POST", upstream.url + CHAT, json=ask("silent")) as response,
                ):
                    async for _ in response.aiter_raw():
                        deadline.reschedule(0)  # at once, as the first token is there

    asyncio.run(main())

    refused, gone = read_trace(path)
    assert refused.outcome is Outcome.CONNECT_ERROR
    assert (gone.outcome, gone.request.body, gone.request.body_bytes) == ("client_abort", None, 17)
    (cancelled,) = read_trace(tmp_path / "later.msgpack")
    assert cancelled.outcome is Outcome.CLIENT_ABORT
    assert cancelled.response
    assert cancelled.response.body == token("one")


def test_a_streamed_upload_is_recorded_as_it_was_sent(tmp_path: Path, upstream: Upstream) -> None:
    """And may be sent again, where the client can: its stream is the client's own afterwards."""
    path, body = tmp_path / "trace.msgpack", json.dumps(ask("plain")).encode()
    with httpx.Client(transport=tbench.CaptureTransport(path)) as client:
        pieces = (body[at : at + 7] for at in range(0, len(body), 7))
        headers = {"content-length": str(len(body))}
        request = client.build_request("POST", upstream.url + CHAT, content=pieces, headers=headers)
        stream = request.stream
        client.send(request)

    (exchange,) = read_trace(path)
    assert request.stream is stream
    assert (exchange.request.body, exchange.outcome) == (body, Outcome.OK)
    assert exchange.request.end_ns > exchange.request.arrive_ns


def test_retries_of_an_sdk_are_linked(tmp_path: Path, upstream: Upstream) -> None:
    """By the count in its header."""
    path = tmp_path / "trace.msgpack"
    with openai.OpenAI(
        base_url=upstream.url + "/v1",
        api_key=KEY,
        http_client=httpx2.Client(transport=tbench.CaptureTransport(path)),
    ) as client:
        list(client.chat.completions.create(**ask("flaky")))

    first, again = read_trace(path)
    assert (first.outcome, again.outcome) == ("http_error", "ok")
    assert again.request.retry_of == first.request.id


def test_no_byte_of_a_secret_is_in_the_file(tmp_path: Path, upstream: Upstream) -> None:
    """The list of the proxy's test: header, echo, zipped echo, query, cookie, prompt, path."""
    path, cookie, user = tmp_path / "t.msgpack", "sid=cookie-secret-0123456789", "joe@example.com"
    transport = tbench.CaptureTransport(path, paths=["*"])
    with httpx.Client(base_url=upstream.url, transport=transport) as client:
        client.post(CHAT, json=ask("plain", user=user), headers=AUTH)
        client.post(CHAT, json=ask("echo-key"), headers=AUTH)
        client.post(CHAT, json=ask("echo-gzip"), headers=AUTH)
        client.post(f"{CHAT}?api_key={KEY}&api-version=1", json=ask("plain"))
        client.post(CHAT, json=ask("plain"), headers={"cookie": cookie, "x-api-key": KEY})
        client.post(CHAT, json=ask("plain", note=f"my key is {KEY}"), headers=AUTH)
        client.get(f"/{KEY}/v1/models", headers=AUTH)
        client.post(upstream.url.replace("//", f"//joe:{KEY}@") + CHAT, json=ask("plain"))

    assert path.stat().st_mode & 0o777 == 0o600
    assert len(list(read_trace(path))) == 8
    for needle in (KEY, KEY[:16], "cookie-secret", "s=secret", user):
        assert all(needle.encode() not in data for data in frames(path))


# one file, several clients, threads, and what goes wrong around it


def test_threads_and_clients_share_a_trace(tmp_path: Path) -> None:
    """Transports with one name write one file; the last that closes it ends it. Filters hold."""
    path = tmp_path / "trace.msgpack"
    answer = httpx.MockTransport(lambda _: httpx.Response(200, json={"object": "list"}))
    transports = [tbench.CaptureTransport(path, answer) for _ in range(4)]
    with pytest.raises(tbench.InputError, match="other options"):
        tbench.CaptureTransport(path, sample=0.5)

    def talk(transport: tbench.CaptureTransport) -> None:
        with httpx.Client(base_url="http://api.test", transport=transport) as client:
            for number in range(50):
                client.post(CHAT, json=ask(f"m{number}"))
                client.post("/v1/files", json={})

    threads = [threading.Thread(target=talk, args=(transport,)) for transport in transports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    exchanges = list(read_trace(path))
    assert len(exchanges) == 200
    assert sorted(exchange.request.seq for exchange in exchanges) == list(range(200))
    assert {exchange.response and exchange.response.body for exchange in exchanges} == {
        b'{"object":"list"}'
    }
    with pytest.raises(tbench.InputError, match="exists"):
        tbench.CaptureTransport(path)


def test_options_that_would_record_nothing_are_refused_or_meant_well(tmp_path: Path) -> None:
    """A text alone is one host, not its letters; no file has less than no bytes."""
    for name in ("rotate_mb", "max_pending_mb"):
        for size in (0, -1, float("nan")):
            with pytest.raises(tbench.InputError, match=name):
                tbench.CaptureTransport(tmp_path / "t.msgpack", **{name: size})
    answer = httpx.MockTransport(lambda _: httpx.Response(200, json={}))
    transport = tbench.CaptureTransport(
        tmp_path / "t.msgpack", answer, hosts=r"api\.test", paths="/v1/*"
    )
    with httpx.Client(base_url="http://api.test", transport=transport) as client:
        client.post(CHAT, json=ask("m"))

    assert len(list(read_trace(tmp_path / "t.msgpack"))) == 1


def test_what_comes_after_the_close_passes_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An SDK that closed its client may still be used by another."""
    answer = httpx.MockTransport(lambda _: httpx.Response(200, json={}))
    transport = tbench.CaptureTransport(tmp_path / "trace.msgpack", answer)
    transport.close()
    for _ in range(2):
        request = httpx.Request("POST", f"http://api.test{CHAT}", json=ask("late"))
        assert transport.handle_request(request).status_code == 200

    assert transport.counts.lost_requests == 2
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "what follows is not recorded: its transports were closed"
    ]


def test_a_wall_clock_that_is_set_moves_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back by years amid a capture: its times go on, and the request tells what the wall clock said."""
    path, answer = (
        tmp_path / "t.msgpack",
        httpx.MockTransport(lambda _: httpx.Response(200, json={})),
    )
    with httpx.Client(transport=tbench.CaptureTransport(path, answer)) as client:
        client.post("http://api.test" + CHAT, json=ask("before"))
        monkeypatch.setattr(time, "time_ns", lambda: 10**18)
        client.post("http://api.test" + CHAT, json=ask("after"))

    first, second = read_trace(path)
    assert first.response
    assert second.response
    times = [first.request.arrive_ns, first.response.end_ns, second.request.arrive_ns]
    assert times == sorted(times)
    assert times[0] >= 0
    assert second.response.end_ns >= times[-1]
    assert first.request.extra["wall_ns"] > second.request.extra["wall_ns"] == 10**18


END = """
import os, signal, sys, httpx, tbench
answer = httpx.MockTransport(lambda _: httpx.Response(200, json={}))
client = httpx.Client(transport=tbench.CaptureTransport("trace.msgpack", answer))
def ask(n):
    assert client.post("http://api.test/v1/chat/completions", json={"model": n}).is_success
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    def run(text: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", END + text]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )

    return run


def test_the_trace_is_closed_at_exit_and_a_fork_leaves_it_alone(
    tmp_path: Path, program: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    """A child of a fork goes on without recording, says so once, and ends without touching the file."""
    done = program(
        "ask('before')\n"
        "if os.fork() == 0:\n"
        "    ask('child'); ask('child'); sys.exit()\n"
        "assert os.wait()[1] == 0\n"
        "ask('after')\n"
    )

    assert done.returncode == 0, done.stderr
    assert list(by_model(tmp_path / "trace.msgpack")) == ["before", "after"]
    assert done.stderr.count("forked") == 1


def test_a_kill_leaves_a_readable_part(
    tmp_path: Path, program: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    """What was sealed is there: blocks are sealed five times a second."""
    done = program(
        "import time\n"
        "part = 'trace.msgpack.part'\n"
        "size = os.path.getsize(part)\n"
        "ask('early')\n"
        "while os.path.getsize(part) == size: time.sleep(0.02)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    assert done.returncode == -9
    assert list(by_model(tmp_path / "trace.msgpack.part")) == ["early"]


def test_a_full_disk_lets_traffic_pass(
    tmp_path: Path, program: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    """It is said when it happens, and what it cost at the end."""
    done = program(
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "while client._transport.counts.lost_by['disk'] < 3: ask(os.urandom(200_000).hex())\n"
        "client.close()\n"
        "assert client._transport.counts.lost_requests\n"
    )

    assert done.returncode == 0, done.stderr
    assert "RECORDING STOPPED, traffic goes on" in done.stderr
    assert re.search(r"trace\.msgpack: lost \d+ requests.* \(disk\)", done.stderr)
    assert (tmp_path / "trace.msgpack.part").exists()


def test_the_program_of_the_documents_records(simulator: Server, tmp_path: Path) -> None:
    """docs/capture.md, without a proxy: it runs as it stands there."""
    page = (ROOT / "docs" / "capture.md").read_text()
    section = page.partition("\n## Without a proxy\n")[2].partition("\n## ")[0]
    lines = re.findall(r"(?m)^ {4}(.*)$|^$", section)
    program = "\n".join(lines).strip()
    env = {
        **os.environ,
        "TOGETHER_BASE_URL": simulator.url,
        "TOGETHER_API_KEY": KEY,
        "OPENAI_BASE_URL": simulator.url + "/v1",
        "OPENAI_API_KEY": KEY,
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    exchanges = list(read_trace(tmp_path / "trace.msgpack"))
    assert [exchange.outcome for exchange in exchanges] == [Outcome.OK] * 2
