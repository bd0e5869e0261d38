"""Reading a trace: find its segments, give its exchanges in arrival order."""

import glob
import heapq
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tbench.capture.container import Container, Losses, open_container
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange
from tbench.capture.ordering import Budgets, How, Segment, exchanges, open_segment
from tbench.capture.records import read_header

FORWARD = Budgets(cache=8 * 2**20)
"""Without answers hardly any block is read a second time."""
SUFFIX, PART = ".msgpack", ".part"


def segment_path(first: Path, number: int) -> Path:
    """The name of a segment: trace.msgpack, trace.0001.msgpack, trace.0002.msgpack, ..."""
    return first.with_name(f"{first.stem}.{number:04d}{first.suffix}") if number else first


class Trace:
    """One or more captures, read as one. Iterating gives exchanges by arrival, each time from the start.

    Times are those of the first capture; others are moved onto its clock by their wall-clock anchors.
    Memory stays bounded whatever the size. `losses` holds what opening showed, then what the latest
    iteration met on its way; `totals` sums the segments' counts (see docs/trace-format.md, index).
    """

    def __init__(self, captures: list[list[Segment]], missing: int) -> None:
        self._captures = sorted(
            captures, key=lambda capture: (capture[0].header.wall_ns, capture[0].header.capture_id)
        )
        self._missing = missing
        self.header = self._captures[0][0].header
        self.losses = self._known()

    @property
    def segments(self) -> list[Segment]:
        """All segments, capture by capture, in order."""
        return [segment for capture in self._captures for segment in capture]

    @property
    def files(self) -> list[Path]:
        """The files read."""
        return [segment.container.path for segment in self.segments]

    @property
    def totals(self) -> dict[str, int]:
        """Counts over all segments."""
        sums: dict[str, int] = defaultdict(int)
        for segment in self.segments:
            for name, count in segment.totals.items():
                sums[name] += count
        return dict(sums)

    def __iter__(self) -> Iterator[Exchange]:
        return self.read()

    def read(self, *, answers: bool = True) -> Iterator[Exchange]:
        """The exchanges by arrival. Without `answers` no response is read: each is None.

        That takes half the time, and what is lost of the responses is not noticed.
        """
        losses = self._known()
        try:
            streams = [self._moved(capture, losses, answers=answers) for capture in self._captures]
            yield from streams[0] if len(streams) == 1 else heapq.merge(*streams, key=_arrival)
        finally:
            self.losses = losses

    @property
    def requests(self) -> "Requests":
        """The exchanges without their responses, to be read any number of times."""
        return Requests(self)

    def _moved(
        self, capture: list[Segment], losses: Losses, *, answers: bool
    ) -> Iterator[Exchange]:
        shift_ns = capture[0].header.wall(0) - self.header.wall(0)
        budgets = Budgets() if answers else FORWARD
        return exchanges(capture, losses, How(shift_ns=shift_ns, answers=answers, budgets=budgets))

    def _known(self) -> Losses:
        losses = Losses(missing_segments=self._missing)
        for segment in self.segments:
            losses.add(segment.losses)
        return losses


@dataclass(frozen=True)
class Requests:
    """A trace's exchanges as far as they were asked for: every response is None, and none is read."""

    trace: Trace

    def __iter__(self) -> Iterator[Exchange]:
        return self.trace.read(answers=False)


def read_trace(path: str | Path) -> Trace:
    """Open a trace by its first segment, a folder or a glob; `.part` files of running captures too.

    Raises InputError when there is none, or what is there is no trace.
    """
    path = Path(path)
    several = path.is_dir() or (glob.has_magic(str(path)) and not path.exists())
    files = _files(path)
    opened = [_open(file, must=not several and file == files[0]) for file in files]
    containers = [container for container in opened if container is not None]
    if not containers:
        raise InputError(f"{path}: no traces (*{SUFFIX}) in this folder")
    return _joined(containers) if several else _continued(containers)


def _joined(containers: list[Container]) -> Trace:
    """All captures that these files are of."""
    captures: dict[str, dict[int, Segment]] = defaultdict(dict)
    for container in containers:
        header = read_header(container.header)
        captures[header.capture_id].setdefault(header.segment, open_segment(container, header))
    captured = [
        [by_number[number] for number in sorted(by_number)] for by_number in captures.values()
    ]
    return Trace(captured, sum(map(_missing, captured)))


def _continued(containers: list[Container]) -> Trace:
    """The capture of the first file; leftovers of another may stand beside it."""
    first = read_header(containers[0].header)
    headers = [read_header(container.header) for container in containers]
    segments = [
        container
        for container, header in zip(containers, headers, strict=True)
        if header.capture_id == first.capture_id
    ]
    return (
        _joined(segments) if first.segment == 0 else Trace([[open_segment(segments[0], first)]], 0)
    )


def _missing(capture: list[Segment]) -> int:
    """Segments that must exist and do not: before the first, between two, after one that goes on."""
    last = capture[-1]
    return last.header.segment + 1 - len(capture) + last.continued


def _open(file: Path, *, must: bool) -> Container | None:
    """A trace segment; for a file that is none InputError if it `must` be one, else None."""
    try:
        container = open_container(file)
    except InputError:
        if must:
            raise
        return None
    kind = container.header.get("kind", "trace")
    if kind == "trace":
        return container
    if must:
        raise InputError(f"{file}: this is a {kind}, not a trace; use 'tbench report {file}'")
    return None


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return _settled([*path.glob(f"*{SUFFIX}"), *path.glob(f"*{SUFFIX}{PART}")])
    if path.exists():
        return [path, *_siblings(path)]
    part = path.with_name(path.name + PART)
    if part.exists():
        return [part]
    if matches := list(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
        return _settled(matches)
    raise InputError(f"{path}: no such file, folder or matching glob")


def _siblings(first: Path) -> list[Path]:
    """The later segments of the trace that begins with this file."""
    base = first.with_suffix("") if first.suffix == PART else first
    number = re.compile(re.escape(base.stem) + r"\.\d{4,}" + re.escape(base.suffix) + f"({PART})?")
    names = os.listdir(base.parent)  # noqa: PTH208 (a folder of runs holds many, and few are wanted)
    return _settled([base.parent / name for name in names if number.fullmatch(name)])


def _settled(files: list[Path]) -> list[Path]:
    """In order of name; where both exist, the finished file and not its .part."""
    names = {file.name for file in files}
    return sorted(file for file in files if not (file.suffix == PART and file.stem in names))


def _arrival(exchange: Exchange) -> tuple[int, int]:
    return exchange.request.arrive_ns, exchange.request.seq
