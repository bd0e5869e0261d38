"""The addon's hooks, with mitmproxy's own test kit: what each sequence of hooks leaves in the trace."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from mitmproxy import http
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.flow import Error
from mitmproxy.proxy.server_hooks import ClientConnectedHook
from mitmproxy.test import taddons, tflow, tutils
from mitmproxy.websocket import WebSocketData

from tbench.capture.addon import STREAM_ABOVE, Capture, Script
from tbench.capture.exchange import Exchange, Outcome
from tbench.capture.intake import RecorderSetup, Recording, Selection
from tbench.capture.providers import endpoint_of
from tbench.capture.proxy import Setup, _Proxy
from tbench.capture.recorder import Recorder
from tbench.capture.records import TraceHeader
from tbench.capture.redact import Redactor
from tbench.capture.repair import check
from tbench.capture.sanitize import Sanitizer
from tbench.capture.tee import Budget
from tbench.capture.trace_info import trace_info
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.plan import Plan

KEY = "sk-addon-0123456789"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'


class Ticks:
    """A clock that is one millisecond later at each reading, or where the test puts it."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


@dataclass
class Kit:
    """A capture into a file, and the ways to drive it."""

    path: Path
    capture: Capture
    clock: Ticks
    budget: Budget
    closed: bool = field(default=False)

    def trace(self) -> list[Exchange]:
        if not self.closed:
            self.capture.shut()
            self.capture.recorder.close()
            self.closed = True
        return list(read_trace(self.path))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The test kit wants an event loop to be current."""
    one = asyncio.new_event_loop()
    asyncio.set_event_loop(one)
    yield one
    asyncio.set_event_loop(None)
    one.close()


@pytest.fixture
def kit(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Kit]]:
    made: list[Kit] = []

    def make(
        limit_bytes: int = 1 << 24,
        limit: int | None = None,
        **filters: object,
    ) -> Kit:
        clock, budget, redactor = Ticks(), Budget(limit_bytes), Redactor()
        path = tmp_path / f"t{len(made)}.msgpack"
        writer = TraceWriter(path, TraceHeader(wall_ns=0, mono_ns=0))
        recorder = Recorder(writer, Sanitizer(redactor), budget, now=clock)
        recorder.start()
        parts = RecorderSetup(
            recorder=recorder,
            redactor=redactor,
            selection=Selection(**filters),  # type: ignore[arg-type]
            now=clock,
        )
        one = Kit(path, Capture(parts, limit=limit), clock, budget)
        made.append(one)
        return one

    yield make
    for one in made:
        one.trace()


def flow(path: str = "/v1/chat/completions", **headers: str) -> http.HTTPFlow:
    """A chat request, and the head of its answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    made = tflow.tflow(
        req=tutils.treq(
            method=b"POST",
            path=path.encode(),
            content=b'{"model":"m"}',
            headers=http.Headers(((b"authorization", f"Bearer {KEY}".encode()),), **named),
        ),
        resp=tutils.tresp(
            status_code=200,
            headers=http.Headers(
                ((b"content-type", b"text/event-stream"), (b"set-cookie", b"a=b"))
            ),
        ),
    )
    made.client_conn.state = ConnectionState.OPEN
    return made


def start(capture: Capture, one: http.HTTPFlow) -> None:
    head, one.response = one.response, None
    capture.requestheaders(one)
    capture.request(one)
    one.response = head
    capture.responseheaders(one)


def stream(one: http.HTTPFlow, *pieces: bytes) -> None:
    assert one.response
    assert callable(one.response.stream)
    for piece in pieces:
        assert one.response.stream(piece) == piece


def test_a_streamed_exchange_is_recorded_whole(kit: Callable[..., Kit]) -> None:
    """Request, response, headers by allowlist, chunks with times and sizes, body as passed."""
    one, chat = kit(), flow()
    start(one.capture, chat)
    stream(chat, EVENT, b"data: [DO", b"NE]\n\n", b"")
    one.capture.response(chat)

    (exchange,) = one.trace()
    request, response = exchange.request, exchange.response
    assert response
    assert (request.method, request.path, request.body) == (
        "POST",
        "/v1/chat/completions",
        b'{"model":"m"}',
    )
    assert request.headers_withheld == 1
    assert request.arrive_ns < request.end_ns < (response.head_ns or 0) < response.end_ns
    assert response.headers == (("content-type", "text/event-stream"),)
    assert response.body == EVENT + b"data: [DONE]\n\n"
    assert [chunk.size for chunk in response.chunks] == [len(EVENT), 9, 5]
    assert response.outcome is Outcome.OK
    assert one.capture.in_flight == 0
    assert one.budget.held == 0


