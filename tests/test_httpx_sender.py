"""What is httpx's own about the httpx sender; how it behaves with servers is in test_senders.py."""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
import trio
import trustme

from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome
from tbench.replay.httpx_sender import HttpxSender, failure, request_of
from tbench.replay.request import head_of, origin_of
from tbench.replay.sender import Call, Deadlines, Reply, chosen, send
from tests.conftest import PATIENCE_S


def call_of(request: httpx.Request) -> Call:
    return Call(
        index=0,
        due=None,
        origin=origin_of(request.url),
        head=head_of(request),
        body=request.content,
    )


@pytest.mark.parametrize(
    "request_",
    [
        httpx.Request("POST", "https://h.example/v1/x?a=b%20c", json={"a": "ä"}),
        httpx.Request("GET", "http://127.0.0.1:8080/", headers=[("x", "1"), ("x", "2")]),
        httpx.Request("POST", "http://[::1]:8080/a%2Fb", content=b"\0\xff", headers={"x": "a: b"}),
    ],
)
def test_a_call_is_read_back_as_the_request_it_was_made_of(request_: httpx.Request) -> None:
    """Method, address, each header in its place, and the body; nothing is added."""
    found = request_of(call_of(request_))

    assert (found.method, found.url) == (request_.method, request_.url)
    assert found.headers.raw == request_.headers.raw


def test_a_proxy_is_asked_for_the_target() -> None:
    """The request line names the whole address, and the target itself is never connected to."""
    seen: list[bytes] = []

    async def proxy(stream: trio.SocketStream) -> None:
        seen.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async def main() -> Reply:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, proxy, 0)
                url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
                async with HttpxSender(Deadlines(), proxy=url) as sender:
                    await sender.rehearse()
                    request = httpx.Request("POST", "http://far.invalid/v1/x", content=b"{}")
                    reply = await send(sender, call_of(request))
                nursery.cancel_scope.cancel()
        return reply

    assert trio.run(main).status == 200
    assert seen[0].startswith(b"POST http://far.invalid/v1/x HTTP/1.1\r\n")


def test_http2_carries_many_at_once_on_one_connection() -> None:
    """Ten requests, each with its own answer, over a single connection."""
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        conn.initiate_connection()
        await stream.send_all(conn.data_to_send())
        bodies: dict[int, bytes] = {}
        while data := await stream.receive_some():
            for event in conn.receive_data(bytes(data)):
                if isinstance(event, h2.events.RequestReceived):
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    fields = [(":status", "200"), ("content-type", "application/json")]
                    conn.send_headers(event.stream_id, fields)
                    conn.send_data(event.stream_id, bodies[event.stream_id], end_stream=True)
            await stream.send_all(conn.data_to_send())

    async def main() -> list[Reply]:
        replies = [Reply() for _ in range(10)]
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, serve, 0)
                url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1/x"
                async with HttpxSender(Deadlines(), http2=True) as sender:
                    await sender.rehearse()
                    left = [trio.Event() for _ in replies]
                    for number, (reply, over) in enumerate(zip(replies, left, strict=True)):
                        request = httpx.Request("POST", url, content=b"%d" % number)
                        sender.launch(call_of(request), reply, over.set)
                    for over in left:
                        await over.wait()
                nursery.cancel_scope.cancel()
        return replies

    replies = trio.run(main)

    assert [reply.failure for reply in replies] == [None] * 10
    assert [b"".join(data for _, data in reply.chunks) for reply in replies] == [
        b"%d" % number for number in range(10)
    ]
    assert all(reply.sent is not None for reply in replies)
    assert connections == 1


Served = Callable[[trio.SocketStream], Awaitable[None]]


def one_by_one(
    serve: Served,
    count: int,
    pause: float,
    *,
    http2: bool = False,
    far: str | None = None,
    context: ssl.SSLContext | None = None,
) -> list[Reply]:
    """So many requests, one after the other, to a server, or to a far one by it as a proxy."""

    async def main() -> list[Reply]:
        replies = []
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, serve, 0)
                url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
                proxy = url if far else None
                async with HttpxSender(Deadlines(), context, http2=http2, proxy=proxy) as sender:
                    for _ in range(count):
                        request = httpx.Request("POST", f"{far or url}/v1/x", content=b"{}")
                        replies.append(await send(sender, call_of(request)))
                        await trio.sleep(pause)
                nursery.cancel_scope.cancel()
        return replies

    return trio.run(main)


