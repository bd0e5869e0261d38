"""Containers: what is written comes back; damage costs what it hit and is counted."""

import errno
import os
import resource
import signal
import stat
import struct
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbench.capture import frames
from tbench.capture.container_reader import Container, open_container
from tbench.capture.container_writer import ContainerWriter
from tbench.capture.errors import InputError

HEADER = {"kind": "trace", "purpose": "test", "newer": {"a": [1, None]}}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
records = st.dictionaries(st.text(max_size=6), values, min_size=1, max_size=5)


class Time:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def written(path: Path, blocks: list[list[dict]], *, close: bool = True) -> Path:
    """A container with exactly these blocks; without `close` as a killed process leaves it."""
    clock = Time()
    writer = ContainerWriter(path, HEADER, clock=clock)
    for block in blocks:
        for record in block:
            writer.append(record)
        clock.now += 0.3
        writer.pump()
    if close:
        return writer.close({"records": sum(map(len, blocks))})
    writer._release()
    return writer.part


def three_blocks() -> list[list[dict]]:
    return [[{"block": b, "n": n, "body": bytes([65 + b]) * 5} for n in range(3)] for b in range(3)]


def by_block(container: Container) -> list[list[dict]]:
    return [
        list(container.unpack(frame.raw))
        for frame in container.walk()
        if frame.code == frames.BLOCK
    ]


def by_index(container: Container) -> list[list[dict]]:
    assert container.rows is not None
    found = [container.block(row) for row in container.rows]
    return [list(container.unpack(raw)) for raw in found if raw is not None]


