"""Omnibus: do two paired arms differ anywhere in their distribution? A test by swapping labels of blocks.

If they do not, then inside any block of time either arm could as well have been the other. Swapping the
two labels block by block gives what chance would show, whatever depends on what inside a block. Two
statistics, joined by the smaller p-value within the same swaps: the largest gap between the distribution
functions, and the largest ratio of tail quantiles, to which the gap is blind. Limits: docs/statistics.md.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tbench.analysis.inversion import FINE, Pair, Side
from tbench.analysis.quantiles import rank
from tbench.analysis.summary import Floats

BLOCKS = 16
SIGNIFICANT = 0.05
LEAST = 8
"""A block with fewer values, in either arm, is too little to swap."""
_ALL = 11
"""Up to this many blocks every swap is tried."""
_POINTS = 1024
"""The distributions are compared at this many values of each arm: all of them, or evenly many."""
_AT_ONCE = 128
"""Points in one product, small enough for a cache. Never by BLAS: its threads wait for each other."""
_TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Omnibus:
    """Whether the arms differ anywhere: `p_value` of no difference, None with a `refusal`.

    Effect sizes: `gap` is the largest F_candidate - F_baseline (its sign kept), at the value `gap_at` in
    the metric's unit, None without a gap; `tail_ratio` the ratio furthest from 1 of the tail quantiles,
    at `tail`, None where no tail was allowed or it lies among timeouts. `gap_p` and `tail_p` are the
    p-values that were joined, over `swaps` swaps of the labels of `blocks` blocks (1: no swap).
    """

    gap: float
    gap_at: float | None
    tail: float | None
    tail_ratio: float | None
    gap_p: float | None
    tail_p: float | None
    p_value: float | None
    swaps: int
    blocks: int
    refusal: str | None

    @property
    def differs(self) -> bool:
        return self.p_value is not None and self.p_value <= SIGNIFICANT


def omnibus(
    pair: Pair, tails: Sequence[float] = (), *, blocks: int = BLOCKS, refusal: str | None = None
) -> Omnibus:
    """The block label-swap test of paired arms; `blocks` must divide 32, `tails` are high quantiles.

    With a `refusal` (why there can be no test) only the effect sizes are given.
    """
    refusal = refusal or _sparse(pair, blocks)
    swapped = _Swapped(pair, swaps(blocks)[: 1 if refusal else None])
    gap, at, gaps = swapped.gaps()
    ratios = [swapped.log_ratios(p) for p in tails]
    p_values = shares(np.column_stack([gaps, *([np.abs(ratios).max(axis=0)] if ratios else [])]))
    tail = max(range(len(tails)), key=lambda which: abs(ratios[which][0]), default=None)
    furthest = float(ratios[tail][0]) if tail is not None else math.inf
    return Omnibus(
        gap=gap,
        gap_at=math.exp(at) if gap else None,
        tail=None if tail is None else tails[tail],
        tail_ratio=math.exp(furthest) if math.isfinite(furthest) else None,
        gap_p=None if refusal else float(p_values[0, 0]),
        tail_p=float(p_values[0, 1]) if ratios and not refusal else None,
        p_value=None if refusal else joined(p_values),
        swaps=len(gaps),
        blocks=blocks,
        refusal=refusal,
    )


def _sparse(pair: Pair, blocks: int) -> str | None:
    least = min(int(side.sizes.reshape(blocks, -1).sum(axis=1).min()) for side in pair.sides)
    return None if least >= LEAST else f"a block has {least} values (needs {LEAST})"


@cache
def swaps(blocks: int) -> npt.NDArray[np.int64]:
    """Which blocks to swap, 0 or 1: shape (swaps, blocks), at most 16 blocks; the first row swaps none.

    The first block stays: swapping all others instead is the mirror image, with the same statistics. Up
    to 11 blocks every swap is here. Of more, those that swap an even number of blocks whose numbers XOR
    to 0 (the extended Hamming code: any two differ in 4 blocks or more). As these form a group, the test
    is exact as with all swaps, and nothing is drawn at random.
    """
    every = np.arange(2 ** (blocks - 1))
    found = np.column_stack([np.zeros_like(every), (every[:, None] >> np.arange(blocks - 1)) & 1])
    if blocks <= _ALL:
        return found
    even = found.sum(axis=1) % 2 == 0
    nothing = np.bitwise_xor.reduce(found * np.arange(blocks), axis=1) == 0
    return np.asarray(found[even & nothing])


def shares(statistics: Floats) -> Floats:
    """For each swap (row) and statistic (column), the share of swaps with one at least as large."""
    ascending = np.sort(statistics, axis=0)
    below = [
        np.searchsorted(column, values - _TIE, "left")
        for column, values in zip(ascending.T, statistics.T, strict=True)
    ]
    return 1 - np.stack(below, axis=1) / len(statistics)


def joined(p_values: Floats) -> float:
    """The p-value of the first row's smallest, among the smallest of all rows."""
    least = p_values.min(axis=1)
    return float((least <= least[0] + _TIE).mean())


