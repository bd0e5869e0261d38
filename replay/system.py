"""What is asked of the operating system: connections, a punctual timer, quiet threads, certificates."""

import os
import resource
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from tbench.capture.errors import InputError

OWN: Final = 64
"""Descriptors that a process needs for itself."""
RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_PORTS: Final = 28_232
"""Of Linux, where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """`descriptors` for each process, `ports` for connections of all processes to one address and port."""

    descriptors: int
    ports: int

    def objection(self, connections: int, workers: int) -> str | None:
        """Why so many connections over so many workers cannot be had, and the cure; None when they can."""
        each = -(-connections // workers)
        if each + OWN > self.descriptors:
            return (
                f"{connections:,} in flight need {each + OWN:,} file descriptors in each of {workers} "
                f"workers, and the system allows {self.descriptors:,}; raise 'ulimit -Hn', raise "
                "--workers, or ask for fewer"
            )
        if connections > self.ports:
            return (
                f"{connections:,} in flight need as many ports to one address, and the system has "
                f"{self.ports:,} ({RANGE}); widen that range, or ask for fewer"
            )
        return None


def headroom() -> Headroom:
    """Of this system, with the limits that a process may raise by itself."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = most if most != resource.RLIM_INFINITY else 2**31
    ports = USUAL_PORTS
    with suppress(OSError, ValueError):
        low, high = map(int, RANGE.read_text().split())
        ports = high - low + 1
    return Headroom(descriptors=descriptors, ports=ports)


def steal_s() -> float | None:
    """CPU time that a hypervisor gave to others since boot, seconds over all cores; None: not known here."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return None
    return int(first[8]) / os.sysconf("SC_CLK_TCK") if len(first) > 8 else None


def timer_fd() -> int | None:
    """A timer of CLOCK_MONOTONIC to poll; None: not had here. Event loops' own are up to 1 ms late."""
    create: Callable[..., int] | None = getattr(os, "timerfd_create", None)  # Linux, Python 3.13
    return create(time.CLOCK_MONOTONIC, flags=os.O_NONBLOCK | os.O_CLOEXEC) if create else None


def arm(fd: int, when_ns: int) -> None:
    """Let a timer become readable at this time, at once if it is past."""
    settime: Callable[..., object] = getattr(os, "timerfd_settime_ns")  # noqa: B009 (3.13)
    # 1: absolute. A time of 0 would disarm it, and a later one than 292 years does not fit.
    settime(fd, flags=1, initial=min(max(1, when_ns), 2**63 - 1))


# Quiet threads: those that read, build and write, and give way to what sends.

AHEAD: Final = 10
BEHIND: Final = 19
"""The niceness of threads that work ahead of the sending, and behind it. It is for the whole life of a
thread: only root may lower it."""
PLAIN: Final = 0


def give_way() -> None:
    """Let another process run, if one wants to. For threads that can wait, after each piece of work.

    On a core that they share, the scheduler would let a thread go on for milliseconds before a sender runs.
    """
    os.sched_yield()


def step_back(niceness: int) -> None:
    """Have this thread give way to others from now on."""
    if sys.platform == "linux":  # elsewhere it would be the whole process's
        with suppress(OSError):
            # A thread's own on Linux, where POSIX has it for the process (setpriority(2), BUGS).
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


@contextmanager
def in_front() -> Iterator[None]:
    """What is started within gives way to nobody, where that is allowed, though this thread may."""
    thread, niceness = threading.get_native_id(), PLAIN
    with suppress(OSError):
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, PLAIN)
    try:
        yield
    finally:
        step_back(niceness)


async def on_thread(work: Callable[[], None], niceness: int) -> None:
    """Do `work` on a thread of its own that gives way to others; returns when it is done.

    It cannot be cancelled: whoever wants it to end has to tell the work.
    """
    token = trio.lowlevel.current_trio_token()
    over = trio.Event()
    failures: list[BaseException] = []

    def body() -> None:
        try:
            step_back(niceness)
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            token.run_sync_soon(over.set)

    threading.Thread(target=body, name="tbench", daemon=True).start()
    # Shielded: a thread that outlives its caller would go on with files that are closed by then.
    with trio.CancelScope(shield=True):
        await over.wait()
    if failures:
        raise failures[0]


# Which certificates https is verified against: as httpx has it, without loading httpx.


def tls(ca: Path | None = None) -> ssl.SSLContext:
    """Verifying TLS: certifi's roots, or those of SSL_CERT_FILE or SSL_CERT_DIR; `ca` adds a file of more."""
    if file := os.environ.get("SSL_CERT_FILE"):
        context = ssl.create_default_context(cafile=file)
    elif folder := os.environ.get("SSL_CERT_DIR"):
        context = ssl.create_default_context(capath=folder)
    else:
        import certifi  # noqa: PLC0415 (its file is the only thing of it)

        context = ssl.create_default_context(cafile=certifi.where())
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"--ca {ca}: no readable PEM certificates ({error})") from None
    return context
