"""The workbook of a benchmark, read back by another program: its numbers are those of the JSON files."""

import io
import json
import stat
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import openpyxl
import pytest

from tbench.benchmark.folder import load_experiment
from tbench.benchmark.workbook import benchmark_book, write_workbook
from tbench.benchmark.workbook_columns import TOKENS
from tbench.capture.errors import InputError
from tests.benchmark_folder import BenchmarkFolder

SHEETS = [
    *("Summary", "Appendix", "Experiment Metadata", "Aggregated Metrics for Each Run"),
    "Individual Request Metrics",
]
AGGREGATED, INDIVIDUAL = SHEETS[3], SHEETS[4]
EVIL = "=1+1"


@pytest.fixture
def folder(tmp_path: Path) -> BenchmarkFolder:
    """Two scenarios at 1, 2 and 4; the last point of the second has nothing but errors."""
    made = BenchmarkFolder(tmp_path / "x").metadata(
        num_concurrency=[1, 2, 4], traffic_scenario=["D(100,100)", "D(7,7)"], model=EVIL
    )
    for scenario in ("D(100,100)", "D(7,7)"):
        for value, speed in ((1, 40.0), (2, 20.0), (4, 8.0)):
            failing = 3 if (scenario, value) == ("D(7,7)", 4) else 0
            made.point(scenario, value, speed=speed, tokens=value * 90, rps=value, errors=failing)
    return made


def written(folder: BenchmarkFolder, percentile: str = "mean", unit: Any = None) -> Any:
    path = folder.path / "book.xlsx"
    write_workbook(load_experiment(folder.path, unit), path, percentile)
    return openpyxl.load_workbook(path)


def rows(sheet: Any) -> list[dict[str, Any]]:
    head, *body = list(sheet.iter_rows(values_only=True))
    return [dict(zip(head, row, strict=True)) for row in body]


def same(given: float | None, wanted: float | None) -> bool:
    """Equal to the sixteen digits of Excel's files; nothing is only equal to nothing."""
    return given is wanted is None or given == pytest.approx(wanted, rel=1e-14)


def source(folder: BenchmarkFolder, scenario: str, value: int) -> dict[str, Any]:
    """The JSON of a point with this scenario, `D(a,b)`."""
    name = scenario.replace("(", "").replace(")", "").replace(",", "_")
    (path,) = folder.path.glob(f"{name}_*_{value}_time_*s.json")
    found: dict[str, Any] = json.loads(path.read_text())["aggregated_metrics"]
    return found


def hidden(sheet: Any) -> set[str]:
    """Titles of columns that are folded away; a dimension may stand for several."""
    titles = [cell.value for cell in sheet[1]]
    return {
        titles[place - 1]
        for one in sheet.column_dimensions.values()
        if one.hidden
        for place in range(one.min, one.max + 1)
    }


def test_the_summary_names_the_picks(folder: BenchmarkFolder) -> None:
    """4 is too slow at 8 tokens/s: 2 in flight have 180 tokens/s, 10,800 a minute."""
    found = rows(written(folder)["Summary"])

    for row, use in zip(found[:2], ("D(100,100) (chat)", "D(7,7)"), strict=True):
        assert (row["GPU Type"], row["Use Case"]) == ("4xH100", use)
        assert row["Concurrency at target speed (>10 tokens/s)"] == 2
        assert row["Total Throughput (tokens/min)"] == 10_800
        assert row["Error Rate at It"] == 0
    assert "D(7,7) at num_concurrency 4: 100.00% of 3 requests failed" in [
        row["GPU Type"] for row in found[2:]
    ]


def test_a_throughput_that_nobody_knows_is_none_and_not_0(folder: BenchmarkFolder) -> None:
    """Prompts that no one counted: the speed of the answers picks, and there is no total."""
    for value in (1, 2):
        unknown: Any = {TOKENS: None, "mean_input_throughput_tokens_per_s": None}
        folder.point("D(7,7)", value, speed=40.0, rps=value, **unknown)
    row = rows(written(folder)["Summary"])[1]

    assert row["Concurrency at target speed (>10 tokens/s)"] == 2
    assert row["Total Throughput (tokens/min)"] is None


def test_a_scenario_without_a_pick_says_why(folder: BenchmarkFolder) -> None:
    """N/A, as genai-bench writes it."""
    for path in folder.path.glob("D7_7*"):
        path.unlink()
    folder.metadata(traffic_scenario=["D(100,100)", "D(9,9)"], num_concurrency=[1, 2, 4])
    folder.point("D(9,9)", 1, speed=3)
    found = rows(written(folder)["Summary"])

    assert found[1]["Concurrency at target speed (>10 tokens/s)"] == "N/A"
    assert found[1]["Total Throughput (tokens/min)"] == "N/A"
    assert found[1]["Why"] == "no point has a speed over 10 tokens/s"
    assert "D(9,9): no result at num_concurrency 2, 4" in [row["GPU Type"] for row in found]


