"""Synthesis: a scenario or a dataset becomes the requests of a trace, seeded."""

from capture.synthesis.arrivals import Arrivals
from capture.synthesis.scenario import Scenario, Task, parse
from capture.synthesis.synthesise import exchanges, write
from capture.synthesis.tokens import Tokens, calibrated, estimated, load_tokens
from capture.synthesis.workload import Workload

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
