"""Output: where a report goes, and what it goes to."""

import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, TypedDict

from tbench.capture.errors import InputError
from tbench.capture.option import Option
from tbench.capture.runtime import stop_signals
from tbench.capture.terminal import naming, styled
from tbench.capture.writing import PRIVATE, SHARED, check_folder, whole_file

if TYPE_CHECKING:
    from tbench.analysis.report.figures import Report

FRAME = b"\xc9"
"""What every trace and run begins with, and no page."""
PIPED_COLUMNS = 100
"""The width of a text that nobody's terminal limits."""


EXITS: Final = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, "INVALID": 4}
"""The exit code of a verdict."""


class Terminal(TypedDict):
    """What standard output can show."""

    width: int
    colour: bool


def terminal() -> Terminal:
    """The terminal's own width, and colour unless NO_COLOR is set; fixed and plain for a pipe."""
    if not sys.stdout.isatty():
        return {"width": PIPED_COLUMNS, "colour": False}
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return {"width": shutil.get_terminal_size((PIPED_COLUMNS, 24)).columns, "colour": colour}


def show(text: str) -> None:
    """Print a report whose words are escaped and whose styling is our own (a Sheet's)."""
    stream = styled(sys.stdout)
    with naming(stream):
        print(text, file=stream, flush=True)


def command_line() -> str:
    """The command as it was typed, for the page that it makes."""
    return shlex.join(["tbench", *sys.argv[1:]])


@contextmanager
def private(path: Path, option: str) -> Iterator[BinaryIO]:
    """A file for its owner's eyes (it may quote a server's errors), for the report that `option` asks for.

    Raises InputError where that cannot be, or where a trace or a run would be lost by it.
    """
    _refuse_container(path, option)
    with whole_file(path, PRIVATE, named=f"{option} {path}") as file:
        yield file


def write_shared(option: str, path: Path, text: str) -> None:
    """Write a file that whoever reads the folder may read: verdicts and figures, no prompts.

    Raises InputError as `private`; `option` is what named the file.
    """
    _refuse_container(path, option)
    with whole_file(path, SHARED, named=f"{option} {path}") as file:
        file.write(text.encode("utf-8", "replace"))


def _refuse_container(path: Path, option: str) -> None:
    """Not a trace, nor a run: it would be lost. A file that cannot be read may be written over."""
    with suppress(OSError):
        if path.is_file() and path.open("rb").read(1) == FRAME:
            raise InputError(f"{option} {path}: this is a trace or a run; name another file")


# Reports that people share, as `report` and `compare` offer them: a page, charts, a workbook.


def held_to(module: str, parser: str) -> Callable[[str], str]:
    """A reader that leaves a text as it is, once its parser (which takes long to load) has taken it."""

    def read(text: str) -> str:
        getattr(import_module(module), parser)(text)
        return text

    return read


OUTPUT: Final = "Output"
GATES: Final = "Gates on repeated runs"
Margin = Annotated[
    str | None,
    Option(
        help="Gate TTFT and E2E, p50 and p95, by how much worse they may get (ab: 5% unless there is a "
        "--gate), and failures by 0.5 points.",
        unit="SHARE",
        group=GATES,
        read=held_to("tbench.analysis.gate", "parse_margin"),
        late=True,
        common=True,
        of_target=True,
    ),
]
Gates = Annotated[
    Sequence[str],
    Option(
        help="Gate one change (ttft:p95:5%, errors:0.5pp, goodput:1pp, requests_per_s:5%) or a limit for "
        "candidates ('ttft:p95<=500ms', 'goodput>=99%'). Repeatable.",
        unit="GATE",
        flag="--gate",
        group=GATES,
        common=True,
    ),
]
Slo = Annotated[
    str | None,
    Option(
        help="Limits of a good request: 'ttft<500ms,tpot<50ms,e2e<3s'.",
        unit="SLO",
        group="Goodput",
        read=held_to("tbench.analysis.run_metrics", "parse_slo"),
        late=True,
        common=True,
        of_target=True,
    ),
]
Trend = Annotated[
    bool,
    Option(
        help="Remove a straight drift over the runs from the difference; only if that was decided "
        "before the runs, and if their order was drawn.",
        group=GATES,
    ),
]
Json = Annotated[
    bool, Option(help="Print one JSON object.", flag="--json", group=OUTPUT, common=True)
]
Verbose = Annotated[
    bool,
    Option(
        help="Print every table and how the numbers were made.",
        flag="--verbose",
        short="-v",
        group=OUTPUT,
        common=True,
    ),
]
Html = Annotated[
    Path | None,
    Option(
        help="Also write a self-contained HTML page to this file.",
        unit="FILE",
        group=OUTPUT,
        common=True,
    ),
]
Charts = Annotated[
    Path | None,
    Option(
        help="Also write every chart to this folder, as PNG and as SVG.", unit="DIR", group=OUTPUT
    ),
]
Xlsx = Annotated[
    Path | None,
    Option(
        help="Also write an Excel workbook to this file: verdict, figures, every sample (up to 1,048,576 "
        "rows), errors, environment.",
        unit="FILE",
        group=OUTPUT,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Reports:
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
            content = report()
            if self.html:
                with private(self.html, "--html") as file:
                    file.write(content.page().encode())
                print(f"report: {self.html}", file=sys.stderr)
            if self.charts:
                _charts(self.charts, content)
        if self.xlsx:
            with private(self.xlsx, "--xlsx") as file:
                book(file)
            print(f"workbook: {self.xlsx}", file=sys.stderr)


def _charts(folder: Path, report: "Report") -> None:
    from tbench.analysis.report.figures import pictures

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--charts {folder}: cannot be made: {error.strerror}") from None
    for name, content in pictures(report.pictures, report.about):
        with private(folder / name, "--charts") as file:
            file.write(content)
    print(f"charts: {folder} ({len(report.pictures)}, each as PNG and SVG)", file=sys.stderr)


# Interrupting: every signal to stop as what Ctrl-C is: whoever is stopped gives back what it took.


@contextmanager
def terminable() -> Iterator[None]:
    """Within, the other signals to stop do what SIGINT does: mostly it raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    others = [number for number in stop_signals() if number != signal.SIGINT]
    before = {number: signal.signal(number, _interrupt) for number in others}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
