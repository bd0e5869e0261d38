"""What is shown of a gate agrees with its verdict: no PASS beside an interval that holds its margin."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.analysis.comparison import Verdict
from tbench.analysis.gate import Gate, parse_gates
from tbench.analysis.gate_estimate import GateEstimate, at_the_margin, estimate_of
from tbench.analysis.gate_results import GateRow, evaluate_gates, gate_rows
from tbench.analysis.report.gate_sentences import interval as on_page
from tbench.analysis.report.gate_sentences import interval_cell as in_text
from tbench.analysis.report.text import judgement_text
from tbench.analysis.run_metrics import Figure, parse_slo, share

GATES = parse_gates(
    None,
    [
        "ttft:p50:5%",
        "requests_per_s:5%",
        "output_tokens_per_s:p50:5%",
        "errors:0.5pp",
        "goodput:1pp",
        "ttft:p50<=500ms",
        "errors<=1%",
        "goodput>=99%",
    ],
    parse_slo("ttft<1s"),
)
ROW = re.compile(r"TTFT p50 .* to ([-+][\d.]+)%\s+([\d.]+)%  (PASS|FAIL|INCONCLUSIVE)")
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*")


def made(gate: Gate, seed: int, repeats: int) -> GateRow:
    """A row of random runs whose change lies about the margin, so that ends come near it."""
    random = np.random.default_rng(seed)
    sides: list[tuple[Figure, ...]] = []
    for which in (0, 1):
        if gate.endpoint.scale == "points":
            bad = random.choice([0.0, 0.002, 0.005, 0.01])
            flags = [random.random(2000) < bad for _ in range(repeats)]
            sides.append(tuple(share(~one if gate.higher else one) for one in flags))
            continue
        edge = gate.limit or (1.05 if which else 1.0)
        edge = 1 / edge if gate.higher and gate.limit is None else edge
        near = edge * math.exp(random.normal(0, 0.03))
        logs = random.normal(math.log(near), random.choice([0.0001, 0.003, 0.03]), repeats)
        sides.append(tuple(Figure(value=float(math.exp(y)), n=500) for y in logs))
    both, at = (sides[0], sides[1]), (range(0, 2 * repeats, 2), range(1, 2 * repeats, 2))
    found = estimate_of(gate, both, at, "welch")
    strict = at_the_margin(gate, both, found) if gate.endpoint.scale == "points" else "alike"
    case = GateEstimate(
        arm="B", gate=gate, baseline=both[0], candidate=both[1], estimate=found, method="", strict=strict
    )  # fmt: skip
    (row,) = gate_rows([case], {"B": ()})
    return row


def ends(text: str) -> tuple[float, float]:
    """The two numbers of an interval as it is printed, in per cent, points or milliseconds."""
    low, high = (float(one.replace(",", "")) for one in NUMBER.findall(text))
    return low, high


def edge(gate: Gate) -> float:
    """What the worse end must stay clear of, in the unit of the text."""
    bound = gate.shown(-gate.threshold if gate.higher else gate.threshold)
    if gate.scale == "level":
        return bound * (100 if gate.endpoint.unit == "share" else 1000)
    return bound * 100 if gate.scale == "points" else (bound - 1) * 100


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(GATES), st.integers(0, 2**32), st.integers(3, 6))
def test_no_format_shows_a_pass_whose_interval_holds_the_margin(
    gate: Gate, seed: int, repeats: int
) -> None:
    """Nor a FAIL, whose better end lies beyond it. Rounding never reaches the margin."""
    row = made(gate, seed, repeats)
    page, text = (
        on_page(row),
        in_text(row),
    )  # text is the terminal's, the Markdown's and the JUnit file's
    assert bool(page) == (text != "-")
    for low, high in (ends(text), ends(page)) if page else ():
        if row.comparison.verdict is Verdict.PASS:
            assert low > edge(gate) if gate.higher else high < edge(gate)
        elif row.comparison.verdict is Verdict.FAIL:
            assert high < edge(gate) if gate.higher else low > edge(gate)


def test_exactly_the_gates_that_pass_show_an_interval_below_their_margin(repeats: Any) -> None:
    """As a reader sees them: the same two arms, and margins from 0.5 % to 9.5 %."""
    asked = [f"ttft:p50:{tenths / 10:g}%" for tenths in range(5, 100, 3)]
    text = judgement_text(evaluate_gates(repeats.arms(noise=0.03), parse_gates(None, asked)))
    rows = [found.groups() for line in text if (found := ROW.match(line))]

    assert len(rows) == len(asked)
    assert {verdict for *_, verdict in rows} == {"PASS", "INCONCLUSIVE"}
    for high, margin, verdict in rows:
        assert (float(high) < float(margin)) == (verdict == "PASS")


@pytest.mark.parametrize(("runs", "bad"), [(3, "63%"), (5, "45%"), (7, "35%")])
def test_a_pass_says_its_level_and_what_its_runs_leave_open(
    repeats: Any, runs: int, bad: str
) -> None:
    """1 - .05^(1/R) of all runs may be bad ones where R show none; no absolute, no limit that nobody set."""
    found = evaluate_gates(repeats.arms(repeats=runs), parse_gates(None, ["ttft:p50:50%"]))
    text = " ".join(" ".join(judgement_text(found)).split())

    assert text.startswith(
        "PASS: B is not worse than A by the margin or more at the one gate (one-sided level 5%)"
    )
    assert f"{runs} runs without a bad one leave open that up to {bad} of runs are bad" in text
    assert "90% CI" in text
