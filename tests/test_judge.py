"""Gates on repeated runs: what they mean, when they refuse, and how often they are wrong."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.arms import Arm
from analysis.comparison import Verdict
from analysis.gate import Gate, parse_gate, parse_gates, parse_margin
from analysis.judge import Judgement, judge
from analysis.replicates import Replicates, interleaved
from analysis.report.judgement import judgement_json, judgement_text
from analysis.welch import difference, holm
from capture.errors import InputError
from replay.columns import NUMBERS, Column
from replay.runfile import Run, RunWriter, recount
from replay.sample import Sample

TURNS = ((0, 1), (1, 0), (0, 1), (1, 0), (0, 1))
"""Which arm begins each pair."""


def columns(n: int, seed: int, factor: float) -> dict[str, Column]:
    """So many streamed requests with lognormal latencies times `factor`."""
    random = np.random.default_rng(seed)
    absent = {"f": np.nan, "i": -1, "b": False}
    found = {name: np.full(n, absent[np.dtype(kind).kind], kind) for name, kind in NUMBERS.items()}
    found["index"], found["cycle"] = np.arange(n), np.zeros(n, int)
    found["due"] = found["sent"] = np.arange(n) * 0.1
    found["first_token"] = found["sent"] + np.exp(random.normal(size=n) * 0.3 - 2) * factor
    found["last_token"] = found["end"] = found["first_token"] + 0.5 * factor
    found["output_tokens"] = found["token_events"] = np.full(n, 20)
    found["held"] = found["connect"] = np.zeros(n)
    found["stream"] = np.ones(n, bool)
    found["warmup"] = np.zeros(n, bool)
    found["status"] = np.full(n, 200)
    found["outcome"] = np.full(n, "ok", dtype=object)
    found["id"] = np.array([f"r{i}" for i in range(n)], dtype=np.dtypes.StringDType())
    return found


def run(found: dict[str, Column], started: int, source: str = "trace-1", **totals: Any) -> Arm:
    whole = {**recount(found), **totals}
    return Arm(
        kind="run",
        name="a",
        run=Run(
            Path(f"{started}-{id(found)}.run"), {"wall_ns": started}, found, whole, complete=True
        ),
        source=source,
        model="m",
        target=None,
        pacing="as recorded",
        as_recorded=True,
        token_gaps=lambda: (np.zeros(len(found["id"]) + 1, int), np.zeros(0)),
    )


def experiment(
    factor: float = 1.0,
    repeats: int = 5,
    *,
    turns: bool = True,
    noise: float = 0.01,
    spoil: Callable[[dict[str, Column]], None] = lambda _: None,
) -> tuple[Replicates, Replicates]:
    """Two arms of 500 requests a run, the second slower by `factor`; runs differ by `noise`."""
    random = np.random.default_rng(5)
    arms: tuple[list[Arm], list[Arm]] = ([], [])
    for pair in range(repeats):
        order = TURNS[pair % 5]
        for place, which in enumerate(order):
            offset = float(np.exp(random.normal() * noise))
            found = columns(500, seed=10 * pair + which, factor=offset * (factor if which else 1.0))
            if which:
                spoil(found)
            at = 2 * pair + place if turns else which * 100 + pair
            arms[which].append(run(found, at))
    first, second = (
        Replicates(name=name, runs=tuple(sorted(one, key=lambda arm: arm.run.header["wall_ns"])))
        for name, one in zip("AB", arms, strict=True)
    )
    return first, second


def verdicts(found: Judgement) -> dict[str, str]:
    return {row.gate.text: row.comparison.verdict.value for row in found.rows}


def codes(found: Judgement) -> set[str]:
    return {caution.code for caution in found.warnings}


def test_welch_is_welchs() -> None:
    """Golden case G11: ratio, interval, degrees of freedom."""
    found = difference(
        [math.log(x) for x in (1.0, 1.02, 0.98)], [math.log(x) for x in (1.03, 1.05, 1.04)]
    )

    assert math.exp(found.value) == pytest.approx(1.0401066, abs=1e-6)
    assert found.value / found.se == pytest.approx(3.0688154142, abs=1e-6)
    assert found.df == pytest.approx(2.8774847, abs=1e-6)
    assert math.exp(found.low) == pytest.approx(0.9975469, abs=1e-6)
    assert math.exp(found.high) == pytest.approx(1.0844822, abs=1e-6)
    assert 2 * found.worse(0.0) == pytest.approx(0.0576809, abs=1e-6)


def test_holm_is_holms() -> None:
    """Golden case G9."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("ttft:p95:5%", Gate(metric="ttft", quantile=0.95, margin=0.05)),
        ("e2e:p99.9:10%", Gate(metric="e2e", quantile=0.999, margin=0.1)),
        ("errors:0.5pp", Gate(metric="errors", quantile=None, margin=0.005)),
    ],
)
def test_a_gate_is_read_and_written(text: str, gate: Gate) -> None:
    """Metric, quantile and margin; errors in points."""
    found = parse_gate(text)

    assert (found.metric, found.quantile, found.margin) == pytest.approx(
        (gate.metric, gate.quantile, gate.margin)
    )
    assert found.text == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttft", "write it as"),
        ("speed:p50:5%", "no metric speed"),
        ("ttft:5%", "needs a quantile"),
        ("ttft:p95:5pp", "needs a quantile and per cent"),
        ("errors:5%", "margin in points"),
        ("ttft:p0:5%", "between p0 and p100"),
        ("ttft:p100:5%", "between p0 and p100"),
        ("ttft:p95:0%", "above 0"),
        ("ttft:p9.9.9:5%", "no number"),
        ("output_tokens:p50:5%", "neither more nor less"),
    ],
)
def test_a_bad_gate_is_one_line(text: str, said: str) -> None:
    """It says what is wrong, and the right form where there is one."""
    with pytest.raises(InputError, match=said):
        parse_gate(text)


