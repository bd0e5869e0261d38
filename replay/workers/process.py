"""A worker's process: forked where that is safe and asked for, else a new interpreter.

A fork shares what its parent has loaded, which is what starting an interpreter takes its time for. It is
safe where nothing else runs in the parent: no second thread may hold a lock, and no event loop be running.
"""

import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, NoReturn, Protocol

from tbench.capture.stopping import stop_signals
from tbench.replay.kin import kin_command, kin_environ

THREADS: Final = Path("/proc/self/task")
OPEN: Final = Path("/proc/self/fd")
LOOK_S: Final = 0.005


class Process(Protocol):
    """A process that was started."""

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code, or minus the signal that ended it; None when it still runs after that time."""
        ...

    def kill(self) -> None: ...


def start(fds: Sequence[int], said: IO[bytes], *, fork: bool) -> Process:
    """A worker over these descriptors, whose last words go to `said`.

    It is of its own session, so that Ctrl-C at the terminal reaches the parent alone. With `fork` the
    caller says that its process runs no event loop.
    """
    if fork and sys.platform == "linux" and len(os.listdir(THREADS)) == 1:  # noqa: PTH208
        return Forked(fds, said)
    return Started(fds, said)


class Started:
    """A new interpreter."""

    def __init__(self, fds: Sequence[int], said: IO[bytes]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 (ourselves)
            [*kin_command("tbench.replay.workers"), *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
            env=kin_environ(),
        )

    def wait(self, seconds: float | None = None) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def kill(self) -> None:
        self._process.kill()


class Forked:
    """A copy of this process."""

    def __init__(self, fds: Sequence[int], said: IO[bytes]) -> None:
        from tbench.replay.workers.worker import work  # noqa: PLC0415 (in the parent, for all workers at once)

        self._code: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            _live(work, fds, said.fileno())

    def wait(self, seconds: float | None = None) -> int | None:
        until = math.inf if seconds is None else time.monotonic() + seconds
        while self._code is None:
            if self._ended():
                break
            if time.monotonic() >= until:
                return None
            time.sleep(LOOK_S)
        return self._code

    def _ended(self) -> bool:
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:  # this process lets the system forget how its children end
            pid, status = self._pid, 0
        if pid:
            self._code = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def kill(self) -> None:
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)


def _live(work: Callable[..., None], fds: Sequence[int], said: int) -> NoReturn:
    """A copy's whole life. Nothing of the parent's is cleaned up at its end: it is not its own."""
    code = 1
    try:
        _leave(fds, said)
        work(*fds)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _leave(fds: Sequence[int], said: int) -> None:
    """Let go of all that is the parent's, and keep what a worker has."""
    os.setsid()
    for number in stop_signals():
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for standard, place in enumerate((null, null, said)):
        os.dup2(place, standard)
    for fd in map(int, os.listdir(OPEN)):  # noqa: PTH208
        if fd > 2 and fd not in fds:
            with suppress(OSError):  # the one that lists them
                os.close(fd)