@pytest.mark.parametrize("unit", ["s", "ms"])
@pytest.mark.parametrize("percentile", ["mean", "p25", "p50", "p75", "p90", "p95", "p99"])
def test_the_appendix_has_the_figures_of_the_json(
    folder: BenchmarkFolder, percentile: str, unit: str
) -> None:
    """At the percentile and in the unit asked for; nothing of a point without an answer."""
    times = {"s": 1, "ms": 1000}[unit]
    found = rows(written(folder, percentile, unit)["Appendix"])

    assert len(found) == 6
    for row in found:
        wanted = source(folder, row["Use Case"].partition(" (")[0], row["Concurrency"])
        stats = {name: of[percentile] for name, of in wanted["stats"].items()}
        ttft, e2e = (stats[name] and stats[name] * times for name in ("ttft", "e2e_latency"))
        assert same(row[f"TTFT ({unit})"], ttft)
        assert same(row[f"End-to-End Latency per Request ({unit})"], e2e)
        assert same(
            row["Output Inference Speed per Request (tokens/s)"], stats["output_inference_speed"]
        )
        for title, name in (
            ("Output Throughput of Server (tokens/s)", "mean_output_throughput_tokens_per_s"),
            ("Request Throughput (RPS)", "requests_per_second"),
            (
                "Total Throughput (Input + Output) of Server (tokens/s)",
                "mean_total_tokens_throughput_tokens_per_s",
            ),
        ):
            assert same(row[title], wanted[name])
        assert row["Error Rate"] == wanted["num_error_requests"] / wanted["num_requests"]


def test_every_point_is_there_with_its_statistics(folder: BenchmarkFolder) -> None:
    """The error rate is counted, not the 0 that genai-bench wrote; statistics are JSON."""
    found = rows(written(folder, unit="ms")[AGGREGATED])
    last = found[-1]

    assert [(row["scenario"], row["num_concurrency"]) for row in found] == [
        (scenario, value) for scenario in ("D(100,100)", "D(7,7)") for value in (1, 2, 4)
    ]
    assert json.loads(found[0]["ttft (ms)"])["mean"] == pytest.approx(100)
    assert json.loads(found[0]["num_input_tokens"])["mean"] == 100
    assert (last["error_rate"], last["num_error_requests"]) == (1, 3)
    assert json.loads(last["error_codes_frequency"]) == {"429": 3}
    assert json.loads(last["ttft (ms)"])["mean"] is None


def test_every_request_is_there(folder: BenchmarkFolder) -> None:
    """Failed ones, too; a message that looks like a formula stays a text."""
    found = rows(written(folder, unit="ms")[INDIVIDUAL])

    assert len(found) == 18
    assert [row["ttft (ms)"] for row in found[:3]] == pytest.approx([100, 101, 102])
    assert found[0]["num_output_tokens"] == 100
    assert found[0]["error_code"] is None
    assert [row["error_code"] for row in found[-3:]] == [429] * 3
    assert found[-1]["error_message"] == "=slow down"
    assert found[-1]["ttft (ms)"] is None


def test_columns_that_say_nothing_fold_away(folder: BenchmarkFolder) -> None:
    """Reasoning of a model that does none; but never a rate of errors that is 0."""
    for path in folder.path.glob("D7_7*"):
        path.unlink()
    book = written(folder)

    assert hidden(book[INDIVIDUAL]) == {"num_reasoning_tokens", "error_code", "error_message"}
    assert {"num_reasoning_tokens", "error_codes_frequency"} <= hidden(book[AGGREGATED])
    assert not {"error_rate", "num_error_requests", "scenario"} & hidden(book[AGGREGATED])


def test_headers_stay_in_view_and_numbers_have_formats(folder: BenchmarkFolder) -> None:
    book = written(folder)

    assert book.sheetnames == SHEETS
    assert [book[name].freeze_panes for name in SHEETS] == ["C2", "D2", "B1", "C2", "C2"]
    assert book["Appendix"]["D2"].number_format == "#,##0.0000"
    assert book["Appendix"]["J2"].number_format == "0.00%"
    assert book["Summary"]["D2"].number_format == "#,##0.00"


