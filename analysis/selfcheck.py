"""Self-check: one arm's repeated runs compared with each other. What equal arms show is the noise floor.

Every pair of runs by the method for one pair; and, from six runs on, balanced splits that took turns by
the gate. Comparisons that share a run are not independent: their shares describe, they test nothing.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import median
from typing import Final

import numpy as np

from tbench.analysis.arms import Replicates, invalid_runs
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.comparison import NO_DIFFERENCE, Comparison, Verdict
from tbench.analysis.gate import Gate
from tbench.analysis.gate_estimate import LEAST_RUNS
from tbench.analysis.gate_results import GateRow, evaluate_gates
from tbench.analysis.metrics import METRICS
from tbench.analysis.pairing import regrouped, shared
from tbench.analysis.planning import USUAL_RUNS
from tbench.analysis.power import margin_needed
from tbench.analysis.summary import Caution
from tbench.analysis.variance import keep, pooled_sd, run_quantiles
from tbench.capture.errors import InputError
from tbench.capture.terminal import plural

MOST_SPLITS: Final = 64
"""As many as six pairs of runs have; of more this many are drawn."""
EXPECTED: Final = 0.05
"""Intervals that miss 1, by their label."""
NARROW: Final = 0.15
"""Beyond this share of them one pair cannot be relied on."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """One quantile of one metric among equal arms.

    `rows` are the comparisons of all pairs, refused ones too; `sd` is that of the log-quantile from run to
    run, None where a figure is refused, or lies among the timeouts.
    """

    metric: str
    quantile: float
    rows: tuple[Comparison, ...]
    sd: float | None

    @cached_property
    def answered(self) -> tuple[Comparison, ...]:
        """The comparisons that have an interval."""
        return tuple(row for row in self.rows if row.refusal is None)

    @cached_property
    def changes(self) -> tuple[float, ...]:
        """|ratio - 1|, the larger run over the smaller; a pair has no order."""
        ratios = (row.ratio for row in self.answered if row.ratio)
        return tuple(max(ratio, 1 / ratio) - 1 for ratio in ratios)

    @property
    def median_change(self) -> float | None:
        return median(self.changes) if self.changes else None

    @property
    def largest_change(self) -> float | None:
        return max(self.changes, default=None)

    @property
    def missed(self) -> int:
        """Intervals that do not hold 1, flagged ones included."""
        return sum(
            (row.low is not None and row.low > 1) or (row.high is not None and row.high < 1)
            for row in self.answered
        )

    @property
    def drifting(self) -> int:
        """Intervals with the SLOW_DRIFT flag, which no one should rely on."""
        return sum(row.drift for row in self.answered)

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why the other comparisons have none, each reason once."""
        return tuple(dict.fromkeys(row.refusal for row in self.rows if row.refusal))

    @property
    def margin(self) -> float | None:
        """The least margin that USUAL_RUNS of each arm pass in four of five plans if nothing changed."""
        return None if self.sd is None else margin_needed(USUAL_RUNS, self.sd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """One gate on `count` splits of equal arms: how often each verdict, and an interval without 1."""

    gate: Gate
    count: int
    verdicts: dict[Verdict, int]
    missed: int


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """The noise floor. `pairs` were compared; `split_runs` is (runs of each half, none without splits)."""

    arms: tuple[Replicates, ...]
    pairs: int
    floors: tuple[Floor, ...]
    splits: tuple[Splits, ...]
    split_runs: tuple[int, ...]
    warnings: tuple[Caution, ...]


def self_check(
    arms: Sequence[Replicates],
    options: CompareOptions,
    gates: Sequence[Gate],
    random: np.random.Generator,
) -> SelfCheck:
    """Compare the runs of each arm with one another, never across arms.

    `random` draws the splits where there are too many. Raises InputError where no arm has two runs, and
    what `compare` raises.
    """
    pairs = [pair for arm in arms for pair in combinations(arm.runs, 2)]
    if not pairs:
        raise InputError(
            "--self-check compares repeated runs of one arm: give a folder or a quoted glob of two or more"
        )
    # Within an arm only: what two arms differ by is not noise.
    by_quantile: dict[tuple[str, float], list[Comparison]] = {}
    for first, second in pairs:
        for row in compare(first, second, options).rows:
            by_quantile.setdefault((row.metric, row.quantile), []).append(row)
        for run in (first, second):
            run.forget()
    metrics = [METRICS[metric] for metric in dict.fromkeys(metric for metric, _ in by_quantile)]
    for run in (run for arm in arms for run in arm.runs):
        keep(run, metrics, options.warmup)
    floors = [
        Floor(
            metric=metric,
            quantile=p,
            rows=tuple(rows),
            sd=pooled_sd(run_quantiles(arms, METRICS[metric], p, options.warmup)[0])[0],
        )
        for (metric, p), rows in by_quantile.items()
    ]
    by_gate: dict[Gate, list[GateRow]] = {}
    split_runs = set()
    for arm in arms:
        common = None
        for halves in balanced(arm, random):
            split_runs.add(len(halves[0].runs))
            common = regrouped(common, halves) if common else shared(halves, options.warmup)
            for judged in evaluate_gates(halves, gates, common=common).rows:
                # What cannot be tested has no verdict to count: the shares of the others would be smaller.
                if judged.comparison.verdict is not Verdict.SKIPPED:
                    by_gate.setdefault(judged.gate, []).append(judged)
    return SelfCheck(
        arms=tuple(arms),
        pairs=len(pairs),
        floors=tuple(floors),
        splits=tuple(
            Splits(
                gate=gate,
                count=len(judgements),
                verdicts=dict(Counter(row.comparison.verdict for row in judgements)),
                missed=sum(
                    row.comparison.finding not in (None, NO_DIFFERENCE) for row in judgements
                ),
            )
            for gate, judgements in by_gate.items()
        ),
        split_runs=tuple(sorted(split_runs)),
        warnings=tuple(_warnings(arms, floors)),
    )


def balanced(
    arm: Replicates, random: np.random.Generator
) -> Iterator[tuple[Replicates, Replicates]]:
    """The arm's runs as two arms that took turns, each going first as often (by one oftener if it must).

    All ways where they are at most MOST_SPLITS, else so many drawn; none with fewer than three pairs. The
    last of an odd number of runs is in none.
    """
    pairs = list(zip(arm.runs[::2], arm.runs[1::2], strict=False))
    if len(pairs) < LEAST_RUNS:
        return
    # A way is which pairs to turn round, as bits: as many as not, or one more or less.
    ways: Collection[int]
    if math.comb(len(pairs), len(pairs) // 2) * (1 + len(pairs) % 2) <= MOST_SPLITS:
        every = range(2 ** len(pairs))
        ways = [way for way in every if abs(2 * way.bit_count() - len(pairs)) <= 1]
    else:
        ways = drawn = dict[int, None]()  # each once, in the order drawn
        while len(drawn) < MOST_SPLITS:
            # Of an odd number of pairs half of the draws turn one
            # more round: neither arm goes first oftener in the end.
            turned = random.permutation(len(pairs))[: (len(pairs) + random.integers(0, 2)) // 2]
            drawn[sum(1 << place for place in turned.tolist())] = None
    for way in ways:
        turns = [pair[:: -1 if way >> place & 1 else 1] for place, pair in enumerate(pairs)]
        first, second = zip(*turns, strict=True)
        yield Replicates(name="one half", runs=first), Replicates(name="the other", runs=second)


def _warnings(arms: Sequence[Replicates], floors: Sequence[Floor]) -> Iterator[Caution]:
    yield from invalid_runs(run for arm in arms for run in arm.runs)
    answered = sum(len(floor.answered) for floor in floors)
    missed = sum(floor.missed for floor in floors)
    if answered and missed > NARROW * answered:
        yield Caution(
            code="RUNS_DIFFER",
            text=f"{missed} of {plural(answered, 'interval')} of one pair miss 1 where nothing changed "
            f"({EXPECTED:.0%} expected): runs of this target differ by more than one pair "
            "can show; rely on repeated runs",
        )
