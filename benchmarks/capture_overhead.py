"""What `tbench capture` adds: per chunk, to the first token, and how much one process carries.

    make benchmarks/truthserver
    python benchmarks/capture_overhead.py benchmarks/truthserver

The server stamps each event with CLOCK_REALTIME just before its write ("t" in the event); the client, a
selector loop on raw sockets, stamps each read. Direct and captured rounds alternate within one run, so that
the comparison does not depend on the hour; `--realtime` puts all three processes under SCHED_FIFO (root),
which takes a shared machine's other work out of the figures. Prints one JSON object.
"""

import argparse
import itertools
import json
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tbench.capture.trace_reader import read_trace

STAMP = re.compile(rb'"t": ?"?(\d{19})')
END = b"0\r\n\r\n"
PROSE = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text()
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Case:
    """Streams at once, how often each, how long; delays in ms. `gap_s` spreads the first connections.

    Each asks with `prompt` bytes of text, which differ from request to request.
    """

    streams: int
    rounds: int
    tokens: int
    ttft_ms: float
    itl_ms: float
    gap_s: float = 0.005
    prompt: int = 0

    def request(self) -> bytes:
        fields = {"model": "m", "stream": True, "max_tokens": self.tokens, "messages": []}
        if self.prompt:
            start = next(NUMBERS) * 37 % len(PROSE)
            text = (PROSE[start:] + PROSE)[: self.prompt]
            fields["messages"] = [{"role": "user", "content": text}]
        body = json.dumps(fields).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer sk-benchmark-0123456789\r\nx-sim-ttft-ms: {self.ttft_ms}\r\n"
            f"x-sim-itl-ms: {self.itl_ms}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass
class Times:
    """Seconds: from an event's write to its arrival, and from sending to the first arrival."""

    late: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    streams: int = 0
    took: float = 0.0
    full_rate: float = 0.0
    """Streams/s until the first connection had done its rounds."""


class Stream:
    """One keep-alive connection that asks again until its rounds are done."""

    def __init__(self, address: tuple[str, int], case: Case) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.case = case
        self.left = case.rounds
        self.ask()

    def ask(self) -> None:
        self.left -= 1
        self.tail, self.waiting, self.sent = b"", True, time.time_ns()
        self.sock.sendall(self.case.request())

    def read(self, times: Times) -> bool:
        """Take what has come; False once all rounds are done."""
        data = self.sock.recv(65536)
        now = time.time_ns()
        if not data:
            raise ConnectionError("the server closed a stream")
        stamps = STAMP.findall(data)
        if stamps and self.waiting:
            self.waiting = False
            times.first.append((now - self.sent) / 1e9)
        times.late.extend((now - int(stamp)) / 1e9 for stamp in stamps)
        self.tail = (self.tail + data)[-len(END) :]
        if self.tail != END:
            return True
        times.streams += 1
        if self.left > 0:
            self.ask()
            return True
        return False


def drive(url: str, case: Case) -> Times:
    """Run a case against a server."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    times, chooser = Times(), selectors.DefaultSelector()
    began = time.monotonic()
    due = [began + number * case.gap_s for number in range(case.streams)]
    while due or chooser.get_map():
        if due and time.monotonic() >= due[0]:
            due.pop(0)
            one = Stream(address, case)
            chooser.register(one.sock, selectors.EVENT_READ, one)
        for key, _ in chooser.select(max(0.0, due[0] - time.monotonic()) if due else 60):
            if not key.data.read(times):
                times.full_rate = times.full_rate or times.streams / (time.monotonic() - began)
                chooser.unregister(key.fileobj)
                key.data.sock.close()
    times.took = time.monotonic() - began
    return times


@contextmanager
def process(command: list[str], address: str) -> Iterator[tuple[str, int]]:
    """A server process while the block runs; yields its address and pid."""
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert child.stderr
    try:
        if address:
            wait_for(address)
        else:
            lines = iter(child.stderr)
            address = next(
                m[1] for line in lines if (m := re.search(r"listening on (http\S+?),", line))
            )
        threading.Thread(target=child.stderr.read, daemon=True).start()
        yield address, child.pid
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=60)


def wait_for(url: str) -> None:
    """Return once the server accepts connections."""
    parts = urlsplit(url)
    for _ in range(200):
        try:
            socket.create_connection((parts.hostname or "", parts.port or 80)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise ConnectionError(f"{url} never listened")


def realtime(pid: int) -> None:
    """Put a process and its threads under SCHED_FIFO."""
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(1))


def ms(samples: list[float]) -> dict[str, float]:
    """Quantiles in milliseconds."""
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    return {name: round(cuts[at] * 1e3, 3) for name, at in (("p10", 9), ("p50", 49), ("p99", 98))}


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def latency(direct: str, captured: str, rounds: int) -> dict[str, object]:
    """One stream, 25 events 10 ms apart, direct and captured in turn."""
    case = Case(streams=1, rounds=6, tokens=25, ttft_ms=20, itl_ms=10)
    times = {"direct": Times(), "captured": Times()}
    for _ in range(rounds):
        for name, url in (("direct", direct), ("captured", captured)):
            got = drive(url, case)
            times[name].late += got.late
            times[name].first += got.first[1:]  # the first pays for its connection
    shown: dict[str, object] = {
        name: {"chunk_ms": ms(one.late), "ttft_ms": ms(one.first)} for name, one in times.items()
    }
    added = {
        what: round(1e3 * (statistics.median(b) - statistics.median(a)), 3)
        for what, a, b in (
            ("chunk_ms_p50", times["direct"].late, times["captured"].late),
            ("ttft_ms_p50", times["direct"].first, times["captured"].first),
        )
    }
    return shown | {"added": added}


def load(direct: str, captured: str, pid: int, case: Case) -> dict[str, object]:
    """A case both ways: achieved rates, lateness, and the capture's CPU."""
    before = drive(direct, case)
    cpu = cpu_s(pid)
    after = drive(captured, case)
    return {
        "requests_per_s": {
            "direct": round(before.streams / before.took, 1),
            "captured": round(after.streams / after.took, 1),
            "ratio": round(after.streams / after.took / (before.streams / before.took), 3),
        },
        "tokens_per_s": round(len(after.late) / after.took, 1),
        "chunk_ms": {"direct": ms(before.late), "captured": ms(after.late)},
        "ttft_ms": {"direct": ms(before.first), "captured": ms(after.first)},
        "capture_cpu_share": round((cpu_s(pid) - cpu) / after.took, 3),
        "streams": after.streams,
    }


