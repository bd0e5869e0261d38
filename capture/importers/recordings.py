"""Recordings of HTTP that are no rows of text: flows of mitmproxy, GoReplay's files, cassettes of vcrpy.

Each record comes as a row, one by one; a cassette is one document and is read whole. mitmproxy's flows are
tnetstrings: a length, a colon, the data and a letter for its type.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from tbench.capture.errors import InputError
from tbench.capture.importers.importer import LONGEST, NOT_JSON, TOO_LONG, LeftOut, Row
from tbench.capture.jsontext import loads

FLOW: Final = re.compile(rb"\d{1,12}:\d{1,3}:\w+[;,]")
"""The beginning of a flow: its length, then the first of its names."""
GOREPLAY: Final = re.compile(rb"[123] [0-9a-f]{24,40} \d{1,20}(?: -?\d{1,20})?[ \r]*\n")
CASSETTE: Final = re.compile(
    rb"(?:(?:#[^\n]*|---\s*)\n)*(?:interactions:|version: 1\r?\n)|"
    rb'\{\s*"(?:version"\s*:\s*1\s*,\s*")?interactions"'
)
CUT_OFF: Final = LeftOut("cut off at the end of the file")
NO_FLOW: Final = LeftOut("that are no flow of mitmproxy")
NO_RECORD: Final = LeftOut("that are no record of GoReplay")
DEEPEST: Final = 32
"""Levels of a flow: mitmproxy writes seven."""
SEPARATOR: Final = "\n\N{MONKEY FACE}\N{SEE-NO-EVIL MONKEY}\N{HEAR-NO-EVIL MONKEY}\n"
"""What stands after each record of GoReplay."""
WAITING: Final = 1000
"""Requests of GoReplay whose answer may still come."""
WAITING_BYTES: Final = 2**26


def flows(file: IO[bytes], _path: Path, _inside: Sequence[str]) -> Iterator[Row | LeftOut]:
    """The flows of a dump of mitmproxy."""
    while True:
        prefix = b""
        while (digit := file.read(1)).isdigit() and len(prefix) < 12:
            prefix += digit
        if not prefix and not digit:
            return
        if digit != b":" or not prefix:
            yield NO_FLOW  # nothing says where the next one begins
            return
        size = int(prefix)
        if size > LONGEST:
            while size > 0 and (skipped := file.read(min(size, 2**20))):
                size -= len(skipped)
            file.read(1)
            yield TOO_LONG
            continue
        data, kind = file.read(size), file.read(1)
        if not kind:
            yield CUT_OFF
            return
        try:
            flow = _value(kind, data, DEEPEST)
        except ValueError:
            flow = None
        yield flow if isinstance(flow, dict) else NO_FLOW


def _value(kind: bytes, data: bytes, depth: int) -> Any:  # noqa: ANN401 (whatever it holds)
    """A tnetstring's value. Raises ValueError for what is none, and for one that is nested too deeply."""
    match kind:
        case b",":
            return data
        case b";":
            return data.decode()
        case b"#":
            return int(data)
        case b"^":
            return float(data)
        case b"!":
            return data == b"true"
        case b"~":
            return None
        case b"]" | b"}" if depth:
            items, at = [], 0
            while at < len(data):
                colon = data.index(b":", at, at + 13)
                end = colon + 1 + int(data[at:colon])
                if not colon < end < len(data):
                    raise ValueError("a length past its end")
                items.append(_value(data[end : end + 1], data[colon + 1 : end], depth - 1))
                at = end + 1
            if kind == b"]":
                return items
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in items[::2]]
            return dict(zip(names, items[1::2], strict=True))
    raise ValueError("no type of a tnetstring")


def goreplay(file: IO[bytes], _path: Path, _inside: Sequence[str]) -> Iterator[Row | LeftOut]:
    """The requests of a file of GoReplay, each with the answer that has its id.

    A row has `request` and `response`, each the three or four words of its header and its bytes.
    """
    waiting: dict[bytes, dict[str, Any]] = {}
    size = 0
    for record in _records(file):
        if isinstance(record, LeftOut):
            yield record
            continue
        header, _, payload = record.partition(b"\n")
        words = header.split()
        if not GOREPLAY.match(header + b"\n"):
            yield NO_RECORD
        elif words[0] == b"1":
            if words[1] in waiting:
                unanswered = waiting.pop(words[1])
                size -= len(unanswered["request"][1])
                yield unanswered
            waiting[words[1]] = {"request": (words, payload)}
            size += len(payload)
            while len(waiting) > WAITING or size > WAITING_BYTES:
                oldest = waiting.pop(next(iter(waiting)))
                size -= len(oldest["request"][1])
                yield oldest
        elif words[0] == b"2" and words[1] in waiting:
            row = waiting.pop(words[1])
            size -= len(row["request"][1])
            yield {**row, "response": (words, payload)}
        elif words[0] == b"3":
            yield LeftOut("of a replay of GoReplay")
        else:
            yield LeftOut("an answer whose request is not near it")
    yield from waiting.values()


def _records(file: IO[bytes]) -> Iterator[bytes | LeftOut]:
    """What stands between separators; the last record has one, too."""
    mark, data = SEPARATOR.encode(), b""
    searched, skipping = 0, False
    while piece := file.read(2**20):
        data += piece
        while (end := data.find(mark, searched)) >= 0:
            yield TOO_LONG if skipping else data[:end]
            data, searched, skipping = data[end + len(mark) :], 0, False
        searched = max(0, len(data) - len(mark))
        if len(data) > LONGEST:
            data, searched, skipping = data[searched:], 0, True
    if data.strip():
        yield CUT_OFF


def cassette(file: IO[bytes], path: Path, _inside: Sequence[str]) -> Iterator[Row | LeftOut]:
    """The interactions of a cassette, YAML or JSON. Raises InputError for what is neither, or too large."""
    data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise InputError(f"{path}: a cassette is read whole, and may have 128 MiB")
    try:
        document = loads(data) if data.lstrip().startswith(b"{") else _yaml(data)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: no cassette: neither YAML nor JSON that can be read") from None
    interactions = document.get("interactions") if isinstance(document, dict) else None
    for interaction in interactions if isinstance(interactions, list) else ():
        yield interaction if isinstance(interaction, dict) else NOT_JSON


def _yaml(data: bytes) -> Any:  # noqa: ANN401
    """YAML's plain types: a tag that would make an object is an error. Raises ValueError."""
    from ruamel.yaml import YAML  # noqa: PLC0415 (a second of a start, for cassettes alone)
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    try:
        return YAML(typ="safe", pure=True).load(data)
    except (YAMLError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(str(error)) from None
