"""What this system grants: connections for a process and for all to one address, and a punctual timer."""

import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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


def allow_descriptors() -> None:
    """As many as the system allows: the usual limit is made for programs with few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def timer_fd() -> int | None:
    """A timer of CLOCK_MONOTONIC to poll; None: not had here. Event loops' own are up to 1 ms late."""
    create: Callable[..., int] | None = getattr(os, "timerfd_create", None)  # Linux, Python 3.13
    return create(time.CLOCK_MONOTONIC, flags=os.O_NONBLOCK | os.O_CLOEXEC) if create else None


def arm(fd: int, when_ns: int) -> None:
    """Let a timer become readable at this time, at once if it is past."""
    settime: Callable[..., object] = getattr(os, "timerfd_settime_ns")  # noqa: B009 (3.13)
    settime(fd, flags=1, initial=max(1, when_ns))  # 1: absolute; an initial time of 0 would disarm
