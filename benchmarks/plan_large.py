"""How long it takes to plan a large trace of conversations, in CPU seconds, and how much memory.

    python benchmarks/plan_large.py [--requests 1000000] [--clones 1] [--trace FILE]

Conversations of ten turns, a hundred at a time, each turn with all that was said before (1 to 19 messages of
200 characters). The plan is that of a replay: requests are read, understood, sorted into sessions, with the
answers that each waits for, and what cannot be sent is left out. With clones the trace has as many fewer
requests, so that as many are planned. FILE is made where there is none, and kept.
Prints one JSON object; it ends with 1 where a turn was planned without the one before it.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine import chat
from trace_memory import peak_rss_mb

from tbench.capture import Exchange, TraceHeader, TraceWriter, read_trace
from tbench.replay.job import refused_by
from tbench.replay.pacing import Clones
from tbench.replay.plan import Plan
from tbench.replay.target import Target

TURNS, BESIDE = 10, 100
APART_NS, TOOK_NS = 10**6, 50 * 10**6
ROLES = ("user", "assistant")


def main() -> int:
    """Write the trace, plan it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=1_000_000, help="rounded up to a thousand")
    parser.add_argument("--clones", type=int, default=1)
    parser.add_argument("--trace", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trace = options.trace or Path(folder) / "trace.msgpack"
        if not trace.exists():
            write(trace, -(-options.requests // options.clones))
        planned = plan(trace, Clones(number=options.clones))
    print(json.dumps(planned))
    return 0 if planned["continued"] * TURNS == planned["requests"] * (TURNS - 1) else 1


def write(path: Path, requests: int) -> None:
    """A trace of at least so many requests."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for first in range(0, requests, TURNS * BESIDE):
            for place in range(TURNS * BESIDE):
                turn, conversation = divmod(place, BESIDE)
                writer.exchange(_exchange(first + place, f"{first + conversation}", turn))


def _exchange(seq: int, conversation: str, turn: int) -> Exchange:
    contents = (f"conversation {conversation}, {n}: " + "word " * 36 for n in range(2 * turn + 1))
    messages = [{"role": ROLES[n % 2], "content": content} for n, content in enumerate(contents)]
    fields = {"model": "m", "messages": messages, "stream": True, "max_tokens": 64}
    return chat(seq, fields, seq * APART_NS, TOOK_NS)


def plan(path: Path, clones: Clones) -> dict[str, Any]:
    """What the plan holds, and what it took."""
    refuses = refused_by([Target(base_url="http://127.0.0.1:8000")])
    began = time.process_time()
    requests = sessions = continued = 0
    for planned in Plan(trace=read_trace(path).ends, refuses=refuses, clones=clones):
        requests += 1
        sessions = max(sessions, planned.session)
        continued += bool(planned.after)
    cpu_s = time.process_time() - began
    return {
        "requests": requests,
        "sessions": sessions,
        "continued": continued,
        "cpu_s": round(cpu_s, 1),
        "cpu_us_per_request": round(cpu_s / requests * 1e6, 1),
        "peak_rss_mb": round(peak_rss_mb()),
    }


if __name__ == "__main__":
    sys.exit(main())
