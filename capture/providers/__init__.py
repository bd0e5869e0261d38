"""What requests and answers mean: pure functions of bytes and times, that never raise.

PROVIDERS is the table: an API is one file that makes a Provider, and its row here. What else tbench knows of
APIs (what it records, which headers it sends, which endpoints answer with text) follows from the rows.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from tbench.capture.decode import decode, decoder
from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome, Response
from tbench.capture.providers.anthropic import ANTHROPIC
from tbench.capture.providers.openai import OPENAI
from tbench.capture.providers.provider import (
    CREDENTIAL_HEADERS,
    OTHER,
    Endpoint,
    ParsedResponse,
    Provider,
    RequestInfo,
    ResponseParser,
    Usage,
    error_text,
    masked,
    one_line,
)
from tbench.capture.providers.responses import RESPONSES
from tbench.capture.sse import EventStream, plain_events

__all__ = [
    "COMMON_HEADERS",
    "CREDENTIAL_HEADERS",
    "ENDPOINTS",
    "GENERATIVE",
    "LIMITS",
    "OTHER",
    "PROMISED",
    "PROVIDERS",
    "SENT_HEADERS",
    "TEXTLESS",
    "WORDLESS",
    "Endpoint",
    "ParsedRequest",
    "ParsedResponse",
    "Provider",
    "RequestInfo",
    "ResponseParser",
    "Usage",
    "describe",
    "endpoint_of",
    "error_text",
    "is_stream",
    "masked",
    "one_line",
    "outcome_of",
    "parse_recorded",
    "parse_request",
    "parse_response",
    "provider_of",
    "recorded_outcome",
]

PROVIDERS: Final[Mapping[str, Provider]] = {
    "anthropic": ANTHROPIC,
    "responses": RESPONSES,
    "openai": OPENAI,  # stays last: it takes the answers that nobody else claims
}

ENDPOINTS: Final = tuple(
    endpoint for provider in PROVIDERS.values() for endpoint in provider.endpoints.values()
)
GENERATIVE: Final = frozenset(endpoint.name for endpoint in ENDPOINTS if endpoint.gives_text)
"""The endpoints that one and the same text model serves, by name."""
WORDLESS: Final = frozenset(endpoint.name for endpoint in ENDPOINTS) - GENERATIVE
"""Endpoints whose answers have no output tokens to count."""
TEXTLESS: Final = frozenset(endpoint.name for endpoint in ENDPOINTS if not endpoint.takes_text)
"""Endpoints whose requests have no input tokens to count."""
LIMITS: Final = {endpoint.name: frozenset(endpoint.limits) for endpoint in ENDPOINTS}
"""The members that bound the output at an endpoint, by its name."""
PROMISED: Final = frozenset(endpoint.name for endpoint in ENDPOINTS if endpoint.replayable)
"""Endpoints that promise an answer in the shape that their provider reads."""
COMMON_HEADERS: Final = frozenset({"accept", "accept-encoding", "content-encoding", "content-type"})
"""Recorded headers that any API takes."""
SENT_HEADERS: Final = COMMON_HEADERS.union(
    *(provider.sent_headers for provider in PROVIDERS.values())
)
"""Recorded headers that go to a replay's target as they are."""

UPGRADED, FIRST_SUCCESS, FIRST_REDIRECT, NOT_MODIFIED = 101, 200, 300, 304
"""101: a websocket begins. 304: a list of models is unchanged."""

Timed = tuple[float, bytes]

_PROMISE = re.compile(r"[/+]json$|event-stream")
"""Content types that are broken by any other content, whatever the endpoint."""


class ParsedRequest(NamedTuple):
    """A request, its body read once. `payload` is the JSON object in it; None where it is none.

    `exact` is whether orjson took it, so that it can be written again as it was meant, `opaque` whether
    its content-encoding could not be undone.
    """

    info: RequestInfo
    payload: dict[str, Any] | None
    provider: Provider
    exact: bool
    opaque: bool = False

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The conversation that it continues; empty where it is none, or is not exactly known."""
        if self.payload is None or not self.exact or self.info.endpoint not in GENERATIVE:
            return ()
        return self.provider.messages(self.payload)


def parse_request(
    method: str, path: str, body: bytes | None, content_encoding: str | None = None
) -> ParsedRequest:
    """What a request asks for, with the payload that says so. `content_encoding` is the header's value."""
    opaque = False
    if body and content_encoding:
        try:
            body = decode(body, content_encoding)
        except InputError:
            body, opaque = None, True
    value, exact = _parsed(body) if body else (None, False)
    payload = value if isinstance(value, dict) else None
    provider, endpoint = _route(method, path)
    info = provider.request_info(payload or {}, endpoint)
    return ParsedRequest(info, payload, provider, exact, opaque)


def describe(method: str, path: str, payload: Mapping[str, Any]) -> RequestInfo:
    """What a request asks for, from its payload."""
    provider, endpoint = _route(method, path)
    return provider.request_info(payload, endpoint)


