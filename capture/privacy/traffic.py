"""Requests and responses with stand-ins: what of a record is kept, and the bodies, whole or as they streamed.

Times, outcomes and counts stay. A streamed text is made up as a whole and dealt evenly to the events that
brought it: what each of them weighed would tell the lengths of its words.
"""

import json
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, groupby, pairwise
from typing import Any, Final

from tbench.capture.decode import decoder
from tbench.capture.errors import InputError
from tbench.capture.exchange import LED_BACK, Chunk, Headers, Request, Response
from tbench.capture.intake import API_HOSTS
from tbench.capture.jsontext import BOM, loads, rewritten
from tbench.capture.privacy.bodies import Bodies, Kind, is_word
from tbench.capture.privacy.standins import Blanks, StandIns
from tbench.capture.providers import CREDENTIAL_HEADERS, PROVIDERS, is_stream, parse_request
from tbench.capture.redact import PSEUDONYM_HEADERS
from tbench.capture.synthesis.tokens import Counted

_MEDIA: Final = (
    r"\*/\*|application/(?:x-)?(?:nd)?json|text/(?:event-stream|plain|html)|multipart/form-data"
)
_FEATURE: Final = (
    r"1m|128k|advanced|api|assistants|batch|batches|caching|clear|code|compact|computer"
    r"|container|context|counting|editing|effort|execution|extended|fast|fetch|files|fine"
    r"|formats|grained|interleaved|long|management|max|mcp|client|memory|message|messages|mode"
    r"|model|on|output|outputs|pdfs|prompt|realtime|responses|results|search|skills|streaming"
    r"|structured|task|budgets|thinking|token|tokens|tool|tools|efficient|exceeded|ttl|use|web"
    r"|window"
)
_BETA: Final = (
    rf"(?:(?:{_FEATURE})(?:-(?:{_FEATURE})){{0,5}}-20\d\d-[01]\d-[0-3]\d|(?:{_FEATURE})=v\d)"
)
"""A feature that is not for everybody yet, and its date."""
_AMOUNT: Final = r"\d{1,11}(?:\.\d{1,6})?|(?:\d{1,6}(?:\.\d{1,6})?(?:ms|us|[hms])){1,4}|true|false"
_TIME: Final = r"20\d\d-[01]\d-[0-3]\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"
HEADERS: Final = {
    name: re.compile(pattern)
    for names, pattern in (
        ("accept content-type", _MEDIA),
        ("accept-encoding", r"(?:gzip|deflate|br|zstd|identity|\*|[, ])+"),
        ("anthropic-version", r"\d{4}-\d\d-\d\d"),
        ("anthropic-beta openai-beta", rf"{_BETA}(?:, ?{_BETA})*"),
        ("retry-after retry-after-ms x-should-retry x-stainless-retry-count", _AMOUNT),
    )
    for name in names.split()
}
"""Headers that come through, with the values that do."""
LIMITS: Final = re.compile(
    r"(?:anthropic-ratelimit|x-ratelimit|x-tokenlimit)"
    r"(?:-(?:limit|remaining|reset|requests|tokens|input|output|dynamic|over|day|hour|minute|second)){1,4}"
)
"""Names of headers with amounts."""
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
EXTRA: Final = frozenset(
    {
        *("wall_ns", "credential_header", "known_times", "unsupported", "body_masked", LED_BACK),
        *("prompt_tokens", "output_tokens"),
    }
)
"""Further fields of records that come through."""
WITHHELD: Final = "withheld"

_PREFIX: Final = re.compile(r"(?:/(?:v\d{1,2}|api|openai|inference|serverless))*")
_QUERY: Final = re.compile(r"beta=true|api-version=\d{4}-\d\d-\d\d(?:-preview)?")
_HOST: Final = re.compile(
    rf"(?:{'|'.join(host for host in API_HOSTS if '*' not in host)})(?::\d{{1,5}})?"
)
"""Not those whose names have a customer's in them, as Azure's."""
_WAIT: Final = re.compile(rb"\d{1,9}")
"""Milliseconds until a client asks again."""
_FIELD: Final = re.compile(rb"(data|event|id|retry):( ?)(.*)", re.DOTALL)