def test_a_margin_is_four_gates_and_one_that_is_named_replaces_its_own() -> None:
    """TTFT and end to end, at the median and the p95."""
    gates = parse_gates("5%", ["ttft:p95:20%", "errors:1pp"])

    assert [gate.text for gate in parse_margin("5%")] == [
        "ttft:p50:5%",
        "ttft:p95:5%",
        "e2e:p50:5%",
        "e2e:p95:5%",
    ]
    assert [gate.text for gate in gates] == [
        "ttft:p50:5%",
        "e2e:p50:5%",
        "e2e:p95:5%",
        "ttft:p95:20%",
        "errors:1pp",
    ]
    with pytest.raises(InputError, match="--margin"):
        parse_margin("0.05")


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


def test_equal_arms_pass_and_a_slower_one_fails() -> None:
    """At a margin of 10 %: no change passes, 30 % more fails, and every row says so."""
    same = judge(experiment(), parse_margin("10%"))
    slower = judge(experiment(1.3), parse_margin("10%"))

    assert (same.verdict, set(verdicts(same).values())) == (Verdict.PASS, {"PASS"})
    assert slower.verdict is Verdict.FAIL
    assert verdicts(slower)["e2e:p50:10%"] == "FAIL"
    assert slower.rows[0].comparison.ratio == pytest.approx(1.3, rel=0.1)


def test_a_change_at_the_margin_decides_nothing() -> None:
    """Neither bound excludes it."""
    found = judge(experiment(1.1, repeats=3, noise=0.06), parse_gates(None, ["ttft:p50:10%"]))

    assert found.verdict is Verdict.INCONCLUSIVE


def test_arms_that_did_not_take_turns_are_not_decided() -> None:
    """However large the change: it may be the hour's."""
    found = judge(experiment(2.0, turns=False), parse_margin("5%"))

    assert found.verdict is Verdict.INCONCLUSIVE
    assert codes(found) == {"NOT_INTERLEAVED"}
    assert {row.reason for row in found.rows} == {"NOT_INTERLEAVED"}
    assert found.rows[0].comparison.ratio is not None


