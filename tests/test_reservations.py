"""What to beware of in a judgement, with its numbers, and which of it forbids a verdict."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.arms import Arm
from analysis.comparison import Verdict
from analysis.gate import parse_gates
from analysis.judge import Judgement, judge
from analysis.replicates import Replicates

GATES = parse_gates("10%", [])
Spoil = Callable[[dict[str, Any]], None]


def said(found: Judgement) -> dict[str, str]:
    return {caution.code: caution.text for caution in found.warnings}


def setting(**values: Any) -> Spoil:
    def spoil(found: dict[str, Any]) -> None:
        for name, value in values.items():
            found[name] = np.full(len(found["id"]), value, dtype=np.array(found[name]).dtype)

    return spoil


def some(name: str, value: Any, every: int) -> Spoil:
    def spoil(found: dict[str, Any]) -> None:
        found[name][::every] = value

    return spoil


def test_equal_arms_have_no_caution(repeats: Any) -> None:
    assert said(judge(repeats.arms(), GATES)) == {}


@pytest.mark.parametrize(
    ("spoil", "code", "text"),
    [
        (
            setting(output_tokens=23),
            "OUTPUT_LENGTH_DIFFERS",
            "1.15 times as long (median 20 and 23",
        ),
        (setting(cached_tokens=900), "CACHED_TOKENS_DIFFER", "10% of the baseline's prompt tokens"),
        (some("finish_reason", "length", 4), "FINISH_REASONS_DIFFER", "length 0% against 25%"),
        (some("outcome", "http_error", 20), "ERROR_MIX_DIFFERS", "failures 0.0% against 5.0%"),
    ],
)
def test_an_imbalance_is_said_with_its_numbers_and_caps_nothing(
    repeats: Any, spoil: Spoil, code: str, text: str
) -> None:
    """The verdict is the arms' own; what else differs stands beside it."""
    found = judge(repeats.arms(spoil=spoil), parse_gates(None, ["ttft:p50:10%"]))

    assert text in said(found)[code]
    assert found.verdict is Verdict.PASS


def test_a_client_that_was_later_for_one_arm_decides_nothing(repeats: Any) -> None:
    """A lag that differs by more than 5 % of the median TTFT refuses the comparison."""

    def late(found: dict[str, Any]) -> None:
        found["sent"] = found["due"] + 0.009

    found = judge(repeats.arms(spoil=late), GATES)

    assert "lag p99 0.00 ms against 9.00 ms" in said(found)["INVALID_COMPARISON"]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert {row.reason for row in found.rows} == {"INVALID_COMPARISON"}


@pytest.mark.parametrize(
    ("told", "code", "text"),
    [
        ({"model": "other"}, "DIFFERENT_MODEL", "m against other"),
        ({"pacing": "at 2 requests/s"}, "DIFFERENT_PACING", "as recorded against at 2 requests/s"),
    ],
)
def test_arms_that_were_not_sent_alike_say_so(
    repeats: Any, told: dict[str, Any], code: str, text: str
) -> None:
    found = judge(repeats.arms(**told), GATES)

    assert text in said(found)[code]
    assert found.verdict is Verdict.PASS


def test_an_arm_of_two_models_is_said(repeats: Any) -> None:
    first, second = repeats.arms()
    runs = (replace(second.runs[0], model="other"), *second.runs[1:])

    assert (
        "differ in their model: m, other"
        in said(judge([first, replace(second, runs=runs)], GATES))["MIXED_ARM"]
    )


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (
            {"never_sent": 40, "planned": 540, "ended_by": "interrupt"},
            "interrupt, 40 of 540 never sent",
        ),
        ({"complete": False}, "killed after 450 requests"),
        ({"ended_by": "max_cost"}, "ended by max_cost after 450 requests"),
    ],
)
def test_a_run_that_ended_early_lets_nothing_pass(
    repeats: Any, told: dict[str, Any], text: str
) -> None:
    """All runs are compared on what it holds, which is not the trace."""
    first, second = repeats.arms()
    part = {name: column[:450] for name, column in second.runs[0].columns.items()}
    short = repeats.run(part, second.started_ns[0], **told)
    equal = judge([first, replace(second, runs=(short, *second.runs[1:]))], GATES)

    assert text in said(equal)["PARTIAL_RUN"]
    assert (
        "450 requests are in every run and compared, of 500 in any"
        in said(equal)["PARTIAL_OVERLAP"]
    )
    assert {row.reason for row in equal.rows} == {"PARTIAL_RUN"}
    assert equal.rows[0].comparison.n_baseline == 5 * 450


