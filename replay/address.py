"""Address: a URL in the parts that a request needs. httpx says what they are.

A plain http or https URL is taken apart here, since httpx takes longer to load than a small replay takes;
any other is left to httpx. Both say the same (tests/test_address.py).
"""

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, NamedTuple

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
