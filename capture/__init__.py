"""Capture: what applications really send, recorded as traces."""

from capture.exchange import Chunk, Exchange, Outcome, Request, Response
from capture.tracefile import Clock, Gap, Trace, TraceHeader, TraceWriter, read_trace

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
