"""The probe: two equal requests before a run tell whether its target names the tokens that its cache gave.

It is one of the first requests, the one with the longest prompt, under a salt that the run does not have: no
request of the run can find what it leaves in a cache.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tbench.capture.filters import EVERYTHING
from tbench.capture.providers import GENERATIVE
from tbench.capture.records import TraceHeader
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.options import ReplayOptions
from tbench.replay.pacing import parse_warmup
from tbench.replay.target import new_salt

if TYPE_CHECKING:
    from tbench.replay.job import Job
    from tbench.replay.runfile import Run

LOOKED_AT: Final = 100
"""The longest prompt of so many requests is asked: caches begin at 16 to 1,024 tokens."""
LEAST_OUTPUT: Final = 16
"""Tokens of an answer: Responses takes no lower limit."""

SHARED: Final = ("timeout", "http2", "proxy", "api_key_env", "allow_unsafe")
"""Options that hold for the two requests as for the run."""


def probe_of(job: "Job", folder: Path) -> "Job | None":
    """The job of two equal requests, one after the other, its files in `folder`; None without one to ask."""
    asked = [
        planned.exchange.request
        for planned in islice(job.plan(answers=False), LOOKED_AT)
        if planned.info.endpoint in GENERATIVE
    ]
    if not asked:
        return None
    longest = max(asked, key=lambda request: request.body_bytes)
    trace = folder / "probe.msgpack"
    with TraceWriter(trace, TraceHeader(wall_ns=0, mono_ns=0)) as writer:
        for seq in range(2):
            writer.request(replace(longest, id=f"probe-{seq}", seq=seq, retry_of=None))
    shared = {name: getattr(job.options, name) for name in SHARED} | {"max_cost": job.budget}
    options = ReplayOptions(
        trace, concurrency=1, workers=1, cache="structure", warmup="none", **shared
    )
    least = {"max_tokens": LEAST_OUTPUT, "max_output_tokens": LEAST_OUTPUT, "thinking": None}
    target = replace(
        job.target,
        salt=new_salt(),
        as_is=False,
        cold=False,
        lengths="no",
        fields={**job.target.fields, **least},
    )
    return replace(
        job,
        options=options,
        trace=read_trace(trace),
        out=folder / "probe.run",
        target=target,
        pace=options.pacing(),
        workers=1,
        warmup=parse_warmup("none"),
        only=EVERYTHING,
        host=None,
        beside=(),
    )


def told_by(run: "Run") -> dict[str, Any]:
    """What the two said: `cached` tokens of the second's `prompt` (None: neither named any), and the cost."""
    columns = run.columns
    second = columns["index"] == 1
    named = bool((columns["cached_tokens"] >= 0).any())
    return {
        "completed": run.totals["completed"],
        "prompt": int(columns["prompt_tokens"][second].clip(0).sum()),
        "cached": int(columns["cached_tokens"][second].clip(0).sum()) if named else None,
        "usd": run.totals["cost"]["usd"],
        "most_usd": run.totals["cost"]["most_usd"] or run.totals["cost"]["usd"],
    }
