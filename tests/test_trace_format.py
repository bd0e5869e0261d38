"""docs/trace-format.md is enough: a reader written from that page alone reads the example."""

import json
import re
import struct
import subprocess
import sys
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard

from tests.conftest import PATIENCE_S

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs" / "trace-format.md").read_text()
EXAMPLE = ROOT / "fixtures" / "example.msgpack"
LIMIT = 268_435_456
ABSENT = -(2**63)


def unzip(frame: bytes) -> bytes:
    assert zstandard.frame_content_size(frame) <= LIMIT
    return zstandard.ZstdDecompressor().decompress(frame)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Section 1."""
    found, at = [], 0
    while at < len(data):
        first, length, code = struct.unpack_from(">BIb", data, at)
        assert first == 0xC9
        found.append((code, data[at + 6 : at + 6 + length]))
        at += 6 + length
    return found


def header(payload: bytes) -> dict[str, Any]:
    """Section 2."""
    assert zlib.crc32(payload[:-4]) == struct.unpack(">I", payload[-4:])[0]
    return msgpack.unpackb(payload)


def records(payload: bytes, marker: bytes) -> list[dict[str, Any]]:
    """Section 3."""
    assert payload[:16] == marker
    assert zlib.crc32(payload[20:]) == struct.unpack_from("<I", payload, 16)[0]
    unpacker = msgpack.Unpacker(max_buffer_size=LIMIT)
    unpacker.feed(unzip(payload[20:]))
    return list(unpacker)


def index(data: bytes) -> dict[str, Any]:
    """Section 4, from the end of the file."""
    length, crc, magic = struct.unpack("<II8s", data[-16:])
    frame = data[-length:]
    assert (magic, frame[0], frame[5]) == (b"TBINDEX1", 0xC9, 3)
    assert zlib.crc32(frame[6:-16]) == crc
    return msgpack.unpackb(unzip(frame[6:-16]))


def chunks(response: dict[str, Any]) -> list[list[int]]:
    """Section 3, chunks."""
    deltas = struct.unpack(f"<{len(response['chunk_dt_us']) // 4}I", response["chunk_dt_us"])
    sizes = struct.unpack(f"<{len(response['chunk_sizes']) // 4}I", response["chunk_sizes"])
    times = [response["first_chunk_ns"] + 1000 * at for at in accumulate(deltas)]
    return [[at, size] for at, size in zip(times, sizes, strict=True) if size]


@pytest.fixture(scope="module")
def promised() -> dict[str, Any]:
    """What section 8 says that a reader finds."""
    block = re.search(r"```json\n(.*?)```", DOC, re.DOTALL)
    assert block
    return json.loads(block[1])


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """The records of the example."""
    (_, first), *rest = frames(EXAMPLE.read_bytes())
    marker = header(first)["marker"]
    return [record for code, payload in rest if code == 2 for record in records(payload, marker)]


def shows(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Every promised entry is there; bodies stand as text in the page."""
    for key, value in wanted.items():
        assert (got[key].decode() if isinstance(got[key], bytes) else got[key]) == value, key


def test_the_frames_are_a_header_two_blocks_and_an_index() -> None:
    """Section 1, and that any msgpack reader walks the file."""
    data = EXAMPLE.read_bytes()
    with EXAMPLE.open("rb") as file:
        walked = [(item.code, item.data) for item in msgpack.Unpacker(file)]

    assert [code for code, _ in frames(data)] == [1, 2, 2, 3]
    assert walked == frames(data)


def test_the_header_is_as_promised(promised: dict[str, Any]) -> None:
    """Section 2."""
    shows(header(frames(EXAMPLE.read_bytes())[0][1]), promised["header"])


