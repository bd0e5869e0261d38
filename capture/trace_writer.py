"""Writing a trace: exchanges in, segments of one capture out. Reading is capture.trace_reader."""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tbench.capture.arrival_order import TraceIndex
from tbench.capture.container_writer import ContainerWriter
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Request, Response
from tbench.capture.records import (
    Clock,
    Gap,
    TraceHeader,
    header_map,
    record_of,
    response_record,
)
from tbench.capture.remote import as_path
from tbench.capture.trace_reader import segment_path


class TraceWriter:
    """Writes a trace as PATH.part, PATH at close; a context manager, for one thread.

    `rotate_bytes` and `rotate_s` begin a new segment (`trace.0001.msgpack`, ...) when the current one has
    that size, or its first record that age in seconds; None never does. Call `pump` at least every
    0.2 s while nothing is written. Disk errors surface as OSError from every method and stay; see
    ContainerWriter, also for `clock` and for the `marker` of the first segment.
    """

    def __init__(
        self,
        path: Path,
        header: TraceHeader,
        *,
        rotate_bytes: int | None = None,
        rotate_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        marker: bytes | None = None,
    ) -> None:
        self.path = as_path(path)
        self.header = header
        self._rotate_bytes = rotate_bytes
        self._rotate_s = rotate_s
        self._now = clock
        if rotate_bytes is not None or rotate_s is not None:
            # A segment of an older trace would later stand in the way, or be taken for one of this.
            numbered = f"{self.path.stem}.[0-9][0-9][0-9][0-9]*{self.path.suffix}*"
            for other in sorted(self.path.parent.glob(numbered)):
                raise InputError(
                    f"{other}: a segment of an older trace; choose another name or remove it"
                )
        first = segment_path(self.path, header.segment)
        self._segment = _Segment(first, header, clock, marker)

    @property
    def size(self) -> int:
        """Bytes of the current segment, the unsealed block not counted."""
        return self._segment.container.size

    @property
    def lost(self) -> list[Any]:
        """The records that were taken, and that a disk error has kept from the file."""
        return self._segment.container.lost

    def request(self, request: Request) -> None:
        """Record a request, at its end. A body over the format's limit is left out, with a gap for it."""
        self._write_whole(record_of(request), arrive_ns=request.arrive_ns, seq=request.seq)

    def response(self, request_id: str, response: Response) -> None:
        """Record the response to an earlier request, at its end."""
        self._write_whole(response_record(request_id, response))

    def exchange(self, exchange: Exchange) -> None:
        """Record a request with its response, or as one that never gets any."""
        self.request(exchange.request)
        if exchange.response is None:
            self._segment.trace_index.forget(exchange.request.id)
        else:
            self.response(exchange.request.id, exchange.response)

    def gap(self, gap: Gap) -> None:
        """Record that something was lost."""
        self._write(record_of(gap))

    def clock(self, clock: Clock) -> None:
        """Record both clocks; later segments take the pair as their anchor."""
        self._write(record_of(clock))
        self.header = replace(self.header, mono_ns=clock.mono_ns, wall_ns=clock.wall_ns)

    def pump(self) -> None:
        """Let time pass: seal, sync and rotate what is due."""
        self._segment.container.pump()
        self._rotate_if_due()

    def close(self) -> Path:
        """Finish the last segment; returns the path of the first."""
        self._segment.end(last=True)
        return self.path

    def discard(self) -> None:
        """Give up the segment that is being written, and remove it."""
        self._segment.container.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            # The failure that left the block is the one to show; closing fails again by the same disk.
            if kind is None or not issubclass(kind, OSError):
                raise

    def _write_whole(self, record: dict[str, Any], **place: int) -> None:
        try:
            self._write(record, **place)
        except ValueError:
            if record["body"] is None:
                raise
            self._write({**record, "body": None}, **place)
            at_ns = record["end_ns"]
            self.gap(
                Gap(
                    from_ns=at_ns,
                    to_ns=at_ns,
                    requests=0,
                    responses=0,
                    bytes=len(record["body"]),
                    reason="memory",
                )
            )

    def _write(self, record: Mapping[str, Any], **place: int) -> None:
        self._rotate_if_due()
        self._segment.write(record, **place)

    def _rotate_if_due(self) -> None:
        full = self._rotate_bytes is not None and self.size >= self._rotate_bytes
        old = self._rotate_s is not None and self._segment.age() >= self._rotate_s
        # A segment without a record never ends, or a quiet night would leave thousands of empty ones.
        if not (full or old) or self._segment.began_at is None:
            return
        # The next segment begins before the old one ends: when that fails, the old one stays whole.
        header = replace(self.header, segment=self.header.segment + 1)
        try:
            following = _Segment(segment_path(self.path, header.segment), header, self._now)
        except InputError as error:
            raise FileExistsError(errno.EEXIST, str(error)) from None
        try:
            self._segment.end(last=False)
        except OSError:
            following.container.discard()
            raise
        self.header, self._segment = header, following


class _Segment:
    """One file of the trace while it is written."""

    def __init__(
        self,
        path: Path,
        header: TraceHeader,
        now: Callable[[], float],
        marker: bytes | None = None,
    ) -> None:
        self.container = ContainerWriter(path, header_map(header), clock=now, marker=marker)
        self.trace_index = TraceIndex()
        self.began_at: float | None = None
        self._now = now

    def write(self, record: Mapping[str, Any], **place: int) -> None:
        self.trace_index.note(record, self.container.append(record, **place))
        if self.began_at is None:
            self.began_at = self._now()

    def age(self) -> float:
        """Seconds since the first record."""
        return 0.0 if self.began_at is None else self._now() - self.began_at

    def end(self, *, last: bool) -> None:
        totals = {**self.trace_index.totals, "continued": not last}
        self.container.close(totals, detail=self.trace_index.detail())
