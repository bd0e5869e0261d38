"""The rehearsal: one request to a socket of our own, so that the first real one finds everything loaded."""

from typing import Final

import httpx
import trio

from replay.sender import Call, Reply, Sender

PATIENCE_S: Final = 1.0


async def rehearse(sender: Sender) -> None:
    """Send one request and read its answer. How it goes does not matter."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _answer, listeners)
        request = httpx.Request("POST", f"http://127.0.0.1:{port}/", content=b"{}")
        with trio.move_on_after(PATIENCE_S):
            await sender.send(_call(request), Reply())
        nursery.cancel_scope.cancel()


async def _answer(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    await stream.aclose()


def _call(request: httpx.Request) -> Call:
    """A call that is in no plan."""
    return Call(
        due=None,
        id="",
        index=-1,
        cycle=0,
        offset=0.0,
        endpoint="other",
        model=None,
        stream=False,
        request=request,
    )
