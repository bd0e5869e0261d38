"""Recordings of HTTP for other tools: HAR 1.2 and cassettes of vcrpy, both without content-encodings."""

import re
from base64 import b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, BinaryIO, Final

import orjson

from tbench.capture.exchange import Request, Response
from tbench.capture.exporters.exporter import (
    NO_ANSWER,
    NOT_KEPT,
    Exporter,
    Record,
    Row,
    content_of,
    document,
    headers_of,
    is_kept,
    json_of,
)
from tbench.capture.importers.importer import LeftOut
from tbench.capture.runtime import version

NO_TEXT: Final = LeftOut("whose body is no text")
NO_HEAD: Final = LeftOut("that failed without an HTTP answer")


def iso(at_ns: int) -> str:
    """A time as ISO 8601 with all its digits, UTC."""
    return f"{datetime.fromtimestamp(at_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{at_ns % 10**9:09d}Z"


def url_of(request: Request) -> str:
    """Where it went."""
    return f"{request.scheme}://{request.host}{request.path}"


def har(record: Record) -> Row | LeftOut:
    """An entry of a HAR; an answer that never came has status 0 and `_error`."""
    request, response = record.request, record.response
    if response is None:
        return NO_ANSWER
    if not is_kept(request):
        return NOT_KEPT
    try:
        body = content_of(request).decode()
    except UnicodeDecodeError:
        return NO_TEXT
    took = response.end_ns - request.arrive_ns
    waited = took if response.head_ns is None else response.head_ns - request.arrive_ns
    words = response.error or (None if response.status else str(response.outcome))
    posted = {"mimeType": request.header("content-type") or "", "text": body}
    answer = content_of(response)
    content = {"size": len(answer), "mimeType": response.header("content-type") or ""}
    if not is_kept(response):
        content["size"] = response.body_bytes
    else:
        try:
            content["text"] = answer.decode()
        except UnicodeDecodeError:
            content |= {"text": b64encode(answer).decode(), "encoding": "base64"}
    return {
        "startedDateTime": iso(record.arrival_ns),
        "time": took / 1e6,
        "request": {
            "method": request.method,
            "url": url_of(request),
            **_common(request),
            "queryString": [],
            **({"postData": posted} if body else {}),
        },
        "response": {
            "status": response.status or 0,
            "statusText": _phrase(response),
            **_common(response),
            "content": content,
            "redirectURL": "",
            **({"_error": words} if words else {}),
        },
        "cache": {},
        "timings": {"send": 0, "wait": waited / 1e6, "receive": (took - waited) / 1e6},
        "_id": request.id,
        "_outcome": record.facts.outcome,
    }


def _common(message: Request | Response) -> dict[str, Any]:
    return {
        "httpVersion": message.http_version,
        "cookies": [],
        "headers": [{"name": name, "value": value} for name, value in headers_of(message)],
        "headersSize": -1,
        "bodySize": message.body_bytes,
    }


def _phrase(response: Response) -> str:
    return next((known.phrase for known in HTTPStatus if known == response.status), "")


# vcrpy: YAML, of which JSON is a part. An interaction is a line, so that any number fits in memory.

_NO_YAML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What YAML does not take, or changes, even between quotes."""


def cassette(record: Record) -> Row | LeftOut:
    """A request and its answer."""
    request, response = record.request, record.response
    if response is None:
        return NO_ANSWER
    if response.status is None:
        return NO_HEAD
    if not (is_kept(request) and is_kept(response)):
        return NOT_KEPT
    return {
        "request": {
            "method": request.method,
            "uri": url_of(request),
            "headers": _listed(request),
            "body": content_of(request),
        },
        "response": {
            "status": {"code": response.status, "message": _phrase(response)},
            "headers": _listed(response),
            "body": {"string": content_of(response)},
        },
    }


def _listed(message: Request | Response) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in headers_of(message):
        headers.setdefault(name, []).append(value)
    return headers


def _flow(value: object) -> str:
    """A value as YAML in its JSON form; bytes that are no text as `!!binary`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, bytes):
        try:
            return _flow(value.decode())
        except UnicodeDecodeError:
            return f'!!binary "{b64encode(value).decode()}"'
    return _NO_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", json_of(value).decode())


def interactions(rows: Iterable[bytes], file: BinaryIO) -> None:
    """A cassette, format 1."""
    file.write(b"version: 1\ninteractions:\n")
    file.writelines(b"- " + row + b"\n" for row in rows)


_CREATOR: Final = orjson.dumps({"name": "tbench", "version": version("tbench")})

HAR = Exporter(
    make=lambda _job: har,
    write=partial(
        document,
        b'{"log": {"version": "1.2", "creator": ' + _CREATOR + b', "entries": [',
        b"]}}\n",
    ),
    cannot="first tokens and the times of chunks (imported again, E2E of a stream is to its last byte), "
    "content-encodings, which attempt was a retry",
)
VCR = Exporter(
    make=lambda _job: cassette,
    encode=lambda row: _flow(row).encode(),
    write=interactions,
    cannot="any time, content-encodings, failures without an HTTP answer",
)
