"""Shelf: the blocks of a capture that were used last, decompressed, and the records in them."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tbench.capture import frames
from tbench.capture.container import Losses

if TYPE_CHECKING:
    from tbench.capture.ordering import Segment


class Shelved:
    """A block: its bytes, and where its records are, once that is asked for."""

    __slots__ = ("_edges", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._edges: list[int] | None = None

    def record(self, ordinal: int) -> dict[str, Any]:
        """A record by its ordinal; an empty map when there is none."""
        if self._edges is None:
            self._edges = frames.edges(self.raw)
        if ordinal + 1 >= len(self._edges):
            return {}
        record = frames.unpack_one(self.raw[self._edges[ordinal] : self._edges[ordinal + 1]])
        return record if isinstance(record, dict) else {}

    def some(self, ordinals: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The records of these ordinals in one pass, as long as they ascend and are sound."""
        reader = frames.unpacker(self.raw)
        passed: int | None = 0
        for ordinal in ordinals:
            record: object = None
            if passed is not None and ordinal >= passed:
                record = frames.unpack_ahead(reader, ordinal - passed)
                passed = ordinal + 1
            if not isinstance(record, dict):
                passed = None
                record = self.record(ordinal)
            yield record


class Shelf:
    """The decompressed blocks used last, up to a number of bytes; counts each damaged one once."""

    def __init__(self, segments: "list[Segment]", losses: Losses, budget: int) -> None:
        self._segments = segments
        self._losses = losses
        self._room = budget
        self._blocks: OrderedDict[tuple[int, int], Shelved] = OrderedDict()
        self._damaged: set[tuple[int, int]] = set()

    def block(self, segment: int, ordinal: int) -> Shelved | None:
        """A block; None when it is damaged or does not exist."""
        key = segment, ordinal
        if key in self._damaged or ordinal >= len(self._segments[segment].rows):
            return None
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        return self._load(key)

    def _load(self, key: tuple[int, int]) -> Shelved | None:
        segment = self._segments[key[0]]
        row = segment.rows[key[1]]
        raw = segment.container.block(row)
        if raw is None:
            self._damaged.add(key)
            self._losses.damaged_blocks += 1
            self._losses.skipped_bytes += row.length
            return None
        shelved = self._blocks[key] = Shelved(raw)
        self._room -= len(raw)
        while self._room < 0 and len(self._blocks) > 1:
            self._room += len(self._blocks.popitem(last=False)[1].raw)
        return shelved
