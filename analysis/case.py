"""Case: one gate for one candidate: the figure of every run, and what the runs say of the change.

The run is the unit: y is the logarithm of a run's quantile or rate, or its share itself.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Verdict
from tbench.analysis.contrast import FINDINGS
from tbench.analysis.gate import Gate
from tbench.analysis.judgement import BURST, Evidence, Method
from tbench.analysis.metrics import METRICS, Metric
from tbench.analysis.pairing import ArmRuns, RunView
from tbench.analysis.quantiles import ordered, quantile
from tbench.analysis.run_metrics import Figure
from tbench.analysis.t_tests import Estimate, difference, level, student

# The trend contrast: two arms' difference beside a straight drift over the runs, for `--trend`.
#
# Least squares of y on a constant, the arm and the run's place; t on n - 3 degrees of freedom. It recovers
# what drift takes from Welch's t, and is only as good as its straight line: chosen before the runs.


def trend(
    first: Sequence[float],
    second: Sequence[float],
    at: tuple[Sequence[int], Sequence[int]],
    floors: tuple[float, float] = (0.0, 0.0),
) -> Estimate:
    """Second less first with the drift taken out, of at least two finite numbers each.

    `at` are the places of the runs in the order in which they began. `floors` as in
    `analysis.t_tests.difference`.
    """
    y = np.array([*first, *second], dtype=float)
    arm = np.repeat([0.0, 1.0], [len(first), len(second)])
    place = np.array([*at[0], *at[1]], dtype=float)
    design = np.column_stack([np.ones_like(y), arm, place - place.mean()])
    inverse = np.linalg.inv(design.T @ design)
    found = inverse @ design.T @ y
    df = len(y) - design.shape[1]
    variance = float(((y - design @ found) ** 2).sum()) / df * float(inverse[1, 1])
    return student(float(found[1]), math.sqrt(max(variance, sum(floors))), df)


LEAST_RUNS: Final = 3
"""With fewer there are one or two degrees of freedom, and no interval worth showing."""
HIDDEN: Final = "it lies among the timeouts"
NONE_LEFT: Final = "it is zero"


@dataclass(frozen=True, kw_only=True)
class GateEstimate:
    """The figures of each arm's runs, and the estimate on y's scale; None where it cannot be made.

    `strict` is what a PASS needs besides (`analysis.judgement.Evidence`), by default the estimate alone.
    `lag_s` is by how much the client's own lag can have raised the candidate's figure over the baseline's,
    and by how much it can have lowered it, seconds. `stops` are codes of cautions that forbid a verdict on
    this gate alone.
    """

    arm: str
    gate: Gate
    baseline: tuple[Figure, ...]
    candidate: tuple[Figure, ...]
    estimate: Estimate | None
    method: str
    stops: tuple[str, ...] = ()
    strict: Estimate | Literal["alike"] | None = "alike"
    lag_s: tuple[float, float] = (0.0, 0.0)

    @property
    def refusal(self) -> str | None:
        """Why a run has no figure at all."""
        sides = self.candidate if self.gate.limit is not None else (*self.baseline, *self.candidate)
        return next((figure.refusal for figure in sides if figure.refusal), None)

    @property
    def evidence(self) -> Evidence:
        """What there is to decide by."""
        strict = self.estimate if self.strict == "alike" else self.strict
        return Evidence(
            gate=self.gate,
            worsening=self._turned(self.estimate),
            strict=self._turned(strict),
            lag=self._lag,
            spotless=self._spotless,
        )

    def _turned(self, found: Estimate | None) -> Estimate | None:
        """So that more is worse."""
        return found.negated if found is not None and self.gate.higher else found

    @property
    def _lag(self) -> tuple[float, float]:
        """The lag as y: taken from the candidate's figure, or from the baseline's."""
        raised, lowered = self.lag_s
        if not raised and not lowered:
            return 0.0, 0.0
        first, second = (
            _centre(self.gate, side) or 0.0 for side in (self.baseline, self.candidate)
        )
        return _off(raised, second), _off(lowered, first)

    @property
    def _spotless(self) -> tuple[int, int] | None:
        limit, gate = self.gate.limit is not None, self.gate
        sides = self.candidate if limit else (*self.baseline, *self.candidate)
        if gate.endpoint.scale != "points" or any(
            one.events != (one.n if gate.higher else 0) for one in sides
        ):
            return None
        first = 0 if limit else sum(one.n for one in self.baseline)
        return first, sum(one.n for one in self.candidate)

    @property
    def lost(self) -> str | None:
        """Why the candidate is as bad as can be in every run, where the baseline is not."""
        if len(self.candidate) < LEAST_RUNS or self.refusal or self.gate.scale == "points":
            return None
        worst = 0.0 if self.gate.higher else math.inf
        if any(one.value != worst for one in self.candidate):
            return None
        if self.gate.limit is None and any(one.value == worst for one in self.baseline):
            return None
        return f"{HIDDEN if worst else NONE_LEFT} in every run of the candidate"


def make_case(gate: Gate, baseline: ArmRuns, candidate: ArmRuns, contrast: Method) -> GateEstimate:
    """The figures of all runs, and Welch's or the trend's difference; the candidate's level for a limit."""
    groups = (baseline, candidate)
    sides = _sides(groups, lambda run: gate.endpoint.figure(run, gate.slo))
    estimate = estimate_of(gate, sides, (baseline.at, candidate.at), contrast)
    strict: Estimate | Literal["alike"] | None = "alike"
    if gate.endpoint.scale == "points":
        strict = at_the_margin(gate, sides, estimate)
    elif any(worst := [worst_figures(gate, group) for group in groups]):
        first, second = (one or side for one, side in zip(worst, sides, strict=True))
        strict = estimate_of(gate, (first, second), (baseline.at, candidate.at), contrast)
    return GateEstimate(
        arm=candidate.name,
        gate=gate,
        baseline=sides[0],
        candidate=sides[1],
        estimate=estimate,
        method=make_method(gate, tuple(map(len, sides)), estimate, contrast),
        strict=strict,
        lag_s=_lag_s(gate, groups),
    )


