"""Requests as they go out: what they hold, and their request line and header fields, written once per shape.

httpx decides what a request looks like; it is written here as httpx would (tests/test_plain_forms.py).
Of two requests of one shape only the id and the length of the body differ, so the rest is kept as a
template, and an id and a length are put into it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

from tbench.capture.providers import RequestInfo
from tbench.replay.sender import Fields, Origin

if TYPE_CHECKING:
    import httpx


class Outgoing(NamedTuple):
    """A request as it goes out: path and body, what it asks for, and what was dropped (a row's name each)."""

    path: str
    body: bytes
    info: RequestInfo
    dropped: Sequence[str] = ()
    unmatched: str | None = None


# A URL in the parts that a request needs. httpx says what they are.
#
# A plain http or https URL is taken apart here, since httpx takes longer to load than a small replay takes;
# any other is left to httpx. Both say the same (tests/test_plain_forms.py).

PORTS: Final = {"http": 80, "https": 443}
_PLAIN: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9]+(?:[._-]+[a-z0-9]+)*)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?)(?P<query>\?[A-Za-z0-9=&._-]*)?"
)


class Address(NamedTuple):
    """`host` is as on the wire, without brackets, `port` None where it is the scheme's own.

    `netloc` is host and port as a request names them, `target` the path and the query as it asks for them.
    `text` is the whole URL, `path` its path with percent escapes undone. `bare` says that there is neither
    a user's name nor a query nor a fragment.
    """

    scheme: str
    host: str
    port: int | None
    netloc: bytes
    target: bytes
    path: str
    text: str
    bare: bool


@lru_cache(maxsize=16)
def address(url: str) -> Address:
    """The parts of a URL. Raises ValueError for what is none."""
    return plain(url) or by_httpx(url)


def plain(url: str) -> Address | None:
    """The same for a URL in which nothing needs to be escaped or resolved; None for any other."""
    match = _PLAIN.fullmatch(url)
    if not match or "xn--" in match["host"] or not _sound(match["host"]):
        return None
    scheme, host, given = match["scheme"], match["host"], match["port"]
    port = None if given is None or int(given) == PORTS[scheme] else int(given)
    netloc = host if port is None else f"{host}:{port}"
    path, query = match["path"] or "/", match["query"] or ""
    text = f"{scheme}://{netloc}{match['path']}{query}"
    bare = query in {"", "?"}
    return Address(scheme, host, port, netloc.encode(), f"{path}{query}".encode(), path, text, bare)


def _sound(host: str) -> bool:
    """Whether a host of digits and dots is an address of IPv4."""
    if not host.replace(".", "").isdigit():
        return True
    try:
        return str(ip_address(host)) == host
    except ValueError:
        return False


def by_httpx(url: str) -> Address:
    """The parts of any URL."""
    import httpx  # noqa: PLC0415 (slow to load)

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    return Address(
        scheme=parsed.scheme,
        host=parsed.raw_host.decode("ascii").strip("[]"),
        port=parsed.port,
        netloc=parsed.netloc,
        target=parsed.raw_path,
        path=parsed.path,
        text=str(parsed),
        bare=not (parsed.userinfo or parsed.query or parsed.fragment),
    )


ID: Final = b"x-request-id"
SLOT: Final = b"\x01"
"""The value of the id's field in a template; none that is given by hand may hold such a character."""
BODIED: Final = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose requests say so when they have no body."""
FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})
"""Fields that are made from the request itself: none is taken over, and none can be given."""
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Shape(NamedTuple):
    """What a head depends on beside id and length. `bodied` is whether there is a body at all."""

    method: str
    url: str
    fields: Fields
    bodied: bool


class Template(NamedTuple):
    """Where a request is to be sent, and its head with a place (%) for an id, and for a body's length."""

    origin: Origin
    pattern: bytes


def template(shape: Shape) -> Template:
    """The template of a shape, whose id has the value SLOT if it is to be filled in.

    Raises ValueError for one that HTTP/1.1 cannot carry.
    """
    where, method = address(shape.url), shape.method.upper()
    if any(name.lower() in FRAMING for name, _ in shape.fields):
        raise ValueError("a header that is made from the request itself")
    fields = [(b"Host", where.netloc)]
    if not shape.bodied and method in BODIED:
        fields.append((b"Content-Length", b"0"))
    fields += shape.fields
    if shape.bodied:
        # Last, where httpx has it. The 1 is a place: only this
        # line is replaced, as no given field may have the name.
        fields.append((b"Content-Length", b"1"))
    # Before the slots are put in, whose own signs must stay.
    pattern = _head(method, where.target, fields).replace(b"%", b"%%")
    slotted = pattern.replace(b"\r\n%b: %b\r\n" % (ID, SLOT), b"\r\n%b: %%b\r\n" % ID)
    # %.0b takes the id and prints nothing.
    pattern = b"%.0b" + pattern if slotted == pattern else slotted
    if shape.bodied:
        pattern = pattern.replace(b"\r\nContent-Length: 1\r\n", b"\r\nContent-Length: %d\r\n")
    return Template(origin_at(where), pattern)


def head_of(request: "httpx.Request") -> bytes:
    """A request up to its body, as it goes out. Raises ValueError for one that HTTP/1.1 cannot carry."""
    return _head(request.method, request.url.raw_path, request.headers.raw)


def _head(verb: str, target: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    method = verb.encode("ascii")
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"the method {verb!r} is no word")
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            raise ValueError("a header's name is no word")
        # RFC 9110, 5.5: with one of them a header could begin a request of its own.
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise ValueError("a header holds a line break or a zero byte")
        if name.lower() == b"transfer-encoding":
            raise ValueError("a request with a transfer-encoding; give its body as bytes")
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def origin_of(url: "httpx.URL") -> Origin:
    """Where a URL of httpx's leads. Raises ValueError for one that is neither http nor https."""
    return _origin(url.scheme, url.raw_host.decode("ascii").strip("[]"), url.port)


def origin_at(where: Address) -> Origin:
    """Where an address leads. Raises ValueError for one that is neither http nor https."""
    return _origin(where.scheme, where.host, where.port)


def _origin(scheme: str, host: str, port: int | None) -> Origin:
    if scheme not in PORTS:
        raise ValueError(f"{scheme}: neither http nor https")
    return Origin(scheme, host, port or PORTS[scheme])
