"""Counted: values of which only a histogram is held, in the place of the values in ascending order.

Where a statistic asks for the k-th of n ordered values, or how many are no larger than x, a histogram answers
to a bucket's width (capture.histogram): within it values are taken to lie evenly.
"""

from collections.abc import Iterable
from typing import Final, overload

import numpy as np
import numpy.typing as npt

from tbench.capture.histogram import LEAST, STEP, Histogram

Values = npt.NDArray[np.float64]
PER_OCTAVE: Final = float(np.log(2) / STEP)
NOTHING: Final = round(float(np.log(LEAST)) / STEP)
"""The bucket of zero, and of what is too small to tell from it."""


SAMPLE: Final = 2048
"""So many values are kept themselves."""


class Spread:
    """Values as they come, in parts: a histogram of the finite ones, and how many are +inf or NaN.

    What is below zero is counted with zero, and beside that by its size in `negative`. `sample` are the first
    values as they are, by which those of a clock that ticks are known.
    """

    def __init__(self) -> None:
        self.timeouts = 0
        self.absent = 0
        self.total = 0.0
        self.least, self.most = np.inf, -np.inf
        self.negative: Spread | None = None
        self.sample: Values = np.empty(0)
        self._counts = np.zeros(0, dtype=np.int64)

    def add(self, values: Values) -> None:
        """Count a part: NaN is no value."""
        present = values[~np.isnan(values)]
        self.absent += len(values) - len(present)
        if len(present) and present.max() == np.inf:
            finite = present[present < np.inf]
            self.timeouts += len(present) - len(finite)
            present = finite
        if not len(present):
            return
        least = float(present.min())
        self.total += float(present.sum())
        self.least = min(self.least, least)
        self.most = max(self.most, float(present.max()))
        if least < 0:
            self.negative = self.negative or Spread()
            self.negative.add(-present[present < 0])
        if (room := SAMPLE - len(self.sample)) > 0:
            self.sample = np.concatenate([self.sample, present[:room]])
        # In place, and in the base that is the fastest: this is most of the time that a large run takes.
        places = np.log2(present if least >= LEAST else np.maximum(present, LEAST))
        places *= PER_OCTAVE
        places += 0.5 - NOTHING
        self._count(np.bincount(places.astype(np.int64)))

    def merge(self, other: "Spread", sign: int = 1) -> None:
        """Count another's values, too; with sign -1 no more, where all of them were counted."""
        self.timeouts += sign * other.timeouts
        self.absent += sign * other.absent
        self.total += sign * other.total
        self._count(sign * other._counts)  # noqa: SLF001 (one of our own)
        if other.negative is not None:
            self.negative = self.negative or Spread()
            self.negative.merge(other.negative, sign)
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    def _count(self, counts: npt.NDArray[np.int64]) -> None:
        if len(counts) > len(self._counts):
            self._counts = np.pad(self._counts, (0, len(counts) - len(self._counts)))
        self._counts[: len(counts)] += counts

    @property
    def finite(self) -> int:
        """How many values are."""
        return int(self._counts.sum())

    @property
    def n(self) -> int:
        return self.finite + self.timeouts

    @property
    def mean(self) -> float | None:
        """Of the finite ones."""
        return self.total / n if (n := self.finite) else None

    @property
    def histogram(self) -> Histogram:
        """The finite values; what is below the least that it tells apart stands in the bucket of zero."""
        held = np.flatnonzero(self._counts)
        counts = dict(zip((held + NOTHING).tolist(), self._counts[held].tolist(), strict=True))
        return Histogram.counted(counts, total=self.total, least=self.least, most=self.most)


class Counted:
    """The values of a Spread in ascending order, +inf last, as an array has them: length, places, slices."""

    def __init__(self, spread: Spread) -> None:
        self._finite, self._n = spread.finite, spread.n
        self._least, self._most = spread.least, spread.most
        self._negative = Counted(spread.negative) if spread.negative else None
        self._edges, (self._below,) = cumulated([spread.histogram])

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, place: int) -> float: ...
    @overload
    def __getitem__(self, place: slice) -> Values: ...
    def __getitem__(self, place: int | slice) -> float | Values:
        """As an array's, to a bucket's width."""
        values = self.at(np.atleast_1d(range(self._n)[place]))
        return values if isinstance(place, slice) else float(values[0])

    def at(self, places: npt.NDArray[np.int64]) -> Values:
        """Those at several places."""
        logs = value_at(self._edges, self._below, places + 0.5)
        values = np.exp(logs)
        if self._negative is not None:
            n = len(self._negative)
            values[places < n] = -self._negative.at(n - 1 - places[places < n])
        values = np.clip(values, self._least, self._most)
        # The extremes are exact, which none of the buckets is.
        values = np.where(places == 0, self._least, values)
        values = np.where(places == self._finite - 1, self._most, values)
        return np.where(places < self._finite, values, np.inf)


Ranked = Values | Counted
"""Values in ascending order, themselves or counted."""


def cumulated(histograms: Iterable[Histogram]) -> tuple[Values, Values]:
    """The edges of the buckets, logarithms; and of each histogram how many values lie below each edge.

    Shapes (edges,) and (histograms, edges). The first bucket, from -inf on, is that of zero.
    """
    every = [histogram.counts for histogram in histograms]
    last = max((max(counts) for counts in every if counts), default=NOTHING)
    rows = np.zeros((len(every), last - NOTHING + 2))
    for row, counts in zip(rows, every, strict=True):
        row[np.fromiter(counts, np.int64) - NOTHING + 1] = np.fromiter(counts.values(), np.float64)
    edges: Values = (np.arange(NOTHING, last + 2, dtype=np.float64) - 0.5) * STEP
    edges[0] = -np.inf
    return edges, np.cumsum(rows, axis=1)


def count_below(edges: Values, below: Values, at: Values) -> Values:
    """How many values lie at or below each logarithm."""
    return np.interp(at, edges[1:], below[1:])


def value_at(edges: Values, below: Values, count: npt.ArrayLike) -> Values:
    """The logarithm at or below which so many values lie, more than none; -inf among those of zero."""
    place = np.searchsorted(below, count).clip(1, len(below) - 1)
    inside = (count - below[place - 1]) / np.maximum(below[place] - below[place - 1], 1)
    return np.asarray(edges[place - 1] + np.minimum(inside, 1) * STEP)
