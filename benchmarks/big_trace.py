"""A large trace: how long until its first request is at the server, and how much memory each command takes.

    python benchmarks/big_trace.py [--gb 5] [--kib 256] [--turns 1] [--speed 1] [--seconds 12] [--folder DIR]

The trace (chats with random text, so that compression does not make it small) is DIR/big.msgpack, written
where there is none; without DIR it is removed at the end. The first request's arrival is the server's own
kernel stamp, the start is just before exec. With `--kib 24 --turns 10` it has 218,000 requests in
conversations, more than a plan looks back, and `--speed 50 --seconds 300` sends as many as the sender takes.
"""

import argparse
import base64
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from engine import Memory, chat, serving

from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter

HERE = Path(__file__).parent
BESIDE = 100
"""Conversations that are open at a time."""


def main() -> None:
    """Write, replay for some seconds, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(HERE / "truthserver"))
    parser.add_argument("--gb", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, help="where there is room for it")
    parser.add_argument("--kib", type=int, default=256, help="mean size of a request")
    parser.add_argument("--turns", type=int, default=1, help="of each conversation")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        trace, out = folder / "big.msgpack", Path(name) / "o.run"
        if not trace.exists():
            write(trace, round(options.gb * 2**20 / options.kib), options.kib * 1024, options.turns)
        print(json.dumps({"trace_gb": trace.stat().st_size / 2**30}))
        run = ["--duration", str(options.seconds), "--speed", str(options.speed)]
        with serving(options.server, ("--tokens", "1"), Path(name), tls=False) as (url, _):
            to = ["replay", str(trace), "--base-url", url]
            for arguments in (
                ["trace", "info", str(trace)],
                [*to, "--dry-run"],
                [*to, *run, "-o", str(out)],
            ):
                print(json.dumps({"command": arguments[:2], **took(arguments, url)}), flush=True)


def write(path: Path, requests: int, size: int, turns: int) -> None:
    """A trace of so many requests of that mean size, a hundred conversations at a time."""
    source = random.Random(0)
    said: dict[int, list[dict[str, str]]] = {}
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(requests):
            turn, place = seq // BESIDE % turns, seq % BESIDE
            messages = said[place] = said[place] if turn else []
            for role in ("assistant", "user") if turn else ("user",):
                text = base64.b64encode(source.randbytes(size // turns * 3 // 4)).decode()
                messages.append({"role": role, "content": text})
            fields = {"model": "m", "messages": messages, "stream": True}
            writer.exchange(chat(seq, fields, seq * 10**7, 10**7))


def took(arguments: list[str], url: str) -> dict[str, float]:
    """Time and memory of a command, and when its first request was at the server."""
    began = time.time_ns()
    process = subprocess.Popen(
        ["taskset", "-c", "1", sys.executable, "-m", "tbench", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    memory = Memory(process.pid)
    _, said = process.communicate()
    memory.stop()
    if process.returncode not in {
        0,
        4,
    }:  # this client is the limit: what it holds is measured all the same
        sys.exit(said.decode())
    with urllib.request.urlopen(f"{url}/_truth", timeout=60) as answer:
        rows = csv.DictReader(answer.read().decode().splitlines())
        arrivals = [int(row["arr_kern"]) for row in rows if row["kind"] == "c"]
    return {
        "wall_s": (time.time_ns() - began) / 1e9,
        "requests": len(arrivals),
        "first_request_s": (min(arrivals, default=began) - began) / 1e9,
        "peak_rss_mb": memory.peak / 2**20,
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
