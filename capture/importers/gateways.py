"""Logs of gateways, and of platforms that serve models: LiteLLM, Helicone, Bedrock, SageMaker, Databricks.

LiteLLM: lines of its StandardLoggingPayload (S3, GCS, webhook), and rows of its table SpendLogs.
`completionStartTime` falls back to `endTime`, and is the end itself where nothing was streamed: then it is no
first token. What LiteLLM's database has cut is marked in the text; what its cache answered went to no model.
Helicone: bodies where they were asked for; its exporter quotes the JSON of a CSV twice.
Bedrock: whole seconds, bodies in each model's own shape, so that its counts alone are taken. SageMaker Data
Capture and the inference tables of Databricks keep the JSON that a model was sent and gave, inside a text.
"""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
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
    OTHER,
    RESPONSES,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    dumped,
    error_status,
    identity,
    is_cut,
    members,
    moment,
    path_for,
    prompt_of,
    scaled,
    text,
    unpacked,
)
from tbench.capture.importers.mapping import mapped, mapped_call, parse_map
from tbench.capture.providers import Usage

ENDPOINTS: Final = {
    "completion": (CHAT, "messages"),
    "text_completion": (COMPLETIONS, "prompt"),
    "embedding": (EMBEDDINGS, "input"),
    "anthropic_messages": ("/v1/messages", "messages"),
    "responses": (RESPONSES, "input"),
}
"""LiteLLM's types of calls, less the `a` of asynchronous ones: where they went, the member for messages."""
SESSIONS: Final = ("session_id", "litellm_session_id", "trace_id", "litellm_trace_id")
"""Members by which its client names its session, the surest first."""
CUT_MARK, REDACTED_MARK = b"litellm_truncated", b"redacted-by-litellm"
REDACTED: Final = LeftOut("whose messages LiteLLM redacted")


