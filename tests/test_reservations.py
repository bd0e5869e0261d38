"""What to beware of in a judgement, with its numbers, and which of it forbids a verdict."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.analysis.arms import Arm, Replicates
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import GateResults, evaluate_gates
from tbench.analysis.report.text import judgement_text

GATES = parse_gates("10%", [])
Spoil = Callable[[dict[str, Any]], None]


def said(found: GateResults) -> dict[str, str]:
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
    assert said(evaluate_gates(repeats.arms(), GATES)) == {}


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
    ],
)
def test_an_imbalance_is_said_with_its_numbers_and_caps_nothing(
    repeats: Any, spoil: Spoil, code: str, text: str
) -> None:
    """The verdict is the arms' own; what else differs stands beside it."""
    found = evaluate_gates(repeats.arms(spoil=spoil), parse_gates(None, ["ttft:p50:10%"]))

    assert text in said(found)[code]
    assert found.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("cut", "text"), [("end_turn", None), ("max_tokens", "length 0% against 25%")]
)
def test_endings_are_told_apart_whatever_the_dialect(
    repeats: Any, cut: str, text: str | None
) -> None:
    """Messages says `end_turn` where chat says `stop`: that is no difference; what was cut is one."""

    def spoil(columns: dict[str, Any]) -> None:
        n = len(columns["id"])
        columns["endpoint"] = np.full(n, "messages")
        columns["finish_reason"] = np.where(np.arange(n) % 4 == 0, cut, "end_turn")

    cautions = said(evaluate_gates(repeats.arms(spoil=spoil), GATES))

    assert (text or "") in cautions.get("FINISH_REASONS_DIFFER", "")
    assert ("FINISH_REASONS_DIFFER" in cautions) is (text is not None)


def late(seconds: float) -> Spoil:
    """The client sends everything so much later than due; the server takes as long as ever."""

    def spoil(found: dict[str, Any]) -> None:
        for name in ("sent", "first_token", "last_token", "end"):
            found[name] = found[name] + seconds

    return spoil


def test_client_lag_explains_no_more_than_it_is(repeats: Any) -> None:
    """9 ms of lag beside a TTFT that is half as long again: the verdict stands, and says so."""
    found = evaluate_gates(repeats.arms(1.5, spoil=late(0.009)), parse_gates(None, ["ttft:p50:5%"]))
    (row,) = found.rows

    assert "lag p99 0.00 ms against 9.00 ms" in said(found)["CLIENT_LAG_DIFFERS"]
    assert found.verdict is Verdict.FAIL
    assert re.fullmatch(r"client lag can explain at most 9\.00 ms of 7\d\.\d ms", row.reason or "")


@pytest.mark.parametrize(
    ("gate", "verdict", "reason"),
    [
        ("ttft:p50:2%", "INCONCLUSIVE", "client lag can explain 9.00 ms of"),
        ("e2e_per_token:p50:10%", "PASS", None),
        ("ttft_sent:p50:10%", "PASS", None),
        ("tpot:p50:10%", "PASS", None),
        ("output_tokens_per_s:p50:10%", "PASS", None),
    ],
)
def test_a_difference_that_is_the_clients_own_does_not_fail(
    repeats: Any, gate: str, verdict: str, reason: str | None
) -> None:
    """Equal servers, 9 ms of lag: a TTFT of 135 ms looks 7 % longer. What has no lag in it is not touched."""
    found = evaluate_gates(repeats.arms(noise=0.002, spoil=late(0.009)), parse_gates(None, [gate]))
    (row,) = found.rows

    assert row.comparison.verdict.value == verdict
    assert (row.reason or "").startswith(reason or "")
    assert bool(row.reason) == bool(reason)


def test_lag_of_the_baseline_hides_no_loss(repeats: Any) -> None:
    """A candidate that is 6 % slower looks equal beside a baseline that the client sent 9 ms late."""
    plain, slower = repeats.arms(1.06, noise=0.002)
    _, lagging = repeats.arms(noise=0.002, spoil=late(0.009))
    baseline = replace(
        plain,
        runs=tuple(
            replace(own, run=replace(own.run, columns=late_run.columns))
            for own, late_run in zip(plain.runs, lagging.runs, strict=True)
        ),
    )
    (row,) = evaluate_gates([baseline, slower], parse_gates(None, ["ttft:p50:3%"])).rows

    assert row.comparison.verdict is Verdict.INCONCLUSIVE
    assert (row.reason or "").startswith("client lag can hide 9.00 ms")


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
    found = evaluate_gates(repeats.arms(**told), GATES)

    assert text in said(found)[code]
    assert found.verdict is Verdict.PASS


