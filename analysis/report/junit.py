"""A judgement as JUnit XML, which every CI reads: a suite for each candidate, a test case for each gate.

FAIL is a failure. INCONCLUSIVE and INVALID are errors, not skips: a skipped test is green, and here
nothing was shown. Skipped is what nobody named and the runs are too short for. What Ant's and Jenkins'
schemas ask for is there.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from tbench.analysis.comparison import Verdict
from tbench.analysis.judge import Judgement, Row
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import words
from tbench.analysis.report.judgement import MEANINGS, change, interval, judgement_text
from tbench.capture.terminal import escaped
from tbench.replay.totals import duration_s

ELEMENTS: Final = {
    Verdict.FAIL: "failure",
    Verdict.INCONCLUSIVE: "error",
    Verdict.INVALID: "error",
    Verdict.SKIPPED: "skipped",
}
"""What a test case holds by its gate's verdict; one that passed holds nothing."""


def judgement_junit(found: Judgement) -> str:
    """The document; the first suite's output is the text report."""
    suites = Element("testsuites", name="tbench")
    for place, arm in enumerate(found.candidates):
        _suite(suites, found, arm, place)
    for name in ("tests", "failures", "errors"):
        suites.set(name, str(sum(int(suite.get(name, 0)) for suite in suites)))
    indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suites, "unicode") + "\n"


def _suite(suites: Element, found: Judgement, arm: Replicates, place: int) -> None:
    rows = [row for row in found.rows if row.arm == arm.name]
    suite = SubElement(suites, "testsuite", name=escaped(arm.name), id=str(place), package="tbench")
    suite.set("tests", str(len(rows)))
    suite.set("skipped", "0")  # in the order that schemas ask for; counted below
    suite.set("hostname", "localhost")
    suite.set("timestamp", _began(arm))
    suite.set("time", f"{sum(duration_s(run.columns) for run in arm.runs):.3f}")
    properties = SubElement(suite, "properties")
    for name, value in _properties(found, arm):
        SubElement(properties, "property", name=name, value=escaped(value))
    for row in rows:
        _case(suite, found, row)
    for kind, total in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(total, str(len(suite.findall(f"testcase/{kind}"))))
    text = "\n".join(judgement_text(found)) if not place else ""
    SubElement(suite, "system-out").text = escaped(text)
    beware = found.cautions.get(arm.name, ())
    SubElement(suite, "system-err").text = escaped("\n".join(map(str, beware)))


def _began(arm: Replicates) -> str:
    """When the arm's first run did, UTC."""
    return datetime.fromtimestamp(min(arm.started_ns) // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _properties(found: Judgement, arm: Replicates) -> Iterator[tuple[str, str]]:
    yield "verdict", found.verdict_of(arm.name).value
    yield "baseline", found.baseline.name
    if found.history is not None:
        yield "baseline_sessions", found.history.text
    else:
        yield "baseline_runs", ", ".join(str(run.path) for run in found.baseline.runs)
    yield "candidate_runs", ", ".join(str(run.path) for run in arm.runs)


def _case(suite: Element, found: Judgement, row: Row) -> None:
    case = SubElement(suite, "testcase", name=row.gate.text, time="0")
    case.set("classname", f"tbench.{escaped(row.arm)}")
    invalid = found.verdict_of(row.arm) is Verdict.INVALID
    verdict = Verdict.INVALID if invalid else row.comparison.verdict
    if verdict is not Verdict.PASS:
        because = "; ".join(_invalid(found, row.arm)) if invalid else row.reason
        message = f"{_said(row)}: {because or MEANINGS[verdict]}"
        element = SubElement(case, ELEMENTS[verdict], message=escaped(message))
        if verdict is not Verdict.SKIPPED:
            element.set("type", verdict.value)
            element.text = escaped(_detail(row))


def _invalid(found: Judgement, arm: str) -> list[str]:
    return [one.text for one in found.cautions.get(arm, ()) if one.code == "INVALID_RUN"]


def _said(row: Row) -> str:
    """What was found, in a line."""
    if row.gate.scale == "level":
        held = words.figure(row.comparison.candidate, row.gate.endpoint.unit)
        return f"{row.gate.text}: {held} [{interval(row)}]"
    return f"{row.gate.text}: {change(row)} [{interval(row)}]"


def _detail(row: Row) -> str:
    """The figures of both arms, run by run, and how they were compared."""
    sides = {"baseline": row.baseline_runs, "candidate": row.candidate_runs}
    beside = [*row.baseline_runs, *row.candidate_runs]

    def figure(value: float | None) -> str:
        return words.figure(value, row.gate.endpoint.unit, beside)

    lines = (
        f"{side:<10} {figure(mean)} over: {', '.join(map(figure, runs))}"
        for (side, runs), mean in zip(
            sides.items(), (row.comparison.baseline, row.comparison.candidate), strict=True
        )
    )
    return "\n".join([*lines, row.comparison.method])
