"""The seam of an exporter: what one format of others keeps of an exchange.

An exporter is one file that makes an Exporter, and one row in EXPORTERS (capture/exporters/__init__.py). A
trace is read exchange by exchange; each becomes a row of the file, or is left out with its reason.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from tbench.capture.decode import decode
from tbench.capture.errors import InputError
from tbench.capture.exchange import Headers, Request, Response
from tbench.capture.filters import Filter, Pass, none_left
from tbench.capture.frames import printable
from tbench.capture.importers.importer import LeftOut
from tbench.capture.providers import CREDENTIAL_HEADERS
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import Trace
from tbench.capture.writing import whole_file

Row = Mapping[str, Any]

NO_JSON: Final = LeftOut("whose body is no JSON object")
NO_ANSWER: Final = LeftOut("without an answer")
NOT_KEPT: Final = LeftOut("whose body the capture did not keep")
TOO_DEEP: Final = LeftOut("nested too deeply")
WITHHELD: Final = frozenset({*CREDENTIAL_HEADERS, "proxy-authorization", "cookie", "set-cookie"})
"""Headers that go into no file, whoever made the trace: a capture has left them out already."""
ENCODINGS: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers that are no longer true of a body once its encoding is undone."""


@dataclass(frozen=True)
class Record:
    """An exchange to export, and when it came: ns since 1970, of an undated trace since its first arrival."""

    facts: Facts
    arrival_ns: int

    @property
    def request(self) -> Request:
        return self.facts.request

    @property
    def response(self) -> Response | None:
        return self.facts.exchange.response

    @property
    def payload(self) -> Row | None:
        """The JSON object of its body; None for what is none, strictly."""
        parsed = self.facts.parsed
        return parsed.payload if parsed.exact else None

    @property
    def error(self) -> str | None:
        """What went wrong, in the words of its transport or log, else of its answer; None of a success."""
        if self.response is None or self.facts.outcome == "ok":
            return None
        return self.response.error or (self.facts.answer and self.facts.answer.error) or None

    @property
    def session(self) -> str:
        """The name of its session: the first header's that has one, else its number."""
        return self.facts.sessions[:2][-1]


@dataclass(frozen=True, kw_only=True)
class Job:
    """An export with every choice made: what of which trace; `block_tokens` is what a hash id stands for."""

    trace: Trace
    wanted: Filter
    block_tokens: int

    def records(self) -> Iterator[Record]:
        """The exchanges that are meant; may be read again."""
        walk, header = Pass(self.wanted, sessions=True), self.trace.header
        origin = header.wall(0) if header.wall_ns else -self.trace.arrivals[0]
        for exchange in self.trace:
            if walk.keeps(exchange):
                arrival_ns = origin + exchange.request.arrive_ns
                yield Record(Facts(exchange, walk.place), arrival_ns)


Maker = Callable[[Record], Row | LeftOut]


def json_of(row: object) -> bytes:
    """A row as JSON, texts that are no UTF-8 mended. Raises JSONEncodeError or RecursionError for none."""
    try:
        return orjson.dumps(row)
    except orjson.JSONEncodeError:
        return orjson.dumps(printable(row))


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A format: `make` gives, for one export, what makes a row of a record; `write` puts rows into a file.

    `encode` makes of a row what `write` takes. `cannot` is what a file of this format never holds.
    """

    make: Callable[[Job], Maker]
    encode: Callable[[Row], Any] = json_of
    write: Callable[[Iterable[Any], BinaryIO], None]
    cannot: str


@dataclass
class Exported:
    """What became of the exchanges: `read` = `rows` + the sum of `left_out`."""

    read: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def export(exporter: Exporter, job: Job, out: Path) -> Exported:
    """Write a trace as a file of another format. Raises InputError where it exists or would be empty."""
    counts = Exported()
    make = exporter.make(job)

    def rows() -> Iterator[Any]:
        for record in job.records():
            counts.read += 1
            row = make(record)
            if not isinstance(row, LeftOut):
                try:
                    row = exporter.encode(row)
                except (orjson.JSONEncodeError, RecursionError):
                    row = TOO_DEEP
            if isinstance(row, LeftOut):
                counts.left_out[row.reason] += 1
            else:
                counts.rows += 1
                yield row

    with new_file(out) as file:
        exporter.write(rows(), file)
        if not counts.read and job.wanted.words:
            raise none_left(job.trace.files[0], job.wanted.words)
        if not counts.rows:
            reasons = ", ".join(f"{n:,} {why}" for why, n in counts.left_out.most_common())
            raise InputError(
                f"{job.trace.files[0]}: no exchange can be exported"
                + (f": {reasons}" if reasons else "")
            )
    return counts


def new_file(out: Path) -> AbstractContextManager[BinaryIO]:
    """A file for its owner's eyes that takes the place of none, and is there when it is complete."""
    if out.is_symlink() or out.exists():
        raise InputError(f"{out}: exists already; choose another name or remove it")
    return whole_file(out)


# What several formats keep of a message.


def headers_of(message: Request | Response) -> Headers:
    """Its headers, less those of credentials and of the encodings that are undone in `content_of`."""
    return tuple(
        (name, value) for name, value in message.headers if name.lower() not in WITHHELD | ENCODINGS
    )


def is_kept(message: Request | Response) -> bool:
    """Whether its body is in the trace, or it had none."""
    return message.body is not None or not message.body_bytes


def content_of(message: Request | Response) -> bytes:
    """Its body with the content-encoding undone, as far as that is known."""
    try:
        return decode(message.body or b"", message.header("content-encoding") or "")
    except InputError:
        return message.body or b""


# Layouts of files.


def lines(rows: Iterable[bytes], file: BinaryIO) -> None:
    """One row a line."""
    file.writelines(row + b"\n" for row in rows)


def document(head: bytes, tail: bytes, rows: Iterable[bytes], file: BinaryIO) -> None:
    """One document that holds the rows between its head and its tail, with commas between them."""
    file.write(head)
    file.writelines((b",\n" if number else b"\n") + row for number, row in enumerate(rows))
    file.write(b"\n" + tail)
