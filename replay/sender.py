"""The seam between a replay and the network: what is to be sent, and what came of it.

A sender fills in a Reply as things happen, so that an attempt which is cancelled keeps what it had.
Times are `trio.current_time()`; whoever makes a Sample of them subtracts the start of the run.
"""

import errno
import math
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, Protocol, Self

import msgpack
import trio

from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome

IDLE_S: Final = 4.0
"""An idle connection older than this is closed, not used: servers commonly close theirs after 5 s."""
CERTAIN_S: Final = 0.001
"""A time that is known to within this is taken as known."""
MOST_BYTES: Final = 64 * 2**20
"""The longest answer that is read."""

STOPPED: Final = (Outcome.CANCELLED, "the replay was stopped")
"""The failure of what was in flight when everything was cancelled."""

Fields = tuple[tuple[bytes, bytes], ...]
"""Header fields as they were on the wire, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each part of an attempt may take, seconds.

    `connect` is for a new connection with its TLS, `first_byte` from the request to the head of its
    answer, `between` from one read of the body to the next, `total` for all of it.
    """

    connect: float = 10.0
    first_byte: float = 600.0
    between: float = 120.0
    total: float = 600.0

    @property
    def shortest(self) -> float:
        """No deadline can pass sooner after a step than this."""
        return min(self.connect, self.first_byte, self.between, self.total)

    def verdict(self, phase: str, limit: float, *, total: bool) -> str:
        """Which deadline passed, in words: `limit` seconds of a phase, or the total in it."""
        if total:
            return f"total: not done after {self.total:g} s, waiting for the {phase}"
        return f"{phase}: nothing for {limit:g} s"


class Origin(NamedTuple):
    """Where a connection leads. `host` is as in a URL, without brackets."""

    scheme: str
    host: str
    port: int


NOWHERE: Final = Origin("http", "", 0)


@dataclass(slots=True)
class Call:
    """One request, complete and ready for the wire: nothing is added to it when it is sent.

    `index` is its place in the plan; `due` is when it should be sent, seconds from the run's start, None
    in a closed loop. `head` is the request line and the header fields with the blank line after them,
    as they go out; `body` follows it. `cost` is the most that it is expected to cost, US dollars, where
    a budget asks. `label` is what the sample will say of it, which no sender reads. `arm` is
    the place of its target among those of a duet. `refusal` says why HTTP/1.1 cannot carry it (it ends as a
    PROTOCOL_ERROR), None when it can. `after` are the indexes of the calls whose answers it holds, which it
    waits for, and `think` the seconds from the last of those ends to its due time (replay.waiting).
    `opening` is the index of its session's first call, where sessions are counted.
    `history` are the calls whose answers its body holds, oldest first, each with its place among the turns of
    the assistant there, for what threads live answers into it (replay.live_history); `uses` counts the calls
    in whose history it is itself.
    """

    index: int
    due: float | None
    origin: Origin
    head: bytes
    body: bytes
    cost: float = 0.0
    label: bytes = b""
    arm: int = 0
    refusal: str | None = None
    after: tuple[int, ...] = ()
    opening: int | None = None
    history: tuple[tuple[int, int], ...] = ()
    uses: int = 0
    think: float = 0.0

    @property
    def bodyless(self) -> bool:
        """Whether its answer has a head only, whatever that says."""
        return self.head.startswith(b"HEAD ")


_pack: Final[Callable[[object], bytes]] = msgpack.Packer(unicode_errors="surrogatepass").pack


class Label(NamedTuple):
    """What the sample of a call will say of it, packed small, and carried along unread.

    `id` is the exchange's id in the trace, `cycle` the round, `request_bytes` the body's length, `session`
    numbers the conversation.
    """

    id: str
    cycle: int = 0
    endpoint: str = "other"
    model: str | None = None
    stream: bool = False
    request_bytes: int = 0
    session: int | None = None

    def pack(self) -> bytes:
        """As bytes. Half a character in a recorded word survives."""
        return _pack(self)

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """From its bytes."""
        return cls._make(msgpack.unpackb(packed, unicode_errors="surrogatepass"))


_parts: Final[Callable[[Call], tuple[Any, ...]]] = attrgetter(*(part.name for part in fields(Call)))


def frame(call: Call) -> bytes:
    """A call as bytes: its fields by place, as a worker reads them (replay.workers.calls)."""
    return _pack(_parts(call))


