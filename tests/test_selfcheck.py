"""What equal arms show: spreads known exactly, splits that took turns, and what is said of them."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.__main__ import run as tbench
from tbench.analysis.arms import interleaved
from tbench.analysis.compare import CompareOptions
from tbench.analysis.gate import parse_gates
from tbench.analysis.power import margin_needed
from tbench.analysis.report.planning import self_check_json, self_check_text
from tbench.analysis.selfcheck import MOST_SPLITS, SelfCheck, balanced, self_check
from tbench.capture.errors import InputError
from tbench.replay.pacing import parse_warmup
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample

Repeated = Callable[..., Any]
HALF = CompareOptions(metrics=("ttft",), quantiles=(0.5,))
GATES = parse_gates("10%", [])
DOC = (Path(__file__).parent.parent / "docs" / "json.md").read_text()


def check(*arms: Any, question: CompareOptions = HALF) -> SelfCheck:
    return self_check(arms, question, GATES, np.random.default_rng(1))


def test_changes_are_those_between_all_runs(repeated: Repeated) -> None:
    """Runs that differ by a factor only: each pair's ratio, whichever way round, and the sd of their logs."""
    slow = [1.0, 1.10, 1.05, 0.96]

    (floor,) = check(repeated(slow, own=0.0)).floors

    known = sorted(max(a / b, b / a) - 1 for a, b in combinations(slow, 2))
    assert sorted(floor.changes) == pytest.approx(known)
    assert floor.median_change == pytest.approx((known[2] + known[3]) / 2)
    assert floor.largest_change == pytest.approx(1.10 / 0.96 - 1)
    assert floor.sd == pytest.approx(np.std(np.log(slow), ddof=1))
    assert floor.margin == pytest.approx(margin_needed(5, floor.sd or 0.0))


def test_runs_that_differ_by_their_requests_alone_are_covered(repeated: Repeated) -> None:
    """28 intervals: few miss 1, and nothing is warned of."""
    found = check(repeated([1.0] * 8))

    (floor,) = found.floors
    assert (found.pairs, len(floor.answered)) == (28, 28)
    assert floor.missed <= 4
    assert found.warnings == ()


def test_runs_that_differ_by_more_are_said_to(repeated: Repeated) -> None:
    """Offsets of 5 % between runs whose requests pin the median to half a per cent."""
    offsets = np.exp(np.random.default_rng(1).normal(size=6) * 0.05)

    found = check(repeated(offsets, own=0.1))

    (floor,) = found.floors
    assert floor.missed > 9
    assert [caution.code for caution in found.warnings] == ["RUNS_DIFFER"]


def test_arms_are_never_compared_with_each_other(repeated: Repeated) -> None:
    """A model twice as slow is no noise."""
    found = check(repeated([1.0, 1.0, 1.0]), repeated([2.0, 2.0], name="B"))

    (floor,) = found.floors
    assert found.pairs == 4
    assert floor.largest_change is not None
    assert floor.largest_change < 0.1


@pytest.mark.parametrize(
    ("runs", "splits"), [(5, 0), (6, 6), (7, 6), (8, 6), (12, 20), (20, MOST_SPLITS)]
)
def test_splits_take_turns_and_each_is_another(repeated: Repeated, runs: int, splits: int) -> None:
    """All ways of few runs, 64 of many; of each two neighbours one in either half."""
    halves = list(balanced(repeated([1.0] * runs, 64), np.random.default_rng(1)))

    assert len({tuple(run.name for run in first.runs) for first, _ in halves}) == splits
    for first, second in halves:
        assert len(first.runs) == len(second.runs) == runs // 2
        assert interleaved(first.started_ns, second.started_ns)
        assert not {run.name for run in first.runs} & {run.name for run in second.runs}