def test_everything_can_be_read_without_dragging(folder: BenchmarkFolder) -> None:
    """Headers have room for two lines, long values for all of theirs."""
    folder.metadata(
        cmd="genai-bench " + "--traffic-scenario D(100,100) " * 20, notes="word " * 1000
    )
    book = written(folder)
    metadata = book["Experiment Metadata"]

    assert min(book[name].row_dimensions[1].height for name in SHEETS if "Meta" not in name) >= 32
    assert metadata.row_dimensions[1].height >= 6 * 16, "six hundred characters, a hundred across"
    assert max(row.height for row in metadata.row_dimensions.values()) <= 409, "Excel's tallest row"
    assert {cell.alignment.horizontal for cell in metadata["B"] if cell.value is not None} == {
        "left"
    }
    for name, lines in (("Appendix", 1), (AGGREGATED, 2), (INDIVIDUAL, 1)):
        for cell in book[name][1]:
            longest = max(map(len, str(cell.value).split(" ")))
            assert width(book[name], cell) * lines >= longest, f"{cell.value} breaks within a word"


def width(sheet: Any, cell: Any) -> float:
    dimensions = sheet.column_dimensions.values()
    return float(next(each.width for each in dimensions if each.min <= cell.column <= each.max))


def test_every_sheet_is_one_page_wide(folder: BenchmarkFolder) -> None:
    """On paper; the maps of statistics are for programs, and fold away. What is long wraps, or is merged."""
    because = "this client was the limit: " + "it read late, " * 12
    folder.point("D(100,100)", 2, valid=False, invalid_because=because, goodput=0.97, slo="ttft<1s")
    book = written(folder)
    summary = book["Summary"]
    (note,) = (cell for cell in summary["A"] if because in str(cell.value))
    aggregated = book[AGGREGATED]
    shown = [cell for cell in aggregated[1] if cell.value not in hidden(aggregated)]
    goodput = next(cell for cell in aggregated[1] if cell.value == "goodput")

    for sheet in book.worksheets:
        assert sheet.page_setup.orientation == "landscape"
        assert sheet.sheet_properties.pageSetUpPr.fitToPage
        assert sheet.page_setup.fitToWidth in {None, 1}, "None: as it is by default, 1"
    assert {"ttft (s)", "total_tokens", "output_throughput (tokens/s)"} <= hidden(aggregated)
    assert "mean_total_tokens_throughput_tokens_per_s" not in hidden(aggregated)
    assert sum(width(aggregated, cell) for cell in shown) < 350
    assert f"{note.coordinate}:F{note.row}" in [str(cells) for cells in summary.merged_cells.ranges]
    assert summary.row_dimensions[note.row].height >= 2 * 16
    assert aggregated.cell(3, goodput.column).number_format == "0.00%"
    for name in ("Appendix", AGGREGATED):
        (cell,) = (cell for row in book[name].iter_rows() for cell in row if cell.value == because)
        assert cell.alignment.wrap_text
        assert book[name].row_dimensions[cell.row].height >= 4 * 16


def test_shares_are_shares_in_the_charts(folder: BenchmarkFolder) -> None:
    written(folder)
    with zipfile.ZipFile(folder.path / "book.xlsx") as parts:
        (errors,) = (
            text
            for name in parts.namelist()
            if "charts/chart" in name and "Error Rate" in (text := parts.read(name).decode())
        )

    assert 'formatCode="0%"' in errors


def test_charts_are_over_the_rows_of_each_scenario(folder: BenchmarkFolder) -> None:
    """Six native charts; one line for each scenario, over its own rows of the appendix."""
    written(folder)
    space = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
    with zipfile.ZipFile(folder.path / "book.xlsx") as parts:
        assert parts.testzip() is None
        for name in parts.namelist():
            if name.endswith((".xml", ".rels")):
                ET.fromstring(parts.read(name))
        charts = sorted(name for name in parts.namelist() if "charts/chart" in name)
        second = ET.fromstring(parts.read("xl/charts/chart2.xml"))
    formulas = [one.text for one in second.iter(f"{space}f")]

    assert len(charts) == 6
    assert formulas == [
        *("Appendix!$C$2:$C$4", "Appendix!$D$2:$D$4"),
        *("Appendix!$C$5:$C$7", "Appendix!$D$5:$D$7"),
    ]


