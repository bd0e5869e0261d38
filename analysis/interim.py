"""Interim: planned looks at an experiment that grows, and the level of each: looking early costs nothing.

Group-sequential bounds on the z scale (O'Brien and Fleming, Biometrics 35, 1979; S. J. Pocock, Biometrika
64, 1977), by the recursion of P. Armitage, C. K. McPherson and B. C. Rowe (JRSS A 132, 1969).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from scipy import optimize, special

from tbench.analysis.comparison import Verdict
from tbench.analysis.decide import ALPHA, GateEvidence, decide, overall
from tbench.analysis.gate_estimate import LEAST_RUNS
from tbench.analysis.gate_results import GateResults
from tbench.analysis.summary import Caution, Floats
from tbench.capture.errors import InputError

Shape = Literal["obrien-fleming", "pocock"]
SHAPES: Final[Mapping[Shape, Callable[[Floats], Floats]]] = {
    "obrien-fleming": lambda fractions: 1 / np.sqrt(fractions),
    "pocock": np.ones_like,
}
"""How high the bound on z is at each look, by the share of the runs that are there, up to a constant."""
NAMES: Final[Mapping[Shape, str]] = {"obrien-fleming": "O'Brien-Fleming", "pocock": "Pocock"}
_NODES, _NODES_A_STEP = 200, 30
"""At least; and over the step between two looks, by its standard deviation, so that nodes are no further
apart than it is wide: at looks after 998, 999 and 1,000 runs 200 gave a negative probability."""
_quadrature: Final = lru_cache(np.polynomial.legendre.leggauss)
"""Nodes and weights on [-1, 1], worked out once."""
_FURTHEST: Final = 9.0
"""Standard deviations beyond which nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """After how many runs of each arm one looks, the last being all; fixed before the first run.

    Raises InputError where they do not rise, or begin before there are LEAST_RUNS.
    """

    runs: tuple[int, ...]
    shape: Shape = "obrien-fleming"

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.runs, self.runs[1:], strict=False))
        if not self.runs or not rising or self.runs[0] < LEAST_RUNS:
            raise InputError(
                f"looks after {', '.join(map(str, self.runs)) or 'no'} runs: they must rise, from "
                f"{LEAST_RUNS} on"
            )

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of all runs that each look sees."""
        return tuple(runs / self.runs[-1] for runs in self.runs)

    def level(self, look: int, share: int = 1) -> float:
        """The nominal one-sided level of a look (the first is 1); over all looks ALPHA / `share` is spent."""
        z = bounds(self.fractions, ALPHA / share, self.shape)[look - 1]
        return float(special.ndtr(-z))


def crossing(z: Sequence[float], fractions: Sequence[float], *, sides: Literal[1, 2] = 1) -> float:
    """How often z ever lies beyond its bounds (above, or on either side) if nothing is there to be found.

    At the shares `fractions` of the information, the last being 1.
    """
    step = math.sqrt(min(later - sooner for sooner, later in pairwise([0.0, *fractions])))
    nodes, heights = _quadrature(max(_NODES, math.ceil(_NODES_A_STEP / step)))
    places, inside, before = np.zeros(1), np.ones(1), 0.0  # of a Brownian motion that still goes on
    # The density of what has crossed no bound yet, carried from look to look; its mass is what never crosses.
    for bound, at in zip(z, fractions, strict=True):
        # On the scale of the motion, z sqrt(share), whose increments are independent; those of z
        # are not.
        high = min(bound, _FURTHEST) * math.sqrt(at)
        low = -high if sides == 2 else -_FURTHEST * math.sqrt(at)
        next_places = (high + low) / 2 + (high - low) / 2 * nodes
        step = math.sqrt(at - before)
        away = (next_places[:, None] - places[None, :]) / step
        density = np.exp(-away * away / 2) @ inside / (step * math.sqrt(2 * math.pi))
        places, inside, before = next_places, density * heights * (high - low) / 2, at
    return 1 - float(inside.sum())


@lru_cache(maxsize=256)
def bounds(
    fractions: tuple[float, ...], alpha: float, shape: Shape, sides: Literal[1, 2] = 1
) -> tuple[float, ...]:
    """The bounds on z, looks in order, that are ever crossed with probability `alpha`."""
    # The shape is fixed and only its height solved for: crossing probability falls as the constant rises.
    heights = SHAPES[shape](np.asarray(fractions))
    constant = optimize.brentq(
        lambda c: crossing((c * heights).tolist(), fractions, sides=sides) - alpha, 0.1, _FURTHEST
    )
    return tuple((float(constant) * heights).tolist())


# A monitored gate: each look at repeated runs stops with PASS or FAIL, or goes on.
#
# The rule of `analysis.decide` at the look's own level, applied to Welch's t. Holm's steps have bounds of
# their own for each share of the level (W. Maurer and F. Bretz, Stat. in Biopharmaceutical Research 5, 2013).


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a look decides. `verdicts` has one for each gate, INCONCLUSIVE while it is open.

    `level` is the look's nominal one-sided level. Before the last look only PASS, FAIL and INVALID stop.
    """

    looks: Looks
    look: int
    stop: bool
    verdict: Verdict
    level: float
    verdicts: tuple[Verdict, ...]

    @property
    def text(self) -> str:
        """As one sentence without its full stop."""
        runs, count = self.looks.runs[self.look - 1], len(self.looks.runs)
        what = f"stopped with {self.verdict}" if self.stop else "went on"
        return (
            f"look {self.look} of {count} ({runs} runs of each arm) {what} at the one-sided level "
            f"{self.level:.2g} ({NAMES[self.looks.shape]})"
        )


