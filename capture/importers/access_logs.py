"""Access logs of Envoy and nginx, text or JSON lines: when requests came, how large, how they ended.

Envoy: its default text and Istio's, JSON lines by the names that Istio and Envoy Gateway give, and those of
Envoy AI Gateway, which have token counts. `start_time` is when a request came, `duration` (ms) is to the last
byte of the answer, `bytes_received` is the body's size. nginx: its format `combined`, and JSON lines by the
names of its variables. It logs when the answer is out: `msec` (s), `time_iso8601` and `time_local` are ends,
`request_time` (s) is how long it took, `content_length` the body's size.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

from tbench.capture.exchange import Outcome
from tbench.capture.importers.importer import (
    CHAT,
    CLIENT_CLOSED,
    NO_ARRIVAL,
    OTHER,
    Call,
    Importer,
    LeftOut,
    Lengths,
    Row,
    count,
    dumped,
    error_status,
    first,
    http_status,
    moment,
    scaled,
    text,
    unpacked,
)
from tbench.capture.providers import PROMISED, Usage, endpoint_of

NO_LINE: Final = LeftOut("that are no line of an access log")
LONGEST_LINE: Final = 2**20
TOO_LONG: Final = LeftOut("longer than 1 MiB")
_QUOTED = rb'"((?:[^"\\\n]|\\.)*)"'
COMBINED: Final = re.compile(
    rb"(\S+) \S+ \S+ \[(\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    + _QUOTED
    + rb" (\d{3}) (\d+|-)(?:[ \r\n]|$)"
)
"""nginx's `combined` as far as it matters here; what a site adds stands after it."""
ENVOY_TEXT: Final = re.compile(
    rb'\[(\d{4}-\d\d-\d\d[T ][^\]\s]+)\] "(\S+) (\S+) [^"]*" (\d{1,3}) (\S+)'
    rb'(?: \S+ \S+ "[^"]*")? (\d+) (\d+) (\d+) \S+ ' + b" ".join([_QUOTED] * 4)
)
"""Envoy's default; Istio's has three words more after the flags."""
_NGINX_NAMES = ("remote_addr", "time_local", "request", "status", "body_bytes_sent")
_ENVOY_NAMES = ("start_time", "method", "path", "response_code", "response_flags", "bytes_received",
                "bytes_sent", "duration", "x_forwarded_for", "user_agent", "request_id",
                "authority")  # fmt: skip
CUT_FLAGS: Final = {"DC": Outcome.CLIENT_ABORT} | {
    **dict.fromkeys(("UT", "SI", "DT", "UMSDR"), Outcome.TIMEOUT),
    **dict.fromkeys(("UC", "UR", "LR"), Outcome.RESET),
    **dict.fromkeys(("DPE", "UPE"), Outcome.PROTOCOL_ERROR),
}
"""Envoy's flags of an answer that ended before its end, whatever its status is: a stream that has begun.

The first that a row has counts: who left, a deadline, a connection, what was no HTTP.
"""
_CLOCK = re.compile(r"\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}")


