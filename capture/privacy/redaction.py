"""Redaction: a trace copied without its content, one way. The key is drawn for the copy and kept nowhere."""

import hmac
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from secrets import token_bytes
from typing import Any, Final, Literal, get_args
from uuid import uuid4

from tbench.capture import frames
from tbench.capture.container_reader import Losses
from tbench.capture.copying import NOT_COPIED, TIMES, NewTrace
from tbench.capture.exchange import Exchange, Request, Response
from tbench.capture.importers import IMPORTERS
from tbench.capture.importers.importer import Trust
from tbench.capture.mixes import prompt_bytes
from tbench.capture.privacy.bodies import is_word
from tbench.capture.privacy.masks import Masks
from tbench.capture.privacy.traffic import WITHHELD, Traffic
from tbench.capture.records import (
    CLOCK,
    CONTENTLESS,
    GAP,
    STEPS,
    TraceHeader,
    header_map,
    record_of,
    response_record,
)
from tbench.capture.redact import Redactor, Secrets, safe_path, secrets_of
from tbench.capture.sanitize import Sanitizer
from tbench.capture.sessions import SESSION_HEADERS, Sessions
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import Trace, lineage

TOKENS_SOURCES: Final = {"server_usage"}
BESIDE: Final[Mapping[str, Mapping[str, Any]]] = {"gap": GAP, "clock": CLOCK}
"""Records that are of no exchange, and the fields of them that come through."""


Content = Literal["keep", "drop", "hash", "shape"]
PRIVACY: Final[Mapping[Content, str]] = {"keep": "redacted"}
"""What the header says, where that is another word."""
SESSION: Final = SESSION_HEADERS[0]
BLOCK_TOKENS: Final = 512
"""Of a hash id: Mooncake's, which importers take without being told."""
BYTES_PER_TOKEN: Final = 4
"""Where no server has counted."""


@dataclass(frozen=True, kw_only=True)
class Redacted:
    """A copy: its requests, what was taken out of it by kind, and what of its source could not be read."""

    requests: int
    removed: Mapping[str, int]
    lost: Losses


class Hashes:
    """Ids for the blocks of prompts, as Mooncake has them: equal where the block and all before it are equal.

    A block's name is an HMAC-SHA256 of it and of the name before it, under a key that is gone with this
    object; ids number the names as they come. Memory: some 150 bytes for each block.
    """

    def __init__(self, trace: Trace) -> None:
        sizes = tokens = 0
        for exchange in trace:
            facts = Facts(exchange)
            if facts.usage.prompt is not None and exchange.request.body:
                sizes += len(prompt_bytes(facts.parsed, exchange.request.body))
                tokens += facts.usage.prompt
        # A prompt that a server has by an id (`previous_response_id`) has tokens, and no bytes here.
        share = sizes / tokens if tokens else BYTES_PER_TOKEN
        self.block_bytes = max(1, round(BLOCK_TOKENS * share))
        self._key = token_bytes(32)
        self._ids: dict[bytes, int] = {}

    def ids(self, prompt: bytes) -> list[int]:
        """The ids of a prompt's blocks, of which the last one may be cut short."""
        name, ids = self._key, []
        for start in range(0, len(prompt), self.block_bytes):
            name = hmac.digest(name, prompt[start : start + self.block_bytes], "sha256")
            # Numbered as they come: an id tells nothing but which blocks are equal.
            ids.append(self._ids.setdefault(name[:16], len(self._ids)))
        return ids

    @property
    def described(self) -> dict[str, Any]:
        """What the header says of the ids."""
        return {
            "scheme": "HMAC-SHA256, chained, numbered",
            "block_tokens": BLOCK_TOKENS,
            "block_bytes": self.block_bytes,
        }


