"""Which request lies where in a file, where its response is and when that ended: what ordered reading needs.

The writer keeps one while it writes and puts it into the index; for a file without an index a reader
makes the same one in a first pass.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tbench.capture.container_writer import Contents, Place
from tbench.capture.exchange import LED_BACK
from tbench.capture.frames import FARTHEST, LATEST

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


class Link(NamedTuple):
    """A request's place, its response's and when that ended, ns.

    None where this file holds no response, and where only the response itself tells when it ended.
    """

    request: Place
    response: Place | None
    end_ns: int | None


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
                    struct.pack_into("<II", self._links, at + 8, *place)
                    end_ns = record.get("end_ns")
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
    rows = zip(_LINK.iter_unpack(links), _END.iter_unpack(ends), strict=True)
    for (block, record, answer, at), (end_ns,) in rows:
        response = None if answer == NOWHERE else Place(answer, at)
        yield Link(Place(block, record), response, end_ns if abs(end_ns) <= FARTHEST else None)
