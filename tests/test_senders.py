"""Every sender against servers that behave and misbehave on purpose: the same exchanges, the same samples.

A server is a script of steps for each request of a connection: bytes to send, seconds to wait, or a word:
`close`, `reset`, `stay` (until the client goes).
"""

import gc
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, Protocol

import httpx
import pytest
import trio
import trio.lowlevel
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture.exchange import Outcome
from tbench.replay.engine.clock import Clock
from tbench.replay.engine.connection import Connection, Reader
from tbench.replay.engine.http1 import Response
from tbench.replay.engine.sender import EngineSender, Pool
from tbench.replay.httpx_sender import HttpxSender
from tbench.replay.measure import to_sample
from tbench.replay.request import head_of, origin_of
from tbench.replay.sample import Sample
from tbench.replay.sender import STOPPED, TIDY_S, Call, Deadlines, Label, Origin, Reply
from tbench.replay.system import tls
from tests.conftest import PATIENCE_S

Step = bytes | float | str
Script = Sequence[Step]

JSON = (
    b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
)
JSON_TYPE = b"content-type: application/json\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def whole(extra: bytes = b"", body: bytes = JSON) -> bytes:
    head = b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + extra
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: bytes, finish: bytes = b"null") -> bytes:
    data = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":%s}]}\n\n'
    return chunk(data % (text, finish))


STOP = event(b"", b'"stop"') + chunk(b"data: [DONE]\n\n")
STREAM = HEAD + event(b"a") + event(b"b") + STOP + LAST


class Opened(Protocol):
    """A sender in use."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, *_: object) -> None: ...


def engine(deadlines: Deadlines, context: ssl.SSLContext | None = None) -> Opened:
    return EngineSender(deadlines, context or tls())


KINDS: dict[str, Callable[..., Opened]] = {"httpx": HttpxSender}
if sys.platform == "linux":
    KINDS["engine"] = engine


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def read_request(stream: trio.abc.ReceiveStream) -> bytes:
    """One request with its body; empty when the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := await stream.receive_some()):
            return b""
        data += bytes(more)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    parts, length = [body], int(fields.get(b"content-length", b"0"))
    missing = length - len(body)
    while missing > 0:
        more = await stream.receive_some()
        if not more:
            return b""
        parts.append(bytes(more))
        missing -= len(more)
    return head + b"\r\n\r\n" + b"".join(parts)


async def play(stream: Any, script: Script) -> bool:
    """Play one script; False when the connection is over."""
    for step in script:
        if isinstance(step, bytes):
            await stream.send_all(step)
        elif isinstance(step, float):
            for _ in range(10):  # the client, on the same loop, reads however late the loop is
                await trio.sleep(step / 10)
        elif step == "stay":
            await stream.receive_some()
            return False
        else:
            if step == "reset":
                raw = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await trio.aclose_forcefully(stream)
            else:
                await stream.aclose()
            return False
    return True


class Server:
    """Plays the scripts in turn, whatever the connection; keeps the requests and counts connections."""

    def __init__(self, scripts: Sequence[Script], context: ssl.SSLContext | None = None) -> None:
        self.scripts = list(scripts)
        self.context = context
        self.seen: list[bytes] = []
        self.connections = 0
        self.playing = 0

    async def serve(self, tcp: trio.SocketStream) -> None:
        self.connections += 1
        stream: Any = tcp
        if self.context:
            stream = trio.SSLStream(tcp, self.context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while seen := await read_request(stream):
                self.seen.append(seen)
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                self.playing += 1
                try:
                    if not await play(stream, script):
                        return
                finally:
                    self.playing -= 1
            await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self.serve, 0)
            port = listeners[0].socket.getsockname()[1]
            yield f"{'https' if self.context else 'http'}://127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


def call(base_url: str, *, method: str = "POST", stream: bool = True, body: bytes = b"{}") -> Call:
    url = f"{base_url}/v1/chat/completions?a=b"
    request = httpx.Request(method, url, content=body)
    label = Label(id="x", endpoint="chat", model="m", stream=stream, request_bytes=len(body))
    return Call(
        index=0,
        due=None,
        origin=origin_of(request.url),
        head=head_of(request),
        body=body,
        label=label.pack(),
    )


async def send(sender: Any, made: Call, reply: Reply) -> None:
    """One call to its end, which comes once, and not before the launch has returned."""
    ends: list[float] = []
    over = trio.Event()
    launched = False

    def ended() -> None:
        assert launched
        ends.append(trio.current_time())
        over.set()

    sender.launch(made, reply, ended)
    launched = True
    await over.wait()
    await trio.lowlevel.checkpoint()
    assert len(ends) == 1


def exchange(
    kind: str,
    server: Server,
    *calls: dict[str, Any],
    deadlines: Deadlines | None = None,
    context: ssl.SSLContext | None = None,
    pause: float = 0.0,
    settled: bool = False,
) -> list[tuple[Sample, Reply]]:
    """Send one call after the other, `settled` once the server has played its script; what became of each."""

    async def main() -> list[tuple[Sample, Reply]]:
        found = []
        with trio.fail_after(PATIENCE_S):
            async with (
                server.listening() as url,
                KINDS[kind](deadlines or Deadlines(), context) as sender,
            ):
                for options in calls or ({},):
                    reply, made = Reply(), call(url, **options)
                    await send(sender, made, reply)
                    if reply.end is None:
                        reply.end = trio.current_time()
                    found.append((to_sample(made, reply, 0.0), reply))
                    while settled and server.playing:  # noqa: ASYNC110 (it is over in a moment)
                        await trio.sleep(pause)
                    await trio.sleep(pause)
        return found

    return trio.run(main)


def only(kind: str, *script: Step, **options: Any) -> tuple[Sample, Reply]:
    """One call to a server with one script."""
    made = {name: options.pop(name) for name in ("method", "stream", "body") if name in options}
    return exchange(kind, Server([script]), made, **options)[0]


def test_a_stream_is_stamped_as_it_arrives(kind: str) -> None:
    """Sent, first byte, first token, last token and end in order, on one clock; usage and finish are read."""
    script = (HEAD, 0.02, event(b"a"), 0.02, event(b"b"), 0.02, event(b"c"), STOP + LAST)
    found, _ = only(kind, *script)
    stamps = [found.sent, found.first_byte, found.first_token, found.last_token, found.end]

    assert (found.outcome, found.status, found.finish_reason) == (Outcome.OK, 200, "stop")
    assert None not in stamps
    assert stamps == sorted(stamps)  # type: ignore[type-var]
    assert len(found.token_times) == 3
    assert all(a < b for a, b in pairwise(found.token_times))
    assert found.sent_wall_ns and found.first_wall_ns and found.first_token and found.sent
    took = (found.first_wall_ns - found.sent_wall_ns) / 1e9
    assert took == pytest.approx(found.first_token - found.sent, abs=1e-6)
    assert found.connect > 0
    assert not found.conn_reused


