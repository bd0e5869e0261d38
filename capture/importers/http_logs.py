"""Requests as they were on the wire: HAR, flows of mitmproxy, GoReplay's files, cassettes of vcrpy.

HAR 1.2 is what browsers, proxies and HTTP tools save: `time` is in ms, and there is no time of any token.
mitmproxy stamps a request when its first byte came and an answer when its last one did. GoReplay 1.3 writes
how long each message took; before, an answer has the time since its request, and a request has none.
"""

from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from tbench.capture.decode import decode
from tbench.capture.endings import Failure, named_outcome
from tbench.capture.errors import InputError
from tbench.capture.exchange import Outcome
from tbench.capture.importers.importer import (
    CUT_SHORT,
    NO_ARRIVAL,
    NO_BODY,
    OTHER,
    Call,
    Importer,
    LeftOut,
    Row,
    is_cut,
    members,
    moment,
    scaled,
    text,
)
from tbench.capture.providers import PROMISED, endpoint_of

OLDEST_FLOW: Final = 17
"""mitmproxy 9, of 2022; what a request and an answer hold has not changed since."""
OLD_FLOW: Final = LeftOut("of a mitmproxy before 9: mitmdump -nr OLD -w NEW makes new ones of them")
BAD_HTTP: Final = LeftOut("whose HTTP is cut short or no HTTP")


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


def har(row: Row) -> Iterator[Call | LeftOut]:
    """One entry, or all of a document that stands on one line."""
    if "log" in row:
        entries = members(row.get("log")).get("entries")
        for entry in entries if isinstance(entries, list) else ():
            yield _entry(entry if isinstance(entry, dict) else {})
    else:
        yield _entry(row)


def _entry(row: Row) -> Call | LeftOut:
    request, response = members(row.get("request")), members(row.get("response"))
    body = members(request.get("postData")).get("text")
    arrive, took = moment(row.get("startedDateTime")), scaled(row.get("time"), "ms")
    content = members(response.get("content"))
    saved, answer = content.get("text"), None
    if isinstance(saved, str) and saved:
        try:
            is_base64 = content.get("encoding") == "base64"
            answer = b64decode(saved) if is_base64 else saved.encode("utf-8", "replace")
        except ValueError:  # no base64 after all: as if nothing had been saved
            answer = None
    listed = request.get("headers")
    pairs = [
        (pair.get("name"), pair.get("value"))
        for pair in map(members, listed if isinstance(listed, list) else ())
    ]
    return web_call(
        method=text(request.get("method")),
        url=text(request.get("url")) or "",
        # A HAR has undone the encodings of bodies, whatever its headers say.
        headers=[
            (name, value)
            for name, value in pairs
            if isinstance(name, str) and isinstance(value, str)
            if name.lower() != "content-encoding"
        ],
        body=body.encode("utf-8", "replace") if isinstance(body, str) else None,
        arrive_ns=arrive,
        end_ns=None if took is None or arrive is None else arrive + took,
        status=response.get("status"),
        answer=answer,
        answer_headers=[("content-type", text(content.get("mimeType")) or "application/json")],
        failure=text(response.get("_error")),
        outcome=named_outcome(row.get("_outcome")) or named_outcome(response.get("_error")),
    )


def mitmproxy(row: Row) -> Call | LeftOut:
    """One flow."""
    request, response, error = (row.get(name) for name in ("request", "response", "error"))
    version = row.get("version")
    if row.get("type") != "http" or not isinstance(request, Mapping) or row.get("websocket"):
        return OTHER
    if not isinstance(version, int) or version < OLDEST_FLOW:
        return OLD_FLOW
    answered = isinstance(response, Mapping)
    response, failed = members(response), members(error)
    headers = list(_pairs(request.get("headers")))
    host = next((value for name, value in headers if name.lower() == "host"), None)
    host = host or _word(request.get("authority")) or _word(request.get("host"))
    end = scaled(response.get("timestamp_end") or failed.get("timestamp"), "s")
    server, words = members(row.get("server_conn")), text(failed.get("msg"))
    ending = Failure(
        text=words or "",
        timed_out=False,
        client_connected=True,
        upstream_connected=server.get("timestamp_tcp_setup") is not None,
        upstream_http2=server.get("alpn") == b"h2",
        head_seen=answered,
    )
    return web_call(
        method=_word(request.get("method")),
        url=f"{_word(request.get('scheme'))}://{host}{_word(request.get('path'))}",
        headers=headers,
        body=request.get("content"),
        arrive_ns=scaled(request.get("timestamp_start"), "s"),
        end_ns=end,
        status=response.get("status_code"),
        answer=response.get("content"),
        answer_headers=_pairs(response.get("headers")),
        failure=words,
        outcome=ending.outcome if words else None,
    )


