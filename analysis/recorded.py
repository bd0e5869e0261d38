"""Recorded: what the application saw while it was captured, measured like a replay.

The proxy's clock stands for the client's: `sent` is when a request began to arrive there. Nothing was
due, since the application sent when it liked.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, batched, pairwise
from typing import NamedTuple

import numpy as np

from tbench.capture.exchange import Exchange, Outcome, Response
from tbench.capture.providers import (
    PROMISED,
    ParsedResponse,
    RequestInfo,
    parse_recorded,
    parse_request,
    recorded_outcome,
)
from tbench.capture.sessions import Sessions
from tbench.capture.trace_reader import Trace
from tbench.replay import columns
from tbench.replay.columns import Column
from tbench.replay.sample import Sample
from tbench.replay.table import Columns, Table, gather_gaps

_BATCH = 1000


class Recorded(NamedTuple):
    """The columns and token gaps of a trace, in the form of `replay.runfile.Run`."""

    columns: Columns
    token_gaps: tuple[Column, Column]


class _Clock(NamedTuple):
    """The first request's arrival on the capture's clock and on the wall: ns."""

    mono_ns: int
    wall_ns: int

    def since(self, at_ns: int | None) -> float | None:
        return None if at_ns is None else (at_ns - self.mono_ns) / 1e9

    def wall(self, at_s: float | None) -> int | None:
        return None if at_s is None else self.wall_ns + round(at_s * 1e9)


def measure(trace: Trace) -> Recorded:
    """Measure every inference exchange of a trace, in arrival order."""
    blocks, tokens, n = [], [], 0
    for batch in batched(samples(trace), _BATCH):
        blocks.append(columns.pack(columns.from_samples(batch)))
        tokens.append(columns.pack_tokens(batch))
        n += len(batch)
    table = Table(lambda: blocks, rows=n)
    table.mark("warmup", np.zeros(n, dtype=bool))
    return Recorded(table, gather_gaps(tokens, n))


def samples(trace: Trace) -> Iterator[Sample]:
    """A sample for each exchange with an inference endpoint; seconds from the first one's arrival."""
    begin_ns: int | None = None
    index = 0
    sessions = Sessions()
    for exchange in trace:
        request = exchange.request
        encoding = request.header("content-encoding")
        parsed = parse_request(request.method, request.path, request.body, encoding)
        if parsed.info.endpoint not in PROMISED:
            continue
        place = sessions.assign(request, parsed=parsed)
        begin_ns = request.arrive_ns if begin_ns is None else begin_ns
        clock = _Clock(begin_ns, trace.header.wall(begin_ns))
        yield replace(_sample(exchange, parsed.info, index, clock), session=place.number)
        index += 1


def _sample(exchange: Exchange, ask: RequestInfo, index: int, clock: _Clock) -> Sample:
    request, response = exchange.request, exchange.response
    sent = clock.since(request.arrive_ns)
    bare = Sample(
        id=request.id,
        index=index,
        endpoint=ask.endpoint,
        model=ask.model,
        stream=ask.stream,
        due=None,
        sent=sent,
        sent_wall_ns=clock.wall(sent),
        outcome=exchange.outcome,
        request_bytes=request.body_bytes,
    )
    return bare if response is None else _answered(bare, response, clock)


def _answered(sample: Sample, response: Response, clock: _Clock) -> Sample:
    answer = _read(response, clock)
    outcome = recorded_outcome(response, answer, endpoint=sample.endpoint)
    first_byte = clock.since(response.chunks[0].at_ns) if response.chunks else None
    return replace(
        sample,
        first_byte=first_byte,
        first_token=answer.first_token,
        first_answer=answer.first_answer,
        last_token=answer.last_token,
        end=clock.since(response.end_ns),
        first_wall_ns=clock.wall(answer.first_token if sample.stream else first_byte),
        status=response.status,
        outcome=outcome,
        error=None if outcome is Outcome.OK else response.error or answer.error,
        finish_reason=",".join(answer.finish_reasons) or None,
        prompt_tokens=answer.usage.prompt,
        output_tokens=answer.usage.output,
        cached_tokens=answer.usage.cached,
        reasoning_tokens=answer.usage.reasoning,
        cache_creation_tokens=answer.usage.created,
        response_bytes=response.body_bytes,
        request_id=response.header("x-request-id"),
        token_times=answer.token_times,
    )


def _read(response: Response, clock: _Clock) -> ParsedResponse:
    """The answer as far as its body was kept; its times in seconds of `clock`."""
    if response.body is None or response.status is None:
        return ParsedResponse()
    edges = [0, *accumulate(chunk.size for chunk in response.chunks)]
    pieces = [response.body[start:end] for start, end in pairwise(edges)]
    times = [(chunk.at_ns - clock.mono_ns) / 1e9 for chunk in response.chunks]
    return parse_recorded(response, zip(times, pieces, strict=True))
