"""What the command spends on each request while workers send: us of CPU of its process, by workers and place.

    make benchmarks/truthserver
    python benchmarks/feeding.py [--bodies 300,20000] [--workers 1,2,4] [--on ray://HOST:PORT] [--beside]

Each row is the slope between a short and a long replay at a constant rate of the same trace, so that no start
counts; answers are of one token. `whole` is that of all processes here that the command has started. With
`--on` the trace is sent from a cluster too, by two workers: those read it themselves where they can.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import NO_DELAY, chat, serving

from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter

HERE = Path(__file__).parent
WORDS = [f"{number:x}" for number in range(4096, 65536, 7)]
ONE_RUN = """
import json, resource, sys
from tbench.replay.api import replay
words = json.loads(sys.argv[1])
run = replay(words.pop("trace"), **words)
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
shards = run.totals["shards"]
print(json.dumps([*(each.ru_utime + each.ru_stime for each in used), run.totals["completed"], shards]))
"""


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bodies", default="300,20000")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--on")
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--requests", default="1000,6000")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    few, many = map(int, options.requests.split(","))
    cases = [(None, int(number)) for number in options.workers.split(",") if number]
    if options.on:
        cases.append((options.on, 2))
    print("| body, bytes | workers | the command, us a request | whole |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with serving(str(HERE / "truthserver"), NO_DELAY, folder, tls=False) as (url, _):
            for size in map(int, options.bodies.split(",")):
                trace = written(folder / f"{size}.msgpack", many, size)
                for on, workers in cases:
                    slopes = []
                    for repeat in range(options.repeats):
                        used = []
                        for requests in (few, many):
                            words = {
                                "trace": str(trace),
                                "base_url": url,
                                "constant": options.rate,
                                "requests": requests,
                                "workers": workers,
                                "warmup": "none",
                                "out": str(
                                    folder
                                    / f"{size}.{on is None}.{workers}.{repeat}.{requests}.run"
                                ),
                                **({"on": on} if on else {}),
                            }
                            used.append(ran(words))
                        slopes.append(
                            [
                                (used[1][part] - used[0][part]) / (many - few) * 1e6
                                for part in (0, 1)
                            ]
                        )
                    ours, theirs = map(statistics.median, zip(*slopes, strict=True))
                    where = "" if on is None else " on Ray"
                    print(
                        f"| {size:,} | {workers}{where} | {ours:.0f} | {ours + theirs:.0f} |",
                        flush=True,
                    )


def ran(words: dict[str, object]) -> list[float]:
    """CPU seconds of the command, and of what it had started."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_RUN, json.dumps(words)],
        check=True,
        capture_output=True,
        text=True,
    )
    ours, theirs, completed, _ = json.loads(done.stdout)
    assert completed == words["requests"], done.stderr
    return [ours, theirs]


def written(path: Path, requests: int, size: int) -> Path:
    """A trace of chats with bodies of about that many bytes, of words that zstd makes half as long."""
    source = random.Random(size)
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(requests):
            text = " ".join(source.choices(WORDS, k=max(1, (size - 120) // 5)))
            fields = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True}
            writer.exchange(chat(seq, fields | {"max_tokens": 1}, seq * 10**6))
    return path


if __name__ == "__main__":
    main()
