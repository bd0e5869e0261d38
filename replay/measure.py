"""Measure: the Sample of a reply or of a recorded response; the same bytes and stamps make the same one.

An answer is read after it has ended, off the sending loop. A recorded exchange is put into the form of a
call and its reply, so that one set of rules says how each ended, what of it may be written down, and what its
numbers are. There the proxy's clock stands for the client's: `sent` is when a request began to arrive, and
nothing was due, since the application sent when it liked.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, batched, pairwise
from typing import Final, NamedTuple

import numpy as np

from tbench.capture.exchange import Exchange, Outcome
from tbench.capture.providers import (
    PROMISED,
    ParsedResponse,
    RequestInfo,
    one_line,
    outcome_of,
    parse_recorded,
    parse_request,
    parse_response,
    recorded_outcome,
)
from tbench.capture.redact import Secrets
from tbench.capture.sessions import Sessions
from tbench.capture.trace_reader import Trace
from tbench.replay import columns
from tbench.replay.columns import Column
from tbench.replay.sample import HEADER_NAMES, Sample, server_headers
from tbench.replay.sender import NOWHERE, Call, Label, Reply
from tbench.replay.table import Columns, Table, gather_gaps

LONGEST_REASON: Final = 64
"""Characters: a reason is a word; what is longer is a server's joke on whoever keeps it."""
NONE: Final = Secrets()
_UNREAD: Final = ParsedResponse(done=True)
"""A body that was not kept is taken for a whole answer, as the capture judged it when it was there."""
_BATCH: Final = 1000


def to_sample(
    call: Call,
    reply: Reply,
    began: float,
    secrets: Secrets = NONE,
    answer: ParsedResponse | None = None,
) -> Sample:
    """The sample of a call that has ended; `began` is the run's start on the sender's clock.

    `secrets` are masked wherever the server quotes them. `answer` is what the reply says where its body was
    not kept; by default it is read.
    """
    label, chunks, sent = Label.unpack(call.label), reply.chunks, reply.sent
    headers = {name.lower(): value for name, value in reversed(reply.headers)}  # the first of each
    if answer is None and reply.status is not None:
        answer = parse_response(
            reply.chunks,
            content_type=headers.get(b"content-type", b"").decode("latin-1"),
            content_encoding=headers.get(b"content-encoding", b"").decode("latin-1"),
            status=reply.status,
        )
    elif answer is None:
        answer = ParsedResponse()
    outcome, error = _conclusion(reply, answer, endpoint=label.endpoint)
    usage = answer.usage
    first_byte, end = chunks[0][0] if chunks else None, reply.end
    first_token, first_answer = answer.first_token, answer.first_answer
    last_token = answer.last_token
    first = first_token if label.stream else first_byte
    first_wall_ns: int | None = None
    if first is not None and sent is not None and reply.sent_wall_ns is not None:
        # As wall clock, by the pair of stamps at `sent`.
        first_wall_ns = reply.sent_wall_ns + round((first - sent) * 1e9)
    request_id = headers.get(b"x-request-id") or headers.get(b"request-id")

    sample = Sample(
        id=label.id,
        index=call.index,
        cycle=label.cycle,
        session=label.session,
        endpoint=label.endpoint,
        model=label.model,
        stream=label.stream,
        held=reply.held,
        connect=0.0 if reply.connecting is None or sent is None else sent - reply.connecting,
        due=call.due,
        sent=None if sent is None else sent - began,
        first_byte=None if first_byte is None else first_byte - began,
        first_token=None if first_token is None else first_token - began,
        first_answer=None if first_answer is None else first_answer - began,
        last_token=None if last_token is None else last_token - began,
        end=None if end is None else end - began,
        sent_wall_ns=reply.sent_wall_ns,
        first_wall_ns=first_wall_ns,
        status=reply.status,
        outcome=outcome,
        error=error and secrets.mask_excerpt(error),
        finish_reason=secrets.mask_text(",".join(answer.finish_reasons))[:LONGEST_REASON] or None,
        prompt_tokens=usage.prompt,
        output_tokens=usage.output,
        cached_tokens=usage.cached,
        reasoning_tokens=usage.reasoning,
        cache_creation_tokens=usage.created,
        request_bytes=label.request_bytes,
        response_bytes=reply.received,
        conn_reused=reply.reused,
        reconnected=reply.reconnected,
        request_id=secrets.mask_text(request_id.decode("latin-1")) if request_id else None,
        headers=() if HEADER_NAMES.isdisjoint(headers) else server_headers(reply.headers, secrets),
        token_times=tuple([at - began for at in answer.token_times]),
    )
    if reply.refusals:
        sample.refusals = len(reply.refusals)
        sample.waited = math.fsum(refusal.waited for refusal in reply.refusals)
    if reply.unsure:
        _date_late_reads(sample, reply, answer, began)
    return sample