class _Swapped:
    """The distributions of both arms under every swap, the real one first. All on logarithms."""

    def __init__(self, pair: Pair, patterns: npt.NDArray[np.int64]) -> None:
        self._sides = pair.sides
        self._swaps = patterns.astype(np.float64)
        a, b = (side.sizes.reshape(patterns.shape[1], -1).sum(axis=1) for side in self._sides)
        moved = (patterns @ (b - a))[:, None]
        self._sizes = a.sum() + moved, b.sum() - moved

    def gaps(self) -> tuple[float, float, Floats]:
        """The largest F_b - F_a of the real arms with its sign, where it is, and its size in every swap."""
        largest, real, at = np.zeros(len(self._swaps)), 0.0, -np.inf
        points = np.unique(np.concatenate([_some(side.all) for side in self._sides]))
        for some, share_a, share_b in self._shares(points):
            gap = share_b - share_a
            largest = np.maximum(largest, np.abs(gap).max(axis=1))
            place = int(np.abs(gap[0]).argmax())
            if abs(gap[0, place]) > abs(real):
                real, at = float(gap[0, place]), float(some[place])
        return real, at, largest

    def log_ratios(self, p: float) -> Floats:
        """log(Q_b / Q_a) at p in every swap; 0 where both lie among the timeouts."""
        points = self._within(p)
        short = [
            [(share < p - _TIE).sum(axis=1) for share in shares]
            for _, *shares in self._shares(points)
        ]
        a, b = points[np.minimum(np.sum(short, axis=0), len(points) - 1)]
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nan_to_num(b - a, nan=0.0, posinf=np.inf, neginf=-np.inf))

    def _within(self, p: float) -> Floats:
        """Values among which the p-quantile of every swap lies: between the blocks' own, ascending."""
        own = [
            block[rank(len(block), p) - 1]
            for side in self._sides
            for block in side.blocks
            if len(block)
        ]
        ends = np.array([min(own), max(own)])
        inner = [_some(side.all[slice(*np.searchsorted(side.all, ends))]) for side in self._sides]
        return np.unique(np.concatenate([ends, *inner]))

    def _shares(self, points: Floats) -> Iterator[tuple[Floats, Floats, Floats]]:
        """A few points at a time, with F of either arm there in every swap: shape (swaps, few)."""
        a, b = (self._by_block(side, points) for side in self._sides)
        for first in range(0, len(points), _AT_ONCE):
            few = slice(first, first + _AT_ONCE)
            moved = np.einsum("sk,kp->sp", self._swaps, b[:, few] - a[:, few])
            counts = a[:, few].sum(axis=0) + moved, b[:, few].sum(axis=0) - moved
            share_a, share_b = (count / n for count, n in zip(counts, self._sizes, strict=True))
            yield points[few], share_a, share_b

    def _by_block(self, side: Side, points: Floats) -> Floats:
        """How many values of each block are <= each point. Whole numbers, so that sums are exact."""
        blocks = self._swaps.shape[1]
        counts = side.counts(points).reshape(len(points), blocks, FINE // blocks).sum(axis=2)
        return counts.T.astype(np.float64, order="C")


def _some(ascending: Floats) -> Floats:
    """All values, or evenly many of them with both ends."""
    if len(ascending) <= _POINTS:
        return ascending
    return ascending[np.linspace(0, len(ascending) - 1, _POINTS).astype(np.int64)]
