"""Serves the simulator with uvicorn: sockets, signals, the announcement, the end."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.runtime import stop_signals
from tbench.capture.terminal import plural
from tbench.capture.writing import check_folder
from tbench.simulator.answer import JSON_TYPE
from tbench.simulator.call import ClientGoneError, HungUpError, Ledger, Receive, Send
from tbench.simulator.chat import CHAT
from tbench.simulator.command import ServeOptions
from tbench.simulator.engine import Profile
from tbench.simulator.order import Refusal
from tbench.simulator.service import DIALECTS, POSTS, Handle, Rules, Service, models, nothing

# The service as an ASGI application: routes, and the one way in and out of every endpoint.


def application(service: Service) -> Starlette:
    """The routes: the API at /v1 and at /v1/v1, the truth beside it, 404 for the rest."""
    routes = []
    for base in ("/v1", "/v1/v1"):
        for name, handle in POSTS.items():
            endpoint = Endpoint(service, name, handle)
            routes.append(Route(f"{base}/{name}", endpoint, methods=["POST"]))
        routes.append(Route(f"{base}/models", Endpoint(service, "models", models), methods=["GET"]))
    ledger = service.ledger
    facts = {"/_truth": ledger.truth, "/_stats": ledger.stats, "/_reset": ledger.reset}
    routes += [Route(path, FactsEndpoint(read)) for path, read in facts.items()]
    routes.append(Route("/{rest:path}", Endpoint(service, "other", nothing)))
    return Starlette(routes=routes)


@dataclass(frozen=True)
class Endpoint:
    """One path. Whatever happens, the request has its record, and a refusal its JSON body."""

    service: Service
    name: str
    handle: Handle

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        call = self.service.open(scope, receive, send, self.name)
        record = call.record
        try:
            await self.handle(self.service, call)
        except Refusal as refused:
            record.outcome = "http_error"
            call.extra |= refused.headers
            if refused.page is None:
                content = DIALECTS.get(self.name, CHAT).refusal(refused, record.id)
                await call.reply(refused.status, orjson.dumps(content), JSON_TYPE)
            else:
                await call.reply(refused.status, refused.page, "text/html; charset=UTF-8")
        except HungUpError:
            record.outcome = "reset" if record.status is None else "cut"
            await call.line.hang_up(reset=record.fault == "reset")
        except (ClientGoneError, asyncio.CancelledError):
            record.outcome = "shutdown" if self.service.ending else "client_abort"
            await call.line.hang_up(reset=False)
        finally:
            self.service.ledger.close(record)


@dataclass(frozen=True)
class FactsEndpoint:
    """A path beside the API that answers with what the ledger knows, as JSON."""

    read: Callable[[], object]

    async def __call__(self, _scope: Mapping[str, Any], _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", JSON_TYPE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(self.read())})


GRACE_S = 2.0
"""How long streams may go on after the signal to end."""


class Connection(HttpToolsProtocol):
    """A client's connection, which the application may close in the middle of an answer."""

    on_lost: Callable[[], None] | None = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["tbench.line"] = self  # type: ignore[typeddict-unknown-key]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_lost:
            self.on_lost()

    async def hang_up(self, *, reset: bool) -> None:
        """Close in the middle; with `reset`, by an RST."""
        if reset:
            sock = self.transport.get_extra_info("socket")
            # Lingering for no time: Linux answers the close with an RST and drops what is unsent.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()
        self.cycle.disconnected = True  # else uvicorn takes the answer for a broken one


class Server(uvicorn.Server):
    """Uvicorn that announces itself, leaves signals to us, and cuts what outlives the grace."""

    def __init__(
        self, config: uvicorn.Config, service: Service, announce: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:  # uvicorn would raise them again at the end
        loop = asyncio.get_running_loop()
        with contextlib.suppress(
            ValueError, RuntimeError
        ):  # not in the main thread: nobody signals
            for number in stop_signals():
                loop.add_signal_handler(number, self.end)
        yield

    def end(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before uvicorn's own timeout, a second later, which would cancel the streams instead of ending them.
        timer = asyncio.get_running_loop().call_later(GRACE_S, self._service.hang_up)
        await super().shutdown(sockets)
        timer.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where the port is taken or the host is not ours."""
    if not host:  # of a shell variable that is not set: the system would listen on every address
        raise InputError("--host '': give an address of this machine; 0.0.0.0 is all of them")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named: 40 ms at the first token.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        unknown = isinstance(error, socket.gaierror)
        cure = "--host, an address of this machine" if unknown else "--port (0 = any free one)"
        raise InputError(
            f"cannot listen on {host}:{port}: {reason}; choose another {cure}"
        ) from None
    return sock


def run(profile: Profile, rules: Rules, options: ServeOptions) -> None:
    """Serve until a signal, or as long as the options say. Raises InputError before it listens."""
    with contextlib.ExitStack() as stack:
        stream, log = None, options.log
        if log:
            check_folder(log, f"--log {log}")
            try:
                if log.is_file() and log.stat().st_size:
                    raise InputError(
                        f"--log {log}: exists already; choose another name or remove it"
                    )
                stream = stack.enter_context(log.open("wb", buffering=0))
            except OSError as error:
                raise InputError(f"--log {log}: cannot be written: {error.strerror}") from None
        sock = listen(options.host, options.port)
        stack.callback(sock.close)
        ledger = Ledger(stream)
        asyncio.run(_serve(profile, rules, ledger, options, sock))
        stats = ledger.stats()
        late = stats["lateness_p50_ms"], stats["lateness_p99_ms"]
        lateness = (
            f"; tokens late by p50 {late[0]} ms, p99 {late[1]} ms" if late[0] is not None else ""
        )
        served, most = plural(ledger.total, "request"), stats["max_in_flight"]
        since = f"; since /_reset {stats['served']:,}" if stats["served"] < ledger.total else ""
        say(f"served {served}{since}, at most {most} in flight{lateness}")
        if ledger.unlogged:
            raise InvalidRunError(
                f"--log {log}: {ledger.log_failure}: lacks the last {plural(ledger.unlogged, 'request')}"
            )


async def _serve(
    profile: Profile, rules: Rules, ledger: Ledger, options: ServeOptions, sock: socket.socket
) -> None:
    service = Service(profile, rules, ledger)
    scheme = "https" if options.tls_cert else "http"
    host, port = sock.getsockname()[:2]
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    line = f"listening on {url} (profile {profile.name}, seed {rules.seed}); base_url {url}/v1"
    config = uvicorn.Config(
        application(service),
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(GRACE_S) + 1,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    server = Server(config, service, lambda: say(line))
    loop = asyncio.get_running_loop()
    began, told = loop.time(), False
    async with asyncio.TaskGroup() as tasks:
        engine = tasks.create_task(service.driver.run())
        serving = tasks.create_task(server.serve([sock]))
        while not serving.done():
            timed_out = options.duration is not None and loop.time() - began >= options.duration
            counted_out = options.requests is not None and ledger.total >= options.requests
            if timed_out or counted_out:
                server.end()
            if ledger.log_failure and not told:
                told = True
                say(f"--log {options.log}: {ledger.log_failure}: no more is written to it")
            await asyncio.wait([serving], timeout=0.05)
        engine.cancel()


def say(text: str) -> None:
    """A line for whoever started the server."""
    print(f"tbench serve: {text}", file=sys.stderr, flush=True)
