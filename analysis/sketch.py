"""Sketch: how the values of one metric are spread over time blocks, as counts in buckets instead of values.

A bucket is a 1,024th of an octave, so whatever lies in it is known to a relative error of 1/1,024 (the rule
of HdrHistogram; DDSketch, Masson et al., VLDB 2019, promises the same). Sketches of parts add up to
the sketch of the whole, in any order, to the last count. Memory does not grow with the number of values.
"""

import math
from typing import Final, NamedTuple

import numpy as np

from tbench.analysis.blocks import FINE, Distribution, Ints, logarithms
from tbench.analysis.quantiles import rank
from tbench.analysis.summary import Floats

_BITS: Final = 10
RELATIVE_ERROR: Final = 2.0**-_BITS
"""At most so much, as a share of the exact value."""
LEAST: Final = 2.0**-30
"""What is smaller (1 ns, in seconds) counts as zero."""
BEYOND: Final = 2.0**32
"""A value as large as this (136 years) is refused."""
_SHIFT: Final = 52 - _BITS
_BOTTOM, _TOP = math.log(LEAST), math.log(BEYOND)
_HALVINGS: Final = 60
_HALF: Final = 0.5
_TIE: Final = 1e-12


def _buckets(values: Floats) -> Ints:
    """The bucket of positive numbers: their exponent and first bits, as IEEE 754 has them."""
    return np.ascontiguousarray(values).view(np.int64) >> _SHIFT


def _edges(first: int, end: int) -> Floats:
    """The least number of each bucket."""
    return (np.arange(first, end, dtype=np.int64) << _SHIFT).view(np.float64)


_LOWEST: Final = int(_buckets(np.array([LEAST]))[0])


