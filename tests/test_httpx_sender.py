"""The httpx sender against servers that misbehave on purpose, on real sockets."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from capture.errors import InputError
from capture.exchange import Outcome
from replay.answers import to_sample
from replay.httpx_sender import HttpxSender, failure, tls
from replay.player import Attempt
from replay.sample import Sample
from replay.sender import Call, Deadlines, Reply

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON = (
    b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
)
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(JSON),
    JSON,
)

Serve = Callable[[trio.SocketStream | trio.SSLStream[trio.SocketStream]], Awaitable[None]]


def event(text: str, finish: str = "null") -> bytes:
    data = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":%s}]}\n\n'
    return chunk(data % (text.encode(), finish.encode()))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def read_request(stream: trio.abc.ReceiveStream) -> bytes:
    """One request with its body; empty when the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            return b""
        data += bytes(more)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(
        dict(line.lower().split(b": ") for line in head.split(b"\r\n")[1:])[b"content-length"]
    )
    while len(body) < length:
        body += bytes(await stream.receive_some())
    return head + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server on an ephemeral port; gives its base URL."""

    async def one(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await serve(trio.SSLStream(stream, context, server_side=True) if context else stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, one, 0)
        port = listeners[0].socket.getsockname()[1]
        yield f"{'https' if context else 'http'}://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


def call(base_url: str, *, stream: bool = True, body: bytes = b"{}") -> Call:
    return Call(
        due=None,
        id="x",
        index=0,
        cycle=0,
        offset=0.0,
        endpoint="chat",
        model="m",
        stream=stream,
        request=httpx.Request("POST", f"{base_url}/v1/chat/completions", content=body),
        request_bytes=len(body),
    )


def exchange(
    serve: Serve,
    *calls: dict[str, object],
    deadlines: Deadlines | None = None,
    **tls_options: ssl.SSLContext,
) -> list[Sample]:
    """Send one call after the other to a server of this behaviour; returns their samples."""

    async def main() -> list[Sample]:
        samples = []
        with trio.fail_after(20):
            async with serving(serve, tls_options.get("server")) as url:
                sender = HttpxSender(deadlines or Deadlines(), tls_options.get("client"))
                async with sender:
                    for options in calls or ({},):
                        reply = Reply()
                        made = call(url, **options)  # type: ignore[arg-type]
                        await sender.send(made, reply)
                        if reply.end is None:
                            reply.end = trio.current_time()
                        samples.append(to_sample(Attempt(call=made, held=0.0, reply=reply), 0.0))
        return samples

    return trio.run(main)


def test_a_stream_is_stamped_as_it_arrives() -> None:
    """Sent, first byte, first token, last token and end in order; usage and finish are read."""

    async def serve(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(HEAD)
        for word in ("a", "b", "c"):
            await trio.sleep(0.02)
            await stream.send_all(event(word))
        await stream.send_all(event("", '"stop"') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await stream.receive_some()

    (found,) = exchange(serve)
    stamps = [found.sent, found.first_byte, found.last_token, found.end]

    assert (found.outcome, found.status, found.finish_reason) == (Outcome.OK, 200, "stop")
    assert None not in stamps
    assert stamps == sorted(stamps)  # type: ignore[type-var]
    assert len(found.token_times) == 3
    assert found.sent_wall_ns and found.first_wall_ns and found.first_wall_ns > found.sent_wall_ns
    assert found.connect > 0
    assert not found.conn_reused


def test_the_request_goes_out_as_it_was_built() -> None:
    """Method, path, headers and body bytes, and nothing that httpx would add."""
    seen: list[bytes] = []

    async def serve(stream: trio.abc.Stream) -> None:
        seen.append(await read_request(stream))
        await stream.send_all(WHOLE)

    exchange(serve, {"stream": False, "body": b'{ "a" : 1 }'})
    head, _, body = seen[0].partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]

    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert names == [b"host", b"content-length"]
    assert body == b'{ "a" : 1 }'


def test_connections_are_used_again() -> None:
    """The second call needs no connection and says so."""

    async def serve(stream: trio.abc.Stream) -> None:
        while await read_request(stream):
            await stream.send_all(WHOLE)

    first, second = exchange(serve, {"stream": False}, {"stream": False})

    assert (first.outcome, second.outcome) == (Outcome.OK, Outcome.OK)
    assert (first.conn_reused, second.conn_reused) == (False, True)
    assert (first.connect > 0, second.connect) == (True, 0.0)
    assert (second.prompt_tokens, second.output_tokens) == (3, 1)


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    """What is known to be closed costs no failed request."""

    async def serve(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(WHOLE)
        await stream.aclose()

    found = exchange(serve, *[{"stream": False}] * 3)

    assert [one.outcome for one in found] == [Outcome.OK] * 3


async def _nothing(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.aclose()


async def _reset(stream: trio.SocketStream) -> None:
    await read_request(stream)
    stream.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of 0: close with a reset
    await stream.aclose()


async def _cut_stream(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(HEAD + event("a"))
    await stream.aclose()


async def _cut_body(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(WHOLE[:-20])
    await stream.aclose()


async def _unfinished(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(HEAD + event("a") + b"0\r\n\r\n")


async def _garbage(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(b"SSH-2.0-OpenSSH\r\n\r\n")


async def _bad_chunk(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(HEAD + event("a") + b"zz\r\n")
    await trio.sleep(0.1)


async def _refusal(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    body = b'{"error":{"message":"slow down"}}'
    head = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    await stream.send_all(head % len(body) + body)


async def _stream_error(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(
        HEAD + event("a") + chunk(b'data: {"error":{"message":"engine died"}}\n\n') + b"0\r\n\r\n"
    )


async def _redirect(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(
        b"HTTP/1.1 307 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    )


async def _html(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>"
    )


@pytest.mark.parametrize(
    ("serve", "outcome", "said"),
    [
        (_nothing, Outcome.RESET, "without sending a response"),
        (_reset, Outcome.RESET, "reset"),
        (_cut_stream, Outcome.CUT, "incomplete chunked read"),
        (_cut_body, Outcome.CUT, "complete message body"),
        (_unfinished, Outcome.CUT, "before its end"),
        (_garbage, Outcome.PROTOCOL_ERROR, "illegal status line"),
        (_bad_chunk, Outcome.PROTOCOL_ERROR, "illegal chunk header"),
        (_refusal, Outcome.HTTP_ERROR, "slow down"),
        (_stream_error, Outcome.STREAM_ERROR, "engine died"),
        (_redirect, Outcome.HTTP_ERROR, "redirect"),
        (_html, Outcome.PROTOCOL_ERROR, "html"),
    ],
)
def test_each_way_to_fail_has_its_outcome(serve: Serve, outcome: Outcome, said: str) -> None:
    """A word for the kind, a line for the reason."""
    (found,) = exchange(serve)

    assert found.outcome is outcome
    assert said in (found.error or "").lower()


def test_what_came_before_a_cut_is_kept() -> None:
    """The first token of a cut stream has its stamp."""
    (found,) = exchange(_cut_stream)

    assert found.first_token is not None
    assert len(found.token_times) == 1


async def _silent(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await trio.sleep(30)


async def _stalling(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(HEAD + event("a"))
    await trio.sleep(30)


async def _dripping(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(HEAD)
    while True:
        await stream.send_all(event("a"))
        await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("serve", "deadlines", "said"),
    [
        (_silent, Deadlines(first_byte=0.1), "first byte: nothing for 0.1 s"),
        (_stalling, Deadlines(between=0.1), "next byte: nothing for 0.1 s"),
        (_dripping, Deadlines(total=0.2), "total: not done after 0.2 s"),
        (_silent, Deadlines(total=0.1), "total: not done after 0.1 s"),
    ],
)
def test_each_deadline_says_which_it_was(serve: Serve, deadlines: Deadlines, said: str) -> None:
    """A timeout names the part that took too long; its connection is not used again."""
    (found,) = exchange(serve, deadlines=deadlines)

    assert found.outcome is Outcome.TIMEOUT
    assert said in (found.error or "")


def test_nobody_listens() -> None:
    """A refused connection is a connect error; nothing was sent."""

    async def main() -> Reply:
        reply = Reply()
        async with HttpxSender(Deadlines()) as sender:
            await sender.send(call("http://127.0.0.1:1"), reply)
        return reply

    reply = trio.run(main)

    assert reply.failure and reply.failure[0] is Outcome.CONNECT_ERROR
    assert "refused" in reply.failure[1].lower()
    assert reply.sent is None


def test_tls_is_verified() -> None:
    """An unknown authority is a connect error; one that was given is trusted."""
    ca = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)

    async def serve(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(WHOLE)

    (stranger,) = exchange(serve, {"stream": False}, server=server)
    (friend,) = exchange(serve, {"stream": False}, server=server, client=trusting)

    assert stranger.outcome is Outcome.CONNECT_ERROR
    assert "certificate" in (stranger.error or "").lower()
    assert friend.outcome is Outcome.OK


def test_a_file_of_authorities_is_added(tmp_path: Path) -> None:
    """--ca takes PEM; anything else is one line."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "no.pem").write_text("hello")

    assert any(
        "trustme" in str(cert["subject"]) for cert in tls(tmp_path / "ca.pem").get_ca_certs()
    )
    for name in ("no.pem", "absent.pem"):
        with pytest.raises(InputError, match="--ca"):
            tls(tmp_path / name)


def test_an_endless_answer_is_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded, and the sample says why."""
    monkeypatch.setattr("replay.httpx_sender.MOST_BYTES", 200_000)

    async def serve(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(HEAD)
        while True:
            await stream.send_all(chunk(b"x" * 50_000))

    (found,) = exchange(serve)

    assert found.outcome is Outcome.PROTOCOL_ERROR
    assert "not read on" in (found.error or "")


def test_cancelling_closes_the_connection_at_once() -> None:
    """The server sees the client go."""
    gone = trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        assert not await stream.receive_some()
        gone.set()

    async def main() -> None:
        with trio.fail_after(10):
            async with serving(serve) as url, HttpxSender(Deadlines()) as sender:
                with trio.move_on_after(0.1):
                    await sender.send(call(url), Reply())
                await gone.wait()

    trio.run(main)


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
