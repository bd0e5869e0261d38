"""How exactly a replay keeps its pacing, by what the server saw.

    make benchmarks/truthserver
    python benchmarks/pacing_accuracy.py benchmarks/truthserver [--requests 300] [--rate 25] [--concurrency 8]

The server is any that answers chat completions, logs arrivals as CSV at GET /_truth (columns id, arr_mono,
end_mono, in ns) and takes --port, --ttft-ms and --itl-ms. Prints for `--speed 2`: the server's arrivals
against recorded/2, both from their first. For `--concurrency N`: the most in flight at the server, and its
time-weighted mean from the first arrival to the last.
"""

import argparse
import csv
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tbench.capture.exchange import Exchange, Request, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter

TTFT_MS, ITL_MS, TOKENS = 60, 10, 20


def write_trace(path: Path, requests: int, rate: float) -> dict[str, float]:
    """A trace with exponential gaps; returns each request's recorded offset, seconds, by its id."""
    rng = random.Random(7)
    offsets: dict[str, float] = {}
    at = 0.0
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(requests):
            payload = {
                "model": "m",
                "messages": [{"role": "user", "content": f"request {seq}"}],
                "stream": True,
                "max_tokens": TOKENS,
            }
            body = json.dumps(payload).encode()
            arrive = round(at * 1e9)
            request = Request(
                id=f"{seq:032x}",
                seq=seq,
                arrive_ns=arrive,
                end_ns=arrive,
                method="POST",
                scheme="http",
                host="recorded",
                path="/v1/chat/completions",
                headers=(("content-type", "application/json"),),
                body=body,
                body_bytes=len(body),
            )
            response = Response(head_ns=arrive, end_ns=arrive + 250_000_000, status=200)
            writer.exchange(Exchange(request=request, response=response))
            offsets[request.id] = arrive / 1e9
            at += rng.expovariate(rate)
    return offsets


@contextmanager
def serving(binary: str) -> Iterator[str]:
    """The server on a free port; gives its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [binary, "--port", str(port), "--ttft-ms", str(TTFT_MS), "--itl-ms", str(ITL_MS)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def truth(url: str) -> list[dict[str, str]]:
    """What the server saw, one row per request."""
    with urllib.request.urlopen(f"{url}/_truth", timeout=30) as answer:
        rows = csv.DictReader(answer.read().decode().splitlines())
        return [row for row in rows if row["kind"] == "c"]


def replay(trace: Path, url: str, out: Path, *flags: str) -> int:
    """Run `tbench replay`; returns its exit code."""
    command = [
        sys.executable,
        "-m",
        "tbench",
        "replay",
        str(trace),
        "--base-url",
        url,
        "-o",
        str(out),
    ]
    done = subprocess.run([*command, *flags, "--json"], stdout=subprocess.DEVNULL, check=False)
    return done.returncode


def arrival_errors(
    rows: list[dict[str, str]], offsets: dict[str, float], speed: float
) -> np.ndarray:
    """Seconds by which each arrival was off its scaled recorded time, both from the first request's."""
    arrived = {row["id"]: int(row["arr_mono"]) / 1e9 for row in rows}
    first = arrived[f"{0:032x}"]
    return np.array([arrived[id_] - first - at / speed for id_, at in offsets.items()])


def occupancy(rows: list[dict[str, str]]) -> tuple[int, float]:
    """The most in flight at the server, and the time-weighted mean from first to last arrival."""
    begin = np.array([int(row["arr_mono"]) for row in rows])
    end = np.array([int(row["end_mono"]) for row in rows])
    times = np.concatenate([end, begin])
    steps = np.concatenate([np.full(len(end), -1), np.full(len(begin), 1)])
    order = np.argsort(times, kind="stable")
    levels, moments = np.cumsum(steps[order]), times[order]
    lasting = np.diff(np.minimum(moments, begin.max()))
    return int(levels.max()), float((levels[:-1] * lasting).sum() / (begin.max() - begin.min()))


def main() -> None:
    """Measure both pacings and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server", help="the truth server's binary")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument(
        "--rate", type=float, default=25.0, help="of the recorded trace, per second"
    )
    parser.add_argument("--speed", type=float, default=2.0)
    parser.add_argument("--concurrency", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.msgpack"
        offsets = write_trace(trace, args.requests, args.rate)
        with serving(args.server) as url:
            code = replay(trace, url, Path(folder) / "speed.run", "--speed", str(args.speed))
            off = np.sort(np.abs(arrival_errors(truth(url), offsets, args.speed))) * 1e3
            p50, p95, p99 = (off[int(np.ceil(p * len(off))) - 1] for p in (0.5, 0.95, 0.99))
            print(
                f"speed {args.speed:g}: {len(off)} arrivals, off by p50 {p50:.2f} ms, p95 {p95:.2f} ms, "
                f"p99 {p99:.2f} ms, max {off[-1]:.2f} ms (exit {code})"
            )
        with serving(args.server) as url:
            flags = ("--concurrency", str(args.concurrency))
            code = replay(trace, url, Path(folder) / "closed.run", *flags)
            most, mean = occupancy(truth(url))
            print(
                f"concurrency {args.concurrency}: at most {most} in flight at the server, "
                f"{mean:.3f} on average until the last arrival (exit {code})"
            )


if __name__ == "__main__":
    main()
