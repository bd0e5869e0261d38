"""Copying traces: the records that are wanted, byte for byte, into new files.

Repair, slices, filters, samples, merges and splits are all this. The exchanges are read once, to decide; then
the files are walked, and what is wanted of each block is carried over as it lies there. Only a merge changes
anything: it moves the times of later captures onto the first one's clock.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from heapq import merge
from itertools import accumulate, pairwise
from math import inf
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from tbench.capture import frames
from tbench.capture.arrival_order import TraceIndex
from tbench.capture.container_reader import Frame, Losses
from tbench.capture.container_writer import ContainerWriter
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange
from tbench.capture.filters import FIELDS, HASHES, Filter, Pass, meant, none_left, span_ns
from tbench.capture.frames import BLOCK, HEADER, INDEX
from tbench.capture.records import STEPS, read_header
from tbench.capture.terminal import named
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import Trace, lineage, unrepeated

OURS: Final = frozenset({HEADER, BLOCK, INDEX})
NOT_COPIED: Final = frozenset({"format", "marker", "process", "processes"})
"""Header entries that a new file gets anew."""
MOST_PARTS: Final = 255
"""Each part has its file open, and a byte for each record says which it goes to."""
TIMES: Final = {
    "request": ("arrive_ns", "end_ns"),
    "response": ("head_ns", "end_ns", "first_chunk_ns"),
    "gap": ("from_ns", "to_ns"),
    "clock": ("mono_ns",),
}
"""The times of each kind of record, on its capture's clock."""
EXPOSED: Final = ("full", "redacted", "shape", "hash", "drop")
"""How much a trace may hold, most first."""


