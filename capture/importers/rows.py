"""Rows: the records of JSONL, JSON, CSV and Parquet files, plain or gzip, one by one in bounded memory.

The first bytes tell the kind of a file, never its name. A broken row is left out with its reason. Nothing is
unpickled: a pickle could run any program.
"""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple, cast

from tbench.capture.errors import InputError
from tbench.capture.importers.access_logs import COMBINED, ENVOY_TEXT
from tbench.capture.importers.access_logs import lines as access_lines
from tbench.capture.importers.importer import LONGEST, NOT_JSON, TOO_LONG, LeftOut, Row
from tbench.capture.importers.recordings import (
    CASSETTE,
    FLOW,
    GOREPLAY,
    cassette,
    flows,
    goreplay,
)
from tbench.capture.importers.shapes import WINDOW, windows
from tbench.capture.jsontext import BOM, loads

BAD_COLUMNS: Final = LeftOut("with another number of columns")
HEAD: Final = 2**20
"""Bytes that tell the kind of a file."""
PIECE: Final = 2**20
"""Bytes of a JSON document that are read at a time."""
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(")?|[\[\]{},:]', re.DOTALL)
"""A string, whose last quote may still be to come, or a mark between values."""
_REST = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*(")?', re.DOTALL)
"""What follows of such a string."""

_MEMBER = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*"\s*:')
"""How an object of JSON begins, and no cell of CSV, where quotes are doubled."""
_ARRAY = re.compile(rb'\[\s*(?:[\[{"\]]|\Z)')
_UNREADABLE = (OSError, EOFError, zlib.error)

Kind = Literal[
    "jsonl", "json", "csv", "parquet", "flows", "goreplay", "cassette", "access", "servegen"
]


MARKS: Final[Sequence[tuple[re.Pattern[bytes], Kind]]] = (
    (FLOW, "flows"), (GOREPLAY, "goreplay"), (CASSETTE, "cassette"), (COMBINED, "access"),
    (ENVOY_TEXT, "access"), (WINDOW, "servegen"),
)  # fmt: skip
"""How the files of a kind begin; lines of GoReplay and of access logs are told further down as well."""
LINED: Final[Sequence[Kind]] = ("access", "jsonl")
"""Kinds with a row a line, which are told by any of them."""
UNPICKLE: Final = (
    "python -c \"import json, pickle, sys; d = pickle.load(open(sys.argv[1], 'rb')); "
    "[print(json.dumps({'req': vars(r), 'start': s, 'end': e}, default=str)) "
    "for r, _, s, e in (d['requests'] if isinstance(d, dict) else d)]\""
)
"""For the one who made the pickle: its requests as JSONL."""


UNREAD: Final = (
    (
        re.compile(rb"\x80[\x02-\x05]"),
        (
            "a pickle, as SGLang dumps requests, is never read: it could run any program. Where it can be "
            f"trusted: {UNPICKLE} FILE > log.jsonl, then --map arrival=start:s --map end=end:s "
            "--map prompt=req.text"
        ),
    ),
    (
        re.compile(rb"\xff\xfe|\xfe\xff"),
        "UTF-16: convert it to UTF-8, as with iconv -f UTF-16 -t UTF-8",
    ),
    (
        re.compile(rb"\x28\xb5\x2f\xfd|BZh\d1AY|\xfd7zXZ|PK\x03\x04"),
        "packed by zstd, bzip2, xz or zip, which is not read: unpack it, or pack it by gzip",
    ),
    (
        re.compile(rb"\xc9.{5}.{1,16}tbench", re.DOTALL),
        "a trace or a run of tbench, which needs no import: tbench report reads it as it is",
    ),
)
"""How files begin that are not read, and what to do about each."""


class Shape(NamedTuple):
    """How a file is laid out: its kind, and in JSON the members on the way to its rows."""

    kind: Kind
    inside: tuple[str, ...] = ()


def shape(path: Path, documents: Iterable[tuple[str, ...]] = ()) -> Shape:
    """What kind of file it is, perhaps one of these JSON documents. Raises InputError for none."""
    with _opened(path) as file:
        head = _read(file, path, HEAD).removeprefix(BOM).lstrip()
    if head.startswith(b"PAR1"):
        return Shape("parquet")
    if not head:
        raise InputError(f"{path}: empty")
    for mark, complaint in UNREAD:
        if mark.match(head):
            raise InputError(f"{path}: {complaint}")
    for mark, kind in MARKS:
        if mark.match(head):
            return Shape(kind)
    is_json = _MEMBER.match(head) or _ARRAY.match(head)
    if not is_json and (lined := _lined(head)):
        return Shape(lined)
    if head.startswith(b"["):
        return Shape("json")
    if head.startswith(b"{"):
        line, _, more = head.partition(b"\n")
        is_line = bool(more.strip()) and not isinstance(_object(line), LeftOut)
        names = _members(head)
        inside = next((members for members in documents if members[0] in names), None)
        return Shape("json", inside) if inside and not is_line else Shape("jsonl")
    if b"\x00" in head:
        raise InputError(
            f"{path}: neither JSON, CSV nor Parquet (a pickle is never read: it could run any program)"
        )
    return Shape("csv")


def _lined(head: bytes) -> Kind | None:
    """The kind of a text whose first lines are foreign: a comment, a line cut in two, a server's own words.

    Rows are at least half of what follows the first of them, so that a table with a log in one of its cells
    stays a table.
    """
    kinds: list[Kind | None] = []
    for line in head.split(b"\n"):
        marks = (kind for mark, kind in MARKS if mark.match(line + b"\n"))
        kinds.append(next(marks, "jsonl" if _MEMBER.match(line) else None))
    if "goreplay" in kinds:  # with whatever was sent between its lines
        return "goreplay"
    for kind in LINED:
        if kind in kinds and 2 * kinds.count(kind) >= len(kinds) - kinds.index(kind):
            return kind
    return None


def _members(head: bytes) -> list[str]:
    """The members of a JSON object, as far as it goes, that hold an object or a list."""
    names: list[str] = []
    depth, word = 0, b""
    for token in _TOKEN.finditer(head):
        mark = token[0][:1]
        if mark in b"[{":
            if depth == 1:
                names.append(word[1:-1].decode("utf-8", "replace"))
            depth += 1
        elif mark in b"]}":
            depth -= 1
        elif mark == b'"':
            word = token[0]
    return names


def rows(
    path: Path, layout: Shape, progress: Callable[[int], object] = bool
) -> Iterator[Row | LeftOut]:
    """The rows of a file; `progress` hears how many bytes of it are read."""
    if layout.kind == "parquet":
        # The reader takes a path and reads row groups; it does not tell how far it is.
        yield from (item if isinstance(item, dict) else NOT_JSON for item in parquet(path))
        return
    with path.open("rb") as raw, _opened(path, raw) as file:
        try:
            if file.read(len(BOM)) != BOM:
                file.seek(0)
            for number, row in enumerate(LAYOUTS[layout.kind](file, path, layout.inside)):
                yield row
                if number % 256 == 0:
                    progress(raw.tell())
        except _UNREADABLE as error:
            raise InputError(f"{path}: cannot be read: {error}") from None


def _opened(path: Path, raw: IO[bytes] | None = None) -> IO[bytes]:
    try:
        raw = raw or path.open("rb")
        if not raw.seekable():
            raise InputError(f"{path}: a pipe can be read once, a log is read twice: give a file")
        magic = raw.read(2)
        raw.seek(0)
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if magic == b"\x1f\x8b" else raw
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _read(file: IO[bytes], path: Path, size: int) -> bytes:
    try:
        return file.read(size)
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def json_lines(file: IO[bytes], path: Path, _inside: Sequence[str]) -> Iterator[Row | LeftOut]:
    """One JSON object a line."""
    try:
        while line := file.readline(LONGEST):
            if len(line) == LONGEST:
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST)
                yield TOO_LONG
            elif line := line.removeprefix(BOM).strip():
                yield _object(line)
    except _UNREADABLE as error:
        raise InputError(f"{path}: damaged gzip: {error}") from None


def table(
    file: IO[bytes],
    path: Path,
    _inside: Sequence[str] = (),
    *,
    longest: int = LONGEST,
) -> Iterator[Row | LeftOut]:
    """CSV with the columns' names in the first line, each once: the last would hide the others.

    A cell has `longest` bytes at most.
    """
    before, before_line = csv.field_size_limit(longest), 0
    try:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        # Strict: a quote that is never closed would take the rows after it for one field.
        reader = csv.DictReader(lines, strict=True)
        for name, count in Counter(filter(None, reader.fieldnames or ())).items():
            if count > 1:
                raise InputError(f"{path}: {count} columns are called {name!r}; rename all but one")
        before_line = reader.line_num
        for row in reader:
            yield row if None not in row and None not in row.values() else BAD_COLUMNS
            before_line = reader.line_num
    except (csv.Error, UnicodeDecodeError, *_UNREADABLE) as error:
        raise InputError(
            f"{path}: not CSV in UTF-8: {error}, in what begins at line {before_line + 1}"
        ) from None
    finally:
        csv.field_size_limit(before)


def parquet(path: Path) -> Iterator[Any]:
    """The rows of a Parquet file, whatever it holds."""
    try:
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow: pip install 'tbench[parquet]'"
        ) from None
    exact = {"timestamp[ns": pa.string(), "duration[": pa.int64()}
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                # Python's own times hold no nanoseconds, which pandas writes: texts and numbers do. A span
                # is a number of its column's unit, which --map states, as any other.
                columns = [
                    next(
                        (column.cast(exact[kind]) for kind in exact if start.startswith(kind)),
                        column,
                    )
                    for column in batch.columns
                    for start in (str(column.type),)
                ]
                yield from pa.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist()
    except (ValueError, OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: not Parquet that can be read: {reason}") from None


def elements(file: IO[bytes], path: Path, inside: Sequence[str]) -> Iterator[Row | LeftOut]:
    """The elements of the array that stands `inside` a JSON document, a piece of it in memory at a time.

    Brackets are counted and strings stepped over; only an element itself is parsed.
    """
    scan = _Scan([name.encode() for name in inside])
    while piece := _read(file, path, PIECE):
        for element in scan.feed(piece):
            yield TOO_LONG if element is None else _object(element)
    if scan.stack:
        yield LeftOut("cut off at the end of the file")


LAYOUTS: Final[
    Mapping[Kind, Callable[[IO[bytes], Path, Sequence[str]], Iterator[Row | LeftOut]]]
] = {
    "jsonl": json_lines, "csv": table, "json": elements, "flows": flows, "goreplay": goreplay,
    "cassette": cassette, "access": access_lines, "servegen": windows,
}  # fmt: skip


class _Scan:
    """A place in a JSON document: `stack` are the brackets that are open, each with its member's name."""

    def __init__(self, inside: Sequence[bytes]) -> None:
        opens = [b"{"] * len(inside) + [b"["]
        self._rows = list(zip(opens, [b"", *inside], strict=True))
        self.stack: list[tuple[bytes, bytes]] = []
        self._name = b""
        self._data = b""
        self._from = 0
        self._open = 0
        """How far the string is read that begins at `_from`; 0 for none. A long one is read once."""
        self._start: int | None = None
        self._separated = True
        self._quoted = False

    def feed(self, piece: bytes) -> Iterator[bytes | None]:
        """The elements that end in the next piece; None for one that is too long."""
        self._data += piece
        for token in _TOKEN.finditer(self._data, self._from) if self._closed() else ():
            word = token[0]
            if word[:1] == b'"':
                if token[1] is None:
                    self._from, self._open = token.span()
                    break
                self._name = word[1:-1]
            elif word in b"{[":
                if self.stack == self._rows:
                    self._start, self._separated = token.start(), False
                self.stack.append((word, self._name))
                self._name = b""
            elif word in b"}]":
                last = self._quoted or self._data[self._from : token.start()].strip()
                if self.stack == self._rows and self._separated and last:
                    yield b""  # a number or a text, which no comma follows
                if self.stack:
                    self.stack.pop()
                if self.stack == self._rows and self._start is not None:
                    yield None if self._start < 0 else self._data[self._start : token.end()]
                    self._start = None
            elif word == b"," and self.stack == self._rows:
                if self._separated:  # a number or a text stood there: no row, but it counts
                    yield b""
                self._separated = True
            self._quoted = word[:1] == b'"'
            self._from = token.end()
        self._forget()

    def _closed(self) -> bool:
        """Whether no string is open any more: one that ends in what came is read up to there."""
        if not self._open:
            return True
        rest = _REST.match(self._data, self._open)
        assert rest is not None  # it matches nothing, too
        self._open = rest.end()
        if rest[1] is None:
            return False
        self._name, self._quoted = self._data[self._from + 1 : self._open - 1], True
        self._from, self._open = self._open, 0
        return True

    def _forget(self) -> None:
        """Drop what is read, but an element that has begun, unless that is longer than any may be."""
        begin = self._from if self._start is None or self._start < 0 else self._start
        if len(self._data) - begin > LONGEST:
            self._start = None if self._start is None else -1
            begin = self._from
            if self._open:  # only its quote is needed, and what may be half an escape
                self._data = b'"' + self._data[self._open :]
                self._from, self._open, begin = 0, 1, 0
        self._data, self._from = self._data[begin:], self._from - begin
        self._open = max(0, self._open - begin)
        if self._start is not None and self._start > 0:
            self._start = 0


def _object(data: bytes) -> Row | LeftOut:
    try:
        value: Any = loads(data)
    except ValueError:
        return NOT_JSON
    return value if isinstance(value, dict) else NOT_JSON
