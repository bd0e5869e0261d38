"""A worker's process: forked, or a new interpreter; and where such processes run."""

import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol

from tbench.capture.runtime import stop_signals
from tbench.replay.system import Headroom, headroom

# Processes of this very package, whatever the folder that they are started in holds.


def module_command(module: str) -> list[str]:
    """What runs a module of ours. -P: a folder of that name in the user's own place is not ours."""
    return [sys.executable, "-P", "-m", module]


def module_environ() -> dict[str, str]:
    """Our environment, with the place of this package first: it must find no other one."""
    root = str(Path(__file__).parents[2])
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, given] if given else [root])}


# A worker's process: forked where that is safe and asked for, else a new interpreter.
#
# A fork shares what its parent has loaded, which is what starting an interpreter takes its time for. It is
# safe where nothing else runs in the parent: no second thread may hold a lock, and no event loop be
# running.

THREADS: Final = Path("/proc/self/task")
OPEN_FILES: Final = Path("/proc/self/fd")
POLL_S: Final = 0.005


class ClockOffset(NamedTuple):
    """How far a monotonic clock is ahead of ours, seconds, and by how much that may be wrong either way."""

    ahead: float
    uncertainty: float


@dataclass(kw_only=True)
class Reading:
    """Whether a machine reads the trace itself (replay.workers.carrier): `refusal` says why not.

    `failure` says why it could not go on, `counts` are those of the calls that it made, for each arm.
    """

    refusal: str | None
    failure: str | None = None
    counts: Sequence[Sequence[Mapping[str, int]]] = ()


class Process(Protocol):
    """A process that was started.

    `node` is the machine that it is on, `clocks` what is known of that one's clock, early and late in its
    life, `reading` how it comes by the trace; None and nothing where all are ours.
    """

    @property
    def node(self) -> str | None: ...
    @property
    def reading(self) -> Reading | None: ...
    @property
    def clocks(self) -> Sequence[ClockOffset]: ...

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code, or minus the signal that ended it; None when it still runs after that time."""
        ...

    def kill(self) -> None: ...

    def ending(self, code: int) -> str:
        """How it ended, in words."""
        ...


class Local:
    """A process on this machine."""

    node = None
    reading = None
    clocks: Sequence[ClockOffset] = ()

    def ending(self, code: int) -> str:
        return ending(code)


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    if -code in signal.Signals:
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"  # a real-time signal has no name


def start(fds: Sequence[int], stderr: IO[bytes], *, fork: bool) -> Process:
    """A worker over these descriptors, whose stderr goes to `stderr`.

    It has a process group of its own, so that Ctrl-C at the terminal reaches the parent alone. (A session of
    its own would do so, too; but Linux shares cores among sessions first, whatever the niceness of a
    thread, and the parent's threads are to give way to the worker.) With `fork` the caller says that its
    process runs no event loop.
    """
    # No signal that asks for an end reaches a process that is being started, until it ignores them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        if fork and sys.platform == "linux" and len(os.listdir(THREADS)) == 1:  # noqa: PTH208
            return Forked(fds, stderr)
        return Spawned(fds, stderr)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """In a worker: what asks for an end asks the parent, which says what to do, or is gone.

    A service manager and `pkill` tell every process. A worker that ended by itself would lose what is in
    flight, which the parent is about to cancel and count.
    """
    numbers = stop_signals()
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


class Spawned(Local):
    """A new interpreter."""

    def __init__(self, fds: Sequence[int], stderr: IO[bytes]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 (ourselves)
            [*module_command("tbench.replay.workers"), *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            process_group=0,
            env=module_environ(),
        )

    def wait(self, seconds: float | None = None) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def kill(self) -> None:
        self._process.kill()


class Forked(Local):
    """A copy of this process. It leaves by `os._exit`, so that the parent's exit handlers do not run."""

    def __init__(self, fds: Sequence[int], stderr: IO[bytes]) -> None:
        from tbench.replay.workers.worker import work  # noqa: PLC0415 (in the parent, for all workers at once)

        self._code: int | None = None
        self._pid = os.fork()
        if self._pid:
            return
        code = 1
        try:
            _leave_parent(fds, stderr.fileno())
            work(*fds)
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def wait(self, seconds: float | None = None) -> int | None:
        until = math.inf if seconds is None else time.monotonic() + seconds
        while self._code is None:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:  # this process lets the system forget how its children end
                pid, status = self._pid, 0
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= until:
                return None
            else:
                # No wait for a child has a timeout, but by a signal or a descriptor of it.
                time.sleep(POLL_S)
        return self._code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)


def _leave_parent(fds: Sequence[int], stderr: int) -> None:
    """In a forked child: close what is the parent's, and keep what a worker needs.

    A copy of a socket that stays open would keep its other end from seeing that the parent is gone.
    """
    os.setpgid(0, 0)
    ignore_stop_signals()
    null = os.open(os.devnull, os.O_RDWR)
    for standard, place in enumerate((null, null, stderr)):
        os.dup2(place, standard)
    for fd in map(int, os.listdir(OPEN_FILES)):  # noqa: PTH208
        if fd > 2 and fd not in fds:
            with suppress(OSError):  # the one that lists them
                os.close(fd)


# Where the workers of a replay run.


class Site(Protocol):
    """Where workers run: here, or on the machines of a cluster.

    They are told of the start `lead_s` before it. Where they are `apart` each has its own counters and its
    own part of a budget, as there is no memory to share.
    """

    @property
    def lead_s(self) -> float: ...
    @property
    def apart(self) -> bool: ...
    @property
    def headroom(self) -> Headroom: ...

    def start(self, number: int, fds: Sequence[int], stderr: IO[bytes]) -> Process:
        """A worker over these descriptors (replay.workers.worker), whose stderr goes to `stderr`."""
        ...


@dataclass(frozen=True)
class Here:
    """This machine. With `fork` the caller says that its process runs no event loop."""

    fork: bool = False
    lead_s: float = 0.05
    apart: bool = False

    @property
    def headroom(self) -> Headroom:
        return headroom()

    def start(self, _number: int, fds: Sequence[int], stderr: IO[bytes]) -> Process:
        return start(fds, stderr, fork=self.fork)
