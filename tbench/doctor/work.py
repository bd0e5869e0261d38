"""Work: how much CPU this machine has given, and how much of it to us and our children that have ended."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

STAT: Final = Path("/proc/stat")
BUSY: Final = (0, 1, 2, 5, 6, 7)
"""Of its first line: user, nice, system, irq, softirq, and what a hypervisor gave to others (steal)."""
IDLE: Final = (3, 4)
"""Idle, and waiting for a disk."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Seconds: the clock; of all processes on all cores, of idle cores (None: not known); of ours."""

    at: float
    whole: float | None
    idle: float | None
    own: float

    @classmethod
    def now(cls) -> Self:
        """Up to now."""
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        whole, idle = _stat()
        return cls(at=time.monotonic(), whole=whole, idle=idle, own=own)

    def others_since(self, before: "Work") -> float | None:
        """How many cores others had from `before` to this; None where not known."""
        if self.whole is None or before.whole is None or self.at <= before.at:
            return None
        others = (self.whole - before.whole) - (self.own - before.own)
        return max(0.0, others / (self.at - before.at))

    def free_since(self, before: "Work", usable: float) -> float | None:
        """How many of the `usable` cores nobody had from `before` to this; None where not known."""
        if self.idle is None or before.idle is None or self.at <= before.at:
            return None
        took = self.at - before.at
        ours = (self.own - before.own) / took
        return max(0.0, min((self.idle - before.idle) / took, usable - ours))


def _stat() -> tuple[float | None, float | None]:
    """Of all cores, busy and idle."""
    try:
        counts = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:]]
        tick = os.sysconf("SC_CLK_TCK")
        busy, idle = (sum(counts[place] for place in places) / tick for places in (BUSY, IDLE))
    except (OSError, ValueError, IndexError):  # no such file here, or another format
        return None, None
    return busy, idle
