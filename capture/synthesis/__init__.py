"""Synthesis: a scenario or a dataset becomes the requests of a trace, seeded."""

from tbench.capture.synthesis.generate import Arrivals, exchanges, write
from tbench.capture.synthesis.scenario import Scenario, Task, parse
from tbench.capture.synthesis.tokens import Tokens, calibrated, estimated, load_tokens
from tbench.capture.synthesis.workload import Workload

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
