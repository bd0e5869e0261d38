"""Counters: a page of memory that the parent shares with its workers, for counters that nobody waits for.

A worker writes its row, the parent reads it a few times a second; what was spent goes the other way. Each
field is eight aligned bytes and has one writer, so that none is ever read half written and no lock is held.
Money has several, and a lock.
"""

import fcntl
import math
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, Literal, Self

from tbench.capture.errors import InputError

Field = Literal["ended", "full", "starved"]
FIELDS: Final[tuple[Field, ...]] = ("ended", "full", "starved")
"""`ended`: how many of those that were sent. `full`: the worker had as many calls at hand as it takes, or all
that there are, and can begin. `starved`: how often it had none when one was wanted."""
PLACES: Final[dict[Field, int]] = {name: place for place, name in enumerate(FIELDS)}
MOST_ARMS: Final = 5
"""So many arms of a duet have a counter of their own for what was issued."""
WORD: Final = 8
ROW: Final = 64
"""Bytes of a row: a cache line. Row 0 is money: what was spent, what is reserved, whether that stays, and
what was spent before."""
PICO: Final = 1e12
"""Money is counted in whole millionths of a microdollar, so that no sum is rounded."""


class SharedCounters:
    """The page, with room for `workers` rows of 64 bit integers."""

    def __init__(self, fd: int, workers: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, (workers + 1) * ROW)
        self._counters = memoryview(self._map).cast("q")

    @classmethod
    @contextmanager
    def made(cls, workers: int, ledger: Path | None = None, before: float = 0.0) -> Iterator[Self]:
        """A page of its own, for as long as it is used.

        As a `ledger` it has a name and outlives a kill of all who use it; it stays there, unless no money
        went out. US dollars that were spent `before` are in it.
        """
        with ExitStack() as stack:
            try:
                if ledger is None:
                    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
                else:  # opened as it is: who is killed now has spent what it says
                    file = os.fdopen(os.open(ledger, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
                stack.enter_context(file)
                # Written, not only made longer: a store where a full disk has no room for it is a SIGBUS.
                row = struct.pack("4q", 0, 0, 0, _pico(before))
                file.write(row.ljust((workers + 1) * ROW, b"\0"))
                file.flush()
                shared = cls(file.fileno(), workers)
            except OSError as error:
                place = ledger or tempfile.gettempdir()
                raise InputError(f"{place}: nothing can be kept here: {error.strerror}") from None
            try:
                yield shared
            finally:
                shared.close()
                # Behind all use of the lock: closing any descriptor of a file drops what
                # a process has locked of it (POSIX), and this reads, so closes, one.
                if ledger and not outlay(ledger):
                    ledger.unlink()

    def close(self) -> None:
        """Let go of the memory."""
        self._counters.release()
        self._map.close()

    def row(self, worker: int) -> "WorkerCounters":
        """The counters of a worker, from 0."""
        return WorkerCounters(self._counters[(worker + 1) * ROW // WORD :])

    @contextmanager
    def money(self) -> "Iterator[memoryview[int]]":
        """What the ended attempts cost, what is reserved for others, and whether some will never settle.

        Nobody else may look meanwhile. The lock is POSIX's: each process has its own, and one that dies has
        none.
        """
        fcntl.lockf(self.fd, fcntl.LOCK_EX)
        try:
            yield self._counters[:3]
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def commit(self, most: float) -> None:
        """Reserve US dollars for good."""
        with self.money() as money:
            money[1] += _pico(most)

    def forsake(self) -> None:
        """A worker is gone: what it had reserved stays so, and nobody is to wait for it. For the parent."""
        self._counters[2] = (
            1  # without the lock, which the thread that settles may have taken for all
        )


def outlay(ledger: Path) -> float:
    """US dollars that a ledger's run may have cost: what was in flight, or not read, counts with the most."""
    row = ledger.read_bytes()[:ROW]
    if len(row) < ROW:  # nothing goes out before it is written
        return 0.0
    spent, reserved, _, before = memoryview(row).cast("q")[:4]
    return (spent + max(0, reserved) + before) / PICO


class WorkerCounters:
    """A worker's counters by name."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def __getitem__(self, name: Field) -> int:
        value: int = self._words[PLACES[name]]
        return value

    def __setitem__(self, name: Field, value: int) -> None:
        self._words[PLACES[name]] = value

    def issue(self, arm: int) -> None:
        """Count a call that is sent for an arm."""
        self._words[len(FIELDS) + arm] += 1

    def issued(self, arm: int) -> int:
        """How many were sent for an arm."""
        value: int = self._words[len(FIELDS) + arm]
        return value

    @property
    def in_flight(self) -> int:
        """How many were sent, and have not ended."""
        return sum(self._words[len(FIELDS) : len(FIELDS) + MOST_ARMS]) - self["ended"]

    @property
    def raw(self) -> bytes:
        """All of them, for a copy of the row on another machine."""
        return self._words[: ROW // WORD].tobytes()

    @raw.setter
    def raw(self, row: bytes) -> None:
        self._words[: ROW // WORD] = memoryview(row).cast("q")

    def release(self) -> None:
        self._words.release()


class Budget:
    """US dollars that may be spent. What is in flight counts with the most that it may cost.

    A worker reserves before it sends; the parent settles when it has read the answer. All of them draw on one
    sum.
    """

    def __init__(self, limit: float, shared: SharedCounters) -> None:
        # Down here and up in `_pico`: what rounding leaves is never in favour of spending.
        self._limit = math.floor(limit * PICO)
        self._shared = shared

    def reserve(self, most: float) -> bool | None:
        """Set aside what one more call may cost, for a worker.

        None when that would fit once others have settled for less than they may cost; False when it never
        will.
        """
        amount = _pico(most)
        with self._shared.money() as money:
            spent, reserved, forsaken = money
            if spent + reserved + amount <= self._limit:
                money[1] = reserved + amount
                return True
            return None if reserved and not forsaken and spent + amount <= self._limit else False

    def settle(self, actual: float, *reserved: float) -> None:
        """Replace what was `reserved` for a call, each time that it went out, by what it cost.

        For the parent.
        """
        with self._shared.money() as money:
            money[0] += _pico(actual)
            money[1] -= sum(map(_pico, reserved))

    @property
    def left(self) -> float:
        """What is not spent: the most that may be reserved, where that is on another machine's page."""
        with self._shared.money() as money:
            return max(0, self._limit - money[0]) / PICO

    @property
    def reserved(self) -> float:
        """What is reserved: in the end, for calls of workers that are gone."""
        with self._shared.money() as money:
            return max(0, money[1]) / PICO


def _pico(usd: float) -> int:
    """Rounded up; what has no bound is more than any budget."""
    # Half of what a word holds: added to what is there, it does not overflow.
    return min(math.ceil(usd * PICO), 2**62) if usd < math.inf else 2**62
