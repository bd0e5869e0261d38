"""Versions: which release of a package is installed, by the name of its folder of metadata.

importlib.metadata loads parsers of mail and archives, 35 ms of every start; it is used only where the folder
does not tell.
"""

import os
import sys
from contextlib import suppress


def version(name: str) -> str:
    """The version of an installed package; "unknown" for sources that were never installed."""
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
