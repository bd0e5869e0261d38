"""Capture and replay for an hour at half of what a capture carries: nothing lost, nothing that grows.

    python benchmarks/soak.py [--minutes 60] [--rate 100] [--processes 1]

A replay sends a synthetic chat trace, Poisson at that rate, through `tbench capture` to `tbench serve`. Every
ten seconds it notes the memory and the descriptors of all three, and says them. Prints one JSON object; ends
with 1 where memory grows by more than 1 MB a minute after the first fifth, descriptors by more than 10, or
where a request is missing in the trace, was dropped or failed.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from engine import chat

from tbench.capture.records import TraceHeader
from tbench.capture.trace_info import trace_info
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter

SERVE = ["serve", "--port", "0", "--profile", "fast", "--any-model"]


class Process:
    """A tbench verb that runs (`code` in its place may run it otherwise), and what it took over time."""

    def __init__(self, *arguments: object, code: str | None = None) -> None:
        start = ["-m", "tbench"] if code is None else ["-c", code]
        command = [sys.executable, *start, *map(str, arguments)]
        self.child = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TOGETHER_API_KEY": "soak-0123456789abcdef"},
        )
        self.memory_mb: list[float] = []
        self.descriptors: list[int] = []

    def address(self) -> str:
        """Where it listens."""
        assert self.child.stderr
        lines = iter(self.child.stderr)
        address = next(m[0] for line in lines if (m := re.search(r"http://[\d.]+:\d+", line)))
        threading.Thread(target=self.child.stderr.read, daemon=True).start()
        return address

    def note(self) -> None:
        """Add up it and its children."""
        place = Path(f"/proc/{self.child.pid}")
        children = (place / f"task/{self.child.pid}/children").read_text().split()
        family = [place, *(Path(f"/proc/{child}") for child in children)]
        resident = re.compile(r"VmRSS:\s+(\d+)")
        sizes = [resident.search((path / "status").read_text()) for path in family]
        self.memory_mb.append(sum(int(size[1]) for size in sizes if size) / 1024)
        self.descriptors.append(sum(len(list((path / "fd").iterdir())) for path in family))

    def looked(self) -> str:
        """What it took at the last look."""
        return f"{self.memory_mb[-1]:.1f} MB {self.descriptors[-1]} descriptors"

    def growth(self, every_s: float) -> dict[str, float]:
        """After the first fifth: MB a minute by least squares, and how many more descriptors at the end."""
        settled = self.memory_mb[len(self.memory_mb) // 5 :]
        minutes = np.arange(len(settled)) * every_s / 60
        slope = float(np.polyfit(minutes, settled, 1)[0]) if len(settled) > 2 else 0.0
        files = self.descriptors[len(self.descriptors) // 5 :]
        return {
            "mb_first": round(settled[0], 1),
            "mb_last": round(settled[-1], 1),
            "mb_per_minute": round(slope, 3),
            "descriptors_more": max(files[-5:]) - max(files[:5]),
        }


def main() -> int:
    """Run it; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=100, help="requests/s")
    parser.add_argument("--processes", type=int, default=1, help="of the capture")
    parser.add_argument("--every", type=float, default=10, help="seconds between two looks")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Process(*SERVE)
        upstream = server.address()
        source, trace = folder / "load.msgpack", folder / "t.msgpack"
        capture = Process(
            *("capture", "--port", 0, "--upstream", upstream, "-o", trace),
            *("--processes", chosen.processes),
        )
        listening = capture.address()
        write(source)
        replay = Process(
            *(
                "replay",
                source,
                "--base-url",
                listening,
                "--poisson",
                chosen.rate,
            ),
            *("--loop", 10**6, "--duration", chosen.minutes * 60, "-o", folder / "r.run", "--json"),
        )
        began = time.monotonic()
        parts = {"serve": server, "capture": capture, "replay": replay}
        while replay.child.poll() is None:
            for part in parts.values():
                if part.child.poll() is None:
                    part.note()
            looks = (f"{name} {part.looked()}" for name, part in parts.items())
            print(f"{time.monotonic() - began:.0f} s", *looks, sep=" | ", file=sys.stderr)
            time.sleep(chosen.every)
        sent = json.loads(replay.child.communicate()[0])
        for part in (capture, server):
            part.child.send_signal(signal.SIGINT)
            part.child.wait(timeout=60)
        info = trace_info(read_trace(trace))
        result = {
            "minutes": chosen.minutes,
            "sent": sent["planned"] - sent["never_sent"],
            "failed": sent["failed"] + sent["lost_in_flight"],
            "errors": sent["errors"],
            "recorded": info["responses"],
            "dropped": info["dropped"],
            **{name: part.growth(chosen.every) for name, part in parts.items()},
        }
    print(json.dumps(result, indent=1))
    grown = any(
        part.growth(chosen.every)["mb_per_minute"] >= 1
        or part.growth(chosen.every)["descriptors_more"] > 10
        for part in parts.values()
    )
    return int(grown or bool(result["failed"]) or result["recorded"] != result["sent"])


def write(path: Path) -> None:
    """A trace of 500 chats to send, of which every other one streams."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(500):
            messages = [{"role": "user", "content": f"Chat {seq}: " + "word " * (seq % 300)}]
            fields = {"model": "m", "messages": messages, "stream": seq % 2 == 0, "max_tokens": 20}
            writer.exchange(chat(seq, fields, seq * 10**7))


if __name__ == "__main__":
    sys.exit(main())
