"""Captures of serving platforms: SageMaker Data Capture, and the inference tables of Databricks.

Both keep the JSON that a model was sent and gave, inside a text. SageMaker: `inferenceTime` in whole
seconds, data as JSON or base64. Databricks: tables of AI Gateway (`request_time`, `execution_duration_ms`)
and the older ones (`timestamp_ms`, `execution_time_ms`).
"""

from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from tbench.capture.importers.importer import (
    CUT_SHORT,
    Call,
    Importer,
    LeftOut,
    Row,
    is_cut,
    path_for,
    unpacked,
)
from tbench.capture.importers.mapping import calls as mapped_calls
from tbench.capture.importers.mapping import parse_map

OTHER: Final = LeftOut("not a request to a model")
FLAT: Final = parse_map(
    ["body=body", "path=path", "answer=answer", "model=model", "id=id", "status=status",
     "prompt_tokens=answer.usage.prompt_tokens", "output_tokens=answer.usage.completion_tokens"]
)  # fmt: skip
SAGEMAKER_PLACES: Final = {**FLAT, **parse_map(["arrival=at:iso"])}
TABLE_PLACES: Final = {**FLAT, **parse_map(["arrival=at:iso", "duration=took:ms"])}
OLD_TABLE_PLACES: Final = {**FLAT, **parse_map(["arrival=at:ms", "duration=took:ms"])}


def sagemaker(row: Row) -> Iterator[Call | LeftOut]:
    """One captured inference."""
    data, event = _map(row.get("captureData")), _map(row.get("eventMetadata"))
    yield from _calls(
        SAGEMAKER_PLACES,
        {
            "at": event.get("inferenceTime"),
            "id": event.get("eventId"),
            "body": _data(data.get("endpointInput")),
            "answer": _data(data.get("endpointOutput")),
        },
    )


def databricks(row: Row) -> Iterator[Call | LeftOut]:
    """One row of an inference table."""
    old = "request_time" not in row
    details: Any = row.get("request_metadata")
    if isinstance(details, list):  # a map of Parquet is a list of pairs
        details = dict(pair for pair in details if isinstance(pair, tuple) and len(pair) == 2)
    yield from _calls(
        OLD_TABLE_PLACES if old else TABLE_PLACES,
        {
            "at": row.get("timestamp_ms" if old else "request_time"),
            "took": row.get("execution_time_ms" if old else "execution_duration_ms"),
            "id": row.get("databricks_request_id"),
            "status": row.get("status_code"),
            "model": _map(details).get("model_name"),
            "body": row.get("request"),
            "answer": row.get("response"),
        },
    )


def _calls(places: Mapping[str, Any], row: dict[str, Any]) -> Iterator[Call | LeftOut]:
    """The call of a row, if what the model was sent is what an API of text takes."""
    body = unpacked(row["body"])
    path = path_for(body) if isinstance(body, dict) else None
    if is_cut(row["body"]):
        yield CUT_SHORT
        return
    if path is None:
        yield OTHER
        return
    for call in mapped_calls(places, {**row, "path": path}):
        # Where the platform knows the model by the endpoint, its name is put into the body.
        bare = isinstance(call, Call) and "model" not in body
        yield replace(call, body=body) if isinstance(call, Call) and bare else call


def _data(part: object) -> object:
    """What was captured, as a text."""
    data, encoding = (_map(part).get(name) for name in ("data", "encoding"))
    if isinstance(data, str) and encoding == "BASE64":
        try:
            return b64decode(data).decode()
        except ValueError:
            return None
    return data


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


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
