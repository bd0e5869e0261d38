"""Failing: gates on errors, and on latencies beside errors, where the truth lies at the margin or beyond it.

Errors come one by one, in bursts, at a rate that differs from run to run, or all in some of the runs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from calibration.bars import FAILS, PASSES, Outcomes
from calibration.drifts import random_pairs
from calibration.runs import arm
from tbench.analysis.arms import Arm, Replicates
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import parse_gate, parse_gates
from tbench.analysis.gate_estimate import GateEstimate, at_the_margin, estimate_of
from tbench.analysis.gate_results import evaluate_gates, gate_rows
from tbench.analysis.inversion import Truths
from tbench.analysis.run_metrics import share

Errors = Callable[[int, float, Generator], Truths]
"""Of n requests, which fail, the share being what was asked on average."""


def one_by_one(n: int, share_: float, random: Generator) -> Truths:
    """Independently."""
    return random.random(n) < share_


def in_bursts(n: int, share_: float, random: Generator, *, size: int = 10) -> Truths:
    """So many in a row, wherever they begin."""
    begins = np.flatnonzero(random.random(n) < share_ / size)
    failed = np.zeros(n, bool)
    failed[(begins[:, None] + np.arange(size)).ravel() % n] = True
    return failed


def from_run_to_run(n: int, share_: float, random: Generator) -> Truths:
    """At a rate that each run draws, exponential about the share: as large as it on either side."""
    return random.random(n) < min(1.0, random.exponential(share_))


def in_one_run_of_five(n: int, share_: float, random: Generator) -> Truths:
    """None in four runs of five, five times the share in the fifth."""
    return random.random(n) < (min(1.0, 5 * share_) if random.random() < 0.2 else 0.0)


KINDS: Mapping[str, Errors] = {
    "one by one": one_by_one,
    "in bursts of 10": in_bursts,
    "in bursts of 20": partial(in_bursts, size=20),
    "rate varies from run to run": from_run_to_run,
    "all in one run of five": in_one_run_of_five,
}
UNSEEN_KINDS = ("in bursts of 20", "all in one run of five")
"""Of which runs without an error show too little: they come twenty at a time, or in other runs."""


@dataclass(frozen=True, kw_only=True)
class Failing:
    """`repeats` runs of `n` requests an arm; the candidate's share of errors lies at the margin."""

    gate: str
    errors: Errors
    baseline: float
    candidate: float
    n: int
    repeats: int

    def replay(self, random: Generator) -> Outcomes:
        gate, turns = parse_gate(self.gate), random_pairs(self.repeats, random)
        first, second = (
            tuple(share(self.errors(self.n, p, random)) for _ in range(self.repeats))
            for p in (self.baseline, self.candidate)
        )
        at = np.flatnonzero(~turns).tolist(), np.flatnonzero(turns).tolist()
        estimate = estimate_of(gate, (first, second), at, "welch")
        case = GateEstimate(
            arm="B",
            gate=gate,
            baseline=first,
            candidate=second,
            estimate=estimate,
            method="",
            strict=at_the_margin(gate, (first, second), estimate),
        )
        (row,) = gate_rows([case], {"B": ()})
        verdict = row.comparison.verdict
        return {(PASSES, None): verdict is Verdict.PASS, (FAILS, None): verdict is Verdict.FAIL}


PASSES_ANYWAY = "passes although it is worse"


@dataclass(frozen=True, kw_only=True)
class Shedding:
    """Five runs of 2,000 requests an arm; the candidate fails `random_share`, and its slowest `slow_share`.

    The slowest tenth of its requests takes 14 % longer where it sheds the slow ones; all take `slow` times
    as long. Gates as named.
    """

    margin: str | None
    gates: tuple[str, ...]
    random_share: float = 0.0
    slow_share: float = 0.0
    slow: float = 1.0
    n: int = 2000
    repeats: int = 5

    def replay(self, random: Generator) -> Outcomes:
        turns = random_pairs(self.repeats, random).tolist()
        runs: dict[bool, list[Arm]] = {False: [], True: []}
        for place, turn in enumerate(turns):
            latency = np.exp(random.normal(-2, 0.3, self.n) + random.normal(0, 0.01))
            failed = np.zeros(self.n, bool)
            if turn:
                latency *= self.slow
                order = np.argsort(latency)
                if self.slow_share:
                    latency[order[-self.n // 10 :]] *= 1.14
                    failed[order[self.n - round(self.slow_share * self.n) :]] = True
                failed |= random.random(self.n) < self.random_share
            runs[turn].append(arm(latency, place, failed=failed))
        judgement = evaluate_gates(_arms(runs), parse_gates(self.margin, self.gates))
        return {(PASSES_ANYWAY, None): judgement.verdict is Verdict.PASS}


def _arms(runs: Mapping[bool, list[Arm]]) -> list[Replicates]:
    return [Replicates(name=name, runs=tuple(runs[name == "B"])) for name in "AB"]


UNSEEN = "passes though bad runs make it 5 % worse"


@dataclass(frozen=True, kw_only=True)
class RarelyBad:
    """The candidate is as the baseline but for one run in `one_in`, so bad that the mean is 5 % worse."""

    one_in: int
    repeats: int

    def replay(self, random: Generator) -> Outcomes:
        turns = random_pairs(self.repeats, random).tolist()
        runs: dict[bool, list[Arm]] = {False: [], True: []}
        for place, turn in enumerate(turns):
            bad = turn and random.random() < 1 / self.one_in
            y = random.normal(0, 0.01) + (self.one_in * math.log(1.05) if bad else 0.0)
            runs[turn].append(arm(np.exp(np.linspace(-0.01, 0.01, 41) + y), place))
        (row,) = evaluate_gates(_arms(runs), parse_gates(None, ["ttft:p50:5%"])).rows
        return {(UNSEEN, None): row.comparison.verdict is Verdict.PASS}
