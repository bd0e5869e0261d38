"""A quiet process: what may hold up the sending loop from within is kept off it while it runs."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SWITCH_S: Final = 0.0005
"""Threads that read and write give way to the sending loop after so long."""


def give_way() -> None:
    """Let the sending loop run, if it wants to. For the threads that read and write, after each piece.

    On a core that they share, the scheduler would let a thread go on for milliseconds before the loop runs.
    """
    os.sched_yield()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the collector off what is there already, and make threads give way soon."""
    before = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