class Timed:
    """A server in a thread of its own that writes a piece every 60 ms, and keeps between which times.

    It is `over` when the last is written.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.wrote: list[tuple[float, float]] = []
        self.over = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listening, self._listening.accept()[0] as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.recv(65536)
            for piece in self.pieces:
                time.sleep(0.06)
                before = time.perf_counter()
                sock.sendall(piece)
                self.wrote.append((before, time.perf_counter()))
            self.over.set()
            sock.recv(1)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize(
    ("pieces", "first"),
    [
        ((HEAD, event(b"a"), event(b"b") + STOP + LAST), 1),
        ((HEAD + event(b"a") + event(b"b"), STOP + LAST), 0),
    ],
    ids=["one by one", "two at once"],
)
def test_a_first_token_lies_where_its_sample_says(
    kind: str, pieces: tuple[bytes, ...], first: int, blocked: bool
) -> None:
    """The server's own time of its write: no sooner than `first_token_after` and no later than `first_token`.

    While this thread is kept from reading, what the server writes meets in the socket.
    """
    server = Timed(pieces)

    async def main() -> tuple[Sample, float]:
        async with KINDS[kind](Deadlines()) as sender:
            await sender.rehearse()
            reply, over, made = Reply(), trio.Event(), call(server.url)
            sender.launch(made, reply, over.set)
            while reply.sent is None:
                await trio.lowlevel.checkpoint()
            if blocked:
                server.over.wait()
            await over.wait()
            # Between the two looks this thread may have to wait for its core; never in each of ten.
            offset = max(trio.current_time() - time.perf_counter() for _ in range(10))
            return to_sample(made, reply, 0.0), offset

    sample, offset = trio.run(main)
    (before, written), after = server.wrote[first], sample.first_token_after

    assert sample.first_token is not None
    assert before + offset <= sample.first_token + 0.0002
    if after is None:
        assert sample.first_token - (written + offset) < 0.005
    else:
        assert after <= written + offset + 0.0002
    if blocked and first:
        assert after is not None
        assert sample.first_token - after > 0.1


def test_the_request_goes_out_as_it_was_built(kind: str) -> None:
    """Method, path, headers and body bytes, and nothing added."""
    server = Server([(whole(),)])
    exchange(kind, server, {"stream": False, "body": b'{ "a" : 1 }'})
    head, _, body = server.seen[0].partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]

    assert head.startswith(b"POST /v1/chat/completions?a=b HTTP/1.1\r\n")
    assert names == [b"host", b"content-length"]
    assert body == b'{ "a" : 1 }'


def test_connections_are_used_again(kind: str) -> None:
    """The second call needs no connection and says so."""
    server = Server([(whole(),), (STREAM,), (whole(),)])
    calls = ({"stream": False}, {}, {"stream": False})
    (first, _), (second, _), (third, _) = exchange(kind, server, *calls)

    assert [first.conn_reused, second.conn_reused, third.conn_reused] == [False, True, True]
    assert (first.connect > 0, second.connect) == (True, 0.0)
    assert server.connections == 1
    assert (third.prompt_tokens, third.output_tokens) == (3, 1)


CLOSING: dict[str, Script] = {
    "said": (whole(b"connection: close\r\n"), "close"),
    "unsaid": (whole(), "close"),
    "http/1.0": (whole().replace(b"1.1", b"1.0", 1), "close"),
    "by closing": (b"HTTP/1.1 200 OK\r\n" + JSON_TYPE + b"\r\n" + JSON, "close"),
}


@pytest.mark.parametrize("script", CLOSING.values(), ids=CLOSING)
def test_a_server_that_closes_after_each_answer_costs_no_request(kind: str, script: Script) -> None:
    """What is known to be closed is not used again."""
    server = Server([script])
    found = exchange(kind, server, *[{"stream": False}] * 3, pause=0.01, settled=True)

    assert [sample.outcome for sample, _ in found] == [Outcome.OK] * 3
    assert [sample.conn_reused for sample, _ in found] == [False] * 3
    assert server.connections == 3


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_kept_connection_that_ends_without_a_word_costs_no_request(
    kind: str, trust: tuple[ssl.SSLContext, ssl.SSLContext], secure: bool, how: str
) -> None:
    """The request goes out once more on a new connection, with its first stamps; the server counted both."""
    server = Server([(STREAM,), (0.05, how), (STREAM,)], trust[0] if secure else None)
    (_, second) = exchange(kind, server, {}, {}, context=trust[1] if secure else None)
    sample, _ = second

    assert (sample.outcome, sample.reconnected, sample.conn_reused) == (Outcome.OK, True, False)
    assert (len(server.seen), server.connections) == (3, 2)
    assert sample.connect == 0.0
    assert sample.first_token and sample.sent
    assert sample.first_token - sample.sent > 0.045  # the first try's time is part of it


@pytest.mark.parametrize("after", [0.0, 0.001, 0.005, 0.05])
@pytest.mark.parametrize("pause", [0.0, 0.003])
def test_a_server_that_closes_after_each_answer_unannounced_costs_no_request(
    kind: str, after: float, pause: float
) -> None:
    """However soon it does. What it saw are the requests, and at most those that were sent twice."""
    server = Server([(STREAM, after, "close")])
    samples = [sample for sample, _ in exchange(kind, server, *[{}] * 12, pause=pause)]

    assert {sample.outcome for sample in samples} == {Outcome.OK}
    again = sum(sample.reconnected for sample in samples)
    assert 12 <= len(server.seen) <= 12 + again
    assert again <= 3


UNANNOUNCED: dict[str, Script] = {
    "close": (whole(), "close"),
    "reset": (whole(), "reset"),
    "unasked 408": (whole(), 0.001, b"HTTP/1.1 408 Timeout\r\nconnection: close\r\n\r\n", "close"),
}


@pytest.mark.parametrize("last", UNANNOUNCED.values(), ids=UNANNOUNCED)
def test_a_server_that_ends_every_third_answer_unannounced_costs_no_request(
    kind: str, last: Script
) -> None:
    """With a moment in between what is known to be over is not even written to."""
    server = Server([*[(whole(),), (whole(),), last] * 4, (whole(),)])
    calls = [{"stream": False}] * 12
    samples = [s for s, _ in exchange(kind, server, *calls, pause=0.01, settled=True)]

    assert [sample.outcome for sample in samples] == [Outcome.OK] * 12
    assert [sample.reconnected for sample in samples] == [False] * 12
    assert len(server.seen) == 12


NOT_AGAIN: dict[str, tuple[Sequence[Script], Outcome, int]] = {
    "new connection closed": ([("close",)], Outcome.RESET, 1),
    "new connection reset": ([("reset",)], Outcome.RESET, 1),
    "the second one closed, too": ([(STREAM,), ("close",), ("close",)], Outcome.RESET, 3),
    "half an answer": ([(STREAM,), (HEAD + event(b"a"), "close")], Outcome.CUT, 2),
    "half an answer, reset": ([(STREAM,), (HEAD + event(b"a"), 0.05, "reset")], Outcome.CUT, 2),
    "a deadline": ([(STREAM,), ("stay",)], Outcome.TIMEOUT, 2),
}


@pytest.mark.parametrize("case", NOT_AGAIN)
def test_what_is_no_unannounced_end_is_a_failure_and_sent_once(kind: str, case: str) -> None:
    """A new connection, a second try, an answer that has begun, a deadline: the target failed."""
    scripts, outcome, seen = NOT_AGAIN[case]
    server = Server(scripts)
    calls = [{}] * min(2, len(scripts))
    *_, (sample, _) = exchange(kind, server, *calls, deadlines=Deadlines(first_byte=0.5))

    assert sample.outcome is outcome
    assert len(server.seen) == seen
    assert sample.reconnected == (seen == 3)


@pytest.mark.skipif("engine" not in KINDS, reason="httpcore does not say how much of a head came")
def test_half_a_head_is_an_answer_that_began() -> None:
    """Not sent again: the server has acted upon it."""
    server = Server([(STREAM,), (HEAD[:30], "close")])
    *_, (sample, _) = exchange("engine", server, {}, {})

    assert (sample.outcome, sample.reconnected) == (Outcome.RESET, False)
    assert len(server.seen) == 2


def test_a_body_that_was_half_written_is_sent_again_whole(kind: str) -> None:
    """The server closes the kept connection while four megabytes are on their way to it."""
    body = b"x" * 2**22

    class Hasty(Server):
        async def serve(self, tcp: trio.SocketStream) -> None:
            self.connections += 1
            if self.connections == 1:
                await read_request(tcp)
                await tcp.send_all(whole())
                await tcp.receive_some(1000)
                await play(tcp, ("reset",))
            else:
                self.connections -= 1
                await super().serve(tcp)

    server = Hasty([(whole(),)])
    _, (sample, _) = exchange(kind, server, {"stream": False}, {"stream": False, "body": body})

    assert sample.outcome is Outcome.OK
    assert sample.reconnected
    assert [len(seen.partition(b"\r\n\r\n")[2]) for seen in server.seen] == [len(body)]


def test_after_two_unannounced_ends_nothing_is_kept(kind: str) -> None:
    """A server that never answers a second request: two are sent twice, the others go out once."""
    refusal = [(whole(),), ("close",)]
    server = Server([*refusal, *refusal, (whole(),)])
    samples = [sample for sample, _ in exchange(kind, server, *[{"stream": False}] * 10)]

    assert [sample.outcome for sample in samples] == [Outcome.OK] * 10
    assert sum(sample.reconnected for sample in samples) == 2
    assert len(server.seen) == 12


class Threads(Server):
    """Reads from so many connections at a time, each until it ends: a thread for each, and keep-alive."""

    def __init__(self, threads: int) -> None:
        super().__init__([(0.01, STREAM)])
        self._threads = trio.CapacityLimiter(threads)

    async def serve(self, tcp: trio.SocketStream) -> None:
        async with self._threads:
            await super().serve(tcp)


@pytest.mark.parametrize("threads", [1, 4, 8])
@pytest.mark.parametrize("at_once", [1, 12])
def test_a_server_with_a_thread_for_each_connection_is_never_starved(
    kind: str, threads: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bursts with pauses: connections that are idle never hold the threads that a request waits for."""
    for module in ("tbench.replay.httpx_sender", "tbench.replay.engine.sender"):
        monkeypatch.setattr(f"{module}.IDLE_S", 3600.0)  # time alone frees no thread
    server = Threads(threads)

    async def main() -> list[Reply]:
        replies = []
        with trio.fail_after(PATIENCE_S):
            async with server.listening() as url, opened as sender:
                await sender.preopen(call(url).origin, 0)
                for _ in range(4):
                    async with trio.open_nursery() as burst:
                        for _ in range(at_once):
                            replies.append(Reply())
                            burst.start_soon(send, sender, call(url), replies[-1])
                    await trio.sleep(0.05)
        return replies

    opened = KINDS[kind](Deadlines(first_byte=20.0), None)
    replies = trio.run(main)

    assert [reply.failure for reply in replies] == [None] * 4 * at_once
    assert len(server.seen) == 4 * at_once
    assert not any(reply.reconnected for reply in replies)


