"""Planned looks: their bounds against published constants, and how often a monitored gate is wrong."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.analysis.comparison import Verdict
from tbench.analysis.decide import GateEvidence
from tbench.analysis.gate import Gate, parse_gate, parse_gates
from tbench.analysis.gate_estimate import GateEstimate, estimate_of
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.interim import (
    Looks,
    Shape,
    as_monitored,
    at_look,
    bounds,
    crossing,
    monitor,
)
from tbench.analysis.report.machine import judgement_json
from tbench.analysis.report.text import judgement_text
from tbench.analysis.run_metrics import Figure
from tbench.analysis.summary import Floats
from tbench.analysis.t_tests import difference
from tbench.capture.errors import InputError

Repeated = Callable[..., Any]
FIVE = Looks(runs=(3, 6, 9, 12, 15))
GATE = parse_gate("ttft:p50:5%")
MARGIN = math.log(1.05)
TRIALS = 1000


def evidence(
    gate: Gate, baseline: Sequence[float], candidate: Sequence[float], n: int
) -> GateEvidence:
    """What runs of `n` requests each say by Welch's t, of which share or quantile each has."""
    first, second = (
        tuple(
            Figure(value=value, n=n, events=round(value * n) if value < 1 else n) for value in side
        )
        if gate.scale == "points"
        else tuple(Figure(value=value, n=n) for value in side)
        for side in (baseline, candidate)
    )
    return GateEstimate(
        arm="B",
        gate=gate,
        baseline=first,
        candidate=second,
        estimate=estimate_of(gate, (first, second), ((), ()), "welch"),
        method="",
    ).evidence


def standings(arms: Floats, runs: int, gates: Sequence[Gate] = (GATE,)) -> list[GateEvidence]:
    """Of log-quantiles (gate, arm, run), the first `runs` of each arm."""
    return [
        evidence(gate, np.exp(arms[i, 0, :runs]).tolist(), np.exp(arms[i, 1, :runs]).tolist(), 1000)
        for i, gate in enumerate(gates)
    ]


def monitored(arms: Floats, looks: Looks, gates: Sequence[Gate] = (GATE,)) -> Verdict:
    """Where an experiment ends that stops as soon as it may."""
    for look, runs in enumerate(looks.runs, 1):
        found = at_look(standings(arms, runs, gates), looks, look)
        if found.stop:
            return found.verdict
    raise AssertionError("the last look did not stop")


def peeking(arms: Floats, looks: Looks) -> Verdict:
    """The same with the fixed level at every look."""
    for runs in looks.runs:
        found = difference(arms[0, 0, :runs].tolist(), arms[0, 1, :runs].tolist())
        if found.most < MARGIN:
            return Verdict.PASS
        if found.worse(MARGIN) < 0.05:
            return Verdict.FAIL
    return Verdict.INCONCLUSIVE


def experiments(trials: int, truth: float, gates: int = 1, runs: int = 15) -> Floats:
    """Log-quantiles (trial, gate, arm, run) of runs 3 % apart, the candidate slower by exp(truth)."""
    random = np.random.default_rng(1)
    noise = random.normal(size=(trials, gates, 2, runs)) * 0.03
    noise[:, :, 1] += truth
    return noise


@pytest.mark.parametrize("looks", [FIVE, Looks(runs=(3, 6, 9, 12, 15), shape="pocock")])
def test_wrong_verdicts_stay_rare_however_often_one_looks(looks: Looks) -> None:
    """A truth at the margin: each side at most .08 in 1,000 experiments of five looks; naive peeking > .1."""
    arms = experiments(TRIALS, MARGIN)
    ours = [monitored(one, looks) for one in arms]
    naive = [peeking(one, looks) for one in arms]

    for verdict in (Verdict.PASS, Verdict.FAIL):
        assert ours.count(verdict) / TRIALS <= 0.08
        assert naive.count(verdict) / TRIALS > 0.1


def test_any_of_four_gates_fails_wrongly_as_rarely() -> None:
    """Holm's steps over the looks: four independent gates at their margins."""
    gates = [parse_gate(f"{metric}:p50:5%") for metric in ("ttft", "e2e", "tpot", "itl")]
    arms = experiments(400, MARGIN, gates=4)

    found = [monitored(one, FIVE, gates) for one in arms]

    assert found.count(Verdict.FAIL) / 400 <= 0.08
    assert found.count(Verdict.PASS) == 0


def test_large_changes_stop_early_and_rightly() -> None:
    """30 % slower fails before the last look nearly always, and so do equal arms pass 20 %."""
    slower = experiments(100, math.log(1.3))
    equal = experiments(100, 0.0)
    wide = [parse_gate("ttft:p50:20%")]

    def stops_at_six(arms: Floats, gates: Sequence[Gate]) -> Verdict:
        return at_look(standings(arms, 6, gates), FIVE, 2).verdict

    assert [stops_at_six(one, [GATE]) for one in slower].count(Verdict.FAIL) > 95
    assert [stops_at_six(one, wide) for one in equal].count(Verdict.PASS) > 95


