"""A judgement, or one pair of runs, as Markdown for a comment in a code review: short, and never cut unsaid.

What comes from outside (names, servers' words) is escaped: it can neither break a table nor call anybody.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from tbench.analysis import words
from tbench.analysis.arms import Replicates
from tbench.analysis.comparison import Comparisons, Verdict
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.report import gate_sentences, sentences, tables
from tbench.analysis.report.text import judgement_text
from tbench.analysis.summary import Caution, facts
from tbench.analysis.words import Table
from tbench.capture.terminal import escaped, plural
from tbench.replay.totals import duration_s

MOST: Final = 65_000
"""Bytes that a comment may have with GitHub (65,536 characters), less some."""
PAIR: Final = {
    Verdict.ADVISORY: "one pair of runs advises and does not decide: what differs from run to run cannot be "
    "seen in it",
    Verdict.INVALID: "a run's own client was the limit, its numbers do not count",
}
LONGEST_COMMAND: Final = 8_000
_MARKS: Final = re.compile(r"([\\`*_\[\]<>#|~&$])")


def judgement_markdown(results: GateResults, command: str | None = None) -> str:
    """The verdict, a table of gates for each candidate, what to beware of, and how to get it again."""
    meaning = _capital(gate_sentences.meaning(results))
    lines = [f"### tbench: {results.verdict.value}", "", f"{meaning}.", ""]
    baseline, full_names = results.baseline, {arm.name: arm.name for arm in results.arms}
    for arm in results.candidates:
        verdict = results.verdict_of(arm.name).value
        runs = f"{len(baseline.runs)} + {len(arm.runs)} runs"
        if results.history is not None:
            runs = f"{gate_sentences.amount(results, arm)} against {results.history.text}"
        lines += [f"**{verdict}**: {code(arm.name)} against {code(baseline.name)}, {runs}", ""]
        gates = tables.gate_table(results, full_names, arm.name)
        lines += [*_table(gates.only(*tables.GATED, "reason")), ""]
    if slo := gate_sentences.objectives(results):
        lines += [f"A good request: {code(', '.join(slo))}.", ""]
    if who := gate_sentences.declared(results):
        lines += [f"Contrast: {text(gate_sentences.TREND)}, declared {who}.", ""]
    names = gate_sentences.shown_names([arm.name for arm in results.arms])
    rest = filter(None, [gate_sentences.left_open(results)])
    for line in (*gate_sentences.to_decide(results, names), *rest):
        lines += [f"{_capital(text(line))}.", ""]
    source = results.arms[-1].runs[0].source
    trace = f", of trace {code(source)}" if source else ""
    shared = f"{plural(results.n, 'request')}, those that every run has{trace}"
    ends = [*_reproduce(command), "; ".join([shared, *facts(results.warnings)])]
    return _fitted([*lines, *_warnings(results.warnings)], ends)


def comparison_markdown(comparison: Comparisons, command: str | None = None) -> str:
    """The same for one pair of runs."""
    first, second = comparison.baseline, comparison.candidate
    verdict = comparison.verdict
    lines = [f"### tbench: {verdict.value}", "", f"{_capital(PAIR[verdict])}.", ""]
    lines += [f"{code(second.name)} against {code(first.name)}", ""]
    lines += _table(tables.comparison_table(comparison).only(*tables.FULL))
    if equal := tables.equal_lengths_table(comparison):
        shown = (head for head in equal.heads if head not in tables.MORE)
        lines += ["", f"{text(equal.caption)}.", "", *_table(equal.only(*shown))]
    lines += ["", *(f"{_capital(note)}.\n" for note in sentences.rates_notes(comparison))]
    how = "; ".join([sentences.requests(comparison), *facts(comparison.warnings)])
    return _fitted([*lines, *_warnings(comparison.warnings)], [*_reproduce(command), how])


def _table(made: Table) -> list[str]:
    """Its lines; a verdict that is no PASS stands out. Nothing of a table without rows."""
    rows = [
        [
            f"**{text(cell.shown)}**"
            if cell.tone.isupper() and cell.tone != "PASS"
            else text(cell.shown)
            for cell in row
        ]
        for row in made.rows
    ]
    lines = [f"| {' | '.join(made.heads)} |", f"|{'---|' * len(made.heads)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)] if rows else []


def _warnings(warnings: Sequence[Caution]) -> list[str]:
    beware = [f"- {text(caution.text)}" for caution in warnings if not caution.is_fact]
    return [*beware, ""] if beware else []


def _reproduce(command: str | None) -> list[str]:
    if command is None:
        return []
    if len(command) > LONGEST_COMMAND:
        return ["The command that made this is too long for a comment.", ""]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return ["To get it again:", "", f"{fence}sh", command, fence, ""]


def _fitted(lines: Sequence[str], ends: Sequence[str]) -> str:
    """All of it, or as many lines as a comment takes and how many are left out."""
    left = MOST - _size(ends) - 100
    fitting: list[str] = []
    for line in lines:
        left -= _size([line])
        if left < 0:
            break
        fitting.append(line)
    cut = len(lines) - len(fitting)
    more = plural(cut, "more line does", "more lines do")
    note = [f"{more} not fit into a comment; `--json` prints them all", ""] if cut else []
    return "\n".join([*fitting, *note, *ends]) + "\n"


def _size(lines: Iterable[str]) -> int:
    return sum(len(line.encode("utf-8", "replace")) + 1 for line in lines)


def text(words_: str) -> str:
    """Words from outside as mere text: no mark of Markdown or HTML, no mention of a person."""
    plain = _MARKS.sub(r"\\\1", escaped(" ".join(words_.split())))
    return plain.replace("@", "@\u200b")


def code(name: str) -> str:
    """A name as code, also in a table."""
    plain = escaped(" ".join(name.split()))
    if ("|" in plain and "\\" in plain) or plain.endswith("\\"):
        return text(plain)  # code has no way to say a bar after a backslash
    plain = plain.replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


# A judgement as JUnit XML, which every CI reads: a suite for each candidate, a test case for each gate.
#
# FAIL is a failure. INCONCLUSIVE and INVALID are errors, not skips: a skipped test is green, and here
# nothing was shown. Skipped is what nobody named and the runs are too short for. What Ant's and Jenkins'
# schemas ask for is there.

ELEMENTS: Final = {
    Verdict.FAIL: "failure",
    Verdict.INCONCLUSIVE: "error",
    Verdict.INVALID: "error",
    Verdict.SKIPPED: "skipped",
}
"""What a test case holds by its gate's verdict; one that passed holds nothing."""


