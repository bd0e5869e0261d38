"""What a capture does on the wire that mitmproxy alone does not, and how it leaves the machine."""

import json
import os
import pty
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tbench.capture.exchange import Outcome
from tbench.capture.trace_info import trace_info
from tbench.capture.trace_reader import read_trace
from tbench.replay.plan import Plan
from tests.conftest import until
from tests.test_capture_end_to_end import WAIT, Capturing

WHOLE = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
    WHOLE
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"
MOVED = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n"
CHAT = "/v1/chat/completions"


class Scripted(socketserver.BaseRequestHandler):
    """Answers each request by the script that its model names."""

    def handle(self) -> None:
        with self.request.makefile("rb") as reader:
            while head := reader.readline():
                size, line = 0, b"?"
                while line.strip():
                    line = reader.readline()
                    name, _, value = line.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                model = json.loads(reader.read(size) or b"{}").get("model", "plain")
                if not self.play(head.split()[1].decode(), model):
                    return

    def play(self, path: str, model: str) -> bool:
        """Whether the connection goes on."""
        own = b"http://127.0.0.1:%d" % self.server.server_address[1]
        if model == "interim":
            self.send(CONTINUE + HINTS[:20], HINTS[20:], HINTS + HEAD + WHOLE)
        elif model == "moved" and path == CHAT:
            self.send(MOVED % (own + CHAT.encode() + b"/?a=1"))
        elif model == "elsewhere":
            self.send(MOVED % b"https://user:pw@other.example:8443/v1/chat/completions")
        elif model in ("close", "reset"):
            if model == "reset":
                linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        else:
            self.send(HEAD + WHOLE)
        return True

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.request.sendall(piece)
            time.sleep(0.02)  # so that each is a read of its own


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Scripted) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def capturing(tmp_path: Path, upstream: str) -> Iterator[Callable[..., Capturing]]:
    made: list[Capturing] = []

    def start(*arguments: object) -> Capturing:
        made.append(
            Capturing(tmp_path / f"t{len(made)}.msgpack", "--upstream", upstream, *arguments)
        )
        return made[-1]

    yield start
    for one in made:
        one.end()


def raw(port: int, model: str, version: bytes = b"1.1") -> bytes:
    """All that a bare client receives for one request."""
    body = json.dumps({"model": model}).encode()
    head = b"POST %s HTTP/%s\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as conn:
        conn.sendall(head % (CHAT.encode(), version, len(body)) + body)
        return b"".join(iter(lambda: conn.recv(65536), b""))


def test_interim_answers_are_passed_on_and_the_answer_follows(
    capturing: Callable[..., Capturing],
) -> None:
    """Wherever the network cuts them; the record is of the answer."""
    one = capturing()

    assert raw(one.port, "interim") == CONTINUE + HINTS + HINTS + HEAD + WHOLE
    exchange = one.of("interim")
    assert exchange.response
    assert (exchange.outcome, exchange.response.status) == (Outcome.OK, 200)
    assert exchange.response.body == WHOLE


def test_interim_answers_are_kept_from_an_old_client(capturing: Callable[..., Capturing]) -> None:
    """HTTP/1.0 knows none (RFC 9110, 15.2)."""
    assert raw(capturing().port, "interim", b"1.0") == HEAD + WHOLE


def test_an_sdk_is_answered_after_interim_answers(capturing: Callable[..., Capturing]) -> None:
    """It hung until its own timeout."""
    client = openai.OpenAI(
        base_url=capturing().url + "/v1", api_key="k", timeout=WAIT, max_retries=0
    )

    answer = client.chat.completions.create(model="interim", messages=[])

    assert answer.choices[0].message.content == "hi"


def test_a_redirect_to_the_upstream_itself_stays_within_the_capture(
    capturing: Callable[..., Capturing],
) -> None:
    """By whatever name the client knows the capture; what follows the redirect is recorded."""
    one = capturing()
    address = one.url.replace("127.0.0.1", "localhost") + CHAT
    with httpx.Client(follow_redirects=True, timeout=WAIT) as client:
        answer = client.post(address, json={"model": "moved"})
    code, said = one.stop()

    assert (answer.content, str(answer.url)) == (WHOLE, address + "/?a=1")
    exchanges = one.exchanges()
    assert [str(exchange.outcome) for exchange in exchanges] == ["http_error", "ok"]
    assert code == 0
    assert "redirected" not in said

    plan = Plan(trace=exchanges)
    assert [planned.exchange.request.path for planned in plan] == [CHAT + "/?a=***"]
    assert plan.skipped == {"redirect": 1}


def test_a_redirect_to_another_host_is_said(capturing: Callable[..., Capturing]) -> None:
    """Untouched, as where it leads is the server's affair; the summary warns, without a password."""
    one = capturing()
    for _ in range(2):
        answer = httpx.post(one.url + CHAT, json={"model": "elsewhere"}, timeout=WAIT)
        assert answer.headers["location"].startswith("https://user:pw@other.example:8443/")
    _, said = one.stop()

    assert "2 answers redirected clients to other.example:8443: what they send there" in said
    assert len(list(Plan(trace=one.exchanges()))) == 2, "what followed is not in the trace"
    assert "pw" not in said


