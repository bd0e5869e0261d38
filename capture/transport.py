"""Capture without a proxy: `httpx.Client(transport=tbench.CaptureTransport("trace.msgpack"))`.

The transport stands between an application's client and the one that sends, and writes what passes into a
trace, as the proxy does. It serves httpx and httpx2, its successor of the same names, by the library that a
request is of.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cache, partial
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

import httpx

from tbench.capture.endings import httpx_outcome
from tbench.capture.errors import InputError
from tbench.capture.exchange import LED_BACK, Outcome
from tbench.capture.intake import (
    MAX_PENDING,
    Intake,
    Privacy,
    Recording,
    RequestHead,
    ResponseHead,
    Selection,
    begin,
)
from tbench.capture.recorder import Counts

logger = logging.getLogger("tbench.capture")

CLOCK_EVERY_NS: Final = 60_000_000_000
REDIRECT, UPGRADE = 3, 101
LIBRARIES = {"httpx", "httpx2"}
LEFT = "the client closed the answer before its end"


class CaptureTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Records what a client of httpx or httpx2 sends and gets, sync or async, into a trace.

    `transport` is the one that sends; without it an `HTTPTransport` or `AsyncHTTPTransport` as the client
    would make it, but for proxies of the environment. Transports of one process with the same `trace` write
    into one file, which is closed with the last of them, or when the interpreter exits; until then, and after
    a kill, what was recorded is in `trace` + `.part`. Give each client a transport of its own.

    `hosts` (regular expressions), `paths` (globs) and `sample` (0 to 1) choose what is recorded, as for
    `tbench capture`. A segment ends at `rotate_mb`; bodies on their way to the disk take `max_pending_mb`.
    With `privacy="shape"` no content reaches the disk, but stand-ins of the same shape (docs/privacy.md).

    What cannot be recorded passes through; it is counted in `counts`, and logged as `tbench.capture`. Raises
    InputError where the file exists or cannot be made, and nothing afterwards. A process that was forked
    records nothing with the transports of its parent: make them after the fork, with a file for each process.
    """

    def __init__(
        self,
        trace: str | Path = "trace.msgpack",
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
        *,
        hosts: Sequence[str] | str = (),
        paths: Sequence[str] | str = (),
        sample: float = 1.0,
        rotate_mb: float | None = None,
        max_pending_mb: float = MAX_PENDING >> 20,
        privacy: Privacy = "full",
    ) -> None:
        if privacy not in get_args(Privacy):
            raise InputError(f"privacy={privacy!r}: give one of {', '.join(get_args(Privacy))}")
        for name, size in (("rotate_mb", rotate_mb), ("max_pending_mb", max_pending_mb)):
            if size is not None and not 0 < size < inf:
                raise InputError(f"{name}={size:g}: give megabytes, more than 0")
        self._inner: Any = transport
        self._lock = threading.Lock()
        self._file = _File.of(
            Recording(
                output=Path(trace).absolute(),
                selection=Selection(hosts=_texts(hosts), paths=_texts(paths), sample=sample),
                mode="in-process",
                max_pending=round(max_pending_mb * (1 << 20)),
                privacy=privacy,
                rotate_bytes=None if rotate_mb is None else round(rotate_mb * (1 << 20)),
            )
        )
        self._open = True

    @property
    def counts(self) -> Counts:
        """What is in the trace, and what was lost, so far: of all transports with this trace."""
        return self._file.intake.recorder.counts

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send by the transport inside; its answer, or its exception, is the client's."""
        send = self._sender(request, "HTTPTransport").handle_request
        passage = self._file.begin(request, "SyncByteStream")
        if passage is None:
            return send(request)  # type: ignore[no-any-return]
        with passage:
            return passage.answered(send(request))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The same for an async client."""
        send = self._sender(request, "AsyncHTTPTransport").handle_async_request
        passage = self._file.begin(request, "AsyncByteStream")
        if passage is None:
            return await send(request)  # type: ignore[no-any-return]
        with passage:
            return passage.answered(await send(request))

    def close(self) -> None:
        """Close the transport inside; the trace as well, where no other transport writes into it."""
        try:
            if self._inner is not None:
                self._inner.close()
        finally:
            self._leave()

    async def aclose(self) -> None:
        """The same for an async client."""
        try:
            if self._inner is not None:
                await self._inner.aclose()
        finally:
            self._leave()

    def _sender(self, request: httpx.Request, kind: str) -> Any:  # noqa: ANN401 (of either library)
        with self._lock:
            if self._inner is None:
                self._inner = getattr(_library(request), kind)()
            return self._inner

    def _leave(self) -> None:
        with self._lock:
            is_open, self._open = self._open, False
        if is_open:
            self._file.leave()


def _texts(texts: Sequence[str] | str) -> tuple[str, ...]:
    """One text, or several: a text alone is a sequence of its letters, which no host or path is."""
    return (texts,) if isinstance(texts, str) else tuple(texts)


class _File:
    """A trace that transports of this process write into, and how many still do."""

    _all: Final[dict[tuple[int, Path], "_File"]] = {}
    _lock: Final = threading.RLock()

    def __init__(self, recording: Recording) -> None:
        setup = begin(recording, partial(logger.error, "RECORDING STOPPED, traffic goes on: %s"))
        self.intake = Intake(setup)
        self.now = setup.now
        self.recording = recording
        self.users = 0
        self._clock_ns = 0
        self._pid = os.getpid()
        self._told: set[str] = set()
        atexit.register(self._close)

    @classmethod
    def of(cls, recording: Recording) -> "_File":
        """The one that is open under this name, else a new one."""
        key = os.getpid(), recording.output
        with cls._lock:
            file = cls._all.get(key) or cls(recording)
            if file.recording != recording:
                raise InputError(f"{recording.output}: is being written with other options")
            cls._all[key] = file
            file.users += 1
        return file

    def leave(self) -> None:
        """One transport fewer; the last one closes the trace."""
        if self.forked:
            return
        with self._lock:
            self.users -= 1
            if not self.users:
                atexit.unregister(self._close)
                self._close()

    def _close(self) -> None:
        """Finish what is in flight, write what is queued, say what was lost."""
        if self._all.pop((os.getpid(), self.recording.output), None) is not self:
            return
        recorder = self.intake.recorder
        self.intake.shut()
        recorder.clock({})
        recorder.close()
        counts = recorder.counts
        if counts.lost:
            logger.error(
                "%s: lost %d requests, %d responses, %d bytes (%s)",
                self.recording.output,
                counts.lost_requests,
                counts.lost_responses,
                counts.lost_bytes,
                ", ".join(counts.lost_by),
            )

    def begin(self, request: httpx.Request, stream: str) -> "_Passage | None":
        """A request that is to be recorded; None for one that only passes through, and is counted."""
        why = None
        if self.forked:
            why = "this process was forked; make the transport after the fork"
        elif (self._pid, self.recording.output) not in self._all:
            self.intake.recorder.lose("closed")
            why = "its transports were closed"
        if why:
            self._tell(f"what follows is not recorded: {why}")
            return None
        try:
            arrive_ns = self.now()
            if arrive_ns >= self._clock_ns:
                self._clock_ns = arrive_ns + CLOCK_EVERY_NS
                self.intake.recorder.clock({})
            url = request.url
            head = RequestHead(
                request.method,
                url.scheme,
                url.raw_host.decode("ascii").strip("[]"),
                url.port,
                url.raw_path.decode("ascii", "replace"),
                request.headers.raw,
            )
            if self.intake.wants(head):
                return _Passage(self, request, stream, head, arrive_ns)
        except Exception as error:  # whatever is wrong here, the application sends its request
            self.fail(error)
        return None

    @property
    def forked(self) -> bool:
        """Whether the writer thread, and the locks, belong to the process that this one was forked from."""
        return self._pid != os.getpid()

    def fail(self, error: Exception) -> None:
        """Count an exchange that a defect of ours keeps out of the trace; its message may quote a secret."""
        self.intake.recorder.lose("defect")
        self._tell(f"an exchange was not recorded ({type(error).__name__})")

    def _tell(self, line: str) -> None:
        """Log a line, once."""
        if line not in self._told:
            self._told.add(line)
            logger.error("%s: %s", self.recording.output, line)


class _Passage:
    """One exchange on its way. As a context, it lasts until the client has the head of the answer."""

    def __init__(
        self, file: _File, request: httpx.Request, stream: str, head: RequestHead, arrive_ns: int
    ) -> None:
        self._library = library = _library(request)
        self._tee_of = _tee_of(getattr(library, stream))
        self._file = file
        self._head = ResponseHead()
        self._live = file.intake.begin(head, lambda: self._head, arrive_ns)
        self._request, self._stream = request, request.stream
        if isinstance(self._stream, library.ByteStream):
            file.intake.ask(self._live, b"".join(self._stream))
        else:
            request.stream = self._tee_of(self._stream, self._live.upload.pass_on, self._uploaded)

    def __enter__(self) -> None:
        """Nothing: it has begun."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._request.stream = self._stream  # the client may send it again, after a redirect
        if error is not None:
            self._ended(error)

    def answered(self, response: httpx.Response) -> httpx.Response:
        """The head is there. Returns the answer, whose body is teed as the client reads it."""
        try:
            self._note(response)
        except Exception as error:
            self._file.fail(error)
        return response

    def _note(self, response: httpx.Response) -> None:
        self._live.head_ns = self._file.now()
        status, fields = response.status_code, response.headers.raw
        extra: dict[str, Any] = {}
        if status // 100 == REDIRECT and "location" in response.headers:
            extra[LED_BACK] = True  # whoever follows it comes through here again
        if status == UPGRADE:
            extra["unsupported"] = "websocket"
        body: bytes | None = None
        if (
            response.is_closed
        ):  # made in memory, or read by the transport inside: nobody reads its stream
            if isinstance(response.stream, self._library.ByteStream):
                body = b"".join(response.stream)
            else:
                body = response.content
                fields = [field for field in fields if field[0].lower() != b"content-encoding"]
        version = response.extensions.get("http_version", b"HTTP/1.1").decode("ascii", "replace")
        self._head = ResponseHead(status, fields, version, extra)
        if body is None:
            tee = self._tee_of(response.stream, self._live.answer.pass_on, self._ended)
            response.stream = tee
        else:
            self._live.answer.pass_on(body)
            self._ended(None)

    def _uploaded(self, error: BaseException | None) -> None:
        if error is None:
            self._safely(lambda: self._file.intake.ask(self._live))

    def _ended(self, error: BaseException | None) -> None:
        """The answer is over: whole, or by what the client got instead of the rest of it."""
        status, words = self._head.status, None
        outcome: Outcome | None = Outcome.OK
        if error is not None:
            outcome = httpx_outcome(error, answered=status is not None)
            words = " ".join(str(error).split()) or type(error).__name__
        # No error of httpx: the application cancelled, left, or failed by itself.
        ending = outcome or Outcome.CLIENT_ABORT
        self._safely(lambda: self._file.intake.end(self._live, ending, words))

    def _safely(self, step: Callable[[], None]) -> None:
        if self._file.forked:
            return
        try:
            step()
        except Exception as error:
            self._file.fail(error)


