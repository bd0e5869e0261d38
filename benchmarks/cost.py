"""What a replay costs in CPU, all processes from start to exit: the start by itself, and each request.

    python benchmarks/cost.py [--tokens 1,50] [--requests 1000,11000] [--repeats 5] [--beside OTHER_CHECKOUT]

The whole product path: a trace read, requests sent, answers parsed, a run file written. A replay is made with
few requests and with many; the difference is what a request costs, the rest what the start does. With
`--beside` another checkout runs in turns with this one. Medians. The server has core 0, the client core 1.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import NO_DELAY, serving, write_trace

HERE = Path(__file__).parent
INVALID = 4
"""The exit code of a run that its client limits, as a closed loop of one token does here."""
PACED = ("--ttft-ms", "100", "--itl-ms", "20")
IMPORTS = ("tbench --help", "tbench trace --help", "tbench report --help")


def main() -> None:
    """Measure both checkouts in turns, and print a row for each load."""
    options = _options()
    places = [HERE.parent, *([options.beside.absolute()] if options.beside else [])]
    print("| what | " + " | ".join(place.name for place in places) + " |")
    print("|---" * (len(places) + 1) + "|")
    for words in IMPORTS:
        _row(f"`{words}`, ms", [_started(words, place, options.repeats) for place in places])
    for tokens in map(int, options.tokens.split(",")):
        _loads(tokens, places, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(HERE / "truthserver"))
    parser.add_argument("--tokens", default="1,2,50", help="of an answer, one load for each")
    parser.add_argument("--requests", default="1000,11000", help="few, many")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--paced", action="store_true", help="100 ms, then a token each 20 ms")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside", type=Path, help="another checkout, measured in turns")
    return parser.parse_args()


def _started(words: str, place: Path, repeats: int) -> float:
    command = [sys.executable, "-m", *words.split()]
    return statistics.median(_cpu(command, place) for _ in range(repeats)) * 1e3


def _loads(tokens: int, places: list[Path], options: argparse.Namespace) -> None:
    few, many = map(int, options.requests.split(","))
    spent: dict[tuple[Path, int], list[float]] = {(at, n): [] for at in places for n in (few, many)}
    flags = (*(PACED if options.paced else NO_DELAY[:4]), "--tokens", str(tokens), "--force-tokens")
    with tempfile.TemporaryDirectory() as folder:
        for count in (few, many):
            write_trace(Path(folder) / f"{count}.msgpack", count, tokens)
        with serving(options.server, flags, Path(folder), tls=False) as (url, _):
            for _ in range(options.repeats):
                for (place, count), seen in spent.items():
                    seen.append(_replayed(place, Path(folder), count, url, options.in_flight))
    cost = {key: statistics.median(seen) for key, seen in spent.items()}
    each = [(cost[place, many] - cost[place, few]) / (many - few) for place in places]
    name = f"{options.in_flight} in flight x {tokens} tokens"
    _row(f"{name}: a request, us", [one * 1e6 for one in each])
    starts = [cost[place, few] - few * one for place, one in zip(places, each, strict=True)]
    _row(f"{name}: the start, ms", [one * 1e3 for one in starts])


def _replayed(place: Path, folder: Path, count: int, url: str, in_flight: int) -> float:
    out = folder / "o.run"
    out.unlink(missing_ok=True)
    words = ["tbench", "replay", str(folder / f"{count}.msgpack"), "--base-url", url]
    words += ["--concurrency", str(in_flight), "--warmup", "none", "--workers", "1"]
    return _cpu([sys.executable, "-m", *words, "-o", str(out), "--json"], place)


def _cpu(command: list[str], place: Path) -> float:
    """Seconds of a command and its children, with the packages of a checkout, compiled as if installed."""
    before = _spent()
    done = subprocess.run(
        ["taskset", "-c", "1", *command],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, INVALID):
        sys.exit(done.stderr)
    return _spent() - before


def _spent() -> float:
    """By all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _row(name: str, values: list[float]) -> None:
    print(f"| {name} | " + " | ".join(f"{value:,.0f}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    main()
