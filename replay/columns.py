"""Samples as columns and back: the blocks of a run file. Pure; the file itself is replay.runfile.

A block is a map of plain little-endian arrays, so that a million samples load into numpy in about a
second. Absent is NaN in a float, -1 in an integer, None in a word and the empty string in a name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from replay.sample import Sample

Column = npt.NDArray[Any]
Record = dict[str, Any]

NUMBERS: Final[Mapping[str, str]] = {
    "due": "<f8",
    "held": "<f8",
    "connect": "<f8",
    "sent": "<f8",
    "first_byte": "<f8",
    "first_token": "<f8",
    "first_answer": "<f8",
    "last_token": "<f8",
    "end": "<f8",
    "sent_wall_ns": "<i8",
    "first_wall_ns": "<i8",
    "index": "<i4",
    "cycle": "<i4",
    "status": "<i2",
    "prompt_tokens": "<i4",
    "output_tokens": "<i4",
    "cached_tokens": "<i4",
    "reasoning_tokens": "<i4",
    "token_events": "<i4",
    "request_bytes": "<i8",
    "response_bytes": "<i8",
    "stream": "|b1",
    "conn_reused": "|b1",
}
"""Column name -> type on disk and in memory."""
WORDS: Final = ("endpoint", "model", "outcome", "error", "finish_reason")
"""Columns with few values: codes into a table."""
NAMES: Final = ("id", "request_id")
"""Columns whose values are all different: fixed-width ASCII."""
NAME_LIMIT: Final = 64
ABSENT_CODE: Final = 0xFFFF
_ABSENT: Final = {"f": np.nan, "i": -1, "b": False}


def from_samples(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """One list per column, None where absent."""
    columns: dict[str, list[Any]] = {
        name: [getattr(sample, name) for sample in samples]
        for name in (*NUMBERS, *WORDS, *NAMES)
        if name != "token_events"
    }
    columns["token_events"] = [len(sample.token_times) for sample in samples]
    return columns


def pack(columns: Mapping[str, Sequence[Any] | Column]) -> Record:
    """The record of a block; at most 65,534 samples."""
    numbers = {name: _number(columns[name], kind).tobytes() for name, kind in NUMBERS.items()}
    words = {name: _pack_words(columns[name]) for name in WORDS}
    names = {name: _pack_names(columns[name]) for name in NAMES}
    return {
        "type": "samples",
        "n": len(columns["index"]),
        "numbers": numbers,
        "words": words,
        "names": names,
    }


def _number(values: Sequence[Any] | Column, kind: str) -> Column:
    if isinstance(values, np.ndarray):
        return values.astype(kind)
    absent = _ABSENT[np.dtype(kind).kind]
    return np.array([absent if value is None else value for value in values], dtype=kind)


def _pack_words(values: Sequence[str | None] | Column) -> Record:
    table = {
        value: code for code, value in enumerate(dict.fromkeys(v for v in values if v is not None))
    }
    codes = [ABSENT_CODE if value is None else table[value] for value in values]
    return {"codes": np.array(codes, dtype="<u2").tobytes(), "table": [str(word) for word in table]}


def _pack_names(values: Sequence[str | None] | Column) -> Record:
    plain = [(value or "").encode("ascii", "replace")[:NAME_LIMIT] for value in values]
    array = np.array(plain, dtype=bytes)
    return {"width": array.itemsize, "bytes": array.tobytes()}


def unpack(records: Iterable[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns of all `samples` records, in the order of the records.

    Raises KeyError, TypeError or ValueError for a record that breaks the format.
    """
    blocks = [_whole(record) for record in records]
    sizes = [block["n"] for block in blocks]
    columns: dict[str, Column] = {}
    for name, kind in NUMBERS.items():
        columns[name] = _unpack_numbers(
            [block["numbers"].get(name) for block in blocks], sizes, kind
        )
    for name in WORDS:
        columns[name] = _unpack_words([block["words"].get(name) for block in blocks], sizes)
    for name in NAMES:
        columns[name] = _unpack_names([block["names"][name] for block in blocks])
    return columns


