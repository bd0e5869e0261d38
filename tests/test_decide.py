"""The rule by itself: against Holm's own definition, and the same from each of its callers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tbench.analysis.comparison import Verdict
from tbench.analysis.decide import GateEvidence, decide, overall
from tbench.analysis.evaluate_history import evaluate_history
from tbench.analysis.gate import parse_gate, parse_gates
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.history import History, Session
from tbench.analysis.interim import Looks, at_look, monitor
from tbench.analysis.run_metrics import Figure
from tbench.analysis.t_tests import student

GATE = parse_gate("ttft:p95:5%")
SE, DF = 0.02, 8


def evidence(p_value: float) -> GateEvidence:
    """A change that is this improbable at the margin."""
    worsening = student(GATE.threshold + float(stats.t.isf(p_value, DF)) * SE, SE, DF)
    return GateEvidence(gate=GATE, worsening=worsening, strict=worsening)


def by_hand(p_values: Sequence[float]) -> list[Verdict]:
    """Holm (1979): all p-values up to the first that is not below alpha / (how many are left) fail."""
    failing: set[float] = set()
    for at, p in enumerate(sorted(p_values)):
        if p >= 0.05 / (len(p_values) - at):
            break
        failing.add(p)
    return [
        Verdict.FAIL if p in failing else Verdict.PASS if p > 0.95 else Verdict.INCONCLUSIVE
        for p in p_values
    ]


def test_the_golden_case_of_holm() -> None:
    """Golden case G9: adjusted to .03, .06, .06 and .02."""
    verdicts = decide([evidence(p) for p in (0.01, 0.04, 0.03, 0.005)])

    assert verdicts == (
        Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.FAIL,
    )  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.floats(0.0001, 0.9999), min_size=1, max_size=8, unique=True))
def test_fixed_runs_and_a_single_look_are_held_to_the_same(p_values: list[float]) -> None:
    """One look at the end spends all of the level, so that nothing tells it from no look."""
    limits = np.array([0.95, *(0.05 / k for k in range(1, 9))])
    clear = [p for p in p_values if np.abs(limits - p).min() > 1e-6]
    gates = [evidence(p) for p in clear]

    assert list(decide(gates)) == by_hand(clear)
    assert list(at_look(gates, Looks(runs=(5,)), 1).verdicts) == by_hand(clear)


def test_what_is_lost_fails_when_the_runs_are_over() -> None:
    """It has no p-value to hold against the level of a look."""
    lost = GateEvidence(gate=GATE, worsening=None, strict=None, lost=True)

    assert decide([lost]) == (Verdict.FAIL,)
    assert decide([lost], final=False) == (Verdict.INCONCLUSIVE,)


def test_all_must_pass_and_one_failing_is_enough() -> None:
    """What could not be tested counts on neither side."""
    passed, failed, open_ = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE

    assert overall([passed, Verdict.SKIPPED]) is passed
    assert overall([passed, open_]) is open_
    assert overall([passed, open_, failed]) is failed
    assert overall([Verdict.SKIPPED]) is open_


@pytest.mark.parametrize("factor", [1.0, 1.06, 1.5])
def test_every_caller_decides_by_it(repeats: Any, factor: float) -> None:
    """Fixed runs, a look at all of them and a baseline file, where no caution is in the way."""
    gates = parse_gates(None, ["e2e:p50:10%", "e2e:p50<=700ms"])
    arms = repeats.arms(factor)
    fixed = evaluate_gates(arms, gates)
    looked = monitor(fixed, Looks(runs=(len(arms[0].runs),)), 1)
    medians = (0.63, 0.64, 0.65, 0.62, 0.64, 0.63)
    past = evaluate_history(
        History(path=Path("b.json"), sessions=tuple(sessions(medians))), arms[1], gates
    )

    verdicts = [row.comparison.verdict for row in fixed.rows]
    assert verdicts == list(decide([row.evidence for row in fixed.rows])) == list(looked.verdicts)
    assert [row.comparison.verdict for row in past.rows] == list(
        decide([row.evidence for row in past.rows])
    )
    # What the candidate must hold by itself is the same question with and without a history.
    assert past.rows[1].evidence == fixed.rows[1].evidence


def sessions(medians: Sequence[float]) -> list[Session]:
    """Nightly runs with these medians of end-to-end latency, and no failure."""
    return [
        Session(
            recorded=f"2026-11-{day:02}T02:00:00.000+00:00",
            trace="trace-1",
            name="nightly",
            model="m",
            target=None,
            pacing="as recorded",
            versions={},
            requests=500,
            figures={
                "e2e:p50": (Figure(value=median, n=500),) * 5,
                "errors": (Figure(value=0.004, n=500, events=2),) * 5,
            },
        )
        for day, median in enumerate(medians, 1)
    ]
