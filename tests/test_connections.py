"""Whole replays against servers that hold, drop or refuse connections: what they saw is what the run says."""

import errno
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tbench.capture.exchange import Exchange, Outcome
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.engine.connection import Connection, Reader
from tbench.replay.engine.sender import Pool
from tbench.replay.httpx_sender import Lane, Lanes
from tbench.replay.sender import BREAKS, MEMORY_S, TIDY_S, Reply, Reuse, unconnected
from tests.conftest import PATIENCE_S, Done
from tests.recorded import chat_request

BODY = b'{"model":"m","messages":[]}'
ANSWER = (
    b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
)


class Threads(HTTPServer):
    """A thread for each connection, of which there are so many; keep-alive until the client goes.

    With `fickle` every second request of a connection is read and not answered. `seen` counts them all.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, threads: int, takes_s: float, *, fickle: bool = False) -> None:
        outer = self
        self.seen = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = PATIENCE_S
            answered = 0

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                with outer._lock:
                    outer.seen += 1
                self.close_connection = fickle and self.answered > 0
                if self.close_connection:
                    return
                self.answered += 1
                time.sleep(takes_s)
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(ANSWER)))
                self.end_headers()
                self.wfile.write(ANSWER)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self._pool.submit(self._serve, request, client_address)

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass
        finally:
            self.shutdown_request(request)

    @contextmanager
    def serving(self) -> Iterator[str]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self.url
        finally:
            self.shutdown()
            thread.join()
            self._pool.shutdown(cancel_futures=True)
            self.server_close()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """24 requests, 50 ms apart."""
    path = tmp_path / "t.msgpack"
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0, upstream=None)) as writer:
        for seq in range(24):
            request = chat_request(seq, seq * 50000000, BODY)
            writer.exchange(Exchange(request=request, response=None))
    return path


PATIENT = """
from tbench.replay import sender
sender.IDLE_S = 3600.0
from tbench.__main__ import main
main()
"""


@pytest.mark.parametrize("sender", ["engine", "httpx"])
@pytest.mark.parametrize("threads", [1, 4, 8])
def test_an_open_loop_starves_no_server_with_few_threads(
    trace: Path, sender: str, threads: int
) -> None:
    """Every request is answered, though neither side ever gives up a connection for being idle."""
    server = Threads(threads, takes_s=0.02)
    with server.serving() as url:
        words = (
            "replay",
            trace,
            "--base-url",
            url,
            "--sender",
            sender,
            "--timeout",
            "60",
            "--json",
        )
        done = subprocess.run(
            [sys.executable, "-c", PATIENT, *map(str, words), "-o", trace.with_suffix(".run")],
            check=False, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
    numbers = json.loads(done.stdout)

    assert (numbers["planned"], numbers["completed"], numbers["errors"]) == (24, 24, {})
    assert server.seen == 24 + numbers["reconnected"]


@pytest.mark.parametrize("sender", ["engine", "httpx"])
def test_a_target_that_drops_kept_connections_is_named(
    tbench: Callable[..., Done], trace: Path, sender: str
) -> None:
    """The server counted what it read: the plan, and what the run says was sent twice."""
    server = Threads(8, takes_s=0.0, fickle=True)
    out = trace.with_suffix(".run")
    with server.serving() as url:
        words = ("replay", trace, "--base-url", url, "--sender", sender, "--concurrency", 1)
        done = tbench(*words, "-o", out)
    told = json.loads(tbench("report", out, "--json").out)
    line = "closes connections unannounced: 2 of 24 calls were sent twice"

    assert server.seen == 26
    assert (told["completed"], told["reconnected"]) == (24, 2)
    assert line in done.out
    assert line in " ".join(tbench("report", out).out.split())


@pytest.mark.parametrize("sender", ["engine", "httpx"])
def test_a_client_out_of_descriptors_is_invalid_and_says_how_many_it_has(
    trace: Path, sender: str
) -> None:
    """Not the server's fault, whatever succeeded: exit 4, the number and the cure."""
    with Threads(64, takes_s=3.0).serving() as url:
        words = ("replay", trace, "--base-url", url, "--sender", sender, "--timeout", "5")
        pace = ("--constant", 400, "--loop", 4, "-o", trace.with_suffix(".run"), "--json")
        command = [sys.executable, "-m", "tbench", *map(str, (*words, *pace))]
        done = subprocess.run(
            ["sh", "-c", 'ulimit -n 48; exec "$@"', "sh", *command],
            check=False, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
    numbers = json.loads(done.stdout)

    assert done.returncode == 4, done.stderr
    assert numbers["errors"]["client_limit"] > 0
    assert numbers["valid"] is False
    assert "the system allows 48 file descriptors" in done.stderr
    assert "ulimit -Hn" in done.stderr
    assert "server" not in done.stderr.partition("INVALID")[2]


OWN = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EADDRNOTAVAIL", "EACCES", "EPERM")


@pytest.mark.parametrize("name", OWN)
def test_what_this_machine_refuses_is_its_own_limit(name: str) -> None:
    """However many libraries passed it on."""
    cause = OSError(getattr(errno, name), "no")
    wrapped = OSError("all attempts to connect failed")
    wrapped.__cause__ = ExceptionGroup("each", [cause, cause])

    assert unconnected(cause, reached=True)[0] is Outcome.CLIENT_LIMIT
    assert unconnected(wrapped, reached=True)[0] is Outcome.CLIENT_LIMIT


THEIRS: dict[str, Exception] = {
    "refused": ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    "one address refused": ExceptionGroup(
        "each", [OSError(errno.EADDRNOTAVAIL, "no"), ConnectionRefusedError(errno.ECONNREFUSED, "")]
    ),
    "no such name": socket.gaierror(socket.EAI_NONAME, "unknown"),
    "tls": ssl.SSLError(1, "certificate"),  # an OSError whose errno is not the system's
    "no network of that kind": OSError(errno.EADDRNOTAVAIL, "never reached before"),
}


@pytest.mark.parametrize("error", THEIRS.values(), ids=THEIRS)
def test_what_the_other_side_refuses_is_no_limit_of_ours(error: Exception) -> None:
    """Also where one of several addresses could not be tried at all."""
    assert unconnected(error, reached=False)[0] is Outcome.CONNECT_ERROR


def test_a_server_that_rotates_its_connections_keeps_them() -> None:
    """One unannounced end in a hundred re-uses is no habit; one in five is."""
    rare, often = Reuse(), Reuse()
    for reuse, breaks in ((rare, 100), (often, 5)):
        for number in range(1, 1001):
            reply = Reply()
            reuse.began(reply, fresh=False)
            reuse.ended(reply)
            if number % breaks == 0:
                reuse.broke()

    assert rare.keeps
    assert not often.keeps


def test_what_a_server_did_a_minute_ago_does_not_decide_for_ever() -> None:
    """It broke its connections, and held eight, before it was restarted; now it keeps them, on one thread."""
    reuse = Reuse()
    reuse.pass_time(1000.0)
    replies = [Reply(status=200) for _ in range(8)]
    for reply in replies:
        reuse.began(reply, fresh=False)
        reuse.broke()
    assert reuse.surplus(0) == 0
    for reply in replies:
        reuse.ended(reply)
    reuse.began(Reply(), fresh=True)
    reuse.pass_time(1000.0 + MEMORY_S)

    assert not reuse.keeps
    assert reuse.surplus(1) == 0

    reuse.pass_time(1000.1 + MEMORY_S)

    assert reuse.keeps
    assert reuse.surplus(1) == 1


def test_a_new_habit_is_seen_however_long_the_old_one_was() -> None:
    """A million re-uses that went well are no reason to send a hundred thousand requests twice."""
    reuse = Reuse()
    reply = Reply(status=200)
    for _ in range(100_000):
        reuse.began(reply, fresh=False)
        reuse.ended(reply)
    reuse.pass_time(0.0)
    reuse.pass_time(1 + MEMORY_S)
    for _ in range(BREAKS):
        reuse.began(reply, fresh=False)
        reuse.ended(reply)
        reuse.broke()

    assert not reuse.keeps


def test_idle_connections_are_given_up_only_where_the_server_may_have_no_thread() -> None:
    """It held three at once: two idle ones and one in use hold up a fourth, one less does not."""
    reuse = Reuse()
    replies = [Reply() for _ in range(3)]
    for reply in replies:
        reuse.began(reply, fresh=True)
    for reply in replies:
        reply.status = 200
    assert reuse.surplus(0) == 0
    for reply in replies[1:]:
        reuse.ended(reply)
    reuse.began(Reply(), fresh=True)

    assert reuse.surplus(2) == 1
    assert reuse.surplus(1) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the engine runs on Linux")
def test_an_idle_connection_is_closed_for_a_request_that_waits_after_5_ms() -> None:
    """And for none but such a request, by either sender."""

    async def main() -> list[bool]:
        reader, pool, (ours, theirs) = Reader(), Pool(), socket.socketpair()
        ours.setblocking(False)
        connection = Connection(ours, reader)
        connection.served = 1
        pool.put(connection, 1.0)
        states = []
        for at, waits in ((1.0051, False), (1.0049, True), (1.0051, True)):
            if waits and not pool.reuse.waiting:
                pool.reuse.began(Reply(), fresh=True)
            pool.tidy(at)
            states.append(connection.open)
        reader.close()
        theirs.close()
        return states

    lanes, transport = Lanes(), SimpleNamespace()
    lanes.idle.append(Lane(transport, used=1.0))  # type: ignore[arg-type]
    assert not lanes.dismissed(1.0051)
    lanes.reuse.began(Reply(), fresh=True)
    assert not lanes.dismissed(1.0049)

    assert len(lanes.dismissed(1.0051)) == 1
    assert trio.run(main) == [True, True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="the engine runs on Linux")
def test_connections_opened_ahead_wait_for_their_calls_and_no_longer() -> None:
    """A first wave may take longer than the time after which an idle one is closed for others."""

    async def main() -> tuple[list[bool], list[bool]]:
        reader, pool = Reader(), Pool()
        pairs = [socket.socketpair() for _ in range(6)]
        for ours, _ in pairs:
            ours.setblocking(False)
            pool.put(Connection(ours, reader), 0.0)
        taken = []
        for at in (1.0, 1.0 + 0.8 * TIDY_S, 1.0 + 1.6 * TIDY_S):
            taken.append(pool.take(at) is not None)
            pool.reuse.began(Reply(), fresh=True)
            pool.tidy(at + 0.1 * TIDY_S)
        pool.tidy(1.0 + 3 * TIDY_S)
        left = [pool.take(2.0) is not None]
        reader.close()
        for _, theirs in pairs:
            theirs.close()
        return taken, left

    assert trio.run(main) == ([True, True, True], [False])
