"""The chances of repeated runs, against simulations of the judge's rule and published figures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tbench.analysis.power import (
    MOST_RUNS,
    chance_to_fail,
    chance_to_pass,
    chance_to_pass_all,
    chance_to_see,
    half_width,
    margin_needed,
    plan_warning,
    runs_needed,
    runs_to_decide,
    runs_to_pass_all,
    runs_to_see,
    upper_sd,
)
from tbench.analysis.t_tests import difference

TRIALS = 2000


def simulated(runs: int, sd: float, margin: float, ratio: float) -> tuple[float, float, float]:
    """How often the judge's rule passes, fails and sees a change, over normal log-quantiles."""
    random = np.random.default_rng(runs)
    passes = fails = seen = 0
    for _ in range(TRIALS):
        first, second = random.normal(0, sd, runs), random.normal(math.log(ratio), sd, runs)
        found = difference(first.tolist(), second.tolist())
        passes += found.most < math.log1p(margin)
        fails += found.worse(math.log1p(margin)) < 0.05
        seen += found.low > 0
    return passes / TRIALS, fails / TRIALS, seen / TRIALS


@pytest.mark.parametrize(
    ("runs", "sd", "margin", "ratio"),
    [(3, 0.03, 0.05, 1.0), (3, 0.03, 0.05, 1.1), (5, 0.03, 0.05, 1.05), (8, 0.06, 0.05, 1.1)],
)
def test_the_chances_are_those_of_the_rule(
    runs: int, sd: float, margin: float, ratio: float
) -> None:
    """Against 2,000 experiments put through Welch's t as the judge does: within four standard errors."""
    said = (
        chance_to_pass(runs, sd, margin, ratio=ratio),
        chance_to_fail(runs, sd, margin, ratio=ratio),
        chance_to_see(runs, sd, ratio - 1),
    )

    for exact, found in zip(said, simulated(runs, sd, margin, ratio), strict=True):
        assert found == pytest.approx(
            exact, abs=4 * math.sqrt(max(exact * (1 - exact), 0.01) / TRIALS)
        )


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.08])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.2])
def test_the_runs_that_decide_are_those_that_pass_equal_arms(sd: float, margin: float) -> None:
    """The distance of equal arms is the margin itself; beyond it the same distance fails as often."""
    assert runs_to_decide(sd, math.log1p(margin)) == runs_needed(sd, margin)


@pytest.mark.parametrize(("sd", "distance"), [(0.03, 0.01), (0.05, 0.02), (0.1, 0.02)])
def test_many_runs_are_what_the_normal_approximation_says(sd: float, distance: float) -> None:
    """2 (sd (1.645 + 0.842) / d)^2, which Student's t exceeds by one or two."""
    normal = 2 * (sd * (1.6449 + 0.8416) / distance) ** 2

    assert normal <= (runs_to_decide(sd, distance) or 0) <= normal + 3


def test_three_runs_pass_five_per_cent_less_than_half_the_time() -> None:
    """With 3 % from run to run, as the reference study has it; five runs do in three of four."""
    assert chance_to_pass(3, 0.03, 0.05) < 0.5
    assert 0.7 < chance_to_pass(5, 0.03, 0.05) < 0.8


@pytest.mark.parametrize(("runs", "floor"), [(3, 0.068), (5, 0.044), (8, 0.032)])
def test_the_half_width_that_no_number_of_requests_goes_below(runs: int, floor: float) -> None:
    """3 % from run to run: t on 2R - 2 degrees times its standard error."""
    assert half_width(runs, 0.03) == pytest.approx(floor, abs=5e-4)


@pytest.mark.parametrize(("runs", "power"), [(3, 0.44), (5, 0.86)])
def test_power_of_the_interleaved_study(runs: int, power: float) -> None:
    """10 % slower, offsets of 3 % and within-run errors of 3 %: 10,000 simulated experiments a cell."""
    assert chance_to_see(runs, math.hypot(0.03, 0.03), 0.10) == pytest.approx(power, abs=0.02)


@pytest.mark.parametrize(
    ("width", "seen", "passed"),
    [
        (0.053, (0.357, 0.743, 0.930), (0.487, 0.840, 0.960)),
        (0.070, (0.213, 0.510, 0.763), (0.320, 0.647, 0.890)),
        (0.100, (0.133, 0.297, 0.473), (0.197, 0.400, 0.567)),
    ],
)
def test_power_of_the_replay_study(
    width: float, seen: tuple[float, ...], passed: tuple[float, ...]
) -> None:
    """The sd that its 8 + 8 runs show (median half-width) predicts its other cells (300 experiments each)."""
    sd = width / (stats.t.isf(0.025, 14) * math.sqrt(2 / 8))
    for runs, see, pass_ in zip((3, 5, 8), seen, passed, strict=True):
        assert chance_to_see(runs, sd, 0.10) == pytest.approx(see, abs=0.09)
        assert chance_to_pass(runs, sd, 0.10) == pytest.approx(pass_, abs=0.09)


