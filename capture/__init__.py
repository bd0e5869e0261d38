"""Capture: what applications really send, recorded as traces.

Names are imported when they are first used: the processes that send need none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbench.capture.exchange import Chunk, Exchange, Outcome, Request, Response
    from tbench.capture.records import Clock, Gap, TraceHeader
    from tbench.capture.trace_reader import Trace, read_trace
    from tbench.capture.trace_writer import TraceWriter

_HOMES = {
    "exchange": ("Chunk", "Exchange", "Outcome", "Request", "Response"),
    "records": ("Clock", "Gap", "TraceHeader"),
    "trace_reader": ("Trace", "read_trace"),
    "trace_writer": ("TraceWriter",),
}

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
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return value
    raise AttributeError(f"module 'tbench.capture' has no attribute {name!r}")
