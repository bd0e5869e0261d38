"""Whole: what is said of a pair beside its quantiles: the typical request, and differences anywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from calibration.effects import Effect
from calibration.scenes import Scene
from calibration.tally import Outcomes
from calibration.tested import Tested
from tbench.analysis.contrast import TAILS, USUAL
from tbench.analysis.inversion import Pair
from tbench.analysis.mean_ratio import geometric_mean
from tbench.analysis.omnibus import omnibus
from tbench.analysis.summary import Floats

ANYWHERE, TYPICAL = "A/A differs, anywhere", "A/A differs, typical request"
REFUSED = "swaps refused"


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The swaps of blocks, refused as in the product where a SLOW_DRIFT is flagged; the geometric mean."""

    scene: Scene
    effects: Callable[[], Sequence[Effect]] = tuple

    def replay(self, random: Generator) -> Outcomes:
        a, b = self.scene.arms(random)
        differs, refused = _anywhere(a, b)
        found: Outcomes = {
            (ANYWHERE, None): differs,
            (REFUSED, None): refused,
            (TYPICAL, None): not _typical(a, b, 1.0),
        }
        for effect in self.effects():
            changed = effect.change(b)
            found[f"sees {effect.name}, anywhere", None] = _anywhere(a, changed)[0]
            if len(set(effect.truth.values())) == 1:
                truth = next(iter(effect.truth.values()))
                found[f"covers {effect.name}, typical request", None] = _typical(a, changed, truth)
                found[f"sees {effect.name}, typical request", None] = not _typical(a, changed, 1.0)
        return found


def _anywhere(a: Floats, b: Floats) -> tuple[bool, bool]:
    """Whether the arms differ, and whether the test was refused."""
    pair, typical = Pair(a, b), geometric_mean(a, b)
    drift = bool(np.any(Tested(pair, USUAL).drift)) or (typical is not None and typical.drift)
    return omnibus(pair, TAILS, refusal="SLOW_DRIFT" if drift else None).differs, drift


def _typical(a: Floats, b: Floats, ratio: float) -> bool:
    """Whether the interval of the typical request's ratio holds this one."""
    found = geometric_mean(a, b)
    if found is None or found.low is None or found.high is None:
        raise ValueError("a simulated pair without an interval")
    return found.low <= ratio <= found.high
