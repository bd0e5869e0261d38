"""How many connections the system allows, said before any is opened."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbench.replay.system import Headroom, headroom

ROOM = Headroom(descriptors=1024, ports=5000)


@pytest.mark.parametrize(
    ("connections", "workers", "said"),
    [
        (960, 1, None),
        (961, 1, "1,025 file descriptors in each of 1 workers, and the system allows 1,024"),
        (3000, 4, None),
        (3841, 4, "1,025 file descriptors in each of 4 workers"),
        (5000, 8, None),
        (5001, 8, "the system has 5,000"),
    ],
)
def test_the_objection_counts_each_worker_and_all_together(
    connections: int, workers: int, said: str | None
) -> None:
    """Descriptors are each process's own, ports everybody's; the line says what would help."""
    objection = ROOM.objection(connections, workers)

    assert (objection is None) == (said is None)
    assert said is None or said in (objection or "")


def test_the_systems_own_figures() -> None:
    """The hard limit of descriptors, and the size of the port range."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    assert headroom() == Headroom(descriptors=hard, ports=high - low + 1)


def test_too_many_connections_are_refused_before_anything_is_sent(
    tbench: Callable[..., Any], simulator: Any
) -> None:
    """One line, exit 2, no run."""
    example = Path(__file__).parents[1] / "fixtures" / "example.msgpack"
    many = ["--concurrency", 10_000_000, "--workers", 1, "-o", "x.run"]
    done = tbench("replay", example, "--base-url", simulator.url, *many)

    assert done.code == 2
    assert "10,000,000 in flight need" in done.err
    assert done.err.count("\n") == 1
