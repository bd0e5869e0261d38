"""What CI shows: a comment in Markdown that nothing breaks, and JUnit's cases by verdict."""

import re
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.analysis.compare import compare
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import GateResults, evaluate_gates
from tbench.analysis.report.ci import (
    MOST,
    code,
    comparison_markdown,
    judgement_junit,
    judgement_markdown,
    text,
)
from tbench.analysis.report.machine import judgement_json
from tbench.analysis.summary import Caution

GATES = parse_gates("10%", ["errors:1pp", "ttft:p99:10%"])


def cells(line: str) -> list[str]:
    """A table's row by the rules of GitHub: a backslash takes the next character along, bars part cells."""
    return [cell.strip() for cell in re.findall(r"\|((?:\\.|[^|\\])*)", line)[:-1]]


def tables(said: str) -> list[list[list[str]]]:
    """The rows of each table, its heads first; every row has as many cells as the heads."""
    found: list[list[list[str]]] = []
    before = ""
    for line in said.split("\n"):
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not re.fullmatch(r"\|(---\|)+", line):
                found[-1].append(cells(line))
        before = line
    assert all(len(row) == len(rows[0]) for rows in found for row in rows)
    return found


def test_the_verdict_comes_first_and_the_command_last(repeats: Any) -> None:
    """Then a table whose figures are those of the JSON."""
    found = evaluate_gates(repeats.arms(1.3), GATES)
    said = judgement_markdown(found, "tbench compare A B --margin 10%")
    heads, *rows = tables(said)[0]

    assert heads == [
        *("gate", "baseline", "candidate", "change", "90% CI", "margin", "result", "reason")
    ]
    assert said.startswith("### tbench: FAIL\n")
    assert "```sh\ntbench compare A B --margin 10%\n```" in said
    assert "500 requests, those that every run has, of trace `trace-1`" in said
    for shown, row in zip(rows, judgement_json(found)["comparisons"], strict=True):
        assert shown[6].strip("*") == row["verdict"]
        if row["ratio"] is not None:
            assert shown[3] == f"{row['ratio'] - 1:+.1%}"
            assert shown[4] == f"{row['ci'][0] - 1:+.1%} to {row['ci'][1] - 1:+.1%}"
    (p99,) = (row for row in rows if row[0] == "TTFT p99")
    assert (p99[5], p99[7]) == ("10%", "n too small (needs ≥ 2,000)")


def test_every_candidate_has_its_table_and_its_warnings(repeats: Any) -> None:
    first, same = repeats.arms(model="other")
    _, slower = repeats.arms(1.3)
    said = judgement_markdown(evaluate_gates([first, same, replace(slower, name="C")], GATES))

    assert len(tables(said)) == 2
    assert "**INCONCLUSIVE**: `B` against `A`, 5 + 5 runs" in said
    assert "**FAIL**: `C` against `A`" in said
    assert "- B: m against other" in said
    assert not re.search(r"[A-Z]{3,}(\\\\)?_[A-Z]{3,}", said)


def test_names_break_no_table_and_call_nobody(repeats: Any) -> None:
    """Bars, backticks, HTML, line breaks, mentions."""
    first, second = repeats.arms(model="<img src=x>|@owner\n# *big*")
    name = "b|`c`\n<b>"
    said = judgement_markdown(
        evaluate_gates([replace(first, name="@a"), replace(second, name=name)], GATES)
    )

    tables(said)
    assert "``b\\|`c` <b>`` against `@a`" in said
    assert "\\<img src=x\\>\\|@\u200bowner \\# \\*big\\*" in said


@given(words=st.text(max_size=40) | st.text(alphabet="a`|\\", max_size=9))
def test_any_words_are_one_cell(words: str) -> None:
    for shown in (text(words), code(words or "x")):
        assert "\n" not in shown
        assert len(cells(f"| {shown} |")) == 1


