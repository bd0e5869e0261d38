"""`tbench capture` as a process between real clients and a server that misbehaves on request.

The server speaks raw HTTP/1.1 on a socket, so that each fault is exactly where it is wanted. What a body's
`model` says is what happens. Traces are read while they grow: one capture serves many tests.
"""

import asyncio
import contextlib
import gzip
import json
import multiprocessing
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgpack
import pytest
import trustme
import zstandard
from prometheus_client.parser import text_string_to_metric_families

from tbench.capture import processes
from tbench.capture.exchange import Exchange, Outcome
from tbench.capture.repair import repair
from tbench.capture.trace_reader import read_trace
from tests.conftest import PATIENCE_S, has_signal, until
from tests.forked import Command

KEY = "sk-end2end-0123456789abcdef"
AUTH = {"authorization": f"Bearer {KEY}"}
WAIT = PATIENCE_S
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
CHAT = "/v1/chat/completions"
ROOT = Path(__file__).parent.parent


def token(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM = [token("one"), token("two"), token("", "stop"), DONE]


class Wire:
    """One request as the server got it, and the socket to answer on."""

    def __init__(self, sock: socket.socket, head: bytes, rest: bytes) -> None:
        self.sock = sock
        self.head = head
        self.body = rest
        self.path = head.split(b" ")[1].decode("latin-1")

    def header(self, name: str) -> str:
        found = re.search(rf"(?im)^{name}: *(.*?)\r$".encode(), self.head)
        return found[1].decode("latin-1") if found else ""

    def read_body(self) -> bytes:
        length = self.header("content-length")
        size = int(length) if length.isascii() and length.isdecimal() else 0
        while len(self.body) < size:
            piece = self.sock.recv(65536)
            if not piece:
                break
            self.body += piece
        return self.body

    def chunk(self, data: bytes) -> None:
        self.sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def stream(self, pieces: list[bytes], *, extra: bytes = b"", end: bool = True) -> None:
        self.sock.sendall(HEAD + extra + b"\r\n")
        for piece in pieces:
            self.chunk(piece)
        if end:
            self.sock.sendall(b"0\r\n\r\n")

    def reply(self, status: int, body: bytes, *, extra: bytes = b"") -> None:
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        self.sock.sendall(head % (status, len(body)) + extra + b"\r\n" + body)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Upstream:
    """A server whose answer to each request is a function; each connection has a thread."""

    def __init__(self, answer: Callable[[Wire], None]) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.seen: list[Wire] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        buffer = b""
        with sock, contextlib.suppress(OSError):
            while True:
                while b"\r\n\r\n" not in buffer:
                    piece = sock.recv(65536)
                    if not piece:
                        return
                    buffer += piece
                head, _, rest = buffer.partition(b"\r\n\r\n")
                wire = Wire(sock, head + b"\r\n", rest)
                self.seen.append(wire)
                self.answer(wire)
                buffer = b""

    def close(self) -> None:
        self.listener.close()


class Stage:
    """Signals between the server and the test: no step of one is taken before the other is ready."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self.crowd = threading.Barrier(12)

    def clear(self, name: str) -> None:
        self._event(name).clear()

    def _event(self, name: str) -> threading.Event:
        with self._lock:
            return self._events.setdefault(name, threading.Event())

    def set(self, name: str) -> None:
        self._event(name).set()

    def wait(self, name: str) -> None:
        assert self._event(name).wait(WAIT), f"nobody said {name!r}"


class Faults:
    """What the server does, by the name that a request gives as its model."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __call__(self, wire: Wire) -> None:
        if wire.header("x-test") == "upload":
            self.stage.set("server has the head of the upload")
            name = "plain"
            wire.read_body()
        else:
            body = wire.read_body()
            try:
                name = json.loads(body)["model"] if body else "json"
            except ValueError:  # its client left amid the body
                return
        getattr(self, name.replace("-", "_"))(wire)

    def plain(self, wire: Wire) -> None:
        wire.stream(STREAM)

    def json(self, wire: Wire) -> None:
        wire.reply(200, b'{"object":"chat.completion","choices":[]}')

    def begin(self, wire: Wire) -> None:
        wire.stream(STREAM[:1], end=False)

    def finish(self, wire: Wire) -> None:
        for piece in STREAM[1:]:
            wire.chunk(piece)
        wire.sock.sendall(b"0\r\n\r\n")

    def stepwise(self, wire: Wire) -> None:
        self.begin(wire)
        self.stage.wait("client has event 1")
        self.finish(wire)

    def crowd(self, wire: Wire) -> None:
        self.begin(wire)
        self.stage.crowd.wait(WAIT)
        self.finish(wire)

    def live(self, wire: Wire) -> None:
        self.begin(wire)
        self.stage.wait("let live end")
        self.finish(wire)

    def abort(self, wire: Wire) -> None:
        self.begin(wire)
        while wire.sock.recv(1024):
            pass
        self.stage.set("server saw the client leave")

    def silent(self, wire: Wire) -> None:
        self.begin(wire)
        wire.sock.recv(1024)

    def cut(self, wire: Wire) -> None:
        self.begin(wire)
        wire.sock.close()

    def no_finish(self, wire: Wire) -> None:
        wire.stream(STREAM[:1])

    def reset(self, wire: Wire) -> None:
        wire.reset()

    def reset_midway(self, wire: Wire) -> None:
        self.begin(wire)
        self.stage.wait("client has event 1 of reset-midway")
        wire.reset()

    def garbage(self, wire: Wire) -> None:
        wire.sock.sendall(b"SMTP ready\r\n\r\n")

    def in_stream(self, wire: Wire) -> None:
        wire.stream([STREAM[0], b'data: {"error":{"message":"died"}}\n\n'])

    def flaky(self, wire: Wire) -> None:
        if wire.header("x-stainless-retry-count") == "0":
            wire.reply(429, b'{"error":{"message":"slow down"}}', extra=b"retry-after-ms: 1\r\n")
        else:
            wire.stream(STREAM)

    def echo_key(self, wire: Wire) -> None:
        text = f"Incorrect API key provided: {wire.header('authorization')[7:]}"
        body = json.dumps({"error": {"message": text}}).encode()
        wire.reply(401, body, extra=b"set-cookie: s=secret\r\n")

    def echo_gzip(self, wire: Wire) -> None:
        body = gzip.compress(f"bad key {wire.header('authorization')[7:]}".encode())
        wire.reply(401, body, extra=b"content-encoding: gzip\r\n")

    def zipped(self, wire: Wire) -> None:
        packed = gzip.compress(b"".join(STREAM))
        wire.stream([packed[:20], packed[20:]], extra=b"content-encoding: gzip\r\n")


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


@pytest.fixture(scope="module")
def upstream(stage: Stage) -> Iterator[Upstream]:
    one = Upstream(Faults(stage))
    yield one
    one.close()


class Capturing:
    """A `tbench capture` process, and its trace while it grows."""

    def __init__(self, path: Path, *arguments: object, code: str = "") -> None:
        verb = ["capture", "--port", "0", "-o", str(path), *map(str, arguments)]
        self.path = path
        self.process = (
            subprocess.Popen(
                [sys.executable, "-c", code, *verb],
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            if code
            else Command(verb, ROOT)
        )
        self.said = ""
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._started.wait(WAIT)
        found = re.search(r"listening on (https?://127\.0\.0\.1:(\d+))", self.said)
        assert found, self.said
        self.url, self.port = found[1], int(found[2])

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said += line
            if "stop with Ctrl-C" in line:
                self._started.set()
        self._started.set()

    @property
    def bundle(self) -> str:
        found = re.search(r"SSL_CERT_FILE=(\S+)", self.said)
        assert found
        return found[1]

    def exchanges(self) -> list[Exchange]:
        part = self.path.with_name(self.path.name + ".part")
        with contextlib.suppress(FileNotFoundError):
            return list(read_trace(part if part.exists() else self.path))
        return list(read_trace(self.path))

    def find(self, wanted: Callable[[Exchange], bool]) -> Exchange:
        """The first finished exchange that is wanted, as soon as it is in the file."""
        return until(lambda: next((e for e in self.exchanges() if e.response and wanted(e)), None))

    def of(self, model: str) -> Exchange:
        return self.find(lambda exchange: f'"{model}"'.encode() in (exchange.request.body or b""))

    def stop(self) -> tuple[int, str]:
        """End it; returns the exit code and what it wrote to stdout."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for its end."""
        assert self.process.stdout
        out = self.process.stdout.read()
        self.process.wait(timeout=WAIT)
        self._reader.join(timeout=PATIENCE_S)
        return self.process.returncode, out

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=WAIT)
        self._reader.join(timeout=PATIENCE_S)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe and not pipe.closed:
                pipe.close()


@pytest.fixture(scope="module")
def capture(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Capturing]:
    """The capture that most tests share."""
    one = Capturing(tmp_path_factory.mktemp("shared") / "t.msgpack", "--upstream", upstream.url)
    yield one
    one.end()


@pytest.fixture
def capturing(tmp_path: Path) -> Iterator[Callable[..., Capturing]]:
    """A capture of one's own, with options."""
    made: list[Capturing] = []

    def start(*arguments: object, **options: str) -> Capturing:
        made.append(Capturing(tmp_path / f"t{len(made)}.msgpack", *arguments, **options))
        return made[-1]

    yield start
    for one in made:
        one.end()


class OnlyH2(ssl.SSLContext):
    """Offers HTTP/2 and nothing else; httpx would put HTTP/1.1 first."""

    @classmethod
    def trusting(cls, bundle: str) -> "OnlyH2":
        made = cls(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(bundle)
        return made

    def set_alpn_protocols(self, _wanted: object) -> None:
        super().set_alpn_protocols(["h2"])


def ask(model: str, **more: object) -> dict[str, Any]:
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}], **more}