def judgement_junit(results: GateResults) -> str:
    """The document; the first suite's output is the text report."""
    suites = Element("testsuites", name="tbench")
    for place, arm in enumerate(results.candidates):
        _suite(suites, results, arm, place)
    for name in ("tests", "failures", "errors"):
        suites.set(name, str(sum(int(suite.get(name, 0)) for suite in suites)))
    indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suites, "unicode") + "\n"


def _suite(suites: Element, results: GateResults, arm: Replicates, place: int) -> None:
    """A candidate: what its runs were, its gates, the text report (once), and what to beware of."""
    rows = [row for row in results.rows if row.arm == arm.name]
    suite = SubElement(suites, "testsuite", name=escaped(arm.name), id=str(place), package="tbench")
    suite.set("tests", str(len(rows)))
    suite.set("skipped", "0")  # in the order that schemas ask for; counted below
    suite.set("hostname", "localhost")
    began = datetime.fromtimestamp(min(arm.started_ns) // 10**9, UTC)
    suite.set("timestamp", began.strftime("%Y-%m-%dT%H:%M:%S"))
    suite.set("time", f"{sum(duration_s(run.columns) for run in arm.runs):.3f}")
    verdict, baseline = results.verdict_of(arm.name), results.baseline
    about = {"verdict": verdict.value, "baseline": baseline.name}
    if results.history is not None:
        about["baseline_sessions"] = results.history.text
    else:
        about["baseline_runs"] = ", ".join(str(run.path) for run in baseline.runs)
    about["candidate_runs"] = ", ".join(str(run.path) for run in arm.runs)
    properties = SubElement(suite, "properties")
    for name, value in about.items():
        SubElement(properties, "property", name=name, value=escaped(value))
    beware = results.cautions.get(arm.name, ())
    because = None
    # An invalid candidate has one cause for all of its gates: each case says that, not its own reason.
    if verdict is Verdict.INVALID:
        because = "; ".join(caution.text for caution in beware if caution.code == "INVALID_RUN")
    for row in rows:
        _case(suite, row, because)
    for kind, total in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(total, str(len(suite.findall(f"testcase/{kind}"))))
    # Once: the text is of all candidates.
    output = "\n".join(judgement_text(results)) if not place else ""
    SubElement(suite, "system-out").text = escaped(output)
    SubElement(suite, "system-err").text = escaped("\n".join(map(str, beware)))


def _case(suite: Element, row: GateRow, invalid_because: str | None) -> None:
    """A gate; without a PASS its change and the reason, and each run's figure."""
    case = SubElement(suite, "testcase", name=row.gate.text, time="0")
    case.set("classname", f"tbench.{escaped(row.arm)}")
    judged = row.comparison
    verdict = judged.verdict if invalid_because is None else Verdict.INVALID
    if verdict is Verdict.PASS:
        return
    figures = [*row.baseline_runs, *row.candidate_runs]
    figure = partial(words.figure, unit=row.gate.endpoint.unit, beside=figures)
    change = gate_sentences.change_cell(row)
    if row.gate.scale == "level":
        change = gate_sentences.change(row)
    reason = gate_sentences.reason(row) if invalid_because is None else invalid_because
    message = f"{row.gate.text}: {change} [{gate_sentences.interval_cell(row)}]"
    message = f"{message}: {reason or gate_sentences.MEANINGS[verdict]}"
    element = SubElement(case, ELEMENTS[verdict], message=escaped(message))
    if verdict is not Verdict.SKIPPED:
        element.set("type", verdict.value)
        lines = [
            f"{side:<10} {figure(mean)} over: {', '.join(map(figure, runs))}"
            for side, mean, runs in (
                ("baseline", judged.baseline, row.baseline_runs),
                ("candidate", judged.candidate, row.candidate_runs),
            )
        ]
        element.text = escaped("\n".join([*lines, judged.method]))
