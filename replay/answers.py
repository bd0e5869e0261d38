"""From what a sender saw to a Sample: the answer is read after it has ended, off the sending loop. Pure."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tbench.capture.exchange import Outcome
from tbench.capture.providers import ParsedResponse, one_line, outcome_of, parse_response
from tbench.capture.redact import Secrets
from tbench.replay.request import Label
from tbench.replay.sample import HEADER_NAMES, Sample, server_headers
from tbench.replay.sender import Attempt, Reply

UNANSWERED: Final = ParsedResponse()
LONGEST_REASON: Final = 64
"""Characters: a reason is a word; what is longer is a server's joke on whoever keeps it."""
NONE: Final = Secrets()


def to_sample(attempt: Attempt, began: float, secrets: Secrets = NONE) -> Sample:
    """The sample of a finished attempt; `began` is the run's start on the sender's clock.

    `secrets` are masked wherever the server quotes them.
    """
    call, reply = Label.unpack(attempt.label), attempt.reply
    headers = _headers(reply)
    header = partial(_text, headers)
    answer = read(reply, header)
    outcome, error = conclusion(reply, answer, endpoint=call.endpoint)
    usage = answer.usage
    first_byte = reply.chunks[0][0] if reply.chunks else None
    first_token, first_answer, last_token = (
        answer.first_token,
        answer.first_answer,
        answer.last_token,
    )
    sent, end = reply.sent, reply.end

    def since(place: int | None) -> float | None:
        after = None if place is None else reply.unsure.get(place)
        return None if after is None else after - began

    return Sample(
        id=call.id,
        index=attempt.index,
        cycle=call.cycle,
        session=call.session,
        endpoint=call.endpoint,
        model=call.model,
        stream=call.stream,
        held=attempt.held,
        connect=connect_s(reply),
        due=attempt.due,
        sent=None if sent is None else sent - began,
        first_byte=None if first_byte is None else first_byte - began,
        first_token=None if first_token is None else first_token - began,
        first_token_after=since(_place(reply, first_token)),
        first_answer=None if first_answer is None else first_answer - began,
        first_answer_after=since(_place(reply, first_answer)),
        last_token=None if last_token is None else last_token - began,
        last_token_after=since(_place(reply, last_token)),
        end=None if end is None else end - began,
        end_after=since(len(reply.chunks)),
        sent_wall_ns=reply.sent_wall_ns,
        first_wall_ns=wall(reply, first_token if call.stream else first_byte),
        status=reply.status,
        outcome=outcome,
        error=error and secrets.mask_excerpt(error),
        finish_reason=secrets.mask_text(",".join(answer.finish_reasons))[:LONGEST_REASON] or None,
        prompt_tokens=usage.prompt,
        output_tokens=usage.output,
        cached_tokens=usage.cached,
        reasoning_tokens=usage.reasoning,
        cache_creation_tokens=usage.created,
        request_bytes=call.request_bytes,
        response_bytes=reply.received,
        conn_reused=reply.reused,
        reconnected=reply.reconnected,
        request_id=secrets.mask_text(header(b"x-request-id")) or None,
        headers=() if HEADER_NAMES.isdisjoint(headers) else server_headers(reply.headers, secrets),
        token_times=tuple([at - began for at in answer.token_times]),
    )


def _place(reply: Reply, at: float | None) -> int | None:
    """Which of the chunks brought what is stamped so; None where that is of no interest."""
    if at is None or not reply.unsure:
        return None
    return bisect_left(reply.chunks, (at,))


def _headers(reply: Reply) -> dict[bytes, bytes]:
    """The first value of each header field by its lower-case name."""
    return {name.lower(): value for name, value in reversed(reply.headers)}


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    """A header's value, or nothing."""
    return headers.get(name, b"").decode("latin-1")


def read(reply: Reply, header: Callable[[bytes], str]) -> ParsedResponse:
    """The answer as far as it came."""
    if reply.status is None:
        return UNANSWERED
    return parse_response(
        reply.chunks,
        content_type=header(b"content-type"),
        content_encoding=header(b"content-encoding"),
        status=reply.status,
    )


def conclusion(
    reply: Reply, answer: ParsedResponse, *, endpoint: str
) -> tuple[Outcome, str | None]:
    """How the attempt ended, and why in one line unless it went well."""
    if reply.failure:
        return reply.failure
    if reply.status is None:
        return Outcome.PROTOCOL_ERROR, "the sender ended without an answer and without a reason"
    outcome = outcome_of(reply.status, answer, endpoint=endpoint)
    if outcome is Outcome.OK:
        return outcome, None
    if 300 <= reply.status < 400 and (location := reply.header("location")):
        address = one_line(location.partition("?")[0])
        return outcome, f"a redirect to {address}, which is not followed; give that address"
    return outcome, answer.error or "the answer ended before its end"


def connect_s(reply: Reply) -> float:
    """How long it took to open a connection before the request was sent, seconds."""
    if reply.connecting is None or reply.sent is None:
        return 0.0
    return reply.sent - reply.connecting


def wall(reply: Reply, at: float | None) -> int | None:
    """A time of the sender's clock as wall clock, by the pair of stamps at `sent`."""
    if at is None or reply.sent is None or reply.sent_wall_ns is None:
        return None
    return reply.sent_wall_ns + round((at - reply.sent) * 1e9)
