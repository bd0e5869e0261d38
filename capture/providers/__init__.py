"""What requests and answers mean: pure functions of bytes and times, that never raise.

A provider is one file with the shapes of one API and one entry in PROVIDERS.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import orjson

from tbench.capture.decode import decode, decoder
from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome, Response
from tbench.capture.providers import openai, together
from tbench.capture.providers.message import (
    GENERATIVE,
    ParsedResponse,
    RequestInfo,
    Usage,
    complaint,
    judge,
    masked,
    one_line,
)
from tbench.capture.sse import EventStream, plain_events

__all__ = [
    "GENERATIVE",
    "PROVIDERS",
    "ParsedRequest",
    "ParsedResponse",
    "RequestInfo",
    "Usage",
    "ask_again",
    "complaint",
    "judge",
    "masked",
    "one_line",
    "outcome_of",
    "read_answer",
    "read_ask",
    "read_question",
    "read_response",
]

Timed = tuple[float, bytes]

_PROMISE = re.compile(r"[/+]json$|event-stream")
"""Content types that are broken by any other content, whatever the endpoint."""


class ResponseParser(Protocol):
    """A response being read, payload by payload."""

    def chunk(self, at: float, payload: Mapping[str, Any], event: str) -> None: ...
    def whole(self, payload: Mapping[str, Any]) -> None: ...
    def answer(self, *, events: int, ended: bool, streamed: bool) -> ParsedResponse: ...


class Provider(NamedTuple):
    """One API: its endpoints by method and path, its request bodies, its answers.

    `speaks` says whether a payload of an answer, with its event's type, is of this API.
    """

    endpoint_of: Callable[[str, str], together.Endpoint]
    ask_of: Callable[..., RequestInfo]
    speaks: Callable[[Mapping[str, Any], str], bool]
    reading: Callable[[], ResponseParser]


PROVIDERS: dict[str, Provider] = {
    "together": Provider(
        endpoint_of=together.endpoint_of,
        ask_of=openai.ask_of,
        speaks=lambda _payload, _event: True,  # stays last: the shapes that nobody else claims
        reading=openai.Reading,
    ),
}


class ParsedRequest(NamedTuple):
    """A request, its body read once. `payload` is the JSON object in it; None where it is none.

    `exact` is whether orjson took it, so that it can be written again as it was meant, `opaque` whether
    its content-encoding could not be undone.
    """

    ask: RequestInfo
    payload: dict[str, Any] | None
    exact: bool
    opaque: bool = False


def read_ask(
    method: str, path: str, body: bytes | None, content_encoding: str | None = None
) -> RequestInfo:
    """What a request asks for. A body that is absent or not JSON leaves only what the path says."""
    return parse_request(method, path, body, content_encoding).ask


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
    payload, exact = _parsed(body) if body else (None, False)
    found = payload if isinstance(payload, dict) else None
    return ParsedRequest(ask_again(method, path, found or {}), found, exact, opaque)


def ask_again(method: str, path: str, payload: Mapping[str, Any]) -> RequestInfo:
    """What a request asks for, from its payload."""
    provider, endpoint = _endpoint(method, path)
    return provider.ask_of(payload, endpoint.name, replayable=endpoint.replayable)


@lru_cache(maxsize=256)
def _endpoint(method: str, path: str) -> tuple[Provider, together.Endpoint]:
    """Whose endpoint it is: traffic goes to few."""
    found = ((one, one.endpoint_of(method, path)) for one in PROVIDERS.values())
    return next(
        (pair for pair in found if pair[1] != together.OTHER),
        (PROVIDERS["together"], together.OTHER),
    )


def read_answer(
    chunks: Iterable[Timed], *, content_type: str, content_encoding: str = "", status: int = 200
) -> ParsedResponse:
    """What a response body says, event stream or JSON, judged by its content before its type.

    Args:
        chunks: the network reads in order, each with its time on the caller's clock; still encoded.
        content_type: the header's value; empty where there was none.
        content_encoding: the header's value, such as `gzip`.
        status: from 300 on, the body is read as a complaint.
    """
    try:
        decoded = _decoded(chunks, content_encoding)
    except InputError as error:
        return ParsedResponse(readable=False, error=str(error))
    if _is_stream(decoded, content_type):
        answer = _stream(decoded)
    else:
        answer = _body(b"".join(piece for _, piece in decoded), content_type.lower())
    return answer if status < 300 else _refusal(answer, decoded, status)


def read_response(response: Response, chunks: Iterable[Timed] | None = None) -> ParsedResponse:
    """What a recorded response says; without `chunks` (its body, in timed pieces) all at time 0."""
    return read_answer(
        [(0.0, response.body or b"")] if chunks is None else chunks,
        content_type=response.header("content-type") or "",
        content_encoding=response.header("content-encoding") or "",
        status=response.status or 200,
    )


def outcome_of(response: Response, answer: ParsedResponse, *, endpoint: str) -> Outcome:
    """The outcome of a recorded response: what its transport says and, if that ended well, its content.

    A body that was not kept is taken for a whole answer, as the capture judged it when it was there.
    """
    if response.outcome is not Outcome.OK or response.status is None:
        return response.outcome
    if response.body is None:
        answer = ParsedResponse(done=True)
    return judge(response.status, answer, endpoint=endpoint)


def _is_stream(chunks: list[Timed], content_type: str) -> bool:
    """By how the body begins, then by its type."""
    if chunks and chunks[0][1][:5] == b"data:":  # as nearly all do
        return True
    head = b"".join(piece for _, piece in chunks[:8])[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    promised = "event-stream" in content_type.lower() and head[:1] not in (b"{", b"[", b"<")
    return promised or head.startswith((b"data:", b"event:", b":"))


def _decoded(chunks: Iterable[Timed], content_encoding: str) -> list[Timed]:
    if not content_encoding:
        return list(chunks)
    step = decoder(content_encoding)
    return [(at, step(piece)) for at, piece in chunks]


def _stream(chunks: list[Timed]) -> ParsedResponse:
    try:
        return _Events(chunks).answer()
    except InputError as error:
        return ParsedResponse(readable=False, error=str(error))


class _Events:
    """One event stream, read to its end."""

    def __init__(self, chunks: list[Timed]) -> None:
        self._reading: ResponseParser | None = None
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
        hear = None if self._reading is None else self._reading.chunk
        for at, data in events:
            if data[:7] == b" [DONE]":
                self._ended = True
                continue
            try:
                payload = loads(data)
            except orjson.JSONDecodeError:
                payload = None
            if hear is not None and type(payload) is dict:
                heard += 1
                hear(at, payload, "message")
            elif type(payload) is dict:
                self._hear(at, payload, "message")
                hear = self._reading.chunk if self._reading else None
            else:
                self._take(at, data, "message")
        self._events += heard

    def _take_any(self, chunks: list[Timed]) -> None:
        stream = EventStream()
        for at, piece in chunks:
            for event in stream.feed(piece):
                self._take(at, event.data, event.event)
        whole = self._strange
        for event in stream.end():
            self._take(chunks[-1][0], event.data, event.event)
        self._strange = whole  # an event without its blank line may well be half an event

    def answer(self) -> ParsedResponse:
        reading = self._reading or openai.Reading()
        answer = reading.answer(events=self._events, ended=self._ended, streamed=True)
        if self._strange is None:
            return answer
        text = one_line(self._strange.decode(errors="replace"))
        error = f"an event that is not JSON: {text}"
        return replace(answer, readable=False, foreign=False, error=error)

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
        if self._reading is None:
            self._reading = _provider_of(payload, kind).reading()
        self._reading.chunk(at, payload, kind)


def _body(body: bytes, content_type: str) -> ParsedResponse:
    """A body that is no event stream: JSON, or what its type lets it be."""
    payload = _json(body)
    if isinstance(payload, dict):
        reading = _provider_of(payload, "message").reading()
        reading.whole(payload)
        return reading.answer(events=0, ended=True, streamed=False)
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
    said = answer.error if answer.readable else None
    said = said or complaint(_json(body)) or one_line(body.decode(errors="replace"))
    if status < 400:
        said = "a redirect, which is not followed; give the address it leads to"
    phrase = next((one.phrase for one in HTTPStatus if one == status), "")
    return replace(answer, readable=True, error=said or f"{status} {phrase}".strip(), text="")


def _provider_of(payload: Mapping[str, Any], event: str) -> Provider:
    return next(one for one in PROVIDERS.values() if one.speaks(payload, event))


def _json(data: bytes) -> object:
    """Decoded JSON, or None."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _lenient(data)


def _parsed(data: bytes) -> tuple[object, bool]:
    """Decoded JSON or None, and whether it is strictly that."""
    try:
        return orjson.loads(data), True
    except orjson.JSONDecodeError:
        return _lenient(data), False


def _lenient(data: bytes) -> object:
    """By Python's own reader, which takes the NaN and Infinity that some servers write; None for no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
