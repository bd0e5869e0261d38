"""The calibration of tbench's own statistics: error rates on simulated traffic, held against their bars.

    make calibrate
    python benchmarks/calibrate.py [--replays 400] [--cells full,regimes] [--seed 1] [--processes 2] [--json]

Each cell is simulated so often; what the product's code says of it is counted. For each measure and quantile
the table has the rate, the band in which 99 % of simulations lie where theory names a rate, and the bar.
Of hundreds of bars chance alone would miss some: a cell that misses one is simulated four times as often
at the end, and shown again. Every replay has random numbers of its own, so neither the number of processes
nor the choice of cells changes one. With fewer than 400 replays the bars are widened by what chance may do.
Exit code 1 when a bar is missed. `--cells` takes parts of names. All cells take about 75 minutes of
CPU, by the time of their first 25 replays.
"""

import argparse
import json
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, groupby

import numpy as np
import scipy
from calibration.bars import Rate, Tally, rates
from calibration.costs import COST_CELLS
from calibration.histories import HISTORY_CELLS
from calibration.pair_cells import PAIR_CELLS
from calibration.plans import PLAN_CELLS
from calibration.run_cells import RUN_CELLS

CELLS = {**PAIR_CELLS, **RUN_CELLS, **HISTORY_CELLS, **PLAN_CELLS, **COST_CELLS}
"""All that is simulated, by name, in the order of the table."""
CHUNK, AGAIN = 25, 4
COLUMNS = (None, 0.5, 0.9, 0.95, 0.99)


def main(words: Sequence[str] | None = None) -> int:
    """Simulate, print, and say whether all bars hold."""
    asked, began = _arguments(words), time.monotonic()
    tallies: dict[str, Tally] = {}
    measured: dict[str, list[Rate]] = {}
    if not asked.json:
        print(f"{'':48}{''.join(f'{_point(p) or "all":>7}' for p in COLUMNS)}   99 % band    bar")
    cells, done = asked.cells, 0
    for replays in (asked.replays, AGAIN * asked.replays):
        for cell, more in simulated(cells, asked.seed, (done, replays), asked.processes):
            tallies.setdefault(cell, Tally()).merge(more)
            measured[cell] = list(rates(cell, tallies[cell], CELLS[cell].bars))
            if not asked.json:
                print("\n".join(lines(cell, measured[cell], replays)), flush=True)
            print(f"{time.monotonic() - began:6.0f} s  {cell}", file=sys.stderr)
        cells, done = [cell for cell in cells if _missed(measured[cell])], replays
    seconds = time.monotonic() - began
    if asked.json:
        print(json.dumps(as_json(chain.from_iterable(measured.values()), asked, seconds), indent=1))
    else:
        print(f"\n{_sum(measured, asked, seconds)}")
    return int(any(map(_missed, measured.values())))


def simulated(
    cells: Sequence[str], seed: int, replays: tuple[int, int], processes: int
) -> Iterator[tuple[str, Tally]]:
    """The tally of each cell over these replays, in order."""
    firsts = range(*replays, CHUNK)
    chunks = [
        (cell, seed, first, min(first + CHUNK, replays[1])) for cell in cells for first in firsts
    ]
    if not chunks:
        return
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
    tally = Tally()
    for replay in range(first, last):
        tally.add(experiment.replay(np.random.default_rng([seed, number, replay])))
    return tally


def lines(cell: str, measured: Sequence[Rate], replays: int) -> Iterator[str]:
    """A line for each measure under the cell's name, and what is missed."""
    yield f"\n{cell} ({replays:,} replays)"
    for measure, group in groupby(
        sorted(measured, key=lambda rate: rate.measure), lambda r: r.measure
    ):
        of = {rate.point: rate for rate in group}
        cells = "".join(f"{_rate(of.get(point)):>7}" for point in COLUMNS)
        first = next(iter(of.values()))
        band = f"{first.band[0]:.3f}-{first.band[1]:.3f}" if first.band else ""
        yield f"  {measure:46}{cells}   {band:11}  {_bars(of.values())}".rstrip()


def _missed(measured: Iterable[Rate]) -> bool:
    return any(rate.ok is False for rate in measured)


def _sum(measured: Mapping[str, Sequence[Rate]], asked: argparse.Namespace, seconds: float) -> str:
    barred = [rate.ok for of_cell in measured.values() for rate in of_cell if rate.ok is not None]
    return (
        f"{len(barred)} bars over {len(measured)} cells of {asked.replays:,} replays "
        f"({AGAIN * asked.replays:,} where one was missed), "
        f"{barred.count(False)} missed; {seconds / 60:.0f} min, {asked.processes} processes, "
        f"seed {asked.seed}"
    )


def _rate(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.rate:.3f}"


def _bars(measured: Iterable[Rate]) -> str:
    """The bars of a line, those of several quantiles together; and whether they hold."""
    barred = [rate for rate in measured if rate.bar]
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


def as_json(
    measured: Iterable[Rate], asked: argparse.Namespace, seconds: float
) -> dict[str, object]:
    """All rates, barred or not, and with what they were made."""
    every = list(measured)
    return {
        "seed": asked.seed,
        "replays": asked.replays,
        "processes": asked.processes,
        "seconds": round(seconds),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "missed": sum(rate.ok is False for rate in every),
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
            for rate in every
        ],
    }


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    words.add_argument("--replays", type=int, default=400)
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
