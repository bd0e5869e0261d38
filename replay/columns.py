"""Samples as columns: the records of a run file. Back again: replay.table. The file itself: replay.runfile.

A block is a map of plain little-endian arrays, so that a million samples load into numpy in about a
second. Absent is NaN in a float, -1 in an integer, None in a word and the empty string in a name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tbench.replay.sample import Headers, Sample, header_lines, headers_of

Column = npt.NDArray[Any]
Record = dict[str, Any]

NUMBERS: Final[Mapping[str, str]] = {
    "due": "<f8",
    "held": "<f8",
    "waited": "<f8",
    "connect": "<f8",
    "sent": "<f8",
    "first_byte": "<f8",
    "first_token": "<f8",
    "first_token_after": "<f8",
    "first_answer": "<f8",
    "first_answer_after": "<f8",
    "last_token": "<f8",
    "last_token_after": "<f8",
    "end": "<f8",
    "end_after": "<f8",
    "sent_wall_ns": "<i8",
    "first_wall_ns": "<i8",
    "index": "<i4",
    "cycle": "<i4",
    "session": "<i4",
    "status": "<i2",
    "refusals": "<i2",
    "prompt_tokens": "<i4",
    "output_tokens": "<i4",
    "cached_tokens": "<i4",
    "reasoning_tokens": "<i4",
    "cache_creation_tokens": "<i4",
    "token_events": "<i4",
    "coalesced": "<i4",
    "request_bytes": "<i8",
    "response_bytes": "<i8",
    "stream": "|b1",
    "conn_reused": "|b1",
    "reconnected": "|b1",
}
"""Column name -> type on disk and in memory."""
COUNTED: Final[Mapping[str, Callable[[Sequence[float]], int]]] = {
    "token_events": len,
    "coalesced": lambda times: len(times) - len(set(times)) if len(times) > 1 else 0,
}
"""Columns that count a sample's token times: all, and those with the stamp of a later one."""
WORDS: Final = ("endpoint", "model", "outcome", "error", "finish_reason")
"""Columns with few values: codes into a table."""
NAMES: Final = ("id", "request_id")
"""Columns whose values are all different: fixed-width ASCII."""
NAME_LIMIT: Final = 64
ABSENT_CODE: Final = 0xFFFF
ABSENT: Final = {"f": np.nan, "i": -1, "b": False}
"""By the kind of a number: what stands for no value."""
MOST: Final = 65_534
"""The most samples of a record."""


_PLAIN: Final = tuple(name for name in (*NUMBERS, *WORDS, *NAMES) if name not in COUNTED)
_values: Final = attrgetter(*_PLAIN)


def from_samples(samples: Sequence[Sample]) -> dict[str, Sequence[Any] | Column]:
    """One sequence per column, None where absent."""
    rows = zip(*map(_values, samples), strict=True) if samples else [()] * len(_PLAIN)
    columns: dict[str, Sequence[Any] | Column] = dict(zip(_PLAIN, rows, strict=True))
    for name, count in COUNTED.items():
        columns[name] = [count(sample.token_times) for sample in samples]
    return columns


def pack(columns: Mapping[str, Sequence[Any] | Column]) -> Record:
    """The record of a block; at most MOST samples."""
    numbers, words, names = {}, {}, {}
    for name, kind in NUMBERS.items():
        values = columns[name]
        if not isinstance(values, np.ndarray):
            if kind != "<f8" and None in values:  # which to numpy is NaN, and no other number
                absent = ABSENT[np.dtype(kind).kind]
                values = [absent if value is None else value for value in values]
            values = np.fromiter(values, kind, len(values))
        numbers[name] = values.astype(kind, copy=False).tobytes()
    for name in WORDS:
        present = dict.fromkeys(value for value in columns[name] if value is not None)
        codes = {None: ABSENT_CODE, **{value: code for code, value in enumerate(present)}}
        packed = np.array([codes[value] for value in columns[name]], dtype="<u2").tobytes()
        words[name] = {"codes": packed, "table": [str(word) for word in present]}
    for name in NAMES:
        plain = [(value or "").encode("ascii", "replace")[:NAME_LIMIT] for value in columns[name]]
        array = np.array(plain, dtype=bytes)
        names[name] = {"width": array.itemsize, "bytes": array.tobytes()}
    return {
        "type": "samples",
        "n": len(columns["index"]),
        "numbers": numbers,
        "words": words,
        "names": names,
    }


def pack_tokens(samples: Sequence[Sample]) -> Record:
    """The token stamps of a block: whole microseconds after each sample's first, as gaps.

    The running sum of a sample's gaps is each stamp rounded, so that rounding errors never add up.
    """
    sizes = np.array([len(sample.token_times) for sample in samples], dtype=np.int64)
    times = np.array([at for sample in samples for at in sample.token_times])
    starts = (np.cumsum(sizes) - sizes)[sizes > 0]
    first = np.repeat(times[starts], sizes[sizes > 0])
    stamps = np.rint((times - first) * 1e6).astype(np.int64)
    gaps = np.delete(
        np.diff(stamps), starts[1:] - 1
    )  # from one sample's last to the next one's first
    return tokens_record(
        np.array([sample.index for sample in samples]),
        np.maximum(sizes - 1, 0),
        np.clip(gaps, 0, 2**32 - 1),
    )


def pack_headers(samples: Sequence[Sample]) -> Record | None:
    """What the answers of a block said in their heads (replay.sample); None where none said anything."""
    answered = [sample for sample in samples if sample.headers]
    if not answered:
        return None
    index = np.array([sample.index for sample in answered], dtype="<i4")
    lines = header_lines(sample.headers for sample in answered)
    return {"type": "headers", "index": index.tobytes(), "lines": lines}


def unpack_headers(
    records: Iterable[Mapping[str, Any]], indices: Iterable[int]
) -> dict[int, Headers]:
    """Those of the samples with these indices, where they have any; holds one record at a time."""
    wanted = set(indices)
    by_index: dict[int, Headers] = {}
    for record in records:
        index = np.frombuffer(record["index"], dtype="<i4").tolist()
        if wanted.isdisjoint(index):
            continue
        headers = headers_of(record["lines"])
        by_index |= {at: fields for at, fields in zip(index, headers, strict=True) if at in wanted}
    return by_index


def tokens_record(index: Column, counts: Column, gaps_us: Column) -> Record:
    """A `tokens` record from arrays: `counts[i]` gaps belong to the sample `index[i]`."""
    return {
        "type": "tokens",
        "index": index.astype("<i4").tobytes(),
        "counts": counts.astype("<u4").tobytes(),
        "gaps_us": gaps_us.astype("<u4").tobytes(),
    }