def test_what_does_not_fit_is_counted(repeats: Any) -> None:
    """GitHub takes 65,536 characters; the verdict and the command are always there."""
    found = evaluate_gates(repeats.arms(), GATES)
    many = tuple(Caution(code="MIXED_ARM", text=f"mixed {k} " + "ü" * 500) for k in range(100))
    said = judgement_markdown(replace(found, warnings=many), "tbench compare A B")
    (cut,) = re.findall(r"^(\d+) more lines do not fit", said, re.MULTILINE)

    assert len(said.encode()) < MOST
    assert said.startswith("### tbench: ")
    assert "```sh\ntbench compare A B\n```" in said
    assert said.count("mixed") + int(cut) == 101
    assert "too long" in judgement_markdown(found, "tbench " + "x" * 9000)


def test_one_pair_of_runs_has_its_summary_too(repeats: Any) -> None:
    """With the advice that it is one pair, and its ratios."""
    first, second = repeats.arms(1.3)
    found = compare(first.runs[0], second.runs[0])
    said = comparison_markdown(found, "tbench compare a.run b.run")
    rows = tables(said)[0]

    assert said.startswith("### tbench: ADVISORY\n\nOne pair of runs advises")
    assert [row[:2] for row in rows[1:3]] == [["TTFT", "p50"], ["TTFT", "p90"]]
    assert rows[-1][0] == "errors"
    assert rows[1][5] == f"{found.rows[0].ratio:.2f}x"
    assert "- 500 requests (needs 1,000)" in said
    assert "500 requests, paired" in said


def test_a_pair_has_its_table_at_equal_lengths(repeats: Any) -> None:
    """Or says why there is none, in the same words as the terminal."""

    def longer(columns: Any) -> None:
        columns["output_tokens"] = np.where(np.arange(500) % 3 == 0, 40, 20)

    first, second = repeats.arms(1.3, spoil=longer)
    comparison = compare(first.runs[0], second.runs[0])
    assert comparison.equal_lengths is not None
    _, _, after = comparison_markdown(comparison).partition("E2E at equal output lengths (")
    (heads, *rows), *_ = tables(after)

    assert after.startswith("what length explains is taken out; 500 requests, 67% as long")
    assert (heads[0], heads[3]) == ("metric", "ratio")
    assert [row[1] for row in rows] == ["p50", "p90", "p95", "p99"]
    for shown, row in zip(rows, comparison.equal_lengths.rows, strict=True):
        assert (
            shown[3] == "-"
            if row.ratio is None
            else float(shown[3][:-1]) == pytest.approx(row.ratio, rel=0.01)
        )
    refused = replace(comparison.equal_lengths, rows=(), refusal="no pair")
    assert "E2E at equal output lengths: no pair" in comparison_markdown(
        replace(comparison, equal_lengths=refused)
    )


def test_a_gate_that_a_warning_stops_names_it_in_words(repeats: Any) -> None:
    """Runs that did not take turns decide nothing; the sentence is below the table."""
    said = judgement_markdown(evaluate_gates(repeats.arms(1.3, turns=False), GATES))
    gates = {row[0]: row for row in tables(said)[0][1:]}

    assert gates["TTFT p50"][7] == "not interleaved"
    assert "- the arms' runs did not take turns" in said


def test_one_request_is_no_plural(repeats: Any) -> None:
    results = replace(evaluate_gates(repeats.arms(), GATES), n=1)

    assert "\n1 request, those that every run has" in judgement_markdown(results)


@pytest.mark.parametrize(("command", "fence"), [("a `b`", "```"), ("a ```b", "````")])
def test_a_command_cannot_end_its_own_block(repeats: Any, command: str, fence: str) -> None:
    said = judgement_markdown(evaluate_gates(repeats.arms(), GATES), command)

    assert f"\n{fence}sh\n{command}\n{fence}\n" in said


REQUIRED = {
    "testsuite": {
        "name",
        "id",
        "package",
        "tests",
        "failures",
        "errors",
        "timestamp",
        "hostname",
        "time",
    },
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"message"},
    "property": {"name", "value"},
}
"""Attributes by element: Ant's schema (windyroad) demands more than Jenkins' (junit-10.xsd)."""
KNOWN = {
    "testsuite": REQUIRED["testsuite"] | {"skipped"},
    "testsuites": {"name", "tests", "failures", "errors"},
}
CHILDREN = {
    "testsuites": r"(testsuite )*",
    "testsuite": r"properties (testcase )*system-out system-err ",
    "properties": r"(property )*",
    "testcase": r"((failure|error|skipped) )?",
}
"""The children that an element has, in their order."""