class Refusal(NamedTuple):
    """An attempt after which a call was sent again, `waited` seconds later (replay.waiting)."""

    status: int
    waited: float
    headers: Fields | list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Reply:
    """What a sender has seen of one attempt so far.

    `connecting` is when it began to open a connection for it (None: there was one), `reused` whether that
    connection had carried a request before, `sent` just before the first byte of the request left,
    `reconnected` whether it was sent again, as the first connection, a kept one, ended without a byte of an
    answer (`sent` and `connecting` are of the first try), `end` the last byte of the answer. `refusals` are
    the attempts before this one: `sent`, `connecting` and the call's deadline stay those of the first.
    `repeats` counts how often it was sent again, over all attempts, as `may_repeat` allowed.
    `headers` are as on the wire. `chunks` holds every read of the body with its time, `received` their bytes.
    `unsure` has, by their place in `chunks`, those of which a part may have come more than a millisecond
    before that time, and since when; the place behind the last is that of `end`. `failure` is set when the
    transport failed; else the answer decides. `on_data` is called by the engine when something more has come,
    for who reads along. Of the player are `held`, how long the call waited for `--max-in-flight`, or for its
    target, before it left (s), and `since`, when it came, or was refused (replay.waiting).
    """

    connecting: float | None = None
    reused: bool = False
    sent: float | None = None
    sent_wall_ns: int | None = None
    reconnected: bool = False
    status: int | None = None
    headers: Fields | list[tuple[bytes, bytes]] = ()
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    unsure: dict[int, float] = field(default_factory=dict)
    received: int = 0
    end: float | None = None
    refusals: tuple[Refusal, ...] = ()
    repeats: int = 0
    failure: tuple[Outcome, str] | None = None
    held: float = 0.0
    on_data: Callable[[], None] | None = None
    since: float = 0.0

    def send_again(self, waited: float) -> None:
        """What was said is a refusal; after so many seconds the same call goes out again."""
        assert self.status is not None
        self.refusals += (Refusal(self.status, waited, self.headers),)
        self.status, self.headers, self.chunks, self.unsure = None, (), [], {}
        self.received, self.end, self.reused = 0, None, False

    def header(self, name: str) -> str:
        """The first value of a header field by its lower-case name, or nothing."""
        wanted = name.encode()
        values = (value for key, value in self.headers if key.lower() == wanted)
        # Every byte is a character of latin-1: no head can fail here (RFC 9110, 5.5, leaves others opaque).
        return next(values, b"").decode("latin-1")


Ended = Callable[[], None]


class Sender(Protocol):
    """Sends calls and fills in their replies. Nothing raises for a request that failed."""

    def launch(self, call: Call, reply: Reply, ended: Ended) -> None:
        """Begin to send, and return at once.

        `ended` is called once, on the trio loop, when the reply is complete; never before `launch` has
        returned. It may launch the next call.
        """
        ...

    def abandon(self) -> None:
        """Cancel all that is in flight, at once: each ends as CANCELLED with what it had."""
        ...


# Which sender a replay uses: the engine where it runs, plain httpx elsewhere.

Choice = Literal["auto", "engine", "httpx"]
Kind = Literal["engine", "httpx"]
CLOCKS: Final[dict[Kind, str]] = {"engine": "kernel", "httpx": "user"}
"""What stamps the answers: the kernel when data arrives, or this process when it gets to read it."""


class OpenSender(Sender, Protocol):
    """A sender as a worker uses it: `async with`, `rehearse` once, `preopen`, then `launch`.

    `clock` is what stamped the answers so far, `kernel` or `user`; `stamps` how many reads each of them.
    `may_repeat` is asked before a call is sent again, as its kept connection had ended.
    """

    may_repeat: Callable[[Call], bool]

    @property
    def clock(self) -> str: ...
    @property
    def stamps(self) -> tuple[int, int]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def rehearse(self) -> None: ...
    async def preopen(self, origin: Origin, count: int) -> None: ...


def chosen(choice: Choice, *, http2: bool = False, proxy: str | None = None) -> Kind:
    """The sender that is meant. Raises InputError for one that does not run here, or cannot do that."""
    linux = sys.platform == "linux"
    general = "--http2" if http2 else "--proxy" if proxy else None
    if proxy is not None:
        from tbench.capture.redact import mask_address  # noqa: PLC0415 (a worker starts without it)

        scheme, mark, rest = proxy.partition("://")
        if scheme not in {"http", "https"} or not mark or not rest:
            raise InputError(f"--proxy {mask_address(proxy)}: write it as http://HOST:PORT")
    if http2 and find_spec("h2") is None:
        raise InputError("--http2 needs a package that is not there: pip install 'httpx[http2]'")
    if choice == "engine" and not linux:
        raise InputError("--sender engine: runs on Linux only; use --sender httpx")
    if choice == "engine" and general:
        raise InputError(
            f"--sender engine: does not do {general[2:]}; drop it, or use --sender httpx"
        )
    if choice == "auto":
        return "engine" if linux and not general else "httpx"
    return choice


def make_sender(
    kind: Kind,
    deadlines: Deadlines,
    context: ssl.SSLContext | None,
    *,
    http2: bool = False,
    proxy: str | None = None,
) -> OpenSender:
    """A sender of that kind; `http2` and `proxy` are for httpx. Without a `context` no https."""
    if kind == "engine":
        from tbench.replay.engine.sender import EngineSender  # noqa: PLC0415 (does not import elsewhere)

        return EngineSender(deadlines, context)
    from tbench.replay.httpx_sender import HttpxSender  # noqa: PLC0415 (and this one not needlessly)

    return HttpxSender(deadlines, context, http2=http2, proxy=proxy)


