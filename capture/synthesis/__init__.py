"""Synthesis: a scenario or a dataset becomes the requests of a trace, seeded.

Names are imported when they are first used: the options of a verb need none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbench.capture.synthesis.generate import Arrivals, exchanges, write
    from tbench.capture.synthesis.scenario import Scenario, Task, parse
    from tbench.capture.synthesis.tokens import Tokens, calibrated, estimated, load_tokens
    from tbench.capture.synthesis.workload import Workload

_HOMES = {
    "generate": ("Arrivals", "exchanges", "write"),
    "scenario": ("Scenario", "Task", "parse"),
    "tokens": ("Tokens", "calibrated", "estimated", "load_tokens"),
    "workload": ("Workload",),
}

__all__ = [
    "Arrivals",
    "Scenario",
    "Task",
    "Tokens",
    "Workload",
    "calibrated",
    "estimated",
    "exchanges",
    "load_tokens",
    "parse",
    "write",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
