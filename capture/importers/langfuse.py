"""Langfuse: observations of its blob export (JSONL, JSON, CSV, Parquet) and of the export from its pages.

Times are UTC without a zone, `latency` and `time_to_first_token` are seconds. Rows may stand twice. Only
generations went to a model: spans above them repeat their usage.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tbench.capture.importers.importer import (
    CUT_SHORT,
    NO_ARRIVAL,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    is_cut,
    moment,
    prompt_of,
    scaled,
    text,
    told,
    unpacked,
)
from tbench.capture.providers import Usage

OTHER: Final = LeftOut("not a generation")
_ENDLESS = re.compile(r'"?\bInfinity\b"?')
"""The `max_tokens` of requests that named none, as Langfuse's wrapper of OpenAI's SDK logs them."""


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """One observation."""
    if str(row.get("type")).upper() != "GENERATION":
        yield OTHER
        return
    arrive = moment(_member(row, "start_time", "startTime"))
    if arrive is None:
        yield NO_ARRIVAL
        return
    details = unpacked(_member(row, "usage_details", "usageDetails"))
    if isinstance(details, Mapping):
        # Kinds such as `input_cached_tokens`, or Anthropic's, are parts beside `input`: they add up.
        sides = (
            [count(value) for name, value in details.items() if str(name).startswith(names)]
            for names in (("input", "cache_"), ("output",))
        )
        parts = [[number for number in side if number is not None] for side in sides]
        prompt, output = (sum(side) if side else None for side in parts)
    else:
        details = {}
        prompt, output = count(row.get("promptTokens")), count(row.get("completionTokens"))
    usage = Usage(
        prompt=prompt,
        output=output,
        cached=count(_member(details, "input_cached_tokens", "cache_read_input_tokens")),
        reasoning=count(details.get("output_reasoning_tokens")),
    )
    first = moment(_member(row, "completion_start_time", "completionStartTime"))
    waited = scaled(_member(row, "time_to_first_token", "timeToFirstToken"), "s")
    if first is None and waited is not None:
        first = arrive + waited
    end, took = moment(_member(row, "end_time", "endTime")), scaled(row.get("latency"), "s")
    if end is None and took is not None:
        end = arrive + took
    # Some loggers write the end as the first token of what was not streamed.
    content = _content(row, usage, streamed=first is not None and end is not None and first < end)
    if isinstance(content, LeftOut):
        yield content
        return
    failed = row.get("level") == "ERROR"
    answer = unpacked(row.get("output"))
    why = text(_member(row, "status_message", "statusMessage"))
    status, outcome = told(why) if failed else (None, None)
    yield Call(
        arrive_ns=arrive,
        end_ns=end,
        first_token_ns=first,
        model=text(_member(row, "provided_model_name", "model", "providedModelName")),
        body=None if isinstance(content, Lengths) else content,
        lengths=content if isinstance(content, Lengths) else None,
        answer=answer if answer and isinstance(answer, dict | str) and not failed else None,
        usage=usage,
        status=status,
        failure=(why or "failed, as Langfuse says") if failed else None,
        outcome=outcome,
        session=text(_member(row, "session_id", "sessionId")),
        id=text(row.get("id")),
    )


def _member(row: Row, *names: str) -> Any:  # noqa: ANN401 (whatever it holds)
    """The first of several spellings that says something."""
    return next((value for name in names if (value := row.get(name)) not in (None, "")), None)


def _content(row: Row, usage: Usage, *, streamed: bool) -> dict[str, Any] | Lengths | LeftOut:
    """What the SDK was given, with the parameters; the length alone where that was not exported."""
    if is_cut(row.get("input")):
        return CUT_SHORT
    asked = unpacked(row.get("input"))
    parameters = _member(row, "model_parameters", "modelParameters")
    if isinstance(parameters, str):
        parameters = unpacked(_ENDLESS.sub("null", parameters))
    named_values = parameters.items() if isinstance(parameters, dict) else ()
    settings = {
        name: unpacked(value) for name, value in named_values if value not in (None, "Infinity")
    }
    if streamed:
        settings.setdefault("stream", True)
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
    return prompt_of(usage)


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