def post(url: str, model: str, **more: object) -> httpx.Response:
    return httpx.post(url + CHAT, json=ask(model, **more), headers=AUTH, timeout=WAIT)


# what passes, and what is written


def test_a_stream_is_recorded_as_it_was(capture: Capturing) -> None:
    """Bytes, chunks, status, protocol; and the client got exactly what the server sent."""
    got = post(capture.url, "plain")
    exchange = capture.of("plain")
    response = exchange.response

    assert got.content == b"".join(STREAM)
    assert response
    assert response.body == b"".join(STREAM)
    assert sum(chunk.size for chunk in response.chunks) == response.body_bytes == len(got.content)
    assert exchange.outcome is Outcome.OK
    times = [exchange.request.arrive_ns, exchange.request.end_ns, response.head_ns or 0]
    times += [chunk.at_ns for chunk in response.chunks] + [response.end_ns]
    assert times == sorted(times)


def test_events_pass_as_they_arrive(capture: Capturing, stage: Stage) -> None:
    """The server sends its second event only after the client has said that it holds the first."""
    with httpx.stream("POST", capture.url + CHAT, json=ask("stepwise"), timeout=WAIT) as got:
        pieces = got.iter_raw()
        first = next(pieces)
        stage.set("client has event 1")
        rest = b"".join(pieces)

    assert first == STREAM[0]
    assert rest == b"".join(STREAM[1:])


