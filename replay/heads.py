"""Heads: the request line and header fields as they go on the wire, written by httpx once per shape.

httpx decides what a request looks like. Of two requests of one shape only the id and the length of the body
differ, so the rest is kept as a template, and an id and a length are put into it.
"""

import re
from typing import Final, NamedTuple

import httpx

from replay.sender import Fields, Origin

ID: Final = b"x-request-id"
SLOT: Final = b"\x01"
"""The value of the id's field in a template; none that is given by hand may hold such a character."""
PORTS: Final = {"http": 80, "https": 443}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = b"\r\nContent-Length: 1\r\n"
"""As httpx writes it for a body of one byte. No recorded or given field may have that name."""


class Shape(NamedTuple):
    """What a head depends on beside id and length. `bodied` is whether there is a body at all."""

    method: str
    url: str
    fields: Fields
    bodied: bool


class Template(NamedTuple):
    """A head with places for an id and, where `bodied`, a length; and where it is to be sent."""

    origin: Origin
    pattern: bytes
    bodied: bool

    def head(self, request_id: bytes, length: int) -> bytes:
        """The head of one request."""
        return self.pattern % ((request_id, length) if self.bodied else request_id)


def template(shape: Shape) -> Template:
    """The template of a shape, whose id has the value SLOT if it is to be filled in.

    Raises ValueError or httpx.InvalidURL for one that HTTP/1.1 cannot carry.
    """
    content = b"x" if shape.bodied else b""
    request = httpx.Request(shape.method, shape.url, headers=shape.fields, content=content)
    pattern = head_of(request).replace(b"%", b"%%")
    slotted = pattern.replace(b"\r\n%b: %b\r\n" % (ID, SLOT), b"\r\n%b: %%b\r\n" % ID)
    pattern = (
        b"%.0b" + pattern if slotted == pattern else slotted
    )  # %.0b takes the id and prints nothing
    if shape.bodied:
        pattern = pattern.replace(_LENGTH, b"\r\nContent-Length: %d\r\n")
    return Template(origin_of(request.url), pattern, shape.bodied)


def head_of(request: httpx.Request) -> bytes:
    """A request up to its body, as it goes out. Raises ValueError for one that HTTP/1.1 cannot carry."""
    method = request.method.encode("ascii")
    fields = request.headers.raw
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"the method {request.method!r} is no word")
    for name, value in fields:
        _check(name, value)
    lines = [b"%b %b HTTP/1.1" % (method, request.url.raw_path)]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _check(name: bytes, value: bytes) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError("a header's name is no word")
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise ValueError("a header holds a line break or a zero byte")
    if name.lower() == b"transfer-encoding":
        raise ValueError("a request with a transfer-encoding; give its body as bytes")


def origin_of(url: httpx.URL) -> Origin:
    """Where a URL leads. Raises ValueError for one that is neither http nor https."""
    if url.scheme not in PORTS:
        raise ValueError(f"{url.scheme}: neither http nor https")
    host = url.raw_host.decode("ascii").strip("[]")
    return Origin(url.scheme, host, url.port or PORTS[url.scheme])
