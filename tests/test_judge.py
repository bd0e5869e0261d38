"""Gates on repeated runs: what they mean, when they refuse, and how often they are wrong."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.abtest.board import spread_text
from tbench.analysis.arms import Replicates, interleaved
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import parse_gates, parse_margin
from tbench.analysis.gate_results import GateResults, GateRow, evaluate_gates
from tbench.analysis.report.ci import judgement_markdown
from tbench.analysis.report.gate_sentences import sides, to_decide
from tbench.analysis.report.machine import judgement_json
from tbench.analysis.report.text import judgement_text
from tbench.analysis.run_metrics import parse_slo
from tbench.capture.errors import InputError
from tbench.replay.columns import Column

SLO = parse_slo("ttft<500ms,e2e<2s")


def verdicts(found: GateResults) -> dict[str, str]:
    return {row.gate.text: row.comparison.verdict.value for row in found.rows}


def latencies(found: GateResults) -> list[GateRow]:
    """The rows without that of failures."""
    return [row for row in found.rows if row.gate.quantile is not None]


def codes(found: GateResults) -> set[str]:
    return {caution.code for caution in found.warnings}


@given(st.lists(st.booleans(), min_size=1, max_size=10))
def test_pairs_in_any_order_take_turns_and_blocks_do_not(order: list[bool]) -> None:
    """AB BA AB ... is interleaved whoever begins; AAA BBB is not."""
    first = [2 * i + flip for i, flip in enumerate(order)]
    second = [2 * i + (not flip) for i, flip in enumerate(order)]

    assert interleaved(first, second)
    assert interleaved(second, first)
    if len(order) > 1:
        blocks = list(range(len(order)))
        assert not interleaved(blocks, [at + 100 for at in blocks])
        assert not interleaved(first, second[:-1])


def test_equal_arms_pass_and_a_slower_one_fails(repeats: Any) -> None:
    """At a margin of 10 %: no change passes, 30 % more fails, and every row says so."""
    same = evaluate_gates(repeats.arms(), parse_margin("10%"))
    slower = evaluate_gates(repeats.arms(1.3), parse_margin("10%"))

    assert same.verdict is Verdict.PASS
    assert verdicts(same).pop("errors:0.5pp") == "SKIPPED", (
        "2,500 requests cannot show half a point"
    )
    assert set(list(verdicts(same).values())[:-1]) == {"PASS"}
    assert slower.verdict is Verdict.FAIL
    assert verdicts(slower)["e2e:p50:10%"] == "FAIL"
    assert slower.rows[0].comparison.ratio == pytest.approx(1.3, rel=0.1)


def test_a_change_at_the_margin_decides_nothing(repeats: Any) -> None:
    """Neither bound excludes it."""
    found = evaluate_gates(
        repeats.arms(1.1, repeats=3, noise=0.06), parse_gates(None, ["ttft:p50:10%"])
    )

    assert found.verdict is Verdict.INCONCLUSIVE


def test_arms_that_did_not_take_turns_are_not_decided(repeats: Any) -> None:
    """However large the change: it may be the hour's."""
    found = evaluate_gates(repeats.arms(2.0, turns=False), parse_margin("5%"))

    assert found.verdict is Verdict.INCONCLUSIVE
    assert codes(found) == {"NOT_INTERLEAVED"}
    assert {row.reason for row in latencies(found)} == {"NOT_INTERLEAVED"}
    assert found.rows[0].comparison.ratio is not None


def test_two_runs_are_too_few(repeats: Any) -> None:
    """No interval is shown for them."""
    found = evaluate_gates(repeats.arms(2.0, repeats=2), parse_margin("5%"))

    assert found.verdict is Verdict.INCONCLUSIVE
    assert codes(found) == {"TOO_FEW_RUNS"}
    assert found.rows[0].comparison.ratio is None


def test_a_run_that_does_not_count_makes_the_verdict_invalid(repeats: Any) -> None:
    """Its client was the limit, or it lost requests."""
    first, second = repeats.arms()
    bad = repeats.run(
        repeats.columns(500, 1, 1.0),
        10**6,
        lost_workers=["worker 1 was killed by SIGKILL"],
        never_sent=1,
    )
    spoilt = Replicates(name="B", runs=(*second.runs[:-1], bad))

    assert evaluate_gates([first, spoilt], parse_margin("5%")).verdict is Verdict.INVALID


def test_runs_of_different_traces_are_refused(repeats: Any) -> None:
    """Their requests are not the same."""
    first, second = repeats.arms()
    other = Replicates(
        name="B",
        runs=(repeats.run(repeats.columns(500, 1, 1.0), 1, source="trace-2"), *second.runs),
    )

    with pytest.raises(InputError, match="different traces"):
        evaluate_gates([first, other], parse_margin("5%"))


