"""The main job as a user runs it, and the traffic that drives it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.errors import InputError
from tbench.demo import Workload, command, conversations, prepare


@pytest.mark.slow
def test_the_demo_ends_with_a_comparison_and_a_report(
    tbench: Callable[..., Any], tmp_path: Path
) -> None:
    """Capture, two replays and a comparison come out of one command, and the slow server is slower."""
    done = tbench("demo", "--seconds", 4, "--rate", 8, "--out", "out")

    assert done.code == 0, done.err
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "trace.msgpack",
        "fast.run",
        "slow.run",
        "report.html",
    }
    assert "report.html" in done.err
    compared = json.loads(tbench("compare", out / "fast.run", out / "slow.run", "--json").out)
    ttft = next(
        row for row in compared["comparisons"] if (row["metric"], row["quantile"]) == ("ttft", 0.5)
    )
    assert ttft["ratio"] > 1


def test_the_demo_never_clears_files_that_are_not_its_own(tmp_path: Path) -> None:
    """A folder with something else in it is refused, and that something stays."""
    (tmp_path / "thesis.txt").write_text("dear")

    with pytest.raises(InputError, match="thesis"):
        prepare(tmp_path)

    assert (tmp_path / "thesis.txt").read_text() == "dear"


def test_files_in_the_users_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps run where the user stands, perhaps beside a script that is called like a library."""
    (tmp_path / "typer.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    assert command(["--version"], os.environ, said.append) == 0
    assert said == ["\n$ tbench --version"]


def test_the_traffic_is_planned_by_its_seed() -> None:
    """The same seed plans the same conversations, another seed others, and none starts too late."""
    load = Workload(model="m", rate=5, duration=10, seed=3)
    plan = list(conversations(load))

    assert plan == list(conversations(load))
    assert plan != list(conversations(Workload(model="m", rate=5, duration=10, seed=4)))
    assert all(0 < talk.start < 10 for talk in plan)
    assert len({question for talk in plan for question in talk.questions}) > len(plan) / 2
