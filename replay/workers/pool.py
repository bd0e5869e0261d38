"""The worker pool: starts the workers, sends them messages, and notices when one is gone."""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Final, Protocol, Self

import trio

from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.terminal import stop_signals
from tbench.replay.workers.counters import SharedCounters, WorkerCounters
from tbench.replay.workers.messages import WorkerStats, WorkerTask
from tbench.replay.workers.spool import SpoolReader

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


class Process(Protocol):
    """A process that was started."""

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code, or minus the signal that ended it; None when it still runs after that time."""
        ...

    def kill(self) -> None: ...


def start(fds: Sequence[int], stderr: IO[bytes], *, fork: bool) -> Process:
    """A worker over these descriptors, whose stderr goes to `stderr`.

    It has a process group of its own, so that Ctrl-C at the terminal reaches the parent alone. (A session of
    its own would do so, too; but Linux shares cores among sessions first, whatever the niceness of a
    thread, and the parent's threads are to give way to the worker.) With `fork` the caller says that its
    process runs no event loop.
    """
    if fork and sys.platform == "linux" and len(os.listdir(THREADS)) == 1:  # noqa: PTH208
        return Forked(fds, stderr)
    return Spawned(fds, stderr)


class Spawned:
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


class Forked:
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
    for number in stop_signals():
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for standard, place in enumerate((null, null, stderr)):
        os.dup2(place, standard)
    for fd in map(int, os.listdir(OPEN_FILES)):  # noqa: PTH208
        if fd > 2 and fd not in fds:
            with suppress(OSError):  # the one that lists them
                os.close(fd)


GRACE_S: Final = 10.0
"""How long a worker may take to end what it was told to end, before it is killed."""


@dataclass(kw_only=True)
class WorkerHandle:
    """One worker, as the parent sees it. `lost` says how it ended before it could report."""

    number: int
    process: Process
    control: Connection
    calls: socket.socket
    spool: SpoolReader
    counters: WorkerCounters
    stderr: IO[bytes]
    stats: WorkerStats | None = None
    lost: str | None = None
    over: trio.Event = field(default_factory=trio.Event)

    @classmethod
    @contextmanager
    def started(
        cls, task: WorkerTask, shared: SharedCounters, folder: Path, *, fork: bool
    ) -> Iterator[Self]:
        """Start a worker on its task; its spool lies in `folder`, without a name."""
        with ExitStack() as stack:
            try:
                spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            except OSError as error:
                raise InputError(
                    f"{folder}: no run can be written here: {error.strerror}"
                ) from None
            stderr = stack.enter_context(tempfile.TemporaryFile())
            calls, their_calls = socket.socketpair()
            control, their_control = socket.socketpair()
            fds = (their_calls.fileno(), their_control.fileno(), spool.fileno(), shared.fd)
            process = start(fds, stderr, fork=fork)
            their_calls.close()
            their_control.close()
            worker = cls(
                number=task.number,
                process=process,
                control=Connection(control.detach()),
                calls=calls,
                spool=SpoolReader(spool.fileno()),
                counters=shared.row(task.number),
                stderr=stderr,
            )
            stack.callback(worker.close)
            worker.tell(task)
            yield worker

    def tell(self, message: object) -> None:
        """Send a message; a worker that is gone gets none."""
        with suppress(OSError):
            self.control.send(message)

    async def receive(self) -> Any:  # noqa: ANN401 (a Word, or WorkerStats)
        """The next message; None when the worker is gone."""
        await trio.lowlevel.wait_readable(self.control.fileno())
        try:
            return self.control.recv()
        except (EOFError, OSError):
            return None

    async def expect(self, word: str) -> None:
        """Wait for a message of getting ready; `lost` says when the worker is gone instead."""
        if await self.receive() != word:
            await self.record_exit()

    async def attend(self) -> None:
        """Until it has reported, or is gone."""
        while not self.over.is_set():
            message = await self.receive()
            if isinstance(message, WorkerStats):
                self.stats = message
                self.over.set()
            elif message is None:
                await self.record_exit()

    async def record_exit(self) -> None:
        """Wait until the process has ended, and keep how in `lost`, with the last line of its stderr."""
        code = await trio.to_thread.run_sync(self._exit_code)
        if code >= 0:
            how = f"ended with exit code {code}"
        elif -code in signal.Signals:
            how = f"was killed by {signal.Signals(-code).name}"
        else:  # a real-time signal has no name
            how = f"was killed by signal {-code}"
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        self.lost = f"worker {self.number + 1} {how}" + (f": {lines[-1]}" if lines else "")
        self.over.set()

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Close all that is held of it, on which the process ends; wait for that."""
        self.control.close()
        self.calls.close()
        self._exit_code()
        self.counters.release()

    def _exit_code(self) -> int:
        """Wait for the end of the process, which is killed when it takes too long."""
        while (code := self.process.wait(GRACE_S)) is None:
            self.process.kill()
        return code


class WorkerPool:
    """The workers of one replay. Use `started`."""

    def __init__(self, workers: Sequence[WorkerHandle], shared: SharedCounters) -> None:
        self.workers = workers
        self.shared = shared
        self.began = 0.0
        self.stopped = trio.Event()

    @classmethod
    @contextmanager
    def started(
        cls, tasks: Sequence[WorkerTask], folder: Path, *, fork: bool = False
    ) -> Iterator[Self]:
        """Start a worker for each task; their spools lie in `folder`, without a name.

        `fork` says that this process runs no event loop: then it may be forked.
        """
        with ExitStack() as stack:
            shared = stack.enter_context(SharedCounters.made(len(tasks)))
            workers = [
                stack.enter_context(WorkerHandle.started(task, shared, folder, fork=fork))
                for task in tasks
            ]
            yield cls(workers, shared)

    def issued(self, arm: int = 0) -> int:
        """How many calls were sent for an arm."""
        return sum(worker.counters.issued(arm) for worker in self.workers)

    @property
    def in_flight(self) -> int:
        return sum(worker.counters.in_flight for worker in self.workers)

    @property
    def now(self) -> float:
        """Seconds since the start of the run; below 0 before it."""
        return time.monotonic() - self.began if self.began else 0.0

    @property
    def full(self) -> bool:
        """Whether every worker has as many calls at hand as it takes."""
        return all(worker.counters["full"] for worker in self.workers)

    @property
    def lost(self) -> list[str]:
        """How the workers ended that could not report."""
        return [worker.lost for worker in self.workers if worker.lost]

    @property
    def stats(self) -> list[WorkerStats]:
        """What the others saw of themselves."""
        return [worker.stats for worker in self.workers if worker.stats]

    async def ready(self) -> None:
        """Wait until each could send. Raises InvalidRunError when one ended instead."""
        await self._each("ready")

    async def warm(self) -> None:
        """Tell each to open its connections. Raises InvalidRunError when one ended instead."""
        self.tell("warm")
        await self._each("warm")

    def go(self, lead_s: float) -> None:
        """Set the one instant at which all start."""
        self.began = time.monotonic() + lead_s
        self.tell(("go", self.began))

    def tell(self, message: object) -> None:
        for worker in self.workers:
            worker.tell(message)

    def stop(self) -> None:
        """Tell each to stop sending and to cancel what is in flight."""
        self.stopped.set()
        self.tell("stop")

    def kill(self) -> None:
        """End all at once; what is in flight is lost."""
        for worker in self.workers:
            worker.kill()

    async def finished(self) -> None:
        """Wait until each has reported or is gone. One that does not stop when told is killed."""

        async def enforce() -> None:
            await self.stopped.wait()
            await trio.sleep(GRACE_S)
            self.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enforce)
            async with trio.open_nursery() as attendants:
                for worker in self.workers:
                    attendants.start_soon(worker.attend)
            nursery.cancel_scope.cancel()

    async def _each(self, word: str) -> None:
        async with trio.open_nursery() as nursery:
            for worker in self.workers:
                nursery.start_soon(worker.expect, word)
        if self.lost:
            raise InvalidRunError(f"{self.lost[0]}; nothing was sent")