class NewTrace:
    """A trace that is written of other traces' records; a context manager that leaves no file on an error."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        entries = {key: value for key, value in header.items() if key not in NOT_COPIED}
        # The clock stands still: blocks are sealed by size, and the file is synced when it is whole.
        self._writer = ContainerWriter(path, {**entries, "segment": 0}, clock=lambda: 0.0)
        self._index = TraceIndex()
        self.detail: dict[str, Any] = {}

    def record(self, packed: bytes, record: Mapping[str, Any]) -> None:
        """Carry over one record, of which `packed` are the bytes."""
        place = {}
        if record.get("type") == "request":
            place = {name: record.get(name) for name in ("arrive_ns", "seq")}
        self._index.note(record, self._writer.append_packed(packed, **place))

    def block(self, raw: bytes, records: Iterator[Mapping[str, Any]]) -> None:
        """Carry over a whole block, of which these are the records; never after single ones."""
        self._writer.append_block(raw, self._index.survey(self._writer.blocks, records))

    def frame(self, frame: Frame) -> None:
        """Carry over a frame of a kind that this version does not know."""
        self._writer.append_frame(frame.code, frame.raw)

    def discard(self) -> None:
        """Give the file up."""
        self._writer.discard()

    def close(self) -> None:
        """Finish the file, with `detail` in its index."""
        totals = {**self._index.totals, "continued": False}
        self._writer.close(totals, detail={**self._index.detail(), **self.detail})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.close()
        except BaseException:
            self.discard()
            raise


@dataclass(kw_only=True, eq=False)
class Part:
    """A file that a trace is copied to: gaps between its two times (ns) go there; `requests` counts."""

    path: Path
    from_ns: int
    to_ns: int
    requests: int = 0
    note: dict[str, Any] = field(default_factory=dict)


class Copied(NamedTuple):
    """What a copy made, the requests that it left out, and those that stood in two of the traces."""

    parts: list[Part]
    left: int
    repeated: int
    lost: Losses


Route = Callable[[Exchange, Pass], Part | None]
"""The file that an exchange goes to; None for none."""
Marks = dict[tuple[int, int], bytearray]
"""By segment and block: for each record the number of the part that it goes to, from 1; 0 is none."""


def copy(
    trace: Trace,
    wanted: Filter,
    verb: str,
    route: Route,
    *,
    sessions: bool = False,
    answers: bool = False,
) -> Copied:
    """Copy what a filter leaves of a trace to the parts that `route` names, each to a new file.

    `sessions` is whether `route` asks the pass for sessions, `answers` whether it reads responses. Raises
    InputError where nothing is left, a file exists, or traces without dates are to be merged; then no file is
    left.
    """
    if len(trace.captures) > 1 and (
        undated := [part.container.path for part in trace.segments if not part.header.wall_ns]
    ):
        raise InputError(
            f"{undated[0]}: has no dates, so that it cannot be put beside another trace"
        )
    marks: Marks = {}
    parts: dict[Part, int] = {}
    walk = Pass(wanted, sessions=sessions or wanted.sessions)
    exchanges = meant(trace, wanted, walk, answers=answers)
    repeats = Counter[str]()
    if len(trace.captures) > 1:
        exchanges = unrepeated(exchanges, lambda *_: repeats.update(["repeated"]))
    for exchange in exchanges:
        part = route(exchange, walk)
        if part is None:
            continue
        part.requests += 1
        number = parts.setdefault(part, len(parts) + 1)
        if number > MOST_PARTS:
            raise InputError(f"more than {MOST_PARTS} files; split into fewer, larger parts")
        for segment, block, record in exchange.places:
            numbers = marks.setdefault((segment, block), bytearray())
            numbers.extend(bytes(max(0, record + 1 - len(numbers))))
            numbers[record] = number
    if not parts:
        raise none_left(trace.files[0], wanted.words)
    # What the walk will meet, and what only the reading of the exchanges can tell.
    lost = Losses(
        missing_segments=trace.losses.missing_segments,
        orphan_responses=trace.losses.orphan_responses,
    )
    total = trace.totals.get("requests", 0)
    header = _header(trace)
    of = sorted(set().union(*(lineage(segment.header) for segment in trace.segments)))
    step = {"verb": verb, "only": list(wanted.words), "of": of, "of_requests": total}
    with ExitStack() as stack:
        files = []
        for part in parts:
            steps = [*header.get(STEPS, []), {**step, "requests": part.requests, **part.note}]
            # A name of its own: beside its source in a folder it is another capture, on the same clock.
            name = blake2b(repr((header["capture_id"], steps)).encode(), digest_size=16)
            entries = {**header, "capture_id": name.hexdigest(), STEPS: steps}
            files.append(stack.enter_context(NewTrace(part.path, entries)))
        _carry(trace, marks, list(parts), files)
        for source in trace.segments:
            lost.add(source.container.losses)
        for file in files:
            file.detail["lost"] = asdict(lost)
    copied = sum(part.requests for part in parts) + repeats["repeated"]
    return Copied(list(parts), total - copied, repeats["repeated"], lost)


def _carry(
    trace: Trace,
    marks: Marks,
    parts: Sequence[Part],
    files: Sequence[NewTrace],
) -> None:
    """Walk the traces: a marked record goes to its part, one of no exchange to all whose time it is of."""
    segments = trace.segments
    shifts = trace.shifts
    blocks = sum(len(segment.rows) for segment in segments)
    for walked, (_, number, ordinal, frame) in enumerate(_interleaved(trace, shifts)):
        if trace.progress:
            trace.progress("copying", min(walked, blocks), blocks)
        if frame.code != BLOCK:
            for file in files if frame.code not in OURS else ():
                file.frame(frame)
            continue
        marked = marks.get((number, ordinal), b"")
        edges = frames.edges(frame.raw)
        # Not strict: a block may be given up in its middle, and has an edge more than records in any case.
        records = zip(segments[number].container.unpack(frame.raw), edges, edges[1:], strict=False)
        for place, (lying, start, end) in enumerate(records):
            record, packed, kind = lying, frame.raw[start:end], lying.get("type")
            shift_ns = shifts[number]  # to the first capture's clock
            times = TIMES.get(str(kind), ()) if shift_ns else ()
            moved = {name: lying[name] + shift_ns for name in times if type(lying.get(name)) is int}
            if moved:
                record = {**lying, **moved}
                packed = frames.pack(record)
            if kind in {"request", "response"}:
                mark = marked[place] if place < len(marked) else 0
                targets = files[mark - 1 : mark] if mark else ()
            else:
                targets = [
                    file
                    for file, part in zip(files, parts, strict=True)
                    if kind != "gap" or _overlaps(record, part)
                ]
            for file in targets:
                file.record(packed, record)


def _overlaps(gap: Mapping[str, Any], part: Part) -> bool:
    """Whether a gap may be of a part's time; one without times may be of any."""
    match gap:
        case {"from_ns": int(first), "to_ns": int(last)}:
            return first < part.to_ns and last >= part.from_ns
    return True


