"""Lengths: the requests whose answers are about equally long in both arms.

Where the candidate's answers are longer, e2e compares lengths as well as speed. Among the pairs whose
output tokens agree it does not; they are a selection, so their number is always said.
"""

import numpy as np

from analysis.arms import Truths
from analysis.summary import Floats

WITHIN = 0.10
"""Output tokens agree when the longer answer has at most this share more of them."""


def agree(baseline: Floats, candidate: Floats) -> tuple[Truths, float]:
    """Which pairs have output tokens within 10 %, and their share of the pairs that have any in both arms."""
    with np.errstate(invalid="ignore"):
        shorter, longer = np.minimum(baseline, candidate), np.maximum(baseline, candidate)
        answered = shorter > 0
        found = np.asarray(answered & (longer <= (1 + WITHIN) * shorter))
    return found, int(found.sum()) / max(int(answered.sum()), 1)
