"""Requests as they were on the wire: flows of mitmproxy, GoReplay's files, cassettes of vcrpy.

mitmproxy stamps a request when its first byte came and an answer when its last one did. GoReplay 1.3 writes
how long each message took; before, an answer has the time since its request, and a request has none.
"""

from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from tbench.capture.endings import Failure
from tbench.capture.importers.har import OTHER, web_call
from tbench.capture.importers.importer import Call, Importer, LeftOut, Row, scaled, text

OLDEST_FLOW: Final = 17
"""mitmproxy 9, of 2022; what a request and an answer hold has not changed since."""
OLD_FLOW: Final = LeftOut("of a mitmproxy before 9: mitmdump -nr OLD -w NEW makes new ones of them")
BAD_HTTP: Final = LeftOut("whose HTTP is cut short or no HTTP")


def mitmproxy(row: Row) -> Iterator[Call | LeftOut]:
    """One flow."""
    request, response, error = (row.get(name) for name in ("request", "response", "error"))
    version = row.get("version")
    if row.get("type") != "http" or not isinstance(request, Mapping) or row.get("websocket"):
        yield OTHER
        return
    if not isinstance(version, int) or version < OLDEST_FLOW:
        yield OLD_FLOW
        return
    answered = isinstance(response, Mapping)
    response = response if isinstance(response, Mapping) else {}
    failed = error if isinstance(error, Mapping) else {}
    headers = list(_pairs(request.get("headers")))
    host = next((value for name, value in headers if name.lower() == "host"), None)
    host = host or _word(request.get("authority")) or _word(request.get("host"))
    end = scaled(response.get("timestamp_end") or failed.get("timestamp"), "s")
    server, words = row.get("server_conn"), text(failed.get("msg"))
    server = server if isinstance(server, Mapping) else {}
    ending = Failure(
        text=words or "",
        timed_out=False,
        client_connected=True,
        upstream_connected=server.get("timestamp_tcp_setup") is not None,
        upstream_http2=server.get("alpn") == b"h2",
        head_seen=answered,
    )
    yield web_call(
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


def goreplay(row: Row) -> Iterator[Call | LeftOut]:
    """One request, with its answer if the file has it."""
    if not isinstance(row.get("request"), tuple):
        yield BAD_HTTP
        return
    words, payload = row["request"]
    start, headers, body = _http(payload)
    if body is None or len(start) < 2:
        yield BAD_HTTP
        return
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
    yield web_call(
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


def vcrpy(row: Row) -> Iterator[Call | LeftOut]:
    """One interaction; nothing says when it was."""
    request, response = row.get("request"), row.get("response")
    request = request if isinstance(request, Mapping) else {}
    response = response if isinstance(response, Mapping) else {}
    status = response.get("status")
    yield web_call(
        method=text(request.get("method")),
        url=text(request.get("uri")) or "",
        headers=_pairs(request.get("headers")),
        body=_saved(request.get("body")),
        timed=False,
        status=status.get("code") if isinstance(status, Mapping) else None,
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
    return (
        value.decode("latin-1")
        if isinstance(value, bytes)
        else value
        if isinstance(value, str)
        else ""
    )


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
