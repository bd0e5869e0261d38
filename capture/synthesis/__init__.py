"""Synthesis: a scenario or a dataset becomes the requests of a trace, seeded."""

from tbench.capture.synthesis.arrivals import Arrivals
from tbench.capture.synthesis.scenario import Scenario, Task, parse
from tbench.capture.synthesis.synthesise import exchanges, write
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
