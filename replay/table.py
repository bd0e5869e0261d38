"""Table: the columns of many `samples` records, gathered in one pass into arrays that just hold them.

What a statistic never asks for is not kept: the columns outside the first pass cost a second one, once.
Words stay codes and names stay bytes until somebody wants the column itself.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import batched, groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tbench.replay.columns import ABSENT, ABSENT_CODE, MOST, NAMES, NUMBERS, WORDS, Column

Truths = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Columns = Mapping[str, Column]
Records = Sequence[Mapping[str, Any]]

ALL: Final = slice(None)
EVERY: Final = (*NUMBERS, *WORDS, *NAMES)
KINDS: Final[Mapping[str, tuple[float, float]]] = {
    "f": (-1.2e10, 1.2e10),
    "i": (0, 2**63 - 1),
    "b": (0, 1),
}
"""By the kind of a number, the least and the largest that it can be where it is there (s: 380 years)."""
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {"status": (100, 999)}
"""The same of single columns."""
AT_ONCE: Final = 16
"""Records that are taken over together: a call of numpy costs as much as what it does to one."""
UNEQUAL: Final = "a column of {} bytes in a block of {}"
_ROOM: Final = 1024
"""Rows, or gaps, to begin with where nobody says how many will come."""


class Table(Mapping[str, Column]):
    """A mapping of column name to array, rows ordered by `index`.

    `records` gives all records anew whenever it is called, `first` names what the first pass keeps,
    `rows` is how many samples to expect (a wrong guess costs time, never a sample). A record that breaks
    the format raises KeyError, TypeError or ValueError, now or when a column is first asked for: always
    within `guard`, a context that says what was read.
    """

    def __init__(
        self,
        records: Callable[[], Iterable[Mapping[str, Any]]],
        *,
        first: Iterable[str] = EVERY,
        rows: int = 0,
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
        desk: "Desk | None" = None,
    ) -> None:
        self._records = records
        self._guard = guard
        self._desk = desk
        self._first = frozenset({"index", *first})
        self._rows, self._counted = rows, False
        self._stores: dict[str, _Store] = {}
        self._marks: dict[str, Column] = {}
        self._order: npt.NDArray[np.int64] | None = None
        self._keep(self._first)

    def __getitem__(self, name: str) -> Column:
        return self._marks[name] if name in self._marks else self._store(name).column()

    def __iter__(self) -> Iterator[str]:
        yield from (*EVERY, *self._marks)

    def __len__(self) -> int:
        return len(EVERY) + len(self._marks)

    def drop(self) -> None:
        """Hold no column of a record any more: what is asked for from now on is read anew."""
        self._stores.clear()

    def mark(self, name: str, column: Column) -> None:
        """Add a column that no record holds."""
        self._marks[name] = column

    def short(self, name: str) -> Column:
        """A column in its shortest form: names as bytes, words as codes."""
        return self._store(name).data

    def at(self, places: Places, names: Iterable[str]) -> dict[str, Column]:
        """Some columns of a few samples only. What no pass has kept yet is not kept now either."""
        names = tuple(names)
        seldom = {name for name in names if name in EVERY and name not in self._stores}
        brief = self._read(seldom) if seldom else {}
        stores = {**self._stores, **brief}
        return {
            name: stores[name].column(places) if name in stores else self[name][places]
            for name in names
        }

    def where(self, name: str, words: Sequence[str]) -> Truths:
        """Which samples have one of these words."""
        return self._words(name).where(words)

    def words(self, name: str) -> set[str]:
        """Every word that some sample has."""
        return set(self._words(name).tally())

    def tally(self, name: str, places: Places) -> dict[str, int]:
        """How many of these samples have each word."""
        return self._words(name).tally(places)

    def _words(self, name: str) -> "_Words":
        store = self._store(name)
        assert isinstance(store, _Words)
        return store

    def _store(self, name: str) -> "_Store":
        if name not in EVERY:
            raise KeyError(name)
        if not self._stores:  # dropped
            self._keep({name, *self._first})
        if name not in self._stores:
            # What is small is gathered in one pass with any other of its kind; names are large.
            wanted = {name} if name in NAMES else {*NUMBERS, *WORDS}
            self._keep(wanted.difference(self._stores))
        return self._stores[name]

    def _keep(self, names: Iterable[str]) -> None:
        if self._desk:
            self._desk.take(self)
        self._stores |= self._read(names)

    def _read(self, names: Iterable[str]) -> "dict[str, _Store]":
        """One pass over the records."""
        wanted = {name: KIND_OF[name](name, self._rows or _ROOM) for name in names}
        at = 0
        with self._guard():
            for records in batched(self._records(), AT_ONCE):
                sizes = [record["n"] for record in records]
                for n in sizes:
                    if not 0 <= n <= MOST:
                        raise ValueError(f"a block of {n} samples")
                for store in wanted.values():
                    store.put(records, at, sizes)
                at += sum(sizes)
            # A file that was replaced between two passes would give columns of two runs.
            if self._counted and at != self._rows:
                raise ValueError(f"it had {self._rows} samples and now has {at}")
            for store in wanted.values():
                store.data = store.data[:at]
                store.check()
            if "index" in wanted:  # the first pass finds the order of the plan
                index = wanted["index"].data
                # In order where calls end as they were sent, and of a
                # trace: that spares a sort, and a copy of each column.
                ordered = bool((index[1:] >= index[:-1]).all())
                self._order = None if ordered else np.argsort(index, kind="stable")
            for store in wanted.values() if self._order is not None else ():
                store.data = store.data[self._order]
        self._rows, self._counted = at, True
        return wanted


class Desk:
    """Holds as many tables at a time as it has `seats`: those that were read last; others are dropped."""

    def __init__(self, seats: int = 1) -> None:
        self._seats = seats
        self._tables: list[Table] = []

    def take(self, table: Table) -> None:
        """Hold this one."""
        self._tables = [*(each for each in self._tables if each is not table), table]
        while len(self._tables) > self._seats:
            self._tables.pop(0).drop()


def where(columns: Columns, name: str, *words: str) -> Truths:
    """Which samples have one of these words in a column of words."""
    if isinstance(columns, Table):
        return columns.where(name, words)
    column = columns[name]
    return _any([column == word for word in words], len(column))


def words(columns: Columns, name: str) -> set[str]:
    """Every word that some sample has; of a column that is not there, none."""
    if isinstance(columns, Table):
        return columns.words(name)
    every = set(columns[name].tolist()) if name in columns else set()
    return {str(word) for word in every if word is not None}


def tally(columns: Columns, name: str, places: Places) -> dict[str, int]:
    """How many of these samples have each word; of a column that is not there, none has any."""
    if isinstance(columns, Table):
        return columns.tally(name, places)
    words = columns[name][places].tolist() if name in columns else []
    return dict(Counter(str(word) for word in words if word is not None))


def at(columns: Columns, places: Places, *names: str) -> dict[str, Column]:
    """Some columns of a few samples only, without a copy of all of them."""
    if isinstance(columns, Table):
        return columns.at(places, names)
    return {name: columns[name][places] for name in names}


def short(columns: Columns, name: str) -> Column:
    """A column to be compared with itself in another run: bytes where it was read from records."""
    return columns.short(name) if isinstance(columns, Table) else columns[name]


class _Numbers:
    """A column of numbers."""

    def __init__(self, name: str, room: int) -> None:
        self._name = name
        self._kind = np.dtype(NUMBERS[name])
        self.data: Column = np.empty(room, dtype=self._kind)

    def column(self, places: Places | slice = ALL) -> Column:
        return self.data[places]

    def put(self, records: Records, at: int, sizes: Sequence[int]) -> None:
        """Take over the values of records of these sizes; absent ones where a writer had no such column."""
        self.data = roomy(self.data, at + sum(sizes))
        room, width = memoryview(self.data.view("u1")), self._kind.itemsize
        for record, n in zip(records, sizes, strict=True):
            piece = record["numbers"].get(self._name)
            if piece is None:
                self.data[at : at + n] = ABSENT[self._kind.kind]
            elif len(piece) != n * width:
                raise ValueError(UNEQUAL.format(len(piece), n))
            else:
                room[at * width : (at + n) * width] = piece
            at += n

    def check(self) -> None:
        """Raise ValueError for a value that cannot be; NaN, which is absent, passes."""
        data = self.data.view("u1") if self._kind.kind == "b" else self.data
        low, high = BOUNDS.get(self._name, KINDS[self._kind.kind])
        if len(data) and low <= data.min() and data.max() <= high:  # none is absent: the usual case
            return
        if ((data < low) & (data != ABSENT[self._kind.kind]) | (data > high)).any():
            raise ValueError(f"a sample's {self._name} is not within {low:g} and {high:g}")


class _Words:
    """A column of words from records that each have a table of their own: codes into one for all."""

    def __init__(self, name: str, room: int) -> None:
        self._name = name
        self._table: dict[str | None, int] = {None: 0}
        self.data: Column = np.empty(room, dtype="<i4")

    def column(self, places: Places | slice = ALL) -> Column:
        table = np.empty(len(self._table), dtype=object)
        table[:] = list(self._table)
        return np.asarray(table[self.data[places]])

    def check(self) -> None:
        """Each word was looked at when it was taken over."""

    def where(self, words: Sequence[str]) -> Truths:
        codes = [self._table[word] for word in words if word in self._table]
        return _any([self.data == code for code in codes], len(self.data))

    def tally(self, places: Places | slice = ALL) -> dict[str, int]:
        counts = np.bincount(self.data[places], minlength=len(self._table)).tolist()
        pairs = zip(self._table, counts, strict=True)
        return {word: count for word, count in pairs if word is not None and count}

    def put(self, records: Records, at: int, sizes: Sequence[int]) -> None:
        """Take over the words of records of these sizes: at once of those that have the same table."""
        self.data = roomy(self.data, at + sum(sizes))
        packed = [record["words"].get(self._name) for record in records]
        rows = zip(packed, sizes, strict=True)
        for words, group in groupby(rows, lambda row: row[0] and row[0]["table"]):
            columns, counts = zip(*group, strict=True)
            end = at + sum(counts)
            if words is None:
                self.data[at:end] = 0
            else:
                if not all(isinstance(word, str) for word in words):
                    raise TypeError(f"a sample's {self._name} is no text")
                # The codes of these words in the table for all, and last that of none.
                known = [*(self._table.setdefault(word, len(self._table)) for word in words), 0]
                codes = whole([column["codes"] for column in columns], "<u2", counts)
                places = np.where(codes == ABSENT_CODE, len(words), codes)
                self.data[at:end] = np.array(known, dtype="<i4")[places]
            at = end


class _Names:
    """A column of names that are all different: bytes of one width."""

    def __init__(self, name: str, room: int) -> None:
        self._name = name
        self.data: Column = np.empty(room, dtype="S1")

    def column(self, places: Places | slice = ALL) -> Column:
        return self.data[places].astype(np.dtypes.StringDType())

    def check(self) -> None:
        """Raise ValueError for a name that is not of ASCII."""
        if self.data.view("u1").max(initial=0) > 0x7F:
            raise ValueError(f"a sample's {self._name} is not of ASCII")

    def put(self, records: Records, at: int, sizes: Sequence[int]) -> None:
        """Take over the names of records of these sizes."""
        for record, n in zip(records, sizes, strict=True):
            packed = record["names"][self._name]
            names = whole([packed["bytes"]], f"S{packed['width']}", [n])
            if names.itemsize > self.data.itemsize:
                wider = np.empty(len(self.data), dtype=names.dtype)
                wider[:at] = self.data[:at]
                self.data = wider
            self.data = roomy(self.data, at + n)
            self.data[at : at + n] = names
            at += n


_Store = _Numbers | _Words | _Names
KIND_OF: Final[Mapping[str, type[_Store]]] = {
    **dict.fromkeys(NUMBERS, _Numbers),
    **dict.fromkeys(WORDS, _Words),
    **dict.fromkeys(NAMES, _Names),
}


def _any(columns: Iterable[Column], rows: int) -> Truths:
    any_of_them = np.zeros(rows, dtype=bool)
    for column in columns:
        any_of_them |= column.astype(bool)
    return any_of_them


def roomy(data: Column, rows: int) -> Column:
    """The same values with room for so many; what is not written yet takes no memory."""
    if rows <= len(data):
        return data
    # Doubled, so that all copies together cost no more than one of the whole.
    larger = np.empty(max(rows, 2 * len(data)), dtype=data.dtype)
    larger[: len(data)] = data
    return larger


def whole(pieces: Sequence[bytes], kind: npt.DTypeLike, sizes: Sequence[int]) -> Column:
    """One array of a column in several records; ValueError where it is not as long as a record says."""
    width = np.dtype(kind).itemsize
    for piece, n in zip(pieces, sizes, strict=True):
        if len(piece) != n * width:
            raise ValueError(UNEQUAL.format(len(piece), n))
    return np.frombuffer(b"".join(pieces), dtype=kind)


# Gaps: the times between the token events of streams, gathered from all `tokens` records of a run.

_AT_ONCE: Final = 1_000_000


def gather_gaps(
    records: Iterable[Mapping[str, Any]], samples: int, gaps: int = 0
) -> tuple[Column, Column]:
    """Gaps between token events as (offsets, gaps in seconds, float32), from all `tokens` records.

    The gaps of the sample in row i, rows ordered by `index`, are `gaps[offsets[i]:offsets[i + 1]]`.
    `gaps` is how many to expect.
    """
    index, counts = np.empty(samples, dtype="<i4"), np.empty(samples, dtype="<u4")
    seconds, at, end = np.empty(gaps or _ROOM, dtype=np.float32), 0, 0
    for record in records:
        few = np.frombuffer(record["index"], dtype="<i4")
        owned = whole([record["counts"]], "<u4", [len(few)])
        stamps = whole([record["gaps_us"]], "<u4", [int(owned.sum(dtype=np.int64))])
        if at + len(few) > samples:
            raise ValueError("the token stamps are not those of its samples: it is damaged")
        index[at : at + len(few)], counts[at : at + len(few)] = few, owned
        seconds = roomy(seconds, end + len(stamps))
        np.multiply(stamps, 1e-6, out=seconds[end : end + len(stamps)], dtype=np.float32)
        at, end = at + len(few), end + len(stamps)
    if at != samples:
        raise ValueError("the token stamps are not those of its samples: it is damaged")
    # Into the order of the samples' places in the plan.
    sizes, seconds = counts.astype(np.int64), seconds[:end]
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(index, kind="stable")
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes[order])])
    if (np.diff(order) == 1).all():
        return offsets, seconds
    ordered = np.empty_like(seconds)
    for rows in np.array_split(np.arange(len(order)), 1 + len(seconds) // _AT_ONCE):
        first, last = offsets[rows[0]], offsets[rows[-1] + 1]
        moved = starts[order[rows]] - offsets[rows]
        places = np.arange(first, last) + np.repeat(moved, sizes[order[rows]])
        ordered[first:last] = seconds[places]
    return offsets, ordered
