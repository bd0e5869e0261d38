"""HAR 1.2: what browsers, proxies and HTTP tools save. `time` is in ms; there is no time of any token."""

from base64 import b64decode
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from tbench.capture.decode import decode
from tbench.capture.endings import named_outcome
from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome
from tbench.capture.importers.importer import (
    CUT_SHORT,
    NO_ARRIVAL,
    Call,
    Importer,
    LeftOut,
    Row,
    is_cut,
    moment,
    scaled,
    text,
)
from tbench.capture.providers import PROMISED, endpoint_of

OTHER: Final = LeftOut("not a request to a model")
NO_BODY: Final = LeftOut("without a body")


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """One entry, or all of a document that stands on one line."""
    if "log" in row:
        entries = _member(row, "log").get("entries")
        for entry in entries if isinstance(entries, list) else ():
            yield from calls(entry if isinstance(entry, dict) else {})
        return
    request, response = _member(row, "request"), _member(row, "response")
    body = _member(request, "postData").get("text")
    arrive, took = moment(row.get("startedDateTime")), scaled(row.get("time"), "ms")
    content = _member(response, "content")
    saved, answer = content.get("text"), None
    if isinstance(saved, str) and saved:
        try:
            is_base64 = content.get("encoding") == "base64"
            answer = b64decode(saved) if is_base64 else saved.encode("utf-8", "replace")
        except ValueError:  # no base64 after all: as if nothing had been saved
            answer = None
    # A HAR has undone the encodings of bodies, whatever its headers say.
    yield web_call(
        method=text(request.get("method")),
        url=text(request.get("url")) or "",
        headers=_fields(request.get("headers")),
        body=body.encode("utf-8", "replace") if isinstance(body, str) else None,
        arrive_ns=arrive,
        end_ns=None if took is None or arrive is None else arrive + took,
        status=response.get("status"),
        answer=answer,
        answer_headers=[("content-type", text(content.get("mimeType")) or "application/json")],
        failure=text(response.get("_error")),
        outcome=named_outcome(row.get("_outcome")) or named_outcome(response.get("_error")),
    )


def web_call(
    *,
    method: str | None,
    url: str,
    headers: Iterable[tuple[str, str]],
    body: object,
    arrive_ns: int | None = None,
    end_ns: int | None = None,
    timed: bool = True,
    status: object,
    answer: object,
    answer_headers: Iterable[tuple[str, str]],
    failure: str | None,
    outcome: Outcome | None = None,
) -> Call | LeftOut:
    """The call of a request as it was on the wire: bodies as bytes, encoded as their headers say.

    `status` is an HTTP status, or anything else where there was no answer; `failure` and `outcome` say what
    went wrong, with an answer too.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that is never closed, for one
        return OTHER
    method = (method or "POST").upper()
    if (
        parts.scheme not in {"http", "https"}
        or not parts.netloc
        or endpoint_of(method, parts.path).name not in PROMISED
    ):
        return OTHER
    if arrive_ns is None and timed:
        return NO_ARRIVAL
    if not isinstance(body, bytes) or not body:
        return NO_BODY
    fields, answer_fields = list(headers), list(answer_headers)
    try:
        body = decode(body, _header(fields, "content-encoding"))
    except InputError:
        return CUT_SHORT
    if is_cut(body.decode("utf-8", "replace")):
        return CUT_SHORT
    answered = isinstance(status, int) and 100 <= status <= 999
    try:
        encoding = _header(answer_fields, "content-encoding")
        answer = decode(answer, encoding) if isinstance(answer, bytes) and answered else None
    except InputError:
        answer = None
    return Call(
        arrive_ns=arrive_ns,
        end_ns=end_ns,
        method=method,
        scheme=parts.scheme,
        host=parts.netloc.rpartition("@")[2],
        path=parts.path + (f"?{parts.query}" if parts.query else ""),
        headers=tuple(
            (name, value)
            for name, value in fields
            if not name.startswith(":")
            and name.lower() not in {"content-encoding", "content-length", "transfer-encoding"}
        ),
        body=body,
        answer=answer or None,
        answer_type=_header(answer_fields, "content-type") or "application/json",
        status=status if isinstance(status, int) and answered else None,
        # Of a whole answer words that mean nothing certain make no failure: its content tells.
        failure=(failure if outcome else None) if answered else failure or "no answer",
        outcome=outcome or (None if answered else Outcome.RESET),
    )


def _header(fields: Iterable[tuple[str, str]], name: str) -> str:
    return next((value for field, value in fields if field.lower() == name), "")


def _member(row: Row, name: str) -> Row:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _fields(pairs: object) -> Iterator[tuple[str, str]]:
    """The header fields, less those of encodings, which a HAR has undone."""
    for pair in pairs if isinstance(pairs, list) else ():
        name, value = (
            (pair.get("name"), pair.get("value")) if isinstance(pair, dict) else (None, None)
        )
        if isinstance(name, str) and isinstance(value, str) and name.lower() != "content-encoding":
            yield name, value


HAR = Importer(
    calls=calls,
    matches=lambda row: (
        ("startedDateTime" in row and isinstance(row.get("request"), dict))
        or isinstance(_member(row, "log").get("entries"), list)
    ),
    trust={"arrival": "reported", "end": "derived"},
    cannot="first tokens; browsers drop the bodies of streams",
    documents=(("log", "entries"),),
)