def litellm(row: Row) -> Call | LeftOut:
    """One call as LiteLLM logged it."""
    kind = str(row.get("call_type") or "completion")
    endpoint = ENDPOINTS.get(kind) or ENDPOINTS.get(kind.removeprefix("a"))
    # Dates in the table, Unix seconds in a payload.
    arrive, end, first_token = (
        moment(row.get(name)) or scaled(row.get(name), "s")
        for name in ("startTime", "endTime", "completionStartTime")
    )
    if endpoint is None:
        return OTHER
    if str(row.get("cache_hit")).lower() == "true":
        return CACHED
    if arrive is None:
        return NO_ARRIVAL
    metadata = members(row.get("metadata"))
    counted = members(metadata.get("usage_object"))
    usage = Usage(
        prompt=count(row.get("prompt_tokens")),
        output=count(row.get("completion_tokens")),
        cached=count(members(counted.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning=count(members(counted.get("completion_tokens_details")).get("reasoning_tokens")),
    )
    # What the proxy was sent, where that was kept.
    asked = members(row.get("proxy_server_request"))
    inner = members(asked.get("body"))
    body = _litellm_body(row, kind, endpoint[1], usage, asked if asked.get(endpoint[1]) else inner)
    if isinstance(body, LeftOut):
        return body
    failed = row.get("status") == "failure"
    # The table has it among the metadata. A client that left in a stream is billed as a success.
    error = members(row.get("error_information")) or members(metadata.get("error_information"))
    outcome = named_outcome(error.get("error_class"))
    if outcome not in {Outcome.CLIENT_ABORT, Outcome.TIMEOUT}:
        outcome = (
            None  # its other names are of statuses; APIConnectionError is of all it does not know
        )
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
    # What the client named: the payload's `trace_id` is drawn for each call where nobody did.
    given = inner or asked
    places = (
        metadata,
        members(metadata.get("requester_metadata")),
        given,
        members(given.get("metadata")),
    )
    named = (identity(place.get(name)) for name in SESSIONS for place in places)
    return Call(
        arrive_ns=arrive,
        end_ns=end,
        first_token_ns=first_token,
        scheme="http" if (base or "").startswith("http://") else "https",
        host=base,
        path=endpoint[0],
        model=text(row.get("model")),
        body=body,
        answer=answer if answer and isinstance(answer, dict | str) and not failed else None,
        usage=usage,
        status=status if failed else 200,
        failure=words if failed or outcome else None,
        outcome=outcome,
        session=identity(row.get("session_id")) or next(filter(None, named), None),
    )


def _litellm_body(
    row: Row, kind: str, name: str, usage: Usage, asked: Mapping[str, Any]
) -> dict[str, Any] | Lengths | LeftOut:
    """What the proxy was `asked`, else messages and parameters, else the length of a prompt."""
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
        body = {**members(row.get("model_parameters")), name: messages}
    data = dumped(body)
    if CUT_MARK in data or CUT_MARK in dumped(row.get("proxy_server_request")):
        return CUT_SHORT
    if REDACTED_MARK in data:
        return REDACTED
    return body or prompt_of(usage)


NO_ENTRY: Final = "00000000-0000-0000-0000-000000000000"
"""What Helicone writes for the entry of a cache where no cache answered."""
_HELICONE: Final = parse_map([
    "arrival=request_created_at:iso", "body=request_body", "answer=response_body", "path=path",
    "model=model", "status=response_status", "prompt_tokens=prompt_tokens",
    "output_tokens=completion_tokens",
])  # fmt: skip
ROWS: Final = {**_HELICONE, **parse_map(["duration=delay_ms:ms", "id=request_id"])}
SHORT_ROWS: Final = {**_HELICONE, **parse_map(["end=response_created_at:iso", "id=response_id"])}
"""Of the exporter's CSV, which has no request's id, and whose `latency` has no stated unit."""
THREAT: Final = LeftOut("that Helicone took for a threat, never sent to a model")
UNANSWERED: Final[Mapping[str, Outcome]] = {"-1": Outcome.TIMEOUT, "-3": Outcome.CLIENT_ABORT}
"""Helicone's own statuses. -2 is of a request without an answer yet, -4 of one that it refused."""


def helicone(row: Row) -> Call | LeftOut:
    """One request; a row of the exporter's CSV has the time of the answer in place of how long it took."""
    status = str(row.get("response_status"))
    if row.get("cache_reference_id") not in (None, "", NO_ENTRY):
        return CACHED
    if status == "-4":
        return THREAT
    asked = row.get("request_body")
    if isinstance(asked, str) and asked.startswith('{""'):
        asked = asked.replace('""', '"')
    target = text(row.get("target_url")) or ""
    known = {
        **row,
        "request_body": None if _is_notice(asked) else asked,
        "response_body": None if _is_notice(row.get("response_body")) else row.get("response_body"),
        "path": row.get("request_path") or target,
        "model": row.get("request_model") or row.get("model"),
    }
    call = mapped_call(ROWS if "delay_ms" in row else SHORT_ROWS, known)
    if isinstance(call, LeftOut):
        return call
    sessions = (  # what the client's header said, which Helicone keeps as a property
        text(value)
        for name in ("request_properties", "properties")
        for key, value in members(row.get(name)).items()
        if str(key).lower() == "helicone-session-id"
    )
    cached = count(row.get("prompt_cache_read_tokens"))
    unanswered = status == "-2"
    return replace(
        call,
        end_ns=None if unanswered else call.end_ns,
        host=target or None,
        answer=None if unanswered else call.answer,
        usage=call.usage._replace(cached=cached),
        outcome=UNANSWERED.get(status, call.outcome),
        session=next(filter(None, sessions), None),
    )


def _is_notice(body: object) -> bool:
    """Whether Helicone's own words stand where a body would be: it was too large, or is stored elsewhere."""
    return any(str(name).startswith("helicone_") for name in members(body))


FLAT: Final = parse_map(
    ["body=body", "path=path", "answer=answer", "model=model", "id=id", "status=status",
     "prompt_tokens=answer.usage.prompt_tokens", "output_tokens=answer.usage.completion_tokens"]
)  # fmt: skip
SAGEMAKER_PLACES: Final = {**FLAT, **parse_map(["arrival=at:iso"])}
TABLE_PLACES: Final = {**FLAT, **parse_map(["arrival=at:iso", "duration=took:ms"])}
OLD_TABLE_PLACES: Final = {**FLAT, **parse_map(["arrival=at:ms", "duration=took:ms"])}


def sagemaker(row: Row) -> Call | LeftOut:
    """One captured inference, its data as JSON or base64."""
    data, event = members(row.get("captureData")), members(row.get("eventMetadata"))
    texts = dict[str, object]()
    for side, name in (("body", "endpointInput"), ("answer", "endpointOutput")):
        part = members(data.get(name))
        texts[side] = part.get("data")
        if isinstance(texts[side], str) and part.get("encoding") == "BASE64":
            try:
                texts[side] = b64decode(str(texts[side])).decode()
            except ValueError:
                texts[side] = None
    at = {"at": event.get("inferenceTime"), "id": event.get("eventId")}
    return _platform_call(SAGEMAKER_PLACES, {**at, **texts})


def databricks(row: Row) -> Call | LeftOut:
    """One row of an inference table: of AI Gateway, or one of the older ones."""
    old = "request_time" not in row
    details: Any = row.get("request_metadata")
    if isinstance(details, list):  # a map of Parquet is a list of pairs
        details = dict(pair for pair in details if isinstance(pair, tuple) and len(pair) == 2)
    return _platform_call(
        OLD_TABLE_PLACES if old else TABLE_PLACES,
        {
            "at": row.get("timestamp_ms" if old else "request_time"),
            "took": row.get("execution_time_ms" if old else "execution_duration_ms"),
            "id": row.get("databricks_request_id"),
            "status": row.get("status_code"),
            "model": members(details).get("model_name"),
            "body": row.get("request"),
            "answer": row.get("response"),
        },
    )


def _platform_call(places: Mapping[str, Any], row: dict[str, Any]) -> Call | LeftOut:
    """The call of a row, if what the model was sent is what an API of text takes."""
    if is_cut(row["body"]):
        return CUT_SHORT
    body = members(row["body"])
    if (path := path_for(body)) is None:
        return OTHER
    call = mapped_call(places, {**row, "path": path})
    if isinstance(call, LeftOut) or "model" in body:
        return call
    # Where the platform knows the model by the endpoint, its name is put into the body.
    return replace(call, body=body)


LITELLM = Importer(
    calls=litellm,
    matches=lambda row: {"startTime", "endTime", "call_type"} <= row.keys(),
    trust={"arrival": "reported", "end": "reported", "first_token": "reported"},
    cannot="the client's own bytes; times between tokens",
)
HELICONE = Importer(
    calls=helicone,
    matches=lambda row: (
        "request_created_at" in row
        and ({"request_id", "delay_ms"} <= row.keys() or {"response_id", "latency"} <= row.keys())
    ),
    trust={"arrival": "reported", "end": "derived"},
    cannot="the bytes of streams; texts, unless bodies were exported",
    repeats=True,
)
BEDROCK = mapped(
    parse_map([
        "arrival=timestamp:iso", "model=modelId", "id=requestId", "prompt_tokens=input.inputTokenCount",
        "output_tokens=output.outputTokenCount",
    ]),
    lambda row: row.get("schemaType") == "ModelInvocationLog",
    "texts (bodies are in each model's own shape), latencies, prompt tokens that came from a cache",
    repeats=True,
    failed="errorCode",
)  # fmt: skip
SAGEMAKER = Importer(
    calls=sagemaker,
    matches=lambda row: {"captureData", "eventMetadata"} <= row.keys(),
    trust={"arrival": "reported"},
    cannot="latencies, answers (nothing says when they ended), what was no JSON or sampled away",
    repeats=True,
)
DATABRICKS = Importer(
    calls=databricks,
    matches=lambda row: "databricks_request_id" in row and "request" in row,
    trust={"arrival": "reported", "end": "derived"},
    cannot="first tokens; what was sampled away",
    repeats=True,
)