def test_two_runs_are_too_few() -> None:
    """No interval is shown for them."""
    found = judge(experiment(2.0, repeats=2), parse_margin("5%"))

    assert found.verdict is Verdict.INCONCLUSIVE
    assert codes(found) == {"TOO_FEW_RUNS"}
    assert found.rows[0].comparison.ratio is None


def test_a_run_that_does_not_count_makes_the_verdict_invalid() -> None:
    """Its client was the limit, or it lost requests."""
    first, second = experiment()
    bad = run(columns(500, 1, 1.0), 10**6, lost_workers=["worker 1 was killed by SIGKILL"])
    spoilt = Replicates(name="B", runs=(*second.runs[:-1], bad))

    assert judge([first, spoilt], parse_margin("5%")).verdict is Verdict.INVALID


def test_runs_of_different_traces_are_refused() -> None:
    """Their requests are not the same."""
    first, second = experiment()
    other = Replicates(
        name="B", runs=(run(columns(500, 1, 1.0), 1, source="trace-2"), *second.runs)
    )

    with pytest.raises(InputError, match="different traces"):
        judge([first, other], parse_margin("5%"))


def test_quantiles_with_too_few_requests_are_dropped_or_refused() -> None:
    """The usual ones are dropped, one that was asked for is INCONCLUSIVE and says the n."""
    first, second = experiment()
    found = judge([first, second], parse_gates("10%", ["ttft:p99:10%"]))

    assert verdicts(found)["ttft:p99:10%"] == "INCONCLUSIVE"
    assert "2,000" in (found.rows[-1].reason or "")
    assert found.verdict is Verdict.INCONCLUSIVE


def _fail(share: float) -> Callable[[dict[str, Column]], None]:
    def spoil(found: dict[str, Column]) -> None:
        slow = np.argsort(found["first_token"] - found["sent"])[::-1]
        found["outcome"][slow[: int(share * len(slow))]] = "http_error"

    return spoil


def test_errors_are_a_gate_of_their_own() -> None:
    """Five points more fail a gate of one; none anywhere passes where there are enough requests."""
    gates = parse_gates(None, ["errors:1pp"])
    none = judge(experiment(), gates)
    more = judge(experiment(spoil=_fail(0.05)), gates)
    strict = judge(experiment(), parse_gates(None, ["errors:0.1pp"]))

    assert none.verdict is Verdict.PASS
    assert more.verdict is Verdict.FAIL
    assert more.rows[0].comparison.ratio == pytest.approx(0.05)
    assert strict.verdict is Verdict.INCONCLUSIVE
    assert "may hide" in (strict.rows[0].reason or "")


def test_failing_the_slow_requests_does_not_pass() -> None:
    """A server that looks faster since it fails a fifth of its requests is not called so."""
    found = judge(experiment(spoil=_fail(0.2)), parse_gates(None, ["ttft:p95:5%"]))

    assert "SURVIVOR_BIAS" in codes(found)
    assert found.verdict is Verdict.INCONCLUSIVE


def _time_out(found: dict[str, Column]) -> None:
    found["outcome"][::4] = "timeout"


def test_a_quantile_among_the_timeouts_of_every_run_fails() -> None:
    """It has become longer than anyone waited."""
    found = judge(experiment(spoil=_time_out), parse_gates(None, ["ttft:p95:5%"]))

    assert found.verdict is Verdict.FAIL
    assert found.rows[0].comparison.ratio is None


@pytest.mark.parametrize("repeats", [3, 5])
def test_wrong_verdicts_are_rare(repeats: int) -> None:
    """A truth at the margin passes or fails at most as often as said; run offsets of 3 %, four gates."""
    random = np.random.default_rng(1)
    margin, trials = math.log(1.05), 4000
    passes = fails = 0
    for _ in range(trials):
        first, second = random.normal(0, 0.03, repeats), random.normal(margin, 0.03, repeats)
        found = difference(first.tolist(), second.tolist())
        passes += found.most < margin
        fails += found.worse(margin) < 0.05

    assert passes / trials <= 0.06
    assert fails / trials <= 0.06


