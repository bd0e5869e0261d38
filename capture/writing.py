"""Writing a file whole: pages, workbooks, pictures, results, ledgers. Not traces and runs.

The one place that decides who may read such a file, what becomes of an older one, and what a full disk
says. Traces and runs grow while they are written: capture.container_writer.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from tbench.capture.errors import InputError, TbenchError
from tbench.capture.remote import is_url

PRIVATE: Final = 0o600
"""For its owner's eyes: what may quote a prompt, a server's error, or names that an operator chose."""
SHARED: Final = 0o666
"""For whoever the umask lets read it: verdicts and figures."""


def check_folder(
    path: Path, named: str | None = None, failure: type[TbenchError] = InputError
) -> None:
    """Raise `failure` where there is no folder for a file; asked of every output before the work begins."""
    if is_url(path):
        raise failure(f"{named or path}: only traces and runs go to a URL; write it here first")
    if not path.parent.is_dir():
        raise failure(f"{named or path}: the folder {path.parent} does not exist; make it first")


@contextmanager
def whole_file(
    path: Path,
    mode: int = PRIVATE,
    *,
    named: str | None = None,
    failure: type[TbenchError] = InputError,
) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete and on disk; a device or pipe is written to.

    Where that fails nothing is left and an older file stays as it was: raises `failure`, which names the file
    as `named` (default: its path) and the reason. A link stays a link.
    """
    part = None
    check_folder(path, named, failure)
    try:
        target = Path(os.path.realpath(path))
        if not target.exists() or target.is_file():
            # Hidden, and with the process's number: two that write one report do not mix their bytes.
            part = target.with_name(f".{target.name[:40]}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(part or path, flags, mode), "wb") as file:
            yield file
            if part:  # on disk before it takes the name: a power cut leaves the old or the new, never none
                file.flush()
                os.fsync(file.fileno())
        if part:
            part.replace(target)
    except OSError as error:
        raise failure(f"{named or path}: cannot be written: {error.strerror or error}") from None
    finally:
        if part:
            with contextlib.suppress(OSError):
                # Nothing, where it has taken its name: what a failure left.
                part.unlink()


def write_whole(
    path: Path,
    content: str | bytes,
    mode: int = PRIVATE,
    *,
    failure: type[TbenchError] = InputError,
) -> None:
    """The same for a content that is there already; text as UTF-8."""
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    with whole_file(path, mode, failure=failure) as file:
        file.write(data)