def test_the_stream_is_set_for_flows_that_are_not_recorded_too(kit: Callable[..., Kit]) -> None:
    """Buffering would delay the application's first token, recorded or not."""
    one, other = kit(), flow("/v1/files/upload")
    start(one.capture, other)

    assert other.response
    assert other.response.stream is True
    assert one.capture.in_flight == 1
    one.capture.response(other)
    assert one.capture.in_flight == 0
    assert one.trace() == []


def test_the_stream_is_set_before_anything_that_could_fail(kit: Callable[..., Kit]) -> None:
    """An exception in the hook must not leave the answer buffered."""
    one, chat = kit(), flow()
    start(one.capture, chat)
    assert chat.response
    chat.response.stream = False
    one.capture._now = lambda: 1 // 0

    with pytest.raises(ZeroDivisionError):
        one.capture.responseheaders(chat)

    assert chat.response.stream
    one.capture._now = one.clock


def test_no_key_reaches_the_queue(kit: Callable[..., Kit]) -> None:
    """Headers, path and host are clean before they are handed over."""
    one = kit()
    chat = flow(f"/v1/chat/completions?api_key={KEY}", x_request_id=KEY, user_agent="x")
    start(one.capture, chat)

    (live,) = one.capture.live.values()
    assert KEY not in repr(live.request)
    assert live.request.path == "/v1/chat/completions?api_key=***"


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Client disconnected.", Outcome.CLIENT_ABORT),
        (
            "HTTP/1 protocol error: peer closed connection without sending complete message body",
            Outcome.CUT,
        ),
    ],
)
def test_what_came_before_a_break_is_kept(
    kit: Callable[..., Kit], text: str, outcome: Outcome
) -> None:
    """`error` runs instead of `response`; the partial answer is in the trace."""
    one, chat = kit(), flow()
    start(one.capture, chat)
    stream(chat, EVENT)
    chat.error = Error(text)
    one.capture.error(chat)

    (exchange,) = one.trace()
    assert exchange.response
    assert exchange.response.body == EVENT
    assert exchange.outcome is outcome
    assert exchange.response.error == text


def test_an_upstream_that_closes_before_its_head_is_a_reset(kit: Callable[..., Kit]) -> None:
    """No status, no head time."""
    one, chat = kit(), flow()
    chat.response = None
    one.capture.requestheaders(chat)
    one.capture.request(chat)
    chat.error = Error("server closed connection")
    one.capture.error(chat)

    (exchange,) = one.trace()
    assert exchange.response
    assert (exchange.response.status, exchange.response.head_ns) == (None, None)
    assert exchange.outcome is Outcome.RESET


def test_a_refused_upstream_is_a_connect_error(kit: Callable[..., Kit]) -> None:
    """No connection was ever made."""
    one, chat = kit(), flow()
    chat.response = None
    chat.server_conn.timestamp_tcp_setup = None
    one.capture.requestheaders(chat)
    one.capture.request(chat)
    chat.error = Error("[Errno 111] Connect call failed ('127.0.0.1', 9)")
    one.capture.error(chat)

    assert [exchange.outcome for exchange in one.trace()] == [Outcome.CONNECT_ERROR]


def test_silence_beyond_the_idle_limit_is_a_timeout(
    kit: Callable[..., Kit], loop: asyncio.AbstractEventLoop
) -> None:
    """The watchdog's callback is wrapped, and still closes the connection."""
    one, chat = kit(), flow()
    closed: list[str] = []

    async def close() -> None:
        closed.append(chat.client_conn.id)
        chat.error = Error("Client disconnected.")
        one.capture.error(chat)

    watchdog = SimpleNamespace(callback=close)
    handler = SimpleNamespace(max_conns=defaultdict(lambda: None), timeout_watchdog=watchdog)
    server = SimpleNamespace(name="proxyserver", connections={chat.client_conn.id: handler})
    with taddons.context(loadcore=False) as tctx:
        tctx.master.addons.add(server)
        one.capture.client_connected(chat.client_conn)
    start(one.capture, chat)
    loop.run_until_complete(watchdog.callback())

    assert closed == [chat.client_conn.id]
    assert [exchange.outcome for exchange in one.trace()] == [Outcome.TIMEOUT]


