"""Gate estimate: one gate for one candidate, the figure of every run and what the runs say of the change.

The run is the unit: y is the logarithm of a run's quantile or rate, or its share itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Verdict
from tbench.analysis.contrast import FINDINGS
from tbench.analysis.decide import BURST, GateEvidence
from tbench.analysis.gate import Gate
from tbench.analysis.metrics import METRICS, Metric
from tbench.analysis.pairing import ArmRuns, RunView
from tbench.analysis.run_metrics import Figure
from tbench.analysis.summary import ordered, quantile
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
    # Centred, so that the columns are not nearly parallel; the arm's coefficient is the same.
    design = np.column_stack([np.ones_like(y), arm, place - place.mean()])
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ y
    df = len(y) - design.shape[1]
    variance = float(((y - design @ coefficients) ** 2).sum()) / df * float(inverse[1, 1])
    return student(float(coefficients[1]), math.sqrt(max(variance, sum(floors))), df)


Method = Literal["welch", "trend"]
LEAST_RUNS: Final = 3
"""With fewer there are one or two degrees of freedom, and no interval worth showing."""
HIDDEN: Final = "it lies among the timeouts"
NONE_LEFT: Final = "it is zero"


@dataclass(frozen=True, kw_only=True)
class GateEstimate:
    """The figures of each arm's runs, and the estimate on y's scale; None where it cannot be made.

    `strict` is what a PASS needs besides (`analysis.decide.GateEvidence`), by default the estimate alone.
    `lag_s` is by how much the client's own lag can have raised the candidate's figure over the baseline's,
    and by how much it can have lowered it, seconds. `stops` are codes of cautions that forbid a verdict on
    this gate alone. `units` are what it takes more of for a narrower interval.
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
    units: Literal["runs", "sessions"] = "runs"

    @property
    def refusal(self) -> str | None:
        """Why a run has no figure at all."""
        sides = self.candidate if self.gate.limit is not None else (*self.baseline, *self.candidate)
        return next((figure.refusal for figure in sides if figure.refusal), None)

    @property
    def evidence(self) -> GateEvidence:
        """What there is to decide by, turned so that more is worse."""
        gate, limit = self.gate, self.gate.limit is not None
        estimates = (self.estimate, self.estimate if self.strict == "alike" else self.strict)
        worsening, strict = (
            estimate.negated if estimate is not None and gate.higher else estimate
            for estimate in estimates
        )
        # The client's lag as y: taken from the candidate's figure, or from the baseline's.
        lag = (0.0, 0.0)
        if any(self.lag_s):
            # An unknown figure counts as 0, which every lag exceeds: then the lag may explain all
            # of it.
            centres = (_centre(gate, side) or 0.0 for side in (self.candidate, self.baseline))
            raised, lowered = (
                -math.log1p(-seconds / figure) if 0 <= seconds < figure else math.inf
                for seconds, figure in zip(self.lag_s, centres, strict=True)
            )
            lag = raised, lowered
        spotless = None
        sides = self.candidate if limit else (*self.baseline, *self.candidate)
        if gate.endpoint.scale == "points" and all(
            figure.events == (figure.n if gate.higher else 0) for figure in sides
        ):
            first = 0 if limit else sum(figure.n for figure in self.baseline)
            spotless = first, sum(figure.n for figure in self.candidate)
        return GateEvidence(
            gate=gate,
            worsening=worsening,
            strict=strict,
            lag=lag,
            spotless=spotless,
            lost=self.lost is not None,
        )

    @property
    def rise(self) -> float:
        """By how much larger the candidate's share of events is."""
        return share_of(self.candidate) - share_of(self.baseline)

    @property
    def lost(self) -> str | None:
        """Why the candidate is as bad as can be in every run, where the baseline is not."""
        if len(self.candidate) < LEAST_RUNS or self.refusal or self.gate.scale == "points":
            return None
        worst = 0.0 if self.gate.higher else math.inf
        if any(figure.value != worst for figure in self.candidate):
            return None
        if self.gate.limit is None and any(figure.value == worst for figure in self.baseline):
            return None
        return f"{HIDDEN if worst else NONE_LEFT} in every run of the candidate"


