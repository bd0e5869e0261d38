"""Logs of which a map says everything: evalscope's workload traces, genai-bench's results, Bedrock, Helicone.

evalscope: `timestamp` is seconds or ISO 8601. genai-bench: the lengths of the requests of a point of a sweep,
which have no times. Bedrock: whole seconds, bodies in each model's own shape, so that its counts alone are
taken. Helicone: bodies where they were asked for; its exporter quotes the JSON of a CSV twice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from tbench.capture.exchange import Outcome
from tbench.capture.importers.importer import (
    CACHED,
    Call,
    Importer,
    LeftOut,
    Row,
    count,
    text,
    unpacked,
)
from tbench.capture.importers.mapping import SECONDS_OR_ISO, Place, calls, mapped, parse_map

FAILED: Final = LeftOut("that failed, of which the log has no request")


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


def helicone(row: Row) -> Iterator[Call | LeftOut]:
    """One request; a row of the exporter's CSV has the time of the answer in place of how long it took."""
    status = str(row.get("response_status"))
    if row.get("cache_reference_id") not in (None, "", NO_ENTRY):
        yield CACHED
        return
    if status == "-4":
        yield THREAT
        return
    asked = row.get("request_body")
    if isinstance(asked, str) and asked.startswith('{""'):
        asked = asked.replace('""', '"')
    model = row.get("request_model") or row.get("model")
    places = ROWS if "delay_ms" in row else SHORT_ROWS
    target = text(row.get("target_url")) or ""
    known = {
        **row,
        "request_body": None if _is_notice(asked) else asked,
        "response_body": None if _is_notice(row.get("response_body")) else row.get("response_body"),
        "path": row.get("request_path") or target,
        "model": model,
    }
    for call in calls(places, known):
        if isinstance(call, LeftOut):
            yield call
            continue
        cached = count(row.get("prompt_cache_read_tokens"))
        call = replace(  # noqa: PLW2901
            call,
            host=target or None,
            usage=call.usage._replace(cached=cached),
            session=_session(row),
        )
        if status == "-2":
            yield replace(call, end_ns=None, answer=None)
        else:
            yield replace(call, outcome=UNANSWERED.get(status, call.outcome))


def _session(row: Row) -> str | None:
    """What the client's header `Helicone-Session-Id` said, which Helicone keeps as a property."""
    for name in ("request_properties", "properties"):
        properties = unpacked(row.get(name))
        for key, value in properties.items() if isinstance(properties, dict) else ():
            if str(key).lower() == "helicone-session-id" and (session := text(value)):
                return session
    return None


def _is_notice(body: object) -> bool:
    """Whether Helicone's own words stand where a body would be: it was too large, or is stored elsewhere."""
    body = unpacked(body)
    return isinstance(body, dict) and any(str(name).startswith("helicone_") for name in body)


def _failed(row: Row) -> LeftOut | None:
    return FAILED if row.get("errorCode") else None


EVALSCOPE = mapped(
    {
        "arrival": Place("timestamp", SECONDS_OR_ISO),
        **parse_map(["body=body", "id=request_id", "output_tokens=completion_tokens"]),
    },
    lambda row: (
        {"body", "timestamp"}
        <= row.keys()
        <= {"body", "timestamp", "headers", "request_id", "completion_tokens"}
    ),
    "headers, answers, latencies",
)
BEDROCK = mapped(
    parse_map([
        "arrival=timestamp:iso", "model=modelId", "id=requestId", "prompt_tokens=input.inputTokenCount",
        "output_tokens=output.outputTokenCount",
    ]),
    lambda row: row.get("schemaType") == "ModelInvocationLog",
    "texts (bodies are in each model's own shape), latencies, prompt tokens that came from a cache",
    repeats=True,
    other=_failed,
)  # fmt: skip
GENAI_BENCH = mapped(
    parse_map(["prompt_tokens=num_input_tokens", "output_tokens=num_output_tokens"]),
    lambda row: {"num_input_tokens", "num_output_tokens", "e2e_latency"} <= row.keys(),
    "texts, models, arrivals (its points are closed loops), and so latencies; failures have no lengths",
    other=lambda row: FAILED if row.get("error_code") else None,
    documents=(("individual_request_metrics",),),
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