@settings(max_examples=60, deadline=None)
@given(blocks=st.lists(st.lists(records, min_size=1, max_size=4), max_size=4))
def test_what_is_written_is_read(
    blocks: list[list[dict]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any records come back as they were, by walking and by the index."""
    path = written(tmp_path_factory.mktemp("c") / "x.msgpack", blocks)
    container = open_container(path)

    assert by_block(container) == blocks
    assert by_index(container) == blocks
    assert not container.losses


def test_threads_write_and_read_files_of_their_own_at_once(tmp_path: Path) -> None:
    """As the transports of an application with two traces do; in a child, as it would end in SIGSEGV."""

    def round_trips(thread: int) -> int:
        texts = [f"{thread} {'%05d ' * 2000 % tuple(range(at, at + 2000))}" for at in range(30)]
        path = written(tmp_path / f"{thread}.msgpack", [[{"text": text}] for text in texts])
        return sum(
            [record["text"] for record in open_container(path).records()] == texts for _ in range(3)
        )

    if not (child := os.fork()):
        try:
            with ThreadPoolExecutor(4) as pool:
                os._exit(sum(pool.map(round_trips, range(4))))
        finally:
            os._exit(255)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 12


def test_the_header_comes_back_with_format_and_version(tmp_path: Path) -> None:
    """The writer's own entries survive, also those that nobody knows."""
    header = open_container(written(tmp_path / "x.msgpack", [])).header

    assert header.items() >= HEADER.items()
    assert (header["format"], header["version"]) == ("tbench", [1, 0])
    assert len(header["marker"]) == 16


def test_the_file_is_one_msgpack_stream_of_ext_objects(tmp_path: Path) -> None:
    """Any msgpack reader walks it: header, blocks, index."""
    path = written(tmp_path / "x.msgpack", three_blocks())
    with path.open("rb") as file:
        codes = [item.code for item in msgpack.Unpacker(file)]

    assert codes == [1, 2, 2, 2, 3]


def test_the_index_knows_its_blocks(tmp_path: Path) -> None:
    """Offset, length, record count, first seq and the span of arrivals, block by block."""
    clock = Time()
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER, clock=clock)
    for seq, arrive in enumerate([500, 300, 400]):
        writer.append({"seq": seq}, seq=seq, arrive_ns=arrive)
    clock.now += 1
    writer.pump()
    writer.append({"no": "arrival"})
    container = open_container(writer.close({"n": 4}))

    assert container.rows is not None
    first, second = container.rows
    assert (first.records, first.first_seq, first.min_arrive, first.max_arrive) == (3, 0, 300, 500)
    assert (second.records, second.first_seq, second.min_arrive) == (1, None, None)
    assert second.offset == first.offset + first.length
    assert container.index is not None
    assert container.index["totals"] == {"n": 4}


def test_truncation_anywhere_loses_only_what_is_cut(tmp_path: Path) -> None:
    """For every length of the file: all whole blocks are read, and the cut is reported."""
    blocks = three_blocks()
    data = written(tmp_path / "x.msgpack", blocks).read_bytes()
    rows = open_container(tmp_path / "x.msgpack").rows
    assert rows is not None
    ends = [row.offset + row.length for row in rows]
    cut = tmp_path / "cut.msgpack"
    for length in range(32, len(data)):
        cut.write_bytes(data[:length])
        container = open_container(cut)
        assert by_block(container) == blocks[: sum(end <= length for end in ends)], length
        assert container.losses.truncated_tail, length
        assert not container.losses.damaged_blocks, length


@pytest.mark.parametrize("close", [True, False])
def test_a_flipped_bit_costs_at_most_one_block_and_is_noticed(tmp_path: Path, close: bool) -> None:
    """For every bit of a file, closed or not: at most one block is lost, nothing is ever wrong."""
    blocks = three_blocks()
    path = written(tmp_path / "x.msgpack", blocks, close=close)
    data, sound = path.read_bytes(), open_container(path).losses
    bad = tmp_path / "bad.msgpack"
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        bad.write_bytes(flipped)
        container = open_container(bad)
        for read in (by_block, by_index) if container.rows is not None else (by_block,):
            found = read(container)
            assert all(block in blocks for block in found), bit
            assert len(found) >= len(blocks) - 1, bit
        assert by_block(container) is not None
        assert container.losses != sound, bit


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_arbitrary_damage_never_yields_a_wrong_record(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Overwrite, insert or remove a run of bytes: what is still read equals what was written."""
    blocks = three_blocks()
    path = written(tmp_path_factory.mktemp("c") / "x.msgpack", blocks)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, 9999)) * len(whole) // 10_000
    put, cut = data.draw(st.binary(max_size=30)), data.draw(st.integers(0, 30))
    path.write_bytes(whole[:at] + put + whole[at + cut :])
    try:
        container = open_container(path)
    except InputError:
        return
    for block in by_block(container):
        assert block in blocks


@pytest.mark.parametrize("change", [-20, -1, 1, 500], ids=lambda n: f"{n:+d} bytes")
@pytest.mark.parametrize("hit", [0, 1])
def test_bytes_lost_or_put_in_cost_one_block(tmp_path: Path, change: int, hit: int) -> None:
    """The index then points beside every later block: they are found by their markers."""
    path = written(tmp_path / "c", three_blocks())
    rows = open_container(path).rows
    assert rows
    data, at = path.read_bytes(), rows[hit].offset + 30
    path.write_bytes(data[:at] + bytes(max(change, 0)) + data[at - min(change, 0) :])
    container = open_container(path)

    assert container.rows is None
    assert by_block(container) == [block for n, block in enumerate(three_blocks()) if n != hit]
    assert (container.losses.damaged_blocks, container.losses.damaged_index) == (1, True)
    assert not container.losses.truncated_tail


def test_a_whole_block_that_is_gone_is_noticed(tmp_path: Path) -> None:
    """Nothing is damaged then, but the index shows that something stood there."""
    path = written(tmp_path / "c", three_blocks())
    rows = open_container(path).rows
    assert rows
    data, (start, length, *_) = path.read_bytes(), rows[1]
    path.write_bytes(data[:start] + data[start + length :])
    container = open_container(path)

    assert by_block(container) == [three_blocks()[0], three_blocks()[2]]
    assert container.losses.damaged_index


def test_a_lost_header_leaves_the_blocks_readable(tmp_path: Path) -> None:
    """Without an index the marker is learnt from the blocks; with one, the header is there again."""
    blocks = three_blocks()
    for close in (False, True):
        path = written(tmp_path / f"{close}.msgpack", blocks, close=close)
        data = bytearray(path.read_bytes())
        data[:60] = os.urandom(60)
        path.write_bytes(data)
        container = open_container(path)

        assert by_block(container) == blocks
        assert container.losses.damaged_header
        assert (container.header.get("purpose") == "test") is close


def test_unknown_frames_are_skipped(tmp_path: Path) -> None:
    """A newer writer's frames between the blocks do not disturb."""
    blocks = three_blocks()
    path = written(tmp_path / "x.msgpack", blocks, close=False)
    path.write_bytes(path.read_bytes() + frames.frame(77, b"newer" * 9))
    container = open_container(path)

    assert by_block(container) == blocks
    assert [frame.raw for frame in container.walk() if frame.code == 77] == [b"newer" * 9]
    assert container.losses.damaged_blocks == container.losses.skipped_bytes == 0


def test_a_bloated_length_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    """Blocks that claim gigabytes, in the frame or in zstd, are damage, not an allocation."""
    path = written(tmp_path / "x.msgpack", three_blocks(), close=False)
    marker = open_container(path).marker
    bomb = frames.stamp(
        marker, b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**50) + b"\x01\x00\x00"
    )
    path.write_bytes(path.read_bytes() + bomb + struct.pack(">BIb", 0xC9, 2**32 - 1, 2) + b"x" * 50)
    container = open_container(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert by_block(container) == three_blocks()
    assert container.losses.damaged_blocks == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16


def test_a_frame_over_the_limit_is_not_read_though_the_file_holds_it(tmp_path: Path) -> None:
    """300 MiB of a sparse file: looked through in pieces, never in memory at once."""
    path = written(tmp_path / "x.msgpack", three_blocks(), close=False)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(struct.pack(">BIb", 0xC9, 300 << 20, frames.BLOCK))
        file.truncate(size + (301 << 20))
    container = open_container(path)
    tracemalloc.start()
    try:
        assert by_block(container) == three_blocks()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert container.losses.damaged_blocks == 1
    assert peak < 64 << 20


@pytest.mark.parametrize("length", [0, 3, 2**32 - 1])
def test_an_index_that_lies_about_its_length_is_none(tmp_path: Path, length: int) -> None:
    """Shorter than any frame, or longer than the file: its blocks are found without it."""
    path = written(tmp_path / "x.msgpack", three_blocks())
    tail = frames.TAIL.pack(length, 0, frames.TAIL_MAGIC)
    path.write_bytes(path.read_bytes()[: -len(tail)] + tail)
    container = open_container(path)

    assert container.index is None
    assert by_block(container) == three_blocks()


def test_only_the_owner_may_read_from_the_first_byte_on(tmp_path: Path) -> None:
    """Mode 0600 for the .part file as for the finished one."""
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER)

    assert stat.S_IMODE(writer.part.stat().st_mode) == 0o600
    assert stat.S_IMODE(writer.close().stat().st_mode) == 0o600
    assert not writer.part.exists()


def test_a_finished_or_unfinished_file_is_never_replaced(tmp_path: Path) -> None:
    """Both a file of that name and another writer's .part are refused up front."""
    path = written(tmp_path / "x.msgpack", [])
    with pytest.raises(InputError, match="exists already"):
        ContainerWriter(path, HEADER)
    written(tmp_path / "y.msgpack", [], close=False)
    with pytest.raises(InputError, match="tbench trace repair"):
        ContainerWriter(tmp_path / "y.msgpack", HEADER)
    with pytest.raises(InputError, match="does not exist"):
        ContainerWriter(tmp_path / "no" / "x.msgpack", HEADER)


def test_a_file_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """The rename at the end refuses too, and keeps what was written."""
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER)
    writer.append({"kept": True})
    (tmp_path / "x.msgpack").write_text("another's")
    with pytest.raises(FileExistsError):
        writer.close()
    writer.discard()  # as its callers do whatever failed

    assert (tmp_path / "x.msgpack").read_text() == "another's"
    assert list(open_container(writer.part).records()) == [{"kept": True}]


