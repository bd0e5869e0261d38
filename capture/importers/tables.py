"""Logs of which a map says everything: evalscope's workload traces, Bedrock, Helicone, Envoy AI Gateway.

evalscope: `timestamp` is seconds or ISO 8601. Bedrock: whole seconds, bodies in each model's own shape, so
that its counts alone are taken. Helicone: bodies where they were asked for. Envoy: the names of the access
log that it documents, whose format is a setting.
"""

from typing import Final

from tbench.capture.importers.importer import CACHED, LeftOut, Row
from tbench.capture.importers.mapping import SECONDS_OR_ISO, Place, mapped, parse_map

FAILED: Final = LeftOut("that failed, of which the log has no request")


NO_ENTRY: Final = "00000000-0000-0000-0000-000000000000"
"""What Helicone writes for the entry of a cache where no cache answered."""


def _cached(row: Row) -> LeftOut | None:
    return None if row.get("cache_reference_id") in (None, "", NO_ENTRY) else CACHED


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
HELICONE = mapped(
    parse_map([
        "arrival=request_created_at:iso", "duration=delay_ms:ms",
        "body=request_body", "answer=response_body", "path=request_path", "model=request_model",
        "status=response_status", "prompt_tokens=prompt_tokens", "output_tokens=completion_tokens",
        "id=request_id",
    ]),
    lambda row: {"request_id", "request_created_at", "delay_ms"} <= row.keys(),
    "the bytes of streams; texts, unless bodies were exported",
    repeats=True,
    other=_cached,
)  # fmt: skip
ENVOY = mapped(
    parse_map([
        "arrival=start_time:iso", "duration=duration:ms", "model=gen_ai.request.model",
        "prompt_tokens=gen_ai.usage.input_tokens", "output_tokens=gen_ai.usage.output_tokens",
        "status=response_code", "session=session.id", "id=x-request-id",
    ]),
    lambda row: {"start_time", "duration", "gen_ai.request.model"} <= row.keys(),
    "texts, answers, first tokens (a stream's duration is the whole stream)",
)  # fmt: skip