@given(
    st.lists(st.floats(0.1, 10), min_size=3, max_size=8),
    st.lists(st.floats(0.1, 10), min_size=3, max_size=8),
)
def test_swapping_the_arms_inverts_the_ratio(first: list[float], second: list[float]) -> None:
    """And its interval."""
    there = difference(np.log(first).tolist(), np.log(second).tolist())
    back = difference(np.log(second).tolist(), np.log(first).tolist())

    assert back.value == pytest.approx(-there.value, abs=1e-12)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-9)


def test_what_is_printed() -> None:
    """The verdict in the first line, a row for each gate, the figures of the JSON."""
    found = judge(experiment(1.3), parse_gates("10%", ["errors:1pp"]))
    text = "\n".join(judgement_text(found))
    said = judgement_json(found)

    assert text.startswith("FAIL: ")
    assert all(row["gate"] in text for row in said["comparisons"])
    assert said["verdict"] == "FAIL"
    assert said["comparisons"][0]["runs"] == [5, 5]
    assert len(said["comparisons"][0]["baseline_runs"]) == 5
    assert said["comparisons"][-1]["difference"] == 0.0


def test_a_gate_ends_with_its_verdicts_exit_code(
    tmp_path: Path, tbench: Callable[..., Any]
) -> None:
    """PASS 0, FAIL 1, INCONCLUSIVE 3; bad usage 2; and JSON that says the same."""
    for pair in range(3):
        for place, arm in enumerate("AB" if pair % 2 else "BA"):
            wall = 10**18 + (2 * pair + place) * 10**9
            slow = {"A": 1.0, "B": 1.5}[arm] * (1 + 0.002 * pair)
            write_run(tmp_path / f"{arm}-{pair}.run", wall, slow)
    told = ("--gate", "e2e:p50:10%")

    assert tbench("compare", "A-*.run", "A-*.run", *told).code == 2
    assert tbench("compare", "A-0.run", "B-0.run", *told).code == 3
    assert tbench("compare", "A-*.run", "B-*.run", *told).code == 1
    assert tbench("compare", "B-*.run", "A-*.run", *told).code == 0
    assert tbench("compare", "A-*.run", "B-*.run", "--gate", "e2e").code == 2
    assert tbench("compare", "C-*.run", "B-*.run", *told).code == 2
    said = tbench("compare", "A-*.run", "B-*.run", *told, "--json")
    assert json.loads(said.out)["verdict"] == "FAIL"
    assert json.loads(said.out)["comparisons"][0]["runs"] == [3, 3]


def write_run(path: Path, wall_ns: int, slow: float) -> None:
    """A run of 200 requests, all as slow as that."""
    header = {"wall_ns": wall_ns, "trace": {"capture_id": "t"}, "pacing": {"open_loop": True}}
    writer = RunWriter(path, header, clock=lambda: 0.0)
    for index in range(200):
        at, took = index * 0.1, slow * (1 + index % 7 / 10)
        writer.add(
            Sample(
                id=f"r{index}",
                index=index,
                endpoint="chat",
                model="m",
                stream=True,
                due=at,
                sent=at,
                first_token=at + took / 2,
                last_token=at + took,
                end=at + took,
                status=200,
                output_tokens=9,
                token_times=(at + took / 2, at + took),
            )
        )
    counts = {"planned": 200, "completed": 200, "failed": 0, "cancelled": 0}
    writer.close({**counts, "lost_in_flight": 0, "never_sent": 0, "warmup_s": 0.0})


def test_every_candidate_is_held_against_the_first_arm() -> None:
    first, same = experiment()
    _, slower = experiment(1.3)
    found = judge([first, same, replace(slower, name="C")], parse_gates(None, ["ttft:p50:10%"]))

    assert {row.arm: row.comparison.verdict.value for row in found.rows} == {
        "B": "PASS",
        "C": "FAIL",
    }
    assert found.verdict is Verdict.FAIL
