"""Typical: what is said of a pair beside its quantiles, the ratio of the typical request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from calibration.effects import Effect
from calibration.scenes import Scene
from calibration.tally import Outcomes
from tbench.analysis.mean_ratio import geometric_mean
from tbench.analysis.summary import Floats

TYPICAL = "A/A differs, typical request"


@dataclass(frozen=True, kw_only=True)
class Typical:
    """The geometric mean of candidate / baseline."""

    scene: Scene
    effects: Callable[[], Sequence[Effect]] = tuple

    def replay(self, random: Generator) -> Outcomes:
        a, b = self.scene.arms(random)
        outcomes: Outcomes = {(TYPICAL, None): not _typical(a, b, 1.0)}
        for effect in self.effects():
            changed = effect.change(b)
            if len(set(effect.truth.values())) == 1:
                truth = next(iter(effect.truth.values()))
                outcomes[f"covers {effect.name}, typical request", None] = _typical(
                    a, changed, truth
                )
                outcomes[f"sees {effect.name}, typical request", None] = not _typical(
                    a, changed, 1.0
                )
        return outcomes


def _typical(a: Floats, b: Floats, ratio: float) -> bool:
    """Whether the interval of the typical request's ratio holds this one."""
    mean = geometric_mean(a, b)
    if mean is None or mean.low is None or mean.high is None:
        raise ValueError("a simulated pair without an interval")
    return mean.low <= ratio <= mean.high