def test_blocks_are_sealed_by_size_count_and_age(tmp_path: Path) -> None:
    """256 KiB, 200 records or 0.2 s, whichever comes first."""
    clock = Time()
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER, clock=clock)
    for _ in range(3):
        writer.append({"body": bytes(200_000)})
    for _ in range(401):
        writer.append({})
    clock.now += 0.19
    writer.pump()
    writer.append({"late": 1})
    clock.now += 0.02
    writer.pump()
    writer.append({"last": 1})
    rows = open_container(writer.close()).rows

    assert rows is not None
    assert [row.records for row in rows] == [1, 1, 200, 200, 3, 1]


def test_what_is_written_is_synced_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync follows a write by a second at most, and is left out when nothing was written."""
    synced: list[float] = []
    clock = Time()
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER, clock=clock)
    monkeypatch.setattr(os, "fdatasync", lambda _fd: synced.append(round(clock.now, 1)))
    writer.append({})
    for _ in range(16):
        clock.now += 0.25
        writer.pump()

    assert synced == [101.0]


def failing_after(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk takes `budget` more bytes, then it is full."""
    room = [budget]
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(fd, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("room", [0, 7, 30])
def test_a_full_disk_is_an_oserror_and_spares_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """The failed block is cut off again; every later call says the same; the rest is readable."""
    clock = Time()
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER, clock=clock)
    writer.append({"n": 1})
    clock.now += 0.3
    writer.pump()
    size = writer.part.stat().st_size
    failing_after(room, monkeypatch)
    writer.append({"n": 2})
    clock.now += 0.3
    for call in (writer.pump, lambda: writer.append({"n": 3}), writer.close):
        with pytest.raises(OSError, match="No space"):
            call()

    assert writer.part.stat().st_size == size
    assert list(open_container(writer.part).records()) == [{"n": 1}]


