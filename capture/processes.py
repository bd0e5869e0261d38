"""Capture by several processes on one port: each records what the kernel gives it, all into one trace.

A Python process is bound to one core. Each of these is a whole proxy that writes files of its own; they share
the capture's id, clock and pseudonyms, so that readers see one trace (`trace_reader.process_path`). The first
process only watches the others, adds up what they tell, and passes a signal on.
"""

import multiprocessing
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from operator import add
from pathlib import Path
from select import select
from typing import Literal

from tbench.capture import proxy
from tbench.capture.container_writer import check_new
from tbench.capture.errors import InputError, TbenchError
from tbench.capture.histogram import Histogram
from tbench.capture.proxy import Setup
from tbench.capture.recorder import Counts
from tbench.capture.runtime import stop_signals
from tbench.capture.status import Listening, Status, Watch

WAKE_S = 0.1
Word = Literal["listening", "tick", "warn", "error", "end"]


def run(setup: Setup, watch: Watch) -> Status:
    """Capture with as many processes as the recording says, until a signal or the duration ends it.

    Returns the sum of what they did. Signals are as in `proxy.run`. A process that is killed takes its
    connections with it; what it had recorded stays in its `.part` file, and the status has a failure. Raises
    InputError, before anything listens, where one cannot begin.
    """
    recording = setup.recording
    if recording.processes == 1:
        return proxy.run(setup, watch)
    if not hasattr(socket, "SO_REUSEPORT"):
        raise InputError("--processes: this system has no SO_REUSEPORT; leave it out")
    proxy.check_port(setup.host, setup.port)
    for file in recording.files:
        check_new(file)
    with ExitStack() as stack:
        port = stack.enter_context(_reserved(setup.host, setup.port))
        folder = stack.enter_context(proxy.folder_of_this_process())
        proxy.make_authority(folder)
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # which would unblock signals at the first start
        members: list[_Member] = []
        share = recording.max_pending // recording.processes
        for number in range(recording.processes):
            ours, theirs = context.Pipe()
            part = replace(recording, process=number, max_pending=share)
            process = context.Process(
                target=_work, args=(theirs, replace(setup, recording=part, port=port), folder)
            )
            with _blocked(stop_signals()):
                process.start()
            # Ours must be the only end here: while this process holds theirs, its end never comes.
            theirs.close()
            members.append(_Member(process, ours))
            stack.callback(members[-1].close)
        group = _Group(members, watch, folder)
        stack.enter_context(_relayed(group))
        return group.follow()


@contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """A port that processes may share, bound here, so that 0 is the same one for all of them."""
    family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Bound and never listening: the kernel gives connections
        # to listeners alone, and the port stays taken.
        place.bind(address)
        yield place.getsockname()[1]


@dataclass(eq=False)
class _Member:
    """One process as seen from the first. `stops` counts the signals that it was sent."""

    process: SpawnProcess
    link: Connection
    status: Status | None = None
    listening: bool = False
    ended: bool = False
    stops: int = 0

    def close(self) -> None:
        """Make sure that the process ends: without its link it drains by itself."""
        self.link.close()
        self.process.join()


