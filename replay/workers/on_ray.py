"""Workers on the machines of a Ray cluster: an actor for each, and one thread here that carries for all.

The only module that imports ray. An actor holds a Carrier, which starts the same worker as here; what the
worker's descriptors would carry goes there and back in blocks. An actor is never started again, and no call
to it is repeated but for a block that may not have arrived.
"""

import asyncio
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

from tbench.capture.errors import InputError, InvalidRunError
from tbench.capture.runtime import version
from tbench.replay.system import Headroom
from tbench.replay.workers.carrier import BLOCK, Carrier, Report, Stream
from tbench.replay.workers.counters import SharedCounters
from tbench.replay.workers.process import ClockOffset, Reading, ending

RAY: Final = "ray"
INSTALL: Final = "pip install 'tbench[ray]'"
GRACE_S: Final = 20.0
"""An actor that gives no answer for so long is fenced and counted as lost. (Ray takes up to 15 s to notice
that a machine is gone.)"""
AGAIN_S: Final = 0.5
CONNECT_S: Final = 60.0
"""For the cluster to start the actors that were asked for, and for these to open the trace, seconds."""
REACH_S: Final = 10.0
LEAD_S: Final = 2.0
SLOWEST_PINGS: Final = 10
"""The start is told so many seconds ahead, or so many times the slowest ping if that is more."""
PINGS: Final = 20
RECENT: Final = 50
"""Of so many of the latest reports the quickest says what the clocks are like at the end."""
REPORT_S: Final = 0.1
MOST_REPORTS: Final = 2000
"""Each worker reports so often, or all together so many times a second if that is less: one thread here hears
them all."""
THREADS: Final = 8
"""Of an actor: it answers while one of its methods waits for the worker."""


@cache
def _connected(cluster: str) -> Any:  # noqa: ANN401 (the module)
    """Ray, connected to a cluster for the rest of this process. Raises InputError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that it is used
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a warning of something else
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster that is started here
    try:
        import ray  # noqa: PLC0415 (an extra, and slow to load)
        from ray._private import worker  # noqa: PLC0415
    except ImportError:
        raise InputError(f"--on {cluster}: needs ray; {INSTALL}") from None
    # It prints what dies to stdout, which is for results; whoever was lost is named by us.
    vars(worker)["print_to_stdstream"] = lambda *_, **__: None
    address = cluster.removeprefix(RAY).removeprefix("://") or None
    if address is not None:
        reach(cluster, address)
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address is not None or os.environ.get("RAY_ADDRESS"):
        del quiet["include_dashboard"]  # which is for who starts one
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # of many kinds: it has no family for them
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        token = "" if address is None else "; one that asks for a token wants RAY_AUTH_MODE=token"
        raise InputError(f"--on {cluster}: cannot be reached: {reason}{token}") from None
    return ray


def reach(cluster: str, address: str) -> None:
    """Raise InputError where nobody listens: Ray tries for over a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--on {cluster}: cannot be reached: {reason}") from None


def cluster_cores(cluster: str) -> int:
    """How many workers a cluster takes: a core each. Raises InputError where it cannot be reached."""
    return max(1, int(_connected(cluster).cluster_resources().get("CPU", 0)))


class Lost(Exception):  # noqa: N818 (it says what happened to an actor)
    """An actor is gone; in words, how."""