def test_a_gzip_stream_is_kept_as_sent(capture: Capturing) -> None:
    """The encoded bytes of the wire, not a decoded copy; still judged by its content."""
    got = post(capture.url, "zipped")
    exchange = capture.of("zipped")

    assert got.content == b"".join(STREAM)
    assert exchange.response
    assert gzip.decompress(exchange.response.body or b"") == b"".join(STREAM)
    assert exchange.outcome is Outcome.OK


@pytest.mark.parametrize(
    ("model", "outcome"),
    [
        ("cut", Outcome.CUT),
        ("no-finish", Outcome.CUT),
        ("reset", Outcome.RESET),
        ("garbage", Outcome.PROTOCOL_ERROR),
        ("in-stream", Outcome.STREAM_ERROR),
        ("echo-key", Outcome.HTTP_ERROR),
        ("json", Outcome.OK),
    ],
)
def test_each_way_to_fail_has_its_outcome(capture: Capturing, model: str, outcome: Outcome) -> None:
    """What the server does, as the trace says it."""
    with contextlib.suppress(httpx.HTTPError):
        post(capture.url, model)

    assert capture.of(model).outcome is outcome


def test_a_reset_midway_is_a_cut_with_what_had_come(capture: Capturing, stage: Stage) -> None:
    """The partial answer is kept."""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", capture.url + CHAT, json=ask("reset-midway"), timeout=WAIT) as got,
    ):
        for _ in got.iter_raw():
            stage.set("client has event 1 of reset-midway")

    exchange = capture.of("reset-midway")
    assert exchange.outcome is Outcome.CUT
    assert exchange.response
    assert exchange.response.body == token("one")


def test_a_client_that_leaves_midway_is_an_abort(capture: Capturing, stage: Stage) -> None:
    """The upstream connection is closed at once, so that the server stops generating."""
    with httpx.stream("POST", capture.url + CHAT, json=ask("abort"), timeout=WAIT) as got:
        next(got.iter_raw())
    stage.wait("server saw the client leave")

    exchange = capture.of("abort")
    assert exchange.outcome is Outcome.CLIENT_ABORT
    assert exchange.response
    assert exchange.response.body == token("one")


