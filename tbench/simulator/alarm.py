"""An alarm clock for one task: by timerfd where there is one, since asyncio's timers are up to 1 ms late."""

import asyncio
import math
import os
from collections.abc import Callable


class Alarm:
    """Wakes whoever waits at an absolute time of the running loop. Close it in the end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._fd = _timer_fd()
        if self._fd is not None:
            self._loop.add_reader(self._fd, self._ring)

    def at(self, when: float) -> None:
        """Ring at this time, or earlier if that was asked for before; at once if it is past."""
        if when >= self._at:
            return
        self._at = when
        if self._fd is not None:
            _arm(self._fd, when)
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._ring)

    async def wait(self) -> None:
        """Until it rings. Afterwards it is silent until `at` is called again."""
        await self._rung.wait()
        self._rung.clear()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)

    def _ring(self) -> None:
        if self._fd is not None:
            os.read(self._fd, 8)
        self._at = math.inf
        self._rung.set()


def _timer_fd() -> int | None:
    create: Callable[..., int] | None = getattr(os, "timerfd_create", None)  # Linux, Python 3.13
    return create(1, flags=os.O_NONBLOCK | os.O_CLOEXEC) if create else None  # 1: CLOCK_MONOTONIC


def _arm(fd: int, when: float) -> None:
    settime: Callable[..., object] = getattr(os, "timerfd_settime_ns")  # noqa: B009 (3.13)
    settime(fd, flags=1, initial=max(1, int(when * 1e9)))  # 1: absolute; 0 would disarm
