"""Replays from a Ray cluster beside the same from here: what is measured, and what the command spends.

    make benchmarks/truthserver
    python benchmarks/on_ray.py same [--pairs 2] [--rows FILE]
    python benchmarks/on_ray.py cost [--bodies 300,20000] [--cases "2 here,2 on Ray"]

The cluster is that of tests/ray_cluster.py: two machines that are this one, with a CPU each, ready in 15 s.
`same` sends a trace by two workers here and by two on Ray, in turns; the rows of all runs go to FILE as well,
and all that it holds is summed up in medians. `cost` is CPU of the command's process in us a request: the
slope between a short and a long replay at a constant rate, so that no start counts; answers have one token.
`shipped` is Ray with a trace that only the command finds.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from engine import NO_DELAY, chat, serving

from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.runfile import read_run
from tbench.replay.totals import numbers

HERE = Path(__file__).parent
WORDS = [f"{number:x}" for number in range(4096, 65536, 7)]
STREAMS, EVERY_S, TOKENS = 400, 0.02, 16
SHORT_S, LONG_S = 1, 7
CASES = {
    "1 here": (1, False, True),
    "2 here": (2, False, True),
    "4 here": (4, False, True),
    "2 on Ray": (2, True, True),
    "2 on Ray (shipped)": (2, True, False),
}
"""Workers, whether they are on Ray, and whether they find the trace."""
REPLAY = """
import json, resource, sys
from tbench.replay.api import replay
words = json.loads(sys.argv[1])
run = replay(words.pop("trace"), **words)
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([*(each.ru_utime + each.ru_stime for each in used), run.totals["completed"]]))
"""
"""In a process of its own, whose CPU time it is; what it had started is the second figure."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["same", "cost"])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--bodies", default="300,20000")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rate", type=int, default=500, help="requests/s")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster() as address:
        (same if options.what == "same" else cost)(Path(folder), address, options)


@contextmanager
def cluster() -> Iterator[str]:
    """Its address."""
    command = [sys.executable, str(HERE.parent / "tests" / "ray_cluster.py")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout and process.stdin
    try:
        yield "ray://" + process.stdout.readline().split()[0]
    finally:
        process.stdin.close()
        process.wait()


def same(folder: Path, address: str, options: argparse.Namespace) -> None:
    """The same trace from here and from there, in turns."""
    trace = written(folder / "t.msgpack", STREAMS, 300, every_s=EVERY_S, tokens=TOKENS)
    rows = []
    flags = ("--ttft-ms", "10", "--itl-ms", "8", "--tokens", str(TOKENS))
    with serving(str(HERE / "truthserver"), flags, folder, tls=False) as (url, _):
        for pair in range(options.pairs):
            for place in ("here", "there")[:: 1 - 2 * (pair % 2)]:
                out = folder / f"{place}.{pair}.run"
                words = {"trace": str(trace), "base_url": url, "workers": 2, "warmup": "none"}
                ran(
                    words | {"out": str(out)} | ({"on": address} if place == "there" else {}),
                    folder,
                )
                rows.append({"place": place, **figures(out)})
                print(json.dumps(rows[-1]), flush=True)
    if options.rows:
        with options.rows.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    print(f"\n| medians of {len(rows) // 2} | here | on Ray |\n|---|---|---|")
    for name in list(rows[0])[1:]:
        values = ([row[name] for row in rows if row["place"] == at] for at in ("here", "there"))
        print(f"| {name} | " + " | ".join(map(in_short, values)) + " |")


def in_short(values: list[Any]) -> str:
    """The median and the range of figures; of anything else what there is."""
    if not isinstance(values[0], float):
        return ", ".join(sorted({str(value) for value in values}))
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def figures(out: Path) -> dict[str, Any]:
    """What is compared of a run; times in ms."""
    run = read_run(out)
    told, shards = numbers(run), run.totals["shards"]
    ids = [list(run.columns[name]) for name in ("index", "id", "due", "session")]
    times = {
        f"{name} {level}, ms": told[f"{name}_s"][level] * 1e3
        for name, levels in (
            ("lag", "p50 p95 p99"),
            ("ttft", "p50 p95"),
            ("tpot", "p50"),
            ("e2e", "p50 p95"),
        )
        for level in levels.split()
    }
    return {
        "completed": told["completed"],
        "tokens": int(run.columns["output_tokens"].sum()),
        "requests and their due times": f"{crc32(repr(ids).encode()):08x}",
        **times,
        "told of the start too late, ms": max(shard["late_s"] for shard in shards) * 1e3,
        "machines that did not read the trace": sum(
            shard["unread"] is not None for shard in shards
        ),
        "valid": told["valid"],
    }


def cost(folder: Path, address: str, options: argparse.Namespace) -> None:
    """What the command spends on each request, by the size of its body and by who sends it."""
    print("| body, bytes | workers | the command, us a request |\n|---|---|---|")
    with serving(str(HERE / "truthserver"), NO_DELAY, folder, tls=False) as (url, _):
        for size in map(int, options.bodies.split(",")):
            trace = written(folder / f"{size}.msgpack", LONG_S * options.rate, size)
            for name in options.cases.split(","):
                workers, on_ray, found = CASES[name]
                shown = str(trace) if found else f"/proc/self/cwd/{trace.name}"
                more = {"on": address} if on_ray else {}
                slopes = []
                for _ in range(options.repeats):
                    words = {
                        "trace": shown,
                        "base_url": url,
                        "constant": options.rate,
                        "workers": workers,
                        **more,
                    }
                    few, many = (
                        ran(words | {"requests": number, "warmup": "none"}, folder)
                        for number in (SHORT_S * options.rate, LONG_S * options.rate)
                    )
                    slopes.append((many - few) / (LONG_S - SHORT_S) / options.rate * 1e6)
                print(f"| {size:,} | {name} | {statistics.median(slopes):.0f} |", flush=True)


def ran(words: dict[str, Any], folder: Path) -> float:
    """CPU seconds of the command."""
    command = [sys.executable, "-c", REPLAY, json.dumps(words)]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    used, _, completed = json.loads(done.stdout)
    assert completed == words.get("requests", STREAMS), done.stderr
    return float(used)


def written(path: Path, requests: int, size: int, every_s: float = 0.001, tokens: int = 1) -> Path:
    """A trace of chats with bodies of about so many bytes, of words that zstd makes half as long."""
    source = random.Random(size)
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(requests):
            text = " ".join(source.choices(WORDS, k=max(1, (size - 120) // 5)))
            fields = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True}
            writer.exchange(chat(seq, fields | {"max_tokens": tokens}, round(seq * every_s * 1e9)))
    return path


if __name__ == "__main__":
    main()
