"""Histogram: counts in log buckets, a small and bounded amount of memory for any number of values.

Those of parts add up to that of the whole. A bucket is two per mille wide, which no figure that is shown from
it can tell; what a verdict rests on is computed from the values themselves, unless these are more than memory
holds (analysis.beyond).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

STEP: Final = math.log(1.002)
"""The width of a bucket: two per mille of a value."""
_log: Final = math.log
LEAST: Final = 1e-6
"""Values below it are counted in its bucket."""


class Bin(NamedTuple):
    """`n` values lie in [low, high)."""

    low: float
    high: float
    n: int


@dataclass(kw_only=True, slots=True)
class Histogram:
    """Values from 0, of any unit: `n` of them with their `total` and extremes, exact.

    Below zero counts as zero. One thread may `add` while another takes a `copy`.
    """

    n: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    _buckets: dict[int, int] = field(default_factory=dict)

    def add(self, value: float) -> None:
        """Count a value, in constant time."""
        if value < 0.0:  # noqa: PLR1730 (a call is dearer)
            value = 0.0
        self.n += 1
        self.total += value
        if value < self.least:  # noqa: PLR1730 (a call is dearer)
            self.least = value
        if value > self.most:  # noqa: PLR1730
            self.most = value
        # A dict of buckets: latencies from 10 us to 100 s would be 8,000 slots, of which few are used.
        bucket = round(_log(max(LEAST, value)) / STEP)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    @classmethod
    def counted(
        cls, counts: Mapping[int, int], *, total: float, least: float, most: float
    ) -> "Histogram":
        """Of values that were counted elsewhere: how many lie in each bucket, their sum, their extremes."""
        n = sum(counts.values())
        return cls(n=n, total=total, least=least, most=most, _buckets=dict(counts))

    def merge(self, other: "Histogram") -> None:
        """Count another histogram's values, too."""
        self.n += other.n
        self.total += other.total
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)
        for bucket, count in other.counts.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    def copy(self) -> "Histogram":
        """A copy that does not change any more."""
        return Histogram(
            n=self.n,
            total=self.total,
            least=self.least,
            most=self.most,
            _buckets=self._buckets.copy(),
        )

    @property
    def counts(self) -> Mapping[int, int]:
        """How many values lie in each bucket that holds any: k is from (k - 1/2) to (k + 1/2) STEP."""
        return self._buckets

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def quantile(self, p: float) -> float | None:
        """The p-quantile to two per mille, the extremes exactly; None without a value."""
        buckets = self._buckets.copy()  # another thread may add meanwhile
        # Of the copy, not of `n`: another thread may have counted one more.
        left = p * sum(buckets.values())
        for bucket in sorted(buckets):
            left -= buckets[bucket]
            if left <= 0:
                return min(max(math.exp(bucket * STEP), self.least), self.most)
        return None

    def shares(self) -> dict[int, float]:
        """The share of the values in each bucket that holds any; the buckets' numbers ascend with values."""
        return {bucket: count / self.n for bucket, count in self._buckets.items()}

    def bins(self, most: int) -> list[Bin]:
        """At most so many bins, equally wide in the logarithm; the counts are exact.

        A bin is made of whole buckets, so values that lie close together have fewer of them.
        """
        buckets = self._buckets.copy()
        if not buckets:
            return []
        first, last = min(buckets), max(buckets)
        each = math.ceil((last - first + 1) / most)
        counts = [0] * math.ceil((last - first + 1) / each)
        for bucket, count in buckets.items():
            counts[(bucket - first) // each] += count
        return [
            Bin(_edge(first + k * each), _edge(first + (k + 1) * each), count)
            for k, count in enumerate(counts)
        ]


def _edge(bucket: int) -> float:
    """Where a bucket begins."""
    return math.exp((bucket - 0.5) * STEP)