def test_a_client_that_leaves_while_uploading_leaves_no_half_body(kit: Callable[..., Kit]) -> None:
    """Half a JSON body must not be replayed; its size stays."""
    one = kit()
    chat = flow(content_length=str(STREAM_ABOVE + 1))
    chat.response = None
    one.capture.requestheaders(chat)
    assert callable(chat.request.stream)
    chat.request.stream(b"x" * 1000)
    chat.error = Error("Client disconnected.")
    one.capture.error(chat)

    (exchange,) = one.trace()
    assert (exchange.request.body, exchange.request.body_bytes) == (None, 1000)
    assert exchange.outcome is Outcome.CLIENT_ABORT


def test_a_large_body_streams_upstream_and_is_kept(kit: Callable[..., Kit]) -> None:
    """Its upload time must not be added to the first token."""
    one = kit()
    chat = flow(content_length=str(STREAM_ABOVE + 1))
    chat.request.raw_content = None
    one.capture.requestheaders(chat)
    upload = chat.request.stream
    assert callable(upload)
    for piece in (b"a" * STREAM_ABOVE, b"b", b""):
        assert upload(piece) == piece
    one.capture.request(chat)
    one.capture.responseheaders(chat)
    one.capture.response(chat)

    (exchange,) = one.trace()
    assert exchange.request.body == b"a" * STREAM_ABOVE + b"b"
    assert exchange.request.body_bytes == STREAM_ABOVE + 1
    assert one.budget.held == 0


def test_a_large_upload_that_memory_cannot_hold_is_counted(kit: Callable[..., Kit]) -> None:
    """Its body is absent, not empty; its bytes are in a gap, and in what the capture says it lost."""
    one = kit(limit_bytes=STREAM_ABOVE)
    chat = flow(content_length=str(2 * STREAM_ABOVE))
    chat.request.raw_content = None
    one.capture.requestheaders(chat)
    upload = chat.request.stream
    assert callable(upload)
    for piece in (b"a" * STREAM_ABOVE, b"b" * STREAM_ABOVE, b""):
        assert upload(piece) == piece
    one.capture.request(chat)
    one.capture.responseheaders(chat)
    one.capture.response(chat)

    (exchange,) = one.trace()
    assert (exchange.request.body, exchange.request.body_bytes) == (None, 2 * STREAM_ABOVE)
    assert one.capture.recorder.counts.lost_bytes == 2 * STREAM_ABOVE
    assert trace_info(read_trace(one.path))["dropped_bytes"] == 2 * STREAM_ABOVE
    assert check(one.path).problems == [
        f"{2 * STREAM_ABOVE:,} bytes of bodies were dropped by the capture"
    ]


def test_a_method_of_any_bytes_is_recorded(kit: Callable[..., Kit]) -> None:
    """As a path of any bytes is: what is no UTF-8 reads as U+FFFD."""
    one, chat = kit(paths=("*",)), flow()
    chat.request.data.method = b"P\xffST"
    start(one.capture, chat)
    one.capture.response(chat)

    assert [exchange.request.method for exchange in one.trace()] == ["P\ufffdST"]
    assert not one.capture.recorder.counts.lost


def test_a_credential_of_any_bytes_is_withheld_and_masked(kit: Callable[..., Kit]) -> None:
    """As one of letters is: in its header, in the query, and where an answer repeats it."""
    one, chat = kit(), flow()
    key = b"sk-\xff\xfe\xe9-0123456789abc"
    chat.request.headers["authorization"] = b"Bearer " + key
    chat.request.data.path += b"?key=%FF%FEabcdefgh0123"
    start(one.capture, chat)
    stream(chat, b'data: {"error": "no key ' + key + b'"}\n\n')
    one.capture.response(chat)

    (exchange,) = one.trace()
    assert exchange.response
    assert key not in (exchange.response.body or b"")
    assert exchange.request.path.endswith("?key=***")
    assert not one.capture.recorder.counts.lost


def test_a_flow_that_never_ends_is_swept_when_its_client_leaves(kit: Callable[..., Kit]) -> None:
    """An HTTP/1.1 trailer leaves a flow without `response` and `error`."""
    one, chat, other = kit(), flow(), flow()
    start(one.capture, chat)
    start(one.capture, other)
    one.capture.client_disconnected(chat.client_conn)

    assert list(one.capture.live) == [other.id.replace("-", "")]
    assert [e.outcome for e in one.trace()] == [Outcome.CLIENT_ABORT, Outcome.PROXY_SHUTDOWN]


