"""JUnit XML as the schemas of Ant and Jenkins ask for it, with every verdict where CI looks for it."""

import re
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest

from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import GateResults, evaluate_gates
from tbench.analysis.report.ci import judgement_junit

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
        repeats.arms(lost_workers=["worker 1 was killed"]), parse_gates("10%", [])
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
