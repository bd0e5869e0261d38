"""Tables: a row for each exchange, or for each sample of a run, as CSV or Parquet; no prompt, no answer."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import batched
from typing import BinaryIO, Final, cast

from tbench.capture.errors import InputError
from tbench.capture.exporters.exporter import Exporter, Record, Row
from tbench.capture.frames import printable

BATCH: Final = 10_000
"""Rows of a row group: what is in memory at a time."""
KINDS: Final = {"text": "string", "count": "int64", "number": "float64", "truth": "bool_"}
"""The kinds of columns, and Parquet's types for them."""
EXCHANGE: Final[Mapping[str, str]] = {
    "id": "text",
    "arrival_unix_ns": "count",
    "session": "text",
    "turn": "count",
    "retry_of": "text",
    "method": "text",
    "host": "text",
    "path": "text",
    "endpoint": "text",
    "model": "text",
    "stream": "truth",
    "max_tokens": "count",
    "messages": "count",
    "images": "count",
    "tools": "count",
    "status": "count",
    "outcome": "text",
    "error": "text",
    "finish_reason": "text",
    "ttft_s": "number",
    "e2e_s": "number",
    "end_s": "number",
    "prompt_tokens": "count",
    "output_tokens": "count",
    "cached_tokens": "count",
    "reasoning_tokens": "count",
    "request_bytes": "count",
    "response_bytes": "count",
}
"""The columns of an exchange, and their kinds; seconds count from the arrival, `end_s` to the last byte."""


def exchange(record: Record) -> Row:
    """An exchange in figures; None where absent."""
    facts, request, response = record.facts, record.request, record.response
    info, usage, answer = facts.parsed.info, facts.usage, facts.answer
    return {
        "id": request.id,
        "arrival_unix_ns": record.arrival_ns,
        "session": record.session,
        "turn": facts.place and facts.place.turn,
        "retry_of": request.retry_of,
        "method": request.method,
        "host": request.host,
        "path": request.path,
        "endpoint": info.endpoint,
        "model": info.model,
        "stream": info.stream,
        "max_tokens": info.max_tokens,
        "messages": info.inputs,
        "images": info.images,
        "tools": facts.tools,
        "status": response and response.status,
        "outcome": facts.outcome,
        "error": answer.error if answer else None,
        "finish_reason": next(iter(answer.finish_reasons), None) if answer else None,
        "ttft_s": facts.ttft,
        "e2e_s": facts.e2e,
        "end_s": (response.end_ns - request.arrive_ns) / 1e9 if response else None,
        "prompt_tokens": usage.prompt,
        "output_tokens": usage.output,
        "cached_tokens": usage.cached,
        "reasoning_tokens": usage.reasoning,
        "request_bytes": request.body_bytes,
        "response_bytes": response.body_bytes if response else None,
    }


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
    try:
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        from pyarrow.parquet import ParquetWriter  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "writing Parquet needs pyarrow: pip install 'tbench[parquet]'; or export as csv"
        ) from None
    schema = pa.schema([(name, getattr(pa, KINDS[kind])()) for name, kind in columns.items()])
    with ParquetWriter(file, schema) as writer:
        for group in batched(rows, BATCH):
            mended = [cast("Row", printable(row)) for row in group]
            table = {name: [row[name] for row in mended] for name in columns}
            writer.write_table(pa.table(table, schema=schema))


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
TABLES: Final = {"csv": write_csv, "parquet": write_parquet}
"""The formats that samples of a run can have, too."""