def estimate_gate(
    gate: Gate, baseline: ArmRuns, candidate: ArmRuns, contrast: Method
) -> GateEstimate:
    """The figures of all runs, and Welch's or the trend's difference; the candidate's level for a limit."""
    groups = (baseline, candidate)
    sides = figures_of(gate, baseline), figures_of(gate, candidate)
    estimate = estimate_of(gate, sides, (baseline.at, candidate.at), contrast)
    strict: Estimate | Literal["alike"] | None = "alike"
    if gate.endpoint.scale == "points":
        strict = at_the_margin(gate, sides, estimate)
    elif any(worst := [worst_figures(gate, group) for group in groups]):
        first, second = (figures or side for figures, side in zip(worst, sides, strict=True))
        strict = estimate_of(gate, (first, second), (baseline.at, candidate.at), contrast)
    return GateEstimate(
        arm=candidate.name,
        gate=gate,
        baseline=sides[0],
        candidate=sides[1],
        estimate=estimate,
        method=_method(gate, sides, estimate, contrast),
        strict=strict,
        lag_s=_lag_s(gate, groups),
    )


Sides = tuple[tuple[Figure, ...], tuple[Figure, ...]]


def estimate_of(
    gate: Gate, sides: Sides, at: tuple[Sequence[int], Sequence[int]], contrast: Method
) -> Estimate | None:
    """The change, or the candidate's level for a limit; None where there are too few runs or y is unknown."""
    if gate.limit is not None:
        return level_of(gate, sides[1])
    return difference_of(gate, sides, at, contrast)


def figures_of(gate: Gate, group: ArmRuns) -> tuple[Figure, ...]:
    """The figure of each run."""
    key = ("figure", gate.metric, gate.quantile, gate.slo)
    return tuple(
        run.once(key, lambda run: gate.endpoint.figure(run, gate.slo)) for run in group.runs
    )


def worst_figures(gate: Gate, group: ArmRuns) -> tuple[Figure, ...] | None:
    """The runs' figures with every failure as the slowest request; None where no such request failed."""
    worst = gate.endpoint.worst
    if worst is None:
        return None
    metric = METRICS[gate.metric]
    failed = [
        run.once(("failed", metric.name), lambda run: run.failures(metric)) for run in group.runs
    ]
    if not any(failed):
        return None
    return tuple(
        run.once(("worst", metric.name, gate.quantile), worst) if count else figure
        for run, count, figure in zip(group.runs, failed, figures_of(gate, group), strict=True)
    )


def _lag_s(gate: Gate, groups: tuple[ArmRuns, ArmRuns]) -> tuple[float, float]:
    """What the client's own lag can have done to a quantile, by the larger of two reckonings.

    How far the quantile of each run falls once every request counts from when it could have been sent; and
    the same quantile of the lag itself.
    """
    # Only what counts from when a request was due has the client's own lag in it.
    if gate.limit is not None or gate.quantile is None or not METRICS[gate.metric].from_due:
        return 0.0, 0.0
    metric, p = METRICS[gate.metric], gate.quantile
    means = []
    for group in groups:
        late = [
            run.once(("lag", metric.name, p), lambda run: _late_s(run, metric, p))
            for run in group.runs
        ]
        means.append(np.mean(late, axis=0).tolist())
    apart = [second - first for first, second in zip(*means, strict=True)]
    return max(0.0, *apart), max(0.0, *(-lag for lag in apart))


def _late_s(run: RunView, metric: Metric, p: float) -> tuple[float, float]:
    """By either reckoning, of one run."""
    measured, punctual = run.values(metric), run.punctual(metric)
    with np.errstate(invalid="ignore"):  # of a timeout nothing is known
        lag = ordered(measured - punctual)
    if not len(lag):
        return 0.0, 0.0
    plain, without = (quantile(ordered(side), p) for side in (measured, punctual))
    return (plain - without if math.isfinite(plain) else 0.0), quantile(lag, p)


def share_of(figures: Sequence[Figure]) -> float:
    """The share of events in all runs together; 0 of no requests."""
    return sum(run.events for run in figures) / max(1, sum(run.n for run in figures))


def known(gate: Gate, figures: Sequence[Figure]) -> bool:
    """Whether y can be made of every figure."""
    # A ratio's y is a logarithm: zero has none. Shares are taken as they are.
    least = -math.inf if gate.endpoint.scale == "points" else 0.0
    return all(math.isfinite(figure.value) and figure.value > least for figure in figures)


def _y(gate: Gate, figures: Sequence[Figure]) -> list[float]:
    return [gate.y(figure.value) for figure in figures]


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
    mixed = [run for run in figures if run.clumps is not None and 0 < run.events < run.n]
    # Nothing shows how errors come: they count as coming many at a time, the careful guess.
    if not mixed:
        return BURST
    single = sum(run.events * (1 - run.events / run.n) for run in mixed)
    return max(1.0, sum(run.clumps or 0.0 for run in mixed) / single)


