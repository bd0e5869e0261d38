"""Intake: which exchanges are recorded, and their records while they are in flight.

Whoever carries the traffic (mitmproxy's addon, the transport of an application) says what passes; nothing
here knows which library that is.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import uuid4

from tbench.capture.exchange import NOTHING, Outcome, Request, Response
from tbench.capture.providers import CREDENTIAL_HEADERS
from tbench.capture.recorder import RecorderSetup
from tbench.capture.redact import Secrets, safe_path, secrets_of
from tbench.capture.sessions import SESSION_HEADERS
from tbench.capture.tee import Tee

USUAL_PORTS = {"http": 80, "https": 443}

RawFields = Iterable[tuple[bytes, bytes]]
"""Header fields as they came off the wire, undecoded."""


class RequestHead(NamedTuple):
    """A request but for its body. `port` None is the scheme's own; `path` has the query."""

    method: str
    scheme: str
    host: str
    port: int | None
    path: str
    fields: RawFields
    http_version: str = "HTTP/1.1"


class ResponseHead(NamedTuple):
    """An answer but for its body: nothing of it, where no head came. `extra` goes into the record."""

    status: int | None = None
    fields: RawFields = ()
    http_version: str = "HTTP/1.1"
    extra: Mapping[str, Any] = NOTHING


@dataclass(slots=True)
class Live:
    """An exchange in flight that is being recorded; `head` tells at its end what came before the body."""

    request: Request
    secrets: Secrets
    head: Callable[[], ResponseHead]
    upload: Tee
    answer: Tee
    head_ns: int | None = None
    asked: bool = field(default=False, init=False)


class Intake:
    """Chooses what is recorded and hands it to the recorder; after `limit` exchanges the rest passes through.

    For several threads.
    """

    def __init__(self, setup: RecorderSetup, *, limit: int | None = None) -> None:
        self.recorder = setup.recorder
        self.live: dict[str, Live] = {}
        self.finished = 0
        self.left_out: Counter[str] = Counter()
        self._selection = setup.selection
        self._redactor = setup.redactor
        self._now = setup.now
        self._limit = limit
        self._numbers, self._seq = setup.numbers, 0
        self._lock = threading.Lock()

    def wants(self, head: RequestHead) -> bool:
        """Whether an exchange is recorded; counts what keeps it out, a filter or a lack of memory or disk."""
        if reason := self._leaves_out(head):
            self.left_out[reason] += 1
        return reason is None and self.accepts()

    def accepts(self) -> bool:
        """Whether memory and disk take another exchange; counts one that is lost."""
        if reason := self.recorder.refuses:
            self.recorder.lose(reason)
        return reason is None

    def begin(
        self,
        head: RequestHead,
        answered: Callable[[], ResponseHead],
        arrive_ns: int,
        *,
        id: str | None = None,  # noqa: A002
        caller: str = "",
        conn: int | None = None,
    ) -> Live:
        """Take an exchange in. `answered` is its `Live.head`, `caller` an address, kept as a pseudonym."""
        fields = text_fields(head.fields)
        secrets = secrets_of(fields, head.path)
        headers, withheld = self._redactor.headers(fields, secrets)
        host = f"[{head.host}]" if ":" in head.host else head.host
        if head.port not in {None, USUAL_PORTS.get(head.scheme)}:
            host += f":{head.port}"
        # Who is calling: the address and the credentials, of which only a pseudonym is recorded.
        given = {name.lower() for name, _ in fields}
        marks = [value for name, value in fields if name.lower() in CREDENTIAL_HEADERS]
        extra: dict[str, Any] = {"wall_ns": time.time_ns()}
        if carrier := next((name for name in CREDENTIAL_HEADERS if name in given), None):
            extra["credential_header"] = carrier
        with self._lock:
            seq, self._seq = self._seq, self._seq + 1
        request = Request(
            id=id or uuid4().hex,
            seq=self._numbers[seq],
            arrive_ns=arrive_ns,
            end_ns=arrive_ns,
            method=secrets.mask_text(head.method),
            scheme=head.scheme or "https",
            host=secrets.mask_text(host),
            path=safe_path(head.path, secrets),
            http_version=head.http_version,
            headers=headers,
            headers_withheld=withheld,
            client=self._redactor.pseudonym("\n".join([caller, *marks])),
            conn=conn,
            extra=extra,
        )
        upload, answer = (Tee(self.recorder.budget, self._now) for _ in range(2))
        live = self.live[request.id] = Live(request, secrets, answered, upload, answer)
        return live

    def ask(self, live: Live, body: bytes | None = None, *, complete: bool = True) -> None:
        """Hand over the request, once, with what was teed of its body, else `body`.

        Of a body that never ended only the size is recorded.
        """
        if live.asked:
            return
        live.asked = True
        if live.upload.sizes:
            body = live.upload.body()
        request = replace(
            live.request,
            end_ns=self._now(),
            body=body if complete else None,
            body_bytes=live.upload.size or len(body or b""),
        )
        live.upload.forget()
        self.recorder.request(request, live.secrets, dropped=complete and body is None)

    def end(self, live: Live, outcome: Outcome, error: str | None = None) -> None:
        """Hand over the response, once, and the request where it never ended."""
        if self.live.pop(live.request.id, None) is None:
            return
        end_ns = self._now()
        self.ask(live, complete=False)
        head = live.head()
        headers, withheld = self._redactor.headers(text_fields(head.fields), live.secrets)
        response = Response(
            head_ns=live.head_ns,
            end_ns=end_ns,
            status=head.status,
            http_version=head.http_version,
            headers=headers,
            headers_withheld=withheld,
            outcome=outcome,
            error=error,
            extra=head.extra,
        )
        self.recorder.response(live.request.id, response, live.answer, live.secrets)
        self.finished += 1

    def shut(self) -> None:
        """Finish what is still in flight as `proxy_shutdown`; nothing is recorded from here on."""
        self._limit = 0
        for live in list(self.live.values()):
            self.end(live, Outcome.PROXY_SHUTDOWN, "the capture was stopped")

    def _leaves_out(self, head: RequestHead) -> str | None:
        """Which option keeps an exchange out of the trace; None when none does."""
        if self._limit is not None and self._seq >= self._limit:
            return "limit"
        if reason := self._selection.leaves_out(head.method, head.host, head.path):
            return reason
        if self._selection.sample >= 1:
            return None
        given = {name.lower(): value for name, value in text_fields(head.fields)}
        session = next((given[name] for name in SESSION_HEADERS if name in given), uuid4().hex)
        return None if self._selection.draws(session) else "sample"


def text_fields(fields: RawFields) -> list[tuple[str, str]]:
    """Header fields as text; what is no UTF-8 as surrogate escapes."""
    return [
        (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
        for name, value in fields
    ]
