"""The way in: run the command line, and turn what went wrong into one line and an exit code."""

import atexit
import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tbench.capture.errors import TbenchError
from tbench.capture.terminal import LONGEST_LINE, guarded, shortened

INTERRUPTED: Final = 130


def main() -> None:
    """Run `tbench`, end the process with the exit code that README.md lists."""
    try:
        code = _prepared_and_run()
    except KeyboardInterrupt:  # in the moments before and after the command
        code = _fail("interrupted", INTERRUPTED)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: the exit code is decided
    if code == INTERRUPTED or "ray" in sys.modules:
        _leave(code)
    sys.exit(code)


def _prepared_and_run() -> int:
    # First of all: until then `ps` shows them to everybody.
    mask_credentials(sys.argv)
    _open_streams()
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # so a shell starts what is in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # OpenBLAS starts a thread for each core, which takes longer than to load all of numpy. Nothing here
    # multiplies large matrices, and a process without threads can fork its workers.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = run(sys.argv[1:])
    gc.freeze()  # the interpreter would look through everything for cycles, to end a process
    return code


def _leave(code: int) -> None:
    """End at once, after what is to be done at the end.

    Threads of Ray's may crash as C++ tidies up. And where an interrupt met Python as it ran a piece of text
    (so a dataclass is made), it ends by SIGINT whatever its exit code is.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 (there is no other way to them)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _open_streams() -> None:
    """A standard stream that was closed (`>&-`) is the null device; the next file would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    ours, others = arguments[:end], arguments[end:]  # of a command that is to be run
    debug = "--debug" in ours
    with guarded():
        try:
            return _invoke([*(word for word in ours if word != "--debug"), *others])
        except KeyboardInterrupt:
            return _fail("interrupted", INTERRUPTED)
        except Exception as error:
            if debug:
                traceback.print_exc()
            return _explain(error)


def _invoke(arguments: list[str]) -> int:
    from typer.main import get_command  # noqa: PLC0415 (keeps an error at import within run's reach)

    from tbench.cli import app  # noqa: PLC0415

    completing = "_TBENCH_COMPLETE" in os.environ  # the words to complete are not the arguments
    command = get_command(app(None if completing else arguments))
    result = command(args=arguments, prog_name="tbench", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> int:
    if isinstance(error, TbenchError):
        return _fail(str(error), error.exit_code)
    if callable(usage := getattr(error, "format_message", None)):
        from tbench.capture.redact import mask_lookalikes  # noqa: PLC0415 (start-up)

        message = mask_lookalikes(usage())  # a key that was not quoted, say
        about = getattr(getattr(error, "param", None), "help", None)
        if about and message.startswith("Missing "):
            message = f"{message.rstrip('.')}: {about}"
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "tbench"
        message = f"{message[:1].lower()}{message[1:].rstrip('.')}"
        return _fail(f"{message}{' See' if message.endswith('?') else '; see'} {verb} --help", 2)
    if isinstance(error, OSError):
        named = error.filename is not None and error.strerror
        return _fail(f"{error.filename}: {error.strerror}" if named else str(error), 2)
    kind = type(error).__name__
    where = "".join(f", at {note}" for note in getattr(error, "__notes__", ()))
    return _fail(
        f"unexpected {kind}: {error}{where}. This is a defect; --debug shows where it is.", 70
    )


def _fail(message: str, code: int) -> int:
    print(f"tbench: {shortened(' '.join(message.split()), LONGEST_LINE)}", file=sys.stderr)
    return code


# What `ps` shows of this process: its arguments, without the credentials among them.
#
# Linux lets a process write to the memory that /proc/PID/cmdline is read from; elsewhere nothing is done.

_ARG_START, _ARG_END = 45, 46
"""Places in /proc/PID/stat after the name in brackets, of proc_pid_stat(5)'s fields 48 and 49."""
MAY_HOLD_ONE: Final = (
    "--api-key",
    "--header",
    "--set",
    "--arm",
    "--proxy",
    "--additional-request-params",
)
"""The flags of `replay.provenance.SCRUBBED`, which costs an import."""


def mask_credentials(arguments: Sequence[str]) -> None:
    """Overwrite the values in which a credential may be, in place and each as long as it was."""
    told = any(word.startswith(MAY_HOLD_ONE) or "@" in word for word in arguments)
    if sys.platform != "linux" or not told:
        return
    import ctypes  # noqa: PLC0415 (these two would be loaded by every command)

    from tbench.replay.provenance import scrubbed  # noqa: PLC0415

    try:
        start, end = _place()
    except OSError:  # no /proc here: nobody reads the arguments from it either
        return
    words = ctypes.string_at(start, end - start).split(b"\0")
    safe = scrubbed([word.decode(errors="surrogateescape") for word in words])
    for word, shown in zip(words, safe, strict=True):
        # Exactly as long: behind these bytes lies the environment.
        mask = shown.encode(errors="surrogateescape")[: len(word)].ljust(len(word), b"*")
        ctypes.memmove(start, mask, len(word))
        start += len(word) + 1


def _place() -> tuple[int, int]:
    """Where the arguments are in memory: the first byte, and one beyond the last."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[_ARG_START]), int(fields[_ARG_END])


if __name__ == "__main__":
    main()
