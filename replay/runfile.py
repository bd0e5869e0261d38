"""The run file: a container (capture.container_writer) whose records are column blocks of samples.

What it holds is in docs/trace-format.md, "Run files". It never holds a key.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tbench.capture.container_reader import Container, open_container
from tbench.capture.container_writer import ContainerWriter
from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.exchange import ABANDONED, Outcome
from tbench.capture.frames import Rows
from tbench.capture.remote import as_path
from tbench.capture.terminal import plural
from tbench.replay import columns as blocks
from tbench.replay import runform
from tbench.replay.columns import Column, Record
from tbench.replay.sample import Arrival, Headers, Sample
from tbench.replay.table import Columns, Desk, Table, gather_gaps, where

if TYPE_CHECKING:
    from tbench.replay.fidelity import Fidelity

BLOCK_SAMPLES = 1000
BLOCK_S = 1.0
"""A block is written when it is full or this old, so that a kill loses no more."""
USUAL: Final = (
    *("due", "held", "connect", "sent", "first_token", "first_answer", "last_token", "end"),
    *("first_token_after", "first_answer_after", "last_token_after", "end_after"),
    *("index", "cycle", "session", "status", "refusals", "stream", "token_events", "coalesced"),
    *("prompt_tokens", "output_tokens", "cached_tokens"),
    *("endpoint", "model", "outcome", "error", "finish_reason", "id"),
)
"""The columns that a comparison asks for, read in one pass; the others cost a second one."""
IN_ORDER: Final = (
    ("due", "sent"),
    ("sent", "first_token"),
    ("first_token", "last_token"),
    ("sent", "end"),
)
"""Times of which the first cannot be later than the second."""
SLACK_S: Final = 1.0
"""What a step of the clock may do to stamps of two clocks."""
ENDED: Final = ("completed", "failed", "cancelled")
"""Totals that have a sample each."""
LARGE: Final = 200_000_000
"""Bytes from which on the samples of a killed run are counted before they are held: 2 to 5 million."""
PART: Final = 100_000
"""Samples that are read at a time where all are more than memory holds: 60 MB."""
LATER = frozenset({"tokens", "headers"})
"""Records that are read when they are asked for."""


class RunWriter:
    """Writes samples to PATH.part, and gives the file its name when closed. For one thread.

    Raises InvalidRunError from every method when the disk is full or broken; what was written stays in
    PATH.part. Call `pump` about once a second with how far the replay is: `{"planned", "issued"}`.
    """

    def __init__(
        self, path: Path, header: Mapping[str, Any], *, clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._container = ContainerWriter(path, {**header, "kind": "run"})
        self._clock = clock
        self._waiting: list[Sample] = []
        self._flushed = clock()

    def add(self, sample: Sample) -> None:
        """Keep one sample, in any order."""
        self._waiting.append(sample)
        if len(self._waiting) >= BLOCK_SAMPLES:
            self._flush()

    def pump(self, progress: Mapping[str, int | None]) -> None:
        """Write what is older than a second, and the progress with it."""
        if self._clock() - self._flushed >= BLOCK_S:
            self._flush()
            # Behind the samples that it counts: what a kill leaves may say too little, never too much.
            self.append({"type": "progress", **progress})
        with self._writable():
            self._container.pump()

    def append(self, record: Mapping[str, Any], *, first: int | None = None) -> None:
        """Write a record as it is: for makers of synthetic runs.

        `first` is the `index` of the first of its samples; the file's own index tells by it which blocks
        hold samples, or headers, and which nothing but tokens.
        """
        with self._writable():
            self._container.append(record, seq=first)

    def close(self, totals: Mapping[str, Any]) -> Path:
        """Write the rest and the totals, give the file its name; returns its path."""
        self._flush()
        self.append({"type": "totals", **totals})
        with self._writable():
            return self._container.close(totals)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Says in one line that a run cannot be written, and where what was written is."""
        try:
            yield
        except OSError as error:
            blocks = self._container.blocks
            where = (
                f"the samples up to then are in {self._container.part}"
                if blocks
                else "no sample was kept"
            )
            raise InvalidRunError(
                f"{self._path}: cannot be written ({error.strerror or error}); {where}"
            ) from error

    def _flush(self) -> None:
        self._flushed = self._clock()
        if self._waiting:
            first = self._waiting[0].index
            self.append(blocks.pack(blocks.from_samples(self._waiting)), first=first)
            if headers := blocks.pack_headers(self._waiting):
                self.append(headers, first=first)
            self.append(blocks.pack_tokens(self._waiting))
            self._waiting = []


