"""Opening connections: the first to an origin finds an address that answers, the next go straight to it."""

import os
import socket
import ssl
from contextlib import suppress
from typing import Any, Final

import trio

from tbench.replay.engine.connection import Connection, Reader, Tls, TlsConnection
from tbench.replay.sender import Origin

KNOWN_S: Final = 5.0
"""How long an address that answered is used without asking again, as names may move."""
SO_TIMESTAMPNS: Final = 35
"""Linux: stamp received data. Python has no name for it."""


class Dialer:
    """Opens connections for a reader; `context` is for https, which there is not without it."""

    def __init__(self, reader: Reader, context: ssl.SSLContext | None) -> None:
        self._reader = reader
        self._context = context
        if context is not None:
            context.set_alpn_protocols(["http/1.1"])
        self._known: dict[Origin, tuple[float, socket.AddressFamily, Any]] = {}

    async def dial(self, origin: Origin) -> Connection:
        """A new connection. Raises OSError (also for TLS that fails) when there is none to be had."""
        context = None if origin.scheme == "http" else self._trusted()
        sock = await self._connected(origin)
        try:
            if context is None:
                return Connection(sock, self._reader)
            tls = Tls(context, origin.host)
            await _shake_hands(sock, tls)
            return TlsConnection(sock, self._reader, tls)
        except BaseException:
            sock.close()
            raise

    def _trusted(self) -> ssl.SSLContext:
        if self._context is None:
            raise ValueError("https, which was not foreseen: no certificates were loaded")
        return self._context

    async def _connected(self, origin: Origin) -> socket.socket:
        now = trio.current_time()
        since, family, address = self._known.get(origin, (0.0, socket.AF_UNSPEC, None))
        if address is not None and now - since < KNOWN_S:
            return await _connect(family, address)
        stream = await trio.open_tcp_stream(origin.host, origin.port)
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        stamped(sock)
        self._known[origin] = (now, sock.family, sock.getpeername())
        return sock


def stamped(sock: socket.socket) -> None:
    """Have the kernel stamp what the socket receives, where it can."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


async def _connect(family: socket.AddressFamily, address: Any) -> socket.socket:  # noqa: ANN401 (by family)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stamped(sock)
        with suppress(BlockingIOError):
            sock.connect(address)
        await trio.lowlevel.wait_writable(sock)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(sock: socket.socket, tls: Tls) -> None:
    """The TLS handshake. Raises ssl.SSLError when a side does not like the other."""
    while True:
        try:
            tls.session.do_handshake()
        except ssl.SSLWantReadError:
            await _flush(sock, tls)
            await _fill(sock, tls)
        except ssl.SSLError:
            with suppress(OSError):
                sock.send(tls.outgoing.read())  # the alert that says why
            raise
        else:
            await _flush(sock, tls)
            return


async def _flush(sock: socket.socket, tls: Tls) -> None:
    left = tls.outgoing.read()
    while left:
        try:
            left = left[sock.send(left) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


async def _fill(sock: socket.socket, tls: Tls) -> None:
    await trio.lowlevel.wait_readable(sock)
    try:
        data = sock.recv(65536)
    except BlockingIOError:
        return
    if not data:
        raise ConnectionResetError("the server closed the connection during the TLS handshake")
    tls.incoming.write(data)
