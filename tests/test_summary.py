"""One metric of one arm in numbers: what is there, what is hidden by timeouts, what is refused."""

import math

import numpy as np
import pytest

from tbench.analysis.summary import Caution, summarise


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
    """With 2 % timeouts p90 is known, p99 only exceeds the deadline; means are of the rest."""
    values = np.r_[np.arange(1.0, 981), np.full(20, math.inf)]

    found = summarise("e2e", "s", values, timeout_s=600.0, points=(0.9, 0.99))

    ninety, tail = found.quantiles
    assert (ninety.value, ninety.at_least) == (900, None)
    assert (tail.value, tail.at_least, tail.high) == (None, 600, None)
    assert ninety.smooth is None
    assert found.mean == 490.5
    assert found.timeouts == 20


def test_an_unknown_deadline_is_replaced_by_the_largest_value() -> None:
    """What is hidden exceeds at least everything that was seen."""
    values = np.r_[np.arange(1.0, 51), np.full(50, math.inf)]

    (found,) = summarise("e2e", "s", values, timeout_s=None, points=(0.9,)).quantiles

    assert found.at_least == 50


def test_nothing_can_be_summarised() -> None:
    """No value at all: counts, and no quantile."""
    found = summarise("ttft", "s", np.full(3, math.nan), timeout_s=None)

    assert (found.n, found.absent, found.mean, found.quantiles) == (0, 3, None, ())


def test_a_caution_reads_as_code_and_text() -> None:
    """Machines look at the code before the colon."""
    assert str(Caution(code="SLOW_DRIFT", text="it moved")) == "SLOW_DRIFT: it moved"
