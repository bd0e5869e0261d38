"""Discordance: pairs of which one request failed and the other did not, where they may be counted one by one.

McNemar's test and Newcombe's paired interval take pairs as independent. Failures come in bursts, and then
both see what is not there; so they are given only where the blocks scatter no more than chance has it.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from tbench.analysis.arms import Truths
from tbench.analysis.inversion import fine_blocks
from tbench.analysis.quantiles import wilson
from tbench.analysis.summary import Floats

BLOCKS = 16
BURSTY = 1.5
"""From this block dispersion on, pairs are not independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discordance:
    """How many pairs failed in `both` arms, in one only, in `neither`.

    `dispersion` is the variance of the 16 block sums of candidate - baseline over what independent
    pairs would give, None without a discordant pair. With a `refusal`, `p_value` (exact McNemar, that
    both fail equally often), `low` and `high` (Newcombe's method 10, candidate - baseline) are None.
    """

    both: int
    baseline_only: int
    candidate_only: int
    neither: int
    dispersion: float | None
    p_value: float | None
    low: float | None
    high: float | None
    refusal: str | None

    @property
    def n(self) -> int:
        return self.both + self.baseline_only + self.candidate_only + self.neither


def discordance(baseline: Truths, candidate: Truths) -> Discordance | None:
    """Of pairs in arrival order, True where a request failed; None without a pair."""
    if not len(baseline):
        return None
    cells = (
        int((baseline & candidate).sum()),
        int((candidate & ~baseline).sum()),
        int((baseline & ~candidate).sum()),
        int((~baseline & ~candidate).sum()),
    )
    dispersion = block_dispersion(candidate.astype(np.float64) - baseline)
    bursty = dispersion is not None and dispersion >= BURSTY
    low, high = (None, None) if bursty else newcombe_paired(*cells)
    return Discordance(
        both=cells[0],
        candidate_only=cells[1],
        baseline_only=cells[2],
        neither=cells[3],
        dispersion=dispersion,
        p_value=None if bursty else mcnemar(cells[1], cells[2]),
        low=low,
        high=high,
        refusal=f"failures come in bursts: block dispersion {dispersion:.2f} (needs < {BURSTY:g})"
        if bursty
        else None,
    )


def block_dispersion(series: Floats) -> float | None:
    """Variance of the sums of 16 blocks over that of as many independent terms; None without variance."""
    mean = float(series.mean())
    variance = float((series**2).mean()) - mean**2
    if variance <= 0:
        return None
    terms = np.array([block.sum() - mean * len(block) for block in fine_blocks(series)])
    sums = terms.reshape(BLOCKS, -1).sum(axis=1)
    return float((sums**2).sum() / (BLOCKS - 1) / (len(series) / BLOCKS * variance))


def mcnemar(first: int, second: int) -> float:
    """The exact two-sided p-value that either kind of discordant pair is as likely; 1 without any."""
    n = first + second
    return min(1.0, 2 * float(special.bdtr(min(first, second), n, 0.5))) if n else 1.0


def newcombe_paired(e: int, f: int, g: int, h: int) -> tuple[float, float]:
    """The 95 % interval of (f - g) / n: a difference of two shares, (e + f) / n - (e + g) / n, of n pairs.

    R. G. Newcombe, Statistics in Medicine 17 (1998) 2635, method 10: Wilson's intervals of both shares,
    joined with the correlation phi of the pairs, corrected for continuity.
    """
    n = e + f + g + h
    difference, first, second = (f - g) / n, (e + f) / n, (e + g) / n
    (low_1, high_1), (low_2, high_2) = wilson(e + f, n), wilson(e + g, n)
    phi = _phi(e, f, g, h)
    below = _hypotenuse(first - low_1, high_2 - second, phi)
    above = _hypotenuse(high_1 - first, second - low_2, phi)
    return difference - below, difference + above


def _phi(e: int, f: int, g: int, h: int) -> float:
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    if not margins:
        return 0.0
    product = e * h - f * g
    corrected = max(product - (e + f + g + h) / 2, 0.0) if product > 0 else float(product)
    return corrected / math.sqrt(margins)


def _hypotenuse(x: float, y: float, phi: float) -> float:
    """The third side of a triangle, the angle between the others having cosine phi."""
    return math.sqrt(max(x * x + y * y - 2 * phi * (x * y), 0.0))
