"""Kaplan-Meier against the textbook's and closed answers; what is followed, and what is cut short."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.analysis.arms import Arm
from tbench.analysis.censoring import Followed, censored_metrics, compare_survival, follow, survival
from tbench.analysis.quantiles import ordered, quantile
from tbench.replay.columns import NUMBERS, Column
from tbench.replay.runfile import Run, recount

SEEDS = st.integers(0, 2**32 - 1)
REMISSION = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def followed(times: Any, censored: Any) -> Followed:
    return Followed(
        times=np.asarray(times, dtype=float),
        censored=np.asarray(censored, dtype=bool),
        varying=True,
        unknown=0,
    )


def drawn(seed: int, n: int = 200) -> Followed:
    """Exponential times, each followed for an exponential time of thrice the mean."""
    random = np.random.default_rng(seed)
    times, limits = random.exponential(size=n), random.exponential(3, size=n)
    return followed(np.minimum(times, limits), times > limits)


def test_freireich() -> None:
    """Golden case G7: leukaemia in remission, 6-MP against placebo; logrank as a description."""
    treated = followed(REMISSION, [0] * 9 + [1] * 12)
    steps = dict(survival(treated).curve)

    assert [steps[at] for at in (6, 10, 23)] == pytest.approx(
        [18 / 21, 0.7529411765, 0.4481792717], abs=1e-9
    )
    assert survival(treated).quantiles[0].value == 23
    both = compare_survival(treated, followed(PLACEBO, [0] * 21))
    assert both.logrank_z == pytest.approx(-4.0979191, abs=1e-7)


def test_one_deadline_for_all() -> None:
    """Golden case G8: 1 to 10 cut short at 8.5. p80 is the eighth; p90 exceeds 8.5."""
    found = survival(followed([1, 2, 3, 4, 5, 6, 7, 8, 8.5, 8.5], [0] * 8 + [1] * 2))

    assert dict(found.curve)[8] == pytest.approx(0.2)
    assert (found.quantiles[1].value, found.quantiles[1].at_least) == (None, 8.5)


@given(SEEDS, st.floats(0.5, 3))
def test_one_deadline_equals_infinity(seed: int, deadline: float) -> None:
    """The quantiles are those of the inverted distribution with +inf for a timeout."""
    times = np.random.default_rng(seed).exponential(size=100)
    late = times > deadline

    for one in survival(followed(np.minimum(times, deadline), late)).quantiles:
        expected = quantile(ordered(np.where(late, math.inf, times)), one.p)
        assert one.value == (expected if math.isfinite(expected) else None)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.01, 100))
def test_scaling_and_order(seed: int, scale: float) -> None:
    """Other units scale the quantiles; the order of requests does not matter."""
    plain = drawn(seed)
    mixed = np.random.default_rng(seed).permutation(len(plain.times))
    other = survival(followed(plain.times[mixed] * scale, plain.censored[mixed]))

    for one, two in zip(survival(plain).quantiles, other.quantiles, strict=True):
        assert two.value == (None if one.value is None else pytest.approx(one.value * scale))


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_swapping_the_arms_negates_the_logrank(seed: int) -> None:
    """And exchanges the curves."""
    a, b = drawn(seed), drawn(seed + 1)
    forth, back = compare_survival(a, b), compare_survival(b, a)

    assert forth.logrank_z == pytest.approx(-(back.logrank_z or 0), abs=1e-9)
    assert (forth.baseline, forth.candidate) == (back.candidate, back.baseline)


def test_the_truth_is_found_where_a_plain_quantile_is_not() -> None:
    """20,000 times of which a quarter is cut short: the median is log 2; leaving those out is too fast."""
    found = drawn(3, 20_000)
    median = survival(found).quantiles[0].value

    assert median == pytest.approx(math.log(2), rel=0.03)
    assert np.median(found.times[~found.censored]) < 0.85 * math.log(2)


def test_nothing_but_cut_short() -> None:
    """No event at all: every quantile is beyond what was followed, and nothing is compared."""
    none = followed([1.0, 2.0], [1, 1])

    assert {one.at_least for one in survival(none).quantiles} == {2.0}
    assert compare_survival(none, none).logrank_z is None


def test_a_long_curve_keeps_both_ends() -> None:
    """At most a hundred steps, from the first time to the last."""
    found = drawn(1, 5000)
    curve = survival(found).curve

    assert len(curve) == 100
    assert (curve[0][0], curve[-1][0]) == (found.times.min(), found.times.max())


def columns(n: int = 8) -> dict[str, Column]:
    """Streams due each second; the first token comes after 1 s, the last after 3 s."""
    absent = {"f": np.nan, "i": -1, "b": False}
    found = {name: np.full(n, absent[np.dtype(kind).kind], kind) for name, kind in NUMBERS.items()}
    found["due"] = found["sent"] = np.arange(n, dtype=float)
    found["first_token"], found["last_token"] = found["due"] + 1, found["due"] + 3
    found["end"] = found["last_token"]
    found["stream"], found["warmup"] = np.ones(n, bool), np.zeros(n, bool)
    found["outcome"] = np.full(n, "ok", dtype=object)
    found["id"] = np.array([f"r{i}" for i in range(n)], dtype=np.dtypes.StringDType())
    return found


def arm(found: dict[str, Column]) -> Arm:
    return Arm(
        kind="trace",
        name="a",
        run=Run(Path("a"), {}, found, recount(found), complete=True),
        source=None,
        model=None,
        target=None,
        pacing="as recorded",
        as_recorded=True,
        token_gaps=lambda: (np.zeros(0), np.zeros(0)),
    )


def stop(found: dict[str, Column], place: int, outcome: str, after: float) -> None:
    """The request ends so many seconds after it was due; what it had not reached by then is absent."""
    found["outcome"][place] = outcome
    end = found["due"][place] + after
    found["end"][place] = end
    for name in ("first_token", "last_token"):
        if not found[name][place] <= end:
            found[name][place] = np.nan


def every(found: dict[str, Column]) -> dict[str, tuple[Followed, ...]]:
    return censored_metrics([(arm(found), np.arange(len(found["id"])))])


def test_a_client_that_left_early_and_one_that_left_late() -> None:
    """Before the first token both metrics are cut short; after it only the end is."""
    found = columns()
    stop(found, 1, "client_abort", 0.5)
    stop(found, 2, "cancelled", 2.0)

    (ttft,), (e2e,) = (every(found)[name] for name in ("ttft", "e2e"))

    assert ttft.times.tolist() == [1, 0.5, 1, 1, 1, 1, 1, 1]
    assert ttft.censored.tolist() == [False, True, *[False] * 6]
    assert e2e.times.tolist() == [3, 0.5, 2, 3, 3, 3, 3, 3]
    assert e2e.censored.tolist() == [False, True, True, *[False] * 5]


def test_one_deadline_needs_no_kaplan_meier() -> None:
    """Timeouts at one time stay +inf; at different times they are cut short."""
    found = columns()
    stop(found, 1, "timeout", 0.5)
    stop(found, 2, "timeout", 0.51)
    assert every(found) == {}

    stop(found, 3, "timeout", 0.9)
    assert set(every(found)) == {"ttft", "e2e"}


def test_failures_are_not_followed_and_the_unknown_is_counted() -> None:
    """A request that failed has no time; one whose end nobody saw cannot be followed."""
    found = columns()
    stop(found, 1, "http_error", 0.5)
    stop(found, 2, "incomplete", math.nan)
    one = follow(arm(found), np.arange(8), "ttft")

    assert len(one.times) == 6
    assert (one.varying, one.unknown) == (False, 1)


def test_only_streams_have_a_first_token() -> None:
    """A request without a stream that was given up says nothing of the TTFT."""
    found = columns()
    found["stream"][1] = False
    stop(found, 1, "client_abort", 0.5)

    assert set(every(found)) == {"e2e"}