class _Piece:
    """A text on its way through a stream: what came, and what is put in its place.

    No dataclass, which orjson would write by itself, with what came.
    """

    __slots__ = ("made_up", "original")

    def __init__(self, original: str) -> None:
        self.original = original
        self.made_up = ""


class Traffic:
    """Makes up the content of records, one after the other; for one thread.

    `counts` says how many of what: bodies that are no JSON and are not kept, and headers.
    """

    def __init__(self, bodies: Bodies) -> None:
        self.bodies = bodies
        self.counts: dict[str, int] = defaultdict(int)
        self._made_up = bodies.stand_ins

    def request(self, request: Request) -> Request:
        """The request with stand-ins. A body that is no JSON is not kept."""
        encoding = request.header("content-encoding")
        parsed = parse_request(request.method, request.path, request.body, encoding)
        body, extra = None, self._extra(request.extra)
        if parsed.payload is not None:
            with suppress(ValueError):  # nested too deeply
                body = rewritten(self.bodies.made_up(parsed.payload))
        if request.body and body is None:
            self.counts["bodies"] += 1
            extra["body_withheld"] = "privacy"
        headers, withheld = self._headers(request.headers)
        return replace(
            request,
            method=request.method if request.method in METHODS else "OTHER",
            scheme=request.scheme if request.scheme in {"http", "https"} else "https",
            host=self.host(request.host),
            path=self._path(request.method, request.path),
            http_version=_version(request.http_version),
            headers=headers,
            headers_withheld=request.headers_withheld + withheld,
            body=body,
            body_bytes=request.body_bytes if body is None else len(body),
            client=None if request.client is None else self._made_up.ident(request.client),
            extra=extra,
        )

    def response(self, response: Response) -> Response:
        """The response with stand-ins. Its times are as they were, the sizes of its chunks as they become."""
        headers, withheld = self._headers(response.headers)
        extra = self._extra(response.extra)
        body, chunks = response.body, response.chunks
        if body:
            made_up = self._body(response)
            if made_up is None:
                self.counts["bodies"] += 1
                extra["body_withheld"] = "privacy"
            body, chunks = made_up or (None, chunks)
        return replace(
            response,
            http_version=_version(response.http_version),
            headers=headers,
            headers_withheld=response.headers_withheld + withheld,
            body=body,
            body_bytes=response.body_bytes if body is None else len(body),
            chunks=chunks,
            error=None if response.error is None else WITHHELD,
            extra=extra,
        )

    @property
    def removed(self) -> dict[str, int]:
        """What was made up, and what was left out, how many of each."""
        counts = {**self._made_up.counts, "members": self.bodies.left_out, **self.counts}
        return {kind: count for kind, count in counts.items() if count}

    def id(self, name: str) -> str:
        """The name of a record, which may be its maker's."""
        return self._made_up.ident(name)

    def address(self, url: str) -> str:
        """Where traffic goes, by a host that anybody may know or by none."""
        scheme, _, rest = url.rpartition("://")
        host, _, path = rest.partition("/")
        prefix = "/" + path if path and _PREFIX.fullmatch("/" + path) else ""
        return f"{'http' if scheme == 'http' else 'https'}://{self.host(host)}{prefix}"

    def host(self, host: str) -> str:
        """A host that anybody may know, such as an API's; another that stands for any other."""
        if _HOST.fullmatch(host):
            return host
        return f"{self._made_up.ident(host)[:12].ljust(12, '0')}.invalid"

    def _extra(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in extra.items()
            if name in EXTRA
            and (isinstance(value, int) or value in CREDENTIAL_HEADERS or is_word(str(value)))
        }

    def _headers(self, headers: Headers) -> tuple[Headers, int]:
        passed: list[tuple[str, str]] = []
        for name, value in headers:
            if name in PSEUDONYM_HEADERS:
                passed.append((name, self._made_up.ident(value)))
                continue
            pattern = HEADERS.get(name)
            if name in {"accept", "content-type"}:
                value = value.partition(";")[0].strip()  # noqa: PLW2901 (a boundary, a charset)
            if LIMITS.fullmatch(name):
                pattern = _AMOUNTS
            if pattern and pattern.fullmatch(value):
                passed.append((name, value))
        self.counts["headers"] += len(headers) - len(passed)
        return tuple(passed), len(headers) - len(passed)

    def _path(self, method: str, path: str) -> str:
        """The end of the path that names an endpoint, behind a prefix that anybody may know."""
        route, _, query = path.partition("?")
        route = route.rstrip("/")
        ends = (
            end
            for provider in PROVIDERS.values()
            for verb, end in provider.endpoints
            if verb == method.upper() and route.endswith(end)
        )
        end = max(ends, key=len, default="")
        if not end:
            return f"/{WITHHELD}"
        prefix = route.removesuffix(end)
        if not _PREFIX.fullmatch(prefix):
            prefix = "" if end.startswith("/v1/") else "/v1"
        pairs = "&".join(pair for pair in query.split("&") if _QUERY.fullmatch(pair))
        return prefix + end + ("?" + pairs if pairs else "")

    def _body(self, response: Response) -> tuple[bytes, tuple[Chunk, ...]] | None:
        """A body with stand-ins and the chunks that it came in; None of one that is not understood."""
        body, chunks = response.body or b"", response.chunks
        if coding := response.header("content-encoding"):
            try:
                step, pieces, start = decoder(coding), list[bytes](), 0
                for size in [chunk.size for chunk in chunks] or [len(body)]:
                    pieces.append(step(body[start : start + size]))
                    start += size
            except InputError:
                return None
            body = b"".join(pieces)
            chunks = tuple(
                Chunk(chunk.at_ns, len(piece)) for chunk, piece in zip(chunks, pieces, strict=False)
            )
        if is_stream([(0.0, body)], response.header("content-type") or ""):
            lines = list(self._stream(body))
        else:
            try:
                payload = _payload(body)
                made_up = self.bodies.made_up(payload)
            except ValueError:
                return None
            if not isinstance(payload, dict | list):
                return None
            lines = [(len(body), rewritten(made_up))]
        return b"".join(line for _, line in lines), _moved(chunks, lines)

    def _stream(self, body: bytes) -> Iterator[tuple[int, bytes]]:
        """For each line of an event stream how long it was, and what it becomes."""
        slots: dict[tuple[object, ...], list[_Piece]] = defaultdict(list)
        lines: list[tuple[int, bytes, Any, bytes]] = []
        for size, text, end in _lines(body):
            head, value = self._line(text, slots)
            lines.append((size, head, value, end))
        for (kind, *_), pieces in slots.items():
            assert isinstance(kind, Kind)
            self._deal(kind, pieces)
        for size, head, value, end in lines:
            data = b"" if value is None else rewritten(value, default=lambda piece: piece.made_up)
            yield size, head + data + end

    def _line(
        self, line: bytes, slots: Mapping[tuple[object, ...], list[_Piece]]
    ) -> tuple[bytes, Any]:
        """A line of a stream: what it begins with, and a payload in which texts are still pieces."""
        known = _FIELD.fullmatch(line)
        if known is None:
            return (b":" if line else b""), None
        name, space, value = known[1], known[2], known[3]
        head = name + b":" + space
        text = value.decode("utf-8", "replace")
        if name == b"retry":
            return head + (value if _WAIT.fullmatch(value) else b"0"), None
        if name == b"event":
            return head + (text if is_word(text) else self._made_up.name(text)).encode(), None
        if name == b"id":
            return head + self._made_up.ident(text).encode(), None
        if value.strip() in (b"[DONE]", b"null"):
            return head + value, None

        def leaf(kind: Kind, original: str, place: tuple[object, ...]) -> Any:  # noqa: ANN401 (a piece)
            piece = _Piece(original)
            slots[kind, kind_of_event, *place].append(piece)
            return piece

        try:
            payload = _payload(value)
            kind_of_event = str(payload.get("type")) if isinstance(payload, dict) else None
            return head, self.bodies.made_up(payload, leaf)
        except ValueError:
            return head + self._made_up.text(text).encode(), None

    def _deal(self, kind: Kind, pieces: Sequence[_Piece]) -> None:
        """Make up what the pieces say together, and give each that said something as much of it."""
        speaking = [piece for piece in pieces if piece.original]
        if not speaking:
            return
        original = "".join(piece.original for piece in speaking)
        text = self.bodies.leaf(kind, original)
        text = text.ljust(len(speaking))  # JSON may come out shorter than in many pieces
        edges = [len(text) * place // len(speaking) for place in range(len(speaking) + 1)]
        for piece, (start, end) in zip(speaking, pairwise(edges), strict=True):
            piece.made_up = text[start:end]


def shape(
    key: bytes | None = None,
    tokens: Counted | None = None,
    models: Mapping[str, str] | None = None,
) -> Traffic:
    """Stand-ins of the same shape, under a new key; `tokens` and `models`: see StandIns and Bodies."""
    return Traffic(Bodies(StandIns(key, tokens), models))


def blanks(models: Mapping[str, str] | None = None) -> Traffic:
    """No content at all: an asterisk for each text."""
    return Traffic(Bodies(Blanks(), models))


_AMOUNTS: Final = re.compile(f"{_AMOUNT}|{_TIME}")


def _version(version: str) -> str:
    return version if re.fullmatch(r"HTTP/\d(?:\.\d)?", version) else "HTTP/1.1"


def _payload(data: bytes) -> Any:  # noqa: ANN401 (any JSON)
    """JSON as lenient as whoever reads an answer: half a character, cut off with its event, is no fault."""
    with suppress(ValueError):
        return loads(data)
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _lines(body: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The lines of an event stream: how long each is, what it says, and its end.

    Data over several lines are one event's, and become one line.
    """
    lines = body.splitlines(keepends=True)
    for is_data, run in groupby(lines, lambda line: line[:5] == b"data:"):
        group = [(line, line.rstrip(b"\r\n")) for line in run]
        if is_data:
            line, text = group[-1]
            joined = b"data:" + b" ".join(text[5:] for _, text in group)
            yield sum(len(line) for line, _ in group), joined, line[len(text) :]
        else:
            for line, text in group:
                yield len(line), text.removeprefix(BOM), line[len(text) :]


def _moved(chunks: Sequence[Chunk], lines: Sequence[tuple[int, bytes]]) -> tuple[Chunk, ...]:
    """The chunks with the sizes that they have where lines of these lengths have become these lines."""
    old = list(accumulate((size for size, _ in lines), initial=0))
    new = list(accumulate((len(line) for _, line in lines), initial=0))

    def place(offset: int) -> int:
        """Where in the new body an offset of the old one is; within a line, in proportion."""
        number = bisect_left(old, offset)
        if number >= len(old):
            return new[-1]
        if number == 0 or old[number] == offset:
            return new[number]
        share = (offset - old[number - 1]) / (old[number] - old[number - 1])
        return new[number - 1] + round(share * (new[number] - new[number - 1]))

    ends = [place(offset) for offset in accumulate(chunk.size for chunk in chunks)]
    if ends:
        ends[-1] = new[-1]
    return tuple(
        Chunk(chunk.at_ns, end - start)
        for chunk, (start, end) in zip(chunks, pairwise([0, *ends]), strict=True)
    )