Sides = tuple[tuple[Figure, ...], tuple[Figure, ...]]


def _sides(groups: tuple[ArmRuns, ArmRuns], figure: Callable[[RunView], Figure]) -> Sides:
    first, second = (tuple(figure(run) for run in group.runs) for group in groups)
    return first, second


def estimate_of(
    gate: Gate, sides: Sides, at: tuple[Sequence[int], Sequence[int]], contrast: Method
) -> Estimate | None:
    """The change, or the candidate's level for a limit; None where there are too few runs or y is unknown."""
    if gate.limit is not None:
        return level_of(gate, sides[1])
    return difference_of(gate, sides, at, contrast)


def worst_figures(gate: Gate, group: ArmRuns) -> tuple[Figure, ...] | None:
    """The runs' figures with every failure as the slowest request; None where no such request failed."""
    worst = gate.endpoint.worst
    if worst is None or not any(run.failures(METRICS[gate.metric]) for run in group.runs):
        return None
    return tuple(worst(run) for run in group.runs)


def _lag_s(gate: Gate, groups: tuple[ArmRuns, ArmRuns]) -> tuple[float, float]:
    """What the client's own lag can have done to a quantile, by the larger of two reckonings.

    How far the quantile of each run falls once every request counts from when it could have been sent; and
    the same quantile of the lag itself.
    """
    if gate.limit is not None or gate.quantile is None or not METRICS[gate.metric].from_due:
        return 0.0, 0.0
    metric, p = METRICS[gate.metric], gate.quantile
    means = [
        np.mean([_late(run, metric, p) for run in group.runs], axis=0).tolist() for group in groups
    ]
    apart = [second - first for first, second in zip(*means, strict=True)]
    return max(0.0, *apart), max(0.0, *(-one for one in apart))


def _late(run: RunView, metric: Metric, p: float) -> tuple[float, float]:
    found, punctual = run.values(metric), run.punctual(metric)
    with np.errstate(invalid="ignore"):  # of a timeout nothing is known
        lag = ordered(found - punctual)
    if not len(lag):
        return 0.0, 0.0
    plain, without = (quantile(ordered(side), p) for side in (found, punctual))
    return (plain - without if math.isfinite(plain) else 0.0), quantile(lag, p)


def _off(seconds: float, figure: float) -> float:
    """By how much a figure's logarithm falls when so much is taken from it."""
    return -math.log1p(-seconds / figure) if 0 <= seconds < figure else math.inf


def known(gate: Gate, figures: Sequence[Figure]) -> bool:
    """Whether y can be made of every figure."""
    least = -math.inf if gate.endpoint.scale == "points" else 0.0
    return all(math.isfinite(one.value) and one.value > least for one in figures)


def _y(gate: Gate, figures: Iterable[Figure]) -> list[float]:
    return [gate.y(one.value) for one in figures]


def difference_of(
    gate: Gate,
    sides: Sides,
    at: tuple[Sequence[int], Sequence[int]],
    contrast: Method,
) -> Estimate | None:
    """Second side less the first on the scale of y, by the contrast; None where y is not known."""
    if min(map(len, sides)) < LEAST_RUNS or not all(known(gate, side) for side in sides):
        return None
    first, second = (_y(gate, side) for side in sides)
    floors = (least_variance(gate, sides[0]), least_variance(gate, sides[1]))
    if contrast == "trend":
        return trend(first, second, at, floors)
    return difference(first, second, floors)


def level_of(gate: Gate, side: tuple[Figure, ...]) -> Estimate | None:
    """The mean of an arm's y by Student's t; None where there are too few runs, or y is not known."""
    if len(side) < LEAST_RUNS or not known(gate, side):
        return None
    return level(_y(gate, side), least_variance(gate, side))