def test_shutting_down_finishes_what_is_in_flight(kit: Callable[..., Kit]) -> None:
    """Later hooks of the same flow change nothing, and nothing new is recorded."""
    one, chat = kit(), flow()
    start(one.capture, chat)
    stream(chat, EVENT)
    one.capture.shut()
    stream(chat, EVENT)
    chat.error = Error("Client disconnected.")
    one.capture.error(chat)
    start(one.capture, flow())

    (exchange,) = one.trace()
    assert exchange.outcome is Outcome.PROXY_SHUTDOWN
    assert exchange.response
    assert exchange.response.status == 200


def test_while_draining_connections_are_closed_after_their_answer(kit: Callable[..., Kit]) -> None:
    """A pool that keeps connections alive would otherwise go on sending through a closed listener."""
    one, chat = kit(), flow()
    one.capture.closing = True
    start(one.capture, chat)

    assert chat.response
    assert chat.response.headers["connection"] == "close"


def test_a_full_memory_lets_traffic_pass_and_counts_it(kit: Callable[..., Kit]) -> None:
    """Above 80 % a new flow is streamed without a record."""
    one = kit(limit_bytes=100)
    one.budget.take(90)
    chat = flow()
    start(one.capture, chat)

    assert chat.response
    assert chat.response.stream is True
    assert one.capture.recorder.counts.lost_requests == 1
    assert one.trace() == []


def test_a_body_beyond_the_memory_limit_keeps_its_times_and_sizes(kit: Callable[..., Kit]) -> None:
    """A live tee that finds the budget full stops storing, and goes on measuring."""
    one, chat = kit(limit_bytes=4_000), flow()
    start(one.capture, chat)
    stream(chat, b"x" * 1_000, b"y" * 3_000, b"z")
    one.capture.response(chat)

    (exchange,) = one.trace()
    assert exchange.response
    assert (exchange.response.body, exchange.response.body_bytes) == (None, 4_001)
    assert [chunk.size for chunk in exchange.response.chunks] == [1_000, 3_000, 1]
    assert one.capture.recorder.counts.lost_bytes == 4_001


def test_a_limit_of_requests_is_exact(kit: Callable[..., Kit]) -> None:
    """`--requests 2` records two, whatever else is under way."""
    one = kit(limit=2)
    for chat in [flow() for _ in range(5)]:
        start(one.capture, chat)
        one.capture.response(chat)

    assert [exchange.request.seq for exchange in one.trace()] == [0, 1]


def test_a_session_is_sampled_as_a_whole(kit: Callable[..., Kit]) -> None:
    """Turns of one conversation are all in or all out."""
    one = kit(sample=0.5)
    for session in range(20):
        for _ in range(3):
            chat = flow(x_session_id=f"s{session}")
            start(one.capture, chat)
            one.capture.response(chat)

    per_session: dict[str | None, int] = {}
    for exchange in one.trace():
        name = exchange.request.header("x-session-id")
        per_session[name] = per_session.get(name, 0) + 1
    assert 0 < len(per_session) < 20
    assert set(per_session.values()) == {3}


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [("/v1/realtime", "realtime"), ("/v1/responses", "responses_websocket")],
)
def test_a_websocket_is_marked_as_unsupported(
    kit: Callable[..., Kit], path: str, endpoint: str
) -> None:
    """It passes through; the trace says that something was there, and a plan why it is left out."""
    one, chat = kit(), flow(path, connection="Upgrade", upgrade="WebSocket")
    chat.request.method = "GET"
    start(one.capture, chat)
    assert chat.response
    chat.response.status_code = 101
    chat.websocket = WebSocketData()
    one.capture.response(chat)

    (exchange,) = one.trace()
    assert exchange.response
    assert exchange.response.extra["unsupported"] == "websocket"
    assert endpoint_of("GET", exchange.request.path).name == endpoint
    plan = Plan(trace=[exchange], allow_unsafe=True)
    assert not list(plan)
    assert plan.skipped == {"websocket": 1}


