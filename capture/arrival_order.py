"""A capture's exchanges in arrival order, in bounded memory, whatever their order in the files.

Requests are written at their end and responses at theirs, minutes later perhaps. A trace's index says where
each response lies, so nothing waits for one: blocks are read forward for the requests, and a response is
looked up where it is, through a cache of the blocks used last.
"""

import heapq
import struct
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import add, itemgetter
from typing import Any, Literal

from tbench.capture import frames
from tbench.capture.container_reader import Container, Losses
from tbench.capture.container_writer import Contents, Place
from tbench.capture.exchange import LED_BACK, Exchange, Places, Request, Response
from tbench.capture.frames import BLOCK, FARTHEST, LATEST, Row, Rows
from tbench.capture.records import TraceHeader, read_ending, read_request, read_response
from tbench.capture.sessions import begets

# The index: which request lies where in a file, where its response is, and when that ended. The writer keeps
# one while it writes; of a file without one a reader makes the same in a first pass.

_LINK, _END = struct.Struct("<IIII"), struct.Struct("<q")
NOWHERE = 0xFFFFFFFF
UNKNOWN = -(2**63)
MAX_LINKS = 10_000_000
"""Above this many requests in a file its index goes without links: it would pass the frame limit."""

TOTALS = (
    "requests",
    "responses",
    "unanswered",
    "gaps",
    "clocks",
    "others",
    "body_bytes",
    "dropped_requests",
    "dropped_responses",
    "dropped_bytes",
)


Link = tuple[int, int, int, int, int]
"""The block and record of a request, those of its response (NOWHERE: not in this file), and when that ended,
ns (beyond FARTHEST where only the response tells). Of plain tuples millions cost half as much."""


