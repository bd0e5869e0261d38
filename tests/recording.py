"""A server that keeps what it is sent, with the kernel's stamps; it shares no code with tbench."""

import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

SO_TIMESTAMPNS = 35
ANSWER = b'{"choices":[{"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'
Ending = Literal["keeps", "closes", "hangs up"]
"""After an answer: the connection stays, is closed as was announced, or is closed unannounced."""


@dataclass(frozen=True)
class Arrival:
    """A request: when its first bytes came (CLOCK_REALTIME, ns), and on which connection."""

    at_ns: int
    connection: int
    line: str
    headers: dict[str, str]
    digest: str


@dataclass
class _Connection:
    number: int
    data: bytearray = field(default_factory=bytearray)
    began_ns: int = 0


class RecordingServer:
    """`url` is its address, `arrivals` are all requests in the order of their stamps."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._arrivals: list[Arrival] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # and what it accepts
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stopped = threading.Event()
        self._connections = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def arrivals(self) -> list[Arrival]:
        return sorted(self._arrivals, key=lambda arrival: arrival.at_ns)

    def run(self) -> None:
        while not self._stopped.is_set():
            for key, _ in self._selector.select(0.05):
                peer = key.fileobj
                assert isinstance(peer, socket.socket)
                if peer is self._listener:
                    accepted, _ = peer.accept()
                    self._connections += 1
                    self._selector.register(
                        accepted, selectors.EVENT_READ, _Connection(self._connections)
                    )
                elif not self._read(peer, key.data):
                    self._selector.unregister(peer)
                    peer.close()
        for key in list(self._selector.get_map().values()):
            peer = key.fileobj
            assert isinstance(peer, socket.socket)
            peer.close()
        self._selector.close()

    def stop(self) -> None:
        self._stopped.set()

    def _read(self, peer: socket.socket, connection: _Connection) -> bool:
        """Take what has come, answer what is whole; whether the connection stays."""
        try:
            data, ancillary, *_ = peer.recvmsg(1 << 20, 64)
        except ConnectionResetError:
            return False
        if not data:
            return False
        if not connection.data:
            ((_, _, stamp),) = ancillary
            seconds, ns = struct.unpack("qq", stamp)
            connection.began_ns = seconds * 10**9 + ns
        connection.data += data
        head, mark, body = bytes(connection.data).partition(b"\r\n\r\n")
        if not mark:
            return True
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = dict(text.lower().split(": ", 1) for text in fields)
        if len(body) < int(headers["content-length"]):
            return True
        assert len(body) == int(headers["content-length"]), "a request beyond the end of another"
        self._arrivals.append(
            Arrival(connection.began_ns, connection.number, line, headers, sha256(body).hexdigest())
        )
        connection.data.clear()
        announced = b"connection: close\r\n" if self._ending == "closes" else b""
        peer.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
            % (announced, len(ANSWER), ANSWER)
        )
        return self._ending == "keeps"


@contextmanager
def recording_server(ending: Ending = "keeps") -> Iterator[RecordingServer]:
    """A server while the block runs."""
    server = RecordingServer(ending)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
