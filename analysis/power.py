"""Power: how often repeated runs decide, how many it takes, and which margin they can carry.

Exact for normal log-quantiles of equal spread in both arms and `analysis.decide`'s rule, one gate at a
time; several together are simulated. Given B, the baseline's share of the squares, Welch's degrees of
freedom are fixed and his t is a noncentral t; B is beta (its mean by Gauss-Jacobi). `sd` is that of a
run's log-quantile, .03 = 3 %.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from scipy import optimize, special

from tbench.analysis.gate_estimate import LEAST_RUNS
from tbench.analysis.summary import Floats
from tbench.analysis.t_tests import CONFIDENCE
from tbench.analysis.words import percent

ASSUMED_SD: Final = 0.03
"""From run to run, where no pilot says it: a guess, and always called one."""
POWER: Final = 0.8
MOST_RUNS: Final = 1000
"""Nobody plans more, and a search must end."""
SURE: Final = 0.8
"""How sure a plan is of the sd that it counts with: the pilot's, at its one-sided upper limit."""
EXPERIMENTS: Final = 2000
"""Simulated for the chance that several gates pass together; its standard error is at most .011."""
_SLICE: Final = 4_000_000
_TAIL: Final = 1 - CONFIDENCE
_NODES: Final = 40
_FURTHEST: Final = 100
"""Standard deviations of a run, within which every margin lies."""


def chance_to_pass(runs: int, sd: float, margin: float, *, ratio: float = 1.0) -> float:
    """How often one gate of `margin` (.05 is 5 %) passes with `runs` per arm if the true ratio is `ratio`."""
    return _beyond(runs, sd, math.log1p(margin) - math.log(ratio), _TAIL)


def chance_to_fail(runs: int, sd: float, margin: float, *, ratio: float) -> float:
    """How often it fails, as the only gate; with others beside it Holm's rule makes that rarer."""
    return _beyond(runs, sd, math.log(ratio) - math.log1p(margin), _TAIL)


def chance_to_see(runs: int, sd: float, effect: float) -> float:
    """How often the two-sided interval lies above 1 if the candidate is slower by `effect`."""
    return _beyond(runs, sd, math.log1p(effect), _TAIL / 2)


def half_width(runs: int, sd: float) -> float:
    """Half of the two-sided interval of the log ratio, if both arms show just this `sd`."""
    return -float(special.stdtrit(2 * runs - 2, _TAIL / 2)) * sd * math.sqrt(2 / runs)


def runs_needed(
    sd: float, margin: float, *, ratio: float = 1.0, power: float = POWER
) -> int | None:
    """The fewest runs per arm that pass with this `power`; None where MOST_RUNS do not.

    Cf. sd sqrt(2/R) (t(.95) + t(power)) <= log(1 + margin) - log(ratio), which this makes exact.
    """
    return _fewest(lambda runs: chance_to_pass(runs, sd, margin, ratio=ratio) >= power)


def runs_to_see(sd: float, effect: float, *, power: float = POWER) -> int | None:
    """The fewest runs per arm that show this `effect` with this `power`; None where MOST_RUNS do not."""
    return _fewest(lambda runs: chance_to_see(runs, sd, effect) >= power)


def runs_to_decide(sd: float, distance: float) -> int | None:
    """The fewest runs per arm that pass, or fail, a gate with POWER; None where MOST_RUNS do not.

    `distance` is how far the true log ratio lies from the margin's, on either side.
    """
    return _fewest(lambda runs: _beyond(runs, sd, distance, _TAIL) >= POWER)


def margin_needed(runs: int, sd: float, *, power: float = POWER) -> float:
    """The least margin that equal arms pass with this `power`; infinite with fewer than three runs."""
    if runs < LEAST_RUNS:
        return math.inf
    if sd == 0:
        return 0.0
    log_limit = optimize.brentq(
        lambda log_margin: _beyond(runs, sd, log_margin, _TAIL) - power, 0.0, sd * _FURTHEST
    )
    return math.expm1(log_limit)


def upper_sd(sd: float, df: float) -> float:
    """The limit that the true sd stays below with probability SURE: chi-square on `df` degrees.

    By the pilot's own sd, a plan from three runs is too small in six of ten cases.
    """
    return sd if math.isinf(df) else sd * math.sqrt(df / float(special.chdtri(df, SURE)))


