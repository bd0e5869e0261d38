"""The trend contrast: least squares as others compute it, blind to a straight drift, refused to any order."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tbench.analysis.arms import systematic
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_estimate import trend
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.report.machine import judgement_json
from tbench.analysis.report.text import judgement_text
from tbench.analysis.t_tests import difference

Order = tuple[list[int], list[int]]


def drawn(random: np.random.Generator, repeats: int) -> Order:
    """The places of the runs of two arms, chance deciding which begins each pair."""
    begins = random.integers(0, 2, repeats)
    first = [2 * pair + int(begin) for pair, begin in enumerate(begins)]
    return first, [4 * pair + 1 - place for pair, place in enumerate(first)]


@pytest.mark.parametrize(("sizes", "seed"), [((3, 3), 1), ((5, 5), 2), ((4, 6), 3)])
def test_it_is_least_squares(sizes: tuple[int, int], seed: int) -> None:
    """Coefficient, standard error and interval, against the textbook's formula on numpy's solution."""
    random = np.random.default_rng(seed)
    n = sum(sizes)
    places = random.permutation(n)
    at = places[: sizes[0]].tolist(), places[sizes[0] :].tolist()
    y = random.normal(size=n)

    found = trend(y[: sizes[0]].tolist(), y[sizes[0] :].tolist(), at)

    design = np.column_stack([np.ones(n), np.arange(n) >= sizes[0], places]).astype(float)
    theirs, residual, *_ = np.linalg.lstsq(design, y)
    spread = float(residual[0]) / (n - 3) * np.linalg.pinv(design.T @ design)[1, 1]
    assert found.df == n - 3
    assert found.value == pytest.approx(float(theirs[1]), rel=1e-9)
    assert found.se == pytest.approx(math.sqrt(spread), rel=1e-9)
    assert found.high - found.value == pytest.approx(found.se * stats.t.isf(0.025, n - 3), rel=1e-9)


def test_a_straight_drift_changes_nothing() -> None:
    """Whatever its slope, the difference and its error are the same."""
    random = np.random.default_rng(4)
    at = drawn(random, 5)
    first, second = random.normal(size=(2, 5))
    plain = trend(first.tolist(), second.tolist(), at)
    steep = trend(
        (first + 3 * np.array(at[0])).tolist(), (second + 3 * np.array(at[1])).tolist(), at
    )

    assert (steep.value, steep.se) == pytest.approx((plain.value, plain.se), abs=1e-9)


@pytest.mark.parametrize("repeats", [3, 5])
def test_wrong_findings_under_a_drift_are_rare_and_real_ones_are_not(repeats: int) -> None:
    """Offsets of 3 %, a drift of 40 % from first to last run; Welch's t finds nothing there, a control."""
    random = np.random.default_rng(repeats)
    trials, wrong, found, control = 1500, 0, 0, 0
    for _ in range(trials):
        at = drawn(random, repeats)
        sides = [
            (random.normal(0, 0.03, repeats) + 0.4 * np.array(places) / (2 * repeats - 1)).tolist()
            for places in at
        ]
        slower = [y + math.log(1.1) for y in sides[1]]
        equal = trend(sides[0], sides[1], at)
        wrong += equal.low > 0 or equal.high < 0
        found += trend(sides[0], slower, at).low > 0
        control += difference(sides[0], slower).low > 0

    assert wrong / trials <= 0.065
    assert found / trials >= {3: 0.35, 5: 0.75}[repeats]
    assert control / trials <= 0.02


def test_a_rule_is_told_from_chance() -> None:
    """ABAB and ABBA are rules; ABBAAB BA is not."""
    assert systematic([0, 2, 4], [1, 3, 5])
    assert systematic([0, 3, 4], [1, 2, 5])
    assert not systematic([0, 3, 4, 6], [1, 2, 5, 7])


def test_a_judgement_by_trend_says_who_declared_it(repeats: Any) -> None:
    """15 % slower under a drift of 4 % a run: found by the trend, and the text says whose choice it was."""
    arms, gates = repeats.arms(1.15, drift=0.04), parse_gates(None, ["e2e:p50:5%"])
    usual, told = evaluate_gates(arms, gates), evaluate_gates(arms, gates, contrast="trend")
    planned = evaluate_gates(arms, gates, contrast="trend", planned=True)

    assert (usual.verdict, told.verdict) == (Verdict.INCONCLUSIVE, Verdict.FAIL)
    assert told.rows[0].comparison.method == (
        "least squares of per-run log-quantiles on arm + run index, R=5+5, df 7"
    )
    assert "declared by the one who ran this" in " ".join("\n".join(judgement_text(told)).split())
    assert judgement_json(planned)["declared"] == "in the plan, before the runs"
    assert judgement_json(usual)["declared"] is None


@pytest.mark.parametrize("runs", [3, 5])
def test_a_trend_over_few_runs_says_what_a_bend_does(repeats: Any, runs: int) -> None:
    """The calibration's one cell beyond its bar: hours that swing, three runs of each arm."""
    arms, gates = repeats.arms(1.15, repeats=runs), parse_gates(None, ["e2e:p50:5%"])
    for arm in arms:
        for run in arm.runs:
            run.run.header["experiment"] = {"schedule": "random"}
    codes = [caution.code for caution in evaluate_gates(arms, gates, contrast="trend").warnings]

    assert ("TREND_FEW_RUNS" in codes) is (runs < 5)
    assert "TREND_FEW_RUNS" not in [
        caution.code for caution in evaluate_gates(arms, gates).warnings
    ]


def test_turns_by_a_rule_are_refused_unless_the_runs_say_that_chance_drew_them(
    repeats: Any,
) -> None:
    """Chance may draw ABBA; the runs of `tbench ab` say by which schedule they were made."""
    first, second = repeats.arms(2.0, repeats=3)
    pairs = zip(first.runs, second.runs, strict=True)
    ruled = [
        [repeats.run(dict(run.columns), 2 * at + (side ^ at % 2)) for at, run in enumerate(runs)]
        for side, runs in enumerate(zip(*pairs, strict=True))
    ]
    arms = [
        type(first)(name=name, runs=tuple(runs)) for name, runs in zip("AB", ruled, strict=True)
    ]
    gates = parse_gates(None, ["e2e:p50:5%"])

    refused = evaluate_gates(arms, gates, contrast="trend")
    assert refused.verdict is Verdict.INCONCLUSIVE
    assert {row.reason for row in refused.rows} == {"SYSTEMATIC_ORDER"}
    assert evaluate_gates(arms, gates).verdict is Verdict.FAIL
    for schedule, verdict in {"random": Verdict.FAIL, "abba": Verdict.INCONCLUSIVE}.items():
        for arm in arms:
            for one in arm.runs:
                one.run.header["experiment"] = {"schedule": schedule}
        assert evaluate_gates(arms, gates, contrast="trend").verdict is verdict
