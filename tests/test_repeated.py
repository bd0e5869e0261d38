"""Shifts between repeated runs: another implementation's intervals, and when there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tbench.analysis.contrast import SHIFT, shifts
from tbench.analysis.gate import parse_gate
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.metrics import METRICS, values
from tbench.analysis.pairing import shared
from tbench.analysis.summary import ordered, quantile

Experiment = Callable[..., Any]


def log_quantiles(arm: Any, metric: str, p: float) -> list[float]:
    runs = (ordered(values(run, METRICS[metric])[run.measured]) for run in arm.runs)
    return [float(np.log(quantile(run, p))) for run in runs]


def views(*arms: Any) -> list[Any]:
    return [group.runs for group in shared(arms).groups]


def test_intervals_are_those_of_scipy(experiment: Experiment, tmp_path: Path) -> None:
    """Welch's on per-run log-quantiles at each point, and the band at its share of the error."""
    first, second = experiment(tmp_path, {"A": 1.0, "B": 1.1}, 4)
    found = shifts(*views(first, second), "ttft")

    assert [point.p for point in found] == [p for p in SHIFT if p <= 0.95]
    for point in found:
        test = stats.ttest_ind(
            log_quantiles(second, "ttft", point.p), log_quantiles(first, "ttft", point.p), equal_var=False
        )  # fmt: skip
        for level, ends in (
            (0.95, (point.low, point.high)),
            (1 - 0.05 / len(found), (point.band_low, point.band_high)),
        ):
            wanted = test.confidence_interval(level)
            assert ends == pytest.approx((np.exp(wanted.low), np.exp(wanted.high)), rel=1e-9)


def test_swapping_the_arms_inverts_every_ratio(experiment: Experiment, tmp_path: Path) -> None:
    """And turns every interval around."""
    first, second = experiment(tmp_path, {"A": 1.0, "B": 1.1}, 3)
    there, back = (shifts(*views(a, b), "e2e") for a, b in ((first, second), (second, first)))

    for one, other in zip(there, back, strict=True):
        assert one.ratio
        assert other.ratio == pytest.approx(1 / one.ratio)
        assert (other.low, other.high) == pytest.approx((1 / one.high, 1 / one.low))  # type: ignore[operator]


def test_two_runs_have_ratios_and_no_interval(experiment: Experiment, tmp_path: Path) -> None:
    """One degree of freedom or two: nothing worth drawing."""
    first, second = experiment(tmp_path, {"A": 1.0, "B": 1.1}, 2)
    found = shifts(*views(first, second), "ttft")

    assert all(point.ratio and point.low is None and point.band_high is None for point in found)


def test_a_metric_that_no_run_has_shifts_nowhere(experiment: Experiment, tmp_path: Path) -> None:
    """Closed loops have no lag, these servers no cache."""
    first, second = experiment(tmp_path, {"A": 1.0, "B": 1.1}, 3)

    assert shifts(*views(first, second), "cached_tokens") == ()


def test_shifts_are_of_the_requests_that_gates_are_held_against(repeated: Experiment) -> None:
    """Half of each of B's runs is warm-up, and slow: the page's p50 is that of the table of gates."""

    def cold(columns: dict[str, Any]) -> None:
        columns["warmup"][:1000] = True
        columns["first_token"][:1000] += 5.0

    arms = (
        repeated([1.0] * 3, step=2),
        repeated([1.1] * 3, seed=2, at=1, step=2, name="B", spoil=cold),
    )
    results = evaluate_gates(arms, [parse_gate("ttft:p50:5%")])
    first, second = (group.runs for group in results.groups)
    half = next(point for point in shifts(first, second, "ttft") if point.p == 0.5)

    assert half.ratio == pytest.approx(results.rows[0].comparison.ratio, rel=1e-12)
