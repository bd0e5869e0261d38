"""Lengths: end to end with the length of the answers taken out, a control variate inside the inversion.

End to end grows with the output, and where lengths vary most of what scatters is length. So an answer
scores 1(x <= c) - m(L) in place of 1(x <= c), m(L) being the share within c among all answers of about that
length in other blocks of time. Where both arms answer equally long it says what the plain inversion says,
from less noise; where they do not, it answers for equal lengths (direct standardisation).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from tbench.analysis.blocks import FINE, Ints, Side, logarithms
from tbench.analysis.clusters import BLOCKS, Clusters, inflated
from tbench.analysis.inversion import Pair, variance
from tbench.analysis.summary import Floats

MOST_BINS, PER_BIN = 40, 50
"""Answers are sorted by length into so many bins at most, with so many of an arm in each on average."""
FEWEST: Final = 4 * PER_BIN
"""Fewer answers have too few bins to say anything of their lengths."""
COMMON: Final = 0.5
"""The distributions of lengths must overlap by this share."""
_NONE = 1e-9
_REACH, _HALVINGS = 5.0, 26
"""How far from the plain ratio to look, on logarithms, and how often to halve that: to a millionth."""


def length_bins(baseline: Floats, candidate: Floats) -> tuple[Ints, Ints]:
    """The bin of each answer by its output tokens, NaN (not counted) being a bin of its own: the last one.

    Edges are quantiles of both arms together.
    """
    both = np.concatenate([baseline, candidate])
    known = both[~np.isnan(both)]
    wanted = min(MOST_BINS, min(len(baseline), len(candidate)) // PER_BIN)
    parts = np.arange(1, max(wanted, 1)) / max(wanted, 1)
    edges = np.unique(np.quantile(known, parts)) if len(known) else known
    first, second = (
        np.where(np.isnan(side), len(edges) + 1, np.searchsorted(edges, side, "right"))
        for side in (baseline, candidate)
    )
    return first, second


def overlap(baseline: Ints, candidate: Ints) -> float:
    """What share of the answers the arms have in the same bins: the sum over bins of the smaller share."""
    bins = int(max(baseline.max(initial=0), candidate.max(initial=0))) + 1
    first, second = (
        np.bincount(side, minlength=bins) / max(len(side), 1) for side in (baseline, candidate)
    )
    return float(np.minimum(first, second).sum())


class AtEqualLengths(Pair):
    """A Pair of which the answers' lengths are taken out; `bins` as of `length_bins`, one for each value."""

    def __init__(
        self,
        a: Side,
        b: Side,
        bins: tuple[Ints, Ints],
        *,
        paired: bool = True,
        sessions: tuple[Clusters, ...] = (),
    ) -> None:
        super().__init__(a, b, paired=paired, sessions=sessions)
        self._ratios: dict[float, float] = {}
        self._width = int(max(one.max(initial=0) for one in bins)) + 1
        self._sorted = tuple(
            _Cells(side, one, self._width)
            for side, one in zip((a.untied, b.untied), bins, strict=True)
        )

    def log_ratio(self, p: float) -> float:
        """Where the scores of both arms are equal; NaN where that is nowhere near."""
        if p not in self._ratios:
            self._ratios[p] = self._root(p)
        return self._ratios[p]

    def _root(self, p: float) -> float:
        low, high = (
            np.array([super(AtEqualLengths, self).centre(p) + way * _REACH]) for way in (-1, 1)
        )
        at = np.array([p])
        if not (self.scores(low, at)[0][0] < 0 < self.scores(high, at)[0][0]):
            return float("nan")
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.scores(middle, at)[0] < 0
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return float((low + high)[0] / 2)

    def centre(self, p: float) -> float:
        """The same; where there is none, that of the plain pair."""
        ratio = self.log_ratio(p)
        return ratio if np.isfinite(ratio) else super().centre(p)

    def scores(self, shift: Floats, p: Floats) -> tuple[Floats, Floats]:
        """As of a Pair, of what is left of the exceedance after its share among answers of that length."""
        ends = self._pooled(shift, p)
        counts = [side.counts(end) for side, end in zip(self._sorted, ends, strict=True)]
        expected = self._expected(counts, p)
        difference, terms = np.zeros(len(shift)), np.zeros((len(shift), FINE))
        for sign, side, count in zip((-1, 1), self._sorted, counts, strict=True):
            left = (count - expected * side.sizes).sum(axis=2) / side.n
            share = left.sum(axis=1)
            difference += sign * share
            terms += sign * (left - share[:, None] * side.sizes.sum(axis=1) / side.n)
        usable = np.isfinite(ends).all(axis=0)
        return np.where(usable, difference, 0.0), np.where(usable[:, None], terms, 0.0)

    def _expected(self, counts: Sequence[Floats], p: Floats) -> Floats:
        """The share m of each bin, for a fine block from all blocks but the one of 16 that it is in.

        Shape (lanes, 32, bins); a bin that is in no other block is expected to hold p.
        """
        a, b = self._sorted
        within = (
            (counts[0] / a.n + counts[1] / b.n).reshape(len(p), BLOCKS, -1, self._width).sum(axis=2)
        )
        held = (a.sizes / a.n + b.sizes / b.n).reshape(BLOCKS, -1, self._width).sum(axis=1)
        others = held.sum(axis=0) - held
        some = others > _NONE
        rest = within.sum(axis=1, keepdims=True) - within
        share = np.where(some, rest / np.where(some, others, 1.0), p[:, None, None])
        return np.repeat(share, FINE // BLOCKS, axis=1)

    def inflation(self, shift: Floats, p: Floats, blocks: Ints) -> Floats:
        """As of a Pair."""
        found = np.ones(len(shift))
        if all(one.plain for one in self._clusters):
            return found
        ends = self._pooled(shift, p)
        time = variance(self.scores(shift, p)[1], blocks)
        counts = [side.counts(end) for side, end in zip(self._sorted, ends, strict=True)]
        expected = self._expected(counts, p)
        for lane in np.flatnonzero(np.isfinite(ends).all(axis=0)):
            rest = [
                sign * side.rest(end[lane], expected[lane])
                for sign, side, end in zip((-1, 1), self._sorted, ends, strict=True)
            ]
            parts = [rest[0] + rest[1]] if len(self._clusters) == 1 else rest
            excess = [
                one.excess(one.sums(part[one.order]))
                for one, part in zip(self._clusters, parts, strict=True)
            ]
            found[lane] = inflated(excess, float(time[lane]))
        return found


class _Cells:
    """An arm's values by fine block and bin, sorted within each: counting takes a bisection of each."""

    def __init__(self, side: Side, bins: Ints, width: int) -> None:
        assert side.given is not None
        logs = logarithms(side.given)
        there = ~np.isnan(logs)
        block = np.arange(len(logs), dtype=np.int64) * FINE // max(len(logs), 1)
        cell = (block * width + bins)[there]
        self.n, self._all, self._logs = len(cell), side.all, logs
        self._block, self._bins = block, bins
        rank = np.searchsorted(self._all, logs[there], "left")
        self._keys = np.sort(cell * (self.n + 1) + rank)
        held = np.bincount(cell, minlength=FINE * width)
        self.sizes = held.reshape(FINE, width)
        self._starts = np.cumsum(held) - held

    def counts(self, at: Floats) -> Floats:
        """How many values of each block and bin are <= each element of `at`: shape (len(at), 32, bins)."""
        ranks = np.searchsorted(self._all, at, "right")
        cells = np.arange(self.sizes.size, dtype=np.int64) * (self.n + 1)
        within = np.searchsorted(self._keys, (cells + ranks[:, None]).ravel(), "left")
        counts = within.reshape(len(at), -1) - self._starts
        return counts.reshape(len(at), *self.sizes.shape).astype(np.float64)

    def rest(self, at: float, expected: Floats) -> Floats:
        """What each request adds to the arm's score, less its share of it; nothing without a value."""
        there = ~np.isnan(self._logs)
        rest = np.where(there, (self._logs <= at) - expected[self._block, self._bins], 0.0)
        return np.where(there, rest - rest.sum() / self.n, 0.0) / self.n
