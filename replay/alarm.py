"""Waking up on time: trio's own timers are up to a millisecond late, a timerfd of Linux is not."""

import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

EARLY_S: Final = 0.0001
"""The alarm is set so much early; the rest is spent asking the clock, as waking up takes about as long."""

SleepUntil = Callable[[float], Awaitable[None]]


@contextmanager
def punctual() -> Iterator[SleepUntil]:
    """Yields what sleeps until a time of trio's clock, for one task at a time."""
    fd = _timer_fd()
    if fd is None:
        yield trio.sleep_until
        return
    try:
        yield _Alarm(fd).sleep_until
    finally:
        os.close(fd)


class _Alarm:
    """A timerfd. trio's clock is CLOCK_MONOTONIC with an offset."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def sleep_until(self, at: float) -> None:
        await trio.lowlevel.checkpoint()
        left = at - trio.current_time() - EARLY_S
        if left > 0:
            _arm(self._fd, time.monotonic_ns() + round(left * 1e9))
            await trio.lowlevel.wait_readable(self._fd)
            os.read(self._fd, 8)
        while trio.current_time() < at:
            pass


def _timer_fd() -> int | None:
    create: Callable[..., int] | None = getattr(os, "timerfd_create", None)  # Linux, Python 3.13
    return create(time.CLOCK_MONOTONIC, flags=os.O_NONBLOCK | os.O_CLOEXEC) if create else None


def _arm(fd: int, when_ns: int) -> None:
    settime: Callable[..., object] = getattr(os, "timerfd_settime_ns")  # noqa: B009 (3.13)
    settime(fd, flags=1, initial=when_ns)  # 1: absolute
