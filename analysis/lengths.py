"""Lengths: end to end with the length of the answers taken out, a control variate inside the inversion.

End to end grows with the output, and where lengths vary most of what scatters is length. So an answer
scores 1(x <= c) - m(L) in place of 1(x <= c), m(L) being the share within c among all answers of about that
length in other blocks of time. Where both arms answer equally long it says what the plain inversion says,
from less noise; where they do not, it answers for equal lengths (direct standardisation).

With the length out, what is left may be nothing but load, which lasts: where it is correlated over a third
of a block the variance between blocks is a sixth too small. `variance` adds what neighbours share.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from tbench.analysis.blocks import BLOCKS, Clusters, Ints, Side, logarithms
from tbench.analysis.inversion import Pair, lag_one
from tbench.analysis.summary import Floats
from tbench.analysis.sums import FINE

MOST_BINS, PER_BIN = 40, 50
"""Answers are sorted by length into so many bins at most, with so many of an arm in each on average."""
FEWEST: Final = 4 * PER_BIN
"""Fewer answers have too few bins to say anything of their lengths."""
COMMON: Final = 0.5
"""The distributions of lengths must overlap by this share."""
_NONE = 1e-9
"""What rounding leaves of a share of nothing."""
_REACH, _HALVINGS = 5.0, 26
"""How far from the plain ratio to look, on logarithms, and how often to halve that: to a millionth."""


def length_bins(baseline: Floats, candidate: Floats) -> tuple[Ints, Ints]:
    """The bin of each answer by its output tokens, NaN (not counted) being a bin of its own: the last one.

    Edges are quantiles of both arms together.
    """
    both = np.concatenate([baseline, candidate])
    known = both[~np.isnan(both)]
    # Fewer bins for fewer answers: the share of a bin of five foretells nothing.
    number = max(min(MOST_BINS, min(len(baseline), len(candidate)) // PER_BIN), 1)
    parts = np.arange(1, number) / number
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
        self._ratios: dict[bytes, Floats] = {}
        self._width = int(max(numbers.max(initial=0) for numbers in bins)) + 1
        self._sorted = tuple(
            _Sorted(side, numbers, self._width)
            for side, numbers in zip((a.untied, b.untied), bins, strict=True)
        )

    def log_ratios(self, points: Floats) -> Floats:
        """Where the scores of both arms are equal; NaN where that is nowhere near."""
        if (known := self._ratios.get(points.tobytes())) is not None:
            return known
        plain = super().centres(points)
        low, high = plain - _REACH, plain + _REACH
        # Without a change of sign there is no ratio at which the arms score alike.
        crossed = (self.scores(low, points)[0] < 0) & (self.scores(high, points)[0] > 0)
        low, high, p = low[crossed], high[crossed], points[crossed]
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.scores(middle, p)[0] < 0
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        ratios = np.full(len(points), np.nan)
        ratios[crossed] = (low + high) / 2
        self._ratios[points.tobytes()] = ratios
        return ratios

    def centres(self, points: Floats) -> Floats:
        """The log ratios; where there is none, that of the plain pair."""
        ratios = self.log_ratios(points)
        return np.where(np.isfinite(ratios), ratios, super().centres(points))

    def scores(self, shift: Floats, p: Floats) -> tuple[Floats, Floats]:
        """As of a Pair, of what is left of the exceedance after its share among answers of that length."""
        ends = self._a.pooled(self._b, shift, p)
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
        # Its own block left out: an answer that helped to foretell itself would hide its own scatter.
        others = held.sum(axis=0) - held
        elsewhere = others > _NONE
        below = within.sum(axis=1, keepdims=True) - within
        share = np.where(elsewhere, below / np.where(elsewhere, others, 1.0), p[:, None, None])
        return np.repeat(share, FINE // BLOCKS, axis=1)

    def variance(self, terms: Floats, blocks: Ints) -> Floats:
        """As of a Pair, and what a block shares with its neighbours.

        With the autocorrelation rho at lag 1, L fine blocks alone have the variance L + 2 (L - 1) rho, and L
        of an endless row have L + 2 L rho.
        """
        # Never below 0: that neighbours seem to take turns is mostly chance, and would narrow the
        # interval.
        rho = np.clip(lag_one(terms), 0.0, 0.5)
        apart = 1 + 2 * rho * (1 - blocks / FINE)
        return np.asarray(super().variance(terms, blocks) * (1 + 2 * rho) / apart)

    def freedom(self, blocks: Ints) -> Floats:
        """As of a Pair, or fewer: rho is a guess from the same blocks.

        The delta method gives that variance the scatter of 10 squares where K = 16, and of 6 where K = 8.
        """
        degrees = np.select([blocks >= 16, blocks >= 8], [10, 6], blocks - 1)
        return np.asarray(np.minimum(super().freedom(blocks), degrees))

    def _cells(self, at_a: float, at_b: float, p: float) -> tuple[Floats, Floats]:
        ends = at_a, at_b
        counts = [
            side.counts(np.array([end])) for side, end in zip(self._sorted, ends, strict=True)
        ]
        expected = self._expected(counts, np.array([p]))[0]
        a, b = (
            clusters.sums(side.left(end, expected)[clusters.order])
            for clusters, side, end in zip(
                (self._clusters[0], self._clusters[-1]), self._sorted, ends, strict=True
            )
        )
        return a, b


class _Sorted:
    """An arm's values by fine block and bin, sorted within each: counting takes a bisection of each."""

    def __init__(self, side: Side, bins: Ints, width: int) -> None:
        logs = logarithms(side.given)
        measured = ~np.isnan(logs)
        block = np.arange(len(logs), dtype=np.int64) * FINE // max(len(logs), 1)
        cell = (block * width + bins)[measured]
        self.n, self._all, self._logs = len(cell), side.all, logs
        self._block, self._bins = block, bins
        # Cell and rank as one number, the cell first: one sort orders all cells, one bisection
        # counts in all of them. Ranks are "left" here and "right" in `counts`, so that what is
        # equal counts as within.
        rank = np.searchsorted(self._all, logs[measured], "left")
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

    def left(self, at: float, expected: Floats) -> Floats:
        """What each request adds to the arm's score, less its share of it; nothing without a value."""
        measured = ~np.isnan(self._logs)
        left = np.where(measured, (self._logs <= at) - expected[self._block, self._bins], 0.0)
        return np.where(measured, left - left.sum() / self.n, 0.0) / self.n