class Leaving:
    """Answers on each connection once, by HTTP/2 or 1.1, and ends it: so long after, or when asked again."""

    def __init__(self, after: float | None, *, goaway: bool, http2: bool) -> None:
        self.after, self.goaway, self.http2 = after, goaway, http2
        self.asked = 0

    async def __call__(self, stream: trio.SocketStream) -> None:
        await (self._second if self.http2 else self._first)(stream)
        await stream.aclose()

    async def _first(self, stream: trio.SocketStream) -> None:
        while data := bytes(await stream.receive_some()):
            if not data.endswith(b"{}"):
                continue
            self.asked += 1
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            if self.after is None:
                self.asked += bool(await stream.receive_some())
            else:
                await trio.sleep(self.after)
            return

    async def _second(self, stream: trio.SocketStream) -> None:
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        conn.initiate_connection()
        await stream.send_all(conn.data_to_send())
        while data := await stream.receive_some():
            leaves = False
            for event in conn.receive_data(bytes(data)):
                if not isinstance(event, h2.events.StreamEnded):
                    continue
                self.asked += 1
                leaves = event.stream_id > 1 or self.after is not None
                if event.stream_id == 1:
                    conn.send_headers(1, [(":status", "200")])
                    conn.send_data(1, b"{}", end_stream=True)
            await stream.send_all(conn.data_to_send())
            if leaves:
                await trio.sleep(self.after or 0)
                if self.goaway:
                    conn.close_connection(last_stream_id=1)
                    await stream.send_all(conn.data_to_send())
                return


@pytest.mark.parametrize("after", [0.0, 0.05, None])
@pytest.mark.parametrize(
    ("http2", "goaway"),
    [(True, False), (True, True), (False, False)],
    ids=["http2", "http2 with goaway", "proxy"],
)
def test_a_server_or_proxy_that_leaves_after_each_answer_costs_no_request(
    http2: bool, goaway: bool, after: float | None
) -> None:
    """What goes out on its kept connection is sent again, once, and says so; nothing else is sent twice."""
    server = Leaving(after, goaway=goaway, http2=http2)
    replies = one_by_one(
        server, 8, after or 0.0, http2=http2, far=None if http2 else "http://far.invalid"
    )
    again = sum(reply.reconnected for reply in replies)

    assert [(reply.status, reply.failure) for reply in replies] == [(200, None)] * 8
    assert server.asked <= 8 + again
    if after is None:
        assert again >= 2
        assert server.asked == 8 + again


@pytest.mark.parametrize("after", [0.0, 0.05, None])
def test_what_closes_behind_a_tunnel_costs_no_request(after: float | None) -> None:
    """The proxy answers CONNECT and carries TLS: its far end leaves, and the kept tunnel with it."""
    ca = trustme.CA()
    inside, outside = (
        ssl.SSLContext(side) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    ca.issue_cert("far.invalid").configure_cert(inside)
    ca.configure_trust(outside)
    server = Leaving(after, goaway=False, http2=False)
    asked: list[bytes] = []

    async def tunnel(stream: trio.SocketStream) -> None:
        asked.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            await server(trio.SSLStream(stream, inside, server_side=True, https_compatible=True))

    replies = one_by_one(tunnel, 6, after or 0.0, far="https://far.invalid", context=outside)
    again = sum(reply.reconnected for reply in replies)

    assert [(reply.status, reply.failure) for reply in replies] == [(200, None)] * 6
    assert server.asked <= 6 + again
    assert {words.split(b" HTTP")[0] for words in asked} == {b"CONNECT far.invalid:443"}


def test_which_sender_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine does HTTP/1.1 on Linux; the rest is httpx's, and what cannot be is said in one line."""
    monkeypatch.setattr("sys.platform", "linux")
    assert chosen("auto") == "engine"
    assert chosen("auto", http2=True) == chosen("auto", proxy="http://p:1") == "httpx"
    with pytest.raises(InputError, match="--sender engine: does not do http2"):
        chosen("engine", http2=True)
    with pytest.raises(InputError, match="--sender engine: does not do proxy"):
        chosen("engine", proxy="http://p:1")
    with pytest.raises(InputError, match="--proxy") as refused:
        chosen("auto", proxy="socks9://user:secret-password-1234@p:1")
    assert "secret-password-1234" not in str(refused.value)
    monkeypatch.setattr("sys.platform", "darwin")
    assert chosen("auto") == "httpx"
    with pytest.raises(InputError, match="Linux only"):
        chosen("engine")
    monkeypatch.setattr("tbench.replay.sender.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'httpx\[http2\]'"):
        chosen("auto", http2=True)


@pytest.mark.parametrize(
    ("error", "answered", "outcome"),
    [
        (httpx.ConnectError("x"), False, Outcome.CONNECT_ERROR),
        (httpx.ConnectTimeout("x"), False, Outcome.TIMEOUT),
        (httpx.ReadError("x"), False, Outcome.RESET),
        (httpx.ReadError("x"), True, Outcome.CUT),
        (httpx.WriteError("x"), False, Outcome.RESET),
        (httpx.LocalProtocolError("x"), False, Outcome.PROTOCOL_ERROR),
        (httpx.DecodingError("x"), True, Outcome.PROTOCOL_ERROR),
        (ssl.SSLError("x"), False, Outcome.CONNECT_ERROR),
    ],
)
def test_every_exception_of_the_transport_is_an_outcome(
    error: Exception, answered: bool, outcome: Outcome
) -> None:
    """The table, row by row."""
    found = failure(error, answered=answered)

    assert found and found[0] is outcome


def test_other_exceptions_are_not_outcomes() -> None:
    """A defect stays a defect."""
    assert failure(ZeroDivisionError(), answered=False) is None
