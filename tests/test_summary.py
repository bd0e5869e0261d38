"""One metric of one arm in numbers; quantiles and intervals against scipy and golden cases."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tbench.analysis import summary
from tbench.analysis.summary import Caution, summarise
from tbench.replay import metrics
from tbench.replay.metrics import minimum_n


def test_a_summary_of_plain_numbers() -> None:
    """Counts, mean, ends and quantiles of 1..1000, with an absent value among them."""
    values = np.r_[np.arange(1.0, 1001), math.nan]

    found = summarise("ttft", "s", values, timeout_s=None)

    assert (found.n, found.absent, found.timeouts) == (1000, 1, 0)
    assert (found.mean, found.minimum, found.maximum) == (500.5, 1, 1000)
    half = found.quantiles[0]
    assert (half.value, half.low, half.high) == (500, 469, 532)
    assert half.smooth == pytest.approx(500.5)
    assert half.refusal is None


def test_a_quantile_without_enough_values_is_refused() -> None:
    """The refusal is text beside the number, and names the n that it takes."""
    found = summarise("ttft", "s", np.arange(500.0), timeout_s=None, points=(0.95, 0.99))

    assert found.quantiles[0].refusal is None
    assert found.quantiles[1].refusal == "n too small (needs ≥ 2,000)"


def test_timeouts_hide_the_tail() -> None:
    """With 2 % timeouts p90 is known, of p99 how long it is at least; means are of the rest."""
    values = np.r_[np.arange(1.0, 981), np.full(20, math.inf)]

    found = summarise("e2e", "s", values, timeout_s=600.0, points=(0.9, 0.99))

    ninety, tail = found.quantiles
    assert (ninety.value, ninety.at_least) == (900, None)
    assert (tail.value, tail.at_least, tail.high) == (None, 970, None)
    assert ninety.smooth is None
    assert found.mean == 490.5
    assert found.timeouts == 20


def test_without_a_deadline_what_is_hidden_is_no_less_than_what_is_not() -> None:
    """Of 50 in 100 at most 60 time out (Wilson's 95 %): the 41st value is known, and p90 is no less."""
    values = np.r_[np.arange(1.0, 51), np.full(50, math.inf)]

    (found,) = summarise("e2e", "s", values, timeout_s=None, points=(0.9,)).quantiles

    assert found.at_least == 41


@given(
    st.lists(st.floats(0, 50), max_size=80),
    st.lists(st.floats(0, 50), min_size=1, max_size=30),
    st.floats(0, 60) | st.none(),
)
def test_a_hidden_quantile_is_told_a_bound_that_holds(
    answers: list[float], later: list[float], waited: float | None
) -> None:
    """No less than any quantile that is shown; and no more than it was, had the timeouts gone on."""
    slowest = max([*answers, waited or 0.0])
    timeouts = len(later)
    true = sorted([*answers, *(slowest + more for more in later)])
    values = np.r_[answers, np.full(timeouts, math.inf)]

    quantiles = summarise("e2e", "s", values, timeout_s=waited).quantiles
    shown = [each.value for each in quantiles if each.value is not None]
    for each in quantiles:
        if each.at_least is not None:
            assert (
                max(shown, default=0.0) <= each.at_least <= summary.quantile(np.array(true), each.p)
            )
        else:
            assert each.value is not None or (waited is None and not answers)


def test_a_deadline_bounds_what_is_counted_up_to_it() -> None:
    """A request that waited a minute has no time between tokens of a minute, and left when it was sent."""
    assert {name for name, row in metrics.METRICS.items() if row.waits} == {
        "ttft",
        "ttft_answer",
        "e2e",
    }


def test_nothing_can_be_summarised() -> None:
    """No value at all: counts, and no quantile."""
    found = summarise("ttft", "s", np.full(3, math.nan), timeout_s=None)

    assert (found.n, found.absent, found.mean, found.quantiles) == (0, 3, None, ())


def test_a_caution_reads_as_code_and_text() -> None:
    """Machines look at the code before the colon."""
    assert str(Caution(code="SLOW_DRIFT", text="it moved")) == "SLOW_DRIFT: it moved"


FINITE = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)
SHARES = st.sampled_from([0.001, 0.1, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999])


