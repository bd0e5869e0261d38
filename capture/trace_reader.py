"""Reading a trace: find its segments, give its exchanges in arrival order, in bounded memory."""

import glob
import heapq
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

from tbench.capture.arrival_order import (
    Answers,
    BlockCache,
    Budgets,
    ReadOptions,
    Segment,
    in_order,
    open_segment,
)
from tbench.capture.container_reader import Container, Losses, open_container
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange
from tbench.capture.records import STEPS, TraceHeader, read_header, read_request, read_response
from tbench.capture.remote import RemotePath, as_path, matching
from tbench.capture.terminal import named, plural

FORWARD = Budgets(cache=8 * 2**20)
"""Without answers hardly any block is read a second time."""
LOOKUP_BYTES = 16 * 2**20
"""Of blocks, for those who look records up: nearly in order, or so in each of some dozens of clones."""
TOGETHER, TOGETHER_BYTES = 16, 2**20
SUFFIX, PART = ".msgpack", ".part"
PROCESSES = 256
"""More than so many have never written one trace."""
TELL_EVERY = 256
Progress = Callable[[str, int, int], None]
"""Told how far it is: what is done, how much of it, of how much."""


def segment_path(first: Path, number: int) -> Path:
    """The name of a segment: trace.msgpack, trace.0001.msgpack, trace.0002.msgpack, ..."""
    return first.with_name(f"{first.stem}.{number:04d}{first.suffix}") if number else first


def process_path(first: Path, number: int) -> Path:
    """The first file of a process of a capture: trace.msgpack, trace.p1.msgpack, trace.p2.msgpack, ..."""
    return first.with_name(f"{first.stem}.p{number}{first.suffix}") if number else first


