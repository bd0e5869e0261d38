"""Drawn sessions: what the requests of a session have in common, of runs that are more than memory holds.

No block of time can see it (analysis.blocks, "Clusters"). Of each run whole sessions were drawn by a hash
(analysis.sums), the same ones of both.
"""

from functools import cached_property
from typing import Final

import numpy as np

from tbench.analysis.blocks import BLOCKS, Clusters, CountedSide, Ints, logarithms
from tbench.analysis.inversion import Pair
from tbench.analysis.summary import Floats
from tbench.analysis.sums import Draw

FEWEST: Final = 30
"""Of fewer drawn sessions nothing is concluded: they are so large that a draw of them is no sample."""


class DrawnSessions(Clusters):
    """The drawn sessions of two arms: what is asked of all sessions, by those that were drawn.

    A session's requests in one block of time are a cell. Of the same trace what a session does to both arms
    cancels; `apart` are arms whose sessions have nothing to do with each other.
    """

    def __init__(self, draws: tuple[Draw, Draw], *, apart: bool = False) -> None:
        draws[0].alike(draws[1])
        self._draws, self._rate = draws, draws[0].rate
        sessions = [draw.column("session").astype(np.int64) for draw in draws]
        if apart:
            sessions[1] += int(sessions[0].max(initial=0)) + 1
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

    @cached_property
    def count(self) -> float:
        squares = float((self.sizes.astype(np.float64) ** 2).sum())
        return float(self.sizes.sum()) ** 2 / squares / self._rate

    @cached_property
    def spread(self) -> float:
        squares = self.sizes.astype(np.float64) ** 2
        return float(squares.sum()) ** 2 / float((squares**2).sum()) / self._rate

    @property
    def plain(self) -> bool:
        """Whether no session reaches from one block into another."""
        return len(self.sizes) == self._n

    @property
    def too_few(self) -> bool:
        """Whether sessions are too large to be drawn."""
        return self._rate < 1 and len(self.sizes) < FEWEST

    def terms(self, side: int, values: Floats) -> Floats:
        """What each cell has of one arm's drawn rows, of which NaN are none."""
        cells = self._cells[: self._split] if side == 0 else self._cells[self._split :]
        return np.bincount(cells, np.nan_to_num(values), minlength=self._n)

    def drawn(self, side: int, name: str) -> Floats:
        """A column of one arm's drawn rows."""
        return self._draws[side].column(name)

    def excess(self, cells: Floats) -> float:
        """V(session) - V(both) of all sessions, by those that were drawn."""
        sessions = np.add.reduceat(cells, self._firsts)
        g = len(sessions) / self._rate
        of_drawn = g / max(g - 1, 1) * float((sessions**2).sum()) - float((cells**2).sum())
        return of_drawn / self._rate

    def failures(self, n: tuple[int, int]) -> float:
        """The excess of the difference of the arms' failure rates, of so many requests."""
        rates = [
            self.terms(side, (failed - failed.mean()) / size if len(failed) else failed)
            for side, size in enumerate(n)
            for failed in [self.drawn(side, "failed")]
        ]
        return self.excess(rates[1] - rates[0])


class CountedPair(Pair):
    """Two arms whose values are counted, with what drawn sessions have in common."""

    def __init__(
        self, sides: tuple[CountedSide, CountedSide], metric: str, drawn: DrawnSessions
    ) -> None:
        super().__init__(*sides, paired=False, sessions=(drawn,))
        self._drawn = drawn
        self._logs = [logarithms(drawn.drawn(side, metric)) for side in range(2)]

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
