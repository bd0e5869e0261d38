"""The crew: starts the workers, passes the word to them, and notices when one is gone."""

import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Final

import trio

from tbench.capture.errors import InputError, InvalidRunError
from tbench.replay.workers.duty import Duty, Report
from tbench.replay.workers.process import Process, start
from tbench.replay.workers.pulse import Pulse, Row
from tbench.replay.workers.spool import SpoolReader

GRACE_S: Final = 10.0
"""How long a worker may take to end what it was told to end, before it is killed."""


@dataclass(kw_only=True)
class Member:
    """One worker, as the parent sees it. `lost` says in words how it died before it could report."""

    number: int
    process: Process
    control: Connection
    feed: socket.socket
    spool: SpoolReader
    row: Row
    said: IO[bytes]
    report: Report | None = None
    lost: str | None = None
    over: trio.Event = field(default_factory=trio.Event)

    def tell(self, word: object) -> None:
        """Pass a word, if it still listens."""
        with suppress(OSError):
            self.control.send(word)

    async def hear(self) -> Any:  # noqa: ANN401 (a Word, or a Report)
        """The next word; None when the worker is gone."""
        await trio.lowlevel.wait_readable(self.control.fileno())
        try:
            return self.control.recv()
        except (EOFError, OSError):
            return None

    async def expect(self, word: str) -> None:
        """Wait for a word of getting ready; `lost` says when the worker is gone instead."""
        if await self.hear() != word:
            await self.bury()

    async def attend(self) -> None:
        """Until it has reported, or is gone."""
        while not self.over.is_set():
            word = await self.hear()
            if isinstance(word, Report):
                self.report = word
                self.over.set()
            elif word is None:
                await self.bury()

    async def bury(self) -> None:
        """Note how it died."""
        code = await trio.to_thread.run_sync(self._waited)
        self.lost = f"worker {self.number + 1} {_death(code)}{self._last_words()}"
        self.over.set()

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Let go of everything; the process ends."""
        self.control.close()
        self.feed.close()
        self._waited()
        self.row.release()

    def _waited(self) -> int:
        while (code := self.process.wait(GRACE_S)) is None:
            self.process.kill()
        return code

    def _last_words(self) -> str:
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


class Crew:
    """The workers of one replay. Use `hired`."""

    def __init__(self, members: Sequence[Member], pulse: Pulse) -> None:
        self.members = members
        self.pulse = pulse
        self.began = 0.0
        self.stopped = trio.Event()

    @classmethod
    @contextmanager
    def hired(cls, duties: Sequence[Duty], folder: Path, *, fork: bool = False) -> Iterator["Crew"]:
        """Start a worker for each duty; their spools lie in `folder`, without a name.

        `fork` says that this process runs no event loop: then it may be forked.
        """
        with ExitStack() as stack:
            pulse = stack.enter_context(Pulse.made(len(duties)))
            members = [
                stack.enter_context(_member(duty, pulse, folder, fork=fork)) for duty in duties
            ]
            yield cls(members, pulse)

    def issued(self, arm: int = 0) -> int:
        """How many calls were sent for an arm."""
        return sum(member.row.issued(arm) for member in self.members)

    @property
    def in_flight(self) -> int:
        return sum(member.row.in_flight for member in self.members)

    @property
    def now(self) -> float:
        """Seconds since the start of the run; below 0 before it."""
        return time.monotonic() - self.began if self.began else 0.0

    @property
    def full(self) -> bool:
        """Whether every worker has as many calls at hand as it takes."""
        return all(member.row["full"] for member in self.members)

    @property
    def lost(self) -> list[str]:
        """How the workers died that did."""
        return [member.lost for member in self.members if member.lost]

    @property
    def reports(self) -> list[Report]:
        return [member.report for member in self.members if member.report]

    async def ready(self) -> None:
        """Wait until each could send. Raises InvalidRunError when one died instead."""
        await self._each("ready")

    async def warm(self) -> None:
        """Have each open its connections. Raises InvalidRunError when one died instead."""
        self.tell("warm")
        await self._each("warm")

    def go(self, lead_s: float) -> None:
        """Set the one instant at which all start."""
        self.began = time.monotonic() + lead_s
        self.tell(("go", self.began))

    def tell(self, word: object) -> None:
        for member in self.members:
            member.tell(word)

    def stop(self) -> None:
        """Have each stop sending, and cancel what is in flight."""
        self.stopped.set()
        self.tell("stop")

    def kill(self) -> None:
        """End all at once; what is in flight is lost."""
        for member in self.members:
            member.kill()

    async def finished(self) -> None:
        """Wait until each has reported or is gone. One that ignores the word to stop is killed."""
        async with trio.open_nursery() as nursery:
            for member in self.members:
                nursery.start_soon(member.attend)
            nursery.start_soon(self._enforce)
            for member in self.members:
                await member.over.wait()
            nursery.cancel_scope.cancel()

    async def _enforce(self) -> None:
        await self.stopped.wait()
        await trio.sleep(GRACE_S)
        self.kill()

    async def _each(self, word: str) -> None:
        async with trio.open_nursery() as nursery:
            for member in self.members:
                nursery.start_soon(member.expect, word)
        if self.lost:
            raise InvalidRunError(f"{self.lost[0]}; nothing was sent")


@contextmanager
def _member(duty: Duty, pulse: Pulse, folder: Path, *, fork: bool) -> Iterator[Member]:
    """A worker, and what the parent holds of it."""
    with ExitStack() as stack:
        try:
            spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        except OSError as error:
            raise InputError(f"{folder}: no run can be written here: {error.strerror}") from None
        said = stack.enter_context(tempfile.TemporaryFile())
        ours, theirs = socket.socketpair()
        control, controlled = socket.socketpair()
        fds = (theirs.fileno(), controlled.fileno(), spool.fileno(), pulse.fd)
        process = start(fds, said, fork=fork)
        theirs.close()
        controlled.close()
        member = Member(
            number=duty.number,
            process=process,
            control=Connection(control.detach()),
            feed=ours,
            spool=SpoolReader(spool.fileno()),
            row=pulse.row(duty.number),
            said=said,
        )
        stack.callback(member.close)
        member.tell(duty)
        yield member


def _death(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
