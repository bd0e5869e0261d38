"""Sanitizer: mask secrets in a record before it is written, link retries, decide the final outcome.

Runs in the writer thread, where a millisecond delays no traffic.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from tbench.capture.decode import decode
from tbench.capture.errors import InputError
from tbench.capture.exchange import Chunk, Outcome, Request, Response
from tbench.capture.providers import endpoint_of, parse_recorded, recorded_outcome
from tbench.capture.redact import (
    Redactor,
    Secrets,
    mask_hints,
    mask_lookalikes,
    without_credentials,
)
from tbench.capture.sessions import Recent
from tbench.capture.tee import Tee

# Retries: which request repeats an earlier one that failed. No I/O; time comes in with each call.
#
# An SDK that counts its attempts is believed. Without a count, the same caller sending the same bytes
# within a minute of a failure is the same ask again; each failure explains one repeat at most.

WINDOW_NS = 60_000_000_000
CAPACITY = 8_192
"""Distinct asks remembered; the oldest go first."""
ATTEMPTS = 16
"""Attempts remembered of an ask."""

RETRIED_STATUS = frozenset({408, 409, 425, 429, *range(500, 600)})
FAILED_OUTCOMES = frozenset(
    {Outcome.RESET, Outcome.CUT, Outcome.CONNECT_ERROR, Outcome.TIMEOUT, Outcome.PROTOCOL_ERROR}
)


@dataclass(slots=True)
class _Attempt:
    id: str
    began_ns: int
    failed_ns: int | None = None


class Retries:
    """The recent attempts of each ask; an ask is a caller and a digest of what it sent."""

    def __init__(self, *, window_ns: int = WINDOW_NS, capacity: int = CAPACITY) -> None:
        self._window_ns = window_ns
        self._asks: Recent[bytes, list[_Attempt]] = Recent(capacity)
        self._open: Recent[str, _Attempt] = Recent(capacity)

    def begin(self, ask: bytes, id: str, at_ns: int, *, count: int | None = None) -> str | None:  # noqa: A002
        """Note an attempt; returns the id of the one it repeats. `count` is the SDK's own, if any."""
        # A list: an empty deque takes 600 bytes, and nearly every ask is attempted once.
        attempts = self._asks.get(ask, [])
        self._asks.keep(ask, attempts)
        earlier = None
        if count != 0:
            recent = [a for a in attempts if at_ns - (a.failed_ns or a.began_ns) <= self._window_ns]
            # A log tells at once how each attempt ended: one that fails later is no reason to ask again.
            failed = (
                a for a in reversed(recent) if a.failed_ns is not None and a.failed_ns <= at_ns
            )
            earlier = next(failed, None)
            # A client that gave up waiting counts a retry while its first attempt may still look alive.
            if earlier is None and count and attempts:
                earlier = attempts[-1]
        if earlier:
            # Each failure explains one repeat: two requests that follow it are not both its retry.
            attempts.remove(earlier)
        attempt = _Attempt(id, at_ns)
        attempts.append(attempt)
        del attempts[:-ATTEMPTS]
        self._open.keep(id, attempt)
        return earlier.id if earlier else None

    def end(self, id: str, response: Response) -> None:  # noqa: A002
        """Note how an attempt ended."""
        attempt = self._open.pop(id, None)
        if attempt and response.status in RETRIED_STATUS and response.head_ns is not None:
            # Who has read a status may ask again before the rest of that answer has passed.
            attempt.failed_ns = response.head_ns
        elif attempt and (response.outcome in FAILED_OUTCOMES or response.status in RETRIED_STATUS):
            attempt.failed_ns = response.end_ns


LONGEST_ERROR = 500
PLAIN = ("", "identity")
"""Content codings that leave a body as it is."""


class _Asked(NamedTuple):
    """What is known of a request until its response comes."""

    endpoint: str
    secrets: Secrets
    """Credentials that its body carried for others."""
    people: tuple[bytes, ...] = ()
    """Whom it named, as a server may repeat it."""


UNKNOWN = _Asked("other", Secrets())


class Disguise(Protocol):
    """Puts stand-ins in the place of content (capture.privacy.traffic)."""

    def request(self, request: Request) -> Request: ...
    def response(self, response: Response) -> Response: ...


