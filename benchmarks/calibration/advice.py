"""Advice: the rows of a report on two runs, with all that refuses or doubts them.

The other simulations of pairs ask the block test alone; here a whole `compare` is asked, since what a queue
does to a test shows in its cautions (LOAD_DOMINATED) and in what it refuses.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from calibration.bars import FPR, Key, Outcomes
from calibration.disturbances import Effect
from calibration.pairs import EQUAL, SlowerServer
from calibration.runs import QUEUES, arm
from calibration.scenes import Scene
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.summary import Floats

HEADLINES = (0.5, 0.9, 0.95)
UNLABELLED, WRONG_95 = "refused, or low", "differs, of those labelled 95%"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Of equal arms, or with a server that is slower by what `slower` says; 2,000 requests in 33 minutes.

    What is labelled 95 % is counted among what has that label, else among what has an interval.
    """

    scene: Scene | SlowerServer
    points: tuple[float, ...] = HEADLINES

    def replay(self, random: Generator) -> Outcomes:
        if isinstance(self.scene, Scene):
            arms, effect = self.scene.arms(random), EQUAL
        else:
            arms, effect = self.scene.drawn(random)
        return dict(self._outcomes(arms, effect))

    def _outcomes(self, arms: tuple[Floats, Floats], effect: Effect) -> Iterator[tuple[Key, bool]]:
        compared = compare(arm(arms[0], 0), arm(arms[1], 1), self._asked)
        yield (QUEUES, None), "LOAD_DOMINATED" in {caution.code for caution in compared.warnings}
        for row in compared.rows:
            p, labelled = row.quantile, row.confidence == "95%"
            yield (UNLABELLED, p), not labelled
            if row.confidence == "none":
                continue
            if effect is EQUAL:
                yield (FPR, p), row.differs
                if labelled:
                    yield (WRONG_95, p), row.differs
            else:
                holds = (row.low or 0.0) <= effect.truth[p] <= (row.high or np.inf)
                yield (f"covers {effect.name}", p), holds
                if labelled:
                    yield (covers_95(effect.name), p), holds

    @property
    def _asked(self) -> CompareOptions:
        return CompareOptions(metrics=("ttft",), quantiles=self.points)


def covers_95(name: str) -> str:
    """The measure of intervals that hold the truth, of those labelled 95 %."""
    return f"covers {name}, of those labelled 95%"