def flat_out(verb: list[str], folder: Path, processes: int, rounds: int) -> list[dict[str, float]]:
    """One-token streams as fast as they go, through one process and through several in turn.

    Their rate counts while all connections are busy: the kernel shares them out unevenly.
    """
    case, turns = Case(32, 60, 1, 0, 0), []
    for number in range(rounds):
        turn: dict[str, float] = {}
        for count in (1, processes):
            trace = folder / f"{number}-{count}.msgpack"
            command = [sys.executable, *verb, "--processes", str(count), "-o", str(trace)]
            with process(command, "") as (captured, _):
                drive(captured, Case(8, 10, 1, 0, 0))
                times = drive(captured, case)
            turn[f"{count}_requests_per_s"] = round(times.full_rate, 1)
            turn[f"{count}_lost"] = 8 * 10 + 32 * 60 - len(list(read_trace(trace)))
        turn["ratio"] = turn[f"{processes}_requests_per_s"] / turn["1_requests_per_s"]
        turns.append(turn)
    return turns


def main() -> None:
    """Run the cases and print what they gave."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("truthserver", help="the compiled ground-truth server")
    parser.add_argument("--port", type=int, default=18990)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--realtime", action="store_true", help="SCHED_FIFO for all three (root)")
    parser.add_argument(
        "--processes", type=int, help="only: flat out, by one process and by so many"
    )
    parser.add_argument("--privacy", default="full", help="what the capture writes (full, shape)")
    chosen = parser.parse_args()
    direct = f"http://127.0.0.1:{chosen.port}"
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "t.msgpack"
        verb = ["-m", "tbench", "capture", "--port", "0", "--upstream", direct]
        verb += ["--privacy", chosen.privacy]
        server = [chosen.truthserver, "--port", str(chosen.port)]
        with process(server, direct) as (_, server_pid):
            if chosen.processes:
                turns = flat_out(verb, Path(folder), chosen.processes, chosen.rounds)
                print(json.dumps(turns, indent=1))
                return
            with process([sys.executable, *verb, "-o", str(trace)], "") as (captured, pid):
                for one in (server_pid, pid, os.getpid()) if chosen.realtime else ():
                    realtime(one)
                found: dict[str, object] = {
                    "one_stream": latency(direct, captured, chosen.rounds),
                    "60_streams_50_tok_s": load(
                        direct, captured, pid, Case(60, 4, 100, 50, 20, gap_s=0.05)
                    ),
                    "200_requests_per_s_of_4_kB": load(
                        direct, captured, pid, Case(40, 25, 10, 100, 10, prompt=4_000)
                    ),
                    "one_token_flat_out": load(direct, captured, pid, Case(16, 100, 1, 0, 0)),
                }
            exchanges = list(read_trace(trace))
        found["recorded"] = len(exchanges)
        found["expected"] = chosen.rounds * 6 + 60 * 4 + 40 * 25 + 16 * 100
        found["whole"] = sum(bool(e.response and e.response.body) for e in exchanges)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
