"""Verdicts on shares, rates and limits, from runs whose truth is known, and how often they are wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tbench.analysis.arms import Arm
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import parse_gate, parse_gates
from tbench.analysis.gate_estimate import (
    LEAST_RUNS,
    GateEstimate,
    at_the_margin,
    comparison,
    difference_of,
    level_of,
)
from tbench.analysis.gate_results import GateResults, evaluate_gates, gate_rows
from tbench.analysis.run_metrics import Figure, parse_slo, share
from tbench.analysis.t_tests import difference, level

SLO = parse_slo("ttft<300ms,e2e<2s")


def verdict(found: GateResults) -> str:
    (row,) = found.rows
    return row.comparison.verdict.value


def slow(share: float) -> Callable[[dict[str, Any]], None]:
    """So many requests get their first token after half a second."""

    def spoil(found: dict[str, Any]) -> None:
        found["first_token"][: int(share * len(found["id"]))] += 0.5

    return spoil


def test_goodput_falls_by_points(repeats: Any) -> None:
    """About 1 % of the baseline's requests miss the SLO, 4 points more of the candidate's."""
    gates = parse_gates(None, ["goodput:1pp"], SLO)
    worse = evaluate_gates(repeats.arms(spoil=slow(0.04)), gates)

    assert verdict(evaluate_gates(repeats.arms(), gates)) == "PASS"
    assert verdict(worse) == "FAIL"
    assert worse.rows[0].comparison.ratio == pytest.approx(-0.04, abs=0.01)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, "PASS"), (0.03, "INCONCLUSIVE"), (0.1, "FAIL")]
)
def test_a_goodput_that_must_hold_is_the_candidates_alone(
    repeats: Any, share: float, expected: str
) -> None:
    """At least 97 %, whatever the baseline does, and in whatever order it ran."""
    gates = parse_gates(None, ["goodput>=97%"], parse_slo("ttft<600ms"))

    assert verdict(evaluate_gates(repeats.arms(spoil=slow(share)), gates)) == expected
    assert verdict(evaluate_gates(repeats.arms(spoil=slow(share), turns=False), gates)) == expected
    assert (
        verdict(evaluate_gates(repeats.arms(spoil=slow(share), repeats=2), gates)) == "INCONCLUSIVE"
    )


@pytest.mark.parametrize(("limit", "expected"), [("400ms", "PASS"), ("200ms", "FAIL")])
def test_a_quantile_that_must_hold(repeats: Any, limit: str, expected: str) -> None:
    """The true p95 is exp(-2 + .3 * 1.645) = 222 ms; the interval is Student's on the logarithms."""
    found = evaluate_gates(repeats.arms(), parse_gates(None, [f"ttft:p95<={limit}"]))
    row = found.rows[0].comparison
    theirs = stats.ttest_1samp(np.log(found.rows[0].candidate_runs), 0).confidence_interval(0.9)

    assert verdict(found) == expected
    assert row.ratio is None
    assert (row.low, row.high) == pytest.approx(tuple(np.exp(theirs)))


def test_fewer_requests_per_second_are_worse(repeats: Any) -> None:
    """The same 500 requests in a quarter more time: a fall of 20 %, which an increase would not fail."""

    def spread(found: dict[str, Any]) -> None:
        for name in ("due", "sent", "first_token", "last_token", "end"):
            found[name] = found[name] * 1.25

    gates = parse_gates(None, ["requests_per_s:10%", "output_tokens_per_s:10%"])
    first, second = repeats.arms(spoil=spread)
    fewer, more = evaluate_gates([first, second], gates), evaluate_gates([second, first], gates)

    assert fewer.rows[0].comparison.ratio == pytest.approx(0.8, rel=1e-3)
    assert (fewer.verdict, more.verdict) == (Verdict.FAIL, Verdict.INCONCLUSIVE)
    assert fewer.rows[1].comparison.verdict is Verdict.FAIL
    assert {row.reason for row in more.rows} == {
        "the pacing sets this rate (open loop): only a fall shows; compare with --concurrency"
    }


