"""How fast two runs are compared, everything included, and in how much memory.

    python benchmarks/compare_speed.py [--samples 1000000] [--times 5] [--cold] [--folder DIR]

Makes two synthetic runs (two seeds, the second 5 % slower) in a folder that is removed again, then runs
`tbench compare A B --html PAGE` so many times in a process of its own. Prints the medians of wall time, CPU
time and peak RSS, against the bar of one million samples. `--cold` forgets the script of the page before
each. Wall time is the machine's as much as ours; CPU less so.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

BAR_WALL_S, BAR_RSS_MB = 10.0, 1000.0
"""For two runs of 1e6 samples each."""
MAKER = Path(__file__).with_name("make_run.py")


class Cost(NamedTuple):
    """What a command took, from its start to its end."""

    wall_s: float
    cpu_s: float
    rss_mb: float


def main() -> int:
    """Measure, print, and end with 1 where the bar is missed."""
    args = _arguments()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        here = Path(folder)
        runs = [_made(here / f"{name}.run", seed, args) for seed, name in enumerate("ab", 1)]
        size = sum(path.stat().st_size for path in runs) / 1e6
        print(f"two runs of {args.samples:,} samples, {size:,.0f} MB together")
        costs = [_measured(runs, here, args) for _ in range(args.times)]
    middle = Cost(*map(statistics.median, zip(*costs, strict=True)))
    print(f"median of {len(costs)}: {_text(middle)}")
    print(f"{2 * args.samples / middle.cpu_s:,.0f} samples per CPU second")
    if args.samples != 1_000_000:
        return 0
    held = middle.wall_s <= BAR_WALL_S and middle.rss_mb <= BAR_RSS_MB
    print(f"bar: {BAR_WALL_S:g} s wall, {BAR_RSS_MB:g} MB: {'held' if held else 'MISSED'}")
    return 0 if held else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="of each run")
    parser.add_argument("--tokens", type=int, default=50, help="output tokens of each stream")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="bundle the page's script each time")
    parser.add_argument(
        "--folder", type=Path, help="where the runs are made; default: the system's"
    )
    return parser.parse_args()


def _made(path: Path, seed: int, args: argparse.Namespace) -> Path:
    """A run, made in a process of its own so that its memory is not ours."""
    command = [sys.executable, str(MAKER), str(path), "--seed", str(seed)]
    command += ["--samples", str(args.samples), "--tokens", str(args.tokens)]
    command += ["--factor", "1.05" if seed == 2 else "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def _measured(runs: list[Path], here: Path, args: argparse.Namespace) -> Cost:
    page = str(here / "page.html")
    command = [sys.executable, "-m", "tbench", "compare", *map(str, runs), "--html", page]
    cache = "/dev/null" if args.cold else str(here / "cache")
    cost = _run(command, {**os.environ, "XDG_CACHE_HOME": cache})
    print(f"  {_text(cost)}, load {os.getloadavg()[0]:.1f}", flush=True)
    return cost


def _run(command: list[str], environment: dict[str, str]) -> Cost:
    """Run a command to its end; raises CalledProcessError where it fails."""
    start = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    wall_s = time.monotonic() - start
    return Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)


def _text(cost: Cost) -> str:
    return f"{cost.wall_s:.2f} s wall, {cost.cpu_s:.2f} s CPU, {cost.rss_mb:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
