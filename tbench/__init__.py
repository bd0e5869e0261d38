"""tbench: record real LLM traffic, replay it against any model, say honestly which is faster.

The public API. Names are imported when they are first used, so that `import tbench` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbench.abtest.runner import ab
    from tbench.analysis.api import compare, report
    from tbench.analysis.arms import Arm
    from tbench.analysis.comparison import Comparison, Comparisons, Verdict
    from tbench.analysis.gate_results import GateResults
    from tbench.capture.errors import InputError, InvalidRunError, TbenchError, UnreachableError
    from tbench.capture.exchange import Chunk, Exchange, Outcome, Request, Response
    from tbench.capture.records import TraceHeader
    from tbench.capture.trace_reader import Trace, read_trace
    from tbench.capture.trace_writer import TraceWriter
    from tbench.capture.transport import CaptureTransport
    from tbench.replay.api import replay
    from tbench.replay.runfile import Run, read_run
    from tbench.replay.sample import Fate, Sample
    from tbench.replay.transport import EngineTransport

_HOMES = {
    "tbench.analysis.api": ("compare", "report"),
    "tbench.analysis.arms": ("Arm",),
    "tbench.analysis.comparison": ("Comparison", "Comparisons", "Verdict"),
    "tbench.analysis.gate_results": ("GateResults",),
    "tbench.capture.errors": ("InputError", "InvalidRunError", "TbenchError", "UnreachableError"),
    "tbench.capture.exchange": ("Chunk", "Exchange", "Outcome", "Request", "Response"),
    "tbench.capture.records": ("TraceHeader",),
    "tbench.capture.trace_reader": ("Trace", "read_trace"),
    "tbench.capture.trace_writer": ("TraceWriter",),
    "tbench.capture.transport": ("CaptureTransport",),
    "tbench.replay.runfile": ("Run", "read_run"),
    "tbench.replay.sample": ("Fate", "Sample"),
    "tbench.replay.transport": ("EngineTransport",),
    "tbench.abtest.runner": ("ab",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Arm",
    "CaptureTransport",
    "Chunk",
    "Comparison",
    "Comparisons",
    "EngineTransport",
    "Exchange",
    "Fate",
    "GateResults",
    "InputError",
    "InvalidRunError",
    "Outcome",
    "Request",
    "Response",
    "Run",
    "Sample",
    "TbenchError",
    "Trace",
    "TraceHeader",
    "TraceWriter",
    "UnreachableError",
    "Verdict",
    "ab",
    "compare",
    "read_run",
    "read_trace",
    "replay",
    "report",
]


def __getattr__(name: str) -> object:
    if (
        name == "replay"
    ):  # the package, which can be called: what is imported below it is not hidden
        return import_module("tbench.replay")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tbench' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
