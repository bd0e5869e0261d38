"""Serves the simulator with uvicorn: sockets, signals, the announcement, the end."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tbench.capture.errors import InputError
from tbench.capture.stopping import stop_signals
from tbench.capture.writing import check_folder
from tbench.simulator.app import application
from tbench.simulator.profile import Profile
from tbench.simulator.service import Rules, Service
from tbench.simulator.truth import Ledger

GRACE_S = 2.0
"""How long streams may go on after the signal to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to listen, and until when: `duration_s` and `requests` end the server by themselves."""

    host: str = "127.0.0.1"
    port: int = 8000
    tls_cert: Path | None = None
    tls_key: Path | None = None
    duration_s: float | None = None
    requests: int | None = None


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
        """Close in the middle; with `reset`, by an RST. Returns when the connection is gone."""
        if reset:
            sock = self.transport.get_extra_info("socket")
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
        timer = asyncio.get_running_loop().call_later(GRACE_S, self._service.hang_up)
        await super().shutdown(sockets)
        timer.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where the port is taken or the host is not ours."""
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
        raise InputError(
            f"cannot listen on {host}:{port}: {reason}; choose another --port (0 = any free one)"
        ) from None
    return sock


def _opened(log: Path) -> BinaryIO:
    check_folder(log, f"--log {log}")
    try:
        return log.open("wb")
    except OSError as error:
        raise InputError(f"--log {log}: cannot be written: {error.strerror}") from None


def run(profile: Profile, rules: Rules, place: Place, log: Path | None) -> None:
    """Serve until a signal, or as long as `place` says. Raises InputError before it listens."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_opened(log)) if log else None
        sock = listen(place.host, place.port)
        stack.callback(sock.close)
        ledger = Ledger(stream)
        asyncio.run(_serve(profile, rules, ledger, place, sock))
        say(_summary(ledger))


async def _serve(
    profile: Profile, rules: Rules, ledger: Ledger, place: Place, sock: socket.socket
) -> None:
    service = Service(profile, rules, ledger)
    scheme = "https" if place.tls_cert else "http"
    host, port = sock.getsockname()[:2]
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    said = f"listening on {url} (profile {profile.name}, seed {rules.seed})"
    server = Server(_config(service, place), service, lambda: say(f"{said}; base_url {url}/v1"))
    async with asyncio.TaskGroup() as tasks:
        engine = tasks.create_task(service.driver.run())
        limit = tasks.create_task(_until(server, ledger, place))
        await server.serve([sock])
        engine.cancel()
        limit.cancel()


async def _until(server: Server, ledger: Ledger, place: Place) -> None:
    """End the server once its time or its number of requests is up."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not server.should_exit:
        await asyncio.sleep(0.05)
        timed_out = place.duration_s is not None and loop.time() - began >= place.duration_s
        counted_out = place.requests is not None and ledger.served >= place.requests
        if timed_out or counted_out:
            server.end()


def _config(service: Service, place: Place) -> uvicorn.Config:
    return uvicorn.Config(
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
        ssl_certfile=place.tls_cert,
        ssl_keyfile=place.tls_key,
    )


def _summary(ledger: Ledger) -> str:
    stats = ledger.stats()
    late = stats["lateness_p50_ms"], stats["lateness_p99_ms"]
    lateness = f"; tokens late by p50 {late[0]} ms, p99 {late[1]} ms" if late[0] is not None else ""
    most = stats["max_in_flight"]
    return f"served {stats['served']} requests, at most {most} in flight{lateness}"


def say(text: str) -> None:
    """A line for whoever started the server."""
    print(f"tbench serve: {text}", file=sys.stderr, flush=True)
