"""Facts about this machine that bound what a replay can do. Cheap to ask for."""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tbench.replay.headroom import headroom

CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")


def machine_facts() -> Mapping[str, Any]:
    """Cores (of the machine, and that this process may use), limits, load. None where not known."""
    room = headroom()
    return {
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "load_average": os.getloadavg()[0],
        "descriptors": room.descriptors,
        "ports": room.ports,
        "backlog": _number(SOMAXCONN),
        "clock_resolution_s": time.get_clock_info("monotonic").resolution,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def usable_cores() -> float:
    """What the affinity and a container's quota leave."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_MAX.read_text().split()
        return min(float(own), int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return float(own)


def notes(facts: Mapping[str, Any]) -> Iterator[str]:
    """What of it makes figures low."""
    if facts["usable_cores"] < 2:
        yield "one core for the client, the server and everything else: figures are low"
    elif facts["load_average"] > facts["usable_cores"] / 2:
        yield f"other work is running (load {facts['load_average']:.1f}): figures are low"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