def test_an_arm_whose_turns_waited_was_under_less_load(repeats: Any) -> None:
    """The counts are those of all its runs."""
    late = np.where(np.arange(500) >= 440, 9.0, 0.0)

    def wait(columns: Any) -> None:
        for moment in ("due", "sent", "first_token", "last_token", "end"):
            columns[moment] = columns[moment] + late

    first, second = repeats.arms(spoil=wait)
    runs = (
        replace(run, run=replace(run.run, totals={**run.run.totals, "turns": {"waited": 60}}))
        for run in second.runs
    )

    found = evaluate_gates([first, replace(second, runs=tuple(runs))], GATES)
    assert said(found)["LOAD_DIFFERS"].startswith(
        "the candidate got less load: 300 of its turns waited for answers, 0 of the baseline's; "
        "its requests were due 1.08 s later"
    )


def test_an_arm_of_two_models_is_said(repeats: Any) -> None:
    first, second = repeats.arms()
    runs = (replace(second.runs[0], model="other"), *second.runs[1:])

    assert (
        "differ in their model: m, other"
        in said(evaluate_gates([first, replace(second, runs=runs)], GATES))["MIXED_ARM"]
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
    equal = evaluate_gates([first, replace(second, runs=(short, *second.runs[1:]))], GATES)

    assert text in said(equal)["PARTIAL_RUN"]
    assert (
        "450 requests are in every run and compared, of 500 in any"
        in said(equal)["PARTIAL_OVERLAP"]
    )
    assert {row.reason for row in equal.rows[:-1]} == {"PARTIAL_RUN"}
    assert equal.rows[0].comparison.n_baseline == 5 * 450


def test_a_failing_gate_fails_though_a_run_is_partial(repeats: Any) -> None:
    first, slower = repeats.arms(1.5)
    runs = tuple(
        replace(run, run=replace(run.run, totals={**run.run.totals, "ended_by": "interrupt"}))
        for run in slower.runs
    )

    assert evaluate_gates([first, replace(slower, runs=runs)], GATES).verdict is Verdict.FAIL


def test_an_arm_sent_in_two_ways_is_told_of_in_both(repeats: Any) -> None:
    """Not by clauses, which belong to one of its pacings: `y` alone would differ from `y or x, y`."""
    first, second = repeats.arms(pacing="x; y")
    runs = [replace(run, pacing="x; y") for run in first.runs]
    mixed = replace(second, runs=(replace(second.runs[0], pacing="y; x"), *second.runs[1:]))
    text = said(evaluate_gates([replace(first, runs=tuple(runs)), mixed], GATES))[
        "DIFFERENT_PACING"
    ]

    assert text == "the arms were sent differently: x; y against y, x or x, y"


def test_warm_up_is_the_same_everywhere_and_counted(repeats: Any) -> None:
    found = evaluate_gates(
        repeats.arms(spoil=lambda one: one["warmup"].__setitem__(slice(8), True)), GATES
    )

    assert said(found)["WARMUP"].startswith("8 requests of every run left out")
    assert found.n == 492
    shown = "\n".join(judgement_text(found))
    assert "every run has; 8 requests of every run left out as warm-up" in " ".join(shown.split())
    assert "WARMUP" not in shown
    assert found.verdict is Verdict.PASS


def test_a_killed_replay_beside_the_runs_is_not_passed_over(repeats: Any) -> None:
    first, second = repeats.arms()
    left = replace(second, unfinished=(Path("B-6.run.part"),))

    assert "B-6.run.part" in said(evaluate_gates([first, left], GATES))["UNFINISHED_RUN"]


def test_a_limit_that_is_kept_by_failing_the_slow_does_not_pass(repeats: Any) -> None:
    """With its failures as the slowest requests the p95 would miss it."""

    def fail(found: dict[str, Any]) -> None:
        slow = np.argsort(found["first_token"] - found["sent"])[::-1]
        found["outcome"][slow[:50]] = "http_error"

    found = evaluate_gates(repeats.arms(spoil=fail), parse_gates(None, ["ttft:p95<=210ms"]))

    assert "SURVIVOR_BIAS" in said(found)
    assert found.verdict is Verdict.INCONCLUSIVE


def test_with_several_candidates_a_caution_names_its_own(repeats: Any) -> None:
    first, same = repeats.arms()
    _, longer = repeats.arms(spoil=setting(output_tokens=23))
    third = Replicates(name="C", runs=longer.runs)
    found = evaluate_gates([first, same, third], GATES)

    assert said(found)["OUTPUT_LENGTH_DIFFERS"].startswith("C: the candidate's answers")
    assert found.cautions["B"] == ()


def test_a_wait_for_the_valve_is_not_the_clients_lateness(repeats: Any) -> None:
    """A slower server fills --max-in-flight; what then waits is its latency, not a reason to refuse."""

    def held(found: dict[str, Any]) -> None:
        found["sent"] = found["due"] + 0.009
        found["held"] = np.full(len(found["id"]), 0.009)

    assert "CLIENT_LAG_DIFFERS" not in said(evaluate_gates(repeats.arms(spoil=held), GATES))


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
    found = evaluate_gates(in_order(repeats.arms(2.0, len(order) // 2), order), GATES)

    if first is None:
        assert found.verdict is Verdict.FAIL
    else:
        assert first in said(found)["UNBALANCED_ORDER"]
        assert {row.reason for row in found.rows[:-1]} == {"UNBALANCED_ORDER"}


def test_arms_that_ran_at_once_have_no_order(repeats: Any) -> None:
    """The runs of a duet begin within a moment of each other, the first arm's always first."""
    duet = in_order(repeats.arms(2.0, 3), "ABABAB", experiment={"schedule": "duet"})

    assert evaluate_gates(duet, GATES).verdict is Verdict.FAIL


def failing(every: int) -> Spoil:
    """Each so-many-th request is refused at once."""
    return some("outcome", "http_error", every)


@pytest.mark.parametrize("gates", [("5%", ()), (None, ("ttft:p50:10%",)), (None, ("e2e:p95:10%",))])
@pytest.mark.parametrize("every", [1, 2, 33])
def test_a_candidate_that_fails_more_never_passes(
    repeats: Any, gates: tuple[str | None, tuple[str, ...]], every: int
) -> None:
    """All, half, or 3 % of its requests, whatever is gated: what is left is no evidence."""
    arms = repeats.arms(0.9, noise=0.002, spoil=failing(every))
    found = evaluate_gates(arms, parse_gates(gates[0], gates[1]))

    assert found.verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE)
    assert not [r for r in found.rows if r.comparison.verdict is Verdict.PASS]
    if gates[0]:
        assert found.verdict is (Verdict.FAIL)


def test_one_failure_more_is_allowed_where_a_gate_says_so(repeats: Any) -> None:
    """3 % more failures with a margin of 20 points for them: the median passes as it would."""
    arms = repeats.arms(0.9, noise=0.002, spoil=failing(33))
    found = evaluate_gates(arms, parse_gates(None, ["ttft:p50:10%", "errors:20pp"]))

    assert [row.comparison.verdict.value for row in found.rows] == ["PASS", "PASS"]
    assert "FAILURES_ROSE" not in said(found)


def test_a_pass_holds_with_every_failure_as_the_slowest(repeats: Any) -> None:
    """Slower by 15 %, and the slowest 4 % fail: the p95 of the answers rises by 5 %. Both are printed."""

    def fail(found: dict[str, Any]) -> None:
        slow = np.argsort(found["first_token"] - found["sent"])[::-1]
        found["outcome"][slow[:20]] = "http_error"

    gates = parse_gates(None, ["ttft:p95:10%", "ttft:p50:25%", "errors:20pp"])
    found = evaluate_gates(repeats.arms(1.15, noise=0.002, spoil=fail), gates)
    rows = {row.gate.what: row for row in found.rows}

    assert rows["ttft:p95"].comparison.verdict is Verdict.INCONCLUSIVE
    assert (rows["ttft:p95"].reason or "").startswith(
        "with every failure as the slowest request: +"
    )
    assert re.search(r"ttft:p95:10%: \+[345]\.\d% and \+1[2-6]\.\d%", said(found)["SURVIVOR_BIAS"])
    assert "ttft:p50" not in said(found)["SURVIVOR_BIAS"]
    assert rows["ttft:p50"].comparison.verdict is Verdict.PASS
    assert rows["ttft:p50"].reason is None, "another gate's caution is not its own"


def test_equal_failures_of_both_arms_may_pass(repeats: Any) -> None:
    """1 % fail in either: the median passes."""
    first, second = repeats.arms(noise=0.002, spoil=failing(100))
    both = [
        replace(arm, runs=tuple(_failing_too(run) for run in arm.runs)) for arm in (first, second)
    ]

    assert evaluate_gates(both, parse_gates(None, ["ttft:p50:5%"])).verdict is Verdict.PASS


def _failing_too(arm: Arm) -> Arm:
    outcome = arm.columns["outcome"].copy()
    outcome[::100] = "http_error"
    return replace(arm, run=replace(arm.run, columns={**arm.columns, "outcome": outcome}))