class RayWorker:
    """A worker behind an actor, as a Process; `node` is where it is."""

    def __init__(self, fleet: "Fleet", actor: Any, node: str) -> None:  # noqa: ANN401
        self._fleet = fleet
        self._actor = actor
        self.node = node
        self.reading = Reading(refusal=None)
        self._early: list[ClockOffset] = []
        self._late: deque[ClockOffset] = deque(maxlen=RECENT)
        self._heard = time.monotonic()
        self._over = threading.Event()
        self._code = 1
        self._loss: str | None = None

    @property
    def clocks(self) -> Sequence[ClockOffset]:
        seen = filter(None, (self._early, self._late))
        return tuple(min(clocks, key=lambda clock: clock.uncertainty) for clocks in seen)

    def wait(self, seconds: float | None = None) -> int | None:
        return self._code if self._over.wait(seconds) else None

    def kill(self) -> None:
        with suppress(Exception):  # gone already, in whatever way
            self._fleet.ray.kill(self._actor, no_restart=True)

    def ending(self, code: int) -> str:
        return f"on {self.node} {self._loss or ending(code)}"

    async def ping(self) -> float:
        """Compare the clocks; returns the slowest round trip, seconds."""
        slowest = 0.0
        for _ in range(PINGS):
            asked = time.monotonic()
            theirs = await self._ask("clock")
            slowest = max(slowest, time.monotonic() - asked)
            self._early.append(_offset(asked, theirs, theirs, time.monotonic()))
        return slowest

    async def read(self, path: str, identity: Sequence[tuple[str, int]]) -> None:
        """Have the trace opened there."""
        try:
            async with asyncio.timeout(CONNECT_S):
                self.reading.refusal = await self._ask("read", path, identity)
        except TimeoutError:
            self.reading.refusal = f"{path}: could not be opened within {CONNECT_S:g} s"

    async def carry(self, number: int, workers: int, fds: Sequence[int], stderr: int) -> None:
        """Be the worker's other end of these descriptors until it has ended, or is lost; closes them."""
        calls, control = (socket.socket(fileno=fd) for fd in fds[:2])
        shared = SharedCounters(fds[3], 1)
        feeds: list[asyncio.Task[None]] = []
        try:
            await self._ask("start", number, workers, self.reading.refusal is None)
            streams: dict[Stream, socket.socket] = {"calls": calls, "control": control}
            for stream, sock in streams.items():
                sock.setblocking(False)
                feeds.append(asyncio.create_task(self._feed(stream, sock)))
            await self._collect(control, shared, fds[2], stderr)
        except Lost as lost:
            silent = time.monotonic() - self._heard
            self._loss = f"was lost: {lost}; what it sent in its last {silent:.1f} s is not known"
        except OSError as error:
            self._loss = f"was given up: its answers cannot be kept here: {error.strerror}"
        finally:
            for feed in feeds:
                feed.cancel()
            await asyncio.gather(*feeds, return_exceptions=True)
            self.kill()
            calls.close()
            control.close()
            shared.close()
            for fd in (*fds[2:], stderr):
                os.close(fd)
            self._over.set()

    async def _feed(self, stream: Stream, sock: socket.socket) -> None:
        """Hand on what is to be sent, or said, to the worker; the end as well."""
        loop, place = asyncio.get_running_loop(), 0
        with suppress(Lost):  # whoever collects says so
            block = b"more"
            while block:
                try:
                    block = await loop.sock_recv(sock, BLOCK)
                except OSError:
                    block = b""
                await self._ask("feed", stream, place, block)
                place += len(block)
                if stream == "calls" and len(block) < BLOCK:  # they are ahead of their time
                    await asyncio.sleep(self._fleet.report_s)

    async def _collect(
        self, control: socket.socket, shared: SharedCounters, spool: int, stderr: int
    ) -> None:
        """Fetch what the worker has to say, until its last word."""
        loop, row = asyncio.get_running_loop(), shared.row(0)
        spooled = heard = 0
        try:
            while True:
                with shared.money() as money:
                    spent, released = money[0], -money[1]
                asked = time.monotonic()
                report: Report = await self._ask(
                    "collect", spooled, heard, spent, released, self._fleet.report_s, within=GRACE_S
                )
                self._heard = time.monotonic()
                self._late.append(_offset(asked, report.asked, report.answered, self._heard))
                left = memoryview(report.spooled)
                while left:
                    left = left[os.write(spool, left) :]
                row.raw = report.row
                self.reading.counts, self.reading.failure = report.counts, report.failure
                spooled, heard = spooled + len(report.spooled), heard + len(report.messages)
                with suppress(OSError):  # who asked does not listen any more
                    await loop.sock_sendall(control, report.messages)
                if report.ended is not None:
                    os.write(stderr, report.stderr)
                    self._code = report.ended
                    return
        finally:
            row.release()

    async def _ask(self, method: str, *arguments: object, within: float | None = None) -> Any:  # noqa: ANN401
        """What a method of the actor's carrier returns. Raises Lost when there is no hope of an answer."""
        errors = self._fleet.ray.exceptions
        since = None
        while True:
            asked = time.monotonic()
            try:
                async with asyncio.timeout(within):
                    return await getattr(self._actor, method).remote(*arguments)
            except (errors.ActorUnavailableError, TimeoutError):
                now = time.monotonic()
                since = since or asked
                if now - since >= GRACE_S:
                    raise Lost(f"it gave no answer for {now - since:.0f} s") from None
                await asyncio.sleep(AGAIN_S)
            except errors.RayActorError:
                raise Lost("its actor died") from None
            except errors.RayTaskError as error:
                raise Lost(f"its actor failed: {error.cause}") from None