def provider_of(method: str, path: str) -> Provider:
    """Whose API a request is for; OpenAI's where nobody knows it."""
    return _route(method, path)[0]


def endpoint_of(method: str, path: str) -> Endpoint:
    """Which endpoint a request is for; OTHER where nobody knows it."""
    return _route(method, path)[1]


@lru_cache(maxsize=256)  # traffic goes to few
def _route(method: str, path: str) -> tuple[Provider, Endpoint]:
    for provider in PROVIDERS.values():
        if (endpoint := provider.endpoint_of(method, path)) is not OTHER:
            return provider, endpoint
    return OPENAI, OTHER


def parse_response(
    chunks: Iterable[Timed], *, content_type: str, content_encoding: str = "", status: int = 200
) -> ParsedResponse:
    """What a response body says, event stream or JSON, judged by its content before its type.

    Args:
        chunks: the network reads in order, each with its time on the caller's clock; still encoded.
        content_type: the header's value; empty where there was none.
        content_encoding: the header's value, such as `gzip`.
        status: from 300 on, the body is read as a complaint.
    """
    decoded = list(chunks)
    try:
        if content_encoding:
            step = decoder(content_encoding)
            decoded = [(at, step(piece)) for at, piece in decoded]
    except InputError as error:
        return ParsedResponse(readable=False, error=str(error))
    try:
        if is_stream(decoded, content_type):
            answer = _Events(decoded).answer()
        else:
            answer = _body(b"".join(piece for _, piece in decoded), content_type.lower())
    except InputError as error:  # an event over the limit
        answer = ParsedResponse(readable=False, error=str(error))
    return answer if status < 300 else _refusal(answer, decoded, status)


def parse_recorded(response: Response, chunks: Iterable[Timed] | None = None) -> ParsedResponse:
    """What a recorded response says; without `chunks` (its body, in timed pieces) all at time 0.

    Of an imported one no times are known but those that its `known_times` names: the end alone, or the first
    token's, which its first chunk has, and the last one's, which its last chunk has.
    """
    timed = [(0.0, response.body or b"")] if chunks is None else list(chunks)
    answer = parse_response(
        timed,
        content_type=response.header("content-type") or "",
        content_encoding=response.header("content-encoding") or "",
        status=response.status or 200,
    )
    known = response.extra.get("known_times")
    if known is None:
        return answer
    first, last = (timed[0][0], timed[-1][0]) if known == "first_token" and timed else (None, None)
    return replace(answer, first_token=first, first_answer=None, last_token=last, token_times=())


def outcome_of(status: int, answer: ParsedResponse, *, endpoint: str) -> Outcome:
    """The outcome of an exchange whose transport ended cleanly: the one judgement of captures and replays.

    A redirect is an `http_error`: nobody follows it with a prompt in hand. Endpoints other than those of
    inference promise nothing: what they send is whole, unless it says otherwise.
    """
    promised = endpoint in PROMISED
    if status == UPGRADED or (status == NOT_MODIFIED and not promised):
        return Outcome.OK
    if status >= FIRST_REDIRECT:
        return Outcome.HTTP_ERROR
    accepted = answer.foreign and not promised
    if status < FIRST_SUCCESS or not (answer.readable or accepted):
        return Outcome.PROTOCOL_ERROR
    if answer.readable and answer.error is not None:
        return Outcome.STREAM_ERROR
    if answer.done or accepted:
        return Outcome.OK
    return Outcome.CUT if answer.streamed else Outcome.PROTOCOL_ERROR


def recorded_outcome(response: Response, answer: ParsedResponse, *, endpoint: str) -> Outcome:
    """The outcome of a recorded response: what its transport says and, if that ended well, its content.

    A client that hangs up once that is settled, by a refusal's status or by the last event (SDKs do so at
    `[DONE]`, at an error, at an event that they cannot read), has not left early. A body that was not kept
    is taken for a whole answer, as the capture judged it when it was there.
    """
    status = response.status
    settled = answer.ended or (status is not None and status >= FIRST_REDIRECT)
    left = response.outcome is Outcome.CLIENT_ABORT and not settled
    if left or status is None or response.outcome not in (Outcome.OK, Outcome.CLIENT_ABORT):
        return response.outcome
    if response.body is None:
        answer = ParsedResponse(done=True)
    return outcome_of(status, answer, endpoint=endpoint)


def is_stream(chunks: list[Timed], content_type: str) -> bool:
    """Whether a body is an event stream: by how it begins, then by its type."""
    if chunks and chunks[0][1][:5] == b"data:":  # as nearly all do
        return True
    head = data = b""
    for _, piece in chunks:
        data += piece
        head = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
        if len(head) >= len(b"event:") or len(data) >= 4096:
            break
    promised = "event-stream" in content_type.lower() and head[:1] not in (b"{", b"[", b"<")
    return promised or head.startswith((b"data:", b"event:", b":"))


