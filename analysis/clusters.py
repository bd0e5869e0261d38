"""Clusters: what the requests of one session have in common, which no block of time can see.

A session that is slow in one arm is slow in every block of it, so that blocks agree with each other and are
all wrong together. Two-way clustering adds it up: V(time) + V(session) - V(both), never below V(time), with t
on as many degrees as there are sessions. A. C. Cameron, J. Gelbach, D. Miller, Journal of Business & Economic
Statistics 29 (2011); the number of sessions of unequal size is L. Kish's effective one.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tbench.analysis.blocks import Ints
from tbench.analysis.summary import Floats

Truths = npt.NDArray[np.bool_]

BLOCKS = 16
"""What counts as both: the same session in the same of so many blocks."""
FEW = 12
"""With fewer sessions than this no spread between them is known well enough."""
UNSURE = 8
"""With fewer degrees of freedom in all than this, by Satterthwaite's rule, neither is the error known."""


class Clusters:
    """The sessions of requests in arrival order, numbered; -1 is a request of its own.

    The rest goes by cells: the requests of one session in one block of time. A session that lies within one
    block is left out of `order` and all that follows: what it adds to V(session) it adds to V(both).
    """

    def __init__(self, sessions: Ints) -> None:
        n = len(sessions)
        lone = sessions < 0
        numbers = np.where(lone, int(sessions.max(initial=0)) + np.cumsum(lone), sessions)
        order = np.argsort(numbers, kind="stable")
        # By place, not by time: the blocks of the arms hold equal counts, as the block test's do.
        block = order * BLOCKS // max(n, 1)
        first = np.diff(numbers[order], prepend=-1) != 0
        cell = first | (
            np.diff(block, prepend=-1) != 0
        )  # where a session, or its part in a block, begins
        starts = np.flatnonzero(first)
        self.sizes = np.diff(starts, append=n)
        long = (
            np.repeat(np.add.reduceat(cell, starts, dtype=np.int64) > 1, self.sizes) if n else first
        )
        self.order = order[long]
        self._cells = np.flatnonzero(cell[long])
        self._sessions = np.flatnonzero(first[long][self._cells])

    @cached_property
    def count(self) -> float:
        """How many sessions of equal size would say as much: (sum n)^2 / sum n^2."""
        return float(self.sizes.sum()) ** 2 / float((self.sizes.astype(np.float64) ** 2).sum())

    @cached_property
    def spread(self) -> float:
        """The same for the variance between sessions, in which large ones count more: n^2 in place of n."""
        squares = self.sizes.astype(np.float64) ** 2
        return float(squares.sum()) ** 2 / float((squares**2).sum())

    @property
    def plain(self) -> bool:
        """Whether no session reaches from one block into another, so that there is nothing to add."""
        return not len(self.order)

    def sums(self, ordered: Floats | Truths) -> Floats:
        """The sum of each cell, of terms that are already in `order`."""
        return (
            np.add.reduceat(ordered, self._cells, dtype=np.float64) if len(ordered) else np.empty(0)
        )

    def excess(self, cells: Floats) -> float:
        """V(session) - V(both) of a sum, by what each cell adds to it; negative where sessions cancel."""
        if not len(cells):
            return 0.0
        sessions = np.add.reduceat(cells, self._sessions)
        g = len(sessions)
        return g / max(g - 1, 1) * float((sessions**2).sum()) - float((cells**2).sum())


class Exceedance:
    """An arm's values in the order of its clusters, and which of them exceed what."""

    def __init__(self, clusters: Clusters, logs: Floats) -> None:
        self._clusters = clusters
        self._logs = logs[clusters.order]
        self._there = clusters.sums(~np.isnan(self._logs))
        self._n = max(int((~np.isnan(logs)).sum()), 1)

    def cells(self, at: float, share: float) -> Floats:
        """What each cell adds to the `share` of values <= `at`, less its part of it."""
        return (self._clusters.sums(self._logs <= at) - share * self._there) / self._n


def clusters_of(baseline: Ints, candidate: Ints, *, paired: bool) -> tuple[Clusters, ...]:
    """The sessions of both arms together when paired, of each otherwise; none where none is known."""
    if max(int(numbers.max(initial=-1)) for numbers in (baseline, candidate)) < 0:
        return ()
    if paired:
        return (Clusters(np.maximum(baseline, candidate).astype(np.int64)),)
    return Clusters(baseline.astype(np.int64)), Clusters(candidate.astype(np.int64))


def freedom(clusters: Sequence[Clusters], blocks: Ints) -> Floats:
    """Student's degrees of freedom for each number of blocks: of these, or of the sessions if fewer.

    A single session has nothing to be compared with: then it is the blocks alone.
    """
    by_time = blocks.astype(np.float64) - 1
    counts = [arm.count for arm in clusters if len(arm.sizes) > 1]
    return np.minimum(by_time, max(min(counts) - 1, 1.0)) if counts else by_time


def few(clusters: Sequence[Clusters], inflation: Floats, blocks: Ints) -> Truths:
    """Where a few sessions decide: there are few, or a few large ones make most of the variance."""
    if not clusters:
        return np.zeros(len(blocks), dtype=bool)
    # Satterthwaite: degrees of a sum of variances, by the share that each has in it.
    between = max(min(arm.spread for arm in clusters) - 1, 0.5)
    degrees = inflation**2 / (1 / (blocks - 1.0) + (inflation - 1) ** 2 / between)
    scarce = min(arm.count for arm in clusters) < FEW
    # Few blocks have few degrees by themselves, which their t has paid for: that is no fault of sessions.
    wanted = np.minimum(UNSURE, 0.6 * (blocks - 1))
    return np.asarray(scarce | ((inflation > 1) & (degrees < wanted)))


def inflated(excess: Sequence[float], time: float) -> float:
    """By what the variance over time is multiplied: never less than 1."""
    return max(1.0, 1.0 + sum(excess) / time) if time > 0 else 1.0
