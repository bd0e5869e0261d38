"""Pieces: a run file, a part at a time, for what must not hold all of it at once."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tbench.capture.container import Container
from tbench.replay.columns import Column, Record
from tbench.replay.runfile import LATER, USUAL, check_order, open_run, readable, sample_blocks
from tbench.replay.table import Table, gather_gaps

SAMPLES: Final = 65_536
"""A piece ends with the block that makes it this large."""
LIGHT: Final = tuple(name for name in USUAL if name not in {"id", "cycle", "session", "error"})
"""The usual columns, without what pairs requests and what explains failures."""


class Piece(NamedTuple):
    """The samples of neighbouring blocks, and how to get the gaps between their tokens."""

    columns: Table
    token_gaps: Callable[[], tuple[Column, Column]]


class Pieces:
    """The pieces of a run file, from the first one each time; the last record of each other type in `others`.

    Memory: one piece. With `gaps` all blocks are read, else those that hold samples. Raises InputError for
    what is no run, or makes no sense.
    """

    def __init__(self, path: Path, *, first: Iterable[str] = LIGHT, gaps: bool = False) -> None:
        self.path = path
        self.container: Container = open_run(path)
        self.others: dict[str, Record] = {}
        self._first = tuple(first)
        self._gaps = gaps

    def __iter__(self) -> Iterator[Piece]:
        held: list[Record] = []
        tokens: list[Record] = []
        for record in self._records():
            kind = str(record.get("type"))
            if kind == "samples":
                if sum(one["n"] for one in held) >= SAMPLES:
                    yield self._piece(held, tokens)
                    held, tokens = [], []
                held.append(record)
            elif kind == "tokens" and self._gaps:
                tokens.append(record)
            elif kind not in LATER:
                self.others[kind] = record
        if held:
            yield self._piece(held, tokens)

    def _records(self) -> Iterator[Record]:
        return self.container.records() if self._gaps else sample_blocks(self.container)

    def _piece(self, held: list[Record], tokens: list[Record]) -> Piece:
        table = Table(
            lambda: held,
            first=self._first,
            rows=2 * SAMPLES,
            guard=lambda: readable(self.path),
        )
        if "end" in self._first:
            with readable(self.path):
                check_order(table)

        def gaps() -> tuple[Column, Column]:
            with readable(self.path):
                return gather_gaps(tokens, len(table["index"]))

        return Piece(table, gaps)
