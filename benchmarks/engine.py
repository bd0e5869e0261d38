"""The senders against a server that knows the truth: a real trace replayed, its run file held against it.

    make benchmarks/truthserver
    python benchmarks/engine.py benchmarks/truthserver [--senders engine,httpx] [--cases a,b,c] [--share 1.0]

The server is any that answers chat completions as streams, takes --port, --ttft-ms, --itl-ms and --tokens,
and gives GET /_truth (CSV with `id`, the x-request-id, and `first_real`, CLOCK_REALTIME in ns before its
first write). It has core 0, `tbench replay` core 1. Cases: a, 64 in flight and one token; b, 200 streams of
50 tokens at 20 ms; c, an open loop of 1,000 requests/s. Everything counts: reading the trace, parsing the
answers, writing the run. TTFT error is our stamp of the first token less the server's of its first write.
"""

import argparse
import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capture.exchange import Exchange, Request, Response
from capture.tracefile import TraceHeader, TraceWriter
from replay.runfile import read_run


@dataclass(frozen=True, kw_only=True)
class Case:
    """A load: what the server does, and what the replay is told. `ideal` is in requests/s."""

    name: str
    server: tuple[str, ...]
    pacing: tuple[str, ...]
    requests: dict[str, int]
    tokens: int = 1
    ideal: float | None = None


STREAM_S = 0.100 + 49 * 0.020
CASES = {
    "a": Case(
        name="64 in flight, 1 token",
        server=("--ttft-ms", "0", "--itl-ms", "0", "--tokens", "1"),
        pacing=("--concurrency", "64"),
        requests={"engine": 30_000, "httpx": 5_000},
    ),
    "b": Case(
        name="200 streams x 50 tokens at 20 ms",
        server=("--ttft-ms", "100", "--itl-ms", "20", "--tokens", "50"),
        pacing=("--concurrency", "200"),
        requests={"engine": 2000, "httpx": 2000},
        tokens=50,
        ideal=200 / STREAM_S,
    ),
    "c": Case(
        name="open loop, 1,000 requests/s, 1 token",
        server=("--ttft-ms", "0", "--itl-ms", "0", "--tokens", "1"),
        pacing=("--constant", "1000"),
        requests={"engine": 10_000, "httpx": 10_000},
        ideal=1000.0,
    ),
}


def main() -> None:
    """Run every case with every sender and print a row for each."""
    options = _options()
    print(f"load average before: {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases.split(","):
            for sender in options.senders.split(","):
                figures = measure(CASES[name], sender, options, Path(folder))
                print(json.dumps({"case": name, "sender": sender, **figures}), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("server", help="the server's binary")
    parser.add_argument("--senders", default="engine,httpx")
    parser.add_argument("--cases", default="a,b,c")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of each case")
    return parser.parse_args()


def measure(case: Case, sender: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Replay one case; what `replay --json`, the run file and the server say about it."""
    count = max(64, round(case.requests[sender] * options.share))
    trace, out = folder / f"{count}-{case.tokens}.msgpack", folder / "out.run"
    if not trace.exists():
        write_trace(trace, count, case.tokens)
    out.unlink(missing_ok=True)
    with serving(options.server, case.server) as url:
        said, cpu_s = replayed(trace, url, out, (*case.pacing, "--sender", sender))
        truth = read_truth(url)
    return figures(case, said, cpu_s, out, truth)


def replayed(
    trace: Path, url: str, out: Path, flags: tuple[str, ...]
) -> tuple[dict[str, Any], float]:
    """Run `tbench replay` on core 1; its JSON and its CPU seconds, start and end included."""
    command = ["taskset", "-c", "1", sys.executable, "-m", "tbench", "replay", str(trace)]
    command += ["--base-url", url, "--warmup", "none", "--json", "-o", str(out), *flags]
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = os.times()
    if not done.stdout:
        sys.exit(done.stderr)
    used = after.children_user + after.children_system
    return json.loads(done.stdout), used - before.children_user - before.children_system


def figures(
    case: Case, said: dict[str, Any], cpu_s: float, out: Path, truth: dict[str, int]
) -> dict[str, Any]:
    """One row."""
    run = read_run(out)
    mine = zip(run.columns["id"], run.columns["first_wall_ns"], strict=True)
    errors = [(ours - truth[key]) / 1e3 for key, ours in mine if ours > 0 and key in truth]
    return {
        "requests": said["completed"],
        "failed": said["failed"],
        "requests_per_s": round(said["requests_per_s"], 1),
        "of_ideal": case.ideal and round(said["requests_per_s"] / case.ideal, 4),
        "cpu_us_per_request": round(cpu_s / max(1, said["completed"]) * 1e6),
        "ttft_error_us": _quantiles(errors),
        "lag_us": {k: v and round(v * 1e6) for k, v in said["lag_s"].items() if k in SHOWN},
        "clock": said["clock"],
        "coalesced_share": run.totals.get("coalesced_share"),
        "loop_stall_ms": {k: round(v * 1e3, 2) for k, v in run.totals["loop_stall_s"].items()},
        "valid": said["valid"],
    }


SHOWN = ("p50", "p99", "max")


def _quantiles(errors: list[float]) -> dict[str, float]:
    if not errors:
        return {}
    found = np.quantile(errors, (0.0, 0.5, 0.99, 1.0))
    return dict(zip(("min", *SHOWN), (round(float(one), 1) for one in found), strict=True))


def write_trace(path: Path, requests: int, tokens: int) -> None:
    """A trace of that many streamed chat completions, 1 ms apart."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(requests):
            writer.exchange(_exchange(seq, tokens))


def _exchange(seq: int, tokens: int) -> Exchange:
    messages = [{"role": "user", "content": f"request {seq}: " + "word " * 40}]
    payload = {"model": "m", "messages": messages, "stream": True, "max_tokens": tokens}
    body = json.dumps(payload).encode()
    arrive = seq * 10**6
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
    return Exchange(request=request, response=Response(head_ns=arrive, end_ns=arrive, status=200))


@contextmanager
def serving(binary: str, flags: tuple[str, ...]) -> Iterator[str]:
    """The server on core 0 and a free port; gives its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["taskset", "-c", "0", binary, "--port", str(port), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def read_truth(url: str) -> dict[str, int]:
    """When the server began to answer each request, CLOCK_REALTIME ns."""
    with urllib.request.urlopen(f"{url}/_truth", timeout=60) as answer:
        rows = csv.DictReader(answer.read().decode().splitlines())
        return {row["id"]: int(row["first_real"]) for row in rows if row["first_real"]}


if __name__ == "__main__":
    main()
