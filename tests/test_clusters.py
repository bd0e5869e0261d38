"""Sessions as clusters: the sum over sessions and blocks by its definition, and what it does to intervals."""

import numpy as np
import pytest

from tbench.analysis.blocks import Clusters, clusters_of, freedom
from tbench.analysis.inversion import Pair, invert
from tbench.analysis.means import Failures, error_difference, mean_of_series
from tbench.analysis.summary import Floats
from tbench.replay.columns import Column

HALF = np.array([0.5])


def two_way(terms: Floats, sessions: Column, blocks: int) -> float:
    """V(time) + V(session) - V(both) over V(time), written out with loops over the requests."""
    by: list[dict[object, float]] = [{}, {}, {}]
    n = len(terms)
    for i, term in enumerate(terms):
        keys = (i * blocks // n, sessions[i], (sessions[i], i * 16 // n))
        for sums, key in zip(by, keys, strict=True):
            sums[key] = sums.get(key, 0.0) + term
    time, session, both = (sum(value**2 for value in sums.values()) for sums in by)
    groups = len(by[1])
    time *= blocks / (blocks - 1)
    return max(1.0, (time + groups / (groups - 1) * session - both) / time)


def apart(
    seed: int, n: int = 960, groups: int = 20, spread: float = 0.2
) -> tuple[Floats, Floats, Column]:
    """Two arms in which every session has a speed of its own, and who belongs to which."""
    random = np.random.default_rng(seed)
    sessions = random.integers(groups, size=n)
    a, b = (
        np.exp(random.normal(size=n) * 0.3 + random.normal(0, spread, groups)[sessions])
        for _ in "ab"
    )
    a[::50], b[7::60] = np.nan, np.inf
    return a, b, sessions


@pytest.mark.parametrize("ratio", [0.9, 1.0, 1.1])
def test_the_inflation_is_that_of_its_definition(ratio: float) -> None:
    """At any ratio, with requests that have no value and others that timed out."""
    a, b, sessions = apart(1)
    pair = Pair(a, b, sessions=clusters_of(sessions, sessions, paired=True))
    c = np.sort(np.concatenate([a[~np.isnan(a)], b[~np.isnan(b)] / ratio]))
    x, y = a[~np.isnan(a)], b[~np.isnan(b)]
    at = next(v for v in c if (x <= v).mean() + (y / ratio <= v * (1 + 1e-12)).mean() >= 1 - 1e-12)
    below_a, below_b = a <= at, b / ratio <= at * (1 + 1e-12)
    terms = np.where(np.isnan(b), 0, below_b - below_b[~np.isnan(b)].mean()) / len(y)
    terms -= np.where(np.isnan(a), 0, below_a - below_a[~np.isnan(a)].mean()) / len(x)

    (found,) = pair.inflation(np.log([ratio]), HALF, np.array([16]))

    assert found == pytest.approx(two_way(terms, sessions, 16), rel=1e-9)
    assert found > 2


def test_requests_that_share_nothing_change_nothing() -> None:
    """A session for each request, or none known: the digits of the blocks alone."""
    a, b, _ = apart(2)
    plain = invert(Pair(a, b), [0.5, 0.9])
    alone = clusters_of(np.arange(960), np.arange(960), paired=True)

    for one, other in zip(plain, invert(Pair(a, b, sessions=alone), [0.5, 0.9]), strict=True):
        assert (one.low, one.high, one.p_value) == (other.low, other.high, other.p_value)
    assert clusters_of(np.full(9, -1), np.full(9, -1), paired=True) == ()


def test_unpaired_arms_add_up_what_each_of_their_sessions_adds() -> None:
    """The same numbers in both arms are other conversations then."""
    a, b, sessions = apart(3)
    pair = Pair(a, b, paired=False, sessions=clusters_of(sessions, sessions, paired=False))

    (found,) = invert(pair, [0.5])

    assert found.inflation > 2
    assert found.sessions == pytest.approx(20, abs=1)


def test_sessions_of_unequal_size_count_as_fewer() -> None:
    """(sum n)^2 / sum n^2; degrees of freedom follow the scarcer of blocks and sessions."""
    even, one_large = (
        Clusters(np.arange(100) % 10),
        Clusters(np.where(np.arange(100) < 50, 0, np.arange(100))),
    )

    assert even.count == 10
    assert one_large.count == pytest.approx(100**2 / (50**2 + 50))
    assert freedom([even], np.array([16, 8, 4])).tolist() == [9, 7, 3]
    assert freedom([Clusters(np.zeros(100, int))], np.array([16])).tolist() == [15]
    assert freedom([], np.array([16])).tolist() == [15]


def test_equal_arms_whose_sessions_differ_are_not_told_apart() -> None:
    """30 sessions 15 % apart in each arm: blocks alone reject a fifth of 50 pairs, sessions one in 20.

    A test that rejects a fourth would be caught in 95 of 100.
    """
    blind = seeing = 0
    for seed in range(50):
        a, b, sessions = apart(seed + 10, n=1600, groups=30, spread=0.15)
        for known in (False, True):
            clusters = clusters_of(sessions, sessions, paired=True) if known else ()
            (found,) = invert(Pair(a, b, sessions=clusters), [0.5])
            blind += not known and found.p_value < 0.05
            seeing += known and found.p_value < 0.05

    assert blind >= 10
    assert seeing <= 7, "the upper end of what 99 % of simulations of 5 % give"


def test_means_and_failures_have_sessions_as_well() -> None:
    """The typical ratio, and a difference of failure rates, where each session fails or does not."""
    a, b, sessions = apart(4, groups=24)
    together = Clusters(sessions)
    logs = np.log(b / np.where(np.isnan(a), 1, a))
    failed = np.random.default_rng(5).random((2, 24))[:, sessions] < 0.3
    arms = [Failures.of(one, {}) for one in failed]

    means = mean_of_series(logs), mean_of_series(logs, sessions=together)
    errors = error_difference(*arms), error_difference(*arms, sessions=(together,))

    assert means[1].mean == means[0].mean
    assert means[1].se > 1.5 * means[0].se
    assert errors[1].high - errors[1].low > 1.5 * (errors[0].high - errors[0].low)