async def send(sender: Sender, call: Call) -> Reply:
    """One call, to its end. When the caller is cancelled the attempt still runs on."""
    reply, over = Reply(), trio.Event()
    sender.launch(call, reply, over.set)
    await over.wait()
    return reply


def too_long(most: int) -> tuple[Outcome, str]:
    """The failure of an answer that is longer than what is read."""
    return Outcome.PROTOCOL_ERROR, f"an answer over {most >> 20} MiB, not read on"


LIMITS: Final = frozenset(
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EADDRNOTAVAIL", "EACCES", "EPERM")
)
"""Why this machine opens no connection, whatever the server would say: descriptors, memory, ports, rules."""


def unconnected(error: BaseException, *, reached: bool) -> tuple[Outcome, str]:
    """The failure of a call for which no connection could be opened; `reached` says that others could."""
    # No address of its own is also the mark of a network that this machine is not in.
    limits = LIMITS if reached else LIMITS - {errno.EADDRNOTAVAIL}
    local = all(
        isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno in limits
        for cause in _causes(error)
    )
    return Outcome.CLIENT_LIMIT if local else Outcome.CONNECT_ERROR, error_text(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that others only pass on; several where several addresses were tried."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    elif below := _below(error):
        yield from _causes(below)
    else:
        yield error


def error_text(error: BaseException) -> str:
    """The words of the error that began it: the others only pass it on."""
    from tbench.capture.providers import one_line  # noqa: PLC0415 (a worker starts without it)

    words = ""
    below: BaseException | None = error
    while below is not None:
        words = one_line(str(below)) or words
        below = _below(below)
    return words or type(error).__name__


def _below(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    return error.__cause__ or error.__context__


# Reuse: which of its connections to an origin a sender keeps, by what became of those before. Pure.
#
# A server may close a kept connection without a word, and a server with a thread for each connection serves
# nobody else while we keep one. Both are told apart from servers without such habits by what they answer.

TIDY_S: Final = 0.005
"""Idle connections are looked through so often; younger ones are not closed for the sake of others."""
BREAKS: Final = 2
BREAKS_SHARE: Final = 0.1
"""So many re-used connections, and that share of all, ended unannounced: then none is kept."""
MEMORY_S: Final = 60.0
"""What a server did counts for so long. It may be restarted, or be another one behind the same address."""


class Reuse:
    """The connections to one origin. `busy` of them have a request on them; `reached`: one was opened.

    A sender tells when a request goes out and when it is over. `keeps` says whether its connection may
    serve another one.
    """

    def __init__(self) -> None:
        self.busy = 0
        self.reached = False
        self._fresh: dict[int, Reply] = {}
        self._since = math.inf
        self._learnt()

    def pass_time(self, now: float) -> None:
        """Call it now and then: what was learnt is forgotten every MEMORY_S seconds, and learnt anew."""
        self._since = min(self._since, now)
        if now - self._since > MEMORY_S:
            self._since = now
            self._learnt()

    def _learnt(self) -> None:
        """Nothing yet."""
        self._most = self._reused = self._broken = 0

    def began(self, reply: Reply, *, fresh: bool) -> None:
        """A request goes out, on a connection that is `fresh` when nothing was ever answered on it."""
        self.busy += 1
        self.reached = True
        if fresh:
            self._fresh[id(reply)] = reply
        else:
            self._reused += 1

    def ended(self, reply: Reply) -> None:
        """That request is over, or is to be sent again."""
        self.busy -= 1
        if self._fresh:
            self._fresh.pop(id(reply), None)

    def broke(self) -> None:
        """A re-used connection ended before any byte of the response."""
        self._broken += 1

    @property
    def keeps(self) -> bool:
        """Whether connections are kept: not where this server ends them unannounced as a habit."""
        return self._broken < BREAKS or self._broken < BREAKS_SHARE * self._reused

    @property
    def waiting(self) -> int:
        """How many requests are on connections on which the server has not answered yet."""
        for key in [key for key, reply in self._fresh.items() if reply.status is not None]:
            del self._fresh[key]
        return len(self._fresh)

    def surplus(self, idle: int) -> int:
        """How many of so many idle connections, which were answered on, others may be waiting for.

        A server that holds as many as it lately did at most, and does not answer on a new one, may have no
        thread left for it. One that has answered on more at once has: nobody waits for what is idle.
        """
        waiting = self.waiting
        held = idle + self.busy - waiting
        self._most = max(self._most, held)
        return min(idle, waiting) if held == self._most else 0


# The rehearsal: one request to a socket of our own, so that the first real one finds everything loaded.

PATIENCE_S: Final = 1.0


async def rehearse(sender: Sender) -> None:
    """Send one request and read its answer. How it goes does not matter."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _answer, listeners)
        with trio.move_on_after(PATIENCE_S):
            head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 2\r\n\r\n" % port
            origin = Origin("http", "127.0.0.1", port)
            await send(sender, Call(index=-1, due=None, origin=origin, head=head, body=b"{}"))
        nursery.cancel_scope.cancel()


async def _answer(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    await stream.aclose()
