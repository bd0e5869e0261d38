"""What answers cost: against sums by hand, what is refused, and as a gate."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from calibration.costs import Costs, dominated, mixed
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from tbench.analysis.arms import Arm, Replicates
from tbench.analysis.compare import compare
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.pairing import match
from tbench.analysis.report.machine import comparison_json, judgement_json, report_json
from tbench.analysis.report.sentences import cost as cost_sentence
from tbench.analysis.report.text import comparison_text, judgement_text, run_text
from tbench.analysis.spending import (
    PER_SESSION,
    PER_SUCCESS,
    SKEWER,
    CostRatio,
    Terms,
    compared_costs,
    over_runs,
    over_sessions,
    spending,
)
from tbench.analysis.summary import Floats
from tbench.analysis.words import dollars_interval
from tbench.capture.exchange import Outcome
from tbench.capture.providers import Usage
from tbench.replay.columns import from_samples, pack
from tbench.replay.cost import Bill, Price, cost
from tbench.replay.run_recorder import Tally
from tbench.replay.sample import Sample
from tbench.replay.table import Table
from tbench.replay.throughput import usd

COSTS = Costs(turns=mixed, sessions=120, failing=0.0)
RANDOM = np.random.default_rng
counts = st.integers(-1, 10**6)


def run(seed: int = 1, dearer: float = 1.0) -> Arm:
    """Of the same traffic, whatever the seed of its answers, which is its place, too."""
    return COSTS.run(COSTS.traffic(RANDOM(0)), RANDOM(seed), dearer, seed)


def changed(arm: Arm, prices: Any = None, **columns: Any) -> Arm:
    target = {"prices": prices} if prices is not None else arm.run.header["target"]
    header, every = {**arm.run.header, "target": target}, {**arm.columns, **columns}
    return replace(arm, run=replace(arm.run, header=header, columns=every))


@given(
    usages=st.lists(
        st.tuples(st.integers(0, 10**6), counts, counts, counts), min_size=1, max_size=9
    ),
    price=st.sampled_from(
        [Price(3, 15), Price(3, 15, 0.3), Price(3, 15, 0.3, 3.75), Price(1, 2, 4, 0)]
    ),
)
def test_the_sum_is_that_of_each_request_by_itself(
    usages: list[tuple[int, ...]], price: Price
) -> None:
    """Cached and created tokens at their own prices, and no more of them than of the prompt."""
    n = len(usages)
    arm = replace(COSTS, sessions=n).run((np.arange(n), np.ones(n)), RANDOM(1))
    names = ("prompt_tokens", "output_tokens", "cached_tokens", "cache_creation_tokens")
    columns = {
        name: np.array(column)
        for name, column in zip(names, zip(*usages, strict=True), strict=True)
    }
    by_hand = sum(
        cost(
            price,
            Usage(*(None if count < 0 else count for count in usage[:3]), created=max(usage[3], 0)),
        )
        for usage in usages
    )

    spent = spending(changed(arm, {"m": list(price)}, **columns))
    assert spent.usd == pytest.approx(by_hand)


def test_clones_and_rounds_are_sessions_of_their_own() -> None:
    """Two sessions of two requests, twice: four conversations of 0.2 dollars, and two clusters."""
    arm = replace(COSTS, sessions=2).run((np.repeat([0, 1], 4), np.full(8, 100.0)), RANDOM(1))
    tokens = {"prompt_tokens": np.full(8, 100), "output_tokens": np.zeros(8, int)}
    spent = spending(changed(arm, {"m": [1000, 0]}, cycle=np.tile([0, 0, 1, 1], 2), **tokens))

    assert spent.ratios[PER_SESSION].value == pytest.approx(0.2)
    assert spent.ratios[PER_SESSION].interval == (None, None, "2 sessions < 100")


def test_failures_share_the_cost_of_the_successes_and_sessions_count_once() -> None:
    """Four requests of two sessions, 100 tokens each at a dollar per thousand; one failed in its stream."""
    arm = replace(COSTS, sessions=2).run((np.array([0, 0, 1, 1]), np.full(4, 100.0)), RANDOM(1))
    tokens = {"prompt_tokens": np.full(4, 100), "output_tokens": np.zeros(4, int)}
    outcome = np.array(["ok", "ok", "stream_error", "ok"])
    spent = spending(changed(arm, {"m": [1000, 0]}, outcome=outcome, **tokens))

    assert spent.usd == pytest.approx(0.4)
    assert spent.ratios[PER_SUCCESS].value == pytest.approx(0.4 / 3)
    assert spent.ratios[PER_SESSION].value == pytest.approx(0.2)
    assert spent.ratios[PER_SESSION].interval == (None, None, "2 sessions < 100")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"prices": {}}, "no price is known for m"),
        ({"prices": {"m": [0, 0]}}, "nothing was charged"),
        ({"model": np.array(["m", "m", "m", "m", None])}, "no price is known for (no model)"),
        ({"prompt_tokens": np.full(5, -1), "outcome": np.array(["ok"] * 4 + ["http_error"])},
         "4 requests without token counts"),
        ({"outcome": np.full(5, "stream_error"), "prompt_tokens": np.full(5, 1)}, "no request succeeded"),
    ],
)  # fmt: skip
def test_a_cost_that_is_not_known_says_why(change: dict[str, Any], refusal: str) -> None:
    arm = replace(COSTS, sessions=5).run((np.arange(5), np.full(5, 100.0)), RANDOM(1))
    ratio = spending(changed(arm, **change)).ratios[PER_SUCCESS]

    assert (ratio.value, ratio.refusal) == (None, refusal)
    assert ratio.interval == (None, None, refusal)


def test_a_replay_and_its_report_count_alike_what_may_have_been_charged() -> None:
    """Of every outcome one that names tokens, which cost, and one that names none: three kinds are free."""
    samples = [
        Sample(
            id=f"{outcome}{tokens}", index=2 * at + (tokens is None), endpoint="chat", model="m",
            stream=False, due=None, sent=float(at), outcome=outcome, prompt_tokens=tokens,
            output_tokens=tokens,
        )
        for at, outcome in enumerate(Outcome)
        for tokens in (100, None)
    ]  # fmt: skip
    tally = Tally(bill=Bill(prices={"m": Price(1000, 1500)}))
    tally.add(samples)
    arm = changed(run(), {"m": [1000, 1500]}, **Table(lambda: [pack(from_samples(samples))]))
    spent = spending(arm, np.arange(len(samples)))

    assert spent.usd == pytest.approx(tally.bill.usd) == pytest.approx(0.25 * len(Outcome))
    assert spent.uncounted == tally.bill.uncounted == len(Outcome) - 3


@pytest.mark.parametrize(
    ("uncounted", "warm", "expected"),
    [
        ((2, 2), (5, 5), "A and A at least (2 requests without token counts), without the warm-up"),
        ((2, 0), (5, 5), "A at least (2 requests without token counts) and A, without the warm-up"),
        ((0, 0), (5, 0), "A, without the warm-up and A"),
        ((0, 0), (0, 0), "A and A"),
    ],
)
def test_what_two_costs_lack_is_said_once(
    uncounted: tuple[int, int], warm: tuple[int, int], expected: str
) -> None:
    """Each thing by itself: requests that nobody counted, and the warm-up."""
    spent = spending(run())
    sides = [
        (
            cast("Arm", SimpleNamespace(warm=left, compared=None)),
            replace(spent, uncounted=count, refusal=None),
        )
        for count, left in zip(uncounted, warm, strict=True)
    ]

    assert cost_sentence(*sides).replace(usd(spent.usd), "A") == expected


def test_a_cost_of_a_part_says_of_which() -> None:
    """Of a comparison that leaves out what the other run lacks, not of a warm-up that there is not."""
    arm = run()
    part = arm.only(np.arange(len(arm) - 1))
    spent = spending(part)

    assert not arm.warm
    assert cost_sentence((part, spent)) == f"{usd(spent.usd)}, of the compared requests"


def test_what_was_lost_in_flight_may_have_been_charged() -> None:
    """Its answer is not known: a cost is one at least, and no ratio is made where it is over a percent."""
    arm = run()
    few, many = (
        replace(arm, run=replace(arm.run, totals={**arm.run.totals, "lost_in_flight": lost}))
        for lost in (1, len(arm))
    )

    assert [spending(each).uncounted for each in (arm, few, many)] == [0, 1, len(arm)]
    assert "(1 request without token counts)" in cost_sentence((few, spending(few)))
    assert spending(many).refusal == f"{len(arm):,} requests without token counts"
    assert {row[0].refusal for row in compared_costs([many, arm], match(many, arm))} == {None}


def test_what_may_have_been_charged_is_shown_where_nothing_was_counted() -> None:
    """Requests that name no tokens, of a model that has a price."""
    arm = run()
    tokens = arm.columns["prompt_tokens"]
    silent = changed(arm, prompt_tokens=np.full(len(tokens), -1))
    assert f"cost: unknown ({len(tokens):,} requests without token counts)" in run_text(silent)
    assert "cost: " not in run_text(changed(silent, {}))


def test_a_model_that_costs_nothing_is_said_to_cost_nothing() -> None:
    """Zero, not unknown and not left out, beside one that costs something as well."""
    arm = run()
    free = changed(arm, {"m": [0.0, 0.0]})

    assert spending(free).known
    assert "cost: $0.00" in run_text(free)
    assert cost_sentence((free, spending(free)), (arm, spending(arm))).startswith("$0.00 and $")


def test_what_a_cost_lacks_is_said_once_of_two_arms_that_lack_the_same() -> None:
    arm = run()
    spent = replace(spending(arm), usd=0.5, uncounted=16)
    other = replace(spent, usd=0.25)

    assert cost_sentence((arm, spent), (arm, other)) == (
        "$0.500 and $0.250 at least (16 requests without token counts)"
    )
    assert cost_sentence((arm, spent), (arm, replace(other, uncounted=0))) == (
        "$0.500 at least (16 requests without token counts) and $0.250"
    )
    assert cost_sentence((arm, replace(spent, refusal="no price is known for m"))) == (
        "$0.500 at least (no price is known for m; 16 requests without token counts)"
    )


def test_a_pair_is_compared_with_an_interval_and_reports_say_it() -> None:
    """A tenth dearer by its prices: what the arms share cancels, so that the interval knows it."""
    comparison = compare(run(1), run(2, 1.1))
    row = comparison_json(comparison)["costs"][PER_SUCCESS]
    text = comparison_text(comparison)

    assert row["ratio"] == pytest.approx(1.1, rel=0.03)
    assert row["ci"][0] > 1
    assert row["candidate"] / row["baseline"] == pytest.approx(row["ratio"])
    assert "cost/success" in text
    assert "higher" in text
    report = report_json(run())["cost"]
    assert (
        report[PER_SESSION]["ci"][0] < report[PER_SESSION]["value"] < report[PER_SESSION]["ci"][1]
    )
    assert "cost: $" in run_text(run())


def test_a_cost_is_gated_by_the_rule_of_all_gates() -> None:
    """Five runs each: equal arms pass, one that is dearer by a third fails, a limit is one of dollars."""
    gates = parse_gates(
        None, ["cost_per_success:10%", "cost_per_session:10%", "cost_per_success<=1"]
    )
    arms = [
        Replicates(name=name, runs=tuple(run(2 * pair + (at + pair) % 2) for pair in range(5)))
        for at, name in enumerate(("now", "same"))
    ]
    equal = evaluate_gates(arms, gates)
    dearer = Replicates(
        name="dear", runs=tuple(changed(arm, {"m": [1.33, 5.32]}) for arm in arms[1].runs)
    )
    failing = evaluate_gates([arms[0], dearer], gates)

    assert [row.comparison.verdict for row in equal.rows] == [Verdict.PASS] * 3
    assert [row.comparison.verdict for row in failing.rows] == [
        Verdict.FAIL,
        Verdict.FAIL,
        Verdict.PASS,
    ]
    at_the_limit = parse_gates(
        None, [f"cost_per_success<={equal.rows[2].comparison.candidate:.6g}"]
    )
    texts = [
        " ".join(" ".join(judgement_text(results)).split())
        for results in (equal, failing, evaluate_gates(arms, at_the_limit))
    ]
    assert judgement_json(failing)["comparisons"][0]["unit"] == "USD"
    assert "≤ $1 PASS" in texts[1]
    assert (
        "same keeps its limit and is not worse than now by the margin or more at any of 3 gates"
        in texts[0]
    )
    assert "dear is worse than now by more than the margin: cost/" in texts[1]
    assert "INCONCLUSIVE: These runs cannot tell whether same keeps its limit: cost/" in texts[2]
    unknown = [
        Replicates(name=arm.name, runs=tuple(changed(r, {}) for r in arm.runs)) for arm in arms
    ]
    assert "no price is known for m" in (evaluate_gates(unknown, gates).rows[0].reason or "")


def test_few_sessions_that_hold_most_of_the_cost_leave_the_interval_wide() -> None:
    """One in thirty holds nearly all of it: the interval reaches further up than down."""
    costs = Costs(turns=dominated, sessions=150)
    ratio = spending(costs.run(costs.traffic(RANDOM(3)), RANDOM(3))).ratios[PER_SUCCESS]
    low, high, _ = ratio.interval

    assert ratio.value
    assert low
    assert high
    assert high - ratio.value > ratio.value - low > 0.1 * ratio.value


SESSIONS = 150


def heavy(seed: int) -> tuple[Floats, Floats]:
    """What sessions cost, lognormal with a sigma of 1.5, and again by another arm."""
    costs = RANDOM(0).lognormal(0, 1.5, SESSIONS)
    return costs, costs * RANDOM(seed).lognormal(0, 0.5, SESSIONS)


def ratio_of(share: Floats, among: Floats) -> CostRatio:
    """Of sums of sessions with one request each, spread over the time."""
    terms = Terms(share / share.sum(), among / among.sum(), np.arange(SESSIONS))
    return CostRatio(name=PER_SESSION, value=float(share.sum() / among.sum()), terms=terms)


@pytest.mark.parametrize("each", [True, False], ids=["per session", "against a baseline"])
def test_an_interval_is_what_a_test_of_each_ratio_leaves(each: bool) -> None:
    """Written again with scipy: t and Hall's cubic of the differences at a ratio, and Brent's roots."""
    share, other = heavy(1)
    among = np.ones(SESSIONS) if each else other
    critical = stats.t.isf(0.025, SESSIONS - 1) / math.sqrt(SESSIONS)

    def beyond(log: float) -> float:
        terms = share - math.exp(log) * among
        t = terms.mean() / terms.std(ddof=1)
        skew = SKEWER * float(stats.skew(terms))
        cubic = ((1 + skew * t / 3) ** 3 - 1) / skew + skew / (6 * SESSIONS)
        return float(min(abs(t), abs(cubic)) - critical)

    middle = math.log(share.sum() / among.sum())
    by_roots = [optimize.brentq(beyond, middle, middle + far) - middle for far in (-3, 3)]
    ends = over_sessions(share / share.sum(), among / among.sum())

    assert ends == pytest.approx(by_roots, rel=1e-6)
    low, high, _ = ratio_of(share, among).interval
    assert low
    assert high
    assert low <= math.exp(middle + by_roots[0]) * 1.000001
    assert high >= math.exp(middle + by_roots[1]) * 0.999999


def test_swapped_arms_have_the_inverse_interval() -> None:
    share, among = heavy(1)
    low, high, _ = ratio_of(share, among).interval
    swapped = ratio_of(among, share).interval

    assert low
    assert high
    assert swapped[:2] == pytest.approx((1 / high, 1 / low), rel=1e-9)


def test_where_one_session_holds_all_of_the_cost_the_lower_end_is_open() -> None:
    """Nothing says that the next hundred hold such a one; the screen and the JSON say so."""
    share = np.ones(SESSIONS)
    share[70] = 1e4
    low, high, refusal = ratio_of(share, np.ones(SESSIONS)).interval

    assert (low, refusal) == (None, None)
    assert high
    assert dollars_interval(low, high).startswith("(0, $")
    assert dollars_interval(high, None).endswith(", ∞)")


def test_a_cost_over_runs_has_the_interval_of_the_runs() -> None:
    """By hand: the logarithms of 1, 2 and 4 are ln 2 apart, t at two degrees of freedom is 4.3027."""
    ratios = [CostRatio(name="cost_per_success", value=value) for value in (1.0, 2.0, 4.0)]
    value, low, high, refusal = over_runs(ratios)
    reach = 4.302653 * math.log(2) / math.sqrt(3)

    assert value == pytest.approx(2.0)
    assert (low, high) == pytest.approx((2 / math.exp(reach), 2 * math.exp(reach)), rel=1e-5)
    assert refusal is None
    assert over_runs(ratios[:2])[1:] == (None, None, "2 runs < 3")
    assert over_runs([*ratios, None]) == (None, None, None, "no sessions known")
