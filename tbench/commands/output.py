"""Output: where a report goes, and what it goes to."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypedDict

from tbench.capture.errors import InputError
from tbench.capture.terminal import naming, styled
from tbench.capture.writing import PRIVATE, SHARED, whole_file

FRAME = b"\xc9"
"""What every trace and run begins with, and no page."""
PIPED_COLUMNS = 100
"""The width of a text that nobody's terminal limits."""


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
