"""What a running capture tells whoever watches it: where it listens, its state, warnings."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tbench.capture.histogram import Histogram
from tbench.capture.recorder import Counts
from tbench.capture.redact import mask_lookalikes

TROUBLING_S = 0.02
"""Of the loop's lag (p99): above it, recorded arrival times are the proxy's own, not the network's."""
BASE_URLS: Final = {"OPENAI_BASE_URL": "/v1", "TOGETHER_BASE_URL": "", "ANTHROPIC_BASE_URL": ""}
"""Where SDKs look for their base URL, and what of the path they want there (Together's from version 3 on)."""
PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
BUNDLES: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the capture listens. `ca_bundle` holds the public roots and the throw-away CA."""

    address: str
    ca_bundle: Path

    def environment(self, *, proxied: bool) -> Mapping[str, str]:
        """The variables by which an application's SDKs come here: by a base URL, or as to a proxy."""
        if not proxied:
            return {name: self.address + path for name, path in BASE_URLS.items()}
        return {
            **dict.fromkeys(PROXIES, self.address),
            **dict.fromkeys(BUNDLES, str(self.ca_bundle)),
            "NODE_USE_ENV_PROXY": "1",  # without it Node's fetch asks no proxy
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The state of a capture at one moment; `lag` is how late its loop woke, over its whole time, s.

    `left_out` counts what passed through unrecorded as asked, by the option that keeps it out: `host`
    (tunnels count once), `path`, `sample`, `limit`, and what was answered with a 403, `refused`.
    `queue_bytes` are those of bodies on their way to the disk. `redirected` counts answers that sent clients
    past the capture, by the host they sent them to. `exit_code` is the command's, once it has ended. `stuck`:
    a write has not returned, so that nothing that looks at the disk may, either.
    """

    counts: Counts
    left_out: Mapping[str, int]
    redirected: Mapping[str, int]
    in_flight: int
    queue_bytes: int
    elapsed_s: float
    draining: bool
    failure: str | None
    lag: Histogram
    exit_code: int = 0
    stuck: bool = False

    @property
    def is_late(self) -> bool:
        """Whether one wake-up in a hundred, or more, came too late; False for less than a hundred."""
        return self.lag.n >= 100 and (self.lag.quantile(0.99) or 0.0) > TROUBLING_S


class Watch(Protocol):
    """Who is told what happens: the command line, or a test. Called on the event loop."""

    def listening(self, place: Listening) -> None: ...
    def tick(self, status: Status) -> None: ...
    def warn(self, line: str) -> None: ...


# What mitmproxy warns of, as single lines without credentials.


class _Warnings(logging.Handler):
    """Show mitmproxy's warnings as one masked line each, one whose words repeat once a minute."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn
        self._shown_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):
            return
        text = " ".join(record.getMessage().split())
        if error:  # the words of others may quote what was sent
            text += f" ({error if isinstance(error, OSError) else type(error).__name__})"
        kind = re.sub(r"[\d.]+", "", text)  # a burst of one trouble differs in times and addresses
        if record.created - self._shown_at.get(kind, -60.0) >= 60.0:
            self._shown_at[kind] = record.created
            self._warn(mask_lookalikes(text))


@contextmanager
def notices(warn: Callable[[str], None]) -> Iterator[None]:
    """Log records from WARNING up go to `warn`; what is below is never even formatted."""
    root = logging.getLogger()
    before, handler = root.level, _Warnings(warn)
    root.setLevel(logging.WARNING)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
