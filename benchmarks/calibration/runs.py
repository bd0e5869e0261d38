"""Runs: what the judge says of repeated runs of two arms, against what is true of them.

The judge is given whole arms, as loaded from run files: nothing of it is bypassed but the disk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from calibration.bars import FAILS, FPR, PASSES, Outcomes
from calibration.drifts import Drift, Order, one_after_the_other, random_pairs
from calibration.pairs import WRONG
from calibration.scenes import Scene
from tbench.analysis.arms import Arm, Replicates
from tbench.analysis.comparison import NO_DIFFERENCE, Verdict
from tbench.analysis.gate import Gate, parse_gate
from tbench.analysis.gate_estimate import Method
from tbench.analysis.gate_results import STOPS, GateResults, evaluate_gates
from tbench.analysis.inversion import Truths
from tbench.analysis.summary import Floats
from tbench.analysis.t_tests import difference
from tbench.replay.columns import NUMBERS, WORDS, Column
from tbench.replay.runfile import Run, recount

MARGIN = 0.05
GATES = tuple(parse_gate(f"ttft:p{p}:5%") for p in (50, 95, 99))
TRUTHS = (1.0, 1 + MARGIN, 1.1)
SEES = "sees +10 %"
EQUAL_FAILS, QUEUES = "A/A fails", "says LOAD_DOMINATED"
WELCH, REFUSED = "A/A differs, Welch unasked", "refused: took no turns"

Experiment = tuple[list[Floats], list[Floats], Sequence[bool]]
"""Each run's latencies, of the baseline and of the candidate, and whose turn it was."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """`repeats` replays of a scene's trace by each arm; a run as a whole is off by N(0, `offset`)."""

    scene: Scene
    repeats: int
    offset: float = 0.03

    def replay(self, random: Generator) -> Outcomes:
        traffic = self.scene.traffic(random)
        sides = tuple(
            [
                self.scene.play(traffic, random) * math.exp(random.normal(0, self.offset))
                for _ in range(self.repeats)
            ]
            for _ in "AB"
        )
        return _outcomes((*sides, random_pairs(self.repeats, random).tolist()), GATES)


@dataclass(frozen=True, kw_only=True)
class Drifting:
    """`repeats` runs of each arm in some order while the hours change; a run is one number times a shape.

    Its logarithm is the drift at its place + N(0, `offset`) + N(0, `within`), the error of its quantile.
    """

    drift: Drift
    order: Order
    repeats: int
    offset: float = 0.03
    within: float = 0.03
    contrast: Method = "welch"

    def replay(self, random: Generator) -> Outcomes:
        turns, number = self.order(self.repeats, random), 2 * self.repeats
        logs = self.drift(number, random) + random.normal(0, self.offset, number)
        logs += random.normal(0, self.within, number)
        runs = [_SHAPE * math.exp(y) for y in logs]
        sides = tuple(
            [run for run, turn in zip(runs, turns, strict=True) if turn == arm] for arm in (0, 1)
        )
        return _outcomes((*sides, turns.tolist()), GATES[:1], self.contrast)


@dataclass(frozen=True, kw_only=True)
class Unturned:
    """All runs of one arm after those of the other: what the judge says, and what Welch would."""

    drift: Drift
    repeats: int
    offset: float = 0.03

    def replay(self, random: Generator) -> Outcomes:
        number = 2 * self.repeats
        logs = self.drift(number, random) + random.normal(0, self.offset, number)
        turns = one_after_the_other(self.repeats, random)
        runs = [_SHAPE * math.exp(y) for y in logs]
        judgement = _judged(
            (runs[: self.repeats], runs[self.repeats :], turns.tolist()), GATES[:1], 1.0
        )
        row = judgement.rows[0]
        return {
            (REFUSED, None): _refused(judgement),
            (WELCH, row.gate.quantile): _differs(row.baseline_runs, row.candidate_runs),
        }


_SHAPE = np.exp(np.linspace(-0.01, 0.01, 41))
"""A run that is hardly more than its median: as few requests as carry one, all alike."""


def _outcomes(
    experiment: Experiment, gates: tuple[Gate, ...], contrast: Method = "welch"
) -> Outcomes:
    equal, margin, more = (_judged(experiment, gates, truth, contrast) for truth in TRUTHS)
    outcomes: Outcomes = {
        (FAILS, None): margin.verdict is Verdict.FAIL,
        ("A/A passes", None): equal.verdict is Verdict.PASS,
        (EQUAL_FAILS, None): equal.verdict is Verdict.FAIL,
        (QUEUES, None): "LOAD_DOMINATED" in {caution.code for caution in equal.warnings},
    }
    for row, at, other in zip(equal.rows, margin.rows, more.rows, strict=True):
        p = row.gate.quantile
        outcomes[FPR, p] = row.comparison.finding != NO_DIFFERENCE
        outcomes[WRONG, p] = outcomes[FPR, p] and not _stopped(equal)
        outcomes[PASSES, p] = at.comparison.verdict is Verdict.PASS
        outcomes[SEES, p] = other.comparison.finding == "slower"
    return outcomes


def _judged(
    experiment: Experiment, gates: tuple[Gate, ...], truth: float, contrast: Method = "welch"
) -> GateResults:
    first, second, turns = experiment
    arms = {False: iter(first), True: (run * truth for run in second)}
    sides: dict[bool, list[Arm]] = {False: [], True: []}
    for place, turn in enumerate(turns):
        sides[turn].append(arm(next(arms[turn]), place, drawn=contrast == "trend"))
    replicates = [
        Replicates(name=name, runs=tuple(sides[which]))
        for name, which in (("A", False), ("B", True))
    ]
    return evaluate_gates(replicates, gates, contrast=contrast, planned=contrast == "trend")


def _stopped(judgement: GateResults) -> bool:
    """Whether a caution forbids any verdict on a change."""
    return bool({caution.code for caution in judgement.warnings} & set(STOPS))


def _refused(judgement: GateResults) -> bool:
    return judgement.verdict is Verdict.INCONCLUSIVE and "NOT_INTERLEAVED" in {
        caution.code for caution in judgement.warnings
    }


def _differs(first: Sequence[float], second: Sequence[float]) -> bool:
    """Welch at 5 %, whatever the order of the runs."""
    change = difference(np.log(first).tolist(), np.log(second).tolist())
    return not change.low <= 0 <= change.high


def arm(latency: Floats, place: int, *, drawn: bool = False, failed: Truths | None = None) -> Arm:
    """A run whose requests had this time to first token, and began as the `place`th.

    `drawn` says in its header that chance decided the order; `failed` which requests did.
    """
    columns, totals = _template(len(latency))
    first = columns["due"] + latency
    changed = {"first_token": first, "last_token": first + 1.0, "end": first + 1.0}
    if failed is not None:
        changed["outcome"] = np.where(failed, "http_error", "ok").astype(object)
    return Arm(
        kind="run",
        name=f"run {place}",
        run=Run(
            Path(f"{place}.run"),
            {"wall_ns": place + 1, "experiment": {"schedule": "random"} if drawn else {}},
            {**columns, **changed},
            totals,
            complete=True,
        ),
        source="trace",
        model="model",
        target=None,
        pacing="as recorded",
        as_recorded=True,
        token_gaps=lambda: (np.zeros(len(latency) + 1, np.int64), np.zeros(0)),
    )


@cache
def _template(n: int) -> tuple[dict[str, Column], dict[str, Any]]:
    """What all runs of n requests have in common: streamed, sent when due, all answered."""
    absent = {"f": np.nan, "i": -1, "b": False}
    columns: dict[str, Column] = {
        name: np.full(n, absent[np.dtype(kind).kind], kind) for name, kind in NUMBERS.items()
    }
    columns["index"], columns["cycle"] = np.arange(n), np.zeros(n, np.int64)
    columns["due"] = columns["sent"] = np.arange(n) * 1.0
    columns["first_token"] = columns["last_token"] = columns["end"] = columns["due"] + 1.0
    columns["output_tokens"] = columns["token_events"] = np.full(n, 20)
    columns["held"] = columns["connect"] = np.zeros(n)
    columns["stream"], columns["warmup"] = np.ones(n, bool), np.zeros(n, bool)
    columns["status"] = np.full(n, 200)
    columns |= {name: np.full(n, None, dtype=object) for name in WORDS}
    columns["outcome"] = np.full(n, "ok", dtype=object)
    columns["id"] = np.array([f"r{i}" for i in range(n)], dtype=np.dtypes.StringDType())
    return columns, recount(columns)