class Sketch:
    """A Distribution of values that were counted, in `blocks` blocks (the inversion needs 32).

    `counts` has a row for each block and a column for each bucket from `start` on; `zeros` and `late`
    (timeouts) are counted beside it. `least` and `most` are the exact ends of what is finite.
    """

    def __init__(self, blocks: int = FINE) -> None:
        self.start = 0
        self.counts = np.zeros((blocks, 0), dtype=np.int64)
        self.zeros = np.zeros(blocks, dtype=np.int64)
        self.late = np.zeros(blocks, dtype=np.int64)
        self.least, self.most = math.inf, -math.inf
        self._whole: _Whole | None = None

    def add(self, values: Floats, blocks: Ints) -> None:
        """Count values, each in its block: NaN is none, +inf a timeout, below zero counts as zero.

        Raises ValueError for a finite value of BEYOND or more.
        """
        late, there = np.isposinf(values), np.isfinite(values)
        some = values[there]
        if len(some) and some.max() >= BEYOND:
            raise ValueError(f"a value of {some.max():g}: no metric has one")
        positive = there & (values >= LEAST)
        np.add.at(self.late, blocks[late], 1)
        np.add.at(self.zeros, blocks[there & ~positive], 1)
        self._count(_buckets(values[positive]), blocks[positive])
        self.least = min(self.least, float(some.min(initial=math.inf)))
        self.most = max(self.most, float(some.max(initial=-math.inf)))
        self._whole = None

    def merge(self, other: "Sketch") -> "Sketch":
        """The sketch of both parts' values. Raises ValueError where they have other numbers of blocks."""
        if len(self.zeros) != len(other.zeros):
            raise ValueError(f"sketches of {len(self.zeros)} and {len(other.zeros)} blocks")
        both = Sketch(len(self.zeros))
        for one in (self, other):
            width = one.counts.shape[1]
            if width:
                both.span(one.start, one.start + width)
                at = one.start - both.start
                both.counts[:, at : at + width] += one.counts
            both.zeros += one.zeros
            both.late += one.late
            both.least, both.most = min(both.least, one.least), max(both.most, one.most)
        return both

    def __eq__(self, other: object) -> bool:
        """Whether both counted the same, whatever room each has."""
        return isinstance(other, Sketch) and self.content() == other.content()

    __hash__ = None  # type: ignore[assignment]

    @property
    def given(self) -> None:
        return None

    @property
    def nbytes(self) -> int:
        """What its counts take."""
        return self.counts.nbytes + self.zeros.nbytes + self.late.nbytes

    @property
    def n(self) -> int:
        return self._summed().n

    @property
    def timeouts(self) -> int:
        return int(self.late.sum())

    @property
    def largest(self) -> float:
        return float(logarithms(np.array([self.most]))[0])

    @property
    def untied(self) -> "Sketch":
        """Itself: shares rise evenly within a bucket."""
        return self

    def doubt(self, p: float) -> float:
        """The relative error, whatever p; or half the way to the next value, where a clock's ticks show."""
        at, least = self.quantile(p), math.log1p(RELATIVE_ERROR)
        held = self.counts.sum(axis=0)
        filled = np.flatnonzero(held)
        if len(filled) < 2 or not np.isfinite(at):
            return least
        edges = self._summed().edges[filled]
        place = max(int(np.searchsorted(edges, at, "right")) - 1, 0)
        if held[filled[place]] <= math.sqrt(self.n):
            return least
        gaps = np.diff(edges, prepend=-np.inf, append=np.inf)
        return max(least, float(min(gaps[place], gaps[place + 1])) / 2)

    def value(self, p: float) -> float:
        """The p-quantile, to a relative error of RELATIVE_ERROR: it lies in the bucket of the exact one."""
        return self.at(rank(self.n, p))

    def at(self, place: int) -> float:
        """The same of the value at a place in their order, counted from 1; past all finite ones +inf."""
        whole = self._summed()
        if place > whole.n - self.timeouts:
            return math.inf
        if place <= whole.all[0]:
            return 0.0
        at = np.interp(place - _HALF, whole.all, whole.edges)
        return float(np.clip(np.exp(at), max(self.least, LEAST), self.most))

    def quantile(self, p: float) -> float:
        return float(logarithms(np.array([self.value(p)]))[0])

    def tail_blocks(self, p: float) -> int:
        """Whatever shares the quantile's bucket counts with it."""
        at, whole = self.quantile(p), self._summed()
        place = int(np.searchsorted(whole.edges, at, "right"))
        if at == math.inf:
            beyond = self.late if p >= _HALF else whole.sizes
        elif p >= _HALF:
            beyond = whole.sizes - whole.below[:, place - 1] if place else whole.sizes
        else:
            beyond = whole.below[:, place]
        return int((beyond.reshape(16, 2).sum(axis=1) > 0).sum())

    def share(self, at: Floats) -> Floats:
        whole = self._summed()
        found = np.interp(at, whole.edges, whole.all)
        return np.asarray(np.where(at == np.inf, whole.n, found) / whole.n)

    def exceedance(self, at: Floats) -> tuple[Floats, Floats]:
        counts, n = self._within(at), self.n
        share = counts.sum(axis=1) / n
        return share, (counts - share[:, None] * self._summed().sizes) / n

    def first(self, other: Distribution, shift: Floats, p: Floats) -> Floats:
        """Between two values, where both arms' shares rise evenly within a bucket."""
        reach = np.abs(shift) + 1
        low, high = _BOTTOM - reach, _TOP + reach
        wanted = 2 * p - _TIE
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            enough = self.share(middle) + other.share(middle + shift) >= wanted
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        none = np.full(len(p), -np.inf)
        at_zero = self.share(none) + other.share(none) >= wanted
        reached = self.share(high) + other.share(high + shift) >= wanted
        return np.select([at_zero, reached], [none, high], np.inf)

    def _count(self, buckets: Ints, blocks: Ints) -> None:
        if not len(buckets):
            return
        self.span(int(buckets.min()), int(buckets.max()) + 1)
        width = self.counts.shape[1]
        np.add.at(self.counts.reshape(-1), blocks * width + (buckets - self.start), 1)

    def span(self, first: int, end: int) -> None:
        """Make room for buckets from `first` to before `end`, in whole octaves."""
        octave, width = 1 << _BITS, self.counts.shape[1]
        first, end = first // octave * octave, -(-end // octave) * octave
        if width:
            first, end = min(first, self.start), max(end, self.start + width)
        if end - first == width:
            return
        larger = np.zeros((len(self.zeros), end - first), dtype=np.int64)
        larger[:, self.start - first :][:, :width] = self.counts
        self.start, self.counts = first, larger

    def _summed(self) -> "_Whole":
        if self._whole is None:
            self._whole = _sum_up(self)
        return self._whole

    def _within(self, at: Floats) -> Floats:
        """How many values of each block are <= each element of `at`: shape (len(at), blocks)."""
        edges, below = self._summed()[:2]
        place = (np.searchsorted(edges, at, "right") - 1).clip(0, len(edges) - 2)
        width = edges[place + 1] - edges[place]
        part = np.clip((at - edges[place]) / width, 0, 1)[:, None]
        counted = below[:, place].T * (1 - part) + below[:, place + 1].T * part
        return np.asarray(np.where((at == np.inf)[:, None], self._summed().sizes, counted))

    def content(self) -> tuple[object, ...]:
        """What was counted, without the room that is left."""
        used = np.flatnonzero(self.counts.any(axis=0))
        where = (used + self.start).tolist()
        counts = self.counts[:, used].tolist()
        return where, counts, self.zeros.tolist(), self.late.tolist(), self.least, self.most


class _Whole(NamedTuple):
    """What follows from a sketch: `below` each edge (a logarithm) lie so many values, zeros among them."""

    edges: Floats
    below: Ints
    all: Floats
    sizes: Ints
    n: int


def _sum_up(sketch: Sketch) -> _Whole:
    start, counts = sketch.start, sketch.counts
    if not counts.shape[1]:
        start, counts = _LOWEST, np.zeros((len(counts), 1), dtype=np.int64)
    below = np.cumsum(np.column_stack([sketch.zeros, counts]), axis=1)
    edges = np.log(_edges(start, start + below.shape[1]))
    sizes = below[:, -1] + sketch.late
    return _Whole(edges, below, below.sum(axis=0, dtype=np.float64), sizes, int(sizes.sum()))
