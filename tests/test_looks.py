"""Bounds for planned looks, against published constants and simulated walks."""

import math

import numpy as np
import pytest

from tbench.analysis.interim import Looks, Shape, bounds, crossing, evenly
from tbench.capture.errors import InputError

FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("z", "crossed"),
    [
        ([2.040 * math.sqrt(5 / k) for k in range(1, 6)], 0.0501),
        ([2.413] * 5, 0.0500),
        ([1.96] * 5, 0.1416),
    ],
)
def test_the_golden_case(z: list[float], crossed: float) -> None:
    """Golden case G14: O'Brien-Fleming, Pocock, and looking five times at 1.96."""
    assert crossing(z, FIFTHS, sides=2) == pytest.approx(crossed, abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "looks", "constant"),
    [
        ("obrien-fleming", 2, 1.977),
        ("obrien-fleming", 3, 2.004),
        ("obrien-fleming", 5, 2.040),
        ("obrien-fleming", 10, 2.087),
        ("pocock", 2, 2.178),
        ("pocock", 3, 2.289),
        ("pocock", 5, 2.413),
        ("pocock", 10, 2.555),
    ],
)
def test_the_constants_are_the_published_ones(shape: Shape, looks: int, constant: float) -> None:
    """Two-sided .05, equal steps: Jennison and Turnbull (2000), tables 2.1 and 2.3."""
    fractions = tuple(k / looks for k in range(1, looks + 1))

    assert bounds(fractions, 0.05, shape, 2)[-1] == pytest.approx(constant, abs=1e-3)


def test_one_look_is_the_normal_quantile() -> None:
    """On one side and on both."""
    assert bounds((1.0,), 0.05, "pocock")[0] == pytest.approx(1.644854, abs=1e-6)
    assert bounds((1.0,), 0.05, "obrien-fleming", 2)[0] == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize("fractions", [(0.3, 0.4, 1.0), (0.1, 0.15, 0.2, 0.9, 1.0), FIFTHS])
def test_unequal_steps_agree_with_simulated_walks(fractions: tuple[float, ...]) -> None:
    """200,000 Brownian walks cross one-sided bounds as often as said, within four standard errors."""
    random = np.random.default_rng(1)
    steps = np.sqrt(np.diff([0.0, *fractions]))
    walks = (random.normal(size=(200_000, len(fractions))) * steps).cumsum(axis=1)
    z = bounds(fractions, 0.05, "obrien-fleming")

    crossed = (walks / np.sqrt(fractions) > z).any(axis=1).mean()

    assert crossed == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 200_000))


@pytest.mark.parametrize("shape", ["obrien-fleming", "pocock"])
def test_more_tests_leave_each_less(shape: Shape) -> None:
    """Levels rise over the looks or stay, never above .05, and fall with the share."""
    looks = Looks(runs=(3, 6, 9, 12, 15), shape=shape)
    levels = [looks.level(look) for look in range(1, 6)]

    assert levels == sorted(levels)
    assert max(levels) < 0.05
    assert all(
        looks.level(look, 4) < looks.level(look, 2) < looks.level(look) for look in range(1, 6)
    )


def test_looks_are_spread_from_three_runs_on() -> None:
    """The last is all; where they would fall together there are fewer."""
    assert evenly(15, 5).runs == (3, 6, 9, 12, 15)
    assert evenly(10, 5).runs == (3, 4, 6, 8, 10)
    assert evenly(5, 5).runs == (3, 4, 5)
    assert evenly(3, 5).runs == (3,)


@pytest.mark.parametrize("runs", [(), (2, 4), (3, 3), (6, 3)])
def test_senseless_looks_are_refused(runs: tuple[int, ...]) -> None:
    """They must rise, and begin where a gate can decide."""
    with pytest.raises(InputError, match="must rise, from 3 on"):
        Looks(runs=runs)
