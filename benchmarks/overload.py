"""A capture beyond its means: what it adds to latencies, what it drops, and whether all of that is counted.

    make benchmarks/truthserver
    python benchmarks/overload.py benchmarks/truthserver [--turns 3] [--nonsense 10000]

The same streams go to the server and through a capture, in turns: with a sound disk, with one whose writes
take long, on a file system of 1 MB (root), and with ten times as many requests as a capture is said to
carry, offered at once. In an open loop as well, at a rate that is held whatever becomes of it, with ten
times as many bytes as the disk takes. Then connections that say nonsense, or nothing, and leave. Prints one
JSON object; ends with 1 where what was sent is not what was recorded and what was named as dropped, where a
capture does not serve afterwards, or where its memory grew by over 10 MB.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from capture_overhead import Case, Times, drive, ms, process
from engine import chat
from soak import Process

from tbench.capture.records import TraceHeader
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 70\r\n\r\n" + b"{" * 70
SLOW = """
import os, sys, time
from tbench.capture import container_writer

class Disk:
    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, fd, data):
        time.sleep(len(data) / {bytes_per_s} if len(data) > 1000 else 0)
        return os.write(fd, data)

container_writer.os = Disk()
from tbench.__main__ import main
main()
"""
"""A capture whose disk takes so many bytes a second: its thread waits, as in the kernel."""


def nonsense(dice: random.Random) -> bytes:
    """What scanners, broken clients and attackers send first."""
    garbled = bytearray(REQUEST)
    for _ in range(dice.randrange(1, 10)):
        garbled[dice.randrange(len(garbled))] = dice.randrange(256)
    return dice.choice(
        [
            b"",  # a port scan
            dice.randbytes(dice.randrange(1, 2000)),
            bytes(garbled),
            REQUEST[: dice.randrange(len(REQUEST))],
            b"\x16\x03\x01\x02\x00" + dice.randbytes(300),
            b"GET http://169.254.169.254/latest HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nhi",
            b"GET / HTTP/1.1\r\nx: " + b"y" * dice.randrange(100_000) + b"\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + dice.randbytes(100),
        ]
    )


@dataclass(frozen=True)
class Prompted(Case):
    """Streams of which each request has a prompt of so many bytes that no compression makes smaller."""

    prompt: int = 40_000

    def request(self) -> bytes:
        """The request, its prompt drawn anew."""
        head, _, body = super().request().partition(b"\r\n\r\n")
        fields = json.loads(body) | {
            "messages": [{"role": "user", "content": os.urandom(self.prompt // 2).hex()}]
        }
        text = json.dumps(fields).encode()
        return (
            re.sub(rb"content-length: \d+", b"content-length: %d" % len(text), head)
            + b"\r\n\r\n"
            + text
        )


@dataclass(frozen=True)
class Trouble:
    """A disk, and the streams that meet it. `bytes_per_s` of None is a sound one, `small` a full one."""

    case: Case
    bytes_per_s: float | None = None
    small: bool = False


PACED = Prompted(streams=20, rounds=3, tokens=50, ttft_ms=20, itl_ms=20, gap_s=0.05)
TROUBLES = {
    "sound disk": Trouble(PACED),
    "disk of 100 kB/s": Trouble(PACED, 1e5),
    "disk of 20 kB/s": Trouble(PACED, 2e4),
    "full disk": Trouble(PACED, small=True),
    "ten times the rate": Trouble(Prompted(64, 40, 1, 0, 0, gap_s=0.0, prompt=2000)),
    "ten times the rate, disk of 100 kB/s": Trouble(
        Prompted(64, 40, 1, 0, 0, gap_s=0.0, prompt=2000), 1e5
    ),
}


@contextmanager
def folder(*, small: bool) -> Iterator[Path]:
    """Where the trace goes; a file system of 1 MB where asked for."""
    with tempfile.TemporaryDirectory() as name:
        if small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", name], check=True)
        yield Path(name)
        if small:
            subprocess.run(["umount", "--lazy", name], check=True)


def counted(path: Path, said: str) -> dict[str, int]:
    """What can be read of a trace, and what the capture's last words name as lost."""
    part = path.with_name(path.name + ".part")
    numbers = re.search(r"DROPPED: ([\d,]+) request", said)
    return {
        "recorded": sum(1 for _ in read_trace(path if path.exists() else part)),
        "dropped": int(numbers[1].replace(",", "")) if numbers else 0,
    }


def trouble(direct: str, kind: Trouble, turns: int) -> dict[str, Any]:
    """The streams both ways, in turns; then what became of them."""
    times = {"direct": Times(), "captured": Times()}
    rates: dict[str, list[float]] = {"direct": [], "captured": []}
    with folder(small=kind.small) as place:
        words = [
            "capture",
            "--port",
            "0",
            "--upstream",
            direct,
            "-o",
            place / "t.msgpack",
            "--max-pending",
            1,
        ]
        code = None if kind.bytes_per_s is None else SLOW.format(bytes_per_s=kind.bytes_per_s)
        capture = Process(*words, code=code)
        captured = capture.address()
        drive(captured, Case(4, 2, 1, 0, 0))
        for _ in range(turns):
            for name, url in (("direct", direct), ("captured", captured)):
                got = drive(url, kind.case)
                times[name].late += got.late
                times[name].first += got.first
                times[name].streams += got.streams
                rates[name].append(round(got.streams / got.took, 1))
        capture.child.send_signal(signal.SIGINT)
        said, _ = capture.child.communicate(timeout=120)
        counts = counted(place / "t.msgpack", said)
    sent = times["captured"].streams + 8
    added = {
        what: {p: round(ms(captured_s)[p] - ms(direct_s)[p], 2) for p in ("p50", "p99")}
        for what, direct_s, captured_s in (
            ("chunk_ms", times["direct"].late, times["captured"].late),
            ("ttft_ms", times["direct"].first, times["captured"].first),
        )
    }
    return {
        "requests_per_s": rates, "added": added, "sent": sent, **counts,
        "uncounted": sent - counts["recorded"] - counts["dropped"], "exit": capture.child.returncode,
    }  # fmt: skip


