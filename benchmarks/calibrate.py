"""The calibration of tbench's own statistics: error rates on simulated traffic, held against their bars.

    make calibrate
    python benchmarks/calibrate.py [--replays 1000] [--cells full,regimes] [--seed 1] [--processes 2] [--json]

Each cell is simulated so often; what the product's code says of it is counted. For each measure and quantile
the table has the rate, the band in which 99 % of simulations lie where theory names a rate, and the bar.
Every replay has random numbers of its own, so neither the number of processes nor the choice of cells
changes one. With fewer than 400 replays the bars are widened by what chance may do. Exit code 1 when a bar
is missed. `--cells` takes parts of names.
"""

import argparse
import json
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import scipy
from calibration.bars import Rate, rates
from calibration.cells import CELLS
from calibration.effects import POINTS
from calibration.tally import Tally

CHUNK = 25
COLUMNS = (None, *POINTS)


def main(words: Sequence[str] | None = None) -> int:
    """Simulate, print, and say whether all bars hold."""
    asked, began = _arguments(words), time.monotonic()
    found: list[Rate] = []
    if not asked.json:
        print(f"{'':48}{'all':>7}{'p50':>7}{'p95':>7}{'p99':>7}   99 % band    bar")
    for cell, tally in simulated(asked.cells, asked.seed, asked.replays, asked.processes):
        of_cell = list(rates(cell, tally, CELLS[cell].bars))
        found += of_cell
        if not asked.json:
            print("\n".join(lines(cell, of_cell)), flush=True)
        print(f"{time.monotonic() - began:6.0f} s  {cell}", file=sys.stderr)
    seconds = time.monotonic() - began
    if asked.json:
        print(json.dumps(as_json(found, asked, seconds), indent=1))
    else:
        print(f"\n{_sum(found, asked, seconds)}")
    return int(any(rate.ok is False for rate in found))


def simulated(
    cells: Sequence[str], seed: int, replays: int, processes: int
) -> Iterator[tuple[str, Tally]]:
    """The tally of each cell, in order."""
    firsts = range(0, replays, CHUNK)
    chunks = [
        (cell, seed, first, min(first + CHUNK, replays)) for cell in cells for first in firsts
    ]
    with _mapping(processes) as mapped:
        parts = iter(mapped(count, *zip(*chunks, strict=True)))
        for cell in cells:
            total = Tally()
            for _ in firsts:
                total.merge(next(parts))
            yield cell, total


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[..., Iterator[Tally]]]:
    """What maps a function over its arguments: in this process if it is to be the only one."""
    if processes == 1:
        yield map
    else:
        with ProcessPoolExecutor(processes) as pool:
            yield pool.map


def count(cell: str, seed: int, first: int, last: int) -> Tally:
    """How often each outcome happened in these replays of a cell."""
    experiment, number = CELLS[cell].experiment, zlib.crc32(cell.encode())
    found = Tally()
    for replay in range(first, last):
        found.add(experiment.replay(np.random.default_rng([seed, number, replay])))
    return found


def lines(cell: str, found: Sequence[Rate]) -> Iterator[str]:
    """A line for each measure, and under the cell's name what is missed."""
    yield f"\n{cell}"
    for measure, group in groupby(
        sorted(found, key=lambda rate: rate.measure), lambda r: r.measure
    ):
        of = {rate.point: rate for rate in group}
        cells = "".join(f"{_rate(of.get(point)):>7}" for point in COLUMNS)
        some = next(iter(of.values()))
        band = f"{some.band[0]:.3f}-{some.band[1]:.3f}" if some.band else ""
        yield f"  {measure:46}{cells}   {band:11}  {_bars(of.values())}".rstrip()


def _sum(found: Sequence[Rate], asked: argparse.Namespace, seconds: float) -> str:
    barred = [rate.ok for rate in found if rate.ok is not None]
    return (
        f"{len(barred)} bars over {len(asked.cells)} cells of {asked.replays:,} replays, "
        f"{barred.count(False)} missed; {seconds / 60:.0f} min, {asked.processes} processes, "
        f"seed {asked.seed}"
    )


def _rate(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.rate:.3f}"


def _bars(found: Iterable[Rate]) -> str:
    """The bars of a line, those of several quantiles together; and whether they hold."""
    barred = [rate for rate in found if rate.bar]
    texts = {_bar(*rate.bar): None for rate in barred if rate.bar}
    missed = [_point(rate.point) for rate in barred if not rate.ok]
    if not barred:
        return ""
    return f"{', '.join(texts)}  {'MISSED ' + ' '.join(missed) if missed else 'ok'}"


def _bar(low: float, high: float) -> str:
    if high >= 1:
        return f">= {low:.3g}"
    return f"<= {high:.3g}" if low <= 0 else f"{low:.3g}-{high:.3g}"


def _point(point: float | None) -> str:
    return "" if point is None else f"p{point * 100:g}"


def as_json(found: Sequence[Rate], asked: argparse.Namespace, seconds: float) -> dict[str, object]:
    """All rates, barred or not, and with what they were made."""
    return {
        "seed": asked.seed,
        "replays": asked.replays,
        "processes": asked.processes,
        "seconds": round(seconds),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "missed": sum(rate.ok is False for rate in found),
        "rates": [
            {
                "cell": rate.cell,
                "measure": rate.measure,
                "quantile": rate.point,
                "rate": rate.rate,
                "count": rate.count,
                "replays": rate.n,
                "nominal": rate.nominal,
                "band": rate.band,
                "bar": rate.bar,
                "ok": rate.ok,
            }
            for rate in found
        ],
    }


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    words.add_argument("--replays", type=int, default=1000)
    words.add_argument("--cells", default="", help="parts of names, by commas; default: all")
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--processes", type=int, default=2)
    words.add_argument("--json", action="store_true")
    asked = words.parse_args(given)
    parts = [part.strip() for part in asked.cells.split(",")]
    asked.cells = [cell for cell in CELLS if any(part in cell for part in parts)]
    if not asked.cells:
        words.error(f"--cells: none of these is part of a name; there are {'; '.join(CELLS)}")
    if asked.replays < 1 or asked.processes < 1:
        words.error("--replays and --processes are at least 1")
    return asked


if __name__ == "__main__":
    sys.exit(main())