def test_a_large_upload_reaches_the_server_as_it_is_sent(capture: Capturing, stage: Stage) -> None:
    """The client sends its last half only after the server has the head: nothing waits for 6 MB."""
    body = json.dumps(ask("upload", image="x" * 6_000_000)).encode()

    def pieces() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        stage.wait("server has the head of the upload")
        yield body[len(body) // 2 :]

    headers = {**AUTH, "content-length": str(len(body)), "x-test": "upload"}
    got = httpx.post(capture.url + CHAT, content=pieces(), headers=headers, timeout=WAIT)

    exchange = capture.of("upload")
    assert got.content == b"".join(STREAM)
    assert exchange.request.body == body
    assert exchange.request.body_bytes == len(body)


def test_a_connection_is_kept_alive(capture: Capturing) -> None:
    """The application's pool keeps its shape: two calls, one connection."""
    with httpx.Client() as client:
        for turn in range(2):
            body = ask("plain", turn=f"keep-alive-{turn}")
            client.post(capture.url + CHAT, json=body, timeout=WAIT)

    one, two = (
        capture.find(lambda e, n=n: f"keep-alive-{n}".encode() in (e.request.body or b""))
        for n in range(2)
    )
    assert one.request.conn == two.request.conn
    assert two.response
    assert two.response.extra["upstream_reused"] is True


def test_sdk_retries_are_linked(capture: Capturing) -> None:
    """The second attempt names the first, so that a replay does not send it as new traffic."""
    from openai import OpenAI

    with OpenAI(base_url=capture.url + "/v1", api_key=KEY, max_retries=1) as client:
        events = list(client.chat.completions.create(**ask("flaky")))
    again = capture.find(
        lambda e: b'"flaky"' in (e.request.body or b"") and e.request.retry_of is not None
    )

    assert len(events) == 3
    first = capture.of("flaky")
    assert first.response
    assert first.response.status == 429
    assert again.request.retry_of == first.request.id


def test_paths_that_are_not_inference_pass_unrecorded(capture: Capturing) -> None:
    """They are served all the same."""
    assert httpx.get(capture.url + "/v1/files", timeout=WAIT).status_code == 200
    post(capture.url, "json", mark="after the files")
    capture.find(lambda e: b"after the files" in (e.request.body or b""))

    assert "/v1/files" not in {exchange.request.path for exchange in capture.exchanges()}


def test_twelve_http2_streams_before_an_http1_server_do_not_wait_for_each_other(
    capture: Capturing,
) -> None:
    """Left alone, mitmproxy would let five through; the server answers none before it has all twelve."""
    trust = OnlyH2.trusting(capture.bundle)

    async def go() -> list[httpx.Response]:
        async with httpx.AsyncClient(http2=True, verify=trust, timeout=WAIT) as client:
            url = capture.url.replace("http:", "https:") + CHAT
            return await asyncio.gather(
                *(client.post(url, json=ask("crowd", n=n)) for n in range(12))
            )

    answers = asyncio.run(go())

    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert {answer.content for answer in answers} == {b"".join(STREAM)}
    exchange = capture.of("crowd")
    assert exchange.request.http_version == "HTTP/2.0"
    assert exchange.response
    assert exchange.response.http_version == "HTTP/1.1"


# secrets


def frames(path: Path) -> Iterator[bytes]:
    """Every byte of a container, blocks decompressed, read with nothing but msgpack and zstd."""
    raw = path.read_bytes()
    yield raw
    unpacker = msgpack.Unpacker(max_buffer_size=2**31 - 1)
    unpacker.feed(raw)
    for frame in unpacker:
        if frame.code == 2:
            yield zstandard.ZstdDecompressor().decompressobj().decompress(frame.data[20:])
        else:
            yield frame.data


def test_no_byte_of_a_key_is_in_any_file(
    upstream: Upstream, capturing: Callable[..., Capturing], tmp_path: Path
) -> None:
    """In the chat header, echoed in an error, zipped, in the query, in a cookie, in the prompt."""
    one = capturing("--upstream", upstream.url, "--path", "*")
    cookie, user = "sid=cookie-secret-0123456789", "joe@example.com"
    with httpx.Client(base_url=one.url, timeout=WAIT) as client:
        client.post(CHAT, json=ask("plain", user=user), headers=AUTH)
        client.post(CHAT, json=ask("echo-key"), headers=AUTH)
        client.post(CHAT, json=ask("echo-gzip"), headers=AUTH)
        client.post(f"{CHAT}?api_key={KEY}&api-version=1", json=ask("plain"))
        client.post(CHAT, json=ask("plain"), headers={"cookie": cookie, "x-api-key": KEY})
        client.post(CHAT, json=ask("plain", note=f"my key is {KEY}"), headers=AUTH)
        client.get(f"/{KEY}/v1/models", headers=AUTH)
    code, said = one.stop()

    assert code == 0
    assert "7 requests, 7 responses" in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [one.path]
    assert one.path.stat().st_mode & 0o777 == 0o600
    for needle in (KEY, KEY[:16], "cookie-secret", "s=secret", user):
        assert needle not in said + one.said
        assert all(needle.encode() not in data for data in frames(one.path))
    for exchange in one.exchanges():
        body = (exchange.response and exchange.response.body) or b""
        assert b"\x1f\x8b" not in body[:2] or KEY.encode() not in gzip.decompress(body)


# the end of a capture


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_what_is_in_flight(
    signum: int, stage: Stage, upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """New connections are refused, the live stream ends whole, the trace is closed, exit 0, no noise."""
    one = capturing("--upstream", upstream.url)
    stage.clear("let live end")
    with httpx.stream("POST", one.url + CHAT, json=ask("live"), timeout=WAIT) as got:
        pieces = got.iter_raw()
        first = next(pieces)
        one.process.send_signal(signum)
        until(refuses(one.port))
        stage.set("let live end")
        rest = b"".join(pieces)
    code, said = one.ended()

    assert first + rest == b"".join(STREAM)
    assert code == 0
    assert "Traceback" not in one.said
    assert "1 request, 1 response (ok 1)" in said
    assert [exchange.outcome for exchange in read_trace(one.path)] == [Outcome.OK]


def refuses(port: int) -> Callable[[], bool]:
    """Whether nobody listens there, asked anew each time."""

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=WAIT).close()
        except ConnectionRefusedError:
            return True
        return False

    return refused


@pytest.mark.parametrize("grace", ["0", "600"])
def test_after_the_grace_or_a_second_signal_the_rest_is_proxy_shutdown(
    grace: str, stage: Stage, upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """What had come is kept, and the file is a closed one."""
    one = capturing("--upstream", upstream.url, "--grace", grace)
    stage.clear("let live end")
    with (
        contextlib.suppress(httpx.HTTPError),
        httpx.stream("POST", one.url + CHAT, json=ask("live"), timeout=WAIT) as got,
    ):
        pieces = got.iter_raw()
        next(pieces)
        one.process.send_signal(signal.SIGINT)
        if grace != "0":
            until(refuses(one.port))
            one.process.send_signal(signal.SIGINT)
        list(pieces)
    code, _ = one.ended()
    stage.set("let live end")

    (exchange,) = read_trace(one.path)
    assert code == 0
    assert "Traceback" not in one.said
    assert exchange.outcome is Outcome.PROXY_SHUTDOWN
    assert exchange.response
    assert exchange.response.body == token("one")


def test_a_number_of_requests_ends_the_capture(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """By itself, with exit code 0 and exactly so many in the trace."""
    one = capturing("--upstream", upstream.url, "--requests", 2)
    for _ in range(2):
        post(one.url, "plain")
    code, _ = one.ended()

    assert code == 0
    assert len(list(read_trace(one.path))) == 2


def test_a_killed_capture_keeps_what_it_had_written(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """Under load what has ended reaches the .part while more comes, and stays there whole."""
    one = capturing("--upstream", upstream.url)
    ended: list[str] = []
    stop = threading.Event()

    def load(worker: int) -> None:
        with httpx.Client(timeout=WAIT) as client, contextlib.suppress(httpx.HTTPError):
            number = 0
            while not stop.is_set() and number < 20:  # too few to fill a block
                name = f"load-{worker}-{number}"
                client.post(one.url + CHAT, json=ask("plain", name=name), headers=AUTH)
                ended.append(name)
                number += 1

    workers = [threading.Thread(target=load, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    part = one.path.with_name(one.path.name + ".part")

    def kept() -> set[str]:
        return {json.loads(e.request.body or b"{}")["name"] for e in read_trace(part) if e.response}

    until(lambda: len(ended) > 20)
    due = set(ended)
    until(lambda: due <= kept())
    one.process.kill()
    one.process.wait(timeout=WAIT)
    stop.set()
    for worker in workers:
        worker.join(timeout=WAIT)

    assert due <= kept()


# several processes on one port


def test_processes_share_a_port_and_write_one_trace(
    upstream: Upstream, capturing: Callable[..., Capturing], tmp_path: Path
) -> None:
    """Every request once, by arrival, whichever process took it; users and connections are told apart."""
    one = capturing("--upstream", upstream.url, "--processes", 3)
    for _ in range(40):  # each by a connection of its own, which the kernel gives to one of them
        post(one.url, "plain", user="ada")
    code, said = one.stop()

    first, *others = sorted(tmp_path.glob("*.msgpack"), key=lambda path: (len(path.name), path))
    trace = read_trace(first)
    requests = [exchange.request for exchange in trace]
    arrivals = [request.arrive_ns for request in requests]
    assert code == 0
    assert "40 requests, 40 responses (ok 40)" in said
    assert [path.name for path in others] == ["t0.p1.msgpack", "t0.p2.msgpack"]
    assert all(list(read_trace(path)) for path in (first, *others))
    assert arrivals == sorted(arrivals)
    for name in ("id", "conn", "seq"):
        assert len({getattr(request, name) for request in requests}) == 40
    assert len({json.loads(request.body or b"")["user"] for request in requests}) == 1
    assert trace.missing == 0
    assert not Path(one.bundle).parent.exists()


def test_a_file_of_a_process_that_is_gone_is_missed(
    upstream: Upstream, capturing: Callable[..., Capturing], tmp_path: Path
) -> None:
    """And a copy of what is there is a trace of its own, which misses nothing."""
    one = capturing("--upstream", upstream.url, "--processes", 2)
    post(one.url, "plain")
    one.stop()
    (tmp_path / "t0.p1.msgpack").unlink()
    repair(one.path, tmp_path / "copy.msgpack")

    assert read_trace(one.path).missing == 1
    assert read_trace(tmp_path / "copy.msgpack").missing == 0


def workers(pid: int) -> list[int]:
    """The processes that a capture has on its port."""
    children = [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_killed_worker_is_told_and_the_others_go_on(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """Exit 4, with what it had written in its .part file."""
    one = capturing("--upstream", upstream.url, "--processes", 2)
    os.kill(workers(one.process.pid)[0], signal.SIGKILL)
    answers = []
    while len(answers) < 5:  # what the kernel had given to the killed one is reset
        with contextlib.suppress(httpx.HTTPError):
            answers.append(post(one.url, "plain").status_code)
    until(lambda: "ended with -9: what it had not written is lost" in one.said)
    code, said = one.stop()

    assert code == 4
    assert "5 requests, 5 responses (ok 5)" in said
    assert answers == [200] * 5


def test_processes_that_all_die_before_they_listen_are_a_failure_of_the_capture() -> None:
    """As where memory is short: there is no state of any to add up, and exit 4 says what happened."""
    links = [multiprocessing.Pipe() for _ in range(2)]
    for _, theirs in links:
        theirs.close()
    dead = SimpleNamespace(join=lambda: None, exitcode=-9)
    members: Any = [processes._Member(dead, ours) for ours, _ in links]  # type: ignore[arg-type]
    said: list[str] = []
    watch: Any = SimpleNamespace(warn=said.append)

    status = processes._Group(members, watch, Path()).follow()

    assert status.failure == "process 1 ended with -9"
    assert [line.partition(":")[0] for line in said] == [
        "process 1 ended with -9",
        "process 2 ended with -9",
    ]


@pytest.mark.parametrize("dies", [0, 1])
def test_the_processes_that_are_left_are_announced_and_shown(tmp_path: Path, dies: int) -> None:
    """Where one has died before it listened the capture still says where it is, and how far."""
    links = [multiprocessing.Pipe() for _ in range(2)]
    dead = SimpleNamespace(join=lambda: None, exitcode=-9)
    members: Any = [processes._Member(dead, ours) for ours, _ in links]  # type: ignore[arg-type]
    said: list[object] = []
    watch: Any = SimpleNamespace(
        warn=lambda _line: None, listening=said.append, tick=lambda _state: said.append("tick")
    )
    state = processes._Group((), watch, tmp_path)._status()
    for word in (("listening", "here"), ("tick", state), ("end", state)):
        links[1 - dies][1].send(word)
    links[dies][1].close()
    key = tmp_path / "mitmproxy-ca.pem"
    key.touch()

    processes._Group(members, watch, tmp_path).follow()

    assert said == ["here", "tick"]
    assert not key.exists()


def test_without_the_first_process_the_others_end_by_themselves(
    upstream: Upstream, capturing: Callable[..., Capturing], tmp_path: Path
) -> None:
    """Nobody could stop them: they drain, and their files are whole."""
    one = capturing("--upstream", upstream.url, "--processes", 2)
    post(one.url, "plain")
    one.process.kill()

    until(refuses(one.port))
    until(lambda: not list(tmp_path.glob("*.part")))
    assert len(list(read_trace(one.path))) == 1


def test_a_signal_to_all_processes_at_once_is_one_signal(
    stage: Stage, upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """As systemd ends a service: what is in flight ends first, as with one process."""
    one = capturing("--upstream", upstream.url, "--processes", 2)
    stage.clear("let live end")
    with httpx.stream("POST", one.url + CHAT, json=ask("live"), timeout=WAIT) as got:
        pieces = got.iter_raw()
        first = next(pieces)
        group = workers(one.process.pid)
        for pid in (*group, one.process.pid):
            os.kill(pid, signal.SIGTERM)
        until(refuses(one.port))
        left = [has_signal(pid, "ShdPnd", signal.SIGTERM) for pid in group]
        stage.set("let live end")
        rest = b"".join(pieces)
    code, said = one.ended()

    assert left == [True, True], "it is the first process's to pass on"
    assert first + rest == b"".join(STREAM)
    assert code == 0
    assert "1 request, 1 response (ok 1)" in said


# what goes wrong around it


@pytest.mark.parametrize("host", ["127.0.0.1", "nobody.invalid"])
def test_a_refused_upstream_is_a_502_and_a_connect_error(
    capturing: Callable[..., Capturing], free_port: int, host: str
) -> None:
    """Or one of which nobody knows: the application gets an answer, the trace says why."""
    one = capturing("--upstream", f"http://{host}:{free_port}")

    assert post(one.url, "plain").status_code == 502
    assert one.of("plain").outcome is Outcome.CONNECT_ERROR


def test_silence_beyond_the_idle_limit_is_a_timeout(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """Not a client abort, though mitmproxy words it so."""
    one = capturing("--upstream", upstream.url, "--idle-timeout", 1)
    with pytest.raises(httpx.HTTPError):
        post(one.url, "silent")

    exchange = one.of("silent")
    assert exchange.outcome is Outcome.TIMEOUT
    assert exchange.response
    assert exchange.response.end_ns - exchange.request.end_ns > 0.9e9  # and nothing before


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
from tbench.__main__ import main
main()
"""


def test_a_full_disk_lets_traffic_pass_and_ends_with_4(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """Every request is served; the failure is said while it happens and again at the end."""
    one = capturing("--upstream", upstream.url, code=LIMITED)
    noise = os.urandom(200_000).hex()
    answers = [post(one.url, "plain", noise=noise).status_code]
    deadline = time.monotonic() + WAIT
    while "RECORDING STOPPED" not in one.said and time.monotonic() < deadline:
        answers.append(post(one.url, "plain", noise=noise).status_code)
    answers.append(post(one.url, "plain").status_code)
    code, said = one.stop()

    assert set(answers) == {200}
    assert "RECORDING STOPPED, traffic goes on" in one.said
    assert code == 4
    assert "DROPPED" in said
    assert "the trace could not note them" in said
    assert "recording stopped" in one.said
    assert f"{one.path}.part -o NEW' keeps what is there" in one.said
    assert "Traceback" not in one.said


# proxy mode and TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A private CA and a certificate for localhost."""
    folder = tmp_path_factory.mktemp("ca")
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    files = {"ca": folder / "ca.pem", "cert": folder / "cert.pem", "key": folder / "key.pem"}
    ca.cert_pem.write_to_path(files["ca"])
    files["cert"].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(files["key"])
    files["both"] = folder / "both.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(files["both"])
    return files


@pytest.fixture(scope="module")
def secure(authority: dict[str, Path]) -> Iterator[str]:
    """The simulator over TLS; yields its address by name."""
    command = ["-m", "tbench", "serve", "--port", "0", "--profile", "fast", "--any-model"]
    tls = ["--tls-cert", str(authority["cert"]), "--tls-key", str(authority["key"])]
    process = subprocess.Popen(
        [sys.executable, *command, *tls], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr
    port = next(m[1] for line in process.stderr if (m := re.search(r"https?://[\w.]+:(\d+)", line)))
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    yield f"https://localhost:{port}"
    process.terminate()
    process.wait(timeout=WAIT)
    drain.join(timeout=PATIENCE_S)
    process.stderr.close()


SDKS = """
import asyncio, sys
from openai import AsyncOpenAI, OpenAI
from together import AsyncTogether, Together

base, key = sys.argv[1:]
made = [(OpenAI, AsyncOpenAI, base + "/v1"), (Together, AsyncTogether, base)]


def ask(name, stream):
    return {"model": "m", "stream": stream, "max_tokens": 5, "messages": [{"role": "user", "content": name}]}


def text(events):
    return "".join(e.choices[0].delta.content or "" for e in events if e.choices)


async def later(kind, base, name):
    async with kind(base_url=base, api_key=key, max_retries=0) as client:
        whole = await client.chat.completions.create(**ask(name + " async", False))
        events = [e async for e in await client.chat.completions.create(**ask(name + " async stream", True))]
    assert whole.choices[0].message.content and text(events)


for now, soon, url in made:
    name = now.__name__
    with now(base_url=url, api_key=key, max_retries=0) as client:
        assert client.chat.completions.create(**ask(name, False)).choices[0].message.content
        assert text(client.chat.completions.create(**ask(name + " stream", True)))
    asyncio.run(later(soon, url, name))
"""
CALLS = {
    f"{sdk}{how}"
    for sdk in ("OpenAI", "Together")
    for how in ("", " stream", " async", " async stream")
}


def run_sdks(base: str, **environ: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SDKS, base, KEY],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def said(exchanges: list[Exchange]) -> set[str]:
    bodies = [json.loads(exchange.request.body or b"{}") for exchange in exchanges]
    return {body["messages"][0]["content"] for body in bodies}


def test_the_sdks_in_reverse_mode(
    secure: str, authority: dict[str, Path], capturing: Callable[..., Capturing]
) -> None:
    """Both SDKs, sync and async, streaming or not, to an https server with a private CA."""
    one = capturing("--upstream", secure, "--upstream-ca", authority["ca"])
    run_sdks(one.url)
    code, _ = one.stop()

    exchanges = list(read_trace(one.path))
    assert code == 0
    assert said(exchanges) == CALLS
    assert {exchange.outcome for exchange in exchanges} == {Outcome.OK}
    assert {exchange.request.scheme for exchange in exchanges} == {"https"}
    assert all(exchange.response and exchange.response.body for exchange in exchanges)


def test_the_sdks_in_proxy_mode(
    secure: str, authority: dict[str, Path], capturing: Callable[..., Capturing]
) -> None:
    """With nothing but the exports that the capture printed."""
    one = capturing("--mode", "proxy", "--host", "localhost", "--upstream-ca", authority["ca"])
    exports = dict(re.findall(r"(\w+)=(\S+)", "\n".join(re.findall(r"export (.*)", one.said))))
    assert {
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
    } <= set(exports)
    run_sdks(secure, **exports)
    code, _ = one.stop()

    exchanges = list(read_trace(one.path))
    assert code == 0
    assert said(exchanges) == CALLS
    assert {exchange.outcome for exchange in exchanges} == {Outcome.OK}
    assert not Path(exports["SSL_CERT_FILE"]).exists()


def test_other_hosts_are_tunnelled_untouched(
    secure: str, authority: dict[str, Path], capturing: Callable[..., Capturing]
) -> None:
    """The client sees the server's own certificate, and nothing is written."""
    one = capturing("--mode", "proxy", "--host", r"api\.example")
    own = ssl.create_default_context(cafile=str(authority["ca"]))
    with httpx.Client(proxy=one.url, verify=own, timeout=WAIT) as client:
        assert client.post(secure + CHAT, json=ask("m"), headers=AUTH).status_code == 200
    one.stop()

    assert list(read_trace(one.path)) == []


def test_an_http2_client_and_server_meet_through_a_tunnel(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """The server is another capture: its TLS port speaks HTTP/2."""
    server = capturing("--upstream", upstream.url)
    one = capturing("--mode", "proxy", "--host", "127.0.0.1", "--upstream-ca", server.bundle)
    trust = OnlyH2.trusting(one.bundle)
    with httpx.Client(http2=True, proxy=one.url, verify=trust, timeout=WAIT) as client:
        url = server.url.replace("http:", "https:") + CHAT
        got = client.post(url, json=ask("plain"), headers=AUTH)

    exchange = one.of("plain")
    assert got.http_version == "HTTP/2"
    assert got.content == b"".join(STREAM)
    assert exchange.response
    assert exchange.response.http_version == "HTTP/2.0"
    assert exchange.outcome is Outcome.OK


def test_an_untrusted_upstream_is_refused_and_recorded(
    secure: str, capturing: Callable[..., Capturing]
) -> None:
    """Certificates are always verified; without --upstream-ca a private one is a connect_error."""
    one = capturing("--upstream", secure)

    assert post(one.url, "m").status_code == 502
    exchange = one.of("m")
    assert exchange.outcome is Outcome.CONNECT_ERROR
    assert exchange.response
    assert "ertificate" in (exchange.response.error or "")


def test_a_certificate_of_its_own_is_shown_and_plain_text_refused(
    upstream: Upstream, authority: dict[str, Path], capturing: Callable[..., Capturing]
) -> None:
    """What came in the clear gets a 403, does not reach the server, and is counted."""
    one = capturing("--upstream", upstream.url, "--cert", authority["both"])
    trust = ssl.create_default_context(cafile=str(authority["ca"]))
    before = len(upstream.seen)

    with httpx.Client(verify=trust, timeout=WAIT) as client:
        assert client.post(one.url + CHAT, json=ask("plain")).status_code == 200
    assert post(one.url.replace("https:", "http:"), "plain").status_code == 403
    code, said = one.stop()
    assert code == 0
    assert "1 request, 1 response (ok 1)" in said
    assert "refused with a 403: 1 request" in said
    assert len(upstream.seen) == before + 1


def test_a_gateway_forwards_to_its_hosts_alone(
    secure: str, authority: dict[str, Path], capturing: Callable[..., Capturing]
) -> None:
    """A proxy spoken to by TLS: a host of --host is recorded, all others get a 403, by tunnel or without."""
    one = capturing(
        *("--mode", "proxy", "--no-tunnel", "--host", "localhost"),
        *("--cert", authority["both"], "--upstream-ca", authority["ca"]),
    )
    trust = ssl.create_default_context(cafile=str(authority["ca"]))
    trust.load_verify_locations(one.bundle)
    proxy = httpx.Proxy(one.url, ssl_context=trust)
    with httpx.Client(proxy=proxy, verify=trust, timeout=WAIT) as client:
        assert client.post(secure + CHAT, json=ask("m"), headers=AUTH).status_code == 200
        with pytest.raises(httpx.ProxyError, match="403"):
            client.get("https://127.0.0.1:9/")
        assert client.post("http://127.0.0.1:9/v1/models", content=b"{}").status_code == 403
        with pytest.raises(httpx.HTTPError):  # a body without a stated length is not waited for
            client.post("http://127.0.0.1:9/v1/models", content=iter([b"x"]), timeout=5)
    code, said = one.stop()

    assert code == 0
    assert "refused with a 403: 3 requests" in said
    assert [exchange.request.host for exchange in read_trace(one.path)] == [
        secure.partition("//")[2]
    ]


def test_a_monitor_is_told_what_was_recorded(
    upstream: Upstream, capturing: Callable[..., Capturing], free_port: int
) -> None:
    """Health, and figures that prometheus_client's own parser reads, for all processes together."""
    one = capturing("--upstream", upstream.url, "--metrics-port", free_port, "--processes", 2)
    for model in ("plain", "plain", "reset"):
        with contextlib.suppress(httpx.HTTPError):
            post(one.url, model)
    monitor = f"http://127.0.0.1:{free_port}"
    with socket.create_connection(("127.0.0.1", free_port)) as left:  # by a reset, amid its request
        left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left.sendall(b"GET /met")
    figures: dict[str, float] = {}

    def scraped() -> bool:
        for family in text_string_to_metric_families(get("/metrics").text):
            for sample in family.samples:
                figures[sample.name + "".join(sample.labels.values())] = sample.value
        return figures["tbench_capture_responses_total"] == 3

    with httpx.Client(base_url=monitor, timeout=WAIT) as client:
        get = client.get
        until(scraped)
        assert get("/healthz").text == "recording\n"
        assert get("/").status_code == 404
    assert figures["tbench_capture_requests_total"] == 3
    assert figures["tbench_capture_outcomes_totalok"] == 2
    assert figures["tbench_capture_outcomes_totalreset"] == 1
    assert figures["tbench_capture_dropped_requests_total"] == 0
    assert figures["tbench_capture_recording"] == 1
    assert figures["tbench_capture_disk_free_bytes"] > 0
    assert figures["tbench_capture_loop_lag_seconds0.99"] >= 0
    assert "Traceback" not in one.said


def test_a_refused_tunnel_is_recorded(capturing: Callable[..., Capturing], free_port: int) -> None:
    """Proxy mode: the client gets the proxy's error, the trace a CONNECT that failed."""
    one = capturing("--mode", "proxy", "--host", "127.0.0.1")
    with httpx.Client(proxy=one.url, timeout=WAIT) as client, pytest.raises(httpx.ProxyError):
        client.post(f"https://127.0.0.1:{free_port}{CHAT}", json=ask("m"))

    exchange = one.find(lambda e: e.request.method == "CONNECT")
    assert exchange.outcome is Outcome.CONNECT_ERROR


# the other way in


def test_mitmdump_with_the_addon_writes_a_trace(
    upstream: Upstream, tmp_path: Path, free_port: int
) -> None:
    """`mitmdump -s capture/addon.py`, ended by SIGINT while a stream is live."""
    path = tmp_path / "t.msgpack"
    options = [f"confdir={tmp_path / 'conf'}", f"tbench_output={path}", "listen_host=127.0.0.1"]
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("mitmdump")),
            *("-q", "-s", str(ROOT / "capture" / "addon.py"), "-p", str(free_port)),
            *("--mode", f"reverse:{upstream.url}"),
            *(word for option in options for word in ("--set", option)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{free_port}"
    try:
        until(lambda: not refuses(free_port)())
        assert post(url, "plain").content == b"".join(STREAM)
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("POST", url + CHAT, json=ask("silent"), timeout=WAIT) as got,
        ):
            pieces = got.iter_raw()
            next(pieces)
            process.send_signal(signal.SIGINT)
            list(pieces)
        out, _ = process.communicate(timeout=WAIT)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=WAIT)

    assert process.returncode == 0, out
    assert [e.outcome for e in read_trace(path)] == [Outcome.OK, Outcome.PROXY_SHUTDOWN]
