"""The scribe: takes finished attempts off the sending loop, reads their answers, writes their samples.

The work happens on one thread at a time, in batches, so that the file and the tally need no locks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from capture.redact import Secrets
from replay.answers import to_sample
from replay.player import Attempt
from replay.quiet import give_way
from replay.runfile import RunWriter
from replay.tally import Budget, Tally

BATCH: Final = 64
PUMP_S: Final = 0.2


@dataclass(kw_only=True)
class Scribe:
    """Writes attempts to `writer` and counts them in `tally`; `progress` gives planned and issued.

    `began` is called for the run's start; `secrets` are masked. Hand attempts over
    with `keep` (never blocks); `finish` lets `run` return when everything is written.
    """

    writer: RunWriter
    tally: Tally
    progress: Callable[[], dict[str, int | None]]
    began: Callable[[], float]
    budget: Budget | None = None
    secrets: Secrets = field(default=Secrets())
    waiting: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Attempt](float("inf"))

    def keep(self, attempt: Attempt) -> None:
        """Take over an ended attempt."""
        self.waiting += 1
        self._send.send_nowait(attempt)

    def finish(self) -> None:
        """Nothing more will come."""
        self._send.close()

    async def run(self) -> None:
        """Write what comes, in the order in which it ended, until finished."""
        more = True
        while more:
            batch, more = await self._gather()
            await trio.to_thread.run_sync(self._write, batch)

    async def _gather(self) -> tuple[list[Attempt], bool]:
        """What has come, after waiting for a moment at most; and whether more may."""
        batch: list[Attempt] = []
        try:
            with trio.move_on_after(PUMP_S):
                batch.append(await self._receive.receive())
            while batch and len(batch) < BATCH:
                batch.append(self._receive.receive_nowait())
        except trio.WouldBlock:
            pass
        except trio.EndOfChannel:
            return batch, False
        return batch, True

    def _write(self, batch: list[Attempt]) -> None:
        for attempt in batch:
            sample = to_sample(attempt, self.began(), self.secrets)
            self.writer.add(sample)
            self.tally.add(sample)
            if self.budget:
                self.budget.settle(sample)
            give_way()
        self.waiting -= len(batch)
        self.writer.pump(self.progress())
