"""What `tbench.CaptureTransport` adds to an application: CPU and time of a request, with and without it.

    make benchmarks/truthserver
    python benchmarks/transport_overhead.py benchmarks/truthserver [--rounds 5]

Streams of 1 and of 50 tokens, one after the other through one httpx client, in rounds that alternate, so
that the comparison does not depend on the hour. CPU is that of the process, with the thread that writes.
Prints one JSON object: medians over the rounds, us.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx
from engine import serving

from tbench import CaptureTransport
from tbench.capture.trace_reader import read_trace

REQUESTS = 50
"""Of a round."""


def main() -> None:
    """Measure each length, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("server")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures = {
        f"{tokens} tokens": measure(options.server, tokens, options.rounds) for tokens in (1, 50)
    }
    print(json.dumps(figures, indent=1))


def measure(server: str, tokens: int, rounds: int) -> dict[str, float]:
    """CPU and wall time of a request, direct and captured, and how many were recorded."""
    flags = ("--ttft-ms", "0", "--itl-ms", "1", "--tokens", str(tokens), "--force-tokens")
    cpu: dict[str, list[float]] = defaultdict(list)
    first: dict[str, list[float]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(server, flags, Path(folder), tls=False) as (url, _),
    ):
        trace = Path(folder) / "trace.msgpack"
        transport = CaptureTransport(trace)
        with httpx.Client() as direct, httpx.Client(transport=transport) as captured:
            for number in range(rounds + 1):
                for name, client in (("direct", direct), ("captured", captured)):
                    began = time.process_time()
                    waits = [ask(client, url) for _ in range(REQUESTS)]
                    if number:  # the first opens connections, and loads modules
                        cpu[name].append((time.process_time() - began) / REQUESTS)
                        first[name] += waits
        recorded = sum(1 for exchange in read_trace(trace) if exchange.response)
    medians = {f"{name} cpu": statistics.median(values) for name, values in cpu.items()}
    medians |= {f"{name} first byte": statistics.median(values) for name, values in first.items()}
    return {name: round(seconds * 1e6, 1) for name, seconds in medians.items()} | {
        "recorded": recorded
    }


def ask(client: httpx.Client, url: str) -> float:
    """One stream, read to its end; seconds to its first byte."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    began = time.perf_counter()
    with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        pieces = response.iter_raw()
        next(pieces)
        waited = time.perf_counter() - began
        for _ in pieces:
            pass
    return waited


if __name__ == "__main__":
    main()
