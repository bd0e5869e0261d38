"""benchmarks/scale_plan.py: a plan for many machines, by the code that makes every plan, and simulated."""

import pytest
import scale_plan

SMALL = [
    "--nodes",
    "5",
    "--cores",
    "4",
    "--streams",
    "8000",
    "--requests",
    "60000",
    "--merged",
    "50000",
]


def test_a_plan_for_many_machines_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Sessions whole, parts that sum to what was asked, pacing, merged counts, a lost machine."""
    assert scale_plan.main(SMALL) == 0
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--streams", "20000"], "streams of a worker"),
        (["--clock-ms", "20"], "off the schedule"),
        (["--duration", "0.4"], "to feed them from one machine"),
    ],
)
def test_a_plan_that_asks_for_too_much_says_so(
    words: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines that are too few, clocks that are too far apart, a feeder that cannot keep up."""
    assert scale_plan.main([*SMALL, *words]) == 1
    assert any(
        line.startswith("FAIL") and what in line for line in capsys.readouterr().out.splitlines()
    )
