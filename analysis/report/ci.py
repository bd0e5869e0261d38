"""A judgement, or one pair of runs, as Markdown for a comment in a code review: short, and never cut unsaid.

What comes from outside (names, servers' words) is escaped: it can neither break a table nor call anybody.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from tbench.analysis.compare import Comparison, Comparisons
from tbench.analysis.comparison import Verdict
from tbench.analysis.gate_results import GateResults, GateRow
from tbench.analysis.proportions import OPEN_LOOP, ErrorDifference
from tbench.analysis.replicates import Replicates
from tbench.analysis.report import sentences, words
from tbench.analysis.report.gate_sentences import (
    MEANINGS,
    TREND,
    amount,
    change_cell,
    declared,
    interval_cell,
    left_open,
    meaning,
    objectives,
    reason,
    shown_names,
    sides,
    to_decide,
)
from tbench.analysis.report.text import judgement_text
from tbench.analysis.summary import Caution, facts
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


def judgement_markdown(found: GateResults, command: str | None = None) -> str:
    """The verdict, a table of gates for each candidate, what to beware of, and how to get it again."""
    lines = [f"### tbench: {found.verdict.value}", "", f"{_capital(meaning(found))}.", ""]
    for arm in found.candidates:
        lines += [*_candidate(found, arm), ""]
    if slo := objectives(found):
        lines += [f"A good request: {code(', '.join(slo))}.", ""]
    if who := declared(found):
        lines += [f"Contrast: {text(TREND)}, declared {who}.", ""]
    names = shown_names([arm.name for arm in found.arms])
    for line in (*to_decide(found, names), *filter(None, [left_open(found)])):
        lines += [f"{_capital(text(line))}.", ""]
    source = found.arms[-1].runs[0].source
    trace = f", of trace {code(source)}" if source else ""
    how = "; ".join(
        [f"{plural(found.n, 'request')}, those that every run has{trace}", *facts(found.warnings)]
    )
    ends = [*_reproduce(command), how]
    return _fitted([*lines, *_warnings(found.warnings)], ends)


def comparison_markdown(found: Comparisons, command: str | None = None) -> str:
    """The same for one pair of runs."""
    lines = [f"### tbench: {found.verdict.value}", "", f"{_capital(PAIR[found.verdict])}.", ""]
    lines += [f"{code(found.candidate.name)} against {code(found.baseline.name)}", ""]
    lines += _table(PAIR_HEADINGS, map(_pair_cells, found.rows))
    if equal := found.equal_lengths:
        lines += ["", f"{text(sentences.equal_lengths(equal))}."]
        lines += ["", *_table(PAIR_HEADINGS, map(_pair_cells, equal.rows))] if equal.rows else []
    lines += ["", _errors(found.errors), "", f"{_throughput(found)}.", ""]
    counts = found.requests
    how = (
        f"{plural(counts[0], 'request')}, paired"
        if found.paired
        else f"{counts[0]:,} and {plural(counts[1], 'request')}"
    )
    how = "; ".join([how, *facts(found.warnings)])
    return _fitted([*lines, *_warnings(found.warnings)], [*_reproduce(command), how])


def _throughput(found: Comparisons) -> str:
    """Baseline and candidate."""
    pairs = [f"{first.title} {first.text} and {second.text}" for first, second in found.rates]
    return f"Throughput: {'; '.join(pairs)}{f' ({OPEN_LOOP})' if found.candidate.open_loop else ''}"


def _errors(found: ErrorDifference) -> str:
    ends = f"{words.points(found.low)} to {words.points(found.high)}"
    difference = words.points(found.difference)
    return (
        f"Errors: {found.baseline:.2%} and {found.candidate:.2%}, difference {difference} ({ends})."
    )


def _candidate(found: GateResults, arm: Replicates) -> Iterator[str]:
    base = found.baseline
    runs = f"{len(base.runs)} + {len(arm.runs)} runs"
    if found.history is not None:
        runs = f"{amount(found, arm)} against {found.history.text}"
    verdict = found.verdict_of(arm.name).value
    yield f"**{verdict}**: {code(arm.name)} against {code(base.name)}, {runs}"
    yield ""
    rows = [row for row in found.rows if row.arm == arm.name]
    heads = ("gate", "verdict", "baseline", "candidate", "change", "90% CI", "reason")
    yield from _table(heads, (_cells(row) for row in rows))


def _cells(row: GateRow) -> Iterator[str]:
    verdict = row.comparison.verdict
    yield code(row.gate.text)
    yield verdict.value if verdict is Verdict.PASS else f"**{verdict.value}**"
    yield from map(text, sides(row))
    yield from (text(change_cell(row)), text(interval_cell(row)), text(reason(row)))


PAIR_HEADINGS: Final = (
    *("metric", "n", "baseline", "candidate", "ratio", "95% CI", "confidence", "difference"),
)


def _pair_cells(row: Comparison) -> Iterator[str]:
    yield f"{row.metric.replace('_', chr(92) + '_')} {words.percentile(row.quantile)}"
    yield f"{min(row.n_baseline, row.n_candidate):,}"
    yield from map(text, words.pair(row))
    yield text(words.ratio(row.ratio))
    if row.refusal:
        yield from ("", "", text(row.refusal))
        return
    yield text(words.ratio_interval(row.low, row.high))
    yield "drift" if row.drift else row.confidence
    yield text(row.finding or "")


def _table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(cells)} |" for cells in rows)]


def _warnings(found: Sequence[Caution]) -> Iterator[str]:
    beware = [caution for caution in found if not caution.is_fact]
    yield from (f"- {text(caution.text)}" for caution in beware)
    if beware:
        yield ""


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
    kept: list[str] = []
    for line in lines:
        left -= _size([line])
        if left < 0:
            break
        kept.append(line)
    cut = len(lines) - len(kept)
    more = plural(cut, "more line does", "more lines do")
    said = [f"{more} not fit into a comment; `--json` prints them all", ""] if cut else []
    return "\n".join([*kept, *said, *ends]) + "\n"


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


def judgement_junit(found: GateResults) -> str:
    """The document; the first suite's output is the text report."""
    suites = Element("testsuites", name="tbench")
    for place, arm in enumerate(found.candidates):
        _suite(suites, found, arm, place)
    for name in ("tests", "failures", "errors"):
        suites.set(name, str(sum(int(suite.get(name, 0)) for suite in suites)))
    indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suites, "unicode") + "\n"