@pytest.mark.parametrize("model", ["close", "reset"])
def test_a_server_that_closes_before_its_head_leaves_a_closed_connection(
    capturing: Callable[..., Capturing], model: str
) -> None:
    """As without the capture: an SDK raises its connection error, not that of a 502."""
    one = capturing()
    client = openai.OpenAI(base_url=one.url + "/v1", api_key="k", timeout=WAIT, max_retries=0)

    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model=model, messages=[])
    assert one.of(model).outcome is Outcome.RESET
    assert raw(one.port, "plain") == HEAD + WHOLE


def test_a_dropped_upload_is_shown_wherever_losses_are(capturing: Callable[..., Capturing]) -> None:
    """In the summary, and by `trace info`; the requests are not taken for one another."""
    one = capturing("--max-pending", 1)
    for letter in "ab":
        httpx.post(one.url + CHAT, json={"model": "m", "x": letter * (3 << 20)}, timeout=WAIT)
    until(lambda: "--max-pending" in one.said)
    _, said = one.stop()

    exchanges = one.exchanges()
    size = sum(exchange.request.body_bytes for exchange in exchanges)
    assert [(e.request.body, e.request.retry_of) for e in exchanges] == [(None, None)] * 2
    assert trace_info(read_trace(one.path))["dropped_bytes"] == size
    assert f"{size:,} bytes of bodies (noted as gaps in the trace)" in said


def test_a_client_that_half_closes_is_recorded_as_one_that_left(
    capturing: Callable[..., Capturing],
) -> None:
    """A limit of mitmproxy that docs/capture.md names: no answer comes back."""
    one = capturing()
    body = json.dumps({"model": "half"}).encode()
    with socket.create_connection(("127.0.0.1", one.port), timeout=WAIT) as conn:
        head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        conn.sendall(head % (CHAT.encode(), len(body)) + body)
        conn.shutdown(socket.SHUT_WR)
        assert conn.recv(65536) == b""
    assert one.of("half").outcome is Outcome.CLIENT_ABORT


# The end of a capture


def folder_of(one: Capturing) -> Path:
    return Path(one.bundle).parent


def test_no_private_key_is_on_the_disk(capturing: Callable[..., Capturing]) -> None:
    """Not even while the capture runs and signs with it; the folder goes with the capture."""
    one = capturing()
    folder = folder_of(one)
    client = httpx.Client(verify=False, timeout=WAIT)
    assert client.post(one.url.replace("http:", "https:") + CHAT, json={}).content == WHOLE

    assert [path for path in folder.iterdir() if b"PRIVATE" in path.read_bytes()] == []
    assert one.stop()[0] == 0
    assert not folder.exists()


def test_the_folder_of_the_ca_does_not_outlive_a_kill(upstream: str, tmp_path: Path) -> None:
    """Of the process, or of its whole group."""
    command = [sys.executable, "-m", "tbench", "capture", "--port", "0", "--upstream", upstream]
    with subprocess.Popen(
        [*command, "-o", tmp_path / "t.msgpack"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr
        found = next(filter(None, (re.search(r"CERT_FILE=(\S+)", line) for line in process.stderr)))
        folder = Path(found[1]).parent
        assert folder.exists()
        os.killpg(process.pid, signal.SIGKILL)
    until(lambda: not folder.exists())


def test_a_closed_terminal_ends_the_capture_as_a_signal_does(upstream: str, tmp_path: Path) -> None:
    """Its hang-up (SIGHUP), and nowhere left to write to: the trace is closed all the same."""
    path = tmp_path / "t.msgpack"
    ours, theirs = pty.openpty()
    start = [sys.executable, "-m", "tbench", "capture", "--port", "0", "--upstream", upstream]
    process = subprocess.Popen(
        [*start, "-o", path], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = b""
    while b"stop with Ctrl-C" not in said:
        said += os.read(ours, 65536)
    found = re.search(rb"listening on http://127\.0\.0\.1:(\d+)", said)
    assert found
    assert raw(int(found[1]), "plain") == HEAD + WHOLE
    os.close(ours)
    process.send_signal(signal.SIGHUP)

    assert process.wait(timeout=WAIT) == 0
    assert [str(exchange.outcome) for exchange in read_trace(path)] == ["ok"]


def test_a_name_that_is_taken_meanwhile_loses_nothing(
    capturing: Callable[..., Capturing], tmp_path: Path
) -> None:
    """The other's file stays, ours is whole beside it, and the last line says so."""
    one = capturing()
    raw(one.port, "plain")
    one.path.write_bytes(b"precious")
    code, said = one.stop()

    part = one.path.with_name(one.path.name + ".part")
    assert code == 4
    assert f"'tbench trace repair {part} -o NEW' keeps what is there" in one.said
    assert one.path.read_bytes() == b"precious"
    assert len(list(read_trace(part))) == 1
    assert "dropped: nothing" in said
