"""Selection: which requests a capture records. Everything else passes through untouched and uncounted."""

import hashlib
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from tbench.capture.errors import InputError
from tbench.capture.providers import PROVIDERS

RECORDED: Final = tuple(
    (method, pattern)
    for provider in PROVIDERS.values()
    for method, pattern in (
        *((method, f"*{tail}") for method, tail in provider.endpoints),
        *provider.also_recorded,
    )
)
"""Method and glob of what is recorded unless `--path` says otherwise: inference, and the model list."""

API_HOSTS: Final = (
    *(host for provider in PROVIDERS.values() for host in provider.hosts),
    r"localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[?::1\]?",
)
"""The hosts that `--mode proxy` looks into unless `--host` says otherwise: APIs, and this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Filters of a capture. No `hosts` means any host, no `paths` means inference; `sample` is a share."""

    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    sample: float = 1.0
    _hosts: tuple[re.Pattern[str], ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise InputError(
                f"--sample {self.sample:g} is not a share: give a number above 0, up to 1"
            )
        hosts = []
        for host in self.hosts:
            try:
                hosts.append(re.compile(host, re.IGNORECASE))
            except re.error as error:
                raise InputError(f"--host {host!r} is not a regular expression: {error}") from None
        object.__setattr__(self, "_hosts", tuple(hosts))

    def leaves_out(self, method: str, host: str, path: str) -> str | None:
        """Which filter keeps this request out, `host` or `path`; None when none. A query is ignored."""
        if not self.wants_host(host):
            return "host"
        path = path.partition("?")[0]
        if self.paths:
            wanted = any(fnmatchcase(path, glob) for glob in self.paths)
        else:
            route = path.rstrip("/")
            wanted = any(method == verb and fnmatchcase(route, glob) for verb, glob in RECORDED)
        return None if wanted else "path"

    def wants_host(self, host: str) -> bool:
        """Whether the host filter lets `host` or `host:port` in."""
        bare = re.sub(r":\d+$", "", host)
        return not self._hosts or any(p.fullmatch(host) or p.fullmatch(bare) for p in self._hosts)

    def draws(self, key: str) -> bool:
        """Whether the sample holds `key`: always the same answer for the same session."""
        if self.sample >= 1:
            return True
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) < self.sample * 2**64

    def allow_hosts(self) -> list[str]:
        """The hosts as mitmproxy's `allow_hosts`: regular expressions over HOST:PORT."""
        return [rf"^(?:{host})(?::\d+)?$" for host in self.hosts]
