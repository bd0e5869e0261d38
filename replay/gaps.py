"""Gaps: the times between the token events of streams, gathered from all `tokens` records of a run."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from tbench.replay.columns import Column
from tbench.replay.table import roomy, whole

_ROOM: Final = 1024
_AT_ONCE: Final = 1_000_000


def gather_gaps(
    records: Iterable[Mapping[str, Any]], samples: int, gaps: int = 0
) -> tuple[Column, Column]:
    """Gaps between token events as (offsets, gaps in seconds, float32), from all `tokens` records.

    The gaps of the sample in row i, rows ordered by `index`, are `gaps[offsets[i]:offsets[i + 1]]`.
    `gaps` is how many to expect.
    """
    index, counts = np.empty(samples, dtype="<i4"), np.empty(samples, dtype="<u4")
    found, at, end = np.empty(gaps or _ROOM, dtype=np.float32), 0, 0
    for record in records:
        few, owned, stamps = _tokens(record)
        if at + len(few) > samples:
            raise ValueError("the token stamps are not those of its samples: it is damaged")
        index[at : at + len(few)], counts[at : at + len(few)] = few, owned
        found = roomy(found, end + len(stamps))
        np.multiply(stamps, 1e-6, out=found[end : end + len(stamps)], dtype=np.float32)
        at, end = at + len(few), end + len(stamps)
    if at != samples:
        raise ValueError("the token stamps are not those of its samples: it is damaged")
    return _arranged(index, counts.astype(np.int64), found[:end])


def _tokens(record: Mapping[str, Any]) -> tuple[Column, Column, Column]:
    """Whose gaps a record holds, how many each has, and the gaps in microseconds."""
    index = np.frombuffer(record["index"], dtype="<i4")
    counts = whole(record["counts"], "<u4", len(index))
    return index, counts, whole(record["gaps_us"], "<u4", int(counts.sum(dtype=np.int64)))


def _arranged(index: Column, sizes: Column, gaps: Column) -> tuple[Column, Column]:
    """The offsets, and the gaps in the order of the samples' places in the plan."""
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(index, kind="stable")
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes[order])])
    if (np.diff(order) == 1).all():
        return offsets, gaps
    ordered = np.empty_like(gaps)
    for rows in np.array_split(np.arange(len(order)), 1 + len(gaps) // _AT_ONCE):
        first, last = offsets[rows[0]], offsets[rows[-1] + 1]
        moved = starts[order[rows]] - offsets[rows]
        places = np.arange(first, last) + np.repeat(moved, sizes[order[rows]])
        ordered[first:last] = gaps[places]
    return offsets, ordered