def test_a_rate_that_the_arrivals_set_is_no_evidence(repeats: Any) -> None:
    """1.5 times as slow, arrivals as recorded: as many requests per second, since as many came."""
    gates = parse_gates(None, ["requests_per_s:5%", "output_tokens_per_s:5%"])

    assert evaluate_gates(repeats.arms(1.5), gates).verdict is Verdict.INCONCLUSIVE
    closed = evaluate_gates(_without_due(repeats.arms(noise=0.001)), gates)
    assert closed.verdict is Verdict.PASS, "in a closed loop the server sets it"


def _without_due(arms: Any) -> list[Any]:
    """As a closed loop writes its runs: nothing was due."""
    return [replace(arm, runs=tuple(_closed(run) for run in arm.runs)) for arm in arms]


def _closed(run: Arm) -> Arm:
    never = np.full(len(run), np.nan)
    return replace(run, run=replace(run.run, columns={**run.columns, "due": never}))


@pytest.mark.parametrize(
    ("limit", "verdict"), [("requests_per_s>=5", "PASS"), ("requests_per_s>=20", "INCONCLUSIVE")]
)
def test_a_limit_on_a_rate_fails_only_where_so_many_came(
    repeats: Any, limit: str, verdict: str
) -> None:
    """Ten requests a second are offered, and served: whether 20 could be, these runs do not show."""
    found = evaluate_gates(repeats.arms(), parse_gates(None, [limit]))

    assert found.verdict.value == verdict
    if verdict == "INCONCLUSIVE":
        assert (
            found.rows[0].reason
            == "the pacing sets this rate: it offers 10.0/s, less than the limit"
        )


def test_a_candidate_that_answers_nothing_fails_its_rate(repeats: Any) -> None:
    """Zero has no logarithm, and is as bad as can be."""

    def fail(found: dict[str, Any]) -> None:
        found["outcome"][:] = "http_error"

    found = evaluate_gates(repeats.arms(spoil=fail), parse_gates(None, ["requests_per_s:10%"]))

    assert verdict(found) == "FAIL"
    assert found.rows[0].reason == "it is zero in every run of the candidate"


def test_a_spotless_arm_counts_its_requests_as_bursts(repeats: Any) -> None:
    """1,500 requests of which none failed: 150 bursts of ten, which may hide 2 %, not half a point."""
    found = evaluate_gates(repeats.arms(repeats=3), parse_gates(None, ["errors:0.5pp"]))

    assert verdict(found) == "INCONCLUSIVE"