def _suite(suites: Element, found: GateResults, arm: Replicates, place: int) -> None:
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


def _properties(found: GateResults, arm: Replicates) -> Iterator[tuple[str, str]]:
    yield "verdict", found.verdict_of(arm.name).value
    yield "baseline", found.baseline.name
    if found.history is not None:
        yield "baseline_sessions", found.history.text
    else:
        yield "baseline_runs", ", ".join(str(run.path) for run in found.baseline.runs)
    yield "candidate_runs", ", ".join(str(run.path) for run in arm.runs)


def _case(suite: Element, found: GateResults, row: GateRow) -> None:
    case = SubElement(suite, "testcase", name=row.gate.text, time="0")
    case.set("classname", f"tbench.{escaped(row.arm)}")
    invalid = found.verdict_of(row.arm) is Verdict.INVALID
    verdict = Verdict.INVALID if invalid else row.comparison.verdict
    if verdict is not Verdict.PASS:
        because = "; ".join(_invalid(found, row.arm)) if invalid else reason(row)
        message = f"{_said(row)}: {because or MEANINGS[verdict]}"
        element = SubElement(case, ELEMENTS[verdict], message=escaped(message))
        if verdict is not Verdict.SKIPPED:
            element.set("type", verdict.value)
            element.text = escaped(_detail(row))


def _invalid(found: GateResults, arm: str) -> list[str]:
    return [one.text for one in found.cautions.get(arm, ()) if one.code == "INVALID_RUN"]


def _said(row: GateRow) -> str:
    """What was found, in a line."""
    if row.gate.scale == "level":
        held = words.figure(row.comparison.candidate, row.gate.endpoint.unit)
        return f"{row.gate.text}: {held} [{interval_cell(row)}]"
    return f"{row.gate.text}: {change_cell(row)} [{interval_cell(row)}]"


def _detail(row: GateRow) -> str:
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
