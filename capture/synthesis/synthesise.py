"""Synthesise: a workload as requests that nobody has sent yet, and as a trace file of them.

The same workload and arrivals make the same file, byte for byte (with the same versions of tbench, zstd and
the tokenizer).
"""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import orjson

from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Request
from tbench.capture.frames import MARKER_BYTES, MAX_PAYLOAD
from tbench.capture.synthesis.arrivals import Arrivals
from tbench.capture.synthesis.bodies import ENDPOINTS, body
from tbench.capture.synthesis.material import materials
from tbench.capture.synthesis.workload import Workload
from tbench.capture.tracefile import TraceHeader, TraceWriter
from tbench.capture.tracereader import Trace, read_trace

NOWHERE: Final = "synthesised.invalid"
"""The host of requests that were never sent: a name that no resolver knows."""
ONE_A_SECOND: Final = Arrivals()
MOST_BYTES: Final = MAX_PAYLOAD - 2**21
"""Of a body: a larger one would not fit into a block of a trace."""


def exchanges(workload: Workload, arrivals: Arrivals = ONE_A_SECOND) -> Iterator[Exchange]:
    """The requests of a workload by arrival, without responses.

    `extra` of a request holds `prompt_tokens` (as `workload.tokens` counts its texts) and `output_tokens`
    (what was asked for), None where the dataset decides.
    """
    name = _identity(workload, arrivals)
    times = arrivals.times(workload.seed)
    for number, (material, at_ns) in enumerate(zip(materials(workload), times, strict=False)):
        data = body(workload.task, workload.model, material, workload.additional_request_params)
        if len(data) > MOST_BYTES:
            raise InputError(
                f"request {number} has {len(data):,} bytes; a trace holds at most {MOST_BYTES:,}"
            )
        request = Request(
            id=_digest(name, str(number), 16).hex(),
            seq=number,
            arrive_ns=at_ns,
            end_ns=at_ns,
            method="POST",
            scheme="https",
            host=NOWHERE,
            path=ENDPOINTS[workload.task].path,
            headers=(("content-type", "application/json"),),
            body=data,
            body_bytes=len(data),
            extra={"prompt_tokens": material.input, "output_tokens": material.output},
        )
        yield Exchange(request=request, response=None)


def write(workload: Workload, path: str | Path, *, arrivals: Arrivals = ONE_A_SECOND) -> Trace:
    """Write the trace of a workload (mode 0600; nothing is replaced) and open it.

    Raises InputError where the workload or the path will not do; then no file is left.
    """
    name = _identity(workload, arrivals)
    header = TraceHeader(
        capture_id=name,
        wall_ns=0,
        mono_ns=0,
        tokens_source=workload.tokens.source,
        extra={"synthesis": _described(workload, arrivals)},
    )
    marker = _digest(name, "marker", MARKER_BYTES)
    writer = TraceWriter(Path(path), header, clock=lambda: 0.0, marker=marker)
    try:
        for exchange in exchanges(workload, arrivals):
            writer.exchange(exchange)
        return read_trace(writer.close())
    except BaseException:
        writer.discard()
        raise


def _described(workload: Workload, arrivals: Arrivals) -> dict[str, Any]:
    timing = {"rate": arrivals.rate, "poisson": arrivals.poisson}
    return {**workload.description(), "arrivals": timing}


def _identity(workload: Workload, arrivals: Arrivals) -> str:
    """The capture's id: the same for the same trace, and for no other."""
    described = orjson.dumps(_described(workload, arrivals), option=orjson.OPT_SORT_KEYS)
    return blake2b(described, digest_size=16).hexdigest()


def _digest(name: str, part: str, size: int) -> bytes:
    return blake2b(f"{name} {part}".encode(), digest_size=size).digest()