class Trace:
    """One or more captures, read as one. Iterating gives exchanges by arrival, each time from the start.

    Times are those of the first capture; others are moved onto its clock by their wall-clock anchors.
    Memory stays bounded whatever the size. `losses` holds what opening showed, then the most that an
    iteration met on its way; `totals` sums the segments' counts (see docs/trace-format.md, index).
    `progress` is told how many requests were read. An iteration raises InputError at an exchange that two
    captures hold, unless such are to be `merged`: then it gives both.
    """

    def __init__(
        self, captures: list[list[Segment]], missing: int, *, merged: bool = False
    ) -> None:
        self.captures = sorted(
            captures, key=lambda capture: (capture[0].header.wall_ns, capture[0].header.capture_id)
        )
        self.missing = missing
        self._merged = merged
        self.header = self.captures[0][0].header
        self.losses = self._known()
        self.progress: Progress | None = None

    @property
    def segments(self) -> list[Segment]:
        """All segments, capture by capture, in order."""
        return [segment for capture in self.captures for segment in capture]

    @property
    def files(self) -> list[Path]:
        """The files read."""
        return [segment.container.path for segment in self.segments]

    @property
    def lost(self) -> dict[str, int]:
        """What reading it found lost, and what its capture dropped: the counts that are not 0."""
        dropped = {name: self.totals.get(name, 0) for name in ("dropped_requests", "dropped_bytes")}
        return {name: n for name, n in {**asdict(self.losses), **dropped}.items() if n}

    @property
    def totals(self) -> dict[str, int]:
        """Counts over all segments."""
        sums: dict[str, int] = defaultdict(int)
        for segment in self.segments:
            for name, count in segment.totals.items():
                sums[name] += count
        return dict(sums)

    @property
    def arrivals(self) -> tuple[int, int]:
        """The first and the last arrival, ns, by the index; zeros for a trace without a request."""
        edges = [
            at + shift_ns
            for shift_ns, segment in zip(self.shifts, self.segments, strict=True)
            for ordinal in range(len(segment.rows))
            for at in segment.rows[ordinal][-2:]
            if at is not None
        ]
        return min(edges, default=0), max(edges, default=0)

    def __iter__(self) -> Iterator[Exchange]:
        return self.read()

    def read(self, *, answers: Answers = "whole") -> Iterator[Exchange]:
        """The exchanges by arrival.

        Of `answers` the `ends` take less time than the whole: they have `end_ns` and `led_back` alone, mostly
        by the index (and the body, where that may have begun other requests), and what is lost of them is not
        noticed. None are read fastest: each response is None.
        """
        for batch in batches(self.each(answers=answers)):
            yield from batch

    def each(self, *, answers: Answers = "whole") -> Iterator[Exchange]:
        """The same, made one by one."""
        losses = self._known()
        try:
            budgets = Budgets() if answers == "whole" else FORWARD
            streams, first, shifts = [], 0, self.shifts
            for capture in self.captures:
                how = ReadOptions(
                    shift_ns=shifts[first], answers=answers, budgets=budgets, first=first
                )
                streams.append(in_order(capture, losses, how))
                first += len(capture)
            exchanges: Iterator[Exchange] = (
                streams[0]
                if len(streams) == 1
                else heapq.merge(
                    *streams,
                    key=lambda exchange: (exchange.request.arrive_ns, exchange.request.seq),
                )
            )
            if len(streams) > 1 and not self._merged:
                exchanges = unrepeated(exchanges, self._refuse)
            if self.progress:
                exchanges = _told(exchanges, self.progress, self.totals.get("requests", 0))
            yield from exchanges
        finally:
            # Also of an iteration that was left in its middle, which has met less: the most of all counts.
            self.losses.cover(losses)

    def check_apart(self) -> None:
        """Raise InputError where two captures hold one exchange; read only if their times overlap."""
        spans: dict[str, list[int]] = defaultdict(list)
        for shift_ns, segment in zip(self.shifts, self.segments, strict=True):
            spans[segment.header.capture_id] += (
                at + shift_ns
                for ordinal in range(len(segment.rows))
                for at in segment.rows[ordinal][-2:]
                if at is not None
            )
        edges = sorted((min(span), max(span)) for span in spans.values() if span)
        if any(earlier[1] >= later[0] for earlier, later in pairwise(edges)):
            for _ in self.requests:
                pass

    def _refuse(self, first: Exchange, again: Exchange) -> None:
        segments = self.segments
        path, other = (segments[each.places[0][0]].container.path for each in (first, again))
        raise _repeated(path, other, f"both hold the request {named(again.request.id)}")

    @property
    def shifts(self) -> list[int]:
        """What the times of each of `segments` are moved by, ns, onto the first capture's clock."""
        first = self.header.wall(0)
        return [capture[0].header.wall(0) - first for capture in self.captures for _ in capture]

    @property
    def requests(self) -> "Reading":
        """The exchanges without their responses, to be read any number of times."""
        return Reading(self, "none")

    @property
    def ends(self) -> "Reading":
        """The exchanges, of whose responses there are only the ends, to be read any number of times."""
        return Reading(self, "ends")

    @property
    def identity(self) -> list[tuple[str, int]]:
        """What two openings of the same files have in common: of each its (random) marker and its size."""
        containers = [segment.container for segment in self.segments]
        return [(container.marker.hex(), container.size) for container in containers]

    def _known(self) -> Losses:
        losses = Losses(missing_segments=self.missing)
        for segment in self.segments:
            losses.add(segment.losses)
        return losses


@dataclass(frozen=True)
class Reading:
    """A trace's exchanges with as much of their responses as `answers` says, read anew each time."""

    trace: Trace
    answers: Answers

    def __iter__(self) -> Iterator[Exchange]:
        return self.trace.read(answers=self.answers)


