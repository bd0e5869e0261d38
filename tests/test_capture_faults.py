"""A capture under fire: what reaches its port must neither stop it nor fill it, nor hold up its clients."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from overload import nonsense

from tbench import replay
from tbench.capture.container_reader import open_container
from tbench.capture.exchange import Outcome
from tbench.capture.frames import BLOCK
from tbench.capture.trace_reader import read_trace
from tests.conftest import until
from tests.test_capture_end_to_end import CHAT, WAIT, Capturing, Upstream, post, refuses
from tests.test_late_reads import stop
from tests.test_replay_end_to_end import chat, write_trace

REQUEST = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 70\r\n\r\n" % CHAT.encode() + b"{" * 70


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """A server that answers everything with one sound object."""
    body = b'{"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}'
    server = Upstream(lambda wire: (wire.read_body(), wire.reply(200, body))[-1])
    yield server
    server.close()


@pytest.fixture
def capturing(tmp_path: Path) -> Iterator[Callable[..., Capturing]]:
    """A capture of one's own, with options."""
    started: list[Capturing] = []

    def start(*arguments: object, **options: str) -> Capturing:
        started.append(Capturing(tmp_path / "t.msgpack", *arguments, **options))
        return started[-1]

    yield start
    for capture in started:
        capture.end()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_nonsense_and_scans_leave_it_serving(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """300 connections that say anything: closed again, few words about them, the next request served."""
    capture = capturing("--upstream", upstream.url)
    before, rng = descriptors(capture.process.pid), random.Random(7)
    for _ in range(300):
        client = socket.create_connection(("127.0.0.1", capture.port), timeout=WAIT)
        with client, contextlib.suppress(OSError):
            client.settimeout(0.005)
            client.sendall(nonsense(rng))
            client.recv(1000)

    assert post(capture.url, "m").status_code == 200
    until(lambda: descriptors(capture.process.pid) <= before + 5)
    assert capture.stop()[0] == 0
    assert "Traceback" not in capture.said
    assert capture.said.count("\n") < 30


def test_clients_that_dribble_hold_up_nobody(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """A hundred that never end their heads or bodies, and one that is served beside them."""
    capture = capturing("--upstream", upstream.url, "--grace", 0)
    slow = [socket.create_connection(("127.0.0.1", capture.port)) for _ in range(100)]
    for number, client in enumerate(slow):
        client.sendall(REQUEST[: 20 if number % 2 else -10])

    assert post(capture.url, "m").status_code == 200
    code, _ = capture.stop()
    for client in slow:
        client.close()
    assert code == 0


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from tbench.__main__ import run
sys.exit(run(sys.argv[1:]))
"""


def test_without_descriptors_it_waits_and_serves_again(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """More connections than the system allows it: said once, and over when they are."""
    capture = capturing("--upstream", upstream.url, code=LIMITED)
    crowd = [socket.socket() for _ in range(100)]
    for client in crowd:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", capture.port))
    until(lambda: "Too many open files" in capture.said)
    for client in crowd:
        client.close()

    assert post(capture.url, "m").status_code == 200
    assert capture.stop()[0] == 0
    assert capture.said.count("Too many open files") == 1


def test_a_capture_that_was_stopped_says_that_it_was_late(
    upstream: Upstream, capturing: Callable[..., Capturing]
) -> None:
    """SIGSTOP, as by a frozen container: nothing is lost, and the trace knows how late it was."""
    capture = capturing("--upstream", upstream.url)
    post(capture.url, "m")
    stop(capture.process.pid)
    time.sleep(0.4)
    os.kill(capture.process.pid, signal.SIGCONT)

    assert post(capture.url, "m").status_code == 200
    code, said = capture.stop()
    assert code == 0
    assert "2 requests, 2 responses (ok 2)" in said
    container = open_container(capture.path)
    lags = [
        record["loop_lag_max_ns"]
        for frame in container.walk()
        if frame.code == BLOCK
        for record in container.unpack(frame.raw)
        if record["type"] == "clock"
    ]
    assert max(lags) > 0.2e9


STUCK = """
import os, sys, time
from tbench.capture import container_writer

class Disk:  # os, whose writes wait while a file is there
    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, fd, data):
        while os.path.exists({file!r}):
            time.sleep(0.01)
        return os.write(fd, data)

container_writer.os = Disk()
from tbench.__main__ import main
main()
"""


def dropped(said: str) -> tuple[int, int]:
    """Requests and responses that a capture's last words name as lost."""
    numbers = re.search(r"DROPPED: ([\d,]+) requests?, ([\d,]+) responses?", said)
    assert numbers, said
    requests, responses = (int(number.replace(",", "")) for number in numbers.groups())
    return requests, responses


def test_what_a_stuck_disk_costs_is_counted_to_the_last_exchange(
    upstream: Upstream, capturing: Callable[..., Capturing], tmp_path: Path
) -> None:
    """Every request is answered while nothing can be written; recorded and dropped are what was sent."""
    stuck = tmp_path / "stuck"
    code = STUCK.format(file=str(stuck))
    capture = capturing("--upstream", upstream.url, "--max-pending", 1, code=code)
    noise = random.Random(1).randbytes(100_000).hex()
    stuck.touch()
    answers = [post(capture.url, "m", noise=noise).status_code for _ in range(20)]
    stuck.unlink()
    code, said = capture.stop()
    exchanges, gaps = list(read_trace(capture.path)), read_trace(capture.path).totals

    requests, responses = dropped(said)
    assert code == 4
    assert "not whole" in capture.said
    assert "raise --max-pending" in capture.said
    assert answers == [200] * 20
    assert requests > 0
    assert len(exchanges) + requests == 20
    assert sum(exchange.response is not None for exchange in exchanges) + responses == 20
    assert (gaps["dropped_requests"], gaps["dropped_responses"]) == (requests, responses)


@pytest.mark.parametrize("patience", ["recorder.FLUSH_S", "proxy.HURRIED_FLUSH_S"])
def test_a_disk_that_hangs_for_good_does_not_keep_the_capture(
    upstream: Upstream, capturing: Callable[..., Capturing], tmp_path: Path, patience: str
) -> None:
    """It ends by itself, or by a second signal, says so, and names as lost what the file does not have."""
    stuck = tmp_path / "stuck"
    code = f"from tbench.capture import proxy, recorder; {patience} = 0.3\n" + STUCK.format(
        file=str(stuck)
    )
    capture = capturing("--upstream", upstream.url, code=code)
    post(capture.url, "before")
    capture.of("before")
    stuck.touch()
    answers = [post(capture.url, "m").status_code for _ in range(5)]
    if "HURRIED" in patience:
        capture.process.send_signal(signal.SIGINT)
        until(refuses(capture.port))
    status, said = capture.stop()
    stuck.unlink()
    capture.end()

    exchanges = capture.exchanges()
    requests, responses = dropped(said)
    assert (status, answers) == (4, [200] * 5)
    assert "a write has not returned for 0.3 s" in capture.said
    assert len(exchanges) + requests == 6
    assert sum(exchange.response is not None for exchange in exchanges) + responses == 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a file system here: {error}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_what_a_full_file_system_costs_is_counted_to_the_last_exchange(
    upstream: Upstream, small_disk: Path
) -> None:
    """Every request is answered; what can be read of the file and what is named as lost are what was sent."""
    capture = Capturing(small_disk / "t.msgpack", "--upstream", upstream.url)
    rng = random.Random(1)
    answers = [
        post(capture.url, "m", noise=rng.randbytes(100_000).hex()).status_code for _ in range(20)
    ]
    code, said = capture.stop()
    capture.end()
    exchanges = capture.exchanges()

    requests, responses = dropped(said)
    assert code == 4
    assert answers == [200] * 20
    assert "RECORDING STOPPED" in capture.said
    assert 0 < len(exchanges) < 20
    assert len(exchanges) + requests == 20
    assert sum(exchange.response is not None for exchange in exchanges) + responses == 20


class Relay:
    """A link to a server that carries nothing from its `nth` request on until it is healed. It loses nothing.

    The kernels of most containers have no netem; this is what a network that parts looks like from its ends.
    """

    def __init__(self, url: str, nth: int) -> None:
        self.healed = threading.Event()
        self._far = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._left, self._lock = nth, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = self._listener.accept()[0], socket.create_connection(self._far)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    self._left -= data.startswith(b"POST ")
                if self._left <= 0:
                    self.healed.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.healed.set()
        self._listener.close()


def test_a_partition_is_timeouts_on_both_sides_and_over_when_it_heals(
    upstream: Upstream, capturing: Callable[..., Capturing], tmp_path: Path
) -> None:
    """A replay through a capture whose server is out of reach from the tenth request on."""
    relay = Relay(upstream.url, 10)
    capture = capturing("--upstream", relay.url)
    source = write_trace(tmp_path / "source.msgpack", [chat(number) for number in range(20)])
    run = replay(source, base_url=capture.url, out=tmp_path / "a.run", concurrency=10, timeout=4.0)
    counts = Counter(map(str, run.columns["outcome"]))

    def aborted() -> int:
        ended = [exchange.outcome for exchange in capture.exchanges() if exchange.response]
        return ended.count(Outcome.CLIENT_ABORT)

    until(lambda: counts["timeout"] <= aborted())
    relay.healed.set()
    assert post(capture.url, "m").status_code == 200
    code, said = capture.stop()
    relay.close()

    assert counts["ok"] >= 1
    assert counts["timeout"] >= 1
    assert run.totals["planned"] == 20 == counts.total() + run.totals["never_sent"]
    outcomes = [exchange.outcome for exchange in read_trace(capture.path)]
    assert outcomes.count(Outcome.OK) == counts["ok"] + 1
    assert aborted() == counts["timeout"]
    assert (code, "dropped: nothing" in said) == (0, True)