def test_the_records_are_as_promised(promised: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Section 3: types in order, both requests, the response and its chunks."""
    requests = [record for record in found if record["type"] == "request"]
    response = next(record for record in found if record["type"] == "response")

    assert [record["type"] for record in found] == promised["types"]
    for got, wanted in zip(requests, promised["requests"], strict=True):
        shows(got, wanted)
    shows(response, promised["response"])
    assert chunks(response) == promised["chunks"]
    assert sum(size for _, size in chunks(response)) == len(response["body"])


def test_the_index_is_as_promised(promised: dict[str, Any]) -> None:
    """Section 4: the table of blocks leads to each of them, the links to each record."""
    data = EXAMPLE.read_bytes()
    got = index(data)
    marker = header(frames(data)[0][1])["marker"]
    blocks = []
    for offset, length, raw, count, seq, *span in struct.iter_unpack("<QIIIqqq", got["blocks"]):
        ((code, payload),) = frames(data[offset : offset + length])
        assert (code, len(unzip(payload[20:])), len(records(payload, marker))) == (2, raw, count)
        earliest, latest = (None if at == ABSENT else at for at in span)
        first = None if seq == ABSENT else seq
        blocks.append(
            {"records": count, "first_seq": first, "earliest": earliest, "latest": latest}
        )

    assert blocks == promised["blocks"]
    assert [list(link) for link in struct.iter_unpack("<IIII", got["links"])] == promised["links"]
    ends = [None if at == ABSENT else at for (at,) in struct.iter_unpack("<q", got["ends"])]
    assert ends == promised["ends"]
    assert got["totals"] == promised["totals"]
    assert (got["strays"], got["marker"]) == ([], marker)


def named(kind: str) -> set[str]:
    """All words in code style of a part of the page."""
    return set(re.findall(r"`(\w+)`", kind))


def test_every_key_that_is_written_is_in_the_page(found: list[dict[str, Any]]) -> None:
    """Header, each type of record, index, totals: in the section on it."""
    header_part, rest = DOC.split("## 3. Blocks")
    parts = re.split(r"\n\*\*`(\w+)`\*\*", rest.split("## 4. Index")[0])
    by_type = dict(zip(parts[1::2], parts[2::2], strict=True))
    index_part = rest.split("## 4. Index")[1].split("## 5")[0]
    data = EXAMPLE.read_bytes()

    assert set(header(frames(data)[0][1])) <= named(header_part)
    for record in found:
        assert set(record) <= named(by_type[record["type"]])
    assert set(index(data)) | set(index(data)["totals"]) <= named(index_part)


def test_the_writers_tables_and_the_page_agree() -> None:
    """Every field that capture.records knows has its row, also those absent from the example."""
    from dataclasses import fields

    from tbench.capture.container_reader import Losses
    from tbench.capture.exchange import Outcome
    from tbench.capture.records import CHUNKS, CLOCK, GAP, HEADER, REQUEST, RESPONSE

    known = {name for table in (CHUNKS, CLOCK, GAP, HEADER, REQUEST, RESPONSE) for name in table}
    words = known | set(Outcome) | {field.name for field in fields(Losses)}

    assert words <= named(DOC)


def test_the_example_is_what_its_maker_makes(tmp_path: Path) -> None:
    """The same bytes but for how zstd packed them, and a hex dump of just this file."""
    maker = ROOT / "fixtures" / "make_example.py"
    subprocess.run([sys.executable, maker, tmp_path], check=True, cwd=ROOT, timeout=PATIENCE_S)
    pairs = []
    for folder in (EXAMPLE.parent, tmp_path):
        (_, first), *rest = frames((folder / "example.msgpack").read_bytes())
        pairs.append((first, [unzip(payload[20:]) for code, payload in rest if code == 2]))
        dumped = re.findall(
            r"^[0-9a-f]{6}  ((?:[0-9a-f]{2} ?)+)",
            (folder / "example.hex").read_text(),
            re.MULTILINE,
        )
        assert bytes.fromhex("".join(dumped)) == (folder / "example.msgpack").read_bytes()

    assert pairs[0] == pairs[1]