@dataclass(frozen=True)
class Run:
    """A replay, measured: the samples as numpy columns of equal length, in the order of the plan.

    `columns` has one entry per field of `replay.sample.Sample` but `headers` and `token_times`, for which
    there is `token_events`, their number. Floats are seconds, NaN where absent; integers -1 where absent;
    words (`endpoint model outcome error finish_reason`) are str objects or None; `id` and `request_id` are
    numpy strings, empty where absent. What statistics seldom ask for is read from the file when first
    asked for. `totals` are the closing figures. `complete` is False for the
    file of a replay that was killed: its totals were counted again from what it holds. `arrivals` are those
    of the trace's first exchanges, where the replay was of this process and has noted them.
    """

    path: Path
    header: Mapping[str, Any]
    columns: Mapping[str, Column]
    totals: Mapping[str, Any]
    complete: bool
    arrivals: Sequence[Arrival] | None = None

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __str__(self) -> str:
        """What `tbench replay` prints."""
        from tbench.replay.closing import summary  # noqa: PLC0415 (which builds on this file)
        from tbench.replay.totals import numbers  # noqa: PLC0415

        return "\n".join(summary(self, numbers(self)))

    def __repr__(self) -> str:
        return f"<Run {self.path}: {plural(len(self), 'request')}; print it for the table>"

    @cached_property
    def token_gaps(self) -> tuple[Column, Column]:
        """Gaps between a stream's content-bearing events, seconds (float32), as (offsets, gaps).

        Row i owns `gaps[offsets[i]:offsets[i + 1]]`. Read from the file when first asked for.
        """
        expected = int(np.maximum(self.columns["token_events"] - 1, 0).sum(dtype=np.int64))
        with readable(self.path):
            records = open_container(self.path).records()
            tokens = (record for record in records if record.get("type") == "tokens")
            return gather_gaps(tokens, len(self), expected)

    @cached_property
    def fidelity(self) -> "Fidelity":
        """What it preserved of its trace, of which the beginning is read when this is first asked for."""
        from tbench.replay.fidelity import fidelity_of  # noqa: PLC0415 (with a reader of traces)

        return fidelity_of(self)

    def answer_headers(self, indices: Iterable[int]) -> Mapping[int, Headers]:
        """What the server's heads said to these samples (replay.sample), by `index`; read from the file."""
        with readable(self.path):
            records = sample_blocks(open_container(self.path))
            headers = (record for record in records if record.get("type") == "headers")
            return blocks.unpack_headers(headers, indices)


def read_run(path: str | Path, desk: Desk | None = None) -> Run:
    """Load a run; `.part` files of killed replays too. Of those at one `desk` one is held at a time.

    Raises InputError for a missing file, one that is no run, or one whose records make no sense.
    """
    path = as_path(path)
    container = open_container(path)
    if container.header.get("kind") != "run":
        raise InputError(f"{path}: this is a {container.header.get('kind')}, not a run")
    indexed = (container.index or {}).get("totals") or {}
    others: dict[str, Record] = {}

    def samples() -> Iterator[Record]:
        """The records of samples; the last of each other type goes to `others`."""
        for record in sample_blocks(container):
            if record.get("type") == "samples":
                yield record
            elif record.get("type") not in LATER:
                others[str(record.get("type"))] = record

    with readable(path):
        runform.check(container.header, runform.HEADER, "header")
        if indexed:
            runform.check(indexed, runform.TOTALS, "totals")
        ended = sum(indexed.get(name) or 0 for name in ENDED)
        table = Table(
            samples,
            first=USUAL,
            # The totals are a guess of the room; a file that lies
            # about them gets no more than its blocks can hold.
            rows=min(ended, blocks.MOST * len(container.rows or ())),
            guard=lambda: readable(path),
            desk=desk,
        )
        if last := others.get("totals"):
            runform.check(last, runform.TOTALS, "totals")
        closing = last or indexed
        totals = closing or recount(table, others.get("progress"))
        _finish(table, totals)
    return Run(path, container.header, table, totals, complete=bool(closing))