def least_variance(gate: Gate, side: Sequence[Figure], size: float = 1.0) -> float:
    """The least variance that a mean share has, that of as many independent bursts of this size.

    Runs whose few events are equal by chance would else seem to agree perfectly. With one burst of events and
    one of others more, as Agresti and Caffo (2000) do.
    """
    if gate.endpoint.scale != "points":
        return 0.0
    n = sum(figure.n for figure in side) / size
    share = (sum(figure.events for figure in side) / size + 1) / (n + 2)
    return share * (1 - share) / (n + 2)


def at_the_margin(gate: Gate, sides: Sides, estimate: Estimate | None) -> Estimate | None:
    """The estimate with the spread that shares have in bursts, the candidate's if it were at the margin.

    Rare events have the smaller spread the fewer of them one happens to see, so that bounds would pass too
    easily. Of the variance what bursts explain grows with the share, what runs differ by with its square.
    """
    if estimate is None:
        return None
    size = burst((*sides[0], *sides[1]))
    # Always what is bad: of 99 % of goodput the rare events are the misses.
    bad = [
        sum(figure.n - figure.events if gate.higher else figure.events for figure in side)
        for side in sides
    ]
    n = sum(figure.n for figure in sides[1])
    base = 0.0 if gate.limit is not None else bad[0] / sum(figure.n for figure in sides[0])
    # How many times what the candidate shows of bad requests its share is at the margin; at least once.
    at_limit = max(1.0, (base + gate.allowance) * (n + 2 * size) / (bad[1] + size))
    more, rises = 0.0, (at_limit, 1.0)
    for side, rise in zip(sides[::-1][: 1 if gate.limit is not None else 2], rises, strict=False):
        # Of a baseline file today's session may be one run: what differs from run to run is not seen then.
        seen = np.var([run.value for run in side], ddof=1) / len(side) if len(side) > 1 else 0.0
        bursts = least_variance(gate, side, size)
        at_margin = bursts * rise + max(0.0, seen - bursts) * rise**2
        # Less what the estimate has already: `difference` took the larger of these two.
        more += at_margin - max(seen, least_variance(gate, side))
    return estimate.widened(max(0.0, more))


def _method(gate: Gate, sides: Sides, estimate: Estimate | None, contrast: Method) -> str:
    """How the estimate was made, for those who read the report."""
    if estimate is None:
        return "refused"
    what = "shares" if gate.endpoint.scale == "points" else "log-quantiles"
    if gate.quantile is None and gate.endpoint.scale == "ratio":
        what = "log-rates"
    if gate.limit is not None:
        return f"Student t on per-run {what}, R={len(sides[1])}, df {estimate.df:.0f}"
    both = f"R={len(sides[0])}+{len(sides[1])}"
    if contrast == "trend":
        return f"least squares of per-run {what} on arm + run index, {both}, df {estimate.df:.0f}"
    return f"Welch t on per-run {what}, {both}, df {estimate.df:.1f}"


def comparison(estimate: GateEstimate) -> Comparison:
    """The estimate as a comparison, yet without a verdict."""
    gate, change = estimate.gate, estimate.estimate
    of = gate.endpoint
    finding = None
    if change is not None and gate.limit is None:
        below, above = FINDINGS["neutral" if of.scale == "points" else of.better]
        # A difference is seen by the two-sided 95 % interval; what is shown are the bounds that decide.
        finding = below if change.high < 0 else above if change.low > 0 else NO_DIFFERENCE
    low, high = None, None
    if (worse := estimate.evidence.interval) is not None:
        low, high = map(gate.shown, (-worse[1], -worse[0]) if gate.higher else worse)
    return Comparison(
        metric=gate.metric,
        unit=of.unit,
        quantile=gate.quantile if gate.quantile is not None else 0.0,
        baseline=_centre(gate, estimate.baseline),
        candidate=_centre(gate, estimate.candidate),
        ratio=None if change is None or gate.limit is not None else gate.shown(change.value),
        low=low,
        high=high,
        confidence="none" if change is None else "90%",
        method=estimate.method,
        n_baseline=sum(figure.n for figure in estimate.baseline),
        n_candidate=sum(figure.n for figure in estimate.candidate),
        runs=(len(estimate.baseline), len(estimate.candidate)),
        verdict=Verdict.INCONCLUSIVE,
        finding=finding,
        refusal=estimate.refusal,
    )


def _centre(gate: Gate, figures: Sequence[Figure]) -> float | None:
    """The mean over the runs: geometric but for shares."""
    if not figures or not known(gate, figures):
        return None
    return gate.shown(float(np.mean(_y(gate, figures))))