@pytest.mark.parametrize("sd", [0.01, 0.02, 0.03, 0.05])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.10])
@pytest.mark.parametrize("ratio", [1.0, 1.01])
def test_runs_needed_agree_with_the_closed_form(sd: float, margin: float, ratio: float) -> None:
    """The smallest R with sd sqrt(2/R) (t(.95) + t(.80)) <= log(1 + m) - log(ratio), and at least three."""

    def enough(runs: int) -> bool:
        df = 2 * runs - 2
        both = stats.t.ppf(0.95, df) + stats.t.ppf(0.80, df)
        return bool(sd * math.sqrt(2 / runs) * both <= math.log((1 + margin) / ratio))

    closed = max(3, next(runs for runs in range(2, 2000) if enough(runs)))
    found = runs_needed(sd, margin, ratio=ratio)

    assert found is not None
    assert abs(found - closed) <= 1


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize(("shared", "together"), [(0.0, 4), (1.0, 1)])
def test_gates_pass_together_as_their_correlation_has_it(
    runs: int, shared: float, together: int
) -> None:
    """Four independent gates: the fourth power of one; four that are one and the same: one."""
    matrix = np.full((4, 4), shared) + (1 - shared) * np.eye(4)

    assert chance_to_pass_all(runs, [0.03] * 4, matrix, 0.05) == pytest.approx(
        chance_to_pass(runs, 0.03, 0.05) ** together, abs=0.04
    )


def test_runs_for_all_gates_are_more_than_for_each() -> None:
    """And as many where they are one gate; none where one of them never passes."""
    each = runs_needed(0.03, 0.05) or 0
    independent, same = np.eye(4), np.ones((4, 4))

    assert (runs_to_pass_all([0.03] * 4, independent, 0.05) or 0) > each
    assert runs_to_pass_all([0.03], np.ones((1, 1)), 0.05) == each
    assert runs_to_pass_all([0.03] * 4, same, 0.05) == pytest.approx(each, abs=1)
    assert runs_to_pass_all([0.03, 1.0], np.eye(2), 0.01) is None


def test_the_limit_of_the_sd_holds_as_often_as_said() -> None:
    """Of 4,000 pilots of three runs in 80 %."""
    random = np.random.default_rng(1)
    sds = random.normal(size=(4000, 3)).std(axis=1, ddof=1)
    below = np.mean([upper_sd(float(sd), 2) >= 1 for sd in sds])

    assert below == pytest.approx(0.8, abs=0.025)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 20), st.floats(0.001, 0.3))
def test_the_margin_needed_is_passed_as_often_as_asked(runs: int, sd: float) -> None:
    """The inverse of the chance, whatever the runs and their spread."""
    assert chance_to_pass(runs, sd, margin_needed(runs, sd, power=0.9)) == pytest.approx(
        0.9, abs=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 30), st.floats(0.005, 0.2), st.floats(0.01, 0.5))
def test_more_runs_and_quieter_ones_decide_more_often(runs: int, sd: float, margin: float) -> None:
    """Chances rise with runs and margin and fall with the spread."""
    here = chance_to_pass(runs, sd, margin)

    assert chance_to_pass(runs + 1, sd, margin) >= here - 1e-12
    assert chance_to_pass(runs, sd, margin * 1.1) >= here - 1e-12
    assert chance_to_pass(runs, sd * 1.1, margin) <= here + 1e-12


def test_a_truth_at_the_margin_passes_at_most_at_the_level() -> None:
    """What the level means; and runs without any spread are certain."""
    assert all(chance_to_pass(runs, 0.03, 0.05, ratio=1.05) <= 0.05 for runs in range(3, 50))
    assert (chance_to_pass(3, 0.0, 0.05), chance_to_pass(3, 0.0, 0.05, ratio=1.05)) == (1, 0)
    assert margin_needed(3, 0.0) == 0


def test_what_cannot_be_reached_is_said() -> None:
    """A margin that the truth lies at; too few runs; a spread beyond any number of runs."""
    assert runs_needed(0.03, 0.05, ratio=1.05) is None
    assert runs_needed(1.0, 0.01) is None
    assert runs_to_see(1.0, 0.01) is None
    assert chance_to_pass(2, 0.001, 0.05) == 0
    assert margin_needed(2, 0.03) == math.inf
    assert MOST_RUNS == 1000


def test_a_plan_that_will_not_decide_is_one_sentence() -> None:
    """With the share, the runs and the margin that would; none where the plan is good."""
    assert plan_warning(6, 0.05) is None
    assert plan_warning(5, 0.05) == (
        "5 + 5 runs with 3 % between runs pass a 5 % margin in about 74 % of plans even for equal arms; "
        "take >= 6 runs of each arm or a margin >= 5.5 %"
    )
    assert plan_warning(2, 0.05) == (
        "2 + 2 runs decide nothing: a gate needs 3 of each arm, and 6 for a 5 % margin with 3 % between runs"
    )
    assert runs_needed(0.03, 0.001) is None
    assert "and more than 1,000 for a 0.1 % margin" in (plan_warning(2, 0.001) or "")
    assert "a margin >= 69.6 %" in (plan_warning(5, 0.001, 0.3) or "")
    assert chance_to_pass(5, 0.03, 0.055) > 0.8