def at_look(gates: Sequence[GateEvidence], looks: Looks, look: int) -> Decision:
    """Hold the gates against a look's levels; what is lost without a level fails at the last look only."""
    verdicts = decide(gates, partial(looks.level, look), final=look == len(looks.runs))
    return _decision(looks, look, verdicts)


def monitor(results: GateResults, looks: Looks, look: int) -> Decision:
    """The decision on the results of the runs so far, of all candidates together.

    A look's levels are stricter than those of fixed runs, so what is not PASS or FAIL there (runs that did
    not take turns, say) is not so here, and what cannot be tested stays so. INVALID stops at any look. Raises
    InputError where there are other runs than planned.
    """
    planned = looks.runs[look - 1]
    tested = [row for row in results.rows if row.comparison.verdict is not Verdict.SKIPPED]
    for row in tested:
        runs = (len(row.baseline_runs), len(row.candidate_runs))
        if runs != (planned, planned):
            raise InputError(
                f"look {look} is planned after {planned} runs of each arm; there are {runs[0]} "
                f"and {runs[1]}"
            )
    decided = iter(at_look([row.evidence for row in tested], looks, look).verdicts)
    fixed = [row.comparison.verdict for row in results.rows]
    verdicts = tuple(
        verdict if verdict is Verdict.SKIPPED or next(decided) is verdict else Verdict.INCONCLUSIVE
        for verdict in fixed
    )
    decision = _decision(looks, look, verdicts)
    # More runs cannot mend a client that was the limit of its own runs: going on would only cost.
    if results.verdict is Verdict.INVALID:
        return replace(decision, stop=True, verdict=Verdict.INVALID)
    return decision


def as_monitored(results: GateResults, decision: Decision) -> GateResults:
    """The results with the decision's verdicts, without the intervals of an experiment of fixed length."""
    still_open = f"open at this look's one-sided level, {decision.level:.2g}"
    rows = tuple(
        replace(
            row,
            comparison=replace(
                row.comparison,
                low=None,
                high=None,
                confidence="none",
                finding=None,
                method=f"{row.comparison.method}; {decision.text}",
                verdict=verdict,
            ),
            reason=row.reason if verdict is row.comparison.verdict else still_open,
        )
        for row, verdict in zip(results.rows, decision.verdicts, strict=True)
    )
    caution = Caution(
        code="MONITORED",
        text=f"{decision.text}; an experiment that may stop early has no interval of a fixed level, and the "
        "change is shown as it stood",
    )
    return replace(
        results, rows=rows, verdict=decision.verdict, warnings=(*results.warnings, caution)
    )


def _decision(looks: Looks, look: int, verdicts: tuple[Verdict, ...]) -> Decision:
    verdict = overall(verdicts)
    return Decision(
        looks=looks,
        look=look,
        stop=look == len(looks.runs) or verdict is not Verdict.INCONCLUSIVE,
        verdict=verdict,
        level=looks.level(look),
        verdicts=verdicts,
    )