def test_nothing_stops_before_the_last_look_without_evidence() -> None:
    """A truth at the margin: it goes on, and ends INCONCLUSIVE."""
    arms = experiments(1, MARGIN)[0]
    arms[0, :, ::2] += 0.1  # far apart, alike in both

    early, last = at_look(standings(arms, 9), FIVE, 3), at_look(standings(arms, 15), FIVE, 5)

    assert (early.stop, early.verdict) == (False, Verdict.INCONCLUSIVE)
    assert (last.stop, last.verdict) == (True, Verdict.INCONCLUSIVE)
    assert early.level < last.level < 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.8, 1.3), st.floats(0.002, 0.1))
def test_one_look_is_the_judges_own_rule(seed: int, ratio: float, sd: float) -> None:
    """With the only look at all runs the level is .05, and every gate gets the fixed test's verdict."""
    random = np.random.default_rng(seed)
    arms = random.normal(size=(1, 2, 5)) * sd
    arms[:, 1] += math.log(ratio)
    fixed = difference(arms[0, 0].tolist(), arms[0, 1].tolist())
    known = (
        Verdict.PASS
        if fixed.most < MARGIN
        else Verdict.FAIL
        if fixed.worse(MARGIN) < 0.05
        else Verdict.INCONCLUSIVE
    )

    assert at_look(standings(arms, 5), Looks(runs=(5,)), 1).verdict is known


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.2, 1.5])
def test_one_look_agrees_with_the_judge_on_whole_runs(repeated: Repeated, factor: float) -> None:
    """All usual gates and errors, row by row."""
    slow = np.exp(np.random.default_rng(3).normal(size=10) * 0.03)
    first = repeated(slow[:5], 500, step=2, at=0)
    second = repeated(slow[5:] * factor, 500, step=2, at=1, seed=2, name="B")
    judged = evaluate_gates((first, second), parse_gates("10%", ["errors:1pp"]))

    found = monitor(judged, Looks(runs=(5,)), 1)

    assert found.verdicts == tuple(row.comparison.verdict for row in judged.rows)
    assert (found.stop, found.verdict) == (True, judged.verdict)


def test_more_is_better_where_the_metric_says_so() -> None:
    """Tokens per second that fall by 30 % fail; that rise by 30 % pass."""
    gate = parse_gate("output_tokens_per_s:p50:5%")
    arms = experiments(1, 0.0)[0]
    for change, verdict in ((-0.3, Verdict.FAIL), (0.3, Verdict.PASS)):
        moved = arms.copy()
        moved[:, 1] += change
        assert at_look(standings(moved, 15, [gate]), FIVE, 5).verdict is verdict


