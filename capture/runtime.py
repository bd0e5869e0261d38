"""What tbench runs on: versions of packages, limits of the system, signals that ask for an end."""

import os
import resource
import signal
import sys
from contextlib import suppress


def version(name: str) -> str:
    """The version of an installed package; "unknown" for sources that were never installed.

    By the name of its folder of metadata: importlib.metadata loads parsers of mail and archives, 35 ms of
    a start; it is used only where the folder does not tell.
    """
    prefix, suffix = f"{name}-", ".dist-info"
    for place in sys.path:
        entries: list[str] = []
        with suppress(OSError):  # an archive, or nothing
            entries = os.listdir(place or ".")  # noqa: PTH208 (names are wanted, and at once)
        folders = [
            entry for entry in entries if entry.startswith(prefix) and entry.endswith(suffix)
        ]
        if len(folders) == 1:
            return folders[0].removeprefix(prefix).removesuffix(suffix)
        if folders:
            break
    from importlib import metadata  # noqa: PLC0415 (slow to load)

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def allow_descriptors() -> None:
    """As many as the system allows: the usual limit is made for programs with few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask for an end: Ctrl-C, SIGTERM and, but under nohup, that of a closed terminal."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,)))
