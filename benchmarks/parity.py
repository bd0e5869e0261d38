"""The load that a server saw beside the one that was planned, by the server's own stamps.

    make benchmarks/truthserver
    python benchmarks/parity.py benchmarks/truthserver [--requests 2000] [--cases speed1,speed4,...]

The server is any that answers chat completions, logs arrivals as CSV at GET /_truth (columns id, body_bytes,
arr_kern in ns of CLOCK_REALTIME, arr_mono and end_mono in ns) and takes --port, --ttft-ms and --itl-ms. The
trace is bursty: its rate changes between 20 and 180 a second. Of each pacing a row: how many requests the
server saw of those planned, and how many with as many bytes; which share arrived within 1 and 10 ms of the
plan (both from the request that was earliest by it); the index of dispersion as recorded (at speed S of
windows S times as long, as many seconds of the replay), as planned and as seen; and how many came in another
order. Of a closed loop the most in flight at the server, and its time-weighted mean.
"""

import argparse
import csv
import os
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
from engine import chat

from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.fidelity import displaced, trace_speed
from tbench.replay.runfile import Run, read_run

TTFT_MS, ITL_MS, TOKENS = 60, 10, 20
RATES, STAY_S = (20.0, 180.0), 1.0
"""Requests a second in the two states of the trace, and how long each is held on average."""
OPEN = {
    "speed1": ("--speed", "1"),
    "speed4": ("--speed", "4"),
    "workers": ("--speed", "4", "--workers", "2"),
    "poisson": ("--poisson", "200"),
    "clones": ("--clones", "4"),
}
CLOSED = {
    "closed": ("--concurrency", "8"),
    "closed-workers": ("--concurrency", "8", "--workers", "2"),
}
WINDOWS_S = (0.1, 1.0)


def write_trace(path: Path, requests: int) -> np.ndarray:
    """A trace whose arrivals (given, in s) are a Poisson process of a rate that changes between two."""
    rng, arrivals = random.Random(7), []
    at, state, until = 0.0, 0, rng.expovariate(1 / STAY_S)
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(requests):
            messages = [{"role": "user", "content": f"request {seq}"}]
            fields = {"model": "m", "messages": messages, "stream": True, "max_tokens": TOKENS}
            writer.exchange(chat(seq, fields, round(at * 1e9), 250_000_000))
            arrivals.append(at)
            at += rng.expovariate(RATES[state])
            while at > until:  # what is left of the gap goes by at the new rate
                at = until + (at - until) * RATES[state] / RATES[1 - state]
                state, until = 1 - state, until + rng.expovariate(1 / STAY_S)
    return np.array(arrivals)


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


def replay(trace: Path, url: str, out: Path, *flags: str) -> Run:
    """Run `tbench replay`; returns its run."""
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
    subprocess.run([*command, *flags, "--json"], stdout=subprocess.DEVNULL, check=False)
    return read_run(out)


def dispersion(times: np.ndarray, window: float) -> float:
    """Variance over mean of the arrivals in whole windows from the first on."""
    times = np.sort(times) - times.min()
    counts = np.bincount((times / window).astype(int))[: int(times[-1] / window)]
    return float(counts.var() / counts.mean())


def open_row(name: str, run: Run, rows: list[dict[str, str]], recorded: np.ndarray) -> str:
    """The row of an open loop."""
    names = [
        f"{id_}.{cycle}" if cycle else id_
        for id_, cycle in zip(
            run.columns["id"].tolist(), run.columns["cycle"].tolist(), strict=True
        )
    ]
    seen = {row["id"]: row for row in rows}
    arrived = np.array([int(seen[id_]["arr_kern"]) for id_ in names])
    alike = sum(
        int(seen[id_]["body_bytes"]) == size
        for id_, size in zip(names, run.columns["request_bytes"].tolist(), strict=True)
    )
    due = run.columns["due"]
    late = (arrived - arrived.min()) / 1e9 - (due - due.min())
    late -= late.min()
    p50, p99 = np.quantile(late, (0.5, 0.99), method="inverted_cdf") * 1e6
    speed = trace_speed(run.header)
    bursts = []
    for window in WINDOWS_S:
        figures = [dispersion(due, window), dispersion(arrived / 1e9, window)]
        if speed:
            figures.insert(0, dispersion(recorded, window * speed))
        bursts.append(", ".join(f"{figure:.2f}" for figure in figures))
    order = displaced(arrived.tolist())
    return (
        f"| {name} | {len(rows):,} of {run.totals['planned']:,} | {alike:,} | {(late <= 0.001).mean():.2%} | "
        f"{(late <= 0.010).mean():.2%} | {p50:.0f}, {p99:,.0f} us | {' | '.join(bursts)} | {order} |"
    )


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
    """Measure each pacing and print a row of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server", help="the truth server's binary")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--cases", default=",".join({**OPEN, **CLOSED}))
    args = parser.parse_args()
    print(f"# load average before: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    print("| pacing | seen | bytes alike | within 1 ms | within 10 ms | late p50, p99 |", end="")
    print(
        " IDC 0.1 s: recorded, plan, seen | IDC 1 s | displaced |\n|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.msgpack"
        recorded = write_trace(trace, args.requests)
        for name in args.cases.split(","):
            flags = {**OPEN, **CLOSED}[name]
            with serving(args.server) as url:
                run, rows = replay(trace, url, Path(folder) / f"{name}.run", *flags), truth(url)
            if name in OPEN:
                print(open_row(" ".join(flags), run, rows, recorded))
            else:
                most, mean = occupancy(rows)
                print(
                    f"{' '.join(flags)}: at most {most} in flight at the server, {mean:.3f} on average"
                )


if __name__ == "__main__":
    main()