@pytest.mark.parametrize(("p", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (0.999, 100)])
def test_the_quantile_is_the_inverted_distribution(p: float, expected: float) -> None:
    """Golden case G1: quantiles of 1..100."""
    assert summary.quantile(np.arange(1.0, 101), p) == expected


@given(FINITE, SHARES)
def test_the_quantile_agrees_with_scipy(values: list[float], p: float) -> None:
    """Another implementation of the same definition gives the same value."""
    ours = summary.quantile(summary.ordered(np.array(values)), p)

    assert ours == stats.quantile(np.array(values), p, method="inverted_cdf")


def test_rounding_never_moves_the_rank() -> None:
    """The rank is the ceiling of the exact product, although p * n is rounded."""
    for hundredths in range(1, 100):
        exact = math.ceil(Fraction(hundredths, 100) * 1000)
        assert summary.rank(1000, hundredths / 100) == exact, hundredths


def test_the_spread_of_a_quantile_is_the_closed_form() -> None:
    """Golden case G12: sqrt(p (1 - p) / n) / phi(z) for a lognormal of 10,000, within 3 %."""
    random = np.random.default_rng(12)
    samples = (np.sort(random.normal(size=10_000)) for _ in range(2500))
    found = np.array(
        [[summary.quantile(one, p) for p in (0.5, 0.95, 0.99, 0.999)] for one in samples]
    )

    closed = [0.012533, 0.021132, 0.037332, 0.093870]
    assert found.std(axis=0) == pytest.approx(closed, rel=0.03)


def test_timeouts_sort_last_and_missing_values_are_dropped() -> None:
    """A timeout is larger than any value; NaN is no value."""
    values = np.array([3, math.nan, math.inf, 1, 2])

    assert summary.ordered(values).tolist() == [1, 2, 3, math.inf]


@pytest.mark.parametrize(("p", "expected"), [(0.9, 9.435115176660437), (0.5, 5.5)])
def test_harrell_davis_of_one_to_ten(p: float, expected: float) -> None:
    """Golden case G2."""
    assert summary.harrell_davis(np.arange(1.0, 11), p) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "p"), [(20_000, 0.99), (76, 0.999), (76, 0.001)])
def test_the_window_of_harrell_davis_loses_nothing(n: int, p: float) -> None:
    """The windowed sum equals the sum over all values: of many, and near the ends of few."""
    values = np.sort(np.random.default_rng(1).lognormal(size=n))

    ours = summary.harrell_davis(values, p)

    assert ours == pytest.approx(stats.quantile(values, p, method="harrell-davis"), rel=1e-9)


@pytest.mark.parametrize(
    ("n", "p", "ranks", "cover"),
    [
        (100, 0.5, (40, 61), 0.964800),
        (1000, 0.5, (469, 532), 0.953709),
        (1000, 0.95, (936, 964), 0.958095),
        (1000, 0.99, (983, 997), 0.976095),
        (10000, 0.999, (9983, 9997), 0.975457),
    ],
)
def test_order_statistics_cover_at_least_95_percent(
    n: int, p: float, ranks: tuple[int, int], cover: float
) -> None:
    """Golden case G3: the ranks, and their exact coverage."""
    low, high = summary.interval_ranks(n, p)

    assert (low, high) == ranks
    law = stats.binom(n, p)
    assert law.cdf(high - 1) - law.cdf(low - 1) == pytest.approx(cover, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "least"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688)]
)
def test_a_small_sample_has_no_finite_interval(p: float, least: int) -> None:
    """Golden case G15: the smallest n with a two-sided finite interval."""
    assert summary.least_n(p) == least
    assert None in summary.quantile_interval(np.arange(float(least - 1)), p)
    assert None not in summary.quantile_interval(np.arange(float(least)), p)