def _offset(asked: float, received: float, answered: float, told: float) -> ClockOffset:
    """What a question and its answer say of two clocks: the outer two times are ours."""
    ahead = (received - asked + answered - told) / 2
    return ClockOffset(ahead, max(0.0, told - asked - (answered - received)) / 2)


class Fleet:
    """The workers of one replay on a cluster: a Site. Use `sent_out`."""

    apart = True

    def __init__(self, ray: Any, workers: int) -> None:  # noqa: ANN401 (the module)
        self.ray = ray
        self.lead_s = LEAD_S
        self.report_s = max(REPORT_S, workers / MOST_REPORTS)
        self.headroom = Headroom(descriptors=0, ports=0)
        self.workers: list[RayWorker] = []
        self._number = workers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tbench-ray", daemon=True
        )
        self._thread.start()
        self._tasks: list[Any] = []

    @classmethod
    @contextmanager
    def sent_out(
        cls, cluster: str, workers: int, path: Path, identity: Sequence[tuple[str, int]]
    ) -> Iterator["Fleet"]:
        """An actor for each worker, ready to start it; it reads the trace at `path` if it can.

        Raises InputError where they cannot be had.
        """
        ray = _connected(cluster)
        fleet = cls(ray, workers)
        try:
            sending = fleet._send_out(cluster, str(path), identity)
            asyncio.run_coroutine_threadsafe(sending, fleet._loop).result()
            yield fleet
        finally:
            for worker in fleet.workers:
                worker.kill()
            for task in fleet._tasks:
                with suppress(Exception):
                    task.result(GRACE_S)
            fleet._loop.call_soon_threadsafe(fleet._loop.stop)
            fleet._thread.join()
            fleet._loop.close()

    def start(self, number: int, fds: Sequence[int], stderr: IO[bytes]) -> RayWorker:
        worker = self.workers[number]
        held = [os.dup(fd) for fd in (*fds, stderr.fileno())]  # whoever started it closes its own
        task = worker.carry(number, self._number, held[:4], held[4])
        self._tasks.append(asyncio.run_coroutine_threadsafe(task, self._loop))
        return worker

    async def _send_out(self, cluster: str, path: str, identity: Sequence[tuple[str, int]]) -> None:
        """Have the actors started, and get to know their machines and clocks."""
        cpus = self.ray.cluster_resources().get("CPU", 0)
        if cpus < self._number:
            raise InputError(
                f"--on {cluster}: has {cpus:g} CPUs, and each of {self._number} workers takes one; lower "
                "--workers, or add machines"
            )
        remote = self.ray.remote(
            num_cpus=1, max_restarts=0, max_task_retries=0, max_concurrency=THREADS
        )(Carrier)
        actors = [
            remote.options(scheduling_strategy="SPREAD").remote() for _ in range(self._number)
        ]
        try:
            async with asyncio.timeout(CONNECT_S):
                places = await asyncio.gather(*(actor.describe.remote() for actor in actors))
        except TimeoutError:
            free = self.ray.available_resources().get("CPU", 0)
            raise InputError(
                f"--on {cluster}: did not start {self._number} workers within {CONNECT_S:g} s; of its "
                f"{cpus:g} CPUs {free:g} are free: lower --workers, or wait until others are done"
            ) from None
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"--on {cluster}: no worker can be started there ({reason}); install tbench "
                f"{version('tbench')} on its machines"
            ) from None
        versions = {place["version"] for place in places}
        if versions != {version("tbench")}:
            raise InputError(
                f"--on {cluster}: its machines have tbench {', '.join(sorted(versions))}, this one has "
                f"{version('tbench')}; install the same"
            )
        self.workers = [
            RayWorker(self, actor, place["node"])
            for actor, place in zip(actors, places, strict=True)
        ]
        ports = {place["node"]: place["ports"] for place in places}
        self.headroom = Headroom(
            descriptors=min(place["descriptors"] for place in places), ports=sum(ports.values())
        )
        try:
            await asyncio.gather(*(worker.read(path, identity) for worker in self.workers))
            pings = await asyncio.gather(*(worker.ping() for worker in self.workers))
        except Lost as lost:
            raise InvalidRunError(
                f"--on {cluster}: a worker was lost: {lost}; nothing was sent"
            ) from None
        self.lead_s = max(LEAD_S, SLOWEST_PINGS * max(pings))
