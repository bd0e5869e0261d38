"""The workbook, read back by another program: the numbers of the JSON, and nothing lost unsaid.

Excel's files hold sixteen digits: `same` is equal to that.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import openpyxl
import pytest

from tbench.analysis.compare import compare
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import GateResults, evaluate_gates
from tbench.analysis.report.machine import comparison_json, judgement_json, report_json
from tbench.analysis.report.workbook import comparison_book, judgement_book, run_book, shares
from tbench.analysis.run_metrics import parse_slo
from tbench.replay import metrics

EVIL = "=1+1"
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(experiment: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> GateResults:
    """B is 20 % slower than A and fails; three runs of each, of a model with a formula for a name."""
    folder = tmp_path_factory.mktemp("runs")
    arms = experiment(folder, {"A": 1.0, "B": 1.2}, 3, failing={"B": 0.05}, model=EVIL)
    return evaluate_gates(arms, parse_gates("5%", ["errors:2pp"]))


@pytest.fixture(scope="module")
def written(found: GateResults) -> bytes:
    file = io.BytesIO()
    judgement_book(found, file, command="tbench compare 'A-*.run' 'B-*.run'")
    return file.getvalue()


@pytest.fixture(scope="module")
def book(written: bytes) -> Any:
    return openpyxl.load_workbook(io.BytesIO(written))


def same(given: Any, wanted: Any) -> bool:
    """Equal but for what lies beyond the sixteenth digit; nothing is only equal to nothing."""
    if isinstance(wanted, list):
        return all(same(one, other) for one, other in zip(given, wanted, strict=True))
    if wanted is None:
        return given is None
    return bool(given == pytest.approx(wanted, rel=1e-14, abs=1e-14))


def shown_in(unit: str, value: float | None) -> float | None:
    """A figure in the unit of the workbook: of seconds milliseconds."""
    return value * 1e3 if unit == "s" and value is not None else value


def by_heading(sheet: Any, row: int = 0) -> dict[str, Any]:
    """The cells of a row of data by their headings."""
    return dict(zip((cell.value for cell in sheet[2]), sheet[3 + row], strict=True))


def rows(sheet: Any) -> Rows:
    """A sheet below its note, by its header."""
    _, head, *body = list(sheet.iter_rows(values_only=True))
    return [dict(zip(head, row, strict=True)) for row in body]


def test_it_has_its_sheets(book: Any) -> None:
    """The verdict first, the samples last."""
    assert book.sheetnames == [
        *("Verdict", "Gates", "Throughput", "Quantiles", "Errors", "Environment", "Samples")
    ]


def test_the_verdict_is_on_the_first_sheet(book: Any) -> None:
    """The word, why, what to beware of, and the command that made it."""
    cells = [cell for row in book["Verdict"].iter_rows(values_only=True) for cell in row if cell]

    assert cells[0] == "FAIL"
    assert any("B is worse than A by more than the margin" in str(cell) for cell in cells)
    assert "tbench compare 'A-*.run' 'B-*.run'" in cells


def test_gates_are_those_of_the_json_as_numbers(found: GateResults, book: Any) -> None:
    """To the last bit: a change is a ratio, of shares their difference."""
    shown = rows(book["Gates"])
    whole = judgement_json(found)["comparisons"]

    assert "a change is candidate / baseline, of shares" in book["Gates"]["A1"].value
    assert len(shown) == len(whole)
    for row, wanted in zip(shown, whole, strict=True):
        assert same(row["baseline"], shown_in(wanted["unit"], wanted["baseline"]))
        assert same(row["candidate"], shown_in(wanted["unit"], wanted["candidate"]))
        assert same(row["change"], wanted["ratio"] or wanted["difference"])
        assert same([row["90% CI, low"], row["90% CI, high"]], wanted["ci"])
        assert (row["result"], row["margin"]) == (wanted["verdict"], wanted["margin"])


def test_every_sample_is_there_as_it_was_measured(found: GateResults, book: Any) -> None:
    """All runs, in the order of the plan; what is absent is empty."""
    shown = rows(book["Samples"])
    runs = [(f"{arm.name[-7]} {k}", run) for arm in found.arms for k, run in enumerate(arm.runs, 1)]

    assert len(shown) == sum(len(run) for _, run in runs)
    for name, run in runs:
        own = [row for row in shown if row["run"] == name]
        ttft = np.array([row["TTFT (ms)"] for row in own], dtype=float)
        np.testing.assert_allclose(ttft, metrics.ttft(run.columns) * 1e3, rtol=1e-14)
        assert [row["request id"] for row in own] == run.columns["id"].tolist()
        assert [row["HTTP status"] for row in own] == run.columns["status"].tolist()
        assert {row["output (tokens)"] for row in own} <= {50, None}


def test_samples_that_count_are_those_of_the_tables(found: GateResults) -> None:
    """Also where they are not the warm-up of their own run, which its flags say."""
    first, second = (
        replace(
            run, run=replace(run.run, columns={**run.columns, "warmup": np.arange(len(run)) < cold})
        )
        for run, cold in ((found.arms[0].runs[0], 0), (found.arms[1].runs[0], 7))
    )
    file = io.BytesIO()
    comparison_book(compare(first, second), file, command=None)
    sheets = openpyxl.load_workbook(file)
    samples, errors = rows(sheets["Samples"]), rows(sheets["Errors"])

    for side, tallied in zip(("baseline", "candidate"), errors, strict=True):
        counts = [row["counts"] for row in samples if row["run"] == side]
        assert counts == [False] * 7 + [True] * (len(first) - 7)
        assert tallied["requests"] == len(first) - 7


def test_what_a_sheet_cannot_hold_is_said(found: GateResults) -> None:
    """Every run gets the same share of the room; the sheet says how many rows are left out."""
    file = io.BytesIO()
    judgement_book(found, file, command=None, most=602)
    sheet = openpyxl.load_workbook(file)["Samples"]

    assert sheet.max_row == 602
    assert "600 of 3,000: 2,400 are LEFT OUT" in sheet["A1"].value
    assert {row["run"] for row in rows(sheet)} == {"A 1", "A 2", "A 3", "B 1", "B 2", "B 3"}


def test_room_that_a_short_run_leaves_goes_to_the_long_ones() -> None:
    """Nobody gets more than there is."""
    assert shares([10, 1000, 1000], 510) == [10, 250, 250]
    assert shares([5, 5], 100) == [5, 5]


def test_a_text_is_never_a_formula(written: bytes, book: Any) -> None:
    """A model called =1+1 stays a name, in the sheet and in the file."""
    cells = [cell for row in book["Environment"].iter_rows() for cell in row if cell.value == EVIL]
    with zipfile.ZipFile(io.BytesIO(written)) as parts:
        sheets = [parts.read(name) for name in parts.namelist() if "worksheets/sheet" in name]

    assert all(cell.data_type == "s" for cell in cells)
    assert not [sheet for sheet in sheets if b"<f>" in sheet]


def test_quantiles_per_run_are_the_figures_that_were_judged(found: GateResults, book: Any) -> None:
    """p50 of TTFT, run by run."""
    shown = {row["run"]: row["p50"] for row in rows(book["Quantiles"]) if row["metric"] == "ttft"}
    judged = next(row for row in found.rows if row.gate.text == "ttft:p50:5%")

    for name, figures in (("A", judged.baseline_runs), ("B", judged.candidate_runs)):
        assert same([shown[f"{name} {k}"] for k in (1, 2, 3)], [x * 1e3 for x in figures])


def test_errors_are_counted_by_kind(found: GateResults, book: Any) -> None:
    """As the run files have them."""
    shown = {row["run"]: row["http_429"] for row in rows(book["Errors"])}

    assert shown["A 1"] == 0
    assert shown["B 2"] == int((found.arms[1].runs[1].columns["status"] == 429).sum()) > 0


def test_the_file_is_sound(written: bytes) -> None:
    """A whole archive, every part well-formed, with its chart."""
    with zipfile.ZipFile(io.BytesIO(written)) as parts:
        assert parts.testzip() is None
        for name in parts.namelist():
            if name.endswith((".xml", ".rels")):
                ET.fromstring(parts.read(name))
        assert len([name for name in parts.namelist() if "charts/chart" in name]) == 1


def test_a_pair_and_a_run_have_books_too(found: GateResults) -> None:
    """With the numbers of their JSON."""
    first, second = found.arms[0].runs[0], found.arms[1].runs[0]
    pair, single = compare(first, second), io.BytesIO()
    both = io.BytesIO()
    comparison_book(pair, both, command=None)
    run_book(second, single, command=None)
    compared = rows(openpyxl.load_workbook(both)["Comparison"])
    metrics = rows(openpyxl.load_workbook(single)["Quantiles"])
    summaries = report_json(second)["summaries"]

    for row, wanted in zip(compared, comparison_json(pair)["comparisons"], strict=False):
        assert same(row["ratio"], wanted["ratio"])
        assert same([row["95% CI, low"], row["95% CI, high"]], wanted["ci"])
    errors = comparison_json(pair)["errors"]
    assert compared[-1]["metric"] == "errors"
    assert same(
        [compared[-1]["candidate"], compared[-1]["ratio"]],
        [errors["candidate"], errors["difference"]],
    )
    assert len(metrics) == len(summaries)
    for row in metrics:
        summary = summaries[row["metric"]]
        assert row["unit"] == ("ms" if summary["unit"] == "s" else summary["unit"])
        for p, wanted in summary["quantiles"].items():
            if p in row:
                ends = [None, None] if wanted["refusal"] else wanted["ci"]
                figures = [row[p], row.get(f"{p}, low"), row.get(f"{p}, high")]
                assert same(
                    figures, [shown_in(summary["unit"], x) for x in (wanted["value"], *ends)]
                )


def test_the_book_of_a_run_has_what_was_asked_and_what_to_beware_of(found: GateResults) -> None:
    """Goodput by --slo, and that the run was interrupted, as text and page have them."""
    (arm, *_), slo = found.arms[0].runs, parse_slo("e2e<10s")
    early = replace(arm, run=replace(arm.run, totals={**arm.run.totals, "ended_by": "interrupt"}))
    file = io.BytesIO()

    run_book(early, file, command=None, slo=slo)

    sheets = openpyxl.load_workbook(file)
    assert rows(sheets["Throughput"])[0]["goodput"] == 1
    said = [cell.value for cell in sheets["Verdict"]["B"]]
    assert "interrupted before its plan had ended" in said


def test_figures_have_the_digits_and_the_colours_of_the_page(found: GateResults) -> None:
    """Milliseconds with a decimal, ratios as 1.20x, shares in per cent; the exact value behind each."""
    both, gates = io.BytesIO(), io.BytesIO()
    comparison_book(compare(found.arms[0].runs[0], found.arms[1].runs[0]), both, command=None)
    judgement_book(found, gates, command=None)
    compared, gated = openpyxl.load_workbook(both), openpyxl.load_workbook(gates)

    cells = by_heading(compared["Comparison"])
    assert cells["baseline"].number_format == '#,##0.0" ms"'
    for heading in ("ratio", "95% CI, low", "95% CI, high"):
        assert '0.00"x"' in cells[heading].number_format
    assert by_heading(compared["Quantiles"])["n"].number_format == "#,##0"
    assert by_heading(compared["Errors"])["share failed"].number_format == "0.00%"
    errors = next(k for k, row in enumerate(found.rows) if row.gate.metric == "errors")
    assert by_heading(gated["Gates"], errors)["candidate"].number_format == "0.00%"
    assert by_heading(gated["Gates"], errors)["90% CI, low"].number_format == "0.00%"
    assert by_heading(gated["Gates"], errors)["result"].font.color.rgb == "FFB3261E"
    assert gated["Verdict"]["A1"].font.color.rgb == "FFB3261E"
    slower = [row for row in rows(compared["Comparison"]) if row["result"] == "slower"]
    assert slower
    at = rows(compared["Comparison"]).index(slower[0])
    assert by_heading(compared["Comparison"], at)["result"].font.color.rgb == "FFB3261E"


def test_every_sheet_prints_one_page_wide_with_its_header(written: bytes, book: Any) -> None:
    """Sentences wrap in their columns, and a row is as high as its text."""
    for sheet in book.worksheets:
        assert (sheet.page_setup.fitToWidth or 1, sheet.page_setup.fitToHeight) == (1, 0)
        assert sheet.sheet_properties.pageSetUpPr.fitToPage
        if sheet.title != "Verdict":
            assert sheet.freeze_panes == "B3"
            assert sheet.print_title_rows == "$2:$2"
    for row in book["Verdict"].iter_rows(min_row=3):
        assert row[1].alignment.wrap_text
        lines = -(-len(str(row[1].value or "")) // 100)
        assert lines < 2 or book["Verdict"].row_dimensions[row[1].row].height >= 15 * lines


def test_the_comparison_has_a_chart_of_its_ratios(found: GateResults) -> None:
    """A bar for each row from no change on, with its interval, in the colour of its finding."""
    file = io.BytesIO()
    pair = compare(found.arms[0].runs[0], found.arms[1].runs[0])
    comparison_book(pair, file, command=None)
    with zipfile.ZipFile(file) as parts:
        chart = parts.read("xl/charts/chart1.xml").decode()

    slower = sum(row.finding == "slower" for row in pair.rows)
    assert "Ratio candidate / baseline with its 95% interval" in chart
    assert f"Comparison!$A$3:$B${2 + len(pair.rows)}" in chart
    assert chart.count("<c:dPt>") == len(pair.rows)
    assert chart.count("B3261E") == slower > 0
    assert "<c:errBars>" in chart
    assert '<c:crossesAt val="1"/>' in chart


def test_equal_lengths_have_a_sheet(found: GateResults) -> None:
    """The ratios of the JSON; where all answers are of one length there is nothing to say."""
    first, second = found.arms[0].runs[0], found.arms[1].runs[0]
    pair = compare(first, second)
    lengths = np.random.default_rng(1).integers(40, 60, (2, len(first)))
    arms = [
        replace(one, run=replace(one.run, columns={**one.run.columns, "output_tokens": tokens}))
        for one, tokens in zip((first, second), lengths, strict=True)
    ]
    books = []
    for one in (pair, other := compare(*arms)):
        file = io.BytesIO()
        comparison_book(one, file, command=None)
        books.append(openpyxl.load_workbook(file))
    shown = rows(books[1]["Equal lengths"])
    wanted = comparison_json(other)["equal_lengths"]["comparisons"]

    assert "Equal lengths" not in books[0].sheetnames
    assert [row["quantile"] for row in shown] == [f"p{100 * row['quantile']:g}" for row in wanted]
    for row, of_json in zip(shown, wanted, strict=True):
        assert same(row["ratio"], of_json["ratio"])
        assert same([row["95% CI, low"], row["95% CI, high"]], of_json["ci"])


def test_a_disk_that_is_full_is_an_error_of_the_system(found: GateResults) -> None:
    """Whoever opened the file says so in one line."""
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        run_book(found.arms[0].runs[0], file, command=None)