def test_metadata_hold_no_key(tmp_path: Path) -> None:
    """genai-bench writes its whole command down, keys and all; names that only sound alike stay."""
    folder = BenchmarkFolder(tmp_path / "x").metadata(
        cmd="genai-bench benchmark --api-key hunter2 --model-tokenizer t5 --github-token='x y' --task t",
        auth_config={"api_key": "hunter3", "kind": "user"},
        additional_request_params={"top_p": 0.5, "extra_body": {"tools": [{"token": "hunter4"}]}},
        num_concurrency=[1, 2],
    )
    folder.point("D(100,100)", 1)
    cells = dict(written(folder)["Experiment Metadata"].iter_rows(values_only=True))

    assert cells["cmd"] == (
        "genai-bench benchmark --api-key *** --model-tokenizer t5 --github-token=*** --task t"
    )
    assert json.loads(cells["auth_config"]) == {"api_key": "***", "kind": "user"}
    assert json.loads(cells["additional_request_params"]) == {"top_p": 0.5, "extra_body": "***"}
    assert (cells["num_concurrency"], cells["max_time_per_run_s"]) == ("1, 2", 60)
    assert cells["workbook_percentile"] == "mean"


def test_embeddings_go_by_batch_size(tmp_path: Path) -> None:
    folder = BenchmarkFolder(tmp_path / "x").metadata(
        task="text-to-embeddings", iteration_type="batch_size", batch_size=[1, 4],
        num_concurrency=[1], traffic_scenario=["E(64)"], server_gpu_count=None,
    )  # fmt: skip
    for value, tokens in ((1, 64), (4, 256)):
        folder.point("E(64)", value, axis="batch_size", tokens=tokens, speed=0.0)
    book = written(folder)
    (summary, *_) = rows(book["Summary"])
    appendix = rows(book["Appendix"])

    assert summary["GPU Type"] == "H100"
    assert summary["Batch Size at target throughput (>100 tokens/s)"] == 4
    assert summary["Total Throughput (tokens/min)"] == 15_360
    assert [row["Batch Size"] for row in appendix] == [1, 4]
    assert "Output Throughput of Server (tokens/s)" not in appendix[0]
    assert "output_inference_speed (tokens/s)" in hidden(book[AGGREGATED])


def test_rates_repeats_and_invalid_points_are_told_apart(tmp_path: Path) -> None:
    """What only tbench writes: an axis of its own, the run's number, why a point is not to be used."""
    folder = BenchmarkFolder(tmp_path / "x").metadata(
        num_concurrency=[], traffic_scenario=["D(1,1)"]
    )
    for repeat in (1, 2):
        folder.point("D(1,1)", 0.5, axis="poisson", num_concurrency=7, repeat=repeat, seed=2**62 + 1,
                     valid=repeat == 1, invalid_because=None if repeat == 1 else "late")  # fmt: skip
    book = written(folder)
    appendix, whole = rows(book["Appendix"]), rows(book[AGGREGATED])
    summary = rows(book["Summary"])

    assert [row["Poisson Rate (requests/s)"] for row in appendix] == [0.5, 0.5]
    assert [row["Run"] for row in appendix] == [1, 2]
    assert [row["Invalid Because"] for row in appendix] == [None, "late"]
    assert summary[0]["Poisson Rate (requests/s) at target speed (>10 tokens/s)"] == 0.5
    assert summary[0]["Why"].startswith("INVALID (see below)")
    assert "D(1,1) at poisson 0.5, run 2: INVALID, late" in [row["GPU Type"] for row in summary]
    assert whole[0]["seed"] == str(2**62 + 1), "to its last digit"
    assert whole[0]["num_concurrency"] == 7


def test_what_a_sheet_cannot_hold_is_said(folder: BenchmarkFolder) -> None:
    """The first requests of each point; how many are missing stands on the first sheet."""
    file = io.BytesIO()
    notes = benchmark_book(load_experiment(folder.path), file, "mean", most=13)
    book = openpyxl.load_workbook(file)
    found = rows(book[INDIVIDUAL])

    assert len(found) == 12
    assert [row["num_concurrency"] for row in found[:4]] == [1, 1, 2, 2]
    assert any("6 of 18 requests are LEFT OUT" in note for note in notes)
    assert notes[-1] in [row["GPU Type"] for row in rows(book["Summary"])]


def test_it_is_private_and_whole(folder: BenchmarkFolder) -> None:
    """Errors may quote what was sent."""
    path = folder.path / "book.xlsx"
    write_workbook(load_experiment(folder.path), path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(folder.path.glob("*.part"))
    with pytest.raises(InputError, match="nowhere does not exist"):
        write_workbook(load_experiment(folder.path), folder.path / "nowhere" / "book.xlsx")


def test_a_text_is_never_a_formula(folder: BenchmarkFolder) -> None:
    """A model called =1+1 stays a name."""
    written(folder)
    with zipfile.ZipFile(folder.path / "book.xlsx") as parts:
        sheets = [parts.read(name) for name in parts.namelist() if "worksheets/sheet" in name]

    assert not [sheet for sheet in sheets if b"<f>" in sheet]