def test_a_failing_gate_fails_though_a_run_is_partial(repeats: Any) -> None:
    first, slower = repeats.arms(1.5)
    runs = tuple(
        replace(run, run=replace(run.run, totals={**run.run.totals, "ended_by": "interrupt"}))
        for run in slower.runs
    )

    assert judge([first, replace(slower, runs=runs)], GATES).verdict is Verdict.FAIL


def test_warm_up_is_the_same_everywhere_and_counted(repeats: Any) -> None:
    found = judge(repeats.arms(spoil=lambda one: one["warmup"].__setitem__(slice(8), True)), GATES)

    assert said(found)["WARMUP"].startswith("8 requests are left out of every run")
    assert found.n == 492
    assert found.verdict is Verdict.PASS


def test_a_killed_replay_beside_the_runs_is_not_passed_over(repeats: Any) -> None:
    first, second = repeats.arms()
    left = replace(second, unfinished=(Path("B-6.run.part"),))

    assert "B-6.run.part" in said(judge([first, left], GATES))["UNFINISHED_RUN"]


def test_a_limit_that_is_kept_by_failing_the_slow_does_not_pass(repeats: Any) -> None:
    """With its failures as the slowest requests the p95 would miss it."""

    def fail(found: dict[str, Any]) -> None:
        slow = np.argsort(found["first_token"] - found["sent"])[::-1]
        found["outcome"][slow[:50]] = "http_error"

    found = judge(repeats.arms(spoil=fail), parse_gates(None, ["ttft:p95<=210ms"]))

    assert "SURVIVOR_BIAS" in said(found)
    assert found.verdict is Verdict.INCONCLUSIVE


def test_with_several_candidates_a_caution_names_its_own(repeats: Any) -> None:
    first, same = repeats.arms()
    _, longer = repeats.arms(spoil=setting(output_tokens=23))
    third = Replicates(name="C", runs=longer.runs)
    found = judge([first, same, third], GATES)

    assert said(found)["OUTPUT_LENGTH_DIFFERS"].startswith("C: the candidate's answers")
    assert found.cautions["B"] == ()


def test_a_wait_for_the_valve_is_not_the_clients_lateness(repeats: Any) -> None:
    """A slower server fills --max-in-flight; what then waits is its latency, not a reason to refuse."""

    def held(found: dict[str, Any]) -> None:
        found["sent"] = found["due"] + 0.009
        found["held"] = np.full(len(found["id"]), 0.009)

    assert "INVALID_COMPARISON" not in said(judge(repeats.arms(spoil=held), GATES))


def in_order(arms: tuple[Replicates, Replicates], order: str, **header: Any) -> list[Replicates]:
    """The arms with their runs begun in this order, as `ABBAAB` says."""
    left = {"A": iter(arms[0].runs), "B": iter(arms[1].runs)}
    runs: dict[str, list[Arm]] = {"A": [], "B": []}
    for at, name in enumerate(order):
        arm = next(left[name])
        run = replace(arm.run, header={**arm.run.header, "wall_ns": at + 1, **header})
        runs[name].append(replace(arm, run=run))
    return [Replicates(name=name, runs=tuple(own)) for name, own in runs.items()]


@pytest.mark.parametrize(
    ("order", "first"),
    [
        ("ABABAB", "A went first in 3 of 3 pairs of runs, B in 0"),
        ("BABABAABBA", "A went first in 1 of 5 pairs of runs, B in 4"),
        ("ABBAABBA", None),
        ("ABBAAB", None),
    ],
)
def test_an_arm_that_went_first_oftener_decides_nothing(
    repeats: Any, order: str, first: str | None
) -> None:
    """What slows every second run falls on one arm, and looks like a difference between servers."""
    found = judge(in_order(repeats.arms(2.0, len(order) // 2), order), GATES)

    if first is None:
        assert found.verdict is Verdict.FAIL
    else:
        assert first in said(found)["UNBALANCED_ORDER"]
        assert {row.reason for row in found.rows} == {"UNBALANCED_ORDER"}


def test_arms_that_ran_at_once_have_no_order(repeats: Any) -> None:
    """The runs of a duet begin within a moment of each other, the first arm's always first."""
    duet = in_order(repeats.arms(2.0, 3), "ABABAB", experiment={"schedule": "duet"})

    assert judge(duet, GATES).verdict is Verdict.FAIL
