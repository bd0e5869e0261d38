"""Langfuse: observations of its blob export (JSONL, JSON, CSV, Parquet) and of the export from its pages.

Times are UTC without a zone, `latency` and `time_to_first_token` are seconds. Rows may stand twice. Only
generations went to a model: spans above them repeat their usage.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tbench.capture.importers.importer import (
    CUT_SHORT,
    NO_ARRIVAL,
    NO_CONTENT,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    is_cut,
    moment,
    scaled,
    text,
    unpacked,
)
from tbench.capture.providers import Usage

OTHER: Final = LeftOut("not a generation")


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """One observation."""
    if str(row.get("type")).upper() != "GENERATION":
        yield OTHER
        return
    arrive = moment(_member(row, "start_time", "startTime"))
    if arrive is None:
        yield NO_ARRIVAL
        return
    usage = _usage(row)
    content = _content(row, usage)
    if isinstance(content, LeftOut):
        yield content
        return
    first = moment(_member(row, "completion_start_time", "completionStartTime"))
    waited = scaled(_member(row, "time_to_first_token", "timeToFirstToken"), "s")
    if first is None and waited is not None:
        first = arrive + waited
    end, took = moment(_member(row, "end_time", "endTime")), scaled(row.get("latency"), "s")
    if end is None and took is not None:
        end = arrive + took
    failed = row.get("level") == "ERROR"
    answer = unpacked(row.get("output"))
    why = text(_member(row, "status_message", "statusMessage"))
    yield Call(
        arrive_ns=arrive,
        end_ns=end,
        first_token_ns=first,
        model=text(_member(row, "provided_model_name", "model", "providedModelName")),
        body=None if isinstance(content, Lengths) else content,
        lengths=content if isinstance(content, Lengths) else None,
        answer=answer if answer and isinstance(answer, dict | str) and not failed else None,
        usage=usage,
        failure=(why or "failed, as Langfuse says") if failed else None,
        session=text(_member(row, "session_id", "sessionId")),
        id=text(row.get("id")),
    )


def _member(row: Row, *names: str) -> Any:  # noqa: ANN401 (whatever it holds)
    """The first of several spellings that says something."""
    return next((value for name in names if (value := row.get(name)) not in (None, "")), None)


def _content(row: Row, usage: Usage) -> dict[str, Any] | Lengths | LeftOut:
    """What the SDK was given, with the parameters; the length alone where that was not exported."""
    if is_cut(row.get("input")):
        return CUT_SHORT
    asked, parameters = (
        unpacked(row.get("input")),
        unpacked(_member(row, "model_parameters", "modelParameters")),
    )
    settings = (
        {name: unpacked(value) for name, value in parameters.items()}
        if isinstance(parameters, dict)
        else {}
    )
    if isinstance(asked, dict) and isinstance(asked.get("messages"), list):
        return {**settings, **asked}
    if isinstance(asked, dict) and "role" in asked:
        asked = [asked]
    if (
        isinstance(asked, list)
        and asked
        and all(isinstance(each, dict) and "role" in each for each in asked)
    ):
        return {**settings, "messages": asked}
    if prompt := text(asked):
        return {**settings, "messages": [{"role": "user", "content": prompt}]}
    if asked not in (None, "", [], {}):
        return LeftOut("whose input is no messages")
    return Lengths(usage.prompt, usage.output or None) if usage.prompt else NO_CONTENT


def _usage(row: Row) -> Usage:
    """Token counts: kinds of input and of output are parts that add up."""
    details = unpacked(_member(row, "usage_details", "usageDetails"))
    if not isinstance(details, Mapping):
        return Usage(
            prompt=count(row.get("promptTokens")), output=count(row.get("completionTokens"))
        )
    counts = {
        str(name): number for name, value in details.items() if (number := count(value)) is not None
    }
    sides: dict[str, int | None] = {}
    for side in ("input", "output"):
        parts = [number for name, number in counts.items() if name.startswith(side)]
        sides[side] = sum(parts) if parts else None
    return Usage(prompt=sides["input"], output=sides["output"])


LANGFUSE = Importer(
    calls=calls,
    matches=lambda row: (
        bool({"start_time", "startTime"} & row.keys())
        and bool({"trace_id", "traceId"} & row.keys())
        and "type" in row
    ),
    trust={"arrival": "reported", "end": "reported", "first_token": "reported"},
    cannot="the HTTP bodies: `input` is what the SDK was given; times between tokens",
    repeats=True,
)
