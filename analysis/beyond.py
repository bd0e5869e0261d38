"""Beyond: runs that are more than memory holds, read a part at a time into sums (analysis.sums).

A part is an arm like any other, so that the same functions say what its samples come to. What needs all
samples at once is left out, which LEFT_OUT says wherever such a run is shown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from tbench.analysis.arms import Arm, arm_of_run, joined, load_arm
from tbench.analysis.blocks import BLOCKS
from tbench.analysis.metrics import METRICS, applies, cached_tokens, stamped
from tbench.analysis.run_metrics import Slo, met
from tbench.analysis.spending import charged
from tbench.analysis.summary import Floats
from tbench.analysis.sums import (
    FINE,
    PLACES,
    Ints,
    Judged,
    Sums,
    hashes_of,
    hashes_of_requests,
)
from tbench.capture.container_reader import open_container
from tbench.capture.errors import InputError
from tbench.capture.remote import as_path
from tbench.replay import metrics
from tbench.replay.columns import Column
from tbench.replay.counted import Spread
from tbench.replay.metrics import Columns
from tbench.replay.runfile import USUAL, Run, read_parts, samples_of
from tbench.replay.table import short, tally, words
from tbench.replay.throughput import RatesOfParts
from tbench.replay.totals import duration_s

LIMIT: Final = 10_000_000
"""So many samples, in all the runs that are looked at together, are held in memory: some 4 GB."""
NEEDED: Final = (
    *(name for name in USUAL if name not in {"id", "cycle", "error"}),
    "reasoning_tokens",
    "cache_creation_tokens",
)
"""The columns that sums are made of."""
LATE: Final = ("first_token", "first_answer", "last_token", "end")
"""Stamps that may have been read late."""
JUDGED: Final = (*(row for row in METRICS.values() if row.ends), metrics.E2E_SENT)
"""Metrics that late reads may falsify."""


def is_beyond(paths: Iterable[Path]) -> bool:
    """Whether these files, looked at together, have more samples than are held in memory."""
    return sum(samples_of(path) for path in paths if path.is_file()) > LIMIT


def left_out(arm: Arm) -> str:
    """What is not told of so many samples, and how exact the rest is."""
    most = "what the client counted"
    if arm.most_in_flight is None:
        most = "not told, as this run did not count it, or all arms of its duet together"
    return (
        f"{len(arm):,} samples are more than are held in memory ({LIMIT:,}): quantiles are from a histogram, "
        "within 0.2%; not told: itl_p95, cost per session, intervals of costs, fidelity; "
        f"the most in flight is {most}" + (f"; {CROWDED}" if arm.sums and arm.sums.crowded else "")
    )


CROWDED: Final = (
    "too many requests ended behind a closed loop's window: its rates are of all of the run"
)


def load(path: str | Path, *, slo: Slo = ()) -> Arm:
    """A run or a trace as `load_arm` has it; one that is more than memory holds with sums."""
    path = as_path(path)
    return gather(path, slo=slo) if is_beyond([path]) else load_arm(path)


class _Unheld(Mapping[str, Column]):
    """The columns of a run that is more than memory holds: there are none."""

    def __init__(self, path: Path, n: int) -> None:
        self._path, self._n = path, n

    def __getitem__(self, name: str) -> Column:
        raise InputError(
            f"{self._path}: {self._n:,} samples are more than are held in memory ({LIMIT:,}): there are "
            "figures, as text and --json, and neither pages, pictures nor workbooks; for any other question "
            "export it to Parquet (tbench trace export, docs/export.md)"
        )

    def __contains__(self, name: object) -> bool:
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def gather(path: Path, *, names: Sequence[str] | None = None, slo: Slo = ()) -> Arm:
    """A run as an arm with sums and without columns, in one pass and bounded memory.

    `names` are the metrics that are compared, by default none, and all but those of the gaps within a stream
    are told. Raises what `read_run` does, and InputError for a trace, which is not read in parts.
    """
    if path.is_dir() or (path.is_file() and open_container(path).header.get("kind") != "run"):
        raise InputError(
            f"{path}: only a run is compared with one of more samples than are held in memory ({LIMIT:,})"
        )
    wanted = [
        name
        for name, row in METRICS.items()
        if row.gap_quantile is None and (names is None or name in names)
    ]
    if gaps := [each.text for each in slo if METRICS[each.metric].gap_quantile is not None]:
        raise InputError(
            f"--slo {gaps[0]}: of more samples than are held in memory it is not told; leave it out"
        )
    stretch, late = _stretches(path), False
    while True:
        sums, rates = Sums.empty(wanted, JUDGED), None
        for part in read_parts(path, NEEDED if names is None else (*NEEDED, "id", "cycle")):
            rates = rates or RatesOfParts(part)
            arm = arm_of_run(part)
            # Once more from the beginning where reads were late, which then happens soon: few runs have such.
            if not late and (late := _has_late_reads(part.columns)):
                break
            taken = {name: stamped(arm, METRICS[name]) for name in sums.spreads}
            _add(sums, rates, arm, taken, stretch, slo, late=late)
            if names is not None:
                _draw(sums, arm, taken, stretch)
        else:
            # And once more where the plan has gaps, as of requests that were lost: blocks have as many each.
            even = _evenly(sums.at, int(part.totals["planned"])) if sums.n else stretch
            if np.array_equal(even, stretch) or _are_even(sums.requests):
                break
            stretch = even
    if rates is not None:
        sums.rates, sums.crowded = rates.close(), rates.crowded
    if sums.buffered:
        for name in sums.spreads:
            if METRICS[name].spaced:
                sums.spreads[name] = [Spread() for _ in range(FINE)]
    run = Run(path, part.header, _Unheld(path, sums.n), part.totals, complete=part.complete)
    return replace(arm_of_run(run), model=joined(sums.models), sums=sums)


def _stretches(path: Path) -> Floats:
    """The places in the plan at which the fine blocks of what is not warm-up begin; the end of the last.

    As they are where the warm-up is the plan's beginning, and all behind it was sent.
    """
    begin = last = 0
    # The warm-up is the beginning of the run: a few parts, which are read twice.
    for part in read_parts(path, ("due", "sent", "first_token", "last_token", "end")):
        last = int(part.totals["planned"]) - int(part.totals.get("never_sent") or 0)
        warm = part.columns["warmup"]
        if not warm.any():
            break
        begin = int(part.columns["index"][warm].max()) + 1
    return np.linspace(begin, max(last, begin + 1), FINE + 1)


UNEVEN: Final = 0.01
"""So much of a block may be in its neighbour: what a request in flight at the end makes."""


def _are_even(requests: Ints) -> bool:
    each = max(int(requests.sum()), 1) / FINE
    return bool(np.abs(requests / each - 1).max() <= UNEVEN)


def _evenly(at: Ints, planned: int) -> Floats:
    """The places at which fine blocks of as many requests begin, by where in the plan these are."""
    n = int(at.sum())
    ends = np.searchsorted(np.cumsum(at), -(-np.arange(1, FINE) * n // FINE)) + 1
    places = np.concatenate([[0], ends, [len(at)]])
    return np.ceil(places * max(planned, 1) / len(at))


Taken = Mapping[str, Floats]
"""The values of each metric that is counted, one for each sample of a part."""


def _add(
    sums: Sums,
    rates: RatesOfParts,
    arm: Arm,
    taken: Taken,
    stretch: Floats,
    slo: Slo,
    *,
    late: bool,
) -> None:
    """Add what a part comes to."""
    columns, measured = arm.columns, arm.measured
    counted = _Once(metrics.counted(columns))
    places = np.flatnonzero(measured)
    index = columns["index"][places]
    planned = max(int(arm.run.totals["planned"]), 1)
    sums.at += np.bincount(
        np.minimum(index.astype(np.int64) * PLACES // planned, PLACES - 1), minlength=PLACES
    )
    cut = np.searchsorted(index, stretch[1:-1])
    blocks = list(pairwise([0, *cut.tolist(), len(places)]))
    # A mask, unless all are: a copy of each column costs as much as what is done with it.
    every: Any = slice(None) if len(places) == len(measured) else places
    sums.n += len(measured)
    sums.measured += len(places)
    sums.successes += int(arm.ok.sum())
    for name, spreads in sums.spreads.items():
        _by_block(spreads, taken[name][every], blocks)
        sums.failures[name] += int((arm.failed & applies(arm, METRICS[name]))[every].sum())
    lag = metrics.client_lag(columns)
    sums.lag.add(np.where(arm.ok, lag, np.nan)[every])
    sums.cached += cached_tokens(arm, every)
    ended = (arm.ok | arm.failed)[every]
    sums.requests += np.array([last - first for first, last in blocks])
    events = [(sums.counted, ended), (sums.failed, arm.failed[every])]
    good = met(arm, slo, stamped) if slo else np.zeros(len(measured), dtype=bool)
    if slo:
        events.append((sums.good, good[every] & ended))
    for counts, event in events:
        for block, (first, last) in enumerate(blocks):
            counts[block] += np.count_nonzero(event[first:last])
    sums.kinds.update(arm.kinds(places))
    sums.errors.update(metrics.errors(columns))
    for name, tallied in sums.words.items():
        tallied.update(tally(columns, name, places))
    rates.add(columns, every, good)
    sums.models |= words(columns, "model")
    sums.open_loop |= bool(np.isfinite(columns["due"]).any())
    sums.outstanding += metrics.outstanding(columns)
    sums.charges += charged(arm, places)[1]
    sums.refused += int((columns["refusals"][every] > 0).sum())
    sums.uncertain += metrics.uncertain(counted)
    sums.ended_s = max(sums.ended_s, duration_s(columns))
    sums.timeout_s = min(filter(None, (sums.timeout_s, arm.timeout_s)), default=None)
    offset, due, e2e = arm.offset_s[every], columns["due"][every], metrics.e2e(columns)
    sums.span = (
        min(sums.span[0], float(np.nanmin(offset, initial=np.inf))),
        max(sums.span[1], float(np.nanmax(offset, initial=-np.inf))),
    )
    sums.due = _summed(sums.due, due)
    sums.e2e = _summed(sums.e2e, e2e)
    # As replay.totals.headline has it.
    completed = np.flatnonzero(arm.ok & measured)
    latency = np.where(np.isnan(taken["ttft"]), taken["e2e"], taken["ttft"])[completed]
    _judge(sums.judged, arm, (latency, lag[completed]), counted, late=late)


def _draw(sums: Sums, arm: Arm, taken: Taken, stretch: Floats) -> None:
    """Draw requests, by which runs are held against each other, and whole sessions."""
    columns = arm.columns
    sums.requests_drawn.add(hashes_of_requests(short(columns, "id"), columns["cycle"]))
    known = np.flatnonzero(arm.measured & (arm.sessions >= 0))

    def drawn(rows: Ints) -> Mapping[str, Column]:
        at = known[rows]
        fine = np.searchsorted(stretch[1:-1], columns["index"][at], "right")
        return {
            "session": arm.sessions[at],
            "block": fine * BLOCKS // FINE,
            "failed": np.where((arm.ok | arm.failed)[at], arm.failed[at], np.nan),
            **{name: values[at] for name, values in taken.items()},
        }

    if len(known):
        sums.sessions_drawn.add(hashes_of(arm.sessions[known]), drawn)


def _summed(before: tuple[float, int], part: Floats) -> tuple[float, int]:
    known = part[~np.isnan(part)]
    return before[0] + float(known.sum()), before[1] + len(known)


def _by_block(spreads: Sequence[Spread], part: Floats, blocks: Iterable[tuple[int, int]]) -> None:
    """Count values, in the order of the plan, each in the block that it lies in."""
    for spread, (first, last) in zip(spreads, blocks, strict=True):
        if last > first:
            spread.add(part[first:last])


class _Once(Mapping[str, Column]):
    """Columns that are made when they are first asked for."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._made: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._made:
            self._made[name] = self._columns[name]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _has_late_reads(columns: Columns) -> bool:
    return any(bool((metrics.unsure(columns, stamp) > metrics.SLICE_S).any()) for stamp in LATE)