def _finish(table: Table, totals: Mapping[str, Any]) -> None:
    """Mark the warm-up. Raises ValueError where the times of a sample make no sense."""
    for earlier, later in IN_ORDER:  # absent times (NaN) are in any order
        if (table[later] < table[earlier] - SLACK_S).any():
            raise ValueError(f"a sample's {later} is before its {earlier}")
    start = np.where(np.isnan(table["due"]), table["sent"], table["due"])
    table.mark("warmup", np.asarray(start < (totals.get("warmup_s") or 0.0)))


def samples_of(path: Path) -> int:
    """How many samples a run holds, by its closing figures; 0 for no run.

    Of one that was killed they are counted where the file is large, and 0 where it is not.
    """
    container = open_container(path)
    totals = (container.index or {}).get("totals")
    if container.header.get("kind") != "run":
        return 0
    if not isinstance(totals, dict):
        if container.size < LARGE:
            return 0
        with readable(path):
            totals = _recounted(container)
    counts = [totals.get(name) for name in ENDED]
    return sum(count for count in counts if isinstance(count, int))


def read_parts(path: Path, first: Iterable[str] = USUAL) -> Iterator[Run]:
    """A run in parts of about PART samples, in the order of the file: memory is that of a part.

    Header and totals of each are those of the whole; of one that was killed they are counted first.
    `first` are the columns that are wanted; any other costs a further pass over its part. Raises what
    `read_run` does.
    """
    container = open_container(path)
    closing = (container.index or {}).get("totals")
    with readable(path):
        totals = closing or _recounted(container)
        runform.check(container.header, runform.HEADER, "header")
        runform.check(totals, runform.TOTALS, "totals")

    def part(records: Sequence[Record], n: int) -> Run:
        with readable(path):
            table = Table(lambda: records, first=first, rows=n, guard=lambda: readable(path))
            _finish(table, totals)
        return Run(path, container.header, table, totals, complete=bool(closing))

    waiting: list[Record] = []
    n = 0
    for record in sample_blocks(container):
        if record.get("type") == "samples":
            with readable(path):
                n += int(record["n"])
            waiting.append(record)
        if n >= PART:
            yield part(waiting, n)
            waiting, n = [], 0
    if waiting:
        yield part(waiting, n)


def recount(columns: Columns, progress: Mapping[str, Any] | None = None) -> Record:
    """The identity of a replay that never closed its file, from its samples and its last progress.

    Up to a second of samples and progress is gone with it: what was issued and has no sample is lost
    in flight, what was planned by then and never issued was never sent.
    """
    completed, cancelled = (
        int(where(columns, "outcome", *outcomes).sum())
        for outcomes in ((Outcome.OK,), sorted(ABANDONED))
    )
    return _identity(len(columns["index"]), completed, cancelled, progress)


def _recounted(container: Container) -> Record:
    """The same of a file, in one pass and bounded memory."""
    outcomes, progress = Counter[str | None](), None
    for record in sample_blocks(container):
        if record.get("type") == "samples":
            words = record["words"]["outcome"]
            codes = Counter(np.frombuffer(words["codes"], "<u2").tolist())
            for code, n in codes.items():
                outcomes[words["table"][code] if code < len(words["table"]) else None] += n
        elif record.get("type") == "progress":
            progress = record
    stopped = sum(outcomes[outcome.value] for outcome in ABANDONED)
    return _identity(outcomes.total(), outcomes[Outcome.OK.value], stopped, progress)


def _identity(
    ended: int, completed: int, cancelled: int, progress: Mapping[str, Any] | None
) -> Record:
    counts = {
        "completed": completed,
        "cancelled": cancelled,
        "failed": ended - completed - cancelled,
    }
    progress = progress or {}
    runform.check(progress, runform.PROGRESS, "progress")
    # At least what has ended: samples and progress are written a moment apart.
    issued = max(progress.get("issued") or 0, ended)
    planned = max(progress.get("planned") or 0, issued)
    lost = {"lost_in_flight": issued - ended, "never_sent": planned - issued}
    return {"planned": planned, **counts, **lost}


def sample_blocks(container: Container) -> Iterator[Record]:
    """Every record of the blocks that hold samples, where the index says which; else of all blocks."""
    rows = (row for row in container.rows or Rows() if row.first_seq is not None)
    first = next(rows, None)
    if first is None:
        yield from container.records()
        return
    for raw in container.blocks(chain([first], rows)):
        if raw is not None:
            yield from container.unpack(raw)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Says in one line that a file's records make no sense."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a run that this version understands ({error})") from error
