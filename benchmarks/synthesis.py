"""How fast workloads are synthesised: requests per second of CPU time, and the largest memory.

    .venv/bin/python benchmarks/synthesis.py [TOKENIZER.json] [--requests 100000]

Each case is a process of its own that writes a trace into an empty folder.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tbench.capture.synthesis.generate import write
from tbench.capture.synthesis.scenario import parse
from tbench.capture.synthesis.tokens import estimated, load_tokens
from tbench.capture.synthesis.workload import Workload

CASES = (
    ("text-to-text", "D(100,100)", {}, 1),
    ("text-to-text", "N(480,240)/(300,150)", {}, 10),
    ("text-to-text", "D(2000,200)", {"prefix_ratio": 0.5}, 50),
    ("text-to-embeddings", "E(256)", {"batch_size": 4}, 20),
    ("image-text-to-text", "I(512,512)", {}, 200),
)
"""Task, scenario, options, and by how much fewer requests are made of it."""


def measure(number: int, requests: int, tokenizer: str | None) -> str:
    """One case, in this process."""
    task, scenario, options, fewer = CASES[number]
    tokens = load_tokens(tokenizer) if tokenizer else estimated()
    workload = Workload(
        task=task,
        model="m",
        scenario=parse(scenario),
        requests=max(1, requests // fewer),
        tokens=tokens,
        **options,
    )
    with tempfile.TemporaryDirectory() as folder:
        before, began = os.times(), time.monotonic()
        path = Path(folder) / "t.msgpack"
        write(workload, path)
        wall, after = time.monotonic() - began, os.times()
        size = path.stat().st_size
    cpu = after.user + after.system - before.user - before.system
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{task:<20}{scenario:<24}{workload.requests:>8,}  {cpu:6.1f} s CPU {wall:6.1f} s wall "
        f"{1e3 * cpu / workload.requests:8.3f} ms each  {size / 1e6:8.1f} MB file  {peak:5.0f} MB peak"
    )


def main() -> None:
    """Run every case in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer", nargs="?")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--case", type=int)
    given = parser.parse_args()
    if given.case is not None:
        print(measure(given.case, given.requests, given.tokenizer))
        return
    for number in range(len(CASES)):
        subprocess.run([sys.executable, *sys.argv, "--case", str(number)], check=True)


if __name__ == "__main__":
    main()
