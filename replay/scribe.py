"""The scribe: reads ended attempts from the spools and writes the runs, on one thread behind the sending."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tbench.capture.redact import Secrets
from tbench.replay.answers import to_sample
from tbench.replay.attempt import Attempt
from tbench.replay.budget import Till
from tbench.replay.quiet import give_way
from tbench.replay.runfile import RunWriter
from tbench.replay.tally import Tally
from tbench.replay.workers.spool import SpoolReader

PAUSE_S: Final = 0.05
PUMP: Final = 256
"""The files are seen to after so many samples."""


@dataclass(frozen=True, kw_only=True)
class Book:
    """Where the attempts of one arm go: the run's `writer`, and the `tally` of them.

    `progress` gives planned and issued. `secrets` are masked.
    """

    writer: RunWriter
    tally: Tally
    progress: Callable[[], dict[str, int | None]]
    secrets: Secrets = field(default=Secrets())

    def pump(self) -> None:
        """See to the file."""
        self.writer.pump(self.progress())


@dataclass(kw_only=True)
class Scribe:
    """Writes what comes through `spools` into `books`; for one thread at a time.

    The attempts of book i have indices i modulo the number of books. `follow` writes behind the sending
    until `finish` is called, `complete` writes the rest.
    """

    spools: Sequence[SpoolReader]
    books: Sequence[Book]
    till: Till | None = None
    _finished: threading.Event = field(default_factory=threading.Event, init=False)

    def finish(self) -> None:
        """Nothing more will come. From any thread."""
        self._finished.set()

    def follow(self) -> None:
        """Write what comes, until finished."""
        while not self._finished.wait(PAUSE_S):
            for spool in self.spools:
                self._read(spool, self._over)
            self._pump()

    def complete(self) -> None:
        """Write what is left."""
        for spool in self.spools:
            self._read(spool, lambda: False)
        self._pump()

    def _read(self, spool: SpoolReader, enough: Callable[[], bool]) -> None:
        for count, attempt in enumerate(spool.attempts(), 1):
            self._write(attempt, spool.began)
            if count % PUMP == 0:
                self._pump()
            if enough():
                return

    def _over(self) -> bool:
        """Whether the sending is over; while it is not, it goes first."""
        give_way()
        return self._finished.is_set()

    def _pump(self) -> None:
        for book in self.books:
            book.pump()

    def _write(self, attempt: Attempt, began: float) -> None:
        attempt.index, arm = divmod(attempt.index, len(self.books))
        book = self.books[arm]
        sample = to_sample(attempt, began, book.secrets)
        book.writer.add(sample)
        book.tally.add(sample)
        if self.till:
            self.till.settle(sample, attempt.cost)
