"""How the arms of a report are called, and in which order their runs stand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbench.analysis.report.facts import places
from tbench.analysis.report.gate_sentences import shown_names


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["runs/A-*.run", "runs/B-*.run"], ["A", "B"]),
        (["runs/now", "runs/next"], ["now", "next"]),
        (["old/A-[123].run", "new/A-?.run"], ["old/A-[123].run", "new/A-?.run"]),
        (["*.run", "B"], ["*.run", "B"]),
        (["gpt-4.1", "llama 3"], ["gpt-4.1", "llama 3"]),
    ],
)
def test_names_are_short_as_long_as_they_stay_apart(given: list[str], shown: list[str]) -> None:
    """Globs and folders lose what is no name; where two would be the same, both stay whole."""
    assert list(shown_names(given).values()) == shown


def test_runs_stand_in_the_order_in_which_they_began(
    experiment: Callable[..., Any], tmp_path: Path
) -> None:
    """B A, A B, B A: numbered within their arm and among all."""
    first, second = experiment(tmp_path, {"A": 1.0, "B": 1.0}, 3)
    found = places({"A": first.runs, "B": second.runs})

    assert [one.name for one in found] == ["B 1", "A 1", "A 2", "B 2", "B 3", "A 3"]
    assert [one.order for one in found] == [1, 2, 3, 4, 5, 6]
    assert places({"run": first.runs[:1]})[0].name == "run"