class Sanitizer:
    """Finishes the records of one capture; with a `disguise` their content is not what was sent."""

    def __init__(
        self,
        redactor: Redactor,
        *,
        retries: Retries | None = None,
        disguise: Disguise | None = None,
    ) -> None:
        self._redactor = redactor
        self._disguise = disguise
        self._retries = retries or Retries()
        self._asked: dict[str, _Asked] = {}

    def request(self, request: Request, secrets: Secrets) -> Request:
        """The request without secrets, linked to the attempt that it repeats.

        Without its bytes there is nothing to compare it by.
        """
        retry_of = None
        inner = Secrets()
        people: tuple[bytes, ...] = ()
        if request.body is not None:
            caller = f"{request.client} {request.method} {request.host} {request.path}\n".encode()
            ask = self._redactor.digest(caller + request.body)
            count = request.header("x-stainless-retry-count") or ""
            retry_of = self._retries.begin(
                ask,
                request.id,
                request.arrive_ns,
                count=int(count) if re.fullmatch("[0-9]{1,9}", count) else None,
            )
            coding = request.header("content-encoding") or ""
            plain = _decoded(request.body, coding)
            people = self._redactor.people(plain or b"")
            credentials = without_credentials(plain) if plain else None
            if credentials and credentials.masked:
                inner = credentials.secrets
                if coding in PLAIN:
                    extra = {**request.extra, "body_masked": credentials.masked}
                    request = replace(request, body=credentials.body, extra=extra)
                else:  # an encoded body cannot be masked: it is not kept
                    extra = {**request.extra, "body_withheld": "credential"}
                    request = replace(request, body=None, extra=extra)
        endpoint = endpoint_of(request.method, request.path).name
        self._asked[request.id] = _Asked(endpoint, inner, people)
        body, cleaned = self._clean(request, secrets | inner, exact=False)
        request = replace(request, body=body, extra=cleaned, retry_of=retry_of)
        return self._disguise.request(request) if self._disguise else request

    def response(
        self, request_id: str, response: Response, tee: Tee | None, secrets: Secrets
    ) -> Response:
        """The response with its body and chunks from the tee, without secrets, and judged."""
        endpoint, inner, people = self._asked.pop(request_id, UNKNOWN)
        # A server may quote in its error what the request's body held for others.
        secrets |= inner
        response = replace(response)  # our own from here on
        if tee:
            response.body, response.body_bytes = tee.body(), tee.size
            response.chunks = tuple(map(Chunk, tee.stamps, tee.sizes))
        ending = response.outcome
        response.outcome = recorded_outcome(response, parse_recorded(response), endpoint=endpoint)
        if ending is Outcome.CLIENT_ABORT is not response.outcome:
            response.error = None  # it left nothing behind
        response.body, response.extra = self._clean(response, secrets, people, exact=True)
        # Of errors alone: in an answer asterisks between letters are Markdown.
        if response.body is not None and (response.status or 0) >= 400:
            response.body = mask_hints(response.body)
        if response.error:  # mitmproxy quotes what it could not parse: anything, at any length
            shown = mask_lookalikes(secrets.mask_text(response.error)).encode("utf-8", "replace")
            shown = self._redactor.without_people(shown, people)
            response.error = shown.decode("utf-8", "replace")[:LONGEST_ERROR]
        self._retries.end(request_id, response)
        return self._disguise.response(response) if self._disguise else response

    def _clean(
        self,
        record: Request | Response,
        secrets: Secrets,
        people: Sequence[bytes] = (),
        *,
        exact: bool,
    ) -> tuple[bytes | None, Mapping[str, object]]:
        """The body without credentials and identities.

        An encoded body is kept as it is or, where that would tell a secret or cannot be looked into,
        not at all: `extra` then says why. `exact` keeps the length, so that chunk sizes still fit.
        """
        body, extra = record.body, record.extra
        coding = record.header("content-encoding") or ""
        if not body:
            return body, extra
        if coding in PLAIN:
            cleaned = self._redactor.identities(secrets.mask(body), exact=exact)
            return self._redactor.without_people(cleaned, people), extra
        plain, redactor = _decoded(body, coding), self._redactor
        if plain is None:
            return None, {**extra, "body_withheld": "unreadable"}
        if (
            secrets.found_in(plain)
            or redactor.without_people(redactor.identities(plain), people) != plain
        ):
            return None, {**extra, "body_withheld": "credential"}
        return body, extra


def _decoded(body: bytes, coding: str) -> bytes | None:
    try:
        return decode(body, coding)
    except InputError:
        return None
