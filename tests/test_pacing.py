"""Pacing is arithmetic: order, rates and limits hold for any recording."""

import math
import statistics
from itertools import accumulate, islice, pairwise, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.errors import InputError
from tbench.replay.options import ReplayOptions
from tbench.replay.pacing import (
    Clones,
    Fixed,
    Limits,
    Occupancy,
    Profile,
    Stretches,
    constant,
    diffused,
    gap_between_rounds,
    parse_clone_shift,
    poisson,
    ramped,
    scaled,
    speed_for,
)

gaps = st.lists(st.floats(0, 100), min_size=1, max_size=50)
offsets = gaps.map(lambda found: [0.0, *accumulate(found)])
factors = st.floats(0.01, 100)


@given(offsets, factors, st.integers(0, 9))
def test_every_schedule_keeps_the_order_and_the_number(
    recorded: list[float], value: float, seed: int
) -> None:
    """One due time for each offset, never earlier than the one before; the first at 0."""
    for schedule in (scaled(value), constant(value), poisson(value, seed)):
        dues = list(schedule(iter(recorded)))
        assert len(dues) == len(recorded)
        assert dues[0] == 0
        assert dues == sorted(dues)


@given(offsets, factors)
def test_speed_divides_every_gap(recorded: list[float], speed: float) -> None:
    """Each due time is its recorded offset over the speed, with no error that adds up."""
    assert list(scaled(speed)(recorded)) == [offset / speed for offset in recorded]


@given(offsets.filter(lambda found: found[-1] > 0.01), factors)
def test_rate_makes_the_mean_exact(recorded: list[float], rate: float) -> None:
    """With n arrivals there are n - 1 gaps, whose mean becomes 1/rate."""
    speed = speed_for(rate, len(recorded), recorded[-1])
    dues = list(scaled(speed)(recorded))

    assert (len(dues) - 1) / dues[-1] == pytest.approx(rate, rel=1e-9)


def test_rate_needs_a_span() -> None:
    """Requests at one instant have no rate to scale; the error names the way out."""
    with pytest.raises(InputError, match="--constant"):
        speed_for(5.0, 10, 0.0)


WINDOWS_S = (0.1, 1.0, 10.0, 60.0)


def dispersion(times: npt.ArrayLike, window: float) -> float:
    """The index of dispersion: variance over mean of the counts in windows."""
    counts = np.bincount((np.asarray(times) / window).astype(int))[:-1]
    return float(counts.var() / counts.mean())


@pytest.fixture(scope="module")
def bursts() -> np.ndarray:
    """Some 90,000 arrivals of a day: bursts of 1 to 30 requests in about 2 s, at random times."""
    rng = np.random.default_rng(5)
    starts = np.sort(rng.uniform(0, 86_400, 9_000))
    times = [start + rng.exponential(2.0, rng.geometric(0.1)) for start in starts]
    return np.sort(np.concatenate(times))


@pytest.mark.parametrize("window", WINDOWS_S)
def test_speed_moves_burstiness_to_shorter_windows(bursts: np.ndarray, window: float) -> None:
    """IDC at window w of a trace at speed 4 is the recorded IDC at window 4w (replay.md 3.2)."""
    dues = list(scaled(4.0)(bursts.tolist()))

    assert dispersion(dues, window) == pytest.approx(dispersion(bursts, 4 * window), rel=1e-6)


@pytest.mark.parametrize("window", WINDOWS_S)
def test_shifted_clones_keep_burstiness_and_those_in_step_multiply_it(
    bursts: np.ndarray, window: float
) -> None:
    """Variances and means of independent copies both add up: their quotient stays (replay.md 3.2)."""

    def cloned(clones: Clones) -> np.ndarray:
        return np.concatenate([(bursts + shift) % 86_400 for shift in clones.shifts(86_400)])

    recorded = dispersion(bursts, window)

    assert dispersion(cloned(Clones(number=4, seed=1)), window) == pytest.approx(recorded, rel=0.15)
    assert dispersion(cloned(Clones(number=4, within=0.0)), window) == pytest.approx(
        4 * recorded, rel=0.01
    )