def lines(file: IO[bytes], _path: Path, _inside: Sequence[str]) -> Iterator[Row | LeftOut]:
    """The lines of a text log, as the members that the JSON of such a log has."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
            yield TOO_LONG
        elif match := COMBINED.match(line):
            yield _named(_NGINX_NAMES, match)
        elif match := ENVOY_TEXT.match(line):
            yield _named(_ENVOY_NAMES, match)
        elif line.strip():
            yield NO_LINE


def _named(names: Sequence[str], match: re.Match[bytes]) -> Row:
    words = (word.decode("utf-8", "replace") for word in match.groups())
    return dict(zip(names, words, strict=True))


def envoy(row: Row) -> Call | LeftOut:
    """One request; of Envoy AI Gateway with its tokens."""
    arrive, took = moment(row.get("start_time")), scaled(row.get("duration"), "ms")
    usage = Usage(
        prompt=count(row.get("gen_ai.usage.input_tokens")),
        output=count(row.get("gen_ai.usage.output_tokens")),
    )
    model = _word(row, "gen_ai.request.model")
    asked = ("x-envoy-original-path", "x-envoy-origin-path", ":path", "path")
    flags = CUT_FLAGS.keys() & set((_word(row, "response_flags") or "").split(","))
    return _call(
        method=_word(row, "method", ":method"),
        path=_word(row, *asked) or (CHAT if model else None),
        sure=model is not None,
        arrive_ns=arrive,
        end_ns=None if arrive is None or took is None else arrive + took,
        host=_word(row, "authority", ":authority"),
        model=model,
        size=count(row.get("bytes_received")),
        status=count(row.get("response_code")),
        usage=usage,
        session=_word(row, "session.id"),
        failure=f"ended early: {', '.join(sorted(flags))}" if flags else None,
        # With a status of 400 or more Envoy itself has answered, and whole.
        outcome=None
        if error_status(row.get("response_code"))
        else next((CUT_FLAGS[flag] for flag in CUT_FLAGS if flag in flags), None),
    )


def nginx(row: Row) -> Call | LeftOut:
    """One request."""
    method, _, rest = (_word(row, "request") or "").partition(" ")
    end = scaled(row.get("msec"), "s") or moment(row.get("time_iso8601"))
    local = row.get("time_local")
    if end is None and isinstance(local, str) and _CLOCK.fullmatch(local):
        with suppress(ValueError):
            end = moment(datetime.strptime(local, "%d/%b/%Y:%H:%M:%S %z"))
    took = scaled(row.get("request_time"), "s")
    body = row.get("request_body")  # nginx writes it as a text, or with `escape=none` as it came
    sent = None
    if isinstance(unpacked(body), dict):
        sent = body.encode() if isinstance(body, str) else dumped(body)
    return _call(
        method=_word(row, "request_method") or method or None,
        path=_word(row, "request_uri", "uri") or rest.partition(" ")[0] or None,
        arrive_ns=None if end is None else end - (took or 0),
        stamp_ns=end,
        end_ns=None if took is None else end,
        host=_word(row, "http_host", "host"),
        size=count(row.get("content_length")),
        status=count(row.get("status")),
        body=sent,
    )


def _call(
    *,
    method: str | None,
    path: str | None,
    sure: bool = False,
    arrive_ns: int | None,
    size: int | None,
    status: int | None,
    body: bytes | None = None,
    usage: Usage = Usage(),  # noqa: B008 (frozen)
    failure: str | None = None,
    outcome: Outcome | None = None,
    **members: Any,  # noqa: ANN401 (those of Call)
) -> Call | LeftOut:
    """A request to a model, or why it is none; `sure` is whether the log itself says that it went to one."""
    endpoint = endpoint_of((method or "POST").upper(), (path or "").partition("?")[0])
    if path is None or (endpoint.name not in PROMISED and not sure):
        return OTHER
    if arrive_ns is None:
        return NO_ARRIVAL
    closed = status == CLIENT_CLOSED
    answered = http_status(status) is not None and not closed
    return Call(
        arrive_ns=arrive_ns,
        path=path if endpoint.name in PROMISED else CHAT,
        body=body
        if body is not None
        else Lengths(usage.prompt or 0, usage.output or None, body_bytes=size or None),
        usage=usage,
        status=status if answered else None,
        # Envoy writes 0 where no answer had begun.
        failure=failure or (None if answered or status is None else "no answer"),
        outcome=Outcome.CLIENT_ABORT
        if closed
        else outcome or (None if answered or status is None else Outcome.RESET),
        **members,
    )


def _word(row: Row, *names: str) -> str | None:
    """The first of several names that says something; `-` is how these logs say nothing."""
    return first(lambda value: None if value == "-" else text(value), row, *names)


ENVOY = Importer(
    calls=envoy,
    matches=lambda row: (
        {"start_time", "duration"} <= row.keys()
        and bool({"gen_ai.request.model", "response_code"} & row.keys())
    ),
    trust={"arrival": "reported", "end": "derived"},
    cannot="texts, answers, first tokens (a stream's duration is the whole stream); without an AI gateway, "
    "models and tokens",
    plain="access",
)
NGINX = Importer(
    calls=nginx,
    matches=lambda row: (
        "status" in row
        and bool({"msec", "time_iso8601", "time_local"} & row.keys())
        and bool({"request", "request_uri", "uri"} & row.keys())
    ),
    trust={"arrival": "derived", "end": "reported"},
    cannot="texts, models, tokens, answers, first tokens; without `request_time` an arrival is when its "
    "answer was out",
    plain="access",
)
