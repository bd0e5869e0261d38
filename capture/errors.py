"""The errors that tbench raises on purpose: one line each, with the exit code of the command line.

The line says what is wrong, where, and what to do about it. `tbench.__main__` prints it and ends with
`exit_code`; a traceback appears only with `--debug`.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class TbenchError(Exception):
    """A failure with a message for the user. Raise one of its children."""

    exit_code: int = 2


class InputError(TbenchError):
    """Bad usage or bad input: nothing was sent."""


class InvalidRunError(TbenchError):
    """The client was the limit, or data was lost beyond what was allowed."""

    exit_code = 4


class UnreachableError(TbenchError):
    """The target or a store cannot be reached or refuses, or no request succeeded."""

    exit_code = 5


class StoppedError(TbenchError):
    """Ctrl-C, or another signal to stop, before there was anything to keep."""

    exit_code = 130


@contextmanager
def after_sending(sent: bool) -> Iterator[None]:
    """Turn what stops a series of runs into an InvalidRunError once something was `sent`: no bad usage."""
    try:
        yield
    except (InputError, OSError) as error:
        if not sent:
            raise
        raise InvalidRunError(str(error)) from error
