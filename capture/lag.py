"""Lag: how late the event loop wakes. A late loop stamps chunks late, so a capture must know its own."""

from collections.abc import Mapping

STEP_NS = 100_000
STEPS = 10_000
"""Buckets of 0.1 ms up to one second: quantiles are exact to a step, the maximum is exact."""

TROUBLING_NS = 20_000_000
"""Above this (p99) recorded arrival times are the proxy's, not the network's."""


class Lag:
    """A bounded histogram of wake-up delays, in nanoseconds."""

    def __init__(self) -> None:
        self._counts = [0] * STEPS
        self._n = 0
        self._max = 0

    @property
    def troubling(self) -> bool:
        """Whether the p99 is above the limit, by at least a hundred samples."""
        return self._n >= 100 and (self.quantile(0.99) or 0) > TROUBLING_NS

    def add(self, late_ns: int) -> None:
        late_ns = max(late_ns, 0)
        self._counts[min(late_ns // STEP_NS, STEPS - 1)] += 1
        self._n += 1
        self._max = max(self._max, late_ns)

    def merge(self, other: "Lag") -> None:
        """Count another one's delays too."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]  # noqa: SLF001
        self._n += other._n  # noqa: SLF001 (one of our own)
        self._max = max(self._max, other._max)  # noqa: SLF001

    def quantile(self, share: float) -> int | None:
        """The upper edge of the bucket that holds the quantile; None without a sample."""
        wanted, seen = share * self._n, 0
        for step, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min((step + 1) * STEP_NS, self._max)
        return None

    def summary(self) -> Mapping[str, int | None]:
        """Keys of the clock record's `extra`: nanoseconds, and the number of samples."""
        return {
            "loop_lag_p50_ns": self.quantile(0.5),
            "loop_lag_p99_ns": self.quantile(0.99),
            "loop_lag_max_ns": self._max if self._n else None,
            "loop_lag_samples": self._n,
        }