def _judge(
    judged: Judged, arm: Arm, completed: tuple[Floats, Floats], counted: Columns, *, late: bool
) -> None:
    """Add what a part says of how well its client kept up (replay.totals).

    Of its `completed` requests there are the latencies and the client's lag.
    """
    judged.samples += len(arm)
    latency, lag = completed
    timed = ~np.isnan(lag)
    judged.untimed.add(latency[~timed])
    judged.shown.add(latency[timed])
    judged.true.add((latency - lag)[timed])
    of, none = metrics.gaps(counted)
    judged.between = judged.between[0] + of, judged.between[1] + none
    if late:
        for name, spread in judged.plain.items():
            spread.add(judged.rows[name].of(counted))
        with_late = np.zeros(len(latency), dtype=bool)
        for stamp in LATE:
            with_late |= metrics.unsure(counted, stamp) > metrics.SLICE_S
        few = _Once({name: counted[name][with_late] for name in counted})
        for row, least, most in metrics.bounds(few):
            judged.stamped[row.name].add(row.of(few))
            judged.least[row.name].add(least)
            judged.most[row.name].add(most)
    pacing = arm.run.header.get("pacing") or {}
    if pacing.get("mode") == "concurrency" and pacing.get("value"):
        held = metrics.held(arm.columns, pacing["value"])
        if held is not None:
            seconds = float(np.ptp(arm.columns["sent"]))
            judged.places = judged.places[0] + held * seconds, judged.places[1] + seconds
