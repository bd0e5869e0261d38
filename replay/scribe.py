"""The scribe: reads ended attempts from the spools and writes the run, on one thread behind the sending."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from capture.redact import Secrets
from replay.answers import to_sample
from replay.attempt import Attempt
from replay.budget import Till
from replay.quiet import give_way
from replay.runfile import RunWriter
from replay.tally import Tally
from replay.workers.spool import SpoolReader

PAUSE_S: Final = 0.05
PUMP: Final = 256
"""The file is seen to after so many samples."""


@dataclass(kw_only=True)
class Scribe:
    """Writes what comes through `spools` to `writer`, and counts it in `tally`; for one thread: `run`.

    `progress` gives planned and issued. `secrets` are masked. After `finish`, `run` returns once everything
    is written.
    """

    spools: Sequence[SpoolReader]
    writer: RunWriter
    tally: Tally
    progress: Callable[[], dict[str, int | None]]
    till: Till | None = None
    secrets: Secrets = field(default=Secrets())
    _finished: threading.Event = field(default_factory=threading.Event, init=False)

    def finish(self) -> None:
        """Nothing more will come. From any thread."""
        self._finished.set()

    def run(self) -> None:
        """Write what comes, until finished."""
        last = False
        while not last:
            last = self._finished.is_set()
            for spool in self.spools:
                self._read(spool)
            self.writer.pump(self.progress())
            self._finished.wait(PAUSE_S)

    def _read(self, spool: SpoolReader) -> None:
        for count, attempt in enumerate(spool.attempts(), 1):
            self._write(attempt, spool.began)
            if count % PUMP == 0:
                self.writer.pump(self.progress())

    def _write(self, attempt: Attempt, began: float) -> None:
        sample = to_sample(attempt, began, self.secrets)
        self.writer.add(sample)
        self.tally.add(sample)
        if self.till:
            self.till.settle(sample, attempt.cost)
        give_way()