def test_a_refused_tunnel_is_recorded_for_known_hosts_only(kit: Callable[..., Kit]) -> None:
    """The application never came to say what it wanted: method CONNECT, outcome connect_error."""
    one = kit(hosts=(r"api\.example",))
    for host in ("api.example", "other.example"):
        tunnel = tflow.tflow(
            req=tutils.treq(method=b"CONNECT", host=host, port=443, path=b"", authority=b"x:443"),
            resp=tutils.tresp(
                status_code=502, content=b"Cannot connect to x: refused If you plan to"
            ),
        )
        one.capture.http_connect_error(tunnel)

    (exchange,) = one.trace()
    assert exchange.request.method == "CONNECT"
    assert exchange.outcome is Outcome.CONNECT_ERROR
    assert exchange.response
    assert exchange.response.error == "Cannot connect to x: refused"


def test_callers_are_told_apart_without_naming_them(kit: Callable[..., Kit]) -> None:
    """The pseudonym depends on the credential."""
    one = kit()
    first, second, other = flow(), flow(), flow()
    other.request.headers["authorization"] = "Bearer sk-somebody-else"
    for chat in (first, second, other):
        start(one.capture, chat)
        one.capture.response(chat)

    a, b, c = (exchange.request.client for exchange in one.trace())
    assert a == b != c


@pytest.mark.parametrize(
    ("given", "carrier"),
    [
        ((), "authorization"),
        (("x-api-key",), "authorization"),
        (("x-api-key", "api-key", None), "x-api-key"),
        (("Api-Key", None), "api-key"),
        ((None,), None),
    ],
)
def test_where_a_key_came_is_known_and_the_key_is_not(
    kit: Callable[..., Kit], given: tuple[str | None, ...], carrier: str | None
) -> None:
    """Of several headers, the one that servers heed; None takes the flow's own away."""
    one, chat = kit(), flow()
    for name in given:
        if name is None:
            del chat.request.headers["authorization"]
        else:
            chat.request.headers[name] = KEY
    start(one.capture, chat)
    one.capture.response(chat)

    (exchange,) = one.trace()
    assert exchange.request.extra.get("credential_header") == carrier
    assert KEY not in str(exchange)


def test_the_script_registers_its_options_and_writes_a_trace(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    """What `mitmdump -s capture/addon.py` does, hook by hook."""
    script, path = Script(), tmp_path / "t.msgpack"
    with taddons.context(loadcore=True) as tctx:
        tctx.master.addons.add(script)
        tctx.configure(script, tbench_output=str(path), tbench_path=["/v1/*"])
        script.running()
        capture = script._capture
        assert capture
        chat = flow()
        start(capture, chat)
        stream(chat, EVENT)
        script.done()

    (exchange,) = read_trace(path)
    assert exchange.outcome is Outcome.PROXY_SHUTDOWN
    assert exchange.response
    assert exchange.response.body == EVENT


def test_the_script_says_what_is_wrong_with_its_options(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that is logged at the start ends mitmdump."""
    script = Script()
    with taddons.context(loadcore=True) as tctx:
        tctx.master.addons.add(script)
        tctx.configure(script, tbench_sample="7", tbench_output=str(tmp_path / "t.msgpack"))
        script.running()
        script.done()

    assert "--sample 7" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_what_the_filters_keep_out_is_counted_by_the_filter(kit: Callable[..., Kit]) -> None:
    """A tunnel to another host, another path and what comes after the limit: none silently gone."""
    one = kit(limit=1, hosts=("address",))
    tunnel = flow()
    tunnel.request.host = "elsewhere.example"
    one.capture.http_connect(tunnel)
    for path in ("/v1/files", "/v1/chat/completions", "/v1/chat/completions"):
        one.capture.requestheaders(flow(path))

    assert one.capture.left_out == {"host": 1, "path": 1, "limit": 1}
    assert len(one.trace()) == 1


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        *((address, True) for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8")),
        *((address, False) for address in ("10.1.2.3", "192.168.0.9", "fd00::1", "127.0.0.1")),
    ],
)
def test_clients_at_public_addresses_are_refused(
    address: str, refused: bool, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    """Wherever it listens, before a byte of theirs is read; those of a private network are served."""
    recording = Recording(output=tmp_path / "t.msgpack", selection=Selection())
    client = Client(peername=(address, 40000), sockname=("10.0.0.1", 8080), timestamp_start=0.0)

    async def connect() -> None:
        setup, watch = Setup(recording=recording, host="10.0.0.1"), SimpleNamespace()
        master = _Proxy(setup, watch, tmp_path)._master(loop)  # type: ignore[arg-type]
        await master.addons.trigger_event(ClientConnectedHook(client))  # type: ignore[no-untyped-call]

    loop.run_until_complete(connect())

    assert bool(client.error) == refused
