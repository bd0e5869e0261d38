"""Dispersion: how bursty arrivals are. Poisson traffic has 1 in every window, bursts have more."""

from collections.abc import Iterable

WINDOWS_S = {"0.1": 0.1, "1": 1.0, "10": 10.0, "60": 60.0}


class Dispersion:
    """The index of dispersion of counts: variance / mean of arrivals per window, window by window.

    Windows begin at the first arrival; the one that the last arrival lies in is incomplete and left
    out. Variance is that of the whole population of windows. Feed arrivals (ns) in order.
    """

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._first: int | None = None
        self._current = 0
        self._count = 0
        self._sum = 0
        self._squares = 0

    def add(self, at_ns: int) -> None:
        """Count one arrival."""
        self._first = at_ns if self._first is None else self._first
        window = (at_ns - self._first) // self._window_ns
        if window > self._current:
            self._sum += self._count
            self._squares += self._count**2
            self._current, self._count = window, 0
        self._count += 1

    @property
    def index(self) -> float | None:
        """Variance over mean; None with fewer than two whole windows."""
        windows = self._current
        if windows < 2:
            return None
        return self._squares / self._sum - self._sum / windows


def dispersion(arrivals_ns: Iterable[int], window_ns: int) -> float | None:
    """The index of dispersion of sorted arrivals."""
    counter = Dispersion(window_ns)
    for at_ns in arrivals_ns:
        counter.add(at_ns)
    return counter.index
