"""Write and read a large trace: throughput and the memory that each needs.

    python benchmarks/trace_memory.py [--megabytes 2000] [--folder DIR]

Makes a trace of that size on disk (bodies that compress no further), in a process of its own, and reads
it in others: with its index, and as the .part that a killed capture leaves. The trace has a request
that is never answered, one whose response comes at the very end, and 64 requests always in flight, so
that responses lie far from their requests. Prints one JSON object. The bar: read in under 200 MB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tbench.capture import Chunk, Request, Response, TraceHeader, TraceWriter, read_trace

BODY = 8_000
CHUNKS = 60
IN_FLIGHT = 64


def request(number: int, body: bytes) -> Request:
    """One upload of 8 kB, 5 ms after the last."""
    return Request(
        id=f"{number:032x}",
        seq=number,
        arrive_ns=number * 5_000_000,
        end_ns=number * 5_000_000 + 1_000_000,
        method="POST",
        scheme="https",
        host="api.together.xyz",
        path="/v1/chat/completions",
        headers=(("content-type", "application/json"), ("user-agent", "benchmark")),
        body=body,
        body_bytes=len(body),
    )


def response(number: int, body: bytes, end_ns: int) -> Response:
    """One stream of 60 chunks that ends now."""
    size = len(body) // CHUNKS
    chunks = tuple(Chunk(at_ns=end_ns - (CHUNKS - n) * 4_000_000, size=size) for n in range(CHUNKS))
    return Response(
        head_ns=chunks[0].at_ns - 1000,
        end_ns=end_ns,
        status=200,
        headers=(("content-type", "text/event-stream"), ("x-request-id", f"{number:x}")),
        body=body[: size * CHUNKS],
        body_bytes=size * CHUNKS,
        chunks=chunks,
    )


def write(path: Path, megabytes: int) -> dict[str, Any]:
    """Write until the file has that size."""
    random = Random(1)
    pool = random.randbytes(50_000_000)

    def body() -> bytes:
        at = random.randrange(len(pool) - BODY)
        return pool[at : at + BODY]

    writer = TraceWriter(path, TraceHeader(wall_ns=time.time_ns(), mono_ns=0))
    flying: deque[int] = deque()
    number = 0
    while writer.size < megabytes * 1_000_000:
        writer.request(request(number, body()))
        if number > 1:  # 0 is answered at the end, 1 never
            flying.append(number)
        if len(flying) > IN_FLIGHT:
            done = flying.popleft() if random.random() < 0.9 else flying.pop()
            writer.response(f"{done:032x}", response(done, body(), number * 5_000_000 + 2_000_000))
        number += 1
    writer.response(f"{0:032x}", response(0, body(), number * 5_000_000))
    writer.close()
    return {"file_mb": path.stat().st_size / 1e6, "records": 2 * number - len(flying) - 1}


def read(path: Path) -> dict[str, Any]:
    """Read all exchanges, keep none."""
    started = time.perf_counter()
    trace = read_trace(path)
    opened = time.perf_counter() - started
    count = answered = last = 0
    for exchange in trace:
        count += 1
        answered += exchange.response is not None
        assert exchange.request.arrive_ns >= last
        last = exchange.request.arrive_ns
    return {"exchanges": count, "answered": answered, "open_s": opened, "lost": bool(trace.losses)}


def as_part(path: Path) -> dict[str, Any]:
    """Read the same blocks without their index."""
    part = path.with_suffix(".cut")
    part.hardlink_to(path)
    container = read_trace(part).segments[0]
    end = container.rows[-1].offset + container.rows[-1].length
    part.unlink()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(end)
    return read(path) | {"cut_bytes": size - end}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {"write": write, "read": read, "as_part": as_part}


def alone(step: str, *arguments: object) -> dict[str, Any]:
    """Run one step in a fresh process; adds its seconds, throughput and peak memory."""
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def peak_rss_mb() -> float:
    """The most memory of this program. Not ru_maxrss: that begins with the size of who started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def run_step(step: str, arguments: list[str]) -> dict[str, Any]:
    """One step, measured in this process."""
    path = Path(arguments[0])
    started, before = time.perf_counter(), time.process_time()
    result = STEPS[step](path, *map(int, arguments[1:]))
    seconds = time.perf_counter() - started
    return result | {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - before, 2),
        "mb_per_s": round(path.stat().st_size / 1e6 / seconds, 1),
        "per_s": round((result.get("exchanges") or result["records"]) / seconds),
        "peak_rss_mb": round(peak_rss_mb(), 1),
    }


def main() -> None:
    """Measure everything, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--folder", help="where to make the trace (deleted afterwards)")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(run_step(options.step[0], options.step[1:])))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "trace.msgpack"
        results = {"write": alone("write", path, options.megabytes)}
        results["read"] = alone("read", path)
        results["read_without_index"] = alone("as_part", path)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