def check(element: Element) -> None:
    """What both schemas demand of an element and of all below it."""
    needed = REQUIRED.get(element.tag, set())
    assert needed <= set(element.attrib) <= KNOWN.get(element.tag, needed)
    assert re.fullmatch(
        CHILDREN.get(element.tag, ""), "".join(f"{child.tag} " for child in element)
    )
    for name in {"tests", "failures", "errors", "skipped", "id"} & set(element.attrib):
        assert re.fullmatch(r"\d+", element.attrib[name])
    if element.tag == "testsuite":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", element.attrib["timestamp"])
        counted = {"tests": "testcase", "failures": "testcase/failure", "errors": "testcase/error"}
        counted["skipped"] = "testcase/skipped"
        for name, where in counted.items():
            assert int(element.attrib[name]) == len(element.findall(where))
        names = [(case.get("classname"), case.get("name")) for case in element.iter("testcase")]
        assert len(set(names)) == len(names)
    for child in element:
        check(child)


def document(found: GateResults) -> Element:
    whole = fromstring(judgement_junit(found))
    check(whole)
    return whole


def outcomes(whole: Element) -> dict[tuple[str | None, str | None], str]:
    return {
        (case.get("classname"), case.get("name")): ", ".join(
            f"{child.tag} {child.get('type')}" for child in case
        )
        for case in whole.iter("testcase")
    }


def test_every_gate_of_every_candidate_is_a_test_case(repeats: Any) -> None:
    """PASS is a bare case, FAIL a failure, INCONCLUSIVE an error."""
    first, same = repeats.arms()
    _, slower = repeats.arms(1.3)
    gates = parse_gates(None, ["ttft:p50:10%", "ttft:p99:10%"])
    whole = document(evaluate_gates([first, same, replace(slower, name="C")], gates))

    assert outcomes(whole) == {
        ("tbench.B", "ttft:p50:10%"): "",
        ("tbench.B", "ttft:p99:10%"): "error INCONCLUSIVE",
        ("tbench.C", "ttft:p50:10%"): "failure FAIL",
        ("tbench.C", "ttft:p99:10%"): "error INCONCLUSIVE",
    }
    assert [whole.get(name) for name in ("tests", "failures", "errors")] == ["4", "1", "2"]
    (failure,) = whole.iter("failure")
    assert re.fullmatch(r"ttft:p50:10%: \+3\d\.\d% \[\+\d.*\]: .*", failure.attrib["message"])
    assert "Welch t" in (failure.text or "")


def test_a_run_that_does_not_count_makes_every_case_an_error(repeats: Any) -> None:
    """Though the gates themselves would pass: exit code 4 and a green board do not go together."""
    found = evaluate_gates(
        repeats.arms(lost_workers=["worker 1 was killed"], never_sent=1),
        parse_gates("10%", []),
    )
    whole = document(found)

    assert set(outcomes(whole).values()) == {"error INVALID"}
    assert "worker 1 was killed" in next(whole.iter("error")).attrib["message"]


def test_the_text_report_and_the_cautions_are_in_it(repeats: Any) -> None:
    def longer(found: dict[str, Any]) -> None:
        found["output_tokens"] = np.full(len(found["id"]), 30)

    (suite,) = document(evaluate_gates(repeats.arms(spoil=longer), parse_gates("10%", [])))

    assert (suite.findtext("system-out") or "").startswith("PASS: ")
    assert "OUTPUT_LENGTH_DIFFERS: " in (suite.findtext("system-err") or "")
    assert float(suite.attrib["time"]) == pytest.approx(5 * 50.5, rel=0.02)


@pytest.mark.parametrize("name", ["a<b>&\"c'", "bell\x07", "half\ud800", "\ufffe"])
def test_any_name_is_well_formed(repeats: Any, name: str) -> None:
    """What XML cannot say is made visible; the rest comes back as it was."""
    first, second = repeats.arms()
    (suite,) = document(evaluate_gates([first, replace(second, name=name)], parse_gates("10%", [])))

    visible = {"\x07": r"\x07", "\ud800": r"\ud800", "\ufffe": r"\ufffe"}
    assert suite.get("name") == name.translate(str.maketrans(visible))
