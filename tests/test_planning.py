"""Plans from a pilot: the requests and runs they ask for, and what they warn of."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tbench.analysis.inversion import Pair, invert
from tbench.analysis.planning import PairPlan, PowerEstimate, PowerGoal, plan, requests_needed
from tbench.analysis.power import chance_to_pass, runs_needed
from tbench.analysis.report.planning import plan_json, plan_text
from tbench.analysis.variance import Spread, Within

Repeated = Callable[..., Any]
MEDIAN = (("ttft", 0.5),)


def prospect(half_width: float, n: int, p: float = 0.5, **aim: Any) -> PowerEstimate:
    """Of a pilot of 10 hours that has this interval of the log ratio."""
    within = Within(se=0.01, half_width=half_width, n=n, df=math.inf, source="pairs", drift=False)
    spread = Spread(
        metric="ttft",
        quantile=p,
        n=n,
        runs=2,
        figures=(),
        sd=0.03,
        df=1,
        low=0.01,
        high=0.9,
        within=within,
    )
    return PowerEstimate(spread=spread, aim=PowerGoal(**aim), run_s=36_000)


def pair(found: PowerEstimate) -> PairPlan:
    assert found.one_pair is not None
    return found.one_pair


@pytest.mark.parametrize(
    ("p", "width", "needed"), [(0.5, 0.103, 11_000), (0.95, 0.153, 25_000), (0.99, 0.270, 76_000)]
)
def test_requests_for_a_half_width_as_the_study_has_them(
    p: float, width: float, needed: int
) -> None:
    """Widths at 10,000 requests; a half-width of 5 % takes so many in one pair."""
    found = pair(prospect(width / 2, 10_000, p))

    assert found.requests == pytest.approx(needed, rel=0.03)


@pytest.mark.parametrize(
    ("p", "width", "effect", "needed"), [(0.5, 0.103, 0.05, 22_000), (0.99, 0.270, 0.1, 40_000)]
)
def test_requests_for_power_as_the_study_has_them(
    p: float, width: float, effect: float, needed: int
) -> None:
    """80 % power on 15 degrees: +5 % at p50, +10 % at p99; 5 % more for pairs that get fewer blocks."""
    found = pair(prospect(width / 2, 10_000, p, effect=effect))

    assert found.requests_to_find == pytest.approx(1.05 * needed, rel=0.03)
    assert found.seconds == pytest.approx(found.requests_to_find / 10_000 * 36_000)


def test_projected_widths_are_those_of_longer_runs() -> None:
    """Twenty pairs of 2,000 requests say how many it takes for half the width; so many have it."""
    random = np.random.default_rng(1)

    def half_width(n: int) -> float:
        a, b = (np.exp(random.normal(size=n) * 0.5) for _ in "ab")
        (found,) = invert(Pair(a, b), (0.5,), blocks=16)
        return math.log(found.high / found.low) / 2

    short = float(np.median([half_width(2000) for _ in range(20)]))
    within = Within(se=0.0, half_width=short, n=2000, df=math.inf, source="pairs", drift=False)
    needed = requests_needed(within, short / 2, 0.5)

    assert needed == 8000
    assert float(np.median([half_width(8000) for _ in range(20)])) == pytest.approx(
        short / 2, rel=0.15
    )


def test_a_noisy_width_is_planned_with_at_its_upper_limit() -> None:
    """On 15 degrees the true width is below 1.207 times the pilot's with probability .8 (chi-square)."""
    known = Within(se=0.0, half_width=0.1, n=2000, df=math.inf, source="pairs", drift=False)
    noisy = replace(known, df=15)

    assert requests_needed(known, 0.05, 0.5) == 8000
    assert requests_needed(noisy, 0.05, 0.5) == math.ceil(8000 * 15 / stats.chi2.ppf(0.2, 15))


def test_no_plan_is_below_what_a_quantile_and_its_label_need() -> None:
    """1,000 requests, 20 beyond the quantile, half an hour."""
    assert pair(prospect(0.001, 500)).requests == 1000
    assert pair(prospect(0.001, 500, 0.999)).requests == 20_000
    assert pair(prospect(0.001, 360_000)).seconds == 1800
    unbounded = pair(prospect(math.inf, 2000, 0.99))
    assert (unbounded.requests, unbounded.requests_to_find, unbounded.seconds) == (None, None, None)


def test_repeated_runs_are_planned_with_their_own_spread(repeated: Repeated) -> None:
    """Six runs 3 % apart: measured, and the chances of its upper 80 % limit (chi-square on five degrees)."""
    offsets = np.exp(np.random.default_rng(2).normal(size=6) * 0.03)

    (found,) = plan([repeated(offsets)], PowerGoal(asked=MEDIAN)).prospects

    assert not found.assumed
    assert found.spread.sd is not None
    assert found.sd == pytest.approx(found.spread.sd * math.sqrt(5 / stats.chi2.ppf(0.2, 5)))
    assert found.runs_to_pass == runs_needed(found.sd, 0.05)
    assert found.spread.high is not None
    for chance in found.chances:
        assert chance.passes == chance_to_pass(chance.runs, found.sd, 0.05)
        assert chance.passes_at_worst == chance_to_pass(chance.runs, found.spread.high, 0.05)


