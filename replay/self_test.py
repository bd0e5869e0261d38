"""The rehearsal: one request to a socket of our own, so that the first real one finds everything loaded."""

from typing import Final

import trio

from tbench.replay.sender import Call, Origin, Sender, send

PATIENCE_S: Final = 1.0


async def rehearse(sender: Sender) -> None:
    """Send one request and read its answer. How it goes does not matter."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _answer, listeners)
        with trio.move_on_after(PATIENCE_S):
            await send(sender, _call(port))
        nursery.cancel_scope.cancel()


async def _answer(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    await stream.aclose()


def _call(port: int) -> Call:
    """A call that is in no plan."""
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 2\r\n\r\n" % port
    origin = Origin("http", "127.0.0.1", port)
    return Call(index=-1, due=None, origin=origin, head=head, body=b"{}")