def test_the_gate_judges_the_splits(repeated: Repeated) -> None:
    """Quiet equal runs pass 10 % every time; runs 20 % apart hardly ever, and never fail all splits."""
    quiet = check(repeated([1.0] * 6, 500))
    wild = check(repeated(np.exp(np.random.default_rng(2).normal(size=6) * 0.2), 500))

    assert [one.gate.text for one in quiet.splits] == [gate.text for gate in GATES[:-1]], (
        "half a point of failures needs more"
    )
    assert quiet.split_runs == (3,)
    assert all(one.verdicts == {"PASS": 6} for one in quiet.splits)
    assert all(one.verdicts.get("INCONCLUSIVE", 0) >= 3 for one in wild.splits)
    assert all(sum(one.verdicts.values()) == one.count == 6 for one in wild.splits)


def test_the_splits_leave_out_the_same_warm_up(repeated: Repeated) -> None:
    """350 of 700 requests are left, too few for a gate on p95: `--warmup` holds for gates as for pairs."""
    arm = repeated([1.0] * 6, 700)

    def gates(warmup: str) -> list[str]:
        question = CompareOptions(metrics=("ttft",), quantiles=(0.5,), warmup=parse_warmup(warmup))
        return [splits.gate.what for splits in check(arm, question=question).splits]

    assert "ttft:p95" in gates("none")
    assert "ttft:p95" not in gates("50%")


def test_what_is_refused_says_why(repeated: Repeated) -> None:
    """p99 of 500 requests: no interval, how many it takes, and a median beside it."""
    both = CompareOptions(metrics=("ttft",), quantiles=(0.5, 0.99))

    found = check(repeated([1.0, 1.0], 500), question=both)
    text, said = "\n".join(self_check_text(found)), self_check_json(found)

    assert re.search(r"0/1 [ -]+n too small \(needs ≥ 2,000\)", text)
    assert said["floors"][1]["refused"] == 1
    assert said["floors"][1]["largest_change"] is said["floors"][1]["margin"] is None
    assert said["floors"][0]["refused"] == 0


def test_one_run_has_no_noise_floor(repeated: Repeated) -> None:
    """It takes two."""
    with pytest.raises(InputError, match="two or more"):
        check(repeated([1.0]))


def write_run(path: Path, wall: int) -> None:
    writer = RunWriter(path, {"wall_ns": wall, "trace": {"capture_id": "t"}}, clock=lambda: 0.0)
    noise = np.random.default_rng(wall).lognormal(sigma=0.2, size=400)
    for k, one in enumerate(noise.tolist()):
        at = k * 0.1
        writer.add(
            Sample(
                id=f"r{k}",
                index=k,
                endpoint="chat",
                model="m",
                stream=True,
                due=at,
                sent=at,
                first_token=at + one,
                last_token=at + 2 * one,
                end=at + 2 * one,
                status=200,
                output_tokens=9,
                token_times=(at + one, at + 2 * one),
            )
        )
    counts = {"planned": 400, "completed": 400, "failed": 0, "cancelled": 0}
    writer.close({**counts, "lost_in_flight": 0, "never_sent": 0, "warmup_s": 0.0})


def test_the_command_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As text and as JSON with documented keys; one run, a page and a missing candidate are bad usage."""
    monkeypatch.chdir(tmp_path)
    for wall in range(6):
        write_run(tmp_path / f"{wall}.run", wall)

    assert tbench(["compare", "*.run", "--self-check", "--metric", "ttft"]) == 0
    assert "6 runs, which should not differ" in capsys.readouterr().out
    assert tbench(["compare", ".", "--self-check", "--json", "--gate", "e2e:p50:20%"]) == 0
    said = json.loads(capsys.readouterr().out)
    known = set(re.findall(r"`(\w+)`", DOC))
    assert set().union(said, said["floors"][0], said["splits"][0], said["arms"][0]) <= known
    assert (said["pairs"], said["split_runs"]) == (15, [3])
    assert [one["gate"] for one in said["splits"]] == ["e2e:p50:20%"]
    for bad in (
        ["0.run", "--self-check"],
        ["*.run", "--self-check", "--html", "x.html"],
        ["0.run"],
    ):
        assert tbench(["compare", *bad]) == 2
        assert capsys.readouterr().err.count("\n") == 1
