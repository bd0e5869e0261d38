"""Formats of a row for each exchange: batch, evalscope and Mooncake for load tools; CSV and Parquet."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import batched, chain, count, islice
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from tbench.capture.errors import InputError
from tbench.capture.exporters.exporter import (
    NO_JSON,
    NOT_KEPT,
    Exporter,
    Job,
    Maker,
    Record,
    Row,
    headers_of,
    is_kept,
    lines,
)
from tbench.capture.frames import printable
from tbench.capture.importers.importer import LeftOut
from tbench.capture.mixes import prefix_hashes, prompt_bytes
from tbench.capture.providers import SENT_HEADERS
from tbench.capture.sessions import SESSION_HEADERS

OTHER: Final = LeftOut("of an endpoint other than chat and completions")
NO_TOKENS: Final = LeftOut("whose prompt or output tokens nobody counted")
PLAIN: Final = SENT_HEADERS.union(SESSION_HEADERS) - {"accept", "accept-encoding", "content-type"}
"""Headers that a load tool does not write itself."""


def batch(record: Record) -> Row | LeftOut:
    """A line of a batch's input."""
    request, payload = record.request, record.payload
    if payload is None:
        return NO_JSON if is_kept(request) else NOT_KEPT
    return {"custom_id": request.id, "method": request.method, "url": request.path, "body": payload}


def evalscope(record: Record) -> Row | LeftOut:
    """A line of evalscope's `workload_trace`, which knows no other members: time in s, one URL for all."""
    payload, output = record.payload, record.facts.usage.output
    if record.facts.parsed.info.endpoint not in {"chat", "completions"}:
        return OTHER
    if payload is None:
        return NO_JSON if is_kept(record.request) else NOT_KEPT
    headers = {name: value for name, value in headers_of(record.request) if name in PLAIN}
    row = {
        "body": payload,
        "timestamp": record.arrival_ns / 1e9,
        "headers": headers or None,
        "request_id": record.request.id,
        "completion_tokens": output or None,
    }
    return {name: value for name, value in row.items() if value is not None}