def test_quantiles_with_too_few_requests_are_dropped_or_refused(repeats: Any) -> None:
    """The usual ones are dropped, one that was asked for is INCONCLUSIVE and says the n."""
    first, second = repeats.arms()
    found = evaluate_gates([first, second], parse_gates("10%", ["ttft:p99:10%"]))

    assert verdicts(found)["ttft:p99:10%"] == "INCONCLUSIVE"
    assert "2,000" in (found.rows[-1].reason or "")
    assert sides(found.rows[-1]) == ("-", "-"), "neither arm's is known"
    assert found.verdict is Verdict.INCONCLUSIVE


def _fail(share: float) -> Callable[[dict[str, Column]], None]:
    def spoil(found: dict[str, Column]) -> None:
        slow = np.argsort(found["first_token"] - found["sent"])[::-1]
        found["outcome"][slow[: int(share * len(slow))]] = "http_error"

    return spoil


def test_errors_are_a_gate_of_their_own(repeats: Any) -> None:
    """Five points more fail a gate of one; none anywhere passes where there are enough requests."""
    gates = parse_gates(None, ["errors:1.5pp"])
    none = evaluate_gates(repeats.arms(), gates)
    more = evaluate_gates(repeats.arms(spoil=_fail(0.05)), gates)
    strict = evaluate_gates(repeats.arms(), parse_gates(None, ["errors:0.1pp"]))

    assert none.verdict is Verdict.PASS
    assert more.verdict is Verdict.FAIL
    assert more.rows[0].comparison.ratio == pytest.approx(0.05)
    assert strict.verdict is Verdict.INCONCLUSIVE
    assert "may hide" in (strict.rows[0].reason or "")


def test_failing_the_slow_requests_does_not_pass(repeats: Any) -> None:
    """A server that looks faster since it fails a fifth of its requests is not called so."""
    found = evaluate_gates(repeats.arms(spoil=_fail(0.2)), parse_gates(None, ["ttft:p95:5%"]))

    assert "SURVIVOR_BIAS" in codes(found)
    assert found.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("factor", "counted", "named"),
    [(4, 4000, False), (4, 1000, True), (4, -1, True), (2, 1000, False)],
)
def test_a_phase_of_long_prompts_is_no_queue(
    repeats: Any, factor: int, counted: int, named: bool
) -> None:
    """The second half of the requests waits longer: for prompts that are as much longer, or for nothing."""

    def later(found: dict[str, Column]) -> None:
        half = np.arange(500) >= 250
        more = np.where(half, (found["first_token"] - found["sent"]) * (factor - 1), 0)
        for name in ("first_token", "first_answer", "last_token", "end"):
            found[name] = found[name] + more
        found["prompt_tokens"] = np.where(half, counted, 1000)

    found = evaluate_gates(repeats.arms(spoil=later), parse_gates(None, ["ttft:p50:5%"]))

    assert ("LOAD_DOMINATED" in codes(found)) == named


def _time_out(found: dict[str, Column]) -> None:
    found["outcome"][::4] = "timeout"


def test_a_quantile_among_the_timeouts_of_every_run_fails(repeats: Any) -> None:
    """It has become longer than anyone waited."""
    found = evaluate_gates(repeats.arms(spoil=_time_out), parse_gates(None, ["ttft:p95:5%"]))

    assert found.verdict is Verdict.FAIL
    assert found.rows[0].comparison.ratio is None


def test_what_is_printed(repeats: Any) -> None:
    """The verdict in the first line, a row for each gate, the figures of the JSON."""
    found = evaluate_gates(repeats.arms(1.3), parse_gates("10%", ["errors:1pp"]))
    text = "\n".join(judgement_text(found))
    said = judgement_json(found)
    assert str(found) == text
    assert len(repr(found)) < 200

    assert text.startswith("FAIL: ")
    assert all(
        any(line.startswith(f"{label} ") for line in text.splitlines())
        for label in ("TTFT p50", "TTFT p95", "E2E p50", "E2E p95", "errors")
    )
    assert said["verdict"] == "FAIL"
    assert said["comparisons"][0]["runs"] == [5, 5]
    assert len(said["comparisons"][0]["baseline_runs"]) == 5
    assert said["comparisons"][-1]["difference"] == 0.0