def goreplay(row: Row) -> Call | LeftOut:
    """One request, with its answer if the file has it."""
    if not isinstance(row.get("request"), tuple):
        return BAD_HTTP
    words, payload = row["request"]
    start, headers, body = _http(payload)
    if body is None or len(start) < 2:
        return BAD_HTTP
    arrive = scaled(words[2].decode(), "ns")
    status: object = None
    answer, answer_headers, end = None, list[tuple[str, str]](), None
    if "response" in row:
        answer_words, answer_payload = row["response"]
        answer_start, answer_headers, answer = _http(answer_payload)
        code = answer_start[1] if len(answer_start) > 1 else ""
        status = int(code) if len(code) == 3 and code.isdecimal() else None
        if len(answer_words) > 3 and arrive is not None:
            # Only 1.3 says how long a request took; before, an answer's time counts from its request.
            is_new = len(words) > 3 and int(words[3]) >= 0
            end = (int(answer_words[2]) if is_new else arrive) + int(answer_words[3])
    host = next((value for name, value in headers if name.lower() == "host"), "")
    return web_call(
        method=start[0],
        url=f"http://{host}{start[1]}",
        headers=headers,
        body=body,
        arrive_ns=arrive,
        end_ns=end,
        status=status,
        answer=answer,
        answer_headers=answer_headers,
        failure=None,
    )


def vcrpy(row: Row) -> Call | LeftOut:
    """One interaction; nothing says when it was."""
    request, response = members(row.get("request")), members(row.get("response"))
    return web_call(
        method=text(request.get("method")),
        url=text(request.get("uri")) or "",
        headers=_pairs(request.get("headers")),
        body=_saved(request.get("body")),
        timed=False,
        status=members(response.get("status")).get("code"),
        answer=_saved(response.get("body")),
        answer_headers=_pairs(response.get("headers")),
        failure=None,
    )


def _saved(body: object) -> bytes | None:
    """The bytes of a cassette's body: text, binary, or a map of either."""
    if isinstance(body, Mapping):
        if isinstance(encoded := body.get("base64_string"), str):
            try:
                return b64decode(encoded)
            except ValueError:
                return None
        body = body.get("string")
    if isinstance(body, str):
        return body.encode("utf-8", "replace")
    return body if isinstance(body, bytes) else None


def _word(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""


def _pairs(fields: object) -> Iterator[tuple[str, str]]:
    """Header fields of a list of pairs, or of a map of a value or of several."""
    if isinstance(fields, Mapping):
        for name, values in fields.items():
            for value in values if isinstance(values, list | tuple) else [values]:
                yield _word(name), _word(value)
    elif isinstance(fields, Iterable):
        for pair in fields:
            if isinstance(pair, list | tuple) and len(pair) == 2:
                yield _word(pair[0]), _word(pair[1])


def _http(payload: bytes) -> tuple[list[str], list[tuple[str, str]], bytes | None]:
    """The words of the first line, the header fields, and the body; None for one that is cut short."""
    head, _, body = payload.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = [line.partition(":") for line in rest]
    fields = [(name.strip(), value.strip()) for name, _, value in pairs]
    named = {name.lower(): value for name, value in fields}
    if "chunked" in named.get("transfer-encoding", "").lower():
        return first.split(" "), fields, _joined(body)
    length = named.get("content-length", "")
    cut = length.isdecimal() and len(length) < 16 and len(body) < int(length)
    return first.split(" "), fields, None if cut else body


def _joined(body: bytes) -> bytes | None:
    """The chunks of a chunked body, put together; None where the last one is missing."""
    pieces: list[bytes] = []
    at = 0
    while (line := body.find(b"\r\n", at)) >= 0:
        try:
            size = int(body[at:line].partition(b";")[0], 16)
        except ValueError:
            return None
        if size <= 0:
            return b"".join(pieces) if size == 0 else None
        pieces.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
    return None


HAR = Importer(
    calls=har,
    matches=lambda row: (
        ("startedDateTime" in row and isinstance(row.get("request"), dict))
        or isinstance(members(row.get("log")).get("entries"), list)
    ),
    trust={"arrival": "reported", "end": "derived"},
    cannot="first tokens; browsers drop the bodies of streams",
    documents=(("log", "entries"),),
)
MITMPROXY = Importer(
    calls=mitmproxy,
    matches=lambda row: {"version", "client_conn", "type"} <= row.keys(),
    trust={"arrival": "reported", "end": "reported"},
    cannot="first tokens; bodies that were streamed past mitmproxy",
)
GOREPLAY = Importer(
    calls=goreplay,
    matches=lambda row: isinstance(row.get("request"), tuple),
    trust={"arrival": "reported", "end": "derived"},
    cannot="first tokens; what was sent over TLS",
)
VCRPY = Importer(
    calls=vcrpy,
    matches=lambda row: (
        "uri" in row["request"] if isinstance(row.get("request"), Mapping) else False
    ),
    trust={},
    cannot="times: arrivals are spaced, and answers are not in the trace",
)
