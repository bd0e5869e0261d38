"""Where a capture listens and where it forwards: checked before anything begins."""

import socket
from urllib.parse import urlsplit

from tbench.capture.errors import InputError
from tbench.capture.redact import mask_address


def parse_upstream(text: str) -> str:
    """A server's address as SCHEME://HOST[:PORT]; a path of /v1 is what applications add, and goes.

    Raises InputError for anything else, never quoting a credential.
    """
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise InputError(f"--upstream: {mask_address(text)!r} is not a URL") from None
    if url.username is not None or url.query or url.fragment:
        raise InputError(
            "--upstream takes no user, password or query: keys come from the application"
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InputError(
            f"--upstream {mask_address(text)!r}: give it as http://HOST:PORT or https://HOST"
        )
    if url.path.rstrip("/") not in ("", "/v1"):
        raise InputError(
            f"--upstream {mask_address(text)!r}: leave out the path; the application's own is passed on"
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}" + (f":{port}" if port else "")


def check_port(host: str, port: int) -> None:
    """Fail before a file is made. Mitmproxy itself only logs that it could not listen."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"cannot listen on {host}:{port}: {why}; choose another --port") from None