def test_one_run_assumes_three_per_cent_and_says_so(repeated: Repeated) -> None:
    """And adds what its own requests leave open."""
    found = plan([repeated([1.0])], PowerGoal(asked=MEDIAN))

    (prospect,) = found.prospects
    assert prospect.assumed
    assert prospect.spread.within is not None
    assert prospect.sd == pytest.approx(math.hypot(0.03, prospect.spread.within.se))
    assert prospect.chances[0].passes_at_worst is None
    assert [caution.code for caution in found.warnings] == ["ASSUMED_SPREAD"]


def _step(found: dict[str, Any]) -> None:
    found["first_token"][1000:] += 0.1


def test_what_a_pilot_does_not_carry_is_said(repeated: Repeated) -> None:
    """A short one, a drifting one, one whose client was the limit."""

    def codes(*arms: Any) -> list[str]:
        return [caution.code for caution in plan(arms, PowerGoal(asked=MEDIAN)).warnings]

    assert codes(repeated([1.0, 1.01])) == []
    assert codes(repeated([1.0, 1.01], gap=0.1)) == ["SHORT_PILOT"]
    assert codes(repeated([1.0], spoil=_step)) == ["ASSUMED_SPREAD", "SLOW_DRIFT"]


def test_the_usual_gates_are_planned_when_none_is_named(repeated: Repeated) -> None:
    """And a quantile with too few requests says how many it takes."""
    found = plan([repeated([1.0, 1.01, 0.99], 300)], PowerGoal())

    rows = {(one.spread.metric, one.spread.quantile): one for one in found.prospects}
    assert list(rows) == [("ttft", 0.5), ("ttft", 0.95), ("e2e", 0.5), ("e2e", 0.95)]
    tail = rows["ttft", 0.95]
    assert "400" in (tail.spread.refusal or "")
    assert (tail.sd, tail.one_pair, tail.warning, tail.chances) == (None, None, None, ())
    assert (tail.runs_to_pass, tail.runs_to_see) == (None, None)


def test_text_and_json_say_the_same(repeated: Repeated) -> None:
    """Runs needed, spread and the one sentence."""
    offsets = np.exp(np.random.default_rng(3).normal(size=5) * 0.04)
    found = plan([repeated(offsets)], PowerGoal(effect=0.2, asked=MEDIAN))
    text, said = "\n".join(plan_text(found)), plan_json(found)

    (row,) = said["metrics"]
    runs = row["runs_to_pass"]
    assert (
        f"The gate of 5 % passes in 80 % of plans if nothing changed with {runs} + {runs} runs"
        in text
    )
    assert said["together"]["runs"] == runs
    assert row["warning"] in text
    assert "+20 % FAILs" in text
    assert row["advice"] in text
    assert [chance["runs"] for chance in row["plans"]] == [3, 4, 5, 6, 8, 10, 15, 20]
    assert row["one_pair"]["requests"] == pair(found.prospects[0]).requests


def test_all_gates_together_are_planned_for(repeated: Repeated) -> None:
    """As a verdict needs them: oftener than if independent, rarer than each by itself."""
    offsets = np.exp(np.random.default_rng(4).normal(size=6) * 0.03)
    found = plan([repeated(offsets)], PowerGoal())
    together, single = found.together, [p for p in found.prospects if p.sd is not None]

    assert together is not None
    assert together.gates == len(single) == 4
    for at, share in enumerate(together.passes):
        alone = [prospect.chances[at].passes for prospect in single]
        assert math.prod(alone) - 0.04 <= share <= min(alone) + 0.04
    assert together.runs is not None
    assert together.runs >= max(prospect.runs_to_pass or 0 for prospect in single)
    assert (
        f"All 4 gates of 5 % pass in 80 % of plans if nothing changed with {together.runs} +"
        in ("\n".join(plan_text(found)))
    )


def test_hopeless_plans_say_so(repeated: Repeated) -> None:
    """Runs that differ threefold, and a metric with too few requests."""
    wild = plan([repeated([1.0, 3.0, 0.3])], PowerGoal(margin=0.01, asked=MEDIAN))
    few = plan([repeated([1.0, 1.0], 300)], PowerGoal(asked=(("ttft", 0.99),)))

    assert "No number of runs up to 1,000" in "\n".join(plan_text(wild))
    assert "n too small (needs ≥ 2,000)" in "\n".join(plan_text(few))


def test_a_tail_among_the_timeouts_has_no_plan(repeated: Repeated) -> None:
    """Neither requests nor runs can be projected from it."""

    def late(found: dict[str, Any]) -> None:
        found["outcome"][::10] = "timeout"

    whole = plan([repeated([1.0], spoil=late)], PowerGoal(asked=(("ttft", 0.95),)))
    (found,) = whole.prospects

    assert found.sd is None
    assert found.chances == ()
    assert pair(found).requests is None
    assert "unbounded" in "\n".join(plan_text(whole))
