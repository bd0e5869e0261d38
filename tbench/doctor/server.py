"""The doctor's server: a bare epoll loop that streams chat completions on time and keeps what it did.

    python -m tbench.doctor.server

It listens on 127.0.0.1, prints its port, and ends when its standard input does, or after `LIFE_S`. A request
says in its headers `x-sim-ttft-ms`, `x-sim-itl-ms` and `x-sim-tokens`; `GET /_truth` gives, by x-request-id,
CLOCK_REALTIME in ns just before the first write, how late its events were against its own schedule, and its
share of a core.
"""

import heapq
import json
import select
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tbench.capture.runtime import allow_descriptors

LIFE_S: Final = 120.0
NEAR_S: Final = 0.001
"""Closer than this to the next event it asks the clock instead of sleeping: epoll counts in milliseconds."""

HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _chunk(payload: object) -> bytes:
    event = b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return b"%x\r\n%b\r\n" % (len(event) + 2, event + b"\n\n")


def _choice(finish: str | None, **delta: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


# Made once: what is computed between two events is time that the next ones are late by.
TOKEN: Final = _chunk(_choice(None, content="word "))
DONE: Final = _chunk(b"[DONE]") + b"0\r\n\r\n"


@dataclass(slots=True, eq=False)
class Line:
    """A connection, and the answer that is under way on it."""

    sock: socket.socket
    data: bytes = b""
    id: str = ""
    tokens: int = 0
    sent: int = 0
    itl: float = 0.0
    due: float = 0.0


@dataclass(slots=True)
class Server:
    """Serves until told otherwise. `late` keeps how late each event was, seconds.

    `began` are the CPU and the clock at the first request, `ended` at the last event; `awake` is what was
    spent waiting awake by then. Seconds.
    """

    listener: socket.socket
    lines: dict[int, Line] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)
    # Due time, turn, connection. The turn makes every entry different: of two that
    # are due at once heapq would compare the connections next, which have no order.
    heap: list[tuple[float, int, Line]] = field(default_factory=list)
    turn: int = 0
    began: tuple[float, float] | None = None
    ended: tuple[float, float, float] = (0.0, 0.0, 0.0)
    awake: float = 0.0
    stepped: bool = False

    @property
    def share(self) -> float | None:
        """Of a core, from the first request to the last event; None before there were any."""
        if self.began is None or self.ended[1] <= self.began[1]:
            return None
        cpu = self.ended[0] - self.began[0] - self.ended[2]
        return max(0.0, cpu / (self.ended[1] - self.began[1]))

    def run(self, parent: int) -> None:
        """Until the file descriptor `parent` is closed, or the time is over."""
        epoll = select.epoll()
        epoll.register(self.listener.fileno(), select.EPOLLIN)
        epoll.register(parent, select.EPOLLIN | select.EPOLLHUP)
        ends = time.monotonic() + LIFE_S
        while (now := time.monotonic()) < ends:
            patience = 0.5
            if self.heap:
                left = self.heap[0][0] - now
                # Python rounds what epoll waits up to whole milliseconds, so that it may come back 1 ms
                # after it was asked to: it sleeps to before the event, and asks again and again from there.
                patience = left - NEAR_S if left > NEAR_S else 0.0
            ready = epoll.poll(patience, 256)
            for fd, _ in ready:
                if fd == parent:
                    return
                if fd == self.listener.fileno():
                    self._accept(epoll)
                elif fd in self.lines:
                    self._read(self.lines[fd])
            now_s = time.monotonic()
            # What `_read` has answered at once is work of this round, too.
            stepped, self.stepped = self.stepped, False
            while self.heap and self.heap[0][0] <= now_s:
                self._step(heapq.heappop(self.heap)[2])
                stepped = True
            if stepped:
                # At the last event, not when it is asked: from there on
                # this process waits for a client that writes its run.
                self.ended = (time.process_time(), time.monotonic(), self.awake)
            elif not ready and patience == 0.0:
                # A core that only asks the clock is no load: with it
                # every paced load would make this server look busy.
                self.awake += time.monotonic() - now

    def _accept(self, epoll: select.epoll) -> None:
        # All that wait, not one a round: a ramp's connections come at once, and each round costs a poll.
        with suppress(BlockingIOError):
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.lines[sock.fileno()] = Line(sock)
                epoll.register(sock.fileno(), select.EPOLLIN)

    def _read(self, line: Line) -> None:
        try:
            data = line.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            del self.lines[line.sock.fileno()]
            line.sock.close()
            return
        line.data += data
        # A request may come in pieces; what is incomplete is looked at again with the next one.
        head, end, body = line.data.partition(b"\r\n\r\n")
        if not end:
            return
        pairs = (field.partition(b": ") for field in head.split(b"\r\n")[1:])
        fields = {name.lower(): value for name, _, value in pairs}
        length = int(fields.get(b"content-length", b"0"))
        if len(body) >= length:
            line.data = body[length:]
            if head.startswith(b"GET"):
                self._tell(line.sock)
            else:
                self._answer(line, fields)

    def _tell(self, sock: socket.socket) -> None:
        known = {"first": self.first, "late": self.late, "share": self.share}
        body = json.dumps(known).encode()
        # The times of some ten thousand answers are more than a socket's buffer
        # holds, and nothing is under way any more that this could delay.
        sock.setblocking(True)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        sock.setblocking(False)

    def _answer(self, line: Line, fields: dict[bytes, bytes]) -> None:
        if self.began is None:
            self.began = (time.process_time(), time.monotonic())
        line.id = fields.get(b"x-request-id", b"").decode("latin-1")
        line.tokens = int(fields.get(b"x-sim-tokens", b"1"))
        line.itl = float(fields.get(b"x-sim-itl-ms", b"0")) / 1e3
        line.sent = 0
        line.due = time.monotonic() + float(fields.get(b"x-sim-ttft-ms", b"0")) / 1e3
        self.stepped = True
        self._step(line)

    def _step(self, line: Line) -> None:
        """Write every event that is due, and say when the next one is."""
        while line.sent < line.tokens and (now := time.monotonic()) >= line.due:
            self.late.append(now - line.due)
            line.sent += 1
            data = TOKEN
            if line.sent == line.tokens:
                usage = {"prompt_tokens": 1, "completion_tokens": line.tokens}
                usage["total_tokens"] = line.tokens + 1
                data += _chunk(_choice("stop")) + _chunk({"choices": [], "usage": usage}) + DONE
            if line.sent == 1:
                # Before the write: on loopback the client's kernel
                # may have stamped the packet before `send` returns.
                self.first[line.id] = time.time_ns()
                data = HEAD + data
            try:
                line.sock.send(data)
            except OSError:
                return
            # From when it was due, so that one late event does not move the rest of the stream.
            line.due += line.itl
        if line.sent < line.tokens:
            self.turn += 1
            heapq.heappush(self.heap, (line.due, self.turn, line))


def main() -> None:
    """Serve on a free port."""
    allow_descriptors()
    # A step of the ramp connects all its streams at once: with a short
    # queue the kernel drops some, which try again after a second.
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    Server(listener).run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
