"""Work: how much CPU this machine has given, and how much of it to us and our children that have ended."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

STAT: Final = Path("/proc/stat")
BUSY: Final = (0, 1, 2, 5, 6, 7)
"""Of its first line: user, nice, system, irq, softirq, and what a hypervisor gave to others (steal)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Seconds: the clock, of all processes on all cores (None where not known), and of ours."""

    at: float
    whole: float | None
    own: float

    @classmethod
    def now(cls) -> Self:
        """Up to now."""
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        return cls(at=time.monotonic(), whole=_whole(), own=own)

    def others_since(self, before: "Work") -> float | None:
        """How many cores others had from `before` to this; None where not known."""
        if self.whole is None or before.whole is None or self.at <= before.at:
            return None
        others = (self.whole - before.whole) - (self.own - before.own)
        return max(0.0, others / (self.at - before.at))


def _whole() -> float | None:
    try:
        counts = STAT.read_text().split("\n", 1)[0].split()[1:]
        return sum(int(counts[place]) for place in BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # no such file here, or another format
        return None
