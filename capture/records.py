"""The records of a trace: exchanges, gaps and clock readings as msgpack maps, and back.

The tables below are the fields of docs/trace-format.md. A field that is not in them is carried in
`extra` and written back, so newer writers' fields survive.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import Any, Final
from uuid import uuid4

from tbench.capture.exchange import NOTHING, Chunk, Outcome, Request, Response
from tbench.capture.frames import FARTHEST
from tbench.capture.runtime import version

# Form: what fields a record must have, of which types, and how they are taken out of it.

Fields = dict[str, tuple[type, ...]]
"""The names of a record's fields, and the types that each may have."""


class RecordSchema:
    """Reads records that have the fields of a table.

    Combinations of types that were right are remembered, with which of them are numbers, whose size alone is
    checked for each record.
    """

    def __init__(self, table: Fields) -> None:
        self._names = tuple(table)
        self._types = tuple(table.values())
        self._values = itemgetter(*table)
        self._known = frozenset({*table, "type", "id"})
        self._headers = self._names.index("headers") if "headers" in table else None
        self._sound: dict[tuple[type, ...], Callable[[tuple[Any, ...]], tuple[int, ...]]] = {}

    def read(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The table's fields of a record; None when one is missing or of a wrong type."""
        values = self.values(record)
        return None if values is None else dict(zip(self._names, values, strict=True))

    def values(self, record: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The same without their names, in the order of the table."""
        try:
            values: tuple[Any, ...] = self._values(record)
        except KeyError:
            record = {**dict.fromkeys(self._names), **record}
            values = self._values(record)
        kinds = tuple(map(type, values))
        numbers = self._sound.get(kinds)
        if numbers is None:
            # Exactly as msgpack makes them: a bool is no int.
            if not all(kind in types for kind, types in zip(kinds, self._types, strict=True)):
                return None
            numbers = self._sound[kinds] = _numbers_in(kinds)
        sizes = numbers(values)
        if max(sizes) > FARTHEST or min(sizes) < -FARTHEST:
            return None
        if (at := self._headers) is None:
            return values
        headers = tuple(
            [  # no pair: left out
                (str(pair[0]), str(pair[1]))
                for pair in values[at]
                if type(pair) is list and len(pair) == 2
            ]
        )
        return *values[:at], headers, *values[at + 1 :]

    def rest(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What else a record holds."""
        if record.keys() <= self._known:
            return {}
        return {key: value for key, value in record.items() if key not in self._known}


def _numbers_in(kinds: tuple[type, ...]) -> Callable[[tuple[Any, ...]], tuple[int, ...]]:
    """What takes the numbers from values of these types, with a 0 where they are fewer than two."""
    places = [place for place, kind in enumerate(kinds) if kind is int]
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: (0, *(values[place] for place in places))


U32_MAX = 2**32 - 1

_TEXT, _COUNT, _MAYBE_TEXT, _MAYBE_COUNT = (str,), (int,), (str, type(None)), (int, type(None))
_BODY = (bytes, type(None))

REQUEST: Fields = {
    "id": _TEXT,
    "seq": _COUNT,
    "arrive_ns": _COUNT,
    "end_ns": _COUNT,
    "method": _TEXT,
    "scheme": _TEXT,
    "host": _TEXT,
    "path": _TEXT,
    "http_version": _TEXT,
    "headers": (list,),
    "headers_withheld": _COUNT,
    "body": _BODY,
    "body_bytes": _COUNT,
    "client": _MAYBE_TEXT,
    "conn": _MAYBE_COUNT,
    "retry_of": _MAYBE_TEXT,
}
RESPONSE: Fields = {
    "head_ns": _MAYBE_COUNT,
    "end_ns": _COUNT,
    "status": _MAYBE_COUNT,
    "http_version": _TEXT,
    "headers": (list,),
    "headers_withheld": _COUNT,
    "body": _BODY,
    "body_bytes": _COUNT,
    "outcome": _TEXT,
    "error": _MAYBE_TEXT,
}
CHUNKS: Fields = {
    "first_chunk_ns": _MAYBE_COUNT,
    "chunk_dt_us": (bytes,),
    "chunk_sizes": (bytes,),
}
_WHOLE_RESPONSE = RESPONSE | CHUNKS
GAP: Fields = {
    "from_ns": _COUNT,
    "to_ns": _COUNT,
    "requests": _COUNT,
    "responses": _COUNT,
    "bytes": _COUNT,
    "reason": _TEXT,
}
CLOCK: Fields = {"mono_ns": _COUNT, "wall_ns": _COUNT}
HEADER: Fields = {
    "capture_id": _TEXT,
    "segment": _COUNT,
    "writer": _TEXT,
    "wall_ns": _COUNT,
    "mono_ns": _COUNT,
    "upstream": _MAYBE_TEXT,
    "filters": (dict,),
    "sampling": (float, int),
    "privacy": _TEXT,
    "tokens_source": _MAYBE_TEXT,
}
CONTENTLESS = frozenset({"drop", "hash"})
"""What `privacy` says of traces from which the texts were taken, so that no replay can send them."""
CONTAINER_KEYS = frozenset({"format", "version", "kind", "marker", "crc32"})
"""Header keys that belong to the container, not to the trace."""
STEPS = "steps"
"""The header entry with what made a file of a trace: one map for each verb, oldest first."""


@dataclass(frozen=True, kw_only=True)
class TraceHeader:
    """What holds for a whole segment.

    `wall_ns` (CLOCK_REALTIME) and `mono_ns` (ns since the capture's origin) were read at one instant;
    together they turn every time of the trace into wall-clock time. All segments of a capture share
    `capture_id` and origin. `sampling` is the share of the traffic that was recorded, `privacy` one of
    full, redacted, shape, hash, drop. `tokens_source` is `server_usage` or the name of a tokenizer.
    """

    capture_id: str = field(default_factory=lambda: uuid4().hex)
    segment: int = 0
    writer: str = field(default_factory=lambda: f"tbench {version('tbench')}")
    wall_ns: int
    mono_ns: int
    upstream: str | None = None
    filters: Mapping[str, Any] = field(default=NOTHING)
    sampling: float = 1.0
    privacy: str = "full"
    tokens_source: str | None = None
    extra: Mapping[str, Any] = field(default=NOTHING)

    def wall(self, at_ns: int) -> int:
        """A time of this capture as ns since 1970, UTC."""
        return self.wall_ns + at_ns - self.mono_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What the capture saw and could not record between two times: counts, and bytes of bodies."""

    from_ns: int
    to_ns: int
    requests: int
    responses: int
    bytes: int
    reason: str
    extra: Mapping[str, Any] = field(default=NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Both clocks, read at one instant."""

    mono_ns: int
    wall_ns: int
    extra: Mapping[str, Any] = field(default=NOTHING)


def header_map(header: TraceHeader) -> dict[str, Any]:
    """The header's entries as they are written."""
    known = {name: getattr(header, name) for name in HEADER}
    return {"kind": "trace", **known, "filters": dict(header.filters)} | _unknown(
        header.extra, HEADER
    )


def record_of(item: Request | Gap | Clock) -> dict[str, Any]:
    """A request, a gap or a clock reading as it is written."""
    kind, table = _KINDS[type(item)]
    known = {name: getattr(item, name) for name in table}
    return {"type": kind, **known} | _unknown(item.extra, table)


_KINDS: Final[Mapping[type, tuple[str, Fields]]] = {
    Request: ("request", REQUEST),
    Gap: ("gap", GAP),
    Clock: ("clock", CLOCK),
}


def response_record(request_id: str, response: Response) -> dict[str, Any]:
    """A response as it is written; chunk times become rounded microsecond deltas."""
    known = {name: getattr(response, name) for name in RESPONSE}
    known["outcome"] = str(response.outcome)
    chunks = pack_chunks(response.chunks)
    extra = _unknown(response.extra, _WHOLE_RESPONSE)
    return {"type": "response", "id": request_id, **known, **chunks} | extra


def read_header(header: Mapping[str, Any]) -> TraceHeader:
    """A segment's header. Lost or wrong entries get neutral values (times 0, text empty).

    So a trace with a damaged header can still be read and repaired.
    """
    lost: dict[str, Any] = {"capture_id": "", "writer": "", "wall_ns": 0, "mono_ns": 0}
    known = {
        name: header[name]
        for name, types in HEADER.items()
        if name in header and isinstance(header[name], types)
        if not isinstance(header[name], int) or abs(header[name]) <= FARTHEST
    }
    extra = {key: value for key, value in header.items() if key not in CONTAINER_KEYS}
    return TraceHeader(**(lost | known), extra=_unknown(extra, HEADER))


def read_request(record: Mapping[str, Any], shift_ns: int = 0) -> Request | None:
    """A request record, its times moved by `shift_ns`; None when it is not what the format promises."""
    values = _REQUEST.values(record)
    if values is None:
        return None
    row = *values, _REQUEST.rest(record)
    request = Request(*row)  # whose fields are in the table's order
    if request.end_ns < request.arrive_ns or request.body_bytes < 0:
        return None
    if shift_ns:
        request.arrive_ns += shift_ns
        request.end_ns += shift_ns
    return request


def read_response(record: Mapping[str, Any], shift_ns: int = 0) -> Response | None:
    """A response record, its times moved by `shift_ns`; None when it is not what the format promises.

    An outcome that this version does not know reads as protocol_error, with the word kept in `extra`.
    """
    known, chunks = _RESPONSE.read(record), _CHUNKS.read(record)
    if known is None or chunks is None or known["body_bytes"] < 0:
        return None
    status, body, sizes = known["status"], known["body"], chunks["chunk_sizes"]
    if status is not None and not 100 <= status <= 999:
        return None
    if len(chunks["chunk_dt_us"]) != len(sizes) or len(sizes) % 4:
        return None
    if body is not None and sizes and sum(memoryview(sizes).cast("I")) != len(body):
        return None
    extra = _WHOLE.rest(record)
    if known["outcome"] not in Outcome:
        extra["outcome"], known["outcome"] = known["outcome"], Outcome.PROTOCOL_ERROR
    known["outcome"] = Outcome(known["outcome"])
    known["end_ns"] += shift_ns
    if known["head_ns"] is not None:
        known["head_ns"] += shift_ns
    return Response(**known, chunks=read_chunks(chunks, shift_ns), extra=extra)


def read_ending(record: Mapping[str, Any], shift_ns: int = 0) -> Response | None:
    """What of a response record a plan asks for: when it ended, its body, and what else it holds.

    Of the headers it has the content-encoding, which the body needs. No chunks, and no time but the end.
    """
    end_ns, status, body = record.get("end_ns"), record.get("status"), record.get("body")
    if type(end_ns) is not int or abs(end_ns) > FARTHEST:
        return None
    headers = record.get("headers")
    pairs = headers if isinstance(headers, list) else ()
    return Response(
        head_ns=None,
        end_ns=end_ns + shift_ns,
        status=status if type(status) is int else None,
        headers=tuple((name, value) for name, value in pairs if name == "content-encoding"),
        body=body if isinstance(body, bytes) else None,
        extra=_WHOLE.rest(record),
    )


def pack_chunks(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """Times and sizes of chunks: the first time exact, the others within 0.5 us of the truth."""
    first: int | None = None
    deltas: list[int] = []
    sizes: list[int] = []
    last = 0
    for at_ns, size in chunks:
        first = at_ns if first is None else first
        # Rounded from the first time on, not from the last: errors do not add up.
        at = max(last, (at_ns - first + 500) // 1000)
        delta = at - last
        if delta >= U32_MAX:  # 71 minutes of silence, as chunks of no bytes
            fillers, delta = divmod(delta, U32_MAX)
            deltas += [U32_MAX] * fillers
            sizes += [0] * fillers
        deltas.append(delta)
        sizes.append(size)
        last = at
    layout = f"<{len(sizes)}I"
    return {
        "first_chunk_ns": first,
        "chunk_dt_us": struct.pack(layout, *deltas),
        "chunk_sizes": struct.pack(layout, *sizes),
    }


def read_chunks(fields: Mapping[str, Any], shift_ns: int = 0) -> tuple[Chunk, ...]:
    """The chunks of a response, whose two arrays fit each other; none without a first time."""
    first, dts, sizes = fields["first_chunk_ns"], fields["chunk_dt_us"], fields["chunk_sizes"]
    if first is None:
        return ()
    layout = f"<{len(dts) // 4}I"
    times = accumulate(struct.unpack(layout, dts))
    origin = first + shift_ns
    return tuple(
        Chunk(at_ns=origin + 1000 * at, size=size)
        for at, size in zip(times, struct.unpack(layout, sizes), strict=True)
        if size
    )


_REQUEST, _RESPONSE, _CHUNKS, _WHOLE = map(
    RecordSchema, (REQUEST, RESPONSE, CHUNKS, _WHOLE_RESPONSE)
)


def _unknown(extra: Mapping[str, Any], table: Fields) -> dict[str, Any]:
    """The entries of `extra` that may stand beside the table's fields."""
    return {k: v for k, v in extra.items() if k not in table and k not in {"type", "id", "kind"}}