class _Tee:
    """A body on its way: `step` gets each piece, `end` its end, with the error that was raised instead."""

    def __init__(
        self,
        stream: Any,  # noqa: ANN401 (of either library, sync or async)
        step: Callable[[bytes], bytes],
        end: Callable[[BaseException | None], None],
    ) -> None:
        self._stream = stream
        self._step = step
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._stream:
                yield self._step(piece)
        # Base: a cancelled task, and a client that leaves its loop (GeneratorExit), are ends like others.
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                yield self._step(piece)
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    def close(self) -> None:
        """What has not come by now is not wanted."""
        try:
            self._stream.close()
        finally:
            # Of a body that was read whole the end has come, and `Intake.end` takes the first one only.
            self._end(GeneratorExit(LEFT))

    async def aclose(self) -> None:
        """The same for an async client."""
        try:
            await self._stream.aclose()
        finally:
            self._end(GeneratorExit(LEFT))


@cache
def _tee_of(base: type) -> type[Any]:
    """The tee as a stream of one library: clients ask for their own class."""
    return type("_Tee", (_Tee, base), {})


def _library(request: httpx.Request) -> ModuleType:
    """`httpx` or `httpx2`, whichever a request is of."""
    names = (kind.__module__.partition(".")[0] for kind in type(request).__mro__)
    return sys.modules[next(name for name in names if name in LIBRARIES)]