@given(st.floats(1, 50), st.integers(0, 9), st.floats(1, 1e5))
def test_clones_round_a_recording_are_far_apart(number: float, seed: int, period: float) -> None:
    """Neighbours by half of the mean distance at least; the first where it was."""
    shifts = Clones(number=number, seed=seed).shifts(period)

    assert shifts[0] == 0
    assert len(shifts) == math.ceil(number)
    for earlier, later in pairwise([*shifts, period]):
        assert later - earlier >= period / len(shifts) / 2 * (1 - 1e-9)


def test_a_fraction_of_a_clone_has_that_share_of_the_sessions() -> None:
    """Of 10,000 within five standard errors."""
    clones = Clones(number=2.3, seed=7)
    counts = [sum(clones.has(clone, session) for session in range(10_000)) for clone in range(3)]

    assert counts[:2] == [10_000, 10_000]
    assert counts[2] == pytest.approx(3_000, abs=5 * math.sqrt(10_000 * 0.3 * 0.7))


def test_a_shift_is_circular_or_seconds() -> None:
    assert parse_clone_shift("circular") is None
    assert parse_clone_shift("2.5") == 2.5
    for text in ("-1", "x", "nan", "inf"):
        with pytest.raises(InputError, match=f"--clone-shift {text}"):
            parse_clone_shift(text)


def test_poisson_gaps_are_exponential() -> None:
    """Mean, spread and tail of 200,000 gaps are those of an exponential distribution."""
    dues = np.array(list(poisson(20.0, seed=3)(repeat(0.0, 200_000))))
    found = np.diff(dues)

    assert found.mean() == pytest.approx(1 / 20, rel=0.01)
    assert found.std() == pytest.approx(1 / 20, rel=0.02)
    assert np.mean(found > 3 / 20) == pytest.approx(math.exp(-3), rel=0.03)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.01


def test_poisson_is_decided_by_its_seed() -> None:
    """The same seed gives the same arrivals, another seed others."""
    one, again, other = (list(poisson(5.0, seed)(repeat(0.0, 50))) for seed in (1, 1, 2))

    assert one == again
    assert one != other


def test_constant_does_not_drift_over_a_million() -> None:
    """The millionth request is due at exactly its place over the rate."""
    last = next(islice(constant(3.0)(repeat(0.0)), 999_999, None))

    assert last == 999_999 / 3.0


def test_a_round_follows_after_the_mean_gap() -> None:
    """The recorded mean; a second where there is none to take."""
    assert gap_between_rounds(5, 10.0) == 2.5
    assert gap_between_rounds(1, 0.0) == 1.0
    assert gap_between_rounds(9, 0.0) == 1.0


@given(st.lists(st.floats(0, 50), min_size=1, max_size=60), st.floats(0, 8))
def test_error_diffusion_keeps_every_prefix_within_a_half(
    means: list[float], factor: float
) -> None:
    """The running sum of whole limits never strays more than 1/2 from what it should be."""
    limits = diffused(means, factor)
    wanted = accumulate(factor * mean for mean in means)

    for so_far, target in zip(accumulate(limits), wanted, strict=True):
        assert abs(so_far - target) <= 0.5 + 1e-6
    assert all(limit >= 0 for limit in limits)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0, 0.25, 1, 3])), min_size=1),
    st.sampled_from([0.5, 1, 4]),
)
def test_limits_stay_until_they_are_said_to_change(
    stretches: list[tuple[int, float]], factor: float
) -> None:
    limits = Limits(Stretches(stretches), factor)
    for window in range(len(limits)):
        follows = limits.changes_after(window)

        assert window < follows <= len(limits)
        assert set(limits[window:follows]) == {limits[window]}


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 10)), min_size=1, max_size=30))
def test_occupancy_is_the_mean_in_flight(spans: list[tuple[float, float]]) -> None:
    """Against brute force: each window's mean is the overlap of all requests with it."""
    occupancy = Occupancy()
    for start, took in spans:
        occupancy.add(start, start + took)

    for window, mean in enumerate(occupancy.means()):
        overlap = sum(
            max(0.0, min(start + took, window + 1) - max(start, window)) for start, took in spans
        )
        assert mean == pytest.approx(overlap, abs=1e-9)


