"""The mitmproxy addon: turn what the hooks report into records of exchanges, for the recorder.

Hooks run on the event loop that carries the traffic, so they stamp, append and hand over; nothing is
packed, compressed or awaited here. `Capture` serves `tbench capture` and `mitmdump -s capture/addon.py`,
for which `Script` at the end reads options.
"""

import asyncio
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mitmproxy import connection, ctx, http, tls
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import http as _http_layer
from mitmproxy.proxy.layers.http import _http1

from tbench.capture.endings import Failure
from tbench.capture.errors import TbenchError
from tbench.capture.exchange import LED_BACK, Outcome
from tbench.capture.intake import (
    MAX_PENDING,
    USUAL_PORTS,
    Intake,
    Live,
    RecorderSetup,
    Recording,
    RequestHead,
    ResponseHead,
    Selection,
    begin,
)
from tbench.capture.redact import mask_lookalikes

logger = logging.getLogger(__name__)

STREAM_ABOVE = 1 << 20
"""Larger request bodies go upstream as they come in, instead of after their last byte."""

PLENTY = 1 << 20
"""Upstream connections that a client connection may have: no limit that anyone meets."""

REDIRECT = 3
REFUSED = "tbench_refused"
"""What says in a flow's metadata that it was answered here."""


class Capture(Intake):
    """The hooks of one capture. Whatever the filters leave out passes through, streamed.

    With `tls_only` what came in plain text, with `closed` what is for other hosts is refused instead.
    """

    def __init__(
        self,
        setup: RecorderSetup,
        *,
        limit: int | None = None,
        tls_only: bool = False,
        closed: bool = False,
    ) -> None:
        super().__init__(setup, limit=limit)
        self._tls_only, self._closed = tls_only, closed
        # mitmproxy (12) has no hook there: its layer makes
        # the class of this name for each server connection.
        _http_layer.Http1Client = _PatientClient  # type: ignore[attr-defined]
        self.passing: dict[str, str] = {}
        self.closing = False
        self.redirected: Counter[str] = Counter()
        self._timed_out: set[str] = set()
        self._conns: defaultdict[str, int] = defaultdict(iter(setup.numbers[1:]).__next__)

    @property
    def in_flight(self) -> int:
        """Exchanges under way, recorded or not."""
        return len(self.live) + len(self.passing)

    def client_connected(self, client: connection.Client) -> None:
        """Change two things in mitmproxy's handler of a connection, before its first byte.

        Lift the limit of five upstream connections per client connection (mitmproxy #8322): the sixth
        stream of an HTTP/2 client before an HTTP/1.1 upstream would have to wait. And note when the idle
        watchdog strikes, which is otherwise reported like a client that left.
        """
        addons: Any = ctx.master.addons
        proxyserver = addons.get("proxyserver")
        if handler := proxyserver and proxyserver.connections.get(client.id):
            handler.max_conns.default_factory = lambda: asyncio.Semaphore(PLENTY)
            watchdog = handler.timeout_watchdog
            close = watchdog.callback

            async def time_out() -> None:
                self._timed_out.add(client.id)
                await close()

            watchdog.callback = time_out

    def client_disconnected(self, client: connection.Client) -> None:
        """End what got neither `response` nor `error`: an HTTP/1.1 trailer leaves such a flow."""
        conn = self._conns.pop(client.id, None)
        self._timed_out.discard(client.id)
        self.passing = {key: owner for key, owner in self.passing.items() if owner != client.id}
        # A copy, as `end` takes each out.
        for live in list(self.live.values()):
            if live.request.conn == conn:
                self.end(live, Outcome.CLIENT_ABORT, "the client left before the end was passed on")

    def tls_clienthello(self, hello: tls.ClientHelloData) -> None:
        """Connect to an https server before its client's handshake: both then speak one HTTP version."""
        hello.establish_server_tls_first = hello.context.server.tls

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Decide whether the exchange is recorded, and let a large body stream."""
        arrive_ns = self._now()
        if self._refuses(flow):
            return
        # Mitmproxy holds what is not streamed until its last byte: fine for a prompt, which is recorded
        # whole; a large upload would be late by its own length, and in memory twice.
        length = flow.request.headers.get("content-length", "")
        large = length.isdecimal() and int(length) > STREAM_ABOVE
        flow.request.stream = large
        head = _request_head(flow)
        if not self.wants(head):  # a drain waits for what only passes through as well
            self.passing[flow.id] = flow.client_conn.id
            return
        live = self._take(flow, head, arrive_ns)
        if large:
            flow.request.stream = live.upload.pass_on

    def request(self, flow: http.HTTPFlow) -> None:
        """The last byte of the request has come."""
        if live := self.live.get(_record_id(flow)):
            self.ask(live, flow.request.raw_content)  # a streamed body is in its tee alone

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Never buffer: the stream is set before anything that could fail."""
        live = self.live.get(_record_id(flow))
        assert flow.response
        if flow.metadata.get(REFUSED):
            return
        flow.response.stream = live.answer.pass_on if live else True
        if live:
            live.head_ns = self._now()
        self._keep_redirect(flow)
        # A connection that was kept open would keep the drain from ending. HTTP/2 has no such field.
        if self.closing and not flow.request.is_http2:
            flow.response.headers["connection"] = "close"

    def response(self, flow: http.HTTPFlow) -> None:
        """The last byte has come. It is passed on after this hook, so be quick."""
        self.passing.pop(flow.id, None)
        if live := self.live.get(_record_id(flow)):
            self.end(live, Outcome.OK)

    def error(self, flow: http.HTTPFlow) -> None:
        """The exchange broke off, on either side.

        A server that closes before its head leaves the client with a closed connection, as it would have
        without a proxy: SDKs tell that from the 502 that mitmproxy would answer.
        """
        self.passing.pop(flow.id, None)
        text = flow.error.msg if flow.error else "unknown error"
        server = flow.server_conn
        outcome = Failure(
            text=text,
            timed_out=flow.client_conn.id in self._timed_out,
            client_connected=flow.client_conn.connected,
            upstream_connected=server.timestamp_tcp_setup is not None,
            upstream_http2=server.alpn == b"h2",
            head_seen=flow.response is not None,
        ).outcome
        if live := self.live.get(_record_id(flow)):
            self.end(live, outcome, text)
        if outcome is Outcome.RESET and flow.killable:
            flow.kill()  # type: ignore[no-untyped-call]

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Count a tunnel to a host that is not looked into: nothing else of it will be seen."""
        if not self._refuses(flow) and not self._selection.wants_host(flow.request.host):
            self.left_out["host"] += 1

    def http_connect_error(self, flow: http.HTTPFlow) -> None:
        """Record a tunnel that could not be opened: the application never sent its request."""
        refused = flow.metadata.get(REFUSED)
        if refused or not self._selection.wants_host(flow.request.host) or not self.accepts():
            return
        live = self._take(flow, _request_head(flow), self._now())
        text = (flow.response and flow.response.text) or "the tunnel was refused"
        # What mitmproxy says behind it is advice for its own command line.
        self.end(live, Outcome.CONNECT_ERROR, text.partition(" If you plan")[0])

    def shut(self) -> None:
        """Finish what is still in flight; nothing is recorded from here on."""
        super().shut()
        self.passing.clear()

    def _refuses(self, flow: http.HTTPFlow) -> bool:
        """Answer with 403 what a capture that others reach does not carry; counts it."""
        if self._tls_only and not flow.client_conn.tls_established:
            why = "This capture is spoken to by https only: what was sent, a key too, crossed in the clear."
        elif self._closed and not self._selection.wants_host(flow.request.host):
            why = "This capture forwards to the hosts of its --host only."
        else:
            return False
        self.left_out["refused"] += 1
        flow.metadata[REFUSED] = True
        if flow.request.headers.get("content-length", "0").isdecimal() and (
            "transfer-encoding" not in flow.request.headers
        ):
            flow.response = http.Response.make(403, why + "\n", {"content-type": "text/plain"})
        else:  # mitmproxy would hold such a body, however long, before it answers
            flow.kill()  # type: ignore[no-untyped-call]
        return True

    def _keep_redirect(self, flow: http.HTTPFlow) -> None:
        """In reverse mode, lead a redirect to the upstream's own origin back through the capture.

        A relative `Location` does, whatever address the client knows the capture by. Redirects to other
        origins are counted: what follows them goes past the capture. Those that lead back are marked.
        """
        assert flow.response
        location = flow.response.headers.get("location")
        if not location:
            return
        redirects = flow.response.status_code // 100 == REDIRECT
        reverse = flow.client_conn.proxy_mode.type_name == "reverse"
        try:
            target = urlsplit(location)
            port = target.port or USUAL_PORTS.get(target.scheme)
        except ValueError:
            return
        request = flow.request
        origin = (request.scheme, request.host.lower(), request.port)
        relative = not target.scheme and not target.netloc
        if relative or (target.scheme, target.hostname, port) == origin:
            flow.metadata[LED_BACK] = redirects
        if not reverse or "://" not in location:
            return
        # A path that begins with two slashes would be read as another host once the host before it is gone.
        if (target.scheme, target.hostname, port) == origin and not target.path.startswith("//"):
            rest = target._replace(scheme="", netloc="", path=target.path or "/")
            flow.response.headers["location"] = rest.geturl()
        elif redirects:
            host = target.netloc.rpartition("@")[2]
            self.redirected[mask_lookalikes(host)] += 1

    def _take(self, flow: http.HTTPFlow, head: RequestHead, arrive_ns: int) -> Live:
        client = flow.client_conn
        return self.begin(
            head,
            partial(_response_head, flow),
            arrive_ns,
            id=_record_id(flow),
            caller=str(client.peername[0]) if client.peername else "",
            conn=self._conns[client.id],
        )


def _record_id(flow: http.HTTPFlow) -> str:
    return flow.id.replace("-", "")


def _request_head(flow: http.HTTPFlow) -> RequestHead:
    request = flow.request
    return RequestHead(
        request.method,
        request.scheme,
        request.host,
        request.port,
        request.path,
        request.headers.fields,
        request.http_version,
    )


def _response_head(flow: http.HTTPFlow) -> ResponseHead:
    """The head of an answer, what the format says beside it, and what its connection cost, ns, if any."""
    head, server = flow.response, flow.server_conn
    extra: dict[str, Any] = {"unsupported": "websocket"} if flow.websocket else {}
    if flow.metadata.get(LED_BACK):
        extra[LED_BACK] = True
    start, tcp, tls = server.timestamp_start, server.timestamp_tcp_setup, server.timestamp_tls_setup
    if start is not None and tcp is not None:
        extra["upstream_reused"] = start < flow.request.timestamp_start
        if not extra["upstream_reused"]:
            extra["upstream_connect_ns"] = round((tcp - start) * 1e9)
            extra["upstream_tls_ns"] = round((tls - tcp) * 1e9) if tls else None
    if head is None:
        return ResponseHead(extra=extra)
    return ResponseHead(head.status_code, head.headers.fields, head.http_version, extra)


class _PatientClient(_http1.Http1Client):
    """Mitmproxy's side towards an HTTP/1.1 server, which takes an interim answer for the final one.

    Here 100 to 199, but for the upgrade, are passed on as they come (RFC 9110, 15.2), where the client
    speaks HTTP/1.1 as well, and the answer is waited for.
    """

    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived) and self.request:
            while interim := _INTERIM.match(bytes(self.buf)):
                self.buf.maybe_extract_at_most(interim.end())
                # A client of HTTP/1.0 must get none of these (RFC 9110, 15.2).
                if self.request.http_version == "HTTP/1.1":
                    yield commands.SendData(self.context.client, interim[0])
        yield from super().read_headers(event)


# Not 101: that is the final answer of an upgrade.
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\b[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n")


class Script:
    """What `mitmdump -s capture/addon.py` loads: a Capture made from mitmproxy's options.

    `--set tbench_output=trace.msgpack`; also tbench_sample, tbench_path, tbench_host,
    tbench_max_pending_mb.
    """

    def __init__(self) -> None:
        self._parts: RecorderSetup | None = None
        self._capture: Capture | None = None

    def load(self, loader: Loader) -> None:
        loader.add_option("tbench_output", str, "trace.msgpack", "The trace file to write.")
        loader.add_option("tbench_sample", str, "1", "The share of sessions to record, 0 to 1.")
        loader.add_option("tbench_path", Sequence[str], [], "Globs of the paths to record.")
        loader.add_option("tbench_host", Sequence[str], [], "Regexes of the hosts to record.")
        loader.add_option(
            "tbench_max_pending_mb",
            int,
            MAX_PENDING >> 20,
            "Memory for bodies on their way to disk.",
        )

    def running(self) -> None:
        """Create the trace once mitmproxy listens."""
        options: Any = ctx.options  # they have no static types
        try:
            recording = Recording(
                output=Path(options.tbench_output),
                selection=Selection(
                    hosts=tuple(options.tbench_host),
                    paths=tuple(options.tbench_path),
                    sample=float(options.tbench_sample),
                ),
                mode="mitmdump",
                max_pending=options.tbench_max_pending_mb << 20,
            )
            self._parts = begin(
                recording, partial(logger.error, "tbench: RECORDING STOPPED, traffic goes on: %s")
            )
        except (TbenchError, ValueError) as error:
            logger.error("tbench: %s", error)  # mitmdump ends at once when an error is logged now
            return
        self._capture = Capture(self._parts)
        addons: Any = ctx.master.addons
        addons.add(self._capture)

    def done(self) -> None:
        """Finish what is in flight, close the file. Mitmdump reports broken flows only after this."""
        if self._capture and self._parts:
            self._capture.shut()
            self._parts.recorder.close()


addons = [Script()]
