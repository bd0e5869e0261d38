"""The proxy of `tbench capture`: mitmproxy embedded, from the first listener to the last drained stream.

A bare Master with the handful of addons that HTTP needs, not DumpMaster: each hook walks every addon, and
DumpMaster's thirty others would halve the throughput, serve mitm.it, and end the process on errors.
"""

import asyncio
import gc
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import certifi
from mitmproxy.addons import block, core, disable_h2c, next_layer, proxyserver, tlsconfig
from mitmproxy.certs import Cert, CertStore
from mitmproxy.master import Master
from mitmproxy.options import CONF_BASENAME, KEY_SIZE, Options

from tbench.capture.addon import Capture
from tbench.capture.errors import InputError
from tbench.capture.histogram import Histogram
from tbench.capture.intake import Recording, begin
from tbench.capture.redact import mask_address
from tbench.capture.runtime import allow_descriptors, stop_signals
from tbench.capture.status import Listening, Status, Watch, notices

# Where a capture listens and where it forwards: checked before anything begins.


def parse_upstream(text: str) -> str:
    """A server's address as SCHEME://HOST[:PORT]; a path of /v1, which applications add, is dropped.

    Raises InputError for anything else, never quoting a credential.
    """
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise InputError(f"--upstream: {mask_address(text)!r} is not a URL") from None
    if url.username is not None or url.query or url.fragment:
        raise InputError(
            "--upstream takes no user, password or query: keys come from the application"
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InputError(
            f"--upstream {mask_address(text)!r}: give it as http://HOST:PORT or https://HOST"
        )
    if url.path.rstrip("/") not in ("", "/v1"):
        raise InputError(
            f"--upstream {mask_address(text)!r}: leave out the path; the application's own is passed on"
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}" + (f":{port}" if port else "")


def check_port(host: str, port: int) -> None:
    """Fail before a file is made. Mitmproxy itself only logs that it could not listen."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As asyncio's servers do, or a port in TIME_WAIT would be refused here and taken there.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"cannot listen on {host}:{port}: {why}; choose another --port") from None


def check_certificate(path: Path) -> None:
    """Raise InputError where a PEM file does not hold a certificate and its key, or one that has expired.

    Mitmproxy only logs the one, and of the other only clients would tell.
    """
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            path,
            # Without a password of ours OpenSSL would ask for one on the terminal.
            password=lambda: b"",
        )
    except FileNotFoundError:
        raise InputError(f"--cert {path}: no such file") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"--cert {path}: not a certificate and its unencrypted key in one PEM file ({why})"
        ) from None
    certificate = Cert.from_pem(path.read_bytes())
    if certificate.has_expired():
        raise InputError(
            f"--cert {path}: expired on {certificate.notafter:%Y-%m-%d}; clients would refuse it"
        )


HURRIED_FLUSH_S = 5.0
LAG_EVERY_S = 0.1
START_S, HANG_UP_S = 30.0, 2.0
TICK_S = 0.5
CLOCK_EVERY_S = 60.0
KEY_FILES = ("mitmproxy-ca.pem", "mitmproxy-ca.p12")
"""Where mitmproxy writes the private key of the throw-away CA, which it reads once."""
RELAYED: Final = signal.SIGUSR1
"""What ends one of several processes in good order; all other signals are the first one's to count."""
SWITCH_S = 0.0005
"""How long the writer thread may keep the interpreter while a chunk waits (Python's default is 5 ms)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How to listen, where to forward, when to stop. Seconds; None never stops by itself.

    With a `cert`, a PEM file of a certificate and its key, only TLS is answered. A proxy that is `closed`
    answers hosts that it does not record with 403 instead of tunnelling to them.
    A `command` is run with what it needs to come here; its end is the capture's.
    """

    recording: Recording
    host: str = "127.0.0.1"
    port: int = 8080
    cert: Path | None = None
    closed: bool = False
    upstream_ca: Path | None = None
    grace_s: float = 30.0
    duration_s: float | None = None
    requests: int | None = None
    idle_s: int = 3600
    command: Sequence[str] = ()


def run(setup: Setup, watch: Watch) -> Status:
    """Capture until a signal, the duration or the number of requests ends it; returns the last status.

    SIGINT, SIGTERM and SIGHUP drain what is in flight for at most the grace; a second one cuts it short. A
    command gets them first, and the capture waits for its end. The trace is closed in any case. Raises
    InputError, before anything listens, where it cannot begin.
    """
    if setup.command and shutil.which(setup.command[0]) is None:
        raise InputError(f"{setup.command[0]}: there is no such command to run")
    check_port(setup.host, setup.port)
    with folder_of_this_process() as folder:
        return serve(setup, watch, folder)


def serve(setup: Setup, watch: Watch, folder: Path) -> Status:
    """The same with a folder for the throw-away CA, on a port that processes of one capture may share."""
    allow_descriptors()
    shared = setup.recording.processes > 1
    with _low_latency():
        loop = _SharedPort if shared else None
        return asyncio.run(_Proxy(setup, watch, folder).run(), loop_factory=loop)


class _SharedPort(asyncio.SelectorEventLoop):
    """A loop whose listeners share their port: the kernel gives each new connection to one of them.

    Mitmproxy has no option for it.
    """

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:  # noqa: ANN401
        return await super().create_server(*arguments, **options, reuse_port=True)


@contextmanager
def folder_of_this_process() -> Iterator[Path]:
    """A folder that is deleted with this process, even by `kill -9`: by a shell in a session of its own.

    The shell waits for the end of a pipe whose other end only this process holds.
    """
    with tempfile.TemporaryDirectory(prefix="tbench-ca-", ignore_cleanup_errors=True) as folder:
        guard = subprocess.Popen(  # noqa: S603 (nothing in it comes from outside)
            # `cat` ends when the pipe does, which is when this process is gone, by whatever signal.
            ["/bin/sh", "-c", 'cat; rm -rf -- "$0"', folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            yield Path(folder)
        finally:
            guard.communicate()


def make_authority(folder: Path) -> None:
    """Make the throw-away CA of processes that share one; alone, mitmproxy makes its own."""
    CertStore.create_store(folder, CONF_BASENAME, KEY_SIZE)


def forget_key(folder: Path) -> None:
    """Delete the private key of the throw-away CA."""
    for name in KEY_FILES:
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _low_latency() -> Iterator[None]:
    """Keep the writer thread and the garbage collector from holding up a chunk."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    # A full collection of what mitmproxy loads (87,000 objects) takes 30 ms and more; frozen, none.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


class _Proxy:
    """One capture, from start to end, on one event loop."""

    def __init__(self, setup: Setup, watch: Watch, folder: Path) -> None:
        self._setup = setup
        self._watch = watch
        self._folder = folder
        self._began = time.monotonic()
        self._draining = False
        self._process: asyncio.subprocess.Process | None = None
        self._exit_code = 0
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._lag, self._recent_lag = Histogram(), Histogram()

    async def run(self) -> Status:
        loop = asyncio.get_running_loop()

        def disk_failed(why: str) -> None:
            line = f"RECORDING STOPPED, traffic goes on: {why}"
            loop.call_soon_threadsafe(self._watch.warn, line)

        def stop(number: int) -> None:
            again = self._stop.is_set()
            (self._hurry if again else self._stop).set()
            if again:
                self._parts.recorder.flush_s = HURRIED_FLUSH_S
            if self._process and self._process.returncode is None:
                if again:
                    self._process.terminate()
                elif number != signal.SIGINT:  # Ctrl-C goes to all that the terminal runs
                    self._process.send_signal(number)

        shared = self._setup.recording.processes > 1
        for number in (RELAYED,) if shared else stop_signals():
            loop.add_signal_handler(number, stop, number)  # the end of the loop removes it
        with notices(self._watch.warn):
            master = self._master(loop)
            self._parts = begin(self._setup.recording, disk_failed)
            self._capture = Capture(
                self._parts,
                limit=self._setup.requests,
                tls_only=self._setup.cert is not None,
                closed=self._setup.closed,
            )
            _addons(master).add(self._capture)
            try:
                await self._serve(master)
            finally:
                self._capture.shut()
                recorder = self._parts.recorder
                recorder.clock(_clock_record(self._recent_lag))
                await asyncio.to_thread(recorder.close)
        return self._status()

    def _master(self, loop: asyncio.AbstractEventLoop) -> Master:
        """Mitmproxy with what HTTP needs, set up as asked."""
        setup, recording = self._setup, self._setup.recording
        proxied = recording.upstream is None
        trusted = None
        if setup.upstream_ca is not None:  # with the public roots, in one file: mitmproxy takes one
            trusted = str(_bundle(self._folder / "upstream-ca.pem", setup.upstream_ca))
        options: Any = Options()
        options.update(
            mode=["regular" if proxied else f"reverse:{recording.upstream}"],
            listen_host=setup.host,
            listen_port=setup.port,
            confdir=str(self._folder),
            allow_hosts=recording.selection.allow_hosts() if proxied else [],
            certs=[] if setup.cert is None else [f"{setup.host if proxied else '*'}={setup.cert}"],
            ssl_verify_upstream_trusted_ca=trusted,
            tcp_timeout=setup.idle_s,
        )
        master = Master(options, event_loop=loop)
        kinds: list[Any] = [
            core.Core,
            block.Block,
            disable_h2c.DisableH2C,
            proxyserver.Proxyserver,
            next_layer.NextLayer,
            tlsconfig.TlsConfig,
        ]
        _addons(master).add(*(kind() for kind in kinds))
        # With an eager connection a refused upstream would close a reverse client without a trace; a
        # CONNECT needs it, so that the client is offered the HTTP version that the server speaks.
        options.update(connection_strategy="eager" if proxied else "lazy")
        return master

    async def _serve(self, master: Master) -> None:
        running = asyncio.create_task(master.run())
        samplers: list[asyncio.Task[None]] = []
        try:
            servers = _addons(master).get("proxyserver")
            await _until(lambda: servers.is_running or running.done(), START_S)
            addresses = servers.listen_addrs()
            if not addresses:
                raise InputError(f"cannot listen on {self._setup.host}:{self._setup.port}")
            if self._setup.recording.processes == 1:
                forget_key(self._folder)  # mitmproxy has read it by now
            host, port = addresses[0][:2]
            scheme = "http" if self._setup.cert is None else "https"
            address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
            bundle = _bundle(self._folder / "ca-bundle.pem", self._folder / "mitmproxy-ca-cert.pem")
            samplers += [asyncio.create_task(step()) for step in (self._sample_lag, self._tick)]
            place = Listening(address=address, ca_bundle=bundle)
            self._watch.listening(place)
            if self._setup.command:
                await self._command(self._setup.command, place)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._setup.duration_s)
            # Stop listening, then let the exchanges in flight end, for at most the grace.
            # First, so that no answer from here on lets its client keep a connection open.
            self._draining = self._capture.closing = True
            await servers.servers.update([])
            capture, hurry = self._capture, self._hurry
            await _until(lambda: not capture.in_flight or hurry.is_set(), self._setup.grace_s)
        finally:
            for task in samplers:
                task.cancel()
            # Before mitmproxy ends: its hooks would report what is cut off now as the clients' doing.
            self._capture.shut()
            master.should_exit.set()
            await asyncio.gather(running, *samplers, return_exceptions=True)
            await _hang_up(master)

    async def _command(self, command: Sequence[str], place: Listening) -> None:
        """Run it to its end; one that a signal ended has 128 and the signal's number, as in a shell."""
        proxied = self._setup.recording.upstream is None
        environ = {**os.environ, **place.environment(proxied=proxied)}
        if not proxied:  # a base URL of this machine is nothing for a proxy that is set
            for name in ("NO_PROXY", "no_proxy"):
                passed_by = environ.get(name) or environ.get("NO_PROXY") or ""
                if passed_by != "*":  # which is all, and only by itself
                    environ[name] = ",".join(filter(None, (passed_by, self._setup.host)))
        try:
            self._process = await asyncio.create_subprocess_exec(*command, env=environ)
        except OSError as error:
            raise InputError(f"{command[0]}: cannot be run: {error.strerror}") from None
        code = await self._process.wait()
        self._exit_code = code if code >= 0 else 128 - code

    async def _sample_lag(self) -> None:
        clock_due = time.monotonic() + CLOCK_EVERY_S
        while True:
            due = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            late = time.monotonic() - due
            self._lag.add(late)
            self._recent_lag.add(late)
            if time.monotonic() >= clock_due:
                clock_due += CLOCK_EVERY_S
                self._parts.recorder.clock(_clock_record(self._recent_lag))
                self._recent_lag = Histogram()

    async def _tick(self) -> None:
        while True:
            self._watch.tick(self._status())
            limit = self._setup.requests
            if limit is not None and self._capture.finished >= limit and not self._process:
                self._stop.set()
            await asyncio.sleep(TICK_S)

    def _status(self) -> Status:
        return Status(
            counts=self._parts.recorder.counts.copy(),
            left_out=self._capture.left_out,
            redirected=self._capture.redirected,
            in_flight=self._capture.in_flight,
            queue_bytes=self._parts.recorder.budget.held,
            elapsed_s=time.monotonic() - self._began,
            draining=self._draining,
            failure=self._parts.recorder.failure,
            lag=self._lag,
            exit_code=self._exit_code,
            stuck=self._parts.recorder.stuck,
        )


def _clock_record(lag: Histogram) -> dict[str, int | None]:
    """Of a clock record, `extra`: ns, and the number of samples."""

    def ns(p: float) -> int | None:
        late = lag.quantile(p)
        return None if late is None else round(late * 1e9)

    return {
        "loop_lag_p50_ns": ns(0.5),
        "loop_lag_p99_ns": ns(0.99),
        "loop_lag_max_ns": ns(1.0),
        "loop_lag_samples": lag.n,
    }


def _addons(master: Master) -> Any:  # noqa: ANN401 (mitmproxy's addon manager has no static types)
    return master.addons


def _bundle(path: Path, extra: Path) -> Path:
    """The public roots and another certificate file in one: clients take a bundle instead of theirs."""
    try:
        added = extra.read_bytes()
    except OSError as error:
        raise InputError(f"--upstream-ca {extra}: {error.strerror}") from None
    path.write_bytes(Path(certifi.where()).read_bytes() + b"\n" + added)
    return path


async def _hang_up(master: Master) -> None:
    """Close what is still connected, once it has got what was written to it.

    No task is left to be cancelled with a traceback.
    """
    connections = _addons(master).get("proxyserver").connections
    transports = [io for handler in connections.values() for io in handler.transports.values()]
    buffers = [io.writer.transport for io in transports if io.writer]
    await _until(lambda: not any(buffer.get_write_buffer_size() for buffer in buffers), HANG_UP_S)
    for io in transports:
        if io.handler:
            io.handler.cancel("the capture was stopped")
    await _until(lambda: not connections, HANG_UP_S)


async def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait for something that mitmproxy has no event for."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
