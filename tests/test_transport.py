"""The engine as a transport of httpx: what a program sees of it, against a small server on trio."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trio

if sys.platform != "linux":
    pytest.skip("the engine runs on Linux", allow_module_level=True)

from tbench.replay.transport import EngineTransport
from tests.conftest import PATIENCE_S

Serve = Callable[[trio.SocketStream, bytes], Awaitable[None]]
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"


async def read_request(stream: trio.SocketStream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := await stream.receive_some()):
            return b""
        data += bytes(more)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", b"0")):
        body += bytes(await stream.receive_some())
    return head + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """A server that answers each request of a connection with `serve`."""

    async def one(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while seen := await read_request(stream):
                await serve(stream, seen)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, one, 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def client(**options: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=EngineTransport(), **options)  # type: ignore[arg-type]


async def echo(stream: trio.SocketStream, seen: bytes) -> None:
    body = seen.partition(b"\r\n\r\n")[2]
    head = b"HTTP/1.1 201 Made\r\nX-Two: a\r\nX-Two: b\r\ncontent-length: %d\r\n\r\n"
    await stream.send_all(head % len(body) + body)


def test_a_request_and_its_answer() -> None:
    """Method, query, JSON body and headers go out, status, headers and body come back."""
    seen: list[bytes] = []

    async def keep(stream: trio.SocketStream, request: bytes) -> None:
        seen.append(request)
        await echo(stream, request)

    async def main() -> httpx.Response:
        async with serving(keep) as url, client(base_url=url) as http:
            return await http.post("/v1/x?a=b", json={"k": "ä"}, headers={"x-mine": "1"})

    answer = trio.run(main)

    assert (answer.status_code, answer.json()) == (201, {"k": "ä"})
    assert answer.headers.get_list("x-two") == ["a", "b"]
    assert answer.http_version == "HTTP/1.1"
    assert seen[0].startswith(b"POST /v1/x?a=b HTTP/1.1\r\n")
    assert b"\r\nx-mine: 1\r\n" in seen[0].lower()


def test_a_body_that_is_streamed_is_sent_with_its_length() -> None:
    """It is read first: the engine sends requests whole."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one ", b"two ", b"three"):
            yield piece

    async def main() -> bytes:
        async with serving(echo) as url, client() as http:
            return (await http.post(url, content=pieces())).content

    assert trio.run(main) == b"one two three"


def test_an_answer_is_streamed_as_it_comes_with_the_kernels_stamps() -> None:
    """The head is there before the body, each piece when it was sent, each with its time."""

    async def main() -> tuple[list[bytes], list[float], float]:
        go = trio.Event()

        async def slowly(stream: trio.SocketStream, _: bytes) -> None:
            await stream.send_all(CHUNKED)
            for word in (b"a", b"b", b"c"):
                await go.wait()
                await stream.send_all(b"1\r\n" + word + b"\r\n")
                for _ in range(10):  # the client, on the same loop, reads however late the loop is
                    await trio.sleep(0.002)
            await stream.send_all(b"0\r\n\r\n")

        with trio.fail_after(PATIENCE_S):
            async with (
                serving(slowly) as url,
                client() as http,
                http.stream("GET", url) as answer,
            ):
                assert answer.status_code == 200
                go.set()
                words = [piece async for piece in answer.aiter_raw()]
                reply = answer.extensions["tbench"]
        return words, [at for at, _ in reply.chunks], reply.sent

    words, times, sent = trio.run(main)

    assert words == [b"a", b"b", b"c"]
    assert sent < times[0] < times[1] < times[2]
    assert times[1] - times[0] > 0.01


def test_many_at_once_and_connections_used_again() -> None:
    """Fifty requests, twice; each gets its own answer."""

    async def main() -> list[bytes]:
        async with serving(echo) as url, client() as http:
            found: dict[int, bytes] = {}

            async def ask(number: int) -> None:
                found[number] = (await http.post(url, content=b"%d" % number)).content

            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for number in range(50):
                        nursery.start_soon(ask, number)
            return [found[number] for number in range(50)]

    assert trio.run(main) == [b"%d" % number for number in range(50)]


def test_leaving_an_answer_closes_its_connection() -> None:
    """The server sees the client go: else this waits until its time is over."""
    gone = trio.Event()

    async def endless(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(CHUNKED + b"1\r\na\r\n")
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        gone.set()

    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            async with serving(endless) as url, client() as http:
                async with http.stream("GET", url) as answer:
                    async for _ in answer.aiter_raw():
                        break
                await gone.wait()

    trio.run(main)


async def _nothing(stream: trio.SocketStream, _: bytes) -> None:
    await stream.aclose()


async def _half(stream: trio.SocketStream, _: bytes) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
    await stream.aclose()


async def _garbage(stream: trio.SocketStream, _: bytes) -> None:
    await stream.send_all(b"SSH-2.0-x\r\n\r\n")


async def _silent(stream: trio.SocketStream, _: bytes) -> None:
    await trio.sleep(30)


@pytest.mark.parametrize(
    ("serve", "error"),
    [
        (_nothing, httpx.ReadError),
        (_half, httpx.RemoteProtocolError),
        (_garbage, httpx.RemoteProtocolError),
        (_silent, httpx.ReadTimeout),
    ],
)
def test_what_goes_wrong_is_one_of_httpxs_exceptions(serve: Serve, error: type[Exception]) -> None:
    """So that programs handle it as they do with httpx's own transport."""

    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            async with serving(serve) as url, client(timeout=httpx.Timeout(0.2)) as http:
                with pytest.raises(error):
                    await http.get(url)

    trio.run(main)


def test_nobody_listens_and_no_such_scheme() -> None:
    """A refused connection is a ConnectError."""

    async def main() -> None:
        async with client() as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("http://127.0.0.1:1")
            with pytest.raises(httpx.UnsupportedProtocol):
                await http.get("ftp://127.0.0.1:1")

    trio.run(main)


def test_outside_its_context_it_says_how_to_use_it() -> None:
    """A client that was not entered has no reader."""

    async def main() -> None:
        http = client()
        with pytest.raises(RuntimeError, match="async with"):
            await http.get("http://127.0.0.1:1")

    trio.run(main)
