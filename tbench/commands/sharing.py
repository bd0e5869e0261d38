"""Reports that people share, as `report` and `compare` offer them: a page, charts, a workbook."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from tbench.capture.errors import InputError
from tbench.capture.writing import check_folder
from tbench.commands.output import private

if TYPE_CHECKING:
    from tbench.analysis.report.figures import Report

Html = Annotated[
    Path | None, typer.Option(help="Also write a self-contained HTML page to this file.")
]
Charts = Annotated[
    Path | None,
    typer.Option(help="Also write every chart to this folder, as PNG and as SVG.", metavar="DIR"),
]
Xlsx = Annotated[
    Path | None,
    typer.Option(
        help="Also write an Excel workbook to this file: verdict, figures, every sample as far as a sheet "
        "goes (1,048,576 rows), errors, environment. A million samples take minutes."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Where each report goes; None: it was not asked for."""

    html: Path | None
    charts: Path | None
    xlsx: Path | None

    def __post_init__(self) -> None:
        for option, path in (("--html", self.html), ("--xlsx", self.xlsx)):
            if path is not None:
                check_folder(path, f"{option} {path}")

    def __bool__(self) -> bool:
        return any((self.html, self.charts, self.xlsx))

    def write(self, report: Callable[[], "Report"], book: Callable[[BinaryIO], None]) -> None:
        """Write what was asked for, and say where it is."""
        if self.html or self.charts:
            whole = report()
            if self.html:
                with private(self.html, "--html") as file:
                    file.write(whole.page().encode())
                print(f"report: {self.html}", file=sys.stderr)
            if self.charts:
                _charts(self.charts, whole)
        if self.xlsx:
            with private(self.xlsx, "--xlsx") as file:
                book(file)
            print(f"workbook: {self.xlsx}", file=sys.stderr)


def _charts(folder: Path, report: "Report") -> None:
    from tbench.analysis.report.pictures import pictures

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--charts {folder}: cannot be made: {error.strerror}") from None
    for name, content in pictures(report.pictures, report.about):
        with private(folder / name, "--charts") as file:
            file.write(content)
    print(f"charts: {folder} ({len(report.pictures)}, each as PNG and SVG)", file=sys.stderr)
