"""--html, --charts and --xlsx as a user gives them: what is written, for whom, and what is refused."""

import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tbench.__main__ import run as tbench

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(experiment: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of A and of B, which is 20 % slower."""
    folder = tmp_path_factory.mktemp("runs")
    experiment(folder, {"A": 1.0, "B": 1.2}, 3)
    return folder


def test_repeated_runs_are_shared_as_page_charts_and_workbook(
    folder: Path, tmp_path: Path, capsys: Said
) -> None:
    """The exit code stays the verdict's; files are their owner's; stderr says where they are."""
    page, charts, book = tmp_path / "a.html", tmp_path / "new" / "charts", tmp_path / "a.xlsx"
    arms = (f"{folder}/A-*.run", f"{folder}/B-*.run")
    code = tbench(
        ["compare", *arms, "--margin", "5%", "--html", str(page), "--charts", str(charts),
         "--xlsx", str(book)]
    )  # fmt: skip
    said = capsys.readouterr()
    files = [page, book, *charts.iterdir()]

    assert code == 1
    assert said.out.startswith("FAIL: ")
    assert said.err.splitlines() == [
        f"report: {page}",
        f"charts: {charts} ({len(files) // 2 - 1}, each as PNG and SVG)",
        f"workbook: {book}",
    ]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert "B is worse than A by more than the margin" in page.read_text()
    assert book.read_bytes().startswith(b"PK")


def test_every_chart_is_a_picture_that_needs_nothing_else(folder: Path, tmp_path: Path) -> None:
    """PNG of two pixels a point, SVG without a reference to anywhere, each under the chart's title."""
    tbench(["report", f"{folder}/A-0.run", "--charts", str(tmp_path)])
    names = sorted(file.stem for file in tmp_path.glob("*.png"))

    assert {"distribution-of-ttft", "ttft-over-time", "requests-in-flight"} <= set(names)
    assert names == sorted(file.stem for file in tmp_path.glob("*.svg"))
    for name in names:
        png, svg = (tmp_path / f"{name}.png").read_bytes(), (tmp_path / f"{name}.svg").read_text()
        width, height = struct.unpack(">II", png[16:24])
        drawn = [one.tag.rpartition("}")[2] for one in ET.fromstring(svg).iter()]

        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert (width > 1400, height > 300) == (True, True)
        assert drawn.count("path") > 10
        assert drawn.count("text") > 5
        assert "currentColor" not in svg
        assert not {"image", "script", "use", "a"} & set(drawn)


def test_a_run_is_not_overwritten_by_its_report(folder: Path, capsys: Said) -> None:
    """One line that names the option."""
    run = folder / "A-0.run"
    before = run.read_bytes()
    for option in ("--html", "--xlsx"):
        code = tbench(["report", str(run), option, str(run)])

        assert code == 2
        assert f"{option} {run}: this is a trace or a run" in capsys.readouterr().err
    assert run.read_bytes() == before


def test_what_cannot_be_written_is_said_in_a_line(
    folder: Path, tmp_path: Path, capsys: Said
) -> None:
    """A folder that is a file, a file in a folder that is not there."""
    run = f"{folder}/A-0.run"
    (tmp_path / "file").write_text("x")
    asked = {"--charts": tmp_path / "file", "--xlsx": tmp_path / "no" / "a.xlsx"}
    for option, path in asked.items():
        code = tbench(["report", run, option, str(path)])
        said = capsys.readouterr().err.splitlines()

        assert code == 2
        assert len(said) == 1
        assert f"{option} {path}" in said[0]


def test_a_self_check_has_none_of_them(folder: Path, tmp_path: Path, capsys: Said) -> None:
    """No option is taken and ignored."""
    code = tbench(["compare", "--self-check", f"{folder}/A-*.run", "--charts", str(tmp_path)])

    assert code == 2
    assert "--self-check has no page" in capsys.readouterr().err