def mooncake(job: Job) -> Maker:
    """Lengths as the server counted them; an id for each block of a prompt, equal where all up to there is.

    Where a block ends is reckoned in bytes, at the trace's mean of bytes a token: prompts with one beginning
    share its ids exactly, and what a prompt's count of tokens asks for beyond its bytes are ids of its own.
    """
    hashed = job.trace.header.extra.get("hashes")
    block_tokens = hashed.get("block_tokens") if isinstance(hashed, dict) else job.block_tokens
    if block_tokens != job.block_tokens:
        raise InputError(
            f"--block-tokens {job.block_tokens}: the trace holds ids for blocks of {block_tokens} tokens"
        )
    sizes = tokens = 0
    for record in job.records():
        if (prompt := record.facts.usage.prompt) is not None and is_kept(record.request):
            sizes += len(prompt_bytes(record.facts.parsed, record.request.body))
            tokens += prompt
    block_bytes = max(1, round(job.block_tokens * sizes / tokens)) if tokens else 1
    first: list[int] = []

    def row(record: Record) -> Row | LeftOut:
        usage = record.facts.usage
        if not first:
            first.append(record.arrival_ns)
        if not usage.prompt or usage.output is None:
            return NO_TOKENS
        if not is_kept(record.request):
            return NOT_KEPT
        text = prompt_bytes(record.facts.parsed, record.request.body)
        name = record.request.id.encode("utf-8", "replace")
        alone = (next(prefix_hashes(b"%s %d" % (name, n), 999)) for n in count())
        hash_ids = record.request.extra.get("hash_ids")  # of a copy without texts
        known = hash_ids if isinstance(hash_ids, list) else prefix_hashes(text, block_bytes)
        ids = chain(known, alone)
        return {
            "timestamp": (record.arrival_ns - first[0]) // 10**6,
            "input_length": usage.prompt,
            "output_length": usage.output,
            "hash_ids": list(islice(ids, -(-usage.prompt // job.block_tokens))),
        }

    return row


BATCH = Exporter(
    make=lambda _job: batch,
    write=lines,
    cannot="arrivals, answers, latencies, headers",
)
EVALSCOPE = Exporter(
    make=lambda _job: evalscope,
    write=lines,
    cannot="answers, latencies, failures, paths (it sends all to one URL)",
)
MOONCAKE = Exporter(
    make=mooncake,
    write=lines,
    cannot="texts, models, sessions, answers, latencies, times below 1 ms",
)


# Tables: an exchange in figures, or a sample of a run, as CSV or Parquet; no prompt, no answer.


ROW_GROUP: Final = 10_000
"""Rows of a row group: what is in memory at a time."""
Column = npt.NDArray[Any]
Part = Mapping[str, Column | list[Any]]
KINDS: Final = {"text": "string", "count": "int64", "number": "float64", "truth": "bool_"}
"""The kinds of columns, and Parquet's types for them."""
FIGURES: Final[Mapping[str, tuple[str, Callable[[Record], Any]]]] = {
    "id": ("text", lambda record: record.request.id),
    "arrival_unix_ns": ("count", lambda record: record.arrival_ns),
    "session": ("text", lambda record: record.session),
    "turn": ("count", lambda record: record.facts.place and record.facts.place.turn),
    "retry_of": ("text", lambda record: record.request.retry_of),
    "method": ("text", lambda record: record.request.method),
    "host": ("text", lambda record: record.request.host),
    "path": ("text", lambda record: record.request.path),
    "endpoint": ("text", lambda record: record.facts.parsed.info.endpoint),
    "model": ("text", lambda record: record.facts.parsed.info.model),
    "stream": ("truth", lambda record: record.facts.parsed.info.stream),
    "max_tokens": ("count", lambda record: record.facts.parsed.info.max_tokens),
    "messages": ("count", lambda record: record.facts.parsed.info.inputs),
    "images": ("count", lambda record: record.facts.parsed.info.images),
    "tools": ("count", lambda record: record.facts.tools),
    "status": ("count", lambda record: record.response and record.response.status),
    "outcome": ("text", lambda record: record.facts.outcome),
    "error": ("text", lambda record: record.error),
    "finish_reason": (
        "text",
        lambda record: (
            next(iter(record.facts.answer.finish_reasons), None) if record.facts.answer else None
        ),
    ),
    "ttft_s": ("number", lambda record: record.facts.ttft),
    "e2e_s": ("number", lambda record: record.facts.e2e),
    "end_s": (
        "number",
        lambda record: (
            (record.response.end_ns - record.request.arrive_ns) / 1e9 if record.response else None
        ),
    ),
    "prompt_tokens": ("count", lambda record: record.facts.usage.prompt),
    "output_tokens": ("count", lambda record: record.facts.usage.output),
    "cached_tokens": ("count", lambda record: record.facts.usage.cached),
    "reasoning_tokens": ("count", lambda record: record.facts.usage.reasoning),
    "request_bytes": ("count", lambda record: record.request.body_bytes),
    "response_bytes": ("count", lambda record: record.response and record.response.body_bytes),
}
"""An exchange in figures: column -> its kind and value, None where absent.

Seconds count from the arrival, `end_s` to the last byte.
"""
EXCHANGE: Final = {name: kind for name, (kind, _) in FIGURES.items()}


def exchange(record: Record) -> Row:
    """A row of it."""
    return {name: value(record) for name, (_, value) in FIGURES.items()}


def write_csv(columns: Mapping[str, str], rows: Iterable[Row], file: BinaryIO) -> None:
    """CSV in UTF-8 with a line of names; absent is empty, truths are true and false."""
    lines = io.TextIOWrapper(
        file, encoding="utf-8", errors="replace", newline="", write_through=True
    )
    writer = csv.DictWriter(lines, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        truths = {
            name: str(value).lower() for name, value in row.items() if isinstance(value, bool)
        }
        writer.writerow({**row, **truths})
    lines.detach()


def write_parquet(columns: Mapping[str, str], rows: Iterable[Row], file: BinaryIO) -> None:
    """Parquet, a row group for each ten thousand rows. Raises InputError where pyarrow is not installed."""
    parts = (
        {name: [row[name] for row in group] for name in columns}
        for group in batched(rows, ROW_GROUP)
    )
    write_columns(columns, parts, file)


def write_columns(columns: Mapping[str, str], parts: Iterable[Part], file: BinaryIO) -> None:
    """The same of columns, a row group for each part."""
    try:
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        from pyarrow.parquet import ParquetWriter  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "writing Parquet needs pyarrow: pip install 'tbench[parquet]'; or export as csv"
        ) from None
    schema = pa.schema([(name, getattr(pa, KINDS[kind])()) for name, kind in columns.items()])
    with ParquetWriter(file, schema) as writer:
        for part in parts:
            arrays = [
                pa.array(
                    [printable(value) for value in part[name]] if kind == "text" else part[name],
                    type=schema.field(name).type,
                    mask=absent(part[name], kind),
                )
                for name, kind in columns.items()
            ]
            writer.write_table(pa.table(arrays, schema=schema))


def absent(values: Column | list[Any], kind: str) -> Column | None:
    """Where an array has no value: NaN, or a whole number below zero; a list has None there."""
    if isinstance(values, list) or kind not in {"number", "count"}:
        return None
    return np.isnan(values) if values.dtype.kind == "f" else values < 0


def rows_of(columns: Mapping[str, str], parts: Iterable[Mapping[str, Column]]) -> Iterator[Row]:
    """Columns as rows."""
    for part in parts:
        lists = []
        for name, kind in columns.items():
            none = absent(part[name], kind)
            values = part[name].tolist()
            gone = () if none is None else np.flatnonzero(none).tolist()
            for place in gone:
                values[place] = None
            lists.append(values)
        for values in zip(*lists, strict=True):
            yield dict(zip(columns, values, strict=True))


def table(write: Callable[[Mapping[str, str], Iterable[Row], BinaryIO], None]) -> Exporter:
    """An exporter of exchanges in figures."""
    return Exporter(
        make=lambda _job: exchange,
        encode=dict,
        write=partial(write, EXCHANGE),
        cannot="prompts, answers, headers, times of chunks",
    )


CSV = table(write_csv)
PARQUET = table(write_parquet)
TABLES: Final[
    Mapping[str, Callable[[Mapping[str, str], Iterable[Mapping[str, Column]], BinaryIO], None]]
] = {
    "csv": lambda columns, parts, file: write_csv(columns, rows_of(columns, parts), file),
    "parquet": write_columns,
}
"""The formats that samples of a run can have, too: from their columns, a part at a time."""