@pytest.mark.parametrize(
    ("third", "schedule", "turns"), [(False, None, 2), (True, None, 3), (False, "duet", 1)]
)
def test_an_open_verdict_says_how_many_runs_would_settle_it(
    repeats: Any, third: bool, schedule: str | None, turns: int
) -> None:
    """Equal arms whose interval holds the margin: more runs than there were, their time, which gate."""
    others = [replace(repeats.arms(noise=0.1)[1], name="C")] if third else []
    arms = (*repeats.arms(noise=0.1), *others)
    for run in (run for arm in arms for run in arm.runs):
        run.run.header["experiment"] = {"schedule": schedule}
    found = evaluate_gates(arms, parse_gates(None, ["ttft:p50:5%", "errors:1pp"]))
    line, *_ = to_decide(found, {arm.name: arm.name for arm in found.arms})
    seen = re.match(r"(\d+) runs each \((\d+) (min|h)\) would decide TTFT p50.* in 8 of 10", line)
    assert seen is not None, line
    runs, time, unit = int(seen[1]), int(seen[2]), {"min": 60, "h": 3600}[seen[3]]

    assert found.rows[0].comparison.verdict is Verdict.INCONCLUSIVE
    assert runs > 5
    assert time * unit == pytest.approx(turns * runs * 52, abs=unit), "500 requests, 0.1 s apart"
    assert f"to decide  {line[:40]}" in "\n".join(judgement_text(found))
    assert line[:40] in judgement_markdown(found)
    decided = evaluate_gates(repeats.arms(1.3), parse_gates("10%", ["errors:1pp"]))
    assert not list(to_decide(decided, {arm.name: arm.name for arm in decided.arms}))


@pytest.mark.parametrize(("stream_s", "more"), [(0.0, False), (9.0, True)])
def test_no_number_of_runs_passes_a_rate_that_the_arrivals_set(
    repeats: Any, stream_s: float, more: bool
) -> None:
    """Only a fall shows: answers that outlast the trace, which some runs of the candidate have."""

    def spoil(columns: dict[str, Any]) -> None:
        if columns["first_token"][0] % 0.02 < 0.01:
            for name in ("last_token", "end"):
                columns[name][-1] += stream_s

    found = evaluate_gates(repeats.arms(spoil=spoil), parse_gates(None, ["requests_per_s:5%"]))

    assert found.rows[0].comparison.verdict is Verdict.INCONCLUSIVE
    assert bool(list(to_decide(found, {arm.name: arm.name for arm in found.arms}))) == more


def test_what_requests_explain_is_unknown_where_one_burst_holds_the_tail(repeats: Any) -> None:
    """All extremes of a p95 in a sixtieth of the run: its own blocks bound nothing, which is no `inf%`."""

    def burst(columns: dict[str, Any]) -> None:
        slow = slice(len(columns["sent"]) // 2, len(columns["sent"]) // 2 + 40)
        for name in ("first_token", "last_token", "end"):
            columns[name][slow] += 9.0

    found = evaluate_gates(repeats.arms(spoil=burst), parse_gates(None, ["ttft:p95:10%"]))
    (line,) = spread_text(found)

    assert re.search(r"TTFT p95: between-run CV \d+\.\d%, within-run unknown$", line)


def test_every_candidate_is_held_against_the_first_arm(repeats: Any) -> None:
    first, same = repeats.arms()
    _, slower = repeats.arms(1.3)
    found = evaluate_gates(
        [first, same, replace(slower, name="C")], parse_gates(None, ["ttft:p50:10%"])
    )

    assert {row.arm: row.comparison.verdict.value for row in found.rows} == {
        "B": "PASS",
        "C": "FAIL",
    }
    assert found.verdict is Verdict.FAIL


@pytest.mark.parametrize("candidates", ["B", "BCD"])
def test_the_text_fits_and_names_every_candidate(repeats: Any, candidates: str) -> None:
    """At most 100 columns, a verdict for each of several candidates, its reasons under the rows."""
    told = {"model": "a/model-of-a-very-long-name-indeed/" + "x" * 60}
    first, _ = repeats.arms()
    others = [replace(repeats.arms(1.1, **told)[1], name=name) for name in candidates]
    gates = parse_gates("10%", ["output_tokens_per_s:p50:5%", "ttft:p99:10%", "goodput>=97%"], SLO)
    found = evaluate_gates([first, *others], gates)
    lines = list(judgement_text(found))

    assert max(map(len, lines)) <= 100
    assert sum(line.endswith("margin  result") for line in lines) == len(candidates)
    if len(candidates) > 1:
        assert all(any(line.startswith(f"{name}: ") for line in lines) for name in candidates)
    compared = f"compared   A 5 runs, {', '.join(f'{name} 5 runs' for name in candidates)}; "
    assert any(line.startswith(compared) for line in lines)
    assert any(line.startswith("    n too small (needs ≥ 2,000)") for line in lines)