def test_a_fixed_limit_never_changes() -> None:
    """N at any time, without end."""
    pacing = Fixed(limit=8)

    assert {pacing.allowed(tau) for tau in (0.0, 1.5, 1e9)} == {8}
    assert pacing.changes_after(5.0) == pacing.ends == math.inf


def test_a_profile_ends_or_repeats() -> None:
    """Window by window, then nothing, or the first window again."""
    once, again = Profile(limits=[1, 3, 0]), Profile(limits=[1, 3, 0], repeats=True)

    assert [once.allowed(tau) for tau in (0.0, 0.99, 1.0, 2.5, 3.0)] == [1, 1, 3, 0, 0]
    assert [again.allowed(tau) for tau in (2.5, 3.0, 4.2)] == [0, 1, 3]
    assert (once.ends, again.ends) == (3.0, math.inf)
    assert (once.changes_after(0.2), once.changes_after(3.0)) == (1.0, math.inf)
    assert again.changes_after(3.0) == 4.0


@given(st.floats(0.1, 100), st.floats(0.1, 1000))
def test_a_ramp_grows_evenly_to_the_full_rate(seconds: float, rate: float) -> None:
    """By t of a ramp of R seconds rate * t^2 / 2R requests have come; afterwards all is R/2 later."""
    dues = list(islice(constant(rate)(repeat(0.0)), 500))
    warped = list(ramped(dues, seconds))

    assert warped == sorted(warped)
    for due, at in zip(dues, warped, strict=True):
        came = at**2 / (2 * seconds) if at < seconds else at - seconds / 2
        assert came == pytest.approx(due, rel=1e-6, abs=1e-9)


def test_a_ramp_lets_the_concurrency_grow_to_its_value_in_its_time() -> None:
    options = ReplayOptions(trace="t", concurrency=9, ramp=4.0)
    limits = options.pacing().closed(None)

    assert [limits.allowed(tau) for tau in (0.0, 0.5, 2.0, 3.9, 4.0, 60.0)] == [1, 2, 5, 8, 9, 9]


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 4, "spawn_rate": 1.0}, {"concurrency_scale": 2.0}],
    ids=["two growths", "a profile"],
)
def test_a_load_grows_in_one_way(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--ramp"):
        ReplayOptions(trace="t", ramp=60.0, **wrong)


def test_a_shift_without_clones_is_refused() -> None:
    with pytest.raises(InputError, match="--clone-shift goes with --clones"):
        ReplayOptions(trace="t", clone_shift="30")


def test_the_mean_of_a_constant_schedule_is_its_rate() -> None:
    """All gaps are alike."""
    dues = list(constant(40.0)(repeat(0.0, 101)))

    assert statistics.pstdev(b - a for a, b in pairwise(dues)) < 1e-12
    assert dues[-1] == 2.5


def test_a_spawn_rate_lets_the_concurrency_grow() -> None:
    pacing = Fixed(limit=4, spawn_rate=2.0)

    assert [pacing.allowed(tau) for tau in (0.0, 0.4, 0.5, 1.0, 1.5, 9.0)] == [1, 1, 2, 3, 4, 4]
    assert [pacing.changes_after(tau) for tau in (0.0, 0.5, 1.2, 1.5)] == [0.5, 1.0, 1.5, math.inf]