def test_errors_are_held_against_the_same_levels() -> None:
    """None anywhere passes once enough requests say so; five points more fail."""
    gate = parse_gate("errors:0.5pp")

    def at(look: int, n: int, candidate: float) -> Verdict:
        runs = FIVE.runs[look - 1]
        noise = np.random.default_rng(1).normal(size=runs) * 0.001 * (candidate > 0)
        one = evidence(gate, (0.0,) * runs, (candidate + noise).tolist(), n // runs)
        return at_look([one], FIVE, look).verdict

    assert at(1, 19_000, 0.0) is Verdict.INCONCLUSIVE  # 4.5e-5 hides .53 points, ten at a time
    assert at(1, 21_000, 0.0) is Verdict.PASS
    assert at(2, 2100, 0.05) is Verdict.FAIL


def test_a_gate_among_the_timeouts_fails_at_the_last_look_only() -> None:
    """It has no p-value that could be held against a level."""
    known, lost = (0.1, 0.11, 0.12, 0.1, 0.1), (math.inf,) * 5

    def at(look: int) -> Verdict:
        runs = (3, 5)[look - 1]
        one = evidence(GATE, known[:runs], lost[:runs], 500)
        return at_look([one], Looks(runs=(3, 5)), look).verdict

    assert (at(1), at(2)) == (Verdict.INCONCLUSIVE, Verdict.FAIL)


def test_all_gates_must_pass_and_one_failing_is_enough() -> None:
    """An open gate keeps the experiment going."""
    gates = [GATE, parse_gate("e2e:p50:5%")]
    arms = experiments(1, 0.0, gates=2)[0] / 10
    both = at_look(standings(arms, 15, gates), FIVE, 5)
    arms[1, 1] += MARGIN
    one = at_look(standings(arms, 12, gates), FIVE, 4)
    arms[1, 1] += 0.3
    failing = at_look(standings(arms, 12, gates), FIVE, 4)

    assert both.verdicts == (Verdict.PASS, Verdict.PASS)
    assert both.verdict is Verdict.PASS
    assert (one.verdicts[0], one.verdict, one.stop) == (Verdict.PASS, Verdict.INCONCLUSIVE, False)
    assert (failing.verdict, failing.stop) == (Verdict.FAIL, True)


def test_a_look_at_other_runs_than_planned_is_refused(repeated: Repeated) -> None:
    """The levels are those of the plan."""
    with pytest.raises(
        InputError, match="look 2 is planned after 6 runs of each arm; there are 3 and 3"
    ):
        monitor(judged(repeated, 1.0), Looks(runs=(3, 6)), 2)


def judged(repeated: Repeated, factor: float, *, turns: bool = True, **changes: Any) -> Any:
    """Three quiet runs of each arm."""
    slow = [1.0, 1.001, 0.999]
    first = repeated(slow, 500, own=0.02, step=2 if turns else 1)
    second = repeated(
        [factor * one for one in slow],
        500,
        own=0.02,
        step=2,
        at=1 if turns else 100,
        name="B",
        **changes,
    )
    return evaluate_gates((first, second), parse_gates("5%", []))


def test_what_forbids_a_verdict_forbids_it_here(repeated: Repeated) -> None:
    """Runs that did not take turns stop nothing; a run that does not count stops all."""
    looks = Looks(runs=(3, 6))

    def late(found: dict[str, Any]) -> None:
        found["sent"] = found["due"] + 0.1

    good = monitor(judged(repeated, 2.0), looks, 1)
    apart = monitor(judged(repeated, 2.0, turns=False), looks, 1)
    invalid = monitor(judged(repeated, 2.0, spoil=late), looks, 1)

    assert (good.stop, good.verdict) == (True, Verdict.FAIL)
    assert (apart.stop, apart.verdict) == (False, Verdict.INCONCLUSIVE)
    assert (invalid.stop, invalid.verdict) == (True, Verdict.INVALID)


def test_one_worse_candidate_of_two_stops_all(repeated: Repeated) -> None:
    """B is as the baseline and open, C twice as slow: FAIL over all, and each row by itself."""
    slow = [1.0, 1.001, 0.999]
    arms = [
        repeated(
            [factor * one for one in slow], 500, own=0.02, step=3, at=at, name=name, seed=at + 1
        )
        for at, (name, factor) in enumerate((("A", 1.0), ("B", 1.05), ("C", 2.0)))
    ]
    found = evaluate_gates(arms, [GATE])

    decision = monitor(found, Looks(runs=(3, 6)), 1)

    assert (decision.stop, decision.verdict) == (True, Verdict.FAIL)
    assert dict(zip([row.arm for row in found.rows], decision.verdicts, strict=True)) == {
        "B": Verdict.INCONCLUSIVE,
        "C": Verdict.FAIL,
    }


def test_survivors_do_not_pass(repeated: Repeated) -> None:
    """A candidate that fails its slow requests looks faster, and goes on."""

    def fail(found: dict[str, Any]) -> None:
        slow = np.argsort(found["first_token"] - found["sent"])[::-1]
        found["outcome"][slow[:100]] = "http_error"

    found = judged(repeated, 0.97, spoil=fail)

    assert any(caution.code == "SURVIVOR_BIAS" for caution in found.warnings)
    assert monitor(found, Looks(runs=(3, 6)), 1).verdict is not Verdict.PASS


def test_a_stopped_experiment_shows_no_interval(repeated: Repeated) -> None:
    """It is a decision at its level; the change is shown as it stood, and the caution says so."""
    found = judged(repeated, 2.0)
    decision = monitor(found, Looks(runs=(3, 6)), 1)

    shown = as_monitored(found, decision)
    said = judgement_json(shown)
    text = "\n".join(judgement_text(shown))

    assert said["verdict"] == "FAIL"
    assert all(
        row["ci"] == [None, None] and row["confidence"] == "none" for row in said["comparisons"]
    )
    assert said["comparisons"][0]["ratio"] == pytest.approx(2.0, rel=0.05)
    assert said["warnings"][-1].startswith(
        "MONITORED: look 1 of 2 (3 runs of each arm) stopped with FAIL at"
    )
    assert "look 1 of 2 (3 runs of each arm) stopped with FAIL" in " ".join(text.split())


def test_a_pass_of_the_fixed_test_may_be_open_at_a_look(repeated: Repeated) -> None:
    """The row says so instead of PASS."""
    random = np.random.default_rng(5)
    slow = np.exp(random.normal(size=6) * 0.01)
    first = repeated(slow[:3], 500, own=0.02, step=2)
    second = repeated(slow[3:], 500, own=0.02, step=2, at=1, name="B")
    found = evaluate_gates(
        (first, second),
        parse_gates(None, ["e2e:p50:5%"]),
    )
    decision = monitor(found, FIVE, 1)

    (row,) = as_monitored(found, decision).rows

    assert found.verdict is Verdict.PASS
    assert (decision.stop, row.comparison.verdict) == (False, Verdict.INCONCLUSIVE)
    assert row.reason == f"open at this look's one-sided level, {decision.level:.2g}"


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


@pytest.mark.parametrize(
    "fractions",
    [(0.3, 0.4, 1.0), (0.1, 0.15, 0.2, 0.9, 1.0), FIFTHS, (0.003, 0.998, 0.999, 1.0)],
)
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


@pytest.mark.parametrize("runs", [(), (2, 4), (3, 3), (6, 3)])
def test_senseless_looks_are_refused(runs: tuple[int, ...]) -> None:
    """They must rise, and begin where a gate can decide."""
    with pytest.raises(InputError, match="must rise, from 3 on"):
        Looks(runs=runs)
