"""File descriptors: how many connections and files a process may have open at once."""

import resource
from contextlib import suppress


def allow_descriptors() -> None:
    """As many as the system allows: the usual limit is made for programs with few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