def chance_to_pass_all(
    runs: int, sds: Sequence[float], correlation: Floats, margin: float, seed: int = 1
) -> float:
    """How often gates of these sds and this correlation (of runs' log-quantiles) all pass with equal arms.

    Simulated: EXPERIMENTS, the same for the same `seed`. Exact enough for a plan, whose sds are guesses.
    """
    if runs < LEAST_RUNS:
        return 0.0
    if len(sds) == 1:
        return chance_to_pass(runs, sds[0], margin)
    gates, random = len(sds), np.random.default_rng(seed)
    # A square root of the correlations that a singular matrix has too, or one a rounding error short of it.
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.clip(values, 0, None)) * np.asarray(sds)[:, None]
    left, passed = EXPERIMENTS, 0
    while left:
        count = min(left, max(1, _SLICE // (runs * gates)))
        baseline, candidate = (random.standard_normal((count, runs, gates)) @ root.T for _ in "AB")
        first, second = (arm.var(axis=1, ddof=1) for arm in (baseline, candidate))
        error = (first + second) / runs
        shares = first / np.where(error > 0, first + second, 1.0)
        # Satterthwaite's degrees of freedom, by the baseline's share of the squares.
        critical = special.stdtrit((runs - 1) / (shares**2 + (1 - shares) ** 2), CONFIDENCE)
        change = candidate.mean(axis=1) - baseline.mean(axis=1)
        bound = change + critical * np.sqrt(error)
        passed += int((bound < math.log1p(margin)).all(axis=1).sum())
        left -= count
    return passed / EXPERIMENTS


def runs_to_pass_all(
    sds: Sequence[float], correlation: Floats, margin: float, *, power: float = POWER
) -> int | None:
    """The fewest runs per arm with which all these gates pass together; None where MOST_RUNS do not."""
    alone = [runs_needed(sd, margin, power=power) for sd in sds]
    # A gate that never passes by itself does not with others beside it.
    if any(runs is None for runs in alone):
        return None
    return _fewest(
        lambda runs: chance_to_pass_all(runs, sds, correlation, margin) >= power,
        max(runs for runs in alone if runs is not None),
    )


def plan_warning(
    runs: int, margin: float, sd: float = ASSUMED_SD, power: float = POWER
) -> str | None:
    """One sentence where so many runs per arm will often not pass this margin even for equal arms."""
    chance = chance_to_pass(runs, sd, margin)
    if chance >= power:
        return None
    needed = runs_needed(sd, margin, power=power)
    if runs < LEAST_RUNS:
        enough = f"more than {MOST_RUNS:,}" if needed is None else needed
        return (
            f"{runs} + {runs} runs decide nothing: a gate needs {LEAST_RUNS} of each arm, and "
            f"{enough} for a {percent(margin, 4)} margin with {percent(sd, 2)} between runs"
        )
    ways = [] if needed is None else [f">= {needed} runs of each arm"]
    # To a tenth of a per cent, never below what is needed.
    least_margin = math.ceil(margin_needed(runs, sd, power=power) * 1000 - 1e-9) / 10
    ways.append(f"a margin >= {least_margin:g} %")
    return (
        f"{runs} + {runs} runs with {percent(sd, 2)} between runs pass a {percent(margin, 4)} margin in "
        f"about {chance * 100:.0f} % of plans even for equal arms; take {' or '.join(ways)}"
    )


def _beyond(runs: int, sd: float, distance: float, tail: float) -> float:
    """How often the difference, `distance` away, lies beyond zero by t(tail) of its standard errors."""
    if runs < LEAST_RUNS:
        return 0.0
    if sd == 0:
        return float(distance > 0)
    # The baseline's share of the squares is beta((runs - 1) / 2, the same), whose weight is a Jacobi one.
    exponent = (runs - 3) / 2
    # With 40 nodes three runs are exact to 1e-15, with 10 to 3e-12; more runs need fewer.
    nodes, weights = special.roots_jacobi(_NODES, exponent, exponent)
    share = (1 + nodes) / 2
    critical = -special.stdtrit((runs - 1) / (share**2 + (1 - share) ** 2), tail)
    seen = 1 - special.nctdtr(2 * runs - 2, distance / (sd * math.sqrt(2 / runs)), critical)
    return float(np.average(seen, weights=weights))


def _fewest(enough: Callable[[int], bool], least: int = LEAST_RUNS) -> int | None:
    """By doubling and halving, from `least` on: more runs never decide less often."""
    # Doubling first: most plans need few runs, and each question may cost a simulation.
    low, high = least - 1, least
    while not enough(high):
        if high >= MOST_RUNS:
            return None
        low, high = high, min(2 * high, MOST_RUNS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