class Lookup:
    """The exchanges of a trace by their `places`, in any order; those of blocks just read cost little."""

    def __init__(self, trace: Trace) -> None:
        segments = trace.segments
        self._blocks = BlockCache(segments, Losses(), LOOKUP_BYTES)
        self._shifts = trace.shifts

    def exchange(self, places: Sequence[tuple[int, int, int]]) -> Exchange | None:
        """The exchange whose request lies at the first place, its response at the second if there are two.

        None where there is no such request. A response that cannot be read is None, as everywhere.
        """
        records = []
        for segment, ordinal, number in places:
            block = self._blocks.block(segment, ordinal)
            records.append(block.record(number) if block else {})
        shifts = [self._shifts[segment] for segment, _, _ in places]
        request = read_request(records[0], shifts[0]) if _is("request", records[0]) else None
        if request is None:
            return None
        response = None
        if len(records) > 1 and _is("response", records[1]):
            response = read_response(records[1], shifts[1])
        return Exchange(request=request, response=response, places=tuple(places))


def _is(kind: str, record: Mapping[str, Any]) -> bool:
    return record.get("type") == kind


def batches[Item](items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items by sixteen, or by the megabyte of their `weight`.

    So a step is done for all of them before the next step begins, whose code would push this one's out of the
    processor's caches: one by one through reading, planning and building, a request takes half as long again.
    """
    weight = attrgetter("weight")
    batch: list[Item] = []
    room = TOGETHER_BYTES
    for item in items:
        batch.append(item)
        room -= weight(item)
        if len(batch) == TOGETHER or room <= 0:
            yield batch
            batch, room = [], TOGETHER_BYTES
    yield batch


def read_trace(path: str | Path) -> Trace:
    """Open a trace by its first segment, a folder or a glob; `.part` files of running captures too.

    Raises InputError when there is none, or what is there is no trace; UnreachableError where a store does
    not give one of its files.
    """
    path = as_path(path)
    several = path.is_dir() or (glob.has_magic(str(path)) and not path.exists())
    files = _files(path)
    containers: list[Container] = []
    runs = 0
    for file in files:
        required = not several and file == files[0]  # beside it, what is no trace is passed over
        try:
            container = open_container(file)
        except InputError:
            if required:
                raise
            continue
        kind = container.header.get("kind", "trace")
        if kind == "trace":
            containers.append(container)
        elif required:
            raise InputError(f"{file}: this is a {kind}, not a trace; use 'tbench report {file}'")
        elif kind == "run":
            runs += 1
    if not containers:
        raise InputError(_no_trace(path, len(files), runs))
    if several:
        return _joined(containers)
    # The capture of the first file: leftovers of another may stand beside it.
    first = read_header(containers[0].header)
    # Who names a later segment, or another process's file, means that one.
    if first.segment != 0 or _process(first)[0] != 0:
        return Trace([[open_segment(containers[0], first)]], 0)
    return _joined(
        [
            container
            for container in containers
            if read_header(container.header).capture_id == first.capture_id
        ]
    )


def _no_trace(path: Path, files: int, runs: int) -> str:
    """Why nothing of a folder or a pattern's files can be read."""
    what = f"no trace among the {plural(files, 'file')} of that name"
    if path.is_dir():
        what, runs = f"no traces (*{SUFFIX}) in this folder", len(list(path.glob("*.run")))
    if not runs:
        return f"{path}: {what}"
    return (
        f"{path}: {what}, but {plural(runs, 'run')}: 'tbench report RUN' shows one, "
        "'tbench compare A B --margin 5%' takes a folder or a pattern for each arm"
    )


def _told(items: Iterator[Exchange], progress: Progress, total: int) -> Iterator[Exchange]:
    """The same items; `progress` is told how many there were, now and then."""
    for number, item in enumerate(items):
        if number % TELL_EVERY == 0:
            progress("reading", number, total)
        yield item


def joined(traces: Sequence[Trace]) -> Trace:
    """Several traces to be merged; a capture of which one holds more files than another stays apart."""
    captures = [capture for trace in traces for capture in trace.captures]
    return Trace(captures, sum(trace.missing for trace in traces), merged=True)


def unrepeated(
    exchanges: Iterable[Exchange], repeated: Callable[[Exchange, Exchange], None]
) -> Iterator[Exchange]:
    """Each exchange once, that stands in two traces: it has one id and one arrival. Tells of the others."""
    instant, first = None, dict[str, Exchange]()
    for exchange in exchanges:
        request = exchange.request
        if request.arrive_ns != instant:
            instant, first = request.arrive_ns, {}
        if request.id in first:
            repeated(first[request.id], exchange)
        else:
            first[request.id] = exchange
            yield exchange


def lineage(header: TraceHeader) -> set[str]:
    """The ids of a capture and of those that it was copied from."""
    steps = header.extra.get(STEPS)
    sources = [
        step.get("of")
        for step in (steps if isinstance(steps, list) else ())
        if isinstance(step, dict)
    ]
    return {
        header.capture_id,
        *(name for of in sources if isinstance(of, list) for name in of if isinstance(name, str)),
    }


def _repeated(path: Path, other: Path, why: str) -> InputError:
    return InputError(
        f"{path} and {other}: {why}; give one, or 'tbench trace merge {path} {other} -o FILE': "
        "it takes each request once"
    )


def _joined(containers: list[Container]) -> Trace:
    """All captures that these files are of."""
    captures: dict[tuple[str, int], dict[int, Segment]] = defaultdict(dict)
    processes: dict[str, int] = defaultdict(int)
    for container in containers:
        header = read_header(container.header)
        process, of = _process(header)
        processes[header.capture_id] = max(processes[header.capture_id], of)
        by_number = captures[header.capture_id, process]
        if header.segment in by_number:
            raise InputError(
                f"{by_number[header.segment].container.path} and {container.path}: both hold segment "
                f"{header.segment} of one capture, as a copy does; give one, or move one away"
            )
        by_number[header.segment] = open_segment(container, header)
    captured = [
        [by_number[number] for number in sorted(by_number)] for by_number in captures.values()
    ]
    files = {segments[0].header.capture_id: segments[0] for segments in captured}
    for copy in files.values():
        for name in sorted(lineage(copy.header) & files.keys() - {copy.header.capture_id}):
            path, other = files[name].container.path, copy.container.path
            raise _repeated(path, other, "the second is a copy of requests of the first")
    # A process of which there is no file at all has lost one, at least. Of the others those segments are
    # missing that must exist: before the first, between two, after one that goes on.
    missing = sum(processes.values()) - len(captured)
    for capture in captured:
        missing += capture[-1].header.segment + 1 - len(capture) + capture[-1].continued
    return Trace(captured, missing)


def _process(header: TraceHeader) -> tuple[int, int]:
    """Which process of a capture wrote this, and of how many."""
    process, processes = header.extra.get("process"), header.extra.get("processes")
    if (
        isinstance(process, int)
        and isinstance(processes, int)
        and 0 <= process < processes <= PROCESSES
    ):
        return process, processes
    return 0, 1


def _files(path: Path) -> list[Path]:
    """The files of a folder or a glob; a file with the later segments of its trace."""
    if path.is_dir():
        return _settled([*path.glob(f"*{SUFFIX}"), *path.glob(f"*{SUFFIX}{PART}")])
    if path.exists():
        base = path.with_suffix("") if path.suffix == PART else path
        number = rf"{re.escape(base.stem)}(\.p\d+)?(\.\d{{4,}})?{re.escape(base.suffix)}({PART})?"
        folder = base.parent  # one of runs holds many, of which few are wanted: no Path of each
        names = folder.names() if isinstance(folder, RemotePath) else os.listdir(folder)  # noqa: PTH208
        others = {folder / name for name in names if re.fullmatch(number, name)}
        return [path, *_settled([*(others - {base, base.with_name(base.name + PART)})])]
    part = path.with_name(path.name + PART)
    if part.exists():
        return _files(part)
    if matches := matching(path):
        return _settled(matches)
    raise InputError(f"{path}: no such file, folder or matching glob")


def _settled(files: list[Path]) -> list[Path]:
    """In order of name; where both exist, the finished file and not its .part."""
    names = {file.name for file in files}
    return sorted(file for file in files if not (file.suffix == PART and file.stem in names))