def test_a_disk_that_is_full_from_the_start_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty .part would only stand in the way of the next attempt."""
    failing_after(10, monkeypatch)
    with pytest.raises(OSError, match="No space"):
        ContainerWriter(tmp_path / "x.msgpack", HEADER)

    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_files() -> Iterator[None]:
    """The kernel itself lets no file grow past 64 KiB."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_the_kernels_own_limit_is_met_in_the_same_way(tmp_path: Path) -> None:
    """A real short write (EFBIG): whole blocks stay, nothing torn."""
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER)
    with pytest.raises(OSError, match="File too large"):
        for n in range(300):
            writer.append({"n": n, "body": os.urandom(1000)})
            writer._seal()
    with pytest.raises(OSError, match="File too large"):
        writer.close()
    container = open_container(writer.part)
    found = [record["n"] for record in container.records()]

    assert found == list(range(len(found)))
    assert len(found) > 50
    assert container.losses.skipped_bytes == 0


def test_a_record_over_the_limit_is_refused_and_the_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ValueError for the one record; the others are not touched."""
    monkeypatch.setattr(frames, "MAX_PAYLOAD", 2**20 + 100)
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER)
    writer.append({"n": 1})
    with pytest.raises(ValueError, match="over the limit"):
        writer.append({"body": bytes(200)})
    writer.append({"n": 2})

    assert list(open_container(writer.close()).records()) == [{"n": 1}, {"n": 2}]


def test_strings_that_are_not_utf8_do_not_stop_the_writer(tmp_path: Path) -> None:
    """Foreign bytes pass by surrogateescape; lone surrogates, which no bytes stand for, become ?."""
    path = written(tmp_path / "x.msgpack", [[{"s": "a\udcff"}, {"s": "b\ud800", "l": ["\ud800"]}]])

    assert list(open_container(path).records()) == [{"s": "a\udcff"}, {"s": "b?", "l": ["?"]}]


def test_a_running_writers_file_can_be_read(tmp_path: Path) -> None:
    """What is sealed is there; the file's later growth and renaming do not disturb."""
    clock = Time()
    writer = ContainerWriter(tmp_path / "x.msgpack", HEADER, clock=clock)
    writer.append({"n": 1})
    clock.now += 1
    writer.pump()
    container = open_container(writer.part)
    writer.append({"n": 2})
    writer.close()

    assert list(container.records()) == [{"n": 1}]
    assert container.losses.truncated_tail


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b'{"a": 1}\n', "not a tbench file"),
        (b"hello, world\n" * 100, "not a tbench file"),
        (msgpack.packb({"a": 1}) * 50, "not a tbench file"),
        (frames.frame(1, b"\x80"), "not a tbench file"),
        (bytes(range(256)) * 40, "not a tbench file"),
        (frames.ZSTD_MAGIC * 400, "not a tbench file"),
        (frames.header_frame({"kind": "trace", "version": [2, 0]}, bytes(16)), "newer tbench"),
    ],
)
def test_what_is_no_container_is_one_clear_error(tmp_path: Path, content: bytes, says: str) -> None:
    """Empty, JSON, text, other msgpack, binary, a future format: each says what it is."""
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        open_container(path)


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    """Neither is a traceback."""
    with pytest.raises(InputError, match="no such file"):
        open_container(tmp_path / "x.part")
    with pytest.raises(InputError, match="folder"):
        open_container(tmp_path)


def test_a_newer_minor_version_is_read(tmp_path: Path) -> None:
    """Only the major version tells of a change that a reader must know."""
    path = tmp_path / "x.msgpack"
    marker = bytes(range(16))
    header = frames.header_frame({"kind": "trace", "version": [1, 9]}, marker)
    path.write_bytes(header + frames.block_frame(marker, frames.pack({"n": 1})))

    assert list(open_container(path).records()) == [{"n": 1}]