class TraceIndex:
    """Counts records and links responses to requests by id, in file order.

    A response belongs to the latest request of its id before it, else to the next one after it. 24
    bytes a request stay in memory, and an entry for each one that waits for its response.
    """

    def __init__(self) -> None:
        self.totals: dict[str, int] = dict.fromkeys(TOTALS, 0)
        # Packed: ten million requests take 240 MB, and would take two gigabytes as objects.
        self._links, self._ends = bytearray(), bytearray()
        self._open: dict[str, int] = {}
        self._orphans: dict[str, Place] = {}

    def note(self, record: Mapping[str, Any], place: Place) -> None:
        """Take one record, as it was written or read, in file order."""
        match record:
            case {"type": "request", "id": str(id_)}:
                answer = self._orphans.pop(id_, None)
                if answer is None:
                    self._open[id_] = len(self._links)
                    self.totals["unanswered"] += 1
                self._links += _LINK.pack(*place, *(answer or (NOWHERE, NOWHERE)))
                self._ends += _END.pack(UNKNOWN)
                self._count(record, "requests")
            case {"type": "response", "id": str(id_)}:
                at = self._open.pop(id_, None)
                if at is None:
                    self._orphans[id_] = place
                else:
                    # The row is there since the request: its second half waits for this.
                    struct.pack_into("<II", self._links, at + 8, *place)
                    end_ns = record.get("end_ns")
                    # Of a redirect back the end is not told here, so
                    # that a reader of ends looks at the response itself.
                    if type(end_ns) is int and abs(end_ns) <= FARTHEST and LED_BACK not in record:
                        _END.pack_into(self._ends, at // _LINK.size * _END.size, end_ns)
                    self.totals["unanswered"] -= 1
                self._count(record, "responses")
            case {"type": "gap"}:
                self.totals["gaps"] += 1
                for name in ("requests", "responses", "bytes"):
                    lost = record.get(name)
                    self.totals[f"dropped_{name}"] += lost if isinstance(lost, int) else 0
            case {"type": "clock"}:
                self.totals["clocks"] += 1
            case _:
                self.totals["others"] += 1

    def survey(self, block: int, records: Iterable[Mapping[str, Any]]) -> Contents:
        """Take all records of a block that was read."""
        seqs: list[int] = []
        arrivals: list[int] = []
        count = 0
        for count, record in enumerate(records, 1):
            self.note(record, Place(block, count - 1))
            match record:
                case {"type": "request", "seq": int(seq), "arrive_ns": int(arrive_ns)} if (
                    max(abs(seq), abs(arrive_ns)) <= LATEST
                ):
                    seqs.append(seq)
                    arrivals.append(arrive_ns)
        first, least = next(iter(seqs), None), min(arrivals, default=None)
        return count, first, least, max(arrivals, default=None)

    def forget(self, id_: str) -> None:
        """Note that no response will come for this request."""
        self._open.pop(id_, None)

    @property
    def links(self) -> bytes:
        """A row for each request, in file order; see read_links."""
        return bytes(self._links)

    @property
    def ends(self) -> bytes:
        """When each of these requests' responses ended, where that is plain; see read_links."""
        return bytes(self._ends)

    @property
    def orphans(self) -> dict[str, Place]:
        """Responses whose request is not in this file, by id."""
        return self._orphans

    def detail(self) -> dict[str, Any]:
        """What goes into the index beside the totals."""
        strays = [[id_, *place] for id_, place in self._orphans.items()]
        if len(self._links) > MAX_LINKS * _LINK.size:
            return {"links": None, "ends": None, "strays": strays}
        return {"links": self.links, "ends": self.ends, "strays": strays}

    def _count(self, record: Mapping[str, Any], kind: str) -> None:
        self.totals[kind] += 1
        size = record.get("body_bytes")
        self.totals["body_bytes"] += size if isinstance(size, int) else 0


def is_table(links: bytes) -> bool:
    """Whether an index's `links` are whole rows."""
    return len(links) % _LINK.size == 0


def read_orphans(strays: list[Any]) -> dict[str, Place]:
    """The `strays` of an index, by id; other entries are left out."""
    places = {}
    for orphan in strays:
        match orphan:
            case [str(id_), int(block), int(record)] if block >= 0 and record >= 0:
                places[id_] = Place(block, record)
    return places


def read_ends(ends: object, links: bytes) -> bytes:
    """The `ends` of an index for its `links`; all unknown where it has none, or not as many."""
    count = len(links) // _LINK.size
    sound = isinstance(ends, bytes) and len(ends) == count * _END.size
    return ends if isinstance(ends, bytes) and sound else _END.pack(UNKNOWN) * count


def read_links(links: bytes, ends: bytes) -> Iterator[Link]:
    """The rows of an index's `links` and `ends`, in file order of the requests."""
    return map(add, _LINK.iter_unpack(links), _END.iter_unpack(ends))


# The cache: the blocks of a capture that were used last, decompressed, and the records in them.


class Block:
    """A block: its bytes, and where its records are, once that is asked for."""

    __slots__ = ("_edges", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._edges: list[int] | None = None

    def record(self, ordinal: int) -> dict[str, Any]:
        """A record by its ordinal; an empty map when there is none."""
        if self._edges is None:
            self._edges = frames.edges(self.raw)
        if ordinal + 1 >= len(self._edges):
            return {}
        record = frames.unpack_one(self.raw[self._edges[ordinal] : self._edges[ordinal + 1]])
        return record if isinstance(record, dict) else {}

    def records(self, ordinals: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The records of these ordinals in one pass, as long as they ascend and are sound."""
        reader = frames.unpacker(self.raw)
        passed: int | None = 0
        for ordinal in ordinals:
            record: object = None
            if passed is not None and ordinal >= passed:
                record = frames.unpack_ahead(reader, ordinal - passed)
                passed = ordinal + 1
            if not isinstance(record, dict):
                passed = None
                record = self.record(ordinal)
            yield record


class BlockCache:
    """The decompressed blocks used last, up to a number of bytes; counts each damaged one once."""

    def __init__(self, segments: "list[Segment]", losses: Losses, budget: int) -> None:
        self._segments = segments
        self._losses = losses
        self._room = budget
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._damaged: set[tuple[int, int]] = set()

    def block(self, segment: int, ordinal: int, *, counted: bool = True) -> Block | None:
        """A block; None when it is damaged or does not exist, which is a loss where it is `counted`."""
        key = segment, ordinal
        if key in self._damaged or ordinal >= len(self._segments[segment].rows):
            return None
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        row = self._segments[segment].rows[ordinal]
        raw = self._segments[segment].container.block(row)
        if raw is None:
            if not counted:
                return None
            # Remembered: each of its records is asked for, and the loss is one.
            self._damaged.add(key)
            self._losses.damaged_blocks += 1
            self._losses.skipped_bytes += row.length
            return None
        block = self._blocks[key] = Block(raw)
        self._room -= len(raw)
        # The newest stays, though it alone be over the budget: it is about to be read.
        while self._room < 0 and len(self._blocks) > 1:
            self._room += len(self._blocks.popitem(last=False)[1].raw)
        return block


CACHE_BYTES = 64 * 2**20
PARKED_BYTES = 32 * 2**20
FOREVER = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A file of a capture with what ordered reading needs to know of it."""

    container: Container
    header: TraceHeader
    rows: Rows
    links: bytes
    ends: bytes
    orphans: dict[str, Place]
    totals: dict[str, int]
    continued: bool
    losses: Losses
    """Those known before the exchanges are read."""


def open_segment(container: Container, header: TraceHeader) -> Segment:
    """By the container's index, else by a first pass over the file."""
    match container.index:
        case {"links": bytes(links), "strays": list(strays), "totals": dict(totals), **more} if (
            container.rows is not None and is_table(links)
        ):
            return Segment(
                container=container,
                header=header,
                rows=container.rows,
                links=links,
                ends=read_ends(more.get("ends"), links),
                orphans=read_orphans(strays),
                totals={name: count for name, count in totals.items() if type(count) is int},
                continued=totals.get("continued") is True,
                losses=container.losses,
            )
    trace_index = TraceIndex()
    rows = Rows()
    for frame in container.walk():
        if frame.code == BLOCK:
            contents = trace_index.survey(len(rows), container.unpack(frame.raw))
            rows.append(Row(frame.offset, frame.length, len(frame.raw), *contents))
    return Segment(
        container=container,
        header=header,
        rows=rows,
        links=trace_index.links,
        ends=trace_index.ends,
        orphans=trace_index.orphans,
        totals=trace_index.totals,
        continued=False,
        losses=container.losses,
    )


_Waiting = tuple[int, int, int, int, Link, Request | None]
"""A request that a later one in the file may precede: its arrival, seq and number, its segment and link, and
itself, None when too much waits."""


class _Merge:
    """The state of one reading: the cache of blocks, the requests that wait, the orphans not yet claimed."""

    def __init__(self, segments: list[Segment], losses: Losses, how: "ReadOptions") -> None:
        self._segments = segments
        self._losses = losses
        self._shift = how.shift_ns
        self._answers = how.answers == "whole"
        self._ends = how.answers == "ends"
        self._first = how.first
        self._room = how.budgets.parked
        self._cache = BlockCache(segments, losses, how.budgets.cache)
        self._heap: list[_Waiting] = []
        self._taken = 0
        self._orphans = {
            id_: (number, place)
            for number, segment in enumerate(segments)
            for id_, place in segment.orphans.items()
        }

    def run(self) -> Iterator[Exchange]:
        """Read blocks forward; give what no later block can precede."""
        # A horizon is the earliest arrival of all later blocks: the index tells it, so that a request is
        # given as soon as nothing can come before it, and one that never ended holds nothing back.
        horizons = iter(_horizons(self._segments))
        for number, segment in enumerate(self._segments):
            for ordinal, links in enumerate(_by_block(segment)):
                self._take(number, ordinal, links)
                yield from self._before(next(horizons) + self._shift)
        self._losses.orphan_responses += len(self._orphans)

    def _take(self, segment: int, ordinal: int, links: list[Link]) -> None:
        """Put the requests of one block on the heap."""
        if not (links or self._answers):
            return
        block = self._cache.block(segment, ordinal)
        if block is None:
            self._losses.orphan_responses += sum(link[2] != NOWHERE for link in links)
            return
        records = block.records(link[1] for link in links)
        for link, record in zip(links, records, strict=True):
            request = self._request(record)
            if request is not None:
                # Beyond the budget only the place is held, and the request is read again in its turn.
                held = request if self._room > 0 else None
                self._room -= _weight(held)
                # Unique, so that the heap never compares what stands behind it in the tuple.
                self._taken += 1
                waiting = request.arrive_ns, request.seq, self._taken, segment, link, held
                heapq.heappush(self._heap, waiting)

    def _request(self, record: dict[str, Any]) -> Request | None:
        request = read_request(record, self._shift) if record.get("type") == "request" else None
        self._losses.bad_records += request is None
        return request

    def _before(self, horizon: int) -> Iterator[Exchange]:
        """The waiting exchanges that arrived before the horizon, in order."""
        # Strictly: at the same instant a later block may hold a request that comes first by its seq.
        heap, reads = self._heap, self._ending
        while heap and heap[0][0] < horizon:
            _, _, _, segment, link, request = heapq.heappop(heap)
            self._room += _weight(request)
            ordinal, number = link[:2]
            if request is None and (block := self._cache.block(segment, ordinal)):
                request = self._request(block.record(number))
            if request is not None:
                places: Places = ((self._first + segment, ordinal, number),)
                answer: tuple[int, int] | None = link[2:4]
                if link[2] == NOWHERE:
                    segment, answer = self._orphans.pop(request.id, (segment, None))
                response = again = None
                if answer:
                    places += ((self._first + segment, *answer),)
                    if self._answers or self._ends:
                        response = self._response(request, segment, answer, link[4])
                        again = partial(reads, places[1], request.id)
                yield Exchange(request, response, places, again)

    def _response(
        self, request: Request, segment: int, place: tuple[int, int], end_ns: int
    ) -> Response | None:
        """The response, wherever it lies; None when it is lost."""
        if self._ends and abs(end_ns) <= FARTHEST and not begets(request):
            end_ns += self._shift
            return Response(None, end_ns, None) if end_ns >= request.arrive_ns else None
        ordinal, number = place
        block = self._cache.block(segment, ordinal, counted=self._answers)
        if block is None:
            return None
        record = block.record(number)
        fits = (record.get("type"), record.get("id")) == ("response", request.id)
        read = read_response if self._answers else read_ending
        response = read(record, self._shift) if fits else None
        if response and response.end_ns < request.arrive_ns:
            response = None
        self._losses.bad_records += response is None and self._answers
        return response

    def _ending(self, place: tuple[int, int, int], id_: str) -> Response | None:
        """A response that was read before, or its end alone, with its body."""
        segment, ordinal, number = place
        block = self._cache.block(segment - self._first, ordinal, counted=False)
        record = block.record(number) if block else {}
        return read_ending(record, self._shift) if record.get("id") == id_ else None


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Bytes of memory for the cache of decompressed blocks and for requests that wait."""

    cache: int = CACHE_BYTES
    parked: int = PARKED_BYTES


Answers = Literal["whole", "ends", "none"]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How exchanges are read: their times moved by `shift_ns`, and how much of their answers.

    `first` is the number of the first of these segments among all of a trace.
    """

    shift_ns: int = 0
    answers: Answers = "whole"
    budgets: Budgets = field(default=Budgets())
    first: int = 0


def in_order(segments: list[Segment], losses: Losses, how: ReadOptions) -> Iterator[Exchange]:
    """The exchanges of one capture's segments by (arrive_ns, seq).

    Adds what it finds lost to `losses` on the way, of answers only where they are read whole.
    """
    return _Merge(segments, losses, how).run()


def _weight(request: Request | None) -> int:
    return 2000 + len(request.body or b"") if request else 0


def _horizons(segments: list[Segment]) -> "array[int]":
    """For each block of all segments, the earliest arrival (ns) in any block after it."""
    horizons = array("q")
    earliest = FOREVER
    for segment in reversed(segments):
        for ordinal in reversed(range(len(segment.rows))):
            row = segment.rows[ordinal]
            horizons.append(earliest)
            earliest = earliest if row.min_arrive is None else min(earliest, row.min_arrive)
    horizons.reverse()
    return horizons


def _by_block(segment: Segment) -> Iterator[list[Link]]:
    """For each block of a segment, the links of its requests."""
    groups = groupby(read_links(segment.links, segment.ends), key=itemgetter(0))
    upcoming, links = next(groups, (None, iter(())))
    for ordinal in range(len(segment.rows)):
        if upcoming == ordinal:
            yield list(links)
            upcoming, links = next(groups, (None, iter(())))
        else:
            yield []
