"""Capture: what applications really send, recorded as traces.

Names are imported when they are first used: the processes that send need none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbench.capture.exchange import Chunk, Exchange, Outcome, Request, Response
    from tbench.capture.tracefile import Clock, Gap, Trace, TraceHeader, TraceWriter, read_trace

_EXCHANGE = ("Chunk", "Exchange", "Outcome", "Request", "Response")

__all__ = [
    "Chunk",
    "Clock",
    "Exchange",
    "Gap",
    "Outcome",
    "Request",
    "Response",
    "Trace",
    "TraceHeader",
    "TraceWriter",
    "read_trace",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tbench.capture' has no attribute {name!r}")
    home = "tbench.capture.exchange" if name in _EXCHANGE else "tbench.capture.tracefile"
    value = globals()[name] = getattr(import_module(home), name)
    return value
