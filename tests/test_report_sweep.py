"""`tbench report FOLDER` of a benchmark: its sweep, a row for each point, with the figures of its files."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tbench.__main__ import run as tbench
from tests.benchmark_folder import BenchmarkFolder

Said = pytest.CaptureFixture[str]
OURS = {"valid": True, "invalid_because": None, "warnings": []}


@pytest.fixture
def folder(tmp_path: Path) -> BenchmarkFolder:
    """TTFT 104 and 107 ms at p50 and p95, TPOT 20.8 and 21.4, end to end 2,080 and 2,140."""
    return BenchmarkFolder(tmp_path / "x").metadata()


def rows(shown: str) -> list[list[str]]:
    """The words of the lines of a table."""
    lines = map(str.split, shown.splitlines())
    return [words for words in lines if words and words[0].isdigit()]


def test_a_row_has_what_became_of_a_point_and_how_fast_it_was(
    folder: BenchmarkFolder, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path.parent)
    folder.point("D(100,100)", 1, n=420, rps=3.5, tokens=900.0, **OURS)
    folder.point("D(100,100)", 2, n=450, errors=30, rps=7.0, tokens=1800.0, **OURS)

    assert tbench(["report", folder.path.name]) == 0
    shown = capsys.readouterr().out

    assert "D(100,100), by concurrency; latencies in ms" in shown
    assert rows(shown) == [
        ["1", "420", "0", "3.50", "450", "104", "107", "20.8", "21.4", "2,080", "2,140", "valid"],
        ["2", "420", "30", "7.00", "900", "104", "107", "20.8", "21.4", "2,080", "2,140", "valid"],
    ]
    assert "latencies of the completed ones" in " ".join(shown.split())
    assert "tbench plot --experiments-folder x" in shown
    (hint,) = re.findall("workbook +tbench (.*)", shown)
    assert tbench(shlex.split(hint)) == 0
    tbench(["report", folder.path.name])
    assert "workbook" not in capsys.readouterr().out


def test_a_quantile_of_few_requests_is_marked_and_milliseconds_stay_what_they_are(
    folder: BenchmarkFolder, capsys: Said
) -> None:
    """A p95 needs 400 values for an interval; the file is in ms already."""
    folder.metadata(metrics_time_unit="ms").point("D(100,100)", 1, n=399, unit="ms", **OURS)

    tbench(["report", str(folder.path)])
    (row,) = rows(capsys.readouterr().out)

    assert row[5:7] == ["104", "107*"]


def test_one_invalid_point_ends_with_4_and_its_reason(
    folder: BenchmarkFolder, capsys: Said
) -> None:
    folder.point("D(100,100)", 1, **OURS)
    folder.point("D(100,100)", 2, valid=False, invalid_because="this client sent late", warnings=[])

    assert tbench(["report", str(folder.path)]) == 4
    shown = capsys.readouterr()

    assert [row[-1] for row in rows(shown.out)] == ["valid", "INVALID"]
    assert "! D(100,100) at num_concurrency 2: INVALID, this client sent late" in shown.out
    assert "1 of 2 points INVALID" in shown.err
    assert "this client sent late" in shown.err


def test_points_in_which_nothing_succeeded_end_with_5(
    folder: BenchmarkFolder, capsys: Said
) -> None:
    folder.point("D(100,100)", 1, n=3, errors=3, **OURS)

    assert tbench(["report", str(folder.path)]) == 5
    shown = capsys.readouterr()
    assert rows(shown.out)[0][1:3] == ["0", "3"]
    assert "no request succeeded in any point" in shown.err


def test_a_lower_bound_a_missing_point_and_a_warning_are_said(
    folder: BenchmarkFolder, capsys: Said
) -> None:
    own = {**OURS, "warnings": ["the server ends answers late"]}
    folder.point("D(100,100)", 1, without_token_counts={"input": 0, "output": 2}, **own)

    assert tbench(["report", str(folder.path)]) == 0
    shown = capsys.readouterr().out

    assert "≥ 100" in shown
    assert "! D(100,100): no result at num_concurrency 2" in shown
    assert "! D(100,100) at num_concurrency 1: the server ends answers late" in shown


def test_genai_benchs_own_folder_is_read_and_says_nothing_of_validity(
    folder: BenchmarkFolder, capsys: Said
) -> None:
    folder.point("D(100,100)", 1)

    assert tbench(["report", str(folder.path)]) == 0
    assert rows(capsys.readouterr().out)[0][-1] == "-"


def test_json_holds_the_points_as_benchmark_prints_them(
    folder: BenchmarkFolder, capsys: Said
) -> None:
    folder.point("D(100,100)", 1, **OURS)
    runs = folder.path / "runs"
    runs.mkdir()
    run = runs / "D100_100_text-to-text_num_concurrency_1.run"
    run.touch()

    assert tbench(["report", str(folder.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert found["folder"] == str(folder.path)
    assert found["metrics_time_unit"] == "s"
    (point,) = found["points"]
    assert point["run"] == str(run)
    assert point["stats"]["ttft"]["p50"] == pytest.approx(0.104)
    assert point["num_concurrency"] == 1


def test_a_folder_without_results_is_bad_input(folder: BenchmarkFolder, capsys: Said) -> None:
    assert tbench(["report", str(folder.path)]) == 2
    assert "there is no result in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        (["--html", "x.html"], "tbench plot --experiments-folder"),
        (["--charts", "charts"], "tbench plot --experiments-folder"),
        (["--xlsx", "x.xlsx"], "tbench excel --experiment-folder"),
        (["--slo", "ttft<1s"], "report one of its runs"),
        (["--json", "--samples"], "report one of its runs"),
    ],
)
def test_what_a_sweep_has_elsewhere_is_said(
    option: list[str], instead: str, folder: BenchmarkFolder, capsys: Said
) -> None:
    folder.point("D(100,100)", 1, **OURS)

    assert tbench(["report", str(folder.path), *option]) == 2
    shown = capsys.readouterr()
    assert instead in shown.err
    assert option[-2] in shown.err or option[-1] in shown.err
    assert not shown.out


def test_an_slo_of_the_settings_asks_nothing_of_a_sweep(
    folder: BenchmarkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands ready for reports of runs; only one that was asked for is refused."""
    folder.point("D(100,100)", 1, **OURS)
    monkeypatch.setenv("TBENCH_SLO", "ttft<1s")

    assert tbench(["report", str(folder.path)]) == 0