def _date_late_reads(sample: Sample, reply: Reply, answer: ParsedResponse, began: float) -> None:
    """Note since when what was read late may have been there."""

    def after(at: float | None) -> float | None:
        return None if at is None else unsure.get(bisect_left(reply.chunks, (at,)))

    unsure = {place: since - began for place, since in reply.unsure.items()}
    sample.first_token_after = after(answer.first_token)
    sample.first_answer_after = after(answer.first_answer)
    sample.last_token_after = after(answer.last_token)
    sample.end_after = unsure.get(len(reply.chunks))


def _conclusion(
    reply: Reply, answer: ParsedResponse, *, endpoint: str
) -> tuple[Outcome, str | None]:
    """How the attempt ended, and why in one line unless it went well."""
    if reply.failure:
        outcome, why = reply.failure
        return outcome, why or answer.error
    if reply.status is None:
        return Outcome.PROTOCOL_ERROR, "the sender ended without an answer and without a reason"
    outcome = outcome_of(reply.status, answer, endpoint=endpoint)
    if outcome is Outcome.OK:
        return outcome, None
    if 300 <= reply.status < 400 and (location := reply.header("location")):
        address = one_line(location.partition("?")[0])
        return outcome, f"a redirect to {address}, which is not followed; give that address"
    return outcome, answer.error or "the answer ended before its end"


# Recorded: what the application saw while it was captured, as a replay would have seen it.


class Recorded(NamedTuple):
    """The columns and token gaps of a trace, in the form of `replay.runfile.Run`."""

    columns: Columns
    token_gaps: tuple[Column, Column]


def measure_trace(trace: Trace) -> Recorded:
    """Measure every inference exchange of a trace, in arrival order."""
    blocks, tokens, n = [], [], 0
    for batch in batched(recorded_samples(trace), _BATCH):
        blocks.append(columns.pack(columns.from_samples(batch)))
        tokens.append(columns.pack_tokens(batch))
        n += len(batch)
    table = Table(lambda: blocks, rows=n)
    table.mark("warmup", np.zeros(n, dtype=bool))
    return Recorded(table, gather_gaps(tokens, n))


def recorded_samples(trace: Trace) -> Iterator[Sample]:
    """A sample for each exchange with an inference endpoint; seconds from the first one's arrival."""
    origin_ns: int | None = None
    index = 0
    sessions = Sessions()
    for exchange in trace:
        request = exchange.request
        encoding = request.header("content-encoding")
        parsed = parse_request(request.method, request.path, request.body, encoding)
        if parsed.info.endpoint not in PROMISED:
            continue
        origin_ns = request.arrive_ns if origin_ns is None else origin_ns
        label = Label(
            id=request.id,
            endpoint=parsed.info.endpoint,
            model=parsed.info.model,
            stream=parsed.info.stream,
            request_bytes=request.body_bytes,
            session=sessions.assign(
                request, parsed=parsed, response=exchange.response, answer=exchange.answer
            ).number,
        )
        call = Call(index, None, NOWHERE, b"", b"", label=label.pack())
        reply = _reply(exchange, parsed.info, origin_ns, trace.header.wall(request.arrive_ns))
        response, answer = exchange.response, None
        if response is not None and response.body is None:
            answer = _UNREAD
        elif response is not None and "known_times" in response.extra:
            answer = parse_recorded(response, reply.chunks)  # imported
        yield to_sample(call, reply, 0.0, answer=answer)
        index += 1


def _reply(exchange: Exchange, info: RequestInfo, origin_ns: int, sent_wall_ns: int) -> Reply:
    """The exchange as a sender would have seen it, in seconds from `origin_ns`."""

    def seconds(at_ns: int) -> float:
        return (at_ns - origin_ns) / 1e9

    response = exchange.response
    reply = Reply(sent=seconds(exchange.request.arrive_ns), sent_wall_ns=sent_wall_ns)
    outcome, error = exchange.outcome, (response and response.error) or ""
    if response and outcome is Outcome.CLIENT_ABORT:
        outcome = recorded_outcome(response, parse_recorded(response), endpoint=info.endpoint)
        error = error if outcome is Outcome.CLIENT_ABORT else ""
    if outcome is not Outcome.OK:
        # How its transport ended, which no body can say better.
        reply.failure = outcome, error
    if response is None:
        return reply
    reply.status, reply.end = response.status, seconds(response.end_ns)
    reply.received = response.body_bytes
    reply.headers = [
        (name.encode("utf-8", "replace"), value.encode("utf-8", "replace"))
        for name, value in response.headers
    ]
    body, edges = response.body, accumulate((chunk.size for chunk in response.chunks), initial=0)
    reply.chunks = [
        (seconds(chunk.at_ns), body[start:end] if body else b"")
        for chunk, (start, end) in zip(response.chunks, pairwise(edges), strict=True)
    ]
    if body and not response.chunks:  # nobody knows when its parts came: all of it was there then
        reply.chunks = [(reply.end, body)]
    return reply
