"""Intake: which exchanges are recorded, and their records while they are in flight.

Whoever carries the traffic (mitmproxy's addon, the transport of an application) says what passes; nothing
here knows which library that is. A `Recording` is what the user asked for, `begin` starts it.
"""

import hashlib
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from secrets import token_bytes
from typing import Any, Final, Literal, NamedTuple
from uuid import uuid4

from tbench.capture.errors import InputError
from tbench.capture.exchange import NOTHING, Outcome, Request, Response
from tbench.capture.providers import CREDENTIAL_HEADERS, PROVIDERS
from tbench.capture.recorder import Recorder
from tbench.capture.records import TraceHeader
from tbench.capture.redact import Redactor, Secrets, safe_path, secrets_of
from tbench.capture.sanitize import Sanitizer
from tbench.capture.sessions import SESSION_HEADERS
from tbench.capture.tee import Budget, Tee
from tbench.capture.trace_reader import PROCESSES, process_path
from tbench.capture.trace_writer import TraceWriter

# Selection: which requests are recorded. Everything else passes through untouched and uncounted.

RECORDED: Final = tuple(
    (method, pattern)
    for provider in PROVIDERS.values()
    for method, pattern in (
        *((method, f"*{tail}") for method, tail in provider.endpoints),
        *provider.also_recorded,
    )
)
"""Method and glob of what is recorded unless `--path` says otherwise: inference, and the model list."""

API_HOSTS: Final = (
    *(host for provider in PROVIDERS.values() for host in provider.hosts),
    r"localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[?::1\]?",
)
"""The hosts that `--mode proxy` looks into unless `--host` says otherwise: APIs, and this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Filters of a capture. No `hosts` means any host, no `paths` means inference; `sample` is a share."""

    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    sample: float = 1.0
    _hosts: tuple[re.Pattern[str], ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise InputError(
                f"--sample {self.sample:g} is not a share: give a number above 0, up to 1"
            )
        hosts = []
        for host in self.hosts:
            try:
                hosts.append(re.compile(host, re.IGNORECASE))
            except re.error as error:
                raise InputError(f"--host {host!r} is not a regular expression: {error}") from None
        object.__setattr__(self, "_hosts", tuple(hosts))

    def leaves_out(self, method: str, host: str, path: str) -> str | None:
        """Which filter keeps this request out, `host` or `path`; None when none. A query is ignored."""
        if not self.wants_host(host):
            return "host"
        path = path.partition("?")[0]
        if self.paths:
            wanted = any(fnmatchcase(path, glob) for glob in self.paths)
        else:
            route = path.rstrip("/")
            wanted = any(method == verb and fnmatchcase(route, glob) for verb, glob in RECORDED)
        return None if wanted else "path"

    def wants_host(self, host: str) -> bool:
        """Whether the host filter lets `host` or `host:port` in."""
        bare = re.sub(r":\d+$", "", host)
        return not self._hosts or any(p.fullmatch(host) or p.fullmatch(bare) for p in self._hosts)

    def draws(self, key: str) -> bool:
        """Whether the sample holds `key`: always the same answer for the same session."""
        if self.sample >= 1:
            return True
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) < self.sample * 2**64

    def allow_hosts(self) -> list[str]:
        """The hosts as mitmproxy's `allow_hosts`: regular expressions over HOST:PORT."""
        return [rf"^(?:{host})(?::\d+)?$" for host in self.hosts]


# Recording: where it goes, and the parts that do it, wired together.

MAX_PENDING = 256 << 20
Privacy = Literal["full", "shape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the processes of one capture share: its id, its clocks at the start, ns, its pseudonyms' key."""

    capture_id: str = field(default_factory=lambda: uuid4().hex)
    wall_ns: int = field(default_factory=time.time_ns)
    mono_ns: int = field(default_factory=time.monotonic_ns)
    key: bytes = field(default_factory=lambda: token_bytes(32), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What the user asked for. `max_pending` and `rotate_bytes` are bytes, `rotate_s` seconds.

    `privacy` says what is written of bodies and addresses: what passed, or stand-ins of the same shape.
    Of a capture by several `processes` each makes a recording of its own, with the same `output`, the name
    of the whole, and the same `origin`.
    """

    output: Path
    selection: Selection
    upstream: str | None = None
    mode: str = "reverse"
    max_pending: int = MAX_PENDING
    rotate_bytes: int | None = None
    rotate_s: float | None = None
    privacy: Privacy = "full"
    origin: Origin = field(default_factory=Origin, compare=False)
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.processes > PROCESSES:
            raise InputError(f"--processes {self.processes}: must be at most {PROCESSES}")

    @property
    def files(self) -> list[Path]:
        """The first file of each process."""
        return [process_path(self.output, number) for number in range(self.processes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderSetup:
    """A recording under way. `now` is the capture's clock: ns since its origin."""

    recorder: Recorder
    redactor: Redactor
    selection: Selection
    now: Callable[[], int]
    numbers: range = range(sys.maxsize)
    """Numbers that no other process of this capture gives: for connections, and in order of arrival."""


def begin(recording: Recording, on_failure: Callable[[str], None]) -> RecorderSetup:
    """Create the trace file and start its writer thread.

    Raises InputError where the file exists or cannot be made. `on_failure`: see Recorder.
    """
    origin, selection = recording.origin, recording.selection

    def now() -> int:
        return time.monotonic_ns() - origin.mono_ns

    upstream, disguise = recording.upstream, None
    filters = {"hosts": list(selection.hosts), "paths": list(selection.paths)}
    if recording.privacy == "shape":
        from tbench.capture.privacy.traffic import shape  # noqa: PLC0415 (most captures need none)

        disguise = shape(origin.key)
        upstream, filters = upstream and disguise.address(upstream), {}
    place = {"process": recording.process, "processes": recording.processes}
    header = TraceHeader(
        capture_id=origin.capture_id,
        wall_ns=origin.wall_ns,
        mono_ns=0,
        upstream=upstream,
        filters=filters,
        sampling=selection.sample,
        privacy=recording.privacy,
        tokens_source="server_usage",
        extra={"mode": recording.mode, **(place if recording.processes > 1 else {})},
    )
    try:
        writer = TraceWriter(
            recording.files[recording.process],
            header,
            rotate_bytes=recording.rotate_bytes,
            rotate_s=recording.rotate_s,
        )
    except OSError as error:
        raise InputError(f"{recording.output}: cannot be written: {error.strerror}") from None
    redactor = Redactor(origin.key)
    recorder = Recorder(
        writer,
        Sanitizer(redactor, disguise=disguise),
        Budget(recording.max_pending),
        now=now,
        on_failure=on_failure,
    )
    recorder.start()
    return RecorderSetup(
        recorder=recorder,
        redactor=redactor,
        selection=selection,
        now=now,
        numbers=range(recording.process, sys.maxsize, recording.processes),
    )


# What passes.

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
        # Two threads of an application may arrive at once, and a seq is given once.
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
        # First, so that whoever comes second (an abort after the end, the drain) finds nothing to end.
        if self.live.pop(live.request.id, None) is None:
            return
        end_ns = self._now()
        self.ask(live, complete=False)
        # Asked now: what a connection cost is known only once the answer has come.
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
        # Sessions are drawn whole; a request that names none is a session of its own.
        session = next((given[name] for name in SESSION_HEADERS if name in given), uuid4().hex)
        return None if self._selection.draws(session) else "sample"


def text_fields(fields: RawFields) -> list[tuple[str, str]]:
    """Header fields as text; what is no UTF-8 as surrogate escapes."""
    return [
        (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
        for name, value in fields
    ]
