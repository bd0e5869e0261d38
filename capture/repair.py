"""Is a trace sound, and if not: save what is left of it.

`check` reads every byte and compares the index with what the blocks really hold. `repair` copies every
sound block verbatim into one new file with a new index.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tbench.capture.arrival_order import Segment, TraceIndex
from tbench.capture.container_reader import Container, Losses
from tbench.capture.copying import OURS, NewTrace
from tbench.capture.errors import InputError
from tbench.capture.frames import BLOCK, Row, Rows
from tbench.capture.records import TraceHeader, header_map
from tbench.capture.terminal import plural
from tbench.capture.trace_reader import read_trace

DROPPABLE = (
    ("dropped_requests", "request", "requests"),
    ("dropped_responses", "response", "responses"),
    ("dropped_bytes", "byte of bodies", "bytes of bodies"),
)
DROPPED, UNSOUND = "dropped by the capture", "not what the format promises"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is wrong with a trace (`problems`), and what is worth knowing (`notes`): lines of text."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(path: str | Path) -> Findings:
    """Read all of a trace, twice; raises InputError when it is none."""
    trace = read_trace(path)
    findings = Findings()
    for segment in trace.segments:
        _check_segment(segment, findings)
    for _ in trace:
        pass
    losses, totals = trace.losses, trace.totals
    repaired = any("repaired" in (segment.container.index or {}) for segment in trace.segments)
    problems, notes = findings.problems, findings.notes
    for lines, count, single, many in (
        (problems, losses.missing_segments, "segment is missing", "segments are missing"),
        (problems, losses.bad_records, f"record is {UNSOUND}", f"records are {UNSOUND}"),
        *(
            (problems, totals.get(name, 0), f"{single} was {DROPPED}", f"{many} were {DROPPED}")
            for name, single, many in DROPPABLE
        ),
        (
            notes if repaired else problems,
            losses.orphan_responses,
            "response has lost its request",
            "responses have lost their request",
        ),
        (
            notes,
            totals.get("unanswered", 0),
            "request has no response in its file",
            "requests have no response in their file",
        ),
    ):
        if count:
            lines.append(plural(count, single, many))
    return findings


def repair(source: str | Path, out: Path) -> Losses:
    """Copy what is sound of one capture, all its segments, into the new file `out`.

    Records and frames that this version does not know are copied too. Returns what was lost; raises
    InputError when `source` is no trace or holds several captures, or `out` exists, and OSError when the
    disk takes no more. Then no file is left.
    """
    trace = read_trace(source)
    if len({segment.header.capture_id for segment in trace.segments}) > 1:
        raise InputError(f"{source}: several captures; repair them one at a time, by first segment")
    containers = [segment.container for segment in trace.segments]
    lost = Losses(missing_segments=trace.losses.missing_segments)
    with NewTrace(out, _header(containers)) as copy:
        for container in containers:
            for frame in container.walk():
                if frame.code == BLOCK:
                    copy.block(frame.raw, container.unpack(frame.raw))
                elif frame.code not in OURS:
                    copy.frame(frame)
            lost.add(container.losses)
        copy.detail["repaired"] = asdict(lost)
    return lost


def _header(containers: list[Container]) -> dict[str, Any]:
    """The first header that is left, as segment 0; without any, its times from a clock record."""
    header = next((container.header for container in containers if container.header), None)
    if header is None:
        readings = (
            (record["mono_ns"], record["wall_ns"])
            for container in containers
            for record in container.records()
            if record.get("type") == "clock"
            and isinstance(record.get("mono_ns"), int)
            and isinstance(record.get("wall_ns"), int)
        )
        mono_ns, wall_ns = next(readings, (0, 0))
        header = header_map(
            TraceHeader(mono_ns=mono_ns, wall_ns=wall_ns, writer="tbench trace repair")
        )
    return dict(header)


def _check_segment(segment: Segment, findings: Findings) -> None:
    container = segment.container
    trace_index = TraceIndex()
    rows = Rows()
    unknown = 0
    for frame in container.walk():
        unknown += frame.code not in OURS
        if frame.code == BLOCK:
            contents = trace_index.survey(len(rows), container.unpack(frame.raw))
            rows.append(Row(frame.offset, frame.length, len(frame.raw), *contents))
    losses = container.losses
    skipped = f"{plural(losses.skipped_bytes, 'byte')} skipped"
    single, many = "record is no msgpack map, or empty", "records are no msgpack maps, or empty"
    counts = {
        f"{plural(losses.damaged_blocks, 'damaged block')}, {skipped}": losses.damaged_blocks,
        f"not closed: killed, cut short or still being written; {skipped}": losses.truncated_tail,
        "the header is damaged": losses.damaged_header,
        "the index is damaged": losses.damaged_index,
        plural(losses.bad_records, single, many): losses.bad_records,
    }
    damage = [line for line, count in counts.items() if count]
    if not damage and container.index is not None:
        damage += _index_faults(container, rows, trace_index)
    findings.problems.extend(f"{container.path.name}: {line}" for line in damage)
    if unknown:
        findings.notes.append(
            f"{container.path.name}: {plural(unknown, 'frame')} of a newer format, skipped"
        )


def _index_faults(container: Container, rows: Rows, trace_index: TraceIndex) -> Iterator[str]:
    """Where an index that is whole does not fit the blocks."""
    index = container.index or {}
    totals = index.get("totals") or {}
    if container.rows != rows:
        yield "the index does not list the blocks that are there"
    if index.get("links") not in (None, trace_index.links):  # of any type, in a foreign file
        yield "the index links requests and responses wrongly"
    if index.get("ends") not in (None, trace_index.ends):
        yield "the index tells wrongly when responses ended"
    if not isinstance(totals, dict):
        yield "the totals of the index are no map"
        return
    wrong = [name for name, count in trace_index.totals.items() if totals.get(name, count) != count]
    if wrong:
        yield f"the index miscounts {', '.join(wrong)}"
