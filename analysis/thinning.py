"""Thinning: what a picture keeps of a million values, so that it shows the same and stays small."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tbench.analysis.summary import Floats, ordered

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Steps:
    """A step function: `y[i]` holds from `x[i]` on."""

    x: Floats
    y: Floats


def ecdf(values: Floats, points: int = 500) -> Steps:
    """The share of values at or below x, at no more than `points` places, denser towards the slow end.

    NaN (absent) is left out. +inf (timed out) counts in the whole but has no place: the curve ends
    below 1. Each kept place is exact. The least and the greatest finite value are always among them.
    """
    every = ordered(values)
    n, finite = len(every), int(np.isfinite(every).sum())
    if not finite:
        return Steps(np.empty(0), np.empty(0))
    ranks: Places = np.arange(finite)
    if finite > points:
        # Half evenly spread; half in equal ratios of what lies beyond, since the tail is what one reads.
        even = np.linspace(0, finite - 1, points // 2)
        tail = finite - np.geomspace(finite, 1, points - points // 2)
        ranks = np.unique(np.concatenate([even, tail]).round().astype(np.int64).clip(0, finite - 1))
    x = every[ranks]
    last = np.searchsorted(every, x, side="right")  # ties: all of them are at or below x
    distinct = np.append(np.diff(x) > 0, True)
    return Steps(x[distinct], last[distinct] / n)


def scatter(x: Floats, y: Floats, points: int = 1500) -> Places:
    """Which of many points to draw: one per cell of a grid over the plane, and each column's extremes.

    Both must be finite; `y` in the units in which it is drawn (logarithms, for a log axis). Never
    more than `points`, which is at least 100; all of them when there are no more.
    """
    if len(x) <= points:
        return np.arange(len(x))
    columns = max(1, int(math.sqrt(points)))
    # Two places less in each column: those of its extremes.
    rows = max(1, points // columns - 2)
    column, row = _cells(x, columns), _cells(y, rows)
    extremes = []
    for places in filter(len, _groups(column, columns)):
        inside = y[places]  # of equal ones the first of the least, and the last of the greatest
        extremes += [places[inside.argmin()], places[len(inside) - 1 - inside[::-1].argmax()]]
    cell = column * rows + row
    first = np.full(columns * rows, -1)
    first[cell[::-1]] = np.arange(len(cell))[
        ::-1
    ]  # the last to be written stays: each cell's first
    return np.unique(np.concatenate([first[first >= 0], extremes]))


def _groups(cell: Places, cells: int) -> list[Places]:
    """The places of what lies in each cell, in order. Cells this few sort by counting, in one pass."""
    order = np.argsort(cell.astype(np.uint16), kind="stable")
    return np.split(order, np.cumsum(np.bincount(cell, minlength=cells))[:-1])


def _cells(values: Floats, cells: int) -> Places:
    """Which of `cells` equal parts of their span each value falls into."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(len(values), dtype=np.int64)
    return ((values - low) / (high - low) * cells).astype(np.int64).clip(0, cells - 1)


def medians(x: Floats, y: Floats, bins: int = 60, least: int = 5) -> Steps:
    """The median of y in equal parts of x, at their middles; parts with fewer than `least` are left out."""
    if not len(x):
        return Steps(np.empty(0), np.empty(0))
    low, high = float(x.min()), float(x.max())
    # Fewer parts of fewer points, or most would be left out for want of values.
    bins = max(1, min(bins, len(x) // (2 * least)))
    cell = _cells(x, bins)
    groups = [y[places] for places in _groups(cell, bins)]
    middles = low + (np.arange(bins) + 0.5) * (high - low) / bins
    enough = np.array([len(group) >= least for group in groups])
    middle = [float(np.median(group)) for group in groups if len(group) >= least]
    return Steps(middles[enough], np.array(middle))


def in_flight(sent: Floats, end: Floats, bins: int = 300) -> tuple[Steps, Floats]:
    """How many requests were outstanding: the time-weighted mean in equal parts of time, and the most.

    Requests that were never sent (NaN) are left out; one without an end lasts to the end of the run.
    """
    started = ~np.isnan(sent)
    sent, end = ordered(sent[started]), end[started]
    if not len(sent):
        return Steps(np.empty(0), np.empty(0)), np.empty(0)
    horizon = float(np.nanmax(np.append(end, sent[-1])))
    if horizon <= sent[0]:
        return Steps(np.empty(0), np.empty(0)), np.empty(0)
    end = ordered(np.where(np.isnan(end), horizon, end))
    # The mean by areas, exact however short a request is; sampling would miss what lies between.
    edges = np.linspace(sent[0], horizon, bins + 1)
    area = _elapsed(sent, edges) - _elapsed(end, edges)
    # The highest count within each part; an end and a send at one instant do not overlap.
    after = np.arange(1, len(sent) + 1) - np.searchsorted(end, sent, side="right")
    cuts = np.searchsorted(sent, edges)
    before = cuts[:-1] - np.searchsorted(end, edges[:-1])
    parts = zip(before, pairwise(cuts), strict=True)
    most = np.array([float(after[a:b].max(initial=level)) for level, (a, b) in parts])
    return Steps(edges[:-1], np.diff(area) / np.diff(edges)), most


def _elapsed(starts: Floats, at: Floats) -> Floats:
    """At each instant, the sum over all earlier starts of the time since."""
    before = np.searchsorted(starts, at)
    sums = np.concatenate([[0.0], np.cumsum(starts)])
    return np.asarray(before * at - sums[before])
