"""The verdict on a probe: whether it was held, and if not who was the limit and what to do. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from tbench.doctor.probes import Found

HELD: Final = 0.95
"""Of the ideal rate: what holds a load."""
EXACT_S: Final = 0.001
"""The p99 of the TTFT error that a held load may have."""
PUNCTUAL_S: Final = 0.005
"""The p99 of the lag that a held load may have."""
LATE_S: Final = 0.005
"""A server that was later than this (p99) was a limit itself, or did not get its core."""
BUSY: Final = 0.85
"""Of a core: a process that used so much of it could not do much more."""
CROWDED: Final = 0.25
"""Cores: where fewer were free, whoever wanted one had to wait for it."""

Who = Literal["client", "server", "machine"]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Who was the limit, why that is known, and what to do about it."""

    who: Who
    why: str
    cure: str

    def __str__(self) -> str:
        return f"limited by {WORDS[self.who]}: {self.why}; {self.cure}"


WORDS: Final[dict[Who, str]] = {
    "client": "the client",
    "server": "the built-in server",
    "machine": "the machine",
}
MORE_WORKERS: Final = "send from more processes with --workers, or ask for less"
SERVER: Final = (
    "the client may hold more; a real target is another machine, and benchmarks/ has a server in C"
)
FREE: Final = "stop what else is running, or give it more cores"

Rule = tuple[Who, Callable[[Found], bool], Callable[[Found], str], str]
RULES: Final[tuple[Rule, ...]] = (
    (
        "machine",
        lambda found: bool(found.lost + found.failed),
        lambda found: f"{found.lost + found.failed:,} requests came to nothing{_kinds(found)}",
        "look at the limits above, and at what watches connections on this machine",
    ),
    (
        "server",
        lambda found: (found.server_share or 0.0) >= BUSY,
        lambda found: f"it used {found.server_share:.0%} of a core",
        SERVER,
    ),
    (
        "client",
        lambda found: (found.cpu_share or 0.0) >= BUSY,
        lambda found: f"its busiest process used {found.cpu_share:.0%} of a core",
        MORE_WORKERS,
    ),
    (
        "machine",
        lambda found: found.free_cores is not None and found.free_cores < CROWDED,
        lambda found: f"all its cores were busy, {found.others_cores:.1f} of them with other work",
        FREE,
    ),
    (
        "machine",
        lambda found: found.server_late_s > LATE_S,
        lambda found: f"the server had its core {found.server_late_s * 1e3:.0f} ms late",
        FREE,
    ),
    (
        "client",
        lambda found: found.invalid_because is not None,
        lambda found: str(found.invalid_because),
        MORE_WORKERS,
    ),
    (
        "client",
        lambda _found: True,
        lambda _found: "nothing else was busy",
        "ask for less, or look at --debug and at the kernel's settings",
    ),
)
"""Who it was -> whether it was, by what sign, and the cure. The first that holds is the verdict."""


def held(found: Found) -> bool:
    """Whether a load was held: the rate, the due times and the stamps, nothing lost and the run valid."""
    slow = found.of_ideal is not None and found.of_ideal < HELD
    inexact = found.ttft_error_s.get("p99", 0.0) > EXACT_S
    late = (found.lag_s.get("p99") or 0.0) > PUNCTUAL_S
    return not (slow or inexact or late or found.lost or found.failed or found.invalid_because)


def limit(found: Found) -> Limit:
    """Who was the limit of a load that was not held, or that had none but what is possible."""
    who, _, why, cure = next(rule for rule in RULES if rule[1](found))
    return Limit(who=who, why=why(found), cure=cure)


def _kinds(found: Found) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.errors.items())
    return f" ({kinds})" if kinds else ""