def _interleaved(trace: Trace, shifts: Sequence[int]) -> Iterator[tuple[int, int, int, Frame]]:
    """The frames of all captures about in order of arrival, so that a reader of the copy need not wait.

    Each with its time, the number of its segment, and the ordinal of its block there.
    """
    segments, ends = trace.segments, list(accumulate(map(len, trace.captures)))

    def walk(numbers: Iterable[int]) -> Iterator[tuple[int, int, int, Frame]]:
        at = -(2**63)
        for number in numbers:
            segment, ordinal = segments[number], 0
            for frame in segment.container.walk():
                rows = segment.rows
                while ordinal < len(rows) and rows[ordinal].offset < frame.offset:
                    ordinal += 1
                row = rows[ordinal] if ordinal < len(rows) else None
                listed = row is not None and row.offset == frame.offset
                if row is not None and row.min_arrive is not None:
                    at = row.min_arrive + shifts[number]
                yield at, number, ordinal if listed else -1, frame

    return merge(*(walk(range(first, end)) for first, end in pairwise([0, *ends])))


def _header(trace: Trace) -> dict[str, Any]:
    """The first capture's header; of several captures, what all say, and the least that holds for all."""
    headers = [segment.container.header for segment in trace.segments]
    header = {"capture_id": "", "wall_ns": 0, "mono_ns": 0, **headers[0]}
    clock: dict[str, Any] = {
        name: header[name]
        for name in ("kind", "capture_id", "wall_ns", "mono_ns")
        if name in header
    }
    common = {
        key: value
        for key, value in header.items()
        if all(other.get(key) == value for other in headers)
    }
    stated = {read_header(other).privacy for other in headers}
    privacy = next((word for word in EXPOSED if word in stated), EXPOSED[0])
    return {**common, **clock, "privacy": privacy}


# Routes of a split: which part each exchange goes to.


class Parts:
    """The files of a split in one folder, by name, made as they are needed."""

    def __init__(self, folder: Path, wanted: Filter) -> None:
        self._folder = folder
        self._window = wanted.from_ns, wanted.to_ns
        self._parts: dict[str, Part] = {}
        self._files: set[str] = set()

    def part(self, name: str, window: tuple[int, int] | None = None) -> Part:
        """The part of this name, for arrivals within these two times (ns)."""
        if name not in self._parts:
            word = file = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "none"
            number = len(self._files)
            while file in self._files:  # two names that differ in what no file name holds
                file, number = f"{word}-{number}", number + 1
            self._files.add(file)
            first, end = window or self._window
            path = self._folder / f"{file}.msgpack"
            self._parts[name] = Part(path=path, from_ns=first, to_ns=end, note={"part": name})
        return self._parts[name]


def by_field(parts: Parts, name: str) -> Route:
    """A part for each value of a field of FIELDS."""
    value = FIELDS[name].value
    return lambda exchange, _walk: parts.part(str(value(Facts(exchange)) or "none"))


def by_shares(parts: Parts, text: str) -> Route:
    """Whole sessions by their hash: `80,20`."""
    try:
        shares = [float(word) for word in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) < 2 or min(shares) <= 0 or not sum(shares) < inf:
        raise InputError(f"--shares {named(text)}: give the parts' shares, as in 80,20")
    cuts = [round(edge / sum(shares) * HASHES) for edge in accumulate(shares)]
    return lambda _exchange, walk: parts.part(f"share-{bisect_right(cuts, walk.hash) + 1}")


def by_time(parts: Parts, text: str, trace: Trace) -> Route:
    """Stretches of this length from the first arrival on."""
    length = span_ns(text)
    if not length:
        raise InputError(f"--every {named(text)}: give a length of time such as 90s, 10m, 2h")
    first = trace.arrivals[0]

    def route(exchange: Exchange, _walk: Pass) -> Part:
        number = (exchange.request.arrive_ns - first) // length
        begin = first + number * length
        return parts.part(f"{number:04d}", (begin, begin + length))

    return route


def by_size(parts: Parts, megabytes: float) -> Route:
    """A new part once the latest holds so many bytes of bodies; it needs answers."""
    sizes = [0]

    def route(exchange: Exchange, _walk: Pass) -> Part:
        if sizes[-1] >= megabytes * 1e6:
            sizes.append(0)
        response = exchange.response
        sizes[-1] += exchange.request.body_bytes + (response.body_bytes if response else 0)
        return parts.part(f"{len(sizes) - 1:04d}")

    return route