@dataclass(eq=False)
class _Group:
    members: Sequence[_Member]
    watch: Watch
    folder: Path
    stops: int = 0
    place: Listening | None = None
    killed: list[str] = field(default_factory=list)
    refused: str | None = None

    def follow(self) -> Status:
        """Hear the members until all have ended; the sum of their last states."""
        while links := [member.link for member in self.members if not member.ended]:
            for link in wait(links, WAKE_S):
                self._hear(next(member for member in self.members if member.link is link))
            self._announce()
            for member in self.members:  # one that does not listen yet could not drain
                while member.listening and not member.ended and member.stops < self.stops:
                    member.stops += 1
                    with suppress(ProcessLookupError):
                        os.kill(member.process.pid or 0, proxy.RELAYED)
        if self.refused:
            raise InputError(self.refused)
        return self._status()

    def _hear(self, member: _Member) -> None:
        number = self.members.index(member)
        try:
            word, value = member.link.recv()
        except (EOFError, OSError):
            member.ended = True
            member.process.join()
            self.killed.append(f"process {number + 1} ended with {member.process.exitcode}")
            self.watch.warn(f"{self.killed[-1]}: what it had not written is lost; the others go on")
            return
        match word:
            case "listening":
                member.listening, self.place = True, value
            case "tick":
                member.status = value
                # Once for all of them, at the pace of the first that lives.
                if all(each.ended for each in self.members[:number]):
                    self.watch.tick(self._status())
            case "warn":
                self.watch.warn(value)
            case "error":
                self.refused, member.ended = value, True
                self.stops += 1
            case "end":
                member.status, member.ended = value, True

    def _announce(self) -> None:
        """Say where it listens, once: when each process does, or has come to nothing."""
        if self.place and all(each.listening or each.ended for each in self.members):
            # No sooner: each process reads the key when it begins.
            proxy.forget_key(self.folder)
            if not self.refused:
                self.watch.listening(self.place)
            self.place = None

    def _status(self) -> Status:
        states = [member.status for member in self.members if member.status]
        failures = [state.failure for state in states if state.failure]
        counts = Counts()
        for state in states:
            for name in Counts.__dataclass_fields__:
                setattr(counts, name, getattr(counts, name) + getattr(state.counts, name))
        return Status(
            counts=counts,
            left_out=reduce(add, (Counter(state.left_out) for state in states), Counter()),
            redirected=reduce(add, (Counter(state.redirected) for state in states), Counter()),
            in_flight=sum(state.in_flight for state in states),
            queue_bytes=sum(state.queue_bytes for state in states),
            elapsed_s=max((state.elapsed_s for state in states), default=0.0),
            draining=any(state.draining for state in states),
            failure=next(iter([*failures, *self.killed]), None),
            lag=max(
                (state.lag for state in states),
                key=lambda lag: lag.quantile(0.99) or 0.0,
                default=Histogram(),
            ),
            stuck=any(state.stuck for state in states),
        )


@contextmanager
def _blocked(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Block signals for the processes that begin meanwhile, for good.

    A Ctrl-C goes to all of a terminal's processes, systemd's SIGTERM to all of a service: it is the first
    one's to pass on, once, and would end one that has not even begun.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _relayed(group: _Group) -> Iterator[None]:
    """The signals that end a capture are counted here, and passed on by `_Group.follow`."""

    def count(_number: int, _frame: object) -> None:
        group.stops += 1

    before = {number: signal.signal(number, count) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# In a process of the group.


def _work(link: Connection, setup: Setup, folder: Path) -> None:
    # A terminal's hang-up and its Ctrl-C go to a session: this one is ended by the first process alone.
    os.setsid()
    threading.Thread(target=_drain_without, args=(link,), daemon=True).start()
    relay = _Relay(link)
    try:
        relay.send("end", proxy.serve(setup, relay, folder))
    except TbenchError as error:
        relay.send("error", str(error))


def _drain_without(link: Connection) -> None:
    """Drain when the first process has gone, even by `kill -9`: nobody could end this one any more."""
    with suppress(EOFError, OSError):
        # Nothing is ever sent this way: it returns, with EOFError, when the first process is gone.
        link.recv()
    os.kill(os.getpid(), proxy.RELAYED)


class _Relay:
    """Tells the first process what happens. Never waits for it: the loop carries traffic."""

    def __init__(self, link: Connection) -> None:
        self._link = link

    def listening(self, place: Listening) -> None:
        self.send("listening", place)

    def tick(self, status: Status) -> None:
        # A state is dropped where the pipe is full: the next one says more, and the loop must not wait.
        if select([], [self._link], [], 0)[1]:
            self.send("tick", status)

    def warn(self, line: str) -> None:
        if select([], [self._link], [], 0)[1]:
            self.send("warn", line)

    def send(self, word: Word, value: object) -> None:
        with suppress(OSError):
            self._link.send((word, value))
