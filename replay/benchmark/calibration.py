"""Calibration: how many characters a token of the served model has, from the server's own counts.

Two small workloads of different lengths are sent, one request at a time; the slope between the characters
sent and the prompt tokens counted leaves out what a chat template adds to every message.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from capture.synthesis import Workload, write
from capture.tracereader import Trace
from replay.benchmark.hope import check_hope
from replay.closing import Flags
from replay.order import Order
from replay.performance import perform
from replay.totals import numbers

REQUESTS: Final = 6
"""Of each length."""
LENGTHS: Final = (64, 512)
FORMS: Final = {
    "text-to-text": "D({},2)",
    "image-text-to-text": "D({},2)",
    "text-to-embeddings": "E({})",
    "text-to-rerank": "R({},16)",
}
"""A scenario of each task's texts by their length; a vision model is asked in words alone."""
WITHOUT_IMAGES: Final = {"image-text-to-text": "text-to-text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`chars_per_token` of `requests` requests; `overhead` is what the server adds to each, tokens."""

    chars_per_token: float
    overhead: float
    requests: int


def calibrate(
    order: Order,
    workload: Callable[[str, str, int], Workload],
    task: str,
    folder: Path,
    flags: Flags,
) -> Calibration | None:
    """Ask the server. None where it does not count, or its counts do not grow with the text.

    `workload(task, scenario, requests)` makes the requests. What is written lies below `folder`, and what
    an earlier calibration left there is replaced. Raises UnreachableError where nothing will succeed (a hint
    names the options `flags`), and KeyboardInterrupt.
    """
    found: list[tuple[int, int]] = []
    for length in LENGTHS:
        asked = WITHOUT_IMAGES.get(task, task)
        path = folder / f"calibration_{length}.msgpack"
        out = path.with_suffix(".run")
        for left in (path, out):
            left.unlink(missing_ok=True)
        trace = write(workload(asked, FORMS[task].format(length), REQUESTS), path)
        run = perform(replace(order, trace=path, out=out, concurrency=1).job())
        if run.totals["ended_by"] == "interrupt":
            raise KeyboardInterrupt
        check_hope(run, numbers(run), flags)
        counts = dict(zip(run.columns["id"].tolist(), run.columns["prompt_tokens"], strict=True))
        found += [(chars, int(counts[name])) for name, chars in characters(trace) if name in counts]
    return fitted(found)


def fitted(pairs: list[tuple[int, int]]) -> Calibration | None:
    """The line through (characters, tokens); a count below 1 is none."""
    known = np.array([pair for pair in pairs if pair[1] > 0], dtype=float)
    if len(known) < REQUESTS or np.ptp(known[:, 0]) == 0:
        return None
    slope, overhead = np.polyfit(known[:, 0], known[:, 1], 1)
    if slope <= 0:
        return None
    return Calibration(
        chars_per_token=float(1 / slope), overhead=float(overhead), requests=len(known)
    )


def characters(trace: Trace) -> Iterator[tuple[str, int]]:
    """The id of each request, and how many characters of text it has."""
    for exchange in trace.requests:
        yield (
            exchange.request.id,
            sum(map(len, texts(orjson.loads(exchange.request.body or b"{}")))),
        )


def texts(body: dict[str, Any]) -> Iterator[str]:
    """All that a model is given to read."""
    for message in body.get("messages", ()):
        content = message["content"]
        parts = [content] if isinstance(content, str) else [p.get("text", "") for p in content]
        yield from parts
    for name in ("input", "documents"):
        yield from body.get(name, ())
    if "query" in body:
        yield body["query"]
