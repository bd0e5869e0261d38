"""Redaction: a trace copied without its content, one way. The key is drawn for the copy and kept nowhere."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from tbench.capture import frames
from tbench.capture.container_reader import Losses
from tbench.capture.copying import STEPS, TIMES, NewTrace
from tbench.capture.importers import IMPORTERS
from tbench.capture.privacy.bodies import is_word
from tbench.capture.privacy.traffic import WITHHELD, Traffic
from tbench.capture.records import (
    CLOCK,
    GAP,
    TraceHeader,
    header_map,
    request_record,
    response_record,
)
from tbench.capture.trace_reader import Trace

TOKENS_SOURCES: Final = {"server_usage"}
BESIDE: Final[Mapping[str, Mapping[str, Any]]] = {"gap": GAP, "clock": CLOCK}
"""Records that are of no exchange, and the fields of them that come through."""


@dataclass(frozen=True, kw_only=True)
class Redacted:
    """A copy: its requests, what was taken out of it by kind, and what of its source could not be read."""

    requests: int
    removed: Mapping[str, int]
    lost: Losses


def redact(trace: Trace, path: Path, traffic: Traffic, privacy: str) -> Redacted:
    """Copy a trace (mode 0600; nothing is replaced) with stand-ins. On an error no file is left.

    Records come in order of arrival, those of no exchange last. Raises InputError where the file exists.
    """
    source = trace.header
    total = trace.totals.get("requests", 0)
    step = {"verb": "trace redact", "only": [], "requests": total, "of_requests": total}
    header = TraceHeader(
        wall_ns=source.wall_ns,
        mono_ns=source.mono_ns,
        upstream=None if source.upstream is None else traffic.address(source.upstream),
        sampling=source.sampling,
        privacy=privacy,
        tokens_source=source.tokens_source if source.tokens_source in TOKENS_SOURCES else None,
        extra={STEPS: [{**step, "privacy": privacy}]} | _origin(source),
    )
    requests = 0
    with NewTrace(path, header_map(header)) as copy:
        for exchange in trace:
            request = traffic.request(exchange.request)
            name = traffic.id(request.id)
            retry_of = None if request.retry_of is None else traffic.id(request.retry_of)
            _write(copy, request_record(replace(request, id=name, retry_of=retry_of)))
            if exchange.response is not None:
                _write(copy, response_record(name, traffic.response(exchange.response)))
            requests += 1
        for record in _beside(trace):
            _write(copy, record)
        removed = traffic.removed
        copy.detail.update(lost=asdict(trace.losses), removed=removed)
    return Redacted(requests=requests, removed=removed, lost=trace.losses)


def _origin(source: TraceHeader) -> dict[str, Any]:
    """What the header says of where a trace came from, without names of files and words of its maker."""
    origin: dict[str, Any] = {}
    if isinstance(made := source.extra.get("import"), dict):
        trust = made.get("trust")
        trust = trust if isinstance(trust, dict) else {}
        origin["import"] = {
            "format": made["format"] if made.get("format") in IMPORTERS else WITHHELD,
            "files": [],
            "left_out": {},
            "trust": {name: word for name, word in trust.items() if is_word(f"{name} {word}")},
            **{
                name: made[name]
                for name in ("rows", "exchanges", "tick_ns")
                if type(made.get(name)) is int
            },
        }
    if "synthesis" in source.extra:
        words = ("task", "scenario", "seed", "tokens")
        origin["synthesis"] = dict.fromkeys(words, WITHHELD)
    return origin


def _write(copy: NewTrace, record: dict[str, Any]) -> None:
    copy.record(frames.pack(record), record)


def _beside(trace: Trace) -> Iterator[dict[str, Any]]:
    """The gaps and clock readings of a trace, on its first capture's clock."""
    for number, segment in enumerate(trace.segments):
        shift_ns = trace.shift_ns(number)
        for frame in segment.container.walk():
            if frame.code != frames.BLOCK:
                continue
            for record in segment.container.unpack(frame.raw):
                kind = str(record.get("type"))
                known = {
                    name: record.get(name) for name in BESIDE.get(kind, ()) if name != "reason"
                }
                times = {name: count for name, count in known.items() if type(count) is int}
                if not known or len(times) < len(known):
                    continue
                moved = {name: times[name] + shift_ns for name in TIMES[kind]}
                reason = str(record.get("reason"))
                why = {"reason": reason if is_word(reason) else WITHHELD} if kind == "gap" else {}
                yield {"type": kind, **times, **moved, **why}
