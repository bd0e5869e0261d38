"""README.md shows what tbench prints, and docs/glossary.md has every word of it: texts, tables, pages."""

import re
from pathlib import Path

import pytest

from tbench.analysis.arms import load_arm, load_replicates
from tbench.analysis.compare import compare
from tbench.analysis.gate import parse_margin
from tbench.analysis.gate_results import GateResults, evaluate_gates
from tbench.analysis.report.page import comparison_report, judgement_report, run_report
from tbench.analysis.report.sentences import CAVEATS
from tbench.analysis.report.text import comparison_text, judgement_text, pair_text
from tbench.replay.closing import summary
from tbench.replay.runfile import read_run
from tbench.replay.totals import numbers

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "fixtures" / "golden" / "decision"
README = (ROOT / "README.md").read_text()
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
TERMS = {
    term.strip()
    for line in GLOSSARY.splitlines()
    if line.startswith("| ")
    for term in re.split(r"[,;:]", line.split("|")[1])
}


def short() -> str:
    return pair_text(compare(load_arm(RECORDED / "now.1.run"), load_arm(RECORDED / "next.1.run")))


@pytest.fixture(scope="module")
def judged() -> GateResults:
    arms = [load_replicates(RECORDED / f"{name}.*.run") for name in ("now", "next")]
    return evaluate_gates(arms, parse_margin("5%"))


def test_the_readme_shows_what_compare_prints() -> None:
    """Where it does not: paste what `tbench compare now.1.run next.1.run` prints in the recorded folder."""
    block = "\n".join(f"    {line}" if line else "" for line in short().splitlines())

    assert block in README


def test_the_readme_is_short_and_has_its_picture() -> None:
    assert len(README.splitlines()) < 150
    assert {"make demo", "make test"} <= set(re.findall(r"make \w+", README))
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", README):
        assert (ROOT / picture).stat().st_size > 1000


def test_the_words_of_a_short_comparison_are_explained() -> None:
    """Heads of columns, names of rows, labels of lines."""
    lines = short().splitlines()
    (table,) = (n for n, line in enumerate(lines) if "95% CI" in line)
    heads = set(lines[table].replace("95% CI", "").split()) | {"95% CI"}
    rows = {
        re.sub(r"\s+p\d+.*", "", line[:14]).strip()
        for line in lines[table + 1 : lines.index("Before you trust it") - 1]
    }
    labels = {line.split()[0] for line in lines[2 : table - 1] if not line.startswith(" ")}

    assert heads | (rows - {"", "p95"}) | (labels - {"model"}) <= TERMS
    assert set(CAVEATS.values()) <= TERMS


def test_the_words_of_a_verdict_are_explained(judged: GateResults) -> None:
    lines = list(judgement_text(judged))
    (head,) = (line for line in lines if line.endswith("result"))
    labels = {line[:11].strip() for line in lines[lines.index("", 3) :] if line[:1].isalpha()}

    assert {"change", "90% CI", "margin", "result"} <= TERMS & set(re.split(r"\s{2,}", head))
    assert labels <= TERMS


def test_the_words_of_a_replay_are_explained() -> None:
    run = read_run(RECORDED / "next.1.run")
    lines = list(summary(run, numbers(run), verbose=True))[1:]
    labels = {re.split(r"\s{2,}", line.strip())[0] for line in lines if not line.startswith("*")}

    assert labels <= TERMS | {"latency, ms"}


def test_the_sections_of_a_page_are_explained(judged: GateResults) -> None:
    first, second = (load_arm(RECORDED / f"{name}.1.run") for name in ("now", "next"))
    reports = (
        comparison_report(compare(first, second)),
        run_report(first),
        judgement_report(judged),
    )

    for title in {part.title for report in reports for part in report.parts if part}:
        assert all(word.strip() in TERMS for word in re.split(r"[,;:]", title)), title


def test_the_words_of_a_full_comparison_are_explained() -> None:
    """The heads of its tables of quantiles and means."""
    text = comparison_text(
        compare(load_arm(RECORDED / "now.1.run"), load_arm(RECORDED / "next.1.run")), width=160
    )
    heads = [re.split(r"\s{2,}", line) for line in text.splitlines() if "95% CI" in line]

    assert len(heads) == 2
    assert {head for line in heads for head in line} - {"", "overall"} <= TERMS