def burst(figures: Sequence[Figure]) -> float:
    """How many events come at once, typically: the variance of their counts over that of single ones."""
    ordered = [one for one in figures if one.clumps is not None and 0 < one.events < one.n]
    if not ordered:
        return BURST
    single = sum(one.events * (1 - one.events / one.n) for one in ordered)
    return max(1.0, sum(one.clumps or 0.0 for one in ordered) / single)


def least_variance(gate: Gate, side: Sequence[Figure], size: float = 1.0) -> float:
    """The least variance that a mean share has, that of as many independent bursts of this size.

    Runs whose few events are equal by chance would else seem to agree perfectly. With one burst of events and
    one of others more, as Agresti and Caffo (2000) do.
    """
    if gate.endpoint.scale != "points":
        return 0.0
    n = sum(one.n for one in side) / size
    share = (sum(one.events for one in side) / size + 1) / (n + 2)
    return share * (1 - share) / (n + 2)


def at_the_margin(gate: Gate, sides: Sides, found: Estimate | None) -> Estimate | None:
    """The estimate with the spread that shares have in bursts, the candidate's if it were at the margin.

    Rare events have the smaller spread the fewer of them one happens to see, so that bounds would pass too
    easily. Of the variance what bursts explain grows with the share, what runs differ by with its square.
    """
    if found is None:
        return None
    size = burst((*sides[0], *sides[1]))
    more = 0.0
    rises = (_rise(gate, sides, size), 1.0)
    for side, rise in zip(sides[::-1][: 1 if gate.limit is not None else 2], rises, strict=False):
        seen = float(np.var([one.value for one in side], ddof=1)) / len(side)
        bursts = least_variance(gate, side, size)
        at_margin = bursts * rise + max(0.0, seen - bursts) * rise**2
        more += at_margin - max(seen, least_variance(gate, side))
    return found.widened(max(0.0, more))


def _rise(gate: Gate, sides: Sides, size: float) -> float:
    """How many times what the candidate shows of bad requests its share is at the margin; at least once."""
    bad = [[one.n - one.events if gate.higher else one.events for one in side] for side in sides]
    n = sum(one.n for one in sides[1])
    base = 0.0 if gate.limit is not None else sum(bad[0]) / sum(one.n for one in sides[0])
    return max(1.0, (base + gate.allowance) * (n + 2 * size) / (sum(bad[1]) + size))


def make_method(gate: Gate, runs: tuple[int, ...], found: Estimate | None, contrast: Method) -> str:
    """How the estimate was made, for those who read the report; `runs` of baseline and candidate."""
    if found is None:
        return "refused"
    what = "shares" if gate.endpoint.scale == "points" else "log-quantiles"
    if gate.quantile is None and gate.endpoint.scale == "ratio":
        what = "log-rates"
    if gate.limit is not None:
        return f"Student t on per-run {what}, R={runs[1]}, df {found.df:.0f}"
    both = f"R={runs[0]}+{runs[1]}"
    if contrast == "trend":
        return f"least squares of per-run {what} on arm + run index, {both}, df {found.df:.0f}"
    return f"Welch t on per-run {what}, {both}, df {found.df:.1f}"


def comparison(case: GateEstimate) -> Comparison:
    """The case as a comparison, yet without a verdict."""
    gate, found = case.gate, case.estimate
    low, high = _ends(gate, case.evidence.interval)
    return Comparison(
        metric=gate.metric,
        unit=gate.endpoint.unit,
        quantile=gate.quantile if gate.quantile is not None else 0.0,
        baseline=_centre(gate, case.baseline),
        candidate=_centre(gate, case.candidate),
        ratio=None if found is None or gate.limit is not None else gate.shown(found.value),
        low=low,
        high=high,
        confidence="none" if found is None else "90%",
        method=case.method,
        n_baseline=sum(one.n for one in case.baseline),
        n_candidate=sum(one.n for one in case.candidate),
        runs=(len(case.baseline), len(case.candidate)),
        verdict=Verdict.INCONCLUSIVE,
        finding=_finding(gate, found),
        refusal=case.refusal,
    )


def _ends(gate: Gate, worse: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """An interval of the worsening as one of the change."""
    if worse is None:
        return None, None
    low, high = (-worse[1], -worse[0]) if gate.higher else worse
    return gate.shown(low), gate.shown(high)


def _centre(gate: Gate, figures: Sequence[Figure]) -> float | None:
    """The mean over the runs: geometric but for shares."""
    if not figures or not known(gate, figures):
        return None
    return gate.shown(float(np.mean(_y(gate, figures))))


def _finding(gate: Gate, found: Estimate | None) -> str | None:
    if found is None or gate.limit is not None:
        return None
    of = gate.endpoint
    below, above = FINDINGS["neutral" if of.scale == "points" else of.better]
    if found.high < 0:
        return below
    return above if found.low > 0 else NO_DIFFERENCE
