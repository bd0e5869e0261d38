"""A large trace: how long until its first request is at the server, and how much memory the replay takes.

    python benchmarks/big_trace.py [--gb 5] [--folder DIR]

The trace (chats with random text, so that compression does not make it small) is written first and removed
at the end. The first request's arrival is the server's own kernel stamp, the start is just before exec.
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
BODY = 256 * 1024
SECONDS = 12.0


def main() -> None:
    """Write, replay for some seconds, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(HERE / "truthserver"))
    parser.add_argument("--gb", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, help="where there is room for it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        trace = folder / "big.msgpack"
        write(trace, round(options.gb * 2**30))
        with serving(options.server, ("--tokens", "1"), folder, tls=False) as (url, _):
            print(json.dumps({"trace_gb": trace.stat().st_size / 2**30, **replay(trace, url)}))


def write(path: Path, size: int) -> None:
    """A trace of about that many bytes."""
    source = random.Random(0)
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(size // BODY):
            text = base64.b64encode(source.randbytes(BODY * 3 // 4)).decode()
            messages = [{"role": "user", "content": text}]
            fields = {"model": "m", "messages": messages, "stream": True}
            writer.exchange(chat(seq, fields, seq * 10**7))


def replay(trace: Path, url: str) -> dict[str, float]:
    """Replay the beginning at its own pace."""
    command = ["taskset", "-c", "1", sys.executable, "-m", "tbench", "replay", str(trace)]
    command += ["--base-url", url, "--duration", str(SECONDS), "-o", str(trace.parent / "o.run")]
    began = time.time_ns()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    memory = Memory(process.pid)
    _, said = process.communicate()
    memory.stop()
    if process.returncode:
        sys.exit(said.decode())
    with urllib.request.urlopen(f"{url}/_truth", timeout=60) as answer:
        rows = list(csv.DictReader(answer.read().decode().splitlines()))
    arrivals = [int(row["arr_kern"]) for row in rows if row["kind"] == "c"]
    return {
        "requests": len(arrivals),
        "first_request_s": (min(arrivals) - began) / 1e9,
        "peak_rss_mb": memory.peak / 2**20,
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
