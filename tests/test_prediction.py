"""One more draw: its interval, how often it is wrong, and a trend that is told from chance."""

import math

import numpy as np
import pytest
from scipy import stats

from tbench.analysis.evaluate_history import differs_by_kind, has_trend, predicted


def test_it_is_the_textbooks_prediction_interval() -> None:
    """Mean -+ t * sd * sqrt(1 + 1/N): a draw at its end lies exactly at the end of the turned interval."""
    draws = [1.0, 1.2, 0.9, 1.1, 0.95, 1.2]
    mean, sd, n = float(np.mean(draws)), float(np.std(draws, ddof=1)), len(draws)
    half = float(stats.t.isf(0.025, n - 1)) * sd * math.sqrt(1 + 1 / n)

    found = predicted(draws, mean - half)

    assert (found.value, found.high) == pytest.approx((-half, 0.0), abs=1e-12)
    assert found.df == n - 1
    assert predicted([1.0] * 5, 1.0, floor=0.04).se == pytest.approx(0.2)


def test_what_is_decided_holds_against_the_latest_draw_too() -> None:
    """Its error is sd * sqrt(2): ends, p-values and the turned estimate are those of the less sure."""
    draws, new = [1.0, 0.9, 0.8, 0.7, 0.6], 0.65
    sd = float(np.std(draws, ddof=1))
    t = float(stats.t.isf(0.05, 4))

    found = predicted(draws, new)

    assert found.most == pytest.approx(new - 0.6 + t * sd * math.sqrt(2))
    assert found.least == pytest.approx(new - 0.8 - t * sd * math.sqrt(1.2))
    assert found.worse(-0.2) == pytest.approx(
        stats.t.sf((new - 0.8 + 0.2) / (sd * math.sqrt(1.2)), 4)
    )
    assert (found.negated.most, found.negated.low) == pytest.approx((-found.least, -found.high))
    assert found.negated.worse(0.1) == pytest.approx(
        stats.t.cdf((new - 0.6 + 0.1) / (sd * 2**0.5), 4)
    )


@pytest.mark.parametrize("sessions", [5, 8, 20])
def test_equal_sessions_are_rarely_called_different(sessions: int) -> None:
    """Session offsets of 4 %, three runs of 2 % each: nominal .05; a change at the margin too."""
    random = np.random.default_rng(sessions)
    margin, trials = math.log(1.1), 4000
    wrong = passes = fails = 0
    for _ in range(trials):
        y = random.normal(0, 0.04, sessions + 1) + random.normal(0, 0.02, (3, sessions + 1)).mean(0)
        equal = predicted(y[:-1].tolist(), float(y[-1]))
        at_margin = predicted(y[:-1].tolist(), float(y[-1]) + margin)
        wrong += equal.low > 0 or equal.high < 0
        passes += at_margin.most < margin
        fails += at_margin.worse(margin) < 0.05

    assert max(wrong, passes, fails) / trials <= 0.06


def test_runs_as_units_would_be_wrong() -> None:
    """A control: the same sessions, their runs taken for independent draws, differ in a third of cases."""
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(1000):
        y = random.normal(0, 0.04, 6) + random.normal(0, 0.02, (3, 6))
        found = stats.ttest_ind(y[:, :-1].ravel(), y[:, -1], equal_var=False)
        wrong += float(found.pvalue) < 0.05

    assert wrong / 1000 > 0.3


def test_a_trend_is_told_from_chance() -> None:
    """At most 5 % of histories without one have one; a steady rise has."""
    random = np.random.default_rng(2)
    flagged = sum(has_trend(random.normal(size=6).tolist()) for _ in range(4000))
    theirs = random.normal(size=7)
    theirs += 0.9 * np.arange(7)

    assert flagged / 4000 <= 0.06
    assert has_trend(theirs.tolist()) == (stats.linregress(np.arange(7), theirs).pvalue < 0.05)
    assert has_trend([1.0, 2.0, 3.0, 4.0, 5.0])
    assert not has_trend([1.0] * 5)


def test_two_kinds_of_draws_differ_by_students_test() -> None:
    """The same answer as scipy's pooled t-test; none where a kind has fewer than two draws."""
    random = np.random.default_rng(3)
    kinds = [False] * 5 + [True] * 3
    for _ in range(200):
        draws = random.normal(size=8) + np.array(kinds) * random.choice([0.0, 2.0])
        theirs = stats.ttest_ind(draws[:5], draws[5:]).pvalue < 0.05
        assert differs_by_kind(draws.tolist(), kinds) == theirs

    assert not differs_by_kind([1.0, 1.0, 9.0], [False, False, True])
