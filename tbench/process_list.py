"""What `ps` shows of this process: its arguments, without the credentials among them.

Linux lets a process write to the memory that /proc/PID/cmdline is read from; elsewhere nothing is done.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

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
        mask = shown.encode(errors="surrogateescape")[: len(word)].ljust(len(word), b"*")
        ctypes.memmove(start, mask, len(word))
        start += len(word) + 1


def _place() -> tuple[int, int]:
    """Where the arguments are in memory: the first byte, and one beyond the last."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[_ARG_START]), int(fields[_ARG_END])