class _Events:
    """One event stream, read to its end."""

    def __init__(self, chunks: list[Timed]) -> None:
        self._parser: ResponseParser | None = None
        self._ended = False
        self._strange: bytes | None = None
        self._events = 0
        events = plain_events(chunks)
        if events is None:
            self._take_any(chunks)
        else:
            self._take_plain(events)

    def _take_plain(self, events: Iterator[Timed]) -> None:
        """As `_take` does it, by a shorter way for what is a payload."""
        loads, heard = orjson.loads, 0
        hear: Callable[[float, Mapping[str, Any], str], None] | None = None
        for at, data in events:
            if data == b" [DONE]":
                self._ended = True
                continue
            try:
                payload = loads(data)
            except orjson.JSONDecodeError:
                payload = None
            if type(payload) is not dict:
                self._take(at, data, "message")
            elif hear is not None:
                heard += 1
                hear(at, payload, "message")
            else:
                self._hear(at, payload, "message")
                hear = self._parser.event if self._parser else None
        self._events += heard

    def _take_any(self, chunks: list[Timed]) -> None:
        stream = EventStream()
        for at, piece in chunks:
            for event in stream.feed(piece):
                self._take(at, event.data, event.event)
        strange = self._strange
        for event in stream.end():
            self._take(chunks[-1][0], event.data, event.event)
        self._strange = strange  # an event without its blank line may well be half an event

    def answer(self) -> ParsedResponse:
        parser = self._parser or OPENAI.parser()
        answer = parser.parsed(events=self._events, ended=self._ended, streamed=True)
        if self._strange is not None:
            text = one_line(self._strange.decode(errors="replace"))
            answer.readable = answer.foreign = False
            answer.error = f"an event that is not JSON: {text}"
        answer.ended = answer.ended or answer.error is not None
        return answer

    def _take(self, at: float, data: bytes, kind: str) -> None:
        data = data.strip()
        if data[:6] == b"[DONE]":
            self._ended = True
            return
        payload = _json(data) if data else None
        if kind == "error" and data and not isinstance(payload, dict):
            payload = {"error": data.decode(errors="replace")}
        if isinstance(payload, dict):
            self._hear(at, payload, kind)
        elif data:
            self._strange = self._strange or data

    def _hear(self, at: float, payload: Mapping[str, Any], kind: str) -> None:
        self._events += 1
        if self._parser is None:
            if "ping" in (kind, payload.get("type")):  # a keep-alive, which other APIs send as well
                return
            self._parser = _speaker(payload, kind).parser()
        self._parser.event(at, payload, kind)


def _body(body: bytes, content_type: str) -> ParsedResponse:
    """A body that is no event stream: JSON, or what its type lets it be."""
    payload = _json(body)
    if isinstance(payload, dict):
        parser = _speaker(payload, "message").parser()
        parser.body(payload)
        return parser.parsed(events=0, ended=True, streamed=False)
    if isinstance(payload, list):  # Together's list of models is a bare array
        return ParsedResponse(done=True)
    if not body.strip():
        return ParsedResponse(readable=False, foreign=True, error="an empty body")
    kind = content_type.partition(";")[0].strip()
    shown = one_line(body[:20_000].decode(errors="replace"))
    return ParsedResponse(
        readable=False,
        foreign=not _PROMISE.search(kind),
        error=f"{kind or 'a body'} that is neither JSON nor a stream: {shown}",
        text=body.decode(errors="replace") if "text/" in kind else "",
    )


def _refusal(answer: ParsedResponse, chunks: list[Timed], status: int) -> ParsedResponse:
    """The answer of a status that is no success: whatever its body is, it is a complaint."""
    body = b"".join(piece for _, piece in chunks)
    error = answer.error if answer.readable else None
    error = error or error_text(_json(body)) or one_line(body.decode(errors="replace"))
    if status < 400:
        error = "a redirect, which is not followed; give the address it leads to"
    phrase = next((known.phrase for known in HTTPStatus if known == status), "")
    return replace(answer, readable=True, error=error or f"{status} {phrase}".strip(), text="")


def _speaker(payload: Mapping[str, Any], event: str) -> Provider:
    """Whose answer it is, by its content: what a proxy translates is no longer its endpoint's."""
    for api in PROVIDERS.values():
        if api.matches(payload, event):
            break
    return api  # the last one takes all


def _json(data: bytes) -> object:
    """Decoded JSON, or None."""
    return _parsed(data)[0]


def _parsed(data: bytes) -> tuple[object, bool]:
    """Decoded JSON or None, and whether it is strictly that: some servers write NaN and Infinity."""
    try:
        return orjson.loads(data), True
    except orjson.JSONDecodeError:
        with suppress(ValueError, RecursionError):
            return json.loads(data), False
    return None, False
