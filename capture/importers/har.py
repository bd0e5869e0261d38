"""HAR 1.2: what browsers, proxies and HTTP tools save. `time` is in ms; there is no time of any token."""

from base64 import b64decode
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

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
    method, address = text(request.get("method")) or "POST", text(request.get("url"))
    try:
        url = urlsplit(address or "")
    except ValueError:  # a bracket that is never closed, for one
        yield OTHER
        return
    body = _member(request, "postData").get("text")
    arrive, took = moment(row.get("startedDateTime")), scaled(row.get("time"), "ms")
    if (
        url.scheme not in {"http", "https"}
        or not url.netloc
        or endpoint_of(method, url.path).name not in PROMISED
    ):
        yield OTHER
    elif arrive is None:
        yield NO_ARRIVAL
    elif not isinstance(body, str) or not body:
        yield NO_BODY
    elif is_cut(body):
        yield CUT_SHORT
    else:
        status, content = response.get("status"), _member(response, "content")
        answered = isinstance(status, int) and 100 <= status <= 999
        saved, answer = content.get("text"), None
        if isinstance(saved, str) and saved and answered:
            try:
                is_base64 = content.get("encoding") == "base64"
                answer = b64decode(saved) if is_base64 else saved.encode("utf-8", "replace")
            except ValueError:  # no base64 after all: as if nothing had been saved
                answer = None
        yield Call(
            arrive_ns=arrive,
            end_ns=None if took is None else arrive + took,
            method=method.upper(),
            scheme=url.scheme,
            host=url.netloc.rpartition("@")[2],
            path=url.path + (f"?{url.query}" if url.query else ""),
            headers=tuple(_fields(request.get("headers"))),
            body=body.encode("utf-8", "replace"),
            answer=answer,
            answer_type=text(content.get("mimeType")) or "application/json",
            status=status if answered else None,
            failure=None if answered else text(response.get("_error")) or "no answer",
        )


def _member(row: Row, name: str) -> Row:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _fields(pairs: object) -> Iterator[tuple[str, str]]:
    """The header fields, less HTTP/2's pseudo-fields and those of encodings, which a HAR has undone."""
    for pair in pairs if isinstance(pairs, list) else ():
        if not isinstance(pair, dict):
            continue
        name, value = pair.get("name"), pair.get("value")
        if not isinstance(name, str) or not isinstance(value, str) or name.startswith(":"):
            continue
        if name.lower() not in {"content-encoding", "content-length", "transfer-encoding"}:
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