@pytest.mark.skipif("engine" not in KINDS, reason="httpx opens none ahead")
@pytest.mark.parametrize("rest_s", [TIDY_S, 0.1])
def test_connections_that_were_opened_ahead_starve_nobody(
    monkeypatch: pytest.MonkeyPatch, rest_s: float
) -> None:
    """A closed loop for which there is less to send than it may have in flight.

    However often its connections are looked through before one has idled for long enough to be closed: the
    server holds those that it answered on, not those that were opened.
    """
    monkeypatch.setattr("tbench.replay.engine.sender.TIDY_S", rest_s)
    monkeypatch.setattr("tbench.replay.engine.sender.IDLE_S", 3600.0)  # time alone frees no thread
    server = Threads(4)

    async def main() -> list[Reply]:
        replies = [Reply() for _ in range(8)]
        with trio.fail_after(PATIENCE_S):
            async with server.listening() as url, engine(Deadlines(first_byte=20.0)) as sender:
                await sender.preopen(call(url).origin, 16)
                async with trio.open_nursery() as loop:
                    for reply in replies:
                        loop.start_soon(send, sender, call(url), reply)
        return replies

    assert [reply.failure for reply in trio.run(main)] == [None] * 8


def test_idle_connections_are_closed_although_nothing_is_sent(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer does it, not the next request: the server sees the end while the sender lives and rests."""
    for module in ("tbench.replay.httpx_sender", "tbench.replay.engine.sender"):
        monkeypatch.setattr(f"{module}.IDLE_S", 0.05)
    events: list[str] = []
    gone = trio.Event()

    class Watched(Server):
        async def serve(self, tcp: trio.SocketStream) -> None:
            await super().serve(tcp)
            events.append("closed")
            gone.set()

    async def main() -> None:
        async with Watched([(whole(),)]).listening() as url, KINDS[kind](Deadlines()) as sender:
            await send(sender, call(url), Reply())
            with trio.move_on_after(10):
                await gone.wait()
            events.append("sender ends")

    trio.run(main)
    assert events[:2] == ["closed", "sender ends"]


REFUSED = b'{"error":{"message":"slow down"}}'
FAULTS: dict[str, tuple[Script, Outcome, int | None, int]] = {
    "closed before the head": (("close",), Outcome.RESET, None, 0),
    "reset before the head": (("reset",), Outcome.RESET, None, 0),
    "closed within the head": ((HEAD[:30], "close"), Outcome.RESET, None, 0),
    "reset within the body": ((HEAD + event(b"a"), 0.05, "reset"), Outcome.CUT, 200, 1),
    "closed within the body": ((HEAD + event(b"a"), "close"), Outcome.CUT, 200, 1),
    "closed within a chunk": ((HEAD + event(b"a")[:-9], "close"), Outcome.CUT, 200, 0),
    "length not reached": ((whole()[:-20], "close"), Outcome.CUT, 200, 0),
    "no end of the stream": ((HEAD + event(b"a") + LAST,), Outcome.CUT, 200, 1),
    "stream closed without end": (
        (HEAD.replace(b"transfer-encoding: chunked\r\n", b"") + b"data: {}\n\n", "close"),
        Outcome.CUT,
        200,
        0,
    ),
    "another protocol": ((b"SSH-2.0-OpenSSH\r\n\r\n",), Outcome.PROTOCOL_ERROR, None, 0),
    "garbage": ((b"\x15\x03\x01\x00\x02\x02\x46" * 9,), Outcome.PROTOCOL_ERROR, None, 0),
    "a bad chunk": ((HEAD + event(b"a") + b"zz\r\n", 0.1), Outcome.PROTOCOL_ERROR, 200, 1),
    "a head without end": (
        (b"HTTP/1.1 200 OK\r\n" + b"x: %s\r\n" % (b"y" * 1000) * 200, "stay"),
        Outcome.PROTOCOL_ERROR,
        None,
        0,
    ),
    "an error in the stream": (
        (HEAD + event(b"a") + chunk(b'data: {"error":{"message":"engine died"}}\n\n') + LAST,),
        Outcome.STREAM_ERROR,
        200,
        1,
    ),
    "a refusal": (
        (whole(body=REFUSED).replace(b"200 OK", b"429 No"),),
        Outcome.HTTP_ERROR,
        429,
        0,
    ),
    "a redirect": (
        (b"HTTP/1.1 307 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",),
        Outcome.HTTP_ERROR,
        307,
        0,
    ),
    "a page": (
        (whole(body=b"<html></html>").replace(b"application/json", b"text/html"),),
        Outcome.PROTOCOL_ERROR,
        200,
        0,
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_way_to_fail_has_its_outcome(kind: str, case: str) -> None:
    """A word for the kind, a line for the reason; what came before is kept."""
    script, outcome, status, tokens = FAULTS[case]
    found, _ = only(kind, *script)

    assert (found.outcome, found.status, len(found.token_times)) == (outcome, status, tokens)
    assert found.error
    assert found.sent is not None


GOOD: dict[str, Script] = {
    "at once": (STREAM,),
    "byte by byte": tuple(STREAM[i : i + 1] for i in range(len(STREAM))),
    "slow headers": (HEAD[:10], 0.02, HEAD[10:40], 0.02, HEAD[40:] + event(b"a") + STOP + LAST),
    "trailers": (HEAD + event(b"a") + STOP + b"0\r\nx-late: 1\r\ncontent-type: no\r\n\r\n",),
    "chunk extensions": (HEAD + event(b"a").replace(b"\r\n", b";q=1\r\n", 1) + STOP + LAST,),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Hints\r\nl: x\r\n\r\n" + STREAM,
    ),
    "one big chunk": (HEAD + chunk((event(b"a" * 99) * 2000).split(b"\r\n")[1]) + STOP + LAST,),
    "by closing": (
        HEAD.replace(b"transfer-encoding: chunked\r\n", b"")
        + b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n',
        0.02,
        b"data: [DONE]\n\n",
        "close",
    ),
    "bare line feeds": (STREAM[: len(HEAD)].replace(b"\r\n", b"\n") + STREAM[len(HEAD) :],),
}


@pytest.mark.parametrize("case", GOOD)
def test_each_way_to_answer_is_read(kind: str, case: str) -> None:
    """However the bytes come, the answer is whole; the headers are those of the head."""
    found, reply = only(kind, *GOOD[case])

    assert (found.outcome, found.status, found.finish_reason) == (Outcome.OK, 200, "stop")
    assert found.token_times
    assert found.response_bytes == sum(len(data) for _, data in reply.chunks)
    assert reply.header("content-type") == "text/event-stream"
    assert reply.header("x-late") == reply.header("l") == ""


EMPTY = {
    "head": ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 200),
    "head, chunked": ("HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 200),
    "204": ("GET", b"HTTP/1.1 204 No\r\n\r\n", 204),
    "304": ("GET", b"HTTP/1.1 304 Same\r\ncontent-length: 5\r\n\r\n", 304),
    "no length": ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
}


@pytest.mark.parametrize("case", EMPTY)
def test_an_answer_without_a_body_ends_with_its_head(kind: str, case: str) -> None:
    """Whatever length it names; and the connection serves the next request."""
    method, answer, status = EMPTY[case]
    server = Server([(answer,), (whole(),)])
    first, second = exchange(kind, server, {"method": method, "body": b""}, {"stream": False})

    assert (first[0].status, first[1].chunks, first[1].failure) == (status, [], None)
    assert first[1].end is not None
    assert (second[0].outcome, second[0].conn_reused) == (Outcome.OK, True)


@pytest.mark.skipif(
    "engine" not in KINDS, reason="h11 keeps such bytes, and takes them for the next answer"
)
def test_bytes_after_the_answer_do_not_become_the_next_one() -> None:
    """A server that says too much is not asked again on that connection."""
    server = Server([(whole() + whole(),), (whole(body=JSON.replace(b"hi", b"ho")),)])
    first, second = exchange("engine", server, *[{"stream": False}] * 2, pause=0.01)

    assert (first[0].outcome, second[0].outcome) == (Outcome.OK, Outcome.OK)
    assert not second[0].conn_reused
    assert second[1].chunks[-1][1].count(b'"ho"') == 1


DEADLINES = {
    "silent": (("stay",), Deadlines(first_byte=0.1), "first byte: nothing for 0.1 s"),
    "half a head": ((HEAD[:30], "stay"), Deadlines(first_byte=0.1), "first byte: nothing for 0.1"),
    "stalling": (
        (HEAD + event(b"a"), "stay"),
        Deadlines(between=0.1),
        "next byte: nothing for 0.1",
    ),
    "dripping": (
        (HEAD, *((event(b"a"), 0.02) * 100)),
        Deadlines(total=0.5),
        "total: not done after 0.5 s, waiting for the next byte",
    ),
    "in all": (("stay",), Deadlines(total=0.1), "total: not done after 0.1 s"),
}


@pytest.mark.parametrize("case", DEADLINES)
def test_each_deadline_says_which_it_was(kind: str, case: str) -> None:
    """A timeout names the part that took too long; what came is kept, the connection is not."""
    script, deadlines, said = DEADLINES[case]
    server = Server([script, (STREAM,)])
    (found, reply), (again, _) = exchange(kind, server, {}, {}, deadlines=deadlines)

    assert found.outcome is Outcome.TIMEOUT
    assert said in (found.error or "")
    assert bool(reply.chunks) == (
        HEAD in b"".join(s for s in script if isinstance(s, bytes)) and case != "silent"
    )
    assert (again.outcome, again.conn_reused) == (Outcome.OK, False)


def test_a_connection_that_takes_too_long_is_a_timeout(kind: str) -> None:
    """A listener whose queue is full answers nobody."""

    async def main() -> Reply:
        reply = Reply()
        with socket.socket() as full, socket.socket() as first, socket.socket() as second:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            first.setblocking(False)
            second.setblocking(False)
            for one in (first, second):
                with suppress(BlockingIOError):
                    one.connect(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            with trio.fail_after(PATIENCE_S):
                async with KINDS[kind](Deadlines(connect=0.2)) as sender:
                    await send(sender, call(url), reply)
        return reply

    reply = trio.run(main)

    assert reply.failure == (Outcome.TIMEOUT, "connect: nothing for 0.2 s")
    assert reply.sent is None


def test_nobody_listens(kind: str) -> None:
    """A refused connection is a connect error; nothing was sent."""

    async def main() -> Reply:
        reply = Reply()
        async with KINDS[kind](Deadlines()) as sender:
            await send(sender, call("http://127.0.0.1:1"), reply)
        return reply

    reply = trio.run(main)

    assert reply.failure and reply.failure[0] is Outcome.CONNECT_ERROR
    assert "refused" in reply.failure[1].lower()
    assert reply.sent is None


def test_a_name_that_does_not_exist_is_a_connect_error(kind: str) -> None:
    """So is one that cannot be looked up."""

    async def main() -> Reply:
        reply = Reply()
        async with KINDS[kind](Deadlines()) as sender:
            await send(sender, call("http://no-such-name.invalid"), reply)
        return reply

    assert (trio.run(main).failure or (None,))[0] is Outcome.CONNECT_ERROR


@pytest.fixture(scope="module")
def trust() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and one of a client that trusts it."""
    ca = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return server, client


def test_tls_is_verified(kind: str, trust: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """An unknown authority is a connect error, and nothing was sent."""
    (found, _) = exchange(kind, Server([(whole(),)], trust[0]), {"stream": False})[0]

    assert found.outcome is Outcome.CONNECT_ERROR
    assert "certificate" in (found.error or "").lower()
    assert found.sent is None


def test_without_certificates_there_is_no_https() -> None:
    """A sender that was made for http alone says so, and sends nothing in the clear."""

    async def main() -> Reply:
        async with EngineSender(Deadlines(), None) as sender:
            reply = Reply()
            await send(sender, call("https://127.0.0.1:9"), reply)
            return reply

    failure = trio.run(main).failure

    assert failure is not None
    assert failure[0] is Outcome.CONNECT_ERROR
    assert "no certificates were loaded" in failure[1]


def test_a_server_without_tls_is_a_connect_error(kind: str) -> None:
    """A port that speaks http is asked for https."""

    async def plain(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n")

    async def main() -> Reply:
        reply = Reply()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, plain, 0)
                url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
                async with KINDS[kind](Deadlines()) as sender:
                    await send(sender, call(url), reply)
                nursery.cancel_scope.cancel()
        return reply

    assert (trio.run(main).failure or (None,))[0] is Outcome.CONNECT_ERROR


@pytest.mark.parametrize("case", GOOD)
def test_tls_changes_nothing(
    kind: str, case: str, trust: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """The same answers under TLS, on a kept connection."""
    server = Server([GOOD[case]], trust[0])
    found = exchange(kind, server, {}, {}, context=trust[1])

    assert [sample.outcome for sample, _ in found] == [Outcome.OK] * 2
    assert server.connections == 1 + (GOOD[case][-1] == "close")


TLS_FAULTS = ("closed before the head", "reset within the body", "length not reached", "garbage")


@pytest.mark.parametrize("case", TLS_FAULTS)
def test_faults_under_tls_have_the_same_outcome(
    kind: str, case: str, trust: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """TLS hides no failure."""
    script, outcome, status, tokens = FAULTS[case]
    (found, _) = exchange(kind, Server([script], trust[0]), context=trust[1])[0]

    assert (found.outcome, found.status, len(found.token_times)) == (outcome, status, tokens)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_huge_body_never_holds_up_the_others(
    kind: str, secure: bool, trust: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """10 MB to a server that reads slowly, while another request comes and goes."""
    body = bytes(range(256)) * 40_000
    got = bytearray()

    async def slow(tcp: trio.SocketStream) -> None:
        stream: Any = trio.SSLStream(tcp, trust[0], server_side=True) if secure else tcp
        while b"\r\n\r\n" not in got:
            got.extend(await stream.receive_some(4096))
        await free.wait()
        head = got.index(b"\r\n\r\n") + 4
        while len(got) < head + len(body):
            got.extend(await stream.receive_some(200_000))
        await stream.send_all(whole())
        await stream.receive_some()

    async def main() -> tuple[Reply, Reply]:
        nonlocal free
        free, big, small = trio.Event(), Reply(), Reply()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery, Server([(STREAM,)]).listening() as other:
                listeners = await nursery.start(trio.serve_tcp, slow, 0)
                port = listeners[0].socket.getsockname()[1]
                url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"
                async with (
                    KINDS[kind](Deadlines(), trust[1]) as sender,
                    trio.open_nursery() as both,
                ):
                    both.start_soon(send, sender, call(url, stream=False, body=body), big)
                    await trio.sleep(0.1)
                    await send(sender, call(other), small)
                    free.set()
                nursery.cancel_scope.cancel()
        return big, small

    free = trio.Event()
    big, small = trio.run(main)

    assert bytes(got[got.index(b"\r\n\r\n") + 4 :]) == body
    assert (big.status, big.failure, small.status, small.failure) == (200, None, 200, None)
    assert small.end is not None and big.end is not None and small.end < big.end


def test_an_answer_before_the_request_is_read_counts(kind: str) -> None:
    """A server may refuse a body it has not read; its answer is the outcome."""

    async def hasty(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(whole(body=REFUSED).replace(b"200 OK", b"413 No"))
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some(1_000_000):
                pass

    async def main() -> Reply:
        reply = Reply()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, hasty, 0)
                url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
                async with KINDS[kind](Deadlines()) as sender:
                    await send(sender, call(url, body=bytes(10_000_000)), reply)
                nursery.cancel_scope.cancel()
        return reply

    reply = trio.run(main)

    assert (reply.status, reply.failure) == (413, None)


@pytest.mark.parametrize("script", [("stay",), (HEAD + event(b"a"), "stay")], ids=["head", "body"])
def test_what_is_abandoned_keeps_its_stamps_and_closes_the_connection(
    kind: str, script: Script
) -> None:
    """The server sees the client go; the reply is cancelled, and has what came until then."""
    asked, gone = trio.Event(), trio.Event()
    reply = Reply()

    async def serve(stream: trio.SocketStream) -> None:
        await read_request(stream)
        for step in script[:-1]:
            assert isinstance(step, bytes)
            await stream.send_all(step)
        asked.set()
        assert not await stream.receive_some()
        gone.set()

    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, serve, 0)
                url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
                async with KINDS[kind](Deadlines()) as sender, trio.open_nursery() as sending:
                    sending.start_soon(send, sender, call(url), reply)
                    await asked.wait()
                    while reply.sent is None or len(reply.chunks) < len(script) - 1:
                        await trio.lowlevel.checkpoint()
                    sender.abandon()
                    await gone.wait()
                nursery.cancel_scope.cancel()

    trio.run(main)

    assert reply.failure == STOPPED
    assert reply.sent is not None
    assert (reply.status, len(reply.chunks)) == ((200, 1) if len(script) > 1 else (None, 0))


def test_what_was_just_launched_is_abandoned(kind: str) -> None:
    """No request goes out after the stop, although nothing had been done for it before."""
    server, reply = Server([(STREAM,)]), Reply()

    async def main() -> None:
        over = trio.Event()
        with trio.fail_after(PATIENCE_S):
            async with server.listening() as url, KINDS[kind](Deadlines()) as sender:
                sender.launch(call(url), reply, over.set)
                sender.abandon()
                await over.wait()

    trio.run(main)

    assert (reply.failure, reply.sent, server.seen) == (STOPPED, None, [])


def test_a_connection_that_is_being_opened_is_abandoned(kind: str) -> None:
    """Nothing was sent, and nobody waits for a listener whose queue is full."""

    async def main() -> Reply:
        reply = Reply()
        with socket.socket() as full, socket.socket() as first, socket.socket() as second:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for one in (first, second):
                one.setblocking(False)
                with suppress(BlockingIOError):
                    one.connect(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            with trio.fail_after(PATIENCE_S):
                async with KINDS[kind](Deadlines()) as sender, trio.open_nursery() as sending:
                    sending.start_soon(send, sender, call(url), reply)
                    await trio.sleep(0.1)
                    sender.abandon()
        return reply

    reply = trio.run(main)

    assert (reply.failure, reply.sent) == (STOPPED, None)


def test_a_call_that_cannot_be_sent_says_why(kind: str) -> None:
    """No connection is opened for it."""

    async def main() -> Reply:
        reply = Reply()
        nowhere = Origin("http", "h", 80)
        made = Call(index=0, due=None, origin=nowhere, head=b"", body=b"", refusal="no way")
        async with KINDS[kind](Deadlines()) as sender:
            await send(sender, made, reply)
        return reply

    assert trio.run(main).failure == (Outcome.PROTOCOL_ERROR, "no way")


@pytest.mark.skipif("engine" not in KINDS, reason="httpx opens connections when it sends")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_connections_opened_ahead_are_used_first(
    secure: bool, trust: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A call on one has no connecting of its own, and says that nothing was sent on it before."""
    server = Server([(whole(),)], trust[0] if secure else None)

    async def main() -> list[Reply]:
        replies = [Reply() for _ in range(4)]
        with trio.fail_after(PATIENCE_S):
            async with server.listening() as url, engine(Deadlines(), trust[1]) as sender:
                await sender.preopen(call(url).origin, 3)
                async with trio.open_nursery() as three:
                    for reply in replies[:3]:
                        three.start_soon(send, sender, call(url), reply)
                await send(sender, call(url), replies[3])
        return replies

    replies = trio.run(main)

    assert server.connections == 3
    assert [reply.connecting for reply in replies] == [None] * 4
    assert [reply.reused for reply in replies] == [False] * 3 + [True]
    assert all(reply.status == 200 for reply in replies)


@pytest.mark.skipif("engine" not in KINDS, reason="httpx holds far fewer")
def test_two_thousand_at_once_are_all_answered() -> None:
    """A connection each, opened when they are wanted; none is lost."""

    async def main() -> list[Reply]:
        replies = [Reply() for _ in range(2000)]
        server = Server([(STREAM,)])
        with trio.fail_after(PATIENCE_S):
            async with (
                server.listening() as url,
                engine(Deadlines()) as sender,
                trio.open_nursery() as all_of_them,
            ):
                for reply in replies:
                    all_of_them.start_soon(send, sender, call(url), reply)
        return replies

    replies = trio.run(main)

    assert [reply.status for reply in replies] == [200] * 2000
    assert all(reply.failure is None for reply in replies)


@pytest.mark.skipif("engine" not in KINDS, reason="of the engine's watchdog")
def test_a_deadline_that_began_while_connecting_is_kept() -> None:
    """The total counts from the launch, although the watchdog looked while the connection was opened."""

    async def late(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep(30)

    async def main() -> tuple[Reply, float]:
        reply = Reply()
        deadlines = Deadlines(total=0.5, first_byte=60, connect=60, between=60)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, late, 0)
                url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
                async with EngineSender(deadlines, tls()) as sender:
                    dial = sender._dialer.dial

                    async def slowly(origin: Origin) -> Any:
                        await trio.sleep(0.45)
                        return await dial(origin)

                    sender._dialer.dial = slowly  # type: ignore[method-assign]
                    await trio.sleep(0.2)
                    began = trio.current_time()
                    await send(sender, call(url), reply)
                    took = trio.current_time() - began
                nursery.cancel_scope.cancel()
        return reply, took

    reply, took = trio.run(main)

    assert reply.failure and reply.failure[0] is Outcome.TIMEOUT
    assert "total" in reply.failure[1]
    assert took < 5.0


def test_an_endless_answer_is_not_read_to_the_end(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded, and the sample says why."""
    for module in ("tbench.replay.httpx_sender", "tbench.replay.engine.http1"):
        monkeypatch.setattr(f"{module}.MOST_BYTES", 200_000)
    found, _ = only(kind, HEAD, *[chunk(b"x" * 50_000)] * 100)

    assert found.outcome is Outcome.PROTOCOL_ERROR
    assert "not read on" in (found.error or "")


def test_many_at_once_are_kept_apart(kind: str) -> None:
    """Thirty in flight, each gets its own answer."""

    async def main() -> list[Reply]:
        replies = [Reply() for _ in range(30)]

        async def echo(stream: trio.SocketStream) -> None:
            while seen := await read_request(stream):
                await stream.send_all(whole(body=seen.partition(b"\r\n\r\n")[2]))

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, echo, 0)
                url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
                async with KINDS[kind](Deadlines()) as sender:
                    for _ in range(3):
                        replies = [Reply() for _ in range(30)]
                        async with trio.open_nursery() as all_of_them:
                            for index, reply in enumerate(replies):
                                one = call(url, body=b"%d" % index)
                                all_of_them.start_soon(send, sender, one, reply)
                nursery.cancel_scope.cancel()
        return replies

    replies = trio.run(main)

    assert [b"".join(data for _, data in reply.chunks) for reply in replies] == [
        b"%d" % index for index in range(30)
    ]


ENGINE = pytest.mark.skipif("engine" not in KINDS, reason="the engine runs on Linux")


async def engine_clock(server: Server, context: ssl.SSLContext | None, spoil: Any = None) -> Any:
    """Send one stream; what stamped it, and the reply."""
    reply = Reply()
    with trio.fail_after(PATIENCE_S):
        async with server.listening() as url, EngineSender(Deadlines(), context or tls()) as sender:
            await sender.rehearse()
            if spoil:
                spoil(sender)
            await send(sender, call(url), reply)
            return sender.clock, reply


@ENGINE
@pytest.mark.flaky(reruns=3)  # a machine may set its wall clock meanwhile
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_the_kernel_stamps_every_read(
    secure: bool, trust: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """From the first byte of the first answer on, also under TLS."""
    server = Server([GOOD["byte by byte"]], trust[0] if secure else None)
    clock, reply = trio.run(engine_clock, server, trust[1] if secure else None)

    assert clock == "kernel"
    assert reply.failure is None


@ENGINE
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wall_clock_that_was_set_spoils_no_stamp(hours: int) -> None:
    """Stamps that contradict the request or the present are replaced, and the run says `user`."""

    def spoil(sender: Any) -> None:
        sender._reader.clock.second += 3600 * hours

    clock, reply = trio.run(engine_clock, Server([GOOD["slow headers"]]), None, spoil)
    times = [at for at, _ in reply.chunks]

    assert clock == "user"
    assert reply.sent is not None and reply.end is not None
    assert reply.sent <= times[0] <= times[-1] <= reply.end < reply.sent + 5
    assert reply.failure is None


@ENGINE
def test_the_clocks_are_read_again_and_a_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of readings maps both ways; after the wall clock was set, the new pair does."""
    wall, mono = [10**18 + 5], [100.0]
    monkeypatch.setattr("tbench.replay.engine.clock.time.time_ns", lambda: wall[0])
    clock = Clock(lambda: mono[0])

    assert clock.wall_ns(101.5) == 10**18 + 1_500_000_005
    assert clock.of(10**9 + 2, 500) == pytest.approx(102.000000495, abs=1e-9)
    wall[0], mono[0] = wall[0] + 10**9, 101.0
    clock.refresh(101.0)
    assert clock.steps == 0
    wall[0], mono[0] = wall[0] - 10**10, 102.0
    clock.refresh(102.0)
    assert clock.steps == 1
    assert clock.wall_ns(102.0) == wall[0]


@ENGINE
def test_readings_that_were_interrupted_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause between the two clocks is no step of either."""
    mono, pause = [100.0], [0.0]

    def now() -> float:
        mono[0] += pause[0]
        return mono[0]

    monkeypatch.setattr("tbench.replay.engine.clock.time.time_ns", lambda: 10**18)
    clock = Clock(now)
    before = clock.wall_ns(100.0)
    pause[0] = 0.01
    clock.refresh(105.0)

    assert (clock.steps, clock.wall_ns(100.0)) == (0, before)


@ENGINE
def test_a_retransmitted_segment_does_not_turn_time_back() -> None:
    """What came before the segment it had to wait for is stamped with that one's time."""

    async def main() -> list[float]:
        ours, theirs = socket.socketpair()
        reader = Reader()
        connection: Any = Connection(ours, reader)
        stamps = []
        origin = reader.clock.second, reader.clock.origin
        connection._heard = connection._asked = origin[1]
        for ns in (500_000, 400_000, 600_000):
            note = struct.pack("ll", origin[0] - 1, 10**9 + ns)
            connection._recvmsg = lambda *_, note=note: (b"x", [(1, 35, note)], 0, None)
            read = connection.receive(origin[1])
            assert read is not None
            stamps.append(read[2] - origin[1])
        reader.close()
        theirs.close()
        return stamps

    assert trio.run(main) == pytest.approx([0.0005, 0.0005, 0.0006], abs=1e-7)


@ENGINE
@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 408 Timeout\r\n\r\n"], ids=["FIN", "bytes, FIN"])
def test_a_connection_that_the_server_closed_is_not_taken_even_if_nobody_has_read_it(
    last: bytes,
) -> None:
    """The reader of these connections never runs: what is in the socket counts, not what was seen."""

    async def main() -> list[bool]:
        reader, pool = Reader(), Pool()
        taken = []
        for closed in (False, True):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            connection = Connection(ours, reader)
            pool.put(connection, reader.clock.now())
            if closed:
                theirs.sendall(last)
                theirs.close()
            taken.append(pool.take(reader.clock.now()) is connection)
            theirs.close()
        reader.close()
        return taken

    assert trio.run(main) == [True, False]


def place_of(one: object) -> str:
    """Where an object comes from: the file of a frame's code, else the module of its class."""
    code = getattr(one, "f_code", None)
    return str(code.co_filename) if code else type(one).__module__


@ENGINE
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("case", ["byte by byte", "at once", "by closing"])
def test_nothing_that_is_made_per_request_is_left_to_the_collector(
    case: str, secure: bool, trust: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A worker never runs it: a cycle for each read or request would be a leak."""

    async def main() -> list[str]:
        server = Server([GOOD[case]], trust[0] if secure else None)
        with trio.fail_after(PATIENCE_S):
            async with server.listening() as url, engine(Deadlines(), trust[1]) as sender:
                await send(sender, call(url), Reply())
                gc.collect()
                gc.disable()
                gc.set_debug(gc.DEBUG_SAVEALL)
                try:
                    for _ in range(5):
                        await send(sender, call(url), Reply())
                    gc.collect()
                    return [place_of(one) for one in gc.garbage]
                finally:
                    gc.set_debug(0)
                    gc.garbage.clear()
                    gc.enable()

    left = trio.run(main)

    assert [place for place in left if "replay" in place or "httptools" in place] == []


STAMPS = ("sent", "first_byte", "first_token", "first_answer", "last_token", "end")


def timeless(sample: Sample) -> tuple[Sample, int, dict[str, bool], bool]:
    """A sample without its times, but with which of them there are."""
    there = {name: getattr(sample, name) is not None for name in (*STAMPS, "error")}
    bare = replace(sample, **dict.fromkeys(STAMPS), sent_wall_ns=None, first_wall_ns=None)
    late = [field.name for field in fields(sample) if field.name.endswith("_after")]
    bare = replace(bare, error=None, connect=0.0, token_times=(), **dict.fromkeys(late))
    return bare, len(sample.token_times), there, sample.connect > 0


@pytest.mark.skipif("engine" not in KINDS, reason="needs both senders")
@pytest.mark.parametrize(
    "script",
    [*(case[0] for case in FAULTS.values()), *GOOD.values(), *CLOSING.values()],
    ids=[*FAULTS, *GOOD, *(f"closing, {name}" for name in CLOSING)],
)
def test_both_senders_make_the_same_samples(script: Script) -> None:
    """Every field but the times, in two requests one after the other."""
    found = {
        kind: [timeless(one) for one, _ in exchange(kind, Server([script]), {}, {}, pause=0.01)]
        for kind in ("httpx", "engine")
    }

    assert found["engine"] == found["httpx"]


def fed(*pieces: bytes, bodyless: bool = False, on: Sequence[bytes] = ()) -> tuple[Any, ...] | None:
    """What a response comes to, its body joined; None where the connection that answered `on` is not kept."""
    response, reply = Response(), Reply()
    for before in on:
        response.begin(Reply())
        response.feed(0.0, before)
        if not response.keep:
            return None
    response.begin(reply, bodyless=bodyless)
    for at, piece in enumerate(pieces):
        response.feed(float(at), piece)
    response.eof(99.0)
    body = b"".join(data for _, data in reply.chunks)
    kind = reply.failure and reply.failure[0]
    return reply.status, list(reply.headers), body, reply.received, kind, response.over


ANSWERS = [
    STREAM,
    whole(),
    b"HTTP/1.1 100 Continue\r\n\r\n" + STREAM,
    HEAD + event(b"a") + b"0\r\nx-late: 1\r\n\r\n",
    HEAD + event(b"a") + b"zz\r\n",
    whole()[:-5],
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    whole() + b"and more",
    whole() + whole(),
    b"HTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\nhi",
    b"HTTP/1.1 103 Early Hints\r\ncontent-length: 2\r\n\r\nhi" + STREAM,
]


@settings(max_examples=200, deadline=None)
@given(answer=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_of_the_bytes_gives_the_same_result(answer: bytes, cuts: list[int]) -> None:
    """Where the network splits an answer changes nothing about it."""
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[a:b] for a, b in pairwise(edges)]

    assert fed(*pieces) == fed(answer)


@given(answer=st.sampled_from(ANSWERS), cut=st.integers(0, 400), data=st.data())
def test_what_a_connection_answered_before_changes_nothing(
    answer: bytes, cut: int, data: st.DataObject
) -> None:
    """One parser reads all responses of a connection, as long as it is kept."""
    before = data.draw(st.lists(st.sampled_from([STREAM, whole(), *ANSWERS]), max_size=4))
    pieces = [piece for piece in (answer[:cut], answer[cut:]) if piece]

    assert fed(*pieces, on=before) in (None, fed(answer))
    assert fed(*pieces, on=[STREAM, whole(), STREAM]) == fed(answer)


BODY = whole().partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("answer", "bodyless", "body", "kind"),
    [
        (whole() + whole(), False, BODY, None),
        (whole(), True, b"", None),
        (b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\nhi", False, b"", None),
        (
            b"HTTP/1.1 103 Early Hints\r\ncontent-length: 2\r\n\r\nhi" + whole(),
            False,
            b"",
            Outcome.PROTOCOL_ERROR,
        ),
    ],
    ids=["a second answer", "of HEAD", "of 204", "of an interim answer"],
)
def test_only_its_own_body_is_an_answers(
    answer: bytes, bodyless: bool, body: bytes, kind: Outcome | None
) -> None:
    """What comes beside it in the same read is not kept, and the connection is not used again."""
    reply = Reply()
    response = Response()
    response.begin(reply, bodyless=bodyless)
    response.feed(1.0, answer)

    assert b"".join(data for _, data in reply.chunks) == body
    assert (reply.received, reply.failure and reply.failure[0]) == (len(body), kind)
    assert (response.over, response.keep) == (True, False)


@settings(max_examples=300, deadline=None)
@given(noise=st.binary(max_size=200), at=st.integers(0, len(STREAM)))
def test_noise_never_raises_and_always_ends(noise: bytes, at: int) -> None:
    """A response with anything in it comes to an end of some kind."""
    result = fed(STREAM[:at] + noise + STREAM[at:])

    assert result is not None
    assert result[-1]
