"""The probe: two equal requests before a run tell whether its target names the tokens that its cache gave.

It is one of the first requests, the one with the longest prompt, under a salt that the run does not have: no
request of the run can find what it leaves in a cache.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tbench.capture.filters import EVERYTHING
from tbench.capture.providers import GENERATIVE, Usage
from tbench.capture.records import TraceHeader
from tbench.capture.trace_reader import read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.bounds import most_cost
from tbench.replay.cost import Bill
from tbench.replay.options import ReplayOptions
from tbench.replay.pacing import parse_warmup
from tbench.replay.plan import Planned, recorded_usage
from tbench.replay.target import LIMIT_NAMES, Target, new_salt

if TYPE_CHECKING:
    from tbench.replay.job import Job
    from tbench.replay.runfile import Run

LOOKED_AT: Final = 100
"""The longest prompt of so many requests is asked: caches begin at 16 to 1,024 tokens."""
LEAST_OUTPUT: Final = 16
"""Tokens of an answer: Responses takes no lower limit."""

SHARED: Final = ("timeout", "http2", "proxy", "api_key_env", "allow_unsafe")
"""Options that hold for the two requests as for the run."""


REQUESTS: Final = 2


def probe_target(job: "Job") -> Target:
    """The target under another salt, with as short answers as it gives."""
    least = {**dict.fromkeys(LIMIT_NAMES, LEAST_OUTPUT), "thinking": None}
    return replace(
        job.target,
        salt=new_salt(),
        as_is=False,
        cold=False,
        lengths="no",
        fields={**job.target.fields, **least},
    )


def longest(job: "Job", target: Target) -> Planned | None:
    """The request that is asked; None without one, or where a budget has no room for it."""
    asked = [
        planned
        for planned in islice(job.plan(answers=True), LOOKED_AT)
        if planned.info.endpoint in GENERATIVE and _affordable(job, target, planned)
    ]
    # The longest, since a prompt below a cache's least length (1,024 tokens at some) never hits.
    return max(asked, key=lambda planned: planned.exchange.request.body_bytes, default=None)


def _affordable(job: "Job", target: Target, planned: Planned) -> bool:
    if job.budget is None:
        return True
    most = most_cost(planned, target.outgoing(planned), target.prices)
    return not isinstance(most, str) and REQUESTS * most <= job.budget


def expected_bill(job: "Job") -> Bill:
    """What the requests are expected to cost; none where none go out."""
    bill, target = Bill(prices=job.target.prices), probe_target(job)
    planned = longest(job, target) if job.probes else None
    for _ in range(REQUESTS if planned else 0):
        assert planned is not None
        recorded = recorded_usage(planned.exchange)
        output = LEAST_OUTPUT if recorded.output is None else min(recorded.output, LEAST_OUTPUT)
        usage = Usage(prompt=recorded.prompt, output=output)
        bill.add(target.outgoing(planned).info.model, usage)
    return bill


def probe_of(job: "Job", folder: Path) -> "Job | None":
    """The job of two equal requests, one after the other, its files in `folder`; None without one to ask."""
    target = probe_target(job)
    planned = longest(job, target)
    if planned is None:
        return None
    request = planned.exchange.request
    trace = folder / "probe.msgpack"
    with TraceWriter(trace, TraceHeader(wall_ns=0, mono_ns=0)) as writer:
        for seq in range(REQUESTS):
            writer.request(replace(request, id=f"probe-{seq}", seq=seq, retry_of=None))
    shared = {name: getattr(job.options, name) for name in SHARED} | {"max_cost": job.budget}
    options = ReplayOptions(
        trace, concurrency=1, workers=1, cache="structure", probe="off", warmup="none", **shared
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
    # A target that names 0 of the first says that it counts; one that names nothing of either does not.
    named = bool((columns["cached_tokens"] >= 0).any())
    return {
        "completed": run.totals["completed"],
        "prompt": int(columns["prompt_tokens"][second].clip(0).sum()),
        "cached": int(columns["cached_tokens"][second].clip(0).sum()) if named else None,
        "usd": run.totals["cost"]["usd"],
        "most_usd": run.totals["cost"]["most_usd"] or run.totals["cost"]["usd"],
    }
