"""What was read late, against a server that knows when each piece came: `tbench replay` as a user runs it."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.capture.exchange import Exchange
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.runfile import read_run
from tests.conftest import PATIENCE_S
from tests.recorded import chat_request

TOKENS = 5
HEAD = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    "x-request-id: {}\r\n\r\n"
)
USAGE = {"prompt_tokens": 1, "completion_tokens": TOKENS}
KNOWN_S = 0.0012
"""A sample keeps an interval from a millisecond on."""


def event(word: str) -> bytes:
    """A token as a chunk."""
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
    data = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def ending() -> bytes:
    """What follows the last token."""
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    data = b"data: " + json.dumps({"choices": [choice], "usage": USAGE}).encode()
    data += b"\n\ndata: [DONE]\n\n"
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


PIECES = [*(event(f"{k}") for k in range(TOKENS)), ending()]


class Truth(threading.Thread):
    """Answers every request with TOKENS tokens and an end, the k-th `after[k]` seconds after it began.

    Requests begin when `together` of them are there. `writes` has, by the answer's id, when each piece was
    written: between two times of CLOCK_REALTIME, seconds. Before and behind a piece `around` is called.
    """

    def __init__(
        self,
        after: tuple[float, ...],
        together: int = 1,
        around: Callable[[int, bool], None] | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self._after, self._together, self._around = after, together, around
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._events = selectors.DefaultSelector()
        self._events.register(self._listening, selectors.EVENT_READ)
        self._waiting: list[socket.socket] = []
        self._due: list[tuple[float, int, list[tuple[socket.socket, str]]]] = []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.writes: dict[str, list[tuple[float, float]]] = {}
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        ends = time.monotonic() + 120
        while not self.over.is_set() and time.monotonic() < ends:
            left = self._due[0][0] - time.monotonic() if self._due else 0.05
            for key, _ in self._events.select(max(0.0, min(left, 0.05))):
                self._read(key.fileobj)
            while self._due and self._due[0][0] <= time.monotonic():
                self._write(*self._due.pop(0)[1:])
        for key in list(self._events.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._events.close()

    def _read(self, sock: Any) -> None:
        if sock is self._listening:
            made, _ = sock.accept()
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._events.register(made, selectors.EVENT_READ)
        elif data := sock.recv(65536):
            if data.endswith(b"}"):  # the end of a body
                self._waiting.append(sock)
            if len(self._waiting) == self._together:
                self._begin()
        else:
            self._events.unregister(sock)
            sock.close()

    def _begin(self) -> None:
        batch = []
        for sock in self._waiting:
            batch.append((sock, f"{len(self.writes)}"))
            self.writes[batch[-1][1]] = []
        self._waiting = []
        now = time.monotonic()
        self._due += [(now + after, k, batch) for k, after in enumerate(self._after)]
        self._due.sort(key=lambda due: due[0])

    def _write(self, k: int, batch: list[tuple[socket.socket, str]]) -> None:
        if self._around:
            self._around(k, False)
        for sock, name in batch:
            data = HEAD.format(name).encode() + PIECES[k] if k == 0 else PIECES[k]
            before = time.time()
            with suppress(ConnectionError):
                sock.sendall(data)
            self.writes[name].append((before, time.time()))
        if self._around:
            self._around(k, True)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """One request, to be repeated."""
    payload = {"model": "m", "messages": [{"role": "user", "content": "a"}], "stream": True}
    body = json.dumps(payload).encode()
    with TraceWriter(
        tmp_path / "t.msgpack", TraceHeader(wall_ns=0, mono_ns=0, upstream=None)
    ) as writer:
        request = chat_request(0, 0, body)
        writer.exchange(Exchange(request=request, response=None))
    return tmp_path / "t.msgpack"


class Replay:
    """`tbench replay` under way, so many requests of which so many are in flight."""

    def __init__(self, trace: Path, url: str, sender: str, requests: int, in_flight: int) -> None:
        self.path = trace.with_name("a.run")
        options = [
            "--base-url",
            url,
            "--sender",
            sender,
            "--workers",
            1,
            "--warmup",
            "none",
            "--json",
        ]
        options += ["--loop", requests, "--concurrency", in_flight, "-o", self.path]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tbench", "replay", str(trace), *map(str, options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TOGETHER_API_KEY": "k"},
        )  # fmt: skip

    @property
    def worker(self) -> int:
        """The process that sends."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        (pid,) = {pid for path in tasks.glob("*/children") for pid in path.read_text().split()}
        return int(pid)

    def ended(self) -> tuple[int, dict[str, Any]]:
        """Its exit code, and what it printed."""
        out, err = self._process.communicate(timeout=PATIENCE_S)
        assert out, err
        return self._process.returncode, json.loads(out)


