"""Drawn sessions: what the requests of a session have in common, of runs that are more than memory holds.

No block of time can see it (analysis.blocks, "Clusters"). Of each run whole sessions were drawn by a hash
(analysis.sums), the same ones of both.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np

from tbench.analysis.blocks import BLOCKS, Clusters, CountedSide, Ints, Side, logarithms
from tbench.analysis.inversion import Pair
from tbench.analysis.summary import Floats
from tbench.analysis.sums import SessionDraw

FEWEST: Final = 30
"""Of fewer of the sessions that decide a draw is no sample: intervals cover less than they say."""
NEGLIGIBLE: Final = 0.002
"""The largest sessions decide nothing while the root of the sum of the squares of their shares is within
this: what they can move is then within what each end of an interval is further out for its buckets."""


class DrawnSessions(Clusters):
    """The drawn sessions of two arms: what is asked of all sessions, by those that were drawn.

    A session's requests in one block of time are a cell. Of the same trace what a session does to both arms
    cancels; `apart` are arms whose sessions have nothing to do with each other.
    """

    def __init__(self, draws: tuple[SessionDraw, SessionDraw], *, apart: bool = False) -> None:
        # Before any column is read: both are cut, in place, to the keys that both would have drawn.
        draws[0].alike(draws[1])
        self._draws, self._rate = draws, draws[0].rate
        sessions = [draw.column("session").astype(np.int64) for draw in draws]
        first = int(sessions[0].max(initial=0)) + 1
        if apart:
            sessions[1] += first
        keys = [
            numbers * BLOCKS + draw.column("block").astype(np.int64)
            for numbers, draw in zip(sessions, draws, strict=True)
        ]
        cells, self._cells = np.unique(np.concatenate(keys), return_inverse=True)
        self._firsts = np.flatnonzero(np.diff(cells // BLOCKS, prepend=-1))
        self._split, self._n = len(keys[0]), len(cells)
        counts = np.bincount(self._cells, minlength=len(cells))
        self.sizes: Ints = (
            np.add.reduceat(counts, self._firsts) if len(cells) else np.empty(0, np.int64)
        )
        arms: list[tuple[Sequence[SessionDraw], Ints]] = [(draws, self.sizes)]
        if apart:
            # Each by itself: as in memory, the arm with fewer counts.
            at = int(np.searchsorted(cells[self._firsts], first * BLOCKS))
            arms = [(draws[:1], self.sizes[:at]), (draws[1:], self.sizes[at:])]
        arms = [(of, sizes) for of, sizes in arms if any(draw.offered for draw in of)]
        self._offered = np.array([sum(draw.offered for draw in of) for of, _ in arms], np.float64)
        self._of_drawn = self._of_all = np.array([_powers(sizes) for _, sizes in arms])
        self.deciding = float("inf")
        if self._rate < 1:
            tables = [np.sum([draw.sizes for draw in of], axis=0) for of, _ in arms]
            # Less the mean: that many small sessions share a count is then in no power of it.
            sizes_of_all = [table - table.mean() for table in tables]
            self._of_all = np.array([_powers(sizes) for sizes in sizes_of_all])
            self.deciding = self._rate * min(map(_deciding, sizes_of_all, self._offered))

    @cached_property
    def count(self) -> float:
        """Of all sessions, drawn or not."""
        return float((self._offered**2 / self._of_all[:, 0]).min())

    @cached_property
    def spread(self) -> float:
        """Of all sessions, or of the drawn ones, by which the variance is known, if those are fewer."""
        squares, fourths = _powers(self.sizes)
        return min(
            float((self._of_all[:, 0] ** 2 / self._of_all[:, 1]).min()), squares**2 / fourths
        )

    @property
    def plain(self) -> bool:
        """Whether no session reaches from one block into another."""
        return len(self.sizes) == self._n

    @property
    def too_few(self) -> bool:
        """Whether too few of the sessions that decide can be drawn: they are too large."""
        return self.deciding < FEWEST

    def terms(self, side: int, values: Floats) -> Floats:
        """What each cell has of one arm's drawn rows, of which NaN are none."""
        cells = self._cells[: self._split] if side == 0 else self._cells[self._split :]
        return np.bincount(cells, np.nan_to_num(values), minlength=self._n)

    def drawn(self, side: int, name: str) -> Floats:
        """A column of one arm's drawn rows."""
        return self._draws[side].column(name)

    def excess(self, cells: Floats) -> float:
        """V(session) - V(both) of all sessions, by those that were drawn: as squares of sizes."""
        sessions = np.add.reduceat(cells, self._firsts)
        # The correction is for a mean that was estimated, and all sessions had a part in that,
        # drawn or not.
        g = len(sessions) / self._rate
        of_drawn = g / max(g - 1, 1) * float((sessions**2).sum()) - float((cells**2).sum())
        return of_drawn * float(self._of_all[:, 0].sum() / self._of_drawn[:, 0].sum())

    def failures(self, n: tuple[int, int]) -> float:
        """The excess of the difference of the arms' failure rates, of so many requests."""
        rates = [
            self.terms(
                side, (failed - np.nansum(failed) / max(np.isfinite(failed).sum(), 1)) / size
            )
            for side, size in enumerate(n)
            for failed in [self.drawn(side, "failed")]
        ]
        return self.excess(rates[1] - rates[0])


def _powers(sizes: Ints | Floats) -> tuple[float, float]:
    """The sums of their squares and fourth powers."""
    squares = sizes.astype(np.float64) ** 2
    return float(squares.sum()), float((squares**2).sum())


def _deciding(sizes: Floats, offered: float) -> float:
    """How many sessions decide the variance between all, as good as of equal size; of so many requests."""
    squares = np.sort(sizes**2)[::-1]
    rest = squares[np.sqrt(np.cumsum(squares)) > NEGLIGIBLE * offered]
    return float(rest.sum() ** 2 / (rest**2).sum()) if len(rest) else float("inf")


class CountedPair(Pair):
    """Two arms whose values are counted, with what drawn sessions have in common."""

    def __init__(
        self, sides: tuple[CountedSide, CountedSide], metric: str, drawn: DrawnSessions
    ) -> None:
        super().__init__(*sides, paired=False, sessions=(drawn,))
        self._drawn = drawn
        # As the others of their arm: spread over their steps, where they go in steps.
        self._logs = [logarithms(Side(drawn.drawn(side, metric)).untied.given) for side in range(2)]

    def _cells(self, at_a: float, at_b: float, _p: float) -> tuple[Floats, Floats]:
        first, second = (
            self._drawn.terms(
                number,
                np.where(np.isnan(logs), np.nan, (logs <= at) - float(side.share(np.array(at))))
                / side.n,
            )
            for number, (logs, side, at) in enumerate(
                zip(self._logs, (self._a, self._b), (at_a, at_b), strict=True)
            )
        )
        return first, second
