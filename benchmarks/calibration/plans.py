"""Plans: what `tbench power` asks for from a pilot, and how often so much then decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from calibration.bars import NONE, Bar, Cell, Outcomes
from calibration.runs import MARGIN
from tbench.analysis.inversion import Pair, invert
from tbench.analysis.planning import PowerGoal, requests_to_find
from tbench.analysis.power import (
    POWER,
    chance_to_pass,
    chance_to_pass_all,
    runs_needed,
    runs_to_pass_all,
    upper_sd,
)
from tbench.analysis.variance import correlation, of_pair, pooled_sd

ENOUGH, BY_PILOT = "has the power asked for", "has it, by the pilot's own sd"
ALL_ENOUGH, FINDS = "all four gates have it together", "finds +5 %"
_SD: Final = 0.03
_EFFECT: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A plan of repeated runs from a pilot of one arm, by four gates that go together by `shared`."""

    pilot: int
    shared: float = 0.5

    def replay(self, random: Generator) -> Outcomes:
        truth = np.full((4, 4), self.shared) + (1 - self.shared) * np.eye(4)
        logs = random.multivariate_normal(np.zeros(4), truth * _SD**2, self.pilot)
        figures = [[np.exp(of_gate).tolist()] for of_gate in logs.T]
        pilots = [sd for of_gate in figures if (sd := pooled_sd(of_gate)[0]) is not None]
        upper = [upper_sd(sd, self.pilot - 1) for sd in pilots]
        plans = [runs_needed(sd, MARGIN) for sd in (upper[0], pilots[0])]
        together = runs_to_pass_all(upper, correlation(figures), MARGIN)
        chances = [1.0 if runs is None else chance_to_pass(runs, _SD, MARGIN) for runs in plans]
        all_pass = (
            together is None
            or chance_to_pass_all(
                together, [_SD] * 4, truth, MARGIN, seed=int(random.integers(2**32))
            )
            >= POWER
        )
        return {
            (ENOUGH, None): chances[0] >= POWER,
            (BY_PILOT, None): chances[1] >= POWER,
            (ALL_ENOUGH, None): all_pass,
        }


@dataclass(frozen=True, kw_only=True)
class Requests:
    """A pilot pair of 2,000 requests, and one pair as long as its plan for +5 % asks."""

    quantile: float
    memory: float = 0.0

    def replay(self, random: Generator) -> Outcomes:
        within = of_pair(*self._pair(2000, 0.0, random), self.quantile)
        requests = requests_to_find(within, PowerGoal(effect=_EFFECT), self.quantile)
        if requests is None:
            return {}
        (interval,) = invert(Pair(*self._pair(requests, _EFFECT, random)), (self.quantile,))
        return {(FINDS, self.quantile): interval.low > 1}

    def _pair(self, n: int, slower: float, random: Generator) -> tuple[np.ndarray, np.ndarray]:
        """Log-normal latencies on a log-normal trace that both arms share, each with a load of its own."""
        work = random.normal(0, 0.4, n)
        a, b = (np.exp(work + _load(n, self.memory, random)) for _ in "ab")
        return a, b * (1 + slower)


def _load(n: int, memory: float, random: Generator) -> np.ndarray:
    shocks = random.normal(0, 0.2, n)
    if not memory:
        return shocks
    lag, level = np.sqrt(1 - memory**2), 0.0
    return np.array([level := memory * level + lag * shock for shock in shocks])


PLAN_CELLS: Mapping[str, Cell] = {
    **{
        f"plans from a pilot of {pilot} runs": Cell(
            experiment=Runs(pilot=pilot),
            bars=(
                Bar(measure=ENOUGH, points=NONE, low=0.77),
                Bar(measure=ALL_ENOUGH, points=NONE, low=0.77),
            ),
        )
        for pilot in (3, 5, 10)
    },
    **{
        f"plans from a pair of 2,000 requests, memory {memory:g}, p{p * 100:g}": Cell(
            experiment=Requests(quantile=p, memory=memory),
            bars=(Bar(measure=FINDS, points=(p,), low=0.77),),
        )
        for memory in (0.0, 0.95)
        for p in (0.5, 0.95)
    },
}
