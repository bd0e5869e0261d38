"""Histories: sessions of other days, one more today, and what a baseline file's rule says of it.

A session is one number: the mean log-quantile of its runs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from calibration.bars import FAILS, NONE, PASSES, Bar, Cell, Outcomes
from calibration.runs import MARGIN
from tbench.analysis.evaluate_history import differs_by_kind, has_trend, predicted
from tbench.analysis.summary import Floats

FLAGGED, EQUAL = "flagged", "A/A passes"
_MARGIN = math.log1p(MARGIN)

Level = Callable[[int, Generator], Floats]
"""Where so many sessions lie, the last being today's; noise is added to it."""


@dataclass(frozen=True, kw_only=True)
class History:
    """`sessions` and today, `spread` apart, around a level that changes. Judged at the margin and equal.

    A verdict counts as wrong where nothing is flagged: today's truth is the level of today.
    """

    sessions: int
    spread: float
    level: Level

    def replay(self, random: Generator) -> Outcomes:
        count = self.sessions + 1
        y = self.level(count, random) + random.normal(0, self.spread, count)
        sessions, today = y[:-1].tolist(), float(y[-1])
        weekend = [bool(kind) for kind in _weekend(count)[:-1]]
        flagged = has_trend(sessions) or differs_by_kind(sessions, weekend)
        at_margin, equal = (predicted(sessions, today + shift) for shift in (_MARGIN, 0.0))
        return {
            (PASSES, None): at_margin.most < _MARGIN and not flagged,
            (FAILS, None): at_margin.worse(_MARGIN) < 0.05 and not flagged,
            (EQUAL, None): equal.most < _MARGIN and not flagged,
            (FLAGGED, None): flagged,
        }


def _weekend(count: int) -> Floats:
    """1 where a session lies on a weekend, one session a day, today a Saturday."""
    return np.isin((np.arange(count) - count + 1) % 7, (0, 1)).astype(float)


def _steady(share: float) -> Level:
    return lambda count, _: share * np.arange(count, dtype=np.float64)


def _step(share: float) -> Level:
    """Once, before a session that chance draws."""
    return lambda count, random: np.where(
        np.arange(count) >= random.integers(1, count - 1), share, 0.0
    )


def _wandering(memory: float, spread: float) -> Level:
    """AR(1) from its stationary law."""

    def level(count: int, random: Generator) -> Floats:
        y = random.normal(0, spread, count)
        for at in range(1, count):
            y[at] = memory * y[at - 1] + math.sqrt(1 - memory**2) * y[at]
        return y

    return level


_LEVELS: Mapping[str, tuple[float, Level, tuple[int, ...]]] = {
    "independent, 3 %": (0.03, _steady(0.0), (5, 10, 20)),
    "1 % faster each": (0.01, _steady(-0.01), (5, 10)),
    "1 % slower each": (0.01, _steady(0.01), (5, 10)),
    "1.5 % faster each, 3 % apart": (0.03, _steady(-0.015), (5, 10, 20)),
    "once 10 % faster": (0.01, _step(-0.1), (10, 20)),
    "AR(1) .5": (0.0, _wandering(0.5, 0.03), (10, 20)),
    "AR(1) .9": (0.0, _wandering(0.9, 0.03), (10, 20)),
    "weekends 8 % slower, today one": (0.01, lambda count, _: 0.08 * _weekend(count), (10, 20)),
}

HISTORY_CELLS: Mapping[str, Cell] = {
    f"{sessions} sessions {name}": Cell(
        experiment=History(sessions=sessions, spread=spread, level=level),
        bars=tuple(Bar(measure=measure, points=NONE, high=0.065) for measure in (PASSES, FAILS)),
    )
    for name, (spread, level, counts) in _LEVELS.items()
    for sessions in counts
}