def _whole(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record, checked: every column as long as it says."""
    n = record["n"]
    for name, data in record["numbers"].items():
        if name in NUMBERS and len(data) != n * np.dtype(NUMBERS[name]).itemsize:
            raise ValueError(f"column {name} is not {n} long")
    for word in record["words"].values():
        if len(word["codes"]) != 2 * n:
            raise ValueError(f"a column of words is not {n} long")
    for name in record["names"].values():
        if len(name["bytes"]) != n * name["width"]:
            raise ValueError(f"a column of names is not {n} long")
    return record


def _unpack_numbers(parts: Sequence[bytes | None], sizes: Sequence[int], kind: str) -> Column:
    absent = _ABSENT[np.dtype(kind).kind]
    filled = (
        np.full(size, absent, dtype=kind).tobytes() if part is None else part
        for part, size in zip(parts, sizes, strict=True)
    )
    return np.frombuffer(b"".join(filled), dtype=kind)


def _unpack_words(parts: Sequence[Mapping[str, Any] | None], sizes: Sequence[int]) -> Column:
    whole: dict[str | None, int] = {None: 0}
    codes = [np.zeros(0, dtype=np.int64)]
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            codes.append(np.zeros(size, dtype=np.int64))
            continue
        places = [whole.setdefault(word, len(whole)) for word in part["table"]]
        local = np.frombuffer(part["codes"], dtype="<u2").astype(np.int64)
        known = np.array([*places, 0], dtype=np.int64)
        codes.append(known[np.where(local == ABSENT_CODE, len(places), local)])
    return np.array(list(whole), dtype=object)[np.concatenate(codes)]


def _unpack_names(parts: Sequence[Mapping[str, Any]]) -> Column:
    arrays = [np.frombuffer(part["bytes"], dtype=f"S{part['width']}") for part in parts]
    whole = np.concatenate(arrays) if arrays else np.zeros(0, dtype="S1")
    return whole.astype(np.dtypes.StringDType())


def pack_tokens(samples: Sequence[Sample]) -> Record:
    """The token stamps of a block: whole microseconds after each sample's first, as gaps."""
    gaps = [_gaps_us(sample.token_times) for sample in samples]
    return tokens_record(
        np.array([sample.index for sample in samples]),
        np.array([len(gap) for gap in gaps]),
        np.concatenate([np.zeros(0, dtype="<u4"), *gaps]),
    )


def tokens_record(index: Column, counts: Column, gaps_us: Column) -> Record:
    """A `tokens` record from arrays: `counts[i]` gaps belong to the sample `index[i]`."""
    return {
        "type": "tokens",
        "index": index.astype("<i4").tobytes(),
        "counts": counts.astype("<u4").tobytes(),
        "gaps_us": gaps_us.astype("<u4").tobytes(),
    }


def _gaps_us(times: Sequence[float]) -> Column:
    """Gaps whose running sum is each stamp rounded, so that rounding errors never add up."""
    if len(times) < 2:
        return np.zeros(0, dtype="<u4")
    stamps = np.rint((np.array(times) - times[0]) * 1e6).astype(np.int64)
    return np.clip(np.diff(stamps), 0, 2**32 - 1).astype("<u4")


def unpack_tokens(records: Iterable[Mapping[str, Any]], samples: int) -> tuple[Column, Column]:
    """Gaps between token events as (offsets, gaps in seconds).

    The gaps of the sample in row i, rows ordered by `index`, are `gaps[offsets[i]:offsets[i + 1]]`.
    """
    index, counts, gaps = (
        [np.zeros(0, dtype="<i4")],
        [np.zeros(0, dtype="<u4")],
        [np.zeros(0, dtype="<u4")],
    )
    for record in records:
        index.append(np.frombuffer(record["index"], dtype="<i4"))
        counts.append(np.frombuffer(record["counts"], dtype="<u4"))
        gaps.append(np.frombuffer(record["gaps_us"], dtype="<u4"))
    return _in_order(np.concatenate(index), np.concatenate(counts), np.concatenate(gaps), samples)


def _in_order(index: Column, counts: Column, gaps: Column, samples: int) -> tuple[Column, Column]:
    if int(counts.sum()) != len(gaps) or len(index) != samples:
        raise ValueError("the token stamps do not belong to the samples")
    order = np.argsort(index, kind="stable")
    sizes = counts.astype(np.int64)[order]
    starts = (np.cumsum(counts, dtype=np.int64) - counts)[order]
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
    return offsets, gaps[places] / 1e6