class _Redaction:
    """Takes the content out of exchanges, as they arrive; for one copy."""

    def __init__(
        self,
        content: Content,
        disguise: Traffic | None,
        hashes: Hashes | None,
        masks: Masks | None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._disguise = disguise
        self._hashes = hashes
        self._redactor = Redactor()
        self._sanitizer = Sanitizer(self._redactor, disguise=disguise or masks)
        # Without texts nobody would find the conversations again.
        self._sessions = Sessions() if content in CONTENTLESS else None

    def exchange(self, exchange: Exchange) -> Exchange:
        """The exchange without secrets, with stand-ins where there are to be any."""
        request, disguise = exchange.request, self._disguise
        secrets = secrets_of(request.headers, request.path)
        plain = replace(self._safe(request, secrets), path=safe_path(request.path, secrets))
        made = replace(self._sanitizer.request(plain, secrets), retry_of=request.retry_of)
        masked, before = (known.extra.get("body_masked", 0) for known in (made, request))
        self.counts["credentials"] += masked - before
        response = exchange.response
        if response is not None:
            safe = self._safe(response, secrets)
            response = self._sanitizer.response(request.id, safe, None, secrets)
        if self._sessions:
            made = self._placed(exchange, made, self._sessions)
        if disguise:
            retry_of = None if request.retry_of is None else disguise.id(request.retry_of)
            made = replace(made, id=disguise.id(request.id), retry_of=retry_of)
        return Exchange(request=made, response=response)

    def _safe[Record: Request | Response](self, record: Record, secrets: Secrets) -> Record:
        headers, withheld = self._redactor.headers(record.headers, secrets)
        self.counts["headers"] += withheld
        withheld += record.headers_withheld
        return replace(record, headers=headers, headers_withheld=withheld)

    def _placed(self, exchange: Exchange, made: Request, sessions: Sessions) -> Request:
        """The request with the name of its session and the ids of its prompt's blocks."""
        facts, response = Facts(exchange), exchange.response
        # With the response: what its tools began is of its session, and nobody will tell that of the copy.
        place = sessions.assign(
            exchange.request, parsed=facts.parsed, response=response, answer=exchange.answer
        )
        others = [pair for pair in made.headers if pair[0] not in SESSION_HEADERS]
        extra = dict(made.extra)
        if self._hashes and exchange.request.body:
            extra["hash_ids"] = self._hashes.ids(prompt_bytes(facts.parsed, exchange.request.body))
        return replace(made, headers=(*others, (SESSION, place.session)), extra=extra)


def redact(
    trace: Trace,
    path: Path,
    content: Content,
    disguise: Traffic | None,
    masks: Masks | None = None,
) -> Redacted:
    """Copy a trace (mode 0600; nothing is replaced) without secrets, and with as much content as is said.

    `disguise` puts stand-ins in the place of it; None keeps it, less what `masks` find. Records come in order
    of arrival, those of no exchange last. On an error no file is left. Raises InputError where there is one.
    """
    hashes = Hashes(trace) if content == "hash" else None
    redaction = _Redaction(content, disguise, hashes, masks)
    total, requests = trace.totals.get("requests", 0), 0
    step: dict[str, Any] = {"verb": f"trace redact --content {content}", "only": []}
    step |= {"requests": total, "of_requests": total}
    header = _header(trace.header, disguise, PRIVACY.get(content, content), step)
    if hashes:
        header = replace(header, extra={**header.extra, "hashes": hashes.described})
    with NewTrace(path, header_map(header)) as copy:
        for exchange in trace:
            made = redaction.exchange(exchange)
            _write(copy, record_of(made.request))
            if made.response is not None:
                _write(copy, response_record(made.request.id, made.response))
            requests += 1
        for record in _beside(trace):
            _write(copy, record)
        removed = redaction.counts + Counter(disguise.removed if disguise else {})
        removed += masks.counts if masks else Counter()
        copy.detail.update(lost=asdict(trace.losses), removed=dict(removed))
    return Redacted(requests=requests, removed=dict(removed), lost=trace.losses)


def _header(
    source: TraceHeader, disguise: Traffic | None, privacy: str, step: Mapping[str, Any]
) -> TraceHeader:
    """The copy's header; without names that its maker chose, where content is."""
    if disguise is None:
        known = {key: value for key, value in source.extra.items() if key not in NOT_COPIED}
        before = known.get(STEPS)
        of = sorted(lineage(source))
        steps = [*(before if isinstance(before, list) else ()), {**step, "of": of}]
        extra: dict[str, Any] = {**known, STEPS: steps}
        name = uuid4().hex
        return replace(source, capture_id=name, segment=0, privacy=privacy, extra=extra)
    return TraceHeader(
        wall_ns=source.wall_ns,
        mono_ns=source.mono_ns,
        upstream=None if source.upstream is None else disguise.address(source.upstream),
        sampling=source.sampling,
        privacy=privacy,
        tokens_source=source.tokens_source if source.tokens_source in TOKENS_SOURCES else None,
        extra={STEPS: [step], **_origin(source)},
    )


def _origin(source: TraceHeader) -> dict[str, Any]:
    """What the header says of where a trace came from, without names of files and words of its maker."""
    origin: dict[str, Any] = {}
    if isinstance(made := source.extra.get("import"), dict):
        trust = made.get("trust")
        trust = trust if isinstance(trust, dict) else {}
        origin["import"] = {
            "format": made["format"] if str(made.get("format")) in IMPORTERS else WITHHELD,
            "files": [],
            "left_out": {},
            "trust": {
                name: trust[name]
                for name in ("arrival", "end", "first_token")
                if trust.get(name) in get_args(Trust)
            },
            **{
                name: made[name]
                for name in ("rows", "exchanges", "tick_ns")
                if type(made.get(name)) is int
            },
            "spread": made.get("spread") is True,
        }
    if "synthesis" in source.extra:
        words = ("task", "scenario", "seed", "tokens")
        origin["synthesis"] = dict.fromkeys(words, WITHHELD)
    return origin


def _write(copy: NewTrace, record: dict[str, Any]) -> None:
    copy.record(frames.pack(record), record)


def _beside(trace: Trace) -> Iterator[dict[str, Any]]:
    """The gaps and clock readings of a trace, on its first capture's clock."""
    for shift_ns, segment in zip(trace.shifts, trace.segments, strict=True):
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
