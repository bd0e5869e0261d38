"""LiteLLM: lines of its StandardLoggingPayload (S3, GCS, webhook), and rows of its table SpendLogs.

`completionStartTime` falls back to `endTime`, and is the end itself where nothing was streamed: then it is no
first token. What LiteLLM's database has cut is marked in the text; what its cache answered went to no model.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tbench.capture.endings import named_outcome
from tbench.capture.exchange import Outcome
from tbench.capture.importers.importer import (
    CACHED,
    CHAT,
    CLIENT_CLOSED,
    COMPLETIONS,
    CUT_SHORT,
    EMBEDDINGS,
    NO_ARRIVAL,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    dumped,
    error_status,
    moment,
    prompt_of,
    scaled,
    text,
    unpacked,
)
from tbench.capture.providers import Usage

ENDPOINTS: Final = {
    "completion": (CHAT, "messages"),
    "text_completion": (COMPLETIONS, "prompt"),
    "embedding": (EMBEDDINGS, "input"),
    "anthropic_messages": ("/v1/messages", "messages"),
    "responses": ("/v1/responses", "input"),
}
"""Types of calls, less the `a` of asynchronous ones: where they went, and the member for the messages."""
SESSIONS: Final = ("session_id", "litellm_session_id", "trace_id", "litellm_trace_id")
"""Members by which a client names its session, the surest first."""
CUT_MARK, REDACTED_MARK = b"litellm_truncated", b"redacted-by-litellm"
OTHER: Final = LeftOut("not a request to a model")
REDACTED: Final = LeftOut("whose messages LiteLLM redacted")


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """One call as LiteLLM logged it."""
    kind = str(row.get("call_type") or "completion")
    endpoint = ENDPOINTS.get(kind) or ENDPOINTS.get(kind.removeprefix("a"))
    # Dates in the table, Unix seconds in a payload.
    arrive, end, first = (
        moment(row.get(name)) or scaled(row.get(name), "s")
        for name in ("startTime", "endTime", "completionStartTime")
    )
    if endpoint is None:
        yield OTHER
    elif str(row.get("cache_hit")).lower() == "true":
        yield CACHED
    elif arrive is None:
        yield NO_ARRIVAL
    else:
        metadata = _members(row, "metadata")
        counted = _members(metadata, "usage_object")
        usage = Usage(
            prompt=count(row.get("prompt_tokens")),
            output=count(row.get("completion_tokens")),
            cached=count(_members(counted, "prompt_tokens_details").get("cached_tokens")),
            reasoning=count(_members(counted, "completion_tokens_details").get("reasoning_tokens")),
        )
        content = _content(row, kind, endpoint[1], usage)
        if isinstance(content, LeftOut):
            yield content
            return
        failed = row.get("status") == "failure"
        # The table has it among the metadata. A client that left in a stream is billed as a success.
        error = _members(row, "error_information") or _members(metadata, "error_information")
        outcome = named_outcome(error.get("error_class"))
        if outcome not in {Outcome.CLIENT_ABORT, Outcome.TIMEOUT}:
            outcome = None  # its other names are of statuses; APIConnectionError is of all it does not know
        status = error_status(error.get("error_code")) if failed else None
        if failed and status == CLIENT_CLOSED:
            outcome = Outcome.CLIENT_ABORT
        if outcome:  # a timeout's 408 and a client's 499 are LiteLLM's own: no answer had them
            status = None
        if failed and status is None and usage.output:
            outcome = outcome or Outcome.CUT  # tokens had come
            status = 200
        why = (error.get("error_message"), row.get("error_str"), error.get("error_class"))
        words = next(filter(None, map(text, why)), "failed, as LiteLLM says")
        base, answer = text(row.get("api_base")), unpacked(row.get("response"))
        yield Call(
            arrive_ns=arrive,
            end_ns=end,
            first_token_ns=first,
            scheme="http" if (base or "").startswith("http://") else "https",
            host=base,
            path=endpoint[0],
            model=text(row.get("model")),
            body=None if isinstance(content, Lengths) else content,
            lengths=content if isinstance(content, Lengths) else None,
            answer=answer if answer and isinstance(answer, dict | str) and not failed else None,
            usage=usage,
            status=status if failed else 200,
            failure=words if failed or outcome else None,
            outcome=outcome,
            session=text(row.get("session_id")) or _session(row, metadata),
        )


def _session(row: Row, metadata: Mapping[str, Any]) -> str | None:
    """What the client named: the payload's `trace_id` is drawn for each call where nobody did."""
    asked = _members(row, "proxy_server_request")
    body = _members(asked, "body") or asked
    places = (metadata, _members(metadata, "requester_metadata"), body, _members(body, "metadata"))
    named = (text(place.get(name)) for name in SESSIONS for place in places)
    return next(filter(None, named), None)


def _members(row: Row, name: str) -> Mapping[str, Any]:
    value = unpacked(row.get(name))
    return value if isinstance(value, dict) else {}


def _content(row: Row, kind: str, name: str, usage: Usage) -> dict[str, Any] | Lengths | LeftOut:
    """The body: what the proxy was sent where that was kept, else messages and parameters."""
    asked = _members(row, "proxy_server_request")
    asked = asked if asked.get(name) else _members(asked, "body")
    messages = unpacked(row.get("messages"))
    body = {}
    if asked.get(name):
        body = {**asked}
    elif messages:
        if name == "messages" and isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if name == "input" and kind.endswith("embedding") and isinstance(messages, list):
            # What an embedding was asked for stands there as messages of the user.
            texts = [each.get("content") for each in messages if isinstance(each, dict)]
            messages = texts or messages
        body = {**_members(row, "model_parameters"), name: messages}
    data = dumped(body)
    if CUT_MARK in data or CUT_MARK in dumped(row.get("proxy_server_request")):
        return CUT_SHORT
    if REDACTED_MARK in data:
        return REDACTED
    return body or prompt_of(usage)


LITELLM = Importer(
    calls=calls,
    matches=lambda row: {"startTime", "endTime", "call_type"} <= row.keys(),
    trust={"arrival": "reported", "end": "reported", "first_token": "reported"},
    cannot="the client's own bytes; times between tokens",
)
