"""tbench: record real LLM traffic, replay it against any model, say honestly which is faster.

The public API. Names are imported when they are first used, so that `import tbench` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.api import compare, report
    from analysis.arms import Arm
    from analysis.comparison import Comparison, Comparisons, Verdict
    from analysis.judge import Judgement
    from capture.errors import InputError, InvalidRunError, TbenchError, UnreachableError
    from capture.exchange import Chunk, Exchange, Outcome, Request, Response
    from capture.tracefile import Trace, TraceHeader, TraceWriter, read_trace
    from replay.api import replay
    from replay.runfile import Run, read_run
    from replay.sample import Fate, Sample
    from replay.transport import EngineTransport
    from tbench.abtest import ab

_HOMES = {
    "analysis.api": ("compare", "report"),
    "analysis.arms": ("Arm",),
    "analysis.comparison": ("Comparison", "Comparisons", "Verdict"),
    "analysis.judge": ("Judgement",),
    "capture.errors": ("InputError", "InvalidRunError", "TbenchError", "UnreachableError"),
    "capture.exchange": ("Chunk", "Exchange", "Outcome", "Request", "Response"),
    "capture.tracefile": ("Trace", "TraceHeader", "TraceWriter", "read_trace"),
    "replay.api": ("replay",),
    "replay.runfile": ("Run", "read_run"),
    "replay.sample": ("Fate", "Sample"),
    "replay.transport": ("EngineTransport",),
    "tbench.abtest": ("ab",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Arm",
    "Chunk",
    "Comparison",
    "Comparisons",
    "EngineTransport",
    "Exchange",
    "Fate",
    "InputError",
    "InvalidRunError",
    "Judgement",
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
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tbench' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