def spread(count: int, n: int) -> Figure:
    """So many events among n requests, as far apart as can be."""
    event = np.zeros(n, bool)
    event[(2 * np.arange(count) + 1) * n // (2 * max(count, 1))] = True
    return share(event)


def of_events(text: str, first: Sequence[Figure], second: Sequence[Figure]) -> str:
    """The verdict on shares of three runs of each arm."""
    gate = parse_gate(text)
    sides = (tuple(first), tuple(second))
    found = (
        level_of(gate, sides[1])
        if gate.limit is not None
        else difference_of(gate, sides, (range(0, 6, 2), range(1, 7, 2)), "welch")
    )
    case = GateEstimate(
        arm="B",
        gate=gate,
        baseline=sides[0],
        candidate=sides[1],
        estimate=found,
        method="",
        strict=at_the_margin(gate, sides, found),
    )
    (row,) = gate_rows([case], {"B": ()})
    return row.comparison.verdict.value


@pytest.mark.parametrize(
    ("text", "first", "second", "n", "expected"),
    [
        ("errors:0.5pp", [1, 1, 1], [1, 1, 1], 100, "INCONCLUSIVE"),
        ("errors:0.5pp", [0, 0, 0], [1, 1, 1], 100, "INCONCLUSIVE"),
        ("errors:0.5pp", [1, 1, 1], [1, 1, 1], 10_000, "PASS"),
        ("errors:0.5pp", [0, 0, 0], [300, 310, 290], 10_000, "FAIL"),
        ("errors<=1%", [9, 9, 9], [1, 1, 1], 200, "INCONCLUSIVE"),
        ("errors<=1%", [9, 9, 9], [0, 0, 0], 994, "PASS"),
        ("errors<=1%", [9, 9, 9], [0, 0, 0], 993, "INCONCLUSIVE"),
        ("errors<=1%", [0, 0, 0], [50, 60, 55], 1000, "FAIL"),
    ],
)
def test_runs_whose_few_errors_agree_by_chance_do_not_agree_perfectly(
    text: str, first: list[int], second: list[int], n: int, expected: str
) -> None:
    """The spread of a share is at least that of independent requests, no error at all has an exact bound.

    2,981 requests are the fewest of which 1 % would show one with 95 %, ten at a time.
    """
    sides = ([spread(count, n) for count in side] for side in (first, second))
    assert of_events(text, *sides) == expected


@pytest.mark.parametrize(
    ("text", "bursts"),
    [("errors:1pp", 1), ("errors:1pp", 10), ("errors<=2%", 1), ("errors<=2%", 10)],
)
def test_wrong_verdicts_on_rare_errors_are_rare(text: str, bursts: int) -> None:
    """A truth at the margin passes or fails at most as often as said, errors ten at a time as well."""
    random = np.random.default_rng(7)
    n, found = 400, []
    for _ in range(400):
        sides = [
            [share(np.repeat(random.random(n // bursts) < p, bursts)) for _ in range(3)]
            for p in (0.01, 0.02)
        ]
        found.append(of_events(text, *sides))

    assert found.count("PASS") / 400 <= 0.065
    assert found.count("FAIL") / 400 <= 0.065


def test_holm_is_over_gates_and_candidates() -> None:
    """A p-value of .03 alone fails, and not beside nineteen others."""
    gate = parse_gate("ttft:p50:5%")
    figures = (Figure(value=1.0, n=500), Figure(value=1.02, n=500), Figure(value=0.98, n=500))
    worse = tuple(Figure(value=one.value * 1.115, n=500) for one in figures)
    logs = [[float(np.log(one.value)) for one in side] for side in (figures, worse)]
    found = difference(*logs)  # type: ignore[arg-type]
    cases = [
        GateEstimate(
            arm=str(at), gate=gate, baseline=figures, candidate=worse, estimate=found, method=""
        )
        for at in range(20)
    ]

    assert 0.01 < found.worse(float(np.log(1.05))) < 0.05
    alone = next(gate_rows(cases[:1], {"0": ()}))
    among = list(
        gate_rows(
            [*cases[:1], *(same(case) for case in cases[1:])], {str(k): () for k in range(20)}
        )
    )
    assert alone.comparison.verdict is Verdict.FAIL
    assert among[0].comparison.verdict is Verdict.INCONCLUSIVE
    assert len(figures) == LEAST_RUNS


def same(case: GateEstimate) -> GateEstimate:
    """With a candidate that is the baseline."""
    return GateEstimate(
        arm=case.arm,
        gate=case.gate,
        baseline=case.baseline,
        candidate=case.baseline,
        estimate=difference([0.0, 0.02, -0.02], [0.0, 0.02, -0.02]),
        method="",
    )


def test_an_interval_of_a_share_stays_one() -> None:
    """Not below 0 % nor above 100 %, though the t reaches there."""
    gate = parse_gate("goodput>=90%")
    side = tuple(Figure(value=x / 100, n=100, events=x) for x in (100, 100, 97))
    found = level([1.0, 1.0, 0.97])
    case = GateEstimate(
        arm="B", gate=gate, baseline=side, candidate=side, estimate=found, method=""
    )

    assert found.high > 1
    assert comparison(case).high == 1


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("ttft:p50:10%", "below 1.1"),
        ("output_tokens_per_s:p50:10%", "above 1/1.1"),
        ("ttft:p95<=1s", "below 1"),
    ],
)
def test_the_bound_decides_a_pass(repeats: Any, text: str, passes: str) -> None:
    """It is the worse end of the interval that is shown, and lies on the good side of the margin."""
    (row,) = evaluate_gates(repeats.arms(), parse_gates(None, [text])).rows
    low, bound, high = row.comparison.low, row.bound, row.comparison.high
    assert low is not None
    assert bound is not None
    assert high is not None
    worth = {"below 1.1": 1.1 - bound, "above 1/1.1": bound - 1 / 1.1, "below 1": 1 - bound}[passes]

    assert bound == (low if "above" in passes else high)
    assert (row.comparison.verdict is Verdict.PASS) == (worth > 0)