def open_loop(direct: str, rate: float, seconds: float, turns: int) -> dict[str, Any]:
    """Replays at this rate, direct and through a capture in turns; its disk takes a tenth of their bytes."""
    body = 4000
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        words = ("capture", "--port", "0", "--upstream", direct, "--max-pending", 1)
        slow = SLOW.format(bytes_per_s=rate * body / 10)
        capture = Process(*words, "-o", place / "t.msgpack", code=slow)
        captured = capture.address()
        drive(captured, Case(4, 2, 1, 0, 0))
        write(place / "load.msgpack", round(rate * seconds), prompt=body)
        runs: dict[str, list[dict[str, Any]]] = {"direct": [], "captured": []}
        for turn in range(turns):
            for which, url in (("direct", direct), ("captured", captured)):
                replay = Process(
                    *("replay", place / "load.msgpack", "--base-url", url, "--constant", rate),
                    *("--warmup", "none", "--json", "-o", place / f"{which}.{turn}.run"),
                )
                said, _ = replay.child.communicate(timeout=60 + 20 * seconds)
                runs[which].append(json.loads(said))
        capture.child.send_signal(signal.SIGINT)
        said, _ = capture.child.communicate(timeout=120)
        counts = counted(place / "t.msgpack", said)
    sent = 8 + sum(run["planned"] - run["never_sent"] for run in runs["captured"])
    at = {
        which: {
            p: round(1e3 * float(np.median([run["ttft_s"][p] for run in each])), 2)
            for p in ("p50", "p99")
        }
        for which, each in runs.items()
    }
    return {
        "rate": rate, "ttft_ms": at, "failed": sum(run["failed"] for run in runs["captured"]),
        "valid": [run["valid"] for run in runs["captured"]], "sent": sent, **counts,
        "uncounted": sent - counts["recorded"] - counts["dropped"], "exit": capture.child.returncode,
    }  # fmt: skip


def write(path: Path, n: int, *, prompt: int) -> None:
    """A trace of so many streamed chats, each with a prompt of so many bytes, which do not compress."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(n):
            messages = [{"role": "user", "content": os.urandom(prompt // 2).hex()}]
            fields = {"model": "m", "messages": messages, "stream": True, "max_tokens": 1}
            writer.exchange(chat(seq, fields, seq * 10**6))


def under_nonsense(direct: str, many: int) -> dict[str, Any]:
    """So many connections that say nonsense, as many that say nothing; memory and descriptors meanwhile."""
    dice = random.Random(7)
    with tempfile.TemporaryDirectory() as name:
        capture = Process(
            "capture", "--port", "0", "--upstream", direct, "-o", Path(name) / "t.msgpack"
        )
        captured = capture.address()
        address = ("127.0.0.1", int(captured.rpartition(":")[2]))
        began = time.monotonic()
        for number in range(2 * many):
            if number % (many // 5) == 0:
                capture.note()
            client = socket.create_connection(address, timeout=60)
            with client, contextlib.suppress(OSError):
                client.settimeout(0.002)
                if number < many:
                    client.sendall(nonsense(dice))
                    client.recv(1000)
        took = time.monotonic() - began
        served = drive(captured, Case(4, 2, 1, 0, 0)).streams
        capture.note()
        capture.child.send_signal(signal.SIGINT)
        capture.child.communicate(timeout=120)
    return {
        "nonsense": many, "scans": many, "seconds": round(took, 1), "served_afterwards": served,
        "memory_mb": [round(mb, 1) for mb in capture.memory_mb], "descriptors": capture.descriptors,
        "exit": capture.child.returncode,
    }  # fmt: skip


def main() -> int:
    """Run them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("truthserver", help="the compiled ground-truth server")
    parser.add_argument("--port", type=int, default=18992)
    parser.add_argument("--turns", type=int, default=3, help="of each way")
    parser.add_argument(
        "--nonsense", type=int, default=10_000, help="connections; as many say nothing"
    )
    parser.add_argument("--rate", type=float, default=200, help="requests/s of the open loop")
    parser.add_argument("--only", action="append", choices=[*TROUBLES, "open loop", "nonsense"])
    chosen = parser.parse_args()
    direct = f"http://127.0.0.1:{chosen.port}"
    result: dict[str, Any] = {}
    with process([chosen.truthserver, "--port", str(chosen.port)], direct):
        for name, kind in TROUBLES.items():
            if chosen.only and name not in chosen.only:
                continue
            if kind.small and os.geteuid():
                print(f"{name}: left out, only root mounts file systems", file=sys.stderr)
                continue
            result[name] = trouble(direct, kind, chosen.turns)
        if not chosen.only or "open loop" in chosen.only:
            result["open loop"] = open_loop(direct, chosen.rate, 10, chosen.turns)
        if not chosen.only or "nonsense" in chosen.only:
            result["nonsense"] = under_nonsense(direct, chosen.nonsense)
    print(json.dumps(result, indent=1))
    lost = any(case.get("uncounted") for case in result.values())
    flood = result.get("nonsense", {"served_afterwards": 8, "memory_mb": [0, 0]})
    grown = flood["memory_mb"][-1] - flood["memory_mb"][1] > 10
    return int(lost or grown or flood["served_afterwards"] != 8)


if __name__ == "__main__":
    sys.exit(main())
