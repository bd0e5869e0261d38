"""Output: where a report goes, and what it goes to."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypedDict

from capture.errors import InputError
from capture.terminal import naming, styled

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
    with _replaced(path, option, 0o600) as file:
        yield file


def write_shared(option: str, path: Path, text: str) -> None:
    """Write a file that whoever reads the folder may read: verdicts and figures, no prompts.

    Raises InputError as `private`; `option` is what named the file.
    """
    with _replaced(path, option, 0o666) as file:
        file.write(text.encode("utf-8", "replace"))


@contextmanager
def _replaced(path: Path, option: str, mode: int) -> Iterator[BinaryIO]:
    """A file that takes the place of another when it is whole; a device or a pipe is written to."""
    part = None
    try:
        if _is_container(path):
            raise InputError(f"{option} {path}: this is a trace or a run; name another file")
        target = path.resolve()
        if not target.exists() or target.is_file():
            part = target.with_name(f".{target.name[:200]}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(part or path, flags, mode), "wb") as file:
            yield file
        if part:
            part.replace(target)
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written: {error.strerror or error}") from None
    finally:
        if part:
            part.unlink(missing_ok=True)


def _is_container(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1) == FRAME