def test_an_interval_that_ends_among_the_timeouts_is_unbounded() -> None:
    """The upper order statistic is +inf: no upper end."""
    values = np.r_[np.arange(1.0, 96), np.full(5, math.inf)]

    low, high = summary.quantile_interval(values, 0.95)

    assert low == 90
    assert high is None


def test_wilson_of_seven_in_a_hundred() -> None:
    """Golden case G4."""
    expected = (0.0343192611, 0.1374951474)

    assert summary.wilson(7, 100) == pytest.approx(expected, abs=1e-9)


def test_clopper_pearson_of_seven_in_a_hundred() -> None:
    """Golden case G4, and the upper bound after no event in 50."""
    expected = (0.0286052884, 0.1389197285)

    assert summary.clopper_pearson(7, 100) == pytest.approx(expected, abs=1e-9)
    assert summary.clopper_pearson(0, 50) == pytest.approx((0, 0.0711217365), abs=1e-9)


def test_newcombe_gives_the_published_interval() -> None:
    """Golden case G5: 56/70 - 48/80, published as .0524 to .3339."""
    expected = (0.0524314724, 0.3338726540)

    assert summary.newcombe((56, 70), (48, 80)) == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 500), st.data())
def test_intervals_of_a_share_agree_with_scipy(n: int, data: st.DataObject) -> None:
    """Both intervals equal scipy's, ends included."""
    count = data.draw(st.integers(0, n))
    result = stats.binomtest(count, n)

    assert summary.wilson(count, n) == pytest.approx(
        tuple(result.proportion_ci(method="wilson")), abs=1e-9
    )
    assert summary.clopper_pearson(count, n) == pytest.approx(
        tuple(result.proportion_ci()), abs=1e-9
    )


@pytest.mark.parametrize(
    ("p", "needed"),
    [(0.1, 200), (0.5, 40), (0.9, 200), (0.95, 400), (0.99, 2000), (0.999, 20_000)],
)
def test_a_quantile_needs_twenty_requests_beyond_it(p: float, needed: int) -> None:
    """The minimum n, and a refusal that names it."""
    assert minimum_n(p) == needed
    assert summary.refusal(needed, p) is None
    assert f"{needed:,}" in str(summary.refusal(needed - 1, p))


def test_a_quantile_is_identified_while_the_timeouts_stay_beyond_it() -> None:
    """The upper Wilson bound of the timeouts' share decides, not their share."""
    assert summary.identified(0, 10, 0.99)
    assert summary.identified(5, 1000, 0.95)
    assert not summary.identified(9, 1000, 0.99)
    assert not summary.identified(1000, 1000, 0.5)


@given(st.lists(st.floats(-1e9, 1e9) | st.just(math.inf) | st.just(math.nan), max_size=60))
def test_several_quantiles_need_no_order(values: list[float]) -> None:
    """The same as one by one from the sorted values; none of no values."""
    found = summary.several(np.array(values), (0.5, 0.9, 0.99))
    ordered = summary.ordered(np.array(values))

    assert found == [summary.quantile(ordered, p) for p in (0.5, 0.9, 0.99) if len(ordered)]


@given(st.lists(st.floats(-9, 9) | st.just(math.nan), max_size=30))
def test_values_in_order_stay_as_they_are(values: list[float]) -> None:
    """Ordering is sorting without the NaN, and of what is ordered already it takes no copy."""
    once = summary.ordered(np.array(values))

    assert once.tolist() == sorted(value for value in values if not math.isnan(value))
    assert summary.ordered(once) is once


@given(st.integers(1, 3000), st.floats(0.001, 0.999))
def test_ranks_agree_with_the_binomial_law(n: int, p: float) -> None:
    """Those of scipy's binomial distribution."""
    law = stats.binom(n, p)

    assert summary.interval_ranks(n, p) == (int(law.ppf(0.025)), int(law.isf(0.025)) + 1)