def stop(pid: int) -> None:
    """Stop a process, and wait until it stands."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


STAMPS = {"first_token": 0, "first_answer": 0, "last_token": -2, "end": -1}
"""Each with the piece that decides it."""


def outside(path: Path, writes: dict[str, list[tuple[float, float]]]) -> dict[str, int]:
    """How many of a run's stamps are wrong, each with what it says of its own uncertainty."""
    columns = read_run(path).columns
    truth = [writes[name] for name in map(str, columns["request_id"])]
    wall = columns["sent_wall_ns"] / 1e9 - columns["sent"]
    wrong = {}
    for stamp, place in STAMPS.items():
        before, after = np.array([times[place] for times in truth]).T
        late = columns[stamp] + wall
        early = np.fmin(columns[f"{stamp}_after"] + wall, late) - KNOWN_S
        wrong[stamp] = int(((late + 0.0002 < before) | (early > after)).sum())
    return wrong


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("sender", ["engine", "httpx"])
@pytest.mark.parametrize(("held", "metric"), [((0, 3), "ttft"), ((4, 5), "e2e")])
def test_a_sender_that_was_stopped_knows_it(
    trace: Path, sender: str, held: tuple[int, int], metric: str
) -> None:
    """While pieces of 12 streams came: each stamp's interval holds the server's, and the run is INVALID.

    Stopped from before the first token to behind the fourth, or before the last one to behind the end.
    """
    running: list[Replay] = []

    def around(k: int, written: bool) -> None:
        if (k, written) == (held[0], False):
            stop(running[0].worker)
        elif (k, written) == (held[1], True):
            time.sleep(0.1)
            os.kill(running[0].worker, signal.SIGCONT)

    server = Truth((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), together=12, around=around)
    running.append(Replay(trace, server.url, sender, 12, 12))
    code, numbers = running[0].ended()
    server.over.set()

    assert outside(running[0].path, server.writes) == dict.fromkeys(STAMPS, 0)
    assert (code, numbers["valid"]) == (4, False)
    late = f"read answers late: the p50 {metric} lies", "could not keep up: its event loop"
    assert any(words in numbers["invalid_because"] for words in late[: 1 + (sender == "httpx")])


@pytest.fixture
def busy() -> Iterator[None]:
    """A process for each core that takes it for 20 ms at a time; one that never slept starved the client."""
    loop = """
import time
end = time.monotonic() + 60
while (now := time.monotonic()) < end:
    while time.monotonic() < now + 0.02: pass
    time.sleep(0.005)
"""
    processes = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(os.cpu_count() or 1)]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("sender", ["engine", "httpx"])
def test_streams_in_lockstep_are_stamped_truly(trace: Path, sender: str) -> None:
    """200 streams that begin and end together, tokens 2 ms apart: a stamp is true, or says since when.

    Beside others the sender loses its core, and its interpreter to the thread that writes its answers. The
    server may, too: that only makes the two times between which it wrote lie further apart.
    """
    server = Truth((0.005, 0.007, 0.009, 0.011, 0.013, 0.013))
    running = Replay(trace, server.url, sender, 600, 200)
    code, numbers = running.ended()
    server.over.set()

    assert code in {0, 4}, numbers
    assert numbers["completed"] == 600
    assert outside(running.path, server.writes) == dict.fromkeys(STAMPS, 0)
