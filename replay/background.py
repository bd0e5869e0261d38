"""Quiet threads: those that read, build and write, and give way to what sends."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

AHEAD: Final = 10
BEHIND: Final = 19
"""The niceness of threads that work ahead of the sending, and behind it. It is for the whole life of a
thread: only root may lower it."""
PLAIN: Final = 0


def give_way() -> None:
    """Let another process run, if one wants to. For threads that can wait, after each piece of work.

    On a core that they share, the scheduler would let a thread go on for milliseconds before a sender runs.
    """
    os.sched_yield()


async def on_thread(work: Callable[[], None], niceness: int) -> None:
    """Do `work` on a thread of its own that gives way to others; returns when it is done.

    It cannot be cancelled: whoever wants it to end has to tell the work.
    """
    token = trio.lowlevel.current_trio_token()
    over = trio.Event()
    failures: list[BaseException] = []

    def body() -> None:
        try:
            _be_nice(niceness)
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            token.run_sync_soon(over.set)

    threading.Thread(target=body, name="tbench", daemon=True).start()
    with trio.CancelScope(shield=True):
        await over.wait()
    if failures:
        raise failures[0]


def _be_nice(niceness: int) -> None:
    """Linux has a niceness for each thread; elsewhere it would be the whole process's."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
